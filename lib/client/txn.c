/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn.c - transactions, as their session has them: what was sent and acknowledged in them, and how they end. Who decides is the broker; here it
 * is counted what it must have got. doc/transactions.md
 */
#include <stdio.h>

#include "txn.h"

#define AGAIN_NS 1000000u

/* --------------------------------------------------------------------- messages */

int thmqi_txn_plan(const struct thmq_producer *p, const struct thmq_message_opts *opts, uint32_t has)
{
	const struct thmq_txn *t = opts->txn;

	if (!thmqi_handle_is(t, THMQI_HANDLE_TXN) || t->session != p->session || t->ending ||
	    (has & (THMQ_RECORD_DELAY | THMQ_RECORD_EXPECT_END | THMQ_RECORD_EXPECT_KEY)))
		return -EINVAL;
	return p->is_volatile ? -ENOTSUP : 0;
}

static struct thmq_txn *find(const struct thmq_session *s, uint64_t id)
{
	struct thmq_txn *t = s->txns;

	while (t && t->id != id)
		t = t->next;
	return t;
}

bool thmqi_txn_takes(const struct thmq_session *s, uint64_t id)
{
	const struct thmq_txn *t = find(s, id);

	return t && !t->ending;
}

void thmqi_txn_sent(struct thmq_producer *p, uint64_t id)
{
	struct thmq_txn *t = find(p->session, id);

	if (!t)
		return;
	t->count++;
	t->streams[p->stream / 64] |= 1ull << p->stream % 64;
}

int thmqi_client_txn_ack(struct thmq_txn *t, struct thmq_consumer *c, const struct thmq_message *message)
{
	const uint64_t next = message->offset + THMQI_MAX(message->span, 1u);
	struct txn_ack *a, *more;
	struct reading *r;
	uint32_t i;

	if (c->shared)
		return -EOPNOTSUPP;
	if (t->session != c->session || t->ending || !c->grouped || message->partition >= c->reading_count ||
	    message->internal[1] >> 48 != (VIEW_MARK | c->stream))
		return -EINVAL;
	r = thmqi_reading(c, message->partition);
	if (next - 1 >= r->handed)
		return -EINVAL;
	if (c->session->dead)
		return c->session->dead;
	if (r->state != READING_ON && r->state != READING_DRAINING)
		return r->resumes ? -EAGAIN : -THMQ_EFENCED;
	for (i = 0; i < t->ack_count; i++) {
		a = &t->acks[i];
		if (a->partition != r->partition || a->group_id != r->group_id)
			continue;
		if (a->epoch != r->epoch || a->link != r->link) /* it was another's meanwhile */
			return -THMQ_EFENCED;
		a->next = THMQI_MAX(a->next, next);
		return 0;
	}
	if (t->ack_count == t->ack_room) {
		more = realloc(t->acks, (t->ack_room * 2 + 8) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		t->acks = more;
		t->ack_room = t->ack_room * 2 + 8;
	}
	t->acks[t->ack_count++] = (struct txn_ack){.link = r->link,
						   .partition = r->partition,
						   .group_id = r->group_id,
						   .stream = c->stream,
						   .epoch = r->epoch,
						   .next = next};
	return 0;
}

/* -------------------------------------------------------------------- begin, end */

static bool never(void *arg)
{
	(void)arg;
	return false;
}

/* Of the core of meta; while something is being decided there, again. */
static int ask(struct thmq_session *s, const struct thmqi_request *r, uint64_t deadline, const struct thmqi_reply **ret_reply)
{
	int rc;

	for (;;) {
		rc = thmqi_session_request(s, s->links[THMQI_SHARD_META], r, deadline, ret_reply);
		if (rc != -EBUSY || thmqi_session_now(s) >= deadline)
			return rc == -EBUSY ? -ETIMEDOUT : rc;
		rc = thmqi_session_block(s, never, NULL, THMQI_MIN(deadline, thmqi_session_deadline(s, AGAIN_NS)));
		if (rc != -ETIMEDOUT)
			return rc;
	}
}

static const char *why(int rc)
{
	switch (rc) {
	case -ENOTSUP:
		return "this broker has none: it has no directory";
	case -ECANCELED:
		return "it was aborted";
	case -THMQ_EFENCED:
		return "it was aborted: another has its name, or what it acknowledges";
	case -EIO:
		return "it was aborted: some of its messages are not stored; thmq_events() tells which";
	case -EALREADY:
		return "it is committed";
	default:
		return thmqi_session_why(rc);
	}
}

int thmqi_client_txn_begin(struct thmq_session *s, const struct thmq_txn_opts *opts, struct thmq_txn **ret_txn)
{
	struct thmqi_request r = {.op = THMQI_OP_TXN_BEGIN,
				  .session_timeout_ns = opts->timeout_ns,
				  .retention_ns = opts->check_ns,
				  .index = opts->check_max,
				  .topic_flags = s->opts.reconnect_ns ? THMQI_TXN_STAYS : 0};
	struct thmq_txn *t = calloc(1, sizeof(*t));
	const struct thmqi_reply *reply;
	int rc;

	if (!t)
		return thmqi_fail(-ENOMEM, "no memory for a transaction");
	while (!t->secret)
		t->secret = thmqi_prng_next(&s->prng);
	snprintf(t->name, sizeof(t->name), "%s", opts->name ? opts->name : "");
	memcpy(r.group, t->name, sizeof(t->name));
	r.member = t->secret;
	rc = ask(s, &r, thmqi_session_deadline(s, s->opts.timeout_ns), &reply);
	if (!rc && !reply->value[0])
		rc = -THMQ_EVERSION;
	if (rc) {
		free(t);
		return thmqi_fail(rc, "begin a transaction: %s", why(rc));
	}
	t->handle.kind = THMQI_HANDLE_TXN;
	t->session = s;
	t->id = reply->value[0];
	t->next = s->txns;
	s->txns = t;
	*ret_txn = t;
	return 0;
}

uint64_t thmqi_client_txn_id(const struct thmq_txn *t)
{
	return t->id;
}

struct thmq_env *thmqi_client_txn_env(const struct thmq_txn *t)
{
	return t->session->env;
}

static void txn_free(struct thmq_txn *t)
{
	struct thmq_txn **at = &t->session->txns;

	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	free(t->acks);
	t->acks = NULL;
	thmqi_handle_bury(t->session->graveyard, &t->handle);
}

/* All that was sent is at the broker, or was refused. */
static int settle(struct thmq_txn *t, uint64_t deadline)
{
	struct thmq_session *s = t->session;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < THMQI_STREAMS && !rc; i++)
		if (t->streams[i / 64] & 1ull << i % 64 && s->producers[i])
			rc = thmqi_producer_settle(s->producers[i], deadline);
	return rc;
}

