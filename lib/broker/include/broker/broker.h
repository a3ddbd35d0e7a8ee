/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker.h - topics, partitions, groups over the commit log, served to links. Each shard (meta is shard 0) belongs to
 * one core and shares nothing with the others but messages posted to it.
 */
#ifndef THMQI_BROKER_H
#define THMQI_BROKER_H

#include "base/base.h"
#include "base/handle.h"
#include "reactor/reactor.h"
#include "transport/transport.h"

struct thmqi_carrier;

/*
 * Arguments are checked and options copied by lib/api. The returned object begins with a struct thmqi_handle. @carrier: how messages
 * of copies travel; NULL: as the addresses of the cluster say.
 */
int thmqi_broker_open(struct thmq_env *env, struct thmqi_transport *transport,
		      const struct thmq_broker_opts *opts, const struct thmqi_carrier *carrier,
		      struct thmq_broker **ret_broker);
/* thmq_broker_leader(). While the broker cannot be closed. */
int thmqi_broker_leader(struct thmq_broker *broker, uint64_t *ret_id);
/* thmq_broker_nodes(), each in full size. Likewise. */
int thmqi_broker_nodes(struct thmq_broker *broker, struct thmq_node *ret_nodes, uint32_t max);
/* Return: 0; -EDEADLK it cannot be closed now: a core of it has no thread. */
int thmqi_broker_can_close(struct thmq_broker *broker);
/* Frees the broker's memory but not the struct itself when @graveyard is given: it is buried there. */
int thmqi_broker_close(struct thmq_broker *broker, uint64_t timeout_ns,
		       struct thmqi_graveyard *graveyard);
struct thmq_env *thmqi_broker_env(const struct thmq_broker *broker);
/* While it is held the broker waits with closing; a copy that is being made then ends with -ESHUTDOWN. */
void thmqi_broker_copy_hold(struct thmq_broker *broker);
void thmqi_broker_copy_let_go(struct thmq_broker *broker);
int thmqi_broker_copy(struct thmq_broker *broker, const char *dest, uint64_t timeout_ns);
/* While the broker cannot be closed. */
int thmqi_broker_listen_url(struct thmq_broker *broker, uint32_t index, char *ret_url, uint32_t size);
/* thmq_broker_tls_renew() */
int thmqi_broker_access_renew(struct thmq_broker *broker);
int thmqi_broker_tls_renew(struct thmq_broker *b, const struct thmq_tls_opts *opts);
void thmqi_broker_stats(struct thmq_broker *broker, struct thmq_broker_stats *ret);

#endif
