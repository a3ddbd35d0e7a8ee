/* SPDX-License-Identifier: Apache-2.0 */
/* client.c - the public face of sessions, topics, producers and consumers: checks, then calls down. */
#include "api/api.h"
#include "client/client.h"
#include "filter/filter.h"

#define is_session(s) thmqi_api_is_session(s)
#define is_producer(p) thmqi_likely(thmqi_handle_is(p, THMQI_HANDLE_PRODUCER))
#define is_consumer(c) thmqi_likely(thmqi_handle_is(c, THMQI_HANDLE_CONSUMER))
/* For what drives cores; a message's way does not look. */
#define is_producer_here(p) THMQI_API_IS(p, THMQI_HANDLE_PRODUCER, thmqi_client_producer_env)
#define is_consumer_here(c) THMQI_API_IS(c, THMQI_HANDLE_CONSUMER, thmqi_client_consumer_env)

#define OPTS_INIT(type) \
	void (thmq_##type##_opts_init)(struct thmq_##type##_opts *opts, uint32_t size) \
	{ \
		thmqi_opts_init(opts, size); \
	}

OPTS_INIT(session)
OPTS_INIT(tls)
OPTS_INIT(topic)
OPTS_INIT(producer)
OPTS_INIT(message)
OPTS_INIT(consumer)

static int bad(const char *what)
{
	return thmqi_api_not_open(what);
}

static int no_place(const char *what)
{
	return thmqi_fail(-EINVAL, "%s: no place for the result", what);
}

static int copy_opts(void *to, uint32_t size, const void *from, uint32_t known_flags, const char *what)
{
	const uint32_t *flags = (const uint32_t *)to + 1;
	int rc = thmqi_opts_copy(to, size, from);

	if (rc)
		return thmqi_fail(rc, "%s: options: %s", what, thmqi_opts_why(rc));
	if (*flags & ~known_flags)
		return thmqi_fail(-EINVAL, "%s: unknown flags %#x", what, *flags & ~known_flags);
	return 0;
}

static int check_name(const char *name, uint32_t max, const char *what)
{
	const char *p;

	if (!name || !*name)
		return thmqi_fail(-EINVAL, "%s: the name is empty", what);
	for (p = name; *p; p++) {
		if (p - name >= (ptrdiff_t)max)
			return thmqi_fail(-ENAMETOOLONG, "%s: the name has more than %u bytes", what, max);
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
		      *p == '.' || *p == '_' || *p == '-'))
			return thmqi_fail(-EINVAL, "%s %.64s: names are of A-Z a-z 0-9 . _ -", what, name);
	}
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return thmqi_fail(-EINVAL, "%s: . and .. are no names", what);
	return 0;
}

int thmqi_api_name(const char *name, uint32_t max, const char *what)
{
	return check_name(name, max, what);
}

/* ----------------------------------------------------------------- sessions */

int thmq_connect(struct thmq_env *env, const char *url, const struct thmq_session_opts *opts,
		 struct thmq_session **ret_session)
{
	uint32_t texts = thmqi_fail_count();
	struct thmq_session_opts o;
	struct thmq_session *session;
	struct thmq_core *mine;
	struct thmqi_api *api;
	int rc;

	if (!thmqi_api_is_env(env))
		return bad("environment");
	if (!url || !ret_session)
		return thmqi_fail(-EINVAL, "connect: no URL, or no place for the handle");
	mine = thmqi_core_mine(env);
	if (mine && mine->in_poll)
		return thmqi_fail(-EDEADLK, "a session cannot be connected from a core's callback");
	rc = copy_opts(&o, sizeof(o), opts, 0, "session");
	if (rc)
		return rc;
	if (o.window_bytes > 1u << 30 || o.window_count > 1u << 20 || o.event_count > 1u << 24 ||
	    (o.window_bytes && o.window_bytes < THMQI_BLOCK) || (o.window_count && o.window_count < 16))
		return thmqi_fail(-EINVAL, "session: window_bytes is 4096 to 1 GiB, window_count 16 to 1048576, "
					   "event_count up to 16777216");
	if (o.peer_timeout_ns && o.peer_timeout_ns < 200000000u)
		return thmqi_fail(-EINVAL, "session: peer_timeout_ns is at least 200 ms");
	if (o.reconnect_ns > 1800000000000ull)
		return thmqi_fail(-EINVAL, "session: reconnect_ns is at most 30 minutes");
	api = thmqi_api_of(env);
	rc = thmqi_client_connect(env, api->transport, &api->graveyard, url, &o, &session);
	if (rc)
		return thmqi_fail_count() == texts ? thmqi_fail(rc, "connect to %.64s: %s", url, thmq_strerror(rc)) : rc;
	rc = thmqi_api_note(api, &api->sessions, session);
	if (rc) {
		thmqi_client_session_close(session, 0);
		return thmqi_fail(rc, "no memory for a session");
	}
	*ret_session = session;
	return 0;
}

