/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared.c - shared groups: messages of a partition go to whichever member has room, are its own for a time, and are
 * acknowledged one by one. What has become of each is in spans.c; what is done, and how often the others were handed out, is a state
 * slice in the partition's shard, as an exclusive group's offset is. One reader serves all members. Knows nothing of who
 * the members are but by what they attach with: who is silent for too long, or gone, loses what it has. Handing out: shared_deliver.c.
 */
#include "shared.h"

#define OPEN_MAX 4096u          /* messages of a partition that are out or back, per group */
#define TICK_NS 1000000ull      /* time-outs are looked at no more often */
#define LEASE_MAX_NS 31536000000000000ull /* a year: so that no sum overflows */

static void wake(struct shared *sh)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &partition_of(sh)->subs)
	{
		struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->shared == sh)
			thmqi_sub_ready(sub);
	}
}

static void on_reader_ready(void *ctx)
{
	wake(ctx);
}

/* ------------------------------------------------------------------ lifetime */

static void on_timer(struct thmqi_timer *t);
void thmqi_shared_feed_all(struct shared *sh);

/* A slice must fit a batch. */
static uint32_t open_max_of(const struct shard *s)
{
	uint32_t room = s->run_max -
			(uint32_t)(sizeof(struct thmq_run_header) + sizeof(struct state_shared)) -
			64;

	return THMQI_MIN(OPEN_MAX, (room / (uint32_t)sizeof(struct span_stored) - 2) / 2);
}

/* Of one message, whatever its key: they stay together, beyond open_max, and a member may speak of each by itself. */
static uint32_t parts_max(const struct shard *s)
{
	uint32_t used = (uint32_t)(sizeof(struct thmq_run_header) + sizeof(struct thmq_record) +
				   sizeof(struct thmqi_part)) +
			THMQ_KEY_MAX + THMQ_TAG_MAX + 8;

	return THMQI_MESSAGE_MAX / (s->run_max > used + 64 ? s->run_max - used : 64) + 2;
}

static struct shared *make(struct shard *s, struct group_offset *g, uint64_t begin)
{
	struct shared *sh = calloc(1, sizeof(*sh));

	if (!sh)
		return NULL;
	sh->group = g;
	sh->shard = s;
	sh->open_max = open_max_of(s);
	sh->slice_max = 2 * sh->open_max + 2;
	sh->slice = calloc(1, sizeof(*sh->slice) + sh->slice_max * sizeof(struct span_stored));
	if (!sh->slice ||
	    thmqi_spans_init(&sh->spans, sh->open_max + parts_max(s), begin) != 0) {
		free(sh->slice);
		free(sh);
		return NULL;
	}
	sh->timer.fire = on_timer;
	sh->stands = sh->out_ns = UINT64_MAX;
	return sh;
}

void thmqi_shared_free(struct group_offset *g)
{
	struct shared *sh = g->shared;

	if (!sh)
		return;
	g->shared = NULL;
	if (thmqi_timer_is_running(&sh->timer))
		thmqi_timer_stop(sh->shard->core, &sh->timer);
	thmq_log_reader_close(sh->reader);
	thmqi_shared_drop_view(sh);
	thmqi_spans_fini(&sh->spans);
	free(sh->slice);
	free(sh);
}

bool thmqi_shared_is_used(const struct group_offset *g)
{
	return g->shared && g->shared->sub_count;
}

uint64_t thmqi_shared_done(const struct group_offset *g)
{
	const struct spans *s = g->shared ? &g->shared->spans : NULL;

	return s ? s->end - thmqi_spans_floor(s) - s->open : 0;
}

/* Everything below what an exclusive member has acknowledged is done. */
void thmqi_shared_advance(struct group_offset *g)
{
	struct spans *s = &g->shared->spans;

	thmqi_spans_done(s, thmqi_spans_floor(s), g->offset);
	thmqi_spans_skip(s, g->offset);
}

/* --------------------------------------------------------------------- stored */

void thmqi_shared_soil(struct shared *sh)
{
	struct group_offset *g = sh->group;
	struct shard *s = sh->shard;

	g->offset = thmqi_spans_floor(&sh->spans);
	sh->dirty = true;
	g->owed = s->offsets_owed = true;
	if (!sh->storing && !g->dirty) {
		g->dirty = true;
		thmqi_list_add_tail(&s->dirty_offsets, &g->dirty_link);
	}
}

