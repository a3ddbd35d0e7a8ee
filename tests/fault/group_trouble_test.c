/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group_trouble_test.c - groups on a slow and on a failing device, and members that fall silent: a JOIN that was given up
 * leaves no member behind, who is taken for dead is told, an ack that cannot be stored is told at once, and a close ends in time.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "bad_input.h"

/* ------------------------------------------------------------------ the device */

static atomic_bool slow_writes, failing, stalled, held;

/*
 * Instead of the C library's: the library is linked statically. Without io_uring it writes by these.
 * The name is that for 64-bit offsets, as everywhere in the build.
 */
ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	if (atomic_load(&slow_writes))
		usleep(300000);
	if (atomic_load(&stalled))
		sleep(4);
	while (atomic_load(&held))
		usleep(1000);
	if (atomic_load(&failing)) {
		usleep(20000); /* it fails while others wait for it */
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
}

int fdatasync(int fd)
{
	if (atomic_load(&failing)) {
		errno = EIO;
		return -1;
	}
	return fsync(fd);
}

/* The broker's core is driven by a thread of the library, so that a session can be silent. */
static void up(struct world *w)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	place_make(NULL);
	memset(w, 0, sizeof(*w));
	MUST(thmq_env_open(&w->env, THMQ_ENV_OPTS(.core_count = 1, .pool_bytes = 128 << 20,
						  .flags = THMQ_ENV_NO_URING | THMQ_ENV_NO_PIN,
						  .policy = THMQ_POLICY_EVENT)));
	MUST(broker_on(w->env, in_place("data"), 0, &w->broker));
	MUST(thmq_connect(w->env, "inproc://", NULL, &w->session));
	MUST(thmq_broker_stats(w->broker, &st));
	CHECK(st.disk_engine == 2 || st.disk_engine == 3);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* Two partitions, @count messages in each. */
static void publish(struct world *w, uint64_t count)
{
	struct thmq_producer *p;
	uint64_t i;

	MUST(thmq_topic_create(w->session, "t", THMQ_TOPIC_OPTS(.partition_count = 2)));
	MUST(thmq_producer_open(w->session, "t", NULL, &p));
	for (i = 0; i < 2 * count; i++)
		MUST(thmq_send(p, &i, sizeof(i),
			       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
						 .partition = (uint32_t)i % 2)));
	MUST(thmq_flush(p, 10 * SECOND));
	MUST(thmq_producer_close(p, SECOND));
}

/* One message, waited for. */
static void fetch_one(struct thmq_session *s, struct thmq_consumer *c, struct thmq_message *m)
{
	uint64_t end = now() + 10 * SECOND;
	int n;

	while ((n = thmq_fetch(c, m, 1)) == 0 && now() < end)
		thmq_session_wait(s, SECOND / 20);
	MUST(n);
	CHECK(n == 1);
}

/* ------------------------------------------------------------------- membership */

static void join_given_up(void)
{
	struct thmq_session *hasty, *other;
	struct thmq_message m[64];
	struct thmq_consumer *c;
	uint64_t end;
	int n, got = 0;
	struct world w;

	up(&w);
	publish(&w, 50);
	MUST(thmq_connect(w.env, "inproc://", THMQ_SESSION_OPTS(.timeout_ns = SECOND / 20),
			  &hasty));
	MUST(thmq_connect(w.env, "inproc://", NULL, &other));
	atomic_store(&slow_writes, true);
	RETURNS(-ETIMEDOUT, thmq_consumer_open(hasty, "t", "g", NULL, &c));
	atomic_store(&slow_writes, false);
	MUST(thmq_consumer_open(other, "t", "g", NULL, &c));
	for (end = now() + 3 * SECOND; got < 100 && now() < end;) {
		thmq_session_wait(hasty, SECOND / 100); /* alive, and busy with other things */
		wait_messages(other, SECOND / 100);
		n = thmq_fetch(c, m, 64);
		MUST(n);
		MUST(thmq_release(c, m, (uint32_t)n));
		got += n;
	}
	CHECK(got == 100); /* all partitions are its own */
	RETURNS(0, thmq_session_close(other, SECOND));
	RETURNS(0, thmq_session_close(hasty, SECOND));
	world_down(&w);
}

