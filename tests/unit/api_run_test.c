/* SPDX-License-Identifier: Apache-2.0 */
/* api_run_test.c - runs by the public calls: made, appended to a log, walked; and what they refuse. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>

#define TIME 1700000000000000000ll
#define ROOM 4096u

static struct thmq_record_view record(uint64_t offset, const char *key, const char *tag,
				      const char *data)
{
	return (struct thmq_record_view){.offset = offset,
					 .time_ns = TIME + (int64_t)offset * 1000,
					 .key = key,
					 .key_len = (uint32_t)(key ? strlen(key) : 0),
					 .tag = tag,
					 .tag_len = (uint32_t)(tag ? strlen(tag) : 0),
					 .data = data,
					 .len = (uint32_t)(data ? strlen(data) : 0)};
}

static bool same(const void *a, uint32_t a_len, const void *b, uint32_t b_len)
{
	return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

/* What is walked is what was put in. */
static void check(const struct thmq_log_run *run, const struct thmq_record_view *records,
		  uint32_t count)
{
	struct thmq_record_cursor cursor = {{0}};
	struct thmq_record_view r;
	uint32_t i;

	for (i = 0; i < count; i++) {
		cr_assert_eq(thmq_record_next(run, &cursor, &r), 1);
		cr_assert_eq(r.offset, records[i].offset);
		cr_assert_eq(r.time_ns, records[i].time_ns);
		cr_assert(same(r.key, r.key_len, records[i].key, records[i].key_len));
		cr_assert(same(r.tag, r.tag_len, records[i].tag, records[i].tag_len));
		cr_assert(same(r.data, r.len, records[i].data, records[i].len));
		cr_assert_eq(r.tag_hash == 0, r.tag_len == 0);
		if (r.tag_hash)
			cr_assert(run->header->tag_filter & 1ull << (r.tag_hash % 64));
	}
	cr_assert_eq(thmq_record_next(run, &cursor, &r), 0);
	cr_assert_eq(thmq_record_next(run, &cursor, &r), 0, "and again");
}

static struct thmq_log_run made(uint8_t *room, const struct thmq_record_view *records,
				uint32_t count)
{
	struct thmq_run_header *run = (struct thmq_run_header *)(void *)room;
	uint32_t len = thmq_run_len(records, count);

	cr_assert(len >= sizeof(*run) && len <= ROOM);
	memset(room, 0xa5, ROOM);
	cr_assert_eq(thmq_run_encode(run, len, 9, records, count), 0);
	cr_assert_eq(run->len, len - sizeof(*run));
	for (uint32_t i = len; i < ROOM; i++)
		cr_assert_eq(room[i], 0xa5, "written behind its end");
	return (struct thmq_log_run){.header = run, .payload = run + 1};
}

TestSuite(api_run, .timeout = 30);

Test(api_run, records_come_back_as_they_were)
{
	const struct thmq_record_view records[] = {
		record(5, "k", "tag", "payload"), record(6, NULL, NULL, NULL),
		record(7, "a longer key", NULL, "x"), record(8, NULL, "t", "12345678")};
	uint8_t *room = aligned_alloc(8, ROOM);
	struct thmq_log_run run = made(room, records, 4);

	check(&run, records, 4);
	cr_assert_eq(run.header->partition, 9);
	cr_assert_eq(run.header->base_offset, 5);
	cr_assert_eq(run.header->count, 4);
	cr_assert_eq(run.header->span, 4);
	cr_assert_eq(run.header->encoding, THMQ_RUN_RECORDS);
	cr_assert_eq(run.header->flags, THMQ_RUN_KEYED);
	cr_assert_eq(run.header->first_time_ns, TIME + 5000);
	cr_assert_eq(run.header->last_time_ns, TIME + 8000);
	cr_assert_eq(run.header->producer_id, 0);
	free(room);
}

Test(api_run, gaps_between_offsets_are_kept)
{
	const struct thmq_record_view records[] = {record(100, NULL, NULL, "a"),
						   record(102, "k", NULL, "b"),
						   record(5000000, NULL, "t", "c")};
	uint8_t *room = aligned_alloc(8, ROOM);
	struct thmq_log_run run = made(room, records, 3);

	check(&run, records, 3);
	cr_assert_eq(run.header->flags, THMQ_RUN_SPARSE | THMQ_RUN_KEYED);
	cr_assert_eq(run.header->span, 5000000 - 100 + 1);
	free(room);
}

Test(api_run, times_need_not_rise)
{
	struct thmq_record_view records[] = {record(0, NULL, NULL, "a"),
					     record(1, NULL, NULL, "b")};
	uint8_t *room = aligned_alloc(8, ROOM);
	struct thmq_log_run run;

	records[1].time_ns = records[0].time_ns - 5000000;
	run = made(room, records, 2);
	check(&run, records, 2);
	cr_assert_eq(run.header->first_time_ns, records[1].time_ns);
	cr_assert_eq(run.header->last_time_ns, records[0].time_ns);
	free(room);
}

