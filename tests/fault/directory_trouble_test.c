/* SPDX-License-Identifier: Apache-2.0 */
/*
 * directory_trouble_test.c - somebody does to the directory of a running broker what nobody should: renames, removes, truncates,
 * replaces, closes it to writing. The broker says so where it hurts, never acknowledges what it does not have, goes down in time, and
 * what is left is judged rightly at the next open. Public face only.
 */
#include "bad_input.h"

#include <sys/resource.h>

#define COUNT 2000ull

/* With library's threads or the caller's; a third of a segment is there already. */
static void up(struct world *w, const char *dir)
{
	world_up(w, dir);
	put_numbers(w->session, 0, COUNT);
}

/*
 * Publish until something is refused or @bytes were taken. Return: how many were acknowledged as durable, counted from @first on; each
 * has 1000 bytes.
 */
static uint64_t put_large(struct world *w, uint64_t first, uint64_t bytes, int *ret_error)
{
	char body[1000] = {0};
	struct thmq_producer *p;
	struct thmq_event e[64];
	uint64_t i = first;
	int64_t rc = 0;
	int n;

	*ret_error = 0;
	MUST(thmq_producer_open(w->session, "numbers", NULL, &p));
	while (!*ret_error && (i - first) * sizeof(body) < bytes) {
		memcpy(body, &i, sizeof(i));
		rc = thmq_send(p, body, sizeof(body), NULL);
		if (rc == -EAGAIN)
			thmq_session_wait(w->session, SECOND / 100);
		else if (rc < 0)
			*ret_error = (int)rc;
		else
			i++;
		while ((n = thmq_events(w->session, e, 64)) > 0)
			while (n--)
				if (e[n].type == THMQ_EVENT_FAILED)
					*ret_error = e[n].error;
	}
	rc = thmq_flush(p, 10 * SECOND);
	CHECK(rc == 0 || rc == -EIO);
	while ((n = thmq_events(w->session, e, 64)) > 0)
		while (n--)
			if (e[n].type == THMQ_EVENT_FAILED && !*ret_error)
				*ret_error = e[n].error;
	CHECK((rc == 0) == (*ret_error == 0));
	thmq_producer_close(p, 10 * SECOND);
	return i - first;
}

/* The host goes on driving the core. */
static void let_pass(struct world *w, unsigned seconds)
{
	time_t end = time(NULL) + seconds + 1;

	while (time(NULL) < end)
		thmq_poll(w->env, SECOND / 10);
}

/* ------------------------------------------------------------ as a whole */

/* The broker holds its directory by itself, not by its name. */
static void renamed(void)
{
	struct world w;
	int error;

	place_make(NULL);
	up(&w, in_place("data"));
	MUST(rename(in_place("data"), in_place("elsewhere")));
	put_large(&w, COUNT, 3 << 20, &error); /* several segments are made meanwhile */
	if (error)
		FAIL("%s", thmq_errname(error));
	RETURNS(0, thmq_topic_create(w.session, "another", NULL));
	world_down(&w);
	CHECK(access(in_place("data"), F_OK) != 0);
	RETURNS(0,
		thmq_data_scan(in_place("elsewhere"),
			       &(struct thmq_log_visitor){.size = sizeof(struct thmq_log_visitor)},
			       NULL));
}

/* Another directory under the old name is another's. */
static void renamed_and_opened_again(void)
{
	struct world w, other;

	place_make(NULL);
	up(&w, in_place("data"));
	MUST(rename(in_place("data"), in_place("elsewhere")));
	world_up(&other, in_place("data"));
	put_numbers(other.session, 0, 10);
	world_down(&other);
	expect_numbers(in_place("data"), 10);
	SAYS(-EBUSY, in_place("elsewhere"),
	     broker_on(w.env, in_place("elsewhere"), 0, &other.broker));
	world_down(&w);
	expect_numbers(in_place("elsewhere"), COUNT);
}

static void removed(void)
{
	struct world w;
	int error, rc;

	place_make(NULL);
	up(&w, in_place("data"));
	remove_tree(in_place("data"));
	put_large(&w, COUNT, 8 << 20,
		  &error); /* no segment can be made in a directory that is not there */
	if (error != -ENOENT && error != -THMQ_EFAILED)
		FAIL("%s", thmq_errname(error));
	thmq_session_close(w.session, SECOND);
	rc = thmq_broker_close(w.broker, SECOND);
	printf("close: %s (%s)\n", thmq_errname(rc), thmq_errmsg());
	rc = thmq_env_close(w.env, SECOND);
	CHECK(rc == 0);
}

