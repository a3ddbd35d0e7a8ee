/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group_time.c - who is late in a group: members that say nothing, those that others wait for. A heap has all groups, the one first that is due
 * first, so that ten thousand that are quiet cost nothing. Knows no request.
 */
#include <stdlib.h>

#include "group.h"

/* --------------------------------------------------------------------- heap */

static void put_at(struct server *s, uint32_t at, struct group *g)
{
	s->due[at] = g;
	g->place = at;
}

static void move_up(struct group *g)
{
	struct server *s = g->server;
	uint32_t at = g->place, up;

	for (; at > 0 && s->due[up = (at - 1) / 2]->due_ns > g->due_ns; at = up)
		put_at(s, at, s->due[up]);
	put_at(s, at, g);
}

static void move_down(struct group *g)
{
	struct server *s = g->server;
	uint32_t at = g->place, down;

	for (; (down = at * 2 + 1) < s->due_count; at = down) {
		if (down + 1 < s->due_count && s->due[down + 1]->due_ns < s->due[down]->due_ns)
			down++;
		if (s->due[down]->due_ns >= g->due_ns)
			break;
		put_at(s, at, s->due[down]);
	}
	put_at(s, at, g);
}

/* At once: who has no member by then goes. */
bool group_due_add(struct group *g)
{
	struct server *s = g->server;

	if (s->due_count == s->due_room) {
		uint32_t room = s->due_room ? s->due_room * 2 : 16;
		struct group **due = realloc(s->due, room * sizeof(struct group *));

		if (!due)
			return false;
		s->due = due;
		s->due_room = room;
	}
	g->due_ns = 0;
	g->place = s->due_count++;
	move_up(g);
	return true;
}

void group_due_remove(struct group *g)
{
	struct server *s = g->server;
	struct group *last = s->due[--s->due_count];

	if (last == g)
		return;
	put_at(s, g->place, last);
	move_up(last);
	move_down(last);
}

void group_due(struct group *g, int64_t ns)
{
	if (ns >= g->due_ns)
		return;
	g->due_ns = ns;
	move_up(g);
}

/* --------------------------------------------------------------------- time */

/* Who waits for the others is there; else it is by heartbeats that one says so. */
static bool is_missed(const struct member *m, int64_t now)
{
	return !m->joins && !m->syncs && now >= m->expires_ns;
}

/* The others wait for the one who says what each has to do, or for those that have not asked. */
static void sync_is_late(struct group *g)
{
	struct member *m, *next;

	for (m = g->members; m; m = next) {
		next = m->next;
		if (!m->syncs && !m->promised)
			member_remove(g, m);
	}
	round_prepare(g);
}

static void look_at(struct group *g, int64_t now)
{
	struct member *m, *next;

	for (m = g->members; m; m = next) {
		next = m->next;
		if (is_missed(m, now)) {
			member_leave(g, m);
			next = g->members; /* others may have gone with it */
		}
	}
	if (g->state == GROUP_SYNCING && now >= g->deadline_ns)
		sync_is_late(g);
	round_check(g);
}

/* When it is to be looked at next. */
static int64_t due_next(const struct group *g)
{
	const bool waits = g->state == GROUP_JOINING || g->state == GROUP_SYNCING;
	int64_t next = waits ? g->deadline_ns : INT64_MAX;
	const struct member *m;

	for (m = g->members; m; m = m->next)
		if (!m->joins && !m->syncs && m->expires_ns < next)
			next = m->expires_ns;
	return next;
}

void group_tick(struct server *s)
{
	int64_t now = clock_ns();
	struct group *g;

	while (s->due_count > 0 && (g = s->due[0])->due_ns <= now) {
		look_at(g, now);
		if (!g->members && g->state == GROUP_EMPTY) {
			group_free(s, g);
			continue;
		}
		g->due_ns = due_next(g);
		if (g->due_ns <= now) /* it is not: a round that is over begins the next one */
			g->due_ns = now + 1;
		move_down(g);
	}
}

int64_t group_next_ns(struct server *s)
{
	return s->due_count > 0 ? s->due[0]->due_ns : INT64_MAX;
}

void group_close_all(struct server *s)
{
	struct group *g;

	while ((g = group_next(s, NULL)))
		group_free(s, g);
	table_free(&s->groups);
	free(s->due);
	s->due = NULL;
	s->due_count = s->due_room = 0;
}
