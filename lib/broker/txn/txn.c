/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn.c - who decides about transactions: on the core of meta. A transaction is open in memory only; a broker that dies has aborted it. To commit
 * it all shards are asked to make durable what they have, then the decision is stored in meta's log, from where on it is committed; then
 * the shards are told. One that is prepared is stored too, and waits for a decision, whatever dies: those who watch its name are asked for one. Knows
 * nothing of messages: txn_here.c.
 */
#include <stdio.h>

#include "../copies/lead.h"
#include "txns.h"

#define OPEN_MAX 65536u /* at a time */
#define TIMEOUT_NS 60000000000ull
#define TIMEOUT_MAX_NS 3600000000000ull
#define CHECK_NS 30000000000ull
#define CHECK_MAX 15u
#define RETRY_NS 1000000u
#define LEADS_NS 20000000u /* a broker that leads meta leads all else soon */
#define ENDED_COUNT 16384u /* of the last ones that were committed, or fenced, it is known: who lost the answer asks again */

static void on_timer(struct thmqi_timer *timer);

static struct txns *make(struct meta *m)
{
	struct txns *t = m->txns;
	uint32_t i;

	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	if (t)
		t->ended = calloc(ENDED_COUNT, sizeof(*t->ended));
	if (!t || !t->ended) {
		free(t);
		return NULL;
	}
	t->meta = m;
	thmqi_map_init(&t->by_id);
	thmqi_map_init(&t->ended_ids);
	thmqi_list_init(&t->all);
	thmqi_list_init(&t->watchers);
	for (i = 0; i < NAMES; i++)
		thmqi_list_init(&t->named[i]);
	t->timer.fire = on_timer;
	m->txns = t;
	return t;
}

static struct txn *find(const struct meta *m, uint64_t id)
{
	return m->txns ? thmqi_map_get(&m->txns->by_id, id) : NULL;
}

static struct txn *txn_make(struct txns *t, uint64_t id)
{
	struct thmqi_list *behind = &t->all;
	struct txn *x;
	uint32_t i, shards = t->meta->cluster ? t->meta->cluster->shard_count : THMQ_SHARD_COUNT_MAX;

	if (t->meta->broker->shard_count > 1)
		shards = t->meta->broker->shard_count - 1;
	x = calloc(1, sizeof(*x) + shards * (sizeof(x->posts[0]) + sizeof(x->shards[0])));

	if (!x || thmqi_map_put(&t->by_id, id, x) != 0) {
		free(x);
		return NULL;
	}
	x->of = t;
	x->id = id;
	x->wanted = UINT64_MAX;
	x->storing.arg = x;
	x->shard_count = shards;
	x->shards = (uint8_t *)&x->posts[shards];
	for (i = 0; i < shards; i++)
		x->posts[i].arg = x;
	/* at the end, but where the log tells of them in another order */
	while (behind->prev != &t->all && thmqi_container(behind->prev, struct txn, link)->id > id)
		behind = behind->prev;
	thmqi_list_add_tail(behind, &x->link);
	thmqi_list_init(&x->named);
	return x;
}

static struct thmqi_list *named(struct txns *t, const char *name)
{
	return &t->named[thmqi_hash64(name, strlen(name)) % NAMES];
}

/* Of those that wait for a decision thousands may have one name: who begins another one does not look at them. */
static void become(struct txn *x, enum state state)
{
	x->state = (uint8_t)state;
	if (!x->name[0] || state == PREPARED)
		thmqi_list_del(&x->named);
	else if (thmqi_list_empty(&x->named))
		thmqi_list_add_tail(named(x->of, x->name), &x->named);
}

static void txn_free(struct txn *x)
{
	x->of->counts.prepared -= x->prepared;
	thmqi_map_remove(&x->of->by_id, x->id);
	thmqi_list_del(&x->link);
	thmqi_list_del(&x->named);
	free(x);
}

