/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetch.c - Fetch and ListOffsets: batches that were stored as they came go out as they are, other messages of the library become batches,
 * as soon as there are as many bytes as the client wants, or its time is over. Offsets that are not there (the library never uses some) are stepped over, as clients do with those
 * of a compacted topic.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

#define PARTS_MAX 65536
#define BATCH_DELTA_MAX INT32_MAX
#define BATCH_OWN 16u              /* bytes of a batch that say where it is: its base offset, its length, the leader's epoch */
#define LEND_BYTES_MAX (4u << 20)  /* on their way to a client */
#define LEND_BYTES 16384u          /* a smaller one is copied: that costs less than to keep book of it */
#define BATCH_RECORDS_MAX 100000
#define WAIT_MS_MAX 600000
#define LOOK_UP_NS (300 * MILLISECOND) /* so long the partitions of a request are looked up, and nobody else is served */
#define READERS_SOME 512u /* of one request: where it has so many, none is at an end where nothing is yet */
#define READERS_MOST 1024u
#define WATCH_PARTS 256u /* of a topic: from so many on it is watched, and those of them at whose end it waits need no reader */
#define DESCRIBED_MOST 64u /* of a watched topic, in an answer */
#define SCARCE_NS (20 * MILLISECOND) /* after so long a request without a reader for all is answered, and comes again */
#define TIME_LOOK_NS                                                                               \
	(300 *                                                                                     \
	 MILLISECOND) /* for the first message of a time: if none comes in it, there is none */

struct part {
	struct text topic;
	struct partition *partition; /* with a reference, if reader is not NULL */
	struct reader *reader;
	bool first_of_topic;
	bool waits; /* at its end, without a reader: the topic's watch tells of more */
	int32_t index, same_topic, bytes_max;
	int64_t offset, time_ms, wanted; /* wanted: ListOffsets */
	int error;
};

struct fetch {
	struct part *parts;
	uint32_t count, readers, described;
	uint64_t watch_serial; /* how far the watches had come when it looked last */
	int32_t topic_count, bytes_max, bytes_min;
	int8_t isolation;
	bool scarce; /* some of its parts have no reader this time */
	bool opened; /* it has had its first look */
	int64_t wait_ns;
	struct out headers; /* of one record */
};

/* ------------------------------------------------- messages become records */

static void add_number(struct out *headers, struct text name, const struct thmq_header *h)
{
	char text[32];
	int64_t i;
	double d;

	if (h->type == THMQ_HEADER_BOOL && h->value_len == 1) {
		snprintf(text, sizeof(text), "%s", *(const char *)h->value ? "true" : "false");
	} else if (h->type == THMQ_HEADER_INT && h->value_len == 8) {
		memcpy(&i, h->value, 8);
		snprintf(text, sizeof(text), "%" PRId64, i);
	} else if (h->value_len == 8) {
		memcpy(&d, h->value, 8);
		snprintf(text, sizeof(text), "%.17g", d);
	} else {
		text[0] = '\0';
	}
	batch_add_header(headers, name, text_of(text));
}

/* Return: how many headers; *ret_empty: what EMPTY_HEADER says */
static int32_t add_headers(struct out *headers, const struct thmq_message *m, uint8_t *ret_empty)
{
	struct thmq_header h;
	uint32_t cursor = 0;
	int32_t n = 0;

	headers->len = 0;
	if (m->tag) {
		batch_add_header(headers, text_of(THMQ_TAG_HEADER),
				 (struct text){m->tag, m->tag_len});
		n++;
	}
	while (m->headers && thmq_header_next(m, &cursor, &h) == 1) {
		struct text value = {h.value, h.value_len};

		if (strcmp(h.name, PRODUCER_HEADER) == 0)
			continue;
		if (strcmp(h.name, EMPTY_HEADER) == 0 && h.value_len == 1) {
			*ret_empty = *(const uint8_t *)h.value;
			continue;
		}
		n++;
		if (h.type != THMQ_HEADER_BYTES && h.type != THMQ_HEADER_TEXT) {
			add_number(headers, text_of(h.name), &h);
			continue;
		}
		if (!h.value_len)
			value.data = h.type == THMQ_HEADER_TEXT ? NULL : "";
		batch_add_header(headers, text_of(h.name), value);
	}
	return n;
}

