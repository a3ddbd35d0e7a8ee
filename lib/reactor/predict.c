/* SPDX-License-Identifier: Apache-2.0 */
/*
 * predict.c - traffic forecasts for cores: counts to the forecaster, its answers to the policy. Knows nothing of how a forecast is made
 * (lib/forecast) nor of what follows from it (policy.c).
 *
 * Between a core and the thread that forecasts there is one slot each way. Where the thread is late the core adds up and hands over
 * later; where no answer comes, the policy does without. What arrives while a core is busy without a pause belongs to no single tick: such
 * ticks share it evenly. Those that the core slept through had nothing.
 */
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include <thundermq/forecast.h>

#include "internal.h"
#include "predict.h"

#define TICK_NS 100000000u
#define WINDOW 64u       /* ticks that it looks back at */
#define SLICE_NS 500000u /* a core does one piece in this time: less than a twentieth of it */
#define STALE_TICKS                                                                                \
	8u /* an answer that is older, or a silence that is longer: it is about another time */
#define PIECES 4u /* the thread looks whether it shall end after so many */
#define NICE 10   /* it is in no hurry: cores come first */
#define STACK_BYTES ((size_t)512 << 10)
#define AHEAD_MAX_BYTES                                                                            \
	(2ull * THMQI_SLAB_BYTES) /* of memory that lies ready for a rise: less than a core keeps anyway */

/* What a core tells. */
struct counted {
	uint64_t quiet;  /* ticks without anything, then … */
	uint64_t ticks;  /* … ticks with … */
	uint64_t events; /* … so many iterations in which something was done, altogether */
};

struct predict {
	struct thmq_forecast *forecast;
	struct thmqi_pool *pool; /* the core's */
	bool sliced;
	/* whose thread forecasts looks at these: it was fed since the last answer; with so much a tick */
	bool unanswered;
	double last;
	/* the core's */
	uint64_t tick_ns, events, slept_ns; /* at the last tick */
	struct counted waiting;             /* not handed over yet */
	uint64_t slice_ns;                  /* next piece not before */
	uint64_t heard, age;                /* answers, and ticks since the last of them */
	/* to the forecaster; full: it is its to read */
	_Alignas(2 * THMQI_CACHELINE) _Atomic uint32_t full;
	struct counted told;
	/* back. The rate is a double, events per ns, with its sign set where it is not trusted. */
	_Alignas(2 * THMQI_CACHELINE) _Atomic uint64_t rate;
	_Atomic uint64_t answers, fed, cpu_ns, ratio;
	_Atomic uint32_t model;
};

struct forecaster {
	pthread_t thread;
	struct thmqi_waiter *waiter;
	_Atomic bool stop;
};

/* ---------------------------------------------------------------- forecasting */

