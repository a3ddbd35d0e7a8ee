/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clean.c - the one cleaner: looks at the oldest segment when one was filled, and every second, and asks the log's owner what of
 * it must be kept. Where that is little it is appended again; states and ends of partitions that would go with it are written again; once that is
 * durable it goes. Every step is small, and a step that cannot be done now is done later. Knows no topics.
 */
#include "../internal.h"
#include "../reading.h"

#define LOOK_NS 1000000000ull
#define AGAIN_NS 1000000ull
#define TRIM_LOOK_NS (10 * AGAIN_NS)
/*
 * What has expired goes with its segment, and the one that is being written does not go: so where nothing was appended for a
 * while, and nothing in it must be kept, it is ended early. Not at once: the next one is as large or larger.
 */
#define ROLL_IDLE_NS (60 * LOOK_NS)
#define ROLL_LOOK_NS (10 * LOOK_NS)
#define STATES_BUDGET 4096u /* places looked at in one iteration */
#define APPENDS_BUDGET 64u  /* slices asked for in one iteration */
#define EXTENTS_BUDGET 256u
/* States may be written again at such a rate: for three bytes that go one is written, or a quarter of a segment. */
#define STATES_SHARE 3u
#define STATES_QUARTER 4u

/* What must be kept is appended again where it is at most such a part of its segment, or much behind it is dead (sample.c). */
#define LIVE_QUARTER 4u

enum clean_step {
	CLEAN_IDLE,
	CLEAN_JUDGE,
	CLEAN_SAMPLE,
	CLEAN_RELOCATE,
	CLEAN_WEIGH,
	CLEAN_STATES,
	CLEAN_LEAVE,
	CLEAN_WAIT,
	CLEAN_DROP
};

uint64_t thmqi_log_file_bytes(const struct thmq_log *log)
{
	uint64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < log->segment_count; i++)
		bytes += log->segments[i]->bytes;
	if (log->prepare == PREPARE_MAKING || log->prepare == PREPARE_READY)
		bytes += log->next->bytes;
	if (log->drop.segment)
		bytes += log->drop.segment->bytes;
	return bytes + (log->spare.file ? log->spare.bytes : 0);
}

/* -------------------------------------------------------------------- when */

static void on_timer(struct thmqi_timer *t)
{
	struct thmq_log *log = thmqi_container(t, struct thmq_log, clean.timer);

	log->clean.look = true; /* the iteration that this causes does the rest */
}

static void later(struct thmq_log *log, uint64_t ns)
{
	struct clean *c = &log->clean;

	c->look = false;
	c->timer.fire = on_timer;
	thmqi_timer_start(log->core, &c->timer, log->core->now_ns + ns);
}

/* Only one of several copies cleans, and only if somebody takes care that the others do the same. */
static bool cleans(const struct thmq_log *log)
{
	return log->disk && (!log->copies.on || (log->copies.leads && log->copies.owner.trim));
}

void thmqi_clean_look(struct thmq_log *log)
{
	if (cleans(log) && (log->events.live || log->opts.full_policy == THMQ_FULL_DROP_OLDEST))
		log->clean.look = true;
}

/* Its oldest segment is not looked at again before a second has passed. */
static void rest(struct thmq_log *log)
{
	thmqi_relocate_end(log);
	log->clean.step = CLEAN_IDLE;
	log->clean.forced = log->clean.rolls = false;
	if (log->segment_count > 1)
		later(log, LOOK_NS);
	else if (log->events.live)
		later(log, ROLL_LOOK_NS);
	else
		log->clean.look = false; /* a segment that is filled wakes it */
}

void thmqi_clean_stop(struct thmq_log *log)
{
	thmqi_relocate_end(log);
	log->clean.step = CLEAN_IDLE;
	log->clean.look = log->clean.rolls = false;
	log->clean.trimmed = 0;
	thmqi_timer_stop(log->core, &log->clean.timer);
}

/* ------------------------------------------------------------------- judge */

