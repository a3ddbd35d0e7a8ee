/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parts.c - a message that is larger than a batch: stored as runs of one part each, at consecutive offsets, which nobody sees before
 * the last one is there. All of it lies in the client's data area when its frame comes, so that what is begun ends within
 * moments, or with its client. The last part is the message: it alone has the producer's sequence, and goes the way of every
 * message (produce.c). Without it the others are bytes that nobody asks for.
 */
#include "commitlog/limit.h"
#include "wire/attributes.h"

#include "internal.h"

/* How a message is cut: each part but the last has as many bytes of what it has behind its tag. */
struct parts {
	uint32_t head; /* bytes of key and tag */
	uint32_t size, count;
};

static struct parts cut(const struct thmqi_frame *f, uint32_t room)
{
	struct parts c = {.head = f->key_len + THMQI_PRODUCE_TAG_LEN(f->extra)};
	uint32_t rest = f->len - c.head,
		 used = (uint32_t)(sizeof(struct thmq_record) + sizeof(struct thmqi_part)) + c.head;

	c.size = room > used ? (room - used) & ~7u : 0;
	c.count = c.size ? (rest - 1) / c.size + 1 : 0;
	return c;
}

static uint32_t part_len(const struct parts *c, const struct thmqi_frame *f, uint32_t part)
{
	uint32_t head = part ? 0 : c->head, rest = f->len - c->head - part * c->size;
	uint32_t body = head + (uint32_t)sizeof(struct thmqi_part) + THMQI_MIN(rest, c->size);

	return (uint32_t)sizeof(struct thmq_record) + THMQI_ALIGN_UP(body, 8u);
}

static void fill_part(const struct conn *conn, const struct thmqi_frame *f,
		      struct thmq_run_header *run, const struct partition *p, const struct parts *c,
		      uint32_t part)
{
	struct thmq_record *record = (struct thmq_record *)(run + 1);
	uint8_t *body = (uint8_t *)(record + 1);
	const uint8_t *from = (const uint8_t *)(uintptr_t)f->data;
	uint32_t head = part ? 0 : c->head,
		 len = THMQI_MIN(f->len - c->head - part * c->size, c->size);
	const struct thmqi_part is = {.part = part, .parts = c->count, .total = f->len - c->head};
	bool keyed = !part && f->key_len;

	*run = (struct thmq_run_header){.len = part_len(c, f, part),
					.base_offset = p->next_offset,
					.partition = p->id,
					.count = 1,
					.span = 1,
					.encoding = THMQ_RUN_RECORDS,
					.flags = keyed ? THMQ_RUN_KEYED : 0,
					.first_time_ns = conn->parts.time_ns,
					.last_time_ns = conn->parts.time_ns,
					.tag_filter = f->tag_hash ? 1ull << (f->tag_hash % 64) : 0};
	*record = (struct thmq_record){
		.size = head + (uint32_t)sizeof(is) + len,
		.tag_hash = f->tag_hash, /* of each: who looks for the tag finds all */
		.key_len = part ? 0 : f->key_len,
		.tag_len = part ? 0 : (uint8_t)THMQI_PRODUCE_TAG_LEN(f->extra),
		.flags = THMQ_RECORD_PART | (part ? 0 : THMQI_PRODUCE_HAS(f->extra))};
	memset((uint8_t *)record + run->len - 8, 0, 8); /* what is not written over is padding */
	memcpy(body, from, head);
	memcpy(body + head, &is, sizeof(is));
	memcpy(body + head + sizeof(is), from + c->head + part * c->size, len);
}

static int append_part(struct conn *conn, const struct thmqi_frame *f, struct partition *p,
		       const struct parts *c, uint32_t level)
{
	struct shard *s = conn->shard;
	struct pending *e = thmqi_shard_pending_room(s);
	struct thmq_run_header *run;
	uint32_t part = conn->parts.next;
	uint64_t index;
	int rc;

	/* as many may be on their way as of other messages: where nobody waits for these to be durable, they are to be */
	if (!e || p->next_offset - p->durable > OFFSET_JUMP - RUN_RECORDS_MAX) {
		thmq_log_flush(p->log, &index);
		return -EAGAIN;
	}
	rc = thmq_log_append(p->log, (uint32_t)sizeof(*run) + part_len(c, f, part), &run, &index);
	if (rc) {
		s->blocked |= rc == -EAGAIN;
		return rc;
	}
	fill_part(conn, f, run, p, c, part);
	rc = thmq_log_append_end(p->log, run, level);
	if (rc)
		return rc;
	*e = (struct pending){.index = index,
			      .partition = p,
			      .base_offset = p->next_offset,
			      .end_offset = p->next_offset + 1,
			      .count = 1,
			      .part = true};
	s->pending_tail++;
	p->next_offset++;
	p->jumped = false;
	conn->parts.next++;
	return 0;
}

static void begin(struct conn *conn, const struct thmqi_frame *f, struct partition *p)
{
	conn->parts.partition = p;
	conn->parts.offset = p->next_offset;
	conn->parts.next = 0;
	conn->parts.time_ns = f->extra & THMQI_PRODUCE_TIMED ? (int64_t)f->arg[0]
							     : (int64_t)conn->shard->core->wall_ns;
	p->parting = true;
}

int thmqi_parts_append(struct conn *conn, const struct thmqi_frame *f, struct partition *p,
		       uint32_t room, uint32_t level, uint32_t *ret_len)
{
	struct parts c = cut(f, room);
	int rc = 0;

	if (p->is_volatile || f->len > THMQI_MESSAGE_MAX || c.count < 2)
		return -EMSGSIZE;
	if (!conn->parts.partition) {
		rc = thmqi_log_room_for(p->log, c.count);
		if (rc)
			return rc;
		begin(conn, f, p);
	}
	while (!rc && conn->parts.next < c.count - 1)
		rc = append_part(conn, f, p, &c, level);
	if (!rc)
		*ret_len = part_len(&c, f, c.count - 1);
	return rc;
}

void thmqi_parts_fill_last(struct conn *conn, const struct thmqi_frame *f,
			   struct thmq_run_header *run, const struct partition *p, uint32_t room)
{
	struct parts c = cut(f, room);

	fill_part(conn, f, run, p, &c, c.count - 1);
	run->producer_id = f->arg[1];
	if (f->arg[1]) {
		run->first_sequence = f->seq;
		run->producer_epoch = f->generation;
	}
}

void thmqi_parts_end(struct conn *conn)
{
	conn->parts.partition->parting = conn->expected.partition == conn->parts.partition;
	conn->parts.partition = NULL;
}
