/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pace.c - how fast batches are read from the device while producers wait for writes: as fast as these can bear. A device that
 * reads a backlog as fast as it can lets a small write wait behind all that it has taken; so while such writes go on, reads are
 * small, one at a time, and of so many bytes a second. The rate follows from what the writes take: of each WINDOW of them fewer
 * than one in a hundred may have had a read beside it and taken much longer than they do without, else it is halved. So the readers
 * never decide what the slowest hundredth of the writes takes. But who is behind gets on: the rate stays above what is appended.
 * A copy that is behind reads so, too, in turns with readers, and never slower than COPY_RATE: until it has all, one copy less is there.
 * A batch is read whole, and of a partition with small messages among many others each has few: so there are READS_MIN reads a second
 * at least, however large. Where nobody waits for a write there is no limit. Knows not what is read; looks at no clock.
 */
#include "internal.h"

#define ACTIVE_NS 10000000u /* behind the last such write its like may still come */
#define READ_BYTES (128u << 10)
#define READ_BYTES_FEW (1u << 20)
#define RATE_BEGIN (64ull << 20)
#define RATE_MIN (4ull << 20)
#define RATE_MAX (1ull << 30)
#define READS_MIN 16u /* a second */
#define WINDOW 256u	 /* writes: behind them the rate rises by a quarter */
#define SLOW_WRITES 1u	 /* of these, that reads may cost: two are nearly a hundredth */
#define SHARE (1 << 20)	 /* the whole, where a part of it is told */
#define SHARE_WRITES 512 /* about so many of the last writes tell which part is slow without reads */
#define SLOW_DEVICE_NS 1000000u /* its small writes take longer than that: much is not read in a moment either */
#define COUNT_NS 100000000u	/* what is appended is looked at so often */
#define COPY_RATE (32ull << 20)
#define COPY_NS 1000000000u /* it has asked lately */
#define TURN_NS 100000000u  /* who was refused so long ago, and has not asked since, has gone elsewhere */
#define ASK_NS 1000000u
#define NS 1000000000ull

void thmqi_pace_init(struct thmq_log *log)
{
	log->pace.rate = RATE_BEGIN;
	log->pace.least = RATE_MIN;
	log->pace.allowance = READ_BYTES;
}

/* ------------------------------------------------------------------ writes */

void thmqi_pace_write(struct thmq_log *log, struct flight *flight)
{
	struct pace *p = &log->pace;

	flight->since_ns = log->core->now_ns;
	flight->reads_begun = p->begun;
	flight->beside = p->reading != 0;
	p->waited++;
}

/* What 31 of 32 writes do not exceed: in balance where one goes up as far as 31 go down. */
static void learn(struct pace *p, uint64_t ns)
{
	if (!p->usual_ns)
		p->usual_ns = 2 * ns;
	else if (ns > p->usual_ns)
		p->usual_ns += p->usual_ns / 16;
	else
		p->usual_ns -= p->usual_ns / (16 * 31);
}

/* Readers and a copy get on both. */
static uint64_t floor_of(const struct pace *p)
{
	bool copy = p->copy_ns && p->written_ns - THMQI_MIN(p->copy_ns, p->written_ns) < COPY_NS;

	return copy ? THMQI_MAX(2 * p->least, COPY_RATE) : p->least;
}

static void change(struct pace *p, uint64_t rate)
{
	p->rate = THMQI_MIN(THMQI_MAX(rate, floor_of(p)), RATE_MAX);
	p->judged = p->slow = 0;
	p->begun_then = p->begun;
}

/* Writes of a window that may be slow beside reads: as many as are slow without, and those that reads may cost. */
static uint32_t slow_most(const struct pace *p)
{
	return SLOW_WRITES + (uint32_t)((uint64_t)p->alone_slow * WINDOW / SHARE);
}

static void judge(struct pace *p, bool beside, bool slow)
{
	if (beside)
		p->slow += slow;
	else
		p->alone_slow += ((slow ? SHARE : 0) - p->alone_slow) / SHARE_WRITES;
	p->judged++;
	if (p->slow > slow_most(p))
		change(p, p->rate / 2);
	else if (p->judged >= WINDOW)
		change(p, p->begun == p->begun_then ? p->rate : p->rate + p->rate / 4);
}

/* A quarter more than is appended, padding included: readers read that too. */
static void count(struct thmq_log *log)
{
	struct pace *p = &log->pace;
	uint64_t ns = log->core->now_ns - p->counted_ns, bytes = log->stats.stored_bytes - p->counted_bytes;

	if (ns < COUNT_NS)
		return;
	p->least = THMQI_MIN(THMQI_MAX(bytes * 5 / 4 * 1000 / (ns / (NS / 1000)), RATE_MIN), RATE_MAX);
	p->rate = THMQI_MIN(THMQI_MAX(p->rate, floor_of(p)), RATE_MAX);
	p->counted_ns = log->core->now_ns;
	p->counted_bytes = log->stats.stored_bytes;
}

