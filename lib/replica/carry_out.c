/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carry_out.c - messages that go: they wait in a short queue, and all that have gathered in an iteration of the core leave in one call, heartbeats
 * of all groups among them; batches from where they lie. Knows not who they are for.
 */
#include "carry.h"

#define SEND_ROUNDS 4u
#define SEND_BYTES (1u << 20) /* gathered for one call */

static uint32_t place(uint32_t number)
{
	return number % CARRY_QUEUE;
}

int thmqi_carry_put(struct carry_conn *n, const struct thmqi_message *m, struct thmqi_buf *buf)
{
	uint32_t at = place(n->tail);

	if (n->tail - n->head == CARRY_QUEUE ||
	    (m->batch_bytes && n->queue_bytes &&
	     n->queue_bytes + m->batch_bytes > CARRY_QUEUE_BYTES))
		return -EAGAIN;
	n->queue[at] = *m;
	n->queue_bufs[at] = m->batch_bytes ? buf : NULL;
	if (m->batch_bytes)
		thmqi_buf_ref(buf);
	n->queue_bytes += sizeof(*m) + m->batch_bytes;
	if (n->tail == n->head)
		n->moved_ns = n->carrier->core->now_ns; /* from now on it waits */
	n->tail++;
	return 0;
}

static void advance(struct carry_conn *n)
{
	uint32_t at = place(n->head);

	n->queue_bytes -= sizeof(n->queue[at]) + n->queue[at].batch_bytes;
	if (n->queue_bufs[at])
		thmqi_buf_unref(n->queue_bufs[at]);
	n->queue_bufs[at] = NULL;
	n->head++;
	n->head_sent = 0;
}

void thmqi_carry_out_drop(struct carry_conn *n)
{
	while (n->head != n->tail)
		advance(n);
}

bool thmqi_carry_out_wanted(const struct carry_conn *n)
{
	return n->state == CARRY_OPEN && n->writable &&
	       (n->head != n->tail || (n->tls && n->tls->unsent));
}

static void add(struct iovec *iov, uint32_t *count, const void *data, size_t len)
{
	struct iovec *last = *count ? &iov[*count - 1] : NULL;

	if (last && (const uint8_t *)last->iov_base + last->iov_len == data)
		last->iov_len += len;
	else
		iov[(*count)++] =
			(struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = len};
}

/* What waits, from its first byte that has not gone on. Return: entries. */
static uint32_t gather(const struct carry_conn *n, struct iovec *iov)
{
	uint32_t number, count = 0, skip = n->head_sent;
	size_t bytes = 0;

	for (number = n->head; number != n->tail && count + 2 <= CARRY_IOV && bytes < SEND_BYTES;
	     number++) {
		const struct thmqi_message *m = &n->queue[place(number)];

		if (skip < sizeof(*m))
			add(iov, &count, (const uint8_t *)m + skip, sizeof(*m) - skip);
		skip = skip < sizeof(*m) ? 0 : skip - (uint32_t)sizeof(*m);
		if (m->batch_bytes)
			add(iov, &count, n->queue_bufs[place(number)]->data + skip,
			    m->batch_bytes - skip);
		bytes += sizeof(*m) + m->batch_bytes;
		skip = 0;
	}
	return count;
}

static void moved(struct carry_conn *n, uint64_t bytes)
{
	n->said_ns = n->moved_ns = n->carrier->core->now_ns;
	n->peer->told.bytes_out += bytes;
	while (bytes) {
		uint64_t rest = sizeof(struct thmqi_message) +
				n->queue[place(n->head)].batch_bytes - n->head_sent;

		if (bytes < rest) {
			n->head_sent += (uint32_t)bytes;
			return;
		}
		bytes -= rest;
		n->peer->told.messages_out++;
		advance(n);
	}
}

/* Half of it is free again. */
static void tell_room(struct carry_conn *n)
{
	struct carry_peer *p = n->peer;

	if (!p->blocked || n->tail - n->head > CARRY_QUEUE / 2 ||
	    n->queue_bytes > CARRY_QUEUE_BYTES / 2)
		return;
	thmqi_carry_writable(n->carrier, p);
}

void thmqi_carry_out(struct carry_conn *n)
{
	struct iovec iov[CARRY_IOV];
	uint32_t round;
	int64_t went;

	for (round = 0; round < SEND_ROUNDS && thmqi_carry_out_wanted(n); round++) {
		if (n->tls && n->tls->unsent) {
			went = thmqi_tls_flush(n->tls);
			n->writable = !n->tls->blocked;
			if (went > 0)
				n->said_ns = n->moved_ns = n->carrier->core->now_ns;
			if (went >= 0)
				continue;
		} else {
			went = thmqi_carry_send(n, iov, gather(n, iov));
		}
		if (went < 0) {
			thmqi_carry_end(n, (int)went);
			return;
		}
		moved(n, (uint64_t)went);
	}
	if (n->state == CARRY_OPEN)
		tell_room(n);
}
