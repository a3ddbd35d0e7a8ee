/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cores_model_bench.c - two ways to lay a broker out on processors, built from the same parts (reactor.h, log.h):
 *
 *   merged    network and storage on one core: a request is taken, appended, made durable and answered by one thread;
 *   apart     network on one core, storage on another, a queue (mailbox) each way between them.
 *
 * The load is made on the network's core, as a device that puts requests into memory would: a window of requests, each sent again
 * when its answer has come. So there are one thread and two, never three. A message is 100 B; what is told is the latency of an answer,
 * messages a second, processor time of the whole process for each message, and hops: how often a message goes from one thread to another.
 *
 * Bars: merged answers at least as soon as apart where one request is under way, and costs less processor time in every case. Where many are
 * under way two processors may do more than one: reported as it is.
 */
#include <thundermq/log.h>
#include <thundermq/reactor.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#define MESSAGE_BYTES 100u
#define WINDOW_MAX 64u
#define SECOND_NS 1000000000ull

struct request {
	uint64_t sent_ns;
	uint64_t index; /* of the batch that it waits for */
	char body[MESSAGE_BYTES];
};

struct model {
	/* set before the cores see it */
	struct thmq_env *env;
	struct thmq_core *net, *disk; /* the same core where they are merged */
	struct thmq_mailbox *down, *up; /* NULL where they are merged */
	struct thmq_log *log;
	const char *dir; /* NULL: messages stay in memory */
	uint32_t next_window; /* of the flow that begins */
	uint64_t next_count;
	/* the network's core */
	uint32_t window;
	uint64_t count;
	struct thmq_poller *poller;
	struct request requests[WINDOW_MAX];
	struct request *wire[WINDOW_MAX], *idle[WINDOW_MAX]; /* arrived and not yet taken; answered */
	uint32_t wire_count, idle_count;
	uint64_t sent, answered;
	struct bench_samples *samples;
	/* the storage's core */
	struct request *waiting[WINDOW_MAX]; /* for the device, oldest first */
	uint64_t waiting_head, waiting_tail;
	uint64_t offset;
	/* both, of one each */
	_Alignas(128) uint64_t hops_down;
	_Alignas(128) uint64_t hops_up;
	_Alignas(128) _Atomic int ended; /* 1, or an error */
};

static void end(struct model *m, int how)
{
	atomic_store_explicit(&m->ended, how, memory_order_release);
}

/* ------------------------------------------------------------------- network */

static void answer(struct model *m, struct request *r)
{
	bench_samples_add(m->samples, bench_now() - r->sent_ns);
	m->idle[m->idle_count++] = r;
	if (++m->answered == m->count)
		end(m, 1);
}

static void mail_up(struct thmq_core *core, const struct thmq_mail *mail)
{
	(void)core;
	answer(mail->object, (struct request *)(uintptr_t)mail->word[0]);
}

/* ------------------------------------------------------------------- storage */

static void stored(struct model *m, struct request *r)
{
	const struct thmq_mail mail = {.run = mail_up, .object = m, .word = {(uintptr_t)r}};
	int rc;

	if (!m->up) {
		answer(m, r);
		return;
	}
	m->hops_up++;
	rc = thmq_mailbox_send(m->up, &mail); /* as deep as the window: it is never full */
	if (rc)
		end(m, rc);
}

static void store(struct model *m, struct request *r)
{
	const struct thmq_record_view record = {
		.offset = m->offset, .time_ns = (int64_t)r->sent_ns, .data = r->body, .len = MESSAGE_BYTES};
	uint32_t len = thmq_run_len(&record, 1);
	struct thmq_run_header *run;
	int rc = thmq_log_append(m->log, len, &run, &r->index);

	if (rc == 0) {
		rc = thmq_run_encode(run, len, 1, &record, 1);
		if (rc)
			thmq_log_append_abort(m->log);
		else
			rc = thmq_log_append_end(m->log, run, m->dir ? THMQ_DURABILITY_DURABLE : THMQ_DURABILITY_MEMORY);
	}
	if (rc) {
		end(m, rc);
		return;
	}
	m->offset++;
	if (m->dir)
		m->waiting[m->waiting_tail++ % WINDOW_MAX] = r;
	else
		stored(m, r);
}

static void mail_down(struct thmq_core *core, const struct thmq_mail *mail)
{
	(void)core;
	store(mail->object, (struct request *)(uintptr_t)mail->word[0]);
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct model *m = ctx;

	if (durability < THMQ_DURABILITY_DURABLE)
		return;
	while (m->waiting_head != m->waiting_tail && m->waiting[m->waiting_head % WINDOW_MAX]->index <= index)
		stored(m, m->waiting[m->waiting_head++ % WINDOW_MAX]);
}

