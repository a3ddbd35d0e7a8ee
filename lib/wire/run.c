/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - runs and records as bytes: checked, walked, made. Pure functions; doc/format.md is their specification. */
#include "wire/run.h"

#include "wire/kafka.h"
#include "wire/packed.h"

_Static_assert(sizeof(struct thmq_run_header) == 96, "as in doc/format.md");
_Static_assert(offsetof(struct thmq_run_header, header_crc) == 92, "as in doc/format.md");
_Static_assert(sizeof(struct thmq_record) == 16, "as in doc/format.md");
_Static_assert(sizeof(struct thmq_log_producer) == 24, "as in doc/format.md");
_Static_assert(offsetof(struct thmqi_producer_run, producer) == sizeof(struct thmq_run_header), "its payload");

#define TIME_UNIT_NS 1000 /* of thmq_record.time_delta_us */

/* ------------------------------------------------------------- whole runs */

void thmqi_run_seal(struct thmq_run_header *run)
{
	run->magic = THMQ_RUN_MAGIC;
	run->payload_crc = thmqi_crc32c(0, run + 1, run->len);
	run->header_crc = thmqi_crc32c(0, run, offsetof(struct thmq_run_header, header_crc));
}

bool thmqi_run_header_ok(const struct thmq_run_header *run, uint32_t room)
{
	return room >= sizeof(*run) && run->magic == THMQ_RUN_MAGIC &&
	       run->len <= room - sizeof(*run) &&
	       THMQI_ALIGN_UP((uint64_t)run->len, 8u) <= room - sizeof(*run) &&
	       run->header_crc ==
		       thmqi_crc32c(0, run, offsetof(struct thmq_run_header, header_crc));
}

bool thmqi_run_payload_ok(const struct thmq_run_header *run)
{
	return run->payload_crc == thmqi_crc32c(0, run + 1, run->len);
}

/* ---------------------------------------------------------------- producers */

uint64_t thmqi_producer_item(uint64_t producer_id, uint32_t partition)
{
	uint8_t key[12];

	memcpy(key, &producer_id, 8);
	memcpy(key + 8, &partition, 4);
	return thmqi_hash64(key, sizeof(key));
}

void thmqi_run_producer(const struct thmq_run_header *run, struct thmqi_producer_run *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->producer = (struct thmq_log_producer){.producer_id = run->producer_id,
						   .last_sequence = run->first_sequence + run->sequence_span,
						   .producer_epoch = run->producer_epoch,
						   .partition = run->partition};
	ret->header.len = sizeof(ret->producer);
	ret->header.base_offset = thmqi_producer_item(run->producer_id, run->partition);
	ret->header.partition = THMQ_LOG_PRODUCER;
	ret->header.encoding = THMQ_RUN_STATE;
	ret->header.first_time_ns = ret->header.last_time_ns = run->last_time_ns;
}

/* ----------------------------------------------------------------- records */

/* Of a run that is a batch of Kafka's protocol: the same walk, with body as its place, and no table. */
static __attribute__((noinline)) int begin_batch(struct thmqi_record_iter *it, const struct thmq_run_header *run)
{
	struct thmqi_kafka_batch b;

	if (thmqi_kafka_read(run + 1, run->len, &b) || b.count != run->count || run->span != run->count)
		return -THMQ_ECORRUPT;
	if (b.codec)
		return -EINVAL;
	it->run = run;
	it->record = NULL;
	it->delta = NULL;
	it->body = b.records;
	it->end = b.records + b.len;
	it->index = 0;
	return 0;
}

static __attribute__((noinline)) int next_of_batch(struct thmqi_record_iter *it, struct thmq_record_view *ret_view)
{
	const struct thmq_run_header *run = it->run;
	struct thmqi_kafka_batch b;
	struct thmqi_kafka_record r;
	struct thmqi_kafka_walk w;
	int rc = thmqi_kafka_read(run + 1, run->len, &b);

	if (rc)
		return -THMQ_ECORRUPT;
	thmqi_kafka_walk(&w, &b, it->body, (uint32_t)(it->end - it->body), run->first_time_ns);
	w.index = it->index;
	rc = thmqi_kafka_next(&w, &r);
	if (rc != 1)
		return rc ? -THMQ_ECORRUPT : 0;
	*ret_view = (struct thmq_record_view){.offset = run->base_offset + it->index,
					      .time_ns = r.time_ns,
					      .key = r.key,
					      .tag = r.tag,
					      .data = r.value,
					      .key_len = r.key_len,
					      .tag_len = r.tag_len,
					      .len = r.value_len,
					      .tag_hash = r.tag_len ? thmqi_tag_hash(r.tag, r.tag_len) : 0};
	it->body = w.at;
	it->index = w.index;
	return 1;
}

int thmqi_record_begin(struct thmqi_record_iter *it, const struct thmq_run_header *run)
{
	bool sparse = run->flags & THMQ_RUN_SPARSE;
	const uint8_t *payload = (const uint8_t *)(run + 1);
	uint64_t table = thmqi_run_table_bytes(run->count, sparse);
	struct thmqi_block block;
	uint32_t len = run->len;

	if (thmqi_unlikely(run->encoding == THMQ_RUN_KAFKA))
		return begin_batch(it, run);
	if (thmqi_unlikely(run->encoding != THMQ_RUN_RECORDS)) {
		if (run->encoding != THMQ_RUN_PACKED)
			return -EINVAL;
		if (thmqi_block_read(payload, run->len, &block, &len))
			return -THMQ_ECORRUPT;
	}
	if (table > len)
		return -THMQ_ECORRUPT;
	it->run = run;
	it->record = (const struct thmq_record *)payload;
	it->delta = sparse ? (const uint32_t *)(it->record + run->count) : NULL;
	it->body = payload + table;
	it->end = payload + len;
	it->index = 0;
	return 0;
}

