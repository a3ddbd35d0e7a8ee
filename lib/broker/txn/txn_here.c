/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn_here.c - what a shard has of transactions: their messages lie in their partitions as all others, with the transaction in the header
 * of the run; a state of the log says from where on, and what became of it. Consumers see a partition up to the first message of a transaction
 * that is open, and never one of an aborted one. Who decides is elsewhere: txn.c. A partition without transactions pays one bit.
 */
#include "commitlog/limit.h"
#include "txn.h"

#define SWEEP_MIN 4096u

/* -------------------------------------------------------------------- states */

struct item_key {
	uint64_t txn;
	uint32_t partition, group;
};
_Static_assert(sizeof(struct item_key) == 16, "hashed as it lies in memory");

static uint64_t item_key(uint64_t txn, uint32_t partition, uint32_t group)
{
	const struct item_key key = {txn, partition, group};

	return thmqi_hash64(&key, sizeof(key));
}

static uint64_t key_of(const struct state_txn *is)
{
	return item_key(is->txn, is->partition, is->group);
}

static int store(struct shard *s, const struct state_txn *is)
{
	struct pending *e;

	return thmqi_shard_append_state(s, STATE_TXN, key_of(is), is, sizeof(*is), &e);
}

static struct txns_here *make(struct shard *s)
{
	struct txns_here *t = s->txns;

	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->shard = s;
	t->lives = atomic_load(&s->broker->txn_lives);
	thmqi_map_init(&t->open);
	thmqi_map_init(&t->items);
	thmqi_map_init(&t->at);
	thmqi_list_init(&t->jobs);
	thmqi_list_init(&t->full);
	s->txns = t;
	return t;
}

/* ---------------------------------------------------------- what consumers see */

static const struct txn_item *first_of(const struct txn_at *at)
{
	return thmqi_container(at->items.next, const struct txn_item, at_link);
}

static struct txn_at *at_of(struct txns_here *t, struct partition *p)
{
	struct txn_at *at = thmqi_map_get(&t->at, p->id);

	if (at)
		return at;
	at = calloc(1, sizeof(*at));
	if (!at || thmqi_map_put(&t->at, p->id, at) != 0) {
		free(at);
		return NULL;
	}
	at->partition = p;
	at->visible = p->visible;
	thmqi_list_init(&at->items);
	return at;
}

uint64_t thmqi_txn_hold(struct shard *s, struct partition *p, uint64_t offset)
{
	struct txn_at *at = thmqi_map_get(&s->txns->at, p->id);
	struct thmqi_list *it;

	if (offset > at->visible) {
		at->visible = offset;
		thmqi_list_each(it, &p->subs)
		{
			struct sub *sub = thmqi_container(it, struct sub, partition_link);

			if (sub->uncommitted)
				thmqi_sub_ready(sub);
		}
	}
	return THMQI_MIN(offset, first_of(at)->is.begin);
}

uint64_t thmqi_txn_visible(const struct shard *s, const struct partition *p)
{
	const struct txn_at *at = thmqi_map_get(&s->txns->at, p->id);

	return at->visible;
}

bool thmqi_txn_hides(const struct shard *s, const struct thmq_run_header *run)
{
	const struct txn_item *it =
		s->txns ? thmqi_map_get(&s->txns->items, item_key(run->transaction, run->partition, 0)) : NULL;

	/* what lies before was committed: it came again behind its end, and that was refused */
	return it && it->is.status == TXN_IS_ABORTED && run->base_offset >= it->is.begin;
}

/* One of its transactions is over. */
static void release(struct txns_here *t, struct txn_at *at)
{
	struct partition *p = at->partition;
	uint64_t visible = at->visible;

	if (!thmqi_list_empty(&at->items)) {
		visible = THMQI_MIN(visible, first_of(at)->is.begin);
	} else {
		p->holds = false;
		thmqi_map_remove(&t->at, p->id);
		free(at);
	}
	if (!p->dead)
		thmqi_partition_show(p, visible);
}

/* --------------------------------------------------------------------- items */

