/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is promised below durable, kept, lost and told: api, broker and log on a simulated disk, in virtual time. A failing
 * device and power cuts; who hears which messages may be gone; mixed rungs and the order of their acknowledgements.
 */
#include <criterion/criterion.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

TestSuite(broker_lost, .timeout = 60);

#define MEMORY THMQ_DURABILITY_MEMORY
#define WRITTEN THMQ_DURABILITY_WRITTEN
#define DURABLE THMQ_DURABILITY_DURABLE
#define MS 1000000ull
#define SECOND 1000000000ull
#define SETTLED_MAX 4096

static struct thmqi_disk_sim *sim;
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static struct thmq_broker_opts opts;

static void machine(uint64_t seed)
{
	cr_assert_eq(thmqi_disk_sim_open(seed, NULL, &sim), 0);
	opts = (struct thmq_broker_opts){.size = sizeof(opts),
					 .data_dir = "data",
					 .shard_count = 1,
					 .segment_bytes = 1u << 20,
					 .batch_bytes = 64u << 10,
					 .cache_bytes = 1u << 20};
}

static void up(void)
{
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20),
					thmqi_disk_sim_world(sim), &env),
		     0);
	cr_assert_eq(thmq_broker_open(env, &opts, &broker), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
}

/* Return: what closing says. */
static int down(void)
{
	int rc = thmq_env_close(env, SECOND);

	env = NULL;
	return rc;
}

static void end(void)
{
	if (env)
		down();
	thmqi_disk_sim_close(sim);
}

static void topic(const char *name, uint32_t partitions, uint32_t visible_at)
{
	cr_assert_eq(thmq_topic_create(session, name,
				       THMQ_TOPIC_OPTS(.partition_count = partitions,
						       .visible_at = visible_at,
						       .flags = THMQ_TOPIC_IF_ABSENT)),
		     0, "%s", thmq_errmsg());
}

static struct thmq_producer *producer(const char *name, uint32_t durability, void *cookie)
{
	struct thmq_producer *p;

	cr_assert_eq(thmq_producer_open(
			     session, name,
			     THMQ_PRODUCER_OPTS(.durability = durability, .cookie = cookie), &p),
		     0, "%s", thmq_errmsg());
	return p;
}

static int64_t send_to(struct thmq_producer *p, uint32_t partition, uint32_t durability)
{
	char text[100] = "x";

	return thmq_send(p, text, sizeof(text),
			 THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition,
					   .durability = durability));
}

static void pass(uint64_t ns)
{
	uint64_t until = thmqi_disk_sim_now(sim) + ns, now;

	while ((now = thmqi_disk_sim_now(sim)) < until)
		thmq_poll(env, THMQI_MIN(until - now, 100000ull));
}

static void fault(uint8_t opcode, uint64_t nth)
{
	struct thmqi_disk_sim_fault f = {
		.opcode = opcode, .effect = THMQI_DISK_SIM_ERROR, .nth = nth, .repeat = UINT64_MAX};

	cr_assert_eq(thmqi_disk_sim_fault_add(sim, &f), 0);
}

/* All events that are there. Return: how many are of @type, kept in @list. */
static uint32_t events_of(uint32_t type, struct thmq_event *list, uint32_t max)
{
	struct thmq_event e;
	uint32_t n = 0;

	while (thmq_events(session, &e, 1) == 1) {
		cr_assert_neq(e.type, THMQ_EVENT_DROPPED);
		if (e.type == type && n < max)
			list[n++] = e;
	}
	return n;
}

static const struct thmq_event *find(const struct thmq_event *list, uint32_t count,
				     const void *cookie, uint32_t partition)
{
	for (uint32_t i = 0; i < count; i++)
		if (list[i].cookie == cookie && list[i].partition == partition)
			return &list[i];
	return NULL;
}

/* ------------------------------------------------------------- a failing device */

