/* SPDX-License-Identifier: Apache-2.0 */
/* admin.c - topics: created, deleted, listed, described; blocking, by requests to the meta shard. */
#include <stdio.h>

#include "internal.h"

#define TOPICS_MAX THMQI_ARRAY_COUNT(((struct thmqi_reply *)0)->topics)
#define PARTITIONS_MAX THMQI_ARRAY_COUNT(((struct thmqi_reply *)0)->partitions)

/* As every broker says it: else it would be counted by, or printed. */
static bool topic_ok(const struct thmqi_topic_entry *e)
{
	return e->partition_count && e->partition_count <= THMQ_PARTITION_COUNT_MAX && e->priorities != 1 &&
	       e->priorities <= THMQ_PRIORITIES_MAX && !(e->priorities && e->partition_count % e->priorities) &&
	       memchr(e->name, 0, sizeof(e->name));
}

/* Partitions of one priority. */
static uint32_t lanes_of(const struct thmqi_topic_entry *e)
{
	return e->partition_count / THMQI_MAX(e->priorities, 1u);
}

const char *thmqi_session_why(int error)
{
	return error == -EACCES ? "the broker's rules do not allow it to this client" : thmq_strerror(error);
}

static void name_request(struct thmqi_request *r, uint32_t op, const char *name)
{
	memset(r, 0, sizeof(*r));
	r->op = op;
	if (name)
		snprintf(r->name, sizeof(r->name), "%s", name);
}

/* What may be altered. */
static void say_limits(struct thmqi_request *r, const struct thmq_topic_opts *opts)
{
	r->retention_ns = opts->retention_ns;
	r->retention_bytes = opts->retention_bytes;
	r->ttl_ns = opts->ttl_ns;
	r->tombstone_ns = opts->tombstone_ns;
	if (opts->limits) {
		r->rates[0] = opts->limits->produce_bytes;
		r->rates[1] = opts->limits->produce_messages;
		r->rates[2] = opts->limits->consume_bytes;
		r->rates[3] = opts->limits->consume_messages;
	}
}

int thmqi_client_topic_create(struct thmq_session *s, const char *name, const struct thmq_topic_opts *opts)
{
	struct thmqi_request r;
	int rc;

	name_request(&r, THMQI_OP_TOPIC_CREATE, name);
	r.topic_flags = opts->flags;
	r.partition_count = opts->partition_count ? opts->partition_count : 1;
	r.visible_at = opts->visible_at;
	r.volatile_bytes = opts->volatile_bytes;
	r.priorities = opts->priorities;
	say_limits(&r, opts);
	if (s->opts.reconnect_ns) /* it is this call's, should that have to ask again */
		r.member = (uint32_t)thmqi_prng_next(&s->prng) | 1u;
	rc = thmqi_session_meta(s, &r, NULL);
	if (rc == -EEXIST)
		return thmqi_fail(rc, "topic %s exists already", name);
	if (rc == -ENOTSUP && (opts->flags & THMQ_TOPIC_VOLATILE))
		return thmqi_fail(rc, "topic %s: brokers that keep the same data have no volatile topics: leave out THMQ_TOPIC_VOLATILE; retention_ns keeps it short, and "
				      "visible_at memory or written fast", name);
	if (rc == -ENOTSUP)
		return thmqi_fail(rc, "topic %s: this broker has no directory: make it volatile", name);
	return rc ? thmqi_fail(rc, "create topic %s: %s", name, thmqi_session_why(rc)) : 0;
}

int thmqi_client_topic_delete(struct thmq_session *s, const char *name)
{
	struct thmqi_topic_entry about;
	struct thmqi_request r;
	int rc = 0;

	name_request(&r, THMQI_OP_TOPIC_DELETE, name);
	if (s->opts.reconnect_ns) { /* this one, and none that is made while the call may have to ask again */
		rc = thmqi_session_topic(s, name, THMQI_TO_DELETE, &about);
		r.topic_id = rc ? 0 : about.topic_id;
	}
	if (!rc)
		rc = thmqi_session_meta(s, &r, NULL);
	return rc ? thmqi_fail(rc, "delete topic %s: %s", name, thmqi_session_why(rc)) : 0;
}

