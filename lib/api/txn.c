/* SPDX-License-Identifier: Apache-2.0 */
/* txn.c - the public face of transactions: checks, then calls down. */
#include "api/api.h"
#include "client/client.h"

#define is_session(s) thmqi_api_is_session(s)
#define is_consumer(c) thmqi_handle_is(c, THMQI_HANDLE_CONSUMER)
#define is_txn(t) thmqi_likely(thmqi_handle_is(t, THMQI_HANDLE_TXN))
#define is_txn_here(t) THMQI_API_IS(t, THMQI_HANDLE_TXN, thmqi_client_txn_env)

#define HOUR_NS 3600000000000ull
#define CHECKS_MAX 1000u

static int bad(const char *what)
{
	return thmqi_api_not_open(what);
}

void (thmq_txn_opts_init)(struct thmq_txn_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

int thmq_txn_begin(struct thmq_session *session, const struct thmq_txn_opts *opts, struct thmq_txn **ret_txn)
{
	struct thmq_txn_opts o;
	int rc;

	if (!is_session(session))
		return bad("session");
	if (!ret_txn)
		return thmqi_fail(-EINVAL, "begin a transaction: no place for the result");
	rc = thmqi_opts_copy(&o, sizeof(o), opts);
	if (rc)
		return thmqi_fail(rc, "transaction: options: %s", thmqi_opts_why(rc));
	if (o.flags || o.reserved)
		return thmqi_fail(-EINVAL, "transaction: unknown flags %#x", o.flags | o.reserved);
	if (o.timeout_ns > HOUR_NS || o.check_ns > HOUR_NS || o.check_max > CHECKS_MAX)
		return thmqi_fail(-EINVAL, "transaction: timeout_ns and check_ns are at most an hour, check_max %u", CHECKS_MAX);
	rc = o.name ? thmqi_api_name(o.name, THMQ_TOPIC_NAME_MAX, "transaction") : 0;
	return rc ? rc : thmqi_client_txn_begin(session, &o, ret_txn);
}

uint64_t thmq_txn_id(const struct thmq_txn *txn)
{
	return is_txn(txn) ? thmqi_client_txn_id(txn) : 0;
}

int thmq_txn_ack(struct thmq_txn *txn, struct thmq_consumer *consumer, const struct thmq_message *message)
{
	if (!is_txn(txn) || !is_consumer(consumer) || !message)
		return -EINVAL;
	return thmqi_client_txn_ack(txn, consumer, message);
}

int thmq_txn_prepare(struct thmq_txn *txn, uint64_t timeout_ns)
{
	return is_txn_here(txn) ? thmqi_client_txn_prepare(txn, timeout_ns) : bad("transaction");
}

int thmq_txn_commit(struct thmq_txn *txn, uint64_t timeout_ns)
{
	return is_txn_here(txn) ? thmqi_client_txn_commit(txn, timeout_ns) : bad("transaction");
}

int thmq_txn_abort(struct thmq_txn *txn, uint64_t timeout_ns)
{
	return is_txn_here(txn) ? thmqi_client_txn_abort(txn, timeout_ns) : bad("transaction");
}

int thmq_txn_watch(struct thmq_session *session, const char *name)
{
	int rc;

	if (!is_session(session))
		return bad("session");
	rc = thmqi_api_name(name, THMQ_TOPIC_NAME_MAX, "transaction");
	return rc ? rc : thmqi_client_txn_watch(session, name);
}

static int check_decision(const struct thmq_session *session, uint64_t id, uint32_t decision)
{
	if (!is_session(session))
		return bad("session");
	if (!id || (decision != THMQ_TXN_COMMIT && decision != THMQ_TXN_ABORT))
		return thmqi_fail(-EINVAL, "decide about a transaction: it is committed or aborted");
	return 0;
}

int thmq_txn_decide(struct thmq_session *session, uint64_t id, uint32_t decision, uint64_t timeout_ns)
{
	int rc = check_decision(session, id, decision);

	return rc ? rc : thmqi_client_txn_decide(session, id, decision, timeout_ns);
}

int thmq_txn_force(struct thmq_session *session, uint64_t id, uint32_t decision, uint64_t timeout_ns)
{
	int rc = check_decision(session, id, decision);

	return rc ? rc : thmqi_client_txn_force(session, id, decision, timeout_ns);
}

int thmq_txn_list(struct thmq_session *session, struct thmq_txn_info *ret_infos, uint32_t max)
{
	if (!is_session(session))
		return bad("session");
	if (max && (!ret_infos || thmqi_size_is_wrong(ret_infos[0].size)))
		return thmqi_fail(-EINVAL, "list transactions: set the size field of the first element");
	return thmqi_client_txn_list(session, ret_infos, max);
}
