/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consumer.c - a consumer: opened and closed, its acks and seeks. What the partitions are at is reading.c's, the
 * messages are runs.c's and fetch.c's.
 */
#include <sched.h>
#include <stdio.h>

#include "wire/run.h"

#include "internal.h"

#define NO_OFFSET UINT64_MAX

/* ---------------------------------------------------------------------- ack */

int thmqi_client_ack(struct thmq_consumer *c, const struct thmq_message *message)
{
	const uint64_t next = message->offset + THMQI_MAX(message->span, 1u);
	struct reading *r;

	if (thmqi_unlikely(!c->grouped && c->shared))
		return thmqi_shared_ack(c, message);
	if (!c->grouped || message->partition >= c->reading_count ||
	    message->internal[1] >> 48 != (VIEW_MARK | c->stream))
		return -EINVAL;
	r = thmqi_reading(c, message->partition);
	if (next - 1 >= r->handed) /* it was never given out: an ack of it would skip others. Nor is there anything behind the last offset of all */
		return -EINVAL;
	if (c->session->dead)
		return c->session->dead;
	thmqi_session_beat(c->session);
	if (!thmqi_reading_is_ours(r))
		return -THMQ_EFENCED;
	if (r->ack_next != NO_OFFSET && next <= r->ack_next)
		return 0;
	r->ack_next = next;
	if (thmqi_unlikely(r->resumes)) {
		r->ack_dirty = true; /* it goes once we are back */
		return 0;
	}
	thmqi_reading_ack(r); /* where there is no room now, the latest offset goes later */
	return 0;
}

static bool ack_stored(const struct reading *r)
{
	if (r->consumer->shared)
		return thmqi_shared_acks_stored(r);
	if (r->state == READING_NONE || r->ack_next == NO_OFFSET)
		return !r->ack_unsure;
	if (r->ack_error)
		return true; /* as far as it comes */
	return !r->ack_dirty && r->ack_stored != NO_OFFSET && r->ack_stored >= r->ack_next;
}

/*
 * Have all readings come to @done? None goes back from it while that is waited for, so that each is passed once: a round
 * of waiting costs what has changed, not the number of partitions. c->awaited is c->reading_first at first.
 */
static bool each_is(struct thmq_consumer *c, bool (*done)(const struct reading *r))
{
	while (c->awaited < c->reading_count && done(thmqi_reading(c, c->awaited)))
		c->awaited++;
	return c->awaited == c->reading_count;
}

static bool acks_stored(void *arg)
{
	return each_is(arg, ack_stored);
}

/* What the broker does not have any more cannot be acknowledged, however often it is asked: that is told once. */
static void settle_gone(struct thmq_consumer *c)
{
	uint32_t i;

	for (i = c->reading_first; i < c->reading_count; i++) {
		struct reading *r = thmqi_reading(c, i);

		if (r->ack_error != -THMQ_EOFFSETRANGE)
			continue;
		r->ack_error = 0;
		r->ack_stored = r->ack_sent;
	}
}

static int flush(struct thmq_consumer *c, uint64_t timeout_ns, bool closes)
{
	struct thmq_session *s = c->session;
	uint32_t i;
	int rc = 0;

	if (c->dead)
		rc = thmqi_dead_flush(c, timeout_ns);
	for (i = c->reading_first; i < c->reading_count; i++) {
		struct reading *r = thmqi_reading(c, i);
		const bool asks = r->ack_error && !r->shard_error && r->state == READING_ON; /* what could not be stored: perhaps it can be now */

		if (c->shared && thmqi_shared_ack_send(r) && asks)
			thmqi_shared_ask(r);
		else if (!c->shared && asks)
			thmqi_reading_ack(r);
	}
	c->awaited = c->reading_first;
	if (!rc && !acks_stored(c))
		rc = thmqi_session_block(s, acks_stored, c, thmqi_session_deadline(s, timeout_ns));
	if (rc == -ETIMEDOUT && s->reads_only)
		rc = -THMQ_ENOQUORUM;
	for (i = c->reading_first; i < c->reading_count && !rc; i++)
		rc = thmqi_reading(c, i)->state == READING_NONE ? 0 : thmqi_reading(c, i)->ack_error;
	if (rc == -THMQ_EOFFSETRANGE)
		settle_gone(c);
	if (rc == 0 && (c->fenced || (c->doubted && !closes))) { /* to one that closes nothing comes any more */
		c->fenced = c->doubted = false;
		return -THMQ_EFENCED;
	}
	return rc;
}

