/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deliver.c - the path of a message out: a partition that a consumer attached to is read run by run, as far as it
 * is visible and the consumer's credits go; the consumer holds each run in place until it releases it.
 */
#include "commitlog/hint.h"
#include "internal.h"

#define AGE_TURNS 16u /* in one of so many is it measured how old messages are */
#define SIFT_COST 64u /* messages that are looked at cost as much as a run that is handed over */

void thmqi_sub_ready(struct sub *sub)
{
	if (!sub->ready && !sub->failed) {
		sub->ready = true;
		thmqi_list_add_tail(&sub->conn->shard->ready, &sub->ready_link);
	}
}

/* ------------------------------------------------------------------- pump */

/* Nothing of these offsets is missing: they were stepped over when the log was opened. What had been seen there is told by lost.c. */
static bool never_held(const struct partition *p, uint64_t from, uint64_t to)
{
	return from >= p->hole_begin && to <= p->hole_end;
}

void thmqi_sub_gap(struct sub *sub, uint64_t offset)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_GAP,
				.stream = sub->stream,
				.partition = sub->partition->id,
				.seq = offset,
				.arg = {sub->next, 0},
				.generation = sub->generation};

	/* what was compacted is no loss: something newer is there for it */
	bool is_news = !never_held(sub->partition, sub->next, offset) && !thmqi_retain_only_compacts(sub->partition);

	sub->next = offset;
	thmqi_sift_place(sub, offset);
	thmq_log_reader_seek(sub->reader, offset);
	if (is_news)
		thmqi_conn_send(sub->conn, &f);
}

void thmqi_sub_trouble(struct sub *sub, uint64_t offset, int error)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_TROUBLE,
				.stream = sub->stream,
				.partition = sub->partition->id,
				.seq = offset,
				.status = error};

	sub->failed = true;
	thmqi_conn_send(sub->conn, &f);
}

void thmqi_sub_pay(struct sub *sub, uint32_t messages, uint32_t bytes)
{
	struct shard *s = sub->conn->shard;
	struct topic_here *t = s->topics.at[sub->partition->topic];
	struct conn *c = sub->conn;

	thmqi_rates_take(t->rates, c->limited ? &c->client->rates : NULL, true, s->core->now_ns, bytes, messages);
}

bool thmqi_sub_may(struct sub *sub)
{
	struct shard *s = sub->conn->shard;
	struct topic_here *t = s->topics.at[sub->partition->topic];
	struct conn *c = sub->conn;
	struct allowance a;

	if (thmqi_rates_allow(t->rates, c->limited ? &c->client->rates : NULL, true, s->core->now_ns, &a)) {
		sub->held = false;
		return true;
	}
	if (!sub->held) {
		t->throttled++;
		s->throttled++;
		thmqi_guard_waits(c, sub->partition, sub->stream, true);
	}
	sub->held = true;
	return false;
}

static void deliver(struct sub *sub, struct consumer *k, struct thmqi_frame *f, struct delivery *d)
{
	const struct thmq_run_header *run = d->view.run.header;
	const struct thmq_record *record = (const struct thmq_record *)(run + 1);
	uint64_t end = run->base_offset + run->span;

	thmqi_delivery_take(k, d);
	d->out = true;
	d->log = sub->partition->log;
	d->bytes = run->len;
	d->count = THMQI_MAX(run->count, 1u);
	k->held_bytes += d->bytes;
	k->held_count += d->count;
	if (run->count == 1 && run->span == 1 && run->encoding == THMQ_RUN_RECORDS && !(run->flags & THMQ_RUN_SPARSE) &&
	    run->len >= sizeof(struct thmq_record) && sub->next <= run->base_offset && !record->flags) {
		f->type = THMQI_FRAME_DELIVER_ONE;
		f->flags = record->tag_len;
		f->key_len = record->key_len;
		f->extra = record->size;
		f->seq = (uint64_t)run->first_time_ns + (uint64_t)record->time_delta_us * 1000;
	} else {
		f->type = THMQI_FRAME_DELIVER;
		f->flags = 0;
		f->seq = THMQI_MAX(sub->next, run->base_offset);
	}
	f->stream = sub->stream;
	f->partition = sub->partition->id;
	f->data = (uint64_t)(uintptr_t)run;
	f->len = (uint32_t)sizeof(*run) + run->len;
	f->arg[0] = d->index | (uint64_t)d->generation << 32;
	f->arg[1] = end;
	f->generation = sub->generation;
	thmqi_conn_commit(sub->conn);
	sub->next = end;
	thmqi_sub_count(sub, run->count, run->len);
}

