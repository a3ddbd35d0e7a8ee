/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach.c - who gets messages of a partition, from where on, and what he holds: a consumer attaches, seeks, releases what it was given, and
 * goes. Knows not how a message is read; deliver.c does.
 */
#include "commitlog/hint.h"
#include "internal.h"

/* ------------------------------------------------------------- deliveries */

static struct consumer *consumer_make(uint64_t credit_bytes, uint64_t credit_count, uint32_t first_index, uint32_t index_count)
{
	struct consumer *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->delivery_count = (uint32_t)THMQI_MIN(credit_count, index_count);
	k->first_index = first_index;
	k->deliveries = calloc(k->delivery_count, sizeof(*k->deliveries));
	if (!k->deliveries) {
		free(k);
		return NULL;
	}
	k->credit_bytes = credit_bytes;
	k->credit_count = credit_count;
	thmqi_list_init(&k->subs);
	if (k->delivery_count) /* the others are touched when they are wanted: most consumers never hold that many */
		thmqi_delivery_first(k);
	return k;
}

static void consumer_free(struct consumer *k)
{
	uint32_t i;

	for (i = 1; k->rungs && i < k->rungs->count; i++)
		if (k->rungs->at[i])
			consumer_free(k->rungs->at[i]);
	free(k->rungs);
	thmqi_map_fini(&k->by_partition);
	free(k->deliveries);
	free(k);
}

/* The consumers of a stream: one, or one for each priority. */
static uint32_t rung_count(const struct consumer *k)
{
	return !k ? 0 : k->rungs ? k->rungs->count : 1;
}

static struct consumer *rung(struct consumer *k, uint32_t i)
{
	return k->rungs ? k->rungs->at[i] : k;
}

/* Nothing is attached, and nothing held. */
static bool is_idle(struct consumer *k)
{
	uint32_t i;

	for (i = 0; i < rung_count(k); i++) {
		const struct consumer *r = rung(k, i);

		if (r && (!thmqi_list_empty(&r->subs) || r->held_count || r->held_bytes))
			return false;
	}
	return true;
}

/* Which one of frame @f's stream it is about, made if it was not there. 0; -ENOMEM; -EINVAL it is none that the others allow */
static int consumer_get(struct conn *c, const struct thmqi_frame *f, struct consumer **ret)
{
	uint32_t count = f->key_len & 0xff, priority = f->key_len >> 8, stride = DELIVERY_MAX / THMQI_MAX(count, 1u);
	uint32_t outstanding = c->outstanding ? THMQI_MAX(c->outstanding / THMQI_MAX(count, 1u), 1u) : UINT32_MAX;
	uint32_t credit = THMQI_MIN(f->extra, outstanding);
	struct consumer *k = c->consumers[f->stream];

	if (count > THMQ_PRIORITIES_MAX || count == 1 || priority >= THMQI_MAX(count, 1u))
		return -EINVAL;
	if (k && is_idle(k)) { /* an earlier consumer's: its credits were others */
		consumer_free(k);
		k = c->consumers[f->stream] = NULL;
	}
	if (!k) {
		k = consumer_make(f->len, credit, 0, stride);
		if (k && count)
			k->rungs = calloc(1, sizeof(*k->rungs));
		if (!k || (count && !k->rungs)) {
			if (k)
				consumer_free(k);
			return -ENOMEM;
		}
		if (count)
			*k->rungs = (struct rungs){.count = count, .stride = stride, .at = {k}};
		c->consumers[f->stream] = k;
	}
	if ((k->rungs ? k->rungs->count : 0) != count)
		return -EINVAL;
	if (priority && !k->rungs->at[priority])
		k->rungs->at[priority] = consumer_make(f->len, credit, priority * stride, stride);
	*ret = rung(k, priority);
	return *ret ? 0 : -ENOMEM;
}

static void delivery_drop(struct consumer *k, struct delivery *d)
{
	thmq_log_view_release(d->log, &d->view);
	d->out = false;
	d->generation++;
	k->held_bytes -= d->bytes;
	k->held_count -= d->count;
	d->next = k->free;
	k->free = d;
}