static uint64_t bits_of(double x)
{
	uint64_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

static double of_bits(uint64_t bits)
{
	double x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static void add(_Atomic uint64_t *word, uint64_t n)
{
	atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* Return: something was fed. */
static bool take(struct predict *p)
{
	struct counted c;
	uint64_t i;

	if (!atomic_load_explicit(&p->full, memory_order_acquire))
		return false;
	c = p->told;
	atomic_store_explicit(&p->full, 0, memory_order_release);
	for (i = 0; i < THMQI_MIN(c.quiet, WINDOW); i++)
		thmq_forecast_feed(p->forecast, 0);
	for (i = 0; i < THMQI_MIN(c.ticks, WINDOW); i++)
		thmq_forecast_feed(p->forecast, (double)c.events / (double)c.ticks);
	p->last = c.ticks ? (double)c.events / (double)c.ticks : 0;
	add(&p->fed, THMQI_MIN(c.quiet, WINDOW) + THMQI_MIN(c.ticks, WINDOW));
	p->unanswered = true;
	return true;
}

/* Memory goes with the traffic: what a rise will need is fetched before the message that needs it. */
static void fetch_ahead(struct predict *p, double expected)
{
	struct thmqi_pool_stats st;

	if (p->last <= 0 || expected <= p->last)
		return;
	thmqi_pool_stats(p->pool, &st);
	thmqi_pool_prepare(p->pool, (uint64_t)fmin((double)st.in_use * (expected / p->last - 1),
						   (double)AHEAD_MAX_BYTES));
}

static void answer(struct predict *p)
{
	struct thmq_forecast_stats st = {.size = sizeof(st)};
	double next = 0;

	p->unanswered = false;
	if (thmq_forecast_predict(p->forecast, 1, &next) != 0 ||
	    thmq_forecast_stats(p->forecast, &st) != 0)
		return;
	if (st.trusted)
		fetch_ahead(p, next);
	next = fmax(next, 0) / TICK_NS;
	atomic_store_explicit(&p->rate, bits_of(st.trusted ? next : -next), memory_order_relaxed);
	atomic_store_explicit(&p->model, st.model, memory_order_relaxed);
	atomic_store_explicit(&p->ratio, (uint64_t)(fmin(st.ratio[st.model], 1e6) * 1000),
			      memory_order_relaxed);
	add(&p->answers, 1);
}

/* ------------------------------------------------------------------ the thread */

static bool serve(struct forecaster *f, struct predict *p)
{
	uint64_t cpu = thmqi_thread_cpu_ns();

	if (!take(p))
		return false;
	while (!atomic_load_explicit(&f->stop, memory_order_relaxed) &&
	       thmq_forecast_work(p->forecast, PIECES) > 0)
		;
	answer(p);
	add(&p->cpu_ns, thmqi_thread_cpu_ns() - cpu);
	return true;
}

static bool something_is_there(struct thmq_env *env)
{
	uint32_t i;

	for (i = 0; i < env->core_count; i++)
		if (atomic_load_explicit(&env->loops[i]->polling.predict->full,
					 memory_order_relaxed))
			return true;
	return atomic_load_explicit(&env->forecaster->stop, memory_order_relaxed);
}

static void *run(void *arg)
{
	struct thmq_env *env = arg;
	struct forecaster *f = env->forecaster;
	uint32_t i, done;

	setpriority(PRIO_PROCESS, 0,
		    NICE); /* on Linux of this thread; better than nothing if it fails */
	while (!atomic_load_explicit(&f->stop, memory_order_relaxed)) {
		for (i = 0, done = 0; i < env->core_count; i++)
			done += serve(f, env->loops[i]->polling.predict);
		if (done)
			continue;
		thmqi_waiter_arm(f->waiter);
		if (!something_is_there(env))
			thmqi_waiter_sleep(f->waiter, UINT64_MAX);
		thmqi_waiter_disarm(f->waiter);
	}
	return NULL;
}

static int start(struct thmq_env *env)
{
	struct forecaster *f = calloc(1, sizeof(*f));
	sigset_t all, old;
	pthread_attr_t attr;
	int rc;

	if (!f)
		return -ENOMEM;
	rc = thmqi_waiter_open(&f->waiter);
	if (rc) {
		free(f);
		return rc;
	}
	env->forecaster = f;
	/* signals are the host's: its threads take them, not ours */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	rc = pthread_create(&f->thread, &attr, run, env);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		env->forecaster = NULL;
		thmqi_waiter_unref(f->waiter);
		free(f);
		return -rc;
	}
	pthread_setname_np(f->thread, "thmq-forecast");
	return 0;
}

static void stop(struct thmq_env *env)
{
	struct forecaster *f = env->forecaster;

	if (!f)
		return;
	atomic_store(&f->stop, true);
	thmqi_waiter_wake(f->waiter);
	pthread_join(f->thread, NULL);
	env->forecaster = NULL;
	thmqi_waiter_unref(f->waiter);
	free(f);
}

/* ------------------------------------------------------------------- the core */

static uint64_t since(uint64_t *last, uint64_t now)
{
	uint64_t n = now >= *last ? now - *last : now; /* counters may have been set back */

	*last = now;
	return n;
}

static void hand_over(struct loop *l, struct predict *p)
{
	if (!p->waiting.ticks || atomic_load_explicit(&p->full, memory_order_acquire))
		return;
	p->told = p->waiting;
	memset(&p->waiting, 0, sizeof(p->waiting));
	atomic_store_explicit(&p->full, 1, memory_order_release);
	if (!p->sliced)
		thmqi_waiter_kick(l->core.env->forecaster->waiter);
}

/* Return: ticks that were slept through. */
static uint64_t count(struct loop *l, struct predict *p, uint64_t now)
{
	uint64_t ticks, quiet, events = 0;
	const struct loop *m;

	if (!p->tick_ns)
		p->tick_ns = now;
	ticks = (now - p->tick_ns) / TICK_NS;
	if (!ticks)
		return 0;
	p->tick_ns += ticks * TICK_NS;
	p->age += ticks;
	for (m = l; m; m = m->mates)
		events += m->duty.stats.busy_iterations;
	quiet = THMQI_MIN(since(&p->slept_ns, l->duty.stats.slept_ns) / TICK_NS, ticks - 1);
	p->waiting.quiet += quiet;
	p->waiting.ticks += ticks - quiet;
	p->waiting.events += since(&p->events, events);
	hand_over(l, p);
	return quiet;
}

void thmqi_predict_tick(struct loop *l, uint64_t now)
{
	struct predict *p = l->polling.predict;
	uint64_t answers = atomic_load_explicit(&p->answers, memory_order_relaxed);
	double rate = of_bits(atomic_load_explicit(&p->rate, memory_order_relaxed));

	if (answers != p->heard)
		p->age = 0;
	p->heard = answers;
	if (count(l, p, now) >= STALE_TICKS)
		p->age = STALE_TICKS; /* until the next answer, which knows of it */
	thmqi_policy_forecast(&l->polling.policy, fabs(rate),
			      answers && !signbit(rate) && p->age < STALE_TICKS);
}

void thmqi_predict_slice(struct loop *l, uint64_t now)
{
	const struct thmqi_clock *clock = l->core.clock;
	struct predict *p = l->polling.predict;
	uint64_t begin;

	if (!p->sliced || now < p->slice_ns)
		return;
	p->slice_ns = now + SLICE_NS;
	begin = clock->now_ns(clock->ctx);
	if (thmq_forecast_work(p->forecast, 1) > 0)
		;
	else if (p->unanswered)
		answer(p);
	else
		take(p);
	add(&p->cpu_ns, clock->now_ns(clock->ctx) - begin);
}

void thmqi_predict_stats(const struct predict *p, struct thmq_core_stats *ret)
{
	double rate = fabs(of_bits(atomic_load_explicit(&p->rate, memory_order_relaxed)));

	ret->forecast_model = atomic_load_explicit(&p->model, memory_order_relaxed);
	ret->forecast_ticks = atomic_load_explicit(&p->fed, memory_order_relaxed);
	ret->forecast_cpu_ns = atomic_load_explicit(&p->cpu_ns, memory_order_relaxed);
	ret->forecast_ratio = atomic_load_explicit(&p->ratio, memory_order_relaxed);
	ret->expected_gap_ns = rate > 0 ? (uint64_t)fmin(1 / rate, 1e18) : 0;
}

/* --------------------------------------------------------------- open, close */

static int open_one(struct loop *l, bool sliced)
{
	struct predict *p = aligned_alloc(_Alignof(struct predict), sizeof(*p));
	int rc;

	if (!p)
		return -ENOMEM;
	memset(p, 0, sizeof(*p));
	p->sliced = sliced;
	p->pool = l->core.pool;
	atomic_init(&p->rate, bits_of(-0.0));
	rc = thmq_forecast_open(
		THMQ_FORECAST_OPTS(.window = WINDOW, .members = 20, .mode_max = 6, .horizon = 4),
		&p->forecast);
	if (rc) {
		free(p);
		return rc;
	}
	l->polling.predict = p;
	return 0;
}

int thmqi_predict_open(struct thmq_env *env)
{
	bool threads = (env->opts.core_count || env->opts.flags & THMQ_ENV_ALLOW_THREADS) &&
		       env->loops[0]->polling.has_thread;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < env->core_count && !rc; i++)
		rc = open_one(env->loops[i], !threads);
	if (!rc && threads)
		rc = start(env);
	return rc ? thmqi_fail(rc, "forecasts for THMQ_POLICY_PREDICTIVE: %s", thmq_strerror(rc))
		  : 0;
}

void thmqi_predict_close(struct thmq_env *env)
{
	uint32_t i;

	stop(env);
	for (i = 0; i < env->core_count && env->loops[i]; i++) {
		struct predict *p = env->loops[i]->polling.predict;

		if (p)
			thmq_forecast_close(p->forecast);
		free(p);
		env->loops[i]->polling.predict = NULL;
	}
}
