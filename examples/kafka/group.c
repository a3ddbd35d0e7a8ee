/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group.c - who is in which group of Kafka's clients, and the rounds in which they agree who reads what: all members join, one of them
 * gets the list and says what each has to do, each asks what that is. Kept in memory: after a restart the members come again, as they do
 * to a Kafka broker that has taken over. What they have committed is offsets.c's.
 *
 * Kafka's own groups are used, not the library's: there the broker splits the partitions, here one of the clients does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "group.h"

#define GROUPS_MAX 200000u /* with members; those that have only committed something are not counted */
#define FIRST_DELAY_NS                                                                             \
	(300 *                                                                                     \
	 MILLISECOND) /* a new group waits so long for others, so that the first one need not begin anew */

char *text_alloc(struct text t)
{
	char *copy = malloc((size_t)t.len + 1);

	if (copy) {
		if (t.len)
			memcpy(copy, t.data, t.len);
		copy[t.len] = '\0';
	}
	return copy;
}

/* ------------------------------------------------------------------ look up */

struct group *group_find(struct server *s, struct text name)
{
	const uint32_t hash = hash_bytes(name.data, name.len);
	struct node *n;

	for (n = table_chain(&s->groups, hash); n; n = n->next)
		if (n->hash == hash && text_is(name, ((struct group *)n)->name))
			return (struct group *)n;
	return NULL;
}

struct group *group_next(const struct server *s, const struct group *g)
{
	return (struct group *)table_next(&s->groups, g ? &g->node : NULL);
}

struct group *group_make(struct server *s, struct text name)
{
	struct group *g = group_find(s, name);

	if (g)
		return g;
	g = s->groups.count < GROUPS_MAX && table_ready(&s->groups) ? calloc(1, sizeof(*g) + name.len + 1) : NULL;
	if (!g)
		return NULL;
	text_copy(name, g->name, name.len + 1);
	g->server = s;
	if (!group_due_add(g)) {
		free(g);
		return NULL;
	}
	table_add(&s->groups, &g->node, hash_bytes(name.data, name.len));
	return g;
}

bool group_name_is_good(struct text name)
{
	return name.data && name.len > 0 && name.len <= GROUP_NAME_MAX &&
	       !memchr(name.data, 0, name.len);
}

struct member *member_find(const struct group *g, struct text id)
{
	struct member *m = g->members;

	while (m && !text_is(id, m->id))
		m = m->next;
	return m;
}

struct member *member_by_instance(const struct group *g, struct text instance)
{
	struct member *m = g->members;

	while (m && !(instance.data && m->instance && text_is(instance, m->instance)))
		m = m->next;
	return m;
}

uint32_t group_count_joining(const struct group *g, uint32_t *ret_all)
{
	const struct member *m;
	uint32_t n = 0, all = 0;

	for (m = g->members; m; m = m->next) {
		n += m->joins != NULL;
		all += !m->promised;
	}
	*ret_all = all;
	return n;
}

void member_touch(struct member *m)
{
	m->expires_ns = clock_ns() + m->session_ns;
	group_due(m->group, m->expires_ns);
}

void member_protocols_free(struct member *m)
{
	while (m->protocol_count > 0) {
		struct protocol *p = &m->protocols[--m->protocol_count];

		free(p->name);
		free((char *)(uintptr_t)p->metadata.data);
	}
	free(m->protocols);
	m->protocols = NULL;
	m->group->server->group_bytes -= m->bytes;
	m->bytes = 0;
}

const struct protocol *member_protocol(const struct member *m, const char *name)
{
	int32_t i;

	for (i = 0; name && i < m->protocol_count; i++)
		if (strcmp(m->protocols[i].name, name) == 0)
			return &m->protocols[i];
	return NULL;
}

/* ------------------------------------------------------------------ answers */

/*
 * @was: the id of one that is back and goes on with what it had; else NULL. If it leads, nothing is for it to share out: from version 9 on it is told so, before that
 * it hears its former id, by which it does not know itself.
 */
