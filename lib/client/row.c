/* SPDX-License-Identifier: Apache-2.0 */
/*
 * row.c - messages of one length that lie side by side: claimed by one call, handed over by one. Where client and broker share memory they are
 * one frame, or a number that grows in the last one (series.h), whatever their number; elsewhere each has its own. Nothing here allocates,
 * locks, reads the clock or enters the kernel (but to wake a core that sleeps). Knows of a message its payload and nothing else.
 */
#include "place.h"
#include "series.h"

#define ROW_SPENT UINT64_MAX

_Static_assert(sizeof(struct thmq_row) == 56 && offsetof(struct thmq_row, internal) == 24, "public layout");
_Static_assert(THMQ_ROW_MAX <= THMQI_SERIES_MAX, "one frame has all of them");

/* row->internal: [0] number of the first slot, [1] address of the first byte, [2] shard | slots << 32. */

/* What they have beside their payload would lie between them. */
static bool is_plain(const struct thmq_message_opts *o)
{
	return !o || !((o->flags & ~THMQ_MESSAGE_PARTITION) || o->key || o->key_len || o->tag || o->header_count || o->encoding || o->txn ||
		       (o->ttl_ns | (uint64_t)o->time_ns | (uint64_t)o->deliver_at_ns | o->delay_ns));
}

static void promise_events(struct thmq_producer *p, uint32_t count)
{
	if (p->report) {
		p->reports_due += count;
		p->session->reports_due += count;
	}
}

/* More than can be out at a time: another try would do no better. */
static bool never_fits(const struct thmq_producer *p, const struct client_link *l, uint64_t bytes, uint32_t count, uint32_t slots)
{
	return bytes > l->wire->area_bytes || count > p->sent_mask || slots > l->slot_mask ||
	       (!l->wire->takes_series && count > l->wire->up.mask) || (p->report && count > p->session->event_mask);
}

int thmqi_client_claim_row(struct thmq_producer *p, const struct thmq_message_opts *opts, uint32_t len, uint32_t count,
			   struct thmq_row *ret_row)
{
	const uint32_t step = (uint32_t)thmqi_series_step(len), slots = p->id ? count : 1; /* what may be sent again has one each */
	struct thmq_session *s = p->session;
	uint32_t level, index, i;
	struct client_link *l;
	struct slot *slot;
	uint64_t at;
	int rc;

	if (thmqi_unlikely(s->dead || p->error))
		return s->dead ? s->dead : p->error;
	if (!count || count > THMQ_ROW_MAX || !is_plain(opts))
		return -EINVAL;
	rc = thmqi_place_way(p, opts, len, &level, &index, &l);
	if (thmqi_unlikely(rc))
		return rc;
	if (len > l->len_max_volatile || never_fits(p, l, (uint64_t)step * count, count, slots))
		return -EMSGSIZE;
	at = thmqi_place_room(p, l, step * count, count, slots);
	if (thmqi_unlikely(at == UINT64_MAX))
		return s->dead ? s->dead : -EAGAIN;
	ret_row->internal[0] = l->slot_head;
	for (i = 0; i < slots; i++) {
		slot = &l->slots[l->slot_head++ & l->slot_mask];
		slot->end = at + (slots == 1 ? (uint64_t)step * count : (uint64_t)step * (i + 1));
		slot->stream = (uint16_t)p->stream;
		slot->level = (uint8_t)level;
		slot->state = SLOT_CLAIMED;
		slot->life = l->life;
	}
	l->area_head = at + step * count;
	ret_row->data = l->wire->area + (at & (l->wire->area_bytes - 1));
	ret_row->len = len;
	ret_row->step = step;
	ret_row->count = count;
	ret_row->partition = index;
	ret_row->internal[1] = (uint64_t)(uintptr_t)ret_row->data;
	ret_row->internal[2] = l->shard | (uint64_t)slots << 32;
	ret_row->internal[3] = 0;
	p->open_claims += count;
	promise_events(p, count);
	return 0;
}

/* Its first message, if it is a row of @p that is neither committed nor aborted. */
static bool place_of(struct thmq_producer *p, const struct thmq_row *row, struct place *ret)
{
	uint32_t shard = (uint32_t)row->internal[2], number = (uint32_t)row->internal[0];
	struct client_link *l = shard < p->session->shard_count ? p->session->links[shard] : NULL;

	if (!l || row->internal[0] == ROW_SPENT || number - l->slot_tail >= l->slot_head - l->slot_tail)
		return false;
	*ret = (struct place){.link = l,
			      .slot = &l->slots[number & l->slot_mask],
			      .first = (uint8_t *)(uintptr_t)row->internal[1],
			      .index = row->partition,
			      .len = row->len};
	return ret->slot->state == SLOT_CLAIMED && ret->slot->stream == p->stream;
}

