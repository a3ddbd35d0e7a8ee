/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - cowsql/raft's raft_step() as events and duties. It holds no bytes of batches: an entry
 * is a term, but for changes of the membership. What belongs to whom, and when, is that library's at version 0.22.1, to which
 * the build is pinned; meson.build refuses others.
 *
 * Its known defects, each with the rule that avoids it, by these names:
 *  B1 it takes the first new entry of a message for the change of membership: a change is always the first
 *  B2 a copy that has dropped what precedes a message refuses it, which its leader does not expect: what is dropped was committed,
 *     so that the message is cut to what is behind
 *  B3 it looks at a vote that comes late as if it still was a candidate: such votes are dropped
 *  B4 its tracer formats each step into one static buffer: there is none
 *  B5 each event costs as much as there are uncommitted entries: 64 at most, by THMQI_UNCOMMITTED_MAX
 *  B6 it lets more than one voter change at a time, and before anything of the leader's own term is committed
 *  B7 as packaged it checks nothing of what it is given: what it relies on is checked here, and a breach is an error
 *  B8 while it probes a copy it takes a refusal that comes late for a new one, goes back behind what that copy is known to have, and
 *     then sends it nothing any more: refusals of what is known to be there are dropped
 *  B9 a copy that does not know itself to be a voter refuses its vote: one that was made a voter and has not heard of it yet, or that has heard of
 *     its removal before that was committed, is needed all the same (Ongaro 2014, 4.2.2). Who counts it is the candidate's to know: it votes. For
 *     the same reason a leader does not remove itself: membership.c
 *  B10 to who leads in an older term it answers with an index that it has never set: that is 0, and not what lay in memory
 *  B11 who leads takes a copy for unreachable that has said nothing since its last look, which it takes as often as heartbeats are due, and sends all anew that
 *     was not acknowledged; but a device that is busy makes a copy silent for longer than that. So what it looks back at is half an election. A leader that
 *     hears of no majority steps down when it did before: the time of its last look counts from when that majority was heard of last
 *  B12 a copy that does not know itself to be a voter does not stand either, though it may have what nobody else has, and none of the others gets its vote with
 *     less (B9; Ongaro 2014, 4.2.2): it stands once none has led for long. Whether it leads is for those who vote by its own newest membership, as always: its own
 *     vote does not count there, and neither does what it has stored once it leads. It leads so that one of those gets what it has, and hands over: group.c. One
 *     that was removed and has not heard of it is held off by the vote before the vote: who hears of a leader refuses, and nobody's term rises
 *  B13 a message that comes late, and ends before what is known to be committed, takes back what is known of that: it is to say nothing of it
 *  B14 one that asks for the vote before the vote, and is refused by who still hears of a leader, waits for a whole election again. Where it is the one that has
 *     more, those that cease to hear of one meanwhile ask it in vain: who refuses another one for having less asks anew, at once
 *  B15 to the vote before the vote it answers with the asker's term, though its own is later and that is why it refuses: the asker never hears of that, and
 *     where it has more than the other neither gets a vote for ever. It answers with the later one, which the asker takes over
 *  B16 of a copy that has other batches than who leads it goes back by one for each refusal, and asks again: as many rounds as batches differ, while nothing
 *     is committed. Terms tell more: whoever has a later one behind a place than the other has there goes back to where it does not (Ongaro 2014, 3.5)
 */
#include "engine_raft.h"

#define INSTALL_TIMEOUTS 10u /* of an election: what is sent is but a begin, and soon taken */
#define INFLIGHT_MAX THMQI_UNCOMMITTED_MAX

/* -------------------------------------------------------------- membership */

static bool is_voter(const struct thmqi_members *m, uint64_t id)
{
	const struct thmqi_member *member = thmqi_members_find(m, id);

	return member && member->role == THMQI_MEMBER_VOTER;
}

/* B6 */
static uint32_t voters_changed(const struct thmqi_members *a, const struct thmqi_members *b)
{
	uint32_t i, n = 0;

	for (i = 0; i < a->count; i++)
		n += is_voter(a, a->list[i].id) && !is_voter(b, a->list[i].id);
	for (i = 0; i < b->count; i++)
		n += is_voter(b, b->list[i].id) && !is_voter(a, b->list[i].id);
	return n;
}

