/* SPDX-License-Identifier: Apache-2.0 */
/*
 * produce.c - Produce: a batch is stored as it is, compressed or not; what is in it is looked at before. Where that cannot be (the topic is
 * compacted, or the batch larger than one of the library's) each of its records becomes a message. The answer comes when the last one is settled.
 *
 * What an idempotent producer sends again is stored once: the newest batches of each are known, and a batch says whose it is, or the first
 * message of one in a header, from which this is learned again after a restart. A batch that a crash has cut is completed, not repeated.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

#define HEADERS_MAX 1024u /* of a record */
#define SCAN_OFFSETS                                                                               \
	((int64_t)PRODUCER_BATCHES * BATCH_COUNT_MAX) /* of a partition's end, looked at for producers of an earlier life: more than the batches of one that may be on their way */
#define PRODUCERS_SOME 256u /* of a partition: from here on those that were silent for long go */
#define PRODUCER_SILENT_NS (3600 * SECOND)
#define LOOK_NS SECOND /* others wait while packed batches of a request are looked into: what comes later is to be sent again */

/* A batch in the request. */
struct part {
	struct settled_call call; /* first */
	struct part *next;
	struct produce *owner;
	struct text topic, records;
	bool first_of_topic;
	int32_t index,
		same_topic; /* of the first one: how many partitions of the topic there are */
	int error;
	int64_t base_offset, begin;
};

struct produce {
	struct request *request;
	struct text transaction; /* null: of none */
	struct part *first, **last;
	int32_t topic_count;
	uint32_t waiting;
	int16_t acks;
};

/* ------------------------------------------------------------------- answer */

static void produce_answer(struct produce *p)
{
	struct request *r = p->request;
	struct out *out = &r->out;
	struct part *at, *next;

	if (r->conn && p->acks != 0) {
		out_array(out, p->topic_count);
		for (at = p->first; at; at = at->next) {
			if (at->first_of_topic) {
				out_text(out, at->topic);
				out_array(out, at->same_topic);
			}
			out_i32(out, at->index);
			out_i16(out, (int16_t)at->error);
			out_i64(out, at->error ? -1 : at->base_offset);
			out_i64(out, -1); /* no time of ours: the records have theirs */
			if (r->version >= 5)
				out_i64(out, at->error ? -1 : at->begin);
			if (r->version >= 8) {
				out_array(out, 0);
				out_string(out, NULL);
			}
			out_tags(out);
			if (!at->next || at->next->first_of_topic)
				out_tags(out);
		}
		out_i32(out, 0); /* nobody is throttled */
		out_tags(out);
	}
	for (at = p->first; at; at = next) {
		next = at->next;
		if (r->conn && p->acks == 0 && at->error) /* who hears no answer sees that: he looks anew who leads, and goes on */
			r->conn->closing = true;
		free(at);
	}
	free(p);
	r->silent = r->silent || r->out.len == ANSWER_HEAD;
	request_done(r);
}

static void produce_less(struct produce *p)
{
	if (--p->waiting == 0)
		produce_answer(p);
}

static void part_settled(struct settled_call *call, int error, int64_t base_offset)
{
	struct part *part = (struct part *)call;

	/* its checksum was right, its records are not */
	part->error = error == -THMQ_ECORRUPT || error == -EINVAL ? K_INVALID_RECORD : store_error(error);
	part->base_offset = base_offset;
	produce_less(part->owner);
}

/* ------------------------------------------------- records become messages */

/* Of one record after the other. */
struct message {
	struct thmq_message_opts opts;
	struct thmq_header headers[HEADERS_MAX + 2];
	struct out names; /* with their final NULs */
	char tag[THMQ_TAG_MAX + 1];
	uint8_t producer[18];
	uint8_t empty;
};

