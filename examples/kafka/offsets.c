/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offsets.c - what groups of Kafka's clients have committed: OffsetCommit and OffsetFetch. They are messages of a topic of their own,
 * OFFSETS_TOPIC, a compacted one, the newest of each key counts, and all of them are in memory as well. Knows nothing of who is in a group.
 *
 *   key      group/topic/partition
 *   payload  offset, leader's epoch, milliseconds since 1970, the topic's number in the library, and the client's text, with a space
 *            between each; or nothing: forgotten
 *
 * Those of a transaction get there once it is committed, with what transactions.c keeps there.
 *
 * The library keeps offsets of its own groups with the messages; those only rise, while a client of Kafka may go back.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kafka.h"

#define METADATA_MAX 4096u
#define GROUP_MAX 249u
#define KEY_MAX (GROUP_MAX + THMQ_TOPIC_NAME_MAX + 16)

/* One that has committed something. */
struct offset_group {
	struct node node;
	struct offset_item *items;
	uint32_t count, len;
	char name[];
};

struct offset_item {
	struct node node;
	struct offset_group *group;
	struct offset_item *next, **at; /* of the group */
	int64_t offset;
	int32_t epoch;
	uint32_t topic_id;
	uint16_t topic_len, key_len, metadata_len;
	char key[]; /* a NUL, and its metadata, lie behind it */
};

/* -------------------------------------------------------------- the table */

static struct offset_item *item_find(const struct server *s, struct text key)
{
	const uint32_t hash = hash_bytes(key.data, key.len);
	struct node *n;

	for (n = table_chain(&s->offsets, hash); n; n = n->next) {
		struct offset_item *i = (struct offset_item *)n;

		if (n->hash == hash && text_same(key, (struct text){i->key, i->key_len}))
			return i;
	}
	return NULL;
}

static struct offset_group *owner_find(const struct server *s, struct text name)
{
	const uint32_t hash = hash_bytes(name.data, name.len);
	struct node *n;

	for (n = table_chain(&s->offset_groups, hash); n; n = n->next) {
		struct offset_group *g = (struct offset_group *)n;

		if (n->hash == hash && text_same(name, (struct text){g->name, g->len}))
			return g;
	}
	return NULL;
}

static struct offset_group *owner_make(struct server *s, struct text name)
{
	struct offset_group *g = owner_find(s, name);

	if (g)
		return g;
	g = table_ready(&s->offset_groups) ? malloc(sizeof(*g) + name.len) : NULL;
	if (!g)
		return NULL;
	*g = (struct offset_group){.len = name.len};
	memcpy(g->name, name.data, name.len);
	table_add(&s->offset_groups, &g->node, hash_bytes(name.data, name.len));
	return g;
}

/* The last one takes its group with it. */
static void item_free(struct server *s, struct offset_item *i)
{
	struct offset_group *g = i->group;

	*i->at = i->next;
	if (i->next)
		i->next->at = i->at;
	table_remove(&s->offsets, &i->node);
	free(i);
	if (--g->count > 0)
		return;
	table_remove(&s->offset_groups, &g->node);
	free(g);
}

/* "group/topic/partition"; the group may have any byte, the others have no slash. false: it is none */
static bool key_split(struct text key, uint32_t *ret_group, uint32_t *ret_topic)
{
	uint32_t slash = key.len, before;

	while (slash > 0 && key.data[--slash] != '/')
		;
	before = slash;
	while (before > 0 && key.data[--before] != '/')
		;
	if (!before || slash <= before + 1)
		return false;
	*ret_group = before;
	*ret_topic = slash - before - 1;
	return true;
}

static uint32_t key_make(char *key, struct text group, struct text topic, int32_t partition)
{
	return (uint32_t)snprintf(key, KEY_MAX, "%.*s/%.*s/%" PRId32, (int)group.len, group.data,
				  (int)topic.len, topic.data, partition);
}

static struct text item_group(const struct offset_item *i)
{
	return (struct text){i->key, i->group->len};
}

static struct text item_topic(const struct offset_item *i)
{
	return (struct text){i->key + i->group->len + 1, i->topic_len};
}

