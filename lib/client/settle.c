/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settle.c - what has become of messages that a producer sent: settled, refused, failed, less safe than was said. The watermark follows
 * from it, and flush waits for that. Sending is in send.c.
 */
#include "internal.h"

/* As it is: what is usual is kept as zero. */
static struct sent sent_at(const struct thmq_producer *p, uint64_t seq)
{
	return (struct sent){.word = p->sent[seq & p->sent_mask].word ^ p->usual.word};
}

static void sent_mark(struct thmq_producer *p, uint64_t seq, uint8_t what)
{
	p->sent[seq & p->sent_mask].failed |= what;
}

void thmqi_producer_promise_kept(struct thmq_producer *p)
{
	if (p->report && p->reports_due) {
		p->reports_due--;
		p->session->reports_due--;
	}
}

static bool is_over(const struct sent *e)
{
	return e->failed & (SENT_FAILED | SENT_SETTLED);
}

int64_t thmqi_client_watermark(struct thmq_producer *p)
{
	struct thmq_session *s = p->session;
	const struct client_link *l;
	struct sent e;

	if (s->links)
		thmqi_session_process(s);
	while (p->watermark < p->last_seq) {
		e = sent_at(p, p->watermark + 1);
		l = e.shard < s->shard_count ? s->links[e.shard] : NULL;
		if (p->watermark + 1 >= p->uniform_from && l) {
			/* all from here on went one way: the way's own progress is the answer */
			uint64_t done = THMQI_MIN(l->progress[p->stream][e.level], p->last_seq);

			if (done > p->watermark)
				p->watermark = done;
			else if (is_over(&e))
				p->watermark++;
			else
				break;
			continue;
		}
		if (!is_over(&e) && !(l && l->progress[p->stream][e.level] >= p->watermark + 1))
			break;
		p->watermark++;
	}
	return (int64_t)p->watermark;
}

static uint32_t index_of(const struct thmq_producer *p, uint32_t partition)
{
	uint32_t i = partition - p->partitions[0].partition, lo = 0, hi = p->partition_count;

	if (i < p->partition_count && p->partitions[i].partition == partition)
		return i;
	while (lo < hi) { /* those that were added later lie elsewhere, behind these */
		i = lo + (hi - lo) / 2;
		if (p->partitions[i].partition < partition)
			lo = i + 1;
		else
			hi = i;
	}
	return lo < p->partition_count && p->partitions[lo].partition == partition ? lo : UINT32_MAX;
}

/* @index: of its partition in the topic */
static void failed_event(struct thmq_producer *p, uint32_t index, uint64_t seq, int error, uint64_t offset)
{
	struct thmq_event e = {.type = THMQ_EVENT_FAILED,
			       .error = error,
			       .producer = p,
			       .cookie = p->cookie,
			       .sequence = seq,
			       .offset = offset,
			       .partition = index,
			       .count = 1};

	thmqi_session_event(p->session, &e);
}

void thmqi_producer_limited(struct thmq_producer *p, const struct thmqi_frame *f)
{
	uint64_t now = thmqi_session_now(p->session);
	const struct thmq_event e = {.type = THMQ_EVENT_LIMITED,
				     .error = -EAGAIN,
				     .producer = p,
				     .cookie = p->cookie,
				     .count = f->arg[0],
				     .partition = index_of(p, f->partition)};

	p->limited_until_ns = f->arg[0] > UINT64_MAX - now ? UINT64_MAX : now + f->arg[0];
	if (p->limited_told_ns && now - p->limited_told_ns < LIMITED_NS)
		return;
	p->limited_told_ns = now;
	thmqi_session_event(p->session, &e);
}

int64_t thmqi_client_producer_retry_ns(struct thmq_producer *p)
{
	uint64_t now = thmqi_session_now(p->session);

	thmqi_session_process(p->session);
	return p->limited_until_ns > now ? (int64_t)THMQI_MIN(p->limited_until_ns - now, (uint64_t)INT64_MAX) : 0;
}

