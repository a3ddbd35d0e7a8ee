/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settle.c - what was appended has become as durable as was asked, or has failed: its producers are told, and consumers see it. What each
 * run waits for was noted by produce.c, oldest first. Nothing here allocates, locks or blocks.
 */
#include "copies/lead.h"

#define SETTLE_AHEAD 6u /* runs: their partitions may lie in no cache */
#define ALL_TIMEOUT_MS 10000u

void thmqi_partition_show(struct partition *p, uint64_t offset)
{
	struct thmqi_list *it;

	if (offset <= p->visible)
		return;
	p->visible = offset;
	thmqi_list_each(it, &p->subs)
		thmqi_sub_ready(thmqi_container(it, struct sub, partition_link));
}

static void report(struct conn *c, uint32_t stream, uint32_t partition, uint32_t level, uint64_t first_seq, uint32_t count,
		   uint64_t base_offset, int status)
{
	/* room was kept when the run was taken */
	struct thmqi_frame *f = thmqi_frame_claim(&c->wire->down, 0);

	if (!f)
		return;
	f->type = THMQI_FRAME_REPORT;
	f->flags = (uint8_t)level;
	f->stream = stream;
	f->partition = partition;
	f->seq = first_seq;
	f->len = count;
	f->arg[0] = base_offset;
	f->status = status;
	thmqi_conn_commit(c);
}

void thmqi_settle_report(struct conn *c, uint32_t stream, uint32_t partition, uint32_t level,
			uint64_t first_seq, uint32_t count, uint64_t base_offset)
{
	report(c, stream, partition, level, first_seq, count, base_offset, 0);
}

bool thmqi_settle_keep(struct lead *l, const struct pending *e)
{
	struct pending *kept = &l->all[l->all_tail & (PENDING_COUNT - 1)];

	if (l->all_tail - l->all_head == PENDING_COUNT)
		return false;
	*kept = *e;
	kept->kept_ms = (uint32_t)(l->shard->core->now_ns / 1000000u);
	l->all_tail++;
	return true;
}

static void settle_one(struct shard *s, struct pending *e, uint32_t durability)
{
	if (e->group) {
		if (durability == s->final && e->shared)
			thmqi_shared_durable(e->group, e->end_offset);
		else if (durability == s->final)
			thmqi_offsets_durable(e->group, e->end_offset);
		return;
	}
	if (e->change) {
		if (durability == s->final)
			thmqi_meta_durable(e->change, 0);
		return;
	}
	if (e->post) {
		if (durability == s->final)
			thmqi_broker_post(e->post, e->post->shard, e->post->run);
		return;
	}
	if (!e->partition)
		return;
	if (e->level && e->level <= durability) {
		if (e->conn) {
			if (e->report) {
				e->conn->reports_pending--;
				thmqi_settle_report(e->conn, e->stream, e->to ? e->to : e->partition->id, durability,
					    e->first_seq, e->count, e->base_offset);
			}
			thmqi_conn_progress(e->conn, e->stream, e->level, e->seq);
		}
		e->level = 0;
		e->acked = e->again ? 0 : (uint8_t)durability;
	}
	if (thmqi_unlikely(e->again))
		return;
	if (durability == s->final) {
		e->partition->durable = e->end_offset;
		/* its producer was told of less, and asks what is lost if this process dies */
		if (e->acked && e->acked < s->final && e->conn &&
		    e->life == e->conn->producers[e->stream].life)
			thmqi_conn_progress(e->conn, e->stream, 0, e->seq);
	}
	if (thmqi_likely(!e->part) && (e->partition->visible_at <= durability || durability == s->final))
		thmqi_partition_reach(s, e->partition, e->end_offset);
}

static void tell_dirty(struct shard *s)
{
	struct thmqi_list *it, *tmp;
	struct conn *c;

	thmqi_list_each_safe(it, tmp, &s->dirty_conns)
	{
		c = thmqi_container(it, struct conn, dirty_link);
		thmqi_conn_flush_progress(c);
		thmqi_conn_kick(c);
	}
}

void thmqi_settle_everywhere(struct shard *s, uint64_t index)
{
	struct lead *l = s->lead;
	struct pending *e;

	while (l->all_head != l->all_tail) {
		e = &l->all[l->all_head & (PENDING_COUNT - 1)];
		if (e->index > index)
			break;
		settle_one(s, e, THMQ_DURABILITY_ALL);
		l->all_head++;
	}
	tell_dirty(s);
}

/* It is committed, and a copy that votes is away: its producer is told that, and waits no more. */
static void settle_weaker(struct shard *s, struct pending *e)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_WEAKER,
				.flags = (uint8_t)s->final,
				.stream = e->stream,
				.partition = e->to ? e->to : e->partition->id,
				.seq = e->first_seq,
				.len = e->count,
				.status = -ETIMEDOUT};

	if (e->conn && e->report) {
		e->conn->reports_pending--;
		report(e->conn, f.stream, f.partition, f.flags, f.seq, f.len, e->base_offset, f.status);
	} else if (e->conn) {
		thmqi_conn_send(e->conn, &f);
	}
	if (e->conn)
		thmqi_conn_progress(e->conn, e->stream, e->level, e->seq);
}

void thmqi_settle_weaker(struct shard *s)
{
	const uint32_t now_ms = (uint32_t)(s->core->now_ns / 1000000u),
		       limit_ms = s->broker->opts.all_timeout_ms ? s->broker->opts.all_timeout_ms : ALL_TIMEOUT_MS;
	struct lead *l = s->lead;
	struct pending *e;

	while (l->all_head != l->all_tail) {
		e = &l->all[l->all_head & (PENDING_COUNT - 1)];
		if (now_ms - e->kept_ms < limit_ms)
			break;
		settle_weaker(s, e);
		l->all_head++;
	}
	tell_dirty(s);
}

