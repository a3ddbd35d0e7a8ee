/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole log directory, patched: opened, read, appended to, closed, opened again. FUZZ_WHERE says where it is patched: all of it, `vote`,
 * or the indexes. Whatever its bytes are: it is opened or refused with an error that is documented, and what was opened works.
 */
#include "fuzz.h"
#include "patch.h"

#ifndef FUZZ_WHERE
#define FUZZ_WHERE (PATCH_IN_VOTE | PATCH_IN_LOG | PATCH_IN_INDEX)
#endif

#define PARTITIONS_MAX 24u
#define READS_LIMIT 200u

struct use {
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmq_log *log;
	uint32_t partitions[PARTITIONS_MAX];
	uint32_t partition_count;
	uint64_t durable;
	int failed;
};

static struct use u;

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;
	uint32_t i;

	(void)ctx;
	FUZZ_CHECK(h->magic == THMQ_RUN_MAGIC);
	FUZZ_CHECK(run->payload || h->len == 0);
	FUZZ_CHECK((uintptr_t)run->payload % 8 == 0, "a payload is not aligned");
	if (run->payload)
		fuzz_touch(run->payload, h->len);
	if (h->encoding == THMQ_RUN_STATE)
		return 0;
	for (i = 0; i < u.partition_count && u.partitions[i] != h->partition; i++)
		;
	if (i == u.partition_count && i < PARTITIONS_MAX)
		u.partitions[u.partition_count++] = h->partition;
	return 0;
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	(void)ctx;
	if (durability == THMQ_DURABILITY_DURABLE)
		u.durable = index;
}

static void on_failed(void *ctx, int error)
{
	(void)ctx;
	u.failed = error;
}

static const struct thmq_log_events events = {
	.size = sizeof(events), .replay = on_replay, .settled = on_settled, .failed = on_failed};

static int open_log(void)
{
	static const struct thmq_log_opts opts = {.size = sizeof(opts),
						  .dir = PATCH_DIR,
						  .events = &events,
						  .cache_bytes = 64u << 10,
						  .segment_bytes_min = 1u << 20,
						  .segment_bytes_max = 1u << 20};

	u.partition_count = 0;
	u.durable = 0;
	u.failed = 0;
	return thmq_log_open(u.core, &opts, &u.log);
}

/* What thmq_log_open() says that it may return; no file system's errors, the disk is well. */
static bool is_documented(int rc)
{
	return rc == 0 || rc == -THMQ_ECORRUPT || rc == -THMQ_EVERSION || rc == -EINVAL ||
	       rc == -ENOMEM;
}

static void look_at(const struct thmq_log_view *v)
{
	struct thmqi_record_iter it;
	struct thmq_record_view rec;

	FUZZ_CHECK(v->run.header->magic == THMQ_RUN_MAGIC);
	fuzz_touch(v->run.header, sizeof(*v->run.header) + v->run.header->len);
	if (thmqi_record_begin(&it, v->run.header) == 0)
		while (thmqi_record_next(&it, &rec) == 1)
			fuzz_touch(rec.key, (size_t)rec.key_len + rec.tag_len + rec.len);
}

static void find_time(struct thmq_log_reader *reader, int64_t time_ns)
{
	uint64_t offset;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < READS_LIMIT && rc == 0; i++) {
		rc = thmq_log_reader_find_time(reader, time_ns, &offset);
		if (rc == 0)
			thmqi_core_poll(u.core, 1000000);
	}
	FUZZ_CHECK(rc == 1 || rc == -ENOENT || rc == -THMQ_ECORRUPT || rc == -THMQ_EOFFSETRANGE ||
			   rc == -EIO,
		   "%d", rc);
}

/* All records of the images have this one. */
static void find_key(struct thmq_log_reader *reader)
{
	struct thmq_record_view record;
	struct thmq_log_view view;
	struct thmq_log_hit hits[4];
	uint64_t before = UINT64_MAX;
	uint32_t polls = 0;
	int rc = thmq_log_reader_seek_key(reader, "key", 3, INT64_MIN, INT64_MAX, before), n, i;

	while (rc == 0 && polls++ < READS_LIMIT) {
		n = thmq_log_reader_find_key(reader, 4, hits);
		if (n == 0)
			thmqi_core_poll(u.core, 1000000);
		for (i = 0; i < n; i++) {
			FUZZ_CHECK(hits[i].offset < before);
			before = hits[i].offset;
		}
		rc = n < 0 ? n : 0;
		if (n <= 0)
			continue;
		while ((n = thmq_log_read_hit(reader, &hits[0], &view, &record)) == 0 && polls++ < READS_LIMIT)
			thmqi_core_poll(u.core, 1000000);
		if (n == 1) {
			FUZZ_CHECK(record.offset == hits[0].offset);
			thmq_log_view_release(u.log, &view);
		}
	}
	FUZZ_CHECK(rc == 0 || rc == -ENOENT || rc == -THMQ_ECORRUPT || rc == -EIO, "%d", rc);
}

