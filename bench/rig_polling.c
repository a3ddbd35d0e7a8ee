/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_polling.c - see rig_polling.h.
 */
#include "rig_polling.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPIC "bench"
#define SECOND 1000000000ull
#define SMALL 100u
#define RING 65536u /* messages under way: at most the window */
#define WINDOW_COUNT (RING / 2)
#define BATCH 32u

const char *const polling_mediums[2] = {"inproc", "tcp"};
const char *const polling_policies[7] = {"default", "poll",     "event",     "fixed",
					 "ski",     "adaptive", "predictive"};
const char *const polling_patterns[POLLING_PATTERNS] = {"poisson", "batches", "onoff", "waves",
							"tide"};

static const char payload[SMALL];
static uint64_t due_ns[RING]; /* by sequence; one rig at a time */

static void check(const char *what, int rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror(rc), thmq_errmsg());
	exit(2);
}

/* ---------------------------------------------------------------- open, close */

void polling_open(struct polling_rig *r, const struct bench *b, enum polling_medium medium,
		  const struct thmq_env_opts *waits)
{
	struct thmq_env_opts o = *waits;
	struct thmq_session_opts s;
	char url[128] = "inproc://";

	*r = (struct polling_rig){.bench = b, .chance = 88172645463325252ull};
	bench_spin_end();
	bench_unpin();
	o.core_count = 1;
	o.flags = THMQ_ENV_FIRST_CPU; /* the first allowed one: bench.cpu_core */
	check("open environment", thmq_env_open(&r->env, &o));
	r->core = thmq_env_core(r->env, 0);
	check("open broker",
	      thmq_broker_open(r->env,
			       THMQ_BROKER_OPTS(.listen = medium == POLLING_TCP
								  ? "tcp://127.0.0.1:0"
								  : NULL),
			       &r->broker));
	if (medium == POLLING_TCP) {
		check("url", thmq_broker_listen_url(r->broker, 0, url, sizeof(url)));
		bench_pin(b->cpu_app);
		check("open environment",
		      thmq_env_open(&r->app_env, THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL)));
	}
	thmq_session_opts_init(&s);
	s.window_count = WINDOW_COUNT;
	s.window_bytes = 16u << 20;
	check("connect", thmq_connect(r->app_env ? r->app_env : r->env, url, &s, &r->session));
	check("create topic",
	      thmq_topic_create(r->session, TOPIC, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)));
	check("open producer",
	      thmq_producer_open(r->session, TOPIC,
				 THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY),
				 &r->producer));
	bench_pin(b->cpu_app);
	bench_spin_begin();
}

void polling_close(struct polling_rig *r)
{
	bench_spin_end();
	check("close session", thmq_session_close(r->session, 10 * SECOND));
	if (r->app_env)
		check("close environment", thmq_env_close(r->app_env, 10 * SECOND));
	check("close environment", thmq_env_close(r->env, 10 * SECOND));
	bench_unpin();
}

/* -------------------------------------------------------------------- arrivals */

static double uniform(struct polling_rig *r)
{
	r->chance ^= r->chance << 13; /* Marsaglia's xorshift */
	r->chance ^= r->chance >> 7;
	r->chance ^= r->chance << 17;
	return (double)((r->chance >> 11) + 1) * 0x1p-53;
}

static double exponential(struct polling_rig *r, double mean)
{
	return -mean * log(uniform(r));
}

/* From message number @i, @at ns after the beginning, to the next one. */
static double gap(struct polling_rig *r, enum polling_pattern pattern, double rate, double at,
		  uint64_t i)
{
	double mean = 1e9 / rate;

	switch (pattern) {
	case POLLING_BATCHES:
		return (i + 1) % BATCH ? 0 : mean * BATCH;
	case POLLING_ON_OFF:
		/* Pareto, exponent 1.5, of mean 3 times its scale: the whole has the rate */
		if (uniform(r) < 0.01)
			return fmin(mean * 30 / pow(uniform(r), 1 / 1.5), 1e8);
		return exponential(r, mean / 10);
	case POLLING_WAVES:
		return exponential(r, fmod(at, 2e8) < 1e8 ? mean : mean * 20);
	case POLLING_TIDE:
		return exponential(r, mean * pow(10, sin(at / 1e9 * 3.14159265) / 2));
	default:
		return exponential(r, mean);
	}
}

/* ------------------------------------------------------------------- counters */

struct usage {
	uint64_t cpu_ns, wakeups;
	struct thmq_core_stats core;
};

