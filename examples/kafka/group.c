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

#include "kafka.h"

#define GROUP_NAME_MAX 249u
#define MEMBERS_MAX 10000u
#define PROTOCOLS_MAX 64
#define SESSION_MIN_MS 100
#define SESSION_MAX_MS 1800000
#define FIRST_DELAY_NS (300 * MILLISECOND) /* a new group waits so long for others, so that the first one need not begin anew */

enum group_state { GROUP_EMPTY, GROUP_JOINING, GROUP_SYNCING, GROUP_STABLE };
static const char *const state_names[] = {"Empty", "PreparingRebalance", "CompletingRebalance", "Stable"};

struct protocol {
	char *name;
	struct text metadata; /* of malloc(), as all of a member's */
};

struct member {
	struct member *next;
	char id[320];
	char *instance; /* NULL: none */
	char client_id[64], host[80];
	struct protocol protocols[PROTOCOLS_MAX];
	int32_t protocol_count;
	int64_t session_ns, rebalance_ns, expires_ns;
	bool promised; /* it got its id, and was told to come again with it */
	struct request *joins, *syncs; /* what it waits for */
	struct text assignment;
};

struct group {
	struct group *next;
	char name[GROUP_NAME_MAX + 1];
	char *protocol_type, *protocol;
	enum group_state state;
	int32_t generation;
	struct member *members, *leader;
	uint32_t member_count; /* promised ones too */
	int64_t deadline_ns; /* GROUP_JOINING: who has not joined by then is out */
	bool patient;	     /* it waits for its deadline also if all have joined */
};

static char *copy_text(struct text t)
{
	char *copy = malloc((size_t)t.len + 1);

	if (copy) {
		if (t.len)
			memcpy(copy, t.data, t.len);
		copy[t.len] = '\0';
	}
	return copy;
}

static bool set_bytes(struct text *to, struct text from)
{
	char *copy = copy_text(from);

	if (!copy)
		return false;
	free((char *)(uintptr_t)to->data);
	*to = (struct text){copy, from.len};
	return true;
}

/* ------------------------------------------------------------------ look up */

static struct group *group_find(struct server *s, struct text name)
{
	struct group *g = s->groups;

	while (g && !text_is(name, g->name))
		g = g->next;
	return g;
}

static struct group *group_make(struct server *s, struct text name)
{
	struct group *g = group_find(s, name);

	if (g)
		return g;
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	text_copy(name, g->name, sizeof(g->name));
	g->next = s->groups;
	s->groups = g;
	return g;
}

static bool name_is_good(struct text name)
{
	return name.data && name.len > 0 && name.len <= GROUP_NAME_MAX && !memchr(name.data, 0, name.len);
}

static struct member *member_find(const struct group *g, struct text id)
{
	struct member *m = g->members;

	while (m && !text_is(id, m->id))
		m = m->next;
	return m;
}

static struct member *member_by_instance(const struct group *g, struct text instance)
{
	struct member *m = g->members;

	while (m && !(instance.data && m->instance && text_is(instance, m->instance)))
		m = m->next;
	return m;
}

static uint32_t count_joining(const struct group *g, uint32_t *ret_all)
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

static void member_touch(struct member *m)
{
	m->expires_ns = clock_ns() + m->session_ns;
}

static void protocols_free(struct member *m)
{
	while (m->protocol_count > 0) {
		struct protocol *p = &m->protocols[--m->protocol_count];

		free(p->name);
		free((char *)(uintptr_t)p->metadata.data);
	}
}

static const struct protocol *member_protocol(const struct member *m, const char *name)
{
	int32_t i;

	for (i = 0; name && i < m->protocol_count; i++)
		if (strcmp(m->protocols[i].name, name) == 0)
			return &m->protocols[i];
	return NULL;
}

/* ------------------------------------------------------------------ answers */

static void no_drop(struct request *r);

