/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_copies_checks.h - what must be true of the brokers' copies in the world of broker_copies_sim_test.c, whatever clients see: one leader
 * in a term, what is committed durable with a majority, what was durable there after a power cut, nothing handed out that is not
 * committed, and in the end copies that are equal byte for byte.
 */
#ifndef BROKER_COPIES_CHECKS_H
#define BROKER_COPIES_CHECKS_H

#include "broker_copies_world.h"
#include "log_batches.h"

static struct thmqi_group *group_of(const struct world *w, uint32_t i, uint32_t k)
{
	const struct thmq_broker *b = w->brokers[i];

	return b && k < b->shard_count && b->shards[k].lead ? b->shards[k].lead->group : NULL;
}

/* @ends: it is killed now, and what it has made durable must be there when it comes back. */
static void note_copies(struct world *w, uint32_t i, bool ends)
{
	struct thmqi_group_state state;
	uint32_t k;

	for (k = 0; k < SHARDS; k++) {
		struct copy_seen *seen = &w->copies[i][k];
		struct thmqi_group *group = group_of(w, i, k);

		if (ends)
			seen->kept = 0;
		if (!group) { /* its log is being opened anew, since something of it was taken back: what it has is seen then */
			seen->durable = w->brokers[i] ? UINT64_MAX : seen->durable;
			continue;
		}
		thmqi_group_state(group, &state);
		seen->durable = state.durable;
		seen->committed = state.committed;
		/* one that has failed may have been about to take back what is not committed */
		if (ends)
			seen->kept = state.failed ? THMQI_MIN(state.durable, state.committed) : state.durable;
	}
}

static int check_kept(struct world *w, uint32_t i)
{
	struct thmqi_group_state state;
	uint32_t k;

	at = "what was durable";
	if (w->defect && w->defect->clients)
		return 0;
	for (k = 0; k < SHARDS; k++) {
		struct thmqi_group *group = group_of(w, i, k);

		if (!group)
			continue;
		thmqi_group_state(group, &state);
		CHECK(w, state.last >= w->copies[i][k].kept);
	}
	return 0;
}

/* Of those that vote, as the one says that knows of most: how many have it for sure? */
static int check_majority(struct world *w, uint32_t k, uint32_t knows, uint64_t committed)
{
	const struct thmqi_members *m = thmqi_group_members(group_of(w, knows, k));
	struct thmqi_group_state state;
	uint32_t i, voters = 0, have = 0;

	thmqi_group_state(group_of(w, knows, k), &state);
	for (i = 0; i < m->count; i++) {
		if (m->list[i].role != THMQI_MEMBER_VOTER)
			continue;
		voters++;
		have += w->copies[m->list[i].id - 1][k].durable >= committed;
	}
	/* while one of them comes or goes a majority of those before is enough */
	CHECK(w, !voters || have > (voters - !state.members_committed) / 2); /* what is committed is durable with a majority */
	return 0;
}

static int check_shard(struct world *w, uint32_t k)
{
	struct thmqi_group_state state;
	uint64_t committed = 0;
	uint32_t i, knows = BROKERS;

	for (i = 0; i < BROKERS; i++) {
		struct thmqi_group *group = group_of(w, i, k);

		if (!group)
			continue;
		thmqi_group_state(group, &state);
		if (state.committed > committed) {
			committed = state.committed;
			knows = i;
		}
		if (state.role != THMQI_ROLE_LEADER)
			continue;
		CHECK(w, state.term < TERMS);
		CHECK(w, !w->leader_of[k][state.term] || w->leader_of[k][state.term] == i + 1); /* one in a term */
		w->leader_of[k][state.term] = (uint8_t)(i + 1);
	}
	return committed ? check_majority(w, k, knows, committed) : 0;
}

static int check_copies(struct world *w)
{
	uint32_t i, k;

	at = "copies";
	if (w->defect && w->defect->clients)
		return 0;
	for (i = 0; i < BROKERS; i++)
		note_copies(w, i, false);
	for (k = 0; k < SHARDS; k++)
		if (check_shard(w, k))
			return -1;
	return 0;
}

