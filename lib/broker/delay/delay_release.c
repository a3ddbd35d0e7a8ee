/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay_release.c - messages whose time comes go to the partitions that they were sent to. A little before that they leave the heap for a slot, in the
 * order of their times, and are read from the log; when it is time it is said that they are over, and they are appended, several to a run
 * where they follow each other. Nothing here waits: what cannot be done now is done later, in the same order.
 */
#include "commitlog/limit.h"
#include "delay.h"
#include "wire/run.h"

#define NEAR_OFFSETS 64u  /* so far ahead of where a reader stands is probably what it has read */
#define FAR_OFFSETS 1024u /* and so far, if it has read those before one behind the other */
#define LOOK_NS 1000000000ull /* the clock is looked at, should it have been set */
#define RETRY_NS 1000000u
#define FAILED_NS 20000000u
#define TIME_SPAN_MAX 4294000000000ull /* a run's table keeps times as 32-bit microseconds */

/* ------------------------------------------------------------------------ slots */

struct slot *thmqi_delay_slot(struct delay *d, uint64_t offset)
{
	uint32_t i;

	for (i = 0; i < d->count; i++)
		if (d->order[i]->entry.offset == offset)
			return d->order[i];
	return NULL;
}

static void forget_read(struct delay *d, const struct slot *slot)
{
	uint32_t i;

	for (i = 0; i < DELAY_READERS; i++)
		if (d->readers[i].slot == slot) {
			d->readers[i].slot = NULL;
			d->readers[i].next = UINT64_MAX;
		}
}

static void free_at(struct delay *d, uint32_t i)
{
	struct slot *slot = d->order[i];

	if (slot->state == SLOT_READY)
		thmq_log_view_release(d->shard->log, &slot->view);
	if (slot->state == SLOT_READING)
		forget_read(d, slot);
	d->fresh -= slot->state == SLOT_NEW;
	slot->state = SLOT_GONE;
	d->said -= slot->said;
	d->count--;
	memmove(d->order + i, d->order + i + 1, (d->count - i) * sizeof(d->order[0]));
	d->order[d->count] = slot;
}

void thmqi_delay_slot_free(struct delay *d, struct slot *slot)
{
	uint32_t i;

	for (i = 0; i < d->count; i++)
		if (d->order[i] == slot) {
			free_at(d, i);
			return;
		}
}

/* Room at @i. */
static struct slot *insert_at(struct delay *d, uint32_t i)
{
	struct slot *slot = d->order[d->count];

	memmove(d->order + i + 1, d->order + i, (d->count - i) * sizeof(d->order[0]));
	d->order[i] = slot;
	*slot = (struct slot){.state = SLOT_NEW};
	d->count++;
	d->fresh++;
	return slot;
}

bool thmqi_delay_redo(struct delay *d, uint64_t number, uint64_t offset)
{
	struct slot *slot;

	if (d->count == DELAY_SLOTS || thmqi_waiting_hold(&d->waiting, offset) != 0)
		return false;
	slot = insert_at(d, d->said);
	slot->entry.offset = offset;
	slot->number = number;
	slot->said = true;
	d->said++;
	return true;
}

/* From the heap, as far as their time is near. One that came late goes before those that it is due before. */
static void load(struct delay *d, uint64_t wall)
{
	struct waiting_entry e;
	struct slot *last;
	uint32_t i;

	while (thmqi_waiting_first(&d->waiting, &e) == 1 && e.due_ns <= wall + DELAY_AHEAD_NS) {
		if (d->count == DELAY_SLOTS) {
			last = d->order[d->count - 1];
			if (last->said || !thmqi_waiting_is_before(&e, &last->entry))
				return;
		}
		thmqi_waiting_take(&d->waiting);
		if (d->count == DELAY_SLOTS) {
			last = d->order[d->count - 1];
			if (thmqi_waiting_has(&d->waiting, last->entry.offset))
				thmqi_waiting_put(&d->waiting, last->entry.due_ns, last->entry.offset);
			free_at(d, d->count - 1);
		}
		for (i = d->count; i > d->said && thmqi_waiting_is_before(&e, &d->order[i - 1]->entry); i--)
			;
		last = insert_at(d, i);
		last->entry = e;
		last->counted = true;
	}
}

/* ------------------------------------------------------------------------- read */