Test(api_run, what_cannot_be_one_run_has_no_length)
{
	struct thmq_record_view records[] = {record(0, "k", "t", "a"), record(1, NULL, NULL, "b")};
	struct thmq_run_header *run = aligned_alloc(8, ROOM);

	cr_assert_neq(thmq_run_len(records, 2), 0);
	cr_assert_eq(thmq_run_len(records, 0), 0);
	cr_assert_eq(thmq_run_len(NULL, 2), 0);
	records[1].offset = 0;
	cr_assert_eq(thmq_run_len(records, 2), 0, "offsets rise");
	records[1].offset = 1ull << 32;
	cr_assert_eq(thmq_run_len(records, 2), 0, "too far apart");
	records[1].offset = 1;
	records[0].key_len = 65536;
	cr_assert_eq(thmq_run_len(records, 2), 0, "key");
	records[0].key_len = 1;
	records[0].tag_len = 256;
	cr_assert_eq(thmq_run_len(records, 2), 0, "tag");
	cr_assert_eq(thmq_run_encode(run, ROOM, 0, records, 2), -EINVAL);
	records[0].tag_len = 1;
	records[1].time_ns += 3600ll * 2 * 1000000000;
	cr_assert_eq(thmq_run_len(records, 2), 0, "two hours");
	records[1].time_ns -= 3600ll * 2 * 1000000000;
	records[0].len = records[1].len = 1u << 31;
	cr_assert_eq(thmq_run_len(records, 2), 0, "4 GiB");
	records[0].len = records[1].len = 1;
	cr_assert_eq(thmq_run_encode(run, ROOM, 0, records, 2), 0);
	records[1].data = NULL;
	cr_assert_neq(thmq_run_len(records, 2), 0, "it may be known before the bytes are there");
	cr_assert_eq(thmq_run_encode(run, ROOM, 0, records, 2), -EINVAL, "no bytes");
	records[1].data = "b";
	records[0].key = NULL;
	cr_assert_eq(thmq_run_encode(run, ROOM, 0, records, 2), -EINVAL, "no key");
	records[0].key = "k";
	records[0].tag = NULL;
	cr_assert_eq(thmq_run_encode(run, ROOM, 0, records, 2), -EINVAL, "no tag");
	free(run);
}

Test(api_run, too_little_room_is_refused_and_more_is_not_used)
{
	const struct thmq_record_view records[] = {record(0, "key", "tag", "data")};
	struct thmq_run_header *run = aligned_alloc(8, ROOM);
	uint32_t len = thmq_run_len(records, 1);

	cr_assert_eq(thmq_run_encode(run, len - 1, 0, records, 1), -EINVAL);
	cr_assert_eq(thmq_run_encode(NULL, len, 0, records, 1), -EINVAL);
	cr_assert_eq(thmq_run_encode(run, ROOM, 0, records, 1), 0);
	cr_assert_eq(run->len, len - sizeof(*run));
	free(run);
}

Test(api_run, bytes_that_lie_are_found)
{
	const struct thmq_record_view records[] = {record(0, "key", "tag", "data"),
						   record(2, NULL, NULL, "more")};
	uint8_t *room = aligned_alloc(8, ROOM);
	struct thmq_log_run run = made(room, records, 2);
	struct thmq_run_header *header = (struct thmq_run_header *)(void *)room;
	struct thmq_record *table = (struct thmq_record *)(header + 1);
	struct thmq_record_cursor cursor = {{0}};
	struct thmq_record_view r;

	table[1].size = 1u << 20;
	cr_assert_eq(thmq_record_next(&run, &cursor, &r), 1);
	cr_assert_eq(thmq_record_next(&run, &cursor, &r), -THMQ_ECORRUPT);
	table[0].key_len = 60000;
	cursor = (struct thmq_record_cursor){{0}};
	cr_assert_eq(thmq_record_next(&run, &cursor, &r), -THMQ_ECORRUPT);
	header->count = 1u << 30;
	cr_assert_eq(thmq_record_next(&run, &cursor, &r), -THMQ_ECORRUPT);
	free(room);
}

Test(api_run, a_run_without_records_says_so)
{
	struct thmq_run_header *run = aligned_alloc(8, ROOM);
	struct thmq_log_run view = {.header = run, .payload = run + 1};
	struct thmq_record_cursor cursor = {{0}};
	struct thmq_record_view r;

	memset(run, 0xa5, ROOM);
	thmq_run_init(run, THMQ_RUN_OPAQUE, 3, 70, 2, 10);
	cr_assert_eq(run->partition, 3);
	cr_assert_eq(run->base_offset, 70);
	cr_assert_eq(run->count, 2);
	cr_assert_eq(run->span, 2);
	cr_assert_eq(run->len, 10);
	cr_assert_eq(run->producer_id | run->transaction | run->tag_filter | run->sequence_span |
			     run->flags,
		     0);
	cr_assert_eq(thmq_record_next(&view, &cursor, &r), -EINVAL);
	run->encoding = THMQ_RUN_RECORDS;
	view.payload = NULL; /* as at the replay of a full segment */
	cr_assert_eq(thmq_record_next(&view, &cursor, &r), -EINVAL);
	free(run);
}

Test(api_run, a_log_takes_what_was_made_and_gives_it_back)
{
	const struct thmq_record_view records[] = {record(0, "key", "tag", "data"),
						   record(1, NULL, NULL, "more")};
	struct thmq_run_header *run;
	struct thmq_log_reader *reader;
	struct thmq_log_view view;
	struct thmq_env *env;
	struct thmq_log *log;
	uint64_t index;

	cr_assert_eq(thmq_env_open(&env, NULL), 0);
	cr_assert_eq(thmq_log_open(thmq_env_core(env, 0), THMQ_LOG_OPTS(.dir = NULL), &log), 0,
		     "%s", thmq_errmsg());
	cr_assert_eq(thmq_log_append(log, thmq_run_len(records, 2), &run, &index), 0);
	cr_assert_eq(thmq_run_encode(run, thmq_run_len(records, 2), 4, records, 2), 0);
	thmq_log_append_end(log, run, THMQ_DURABILITY_MEMORY);
	cr_assert_eq(thmq_log_reader_open(log, 4, NULL, NULL, &reader), 0);
	cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &view), 1);
	check(&view.run, records, 2);
	thmq_log_view_release(log, &view);
	thmq_log_reader_close(reader);
	cr_assert_eq(thmq_log_close(log, 0), 0);
	thmq_env_close(env, 0);
}
