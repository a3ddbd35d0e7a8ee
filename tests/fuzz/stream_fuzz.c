/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream of bytes from a peer. Byte 0: bit 0: it comes from a client; bit 1: checks are made right; bit 2: it begins with a
 * greeting; byte 1: how long the pieces are. The rest is the stream: nothing but it is read, nothing beyond a body's length is written, and
 * the pieces make no difference.
 */
#include "fuzz.h"
#include "wire/stream.h"

struct outcome {
	uint32_t frames, bodies, crc;
	int end;
};

/* Each body has memory of just its length. */
static struct outcome read_all(const uint8_t *data, size_t size, bool up, size_t piece)
{
	struct outcome o = {0};
	struct thmqi_stream s;
	uint8_t *body = NULL;
	uint32_t len = 0;
	size_t pos, n;

	thmqi_stream_init(&s, up);
	for (pos = 0; pos < size && o.end >= 0; pos += n) {
		uint8_t *copy;
		const uint8_t *at;

		n = piece < size - pos ? piece : size - pos;
		copy = malloc(n);
		FUZZ_CHECK(copy);
		memcpy(copy, data + pos, n);
		at = copy;
		while (at < copy + n && o.end >= 0) {
			o.end = thmqi_stream_take(&s, &at, copy + n);
			FUZZ_CHECK(at <= copy + n);
			if (o.end == THMQI_STREAM_FRAME) {
				o.frames++;
				o.crc = thmqi_crc32c(o.crc, &s.frame, sizeof(s.frame));
				len = s.left;
				FUZZ_CHECK(len <= THMQI_STREAM_AREA_MAX);
				free(body);
				body = len ? malloc(len) : NULL;
				s.to = body;
			} else if (o.end == THMQI_STREAM_BODY) {
				FUZZ_CHECK(s.left == 0);
				o.crc = thmqi_crc32c(o.crc, body, len);
				o.bodies++;
			}
		}
		free(copy);
	}
	free(body);
	o.end = o.end < 0 ? o.end : 0;
	return o;
}

/* Frames where a reader would see them, sealed. */
static void seal_all(uint8_t *data, size_t size, bool up)
{
	struct thmqi_frame f;
	uint32_t number = 0;
	int64_t body;
	size_t at = 0;

	while (size - at >= sizeof(f)) {
		memcpy(&f, data + at, sizeof(f));
		thmqi_stream_seal(data + at, &f, number++);
		body = thmqi_stream_body(&f, up);
		if (body < 0 || (size_t)body > size - at - sizeof(f))
			return;
		at += sizeof(f) + (size_t)body;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct outcome whole, pieces;
	struct thmqi_hello hello;
	uint8_t *copy;
	bool up;

	if (size < 3 || size > 1u << 18)
		return 0;
	up = data[0] & 1;
	copy = malloc(size - 2);
	FUZZ_CHECK(copy);
	memcpy(copy, data + 2, size - 2);
	if (data[0] & 4 && size - 2 >= sizeof(hello)) {
		memcpy(&hello, copy, sizeof(hello));
		if (data[0] & 2)
			thmqi_hello_seal(&hello, up ? THMQI_HELLO_CLIENT : THMQI_HELLO_BROKER);
		if (thmqi_hello_check(&hello, up ? THMQI_HELLO_CLIENT : THMQI_HELLO_BROKER) == 0 &&
		    !hello.status)
			FUZZ_CHECK(hello.area_bytes <= THMQI_STREAM_AREA_MAX &&
				   hello.up_frames <= THMQI_STREAM_UP_MAX &&
				   hello.ctl_frames <= THMQI_STREAM_CTL_MAX &&
				   hello.down_frames <= THMQI_STREAM_DOWN_MAX);
	}
	if (data[0] & 2)
		seal_all(copy, size - 2, up);
	whole = read_all(copy, size - 2, up, size);
	pieces = read_all(copy, size - 2, up, (size_t)data[1] + 1);
	FUZZ_CHECK(whole.frames == pieces.frames && whole.bodies == pieces.bodies &&
		   whole.crc == pieces.crc && whole.end == pieces.end);
	free(copy);
	return 0;
}
