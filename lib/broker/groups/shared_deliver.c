/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared_deliver.c - shared groups: which message comes next, and to whom it goes, whole, selected, or in parts. Not on it: what its members say of it, and what is
 * stored of that (shared.c).
 */
#include "shared.h"
#include "commitlog/hint.h"
#include "wire/attributes.h"
#include "wire/run.h"

#define WINDOW_MAX (1ull << 31) /* offsets between floor and cursor */
#define TURN_MESSAGES 256u      /* then others have theirs */
#define SIFT_COST 16u           /* messages that are looked at, and not wanted, cost as much as one that is handed out */

/* What the next message is: where, up to before which offset at most, and the span that it comes from. */
struct pick {
	uint64_t from, to;
	uint32_t span; /* UINT32_MAX: it was never handed out */
};

static bool pick(struct shared *sh, struct pick *ret)
{
	const struct partition *p = partition_of(sh);
	struct spans *s = &sh->spans;

	if (sh->back_ns <= now_of(sh)) {
		ret->span = thmqi_spans_due(s, now_of(sh), &sh->back_ns);
		if (ret->span != UINT32_MAX) {
			ret->from = thmqi_spans_get(s, ret->span)->from;
			ret->to = thmqi_spans_end_of(s, ret->span);
			return true;
		}
		thmqi_shared_arm(sh);
	}
	ret->span = UINT32_MAX;
	ret->from = s->end;
	ret->to = UINT64_MAX;
	return s->end < p->visible && s->open < sh->open_max &&
	       s->end - thmqi_spans_floor(s) < WINDOW_MAX;
}

void thmqi_shared_drop_view(struct shared *sh)
{
	thmq_log_view_release(sh->shard->log, &sh->view);
	sh->view_from = sh->view_to = 0;
}

/* What is left of the run of @view, whose offsets end at @end, is handed out by and by. */
static void keep_view(struct shared *sh, const struct thmq_log_view *view, uint64_t end)
{
	if (sh->view_to == end)
		return;
	thmqi_shared_drop_view(sh);
	thmqi_log_view_again(view, &sh->view);
	sh->view_from = view->run.header->base_offset;
	sh->view_to = end;
}

/* As thmq_log_read(), from @from on. */
static int read_run(struct shared *sh, uint64_t from, struct thmq_log_view *ret_view)
{
	const struct partition *p = partition_of(sh);
	int rc;

	if (from >= sh->view_from && from < sh->view_to) {
		thmqi_log_view_again(&sh->view, ret_view);
		return 1;
	}
	if (sh->stands != from)
		thmq_log_reader_seek(sh->reader, from);
	sh->stands = from;
	rc = thmq_log_read(sh->reader, p->visible, ret_view);
	if (rc == 1)
		sh->stands = ret_view->run.header->base_offset + ret_view->run.header->span;
	return rc;
}

/* There is nothing below @to to be had any more. */
static void give_up(struct shared *sh, const struct pick *k, uint64_t to)
{
	if (k->span == UINT32_MAX)
		thmqi_spans_skip(&sh->spans, to);
	else
		thmqi_spans_done(&sh->spans, k->from, THMQI_MIN(to, k->to));
	thmqi_shared_soil(sh);
}

/* Offsets in a run without a record are nobody's. */
static void give_up_holes(struct shared *sh, const struct thmq_run_header *run, uint64_t from,
			  uint64_t to)
{
	const uint32_t *delta =
		(const uint32_t *)((const struct thmq_record *)(run + 1) + run->count);
	uint64_t at = from, offset;
	uint32_t i;

	for (i = 0; i < run->count && at < to; i++) {
		offset = run->base_offset + delta[i];
		if (offset < at)
			continue;
		if (offset > at)
			thmqi_spans_done(&sh->spans, at, THMQI_MIN(offset, to));
		at = offset + 1;
	}
	if (at < to)
		thmqi_spans_done(&sh->spans, at, to);
	thmqi_shared_soil(sh);
}

static bool has_records(const struct thmq_run_header *run)
{
	return run->count && thmqi_run_has_table(run) &&
	       thmqi_run_table_bytes(run->count, run->flags & THMQ_RUN_SPARSE) <= run->len;
}

