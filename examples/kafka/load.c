/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c - topics of this broker's own, read when it begins to serve: all that is in one, until a message comes that it has just sent there
 * itself. The end alone does not tell: what was before it may have gone.
 */
#include <errno.h>

#include "kafka.h"

#define LOAD_NS (60 * SECOND)

struct mark {
	struct settled_call call; /* first */
	bool settled;
	int error;
	int64_t offset;
};

static void mark_settled(struct settled_call *call, int error, int64_t base_offset)
{
	struct mark *m = (struct mark *)call;

	m->settled = true;
	m->error = error;
	m->offset = base_offset;
}

static int settle(struct sending *g, int64_t *ret_offset)
{
	struct server *s = g->partition->topic->server;
	int64_t deadline = clock_ns() + LOAD_NS;
	struct mark m = {.call.settled = mark_settled};

	sending_end(g, &m.call);
	while (!m.settled && clock_ns() < deadline && !s->retire)
		store_pump(s, 10 * MILLISECOND);
	*ret_offset = m.offset;
	if (m.settled)
		return m.error;
	g->calls = NULL;
	return -ETIMEDOUT;
}

int load_settle(struct sending *g)
{
	int64_t offset;

	return settle(g, &offset);
}

/* Its key is no group's, and always the same, so that one is kept. */
static int mark_end(struct partition *p, int64_t *ret_offset)
{
	struct thmq_message_opts opts = {.size = sizeof(opts),
					 .flags = THMQ_MESSAGE_PARTITION,
					 .key = "opened",
					 .key_len = 6,
					 .durability = THMQ_DURABILITY_QUORUM};
	struct sending *g;
	int rc = sending_begin(p, NULL, &g);

	if (rc)
		return rc;
	sending_add(g, text_of("1"), &opts);
	return settle(g, ret_offset);
}

int load_all(struct partition *p, void (*each)(void *ctx, const struct thmq_message *m), void *ctx)
{
	struct server *s = p->topic->server;
	const struct thmq_message *m;
	int64_t deadline, end;
	struct reader *r;
	int rc;

	if (store_describe(p))
		return -EIO;
	rc = mark_end(p, &end);
	if (rc)
		return rc;
	deadline = clock_ns() + LOAD_NS;
	if (reader_get(p, p->begin, false, &r))
		return -EIO;
	while (r->next_offset <= end && clock_ns() < deadline && !s->retire) {
		m = reader_peek(r);
		if (!m) {
			store_pump(s, MILLISECOND);
			continue;
		}
		if (!reader_is_batch(r))
			each(ctx, m);
		reader_step(r);
	}
	rc = r->next_offset <= end ? -ETIMEDOUT : 0;
	reader_put(r);
	return rc;
}
