/* SPDX-License-Identifier: Apache-2.0 */
/* The library's version. */
#include "base/base.h"

#define STRING_(x) #x
#define STRING(x) STRING_(x)

const char *thmq_version(void)
{
	return STRING(THMQ_VERSION_MAJOR) "." STRING(THMQ_VERSION_MINOR) "." STRING(
		THMQ_VERSION_PATCH);
}

uint32_t thmq_version_number(void)
{
	return THMQ_VERSION_MAJOR * 1000000u + THMQ_VERSION_MINOR * 1000u + THMQ_VERSION_PATCH;
}