/* By first offset: replay has no order. */
static void place_at(struct txn_at *at, struct txn_item *it)
{
	struct thmqi_list *behind = &at->items;

	while (behind->prev != &at->items && thmqi_container(behind->prev, struct txn_item, at_link)->is.begin > it->is.begin)
		behind = behind->prev;
	thmqi_list_add_tail(behind, &it->at_link);
}

/* An open one. @h has it from now on. */
static struct txn_item *item_make(struct txn_here *h, struct partition *p, const struct state_txn *is)
{
	struct txns_here *t = h->of;
	struct txn_at *at = is->group ? NULL : at_of(t, p);
	struct txn_item *it = at || is->group ? calloc(1, sizeof(*it)) : NULL;

	if (!it || thmqi_map_put(&t->items, key_of(is), it) != 0) {
		free(it);
		if (at && thmqi_list_empty(&at->items)) {
			thmqi_map_remove(&t->at, p->id);
			free(at);
		}
		return NULL;
	}
	it->is = *is;
	it->here = h;
	thmqi_list_init(&it->at_link);
	thmqi_list_add_tail(&h->items, &it->link);
	if (at) {
		place_at(at, it);
		p->holds = true;
	}
	return it;
}

/* It is over: an aborted one stays, without a transaction. */
static void item_over(struct txns_here *t, struct txn_item *it)
{
	struct txn_at *at = it->is.group ? NULL : thmqi_map_get(&t->at, it->is.partition);
	bool stays = !it->is.group && it->is.status == TXN_IS_ABORTED;

	thmqi_list_del(&it->link);
	thmqi_list_del(&it->at_link);
	it->here = NULL;
	if (!stays) {
		thmqi_map_remove(&t->items, key_of(&it->is));
		free(it);
	}
	if (at)
		release(t, at);
}

/* ---------------------------------------------------------------- transactions */

static struct shard *meta_of(const struct shard *s)
{
	return &s->broker->shards[THMQI_SHARD_META];
}

static void later(struct txn_here *h)
{
	if (thmqi_list_empty(&h->job_link))
		thmqi_list_add_tail(&h->of->jobs, &h->job_link);
}

/* It is not known whether there is such a transaction (any more): that is asked. */
static struct txn_here *here_of(struct txns_here *t, uint64_t id)
{
	struct txn_here *h = thmqi_map_get(&t->open, id);

	if (h)
		return h;
	h = calloc(1, sizeof(*h));
	if (!h || thmqi_map_put(&t->open, id, h) != 0) {
		free(h);
		return NULL;
	}
	h->id = id;
	h->of = t;
	h->asks = true;
	thmqi_list_init(&h->items);
	thmqi_list_init(&h->job_link);
	later(h);
	return h;
}

static void finish(struct txn_here *h)
{
	thmqi_map_remove(&h->of->open, h->id);
	thmqi_list_del(&h->job_link);
	h->what = 0;
	h->job = NULL;
	h->over = true;
	if (!h->asking)
		free(h);
}

/* ------------------------------------------------------------------------ jobs */

/* Where nobody else has taken the partition over since: who did will do again what this transaction has done. */
static int may_acknowledge(const struct txn_here *h)
{
	struct thmqi_list *l;

	thmqi_list_each(l, &h->items)
	{
		const struct state_txn *is = &thmqi_container(l, struct txn_item, link)->is;
		struct partition *p = is->group ? thmqi_shard_partition(h->of->shard, is->partition) : NULL;
		const struct group_offset *g;

		if (!p || p->dead)
			continue;
		g = thmqi_offsets_get(p, is->group, false);
		if (!g || g->epoch != is->end || g->shared)
			return -THMQ_EFENCED;
	}
	return 0;
}

static bool acknowledges(const struct txn_here *h)
{
	const struct thmqi_list *l;

	for (l = h->items.next; l != &h->items; l = l->next)
		if (thmqi_container(l, const struct txn_item, link)->is.group)
			return true;
	return false;
}

