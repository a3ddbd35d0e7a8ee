/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.h - sessions, producers, consumers, administration: the client's half of the protocol in wire/frame.h.
 *
 * Every function mirrors the public one of the same name in thundermq.h (thmqi_client_X is thmq_X): arguments are
 * checked by the caller (lib/api): handles are open and of the right kind, options are copied and within bounds,
 * names are well-formed. Error texts are set here where only this room knows the cause.
 */
#ifndef THMQI_CLIENT_H
#define THMQI_CLIENT_H

#include "base/base.h"
#include "base/handle.h"
#include "reactor/reactor.h"
#include "transport/transport.h"

int thmqi_client_connect(struct thmq_env *env, struct thmqi_transport *transport,
			 struct thmqi_graveyard *graveyard, const char *url,
			 const struct thmq_session_opts *opts, struct thmq_session **ret_session);
int thmqi_client_session_close(struct thmq_session *session, uint64_t timeout_ns);
int thmqi_client_session_fd(struct thmq_session *session);
int thmqi_client_session_arm(struct thmq_session *session);
int thmqi_client_session_wait(struct thmq_session *session, uint64_t timeout_ns);
int thmqi_client_events(struct thmq_session *session, struct thmq_event *ret_events, uint32_t max);

int thmqi_client_topic_create(struct thmq_session *session, const char *name,
			      const struct thmq_topic_opts *opts);
int thmqi_client_topic_delete(struct thmq_session *session, const char *name);
int thmqi_client_topic_alter(struct thmq_session *session, const char *name, const struct thmq_topic_opts *opts, uint32_t what);
int thmqi_client_topic_list(struct thmq_session *session, struct thmq_topic_info *ret_infos,
			    uint32_t max);
int thmqi_client_topic_describe(struct thmq_session *session, const char *name,
				struct thmq_topic_info *ret_info);
int thmqi_client_partition_describe(struct thmq_session *session, const char *topic,
				    uint32_t partition, const char *group,
				    struct thmq_partition_info *ret_info);

int thmqi_client_txn_begin(struct thmq_session *session, const struct thmq_txn_opts *opts, struct thmq_txn **ret_txn);
uint64_t thmqi_client_txn_id(const struct thmq_txn *txn);
int thmqi_client_txn_ack(struct thmq_txn *txn, struct thmq_consumer *consumer, const struct thmq_message *message);
int thmqi_client_txn_prepare(struct thmq_txn *txn, uint64_t timeout_ns);
int thmqi_client_txn_commit(struct thmq_txn *txn, uint64_t timeout_ns);
int thmqi_client_txn_abort(struct thmq_txn *txn, uint64_t timeout_ns);
int thmqi_client_txn_watch(struct thmq_session *session, const char *name);
int thmqi_client_txn_decide(struct thmq_session *session, uint64_t id, uint32_t decision, uint64_t timeout_ns);
int thmqi_client_txn_list(struct thmq_session *session, struct thmq_txn_info *ret_infos, uint32_t max);
int thmqi_client_txn_force(struct thmq_session *session, uint64_t id, uint32_t decision, uint64_t timeout_ns);
struct thmq_env *thmqi_client_txn_env(const struct thmq_txn *txn);

int thmqi_client_delayed_cancel(struct thmq_session *session, const char *topic, uint32_t partition, uint64_t number);
int thmqi_client_key_find(struct thmq_session *session, const char *topic, uint32_t partition, const void *key,
			  uint32_t key_len, uint64_t before_offset, struct thmq_key_info *ret_info);
int thmqi_client_cluster_nodes(struct thmq_session *session, struct thmq_node *ret_nodes, uint32_t max);
int thmqi_client_cluster_add(struct thmq_session *session, uint64_t id, const char *address,
			     uint64_t timeout_ns);
int thmqi_client_cluster_remove(struct thmq_session *session, uint64_t id, uint64_t timeout_ns);
int thmqi_client_cluster_lead(struct thmq_session *session, uint64_t id, uint64_t timeout_ns);
int thmqi_client_cluster_drain(struct thmq_session *session, uint64_t id, bool on, uint64_t timeout_ns);

int thmqi_client_producer_open(struct thmq_session *session, const char *topic,
			       const struct thmq_producer_opts *opts,
			       struct thmq_producer **ret_producer);
int thmqi_client_producer_close(struct thmq_producer *producer, uint64_t timeout_ns);
uint32_t thmqi_client_producer_len_max(const struct thmq_producer *producer);
int thmqi_client_claim(struct thmq_producer *producer, const struct thmq_message_opts *opts,
		       uint32_t len, struct thmq_claim *ret_claim);
