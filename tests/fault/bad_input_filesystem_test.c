/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_filesystem_test.c - file systems that are read-only, full, or without O_DIRECT, in mount namespaces of
 * their own. Skipped where nothing may be mounted.
 */
#include "bad_input.h"

static void read_only(void)
{
	const char *fs;
	char dir[512];
	struct world w;

	place_make(NULL);
	fs = mount_here("fs", "size=64m");
	snprintf(dir, sizeof(dir), "%s/data", fs);
	numbers_dir(dir, 10);
	CHECK(mount(NULL, fs, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0);
	env_up(&w);
	SAYS(-EROFS, dir, broker_on(w.env, dir, 0, &w.broker));
	w.broker = NULL;
	world_down(&w);
	CHECK(mount(NULL, fs, NULL, MS_REMOUNT, NULL) == 0);
	expect_numbers(dir, 10);
}

static void too_small_to_begin(void)
{
	const char *fs;
	char dir[512];
	struct world w;

	place_make(NULL);
	fs = mount_here("fs", "size=256k");
	snprintf(dir, sizeof(dir), "%s/data", fs);
	env_up(&w);
	SAYS(-ENOSPC, dir, broker_on(w.env, dir, 0, &w.broker));
	/* what the failed try left behind is no obstacle once there is room */
	CHECK(mount(NULL, fs, NULL, MS_REMOUNT, "size=64m") == 0);
	MUST(broker_on(w.env, dir, 0, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	put_numbers(w.session, 0, 10);
	CHECK(get_numbers(w.session) == 10);
	world_down(&w);
}

struct fill {
	uint64_t sent;   /* committed */
	uint64_t stored; /* settled without a failure */
	uint64_t failed;
	uint64_t first_failed; /* sequence; what was sent behind it may find room again */
	int error;
};

static void take_events(struct thmq_session *session, struct fill *f)
{
	struct thmq_event e[64];
	int n, i;

	while ((n = thmq_events(session, e, 64)) > 0)
		for (i = 0; i < n; i++)
			if (e[i].type == THMQ_EVENT_FAILED) {
				if (!f->failed++ || e[i].sequence < f->first_failed)
					f->first_failed = e[i].sequence;
				f->error = e[i].error;
			}
}

/* Messages of 8 KiB that begin with their number, until one is refused. */
static void fill_up(struct world *w, struct thmq_producer *p, uint64_t first, struct fill *f)
{
	static uint64_t body[1024];
	unsigned tries = 0;
	int64_t rc;

	memset(f, 0, sizeof(*f));
	while (!f->failed && f->sent < 100000 && tries < 2000) {
		body[0] = first + f->sent;
		rc = thmq_send(p, body, sizeof(body), NULL);
		if (rc > 0) {
			f->sent++;
			tries = 0;
		} else if (rc == -EAGAIN) {
			tries++;
			thmq_poll(w->env, SECOND / 100);
		} else {
			FAIL("send: %s", thmq_errname((int)rc));
			break;
		}
		take_events(w->session, f);
	}
	/* the rest of the window: settled one way or the other, in bounded time */
	rc = thmq_flush(p, 5 * SECOND);
	CHECK(rc == -EIO || rc == 0);
	take_events(w->session, f);
	f->stored = f->sent - f->failed;
}

/* Counts the messages, which are in rising order by number, without a gap below @solid. */
static uint64_t count_bodies(struct world *w, uint64_t solid)
{
	struct thmq_message m[32];
	struct thmq_consumer *c;
	uint64_t n = 0, number, last = 0;
	int got, i;

	MUST(thmq_consumer_open(w->session, "bodies", NULL, NULL, &c));
	do {
		got = thmq_fetch(c, m, 32);
		MUST(got);
		for (i = 0; i < got; i++, n++) {
			memcpy(&number, m[i].data, sizeof(number));
			CHECK(n == 0 || number > last);
			CHECK(n >= solid || number == n);
			last = number;
		}
		MUST(thmq_release(c, m, (uint32_t)got));
	} while (got > 0 || wait_messages(w->session, SECOND / 5) == 1);
	MUST(thmq_consumer_close(c, SECOND));
	return n;
}

/* Something else on the same file system, which gives its room up later. */
static void ballast(const char *path)
{
	static uint8_t block[1 << 20];
	unsigned i;
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	for (i = 0; i < 20; i++)
		CHECK(write(fd, block, sizeof(block)) == (ssize_t)sizeof(block));
	CHECK(fsync(fd) == 0);
	close(fd);
}

static void publish_until_taken(struct world *w, struct thmq_producer *p, uint64_t number)
{
	static uint64_t body[1024];
	unsigned tries;
	int64_t rc = -1;

	for (tries = 0; tries < 200; tries++) {
		body[0] = number + tries;
		rc = thmq_send(p, body, sizeof(body), NULL);
		if (rc > 0)
			rc = thmq_flush(p, SECOND);
		if (rc == 0)
			break;
		wait_messages(w->session, SECOND / 20);
	}
	RETURNS(0, rc);
}

/* Acks are messages too: they say what is in the way, are kept, and are stored once there is room. */
static void acks_while_full(struct thmq_session *session, struct thmq_consumer *c)
{
	uint64_t start;
	struct timespec t;
	struct thmq_message m;
	unsigned tries;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &t);
	start = (uint64_t)t.tv_sec;
	for (tries = 0; tries < 100 && !rc; tries++) { /* an ack is small: some still fit */
		while (thmq_fetch(c, &m, 1) == 0)
			wait_messages(session, SECOND / 20);
		MUST(thmq_ack(c, &m));
		MUST(thmq_release(c, &m, 1));
		rc = thmq_consumer_flush(c, 20 * SECOND);
	}
	RETURNS(-ENOSPC, rc);
	RETURNS(-ENOSPC, thmq_consumer_flush(c, 20 * SECOND)); /* as long as it is so */
	clock_gettime(CLOCK_MONOTONIC, &t);
	CHECK((uint64_t)t.tv_sec - start < 10); /* it did not wait for room */
}

/* @fs has some 45 MiB of room. */
static void fill_and_free(const char *fs)
{
	struct thmq_consumer *c, *closed;
	struct thmq_session *groups;
	struct thmq_producer *p;
	struct fill f, again = {0};
	char dir[512], other[512];
	struct world w;
	uint64_t n;

	snprintf(dir, sizeof(dir), "%s/data", fs);
	snprintf(other, sizeof(other), "%s/other", fs);
	ballast(other);
	world_up(&w, dir);
	MUST(thmq_topic_create(w.session, "bodies", NULL));
	MUST(thmq_producer_open(w.session, "bodies", NULL, &p));
	MUST(thmq_connect(w.env, "inproc://", NULL, &groups));
	MUST(thmq_consumer_open(groups, "bodies", "group", NULL, &c));
	MUST(thmq_consumer_open(groups, "bodies", "other", NULL, &closed));
	fill_up(&w, p, 0, &f);
	CHECK(f.failed > 0 && f.error == -ENOSPC);
	CHECK(f.stored > 100); /* most of the room was used */
	CHECK(thmq_errclass(f.error) == THMQ_CLASS_ENVIRONMENT);
	n = count_bodies(&w, f.first_failed - 1); /* reads go on */
	CHECK(n == f.stored);
	acks_while_full(groups, c);
	acks_while_full(groups, closed);
	RETURNS(-ENOSPC, thmq_consumer_close(closed, 20 * SECOND));
	CHECK(unlink(other) == 0);
	publish_until_taken(&w, p, f.sent); /* and so does the same producer, once there is room */
	RETURNS(0, thmq_consumer_flush(c, 10 * SECOND));
	RETURNS(0, thmq_consumer_close(c, 10 * SECOND));
	MUST(thmq_session_close(groups, SECOND));
	MUST(thmq_producer_close(p, SECOND));
	take_events(w.session, &again);
	world_down(&w);

	/* nothing that was acknowledged is lost over a restart */
	world_up(&w, dir);
	CHECK(count_bodies(&w, f.first_failed - 1) == n + 1);
	world_down(&w);

	/* a restart while it is full: opens, reads, refuses, loses nothing */
	world_up(&w, dir);
	MUST(thmq_producer_open(w.session, "bodies", NULL, &p));
	fill_up(&w, p, f.sent + 1000, &again);
	CHECK(again.failed > 0);
	MUST(thmq_producer_close(p, SECOND));
	world_down(&w);
	world_up(&w, dir);
	CHECK(count_bodies(&w, f.first_failed - 1) == n + 1 + again.stored);
	world_down(&w);
}

static void full(void)
{
	place_make(NULL);
	fill_and_free(mount_here("fs", "size=45m"));
}

static void full_ext4(void)
{
	char command[1024];

	place_make(NULL);
	mount_here("fs",
		   "size=64k"); /* a mount namespace of our own; the loop device goes with it */
	snprintf(command, sizeof(command),
		 "truncate -s 48M '%s' && mkfs.ext4 -q -m 0 -O ^has_journal '%s' && "
		 "mount -o loop '%s' '%s'",
		 in_place("image"), in_place("image"), in_place("image"), in_place("fs"));
	if (system(command) != 0)
		SKIP("no ext4 image can be mounted here");
	fill_and_free(in_place("fs"));
	umount(in_place("fs"));
}

static void without_direct_io(void)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};
	const char *fs;
	char dir[512], probe[512];
	struct world w;
	int fd, direct;

	place_make(NULL);
	fs = mount_here("fs", "size=64m");
	snprintf(dir, sizeof(dir), "%s/data", fs);
	snprintf(probe, sizeof(probe), "%s/probe", fs);
	fd = open(probe, O_RDWR | O_CREAT | O_DIRECT, 0600);
	direct = fd >= 0; /* newer kernels take the flag there */
	if (fd >= 0)
		close(fd);
	numbers_dir(dir, 1000);
	world_up(&w, dir);
	MUST(thmq_broker_stats(w.broker, &st));
	RETURNS(direct, st.direct_io);
	CHECK(get_numbers(w.session) == 1000);
	put_numbers(w.session, 1000, 1000);
	world_down(&w);
	expect_numbers(dir, 2000);
}

