/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta.c - the broker's metadata, on the core of shard 0: topics, groups, and where partitions are. A change is
 * appended to the meta log, carried to the shards once it is durable, then answered. Volatile topics are not logged.
 */
#include <stdio.h>

#include "meta.h"

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
	struct thmqi_list *it;
	struct group *g;

	thmqi_list_each(it, &t->groups)
	{
		g = thmqi_container(it, struct group, link);
		if (strcmp(g->name, name) == 0)
			return g;
	}
	return NULL;
}

uint32_t thmqi_meta_shard_of(const struct meta *m, const struct state_topic *t, uint32_t partition)
{
	return 1 + (t->first_shard + partition) % (m->broker->shard_count - 1);
}

uint32_t thmqi_meta_topic_count(struct meta *m)
{
	return m->topic_count;
}

/* ------------------------------------------------------------------- apply */

/* Room for all that are on their way and one more. */
static int topics_reserve(struct meta *m)
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

/* Reserved before; @t is meta's from now on. Nobody has the name. */
static void topic_add(struct meta *m, struct topic *t, const struct state_topic *state)
{
	uint32_t place = 0;

	thmqi_meta_topic(m, state->name, &place);
	t->state = *state;
	thmqi_list_init(&t->groups);
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
	if (topics_reserve(m) != 0)
		return -ENOMEM;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	topic_add(m, t, state);
	return 0;
}

static void topic_remove(struct meta *m, struct topic *t)
{
	uint32_t i;

	for (i = 0; m->topics[i] != t; i++)
		;
	memmove(m->topics + i, m->topics + i + 1, (m->topic_count - i - 1) * sizeof(*m->topics));
	m->topic_count--;
	while (!thmqi_list_empty(&t->groups))
		thmqi_group_drop(m, thmqi_list_first(&t->groups, struct group, link));
	free(t);
}

/* @g is the topic's from now on. */
static void group_add(struct topic *t, struct group *g, const struct state_group *state)
{
	g->id = state->group_id;
	g->topic = t;
	memcpy(g->name, state->name, sizeof(g->name));
	g->name[sizeof(g->name) - 1] = 0;
	thmqi_list_init(&g->members);
	thmqi_list_add_tail(&t->groups, &g->link);
}

static int group_apply(struct meta *m, const struct state_group *state)
{
	struct topic *t = thmqi_meta_topic_by_id(m, state->topic_id);
	struct group *g = t ? calloc(1, sizeof(*g)) : NULL;

	if (!g)
		return t ? -ENOMEM : -THMQ_ENOTOPIC;
	group_add(t, g, state);
	return 0;
}

/* What volatile ones have is never stored, and no two topics share a partition. */
static bool ids_ok(const struct meta *m, const struct state_topic *s)
{
	uint32_t i;

	if (s->topic_id >= VOLATILE_PARTITION || s->first_partition >= VOLATILE_PARTITION ||
	    s->partition_count > VOLATILE_PARTITION - s->first_partition)
		return false;
	for (i = 0; i < m->topic_count; i++) {
		const struct state_topic *other = &m->topics[i]->state;

		if (other->topic_id != s->topic_id && s->first_partition < other->first_partition + other->partition_count &&
		    other->first_partition < s->first_partition + s->partition_count)
			return false;
	}
	return true;
}

/* Bytes from the log passed their checksum, but a name must end and counts must be sane all the same. */
static int replay_topic(struct meta *m, const struct thmq_log_run *run)
{
	struct state_topic state;
	struct topic *t;
	int rc;

	if (run->header->len < sizeof(state))
		return -THMQ_ECORRUPT;
	memcpy(&state, run->payload, sizeof(state));
	if (!memchr(state.name, 0, sizeof(state.name)) || state.partition_count == 0 ||
	    state.partition_count > THMQ_PARTITION_COUNT_MAX || !ids_ok(m, &state))
		return -THMQ_ECORRUPT;
	m->next_topic = THMQI_MAX(m->next_topic, state.topic_id + 1);
	m->next_partition =
		THMQI_MAX(m->next_partition, state.first_partition + state.partition_count);
	m->next_shard = THMQI_MAX(m->next_shard, state.first_shard + state.partition_count);
	t = thmqi_meta_topic_by_id(m, state.topic_id);
	if (state.flags & TOPIC_DELETED) {
		if (t)
			topic_remove(m, t);
		return 0;
	}
	if (t)
		return 0; /* written again by a checkpoint */
	rc = topic_apply(m, &state);
	return rc == -EEXIST ? -THMQ_ECORRUPT : rc;
}