static void on_ready(void *ctx)
{
	((struct delay_reader *)ctx)->stir = true;
}

static void settle_read(struct delay *d, struct slot *slot, enum slot_state state)
{
	d->fresh -= slot->state == SLOT_NEW;
	slot->state = (uint8_t)state;
}

/* @slot is sought by @r. */
static void read_one(struct delay *d, struct delay_reader *r, struct slot *slot)
{
	int rc = thmq_log_read(r->reader, slot->entry.offset + 1, &slot->view);

	r->slot = NULL;
	r->stir = false;
	if (rc == 0 && thmqi_log_reader_waits(r->reader)) {
		settle_read(d, slot, SLOT_READING);
		r->slot = slot;
		return;
	}
	if (rc != 1) {
		r->next = UINT64_MAX;
		settle_read(d, slot, rc == 0 || rc == -THMQ_EOFFSETRANGE ? SLOT_GONE : SLOT_BROKEN);
		return;
	}
	r->next = slot->view.run.header->base_offset + slot->view.run.header->span;
	r->streak++;
	slot->is = thmqi_delay_is(&slot->view.run, slot->entry.offset);
	if (!slot->is)
		thmq_log_view_release(d->shard->log, &slot->view);
	settle_read(d, slot, slot->is ? SLOT_READY : SLOT_BROKEN);
}

/* One that is free: best, which stands there or nearly so. NULL: none is */
static struct delay_reader *reader_for(struct delay *d, uint64_t offset)
{
	struct delay_reader *best = NULL;
	uint32_t i;

	for (i = 0; i < DELAY_READERS; i++) {
		struct delay_reader *r = &d->readers[i];

		if (r->slot)
			continue;
		if (r->reader && offset - r->next < NEAR_OFFSETS)
			return r;
		if (!best || (r->reader && !best->reader))
			best = r;
	}
	return best;
}

static bool reader_open(struct delay *d, struct delay_reader *r)
{
	const struct partition *p = thmqi_delay_partition(d, DELAY_PARTITION);

	r->next = UINT64_MAX;
	return r->reader || thmq_log_reader_open(p->log, DELAY_PARTITION, on_ready, r, &r->reader) == 0;
}

/* Is what is being read for another slot going to have this one, too? Else several read the same. */
static bool is_left(const struct delay *d, struct slot *slot)
{
	uint32_t i;

	if (slot->behind && slot->behind->state == SLOT_READING && slot->entry.offset - slot->behind->entry.offset < FAR_OFFSETS)
		return true;
	for (slot->behind = NULL, i = 0; i < DELAY_READERS && !slot->behind; i++) {
		const struct delay_reader *r = &d->readers[i];

		if (r->slot && slot->entry.offset - r->slot->entry.offset < (r->streak < NEAR_OFFSETS ? NEAR_OFFSETS : FAR_OFFSETS))
			slot->behind = r->slot;
	}
	return slot->behind != NULL;
}

/*
 * The first one finds no memory: to be read, or to be appended. Those behind it, which wait for it, have much: each keeps all that was read with it.
 * One that was not begun with waits for what another one reads, or for a reader.
 */
static bool is_starved(const struct delay *d)
{
	const struct slot *first = d->count ? d->order[0] : NULL;
	uint32_t i;

	if (!first || first->state > SLOT_READING)
		return first && d->refused_ns && d->shard->core->now_ns - d->refused_ns >= THMQI_STARVED_NS;
	for (i = 0; i < DELAY_READERS; i++)
		if (d->readers[i].slot && (d->readers[i].slot == first || first->state == SLOT_NEW) &&
		    thmqi_log_reader_starves(d->readers[i].reader))
			return true;
	return false;
}

/* They are read again, later. */
static void give_way(struct delay *d)
{
	uint32_t i;

	for (i = 1; i < d->count; i++) {
		struct slot *slot = d->order[i];

		if (slot->state != SLOT_READY)
			continue;
		thmq_log_view_release(d->shard->log, &slot->view);
		slot->is = NULL;
		slot->behind = NULL;
		slot->state = SLOT_NEW;
		d->fresh++;
	}
}

