/* SPDX-License-Identifier: Apache-2.0 */
/* cluster.c - the public face of clusters: checks, then calls down. */
#include "api/api.h"
#include "client/client.h"

static int check(const struct thmq_session *session)
{
	return thmqi_api_is_session(session) ? 0 : thmqi_api_not_open("session");
}

int thmq_cluster_nodes(struct thmq_session *session, struct thmq_node *ret_nodes, uint32_t max)
{
	int rc = check(session);

	if (rc)
		return rc;
	if (max && (!ret_nodes || thmqi_size_is_wrong(ret_nodes[0].size)))
		return thmqi_fail(-EINVAL, "list nodes: set the size field of the first one");
	return thmqi_client_cluster_nodes(session, ret_nodes, max);
}

int thmq_cluster_add(struct thmq_session *session, uint64_t id, const char *address, uint64_t timeout_ns)
{
	int rc = check(session);

	if (rc)
		return rc;
	if (!id || !address)
		return thmqi_fail(-EINVAL, "add a node: it has a number, not 0, and an address");
	return thmqi_client_cluster_add(session, id, address, timeout_ns);
}

int thmq_cluster_remove(struct thmq_session *session, uint64_t id, uint64_t timeout_ns)
{
	int rc = check(session);

	if (rc)
		return rc;
	if (!id)
		return thmqi_fail(-EINVAL, "remove a node: it has a number, not 0");
	return thmqi_client_cluster_remove(session, id, timeout_ns);
}

int thmq_cluster_lead(struct thmq_session *session, uint64_t id, uint64_t timeout_ns)
{
	int rc = check(session);

	return rc ? rc : thmqi_client_cluster_lead(session, id, timeout_ns);
}

static int drain(struct thmq_session *session, uint64_t id, bool on, uint64_t timeout_ns)
{
	int rc = check(session);

	if (rc)
		return rc;
	if (!id)
		return thmqi_fail(-EINVAL, "%s a node: it has a number, not 0", on ? "drain" : "undrain");
	return thmqi_client_cluster_drain(session, id, on, timeout_ns);
}

int thmq_cluster_drain(struct thmq_session *session, uint64_t id, uint64_t timeout_ns)
{
	return drain(session, id, true, timeout_ns);
}

int thmq_cluster_undrain(struct thmq_session *session, uint64_t id, uint64_t timeout_ns)
{
	return drain(session, id, false, timeout_ns);
}
