/* SPDX-License-Identifier: Apache-2.0 */
/* The engine by hand: a copy alone, and two that talk. Each rule against a defect of raft's is seen at work, and seen missing. */
#include <stdio.h>

#include <criterion/criterion.h>

#include "engine.h"

#define SENT_MAX 256u

struct rig {
	struct thmqi_engine *e;
	struct thmqi_membership m;
	struct {
		uint64_t index, term;
	} terms[8];
	uint32_t term_count;
	struct thmqi_message sent[SENT_MAX];
	uint32_t batches[SENT_MAX], sent_count;
	uint64_t now;
	struct thmqi_duties d;
};

static void on_send(void *ctx, const struct thmqi_message *message, uint32_t batches)
{
	struct rig *r = ctx;

	cr_assert_lt(r->sent_count, SENT_MAX);
	r->sent[r->sent_count] = *message;
	r->batches[r->sent_count++] = batches;
}

static bool next_terms(void *ctx, uint32_t at, uint64_t *ret_index, uint64_t *ret_term)
{
	struct rig *r = ctx;

	if (at >= r->term_count)
		return false;
	*ret_index = r->terms[at].index;
	*ret_term = r->terms[at].term;
	return true;
}

/* From copy 2, which leads, to copy 1: what is behind @index. */
static struct thmqi_message append_of(uint64_t term, uint64_t index, uint64_t index_term, uint64_t commit)
{
	return (struct thmqi_message){.type = THMQI_MESSAGE_APPEND,
				      .from = 2,
				      .to = 1,
				      .group = 1,
				      .term = term,
				      .index = index,
				      .index_term = index_term,
				      .commit = commit};
}

/* A copy whose log has batches up to @last, of @term but for the first. */
static void rig_start_seeded(struct rig *r, uint64_t id, uint32_t voters, uint64_t last, uint64_t term,
			     uint32_t defects, uint32_t seed)
{
	const struct thmqi_engine_opts opts = {.id = id,
					       .group = 1,
					       .heartbeat_ms = 10,
					       .election_ms = 50,
					       .seed = seed,
					       .defects = defects,
					       .send = on_send,
					       .ctx = r};
	const struct thmqi_engine_start s = {.now_ms = 1000,
					     .term = term,
					     .last = last,
					     .membership = &r->m,
					     .terms = next_terms,
					     .ctx = r};

	memset(r, 0, sizeof(*r));
	r->now = 1000;
	r->m.index = 1;
	r->m.members.count = voters;
	for (uint32_t i = 0; i < voters; i++) {
		r->m.members.list[i].id = i + 1;
		r->m.members.list[i].role = THMQI_MEMBER_VOTER;
		snprintf(r->m.members.list[i].address, THMQI_ADDRESS_MAX, "%u", i + 1);
	}
	r->terms[0].index = 1;
	r->terms[0].term = 1;
	r->term_count = 1;
	if (last > 1 && term > 1) {
		r->terms[1].index = 2;
		r->terms[1].term = term;
		r->term_count = 2;
	}
	cr_assert_eq(thmqi_engine_open(&opts, &r->e), 0);
	cr_assert_eq(thmqi_engine_start(r->e, &s, &r->d), 0);
}

static void rig_start(struct rig *r, uint64_t id, uint32_t voters, uint64_t last, uint64_t term, uint32_t defects)
{
	rig_start_seeded(r, id, voters, last, term, defects, (uint32_t)id);
}

static void receive(struct rig *r, struct thmqi_message m)
{
	m.group = 1;
	r->sent_count = 0;
	cr_assert_eq(thmqi_engine_receive(r->e, r->now, &m, NULL, &r->d), 0);
}

/* It stands, and gets the vote of copy 2 twice: it leads. */
static void rig_lead(struct rig *r)
{
	r->now += 200;
	cr_assert_eq(thmqi_engine_timeout(r->e, r->now, &r->d), 0);
	for (uint32_t i = 0; i < 2; i++) {
		cr_assert_eq(thmqi_engine_role(r->e), THMQI_ROLE_CANDIDATE);
		receive(r, (struct thmqi_message){
				   .type = THMQI_MESSAGE_VOTED,
				   .from = 2,
				   .to = 1,
				   .term = thmqi_engine_term(r->e) + !i,
				   .flags = (uint8_t)(THMQI_MESSAGE_GRANTED |
						      (i ? 0 : THMQI_MESSAGE_PRE_VOTE))});
	}
	cr_assert_eq(thmqi_engine_role(r->e), THMQI_ROLE_LEADER);
}