int64_t thmqi_client_commit(struct thmq_producer *producer, struct thmq_claim *claim);
int thmqi_client_abort(struct thmq_producer *producer, struct thmq_claim *claim);
int64_t thmqi_client_send_batch(struct thmq_producer *producer, const struct thmq_batch_message *messages, uint32_t count,
				const struct thmq_message_opts *opts);
int thmqi_client_claim_row(struct thmq_producer *producer, const struct thmq_message_opts *opts, uint32_t len, uint32_t count,
			   struct thmq_row *ret_row);
int64_t thmqi_client_commit_row(struct thmq_producer *producer, struct thmq_row *row, uint32_t count);
int thmqi_client_abort_row(struct thmq_producer *producer, struct thmq_row *row);
int64_t thmqi_client_send(struct thmq_producer *producer, const void *data, uint32_t len,
			  const struct thmq_message_opts *opts);
int thmqi_client_flush(struct thmq_producer *producer, uint64_t timeout_ns);
int64_t thmqi_client_producer_retry_ns(struct thmq_producer *producer);
int64_t thmqi_client_watermark(struct thmq_producer *producer);

int thmqi_client_consumer_open(struct thmq_session *session, const char *topic, const char *group,
			       const struct thmq_consumer_opts *opts,
			       struct thmq_consumer **ret_consumer);
int thmqi_client_consumer_close(struct thmq_consumer *consumer, uint64_t timeout_ns);
int thmqi_client_fetch(struct thmq_consumer *consumer, struct thmq_message *ret_messages,
		       uint32_t max);
int thmqi_client_release(struct thmq_consumer *consumer, struct thmq_message *messages,
			 uint32_t count);
int thmqi_client_ack(struct thmq_consumer *consumer, const struct thmq_message *message);
int thmqi_client_nack(struct thmq_consumer *consumer, const struct thmq_message *message, uint64_t delay_ns);
int thmqi_client_reject(struct thmq_consumer *consumer, const struct thmq_message *message, const char *reason);
int thmqi_client_extend(struct thmq_consumer *consumer, const struct thmq_message *message, uint64_t invisible_ns);
int thmqi_client_message_encoding(const struct thmq_consumer *consumer, const struct thmq_message *message);
int thmqi_client_message_deliveries(const struct thmq_consumer *consumer, const struct thmq_message *message);
int thmqi_client_message_priority(const struct thmq_consumer *consumer, const struct thmq_message *message);
int thmqi_client_consumer_flush(struct thmq_consumer *consumer, uint64_t timeout_ns);
int thmqi_client_seek(struct thmq_consumer *consumer, uint32_t partition, uint32_t start,
		      uint64_t value);
int thmqi_client_position(struct thmq_consumer *consumer, uint32_t partition, uint64_t *ret_offset);

int thmqi_client_group_list(struct thmq_session *session, const char *topic,
			    struct thmq_group_info *ret_infos, uint32_t max);
int thmqi_client_group_describe(struct thmq_session *session, const char *topic, const char *group,
				struct thmq_group_info *ret_info);
int thmqi_client_group_members(struct thmq_session *session, const char *topic, const char *group,
			       struct thmq_group_member *ret_members, uint32_t max);
int thmqi_client_group_owners(struct thmq_session *session, const char *topic, const char *group,
			      uint32_t *ret_members, uint32_t max);
int thmqi_client_group_reset(struct thmq_session *session, const char *topic, const char *group,
			     uint32_t partition, uint32_t start, uint64_t value, uint32_t flags);
int thmqi_client_group_delete(struct thmq_session *session, const char *topic, const char *group,
			      uint32_t flags);

int64_t thmqi_client_request(struct thmq_producer *producer, const void *data, uint32_t len,
			     const struct thmq_message_opts *opts, uint64_t timeout_ns, void *cookie);
int thmqi_client_call(struct thmq_producer *producer, const void *data, uint32_t len,
		      const struct thmq_message_opts *opts, uint64_t timeout_ns,
		      struct thmq_response *ret_response);
int thmqi_client_responses(struct thmq_session *session, struct thmq_response *ret_responses,
			   uint32_t max);
int thmqi_client_response_release(struct thmq_session *session, struct thmq_response *responses,
				  uint32_t count);
int64_t thmqi_client_reply(struct thmq_session *session, const struct thmq_message *request,
			   const void *data, uint32_t len, const struct thmq_message_opts *opts);

/* Environment close: all sessions of it, in any state, without their threads. */
struct thmq_env *thmqi_client_env(const struct thmq_session *session);
struct thmq_env *thmqi_client_producer_env(const struct thmq_producer *producer);
struct thmq_env *thmqi_client_consumer_env(const struct thmq_consumer *consumer);

#endif
