/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host_trouble_test.c - a host that lowers its own limits while a broker is open, forks, closes what it did not open: no call ends it by a
 * signal, what was acknowledged is there, and once the cause is gone all goes on. Public face only.
 */
#include "bad_input.h"

#include <thundermq/reactor.h>

#include <sys/resource.h>

static void lower(int what, rlim_t value, struct rlimit *ret_before)
{
	struct rlimit few;

	getrlimit((__rlimit_resource_t)what, ret_before);
	few = (struct rlimit){value, ret_before->rlim_max};
	MUST(-setrlimit((__rlimit_resource_t)what, &few));
}

static void put_back(int what, const struct rlimit *before)
{
	setrlimit((__rlimit_resource_t)what, before);
}

/* Numbers from @first on, until one is refused or @count were taken; each is waited for. Return: how many were acknowledged. */
static uint64_t put_some(struct world *w, uint64_t first, uint64_t count, int *ret_error)
{
	struct thmq_producer *p = NULL;
	struct thmq_event e[16];
	uint64_t i = first;
	int64_t rc = 0;
	int n;

	*ret_error = thmq_producer_open(w->session, "numbers", NULL, &p);
	for (; !*ret_error && i < first + count;) {
		rc = thmq_send(p, &i, sizeof(i), NULL);
		if (rc == -EAGAIN) {
			thmq_session_wait(w->session, SECOND / 100);
			continue;
		}
		if (rc >= 0)
			rc = thmq_flush(p, 5 * SECOND);
		while ((n = thmq_events(w->session, e, 16)) > 0)
			while (n--)
				if (e[n].type == THMQ_EVENT_FAILED || e[n].type == THMQ_EVENT_ERROR)
					*ret_error = e[n].error;
		if (rc < 0 && !*ret_error)
			*ret_error = (int)rc;
		i += !*ret_error;
	}
	if (p)
		thmq_producer_close(p, SECOND);
	return i - first;
}

/* Half a second: the host goes on driving the core. */
static void let_pass(struct world *w)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		thmq_poll(w->env, SECOND / 50);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < 500);
}

/* ------------------------------------------------------------------- file sizes */

static void file_size_life(uint32_t env_flags, bool lowered_first)
{
	struct rlimit before;
	struct world w = {0};
	uint64_t had = 30000, got;
	int rc, error = 0;

	place_make(NULL);
	signal(SIGXFSZ, SIG_DFL); /* it would end the host */
	numbers_dir(in_place("data"), had);
	MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.flags = env_flags, .pool_bytes = 128 << 20)));
	if (lowered_first)
		lower(RLIMIT_FSIZE, 64 << 10, &before);
	rc = broker_on(w.env, in_place("data"), 0, &w.broker);
	if (rc == 0)
		rc = thmq_connect(w.env, "inproc://", NULL, &w.session);
	if (!lowered_first) {
		MUST(rc);
		lower(RLIMIT_FSIZE, 64 << 10, &before);
	}
	got = rc ? 0 : put_some(&w, had, 2000, &error);
	if (lowered_first) { /* the first write behind the limit would be the log's last */
		CHECK(rc == -EFBIG);
		check_text(__FILE__, __LINE__, "open", "RLIMIT_FSIZE");
	}
	if (rc == 0 && got < 2000)
		CHECK(error == -EFBIG || error == -ENOSPC || error == -THMQ_EFAILED);
	fprintf(stderr, "open %s, %llu were taken, then %s\n", thmq_errname(rc), (unsigned long long)got, thmq_errname(error));
	let_pass(&w); /* statistics are written meanwhile */
	thmq_env_close(w.env, 5 * SECOND);
	put_back(RLIMIT_FSIZE, &before);
	memset(&w, 0, sizeof(w));
	world_up(&w, in_place("data"));
	CHECK(get_numbers(w.session) >= had + got);
	world_down(&w);
}

static void files_beyond_a_limit(void)
{
	file_size_life(0, true);
}

