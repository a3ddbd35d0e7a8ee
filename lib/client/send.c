/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send.c - claims in a link's data area, and commits as frames; what has become of them is in settle.c. Nothing on the way of a
 * message allocates, locks, reads the clock or enters the kernel (but to wake a core that sleeps).
 */
#include "client/pack.h"
#include "internal.h"
#include "place.h"
#include "series.h"
#include "txn.h"
#include "wire/attributes.h"
#include "wire/run.h"

#define STICKY_MESSAGES 64u      /* round robin stays on a partition for so many … */
#define STICKY_BYTES (64u << 10) /* … or so much */
#define EXPECT_BYTES 256u
#define HOT_BYTES (64u << 10)
#define CLAIM_COMMITTED UINT64_MAX

/* --------------------------------------------------------------- data area */

static inline bool slot_settled(const struct client_link *l, const struct slot *slot)
{
	if (slot->state == SLOT_FREE)
		return true;
	return slot->state == SLOT_COMMITTED && l->progress[slot->stream][slot->level] >= slot->seq;
}

bool thmqi_slot_is_settled(const struct client_link *l, const struct slot *slot)
{
	return slot_settled(l, slot);
}

static void reclaim(struct client_link *l)
{
	struct slot *slot;

	while (l->slot_tail != l->slot_head) {
		slot = &l->slots[l->slot_tail & l->slot_mask];
		if (!slot_settled(l, slot))
			break;
		l->area_tail = slot->end;
		l->slot_tail++;
	}
}

void thmqi_place_reclaim(struct client_link *l)
{
	reclaim(l);
}

/* The area's begin is in the cores' caches: who has nothing out goes back there. Return: where to go on. */
static uint64_t begin_anew(struct client_link *l, uint64_t at)
{
	reclaim(l);
	if (l->slot_head != l->slot_tail)
		return at;
	l->area_tail = THMQI_ALIGN_UP(at, (uint64_t)l->wire->area_bytes);
	return l->area_tail;
}

static uint64_t area_make_room(struct client_link *l, uint64_t at, uint32_t bytes, uint32_t slots)
{
	uint64_t size = l->wire->area_bytes;

	reclaim(l);
	if (l->slot_head == l->slot_tail) /* nothing is out: begin anew, and reach any size */
		at = l->area_tail = THMQI_ALIGN_UP(at, size);
	return at + bytes - l->area_tail > size || l->slot_head - l->slot_tail + slots - 1 > l->slot_mask
		       ? UINT64_MAX
		       : at;
}

/* @bytes in one piece; a piece that would wrap skips the rest. Return: its place, free running, or UINT64_MAX. */
static inline uint64_t area_claim(struct client_link *l, uint32_t bytes, uint32_t slots)
{
	uint64_t size = l->wire->area_bytes, at = l->area_head, left = size - (at & (size - 1));

	if (left < bytes)
		at += left;
	else if (size - left >= HOT_BYTES && size > HOT_BYTES)
		at = begin_anew(l, at);
	if (thmqi_unlikely(at + bytes - l->area_tail > size ||
			   l->slot_head - l->slot_tail + slots - 1 > l->slot_mask))
		return area_make_room(l, at, bytes, slots);
	return at;
}

/* The core has read these lines when they held other messages: ask for as many as this one took. */
static inline void expect_next(const struct client_link *l, uint32_t len)
{
	const uint8_t *at = l->wire->area + (l->area_head & (l->wire->area_bytes - 1));
	const uint8_t *end = at + THMQI_MIN(len, EXPECT_BYTES);

	do {
		thmqi_prefetch_write(at);
		at += THMQI_CACHELINE;
	} while (at < end);
}

/* --------------------------------------------------------------- partitions */

