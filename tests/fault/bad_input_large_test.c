/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_large_test.c - messages that are stored in parts and cut short, by their client's end or by the process's: no message, to
 * nobody. The partition ends and a key's newest message is where they were before, so that who expects that is right. And messages for which
 * the shard's limit has no room: refused as a whole.
 */
#include "bad_input.h"

#define MIB (1u << 20)
#define KEY "k"

static uint8_t bytes[16 * MIB];

static int broker_of(struct world *w, const char *dir, uint64_t limit_bytes, uint32_t full_policy)
{
	env_up(w);
	MUST(thmq_broker_open(w->env,
			      THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = MIB,
					       .cache_bytes = 4 * MIB, .batch_bytes = 64 << 10,
					       .limit_bytes = limit_bytes,
					       .full_policy = full_policy),
			      &w->broker));
	return thmq_connect(w->env, "inproc://", THMQ_SESSION_OPTS(.window_bytes = 32 * MIB),
			    &w->session);
}

static struct thmq_producer *producer_of(struct thmq_session *s, const char *topic)
{
	struct thmq_producer *p;

	MUST(thmq_topic_create(s, topic, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)));
	MUST(thmq_producer_open(s, topic, THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p));
	return p;
}

/* What became of it: its offset, or the error, and *@ret_offset what is there instead. */
static int64_t put(struct thmq_session *s, struct thmq_producer *p, uint32_t len,
		   const struct thmq_message_opts *opts, uint64_t *ret_offset)
{
	int64_t seq = thmq_send(p, bytes, len, opts);
	struct thmq_event e;
	uint32_t tries;

	if (seq < 0)
		return seq;
	for (tries = 0; tries < 1000; tries++) {
		while (thmq_events(s, &e, 1) == 1) {
			if (e.sequence != (uint64_t)seq ||
			    (e.type != THMQ_EVENT_SETTLED && e.type != THMQ_EVENT_FAILED))
				continue;
			*ret_offset = e.offset;
			return e.type == THMQ_EVENT_SETTLED ? 0 : e.error;
		}
		thmq_session_wait(s, SECOND / 100);
	}
	FAIL("nothing is heard of sequence %lld", (long long)seq);
	exit(1);
}

static uint64_t end_of(struct thmq_session *s, const char *topic)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	MUST(thmq_partition_describe(s, topic, 0, NULL, &info));
	return info.end_offset;
}

/* Another session's, which closes at once: as much of it is stored as may be on its way. */
static void cut_short(struct world *w)
{
	uint64_t end = end_of(w->session, "t");
	struct thmq_session *other;
	struct thmq_producer *p;
	uint32_t i;

	MUST(thmq_connect(w->env, "inproc://", THMQ_SESSION_OPTS(.window_bytes = 32 * MIB),
			  &other));
	MUST(thmq_producer_open(other, "t", NULL, &p));
	MUST(thmq_send(p, bytes, sizeof(bytes), THMQ_MESSAGE_OPTS(.key = KEY, .key_len = 1)));
	thmq_poll(w->env, 0);
	RETURNS(-ETIMEDOUT, thmq_session_close(other, 0));
	for (i = 0; i < 20; i++)
		if (thmq_poll(w->env, SECOND / 100) > 0)
			i = 0;
	if (end_of(w->session, "t") != end)
		SKIP("it was stored before its client's end was heard of");
}

/* All is as if it had never been, but that its offsets are used up. */
static void expect_as_before(struct world *w, uint64_t end, uint64_t newest)
{
	struct thmq_key_info key = {.size = sizeof(key)};
	struct thmq_producer *p = producer_of(w->session, "t");
	uint64_t at = 0;
	uint32_t tries;
	int64_t rc;

	RETURNS(end, end_of(w->session, "t"));
	RETURNS(0, thmq_key_find(w->session, "t", 0, KEY, 1, UINT64_MAX, &key));
	RETURNS(newest, key.offset);
	/* until what is left of it is durable, another one may be on its way */
	for (rc = -THMQ_ECONFLICT, tries = 0; rc == -THMQ_ECONFLICT && tries < 500; tries++)
		rc = put(w->session, p, 8,
			 THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_EXPECT_END, .expected = end), &at);
	RETURNS(0, rc);
	CHECK(at > end); /* there was something between */
	RETURNS(0, put(w->session, p, 8,
		       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_EXPECT_KEY, .key = KEY, .key_len = 1,
					 .expected = newest),
		       &at));
	/* it lies below the end by now, and is no version all the same */
	RETURNS(0, thmq_key_find(w->session, "t", 0, KEY, 1, at, &key));
	RETURNS(newest, key.offset);
	RETURNS(0, thmq_key_find(w->session, "t", 0, KEY, 1, UINT64_MAX, &key));
	RETURNS(at, key.offset);
	thmq_producer_close(p, SECOND);
}