int thmq_session_close(struct thmq_session *session, uint64_t timeout_ns)
{
	const struct thmq_core *mine;
	struct thmqi_api *api;
	int rc;

	if (!is_session(session))
		return bad("session");
	mine = thmqi_core_mine(thmqi_client_env(session));
	if (mine && mine->in_poll) /* the call that this is within may be one of the session's own */
		return thmqi_fail(-EDEADLK, "a session cannot be closed from a core's callback");
	api = thmqi_api_of(thmqi_client_env(session));
	rc = thmqi_client_session_close(session, timeout_ns);
	if (rc == -EDEADLK)
		return thmqi_fail(rc, "close a session: nobody drives the broker's core");
	thmqi_api_forget(api, &api->sessions, session);
	if (rc == -EIO)
		return thmqi_fail(rc, "close a session: some messages failed since the last thmq_flush(), as THMQ_EVENT_FAILED told, or the last acks could not be stored");
	return rc ? thmqi_fail(rc, "close a session: %s", thmq_strerror(rc)) : 0;
}

int thmq_session_fd(struct thmq_session *session)
{
	return is_session(session) ? thmqi_client_session_fd(session) : bad("session");
}

int thmq_session_arm(struct thmq_session *session)
{
	int rc = is_session(session) ? thmqi_client_session_arm(session) : bad("session");

	return rc == -ESHUTDOWN ? thmqi_fail(rc, "arm: this session's broker is closed, and all is told") : rc;
}

int thmq_session_wait(struct thmq_session *session, uint64_t timeout_ns)
{
	int rc;

	if (!is_session(session))
		return bad("session");
	rc = thmqi_client_session_wait(session, timeout_ns);
	if (rc == -EDEADLK)
		return thmqi_fail(rc, "wait: no thread drives the broker's core, or this is called from within one");
	if (rc == -ESHUTDOWN)
		return thmqi_fail(rc, "wait: this session's broker is closed");
	return rc < 0 ? thmqi_fail(rc, "wait: %s", thmq_strerror(rc)) : rc;
}

int thmq_events(struct thmq_session *session, struct thmq_event *ret_events, uint32_t max)
{
	if (!is_session(session) || (!ret_events && max))
		return -EINVAL;
	return thmqi_client_events(session, ret_events, THMQI_MIN(max, (uint32_t)INT32_MAX));
}

/* ------------------------------------------------------------------- topics */

static bool is_rate(uint64_t per_s)
{
	return per_s <= 1000000000000ull;
}

/* @ret_limits: where they are copied to. */
static int check_limits(const char *name, struct thmq_topic_opts *o, struct thmq_limits *ret_limits)
{
	int rc;

	if (!o->limits)
		return 0;
	rc = thmqi_opts_copy(ret_limits, sizeof(*ret_limits), o->limits);
	if (rc)
		return thmqi_fail(rc, "topic %s: limits: %s", name, thmqi_opts_why(rc));
	o->limits = ret_limits;
	if (ret_limits->outstanding)
		return thmqi_fail(-EINVAL, "topic %s: outstanding is a client's limit", name);
	if (!is_rate(ret_limits->produce_bytes) || !is_rate(ret_limits->produce_messages) ||
	    !is_rate(ret_limits->consume_bytes) || !is_rate(ret_limits->consume_messages))
		return thmqi_fail(-EINVAL, "topic %s: a limit is at most 10^12 a second", name);
	return 0;
}