/* ---------------------------------------------------------- attach, detach */

static void on_reader_ready(void *ctx)
{
	thmqi_sub_ready(ctx);
}

struct sub *thmqi_sub_find(struct conn *c, uint32_t stream, uint32_t partition)
{
	if (stream >= THMQI_STREAMS || !c->consumers[stream])
		return NULL;
	return thmqi_map_get(&c->consumers[stream]->by_partition, partition);
}

uint64_t thmqi_sub_position(const struct sub *sub)
{
	if (sub->resolving) /* where it begins is not known yet */
		return sub->next;
	return THMQI_MAX(sub->next, THMQI_MIN(thmqi_log_reader_stands(sub->reader), sub->partition->visible));
}

static void bounds_of(const struct partition *p, uint64_t *ret_begin, uint64_t *ret_end)
{
	uint64_t end;

	if (thmq_log_bounds(p->log, p->id, ret_begin, &end) != 0)
		*ret_begin = p->visible;
	*ret_end = p->visible;
	*ret_begin = THMQI_MIN(*ret_begin, *ret_end);
}

int thmqi_sub_start(struct partition *p, uint32_t kind, uint64_t value, uint64_t *ret_offset)
{
	uint64_t begin, end;

	bounds_of(p, &begin, &end);
	switch (kind) {
	case THMQ_START_DEFAULT:
	case THMQ_START_BEGIN:
		*ret_offset = begin;
		return 0;
	case THMQ_START_END:
		*ret_offset = end;
		return 0;
	case THMQ_START_OFFSET:
		/* behind the end lie numbers that will not be used: whoever remembers one goes on at the next message */
		if ((value < begin && !thmqi_retain_only_compacts(p)) || value > THMQI_MAX(end, p->next_offset))
			return -THMQ_EOFFSETRANGE;
		*ret_offset = value;
		return 0;
	case THMQ_START_TIME:
		*ret_offset = begin; /* until the reader has found it */
		return 0;
	default:
		return -EINVAL;
	}
}

static void place(struct sub *sub, uint64_t offset)
{
	struct partition *p = sub->partition;
	const struct volatile_ring *ring = p->ring;

	sub->next = offset;
	sub->failed = false;
	thmqi_sift_place(sub, offset);
	if (p->is_volatile)
		sub->read_bytes =
			ring->appended_bytes - THMQI_MIN(ring->appended_bytes, ring->bytes / 2);
	if (offset >= p->visible)
		thmqi_sub_caught_up(sub);
	thmq_log_reader_seek(sub->reader, offset);
	thmqi_sub_ready(sub);
}

/* It begins with the first message at or after a time, once that is found: the frame that says where is owed till then. */
static void begin_at_time(struct sub *sub, uint8_t owed, int64_t time_ns, uint32_t generation)
{
	sub->resolving = owed;
	sub->time_ns = time_ns;
	sub->resolved_generation = generation;
	thmqi_sub_resolve(sub);
}

/* Return: false: it is still being looked up, or has failed. */
bool thmqi_sub_resolve(struct sub *sub)
{
	struct partition *p = sub->partition;
	struct thmqi_frame out = {.type = sub->resolving,
				  .stream = sub->stream,
				  .partition = p->id,
				  .extra = sub->resolved_generation};
	uint64_t offset;
	int rc = thmq_log_reader_find_time(sub->reader, sub->time_ns, &offset);

	if (rc == 0)
		return false;
	bounds_of(p, &out.arg[0], &out.arg[1]);
	if (rc == 1 || rc == -ENOENT) {
		offset = rc == 1 ? THMQI_MIN(offset, out.arg[1]) : out.arg[1];
		sub->generation = sub->resolved_generation;
		out.seq = offset;
	} else {
		offset = sub->next; /* a seek leaves it where it was */
		out.status = rc;
	}
	sub->resolving = 0;
	thmqi_conn_send(sub->conn, &out);
	if (out.status && out.type == THMQI_FRAME_ATTACHED) {
		thmqi_sub_close(sub, 0, false);
		return false;
	}
	place(sub, offset);
	return true;
}