/* -------------------------------------------------------------------- trail */

/* The terms of entries that raft keeps, as stretches: raft.h shows them, and nothing else tells a term. */
static uint64_t term_of(const struct raft *r, uint64_t index)
{
	const struct raft_trail *t = &r->trail;
	unsigned i;

	if (index && index == t->snapshot.index)
		return t->snapshot.term;
	if (index <= t->offset)
		return 0;
	for (i = t->front; i != t->back; i = (i + 1) % t->size)
		if (index <= t->records[i].index)
			return t->records[i].term;
	return 0;
}

static uint64_t last_of(const struct raft *r)
{
	const struct raft_trail *t = &r->trail;

	if (t->front == t->back)
		return t->snapshot.index;
	return t->records[(t->back + t->size - 1) % t->size].index;
}

uint64_t thmqi_engine_back(const struct thmqi_engine *e, uint64_t index, uint64_t term)
{
	const struct raft_trail *t = &e->raft.trail;
	uint64_t last = t->snapshot.index;
	unsigned i;

	for (i = t->front; i != t->back && t->records[i].term <= term; i = (i + 1) % t->size)
		last = t->records[i].index;
	return THMQI_MIN(index, last);
}

uint64_t thmqi_engine_term_of(const struct thmqi_engine *e, uint64_t index)
{
	return term_of(&e->raft, index);
}

int thmqi_engine_may_change(const struct thmqi_engine *e, const struct thmqi_members *from,
			    const struct thmqi_members *to)
{
	const struct raft *r = &e->raft;

	if (r->state != RAFT_LEADER)
		return -THMQ_ENOTLEADER;
	if (r->leader_state.transferee || r->leader_state.promotee_id ||
	    r->configuration_uncommitted_index || thmqi_engine_is_outsider(e)) /* B12 */
		return -EAGAIN;
	if (breaks(e, THMQI_GROUP_NO_B6))
		return 0;
	if (thmqi_members_check(to) || voters_changed(from, to) > 1 || !is_voter(to, e->opts.id))
		return -EINVAL;
	return term_of(r, r->commit_index) == r->current_term ? 0 : -EAGAIN;
}

/* ----------------------------------------------------------------- outsiders */

#define STANDS_AFTER 4u /* times that it waited for who leads; those who vote stand each time */

static const struct raft_server *server_of(const struct thmqi_engine *e, uint64_t id)
{
	unsigned i;

	for (i = 0; i < e->raft.configuration.n; i++)
		if (e->raft.configuration.servers[i].id == id)
			return &e->raft.configuration.servers[i];
	return NULL;
}

static bool has_voters(const struct thmqi_engine *e)
{
	unsigned i;

	for (i = 0; i < e->raft.configuration.n; i++)
		if (e->raft.configuration.servers[i].role == RAFT_VOTER)
			return true;
	return false;
}

bool thmqi_engine_is_outsider(const struct thmqi_engine *e)
{
	const struct raft_server *server = server_of(e, e->opts.id);

	return !server || server->role != RAFT_VOTER;
}

/*
 * B9, B12: for this step it is a voter, and so is another one that never answers: a majority of all these, itself among them, is a majority of the voters
 * that there are. While it is a candidate, or leads, nothing of the membership changes but by what another one leads with, which is no such step: so the places
 * of the others are the same in all of them. @room: for two more than there are.
 */
static void count_as_voter(struct thmqi_engine *e, struct raft_configuration *ret_was,
			   struct raft_server *room)
{
	struct raft_configuration *c = &e->raft.configuration;
	unsigned i, at = c->n;

	*ret_was = *c;
	for (i = 0; i < c->n; i++) {
		room[i] = c->servers[i];
		if (room[i].id == e->opts.id)
			at = i;
	}
	for (e->nobody = UINT64_MAX; server_of(e, e->nobody); e->nobody--)
		;
	room[at] = (struct raft_server){
		.id = e->opts.id, .address = e->raft.address, .role = RAFT_VOTER};
	c->n = THMQI_MAX(c->n, at + 1);
	room[c->n++] = (struct raft_server){
		.id = e->nobody, .address = e->raft.address, .role = RAFT_VOTER};
	c->servers = room;
}

