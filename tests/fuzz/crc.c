/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc.c - the checksum that ISA-L computes in assembly, which no sanitizer sees: its bytes are asked for first. Linked in place
 * of the real one by --wrap.
 */
#include "fuzz.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define WATCHED 1
#endif

unsigned int __real_crc32_iscsi(unsigned char *data, int len, unsigned int crc);
unsigned int __wrap_crc32_iscsi(unsigned char *data, int len, unsigned int crc);

#ifdef WATCHED
void *__asan_region_is_poisoned(void *begin, size_t len);

static void check(const void *data, size_t len)
{
	FUZZ_CHECK(!len || !__asan_region_is_poisoned((void *)(uintptr_t)data, len),
		   "bytes that are nobody's: %p, %zu", data, len);
}
#else
static void check(const void *data, size_t len)
{
	(void)data;
	(void)len;
}
#endif

unsigned int __wrap_crc32_iscsi(unsigned char *data, int len, unsigned int crc)
{
	check(data, len > 0 ? (size_t)len : 0);
	return __real_crc32_iscsi(data, len, crc);
}

void fuzz_touch(const void *data, size_t len)
{
	check(data, len);
	__real_crc32_iscsi((unsigned char *)(uintptr_t)data, (int)len,
			   0); /* reads them: valgrind sees it, and the kernel */
}