/* To a JoinGroup. @m: NULL with an error, but where it is told its id */
static void join_answer(struct request *r, const struct group *g, const struct member *m, int error)
{
	struct out *out = &r->out;
	const struct member *one;
	const struct protocol *p;
	bool leads = !error && g->leader == m;
	uint32_t n;

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
	out_string(out, error || !g->leader ? "" : g->leader->id);
	if (r->version >= 9)
		out_bool(out, false);
	out_string(out, m ? m->id : "");
	count_joining(leads ? g : &(struct group){.name = ""}, &n);
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

static void sync_answer(struct request *r, const struct group *g, const struct member *m, int error)
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
static void no_drop(struct request *r)
{
	struct member *m = r->state;

	if (m && m->joins == r)
		m->joins = NULL;
	if (m && m->syncs == r)
		m->syncs = NULL;
	request_free(r);
}

/* ------------------------------------------------------------------- rounds */

static void member_remove(struct group *g, struct member *m)
{
	struct member **at = &g->members;

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	if (g->leader == m)
		g->leader = NULL;
	g->member_count--;
	if (m->joins)
		join_answer(m->joins, g, NULL, K_UNKNOWN_MEMBER_ID);
	if (m->syncs)
		sync_answer(m->syncs, g, NULL, K_UNKNOWN_MEMBER_ID);
	protocols_free(m);
	free((char *)(uintptr_t)m->assignment.data);
	free(m->instance);
	free(m);
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
			for (k = 0; k < m->protocol_count; k++) /* its first one that all know; nearly always its first */
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
	g->protocol = protocol ? copy_text(text_of(protocol)) : NULL;
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

		free((char *)(uintptr_t)m->assignment.data);
		m->assignment = (struct text){NULL, 0};
		m->joins = NULL;
		member_touch(m);
		if (r)
			join_answer(r, g, m, 0);
	}
}

static void round_check(struct group *g)
{
	uint32_t all, here;

	if (g->state != GROUP_JOINING)
		return;
	here = count_joining(g, &all);
	if ((here == all && !g->patient) || clock_ns() >= g->deadline_ns)
		round_begin(g);
}

/* Somebody comes, goes, or wants it: all have to join again. */
static void round_prepare(struct group *g)
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
			sync_answer(r, g, m, K_REBALANCE_IN_PROGRESS);
		}
		if (m->rebalance_ns > longest)
			longest = m->rebalance_ns;
	}
	g->deadline_ns = clock_ns() + (g->patient ? FIRST_DELAY_NS : longest);
}

static void member_leave(struct group *g, struct member *m)
{
	bool promised = m->promised;

	member_remove(g, m);
	if (promised)
		return;
	if (g->state == GROUP_STABLE || g->state == GROUP_SYNCING)
		round_prepare(g);
	round_check(g);
}

/* --------------------------------------------------------------------- join */

struct join {
	struct text group, id, instance, type;
	int32_t session_ms, rebalance_ms, protocol_count;
	struct in protocols;
};

static bool join_read(struct request *r, struct join *j)
{
	struct in *in = &r->in;
	int32_t i;

	*j = (struct join){.group = in_text(in)};
	j->session_ms = in_i32(in);
	j->rebalance_ms = r->version >= 1 ? in_i32(in) : j->session_ms;
	j->id = in_text(in);
	if (r->version >= 5)
		j->instance = in_text(in);
	j->type = in_text(in);
	j->protocol_count = in_array(in, 3);
	j->protocols = *in;
	for (i = 0; i < j->protocol_count; i++) {
		struct text name = in_text(in);

		in->bad |= !name.data;
		in_bytes(in);
		in_tags(in);
	}
	if (r->version >= 8)
		in_text(in);
	in_tags(in);
	return !in->bad;
}