Test(broker_lost, producers_hear_which_weaker_acknowledged_messages_may_be_gone, .fini = end)
{
	struct thmq_producer *a, *b, *c;
	struct thmq_event list[16];
	const struct thmq_event *e;
	int names[3];
	uint32_t n;

	machine(1);
	opts.flags = THMQ_BROKER_NO_BACKGROUND_FLUSH;
	up();
	topic("t", 2, WRITTEN); /* where readers wait for durable, all is made so at once */
	a = producer("t", WRITTEN, &names[0]);
	b = producer("t", MEMORY, &names[1]);
	c = producer("t", DURABLE, &names[2]);
	/* durable, with all before: no loss can touch these */
	for (int i = 0; i < 5; i++)
		cr_assert_eq(send_to(a, 0, 0), i + 1);
	for (int i = 0; i < 3; i++)
		cr_assert_gt(send_to(b, 1, 0), 0);
	cr_assert_gt(send_to(c, 0, 0), 0); /* offset 5 */
	cr_assert_eq(thmq_flush(c, SECOND), 0);
	cr_assert_eq(thmq_flush(a, SECOND), 0);
	/* acknowledged, and in danger */
	for (int i = 0; i < 7; i++) {
		cr_assert_gt(send_to(a, 0, 0), 0); /* 6, 8, 10 … */
		cr_assert_gt(send_to(b, 0, 0), 0); /* 7, 9, 11 … */
		if (i % 3 == 0)
			cr_assert_gt(send_to(b, 1, 0), 0); /* 3, 4, 5 */
		pass(2 * MS);
	}
	cr_assert_gt(send_to(a, 1, MEMORY), 0); /* 6: the weakest counts */
	cr_assert_gt(send_to(a, 1, 0), 0);
	cr_assert_eq(thmq_flush(a, SECOND), 0);
	cr_assert_eq(thmq_flush(b, SECOND), 0);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 16), 0, "all is well so far");
	fault(THMQI_DISK_FLUSH, 1);
	cr_assert_gt(send_to(c, 0, 0), 0);
	cr_assert_eq(thmq_flush(c, SECOND), -EIO);
	n = events_of(THMQ_EVENT_LOST, list, 16);
	cr_assert_eq(n, 4);
	for (uint32_t i = 0; i < n; i++)
		cr_assert_eq(list[i].error, -THMQ_EFAILED);
	e = find(list, n, &names[0], 0);
	cr_assert(e && e->producer == a && !e->consumer);
	cr_assert_eq(e->offset, 6);
	cr_assert_eq(e->count, 7);
	cr_assert_eq(e->sequence, 6);
	cr_assert_eq(e->durability, WRITTEN);
	e = find(list, n, &names[0], 1);
	cr_assert(e);
	cr_assert_eq(e->offset, 6);
	cr_assert_eq(e->count, 2);
	cr_assert_eq(e->sequence, 13);
	cr_assert_eq(e->durability, MEMORY);
	e = find(list, n, &names[1], 0);
	cr_assert(e && e->producer == b);
	cr_assert_eq(e->offset, 7);
	cr_assert_eq(e->count, 7);
	cr_assert_eq(e->durability, MEMORY);
	e = find(list, n, &names[1], 1);
	cr_assert(e);
	cr_assert_eq(e->offset, 3);
	cr_assert_eq(e->count, 3);
	cr_assert_null(find(list, n, &names[2], 0),
		       "who asked for durable has FAILED, and nothing else");
}

Test(broker_lost, a_reader_hears_that_what_it_sees_may_be_gone, .fini = end)
{
	struct thmq_consumer *early, *late;
	struct thmq_producer *p;
	struct thmq_message m[64];
	struct thmq_event list[4];
	int got = 0, n;

	machine(2);
	opts.flags = THMQ_BROKER_NO_BACKGROUND_FLUSH;
	up();
	topic("t", 1, MEMORY);
	p = producer("t", MEMORY, NULL);
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, NULL, &early), 0);
	for (int i = 0; i < 4; i++)
		cr_assert_gt(send_to(p, 0, DURABLE), 0);
	cr_assert_eq(thmq_flush(p, SECOND), 0);
	for (int i = 0; i < 6; i++)
		cr_assert_gt(send_to(p, 0, 0), 0);
	for (int i = 0; i < 100 && got < 10; i++) {
		n = thmq_fetch(early, m, 64);
		cr_assert_geq(n, 0);
		cr_assert_eq(thmq_release(early, m, (uint32_t)n), 0);
		got += n;
		pass(MS);
	}
	cr_assert_eq(got, 10);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 0);
	fault(THMQI_DISK_FLUSH, 1);
	cr_assert_gt(send_to(p, 0, DURABLE), 0);
	cr_assert_eq(thmq_flush(p, SECOND), -EIO);
	n = (int)events_of(THMQ_EVENT_LOST, list, 4);
	cr_assert_eq(n, 2, "one for the producer, one for the reader");
	for (int i = 0; i < n; i++) {
		cr_assert_eq(list[i].offset, 4);
		cr_assert_eq(list[i].count, list[i].consumer ? 7u : 6u);
		cr_assert_eq(list[i].error, -THMQ_EFAILED);
	}
	cr_assert_neq(list[0].consumer != NULL, list[1].consumer != NULL);
	/* who comes later hears of it, too */
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, NULL, &late), 0, "%s", thmq_errmsg());
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 1);
	cr_assert_eq(list[0].consumer, late);
	cr_assert_eq(list[0].offset, 4);
	cr_assert_eq(list[0].count, 7);
}