static size_t message_bytes(const struct thmq_message *m)
{
	return (size_t)m->len + m->key_len + m->headers_len + m->tag_len + RECORD_OVERHEAD;
}

static void add_message(struct batch_making *b, const struct thmq_message *m, struct out *headers)
{
	struct text key = {m->key, m->key_len}, value = {m->data, m->len};
	uint8_t empty = 0;
	int32_t n = add_headers(headers, m, &empty);

	if (!m->key_len)
		key.data = empty & 2 ? "" : NULL;
	if (!m->len)
		value.data = empty & 1 ? "" : NULL;
	batch_add(b, (int64_t)m->offset, m->time_ns / MILLISECOND, key, value, headers, n);
}

/*
 * A batch as it was stored, but for where it is: what its checksum leaves out. A large one is sent from where it lies; TLS makes other bytes of it
 * anyway.
 */
static void add_batch(struct request *r, struct reader *reader, const struct thmq_message *m)
{
	const bool lend = m->len >= LEND_BYTES && r->conn && !r->conn->tls && r->conn->pieces.len + r->pieces.len < LEND_BYTES_MAX &&
			  reader_may_lend(reader);
	const uint32_t own = lend ? BATCH_OWN : m->len;
	uint8_t *at = out_raw(&r->out, own);

	if (!at)
		return;
	memcpy(at, m->data, own);
	put_i64(at, (int64_t)m->offset);
	put_i32(at + 12, -1); /* the leader's epoch: there is none */
	if (!lend)
		return;
	if (pieces_add(&r->pieces, r->out.len, (struct text){(const char *)m->data + own, m->len - own}, reader, m))
		reader_lend(reader);
	else
		r->out.failed = true;
}

static size_t answer_len(const struct request *r)
{
	return r->out.len + r->pieces.len;
}

/* What the reader has, up to @bytes_max; one message at least, if @always. Return: bytes that were added */
static size_t add_records(struct request *q, struct reader *r, size_t bytes_max, bool always)
{
	const struct thmq_message *m = reader_peek(r);
	struct batch_making b = {.out = NULL};
	struct fetch *f = q->state;
	struct out *out = &q->out;
	const size_t begun = answer_len(q);
	int64_t next = 0;

	for (; m; m = reader_peek(r)) {
		bool whole = reader_is_batch(r);

		if (answer_len(q) - begun + (whole ? m->len : message_bytes(m) + BATCH_HEADER) > bytes_max &&
		    !(always && answer_len(q) == begun))
			break;
		if (whole) {
			if (b.out)
				batch_end(&b, next - 1);
			b.out = NULL;
			add_batch(q, r, m);
			reader_step(r);
			next = r->next_offset;
			continue;
		}
		if (b.out && ((int64_t)m->offset - b.base_offset > BATCH_DELTA_MAX - (1 << 20) ||
			      b.count == BATCH_RECORDS_MAX)) {
			batch_end(&b, next - 1);
			b.out = NULL;
		}
		if (!b.out)
			batch_begin(&b, out, (int64_t)m->offset, m->time_ns / MILLISECOND);
		add_message(&b, m, &f->headers);
		reader_step(r);
		next = r->next_offset;
	}
	if (b.out)
		batch_end(&b, next - 1);
	return answer_len(q) - begun;
}

/* -------------------------------------------------------------------- Fetch */

static void fetch_free(struct fetch *f)
{
	uint32_t i;

	for (i = 0; i < f->count; i++) {
		struct topic *t = f->parts[i].partition ? f->parts[i].partition->topic : NULL;

		if (f->parts[i].reader)
			reader_put(f->parts[i].reader);
		if (t)
			store_unref(t);
	}
	out_free(&f->headers);
	free(f->parts);
	free(f);
}

static void fetch_drop(struct request *r)
{
	fetch_free(r->state);
	request_free(r);
}

