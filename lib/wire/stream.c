/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c - greetings and frames as a stream of bytes: see stream.h. Knows nothing of who sends them or what becomes of
 * them. Every length is checked before anything is done with it.
 */
#include "wire/stream.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are sent as they lie in memory");

/* ---------------------------------------------------------------- greeting */

void thmqi_hello_seal(struct thmqi_hello *h, uint32_t kind)
{
	h->magic = THMQI_HELLO_MAGIC;
	h->kind = (uint16_t)kind;
	h->bytes = THMQI_HELLO_BYTES;
	h->version_min = h->version_max = THMQI_STREAM_VERSION;
	h->crc = thmqi_crc32c(0, h, offsetof(struct thmqi_hello, crc));
}

bool thmqi_hello_begins(const void *bytes, uint32_t len)
{
	const uint32_t magic = THMQI_HELLO_MAGIC;

	return memcmp(bytes, &magic, THMQI_MIN(len, (uint32_t)sizeof(magic))) == 0;
}

static int check_size(uint32_t value, uint32_t min, uint32_t max)
{
	if (!thmqi_is_pow2(value) || value < min)
		return -EINVAL;
	return value > max ? -E2BIG : 0;
}

static int check_sizes(const struct thmqi_hello *h)
{
	int rc = check_size(h->area_bytes, THMQI_BLOCK, THMQI_STREAM_AREA_MAX);

	if (!rc)
		rc = check_size(h->up_frames, 8, THMQI_STREAM_UP_MAX);
	if (!rc)
		rc = check_size(h->ctl_frames, 8, THMQI_STREAM_CTL_MAX);
	if (!rc)
		rc = check_size(h->down_frames, 8, THMQI_STREAM_DOWN_MAX);
	return rc;
}

int thmqi_hello_check(const struct thmqi_hello *h, uint32_t kind)
{
	if (h->magic != THMQI_HELLO_MAGIC || h->kind != kind || h->bytes != THMQI_HELLO_BYTES ||
	    h->crc != thmqi_crc32c(0, h, offsetof(struct thmqi_hello, crc)))
		return -EPROTO;
	if (h->status > 0 || (kind == THMQI_HELLO_CLIENT && h->status))
		return -EPROTO;
	if (h->status)
		return 0; /* a refusal: the rest says nothing */
	if (h->version_min > h->version_max)
		return -EPROTO;
	if (h->version_min > THMQI_STREAM_VERSION || h->version_max < THMQI_STREAM_VERSION)
		return -THMQ_EVERSION;
	return check_sizes(h);
}

/* ------------------------------------------------------------------ frames */

#define TURN_BYTES ((uint32_t)offsetof(struct thmqi_frame, type))
_Static_assert(TURN_BYTES == sizeof(uint32_t),
	       "turn is the first word, and the check in its place");

static uint32_t check_of(const void *frame, uint32_t number)
{
	const char *rest = (const char *)frame + TURN_BYTES;

	return thmqi_crc32c(thmqi_crc32c(0, &number, sizeof(number)), rest,
			    sizeof(struct thmqi_frame) - TURN_BYTES);
}

void thmqi_stream_seal(void *to, const struct thmqi_frame *from, uint32_t number)
{
	uint32_t check;

	if (to != from)
		memcpy((char *)to + TURN_BYTES, (const char *)from + TURN_BYTES,
		       sizeof(*from) - TURN_BYTES);
	check = check_of(to, number);
	memcpy(to, &check, sizeof(check));
}

static int64_t body_up(const struct thmqi_frame *f)
{
	switch (f->type) {
	case THMQI_FRAME_PRODUCE:
		return f->len <= THMQI_STREAM_AREA_MAX ? (int64_t)f->len : -EPROTO;
	case THMQI_FRAME_REQUEST:
		return f->len >= THMQI_REQUEST_LEAST && f->len <= sizeof(struct thmqi_request)
			       ? (int64_t)f->len
			       : -EPROTO;
	default: /* a newer client's too: the broker knows what it does not answer */
		return f->type && f->type < THMQI_FRAME_WELCOME ? 0 : -EPROTO;
	}
}

static int64_t body_down(const struct thmqi_frame *f)
{
	switch (f->type) {
	case THMQI_FRAME_DELIVER:
	case THMQI_FRAME_DELIVER_ONE:
		return f->len && f->len <= THMQI_STREAM_RUN_MAX ? (int64_t)f->len : -EPROTO;
	case THMQI_FRAME_REPLY:
		return f->len <= sizeof(struct thmqi_reply) ? (int64_t)f->len : -EPROTO;
	default:
		return f->type >= THMQI_FRAME_WELCOME && f->type < THMQI_STREAM_STATE ? 0 : -EPROTO;
	}
}

int64_t thmqi_stream_body(const struct thmqi_frame *f, bool up)
{
	if (f->type == THMQI_STREAM_STATE || f->type == THMQI_STREAM_BYE)
		return 0;
	return up ? body_up(f) : body_down(f);
}

void thmqi_stream_init(struct thmqi_stream *s, bool up)
{
	memset(s, 0, sizeof(*s));
	s->up = up;
}

bool thmqi_stream_placed(struct thmqi_stream *s, uint32_t bytes)
{
	s->to += bytes;
	s->left -= bytes;
	return s->left == 0;
}

static int frame_done(struct thmqi_stream *s)
{
	uint32_t check;
	int64_t body;

	s->have = 0;
	memcpy(&check, &s->frame, sizeof(check));
	if (check != check_of(&s->frame, s->number))
		return -EPROTO;
	s->number++;
	memset(&s->frame, 0, sizeof(check));
	body = s->reaches && s->frame.type == (s->up ? THMQI_STREAM_GRANT : THMQI_STREAM_OFFER)
		       ? 0
		       : thmqi_stream_body(&s->frame, s->up);
	if (body < 0)
		return -EPROTO;
	s->left = (uint32_t)body;
	s->to = NULL;
	return THMQI_STREAM_FRAME;
}

int thmqi_stream_take(struct thmqi_stream *s, const uint8_t **at, const uint8_t *end)
{
	uint32_t n = (uint32_t)(end - *at);

	if (s->left) {
		n = THMQI_MIN(n, s->left);
		memcpy(s->to, *at, n);
		*at += n;
		return thmqi_stream_placed(s, n) ? THMQI_STREAM_BODY : THMQI_STREAM_MORE;
	}
	n = THMQI_MIN(n, (uint32_t)sizeof(s->frame) - s->have);
	memcpy((char *)&s->frame + s->have, *at, n);
	*at += n;
	s->have += n;
	return s->have == sizeof(s->frame) ? frame_done(s) : THMQI_STREAM_MORE;
}
