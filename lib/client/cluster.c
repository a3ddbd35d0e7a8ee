/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster.c - which brokers keep the same data, and changes of that: blocking, by requests to the one that leads, which are repeated until what was asked
 * for is so.
 */
#include "internal.h"

#define AGAIN_NS 20000000u

int thmqi_client_cluster_nodes(struct thmq_session *s, struct thmq_node *ret_nodes, uint32_t max)
{
	uint32_t count, i;
	struct thmqi_request r = {.op = THMQI_OP_NODES};
	const struct thmqi_reply *reply;
	int rc = thmqi_session_meta(s, &r, &reply);

	if (rc == -ENOTSUP)
		return thmqi_fail(rc, "this broker has the only copy: it is of no cluster");
	if (rc)
		return thmqi_fail(rc, "list nodes: %s", thmq_strerror(rc));
	count = THMQI_MIN(reply->count, THMQI_NODES_MAX);
	for (i = 0; i < count && i < max; i++)
		thmqi_node_give(&reply->states[i], reply->value[0], reply->value[1], NULL, ret_nodes, i);
	return (int)count;
}

/* Until it is not -EAGAIN any more. */
static int repeat(struct thmq_session *s, const struct thmqi_request *r, uint64_t timeout_ns)
{
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns ? timeout_ns : s->opts.timeout_ns);
	int rc;

	while ((rc = thmqi_session_meta(s, r, NULL)) == -EAGAIN) {
		rc = thmqi_session_rest(s, AGAIN_NS, deadline);
		if (rc)
			return rc;
	}
	return rc;
}

static int change(struct thmq_session *s, uint64_t id, const char *address, uint32_t role,
		  uint64_t timeout_ns)
{
	struct thmqi_request r = {.op = THMQI_OP_NODE_CHANGE, .volatile_bytes = id, .index = role};
	int rc;

	thmqi_random_bytes(&r.member, sizeof(r.member));
	r.member |= 1;
	if (address)
		strcpy(r.name, address);
	rc = repeat(s, &r, timeout_ns);
	return rc;
}

/* Of what no call has words of its own for. */
static int failed(int rc, const char *what, uint64_t id)
{
	if (rc == -ENOTSUP)
		return thmqi_fail(rc, "%s node %llu: this broker has the only copy: it is of no cluster", what, (unsigned long long)id);
	return rc ? thmqi_fail(rc, "%s node %llu: %s", what, (unsigned long long)id, thmq_strerror(rc)) : 0;
}

int thmqi_client_cluster_add(struct thmq_session *s, uint64_t id, const char *address,
			     uint64_t timeout_ns)
{
	int rc;

	if (strlen(address) >= sizeof(((struct thmqi_request *)0)->name))
		return thmqi_fail(-EINVAL, "add node %llu: its address is too long",
				  (unsigned long long)id);
	rc = change(s, id, address, THMQ_NODE_VOTER, timeout_ns);
	if (rc == -EEXIST)
		return thmqi_fail(rc,
				  "add node %llu: there is one of this number, at another address",
				  (unsigned long long)id);
	if (rc == -EINVAL)
		return thmqi_fail(
			rc,
			"add node %llu: write its address as tcp://host:port, as a cluster has it",
			(unsigned long long)id);
	return failed(rc, "add", id);
}

int thmqi_client_cluster_remove(struct thmq_session *s, uint64_t id, uint64_t timeout_ns)
{
	int rc = change(s, id, NULL, 255, timeout_ns);

	if (rc == -EBUSY)
		return thmqi_fail(rc, "remove node %llu: it leads; let another one lead first",
				  (unsigned long long)id);
	return failed(rc, "remove", id);
}

static int who_leads(struct thmq_session *s, uint64_t *ret_id)
{
	struct thmqi_request r = {.op = THMQI_OP_NODES};
	const struct thmqi_reply *reply;
	int rc = thmqi_session_meta(s, &r, &reply);

	if (!rc)
		*ret_id = reply->value[0];
	return rc;
}

int thmqi_client_cluster_lead(struct thmq_session *s, uint64_t id, uint64_t timeout_ns)
{
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns ? timeout_ns : s->opts.timeout_ns);
	struct thmqi_request r = {.op = THMQI_OP_LEAD, .volatile_bytes = id};
	uint64_t before = 0, now_leads = 0;
	int rc = who_leads(s, &before);

	now_leads = before;
	while (!rc && (id ? now_leads != id : now_leads == before)) {
		rc = thmqi_session_meta(s, &r, NULL);
		/* it is under way; or it has happened, and whom it was said to leads no more, or is away: who leads now says it */
		if (rc == -EAGAIN || rc == -THMQ_ENOTLEADER || rc == -ECONNRESET)
			rc = 0;
		if (!rc)
			rc = thmqi_session_rest(s, AGAIN_NS, deadline);
		if (!rc)
			rc = who_leads(s, &now_leads);
	}
	if (rc == -EBUSY && !id)
		return thmqi_fail(rc, "let another node lead: all others that have a vote are drained; undrain one of them first");
	if (rc == -EBUSY)
		return thmqi_fail(rc, "transfer to node %llu: it is drained; undrain it first", (unsigned long long)id);
	if (rc == -EINVAL)
		return thmqi_fail(rc,
				  "transfer to node %llu: no other node of this number has a vote",
				  (unsigned long long)id);
	return failed(rc, "transfer to", id);
}

int thmqi_client_cluster_drain(struct thmq_session *s, uint64_t id, bool on, uint64_t timeout_ns)
{
	const struct thmqi_request r = {.op = THMQI_OP_NODE_DRAIN, .volatile_bytes = id, .index = on};
	const char *what = on ? "drain" : "undrain";
	int rc = repeat(s, &r, timeout_ns);

	if (rc == -EBUSY)
		return thmqi_fail(rc, "%s node %llu: no other node that has a vote may lead, since they are drained; undrain one of them first", what,
				  (unsigned long long)id);
	if (rc == -EINVAL)
		return thmqi_fail(rc, "%s node %llu: the cluster has no node of this number", what, (unsigned long long)id);
	return failed(rc, what, id);
}