static int message_headers(struct message *m, const struct record *r)
{
	struct in in = r->headers;
	struct text name, value;
	char *at;

	m->names.len = 0;
	at = (char *)out_raw(&m->names, in_left(&in) + (size_t)r->header_count + 1);
	if (!at)
		return K_UNKNOWN_SERVER_ERROR;
	while (record_header(&in, &name, &value)) {
		struct thmq_header *h = &m->headers[m->opts.header_count];

		if (!name.len || name.len > THMQ_HEADER_NAME_MAX ||
		    m->opts.header_count >= HEADERS_MAX || !text_copy(name, at, name.len + 1))
			return K_INVALID_RECORD;
		if (text_is(name, THMQ_TAG_HEADER) && value.len &&
		    text_copy(value, m->tag, sizeof(m->tag))) {
			m->opts.tag = m->tag;
			continue;
		}
		h->name = at;
		h->value = value.len ? value.data : NULL;
		h->value_len = value.len;
		h->type = value.data ? THMQ_HEADER_BYTES
				     : THMQ_HEADER_TEXT; /* an empty text is what null becomes */
		m->opts.header_count++;
		at += name.len + 1;
	}
	return 0;
}

static void message_add_header(struct message *m, const char *name, const void *value, uint32_t len)
{
	m->headers[m->opts.header_count++] = (struct thmq_header){
		.name = name, .value = value, .value_len = len, .type = THMQ_HEADER_BYTES};
}

/* The record as a message's options. @first: of its batch, whose producer is told; else NULL */
static int message_make(struct message *m, const struct record *r, uint32_t partition,
			uint32_t durability, const struct batch *first)
{
	int rc;

	m->opts = (struct thmq_message_opts){.size = sizeof(m->opts),
					     .flags = THMQ_MESSAGE_PARTITION,
					     .partition = partition,
					     .durability = durability,
					     .headers = m->headers};
	if (r->key.len > THMQ_KEY_MAX || r->time_ms > INT64_MAX / MILLISECOND)
		return K_INVALID_RECORD;
	if (r->key.len) {
		m->opts.key = r->key.data;
		m->opts.key_len = r->key.len;
	}
	if (r->time_ms >= 0) {
		m->opts.flags |= THMQ_MESSAGE_TIME;
		m->opts.time_ns = r->time_ms * MILLISECOND;
	}
	rc = r->header_count ? message_headers(m, r) : 0;
	if (rc)
		return rc;
	m->empty = (uint8_t)((r->value.data && !r->value.len ? 1 : 0) |
			     (r->key.data && !r->key.len ? 2 : 0));
	if (m->empty)
		message_add_header(m, EMPTY_HEADER, &m->empty, 1);
	if (first && first->producer_id >= 0) {
		put_i64(m->producer, first->producer_id);
		m->producer[8] = (uint8_t)((uint16_t)first->producer_epoch >> 8);
		m->producer[9] = (uint8_t)first->producer_epoch;
		put_i32(m->producer + 10, first->base_sequence);
		put_i32(m->producer + 14, first->count);
		message_add_header(m, PRODUCER_HEADER, m->producer, sizeof(m->producer));
	}
	return 0;
}

/* All records of a batch, before anything of it is stored. */
static int batch_check(const struct batch *b, struct message *m, uint32_t len_max)
{
	struct in in = b->records;
	struct record r;
	int32_t i;
	int rc;

	for (i = 0; i < b->count; i++) {
		rc = -record_read(b, &in, &r);
		rc = rc ? rc : message_make(m, &r, 0, 0, NULL);
		if (rc)
			return rc;
		if (r.offset_delta != i)
			return K_INVALID_RECORD;
		if ((uint64_t)r.value.len + r.key.len + in_left(&r.headers) +
				    5ull * (uint32_t)r.header_count + 128 >
			    len_max ||
		    in_left(&r.headers) + 5ull * (uint32_t)r.header_count + 128 > THMQ_HEADERS_MAX)
			return K_MESSAGE_TOO_LARGE;
	}
	return in_left(&in) ? K_INVALID_RECORD : 0;
}