static void acknowledge(struct rig *r, uint64_t from, uint64_t index, uint64_t refused)
{
	receive(r, (struct thmqi_message){.type = THMQI_MESSAGE_APPENDED,
					  .from = from,
					  .to = 1,
					  .term = thmqi_engine_term(r->e),
					  .index = index,
					  .index_term = refused,
					  .features = 1});
}

static const struct thmqi_message *last_append(const struct rig *r, uint64_t to,
					       uint32_t *ret_batches)
{
	for (uint32_t i = r->sent_count; i-- > 0;)
		if (r->sent[i].type == THMQI_MESSAGE_APPEND && r->sent[i].to == to) {
			*ret_batches = r->batches[i];
			return &r->sent[i];
		}
	return NULL;
}

Test(replica_engine, commits_what_a_majority_has_and_only_of_its_own_term)
{
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, 0);
	rig_lead(&r);
	cr_assert_eq(r.d.noop, 11);
	cr_assert_eq(thmqi_engine_committed(r.e), 1);
	/* of older terms: not by counting who has it */
	acknowledge(&r, 2, 10, 0);
	cr_assert_eq(thmqi_engine_committed(r.e), 1);
	acknowledge(&r, 2, 11, 0);
	cr_assert_eq(thmqi_engine_committed(r.e), 1);
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 11, &r.d), 0);
	cr_assert(r.d.commit);
	cr_assert_eq(thmqi_engine_committed(r.e), 11);
	thmqi_engine_close(r.e);
}

Test(replica_engine, a_voter_that_is_alone_leads_at_once)
{
	struct rig r;

	rig_start(&r, 1, 1, 5, 2, 0);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_LEADER);
	cr_assert_eq(thmqi_engine_committed(r.e), 5);
	thmqi_engine_close(r.e);
}

Test(replica_engine, refuses_what_its_log_and_raft_do_not_number_alike)
{
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, 0);
	cr_assert_eq(thmqi_engine_submit(r.e, r.now, 11, 2, NULL, &r.d),
		     -THMQ_ECORRUPT); /* it does not lead */
	rig_lead(&r);
	cr_assert_eq(thmqi_engine_submit(r.e, r.now, 13, 3, NULL, &r.d), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_engine_submit(r.e, r.now, 12, 2, NULL, &r.d), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 12, &r.d), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 10, &r.d), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_engine_submit(r.e, r.now, 12, 3, NULL, &r.d), 0);
	thmqi_engine_close(r.e);
}

/* B2: what precedes a message was dropped here. */
static uint64_t answer_about_what_was_dropped(uint32_t defects, uint64_t *ret_refused)
{
	const struct thmqi_engine_entry entries[4] = {
		{.term = 2}, {.term = 2}, {.term = 2}, {.term = 2}};
	const struct thmqi_message old = append_of(3, 4, 2, 10);
	struct thmqi_message m = append_of(3, 10, 2, 10);
	uint64_t index;
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, defects);
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, NULL, 0, &r.d), 0);
	cr_assert_eq(thmqi_engine_committed(r.e), 10);
	cr_assert_eq(thmqi_engine_dropped(r.e, r.now, 6, 2, &r.m, &r.d), 0);
	r.sent_count = 0;
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &old, entries, 4, &r.d), 0);
	cr_assert_eq(r.d.take, 0);
	cr_assert_eq(r.sent_count, 1);
	cr_assert_eq(r.sent[0].type, THMQI_MESSAGE_APPENDED);
	index = r.sent[0].index;
	*ret_refused = r.sent[0].index_term;
	thmqi_engine_close(r.e);
	return index;
}

Test(replica_engine, says_what_it_has_where_what_precedes_was_dropped)
{
	uint64_t refused;

	cr_assert_eq(answer_about_what_was_dropped(0, &refused), 8);
	cr_assert_eq(refused, 0);
	answer_about_what_was_dropped(THMQI_GROUP_NO_B2, &refused);
	cr_assert_eq(refused, 4, "the rule makes no difference any more");
}