static void read_only_body(void)
{
	struct world w;
	uint64_t n;
	int error;

	up(&w, in_place("data"));
	MUST(chmod(in_place("data/shard-000"), 0500));
	MUST(chmod(in_place("data"), 0500));
	n = put_large(&w, COUNT, 8 << 20, &error);
	if (error != -EACCES)
		FAIL("%s", thmq_errname(error));
	MUST(chmod(in_place("data/shard-000"), 0700));
	MUST(chmod(in_place("data"), 0700));
	CHECK(n > 0);
	let_pass(&w, 1); /* it is tried again five times a second */
	put_large(&w, COUNT + n, 2 << 20, &error);
	if (error)
		FAIL("after it may be written again: %s", thmq_errname(error));
	world_down(&w);
}

static void made_read_only(void)
{
	place_make(NULL);
	as_nobody(read_only_body);
}

/* ---------------------------------------------------------------- one file */

static const char *first_segment = "data/shard-000/00000000000000000000.log";

/* A segment that is read no more from the device, since all of it is in the cache, and one that is. */
static void segment_truncated(void)
{
	struct thmq_event e[64];
	struct thmq_consumer *c;
	struct thmq_message m[64];
	struct world w;
	int error, n, trouble = 0;
	unsigned i;

	place_make(NULL);
	up(&w, in_place("data"));
	put_large(&w, COUNT, 12 << 20, &error); /* the first segment is far behind the cache */
	CHECK(!error);
	MUST(truncate(in_place(first_segment), 8192));
	MUST(thmq_consumer_open(w.session, "numbers", NULL, NULL, &c));
	for (i = 0; i < 200 && !trouble; i++) {
		n = thmq_fetch(c, m, 64);
		if (n < 0)
			trouble = n;
		else
			thmq_release(c, m, (uint32_t)n);
		while ((n = thmq_events(w.session, e, 64)) > 0)
			while (n--)
				if (e[n].type == THMQ_EVENT_ERROR)
					trouble = e[n].error;
		if (!trouble)
			thmq_session_wait(w.session, SECOND / 100);
	}
	if (trouble != -THMQ_ECORRUPT && trouble != -EIO)
		FAIL("a reader hears %s", trouble ? thmq_errname(trouble) : "nothing");
	RETURNS(0, thmq_consumer_close(c, SECOND));
	put_large(&w, COUNT, 1 << 20, &error); /* who writes is not touched by that */
	CHECK(!error);
	world_down(&w);
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, "00000000000000000000.log",
	     broker_on(w.env, in_place("data"), 0, &w.broker));
	world_down(&w);
}

static void active_segment_truncated(void)
{
	struct world w;
	int error;

	place_make(NULL);
	up(&w, in_place("data"));
	MUST(truncate(in_place(first_segment), 4096)); /* what is written then lies behind a hole */
	put_large(&w, COUNT, 100 << 10, &error);
	CHECK(!error);
	thmq_env_close(w.env, 5 * SECOND);
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, "data/shard-000", broker_on(w.env, in_place("data"), 0, &w.broker));
	world_down(&w);
}

static void segment_removed(void)
{
	struct world w;
	int error;

	place_make(NULL);
	up(&w, in_place("data"));
	put_large(&w, COUNT, 3 << 20, &error);
	CHECK(!error);
	MUST(unlink(in_place("data/shard-000/00000000000001048576.log")));
	put_large(&w, COUNT, 3 << 20, &error);
	CHECK(!error);
	world_down(&w);
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, "data/shard-000", broker_on(w.env, in_place("data"), 0, &w.broker));
	world_down(&w);
}

/* A name that the broker needs next is taken by something else. */
static void name_taken(const char *name, bool dir)
{
	struct world w;
	struct stat st;
	int error;

	up(&w, in_place("data"));
	while (access(in_place(name), F_OK) == 0) /* it is being used now */
		thmq_poll(w.env, SECOND / 100);
	if (dir)
		MUST(mkdir(in_place(name), 0700));
	else
		MUST(mkfifo(in_place(name), 0600));
	put_large(&w, COUNT, 4 << 20, &error);
	printf("%s as a %s: %s\n", name, dir ? "directory" : "pipe",
	       error ? thmq_errname(error) : "taken");
	rmdir(in_place(name));
	if (lstat(in_place(name), &st) == 0 &&
	    S_ISFIFO(st.st_mode)) /* else a file has taken its place */
		unlink(in_place(name));
	let_pass(&w, 1);
	put_large(&w, COUNT + 4000, 1 << 20, &error);
	if (error)
		FAIL("after it is gone: %s", thmq_errname(error));
	world_down(&w);
	world_up(&w, in_place("data"));
	world_down(&w);
	remove_tree(in_place("data"));
}

