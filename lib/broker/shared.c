/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared.c - shared groups: messages of a partition go to whichever member has room, are its own for a time, and are
 * acknowledged one by one. What has become of each is in spans.c; what is done, and how often the others were handed out, is a state
 * slice in the partition's shard, as an exclusive group's offset is. One reader serves all members. Knows nothing of who
 * the members are but by what they attach with: who is silent for too long, or gone, loses what it has.
 */
#include "internal.h"
#include "wire/attributes.h"
#include "wire/run.h"

#define OPEN_MAX 4096u          /* messages of a partition that are out or back, per group */
#define WINDOW_MAX (1ull << 31) /* offsets between floor and cursor */
#define TURN_MESSAGES 256u      /* then others have theirs */
#define SIFT_COST 16u           /* messages that are looked at, and not wanted, cost as much as one that is handed out */
#define TICK_NS 1000000ull      /* time-outs are looked at no more often */
#define LEASE_MAX_NS 31536000000000000ull /* a year: so that no sum overflows */

struct shared {
	struct group_offset *group;
	struct shard *shard;
	struct thmq_log_reader *reader; /* NULL: nobody is attached */
	uint64_t stands;                /* where it stands; UINT64_MAX: somewhere else */
	struct thmqi_timer timer;
	struct spans spans;
	struct state_shared *slice; /* room for the largest */
	uint32_t slice_max;         /* spans in it */
	uint32_t open_max;
	uint32_t sub_count;
	uint64_t out_ns,
		back_ns; /* nothing that is out is due before; nothing that is back likewise */
	bool finding;    /* the time that it begins at, by the reader */
	int64_t time_ns;
	bool dirty;   /* it is to be stored */
	bool storing; /* it is on its way: the next one waits for that */
};

static struct partition *partition_of(const struct shared *sh)
{
	return sh->group->partition;
}

static uint64_t now_of(const struct shared *sh)
{
	return sh->shard->core->now_ns;
}

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
static void feed_all(struct shared *sh);

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

static void soil(struct shared *sh)
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
	soil(sh);
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
		soil(sh);
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
	soil(sh);
}

/* What was on its way is in the log, or it is told anew; what is done stays so, whoever has heard of it. */
void thmqi_shared_deposed(struct group_offset *g)
{
	struct shared *sh = g->shared;

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
	thmqi_spans_cut(&sh->spans, THMQI_MAX(g->partition->visible, g->offset));
	if (g->offset > thmqi_spans_floor(&sh->spans))
		thmqi_shared_advance(g);
	g->offset = g->durable_offset = thmqi_spans_floor(&sh->spans);
}

/* ----------------------------------------------------------------------- time */

static void arm(struct shared *sh)
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
		arm(sh);
}

static void on_timer(struct thmqi_timer *t)
{
	struct shared *sh = thmqi_container(t, struct shared, timer);
	uint64_t now = now_of(sh);

	if (thmqi_spans_expire(&sh->spans, now, &sh->out_ns)) {
		sh->back_ns = 0;
		feed_all(sh);
	}
	if (sh->back_ns <= now)
		wake(sh);
	arm(sh);
}

/* -------------------------------------------------------------- hand messages out */

/* What the next message is: where, up to before which offset at most, and the span that it comes from. */
struct pick {
	uint64_t from, to;
	uint32_t span; /* UINT32_MAX: it was never handed out */
};

static bool pick(struct shared *sh, struct pick *ret)
{
	const struct partition *p = partition_of(sh);
	struct spans *s = &sh->spans;

	if (sh->back_ns <= now_of(sh)) {
		ret->span = thmqi_spans_due(s, now_of(sh), &sh->back_ns);
		if (ret->span != UINT32_MAX) {
			ret->from = thmqi_spans_get(s, ret->span)->from;
			ret->to = thmqi_spans_end_of(s, ret->span);
			return true;
		}
		arm(sh);
	}
	ret->span = UINT32_MAX;
	ret->from = s->end;
	ret->to = UINT64_MAX;
	return s->end < p->visible && s->open < sh->open_max &&
	       s->end - thmqi_spans_floor(s) < WINDOW_MAX;
}

/* There is nothing below @to to be had any more. */
static void give_up(struct shared *sh, const struct pick *k, uint64_t to)
{
	if (k->span == UINT32_MAX)
		thmqi_spans_skip(&sh->spans, to);
	else
		thmqi_spans_done(&sh->spans, k->from, THMQI_MIN(to, k->to));
	soil(sh);
}