static void join_answer_as(struct request *r, const struct group *g, const struct member *m, const char *was, int error)
{
	struct out *out = &r->out;
	const struct member *one;
	const struct protocol *p;
	const bool back = was && g->leader == m, leads = !error && g->leader == m && (!back || r->version >= 9);
	uint32_t n = 0;

	r->state = NULL;
	r->drop = NULL;
	if (r->version >= 2)
		out_i32(out, 0);
	out_i16(out, (int16_t)error);
	out_i32(out, error ? -1 : g->generation);
	if (r->version >= 7) {
		out_string(out, error ? NULL : g->protocol_type);
		out_string(out, error ? NULL : g->protocol);
	} else {
		out_string(out, error ? "" : g->protocol);
	}
	out_string(out, error || !g->leader ? "" : back && !leads ? was : g->leader->id);
	if (r->version >= 9)
		out_bool(out, back);
	out_string(out, m ? m->id : "");
	if (leads)
		group_count_joining(g, &n);
	out_array(out, (int32_t)n);
	for (one = leads ? g->members : NULL; one; one = one->next) {
		if (one->promised)
			continue;
		out_string(out, one->id);
		if (r->version >= 5)
			out_string(out, one->instance);
		p = member_protocol(one, g->protocol);
		out_bytes(out, p ? p->metadata : text_of(""));
		out_tags(out);
	}
	out_tags(out);
	request_done(r);
}

void join_answer(struct request *r, const struct group *g, const struct member *m, int error)
{
	join_answer_as(r, g, m, NULL, error);
}

void join_answer_back(struct request *r, const struct group *g, const struct member *m, const char *was)
{
	join_answer_as(r, g, m, was, 0);
}

void sync_answer(struct request *r, const struct group *g, const struct member *m, int error)
{
	struct out *out = &r->out;

	r->state = NULL;
	r->drop = NULL;
	if (r->version >= 1)
		out_i32(out, 0);
	out_i16(out, (int16_t)error);
	if (r->version >= 5) {
		out_string(out, error ? NULL : g->protocol_type);
		out_string(out, error ? NULL : g->protocol);
	}
	out_bytes(out, !error && m->assignment.data ? m->assignment : text_of(""));
	out_tags(out);
	request_done(r);
}

/* The connection of one who waits is gone: he is missed when his time is over. */
void member_drop(struct request *r)
{
	struct member *m = r->state;

	if (m && m->joins == r)
		m->joins = NULL;
	if (m && m->syncs == r)
		m->syncs = NULL;
	if (m)
		group_due(m->group, m->expires_ns);
	request_free(r);
}

/* ------------------------------------------------------------------- rounds */

/* @data of malloc(): what it has to do; NULL: that is not known */
static void assign(struct member *m, char *data, uint32_t len)
{
	struct server *s = m->group->server;

	s->group_bytes += len;
	s->group_bytes -= m->assignment.len;
	free((char *)(uintptr_t)m->assignment.data);
	m->assignment = (struct text){data, len};
}

void member_remove(struct group *g, struct member *m)
{
	struct member **at = &g->members;

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	if (g->leader == m)
		g->leader = NULL;
	g->member_count--;
	if (!g->members)
		group_due(g, 0);
	if (m->joins)
		join_answer(m->joins, g, NULL, K_UNKNOWN_MEMBER_ID);
	if (m->syncs)
		sync_answer(m->syncs, g, NULL, K_UNKNOWN_MEMBER_ID);
	member_protocols_free(m);
	assign(m, NULL, 0);
	g->server->member_count--;
	free(m->id);
	free(m->client_id);
	free(m->host);
	free(m->instance);
	free(m);
}

void group_free(struct server *s, struct group *g)
{
	table_remove(&s->groups, &g->node);
	while (g->members)
		member_remove(g, g->members);
	group_due_remove(g);
	free(g->protocol);
	free(g->protocol_type);
	free(g);
}

/* The protocol that all know, and most want most. */
static const char *choose_protocol(const struct group *g)
{
	const struct member *first = g->members, *m;
	const char *best = NULL;
	uint32_t most = 0;
	int32_t i, k;

	while (first && first->promised)
		first = first->next;
	for (i = 0; first && i < first->protocol_count; i++) {
		const char *name = first->protocols[i].name;
		uint32_t votes = 0;
		bool all = true;

		for (m = g->members; m && all; m = m->next) {
			if (m->promised)
				continue;
			all = member_protocol(m, name) != NULL;
			for (k = 0; k < m->protocol_count;
			     k++) /* its first one that all know; nearly always its first */
				if (k == 0 && strcmp(m->protocols[k].name, name) == 0)
					votes++;
		}
		if (all && (!best || votes > most)) {
			best = name;
			most = votes;
		}
	}
	return best;
}