static bool is_full(const struct thmq_log *log)
{
	if (log->opts.full_policy != THMQ_FULL_DROP_OLDEST)
		return false;
	if (log->prepare == PREPARE_FAILED && thmqi_is_full(log->prepare_error))
		return true;
	/* one segment less than the limit, so that the next is there in time */
	return log->opts.limit_bytes &&
	       thmqi_log_file_bytes(log) + log->active->bytes > log->opts.limit_bytes;
}

/* Has the log been left alone for long? Then its only segment is judged. */
static int begin_roll(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	uint64_t now = log->core->now_ns;

	if (c->seen_index != log->chain.index || log->forming.runs) {
		c->seen_index = log->chain.index;
		c->seen_ns = now;
	}
	if (log->copies.on || !log->events.live || now - c->seen_ns < ROLL_IDLE_NS || log->durable_position != log->chain.position ||
	    log->states.incomplete) {
		rest(log);
		return 0;
	}
	thmqi_timer_stop(log->core, &c->timer);
	c->position = log->active->position;
	c->bytes = c->live_bytes = 0;
	c->holds = c->waits = c->forced = false;
	c->rolls = true;
	thmqi_extents_begin(&c->extents, log->active);
	c->step = CLEAN_JUDGE;
	return 1;
}

/* It was judged: nothing of it must be kept, and there was something. */
static void roll(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	bool now = c->bytes && !c->live_bytes && c->seen_index == log->chain.index && !log->forming.runs && !log->forming.open;

	rest(log);
	if (now && thmqi_segment_switch(log) == -EAGAIN)
		later(log, LOOK_NS);
}

static void judge_begin(struct thmq_log *log)
{
	struct clean *c = &log->clean;

	c->bytes = c->live_bytes = 0;
	c->holds = c->waits = false;
	thmqi_extents_begin(&c->extents, log->segments[0]);
	c->step = CLEAN_JUDGE;
}

static int begin(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	struct segment *s = log->segments[0];

	c->look = false;
	if (c->trimmed == s->position + 1) { /* that is not committed yet */
		later(log, TRIM_LOOK_NS);
		return 0;
	}
	if (log->segment_count == 1)
		return begin_roll(log);
	if ( log->states.incomplete || s == log->sealing.segment ||
	    s->position + s->bytes > log->durable_position) {
		rest(log);
		return 0;
	}
	thmqi_timer_stop(log->core, &c->timer);
	c->position = s->position;
	c->forced = is_full(log);
	c->rolls = false;
	c->renewed = 0;
	judge_begin(log);
	return 1;
}

static uint64_t last_batch(const struct thmq_log *log)
{
	const struct segment *s = log->segments[0];

	return s->first_index + s->batch_count - 1;
}

static void weigh_begin(struct thmq_log *log, uint32_t step)
{
	log->clean.cursor = 0;
	log->clean.grown = log->states.grown;
	log->clean.step = step;
}

/* Judged: must it stay, with all behind it? */
static bool stays(const struct thmq_log *log)
{
	const struct clean *c = &log->clean;

	if (c->forced)
		return false;
	if (thmqi_sample_sweeps(log))
		return c->holds;
	return c->holds || c->waits || c->live_bytes > log->segments[0]->bytes / LIVE_QUARTER;
}