#define OK_ENDED 1u /* committed */

/* Who asks again learns @how: OK_ENDED, or an error, positive. @index: as in struct ended. */
static void remember(struct txns *t, uint64_t id, uintptr_t how, uint64_t index)
{
	struct ended *at = &t->ended[t->ended_count % ENDED_COUNT];

	if (thmqi_map_get(&t->ended_ids, id))
		return;
	if (at->id)
		thmqi_map_remove(&t->ended_ids, at->id);
	at->id = thmqi_map_put(&t->ended_ids, id, (void *)how) == 0 ? id : 0;
	at->index = index;
	t->ended_count++;
}

/* What the log told from @index on was taken back: who leads may have decided otherwise. */
static void forget_told(struct txns *t, uint64_t index)
{
	uint32_t i;

	for (i = 0; i < ENDED_COUNT; i++)
		if (t->ended[i].id && t->ended[i].index >= index) {
			thmqi_map_remove(&t->ended_ids, t->ended[i].id);
			t->ended[i].id = 0;
		}
}

static void answer(struct txn *x, int status)
{
	if (x->asker)
		thmqi_reply(x->asker, x->request, status);
	x->asker = NULL;
}

/* ------------------------------------------------------------------------- time */

static uint64_t now_of(const struct txns *t)
{
	return t->meta->shard->core->now_ns;
}

/* Something is to be done then. */
static void look_by(struct txns *t, uint64_t ns)
{
	if (!t->timer_on || t->timer.deadline_ns > ns)
		thmqi_timer_start(t->meta->shard->core, &t->timer, ns);
	t->timer_on = true;
}

/* -------------------------------------------------------------- to the shards */

static void on_ended(struct txn *x);

/* All shards, or, once they have voted, those that have something of it. False: the broker closes, and the next open does it. */
static bool tell_all(struct txn *x, enum state state, void (*what)(struct thmqi_broker_post *post))
{
	struct thmq_broker *b = x->of->meta->broker;
	uint32_t i, count = THMQI_MIN(b->shard_count - 1, x->shard_count);

	if (x->of->meta->follows_no_more)
		return false;
	become(x, state);
	x->waiting = 1; /* until all are told */
	x->status = 0;
	x->count = 0;
	for (i = 0; i < count; i++) {
		x->shards[i] &= (uint8_t)~SHARD_ANSWERED;
		if (x->voted && !(x->shards[i] & SHARD_HAS))
			continue;
		x->waiting++;
		x->posts[i].value = x->id;
		thmqi_broker_post(&x->posts[i], &b->shards[i + 1], what);
	}
	if (!--x->waiting) /* no shard has anything of it */
		on_ended(x);
	return true;
}

static void begin_abort(struct txn *x, int why)
{
	struct txns *t = x->of;

	x->decision = TXN_IS_ABORTED;
	if (why)
		answer(x, why);
	if (tell_all(x, ENDING, thmqi_txn_abort)) /* it may be gone */
		t->counts.aborted++;
}

static void on_stored(struct thmqi_broker_post *post);

static int store(struct txn *x, uint32_t status)
{
	struct shard *s = x->of->meta->shard;
	struct state_decision is = {.txn = x->id,
				    .status = status,
				    .check_max = x->check_max,
				    .check_ns = x->check_ns,
				    .time_ns = s->core->wall_ns};
	uint32_t len = STATE_DECISION_LEN_MIN;
	struct pending *e;
	int rc;

	if (status == TXN_IS_PREPARED) {
		memcpy(is.name, x->name, sizeof(is.name));
		is.secret = x->secret;
		len = sizeof(is);
	}
	rc = thmqi_shard_append_state(s, STATE_DECISION, x->id, &is, len, &e);
	if (rc)
		return rc;
	x->storing.run = on_stored;
	x->storing.shard = s;
	x->storing.status = 0;
	x->storing_on = true;
	e->post = &x->storing;
	return 0;
}