static int replay_group(struct meta *m, const struct thmq_log_run *run)
{
	struct state_group state;
	struct topic *t;
	int rc;

	if (run->header->len < sizeof(state))
		return -THMQ_ECORRUPT;
	memcpy(&state, run->payload, sizeof(state));
	if (state.group_id >= VOLATILE_PARTITION)
		return -THMQ_ECORRUPT;
	m->next_group = THMQI_MAX(m->next_group, state.group_id + 1);
	t = thmqi_meta_topic_by_id(m, state.topic_id);
	state.name[sizeof(state.name) - 1] = 0;
	if (!t || thmqi_meta_group(t, state.name))
		return 0; /* its topic is gone, or written again */
	rc = group_apply(m, &state);
	return rc;
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

int thmqi_meta_replay(struct meta *m, const struct thmq_log_run *run)
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
	default:
		return 0;
	}
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
	rc = thmqi_random_bytes(m->cluster + 1, count * 16u);
	return rc ? rc : cluster_store(m);
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
				*ret_error = each(ctx, t, t->first_partition + k);
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
	struct state_group state = {.group_id = g->id, .topic_id = g->topic->state.topic_id};

	memcpy(state.name, g->name, sizeof(state.name));
	return store(m, STATE_GROUP, g->id, &state, sizeof(state));
}

/* With its groups behind it: replay knows no group whose topic it does not know yet. */
static int renew_topic(struct meta *m, const struct topic *t)
{
	int rc = store(m, STATE_TOPIC, t->state.topic_id, &t->state, sizeof(t->state));
	struct thmqi_list *it;

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

/* Stored, and not true yet: it will be soon. */
static bool is_changing(const struct meta *m, uint32_t kind, uint64_t item)
{
	const struct meta_change *c;

	for (c = m->changes; c; c = c->next)
		if (kind == STATE_TOPIC ? c->topic.topic_id == item : c->group.group_id == item)
			return true;
	return false;
}

int thmqi_meta_renew(struct meta *m, uint32_t kind, uint64_t item)
{
	const struct group *g;
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
	default:
		return 0;
	}
}

/* ---------------------------------------------------- changes, in three steps */

static void change_end(struct meta_change *change, int status)
{
	struct meta_change **at = &change->meta->changes;

	while (*at != change)
		at = &(*at)->next;
	*at = change->next;
	if (change->conn)
		thmqi_reply(change->conn, change->request_id, status);
	free(change->new_topic);
	free(change->new_group);
	free(change);
}

static void join_now(struct meta_change *change);

/* A topic is seen when its shards take messages. */
static void create_end(struct meta_change *change, int status)
{
	topic_add(change->meta, change->new_topic, &change->topic);
	change->new_topic = NULL;
	change_end(change, status);
}

/* A shard had no memory for it, and it is stored: deleted again, so that the call that failed has changed nothing. */
static void create_undo(struct meta_change *change)
{
	struct pending *e;

	change->op = THMQI_OP_TOPIC_DELETE;
	change->topic.flags |= TOPIC_DELETED;
	if (change->topic.flags & THMQ_TOPIC_VOLATILE) {
		thmqi_meta_durable(change, 0);
	} else if (thmqi_shard_append_state(change->meta->shard, STATE_TOPIC, change->topic.topic_id, &change->topic,
					    sizeof(change->topic), &e) == 0) {
		e->change = change;
	} else { /* it will be there after the next open, so it is now, and may be deleted */
		change->topic.flags &= ~TOPIC_DELETED;
		create_end(change, change->status);
	}
}