/* Runs to come may join the newest batch: it is not behind it yet. */
void thmqi_sub_caught_up(struct sub *sub)
{
	const struct volatile_ring *ring = sub->partition->ring;

	if (sub->partition->is_volatile)
		sub->read_bytes = ring->appended_bytes - thmqi_batch_room(ring->batch_bytes);
}

/* By the time of its newest message, which may be its producer's own. */
static void note_age(struct shard *s, const struct thmq_run_header *run)
{
	int64_t age = (int64_t)s->core->wall_ns - run->last_time_ns;

	thmqi_hist_add(&s->publisher.delivered, age > 0 ? (uint64_t)age : 0);
}

void thmqi_sub_later(struct sub *sub)
{
	thmqi_sub_ready(sub);
	sub->conn->shard->stuck = true;
}

/* A run that was read for one that wants some messages only. Return: what it costs of the budget. */
static uint32_t deliver_sifted(struct sub *sub, struct consumer *k, struct thmqi_frame *f)
{
	const struct thmq_run_header *run = k->free->view.run.header;
	uint64_t end = run->base_offset + run->span;
	struct sifted is;

	if (!thmqi_sift_run(sub, run, sub->next, &is)) {
		sub->next = THMQI_MAX(sub->next, end);
		thmq_log_view_release(sub->partition->log, &k->free->view);
		return 1 + is.looked / SIFT_COST;
	}
	sub->next = THMQI_MAX(sub->next, is.first);
	deliver(sub, k, f, k->free);
	sub->sift_from = is.end;
	return 1 + is.looked / SIFT_COST;
}

/* Nothing can be read now: what the index said of tags is behind it all the same. */
static void pass_over(struct sub *sub)
{
	uint64_t stands = thmqi_log_reader_stands(sub->reader);

	sub->next = THMQI_MAX(sub->next, THMQI_MIN(stands, sub->partition->visible));
	if (sub->next >= sub->partition->visible)
		thmqi_sub_caught_up(sub);
}

/* A run of a transaction. True: it was aborted, and nobody sees it. */
static bool pass_aborted(struct sub *sub, struct consumer *k)
{
	const struct thmq_run_header *run = k->free->view.run.header;

	if (sub->uncommitted || !thmqi_txn_hides(sub->conn->shard, run))
		return false;
	sub->next = THMQI_MAX(sub->next, run->base_offset + run->span);
	thmq_log_view_release(sub->partition->log, &k->free->view);
	return true;
}

/* Give @sub what it can have. Return: runs delivered. */
static uint32_t pump(struct sub *sub, uint32_t budget)
{
	struct consumer *k = thmqi_sub_consumer(sub);
	struct partition *p = sub->partition;
	struct thmqi_frame *f;
	uint64_t begin, end, visible = p->visible;
	uint32_t done = 0;
	int rc;

	if (thmqi_unlikely(sub->uncommitted))
		visible = thmqi_visible_all(sub->conn->shard, p);
	if (thmqi_unlikely(sub->resolving)) {
		if (sub->shared)
			return thmqi_shared_pump(sub, budget);
		if (!thmqi_sub_resolve(sub))
			return 0;
	}
	while (done < budget && sub->next < visible && thmqi_consumer_has_credit(k)) {
		if (thmqi_unlikely(sub->limited) && !thmqi_sub_may(sub)) {
			thmqi_sub_later(sub);
			return done;
		}
		f = thmqi_conn_claim(sub->conn);
		if (!f)
			break;
		rc = thmq_log_read(sub->reader, visible, &k->free->view);
		if (thmqi_unlikely(rc == 1 && k->free->view.run.header->transaction) && pass_aborted(sub, k)) {
			done++;
			continue;
		}
		if (thmqi_unlikely(rc == 1 && !(++sub->conn->shard->publisher.turns % AGE_TURNS)))
			note_age(sub->conn->shard, k->free->view.run.header);
		if (thmqi_unlikely(rc == 1 && sub->sift)) {
			done += deliver_sifted(sub, k, f);
		} else if (rc == 1) {
			done++;
			deliver(sub, k, f, k->free);
		} else if (rc == 0) {
			if (thmqi_unlikely(sub->sift != NULL))
				pass_over(sub);
			return done; /* the reader calls when it has read */
		} else if (rc == -THMQ_EOFFSETRANGE) {
			if (thmq_log_bounds(p->log, p->id, &begin, &end) != 0)
				begin = p->visible;
			if (begin <= sub->next) { /* it is held all the same: what is there is never skipped */
				thmqi_sub_trouble(sub, sub->next, -THMQ_ECORRUPT);
				return done;
			}
			thmqi_sub_gap(sub, begin);
			sub->read_bytes =
				p->is_volatile ? p->ring->appended_bytes - p->ring->bytes / 2 : 0;
			done++;
		} else {
			thmqi_sub_trouble(sub, sub->next, rc);
			return done;
		}
	}
	if (sub->next >= visible) {
		thmqi_sub_caught_up(sub);
	} else if (done >= budget) {
		thmqi_sub_ready(sub); /* others first */
	} else if (thmqi_consumer_has_credit(k) && !sub->failed) {
		thmqi_sub_ready(sub); /* the ring is full: again when the client has read */
		sub->conn->shard->stuck = true;
	}
	return done;
}