/* Offsets in a run without a record are nobody's. */
static void give_up_holes(struct shared *sh, const struct thmq_run_header *run, uint64_t from,
			  uint64_t to)
{
	const uint32_t *delta =
		(const uint32_t *)((const struct thmq_record *)(run + 1) + run->count);
	uint64_t at = from, offset;
	uint32_t i;

	for (i = 0; i < run->count && at < to; i++) {
		offset = run->base_offset + delta[i];
		if (offset < at)
			continue;
		if (offset > at)
			thmqi_spans_done(&sh->spans, at, THMQI_MIN(offset, to));
		at = offset + 1;
	}
	if (at < to)
		thmqi_spans_done(&sh->spans, at, to);
	soil(sh);
}

static bool has_records(const struct thmq_run_header *run)
{
	return run->count && run->encoding == THMQ_RUN_RECORDS &&
	       thmqi_run_table_bytes(run->count, run->flags & THMQ_RUN_SPARSE) <= run->len;
}

/* What its members can read: one for each offset, if it has no table. */
static bool has_messages(const struct thmq_run_header *run)
{
	return has_records(run) || (run->encoding == THMQ_RUN_KAFKA && run->count);
}

/* The run of @d, from @from up to before @to, goes to @sub. */
static void send_run(struct sub *sub, struct consumer *k, struct thmqi_frame *f, struct delivery *d,
		     uint64_t from, uint64_t to, uint32_t deliveries)
{
	const struct thmq_run_header *run = d->view.run.header;

	k->free = d->next;
	d->out = true;
	d->log = sub->partition->log;
	d->bytes = run->len;
	d->count = 0; /* what is acknowledged counts, not what is released */
	k->held_bytes += d->bytes;
	f->type = THMQI_FRAME_DELIVER;
	f->flags = 0;
	f->key_len = 0;
	f->stream = sub->stream;
	f->partition = sub->partition->id;
	f->data = (uint64_t)(uintptr_t)run;
	f->len = (uint32_t)sizeof(*run) + run->len;
	f->seq = from;
	f->extra = deliveries;
	f->arg[0] = d->index | (uint64_t)d->generation << 32;
	f->arg[1] = to;
	f->tag_hash = thmqi_shared_stamp(sub->conn->shard);
	f->generation = sub->generation;
	thmqi_conn_commit(sub->conn);
	thmqi_sub_count(sub, (uint32_t)(to - from), run->len);
}

static void hand_over(struct sub *sub, struct consumer *k, struct thmqi_frame *f,
		      const struct pick *at, uint64_t from, uint64_t to)
{
	struct shared *sh = sub->shared;
	struct delivery *d = k->free;
	uint64_t due = now_of(sh) + sub->lease_ns;
	uint32_t deliveries = 1;

	if (at->span == UINT32_MAX) {
		thmqi_spans_take(&sh->spans, to, &sub->lease, due);
	} else {
		deliveries += thmqi_spans_get(&sh->spans, at->span)->deliveries;
		thmqi_spans_lend(&sh->spans, at->span, to, &sub->lease, due);
	}
	send_run(sub, k, f, d, from, to, deliveries);
	sh->out_ns = THMQI_MIN(sh->out_ns, due);
	if ((d->view.run.header->flags & THMQ_RUN_SPARSE) && has_records(d->view.run.header))
		give_up_holes(sh, d->view.run.header, from, to);
}

/* ------------------------------------------------------------- messages in parts */

/* Is @run a part of a message, and which? */
static bool is_part(const struct thmq_run_header *run, struct thmqi_part *ret)
{
	const struct thmq_record *record = (const struct thmq_record *)(run + 1);
	uint64_t table = thmqi_run_table_bytes(1, run->flags & THMQ_RUN_SPARSE), head;

	if (run->count != 1 || !has_records(run) || !(record->flags & THMQ_RECORD_PART))
		return false;
	head = table + record->key_len + record->tag_len;
	if (head + sizeof(*ret) > run->len)
		return false;
	memcpy(ret, (const char *)(run + 1) + head, sizeof(*ret));
	return ret->part < ret->parts && ret->part <= run->base_offset;
}