static int choose_partition(struct thmq_producer *p, const struct thmq_message_opts *opts,
			    uint32_t len, uint32_t *ret_index)
{
	if (opts && (opts->flags & THMQ_MESSAGE_PARTITION)) {
		if (opts->partition >= (opts->priority ? p->lanes : p->partition_count))
			return -THMQ_ENOPARTITION;
		*ret_index = opts->partition;
	} else if (p->lanes == 1) {
		*ret_index = 0;
	} else if (opts && opts->key) {
		*ret_index =
			(uint32_t)(thmqi_hash64(opts->key, opts->key_len) % p->lanes);
	} else {
		if (++p->sticky_count > STICKY_MESSAGES ||
		    (p->sticky_bytes += len) > STICKY_BYTES) {
			p->sticky_count = 1;
			p->sticky_bytes = len;
			p->next_partition = (p->next_partition + 1) % p->lanes;
		}
		*ret_index = p->next_partition;
	}
	if (opts)
		*ret_index += opts->priority * p->lanes;
	return 0;
}

/* It is not there, or not up: as far as it goes without waiting. */
static int link_make(struct thmq_producer *p, uint32_t shard, struct client_link **ret_link)
{
	struct thmq_session *s = p->session;
	int rc = thmqi_session_link(s, shard, ret_link);

	if (rc || (*ret_link)->up)
		return rc;
	thmqi_session_process(s);
	if ((*ret_link)->up)
		return 0;
	return (*ret_link)->dead ? -ESHUTDOWN : -EAGAIN;
}

static inline int link_of(struct thmq_producer *p, uint32_t index, struct client_link **ret_link)
{
	uint32_t shard = p->partitions[index].shard;
	struct client_link *l = shard < p->session->shard_count ? p->session->links[shard] : NULL;

	if (thmqi_unlikely(!l || !l->up))
		return link_make(p, shard, ret_link);
	*ret_link = l;
	return 0;
}

/* ------------------------------------------------------------------- claim */

#define EXPECTS (THMQ_MESSAGE_EXPECT_END | THMQ_MESSAGE_EXPECT_KEY)
#define FLAGS_KNOWN (THMQ_MESSAGE_PARTITION | THMQ_MESSAGE_TIME | EXPECTS)

/* One thing, and what can be looked up: the end of a partition that it says, not of one whose turn it happens to be. */
static bool expects_wrongly(const struct thmq_producer *p, const struct thmq_message_opts *o)
{
	return (o->flags & EXPECTS) == EXPECTS || (o->flags & THMQ_MESSAGE_EXPECT_KEY && (!o->key || p->is_volatile)) ||
	       (o->flags & THMQ_MESSAGE_EXPECT_END && !(o->flags & THMQ_MESSAGE_PARTITION) && !o->key && p->lanes > 1);
}

/* All that it has lies in its payload. */
static bool encodes_wrongly(const struct thmq_message_opts *o)
{
	return (o->encoding != THMQ_ENCODING_KAFKA && o->encoding != THMQ_ENCODING_PACKED) || (o->flags & ~THMQ_MESSAGE_PARTITION) || o->key || o->tag || o->header_count ||
	       o->ttl_ns || o->deliver_at_ns || o->delay_ns;
}

static int check_opts(const struct thmq_producer *p, const struct thmq_message_opts *o,
		      uint32_t *ret_level)
{
	uint32_t level = o && o->durability ? o->durability : p->level;

	if (o && ((o->flags & ~FLAGS_KNOWN) || o->size < 8 ||
		  (thmqi_unlikely(o->flags & EXPECTS) && expects_wrongly(p, o)) ||
		  (thmqi_unlikely(o->encoding) && encodes_wrongly(o)) ||
		  (o->partition && !(o->flags & THMQ_MESSAGE_PARTITION)) ||
		  (o->time_ns && !(o->flags & THMQ_MESSAGE_TIME)) ||
		  (thmqi_unlikely(o->priority) && o->priority >= p->priorities) ||
		  o->durability > THMQ_DURABILITY_ALL || (o->key && !o->key_len) ||
		  o->key_len > THMQ_KEY_MAX || (o->key_len && !o->key) ||
		  (o->tag && strnlen(o->tag, THMQ_TAG_MAX + 1) > THMQ_TAG_MAX)))
		return -EINVAL;
	/* with one copy the upper rungs mean durable; a volatile topic has the lowest only */
	if (level > THMQ_DURABILITY_DURABLE && p->session->level == THMQ_DURABILITY_DURABLE)
		level = THMQ_DURABILITY_DURABLE;
	if (p->is_volatile && level > THMQ_DURABILITY_MEMORY) {
		if (o && o->durability)
			return -ENOTSUP;
		level = THMQ_DURABILITY_MEMORY;
	}
	*ret_level = level;
	return 0;
}

