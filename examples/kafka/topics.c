/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topics.c - Metadata, CreateTopics, DeleteTopics, CreatePartitions, DescribeConfigs: Kafka's topics are the library's. One node, which
 * leads all; how many copies there are is the library's business.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

#define LIST_SLACK 64u

/* Topics that this broker keeps for itself: clients may read them. */
static bool is_own(const char *name)
{
	return strcmp(name, OFFSETS_TOPIC) == 0 || strcmp(name, TRANSACTIONS_TOPIC) == 0;
}

#define CREATE_NS SECOND /* for topics that are made by asking for them */

/* All topics. Return: how many, *ret_infos of malloc(); negative: an error of the library */
static int list_all(struct server *s, struct thmq_topic_info **ret_infos)
{
	struct thmq_topic_info *infos = NULL, *more;
	uint32_t room = 0;
	int n = 0;

	do {
		room = (uint32_t)n + LIST_SLACK;
		more = realloc(infos, room * sizeof(*infos));
		if (!more) {
			free(infos);
			return -ENOMEM;
		}
		infos = more;
		infos[0].size = sizeof(*infos);
		n = thmq_topic_list(s->control, infos, room);
	} while (n > (int)room);
	if (n < 0)
		free(infos);
	else
		*ret_infos = infos;
	return n;
}

/* ----------------------------------------------------------------- Metadata */

/* Zeros, and the library's number of the topic, which is never given to another; 0: none */
static void out_topic_id(struct out *out, uint32_t id)
{
	out_i64(out, id ? 0x74686d7100000000ll : 0);
	out_i64(out, id);
}

static uint32_t in_topic_id(struct in *in)
{
	in_i64(in);
	return (uint32_t)in_i64(in);
}

static void out_peer(struct out *out, const struct peer *p)
{
	out_i32(out, p->id);
	out_string(out, p->host);
	out_i32(out, p->port);
}

/* The one that serves. */
static void out_node(struct request *r)
{
	static const struct peer nobody = {.id = -1, .port = -1};
	struct server *s = r->server;
	struct conn *c = r->conn;

	if (s->o.cluster) {
		const struct peer *p = cluster_leader(s);

		out_peer(&r->out, p ? p : &nobody);
		return;
	}
	out_i32(&r->out, s->o.node_id);
	if (s->o.advertise) {
		const char *host = s->o.advertise, *colon = strrchr(host, ':'), *end = colon;

		if (*host == '[' && end > host + 1 && end[-1] == ']') { /* an address of IPv6 */
			host++;
			end--;
		}
		out_text(&r->out, (struct text){host, (uint32_t)(end - host)});
		out_i32(&r->out, atoi(colon + 1));
	} else { /* where this client has found us */
		out_string(&r->out, c ? c->local_host : "");
		out_i32(&r->out, c ? c->local_port : 0);
	}
}

static int32_t leader_of(const struct server *s)
{
	const struct peer *p = s->o.cluster ? cluster_leader(s) : NULL;

	return p ? p->id : s->o.cluster ? -1 : s->o.node_id;
}

/* Who has copies: all. */
static void out_copies(struct request *r)
{
	const struct options *o = &r->server->o;
	uint32_t i;

	out_array(&r->out, o->cluster ? (int32_t)o->peer_count : 1);
	if (!o->cluster)
		out_i32(&r->out, o->node_id);
	for (i = 0; o->cluster && i < o->peer_count; i++)
		out_i32(&r->out, o->peers[i].id);
}

static void out_topic(struct request *r, const struct thmq_topic_info *t)
{
	struct out *out = &r->out;
	const int32_t node = leader_of(r->server);
	uint32_t i;

	out_i16(out, 0);
	out_string(out, t->name);
	if (r->version >= 10)
		out_topic_id(out, t->topic_id);
	if (r->version >= 1)
		out_bool(out, is_own(t->name));
	out_array(out, (int32_t)t->partition_count);
	for (i = 0; i < t->partition_count; i++) {
		out_i16(out, 0);
		out_i32(out, (int32_t)i);
		out_i32(out, node);
		if (r->version >= 7)
			out_i32(out, -1);
		out_copies(r);
		out_copies(r);
		if (r->version >= 5)
			out_array(out, 0);
		out_tags(out);
	}
	if (r->version >= 8)
		out_i32(out, INT32_MIN);
	out_tags(out);
}