/* From here on it is what it is, once that is durable. */
static void decide(struct txn *x)
{
	int rc = x->of->meta->follows_no_more ? -EAGAIN : store(x, x->decision);

	become(x, STORING);
	x->stored = rc == 0;
	if (rc == -EAGAIN) {
		look_by(x->of, now_of(x->of) + RETRY_NS);
		return;
	}
	if (!rc)
		return;
	/* it cannot be stored, and so it is not committed: one that was prepared stays that */
	answer(x, rc);
	if (x->prepared)
		become(x, PREPARED);
	else
		begin_abort(x, 0);
}

static void on_voted(struct txn *x)
{
	uint64_t count = x->count;
	uint32_t i;
	bool has = false;

	x->voted = true;
	for (i = 0; i < x->shard_count; i++)
		has |= (x->shards[i] & SHARD_HAS) != 0;
	if (x->status || (x->wanted != UINT64_MAX && count != x->wanted)) {
		begin_abort(x, x->status == -THMQ_ENOTLEADER ? -ECANCELED : x->status ? x->status : -EIO);
		return;
	}
	if (x->acks && x->decision == TXN_IS_PREPARED) { /* its partitions would wait for whoever decides */
		begin_abort(x, -EINVAL);
		return;
	}
	if (!has && x->decision == TXN_IS_COMMITTED) { /* nothing is in it */
		x->of->counts.committed++;
		remember(x->of, x->id, OK_ENDED, 0);
		answer(x, 0);
		txn_free(x);
		return;
	}
	decide(x);
}

/* Copies need not know of it any more. One that is not told tells the shards once more when it leads. */
static void store_over(const struct txn *x)
{
	const struct state_decision is = {.txn = x->id, .status = TXN_IS_OVER, .time_ns = x->of->meta->shard->core->wall_ns};
	struct pending *e;

	thmqi_shard_append_state(x->of->meta->shard, STATE_DECISION, x->id, &is, STATE_DECISION_LEN_MIN, &e);
}

static void on_ended(struct txn *x)
{
	x->again = x->status == -THMQ_ENOTLEADER && x->decision == TXN_IS_COMMITTED;
	if (x->again) {
		look_by(x->of, now_of(x->of) + LEADS_NS);
		return;
	}
	if (x->status && x->decision == TXN_IS_COMMITTED) { /* as long as it is known it is stored again */
		become(x, IN_DOUBT);
		return;
	}
	if (x->of->meta->broker->cluster && x->decision == TXN_IS_COMMITTED)
		store_over(x);
	answer(x, 0);
	txn_free(x);
}

static void orphan_answered(struct txn *x)
{
	if (x->waiting || x->storing_on)
		return;
	atomic_fetch_sub(&x->of->meta->broker->txn_asks, 1);
	free(x);
}

void thmqi_txn_answered(struct thmqi_broker_post *post)
{
	struct txn *x = post->arg;
	uint8_t *shard = &x->shards[post - x->posts];

	if (post->status)
		x->status = post->status;
	x->count += post->value & TXN_VOTE_COUNT;
	x->acks |= (post->value & TXN_VOTE_ACKS) != 0;
	/* one that could not vote may have something: it may lead again by now, and have been told that the transaction goes on */
	*shard |= (uint8_t)((post->status ? 0 : SHARD_ANSWERED) | (post->value & TXN_VOTE_HAS || (post->status && x->state == VOTING) ? SHARD_HAS : 0));
	if (thmqi_unlikely(*shard & SHARD_ASKED) && x->state == ENDING && !post->status && !x->orphan && !x->of->meta->follows_no_more) {
		*shard &= (uint8_t)~SHARD_ASKED; /* what came too late is none of it */
		post->value = x->id;
		thmqi_broker_post(post, &x->of->meta->broker->shards[post - x->posts + 1], thmqi_txn_abort);
		return;
	}
	if (--x->waiting)
		return;
	if (x->orphan)
		orphan_answered(x);
	else if (x->state == VOTING)
		on_voted(x);
	else
		on_ended(x);
}

