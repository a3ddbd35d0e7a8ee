/* SPDX-License-Identifier: Apache-2.0 */
/* Runs and records as bytes: what is written is read, and nothing that is wrong is believed or read beyond. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "wire/run.h"

static _Alignas(8) uint8_t space[65536];

static struct thmq_run_header *make(uint32_t count, bool sparse)
{
	struct thmq_run_header *run = (struct thmq_run_header *)space;
	struct thmqi_run_writer w;
	uint64_t len = thmqi_run_table_bytes(count, sparse);

	memset(space, 0xee, sizeof(space));
	for (uint32_t i = 0; i < count; i++)
		len += thmqi_record_bytes(i % 5 + i % 3 + i * 7 % 40);
	cr_assert_eq(thmqi_run_writer_begin(&w, run, (uint32_t)len, count, sparse, 1000000), 0);
	run->base_offset = 500;
	run->partition = 9;
	for (uint32_t i = 0; i < count; i++) {
		struct thmq_record_view v = {.offset = 500 + i * 3,
					      .time_ns = 1000000 + (int64_t)i * 5000,
					      .key = (const uint8_t *)"keys!",
					      .key_len = i % 5,
					      .tag = (const uint8_t *)"tag",
					      .tag_len = i % 3,
					      .tag_hash = i % 3,
					      .data = (const uint8_t *)"0123456789012345678901234567890123456789",
					      .len = i * 7 % 40};

		cr_assert_eq(thmqi_run_writer_add(&w, &v), 0, "%u", i);
	}
	cr_assert_eq(w.body, w.end);
	thmqi_run_seal(run);
	return run;
}

Test(wire_run, records_come_back_as_they_were_written)
{
	for (uint32_t sparse = 0; sparse < 2; sparse++) {
		for (uint32_t count = 0; count < 50; count++) {
			struct thmq_run_header *run = make(count, sparse);
			struct thmqi_record_iter it;
			struct thmq_record_view v;

			cr_assert(thmqi_run_header_ok(run, thmqi_run_bytes(run)));
			cr_assert(thmqi_run_payload_ok(run));
			cr_assert(thmqi_run_records_ok(run));
			cr_assert_eq(thmqi_record_begin(&it, run), 0);
			for (uint32_t i = 0; i < count; i++) {
				cr_assert_eq(thmqi_record_next(&it, &v), 1);
				cr_assert_eq(v.offset, 500 + (sparse ? i * 3 : i));
				cr_assert_eq(v.time_ns, 1000000 + (int64_t)i * 5000);
				cr_assert_eq(v.key_len, i % 5);
				cr_assert_eq(v.tag_len, i % 3);
				cr_assert_eq(v.len, i * 7 % 40);
				cr_assert_eq(memcmp(v.key, "keys!", v.key_len), 0);
				cr_assert_eq(memcmp(v.tag, "tag", v.tag_len), 0);
				cr_assert_eq(memcmp(v.data, "0123456789012345678901234567890123456789", v.len), 0);
			}
			cr_assert_eq(thmqi_record_next(&it, &v), 0);
			cr_assert_eq(run->span, sparse && count ? (count - 1) * 3 + 1 : count);
			cr_assert_eq(run->last_time_ns, 1000000 + (count ? (int64_t)(count - 1) * 5000 : 0));
		}
	}
}

Test(wire_run, any_changed_bit_is_noticed)
{
	struct thmq_run_header *run = make(7, true);
	uint32_t bytes = (uint32_t)sizeof(*run) + run->len;

	for (uint32_t at = 0; at < bytes; at++)
		for (uint32_t bit = 0; bit < 8; bit++) {
			space[at] ^= (uint8_t)(1u << bit);
			cr_assert_not(thmqi_run_header_ok(run, sizeof(space)) && thmqi_run_payload_ok(run), "%u", at);
			space[at] ^= (uint8_t)(1u << bit);
		}
}

Test(wire_run, a_run_longer_than_its_room_is_refused)
{
	struct thmq_run_header *run = make(7, false);

	run->len -= 3; /* its padding counts too */
	thmqi_run_seal(run);
	cr_assert(thmqi_run_header_ok(run, thmqi_run_bytes(run)));
	for (uint32_t room = 0; room < thmqi_run_bytes(run); room++)
		cr_assert_not(thmqi_run_header_ok(run, room));
	run->len = UINT32_MAX - 3;
	run->header_crc = thmqi_crc32c(0, run, 92);
	cr_assert_not(thmqi_run_header_ok(run, UINT32_MAX));
}

