/* SPDX-License-Identifier: Apache-2.0 */
/*
 * assign.c - which member of a group each partition is meant for. Says only where all is to go: who has it now, and how it changes
 * hands, is group.c's. One look at each partition and each member.
 */
#include "../meta/meta.h"

static struct member *next_member(struct group *g, struct member *m)
{
	struct thmqi_list *it = m ? m->link.next : g->members.next;

	return it == &g->members ? NULL : thmqi_container(it, struct member, link);
}

/* Partition i of n goes to the member at i * members / n: ranges whose sizes differ by one at most. */
static void ranges(struct group *g, uint32_t count)
{
	struct member *m = NULL;
	uint32_t rank = 0, i = 0, end;

	while ((m = next_member(g, m))) {
		end = (uint32_t)((uint64_t)++rank * count / g->member_count);
		for (; i < end; i++)
			g->assignments[i].target = m;
	}
}

static void in_turns(struct group *g, uint32_t count)
{
	struct member *m = NULL;
	uint32_t i;

	for (i = 0; i < count; i++) {
		m = next_member(g, m);
		m = m ? m : next_member(g, NULL);
		g->assignments[i].target = m;
	}
}

/*
 * Each has a share, of which some are larger by one: those of members that have that much. What a member has beyond its share, and
 * what is nobody's, fills up the others.
 */
static void sticky(struct group *g, uint32_t count)
{
	uint32_t share = count / g->member_count, larger = count % g->member_count, i;
	struct member *m;

	for (m = next_member(g, NULL); m; m = next_member(g, m))
		m->has = 0;
	for (i = 0; i < count; i++)
		if (g->assignments[i].target)
			g->assignments[i].target->has++;
	for (m = next_member(g, NULL); m; m = next_member(g, m)) {
		m->share = share + (larger && m->has > share);
		larger -= m->share - share;
	}
	for (m = next_member(g, NULL); m; m = next_member(g, m)) {
		if (larger && m->share == share) {
			m->share++;
			larger--;
		}
		m->has = 0;
	}
	for (i = 0; i < count; i++) {
		m = g->assignments[i].target;
		if (m && m->has < m->share)
			m->has++;
		else
			g->assignments[i].target = NULL;
	}
	for (i = 0, m = next_member(g, NULL); i < count; i++) {
		if (g->assignments[i].target)
			continue;
		while (m->has == m->share) /* the shares add up to count: there is one */
			m = next_member(g, m);
		g->assignments[i].target = m;
		m->has++;
	}
}

/* ----------------------------------------------------------------- by nearness */

enum nearness { ELSEWHERE, SAME_MACHINE, SAME_NODE, SAME_CPU };

static enum nearness nearness_of(const struct meta *m, const struct member *member, uint32_t shard)
{
	struct thmq_place place = {.cpu = -1, .node = -1};

	if (!member->machine || member->machine != thmqi_machine_id())
		return ELSEWHERE;
	thmqi_env_place(m->broker->env, m->broker->shards[shard].core->index, &place);
	if (member->cpu >= 0 && member->cpu == place.cpu)
		return SAME_CPU;
	return member->node >= 0 && member->node == place.node ? SAME_NODE : SAME_MACHINE;
}

/* A member that has its share takes one more, of those that are left over. */
static bool takes_one(struct member *member, uint32_t *larger)
{
	if (member->has == member->share && *larger) {
		member->share++;
		(*larger)--;
	}
	if (member->has == member->share)
		return false;
	member->has++;
	return true;
}

/*
 * The nearest first, of those as near who had it, then who comes next. Nobody who has all it is to have gets room again, so that for each degree of nearness
 * the members are walked once a shard.
 */
static void nearest(const struct meta *m, struct group *g, uint32_t count)
{
	const struct state_topic *t = &g->topic->state;
	uint32_t larger = count % g->member_count, i;
	struct member *cursor[THMQ_SHARD_COUNT_MAX + 1], *member;
	int near;

	for (member = next_member(g, NULL); member; member = next_member(g, member)) {
		member->share = count / g->member_count;
		member->has = 0;
	}
	for (i = 0; i < count; i++) {
		g->assignments[i].before = g->assignments[i].target;
		g->assignments[i].target = NULL;
	}
	for (near = SAME_CPU; near >= ELSEWHERE; near--) {
		for (i = 0; i < count; i++) {
			member = g->assignments[i].target ? NULL : g->assignments[i].before;
			if (member && nearness_of(m, member, thmqi_meta_shard_of(m, t, i)) == (enum nearness)near && takes_one(member, &larger))
				g->assignments[i].target = member;
		}
		for (i = 0; i < m->broker->shard_count; i++)
			cursor[i] = next_member(g, NULL);
		for (i = 0; i < count; i++) {
			const uint32_t shard = thmqi_meta_shard_of(m, t, i);

			if (g->assignments[i].target)
				continue;
			while (cursor[shard] && !(nearness_of(m, cursor[shard], shard) == (enum nearness)near && takes_one(cursor[shard], &larger)))
				cursor[shard] = next_member(g, cursor[shard]);
			g->assignments[i].target = cursor[shard];
		}
	}
}

/* Who has a partition has it of all priorities: else one member would work at what is low while another has more than it can do at once. */
static void all_priorities(struct group *g, uint32_t lanes)
{
	uint32_t i;

	for (i = lanes; i < g->topic->state.partition_count; i++)
		g->assignments[i].target = g->assignments[i % lanes].target;
}

void thmqi_assign(const struct meta *m, struct group *g)
{
	uint32_t count = thmqi_topic_lanes(&g->topic->state);

	switch (g->assignor) {
	case THMQ_ASSIGN_ROUND_ROBIN:
		in_turns(g, count);
		break;
	case THMQ_ASSIGN_STICKY:
		sticky(g, count);
		break;
	case THMQ_ASSIGN_NEAR:
		nearest(m, g, count);
		break;
	default:
		ranges(g, count);
	}
	all_priorities(g, count);
}