static int send_acks(struct thmq_txn *t, uint64_t deadline)
{
	struct thmqi_request r = {.op = THMQI_OP_TXN_OFFSET, .member = t->id};
	uint32_t i;
	int rc = 0;

	for (i = 0; i < t->ack_count && !rc; i++) {
		const struct txn_ack *a = &t->acks[i];

		r.partition = a->partition;
		r.group_id = a->group_id;
		r.stream = a->stream;
		r.session_timeout_ns = a->epoch;
		r.before_offset = a->next;
		do
			rc = thmqi_session_request(t->session, a->link, &r, deadline, NULL);
		while (rc == -EAGAIN && thmqi_session_now(t->session) < deadline);
	}
	return rc;
}

/* Nobody knows what becomes of it: it is asked again. */
static bool is_open_still(int rc)
{
	return rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -EDEADLK || rc == -EAGAIN || rc == -THMQ_ENOQUORUM || rc == -THMQ_ENOTLEADER;
}

static int end(struct thmq_txn *t, uint32_t what, uint64_t deadline)
{
	const struct thmqi_request r = {.op = THMQI_OP_TXN_END,
				  .index = what,
				  .member = t->id,
				  .volatile_bytes = t->secret,
				  .before_offset = t->count + t->ack_count};

	t->ending = true;
	return ask(t->session, &r, deadline, NULL);
}

/* What was not heard of is aborted, here as there. */
static void give_up(struct thmq_txn *t, uint64_t deadline)
{
	if (!t->session->dead)
		end(t, THMQI_TXN_ABORT, deadline);
	txn_free(t);
}

static int commit(struct thmq_txn *t, uint32_t what, uint64_t deadline)
{
	int rc = t->ending ? 0 : settle(t, deadline);

	if (!rc && !t->ending) { /* else the shards know, and take no more */
		rc = send_acks(t, deadline);
		if (rc && !is_open_still(rc)) { /* its broker has not heard the end of it */
			give_up(t, deadline);
			return rc;
		}
	}
	if (!rc)
		rc = end(t, what, deadline);
	if (is_open_still(rc) || (!rc && what == THMQI_TXN_PREPARE) || (rc && t->prepared && rc != -ECANCELED))
		return rc;
	txn_free(t);
	return rc;
}

int thmqi_client_txn_commit(struct thmq_txn *t, uint64_t timeout_ns)
{
	int rc = commit(t, THMQI_TXN_COMMIT, thmqi_session_deadline(t->session, timeout_ns));

	return rc ? thmqi_fail(rc, "commit a transaction: %s", why(rc)) : 0;
}

int thmqi_client_txn_prepare(struct thmq_txn *t, uint64_t timeout_ns)
{
	int rc;

	if (t->prepared)
		return 0;
	if (t->ack_count || !t->name[0])
		return thmqi_fail(-EINVAL, "prepare a transaction: %s", t->ack_count ? "one that acknowledges cannot wait" : "it has no name");
	rc = commit(t, THMQI_TXN_PREPARE, thmqi_session_deadline(t->session, timeout_ns));
	if (rc)
		return thmqi_fail(rc, "prepare a transaction: %s", why(rc));
	t->prepared = true;
	return 0;
}