/* Steps in which one that is no voter is to be taken for one. What another one leads with makes a follower of it, and may change who votes: that is none. */
static bool counts_as_voter(const struct thmqi_engine *e, const struct raft_event *event, bool stands)
{
	const bool message = event->type == RAFT_RECEIVE;

	/* whom it hands over to is one that there is */
	if (event->type == RAFT_START || event->type == RAFT_PERSISTED_SNAPSHOT || event->type == RAFT_TRANSFER)
		return false;
	if (!thmqi_engine_is_outsider(e) || e->raft.configuration.n > THMQI_MEMBERS_MAX)
		return false;
	if (message && event->receive.message->type == RAFT_REQUEST_VOTE)
		return !breaks(e, THMQI_GROUP_NO_B9);
	if (message && (event->receive.message->type == RAFT_APPEND_ENTRIES ||
			event->receive.message->type == RAFT_INSTALL_SNAPSHOT))
		return false;
	return stands || e->raft.state != RAFT_FOLLOWER;
}

/* ------------------------------------------------------------------- duties */

/* @received: the entries of the update came with a message, else from this copy: its own first one, or what it submitted. */
static void tell(struct thmqi_engine *e, const struct raft_update *u, enum raft_event_type event,
		 bool received, struct thmqi_duties *ret)
{
	unsigned i;

	ret->vote = (u->flags & (RAFT_UPDATE_CURRENT_TERM)) || (u->flags & (RAFT_UPDATE_VOTED_FOR));
	ret->role = (u->flags & (RAFT_UPDATE_STATE)) != 0;
	ret->commit = (u->flags & (RAFT_UPDATE_COMMIT_INDEX)) != 0;
	if (u->flags & (RAFT_UPDATE_ENTRIES)) {
		if (received) {
			ret->take = u->entries.index;
		} else if (event != RAFT_SUBMIT) {
			ret->noop = u->entries.index;
			raft_free(u->entries.batch[0].batch);
		}
	}
	if (u->flags & (RAFT_UPDATE_MESSAGES))
		for (i = 0; i < u->messages.n; i++)
			thmqi_engine_send(e, &u->messages.batch[i]);
}

static int step(struct thmqi_engine *e, uint64_t now_ms, struct raft_event *event, bool received,
		struct raft_update *u, struct thmqi_duties *ret)
{
	struct raft_server room[THMQI_MEMBERS_MAX + 2];
	const bool counts = counts_as_voter(e, event, e->stands);
	struct raft_configuration was;
	int rc;

	memset(u, 0, sizeof(*u));
	memset(ret, 0, sizeof(*ret));
	event->time = now_ms;
	if (thmqi_unlikely(counts))
		count_as_voter(e, &was, room);
	rc = thmqi_engine_error(raft_step(&e->raft, event, u));
	if (thmqi_unlikely(counts))
		e->raft.configuration = was;
	if (!rc)
		tell(e, u, event->type, received, ret);
	e->outdated = e->stands = false;
	e->asked_term = 0;
	e->nobody = 0;
	return rc;
}

/* -------------------------------------------------------------------- start */

int thmqi_engine_open(const struct thmqi_engine_opts *opts, struct thmqi_engine **ret_engine)
{
	struct thmqi_engine *e = calloc(1, sizeof(*e));
	int rv;

	if (!e)
		return -ENOMEM;
	e->opts = *opts;
	rv = raft_init(&e->raft, NULL, NULL, opts->id, "-");
	if (rv) {
		free(e);
		return thmqi_engine_error(rv);
	}
	if (!breaks(e, THMQI_GROUP_NO_B4))
		e->raft.tracer = NULL; /* B4 */
	raft_seed(&e->raft, opts->seed);
	raft_set_pre_vote(&e->raft, true);
	raft_set_election_timeout(&e->raft, opts->election_ms);
	raft_set_heartbeat_timeout(&e->raft, opts->heartbeat_ms);
	raft_set_max_inflight_entries(&e->raft, INFLIGHT_MAX);
	raft_set_install_snapshot_timeout(&e->raft, INSTALL_TIMEOUTS * opts->election_ms);
	*ret_engine = e;
	return 0;
}