/* A file system that refuses the flag on all kernels so far. */
static void without_direct_io_ramfs(void)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};
	const char *fs;
	char dir[512], probe[512];
	struct world w;
	int fd;

	place_make(NULL);
	fs = mount_here("fs", "size=64k");
	if (mount("ramfs", fs, "ramfs", 0, NULL) != 0)
		SKIP("ramfs cannot be mounted: %s", strerror(errno));
	snprintf(dir, sizeof(dir), "%s/data", fs);
	snprintf(probe, sizeof(probe), "%s/probe", fs);
	fd = open(probe, O_RDWR | O_CREAT | O_DIRECT, 0600);
	if (fd >= 0)
		SKIP("ramfs takes O_DIRECT here");
	world_up(&w, dir);
	put_numbers(w.session, 0, 1000);
	MUST(thmq_broker_stats(w.broker, &st));
	RETURNS(0, st.direct_io);
	world_down(&w);
	expect_numbers(dir, 1000);
}

/*
 * The oldest segments go where the file system is full, also while something of them is being kept: a topic without limits beside one
 * whose messages go by themselves.
 */
static void full_while_something_is_kept(uint32_t policy)
{
	static const char *const topics[] = {"kept", "limited"};
	static char body[1500];
	struct thmq_producer *p[2];
	uint64_t taken = 0, i;
	unsigned tries = 0;
	struct world w;
	char dir[512];
	int error = 0;
	int64_t rc;

	place_make(NULL);
	snprintf(dir, sizeof(dir), "%s/data", mount_here("fs", "size=24m"));
	env_up(&w);
	MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1 << 20, .cache_bytes = 4 << 20,
						      .batch_bytes = 64 << 10, .full_policy = policy),
			      &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	MUST(thmq_topic_create(w.session, topics[0], NULL));
	MUST(thmq_topic_create(w.session, topics[1], THMQ_TOPIC_OPTS(.retention_bytes = 2 << 20)));
	for (i = 0; i < 2; i++)
		MUST(thmq_producer_open(w.session, topics[i], NULL, &p[i]));
	while (taken < 40000 && tries < 3000 && !error) { /* 30 s at most for one */
		struct fill f = {0};

		rc = thmq_send(p[taken % 8 != 0], body, sizeof(body), NULL);
		taken += rc > 0;
		tries = rc == -EAGAIN ? tries + 1 : 0;
		if (rc == -EAGAIN)
			thmq_poll(w.env, SECOND / 100);
		else if (rc < 0)
			error = (int)rc;
		take_events(w.session, &f);
		error = f.error ? f.error : error;
	}
	fprintf(stderr, "%llu were taken, then %s\n", (unsigned long long)taken, thmq_errname(error));
	if (policy == THMQ_FULL_DROP_OLDEST)
		CHECK(taken == 40000 && !error);
	else
		CHECK(error == -ENOSPC || taken == 40000); /* and nobody is left waiting */
	rc = thmq_env_close(w.env, 5 * SECOND);
	CHECK(rc == 0 || (rc == -EIO && error));
}