/* A window of reported messages never outgrows the room for their events. */
static bool events_full(const struct thmq_producer *p, uint32_t count)
{
	const struct thmq_session *s = p->session;

	return p->report && (count == 1 ? thmqi_session_events_full(s)
					: s->event_head - s->event_tail + s->reports_due + count - 1 > s->event_mask);
}

/* The room for a message's event is promised from its claim until its event is there, or it turns out to need none. */
static void promise_event(struct thmq_producer *p)
{
	if (p->report) {
		p->reports_due++;
		p->session->reports_due++;
	}
}

/* What a new message finds full: the data area, the window, the room for events. */
static inline uint64_t room_claim(struct thmq_producer *p, struct client_link *l, uint32_t bytes, uint32_t count, uint32_t slots)
{
	if (p->last_seq + p->open_claims + (count - 1) - p->watermark >= p->sent_mask || events_full(p, count))
		return UINT64_MAX;
	return area_claim(l, bytes, slots);
}

/* The same, after what has arrived was taken in. */
static uint64_t room_claim_again(struct thmq_producer *p, struct client_link *l, uint32_t bytes, uint32_t count, uint32_t slots)
{
	thmqi_client_watermark(p);
	return room_claim(p, l, bytes, count, slots);
}

uint64_t thmqi_place_room(struct thmq_producer *p, struct client_link *l, uint32_t bytes, uint32_t count, uint32_t slots)
{
	uint64_t at;

	thmqi_session_beat(p->session);
	at = room_claim(p, l, bytes, count, slots);
	return thmqi_likely(at != UINT64_MAX) ? at : room_claim_again(p, l, bytes, count, slots);
}

int thmqi_place_way(struct thmq_producer *p, const struct thmq_message_opts *opts, uint32_t len, uint32_t *ret_level, uint32_t *ret_index,
		    struct client_link **ret_link)
{
	int rc = check_opts(p, opts, ret_level);

	rc = rc ? rc : choose_partition(p, opts, len, ret_index);
	return rc ? rc : link_of(p, *ret_index, ret_link);
}

/* No message of a client's is a part of one: among the attributes it says that a transaction comes first. */
#define IN_TXN THMQ_RECORD_PART
_Static_assert(THMQI_PRODUCE_WITH(IN_TXN) == THMQI_PRODUCE_TXN, "as a frame says it");

static inline uint32_t head_of(const struct place *m)
{
	return m->key_len + m->tag_len + m->has_len;
}

/* What only messages with options have. */
static void write_head(const struct thmq_message_opts *opts, const struct place *m)
{
	if (m->key_len)
		memcpy(m->first, opts->key, m->key_len);
	if (m->tag_len)
		memcpy(m->first + m->key_len, opts->tag, m->tag_len);
	if (m->has & IN_TXN)
		memcpy(m->first + m->key_len + m->tag_len, &opts->txn->id, sizeof(opts->txn->id));
	if (m->has)
		thmqi_attributes_write(opts, m->first + m->key_len + m->tag_len +
						     (m->has & IN_TXN ? sizeof(opts->txn->id) : 0));
}

/* More than a batch holds: it may be stored in parts. */
static bool is_too_long(const struct thmq_producer *p, const struct client_link *l, uint32_t head, uint32_t len)
{
	return p->is_volatile || len > l->len_max || head > l->len_max - len;
}

/* ----------------------------------------------------------------- packing */

