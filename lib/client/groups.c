/* SPDX-License-Identifier: Apache-2.0 */
/* groups.c - groups for whoever administers them: listed, described, reset, deleted; blocking, by requests to meta and to the shards. */
#include <stdio.h>

#include "internal.h"

#define GROUPS_MAX THMQI_ARRAY_COUNT(((struct thmqi_reply *)0)->groups)
#define MEMBERS_MAX THMQI_ARRAY_COUNT(((struct thmqi_reply *)0)->members)
#define OWNERS_MAX THMQI_ARRAY_COUNT(((struct thmqi_reply *)0)->owners)
#define AGAIN_NS 1000000u

static void request_of(struct thmqi_request *r, uint32_t op, const char *topic, const char *group)
{
	memset(r, 0, sizeof(*r));
	r->op = op;
	snprintf(r->name, sizeof(r->name), "%s", topic);
	if (group)
		snprintf(r->group, sizeof(r->group), "%s", group);
}

static int failed(int rc, const char *what, const char *topic, const char *group)
{
	if (rc == -ENOENT)
		return thmqi_fail(rc, "%s group %s: topic %s has no such group", what, group, topic);
	if (rc == -EBUSY)
		return thmqi_fail(rc, "%s group %s of %s: it has members; close them, or use THMQ_GROUP_FORCE", what, group, topic);
	return thmqi_fail(rc, "%s group %s of %s: %s", what, group, topic, thmq_strerror(rc));
}

/* ------------------------------------------------------------------------- lists */

/*
 * All entries of a request that asks for them from an index on. @take puts one of @reply into the @n-th place. Return: how many there
 * are; an error.
 */
static int take_all(struct thmq_session *s, struct thmqi_request *r, uint32_t max, uint32_t each_max,
		    bool (*take)(void *arg, const struct thmqi_reply *reply, uint32_t i, uint32_t n), void *arg)
{
	const struct thmqi_reply *reply;
	uint32_t n = 0, i, count, total;
	int rc;

	do {
		r->index = n;
		rc = thmqi_session_meta(s, r, &reply);
		if (rc)
			return rc;
		count = reply->count; /* once: the page is the broker's too */
		total = reply->total;
		if (count > each_max || total > INT32_MAX)
			return -THMQ_EVERSION;
		for (i = 0; i < count && n < max; i++, n++)
			if (!take(arg, reply, i, n))
				return -THMQ_EVERSION;
	} while (n < max && n < total && count);
	return (int)total;
}

struct places {
	char *at;
	uint32_t size; /* what the caller's struct has */
};

static void put(const struct places *p, uint32_t n, const void *from, uint32_t len)
{
	memset(p->at + (size_t)n * p->size, 0, p->size);
	memcpy(p->at + (size_t)n * p->size, from, THMQI_MIN(p->size, len));
}

static bool take_group(void *arg, const struct thmqi_reply *reply, uint32_t i, uint32_t n)
{
	const struct thmqi_group_entry e = reply->groups[i];
	const struct places *p = arg;
	struct thmq_group_info info = {
		.size = p->size, .group_id = e.group_id, .member_count = e.member_count, .assignor = e.assignor};

	if (!memchr(e.name, 0, sizeof(e.name)))
		return false;
	memcpy(info.name, e.name, sizeof(info.name));
	put(p, n, &info, sizeof(info));
	return true;
}

int thmqi_client_group_list(struct thmq_session *s, const char *topic, struct thmq_group_info *ret_infos, uint32_t max)
{
	struct places p = {.at = (char *)ret_infos, .size = max ? ret_infos[0].size : 0};
	struct thmqi_request r;
	int rc;

	request_of(&r, THMQI_OP_GROUP_LIST, topic, NULL);
	rc = take_all(s, &r, max, GROUPS_MAX, take_group, &p);
	return rc < 0 ? thmqi_fail(rc, "list the groups of %s: %s", topic, thmq_strerror(rc)) : rc;
}

static bool take_member(void *arg, const struct thmqi_reply *reply, uint32_t i, uint32_t n)
{
	const struct thmqi_member_entry e = reply->members[i];
	const struct places *p = arg;
	struct thmq_group_member m = {
		.size = p->size, .partition_count = e.partition_count, .id = e.id, .silent_ns = e.silent_ns, .away = e.away};

	if (!memchr(e.instance, 0, sizeof(e.instance)))
		return false;
	memcpy(m.instance, e.instance, sizeof(m.instance));
	put(p, n, &m, sizeof(m));
	return true;
}

