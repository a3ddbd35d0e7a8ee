/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers.c - messages on their way out. What the engine wants to be sent is put down, and leaves when the event's duties are done:
 * batches in order, from the buffer that is being written or from the device, as far as the way to their receiver takes them.
 */
#include "internal.h"

#define BATCHES_PER_ROUND 64u /* to one peer, in one iteration */

static struct peer *peer_of(struct thmqi_group *g, uint64_t id)
{
	uint32_t i;

	for (i = 0; i < g->peer_count; i++)
		if (g->peers[i].id == id)
			return &g->peers[i];
	return NULL;
}

int thmqi_message_check(const struct thmqi_message *m)
{
	if (m->magic != THMQI_MESSAGE_MAGIC || m->version != THMQI_MESSAGE_VERSION ||
	    m->crc != thmqi_crc32c(0, m, offsetof(struct thmqi_message, crc)))
		return -EINVAL;
	/* nothing is counted so far in any life */
	if (m->term >> 62 || m->index >> 62 || m->commit >> 62 || m->index_term >> 62)
		return -EINVAL;
	return 0;
}

static int send(struct thmqi_group *g, struct thmqi_message *m, struct thmqi_buf *buf)
{
	m->crc = thmqi_crc32c(0, m, offsetof(struct thmqi_message, crc));
	return g->opts.wire.send(g->opts.wire.ctx, m, buf);
}

/* ---------------------------------------------------------------- put down */

static void forget_batch(struct peer *p)
{
	if (p->ready)
		thmqi_buf_unref(p->ready);
	p->ready = NULL;
	if (p->fetch.reading)
		p->stale = true;
	else
		thmqi_log_fetch_drop(&p->fetch);
}

/* The engine goes on where it was, or begins again where it knows the peer to be. */
static void want(struct peer *p, uint64_t first, uint32_t count)
{
	if (first < p->next || first > p->end) {
		forget_batch(p);
		p->next = first;
		p->end = first + count;
		return;
	}
	p->end = THMQI_MAX(p->end, first + count);
}

static void put_down(struct thmqi_group *g, const struct thmqi_message *m)
{
	if (g->outbox_count == OUTBOX_COUNT)
		return; /* what is lost is sent again */
	g->outbox[g->outbox_count] = *m;
	thmqi_removed_say(g, &g->outbox[g->outbox_count++]);
}

void thmqi_peers_send(void *ctx, const struct thmqi_message *message, uint32_t batches)
{
	struct thmqi_group *g = ctx;
	struct peer *p;

	if (message->type != THMQI_MESSAGE_APPEND && message->type != THMQI_MESSAGE_SNAPSHOT) {
		put_down(g, message);
		return;
	}
	p = peer_of(g, message->to);
	if (!p)
		return;
	if (message->type == THMQI_MESSAGE_SNAPSHOT) {
		p->snapshot = *message;
		p->owes_snapshot = true;
		forget_batch(p);
		p->next = p->end = message->index + 1;
		return;
	}
	p->heartbeat_index = message->index;
	p->heartbeat_term = message->index_term;
	if (batches)
		want(p, message->index + 1, batches);
	else
		p->owes_heartbeat = true;
}

static void reset(struct peer *p)
{
	forget_batch(p);
	p->next = p->end = 0;
	p->owes_heartbeat = p->owes_snapshot = p->again = false;
}

void thmqi_peers_drop(struct thmqi_group *g)
{
	uint32_t i;

	for (i = 0; i < g->peer_count; i++)
		reset(&g->peers[i]);
}

/* A place that is being read into stays where it is: members that are gone leave their places, which new ones take. */
void thmqi_peers_set(struct thmqi_group *g)
{
	const struct thmqi_members *m = &g->membership.members;
	struct peer *p;
	uint32_t i;

	for (i = 0; i < g->peer_count; i++) {
		if (!g->peers[i].id || thmqi_members_find(m, g->peers[i].id))
			continue;
		reset(&g->peers[i]);
		g->peers[i].id = 0;
	}
	for (i = 0; i < m->count; i++) {
		if (m->list[i].id == g->opts.id || peer_of(g, m->list[i].id))
			continue;
		for (p = g->peers; p < g->peers + g->peer_count && (p->id || p->fetch.reading); p++)
			;
		if (p == g->peers + THMQI_MEMBERS_MAX)
			continue; /* so many are being read for: at the next change of anything */
		if (p == g->peers + g->peer_count)
			g->peer_count++;
		memset(p, 0, sizeof(*p));
		p->group = g;
		p->id = m->list[i].id;
	}
}

/* ------------------------------------------------------------------- leave */

/* A copy that lacks it would never get on while this one leads; the others have it too. */
static void note_error(struct thmqi_group *g, int error)
{
	if (error == -THMQ_ECORRUPT || error == -EIO)
		g->damaged = true;
}

static void on_fetched(struct thmqi_log_fetch *f, int error)
{
	struct peer *p = thmqi_container(f, struct peer, fetch);

	if (error == -EAGAIN && !p->stale && !p->group->closing) {
		p->again = true;
		return;
	}
	if (error || p->stale || p->group->closing || f->index != p->next) {
		if (!error)
			thmqi_buf_unref(f->buf);
		thmqi_log_fetch_drop(f);
		p->stale = false;
		p->again = true;
		if (error && error != -EAGAIN && !p->group->closing)
			p->end = p->next; /* it asks again, and then the cause may be gone */
		note_error(p->group, error);
		return;
	}
	p->ready = f->buf;
	p->ready_len = f->len;
}