static void read_partition(uint32_t partition)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view view;
	uint64_t begin, end;
	uint32_t i, polls = 0;
	int rc;

	thmq_log_bounds(u.log, partition, &begin, &end);
	FUZZ_CHECK(thmq_log_reader_open(u.log, partition, NULL, NULL, &reader) == 0);
	find_time(reader, INT64_MIN);
	find_time(reader, 20000);
	find_time(reader, INT64_MAX);
	find_key(reader);
	thmq_log_reader_seek(reader, begin);
	for (i = 0; i < READS_LIMIT && polls < READS_LIMIT; i++) {
		rc = thmq_log_read(reader, UINT64_MAX, &view);
		if (rc == 1) {
			look_at(&view);
			thmq_log_view_release(u.log, &view);
		} else if (rc == 0) {
			polls++;
			thmqi_core_poll(u.core, 1000000);
		} else {
			FUZZ_CHECK(rc == -THMQ_ECORRUPT || rc == -THMQ_EOFFSETRANGE || rc == -EIO,
				   "%d", rc);
			if (i % 2) /* once more from the begin, once behind what is damaged */
				break;
			thmq_log_reader_seek(reader, (begin + end) / 2);
		}
	}
	thmq_log_reader_close(reader);
}

static void append_one(uint64_t offset)
{
	struct thmq_run_header *run;
	uint64_t index = 0;
	uint32_t i;
	int rc = -EAGAIN;

	for (i = 0; i < 1000 && rc == -EAGAIN; i++) {
		rc = thmq_log_append(u.log, (uint32_t)sizeof(*run) + 16, &run, &index);
		if (rc == -EAGAIN)
			thmqi_core_poll(u.core, 1000000);
	}
	FUZZ_CHECK(rc == 0, "append: %d", rc);
	memset(run, 0, sizeof(*run) + 16);
	run->len = 16;
	run->partition = 5;
	run->base_offset = offset;
	run->count = run->span = 1;
	run->encoding = THMQ_RUN_OPAQUE;
	thmq_log_append_end(u.log, run, THMQ_DURABILITY_DURABLE);
	for (i = 0; i < 1000 && u.durable < index && !u.failed; i++)
		thmqi_core_poll(u.core, 1000000);
	FUZZ_CHECK(u.durable >= index && !u.failed, "batch %llu, durable %llu, %d",
		   (unsigned long long)index, (unsigned long long)u.durable, u.failed);
}

static void use_log(void)
{
	uint64_t begin, end;
	uint32_t i;

	for (i = 0; i < u.partition_count; i++)
		read_partition(u.partitions[i]);
	thmq_log_bounds(u.log, 5, &begin, &end);
	append_one(end);
	read_partition(5);
	FUZZ_CHECK(thmq_log_close(u.log, 0) == 0);
}

static uint64_t in_use(void)
{
	struct thmqi_pool_stats stats;

	thmqi_pool_stats(u.core->pool, &stats);
	return stats.in_use;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct patch_image *im;
	uint64_t before;
	int rc;

	if (!u.sim) {
		FUZZ_CHECK(thmqi_disk_sim_open(1, NULL, &u.sim) == 0);
		FUZZ_CHECK(thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20),
					  thmqi_disk_sim_world(u.sim), &u.env) == 0);
		u.core = thmqi_env_core(u.env, 0);
	}
	before = in_use();
	im = patch_apply(data, size, FUZZ_WHERE);
	patch_write(im, u.sim);
	patch_undo(im);
	rc = open_log();
	if (getenv("FUZZ_VERBOSE"))
		fprintf(stderr, "open: %d %s\n", rc, rc ? thmq_errmsg() : "");
	FUZZ_CHECK(is_documented(rc), "%d %s", rc, thmq_errmsg());
	if (rc == 0) {
		use_log();
		rc = open_log();
		FUZZ_CHECK(rc == 0, "what was closed well does not open: %d %s", rc, thmq_errmsg());
		FUZZ_CHECK(thmq_log_close(u.log, 0) == 0);
	}
	FUZZ_CHECK(in_use() == before, "%llu bytes of the pool are not given back",
		   (unsigned long long)(in_use() - before));
	return 0;
}