#define PACK_WINDOW_PART 4u /* of a session's window: what is larger is sent as it is */

/* Is a payload of @len to be packed? Then it has an attribute more. */
static bool place_packs(const struct thmq_producer *p, const struct client_link *l, uint32_t len)
{
	return len >= p->pack_min && len <= l->wire->area_bytes / PACK_WINDOW_PART;
}

/* Where a claim's payload lies until it is packed: behind the room for that. */
static uint8_t *staged_at(const struct place *m)
{
	return m->first + head_of(m) + THMQI_ALIGN_UP(m->len, 8u);
}

/* Room behind it that was not needed, if nobody has taken more since. */
void thmqi_place_give_back(struct client_link *l, struct slot *slot, const uint8_t *end)
{
	uint64_t size = l->wire->area_bytes, begin = (slot->end - 1) & ~(size - 1),
		 at = begin + (uint64_t)(end - l->wire->area);

	if (slot == &l->slots[(l->slot_head - 1) & l->slot_mask] && l->area_head == slot->end && at < slot->end)
		slot->end = l->area_head = at;
}

/* The payload, @len bytes at @from, goes to its place, packed if that makes it smaller. */
static __attribute__((noinline)) void place_pack(struct thmq_producer *p, struct place *m, const void *from)
{
	uint8_t *to = m->first + head_of(m);
	struct thmqi_packed is = {.len = m->len};
	uint32_t n = thmqi_pack(p->pack, from, m->len, to, m->len - 1);

	if (n) {
		is.codec = (uint8_t)p->compression;
		m->len = n;
	} else {
		memmove(to, from, m->len);
	}
	memcpy(to - sizeof(is), &is, sizeof(is));
	thmqi_place_give_back(m->link, m->slot, to + THMQI_ALIGN_UP(m->len, 8u));
}

/* ------------------------------------------------------------------- place */

/* How a payload goes to its place. */
enum packing {
	AS_IT_IS,
	PACKED, /* from where the app has it */
	STAGED  /* it is a claim, which is packed when it is committed */
};

