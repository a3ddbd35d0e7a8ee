/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - the public face of runs as bytes: made for thmq_log_append(), walked where they lie. Checks, then calls down. */
#include "wire/run.h"

#define KEY_MAX UINT16_MAX /* of a record: the bits of its field */
#define TAG_MAX UINT8_MAX

_Static_assert(sizeof(struct thmqi_record_iter) <= sizeof(struct thmq_record_cursor),
	       "the walk lies in the cursor");
_Static_assert(sizeof(struct thmq_record_view) == 64 &&
		       offsetof(struct thmq_record_view, flags) == 56,
	       "public layout");

void thmq_run_init(struct thmq_run_header *run, uint32_t encoding, uint32_t partition,
		   uint64_t base_offset, uint32_t count, uint32_t len)
{
	if (!run)
		return;
	memset(run, 0, sizeof(*run));
	run->len = len;
	run->base_offset = base_offset;
	run->partition = partition;
	run->count = run->span = count;
	run->encoding = (uint16_t)encoding;
}

/* ------------------------------------------------------------------ encode */

/* What a run of some records is before it is made. */
struct plan {
	uint64_t len; /* of its payload */
	int64_t first_time_ns;
	bool sparse;
};

static int plan(const struct thmq_record_view *records, uint32_t count, struct plan *ret)
{
	struct plan p = {.first_time_ns = INT64_MAX};
	uint64_t bodies = 0, size;
	uint32_t i;

	if (!records || !count)
		return -EINVAL;
	for (i = 0; i < count; i++) {
		const struct thmq_record_view *r = &records[i];

		size = (uint64_t)r->key_len + r->tag_len + r->len;
		if (r->key_len > KEY_MAX || r->tag_len > TAG_MAX || size > UINT32_MAX ||
		    (i && r->offset <= records[i - 1].offset) ||
		    r->offset - records[0].offset >= UINT32_MAX)
			return -EINVAL;
		p.sparse |= r->offset - records[0].offset != i;
		p.first_time_ns = THMQI_MIN(p.first_time_ns, r->time_ns);
		bodies += thmqi_record_bytes((uint32_t)size);
	}
	for (i = 0; i < count; i++) /* steps of a microsecond in 32 bits */
		if (((uint64_t)records[i].time_ns - (uint64_t)p.first_time_ns) / 1000 > UINT32_MAX)
			return -EINVAL;
	p.len = thmqi_run_table_bytes(count, p.sparse) + bodies;
	if (p.len > UINT32_MAX - sizeof(struct thmq_run_header))
		return -EINVAL;
	*ret = p;
	return 0;
}

uint32_t thmq_run_len(const struct thmq_record_view *records, uint32_t count)
{
	struct plan p;

	return plan(records, count, &p) == 0 ? (uint32_t)(sizeof(struct thmq_run_header) + p.len)
					     : 0;
}

int thmq_run_encode(struct thmq_run_header *run, uint32_t run_len, uint32_t partition,
		    const struct thmq_record_view *records, uint32_t count)
{
	struct thmqi_run_writer w;
	struct plan p;
	uint32_t i;
	int rc = plan(records, count, &p);

	if (rc || !run || run_len < sizeof(*run) + p.len)
		return -EINVAL;
	for (i = 0; i < count; i++) /* a length is asked for before there are bytes; here they are read */
		if ((!records[i].key && records[i].key_len) || (!records[i].tag && records[i].tag_len) || (!records[i].data && records[i].len))
			return -EINVAL;
	rc = thmqi_run_writer_begin(&w, run, (uint32_t)p.len, count, p.sparse, p.first_time_ns);
	run->partition = partition;
	run->base_offset = records[0].offset;
	for (i = 0; i < count && !rc; i++) {
		struct thmq_record_view v = records[i];

		v.tag_hash = v.tag_len ? thmqi_tag_hash(v.tag, v.tag_len) : 0;
		rc = thmqi_run_writer_add(&w, &v);
	}
	return rc;
}

/* ------------------------------------------------------------------ decode */

int thmq_record_next(const struct thmq_log_run *run, struct thmq_record_cursor *cursor,
		     struct thmq_record_view *ret_record)
{
	struct thmqi_record_iter *it = cursor ? (struct thmqi_record_iter *)(void *)cursor->internal : NULL;
	int rc = 0;

	if (!run || !it || !ret_record || !run->header || !run->payload)
		return -EINVAL;
	if (!it->run)
		rc = thmqi_record_begin(it, run->header);
	return rc ? rc : thmqi_record_next(it, ret_record);
}