void thmqi_engine_close(struct thmqi_engine *e)
{
	if (!e)
		return;
	raft_close(&e->raft, NULL);
	free(e);
}

/* The memberships that the log knows are entries of it, or its begin's. */
static int fill_entries(const struct thmqi_engine_start *s, struct raft_entry *entries,
			uint32_t count, struct raft_buffer *now, struct raft_buffer *before)
{
	const struct thmqi_membership *m = s->membership;
	const uint64_t first = s->begin_index + 1;
	uint64_t index, next = 0, term = 0, next_term = 0;
	uint32_t i, at = 0;
	bool more = s->terms(s->ctx, at++, &next, &next_term);

	for (i = 0; i < count; i++) {
		index = first + i;
		while (more && next <= index) {
			term = next_term;
			more = s->terms(s->ctx, at++, &next, &next_term);
		}
		if (!term)
			return -THMQ_ECORRUPT;
		entries[i] =
			(struct raft_entry){.term = term, .type = RAFT_COMMAND, .batch = TOKEN};
		if (index == m->index || index == m->previous_index || index == 1) {
			entries[i].type = RAFT_CHANGE;
			entries[i].buf = index == m->index ? *now : *before;
		}
	}
	return 0;
}

/* What was in force where the log begins: the older one of the two that are known, if both came later. */
static int begin_metadata(const struct thmqi_engine_start *s, struct raft_snapshot_metadata *ret)
{
	const struct thmqi_membership *m = s->membership;
	bool newest = !m->previous_index || m->index <= s->begin_index;
	uint64_t index = newest ? m->index : m->previous_index;

	ret->index = s->begin_index;
	ret->term = s->begin_term;
	if (!m->index) { /* it was begun anew, and has not got one yet: it does not vote */
		raft_configuration_init(&ret->configuration);
		ret->configuration_index = s->begin_index;
		return 0;
	}
	ret->configuration_index = THMQI_MIN(index, s->begin_index);
	return thmqi_engine_configuration(newest ? &m->members : &m->previous, &ret->configuration);
}

int thmqi_engine_start(struct thmqi_engine *e, const struct thmqi_engine_start *s,
		       struct thmqi_duties *ret)
{
	const uint32_t count = (uint32_t)(s->last - s->begin_index);
	const struct thmqi_membership *m = s->membership;
	struct raft_snapshot_metadata metadata;
	struct raft_buffer now = {0}, before = {0};
	struct raft_entry *entries = NULL;
	struct raft_event event = {.type = RAFT_START};
	struct raft_update u;
	int rc = 0;

	/* B7: a log that has anything has a membership, and it is stored whole */
	if ((s->last && !s->begin_index && !m->index) || m->index > s->last ||
	    s->last - s->begin_index > UINT32_MAX)
		return -THMQ_ECORRUPT;
	if (m->index)
		rc = thmqi_engine_encode(&m->members, &now);
	if (!rc && m->index)
		rc = thmqi_engine_encode(m->previous_index ? &m->previous : &m->members, &before);
	if (!rc && count) {
		entries = calloc(count, sizeof(*entries));
		rc = entries ? fill_entries(s, entries, count, &now, &before) : -ENOMEM;
	}
	if (!rc && s->begin_index) {
		rc = begin_metadata(s, &metadata);
		event.start.metadata = &metadata;
	}
	event.start.term = s->term;
	event.start.voted_for = s->voted_for;
	event.start.start_index = s->begin_index + 1;
	event.start.entries = entries;
	event.start.n_entries = count;
	e->change_index = m->index;
	if (!rc)
		rc = step(e, s->now_ms, &event, false, &u, ret);
	e->started = !rc;
	raft_free(now.base);
	raft_free(before.base);
	free(entries);
	return rc;
}

/* ------------------------------------------------------------------- events */

