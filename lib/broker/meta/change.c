/* SPDX-License-Identifier: Apache-2.0 */
/*
 * change.c - requests to the metadata, on the core of shard 0. A change is appended to the meta log, carried to the shards once it
 * is durable, then answered. Volatile topics are not logged.
 */
#include <stdio.h>

#include "../copies/lead.h"
#include "meta.h"
#include "../txn/txn.h"

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
	free(change->new_named);
	free(change);
}

/* It is its own producer from now on: nobody else of its name writes any more. */
static void producer_end(struct meta_change *change)
{
	struct thmqi_reply *reply = change->conn ? change->conn->wire->reply : NULL;

	if (reply) {
		reply->value[0] = change->producer.producer_id;
		reply->value[1] = change->producer.epoch;
		reply->value[2] = change->value;
	}
	change_end(change, change->status);
}

static void join_now(struct meta_change *change);

/* A topic is seen when its shards take messages. */
static void create_end(struct meta_change *change, int status)
{
	thmqi_meta_topic_add(change->meta, change->new_topic, &change->topic);
	change->new_topic = NULL;
	if (change->topic.flags & THMQ_TOPIC_TEMPORARY)
		thmqi_group_timer_start(change->meta);
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
	} else if (thmqi_meta_topic_store(change->meta, &change->topic, &e) == 0) {
		e->change = change;
	} else { /* it will be there after the next open, so it is now, and may be deleted */
		change->topic.flags &= ~TOPIC_DELETED;
		create_end(change, change->status);
	}
}

static void alter_end(struct meta_change *change, int status)
{
	struct topic *t = thmqi_meta_topic_by_id(change->meta, change->topic.topic_id);

	if (t && change->partitions_before) {
		t->partitions_coming = 0;
		thmqi_grow_end(change->meta, &change->topic);
	}
	change_end(change, status);
}

/* As create_undo(). The ids stay the topic's: it may be asked for more again. */
static void grow_undo(struct meta_change *change)
{
	uint32_t wanted = change->topic.partition_count;
	struct pending *e;

	change->topic.partition_count = change->partitions_before;
	if (change->topic.flags & THMQ_TOPIC_VOLATILE) {
		change->partitions_before = 0;
		thmqi_meta_durable(change, 0);
	} else if (thmqi_meta_topic_store(change->meta, &change->topic, &e) == 0) {
		change->partitions_before = 0;
		e->change = change;
	} else { /* it will have them after the next open, so it has them now */
		change->topic.partition_count = wanted;
		alter_end(change, change->status);
	}
}

static void on_shard_answered(struct thmqi_broker_post *post)
{
	struct meta_change *change = post->arg;

	if (post->status)
		change->status = post->status;
	change->value = THMQI_MAX(change->value, post->value);
	if (--change->waiting)
		return;
	if (change->orphan)
		change_end(change, -THMQ_ENOTLEADER);
	else if (change->op == THMQI_OP_JOIN && !change->status)
		join_now(change);
	else if (change->op == THMQI_OP_TOPIC_CREATE && change->status)
		create_undo(change);
	else if (change->op == THMQI_OP_TOPIC_CREATE)
		create_end(change, 0);
	else if (change->op == THMQI_OP_TOPIC_ALTER && change->status && change->partitions_before)
		grow_undo(change);
	else if (change->op == THMQI_OP_TOPIC_ALTER)
		alter_end(change, change->status);
	else if (change->op == THMQI_OP_PRODUCER_OPEN)
		producer_end(change);
	else
		change_end(change, change->status);
}

static int add_group(struct shard *s, uint32_t partition, uint32_t group)
{
	struct partition *p = thmqi_shard_partition(s, partition);

	return !p || p->dead || thmqi_offsets_get(p, group, true) ? 0 : -ENOMEM;
}