int thmq_topic_create(struct thmq_session *session, const char *name, const struct thmq_topic_opts *opts)
{
	struct thmq_limits limits;
	struct thmq_topic_opts o;
	int rc;

	if (!is_session(session))
		return bad("session");
	rc = check_name(name, THMQ_TOPIC_NAME_MAX, "topic");
	if (rc == 0)
		rc = copy_opts(&o, sizeof(o), opts,
			       THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT | THMQ_TOPIC_RETAIN_CONSUMED | THMQ_TOPIC_COMPACT | THMQ_TOPIC_TEMPORARY, "topic");
	if (rc)
		return rc;
	if (o.partition_count > THMQ_PARTITION_COUNT_MAX)
		return thmqi_fail(-EINVAL, "topic %s: at most %u partitions", name, THMQ_PARTITION_COUNT_MAX);
	if (o.priorities > THMQ_PRIORITIES_MAX)
		return thmqi_fail(-EINVAL, "topic %s: at most %u priorities", name, THMQ_PRIORITIES_MAX);
	if (o.priorities && o.partition_count > THMQ_PARTITION_COUNT_MAX / o.priorities)
		return thmqi_fail(-EINVAL, "topic %s: each priority has its own partitions: at most %u of all together", name,
				  THMQ_PARTITION_COUNT_MAX);
	if (o.visible_at > THMQ_DURABILITY_ALL)
		return thmqi_fail(-EINVAL, "topic %s: unknown durability %u", name, o.visible_at);
	if ((o.flags & THMQ_TOPIC_VOLATILE) && o.visible_at > THMQ_DURABILITY_MEMORY)
		return thmqi_fail(-EINVAL, "topic %s: a volatile topic is visible at memory only", name);
	if (o.volatile_bytes && (o.volatile_bytes < 1u << 20 || o.volatile_bytes > 1ull << 34))
		return thmqi_fail(-EINVAL, "topic %s: volatile_bytes is 1 MiB to 16 GiB", name);
	if (o.volatile_bytes && !(o.flags & THMQ_TOPIC_VOLATILE)) /* whoever forgot the flag would get a log */
		return thmqi_fail(-EINVAL, "topic %s: volatile_bytes is for THMQ_TOPIC_VOLATILE", name);
	if ((o.flags & THMQ_TOPIC_VOLATILE) &&
	    ((o.flags & THMQ_TOPIC_RETAIN_CONSUMED) || o.retention_ns || o.retention_bytes))
		return thmqi_fail(-EINVAL, "topic %s: a volatile topic keeps what fits into volatile_bytes, no more", name);
	if ((o.flags & THMQ_TOPIC_COMPACT) && (o.flags & (THMQ_TOPIC_VOLATILE | THMQ_TOPIC_RETAIN_CONSUMED)))
		return thmqi_fail(-EINVAL, "topic %s: what is compacted is neither volatile nor goes when it was consumed", name);
	if (o.tombstone_ns && !(o.flags & THMQ_TOPIC_COMPACT))
		return thmqi_fail(-EINVAL, "topic %s: tombstone_ns is for THMQ_TOPIC_COMPACT", name);
	rc = check_limits(name, &o, &limits);
	return rc ? rc : thmqi_client_topic_create(session, name, &o);
}

int thmq_topic_delete(struct thmq_session *session, const char *name)
{
	int rc;

	if (!is_session(session))
		return bad("session");
	rc = check_name(name, THMQ_TOPIC_NAME_MAX, "topic");
	return rc ? rc : thmqi_client_topic_delete(session, name);
}

#define ALTER_KNOWN \
	(THMQ_ALTER_RETENTION_TIME | THMQ_ALTER_RETENTION_BYTES | THMQ_ALTER_TTL | THMQ_ALTER_TOMBSTONE | THMQ_ALTER_LIMITS | THMQ_ALTER_PARTITIONS)