/* What its members can read: one for each offset, if it has no table. */
static bool has_messages(const struct thmq_run_header *run)
{
	return has_records(run) || (run->encoding == THMQ_RUN_KAFKA && run->count);
}

/* The run of @d, from @from up to before @to, goes to @sub. */
static void send_run(struct sub *sub, struct consumer *k, struct thmqi_frame *f, struct delivery *d,
		     uint64_t from, uint64_t to, uint32_t deliveries)
{
	const struct thmq_run_header *run = d->view.run.header;

	thmqi_delivery_take(k, d);
	d->out = true;
	d->log = sub->partition->log;
	d->bytes = run->len;
	d->count = 0; /* what is acknowledged counts, not what is released */
	k->held_bytes += d->bytes;
	f->type = THMQI_FRAME_DELIVER;
	f->flags = 0;
	f->key_len = 0;
	f->stream = sub->stream;
	f->partition = sub->partition->id;
	f->data = (uint64_t)(uintptr_t)run;
	f->len = (uint32_t)sizeof(*run) + run->len;
	f->seq = from;
	f->extra = deliveries;
	f->arg[0] = d->index | (uint64_t)d->generation << 32;
	f->arg[1] = to;
	f->tag_hash = thmqi_shared_stamp(sub->conn->shard);
	f->generation = sub->generation;
	thmqi_conn_commit(sub->conn);
	thmqi_sub_count(sub, (uint32_t)(to - from), run->len);
}

static void hand_over(struct sub *sub, struct consumer *k, struct thmqi_frame *f,
		      const struct pick *at, uint64_t from, uint64_t to)
{
	struct shared *sh = sub->shared;
	struct delivery *d = k->free;
	uint64_t due = now_of(sh) + sub->lease_ns;
	uint32_t deliveries = 1;

	if (at->span == UINT32_MAX) {
		thmqi_spans_take(&sh->spans, to, &sub->lease, due);
	} else {
		deliveries += thmqi_spans_get(&sh->spans, at->span)->deliveries;
		thmqi_spans_lend(&sh->spans, at->span, to, &sub->lease, due);
	}
	send_run(sub, k, f, d, from, to, deliveries);
	sh->out_ns = THMQI_MIN(sh->out_ns, due);
	if ((d->view.run.header->flags & THMQ_RUN_SPARSE) && has_records(d->view.run.header))
		give_up_holes(sh, d->view.run.header, from, to);
}

/* ------------------------------------------------------------- messages in parts */

/* Is @run a part of a message, and which? */
static bool is_part(const struct thmq_run_header *run, struct thmqi_part *ret)
{
	const struct thmq_record *record = (const struct thmq_record *)(run + 1);
	uint64_t table = thmqi_run_table_bytes(1, run->flags & THMQ_RUN_SPARSE), head;

	if (run->count != 1 || !has_records(run) || !(record->flags & THMQ_RECORD_PART))
		return false;
	head = table + record->key_len + record->tag_len;
	if (head + sizeof(*ret) > run->len)
		return false;
	memcpy(ret, (const char *)(run + 1) + head, sizeof(*ret));
	return ret->part < ret->parts && ret->part <= run->base_offset;
}

/* All parts go to one member, from the first one on, whoever has them. */
static void begin_parts(struct sub *sub, const struct thmq_run_header *run,
			const struct thmqi_part *part)
{
	struct shared *sh = sub->shared;
	uint64_t due = now_of(sh) + sub->lease_ns, had = sh->spans.end;
	uint64_t begin = run->base_offset - part->part,
		 end = THMQI_MIN(begin + part->parts, sub->partition->visible);

	sub->part_begin = begin;
	if (begin < thmqi_spans_floor(&sh->spans)) { /* a message that is done */
		thmqi_spans_done(&sh->spans, begin, end);
		thmqi_shared_soil(sh);
		return;
	}
	thmqi_spans_seize(&sh->spans, begin, end, &sub->lease, due, &sub->part_deliveries);
	if (end > had)
		thmqi_spans_take(&sh->spans, end, &sub->lease, due);
	sub->part_next = begin;
	sub->part_end = end;
	sh->out_ns = THMQI_MIN(sh->out_ns, due);
}

