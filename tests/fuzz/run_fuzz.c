/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs and records as bytes. The first byte of the input: bit 0: its checksums are left as they are, else they are made right; the rest is
 * a run header and what lies behind it, up to the end of the room.
 */
#include "fuzz.h"
#include "patch.h"
#include "wire/attributes.h"

#define RECORDS_MAX 512u

static struct thmq_record_view decoded[RECORDS_MAX];

static uint32_t decode(const struct thmq_run_header *run, const uint8_t *end, bool *ret_whole)
{
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	uint32_t count = 0;
	int rc = thmqi_record_begin(&it, run);

	*ret_whole = false;
	if (rc)
		return 0;
	while ((rc = thmqi_record_next(&it, &v)) == 1) {
		const uint8_t *key = v.key, *tag = v.tag, *data = v.data;

		if (run->encoding == THMQ_RUN_KAFKA) { /* each where it lies in the batch */
			fuzz_touch(v.key, v.key_len);
			fuzz_touch(v.tag, v.tag_len);
			fuzz_touch(v.data, v.len);
			FUZZ_CHECK(!v.data || (data >= (const uint8_t *)run && data + v.len <= end));
			count++;
			continue;
		}
		FUZZ_CHECK(key >= (const uint8_t *)run && data + v.len <= end);
		FUZZ_CHECK(key + v.key_len == tag && tag + v.tag_len == data);
		fuzz_touch(v.key, (size_t)v.key_len + v.tag_len + v.len);
		if (count < RECORDS_MAX)
			decoded[count] = v;
		count++;
	}
	*ret_whole = rc == 0;
	return count;
}

/* What was decoded, encoded again, decodes to the same. */
static void round_trip(const struct thmq_run_header *run, uint32_t count)
{
	bool sparse = run->flags & THMQ_RUN_SPARSE, whole;
	uint64_t len = thmqi_run_table_bytes(count, sparse);
	struct thmqi_run_writer w;
	struct thmq_record_view v;
	struct thmqi_record_iter it;
	struct thmq_run_header *copy;
	uint32_t i;

	for (i = 0; i < count; i++)
		len += thmqi_record_bytes(decoded[i].key_len + decoded[i].tag_len + decoded[i].len);
	copy = malloc(sizeof(*copy) + len);
	FUZZ_CHECK(copy && thmqi_run_writer_begin(&w, copy, (uint32_t)len, count, sparse,
						  run->first_time_ns) == 0);
	copy->base_offset = run->base_offset;
	for (i = 0; i < count; i++)
		if (thmqi_run_writer_add(&w, &decoded[i]) != 0)
			break; /* a time or an offset that overflows */
	if (i == count) {
		thmqi_run_seal(copy);
		FUZZ_CHECK(thmqi_run_header_ok(copy, (uint32_t)(sizeof(*copy) + len)) &&
			   thmqi_run_payload_ok(copy));
		FUZZ_CHECK(thmqi_record_begin(&it, copy) == 0);
		for (i = 0; i < count; i++) {
			FUZZ_CHECK(thmqi_record_next(&it, &v) == 1);
			FUZZ_CHECK(v.offset == decoded[i].offset &&
				   v.time_ns == decoded[i].time_ns);
			FUZZ_CHECK(v.key_len == decoded[i].key_len &&
				   v.tag_len == decoded[i].tag_len && v.len == decoded[i].len);
			FUZZ_CHECK(v.tag_hash == decoded[i].tag_hash);
			FUZZ_CHECK(memcmp(v.key, decoded[i].key,
					  (size_t)v.key_len + v.tag_len + v.len) == 0);
		}
		whole = thmqi_run_records_ok(copy);
		FUZZ_CHECK(whole || copy->count > copy->span || sparse);
	}
	free(copy);
}

/* What lies behind the header, as a client's batch: what is taken for one is a run whose records are all in order, and their payloads in its block. */
static void as_batch(const struct thmq_run_header *run)
{
	struct thmqi_packed_facts is;
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	struct thmqi_attributes a;
	struct thmqi_block block;
	struct thmq_run_header *copy = malloc(sizeof(*copy) + run->len);
	uint32_t at;

	FUZZ_CHECK(copy != NULL);
	memcpy(copy, run, sizeof(*copy) + run->len);
	if (thmqi_packed_check(copy + 1, copy->len, &is) == 0) {
		copy->encoding = THMQ_RUN_PACKED;
		copy->flags = 0;
		copy->base_offset = 0;
		copy->count = copy->span = is.count;
		FUZZ_CHECK(thmqi_run_records_ok(copy) && thmqi_block_read(copy + 1, copy->len, &block, &at) == 0);
		FUZZ_CHECK(thmqi_record_begin(&it, copy) == 0);
		while (thmqi_record_next(&it, &v) == 1) {
			FUZZ_CHECK(thmqi_attributes_read(v.flags, v.data, v.len, &a) == 0 && a.is_in_block && a.len == v.len);
			FUZZ_CHECK((uint64_t)a.in_block.at + a.in_block.len <= block.raw_len && block.raw_len <= THMQI_PACKED_RAW_MAX);
			FUZZ_CHECK(!v.tag_len || is.tag_filter >> (v.tag_hash % 64) & 1);
		}
		fuzz_touch((const uint8_t *)(copy + 1) + at, block.len);
	}
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct thmq_run_header *run;
	uint32_t room, count;
	bool whole, ok;

	if (size < 2 || size > 1u << 20)
		return 0;
	room = (uint32_t)size - 1;
	run = malloc(room); /* its end is the end of what may be read */
	if (!run)
		return 0;
	memcpy(run, data + 1, room);
	if (!(data[0] & 1))
		patch_seal_run(run, room);
	if (thmqi_run_header_ok(run, room) && thmqi_run_payload_ok(run)) {
		FUZZ_CHECK(thmqi_run_bytes(run) <= room);
		count = decode(run, (const uint8_t *)run + room, &whole);
		as_batch(run);
		ok = thmqi_run_records_ok(run);
		FUZZ_CHECK(!ok || (whole && count == run->count));
		if (ok && count <= RECORDS_MAX && run->encoding == THMQ_RUN_RECORDS)
			round_trip(run, count);
	}
	free(run);
	return 0;
}