/* B8: a refusal that comes late, while a copy is probed. Return: batches that it is sent then. */
static uint32_t probe_after_late_refusal(uint32_t defects)
{
	uint32_t batches = 0;
	struct rig r;

	rig_start(&r, 1, 3, 30, 2, defects);
	rig_lead(&r);
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 31, &r.d), 0);
	acknowledge(&r, 2, 20, 0);         /* it has so much */
	for (uint32_t i = 0; i < 8; i++) { /* and is silent; the third is heard of */
		r.now += 15;
		acknowledge(&r, 3, 31, 0);
		cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
	}
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_LEADER);
	acknowledge(&r, 2, 4, 20); /* sent when it had four */
	r.now += 15;
	r.sent_count = 0;
	cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
	cr_assert_not_null(last_append(&r, 2, &batches));
	thmqi_engine_close(r.e);
	return batches;
}

Test(replica_engine, a_late_refusal_does_not_end_what_is_sent)
{
	cr_assert_eq(probe_after_late_refusal(0), 11);
	cr_assert_eq(probe_after_late_refusal(THMQI_GROUP_NO_B8), 0,
		     "the rule makes no difference any more");
}

/* Of what the other is known to have: so it looks like a late one. Dropped, this one would lead for ever, and the other ask for ever to do so. */
Test(replica_engine, a_refusal_of_a_newer_term_is_heard_whatever_it_refuses)
{
	struct thmqi_message refusal = {.type = THMQI_MESSAGE_APPENDED, .from = 2, .to = 1, .index_term = 20};
	struct rig r;

	rig_start(&r, 1, 3, 30, 2, 0);
	rig_lead(&r);
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 31, &r.d), 0);
	acknowledge(&r, 2, 20, 0);
	refusal.term = thmqi_engine_term(r.e);
	receive(&r, refusal);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_LEADER);
	refusal.term += 5;
	receive(&r, refusal);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_FOLLOWER);
	thmqi_engine_close(r.e);
}

/* B16: copy 1, whose batches are of @term, comes to lead; those of copy 2 are of @other, but for the first. Return: how often copy 2 refuses. */
static uint32_t refusals(uint64_t term, uint64_t other, uint32_t defects)
{
	struct thmqi_message m;
	struct rig leader, r;
	uint32_t n = 0, batches;

	rig_start(&leader, 1, 3, 60, term, defects);
	rig_start(&r, 2, 3, 50, other, defects);
	receive(&leader, (struct thmqi_message){.type = THMQI_MESSAGE_VOTE, .from = 3, .to = 1, .term = 9});
	rig_lead(&leader);
	for (;; n++) {
		cr_assert_not_null(last_append(&leader, 2, &batches));
		m = *last_append(&leader, 2, &batches);
		m.from = 1;
		r.sent_count = 0;
		cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, NULL, 0, &r.d), 0);
		cr_assert_eq(r.sent_count, 1);
		m = r.sent[0];
		if (!m.index_term)
			break;
		m.from = 2;
		receive(&leader, m);
	}
	cr_assert_eq(m.index, 1, "all behind the first one differs");
	thmqi_engine_close(leader.e);
	thmqi_engine_close(r.e);
	return n;
}

Test(replica_engine, a_copy_with_other_batches_is_not_asked_about_each)
{
	cr_assert_eq(refusals(3, 2, 0), 1);
	cr_assert_eq(refusals(2, 3, 0), 1);
	cr_assert_eq(refusals(3, 2, THMQI_GROUP_NO_B16), 50, "the rule makes no difference any more");
	cr_assert_eq(refusals(2, 3, THMQI_GROUP_NO_B16), 50, "the rule makes no difference any more");
}

/* What lies where calls to come have their variables. */
static void __attribute__((noinline)) litter(void)
{
	volatile uint8_t memory[16384];

	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = 0xff;
}

/* B10 */
Test(replica_engine, answers_who_leads_in_an_older_term_with_nothing_that_lay_in_memory)
{
	const struct thmqi_message old = {.type = THMQI_MESSAGE_APPEND, .from = 2, .to = 1, .term = 1, .index = 4, .index_term = 1};
	struct rig r;

	rig_start(&r, 1, 3, 30, 2, 0);
	r.sent_count = 0;
	litter();
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &old, NULL, 0, &r.d), 0);
	cr_assert_eq(r.sent_count, 1);
	cr_assert_eq(r.sent[0].type, THMQI_MESSAGE_APPENDED);
	cr_assert_eq(r.sent[0].index_term, 4); /* refused */
	cr_assert_eq(r.sent[0].index, 0);
	thmqi_engine_close(r.e);
}

