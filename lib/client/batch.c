/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch.c - messages that are sent together: their keys, tags and attributes as in any run, their payloads side by side in one block behind
 * these, which is compressed where that pays. All of it is made where the broker takes it from, in the session's memory, by the thread that
 * sends; for the broker it is a run that comes as a whole. Nothing here allocates, locks, reads the clock or enters the kernel.
 */
#include "client/pack.h"
#include "place.h"
#include "wire/attributes.h"
#include "wire/packed.h"
#include "wire/run.h"

#define GAIN_PART 8u   /* smaller by less than this part of it is not worth unpacking it */
#define PAUSES_MAX 6u  /* 2^n batches go as they are, at most, before another is tried */

_Static_assert(sizeof(struct thmq_batch_message) == 64 && offsetof(struct thmq_batch_message, reserved2) == 56, "public layout");
_Static_assert(THMQ_BATCH_MAX == THMQI_PACKED_COUNT_MAX && THMQ_BATCH_MAX <= HELD_BITS, "a consumer tells them apart");

/* What a batch takes, but for padding between the parts. */
struct plan {
	uint64_t head; /* bytes of table and bodies */
	uint64_t raw;  /* of the payloads */
	uint32_t lane; /* by the keys; UINT32_MAX: there is none */
};

/* What a message has, as the options of one that is sent alone. */
static struct thmq_message_opts attributes_of(const struct thmq_batch_message *m)
{
	return (struct thmq_message_opts){.headers = m->headers, .header_count = m->header_count, .ttl_ns = m->ttl_ns};
}

static uint32_t tag_len_of(const struct thmq_batch_message *m)
{
	return m->tag ? (uint32_t)strnlen(m->tag, THMQ_TAG_MAX + 1) : 0;
}

static int plan_message(const struct thmq_producer *p, const struct thmq_batch_message *m, struct plan *plan)
{
	const struct thmq_message_opts o = attributes_of(m);
	uint32_t has, has_len, lane;
	int rc;

	if ((!m->data && m->len) || !m->key != !m->key_len || m->key_len > THMQ_KEY_MAX || tag_len_of(m) > THMQ_TAG_MAX || m->reserved || m->reserved2)
		return -EINVAL;
	rc = thmqi_attributes_plan(&o, &has, &has_len);
	if (rc)
		return rc;
	plan->head += sizeof(struct thmq_record) + thmqi_record_bytes(m->key_len + tag_len_of(m) + has_len + (uint32_t)sizeof(struct thmqi_in_block));
	plan->raw += m->len;
	if (!m->key)
		return 0;
	lane = (uint32_t)(thmqi_hash64(m->key, m->key_len) % p->lanes);
	if (plan->lane == UINT32_MAX)
		plan->lane = lane;
	/* where the partition is not given: checked by who knows that */
	return plan->lane == lane ? 0 : 1;
}

/* 0; -EINVAL; -E2BIG */
static int make_plan(const struct thmq_producer *p, const struct thmq_batch_message *messages, uint32_t count, bool placed, struct plan *ret)
{
	uint32_t i;
	int rc;

	*ret = (struct plan){.lane = UINT32_MAX};
	if (!count || count > THMQ_BATCH_MAX)
		return -EINVAL;
	for (i = 0; i < count; i++) {
		rc = plan_message(p, &messages[i], ret);
		if (rc < 0 || (rc && !placed))
			return rc < 0 ? rc : -EINVAL;
	}
	return 0;
}

/* Table and bodies from @to on, payloads from @payload on. */
static void write_messages(const struct thmq_batch_message *messages, uint32_t count, uint8_t *to, uint8_t *payload)
{
	struct thmq_record *record = (struct thmq_record *)(void *)to;
	uint8_t *body = to + thmqi_run_table_bytes(count, false);
	struct thmqi_in_block in = {0};
	uint32_t i, has, has_len, size;

	for (i = 0; i < count; i++, record++) {
		const struct thmq_batch_message *m = &messages[i];
		const struct thmq_message_opts o = attributes_of(m);

		thmqi_attributes_plan(&o, &has, &has_len);
		*record = (struct thmq_record){.key_len = (uint16_t)m->key_len,
					       .tag_len = (uint8_t)tag_len_of(m),
					       .flags = (uint8_t)(has | THMQ_RECORD_IN_BLOCK)};
		size = record->key_len + record->tag_len + has_len + (uint32_t)sizeof(in);
		record->size = size;
		memset(body + thmqi_record_bytes(size) - 8, 0, 8);
		if (record->key_len)
			memcpy(body, m->key, record->key_len);
		if (record->tag_len)
			memcpy(body + record->key_len, m->tag, record->tag_len);
		thmqi_attributes_write(&o, body + record->key_len + record->tag_len);
		in.len = m->len;
		memcpy(body + size - sizeof(in), &in, sizeof(in));
		body += thmqi_record_bytes(size);
		if (m->len)
			memcpy(payload + in.at, m->data, m->len);
		in.at += m->len;
	}
}