/* All are there, or those that will be: the next generation begins. */
static void round_begin(struct group *g)
{
	int64_t longest = 0;
	struct member *m, *next;
	const char *protocol;

	for (m = g->members; m; m = next) {
		next = m->next;
		if (!m->joins && !m->promised && !m->instance)
			member_remove(g, m);
	}
	g->generation++;
	g->patient = false;
	for (m = g->members; m && m->promised;)
		m = m->next;
	if (!m) {
		g->state = GROUP_EMPTY;
		return;
	}
	protocol = choose_protocol(g);
	free(g->protocol);
	g->protocol = protocol ? text_alloc(text_of(protocol)) : NULL;
	if (!g->leader || !g->leader->joins) {
		for (g->leader = g->members; g->leader && !g->leader->joins;)
			g->leader = g->leader->next;
		if (!g->leader) { /* fixed members only, none of which is here */
			g->state = GROUP_STABLE;
			return;
		}
	}
	g->state = GROUP_SYNCING;
	for (m = g->members; m; m = m->next) {
		struct request *r = m->joins;

		assign(m, NULL, 0);
		m->joins = NULL;
		member_touch(m);
		if (m->rebalance_ns > longest)
			longest = m->rebalance_ns;
		if (r)
			join_answer(r, g, m, 0);
	}
	g->deadline_ns = clock_ns() + longest; /* a leader that says it is there, and nothing else, holds up nobody for ever */
	group_due(g, g->deadline_ns);
}

void round_check(struct group *g)
{
	uint32_t all, here;

	if (g->state != GROUP_JOINING)
		return;
	here = group_count_joining(g, &all);
	if ((here == all && !g->patient) || clock_ns() >= g->deadline_ns)
		round_begin(g);
}

/* Somebody comes, goes, or wants it: all have to join again. */
void round_prepare(struct group *g)
{
	int64_t longest = 0;
	struct member *m;

	if (g->state == GROUP_JOINING)
		return;
	g->patient = g->state == GROUP_EMPTY;
	g->state = GROUP_JOINING;
	for (m = g->members; m; m = m->next) {
		if (m->syncs) {
			struct request *r = m->syncs;

			m->syncs = NULL;
			member_touch(m); /* it waited, and has its time to join again */
			sync_answer(r, g, m, K_REBALANCE_IN_PROGRESS);
		}
		if (m->rebalance_ns > longest)
			longest = m->rebalance_ns;
	}
	g->deadline_ns = clock_ns() + (g->patient ? FIRST_DELAY_NS : longest);
	group_due(g, g->deadline_ns);
}

void member_leave(struct group *g, struct member *m)
{
	bool promised = m->promised;

	member_remove(g, m);
	if (promised)
		return;
	if (g->state == GROUP_STABLE || g->state == GROUP_SYNCING)
		round_prepare(g);
	round_check(g);
}

/* ---------------------------------------------------- sync, heartbeat, leave */

/* Is it a member of this generation? Return: 0, or an error of the protocol */
static int check_member(struct server *s, struct text group, int32_t generation, struct text id,
			struct text instance, struct group **ret_group, struct member **ret)
{
	struct group *g = group_name_is_good(group) ? group_find(s, group) : NULL;
	struct member *by_instance;

	if (!cluster_serves(s))
		return K_NOT_COORDINATOR;
	if (!group_name_is_good(group))
		return K_INVALID_GROUP_ID;
	*ret_group = g;
	if (!g)
		return K_UNKNOWN_MEMBER_ID;
	by_instance = member_by_instance(g, instance);
	if (by_instance && !text_is(id, by_instance->id))
		return K_FENCED_INSTANCE_ID;
	*ret = member_find(g, id);
	if (!*ret || (*ret)->promised)
		return K_UNKNOWN_MEMBER_ID;
	return generation == g->generation ? 0 : K_ILLEGAL_GENERATION;
}

/* What the leader says that each has to do. */
static void take_assignments(struct group *g, struct in in, int32_t count)
{
	struct member *m;
	char *copy;
	int32_t i;

	for (i = 0; i < count; i++) {
		struct text id = in_text(&in), bytes = in_bytes(&in);

		in_tags(&in);
		m = member_find(g, id);
		copy = m ? text_alloc(bytes) : NULL;
		if (copy)
			assign(m, copy, bytes.len);
	}
	g->state = GROUP_STABLE;
	for (m = g->members; m; m = m->next)
		if (m->syncs) {
			struct request *r = m->syncs;

			m->syncs = NULL;
			member_touch(m);
			sync_answer(r, g, m, 0);
		}
}