/* As it is. Return: 0; an error of the protocol; or CANNOT_BE */
#define CANNOT_BE 1001
static int batch_send_whole(struct partition *p, const struct batch *b, uint32_t durability, const struct store_txn *in, struct sending **ret)
{
	struct sending *g;
	int rc;

	if (p->topic->compacted || b->count > BATCH_COUNT_MAX)
		return CANNOT_BE; /* of a batch all is kept, or nothing */
	rc = sending_begin(p, in, &g);
	if (rc)
		return store_error(rc);
	if (sending_add_batch(g, b->all, b->count, durability) == -EMSGSIZE) {
		sending_drop(g);
		return CANNOT_BE;
	}
	*ret = g;
	return 0;
}

/*
 * Whoever reads the batch unpacks it, and stumbles over what is wrong in it: so it is looked at here, where that can be told. The library looks
 * only at what is not packed. Of a codec that was not there when this was built the clients know; @ret_sealed: it is one of these.
 */
static int batch_look_into(struct batch *b, struct out *room, struct message *m, bool *ret_sealed)
{
	const int codec = b->attributes & BATCH_COMPRESSION;
	int rc;

	if (!codec)
		return 0;
	rc = -batch_unpack(b, room);
	*ret_sealed = rc == K_UNSUPPORTED_COMPRESSION && codec <= BATCH_CODEC_LAST;
	return *ret_sealed ? 0 : rc ? rc : batch_check(b, m, UINT32_MAX);
}

static int batch_send(struct partition *p, const struct batch *b, struct message *m, int32_t skip,
		      uint32_t durability, const struct store_txn *txn, struct sending **ret)
{
	struct in in = b->records;
	struct sending *g;
	struct record r;
	int32_t i;
	int rc = sending_begin(p, txn, &g);

	if (rc)
		return store_error(rc);
	for (i = 0; i < b->count; i++) {
		if (record_read(b, &in, &r) ||
		    (i < skip ? 0 : message_make(m, &r, p->index, durability, i == 0 ? b : NULL)))
			break; /* cannot be: it was looked at */
		if (i >= skip && sending_add(g, r.value, &m->opts))
			break;
	}
	*ret = g;
	return 0;
}

/* ----------------------------------------------------- idempotent producers */

static struct producer_state *producer_find(struct partition *p, int64_t id)
{
	struct producer_state **at = &p->producers, *w;

	while (*at && (*at)->id != id)
		at = &(*at)->next;
	w = *at;
	if (w) { /* to the front */
		*at = w->next;
		w->next = p->producers;
		p->producers = w;
	}
	return w;
}

static struct producer_state *producer_make(struct partition *p, int64_t id, int16_t epoch)
{
	struct producer_state *w = calloc(1, sizeof(*w)), **at, *old;
	int64_t now = clock_ns();
	uint32_t n = 0;

	if (!w)
		return NULL;
	for (at = &p->producers; (old = *at);) {
		if (++n > PRODUCERS_SOME && now - old->used_ns > PRODUCER_SILENT_NS) {
			*at = old->next;
			free(old);
		} else {
			at = &old->next;
		}
	}
	w->id = id;
	w->epoch = epoch;
	w->expected = -1; /* whatever comes first */
	w->used_ns = now;
	w->next = p->producers;
	p->producers = w;
	return w;
}

static void producer_push(struct producer_state *w, int32_t first, int32_t last,
			  int64_t base_offset, struct sending *g)
{
	if (w->batch_count == PRODUCER_BATCHES)
		w->batch_count--;
	memmove(&w->batches[1], &w->batches[0], w->batch_count * sizeof(w->batches[0]));
	w->batches[0] = (struct producer_batch){
		.first = first, .last = last, .base_offset = base_offset, .sending = g};
	w->batch_count++;
}

static int32_t sequence_add(int32_t sequence, int32_t count)
{
	return (int32_t)(((int64_t)sequence + count) & INT32_MAX); /* 0 follows the highest */
}

/* What a message of an earlier life says of its producer. @left: of the batch that it belongs to, how many may follow */
static void producer_learn(struct partition *p, const struct thmq_message *m,
			   struct producer_state **at, int32_t *left)
{
	struct thmq_header h;
	struct in in;
	int64_t id;
	int16_t epoch;
	int32_t sequence, count;