static void on_stored(struct thmqi_broker_post *post)
{
	struct txn *x = post->arg;

	x->storing_on = false;
	if (x->orphan) {
		orphan_answered(x);
		return;
	}
	if (post->status) { /* where another broker leads that one knows */
		become(x, IN_DOUBT);
		answer(x, post->status == -THMQ_ENOTLEADER ? -ECONNRESET : post->status);
		return;
	}
	if (x->decision == TXN_IS_PREPARED) {
		become(x, PREPARED);
		x->prepared = true;
		x->of->counts.prepared++;
		x->since_ns = x->of->meta->shard->core->wall_ns;
		x->stored = false;
		x->conn = NULL;
		x->next_check_ns = now_of(x->of) + x->check_ns;
		look_by(x->of, x->next_check_ns);
		answer(x, 0);
		return;
	}
	if (x->decision == TXN_IS_COMMITTED) {
		x->of->counts.committed++;
		remember(x->of, x->id, OK_ENDED, 0);
	} else {
		x->of->counts.aborted++;
	}
	answer(x, 0);
	tell_all(x, ENDING, x->decision == TXN_IS_COMMITTED ? thmqi_txn_commit : thmqi_txn_abort);
}

/* Nothing here says that it was committed; who led before may have decided that, and lead again with it. */
static bool may_come_true(struct meta *m, uint64_t id)
{
	if (!m->broker->cluster || id >> 32 == m->shard->term || (m->txns && thmqi_map_get(&m->txns->ended_ids, id)))
		return false;
	return !thmqi_lead_is_certain(m->shard);
}

enum txn_answer thmqi_txn_ask(struct meta *m, uint64_t id, uint32_t shard)
{
	struct txn *x;
	uint8_t is;

	/* meta is opened last: a shard may lead already; and one that was begun where another one leads is not known here */
	if (!m || (m->broker->cluster && (!thmqi_lead_serves(m->shard) || id >> 32 > m->shard->term)))
		return TXN_NOT_KNOWN;
	x = find(m, id);
	if (!x)
		return may_come_true(m, id) ? TXN_NOT_KNOWN : TXN_IS_NONE;
	is = x->shards[shard - 1];
	if (x->state == ENDING && x->decision == TXN_IS_ABORTED) /* it may not have led when all were told */
		return TXN_IS_NONE;
	/* what it has came too late: behind its vote, which said that there was nothing, or behind the end */
	if (x->voted && !(is & SHARD_HAS))
		return TXN_IS_NONE;
	if (is & SHARD_ANSWERED && (x->state == ENDING || (x->state == VOTING && !(is & SHARD_HAS))))
		return TXN_IS_NONE;
	if (x->state == ENDING)
		x->shards[shard - 1] |= SHARD_ASKED;
	return x->prepared || x->state > VOTING ? TXN_HAS_VOTED : TXN_GOES_ON;
}

/* ------------------------------------------------------------------------ checks */

static struct watcher *watcher_of(struct txns *t, const char *name)
{
	struct thmqi_list *l;

	thmqi_list_each(l, &t->watchers)
	{
		struct watcher *w = thmqi_container(l, struct watcher, link);

		if (strcmp(w->name, name) != 0)
			continue;
		thmqi_list_del(&w->link); /* the next one is another's */
		thmqi_list_add_tail(&t->watchers, &w->link);
		return w;
	}
	return NULL;
}

static bool watches(struct txns *t, const struct conn *c, const char *name)
{
	struct thmqi_list *l;

	thmqi_list_each(l, &t->watchers)
	{
		const struct watcher *w = thmqi_container(l, struct watcher, link);

		if (w->conn == c && strcmp(w->name, name) == 0)
			return true;
	}
	return false;
}

