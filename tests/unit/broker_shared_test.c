/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_shared_test.c - groups whose members share partitions: api, client, broker and log on a simulated disk, in virtual time. Who
 * gets what, for how long, how often; what is done stays done, through restarts too.
 */
#include <criterion/criterion.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

TestSuite(broker_shared, .timeout = 60);

#define MS 1000000ull
#define SECOND 1000000000ull
#define MAX 4096u

static struct thmqi_disk_sim *sim;
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *sessions[3];
static struct thmq_producer *producer;
static uint32_t next_id;

static void up(void)
{
	struct thmq_broker_opts o = {.size = sizeof(o),
				     .data_dir = "data",
				     .shard_count = 1,
				     .segment_bytes = 1u << 20,
				     .batch_bytes = 64u << 10,
				     .cache_bytes = 1u << 20};
	int i;

	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20),
					thmqi_disk_sim_world(sim), &env),
		     0);
	cr_assert_eq(thmq_broker_open(env, &o, &broker), 0, "%s", thmq_errmsg());
	for (i = 0; i < 3; i++)
		cr_assert_eq(thmq_connect(env, "inproc://", NULL, &sessions[i]), 0);
	cr_assert_eq(
		thmq_topic_create(sessions[0], "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)),
		0);
	cr_assert_eq(thmq_producer_open(sessions[0], "t", NULL, &producer), 0);
}

static void begin(void)
{
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &sim), 0);
	up();
}

static void restart(bool cut)
{
	if (cut)
		thmqi_disk_sim_crash_as(sim, THMQI_DISK_SIM_CRASH_LOSE);
	thmq_env_close(env, cut ? 0 : 60 * SECOND);
	thmqi_disk_sim_restart(sim);
	up();
}

static void end(void)
{
	thmq_env_close(env, SECOND);
	thmqi_disk_sim_close(sim);
}

static void pass(uint64_t ns)
{
	uint64_t until = thmqi_disk_sim_now(sim) + ns, now;

	while ((now = thmqi_disk_sim_now(sim)) < until)
		thmq_poll(env, THMQI_MIN(until - now, 100000ull));
}

static struct thmq_consumer *member(int session, uint64_t invisible_ns, uint32_t prefetch,
				    uint32_t deliver_max)
{
	struct thmq_consumer *c;

	cr_assert_eq(thmq_consumer_open(sessions[session], "t", "g",
					THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
							   .invisible_ns = invisible_ns,
							   .prefetch_count = prefetch,
							   .deliver_max = deliver_max),
					&c),
		     0, "%s", thmq_errmsg());
	return c;
}

static void send_some(uint32_t n)
{
	while (n--) {
		cr_assert_gt(thmq_send(producer, &next_id, sizeof(next_id), NULL), 0);
		next_id++;
	}
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
}

/* All that comes within @ns; kept, not released. */
static uint32_t fetch(struct thmq_consumer *c, struct thmq_message *m, uint32_t max, uint64_t ns)
{
	uint64_t until = thmqi_disk_sim_now(sim) + ns;
	uint32_t n = 0;
	int rc;

	do {
		rc = thmq_fetch(c, m + n, max - n);
		cr_assert(rc >= 0 || rc == -ENOBUFS);
		n += rc > 0 ? (uint32_t)rc : 0;
		thmq_poll(env, 50000);
	} while (n < max && thmqi_disk_sim_now(sim) < until);
	return n;
}

static uint32_t id_of(const struct thmq_message *m)
{
	uint32_t id;

	memcpy(&id, m->data, sizeof(id));
	return id;
}

static void done(struct thmq_consumer *c, struct thmq_message *m, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		cr_assert_eq(thmq_ack(c, &m[i]), 0);
	cr_assert_eq(thmq_release(c, m, n), 0);
}

static struct thmq_partition_info info(void)
{
	struct thmq_partition_info i = {.size = sizeof(i)};

	cr_assert_eq(thmq_partition_describe(sessions[0], "t", 0, "g", &i), 0);
	return i;
}

static struct thmq_message m[MAX], m2[MAX];