int thmqi_client_topic_alter(struct thmq_session *s, const char *name, const struct thmq_topic_opts *opts, uint32_t what)
{
	struct thmqi_topic_entry about;
	struct thmqi_request r;
	int rc;

	name_request(&r, THMQI_OP_TOPIC_ALTER, name);
	r.index = what;
	r.partition_count = opts->partition_count;
	say_limits(&r, opts);
	rc = thmqi_session_meta(s, &r, NULL);
	if (rc == -EINVAL && (what & THMQ_ALTER_PARTITIONS) && thmqi_session_topic(s, name, THMQI_TO_ANY, &about) == 0 &&
	    about.partition_count > opts->partition_count)
		return thmqi_fail(rc, "alter topic %s: it has %u partitions, and none can be taken away: not %u", name, about.partition_count,
				  opts->partition_count);
	if (rc == -EOPNOTSUPP && (what & THMQ_ALTER_PARTITIONS))
		return thmqi_fail(rc, "alter topic %s: each of its priorities has its own partitions, to which none can be added: make another topic", name);
	if (rc == -EINVAL)
		return thmqi_fail(rc, "alter topic %s: a volatile one keeps what fits into volatile_bytes; tombstone_ns is for a compacted one", name);
	return rc ? thmqi_fail(rc, "alter topic %s: %s", name, thmqi_session_why(rc)) : 0;
}

/* @size: what the caller's struct holds. */
static void info_of(const struct thmqi_topic_entry *e, uint32_t size, void *ret_info)
{
	struct thmq_topic_info info = {.size = size,
				       .flags = e->topic_flags,
				       .topic_id = e->topic_id,
				       .partition_count = e->partition_count,
				       .visible_at = e->visible_at,
				       .group_count = e->group_count,
				       .retention_ns = e->retention_ns,
				       .retention_bytes = e->retention_bytes,
				       .ttl_ns = e->ttl_ns,
				       .tombstone_ns = e->tombstone_ns,
				       .produce_bytes = e->rates[0],
				       .produce_messages = e->rates[1],
				       .consume_bytes = e->rates[2],
				       .consume_messages = e->rates[3],
				       .priorities = e->priorities};

	memcpy(info.name, e->name, sizeof(info.name));
	memset(ret_info, 0, size);
	memcpy(ret_info, &info, THMQI_MIN(size, (uint32_t)sizeof(info)));
}

static bool list_ok(const struct thmqi_reply *reply)
{
	uint32_t i;

	if (reply->count > TOPICS_MAX || reply->total > INT32_MAX)
		return false;
	for (i = 0; i < reply->count; i++)
		if (!topic_ok(&reply->topics[i]))
			return false;
	return true;
}

int thmqi_client_topic_list(struct thmq_session *s, struct thmq_topic_info *ret_infos, uint32_t max)
{
	uint32_t size = max ? ret_infos[0].size : (uint32_t)sizeof(*ret_infos), n = 0, i;
	const struct thmqi_reply *reply;
	struct thmqi_request r;
	int rc;

	name_request(&r, THMQI_OP_TOPIC_LIST, NULL);
	do {
		r.index = n;
		rc = thmqi_session_meta(s, &r, &reply);
		if (!rc && !list_ok(reply))
			rc = -THMQ_EVERSION;
		if (rc)
			return thmqi_fail(rc, "list topics: %s", thmq_strerror(rc));
		for (i = 0; i < reply->count && n < max; i++, n++)
			info_of(&reply->topics[i], size, (char *)ret_infos + (size_t)n * size);
	} while (n < max && n < reply->total && reply->count);
	return (int)reply->total;
}

int thmqi_session_topic(struct thmq_session *s, const char *name, enum thmqi_purpose purpose,
			struct thmqi_topic_entry *ret_entry)
{
	struct thmqi_topic_entry entry;
	const struct thmqi_reply *reply;
	struct thmqi_request r;
	int rc;