/* Those from @count on are not sent. */
static void end_claims(struct thmq_producer *p, struct thmq_row *row, struct client_link *l, uint32_t count)
{
	uint32_t slots = (uint32_t)(row->internal[2] >> 32), i;

	for (i = slots == 1 && count ? 1 : count; i < slots; i++) {
		struct slot *slot = &l->slots[(row->internal[0] + i) & l->slot_mask];

		if (thmqi_unlikely(slot->life != l->life))
			thmqi_resume_claim_end(l, slot->life);
		slot->state = SLOT_FREE;
	}
	p->open_claims -= row->count;
	for (i = count; i < row->count && p->report; i++)
		thmqi_producer_promise_kept(p);
	row->internal[0] = ROW_SPENT;
}

int thmqi_client_abort_row(struct thmq_producer *p, struct thmq_row *row)
{
	struct place m;

	if (!place_of(p, row, &m))
		return -EINVAL;
	end_claims(p, row, m.link, 0);
	thmqi_place_reclaim(m.link);
	return 0;
}

/* Each by a frame of its own; there is room for all of them. Return: the last one's sequence. */
static __attribute__((noinline)) int64_t push_each(struct thmq_producer *p, const struct thmq_row *row, struct place *m, uint32_t count)
{
	const bool many = row->internal[2] >> 32 > 1;
	struct client_link *l = m->link;
	uint8_t *first = m->first;
	int64_t seq = -EAGAIN;
	uint32_t i;

	for (i = 0; i < count; i++) {
		m->slot = &l->slots[(row->internal[0] + (many ? i : 0)) & l->slot_mask];
		m->first = first + (size_t)i * row->step;
		if (thmqi_unlikely(m->slot->life != l->life))
			m->first = thmqi_resume_claim(l, m->slot, m->first, m->len);
		seq = thmqi_place_push(p, m);
	}
	return seq;
}

/* All of them by one frame, or by the last one if it is of messages like these. Return: the last one's sequence; -EAGAIN the ring is full. */
static int64_t push_series(struct thmq_producer *p, const struct place *m, uint32_t step, uint32_t count)
{
	const uint32_t partition = p->partitions[m->index].partition;
	struct client_link *l = m->link;
	struct series *s = &l->series;
	struct thmqi_frame *f;

	if (thmqi_series_goes_on(l, p, partition, m->slot->level, m->first, m->len) && s->frame && s->more + count < THMQI_SERIES_MAX) {
		s->more += count;
		s->next += (size_t)step * count;
		s->seq += count;
		thmqi_series_tell(s->frame, s->more);
		return (int64_t)(p->last_seq += count);
	}
	f = thmqi_frame_claim(&l->wire->up, 0);
	if (thmqi_unlikely(!f))
		return -EAGAIN;
	f->type = THMQI_FRAME_PRODUCE;
	f->flags = m->slot->level;
	f->key_len = 0;
	f->stream = p->stream;
	f->partition = partition;
	f->len = m->len;
	f->extra = THMQI_PRODUCE_SERIES | (p->report ? THMQI_PRODUCE_REPORT : 0);
	f->seq = p->last_seq + 1;
	f->data = (uint64_t)(uintptr_t)m->first;
	f->arg[0] = count - 1;
	f->arg[1] = 0;
	f->generation = p->epoch;
	f->tag_hash = 0;
	thmqi_frame_commit(&l->wire->up);
	thmqi_series_end(l);
	p->last_seq += count;
	*s = (struct series){.frame = f,
			     .next = m->first + (size_t)step * count,
			     .seq = p->last_seq + 1,
			     .life = l->life,
			     .stream = p->stream,
			     .partition = partition,
			     .len = m->len,
			     .more = count - 1,
			     .level = m->slot->level};
	return (int64_t)p->last_seq;
}

int64_t thmqi_client_commit_row(struct thmq_producer *p, struct thmq_row *row, uint32_t count)
{
	struct thmqi_frame_ring *up;
	struct place m;
	bool in_series;
	int64_t seq;
	int rc;

	if (thmqi_unlikely(!place_of(p, row, &m) || !count || count > row->count))
		return -EINVAL;
	rc = thmqi_place_may_go(p->session, m.link);
	if (thmqi_unlikely(rc)) {
		if (rc != -EAGAIN)
			thmqi_client_abort_row(p, row);
		return rc;
	}
	in_series = m.link->wire->takes_series && !p->id;
	up = &m.link->wire->up;
	if (!in_series && !thmqi_frame_claim(up, count - 1)) {
		thmqi_session_process(p->session);
		return -EAGAIN;
	}
	seq = in_series ? push_series(p, &m, row->step, count) : push_each(p, row, &m, count);
	if (thmqi_unlikely(seq < 0)) {
		thmqi_session_process(p->session);
		return seq;
	}
	if (in_series) {
		if (thmqi_unlikely(m.link->unreleased && m.link->wire->packs))
			thmqi_releases_along(m.link);
		thmqi_link_kick_broker(m.link->wire);
		m.slot->seq = (uint64_t)seq;
		m.slot->state = SLOT_COMMITTED;
		thmqi_place_note(p, (uint64_t)seq, count, m.link->shard, m.slot->level);
	}
	if (thmqi_unlikely(count < row->count) && row->internal[2] >> 32 == 1)
		thmqi_place_give_back(m.link, m.slot, (uint8_t *)row->data + (size_t)row->step * count);
	end_claims(p, row, m.link, count);
	return seq;
}