/* Is it tried at all? What did not become smaller several times in a row is tried ever less often. */
static bool packs(struct thmq_producer *p, uint64_t raw)
{
	if (!p->pack || raw < p->pack_min)
		return false;
	if (!p->pack_pause)
		return true;
	p->pack_pause--;
	return false;
}

static void note_try(struct thmq_producer *p, bool smaller)
{
	p->pack_pauses = smaller ? 0 : THMQI_MIN(p->pack_pauses + 1, PAUSES_MAX);
	p->pack_pause = smaller ? 0 : (1u << p->pack_pauses) - 1;
}

/* The payloads, which are at @from, to @to, where the block begins. */
static void make_block(struct thmq_producer *p, const uint8_t *from, uint8_t *to, struct thmqi_block *block)
{
	uint32_t n;

	if (from == to)
		return;
	n = thmqi_pack(p->pack, from, block->raw_len, to, block->raw_len - block->raw_len / GAIN_PART);
	note_try(p, n != 0);
	if (n) {
		block->len = n;
		block->codec = (uint8_t)p->compression;
	} else {
		memmove(to, from, block->raw_len);
	}
}

/* As much as goes together: one batch of the broker's, whatever a message may have that is stored in parts. */
static uint64_t len_max_of(const struct thmq_producer *p, bool in_txn)
{
	const struct client_link *l = p->session->links[p->partitions[0].shard];
	const uint64_t most = l ? THMQI_MIN(l->len_max_volatile, thmqi_client_producer_len_max(p)) : 0;

	return most - THMQI_MIN(most, in_txn ? sizeof(uint64_t) : 0); /* its number comes first */
}

int64_t thmqi_client_send_batch(struct thmq_producer *p, const struct thmq_batch_message *messages, uint32_t count,
				const struct thmq_message_opts *opts)
{
	struct thmq_message_opts o = opts ? *opts : (struct thmq_message_opts){.size = sizeof(o)};
	const bool placed = o.flags & THMQ_MESSAGE_PARTITION;
	struct thmqi_block block = {.count = count};
	struct thmq_claim claim;
	struct plan plan;
	uint64_t len, staged;
	uint8_t *to, *from;
	int64_t seq;
	int rc = make_plan(p, messages, count, placed, &plan);

	if (rc || o.encoding)
		return rc ? rc : -EINVAL;
	if (plan.raw > THMQI_PACKED_RAW_MAX)
		return -EMSGSIZE;
	staged = THMQI_ALIGN_UP(plan.raw, 8u);
	len = plan.head + staged + sizeof(block);
	if (len > UINT32_MAX / 2)
		return -EMSGSIZE;
	if (len + staged > len_max_of(p, o.txn) || !packs(p, plan.raw))
		staged = 0;
	o.encoding = THMQ_ENCODING_PACKED;
	if (!placed && plan.lane != UINT32_MAX) {
		o.flags |= THMQ_MESSAGE_PARTITION;
		o.partition = plan.lane;
	}
	rc = thmqi_client_claim(p, &o, (uint32_t)(len + staged), &claim);
	if (rc)
		return rc;
	block.len = block.raw_len = (uint32_t)plan.raw;
	to = (uint8_t *)claim.data + plan.head;
	from = staged ? (uint8_t *)claim.data + len : to;
	write_messages(messages, count, claim.data, from);
	make_block(p, from, to, &block);
	memset(to + block.len, 0, THMQI_ALIGN_UP(block.len, 8u) - block.len);
	memcpy(to + THMQI_ALIGN_UP(block.len, 8u), &block, sizeof(block));
	thmqi_claim_trim(p, &claim, (uint32_t)plan.head + thmqi_block_bytes(&block));
	seq = thmqi_client_commit(p, &claim);
	if (seq < 0)
		thmqi_client_abort(p, &claim); /* if it is not spent */
	return seq;
}