/* All that is committed, of all that still have it. */
static int check_equal(struct world *w, uint32_t k)
{
	static uint8_t a[BATCH_BYTES_MAX], b[BATCH_BYTES_MAX];
	struct thmqi_group *group, *other;
	struct thmqi_group_state state;
	uint64_t begin, first = 0, end = UINT64_MAX, term, index;
	uint32_t i, len, one = 0;

	for (i = 0; i < BROKERS; i++) {
		if (!w->used[i])
			continue;
		one = i;
		group = group_of(w, i, k);
		CHECK(w, group);
		thmqi_group_state(group, &state);
		thmqi_log_begin(thmqi_group_log(group), &begin, &term);
		first = THMQI_MAX(first, begin + 1);
		end = THMQI_MIN(end, THMQI_MIN(state.committed, state.durable)); /* one may know of what it is still writing */
	}
	CHECK(w, first <= end);
	for (index = first; index <= end; index++) {
		len = batch_bytes(thmqi_group_log(group_of(w, one, k)), index, a, true);
		CHECK(w, len);
		for (i = 0; i < one; i++) {
			other = group_of(w, i, k);
			CHECK(w, !other || batch_bytes(thmqi_group_log(other), index, b, true) == len);
			CHECK(w, !other || batches_equal(a, b, len));
		}
	}
	return 0;
}

static bool is_even(const struct world *w, uint32_t k)
{
	struct thmqi_group_state state;
	uint64_t most = 0, least = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < BROKERS; i++) {
		if (!w->used[i])
			continue;
		if (!group_of(w, i, k))
			return false;
		thmqi_group_state(group_of(w, i, k), &state);
		most = THMQI_MAX(most, state.committed);
		least = THMQI_MIN(least, THMQI_MIN(state.committed, state.durable));
	}
	return least == most;
}

/* All have what any of them knows to be committed: of all shards at the same time, since one that is waited for leaves time for an election of another. */
static bool all_even(const struct world *w)
{
	uint32_t k;

	for (k = 0; k < SHARDS; k++)
		if (!is_even(w, k))
			return false;
	return true;
}

static int check_all_equal(struct world *w)
{
	uint64_t until = now(w) + 20 * SECOND;
	uint32_t k;

	while (!all_even(w) && now(w) < until) { /* a disk may stand still, and one may be opening its log anew, since something of it was taken back */
		if (tend(w))
			return -1;
		thmq_poll(w->env, MS);
	}
	at = "copies, byte for byte";
	if (w->defect && w->defect->clients)
		return 0;
	for (k = 0; k < SHARDS; k++)
		if (check_equal(w, k))
			return -1;
	return 0;
}

/* Where nobody leads: is what is handed out committed? */
static int check_read(struct world *w, const struct shard *s)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view view;
	struct partition *p;
	uint32_t i = 0;

	while ((p = thmqi_map_next((struct thmqi_map *)&s->partitions, &i))) {
		if (p->dead || !p->log || !p->visible || thmqi_is_own_partition(p->id))
			continue;
		CHECK(w, thmq_log_reader_open(p->log, p->id, NULL, NULL, &reader) == 0);
		thmq_log_reader_seek(reader, p->visible - 1);
		if (thmq_log_read(reader, p->visible, &view) == 1) {
			CHECK(w, view.run.index <= s->lead->known);
			thmq_log_view_release(p->log, &view);
		}
		thmq_log_reader_close(reader);
	}
	return 0;
}

static int check_reads(struct world *w)
{
	uint32_t i, k;

	at = "read without a majority";
	for (i = 0; i < BROKERS; i++)
		for (k = 1; w->brokers[i] && k < w->brokers[i]->shard_count; k++)
			if (w->brokers[i]->shards[k].reads_only) {
				w->read++;
				if (check_read(w, &w->brokers[i]->shards[k]))
					return -1;
			}
	return 0;
}

static void tell_broker(struct thmq_broker *b)
{
	uint32_t i;

	for (i = 0; b && i < b->shard_count; i++) {
		const struct shard *s = &b->shards[i];
		struct thmqi_group_state state = {0};

		if (s->lead && s->lead->group)
			thmqi_group_state(s->lead->group, &state);
		fprintf(stderr,
			"broker %u, %s: role %u, serves %d, term %u, leader %u, last %u, durable "
			"%u, committed %u, begins %u, error %d, rebuild %d\n",
			(unsigned)b->opts.node_id, s->name, state.role, s->lead && s->lead->serves,
			(unsigned)state.term, (unsigned)state.leader, (unsigned)state.last,
			(unsigned)state.durable, (unsigned)state.committed,
			s->lead ? (unsigned)s->lead->begin_index : 0,
			s->failed ? s->failed : state.failed, s->lead && s->lead->rebuild);
	}
}

#endif
