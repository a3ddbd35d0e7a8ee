/* SPDX-License-Identifier: Apache-2.0 */
/* allowed.c - which requests a client may make, by the broker's rules, and which there are where nobody leads. What they do: change.c. */
#include "meta.h"

/* Where its topic is is known to whoever may do anything with it. */
static int ask_any(struct conn *c, const char *topic)
{
	return thmqi_guard_allows(c, THMQ_OPERATION_PRODUCE, topic) || thmqi_guard_allows(c, THMQ_OPERATION_CONSUME, topic)
		       ? 0
		       : thmqi_guard_ask(c, THMQ_OPERATION_DESCRIBE, topic);
}

static int ask_partition(struct conn *c, const struct thmqi_request *r)
{
	const struct partition *p = thmqi_shard_partition(c->shard, r->partition);

	if (!p) /* which is told */
		return 0;
	if (r->op == THMQI_OP_DELAYED_CANCEL)
		return thmqi_guard_ask_partition(c, THMQ_OPERATION_PRODUCE, p);
	if (r->op != THMQI_OP_PARTITION_INFO || thmqi_guard_allows(c, THMQ_OPERATION_CONSUME, c->shard->topics.at[p->topic]->name))
		return thmqi_guard_ask_partition(c, THMQ_OPERATION_CONSUME, p);
	return thmqi_guard_ask_partition(c, THMQ_OPERATION_DESCRIBE, p);
}

/* May it ask for that? What is not known here is for those who may do everything. */
int thmqi_request_ask(struct conn *c, const struct thmqi_request *r)
{
	const struct topic *t;

	switch (r->op) {
	case THMQI_OP_TOPIC_CREATE:
		return thmqi_guard_ask(c, THMQ_OPERATION_CREATE, r->name);
	case THMQI_OP_TOPIC_DELETE:
		return thmqi_guard_ask(c, THMQ_OPERATION_DELETE, r->name);
	case THMQI_OP_TOPIC_ALTER:
		return thmqi_guard_ask(c, THMQ_OPERATION_ALTER, r->name);
	case THMQI_OP_TOPIC_DESCRIBE:
		if (r->purpose == THMQI_TO_ANY)
			return ask_any(c, r->name);
		return thmqi_guard_ask(c,
				       r->purpose == THMQI_TO_PRODUCE   ? THMQ_OPERATION_PRODUCE
				       : r->purpose == THMQI_TO_CONSUME ? THMQ_OPERATION_CONSUME
				       : r->purpose == THMQI_TO_DELETE  ? THMQ_OPERATION_DELETE
									: THMQ_OPERATION_DESCRIBE,
				       r->name);
	case THMQI_OP_TOPIC_PARTITIONS:
		t = c->shard->id == THMQI_SHARD_META ? thmqi_meta_topic_by_id(c->shard->broker->meta, r->topic_id) : NULL;
		return t ? ask_any(c, t->state.name) : 0;
	case THMQI_OP_JOIN:
		return thmqi_guard_ask(c, THMQ_OPERATION_CONSUME, r->name);
	case THMQI_OP_GROUP_FIND:
	case THMQI_OP_GROUP_LIST:
	case THMQI_OP_GROUP_MEMBERS:
	case THMQI_OP_GROUP_OWNERS:
		return ask_any(c, r->name);
	case THMQI_OP_GROUP_EXPEL:
	case THMQI_OP_GROUP_DELETE:
		return thmqi_guard_ask(c, THMQ_OPERATION_CONSUME, r->name);
	case THMQI_OP_PRODUCER_OPEN:
		return thmqi_guard_ask(c, THMQ_OPERATION_PRODUCE, r->name);
	case THMQI_OP_PARTITION_INFO:
	case THMQI_OP_POSITION:
	case THMQI_OP_GROUP_RESET:
	case THMQI_OP_KEY_FIND:
	case THMQI_OP_DELAYED_CANCEL:
	case THMQI_OP_TXN_OFFSET:
		return ask_partition(c, r);
	case THMQI_OP_TXN_BEGIN: /* each of its messages is asked about */
		return 0;
	case THMQI_OP_TXN_END: /* who knows it */
		return r->topic_flags & THMQI_TXN_FORCE ? thmqi_guard_ask(c, THMQ_OPERATION_ADMIN, NULL) : 0;
	case THMQI_OP_TOPIC_LIST: /* of those that it may know of */
	case THMQI_OP_LEAVE:
	case THMQI_OP_NODES: /* how the one that leads is found */
		return 0;
	default:
		return thmqi_guard_ask(c, THMQ_OPERATION_ADMIN, NULL);
	}
}

/* Where nobody leads: what changes nothing, and tells nothing that may be taken back and matters then. */
bool thmqi_request_only_reads(const struct thmqi_request *r)
{
	switch (r->op) {
	case THMQI_OP_TOPIC_DESCRIBE:
		return r->purpose != THMQI_TO_DELETE;
	case THMQI_OP_TOPIC_LIST:
	case THMQI_OP_TOPIC_PARTITIONS:
	case THMQI_OP_NODES:
	case THMQI_OP_LEAVE: /* there are no members */
		return true;
	case THMQI_OP_PARTITION_INFO:
		return !r->group_id;
	default:
		return false;
	}
}
