/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offsets.c - what groups have acknowledged. An offset is a state slice in the log of its partition's shard, behind
 * the data that it covers; acks that arrive together are stored once.
 */
#include "commitlog/limit.h"
#include "../internal.h"

struct group_offset *thmqi_offsets_get(struct partition *p, uint32_t group, bool make)
{
	struct group_offset *first = NULL, *g = NULL;

	/* mostly there is one; it stays in its place, and knows the others: each acknowledgement looks */
	if (!thmqi_list_empty(&p->groups)) {
		first = thmqi_list_first(&p->groups, struct group_offset, link);
		g = first->group == group ? first : thmqi_map_get(&first->others, group);
	}
	if (g || !make)
		return g;
	g = calloc(1, sizeof(*g));
	if (!g || (first && thmqi_map_put(&first->others, group, g) != 0)) {
		free(g);
		return NULL;
	}
	g->partition = p;
	g->group = group;
	g->offset = g->durable_offset = g->logged_offset = UINT64_MAX; /* none yet */
	thmqi_list_init(&g->dirty_link);
	thmqi_list_add_tail(&p->groups, &g->link);
	return g;
}

static void tell(struct conn *c, uint32_t stream, uint32_t partition, uint64_t offset, int status)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_ACKED,
				.stream = stream,
				.partition = partition,
				.seq = offset,
				.status = status};

	thmqi_conn_send(c, &f);
}

void thmqi_offsets_ack(struct conn *c, const struct thmqi_frame *f)
{
	struct partition *p = thmqi_shard_partition(c->shard, f->partition);
	struct group_offset *g = p ? thmqi_offsets_get(p, (uint32_t)f->arg[1], false) : NULL;

	if (!g || !g->owner || g->owner->conn != c || g->owner->stream != f->stream ||
	    f->arg[0] != g->epoch) {
		tell(c, f->stream, f->partition, f->seq, -THMQ_EFENCED);
		return;
	}
	if (f->seq > thmqi_visible_all(c->shard, p)) {
		tell(c, f->stream, f->partition, f->seq, -EINVAL);
		return;
	}
	/* offsets of a group only rise, whatever order acks are sent in */
	if (g->offset == UINT64_MAX || f->seq > g->offset)
		g->offset = f->seq;
	if (thmqi_unlikely(g->owner->sift && thmqi_sift_acked(g->owner, g->offset)))
		g->offset = g->owner->next;
	if (thmqi_unlikely(g->shared != NULL))
		thmqi_shared_advance(g);
	if (p->is_volatile || g->offset == g->durable_offset) {
		g->durable_offset = g->offset;
		tell(c, f->stream, f->partition, g->offset, 0);
		return;
	}
	g->owed = c->shard->offsets_owed = true;
	if (!g->dirty) {
		g->dirty = true;
		thmqi_list_add_tail(&c->shard->dirty_offsets, &g->dirty_link);
	}
}

/* They stay dirty, and are stored as soon as they can be; whoever waits learns once an ack why they are not. */
static void tell_owed(struct shard *s, int error)
{
	struct thmqi_list *it;
	struct group_offset *g;

	s->offsets_owed = false;
	thmqi_list_each(it, &s->dirty_offsets)
	{
		g = thmqi_container(it, struct group_offset, dirty_link);
		if (g->owed && thmqi_shared_is_dirty(g))
			thmqi_shared_tell_owed(g, error);
		if (g->owed && g->owner) {
			tell(g->owner->conn, g->owner->stream, g->partition->id, g->offset, error);
			thmqi_conn_kick(g->owner->conn);
		}
		g->owed = false;
	}
}

int thmqi_offsets_store(struct shard *s, struct group_offset *g)
{
	const struct state_group_offset state = {.partition = g->partition->id,
						 .group = g->group,
						 .offset = g->offset,
						 .epoch = g->epoch};
	struct pending *e;
	int rc = thmqi_shard_append_state(s, STATE_GROUP_OFFSET, (uint64_t)g->partition->id << 32 | g->group, &state,
					  sizeof(state), &e);

	if (rc)
		return rc;
	e->group = g;
	e->end_offset = g->logged_offset = g->offset;
	return 0;
}

static int flush_one(struct shard *s, struct group_offset *g)
{
	int rc = thmqi_shared_is_dirty(g) ? thmqi_shared_store(g) : thmqi_offsets_store(s, g);

	if (rc)
		return rc; /* stays dirty */
	g->dirty = g->frees = false;
	thmqi_list_del(&g->dirty_link);
	return 0;
}

