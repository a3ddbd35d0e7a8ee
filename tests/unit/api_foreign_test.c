/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_foreign_test.c - calls that come from the wrong core: each either reaches the right one, or gives its error and changes
 * nothing.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>

#define SECOND 1000000000ull

static char dir[64];
static struct thmq_env *env;

static void make_dir(void)
{
	strcpy(dir, "/tmp/api-foreign-XXXXXX");
	cr_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -r '%s'", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(api_foreign, .init = make_dir, .fini = remove_dir, .timeout = 60);

static void open_env(uint32_t core_count, uint32_t caller_cores)
{
	cr_assert_eq(
		thmq_env_open(&env,
			      THMQ_ENV_OPTS(.core_count = core_count, .caller_cores = caller_cores,
					    .policy = THMQ_POLICY_EVENT, .flags = THMQ_ENV_NO_PIN)),
		0, "%s", thmq_errmsg());
}

/* --------------------------------------------------------------------- logs */

struct job {
	struct thmq_log *log;
	struct thmq_log_reader *reader;
	uint64_t begin, end, index;
	uint32_t runs;
	int rc;
};

static int open_log(struct thmq_core *core, void *arg)
{
	struct job *j = arg;

	return thmq_log_open(core, THMQ_LOG_OPTS(.dir = dir, .segment_bytes_min = 1u << 20),
			     &j->log);
}

static int open_reader(struct thmq_core *core, void *arg)
{
	struct job *j = arg;

	(void)core;
	return thmq_log_reader_open(j->log, 1, NULL, NULL, &j->reader);
}

static int append_one(struct thmq_core *core, void *arg)
{
	struct job *j = arg;
	struct thmq_run_header *run;
	int rc;

	(void)core;
	rc = thmq_log_append(j->log, sizeof(*run) + 8, &run, &j->index);
	if (rc)
		return rc;
	thmq_run_init(run, THMQ_RUN_OPAQUE, 1, j->end++, 1, 8);
	memcpy(run + 1, &j->index, 8);
	return thmq_log_append_end(j->log, run, THMQ_DURABILITY_DURABLE);
}

static int count_runs(struct thmq_core *core, void *arg)
{
	struct job *j = arg;
	struct thmq_log_view view;

	(void)core;
	while ((j->rc = thmq_log_read(j->reader, UINT64_MAX, &view)) == 1) {
		thmq_log_view_release(j->log, &view);
		j->runs++;
	}
	return thmq_log_bounds(j->log, 1, &j->begin, &j->end);
}

static int close_log(struct thmq_core *core, void *arg)
{
	struct job *j = arg;

	(void)core;
	thmq_log_reader_close(j->reader);
	return thmq_log_close(j->log, 10 * SECOND);
}

/* From this thread, which is not the log's. */
static void try_everything(struct job *j)
{
	struct thmq_run_header run = {0}, *room = NULL;
	struct thmq_log_reader *reader = NULL;
	uint64_t a = 7, b = 7, term = 7;
	struct thmq_record_view record;
	struct thmq_log_hit hit = {0};
	struct thmq_log_view view;

	cr_assert_eq(thmq_log_append(j->log, 200, &room, &a), -EPERM);
	cr_assert_eq(thmq_log_append_end(j->log, &run, THMQ_DURABILITY_DURABLE), -EPERM);
	thmq_log_append_abort(j->log);
	cr_assert_eq(thmq_log_flush(j->log, &a), -EPERM);
	cr_assert_eq(thmq_log_bounds(j->log, 1, &a, &b), -EPERM);
	cr_assert_eq(thmq_log_find_index(j->log, 1, &a, &term), -EPERM);
	cr_assert_eq(thmq_log_truncate(j->log, 2), -EPERM);
	thmq_log_forget(j->log, 1);
	cr_assert_eq(thmq_log_reader_open(j->log, 1, NULL, NULL, &reader), -EPERM);
	cr_assert(strstr(thmq_errmsg(), "drives"));
	thmq_log_reader_seek(j->reader, 1000);
	thmq_log_reader_filter(j->reader, 1);
	cr_assert_eq(thmq_log_read(j->reader, UINT64_MAX, &view), -EPERM);
	cr_assert_eq(thmq_log_reader_find_time(j->reader, 0, &a), -EPERM);
	cr_assert_eq(thmq_log_reader_seek_key(j->reader, "k", 1, INT64_MIN, INT64_MAX, UINT64_MAX),
		     -EPERM);
	cr_assert_eq(thmq_log_read_hit(j->reader, &hit, &view, &record), -EPERM);
	thmq_log_reader_close(j->reader);
	cr_assert_eq(thmq_log_close(j->log, SECOND), -EPERM);
	cr_assert(strstr(thmq_errmsg(), "drives"));
	/* nothing was given out */
	cr_assert_null(room);
	cr_assert_null(reader);
	cr_assert_eq(a, 7);
	cr_assert_eq(b, 7);
	cr_assert_eq(term, 7);
}

Test(api_foreign, every_call_on_a_log_of_another_core_is_refused_and_changes_nothing)
{
	struct job j = {0};
	struct thmq_core *core;

	open_env(1, 0);
	core = thmq_env_core(env, 0);
	cr_assert_eq(thmq_core_call(core, open_log, &j, SECOND), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_core_call(core, open_reader, &j, SECOND), 0);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(thmq_core_call(core, append_one, &j, SECOND), 0);
		try_everything(&j);
	}
	cr_assert_eq(thmq_core_call(core, count_runs, &j, SECOND), 0);
	cr_assert_eq(j.runs, 3);
	cr_assert_eq(j.begin, 0);
	cr_assert_eq(j.end, 3);
	cr_assert_eq(thmq_core_call(core, close_log, &j, 20 * SECOND), 0);
	thmq_env_close(env, 0);
}