int thmqi_client_consumer_flush(struct thmq_consumer *c, uint64_t timeout_ns)
{
	return flush(c, timeout_ns, false);
}

/* --------------------------------------------------------------------- seek */

static bool sought(void *arg)
{
	const struct reading *r = arg;

	return r->seek_done || r->state != READING_ON;
}

static bool not_away(void *arg)
{
	return !((const struct reading *)arg)->resumes;
}

/* @partition has no reading: the topic has no such partition, or the consumer is of another one. */
static int not_there(const struct thmq_consumer *c, const char *what, uint32_t partition)
{
	const bool lone = (c->opts.flags & THMQ_CONSUMER_PARTITION) != 0;
	const uint32_t count = lone ? c->began_count : c->reading_count; /* it does not hear of those that are added */

	if (partition < count)
		return thmqi_fail(-EPERM, "%s: partition %u of %s is not this consumer's", what, partition, c->topic);
	return thmqi_fail(-THMQ_ENOPARTITION, "%s: %s has %u partitions, not %u", what, c->topic, count, partition);
}

static int seek_one(struct thmq_consumer *c, struct reading *r, uint32_t start, uint64_t value, uint64_t deadline)
{
	struct thmq_session *s = c->session;
	struct thmqi_frame *f;
	int rc;

again:
	rc = not_away(r) ? 0 : thmqi_session_block(s, not_away, r, deadline);
	if (!rc && r->state != READING_ON)
		return thmqi_fail(-EPERM, "seek: partition %u of %s is not this consumer's", r->index, c->topic);
	/* one at a time: the answer to one that was given up must not be taken for another's */
	if (!rc && !sought(r))
		rc = thmqi_session_block(s, sought, r, deadline);
	if (!rc)
		rc = thmqi_session_ctl_claim(s, r->link, deadline, &f);
	if (rc)
		return thmqi_fail(rc, "seek in partition %u of %s: %s", r->index, c->topic, thmq_strerror(rc));
	if (r->resumes)
		goto again;
	if (r->state != READING_ON)
		return thmqi_fail(-EPERM, "seek: partition %u of %s has just gone to another", r->index, c->topic);
	r->seek_done = false;
	r->seek_not_before_ns = start == THMQ_START_TIME ? (int64_t)value : INT64_MIN;
	f->type = THMQI_FRAME_SEEK;
	f->flags = (uint8_t)start;
	f->stream = c->stream;
	f->partition = r->partition;
	f->arg[0] = value;
	f->generation = r->generation + 1;
	thmqi_ctl_commit(r->link);
	rc = thmqi_session_block(s, sought, r, deadline);
	if (rc)
		return thmqi_fail(rc, "seek in partition %u of %s: %s", r->index, c->topic, thmq_strerror(rc));
	if (r->seek_done && r->seek_status == -ECONNRESET) /* and with it the seek, or its answer: the same again */
		goto again;
	if (!r->seek_done)
		return thmqi_fail(-EPERM, "seek: partition %u of %s has just gone to another", r->index, c->topic);
	if (r->seek_status == -THMQ_EOFFSETRANGE && r->seek_begin == r->seek_end)
		return thmqi_fail(r->seek_status, "seek to %llu in partition %u of %s: it is empty, its next offset is %llu or more",
				  (unsigned long long)value, r->index, c->topic, (unsigned long long)r->seek_end);
	if (r->seek_status == -THMQ_EOFFSETRANGE)
		return thmqi_fail(r->seek_status, "seek to %llu in partition %u of %s: it holds offsets %llu to %llu",
				  (unsigned long long)value, r->index, c->topic, (unsigned long long)r->seek_begin,
				  (unsigned long long)r->seek_end - 1);
	if (r->seek_status)
		return thmqi_fail(r->seek_status, "seek in partition %u of %s: %s", r->index, c->topic,
				  thmq_strerror(r->seek_status));
	return 0;
}