static void on_shard_answered(struct thmqi_broker_post *post)
{
	struct meta_change *change = post->arg;

	if (post->status)
		change->status = post->status;
	if (--change->waiting)
		return;
	if (change->op == THMQI_OP_JOIN && !change->status)
		join_now(change);
	else if (change->op == THMQI_OP_TOPIC_CREATE && change->status)
		create_undo(change);
	else if (change->op == THMQI_OP_TOPIC_CREATE)
		create_end(change, 0);
	else
		change_end(change, change->status);
}

static int add_group(struct shard *s, uint32_t partition, uint32_t group)
{
	struct partition *p = thmqi_shard_partition(s, partition);

	return !p || p->dead || thmqi_offsets_get(p, group, true) ? 0 : -ENOMEM;
}

/* On the core of a data shard. */
static void on_shard_change(struct thmqi_broker_post *post)
{
	struct meta_change *change = post->arg;
	const struct state_topic *t = &change->topic;
	struct shard *s = post->shard;
	struct meta *m = change->meta;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < t->partition_count && !rc; i++) {
		if (thmqi_meta_shard_of(m, t, i) != s->id)
			continue;
		if (change->op == THMQI_OP_TOPIC_CREATE)
			rc = thmqi_shard_partition_add(s, t->first_partition + i, t);
		else if (change->op == THMQI_OP_JOIN)
			rc = add_group(s, t->first_partition + i, change->group.group_id);
		else
			thmqi_shard_partition_drop(s, t->first_partition + i);
	}
	post->status = rc;
	thmqi_broker_post(post, m->shard, on_shard_answered);
}

static void change_carry(struct meta_change *change)
{
	struct thmq_broker *b = change->meta->broker;
	uint32_t i, count = b->shard_count - 1;

	change->waiting = count;
	for (i = 0; i < count; i++) { /* the last one's answer may end the change */
		change->posts[i].arg = change;
		thmqi_broker_post(&change->posts[i], &b->shards[i + 1], on_shard_change);
	}
}

static void join_now(struct meta_change *change)
{
	struct meta *m = change->meta;
	struct topic *t = thmqi_meta_topic_by_id(m, change->group.topic_id);
	struct group *g = t ? thmqi_meta_group(t, change->group.name) : NULL;
	int rc = g ? 0 : -THMQ_ENOTOPIC;

	if (change->conn && g && !change->left) {
		change->conn->wire->reply->value[0] = g->id;
		rc = thmqi_group_join(m, g, change->conn, change->stream, change->timeout_ns);
	}
	change_end(change, rc);
}

/* The change is stored (or need not be): it becomes true. */
void thmqi_meta_durable(struct meta_change *change, int error)
{
	struct meta *m = change->meta;
	struct topic *t;

	if (error) {
		change_end(change, error);
		return;
	}
	switch (change->op) {
	case THMQI_OP_TOPIC_CREATE:
		change_carry(change); /* seen when all shards have it */
		break;
	case THMQI_OP_TOPIC_DELETE:
		t = thmqi_meta_topic_by_id(m, change->topic.topic_id);
		if (t)
			topic_remove(m, t);
		change_carry(change);
		break;
	case THMQI_OP_JOIN:
		t = thmqi_meta_topic_by_id(m, change->group.topic_id);
		if (t && !thmqi_meta_group(t, change->group.name)) {
			group_add(t, change->new_group, &change->group);
			change->new_group = NULL;
		}
		if (t && (t->state.flags & THMQ_TOPIC_RETAIN_CONSUMED)) {
			change->topic = t->state;
			change_carry(change); /* so that they wait for it, too */
		} else {
			join_now(change);
		}
		break;
	default:
		change_end(change, -EINVAL);
	}
}