/* Where it begins and ends. It may be further than what we have seen of it, but where a watch tells. */
static void part_describe(struct fetch *f, struct partition *p)
{
	if (p->topic->gone || watch_knows(p, !f->isolation, f->described < DESCRIBED_MOST))
		return;
	f->described++;
	store_describe(p);
}

static void fetch_part_answer(struct request *r, struct fetch *f, struct part *part, size_t *left)
{
	struct partition *p = part->partition;
	struct out *out = &r->out;
	size_t at, head = out->len, beside = r->pieces.len, bytes = 0;

	if (part->error == K_REQUEST_TIMED_OUT) /* some clients end at an error that no fetch has; with this one they look around, and come again */
		part->error = K_NOT_LEADER;
	out_i32(out, part->index);
	out_i16(out, (int16_t)part->error);
	out_raw(out, 16); /* the two ends: known once the records are there */
	if (r->version >= 5)
		out_i64(out, part->error ? -1 : p->begin);
	out_array(out, f->isolation ? 0 : -1); /* aborted transactions: there are none */
	if (r->version >= 11)
		out_i32(out, -1);
	at = out_bytes_begin(out);
	if (!part->error && part->reader)
		bytes = add_records(r, part->reader,
				    (size_t)part->bytes_max < *left ? (size_t)part->bytes_max
								    : *left,
				    *left == (size_t)f->bytes_max);
	*left -= bytes < *left ? bytes : *left;
	pieces_shift(&r->pieces, at, out_bytes_end(out, at, r->pieces.len - beside));
	out_tags(out);
	if (!part->error && !bytes && (part->reader || !request_is_late(r, LOOK_UP_NS)))
		part_describe(f, p);
	if (!out->failed) { /* behind the second one nothing is committed; what was aborted before it has gone already */
		put_i64(out->data + head + 6, part->error ? -1 : p->high > p->end ? p->high : p->end);
		put_i64(out->data + head + 14, part->error ? -1 : p->end);
	}
}

static void fetch_answer(struct request *r)
{
	struct fetch *f = r->state;
	size_t left = conn_room_for_answer(r->server);
	struct out *out = &r->out;
	uint32_t i;

	if (left < (size_t)f->bytes_max) /* at least a message comes all the same */
		f->bytes_max = (int32_t)left;
	left = (size_t)f->bytes_max;
	out_i32(out, 0);
	if (r->version >= 7) {
		out_i16(out, 0);
		out_i32(out, 0); /* no session: all partitions are named each time */
	}
	out_array(out, f->topic_count);
	for (i = 0; i < f->count; i++) {
		if (f->parts[i].first_of_topic) {
			out_text(out, f->parts[i].topic);
			out_array(out, f->parts[i].same_topic);
		}
		fetch_part_answer(r, f, &f->parts[i], &left);
		if (i + 1 == f->count || f->parts[i + 1].first_of_topic)
			out_tags(out);
	}
	out_tags(out);
	fetch_free(f);
	r->state = NULL;
	request_done(r);
}

/* Is there enough? An error of a partition is told at once. */
static bool fetch_ready(struct fetch *f)
{
	int64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < f->count; i++) {
		struct part *part = &f->parts[i];
		int64_t n = part->reader && !part->error ? reader_fill(part->reader) : 0;

		if (n < 0)
			part->error = store_error((int)n);
		if (part->error || n >= f->bytes_min - bytes)
			return true;
		bytes += n;
	}
	return bytes >= f->bytes_min;
}

static void fetch_open(struct request *r, struct fetch *f, struct part *part);
static void fetch_open_reader(struct fetch *f, struct part *part, struct partition *p);

static void fetch_hurry(struct request *r, const struct fetch *f)
{
	const int64_t soon = clock_ns() + SCARCE_NS;

	if (f->scarce && r->deadline_ns > soon)
		r->deadline_ns = soon;
}

/* Readers, at its first turn: that may be long work. It has its time from there. */
static void fetch_begin(struct request *r, struct fetch *f)
{
	uint32_t i;

	f->opened = true;
	f->watch_serial = r->server->watch_serial;
	r->begun_ns = clock_ns();
	for (i = 0; i < f->count; i++)
		fetch_open(r, f, &f->parts[i]);
	r->deadline_ns = clock_ns() + f->wait_ns;
	fetch_hurry(r, f);
}