static int judge(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	struct thmq_log_extent e;
	uint32_t budget = EXTENTS_BUDGET;
	int rc = 1, life;

	while (budget-- && (rc = thmqi_extents_next(log, &c->extents, &e)) == 1) {
		c->bytes += THMQI_MAX(e.bytes, 1u);
		life = log->events.live ? log->events.live(log->opts.ctx, &e) : THMQ_LOG_LIVE;
		c->holds |= life == THMQ_LOG_LIVE;
		c->waits |= life == THMQ_LOG_MOVES;
		if (life != THMQ_LOG_DEAD)
			c->live_bytes += THMQI_MAX(e.bytes, 1u);
	}
	if (rc == 1)
		return 1;
	if (rc == -EAGAIN)
		return 0;
	if (c->rolls) {
		c->live_bytes += rc < 0;
		roll(log);
		return 1;
	}
	if (rc == 0 && stays(log) && !c->holds && thmqi_sample_due(log)) {
		thmqi_sample_begin(log);
		c->step = CLEAN_SAMPLE;
		return 1;
	}
	if (rc < 0 || stays(log)) {
		rest(log);
		return 1;
	}
	if (c->live_bytes && !c->forced) {
		if (thmqi_relocate_begin(log) != 0)
			rest(log);
		else
			c->step = CLEAN_RELOCATE;
		return 1;
	}
	c->live_bytes = 0;
	weigh_begin(log, CLEAN_WEIGH);
	return 1;
}

static int sample(struct thmq_log *log)
{
	int rc = thmqi_sample_step(log);

	if (rc == -EAGAIN)
		return 0;
	if (rc == 0 && thmqi_sample_sweeps(log))
		judge_begin(log);
	else if (rc == 0)
		rest(log);
	return 1;
}

/* What is to be kept has no room, and its own segment is what would give some: there is no next one, and the rest of this one is for states. */
static bool is_stuck(const struct thmq_log *log)
{
	const struct segment *s = log->active;

	return log->prepare == PREPARE_FAILED && thmqi_is_full(log->prepare_error) &&
	       s->position + s->bytes - log->chain.position <= log->reserve + log->opts.batch_bytes;
}

/* It goes with what should have been kept, or it stays, and who writes is refused. */
static int give_up(struct thmq_log *log)
{
	thmqi_relocate_end(log);
	log->clean.forced = is_full(log);
	if (log->clean.forced)
		judge_begin(log);
	else
		rest(log);
	return 1;
}

/*
 * May it have half of the room that is kept for states? Where writers are refused, and all of it fits: then its segment goes, and
 * gives more than that. Batches that are filled as the segment is read, piece by piece, are not full.
 */
static bool may_lend(const struct thmq_log *log)
{
	const struct segment *oldest = log->segments[0], *s = log->active;
	uint64_t live = log->clean.live_bytes - THMQI_MIN(log->clean.live_bytes, log->clean.relocation.appended);
	uint64_t need = live + live / 16 + oldest->bytes / 64 + 2 * THMQI_BLOCK;
	uint64_t left = s->position + s->bytes - log->chain.position;

	return log->opts.full_policy == THMQ_FULL_REFUSE && log->prepare == PREPARE_FAILED && thmqi_is_full(log->prepare_error) &&
	       need + log->reserve / 4 * RESERVE_MOVED <= THMQI_MIN(left - THMQI_MIN(left, log->forming.used), log->reserve);
}

static int relocate(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	uint64_t pause;
	int rc;

	c->relocation.lends = may_lend(log);
	rc = thmqi_relocate_step(log, &pause);
	if (rc == -ENOSPC || (rc == -EAGAIN && c->relocation.refused && !c->relocation.lends && !may_lend(log) && is_stuck(log)))
		return give_up(log);
	if (rc == -EAGAIN) {
		if (pause)
			later(log, pause);
		return 0;
	}
	if (rc) { /* it cannot be read, or nothing can be appended: it stays */
		rest(log);
		return 1;
	}
	thmqi_relocate_end(log);
	c->live_bytes = 0;
	weigh_begin(log, CLEAN_WEIGH);
	return 1;
}

/* Would more of it be written again than is gained? Else a log of nothing but states would be rewritten for ever. */
static int weigh(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	const struct segment *s = log->segments[0];
	uint32_t budget = STATES_BUDGET;
	const struct state_place *p;

	if (c->grown != log->states.grown) {
		c->live_bytes = 0;
		weigh_begin(log, CLEAN_WEIGH);
	}
	while ((p = thmqi_states_next(&log->states, &c->cursor, &budget, last_batch(log))))
		c->live_bytes += p->len + sizeof(struct thmq_run_header);
	if (!budget)
		return 1;
	if (!c->forced && c->live_bytes * STATES_QUARTER > s->bytes &&
	    thmqi_log_file_bytes(log) < log->states.bytes * STATES_SHARE) {
		rest(log);
		return 1;
	}
	weigh_begin(log, CLEAN_STATES);
	return 1;
}