bool thmqi_shared_is_stored(const struct group_offset *g)
{
	return !g->shared || (!g->shared->dirty && !g->shared->storing);
}

void thmqi_shared_reset(struct group_offset *g, uint64_t offset)
{
	struct shared *sh = g->shared;

	thmqi_spans_load(&sh->spans, offset, NULL, 0, 0);
	sh->finding = false;
	sh->stands = UINT64_MAX;
	thmqi_shared_drop_view(sh);
	thmqi_shared_soil(sh);
}

bool thmqi_shared_is_dirty(const struct group_offset *g)
{
	return g->shared && g->shared->dirty;
}

static int append(struct group_offset *g, struct pending **ret_pending)
{
	struct shared *sh = g->shared;
	uint32_t n =
		thmqi_spans_store(&sh->spans, (struct span_stored *)(sh->slice + 1), sh->slice_max);

	*sh->slice = (struct state_shared){.partition = g->partition->id,
					   .group = g->group,
					   .floor = thmqi_spans_floor(&sh->spans),
					   .count = n};
	return thmqi_shard_append_state(
		sh->shard, STATE_GROUP_SHARED,
		(uint64_t)g->partition->id << 32 | g->group, sh->slice,
		(uint32_t)(sizeof(*sh->slice) + n * sizeof(struct span_stored)), ret_pending);
}

int thmqi_shared_store(struct group_offset *g)
{
	struct shared *sh = g->shared;
	struct thmqi_list *it;
	struct pending *e;
	int rc = append(g, &e);

	if (rc)
		return rc;
	e->group = g;
	e->shared = true;
	e->end_offset = sh->slice->floor;
	sh->dirty = false;
	sh->storing = true;
	thmqi_list_each(it, &g->partition->subs)
	{
		struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->shared == sh)
			sub->settle_storing = sub->settle_taken;
	}
	return 0;
}

int thmqi_shared_renew(struct group_offset *g)
{
	struct pending *e;

	return g->shared ? append(g, &e) : 0;
}

static void tell_settled(struct sub *sub, uint32_t serial, int status)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_SETTLED,
				.stream = sub->stream,
				.partition = sub->partition->id,
				.extra = serial,
				.seq = sub->group->offset,
				.arg = {sub->generation, 0},
				.status = status};

	thmqi_conn_send(sub->conn, &f);
	thmqi_conn_kick(sub->conn);
}

void thmqi_shared_durable(struct group_offset *g, uint64_t floor)
{
	struct shared *sh = g->shared;
	struct thmqi_list *it;

	if (g->durable_offset == UINT64_MAX || g->durable_offset < floor)
		g->durable_offset = floor;
	if (!sh)
		return;
	sh->storing = false;
	thmqi_list_each(it, &g->partition->subs)
	{
		struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->shared != sh || sub->settle_told == sub->settle_storing)
			continue;
		sub->settle_told = sub->settle_storing;
		tell_settled(sub, sub->settle_told, 0);
	}
	if (sh->dirty)
		thmqi_shared_soil(sh);
}

void thmqi_shared_tell_owed(struct group_offset *g, int error)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &g->partition->subs)
	{
		struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->shared == g->shared && sub->settle_told != sub->settle_taken)
			tell_settled(sub, sub->settle_taken, error);
	}
}

void thmqi_shared_failed(struct group_offset *g)
{
	struct shared *sh = g->shared;

	if (!sh->storing && !sh->dirty)
		return;
	sh->storing = false;
	thmqi_shared_soil(sh);
}

/* What was on its way is in the log, or it is told anew; what is done stays so, whoever has heard of it. */
void thmqi_shared_deposed(struct group_offset *g)
{
	struct shared *sh = g->shared;

	thmqi_shared_drop_view(sh);
	sh->dirty = sh->storing = false;
	g->offset = g->durable_offset = thmqi_spans_floor(&sh->spans);
}