static void out_no_topic(struct request *r, struct text name, uint32_t id, int error)
{
	struct out *out = &r->out;

	out_i16(out, (int16_t)error);
	out_text(out, name.data || r->version >= 12 ? name : text_of(""));
	if (r->version >= 10)
		out_topic_id(out, id);
	if (r->version >= 1)
		out_bool(out, false);
	out_array(out, 0);
	if (r->version >= 8)
		out_i32(out, INT32_MIN);
	out_tags(out);
}

struct wish {
	struct text name;
	int32_t partitions;
	int16_t copies;
	struct settings is;
	int error;
	const char *why;
};

static int create(struct server *s, const struct wish *w)
{
	char copy[THMQ_TOPIC_NAME_MAX + 1];
	int rc;

	if (!text_copy(w->name, copy, sizeof(copy)) || is_own(copy))
		return K_INVALID_TOPIC;
	rc = thmq_topic_create(s->control, copy,
			       THMQ_TOPIC_OPTS(.flags = w->is.compact ? THMQ_TOPIC_COMPACT : 0,
					       .partition_count = (uint32_t)w->partitions,
					       .retention_ns = w->is.retention_ns,
					       .retention_bytes = w->is.retention_bytes,
					       .tombstone_ns = w->is.compact ? w->is.tombstone_ns : 0));
	return rc == -EINVAL || rc == -ENAMETOOLONG ? K_INVALID_TOPIC : store_error(rc);
}

/*
 * Of several brokers none is known to lead, or it does not answer. A client that heard of no partitions would give up what it has for them:
 * it hears nothing, and asks another broker, or again.
 */
static void not_now(struct request *r)
{
	if (!r->server->o.cluster)
		return;
	r->silent = true;
	if (r->conn)
		r->conn->closing = true;
}

/* All topics by their numbers, listed once for a request. */
struct listed {
	struct thmq_topic_info *all;
	int count;
	bool done;
};

static int by_id(const void *a, const void *b)
{
	const struct thmq_topic_info *x = a, *y = b;

	return x->topic_id < y->topic_id ? -1 : x->topic_id > y->topic_id;
}

static void metadata_by_id(struct request *r, struct listed *l, uint32_t id)
{
	const struct thmq_topic_info key = {.topic_id = id}, *t;

	if (!l->done) {
		l->done = true;
		l->count = list_all(r->server, &l->all);
		if (l->count > 0)
			qsort(l->all, (size_t)l->count, sizeof(key), by_id);
	}
	if (l->count < 0)
		not_now(r);
	t = l->count > 0 ? bsearch(&key, l->all, (size_t)l->count, sizeof(key), by_id) : NULL;
	if (t)
		out_topic(r, t);
	else
		out_no_topic(r, (struct text){NULL, 0}, id, K_UNKNOWN_TOPIC_ID);
}

/* One that the client has named. */
static void metadata_one(struct request *r, struct text name, bool may_create)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	char copy[THMQ_TOPIC_NAME_MAX + 1];
	int error;

	if (!text_copy(name, copy, sizeof(copy)) || !*copy) {
		out_no_topic(r, name, 0, K_INVALID_TOPIC);
		return;
	}
	error = thmq_topic_describe(r->server->control, copy, &info);
	if (error == -THMQ_ENOTOPIC && may_create && request_is_late(r, CREATE_NS)) {
		error = K_LEADER_NOT_AVAILABLE; /* it is asked for again */
	} else if (error == -THMQ_ENOTOPIC && may_create) {
		error = create(r->server,
			       &(struct wish){.name = name,
					      .partitions = r->server->o.default_partitions});
		if (!error || error == K_TOPIC_ALREADY_EXISTS)
			error = store_error(thmq_topic_describe(r->server->control, copy, &info));
	} else {
		if (error && error != -THMQ_ENOTOPIC && error != -EINVAL)
			not_now(r);
		error = error == -EINVAL ? K_INVALID_TOPIC : store_error(error);
	}
	if (error) {
		out_no_topic(r, name, 0, error);
		return;
	}
	if (cluster_serves(r->server))
		store_known(r->server, &info);
	out_topic(r, &info);
}

