/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roll.c - who belongs to a cluster, on request: one wish at a time, which each shard comes nearer to by the steps of its group, until all have it. The client asks
 * again until they do; a leader that begins anew knows nothing of it, and goes on from what is there. Knows nothing of elections.
 */
#include "lead.h"

#define KEEP_NS 500000000u /* who wished last asks again sooner */

int thmqi_roll_open(struct thmq_broker *b)
{
	uint32_t i;

	b->roll = calloc(1, sizeof(*b->roll));
	if (!b->roll)
		return thmqi_fail(-ENOMEM, "no memory for a broker");
	pthread_mutex_init(&b->roll->lock, NULL);
	for (i = 0; i < THMQI_ARRAY_COUNT(b->roll->status); i++)
		b->roll->status[i] = -EAGAIN;
	return 0;
}

void thmqi_roll_close(struct thmq_broker *b)
{
	if (!b->roll)
		return;
	pthread_mutex_destroy(&b->roll->lock);
	free(b->roll);
	b->roll = NULL;
}

/* -------------------------------------------------------------------- steps */

static int step_out(struct thmqi_group *g, const struct thmqi_member *found, bool committed,
		    struct thmqi_member *m)
{
	int rc;

	if (!found)
		return committed ? 0 : -EAGAIN;
	rc = thmqi_group_change(g, m);
	return rc ? rc : -EAGAIN;
}

static int step_in(struct thmqi_group *g, const struct thmqi_member *found, bool committed,
		   struct thmqi_member *m)
{
	int rc;

	if (!committed)
		return -EAGAIN;
	if (found && strcmp(found->address, m->address) != 0)
		return -EEXIST;
	if (found && found->role == THMQI_MEMBER_VOTER)
		return 0;
	m->role = !found ? THMQI_MEMBER_SPARE : THMQI_MEMBER_STANDBY;
	if (found && found->role == THMQI_MEMBER_STANDBY) {
		rc = thmqi_group_catch_up(g, found->id);
		if (rc != 1)
			return rc == 0 || rc == -ETIMEDOUT ? -EAGAIN : rc;
		m->role = THMQI_MEMBER_VOTER;
	}
	rc = thmqi_group_change(g, m);
	return rc ? rc : -EAGAIN;
}

/*
 * Who leads meta is to lead all shards: so one gets its vote in meta last, and is out of meta first. @turn: it is meta's, or the others', as the case may be.
 * Return: 0 it is so, for good; -EAGAIN not yet; or it cannot be.
 */
static int step(struct shard *s, const struct thmqi_member *wish, bool turn)
{
	struct thmqi_group *g = s->lead->group;
	struct thmqi_group_state state;
	struct thmqi_member m = *wish;
	const struct thmqi_member *found;
	int rc;

	if (!g || !s->lead->serves || s->lead->role != THMQI_ROLE_LEADER)
		return -EAGAIN;
	thmqi_group_state(g, &state);
	found = thmqi_members_find(thmqi_group_members(g), m.id);
	if (!turn && found && (m.role == THMQI_MEMBER_REMOVED || found->role == THMQI_MEMBER_STANDBY))
		return -EAGAIN;
	/* members change only once something of this term is committed, and where nobody writes nothing is */
	if (!thmqi_lead_mark_term(s))
		return -EAGAIN;
	rc = m.role == THMQI_MEMBER_REMOVED ? step_out(g, found, state.members_committed, &m)
					    : step_in(g, found, state.members_committed, &m);
	return rc == -THMQ_ENOTLEADER ? -EAGAIN : rc;
}

/* Under the lock. */
static void note_lacking(struct shard *s, struct roll *r)
{
	const struct thmqi_group *g = s->lead->role == THMQI_ROLE_LEADER ? s->lead->group : NULL;
	const struct thmqi_members *m = g ? thmqi_group_members(g) : NULL;
	struct lacking *row = r->lacking[s->id];
	uint32_t i;

	for (i = 0; i < THMQI_MEMBERS_MAX; i++) {
		row[i].id = m && i < m->count ? m->list[i].id : 0;
		row[i].batches = row[i].id ? thmqi_group_behind(g, row[i].id) : 0;
	}
}

