/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_work_bench.c - messages as work, and very many who read. The application's thread drives the core, so that all of it is one processor's work.
 *
 * acks_shared_SIZE: messages a second that a member of a shared group fetches, acknowledges one by one, and gives back, of a topic that holds them; beside a group that shares
 *     out partitions and does the same. Until all is stored. Bar: half as many.
 * groups_10000: groups on one topic, each with a member: to how many a second messages are handed that come one at a time; what a group takes of memory is in the detail.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target.h"

#define FETCH_MAX 64
#define WAIT_NS 60000000000u

static void check(const char *what, int rc)
{
	if (rc < 0)
		bench_die(what, rc < -1000 ? EIO : -rc);
}

/* ----------------------------------------------------------------------- acks */

static void ack(struct target *t, struct thmq_consumer *c, const struct thmq_message *m)
{
	int rc;

	while ((rc = thmq_ack(c, m)) == -EAGAIN)
		target_pump(t);
	check("ack", rc);
}

/* Messages a second. */
static double work(struct target *t, uint32_t count, const char *group, uint32_t flags)
{
	struct thmq_consumer_opts o = {.size = sizeof(o), .flags = flags, .start = THMQ_START_BEGIN};
	struct thmq_message m[FETCH_MAX];
	struct thmq_consumer *c;
	uint32_t got = 0;
	uint64_t t0;
	int n, i;

	check("consumer", thmq_consumer_open(t->session, "bench", group, &o, &c));
	t0 = bench_now();
	while (got < count) {
		n = thmq_fetch(c, m, FETCH_MAX);
		check("fetch", n);
		if (!n) {
			target_pump(t);
			continue;
		}
		for (i = 0; i < n; i++)
			ack(t, c, &m[i]);
		check("release", thmq_release(c, m, (uint32_t)n));
		got += (uint32_t)n;
	}
	check("flush", thmq_consumer_flush(c, WAIT_NS));
	t0 = bench_now() - t0;
	check("close", thmq_consumer_close(c, WAIT_NS));
	return count * 1e9 / (double)t0;
}

static void acks(struct bench *b, const char *name, uint32_t len, uint32_t count)
{
	struct bench_line line = {.name = name,
				  .unit = "messages/s",
				  .rival = "not shared",
				  .measure = BENCH_RATIO,
				  .sense = BENCH_AT_LEAST,
				  .bar = 0.5};
	struct target_opts o = {.layout = TARGET_CALLER, .durability = THMQ_DURABILITY_DURABLE};
	struct bench_line *lines[] = {&line};
	double shared = 0, own = 0;
	static char data[4096];
	char group[32], dir[4096];
	struct target t;

	if (!bench_wants(b, name))
		return;
	count = b->smoke ? 2000 : count;
	if (bench_mkdir(b, "work", dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(&t, b, &o);
	for (uint32_t i = 0; i < count; i++)
		target_send(&t, data, len);
	check("flush", thmq_flush(t.producer, WAIT_NS));
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		for (unsigned turn = 0; turn < 2; turn++) {
			snprintf(group, sizeof(group), "g%u-%u", round, turn);
			if (turn == round % 2)
				shared = work(&t, count, group, THMQ_CONSUMER_SHARED);
			else
				own = work(&t, count, group, 0);
			check("forget the group", thmq_group_delete(t.session, "bench", group, 0));
		}
		bench_pairs_add(&line.pairs, shared, own);
	}
	bench_report(b, &line);
	target_close(&t);
	bench_rmdir(dir);
}

/* --------------------------------------------------------------------- groups */

#define OF_A_SESSION 250u

struct reader {
	struct thmq_consumer *consumer;
	uint32_t session, got;
};

/* Until each has had @count of them. */
static void hand_out(struct target *t, struct reader *readers, uint32_t reader_count, uint32_t count)
{
	struct thmq_message m[4];
	uint64_t end = bench_now() + WAIT_NS;
	uint32_t behind, i;
	int n;

	do {
		for (behind = 0, i = 0; i < reader_count; i++) {
			struct reader *r = &readers[i];

			if (r->got == count)
				continue;
			n = thmq_fetch(r->consumer, m, 4);
			check("fetch", n);
			if (n) {
				ack(t, r->consumer, &m[n - 1]);
				check("release", thmq_release(r->consumer, m, (uint32_t)n));
				r->got += (uint32_t)n;
			}
			behind += r->got < count;
		}
		thmq_poll(t->env, 0);
	} while (behind && bench_now() < end);
	if (behind)
		bench_die("groups that got nothing", ETIMEDOUT);
}

static void groups(struct bench *b)
{
	struct bench_line line = {.name = "groups_10000", .unit = "handed out/s", .measure = BENCH_VALUE};
	struct target_opts o = {.layout = TARGET_CALLER, .durability = THMQ_DURABILITY_DURABLE};
	uint32_t count = b->smoke ? 300 : 10000, sessions = (count + OF_A_SESSION - 1) / OF_A_SESSION, sent = 0, i;
	struct bench_line *lines[] = {&line};
	struct thmq_session **s = calloc(sessions, sizeof(struct thmq_session *));
	struct reader *readers = calloc(count, sizeof(*readers));
	uint64_t t0, opened;
	double before;
	char group[32], dir[4096];
	struct target t;

	if (!s || !readers)
		bench_die("memory", ENOMEM);
	if (!bench_wants(b, line.name))
		goto out;
	if (bench_mkdir(b, "groups", dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(&t, b, &o);
	before = bench_memory();
	t0 = bench_now();
	for (i = 0; i < sessions; i++)
		check("connect", thmq_connect(t.env, "inproc://", THMQ_SESSION_OPTS(.window_bytes = 65536, .window_count = 64, .event_count = 1024), &s[i]));
	for (i = 0; i < count; i++) {
		readers[i].session = i / OF_A_SESSION;
		snprintf(group, sizeof(group), "g%u", i);
		check("consumer", thmq_consumer_open(s[readers[i].session], "bench", group,
						     THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .prefetch_count = 16, .session_timeout_ns = 600000000000u),
						     &readers[i].consumer));
	}
	opened = bench_now() - t0;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		t0 = bench_now();
		for (i = 0; i < 5; i++) {
			target_send(&t, "hello", 5);
			hand_out(&t, readers, count, ++sent);
		}
		bench_pairs_add(&line.pairs, 5.0 * count * 1e9 / (double)(bench_now() - t0), 0);
	}
	snprintf(line.detail, sizeof(line.detail), "\"groups\":%u,\"KiB_each\":%.2f,\"open_us_each\":%.0f", count,
		 (bench_memory() - before) / 1024 / count, (double)opened / 1e3 / count);
	bench_report(b, &line);
	target_close(&t);
	bench_rmdir(dir);
out:
	free(readers);
	free(s);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "messaging");
	acks(&b, "acks_shared_100B", 100, 500000);
	acks(&b, "acks_shared_1KiB", 1024, 200000);
	groups(&b);
	return bench_end(&b);
}