static void metadata_all(struct request *r)
{
	struct thmq_topic_info *infos;
	int i, n = list_all(r->server, &infos);

	if (n < 0)
		not_now(r);
	out_array(&r->out, n > 0 ? n : 0);
	for (i = 0; i < n; i++)
		out_topic(r, &infos[i]);
	if (n >= 0)
		free(infos);
}

void metadata_run(struct request *r)
{
	struct in *in = &r->in, names;
	struct out *out = &r->out;
	struct listed listed = {.all = NULL};
	bool may_create = true;
	int32_t i, count = in_array(in, r->version >= 10 ? 17 : 2);

	names = *in;
	for (i = 0; i < count && !in->bad; i++) {
		if (r->version >= 10)
			in_topic_id(in);
		in_text(in);
		in_tags(in);
	}
	if (r->version >= 4)
		may_create = in_bool(in);
	if (r->version >= 8 && r->version <= 10)
		in_bool(in);
	if (r->version >= 8)
		in_bool(in);
	in_tags(in);
	if (in->bad || (r->server->o.cluster && (!r->server->control || !cluster_leader(r->server)))) {
		if (in->bad)
			request_fail(r);
		not_now(r);
		request_done(r);
		return;
	}
	if (r->version >= 3)
		out_i32(out, 0);
	out_array(out, r->server->o.cluster ? (int32_t)r->server->o.peer_count : 1);
	for (i = 0; i < (r->server->o.cluster ? (int32_t)r->server->o.peer_count : 1); i++) {
		if (r->server->o.cluster)
			out_peer(out, &r->server->o.peers[i]);
		else
			out_node(r);
		if (r->version >= 1)
			out_string(out, NULL);
		out_tags(out);
	}
	if (r->version >= 2)
		out_string(out, r->server->o.cluster_id);
	if (r->version >= 1)
		out_i32(out, leader_of(r->server));
	if (count < 0 || (count == 0 && r->version == 0)) {
		metadata_all(r);
	} else {
		out_array(out, count);
		for (i = 0; i < count; i++) {
			uint32_t id = r->version >= 10 ? in_topic_id(&names) : 0;
			struct text name = in_text(&names);

			in_tags(&names);
			if (name.data)
				metadata_one(r, name, may_create && r->server->o.auto_create);
			else
				metadata_by_id(r, &listed, id);
		}
		if (listed.count >= 0)
			free(listed.all);
	}
	if (r->version >= 8 && r->version <= 10)
		out_i32(out, INT32_MIN);
	out_tags(out);
	request_done(r);
}

/* ------------------------------------------------------------- CreateTopics */

static void wish_read(struct request *r, struct wish *w)
{
	struct in *in = &r->in;
	int32_t count, brokers;

	*w = (struct wish){.name = in_text(in)};
	w->partitions = in_i32(in);
	w->copies = in_i16(in);
	count = in_array(in, 8);
	if (count > 0)
		w->partitions = count; /* one each; there is one node that they can be on */
	for (; count > 0 && !in->bad; count--) {
		in_i32(in);
		for (brokers = in_array(in, 4); brokers > 0 && !in->bad; brokers--)
			in_i32(in);
		in_tags(in);
	}
	for (count = in_array(in, 3); count > 0 && !in->bad; count--) {
		struct text name = in_text(in), value = in_text(in);

		in_tags(in);
		if (!w->error)
			w->error = settings_read(&w->is, name, value, &w->why);
	}
	in_tags(in);
	if (w->is.keeps)
		w->is.retention_ns = w->is.retention_bytes = 0;
	if (w->partitions == -1)
		w->partitions = r->server->o.default_partitions;
	if (!w->error && (w->partitions < 1 || w->partitions > (int32_t)THMQ_PARTITION_COUNT_MAX)) {
		w->error = K_INVALID_PARTITIONS;
		w->why = "a topic has 1 to 65536 partitions";
	}
	if (!w->error && w->copies != -1 && w->copies != 1 && (w->copies < 1 || w->copies > (int32_t)r->server->o.peer_count)) {
		w->error = K_INVALID_REPLICATION_FACTOR;
		w->why = "there are not so many nodes; all that there are keep copies";
	}
}