int thmqi_client_group_members(struct thmq_session *s, const char *topic, const char *group, struct thmq_group_member *ret_members,
			       uint32_t max)
{
	struct places p = {.at = (char *)ret_members, .size = max ? ret_members[0].size : 0};
	struct thmqi_request r;
	int rc;

	request_of(&r, THMQI_OP_GROUP_MEMBERS, topic, group);
	rc = take_all(s, &r, max, MEMBERS_MAX, take_member, &p);
	return rc < 0 ? failed(rc, "list the members of", topic, group) : rc;
}

static bool take_owner(void *arg, const struct thmqi_reply *reply, uint32_t i, uint32_t n)
{
	((uint32_t *)arg)[n] = reply->owners[i];
	return true;
}

int thmqi_client_group_owners(struct thmq_session *s, const char *topic, const char *group, uint32_t *ret_members, uint32_t max)
{
	struct thmqi_request r;
	int rc;

	request_of(&r, THMQI_OP_GROUP_OWNERS, topic, group);
	rc = take_all(s, &r, max, OWNERS_MAX, take_owner, ret_members);
	return rc < 0 ? failed(rc, "list the owners of", topic, group) : rc;
}

/* ---------------------------------------------------------------------- one group */

/* What there is to know before its partitions are asked. */
struct about {
	struct thmqi_topic_entry topic;
	struct thmqi_partition_entry *partitions; /* to be freed */
	struct thmq_group_info info;
	uint64_t deadline;
	uint32_t at; /* which of them is being reset */
};

static int learn(struct thmq_session *s, const char *topic, const char *group, struct about *ret)
{
	const struct thmqi_reply *reply;
	struct thmqi_request r;
	int rc;

	*ret = (struct about){.deadline = thmqi_session_deadline(s, s->opts.timeout_ns)};
	request_of(&r, THMQI_OP_GROUP_MEMBERS, topic, group);
	r.index = UINT32_MAX; /* none of them */
	rc = thmqi_session_meta(s, &r, &reply);
	if (rc)
		return rc;
	ret->info.group_id = (uint32_t)reply->value[0];
	ret->info.assignor = (uint32_t)reply->value[1];
	ret->info.member_count = (uint32_t)reply->value[3];
	snprintf(ret->info.name, sizeof(ret->info.name), "%s", group);
	rc = thmqi_session_topic(s, topic, THMQI_TO_ANY, &ret->topic);
	if (rc)
		return rc;
	ret->info.partition_count = ret->topic.partition_count;
	return thmqi_session_partitions(s, ret->topic.topic_id, 0, ret->topic.partition_count, &ret->partitions);
}

/* To the shard that has it. */
static int ask_partition(struct thmq_session *s, struct about *a, uint32_t i, struct thmqi_request *r, const struct thmqi_reply **ret_reply)
{
	struct client_link *l;
	int rc = thmqi_session_link_wait(s, a->partitions[i].shard, a->deadline, &l);

	r->partition = a->partitions[i].partition;
	r->group_id = a->info.group_id;
	return rc ? rc : thmqi_session_request(s, l, r, a->deadline, ret_reply);
}

/* Its readers and its lag are added to. */
static int add_partition(struct thmq_session *s, struct about *a, uint32_t i)
{
	const struct thmqi_reply *reply;
	uint64_t from, lag;
	struct thmqi_request r = {.op = THMQI_OP_PARTITION_INFO};
	int rc = ask_partition(s, a, i, &r, &reply);

	if (rc)
		return rc;
	from = reply->value[2] == UINT64_MAX ? reply->value[0] : THMQI_MAX(reply->value[2], reply->value[0]);
	lag = reply->value[1] > from ? reply->value[1] - from : 0;
	a->info.lag += lag - THMQI_MIN(lag, reply->value[3]);
	a->info.reader_count += reply->total;
	a->info.flags |= reply->flags & THMQ_GROUP_IS_SHARED;
	return 0;
}

static int add_partitions(struct thmq_session *s, struct about *a)
{
	uint32_t i;
	int rc = 0;

	for (i = 0; i < a->topic.partition_count && !rc; i++)
		rc = add_partition(s, a, i);
	return rc;
}

int thmqi_client_group_describe(struct thmq_session *s, const char *topic, const char *group, struct thmq_group_info *ret_info)
{
	struct places p = {.at = (char *)ret_info, .size = ret_info->size};
	struct about a;
	int rc = learn(s, topic, group, &a);

	if (!rc)
		rc = add_partitions(s, &a);
	free(a.partitions);
	if (rc)
		return failed(rc, "describe", topic, group);
	a.info.size = p.size;
	put(&p, 0, &a.info, sizeof(a.info));
	return 0;
}

/* ------------------------------------------------------------------------- reset */

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static int expel(struct thmq_session *s, const char *topic, const char *group)
{
	struct thmqi_request r;

	request_of(&r, THMQI_OP_GROUP_EXPEL, topic, group);
	return thmqi_session_meta(s, &r, NULL);
}