/* Compiled once for messages with options and once for those without, and for each packing. */
static inline __attribute__((always_inline)) int place_take(struct thmq_producer *p,
							    const struct thmq_message_opts *opts,
							    uint32_t len, enum packing packing, struct place *ret)
{
	struct thmq_session *s = p->session;
	uint32_t level, index, head, bytes;
	struct client_link *l;
	struct slot *slot;
	uint64_t at;
	int rc;

	if (thmqi_unlikely(s->dead || p->error))
		return s->dead ? s->dead : p->error;
	rc = check_opts(p, opts, &level);
	if (thmqi_unlikely(rc))
		return rc;
	ret->key_len = opts ? opts->key_len : 0;
	ret->tag_len = opts && opts->tag ? (uint32_t)strlen(opts->tag) : 0;
	ret->has = ret->has_len = 0;
	ret->encoding = opts ? opts->encoding : 0;
	if (opts && (opts->header_count || (opts->ttl_ns | (uint64_t)opts->deliver_at_ns | opts->delay_ns) ||
		     (opts->flags & EXPECTS) || opts->txn)) {
		rc = thmqi_attributes_plan(opts, &ret->has, &ret->has_len);
		if (!rc && opts->txn) {
			rc = thmqi_txn_plan(p, opts, ret->has);
			ret->has |= IN_TXN;
			ret->has_len += (uint32_t)sizeof(opts->txn->id);
		}
		if (!rc && (ret->has & THMQ_RECORD_DELAY) && p->is_volatile)
			rc = -ENOTSUP;
		if (rc)
			return rc;
	}
	rc = choose_partition(p, opts, len, &index);
	if (thmqi_unlikely(rc))
		return rc;
	rc = link_of(p, index, &l);
	if (thmqi_unlikely(rc))
		return rc;
	if (packing != AS_IT_IS && !ret->encoding && place_packs(p, l, len)) {
		ret->has |= THMQ_RECORD_PACKED;
		ret->has_len += (uint32_t)sizeof(struct thmqi_packed);
	}
	if (thmqi_unlikely(len > l->len_max_volatile || head_of(ret) > l->len_max_volatile - len) &&
	    (is_too_long(p, l, head_of(ret), len) || (ret->has & (THMQ_RECORD_DELAY | IN_TXN)) || ret->encoding))
		return -EMSGSIZE;
	head = THMQI_ALIGN_UP(head_of(ret), 8u);
	bytes = THMQI_MAX(head + THMQI_ALIGN_UP(len, 8u), 8u);
	if (packing == STAGED && ret->has & THMQ_RECORD_PACKED)
		bytes += THMQI_ALIGN_UP(len, 8u);
	if (thmqi_unlikely(bytes > l->wire->area_bytes))
		return -EMSGSIZE;
	thmqi_session_beat(s);
	at = room_claim(p, l, bytes, 1, 1);
	if (thmqi_unlikely(at == UINT64_MAX)) {
		at = room_claim_again(p, l, bytes, 1, 1);
		if (at == UINT64_MAX)
			return s->dead ? s->dead : -EAGAIN;
	}
	l->area_head = at + bytes;
	expect_next(l, bytes);
	slot = &l->slots[l->slot_head++ & l->slot_mask];
	slot->end = at + bytes;
	slot->stream = (uint16_t)p->stream;
	slot->level = (uint8_t)level;
	slot->state = SLOT_CLAIMED;
	ret->link = l;
	ret->slot = slot;
	ret->first = l->wire->area + (at & (l->wire->area_bytes - 1)) + (head - head_of(ret));
	ret->index = index;
	ret->len = len;
	ret->timed = opts && (opts->flags & THMQ_MESSAGE_TIME);
	ret->time_ns = ret->timed ? opts->time_ns : 0;
	if (opts)
		write_head(opts, ret);
	promise_event(p);
	return 0;
}

static void place_give_up(struct thmq_producer *p, struct client_link *l, struct slot *slot)
{
	slot->state = SLOT_FREE;
	thmqi_producer_promise_kept(p);
	reclaim(l);
}

/* What it sends has its name, and may have to be sent again. */
static __attribute__((noinline)) void push_id(const struct client_link *l,
					      const struct slot *slot, struct thmqi_frame *f)
{
	if (!l->kept)
		return;
	l->kept[slot - l->slots] = (struct kept){.time_ns = (int64_t)f->arg[0],
						 .at = (uint32_t)((const uint8_t *)(uintptr_t)f->data - l->wire->area),
						 .partition = f->partition,
						 .len = f->len,
						 .extra = f->extra,
						 .tag_hash = f->tag_hash,
						 .key_len = f->key_len};
}

static uint64_t txn_of(const struct place *m)
{
	uint64_t id;

	memcpy(&id, m->first + m->key_len + m->tag_len, sizeof(id));
	return id;
}

static __attribute__((noinline)) void in_txn(struct thmq_producer *p, const struct place *m)
{
	thmqi_txn_sent(p, txn_of(m));
}

static inline void note_sent(struct thmq_producer *p, uint64_t seq, uint32_t shard, uint8_t level)
{
	const struct sent e = {.shard = (uint16_t)shard, .level = level};
	struct sent *kept = &p->sent[seq & p->sent_mask];

	if (thmqi_unlikely(kept->word != (e.word ^ p->usual.word)))
		kept->word = e.word ^ p->usual.word;
	if (thmqi_unlikely(p->last_sent.word != e.word) || p->watermark + 1 == seq)
		p->uniform_from = seq;
	p->last_sent = e;
}

/* A placed message is one that was sent. */
static inline __attribute__((always_inline)) int64_t place_sent(struct thmq_producer *p, const struct place *m, uint64_t seq)
{
	struct client_link *l = m->link;

	if (thmqi_unlikely(l->unreleased && l->wire->packs))
		thmqi_releases_along(l);
	thmqi_link_kick_broker(l->wire);
	m->slot->seq = seq;
	m->slot->state = SLOT_COMMITTED;
	note_sent(p, seq, l->shard, m->slot->level);
	return (int64_t)seq;
}