static void wish_answer(struct request *r, const struct wish *w)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	char copy[THMQ_TOPIC_NAME_MAX + 1];
	struct out *out = &r->out;

	if (r->version >= 7 && !w->error && text_copy(w->name, copy, sizeof(copy)))
		thmq_topic_describe(r->server->control, copy, &info);
	out_text(out, w->name);
	if (r->version >= 7)
		out_topic_id(out, info.topic_id);
	out_i16(out, (int16_t)w->error);
	if (r->version >= 1)
		out_string(out, w->why);
	if (r->version >= 5) {
		out_i32(out, w->error ? -1 : w->partitions);
		out_i16(out, w->error ? -1 : 1);
		out_array(out, 0);
	}
	out_tags(out);
}

void create_topics_run(struct request *r)
{
	struct in *in = &r->in, again;
	struct out *out = &r->out;
	int32_t i, count = in_array(in, 14);
	bool only_look = false;
	struct wish w;

	again = *in;
	for (i = 0; i < count && !in->bad; i++)
		wish_read(r, &w);
	in_i32(in);
	if (r->version >= 1)
		only_look = in_bool(in);
	in_tags(in);
	if (in->bad || count < 0) {
		request_fail(r);
		request_done(r);
		return;
	}
	if (r->version >= 2)
		out_i32(out, 0);
	out_array(out, count);
	*in = again;
	for (i = 0; i < count; i++) {
		wish_read(r, &w);
		if (!w.error && !only_look)
			w.error = request_is_late(r, MANAGE_NS) ? K_REQUEST_TIMED_OUT : create(r->server, &w);
		wish_answer(r, &w);
	}
	out_tags(out);
	request_done(r);
}

/* ------------------------------------------------------------- DeleteTopics */

static int delete (struct server *s, struct text name)
{
	char copy[THMQ_TOPIC_NAME_MAX + 1];
	struct topic *t;
	int rc;

	if (!text_copy(name, copy, sizeof(copy)) || is_own(copy))
		return K_INVALID_TOPIC;
	rc = thmq_topic_delete(s->control, copy);
	if (!rc && !store_topic(s, name, &t))
		store_topic_gone(s, t);
	return store_error(rc);
}

void delete_topics_run(struct request *r)
{
	struct in *in = &r->in, again;
	struct out *out = &r->out;
	int32_t i, count = in_array(in, 2);

	again = *in;
	for (i = 0; i < count && !in->bad; i++)
		in_text(in);
	in_i32(in);
	in_tags(in);
	if (in->bad || count < 0) {
		request_fail(r);
		request_done(r);
		return;
	}
	if (r->version >= 1)
		out_i32(out, 0);
	out_array(out, count);
	for (i = 0; i < count; i++) {
		struct text name = in_text(&again);

		out_text(out, name);
		out_i16(out, (int16_t)(request_is_late(r, MANAGE_NS) ? K_REQUEST_TIMED_OUT : delete (r->server, name)));
		if (r->version >= 5)
			out_string(out, NULL);
		out_tags(out);
	}
	out_tags(out);
	request_done(r);
}

/* --------------------------------------------------------- CreatePartitions */

struct more {
	struct text name;
	int32_t count, places; /* places: for so many of them it is said where they are to be, -1: that is not said */
};