/* What older ones of its name have appended stays, and is told once it is durable. */
static int fence_producer(struct shard *s, struct thmqi_broker_post *post, const struct state_producer *producer)
{
	int rc = thmqi_writer_fence(s, producer->producer_id, producer->epoch);

	post->value = thmqi_writer_highest(s, producer->producer_id);
	return rc;
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

	if (change->op == THMQI_OP_PRODUCER_OPEN) {
		post->status = fence_producer(s, post, &change->producer);
		if (!thmqi_lead_serves(s)) /* it lacks what is committed elsewhere, perhaps: its client asks again */
			post->status = -EAGAIN;
		rc = thmqi_settle_post(s, post, m->shard, on_shard_answered);
		if (!rc)
			return;
		post->status = rc;
	}
	for (i = 0; i < t->partition_count && !rc; i++) {
		if (thmqi_meta_shard_of(m, t, i) != s->id)
			continue;
		if (change->op == THMQI_OP_TOPIC_CREATE || change->op == THMQI_OP_TOPIC_ALTER)
			rc = thmqi_shard_partition_add(s, thmqi_topic_partition(t, i), t);
		else if (change->op == THMQI_OP_JOIN)
			rc = add_group(s, thmqi_topic_partition(t, i), change->group.group_id);
		else if (change->op == THMQI_OP_GROUP_DELETE)
			thmqi_groups_drop(s, thmqi_shard_partition(s, thmqi_topic_partition(t, i)), change->group.group_id);
		else
			thmqi_shard_partition_drop(s, thmqi_topic_partition(t, i));
	}
	post->status = post->status ? post->status : rc;
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
		change->conn->wire->reply->value[0] = g->id | (uint64_t)g->partitions << 32;
		if (change->shared)
			rc = g->member_count ? -EBUSY : 0; /* its shards know their members */
		else
			rc = thmqi_group_join(m, g, change);
	}
	change_end(change, rc);
}

static void producer_durable(struct meta_change *change)
{
	struct topic *t = thmqi_meta_topic_by_id(change->meta, change->producer.topic_id);
	struct named *n = t ? thmqi_meta_named(t, change->producer.name) : NULL;

	if (!t) {
		change_end(change, -THMQ_ENOTOPIC);
		return;
	}
	if (!n) {
		n = change->new_named;
		change->new_named = NULL;
		thmqi_meta_named_add(t, n, &change->producer);
	}
	n->state = change->producer;
	thmqi_txns_fence(change->meta, change->producer.name);
	change_carry(change);
}

static void group_deleted(struct meta_change *change)
{
	struct topic *t = thmqi_meta_topic_by_id(change->meta, change->topic.topic_id);
	struct group *g = t ? thmqi_meta_group_by_id(t, change->group.group_id) : NULL;

	if (!g) { /* with its topic */
		change_end(change, 0);
		return;
	}
	thmqi_group_expel(change->meta, g);
	thmqi_group_drop(change->meta, g);
	change_carry(change);
}

/* The change is stored (or need not be): it becomes true. */
void thmqi_meta_durable(struct meta_change *change, int error)
{
	struct meta *m = change->meta;
	struct topic *t;

	if (error || change->orphan) {
		change_end(change, error ? error : -THMQ_ENOTLEADER);
		return;
	}
	switch (change->op) {
	case THMQI_OP_TOPIC_CREATE:
		change_carry(change); /* seen when all shards have it */
		break;
	case THMQI_OP_TOPIC_DELETE:
		t = thmqi_meta_topic_by_id(m, change->topic.topic_id);
		if (t)
			thmqi_meta_topic_remove(m, t);
		change_carry(change);
		break;
	case THMQI_OP_TOPIC_ALTER:
		t = thmqi_meta_topic_by_id(m, change->topic.topic_id);
		if (t)
			t->state = change->topic;
		if (t && change->partitions_before) /* seen when all shards have them */
			t->state.partition_count = change->partitions_before;
		change_carry(change);
		break;
	case THMQI_OP_JOIN:
		t = thmqi_meta_topic_by_id(m, change->group.topic_id);
		if (t && !thmqi_meta_group(t, change->group.name)) {
			thmqi_meta_group_add(t, change->new_group, &change->group);
			change->new_group = NULL;
		}
		if (t && (t->state.flags & THMQ_TOPIC_RETAIN_CONSUMED)) {
			change->topic = t->state;
			change_carry(change); /* so that they wait for it, too */
		} else {
			join_now(change);
		}
		break;
	case THMQI_OP_PRODUCER_OPEN:
		producer_durable(change);
		break;
	case THMQI_OP_GROUP_DELETE:
		group_deleted(change);
		break;
	default:
		change_end(change, -EINVAL);
	}
}