static int32_t item_partition(const struct offset_item *i)
{
	return (int32_t)strtol(i->key + i->group->len + i->topic_len + 2, NULL,
			       10); /* a NUL lies behind the key */
}

static void item_set(struct server *s, struct text key, int64_t offset, int32_t epoch,
		     uint32_t topic_id, struct text metadata)
{
	struct offset_item *old = item_find(s, key), *i = NULL;
	uint32_t group_len, topic_len;
	struct offset_group *g;

	if (!key_split(key, &group_len, &topic_len) || key.len > KEY_MAX || metadata.len > METADATA_MAX)
		return;
	if (offset >= 0 && table_ready(&s->offsets))
		i = malloc(sizeof(*i) + key.len + 1 + metadata.len);
	g = i ? owner_make(s, (struct text){key.data, group_len}) : NULL;
	if (i && g) {
		*i = (struct offset_item){.group = g,
					  .next = g->items,
					  .at = &g->items,
					  .offset = offset,
					  .epoch = epoch,
					  .topic_id = topic_id,
					  .topic_len = (uint16_t)topic_len,
					  .key_len = (uint16_t)key.len,
					  .metadata_len = (uint16_t)metadata.len};
		memcpy(i->key, key.data, key.len);
		i->key[key.len] = '\0';
		if (metadata.len)
			memcpy(i->key + key.len + 1, metadata.data, metadata.len);
		if (g->items)
			g->items->at = &i->next;
		g->items = i;
		g->count++;
		table_add(&s->offsets, &i->node, hash_bytes(key.data, key.len));
	} else {
		free(i);
	}
	if (old) /* behind the new one: the key may be the old one's own */
		item_free(s, old);
}

void offsets_set(struct server *s, struct text key, struct text value)
{
	struct text metadata = {NULL, 0};
	char head[96];
	uint32_t len = value.len < sizeof(head) - 1 ? value.len : sizeof(head) - 1, topic_id;
	int64_t offset, time_ms;
	int32_t epoch;
	int taken = 0;

	if (!value.len) {
		item_set(s, key, -1, -1, 0, metadata);
		return;
	}
	memcpy(head, value.data, len);
	head[len] = '\0';
	if (sscanf(head, "%" SCNd64 " %" SCNd32 " %" SCNd64 " %" SCNu32 "%n", &offset, &epoch,
		   &time_ms, &topic_id, &taken) != 4)
		return; /* not ours */
	if ((uint32_t)taken < value.len)
		metadata = (struct text){value.data + taken + 1, value.len - (uint32_t)taken - 1};
	item_set(s, key, offset, epoch, topic_id, metadata);
}

static void item_load(void *ctx, const struct thmq_message *m)
{
	struct text key = {m->key, m->key_len};

	if (key.len && key.data[key.len - 1] == '/') /* where a group's has its partition */
		transactions_loaded(ctx, m);
	else if (key.len)
		offsets_set(ctx, key, (struct text){m->data, m->len});
}

int offsets_partition(struct server *s, struct partition **ret)
{
	return store_partition(s, text_of(OFFSETS_TOPIC), 0, ret);
}

int offsets_load(struct server *s)
{
	struct partition *p;
	int rc = thmq_topic_create(
		s->control, OFFSETS_TOPIC,
		THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT | THMQ_TOPIC_COMPACT));

	if (rc)
		return rc;
	if (offsets_partition(s, &p))
		return -1;
	rc = load_all(p, item_load, s);
	return rc ? rc : transactions_load(s);
}

void offsets_unload(struct server *s)
{
	struct node *n;

	while ((n = table_next(&s->offset_groups, NULL))) {
		struct offset_group *g = (struct offset_group *)n;

		while (g->count > 1)
			item_free(s, g->items);
		item_free(s, g->items);
	}
	table_free(&s->offsets);
	table_free(&s->offset_groups);
}

bool offsets_known(struct server *s, struct text group)
{
	return owner_find(s, group) != NULL;
}

void offsets_each_group(struct server *s, void (*fn)(void *ctx, struct text group), void *ctx)
{
	struct node *n;

	for (n = table_next(&s->offset_groups, NULL); n; n = table_next(&s->offset_groups, n)) {
		const struct offset_group *g = (struct offset_group *)n;

		fn(ctx, (struct text){g->name, g->len});
	}
}