/* Does it speak what the others do? */
static bool join_fits(const struct group *g, const struct join *j, const struct member *self)
{
	const struct member *m;
	struct in in = j->protocols;
	int32_t i;

	if (j->protocol_count < 1 || j->protocol_count > PROTOCOLS_MAX || !j->type.len)
		return false;
	for (m = g->members; m && (m->promised || m == self);)
		m = m->next;
	if (!m)
		return true;
	if (!g->protocol_type || !text_is(j->type, g->protocol_type))
		return false;
	for (i = 0; i < j->protocol_count; i++) {
		struct text name = in_text(&in);
		bool all = true;

		in_bytes(&in);
		in_tags(&in);
		for (m = g->members; m && all; m = m->next) {
			char copy[256];

			all = m->promised || m == self || (text_copy(name, copy, sizeof(copy)) && member_protocol(m, copy));
		}
		if (all)
			return true;
	}
	return false;
}

static void member_id(struct request *r, struct member *m, struct text instance)
{
	struct text base = instance.data ? instance : r->client_id;

	snprintf(m->id, sizeof(m->id), "%.*s-%08x-%llx", base.len > 250 ? 250 : (int)base.len, base.data ? base.data : "",
		 (unsigned)hash_bytes(&r->server->now_ns, sizeof(r->server->now_ns)), (unsigned long long)++r->server->member_serial);
}

static struct member *member_make(struct request *r, struct group *g, const struct join *j)
{
	struct member *m = g->member_count < MEMBERS_MAX ? calloc(1, sizeof(*m)) : NULL, **at = &g->members;

	if (!m)
		return NULL;
	if (j->instance.data)
		m->instance = copy_text(j->instance);
	member_id(r, m, j->instance);
	while (*at)
		at = &(*at)->next;
	*at = m;
	g->member_count++;
	return m;
}

/* Return: its protocols are others than before, -1: no memory */
static int member_set(struct request *r, struct member *m, const struct join *j)
{
	struct protocol fresh[PROTOCOLS_MAX];
	struct in in = j->protocols;
	int changed = m->protocol_count != j->protocol_count;
	int32_t i;

	for (i = 0; i < j->protocol_count; i++) {
		struct text name = in_text(&in), metadata = in_bytes(&in);

		in_tags(&in);
		fresh[i].name = copy_text(name);
		fresh[i].metadata = (struct text){copy_text(metadata), metadata.len};
		if (!changed)
			changed = !text_is(name, m->protocols[i].name) ||
				  !text_same((struct text){metadata.data ? metadata.data : "", metadata.len}, m->protocols[i].metadata);
		if (!fresh[i].name || !fresh[i].metadata.data) {
			for (; i >= 0; i--) {
				free(fresh[i].name);
				free((char *)(uintptr_t)fresh[i].metadata.data);
			}
			return -1;
		}
	}
	protocols_free(m);
	memcpy(m->protocols, fresh, (size_t)j->protocol_count * sizeof(fresh[0]));
	m->protocol_count = j->protocol_count;
	m->session_ns = j->session_ms * MILLISECOND;
	m->rebalance_ns = (j->rebalance_ms > 0 ? j->rebalance_ms : j->session_ms) * MILLISECOND;
	m->promised = false;
	snprintf(m->client_id, sizeof(m->client_id), "%.*s", r->client_id.len > 60 ? 60 : (int)r->client_id.len,
		 r->client_id.data ? r->client_id.data : "");
	snprintf(m->host, sizeof(m->host), "/%s", r->conn ? r->conn->peer : "");
	member_touch(m);
	return changed;
}

/* Who is it? Return: 0 and *ret, NULL for one that is new; or an error of the protocol */
static int join_who(const struct group *g, const struct join *j, struct member **ret)
{
	struct member *by_instance = member_by_instance(g, j->instance);

	*ret = NULL;
	if (!j->id.len) {
		*ret = by_instance; /* it was here before: it takes its own place again */
		return 0;
	}
	if (by_instance && !text_is(j->id, by_instance->id))
		return K_FENCED_INSTANCE_ID;
	*ret = member_find(g, j->id);
	return *ret ? 0 : K_UNKNOWN_MEMBER_ID;
}