int thmqi_engine_submit(struct thmqi_engine *e, uint64_t now_ms, uint64_t index, uint64_t term,
			const struct thmqi_membership *membership, struct thmqi_duties *ret)
{
	struct raft_entry entry = {
		.term = term, .type = membership ? RAFT_CHANGE : RAFT_COMMAND, .batch = TOKEN};
	struct raft_event event = {.type = RAFT_SUBMIT, .submit = {.entries = &entry, .n = 1}};
	struct raft_update u;
	int rc;

	/* B7: the log and raft number alike, and the one who leads does so in its own term */
	if (e->raft.state != RAFT_LEADER || term != e->raft.current_term ||
	    index != last_of(&e->raft) + 1)
		return -THMQ_ECORRUPT;
	if (index - e->raft.commit_index >
	    INFLIGHT_MAX + 1) /* B5; one more may be a new leader's first */
		return -THMQ_ECORRUPT;
	if (membership) {
		/* B7, of B6 and B12: who leads as a voter stays one */
		if (thmqi_engine_is_outsider(e) || !is_voter(&membership->members, e->opts.id) ||
		    voters_changed(&membership->members, &membership->previous) > 1 ||
		    term_of(&e->raft, e->raft.commit_index) != term)
			return -THMQ_ECORRUPT;
		rc = thmqi_engine_encode(&membership->members, &entry.buf);
		if (rc)
			return rc;
		e->change_index = index;
	}
	rc = step(e, now_ms, &event, false, &u, ret);
	raft_free(entry.buf.base);
	return rc;
}

/* B2: what precedes the message was dropped here, and therefore committed. Return: entries that are already here. */
static uint32_t cut_to_begin(const struct thmqi_engine *e, struct raft_append_entries *a,
			     uint32_t count)
{
	const struct raft_trail *t = &e->raft.trail;
	uint64_t skip;

	if (breaks(e, THMQI_GROUP_NO_B2) || e->raft.snapshot.installing ||
	    a->prev_log_index >= t->snapshot.index)
		return 0;
	if (a->prev_log_index > t->offset) /* it is still known */
		return 0;
	skip = t->snapshot.index - a->prev_log_index;
	a->prev_log_index = t->snapshot.index;
	a->prev_log_term = t->snapshot.term;
	return (uint32_t)THMQI_MIN(skip, (uint64_t)count);
}

static int fill_received(const struct thmqi_engine_entry *entries, uint32_t count,
			 struct raft_entry *ret, void *batch)
{
	uint32_t i;
	int rc = 0;

	for (i = 0; i < count && !rc; i++) {
		ret[i] = (struct raft_entry){.term = entries[i].term,
					     .type = entries[i].change ? RAFT_CHANGE : RAFT_COMMAND,
					     .batch = batch};
		if (entries[i].change)
			rc = thmqi_engine_encode(&entries[i].membership.members, &ret[i].buf);
	}
	return rc;
}

/* B1: a change is the first of a message: others before it are a message by themselves. */
static bool is_split_well(const struct thmqi_engine *e, const struct thmqi_engine_entry *entries,
			  uint32_t count)
{
	uint32_t i;

	for (i = 1; i < count; i++)
		if (entries[i].change)
			return breaks(e, THMQI_GROUP_NO_B1);
	return true;
}

/* B7: nobody else leads in the term in which this copy does, terms do not fall, and none is later than its leader's. */
static bool is_possible(const struct thmqi_engine *e, const struct thmqi_message *m,
			const struct thmqi_engine_entry *entries, uint32_t count)
{
	uint64_t term = m->index_term;
	uint32_t i;

	if (!m->term || (e->raft.state == RAFT_LEADER && m->term == e->raft.current_term))
		return false;
	if (!m->index != !m->index_term)
		return false;
	for (i = 0; i < count; term = entries[i++].term)
		if (entries[i].term < term || entries[i].term > m->term)
			return false;
	return true;
}

int thmqi_engine_append(struct thmqi_engine *e, uint64_t now_ms,
			const struct thmqi_message *message,
			const struct thmqi_engine_entry *entries, uint32_t count,
			struct thmqi_duties *ret)
{
	struct raft_entry received[THMQI_ENGINE_ENTRIES] = {0};
	struct raft_event event = {.type = RAFT_RECEIVE};
	struct raft_append_entries *a;
	struct raft_message m;
	struct raft_update u;
	uint32_t skip, i;
	void *batch = NULL;
	int rc = 0;

