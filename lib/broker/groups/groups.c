/* SPDX-License-Identifier: Apache-2.0 */
/*
 * groups.c - groups as whoever administers them sees them: which there are, who is in them, where they go on. What becomes of
 * members is group.c's; what is stored of a group in meta change.c's.
 */
#include <stdio.h>

#include "../meta/meta.h"

/* ------------------------------------------------------------------------- meta */

static void list(struct topic *t, struct thmqi_reply *reply, uint32_t first)
{
	struct thmqi_list *it;
	uint32_t i = 0;

	thmqi_list_each(it, &t->groups)
	{
		const struct group *g = thmqi_container(it, struct group, link);
		struct thmqi_group_entry *e = &reply->groups[reply->count];

		if (i++ < first || reply->count == THMQI_ARRAY_COUNT(reply->groups))
			continue;
		memset(e, 0, sizeof(*e));
		e->group_id = g->id;
		e->member_count = g->member_count;
		e->assignor = g->member_count ? g->assignor : 0;
		memcpy(e->name, g->name, sizeof(e->name));
		reply->count++;
	}
	reply->total = i;
}

static void count_parts(struct group *g)
{
	struct thmqi_list *it;
	uint32_t i;

	thmqi_list_each(it, &g->members) thmqi_container(it, struct member, link)->has = 0;
	for (i = 0; g->assignments && i < g->topic->state.partition_count; i++)
		if (g->assignments[i].target)
			g->assignments[i].target->has++;
}

static void members(struct meta *m, struct group *g, struct thmqi_reply *reply, uint32_t first)
{
	uint64_t now = m->shard->core->now_ns;
	struct thmqi_list *it;
	uint32_t i = 0;

	count_parts(g);
	thmqi_list_each(it, &g->members)
	{
		const struct member *member = thmqi_container(it, struct member, link);
		struct thmqi_member_entry *e = &reply->members[reply->count];

		if (i++ < first || reply->count == THMQI_ARRAY_COUNT(reply->members))
			continue;
		memset(e, 0, sizeof(*e));
		e->id = member->id;
		e->silent_ns = now > member->beat_ns ? now - member->beat_ns : 0;
		e->partition_count = member->has;
		e->away = !member->conn;
		memcpy(e->instance, member->instance, sizeof(e->instance));
		reply->count++;
	}
	reply->total = i;
	reply->value[0] = g->id;
	reply->value[1] = g->assignor;
	reply->value[2] = g->topic->state.partition_count;
	reply->value[3] = g->member_count;
}

static void owners(struct group *g, struct thmqi_reply *reply, uint32_t first)
{
	struct thmqi_list *it;
	uint32_t i, rank = 0;

	thmqi_list_each(it, &g->members) thmqi_container(it, struct member, link)->rank = rank++;
	reply->total = g->topic->state.partition_count;
	for (i = first; i < reply->total && reply->count < THMQI_ARRAY_COUNT(reply->owners); i++) {
		const struct assignment *a = g->assignments ? &g->assignments[i] : NULL;

		reply->owners[reply->count++] = a && a->owner ? a->owner->rank : UINT32_MAX;
	}
}

bool thmqi_groups_request(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct thmqi_reply *reply = c->wire->reply;
	struct topic *t;
	struct group *g;

	if (r->op < THMQI_OP_GROUP_LIST || r->op > THMQI_OP_GROUP_DELETE)
		return false;
	t = thmqi_meta_topic(m, r->name, NULL);
	g = t && r->op != THMQI_OP_GROUP_LIST ? thmqi_meta_group(t, r->group) : NULL;
	if (g && r->op == THMQI_OP_GROUP_DELETE && r->group_id && r->group_id != g->id)
		g = NULL; /* another one of that name by now */
	if (!t || (!g && r->op != THMQI_OP_GROUP_LIST)) {
		thmqi_reply(c, id, t ? -ENOENT : -THMQ_ENOTOPIC);
		return true;
	}
	switch (r->op) {
	case THMQI_OP_GROUP_LIST:
		list(t, reply, r->index);
		break;
	case THMQI_OP_GROUP_MEMBERS:
		members(m, g, reply, r->index);
		break;
	case THMQI_OP_GROUP_OWNERS:
		owners(g, reply, r->index);
		break;
	case THMQI_OP_GROUP_EXPEL:
		thmqi_group_expel(m, g);
		break;
	default:
		thmqi_change_group_delete(m, c, id, g, (r->topic_flags & THMQI_GROUP_FORCE) != 0);
		return true;
	}
	thmqi_reply(c, id, 0);
	return true;
}

/* ------------------------------------------------------------------------ shards */