/* Somebody is asked what is to become of it; where nobody says so in time it is aborted. */
static void check(struct txn *x)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_TXN_CHECK, .seq = x->id};
	struct watcher *w;

	x->next_check_ns = now_of(x->of) + x->check_ns;
	if (x->checks++ >= x->check_max) {
		x->decision = TXN_IS_ABORTED;
		decide(x);
		return;
	}
	w = watcher_of(x->of, x->name);
	if (!w)
		return;
	f.arg[0] = x->checks;
	x->of->counts.checks++;
	thmqi_conn_send(w->conn, &f);
	thmqi_conn_kick(w->conn);
}

static void on_timer(struct thmqi_timer *timer)
{
	struct txns *t = thmqi_container(timer, struct txns, timer);
	uint64_t now = now_of(t), next = UINT64_MAX;
	struct thmqi_list *l, *tmp;

	t->timer_on = false;
	thmqi_list_each_safe(l, tmp, &t->all)
	{
		struct txn *x = thmqi_container(l, struct txn, link);

		if (x->state == OPEN && x->deadline_ns <= now)
			begin_abort(x, -ECANCELED);
		else if (x->state == PREPARED && x->next_check_ns <= now)
			check(x);
		else if (x->state == STORING && !x->stored)
			decide(x);
		else if (x->state == ENDING && x->again) {
			x->again = false;
			tell_all(x, ENDING, thmqi_txn_commit);
			continue;
		}
		if (x->state == OPEN)
			next = THMQI_MIN(next, x->deadline_ns);
		else if (x->state == PREPARED)
			next = THMQI_MIN(next, x->next_check_ns);
	}
	if (next != UINT64_MAX)
		look_by(t, next);
}

/* ---------------------------------------------------------------------- requests */

/* Who had the name is none any more: its transaction is aborted. One that is being decided is not taken away. */
static bool is_taken(struct txns *t, const char *name)
{
	struct thmqi_list *l, *tmp;
	bool taken = false;

	if (!name[0])
		return false;
	thmqi_list_each_safe(l, tmp, named(t, name))
	{
		struct txn *x = thmqi_container(l, struct txn, named);

		if (strcmp(x->name, name) != 0)
			continue;
		if (x->state == OPEN) {
			remember(t, x->id, THMQ_EFENCED, 0);
			begin_abort(x, 0);
		} else {
			taken |= x->state == VOTING || x->state == STORING;
		}
	}
	return taken;
}

void thmqi_txns_fence(struct meta *m, const char *name)
{
	if (m->txns)
		is_taken(m->txns, name);
}

static int begin(struct meta *m, struct conn *c, const struct thmqi_request *r)
{
	struct txns *t;
	struct txn *x;

	if (!m->shard->log)
		return -ENOTSUP;
	if (r->session_timeout_ns > TIMEOUT_MAX_NS || r->index > 1000 || r->retention_ns > TIMEOUT_MAX_NS)
		return -EINVAL;
	t = make(m);
	if (!t)
		return -ENOMEM;
	if (t->by_id.count >= OPEN_MAX)
		return -ENOBUFS;
	if (is_taken(t, r->group))
		return -EBUSY;
	x = txn_make(t, m->shard->term << 32 | (t->next + 1));
	if (!x)
		return -ENOMEM;
	t->next++;
	t->counts.begun++;
	x->conn = c;
	x->secret = r->member;
	x->stays = r->topic_flags & THMQI_TXN_STAYS;
	x->check_max = r->index ? r->index : CHECK_MAX;
	x->check_ns = r->retention_ns ? r->retention_ns : CHECK_NS;
	x->since_ns = m->shard->core->wall_ns;
	x->deadline_ns = now_of(t) + (r->session_timeout_ns ? r->session_timeout_ns : TIMEOUT_NS);
	memcpy(x->name, r->group, sizeof(x->name));
	become(x, OPEN);
	look_by(t, x->deadline_ns);
	c->wire->reply->value[0] = x->id;
	return 0;
}