/* Until it is stored. */
static int reset_one(struct thmq_session *s, struct about *a, uint32_t i, uint32_t start, uint64_t value, uint32_t flags)
{
	struct thmqi_request r = {.op = THMQI_OP_GROUP_RESET, .index = start, .before_offset = value, .topic_flags = flags};
	const struct thmqi_reply *reply;
	int rc;

	a->at = i;
	while ((rc = ask_partition(s, a, i, &r, &reply)) == -EAGAIN) {
		r.index = THMQ_START_OFFSET; /* where the end is may change */
		r.before_offset = reply->value[0];
		r.topic_flags = 0; /* who comes meanwhile stays */
		if (thmqi_session_deadline(s, 0) >= a->deadline)
			return -ETIMEDOUT;
		rc = thmqi_session_block(s, never, NULL, thmqi_session_deadline(s, AGAIN_NS));
		if (rc && rc != -ETIMEDOUT)
			return rc;
	}
	return rc;
}

/* Where each partition would begin for a consumer without a group. */
static int reset_to_time(struct thmq_session *s, const char *topic, struct about *a, uint32_t first, uint32_t end, uint64_t time_ns,
			 uint32_t flags)
{
	const struct thmq_consumer_opts o = {
		.size = sizeof(o), .start = THMQ_START_TIME, .start_time_ns = time_ns, .prefetch_count = 1, .prefetch_bytes = 1};
	struct thmq_consumer *c;
	uint64_t *begins;
	uint32_t i;
	int rc;

	begins = calloc(a->topic.partition_count, sizeof(*begins));
	rc = begins ? thmqi_client_consumer_open(s, topic, NULL, &o, &c) : -ENOMEM;
	if (rc) {
		free(begins);
		return rc;
	}
	if (c->topic_id != a->topic.topic_id || c->reading_count < a->topic.partition_count)
		rc = -THMQ_ENOTOPIC; /* another of that name by now */
	for (i = first; i < end && !rc; i++)
		begins[i] = thmqi_reading(c, i)->resume;
	thmqi_client_consumer_close(c, s->opts.timeout_ns);
	for (i = first; i < end && !rc; i++)
		rc = reset_one(s, a, i, THMQ_START_OFFSET, begins[i], flags);
	free(begins);
	return rc;
}

static int reset(struct thmq_session *s, const char *topic, struct about *a, uint32_t partition, uint32_t start, uint64_t value,
		 uint32_t flags)
{
	uint32_t first = partition == UINT32_MAX ? 0 : partition;
	uint32_t end = partition == UINT32_MAX ? a->topic.partition_count : partition + 1, i;
	int rc = 0;

	if (start == THMQ_START_TIME)
		return reset_to_time(s, topic, a, first, end, value, flags);
	for (i = first; i < end && !rc; i++)
		rc = reset_one(s, a, i, start, value, flags);
	return rc;
}

int thmqi_client_group_reset(struct thmq_session *s, const char *topic, const char *group, uint32_t partition, uint32_t start,
			     uint64_t value, uint32_t flags)
{
	struct about a;
	int rc = learn(s, topic, group, &a);

	if (!rc && partition != UINT32_MAX && partition >= a.topic.partition_count)
		rc = -THMQ_ENOPARTITION;
	if (!rc && !(flags & THMQ_GROUP_FORCE)) {
		rc = add_partitions(s, &a);
		if (!rc && (a.info.member_count || a.info.reader_count))
			rc = -EBUSY;
	} else if (!rc) {
		rc = expel(s, topic, group);
	}
	if (!rc)
		rc = reset(s, topic, &a, partition, start, value, flags);
	free(a.partitions);
	if (rc == -THMQ_EOFFSETRANGE)
		return thmqi_fail(rc, "reset group %s of %s: partition %u does not hold offset %llu; thmq_partition_describe() has its bounds", group,
				  topic, a.at, (unsigned long long)value);
	return rc ? failed(rc, "reset", topic, group) : 0;
}

int thmqi_client_group_delete(struct thmq_session *s, const char *topic, const char *group, uint32_t flags)
{
	struct thmqi_request r;
	struct about a;
	int rc = learn(s, topic, group, &a);

	if (!rc && !(flags & THMQ_GROUP_FORCE))
		rc = add_partitions(s, &a);
	if (!rc && a.info.reader_count)
		rc = -EBUSY;
	free(a.partitions);
	if (!rc) {
		request_of(&r, THMQI_OP_GROUP_DELETE, topic, group);
		r.topic_flags = flags;
		r.group_id = a.info.group_id;
		rc = thmqi_session_meta(s, &r, NULL);
	}
	return rc ? failed(rc, "delete", topic, group) : 0;
}