/* Return: 1 batch `next` is at hand; 0 not yet; or it cannot be had. */
static int fetch(struct thmqi_group *g, struct peer *p)
{
	int rc;

	if (p->ready)
		return 1;
	if (p->fetch.reading)
		return 0;
	p->fetch.done = on_fetched;
	rc = thmqi_log_fetch(g->log, &p->fetch, p->next);
	if (rc == 1) {
		p->ready = p->fetch.buf;
		p->ready_len = p->fetch.len;
	}
	if (rc == -EAGAIN) {
		p->again = true;
		rc = 0;
	}
	return rc;
}

static int send_append(struct thmqi_group *g, struct peer *p, uint64_t index, uint64_t index_term,
		       struct thmqi_buf *buf, uint32_t len)
{
	struct thmqi_message m = {.magic = THMQI_MESSAGE_MAGIC,
				  .version = THMQI_MESSAGE_VERSION,
				  .type = THMQI_MESSAGE_APPEND,
				  .group = g->opts.group,
				  .from = g->opts.id,
				  .to = p->id,
				  .term = thmqi_engine_term(g->engine),
				  .index = index,
				  .index_term = index_term,
				  .commit = thmqi_engine_committed(g->engine),
				  .batch_bytes = len};
	int rc = send(g, &m, buf);

	p->blocked = rc == -EAGAIN;
	return rc;
}

static uint32_t send_batches(struct thmqi_group *g, struct peer *p)
{
	uint32_t done = 0;
	uint64_t term;
	int rc;

	while (p->next < p->end && !p->blocked && done < BATCHES_PER_ROUND) {
		rc = fetch(g, p);
		if (!rc)
			break;
		term = thmqi_log_term_of(g->log, p->next - 1);
		if (rc == 1 && (term || p->next == 1))
			rc = send_append(g, p, p->next - 1, term, p->ready, p->ready_len);
		else if (rc == 1)
			rc = -ENOENT;
		if (rc == -EAGAIN)
			break;
		if (rc) { /* there is no way, or it was dropped meanwhile: the engine finds out */
			note_error(g, rc);
			forget_batch(p);
			p->end = p->next;
			break;
		}
		thmqi_buf_unref(p->ready);
		p->ready = NULL;
		p->next++;
		done++;
		p->owes_heartbeat = false;
	}
	return done;
}

/* Never ahead of the batches that are still to leave: it would be refused for want of these. */
static uint32_t send_heartbeat(struct thmqi_group *g, struct peer *p)
{
	uint64_t index = p->heartbeat_index, term = p->heartbeat_term;

	if (p->next < p->end && p->next - 1 < index) {
		index = p->next - 1;
		term = thmqi_log_term_of(g->log, index);
		if (index && !term)
			return 0;
	}
	if (send_append(g, p, index, term, NULL, 0) != -EAGAIN)
		p->owes_heartbeat = false;
	return 1;
}

static uint32_t send_snapshot(struct thmqi_group *g, struct peer *p)
{
	struct thmqi_buf *buf;
	int rc;

	if (thmqi_core_alloc(g->core, THMQI_RETAIN_BYTES_MAX, &buf) != 0) {
		p->again = true;
		return 0;
	}
	p->snapshot.batch_bytes = thmqi_retain_encode(g, &p->snapshot, buf->data);
	rc = send(g, &p->snapshot, buf);
	thmqi_buf_unref(buf);
	p->blocked = rc == -EAGAIN;
	if (rc != -EAGAIN)
		p->owes_snapshot = false;
	return 1;
}

/* Who is close behind stays so: what it is to be sent next is not dropped from memory before. */
static void keep(struct thmqi_group *g)
{
	uint64_t first = 0;
	uint32_t i;

	for (i = 0; i < g->peer_count; i++) {
		const struct peer *p = &g->peers[i];

		if (p->id && (!first || p->next < first) && thmqi_log_is_cached(g->log, p->next))
			first = p->next;
	}
	thmqi_log_keep(g->log, first);
}

uint32_t thmqi_peers_pump(struct thmqi_group *g)
{
	uint32_t i, done = g->outbox_count;
	struct peer *p;

	for (i = 0; i < g->outbox_count; i++)
		send(g, &g->outbox[i], NULL);
	g->outbox_count = 0;
	for (i = 0; i < g->peer_count && g->log; i++) {
		p = &g->peers[i];
		p->again = false;
		if (!p->id || p->blocked)
			continue;
		if (p->owes_snapshot)
			done += send_snapshot(g, p);
		done += send_batches(g, p);
		if (p->owes_heartbeat && !p->blocked)
			done += send_heartbeat(g, p);
	}
	if (g->role == THMQI_ROLE_LEADER)
		keep(g);
	return done;
}

bool thmqi_peers_wait(const struct thmqi_group *g)
{
	uint32_t i;

	for (i = 0; i < g->peer_count; i++)
		if (g->peers[i].again || (g->peers[i].ready && !g->peers[i].blocked))
			return true;
	return false;
}

void thmqi_group_writable(struct thmqi_group *g, uint64_t peer)
{
	struct peer *p = peer_of(g, peer);

	if (p)
		p->blocked = false;
}