/* @c may be NULL: nobody asked for it. */
static struct meta_change *change_begin(struct meta *m, struct conn *c, uint64_t id, uint32_t op)
{
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

static void topic_store(struct meta_change *change)
{
	struct pending *e;
	int rc = thmqi_meta_topic_store(change->meta, &change->topic, &e);

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
		if ((c->op == THMQI_OP_TOPIC_CREATE || c->op == THMQI_OP_TOPIC_DELETE || c->op == THMQI_OP_TOPIC_ALTER) &&
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

	if (*partition + t->partition_count >= (is_volatile ? VOLATILE_PARTITION : OWN_PARTITION))
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
	const struct topic *t = thmqi_meta_topic(m, r->name, NULL);
	bool is_volatile = r->topic_flags & THMQ_TOPIC_VOLATILE;
	struct meta_change *change;
	int rc = 0;

	if (t)
		rc = (r->topic_flags & THMQ_TOPIC_IF_ABSENT) || (r->member && t->state.made_by == r->member) ? 0 : -EEXIST;
	else if (in_change(m, r->name))
		rc = -EBUSY;
	else if (r->partition_count == 0 || r->priorities > THMQ_PRIORITIES_MAX ||
		 r->partition_count > THMQ_PARTITION_COUNT_MAX / THMQI_MAX(r->priorities, 1u) || r->visible_at > THMQ_DURABILITY_ALL)
		rc = -EINVAL;
	else if (is_volatile ? m->broker->cluster != NULL : !m->shard->log)
		rc = -ENOTSUP;
	else
		goto create;
	thmqi_reply(c, id, rc);
	return;
create:
	change = change_begin(m, c, id, THMQI_OP_TOPIC_CREATE);
	if (!change) {
		thmqi_reply(c, id, -ENOMEM);
		return;
	}
	change->new_topic = calloc(1, sizeof(*change->new_topic));
	if (!change->new_topic || thmqi_meta_topics_reserve(m) != 0) {
		change_end(change, -ENOMEM);
		return;
	}
	change->topic.flags = r->topic_flags & (THMQ_TOPIC_VOLATILE | THMQ_TOPIC_RETAIN_CONSUMED | THMQ_TOPIC_COMPACT | THMQ_TOPIC_TEMPORARY);
	change->topic.retention_ns = r->retention_ns;
	change->topic.retention_bytes = r->retention_bytes;
	change->topic.ttl_ns = r->ttl_ns;
	if (r->topic_flags & THMQ_TOPIC_COMPACT)
		change->topic.tombstone_ns = r->tombstone_ns ? r->tombstone_ns : TOMBSTONE_NS;
	memcpy(change->topic.rates, r->rates, sizeof(change->topic.rates));
	change->topic.made_by = (uint32_t)r->member;
	change->topic.priorities = r->priorities > 1 ? r->priorities : 0;
	change->topic.partition_count = r->partition_count * THMQI_MAX(r->priorities, 1u);
	change->topic.visible_at = r->visible_at ? r->visible_at : m->shard->final;
	if (m->broker->cluster && r->visible_at >= THMQ_DURABILITY_DURABLE) /* it could be taken back before */
		change->topic.visible_at = m->shard->final;
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
		topic_store(change);
}

static int alter(struct state_topic *t, const struct thmqi_request *r)
{
	bool keeps = r->index & (THMQ_ALTER_RETENTION_TIME | THMQ_ALTER_RETENTION_BYTES);

	if ((keeps && (t->flags & THMQ_TOPIC_VOLATILE)) || ((r->index & THMQ_ALTER_TOMBSTONE) && !(t->flags & THMQ_TOPIC_COMPACT)))
		return -EINVAL;
	if (r->index & THMQ_ALTER_RETENTION_TIME)
		t->retention_ns = r->retention_ns;
	if (r->index & THMQ_ALTER_RETENTION_BYTES)
		t->retention_bytes = r->retention_bytes;
	if (r->index & THMQ_ALTER_TTL)
		t->ttl_ns = r->ttl_ns;
	if (r->index & THMQ_ALTER_TOMBSTONE)
		t->tombstone_ns = r->tombstone_ns ? r->tombstone_ns : TOMBSTONE_NS;
	if (r->index & THMQ_ALTER_LIMITS)
		memcpy(t->rates, r->rates, sizeof(t->rates));
	return 0;
}

static void topic_alter(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic(m, r->name, NULL);
	struct state_topic state = {0};
	struct meta_change *change;
	int rc = !t ? -THMQ_ENOTOPIC : in_change(m, r->name) ? -EBUSY : 0;

	if (!rc) {
		state = t->state;
		rc = alter(&state, r);
	}
	if (!rc && (r->index & THMQ_ALTER_PARTITIONS))
		rc = thmqi_grow_plan(m, t, &state, r->partition_count);
	change = rc ? NULL : change_begin(m, c, id, THMQI_OP_TOPIC_ALTER);
	if (!change) {
		thmqi_reply(c, id, rc ? rc : -ENOMEM);
		return;
	}
	change->topic = state;
	if (state.partition_count > t->state.partition_count) {
		change->partitions_before = t->state.partition_count;
		t->partitions_coming = state.partition_count;
	}
	if (state.flags & THMQ_TOPIC_VOLATILE)
		thmqi_meta_durable(change, 0);
	else
		topic_store(change);
}

static void delete_topic(struct meta *m, struct conn *c, uint64_t id, struct topic *t)
{
	struct meta_change *change = change_begin(m, c, id, THMQI_OP_TOPIC_DELETE);

	if (!change) {
		if (c)
			thmqi_reply(c, id, -ENOMEM);
		return;
	}
	change->topic = t->state;
	change->topic.flags |= TOPIC_DELETED;
	if (t->state.flags & THMQ_TOPIC_VOLATILE)
		thmqi_meta_durable(change, 0);
	else
		topic_store(change);
}

static void topic_delete(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic(m, r->name, NULL);

	if (t && r->topic_id && t->state.topic_id != r->topic_id)
		t = NULL; /* another one of that name by now */
	if (!t || in_change(m, r->name))
		thmqi_reply(c, id, t ? -EBUSY : -THMQ_ENOTOPIC);
	else
		delete_topic(m, c, id, t);
}

void thmqi_change_topic_delete(struct meta *m, struct topic *t)
{
	if (!in_change(m, t->state.name))
		delete_topic(m, NULL, 0, t);
}

/* Of group @g, that is not done yet. 0: none */
static uint32_t group_in_change(const struct meta *m, const struct group *g)
{
	const struct meta_change *c;

	for (c = m->changes; c; c = c->next)
		if ((c->op == THMQI_OP_JOIN || c->op == THMQI_OP_GROUP_DELETE) && c->group.group_id == g->id)
			return c->op;
	return 0;
}

/* A slice without a name says that the group is gone. */
void thmqi_change_group_delete(struct meta *m, struct conn *c, uint64_t id, struct group *g, bool force)
{
	const uint32_t under_way = group_in_change(m, g);
	struct meta_change *change;

	/* who asks again, since the answer was lost, must not hear that it has members */
	if ((g->member_count && !force) || under_way) {
		thmqi_reply(c, id, under_way == THMQI_OP_GROUP_DELETE ? -EALREADY : -EBUSY);
		return;
	}
	change = change_begin(m, c, id, THMQI_OP_GROUP_DELETE);
	if (!change) {
		thmqi_reply(c, id, -ENOMEM);
		return;
	}
	change->topic = g->topic->state;
	change->group.group_id = g->id;
	change->group.topic_id = g->topic->state.topic_id;
	if (g->id & VOLATILE_PARTITION)
		thmqi_meta_durable(change, 0);
	else
		change_store(change, STATE_GROUP, g->id, &change->group, sizeof(change->group));
}

/* Where messages wait for all groups new partitions have to know them: stored and carried as when it was made. */
void thmqi_change_group_again(struct meta *m, const struct group *g)
{
	struct meta_change *change = change_begin(m, NULL, 0, THMQI_OP_JOIN);

	if (!change)
		return; /* it is told when it is joined again, or opened */
	change->group.group_id = g->id;
	change->group.topic_id = g->topic->state.topic_id;
	change->group.partitions = g->partitions;
	memcpy(change->group.name, g->name, sizeof(change->group.name));
	change_store(change, STATE_GROUP, g->id, &change->group, sizeof(change->group));
}

static void entry_of(const struct topic *t, struct thmqi_topic_entry *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->topic_id = t->state.topic_id;
	ret->topic_flags = t->state.flags;
	ret->partition_count = t->state.partition_count;
	ret->visible_at = t->state.visible_at;
	ret->priorities = t->state.priorities;
	ret->retention_ns = t->state.retention_ns;
	ret->retention_bytes = t->state.retention_bytes;
	ret->ttl_ns = t->state.ttl_ns;
	ret->tombstone_ns = t->state.tombstone_ns;
	memcpy(ret->rates, t->state.rates, sizeof(ret->rates));
	memcpy(ret->name, t->state.name, sizeof(ret->name));
	ret->group_count = t->group_count;
}

/* Those that it may know of, as if there were no others. */
static void topic_list_allowed(struct meta *m, struct conn *c, uint64_t id, uint32_t first)
{
	struct thmqi_reply *reply = c->wire->reply;
	uint32_t i, seen = 0, count = 0;

	for (i = 0; i < m->topic_count; i++) {
		if (!thmqi_guard_allows(c, THMQ_OPERATION_DESCRIBE, m->topics[i]->state.name))
			continue;
		if (seen++ >= first && count < THMQI_ARRAY_COUNT(reply->topics))
			entry_of(m->topics[i], &reply->topics[count++]);
	}
	reply->total = seen;
	reply->count = count;
	thmqi_reply(c, id, 0);
}

static void topic_list(struct meta *m, struct conn *c, uint64_t id, uint32_t first)
{
	struct thmqi_reply *reply = c->wire->reply;
	uint32_t i;

	if (c->guarded) {
		topic_list_allowed(m, c, id, first);
		return;
	}
	reply->total = m->topic_count;
	reply->count = 0;
	for (i = first; i < m->topic_count && reply->count < THMQI_ARRAY_COUNT(reply->topics); i++)
		entry_of(m->topics[i], &reply->topics[reply->count++]);
	thmqi_reply(c, id, 0);
}

/* It is not known here. Where nobody leads that says nothing: what is committed since may not have come to this copy. */
static int unknown(const struct conn *c, int error)
{
	return c->shard->reads_only ? -THMQ_ENOQUORUM : error;
}

static void topic_partitions(struct meta *m, struct conn *c, uint64_t id,
			     const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic_by_id(m, r->topic_id);
	struct thmqi_reply *reply = c->wire->reply;
	uint32_t i, most = THMQI_ARRAY_COUNT(reply->partitions);

	if (!t) {
		thmqi_reply(c, id, unknown(c, -THMQ_ENOTOPIC));
		return;
	}
	if (r->partition_count) /* 0: it did not say */
		most = THMQI_MIN(most, r->partition_count);
	reply->total = t->state.partition_count;
	reply->count = 0;
	for (i = r->index; i < reply->total && reply->count < most; i++) {
		reply->partitions[reply->count].partition = thmqi_topic_partition(&t->state, i);
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
	/* it was deleted while its member was away: who comes back does not make it anew, and hears what it would have heard */
	if (r->group_id && (!g || g->id != r->group_id)) {
		thmqi_reply(c, id, -THMQ_EFENCED);
		return;
	}
	change = change_begin(m, c, id, THMQI_OP_JOIN);
	if (!change) {
		thmqi_reply(c, id, -ENOMEM);
		return;
	}
	change->stream = r->stream;
	change->timeout_ns = r->session_timeout_ns;
	change->member = r->member;
	change->assignor = r->index;
	change->machine = r->rates[0];
	change->cpu = r->rates[1];
	memcpy(change->instance, r->key, THMQI_MIN(r->key_len, THMQ_INSTANCE_MAX));
	change->shared = (r->topic_flags & THMQI_JOIN_SHARED) != 0;
	change->group.topic_id = t->state.topic_id;
	change->group.partitions = t->state.partition_count;
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
	if (is_volatile && change->shared) {
		change_end(change, -EOPNOTSUPP);
		return;
	}
	change->group.group_id =
		is_volatile ? m->next_volatile_group++ | VOLATILE_PARTITION : m->next_group++;
	if (is_volatile)
		thmqi_meta_durable(change, 0);
	else
		change_store(change, STATE_GROUP, change->group.group_id, &change->group,
			     sizeof(change->group));
}

/* Rises by one with each that is opened, also by those of other lives. */
static uint64_t next_producer(struct meta *m)
{
	return m->shard->term << 32 | ++m->next_producer;
}

static bool is_being_opened(const struct meta *m, uint32_t topic_id, const char *name)
{
	const struct meta_change *c;

	for (c = m->changes; c; c = c->next)
		if (c->op == THMQI_OP_PRODUCER_OPEN && c->producer.topic_id == topic_id && strcmp(c->producer.name, name) == 0)
			return true;
	return false;
}

static void producer_open(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct topic *t = thmqi_meta_topic(m, r->name, NULL);
	struct named *n = t && r->group[0] ? thmqi_meta_named(t, r->group) : NULL;
	struct meta_change *change;

	if (!t || (r->group[0] && is_being_opened(m, t->state.topic_id, r->group))) {
		thmqi_reply(c, id, t ? -EBUSY : -THMQ_ENOTOPIC);
		return;
	}
	if (!r->group[0]) { /* nothing is stored of it but with its runs */
		c->wire->reply->value[0] = next_producer(m);
		c->wire->reply->value[1] = c->wire->reply->value[2] = 0;
		thmqi_reply(c, id, 0);
		return;
	}
	change = change_begin(m, c, id, THMQI_OP_PRODUCER_OPEN);
	if (change)
		change->new_named = calloc(1, sizeof(*change->new_named));
	if (!change || !change->new_named) {
		if (change)
			change_end(change, -ENOMEM);
		else
			thmqi_reply(c, id, -ENOMEM);
		return;
	}
	if (n) {
		change->producer = n->state;
	} else {
		change->producer.producer_id = next_producer(m) | NAMED_PRODUCER;
		change->producer.topic_id = t->state.topic_id;
		snprintf(change->producer.name, sizeof(change->producer.name), "%s", r->group);
	}
	change->producer.epoch++;
	if (!m->shard->log || (t->state.flags & THMQ_TOPIC_VOLATILE))
		thmqi_meta_durable(change, 0);
	else
		change_store(change, STATE_PRODUCER, change->producer.producer_id, &change->producer, sizeof(change->producer));
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
	struct partition *p = thmqi_shard_partition_asked(c->shard, r->partition);
	struct thmqi_reply *reply = c->wire->reply;
	struct group_offset *g;
	uint64_t end;

	if (!p || p->dead) {
		thmqi_reply(c, id, p ? -THMQ_ENOTOPIC : unknown(c, -THMQ_ENOPARTITION));
		return;
	}
	g = r->group_id ? thmqi_offsets_get(p, r->group_id, false) : NULL;
	if (thmq_log_bounds(p->log, p->id, &reply->value[0], &end) != 0)
		reply->value[0] = p->visible;
	reply->value[0] = THMQI_MIN(reply->value[0], p->visible);
	reply->value[1] = p->visible;
	reply->value[2] = g ? g->offset : UINT64_MAX;
	reply->value[3] = g ? thmqi_shared_done(g) : 0;
	reply->total = g ? thmqi_groups_readers(p, g) : 0;
	reply->count = thmqi_delay_count(c->shard, p->id);
	reply->flags = g && g->shared ? THMQ_GROUP_IS_SHARED : 0;
	reply->due_ns = thmqi_delay_due(c->shard);
	thmqi_reply(c, id, 0);
}

static void position(struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	const struct sub *sub = thmqi_sub_find(c, r->stream, r->partition);

	if (sub)
		c->wire->reply->value[0] = thmqi_sub_position(sub);
	thmqi_reply(c, id, sub ? 0 : -ENOENT);
}

void thmqi_meta_request(struct conn *c, uint64_t id, const struct thmqi_request *request)
{
	struct meta *m = c->shard->broker->meta;
	struct thmqi_request r = *request; /* read once: the other end could change it */
	struct topic *t;

	r.name[sizeof(r.name) - 1] = r.group[sizeof(r.group) - 1] = 0;
	c->wire->reply->count = c->wire->reply->total = 0;
	if (c->guarded && thmqi_request_ask(c, &r) != 0) {
		thmqi_reply(c, id, -EACCES);
		return;
	}
	if (thmqi_unlikely(c->shard->reads_only) && !thmqi_request_only_reads(&r)) {
		thmqi_reply(c, id, -THMQ_ENOQUORUM);
		return;
	}
	if (r.op == THMQI_OP_PARTITION_INFO) {
		partition_info(c, id, &r);
		return;
	}
	if (r.op == THMQI_OP_POSITION) {
		position(c, id, &r);
		return;
	}
	if (r.op == THMQI_OP_GROUP_RESET) {
		thmqi_groups_reset(c, id, &r);
		return;
	}
	if (r.op == THMQI_OP_KEY_FIND) {
		thmqi_version_request(c, id, &r);
		return;
	}
	if (r.op == THMQI_OP_DELAYED_CANCEL) {
		thmqi_delay_cancel(c, id, &r);
		return;
	}
	if (r.op == THMQI_OP_TXN_OFFSET) {
		thmqi_txn_offset(c, id, &r);
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
	case THMQI_OP_TOPIC_ALTER:
		topic_alter(m, c, id, &r);
		break;
	case THMQI_OP_TOPIC_LIST:
		topic_list(m, c, id, r.index);
		break;
	case THMQI_OP_TOPIC_DESCRIBE:
		t = thmqi_meta_topic(m, r.name, NULL);
		if (t)
			entry_of(t, &c->wire->reply->topics[0]);
		thmqi_reply(c, id, t ? 0 : unknown(c, -THMQ_ENOTOPIC));
		break;
	case THMQI_OP_TOPIC_PARTITIONS:
		topic_partitions(m, c, id, &r);
		break;
	case THMQI_OP_JOIN:
		join(m, c, id, &r);
		break;
	case THMQI_OP_LEAVE:
		if (r.topic_flags & THMQI_LEAVE_AWAY)
			thmqi_group_away(m, c, r.stream);
		else
			thmqi_group_leave(m, c, r.stream, r.member);
		thmqi_reply(c, id, 0);
		break;
	case THMQI_OP_GROUP_FIND:
		group_find(m, c, id, &r);
		break;
	case THMQI_OP_PRODUCER_OPEN:
		producer_open(m, c, id, &r);
		break;
	case THMQI_OP_NODES:
	case THMQI_OP_NODE_CHANGE:
	case THMQI_OP_NODE_DRAIN:
	case THMQI_OP_LEAD:
		thmqi_roll_request(c, id, &r);
		break;
	default:
		if (!thmqi_groups_request(m, c, id, &r) && !thmqi_txns_request(m, c, id, &r))
			thmqi_reply(c, id, -ENOTSUP);
	}
}