int thmqi_client_seek(struct thmq_consumer *c, uint32_t partition, uint32_t start, uint64_t value)
{
	struct thmq_session *s = c->session;
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	uint32_t i, first = partition == UINT32_MAX ? c->reading_first : partition;
	uint32_t end = partition == UINT32_MAX ? c->reading_count : partition + 1;
	int rc = 0;

	if (partition != UINT32_MAX && !thmqi_reading_is_there(c, partition))
		return not_there(c, "seek", partition);
	if (c->shared)
		return thmqi_fail(-EOPNOTSUPP, "seek: the members of group %s share %s; no one of them says where it goes on", c->group,
				  c->topic);
	thmqi_session_process(s);
	for (i = first; i < end && !rc; i++) {
		struct reading *r = thmqi_reading(c, i);

		if (partition == UINT32_MAX && !thmqi_reading_is_ours(r))
			continue;
		rc = seek_one(c, r, start, value, deadline);
	}
	return rc;
}

/* ----------------------------------------------------------------- position */

/* What was handed over and not fetched yet is still to come. */
static uint64_t position_of(const struct thmq_consumer *c, const struct reading *r, uint64_t broker_at)
{
	const struct delivered *d = c->first;

	while (d && d->reading != r)
		d = d->next;
	return THMQI_MAX(r->resume, d ? d->from : broker_at);
}

static bool at_last(void *arg)
{
	(void)arg;
	return false;
}

int thmqi_client_position(struct thmq_consumer *c, uint32_t partition, uint64_t *ret_offset)
{
	struct thmq_session *s = c->session;
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	struct thmqi_request q = {.op = THMQI_OP_POSITION, .stream = c->stream};
	const struct thmqi_reply *reply;
	struct reading *r;
	int rc = 0;

	if (!thmqi_reading_is_there(c, partition))
		return not_there(c, "position", partition);
	if (c->shared)
		return thmqi_fail(-EOPNOTSUPP, "position: the members of group %s share %s; none of them has one", c->group, c->topic);
	r = thmqi_reading(c, partition);
	thmqi_session_process(s);
	for (;;) {
		if (!not_away(r))
			rc = thmqi_session_block(s, not_away, r, deadline);
		if (!rc && r->state != READING_ON)
			return thmqi_fail(-EPERM, "position: partition %u of %s is not this consumer's", partition, c->topic);
		q.partition = r->partition;
		if (!rc)
			rc = thmqi_session_request(s, r->link, &q, deadline, &reply);
		if (rc != -ENOENT || thmqi_session_deadline(s, 0) >= deadline)
			break;
		/* the connection is another by now, and it is being attached there */
		rc = thmqi_session_block(s, at_last, NULL, thmqi_session_deadline(s, 1000000));
		if (rc == -ETIMEDOUT)
			rc = 0;
	}
	if (rc)
		return thmqi_fail(rc, "position in partition %u of %s: %s", partition, c->topic, thmqi_session_why(rc));
	*ret_offset = position_of(c, r, reply->value[0]);
	return 0;
}

/* -------------------------------------------------------------- open, close */

static void consumer_free(struct thmq_consumer *c)
{
	uint32_t i;

	thmqi_runs_fini(c);
	for (i = c->reading_first; i < c->reading_count; i++)
		thmqi_shared_fini(thmqi_reading(c, i));
	thmqi_dead_close(c);
	thmqi_select_close(c);
	thmqi_ranks_close(c);
	free(c->backoff_ns);
	thmqi_readings_free(c);
	free(c->tags);
	c->tags = NULL;
	thmqi_handle_bury(c->session->graveyard, &c->handle);
}

static bool is_attached(const struct reading *r)
{
	return r->state != READING_WANTED && r->state != READING_ATTACHING;
}

static bool all_attached(void *arg)
{
	return each_is(arg, is_attached);
}