static int vote(struct txn_here *h)
{
	struct shard *s = h->of->shard;
	int rc;

	h->job->status = s->failed ? -THMQ_EFAILED : may_acknowledge(h);
	h->job->value = h->count | TXN_VOTE_HAS | (acknowledges(h) ? TXN_VOTE_ACKS : 0);
	rc = thmqi_settle_post(s, h->job, meta_of(s), thmqi_txn_answered);
	if (rc)
		return rc;
	h->voted = true;
	h->what = 0;
	h->job = NULL;
	return 0;
}

static int commit_offset(struct shard *s, struct partition *p, const struct state_txn *is)
{
	struct group_offset *g = thmqi_offsets_get(p, is->group, true);
	uint64_t before;
	int rc;

	if (!g)
		return -ENOMEM;
	if (g->shared || (g->offset != UINT64_MAX && g->offset >= is->begin))
		return 0;
	before = g->offset;
	g->offset = is->begin;
	rc = thmqi_offsets_store(s, g);
	if (rc)
		g->offset = before;
	return rc;
}

static int end_item(struct txns_here *t, struct txn_item *it, uint32_t status)
{
	struct shard *s = t->shard;
	struct partition *p = thmqi_shard_partition(s, it->is.partition);
	struct state_txn is = it->is;
	uint64_t lent;
	int rc = 0;

	is.status = status;
	if (p && !p->dead) {
		lent = thmqi_log_lend(s->log); /* what is read behind it, and may go then, waits for this */
		if (is.group && status == TXN_IS_COMMITTED)
			rc = commit_offset(s, p, &is);
		if (!is.group)
			is.end = p->next_offset;
		rc = rc ? rc : store(s, &is);
		thmqi_log_lend_end(s->log, lent);
	}
	if (rc)
		return rc;
	it->is = is;
	item_over(t, it);
	return 0;
}

/* Once all of it up to now is durable, meta hears of @status. 0; -EAGAIN */
static int answer(struct txn_here *h, int status)
{
	struct shard *s = h->of->shard;
	int rc;

	if (!h->job)
		return 0;
	h->job->status = status;
	rc = thmqi_settle_post(s, h->job, meta_of(s), thmqi_txn_answered);
	if (!rc)
		h->job = NULL;
	return rc;
}

static int end_all(struct txn_here *h, uint32_t status)
{
	struct shard *s = h->of->shard;
	int rc = 0, told;

	while (!rc && !thmqi_list_empty(&h->items))
		rc = end_item(h->of, thmqi_list_first(&h->items, struct txn_item, link), status);
	if (rc == -EAGAIN)
		return rc;
	if (thmqi_is_full(rc) && !s->closing) {
		/* that it is aborted is so without this; of a commit meta must know that it is not told yet */
		told = status == TXN_IS_ABORTED ? answer(h, 0) : 0;
		return told ? told : rc;
	}
	told = answer(h, rc);
	if (told)
		return told;
	h->what = 0;
	if (!rc)
		finish(h); /* else it stays as it is until it is asked for again: at the next open */
	return 0;
}

/* 0, and @h may be gone; -EAGAIN: it is to be tried again; -ENOSPC and the like: when there is room. */
static int step(struct txn_here *h)
{
	switch (h->what) {
	case TXN_VOTE:
		return vote(h);
	case TXN_COMMIT:
		return end_all(h, TXN_IS_COMMITTED);
	case TXN_ABORT:
		return end_all(h, TXN_IS_ABORTED);
	default:
		return 0;
	}
}

static void begin(struct txn_here *h, enum txn_job what, struct thmqi_broker_post *post)
{
	h->what = (uint8_t)what;
	h->job = post;
	later(h);
}

/* On the core of the shard. Where there is nothing of it there is nothing to be done. */
static void on_job(struct thmqi_broker_post *post, enum txn_job what)
{
	struct shard *s = post->shard;
	struct txn_here *h = s->txns ? thmqi_map_get(&s->txns->open, post->value) : NULL;

	post->status = thmqi_lead_serves(s) ? 0 : -THMQ_ENOTLEADER;
	post->value = 0;
	if (h && !h->what && !post->status) {
		begin(h, what, post);
		return;
	}
	/* its end may be on its way to the log: who led meta before had told it. As long as it is not even appended that is not said */
	if (what == TXN_COMMIT && !h && !post->status && thmqi_settle_post(s, post, meta_of(s), thmqi_txn_answered) == 0)
		return;
	if (what == TXN_COMMIT)
		post->status = -THMQ_ENOTLEADER; /* again */
	thmqi_broker_post(post, meta_of(s), thmqi_txn_answered);
}