static void silent_member_is_told(void)
{
	struct thmq_session *silent, *spare_session;
	struct thmq_consumer *c, *spare;
	struct thmq_message m, none;
	struct world w;
	uint64_t end;
	int i, rc;

	up(&w);
	publish(&w, 5);
	MUST(thmq_connect(w.env, "inproc://", NULL, &silent));
	MUST(thmq_consumer_open(silent, "t", "g",
				THMQ_CONSUMER_OPTS(.session_timeout_ns = SECOND / 10), &c));
	fetch_one(silent, c, &m);
	MUST(thmq_ack(c, &m));
	usleep(600000);
	for (i = 0; i < 100; i++)
		if ((rc = thmq_fetch(c, &none, 1)) == 1)
			thmq_release(c, &none, 1);
		else if (rc)
			break;
		else
			thmq_session_wait(silent, SECOND / 50);
	RETURNS(-THMQ_EFENCED, rc);
	RETURNS(0, thmq_consumer_flush(c, 5 * SECOND)); /* that ack was in time */
	RETURNS(-THMQ_EFENCED, thmq_ack(c, &m));
	RETURNS(0, thmq_release(c, &m, 1));
	RETURNS(0, thmq_consumer_close(c, SECOND));
	/* and it can come back; two others make it one too many for two partitions */
	MUST(thmq_consumer_open(silent, "t", "g", NULL, &c));
	fetch_one(silent, c, &m);
	MUST(thmq_connect(w.env, "inproc://", NULL, &spare_session));
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &spare));
	MUST(thmq_consumer_open(spare_session, "t", "g",
				THMQ_CONSUMER_OPTS(.session_timeout_ns = SECOND / 10), &spare));
	for (end = now() + SECOND; now() < end;) {
		thmq_session_wait(silent, SECOND / 100);
		thmq_session_wait(w.session, SECOND / 100);
	}
	for (i = 0; i < 100 && (rc = thmq_fetch(spare, &none, 1)) >= 0; i++)
		thmq_session_wait(spare_session, SECOND / 50);
	RETURNS(-THMQ_EFENCED, rc); /* with a partition or without */
	RETURNS(0, thmq_session_close(spare_session, SECOND));
	RETURNS(0, thmq_session_close(silent, SECOND));
	world_down(&w);
}

/* --------------------------------------------------------------- a failing shard */

static void ack_on_its_way_when_the_device_fails(void)
{
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t begin;
	struct world w;

	up(&w);
	publish(&w, 5);
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &c));
	fetch_one(w.session, c, &m);
	atomic_store(&failing, true);
	MUST(thmq_ack(c, &m));
	begin = now();
	RETURNS(-THMQ_EFAILED, thmq_consumer_flush(c, 5 * SECOND));
	RETURNS(-THMQ_EFAILED, thmq_consumer_flush(c, 5 * SECOND)); /* as long as it is so */
	RETURNS(-THMQ_EFAILED, thmq_consumer_close(c, 5 * SECOND));
	CHECK(now() - begin < 2 * SECOND);
	thmq_env_close(w.env, SECOND);
}

/* ------------------------------------------------- acks of what is handed over */

/* Both partitions' messages, but for the last one of each; the last of partition 1 is in @ret. Nothing is held. */
static void fetch_most(struct world *w, struct thmq_consumer *c, struct thmq_message *ret)
{
	struct thmq_message m;
	uint32_t i;

	for (i = 0; i < 8;) {
		fetch_one(w->session, c, &m);
		if (m.partition == 1)
			*ret = m;
		i += m.offset < 4;
		MUST(thmq_release(c, &m, 1));
	}
}

/* Another member has come, and the one that was there has been asked for partition 1 by now, or is later. */
static void share(struct world *w, struct thmq_session *other, struct thmq_consumer **ret)
{
	uint64_t end;

	MUST(thmq_consumer_open(other, "t", "g", NULL, ret));
	for (end = now() + SECOND / 2; now() < end;) {
		thmq_session_wait(w->session, SECOND / 100);
		thmq_session_wait(other, SECOND / 100);
	}
}