static void read_some(struct delay *d)
{
	struct delay_reader *r;
	struct slot *slot;
	uint32_t i;

	for (i = 0; i < DELAY_READERS; i++)
		if (d->readers[i].slot && d->readers[i].stir)
			read_one(d, &d->readers[i], d->readers[i].slot);
	if (thmqi_unlikely(is_starved(d))) {
		give_way(d);
		return;
	}
	for (i = 0; i < d->count && d->fresh; i++) {
		slot = d->order[i];
		if (slot->state != SLOT_NEW || is_left(d, slot))
			continue;
		r = reader_for(d, slot->entry.offset);
		if (!r || (!r->reader && !reader_open(d, r)))
			return;
		if (r->next != slot->entry.offset) {
			thmq_log_reader_seek(r->reader, slot->entry.offset);
			r->streak = 0;
		}
		read_one(d, r, slot);
	}
}

/* ------------------------------------------------------------------------- send */

/* It is where it was to go, or will never be. */
static void over(struct delay *d, struct slot *slot)
{
	if (slot->counted && slot->state == SLOT_READY)
		thmqi_delay_count_one(d, slot->is->partition, -1);
	thmqi_waiting_drop(&d->waiting, slot->entry.offset, false);
	thmqi_delay_slot_free(d, slot);
}

enum there { THERE, DELETED, UNKNOWN_YET };

/* With copies meta may tell of a partition later than messages for it are known. */
static enum there find(const struct delay *d, uint32_t id, struct partition **ret)
{
	struct shard *s = d->shard;
	struct partition *p = thmqi_shard_partition_asked(s, id);

	if (p && (p->dead || p->is_volatile))
		return DELETED;
	if (p && (p->named || !s->lead)) {
		*ret = p;
		return THERE;
	}
	return !s->lead || (atomic_load(&s->broker->leads) && !atomic_load(&s->broker->carrying)) ? DELETED
												 : UNKNOWN_YET;
}

static bool is_due(const struct slot *slot, uint64_t wall)
{
	return slot->said || slot->entry.due_ns <= wall;
}

static int64_t time_of(const struct delay *d, const struct slot *slot)
{
	return slot->is->flags & DELAYED_TIMED ? slot->is->time_ns : (int64_t)d->shard->core->wall_ns;
}

/* What one run is made of. */
struct gathered {
	uint32_t count, len;
	int64_t first_time, last_time;
	uint64_t tag_filter;
	uint16_t key_lens; /* or-ed */
};

/* From the first slot on, which is ready and goes to @p, those that go together, @count_max at most. */
static void gather(const struct delay *d, const struct partition *p, uint64_t wall, uint32_t count_max, struct gathered *g)
{
	uint32_t most = d->shard->run_max - (uint32_t)sizeof(struct thmq_run_header), need;
	const struct slot *first = d->order[0], *slot;
	int64_t time, lo, hi;

	*g = (struct gathered){.first_time = INT64_MAX, .last_time = INT64_MIN};
	for (; g->count < THMQI_MIN(d->count, count_max); g->count++) {
		slot = d->order[g->count];
		if (slot->state != SLOT_READY || slot->said != first->said || !is_due(slot, wall) ||
		    slot->is->partition != p->id || (slot->said && slot->number != first->number + g->count))
			break;
		time = time_of(d, slot);
		lo = THMQI_MIN(g->first_time, time);
		hi = THMQI_MAX(g->last_time, time);
		need = (uint32_t)sizeof(struct thmq_record) + THMQI_ALIGN_UP(slot->is->size, 8u);
		if (g->count && (need > most - g->len || (uint64_t)hi - (uint64_t)lo > TIME_SPAN_MAX))
			break;
		g->first_time = lo;
		g->last_time = hi;
		g->len += need;
		g->key_lens |= slot->is->key_len;
		if (slot->is->tag_hash)
			g->tag_filter |= 1ull << (slot->is->tag_hash % 64);
	}
}

/* The first @count are over, and it is said so before it is done. */
static int say(struct delay *d, uint32_t count)
{
	uint64_t says[DELAY_SLOTS], number = 0;
	uint32_t i;
	int rc;

	says[0] = 0;
	for (i = 0; i < count; i++)
		says[i] = d->order[i]->entry.offset;
	rc = thmqi_delay_say(d, says, count, &number);
	for (i = 0; i < count && !rc; i++) {
		d->order[i]->number = number + i;
		d->order[i]->said = true;
	}
	d->said += rc ? 0 : count;
	return rc;
}

