/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carrier.h - the way between brokers that have copies of the same shards: each shard is a group (lib/replica), and its messages
 * leave by the carrier of its broker and come in by the calls below. A message may be lost, doubled, late: no more is asked of a carrier.
 */
#ifndef THMQI_BROKER_CARRIER_H
#define THMQI_BROKER_CARRIER_H

#include "replica/group.h"

struct thmq_broker;

struct thmqi_carrier {
	/*
	 * As thmqi_group_wire.send, for all groups of @from, on the core of the one that it is of. @address is member @message->to's; NULL: @from knows none, but
	 * was spoken to by it, perhaps: all that it knew may have been replaced while it was away.
	 */
	int (*send)(void *ctx, struct thmq_broker *from, const char *address,
		    const struct thmqi_message *message, struct thmqi_buf *buf);
	void *ctx;
	/* For tests that must be able to fail: enum thmqi_group_defect, and enum thmqi_log_defect, of all shards; that one also where there are no copies. */
	uint32_t defects, log_defects;
};

/* Which core a message for @group is to be given to; NULL: it is none of @broker's. Any thread, while it is open. */
struct thmq_core *thmqi_broker_group_core(struct thmq_broker *broker, uint64_t group);
/* On that core: as thmqi_group_receive(), thmqi_group_writable(). -EINVAL also where the group is none of its. */
int thmqi_broker_receive(struct thmq_broker *broker, const struct thmqi_message *message,
			 struct thmqi_buf *buf);
void thmqi_broker_writable(struct thmq_broker *broker, uint64_t group, uint64_t peer);

/* "1=inproc://a,2=tcp://host:port": 0; -EINVAL, with a text. All of them are voters. */
int thmqi_cluster_parse(const char *text, struct thmqi_members *ret);

#endif