/* It was never ended, or is gone: nobody will have it. What comes behind is others'. */
static void end_parts(struct sub *sub)
{
	struct shared *sh = sub->shared;
	const struct span_part rest = {
		.holder = &sub->lease, .from = sub->part_next, .to = sub->part_end};

	thmqi_spans_done(&sh->spans, sub->part_begin, sub->part_next);
	if (thmqi_spans_back(&sh->spans, &rest, 0, true))
		sh->back_ns = 0;
	sub->part_next = sub->part_end;
	thmqi_shared_soil(sh);
}

/* The run of @k->free was read at the next part. */
static void use_part(struct sub *sub, struct consumer *k, struct thmqi_frame *f)
{
	const struct thmq_run_header *run = k->free->view.run.header;
	struct shared *sh = sub->shared;
	const struct span_part all = {
		.holder = &sub->lease, .from = sub->part_begin, .to = sub->part_end};
	struct thmqi_part part;

	if (run->base_offset != sub->part_next || !is_part(run, &part) ||
	    part.part != sub->part_next - sub->part_begin) {
		sh->stands = UINT64_MAX;
		thmq_log_view_release(sub->partition->log, &k->free->view);
		end_parts(sub);
		return;
	}
	thmqi_spans_extend(&sh->spans, &all,
			   now_of(sh) + sub->lease_ns); /* its time begins with the last */
	sub->part_next++;
	send_run(sub, k, f, k->free, run->base_offset, run->base_offset + 1, sub->part_deliveries);
}

/* A run was read. Return: messages handed out, 0: it has none of those that are wanted. */
static uint32_t use(struct sub *sub, struct consumer *k, struct thmqi_frame *f,
		    const struct pick *at)
{
	struct shared *sh = sub->shared;
	struct delivery *d = k->free;
	const struct thmq_run_header *run = d->view.run.header;
	uint64_t end = run->base_offset + run->span, from = THMQI_MAX(at->from, run->base_offset),
		 to;
	struct pick rest = *at;
	struct thmqi_part part;
	struct sifted is;
	uint32_t looked = 0;

	if (from > at->from) { /* those before it are gone, or never were */
		give_up(sh, at, from);
		if (at->span == UINT32_MAX)
			rest.from = from;
		else /* the spans have changed: once more */
			from = end;
	}
	if (from < end && (!has_messages(run) || (run->transaction && thmqi_txn_hides(sub->conn->shard, run)))) {
		give_up(sh, &rest, end);
		from = end;
	}
	if (from >= end) {
		sh->stands = UINT64_MAX;
		thmq_log_view_release(sub->partition->log, &d->view);
		return 0;
	}
	if (thmqi_unlikely(is_part(run, &part))) {
		begin_parts(sub, run, &part);
		sh->stands = UINT64_MAX;
		thmq_log_view_release(sub->partition->log, &d->view);
		return 0;
	}
	if (thmqi_unlikely(sub->sift && at->span == UINT32_MAX)) {
		bool has = thmqi_sift_run(sub, run, from, &is);

		looked = is.looked / SIFT_COST;
		if (!has || is.first > from)
			give_up(sh, &rest, has ? is.first : end);
		if (!has) {
			thmq_log_view_release(sub->partition->log, &d->view);
			return looked;
		}
		rest.from = from = is.first;
	}
	to = THMQI_MIN(end, at->to);
	to = THMQI_MIN(to, from + (k->credit_count - k->out_count));
	if (at->span == UINT32_MAX)
		to = THMQI_MIN(to, from + (sh->open_max - sh->spans.open));
	if (to < end)
		keep_view(sh, &d->view, end);
	else if (sh->view_to == end)
		thmqi_shared_drop_view(sh);
	hand_over(sub, k, f, &rest, from, to);
	return (uint32_t)(to - from) + looked;
}

