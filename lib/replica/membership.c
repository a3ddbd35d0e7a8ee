/* SPDX-License-Identifier: Apache-2.0 */
/*
 * membership.c - who leads and who belongs to the group, on request: one step at a time, each a batch of the log. What a step may be
 * is rule B6, in engine.c.
 */
#include "internal.h"

static int apply(const struct thmqi_members *from, const struct thmqi_member *member,
		 struct thmqi_members *ret)
{
	const struct thmqi_member *found = thmqi_members_find(from, member->id);
	uint32_t at = found ? (uint32_t)(found - from->list) : from->count;

	*ret = *from;
	if (member->role == THMQI_MEMBER_REMOVED) {
		if (!found)
			return -EINVAL;
		ret->list[at] = ret->list[--ret->count];
		memset(&ret->list[ret->count], 0, sizeof(ret->list[0]));
		return 0;
	}
	if (!found && (member->role != THMQI_MEMBER_SPARE || from->count == THMQI_MEMBERS_MAX))
		return -EINVAL;
	if (found && (found->role == member->role || strcmp(found->address, member->address) != 0))
		return -EINVAL;
	ret->list[at] = *member;
	ret->count += !found;
	return 0;
}

/* @member NULL: nothing changes, and it is told again. */
static int change(struct thmqi_group *g, const struct thmqi_member *member)
{
	uint8_t bytes[THMQI_MEMBERSHIP_BYTES_MAX];
	struct thmqi_membership m = {.members = g->membership.members,
				     .previous_index = g->membership.index,
				     .previous = g->membership.members};
	int rc = 0;

	if (g->failed)
		return -THMQ_EFAILED;
	if (g->role != THMQI_ROLE_LEADER || g->parked)
		return -THMQ_ENOTLEADER;
	if (thmqi_engine_is_outsider(g->engine)) /* B12: a voter leads in its place, soon */
		return -EAGAIN;
	/* it could be left with what others need, and out of the group that could elect it: another one leads first */
	if (member && member->id == g->opts.id)
		return -EINVAL;
	if (member)
		rc = apply(&g->membership.members, member, &m.members);
	if (!rc)
		rc = thmqi_members_check(&m.members);
	if (!rc && !g->members_committed && !thmqi_group_breaks(g, THMQI_GROUP_NO_B6))
		rc = -EAGAIN;
	if (!rc)
		rc = thmqi_engine_may_change(g->engine, &m.previous, &m.members);
	if (rc)
		return rc;
	g->changing = &m;
	rc = thmqi_log_change(g->log, bytes, thmqi_membership_encode(&m, bytes));
	g->changing = NULL;
	return rc;
}

int thmqi_group_change(struct thmqi_group *g, const struct thmqi_member *member)
{
	return change(g, member);
}

int thmqi_group_renew(struct thmqi_group *g)
{
	return change(g, NULL);
}

int thmqi_group_catch_up(struct thmqi_group *g, uint64_t id)
{
	struct thmqi_duties d;
	int rc, was;

	if (g->failed)
		return -THMQ_EFAILED;
	if (g->role != THMQI_ROLE_LEADER || g->parked)
		return -THMQ_ENOTLEADER;
	if (thmqi_engine_is_outsider(g->engine))
		return -EAGAIN;
	rc = thmqi_engine_caught_up(g->engine, id);
	if (rc != -ENOENT && rc != -ETIMEDOUT)
		return rc;
	/* raft looks only when one gets more: who has all and gets nothing would be waited for till something is appended */
	if (thmqi_engine_match(g->engine, id) == thmqi_log_last(g->log))
		return 1;
	was = rc == -ETIMEDOUT ? rc : 0; /* told once, and begun again */
	rc = thmqi_engine_catch_up(g->engine, thmqi_group_now_ms(g), id, &d);
	if (!rc)
		thmqi_group_handle(g, rc, &d);
	return rc ? rc : was;
}

int thmqi_group_transfer(struct thmqi_group *g, uint64_t id)
{
	struct thmqi_duties d;
	int rc;

	if (g->failed)
		return -THMQ_EFAILED;
	if (g->role != THMQI_ROLE_LEADER || g->parked)
		return -THMQ_ENOTLEADER;
	if (thmqi_engine_transferring(g->engine))
		return -EAGAIN;
	rc = thmqi_engine_transfer(g->engine, thmqi_group_now_ms(g), id, &d);
	if (rc)
		return rc;
	thmqi_group_handle(g, rc, &d);
	if (!g->failed)
		thmqi_log_hold(g->log, thmqi_engine_transferring(g->engine));
	return 0;
}