void thmqi_pace_written(struct thmq_log *log, const struct flight *flight)
{
	struct pace *p = &log->pace;
	uint64_t ns = log->core->now_ns - flight->since_ns + 1;
	bool beside = flight->beside || flight->reads_begun != p->begun;
	bool slow = p->usual_ns && ns > p->usual_ns + p->usual_ns * 3 / 4;

	p->waited--;
	p->written_ns = log->core->now_ns;
	if (!beside)
		learn(p, ns);
	judge(p, beside, slow);
	count(log);
}

/* ------------------------------------------------------------------- reads */

static bool is_limited(const struct thmq_log *log)
{
	return log->pace.waited ||
	       (log->pace.written_ns && log->core->now_ns - log->pace.written_ns < ACTIVE_NS);
}

/*
 * A write behind a small read that takes no longer than a usual write is not slow. Where reads take longer however small they are,
 * fewer and larger ones hurt fewer writes; but of a slow device each would hold up a write for long.
 */
static uint32_t read_bytes(const struct pace *p)
{
	bool hurt = p->rate < RATE_BEGIN && p->read_ns > 2 * p->usual_ns; /* it may have waited for a write itself */

	return hurt && p->usual_ns <= SLOW_DEVICE_NS ? READ_BYTES_FEW : READ_BYTES;
}

uint32_t thmqi_pace_bytes(const struct thmq_log *log, uint32_t bytes)
{
	return is_limited(log) ? THMQI_MIN(bytes, read_bytes(&log->pace)) : bytes;
}

static void on_time(struct thmqi_timer *t)
{
	thmqi_readers_wake(thmqi_container(t, struct thmq_log, pace.timer));
}

/* What has come since it was counted last; a long time's is no use. */
static void fill(struct pace *p, uint64_t now_ns)
{
	uint64_t ns = THMQI_MIN(now_ns - p->filled_ns, NS);

	p->filled_ns = now_ns;
	p->allowance =
		THMQI_MIN(p->allowance + (int64_t)(p->rate / 1024 * ns / (NS / 1024)), READ_BYTES);
}

static bool is_others_turn(const struct pace *p, enum pace_kind kind, uint64_t now_ns)
{
	uint64_t since = p->refused_ns[kind == PACE_COPY ? PACE_READER : PACE_COPY];

	return since && now_ns - since < TURN_NS && p->last == kind;
}

static void refuse(struct thmq_log *log, enum pace_kind kind)
{
	struct pace *p = &log->pace;
	uint64_t ns = ASK_NS;

	p->refused_ns[kind] = log->core->now_ns;
	if (p->reading || thmqi_timer_is_running(&p->timer)) /* the end of that wakes those that wait */
		return;
	if (p->allowance <= 0)
		ns = (uint64_t)(1 - p->allowance) * NS / p->rate + 1;
	p->timer.fire = on_time;
	thmqi_timer_start(log->core, &p->timer, log->core->now_ns + ns);
}

/* What a read takes of the allowance. */
static int64_t cost_of(const struct pace *p, uint32_t bytes)
{
	return (int64_t)THMQI_MIN((uint64_t)bytes, p->rate / READS_MIN);
}

bool thmqi_pace_read(struct thmq_log *log, uint32_t bytes, enum pace_kind kind)
{
	struct pace *p = &log->pace;

	if (kind == PACE_COPY)
		p->copy_ns = log->core->now_ns;
	if (!is_limited(log)) {
		p->allowance = READ_BYTES;
		p->filled_ns = log->core->now_ns;
		p->refused_ns[kind] = 0;
		return true;
	}
	if (!p->reading)
		fill(p, log->core->now_ns);
	if (p->reading || p->allowance <= 0 || is_others_turn(p, kind, log->core->now_ns)) {
		refuse(log, kind);
		return false;
	}
	p->allowance -= cost_of(p, bytes);
	p->allowed = bytes;
	p->last = kind;
	p->refused_ns[kind] = 0;
	return true;
}

void thmqi_pace_less(struct thmq_log *log, uint32_t bytes)
{
	struct pace *p = &log->pace;
	int64_t cost = cost_of(p, p->allowed);

	p->allowed -= THMQI_MIN(bytes, p->allowed);
	p->allowance = THMQI_MIN(p->allowance + cost - cost_of(p, p->allowed), READ_BYTES);
}

void thmqi_pace_begun(struct thmq_log *log)
{
	struct pace *p = &log->pace;

	p->reading++;
	p->begun++;
	p->read_since_ns = log->core->now_ns;
}

void thmqi_pace_ended(struct thmq_log *log, uint32_t bytes)
{
	struct pace *p = &log->pace;
	uint64_t ns = log->core->now_ns - p->read_since_ns;

	/* with others beside it it is not known which began then */
	if (--p->reading == 0 && bytes == READ_BYTES)
		p->read_ns = p->read_ns ? p->read_ns - p->read_ns / 8 + ns / 8 : ns;
}