/* ------------------------------------------------------------------- renew */

/* The log's own: who votes. */
static int renew_voters(struct thmq_log *log)
{
	struct thmq_run_header *run;
	uint64_t index, node = 1;
	int rc = thmq_log_append(log, (uint32_t)(sizeof(*run) + sizeof(node)), &run, &index);

	if (rc)
		return rc;
	memset(run, 0, sizeof(*run));
	run->len = sizeof(node);
	run->encoding = THMQ_RUN_STATE;
	memcpy(run + 1, &node, sizeof(node));
	thmq_log_append_end(log, run, THMQ_DURABILITY_MEMORY);
	return 0;
}

static int renew(struct thmq_log *log, const struct state_place *p)
{
	uint32_t kind = p->kind, grown = log->states.grown;
	uint64_t item = p->item, batch = p->batch, reserve;
	int rc = 0;

	if (kind == 0 && log->copies.on) /* who takes care of the others has these */
		return 0;
	reserve = thmqi_reserve_lend(log, RESERVE_ALL); /* it is for this */
	if (kind == 0)
		rc = renew_voters(log);
	else if (log->events.renew)
		rc = log->events.renew(log->opts.ctx, kind, item);
	thmqi_reserve_give_back(log, reserve);
	if (rc == 0 && log->states.grown == grown && p->batch == batch)
		thmqi_states_meaningless(log, p);
	return rc;
}

static int renew_some(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	uint32_t budget = STATES_BUDGET, appends = APPENDS_BUDGET;
	const struct state_place *p;

	if (c->grown != log->states.grown)
		weigh_begin(log, CLEAN_STATES);
	while (appends &&
	       (p = thmqi_states_next(&log->states, &c->cursor, &budget, last_batch(log)))) {
		if (renew(log, p) != 0) {
			c->cursor--;
			later(log, AGAIN_NS);
			return 0;
		}
		if (c->grown != log->states.grown)
			return 1;
		appends--;
	}
	if (!appends || !budget)
		return 1;
	thmqi_extents_begin(&c->extents, log->segments[0]);
	c->step = CLEAN_LEAVE;
	return 1;
}

static int leave_one(struct thmq_log *log, uint32_t partition)
{
	uint64_t reserve = thmqi_reserve_lend(log, RESERVE_ALL);
	int rc = log->events.leave(log->opts.ctx, partition);

	thmqi_reserve_give_back(log, reserve);
	return rc;
}

static int leave(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	uint32_t budget = APPENDS_BUDGET;
	const struct run_index *x;
	struct thmq_log_extent e;
	struct extents was = c->extents;
	int rc = 1;

	while (budget-- && (rc = thmqi_extents_next(log, &c->extents, &e)) == 1) {
		x = thmqi_map_get(&log->partitions, e.partition);
		if (x && log->events.leave && e.end_offset >= x->end &&
		    leave_one(log, e.partition) != 0) {
			c->extents = was;
			later(log, AGAIN_NS);
			return 0;
		}
		was = c->extents;
	}
	if (rc == 1)
		return 1;
	if (rc == -EAGAIN)
		return 0;
	if (rc < 0) {
		rest(log);
		return 1;
	}
	if (!(log->defects & THMQI_LOG_EARLY_DROP) && thmqi_log_flush(log, &c->renewed) != 0)
		return 0;
	if (log->copies.on)
		c->renewed = log->chain.index + (log->forming.runs != 0);
	c->step = CLEAN_WAIT;
	return 1;
}