/* Of the shard of which it lacks most. A shard that it does not belong to yet is one of which nothing is known. */
static uint64_t lacks(const struct thmq_broker *b, uint64_t id)
{
	struct roll *r = b->roll;
	uint64_t most = 0;
	uint32_t i, k;

	pthread_mutex_lock(&r->lock);
	for (i = 0; i < b->shard_count; i++) {
		const struct lacking *row = r->lacking[i];

		for (k = 0; k < THMQI_MEMBERS_MAX && row[k].id != id; k++)
			;
		most = THMQI_MAX(most, k < THMQI_MEMBERS_MAX ? row[k].batches : UINT64_MAX);
	}
	pthread_mutex_unlock(&r->lock);
	return most;
}

/* Those of meta, or where it is of none yet, or was not told, those that it was given. Return: how many. */
static uint32_t look(const struct shard *s, struct thmqi_node_state *ret)
{
	const struct lead *l = s->lead;
	const struct thmqi_members *m = l->group ? thmqi_group_members(l->group) : NULL;
	const struct shard *failed;
	uint32_t i, k, count;

	if (!m || !m->count)
		m = s->broker->cluster;
	count = THMQI_MIN(m->count, THMQI_NODES_MAX);
	for (i = 0; i < count; i++) {
		struct thmqi_node_state *state = &ret[i];
		struct thmqi_courier_peer p;

		memset(state, 0, sizeof(*state));
		state->id = m->list[i].id;
		state->role = m->list[i].role;
		state->behind = lacks(s->broker, state->id);
		state->drained = thmqi_drain_is(s->broker->meta, state->id);
		memcpy(state->url, m->list[i].address, sizeof(state->url));
		/* this one, and those of the same environment, need no connection */
		state->connected = !l->courier || state->id == s->broker->opts.node_id;
		for (k = 0; l->courier && thmqi_courier_peer(l->courier, k, &p); k++)
			if (p.id == state->id) {
				state->connected = p.connected;
				state->error = p.error;
			}
		if (state->connected)
			state->error = state->id == s->broker->opts.node_id ? thmqi_trouble_own(s->broker, &failed) : thmqi_trouble_of(s, &m->list[i]);
	}
	return count;
}

/* For those who ask without a connection, from any thread. */
static void note_seen(struct shard *s)
{
	struct roll *r = s->broker->roll;
	struct thmqi_node_state seen[THMQI_NODES_MAX];
	uint32_t count = look(s, seen);

	pthread_mutex_lock(&r->lock);
	memcpy(r->seen, seen, count * sizeof(seen[0]));
	r->seen_count = count;
	r->seen_leader = s->lead->leader;
	r->seen_term = s->lead->term;
	pthread_mutex_unlock(&r->lock);
}

void thmqi_roll_forget(struct thmq_broker *b)
{
	pthread_mutex_lock(&b->roll->lock);
	b->roll->number = 0;
	pthread_mutex_unlock(&b->roll->lock);
}

/* Under the lock. */
static bool is_turn(const struct shard *s, const struct roll *r)
{
	bool meta = s->id == THMQI_SHARD_META, others = true;
	uint32_t i;

	for (i = 0; i < s->broker->shard_count; i++)
		others = others && (i == THMQI_SHARD_META || r->status[i] == 0);
	return r->wish.role == THMQI_MEMBER_REMOVED ? meta || r->status[THMQI_SHARD_META] == 0 : !meta || others;
}

void thmqi_roll_step(struct shard *s)
{
	struct roll *r = s->broker->roll;
	struct thmqi_member wish;
	uint64_t number;
	bool turn;
	int rc;

	if (s->id == THMQI_SHARD_META)
		note_seen(s);
	pthread_mutex_lock(&r->lock);
	note_lacking(s, r);
	number = r->number;
	wish = r->wish;
	rc = r->status[s->id];
	turn = is_turn(s, r);
	pthread_mutex_unlock(&r->lock);
	if (!number || rc != -EAGAIN)
		return;
	rc = step(s, &wish, turn);
	pthread_mutex_lock(&r->lock);
	if (r->number == number)
		r->status[s->id] = rc;
	pthread_mutex_unlock(&r->lock);
}

/* ----------------------------------------------------------------- requests */

/* Two that wish at the same time would take it from each other, and neither would come to an end. */
static bool is_taken(const struct thmq_broker *b, uint64_t number, uint64_t now)
{
	const struct roll *r = b->roll;
	bool waits = false;
	uint32_t i;

	for (i = 0; i < b->shard_count; i++)
		waits |= r->status[i] == -EAGAIN;
	return r->number && r->number != number && waits && now - r->asked_ns < KEEP_NS;
}

