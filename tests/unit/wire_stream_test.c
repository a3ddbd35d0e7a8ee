/* SPDX-License-Identifier: Apache-2.0 */
/* Greetings and frames as a stream: what is written is read whatever the pieces, and nothing that is wrong is believed. */
#include <criterion/criterion.h>

#include "wire/stream.h"

static struct thmqi_hello good(uint32_t kind)
{
	struct thmqi_hello h = {
		.area_bytes = 1 << 20, .up_frames = 1024, .ctl_frames = 1024, .down_frames = 64};

	thmqi_hello_seal(&h, kind);
	return h;
}

Test(wire_stream, a_greeting_is_what_it_was)
{
	struct thmqi_hello h = good(THMQI_HELLO_CLIENT);

	cr_assert_eq(thmqi_hello_check(&h, THMQI_HELLO_CLIENT), 0);
	cr_assert_eq(thmqi_hello_check(&h, THMQI_HELLO_BROKER), -EPROTO);
	h = good(THMQI_HELLO_BROKER);
	cr_assert_eq(thmqi_hello_check(&h, THMQI_HELLO_BROKER), 0);
}

Test(wire_stream, no_bit_of_a_greeting_may_change)
{
	struct thmqi_hello h;
	uint32_t bit;

	for (bit = 0; bit < sizeof(h) * 8; bit++) {
		h = good(THMQI_HELLO_CLIENT);
		((uint8_t *)&h)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_eq(thmqi_hello_check(&h, THMQI_HELLO_CLIENT), -EPROTO, "bit %u", bit);
	}
}

Test(wire_stream, a_greeting_is_known_by_its_first_bytes)
{
	struct thmqi_hello h = good(THMQI_HELLO_CLIENT);

	for (uint32_t n = 0; n <= sizeof(h); n++)
		cr_assert(thmqi_hello_begins(&h, n));
	cr_assert_not(thmqi_hello_begins("G", 1));
	cr_assert_not(thmqi_hello_begins("THMX", 4));
	cr_assert_not(thmqi_hello_begins("THX", 3));
}

Test(wire_stream, a_refusal_says_nothing_but_why)
{
	struct thmqi_hello h = {.status = -EACCES};

	thmqi_hello_seal(&h, THMQI_HELLO_BROKER);
	cr_assert_eq(thmqi_hello_check(&h, THMQI_HELLO_BROKER), 0);
	thmqi_hello_seal(&h, THMQI_HELLO_CLIENT); /* a client has nobody to refuse */
	cr_assert_eq(thmqi_hello_check(&h, THMQI_HELLO_CLIENT), -EPROTO);
}

/* A stream of @count frames with bodies, written to @to. Return: its bytes. */
static uint32_t write_up(uint8_t *to, uint32_t count)
{
	struct thmqi_frame f;
	uint32_t at = 0, i, k;

	for (i = 0; i < count; i++) {
		f = (struct thmqi_frame){
			.type = THMQI_FRAME_PRODUCE, .len = i * 13 % 200, .seq = i};
		if (i % 7 == 3)
			f = (struct thmqi_frame){.type = THMQI_FRAME_ACK, .len = 99999, .seq = i};
		if (i % 11 == 5)
			f = (struct thmqi_frame){.type = THMQI_STREAM_STATE, .seq = i};
		thmqi_stream_seal(to + at, &f, i);
		at += sizeof(f);
		for (k = 0; f.type == THMQI_FRAME_PRODUCE && k < f.len; k++)
			to[at++] = (uint8_t)(i + k);
	}
	return at;
}

static uint32_t read_up(const uint8_t *from, uint32_t len, uint32_t piece)
{
	struct thmqi_stream s;
	uint8_t body[256];
	const uint8_t *at, *end;
	uint32_t frames = 0, pos, k, len_now = 0;
	int news;

	thmqi_stream_init(&s, true);
	for (pos = 0; pos < len; pos += piece) {
		at = from + pos;
		end = from + THMQI_MIN(pos + piece, len);
		while (at < end) {
			news = thmqi_stream_take(&s, &at, end);
			cr_assert_geq(news, 0);
			if (news == THMQI_STREAM_FRAME) {
				cr_assert_eq(s.frame.seq, frames);
				len_now = s.left;
				s.to = body;
				frames += !s.left;
			}
			if (news == THMQI_STREAM_BODY) {
				cr_assert_eq(len_now, s.frame.len);
				for (k = 0; k < len_now; k++)
					cr_assert_eq(body[k], (uint8_t)(frames + k));
				frames++;
			}
		}
	}
	cr_assert_eq(s.have + s.left, 0);
	return frames;
}

