/* SPDX-License-Identifier: Apache-2.0 */
/* replica.c - groups as the public header has them: who may call is checked, options are copied, texts are set. Nothing else is here. */
#include <thundermq/replica.h>

#include "internal.h"
#include "replica/courier.h"

_Static_assert(sizeof(struct thmq_replica_message) == sizeof(struct thmqi_message),
	       "as it is sent");
_Static_assert(offsetof(struct thmq_replica_message, group) ==
			       offsetof(struct thmqi_message, group) &&
		       offsetof(struct thmq_replica_message, from) ==
			       offsetof(struct thmqi_message, from) &&
		       offsetof(struct thmq_replica_message, to) ==
			       offsetof(struct thmqi_message, to) &&
		       offsetof(struct thmq_replica_message, batch_bytes) ==
			       offsetof(struct thmqi_message, batch_bytes),
	       "what its carrier looks at");
_Static_assert(THMQ_MEMBERS_MAX == THMQI_MEMBERS_MAX && THMQ_ADDRESS_MAX == THMQI_ADDRESS_MAX,
	       "one number");
_Static_assert((int)THMQ_MEMBER_VOTER == (int)THMQI_MEMBER_VOTER &&
		       (int)THMQ_MEMBER_REMOVED == (int)THMQI_MEMBER_REMOVED &&
		       (int)THMQ_REPLICA_LEADER == (int)THMQI_ROLE_LEADER,
	       "one number");

struct thmq_replica {
	struct thmq_core *core;
	struct thmqi_group *group;
	struct thmq_replica_events events;
	void *ctx;
	struct thmqi_carried carried;
	struct thmqi_courier *carrier; /* NULL: the owner carries */
};

void (thmq_replica_opts_init)(struct thmq_replica_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

/* ------------------------------------------------------------------- events */

static int on_send(void *ctx, const struct thmqi_message *message, struct thmqi_buf *buf)
{
	struct thmq_replica *r = ctx;

	return r->events.send(r->ctx, (const struct thmq_replica_message *)message, buf);
}

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	struct thmq_replica *r = ctx;

	if (r->events.role)
		r->events.role(r->ctx, role, term, leader);
}

static void on_committed(void *ctx, uint64_t index)
{
	struct thmq_replica *r = ctx;

	if (r->events.committed)
		r->events.committed(r->ctx, index);
}

static void copy_members(const struct thmqi_members *m, struct thmq_member *ret, uint32_t max)
{
	uint32_t i;

	for (i = 0; i < m->count && i < max; i++) {
		ret[i] = (struct thmq_member){.id = m->list[i].id, .role = m->list[i].role};
		memcpy(ret[i].address, m->list[i].address, sizeof(ret[i].address));
	}
}

static void on_members(void *ctx, const struct thmqi_members *members, uint64_t index)
{
	struct thmq_member list[THMQ_MEMBERS_MAX];
	struct thmq_replica *r = ctx;

	if (r->carried.carrier)
		thmqi_courier_members(r->carried.carrier);
	if (!r->events.members)
		return;
	copy_members(members, list, THMQ_MEMBERS_MAX);
	r->events.members(r->ctx, list, members->count, index);
}

static void on_failed(void *ctx, int error)
{
	struct thmq_replica *r = ctx;

	if (r->events.failed)
		r->events.failed(r->ctx, error);
}

/* --------------------------------------------------------------------- open */

static void member_of(const struct thmq_member *from, struct thmqi_member *ret)
{
	ret->id = from->id;
	ret->role = from->role;
	memcpy(ret->address, from->address, sizeof(ret->address));
}

static int check(struct thmq_replica *r, const struct thmq_replica_opts *opts,
		 struct thmq_replica_opts *ret, struct thmqi_members *ret_members)
{
	uint32_t i;
	int rc = thmqi_opts_copy(ret, sizeof(*ret), opts);

	if (!rc)
		rc = thmqi_opts_copy(&r->events, sizeof(r->events), ret->events);
	if (rc)
		return thmqi_fail(rc, "a replica: options or events of a size that this library "
				      "cannot take; set their size fields");
	if ((!r->events.send && !ret->carrier) || ret->flags)
		return thmqi_fail(-EINVAL,
				  "a replica needs a carrier or events->send, and knows no flags");
	memset(ret_members, 0, sizeof(*ret_members));
	if (!ret->members)
		return 0;
	if (!ret->member_count || ret->member_count > THMQ_MEMBERS_MAX)
		return thmqi_fail(-EINVAL, "a group has 1 to %u members", THMQ_MEMBERS_MAX);
	ret_members->count = ret->member_count;
	for (i = 0; i < ret->member_count; i++)
		member_of(&ret->members[i], &ret_members->list[i]);
	return 0;
}

static int open_group(struct thmq_replica *r, const struct thmq_replica_opts *opts)
{
	struct thmqi_members members;
	struct thmq_replica_opts o;
	struct thmqi_group_opts g;
	int rc = check(r, opts, &o, &members);

	if (rc)
		return rc;
	r->ctx = o.ctx;
	r->carrier = (struct thmqi_courier *)o.carrier;
	rc = r->carrier ? thmqi_courier_fits(r->carrier, r->core, o.id) : 0;
	if (rc)
		return rc;
	g = (struct thmqi_group_opts){
		.log = o.log,
		.events = {.role = on_role,
			   .committed = on_committed,
			   .members = on_members,
			   .failed = on_failed,
			   .ctx = r},
		.wire = {.send = r->carrier ? thmqi_carried_send : on_send,
			 .ctx = r->carrier ? (void *)&r->carried : r},
		.id = o.id,
		.group = o.group,
		.members = o.members ? &members : NULL,
		.heartbeat_ms = o.heartbeat_ms,
		.election_ms = o.election_ms,
	};
	rc = thmqi_group_open(r->core, &g, &r->group);
	if (rc || !r->carrier)
		return rc;
	rc = thmqi_courier_join(r->carrier, &r->carried, r->group, o.group);
	if (rc)
		thmqi_group_close(r->group, 0);
	return rc;
}

