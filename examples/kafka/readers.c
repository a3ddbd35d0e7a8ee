/* SPDX-License-Identifier: Apache-2.0 */
/*
 * readers.c - readers that clients' fetches take turns at: every place where some client reads has one, a consumer of one partition without a
 * group, which stays for the client's next fetch. Knows nothing of the protocol but its error codes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

#define READERS_MAX 4096u
#define READER_LEAST (32u << 10) /* bytes of one of many … */
#define READER_FEW 64u /* … and batches: the library keeps book of each that there may be */
#define READER_BYTES_MAX (256ull << 20) /* of messages, which all of them hold: with what lies between, twice as much of the library's pool, which has 1 GiB */
#define LENT_BYTES_MAX (64ull << 20)	/* of that, those who have lent some to clients, which may never take it */
#define READER_SPARE_NS (5 * SECOND) /* an idle reader may be sent elsewhere after this, and goes after IDLE_NS of store.c */

/* Whoever wants it has it, or has let it go. */
static void set_idle(struct reader *r, bool idle)
{
	struct server *s = r->partition->topic->server;

	if (r->idle == idle)
		return;
	r->idle = idle;
	if (idle) {
		r->newer = NULL;
		r->older = s->idle_newest;
		*(s->idle_newest ? &s->idle_newest->newer : &s->idle_oldest) = r;
		s->idle_newest = r;
		return;
	}
	*(r->newer ? &r->newer->older : &s->idle_newest) = r->older;
	*(r->older ? &r->older->newer : &s->idle_oldest) = r->newer;
}

static void set_holds(struct reader *r, uint64_t bytes)
{
	struct server *s = r->partition->topic->server;

	s->reader_bytes += bytes - r->holds;
	if (r->lent)
		s->lent_bytes += bytes - r->holds;
	r->holds = bytes;
}

static void close_now(struct reader *r)
{
	thmq_consumer_close(r->consumer, 0);
	set_holds(r, 0);
	r->lane->readers--;
	r->partition->topic->server->reader_count--;
	store_unref(r->partition->topic);
	free(r);
}

void reader_close(struct reader *r)
{
	struct reader **at = &r->partition->readers;

	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	r->closing = true;
	set_idle(r, false);
	if (!r->lent)
		close_now(r);
}

bool reader_may_lend(const struct reader *r)
{
	return r->lent || r->partition->topic->server->lent_bytes + r->holds <= LENT_BYTES_MAX;
}

void reader_lend(struct reader *r)
{
	r->is_lent[r->at] = true;
	if (!r->lent++)
		r->partition->topic->server->lent_bytes += r->holds;
}

void reader_take_back(struct reader *r, struct thmq_message *lent)
{
	thmq_release(r->consumer, lent, 1);
	if (--r->lent)
		return;
	r->partition->topic->server->lent_bytes -= r->holds;
	if (r->closing)
		close_now(r);
	else
		set_idle(r, !r->busy);
}

/* The first @count go back, but for those that are lent. */
static void give_back(struct reader *r, uint32_t count)
{
	uint32_t i, n;

	for (i = 0; i < count; i += n) {
		for (n = 0; i + n < count && !r->is_lent[i + n];)
			n++;
		if (n)
			thmq_release(r->consumer, r->messages + i, n);
		for (; i + n < count && r->is_lent[i + n]; n++)
			r->is_lent[i + n] = false;
	}
}

/* Those that nobody has wanted for so long go. */
void readers_sweep(struct server *s, int64_t idle_ns)
{
	int64_t now = clock_ns();
	struct reader *r, *next;
	struct topic *t;
	uint32_t b, i;

	for (b = 0; b < BUCKETS; b++)
		for (t = s->topics[b]; t; t = t->next)
			for (i = 0; i < t->partition_count; i++)
				for (r = t->partitions[i]->readers; r; r = next) {
					next = r->next;
					if (!r->busy && !r->lent && now - r->used_ns >= idle_ns)
						reader_close(r);
				}
}

static int reader_seek(struct reader *r, uint32_t start, uint64_t value)
{
	struct partition *p = r->partition;
	int rc;

	give_back(r, r->given);
	r->at = r->count = r->given = 0;
	r->full = false;
	rc = thmq_seek(r->consumer, p->index, start, value);
	r->next_offset = start == THMQ_START_OFFSET ? (int64_t)value : -1;
	if (rc == -THMQ_ENOTOPIC)
		store_topic_gone(p->topic->server, p->topic);
	return rc;
}

/* What all readers hold together stays well below the memory that the library may take. */
static uint64_t prefetch_bytes(const struct server *s)
{
	return s->reader_count < 32 ? 2u << 20 : s->reader_count < 128 ? 512u << 10 : READER_LEAST;
}