void thmqi_sub_close(struct sub *sub, int status, bool tell)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_DETACHED,
				.stream = sub->stream,
				.partition = sub->partition->id,
				.seq = sub->epoch,
				.status = status};

	if (sub->resolving == THMQI_FRAME_ATTACHED) {
		f.type = THMQI_FRAME_ATTACHED;
		f.extra = sub->resolved_generation;
	}
	if (sub->ready)
		thmqi_list_del(&sub->ready_link);
	if (sub->group && sub->group->owner == sub)
		sub->group->owner = NULL;
	thmqi_list_del(&sub->partition_link);
	thmqi_list_del(&sub->consumer_link);
	thmqi_map_remove(&sub->conn->consumers[sub->stream]->by_partition, sub->partition->id);
	thmq_log_reader_close(sub->reader);
	if (sub->shared)
		thmqi_shared_leave(sub);
	if (thmqi_unlikely(sub->sift != NULL))
		thmqi_sift_detach(sub);
	if (tell) {
		thmqi_conn_send(sub->conn, &f);
		thmqi_conn_kick(sub->conn);
	}
	free(sub);
}

/* A newer member of the group takes the partition from an older one. */
static int take_over(struct group_offset *g, uint64_t epoch)
{
	if (epoch < g->epoch)
		return -THMQ_EFENCED;
	if (thmqi_shared_is_used(g))
		return -EBUSY;
	if (g->owner)
		thmqi_sub_close(g->owner, -THMQ_EFENCED, true);
	g->epoch = epoch;
	return 0;
}

/* Who comes back for what is gone meanwhile goes on behind that, and is told. */
static int resolve_attach(struct partition *p, uint32_t kind, uint64_t value, bool waits, uint64_t *ret_offset)
{
	uint64_t begin, end;

	bounds_of(p, &begin, &end);
	/* likewise who was further at another copy: one that leads no more, and has not heard of that yet, sends it away soon */
	if (kind != THMQ_START_OFFSET || (value >= begin && (!waits || value <= end)))
		return thmqi_sub_start(p, kind, value, ret_offset);
	*ret_offset = value;
	return 0;
}

/* Does the offset of its group count, not where the frame would begin? */
static bool goes_before(const struct group_offset *g, const struct thmqi_frame *f)
{
	if (f->flags & THMQI_ATTACH_RESUME)
		return g->offset > f->arg[0];
	return !(f->flags & THMQI_ATTACH_ALWAYS);
}

int thmqi_sub_make(struct conn *c, const struct thmqi_frame *f, struct partition *p, struct group_offset *g,
		   struct sub **ret_sub)
{
	struct sub *sub = calloc(1, sizeof(*sub));
	int rc;

	if (!sub)
		return -ENOMEM;
	rc = thmqi_map_put(&c->consumers[f->stream]->by_partition, p->id, sub);
	if (rc) {
		free(sub);
		return rc;
	}
	sub->conn = c;
	sub->limited = c->limited || c->shard->topics.at[p->topic]->rates;
	sub->partition = p;
	sub->group = g;
	sub->stream = f->stream;
	sub->priority = (uint8_t)(f->key_len >> 8);
	sub->generation = f->generation;
	sub->uncommitted = f->flags & THMQI_ATTACH_UNCOMMITTED;
	rc = thmqi_sift_attach(sub, f);
	if (rc) {
		thmqi_map_remove(&c->consumers[f->stream]->by_partition, p->id);
		free(sub);
		return rc;
	}
	*ret_sub = sub;
	return 0;
}