void thmqi_settle(struct shard *s, uint32_t durability, uint64_t index)
{
	struct pending *e;
	uint64_t *at;
	uint32_t i;

	s->settled_index[THMQI_MIN(durability, s->final)] = index;
	if (durability >= s->final) {
		while (s->pending_head != s->pending_tail) {
			e = &s->pending[s->pending_head & (PENDING_COUNT - 1)];
			if (e->index > index)
				break;
			__builtin_prefetch(s->pending[(s->pending_head + SETTLE_AHEAD) & (PENDING_COUNT - 1)].partition, 1);
			if (thmqi_unlikely(e->level > s->final && e->conn) && !thmqi_settle_keep(s->lead, e))
				break;
			settle_one(s, e, s->final);
			s->pending_head++;
		}
		for (i = THMQ_DURABILITY_WRITTEN; i < s->final; i++)
			s->pending_at[i] = THMQI_MAX(s->pending_at[i], s->pending_head);
	} else {
		for (at = &s->pending_at[durability]; *at != s->pending_tail; ++*at) {
			e = &s->pending[*at & (PENDING_COUNT - 1)];
			if (e->index > index)
				break;
			settle_one(s, e, durability);
		}
	}
	tell_dirty(s);
	thmqi_sub_pump_all(s);
}

static void forget_all(struct shard *s)
{
	uint32_t i;

	for (i = THMQ_DURABILITY_WRITTEN; i < s->final; i++)
		s->pending_at[i] = s->pending_head;
	if (s->lead)
		s->lead->all_head = s->lead->all_tail;
	s->flush_asked = s->pending_head;
}

/* The log failed: what was not settled is unknown to be stored; its producers get an error for every run. */
void thmqi_settle_failed(struct shard *s, int error)
{
	struct pending *e;

	s->failed = error;
	thmqi_lost_tell_producers(s);
	for (; s->pending_head != s->pending_tail; s->pending_head++) {
		e = &s->pending[s->pending_head & (PENDING_COUNT - 1)];
		if (e->change)
			thmqi_meta_durable(e->change, -THMQ_EFAILED);
		if (e->post) {
			e->post->status = -THMQ_EFAILED;
			thmqi_broker_post(e->post, e->post->shard, e->post->run);
		}
		if (e->conn && e->level) {
			struct thmqi_frame f = {.type = THMQI_FRAME_TROUBLE,
						.stream = e->stream,
						.partition = e->to ? e->to : e->partition ? e->partition->id : 0,
						.seq = e->seq,
						.extra = THMQI_OF_PRODUCER,
						.status = -THMQ_EFAILED};

			if (e->report)
				e->conn->reports_pending--;
			thmqi_conn_send(e->conn, &f);
			thmqi_conn_kick(e->conn);
		}
	}
	forget_all(s);
}

/* If they are committed later, they are visible then. */
static void note_deposed(struct shard *s, uint64_t first)
{
	const struct pending *e;

	for (; first != s->pending_head; first++) {
		e = &s->pending[first & (PENDING_COUNT - 1)];
		if (e->partition && !e->group && !e->change && !e->post && !e->part && !e->again)
			thmqi_bereft_note(s, e->partition, e->index, e->end_offset);
	}
}

void thmqi_settle_deposed(struct shard *s)
{
	uint64_t first = s->pending_head;
	struct pending *e;

	for (; s->pending_head != s->pending_tail; s->pending_head++) {
		e = &s->pending[s->pending_head & (PENDING_COUNT - 1)];
		if (e->change)
			thmqi_meta_durable(e->change, -THMQ_ENOTLEADER);
		if (e->post) {
			e->post->status = -THMQ_ENOTLEADER;
			thmqi_broker_post(e->post, e->post->shard, e->post->run);
		}
	}
	forget_all(s);
	note_deposed(s, first);
}

void thmqi_settle_forget(struct shard *s, struct conn *c)
{
	uint64_t i;

	struct lead *l = s->lead;

	for (i = s->pending_head; i != s->pending_tail; i++)
		if (s->pending[i & (PENDING_COUNT - 1)].conn == c)
			s->pending[i & (PENDING_COUNT - 1)].conn = NULL;
	for (i = l ? l->all_head : 0; l && i != l->all_tail; i++)
		if (l->all[i & (PENDING_COUNT - 1)].conn == c)
			l->all[i & (PENDING_COUNT - 1)].conn = NULL;
}

bool thmqi_settle_has_post(const struct shard *s, const struct thmqi_broker_post *post)
{
	uint64_t i;

	for (i = s->pending_head; i != s->pending_tail; i++)
		if (s->pending[i & (PENDING_COUNT - 1)].post == post)
			return true;
	return false;
}

int thmqi_settle_post(struct shard *s, struct thmqi_broker_post *post, struct shard *to,
		      void (*run)(struct thmqi_broker_post *post))
{
	struct pending *e = thmqi_shard_pending_room(s);
	uint64_t last, index;

	if (!e)
		return -EAGAIN;
	if (!s->log || s->failed || s->pending_head == s->pending_tail) {
		thmqi_broker_post(post, to, run);
		return 0;
	}
	last = s->pending[(s->pending_tail - 1) & (PENDING_COUNT - 1)].index;
	post->run = run;
	post->shard = to;
	*e = (struct pending){.index = last, .post = post};
	s->pending_tail++;
	thmq_log_flush(s->log, &index);
	return 0;
}
