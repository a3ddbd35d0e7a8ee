/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta.c - the broker's metadata, on the core of shard 0: topics, groups, and where partitions are; how they come back from
 * the meta log, and what of them is appended again before its segment goes. How they change: change.c.
 */
#include <stdio.h>

#include "meta.h"
#include "../txn/txn.h"

/* ----------------------------------------------------------------- look up */

struct topic *thmqi_meta_topic(struct meta *m, const char *name, uint32_t *ret_place)
{
	uint32_t lo = 0, hi = m->topic_count, mid;
	int cmp;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		cmp = strcmp(m->topics[mid]->state.name, name);
		if (cmp == 0)
			return m->topics[mid];
		if (cmp < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (ret_place)
		*ret_place = lo;
	return NULL;
}

struct topic *thmqi_meta_topic_by_id(struct meta *m, uint32_t id)
{
	uint32_t i;

	for (i = 0; i < m->topic_count; i++)
		if (m->topics[i]->state.topic_id == id)
			return m->topics[i];
	return NULL;
}

struct group *thmqi_meta_group(struct topic *t, const char *name)
{
	struct group *g = thmqi_map_get(&t->groups_by_name, thmqi_hash64(name, strlen(name)));
	struct thmqi_list *it;

	if ((g && strcmp(g->name, name) == 0) || (!g && !t->groups_unmapped))
		return g;
	thmqi_list_each(it, &t->groups)
	{
		g = thmqi_container(it, struct group, link);
		if (strcmp(g->name, name) == 0)
			return g;
	}
	return NULL;
}

struct group *thmqi_meta_group_by_id(struct topic *t, uint32_t id)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &t->groups)
		if (thmqi_container(it, struct group, link)->id == id)
			return thmqi_container(it, struct group, link);
	return NULL;
}

struct named *thmqi_meta_named(struct topic *t, const char *name)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &t->producers)
	{
		struct named *n = thmqi_container(it, struct named, link);

		if (strcmp(n->state.name, name) == 0)
			return n;
	}
	return NULL;
}

uint32_t thmqi_meta_shard_of(const struct meta *m, const struct state_topic *t, uint32_t partition)
{
	return 1 + (t->first_shard + partition % thmqi_topic_lanes(t)) % (m->broker->shard_count - 1);
}

/* One that never got more partitions is stored as it was before there was such a thing. */
int thmqi_meta_topic_store(struct meta *m, const struct state_topic *t, struct pending **ret_pending)
{
	size_t len = offsetof(struct state_topic, added) + thmqi_grow_range_count(t) * sizeof(t->added[0]);

	return thmqi_shard_append_state(m->shard, STATE_TOPIC, t->topic_id, t, (uint32_t)len, ret_pending);
}

uint32_t thmqi_meta_topic_count(struct meta *m)
{
	return m->topic_count;
}

/* ------------------------------------------------------------------- apply */

