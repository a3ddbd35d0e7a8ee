/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_blocks_test.c - the building blocks in careless hands: no handle, no place for a result, a size field that nobody set, for
 * every call of log.h, pool.h and reactor.h. An error, or nothing; never a crash.
 */
#include "bad_input.h"
#include <poll.h>
#include <thundermq/pool.h>
#include <thundermq/reactor.h>

static struct thmq_log_run no_run;

static void log_without_a_log(void)
{
	struct thmq_record_view record = {.offset = 1};
	struct thmq_record_cursor cursor = {{0}};
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	struct thmq_run_header *run;
	struct thmq_log_hit hit = {.offset = 0};
	struct thmq_log_view view;
	uint64_t a, b;

	memset(&view, 0, sizeof(view));
	thmq_log_opts_init(NULL);
	thmq_log_repair_opts_init(NULL);
	thmq_run_init(NULL, THMQ_RUN_OPAQUE, 1, 0, 1, 8);
	RETURNS(0, thmq_run_len(NULL, 1));
	RETURNS(0, thmq_run_len(&record, 0));
	RETURNS(-EINVAL, thmq_run_encode(NULL, 4096, 1, &record, 1));
	RETURNS(-EINVAL, thmq_record_next(NULL, &cursor, &record));
	RETURNS(-EINVAL, thmq_record_next(&no_run, NULL, &record));
	RETURNS(-EINVAL, thmq_record_next(&no_run, &cursor, NULL));
	RETURNS(-EINVAL, thmq_record_next(&no_run, &cursor, &record));
	SAYS(-EINVAL, NULL, thmq_log_open(NULL, NULL, NULL));
	RETURNS(0, thmq_log_close(NULL, 0)); /* allowed, as free(NULL) is */
	RETURNS(-EINVAL, thmq_log_append(NULL, 128, &run, &a));
	RETURNS(-EINVAL, thmq_log_append_end(NULL, NULL, THMQ_DURABILITY_DURABLE));
	thmq_log_append_abort(NULL);
	RETURNS(-EINVAL, thmq_log_flush(NULL, &a));
	SAYS(-EINVAL, NULL, thmq_log_reader_open(NULL, 1, NULL, NULL, NULL));
	thmq_log_reader_close(NULL);
	thmq_log_reader_seek(NULL, 0);
	thmq_log_reader_filter(NULL, 1);
	RETURNS(0, thmq_tag_filter(NULL, 3));
	RETURNS(-EINVAL, thmq_log_read(NULL, UINT64_MAX, &view));
	thmq_log_view_release(NULL, NULL);
	thmq_log_view_release(NULL, &view);
	RETURNS(-EINVAL, thmq_log_bounds(NULL, 1, &a, &b));
	RETURNS(-EINVAL, thmq_log_reader_find_time(NULL, 0, &a));
	RETURNS(-EINVAL, thmq_log_reader_seek_key(NULL, "k", 1, INT64_MIN, INT64_MAX, UINT64_MAX));
	RETURNS(-EINVAL, thmq_log_reader_find_key(NULL, 1, &hit));
	RETURNS(-EINVAL, thmq_log_read_hit(NULL, &hit, &view, &record));
	thmq_log_forget(NULL, 1);
	RETURNS(-EINVAL, thmq_log_find_index(NULL, 1, &a, &b));
	SAYS(-EINVAL, NULL, thmq_log_truncate(NULL, 1));
	SAYS(-EINVAL, NULL, thmq_log_stats(NULL, &stats));
	SAYS(-EINVAL, NULL, thmq_log_copy(NULL, "x"));
	RETURNS(-EINVAL, thmq_log_scan(NULL, NULL, NULL)); /* its text is the one that is taken for stale */
	SAYS(-EINVAL, NULL, thmq_log_repair(NULL, NULL, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_data_repair(NULL, NULL, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_data_copy(NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_data_name(NULL, NULL));
}

/* An open log, NULL for what comes behind it; then it works as before. */
static void log_without_places(void)
{
	struct thmq_log_reader *reader;
	struct thmq_record_view record;
	struct thmq_run_header *run;
	struct thmq_log_view view;
	struct thmq_log *log;
	struct thmq_core *core;
	struct world w;
	uint64_t index;

	place_make(NULL);
	env_up(&w);
	core = thmq_env_core(w.env, 0);
	SAYS(-EINVAL, NULL, thmq_log_open(core, NULL, NULL));
	MUST(thmq_log_open(core,
			   THMQ_LOG_OPTS(.dir = in_place("log"), .segment_bytes_min = 1 << 20,
					 .segment_bytes_max = 1 << 20),
			   &log));
	RETURNS(-EINVAL, thmq_log_append(log, 104, NULL, &index));
	RETURNS(-EINVAL, thmq_log_append(log, 104, &run, NULL));
	RETURNS(-EINVAL, thmq_log_append_end(log, NULL, THMQ_DURABILITY_DURABLE));
	RETURNS(-EINVAL, thmq_log_flush(log, NULL));
	SAYS(-EINVAL, NULL, thmq_log_reader_open(log, 1, NULL, NULL, NULL));
	RETURNS(-EINVAL, thmq_log_bounds(log, 1, NULL, NULL));
	RETURNS(-EINVAL, thmq_log_find_index(log, 1, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_log_stats(log, NULL));
	SAYS(-EINVAL, NULL, thmq_log_copy(log, NULL));
	MUST(thmq_log_append(log, 104, &run, &index));
	thmq_run_init(run, THMQ_RUN_OPAQUE, 1, 0, 1, 8);
	memset(run + 1, 7, 8);
	MUST(thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE));
	MUST(thmq_log_reader_open(log, 1, NULL, NULL, &reader));
	RETURNS(-EINVAL, thmq_log_read(reader, UINT64_MAX, NULL));
	RETURNS(-EINVAL, thmq_log_reader_find_time(reader, 0, NULL));
	RETURNS(-EINVAL, thmq_log_reader_seek_key(reader, NULL, 1, 0, 1, 1));
	RETURNS(-EINVAL, thmq_log_reader_seek_key(reader, "k", 0, 0, 1, 1));
	RETURNS(-EINVAL, thmq_log_reader_find_key(reader, 1, NULL));
	RETURNS(-EINVAL, thmq_log_read_hit(reader, NULL, &view, &record));
	RETURNS(1, thmq_log_read(reader, UINT64_MAX, &view));
	CHECK(view.run.header->len == 8 && ((const uint8_t *)view.run.payload)[7] == 7);
	thmq_log_view_release(log, &view);
	thmq_log_view_release(log, &view);
	thmq_log_reader_close(reader);
	RETURNS(0, thmq_log_close(log, SECOND));
	world_down(&w);
}

static void pool_without_a_pool(void)
{
	struct thmq_slabs_stats slabs_stats = {.size = sizeof(slabs_stats)};
	struct thmq_pool_stats pool_stats = {.size = sizeof(pool_stats)};
	struct thmq_registrar none;
	struct thmq_slice slice, empty;
	struct thmq_pool_leak leak;
	struct thmq_slabs *slabs = NULL;
	struct thmq_pool *pool = NULL;
	struct thmq_slab slab;
	struct thmq_buf *buf = NULL;
	uint64_t key;

	memset(&none, 0, sizeof(none));
	memset(&empty, 0, sizeof(empty));
	thmq_slabs_opts_init(NULL);
	thmq_pool_opts_init(NULL);
	SAYS(-EINVAL, NULL, thmq_slabs_open(NULL, NULL));
	CHECK(thmq_slabs_close(NULL) == -EINVAL);
	RETURNS(0, thmq_slabs_trim(NULL));
	RETURNS(-EINVAL, thmq_slabs_stats(NULL, &slabs_stats));
	SAYS(-EINVAL, NULL, thmq_slabs_subscribe(NULL, &none));
	SAYS(-EINVAL, NULL, thmq_slabs_unsubscribe(NULL, NULL));
	RETURNS(-ENOENT, thmq_slabs_key(NULL, NULL, "", &key));
	RETURNS(-ENOENT, thmq_slabs_find(NULL, "", &slab));
	SAYS(-EINVAL, NULL, thmq_pool_open(NULL, NULL, &pool));
	RETURNS(-EINVAL, thmq_pool_close(NULL));
	thmq_pool_adopt(NULL);
	RETURNS(-EINVAL, thmq_pool_leaks(NULL, &leak, 1));
	RETURNS(0, thmq_pool_drain(NULL));
	RETURNS(0, thmq_pool_tidy(NULL));
	RETURNS(-EINVAL, thmq_pool_prepare(NULL));
	RETURNS(-EINVAL, thmq_pool_stats(NULL, &pool_stats));
	RETURNS(-EINVAL, thmq_buf_alloc(NULL, 64, 0, &buf));
	thmq_buf_trim(NULL, 1);
	thmq_buf_ref(NULL);
	RETURNS(-EINVAL, thmq_buf_unref(NULL));
	thmq_buf_unref_remote(NULL);
	RETURNS(-ENOENT, thmq_buf_find(NULL, "", &buf));
	RETURNS(-EINVAL, thmq_slice_open(NULL, 0, 0, &slice));
	RETURNS(-EINVAL, thmq_slice_cut(NULL, 0, 0, &slice));
	RETURNS(-EINVAL, thmq_slice_cut(&empty, 0, 0, &slice));
	thmq_slice_close(NULL);
	thmq_slice_close(&empty);
	MUST(thmq_slabs_open(NULL, &slabs));
	MUST(thmq_pool_open(slabs, NULL, &pool));
	RETURNS(-EINVAL, thmq_buf_alloc(pool, 64, 0, NULL));
	RETURNS(-EINVAL, thmq_buf_alloc(pool, 64, 3, &buf));
	RETURNS(-EMSGSIZE, thmq_buf_alloc(pool, THMQ_BLOCK_MAX + 1, 0, &buf));
	SAYS(-EINVAL, NULL, thmq_slabs_subscribe(slabs, &none)); /* without its functions */
	SAYS(-EINVAL, NULL, thmq_slabs_unsubscribe(slabs, &none));
	MUST(thmq_buf_alloc(pool, 100, 0, &buf));
	RETURNS(-ENOENT, thmq_slabs_find(slabs, buf->data, NULL));
	RETURNS(-ENOENT, thmq_slabs_key(slabs, NULL, buf->data, &key));
	RETURNS(-ENOENT, thmq_buf_find(pool, buf->data, NULL));
	RETURNS(-EINVAL, thmq_slice_open(buf, 0, 1, NULL));
	RETURNS(-EINVAL, thmq_slice_open(buf, 100, UINT32_MAX, &slice));
	RETURNS(0, thmq_buf_unref(buf));
	RETURNS(0, thmq_pool_close(pool));
	RETURNS(0, thmq_slabs_close(slabs));
}

static int call(struct thmq_core *core, void *arg)
{
	(void)core;
	(void)arg;
	return 0;
}

static void ready(void *ctx, uint32_t events)
{
	(void)ctx;
	(void)events;
}

static void reactor_without_a_core(void)
{
	struct thmq_core_stats stats = {.size = sizeof(stats)};
	struct thmq_poller_ops ops = {.size = sizeof(ops)};
	struct thmq_mailbox *box;
	struct thmq_poller *poller;
	struct thmq_watch *watch;
	struct thmq_timer timer;
	struct thmq_task task;
	struct thmq_mail mail;
	struct thmq_core *core;
	struct world w;

	memset(&timer, 0, sizeof(timer));
	memset(&task, 0, sizeof(task));
	memset(&mail, 0, sizeof(mail));
	CHECK(!thmq_env_core(NULL, 0));
	RETURNS(0, thmq_core_is_mine(NULL));
	SAYS(-EINVAL, NULL, thmq_core_call(NULL, call, NULL, 0));
	RETURNS(-EINVAL, thmq_core_post(NULL, &task));
	SAYS(-EINVAL, NULL, thmq_mailbox_open(NULL, NULL, NULL, &box));
	RETURNS(-EINVAL, thmq_mailbox_send(NULL, &mail));
	RETURNS(0, thmq_mailbox_close(NULL));
	RETURNS(-EINVAL, thmq_core_now_ns(NULL));
	RETURNS(-EINVAL, thmq_timer_start(NULL, &timer, 0));
	RETURNS(0, thmq_timer_stop(NULL));
	SAYS(-EINVAL, NULL, thmq_poller_open(NULL, &ops, NULL, &poller));
	RETURNS(0, thmq_poller_close(NULL));
	RETURNS(-EINVAL, thmq_core_kick(NULL));
	SAYS(-EINVAL, NULL, thmq_watch_open(NULL, 0, POLLIN, ready, NULL, &watch));
	RETURNS(0, thmq_watch_close(NULL));
	SAYS(-EINVAL, NULL, thmq_core_stats(NULL, &stats));
	RETURNS(-EINVAL, thmq_core_stats_detail(NULL, 1));
	SAYS(-EINVAL, NULL, thmq_core_stats_reset(NULL, 0));
	env_up(&w);
	core = thmq_env_core(w.env, 0);
	CHECK(!thmq_env_core(w.env, 1) && !thmq_env_core(w.env, UINT32_MAX));
	SAYS(-EINVAL, NULL, thmq_core_call(core, NULL, NULL, 0));
	RETURNS(-EINVAL, thmq_core_post(core, NULL));
	RETURNS(-EINVAL, thmq_core_post(core, &task));
	SAYS(-EINVAL, NULL, thmq_mailbox_open(core, core, NULL, NULL));
	SAYS(-EINVAL, NULL,
	     thmq_mailbox_open(core, core, THMQ_MAILBOX_OPTS(.depth = UINT32_MAX), &box));
	MUST(thmq_mailbox_open(core, core, NULL, &box));
	RETURNS(-EINVAL, thmq_mailbox_send(box, NULL));
	RETURNS(-EINVAL, thmq_mailbox_send(box, &mail));
	RETURNS(0, thmq_mailbox_close(box));
	RETURNS(-EINVAL, thmq_timer_start(core, NULL, 0));
	RETURNS(-EINVAL, thmq_timer_start(core, &timer, 0));
	RETURNS(0, thmq_timer_stop(&timer));
	SAYS(-EINVAL, NULL, thmq_poller_open(core, &ops, NULL, &poller));
	SAYS(-EINVAL, NULL, thmq_poller_open(core, NULL, NULL, &poller));
	SAYS(-EINVAL, NULL, thmq_watch_open(core, 0, 0, ready, NULL, &watch));
	SAYS(-EBADF, NULL, thmq_watch_open(core, -1, POLLIN, ready, NULL, &watch));
	SAYS(-EINVAL, NULL, thmq_core_stats(core, NULL));
	world_down(&w);
}

/* What is filled in for the caller has the size that he says: one that nobody set must not decide how much is written over. */
static void sizes_that_nobody_set(void)
{
	static const uint32_t wrong[] = {0, 1, 7, 65537, 1u << 30, UINT32_MAX};
	struct thmq_partition_info part;
	struct thmq_broker_stats broker;
	struct thmq_core_stats core;
	struct thmq_topic_info topic;
	struct thmq_key_info key;
	struct thmq_env_stats env;
	struct thmq_machine machine;
	struct thmq_place place;
	struct thmq_node node;
	struct world w;
	uint32_t i;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		env.size = broker.size = core.size = topic.size = part.size = wrong[i];
		key.size = machine.size = place.size = node.size = wrong[i];
		SAYS(-EINVAL, "size", thmq_env_stats(w.env, &env));
		SAYS(-EINVAL, "size", thmq_env_plan(NULL, &place, 1, NULL));
		SAYS(-EINVAL, "size", thmq_env_plan(NULL, NULL, 0, &machine));
		SAYS(-EINVAL, "size", thmq_env_place(w.env, 0, &place));
		SAYS(-EINVAL, "size", thmq_broker_stats(w.broker, &broker));
		SAYS(-EINVAL, "size", thmq_core_stats(thmq_env_core(w.env, 0), &core));
		SAYS(-EINVAL, "size", thmq_topic_list(w.session, &topic, 1));
		SAYS(-EINVAL, "size", thmq_topic_describe(w.session, "numbers", &topic));
		SAYS(-EINVAL, "size",
		     thmq_partition_describe(w.session, "numbers", 0, NULL, &part));
		SAYS(-EINVAL, "size",
		     thmq_key_find(w.session, "numbers", 0, "k", 1, UINT64_MAX, &key));
		SAYS(-EINVAL, "size", thmq_cluster_nodes(w.session, &node, 1));
	}
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

static const struct bad_case cases[] = {
	{"log_without_a_log", log_without_a_log},
	{"log_without_places", log_without_places},
	{"pool_without_a_pool", pool_without_a_pool},
	{"reactor_without_a_core", reactor_without_a_core},
	{"sizes_that_nobody_set", sizes_that_nobody_set},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