static void full_drops_the_oldest(void)
{
	full_while_something_is_kept(THMQ_FULL_DROP_OLDEST);
}

/* Room that comes a segment at a time, less than one session has on its way, is shared by all. */
static void full_serves_all(void)
{
	enum { SESSIONS = 3 };
	static char body[1500];
	struct thmq_session *s[SESSIONS];
	struct thmq_producer *p[SESSIONS];
	uint64_t taken[SESSIONS] = {0}, all = 0;
	unsigned tries = 0, i;
	struct world w;
	char dir[512];
	int64_t rc;

	place_make(NULL);
	snprintf(dir, sizeof(dir), "%s/data", mount_here("fs", "size=40m"));
	env_up(&w);
	MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1 << 20, .cache_bytes = 4 << 20,
						      .batch_bytes = 64 << 10, .limit_bytes = 6 << 20, .full_policy = THMQ_FULL_DROP_OLDEST),
			      &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	MUST(thmq_topic_create(w.session, "t", NULL));
	for (i = 0; i < SESSIONS; i++) {
		MUST(thmq_connect(w.env, "inproc://", NULL, &s[i]));
		MUST(thmq_producer_open(s[i], "t", NULL, &p[i]));
	}
	for (; all < 60000 && tries < 3000; tries++) {
		for (i = 0; i < SESSIONS; i++)
			while ((rc = thmq_send(p[i], body, sizeof(body), NULL)) > 0) {
				taken[i]++;
				all++;
				tries = 0;
			}
		thmq_poll(w.env, SECOND / 100);
	}
	for (i = 0; i < SESSIONS; i++)
		if (taken[i] < all / SESSIONS / 2)
			FAIL("session %u: %llu of %llu", i, (unsigned long long)taken[i], (unsigned long long)all);
	CHECK(all >= 60000);
	MUST(thmq_env_close(w.env, 20 * SECOND));
}

static void full_refuses(void)
{
	full_while_something_is_kept(THMQ_FULL_REFUSE);
}

static const struct bad_case cases[] = {
	{"full_drops_the_oldest", full_drops_the_oldest},
	{"full_refuses", full_refuses},
	{"full_serves_all", full_serves_all},
	{"read_only", read_only},
	{"too_small_to_begin", too_small_to_begin},
	{"full", full},
	{"full_ext4", full_ext4},
	{"without_direct_io", without_direct_io},
	{"without_direct_io_ramfs", without_direct_io_ramfs},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