void thmqi_txn_vote(struct thmqi_broker_post *post)
{
	on_job(post, TXN_VOTE);
}

void thmqi_txn_commit(struct thmqi_broker_post *post)
{
	on_job(post, TXN_COMMIT);
}

void thmqi_txn_abort(struct thmqi_broker_post *post)
{
	on_job(post, TXN_ABORT);
}

/* ------------------------------------------------------------------------- ask */

static void on_told(struct thmqi_broker_post *post)
{
	struct txn_here *h = thmqi_container(post, struct txn_here, ask);

	atomic_fetch_sub(&post->shard->broker->txn_asks, 1);
	h->asking = false;
	if (h->over) {
		free(h);
		return;
	}
	if (h->asks) { /* in another term: that may be another answer */
		later(h);
		return;
	}
	/* thmqi_txn_again(); a vote that is under way is for a meta that is none any more */
	if (post->value == TXN_NOT_KNOWN || (post->value == TXN_IS_NONE && h->what == TXN_VOTE))
		h->asks = true;
	if (post->value == TXN_HAS_VOTED)
		h->voted = true;
	if (post->value == TXN_IS_NONE && !h->what)
		begin(h, TXN_ABORT, NULL);
}

static void on_asked(struct thmqi_broker_post *post)
{
	const struct txn_here *h = thmqi_container(post, struct txn_here, ask);
	struct shard *s = h->of->shard;

	post->value = thmqi_txn_ask(s->broker->meta, h->id, s->id);
	thmqi_broker_post(post, s, on_told);
}

static void ask(struct txn_here *h)
{
	struct shard *s = h->of->shard;

	h->asks = false;
	h->asking = true;
	atomic_fetch_add(&s->broker->txn_asks, 1);
	thmqi_broker_post(&h->ask, meta_of(s), on_asked);
}

void thmqi_txn_room(struct shard *s)
{
	struct thmqi_list *l;

	while (s->txns && !thmqi_list_empty(&s->txns->full)) {
		l = s->txns->full.next;
		thmqi_list_del(l);
		thmqi_list_add_tail(&s->txns->jobs, l);
		s->stuck = true; /* looked at soon */
	}
}

uint32_t thmqi_txn_poll(struct shard *s)
{
	struct thmqi_list *l, *tmp;
	uint32_t done = 0;
	int rc;

	if (s->closing) /* they are given up, and whoever waits for them goes on */
		thmqi_txn_room(s);
	if (!thmqi_lead_serves(s))
		return 0;
	thmqi_list_each_safe(l, tmp, &s->txns->jobs)
	{
		struct txn_here *h = thmqi_container(l, struct txn_here, job_link);

		if (h->asks && !h->asking && !s->closing)
			ask(h);
		if (!h->what) {
			thmqi_list_del(&h->job_link);
			continue;
		}
		thmqi_list_del(&h->job_link);
		rc = step(h);
		if (rc == 0) {
			done++;
			continue;
		}
		if (thmqi_is_full(rc)) {
			thmqi_list_add_tail(&s->txns->full, &h->job_link);
			continue;
		}
		later(h); /* the log takes nothing for now */
		s->stuck = true;
		break;
	}
	return done;
}

/* --------------------------------------------------------------------- messages */

static bool takes(const struct partition *p)
{
	return !p->is_volatile && !(p->retention && p->retention->compacts);
}

uint64_t thmqi_txn_of(const struct thmqi_frame *f)
{
	uint32_t head = f->key_len + THMQI_PRODUCE_TAG_LEN(f->extra);
	uint64_t id;

	if (f->len - head < sizeof(id))
		return 0;
	memcpy(&id, (const uint8_t *)(uintptr_t)f->data + head, sizeof(id));
	return id;
}

