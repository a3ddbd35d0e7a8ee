/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - the bytes of batches: sealing and checking. Pure functions; doc/format.md is their specification. */
#include "internal.h"

/*
 * The runs' own header checksums stand for them. Not their whole headers: a CRC over bytes and then their own CRC is the
 * same number whatever the bytes are, and batches of the same shape would continue one another.
 */
static uint32_t add_run(uint32_t crc, const struct thmq_run_header *run)
{
	return thmqi_crc32c(crc, &run->header_crc, sizeof(run->header_crc));
}

static uint32_t runs_crc(const struct batch_header *h, uint32_t run_count)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	uint32_t crc = 0, i;

	for (i = 0; i < run_count; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;

		crc = add_run(crc, run);
		at += thmqi_run_bytes(run);
	}
	return crc;
}

/* Each run is sealed, and looked at once: where there are many short ones, going over them again costs a good part of it. */
static uint32_t seal_runs(struct batch_header *h, uint32_t run_count)
{
	struct thmq_run_header *run = (struct thmq_run_header *)(h + 1);
	uint32_t crc = 0;

	for (; run_count--; run = (struct thmq_run_header *)((uint8_t *)run + thmqi_run_bytes(run))) {
		thmqi_run_seal(run);
		crc = add_run(crc, run);
	}
	return crc;
}

static void seal(struct batch_header *h, const struct chain *c, uint64_t term, uint16_t type, uint32_t run_count,
		 uint32_t payload_len, uint32_t len, uint32_t payload_crc)
{
	memset(h, 0, sizeof(*h));
	h->magic = BATCH_MAGIC;
	h->version = FORMAT_VERSION;
	h->type = type;
	h->len = len;
	h->payload_len = payload_len;
	h->position = c->position;
	h->index = c->index + 1;
	h->term = term;
	memcpy(h->log_id, c->log_id, sizeof(h->log_id));
	h->run_count = run_count;
	h->prev_crc = c->crc;
	h->payload_crc = payload_crc;
	h->header_crc = thmqi_crc32c(0, h, offsetof(struct batch_header, header_crc));
}

void thmqi_batch_seal(struct batch_header *h, const struct chain *c, uint64_t term, uint16_t type,
		      uint32_t run_count, uint32_t payload_len, uint32_t len)
{
	seal(h, c, term, type, run_count, payload_len, len, runs_crc(h, run_count));
}

void thmqi_batch_seal_whole(struct batch_header *h, const struct chain *c, uint64_t term, uint32_t run_count,
			    uint32_t payload_len, uint32_t len)
{
	seal(h, c, term, BATCH_DATA, run_count, payload_len, len, seal_runs(h, run_count));
}

void thmqi_batch_stamp(struct batch_header *h, uint64_t incarnation, uint64_t durable_position)
{
	h->incarnation = incarnation;
	h->durable_position = durable_position;
	memset(h->reserved_local, 0, sizeof(h->reserved_local));
	h->local_crc = thmqi_crc32c(0, &h->incarnation, offsetof(struct batch_header, local_crc) -
								offsetof(struct batch_header, incarnation));
}

bool thmqi_batch_header_ok(const struct batch_header *h, uint64_t position, const uint8_t log_id[16])
{
	return h->magic == BATCH_MAGIC && h->position == position &&
	       h->header_crc == thmqi_crc32c(0, h, offsetof(struct batch_header, header_crc)) &&
	       memcmp(h->log_id, log_id, 16) == 0 && h->len >= THMQI_BLOCK && h->len % THMQI_BLOCK == 0;
}

bool thmqi_batch_local_ok(const struct batch_header *h)
{
	return h->local_crc == thmqi_crc32c(0, &h->incarnation, offsetof(struct batch_header, local_crc) -
									offsetof(struct batch_header, incarnation));
}

bool thmqi_batch_continues(const struct batch_header *h, const struct chain *c)
{
	return h->position == c->position && h->index == c->index + 1 && h->prev_crc == c->crc;
}

bool thmqi_batch_is_stale(const struct batch_header *h, const struct vote *v)
{
	return h->position >= v->mark && thmqi_batch_local_ok(h) && h->incarnation < v->incarnation;
}

bool thmqi_batch_is_later(const struct batch_header *h, const struct vote *v)
{
	return thmqi_batch_local_ok(h) && h->incarnation > v->incarnation;
}

void thmqi_chain_advance(struct chain *c, const struct batch_header *h)
{
	c->position = h->position + h->len;
	c->index = h->index;
	c->term = h->term;
	c->crc = h->header_crc;
}

bool thmqi_batch_payload_ok(const struct batch_header *h, uint32_t len)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	uint32_t left = h->payload_len, i, crc = 0;

	if (h->payload_len > len - sizeof(*h))
		return false;
	for (i = 0; i < h->run_count; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;

		if (!thmqi_run_header_ok(run, left) || !thmqi_run_payload_ok(run))
			return false;
		crc = add_run(crc, run);
		at += thmqi_run_bytes(run);
		left -= thmqi_run_bytes(run);
	}
	return left == 0 && crc == h->payload_crc;
}
