/* SPDX-License-Identifier: Apache-2.0 */
/* node.c - what is known of a broker of a cluster, as an application has it. */
#include <stdio.h>

#include <thundermq/thundermq.h>

#include "wire/frame.h"

void thmqi_node_give(const struct thmqi_node_state *e, uint64_t leader, uint64_t term, const char *failed, struct thmq_node *ret_nodes, uint32_t at)
{
	const uint32_t size = ret_nodes[0].size;
	struct thmq_node node = {.size = size,
				 .role = e->role,
				 .id = e->id,
				 .leads = e->id == leader,
				 .connected = e->connected != 0,
				 .error = e->error,
				 .drained = e->drained != 0,
				 .behind = e->behind,
				 .term = term};
	void *to = (char *)ret_nodes + (size_t)at * size;

	memcpy(node.address, e->url, sizeof(node.address));
	node.address[sizeof(node.address) - 1] = 0; /* the other end could have written anything */
	if (failed)
		snprintf(node.failed, sizeof(node.failed), "%s", failed);
	memset(to, 0, size);
	memcpy(to, &node, THMQI_MIN(size, (uint32_t)sizeof(node)));
}