/* All parts go to one member, from the first one on, whoever has them. */
static void begin_parts(struct sub *sub, const struct thmq_run_header *run,
			const struct thmqi_part *part)
{
	struct shared *sh = sub->shared;
	uint64_t due = now_of(sh) + sub->lease_ns, had = sh->spans.end;
	uint64_t begin = run->base_offset - part->part,
		 end = THMQI_MIN(begin + part->parts, sub->partition->visible);

	sub->part_begin = begin;
	if (begin < thmqi_spans_floor(&sh->spans)) { /* a message that is done */
		thmqi_spans_done(&sh->spans, begin, end);
		soil(sh);
		return;
	}
	thmqi_spans_seize(&sh->spans, begin, end, &sub->lease, due, &sub->part_deliveries);
	if (end > had)
		thmqi_spans_take(&sh->spans, end, &sub->lease, due);
	sub->part_next = begin;
	sub->part_end = end;
	sh->out_ns = THMQI_MIN(sh->out_ns, due);
}

/* It was never ended, or is gone: nobody will have it. What comes behind is others'. */
static void end_parts(struct sub *sub)
{
	struct shared *sh = sub->shared;
	const struct span_part rest = {
		.holder = &sub->lease, .from = sub->part_next, .to = sub->part_end};

	thmqi_spans_done(&sh->spans, sub->part_begin, sub->part_next);
	if (thmqi_spans_back(&sh->spans, &rest, 0, true))
		sh->back_ns = 0;
	sub->part_next = sub->part_end;
	soil(sh);
}

/* The run of @k->free was read at the next part. */
static void use_part(struct sub *sub, struct consumer *k, struct thmqi_frame *f)
{
	const struct thmq_run_header *run = k->free->view.run.header;
	struct shared *sh = sub->shared;
	const struct span_part all = {
		.holder = &sub->lease, .from = sub->part_begin, .to = sub->part_end};
	struct thmqi_part part;

	sh->stands = run->base_offset + run->span;
	if (run->base_offset != sub->part_next || !is_part(run, &part) ||
	    part.part != sub->part_next - sub->part_begin) {
		sh->stands = UINT64_MAX;
		thmq_log_view_release(sub->partition->log, &k->free->view);
		end_parts(sub);
		return;
	}
	thmqi_spans_extend(&sh->spans, &all,
			   now_of(sh) + sub->lease_ns); /* its time begins with the last */
	sub->part_next++;
	send_run(sub, k, f, k->free, run->base_offset, run->base_offset + 1, sub->part_deliveries);
}

/* A run was read. Return: messages handed out, 0: it has none of those that are wanted. */
static uint32_t use(struct sub *sub, struct consumer *k, struct thmqi_frame *f,
		    const struct pick *at)
{
	struct shared *sh = sub->shared;
	struct delivery *d = k->free;
	const struct thmq_run_header *run = d->view.run.header;
	uint64_t end = run->base_offset + run->span, from = THMQI_MAX(at->from, run->base_offset),
		 to;
	struct pick rest = *at;
	struct thmqi_part part;
	struct sifted is;
	uint32_t looked = 0;

	sh->stands = end;
	if (from > at->from) { /* those before it are gone, or never were */
		give_up(sh, at, from);
		if (at->span == UINT32_MAX)
			rest.from = from;
		else /* the spans have changed: once more */
			from = end;
	}
	if (from < end && (!has_messages(run) || (run->transaction && thmqi_txn_hides(sub->conn->shard, run)))) {
		give_up(sh, &rest, end);
		from = end;
	}
	if (from >= end) {
		sh->stands = UINT64_MAX;
		thmq_log_view_release(sub->partition->log, &d->view);
		return 0;
	}
	if (thmqi_unlikely(is_part(run, &part))) {
		begin_parts(sub, run, &part);
		sh->stands = UINT64_MAX;
		thmq_log_view_release(sub->partition->log, &d->view);
		return 0;
	}
	if (thmqi_unlikely(sub->sift && at->span == UINT32_MAX)) {
		bool has = thmqi_sift_run(sub, run, from, &is);

		looked = is.looked / SIFT_COST;
		if (!has || is.first > from)
			give_up(sh, &rest, has ? is.first : end);
		if (!has) {
			thmq_log_view_release(sub->partition->log, &d->view);
			return looked;
		}
		rest.from = from = is.first;
	}
	to = THMQI_MIN(end, at->to);
	to = THMQI_MIN(to, from + (k->credit_count - k->out_count));
	if (at->span == UINT32_MAX)
		to = THMQI_MIN(to, from + (sh->open_max - sh->spans.open));
	if (to < end)
		sh->stands = UINT64_MAX;
	hand_over(sub, k, f, &rest, from, to);
	return (uint32_t)(to - from) + looked;
}