Test(broker_lost, readers_of_what_is_durable_hear_nothing_of_it, .fini = end)
{
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_event list[4];

	machine(3);
	up();
	topic("t", 1, 0);
	p = producer("t", DURABLE, NULL);
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, NULL, &c), 0);
	for (int i = 0; i < 4; i++)
		cr_assert_gt(send_to(p, 0, 0), 0);
	cr_assert_eq(thmq_flush(p, SECOND), 0);
	fault(THMQI_DISK_WRITE, 1);
	cr_assert_gt(send_to(p, 0, 0), 0);
	cr_assert_eq(thmq_flush(p, SECOND), -EIO);
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 0);
}

/* ------------------------------------------------------------------- a power cut */

Test(broker_lost, a_seek_to_an_offset_of_a_lost_message_tells, .fini = end)
{
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_message m[64];
	struct thmq_event list[4];
	int n, got = 0;

	machine(4);
	opts.flags = THMQ_BROKER_NO_BACKGROUND_FLUSH;
	up();
	topic("t", 1, MEMORY);
	p = producer("t", DURABLE, NULL);
	for (int i = 0; i < 4; i++)
		cr_assert_gt(send_to(p, 0, 0), 0);
	cr_assert_eq(thmq_flush(p, SECOND), 0);
	for (int i = 0; i < 6; i++)
		cr_assert_gt(send_to(p, 0, WRITTEN), 0);
	cr_assert_eq(thmq_flush(p, SECOND), 0);
	thmqi_disk_sim_crash_as(sim, THMQI_DISK_SIM_CRASH_LOSE);
	down();
	thmqi_disk_sim_restart(sim);
	up();
	p = producer("t", DURABLE, NULL);
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, NULL, &c), 0);
	/* a program that had read as far as that */
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, 9), 0, "%s", thmq_errmsg());
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 1);
	cr_assert_eq(list[0].consumer, c);
	cr_assert_eq(list[0].error, 0, "it is certain");
	cr_assert_eq(list[0].offset, 4);
	cr_assert_eq(list[0].count, 0, "nobody knows how many there were");
	/* also when others came after it; and not who had read no more than what is there */
	cr_assert_gt(send_to(p, 0, 0), 0);
	cr_assert_eq(thmq_flush(p, SECOND), 0);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, 4), 0, "%s", thmq_errmsg());
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 0);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, 10), 0, "%s", thmq_errmsg());
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 1);
	cr_assert_eq(list[0].offset, 4);
	cr_assert_eq(list[0].count, 0);
	/* any number in the jump would do as well: none of them is invented to have been a message */
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, 900000), 0, "%s", thmq_errmsg());
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 1);
	cr_assert_eq(list[0].count, 0);
	while (got == 0 && (n = thmq_fetch(c, m, 64)) >= 0) {
		for (int i = 0; i < n; i++) {
			cr_assert_geq(m[i].offset, 1u << 20,
				      "the next message lies behind all that was lost");
			got++;
		}
		thmq_release(c, m, (uint32_t)n);
		pass(MS);
	}
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, m[0].offset), 0, "%s", thmq_errmsg());
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_LOST, list, 4), 0);
}

