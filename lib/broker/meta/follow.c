/* SPDX-License-Identifier: Apache-2.0 */
/*
 * follow.c - what another copy changed of the metadata: noted as it is taken into the log here, carried to this broker's shards once
 * it is committed, so that these never hear of what may be taken back. What is changed here goes by change.c.
 */
#include "meta.h"

struct carry {
	struct carry *next;
	struct meta *meta;
	uint64_t index;   /* of its batch */
	uint32_t kind;    /* enum state_kind */
	uint32_t waiting; /* shards that have not done it yet */
	union {
		struct state_topic topic;
		struct state_producer producer;
	};
	struct state_group group; /* its topic is `topic` then */
	struct thmqi_broker_post posts[];
};

int thmqi_follow_note(struct meta *m, const struct thmq_log_run *run)
{
	uint32_t kind = run->header->partition, shards = m->broker->shard_count - 1;
	struct carry *c;

	if (kind != STATE_TOPIC && kind != STATE_PRODUCER && kind != STATE_GROUP)
		return 0;
	c = calloc(1, sizeof(*c) + shards * sizeof(c->posts[0]));
	if (!c)
		return -ENOMEM;
	c->meta = m;
	c->index = run->index;
	c->kind = kind;
	if (kind == STATE_TOPIC) /* an older library's ends sooner */
		memcpy(&c->topic, run->payload, THMQI_MIN(run->header->len, (uint32_t)sizeof(c->topic)));
	else if (kind == STATE_PRODUCER)
		memcpy(&c->producer, run->payload, sizeof(c->producer));
	else
		memcpy(&c->group, run->payload, offsetof(struct state_group, name) + 1); /* without a name it was deleted */
	*m->carries_last = c;
	m->carries_last = &c->next;
	return 0;
}

static void on_answered(struct thmqi_broker_post *post)
{
	struct carry *c = post->arg;

	if (--c->waiting)
		return;
	atomic_fetch_sub(&c->meta->broker->carrying, 1);
	free(c);
}

static int add_group(struct shard *s, uint32_t partition, uint32_t group)
{
	struct partition *p = thmqi_shard_partition(s, partition);

	return !p || p->dead || thmqi_offsets_get(p, group, true) ? 0 : -ENOMEM;
}

static int apply(struct shard *s, const struct carry *c)
{
	const struct state_topic *t = &c->topic;
	uint32_t i;
	int rc = 0;

	if (c->kind == STATE_PRODUCER)
		return thmqi_writer_fence(s, c->producer.producer_id, c->producer.epoch);
	for (i = 0; i < t->partition_count && !rc; i++) {
		if (thmqi_meta_shard_of(c->meta, t, i) != s->id)
			continue;
		if (c->kind == STATE_GROUP && !c->group.name[0])
			thmqi_groups_drop(s, thmqi_shard_partition(s, thmqi_topic_partition(t, i)), c->group.group_id);
		else if (c->kind == STATE_GROUP)
			rc = add_group(s, thmqi_topic_partition(t, i), c->group.group_id);
		else if (t->flags & TOPIC_DELETED)
			thmqi_shard_partition_drop(s, thmqi_topic_partition(t, i));
		else
			rc = thmqi_shard_partition_add(s, thmqi_topic_partition(t, i), t);
	}
	return rc;
}

/* On the core of a data shard. */
static void on_shard(struct thmqi_broker_post *post)
{
	struct carry *c = post->arg;
	struct shard *s = post->shard;
	int rc = apply(s, c);

	if (rc && !s->failed) { /* it would serve less than there is: another copy may */
		s->failed = rc;
		thmqi_trouble_failed(s, rc);
	}
	thmqi_broker_post(post, &c->meta->broker->shards[THMQI_SHARD_META], on_answered);
}

/* Shards know groups by what these have acknowledged; but where messages wait for all groups, by their names. */
static bool is_waited_for(struct meta *m, struct carry *c)
{
	const struct topic *t = thmqi_meta_topic_by_id(m, c->group.topic_id);

	if (!t || (c->group.name[0] && !(t->state.flags & THMQ_TOPIC_RETAIN_CONSUMED)))
		return false;
	c->topic = t->state;
	return true;
}

void thmqi_follow_committed(struct meta *m, uint64_t index)
{
	struct thmq_broker *b = m->broker;
	struct carry *c;
	uint32_t i, count = b->shard_count - 1;

	if (m->follows_no_more)
		return;
	while ((c = m->carries) && c->index <= index) {
		m->carries = c->next;
		if (!m->carries)
			m->carries_last = &m->carries;
		if (c->kind == STATE_GROUP && !is_waited_for(m, c)) {
			free(c);
			continue;
		}
		atomic_fetch_add(&b->carrying, 1);
		c->waiting = count;
		for (i = 0; i < count; i++) { /* the last one's answer may end it */
			c->posts[i].arg = c;
			thmqi_broker_post(&c->posts[i], &b->shards[i + 1], on_shard);
		}
	}
}

void thmqi_follow_drop(struct meta *m)
{
	struct carry *c;

	while ((c = m->carries)) {
		m->carries = c->next;
		free(c);
	}
	m->carries_last = &m->carries;
}