static struct meta_change *change_begin(struct conn *c, uint64_t id, uint32_t op)
{
	struct meta *m = c->shard->broker->meta;
	uint32_t shards = m->broker->shard_count - 1;
	struct meta_change *change = calloc(1, sizeof(*change) + shards * sizeof(change->posts[0]));

	if (!change)
		return NULL;
	change->meta = m;
	change->conn = c;
	change->request_id = id;
	change->op = op;
	change->next = m->changes;
	m->changes = change;
	return change;
}

static void change_store(struct meta_change *change, uint32_t kind, uint64_t item,
			 const void *payload, uint32_t len)
{
	struct pending *e;
	int rc = thmqi_shard_append_state(change->meta->shard, kind, item, payload, len, &e);

	if (rc)
		change_end(change, rc);
	else
		e->change = change;
}

/* ---------------------------------------------------------------- requests */

/* The same name is being created or deleted right now. */
static bool in_change(const struct meta *m, const char *name)
{
	const struct meta_change *c;

	for (c = m->changes; c; c = c->next)
		if ((c->op == THMQI_OP_TOPIC_CREATE || c->op == THMQI_OP_TOPIC_DELETE) &&
		    strcmp(c->topic.name, name) == 0)
			return true;
	return false;
}

static int place_topic(struct meta *m, struct state_topic *t)
{
	bool is_volatile = t->flags & THMQ_TOPIC_VOLATILE;
	uint32_t *topic = is_volatile ? &m->next_volatile_topic : &m->next_topic;
	uint32_t *partition = is_volatile ? &m->next_volatile_partition : &m->next_partition;
	uint32_t bit = is_volatile ? VOLATILE_PARTITION : 0;

	if (*partition + t->partition_count >= VOLATILE_PARTITION)
		return -ENOSPC;
	t->topic_id = (*topic)++ | bit;
	t->first_partition = *partition | bit;
	*partition += t->partition_count;
	t->first_shard = m->next_shard;
	m->next_shard += t->partition_count;
	return 0;
}

static void topic_create(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	bool is_volatile = r->topic_flags & THMQ_TOPIC_VOLATILE;
	struct meta_change *change;
	int rc = 0;

	if (thmqi_meta_topic(m, r->name, NULL))
		rc = r->topic_flags & THMQ_TOPIC_IF_ABSENT ? 0 : -EEXIST;
	else if (in_change(m, r->name))
		rc = -EBUSY;
	else if (r->partition_count == 0 || r->partition_count > THMQ_PARTITION_COUNT_MAX ||
		 r->visible_at > THMQ_DURABILITY_ALL)
		rc = -EINVAL;
	else if (!is_volatile && !m->shard->log)
		rc = -ENOTSUP;
	else
		goto create;
	thmqi_reply(c, id, rc);
	return;
create:
	change = change_begin(c, id, THMQI_OP_TOPIC_CREATE);
	if (!change) {
		thmqi_reply(c, id, -ENOMEM);
		return;
	}
	change->new_topic = calloc(1, sizeof(*change->new_topic));
	if (!change->new_topic || topics_reserve(m) != 0) {
		change_end(change, -ENOMEM);
		return;
	}
	change->topic.flags = r->topic_flags & (THMQ_TOPIC_VOLATILE | THMQ_TOPIC_RETAIN_CONSUMED);
	change->topic.retention_ns = r->retention_ns;
	change->topic.retention_bytes = r->retention_bytes;
	change->topic.partition_count = r->partition_count;
	change->topic.visible_at = r->visible_at ? r->visible_at : THMQ_DURABILITY_DURABLE;
	if (is_volatile)
		change->topic.visible_at = THMQ_DURABILITY_MEMORY;
	change->topic.volatile_bytes = r->volatile_bytes ? r->volatile_bytes : 16u << 20;
	snprintf(change->topic.name, sizeof(change->topic.name), "%s", r->name);
	rc = place_topic(m, &change->topic);
	if (rc)
		change_end(change, rc);
	else if (is_volatile)
		thmqi_meta_durable(change, 0);
	else
		change_store(change, STATE_TOPIC, change->topic.topic_id, &change->topic,
			     sizeof(change->topic));
}

