/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drain.c - nodes of a cluster that are not to lead: a mark of each in the metadata, so that all know of it, and still do when they were closed. One that is
 * elected all the same hands over to one that may, as long as there is one. Knows nothing of how that is done.
 */
#include "lead.h"
#include "../meta/meta.h"

#define AGAIN_NS 1000000000ull /* appends wait while it is tried: at first so long after one that came to nothing … */
#define AGAIN_DOUBLINGS 5u /* … and then up to 2^5 times as long */

static struct drain *find(struct meta *m, uint64_t id)
{
	uint32_t i;

	for (i = 0; i < m->drain_count; i++)
		if (m->drains[i].id == id)
			return &m->drains[i];
	return NULL;
}

/* A cluster has less than there is room for, but numbers come and go: who was marked longest ago is forgotten. */
static void note(struct meta *m, uint64_t id, bool on, uint64_t index)
{
	struct drain *d = find(m, id);

	if (!d && m->drain_count == DRAINS_MAX)
		memmove(&m->drains[0], &m->drains[1], --m->drain_count * sizeof(*d));
	d = d ? d : &m->drains[m->drain_count++];
	*d = (struct drain){.id = id, .index = index, .on = on};
}

int thmqi_drain_replay(struct meta *m, const struct thmq_log_run *run)
{
	struct state_node state;

	if (run->header->len < sizeof(state))
		return -THMQ_ECORRUPT;
	memcpy(&state, run->payload, sizeof(state));
	note(m, state.id, state.flags & NODE_DRAINED, run->index);
	return 0;
}

static int store(struct meta *m, uint64_t id, bool on, uint64_t *ret_index)
{
	const struct state_node state = {.id = id, .flags = on ? NODE_DRAINED : 0};
	struct pending *e;
	int rc = thmqi_shard_append_state(m->shard, STATE_NODE, id, &state, sizeof(state), &e);

	if (!rc)
		*ret_index = e->index;
	return rc;
}

/* Without a mark nothing is to be remembered. */
int thmqi_drain_renew(struct meta *m, uint64_t id)
{
	struct drain *d = find(m, id);

	return d && d->on ? store(m, id, true, &d->index) : 0;
}

bool thmqi_drain_is(struct meta *m, uint64_t id)
{
	const struct drain *d = find(m, id);

	return d && d->on;
}

/* Has it a vote, and may it lead? */
static bool may_lead(struct meta *m, const struct thmqi_member *member)
{
	return member->role == THMQI_MEMBER_VOTER && !thmqi_drain_is(m, member->id);
}

/* -------------------------------------------------------------------- going */

static bool is_reached(const struct lead *l, uint64_t id)
{
	struct thmqi_courier_peer p;
	uint32_t k;

	for (k = 0; l->courier && thmqi_courier_peer(l->courier, k, &p); k++)
		if (p.id == id)
			return p.connected;
	return true; /* of one environment: that is known when it is tried */
}

/* Each in its turn: who cannot is not asked all the time. 0: nobody can be reached who may lead. */
static uint64_t one_of(struct meta *m, uint32_t turn, bool sound)
{
	const struct lead *l = m->shard->lead;
	const struct thmqi_members *all = thmqi_group_members(l->group);
	uint32_t i;

	for (i = 0; i < all->count; i++) {
		const struct thmqi_member *one = &all->list[(turn + i) % all->count];

		if (one->id != m->broker->opts.node_id && may_lead(m, one) && is_reached(l, one->id) && (!sound || !thmqi_trouble_of(m->shard, one)))
			return one->id;
	}
	return 0;
}

static uint64_t another(struct meta *m, uint32_t turn)
{
	uint64_t id = one_of(m, turn, true);

	return id ? id : one_of(m, turn, false);
}

bool thmqi_drain_has_heir(struct meta *m)
{
	return one_of(m, 0, true) != 0;
}

int thmqi_drain_spared(struct meta *m, uint64_t *ret_id)
{
	const struct thmqi_members *all = thmqi_group_members(m->shard->lead->group);
	bool any = true, others = false;
	uint32_t i;

	*ret_id = 0;
	for (i = 0; i < all->count; i++) {
		const struct thmqi_member *one = &all->list[i];
		bool other = one->id != m->broker->opts.node_id;

		any = any && !thmqi_drain_is(m, one->id) && !(other && thmqi_trouble_of(m->shard, one));
		others |= other && may_lead(m, one);
	}
	if (any)
		return 0;
	if (!others)
		return -EBUSY;
	*ret_id = another(m, m->spared_turn++);
	return *ret_id ? 0 : -EAGAIN;
}

uint64_t thmqi_drain_heir(struct meta *m)
{
	const uint64_t own = m->broker->opts.node_id, now = m->shard->core->now_ns;
	const struct lead *l = m->shard->lead;
	uint64_t id;

	if (!thmqi_drain_is(m, own) || !l->group)
		return own;
	if (m->drain_term != l->term) {
		m->drain_term = l->term;
		m->drain_tries = 0;
	}
	if (m->drain_tries && now - m->drain_tried_ns < AGAIN_NS << THMQI_MIN(m->drain_tries - 1, AGAIN_DOUBLINGS))
		return own;
	id = another(m, m->drain_tries);
	if (!id)
		return own;
	m->drain_tries++;
	m->drain_tried_ns = now;
	return id;
}

/* ----------------------------------------------------------------- requests */

int thmqi_drain_request(struct meta *m, uint64_t id, bool on)
{
	const struct lead *l = m->shard->lead;
	const struct thmqi_members *all = thmqi_group_members(l->group);
	bool known = false, others = false;
	struct drain *d = find(m, id);
	uint64_t index;
	uint32_t i;
	int rc;

	for (i = 0; i < all->count; i++) {
		known |= all->list[i].id == id;
		others |= all->list[i].id != id && may_lead(m, &all->list[i]);
	}
	if (!known)
		return -EINVAL;
	if (on && !others)
		return -EBUSY;
	if (on != (d && d->on)) {
		rc = store(m, id, on, &index);
		if (rc)
			return rc;
		note(m, id, on, index);
		m->drain_tries = 0;
		return -EAGAIN;
	}
	if (d && l->committed < d->index)
		return -EAGAIN;
	return on && id == m->broker->opts.node_id ? -EAGAIN : 0;
}