/* A run is stored: its sequences are this link's, in the order of sending. */
void thmqi_producer_settled(struct thmq_producer *p, struct client_link *l,
			    const struct thmqi_frame *f)
{
	struct thmq_event e = {.type = THMQ_EVENT_SETTLED,
			       .producer = p,
			       .cookie = p->cookie,
			       .partition = index_of(p, f->partition),
			       .durability = f->flags,
			       .error = f->status < 0 ? f->status : 0,
			       .count = 1};
	uint64_t seq = f->seq;
	uint32_t n = 0;

	for (; n < f->len && seq <= p->last_seq; seq++) {
		const struct sent sent = sent_at(p, seq);

		if (sent.shard != l->shard || is_over(&sent))
			continue;
		e.sequence = seq;
		e.offset = f->arg[0] == UINT64_MAX ? UINT64_MAX : f->arg[0] + n;
		n++;
		if (sent.failed &
		    SENT_REPORTED) /* by a connection that was lost before it said more */
			continue;
		sent_mark(p, seq, SENT_REPORTED);
		thmqi_producer_promise_kept(p);
		thmqi_session_event(p->session, &e);
	}
}

void thmqi_producer_resume(struct thmq_producer *p, const struct client_link *l)
{
	uint64_t seq;

	for (seq = p->watermark + 1; seq <= p->last_seq; seq++) {
		const struct sent e = sent_at(p, seq);

		if (e.shard == l->shard && l->progress[p->stream][e.level] >= seq)
			sent_mark(p, seq, SENT_SETTLED);
	}
}

static void mark_failed(struct thmq_producer *p, uint64_t seq)
{
	sent_mark(p, seq, SENT_FAILED);
	p->failed++;
	thmqi_producer_promise_kept(p);
}

/* Producers of a link share its slots, and each counts its own sequences. */
static void free_slot(const struct thmq_producer *p, struct client_link *l, uint64_t seq)
{
	uint32_t i;

	for (i = l->slot_tail; i != l->slot_head; i++) {
		struct slot *slot = &l->slots[i & l->slot_mask];

		if (slot->state == SLOT_COMMITTED && slot->stream == p->stream && slot->seq == seq)
			slot->state = SLOT_FREE;
	}
}

void thmqi_producer_rejected(struct thmq_producer *p, struct client_link *l,
			     const struct thmqi_frame *f)
{
	if (f->seq > p->last_seq || f->seq <= p->watermark || is_over(&p->sent[f->seq & p->sent_mask]))
		return;
	mark_failed(p, f->seq);
	failed_event(p, index_of(p, f->partition), f->seq, f->status, f->arg[0]);
	free_slot(p, l, f->seq);
	if (f->status == -THMQ_ENOTOPIC || f->status == -THMQ_EFENCED)
		p->error = f->status;
}

/* A shard failed: everything out to it ends as failed, with an outcome that is not known. */
void thmqi_producer_trouble(struct thmq_session *s, const struct thmqi_frame *f)
{
	struct thmq_producer *p = s->producers[f->stream % THMQI_STREAMS];
	uint32_t index;
	uint64_t seq;

	if (f->status != -THMQ_EFAILED || !p)
		return;
	index = index_of(p, f->partition);
	if (index == UINT32_MAX)
		return;
	p->error = -THMQ_EFAILED;
	for (seq = p->watermark + 1; seq <= p->last_seq; seq++) {
		const struct sent e = sent_at(p, seq);
		struct client_link *l = s->links[e.shard];

		if (e.shard != p->partitions[index].shard || is_over(&e) ||
		    (l && l->progress[p->stream][e.level] >= seq))
			continue;
		mark_failed(p, seq);
		failed_event(p, index, seq, -THMQ_EFAILED, 0);
		if (l)
			free_slot(p, l, seq);
	}
}

