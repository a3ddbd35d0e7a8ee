/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - whose copy a directory is: node.c. */
#ifndef THMQI_BROKER_NODE_H
#define THMQI_BROKER_NODE_H

#include "replica/courier.h"

struct thmq_broker;

/* Its directory is locked. Of another node: -EINVAL, of another cluster, damaged, or emptied: -THMQ_ECORRUPT; with a text. */
int thmqi_node_open(struct thmq_broker *b);
int thmqi_node_made(struct thmq_broker *b); /* all copies are there, and durable */
void thmqi_node_close(struct thmq_broker *b);
/* Of this broker, as others are to see it. */
const struct thmqi_node_mark *thmqi_node_mark(const struct thmq_broker *b);
/* Of the brokers that it was given, as the first batch of its logs has them: others get the same number only of the same ones. 0: it is not new any more, or joins. */
uint32_t thmqi_node_list(const struct thmq_broker *b);
/*
 * Is another one of number @id, and of @mark, the one that was met before? 0; -ENOTUNIQ; -EREMCHG both are new, and what they were given differs, so that the log of
 * one could never go on with that of the other; -EAGAIN it is new here, and there is no room until it is known who is of the cluster. Any core; writes where it is news.
 */
int thmqi_node_meet(void *broker, uint64_t id, const struct thmqi_node_mark *mark, uint32_t list);

/* Where others are, as the log of one shard says; the one of another shard may be behind that. Any core */
void thmqi_node_place(struct thmq_broker *b, const struct thmqi_members *members);
bool thmqi_node_placed(struct thmq_broker *b, uint64_t id, struct thmqi_member *ret);
/* @from speaks to @b, and is to be answered: no log of @b's may say where it is. Any core, while neither closes */
void thmqi_node_hear(struct thmq_broker *b, struct thmq_broker *from);

/* Have not all others that vote met it yet, in any of its lives? */
bool thmqi_node_is_new(struct thmq_broker *b);
void thmqi_node_known(struct thmq_broker *b); /* they have. Any core */

#endif