	name_request(&r, THMQI_OP_TOPIC_DESCRIBE, name);
	r.purpose = purpose;
	rc = thmqi_session_meta(s, &r, &reply);
	if (rc)
		return rc;
	entry = reply->topics[0]; /* before it is looked at: the page is the broker's too */
	if (!topic_ok(&entry))
		return -THMQ_EVERSION;
	*ret_entry = entry;
	return 0;
}

int thmqi_client_topic_describe(struct thmq_session *s, const char *name, struct thmq_topic_info *ret_info)
{
	struct thmqi_topic_entry entry;
	int rc = thmqi_session_topic(s, name, THMQI_TO_DESCRIBE, &entry);

	if (rc)
		return thmqi_fail(rc, "describe topic %s: %s", name, thmqi_session_why(rc));
	info_of(&entry, ret_info->size, ret_info);
	return 0;
}

int thmqi_session_partitions(struct thmq_session *s, uint32_t topic_id, uint32_t first, uint32_t count,
			     struct thmqi_partition_entry **ret_entries)
{
	struct thmqi_partition_entry *entries = calloc(count, sizeof(*entries));
	const struct thmqi_reply *reply;
	struct thmqi_request r;
	uint32_t n = 0, take;
	int rc = entries ? 0 : -ENOMEM;

	name_request(&r, THMQI_OP_TOPIC_PARTITIONS, NULL);
	r.topic_id = topic_id;
	while (!rc && n < count) {
		r.index = first + n;
		r.partition_count = count - n;
		rc = thmqi_session_meta(s, &r, &reply);
		if (rc)
			break;
		take = THMQI_MIN(reply->count, count - n);
		if (!take || take > PARTITIONS_MAX) {
			rc = !take && s->reads_only ? -THMQ_ENOQUORUM : -THMQ_EVERSION; /* that copy may not know how many there are by now */
			break;
		}
		memcpy(entries + n, reply->partitions, take * sizeof(*entries));
		n += take;
	}
	if (rc) {
		free(entries);
		return rc;
	}
	*ret_entries = entries;
	return 0;
}

static int find_group(struct thmq_session *s, const char *topic, const char *group, uint32_t *ret_id)
{
	const struct thmqi_reply *reply;
	struct thmqi_request r;
	int rc;

	*ret_id = 0;
	name_request(&r, THMQI_OP_GROUP_FIND, topic);
	snprintf(r.group, sizeof(r.group), "%s", group);
	rc = thmqi_session_meta(s, &r, &reply);
	if (rc == 0)
		*ret_id = (uint32_t)reply->value[0];
	return rc == -ENOENT ? 0 : rc;
}

int thmqi_client_partition_describe(struct thmq_session *s, const char *topic, uint32_t partition, const char *group,
				    struct thmq_partition_info *ret_info)
{
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	struct thmq_partition_info info = {.size = ret_info->size, .partition = partition};
	struct thmqi_partition_entry *entry = NULL;
	const struct thmqi_reply *reply;
	struct thmqi_topic_entry about;
	struct thmqi_request r;
	struct client_link *l;
	uint32_t group_id = 0;
	int rc;

	rc = thmqi_session_topic(s, topic, THMQI_TO_ANY, &about);
	if (!rc && partition >= about.partition_count)
		rc = -THMQ_ENOPARTITION;
	if (!rc)
		rc = thmqi_session_partitions(s, about.topic_id, partition, 1, &entry);
	if (!rc && group)
		rc = find_group(s, topic, group, &group_id);
	if (!rc)
		rc = thmqi_session_link_wait(s, entry->shard, deadline, &l);
	if (!rc) {
		name_request(&r, THMQI_OP_PARTITION_INFO, NULL);
		r.partition = entry->partition;
		r.group_id = group_id;
		info.shard = entry->shard - 1;
		info.priority = partition / lanes_of(&about);
		rc = thmqi_session_request(s, l, &r, deadline, &reply);
	}
	free(entry);
	if (rc)
		return thmqi_fail(rc, "describe partition %u of %s: %s", partition, topic, thmqi_session_why(rc));
	info.begin_offset = reply->value[0];
	info.end_offset = reply->value[1];
	info.group_offset = reply->value[2];
	info.delayed = reply->count;
	info.due_ns = reply->due_ns;
	if (group) {
		uint64_t from = info.group_offset == UINT64_MAX ? info.begin_offset :
								  THMQI_MAX(info.group_offset, info.begin_offset);

		info.lag = info.end_offset > from ? info.end_offset - from : 0;
		info.lag -= THMQI_MIN(info.lag, reply->value[3]);
	}
	memset(ret_info, 0, info.size);
	memcpy(ret_info, &info, THMQI_MIN(info.size, (uint32_t)sizeof(info)));
	return 0;
}

