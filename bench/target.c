/* SPDX-License-Identifier: Apache-2.0 */
/*
 * target.c - the library under test: see target.h.
 */
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define TOPIC "bench"
#define CLOSE_NS 10000000000u
#define QUIET_NS 60000000u /* no write for so long: the disk is quiet */
#define SETTLE_LIMIT_NS 20000000000u

static void check(const char *what, int r)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror(r), thmq_errmsg());
	exit(2);
}

static void open_env(struct target *t)
{
	const struct target_opts *o = &t->opts;
	struct thmq_env_opts e;

	thmq_env_opts_init(&e);
	e.policy = o->policy;
	if (o->layout == TARGET_PINNED) {
		e.core_count = 1;
		e.flags = THMQ_ENV_FIRST_CPU; /* the first allowed one: bench.cpu_core */
	} else {
		bench_pin(t->bench->cpu_core);
	}
	check("open environment", thmq_env_open(&t->env, &e));
}

static void open_consumer(struct target *t)
{
	struct thmq_consumer_opts c;

	thmq_consumer_opts_init(&c);
	c.start = THMQ_START_END;
	c.prefetch_bytes = t->opts.window_bytes;
	check("open consumer", thmq_consumer_open(t->session, TOPIC, NULL, &c, &t->consumer));
}

void target_open(struct target *t, const struct bench *b, const struct target_opts *opts)
{
	struct thmq_broker_opts br;
	struct thmq_session_opts s;
	struct thmq_topic_opts to;
	struct thmq_producer_opts p;

	*t = (struct target){.bench = b, .opts = *opts};
	bench_spin_end();
	bench_unpin();
	open_env(t);
	thmq_broker_opts_init(&br);
	br.data_dir = opts->dir;
	br.segment_bytes = opts->segment_bytes;
	check("open broker", thmq_broker_open(t->env, &br, &t->broker));
	thmq_session_opts_init(&s);
	s.window_bytes = opts->window_bytes;
	s.window_count = opts->window_count;
	check("connect", thmq_connect(t->env, "inproc://", &s, &t->session));
	thmq_topic_opts_init(&to);
	to.flags = opts->topic_flags | THMQ_TOPIC_IF_ABSENT;
	to.visible_at = opts->visible_at;
	to.retention_bytes = opts->retention_bytes;
	check("create topic", thmq_topic_create(t->session, TOPIC, &to));
	thmq_producer_opts_init(&p);
	p.durability = opts->durability;
	p.compression = opts->compression;
	check("open producer", thmq_producer_open(t->session, TOPIC, &p, &t->producer));
	if (opts->consumer)
		open_consumer(t);
	target_settle(t);
	if (opts->layout == TARGET_PINNED) {
		bench_pin(b->cpu_app);
		bench_spin_begin(); /* the application's thread watches; the library's own threads are its own matter */
	}
}

void target_close(struct target *t)
{
	bench_spin_end();
	if (t->env)
		check("close environment", thmq_env_close(t->env, CLOSE_NS));
	t->env = NULL;
	bench_unpin();
}

struct target_counts target_counts(struct target *t)
{
	struct thmq_broker_stats b = {.size = sizeof(b)};
	struct thmq_env_stats e = {.size = sizeof(e)};
	struct thmq_core_stats c = {.size = sizeof(c)};

	check("broker counters", thmq_broker_stats(t->broker, &b));
	check("environment counters", thmq_env_stats(t->env, &e));
	check("core's counters", thmq_core_stats(thmq_env_core(t->env, 0), &c));
	return (struct target_counts){b.batches, b.stored_bytes, e.write_bytes, c.busy_ns};
}

void target_settle(struct target *t)
{
	uint64_t begin = bench_now(), since = begin, now;
	uint64_t seen = target_counts(t).written_bytes;

	do {
		if (t->opts.layout == TARGET_CALLER)
			thmq_poll(t->env, 1000000);
		else
			bench_sleep_ns(1000000);
		now = bench_now();
		if (target_counts(t).written_bytes != seen) {
			seen = target_counts(t).written_bytes;
			since = now;
		}
	} while (now - since < QUIET_NS && now - begin < SETTLE_LIMIT_NS);
}

#define MARGIN (24 * MIB) /* pads, and what other shards stored */

/* Segments begin at 16 MiB and double to 1 GiB: see doc/format.md. Return: bytes from @position to the end of its own. */
static uint64_t segment_left(uint64_t position)
{
	uint64_t size = 16 * MIB, begin = 0;

	while (position >= begin + size) {
		begin += size;
		if (size < 1024 * MIB)
			size *= 2;
	}
	return begin + size - position;
}

bool target_has_room(struct target *t, uint64_t bytes)
{
	uint64_t at = target_counts(t).stored_bytes;

	return at >= TARGET_GROWN && segment_left(at) > bytes + MARGIN;
}

int64_t target_send(struct target *t, const void *data, uint32_t len)
{
	int64_t seq;

	while ((seq = thmq_send(t->producer, data, len, NULL)) == -EAGAIN) {
		thmq_watermark(t->producer);
		target_pump(t);
	}
	check("send", seq < 0 ? (int)seq : 0);
	return seq;
}

void target_watch(struct target *t, int64_t sequence)
{
	int64_t mark;

	while ((mark = thmq_watermark(t->producer)) < sequence) {
		check("watermark", mark < 0 ? (int)mark : 0);
		target_pump(t);
	}
}