static void on_failed(void *ctx, int error)
{
	end(ctx, error);
}

static const struct thmq_log_events events = {.size = sizeof(events), .settled = on_settled, .failed = on_failed};

/* ------------------------------------------------- the network's core: the loop */

static void take(struct model *m, struct request *r)
{
	const struct thmq_mail mail = {.run = mail_down, .object = m, .word = {(uintptr_t)r}};
	int rc;

	if (!m->down) {
		store(m, r);
		return;
	}
	m->hops_down++;
	rc = thmq_mailbox_send(m->down, &mail);
	if (rc)
		end(m, rc);
}

/* The load puts requests where a device would, and the network takes them. */
static int network_poll(void *ctx, uint32_t budget)
{
	struct model *m = ctx;
	uint32_t done = 0, i;

	(void)budget;
	while (m->idle_count && m->sent < m->count) {
		struct request *r = m->idle[--m->idle_count];

		r->sent_ns = bench_now();
		m->wire[m->wire_count++] = r;
		m->sent++;
	}
	done = m->wire_count;
	m->wire_count = 0;
	for (i = 0; i < done; i++)
		take(m, m->wire[i]);
	return (int)done;
}

/* Before the core sleeps: is there an answer that makes a request? */
static int network_arm(void *ctx)
{
	const struct model *m = ctx;

	return m->idle_count && m->sent < m->count;
}

static const struct thmq_poller_ops poller = {.size = sizeof(poller), .poll = network_poll, .arm = network_arm};

/* -------------------------------------------------------------- open and close */

static int open_disk(struct thmq_core *core, void *arg)
{
	struct model *m = arg;
	int rc = thmq_log_open(core, THMQ_LOG_OPTS(.dir = m->dir, .events = &events, .ctx = m), &m->log);

	if (rc == 0 && m->disk != m->net)
		rc = thmq_mailbox_open(core, m->net, NULL, &m->up);
	return rc;
}

static int open_net(struct thmq_core *core, void *arg)
{
	struct model *m = arg;

	return m->disk != m->net ? thmq_mailbox_open(core, m->disk, NULL, &m->down) : 0;
}

static int begin(struct thmq_core *core, void *arg)
{
	struct model *m = arg;

	m->window = m->next_window;
	m->count = m->next_count;
	for (m->idle_count = 0; m->idle_count < m->window; m->idle_count++) {
		m->idle[m->idle_count] = &m->requests[m->idle_count];
		memset(m->requests[m->idle_count].body, 'x', MESSAGE_BYTES);
	}
	m->sent = m->answered = m->hops_down = m->hops_up = 0;
	m->wire_count = 0;
	return m->poller ? 0 : thmq_poller_open(core, &poller, m, &m->poller);
}

static int close_net(struct thmq_core *core, void *arg)
{
	struct model *m = arg;

	(void)core;
	thmq_poller_close(m->poller);
	return thmq_mailbox_close(m->down);
}

static int close_disk(struct thmq_core *core, void *arg)
{
	struct model *m = arg;

	(void)core;
	thmq_mailbox_close(m->up);
	return thmq_log_close(m->log, 10 * SECOND_NS);
}

static void on_core(struct thmq_core *core, int (*fn)(struct thmq_core *, void *), struct model *m, const char *what)
{
	int rc = thmq_core_call(core, fn, m, 30 * SECOND_NS);

	if (rc)
		bench_die(what, rc);
}

static void model_open(struct model *m, const struct bench *b, bool apart, uint32_t policy, const char *dir)
{
	int rc;

	memset(m, 0, sizeof(*m));
	m->dir = dir;
	rc = thmq_env_open(&m->env, THMQ_ENV_OPTS(.core_count = apart ? 2 : 1, .policy = policy, .flags = THMQ_ENV_FIRST_CPU,
						  .first_cpu = b->cpu_core > 0 && !apart ? (uint32_t)b->cpu_core : 0));
	if (rc)
		bench_die("environment", rc);
	m->net = thmq_env_core(m->env, 0);
	m->disk = thmq_env_core(m->env, apart ? 1 : 0);
	on_core(m->disk, open_disk, m, "log");
	on_core(m->net, open_net, m, "mailbox");
}

static void model_close(struct model *m)
{
	on_core(m->net, close_net, m, "poller");
	on_core(m->disk, close_disk, m, "log");
	thmq_env_close(m->env, SECOND_NS);
}

/* ---------------------------------------------------------------------- runs */

struct figures {
	double p50, p99;    /* ns */
	double rate;        /* messages a second */
	double cpu;         /* ns a message, of all threads */
	double hops;        /* a message */
};