Test(broker_lost, what_was_acknowledged_longer_ago_than_the_interval_is_there_after_a_power_cut)
{
	for (uint64_t seed = 1; seed <= 40; seed++) {
		static uint64_t when[2000];
		struct thmq_partition_info info = {.size = sizeof(info)};
		struct thmq_producer *p;
		uint64_t count = 0, old = 0, interval = seed % 2 ? 5 * MS : 500 * MS;

		machine(seed);
		opts.flush_interval_ns = seed % 2 ? interval : 0;
		up();
		topic("t", 1, seed % 3 ? 0 : MEMORY);
		p = producer("t", MEMORY, NULL);
		while (count < 100 + seed * 3) {
			cr_assert_eq(send_to(p, 0, seed % 5 == 0 || count % 2 ? 0 : WRITTEN),
				     (int64_t)count + 1);
			thmq_poll(env, 0); /* the broker has it: the producer may be told so */
			when[count++] = thmqi_disk_sim_now(sim);
			pass(interval / 20);
		}
		while (when[old] + interval + MS < thmqi_disk_sim_now(sim))
			old++;
		cr_assert_gt(old, 0);
		thmqi_disk_sim_crash_as(sim, THMQI_DISK_SIM_CRASH_LOSE);
		down();
		thmqi_disk_sim_restart(sim);
		up();
		cr_assert_eq(thmq_partition_describe(session, "t", 0, NULL, &info), 0);
		cr_assert_geq(info.end_offset, old, "seed %u: %u of %u", (unsigned)seed,
			      (unsigned)info.end_offset, (unsigned)old);
		end();
	}
}

/* ------------------------------------------------------------------ mixed rungs */

Test(broker_lost, mixed_rungs_are_acknowledged_in_their_own_order_with_what_is_proven)
{
	for (uint64_t seed = 1; seed <= 60; seed++) {
		static uint8_t asked[SETTLED_MAX], told[SETTLED_MAX];
		static uint64_t place[SETTLED_MAX];
		struct thmq_event e;
		struct thmqi_prng prng;
		struct thmq_producer *p;
		struct thmq_partition_info info[2] = {{.size = sizeof(info[0])},
						      {.size = sizeof(info[0])}};
		uint64_t upto[2] = {0, 0}, last[2][DURABLE + 1] = {{0}};
		int64_t count = 0, seq;

		memset(told, 0, sizeof(told));
		thmqi_prng_seed(&prng, seed);
		machine(seed);
		opts.group_ns = seed % 4 ? 0 : MS / 5;
		opts.flush_interval_ns = seed % 3 ? 0 : MS;
		up();
		topic("t", 2, seed % 2 ? 0 : 1 + seed % 3);
		cr_assert_eq(thmq_producer_open(session, "t",
						THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT),
						&p),
			     0);
		for (int round = 0; round < 60; round++) {
			for (uint64_t n = thmqi_prng_below(&prng, 12); n; n--) {
				uint32_t level = 1 + (uint32_t)thmqi_prng_below(&prng, 4);

				seq = send_to(p, (uint32_t)thmqi_prng_below(&prng, 2), level);
				cr_assert_eq(seq, ++count);
				asked[seq] = (uint8_t)THMQI_MIN(level, DURABLE);
			}
			thmq_poll(env, thmqi_prng_below(&prng, 2) ? 0 : 50000);
			while (thmq_events(session, &e, 1) == 1) {
				uint32_t k = e.partition;

				if (e.type != THMQ_EVENT_SETTLED)
					continue;
				cr_assert_eq(told[e.sequence], 0, "once");
				cr_assert_geq(e.durability, asked[e.sequence],
					      "no less than was asked for");
				cr_assert_leq(e.durability, DURABLE, "and no more than there is");
				cr_assert_geq(e.sequence, last[k][asked[e.sequence]],
					      "in order, those of a rung");
				last[k][asked[e.sequence]] = e.sequence;
				told[e.sequence] = (uint8_t)e.durability;
				place[e.sequence] = (uint64_t)k << 32 | e.offset;
				if (e.durability == DURABLE)
					upto[k] = THMQI_MAX(upto[k], e.offset + 1);
			}
		}
		/* a durable ack covers all before it in its partition, whatever theirs were */
		thmqi_disk_sim_crash_as(sim, seed % 4 ? THMQI_DISK_SIM_CRASH_LOSE
						      : THMQI_DISK_SIM_CRASH_ANY);
		down();
		thmqi_disk_sim_restart(sim);
		up();
		for (uint32_t k = 0; k < 2; k++) {
			cr_assert_eq(thmq_partition_describe(session, "t", k, NULL, &info[k]), 0);
			cr_assert_geq(info[k].end_offset, upto[k], "seed %u", (unsigned)seed);
		}
		for (seq = 1; seq <= count; seq++)
			if (told[seq] == DURABLE)
				cr_assert_lt(place[seq] & UINT32_MAX,
					     info[place[seq] >> 32].end_offset);
		end();
	}
}