static void topic_delete(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic(m, r->name, NULL);
	struct meta_change *change;

	if (!t || in_change(m, r->name)) {
		thmqi_reply(c, id, t ? -EBUSY : -THMQ_ENOTOPIC);
		return;
	}
	change = change_begin(c, id, THMQI_OP_TOPIC_DELETE);
	if (!change) {
		thmqi_reply(c, id, -ENOMEM);
		return;
	}
	change->topic = t->state;
	change->topic.flags |= TOPIC_DELETED;
	if (t->state.flags & THMQ_TOPIC_VOLATILE)
		thmqi_meta_durable(change, 0);
	else
		change_store(change, STATE_TOPIC, change->topic.topic_id, &change->topic,
			     sizeof(change->topic));
}

static void entry_of(const struct topic *t, struct thmqi_topic_entry *ret)
{
	struct thmqi_list *it;

	memset(ret, 0, sizeof(*ret));
	ret->topic_id = t->state.topic_id;
	ret->topic_flags = t->state.flags;
	ret->partition_count = t->state.partition_count;
	ret->visible_at = t->state.visible_at;
	ret->retention_ns = t->state.retention_ns;
	ret->retention_bytes = t->state.retention_bytes;
	memcpy(ret->name, t->state.name, sizeof(ret->name));
	thmqi_list_each(it, &t->groups) ret->group_count++;
}

static void topic_list(struct meta *m, struct conn *c, uint64_t id, uint32_t first)
{
	struct thmqi_reply *reply = c->wire->reply;
	uint32_t i;

	reply->total = m->topic_count;
	reply->count = 0;
	for (i = first; i < m->topic_count && reply->count < THMQI_ARRAY_COUNT(reply->topics); i++)
		entry_of(m->topics[i], &reply->topics[reply->count++]);
	thmqi_reply(c, id, 0);
}

static void topic_partitions(struct meta *m, struct conn *c, uint64_t id,
			     const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic_by_id(m, r->topic_id);
	struct thmqi_reply *reply = c->wire->reply;
	uint32_t i;

	if (!t) {
		thmqi_reply(c, id, -THMQ_ENOTOPIC);
		return;
	}
	reply->total = t->state.partition_count;
	reply->count = 0;
	for (i = r->index; i < reply->total && reply->count < THMQI_ARRAY_COUNT(reply->partitions);
	     i++) {
		reply->partitions[reply->count].partition = t->state.first_partition + i;
		reply->partitions[reply->count++].shard = thmqi_meta_shard_of(m, &t->state, i);
	}
	thmqi_reply(c, id, 0);
}

static void join(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic(m, r->name, NULL);
	struct group *g = t ? thmqi_meta_group(t, r->group) : NULL;
	struct meta_change *change;
	bool is_volatile;

	if (!t || r->stream >= THMQI_STREAMS) {
		thmqi_reply(c, id, t ? -EINVAL : -THMQ_ENOTOPIC);
		return;
	}
	change = change_begin(c, id, THMQI_OP_JOIN);
	if (!change) {
		thmqi_reply(c, id, -ENOMEM);
		return;
	}
	change->stream = r->stream;
	change->timeout_ns = r->session_timeout_ns;
	change->group.topic_id = t->state.topic_id;
	snprintf(change->group.name, sizeof(change->group.name), "%s", r->group);
	if (g && (t->state.flags & THMQ_TOPIC_RETAIN_CONSUMED)) {
		change->group.group_id = g->id; /* a shard may have had no memory for it when it was made */
		change->topic = t->state;
		change_carry(change);
		return;
	}
	if (g) {
		join_now(change);
		return;
	}
	change->new_group = calloc(1, sizeof(*change->new_group));
	if (!change->new_group) {
		change_end(change, -ENOMEM);
		return;
	}
	is_volatile = t->state.flags & THMQ_TOPIC_VOLATILE;
	change->group.group_id =
		is_volatile ? m->next_volatile_group++ | VOLATILE_PARTITION : m->next_group++;
	if (is_volatile)
		thmqi_meta_durable(change, 0);
	else
		change_store(change, STATE_GROUP, change->group.group_id, &change->group,
			     sizeof(change->group));
}