static bool part_waits(const struct fetch *f, const struct part *part)
{
	const struct partition *p = part->partition;

	return part->offset == (f->isolation || p->high < p->end ? p->end : p->high);
}

/* A watch has seen something: it may be for this one. */
static void fetch_watch(struct request *r, struct fetch *f)
{
	struct part *part;
	uint32_t i;

	f->watch_serial = r->server->watch_serial;
	for (i = 0; i < f->count; i++) {
		part = &f->parts[i];
		if (!part->waits)
			continue;
		if (!watch_knows(part->partition, !f->isolation, false)) { /* it is there no more, nor is the topic perhaps */
			part->error = part->partition->topic->gone ? store_error(-THMQ_ENOTOPIC) : 0;
			r->deadline_ns = 0;
		} else if (!part_waits(f, part)) {
			part->waits = false;
			fetch_open_reader(f, part, part->partition);
		}
	}
	fetch_hurry(r, f);
}

static bool fetch_look(struct request *r)
{
	struct fetch *f = r->state;

	if (!f->opened)
		fetch_begin(r, f);
	else if (f->watch_serial != r->server->watch_serial)
		fetch_watch(r, f);
	else if (!f->readers && clock_ns() < r->deadline_ns) /* nothing has come that it waits for */
		return false;
	if (clock_ns() < r->deadline_ns && !fetch_ready(f))
		return false;
	fetch_answer(r);
	return true;
}

/* Has it a reader? Those who read thousands of partitions do not take all that there are from the others. */
static void fetch_open_reader(struct fetch *f, struct part *part, struct partition *p)
{
	const bool uncommitted = !f->isolation;

	if (f->readers >= READERS_MOST) {
		f->scarce = true;
		return;
	}
	if (f->readers >= READERS_SOME && !watch_knows(p, uncommitted, false)) {
		part->error = store_describe(p);
		f->scarce |= part->offset == p->end;
		if (part->error || (part->offset == p->end && p->high <= p->end))
			return;
	}
	part->error = reader_get(p, part->offset, uncommitted, &part->reader);
	if (part->error == K_REQUEST_TIMED_OUT) { /* all are taken */
		part->error = 0;
		f->scarce = true;
	}
	f->readers += part->reader != NULL;
}

static void fetch_open(struct request *r, struct fetch *f, struct part *part)
{
	struct partition *p;
	bool watched;

	if (request_is_late(r, LOOK_UP_NS)) { /* those that are left have their turn when it comes again */
		part->error = K_NOT_LEADER;
		return;
	}
	part->error = store_partition(r->server, part->topic, part->index, &p);
	if (part->error)
		return;
	store_ref(p->topic);
	part->partition = p;
	if (part->bytes_max < 0)
		part->bytes_max = 0;
	watched = part->same_topic >= (int32_t)WATCH_PARTS && watch_want(p->topic, !f->isolation);
	if (p->end < 0 || (watched && !watch_knows(p, !f->isolation, false)))
		part->error = store_describe(p);
	if (part->error)
		return;
	part->waits = watched && part_waits(f, part);
	if (!part->waits)
		fetch_open_reader(f, part, p);
}

/* Room for one more. */
static struct part *part_add(struct fetch *f)
{
	struct part *parts;

	if ((f->count & (f->count - 1)) == 0) { /* a power of two, or 0: twice as many */
		parts = f->count < PARTS_MAX
				? realloc(f->parts, (f->count ? f->count * 2 : 1) * sizeof(*parts))
				: NULL;
		if (!parts)
			return NULL;
		f->parts = parts;
	}
	memset(&f->parts[f->count], 0, sizeof(*f->parts));
	return &f->parts[f->count++];
}

static void fetch_read_part(struct request *r, struct part *part)
{
	struct in *in = &r->in;

	part->index = in_i32(in);
	if (r->version >= 9)
		in_i32(in); /* the leader's epoch that the client knows: there are none */
	part->offset = in_i64(in);
	if (r->version >= 12)
		in_i32(in);
	if (r->version >= 5)
		in_i64(in);
	part->bytes_max = in_i32(in);
	in_tags(in);
}