	memset(ret, 0, sizeof(*ret));
	if (count > THMQI_ENGINE_ENTRIES || !is_split_well(e, entries, count))
		return -THMQ_ECORRUPT;
	if (!is_possible(e, message, entries, count))
		return 0;
	thmqi_engine_message(message, &m);
	a = &m.append_entries;
	a->version = 0;
	a->term = message->term;
	a->prev_log_index = message->index;
	a->prev_log_term = message->index_term;
	a->leader_commit = message->commit;
	skip = cut_to_begin(e, a, count);
	if (count > skip) {
		batch = raft_malloc(sizeof(
			thmqi_engine_token)); /* raft's to free, unless it asks for these entries to be stored */
		rc = batch ? fill_received(entries + skip, count - skip, received, batch) : -ENOMEM;
		a->entries = received;
		a->n_entries = count - skip;
	}
	if (a->prev_log_index + a->n_entries < e->raft.commit_index && !breaks(e, THMQI_GROUP_NO_B13))
		a->leader_commit = 0; /* B13 */
	event.receive.message = &m;
	e->outdated = message->term < e->raft.current_term;
	if (!rc) {
		e->asked_term = breaks(e, THMQI_GROUP_NO_B16) ? 0 : a->prev_log_term;
		rc = step(e, now_ms, &event, true, &u, ret);
		if (!rc && ret->take)
			raft_free(batch);
	} else {
		raft_free(batch);
	}
	for (i = 0; i < count - skip; i++) {
		raft_free(received[i].buf.base);
		if (!rc && entries[skip + i].change && ret->take &&
		    a->prev_log_index + 1 + i >= ret->take) {
			e->change_index = a->prev_log_index + 1 + i;
			if (e->raft.configuration_uncommitted_index !=
			    e->change_index) /* B7, of B1 */
				rc = -THMQ_ECORRUPT;
		}
	}
	return rc;
}

/*
 * B9: who hears of a leader refuses its vote, until it stands itself; who seldom stands would refuse it for long. The address of the one that it forgets is
 * the engine's, and freed by it.
 */
static void forget_leader(struct thmqi_engine *e, uint64_t now_ms)
{
	if (e->raft.state != RAFT_FOLLOWER || !thmqi_engine_is_outsider(e) || breaks(e, THMQI_GROUP_NO_B9))
		return;
	if (now_ms - THMQI_MIN((uint64_t)e->raft.election_timer_start, now_ms) >= e->raft.election_timeout)
		e->raft.follower_state.current_leader.id = 0;
}

/* B14: after the answer. Its own time to ask has come. */
static void ask_again(struct thmqi_engine *e, uint64_t now_ms, const struct thmqi_message *message)
{
	struct raft *r = &e->raft;
	const uint64_t last = last_of(r), term = term_of(r, last);

	if (r->state != RAFT_CANDIDATE || !r->candidate_state.in_pre_vote || breaks(e, THMQI_GROUP_NO_B14))
		return;
	if (message->index_term < term || (message->index_term == term && message->index < last))
		r->election_timer_start = now_ms - THMQI_MIN(now_ms, (uint64_t)r->candidate_state.randomized_election_timeout);
}

int thmqi_engine_receive(struct thmqi_engine *e, uint64_t now_ms,
			 const struct thmqi_message *message, const struct thmqi_members *members,
			 struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_RECEIVE};
	struct raft_message m;
	struct raft_update u;
	int rc = thmqi_engine_convert(e, message, members, &m);

	memset(ret, 0, sizeof(*ret));
	if (rc != 1)
		return rc;
	event.receive.message = &m;
	e->outdated = message->type == THMQI_MESSAGE_SNAPSHOT && message->term < e->raft.current_term;
	if (message->type == THMQI_MESSAGE_VOTE)
		forget_leader(e, now_ms);
	rc = step(e, now_ms, &event, false, &u, ret);
	if (!rc && message->type == THMQI_MESSAGE_VOTE && (message->flags & THMQI_MESSAGE_PRE_VOTE))
		ask_again(e, now_ms, message);
	if (rc || !(u.flags & (RAFT_UPDATE_SNAPSHOT)))
		return rc;
	ret->install = true;
	ret->install_index = u.snapshot.metadata.index;
	ret->install_term = u.snapshot.metadata.term;
	ret->install_members_index = u.snapshot.metadata.configuration_index;
	rc = thmqi_engine_members(&u.snapshot.metadata.configuration, &e->install);
	raft_configuration_close(&u.snapshot.metadata.configuration);
	raft_free(u.snapshot.chunk.base);
	return rc;
}

