/* SPDX-License-Identifier: Apache-2.0 */
/*
 * encoded.c - runs that are no records of the library but batches of Kafka's protocol: handed out as they are to who asks for that, and to
 * all others as messages, which are made of them in memory that is taken when the app comes to the run and kept until it is done with.
 */
#include "client/inflate.h"
#include "wire/kafka.h"
#include "wire/run.h"

#include "internal.h"

struct expanded {
	uint32_t size;
	_Alignas(8) uint8_t bytes[]; /* the record table, the times, the bodies */
};

void thmqi_expanded_drop(struct thmq_consumer *c, struct delivered *d)
{
	c->whole_bytes -= d->expanded->size;
	c->stalled = false;
	free(d->expanded);
	d->expanded = NULL;
	d->times = NULL;
	d->record = NULL;
}

/* What all records take as messages. 0; -THMQ_ECORRUPT */
static int plan(struct thmqi_kafka_walk walk, uint64_t *ret_bytes)
{
	struct thmqi_kafka_record r;
	uint64_t bytes = 0;
	int rc;

	while ((rc = thmqi_kafka_next(&walk, &r)) == 1)
		bytes += thmqi_record_bytes(thmqi_kafka_body_len(&r));
	*ret_bytes = bytes + (uint64_t)walk.count * (sizeof(struct thmq_record) + sizeof(int64_t));
	return rc ? -THMQ_ECORRUPT : 0;
}

/* A peer may change what it lent us: no more is written than there is room for, whatever it says now. */
static int fill(struct thmqi_kafka_walk *walk, struct thmq_record *table, int64_t *times, uint8_t *to, const uint8_t *end)
{
	struct thmqi_kafka_record r;
	uint64_t bytes;
	int rc;

	for (; (rc = thmqi_kafka_next(walk, &r)) == 1; to += bytes) {
		bytes = thmqi_record_bytes(thmqi_kafka_body_len(&r));
		if (bytes > (uint64_t)(end - to))
			return -THMQ_ECORRUPT;
		thmqi_kafka_body(&r, table++, to);
		*times++ = r.time_ns;
	}
	return rc ? -THMQ_ECORRUPT : 0;
}

/* The records of @b, which are at @records, as messages. */
static int expand(struct thmq_consumer *c, struct delivered *d, const struct thmqi_kafka_batch *b, const void *records, uint32_t len)
{
	const uint8_t *const body = d->body, *const end = d->end;
	struct thmqi_kafka_walk walk;
	struct expanded *x;
	uint64_t bytes;
	int rc;

	thmqi_kafka_walk(&walk, b, records, len, d->first_time_ns);
	rc = plan(walk, &bytes);
	if (rc)
		return rc;
	if (bytes > UINT32_MAX / 2)
		return -THMQ_ECORRUPT;
	if (c->app_held && thmqi_whole_is_too_much(c, bytes))
		return -ENOBUFS;
	x = malloc(sizeof(*x) + bytes);
	if (!x)
		return -ENOMEM;
	x->size = (uint32_t)bytes;
	d->record = (const struct thmq_record *)x->bytes;
	d->times = (const int64_t *)(x->bytes + (size_t)b->count * sizeof(struct thmq_record));
	d->body = (const uint8_t *)(d->times + b->count);
	d->end = x->bytes + bytes;
	d->expanded = x;
	c->whole_bytes += x->size;
	rc = fill(&walk, (struct thmq_record *)x->bytes, (int64_t *)(uintptr_t)d->times, (uint8_t *)(uintptr_t)d->body, d->end);
	if (rc) { /* it may be come to again */
		thmqi_expanded_drop(c, d);
		d->body = body;
		d->end = end;
	}
	return rc;
}

/* As many bytes as there may be of a packed batch: far more than any client puts into one. */
#define UNPACKED_MAX (128u << 20)

/* Nobody has looked into it before. */
static int unpack(struct thmq_consumer *c, struct delivered *d, const struct thmqi_kafka_batch *b)
{
	void *records = NULL;
	uint32_t len = 0;
	int rc;

	if (c->app_held && thmqi_whole_is_too_much(c, b->len)) /* it would be in vain */
		return -ENOBUFS;
	rc = thmqi_inflate(b->codec, b->records, b->len, UNPACKED_MAX, &records, &len);
	if (!rc)
		rc = b->count <= THMQI_KAFKA_COUNT_MAX ? expand(c, d, b, records, len) : -THMQ_ECORRUPT;
	free(records);
	return rc;
}

/* The batch's records as messages. 0; -ENOBUFS; -ENOMEM; -THMQ_ECORRUPT; -EOPNOTSUPP; -EMSGSIZE */
int thmqi_encoded_expand(struct thmq_consumer *c, struct delivered *d)
{
	struct thmqi_kafka_batch b;
	int rc = thmqi_kafka_read(d->body, (uint32_t)(d->end - d->body), &b);

	if (rc || b.count != d->count)
		return rc == -EOPNOTSUPP ? rc : -THMQ_ECORRUPT;
	return b.codec ? unpack(c, d, &b) : expand(c, d, &b, b.records, b.len);
}

/* The whole run as one message. Return: 1; 0 all of it is too early */
uint32_t thmqi_encoded_hand_out(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m)
{
	struct reading *r = d->reading;

	d->at = 1;
	if (d->last_time_ns < r->not_before_ns)
		return 0;
	*m = (struct thmq_message){.data = d->body,
				   .len = (uint32_t)(d->end - d->body),
				   .partition = r->index,
				   .offset = d->base_offset,
				   .time_ns = d->first_time_ns,
				   .span = (uint32_t)(d->to - d->base_offset),
				   .internal = {(uint64_t)(uintptr_t)d, thmqi_view_of(c, d, 0)}};
	d->held_bits[0] |= 1;
	d->held = 1;
	r->held++;
	r->resume = d->to;
	r->handed = THMQI_MAX(r->handed, d->to);
	r->not_before_ns = INT64_MIN;
	c->app_held++;
	return 1;
}

int thmqi_client_message_encoding(const struct thmq_consumer *c, const struct thmq_message *m)
{
	const struct delivered *d = (const struct delivered *)(uintptr_t)m->internal[0];

	if (!thmqi_view_is_held(c, m))
		return -EINVAL;
	return c->opts.flags & THMQ_CONSUMER_ENCODED && d->encoding == THMQ_RUN_KAFKA ? THMQ_ENCODING_KAFKA : THMQ_ENCODING_NONE;
}
