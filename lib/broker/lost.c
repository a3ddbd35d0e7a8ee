/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lost.c - news of messages whose acknowledgement, or visibility, said less than durable, and that are gone or may be: when
 * the shard's log fails, and when a reader names an offset of an earlier life. Not on any message's path.
 */
#include "internal.h"

static void tell(struct conn *c, struct thmqi_frame *f)
{
	f->type = THMQI_FRAME_LOST;
	thmqi_conn_send(c, f);
	thmqi_conn_kick(c);
}

/* --------------------------------------------------------------- producers */

/* One producer's runs of one partition lie together, in the order of their offsets. */
static int compare(const void *a, const void *b)
{
	const struct pending *x = *(struct pending *const *)a, *y = *(struct pending *const *)b;

	if (x->conn != y->conn)
		return x->conn < y->conn ? -1 : 1;
	if (x->stream != y->stream)
		return x->stream < y->stream ? -1 : 1;
	if (x->partition != y->partition)
		return x->partition->id < y->partition->id ? -1 : 1;
	return x->base_offset < y->base_offset ? -1 : x->base_offset > y->base_offset;
}

static bool together(const struct pending *x, const struct pending *y)
{
	return x->conn == y->conn && x->stream == y->stream && x->partition == y->partition;
}

static void tell_producer(struct pending *const *list, uint32_t count)
{
	const struct pending *first = list[0];
	struct thmqi_frame f = {.stream = first->stream,
				.partition = first->to ? first->to : first->partition->id,
				.flags = first->acked,
				.extra = THMQI_OF_PRODUCER,
				.seq = first->base_offset,
				.arg = {first->first_seq, 0},
				.status = -THMQ_EFAILED};
	uint32_t i;

	for (i = 0; i < count; i++) {
		f.flags = (uint8_t)THMQI_MIN(f.flags, list[i]->acked);
		f.arg[0] = THMQI_MIN(f.arg[0], list[i]->first_seq);
		f.arg[1] += list[i]->count;
	}
	tell(first->conn, &f);
}

void thmqi_lost_tell_producers(struct shard *s)
{
	struct pending **list = malloc((s->pending_tail - s->pending_head + 1) * sizeof(*list)), *e;
	uint32_t count = 0, i, n;
	uint64_t at;

	for (at = s->pending_head; at != s->pending_tail; at++) {
		e = &s->pending[at & (PENDING_COUNT - 1)];
		if (!e->acked || !e->conn || !e->partition || e->partition->dead)
			continue;
		if (list)
			list[count++] = e;
		else /* piecemeal, then */
			tell_producer(&e, 1);
	}
	if (count)
		qsort(list, count, sizeof(struct pending *), compare);
	for (i = 0; i < count; i += n) {
		for (n = 1; i + n < count && together(list[i], list[i + n]);)
			n++;
		tell_producer(list + i, n);
	}
	free(list);
}

/* ----------------------------------------------------------------- readers */

static void tell_sub(struct sub *sub, uint64_t offset, uint64_t count, int status)
{
	struct thmqi_frame f = {.stream = sub->stream,
				.partition = sub->partition->id,
				.flags = (uint8_t)sub->partition->visible_at,
				.seq = offset,
				.arg = {0, count},
				.status = status};

	tell(sub->conn, &f);
}

void thmqi_lost_tell_reader(struct sub *sub)
{
	const struct partition *p = sub->partition;

	if (!p->is_volatile && p->visible > p->durable)
		tell_sub(sub, p->durable, p->visible - p->durable, -THMQ_EFAILED);
}

/*
 * Nobody can know an offset within the hole but from a message that was there, and is behind the hole's begin. How many
 * were there nobody knows any more: they began with the hole.
 */
void thmqi_lost_tell_hole(struct sub *sub, uint64_t offset)
{
	const struct partition *p = sub->partition;

	if (offset > p->hole_begin && offset < p->hole_end)
		tell_sub(sub, p->hole_begin, 0, 0);
}