/* Once that is committed it goes, here as elsewhere; what comes then is looked at anew. */
static int trim(struct thmq_log *log)
{
	int rc = log->copies.owner.trim(log->copies.owner.ctx, last_batch(log) + 1);

	if (rc == -EAGAIN)
		return rc;
	rest(log);
	if (!rc) {
		log->clean.trimmed = log->segments[0]->position + 1;
		later(log, TRIM_LOOK_NS);
	}
	return rc;
}

static int drop(struct thmq_log *log)
{
	int rc;

	if (log->segments[0]->position != log->clean.position) {
		log->clean.step = CLEAN_IDLE;
		if (log->drop.step == 0) /* on to the next */
			log->clean.look = true;
		else
			later(log, AGAIN_NS);
		return 1;
	}
	if (log->drop.step)
		return 0;
	rc = log->copies.on ? trim(log) : thmqi_log_drop_oldest(log);
	if (rc == -EAGAIN)
		later(log, AGAIN_NS);
	else if (rc)
		rest(log);
	return rc == 0;
}

bool thmqi_clean_makes_room(const struct thmq_log *log)
{
	return log->clean.step > CLEAN_SAMPLE || log->drop.step;
}

/* -------------------------------------------------------------------- poll */

/* What was appended again will not be lost. */
static bool is_kept(const struct thmq_log *log)
{
	uint64_t kept = log->copies.on ? log->copies.committed : log->durable_index;

	return kept >= log->clean.renewed || (log->defects & THMQI_LOG_EARLY_DROP);
}

static int step(struct thmq_log *log)
{
	struct clean *c = &log->clean;

	if (c->step && c->step != CLEAN_DROP && log->segments[0]->position != c->position) {
		thmqi_relocate_end(log);
		c->step = CLEAN_IDLE; /* it has gone otherwise */
		c->look = true;
	}
	switch (c->step) {
	case CLEAN_IDLE:
		return c->look && !log->drop.step ? begin(log) : 0;
	case CLEAN_JUDGE:
		return judge(log);
	case CLEAN_SAMPLE:
		return sample(log);
	case CLEAN_RELOCATE:
		return relocate(log);
	case CLEAN_WEIGH:
		return weigh(log);
	case CLEAN_STATES:
		return renew_some(log);
	case CLEAN_LEAVE:
		return leave(log);
	case CLEAN_WAIT:
		if (!is_kept(log))
			return 0;
		c->step = CLEAN_DROP;
		return 1;
	default:
		return drop(log);
	}
}

int thmqi_clean_poll(struct thmq_log *log)
{
	struct clean *c = &log->clean;
	int done = log->drop.step ? thmqi_drop_step(log) : 0;

	if (log->draining || log->failed || (!c->step && !c->look))
		return done;
	if (c->step && c->step != CLEAN_WAIT && thmqi_timer_is_running(&c->timer))
		return done; /* it has been put off */
	return done + step(log);
}

bool thmqi_clean_wants(const struct thmq_log *log)
{
	const struct clean *c = &log->clean;

	if (log->draining || log->failed)
		return false;
	if (thmqi_drop_wants(log))
		return true;
	if (c->step == CLEAN_IDLE)
		return c->look && !log->drop.step;
	if (c->step == CLEAN_WAIT)
		return is_kept(log);
	if (c->step == CLEAN_RELOCATE && thmqi_compact_waits(log))
		return false;
	if (c->step == CLEAN_RELOCATE && (c->relocation.reader->reading || log->segments[0]->cold[SEGMENT_LOG].busy))
		return false;
	if ((c->step == CLEAN_JUDGE || c->step == CLEAN_LEAVE) && (c->page.reading || log->segments[0]->cold[SEGMENT_INDEX].busy))
		return false;
	if (c->step == CLEAN_SAMPLE && (c->page.reading || thmqi_sample_waits(log)))
		return false;
	return !thmqi_timer_is_running(&c->timer) && !(c->step == CLEAN_DROP && log->drop.step);
}