/* ------------------------------------------------------------------- commit */

int offsets_send(struct sending *g, struct text key, struct text value, const char *tag)
{
	struct thmq_message_opts opts = {.size = sizeof(opts),
					 .flags = THMQ_MESSAGE_PARTITION,
					 .key = key.data,
					 .key_len = key.len,
					 .tag = tag,
					 .durability = THMQ_DURABILITY_QUORUM};

	return sending_add(g, value, &opts);
}

#define VALUE_MAX (96 + METADATA_MAX)

/* One of a request, as the topic keeps it. */
static struct text item_value(char *value, int64_t offset, int32_t epoch, uint32_t topic_id, struct text metadata)
{
	struct timespec now;
	int len;

	clock_gettime(CLOCK_REALTIME, &now);
	len = snprintf(value, 96, "%" PRId64 " %" PRId32 " %" PRId64 " %" PRIu32 " ", offset, epoch,
		       (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, topic_id);
	if (metadata.len)
		memcpy(value + len, metadata.data, metadata.len);
	return (struct text){value, (uint32_t)len + metadata.len};
}

/* OffsetCommit, or TxnOffsetCommit of a transaction: the former takes effect once it is settled, the latter with that. */
struct commit {
	struct settled_call call; /* first */
	struct request *request;
	struct in topics;
	int32_t topic_count;
	struct text group;
	struct transaction *transaction;
	bool in_transaction, has_epoch, throttle; /* which fields its version has */
	int error; /* of all */
};

struct commit_item {
	struct text topic, metadata;
	int32_t partition, epoch;
	int64_t offset;
};

static void commit_read_item(const struct commit *c, struct in *in, struct commit_item *i)
{
	i->partition = in_i32(in);
	i->offset = in_i64(in);
	i->epoch = c->has_epoch ? in_i32(in) : -1;
	i->metadata = in_text(in);
	in_tags(in);
}

static int commit_item_check(struct commit *c, const struct commit_item *i, struct partition **ret)
{
	if (c->error)
		return c->error;
	if (i->metadata.len > METADATA_MAX)
		return K_OFFSET_METADATA_TOO_LARGE;
	if (i->offset < 0 && c->in_transaction)
		return K_INVALID_REQUEST;
	return store_partition(c->request->server, i->topic, i->partition, ret);
}

/* Sends it, or, with @g NULL, notes that it was sent. Return: an error of the protocol */
static int commit_do_item(struct commit *c, const struct commit_item *i, struct sending *g)
{
	char room[KEY_MAX + 1], value[VALUE_MAX];
	struct server *s = c->request->server;
	struct partition *p;
	struct text key;
	int error = commit_item_check(c, i, &p);

	if (error || (!g && c->in_transaction))
		return error;
	key = (struct text){room, key_make(room, c->group, i->topic, i->partition)};
	if (c->in_transaction)
		return transaction_offset(c->transaction, g, key, item_value(value, i->offset, i->epoch, p->topic->id, i->metadata));
	if (g)
		/* "at the beginning", "at the end" (kafkajs' resetOffsets) are no offset of a group's: it has none then, and its members do as they were told to without one */
		offsets_send(g, key, i->offset < 0 ? (struct text){NULL, 0} : item_value(value, i->offset, i->epoch, p->topic->id, i->metadata), NULL);
	else
		item_set(s, key, i->offset, i->epoch, p->topic->id, i->metadata);
	return 0;
}

/* Walks all of the request: sends each, or, with @g NULL, answers and notes what has been sent. */
static void commit_walk(struct commit *c, struct sending *g)
{
	struct request *r = c->request;
	struct in in = c->topics;
	struct out *out = &r->out;
	struct commit_item item;
	int32_t i, k, parts;

	for (i = 0; i < c->topic_count; i++) {
		item.topic = in_text(&in);
		parts = in_array(&in, 14);
		if (!g) {
			out_text(out, item.topic);
			out_array(out, parts);
		}
		for (k = 0; k < parts; k++) {
			int error;

			commit_read_item(c, &in, &item);
			error = commit_do_item(c, &item, g);
			if (error && g && c->in_transaction) /* all of it, or none */
				c->error = error;
			if (!g) {
				out_i32(out, item.partition);
				out_i16(out, (int16_t)error);
				out_tags(out);
			}
		}
		in_tags(&in);
		if (!g)
			out_tags(out);
	}
}

static void commit_answer(struct settled_call *call, int error, int64_t base_offset)
{
	struct commit *c = (struct commit *)call;
	struct request *r = c->request;

	(void)base_offset;
	if (error)
		c->error =
			error == -THMQ_ENOTOPIC ? K_COORDINATOR_NOT_AVAILABLE : store_error(error);
	if (c->throttle)
		out_i32(&r->out, 0);
	out_array(&r->out, c->topic_count);
	commit_walk(c, NULL);
	out_tags(&r->out);
	free(c);
	request_done(r);
}

static bool commit_read_topics(struct request *r, struct commit *c)
{
	struct in *in = &r->in;
	struct commit_item item;
	int32_t i, parts;

	c->topic_count = in_array(in, 6);
	c->topics = *in;
	for (i = 0; i < c->topic_count && !in->bad; i++) {
		in->bad |= !in_text(in).data;
		for (parts = in_array(in, 14); parts > 0 && !in->bad; parts--)
			commit_read_item(c, in, &item);
		in_tags(in);
	}
	in_tags(in);
	if (c->topic_count < 0)
		in->bad = true;
	return !in->bad;
}

static bool commit_read(struct request *r, struct commit *c, int32_t *ret_generation,
			struct text *ret_member, struct text *ret_instance)
{
	struct in *in = &r->in;