int thmqi_record_next(struct thmqi_record_iter *it, struct thmq_record_view *ret_view)
{
	const struct thmq_record *r = it->record;
	const struct thmq_run_header *run = it->run;
	uint64_t bytes, left;

	if (thmqi_unlikely(!r))
		return next_of_batch(it, ret_view);
	if (it->index == run->count)
		return 0;
	left = (uint64_t)(it->end - it->body);
	if (r->size > left || (uint32_t)r->key_len + r->tag_len > r->size)
		return -THMQ_ECORRUPT;
	ret_view->offset = run->base_offset + (it->delta ? it->delta[it->index] : it->index);
	ret_view->time_ns =
		(int64_t)((uint64_t)run->first_time_ns + (uint64_t)r->time_delta_us * TIME_UNIT_NS);
	ret_view->key = it->body;
	ret_view->key_len = r->key_len;
	ret_view->tag = it->body + r->key_len;
	ret_view->tag_len = r->tag_len;
	ret_view->data = it->body + r->key_len + r->tag_len;
	ret_view->len = r->size - r->key_len - r->tag_len;
	ret_view->tag_hash = r->tag_hash;
	ret_view->flags = r->flags;
	ret_view->reserved = 0;
	/* the last body's padding may be left out of the run's length */
	bytes = thmqi_record_bytes(r->size);
	it->body += THMQI_MIN(bytes, left);
	it->record++;
	it->index++;
	return 1;
}

/* FNV-1a over the tag (Fowler, Noll, Vo); 0 means no tag. */
uint32_t thmqi_tag_hash(const void *tag, uint32_t len)
{
	const uint8_t *byte = tag;
	uint32_t h = 2166136261u;

	while (len--)
		h = (h ^ *byte++) * 16777619u;
	return h ? h : 1;
}

bool thmqi_run_records_ok(const struct thmq_run_header *run)
{
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	uint64_t next = run->base_offset;
	int rc = thmqi_record_begin(&it, run);

	if (rc || run->count > run->span)
		return false;
	while ((rc = thmqi_record_next(&it, &v)) == 1) {
		if (v.offset < next || v.offset - run->base_offset >= run->span)
			return false;
		next = v.offset + 1;
	}
	return rc == 0;
}

/* ------------------------------------------------------------------ encode */

int thmqi_run_writer_begin(struct thmqi_run_writer *w, struct thmq_run_header *run, uint32_t len,
			   uint32_t count, bool sparse, int64_t first_time_ns)
{
	uint64_t table = thmqi_run_table_bytes(count, sparse);

	if (table > len)
		return -EINVAL;
	memset(run, 0, sizeof(*run));
	run->len = len;
	run->count = count;
	run->span = count;
	run->encoding = THMQ_RUN_RECORDS;
	run->flags = sparse ? THMQ_RUN_SPARSE : 0;
	run->first_time_ns = run->last_time_ns = first_time_ns;
	w->run = run;
	w->record = (struct thmq_record *)(run + 1);
	w->delta = sparse ? (uint32_t *)(w->record + count) : NULL;
	w->body = (uint8_t *)(run + 1) + table;
	w->end = (uint8_t *)(run + 1) + len;
	w->left = count;
	if (sparse && count % 2)
		w->delta[count] = 0; /* padding of the deltas */
	return 0;
}

int thmqi_run_writer_add(struct thmqi_run_writer *w, const struct thmq_record_view *rec)
{
	struct thmq_run_header *run = w->run;
	uint64_t size = (uint64_t)rec->key_len + rec->tag_len + rec->len,
		 padded = THMQI_ALIGN_UP(size, 8u);
	uint64_t time_delta = (uint64_t)rec->time_ns - (uint64_t)run->first_time_ns;
	uint64_t delta = rec->offset - run->base_offset;

	if (!w->left || rec->key_len > UINT16_MAX || rec->tag_len > UINT8_MAX ||
	    padded > (uint64_t)(w->end - w->body) || rec->time_ns < run->first_time_ns ||
	    time_delta / TIME_UNIT_NS > UINT32_MAX)
		return -EINVAL;
	if (w->delta && (rec->offset < run->base_offset || delta >= UINT32_MAX))
		return -EINVAL;
	*w->record++ = (struct thmq_record){.size = (uint32_t)size,
					    .tag_hash = rec->tag_hash,
					    .time_delta_us = (uint32_t)(time_delta / TIME_UNIT_NS),
					    .key_len = (uint16_t)rec->key_len,
					    .tag_len = (uint8_t)rec->tag_len,
					    .flags = (uint8_t)rec->flags};
	if (w->delta) {
		*w->delta++ = (uint32_t)delta;
		run->span = (uint32_t)THMQI_MAX(delta + 1, run->span);
	}
	if (rec->key_len)
		run->flags |= THMQ_RUN_KEYED;
	if (rec->tag_hash)
		run->tag_filter |= 1ull << (rec->tag_hash % 64);
	run->last_time_ns = THMQI_MAX(run->last_time_ns, rec->time_ns);
	if (padded != size)
		memset(w->body + padded - 8, 0, 8);
	if (rec->key_len)
		memcpy(w->body, rec->key, rec->key_len);
	if (rec->tag_len)
		memcpy(w->body + rec->key_len, rec->tag, rec->tag_len);
	if (rec->len)
		memcpy(w->body + rec->key_len + rec->tag_len, rec->data, rec->len);
	w->body += padded;
	w->left--;
	return 0;
}
