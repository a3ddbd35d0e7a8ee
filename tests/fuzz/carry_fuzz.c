/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream of bytes from another node. Byte 0: bit 0: checks are made right; bit 1: it begins with a greeting; byte 1: how long the pieces are. The rest is the
 * stream: nothing but it is read, nothing beyond a batch's length is written, and the pieces make no difference.
 */
#include "carry_stream.h"
#include "fuzz.h"

#define BATCH_MAX (4u << 20)

struct outcome {
	uint32_t messages, batches, crc;
	int end;
};

/* Each batch has memory of just its length; every third is thrown away. */
static struct outcome read_all(const uint8_t *data, size_t size, size_t piece)
{
	struct carry_stream s = {.left = 0};
	struct outcome o = {0};
	uint8_t *batch = NULL, *copy;
	const uint8_t *at;
	uint32_t len = 0;
	size_t pos, n;

	for (pos = 0; pos < size && o.end >= 0; pos += n) {
		n = piece < size - pos ? piece : size - pos;
		copy = malloc(n);
		FUZZ_CHECK(copy);
		memcpy(copy, data + pos, n);
		at = copy;
		while (at < copy + n && o.end >= 0) {
			o.end = thmqi_carry_stream_take(&s, &at, copy + n);
			FUZZ_CHECK(at <= copy + n);
			if (o.end == CARRY_MESSAGE) {
				o.messages++;
				o.crc = thmqi_crc32c(o.crc, &s.message, sizeof(s.message));
				len = s.left;
				FUZZ_CHECK(len <= BATCH_MAX && len == s.message.batch_bytes);
				free(batch);
				batch = len && o.messages % 3 ? calloc(1, len) : NULL;
				s.to = batch;
			} else if (o.end == CARRY_BATCH) {
				FUZZ_CHECK(s.left == 0);
				if (batch)
					o.crc = thmqi_crc32c(o.crc, batch, len);
				o.batches++;
			}
		}
		free(copy);
	}
	free(batch);
	o.end = o.end < 0 ? o.end : 0;
	return o;
}

/* Messages where a reader would see them, made right. */
static void seal_all(uint8_t *data, size_t size)
{
	struct thmqi_message m;
	size_t at = 0;

	while (size - at >= sizeof(m)) {
		memcpy(&m, data + at, sizeof(m));
		m.magic = THMQI_MESSAGE_MAGIC;
		m.version = THMQI_MESSAGE_VERSION;
		m.crc = thmqi_crc32c(0, &m, offsetof(struct thmqi_message, crc));
		memcpy(data + at, &m, sizeof(m));
		if (m.batch_bytes > size - at - sizeof(m))
			return;
		at += sizeof(m) + m.batch_bytes;
	}
}

static void greet(uint8_t *data, size_t size, bool seal)
{
	struct carry_hello h;
	uint32_t kind;

	if (size < sizeof(h))
		return;
	memcpy(&h, data, sizeof(h));
	if (seal)
		thmqi_carry_hello_seal(&h);
	FUZZ_CHECK(!seal || thmqi_carry_hello_begins(&h, sizeof(h)));
	for (kind = CARRY_CALLS; kind <= CARRY_ANSWERS; kind++)
		if (thmqi_carry_hello_check(&h, kind) == 0)
			FUZZ_CHECK(h.from && h.from != h.to && h.status <= 0 && h.kind == kind &&
				   memchr(h.cluster, 0, sizeof(h.cluster)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct outcome whole, pieces;
	uint8_t *copy;

	if (size < 3 || size > 1u << 18)
		return 0;
	copy = malloc(size - 2);
	FUZZ_CHECK(copy);
	memcpy(copy, data + 2, size - 2);
	if (data[0] & 2)
		greet(copy, size - 2, data[0] & 1);
	else if (data[0] & 1)
		seal_all(copy, size - 2);
	whole = read_all(copy, size - 2, size);
	pieces = read_all(copy, size - 2, (size_t)data[1] + 1);
	FUZZ_CHECK(whole.messages == pieces.messages && whole.batches == pieces.batches &&
		   whole.crc == pieces.crc && whole.end == pieces.end);
	free(copy);
	return 0;
}
