/* SPDX-License-Identifier: Apache-2.0 */
/* opts.c - option structs of another size than ours, from older or newer callers. */
#include "base/base.h"

#define SIZE_MIN 8u
#define SIZE_MAX_OF_ANY 65536u /* more is no struct of ours, whatever the version */

/* The size is the caller's: its struct may be shorter than ours, or longer. */
void thmqi_opts_init(void *opts, uint32_t size)
{
	if (!opts || size < SIZE_MIN || size > SIZE_MAX_OF_ANY)
		return;
	memset(opts, 0, size);
	memcpy(opts, &size, sizeof(size));
}

int thmqi_opts_copy(void *dst, uint32_t dst_size, const void *src)
{
	const uint8_t *bytes = src;
	uint32_t size = 0, i;

	if (src) {
		memcpy(&size, src, sizeof(size));
		if (size < SIZE_MIN)
			return -EINVAL;
		if (size > SIZE_MAX_OF_ANY)
			return -E2BIG;
		for (i = dst_size; i < size; i++)
			if (bytes[i])
				return -E2BIG;
	}
	memset(dst, 0, dst_size);
	if (src)
		memcpy(dst, src, THMQI_MIN(size, dst_size));
	memcpy(dst, &dst_size, sizeof(dst_size));
	return 0;
}

const char *thmqi_opts_why(int rc)
{
	return rc == -E2BIG ? "something is set that this library does not know (was the program compiled for a newer one?), or the size field is no size"
			    : "set the size field, as the macro and the init call of each struct do";
}