/* Topics and their partitions, each of @least bytes or more, which @read_part takes. */
static void parts_read(struct request *r, struct fetch *f, size_t least,
		       void (*read_part)(struct request *r, struct part *part))
{
	struct in *in = &r->in;
	int32_t topics = in_array(in, 6), parts, i, k;

	for (i = 0; i < topics && !in->bad; i++) {
		struct text topic = in_text(in);

		parts = in_array(in, least);
		f->topic_count += parts > 0;
		for (k = 0; k < parts && !in->bad; k++) {
			struct part *part = part_add(f);

			if (!part) {
				in->bad = true;
				break;
			}
			part->topic = topic;
			part->first_of_topic = k == 0;
			part->same_topic = parts;
			read_part(r, part);
		}
		in_tags(in);
	}
}

static void fetch_read(struct request *r, struct fetch *f)
{
	struct in *in = &r->in;
	int32_t topics, parts, i;

	parts_read(r, f, 16, fetch_read_part);
	if (r->version >= 7) { /* what a session would forget */
		topics = in_array(in, 6);
		for (i = 0; i < topics && !in->bad; i++) {
			in_text(in);
			for (parts = in_array(in, 4); parts > 0 && !in->bad; parts--)
				in_i32(in);
			in_tags(in);
		}
	}
	if (r->version >= 11)
		in_text(in); /* the client's rack */
	in_tags(in);
}

void fetch_run(struct request *r)
{
	struct fetch *f = calloc(1, sizeof(*f));
	struct in *in = &r->in;
	int32_t wait_ms;

	if (!f) {
		request_fail(r);
		request_done(r);
		return;
	}
	r->state = f;
	in_i32(in); /* which copy asks: none of ours */
	wait_ms = in_i32(in);
	f->bytes_min = in_i32(in);
	f->bytes_max = in_i32(in);
	f->isolation = in_i8(in);
	if (f->bytes_max < 0 || f->bytes_max > (int32_t)FETCH_BYTES_MAX)
		f->bytes_max = FETCH_BYTES_MAX;
	if (r->version >= 7) {
		in_i32(in);
		in_i32(in);
	}
	fetch_read(r, f);
	if (in->bad) {
		fetch_free(f);
		request_fail(r);
		request_done(r);
		return;
	}
	r->drop = fetch_drop;
	f->wait_ns = (wait_ms < 0 ? 0 : wait_ms < WAIT_MS_MAX ? wait_ms : WAIT_MS_MAX) * MILLISECOND;
	request_wait(r, fetch_look, clock_ns() + f->wait_ns);
}

/* -------------------------------------------------------------- ListOffsets */

#define LATEST (-1)
#define EARLIEST (-2)
#define NEWEST_TIME (-3)

static void list_answer(struct request *r)
{
	struct fetch *f = r->state;
	struct out *out = &r->out;
	uint32_t i;

	if (r->version >= 2)
		out_i32(out, 0);
	out_array(out, f->topic_count);
	for (i = 0; i < f->count; i++) {
		struct part *part = &f->parts[i];

		if (part->first_of_topic) {
			out_text(out, part->topic);
			out_array(out, part->same_topic);
		}
		out_i32(out, part->index);
		out_i16(out, (int16_t)part->error);
		out_i64(out, part->time_ms);
		out_i64(out, part->offset);
		if (r->version >= 4)
			out_i32(out, -1);
		out_tags(out);
		if (i + 1 == f->count || f->parts[i + 1].first_of_topic)
			out_tags(out);
	}
	out_tags(out);
	fetch_free(f);
	r->state = NULL;
	request_done(r);
}