static void flow(struct model *m, uint32_t window, uint64_t count, struct bench_samples *samples, struct figures *ret)
{
	uint64_t t0, cpu;
	int ended;

	m->next_window = window;
	m->next_count = count;
	m->samples = samples;
	bench_samples_clear(samples);
	atomic_store(&m->ended, 0);
	cpu = bench_cpu_ns();
	t0 = bench_now();
	on_core(m->net, begin, m, "load");
	while (!(ended = atomic_load_explicit(&m->ended, memory_order_acquire)))
		bench_sleep_ns(200000);
	if (ended < 0)
		bench_die("storage", ended);
	t0 = bench_now() - t0;
	cpu = bench_cpu_ns() - cpu;
	*ret = (struct figures){.p50 = bench_percentile(samples, 0.5),
				.p99 = bench_percentile(samples, 0.99),
				.rate = (double)count * 1e9 / (double)t0,
				.cpu = (double)cpu / (double)count,
				.hops = (double)(m->hops_down + m->hops_up) / (double)count};
}

struct shape {
	const char *name;
	bool logged;
	uint32_t policy;
	uint32_t window;
	uint64_t count;
};

static void measure(struct bench *b, const struct shape *s, bool apart, struct bench_samples *samples, struct figures *ret)
{
	uint64_t count = b->smoke ? 200 : s->count;
	static struct model m;
	char dir[4096];

	if (s->logged && bench_mkdir(b, s->name, dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	model_open(&m, b, apart, s->policy, s->logged ? dir : NULL);
	flow(&m, s->window, count / 5 + 1, samples, ret); /* what is touched for the first time is behind us */
	flow(&m, s->window, count, samples, ret);
	model_close(&m);
	if (s->logged)
		bench_rmdir(dir);
}

#define FIGURES 5u

static void compare(struct bench *b, const struct shape *s)
{
	static const char *const what[FIGURES] = {"p50", "p99", "rate", "cpu", "hops"};
	static const char *const unit[FIGURES] = {"ns", "ns", "k/s", "ns", ""};
	struct bench_line lines[FIGURES] = {{0}}, *judged[2] = {&lines[0], &lines[3]};
	struct bench_samples samples;
	struct figures ours, theirs;
	char names[FIGURES][96];
	unsigned i;

	for (i = 0; i < FIGURES; i++) {
		snprintf(names[i], sizeof(names[i]), "model_%s_%s", s->name, what[i]);
		lines[i] = (struct bench_line){.name = names[i], .unit = unit[i], .rival = "network and storage apart", .measure = BENCH_RATIO};
	}
	lines[4].measure = BENCH_VALUE;
	if (s->window == 1) {
		lines[0].sense = BENCH_AT_MOST;
		lines[0].bar = 1;
	}
	lines[3].sense = BENCH_AT_MOST;
	lines[3].bar = 1;
	if (!bench_wants(b, names[0]))
		return;
	bench_samples_init(&samples, s->count);
	for (unsigned round = 0; bench_more(b, round, judged, 2); round++) {
		measure(b, s, round % 2, &samples, round % 2 ? &theirs : &ours);
		measure(b, s, !(round % 2), &samples, round % 2 ? &ours : &theirs);
		bench_pairs_add(&lines[0].pairs, ours.p50, theirs.p50);
		bench_pairs_add(&lines[1].pairs, ours.p99, theirs.p99);
		bench_pairs_add(&lines[2].pairs, ours.rate / 1e3, theirs.rate / 1e3);
		bench_pairs_add(&lines[3].pairs, ours.cpu, theirs.cpu);
		bench_pairs_add(&lines[4].pairs, ours.hops, theirs.hops);
	}
	for (i = 0; i < FIGURES; i++)
		bench_report(b, &lines[i]);
	bench_samples_fini(&samples);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {
		{"memory_1_poll", false, THMQ_POLICY_POLL, 1, 200000},
		{"memory_1_event", false, THMQ_POLICY_EVENT, 1, 20000},
		{"memory_64_poll", false, THMQ_POLICY_POLL, 64, 1000000},
		{"durable_1_poll", true, THMQ_POLICY_POLL, 1, 10000},
		{"durable_1_event", true, THMQ_POLICY_EVENT, 1, 10000},
		{"durable_64_poll", true, THMQ_POLICY_POLL, 64, 200000},
		{"durable_64_event", true, THMQ_POLICY_EVENT, 64, 200000},
	};
	struct bench b;

	bench_init(&b, argc, argv, "cores");
	if (b.cpu_app < 0) {
		bench_skip(&b, "model", "one CPU only");
		return bench_end(&b);
	}
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		compare(&b, &shapes[i]);
	return bench_end(&b);
}