static int thread_cpu(struct thmq_core *core, void *arg)
{
	struct timespec t;

	(void)core;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	*(uint64_t *)arg = (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
	return 0;
}

static struct usage look(struct polling_rig *r)
{
	struct thmq_env_stats e = {.size = sizeof(e)};
	struct usage u = {.core.size = sizeof(u.core)};

	check("call", thmq_core_call(r->core, thread_cpu, &u.cpu_ns, 10 * SECOND));
	check("counters", thmq_env_stats(r->env, &e));
	check("counters", thmq_core_stats(r->core, &u.core));
	u.wakeups = e.wakeups;
	return u;
}

static void account(struct polling_rig *r, const struct usage *a, uint64_t begin, uint64_t messages,
		    struct bench_samples *s, struct polling_figures *ret)
{
	struct usage b = look(r);
	double sum = 0;

	memset(ret, 0, sizeof(*ret));
	ret->seconds = (double)(bench_now() - begin) / 1e9;
	ret->messages = (double)messages;
	ret->cpu = (double)(b.cpu_ns - a->cpu_ns) +
		   (double)(b.core.forecast_cpu_ns - a->core.forecast_cpu_ns);
	ret->wakeups = (double)(b.wakeups - a->wakeups);
	ret->sleeps = (double)(b.core.sleeps - a->core.sleeps);
	ret->hits = (double)(b.core.spin_hits - a->core.spin_hits);
	ret->misses = (double)(b.core.spin_misses - a->core.spin_misses);
	ret->in_charge = b.core.policy == THMQ_POLICY_PREDICTIVE;
	if (!s)
		return;
	for (size_t i = 0; i < s->count; i++)
		sum += s->ns[i];
	ret->mean = s->count ? sum / (double)s->count : 0;
	ret->p50 = bench_percentile(s, 0.5);
	ret->p99 = bench_percentile(s, 0.99);
	ret->p999 = bench_percentile(s, 0.999);
}

/* ------------------------------------------------------------------------ runs */

static void pump(struct polling_rig *r)
{
	if (r->app_env)
		thmq_poll(r->app_env, 0);
	else
		bench_relax();
}

/* What has settled meanwhile. Return: how many. */
static uint64_t take(struct polling_rig *r, struct bench_samples *s)
{
	int64_t mark = thmq_watermark(r->producer), first = r->settled;
	uint64_t now;

	check("watermark", mark < 0 ? (int)mark : 0);
	if (mark <= first)
		return 0;
	now = bench_now();
	while (r->settled < mark) {
		uint64_t due = due_ns[++r->settled % RING];

		if (s)
			bench_samples_add(s, now > due ? now - due : 0);
	}
	return (uint64_t)(mark - first);
}

/* Return: it was sent. */
static bool send(struct polling_rig *r, uint64_t due, int64_t *last)
{
	int64_t seq = thmq_send(r->producer, payload, SMALL, NULL);

	if (seq == -EAGAIN)
		return false;
	check("send", seq < 0 ? (int)seq : 0);
	due_ns[seq % RING] = due;
	*last = seq;
	return true;
}

static uint64_t drain(struct polling_rig *r, int64_t last, struct bench_samples *s)
{
	uint64_t until = bench_now() + 10 * SECOND, n = 0;

	while (r->settled < last) {
		n += take(r, s);
		pump(r);
		if (bench_now() > until)
			bench_die("messages do not settle", ETIMEDOUT);
	}
	return n;
}

void polling_load(struct polling_rig *r, enum polling_pattern pattern, double rate, uint64_t ns,
		  struct bench_samples *s, struct polling_figures *ret)
{
	struct usage before = look(r);
	uint64_t begin = bench_now(), end = begin + ns, now = begin, messages = 0, i = 0;
	int64_t last = r->settled;
	double at;

	bench_samples_clear(s);
	if (rate <= 0) {
		bench_spin_end();
		bench_sleep_ns(ns);
		bench_spin_begin();
		account(r, &before, begin, 0, s, ret);
		return;
	}
	for (at = gap(r, pattern, rate, 0, i); now < end; now = bench_now()) {
		if (now >= begin + (uint64_t)at && begin + (uint64_t)at < end &&
		    send(r, begin + (uint64_t)at, &last))
			at += gap(r, pattern, rate, at, ++i);
		messages += take(r, s);
		pump(r);
	}
	messages += drain(r, last, s);
	account(r, &before, begin, messages, s, ret);
}

void polling_ping(struct polling_rig *r, uint64_t pause_ns, uint64_t ns, struct bench_samples *s,
		  struct polling_figures *ret)
{
	struct usage before = look(r);
	uint64_t begin = bench_now(), end = begin + ns, now, messages = 0, until;
	int64_t last = r->settled;

	bench_samples_clear(s);
	for (now = begin; now < end; now = bench_now()) {
		for (until = now + pause_ns; now < until; now = bench_now())
			pump(r);
		if (!send(r, bench_now(), &last))
			bench_die("a window for one", EAGAIN);
		messages += drain(r, last, s);
	}
	account(r, &before, begin, messages, s, ret);
}

void polling_flood(struct polling_rig *r, uint64_t ns, struct polling_figures *ret)
{
	struct usage before = look(r);
	uint64_t begin = bench_now(), end = begin + ns, messages = 0;
	int64_t last = r->settled;

	while (bench_now() < end) {
		for (int i = 0; i < 64 && send(r, 0, &last); i++)
			;
		messages += take(r, NULL);
		pump(r);
	}
	messages += drain(r, last, NULL);
	account(r, &before, begin, messages, NULL, ret);
}