Test(broker_shared, each_message_goes_to_one_member_and_all_get_some, .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(0, 0, 8, 0), *b = member(1, 0, 8, 0);
	uint8_t seen[400] = {0};
	uint32_t i, n, of_a = 0, of_b = 0;

	for (i = 0; i < 400; i += 20)
		send_some(20);
	while (of_a + of_b < 400) {
		n = fetch(a, m, 4, MS);
		for (i = 0; i < n; i++)
			cr_assert_eq(seen[id_of(&m[i])]++, 0);
		done(a, m, n);
		of_a += n;
		n = fetch(b, m, 4, MS);
		for (i = 0; i < n; i++)
			cr_assert_eq(seen[id_of(&m[i])]++, 0);
		done(b, m, n);
		of_b += n;
	}
	cr_assert_gt(of_a, 50);
	cr_assert_gt(of_b, 50);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(thmq_consumer_flush(b, SECOND), 0);
	cr_assert_eq(info().lag, 0);
	cr_assert_eq(info().group_offset, 400);
}

Test(broker_shared, acks_in_any_order_survive_a_power_cut, .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(0, 0, 0, 0);
	uint32_t i, n;

	send_some(100);
	cr_assert_eq(fetch(a, m, 100, 5 * MS), 100);
	for (i = 0; i < 100; i++)
		if (id_of(&m[i]) % 3 == 0)
			cr_assert_eq(thmq_ack(a, &m[i]), 0);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(info().group_offset, 1);
	cr_assert_eq(info().lag, 66);
	restart(true);
	a = member(0, 0, 0, 0);
	n = fetch(a, m, 100, 5 * MS);
	cr_assert_eq(n, 66);
	for (i = 0; i < n; i++)
		cr_assert_neq(id_of(&m[i]) % 3, 0);
	done(a, m, n);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	restart(false);
	cr_assert_eq(info().lag, 0);
	a = member(0, 0, 0, 0);
	cr_assert_eq(fetch(a, m, 1, 5 * MS), 0);
}

Test(broker_shared, what_is_not_acknowledged_in_time_goes_to_another, .init = begin, .fini = end)
{
	struct thmq_consumer *a, *b;
	uint32_t n;

	cr_assert_eq(
		thmq_consumer_open(
			sessions[0], "t", "g",
			THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .invisible_ns = 10 * MS,
					   .prefetch_bytes =
						   1), /* no room for more than it holds */
			&a),
		0);

	send_some(10);
	cr_assert_eq(fetch(a, m, 10, 2 * MS), 10);
	cr_assert_eq(thmq_message_deliveries(a, &m[0]), 1);
	b = member(1, SECOND, 0, 0);
	cr_assert_eq(fetch(b, m2, 10, 5 * MS), 0, "they are another's");
	cr_assert_eq(thmq_ack(a, &m[3]), 0);
	cr_assert_eq(thmq_extend(a, &m[4], SECOND), 0);
	n = fetch(b, m2, 10, 20 * MS);
	cr_assert_eq(n, 8);
	cr_assert_eq(thmq_message_deliveries(b, &m2[0]), 2);
	for (uint32_t i = 0; i < n; i++)
		cr_assert(id_of(&m2[i]) != 3 && id_of(&m2[i]) != 4);
	/* late, but nobody has done it yet */
	cr_assert_eq(thmq_ack(a, &m[0]), 0);
	cr_assert_eq(thmq_ack(a, &m[4]), 0);
	done(b, m2, n);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(thmq_consumer_flush(b, SECOND), 0);
	cr_assert_eq(info().lag, 0);
}

Test(broker_shared, a_message_that_is_given_back_comes_again_after_its_delay, .init = begin,
     .fini = end)
{
	struct thmq_consumer *a = member(0, 0, 0, 0);
	uint64_t then;

	send_some(3);
	cr_assert_eq(fetch(a, m, 3, 2 * MS), 3);
	then = thmqi_disk_sim_now(sim);
	cr_assert_eq(thmq_nack(a, &m[0], 20 * MS), 0);
	cr_assert_eq(thmq_nack(a, &m[1], 0), 0);
	cr_assert_eq(fetch(a, m2, 1, 2 * MS), 1);
	cr_assert_eq(id_of(&m2[0]), 1);
	cr_assert_eq(fetch(a, m2 + 1, 1, 100 * MS), 1);
	cr_assert_eq(id_of(&m2[1]), 0);
	cr_assert_geq(thmqi_disk_sim_now(sim) - then, 20 * MS);
	cr_assert_lt(thmqi_disk_sim_now(sim) - then, 23 * MS);
	cr_assert_eq(thmq_message_deliveries(a, &m2[1]), 2);
}