int thmqi_consumer_attach_all(struct thmq_consumer *c, uint64_t deadline)
{
	struct thmqi_partition_entry *entries;
	struct thmq_session *s = c->session;
	const uint32_t first = c->reading_first, end = c->reading_count; /* those that are added meanwhile are attached by growth.c */
	uint32_t i;
	int rc = thmqi_session_partitions(s, c->topic_id, first, end - first, &entries);

	c->awaited = c->reading_first;
	for (i = first; i < end && !rc; i++) {
		struct reading *r = thmqi_reading(c, i);

		thmqi_reading_place(r, entries[i - first].partition);
		r->shard = entries[i - first].shard;
		r->state = READING_WANTED;
		rc = thmqi_session_link_wait(s, r->shard, deadline, &r->link);
		if (!rc)
			thmqi_reading_attach(r);
	}
	if (rc == 0 || i > first)
		free(entries);
	while (!rc && !all_attached(c)) {
		rc = thmqi_session_block(s, all_attached, c, THMQI_MIN(deadline, thmqi_session_deadline(s, 1000000)));
		if (rc == -ETIMEDOUT && thmqi_session_deadline(s, 0) < deadline)
			rc = 0;
	}
	if (rc == -ETIMEDOUT && s->reads_only)
		rc = -THMQ_ENOQUORUM;
	for (i = c->reading_first; i < c->reading_count && !rc; i++)
		rc = thmqi_reading(c, i)->status;
	return rc;
}

void thmqi_consumer_join(const struct thmq_consumer *c, struct thmqi_request *ret)
{
	memset(ret, 0, THMQI_REQUEST_LEAST);
	ret->op = THMQI_OP_JOIN;
	ret->stream = c->stream;
	ret->member = c->member;
	ret->topic_flags = c->shared ? THMQI_JOIN_SHARED : 0;
	/* that one, and no other that has its name by now; a volatile one ends with its broker's life */
	ret->group_id = c->group_life == c->session->incarnation || !(c->group_id & THMQI_GROUP_VOLATILE) ? c->group_id : 0;
	ret->session_timeout_ns = c->opts.session_timeout_ns;
	ret->index = c->opts.assignor;
	if (c->opts.assignor == THMQ_ASSIGN_NEAR) {
		ret->rates[0] = thmqi_machine_id();
		ret->rates[1] = c->opts.near_cpu;
	}
	ret->key_len = (uint32_t)strlen(c->instance);
	memcpy(ret->key, c->instance, ret->key_len);
	memcpy(ret->name, c->topic, sizeof(ret->name));
	memcpy(ret->group, c->group, sizeof(ret->group));
}

static int join(struct thmq_consumer *c)
{
	const struct thmqi_reply *reply;
	struct thmqi_request r;
	int rc;

	thmqi_consumer_join(c, &r);
	rc = thmqi_session_meta(c->session, &r, &reply);
	if (!rc)
		thmqi_consumer_joined(c, reply);
	return rc;
}

void thmqi_consumer_joined(struct thmq_consumer *c, const struct thmqi_reply *reply)
{
	c->group_id = (uint32_t)reply->value[0];
	c->group_life = c->session->incarnation;
}

static int free_stream(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++)
		if (!s->consumers[i] && !(s->unsafe[i] & 2))
			return (int)i;
	return thmqi_fail(-EMFILE, "a session has at most %u consumers at a time", THMQI_STREAMS);
}

static int consumer_end(struct thmq_consumer *c, uint64_t deadline, int rc);

/* One block: the places, then the strings. */
static int copy_tags(struct thmq_consumer *c)
{
	const char *const *tags = c->opts.tags;
	uint32_t i, n = c->opts.tag_count;
	size_t bytes = n * sizeof(*c->tags);
	char *at;

	c->opts.tags = NULL;
	for (i = 0; i < n; i++)
		bytes += strlen(tags[i]);
	if (!n)
		return 0;
	c->tags = malloc(bytes);
	if (!c->tags)
		return -ENOMEM;
	at = (char *)(c->tags + n);
	for (i = 0; i < n; i++) {
		uint32_t len = (uint32_t)strlen(tags[i]), hash = thmqi_tag_hash(tags[i], len);

		memcpy(at, tags[i], len);
		c->tags[i] = (struct wanted_tag){.bytes = at, .len = len};
		c->tag_filter |= 1ull << (hash % 64);
		at += len;
	}
	return 0;
}

static int copy_backoff(struct thmq_consumer *c)
{
	size_t bytes = c->opts.backoff_count * sizeof(*c->backoff_ns);

	if (!bytes)
		return 0;
	c->backoff_ns = malloc(bytes);
	if (!c->backoff_ns)
		return -ENOMEM;
	memcpy(c->backoff_ns, c->opts.backoff_ns, bytes);
	c->opts.backoff_ns = NULL;
	return 0;
}