static void fill(const struct delay *d, const struct partition *p, const struct gathered *g, struct thmq_run_header *run)
{
	struct thmq_record *record = (struct thmq_record *)(run + 1);
	uint8_t *body = (uint8_t *)(record + g->count);
	uint32_t i;

	*run = (struct thmq_run_header){.len = g->len,
					.base_offset = p->next_offset,
					.partition = p->id,
					.count = g->count,
					.span = g->count,
					.encoding = THMQ_RUN_RECORDS,
					.flags = g->key_lens ? THMQ_RUN_KEYED : 0,
					.producer_id = DELAY_PRODUCER,
					.first_sequence = d->order[0]->number + 1,
					.sequence_span = g->count - 1,
					.first_time_ns = g->first_time,
					.last_time_ns = g->last_time,
					.tag_filter = g->tag_filter};
	for (i = 0; i < g->count; i++, record++) {
		const struct delayed *is = d->order[i]->is;
		uint64_t delta = (uint64_t)time_of(d, d->order[i]) - (uint64_t)g->first_time;

		*record = (struct thmq_record){.size = is->size,
					       .tag_hash = is->tag_hash,
					       .time_delta_us = (uint32_t)(delta / 1000),
					       .key_len = is->key_len,
					       .tag_len = is->tag_len,
					       .flags = is->record_flags};
		memcpy(body, is + 1, is->size);
		memset(body + is->size, 0, THMQI_ALIGN_UP(is->size, 8u) - is->size);
		body += THMQI_ALIGN_UP(is->size, 8u);
	}
}

static void show(struct shard *s, struct partition *p)
{
	struct thmqi_list *it;

	if (p->visible_at > THMQ_DURABILITY_MEMORY)
		return;
	if (thmqi_unlikely(p->holds)) {
		thmqi_partition_show(p, thmqi_txn_hold(s, p, p->next_offset));
		return;
	}
	p->visible = p->next_offset;
	thmqi_list_each(it, &p->subs)
		thmqi_sub_ready(thmqi_container(it, struct sub, partition_link));
}

static int append(struct delay *d, struct partition *p, const struct gathered *g)
{
	struct shard *s = d->shard;
	struct pending *e = thmqi_shard_pending_room(s);
	uint32_t n = g->count, level = THMQI_MIN(THMQI_MAX((uint32_t)p->visible_at, (uint32_t)THMQ_DURABILITY_MEMORY),
						 (uint32_t)THMQ_DURABILITY_DURABLE);
	struct thmq_run_header *run;
	uint64_t index;
	int rc = e ? thmq_log_append(p->log, (uint32_t)sizeof(*run) + g->len, &run, &index) : -ENOBUFS;

	s->blocked |= rc == -EAGAIN;
	if (rc)
		return rc;
	fill(d, p, g, run);
	rc = thmq_log_append_end(p->log, run, level);
	if (rc)
		return rc;
	*e = (struct pending){.index = index,
			      .partition = p,
			      .base_offset = p->next_offset,
			      .end_offset = p->next_offset + n,
			      .count = n};
	s->pending_tail++;
	d->released = s->pending_tail;
	s->delay_mark = d->order[n - 1]->number + 1;
	p->next_offset += n;
	p->jumped = false;
	show(s, p);
	if (thmqi_flush_is_due(s, p)) /* of a topic that shows what is in memory nobody else waits for it */
		thmqi_shard_flush(s, p);
	while (n--)
		over(d, d->order[0]);
	return 0;
}

/* Others have it, or too much of it is on its way. */
static bool is_held_up(struct delay *d, const struct partition *p)
{
	struct shard *s = d->shard;
	uint64_t index;

	if (p->parting || s->blocked || s->pending_tail - s->pending_head > PENDING_COUNT - 8)
		return true;
	if (p->next_offset - p->durable <= OFFSET_JUMP - RUN_RECORDS_MAX)
		return false;
	thmq_log_flush(p->log, &index);
	return true;
}

/* What waits keeps its segment; a log that takes nothing more takes it all the same, as far as there is room for that. */
static int move(struct delay *d, struct partition *p, const struct gathered *g)
{
	uint64_t lent = thmqi_log_lend(d->shard->log);
	int rc = d->order[0]->said ? 0 : say(d, g->count);

	if (!rc)
		rc = append(d, p, g);
	thmqi_log_lend_end(d->shard->log, lent);
	return rc;
}