/* Which of a batch's records is looked for. false: none */
static bool list_in_batch(struct part *part, const struct thmq_message *m)
{
	struct out room = {.data = NULL};
	struct record r;
	struct batch b;
	bool found = false;
	struct in in;
	int rc;

	in_init(&in, m->data, m->len, false);
	if (batch_read(&in, &b) != 1)
		return false;
	if (part->wanted == NEWEST_TIME) {
		part->offset = (int64_t)m->offset + b.last_delta;
		part->time_ms = b.max_time_ms;
		return true;
	}
	rc = batch_unpack(&b, &room);
	if (rc == -K_UNSUPPORTED_COMPRESSION && b.max_time_ms >= part->wanted) { /* no further can be seen: it is in this batch */
		part->offset = (int64_t)m->offset;
		part->time_ms = b.base_time_ms;
		found = true;
	}
	if (!rc)
		while (!found && in_left(&b.records) && !record_read(&b, &b.records, &r))
			if (r.time_ms >= part->wanted) {
				part->offset = (int64_t)m->offset + r.offset_delta;
				part->time_ms = r.time_ms;
				found = true;
			}
	out_free(&room);
	return found;
}

/* One look for the first message of a time. Return: it is not known yet. */
static bool list_part_waits(struct part *part, bool late)
{
	const struct thmq_message *m = reader_peek(part->reader);

	while (m && reader_is_batch(part->reader)) {
		if (list_in_batch(part, m))
			goto found;
		reader_step(part->reader);
		m = reader_peek(part->reader);
	}
	if (!m && !late)
		return true;
	if (m) {
		part->offset = (int64_t)m->offset;
		part->time_ms = m->time_ns / MILLISECOND;
	}
found:
	part->reader->next_offset = -1; /* what it holds is where nobody looks for it */
	reader_put(part->reader);
	part->reader = NULL;
	return false;
}

static bool list_look(struct request *r)
{
	struct fetch *f = r->state;
	bool late = clock_ns() >= r->deadline_ns, waits = false;
	uint32_t i;

	for (i = 0; i < f->count; i++)
		if (f->parts[i].reader)
			waits |= list_part_waits(&f->parts[i], late);
	if (waits)
		return false;
	list_answer(r);
	return true;
}

static void list_open(struct request *r, struct part *part, bool uncommitted)
{
	int64_t wanted = part->time_ms;
	struct partition *p;

	part->time_ms = part->offset = -1;
	part->wanted = wanted;
	if (request_is_late(r, LOOK_UP_NS)) {
		part->error = K_REQUEST_TIMED_OUT;
		return;
	}
	part->error = store_partition(r->server, part->topic, part->index, &p);
	if (part->error)
		return;
	store_ref(p->topic);
	part->partition = p;
	part->error = store_describe(p);
	if (part->error)
		return;
	if (wanted == LATEST)
		part->offset = uncommitted && p->high > p->end ? p->high : p->end;
	else if (wanted == EARLIEST)
		part->offset = p->begin;
	else if (wanted == NEWEST_TIME && p->end > p->begin) /* by their order, not their times */
		part->error = reader_get(p, p->end - 1, false, &part->reader);
	else if (wanted >= 0 && wanted < INT64_MAX / MILLISECOND && p->end > p->begin)
		part->error = reader_get_time(p, wanted * MILLISECOND, &part->reader);
	if (part->error == K_OFFSET_OUT_OF_RANGE)
		part->error = 0; /* there is none */
}

static void list_offsets_read_part(struct request *r, struct part *part)
{
	struct in *in = &r->in;

	part->index = in_i32(in);
	if (r->version >= 4)
		in_i32(in);
	part->time_ms = in_i64(in);
	in_tags(in);
}

void list_offsets_run(struct request *r)
{
	struct fetch *f = calloc(1, sizeof(*f));
	struct in *in = &r->in;
	uint32_t n;

	if (!f) {
		request_fail(r);
		request_done(r);
		return;
	}
	r->state = f;
	in_i32(in);
	if (r->version >= 2)
		f->isolation = in_i8(in);
	parts_read(r, f, 12, list_offsets_read_part);
	if (in->bad) {
		fetch_free(f);
		request_fail(r);
		request_done(r);
		return;
	}
	for (n = 0; n < f->count; n++)
		list_open(r, &f->parts[n], !f->isolation);
	r->drop = fetch_drop;
	request_wait(r, list_look, clock_ns() + TIME_LOOK_NS);
}