static void more_read(struct in *in, struct more *m)
{
	int32_t k, nodes;

	m->name = in_text(in);
	m->count = in_i32(in);
	m->places = in_array(in, 4);
	for (k = m->places; k > 0 && !in->bad; k--) {
		for (nodes = in_array(in, 4); nodes > 0 && !in->bad; nodes--)
			in_i32(in);
		in_tags(in);
	}
	in_tags(in);
}

/* Return: 0, or an error of the protocol; *ret_why: in words. */
static int add_partitions(struct server *s, const struct more *m, bool only_look, const char **ret_why)
{
	struct topic *t;
	int rc, error = store_topic(s, m->name, &t);

	*ret_why = NULL;
	if (error)
		return error;
	store_topic_again(s, t);
	if (is_own(t->name))
		return K_INVALID_TOPIC;
	if (m->count <= (int32_t)t->partition_count || m->count > (int32_t)THMQ_PARTITION_COUNT_MAX) {
		*ret_why = m->count == (int32_t)t->partition_count ? "it has as many already" : "partitions can be added, up to 65536; none can be taken away";
		return K_INVALID_PARTITIONS;
	}
	if (m->places >= 0 && m->places != m->count - (int32_t)t->partition_count) {
		*ret_why = "the nodes of each new one, or of none";
		return K_INVALID_REPLICA_ASSIGNMENT;
	}
	if (only_look)
		return 0;
	rc = thmq_topic_alter(s->control, t->name, THMQ_TOPIC_OPTS(.partition_count = (uint32_t)m->count), THMQ_ALTER_PARTITIONS);
	if (rc == -EOPNOTSUPP)
		*ret_why = "a topic with priorities";
	if (rc)
		return rc == -EOPNOTSUPP || rc == -EINVAL ? K_INVALID_PARTITIONS : store_error(rc);
	store_topic_again(s, t);
	return 0;
}

void create_partitions_run(struct request *r)
{
	struct in *in = &r->in, again = r->in;
	struct out *out = &r->out;
	int32_t i, count = in_array(in, 6);
	bool only_look;
	struct more m;

	for (i = 0; i < count && !in->bad; i++)
		more_read(in, &m);
	in_i32(in); /* how long it may take */
	only_look = in_bool(in);
	in_tags(in);
	if (in->bad || count < 0) {
		request_fail(r);
		request_done(r);
		return;
	}
	out_i32(out, 0);
	out_array(out, in_array(&again, 6));
	for (i = 0; i < count; i++) {
		const char *why;
		int error = K_REQUEST_TIMED_OUT;

		more_read(&again, &m);
		why = NULL;
		if (!request_is_late(r, MANAGE_NS))
			error = add_partitions(r->server, &m, only_look, &why);
		out_text(out, m.name);
		out_i16(out, (int16_t)error);
		out_string(out, why);
		out_tags(out);
	}
	out_tags(out);
	request_done(r);
}

/* ----------------------------------------------------------- FindCoordinator */

void find_coordinator_run(struct request *r)
{
	struct in *in = &r->in, keys;
	struct out *out = &r->out;
	int32_t i, count;
	int16_t error = 0;

	if (r->version < 4)
		in_text(in);
	if (r->version >= 1)
		in_i8(in); /* of a group, or of a transaction: the same node */
	if (r->version >= 1)
		out_i32(out, 0);
	if (r->server->o.cluster && !cluster_leader(r->server))
		error = K_COORDINATOR_NOT_AVAILABLE;
	if (r->version < 4) {
		out_i16(out, error);
		if (r->version >= 1)
			out_string(out, NULL);
		out_node(r);
	} else {
		count = in_array(in, 1);
		keys = *in;
		out_array(out, count > 0 ? count : 0);
		for (i = 0; i < count; i++) {
			out_text(out, in_text(&keys));
			out_node(r);
			out_i16(out, error);
			out_string(out, NULL);
			out_tags(out);
		}
		in->bad |= keys.bad;
	}
	if (in->bad)
		request_fail(r);
	out_tags(out);
	request_done(r);
}
