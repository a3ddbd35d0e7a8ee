/* SPDX-License-Identifier: Apache-2.0 */
/* opts.c - option structs of another size than ours, from older or newer callers. */
#include "base/base.h"

int thmqi_opts_copy(void *dst, uint32_t dst_size, const void *src)
{
	const uint8_t *bytes = src;
	uint32_t size = 0, i;

	if (src) {
		memcpy(&size, src, sizeof(size));
		if (size < 8)
			return -EINVAL;
		if (size > 65536)
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
