/* SPDX-License-Identifier: Apache-2.0 */
/* group_list.c - DescribeGroups, ListGroups, DeleteGroups: what groups there are. Those without members are known by their offsets. */
#include "group.h"

static const char *const state_names[] = {"Empty", "PreparingRebalance", "CompletingRebalance",
					  "Stable"};

static void describe_group(struct request *r, struct text name)
{
	struct group *g = group_name_is_good(name) ? group_find(r->server, name) : NULL;
	bool dead = !g && !(group_name_is_good(name) && offsets_known(r->server, name));
	struct out *out = &r->out;
	const struct protocol *p;
	struct member *m;
	uint32_t n = 0;

	out_i16(out, (int16_t)(!cluster_serves(r->server) ? K_NOT_COORDINATOR : group_name_is_good(name) ? 0 : K_INVALID_GROUP_ID));
	out_text(out, name.data ? name : text_of(""));
	out_string(out, dead ? "Dead" : g ? state_names[g->state] : state_names[GROUP_EMPTY]);
	out_string(out, g && g->protocol_type ? g->protocol_type : "");
	out_string(out, g && g->protocol && g->state == GROUP_STABLE ? g->protocol : "");
	if (g)
		group_count_joining(g, &n);
	out_array(out, (int32_t)n);
	for (m = g ? g->members : NULL; m; m = m->next) {
		if (m->promised)
			continue;
		out_string(out, m->id);
		if (r->version >= 4)
			out_string(out, m->instance);
		out_string(out, m->client_id ? m->client_id : "");
		out_string(out, m->host ? m->host : "");
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

#define STATES_MAX 64 /* there are fewer; each is looked for in each group */

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
		in->bad |= l.state_count > STATES_MAX;
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
		for (g = group_next(r->server, NULL); g; g = group_next(r->server, g))
			list_one(&l, g->name, g->protocol_type ? g->protocol_type : "",
				 state_names[g->state]);
		offsets_each_group(r->server, list_resting, &l);
	}
	out_tags(out);
	request_done(r);
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
		struct group *g = group_name_is_good(name) ? group_find(r->server, name) : NULL;
		bool known = group_name_is_good(name) && offsets_known(r->server, name);
		int error = !group_name_is_good(name) ? K_INVALID_GROUP_ID
			    : !g && !known            ? K_GROUP_ID_NOT_FOUND
						      : 0;

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