Test(api_foreign, a_thread_that_gave_its_core_up_has_its_logs_no_more)
{
	struct job j = {0};

	open_env(0, 2);
	cr_assert_eq(open_log(thmq_env_core(env, 0), &j), 0);
	cr_assert_eq(open_reader(NULL, &j), 0);
	cr_assert_eq(append_one(NULL, &j), 0);
	cr_assert_eq(thmq_core_detach(env), 0);
	try_everything(&j);
	cr_assert_eq(thmq_core_attach(env, 1), 0);
	try_everything(&j);
	cr_assert_eq(thmq_core_attach(env, 0), 0);
	cr_assert_eq(append_one(NULL, &j), 0);
	cr_assert_eq(count_runs(NULL, &j), 0);
	cr_assert_eq(j.runs, 2);
	/* and what is left open is closed with its environment, also when nobody drives its core */
	thmq_log_reader_close(j.reader);
	cr_assert_eq(thmq_core_detach(env), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	open_env(0, 1);
	cr_assert_eq(open_log(thmq_env_core(env, 0), &j), 0);
	cr_assert_eq(thmq_log_bounds(j.log, 1, &j.begin, &j.end), 0);
	cr_assert_eq(j.end, 2);
	cr_assert_eq(thmq_log_close(j.log, SECOND), 0);
	thmq_env_close(env, 0);
}

/* ------------------------------------------------------------------ pollers */

static int poll_nothing(void *ctx, uint32_t budget)
{
	(void)ctx;
	(void)budget;
	return 0;
}

Test(api_foreign, pollers_are_opened_and_closed_on_their_core)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = poll_nothing};
	struct thmq_poller *p = NULL;

	open_env(0, 2);
	cr_assert_eq(thmq_poller_open(thmq_env_core(env, 1), &ops, NULL, &p), -EPERM);
	cr_assert_null(p);
	cr_assert_eq(thmq_core_attach(env, 1), 0);
	cr_assert_eq(thmq_poller_open(thmq_env_core(env, 1), &ops, NULL, &p), 0,
		     "of one of several cores");
	cr_assert_eq(thmq_core_detach(env), 0);
	cr_assert_eq(thmq_poller_close(p), -EPERM);
	cr_assert_eq(thmq_core_attach(env, 1), 0);
	cr_assert_eq(thmq_poller_close(p), 0);
	thmq_env_close(env, 0);
}

/* ----------------------------------------------------------------- sessions */

#define SHARDS 3u

/* Through a session of this thread, whatever core it drives: to every shard and back, and what only meta knows. */
static void use_all_shards(const char *topic)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[16];
	uint32_t i, seen = 0;
	int n;

	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &s), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_topic_create(s, topic, THMQ_TOPIC_OPTS(.partition_count = SHARDS)), 0,
		     "%s", thmq_errmsg());
	cr_assert_eq(thmq_producer_open(s, topic, NULL, &p), 0);
	for (i = 0; i < SHARDS; i++)
		cr_assert_gt(thmq_send(p, &i, sizeof(i),
				       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
							 .partition = i)),
			     0);
	cr_assert_eq(thmq_flush(p, 20 * SECOND), 0);
	cr_assert_eq(thmq_consumer_open(s, topic, "g",
					THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c),
		     0);
	while (seen < SHARDS) {
		cr_assert_geq(thmq_session_wait(s, 20 * SECOND), 0);
		n = thmq_fetch(c, m, 16);
		for (i = 0; n > 0 && i < (uint32_t)n; i++)
			cr_assert_eq(thmq_ack(c, &m[i]), 0);
		if (n > 0)
			thmq_release(c, m, (uint32_t)n);
		seen += (uint32_t)(n > 0 ? n : 0);
	}
	cr_assert_eq(thmq_consumer_flush(c, 20 * SECOND), 0);
	for (i = 0; i < SHARDS; i++) {
		cr_assert_eq(thmq_partition_describe(s, topic, i, "g", &info), 0);
		cr_assert_eq(info.group_offset, info.begin_offset + 1);
	}
	cr_assert_eq(thmq_topic_delete(s, topic), 0);
	cr_assert_eq(thmq_session_close(s, 20 * SECOND), 0);
}