/* B6 */
/* B11: a copy that is busy writing says nothing for longer than heartbeats are apart. Return: what is sent to copy 3 behind that. */
static uint64_t next_after_silence(uint64_t ms)
{
	const struct thmqi_message *m;
	uint64_t end, first;
	uint32_t batches;
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, 0);
	rig_lead(&r);
	acknowledge(&r, 2, 11, 0);
	acknowledge(&r, 3, 11, 0);
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 11, &r.d), 0);
	cr_assert_eq(thmqi_engine_submit(r.e, r.now, 12, thmqi_engine_term(r.e), NULL, &r.d), 0);
	for (end = r.now + ms; r.now < end; r.now++) {
		if (r.now < thmqi_engine_timeout_ms(r.e))
			continue;
		acknowledge(&r, 2, 12, 0);
		cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
		cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_LEADER);
	}
	r.sent_count = 0;
	cr_assert_eq(thmqi_engine_submit(r.e, r.now, 13, thmqi_engine_term(r.e), NULL, &r.d), 0);
	m = last_append(&r, 3, &batches);
	first = m ? m->index + 1 : 0;
	thmqi_engine_close(r.e);
	return first;
}

Test(replica_engine, what_was_sent_to_a_copy_is_not_sent_again_because_it_is_silent_for_a_moment)
{
	cr_assert_eq(next_after_silence(24), 13);
	/* it has gone: what it did not acknowledge is sent again, or nothing before it says something */
	cr_assert_neq(next_after_silence(90), 13);
}

/* B11 changes nothing of when a leader that is heard by nobody gives up. */
Test(replica_engine, a_leader_that_hears_of_no_majority_steps_down_after_an_election)
{
	uint64_t heard, end;
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, 0);
	rig_lead(&r);
	for (end = r.now + 200; r.now < end; r.now++) {
		acknowledge(&r, 2, 11, 0);
		if (r.now >= thmqi_engine_timeout_ms(r.e))
			cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
		cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_LEADER);
	}
	for (heard = r.now - 1; thmqi_engine_role(r.e) == THMQI_ROLE_LEADER; r.now++)
		if (r.now >= thmqi_engine_timeout_ms(r.e))
			cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
	/* 50, and a heartbeat's 10 */
	cr_assert(r.now - heard >= 50 && r.now - heard <= 62, "%llu", (unsigned long long)(r.now - heard));
	thmqi_engine_close(r.e);
}

Test(replica_engine, changes_one_voter_at_a_time_and_when_its_own_term_is_committed)
{
	struct thmqi_members to;
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, 0);
	to = r.m.members;
	cr_assert_eq(thmqi_engine_may_change(r.e, &r.m.members, &to), -THMQ_ENOTLEADER);
	rig_lead(&r);
	to.list[2].role = THMQI_MEMBER_STANDBY;
	cr_assert_eq(thmqi_engine_may_change(r.e, &r.m.members, &to), -EAGAIN);
	acknowledge(&r, 2, 11, 0);
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 11, &r.d), 0);
	cr_assert_eq(thmqi_engine_may_change(r.e, &r.m.members, &to), 0);
	to.list[1].role = THMQI_MEMBER_STANDBY;
	cr_assert_eq(thmqi_engine_may_change(r.e, &r.m.members, &to), -EINVAL);
	to.list[0].role = THMQI_MEMBER_STANDBY;
	cr_assert_eq(thmqi_engine_may_change(r.e, &r.m.members, &to), -EINVAL);
	thmqi_engine_close(r.e);
}