Test(broker_lost, many_single_written_messages_do_not_wait_for_the_interval, .fini = end)
{
	struct thmq_producer *p;
	uint64_t begin, longest = 0, before;
	int64_t seq = 0;

	machine(5);
	opts.flags = THMQ_BROKER_NO_BACKGROUND_FLUSH;
	opts.write_depth = 64;
	up();
	topic("t", 2, WRITTEN);
	p = producer("t", WRITTEN, NULL);
	begin = thmqi_disk_sim_now(sim);
	while (seq < 60000) { /* each is a run of its own */
		before = thmqi_disk_sim_now(sim);
		while ((seq = send_to(p, (uint32_t)seq % 2, 0)) == -EAGAIN)
			thmq_poll(env, 10000);
		cr_assert_gt(seq, 0);
		longest = THMQI_MAX(longest, thmqi_disk_sim_now(sim) - before);
		if (seq % 8 == 0)
			thmq_poll(env, 0);
	}
	cr_assert_eq(thmq_flush(p, 10 * SECOND), 0);
	cr_assert_lt(longest, 50 * MS, "%llu us", (unsigned long long)longest / 1000);
	cr_assert_lt(thmqi_disk_sim_now(sim) - begin, 5 * SECOND);
}

/* ---------------------------------------------------------- waits after a failure */

Test(broker_lost, a_consumer_that_knows_of_the_failure_is_told_so_at_once, .fini = end)
{
	struct thmq_consumer *c, *late;
	struct thmq_producer *p;
	struct thmq_message m[4];
	struct thmq_event list[4];

	machine(6);
	up();
	topic("t", 1, 0);
	p = producer("t", DURABLE, NULL);
	cr_assert_eq(thmq_consumer_open(session, "t", "g", NULL, &c), 0);
	for (int i = 0; i < 4; i++)
		cr_assert_gt(send_to(p, 0, 0), 0);
	cr_assert_eq(thmq_flush(p, SECOND), 0);
	pass(MS);
	cr_assert_eq(thmq_fetch(c, m, 4), 4);
	cr_assert_eq(thmq_ack(c, &m[0]), 0);
	cr_assert_eq(thmq_consumer_flush(c, SECOND), 0);
	cr_assert_eq(events_of(THMQ_EVENT_ERROR, list, 4), 0);
	fault(THMQI_DISK_WRITE, 1);
	cr_assert_gt(send_to(p, 0, 0), 0);
	cr_assert_eq(thmq_flush(p, SECOND), -EIO);
	cr_assert_eq(events_of(THMQ_EVENT_ERROR, list, 4), 1);
	cr_assert_eq(list[0].error, -THMQ_EFAILED);
	cr_assert_eq(thmq_consumer_flush(c, 0), 0, "what was acked before is stored");
	for (int i = 1; i < 4; i++) {
		cr_assert_eq(thmq_ack(c, &m[i]), 0);
		for (int k = 0; k < 3; k++) {
			cr_assert_eq(thmq_consumer_flush(c, 0), -THMQ_EFAILED, "ack %d, flush %d",
				     i, k);
			if (k)
				pass(MS);
		}
	}
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, NULL, &late), 0, "%s", thmq_errmsg());
	pass(MS);
	cr_assert_eq(events_of(THMQ_EVENT_ERROR, list, 4), 1, "who comes later knows, too");
	cr_assert_eq(list[0].consumer, late);
	cr_assert_eq(thmq_consumer_close(c, SECOND), -THMQ_EFAILED);
}

static int fetch_and_ack(struct thmq_consumer *c)
{
	struct thmq_message m[8];
	int n = thmq_fetch(c, m, 8);

	for (int i = 0; i < n; i++)
		thmq_ack(c, &m[i]);
	if (n > 0)
		thmq_release(c, m, (uint32_t)n);
	return n;
}