/* Of one that is over, or about to be. */
static int what_became(const struct meta *m, const struct thmqi_request *r)
{
	uintptr_t how = m->txns ? (uintptr_t)thmqi_map_get(&m->txns->ended_ids, r->member) : 0;

	if (r->index == THMQI_TXN_ABORT)
		return how == OK_ENDED ? -EALREADY : 0;
	return how == OK_ENDED ? 0 : how ? -(int)how : -ECANCELED;
}

/* 0: its answer comes later; else it is that, and 1 is 0 */
static int end(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	static const uint8_t decisions[] = {
		[THMQI_TXN_COMMIT] = TXN_IS_COMMITTED, [THMQI_TXN_ABORT] = TXN_IS_ABORTED, [THMQI_TXN_PREPARE] = TXN_IS_PREPARED};
	const bool forced = r->topic_flags & THMQI_TXN_FORCE; /* who administers the broker may */
	struct txn *x = find(m, r->member);
	int rc;

	if (r->index < THMQI_TXN_COMMIT || r->index > THMQI_TXN_PREPARE)
		return -EINVAL;
	if (!x && may_come_true(m, r->member))
		return -EBUSY;
	if (!x || (x->state == ENDING && x->decision != decisions[r->index]) ||
	    (!x->secret && x->state != PREPARED && x->decision == TXN_IS_COMMITTED)) { /* as the log told */
		if (forced && !x && !(m->txns && thmqi_map_get(&m->txns->ended_ids, r->member)))
			return -ENOENT; /* a number that was mistyped is not taken for one that is aborted */
		rc = what_became(m, r);
		return rc ? rc : 1;
	}
	if (forced && x->state == OPEN && r->index != THMQI_TXN_ABORT)
		return -EINVAL; /* whether all of it is there its session knows */
	if (!forced && !(x->secret && x->secret == r->volatile_bytes) && !watches(m->txns, c, x->name))
		return -EPERM;
	if (x->state == IN_DOUBT)
		return -THMQ_EFAILED;
	if (x->state != OPEN && x->state != PREPARED) {
		if (x->decision != decisions[r->index] || (x->asker && x->asker != c))
			return -EBUSY;
		x->asker = c; /* if it was waiting before, it has given up */
		x->request = id;
		return 0;
	}
	if (x->state == PREPARED && r->index == THMQI_TXN_PREPARE)
		return 1;
	x->asker = c;
	x->request = id;
	x->decision = decisions[r->index];
	if (x->state == PREPARED) {
		decide(x);
	} else if (r->index == THMQI_TXN_ABORT) {
		begin_abort(x, 0);
	} else {
		x->wanted = r->before_offset;
		if (!tell_all(x, VOTING, thmqi_txn_vote)) {
			x->asker = NULL;
			return -ESHUTDOWN;
		}
	}
	return 0;
}

static int watch(struct meta *m, struct conn *c, const struct thmqi_request *r)
{
	struct txns *t;
	struct watcher *w;
	struct thmqi_list *l;

	if (!m->shard->log)
		return -ENOTSUP;
	if (!r->group[0])
		return -EINVAL;
	t = make(m);
	if (!t)
		return -ENOMEM;
	if (!watches(t, c, r->group)) {
		w = calloc(1, sizeof(*w));
		if (!w)
			return -ENOMEM;
		w->conn = c;
		memcpy(w->name, r->group, sizeof(w->name));
		thmqi_list_add_tail(&t->watchers, &w->link);
	}
	/* what waited for somebody is asked for soon */
	thmqi_list_each(l, &t->all)
	{
		struct txn *x = thmqi_container(l, struct txn, link);

		if (x->state == PREPARED && !x->checks && strcmp(x->name, r->group) == 0)
			look_by(t, x->next_check_ns);
	}
	return 0;
}