int thmqi_engine_persisted(struct thmqi_engine *e, uint64_t now_ms, uint64_t index,
			   struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_PERSISTED_ENTRIES,
				   .persisted_entries = {.index = index}};
	struct raft_update u;

	/* B7: it rises, and is of entries that are there; no candidate has any under way */
	if (index <= e->raft.last_stored || index > last_of(&e->raft) ||
	    e->raft.state == RAFT_CANDIDATE)
		return -THMQ_ECORRUPT;
	return step(e, now_ms, &event, false, &u, ret);
}

const struct thmqi_members *thmqi_engine_install_members(const struct thmqi_engine *e)
{
	return &e->install;
}

int thmqi_engine_installed(struct thmqi_engine *e, uint64_t now_ms,
			   const struct thmqi_duties *install, struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_PERSISTED_SNAPSHOT};
	struct raft_update u;
	int rc = thmqi_engine_configuration(&e->install,
					    &event.persisted_snapshot.metadata.configuration);

	if (rc)
		return rc;
	event.persisted_snapshot.metadata.index = install->install_index;
	event.persisted_snapshot.metadata.term = install->install_term;
	event.persisted_snapshot.metadata.configuration_index = install->install_members_index;
	event.persisted_snapshot.last = true;
	return step(e, now_ms, &event, false, &u, ret);
}

/* B12: it waited again, and heard of nobody in between. */
static bool is_to_stand(struct thmqi_engine *e)
{
	if (e->raft.state != RAFT_FOLLOWER || !thmqi_engine_is_outsider(e) || breaks(e, THMQI_GROUP_NO_B12))
		return false;
	if (e->raft.election_timer_start != e->waits_since)
		e->waited = 0;
	return ++e->waited >= STANDS_AFTER && has_voters(e);
}

int thmqi_engine_timeout(struct thmqi_engine *e, uint64_t now_ms, struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_TIMEOUT};
	bool led = e->raft.state == RAFT_LEADER;
	struct raft_update u;
	int rc;

	e->stands = is_to_stand(e);
	rc = step(e, now_ms, &event, false, &u, ret);
	e->waits_since = e->raft.election_timer_start;
	/* B11 */
	if (led && e->raft.state == RAFT_LEADER && e->raft.election_timer_start == now_ms)
		e->raft.election_timer_start -= THMQI_MIN(now_ms, e->opts.election_ms / 2u);
	return rc;
}

int thmqi_engine_changed(struct thmqi_engine *e, uint64_t now_ms, uint64_t index,
			 const struct thmqi_members *members, struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_CONFIGURATION, .configuration = {.index = index}};
	struct raft_update u;
	int rc = thmqi_engine_configuration(members, &event.configuration.conf);

	if (!rc)
		rc = step(e, now_ms, &event, false, &u, ret);
	/* B7, of B1: what is in force is committed, and nothing else is under way */
	if (!rc && e->raft.configuration_uncommitted_index &&
	    e->raft.configuration_uncommitted_index <= index)
		rc = -THMQ_ECORRUPT;
	return rc;
}

int thmqi_engine_dropped(struct thmqi_engine *e, uint64_t now_ms, uint64_t index, uint64_t term,
			 const struct thmqi_membership *membership, struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_SNAPSHOT};
	struct raft_update u;
	const struct thmqi_engine_start s = {
		.begin_index = index, .begin_term = term, .membership = membership};
	int rc;

	memset(ret, 0, sizeof(*ret));
	/* B7: it is known, committed, and newer than the one before */
	if (index <= e->raft.trail.snapshot.index)
		return 0;
	if (!term || term != term_of(&e->raft, index) || index > e->raft.commit_index)
		return -THMQ_ECORRUPT;
	rc = begin_metadata(&s, &event.snapshot.metadata);
	if (rc)
		return rc;
	event.snapshot.trailing = 0;
	return step(e, now_ms, &event, false, &u, ret);
}

