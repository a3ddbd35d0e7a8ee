/* SPDX-License-Identifier: Apache-2.0 */
/*
 * newcomer.c - a copy whose directory is new neither votes nor stands for election before it has heard of each of the others that vote: who
 * speaks to it has met it, and will know it again. So none that is emptied later can be taken for one that has never voted, by another
 * one that never knew it: there is none such. Knows not how copies meet.
 */
#include "internal.h"

#define PROBE_MS 50u

void thmqi_newcomer_heard(struct thmqi_group *g, uint64_t id)
{
	uint32_t i;

	for (i = 0; i < g->heard_count && g->heard[i] != id; i++)
		;
	if (i == g->heard_count && i < THMQI_ARRAY_COUNT(g->heard))
		g->heard[g->heard_count++] = id;
}

static bool was_heard(const struct thmqi_group *g, uint64_t id)
{
	uint32_t i;

	for (i = 0; i < g->heard_count && g->heard[i] != id; i++)
		;
	return id == g->opts.id || i < g->heard_count;
}

/* One that joins others has what these gave it, or is none of them yet. */
static bool is_known(const struct thmqi_group *g)
{
	const struct thmqi_members *m = &g->membership.members;
	uint32_t i;

	if (g->joins)
		return thmqi_log_last(g->log) != 0;
	for (i = 0; i < m->count; i++)
		if (m->list[i].role == THMQI_MEMBER_VOTER && !was_heard(g, m->list[i].id))
			return false;
	return m->count != 0;
}

bool thmqi_newcomer_is_known(struct thmqi_group *g)
{
	const struct thmqi_members *m = &g->membership.members;
	uint64_t now = thmqi_group_now_ms(g);
	uint32_t i;

	if (is_known(g)) {
		g->newcomer = false;
		if (g->opts.events.known)
			g->opts.events.known(g->opts.events.ctx);
		return true;
	}
	if (now < g->probe_ms)
		return false;
	g->probe_ms = now + PROBE_MS;
	for (i = 0; i < m->count && !g->joins; i++) {
		/* what an answer to it says is not looked at, since this copy asks for no vote */
		const struct thmqi_message probe = {.magic = THMQI_MESSAGE_MAGIC,
						    .version = THMQI_MESSAGE_VERSION,
						    .type = THMQI_MESSAGE_VOTE,
						    .flags = THMQI_MESSAGE_PRE_VOTE,
						    .group = g->opts.group,
						    .from = g->opts.id,
						    .to = m->list[i].id,
						    .term = thmqi_engine_term(g->engine) + 1,
						    .index = thmqi_log_last(g->log),
						    .index_term = thmqi_log_term_of(g->log, thmqi_log_last(g->log))};

		if (m->list[i].id != g->opts.id && g->outbox_count < OUTBOX_COUNT)
			g->outbox[g->outbox_count++] = probe;
	}
	return false;
}