static void join_wait(struct request *r, struct group *g, struct member *m)
{
	if (m->joins)
		join_answer(m->joins, g, m, K_REBALANCE_IN_PROGRESS);
	m->joins = r;
	r->state = m;
	r->drop = no_drop;
	round_check(g);
}

static void join_known(struct request *r, struct group *g, struct member *m, const struct join *j)
{
	bool again = !j->id.len; /* a fixed member under a new id */
	int changed;

	if (again) {
		if (m->joins)
			join_answer(m->joins, g, NULL, K_FENCED_INSTANCE_ID);
		if (m->syncs)
			sync_answer(m->syncs, g, NULL, K_FENCED_INSTANCE_ID);
		m->joins = m->syncs = NULL;
		member_id(r, m, j->instance);
	}
	changed = member_set(r, m, j);
	if (changed < 0) {
		join_answer(r, g, NULL, K_UNKNOWN_SERVER_ERROR);
		return;
	}
	if (g->state == GROUP_STABLE && !changed && g->leader != m) {
		join_answer(r, g, m, 0); /* nothing is new: as it was */
		return;
	}
	if (g->state == GROUP_SYNCING && !changed && !again) {
		join_answer(r, g, m, 0); /* the answer was lost */
		return;
	}
	round_prepare(g);
	join_wait(r, g, m);
}

static void join_new(struct request *r, struct group *g, const struct join *j)
{
	struct member *m = member_make(r, g, j);

	if (!m) {
		join_answer(r, g, NULL, K_UNKNOWN_SERVER_ERROR);
		return;
	}
	if (r->version >= 4 && !j->instance.data) {
		m->promised = true;
		m->session_ns = j->session_ms * MILLISECOND;
		member_touch(m);
		join_answer(r, g, m, K_MEMBER_ID_REQUIRED);
		return;
	}
	if (member_set(r, m, j) < 0) {
		member_remove(g, m);
		join_answer(r, g, NULL, K_UNKNOWN_SERVER_ERROR);
		return;
	}
	round_prepare(g);
	join_wait(r, g, m);
}

void join_group_run(struct request *r)
{
	struct member *m = NULL;
	struct group *g = NULL;
	struct join j;
	int error = 0;

	if (!join_read(r, &j)) {
		request_fail(r);
		request_done(r);
		return;
	}
	if (!name_is_good(j.group))
		error = K_INVALID_GROUP_ID;
	else if (j.session_ms < SESSION_MIN_MS || j.session_ms > SESSION_MAX_MS)
		error = K_INVALID_SESSION_TIMEOUT;
	if (!error) {
		g = group_make(r->server, j.group);
		error = g ? join_who(g, &j, &m) : K_COORDINATOR_NOT_AVAILABLE;
	}
	if (!error && !join_fits(g, &j, m))
		error = K_INCONSISTENT_GROUP_PROTOCOL;
	if (error) {
		join_answer(r, g, NULL, error);
		return;
	}
	if (!g->protocol_type || g->state == GROUP_EMPTY) {
		free(g->protocol_type);
		g->protocol_type = copy_text(j.type);
	}
	if (!m) {
		join_new(r, g, &j);
		return;
	}
	if (m->promised) { /* it comes with the id that it was given */
		if (member_set(r, m, &j) < 0) {
			join_answer(r, g, NULL, K_UNKNOWN_SERVER_ERROR);
			return;
		}
		round_prepare(g);
		join_wait(r, g, m);
		return;
	}
	join_known(r, g, m, &j);
}

/* ---------------------------------------------------- sync, heartbeat, leave */

/* Is it a member of this generation? Return: 0, or an error of the protocol */
static int check_member(struct server *s, struct text group, int32_t generation, struct text id, struct text instance, struct group **ret_group,
			struct member **ret)
{
	struct group *g = name_is_good(group) ? group_find(s, group) : NULL;
	struct member *by_instance;

	if (!name_is_good(group))
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
	int32_t i;

