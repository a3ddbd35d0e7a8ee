/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_copies_members.h - in the world of broker_copies_sim_test.c, what an administrator does meanwhile: a broker comes, gets all and a vote, another one is
 * removed, whether it leads, lives, or has lost its disk for good; one is drained, another one is made to lead. One thing at a time, each asked for until it is done.
 */
#ifndef BROKER_COPIES_MEMBERS_H
#define BROKER_COPIES_MEMBERS_H

#include "broker_copies_checks.h"
#include "broker_copies_world.h"

enum task { TASK_NONE, TASK_ADD, TASK_REMOVE, TASK_LEAD, TASK_DRAIN, TASK_UNDRAIN };

struct members_side {
	struct thmq_session *session;
	enum task task;
	uint32_t who; /* place; BROKERS: anybody */
	uint32_t added, removed, replaced, led, drained, busy;
};

static int members_begin(struct world *w, struct members_side *m)
{
	at = "members, begin";
	CHECK(w, thmq_connect(w->env, ALL, THMQ_SESSION_OPTS(.reconnect_ns = 1000 * SECOND, .timeout_ns = SECOND), &m->session) == 0);
	return 0;
}

static bool is_unsure(int rc)
{
	return rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -THMQ_ENOQUORUM || rc == -THMQ_ENOTLEADER || rc == -EAGAIN || rc == -ENOSPC;
}

static int add_one(struct world *w, struct members_side *m)
{
	char address[32];
	int rc;

	at = "add a broker";
	snprintf(address, sizeof(address), "inproc://b%u", m->who + 1);
	rc = thmq_cluster_add(m->session, m->who + 1, address, (1 + chance(w, 200)) * MS);
	CHECK(w, rc == 0 || is_unsure(rc));
	if (rc == 0) {
		m->added++;
		m->task = TASK_NONE;
	}
	return 0;
}

static int undrain_all(struct world *w, struct members_side *m)
{
	uint32_t i;
	int rc;

	at = "undrain all";
	for (i = 0; i < BROKERS; i++) {
		if (!is_counted(w, i))
			continue;
		rc = thmq_cluster_undrain(m->session, i + 1, 20 * MS);
		CHECK(w, rc == 0 || is_unsure(rc));
	}
	return 0;
}

static int lead_one(struct world *w, struct members_side *m, uint32_t who)
{
	int rc;

	at = "another one is to lead";
	rc = thmq_cluster_lead(m->session, who < BROKERS ? who + 1 : 0, (1 + chance(w, 200)) * MS);
	CHECK(w, rc == 0 || rc == -EBUSY || rc == -EINVAL || is_unsure(rc));
	m->led += rc == 0;
	return rc == -EBUSY ? undrain_all(w, m) : 0;
}

static int remove_one(struct world *w, struct members_side *m)
{
	const uint32_t i = m->who;
	int rc;

	at = "remove a broker";
	rc = thmq_cluster_remove(m->session, i + 1, (1 + chance(w, 200)) * MS);
	CHECK(w, rc == 0 || rc == -EBUSY || is_unsure(rc));
	if (rc == -EBUSY) {
		m->busy++;
		return lead_one(w, m, BROKERS);
	}
	if (rc)
		return 0;
	m->removed++;
	m->replaced += w->dead[i];
	m->task = TASK_NONE;
	w->leaves_at[i] = now(w) + 1 + chance(w, 100) * MS; /* until then it is there, and knows it or not */
	return 0;
}

static int drain_one(struct world *w, struct members_side *m)
{
	bool on = m->task == TASK_DRAIN;
	int rc;

	at = on ? "drain a broker" : "undrain a broker";
	rc = (on ? thmq_cluster_drain : thmq_cluster_undrain)(m->session, m->who + 1, (1 + chance(w, 200)) * MS);
	CHECK(w, rc == 0 || (on && rc == -EBUSY) || is_unsure(rc));
	m->drained += on && rc == 0;
	if (rc == 0 || rc == -EBUSY || (on && chance(w, 4) == 0)) /* it may lead still, while nobody else can */
		m->task = TASK_NONE;
	return 0;
}

/* One more than there were at the beginning, or one of them goes: first of all who is dead. */
static int choose(struct world *w, struct members_side *m)
{
	uint32_t i, count = 0, place = BROKERS;

	for (i = 0; i < BROKERS; i++) {
		count += is_counted(w, i);
		if (!w->was_used[i] && place == BROKERS)
			place = i;
	}
	m->who = some_broker(w);
	for (i = 0; i < BROKERS; i++)
		if (is_counted(w, i) && w->dead[i])
			m->who = i;
	if (!is_counted(w, m->who))
		return 0;
	if (w->healed) { /* nothing happens to the others any more */
		m->task = w->dead[m->who] ? TASK_REMOVE : TASK_NONE;
		return 0;
	}
	if (count > FIRST) {
		m->task = TASK_REMOVE;
		return 0;
	}
	if (place < BROKERS && (w->dead[m->who] || chance(w, 2))) {
		m->task = TASK_ADD;
		m->who = place;
		return broker_new(w, place, true);
	}
	switch (chance(w, 5)) {
	case 0:
		m->task = TASK_DRAIN;
		break;
	case 1:
		m->task = TASK_UNDRAIN;
		break;
	case 2:
		return lead_one(w, m, chance(w, 2) ? m->who : BROKERS);
	case 3: /* its machine burns down */
		if (all_there(w) && now(w) >= w->well_at && place < BROKERS) {
			kill_broker(w, m->who);
			w->dead[m->who] = true;
		}
		break;
	default:
		break;
	}
	return 0;
}

static int members_step(struct world *w, struct members_side *m)
{
	struct thmq_event e;
	uint32_t i;

	while (thmq_events(m->session, &e, 1) == 1)
		CHECK(w, e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED);
	for (i = 0; i < BROKERS; i++)
		if (w->leaves_at[i] && now(w) >= w->leaves_at[i]) {
			kill_broker(w, i);
			w->used[i] = false;
		}
	switch (m->task) {
	case TASK_NONE:
		return w->healed || chance(w, 12) == 0 ? choose(w, m) : 0;
	case TASK_ADD:
		return chance(w, 3) ? 0 : add_one(w, m);
	case TASK_REMOVE:
		return chance(w, 3) ? 0 : remove_one(w, m);
	default:
		return chance(w, 3) ? 0 : drain_one(w, m);
	}
}

static bool members_are_done(const struct world *w, const struct members_side *m)
{
	uint32_t i;

	for (i = 0; i < BROKERS; i++)
		if (w->used[i] && (w->dead[i] || w->leaves_at[i]))
			return false;
	return m->task == TASK_NONE;
}

static void tell_members(const struct world *w, const struct members_side *m)
{
	uint32_t i, k, n;

	if (m)
		fprintf(stderr, "task %d of place %u\n", (int)m->task, m->who);
	for (i = 0; i < BROKERS; i++) {
		if (w->was_used[i])
			fprintf(stderr, "place %u: used %d, dead %d, leaves %d\n", i, w->used[i], w->dead[i], w->leaves_at[i] != 0);
		tell_broker(w->brokers[i]);
		for (k = 0; k < SHARDS; k++) {
			const struct thmqi_members *all = group_of(w, i, k) ? thmqi_group_members(group_of(w, i, k)) : NULL;

			for (n = 0; all && n < all->count; n++)
				fprintf(stderr, "  shard %u has node %llu, role %u\n", k, (unsigned long long)all->list[n].id, all->list[n].role);
		}
	}
}

#endif