Test(broker_shared, who_leaves_gives_back_what_it_has_and_what_it_never_saw_does_not_count,
     .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(0, SECOND, 0, 0), *b;

	send_some(10);
	cr_assert_eq(fetch(a, m, 4, 2 * MS), 4);
	b = member(1, SECOND, 0, 0);
	cr_assert_eq(thmq_consumer_close(a, SECOND), 0);
	cr_assert_eq(fetch(b, m2, 10, 5 * MS), 10);
	for (int i = 0; i < 10; i++)
		cr_assert_eq(thmq_message_deliveries(b, &m2[i]), id_of(&m2[i]) < 4 ? 2 : 1);
}

Test(broker_shared, a_session_that_ends_gives_back_too, .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(1, SECOND, 0, 0), *b = member(2, SECOND, 0, 0);

	send_some(10);
	pass(2 * MS);
	cr_assert_eq(thmq_fetch(a, m, 10) + thmq_fetch(b, m2, 10), 10);
	cr_assert_eq(thmq_session_close(sessions[1], SECOND), 0);
	cr_assert_eq(thmq_session_close(sessions[2], SECOND), 0);
	a = member(0, SECOND, 0, 0);
	cr_assert_eq(fetch(a, m, 10, 5 * MS), 10);
}

Test(broker_shared, after_so_many_deliveries_a_message_is_dead_and_an_event_tells, .init = begin,
     .fini = end)
{
	struct thmq_consumer *a = member(0, 0, 0, 3);
	struct thmq_event e = {0};
	int i;

	send_some(2);
	for (i = 1; i <= 3; i++) {
		cr_assert_eq(fetch(a, m, i == 1 ? 2 : 1, 5 * MS), i == 1 ? 2 : 1);
		cr_assert_eq(thmq_message_deliveries(a, &m[0]), i);
		cr_assert_eq(id_of(&m[0]), 0);
		cr_assert_eq(thmq_nack(a, &m[0], 0), 0);
		if (i == 1)
			cr_assert_eq(thmq_ack(a, &m[1]), 0);
		cr_assert_eq(thmq_release(a, m, i == 1 ? 2 : 1), 0);
	}
	cr_assert_eq(fetch(a, m, 1, 5 * MS), 0);
	do
		cr_assert_eq(thmq_events(sessions[0], &e, 1), 1);
	while (e.type != THMQ_EVENT_DEAD_LETTER);
	cr_assert_eq(e.offset, 0);
	cr_assert_eq(e.count, 3);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(info().lag, 0);
}

Test(broker_shared, no_more_than_so_many_are_out_at_a_time, .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(0, 100 * SECOND, 100000, 0);
	static struct thmq_message all[8000];
	uint32_t i, n, of_first;

	for (i = 0; i < 6000; i += 500)
		send_some(500);
	n = fetch(a, all, 8000, 20 * MS);
	cr_assert_geq(n, 3000);
	cr_assert_leq(n, 4096);
	for (i = 1; i < n; i += 2) /* the worst to remember */
		cr_assert_eq(thmq_ack(a, &all[i]), 0);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	of_first = n;
	n += fetch(a, all + n, 8000 - n, 20 * MS);
	cr_assert_eq(n, 6000);
	restart(true);
	a = member(0, 0, 100000, 0);
	for (n = 0; (i = fetch(a, all, 8000, 5 * MS)) > 0; n += i)
		done(a, all, i);
	cr_assert_eq(n, 6000 - of_first / 2);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(info().lag, 0);
}

