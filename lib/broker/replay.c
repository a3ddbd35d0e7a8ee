/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - a shard's state from what its log tells when it is opened, or follows another copy: partitions, producers, groups, and what of
 * it may have been lost. The slices of state are in internal.h and doc/format.md.
 */
#include "txn/txn.h"
#include "wire/run.h"

/* Of a copy's log, which may be ahead of what is known of topics here: a partition is one before it has a topic. Or one of the shard's own. */
static struct partition *told_of(struct shard *s, uint32_t id)
{
	const struct state_topic none = {.visible_at = THMQ_DURABILITY_QUORUM};
	struct partition *p = thmqi_shard_partition(s, id);

	if (!p && (s->lead || thmqi_is_own_partition(id)) && thmqi_shard_partition_add(s, id, &none) == 0)
		p = thmqi_shard_partition(s, id);
	return p;
}

static void replay_offset(struct shard *s, const struct thmq_log_run *run)
{
	const struct state_group_offset *state = run->payload;
	struct partition *p;
	struct group_offset *g;

	if (run->header->len < sizeof(*state))
		return;
	p = told_of(s, state->partition);
	g = p ? thmqi_offsets_get(p, state->group, true) : NULL;
	if (!g)
		return;
	/* where its members shared the partition since, this one is the older */
	if (!g->shared || g->offset == UINT64_MAX || g->offset < state->offset)
		g->offset = g->durable_offset = state->offset;
	g->logged_offset = state->offset;
	g->epoch = state->epoch;
}

/* A copy hands that out also where nobody leads: not what lies behind a transaction that is open. */
static void reaches(struct shard *s, struct partition *p, uint64_t offset)
{
	if (s->lead && p->holds)
		offset = thmqi_txn_hold(s, p, offset);
	p->visible = THMQI_MAX(p->visible, offset);
}

/* Its runs may be gone. */
static void replay_partition(struct shard *s, struct partition *p, const struct thmq_log_run *run)
{
	const struct state_partition *state = run->payload;

	p->next_offset = THMQI_MAX(p->next_offset, state->next_offset);
	reaches(s, p, state->end_offset);
	p->logged_offset = THMQI_MAX(p->logged_offset, state->end_offset);
	p->jumped = p->next_offset != p->logged_offset;
	p->last_term = THMQI_MAX(p->last_term, run->term);
}

static void replay_producer(struct shard *s, const struct thmq_log_run *run)
{
	struct thmq_log_producer state;

	if (run->header->len < sizeof(state))
		return;
	memcpy(&state, run->payload, sizeof(state));
	told_of(s, state.partition);
	thmqi_writer_replay(s, &state);
}

static void replay_shared(struct shard *s, const struct thmq_log_run *run)
{
	const struct state_shared *state = run->payload;

	if (run->header->len < sizeof(*state))
		return;
	told_of(s, state->partition);
	thmqi_shared_replay(s, run);
}

static void replay_txn(struct shard *s, const struct thmq_log_run *run)
{
	struct state_txn is;

	if (run->header->len < sizeof(is))
		return;
	memcpy(&is, run->payload, sizeof(is));
	thmqi_txn_replay(s, run, told_of(s, is.partition));
}

static void replay_state(struct shard *s, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;
	struct partition *p;

	switch (h->partition) {
	case STATE_GROUP_OFFSET:
		replay_offset(s, run);
		break;
	case STATE_GROUP_SHARED:
		replay_shared(s, run);
		break;
	case STATE_PARTITION:
		p = told_of(s, (uint32_t)h->base_offset);
		if (p && h->len >= sizeof(struct state_partition))
			replay_partition(s, p, run);
		break;
	case STATE_TXN:
		replay_txn(s, run);
		break;
	case THMQ_LOG_PRODUCER:
		replay_producer(s, run);
		break;
	default:
		break;
	}
}