static bool is_shared_one(const struct sub *sub, const struct group_offset *g)
{
	return sub->shared && sub->shared == g->shared;
}

uint32_t thmqi_groups_readers(const struct partition *p, const struct group_offset *g)
{
	const struct thmqi_list *it;
	uint32_t n = g->owner != NULL;

	for (it = p->subs.next; g->shared && it != &p->subs; it = it->next)
		n += is_shared_one(thmqi_container(it, struct sub, partition_link), g);
	return n;
}

static void put_out(struct partition *p, struct group_offset *g)
{
	struct thmqi_list *it, *tmp;

	if (g->owner)
		thmqi_sub_close(g->owner, -THMQ_EFENCED, true);
	thmqi_list_each_safe(it, tmp, &p->subs)
	{
		struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (is_shared_one(sub, g))
			thmqi_sub_close(sub, -THMQ_EFENCED, true);
	}
}

/* It is nobody's any more; what is on its way to the log refers to it until the broker closes. */
void thmqi_groups_drop(struct shard *s, struct partition *p, uint32_t group)
{
	struct group_offset *g = p && !p->dead ? thmqi_offsets_get(p, group, false) : NULL;

	(void)s;
	if (!g)
		return;
	put_out(p, g);
	thmqi_shared_free(g);
	if (g->dirty)
		thmqi_list_del(&g->dirty_link);
	g->dirty = g->owed = false;
	thmqi_map_remove(&thmqi_list_first(&p->groups, struct group_offset, link)->others, group);
	g->group = 0;
}

static int reset(struct shard *s, struct partition *p, struct group_offset *g, const struct thmqi_request *r, uint64_t *ret_offset)
{
	uint64_t offset;
	int rc;

	if (r->index < THMQ_START_BEGIN || r->index > THMQ_START_OFFSET)
		return -EINVAL;
	rc = thmqi_sub_start(p, r->index, r->before_offset, &offset);
	if (rc && r->index == THMQ_START_OFFSET && r->before_offset == g->offset)
		rc = 0, offset = g->offset; /* it was there when it was asked for the first time */
	if (rc)
		return rc;
	*ret_offset = offset;
	if (s->failed)
		return s->failed;
	if (r->topic_flags & THMQI_GROUP_FORCE) /* also where it stands there already: what they say later would count */
		put_out(p, g);
	if (g->offset == offset && !thmqi_shared_done(g) && thmqi_shared_is_stored(g) && g->durable_offset == offset)
		return 0;
	if (g->offset == offset && !thmqi_shared_done(g) && (g->dirty || g->logged_offset == offset))
		return -EAGAIN; /* on its way */
	if (thmqi_groups_readers(p, g))
		return -EBUSY;
	if (p->is_volatile) {
		g->offset = g->durable_offset = offset;
		return 0;
	}
	return thmqi_offsets_reset(s, g, offset);
}

void thmqi_groups_reset(struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct partition *p = thmqi_shard_partition_asked(c->shard, r->partition);
	struct group_offset *g;
	uint64_t offset = 0;
	int rc;

	if (!p || p->dead || !r->group_id) {
		thmqi_reply(c, id, p ? p->dead ? -THMQ_ENOTOPIC : -EINVAL : -THMQ_ENOPARTITION);
		return;
	}
	g = thmqi_offsets_get(p, r->group_id, true);
	rc = g ? reset(c->shard, p, g, r, &offset) : -ENOMEM;
	c->wire->reply->value[0] = offset;
	thmqi_reply(c, id, rc);
}

/* ------------------------------------------------------------------------- open */

static int note_group(void *ctx, uint32_t group_id)
{
	return thmqi_map_put(ctx, group_id, ctx);
}

static int note_all(struct thmqi_map *known, struct meta *m)
{
	uint32_t i;
	int rc = 0;

	for (i = 0; i < m->topic_count && !rc; i++)
		thmqi_meta_each_group(m, m->topics[i]->state.topic_id, note_group, known, &rc);
	return rc;
}

/* Where a crash came between meta, which forgot a group, and a shard. Nobody changes meta yet. */
void thmqi_groups_purge(struct shard *s)
{
	struct thmqi_map known;
	struct partition *p;
	struct thmqi_list *it;
	uint32_t i = 0;

	thmqi_map_init(&known);
	if (note_all(&known, s->broker->meta) == 0)
		while ((p = thmqi_map_next(&s->partitions, &i)))
			thmqi_list_each(it, &p->groups)
			{
				struct group_offset *g = thmqi_container(it, struct group_offset, link);

				if (g->group && !thmqi_map_get(&known, g->group))
					thmqi_groups_drop(s, p, g->group);
			}
	thmqi_map_fini(&known);
}
