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

/* The app only waits, and takes events. */
Test(broker_shared, dead_letters_go_though_nobody_fetches, .init = begin, .fini = end)
{
	const struct thmq_consumer_opts o = {.size = sizeof(o), .flags = THMQ_CONSUMER_SHARED, .deliver_max = 1, .dead_topic = "dead"};
	struct thmq_partition_info there = {.size = sizeof(there)};
	struct thmq_consumer *a, *b;
	uint32_t letters = 0, i;
	struct thmq_event e;

	cr_assert_eq(thmq_consumer_open(sessions[0], "t", "g", &o, &a), 0);
	send_some(300);
	for (i = 0; i < 300;) {
		uint32_t n = fetch(a, m, 10, 5 * MS), k;

		cr_assert_gt(n, 0);
		for (k = 0; k < n; k++)
			cr_assert_eq(thmq_nack(a, &m[k], 0), 0);
		cr_assert_eq(thmq_release(a, m, n), 0);
		i += n;
	}
	for (i = 0; i < 2000 && letters < 300; i++) {
		thmq_session_wait(sessions[0], MS);
		while (thmq_events(sessions[0], &e, 1) == 1)
			letters += e.type == THMQ_EVENT_DEAD_LETTER;
	}
	cr_assert_eq(letters, 300);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(info().lag, 0);
	cr_assert_eq(thmq_partition_describe(sessions[0], "dead", 0, NULL, &there), 0);
	cr_assert_eq(there.end_offset - there.begin_offset, 300);
	cr_assert_eq(thmq_consumer_open(sessions[1], "dead", NULL, NULL, &b), 0);
	cr_assert_gt(fetch(b, m, 10, 5 * MS), 0);
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
	cr_assert(strstr(thmq_errmsg(), "volatile"), "%s", thmq_errmsg());
	cr_assert_eq(thmq_consumer_open(sessions[0], "t", "x",
					THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .deliver_max = 1, .dead_topic = "t"), &b),
		     -EINVAL);
	cr_assert(strstr(thmq_errmsg(), "dead_topic"), "%s", thmq_errmsg());
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
	cr_assert_eq(thmq_consumer_close(a, 30 * SECOND), 0);
}

/* ---------------------------------------------------------------- dead letters */

static const char *text_of(const struct thmq_message *msg, const char *name, char *to,
			   uint32_t size)
{
	struct thmq_header h;

	cr_assert_eq(thmq_header_find(msg, name, &h), 0, "%s", name);
	cr_assert_eq(h.type, THMQ_HEADER_TEXT);
	cr_assert_lt(h.value_len, size);
	memcpy(to, h.value, h.value_len);
	to[h.value_len] = 0;
	return to;
}

static int64_t int_of(const struct thmq_message *msg, const char *name)
{
	struct thmq_header h;
	int64_t value;

	cr_assert_eq(thmq_header_find(msg, name, &h), 0, "%s", name);
	cr_assert_eq(h.value_len, 8);
	memcpy(&value, h.value, 8);
	return value;
}

static struct thmq_consumer *burying_member(int session, uint32_t deliver_max)
{
	static const uint64_t delays[] = {5 * MS, 20 * MS};
	struct thmq_consumer *c;

	cr_assert_eq(thmq_consumer_open(sessions[session], "t", "g",
					THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
							   .deliver_max = deliver_max,
							   .backoff_ns = delays, .backoff_count = 2,
							   .dead_topic = "t.dead"),
					&c),
		     0, "%s", thmq_errmsg());
	return c;
}

static uint32_t dead_letters(struct thmq_message *to, uint32_t max,
			     struct thmq_consumer **ret_reader)
{
	cr_assert_eq(thmq_consumer_open(sessions[2], "t.dead", NULL, NULL, ret_reader), 0, "%s",
		     thmq_errmsg());
	return fetch(*ret_reader, to, max, 5 * MS);
}

