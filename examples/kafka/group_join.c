/* SPDX-License-Identifier: Apache-2.0 */
/* group_join.c - JoinGroup: who comes, whether it was here before, and whether it speaks what the others do. The round is group.c's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "group.h"

#define MEMBERS_MAX 10000u      /* of a group */
#define MEMBERS_ALL_MAX 200000u /* of all */
#define PROMISED_NS (60 * SECOND) /* at most, for who was given its id to come again with it */
#define SESSION_MIN_MS 100
#define SESSION_MAX_MS 1800000

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

			all = m->promised || m == self ||
			      (text_copy(name, copy, sizeof(copy)) && member_protocol(m, copy));
		}
		if (all)
			return true;
	}
	return false;
}

/* A new one. false: no memory, and it has the one before */
static bool member_id(struct request *r, struct member *m, struct text instance)
{
	struct text base = instance.data ? instance : r->client_id;
	char id[320], *copy;

	snprintf(id, sizeof(id), "%.*s-%08x-%llx", base.len > 250 ? 250 : (int)base.len,
		 base.data ? base.data : "",
		 (unsigned)hash_bytes(&r->server->now_ns, sizeof(r->server->now_ns)),
		 (unsigned long long)++r->server->member_serial);
	copy = text_alloc(text_of(id));
	if (!copy)
		return false;
	free(m->id);
	m->id = copy;
	return true;
}

static struct member *member_make(struct request *r, struct group *g, const struct join *j)
{
	const bool may = g->member_count < MEMBERS_MAX && r->server->member_count < MEMBERS_ALL_MAX;
	struct member *m = may ? calloc(1, sizeof(*m)) : NULL, **at = &g->members;

	if (m && j->instance.data)
		m->instance = text_alloc(j->instance);
	if (!m || (j->instance.data && !m->instance) || !member_id(r, m, j->instance)) {
		free(m ? m->instance : NULL);
		free(m);
		return NULL;
	}
	m->group = g;
	while (*at)
		at = &(*at)->next;
	*at = m;
	g->member_count++;
	r->server->member_count++;
	return m;
}

/* A text of its own, or the one before: who describes groups is shown it, and nothing else is done with it. */
static void member_show(char **at, struct text t)
{
	char *copy = text_alloc(t);

	if (!copy)
		return;
	free(*at);
	*at = copy;
}

/* Return: its protocols are others than before, -1: no memory */
static int member_set(struct request *r, struct member *m, const struct join *j)
{
	struct protocol *fresh;
	struct in in = j->protocols;
	const uint32_t bytes = (uint32_t)in_left(&in);
	int changed = m->protocol_count != j->protocol_count;
	char host[80];
	int32_t i;

	if (r->server->group_bytes + bytes > GROUPS_BYTES_MAX)
		return -1;
	fresh = calloc((size_t)j->protocol_count, sizeof(*fresh));
	if (!fresh)
		return -1;
	for (i = 0; i < j->protocol_count; i++) {
		struct text name = in_text(&in), metadata = in_bytes(&in);

		in_tags(&in);
		fresh[i].name = text_alloc(name);
		fresh[i].metadata = (struct text){text_alloc(metadata), metadata.len};
		if (!changed)
			changed = !text_is(name, m->protocols[i].name) ||
				  !text_same((struct text){metadata.data ? metadata.data : "",
							   metadata.len},
					     m->protocols[i].metadata);
		if (!fresh[i].name || !fresh[i].metadata.data) {
			for (; i >= 0; i--) {
				free(fresh[i].name);
				free((char *)(uintptr_t)fresh[i].metadata.data);
			}
			free(fresh);
			return -1;
		}
	}
	member_protocols_free(m);
	m->protocols = fresh;
	m->protocol_count = j->protocol_count;
	m->bytes = bytes;
	r->server->group_bytes += bytes;
	m->session_ns = j->session_ms * MILLISECOND;
	m->rebalance_ns = (j->rebalance_ms > 0 ? j->rebalance_ms : j->session_ms) * MILLISECOND;
	m->promised = false;
	snprintf(host, sizeof(host), "/%s", r->conn ? r->conn->peer : "");
	member_show(&m->client_id, (struct text){r->client_id.data, r->client_id.len > 60 ? 60 : r->client_id.len});
	member_show(&m->host, text_of(host));
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
	r->drop = member_drop;
	round_check(g);
}

/* A fixed member that begins anew: it has a new id, and what it had, unless it wants something else now. */
static void join_back(struct request *r, struct group *g, struct member *m, const struct join *j)
{
	char *was = text_alloc(text_of(m->id));
	int changed;

	if (m->joins)
		join_answer(m->joins, g, NULL, K_FENCED_INSTANCE_ID);
	if (m->syncs)
		sync_answer(m->syncs, g, NULL, K_FENCED_INSTANCE_ID);
	m->joins = m->syncs = NULL;
	changed = was && member_id(r, m, j->instance) ? member_set(r, m, j) : -1;
	if (changed < 0) {
		join_answer(r, g, NULL, K_UNKNOWN_SERVER_ERROR);
	} else if (g->state == GROUP_STABLE && !changed) {
		join_answer_back(r, g, m, was);
	} else {
		round_prepare(g);
		join_wait(r, g, m);
	}
	free(was);
}

static void join_known(struct request *r, struct group *g, struct member *m, const struct join *j)
{
	int changed;

	if (!j->id.len) {
		join_back(r, g, m, j);
		return;
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
	if (g->state == GROUP_SYNCING && !changed) {
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
		join_answer(r, g, NULL, g->member_count < MEMBERS_MAX ? K_COORDINATOR_NOT_AVAILABLE : K_GROUP_MAX_SIZE_REACHED);
		return;
	}
	if (r->version >= 4 && !j->instance.data) {
		m->promised = true;
		m->session_ns = j->session_ms * MILLISECOND;
		m->session_ns = m->session_ns < PROMISED_NS ? m->session_ns : PROMISED_NS;
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
	if (!cluster_serves(r->server))
		error = K_NOT_COORDINATOR;
	else if (!group_name_is_good(j.group))
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
		g->protocol_type = text_alloc(j.type);
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