/* The time that it begins at. False: not yet. */
static bool find_begin(struct shared *sh)
{
	struct partition *p = partition_of(sh);
	uint64_t offset;
	int rc = thmq_log_reader_find_time(sh->reader, sh->time_ns, &offset);

	if (rc == 0)
		return false;
	sh->finding = false;
	sh->stands = UINT64_MAX;
	if (rc == 1 || rc == -ENOENT)
		thmqi_spans_skip(&sh->spans, rc == 1 ? THMQI_MIN(offset, p->visible) : p->visible);
	soil(sh);
	return true;
}

/* What it wants was dropped. */
static void skip_dropped(struct sub *sub, const struct pick *at)
{
	struct shared *sh = sub->shared;
	struct partition *p = sub->partition;
	uint64_t begin, end;
	struct thmqi_frame f = {.type = THMQI_FRAME_GAP,
				.stream = sub->stream,
				.partition = p->id,
				.generation = sub->generation};

	sh->stands = UINT64_MAX;
	if (thmq_log_bounds(p->log, p->id, &begin, &end) != 0)
		begin = p->visible;
	begin = THMQI_MAX(begin, at->from + 1); /* it must come to an end, whatever the log says */
	f.arg[0] = at->from;
	f.seq = THMQI_MIN(begin, at->to);
	give_up(sh, at, begin);
	if (at->from < p->hole_begin || f.seq > p->hole_end)
		thmqi_conn_send(sub->conn, &f);
}

static bool has_room(const struct consumer *k)
{
	return thmqi_consumer_has_credit(k) && k->out_count < k->credit_count;
}

/* It has acknowledged, or lost, what it had. */
static void feed(struct consumer *k)
{
	struct thmqi_list *it;

	if (!k->starved || !has_room(k))
		return;
	k->starved = false;
	thmqi_list_each(it, &k->subs)
		thmqi_sub_ready(thmqi_container(it, struct sub, consumer_link));
}

static void feed_all(struct shared *sh)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &partition_of(sh)->subs)
	{
		const struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->shared == sh)
			feed(thmqi_sub_consumer(sub));
	}
}

uint32_t thmqi_shared_pump(struct sub *sub, uint32_t budget)
{
	struct consumer *k = thmqi_sub_consumer(sub);
	struct shared *sh = sub->shared;
	uint32_t done = 0, messages = 0;
	struct thmqi_frame *f;
	struct pick at;
	int rc;

	if (sh->finding && !find_begin(sh))
		return 0;
	for (;;) {
		bool in_parts = sub->part_next < sub->part_end;

		if (in_parts)
			at = (struct pick){.from = sub->part_next, .to = sub->part_end};
		else if (!pick(sh, &at))
			break;
		if (in_parts ? !thmqi_consumer_has_credit(k) : !has_room(k)) {
			k->starved = !in_parts;
			break;
		}
		if (thmqi_unlikely(sub->limited) && !in_parts && !thmqi_sub_may(sub)) {
			thmqi_sub_later(sub);
			break;
		}
		if (done >= budget || messages >= TURN_MESSAGES) {
			thmqi_sub_ready(sub); /* others first */
			break;
		}
		f = thmqi_conn_claim(sub->conn);
		if (!f) {
			thmqi_sub_ready(sub); /* again when the client has read */
			sub->conn->shard->stuck = true;
			break;
		}
		if (sh->stands != at.from)
			thmq_log_reader_seek(sh->reader, at.from);
		sh->stands = at.from;
		rc = thmq_log_read(sh->reader, sub->partition->visible, &k->free->view);
		if (rc == 1 && in_parts) {
			use_part(sub, k, f);
		} else if (rc == 1) {
			messages += use(sub, k, f, &at);
		} else if (rc == -THMQ_EOFFSETRANGE && in_parts) {
			sh->stands = UINT64_MAX;
			end_parts(sub);
		} else if (rc == -THMQ_EOFFSETRANGE) {
			skip_dropped(sub, &at);
		} else if (rc) {
			thmqi_sub_trouble(sub, at.from, rc);
			break;
		} else {
			break; /* the reader calls when it has read */
		}
		done++;
	}
	arm(sh);
	return done;
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
		soil(sh);
	} else { /* it was done before, and is stored */
		sub->settle_told = sub->settle_taken;
		tell_settled(sub, sub->settle_taken, 0);
	}
	if (was_full && sh->spans.open < sh->open_max)
		wake(sh);
	if (n != had - sub->lease.out) /* some of it another had by now */
		feed_all(sh);
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
			arm(sh);
		}
		break;
	default:
		break;
	}
	feed(thmqi_sub_consumer(sub));
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
			soil(g->shared);
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
	if (thmqi_timer_is_running(&sh->timer))
		thmqi_timer_stop(sh->shard->core, &sh->timer);
}
