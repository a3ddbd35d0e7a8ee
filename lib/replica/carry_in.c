/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carry_in.c - messages that come: each with its batch, which is read to where it stays, goes to the group that it names. A group that has no
 * room holds up what is behind for a short while only; then the message is dropped, and consensus sends it again. Who breaks the rules is cut
 * off, and nobody else notices.
 */
#include "carry.h"

#define RECV_ROUNDS 8u
#define RECV_BYTES (1u << 20) /* of one connection in one iteration */
#define LARGE_BATCH 4096u     /* left of one: what is behind it is not read with it */

static void refuse(struct carry_conn *n)
{
	n->peer->told.refused++;
	n->stall_ns = 0;
	if (n->buf)
		thmqi_buf_unref(n->buf);
	n->buf = NULL;
}

/* True: it waits, and nothing behind it is read meanwhile. */
static bool stalls(struct carry_conn *n)
{
	uint64_t now = n->carrier->core->now_ns;

	if (!n->stall_ns)
		n->stall_ns = now ? now : 1;
	n->heard_ns = now; /* it is us who do not listen */
	if (now - n->stall_ns < CARRY_STALL_NS)
		return true;
	n->stall_ns = 0;
	return false;
}

static struct thmqi_carried *group_of(struct carry_conn *n)
{
	return thmqi_map_get(&n->carrier->groups, n->in.message.group);
}

/* The message is here, with its batch. Return: 1 it waits; 0. */
static int deliver(struct carry_conn *n)
{
	struct thmqi_carried *g = group_of(n);
	int rc;

	if (!g || (n->in.message.batch_bytes && !n->buf)) {
		refuse(n);
		return 0;
	}
	rc = thmqi_group_receive(g->group, &n->in.message, n->buf);
	if (rc == -EAGAIN && stalls(n))
		return 1;
	if (rc) {
		refuse(n);
		return 0;
	}
	n->stall_ns = 0;
	n->buf = NULL; /* the group's now */
	n->peer->told.messages_in++;
	return 0;
}

/* A message whose batch is still to come: where to? Return: 1 it waits for memory; 0. */
static int place(struct carry_conn *n)
{
	if (group_of(n) && thmqi_core_alloc(n->carrier->core, n->in.left, &n->buf) == 0) {
		n->buf->owner = THMQI_OWNER_BATCH;
		n->in.to = n->buf->data;
	} else if (group_of(n) && stalls(n)) {
		return 1;
	}
	n->stall_ns = 0;
	return 0;
}

/* Return: 1 it waits; 0; or an error. */
static int message(struct carry_conn *n)
{
	const struct thmqi_message *m = &n->in.message;

	if (m->from != n->peer->id || m->to != n->carrier->id)
		return -EPROTO;
	if (m->type == CARRY_BEAT) {
		n->peer->told.trouble = thmqi_carry_beat_trouble(m);
		return n->peer->told.trouble > 0 ? -EPROTO : 0;
	}
	return n->in.left ? place(n) : deliver(n);
}

/* What was begun before and had to wait. Return: 1 it still does; 0 */
static int again(struct carry_conn *n)
{
	return n->in.left ? place(n) : deliver(n);
}

/* What lies in rx. 0; an error. */
static int parse(struct carry_conn *n)
{
	const uint8_t *at = n->rx + n->rx_at, *end = n->rx + n->rx_end;
	int rc = 0;

	while (at < end && rc == 0) {
		rc = thmqi_carry_stream_take(&n->in, &at, end);
		if (rc == CARRY_MESSAGE)
			rc = message(n);
		else if (rc == CARRY_BATCH)
			rc = deliver(n);
	}
	n->rx_at = (uint32_t)(at - n->rx);
	if (n->rx_at == n->rx_end)
		n->rx_at = n->rx_end = 0;
	return THMQI_MIN(rc, 0);
}

/* One call: the rest of a batch to its place, what is behind it to rx. Bytes; 0 none now; an error. */
static int64_t receive(struct carry_conn *n)
{
	uint32_t direct = n->in.to ? n->in.left : 0, count = 0;
	struct iovec iov[2];
	int64_t got;

	if (direct)
		iov[count++] = (struct iovec){.iov_base = n->in.to, .iov_len = direct};
	if (direct < LARGE_BATCH)
		iov[count++] = (struct iovec){.iov_base = n->rx, .iov_len = CARRY_RX_BYTES};
	got = thmqi_carry_recv(n, iov, count);
	if (got <= 0)
		return got;
	direct = (uint32_t)THMQI_MIN((uint64_t)got, (uint64_t)direct);
	n->rx_at = 0;
	n->rx_end = (uint32_t)got - direct;
	n->heard_ns = n->carrier->core->now_ns;
	n->peer->told.bytes_in += (uint64_t)got;
	if (direct && thmqi_carry_stream_placed(&n->in, direct))
		deliver(n); /* where it waits, what was read behind it stays in rx */
	return got;
}

int thmqi_carry_in(struct carry_conn *n)
{
	uint32_t round;
	int64_t bytes = 0, got;
	int rc = 0, done = 0;

	if (n->stall_ns) {
		if (again(n))
			return 0;
		done = 1;
	}
	if (n->rx_end)
		rc = parse(n);
	for (round = 0;
	     !rc && round < RECV_ROUNDS && bytes < RECV_BYTES && n->readable && !n->stall_ns;
	     round++) {
		got = receive(n);
		if (got <= 0) {
			rc = (int)got;
			break;
		}
		bytes += got;
		done = 1;
		if (!n->stall_ns)
			rc = parse(n);
	}
	if (rc < 0)
		thmqi_carry_end(n, rc);
	return done || rc < 0;
}