/* Bytes from the log passed their checksum, but lengths must be sane all the same. */
void thmqi_shared_replay(struct shard *s, const struct thmq_log_run *run)
{
	const struct state_shared *state = run->payload;
	uint32_t room = run->header->len;
	struct partition *p;
	struct group_offset *g;
	bool was_reset;

	if (room < sizeof(*state) ||
	    (room - sizeof(*state)) / sizeof(struct span_stored) < state->count)
		return;
	p = thmqi_shard_partition(s, state->partition);
	g = p ? thmqi_offsets_get(p, state->group, true) : NULL;
	if (!g)
		return;
	if (!g->shared)
		g->shared = make(s, g, state->floor);
	if (!g->shared)
		return; /* then all of it comes again */
	was_reset = state->floor < thmqi_spans_floor(&g->shared->spans); /* by nothing else does it fall */
	if (!thmqi_spans_load(&g->shared->spans, state->floor,
			      (const struct span_stored *)(state + 1), state->count,
			      g->shared->open_max))
		thmqi_spans_load(&g->shared->spans, state->floor, NULL, 0, 0);
	if (g->offset == UINT64_MAX || g->offset < state->floor || was_reset)
		g->offset = g->durable_offset = state->floor;
}

/* All is replayed: what an exclusive member has done since counts, and nothing behind what is there. */
void thmqi_shared_settle_recovery(struct group_offset *g)
{
	struct shared *sh = g->shared;

	sh->back_ns = 0; /* what it was when this one led before says nothing: all that is not done is back */
	sh->out_ns = sh->stands = UINT64_MAX;
	thmqi_shared_drop_view(sh);
	thmqi_spans_cut(&sh->spans, THMQI_MAX(g->partition->visible, g->offset));
	if (g->offset > thmqi_spans_floor(&sh->spans))
		thmqi_shared_advance(g);
	g->offset = g->durable_offset = thmqi_spans_floor(&sh->spans);
}

/* ----------------------------------------------------------------------- time */

void thmqi_shared_arm(struct shared *sh)
{
	uint64_t now = now_of(sh), at = sh->out_ns;

	if (sh->back_ns > now) /* else whoever has room has been woken */
		at = THMQI_MIN(at, sh->back_ns);
	if (!sh->sub_count || at == UINT64_MAX)
		return;
	at = THMQI_MAX(at, now + TICK_NS);
	if (!thmqi_timer_is_running(&sh->timer) || at < sh->timer.deadline_ns)
		thmqi_timer_start(sh->shard->core, &sh->timer, at);
}

/* Something is back, or will be. */
static void came_back(struct shared *sh, uint64_t due_ns)
{
	sh->back_ns = THMQI_MIN(sh->back_ns, due_ns);
	if (due_ns <= now_of(sh))
		wake(sh);
	else
		thmqi_shared_arm(sh);
}

static void on_timer(struct thmqi_timer *t)
{
	struct shared *sh = thmqi_container(t, struct shared, timer);
	uint64_t now = now_of(sh);

	const bool any = thmqi_spans_expire(&sh->spans, now, &sh->out_ns);

	if (any)
		sh->back_ns = 0;
	if (sh->back_ns <= now)
		wake(sh);
	if (any) /* behind that: whoever let them expire has room by now, and is not the first to get them again */
		thmqi_shared_feed_all(sh);
	thmqi_shared_arm(sh);
}

/* ------------------------------------------------------------------ what members say */

static uint64_t lease_of(uint64_t ns)
{
	return THMQI_MIN(ns, (uint64_t)LEASE_MAX_NS);
}

static void acked(struct sub *sub, uint64_t from, uint64_t to)
{
	struct shared *sh = sub->shared;
	bool was_full = sh->spans.open >= sh->open_max;
	uint64_t had = sub->lease.out, n = thmqi_spans_done(&sh->spans, from, to);

	if (n || sh->dirty || sh->storing) {
		thmqi_shared_soil(sh);
	} else { /* it was done before, and is stored */
		sub->settle_told = sub->settle_taken;
		tell_settled(sub, sub->settle_taken, 0);
	}
	if (was_full && sh->spans.open < sh->open_max)
		wake(sh);
	if (n != had - sub->lease.out) /* some of it another had by now */
		thmqi_shared_feed_all(sh);
}