static void set_defaults(struct thmq_consumer_opts *o)
{
	if (!o->prefetch_count)
		o->prefetch_count = o->flags & THMQ_CONSUMER_SHARED ? 1024 : 65536;
	if (o->assignor == THMQ_ASSIGN_NEAR && !o->near_cpu)
		o->near_cpu = (uint32_t)(sched_getcpu() + 1);
	o->invisible_ns = o->invisible_ns ? o->invisible_ns : 30000000000ull;
	o->prefetch_bytes = o->prefetch_bytes ? o->prefetch_bytes : 4u << 20;
	o->session_timeout_ns = o->session_timeout_ns ? o->session_timeout_ns : 10000000000ull;
}

/* In words, where the number says little. */
static const char *why_not(const struct thmq_consumer *c, int rc)
{
	if (rc == -EOPNOTSUPP && c->shared)
		return "it is volatile, and has no shared groups";
	if (rc == -EBUSY && c->group[0])
		return c->shared ? "its group has members without THMQ_CONSUMER_SHARED: all say it, or none"
				 : "its group has members with THMQ_CONSUMER_SHARED: all say it, or none";
	return thmqi_session_why(rc);
}

/* Who says that it begins there whatever its group has done means now, by itself. */
void thmqi_consumer_began(struct thmq_consumer *c, uint32_t partitions)
{
	if (partitions && !(c->opts.flags & THMQ_CONSUMER_START_ALWAYS))
		c->began_count = THMQI_MIN(c->began_count, partitions);
}

int thmqi_client_consumer_open(struct thmq_session *s, const char *topic, const char *group,
			       const struct thmq_consumer_opts *opts, struct thmq_consumer **ret_consumer)
{
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	struct thmqi_topic_entry entry;
	struct thmq_consumer *c;
	int rc, stream = free_stream(s);
	const uint32_t growths = s->growths;

	if (stream < 0)
		return stream;
	rc = thmqi_session_topic(s, topic, THMQI_TO_CONSUME, &entry);
	if (rc)
		return thmqi_fail(rc, "open a consumer of %s: %s", topic, thmqi_session_why(rc));
	if ((opts->flags & THMQ_CONSUMER_PARTITION) && opts->partition >= entry.partition_count)
		return thmqi_fail(-THMQ_ENOPARTITION, "open a consumer of %s: it has %u partitions, not %u", topic, entry.partition_count,
				  opts->partition);
	c = calloc(1, sizeof(*c));
	if (!c)
		return thmqi_fail(-ENOMEM, "no memory for a consumer");
	c->handle.kind = THMQI_HANDLE_CONSUMER;
	c->session = s;
	c->opts = *opts;
	set_defaults(&c->opts);
	c->stream = (uint32_t)stream;
	c->topic_id = entry.topic_id;
	c->priorities = entry.priorities;
	c->share_count = THMQI_MAX(c->opts.prefetch_count / THMQI_MAX(c->priorities, 1u), 1u);
	c->share_bytes = THMQI_MAX(c->opts.prefetch_bytes / THMQI_MAX(c->priorities, 1u), 1u);
	c->shared = (opts->flags & THMQ_CONSUMER_SHARED) != 0;
	c->grouped = group != NULL && !c->shared;
	c->hidden = (opts->flags & THMQI_CONSUMER_HIDDEN) != 0;
	c->ttl_ns = entry.ttl_ns;
	c->odd = c->ttl_ns || opts->tag_count || opts->filter;
	thmqi_list_init(&c->due);
	snprintf(c->topic, sizeof(c->topic), "%s", topic);
	snprintf(c->group, sizeof(c->group), "%s", group ? group : "");
	snprintf(c->instance, sizeof(c->instance), "%s", opts->instance ? opts->instance : "");
	c->opts.instance = NULL;
	if (c->instance[0]) /* the same in each of its lives */
		c->member = thmqi_hash64(c->instance, (uint32_t)strlen(c->instance)) | 1;
	else if (c->grouped && s->opts.reconnect_ns) /* a member that it would be taken for is as likely as a bad checksum that fits */
		while (!c->member)
			c->member = thmqi_prng_next(&s->prng);
	rc = opts->flags & THMQ_CONSUMER_PARTITION ? thmqi_reading_make_lone(c, opts->partition, entry.partition_count) :
						     thmqi_readings_make(c, entry.partition_count);
	c->began_count = entry.partition_count;
	if (!rc)
		rc = thmqi_runs_init(c);
	if (!rc && c->priorities)
		rc = thmqi_ranks_open(c, c->priorities);
	rc = rc ? rc : copy_tags(c);
	rc = rc ? rc : copy_backoff(c);
	rc = rc || !opts->filter ? rc : thmqi_select_open(c, opts->filter);
	c->opts.filter = NULL;
	s->consumers[stream] = c;
	s->consumer_end = THMQI_MAX(s->consumer_end, (uint32_t)stream + 1);
	if (!rc)
		rc = c->shared ? thmqi_shared_join(c, group, deadline) : group ? join(c) : thmqi_consumer_attach_all(c, deadline);
	if (rc) {
		const char *why = why_not(c, rc);

		consumer_end(c, 0, rc);
		return thmqi_fail(rc, "open a consumer of %s: %s", topic, why);
	}
	c->opened = true;
	if (s->growths != growths)
		thmqi_growth_look(s);
	*ret_consumer = c;
	return 0;
}