int thmqi_client_txn_abort(struct thmq_txn *t, uint64_t timeout_ns)
{
	struct thmq_session *s = t->session;
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns);
	int rc = s->dead ? 0 : settle(t, deadline); /* what came behind the end would be refused, and its producer told */

	if (!s->dead && rc != -EDEADLK)
		rc = end(t, THMQI_TXN_ABORT, deadline);
	if (rc == -EDEADLK)
		return thmqi_fail(rc, "abort a transaction: nobody drives the broker's core");
	txn_free(t);
	return rc ? thmqi_fail(rc, "abort a transaction: %s", why(rc)) : 0;
}

int thmqi_client_txn_watch(struct thmq_session *s, const char *name)
{
	struct thmqi_request r = {.op = THMQI_OP_TXN_WATCH};
	int rc;

	snprintf(r.group, sizeof(r.group), "%s", name);
	rc = thmqi_session_meta(s, &r, NULL);
	return rc ? thmqi_fail(rc, "watch transactions of %s: %s", name, why(rc)) : 0;
}

int thmqi_client_txn_decide(struct thmq_session *s, uint64_t id, uint32_t decision, uint64_t timeout_ns)
{
	const struct thmqi_request r = {
		.op = THMQI_OP_TXN_END, .index = decision, .member = id, .before_offset = UINT64_MAX};
	int rc = ask(s, &r, thmqi_session_deadline(s, timeout_ns), NULL);

	return rc ? thmqi_fail(rc, "decide about a transaction: %s", why(rc)) : 0;
}

/* ------------------------------------------------------------------- of anybody */

static bool take(const struct thmqi_txn_entry *from, void *to, uint32_t size)
{
	const struct thmqi_txn_entry e = *from; /* once: the page is the broker's too */
	struct thmq_txn_info info = {.size = size,
				     .state = e.state,
				     .id = e.id,
				     .since_ns = e.since_ns,
				     .left_ns = e.left_ns,
				     .checks = e.checks,
				     .check_max = e.check_max};

	if (!memchr(e.name, 0, sizeof(e.name)) || !memchr(e.identity, 0, sizeof(e.identity)))
		return false;
	memcpy(info.name, e.name, sizeof(info.name));
	memcpy(info.identity, e.identity, sizeof(info.identity));
	memset(to, 0, size);
	memcpy(to, &info, THMQI_MIN(size, sizeof(info)));
	return true;
}

/* Page by page, each beginning above the last one that is known. */
static int list(struct thmq_session *s, struct thmq_txn_info *ret_infos, uint32_t max)
{
	const uint32_t size = max ? ret_infos[0].size : 0;
	struct thmqi_request r = {.op = THMQI_OP_TXN_LIST};
	const struct thmqi_reply *reply;
	uint32_t n = 0, i, count, total;
	int rc;

	do {
		rc = thmqi_session_meta(s, &r, &reply);
		if (rc)
			return rc;
		count = reply->count;
		total = reply->total;
		if (count > THMQI_ARRAY_COUNT(reply->txns) || total > INT32_MAX)
			return -THMQ_EVERSION;
		for (i = 0; i < count && n < max; i++, n++) {
			if (reply->txns[i].id <= r.member || !take(&reply->txns[i], (char *)ret_infos + (size_t)n * size, size))
				return -THMQ_EVERSION;
			r.member = reply->txns[i].id;
		}
	} while (n < max && count == THMQI_ARRAY_COUNT(reply->txns));
	return n < max ? (int)n : (int)THMQI_MAX(total, n);
}

int thmqi_client_txn_list(struct thmq_session *s, struct thmq_txn_info *ret_infos, uint32_t max)
{
	int rc = list(s, ret_infos, max);

	if (rc == -ENOTSUP)
		return thmqi_fail(rc, "list transactions: the broker is older than that");
	return rc < 0 ? thmqi_fail(rc, "list transactions: %s", why(rc)) : rc;
}

int thmqi_client_txn_force(struct thmq_session *s, uint64_t id, uint32_t decision, uint64_t timeout_ns)
{
	const struct thmqi_request r = {
		.op = THMQI_OP_TXN_END, .index = decision, .member = id, .before_offset = UINT64_MAX, .topic_flags = THMQI_TXN_FORCE};
	int rc = ask(s, &r, thmqi_session_deadline(s, timeout_ns), NULL);

	if (rc == -ENOENT)
		return thmqi_fail(rc, "end a transaction: there is none of this number; it may be aborted already");
	if (rc == -EINVAL)
		return thmqi_fail(rc, "end a transaction: it is open still, and can only be aborted: whether all of it is there is for its session to say");
	return rc ? thmqi_fail(rc, "end a transaction: %s", why(rc)) : 0;
}

/* The broker aborts those of a connection that is closed, but for one that may come back. */
void thmqi_session_txns_close(struct thmq_session *s, uint64_t deadline)
{
	uint64_t most = THMQI_MIN(deadline, thmqi_session_deadline(s, 1000000000u));

	while (s->txns) {
		if (!s->dead && s->opts.reconnect_ns && !s->txns->prepared && !thmqi_session_stuck(s))
			end(s->txns, THMQI_TXN_ABORT, most);
		txn_free(s->txns);
	}
}