static void group_find(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic(m, r->name, NULL);
	struct group *g = t ? thmqi_meta_group(t, r->group) : NULL;

	c->wire->reply->value[0] = g ? g->id : 0;
	thmqi_reply(c, id, !t ? -THMQ_ENOTOPIC : !g ? -ENOENT : 0);
}

static void partition_info(struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct partition *p = thmqi_shard_partition(c->shard, r->partition);
	struct thmqi_reply *reply = c->wire->reply;
	struct group_offset *g;
	uint64_t end;

	if (!p || p->dead) {
		thmqi_reply(c, id, p ? -THMQ_ENOTOPIC : -THMQ_ENOPARTITION);
		return;
	}
	g = r->group_id ? thmqi_offsets_get(p, r->group_id, false) : NULL;
	if (thmq_log_bounds(p->log, p->id, &reply->value[0], &end) != 0)
		reply->value[0] = p->visible;
	reply->value[0] = THMQI_MIN(reply->value[0], p->visible);
	reply->value[1] = p->visible;
	reply->value[2] = g ? g->offset : UINT64_MAX;
	thmqi_reply(c, id, 0);
}

void thmqi_meta_request(struct conn *c, uint64_t id, const struct thmqi_request *request)
{
	struct meta *m = c->shard->broker->meta;
	struct thmqi_request r = *request; /* read once: the other end could change it */
	struct topic *t;

	r.name[sizeof(r.name) - 1] = r.group[sizeof(r.group) - 1] = 0;
	c->wire->reply->count = c->wire->reply->total = 0;
	if (r.op == THMQI_OP_PARTITION_INFO) {
		partition_info(c, id, &r);
		return;
	}
	if (c->shard->id != THMQI_SHARD_META) {
		thmqi_reply(c, id, -EINVAL);
		return;
	}
	switch (r.op) {
	case THMQI_OP_TOPIC_CREATE:
		topic_create(m, c, id, &r);
		break;
	case THMQI_OP_TOPIC_DELETE:
		topic_delete(m, c, id, &r);
		break;
	case THMQI_OP_TOPIC_LIST:
		topic_list(m, c, id, r.index);
		break;
	case THMQI_OP_TOPIC_DESCRIBE:
		t = thmqi_meta_topic(m, r.name, NULL);
		if (t)
			entry_of(t, &c->wire->reply->topics[0]);
		thmqi_reply(c, id, t ? 0 : -THMQ_ENOTOPIC);
		break;
	case THMQI_OP_TOPIC_PARTITIONS:
		topic_partitions(m, c, id, &r);
		break;
	case THMQI_OP_JOIN:
		join(m, c, id, &r);
		break;
	case THMQI_OP_LEAVE:
		thmqi_group_leave(m, c, r.stream);
		thmqi_reply(c, id, 0);
		break;
	case THMQI_OP_GROUP_FIND:
		group_find(m, c, id, &r);
		break;
	default:
		thmqi_reply(c, id, -ENOTSUP);
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
	thmqi_group_timer_init(m);
	*ret_meta = m;
	return 0;
}

/* On the meta core: its timer runs there. */
void thmqi_meta_close(struct meta *m)
{
	struct meta_change *change;

	if (m->timer_on)
		thmqi_timer_stop(m->shard->core, &m->timer);
	while ((change = m->changes)) {
		m->changes = change->next;
		free(change->new_topic);
		free(change->new_group);
		free(change);
	}
	while (m->topic_count)
		topic_remove(m, m->topics[m->topic_count - 1]);
	free(m->topics);
	free(m->cluster);
	free(m);
}