int thmqi_meta_topics_reserve(struct meta *m)
{
	const struct meta_change *c;
	uint32_t want = m->topic_count + 1, size = m->topic_size ? m->topic_size : 16;
	struct topic **grown;

	for (c = m->changes; c; c = c->next)
		want += c->new_topic != NULL;
	while (size < want)
		size *= 2;
	if (size == m->topic_size)
		return 0;
	grown = realloc(m->topics, size * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	m->topics = grown;
	m->topic_size = size;
	return 0;
}

void thmqi_meta_topic_add(struct meta *m, struct topic *t, const struct state_topic *state)
{
	uint32_t place = 0;

	thmqi_meta_topic(m, state->name, &place);
	t->state = *state;
	thmqi_list_init(&t->groups);
	thmqi_list_init(&t->producers);
	memmove(m->topics + place + 1, m->topics + place,
		(m->topic_count - place) * sizeof(*m->topics));
	m->topics[place] = t;
	m->topic_count++;
}

static int topic_apply(struct meta *m, const struct state_topic *state)
{
	struct topic *t;

	if (thmqi_meta_topic(m, state->name, NULL))
		return -EEXIST;
	if (thmqi_meta_topics_reserve(m) != 0)
		return -ENOMEM;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	thmqi_meta_topic_add(m, t, state);
	return 0;
}

void thmqi_meta_topic_remove(struct meta *m, struct topic *t)
{
	uint32_t i;

	for (i = 0; m->topics[i] != t; i++)
		;
	memmove(m->topics + i, m->topics + i + 1, (m->topic_count - i - 1) * sizeof(*m->topics));
	m->topic_count--;
	while (!thmqi_list_empty(&t->groups))
		thmqi_group_drop(m, thmqi_list_first(&t->groups, struct group, link));
	while (!thmqi_list_empty(&t->producers)) {
		struct named *n = thmqi_list_first(&t->producers, struct named, link);

		thmqi_list_del(&n->link);
		free(n);
	}
	thmqi_map_fini(&t->groups_by_name);
	free(t);
}

void thmqi_meta_named_add(struct topic *t, struct named *n, const struct state_producer *state)
{
	n->state = *state;
	thmqi_list_add_tail(&t->producers, &n->link);
}

void thmqi_meta_group_add(struct topic *t, struct group *g, const struct state_group *state)
{
	uint64_t hash;

	g->id = state->group_id;
	g->topic = t;
	g->partitions = state->partitions;
	memcpy(g->name, state->name, sizeof(g->name));
	g->name[sizeof(g->name) - 1] = 0;
	thmqi_list_init(&g->members);
	thmqi_list_add_tail(&t->groups, &g->link);
	t->group_count++;
	hash = thmqi_hash64(g->name, strlen(g->name));
	if (thmqi_map_get(&t->groups_by_name, hash) || thmqi_map_put(&t->groups_by_name, hash, g) != 0)
		t->groups_unmapped = true; /* it is found all the same */
}

void thmqi_meta_group_removed(const struct group *g)
{
	struct topic *t = g->topic;
	uint64_t hash = thmqi_hash64(g->name, strlen(g->name));

	t->group_count--;
	if (thmqi_map_get(&t->groups_by_name, hash) != g)
		return;
	thmqi_map_remove(&t->groups_by_name, hash); /* one that has the same hash is looked for among all */
}

static int group_apply(struct meta *m, const struct state_group *state)
{
	struct topic *t = thmqi_meta_topic_by_id(m, state->topic_id);
	struct group *g = t ? calloc(1, sizeof(*g)) : NULL;

	if (!g)
		return t ? -ENOMEM : -THMQ_ENOTOPIC;
	thmqi_meta_group_add(t, g, state);
	return 0;
}

/* What volatile ones have is never stored, and no two topics share a partition. */
static bool ids_ok(const struct meta *m, const struct state_topic *s)
{
	uint32_t i;

	if (s->topic_id >= VOLATILE_PARTITION || !thmqi_grow_ranges_ok(s))
		return false;
	for (i = 0; i < m->topic_count; i++)
		if (m->topics[i]->state.topic_id != s->topic_id && thmqi_grow_share_ids(&m->topics[i]->state, s))
			return false;
	return true;
}

/* Bytes from the log passed their checksum, but a name must end and counts must be sane all the same. */
static int replay_topic(struct meta *m, const struct thmq_log_run *run)
{
	struct state_topic state = {0};
	struct topic *t;
	int rc;

	if (run->header->len < STATE_TOPIC_LEN_MIN)
		return -THMQ_ECORRUPT;
	memcpy(&state, run->payload, THMQI_MIN(run->header->len, (uint32_t)sizeof(state)));
	if (!memchr(state.name, 0, sizeof(state.name)) || state.partition_count == 0 ||
	    state.partition_count > THMQ_PARTITION_COUNT_MAX || state.priorities > THMQ_PRIORITIES_MAX ||
	    (state.priorities && state.partition_count % state.priorities) || !ids_ok(m, &state))
		return -THMQ_ECORRUPT;
	m->next_topic = THMQI_MAX(m->next_topic, state.topic_id + 1);
	m->next_partition = THMQI_MAX(m->next_partition, thmqi_grow_ids_end(&state));
	m->next_shard = THMQI_MAX(m->next_shard, state.first_shard + state.partition_count);
	t = thmqi_meta_topic_by_id(m, state.topic_id);
	if (state.flags & TOPIC_DELETED) {
		if (t)
			thmqi_meta_topic_remove(m, t);
		return 0;
	}
	if (t) { /* altered, or written again by a checkpoint: the last one counts */
		t->state = state;
		return 0;
	}
	rc = topic_apply(m, &state);
	return rc == -EEXIST ? -THMQ_ECORRUPT : rc;
}

static int replay_group(struct meta *m, const struct thmq_log_run *run)
{
	struct state_group state = {0};
	struct topic *t;
	int rc;

	if (run->header->len < STATE_GROUP_LEN_MIN)
		return -THMQ_ECORRUPT;
	memcpy(&state, run->payload, THMQI_MIN(run->header->len, (uint32_t)sizeof(state)));
	if (state.group_id >= VOLATILE_PARTITION)
		return -THMQ_ECORRUPT;
	m->next_group = THMQI_MAX(m->next_group, state.group_id + 1);
	t = thmqi_meta_topic_by_id(m, state.topic_id);
	state.name[sizeof(state.name) - 1] = 0;
	if (t && !state.name[0]) { /* it was deleted */
		struct group *g = thmqi_meta_group_by_id(t, state.group_id);

		if (g)
			thmqi_group_drop(m, g);
		return 0;
	}
	if (!t || thmqi_meta_group(t, state.name))
		return 0; /* its topic is gone, or written again */
	rc = group_apply(m, &state);
	return rc;
}

static int replay_named(struct meta *m, const struct thmq_log_run *run)
{
	struct state_producer state;
	struct named *n;
	struct topic *t;

	if (run->header->len < sizeof(state))
		return -THMQ_ECORRUPT;
	memcpy(&state, run->payload, sizeof(state));
	if (!(state.producer_id & NAMED_PRODUCER) || !memchr(state.name, 0, sizeof(state.name)))
		return -THMQ_ECORRUPT;
	t = thmqi_meta_topic_by_id(m, state.topic_id);
	if (!t)
		return 0; /* gone */
	n = thmqi_meta_named(t, state.name);
	if (n) {
		n->state = state;
		return 0;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	thmqi_meta_named_add(t, n, &state);
	return 0;
}

static int replay_cluster(struct meta *m, const struct thmq_log_run *run)
{
	const struct state_cluster *state = run->payload;
	struct state_cluster *copy;

	if (run->header->len < sizeof(*state) || state->shard_count == 0 ||
	    state->shard_count > THMQ_SHARD_COUNT_MAX ||
	    run->header->len < sizeof(*state) + state->shard_count * 16u)
		return -THMQ_ECORRUPT;
	copy = malloc(run->header->len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, state, run->header->len);
	free(m->cluster);
	m->cluster = copy;
	return 0;
}

static int replay_counters(struct meta *m, const struct thmq_log_run *run)
{
	const struct state_counters *state = run->payload;

	if (run->header->len < sizeof(*state) || state->next_topic > VOLATILE_PARTITION ||
	    state->next_partition > VOLATILE_PARTITION || state->next_group > VOLATILE_PARTITION)
		return -THMQ_ECORRUPT;
	m->counters = *state;
	m->next_topic = THMQI_MAX(m->next_topic, state->next_topic);
	m->next_partition = THMQI_MAX(m->next_partition, state->next_partition);
	m->next_group = THMQI_MAX(m->next_group, state->next_group);
	m->next_shard = THMQI_MAX(m->next_shard, state->next_shard);
	return 0;
}

static int replay(struct meta *m, const struct thmq_log_run *run)
{
	switch (run->header->partition) {
	case STATE_TOPIC:
		return replay_topic(m, run);
	case STATE_GROUP:
		return replay_group(m, run);
	case STATE_CLUSTER:
		return replay_cluster(m, run);
	case STATE_COUNTERS:
		return replay_counters(m, run);
	case STATE_PRODUCER:
		return replay_named(m, run);
	case STATE_DECISION:
		return thmqi_txns_replay(m, run);
	case STATE_NODE:
		return thmqi_drain_replay(m, run);
	default:
		return 0;
	}
}

int thmqi_meta_replay(struct meta *m, const struct thmq_log_run *run)
{
	int rc = replay(m, run);

	return rc || !m->broker->cluster ? rc : thmqi_follow_note(m, run);
}

/* ----------------------------------------------------------------- cluster */

static int cluster_store(struct meta *m)
{
	struct pending *e;
	struct meta_change *none = NULL;
	int rc;

	(void)none;
	rc = thmqi_shard_append_state(m->shard, STATE_CLUSTER, 0, m->cluster,
				      (uint32_t)sizeof(*m->cluster) + m->cluster->shard_count * 16u,
				      &e);
	return rc;
}

/* With copies the logs are known without it, and made. */
static int name_copies(struct meta *m)
{
	uint8_t *ids = (uint8_t *)(m->cluster + 1);
	uint32_t i;

	m->cluster->ready = 1;
	for (i = 0; i < m->cluster->shard_count; i++)
		thmqi_cluster_log_id(m->broker, i + 1, ids + i * 16u);
	return 0;
}

/* A new directory: decide which shards there will be, and store it before any of them is made. */
int thmqi_meta_cluster_ensure(struct meta *m)
{
	const struct thmq_broker_opts *o = &m->broker->opts;
	uint32_t count = o->shard_count ? o->shard_count : thmqi_env_core_count(m->broker->env);
	int rc;

	if (m->cluster)
		return 0;
	m->cluster = calloc(1, sizeof(*m->cluster) + count * 16u);
	if (!m->cluster)
		return -ENOMEM;
	m->cluster->shard_count = count;
	m->cluster->segment_bytes = o->segment_bytes;
	rc = m->broker->cluster ? name_copies(m) : thmqi_random_bytes(m->cluster + 1, count * 16u);
	return rc ? rc : cluster_store(m);
}

void thmqi_meta_look_after(struct meta *m)
{
	uint32_t i;

	for (i = 0; i < m->topic_count; i++)
		if (m->topics[i]->state.flags & THMQ_TOPIC_TEMPORARY)
			thmqi_group_timer_start(m);
}

/* Whatever another one gave out was of a lower term. */
void thmqi_meta_lead(struct meta *m)
{
	m->next_epoch = m->shard->term << 32;
	m->next_producer = 0;
	thmqi_meta_look_after(m);
	atomic_fetch_add(&m->broker->txn_lives, 1);
	thmqi_txns_recover(m);
	thmqi_meta_cluster_ensure(m); /* for those that look at a closed directory; else the next one that leads does it */
}

const struct state_cluster *thmqi_meta_cluster(struct meta *m)
{
	return m->cluster;
}

int thmqi_meta_cluster_ready(struct meta *m)
{
	if (m->cluster->ready)
		return 0;
	m->cluster->ready = 1;
	return cluster_store(m);
}

void thmqi_meta_each_partition(struct meta *m, uint32_t shard,
			       int (*each)(void *ctx, const struct state_topic *topic,
					   uint32_t partition),
			       void *ctx, int *ret_error)
{
	const struct state_topic *t;
	uint32_t i, k;

	*ret_error = 0;
	for (i = 0; i < m->topic_count && !*ret_error; i++) {
		t = &m->topics[i]->state;
		for (k = 0; k < t->partition_count && !*ret_error; k++)
			if (thmqi_meta_shard_of(m, t, k) == shard)
				*ret_error = each(ctx, t, thmqi_topic_partition(t, k));
	}
}

void thmqi_meta_each_group(struct meta *m, uint32_t topic_id, int (*each)(void *ctx, uint32_t group_id), void *ctx,
			   int *ret_error)
{
	struct topic *t = thmqi_meta_topic_by_id(m, topic_id);
	struct thmqi_list *it;

	if (!t)
		return;
	thmqi_list_each(it, &t->groups)
		if (!*ret_error)
			*ret_error = each(ctx, thmqi_container(it, struct group, link)->id);
}

void thmqi_meta_each_producer(struct meta *m, int (*each)(void *ctx, uint64_t producer, uint32_t epoch), void *ctx,
			      int *ret_error)
{
	struct thmqi_list *it;
	uint32_t i;

	for (i = 0; i < m->topic_count; i++)
		thmqi_list_each(it, &m->topics[i]->producers)
		{
			const struct named *n = thmqi_container(it, struct named, link);

			if (!*ret_error)
				*ret_error = each(ctx, n->state.producer_id, n->state.epoch);
		}
}

/* ------------------------------------------------------------------- renewal */

static int store(struct meta *m, uint32_t kind, uint64_t item, const void *payload, uint32_t len)
{
	struct pending *e;

	return thmqi_shard_append_state(m->shard, kind, item, payload, len, &e);
}

/* What used the last ids may be gone with its slices: they are not given again. */
static int renew_counters(struct meta *m, bool anew)
{
	const struct state_counters now = {m->next_topic, m->next_partition, m->next_group, m->next_shard};
	int rc;

	if (!anew && memcmp(&now, &m->counters, sizeof(now)) == 0)
		return 0;
	rc = store(m, STATE_COUNTERS, 0, &now, sizeof(now));
	if (rc == 0)
		m->counters = now;
	return rc;
}

static int renew_group(struct meta *m, const struct group *g)
{
	struct state_group state = {.group_id = g->id, .topic_id = g->topic->state.topic_id, .partitions = g->partitions};

	memcpy(state.name, g->name, sizeof(state.name));
	return store(m, STATE_GROUP, g->id, &state, sizeof(state));
}

static int renew_named(struct meta *m, const struct named *n)
{
	return store(m, STATE_PRODUCER, n->state.producer_id, &n->state, sizeof(n->state));
}

/* With its groups and producers behind it: replay knows none whose topic it does not know yet. */
static int renew_topic(struct meta *m, const struct topic *t)
{
	struct pending *e;
	int rc = thmqi_meta_topic_store(m, &t->state, &e);
	struct thmqi_list *it;

	thmqi_list_each(it, &t->producers)
		if (rc == 0)
			rc = renew_named(m, thmqi_container(it, struct named, link));
	thmqi_list_each(it, &t->groups)
		if (rc == 0)
			rc = renew_group(m, thmqi_container(it, struct group, link));
	return rc;
}

static const struct group *group_by_id(const struct meta *m, uint32_t id)
{
	struct thmqi_list *it;
	uint32_t i;

	for (i = 0; i < m->topic_count; i++)
		thmqi_list_each(it, &m->topics[i]->groups)
			if (thmqi_container(it, struct group, link)->id == id)
				return thmqi_container(it, struct group, link);
	return NULL;
}

static const struct named *named_by_id(const struct meta *m, uint64_t id)
{
	struct thmqi_list *it;
	uint32_t i;

	for (i = 0; i < m->topic_count; i++)
		thmqi_list_each(it, &m->topics[i]->producers)
			if (thmqi_container(it, struct named, link)->state.producer_id == id)
				return thmqi_container(it, struct named, link);
	return NULL;
}

/* Stored, and not true yet: it will be soon. */
static bool is_changing(const struct meta *m, uint32_t kind, uint64_t item)
{
	const struct meta_change *c;

	for (c = m->changes; c; c = c->next)
		if (kind == STATE_TOPIC	     ? c->topic.topic_id == item
		    : kind == STATE_PRODUCER ? c->producer.producer_id == item
					     : c->group.group_id == item)
			return true;
	return false;
}

int thmqi_meta_renew(struct meta *m, uint32_t kind, uint64_t item)
{
	const struct group *g;
	const struct named *n;
	const struct topic *t;

	switch (kind) {
	case STATE_CLUSTER:
		return cluster_store(m);
	case STATE_COUNTERS:
		return renew_counters(m, true);
	case STATE_TOPIC:
		if (is_changing(m, kind, item))
			return -EAGAIN;
		t = thmqi_meta_topic_by_id(m, (uint32_t)item);
		return t ? renew_topic(m, t) : renew_counters(m, false);
	case STATE_GROUP:
		if (is_changing(m, kind, item))
			return -EAGAIN;
		g = group_by_id(m, (uint32_t)item);
		return g ? renew_group(m, g) : renew_counters(m, false);
	case STATE_PRODUCER:
		if (is_changing(m, kind, item))
			return -EAGAIN;
		n = named_by_id(m, item);
		return n ? renew_named(m, n) : 0;
	case STATE_DECISION:
		return thmqi_txns_renew(m, item);
	case STATE_NODE:
		return thmqi_drain_renew(m, item);
	default:
		return 0;
	}
}

/* ---------------------------------------------------------------- lifetime */

int thmqi_meta_open(struct thmq_broker *b, struct meta **ret_meta)
{
	struct meta *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->broker = b;
	m->shard = &b->shards[THMQI_SHARD_META];
	m->next_topic = m->next_partition = m->next_group = 1;
	m->next_volatile_topic = m->next_volatile_partition = m->next_volatile_group = 1;
	m->carries_last = &m->carries;
	thmqi_group_timer_init(m);
	*ret_meta = m;
	return 0;
}

/* What shards are still at ends when they have answered. */
void thmqi_meta_reset(struct meta *m)
{
	struct meta_change *c;

	thmqi_follow_drop(m);
	thmqi_txns_reset(m);
	for (c = m->changes; c; c = c->next)
		c->orphan = true;
	while (m->topic_count)
		thmqi_meta_topic_remove(m, m->topics[m->topic_count - 1]);
	free(m->cluster);
	m->cluster = NULL;
	m->next_topic = m->next_partition = m->next_group = 1;
	m->next_shard = 0;
	memset(&m->counters, 0, sizeof(m->counters));
	m->drain_count = 0;
}

/* On the meta core: its timer runs there. */
void thmqi_meta_close(struct meta *m)
{
	struct meta_change *change;

	if (m->timer_on)
		thmqi_timer_stop(m->shard->core, &m->timer);
	thmqi_txns_close(m);
	thmqi_follow_drop(m);
	while ((change = m->changes)) {
		m->changes = change->next;
		free(change->new_topic);
		free(change->new_group);
		free(change->new_named);
		free(change);
	}
	while (m->topic_count)
		thmqi_meta_topic_remove(m, m->topics[m->topic_count - 1]);
	free(m->topics);
	free(m->cluster);
	free(m);
}