int thmqi_engine_transfer(struct thmqi_engine *e, uint64_t now_ms, uint64_t id,
			  struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_TRANSFER, .transfer = {.server_id = id}};
	struct raft_update u;

	return step(e, now_ms, &event, false, &u, ret);
}

int thmqi_engine_catch_up(struct thmqi_engine *e, uint64_t now_ms, uint64_t id,
			  struct thmqi_duties *ret)
{
	struct raft_event event = {.type = RAFT_CATCH_UP, .catch_up = {.server_id = id}};
	const struct raft_server *server = server_of(e, id);
	struct raft_update u;

	/* B7 */
	if (e->raft.state != RAFT_LEADER)
		return -THMQ_ENOTLEADER;
	if (!server || server->role == RAFT_VOTER || id == e->opts.id)
		return -EINVAL;
	if (e->raft.leader_state.promotee_id)
		return -EAGAIN;
	return step(e, now_ms, &event, false, &u, ret);
}

int thmqi_engine_caught_up(struct thmqi_engine *e, uint64_t id)
{
	int status = RAFT_CATCH_UP_NONE;
	int rc = thmqi_engine_error(raft_catch_up(&e->raft, id, &status));

	if (rc)
		return rc;
	return status == RAFT_CATCH_UP_FINISHED  ? 1
	       : status == RAFT_CATCH_UP_RUNNING ? 0
	       : status == RAFT_CATCH_UP_ABORTED ? -ETIMEDOUT
						 : -ENOENT;
}

uint64_t thmqi_engine_match(const struct thmqi_engine *e, uint64_t id)
{
	raft_index match = 0;

	return raft_match_index(&e->raft, id, &match) == 0 ? match : 0;
}

/* -------------------------------------------------------------------- state */

uint32_t thmqi_engine_role(const struct thmqi_engine *e)
{
	return e->raft.state == RAFT_LEADER      ? THMQI_ROLE_LEADER
	       : e->raft.state == RAFT_CANDIDATE ? THMQI_ROLE_CANDIDATE
						 : THMQI_ROLE_FOLLOWER;
}

uint64_t thmqi_engine_term(const struct thmqi_engine *e)
{
	return e->raft.current_term;
}

uint64_t thmqi_engine_voted_for(const struct thmqi_engine *e)
{
	return e->raft.voted_for;
}

uint64_t thmqi_engine_leader(const struct thmqi_engine *e)
{
	if (e->raft.state == RAFT_LEADER)
		return e->opts.id;
	return e->raft.state == RAFT_FOLLOWER ? e->raft.follower_state.current_leader.id : 0;
}

uint64_t thmqi_engine_committed(const struct thmqi_engine *e)
{
	return e->raft.commit_index;
}

uint64_t thmqi_engine_everywhere(const struct thmqi_engine *e, const struct thmqi_members *members)
{
	raft_index least = e->raft.last_stored, match;
	uint32_t i;

	if (e->raft.state != RAFT_LEADER)
		return 0;
	for (i = 0; i < members->count; i++) {
		if (members->list[i].role != THMQI_MEMBER_VOTER || members->list[i].id == e->raft.id)
			continue;
		if (raft_match_index(&e->raft, members->list[i].id, &match) != 0)
			return 0;
		least = THMQI_MIN(least, match);
	}
	return least;
}

uint64_t thmqi_engine_stored(const struct thmqi_engine *e)
{
	return e->raft.last_stored;
}

uint64_t thmqi_engine_timeout_ms(const struct thmqi_engine *e)
{
	return raft_timeout(&e->raft);
}

bool thmqi_engine_transferring(const struct thmqi_engine *e)
{
	return e->raft.state == RAFT_LEADER && e->raft.leader_state.transferee;
}