static void files_beyond_a_limit_inline(void)
{
	file_size_life(THMQ_ENV_NO_URING, true);
}

static void file_limit_comes_later(void)
{
	file_size_life(0, false);
}

static void file_limit_comes_later_inline(void)
{
	file_size_life(THMQ_ENV_NO_URING, false);
}

/* What two processes share is files, too. */
static void shared_memory_beyond_a_limit(void)
{
	struct thmq_session *session = NULL;
	struct rlimit before;
	struct world w = {0};
	char url[300];
	int status, rc;
	pid_t pid;

	place_make(NULL);
	signal(SIGXFSZ, SIG_DFL);
	snprintf(url, sizeof(url), "shm://%s", in_place("socket"));
	MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.core_count = 1, .pool_bytes = 128 << 20)));
	MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.listen = url), &w.broker));
	pid = fork();
	if (pid == 0) {
		env_up(&w);
		lower(RLIMIT_FSIZE, 64 << 10, &before);
		rc = thmq_connect(w.env, url, NULL, &session);
		put_back(RLIMIT_FSIZE, &before);
		RETURNS(-EFBIG, rc);
		MUST(thmq_connect(w.env, url, NULL, &session)); /* more is a cure */
		RETURNS(0, thmq_env_close(w.env, SECOND));
		_exit(failures ? 1 : 0);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	world_down(&w);
}

/* ------------------------------------------------------------------ descriptors */

static unsigned descriptors(void)
{
	unsigned n = 0, i;

	for (i = 0; i < 1024; i++)
		n += fcntl((int)i, F_GETFD) >= 0;
	return n;
}

/* None is to be had any more, in the middle of it all. */
static void no_descriptor_left(void)
{
	struct thmq_session *other = NULL;
	struct rlimit before;
	struct world w;
	uint64_t got;
	unsigned n;
	int error, rc, i;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 1000);
	n = descriptors();
	lower(RLIMIT_NOFILE, 3, &before);
	for (i = 0; i < 20; i++) {
		rc = thmq_connect(w.env, "inproc://", NULL, &other);
		if (rc == 0)
			thmq_session_close(other, SECOND);
		else
			CHECK(thmq_errmsg()[0]);
	}
	rc = thmq_topic_create(w.session, "more", THMQ_TOPIC_OPTS(.partition_count = 4));
	fprintf(stderr, "topic: %s\n", thmq_errname(rc));
	got = put_some(&w, 1000, 3000, &error);
	fprintf(stderr, "%llu were taken, then %s; %u descriptors\n", (unsigned long long)got, thmq_errname(error), n);
	put_back(RLIMIT_NOFILE, &before);
	if (error != -THMQ_EFAILED) {
		uint64_t more;

		let_pass(&w); /* it is tried again now and then */
		more = put_some(&w, 1000 + got, 100, &error);

		RETURNS(0, error);
		got += more;
	}
	CHECK(get_numbers(w.session) >= 1000 + got);
	world_down(&w);
	expect_numbers(in_place("data"), 1000 + got);
}

