/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_polling.c - see rig_polling.h.
 */
#include "rig_polling.h"

#include "rig_process.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOPIC "bench"
#define SECOND 1000000000ull
#define SMALL 100u
#define RING 65536u /* messages under way: at most the window */
#define BURST 64 /* messages sent before the session is driven */
#define WINDOW_COUNT (RING / 2)
#define BATCH 32u

const char *const polling_mediums[POLLING_MEDIUMS] = {"inproc", "tcp", "shm", "rdma"};
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

	if (r->pid) {
		if (write(r->ask, "?", 1) != 1 || read(r->answer, &u, sizeof(u)) != sizeof(u))
			bench_die("the broker's process", EIO);
		return u;
	}
	check("call", thmq_core_call(r->core, thread_cpu, &u.cpu_ns, 10 * SECOND));
	check("counters", thmq_env_stats(r->env, &e));
	check("counters", thmq_core_stats(r->core, &u.core));
	u.wakeups = e.wakeups;
	return u;
}

/* ---------------------------------------------------------------- open, close */

static void listen_url(enum polling_medium medium, char *ret_url, size_t size)
{
	const char *at = getenv("THMQ_BENCH_RDMA");

	if (medium == POLLING_RDMA)
		snprintf(ret_url, size, "rdma://%.40s:0", at ? at : "10.0.0.1");
	else
		snprintf(ret_url, size, "tcp://127.0.0.1:0");
}

const char *polling_lacks(enum polling_medium medium)
{
	struct thmq_broker *broker;
	struct thmq_env *env;
	char url[64];
	int rc;

	if (medium != POLLING_RDMA)
		return NULL;
	listen_url(medium, url, sizeof(url));
	check("open environment", thmq_env_open(&env, NULL));
	rc = thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = url), &broker);
	check("close environment", thmq_env_close(env, SECOND));
	return rc ? "no RDMA device" : NULL;
}

static void open_broker(struct polling_rig *r, const char *listen)
{
	struct thmq_env_opts o = r->waits;

	o.core_count = 1;
	o.flags = THMQ_ENV_FIRST_CPU; /* the first allowed one: bench.cpu_core */
	check("open environment", thmq_env_open(&r->env, &o));
	r->core = thmq_env_core(r->env, 0);
	check("open broker",
	      thmq_broker_open(r->env, THMQ_BROKER_OPTS(.listen = listen), &r->broker));
}

/* The broker's process: counters, whenever they are asked for. */
static void serve(void *arg)
{
	struct polling_rig *r = arg;
	struct usage u;
	char byte;

	r->pid = 0;
	open_broker(r, r->url);
	check("ready", write(r->answer, "r", 1) == 1 ? 0 : -EIO);
	while (read(r->ask, &byte, 1) == 1) {
		u = look(r);
		if (write(r->answer, &u, sizeof(u)) != sizeof(u))
			return;
	}
}

static void start_broker(struct polling_rig *r)
{
	struct polling_rig there = *r;
	int ask[2], answer[2];
	char byte;

	snprintf(there.url, sizeof(there.url), "shm://%s/polling-%d", r->bench->dir, (int)getpid());
	memcpy(r->url, there.url, sizeof(r->url));
	if (pipe(ask) != 0 || pipe(answer) != 0)
		bench_die("pipe", errno);
	there.ask = ask[0];
	there.answer = answer[1];
	r->pid = rig_process_start(serve, &there);
	close(ask[0]);
	close(answer[1]);
	r->ask = ask[1];
	r->answer = answer[0];
	if (read(r->answer, &byte, 1) != 1)
		bench_die("the broker's process", EIO);
}

static void open_side(struct polling_rig *r, enum polling_medium medium)
{
	char listen[64];

	if (medium == POLLING_SHM) {
		start_broker(r);
	} else if (medium == POLLING_INPROC) {
		open_broker(r, NULL);
		snprintf(r->url, sizeof(r->url), "inproc://");
		return;
	} else {
		listen_url(medium, listen, sizeof(listen));
		open_broker(r, listen);
		check("url", thmq_broker_listen_url(r->broker, 0, r->url, sizeof(r->url)));
	}
	bench_pin(r->bench->cpu_app);
	/* in an emulated machine the kernel's part of a connect needs a processor, too */
	check("open environment",
	      thmq_env_open(&r->app_env,
			    THMQ_ENV_OPTS(.policy = medium == POLLING_RDMA ? THMQ_POLICY_EVENT
									   : THMQ_POLICY_POLL)));
}

void polling_open(struct polling_rig *r, const struct bench *b, enum polling_medium medium,
		  const struct thmq_env_opts *waits)
{
	struct thmq_session_opts s;

	*r = (struct polling_rig){.bench = b, .chance = 88172645463325252ull, .waits = *waits};
	bench_spin_end();
	bench_unpin();
	open_side(r, medium);
	thmq_session_opts_init(&s);
	s.window_count = WINDOW_COUNT;
	s.window_bytes = 16u << 20;
	s.timeout_ns = 60 * SECOND;
	check("connect", thmq_connect(r->app_env ? r->app_env : r->env, r->url, &s, &r->session));
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
	if (r->pid) {
		close(r->ask);
		close(r->answer);
		rig_process_stop(r->pid);
	} else {
		check("close environment", thmq_env_close(r->env, 10 * SECOND));
	}
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

/* ------------------------------------------------------------------- accounts */

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
	if (r->app_env && !r->pid)
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
		/* all that is due, before the session is driven: who is late sends more at once */
		for (int k = 0; k < BURST && now >= begin + (uint64_t)at && begin + (uint64_t)at < end &&
				send(r, begin + (uint64_t)at, &last); k++)
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
		for (int i = 0; i < BURST && send(r, 0, &last); i++)
			;
		messages += take(r, NULL);
		pump(r);
	}
	messages += drain(r, last, NULL);
	account(r, &before, begin, messages, NULL, ret);
}
