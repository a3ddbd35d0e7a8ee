/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bereft.c - a shard with copies that nobody leads, since no majority of them is there: what is committed is handed out all the same,
 * to sessions that read by themselves, and nothing is changed. So each copy knows at any time which runs it was told are not
 * committed yet. A broker does it for a while, then sends its sessions to look for who leads; they come back where nobody does. Knows
 * nothing of elections, and not how a run is handed out.
 */
#include "lead.h"

#define ELECTIONS 10u /* so many could have been held by then: 3 s, if the options do not say */
#define ELECTION_MS 300u /* if the options do not say */
#define READS_NS 10000000000ull

bool thmqi_bereft_note(struct shard *s, struct partition *p, uint64_t index, uint64_t end)
{
	struct lead *l = s->lead;

	if (index <= l->known)
		return false;
	if (!l->group || l->all_tail - l->all_head == PENDING_COUNT) {
		l->told_index = index;
		return false;
	}
	/* none waits: begin where the ring does, so that who never has many touches no more */
	if (l->all_head == l->all_tail)
		l->all_head = l->all_tail = THMQI_ALIGN_UP(l->all_tail, (uint64_t)PENDING_COUNT);
	l->all[l->all_tail++ & (PENDING_COUNT - 1)] =
		(struct pending){.index = index, .partition = p, .end_offset = end};
	return true;
}

void thmqi_bereft_committed(struct shard *s, uint64_t index)
{
	struct lead *l = s->lead;
	struct pending *e;

	l->known = THMQI_MAX(l->known, index);
	while (!l->serves && l->all_head != l->all_tail) {
		e = &l->all[l->all_head & (PENDING_COUNT - 1)];
		if (e->index > index)
			break;
		thmqi_partition_reach(s, e->partition, e->end_offset);
		l->all_head++;
	}
}

void thmqi_bereft_begin_serving(struct shard *s)
{
	thmqi_bereft_end(s);
	s->lead->all_head = s->lead->all_tail;
}

static bool is_meta(const struct shard *s)
{
	return s->id == THMQI_SHARD_META;
}

void thmqi_bereft_note_role(struct shard *s)
{
	struct lead *l = s->lead;

	if (l->leader)
		l->bereft_ns = 0;
	else if (!l->bereft_ns)
		l->bereft_ns = s->core->now_ns;
	if (is_meta(s))
		atomic_store(&s->broker->leaderless_ns, l->bereft_ns);
}

static uint64_t patience_ns(const struct shard *s)
{
	uint32_t ms = s->broker->opts.election_ms ? s->broker->opts.election_ms : ELECTION_MS;

	return ELECTIONS * ms * 1000000ull;
}

bool thmqi_bereft_of_meta(const struct shard *s)
{
	uint64_t since = atomic_load(&s->broker->leaderless_ns), now = s->core->now_ns;

	return since && now > since && now - since >= patience_ns(s);
}

/* ------------------------------------------------------------------ reading */

/* A topic that may be taken back harms nobody, messages that may do. */
static bool may_begin(const struct shard *s)
{
	const struct lead *l = s->lead;

	if (l->serves || l->leader || l->rebuild || l->reopens || s->failed || s->closing || !l->group || l->known <= 1) /* that one each began with */
		return false;
	if (atomic_load(&s->broker->removed)) /* others know more */
		return false;
	if (!is_meta(s) && (l->known < l->told_index || !atomic_load(&s->broker->reads)))
		return false;
	return l->bereft_ns && s->core->now_ns - l->bereft_ns >= patience_ns(s);
}

static void begin(struct shard *s)
{
	s->reads_only = true;
	s->lead->reads_ns = s->core->now_ns;
	if (is_meta(s))
		atomic_store(&s->broker->reads, true);
	thmqi_lead_welcome_all(s);
}

void thmqi_bereft_end(struct shard *s)
{
	if (!s->reads_only)
		return;
	if (is_meta(s))
		atomic_store(&s->broker->reads, false);
	thmqi_lead_send_away(s, -THMQ_ENOTLEADER);
	s->reads_only = false;
}

void thmqi_bereft_step(struct shard *s)
{
	bool over = is_meta(s) ? s->core->now_ns - s->lead->reads_ns >= READS_NS || atomic_load(&s->broker->removed) : !atomic_load(&s->broker->reads);

	if (s->reads_only && over)
		thmqi_bereft_end(s);
	else if (!s->reads_only && may_begin(s))
		begin(s);
}