int thmq_topic_alter(struct thmq_session *session, const char *name, const struct thmq_topic_opts *opts, uint32_t what)
{
	struct thmq_limits limits;
	struct thmq_topic_opts o;
	int rc;

	if (!is_session(session))
		return bad("session");
	rc = check_name(name, THMQ_TOPIC_NAME_MAX, "topic");
	if (rc == 0)
		rc = copy_opts(&o, sizeof(o), opts, UINT32_MAX, "topic");
	if (rc)
		return rc;
	if (!what || (what & ~ALTER_KNOWN))
		return thmqi_fail(-EINVAL, "alter topic %s: what is of THMQ_ALTER_*, not %#x", name, what);
	if ((what & THMQ_ALTER_PARTITIONS) && (!o.partition_count || o.partition_count > THMQ_PARTITION_COUNT_MAX))
		return thmqi_fail(-EINVAL, "alter topic %s: 1 to %u partitions, not %u", name, THMQ_PARTITION_COUNT_MAX, o.partition_count);
	if (!(what & THMQ_ALTER_LIMITS))
		o.limits = NULL;
	rc = check_limits(name, &o, &limits);
	return rc ? rc : thmqi_client_topic_alter(session, name, &o, what);
}

int thmq_topic_list(struct thmq_session *session, struct thmq_topic_info *ret_infos, uint32_t max)
{
	if (!is_session(session))
		return bad("session");
	if (max && (!ret_infos || thmqi_size_is_wrong(ret_infos[0].size)))
		return thmqi_fail(-EINVAL, "list topics: set the size field of the first element");
	return thmqi_client_topic_list(session, ret_infos, max);
}

int thmq_topic_describe(struct thmq_session *session, const char *name, struct thmq_topic_info *ret_info)
{
	int rc;

	if (!is_session(session))
		return bad("session");
	if (!ret_info || thmqi_size_is_wrong(ret_info->size))
		return thmqi_fail(-EINVAL, "describe a topic: set the size field");
	rc = check_name(name, THMQ_TOPIC_NAME_MAX, "topic");
	return rc ? rc : thmqi_client_topic_describe(session, name, ret_info);
}

int thmq_partition_describe(struct thmq_session *session, const char *topic, uint32_t partition, const char *group,
			    struct thmq_partition_info *ret_info)
{
	int rc;

	if (!is_session(session))
		return bad("session");
	if (!ret_info || thmqi_size_is_wrong(ret_info->size))
		return thmqi_fail(-EINVAL, "describe a partition: set the size field");
	rc = check_name(topic, THMQ_TOPIC_NAME_MAX, "topic");
	if (rc == 0 && group)
		rc = check_name(group, THMQ_GROUP_NAME_MAX, "group");
	return rc ? rc : thmqi_client_partition_describe(session, topic, partition, group, ret_info);
}

int thmq_key_find(struct thmq_session *session, const char *topic, uint32_t partition, const void *key, uint32_t key_len,
		  uint64_t before_offset, struct thmq_key_info *ret_info)
{
	int rc;

	if (!is_session(session))
		return bad("session");
	if (!ret_info || thmqi_size_is_wrong(ret_info->size))
		return thmqi_fail(-EINVAL, "find a key: set the size field");
	if (!key || !key_len || key_len > THMQ_KEY_MAX)
		return thmqi_fail(-EINVAL, "find a key: it has 1 to %u bytes", THMQ_KEY_MAX);
	rc = check_name(topic, THMQ_TOPIC_NAME_MAX, "topic");
	return rc ? rc : thmqi_client_key_find(session, topic, partition, key, key_len, before_offset, ret_info);
}

int thmq_delayed_cancel(struct thmq_session *session, const char *topic, uint32_t partition, uint64_t number)
{
	int rc;

	if (!is_session(session))
		return bad("session");
	rc = check_name(topic, THMQ_TOPIC_NAME_MAX, "topic");
	return rc ? rc : thmqi_client_delayed_cancel(session, topic, partition, number);
}

/* ---------------------------------------------------------------- producers */

int thmq_producer_open(struct thmq_session *session, const char *topic, const struct thmq_producer_opts *opts,
		       struct thmq_producer **ret_producer)
{
	struct thmq_producer_opts o;
	int rc;

