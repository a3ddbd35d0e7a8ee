/* SPDX-License-Identifier: Apache-2.0 */
/* duty.c - a core's account of its time; duty.h says what it follows from. */
#include "duty.h"

/* An idle iteration that takes longer can bear a look at the clock of its own. */
#define SLOW_NS 1000u
#define READ_TRIES 100u

_Static_assert(sizeof(struct thmq_core_stats) % 8 == 0, "copied by words");

static void set(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static void add(uint64_t *word, uint64_t n)
{
	set(word, *word + n);
}

static void write_begin(struct duty *d)
{
	uint32_t seq = atomic_load_explicit(&d->seq, memory_order_relaxed);

	atomic_store_explicit(&d->seq, seq + 1, memory_order_relaxed);
	atomic_thread_fence(
		memory_order_release); /* the count before what it guards: pairs with the reader's acquire */
}

static void write_end(struct duty *d)
{
	uint32_t seq = atomic_load_explicit(&d->seq, memory_order_relaxed);

	atomic_store_explicit(&d->seq, seq + 1, memory_order_release);
}

/* Whatever they are part of. */
typedef uint64_t any_word __attribute__((may_alias));

static void copy_words(void *to, const void *from, size_t size)
{
	const any_word *src = from;
	any_word *dst = to;
	size_t i;

	for (i = 0; i < size / 8; i++)
		__atomic_store_n(&dst[i], __atomic_load_n(&src[i], __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

/* ------------------------------------------------------------------ lengths */

static uint64_t *length_of(struct duty *d, uint64_t ns)
{
	uint32_t bits = 63u - (uint32_t)__builtin_clzll(ns | 1);

	return &d->stats.lengths[THMQI_MIN(bits, THMQ_CORE_LENGTHS - 1u)];
}

static void new_longest(struct duty *d, uint64_t ns, uint64_t now)
{
	static const uint64_t nothing[THMQ_CORE_PHASES];
	static const uint64_t nobody[THMQ_POLLER_NAME / 8];
	bool measured = d->marked_ns != 0;

	write_begin(d);
	set(&d->stats.longest_ns, ns);
	set(&d->stats.longest_at_ns, now);
	copy_words(d->stats.longest_phase_ns, measured ? d->phase_ns : nothing, sizeof(nothing));
	set(&d->stats.longest_poller_ns, measured ? d->poller_ns : 0);
	copy_words(d->stats.longest_poller, measured ? (const void *)d->poller : nobody,
		   sizeof(nobody));
	write_end(d);
}

/* One iteration. */
static void count_length(struct duty *d, uint64_t ns, uint64_t now)
{
	add(length_of(d, ns), 1);
	if (thmqi_unlikely(ns > d->stats.longest_ns))
		new_longest(d, ns, now);
}

/* Those of which one was slow. @usual: what an iteration takes that is not. */
static void count_slow(struct duty *d, uint64_t usual, uint64_t now)
{
	uint64_t others = d->slow_rounds - 1, marked = d->marked_ns;
	/* the slow one took no less than the average */
	uint64_t rest = THMQI_MIN(others * usual, d->slow_ns - d->slow_ns / d->slow_rounds);

	add(length_of(d, usual), others);
	d->marked_ns = 0; /* that was another one */
	count_length(d, d->slow_ns - rest, now);
	d->marked_ns = marked;
	d->slow_rounds = 0;
}

/* --------------------------------------------------------------------- time */

static inline void count_busy(struct duty *d, uint64_t ns)
{
	add(&d->stats.busy_ns, ns);
	add(&d->stats.busy_iterations, 1);
	add(length_of(d, ns), 1);
}

/* All that is not the rule: idle ones before it, slow ones among these, a longest one. */
static __attribute__((noinline)) void busy_and_more(struct duty *d, uint64_t before,
						    uint64_t elapsed, uint64_t now)
{
	uint64_t idle = THMQI_MIN(before * d->round_ns, elapsed);

	if (d->slow_rounds)
		count_slow(d, d->round_ns, now);
	if (before) {
		add(length_of(d, d->round_ns), before);
		add(&d->stats.idle_ns, idle);
		elapsed -= idle;
	}
	count_busy(d, elapsed);
	if (elapsed > d->stats.longest_ns)
		new_longest(d, elapsed, now);
	d->look_again = false;
	d->marked_ns = 0;
}

void thmqi_duty_busy(struct duty *d, uint64_t loops, uint64_t now)
{
	uint64_t elapsed = now - d->looked_ns, before = loops - d->looked_loops - 1;

	set(&d->looked_ns, now);
	d->looked_loops = loops;
	if (thmqi_unlikely((before | d->slow_rounds | d->marked_ns) ||
			   elapsed > d->stats.longest_ns))
		busy_and_more(d, before, elapsed, now);
	else
		count_busy(d, elapsed);
}

void thmqi_duty_idle(struct duty *d, uint64_t loops, uint64_t now)
{
	uint64_t elapsed = now - d->looked_ns, rounds = loops - d->looked_loops, each;

	set(&d->looked_ns, now);
	d->looked_loops = loops;
	add(&d->stats.idle_ns, elapsed);
	if (!rounds)
		return;
	each = elapsed / rounds;
	if (thmqi_unlikely(d->slow_rounds))
		count_slow(d, each, now);
	d->look_again = each > SLOW_NS;
	if (d->look_again && rounds > 1) {
		d->slow_ns = elapsed;
		d->slow_rounds = rounds;
		return;
	}
	if (!d->look_again)
		d->round_ns = each;
	add(length_of(d, each), rounds - 1);
	count_length(d, each, now);
	d->marked_ns = 0;
}

void thmqi_duty_back(struct duty *d, uint64_t now)
{
	uint64_t elapsed = now - d->looked_ns;

	write_begin(d); /* a long sleep must not be seen twice */
	add(d->state == DUTY_SLEEPS ? &d->stats.slept_ns : &d->stats.away_ns, elapsed);
	set(&d->looked_ns, now);
	__atomic_store_n(&d->state, DUTY_RUNS, __ATOMIC_RELAXED);
	write_end(d);
}

void thmqi_duty_init(struct duty *d, uint64_t now)
{
	d->begin_ns = d->looked_ns = now;
	d->state = DUTY_AWAY;
}

/* By the owner. What it is about counts from its last look at the clock, so that the sums stay right. */
void thmqi_duty_reset(struct duty *d)
{
	static const struct thmq_core_stats zero;

	write_begin(d);
	copy_words(&d->stats, &zero, sizeof(zero));
	set(&d->begin_ns, d->looked_ns);
	set(&d->begin_loops, d->looked_loops);
	write_end(d);
	d->slow_rounds = 0;
}

/* -------------------------------------------------------------------- phases */

void thmqi_duty_begin(struct duty *d, uint64_t now)
{
	memset(d->phase_ns, 0, sizeof(d->phase_ns));
	d->poller_ns = 0;
	d->poller[0] = 0;
	d->marked_ns = THMQI_MAX(now, 1u);
	add(&d->stats.detailed_iterations, 1);
}

uint64_t thmqi_duty_mark(struct duty *d, const struct thmqi_clock *clock, uint32_t phase)
{
	uint64_t now = clock->now_ns(clock->ctx), ns = now - d->marked_ns;

	d->marked_ns = now;
	d->phase_ns[phase] += ns;
	add(&d->stats.phase_ns[phase], ns);
	return ns;
}

void thmqi_duty_poller(struct duty *d, const char *name, uint64_t ns)
{
	if (ns <= d->poller_ns)
		return;
	d->poller_ns = ns;
	memcpy(d->poller, name, sizeof(d->poller));
}

/* ------------------------------------------------------------------- reading */

static uint64_t get(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

void thmqi_duty_copy(const struct duty *d, const struct thmqi_clock *clock, const uint64_t *loops,
		     struct thmq_core_stats *ret)
{
	uint64_t looked, begin, since;
	uint32_t seq, state, tries = READ_TRIES;

	/* a writer may be preempted within: better a mixture than no answer */
	do {
		seq = atomic_load_explicit(&d->seq, memory_order_acquire);
		copy_words(ret, &d->stats, sizeof(*ret));
		looked = get(&d->looked_ns);
		begin = get(&d->begin_ns);
		state = __atomic_load_n(&d->state, __ATOMIC_RELAXED);
		ret->iterations = get(loops) - get(&d->begin_loops);
		atomic_thread_fence(memory_order_acquire);
	} while ((seq & 1 || seq != atomic_load_explicit(&d->seq, memory_order_relaxed)) &&
		 --tries);
	since = clock->now_ns(clock->ctx);
	ret->counted_ns = since - begin;
	since = since > looked ? since - looked : 0;
	if (state == DUTY_SLEEPS)
		ret->slept_ns += since;
	else if (state == DUTY_AWAY)
		ret->away_ns += since;
	else
		ret->current_ns = since;
}