static bool is_detached(const struct reading *r)
{
	return r->state == READING_NONE;
}

static bool all_detached(void *arg)
{
	return each_is(arg, is_detached);
}

static bool all_back(void *arg)
{
	return thmqi_runs_give_back(arg);
}

/* Waits for @done, a millisecond at least. @rc: an error so far, which stays. */
static int end_wait(struct thmq_consumer *c, bool (*done)(void *arg), uint64_t deadline, int rc)
{
	struct thmq_session *s = c->session;
	int late = 0;

	if (!done(c) && !s->dead)
		late = thmqi_session_block(s, done, c, THMQI_MAX(deadline, thmqi_session_deadline(s, 1000000)));
	return rc ? rc : late;
}

/* Whatever happens, the consumer is gone afterwards. @rc: an error so far. */
static int consumer_end(struct thmq_consumer *c, uint64_t deadline, int rc)
{
	struct thmqi_request request = {
		.op = THMQI_OP_LEAVE, .stream = c->stream, .topic_flags = c->instance[0] ? THMQI_LEAVE_AWAY : 0};
	struct thmq_session *s = c->session;
	uint32_t i;
	int left;

	request.member = c->instance[0] ? 0 : c->member; /* one with a name may come back */
	c->closing = true;
	c->rejoin = false;
	c->awaited = c->reading_first;
	while (c->first) /* now: each of the many partitions would look through all runs for its own */
		thmqi_runs_drop(c, c->first->reading);
	for (i = c->reading_first; i < c->reading_count; i++)
		thmqi_reading_close(thmqi_reading(c, i));
	rc = end_wait(c, all_detached, deadline, rc);
	if (c->grouped && !s->dead) {
		left = thmqi_session_request(s, s->links[0], &request,
					     THMQI_MAX(deadline, thmqi_session_deadline(s, 1000000)), NULL);
		rc = rc ? rc : left;
		if (left && !s->dead) {
			s->leavers[c->stream] = request.member;
			thmqi_consumer_leave(s, c->stream);
			s->unsafe[c->stream] |= 2;
		}
	}
	rc = end_wait(c, all_back, deadline, rc);
	if (!all_detached(c) || !all_back(c))
		s->unsafe[c->stream] |= 2;
	s->consumers[c->stream] = NULL;
	/* a partition that has gone to another member was told by its event; of acks that were lost with a connection nothing was */
	if (rc == -THMQ_EFENCED)
		rc = c->shared ? -ETIMEDOUT : 0;
	consumer_free(c);
	return rc;
}

int thmqi_client_consumer_close(struct thmq_consumer *c, uint64_t timeout_ns)
{
	struct thmq_session *s = c->session;
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns);
	int rc = 0;

	if (!s->dead && thmqi_session_stuck(s))
		return -EDEADLK;
	if (c->grouped || c->shared)
		rc = flush(c, timeout_ns, true);
	if (rc == -EDEADLK && !s->dead)
		return rc;
	return consumer_end(c, deadline, rc);
}