	for (i = 0; i < count; i++) {
		struct text id = in_text(&in), bytes = in_bytes(&in);

		in_tags(&in);
		m = member_find(g, id);
		if (m)
			set_bytes(&m->assignment, bytes);
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
	r->drop = no_drop;
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
	error = in->bad ? K_INVALID_REQUEST : check_member(r->server, group, generation, id, instance, &g, &m);
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
	struct group *g = name_is_good(group) ? group_find(r->server, group) : NULL;
	int32_t i, count = 0;
	int error = 0;

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
	if (r->version < 3)
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
			out_i16(out, (int16_t)(g ? leave_one(g, id, instance) : K_UNKNOWN_MEMBER_ID));
			out_tags(out);
		}
	}
	out_tags(out);
	request_done(r);
}

int group_may_commit(struct server *s, struct text group, int32_t generation, struct text id, struct text instance)
{
	struct group *g = name_is_good(group) ? group_find(s, group) : NULL;
	struct member *m;

	if (!name_is_good(group))
		return K_INVALID_GROUP_ID;
	if (generation < 0 && (!g || g->state == GROUP_EMPTY))
		return 0; /* one that chooses its partitions itself */
	if (!g)
		return K_ILLEGAL_GENERATION;
	return check_member(s, group, generation, id, instance, &g, &m);
}

bool group_has_members(struct server *s, struct text group)
{
	struct group *g = group_find(s, group);

	return g && g->state != GROUP_EMPTY;
}

/* ----------------------------------------------------------- what is there? */

static void describe_group(struct request *r, struct text name)
{
	struct group *g = name_is_good(name) ? group_find(r->server, name) : NULL;
	bool dead = !g && !(name_is_good(name) && offsets_known(r->server, name));
	struct out *out = &r->out;
	const struct protocol *p;
	struct member *m;
	uint32_t n = 0;

	out_i16(out, (int16_t)(name_is_good(name) ? 0 : K_INVALID_GROUP_ID));
	out_text(out, name.data ? name : text_of(""));
	out_string(out, dead ? "Dead" : g ? state_names[g->state] : state_names[GROUP_EMPTY]);
	out_string(out, g && g->protocol_type ? g->protocol_type : "");
	out_string(out, g && g->protocol && g->state == GROUP_STABLE ? g->protocol : "");
	if (g)
		count_joining(g, &n);
	out_array(out, (int32_t)n);
	for (m = g ? g->members : NULL; m; m = m->next) {
		if (m->promised)
			continue;
		out_string(out, m->id);
		if (r->version >= 4)
			out_string(out, m->instance);
		out_string(out, m->client_id);
		out_string(out, m->host);
		p = member_protocol(m, g->protocol);
		out_bytes(out, p ? p->metadata : text_of(""));
		out_bytes(out, m->assignment.data ? m->assignment : text_of(""));
		out_tags(out);
	}
	if (r->version >= 3)
		out_i32(out, INT32_MIN);
	out_tags(out);
}

void describe_groups_run(struct request *r)
{
	struct in *in = &r->in;
	int32_t i, count = in_array(in, 1);

	if (r->version >= 1)
		out_i32(&r->out, 0);
	out_array(&r->out, count > 0 ? count : 0);
	for (i = 0; i < count && !in->bad; i++)
		describe_group(r, in_text(in));
	if (r->version >= 3)
		in_bool(in);
	in_tags(in);
	if (in->bad)
		request_fail(r);
	out_tags(&r->out);
	request_done(r);
}

/* Twice the same walk: counted, then written. */
struct listing {
	struct request *request;
	struct in states;
	int32_t state_count, found;
	bool write;
};

static void list_one(struct listing *l, const char *name, const char *type, const char *state)
{
	struct out *out = &l->request->out;
	struct in in = l->states;
	bool wanted = l->state_count <= 0;
	int32_t i;

	for (i = 0; i < l->state_count; i++)
		wanted |= text_is(in_text(&in), state);
	l->found += wanted;
	if (!wanted || !l->write)
		return;
	out_string(out, name);
	out_string(out, type);
	if (l->request->version >= 4)
		out_string(out, state);
	out_tags(out);
}