/* B9: one that was made a voter by a batch that it has not got. */
static bool votes_unknowing(uint32_t defects)
{
	struct rig r;
	bool granted;

	rig_start(&r, 1, 3, 10, 2, defects);
	thmqi_engine_close(r.e);
	r.m.members.list[0].role = THMQI_MEMBER_STANDBY;
	const struct thmqi_engine_opts opts = {.id = 1,
					       .group = 1,
					       .heartbeat_ms = 10,
					       .election_ms = 50,
					       .seed = 1,
					       .defects = defects,
					       .send = on_send,
					       .ctx = &r};
	const struct thmqi_engine_start s = {.now_ms = 1000,
					     .term = 2,
					     .last = 10,
					     .membership = &r.m,
					     .terms = next_terms,
					     .ctx = &r};

	cr_assert_eq(thmqi_engine_open(&opts, &r.e), 0);
	cr_assert_eq(thmqi_engine_start(r.e, &s, &r.d), 0);
	receive(&r, (struct thmqi_message){.type = THMQI_MESSAGE_VOTE,
					   .from = 2,
					   .to = 1,
					   .term = 3,
					   .index = 12,
					   .index_term = 2});
	cr_assert_eq(r.sent_count, 1);
	granted = r.sent[0].flags & THMQI_MESSAGE_GRANTED;
	cr_assert_eq(thmqi_engine_voted_for(r.e), granted ? 2 : 0);
	cr_assert_eq(r.d.vote, true);
	/* and never twice in a term, nor for less than it has */
	receive(&r, (struct thmqi_message){.type = THMQI_MESSAGE_VOTE,
					   .from = 3,
					   .to = 1,
					   .term = 3,
					   .index = 12,
					   .index_term = 2});
	cr_assert_not(r.sent[0].flags & THMQI_MESSAGE_GRANTED);
	receive(&r, (struct thmqi_message){.type = THMQI_MESSAGE_VOTE,
					   .from = 3,
					   .to = 1,
					   .term = 4,
					   .index = 9,
					   .index_term = 2});
	cr_assert_not(r.sent[0].flags & THMQI_MESSAGE_GRANTED);
	/* it does not stand by itself */
	r.now += 1000;
	cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_FOLLOWER);
	thmqi_engine_close(r.e);
	return granted;
}

Test(replica_engine, votes_though_it_does_not_know_that_it_may)
{
	cr_assert(votes_unknowing(0));
	cr_assert_not(votes_unknowing(THMQI_GROUP_NO_B9), "the rule makes no difference any more");
}

/* B12: @voters others vote, copy 2 first; copy 1 is behind them in the list, or not in it. It waits until it stands, or @waits times. Return: its times. */
static uint32_t outsider_waits(struct rig *r, uint32_t voters, bool listed, uint32_t waits, uint32_t defects)
{
	const struct thmqi_engine_opts opts = {.id = 1,
					       .group = 1,
					       .heartbeat_ms = 10,
					       .election_ms = 50,
					       .seed = voters,
					       .defects = defects,
					       .send = on_send,
					       .ctx = r};
	const struct thmqi_engine_start s = {.now_ms = 1000,
					     .term = 2,
					     .last = 10,
					     .membership = &r->m,
					     .terms = next_terms,
					     .ctx = r};
	uint32_t i, n;

	rig_start(r, 1, voters + 1, 10, 2, 0);
	thmqi_engine_close(r->e);
	/* another place than the first, so that one that is taken for another is seen */
	r->m.members.list[0] = r->m.members.list[voters];
	r->m.members.list[voters].id = 1;
	r->m.members.list[voters].role = THMQI_MEMBER_STANDBY;
	strcpy(r->m.members.list[voters].address, "1");
	if (listed && voters > 1) {
		struct thmqi_member last = r->m.members.list[voters];

		r->m.members.list[voters] = r->m.members.list[1];
		r->m.members.list[1] = last;
	}
	r->m.members.count = voters + listed;
	r->sent_count = 0;
	cr_assert_eq(thmqi_engine_open(&opts, &r->e), 0);
	cr_assert_eq(thmqi_engine_start(r->e, &s, &r->d), 0);
	for (n = 0; n < waits && thmqi_engine_role(r->e) == THMQI_ROLE_FOLLOWER; n++) {
		cr_assert_eq(r->sent_count, 0);
		r->now = thmqi_engine_timeout_ms(r->e);
		cr_assert_eq(thmqi_engine_timeout(r->e, r->now, &r->d), 0);
	}
	for (i = 0; i < r->sent_count; i++)
		cr_assert(r->sent[i].to >= 2 && r->sent[i].to <= voters + 1);
	return n;
}

