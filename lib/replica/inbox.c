/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inbox.c - messages that have come, in their order, until the engine may be asked: never while term and vote are being stored,
 * and batches only when the log can take them. Consecutive batches of one leader are one event.
 */
#include "internal.h"

static struct waiting *at(struct thmqi_group *g, uint32_t number)
{
	return &g->inbox[number % INBOX_COUNT];
}

int thmqi_group_receive(struct thmqi_group *g, const struct thmqi_message *message,
			struct thmqi_buf *buf)
{
	if (g->failed)
		return -THMQ_EFAILED;
	if (thmqi_message_check(message) || message->group != g->opts.group ||
	    message->to != g->opts.id || !message->from || message->from == g->opts.id ||
	    (buf ? message->batch_bytes > buf->size : message->batch_bytes != 0))
		return -EINVAL;
	if (thmqi_unlikely(g->newcomer))
		thmqi_newcomer_heard(g, message->from);
	if (g->inbox_tail - g->inbox_head == INBOX_COUNT)
		return -EAGAIN;
	*at(g, g->inbox_tail++) =
		(struct waiting){.message = *message, .buf = message->batch_bytes ? buf : NULL};
	if (buf && !message->batch_bytes)
		thmqi_buf_unref(buf);
	return 0;
}

static void advance(struct thmqi_group *g)
{
	struct waiting *w = at(g, g->inbox_head++);

	if (w->buf)
		thmqi_buf_unref(w->buf);
	w->buf = NULL;
}

void thmqi_inbox_clear(struct thmqi_group *g)
{
	while (g->inbox_head != g->inbox_tail)
		advance(g);
}

/* ------------------------------------------------------------------ batches */

/* A batch as its message says it. False: it is not to be believed. */
static bool is_batch(struct thmqi_group *g, const struct waiting *w, struct thmqi_engine_entry *ret,
		     bool *ret_pad)
{
	struct thmqi_log_received r;

	if (w->message.batch_bytes < THMQI_BATCH_HEADER_BYTES)
		return false;
	if (thmqi_log_batch_check(g->log, w->buf->data, w->message.batch_bytes, &r) != 0) {
		if (!thmqi_group_breaks(g, THMQI_GROUP_TRUST_BATCH))
			return false;
		thmqi_log_batch_peek(w->buf->data, &r);
	}
	if (r.index != w->message.index + 1)
		return false;
	ret->term = r.term;
	ret->change = r.type == THMQI_BATCH_CHANGE;
	*ret_pad = r.type == THMQI_BATCH_PAD;
	if (!ret->change)
		return true;
	ret->membership.index = r.index;
	return thmqi_membership_decode(r.state, r.state_len, &ret->membership) == 0 &&
	       thmqi_members_check(&ret->membership.members) == 0;
}

/* Does @w go on where the batch before it ended, which is of @term? */
static bool goes_on(const struct waiting *before, const struct waiting *w, uint64_t term)
{
	return w->message.type == THMQI_MESSAGE_APPEND && w->buf &&
	       w->message.from == before->message.from && w->message.term == before->message.term &&
	       w->message.index == before->message.index + 1 && w->message.index_term == term;
}

/*
 * The batches at the head, which @ret has, as one event: as many as the log can take at once, and none behind a change, B1, or behind
 * the end of a segment.
 */
static uint32_t gather(struct thmqi_group *g, struct thmqi_engine_entry *ret, uint32_t max)
{
	uint32_t n = 0;
	bool pad = false;

	while (n < max && g->inbox_head + n != g->inbox_tail && !pad) {
		struct waiting *w = at(g, g->inbox_head + n);

		if (n && !goes_on(at(g, g->inbox_head + n - 1), w, ret[n - 1].term))
			break;
		if (!is_batch(g, w, &ret[n], &pad))
			break;
		if (n && ret[n].change && !thmqi_group_breaks(g, THMQI_GROUP_NO_B1))
			break;
		n++;
	}
	return n;
}

/* Return: 1; 0 not now. */
static int append(struct thmqi_group *g)
{
	struct waiting *w = at(g, g->inbox_head);
	struct thmqi_engine_entry *entries = g->entries;
	struct thmqi_message m = w->message;
	struct thmqi_duties d;
	uint32_t n = 0, i;
	int rc;

	if (w->buf) {
		rc = thmqi_log_may_take(g->log);
		if (rc == -EAGAIN)
			return 0;
		if (rc > 0)
			n = gather(g, entries, THMQI_MIN((uint32_t)rc, THMQI_ENGINE_ENTRIES));
		if (!n) { /* damaged on its way, or there is no room for it: it comes again */
			advance(g);
			return 1;
		}
		m.commit = at(g, g->inbox_head + n - 1)->message.commit;
	}
	for (i = 0; i < n; i++) {
		g->taking[i] = at(g, g->inbox_head)->buf;
		at(g, g->inbox_head)->buf = NULL;
		advance(g);
	}
	if (!n)
		advance(g);
	g->taking_count = n;
	g->taking_index = m.index + 1;
	rc = thmqi_engine_append(g->engine, thmqi_group_now_ms(g), &m, entries, n, &d);
	thmqi_group_handle(g, rc, &d);
	return 1;
}

/* --------------------------------------------------------------------- step */

static void other(struct thmqi_group *g)
{
	struct waiting w = *at(g, g->inbox_head);
	struct thmqi_membership m;
	struct thmqi_duties d;
	int rc = 0;

	if (w.message.type == THMQI_MESSAGE_SNAPSHOT)
		rc = w.buf ? thmqi_retain_decode(w.buf->data, w.message.batch_bytes, &g->install,
						 &m)
			   : -EINVAL;
	if (!rc && w.message.type == THMQI_MESSAGE_SNAPSHOT && g->install.index != w.message.index)
		rc = -EINVAL;
	advance(g);
	/* it may have voted, if it had a directory before */
	if (g->newcomer && (w.message.type == THMQI_MESSAGE_VOTE || w.message.type == THMQI_MESSAGE_TIMEOUT_NOW))
		return;
	if (rc)
		return;
	thmqi_removed_hear(g, &w.message);
	rc = thmqi_engine_receive(g->engine, thmqi_group_now_ms(g), &w.message,
				  w.message.type == THMQI_MESSAGE_SNAPSHOT ? &m.members : NULL, &d);
	thmqi_group_handle(g, rc, &d);
}

int thmqi_inbox_step(struct thmqi_group *g)
{
	if (g->inbox_head == g->inbox_tail)
		return 0;
	if (at(g, g->inbox_head)->message.type == THMQI_MESSAGE_APPEND)
		return append(g);
	other(g);
	return 1;
}