bool thmqi_txns_request(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	int rc;

	switch (r->op) {
	case THMQI_OP_TXN_BEGIN:
		thmqi_reply(c, id, begin(m, c, r));
		return true;
	case THMQI_OP_TXN_END:
		rc = end(m, c, id, r);
		if (rc)
			thmqi_reply(c, id, rc > 0 ? 0 : rc);
		return true;
	case THMQI_OP_TXN_WATCH:
		thmqi_reply(c, id, watch(m, c, r));
		return true;
	case THMQI_OP_TXN_LIST:
		thmqi_txns_list(m, c->wire->reply, r->member);
		thmqi_reply(c, id, 0);
		return true;
	default:
		return false;
	}
}

void thmqi_txns_conn_closed(struct meta *m, struct conn *c)
{
	struct thmqi_list *l, *tmp;

	if (!m->txns)
		return;
	thmqi_list_each_safe(l, tmp, &m->txns->watchers)
	{
		struct watcher *w = thmqi_container(l, struct watcher, link);

		if (w->conn != c)
			continue;
		thmqi_list_del(&w->link);
		free(w);
	}
	thmqi_list_each_safe(l, tmp, &m->txns->all)
	{
		struct txn *x = thmqi_container(l, struct txn, link);

		if (x->asker == c)
			x->asker = NULL;
		if (x->conn != c)
			continue;
		x->conn = NULL;
		if (x->state == OPEN && !x->stays)
			begin_abort(x, 0);
	}
}

/* ----------------------------------------------------------- open, close, and the log */

int thmqi_txns_replay(struct meta *m, const struct thmq_log_run *run)
{
	struct state_decision is = {0};
	struct txns *t;
	struct txn *x;

	if (run->header->len < STATE_DECISION_LEN_MIN)
		return 0;
	memcpy(&is, run->payload, THMQI_MIN((size_t)run->header->len, sizeof(is)));
	if (is.txn != run->header->base_offset || !memchr(is.name, 0, sizeof(is.name)))
		return -THMQ_ECORRUPT;
	t = make(m);
	x = t ? find(m, is.txn) : NULL;
	if (!t)
		return -ENOMEM;
	if (is.status == TXN_IS_ABORTED || is.status == TXN_IS_OVER) {
		if (is.status == TXN_IS_OVER)
			remember(t, is.txn, OK_ENDED, run->index);
		if (x)
			txn_free(x);
		return 0;
	}
	if (!x)
		x = txn_make(t, is.txn);
	if (!x)
		return -ENOMEM;
	x->decision = (uint8_t)is.status;
	become(x, is.status == TXN_IS_COMMITTED ? STORING : PREPARED);
	x->stored = true;
	t->counts.prepared += !x->prepared && is.status == TXN_IS_PREPARED;
	t->counts.prepared -= x->prepared && is.status != TXN_IS_PREPARED;
	x->prepared = is.status == TXN_IS_PREPARED;
	x->since_ns = is.time_ns;
	if (is.status == TXN_IS_COMMITTED)
		remember(t, x->id, OK_ENDED, run->index);
	if (!x->prepared)
		return 0;
	x->check_max = is.check_max;
	x->check_ns = is.check_ns;
	x->secret = is.secret;
	memcpy(x->name, is.name, sizeof(x->name));
	return 0;
}

/* Shards that have not heard of a commit hear of it now. */
void thmqi_txns_recover(struct meta *m)
{
	struct thmqi_list *l, *tmp;
	struct txns *t = m->txns;

	if (!t)
		return;
	thmqi_list_each_safe(l, tmp, &t->all)
	{
		struct txn *x = thmqi_container(l, struct txn, link);

		if (x->state == STORING) {
			tell_all(x, ENDING, thmqi_txn_commit);
		} else if (x->state == PREPARED) {
			x->next_check_ns = now_of(t) + x->check_ns;
			look_by(t, x->next_check_ns);
		}
	}
}