struct driver {
	uint32_t core;
	char topic[16];
	volatile int *stop;
};

static void *drive_and_use(void *arg)
{
	struct driver *d = arg;

	cr_assert_eq(thmq_core_attach(env, d->core), 0);
	while (!*d->stop)
		thmq_poll(env, SECOND / 100);
	use_all_shards(d->topic);
	*d->stop = 2;
	while (*d->stop != 3)
		thmq_poll(env, SECOND / 100);
	cr_assert_eq(thmq_core_detach(env), 0);
	return NULL;
}

Test(api_foreign, a_session_on_any_thread_reaches_all_cores)
{
	struct thmq_broker *b;
	volatile int stop = 0;
	struct driver d = {.core = 2, .topic = "of-core-2", .stop = &stop};
	pthread_t thread;

	open_env(0, SHARDS);
	cr_assert_eq(thmq_core_attach(env, 1), 0); /* this thread has 0 and 1, the other one 2 */
	cr_assert_eq(pthread_create(&thread, NULL, drive_and_use, &d), 0);
	while (thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1u << 20),
				&b) == -EDEADLK)
		; /* until that one is there */
	use_all_shards("of-core-0");
	stop = 1;
	while (stop != 2)
		thmq_poll(env, SECOND / 100);
	cr_assert_eq(thmq_broker_close(b, 20 * SECOND), 0, "%s", thmq_errmsg());
	stop = 3;
	pthread_join(thread, NULL);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

static int wait_on_a_core(struct thmq_core *core, void *arg)
{
	struct thmq_session *s = NULL;
	struct thmq_broker *b = NULL;

	(void)core;
	(void)arg;
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &s), -EDEADLK);
	cr_assert_eq(thmq_broker_open(env, NULL, &b), -EDEADLK);
	cr_assert_eq(thmq_core_call(thmq_env_core(env, 1), wait_on_a_core, NULL, SECOND), -EDEADLK);
	cr_assert_eq(thmq_env_close(env, SECOND), -EDEADLK);
	cr_assert_eq(thmq_core_attach(env, 0), -EPERM);
	cr_assert_null(s);
	cr_assert_null(b);
	return 0;
}

struct posted {
	struct thmq_task task;
	struct thmq_session *session;
	int rc;
};

static int create_on_a_core(struct thmq_core *core, void *arg)
{
	(void)core;
	return thmq_topic_create(arg, "from-a-callback", NULL);
}

static void run_create(struct thmq_core *core, struct thmq_task *task)
{
	struct posted *p = (struct posted *)task;

	p->rc = create_on_a_core(core, p->session);
}

Test(api_foreign, a_request_that_is_refused_in_a_callback_has_not_happened)
{
	struct thmq_session *s;
	struct thmq_broker *b;

	open_env(0, 2);
	cr_assert_eq(thmq_core_attach(env, 1), 0);
	cr_assert_eq(thmq_broker_open(
			     env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1u << 20), &b),
		     0);
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &s), 0);
	for (uint32_t i = 0; i < 2; i++) {
		struct posted p = {.task.run = run_create, .session = s, .rc = 1};

		thmq_core_post(thmq_env_core(env, i), &p.task);
		while (p.rc == 1)
			thmq_poll(env, SECOND / 100);
		cr_assert_eq(p.rc, -EDEADLK);
	}
	cr_assert_eq(thmq_topic_delete(s, "from-a-callback"), -THMQ_ENOTOPIC);
	cr_assert_eq(create_on_a_core(NULL, s), 0, "outside of it goes well");
	cr_assert_eq(thmq_env_close(env, 10 * SECOND), 0);
}

Test(api_foreign, what_runs_on_a_core_may_not_wait_for_any)
{
	struct thmq_broker *b;

	open_env(2, 0);
	cr_assert_eq(thmq_broker_open(
			     env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1u << 20), &b),
		     0);
	cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), wait_on_a_core, NULL, 10 * SECOND), 0);
	cr_assert_eq(thmq_core_call(thmq_env_core(env, 1), wait_on_a_core, NULL, 10 * SECOND), 0);
	cr_assert_eq(thmq_env_close(env, 10 * SECOND), 0);
}