int thmqi_shard_replay(struct shard *s, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;
	struct partition *p;

	if (s->id == THMQI_SHARD_META)
		return h->encoding == THMQ_RUN_STATE ? thmqi_meta_replay(s->broker->meta, run) : 0;
	if (h->encoding == THMQ_RUN_STATE) {
		replay_state(s, run);
		return 0;
	}
	p = told_of(s, h->partition);
	if (!p || (h->flags & THMQ_RUN_RELOCATED))
		return p || !s->lead ? 0 : -ENOMEM;
	/* a message whose last part is not there was cut short: the partition does not end behind it */
	if ((!run->payload || !thmqi_run_is_inner_part(h)) &&
	    (!s->lead || !thmqi_bereft_note(s, p, run->index, h->base_offset + h->span)))
		reaches(s, p, h->base_offset + h->span);
	p->next_offset = THMQI_MAX(p->next_offset, h->base_offset + h->span);
	p->logged_offset = s->lead ? THMQI_MAX(p->logged_offset, h->base_offset + h->span) : p->next_offset;
	p->jumped = p->next_offset != p->logged_offset;
	p->last_term = THMQI_MAX(p->last_term, run->term);
	s->recovered_messages += h->count;
	if (run->payload && thmqi_run_has_producer(h)) {
		struct thmqi_producer_run state;

		thmqi_run_producer(h, &state);
		thmqi_writer_replay(s, &state.producer);
	}
	return 0;
}

/*
 * Offsets are never used twice: those of messages that were acknowledged at less than `durable` and lost may have
 * been seen. After an unclean close every term since a partition's last stored run may have used up to OFFSET_JUMP of
 * them, so its next offset lies behind all of those. With copies that is so of each term but where nothing was ever stored, and none
 * could be seen that was not.
 */
static bool may_have_lost(const struct shard *s, const struct partition *p)
{
	if (!s->lead)
		return s->unclean;
	return p->next_offset || p->visible_at < s->final;
}

void thmqi_shard_begin_term(struct shard *s)
{
	struct partition *p;
	struct thmqi_list *l;
	uint32_t i = 0;

	while ((p = thmqi_map_next(&s->partitions, &i))) {
		if (p->is_volatile || p->dead)
			continue;
		p->logged_offset = thmqi_logged_offset(p); /* it may have led before */
		if (may_have_lost(s, p) && s->term > p->last_term)
			p->next_offset += OFFSET_JUMP * (s->term - p->last_term);
		p->last_term = THMQI_MAX(p->last_term, s->term);
		p->index = NULL; /* a copy's log may have been cut, and begun another one */
		if (s->lead) /* what it appended when it led before is committed by now, too */
			p->visible = THMQI_MAX(p->visible, p->logged_offset);
		p->jumped = p->next_offset != p->logged_offset;
		p->durable =
			p->next_offset; /* and visible is behind the last message that is there */
		p->hole_begin = p->visible;
		p->hole_end = p->next_offset;
		thmqi_list_each(l, &p->groups)
		{
			struct group_offset *g = thmqi_container(l, struct group_offset, link);

			if (g->offset != UINT64_MAX)
				g->offset = g->durable_offset = THMQI_MIN(g->offset, p->visible);
			if (g->shared)
				thmqi_shared_settle_recovery(g);
		}
	}
	thmqi_txn_begin(s);
	thmqi_delay_begin(s);
}

/* They are waited for, what they have acknowledged is told again. */
static void groups_reset(struct partition *p)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &p->groups)
	{
		struct group_offset *g = thmqi_container(it, struct group_offset, link);

		g->offset = g->durable_offset = g->logged_offset = UINT64_MAX;
		g->epoch = 0;
		thmqi_shared_free(g);
	}
}

void thmqi_shard_reset(struct shard *s)
{
	struct partition *p;
	uint32_t i = 0;

	thmqi_delay_stop(s, -THMQ_ENOTLEADER);
	s->delay_mark = 0;
	while ((p = thmqi_map_next(&s->partitions, &i))) {
		if (p->is_volatile)
			continue;
		groups_reset(p);
		p->log = NULL;
		p->index = NULL;
		p->jumped = p->parting = false;
		p->next_offset = p->logged_offset = p->last_term = p->durable = p->flush_asked = 0;
		p->visible = p->hole_begin = p->hole_end = 0;
		if (p->retention)
			p->retention->idle_offset = p->retention->idle_ns = 0;
	}
	thmqi_txn_reset(s);
	thmqi_writers_clear(s);
	memset(s->settled_index, 0, sizeof(s->settled_index));
}