/* Return: votes that it needed. */
static uint32_t outsider_gets_votes(struct rig *r, uint32_t voters, bool pre_vote)
{
	uint32_t i;

	for (i = 0; i < voters; i++) {
		if (thmqi_engine_role(r->e) == THMQI_ROLE_LEADER || (pre_vote && thmqi_engine_term(r->e) > 2))
			break;
		cr_assert_eq(thmqi_engine_role(r->e), THMQI_ROLE_CANDIDATE);
		receive(r, (struct thmqi_message){
				   .type = THMQI_MESSAGE_VOTED,
				   .from = 2 + i,
				   .to = 1,
				   .term = 3,
				   .flags = (uint8_t)(THMQI_MESSAGE_GRANTED | (pre_vote ? THMQI_MESSAGE_PRE_VOTE : 0))});
	}
	return i;
}

static void outsider_leads(uint32_t voters, bool listed)
{
	const uint32_t majority = voters / 2 + 1;
	struct rig r;

	cr_assert_eq(outsider_waits(&r, voters, listed, 20, 0), 4);
	cr_assert_eq(r.sent_count, voters);
	cr_assert_eq(thmqi_engine_term(r.e), 2); /* nobody's term rises by this */
	cr_assert_eq(outsider_gets_votes(&r, voters, true), majority);
	cr_assert_eq(r.sent_count, voters);
	cr_assert_eq(thmqi_engine_voted_for(r.e), 1); /* it votes for nobody else in this term */
	cr_assert_eq(outsider_gets_votes(&r, voters, false), majority);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_LEADER);
	cr_assert(thmqi_engine_is_outsider(r.e));
	cr_assert_eq(r.d.noop, 11);
	/* what it has stored does not count */
	cr_assert_eq(thmqi_engine_persisted(r.e, r.now, 11, &r.d), 0);
	for (uint32_t i = 0; i < majority; i++) {
		cr_assert_eq(thmqi_engine_committed(r.e), 1);
		acknowledge(&r, 2 + i, 11, 0);
	}
	cr_assert_eq(thmqi_engine_committed(r.e), 11);
	cr_assert_eq(thmqi_engine_match(r.e, 2), 11);
	cr_assert_eq(thmqi_engine_may_change(r.e, &r.m.members, &r.m.members), -EAGAIN);
	/* and it hands over */
	r.sent_count = 0;
	cr_assert_eq(thmqi_engine_transfer(r.e, r.now, 2, &r.d), 0);
	cr_assert_eq(r.sent_count, 1);
	cr_assert_eq(r.sent[0].type, THMQI_MESSAGE_TIMEOUT_NOW);
	cr_assert_eq(r.sent[0].to, 2);
	receive(&r, (struct thmqi_message){.type = THMQI_MESSAGE_VOTE,
					   .flags = THMQI_MESSAGE_DISRUPT,
					   .from = 2,
					   .to = 1,
					   .term = 4,
					   .index = 11,
					   .index_term = 3});
	cr_assert(r.sent[0].flags & THMQI_MESSAGE_GRANTED);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_FOLLOWER);
	thmqi_engine_close(r.e);
}

Test(replica_engine, who_is_no_voter_stands_once_nobody_leads_for_long_and_counts_for_nothing)
{
	struct rig r;

	for (uint32_t voters = 1; voters < THMQI_MEMBERS_MAX; voters++)
		for (uint32_t listed = 0; listed <= 1; listed++)
			outsider_leads(voters, listed);
	cr_assert_eq(outsider_waits(&r, 3, true, 20, THMQI_GROUP_NO_B12), 20, "the rule makes no difference any more");
	thmqi_engine_close(r.e);
}