static void cut_short_by_its_client(void)
{
	uint64_t at = 0, newest;
	struct thmq_producer *p;
	struct world w;

	place_make(NULL);
	MUST(broker_of(&w, in_place("data"), 0, 0));
	p = producer_of(w.session, "t");
	RETURNS(0, put(w.session, p, 8, THMQ_MESSAGE_OPTS(.key = KEY, .key_len = 1), &at));
	newest = at;
	cut_short(&w);
	expect_as_before(&w, newest + 1, newest);
	/* a whole one is found by its first part */
	RETURNS(0, put(w.session, p, 3 * MIB,
		       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_EXPECT_END, .key = KEY, .key_len = 1,
					 .expected = end_of(w.session, "t")),
		       &at));
	newest = at;
	cut_short(&w);
	expect_as_before(&w, end_of(w.session, "t"), newest);
	world_down(&w);
}

/* Its parts are durable, and nobody closes anything. */
static void die(const char *dir)
{
	uint64_t at = 0;
	struct thmq_producer *p;
	struct world w;

	MUST(broker_of(&w, dir, 0, 0));
	p = producer_of(w.session, "t");
	RETURNS(0, put(w.session, p, 8, THMQ_MESSAGE_OPTS(.key = KEY, .key_len = 1), &at));
	cut_short(&w);
	p = producer_of(w.session, "other");
	RETURNS(0, put(w.session, p, 8, NULL, &at));
	_exit(failures ? 1 : 0);
}

static void cut_short_by_a_crash(void)
{
	const char *dir = in_place("data");
	struct world w;
	int status;

	place_make(NULL);
	dir = in_place("data");
	if (fork() == 0)
		die(dir);
	wait(&status);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		exit(SKIPPED);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	MUST(broker_of(&w, dir, 0, 0));
	expect_as_before(&w, 1, 0);
	world_down(&w);
}

/* More than the shard may ever hold, whatever goes: nothing of it is stored, and nothing goes for it. */
static void larger_than_the_limit(void)
{
	struct thmq_producer *p;
	uint32_t policy;
	uint64_t at = 0;
	struct world w;

	for (policy = THMQ_FULL_REFUSE; policy <= THMQ_FULL_DROP_OLDEST; policy++) {
		place_make(NULL);
		MUST(broker_of(&w, in_place("data"), 4 * MIB, policy));
		p = producer_of(w.session, "t");
		RETURNS(0, put(w.session, p, 8, NULL, &at));
		RETURNS(-EMSGSIZE, put(w.session, p, 6 * MIB, NULL, &at));
		RETURNS(0, put(w.session, p, 8, NULL, &at));
		RETURNS(1, at);
		RETURNS(0, put(w.session, p, MIB / 2, NULL, &at));
		RETURNS(-EIO, thmq_producer_close(p, SECOND)); /* as it was told */
		world_down(&w);
	}
}

/* Where there is no room now it is refused before its first part takes what is left. */
static void no_room_for_all_of_it(void)
{
	uint64_t at = 0, end;
	struct thmq_producer *p, *filler;
	uint32_t small = 0, i;
	struct world w;
	int64_t rc;

	place_make(NULL);
	MUST(broker_of(&w, in_place("data"), 8 * MIB, 0));
	p = producer_of(w.session, "t");
	filler = producer_of(w.session, "filler");
	RETURNS(0, put(w.session, p, 8, NULL, &at));
	for (i = 0; i < 50; i++)
		RETURNS(0, put(w.session, filler, 100000, NULL, &at));
	end = end_of(w.session, "t");
	RETURNS(-ENOSPC, put(w.session, p, 4 * MIB, NULL, &at));
	RETURNS(0, put(w.session, p, 8, NULL, &at)); /* small ones go on */
	RETURNS(end, at);
	while ((rc = put(w.session, filler, 50000, NULL, &at)) == 0 && small < 1000)
		small++;
	RETURNS(-ENOSPC, rc);
	CHECK(small);
	RETURNS(-EIO, thmq_producer_close(p, SECOND));
	RETURNS(-EIO, thmq_producer_close(filler, SECOND));
	world_down(&w);
}

static const struct bad_case cases[] = {
	{"cut_short_by_its_client", cut_short_by_its_client},
	{"cut_short_by_a_crash", cut_short_by_a_crash},
	{"larger_than_the_limit", larger_than_the_limit},
	{"no_room_for_all_of_it", no_room_for_all_of_it},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