Test(broker_shared, a_group_is_shared_by_all_or_by_none, .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(0, 0, 0, 0), *b;
	struct thmq_event e = {0};

	send_some(5);
	cr_assert_eq(fetch(a, m, 5, 2 * MS), 5);
	done(a, m, 3);
	cr_assert_eq(thmq_consumer_open(sessions[1], "t", "g", NULL, &b), 0);
	for (int i = 0; i < 100 && e.type != THMQ_EVENT_ERROR; i++)
		if (thmq_events(sessions[1], &e, 1) == 0)
			thmq_session_wait(sessions[1], MS);
	cr_assert_eq(e.error, -EBUSY);
	cr_assert_eq(thmq_consumer_close(b, SECOND), 0);
	cr_assert_eq(thmq_consumer_close(a, SECOND), 0);
	/* an exclusive one goes on where it is */
	cr_assert_eq(thmq_consumer_open(sessions[1], "t", "g", NULL, &b), 0);
	cr_assert_eq(fetch(b, m, 5, 2 * MS), 2);
	cr_assert_eq(id_of(&m[0]), 3);
	cr_assert_eq(thmq_consumer_open(sessions[0], "t", "g",
					THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &a),
		     -EBUSY);
	done(b, m, 1);
	cr_assert_eq(thmq_consumer_close(b, SECOND), 0);
	a = member(0, 0, 0, 0);
	cr_assert_eq(fetch(a, m, 5, 2 * MS), 1);
	cr_assert_eq(id_of(&m[0]), 4);
}

Test(broker_shared, where_a_new_group_begins_is_stored, .init = begin, .fini = end)
{
	struct thmq_consumer *a;
	const struct thmq_consumer_opts o = {
		.size = sizeof(o), .flags = THMQ_CONSUMER_SHARED, .start = THMQ_START_END};

	send_some(5);
	cr_assert_eq(thmq_consumer_open(sessions[0], "t", "g", &o, &a), 0);
	pass(MS);
	send_some(5);
	restart(true);
	cr_assert_eq(thmq_consumer_open(sessions[0], "t", "g", &o, &a), 0);
	cr_assert_eq(fetch(a, m, 10, 5 * MS), 5);
	cr_assert_eq(id_of(&m[0]), 5);
}

Test(broker_shared, calls_that_make_no_sense_are_refused, .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(0, 0, 0, 0), *b;

	send_some(1);
	cr_assert_eq(fetch(a, m, 1, 2 * MS), 1);
	m2[0] = m[0];
	m2[0].offset = 9;
	cr_assert_eq(thmq_ack(a, &m2[0]), -EINVAL);
	cr_assert_eq(thmq_nack(a, &m2[0], 0), -EINVAL);
	cr_assert_eq(thmq_extend(a, &m2[0], 0), -EINVAL);
	cr_assert_eq(thmq_message_deliveries(a, &m2[1]), -EINVAL);
	cr_assert_eq(thmq_seek(a, 0, THMQ_START_BEGIN, 0), -EOPNOTSUPP);
	cr_assert_eq(thmq_consumer_open(sessions[0], "t", NULL,
					THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &b),
		     -EINVAL);
	cr_assert_eq(
		thmq_consumer_open(sessions[0], "t", "x", THMQ_CONSUMER_OPTS(.deliver_max = 1), &b),
		-EINVAL);
	cr_assert_eq(
		thmq_topic_create(sessions[0], "v", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)),
		0);
	cr_assert_eq(thmq_consumer_open(sessions[0], "v", "x",
					THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &b),
		     -EOPNOTSUPP);
	cr_assert_eq(thmq_consumer_open(sessions[0], "t", "x", NULL, &b), 0);
	pass(MS);
	cr_assert_eq(fetch(b, m2, 1, 2 * MS), 1);
	cr_assert_eq(thmq_nack(b, &m2[0], 0), -EINVAL);
	cr_assert_eq(thmq_message_deliveries(b, &m2[0]), 0);
}

Test(broker_shared, a_topic_that_is_deleted_ends_it, .init = begin, .fini = end)
{
	struct thmq_consumer *a = member(0, 0, 0, 0);

	send_some(3);
	cr_assert_eq(fetch(a, m, 2, 2 * MS), 2);
	cr_assert_eq(thmq_ack(a, &m[1]), 0);
	cr_assert_eq(thmq_topic_delete(sessions[1], "t"), 0);
	for (int i = 0; i < 10 && thmq_fetch(a, m2, 1) != -THMQ_ENOTOPIC; i++)
		pass(MS);
	cr_assert_eq(thmq_fetch(a, m2, 1), -THMQ_ENOTOPIC);
	cr_assert_eq(thmq_consumer_close(a, SECOND), 0);
}