int thmq_replica_open(struct thmq_core *core, const struct thmq_replica_opts *opts,
		      struct thmq_replica **ret_replica)
{
	uint32_t texts = thmqi_fail_count();
	struct thmq_replica *r;
	int rc;

	if (!core || !opts || !ret_replica)
		return thmqi_fail(-EINVAL,
				  "a replica needs a core, options, and a place for its handle");
	if (!thmqi_core_is_mine(core))
		return thmqi_fail(-EPERM, "a replica is opened by the thread that drives its core");
	r = calloc(1, sizeof(*r));
	if (!r)
		return thmqi_fail(-ENOMEM, "no memory for a replica");
	r->core = core;
	rc = open_group(r, opts);
	if (rc) {
		free(r);
		return thmqi_fail_count() == texts
			       ? thmqi_fail(rc, "open a replica: %s", thmq_strerror(rc))
			       : rc;
	}
	*ret_replica = r;
	return 0;
}

int thmq_replica_close(struct thmq_replica *replica, uint64_t timeout_ns)
{
	int rc;

	if (!replica)
		return 0;
	if (!thmqi_core_is_mine(replica->core))
		return thmqi_fail(-EPERM, "a replica is closed by the thread that drives its core");
	thmqi_courier_leave(&replica->carried);
	rc = thmqi_group_close(replica->group, timeout_ns);
	free(replica);
	return rc ? thmqi_fail(rc, "close a replica: %s; its last batches may not be stored here",
			       thmq_strerror(rc))
		  : 0;
}

struct thmq_log *thmq_replica_log(struct thmq_replica *replica)
{
	return thmqi_group_log(replica->group);
}

/* ----------------------------------------------------------------- carrying */

int thmq_replica_buf(struct thmq_replica *replica, uint32_t bytes, struct thmq_buf **ret_buf)
{
	if (!thmqi_core_is_mine(replica->core))
		return -EPERM;
	return bytes > THMQI_BATCH_BYTES_MAX ? -EMSGSIZE
					     : thmqi_core_alloc(replica->core, bytes, ret_buf);
}

int thmq_replica_receive(struct thmq_replica *replica, const struct thmq_replica_message *message,
			 struct thmq_buf *batch)
{
	if (!thmqi_core_is_mine(replica->core))
		return -EPERM;
	return thmqi_group_receive(replica->group, (const struct thmqi_message *)message, batch);
}

int thmq_replica_writable(struct thmq_replica *replica, uint64_t id)
{
	if (!thmqi_core_is_mine(replica->core))
		return -EPERM;
	thmqi_group_writable(replica->group, id);
	return 0;
}

/* -------------------------------------------------------------------- state */

int thmq_replica_state(struct thmq_replica *replica, struct thmq_replica_state *ret_state)
{
	struct thmqi_group_state s;
	struct thmq_replica_state out;
	uint32_t size;

	if (!ret_state || thmqi_size_is_wrong(ret_state->size))
		return thmqi_fail(-EINVAL, "a replica's state: set the size field first");
	if (!thmqi_core_is_mine(replica->core))
		return thmqi_fail(-EPERM,
				  "a replica's state is read by the thread that drives its core");
	size = ret_state->size;
	thmqi_group_state(replica->group, &s);
	out = (struct thmq_replica_state){.size = size,
					  .role = s.role,
					  .term = s.term,
					  .leader = s.leader,
					  .last_index = s.last,
					  .durable_index = s.durable,
					  .committed_index = s.committed,
					  .members_index = s.members_index,
					  .members_committed = s.members_committed,
					  .member_count =
						  thmqi_group_members(replica->group)->count,
					  .transferring = s.transferring,
					  .failed = s.failed};
	memset(ret_state, 0, size);
	memcpy(ret_state, &out, THMQI_MIN(size, (uint32_t)sizeof(out)));
	return 0;
}

int thmq_replica_members(struct thmq_replica *replica, struct thmq_member *ret_members,
			 uint32_t max)
{
	const struct thmqi_members *m;

	if (!thmqi_core_is_mine(replica->core))
		return -EPERM;
	m = thmqi_group_members(replica->group);
	copy_members(m, ret_members, max);
	return (int)m->count;
}

/* --------------------------------------------------- by the copy that leads */

int thmq_replica_change(struct thmq_replica *replica, const struct thmq_member *member)
{
	struct thmqi_member m;

	if (!thmqi_core_is_mine(replica->core))
		return -EPERM;
	member_of(member, &m);
	return thmqi_group_change(replica->group, &m);
}

int thmq_replica_catch_up(struct thmq_replica *replica, uint64_t id)
{
	return thmqi_core_is_mine(replica->core) ? thmqi_group_catch_up(replica->group, id)
						 : -EPERM;
}

int thmq_replica_transfer(struct thmq_replica *replica, uint64_t id)
{
	return thmqi_core_is_mine(replica->core) ? thmqi_group_transfer(replica->group, id)
						 : -EPERM;
}

int thmq_replica_trim(struct thmq_replica *replica, uint64_t index)
{
	return thmqi_core_is_mine(replica->core) ? thmqi_group_trim(replica->group, index) : -EPERM;
}