/* Only the first may be the first of more that are alike. */
void thmqi_place_note(struct thmq_producer *p, uint64_t last, uint32_t count, uint32_t shard, uint8_t level)
{
	uint64_t seq = last - count + 1;
	uint32_t word;

	note_sent(p, seq, shard, level);
	word = p->last_sent.word ^ p->usual.word;
	for (seq++; seq <= last; seq++)
		if (thmqi_unlikely(p->sent[seq & p->sent_mask].word != word))
			p->sent[seq & p->sent_mask].word = word;
}

/* The next one may be like it. */
static inline void place_leads(const struct thmq_producer *p, const struct place *m, struct thmqi_frame *series)
{
	m->link->series = (struct series){.frame = series,
					  .next = m->first + thmqi_series_step(m->len),
					  .seq = p->last_seq + 1,
					  .life = m->link->life,
					  .stream = p->stream,
					  .partition = p->partitions[m->index].partition,
					  .len = m->len,
					  .level = m->slot->level};
}

/* The frame that makes it one, or a place in the last one. Return: its sequence; -EAGAIN the ring is full. */
static inline __attribute__((always_inline)) int64_t place_push(struct thmq_producer *p,
								const struct place *m)
{
	struct client_link *l = m->link;
	struct thmqi_frame_ring *up = &l->wire->up;
	const bool takes_series = l->wire->takes_series;
	const bool is_plain = takes_series && !(p->id | m->key_len | m->tag_len | m->has | m->encoding | m->timed);
	const bool goes_on = is_plain && thmqi_series_goes_on(l, p, p->partitions[m->index].partition, m->slot->level, m->first, m->len);
	struct thmqi_frame *f;
	uint64_t seq;

	if (goes_on && thmqi_series_join(l))
		return place_sent(p, m, ++p->last_seq);
	f = thmqi_frame_claim(up, 0);
	if (thmqi_unlikely(!f)) {
		thmqi_session_process(p->session);
		return -EAGAIN;
	}
	seq = ++p->last_seq;
	f->type = THMQI_FRAME_PRODUCE;
	f->flags = m->slot->level;
	f->key_len = (uint16_t)m->key_len;
	f->stream = p->stream;
	f->partition = p->partitions[m->index].partition;
	f->len = head_of(m) + m->len;
	f->extra = m->tag_len | (p->report ? THMQI_PRODUCE_REPORT : 0) |
		   (m->timed ? THMQI_PRODUCE_TIMED : 0) | THMQI_PRODUCE_WITH(m->has) | (m->encoding ? THMQI_PRODUCE_ENCODED : 0) |
		   (goes_on ? THMQI_PRODUCE_SERIES : 0);
	f->seq = seq;
	f->data = (uint64_t)(uintptr_t)m->first;
	f->arg[0] = (uint64_t)m->time_ns;
	f->arg[1] = p->id;
	f->generation = p->epoch;
	f->tag_hash = m->tag_len ? thmqi_tag_hash(m->first + m->key_len, m->tag_len) : m->encoding;
	if (thmqi_unlikely(p->id))
		push_id(l, m->slot, f);
	if (thmqi_unlikely(m->has & IN_TXN))
		in_txn(p, m);
	thmqi_frame_commit(up);
	if (takes_series) {
		thmqi_series_end(l);
		if (is_plain)
			place_leads(p, m, goes_on ? f : NULL);
	}
	return place_sent(p, m, seq);
}

int64_t thmqi_place_push(struct thmq_producer *p, const struct place *m)
{
	return place_push(p, m);
}

/* --------------------------------------------------- claim, commit and abort */

