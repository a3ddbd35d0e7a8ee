/* SPDX-License-Identifier: Apache-2.0 */
/*
 * removed.c - a copy that was removed from its group, and was not there when that was committed, hears of it from those that it asks for their votes: they say by
 * which committed membership it is none of them. From then on it asks nobody any more, until one leads it again. It is not needed for an election: what
 * was committed since lies with others, and rule B12 is for those that know less. Knows not how copies meet.
 */
#include "internal.h"

/* The newest one that is known to be committed. NULL: none is known. */
static const struct thmqi_members *committed(const struct thmqi_group *g, uint64_t *ret_index)
{
	const struct thmqi_membership *m = &g->membership;

	*ret_index = g->members_committed ? m->index : m->previous_index;
	return !*ret_index ? NULL : g->members_committed ? &m->members : &m->previous;
}

void thmqi_removed_say(const struct thmqi_group *g, struct thmqi_message *m)
{
	const struct thmqi_members *is;
	uint64_t index;

	if (m->type != THMQI_MESSAGE_VOTED || (m->flags & THMQI_MESSAGE_GRANTED) || thmqi_members_find(&g->membership.members, m->to))
		return;
	is = committed(g, &index);
	if (!is || thmqi_members_find(is, m->to))
		return;
	m->flags |= THMQI_MESSAGE_REMOVED;
	m->index = index;
}

/* One that joins is none of them for all that it knows, and never was. */
static bool is_news(const struct thmqi_group *g, uint64_t index)
{
	const struct thmqi_membership *m = &g->membership;

	if (thmqi_members_find(&m->members, g->opts.id))
		return index > m->index;
	return thmqi_members_find(&m->previous, g->opts.id) && index >= m->index;
}

void thmqi_removed_hear(struct thmqi_group *g, const struct thmqi_message *m)
{
	if (m->type != THMQI_MESSAGE_VOTED || !(m->flags & THMQI_MESSAGE_REMOVED) || g->removed || thmqi_engine_leader(g->engine) ||
	    !is_news(g, m->index))
		return;
	g->removed = m->index;
	g->tell_removed = true;
}

void thmqi_removed_over(struct thmqi_group *g)
{
	g->removed = 0;
	g->tell_removed = true;
}