	if (!is_session(session))
		return bad("session");
	if (!ret_producer)
		return no_place("open a producer");
	rc = check_name(topic, THMQ_TOPIC_NAME_MAX, "topic");
	if (rc == 0)
		rc = copy_opts(&o, sizeof(o), opts, THMQ_PRODUCER_REPORT, "producer");
	if (rc)
		return rc;
	if (o.durability > THMQ_DURABILITY_ALL)
		return thmqi_fail(-EINVAL, "producer: unknown durability %u", o.durability);
	if (o.compression > THMQ_COMPRESSION_ZSTD)
		return thmqi_fail(-EINVAL, "producer: unknown compression %u", o.compression);
	if (o.compress_level < -100 || o.compress_level > 19)
		return thmqi_fail(-EINVAL, "producer: compress_level is -100 to 19");
	rc = o.name ? check_name(o.name, THMQ_TOPIC_NAME_MAX, "producer") : 0;
	if (rc)
		return rc;
	return thmqi_client_producer_open(session, topic, &o, ret_producer);
}

int thmq_producer_close(struct thmq_producer *producer, uint64_t timeout_ns)
{
	int rc;

	if (!is_producer_here(producer))
		return bad("producer");
	rc = thmqi_client_producer_close(producer, timeout_ns);
	if (rc == -EIO)
		return thmqi_fail(rc, "close a producer: some messages failed; thmq_events() tells which");
	return rc ? thmqi_fail(rc, "close a producer: %s", thmq_strerror(rc)) : 0;
}

uint32_t thmq_producer_len_max(const struct thmq_producer *producer)
{
	return is_producer(producer) ? thmqi_client_producer_len_max(producer) : 0;
}

/* Options of another version of the library are copied; ours are used in place. */
static int message_opts(const struct thmq_message_opts **opts, struct thmq_message_opts *copy)
{
	int rc;

	if (thmqi_likely(!*opts || (*opts)->size == sizeof(**opts)))
		return 0;
	rc = thmqi_opts_copy(copy, sizeof(*copy), *opts);
	*opts = copy;
	return rc;
}

int thmq_claim(struct thmq_producer *producer, const struct thmq_message_opts *opts, uint32_t len,
	       struct thmq_claim *ret_claim)
{
	struct thmq_message_opts copy;
	int rc;

	if (!is_producer(producer) || thmqi_unlikely(!ret_claim))
		return -EINVAL;
	rc = message_opts(&opts, &copy);
	return thmqi_unlikely(rc) ? rc : thmqi_client_claim(producer, opts, len, ret_claim);
}

int64_t thmq_commit(struct thmq_producer *producer, struct thmq_claim *claim)
{
	if (!is_producer(producer) || thmqi_unlikely(!claim))
		return -EINVAL;
	return thmqi_client_commit(producer, claim);
}

int thmq_abort(struct thmq_producer *producer, struct thmq_claim *claim)
{
	if (!is_producer(producer) || !claim)
		return -EINVAL;
	return thmqi_client_abort(producer, claim);
}

int thmq_claim_row(struct thmq_producer *producer, const struct thmq_message_opts *opts, uint32_t len, uint32_t count,
		   struct thmq_row *ret_row)
{
	struct thmq_message_opts copy;
	int rc;

	if (!is_producer(producer) || thmqi_unlikely(!ret_row))
		return -EINVAL;
	rc = message_opts(&opts, &copy);
	return thmqi_unlikely(rc) ? rc : thmqi_client_claim_row(producer, opts, len, count, ret_row);
}

int64_t thmq_commit_row(struct thmq_producer *producer, struct thmq_row *row, uint32_t count)
{
	if (!is_producer(producer) || thmqi_unlikely(!row))
		return -EINVAL;
	return thmqi_client_commit_row(producer, row, count);
}

int thmq_abort_row(struct thmq_producer *producer, struct thmq_row *row)
{
	if (!is_producer(producer) || !row)
		return -EINVAL;
	return thmqi_client_abort_row(producer, row);
}