/* Nothing of one that is over: all shards have its end. */
int thmqi_txns_renew(struct meta *m, uint64_t item)
{
	struct txn *x = find(m, item);
	struct pending *e;
	struct state_decision is;

	if (!x || (!x->prepared && x->decision != TXN_IS_COMMITTED))
		return 0;
	if (x->state == OPEN || x->state == VOTING || (x->state == STORING && !x->stored && !x->prepared))
		return 0;
	is = (struct state_decision){.txn = x->id,
				     .status = x->state == PREPARED || (x->state == STORING && !x->stored) ? TXN_IS_PREPARED : x->decision,
				     .check_max = x->check_max,
				     .check_ns = x->check_ns,
				     .time_ns = x->prepared ? x->since_ns : m->shard->core->wall_ns};
	memcpy(is.name, x->name, sizeof(is.name));
	is.secret = x->secret;
	return thmqi_shard_append_state(m->shard, STATE_DECISION, item, &is, sizeof(is), &e);
}

bool thmqi_txns_wait(const struct meta *m)
{
	const struct thmqi_list *l;

	if (atomic_load(&m->broker->txn_asks))
		return true;
	for (l = m->txns ? m->txns->all.next : NULL; l && l != &m->txns->all; l = l->next)
		if (thmqi_container(l, const struct txn, link)->waiting)
			return true;
	return false;
}

void thmqi_txns_reset(struct meta *m)
{
	struct txns *t = m->txns;

	if (!t)
		return;
	if (t->timer_on)
		thmqi_timer_stop(m->shard->core, &t->timer);
	t->timer_on = false;
	t->next = 0; /* of another term */
	if (m->shard->lead->taken_back != UINT64_MAX)
		forget_told(t, m->shard->lead->taken_back);
	while (!thmqi_list_empty(&t->all)) {
		struct txn *x = thmqi_list_first(&t->all, struct txn, link);

		t->counts.aborted += x->state == OPEN || x->state == VOTING;
		if (!x->waiting && !x->storing_on) {
			txn_free(x);
			continue;
		}
		thmqi_map_remove(&t->by_id, x->id);
		thmqi_list_del(&x->link);
		thmqi_list_del(&x->named);
		t->counts.prepared -= x->prepared;
		x->orphan = true;
		x->asker = NULL;
		atomic_fetch_add(&m->broker->txn_asks, 1); /* a close waits for it */
	}
}

static void on_left(struct thmqi_broker_post *post)
{
	free(post->arg);
}

/* Its log has just failed, and said so by a post that has not come yet. */
static bool is_on_its_way(const struct shard *s, const struct thmqi_broker_post *post)
{
	uint64_t i;

	for (i = s->pending_head; i != s->pending_tail; i++)
		if (s->pending[i & (PENDING_COUNT - 1)].post == post)
			return false; /* it never will */
	return true;
}

void thmqi_txns_close(struct meta *m)
{
	struct txns *t = m->txns;

	if (!t)
		return;
	if (t->timer_on)
		thmqi_timer_stop(m->shard->core, &t->timer);
	while (!thmqi_list_empty(&t->watchers)) {
		struct watcher *w = thmqi_list_first(&t->watchers, struct watcher, link);

		thmqi_list_del(&w->link);
		free(w);
	}
	while (!thmqi_list_empty(&t->all)) {
		struct txn *x = thmqi_list_first(&t->all, struct txn, link);

		if (!x->storing_on || !is_on_its_way(m->shard, &x->storing)) {
			txn_free(x);
			continue;
		}
		thmqi_list_del(&x->link);
		thmqi_list_del(&x->named);
		x->storing.run = on_left;
	}
	thmqi_map_fini(&t->by_id);
	thmqi_map_fini(&t->ended_ids);
	free(t->ended);
	free(t);
	m->txns = NULL;
}