/* Told of what this producer was told before, in one partition. */
void thmqi_producer_lost(struct thmq_producer *p, const struct thmqi_frame *f)
{
	struct thmq_event e = {.type = THMQ_EVENT_LOST,
			       .error = f->status,
			       .producer = p,
			       .cookie = p->cookie,
			       .sequence = f->arg[0],
			       .offset = f->seq,
			       .count = f->arg[1],
			       .partition = index_of(p, f->partition),
			       .durability = f->flags};

	if (e.partition != UINT32_MAX)
		thmqi_session_event(p->session, &e);
}

/* Some have less than they waited for, and wait no more. */
void thmqi_producer_weaker(struct thmq_producer *p, const struct thmqi_frame *f)
{
	struct thmq_event e = {.type = THMQ_EVENT_WEAKER,
			       .error = f->status,
			       .producer = p,
			       .cookie = p->cookie,
			       .sequence = f->seq,
			       .count = f->len,
			       .partition = index_of(p, f->partition),
			       .durability = f->flags};

	if (e.partition != UINT32_MAX && f->seq && f->seq <= p->last_seq)
		thmqi_session_event(p->session, &e);
}

/* Of the sequences from @first to @last those that went by @l; 0: it is not known any more. */
static uint64_t count_sent(const struct thmq_producer *p, const struct client_link *l, uint64_t first, uint64_t last)
{
	uint64_t seq, n = 0;

	if (p->last_seq - first > p->sent_mask)
		return 0;
	for (seq = first; seq <= last; seq++) {
		const struct sent e = sent_at(p, seq);

		n += e.shard == l->shard && e.level < THMQ_DURABILITY_DURABLE && !(e.failed & SENT_FAILED);
	}
	return n;
}

static void doubt(struct thmq_producer *p, struct client_link *l, int error)
{
	uint64_t *progress = l->progress[p->stream];
	uint64_t safe = THMQI_MAX(progress[0], progress[THMQ_DURABILITY_DURABLE]),
		 told = THMQI_MAX(progress[THMQ_DURABILITY_MEMORY], progress[THMQ_DURABILITY_WRITTEN]);
	struct thmq_event e = {.type = THMQ_EVENT_LOST,
			       .error = error,
			       .producer = p,
			       .cookie = p->cookie,
			       .sequence = safe + 1,
			       .offset = UINT64_MAX,
			       .partition = p->partition_count == 1 ? 0 : UINT32_MAX,
			       .durability = progress[THMQ_DURABILITY_MEMORY] > safe ? THMQ_DURABILITY_MEMORY
										     : THMQ_DURABILITY_WRITTEN};

	if (p->is_volatile || told <= safe)
		return;
	e.count = count_sent(p, l, e.sequence, told);
	progress[0] = told; /* once */
	thmqi_session_event(p->session, &e);
}

void thmqi_producers_doubt(struct client_link *l, int error)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS && error != -ESHUTDOWN; i++) /* who closes makes all durable first */
		if (l->session->producers[i])
			doubt(l->session->producers[i], l, error);
}

void thmqi_producers_refuse(struct thmq_session *s, bool refuse)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++) {
		struct thmq_producer *p = s->producers[i];

		if (p && refuse && !p->error && !p->is_volatile)
			p->error = -THMQ_ENOQUORUM;
		else if (p && !refuse && p->error == -THMQ_ENOQUORUM)
			p->error = 0;
	}
}

/* -------------------------------------------------------------------- flush */

static bool is_settled(void *arg)
{
	struct thmq_producer *p = arg;

	return (uint64_t)thmqi_client_watermark(p) == p->last_seq;
}

int thmqi_producer_settle(struct thmq_producer *p, uint64_t deadline)
{
	return is_settled(p) ? 0 : thmqi_session_block(p->session, is_settled, p, deadline);
}

int thmqi_client_flush(struct thmq_producer *p, uint64_t timeout_ns)
{
	int rc = 0;

	if (!is_settled(p))
		rc = thmqi_session_block(p->session, is_settled, p,
					 thmqi_session_deadline(p->session, timeout_ns));
	if (rc)
		return rc == -ETIMEDOUT && p->session->reads_only ? -THMQ_ENOQUORUM : rc;
	if (p->failed) {
		p->failed = 0;
		return -EIO;
	}
	return 0;
}
