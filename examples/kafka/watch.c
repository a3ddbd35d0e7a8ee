/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - for fetches of many partitions: one consumer of a whole topic, from its end on, tells how far each partition goes, so that one that waits
 * costs by what comes and not by what it waits for. What comes is not kept. Knows nothing of the protocol.
 */
#include <stdlib.h>

#include "store.h"

#define WATCH_BYTES (256u << 10)
#define WATCH_COUNT 1024u
#define WATCH_AGAIN_NS (10 * SECOND) /* after so long a partition is described again, a few at a time: where it begins may have changed */

struct watch {
	struct watch *next; /* of the server's */
	struct topic *topic;
	struct lane *lane;
	struct thmq_consumer *consumer;
	int64_t opened_ns, used_ns;
	bool uncommitted;
};

bool watch_want(struct topic *t, bool uncommitted)
{
	struct watch *w = t->watches[uncommitted];
	struct server *s = t->server;

	if (t->gone)
		return false;
	if (!w) {
		w = calloc(1, sizeof(*w));
		if (!w)
			return false;
		w->lane = lane_for(s, true);
		if (!w->lane || thmq_consumer_open(w->lane->session, t->name, NULL,
						   THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_ENCODED | (uncommitted ? THMQ_CONSUMER_READ_UNCOMMITTED : 0),
								      .start = THMQ_START_END, .prefetch_bytes = WATCH_BYTES, .prefetch_count = WATCH_COUNT),
						   &w->consumer)) {
			free(w);
			return false;
		}
		w->lane->readers++;
		w->topic = t;
		w->uncommitted = uncommitted;
		w->opened_ns = clock_ns();
		w->next = s->watches;
		s->watches = w;
		t->watches[uncommitted] = w;
	}
	w->used_ns = s->now_ns;
	return true;
}

bool watch_knows(const struct partition *p, bool uncommitted, bool lately)
{
	const struct watch *w = p->topic->watches[uncommitted];

	return w && p->described_ns >= w->opened_ns && (!lately || p->topic->server->now_ns - p->described_ns < WATCH_AGAIN_NS);
}

static void watch_close(struct watch *w)
{
	struct watch **at = &w->topic->server->watches;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->topic->watches[w->uncommitted] = NULL;
	w->topic->server->watch_serial++; /* who waits finds another way */
	thmq_consumer_close(w->consumer, 0);
	w->lane->readers--;
	free(w);
}

void watch_close_all(struct topic *t)
{
	if (t->watches[0])
		watch_close(t->watches[0]);
	if (t->watches[1])
		watch_close(t->watches[1]);
	t->server->watch_serial++;
}

void watches_sweep(struct server *s, int64_t idle_ns)
{
	struct watch *w, *next;

	for (w = s->watches; w; w = next) {
		next = w->next;
		if (s->now_ns - w->used_ns >= idle_ns)
			watch_close(w);
	}
}

static void watch_note(struct watch *w, const struct thmq_message *m)
{
	struct partition *p = m->partition < w->topic->partition_count ? w->topic->partitions[m->partition] : NULL;
	const int64_t next = (int64_t)m->offset + (m->span ? m->span : 1);
	int64_t *end;

	if (!p || p->end < 0) /* it is described before anybody waits for it */
		return;
	end = w->uncommitted ? &p->high : &p->end;
	if (next > *end)
		*end = next;
}

void watches_read(struct server *s)
{
	struct thmq_message messages[256];
	struct watch *w, *next;
	int i, n;

	for (w = s->watches; w; w = next) {
		next = w->next;
		while ((n = thmq_fetch(w->consumer, messages, 256)) > 0) {
			for (i = 0; i < n; i++)
				watch_note(w, &messages[i]);
			thmq_release(w->consumer, messages, (uint32_t)n);
			s->watch_serial++;
		}
		if (n < 0)
			watch_close(w);
	}
}