/*
 * claim->internal: [0] slot number, [1] address of the message's first byte (its key), [2] key_len, tag_len << 16, attributes
 * << 24 (7 bits), CLAIM_TIMED, shard << 32, bytes of attributes << 48 (of one that is encoded: how), [3] time.
 */
#define CLAIM_TIMED 0x80000000u
_Static_assert(THMQ_HEADERS_MAX + 64 <= UINT16_MAX, "bytes of attributes");
#define ATTRIBUTE_MIN 8u /* bytes of any: what is less says how it is encoded */
_Static_assert(THMQI_RECORD_KNOWN < 0x80, "attributes");
_Static_assert(THMQ_ENCODING_PACKED < ATTRIBUTE_MIN, "in the same field");

static inline __attribute__((always_inline)) int claim_one(struct thmq_producer *p, const struct thmq_message_opts *opts,
							   uint32_t len, enum packing packing, struct thmq_claim *ret_claim)
{
	struct place m;
	int rc = place_take(p, opts, len, packing, &m);

	if (thmqi_unlikely(rc))
		return rc;
	ret_claim->data = packing == STAGED && m.has & THMQ_RECORD_PACKED ? staged_at(&m) : m.first + head_of(&m);
	ret_claim->len = len;
	ret_claim->partition = m.index;
	ret_claim->internal[0] = m.link->slot_head - 1;
	ret_claim->internal[1] = (uint64_t)(uintptr_t)m.first;
	ret_claim->internal[2] = m.key_len | m.tag_len << 16 | m.has << 24 | (m.timed ? CLAIM_TIMED : 0) |
				 (uint64_t)m.link->shard << 32 | (uint64_t)(m.encoding ? m.encoding : m.has_len) << 48;
	ret_claim->internal[3] = (uint64_t)m.time_ns;
	m.slot->life = m.link->life;
	p->open_claims++;
	return 0;
}

static __attribute__((noinline)) int claim_staged(struct thmq_producer *p, const struct thmq_message_opts *opts, uint32_t len,
						  struct thmq_claim *ret_claim)
{
	return claim_one(p, opts, len, STAGED, ret_claim);
}

int thmqi_client_claim(struct thmq_producer *p, const struct thmq_message_opts *opts, uint32_t len,
		       struct thmq_claim *ret_claim)
{
	if (thmqi_unlikely(p->pack != NULL))
		return claim_staged(p, opts, len, ret_claim);
	return opts ? claim_one(p, opts, len, AS_IT_IS, ret_claim) : claim_one(p, NULL, len, AS_IT_IS, ret_claim);
}

/* What @claim tells, if it is one of @p that is neither committed nor aborted. */
static bool place_of(struct thmq_producer *p, const struct thmq_claim *claim, struct place *ret)
{
	uint32_t shard = (uint16_t)(claim->internal[2] >> 32),
		 number = (uint32_t)claim->internal[0];
	struct client_link *l = shard < p->session->shard_count ? p->session->links[shard] : NULL;
	struct slot *slot;

	if (!l || claim->internal[0] == CLAIM_COMMITTED ||
	    number - l->slot_tail >= l->slot_head - l->slot_tail)
		return false;
	slot = &l->slots[number & l->slot_mask];
	*ret = (struct place){.link = l,
			      .slot = slot,
			      .first = (uint8_t *)(uintptr_t)claim->internal[1],
			      .index = claim->partition,
			      .key_len = claim->internal[2] & 0xffff,
			      .tag_len = (uint32_t)(claim->internal[2] >> 16) & 0xff,
			      .has = (uint32_t)(claim->internal[2] >> 24) & 0x7f,
			      .has_len = (uint32_t)(claim->internal[2] >> 48),
			      .len = claim->len,
			      .timed = claim->internal[2] & CLAIM_TIMED,
			      .time_ns = (int64_t)claim->internal[3]};
	if (ret->has_len < ATTRIBUTE_MIN) { /* its transaction is all that it may have */
		ret->encoding = ret->has_len;
		ret->has_len = ret->has ? (uint32_t)sizeof(uint64_t) : 0;
	}
	return slot->state == SLOT_CLAIMED && slot->stream == p->stream;
}

