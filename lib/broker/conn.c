/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c - frames down to a client. Control frames are never lost: those that find the ring full wait in a backlog.
 * Data frames (deliveries, progress) are made only when there is room. Room for promised reports is never used
 * by others. Knows nothing of what the frames mean.
 */
#include "internal.h"

bool thmqi_conn_room(struct conn *c, uint32_t frames)
{
	return c->backlog_count == 0 &&
	       thmqi_frame_claim(&c->wire->down, c->reports_pending + frames) != NULL;
}

struct thmqi_frame *thmqi_conn_claim(struct conn *c)
{
	struct thmqi_frame *f;

	if (c->backlog_count)
		return NULL;
	f = thmqi_frame_claim(&c->wire->down, c->reports_pending + 1);
	return f;
}

void thmqi_conn_commit(struct conn *c)
{
	thmqi_frame_commit(&c->wire->down);
	c->wrote = true;
	if (thmqi_unlikely(c->rests))
		thmqi_conn_rouse(c);
}

/* Among those that are looked at in each iteration; and not. */
void thmqi_conn_rouse(struct conn *c)
{
	if (!c->rests)
		return;
	c->rests = false;
	thmqi_list_del(&c->link);
	thmqi_list_add_tail(&c->shard->conns, &c->link);
	thmqi_link_kick_client(c->wire); /* the link's reader rests too */
}

bool thmqi_conn_rest(struct conn *c)
{
	if (c->waits)
		return false;
	if (c->rests || c->backlog_count || c->wrote || c->asked.partition || thmqi_frame_peek(&c->wire->ctl, 0) ||
	    thmqi_frame_peek(&c->wire->up, 0))
		return c->rests;
	c->rests = true;
	thmqi_list_del(&c->link);
	thmqi_list_add_tail(&c->shard->resting, &c->link);
	return true;
}

bool thmqi_conn_flush_backlog(struct conn *c)
{
	struct thmqi_frame *f;

	while (c->backlog_sent < c->backlog_count) {
		f = thmqi_frame_claim(&c->wire->down, c->reports_pending);
		if (!f)
			return false;
		thmqi_frame_copy(f, &c->backlog[c->backlog_sent++]);
		thmqi_conn_commit(c);
	}
	c->backlog_count = c->backlog_sent = 0;
	return true;
}

void thmqi_conn_send(struct conn *c, const struct thmqi_frame *frame)
{
	struct thmqi_frame *f, *grown;
	uint32_t size;

	if (c->backlog_count == 0 && (f = thmqi_frame_claim(&c->wire->down, c->reports_pending))) {
		thmqi_frame_copy(f, frame);
		thmqi_conn_commit(c);
		return;
	}
	if (c->backlog_count == c->backlog_size) {
		size = c->backlog_size ? c->backlog_size * 2 : 64;
		grown = realloc(c->backlog, size * sizeof(*grown));
		if (!grown) { /* the client cannot be told any more: it must not believe that all is well */
			atomic_store(&c->wire->broker_closed, -ENOMEM);
			thmqi_link_kick_client(c->wire);
			return;
		}
		c->backlog = grown;
		c->backlog_size = size;
	}
	c->backlog[c->backlog_count++] = *frame;
	thmqi_conn_rouse(c); /* it is tried again */
}

/* Progress is a level and a number: only the newest needs to be told. */
void thmqi_conn_progress(struct conn *c, uint32_t stream, uint32_t level, uint64_t seq)
{
	struct producer *p = &c->producers[stream];

	p->progress[level] = seq;
	if (!p->dirty)
		c->dirty_streams[c->dirty_count++] = stream;
	p->dirty |= (uint8_t)(1u << level);
	if (!c->dirty) {
		c->dirty = true;
		thmqi_list_add_tail(&c->shard->dirty_conns, &c->dirty_link);
	}
}

void thmqi_conn_flush_progress(struct conn *c)
{
	struct thmqi_frame *f;
	struct producer *p;
	uint32_t level, i;

	if (!c->dirty)
		return;
	for (i = 0; i < c->dirty_count; i++) {
		p = &c->producers[c->dirty_streams[i]];
		for (level = 0; level <= THMQ_DURABILITY_ALL; level++) {
			if (!(p->dirty & (1u << level)))
				continue;
			f = thmqi_conn_claim(c);
			if (!f) {
				memmove(c->dirty_streams, c->dirty_streams + i,
					(c->dirty_count - i) * sizeof(c->dirty_streams[0]));
				c->dirty_count -= i;
				return; /* still on the shard's list */
			}
			f->type = THMQI_FRAME_PROGRESS;
			f->flags = (uint8_t)level;
			f->stream = c->dirty_streams[i];
			f->seq = p->progress[level];
			f->generation = level ? 0 : p->life;
			thmqi_conn_commit(c);
			p->dirty &= (uint8_t) ~(1u << level);
		}
	}
	c->dirty_count = 0;
	c->dirty = false;
	thmqi_list_del(&c->dirty_link);
}

void thmqi_conn_kick(struct conn *c)
{
	if (c->wrote) {
		c->wrote = false;
		thmqi_link_kick_client(c->wire);
	}
}

void thmqi_reply(struct conn *c, uint64_t id, int status)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_REPLY, .seq = id, .status = status};

	c->wire->reply->status = status;
	thmqi_conn_send(c, &f);
	thmqi_conn_kick(c);
}
