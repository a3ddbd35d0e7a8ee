/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rivals_ours.c - the library beside others: see rivals_ours.h.
 */
#include "rivals_ours.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LEN_MAX 16384u
#define WINDOW_BYTES (64 * MIB)
#define WINDOW_COUNT (1u << 19)
#define BLOCK 4096u

const uint32_t rivals_lens[3] = {100, 1024, LEN_MAX};

static const char payload[LEN_MAX];

bool rivals_more(const struct bench *b, unsigned round, uint64_t since, uint64_t limit_ns)
{
	return bench_more(b, round, NULL, 0) && (round < 3 || bench_now() - since < limit_ns);
}

void rivals_ours_open(struct target *t, struct bench *b, const char *name, bool many,
		      uint32_t durability)
{
	struct target_opts o = {.layout = many && b->cpu_app >= 0 ? TARGET_PINNED : TARGET_CALLER,
				.policy = THMQ_POLICY_DEFAULT, /* asleep while a rival runs */
				.durability = durability,
				.window_bytes = WINDOW_BYTES,
				.window_count = WINDOW_COUNT};
	char dir[4096];

	if (bench_mkdir(b, name, dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(t, b, &o);
	bench_spin_end();
	bench_unpin();
}

void rivals_ours_close(struct target *t)
{
	target_close(t);
}

/* Where the application's thread has to be while it is measured; a rival is free to be anywhere. */
static void begin(struct target *t)
{
	if (t->opts.layout == TARGET_PINNED) {
		bench_pin(t->bench->cpu_app);
		bench_spin_begin();
	} else {
		bench_pin(t->bench->cpu_core);
	}
}

static void end(void)
{
	bench_spin_end();
	bench_unpin();
}

static void send_many(struct target *t, uint32_t len, uint64_t count)
{
	int64_t seq = 0;

	for (uint64_t i = 0; i < count; i++)
		seq = target_send(t, payload, len);
	target_watch(t, seq);
}

static void make_room(struct target *t, uint64_t bytes)
{
	if (t->bench->smoke)
		return;
	while (!target_has_room(t, bytes))
		send_many(t, 1024, 4 * MIB / 1024);
	target_settle(t);
}

static uint64_t one(struct target *t, uint32_t len)
{
	uint64_t t0 = bench_now();
	int64_t seq = target_send(t, payload, len);

	if (t->opts.layout == TARGET_CALLER)
		while (thmq_watermark(t->producer) < seq)
			thmq_poll(t->env, 1000000000);
	else
		target_watch(t, seq);
	return bench_now() - t0;
}

void rivals_ours_one(struct target *t, uint32_t len, struct bench_samples *s)
{
	uint64_t since;

	begin(t);
	make_room(t, s->room * (len / BLOCK + 2) * BLOCK);
	for (since = bench_now(); s->count < s->room && bench_now() - since < RIVALS_ONE_NS;)
		bench_samples_add(s, one(t, len));
	end();
}

void rivals_ours_out(struct target *t, uint32_t len, struct bench_samples *s)
{
	uint64_t sent_at[RIVALS_OUT], sent = 0, done = 0, since;
	int64_t first = -1, mark;

	begin(t);
	make_room(t, s->room * (len / BLOCK + 2) * BLOCK);
	since = bench_now();
	while (done < sent || sent == 0 ||
	       (s->count < s->room && bench_now() - since < RIVALS_ONE_NS)) {
		bool more =
			sent == 0 || (s->count < s->room && bench_now() - since < RIVALS_ONE_NS);

		while (more && sent - done < RIVALS_OUT) {
			int64_t seq;

			sent_at[sent % RIVALS_OUT] = bench_now();
			seq = target_send(t, payload, len);
			if (first < 0)
				first = seq;
			sent++;
		}
		target_pump(t);
		mark = thmq_watermark(t->producer);
		if (mark < 0)
			bench_die("watermark", EIO);
		if (mark < first)
			continue;
		for (uint64_t now = bench_now(); done < (uint64_t)(mark - first + 1); done++)
			bench_samples_add(s, now - sent_at[done % RIVALS_OUT]);
	}
	end();
}

double rivals_ours_many(struct target *t, uint32_t len, uint64_t count)
{
	uint64_t since;

	begin(t);
	make_room(t, count * (len + 64) + 16 * MIB);
	since = bench_now();
	send_many(t, len, count);
	since = bench_now() - since;
	end();
	return (double)count / ((double)since / 1e9);
}

uint64_t rivals_count(const struct bench *b, uint32_t len, double rate)
{
	uint64_t count = (uint64_t)(rate * RIVALS_MANY_NS / 1e9), most = RIVALS_MANY_BYTES / len;

	if (b->smoke)
		return 1000;
	if (count > most)
		count = most;
	return count < 1000 ? 1000 : count;
}

void rivals_cell_init(struct rivals_cell *c, const char *word, uint32_t len, const char *rival,
		      const char *details)
{
	static const char *const metrics[5] = {"one_p50", "one_p99", "out64_p50", "out64_p99",
					       "many"};
	struct bench_line *lines[5] = {&c->one50, &c->one99, &c->out50, &c->out99, &c->many};
	const char *size = len == 100 ? "100B" : len == 1024 ? "1KiB" : "16KiB";

	memset(c, 0, sizeof(*c));
	for (int i = 0; i < 5; i++) {
		snprintf(c->names[i], sizeof(c->names[i]), "%s_%s_%s", word, size, metrics[i]);
		*lines[i] = (struct bench_line){.name = c->names[i],
						.unit = i < 4 ? "us" : "k/s",
						.rival = rival,
						.measure = BENCH_RATIO};
		snprintf(lines[i]->detail, sizeof(lines[i]->detail),
			 "\"size\":%u,\"metric\":\"%s\",%s", len, metrics[i], details);
	}
}