Test(broker_shared, a_dead_letter_goes_to_its_topic_with_all_that_it_had, .init = begin,
     .fini = end)
{
	struct thmq_consumer *a = burying_member(1, 3), *reader;
	const struct thmq_header trace = {
		.name = "trace", .value = "abc", .value_len = 3, .type = THMQ_HEADER_TEXT};
	const uint64_t waits[] = {5 * MS, 20 * MS};
	struct thmq_event e = {0};
	char text[64];
	uint64_t then;
	int i;

	cr_assert_gt(thmq_send(producer, "boom", 4,
			       THMQ_MESSAGE_OPTS(.key = "k", .key_len = 1, .tag = "red",
						 .headers = &trace, .header_count = 1)),
		     0);
	for (i = 1; i <= 3; i++) {
		then = thmqi_disk_sim_now(sim);
		cr_assert_eq(fetch(a, m, 1, 100 * MS), 1, "the %d-th", i);
		if (i > 1)
			cr_assert_geq(thmqi_disk_sim_now(sim) - then + 1 * MS, waits[i - 2]);
		cr_assert_eq(thmq_nack(a, &m[0], i < 3 ? THMQ_NACK_BACKOFF : 0), 0);
		cr_assert_eq(thmq_release(a, m, 1), 0);
	}
	cr_assert_eq(fetch(a, m, 1, 10 * MS), 0);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(info().lag, 0);
	while (e.type != THMQ_EVENT_DEAD_LETTER)
		cr_assert_eq(thmq_events(sessions[1], &e, 1), 1);
	cr_assert_eq(e.count, 3);
	cr_assert_eq(dead_letters(m, 2, &reader), 1);
	cr_assert(m[0].len == 4 && memcmp(m[0].data, "boom", 4) == 0);
	cr_assert(m[0].key_len == 1 && m[0].tag_len == 3 && memcmp(m[0].tag, "red", 3) == 0);
	cr_assert_str_eq(text_of(&m[0], "trace", text, sizeof(text)), "abc");
	cr_assert_str_eq(text_of(&m[0], "thmq-dead-topic", text, sizeof(text)), "t");
	cr_assert_str_eq(text_of(&m[0], "thmq-dead-group", text, sizeof(text)), "g");
	cr_assert_str_eq(text_of(&m[0], "thmq-dead-reason", text, sizeof(text)), "deliveries");
	cr_assert_eq(int_of(&m[0], "thmq-dead-partition"), 0);
	cr_assert_eq(int_of(&m[0], "thmq-dead-offset"), 0);
	cr_assert_eq(int_of(&m[0], "thmq-dead-deliveries"), 3);
}

Test(broker_shared, a_message_that_is_rejected_is_a_dead_letter_at_once, .init = begin, .fini = end)
{
	struct thmq_consumer *a = burying_member(1, 0), *b = member(0, 0, 0, 0), *reader;
	char text[64];

	cr_assert_eq(thmq_consumer_close(b, SECOND), 0);
	send_some(600);
	for (uint32_t n, i, got = 0; got < 600; got += n) {
		n = fetch(a, m, 300, 5 * MS);
		for (i = 0; i < n; i++) {
			while (thmq_reject(a, &m[i], "no such customer") == -EAGAIN)
				pass(MS / 10);
			cr_assert_eq(thmq_release(a, &m[i], 1), 0);
		}
	}
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(info().lag, 0);
	cr_assert_eq(dead_letters(m, MAX, &reader), 600);
	for (uint32_t i = 0; i < 600; i++)
		cr_assert_eq(id_of(&m[i]), i);
	cr_assert_str_eq(text_of(&m[599], "thmq-dead-reason", text, sizeof(text)),
			 "no such customer");
	cr_assert_eq(int_of(&m[599], "thmq-dead-offset"), 599);
	b = member(0, 0, 0, 0);
	cr_assert_eq(thmq_reject(b, &m[0], NULL), -EOPNOTSUPP);
}