static int attach(struct conn *c, const struct thmqi_frame *f, struct sub **ret_sub, uint8_t *ret_flags)
{
	struct partition *p = thmqi_shard_partition_asked(c->shard, f->partition);
	uint32_t group_id = (uint32_t)f->arg[1], kind = THMQI_ATTACH_KIND(f->flags);
	struct group_offset *g = NULL;
	struct consumer *k;
	struct sub *sub;
	uint64_t offset;
	bool known, waits = kind == THMQI_START_AGAIN && c->shard->lead;
	int rc;

	if (f->stream >= THMQI_STREAMS || !f->len || !f->extra)
		return -EINVAL;
	kind = kind == THMQI_START_AGAIN ? THMQ_START_OFFSET : kind;
	if (!p || p->dead)
		return p ? -THMQ_ENOTOPIC : c->shard->reads_only ? -THMQ_ENOQUORUM : -THMQ_ENOPARTITION; /* it may not have come to this copy */
	if (c->guarded && thmqi_guard_ask_partition(c, THMQ_OPERATION_CONSUME, p) != 0)
		return -EACCES;
	if (thmqi_unlikely(c->shard->reads_only) && (group_id || (f->flags & THMQI_ATTACH_SHARED)))
		return -THMQ_ENOQUORUM; /* how far it comes could not be stored */
	if (thmqi_sub_find(c, f->stream, f->partition))
		return -EEXIST;
	rc = consumer_get(c, f, &k);
	if (rc)
		return rc;
	if (f->flags & THMQI_ATTACH_SHARED)
		return thmqi_shared_attach(c, f, p, ret_sub);
	if (group_id) {
		known = thmqi_offsets_get(p, group_id, false) != NULL;
		g = thmqi_offsets_get(p, group_id, true);
		if (!g)
			return -ENOMEM;
		rc = take_over(g, f->seq);
		if (rc)
			return rc;
		known = known && g->offset != UINT64_MAX;
		if (known && goes_before(g, f))
			rc = 0, offset = g->offset, *ret_flags = THMQI_ATTACHED_AT_GROUP;
		else
			rc = resolve_attach(p, kind, f->arg[0], waits, &offset);
	} else {
		rc = resolve_attach(p, kind, f->arg[0], waits, &offset);
	}
	if (rc)
		return rc;
	rc = thmqi_sub_make(c, f, p, g, &sub);
	if (rc)
		return rc;
	sub->epoch = f->seq;
	rc = thmq_log_reader_open(p->log, p->id, on_reader_ready, sub, &sub->reader);
	if (rc) {
		thmqi_map_remove(&c->consumers[f->stream]->by_partition, p->id);
		thmqi_sift_detach(sub);
		free(sub);
		return rc;
	}
	if (!p->is_volatile) /* a ring's readers show by what they have read how far they are behind */
		thmq_log_reader_filter(sub->reader, (f->arg[1] & ~(uint64_t)UINT32_MAX) | f->tag_hash);
	thmqi_list_add_tail(&p->subs, &sub->partition_link);
	thmqi_list_add_tail(&k->subs, &sub->consumer_link);
	if (g)
		g->owner = sub;
	sub->next = offset;
	thmqi_sift_place(sub, offset);
	*ret_sub = sub;
	return 0;
}

void thmqi_sub_failed(struct sub *sub)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_TROUBLE,
				.stream = sub->stream,
				.partition = sub->partition->id,
				.seq = sub->next,
				.status = -THMQ_EFAILED};

	if (sub->partition->is_volatile)
		return;
	thmqi_conn_send(sub->conn, &f);
	thmqi_lost_tell_reader(sub);
}

void thmqi_sub_attach(struct conn *c, const struct thmqi_frame *f)
{
	struct thmqi_frame out = {.type = THMQI_FRAME_ATTACHED,
				  .stream = f->stream,
				  .partition = f->partition,
				  .extra = f->generation};
	struct sub *sub = NULL;

	out.status = attach(c, f, &sub, &out.flags);
	if (sub && !sub->shared && THMQI_ATTACH_KIND(f->flags) == THMQ_START_TIME && !(out.flags & THMQI_ATTACHED_AT_GROUP)) {
		begin_at_time(sub, THMQI_FRAME_ATTACHED, (int64_t)f->arg[0], f->generation);
		return;
	}
	if (sub) {
		if (!sub->shared)
			place(sub, sub->next);
		out.seq = sub->next;
		out.tag_hash = sub->shared ? thmqi_shared_stamp(c->shard) : 0;
		bounds_of(sub->partition, &out.arg[0], &out.arg[1]);
	}
	thmqi_conn_send(c, &out);
	if (sub && !sub->shared && sub->next < out.arg[0]) /* where its group stands was dropped */
		thmqi_sub_gap(sub, out.arg[0]);
	if (sub && (f->flags & THMQI_ATTACH_RESUME))
		thmqi_lost_tell_hole(sub, sub->next);
	if (sub && c->shard->failed)
		thmqi_sub_failed(sub);
}