/* What is not stored yet is not said to be, whoever has the partition by then. */
static void acks_of_what_is_handed_over(void)
{
	struct thmq_consumer *c, *heir;
	struct thmq_session *other;
	struct thmq_message m;
	struct thmq_event e;
	struct world w;
	uint64_t end;
	bool gone = false;

	up(&w);
	publish(&w, 5);
	MUST(thmq_connect(w.env, "inproc://", NULL, &other));
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &c));
	fetch_most(&w, c, &m);
	atomic_store(&held, true);
	MUST(thmq_ack(c, &m));
	share(&w, other, &heir);
	RETURNS(-ETIMEDOUT, thmq_consumer_flush(c, SECOND / 10));
	atomic_store(&held, false);
	RETURNS(0, thmq_consumer_flush(c, 10 * SECOND));
	for (end = now() + 10 * SECOND; !gone && now() < end;) {
		while (thmq_events(w.session, &e, 1) == 1)
			gone = gone || (e.type == THMQ_EVENT_REVOKED && e.partition == 1 && e.error == 0);
		thmq_session_wait(w.session, SECOND / 100);
	}
	CHECK(gone);
	fetch_one(other, heir, &m);
	CHECK(m.partition == 1 && m.offset == 4);
	RETURNS(0, thmq_release(heir, &m, 1));
	RETURNS(0, thmq_session_close(other, SECOND));
	world_down(&w);
}

/* There is no room for them: others get the partition all the same, and who acknowledged is told. */
static void acks_that_have_no_room_are_handed_over(void)
{
	static const char data[4096];
	struct thmq_broker_opts o = {.size = sizeof(o), .segment_bytes = 1 << 20, .batch_bytes = 64 << 10, .limit_bytes = 4 << 20};
	struct thmq_producer *p;
	struct thmq_consumer *c, *heir;
	struct thmq_session *other;
	struct thmq_message m;
	struct world w;

	env_up(&w);
	place_make(NULL);
	o.data_dir = in_place("data");
	MUST(thmq_broker_open(w.env, &o, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	publish(&w, 5);
	MUST(thmq_connect(w.env, "inproc://", NULL, &other));
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &c));
	fetch_most(&w, c, &m);
	MUST(thmq_producer_open(other, "t", NULL, &p));
	do
		MUST(thmq_send(p, data, sizeof(data), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION)));
	while (thmq_flush(p, 10 * SECOND) == 0);
	MUST(thmq_ack(c, &m));
	RETURNS(-ENOSPC, thmq_consumer_flush(c, 10 * SECOND));
	share(&w, other, &heir);
	fetch_one(other, heir, &m);
	CHECK(m.partition == 1 && m.offset == 4);
	RETURNS(-THMQ_EFENCED, thmq_consumer_flush(c, 10 * SECOND));
	RETURNS(0, thmq_consumer_flush(c, 10 * SECOND));
	thmq_env_close(w.env, SECOND);
}