int64_t thmq_send(struct thmq_producer *producer, const void *data, uint32_t len,
		  const struct thmq_message_opts *opts)
{
	struct thmq_message_opts copy;
	int rc;

	if (!is_producer(producer) || thmqi_unlikely(!data && len))
		return -EINVAL;
	rc = message_opts(&opts, &copy);
	return thmqi_unlikely(rc) ? rc : thmqi_client_send(producer, data, len, opts);
}

int64_t thmq_send_batch(struct thmq_producer *producer, const struct thmq_batch_message *messages, uint32_t count,
			const struct thmq_message_opts *opts)
{
	struct thmq_message_opts copy;
	int rc;

	if (!is_producer(producer) || thmqi_unlikely(!messages))
		return -EINVAL;
	rc = message_opts(&opts, &copy);
	return thmqi_unlikely(rc) ? rc : thmqi_client_send_batch(producer, messages, count, opts);
}

int thmq_flush(struct thmq_producer *producer, uint64_t timeout_ns)
{
	int rc;

	if (!is_producer_here(producer))
		return bad("producer");
	rc = thmqi_client_flush(producer, timeout_ns);
	if (rc == -EIO)
		return thmqi_fail(rc, "flush: some messages failed; thmq_events() tells which");
	return rc ? thmqi_fail(rc, "flush: %s", thmq_strerror(rc)) : 0;
}

int64_t thmq_producer_retry_ns(struct thmq_producer *producer)
{
	return is_producer(producer) ? thmqi_client_producer_retry_ns(producer) : -EINVAL;
}

int64_t thmq_watermark(struct thmq_producer *producer)
{
	return is_producer(producer) ? thmqi_client_watermark(producer) : -EINVAL;
}

/* ---------------------------------------------------------------- consumers */

#define YEAR_NS 31536000000000000ull

static int check_tags(const struct thmq_consumer_opts *o)
{
	uint32_t i;

	if (o->tag_count > THMQ_CONSUMER_TAGS_MAX || (o->tag_count && !o->tags))
		return thmqi_fail(-EINVAL, "consumer: tags: up to %u of them", THMQ_CONSUMER_TAGS_MAX);
	for (i = 0; i < o->tag_count; i++)
		if (!o->tags[i] || !*o->tags[i] || strnlen(o->tags[i], THMQ_TAG_MAX + 1) > THMQ_TAG_MAX)
			return thmqi_fail(-EINVAL, "consumer: a tag has 1 to %u bytes", THMQ_TAG_MAX);
	return 0;
}