Test(broker_shared, a_dead_letter_is_in_one_of_the_two_whenever_the_power_goes, .init = begin,
     .fini = end)
{
	struct thmq_consumer *a, *reader;
	uint8_t seen[64] = {0};
	uint32_t i, n, round;

	send_some(64);
	for (round = 0; round < 12; round++) {
		a = burying_member(1, 0);
		n = fetch(a, m, 8, 2 * MS);
		for (i = 0; i < n; i++)
			cr_assert_eq(thmq_reject(a, &m[i], "x"), 0);
		for (i = 0; i < round; i++) { /* somewhere on its way */
			pass(100000);
			cr_assert_geq(thmq_fetch(a, m2, 0), 0);
		}
		restart(true);
	}
	a = burying_member(1, 0);
	for (n = fetch(a, m, 64, 10 * MS), i = 0; i < n; i++)
		seen[id_of(&m[i])] = 1;
	cr_assert_lt(n, 64);
	for (n = dead_letters(m2, MAX, &reader), i = 0; i < n; i++)
		seen[id_of(&m2[i])] = 1;
	for (i = 0; i < 64; i++)
		cr_assert(seen[i], "%u is lost", i);
}

Test(broker_shared, a_message_in_parts_goes_to_one_member_as_a_whole, .init = begin, .fini = end)
{
	static uint8_t big[300000];
	struct thmq_consumer *a = member(1, 0, 0, 0), *b;
	uint32_t i, n;

	for (i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7 + i / 251);
	send_some(2);
	for (i = 0; i < 3; i++)
		cr_assert_gt(thmq_send(producer, big, sizeof(big) - i, NULL), 0);
	send_some(2);
	for (n = 0; n < 4; n += fetch(a, m + n, 1, 50 * MS))
		;
	for (i = 2; i < 4; i++)
		cr_assert(m[i].len == sizeof(big) - (i - 2) &&
				  memcmp(m[i].data, big, m[i].len) == 0,
			  "%u: %u at %llu", i, m[i].len, (unsigned long long)m[i].offset);
	cr_assert_eq(thmq_message_deliveries(a, &m[3]), 1);
	done(a, m, 3);
	cr_assert_eq(thmq_nack(a, &m[3], MS), 0);
	cr_assert_eq(thmq_release(a, m + 3, 1), 0);
	b = member(2, 0, 0, 0);
	cr_assert_eq(thmq_consumer_close(a, SECOND), 0);
	n = fetch(b, m, 4, 20 * MS);
	cr_assert_eq(n, 4);
	for (i = 0, n = 0; i < 4; i++) {
		if (m[i].len < 100)
			continue;
		n++;
		cr_assert(memcmp(m[i].data, big, m[i].len) == 0);
		cr_assert_eq(thmq_message_deliveries(b, &m[i]), m[i].len == sizeof(big) - 1 ? 2 : 1,
			     "%u: %d", m[i].len, thmq_message_deliveries(b, &m[i]));
	}
	cr_assert_eq(n, 2);
	done(b, m, 4);
	cr_assert_eq(thmq_consumer_flush(b, SECOND), 0);
	cr_assert_eq(info().lag, 0);
	restart(true);
	cr_assert_eq(info().lag, 0);
}

Test(broker_shared, what_is_too_old_for_the_app_is_done, .init = begin, .fini = end)
{
	struct thmq_consumer *a;

	for (int i = 0; i < 30; i++)
		cr_assert_gt(thmq_send(producer, &i, sizeof(i),
				       THMQ_MESSAGE_OPTS(.ttl_ns = i < 15 ? MS : 0)),
			     0);
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
	pass(20 * MS);
	a = member(1, 0, 0, 0);
	cr_assert_eq(fetch(a, m, 30, 5 * MS), 15);
	cr_assert_eq(id_of(&m[0]), 15);
	done(a, m, 15);
	cr_assert_eq(thmq_consumer_flush(a, SECOND), 0);
	cr_assert_eq(info().lag, 0);
}

/* ---------------------------------------------------------------- runs in parts */

/* Of sizes that tell where each lies: its number, as often as its number says. */
static uint32_t make(uint32_t id, uint32_t *data)
{
	uint32_t n = 1 + id % 7, i;

	for (i = 0; i < n; i++)
		data[i] = id;
	return n * (uint32_t)sizeof(*data);
}