void thmqi_claim_trim(struct thmq_producer *p, struct thmq_claim *claim, uint32_t len)
{
	struct place m;

	if (!place_of(p, claim, &m))
		return;
	claim->len = len;
	thmqi_place_give_back(m.link, m.slot, (const uint8_t *)claim->data + THMQI_ALIGN_UP(len, 8u));
}

/* That a claim takes, from its first one on. */
static uint32_t bytes_of(const struct place *m)
{
	return head_of(m) + m->len + (m->has & THMQ_RECORD_PACKED ? THMQI_ALIGN_UP(m->len, 8u) : 0);
}

int64_t thmqi_client_commit(struct thmq_producer *p, struct thmq_claim *claim)
{
	struct place m;
	int64_t seq;
	int rc;

	if (thmqi_unlikely(!place_of(p, claim, &m)))
		return -EINVAL;
	rc = thmqi_place_may_go(p->session, m.link);
	if (thmqi_unlikely(rc)) {
		if (rc != -EAGAIN)
			thmqi_client_abort(p, claim);
		return rc;
	}
	if (thmqi_unlikely(m.slot->life != m.link->life)) {
		m.first = thmqi_resume_claim(m.link, m.slot, m.first, bytes_of(&m));
		claim->internal[1] = (uint64_t)(uintptr_t)m.first;
	}
	if (thmqi_unlikely(m.has & IN_TXN) && !thmqi_txn_takes(p->session, txn_of(&m))) {
		thmqi_client_abort(p, claim);
		return -ECANCELED;
	}
	if (thmqi_unlikely(m.has & THMQ_RECORD_PACKED)) {
		if (!thmqi_frame_claim(&m.link->wire->up, 0)) { /* once packed it is not unpacked again */
			thmqi_session_process(p->session);
			return -EAGAIN;
		}
		place_pack(p, &m, staged_at(&m));
	}
	seq = place_push(p, &m);
	if (thmqi_unlikely(seq < 0))
		return seq;
	claim->internal[0] = CLAIM_COMMITTED;
	p->open_claims--;
	return seq;
}

int thmqi_client_abort(struct thmq_producer *p, struct thmq_claim *claim)
{
	struct place m;

	if (!place_of(p, claim, &m))
		return -EINVAL;
	claim->internal[0] = CLAIM_COMMITTED;
	p->open_claims--;
	if (thmqi_unlikely(m.slot->life != m.link->life))
		thmqi_resume_claim_end(m.link, m.slot->life);
	place_give_up(p, m.link, m.slot);
	return 0;
}

/* --------------------------------------------------------------------- send */

static inline __attribute__((always_inline)) int64_t send_one(struct thmq_producer *p,
							      const void *data, uint32_t len,
							      const struct thmq_message_opts *opts, enum packing packing)
{
	struct place m;
	int64_t seq;
	int rc = place_take(p, opts, len, packing, &m);

	if (thmqi_unlikely(rc))
		return rc;
	if (packing == PACKED && m.has & THMQ_RECORD_PACKED)
		place_pack(p, &m, data);
	else if (len)
		memcpy(m.first + head_of(&m), data, len);
	seq = place_push(p, &m);
	if (thmqi_unlikely(seq < 0))
		place_give_up(p, m.link, m.slot);
	return seq;
}

static __attribute__((noinline)) int64_t send_packed(struct thmq_producer *p, const void *data, uint32_t len,
						     const struct thmq_message_opts *opts)
{
	return send_one(p, data, len, opts, PACKED);
}

int64_t thmqi_client_send(struct thmq_producer *p, const void *data, uint32_t len,
			  const struct thmq_message_opts *opts)
{
	if (thmqi_unlikely(p->pack != NULL))
		return send_packed(p, data, len, opts);
	return opts ? send_one(p, data, len, opts, AS_IT_IS) : send_one(p, data, len, NULL, AS_IT_IS);
}
