/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica_members.c - who belongs to a simulated cluster changes all the time: a copy with an empty directory joins, step by step, then
 * another one leaves, loses all that it had, and joins anew under another number.
 */
#include "replica_world.h"

static const struct thmqi_member *member_of(struct world *w, const struct node *n)
{
	struct node *leader = world_leader(w);
	const struct thmqi_members *m = leader ? thmqi_group_members(leader->group) : NULL;

	for (uint32_t i = 0; m && i < m->count; i++)
		if (m->list[i].id == n->id)
			return &m->list[i];
	return NULL;
}

bool is_member(struct world *w, const struct node *n)
{
	return member_of(w, n) != NULL;
}

bool is_served(struct world *w, const struct node *n)
{
	const struct thmqi_member *m = member_of(w, n);

	return m && m->role != THMQI_MEMBER_SPARE;
}

static uint32_t voters_of(const struct thmqi_members *m)
{
	uint32_t i, n = 0;

	for (i = 0; i < m->count; i++)
		n += m->list[i].role == THMQI_MEMBER_VOTER;
	return n;
}

/* What is asked for a second time before the first is done must be refused. */
static int change(struct world *w, struct node *leader, const struct thmqi_member *member)
{
	struct thmqi_member again = *member;
	int rc = thmqi_group_change(leader->group, member);

	w->count.changes += rc == 0;
	w->count.refused += rc != 0;
	trace(w, 6000, (uint64_t)-rc);
	again.role =
		member->role == THMQI_MEMBER_REMOVED ? THMQI_MEMBER_SPARE : THMQI_MEMBER_REMOVED;
	if (rc == 0 && thmqi_group_change(leader->group, &again) == 0)
		world_fail(w, leader, "two changes of the membership at a time", member->id);
	return rc;
}

static void join(struct world *w, struct node *leader, struct node *n)
{
	struct thmqi_member member = {.id = n->id, .role = THMQI_MEMBER_SPARE};

	snprintf(member.address, sizeof(member.address), "sim://%llu", (unsigned long long)n->id);
	if (change(w, leader, &member) != 0)
		return;
	n->used = true;
	if (!n->up)
		node_start(n);
}

static void promote(struct world *w, struct node *leader, const struct thmqi_member *m)
{
	struct thmqi_member member = *m;

	if (m->role == THMQI_MEMBER_STANDBY && thmqi_group_catch_up(leader->group, m->id) != 1)
		return;
	member.role++;
	if (change(w, leader, &member) == 0)
		w->count.joins += member.role == THMQI_MEMBER_VOTER;
}

/* It is in force that they are gone: what they have is of no use any more. One that led before does not know whom the others took in since. */
static void bury(struct world *w, struct node *leader)
{
	struct thmqi_group_state s;

	thmqi_group_state(leader->group, &s);
	if (!s.members_committed || s.term < w->last_term)
		return;
	for (uint32_t i = 1; i <= w->places; i++) {
		struct node *n = &w->node[i];

		if (!n->used || n == leader || is_member(w, n))
			continue;
		if (n->up)
			node_stop(n);
		n->used = false;
		n->restart_at = 0;
		node_wipe(n);
		w->count.leaves++;
	}
}

void trim_step(struct world *w)
{
	struct node *leader = world_leader(w);
	struct thmqi_group_state s;

	if (!leader || leader->died)
		return;
	thmqi_group_state(leader->group, &s);
	if (s.committed > 40 && thmqi_group_trim(leader->group, s.committed - chance(w, 20)) == 0)
		w->count.trims++;
}

void members_step(struct world *w)
{
	struct node *leader = world_leader(w);
	const struct thmqi_members *m = leader ? thmqi_group_members(leader->group) : NULL;
	struct thmqi_member gone;
	uint32_t i;

	if (!leader || leader->died)
		return;
	bury(w, leader);
	for (i = 0; i < m->count; i++)
		if (m->list[i].role != THMQI_MEMBER_VOTER) {
			promote(w, leader, &m->list[i]);
			return;
		}
	if (voters_of(m) > w->nodes) {
		gone = m->list[chance(w, m->count)];
		for (i = 0; i < m->count; i++) { /* above all one that does not come back */
			const struct node *n = node_of(w, m->list[i].id);

			if (n && n->dead)
				gone = m->list[i];
		}
		gone.role = THMQI_MEMBER_REMOVED;
		if (change(w, leader, &gone) == 0 && gone.id == leader->id)
			world_fail(w, leader, "a leader removes itself", gone.id);
		if (gone.id == leader->id && thmqi_group_transfer(leader->group, 0) == 0)
			w->count.transfers++;
		return;
	}
	for (i = 1; i <= w->places; i++)
		if (!w->node[i].used) {
			join(w, leader, &w->node[i]);
			return;
		}
}