Test(broker_lost, no_wait_times_out_when_the_device_has_failed)
{
	uint32_t failed = 0;

	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct thmq_producer *p[2];
		struct thmq_consumer *c;
		struct thmqi_prng prng;
		uint64_t begin;
		int rc;

		thmqi_prng_seed(&prng, seed);
		machine(seed);
		opts.group_ns = seed % 3 ? 0 : 3 * MS;
		up();
		topic("t", 2, seed % 2 ? 0 : MEMORY);
		p[0] = producer("t", DURABLE, NULL);
		p[1] = producer("t", WRITTEN, NULL);
		cr_assert_eq(thmq_consumer_open(session, "t", "g", NULL, &c), 0);
		pass(10 * MS);
		fault(seed % 3 ? THMQI_DISK_WRITE : THMQI_DISK_FLUSH,
		      1 + thmqi_prng_below(&prng, seed % 3 ? 12 : 3));
		for (int round = 0; round < 80; round++) {
			for (uint64_t n = thmqi_prng_below(&prng, 5); n; n--)
				send_to(p[thmqi_prng_below(&prng, 2)],
					(uint32_t)thmqi_prng_below(&prng, 2), 0);
			if (thmqi_prng_below(&prng, 3))
				thmq_poll(env, thmqi_prng_below(&prng, 100000));
			fetch_and_ack(c);
			if (thmqi_prng_below(&prng, 10))
				continue;
			begin = thmqi_disk_sim_now(sim);
			rc = thmq_flush(p[0], 20 * SECOND);
			cr_assert(rc == 0 || rc == -EIO, "seed %u: flush: %s", (unsigned)seed,
				  thmq_errname(rc));
			failed += rc != 0;
			rc = thmq_flush(p[1], 20 * SECOND);
			cr_assert(rc == 0 || rc == -EIO, "seed %u: flush: %s", (unsigned)seed,
				  thmq_errname(rc));
			failed += rc != 0;
			rc = thmq_consumer_flush(c, 20 * SECOND);
			cr_assert(rc == 0 || rc == -THMQ_EFAILED, "seed %u: consumer flush: %s",
				  (unsigned)seed, thmq_errname(rc));
			cr_assert_lt(thmqi_disk_sim_now(sim) - begin, SECOND, "seed %u",
				     (unsigned)seed);
		}
		begin = thmqi_disk_sim_now(sim);
		rc = thmq_consumer_close(c, 20 * SECOND);
		cr_assert(rc == 0 || rc == -THMQ_EFAILED, "seed %u: close: %s", (unsigned)seed,
			  thmq_errname(rc));
		rc = thmq_broker_close(broker, 20 * SECOND);
		cr_assert_neq(rc, -ETIMEDOUT, "seed %u", (unsigned)seed);
		cr_assert_lt(thmqi_disk_sim_now(sim) - begin, SECOND, "seed %u", (unsigned)seed);
		end();
	}
	cr_assert_gt(failed, 100, "%u", failed);
}

/* ------------------------------------------------------------------- closing */

static void stall(uint64_t ns)
{
	struct thmqi_disk_sim_fault f = {.opcode = THMQI_DISK_WRITE,
					 .effect = THMQI_DISK_SIM_STALL,
					 .nth = 1,
					 .repeat = UINT64_MAX,
					 .arg = (int64_t)ns};

	cr_assert_eq(thmqi_disk_sim_fault_add(sim, &f), 0);
}

Test(broker_lost, a_directory_stays_locked_as_long_as_the_device_has_writes_of_it)
{
	for (int way = 0; way < 2; way++) {
		struct thmq_partition_info info = {.size = sizeof(info)};
		struct thmq_producer *p;
		uint64_t begin, took;

		machine(7);
		up();
		topic("t", 1, 0);
		p = producer("t", DURABLE, NULL);
		for (int i = 0; i < 5; i++)
			cr_assert_gt(send_to(p, 0, 0), 0);
		cr_assert_eq(thmq_flush(p, SECOND), 0);
		stall(100 * SECOND);
		cr_assert_gt(send_to(p, 0, 0), 0);
		begin = thmqi_disk_sim_now(sim);
		cr_assert_eq(thmq_broker_close(broker, 3 * SECOND), -ETIMEDOUT);
		took = thmqi_disk_sim_now(sim) - begin;
		cr_assert_geq(took, 3 * SECOND);
		cr_assert_lt(took, 6 * SECOND, "%llu", (unsigned long long)took);
		thmqi_disk_sim_faults_clear(sim);
		cr_assert_eq(thmq_broker_open(env, &opts, &broker), -EBUSY);
		if (way == 0) {
			pass(300 * SECOND);
			cr_assert_eq(thmq_broker_open(env, &opts, &broker), 0, "%s", thmq_errmsg());
			down();
		} else {
			cr_assert_eq(down(), 0, "closing the environment waits for the device");
		}
		up();
		cr_assert_eq(thmq_partition_describe(session, "t", 0, NULL, &info), 0);
		cr_assert_geq(info.end_offset, 5);
		end();
	}
}