	if (m->headers && thmq_header_find(m, PRODUCER_HEADER, &h) == 0 && h.value_len == 18) {
		in_init(&in, h.value, h.value_len, false);
		id = in_i64(&in);
		epoch = in_i16(&in);
		sequence = in_i32(&in);
		count = in_i32(&in);
		*at = producer_find(p, id);
		if (!*at)
			*at = producer_make(p, id, epoch);
		if (!*at || count < 1)
			return;
		if ((*at)->epoch != epoch)
			(*at)->batch_count = 0;
		(*at)->epoch = epoch;
		producer_push(*at, sequence, sequence, (int64_t)m->offset, NULL);
		(*at)->expected = sequence_add(sequence, 1);
		*left = count - 1;
	} else if (*at && *left > 0) { /* what comes behind it is its own: batches lie together */
		(*at)->batches[0].last = sequence_add((*at)->batches[0].last, 1);
		(*at)->expected = sequence_add((*at)->expected, 1);
		--*left;
	}
}

/* The same of a batch that was stored as it is. */
static void producer_learn_batch(struct partition *p, const struct thmq_message *m)
{
	struct producer_state *w;
	struct batch b;
	struct in in;

	in_init(&in, m->data, m->len, false);
	if (batch_read(&in, &b) != 1 || b.producer_id < 0)
		return;
	w = producer_find(p, b.producer_id);
	if (!w)
		w = producer_make(p, b.producer_id, b.producer_epoch);
	if (!w)
		return;
	if (w->epoch != b.producer_epoch)
		w->batch_count = 0;
	w->epoch = b.producer_epoch;
	producer_push(w, b.base_sequence, sequence_add(b.base_sequence, b.count - 1), (int64_t)m->offset, NULL);
	w->expected = sequence_add(b.base_sequence, b.count);
}

/* Return: 0, or an error of the protocol: not now. */
static int producers_learn(struct partition *p)
{
	struct producer_state *at = NULL;
	const struct thmq_message *m;
	/* what was last may have gone, by compaction: then nothing comes; elsewhere the device takes its time */
	const int64_t patience_ns = p->topic->compacted ? SECOND : 10 * SECOND;
	int64_t end, quiet_since = clock_ns();
	struct reader *r;
	int32_t left = 0;
	int error = store_describe(p);

	if (error)
		return error;
	p->producers_known = p->end <= p->begin;
	if (p->producers_known)
		return 0;
	end = p->end;
	/* what was aborted counts too: its producer goes on behind it */
	error = reader_get(p, p->end - SCAN_OFFSETS > p->begin ? p->end - SCAN_OFFSETS : p->begin, true, &r);
	if (error)
		return error;
	p->producers_known = true;
	while (r->next_offset < end && clock_ns() - quiet_since < patience_ns && !p->topic->gone) {
		m = reader_peek(r);
		if (m)
			quiet_since = clock_ns();
		if (!m) {
			store_pump(p->topic->server, MILLISECOND);
			continue;
		}
		if (reader_is_batch(r))
			producer_learn_batch(p, m);
		else
			producer_learn(p, m, &at, &left);
		reader_step(r);
	}
	/* half of it is worse than nothing: a producer that went on from where it stood would never be right */
	if (r->next_offset < end && !p->topic->compacted)
		producers_free(p);
	reader_put(r);
	return 0;
}

/*
 * May this batch be stored? Return: 0, *ret_skip of its records are there already; or an error of the protocol; or 1 with *ret_known: it was
 * stored before, or is just being.
 */