/* Who asks only whether they are stored learns it, once there is room, whether its members share or not. */
static void acks_are_stored_once_there_is_room(uint32_t flags)
{
	static const char data[4096];
	struct thmq_broker_opts o = {.size = sizeof(o), .segment_bytes = 1 << 20, .batch_bytes = 64 << 10, .limit_bytes = 4 << 20};
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct world w;
	uint64_t end;
	int rc;

	env_up(&w); /* nothing is done there but within calls */
	place_make(NULL);
	o.data_dir = in_place("data");
	MUST(thmq_broker_open(w.env, &o, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	publish(&w, 5);
	MUST(thmq_topic_create(w.session, "more", NULL));
	MUST(thmq_consumer_open(w.session, "t", "g", THMQ_CONSUMER_OPTS(.flags = flags), &c));
	fetch_one(w.session, c, &m);
	MUST(thmq_producer_open(w.session, "more", NULL, &p));
	do
		MUST(thmq_send(p, data, sizeof(data), NULL));
	while (thmq_flush(p, 10 * SECOND) == 0);
	MUST(thmq_ack(c, &m));
	RETURNS(-ENOSPC, thmq_consumer_flush(c, 10 * SECOND));
	RETURNS(-ENOSPC, thmq_consumer_flush(c, 10 * SECOND));
	MUST(thmq_topic_delete(w.session, "more"));
	for (end = now() + 30 * SECOND; (rc = thmq_consumer_flush(c, SECOND)) == -ENOSPC && now() < end;)
		usleep(20000);
	RETURNS(0, rc);
	thmq_env_close(w.env, SECOND);
}

static void acks_of_a_group_are_stored_once_there_is_room(void)
{
	acks_are_stored_once_there_is_room(0);
}

static void acks_of_members_that_share_are_stored_once_there_is_room(void)
{
	acks_are_stored_once_there_is_room(THMQ_CONSUMER_SHARED);
}

/* Whoever comes and goes meanwhile does not keep the broker from looking. */
static void silent_member_while_others_join(void)
{
	struct thmq_session *silent, *busy;
	struct thmq_consumer *c, *heir, *other;
	struct thmq_message m[8];
	struct world w;
	uint64_t end;
	int n, got = 0;

	up(&w);
	publish(&w, 5);
	MUST(thmq_connect(w.env, "inproc://", NULL, &silent));
	MUST(thmq_connect(w.env, "inproc://", NULL, &busy));
	MUST(thmq_consumer_open(silent, "t", "g",
				THMQ_CONSUMER_OPTS(.session_timeout_ns = SECOND / 4), &c));
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &heir));
	end = now() + 8 * SECOND;
	while (got < 10 && now() < end) { /* five of them are the silent one's */
		MUST(thmq_consumer_open(busy, "t", "h", NULL, &other));
		MUST(thmq_consumer_close(other, SECOND));
		n = thmq_fetch(heir, m, 8);
		MUST(n);
		got += n;
		MUST(thmq_release(heir, m, (uint32_t)n));
		thmq_session_wait(w.session, SECOND / 50);
	}
	CHECK(got == 10);
	thmq_env_close(w.env, SECOND);
}

static void close_while_the_device_does_not_answer(void)
{
	struct thmq_broker *other;
	struct thmq_producer *p;
	uint64_t begin;
	struct world w;
	uint64_t i = 0;

	up(&w);
	publish(&w, 5);
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	atomic_store(&stalled, true);
	MUST(thmq_send(p, &i, sizeof(i), NULL));
	usleep(100000);
	begin = now();
	RETURNS(-ETIMEDOUT, thmq_broker_close(w.broker, SECOND / 10));
	CHECK(now() - begin < 3 * SECOND);
	atomic_store(&stalled, false);
	SAYS(-EBUSY, NULL, broker_on(w.env, in_place("data"), 0, &other));
	RETURNS(0, thmq_env_close(w.env, SECOND)); /* waits for what the device has */
	CHECK(now() - begin >= 3 * SECOND);
	env_up(&w);
	MUST(broker_on(w.env, in_place("data"), 0, &w.broker)); /* nobody has it any more */
	RETURNS(0, thmq_env_close(w.env, SECOND));
}

int main(int argc, char **argv)
{
	static const struct bad_case cases[] = {
		{"close_while_the_device_does_not_answer", close_while_the_device_does_not_answer},
		{"join_given_up", join_given_up},
		{"silent_member_is_told", silent_member_is_told},
		{"silent_member_while_others_join", silent_member_while_others_join},
		{"acks_of_what_is_handed_over", acks_of_what_is_handed_over},
		{"acks_that_have_no_room_are_handed_over", acks_that_have_no_room_are_handed_over},
		{"acks_of_a_group_are_stored_once_there_is_room", acks_of_a_group_are_stored_once_there_is_room},
		{"acks_of_members_that_share_are_stored_once_there_is_room", acks_of_members_that_share_are_stored_once_there_is_room},
		{"ack_on_its_way_when_the_device_fails", ack_on_its_way_when_the_device_fails},
	};

	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