int thmqi_client_key_find(struct thmq_session *s, const char *topic, uint32_t partition, const void *key, uint32_t key_len,
			  uint64_t before_offset, struct thmq_key_info *ret_info)
{
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	struct thmq_key_info info = {.size = ret_info->size};
	struct thmqi_partition_entry *entries = NULL;
	const struct thmqi_reply *reply;
	struct thmqi_topic_entry about;
	struct thmqi_request r;
	struct client_link *l;
	int rc;

	rc = thmqi_session_topic(s, topic, THMQI_TO_CONSUME, &about);
	if (!rc)
		info.partition = partition == UINT32_MAX ? (uint32_t)(thmqi_hash64(key, key_len) % lanes_of(&about)) : partition;
	if (!rc && info.partition >= about.partition_count)
		rc = -THMQ_ENOPARTITION;
	if (!rc)
		rc = thmqi_session_partitions(s, about.topic_id, 0, about.partition_count, &entries);
	if (!rc)
		rc = thmqi_session_link_wait(s, entries[info.partition].shard, deadline, &l);
	if (!rc) {
		name_request(&r, THMQI_OP_KEY_FIND, NULL);
		r.partition = entries[info.partition].partition;
		r.before_offset = before_offset;
		r.key_len = key_len;
		memcpy(r.key, key, key_len);
		rc = thmqi_session_request(s, l, &r, deadline, &reply);
	}
	free(entries);
	if (rc)
		return rc == -ENOTSUP ? thmqi_fail(rc, "find a key in %s: it is volatile, and has no index of keys", topic)
				      : thmqi_fail(rc, "find a key in %s: %s", topic, thmqi_session_why(rc));
	info.offset = reply->value[0];
	info.time_ns = (int64_t)reply->value[1];
	memset(ret_info, 0, info.size);
	memcpy(ret_info, &info, THMQI_MIN(info.size, (uint32_t)sizeof(info)));
	return 0;
}

int thmqi_client_delayed_cancel(struct thmq_session *s, const char *topic, uint32_t partition, uint64_t number)
{
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	struct thmqi_partition_entry *entries = NULL;
	const struct thmqi_reply *reply;
	struct thmqi_topic_entry about;
	struct thmqi_request r;
	struct client_link *l;
	int rc;

	rc = thmqi_session_topic(s, topic, THMQI_TO_PRODUCE, &about);
	if (!rc && partition >= about.partition_count)
		rc = -THMQ_ENOPARTITION;
	if (!rc)
		rc = thmqi_session_partitions(s, about.topic_id, 0, about.partition_count, &entries);
	if (!rc)
		rc = thmqi_session_link_wait(s, entries[partition].shard, deadline, &l);
	if (!rc) {
		name_request(&r, THMQI_OP_DELAYED_CANCEL, NULL);
		r.partition = entries[partition].partition;
		r.before_offset = number;
		rc = thmqi_session_request(s, l, &r, deadline, &reply);
	}
	free(entries);
	if (rc == -ENOENT)
		return thmqi_fail(rc, "cancel number %llu of partition %u of %s: it came, or is on its way, or was cancelled",
				  (unsigned long long)number, partition, topic);
	return rc ? thmqi_fail(rc, "cancel a delayed message of %s: %s", topic, thmq_strerror(rc)) : 0;
}