	c->has_epoch = r->version >= 6;
	c->throttle = r->version >= 3;
	c->group = in_text(in);
	*ret_generation = in_i32(in);
	*ret_member = in_text(in);
	if (r->version >= 7)
		*ret_instance = in_text(in);
	if (r->version <= 4)
		in_i64(in); /* for how long it is to be kept: for ever */
	return commit_read_topics(r, c);
}

static void stay(struct request *r)
{
	(void)r; /* what it has sent goes on */
}

void offset_commit_run(struct request *r)
{
	struct text member, instance = {NULL, 0};
	struct commit *c = calloc(1, sizeof(*c));
	struct partition *p;
	struct sending *g;
	int32_t generation;
	int rc;

	if (!c || !commit_read(r, c, &generation, &member, &instance)) {
		free(c);
		request_fail(r);
		request_done(r);
		return;
	}
	c->request = r;
	c->call.settled = commit_answer;
	c->error = group_may_commit(r->server, c->group, generation, member, instance);
	if (c->error || offsets_partition(r->server, &p)) {
		c->error = c->error ? c->error : K_COORDINATOR_NOT_AVAILABLE;
		commit_answer(&c->call, 0, -1);
		return;
	}
	r->drop = stay;
	rc = sending_begin(p, NULL, &g);
	if (rc) {
		commit_answer(&c->call, rc, -1);
		return;
	}
	commit_walk(c, g);
	sending_end(g, &c->call);
}

/* Whoever has lost the transaction, with the broker, is no member of the group any more either. */
static int in_transaction(struct request *r, struct commit *c, struct text id, int64_t producer_id, int16_t epoch)
{
	int error = transaction_open(r->server, id, producer_id, epoch, &c->transaction);

	return error == K_UNKNOWN_PRODUCER_ID ? K_UNKNOWN_MEMBER_ID : error;
}

void txn_offset_commit_run(struct request *r)
{
	struct commit c = {.request = r, .in_transaction = true, .has_epoch = r->version >= 2, .throttle = true};
	struct text id = in_text(&r->in), member = text_of(""), instance = {NULL, 0};
	int32_t generation = -1;
	struct sending *g;
	int64_t producer;
	int16_t epoch;

	c.group = in_text(&r->in);
	producer = in_i64(&r->in);
	epoch = in_i16(&r->in);
	if (r->version >= 3) {
		generation = in_i32(&r->in);
		member = in_text(&r->in);
		instance = in_text(&r->in);
	}
	if (!commit_read_topics(r, &c)) {
		request_fail(r);
		request_done(r);
		return;
	}
	c.error = in_transaction(r, &c, id, producer, epoch);
	if (!c.error && (r->version >= 3 || c.group.len > GROUP_MAX)) /* an older client does not say who he is */
		c.error = group_may_commit(r->server, c.group, generation, member, instance);
	if (!c.error)
		c.error = transaction_log_begin(c.transaction, &g);
	if (!c.error) {
		commit_walk(&c, g);
		sending_end(g, NULL);
	}
	out_i32(&r->out, 0);
	out_array(&r->out, c.topic_count);
	commit_walk(&c, NULL);
	out_tags(&r->out);
	request_done(r);
}

/* -------------------------------------------------------------------- fetch */

static void out_offset(struct request *r, const struct offset_item *i, int32_t partition, bool unstable)
{
	struct out *out = &r->out;

	out_i32(out, partition);
	i = unstable ? NULL : i;
	out_i64(out, i ? i->offset : -1);
	if (r->version >= 5)
		out_i32(out, i ? i->epoch : -1);
	out_text(out, i ? (struct text){i->key + i->key_len + 1, i->metadata_len} : text_of(""));
	out_i16(out, unstable ? K_UNSTABLE_OFFSET_COMMIT : cluster_serves(r->server) ? 0 : K_NOT_COORDINATOR);
	out_tags(out);
}

/* NULL too where the topic of that time is not there any more */
static const struct offset_item *item_now(struct server *s, struct text group, struct text topic,
					  int32_t partition)
{
	char key[KEY_MAX + 1];
	struct offset_item *i;
	struct topic *t;

	if (!group.data || group.len > GROUP_MAX || !topic.data || topic.len > THMQ_TOPIC_NAME_MAX)
		return NULL;
	i = item_find(s, (struct text){key, key_make(key, group, topic, partition)});
	return i && !store_topic(s, topic, &t) && t->id == i->topic_id ? i : NULL;
}

/* Does a transaction that is open change it? */
static bool is_unstable(struct server *s, struct text group, struct text topic, int32_t partition)
{
	char key[KEY_MAX + 1];

	if (!s->transactions_pending || group.len > GROUP_MAX || topic.len > THMQ_TOPIC_NAME_MAX)
		return false;
	return transactions_pend(s, (struct text){key, key_make(key, group, topic, partition)});
}

static void fetch_named(struct request *r, struct text group, int32_t topics, bool stable)
{
	struct in *in = &r->in;
	struct out *out = &r->out;
	int32_t i, k, parts;

	out_array(out, topics);
	for (i = 0; i < topics && !in->bad; i++) {
		struct text topic = in_text(in);

		parts = in_array(in, 4);
		out_text(out, topic);
		out_array(out, parts > 0 ? parts : 0);
		for (k = 0; k < parts && !in->bad; k++) {
			int32_t partition = in_i32(in);

			out_offset(r, item_now(r->server, group, topic, partition), partition,
				   stable && is_unstable(r->server, group, topic, partition));
		}
		in_tags(in);
		out_tags(out);
	}
}

/* All that the group has: one topic for each, which may be named several times. */
static void fetch_all(struct request *r, struct text group, bool stable)
{
	const struct offset_group *g = owner_find(r->server, group);
	const struct offset_item *i;
	struct out *out = &r->out;

	out_array(out, g ? (int32_t)g->count : 0);
	for (i = g ? g->items : NULL; i; i = i->next) {
		out_text(out, item_topic(i));
		out_array(out, 1);
		out_offset(r, i, item_partition(i), stable && is_unstable(r->server, item_group(i), item_topic(i), item_partition(i)));
		out_tags(out);
	}
}

static void fetch_group(struct request *r, struct text group, bool stable)
{
	int32_t topics = in_array(&r->in, 3);

	if (topics >= 0)
		fetch_named(r, group, topics, stable);
	else
		fetch_all(r, group, stable);
}

/* What comes last in the request, and is wanted first: may an offset be told that is just about to change? */
static bool wants_stable(const struct request *r)
{
	struct in in = r->in;
	int32_t i, k, n, groups, topics;

	if (r->version < 7)
		return false;
	groups = r->version >= 8 ? in_array(&in, 3) : 1;
	for (i = 0; i < groups && !in.bad; i++) {
		in_text(&in);
		topics = in_array(&in, 3);
		for (k = 0; k < topics && !in.bad; k++) {
			in_text(&in);
			for (n = in_array(&in, 4); n > 0 && !in.bad; n--)
				in_i32(&in);
			in_tags(&in);
		}
		if (r->version >= 8)
			in_tags(&in);
	}
	return in_bool(&in);
}

void offset_fetch_run(struct request *r)
{
	const int16_t error = cluster_serves(r->server) ? 0 : K_NOT_COORDINATOR;
	const bool stable = wants_stable(r);
	struct in *in = &r->in;
	struct out *out = &r->out;
	int32_t i, count;

	if (r->version >= 3)
		out_i32(out, 0);
	if (r->version < 8) {
		fetch_group(r, in_text(in), stable);
		if (r->version >= 2)
			out_i16(out, error);
		if (r->version >= 7)
			in_bool(in);
	} else {
		count = in_array(in, 3);
		out_array(out, count > 0 ? count : 0);
		for (i = 0; i < count && !in->bad; i++) {
			struct text group = in_text(in);

			out_text(out, group.data ? group : text_of(""));
			fetch_group(r, group, stable);
			in_tags(in);
			out_i16(out, error);
			out_tags(out);
		}
		in_bool(in);
	}
	in_tags(in);
	if (in->bad)
		request_fail(r);
	out_tags(out);
	request_done(r);
}

/* No member may be there: it would not hear of it. */
void offset_delete_run(struct request *r)
{
	struct in *in = &r->in, again;
	struct out *out = &r->out;
	struct text group = in_text(in);
	int32_t i, k, topics = in_array(in, 6), parts;
	char key[KEY_MAX + 1];
	struct sending *g = NULL;
	struct partition *p;
	int error = offsets_known(r->server, group) ? group_may_commit(r->server, group, -1, text_of(""), text_of(NULL)) : K_GROUP_ID_NOT_FOUND;

	if (error && error != K_GROUP_ID_NOT_FOUND && error != K_INVALID_GROUP_ID)
		error = K_NON_EMPTY_GROUP;
	again = *in;
	for (i = 0; i < topics && !in->bad; i++) {
		in_text(in);
		for (parts = in_array(in, 4); parts > 0 && !in->bad; parts--)
			in_i32(in);
	}
	if (in->bad) {
		request_fail(r);
		request_done(r);
		return;
	}
	if (!error && (offsets_partition(r->server, &p) || sending_begin(p, NULL, &g)))
		error = K_COORDINATOR_NOT_AVAILABLE;
	out_i16(out, (int16_t)error);
	out_i32(out, 0);
	out_array(out, error || topics < 0 ? 0 : topics);
	for (i = 0; i < topics && !error; i++) {
		struct text topic = in_text(&again);

		parts = in_array(&again, 4);
		out_text(out, topic);
		out_array(out, parts > 0 ? parts : 0);
		for (k = 0; k < parts; k++) {
			int32_t partition = in_i32(&again);
			struct text at = {key, 0};

			if (topic.len <= THMQ_TOPIC_NAME_MAX)
				at.len = key_make(key, group, topic, partition);
			if (at.len && item_find(r->server, at)) {
				offsets_send(g, at, (struct text){NULL, 0}, NULL);
				item_set(r->server, at, -1, -1, 0, (struct text){NULL, 0});
			}
			out_i32(out, partition);
			out_i16(out, 0);
		}
	}
	if (g)
		sending_end(g, NULL);
	request_done(r);
}

/* A group is deleted: what it had, one after the other. */
void offsets_forget(struct server *s, struct text group)
{
	struct offset_group *owner;
	struct sending *g = NULL;
	struct partition *p;
	char key[KEY_MAX];

	if (!offsets_partition(s, &p) && sending_begin(p, NULL, &g))
		g = NULL;
	while ((owner = owner_find(s, group))) { /* the last one takes it along */
		struct text at = {key, owner->items->key_len};

		memcpy(key, owner->items->key, at.len);
		item_free(s, owner->items); /* first: what is sent may wait, and others settle meanwhile */
		if (g)
			offsets_send(g, at, (struct text){NULL, 0}, NULL);
	}
	if (g)
		sending_end(g, NULL);
}
