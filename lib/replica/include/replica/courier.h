/* SPDX-License-Identifier: Apache-2.0 */
/*
 * courier.h - the way between the copies of groups that lie on several machines: one connection for each other node, shared by all groups
 * of a core. A carrier (struct thmq_carrier of <thundermq/replica.h>) belongs to one core, and all calls to the thread that drives it.
 *
 * Who opens a group gives it the wire {thmqi_carried_send, its struct thmqi_carried}, joins the carrier once the group is open, and tells
 * it when members have changed. Nodes are found by the addresses of the groups' members, whose numbers are those of the nodes.
 */
#ifndef THMQI_REPLICA_COURIER_H
#define THMQI_REPLICA_COURIER_H

#include "replica/group.h"

struct thmqi_courier;
struct thmq_tls_opts;

#define THMQI_CLUSTER_NAME_MAX 31u

/* What a node is known by beside its number: a directory that is emptied, or put back from a copy, has another one, or an older one. */
struct thmqi_node_mark {
	uint64_t directory; /* by chance, when it was made; 0: it has none */
	uint64_t life;      /* rises with each open */
	uint64_t opening;   /* by chance, of that open */
};

struct thmqi_courier_opts {
	uint64_t id;         /* of this node */
	const char *cluster; /* its name: nodes of another one are refused; NULL: "" */
	const char *
		listen; /* tcp://host:port, port 0: any; NULL: it calls others, and is not called */
	const struct thmq_tls_opts
		*tls; /* of both sides; NULL: in clear, and nobody proves who he is */
	uint32_t
		lane; /* carriers of one node have different ones; both sides of a connection have the same */
	/* Where a node's carrier listens, of its address as a member. 0; -EINVAL. NULL: there. */
	int (*address_of)(const char *address, char *ret_url, size_t size);
	struct thmqi_courier
		*beside; /* another one of this node, of another core: it listens for both; NULL */
	struct thmqi_node_mark mark; /* of this node; zeros: none */
	uint32_t list; /* of which nodes its groups were begun, as a number that only the same ones give; 0: that is over, or not known */
	/* Is a node that calls, or answers, the one that it was? @list: as above. 0; an error: nothing is taken from it. Any core. NULL: nobody asks. */
	int (*meet)(void *ctx, uint64_t id, const struct thmqi_node_mark *mark, uint32_t list);
	void *meet_ctx;
	uint32_t silence_ms; /* a node that says nothing for so long is called anew; 0: 1000 */
};

int thmqi_courier_open(struct thmq_core *core, const struct thmqi_courier_opts *opts,
		       struct thmqi_courier **ret_carrier);
/* Is it on this core, and of this node? 0; -EINVAL, with a text. */
int thmqi_courier_fits(const struct thmqi_courier *c, const struct thmq_core *core, uint64_t id);
/* Groups that still are here send nothing any more. NULL is allowed. */
void thmqi_courier_close(struct thmqi_courier *c);
const char *thmqi_courier_url(const struct thmqi_courier *c); /* where it listens; "" */
/* Node @id is to be found at @url, whatever members say; NULL: as members say. 0; -EINVAL; -EHOSTUNREACH; -ENOMEM. Looks names up. */
int thmqi_courier_place(struct thmqi_courier *c, uint64_t id, const char *url);

/* A group on its carrier: memory of who opens the group. All zero before. */
struct thmqi_carried {
	struct thmqi_courier *carrier; /* NULL: none, and what is sent is lost */
	struct thmqi_group *group;
	uint64_t number;
};

/* struct thmqi_group_wire's send; @carried is its ctx. */
int thmqi_carried_send(void *carried, const struct thmqi_message *message, struct thmqi_buf *buf);
/* Once the group, of this number, is open. 0; -EEXIST another one has this number; -ENOMEM. */
int thmqi_courier_join(struct thmqi_courier *c, struct thmqi_carried *carried,
		       struct thmqi_group *group, uint64_t number);
/* Before the group is closed. */
void thmqi_courier_leave(struct thmqi_carried *carried);
/* The members of a group have changed: as group_events.members says. Looks names up that are new. */
void thmqi_courier_members(struct thmqi_courier *c);

struct thmqi_courier_peer {
	uint64_t id;
	bool connected, secure;
	int32_t error;        /* why it was not reached the last time; 0 */
	int32_t trouble;      /* while it is connected: what it says that it suffers from: thmqi_courier_say(); 0 */
	uint64_t connections; /* made so far */
	uint64_t messages_out, messages_in, bytes_out, bytes_in;
	uint64_t
		refused; /* messages that came and were not taken: of a group that is not here, or there was no room */
	char url[THMQI_ADDRESS_MAX]; /* "": it has called */
};
/* All nodes that are connected hear that this one suffers from @trouble, a negative errno; 0: from nothing. */
void thmqi_courier_say(struct thmqi_courier *c, int trouble);
/* The @index-th node that is known. False: there are no more. */
bool thmqi_courier_peer(const struct thmqi_courier *c, uint32_t index,
			struct thmqi_courier_peer *ret);

#endif