int thmq_consumer_open(struct thmq_session *session, const char *topic, const char *group,
		       const struct thmq_consumer_opts *opts, struct thmq_consumer **ret_consumer)
{
	struct thmq_consumer_opts o;
	int rc;

	if (!is_session(session))
		return bad("session");
	if (!ret_consumer)
		return no_place("open a consumer");
	rc = check_name(topic, THMQ_TOPIC_NAME_MAX, "topic");
	if (rc == 0 && group)
		rc = check_name(group, THMQ_GROUP_NAME_MAX, "group");
	if (rc == 0)
		rc = copy_opts(&o, sizeof(o), opts,
			       THMQ_CONSUMER_START_ALWAYS | THMQ_CONSUMER_SHARED | THMQ_CONSUMER_PARTITION | THMQ_CONSUMER_ENCODED |
				       THMQ_CONSUMER_READ_UNCOMMITTED,
			       "consumer");
	if (rc)
		return rc;
	rc = check_tags(&o);
	if (rc == 0 && o.filter)
		rc = thmq_filter_check(o.filter, NULL);
	if (rc)
		return rc;
	if (o.instance && (!group || (o.flags & THMQ_CONSUMER_SHARED) || !*o.instance ||
			   strnlen(o.instance, THMQ_INSTANCE_MAX + 1) > THMQ_INSTANCE_MAX))
		return thmqi_fail(-EINVAL, "consumer: instance has 1 to %u bytes, and is of a group whose members do not share", THMQ_INSTANCE_MAX);
	if (o.assignor > THMQ_ASSIGN_NEAR)
		return thmqi_fail(-EINVAL, "consumer: unknown assignor %u", o.assignor);
	if (o.near_cpu && o.assignor != THMQ_ASSIGN_NEAR)
		return thmqi_fail(-EINVAL, "consumer: near_cpu goes with THMQ_ASSIGN_NEAR");
	if (o.near_cpu > INT32_MAX)
		return thmqi_fail(-EINVAL, "consumer: there is no processor %u", o.near_cpu - 1);
	if (o.start > THMQ_START_TIME || o.start == THMQ_START_OFFSET)
		return thmqi_fail(-EINVAL, "consumer: start is BEGIN, END or TIME; for an offset open it, then seek");
	if (o.flags & THMQ_CONSUMER_PARTITION ? group != NULL : o.partition != 0)
		return thmqi_fail(-EINVAL, "consumer: partition goes with THMQ_CONSUMER_PARTITION, and both without a group");
	if ((o.flags & THMQ_CONSUMER_SHARED) && (!group || (o.flags & THMQ_CONSUMER_START_ALWAYS)))
		return thmqi_fail(-EINVAL, "consumer: THMQ_CONSUMER_SHARED needs a group, and goes on where that stands");
	if ((o.flags & THMQ_CONSUMER_SHARED) && (o.flags & THMQ_CONSUMER_READ_UNCOMMITTED))
		return thmqi_fail(-EINVAL, "consumer: members of a shared group see what is committed only");
	if ((o.flags & THMQ_CONSUMER_ENCODED) && ((o.flags & THMQ_CONSUMER_SHARED) || o.tag_count || o.filter))
		return thmqi_fail(-EINVAL, "consumer: THMQ_CONSUMER_ENCODED takes what comes, whole: no tags, no filter, no THMQ_CONSUMER_SHARED");
	if ((o.flags & THMQ_CONSUMER_SHARED) && o.tag_count)
		return thmqi_fail(-EINVAL, "consumer: a shared group takes all tags: what one member does not want nobody would get");
	if (!(o.flags & THMQ_CONSUMER_SHARED) && (o.invisible_ns || o.deliver_max || o.backoff_count || o.dead_topic))
		return thmqi_fail(-EINVAL, "consumer: invisible_ns, deliver_max, backoff_ns and dead_topic need THMQ_CONSUMER_SHARED");
	if (o.backoff_count > THMQ_CONSUMER_BACKOFF_MAX || (o.backoff_count && !o.backoff_ns))
		return thmqi_fail(-EINVAL, "consumer: backoff_ns has 1 to %u delays", THMQ_CONSUMER_BACKOFF_MAX);
	rc = o.dead_topic ? check_name(o.dead_topic, THMQ_TOPIC_NAME_MAX, "dead_topic") : 0;
	if (rc)
		return rc;
	if (o.dead_topic && strcmp(o.dead_topic, topic) == 0)
		return thmqi_fail(-EINVAL, "consumer: dead letters of %s would come back to it; name another dead_topic", topic);
	if (o.invisible_ns && (o.invisible_ns < 1000000u || o.invisible_ns > YEAR_NS))
		return thmqi_fail(-EINVAL, "consumer: invisible_ns is 1 ms to a year, not %llu ns", (unsigned long long)o.invisible_ns);
	if (o.session_timeout_ns && (o.session_timeout_ns < 100000000u || o.session_timeout_ns > YEAR_NS))
		return thmqi_fail(-EINVAL, "consumer: session_timeout_ns is 100 ms to a year, not %llu ns", (unsigned long long)o.session_timeout_ns);
	return thmqi_client_consumer_open(session, topic, group, &o, ret_consumer);
}

int thmq_filter_check(const char *filter, uint32_t *ret_at)
{
	struct thmqi_filter_error error;
	struct thmqi_filter *f;
	int rc;

	if (!filter)
		return thmqi_fail(-EINVAL, "filter: there is none");
	rc = thmqi_filter_make(filter, (uint32_t)strnlen(filter, THMQ_FILTER_MAX + 1), &f, &error);
	if (rc == 0)
		thmqi_filter_free(f);
	if (rc == -EINVAL && ret_at)
		*ret_at = error.at;
	return rc == -EINVAL ? thmqi_fail(rc, "filter: at character %u: %s", error.at + 1, error.what) : rc;
}