/* B12 without a majority of those who vote, whatever it hears and however long. */
Test(replica_engine, who_is_no_voter_disturbs_nobody)
{
	struct thmqi_message heartbeat = append_of(2, 10, 2, 1);
	struct rig r;

	/* whoever hears of a leader now and then does not stand */
	cr_assert_eq(outsider_waits(&r, 3, true, 3, 0), 3);
	for (uint32_t i = 0; i < 10; i++) {
		r.now = thmqi_engine_timeout_ms(r.e) - 1;
		cr_assert_eq(thmqi_engine_append(r.e, r.now, &heartbeat, NULL, 0, &r.d), 0);
		for (uint32_t k = 0; k < 3; k++) {
			r.now = thmqi_engine_timeout_ms(r.e);
			cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
			cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_FOLLOWER);
		}
	}
	/* it is refused for ever, and no term rises; then it hears of a leader */
	for (uint32_t i = 0; i < 100; i++) {
		r.sent_count = 0;
		r.now = thmqi_engine_timeout_ms(r.e);
		cr_assert_eq(thmqi_engine_timeout(r.e, r.now, &r.d), 0);
		cr_assert_eq(r.sent_count, 3);
		for (uint32_t k = 0; k < 3; k++)
			cr_assert(r.sent[k].flags & THMQI_MESSAGE_PRE_VOTE);
		receive(&r, (struct thmqi_message){
				    .type = THMQI_MESSAGE_VOTED, .from = 2, .to = 1, .term = 3, .flags = THMQI_MESSAGE_PRE_VOTE});
		cr_assert_eq(thmqi_engine_term(r.e), 2);
		cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_CANDIDATE);
	}
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &heartbeat, NULL, 0, &r.d), 0);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_FOLLOWER);
	cr_assert_eq(thmqi_engine_leader(r.e), 2);
	thmqi_engine_close(r.e);
}

/* B13: what came before comes again, behind what says that more is committed. Return: what is known to be. */
static uint64_t committed_behind_a_late_message(uint32_t defects)
{
	struct thmqi_message m = append_of(2, 10, 2, 8);
	uint64_t committed;
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, defects);
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, NULL, 0, &r.d), 0);
	cr_assert_eq(thmqi_engine_committed(r.e), 8);
	m.index = 5;
	m.commit = 9;
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, NULL, 0, &r.d), 0);
	committed = thmqi_engine_committed(r.e);
	thmqi_engine_close(r.e);
	return committed;
}

Test(replica_engine, what_is_committed_stays_so_when_a_message_comes_late)
{
	cr_assert_eq(committed_behind_a_late_message(0), 8);
	cr_assert_eq(committed_behind_a_late_message(THMQI_GROUP_NO_B13), 5, "the rule makes no difference any more");
}

/* One ms of copies 1 and 2, whose talk of votes comes at once: what one sent comes before the other one's time. */
static void canvass(struct rig *rigs, uint64_t now)
{
	for (uint32_t i = 0; i < 2; i++) {
		struct rig *from = &rigs[i], *to = &rigs[1 - i];
		uint32_t count = from->sent_count;

		from->sent_count = 0;
		for (uint32_t k = 0; k < count; k++) {
			const struct thmqi_message *m = &from->sent[k];

			if (m->to == 2 - i && (m->type == THMQI_MESSAGE_VOTE || m->type == THMQI_MESSAGE_VOTED))
				cr_assert_eq(thmqi_engine_receive(to->e, now, m, NULL, &to->d), 0);
		}
		if (now >= thmqi_engine_timeout_ms(to->e))
			cr_assert_eq(thmqi_engine_timeout(to->e, now, &to->d), 0);
	}
}

/* B14: copy 3 led; copies 1 and 2 are left, which have batches up to @last, and nothing is lost between them. Return: how long until one of them leads, in ms. */
static uint64_t takes_over(uint32_t seed, const uint64_t *last, uint32_t defects)
{
	static struct rig rigs[2];
	struct thmqi_message m = {.type = THMQI_MESSAGE_APPEND, .from = 3, .group = 1, .term = 2, .index = 10, .index_term = 2, .commit = 10};
	uint64_t now;
	uint32_t i;

	for (i = 0; i < 2; i++) {
		rig_start_seeded(&rigs[i], i + 1, 3, last[i], 2, defects, 2 * seed + i);
		m.to = i + 1;
		cr_assert_eq(thmqi_engine_append(rigs[i].e, 1000, &m, NULL, 0, &rigs[i].d), 0);
		rigs[i].sent_count = 0;
	}
	for (now = 1000; thmqi_engine_role(rigs[0].e) != THMQI_ROLE_LEADER && thmqi_engine_role(rigs[1].e) != THMQI_ROLE_LEADER; now++) {
		cr_assert_lt(now, 5000);
		canvass(rigs, now);
	}
	for (i = 0; i < 2; i++)
		thmqi_engine_close(rigs[i].e);
	return now - 1000;
}