Test(wire_stream, frames_come_back_whatever_the_pieces)
{
	static uint8_t bytes[65536];
	uint32_t len = write_up(bytes, 200), piece;

	for (piece = 1; piece < 400; piece++)
		cr_assert_eq(read_up(bytes, len, piece), 200, "pieces of %u", piece);
	cr_assert_eq(read_up(bytes, len, len), 200);
}

Test(wire_stream, a_body_may_be_put_in_its_place_by_somebody_else)
{
	uint8_t bytes[64], body[100];
	const uint8_t *at = bytes;
	struct thmqi_frame f = {.type = THMQI_FRAME_PRODUCE, .len = 100};
	struct thmqi_stream s;

	thmqi_stream_init(&s, true);
	thmqi_stream_seal(bytes, &f, 0);
	cr_assert_eq(thmqi_stream_take(&s, &at, bytes + 64), THMQI_STREAM_FRAME);
	s.to = body;
	cr_assert_not(thmqi_stream_placed(&s, 60));
	cr_assert_eq(s.to, body + 60);
	cr_assert(thmqi_stream_placed(&s, 40));
	f.len = 0;
	thmqi_stream_seal(bytes, &f, 1);
	at = bytes;
	cr_assert_eq(thmqi_stream_take(&s, &at, bytes + 64), THMQI_STREAM_FRAME);
	cr_assert_eq(s.left, 0);
}

static int take_one(const struct thmqi_frame *f, uint32_t number, bool up)
{
	struct thmqi_stream s;
	uint8_t bytes[64];
	const uint8_t *at = bytes;

	thmqi_stream_init(&s, up);
	thmqi_stream_seal(bytes, f, number);
	return thmqi_stream_take(&s, &at, bytes + 64);
}

Test(wire_stream, a_frame_that_is_skipped_or_changed_is_noticed)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_ACK, .seq = 5};
	struct thmqi_stream s;
	uint8_t bytes[64];
	const uint8_t *at;

	cr_assert_eq(take_one(&f, 0, true), THMQI_STREAM_FRAME);
	cr_assert_eq(take_one(&f, 1, true), -EPROTO);
	for (uint32_t bit = 0; bit < 512; bit++) {
		thmqi_stream_init(&s, true);
		thmqi_stream_seal(bytes, &f, 0);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		at = bytes;
		cr_assert_eq(thmqi_stream_take(&s, &at, bytes + 64), -EPROTO);
	}
}

Test(wire_stream, each_side_says_only_what_is_its_own_and_not_too_much)
{
	uint32_t type;

	for (type = 0; type < 256; type++) {
		struct thmqi_frame f = {.type = (uint8_t)type,
					.len = type == THMQI_FRAME_REQUEST ? THMQI_REQUEST_LEAST : 100};
		bool stream = type == THMQI_STREAM_STATE || type == THMQI_STREAM_BYE;

		cr_assert_eq(thmqi_stream_body(&f, true) >= 0,
			     stream || (type > 0 && type < THMQI_FRAME_WELCOME));
		cr_assert_eq(thmqi_stream_body(&f, false) >= 0,
			     stream || (type >= THMQI_FRAME_WELCOME && type < THMQI_STREAM_STATE));
	}
	struct thmqi_frame f = {.type = THMQI_FRAME_PRODUCE, .len = THMQI_STREAM_AREA_MAX};

	cr_assert_eq(thmqi_stream_body(&f, true), THMQI_STREAM_AREA_MAX);
	f.len++;
	cr_assert_lt(thmqi_stream_body(&f, true), 0);
	f = (struct thmqi_frame){.type = THMQI_FRAME_DELIVER, .len = THMQI_STREAM_RUN_MAX + 1};
	cr_assert_lt(thmqi_stream_body(&f, false), 0);
	f.len = 0;
	cr_assert_lt(thmqi_stream_body(&f, false), 0);
	f = (struct thmqi_frame){.type = THMQI_FRAME_REPLY, .len = sizeof(struct thmqi_reply) + 1};
	cr_assert_lt(thmqi_stream_body(&f, false), 0);
	/* a request is as long as its key */
	f = (struct thmqi_frame){.type = THMQI_FRAME_REQUEST, .len = sizeof(struct thmqi_request)};
	cr_assert_eq(thmqi_stream_body(&f, true), sizeof(struct thmqi_request));
	f.len++;
	cr_assert_lt(thmqi_stream_body(&f, true), 0);
	f.len = THMQI_REQUEST_LEAST - 1;
	cr_assert_lt(thmqi_stream_body(&f, true), 0);
}