static void list_resting(void *ctx, struct text group)
{
	struct listing *l = ctx;
	char name[GROUP_NAME_MAX + 1];

	if (!group_find(l->request->server, group) && text_copy(group, name, sizeof(name)))
		list_one(l, name, "", state_names[GROUP_EMPTY]);
}

void list_groups_run(struct request *r)
{
	struct listing l = {.request = r};
	struct out *out = &r->out;
	struct in *in = &r->in;
	struct group *g;
	int32_t i;

	if (r->version >= 4) {
		l.state_count = in_array(in, 1);
		l.states = *in;
		for (i = 0; i < l.state_count; i++)
			in_text(in);
	}
	in_tags(in);
	if (in->bad) {
		request_fail(r);
		request_done(r);
		return;
	}
	if (r->version >= 1)
		out_i32(out, 0);
	out_i16(out, 0);
	for (i = 0; i < 2; i++) {
		if (i == 1)
			out_array(out, l.found);
		l.write = i == 1;
		for (g = r->server->groups; g; g = g->next)
			list_one(&l, g->name, g->protocol_type ? g->protocol_type : "", state_names[g->state]);
		offsets_each_group(r->server, list_resting, &l);
	}
	out_tags(out);
	request_done(r);
}

static void group_free(struct server *s, struct group *g)
{
	struct group **at = &s->groups;

	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	while (g->members)
		member_remove(g, g->members);
	free(g->protocol);
	free(g->protocol_type);
	free(g);
}

void delete_groups_run(struct request *r)
{
	struct in *in = &r->in;
	struct out *out = &r->out;
	int32_t i, count = in_array(in, 1);

	out_i32(out, 0);
	out_array(out, count > 0 ? count : 0);
	for (i = 0; i < count && !in->bad; i++) {
		struct text name = in_text(in);
		struct group *g = name_is_good(name) ? group_find(r->server, name) : NULL;
		bool known = name_is_good(name) && offsets_known(r->server, name);
		int error = !name_is_good(name) ? K_INVALID_GROUP_ID : !g && !known ? K_GROUP_ID_NOT_FOUND : 0;

		if (g && g->state != GROUP_EMPTY)
			error = K_NON_EMPTY_GROUP;
		if (!error) {
			if (g)
				group_free(r->server, g);
			offsets_forget(r->server, name);
		}
		out_text(out, name.data ? name : text_of(""));
		out_i16(out, (int16_t)error);
		out_tags(out);
	}
	if (in->bad)
		request_fail(r);
	out_tags(out);
	request_done(r);
}

/* --------------------------------------------------------------------- time */

void group_tick(struct server *s)
{
	int64_t now = clock_ns();
	struct member *m, *next;
	struct group *g, *next_group;

	for (g = s->groups; g; g = next_group) {
		next_group = g->next;
		for (m = g->members; m; m = next) {
			next = m->next;
			/* who waits for the others is there */
			if (m->joins || now < m->expires_ns || (g->state == GROUP_JOINING && !m->promised && now < g->deadline_ns))
				continue;
			member_leave(g, m);
			next = NULL; /* the walk begins anew with the next tick: others may have gone with it */
		}
		round_check(g);
		if (!g->members && g->state == GROUP_EMPTY)
			group_free(s, g);
	}
}

int64_t group_next_ns(struct server *s)
{
	int64_t next = INT64_MAX;
	struct member *m;
	struct group *g;

	for (g = s->groups; g; g = g->next) {
		if (g->state == GROUP_JOINING && g->deadline_ns < next)
			next = g->deadline_ns;
		for (m = g->members; m; m = m->next)
			if (!m->joins && m->expires_ns < next)
				next = m->expires_ns;
	}
	return next;
}

void group_close_all(struct server *s)
{
	while (s->groups)
		group_free(s, s->groups);
}
