/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grow.c - partitions that a topic gets while it is in use. Ids are never given twice and those behind a topic's own are others' by then, so
 * that what is added has a range of ids of its own; each has room for as many as there were before it, so that a few ranges always do.
 * The new ones are seen once all shards have them: then groups share them out, and whoever is connected is told that there is more.
 */
#include "meta.h"

uint32_t thmqi_grow_range_count(const struct state_topic *t)
{
	uint32_t k = 0;

	while (k < TOPIC_RANGES && t->added[k].begin)
		k++;
	return k;
}

/* Range 0 is what it was created with. False: there is no such range. */
static bool range_at(const struct state_topic *t, uint32_t k, struct state_range *ret)
{
	if (k == 0)
		*ret = (struct state_range){
			.begin = 0, .end = t->added[0].begin ? t->added[0].begin : t->partition_count, .first = t->first_partition};
	else if (k > TOPIC_RANGES || !t->added[k - 1].begin)
		return false;
	else
		*ret = t->added[k - 1];
	return true;
}

bool thmqi_grow_ranges_ok(const struct state_topic *t)
{
	struct state_range r;
	uint32_t k, end = 0;

	for (k = 0; range_at(t, k, &r); k++) {
		if (r.begin != end || r.end <= r.begin || r.end > THMQ_PARTITION_COUNT_MAX || r.first >= VOLATILE_PARTITION ||
		    r.end - r.begin > VOLATILE_PARTITION - r.first)
			return false;
		end = r.end;
	}
	return t->partition_count <= end && (k == 1 || !t->priorities);
}

uint32_t thmqi_grow_ids_end(const struct state_topic *t)
{
	struct state_range r;
	uint32_t k, end = 0;

	for (k = 0; range_at(t, k, &r); k++)
		end = THMQI_MAX(end, r.first + (r.end - r.begin));
	return end;
}

bool thmqi_grow_share_ids(const struct state_topic *a, const struct state_topic *b)
{
	struct state_range x, y;
	uint32_t i, k;

	for (i = 0; range_at(a, i, &x); i++)
		for (k = 0; range_at(b, k, &y); k++)
			if (x.first < y.first + (y.end - y.begin) && y.first < x.first + (x.end - x.begin))
				return true;
	return false;
}

uint32_t thmqi_grow_index(const struct state_topic *t, uint32_t partition)
{
	struct state_range r;
	uint32_t k;

	for (k = 0; range_at(t, k, &r); k++)
		if (partition >= r.first && partition - r.first < r.end - r.begin && r.begin + (partition - r.first) < t->partition_count)
			return r.begin + (partition - r.first);
	return UINT32_MAX;
}

/* Room for partitions from @begin up to @want at least. */
static int add_range(struct meta *m, struct state_topic *t, uint32_t begin, uint32_t want)
{
	const bool is_volatile = t->flags & THMQ_TOPIC_VOLATILE;
	uint32_t *next = is_volatile ? &m->next_volatile_partition : &m->next_partition;
	uint32_t count = THMQI_MIN(THMQI_MAX(want - begin, begin), THMQ_PARTITION_COUNT_MAX - begin), k = thmqi_grow_range_count(t);

	if (k == TOPIC_RANGES || *next + count >= (is_volatile ? VOLATILE_PARTITION : OWN_PARTITION))
		return -ENOSPC;
	t->added[k] = (struct state_range){.begin = begin, .end = begin + count, .first = *next | (is_volatile ? VOLATILE_PARTITION : 0)};
	*next += count;
	return 0;
}

int thmqi_grow_plan(struct meta *m, struct topic *t, struct state_topic *state, uint32_t count)
{
	const uint32_t ranges = thmqi_grow_range_count(state);
	uint32_t end = ranges ? state->added[ranges - 1].end : state->partition_count; /* of the room that it has */
	int rc;

	if (count < state->partition_count || count > THMQ_PARTITION_COUNT_MAX)
		return -EINVAL;
	if (count == state->partition_count)
		return 0;
	if (state->priorities) /* which are told by a partition's number */
		return -EOPNOTSUPP;
	rc = thmqi_group_reserve(t, count);
	if (rc)
		return rc;
	if (count > end) {
		rc = add_range(m, state, end, count);
		if (rc)
			return rc;
	}
	state->partition_count = count;
	return 0;
}

static void tell_all(struct thmqi_list *conns, const struct topic *t)
{
	const struct thmqi_frame f = {.type = THMQI_FRAME_GROWN, .partition = t->state.topic_id, .len = t->state.partition_count};
	struct thmqi_list *it, *tmp;

	thmqi_list_each_safe(it, tmp, conns) /* one that rested goes to the other list */
	{
		struct conn *c = thmqi_container(it, struct conn, link);

		thmqi_conn_send(c, &f);
		thmqi_conn_kick(c);
	}
}

void thmqi_grow_end(struct meta *m, const struct state_topic *state)
{
	struct topic *t = thmqi_meta_topic_by_id(m, state->topic_id);
	struct thmqi_list *it;

	if (!t)
		return;
	t->state.partition_count = state->partition_count;
	if (t->state.flags & THMQ_TOPIC_RETAIN_CONSUMED)
		thmqi_list_each(it, &t->groups) thmqi_change_group_again(m, thmqi_container(it, struct group, link));
	thmqi_group_grown(m, t);
	tell_all(&m->shard->conns, t);
	tell_all(&m->shard->resting, t);
}
