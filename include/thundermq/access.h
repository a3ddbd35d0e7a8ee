/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.h - who may do what at a broker: rules in a file, a function of the host's, or both; and who hears of what was denied. Looked at
 * when a client connects, when it opens a producer or consumer, and with each call about topics; never with a message.
 * doc/access.md tells more.
 */
#ifndef THUNDERMQ_ACCESS_H
#define THUNDERMQ_ACCESS_H

#include <thundermq/thundermq.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Who a client is, as its transport has proven it: "local" (inproc), "uid:1000" (shm, as the kernel says), "cert:CN=name,O=…" (TLS: its
 * certificate's subject as in RFC 2253), "psk:name" (TLS: of its pre-shared key), "anonymous" (the others).
 */
#define THMQ_IDENTITY_MAX 255u /* bytes, without the final NUL */

enum thmq_operation {
	THMQ_OPERATION_CONNECT = 1,
	THMQ_OPERATION_CREATE = 2, /* a topic */
	THMQ_OPERATION_DELETE = 3,
	THMQ_OPERATION_DESCRIBE = 4, /* a topic, its partitions, its groups; a list has those that may be described */
	THMQ_OPERATION_PRODUCE = 5,
	THMQ_OPERATION_CONSUME = 6, /* also to look for a key */
	THMQ_OPERATION_ADMIN = 7,   /* what concerns the broker as a whole: members of a cluster, transactions of others; topic is NULL */
	THMQ_OPERATION_ALTER = 8    /* what a topic keeps, and how much may go through it */
};

/* What somebody wants to do, or was denied; or may do, but waits because of a limit: then error is -EAGAIN. */
struct thmq_access {
	uint32_t size;
	uint32_t operation;   /* enum thmq_operation */
	const char *identity; /* never NULL; during the call, as topic */
	const char *topic;    /* NULL: none */
	struct thmq_limits *limits; /* of THMQ_OPERATION_CONNECT: may be changed; all 0, or as the file of rules says. Else NULL */
	int32_t error;              /* to whoever audits: how it was answered */
	uint32_t reserved;
};

/**
 * thmq_broker_access_renew() - read the file of rules again
 * @broker: opened with an access_file
 * The new rules are for what is opened from then on, by new connections and old ones. Limits are those of new connections.
 * Return: 0; -EINVAL not an open broker, or the file says nothing sensible (thmq_errmsg() names the line); -ENOENT, -EACCES …: of the file.
 * A failed call leaves the rules that there were.
 * Threads: any that may block.
 */
THMQ_API int thmq_broker_access_renew(struct thmq_broker *broker);

#ifdef __cplusplus
}
#endif
#endif