int thmq_consumer_close(struct thmq_consumer *consumer, uint64_t timeout_ns)
{
	int rc;

	if (!is_consumer_here(consumer))
		return bad("consumer");
	rc = thmqi_client_consumer_close(consumer, timeout_ns);
	return rc ? thmqi_fail(rc, "close a consumer: %s", thmq_strerror(rc)) : 0;
}

int thmq_fetch(struct thmq_consumer *consumer, struct thmq_message *ret_messages, uint32_t max)
{
	if (!is_consumer(consumer) || thmqi_unlikely(!ret_messages && max))
		return -EINVAL;
	return thmqi_client_fetch(consumer, ret_messages, THMQI_MIN(max, (uint32_t)INT32_MAX));
}

int thmq_release(struct thmq_consumer *consumer, struct thmq_message *messages, uint32_t count)
{
	if (!is_consumer(consumer) || thmqi_unlikely(!messages && count))
		return -EINVAL;
	return thmqi_client_release(consumer, messages, count);
}

int thmq_ack(struct thmq_consumer *consumer, const struct thmq_message *message)
{
	if (!is_consumer(consumer) || thmqi_unlikely(!message))
		return -EINVAL;
	return thmqi_client_ack(consumer, message);
}

int thmq_nack(struct thmq_consumer *consumer, const struct thmq_message *message, uint64_t delay_ns)
{
	if (!is_consumer(consumer) || !message)
		return -EINVAL;
	return thmqi_client_nack(consumer, message, delay_ns);
}

int thmq_reject(struct thmq_consumer *consumer, const struct thmq_message *message, const char *reason)
{
	if (!is_consumer(consumer) || !message)
		return -EINVAL;
	return thmqi_client_reject(consumer, message, reason);
}

int thmq_extend(struct thmq_consumer *consumer, const struct thmq_message *message, uint64_t invisible_ns)
{
	if (!is_consumer(consumer) || !message)
		return -EINVAL;
	return thmqi_client_extend(consumer, message, invisible_ns);
}

int thmq_message_encoding(const struct thmq_consumer *consumer, const struct thmq_message *message)
{
	if (!is_consumer(consumer) || !message)
		return -EINVAL;
	return thmqi_client_message_encoding(consumer, message);
}

int thmq_message_deliveries(const struct thmq_consumer *consumer, const struct thmq_message *message)
{
	if (!is_consumer(consumer) || !message)
		return -EINVAL;
	return thmqi_client_message_deliveries(consumer, message);
}

int thmq_message_priority(const struct thmq_consumer *consumer, const struct thmq_message *message)
{
	if (!is_consumer(consumer) || !message)
		return -EINVAL;
	return thmqi_client_message_priority(consumer, message);
}

int thmq_consumer_flush(struct thmq_consumer *consumer, uint64_t timeout_ns)
{
	int rc;

	if (!is_consumer_here(consumer))
		return bad("consumer");
	rc = thmqi_client_consumer_flush(consumer, timeout_ns);
	return rc ? thmqi_fail(rc, "flush the acks: %s", thmq_strerror(rc)) : 0;
}

int thmq_seek(struct thmq_consumer *consumer, uint32_t partition, uint32_t start, uint64_t value)
{
	if (!is_consumer_here(consumer))
		return bad("consumer");
	if (start < THMQ_START_BEGIN || start > THMQ_START_TIME)
		return thmqi_fail(-EINVAL, "seek: start is BEGIN, END, OFFSET or TIME");
	return thmqi_client_seek(consumer, partition, start, value);
}

int thmq_consumer_position(struct thmq_consumer *consumer, uint32_t partition, uint64_t *ret_offset)
{
	if (!is_consumer(consumer))
		return bad("consumer");
	if (!ret_offset)
		return thmqi_fail(-EINVAL, "position: no place for the offset");
	return thmqi_client_position(consumer, partition, ret_offset);
}