/* Tables that contradict themselves, with right checksums: nothing outside of the run is handed out. */
Test(wire_run, tables_that_lie_are_refused)
{
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	struct thmq_run_header *run = make(10, false);
	struct thmq_record *table = (struct thmq_record *)(run + 1);

	run->count = 100000;
	cr_assert_eq(thmqi_record_begin(&it, run), -THMQ_ECORRUPT);
	run->count = UINT32_MAX;
	run->flags = THMQ_RUN_SPARSE;
	cr_assert_eq(thmqi_record_begin(&it, run), -THMQ_ECORRUPT);
	run = make(10, false);
	run->encoding = THMQ_RUN_OPAQUE;
	cr_assert_eq(thmqi_record_begin(&it, run), -EINVAL);
	run = make(10, false);
	table[4].size = 100000;
	cr_assert_not(thmqi_run_records_ok(run));
	run = make(10, false);
	table[9].key_len = 60000;
	cr_assert_not(thmqi_run_records_ok(run));
	run = make(10, false);
	table[0].size = 0;
	table[0].tag_len = 1;
	cr_assert_not(thmqi_run_records_ok(run));
	run = make(10, true);
	((uint32_t *)(table + 10))[3] = 2; /* below the one before */
	cr_assert_not(thmqi_run_records_ok(run));
	((uint32_t *)(table + 10))[3] = UINT32_MAX;
	cr_assert_not(thmqi_run_records_ok(run));
	run = make(10, false);
	run->span = 5;
	cr_assert_not(thmqi_run_records_ok(run));
	cr_assert_eq(thmqi_record_begin(&it, run), 0);
	while (thmqi_record_next(&it, &v) == 1)
		cr_assert_leq((const uint8_t *)v.data + v.len, (const uint8_t *)(run + 1) + run->len);
}

Test(wire_run, random_bytes_never_lead_outside)
{
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 7);
	for (uint32_t round = 0; round < 20000; round++) {
		uint32_t count = (uint32_t)thmqi_prng_below(&p, 20);
		struct thmq_run_header *run = make(count, round % 2);
		struct thmqi_record_iter it;
		struct thmq_record_view v;
		uint32_t len = run->len;

		for (uint32_t i = 0; i < 4; i++)
			space[thmqi_prng_below(&p, sizeof(*run) + len)] = (uint8_t)thmqi_prng_next(&p);
		run->len = len; /* that much its header's check has proved */
		if (thmqi_record_begin(&it, run) != 0)
			continue;
		while (thmqi_record_next(&it, &v) == 1) {
			cr_assert_geq(v.key, (uint8_t *)(run + 1));
			cr_assert_leq((const uint8_t *)v.data + v.len, (const uint8_t *)(run + 1) + run->len);
		}
	}
}

Test(wire_run, the_writer_refuses_what_the_table_cannot_say)
{
	struct thmq_run_header *run = (struct thmq_run_header *)space;
	struct thmqi_run_writer w;
	struct thmq_record_view v = {.time_ns = 0, .data = space, .len = 8};

	cr_assert_eq(thmqi_run_writer_begin(&w, run, 31, 2, false, 0), -EINVAL);
	cr_assert_eq(thmqi_run_writer_begin(&w, run, 32 + 16, 2, false, 100), 0);
	cr_assert_eq(thmqi_run_writer_add(&w, &v), -EINVAL, "before the first time");
	v.time_ns = 100 + 5000000000000;
	cr_assert_eq(thmqi_run_writer_add(&w, &v), -EINVAL, "too long behind it");
	v.time_ns = 100;
	v.len = 17;
	cr_assert_eq(thmqi_run_writer_add(&w, &v), -EINVAL, "no room");
	v.len = 8;
	v.tag_len = 256;
	cr_assert_eq(thmqi_run_writer_add(&w, &v), -EINVAL);
	v.tag_len = 0;
	v.key_len = 65536;
	cr_assert_eq(thmqi_run_writer_add(&w, &v), -EINVAL);
	v.key_len = 0;
	cr_assert_eq(thmqi_run_writer_add(&w, &v), 0);
	cr_assert_eq(thmqi_run_writer_add(&w, &v), 0);
	v.len = 0;
	cr_assert_eq(thmqi_run_writer_add(&w, &v), -EINVAL, "one too many");
}