/* Of the first slot, which was read. Return: messages sent, 0: later */
static uint32_t send_some(struct delay *d, uint64_t wall)
{
	struct slot *first = d->order[0];
	struct shard *s = d->shard;
	struct partition *p = NULL;
	struct gathered g;
	int rc;

	switch (find(d, first->is->partition, &p)) {
	case DELETED:
		over(d, first);
		return 1;
	case UNKNOWN_YET:
		return 0;
	default:
		break;
	}
	if (is_held_up(d, p))
		return 0;
	gather(d, p, wall, DELAY_SLOTS, &g);
	rc = move(d, p, &g);
	if (thmqi_unlikely(thmqi_is_full(rc)) && g.count > 1) { /* there may be room for one */
		gather(d, p, wall, 1, &g);
		rc = move(d, p, &g);
	}
	if (!rc) {
		d->refused_ns = 0;
		return g.count;
	}
	if (rc != -EAGAIN && rc != -ENOBUFS)
		d->again_ns = s->core->now_ns + FAILED_NS;
	else if (!d->refused_ns)
		d->refused_ns = s->core->now_ns;
	return 0;
}

static uint32_t send_all(struct delay *d, uint64_t wall)
{
	uint32_t done = 0, n;
	struct slot *slot;

	while (d->count && done < DELAY_SLOTS) {
		slot = d->order[0];
		if (slot->state <= SLOT_READING || !is_due(slot, wall))
			break;
		if (slot->state == SLOT_BROKEN) { /* it stays, until somebody else can read it */
			d->lost++;
			thmqi_delay_slot_free(d, slot);
			continue;
		}
		if (slot->state == SLOT_GONE) { /* its segment had to go */
			over(d, slot);
			continue;
		}
		n = send_some(d, wall);
		if (!n)
			break;
		done += n;
	}
	return done;
}

/* ------------------------------------------------------------------------- time */

/* When something is to be done, by the clock; UINT64_MAX: nothing waits. What is being read, or held up, is looked at again soon. */
static uint64_t next_ns(struct delay *d, uint64_t wall)
{
	uint64_t next = UINT64_MAX;
	struct waiting_entry e;
	int rc = thmqi_waiting_first(&d->waiting, &e);

	if (d->count)
		next = is_due(d->order[0], wall) ? 0 : d->order[0]->entry.due_ns;
	if (rc == -EAGAIN)
		next = 0;
	else if (rc == 1 && d->count < DELAY_SLOTS)
		next = THMQI_MIN(next, e.due_ns - THMQI_MIN(e.due_ns, DELAY_AHEAD_NS));
	if (d->fresh)
		next = 0;
	return next;
}

static void arm(struct delay *d, uint64_t wall)
{
	struct thmq_core *core = d->shard->core;
	uint64_t at = core->now_ns;

	d->quiet_ns = next_ns(d, wall);
	if (d->quiet_ns == UINT64_MAX) {
		if (thmqi_timer_is_running(&d->timer))
			thmqi_timer_stop(core, &d->timer);
		return;
	}
	at += d->quiet_ns > wall ? THMQI_MIN(d->quiet_ns - wall, LOOK_NS) : RETRY_NS;
	if (!thmqi_timer_is_running(&d->timer) || d->timer.deadline_ns > at)
		thmqi_timer_start(core, &d->timer, at);
}

uint32_t thmqi_delay_release(struct delay *d)
{
	uint64_t wall = d->shard->core->wall_ns;
	uint32_t done;

	if (d->quiet_ns > wall && (d->quiet_ns == UINT64_MAX || thmqi_timer_is_running(&d->timer)))
		return 0; /* a cancel, or what is left of some, brings it here */
	if (d->again_ns > d->shard->core->now_ns) {
		if (!thmqi_timer_is_running(&d->timer))
			thmqi_timer_start(d->shard->core, &d->timer, d->again_ns);
		return 0;
	}
	load(d, wall);
	read_some(d);
	done = send_all(d, wall);
	arm(d, wall);
	return done;
}

void thmqi_delay_release_stop(struct delay *d)
{
	uint32_t i;

	while (d->count)
		free_at(d, 0);
	for (i = 0; i < DELAY_READERS; i++) {
		thmq_log_reader_close(d->readers[i].reader);
		d->readers[i] = (struct delay_reader){.delay = d};
	}
}
