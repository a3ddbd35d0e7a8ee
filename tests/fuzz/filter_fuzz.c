/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filter's text, and a message that it is asked of, both as a peer could send them. The input: two bytes, how long the text is; the
 * text; one byte, how long the key is; the key; the rest are headers. A text that is taken is asked twice, and says the same.
 */
#include <errno.h>

#include "filter/filter.h"
#include "fuzz.h"

/* In memory of its own, so that a byte too far is seen. */
static void *copy_of(const uint8_t *from, size_t len)
{
	void *copy = malloc(len ? len : 1);

	if (!copy)
		abort();
	memcpy(copy, from, len);
	return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {.at = data, .left = size};
	uint32_t len = (uint32_t)fuzz_take(&in, 2) % (THMQ_FILTER_MAX + 2), key_len;
	struct thmqi_filter_error error;
	struct thmqi_filter_message m = {0};
	struct thmqi_filter *f = NULL;
	char *text;
	int rc;

	len = len < in.left ? len : (uint32_t)in.left;
	text = copy_of(in.at, len);
	in.at += len;
	in.left -= len;
	key_len = (uint32_t)fuzz_take(&in, 1);
	key_len = key_len < in.left ? key_len : (uint32_t)in.left;
	m.key = copy_of(in.at, key_len);
	m.tag = m.key;
	m.key_len = key_len;
	m.tag_len = key_len / 2;
	m.headers = copy_of(in.at + key_len, in.left - key_len);
	m.headers_len = (uint32_t)(in.left - key_len);
	m.time_ns = (int64_t)size;
	rc = thmqi_filter_make(text, len, &f, &error);
	free(text);
	FUZZ_CHECK(rc == 0 || rc == -EINVAL || rc == -ENOMEM);
	FUZZ_CHECK(rc == 0 || (error.at <= len && error.what[0]));
	if (rc == 0) {
		FUZZ_CHECK(thmqi_filter_match(f, &m) == thmqi_filter_match(f, &m));
		thmqi_filter_tags(f);
		thmqi_filter_free(f);
	}
	free((void *)(uintptr_t)m.key);
	free((void *)(uintptr_t)m.headers);
	return 0;
}