/* It is closed by what it does at its begin only: pump() calls thmqi_sub_resolve(), and then does nothing. */
static uint32_t pump_sifted(struct sub *sub)
{
	uint32_t done;

	if (sub->resolving && !thmqi_sub_resolve(sub))
		return 0;
	done = pump(sub, 64);
	thmqi_sift_settle(sub);
	return done;
}

bool thmqi_sub_hand(struct sub *sub, const struct thmq_run_header *run, uint32_t len)
{
	struct consumer *k = thmqi_sub_consumer(sub);
	const struct partition *p = sub->partition;
	struct conn *c = sub->conn;
	struct delivery *d = k->free;
	struct thmqi_frame f;

	if (sub->ready || sub->failed || sub->resolving || sub->sift || sub->limited || c->backlog_count || c->rests || !c->wire->hand ||
	    !thmqi_consumer_has_credit(k) || sub->next > p->next_offset || !thmqi_log_reader_awaits(sub->reader, p->next_offset))
		return false;
	f.type = THMQI_FRAME_DELIVER_ONE;
	f.flags = 0;
	f.key_len = 0;
	f.stream = sub->stream;
	f.partition = p->id;
	f.len = (uint32_t)(sizeof(*run) + sizeof(struct thmq_record)) + THMQI_ALIGN_UP(len, 8u);
	f.extra = len;
	f.seq = (uint64_t)c->shard->core->wall_ns;
	f.data = (uint64_t)(uintptr_t)run;
	f.arg[0] = d->index | (uint64_t)d->generation << 32;
	f.arg[1] = p->next_offset + 1;
	f.tag_hash = 0;
	f.generation = sub->generation;
	if (!c->wire->hand(c->wire, &f))
		return false;
	c->wrote = true;
	sub->next = f.arg[1];
	sub->handed = true;
	return true;
}

void thmqi_sub_handed(struct sub *sub, uint32_t run_len)
{
	struct consumer *k = thmqi_sub_consumer(sub);
	struct delivery *d = k->free;

	sub->handed = false;
	/* its memory is the link's: nothing of the log is held for it */
	thmqi_delivery_take(k, d);
	d->view.internal[0] = NULL;
	d->out = true;
	d->log = sub->partition->log;
	d->bytes = run_len;
	d->count = 1;
	k->held_bytes += run_len;
	k->held_count++;
	thmqi_log_reader_pass(sub->reader, sub->next);
	thmqi_sub_caught_up(sub);
	thmqi_sub_count(sub, 1, run_len);
}

void thmqi_sub_offer(struct sub *sub)
{
	struct consumer *k = thmqi_sub_consumer(sub);
	struct thmqi_frame *f;

	if (thmqi_likely(!sub->ready && !sub->failed && !sub->resolving && !sub->sift && !sub->limited && thmqi_consumer_has_credit(k)) &&
	    (f = thmqi_conn_claim(sub->conn)) && thmqi_log_read_newest(sub->reader, &k->free->view)) {
		deliver(sub, k, f, k->free);
		thmqi_sub_caught_up(sub);
		return;
	}
	thmqi_sub_ready(sub);
}

uint32_t thmqi_sub_pump_all(struct shard *s)
{
	struct thmqi_list now, *it;
	struct conn *conn;
	struct sub *sub;
	uint32_t done = 0;

	if (thmqi_list_empty(&s->ready))
		return 0;
	/* those that become ready again wait for the next round */
	thmqi_list_init(&now);
	now = s->ready;
	now.next->prev = now.prev->next = &now;
	thmqi_list_init(&s->ready);
	while (!thmqi_list_empty(&now)) {
		it = now.next;
		thmqi_list_del(it);
		sub = thmqi_container(it, struct sub, ready_link);
		sub->ready = false;
		conn = sub->conn;
		if (thmqi_unlikely(sub->sift && !sub->shared))
			done += pump_sifted(sub);
		else
			done += pump(sub, 64); /* it may be closed then */
		thmqi_conn_kick(conn);
	}
	return done;
}
