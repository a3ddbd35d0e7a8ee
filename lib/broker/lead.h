/* SPDX-License-Identifier: Apache-2.0 */
/* lead.h - what a shard has besides where it is one of several copies; of its core, but for what is under the lock. */
#ifndef THMQI_BROKER_LEAD_H
#define THMQI_BROKER_LEAD_H

#include "internal.h"

struct lead {
	struct shard *shard;
	struct thmqi_group
		*group; /* NULL: it could not be opened again, and the shard has failed */
	char *dir;
	/* as the group has told */
	uint32_t role; /* enum thmqi_role */
	uint64_t term, leader;
	uint64_t committed;
	uint64_t begin_index; /* of the first batch of the term in which it leads */
	uint64_t marked_term; /* in which something was appended so that all have the same */
	bool serves; /* it leads, and all up to begin_index is committed: what the log told is true */
	bool rebuild; /* something that was told was taken back: all of it is to be told again */
	struct thmqi_list waiting; /* connections that are welcomed once it serves */
	struct thmqi_timer timer;
	bool wire_full; /* a message was refused for now */

	/* runs that are committed and wait for all copies: a ring of PENDING_COUNT */
	struct pending *all;
	uint64_t all_head, all_tail;
	struct mailbox *box;  /* what came from other brokers of the environment: cluster.c */
	struct letter *taken; /* of these, to be given to the group, in order */
};

#endif