/* A "daemonising" host closes all that it does not know. */
static void all_closed(uint32_t env_flags)
{
	struct world w = {0};
	struct timespec a, b;
	int error, i;
	uint64_t got;

	place_make(NULL);
	MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.flags = env_flags, .pool_bytes = 128 << 20)));
	MUST(broker_on(w.env, in_place("data"), 0, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	put_numbers(w.session, 0, 1000);
	for (i = 3; i < 256; i++)
		close(i);
	clock_gettime(CLOCK_MONOTONIC, &a);
	got = put_some(&w, 1000, 100, &error);
	fprintf(stderr, "%llu were taken, then %s\n", (unsigned long long)got, thmq_errname(error));
	thmq_session_close(w.session, 2 * SECOND);
	thmq_broker_close(w.broker, 2 * SECOND);
	thmq_env_close(w.env, 2 * SECOND);
	clock_gettime(CLOCK_MONOTONIC, &b);
	CHECK(b.tv_sec - a.tv_sec < 30);
	memset(&w, 0, sizeof(w));
	world_up(&w, in_place("data"));
	CHECK(get_numbers(w.session) >= 1000 + got);
	world_down(&w);
}

static void all_closed_ring(void)
{
	all_closed(0);
}

static void all_closed_inline(void)
{
	all_closed(THMQ_ENV_NO_URING);
}

/* ------------------------------------------------------------------------- fork */

/* What the child inherits by exec is nothing of ours. */
static void nothing_goes_through_exec(void)
{
	char list[64];
	struct world w;
	int status;
	pid_t pid;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	snprintf(list, sizeof(list), "test $(ls /proc/self/fd | wc -l) -le %u", descriptors());
	pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done | grep -E 'data|anon_inode|memfd' && exit 1; exit 0", NULL);
		_exit(2);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	world_down(&w);
}

/* A child that leaves, by whatever way, takes nothing along. */
static void children_come_and_go(void)
{
	struct world w;
	uint64_t next = 0;
	int i, status;
	pid_t pid;

	place_make(NULL);
	world_up(&w, in_place("data"));
	for (i = 0; i < 20; i++, next += 100) {
		put_numbers(w.session, next, 100);
		pid = fork();
		if (pid == 0 && i % 2)
			_exit(0);
		if (pid == 0)
			kill(getpid(), SIGKILL);
		if (i % 4)
			waitpid(pid, &status, 0);
	}
	while (waitpid(-1, &status, 0) > 0)
		;
	CHECK(get_numbers(w.session) == next);
	world_down(&w);
	expect_numbers(in_place("data"), next);
}

/* As destructors do at the end of a child, or the garbage collection of a language: all is refused. */
static void child(struct world *w, struct thmq_txn *txn)
{
	struct thmq_broker_stats stats = {.size = sizeof(stats)};
	struct thmq_producer *p;
	struct thmq_session *s;
	struct thmq_broker *b;
	struct thmq_env *own;

	SAYS(-EINVAL, "fork", thmq_env_close(w->env, SECOND));
	SAYS(-EINVAL, "fork", thmq_broker_close(w->broker, SECOND));
	SAYS(-EINVAL, "fork", thmq_session_close(w->session, SECOND));
	SAYS(-EINVAL, "fork", thmq_broker_stats(w->broker, &stats));
	SAYS(-EINVAL, "fork", thmq_broker_open(w->env, NULL, &b));
	SAYS(-EINVAL, "fork", thmq_connect(w->env, "inproc://", NULL, &s));
	SAYS(-EINVAL, "fork", thmq_topic_create(w->session, "child", NULL));
	SAYS(-EINVAL, "fork", thmq_producer_open(w->session, "numbers", NULL, &p));
	SAYS(-EINVAL, "fork", thmq_txn_abort(txn, SECOND));
	SAYS(-EINVAL, "fork", thmq_txn_commit(txn, SECOND));
	SAYS(-EINVAL, "fork", thmq_txn_begin(w->session, NULL, &txn));
	SAYS(-EINVAL, "fork", thmq_txn_list(w->session, NULL, 0));
	RETURNS(-EINVAL, thmq_poll(w->env, 0));
#if defined(__SANITIZE_ADDRESS__)
	return; /* the sanitizer still has for poisoned what lay at addresses that the child can have anew */
#endif
	SAYS(-EBUSY, "process", (env_up(w), broker_on(w->env, in_place("data"), 0, &b)));
	own = w->env;
	MUST(broker_on(own, in_place("child"), 0, &w->broker)); /* one of its own it may have */
	MUST(thmq_connect(own, "inproc://", NULL, &w->session));
	put_numbers(w->session, 0, 100);
	world_down(w);
	remove_tree(in_place("child"));
}

/* A child that uses its parent's handles all the same: it fails, and harms nobody. */
static void child_uses_handles(uint32_t env_flags)
{
	struct world w = {0};
	struct thmq_txn *txn;
	int status, i;
	pid_t pid;

	place_make(NULL);
	MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.flags = env_flags, .pool_bytes = 128 << 20)));
	MUST(broker_on(w.env, in_place("data"), 0, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	put_numbers(w.session, 0, 1000);
	MUST(thmq_txn_begin(w.session, NULL, &txn));
	for (i = 0; i < 4; i++) {
		pid = fork();
		if (pid == 0) {
			alarm(5);
			child(&w, txn);
			_exit(failures ? 1 : 0);
		}
		put_numbers(w.session, 1000 + 100 * (uint64_t)i, 100);
		waitpid(pid, &status, 0);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	put_numbers(w.session, 1400, 100);
	MUST(thmq_txn_commit(txn, 5 * SECOND)); /* it is the parent's still */
	CHECK(get_numbers(w.session) == 1500);
	world_down(&w);
	expect_numbers(in_place("data"), 1500);
}

static void child_of_rings(void)
{
	child_uses_handles(0);
}

static void child_of_calls(void)
{
	child_uses_handles(THMQ_ENV_NO_URING);
}

/* ----------------------------------------------------------------- fork, with a log */

struct logged {
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmq_log *log;
	struct thmq_log_reader *reader;
	uint64_t next;
};

static void log_up(struct logged *l, uint32_t env_flags)
{
	MUST(thmq_env_open(&l->env, THMQ_ENV_OPTS(.flags = env_flags, .pool_bytes = 128 << 20)));
	l->core = thmq_env_core(l->env, 0);
	MUST(thmq_log_open(l->core, THMQ_LOG_OPTS(.dir = in_place("log"), .segment_bytes_min = 1 << 20, .segment_bytes_max = 1 << 20), &l->log));
	MUST(thmq_log_reader_open(l->log, 1, NULL, NULL, &l->reader));
}

static void log_some(struct logged *l, uint64_t count)
{
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	for (; count; l->next++, count--) {
		while ((rc = thmq_log_append(l->log, sizeof(*run) + 8, &run, &index)) == -EAGAIN)
			thmq_poll(l->env, SECOND / 100);
		MUST(rc);
		thmq_run_init(run, THMQ_RUN_OPAQUE, 1, l->next, 1, 8);
		memcpy(run + 1, &l->next, 8);
		MUST(thmq_log_append_end(l->log, run, THMQ_DURABILITY_DURABLE));
	}
}

static void child_of_log(struct logged *l)
{
	struct thmq_log_reader *reader;
	struct thmq_run_header *run;
	struct thmq_log_view view;
	struct thmq_log *log;
	uint64_t index, term;

	SAYS(-EPERM, "fork", thmq_log_open(l->core, THMQ_LOG_OPTS(.dir = in_place("other")), &log));
	RETURNS(-EPERM, thmq_log_append(l->log, 128, &run, &index));
	RETURNS(-EPERM, thmq_log_flush(l->log, &index));
	RETURNS(-EPERM, thmq_log_truncate(l->log, 2));
	RETURNS(-EPERM, thmq_log_find_index(l->log, 1, &index, &term));
	RETURNS(-EPERM, thmq_log_bounds(l->log, 1, &index, &term));
	RETURNS(-EPERM, thmq_log_reader_open(l->log, 1, NULL, NULL, &reader));
	RETURNS(-EPERM, thmq_log_read(l->reader, UINT64_MAX, &view));
	RETURNS(-EPERM, thmq_log_reader_find_time(l->reader, 0, &index));
	RETURNS(-EPERM, thmq_log_reader_seek_key(l->reader, "k", 1, INT64_MIN, INT64_MAX, UINT64_MAX));
	RETURNS(-EDEADLK, thmq_log_copy(l->log, in_place("other")));
	thmq_log_reader_seek(l->reader, 0);
	thmq_log_reader_close(l->reader);
	thmq_log_forget(l->log, 1);
	SAYS(-EPERM, "fork", thmq_log_close(l->log, SECOND));
	SAYS(-EINVAL, "fork", thmq_env_close(l->env, SECOND));
}

/* A child that uses its parent's log all the same: it fails, and neither writes by its parent's ring nor takes what is its. */
static void child_uses_logs(uint32_t env_flags)
{
	uint64_t begin, end, seen = 0;
	struct thmq_log_view view;
	struct logged l = {0};
	int status, i, rc;
	pid_t pid;

	place_make(NULL);
	log_up(&l, env_flags);
	for (i = 0; i < 4; i++) {
		log_some(&l, 100); /* on its way */
		pid = fork();
		if (pid == 0) {
			alarm(10);
			child_of_log(&l);
			_exit(failures ? 1 : 0);
		}
		log_some(&l, 100);
		waitpid(pid, &status, 0);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	thmq_log_reader_close(l.reader);
	MUST(thmq_log_close(l.log, 10 * SECOND));
	MUST(thmq_env_close(l.env, SECOND));
	log_up(&l, env_flags);
	MUST(thmq_log_bounds(l.log, 1, &begin, &end));
	CHECK(begin == 0 && end == l.next);
	thmq_log_reader_seek(l.reader, 0);
	while (seen < end && (rc = thmq_log_read(l.reader, end, &view)) >= 0) {
		if (rc == 0) {
			thmq_poll(l.env, SECOND);
			continue;
		}
		CHECK(view.run.header->base_offset == seen && memcmp(view.run.payload, &seen, 8) == 0);
		seen++;
		thmq_log_view_release(l.log, &view);
	}
	CHECK(seen == end);
	thmq_log_reader_close(l.reader);
	MUST(thmq_env_close(l.env, SECOND));
}

static void child_of_log_by_rings(void)
{
	child_uses_logs(0);
}

static void child_of_log_by_calls(void)
{
	child_uses_logs(THMQ_ENV_NO_URING);
}

/* A child that lives on does not hold what its parent has closed; what a parent held that was killed it does, and who wants it hears so. */
static void child_outlives(void)
{
	struct world w;
	int status, ends[2];
	pid_t parent, child;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	world_down(&w);
	expect_numbers(in_place("data"), 10);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	MUST(-pipe(ends));
	parent = fork();
	if (parent == 0) {
		world_up(&w, in_place("data"));
		put_numbers(w.session, 10, 10);
		child = fork();
		if (child == 0) {
			pause();
			_exit(0);
		}
		if (write(ends[1], &child, sizeof(child)) != sizeof(child))
			_exit(1);
		pause();
		_exit(0);
	}
	CHECK(read(ends[0], &child, sizeof(child)) == sizeof(child));
	kill(parent, SIGKILL);
	waitpid(parent, &status, 0);
	env_up(&w);
	SAYS(-EBUSY, "a child that it forked", broker_on(w.env, in_place("data"), 0, &w.broker));
	kill(child, SIGKILL);
	for (status = -EBUSY; status == -EBUSY;)
		status = broker_on(w.env, in_place("data"), 0, &w.broker);
	RETURNS(0, status);
	RETURNS(0, thmq_env_close(w.env, SECOND));
	expect_numbers(in_place("data"), 20);
}

static const struct bad_case cases[] = {
	{"files_beyond_a_limit", files_beyond_a_limit},
	{"files_beyond_a_limit_inline", files_beyond_a_limit_inline},
	{"file_limit_comes_later", file_limit_comes_later},
	{"file_limit_comes_later_inline", file_limit_comes_later_inline},
	{"shared_memory_beyond_a_limit", shared_memory_beyond_a_limit},
	{"no_descriptor_left", no_descriptor_left},
	{"all_closed_ring", all_closed_ring},
	{"all_closed_inline", all_closed_inline},
	{"nothing_goes_through_exec", nothing_goes_through_exec},
	{"children_come_and_go", children_come_and_go},
	{"child_of_log_by_rings", child_of_log_by_rings},
	{"child_of_log_by_calls", child_of_log_by_calls},
	{"child_of_rings", child_of_rings},
	{"child_of_calls", child_of_calls},
	{"child_outlives", child_outlives},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