void thmqi_sub_detach(struct conn *c, const struct thmqi_frame *f)
{
	struct sub *sub = thmqi_sub_find(c, f->stream, f->partition);
	struct thmqi_frame out = {.type = THMQI_FRAME_DETACHED,
				  .stream = f->stream,
				  .partition = f->partition,
				  .seq = f->seq};

	if (sub && sub->epoch == f->seq)
		thmqi_sub_close(sub, 0, false);
	thmqi_conn_send(c, &out);
}

void thmqi_sub_seek(struct conn *c, const struct thmqi_frame *f)
{
	struct thmqi_frame out = {
		.type = THMQI_FRAME_SOUGHT, .stream = f->stream, .partition = f->partition};
	struct sub *sub = thmqi_sub_find(c, f->stream, f->partition);
	uint64_t offset;

	out.status = !sub ? -EPERM : sub->shared ? -EOPNOTSUPP : sub->resolving ? -EBUSY : thmqi_sub_start(sub->partition, f->flags, f->arg[0], &offset);
	if (out.status == 0 && f->flags == THMQ_START_TIME) {
		begin_at_time(sub, THMQI_FRAME_SOUGHT, (int64_t)f->arg[0], f->generation);
		return;
	}
	if (sub) {
		bounds_of(sub->partition, &out.arg[0], &out.arg[1]);
		if (out.status == 0) {
			sub->generation = f->generation;
			place(sub, offset);
			out.seq = offset;
		}
	}
	thmqi_conn_send(c, &out);
	if (out.status == 0 && f->flags == THMQ_START_OFFSET)
		thmqi_lost_tell_hole(sub, offset);
}

void thmqi_sub_release(struct conn *c, uint32_t stream, uint64_t token)
{
	struct consumer *k = stream < THMQI_STREAMS ? c->consumers[stream] : NULL;
	uint32_t index = (uint32_t)token, generation = (uint32_t)(token >> 32);
	struct thmqi_list *it;
	bool starved;

	if (k && thmqi_unlikely(k->rungs != NULL))
		k = index / k->rungs->stride < k->rungs->count ? k->rungs->at[index / k->rungs->stride] : NULL;
	index -= k ? k->first_index : 0;
	if (!k || index >= k->deliveries_used || !k->deliveries[index].out ||
	    k->deliveries[index].generation != generation)
		return;
	starved = !thmqi_consumer_has_credit(k);
	delivery_drop(k, &k->deliveries[index]);
	if (starved && thmqi_consumer_has_credit(k)) {
		thmqi_list_each(it, &k->subs)
			thmqi_sub_ready(thmqi_container(it, struct sub, consumer_link));
	}
}

static void close_subs_of(struct consumer *k)
{
	uint32_t i;

	for (i = 0; i < rung_count(k); i++) {
		struct consumer *r = rung(k, i);

		while (r && !thmqi_list_empty(&r->subs))
			thmqi_sub_close(thmqi_list_first(&r->subs, struct sub, consumer_link), 0, false);
	}
}

void thmqi_subs_close(struct conn *c)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++)
		close_subs_of(c->consumers[i]);
}

static void drop_deliveries(struct consumer *k)
{
	uint32_t i;

	for (i = 0; i < k->deliveries_used; i++)
		if (k->deliveries[i].out)
			delivery_drop(k, &k->deliveries[i]);
}

void thmqi_consumers_close(struct conn *c)
{
	struct consumer *k;
	uint32_t i, j;

	thmqi_subs_close(c);
	for (i = 0; i < THMQI_STREAMS; i++) {
		k = c->consumers[i];
		if (!k)
			continue;
		for (j = 0; j < rung_count(k); j++)
			if (rung(k, j))
				drop_deliveries(rung(k, j));
		consumer_free(k);
		c->consumers[i] = NULL;
	}
}