/* The state that says where it begins lies before its first message. */
static int item_begin(struct txns_here *t, struct partition *p, const struct state_txn *is, struct txn_item **ret)
{
	struct txn_here *h = here_of(t, is->txn);
	int rc;

	if (!h)
		return -ENOMEM;
	if (h->voted || h->what)
		return -ECANCELED;
	*ret = item_make(h, p, is);
	if (!*ret)
		return -ENOMEM;
	rc = store(t->shard, is);
	if (rc)
		item_over(t, *ret); /* open: it goes */
	return rc;
}

int thmqi_txn_enter(struct conn *c, const struct thmqi_frame *f, struct partition *p, struct txn_item **ret_item)
{
	const uint32_t others = THMQI_PRODUCE_WITH(THMQI_RECORD_EXPECT | THMQ_RECORD_DELAY);
	const struct state_txn is = {
		.txn = thmqi_txn_of(f), .partition = p->id, .begin = p->next_offset, .status = TXN_IS_OPEN};
	struct shard *s = c->shard;
	struct txns_here *t;
	struct txn_item *it;

	if (!is.txn || (f->extra & others))
		return -EINVAL;
	if (!takes(p))
		return -ENOTSUP;
	t = make(s);
	if (!t)
		return -ENOMEM;
	it = thmqi_map_get(&t->items, key_of(&is));
	if (!it)
		return item_begin(t, p, &is, ret_item);
	if (it->is.status != TXN_IS_OPEN || it->here->voted || it->here->what)
		return -ECANCELED;
	*ret_item = it;
	return 0;
}

void thmqi_txn_mark(struct thmq_run_header *run, uint64_t id)
{
	struct thmq_record *record = (struct thmq_record *)(run + 1);
	uint8_t *from = (uint8_t *)(record + run->count), *to = from;
	uint32_t i, head, padded;

	run->transaction = id;
	if (run->encoding != THMQ_RUN_RECORDS) /* its bytes alone were copied */
		return;
	for (i = 0; i < run->count; i++, record++) {
		head = (uint32_t)record->key_len + record->tag_len;
		padded = THMQI_ALIGN_UP(record->size, 8u);
		record->size -= (uint32_t)sizeof(id);
		memmove(to, from, head);
		memmove(to + head, from + head + sizeof(id), record->size - head);
		from += padded;
		padded = THMQI_ALIGN_UP(record->size, 8u);
		memset(to + record->size, 0, padded - record->size);
		to += padded;
	}
	run->len = (uint32_t)(to - (uint8_t *)(run + 1));
}

void thmqi_txn_entered(struct txn_item *it, uint32_t count)
{
	it->here->count += count;
}

/* --------------------------------------------------------------------- offsets */

/* Whose it is to say so: as of an ACK. */
static int check_offset(struct conn *c, const struct thmqi_request *r, struct partition *p)
{
	const struct group_offset *g;

	if (!p || p->dead)
		return p ? -THMQ_ENOTOPIC : -THMQ_ENOPARTITION;
	if (p->is_volatile)
		return -ENOTSUP;
	g = thmqi_offsets_get(p, r->group_id, false);
	if (!r->group_id || !r->member || !g)
		return -EINVAL;
	if (g->shared)
		return -EOPNOTSUPP;
	if (!g->owner || g->owner->conn != c || g->owner->stream != r->stream || g->epoch != r->session_timeout_ns)
		return -THMQ_EFENCED;
	return r->before_offset > thmqi_visible_all(c->shard, p) ? -EINVAL : 0;
}