static void names_taken(void)
{
	place_make(NULL);
	name_taken("data/shard-000/00000000000002097152.log", true);
	name_taken("data/shard-000/00000000000002097152.log", false);
	name_taken("data/shard-000/next.tmp", true);
	name_taken("data/shard-000/next.tmp", false);
	name_taken("data/shard-000/00000000000000000000.idx", true);
	name_taken("data/shard-000/index.tmp", true);
	name_taken("data/shard-000/index.tmp", false);
}

static void vote_removed(void)
{
	struct world w;
	int error;

	place_make(NULL);
	up(&w, in_place("data"));
	MUST(unlink(in_place("data/shard-000/vote")));
	put_large(&w, COUNT, 3 << 20, &error);
	CHECK(!error);
	world_down(&w);
	env_up(&w);
	SAYS(-THMQ_ECORRUPT, "vote", broker_on(w.env, in_place("data"), 0, &w.broker));
	world_down(&w);
	CHECK(thmq_data_repair(in_place("data"), THMQ_LOG_REPAIR_OPTS(.flags = THMQ_REPAIR_WRITE),
			       &(struct thmq_log_visitor){.size = sizeof(struct thmq_log_visitor)},
			       NULL) > 0);
	world_up(&w, in_place("data"));
	world_down(&w);
}

static int say(void *ctx, const struct thmq_log_finding *f)
{
	fprintf(stderr, "finding %u: %s\n", f->kind, f->text);
	return 0;
}

/* ------------------------------------------------------------- full, at any moment */

/* The limit on file sizes strikes at each step of a life; what was acknowledged is there once there is room. */
static void file_size_limits(void)
{
	struct rlimit r;
	uint64_t limit_kib;
	struct world w;
	unsigned opened = 0, refused = 0;

	place_make(NULL);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &r);
	for (limit_kib = 0; limit_kib <= 4096; limit_kib = limit_kib ? limit_kib * 2 : 1) {
		struct rlimit few = {(rlim_t)limit_kib << 10, r.rlim_max};
		int rc, error;

		setrlimit(RLIMIT_FSIZE, &few);
		env_up(&w);
		rc = broker_on(w.env, in_place("data"), 0, &w.broker);
		if (rc == 0)
			rc = thmq_connect(w.env, "inproc://", NULL, &w.session);
		if (rc == 0)
			rc = thmq_topic_create(w.session, "numbers",
					       THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT));
		if (rc == 0) {
			opened++;
			put_large(&w, 0, 1 << 20, &error);
			if (error && error != -EFBIG && error != -ENOSPC)
				FAIL("%llu KiB: %s", (unsigned long long)limit_kib,
				     thmq_errname(error));
		} else {
			refused++;
			if (rc != -EFBIG && rc != -ENOSPC)
				FAIL("%llu KiB: %s (%s)", (unsigned long long)limit_kib,
				     thmq_errname(rc), thmq_errmsg());
		}
		rc = thmq_env_close(w.env, 5 * SECOND);
		if (rc)
			printf("%llu KiB: close %s (%s)\n", (unsigned long long)limit_kib,
			       thmq_errname(rc), thmq_errmsg());
		setrlimit(RLIMIT_FSIZE, &r);
		if (thmq_data_scan(in_place("data"),
				   &(struct thmq_log_visitor){
					   .size = sizeof(struct thmq_log_visitor), .finding = say},
				   NULL) == -THMQ_ECORRUPT)
			FAIL("%llu KiB: verify says damage", (unsigned long long)limit_kib);
	}
	CHECK(opened > 0 && refused > 0);
	world_up(&w, in_place("data"));
	put_large(&w, 0, 1 << 20, &(int){0});
	world_down(&w);
}

static const struct bad_case cases[] = {
	{"renamed", renamed},
	{"renamed_and_opened_again", renamed_and_opened_again},
	{"removed", removed},
	{"made_read_only", made_read_only},
	{"segment_truncated", segment_truncated},
	{"active_segment_truncated", active_segment_truncated},
	{"segment_removed", segment_removed},
	{"names_taken", names_taken},
	{"vote_removed", vote_removed},
	{"file_size_limits", file_size_limits},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