#define IS_KNOWN 1000
static int producer_check(struct partition *p, const struct batch *b, struct producer_state **ret,
			  int32_t *ret_skip, struct producer_batch *ret_known)
{
	int32_t last = sequence_add(b->base_sequence, b->count - 1), behind;
	struct producer_state *w;
	uint32_t i;

	if (b->base_sequence < 0)
		return K_INVALID_RECORD;
	if (!p->producers_known) {
		int error = producers_learn(p);

		if (error)
			return error;
	}
	w = producer_find(p, b->producer_id);
	if (!w)
		w = producer_make(p, b->producer_id, b->producer_epoch);
	if (!w)
		return K_UNKNOWN_SERVER_ERROR;
	w->used_ns = clock_ns();
	*ret = w;
	if (b->producer_epoch < w->epoch)
		return K_INVALID_PRODUCER_EPOCH;
	if (b->producer_epoch > w->epoch) {
		if (b->base_sequence != 0)
			return K_OUT_OF_ORDER_SEQUENCE;
		w->epoch = b->producer_epoch;
		w->expected = 0;
		w->batch_count = 0;
	}
	for (i = 0; i < w->batch_count; i++)
		if (w->batches[i].first == b->base_sequence && w->batches[i].last == last) {
			*ret_known = w->batches[i];
			return IS_KNOWN;
		}
	behind =
		w->expected < 0 ? 0 : (int32_t)((uint32_t)w->expected - (uint32_t)b->base_sequence);
	if (behind < 0)
		return K_OUT_OF_ORDER_SEQUENCE;
	if (behind >= b->count)
		return K_DUPLICATE_SEQUENCE;
	*ret_skip = behind;
	return 0;
}

static void producer_sent(struct producer_state *w, const struct batch *b, struct sending *g)
{
	uint32_t i;

	producer_push(w, b->base_sequence, sequence_add(b->base_sequence, b->count - 1), -1, g);
	w->expected = sequence_add(b->base_sequence, b->count);
	for (i = 0; i < w->batch_count; i++) /* those behind one that had failed and came again */
		if (w->batches[i].first == w->expected) {
			w->expected = sequence_add(w->batches[i].last, 1);
			i = 0;
		}
}

/* ------------------------------------------------------------------ Produce */

/* A batch says whether it is of a transaction, and must be right. */
static int part_transaction(struct part *part, const struct partition *p, const struct batch *b, struct transaction **ret)
{
	struct text name = part->owner->transaction;

	if (!(b->attributes & BATCH_TRANSACTIONAL) != !name.data)
		return K_INVALID_REQUEST;
	if (!name.data)
		return 0;
	if (p->topic->compacted || p->topic->in_memory)
		return K_UNSUPPORTED_FOR_MESSAGE_FORMAT;
	return transaction_open(p->topic->server, name, b->producer_id, b->producer_epoch, ret);
}

/* One batch, with room for what is packed in it. Return: 0, the part's call is under way or was made; IS_KNOWN, it has all; or an error of the protocol. */
static int part_batch(struct part *part, struct partition *p, struct batch *b, struct out *room,
		      struct message *m, uint32_t durability)
{
	const struct store_txn *in;
	struct transaction *x = NULL;
	struct producer_state *w = NULL;
	struct producer_batch known = {.sending = NULL};
	struct sending *g = NULL;
	bool sealed = false;
	int32_t skip = 0;
	int rc;

	rc = part_transaction(part, p, b, &x);
	if (rc)
		return rc;
	in = x ? transaction_in(x) : NULL;
	if (x)
		durability = THMQ_DURABILITY_MEMORY; /* all of it is on the medium when it is committed */
	if (b->count == 0 || b->last_delta != b->count - 1 || b->attributes & BATCH_CONTROL)
		return K_INVALID_RECORD;
	rc = batch_look_into(b, room, m, &sealed);
	if (rc)
		return rc;
	if (b->producer_id >= 0)
		rc = producer_check(p, b, &w, &skip, &known);
	if (rc == IS_KNOWN && known.sending) {
		part->call.next = known.sending->calls;
		known.sending->calls = &part->call;
		return 0;
	}
	if (rc == IS_KNOWN)
		part->base_offset = known.base_offset;
	if (rc)
		return rc;
	rc = skip ? CANNOT_BE : batch_send_whole(p, b, durability, in, &g);
	if (rc == CANNOT_BE && sealed)
		return K_UNSUPPORTED_COMPRESSION;
	if (rc == CANNOT_BE) {
		rc = batch_check(b, m, p->topic->len_max);
		if (!rc)
			rc = batch_send(p, b, m, skip, durability, in, &g);
	}
	if (rc)
		return rc;
	if (x && g->error) /* half a batch */
		transaction_break(x);
	if (w)
		producer_sent(w, b, g);
	sending_end(g, &part->call);
	return 0;
}