static int take_offset(struct conn *c, const struct thmqi_request *r)
{
	const struct state_txn is = {.txn = r->member,
				     .partition = r->partition,
				     .group = r->group_id,
				     .begin = r->before_offset,
				     .end = r->session_timeout_ns,
				     .status = TXN_IS_OPEN};
	struct partition *p = thmqi_shard_partition_asked(c->shard, r->partition);
	int rc = check_offset(c, r, p);
	struct txns_here *t = rc ? NULL : make(c->shard);
	struct txn_item *it;

	if (!t)
		return rc ? rc : -ENOMEM;
	it = thmqi_map_get(&t->items, key_of(&is));
	if (!it) {
		rc = item_begin(t, p, &is, &it);
		if (!rc)
			it->here->count++;
		return rc;
	}
	if (it->is.status != TXN_IS_OPEN || it->here->voted || it->here->what)
		return -ECANCELED;
	rc = store(c->shard, &is);
	if (!rc)
		it->is = is;
	return rc;
}

void thmqi_txn_offset(struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	thmqi_reply(c, id, take_offset(c, r));
}

bool thmqi_txn_keeps(const struct shard *s, uint32_t partition, uint32_t group)
{
	const struct txn_here *h;
	struct thmqi_list *l;
	uint32_t i = 0;

	while (group && (h = thmqi_map_next(&s->txns->open, &i))) {
		if (!h->voted && h->what != TXN_COMMIT && !h->asks && !h->asking)
			continue;
		thmqi_list_each(l, &h->items)
		{
			const struct state_txn *is = &thmqi_container(l, struct txn_item, link)->is;

			if (is->partition == partition && is->group == group)
				return true;
		}
	}
	return false;
}

/* ------------------------------------------------------------ open, and the log */

/* What is seen ends before the first of those that are open; what could be, were there none, is remembered. */
static void hide(struct txn_at *at)
{
	struct partition *p = at->partition;

	at->visible = THMQI_MAX(at->visible, p->visible);
	p->visible = THMQI_MIN(p->visible, first_of(at)->is.begin);
}

static int replay_open(struct txns_here *t, struct partition *p, const struct state_txn *is)
{
	struct txn_item *it = thmqi_map_get(&t->items, key_of(is));
	struct txn_here *h;
	struct txn_at *at;

	if (it) { /* written again */
		if (is->group)
			it->is = *is;
		return 0;
	}
	h = here_of(t, is->txn);
	if (!h || !item_make(h, p, is))
		return -ENOMEM;
	/* it may come behind what tells how far its partition is seen, and a copy may never lead, but be read all the same */
	at = t->shard->lead ? thmqi_map_get(&t->at, p->id) : NULL;
	if (at)
		hide(at);
	return 0;
}

static int replay_aborted(struct txns_here *t, const struct state_txn *is)
{
	struct txn_item *it = calloc(1, sizeof(*it));

	if (!it || thmqi_map_put(&t->items, key_of(is), it) != 0) {
		free(it);
		return -ENOMEM;
	}
	it->is = *is;
	thmqi_list_init(&it->link);
	thmqi_list_init(&it->at_link);
	return 0;
}

/* Of a copy's: its cleaner asks of each whether it is to be kept only where it leads. */
static void sweep(struct txns_here *t)
{
	struct txn_item *it;
	uint64_t begin, end;
	uint32_t i = 0;

	if (t->items.count < THMQI_MAX(t->sweep_at, SWEEP_MIN))
		return;
	while ((it = thmqi_map_next(&t->items, &i))) {
		const struct partition *p = it->here ? NULL : thmqi_shard_partition(t->shard, it->is.partition);

		if (!p || !p->log || thmq_log_bounds(p->log, p->id, &begin, &end) != 0 || begin < it->is.end)
			continue;
		thmqi_map_remove(&t->items, key_of(&it->is));
		free(it); /* others may be moved by that, and be looked at next time */
	}
	t->sweep_at = t->items.count * 2;
}