/*
 * The log takes nothing, perhaps because it is full. What some wait for can go once their offsets are stored: these, and no others, have
 * the room that is kept for what makes room; all of them could use it up before anything went.
 */
static uint32_t flush_freeing(struct shard *s)
{
	struct thmqi_list *it, *tmp;
	uint64_t lent = thmqi_log_lend(s->log);
	uint32_t done = 0;
	int rc = 0;

	thmqi_list_each_safe(it, tmp, &s->dirty_offsets)
	{
		struct group_offset *g = thmqi_container(it, struct group_offset, dirty_link);

		if (g->frees && !rc)
			rc = flush_one(s, g);
		done += !g->dirty;
	}
	thmqi_log_lend_end(s->log, lent);
	s->offsets_free = rc != 0;
	return done;
}

/*
 * One that leads no more, or has failed, where there are copies: its connections are about to end, and their sessions hear from another one. So they
 * do where its disk is not well soon: as messages are, thmqi_produce().
 */
static bool ends_soon(const struct shard *s, int error)
{
	return s->lead && (error == -THMQ_ENOTLEADER || error == -THMQ_EFAILED || error == -EIO);
}

uint32_t thmqi_offsets_flush(struct shard *s)
{
	uint32_t done = 0;
	int rc;

	while (!thmqi_list_empty(&s->dirty_offsets)) {
		rc = flush_one(s, thmqi_list_first(&s->dirty_offsets, struct group_offset, dirty_link));
		if (rc && rc != -EAGAIN && s->offsets_owed && !ends_soon(s, rc))
			tell_owed(s, rc);
		if (rc && thmqi_unlikely(s->offsets_free))
			done += flush_freeing(s);
		if (rc)
			break;
		done++;
	}
	return done;
}

int thmqi_offsets_reset(struct shard *s, struct group_offset *g, uint64_t offset)
{
	int rc;

	g->offset = offset;
	rc = thmqi_offsets_store(s, g);
	if (rc && rc != -EAGAIN)
		return rc;
	/* where members ever shared it both slices have to say so: none is older than the other then */
	if (g->shared)
		thmqi_shared_reset(g, offset);
	else if (rc && !g->dirty) {
		g->dirty = true;
		thmqi_list_add_tail(&s->dirty_offsets, &g->dirty_link);
	}
	return -EAGAIN;
}

void thmqi_offsets_deposed(struct shard *s)
{
	struct group_offset *g;
	struct partition *p;
	struct thmqi_list *it;
	uint32_t i = 0;

	while (!thmqi_list_empty(&s->dirty_offsets)) {
		g = thmqi_list_first(&s->dirty_offsets, struct group_offset, dirty_link);
		thmqi_list_del(&g->dirty_link);
		g->dirty = g->owed = false;
	}
	s->offsets_owed = false;
	while ((p = thmqi_map_next(&s->partitions, &i)))
		thmqi_list_each(it, &p->groups)
		{
			g = thmqi_container(it, struct group_offset, link);
			if (g->shared)
				thmqi_shared_deposed(g);
			else
				g->offset = g->durable_offset = g->logged_offset;
		}
}

/* Nobody will call thmqi_offsets_durable() for those that were appended: they are dirty again, and their owners told. */
void thmqi_offsets_failed(struct shard *s)
{
	struct partition *p;
	struct thmqi_list *it;
	uint32_t i = 0;

	while ((p = thmqi_map_next(&s->partitions, &i))) {
		thmqi_list_each(it, &p->groups)
		{
			struct group_offset *g = thmqi_container(it, struct group_offset, link);

			if (!g->group)
				continue;
			if (g->shared)
				thmqi_shared_failed(g);
			if (p->is_volatile || g->dirty || g->offset == g->durable_offset)
				continue;
			g->dirty = g->owed = s->offsets_owed = true;
			thmqi_list_add_tail(&s->dirty_offsets, &g->dirty_link);
		}
	}
	thmqi_offsets_flush(s);
}

void thmqi_offsets_durable(struct group_offset *g, uint64_t offset)
{
	g->durable_offset = offset;
	if (g->owner) {
		tell(g->owner->conn, g->owner->stream, g->partition->id, offset, 0);
		thmqi_conn_kick(g->owner->conn);
	}
}
