/* SPDX-License-Identifier: Apache-2.0 */
/* carry_stream.c - greetings and messages as bytes. Knows no sockets, no groups and no memory but what it is given. */
#include "carry_stream.h"

#include "internal.h"

void thmqi_carry_hello_seal(struct carry_hello *h)
{
	h->magic = CARRY_HELLO_MAGIC;
	h->version = CARRY_HELLO_VERSION;
	h->bytes = sizeof(*h);
	h->crc = thmqi_crc32c(0, h, offsetof(struct carry_hello, crc));
}

bool thmqi_carry_hello_begins(const void *bytes, uint32_t len)
{
	const uint32_t magic = CARRY_HELLO_MAGIC;

	return memcmp(bytes, &magic, THMQI_MIN(len, (uint32_t)sizeof(magic))) == 0;
}

int thmqi_carry_hello_check(const struct carry_hello *h, uint32_t kind)
{
	if (h->magic != CARRY_HELLO_MAGIC)
		return -EPROTO;
	if (h->version != CARRY_HELLO_VERSION)
		return -THMQ_EVERSION;
	if (h->bytes != sizeof(*h) || h->kind != kind || h->status > 0 ||
	    h->crc != thmqi_crc32c(0, h, offsetof(struct carry_hello, crc)) || !h->from ||
	    h->from == h->to || h->cluster[THMQI_CLUSTER_NAME_MAX])
		return -EPROTO;
	return 0;
}

/* How much may follow it. */
static uint32_t batch_max(const struct thmqi_message *m)
{
	if (m->type == THMQI_MESSAGE_APPEND)
		return THMQI_BATCH_BYTES_MAX;
	return m->type == THMQI_MESSAGE_SNAPSHOT ? THMQI_RETAIN_BYTES_MAX : 0;
}

static int message_done(struct carry_stream *s)
{
	const struct thmqi_message *m = &s->message;

	s->have = 0;
	s->to = NULL;
	if (thmqi_message_check(m) || m->batch_bytes > batch_max(m))
		return -EPROTO;
	s->left = m->batch_bytes;
	return CARRY_MESSAGE;
}

int thmqi_carry_stream_take(struct carry_stream *s, const uint8_t **at, const uint8_t *end)
{
	uint32_t n = (uint32_t)THMQI_MIN((size_t)(end - *at), (size_t)THMQI_BATCH_BYTES_MAX);

	if (!n)
		return CARRY_MORE;
	if (s->left) {
		n = THMQI_MIN(n, s->left);
		if (s->to)
			memcpy(s->to, *at, n);
		*at += n;
		return thmqi_carry_stream_placed(s, n) ? CARRY_BATCH : CARRY_MORE;
	}
	n = THMQI_MIN(n, (uint32_t)sizeof(s->message) - s->have);
	memcpy((uint8_t *)&s->message + s->have, *at, n);
	*at += n;
	s->have += n;
	return s->have == sizeof(s->message) ? message_done(s) : CARRY_MORE;
}

bool thmqi_carry_stream_placed(struct carry_stream *s, uint32_t bytes)
{
	s->left -= bytes;
	if (s->to)
		s->to += bytes;
	return s->left == 0;
}

void thmqi_carry_beat(struct thmqi_message *ret, uint64_t from, uint64_t to, int trouble)
{
	memset(ret, 0, sizeof(*ret));
	ret->magic = THMQI_MESSAGE_MAGIC;
	ret->version = THMQI_MESSAGE_VERSION;
	ret->type = CARRY_BEAT;
	ret->from = from;
	ret->to = to;
	ret->reserved[0] = (uint32_t)trouble;
	ret->crc = thmqi_crc32c(0, ret, offsetof(struct thmqi_message, crc));
}

int thmqi_carry_beat_trouble(const struct thmqi_message *beat)
{
	return (int32_t)beat->reserved[0];
}