static void is_whole(const struct thmq_message *got)
{
	uint32_t data[8], len = make((uint32_t)got->offset, data);

	cr_assert_eq(got->len, len, "offset %llu has %u bytes, not %u", (unsigned long long)got->offset, (unsigned)got->len, len);
	cr_assert_eq(memcmp(got->data, data, len), 0, "offset %llu has another's bytes", (unsigned long long)got->offset);
}

Test(broker_shared, runs_come_to_members_in_parts_of_any_size_and_again_from_anywhere, .init = begin, .fini = end)
{
	enum { COUNT = 3000 };
	static const uint32_t prefetch[3] = {7, 13, 1};
	static uint8_t acked[COUNT], given_back[COUNT];
	struct thmq_consumer *c[3];
	uint32_t data[8], left = COUNT, turn = 0, i, k;
	uint64_t until;
	int n;

	for (i = 0; i < COUNT; i++) /* a run of all that come in one turn of the core */
		cr_assert_gt(thmq_send(producer, data, make(i, data), NULL), 0);
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
	for (k = 0; k < 3; k++)
		c[k] = member((int)k, 10 * SECOND, prefetch[k], 0);
	until = thmqi_disk_sim_now(sim) + 60 * SECOND;
	while (left && thmqi_disk_sim_now(sim) < until) {
		k = turn++ % 3;
		n = thmq_fetch(c[k], m, 1 + turn % 5);
		cr_assert(n >= 0 || n == -ENOBUFS);
		for (i = 0; n > 0 && i < (uint32_t)n; i++) {
			uint32_t at = (uint32_t)m[i].offset;

			cr_assert_lt(at, (uint32_t)COUNT);
			is_whole(&m[i]);
			cr_assert_eq(acked[at], 0);
			if (at % 5 == 3 && !given_back[at]++) {
				cr_assert_eq(thmq_nack(c[k], &m[i], at % 2 ? 0 : 20 * MS), 0);
				continue;
			}
			cr_assert_eq(thmq_ack(c[k], &m[i]), 0);
			acked[at] = 1;
			left--;
		}
		if (n > 0)
			cr_assert_eq(thmq_release(c[k], m, (uint32_t)n), 0);
		thmq_poll(env, 10000);
	}
	cr_assert_eq(left, 0u);
}

/* What the device was asked for while a group's only reader read all of @count. */
static uint64_t reads_of(const char *group, uint32_t flags, uint32_t count)
{
	struct thmq_env_stats before = {.size = sizeof(before)}, after = before;
	struct thmq_consumer *c;
	uint32_t got = 0;

	cr_assert_eq(thmq_env_stats(env, &before), 0);
	cr_assert_eq(thmq_consumer_open(sessions[1], "t", group,
					THMQ_CONSUMER_OPTS(.flags = flags, .start = THMQ_START_BEGIN, .prefetch_count = 64), &c),
		     0);
	while (got < count) {
		uint32_t n = fetch(c, m, 64, SECOND);

		cr_assert_gt(n, 0u);
		done(c, m, n);
		got += n;
	}
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	cr_assert_eq(thmq_env_stats(env, &after), 0);
	return after.reads - before.reads;
}

Test(broker_shared, a_run_that_is_handed_out_in_parts_is_read_once, .init = begin, .fini = end)
{
	static const uint8_t data[100];
	uint64_t own, shared;
	uint32_t i;

	for (i = 0; i < 40000; i++) /* most of it is in segments that are full, and in no memory */
		while (thmq_send(producer, data, sizeof(data), NULL) < 0)
			thmq_poll(env, 50000);
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
	pass(SECOND);
	own = reads_of("own", 0, 40000);
	shared = reads_of("shared", THMQ_CONSUMER_SHARED, 40000);
	cr_assert_gt(own, 0u);
	cr_assert_leq(shared, own + own / 2, "%llu reads, where a group that is not shared needs %llu", (unsigned long long)shared,
		      (unsigned long long)own);
}