/* The time that it begins at. False: not yet. */
static bool find_begin(struct shared *sh)
{
	struct partition *p = partition_of(sh);
	uint64_t offset;
	int rc = thmq_log_reader_find_time(sh->reader, sh->time_ns, &offset);

	if (rc == 0)
		return false;
	sh->finding = false;
	sh->stands = UINT64_MAX;
	if (rc == 1 || rc == -ENOENT)
		thmqi_spans_skip(&sh->spans, rc == 1 ? THMQI_MIN(offset, p->visible) : p->visible);
	thmqi_shared_soil(sh);
	return true;
}

/* What it wants was dropped. */
static void skip_dropped(struct sub *sub, const struct pick *at)
{
	struct shared *sh = sub->shared;
	struct partition *p = sub->partition;
	uint64_t begin, end;
	struct thmqi_frame f = {.type = THMQI_FRAME_GAP,
				.stream = sub->stream,
				.partition = p->id,
				.generation = sub->generation};

	sh->stands = UINT64_MAX;
	if (thmq_log_bounds(p->log, p->id, &begin, &end) != 0)
		begin = p->visible;
	begin = THMQI_MAX(begin, at->from + 1); /* it must come to an end, whatever the log says */
	f.arg[0] = at->from;
	f.seq = THMQI_MIN(begin, at->to);
	give_up(sh, at, begin);
	if (at->from < p->hole_begin || f.seq > p->hole_end)
		thmqi_conn_send(sub->conn, &f);
}

static bool has_room(const struct consumer *k)
{
	return thmqi_consumer_has_credit(k) && k->out_count < k->credit_count;
}

/* It has acknowledged, or lost, what it had. */
void thmqi_shared_feed(struct consumer *k)
{
	struct thmqi_list *it;

	if (!k->starved || !has_room(k))
		return;
	k->starved = false;
	thmqi_list_each(it, &k->subs)
		thmqi_sub_ready(thmqi_container(it, struct sub, consumer_link));
}

void thmqi_shared_feed_all(struct shared *sh)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &partition_of(sh)->subs)
	{
		const struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->shared == sh)
			thmqi_shared_feed(thmqi_sub_consumer(sub));
	}
}

uint32_t thmqi_shared_pump(struct sub *sub, uint32_t budget)
{
	struct consumer *k = thmqi_sub_consumer(sub);
	struct shared *sh = sub->shared;
	uint32_t done = 0, messages = 0;
	struct thmqi_frame *f;
	struct pick at;
	int rc;

	if (sh->finding && !find_begin(sh))
		return 0;
	for (;;) {
		bool in_parts = sub->part_next < sub->part_end;

		if (in_parts)
			at = (struct pick){.from = sub->part_next, .to = sub->part_end};
		else if (!pick(sh, &at))
			break;
		if (in_parts ? !thmqi_consumer_has_credit(k) : !has_room(k)) {
			k->starved = !in_parts;
			break;
		}
		if (thmqi_unlikely(sub->limited) && !in_parts && !thmqi_sub_may(sub)) {
			thmqi_sub_later(sub);
			break;
		}
		if (done >= budget || messages >= TURN_MESSAGES) {
			thmqi_sub_ready(sub); /* others first */
			break;
		}
		f = thmqi_conn_claim(sub->conn);
		if (!f) {
			thmqi_sub_ready(sub); /* again when the client has read */
			sub->conn->shard->stuck = true;
			break;
		}
		rc = read_run(sh, at.from, &k->free->view);
		if (rc == 1 && in_parts) {
			use_part(sub, k, f);
		} else if (rc == 1) {
			messages += use(sub, k, f, &at);
		} else if (rc == -THMQ_EOFFSETRANGE && in_parts) {
			sh->stands = UINT64_MAX;
			end_parts(sub);
		} else if (rc == -THMQ_EOFFSETRANGE) {
			skip_dropped(sub, &at);
		} else if (rc) {
			thmqi_sub_trouble(sub, at.from, rc);
			break;
		} else {
			break; /* the reader calls when it has read */
		}
		done++;
	}
	if (done) { /* what comes back goes to others first: else one that takes, and does nothing, would have it again and again */
		thmqi_list_del(&sub->partition_link);
		thmqi_list_add_tail(&partition_of(sh)->subs, &sub->partition_link);
	}
	thmqi_shared_arm(sh);
	return done;
}