void thmqi_shared_settle(struct conn *c, const struct thmqi_frame *f)
{
	struct sub *sub = thmqi_sub_find(c, f->stream, f->partition);
	uint64_t from = f->seq, to = f->seq + f->len, due;
	struct thmqi_frame no = {.type = THMQI_FRAME_SETTLED,
				 .stream = f->stream,
				 .partition = f->partition,
				 .extra = f->extra,
				 .arg = {f->generation, 0},
				 .status = -THMQ_EFENCED};
	struct span_part part = {.from = from, .to = to, .deliveries = f->extra};
	struct shared *sh;

	if (!sub || !sub->shared || sub->generation != f->generation || to <= from) {
		if (f->flags == THMQI_SETTLE_ACK)
			thmqi_conn_send(c, &no);
		return;
	}
	sh = sub->shared;
	part.holder = &sub->lease;
	due = now_of(sh) + lease_of(f->arg[0]);
	switch (f->flags) {
	case THMQI_SETTLE_ACK:
		sub->settle_taken = f->extra;
		acked(sub, from, to);
		break;
	case THMQI_SETTLE_NACK:
	case THMQI_SETTLE_RETURN:
		if (thmqi_spans_back(&sh->spans, &part, due, f->flags == THMQI_SETTLE_RETURN))
			came_back(sh, due);
		break;
	case THMQI_SETTLE_EXTEND:
		if (thmqi_spans_extend(&sh->spans, &part, due)) {
			sh->out_ns = THMQI_MIN(sh->out_ns, due);
			thmqi_shared_arm(sh);
		}
		break;
	default:
		break;
	}
	thmqi_shared_feed(thmqi_sub_consumer(sub));
}

/* -------------------------------------------------------------------- attach, leave */

/* Where a group begins that nobody has attached to. */
static int begin(struct conn *c, struct group_offset *g, const struct thmqi_frame *f)
{
	struct partition *p = g->partition;
	uint64_t offset = g->offset;
	uint32_t kind = THMQI_ATTACH_KIND(f->flags) == THMQI_START_AGAIN ? THMQ_START_OFFSET : THMQI_ATTACH_KIND(f->flags);
	int rc;

	if (g->shared)
		return 0;
	rc = offset == UINT64_MAX ? thmqi_sub_start(p, kind, f->arg[0], &offset) : 0;
	if (rc)
		return rc;
	g->shared = make(c->shard, g, offset);
	if (!g->shared)
		return -ENOMEM;
	if (g->offset ==
	    UINT64_MAX) { /* it is stored that it is there, so that all from here on is kept for it */
		g->shared->finding = kind == THMQ_START_TIME;
		g->shared->time_ns = (int64_t)f->arg[0];
		if (!g->shared->finding)
			thmqi_shared_soil(g->shared);
	}
	return 0;
}

int thmqi_shared_attach(struct conn *c, const struct thmqi_frame *f, struct partition *p,
			struct sub **ret_sub)
{
	struct group_offset *g;
	struct consumer *k;
	struct sub *sub;
	int rc;

	if (!(uint32_t)f->arg[1])
		return -EINVAL;
	if (p->is_volatile)
		return -EOPNOTSUPP;
	g = thmqi_offsets_get(p, (uint32_t)f->arg[1], true);
	if (!g)
		return -ENOMEM;
	if (g->owner)
		return -EBUSY;
	rc = begin(c, g, f);
	if (!rc && !g->shared->reader)
		rc = thmq_log_reader_open(p->log, p->id, on_reader_ready, g->shared,
					  &g->shared->reader);
	if (rc)
		return rc;
	rc = thmqi_sub_make(c, f, p, g, &sub);
	if (rc)
		return rc;
	k = thmqi_sub_consumer(sub);
	sub->shared = g->shared;
	sub->lease.total = &k->out_count;
	sub->resolving = SUB_IS_SHARED;
	sub->lease_ns = lease_of(f->seq);
	sub->next = thmqi_spans_floor(&g->shared->spans);
	thmqi_list_add_tail(&p->subs, &sub->partition_link);
	thmqi_list_add_tail(&k->subs, &sub->consumer_link);
	g->shared->sub_count++;
	thmqi_sub_ready(sub);
	*ret_sub = sub;
	return 0;
}

void thmqi_shared_leave(struct sub *sub)
{
	struct shared *sh = sub->shared;

	if (thmqi_spans_drop(&sh->spans, &sub->lease))
		came_back(sh, 0);
	if (--sh->sub_count)
		return;
	thmq_log_reader_close(sh->reader);
	sh->reader = NULL;
	sh->stands = UINT64_MAX;
	thmqi_shared_drop_view(sh);
	if (thmqi_timer_is_running(&sh->timer))
		thmqi_timer_stop(sh->shard->core, &sh->timer);
}