void sync_group_run(struct request *r)
{
	struct in *in = &r->in, assignments;
	struct text group = in_text(in), id, instance = {NULL, 0};
	int32_t generation = in_i32(in), count, i;
	struct member *m = NULL;
	struct group *g = NULL;
	int error;

	id = in_text(in);
	if (r->version >= 3)
		instance = in_text(in);
	if (r->version >= 5) {
		in_text(in);
		in_text(in);
	}
	count = in_array(in, 3);
	assignments = *in;
	for (i = 0; i < count; i++) {
		in_text(in);
		in_bytes(in);
		in_tags(in);
	}
	in_tags(in);
	if (in->bad) {
		request_fail(r);
		request_done(r);
		return;
	}
	error = check_member(r->server, group, generation, id, instance, &g, &m);
	if (!error && g->state == GROUP_JOINING)
		error = K_REBALANCE_IN_PROGRESS;
	if (!error && g->state == GROUP_EMPTY)
		error = K_UNKNOWN_MEMBER_ID;
	if (!error && r->server->group_bytes + in_left(&assignments) > GROUPS_BYTES_MAX)
		error = K_COORDINATOR_NOT_AVAILABLE;
	if (error || g->state == GROUP_STABLE) {
		if (!error)
			member_touch(m);
		sync_answer(r, g, m, error);
		return;
	}
	member_touch(m);
	if (m->syncs)
		sync_answer(m->syncs, g, m, K_REBALANCE_IN_PROGRESS);
	m->syncs = r;
	r->state = m;
	r->drop = member_drop;
	if (m == g->leader)
		take_assignments(g, assignments, count);
}

void heartbeat_run(struct request *r)
{
	struct in *in = &r->in;
	struct text group = in_text(in), id, instance = {NULL, 0};
	int32_t generation = in_i32(in);
	struct member *m;
	struct group *g;
	int error;

	id = in_text(in);
	if (r->version >= 3)
		instance = in_text(in);
	in_tags(in);
	if (in->bad)
		request_fail(r);
	error = in->bad ? K_INVALID_REQUEST
			: check_member(r->server, group, generation, id, instance, &g, &m);
	if (!error) {
		member_touch(m);
		error = g->state == GROUP_JOINING ? K_REBALANCE_IN_PROGRESS : 0;
	}
	if (r->version >= 1)
		out_i32(&r->out, 0);
	out_i16(&r->out, (int16_t)error);
	out_tags(&r->out);
	request_done(r);
}

/* Return: 0, or an error of the protocol */
static int leave_one(struct group *g, struct text id, struct text instance)
{
	struct member *m = instance.data ? member_by_instance(g, instance) : member_find(g, id);

	if (!m)
		return K_UNKNOWN_MEMBER_ID;
	if (instance.data && id.len && !text_is(id, m->id))
		return K_FENCED_INSTANCE_ID;
	member_leave(g, m);
	return 0;
}

void leave_group_run(struct request *r)
{
	struct in *in = &r->in, again;
	struct out *out = &r->out;
	struct text group = in_text(in), id = {NULL, 0}, instance;
	struct group *g = group_name_is_good(group) ? group_find(r->server, group) : NULL;
	int32_t i, count = 0;
	int error = cluster_serves(r->server) ? 0 : K_NOT_COORDINATOR;

	if (r->version < 3)
		id = in_text(in);
	else
		count = in_array(in, 3);
	again = *in;
	for (i = 0; i < count; i++) {
		in_text(in);
		in_text(in);
		if (r->version >= 5)
			in_text(in);
		in_tags(in);
	}
	in_tags(in);
	if (in->bad) {
		request_fail(r);
		request_done(r);
		return;
	}
	if (r->version < 3 && !error)
		error = g ? leave_one(g, id, (struct text){NULL, 0}) : K_UNKNOWN_MEMBER_ID;
	if (r->version >= 1)
		out_i32(out, 0);
	out_i16(out, (int16_t)error);
	if (r->version >= 3) {
		out_array(out, count > 0 ? count : 0);
		for (i = 0; i < count; i++) {
			id = in_text(&again);
			instance = in_text(&again);
			if (r->version >= 5)
				in_text(&again);
			in_tags(&again);
			out_text(out, id);
			out_text(out, instance);
			out_i16(out,
				(int16_t)(g ? leave_one(g, id, instance) : K_UNKNOWN_MEMBER_ID));
			out_tags(out);
		}
	}
	out_tags(out);
	request_done(r);
}

int group_may_commit(struct server *s, struct text group, int32_t generation, struct text id,
		     struct text instance)
{
	struct group *g = group_name_is_good(group) ? group_find(s, group) : NULL;
	struct member *m;

	if (!cluster_serves(s))
		return K_NOT_COORDINATOR;
	if (!group_name_is_good(group))
		return K_INVALID_GROUP_ID;
	if (generation < 0 && (!g || g->state == GROUP_EMPTY))
		return 0; /* one that chooses its partitions itself */
	if (!g)
		return K_ILLEGAL_GENERATION;
	return check_member(s, group, generation, id, instance, &g, &m);
}