Test(replica_engine, who_has_more_takes_over_as_soon_as_who_has_as_much)
{
	const uint64_t more[2] = {12, 10};
	uint32_t late = 0;

	/* both have waited after 100 ms */
	for (uint32_t seed = 1; seed <= 200; seed++) {
		cr_assert_leq(takes_over(seed, more, 0), 106, "seed %u", seed);
		late += takes_over(seed, more, THMQI_GROUP_NO_B14) > 106;
	}
	cr_assert_gt(late, 50, "the rule makes no difference any more");
}

/* B15: copy 1 has more and is of an older term, copy 2 is of a later one; of copy 3 nothing is heard. Return: one of them leads in the end. */
static bool elects_across_terms(uint32_t defects)
{
	const uint64_t more[2] = {12, 10};
	static struct rig rigs[2];
	bool led = false;
	uint64_t now;
	uint32_t i;

	for (i = 0; i < 2; i++)
		rig_start_seeded(&rigs[i], i + 1, 3, more[i], 2, defects, i + 7);
	/* it stood for two terms, and copy 3 said so to nobody else */
	for (i = 0; i < 2; i++)
		receive(&rigs[1], (struct thmqi_message){.type = THMQI_MESSAGE_VOTE, .from = 3, .to = 2, .term = 5 + i, .index = 10, .index_term = 2});
	cr_assert_eq(thmqi_engine_term(rigs[1].e), 6);
	rigs[0].sent_count = rigs[1].sent_count = 0;
	for (now = 1000; now < 5000 && !led; now++) {
		canvass(rigs, now);
		led = thmqi_engine_role(rigs[0].e) == THMQI_ROLE_LEADER || thmqi_engine_role(rigs[1].e) == THMQI_ROLE_LEADER;
	}
	for (i = 0; i < 2; i++)
		thmqi_engine_close(rigs[i].e);
	return led;
}

Test(replica_engine, who_has_more_hears_of_a_later_term)
{
	cr_assert(elects_across_terms(0));
	cr_assert_not(elects_across_terms(THMQI_GROUP_NO_B15), "the rule makes no difference any more");
}

/* B1: a change that is not the first of its message. */
Test(replica_engine, a_change_behind_others_in_a_message_is_refused)
{
	struct thmqi_engine_entry *entries = calloc(2, sizeof(*entries));
	const struct thmqi_message m = append_of(3, 10, 2, 1);
	struct rig r;

	for (uint32_t defects = 0; defects <= THMQI_GROUP_NO_B1; defects += THMQI_GROUP_NO_B1) {
		rig_start(&r, 1, 3, 10, 2, defects);
		entries[0].term = entries[1].term = 3;
		entries[1].change = true;
		entries[1].membership.members = r.m.members;
		/* left out, raft errs about its place, and that is seen */
		cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, entries, 2, &r.d), -THMQ_ECORRUPT);
		thmqi_engine_close(r.e);
	}
	rig_start(&r, 1, 3, 10, 2, 0);
	entries[0] = entries[1];
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, entries, 1, &r.d), 0);
	cr_assert_eq(r.d.take, 11);
	thmqi_engine_close(r.e);
	free(entries);
}

/* B3, and what nobody could have sent. */
Test(replica_engine, what_cannot_be_is_dropped)
{
	const struct thmqi_engine_entry falling[2] = {{.term = 3}, {.term = 2}},
					later = {.term = 9};
	struct thmqi_message m = {.type = THMQI_MESSAGE_VOTED,
				  .from = 2,
				  .to = 1,
				  .group = 1,
				  .term = 2,
				  .flags = THMQI_MESSAGE_GRANTED};
	struct rig r;

	rig_start(&r, 1, 3, 10, 2, 0);
	receive(&r, m);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_FOLLOWER);
	m = (struct thmqi_message){.type = THMQI_MESSAGE_APPEND,
				   .from = 2,
				   .to = 1,
				   .term = 3,
				   .index = 10,
				   .index_term = 2,
				   .commit = 1};
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, falling, 2, &r.d), 0);
	cr_assert_eq(r.d.take, 0);
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, &later, 1, &r.d), 0);
	cr_assert_eq(r.d.take, 0);
	rig_lead(&r);
	m.term = thmqi_engine_term(r.e); /* another leader of this term */
	cr_assert_eq(thmqi_engine_append(r.e, r.now, &m, &later, 0, &r.d), 0);
	cr_assert_eq(thmqi_engine_role(r.e), THMQI_ROLE_LEADER);
	m.type = 77;
	receive(&r, m);
	thmqi_engine_close(r.e);
}