static int wish_for(struct thmq_broker *b, const struct thmqi_request *q)
{
	struct roll *r = b->roll;
	uint64_t now = b->shards[THMQI_SHARD_META].core->now_ns;
	uint32_t i;
	int rc = 0;

	if (!q->member || !q->volatile_bytes ||
	    (q->index != THMQI_MEMBER_VOTER && q->index != THMQI_MEMBER_REMOVED))
		return -EINVAL;
	if (q->index == THMQI_MEMBER_VOTER) {
		char url[THMQI_ADDRESS_MAX];

		if (thmqi_afar_is(q->name) ? thmqi_afar_url(q->name, url, sizeof(url)) != 0
					   : strncmp(q->name, "inproc://", 9) != 0)
			return -EINVAL;
	}
	if (q->index == THMQI_MEMBER_REMOVED && q->volatile_bytes == b->opts.node_id)
		return -EBUSY; /* it leads */
	pthread_mutex_lock(&r->lock);
	if (is_taken(b, q->member, now)) {
		pthread_mutex_unlock(&r->lock);
		return -EAGAIN;
	}
	r->asked_ns = now;
	if (r->number != q->member) {
		r->number = q->member;
		r->wish = (struct thmqi_member){.id = q->volatile_bytes, .role = q->index};
		memcpy(r->wish.address, q->name, sizeof(r->wish.address));
		for (i = 0; i < b->shard_count; i++)
			r->status[i] = -EAGAIN;
	}
	for (i = 0; i < b->shard_count; i++)
		if (r->status[i] && (!rc || rc == -EAGAIN))
			rc = r->status[i];
	pthread_mutex_unlock(&r->lock);
	return rc;
}

static void tell_states(struct conn *c)
{
	const struct lead *l = c->shard->lead;
	struct thmqi_reply *reply = c->wire->reply;

	reply->value[0] = l->leader;
	reply->value[1] = l->term;
	reply->count = reply->total = look(c->shard, reply->states);
}

bool thmqi_roll_has(const struct thmq_broker *b, uint64_t id)
{
	struct roll *r = b->roll;
	uint32_t i;
	bool has;

	pthread_mutex_lock(&r->lock);
	for (i = 0; i < r->seen_count && r->seen[i].id != id; i++)
		;
	has = i < r->seen_count || !r->seen_count;
	pthread_mutex_unlock(&r->lock);
	return has;
}

int thmqi_broker_nodes(struct thmq_broker *b, struct thmq_node *ret_nodes, uint32_t max)
{
	const struct roll *r = b->roll;
	const struct shard *failed;
	uint32_t i, count;

	if (!b->cluster)
		return thmqi_fail(-ENOTSUP, "this broker has the only copy: it is of no cluster");
	thmqi_trouble_own(b, &failed);
	pthread_mutex_lock(&b->roll->lock);
	count = r->seen_count;
	for (i = 0; i < count && i < max; i++)
		thmqi_node_give(&r->seen[i], r->seen_leader, r->seen_term, failed && r->seen[i].id == b->opts.node_id && r->seen[i].error ? failed->name : NULL,
				ret_nodes, i);
	pthread_mutex_unlock(&b->roll->lock);
	return (int)count;
}

/* @heir is to lead, 0: whoever may. */
static int hand_over(struct thmq_broker *b, struct thmqi_group *g, uint64_t heir)
{
	int rc = thmqi_drain_is(b->meta, heir) ? -EBUSY : 0;

	if (!rc && !heir)
		rc = thmqi_drain_spared(b->meta, &heir);
	if (rc || heir == b->opts.node_id)
		return rc;
	/* one that has more than is committed takes no lead over, and where nobody writes it would not hear that it is to go. A log that is full gets no mark: it is tried all the same */
	thmqi_lead_mark_term(&b->shards[THMQI_SHARD_META]);
	return thmqi_group_transfer(g, heir);
}

void thmqi_roll_request(struct conn *c, uint64_t id, const struct thmqi_request *q)
{
	struct thmq_broker *b = c->shard->broker;
	int rc = 0;

	if (!b->cluster || !c->shard->lead->group) {
		thmqi_reply(c, id, -ENOTSUP);
		return;
	}
	if (q->op == THMQI_OP_NODES)
		tell_states(c);
	else if (q->op == THMQI_OP_NODE_CHANGE)
		rc = wish_for(b, q);
	else if (q->op == THMQI_OP_NODE_DRAIN)
		rc = thmqi_drain_request(b->meta, q->volatile_bytes, q->index != 0);
	else
		rc = hand_over(b, c->shard->lead->group, q->volatile_bytes);
	thmqi_reply(c, id, rc);
}