static int reader_open(struct partition *p, bool uncommitted, struct reader **ret)
{
	struct topic *t = p->topic;
	struct reader *r;
	int rc = -ENOMEM;

	if (t->server->reader_count >= READERS_MAX)
		readers_sweep(t->server, 0);
	while (t->server->reader_bytes + prefetch_bytes(t->server) > READER_BYTES_MAX && t->server->idle_oldest)
		reader_close(t->server->idle_oldest);
	if (t->server->reader_count >= READERS_MAX || t->server->reader_bytes + prefetch_bytes(t->server) > READER_BYTES_MAX)
		return -EAGAIN; /* the client comes again */
	r = calloc(1, sizeof(*r));
	if (!r)
		return rc;
	r->partition = p;
	r->uncommitted = uncommitted;
	r->next_offset = -1; /* nowhere yet */
	r->lane = lane_for(t->server, true);
	if (r->lane)
		rc = thmq_consumer_open(
			r->lane->session, t->name, NULL,
			THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_PARTITION | THMQ_CONSUMER_ENCODED |
						    (uncommitted ? THMQ_CONSUMER_READ_UNCOMMITTED : 0),
					   .partition = p->index,
					   .start = THMQ_START_END,
					   .prefetch_bytes = prefetch_bytes(t->server),
					   .prefetch_count = prefetch_bytes(t->server) == READER_LEAST ? READER_FEW : 32768),
			&r->consumer);
	if (rc) {
		if (rc == -THMQ_ENOTOPIC)
			store_topic_gone(t->server, t);
		free(r);
		return rc;
	}
	set_holds(r, prefetch_bytes(t->server));
	r->lane->readers++;
	t->server->reader_count++;
	store_ref(t);
	r->next = p->readers;
	p->readers = r;
	*ret = r;
	return 0;
}

/* One that is there already, else one that nobody has wanted for long, else a new one. */
static int reader_take(struct partition *p, int64_t offset, bool uncommitted, struct reader **ret)
{
	struct reader *r, *spare = NULL;
	int64_t now = clock_ns();
	int rc = 0;

	if (p->topic->gone)
		return -THMQ_ENOTOPIC;
	for (r = p->readers; r; r = r->next) {
		if (r->busy || r->lent || r->uncommitted != uncommitted) /* lent: what it may hold may be all with one who takes it slowly */
			continue;
		if (offset >= 0 && r->next_offset == offset)
			break;
		if (now - r->used_ns > READER_SPARE_NS)
			spare = r;
	}
	r = r ? r : spare;
	if (!r)
		rc = reader_open(p, uncommitted, &r);
	if (rc)
		return rc;
	r->busy = true;
	set_idle(r, false);
	*ret = r;
	return 0;
}

int reader_get(struct partition *p, int64_t offset, bool uncommitted, struct reader **ret)
{
	struct reader *r;
	int rc = offset < 0 ? -THMQ_EOFFSETRANGE : reader_take(p, offset, uncommitted, &r);

	if (!rc && r->next_offset != offset) {
		rc = reader_seek(r, THMQ_START_OFFSET, (uint64_t)offset);
		if (rc)
			reader_put(r);
	}
	if (rc)
		return store_error(rc);
	*ret = r;
	return 0;
}

int reader_get_time(struct partition *p, int64_t time_ns, struct reader **ret)
{
	struct reader *r;
	int rc = reader_take(p, -1, false, &r);

	if (!rc) {
		rc = reader_seek(r, THMQ_START_TIME, (uint64_t)(time_ns < 0 ? 0 : time_ns));
		if (rc)
			reader_put(r);
	}
	if (rc)
		return store_error(rc);
	*ret = r;
	return 0;
}

void reader_put(struct reader *r)
{
	r->busy = false;
	r->used_ns = clock_ns();
	if (r->partition->topic->gone)
		reader_close(r);
	else
		set_idle(r, !r->lent);
}

/* Those that were read go back, the others move to the front. */
static void reader_give_back(struct reader *r)
{
	if (!r->at)
		return;
	give_back(r, r->at);
	r->count -= r->at;
	memmove(r->messages, r->messages + r->at, r->count * sizeof(r->messages[0]));
	r->given = r->count;
	r->at = 0;
}

int64_t reader_fill(struct reader *r)
{
	int64_t bytes = 0;
	uint32_t i;
	int n;

	if (r->partition->topic->gone)
		return -THMQ_ENOTOPIC;
	reader_give_back(r);
	r->full = false;
	n = thmq_fetch(r->consumer, r->messages + r->count, 512 - r->count);
	if (n == -ENOBUFS)
		r->full = r->count > 0;
	else if (n < 0)
		return n;
	else
		r->count += (uint32_t)n;
	for (i = r->given; i < r->count; i++)
		if (r->messages[i].len > r->holds) /* one at least is read, however large */
			set_holds(r, r->messages[i].len);
	r->given = r->count;
	r->full |= r->count == 512;
	if (r->full)
		return INT64_MAX;
	for (i = 0; i < r->count; i++)
		bytes += r->messages[i].len + r->messages[i].key_len + r->messages[i].headers_len +
			 8;
	return bytes;
}

const struct thmq_message *reader_peek(struct reader *r)
{
	if (r->at == r->count)
		reader_fill(r);
	return r->at < r->count ? &r->messages[r->at] : NULL;
}

bool reader_is_batch(struct reader *r)
{
	return thmq_message_encoding(r->consumer, &r->messages[r->at]) == THMQ_ENCODING_KAFKA;
}

void reader_step(struct reader *r)
{
	const struct thmq_message *m = &r->messages[r->at++];
	int64_t next = (int64_t)m->offset + (m->span ? m->span : 1), *end = r->uncommitted ? &r->partition->high : &r->partition->end;

	r->next_offset = next;
	if (next > *end)
		*end = next;
}