void thmqi_txn_replay(struct shard *s, const struct thmq_log_run *run, struct partition *p)
{
	struct txns_here *t;
	struct txn_here *h;
	struct txn_item *it;
	struct state_txn is;
	int rc = 0;

	if (run->header->len < sizeof(is))
		return;
	memcpy(&is, run->payload, sizeof(is));
	if (key_of(&is) != run->header->base_offset || !p || p->dead || p->is_volatile)
		return;
	t = make(s);
	it = t ? thmqi_map_get(&t->items, key_of(&is)) : NULL;
	if (!t) {
		rc = -ENOMEM;
	} else if (is.status == TXN_IS_OPEN) {
		rc = it && !it->here ? 0 : replay_open(t, p, &is);
	} else if (it && it->here) {
		h = it->here;
		it->is.status = is.status;
		it->is.end = is.end;
		item_over(t, it);
		if (thmqi_list_empty(&h->items))
			finish(h);
	} else if (!it && is.status == TXN_IS_ABORTED && !is.group) {
		rc = replay_aborted(t, &is);
	}
	if (s->lead)
		sweep(t);
	s->writers_missing |= rc != 0;
}

/* What was open when meta was led anew is known to nobody any more, also where this shard was led by the same one all the time. */
void thmqi_txn_again(struct shard *s)
{
	uint32_t lives = atomic_load(&s->broker->txn_lives), i = 0;
	struct txn_here *h;

	while (s->txns && (h = thmqi_map_next(&s->txns->open, &i))) {
		h->asks |= s->txns->lives != lives;
		if (h->asks && !h->asking)
			later(h);
	}
	if (s->txns)
		s->txns->lives = lives;
}

void thmqi_txn_begin(struct shard *s)
{
	struct txn_here *h;
	struct txn_at *at;
	uint32_t i = 0;

	if (!s->txns)
		return;
	while (s->lead && (h = thmqi_map_next(&s->txns->open, &i))) { /* it may have led before: what it knew is old */
		h->asks = true;
		h->voted = false;
		later(h);
	}
	i = 0;
	while ((at = thmqi_map_next(&s->txns->at, &i)))
		hide(at);
}

int thmqi_txn_renew(struct shard *s, uint64_t item)
{
	struct txn_item *it = s->txns ? thmqi_map_get(&s->txns->items, item) : NULL;
	struct partition *p = it ? thmqi_shard_partition(s, it->is.partition) : NULL;
	uint64_t begin, end;

	if (!it)
		return 0;
	if (it->here)
		return store(s, &it->is);
	/* what it hides is gone */
	if (!p || p->dead || thmq_log_bounds(p->log, p->id, &begin, &end) != 0 || begin >= it->is.end) {
		thmqi_map_remove(&s->txns->items, item);
		free(it);
		return 0;
	}
	return store(s, &it->is);
}

void thmqi_txn_deposed(struct shard *s)
{
	struct txn_here *h;
	uint32_t i = 0;

	while (s->txns && (h = thmqi_map_next(&s->txns->open, &i))) {
		thmqi_list_del(&h->job_link);
		h->what = 0;
		if (!h->job)
			continue;
		h->job->status = -THMQ_ENOTLEADER;
		thmqi_broker_post(h->job, meta_of(s), thmqi_txn_answered);
		h->job = NULL;
	}
}

/* Nothing of it is to be done any more: thmqi_txn_deposed(). */
static void forget_all(struct txns_here *t)
{
	struct txn_here *h;
	struct txn_item *it;
	struct txn_at *at;
	uint32_t i;

	for (i = 0; (it = thmqi_map_next(&t->items, &i));)
		free(it);
	for (i = 0; (at = thmqi_map_next(&t->at, &i)); free(at))
		at->partition->holds = false;
	for (i = 0; (h = thmqi_map_next(&t->open, &i));) {
		h->over = true;
		if (!h->asking)
			free(h);
	}
	thmqi_map_fini(&t->items);
	thmqi_map_fini(&t->at);
	thmqi_map_fini(&t->open);
	thmqi_list_init(&t->jobs);
	thmqi_list_init(&t->full);
}

void thmqi_txn_reset(struct shard *s)
{
	if (!s->txns)
		return;
	forget_all(s->txns);
	thmqi_map_init(&s->txns->items);
	thmqi_map_init(&s->txns->at);
	thmqi_map_init(&s->txns->open);
}

void thmqi_txn_fini(struct shard *s)
{
	struct txns_here *t = s->txns;

	if (!t)
		return;
	forget_all(t);
	free(t);
	s->txns = NULL;
}