static void part_run(struct part *part, struct out *room, struct message *m)
{
	struct produce *produce = part->owner;
	struct server *s = produce->request->server;
	const uint32_t durability = produce->acks == 0   ? THMQ_DURABILITY_MEMORY
				    : produce->acks == 1 ? THMQ_DURABILITY_DURABLE
							 : THMQ_DURABILITY_QUORUM;
	struct partition *p;
	struct topic *t;
	struct batch b;
	struct in in;
	int rc;

	if (part->error)
		return;
	if (text_is(part->topic, OFFSETS_TOPIC) || text_is(part->topic, TRANSACTIONS_TOPIC)) {
		part->error = K_INVALID_TOPIC;
		return;
	}
	part->error = store_partition(s, part->topic, part->index, &p);
	if (part->error)
		return;
	part->begin = p->begin;
	in_init(&in, part->records.data ? part->records.data : "", part->records.len, false);
	rc = batch_read(&in, &b);
	if (rc == 0 || (rc == 1 && in_left(&in))) /* one each, since version 3 */
		rc = -K_INVALID_RECORD;
	if (rc < 0) {
		part->error = -rc;
		return;
	}
	t = p->topic;
	store_ref(t);
	produce->waiting++;
	rc = store_error(store_ready(t));
	if (!rc)
		rc = part_batch(part, p, &b, room, m, durability);
	if (rc) {
		part->error = rc == IS_KNOWN ? 0 : rc;
		produce->waiting--; /* not the last one: the request's own is there still */
	}
	store_unref(t);
}

static struct part *part_add(struct produce *p, struct text topic, int32_t index, bool first)
{
	struct part *part = calloc(1, sizeof(*part));

	if (!part)
		return NULL;
	part->call.settled = part_settled;
	part->owner = p;
	part->topic = topic;
	part->index = index;
	part->first_of_topic = first;
	part->base_offset = -1;
	*p->last = part;
	p->last = &part->next;
	return part;
}

static void stay(struct request *r)
{
	(void)r; /* what it has sent goes on; the answer to nobody frees it */
}

void produce_run(struct request *r)
{
	struct produce *p = calloc(1, sizeof(*p));
	struct message *m = malloc(sizeof(*m));
	struct out room = {.data = NULL};
	struct part *at;
	int32_t topics, parts, i, k;
	struct in *in = &r->in;

	if (!p || !m) {
		free(p);
		free(m);
		request_fail(r);
		request_done(r);
		return;
	}
	m->names = (struct out){.data = NULL};
	p->request = r;
	p->last = &p->first;
	p->waiting = 1;
	r->drop = stay;
	p->transaction = in_text(in);
	p->acks = in_i16(in);
	in_i32(in); /* a time-out: the library says by itself when it does not get on */
	if (p->acks < -1 || p->acks > 1)
		in->bad = true;
	topics = in_array(in, 6);
	for (i = 0; i < topics && !in->bad; i++) {
		struct text topic = in_text(in);

		parts = in_array(in, 5);
		p->topic_count += parts > 0;
		for (k = 0; k < parts && !in->bad; k++) {
			int32_t index = in_i32(in);
			struct text records = in_bytes(in);
			struct part *part;

			in_tags(in);
			part = in->bad ? NULL : part_add(p, topic, index, k == 0);
			if (!part) {
				in->bad = true;
				break;
			}
			part->records = records;
			part->same_topic = parts;
		}
		in_tags(in);
	}
	in_tags(in);
	for (at = p->first; at && !in->bad; at = at->next) {
		if (at != p->first && request_is_late(r, LOOK_NS)) /* the first one always has its turn: all come through at last */
			at->error = K_REQUEST_TIMED_OUT;
		part_run(at, &room, m);
	}
	out_free(&room);
	out_free(&m->names);
	free(m);
	if (in->bad)
		request_fail(r);
	produce_less(p);
}
