/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_contract_test.c - what a message may have and how it may be asked for, over any medium: headers, times to live, messages larger
 * than a batch, consumers of some tags, what is stored only where it is expected, keys looked up.
 *
 * usage: messaging_contract_test MEDIUM [case …]; MEDIUM as of transport_contract_test.c.
 */
#include "contract.h"

static struct thmq_header text(const char *name, const char *value)
{
	return (struct thmq_header){name, value, (uint32_t)strlen(value), THMQ_HEADER_TEXT};
}

static bool has_text(const struct thmq_message *m, const char *name, const char *value)
{
	struct thmq_header h;

	return thmq_header_find(m, name, &h) == 0 && h.type == THMQ_HEADER_TEXT &&
	       h.value_len == strlen(value) && memcmp(h.value, value, h.value_len) == 0;
}

static bool is_payload(const struct thmq_message *m, const char *what)
{
	return m->len == strlen(what) && memcmp(m->data, what, m->len) == 0;
}

/* Its message, which is there within ten seconds. */
static void take(struct thmq_session *s, struct thmq_consumer *c, struct thmq_message *m)
{
	CHECK(fetch(s, c, m, 1, 10 * SECOND) == 1);
}

/* -------------------------------------------------------------------- headers */

static void check_headers(const struct thmq_message *m, const uint8_t id[16], int64_t number)
{
	struct thmq_header h;
	uint32_t cursor = 0, n = 0;
	int64_t is;

	CHECK(has_text(m, "region", "north") && has_text(m, "", "") == false);
	CHECK(thmq_header_find(m, "Region", &h) == -ENOENT);
	CHECK(thmq_header_find(m, "id", &h) == 0 && h.type == THMQ_HEADER_BYTES &&
	      h.value_len == 16 && memcmp(h.value, id, 16) == 0);
	CHECK(thmq_header_find(m, "number", &h) == 0 && h.type == THMQ_HEADER_INT &&
	      h.value_len == 8);
	memcpy(&is, h.value, 8);
	CHECK(is == number);
	while (thmq_header_next(m, &cursor, &h) == 1)
		n++;
	CHECK(n == 4);
}

static void headers(void)
{
	static const uint8_t id[16] = {0, 255, 1, 0, 7};
	static uint8_t large[60000];
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[8];
	struct thmq_header big = {"large", large, sizeof(large), THMQ_HEADER_BYTES}, h;
	struct thmq_claim claim;
	uint32_t cursor = 0, got, i;
	int64_t number;
	int n;

	CHECK(thmq_topic_create(s, "h", NULL) == 0);
	CHECK(thmq_producer_open(s, "h", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "h", NULL, NULL, &c) == 0);
	/* alone in their runs, and together: with key and tag, with one of them, with nothing; between messages without headers */
	for (number = 0; number < 64; number++) {
		struct thmq_header all[] = {{"id", id, 16, THMQ_HEADER_BYTES},
					    text("region", "north"),
					    {"number", &number, 8, THMQ_HEADER_INT},
					    text("region", "south")};
		struct thmq_message_opts o = {.size = sizeof(o),
					      .headers = all,
					      .header_count = number % 3 ? 4 : 0,
					      .key = number % 2 ? "key" : NULL,
					      .key_len = number % 2 ? 3 : 0,
					      .tag = number % 4 < 2 ? "tag" : NULL,
					      .flags = number % 5 ? 0 : THMQ_MESSAGE_TIME,
					      .time_ns = number % 5 ? 0 : number * 1000};

		CHECK(thmq_send(p, "payload", 7, &o) == number + 1);
		if (number < 8)
			CHECK(thmq_flush(p, 30 * SECOND) == 0);
	}
	CHECK(thmq_claim(p, THMQ_MESSAGE_OPTS(.headers = &big, .header_count = 1), 5, &claim) == 0);
	CHECK((uintptr_t)claim.data % 8 == 0);
	memcpy(claim.data, "large", 5);
	CHECK(thmq_commit(p, &claim) == 65);
	for (got = 0; got < 65;) {
		n = fetch(s, c, m, 8, 10 * SECOND);
		CHECK(n > 0);
		for (i = 0; i < (uint32_t)n; i++, got++) {
			CHECK(m[i].offset == got);
			if (got == 64) {
				CHECK(is_payload(&m[i], "large") &&
				      thmq_header_find(&m[i], "large", &h) == 0);
				CHECK(h.value_len == sizeof(large) &&
				      memcmp(h.value, large, sizeof(large)) == 0);
				continue;
			}
			CHECK(is_payload(&m[i], "payload"));
			CHECK(m[i].key_len == (got % 2 ? 3u : 0u) &&
			      m[i].tag_len == (got % 4 < 2 ? 3u : 0u));
			CHECK(got % 5 || m[i].time_ns == (int64_t)got * 1000);
			if (got % 3)
				check_headers(&m[i], id, got);
			else
				CHECK(!m[i].headers && !m[i].headers_len &&
				      thmq_header_next(&m[i], &cursor, &h) == 0);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	big.value_len = THMQ_HEADERS_MAX;
	CHECK(thmq_claim(p, THMQ_MESSAGE_OPTS(.headers = &big, .header_count = 1), 5, &claim) ==
	      -E2BIG);
	big.type = THMQ_HEADER_INT;
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.headers = &big, .header_count = 1)) ==
	      -EINVAL);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* --------------------------------------------------------------- times to live */

static void times_to_live(void)
{
	struct thmq_session *s = session_of(NULL);
	struct timespec wall;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	int64_t ago;

	clock_gettime(CLOCK_REALTIME, &wall);
	ago = ((int64_t)wall.tv_sec - 100) * (int64_t)SECOND; /* of the message's own time */
	CHECK(thmq_topic_create(s, "ttl", NULL) == 0);
	CHECK(thmq_producer_open(s, "ttl", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "ttl", "g", NULL, &c) == 0);
	CHECK(thmq_send(p, "gone", 4,
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = ago,
					  .ttl_ns = 99 * SECOND)) == 1);
	CHECK(thmq_send(p, "stays", 5,
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = ago,
					  .ttl_ns = 3600 * SECOND)) == 2);
	CHECK(thmq_send(p, "old", 3,
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = ago)) == 3);
	CHECK(thmq_send(p, "goes", 4, THMQ_MESSAGE_OPTS(.ttl_ns = 1)) == 4);
	CHECK(thmq_send(p, "new", 3, THMQ_MESSAGE_OPTS(.ttl_ns = UINT64_MAX)) == 5);
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	take(s, c, &m);
	CHECK(is_payload(&m, "stays") && m.offset == 1);
	CHECK(thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
	take(s, c, &m);
	CHECK(is_payload(&m, "old") && m.offset == 2);
	CHECK(thmq_release(c, &m, 1) == 0);
	take(s, c, &m);
	CHECK(is_payload(&m, "new") && m.offset == 4);
	CHECK(thmq_ack(c, &m) == 0 && thmq_consumer_flush(c, 30 * SECOND) == 0);
	CHECK(thmq_release(c, &m, 1) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* -------------------------------------------------------------- large messages */

#define BATCH (1u << 20) /* the broker's */

static bool is_full_run(void)
{
	const char *full = getenv("THMQ_TEST_FULL");

	return full && strcmp(full, "0") != 0;
}

/* Of one producer each: the first 8 bytes say whose and which, the rest follows from that. */
static void fill_large(uint8_t *data, uint32_t len, uint32_t who, uint32_t number)
{
	fill(data, len, who * 1000 + number);
	memcpy(data, &who, 4);
	memcpy(data + 4, &number, 4);
}

static void check_large(const struct thmq_message *m, uint32_t next[2])
{
	uint32_t who, number, i, first = 0;
	const uint8_t *data = m->data;

	CHECK(m->len >= 8);
	memcpy(&who, data, 4);
	memcpy(&number, data + 4, 4);
	CHECK(who < 2 && number == next[who]++);
	first = who * 1000 + number;
	for (i = 8; i < m->len; i++)
		CHECK(data[i] == (uint8_t)(first * 31 + i * 7 + (i >> 8)));
	CHECK(m->key_len == (number % 2 ? 3u : 0u) && (!m->key || memcmp(m->key, "key", 3) == 0));
	CHECK(m->tag_len == (number % 3 ? 0u : 5u) && (!m->tag || memcmp(m->tag, "large", 5) == 0));
	CHECK(!m->headers == !(number % 4) && (!m->headers || has_text(m, "of", "many")));
}

static bool put_large(struct thmq_producer *p, uint32_t who, uint32_t number, uint32_t len)
{
	const struct thmq_header h = text("of", "many");
	struct thmq_message_opts o = {.size = sizeof(o),
				      .key = number % 2 ? "key" : NULL,
				      .key_len = number % 2 ? 3 : 0,
				      .tag = number % 3 ? NULL : "large",
				      .headers = &h,
				      .header_count = number % 4 ? 1 : 0};
	struct thmq_claim claim;
	int rc = thmq_claim(p, &o, len, &claim);

	CHECK(rc == 0 || rc == -EAGAIN);
	if (rc)
		return false;
	fill_large(claim.data, len, who, number);
	while ((rc = (int)thmq_commit(p, &claim)) == -EAGAIN)
		drive(MS);
	CHECK(rc == (int)number + 1);
	return true;
}

/* One sends messages of all sizes, another small ones in between: all come whole, and each one's in its order. */
static void large_messages(void)
{
	static const uint32_t sizes[] = {8,         BATCH - 400, BATCH - 368,      BATCH - 367,
					 BATCH,     BATCH + 1,   2 * BATCH,        100,
					 5 * BATCH, 9,           3 * BATCH - 1000, 7 * BATCH + 5};
	const uint32_t count = sizeof(sizes) / sizeof(sizes[0]), small = 200;
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.window_bytes = 16 << 20)),
			    *t = session_of(NULL);
	struct thmq_producer *p, *q;
	struct thmq_consumer *c;
	struct thmq_message m[8];
	uint32_t sent[2] = {0}, got[2] = {0};
	uint64_t end = now() + 60 * SECOND;
	int n, i;

	CHECK(thmq_topic_create(s, "large", NULL) == 0);
	CHECK(thmq_producer_open(s, "large", NULL, &p) == 0);
	CHECK(thmq_producer_open(t, "large", NULL, &q) == 0);
	CHECK(thmq_consumer_open(s, "large", "g", NULL, &c) == 0);
	CHECK(thmq_producer_len_max(p) == (16 << 20) - 8 &&
	      thmq_producer_len_max(q) == (4 << 20) - 8);
	while (got[0] < count || got[1] < small) {
		CHECK(now() < end);
		if (sent[0] < count && put_large(p, 0, sent[0], sizes[sent[0]]))
			sent[0]++;
		if (sent[1] < small && put_large(q, 1, sent[1], 8 + sent[1]))
			sent[1]++;
		n = thmq_fetch(c, m, 8);
		CHECK(n >= 0 || n == -ENOBUFS);
		for (i = 0; i < n; i++) {
			check_large(&m[i], got);
			CHECK(thmq_ack(c, &m[i]) == 0 && thmq_release(c, &m[i], 1) == 0);
		}
		if (n <= 0)
			thmq_session_wait(s, MS);
	}
	CHECK(thmq_consumer_flush(c, 30 * SECOND) == 0);
	CHECK(thmq_consumer_close(c, 30 * SECOND) == 0);
	/* all are acknowledged: nothing is left, not even a part */
	CHECK(thmq_consumer_open(s, "large", "g", NULL, &c) == 0);
	CHECK(fetch(s, c, m, 1, 50 * MS) == 0);
	CHECK(thmq_session_close(t, 30 * SECOND) == 0 && thmq_session_close(s, 30 * SECOND) == 0);
}

/* Who holds more than its prefetch_bytes gets no more; a message may be larger than these all the same. */
static void large_messages_held(void)
{
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.window_bytes = 8 << 20));
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[3];
	struct thmq_event e;
	uint32_t sent = 0, got[2] = {0};

	CHECK(thmq_topic_create(s, "held", NULL) == 0);
	CHECK(thmq_producer_open(s, "held", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "held", NULL, THMQ_CONSUMER_OPTS(.prefetch_bytes = 2 << 20),
				 &c) == 0);
	while (sent < 3)
		if (put_large(p, 0, sent, 3 * BATCH))
			sent++;
		else
			drive(MS);
	take(s, c, &m[0]);
	check_large(&m[0], got);
	CHECK(fetch(s, c, &m[1], 1, 5 * SECOND) == -ENOBUFS);
	CHECK(next_event(s, THMQ_EVENT_STALLED, &e, SECOND));
	CHECK(fetch(s, c, &m[1], 1, SECOND) == -ENOBUFS);
	got[0] = 0;
	check_large(&m[0], got); /* as it was */
	CHECK(thmq_release(c, &m[0], 1) == 0);
	take(s, c, &m[1]);
	check_large(&m[1], got);
	/* an offset in the middle of the next: it is passed over; the begin of one: there it is */
	CHECK(m[1].span == 4 && m[0].offset + 4 == m[1].offset);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, m[1].offset + m[1].span + 1) == 0);
	CHECK(thmq_release(c, &m[1], 1) == 0);
	CHECK(fetch(s, c, &m[2], 1, 50 * MS) == 0);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, m[1].offset + m[1].span) == 0);
	take(s, c, &m[2]);
	check_large(&m[2], got);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0); /* with it held */
}

static void the_largest(void)
{
	const uint32_t len = is_full_run() ? THMQ_MESSAGE_MAX : 20u << 20;
	struct thmq_session *s =
		session_of(THMQ_SESSION_OPTS(.window_bytes = is_full_run() ? 128 << 20 : 32 << 20));
	struct thmq_producer *p, *v;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_claim claim;
	uint32_t got[2] = {0};

	CHECK(thmq_topic_create(s, "largest", NULL) == 0);
	CHECK(thmq_topic_create(s, "volatile", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_producer_open(s, "largest", NULL, &p) == 0);
	CHECK(thmq_producer_open(s, "volatile", NULL, &v) == 0);
	CHECK(thmq_consumer_open(s, "largest", NULL, NULL, &c) == 0);
	CHECK(thmq_claim(v, NULL, BATCH, &claim) == -EMSGSIZE);
	CHECK(thmq_claim(p, NULL, THMQ_MESSAGE_MAX + (200 << 10), &claim) == -EMSGSIZE);
	CHECK(put_large(p, 0, 0, len));
	CHECK(thmq_flush(p, 60 * SECOND) == 0);
	CHECK(fetch(s, c, &m, 1, 60 * SECOND) == 1);
	CHECK(m.len == len);
	check_large(&m, got);
	CHECK(thmq_release(c, &m, 1) == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* Of the topic: for messages that have none of their own. */
static void times_to_live_of_a_topic(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_session *s = session_of(NULL);
	struct timespec wall;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	int64_t ago;

	clock_gettime(CLOCK_REALTIME, &wall);
	ago = ((int64_t)wall.tv_sec - 100) * (int64_t)SECOND;
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.ttl_ns = 50 * SECOND)) == 0);
	CHECK(thmq_topic_describe(s, "t", &info) == 0 && info.ttl_ns == 50 * SECOND);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, NULL, &c) == 0);
	CHECK(thmq_send(p, "old", 3,
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = ago)) == 1);
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_send(p, "lives", 5,
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = ago,
					  .ttl_ns = 3600 * SECOND)) == 2);
	CHECK(thmq_send(p, "gone", 4, THMQ_MESSAGE_OPTS(.ttl_ns = 1)) == 3);
	CHECK(thmq_send(p, "new", 3, NULL) == 4);
	take(s, c, &m);
	CHECK(is_payload(&m, "lives"));
	CHECK(thmq_release(c, &m, 1) == 0);
	take(s, c, &m);
	CHECK(is_payload(&m, "new"));
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* Of a shared group it is done then, for all members. */
static void times_to_live_in_a_shared_group(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.flags = 0)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	CHECK(thmq_send(p, "gone", 4, THMQ_MESSAGE_OPTS(.ttl_ns = 1)) == 1);
	CHECK(thmq_send(p, "lives", 5, THMQ_MESSAGE_OPTS(.ttl_ns = 3600 * SECOND)) == 2);
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_consumer_open(s, "t", "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .invisible_ns = 300 * MS), &c) == 0);
	take(s, c, &m);
	CHECK(is_payload(&m, "lives"));
	CHECK(thmq_ack(c, &m) == 0);
	CHECK(thmq_release(c, &m, 1) == 0);
	CHECK(fetch(s, c, &m, 1, 500 * MS) == 0); /* it does not come again */
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* ------------------------------------------------------------------------ tags */

static void some_tags_in(struct thmq_session *s, const char *topic,
			 const struct thmq_topic_opts *opts)
{
	static const char *const tags[] = {NULL, "red", "blue", "green", "redder"},
				 *const wanted[] = {"red", "green"};
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[16];
	uint32_t number, i, next = 0, got = 0;
	int n, k;

	CHECK(thmq_topic_create(s, topic, opts) == 0);
	CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, topic, NULL, THMQ_CONSUMER_OPTS(.tags = wanted, .tag_count = 2),
				 &c) == 0);
	/* first runs of one message each, then runs of many */
	for (number = 0; number < 600; number++) {
		while (thmq_send(p, &number, 4, THMQ_MESSAGE_OPTS(.tag = tags[number % 5])) ==
		       -EAGAIN)
			drive(MS);
		if (number < 50)
			CHECK(thmq_flush(p, 30 * SECOND) == 0);
	}
	while (got < 240) {
		n = fetch(s, c, m, 16, 10 * SECOND);
		CHECK(n > 0);
		for (k = 0; k < n; k++, got++) {
			memcpy(&i, m[k].data, 4);
			while (next % 5 != 1 && next % 5 != 3)
				next++;
			CHECK(i == next && m[k].tag_len == strlen(tags[i % 5]));
			next++;
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	CHECK(fetch(s, c, m, 16, 50 * MS) == 0);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	CHECK(thmq_producer_close(p, SECOND) == 0);
}

static void some_tags(void)
{
	static const char *const bad[] = {""};
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;

	some_tags_in(s, "logged", NULL);
	some_tags_in(s, "volatile",
		     THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 1 << 20));
	CHECK(thmq_consumer_open(s, "logged", NULL, THMQ_CONSUMER_OPTS(.tags = bad, .tag_count = 1),
				 &c) == -EINVAL);
	CHECK(thmq_consumer_open(s, "logged", NULL,
				 THMQ_CONSUMER_OPTS(.tags = bad, .tag_count = 65), &c) == -EINVAL);
	CHECK(thmq_consumer_open(s, "logged", NULL, THMQ_CONSUMER_OPTS(.tag_count = 1), &c) ==
	      -EINVAL);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* ----------------------------------------------------------- conditional appends */

static uint64_t end_of(struct thmq_session *s, const char *topic)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(s, topic, 0, NULL, &info) == 0);
	return info.end_offset;
}

/* What became of the last one: 0, or what is there instead. */
static bool refused(struct thmq_session *s, struct thmq_producer *p, int64_t sequence,
		    uint64_t *ret_is, uint32_t *ret_partition)
{
	struct thmq_event e;
	int rc = thmq_flush(p, 5 * SECOND);

	CHECK(rc == 0 || rc == -EIO);
	if (!rc)
		return false;
	CHECK(next_event(s, THMQ_EVENT_FAILED, &e, SECOND));
	CHECK(e.error == -THMQ_ECONFLICT && e.sequence == (uint64_t)sequence && e.producer == p);
	*ret_is = e.offset;
	*ret_partition = e.partition;
	return true;
}

/* Which of several: the one that is named, or that of the key; whose turn it is nobody can expect. */
static void expected_end_of_one(struct thmq_session *s)
{
	struct thmq_message_opts o = {.size = sizeof(o), .flags = THMQ_MESSAGE_EXPECT_END | THMQ_MESSAGE_PARTITION, .partition = 2};
	struct thmq_producer *p;
	uint32_t partition = 0;
	uint64_t is = 0;
	int64_t seq;

	CHECK(thmq_topic_create(s, "many", THMQ_TOPIC_OPTS(.partition_count = 3)) == 0);
	CHECK(thmq_producer_open(s, "many", NULL, &p) == 0);
	seq = thmq_send(p, "right", 5, &o);
	CHECK(seq > 0 && !refused(s, p, seq, &is, &partition));
	seq = thmq_send(p, "wrong", 5, &o);
	CHECK(seq > 0 && refused(s, p, seq, &is, &partition) && is == 1 && partition == 2);
	o.flags = THMQ_MESSAGE_EXPECT_END;
	o.partition = 0;
	CHECK(thmq_send(p, "any", 3, &o) == -EINVAL);
	o.key = "k";
	o.key_len = 1;
	o.expected = 99;
	seq = thmq_send(p, "wrong", 5, &o);
	CHECK(seq > 0 && refused(s, p, seq, &is, &partition) && is == (partition == 2) && partition < 3);
}

static void expected_ends(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_message_opts o = {.size = sizeof(o), .flags = THMQ_MESSAGE_EXPECT_END};
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint32_t partition = 1;
	uint64_t is, end;
	int64_t seq;
	int i;

	CHECK(thmq_topic_create(s, "ends", NULL) == 0);
	CHECK(thmq_producer_open(s, "ends", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "ends", NULL, NULL, &c) == 0);
	end = end_of(s, "ends");
	for (i = 0; i < 10; i++) {
		o.expected = end + (uint64_t)i;
		seq = thmq_send(p, "right", 5, &o);
		CHECK(seq > 0 && !refused(s, p, seq, &is, &partition));
		seq = thmq_send(p, "wrong", 5, &o);
		CHECK(seq > 0 && refused(s, p, seq, &is, &partition) && is == o.expected + 1 && partition == 0);
	}
	/* one after the other, without waiting: each is compared when its turn comes */
	for (i = 0; i < 10; i++, o.expected++) {
		o.expected = end + 10 + (uint64_t)i;
		CHECK(thmq_send(p, "right", 5, &o) > 0);
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	for (i = 0; i < 20; i++) {
		take(s, c, &m);
		CHECK(is_payload(&m, "right") && m.offset == end + (uint64_t)i);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(end_of(s, "ends") == end + 20);
	expected_end_of_one(s);
	o.flags |= THMQ_MESSAGE_EXPECT_KEY;
	o.key = "k";
	o.key_len = 1;
	CHECK(thmq_send(p, "x", 1, &o) == -EINVAL);
	o.flags = THMQ_MESSAGE_EXPECT_KEY;
	o.key = NULL;
	o.key_len = 0;
	CHECK(thmq_send(p, "x", 1, &o) == -EINVAL);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* A key-value store on a topic, against an array: each change names the version that it replaces. */
#define KEYS 20u

static void expected_keys(void)
{
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.window_bytes = 8 << 20));
	struct thmq_message_opts o = {
		.size = sizeof(o), .flags = THMQ_MESSAGE_EXPECT_KEY, .key_len = 8};
	struct thmq_key_info info = {.size = sizeof(info)};
	uint64_t versions[KEYS], is = 0, number, before;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint32_t i, k, sent = 0, partitions[KEYS], partition = UINT32_MAX;
	unsigned int chance = 1;
	int64_t seq;

	CHECK(thmq_topic_create(s, "keys", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, "keys", NULL, &p) == 0);
	for (k = 0; k < KEYS; k++)
		versions[k] = UINT64_MAX;
	for (i = 0; i < 150; i++) {
		bool right = rand_r(&chance) % 3 != 0, large = i % 50 == 49;
		static uint8_t data[2 << 20];

		k = (uint32_t)rand_r(&chance) % KEYS;
		number = k;
		o.key = &number;
		o.expected = right ? versions[k] : versions[k] - 1;
		memcpy(data, &i, 4);
		while ((seq = thmq_send(p, data, large ? sizeof(data) : 4, &o)) == -EAGAIN)
			drive(MS);
		CHECK(seq == i + 1);
		if (refused(s, p, seq, &is, &partition)) {
			CHECK(!right && is == versions[k] && (is == UINT64_MAX || partition == partitions[k]));
			continue;
		}
		sent++;
		CHECK(thmq_key_find(s, "keys", UINT32_MAX, &number, 8, UINT64_MAX, &info) == 0);
		CHECK(right);
		CHECK(versions[k] == UINT64_MAX || info.offset > versions[k]);
		versions[k] = info.offset;
		partitions[k] = info.partition;
	}
	CHECK(sent > 50 && sent < 150);
	/* all that a key had, newest first; and the messages themselves */
	CHECK(thmq_consumer_open(s, "keys", NULL, NULL, &c) == 0);
	for (k = 0; k < KEYS; k++) {
		number = k;
		for (before = UINT64_MAX;
		     thmq_key_find(s, "keys", UINT32_MAX, &number, 8, before, &info) == 0;
		     before = info.offset) {
			CHECK(info.offset < before &&
			      (before != UINT64_MAX || info.offset == versions[k]));
			CHECK(thmq_seek(c, UINT32_MAX, THMQ_START_END, 0) == 0);
			CHECK(thmq_seek(c, info.partition, THMQ_START_OFFSET, info.offset) == 0);
			take(s, c, &m);
			CHECK(m.partition == info.partition && m.offset == info.offset &&
			      m.key_len == 8 && memcmp(m.key, &number, 8) == 0);
			CHECK(m.span == (m.len > 4 ? 3u : 1u));
			CHECK(thmq_release(c, &m, 1) == 0);
			sent--;
		}
	}
	CHECK(sent == 0);
	CHECK(thmq_key_find(s, "keys", UINT32_MAX, "none", 4, UINT64_MAX, &info) == -ENOENT);
	CHECK(thmq_key_find(s, "keys", 2, "none", 4, UINT64_MAX, &info) == -THMQ_ENOPARTITION);
	CHECK(thmq_key_find(s, "nowhere", 0, "none", 4, UINT64_MAX, &info) == -THMQ_ENOTOPIC);
	CHECK(thmq_key_find(s, "keys", 0, "none", 0, UINT64_MAX, &info) == -EINVAL);
	CHECK(thmq_topic_create(s, "ring", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_key_find(s, "ring", 0, "none", 4, UINT64_MAX, &info) == -ENOTSUP);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* ---------------------------------------------------------------- compression */

/* Of number @number: much of it comes again, by how much depends on @kind. */
static void fill_packed(uint8_t *to, uint32_t len, uint32_t number, uint32_t kind)
{
	uint64_t x = number * 0x9e3779b97f4a7c15ull + 1;
	uint32_t i;

	for (i = 0; i < len; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		to[i] = kind == 0 ? (uint8_t)x : kind == 1 ? (uint8_t)number : (uint8_t)("abcd"[x % 4]);
	}
}

static uint32_t len_packed(uint32_t number)
{
	static const uint32_t lens[] = {0, 1, 8, 511, 512, 513, 4096, 100000, 900000};

	return lens[number % 9] + (number % 9 > 5 ? number : 0);
}

static void put_packed(struct thmq_producer *p, uint32_t number)
{
	static uint8_t bytes[1000000];
	const struct thmq_header h = text("n", "packed");
	struct thmq_message_opts o = {.size = sizeof(o),
				      .key = number % 2 ? &number : NULL,
				      .key_len = number % 2 ? sizeof(number) : 0,
				      .tag = number % 3 ? "tag" : NULL,
				      .headers = &h,
				      .header_count = number % 4 == 0};
	uint32_t len = len_packed(number);
	struct thmq_claim claim;
	int64_t seq = -EAGAIN;

	fill_packed(bytes, len, number, number % 5 % 3);
	while (number % 7 < 4 && (seq = thmq_send(p, bytes, len, &o)) == -EAGAIN)
		drive(MS);
	if (number % 7 >= 4) {
		while (thmq_claim(p, &o, len, &claim) == -EAGAIN)
			drive(MS);
		CHECK((uintptr_t)claim.data % 8 == 0 && claim.len == len);
		memcpy(claim.data, bytes, len);
		if (number % 7 == 6) { /* others may be claimed and committed before */
			struct thmq_claim other;

			if (thmq_claim(p, NULL, 5000, &other) == 0)
				CHECK(thmq_abort(p, &other) == 0);
		}
		while ((seq = thmq_commit(p, &claim)) == -EAGAIN)
			drive(MS);
	}
	CHECK(seq > 0);
}

static void check_packed(const struct thmq_message *m, uint32_t number)
{
	static uint8_t bytes[1000000];
	uint32_t len = len_packed(number);

	fill_packed(bytes, len, number, number % 5 % 3);
	CHECK(m->len == len && memcmp(m->data, bytes, len) == 0);
	CHECK(m->key_len == (number % 2 ? 4u : 0u) && m->tag_len == (number % 3 ? 3u : 0u));
	CHECK(has_text(m, "n", "packed") == (number % 4 == 0));
}

static void packed_by(const char *topic, uint32_t codec)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_message m[16];
	uint32_t sent = 0, got = 0, i;
	int n, rc;

	CHECK(thmq_topic_create(s, topic, NULL) == 0);
	rc = thmq_producer_open(s, topic, THMQ_PRODUCER_OPTS(.compression = codec), &p);
	if (rc == -EOPNOTSUPP) { /* this machine has it not */
		CHECK(thmq_session_close(s, SECOND) == 0);
		return;
	}
	CHECK(rc == 0);
	CHECK(thmq_consumer_open(s, topic, NULL, THMQ_CONSUMER_OPTS(.prefetch_bytes = 2 << 20), &c) == 0);
	while (got < 90) {
		if (sent < 90)
			put_packed(p, sent++);
		n = thmq_fetch(c, m, 16);
		CHECK(n >= 0);
		if (!n)
			drive(MS);
		for (i = 0; i < (uint32_t)n; i++)
			check_packed(&m[i], got++);
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static void packed(void)
{
	packed_by("lz4", THMQ_COMPRESSION_LZ4);
	packed_by("zstd", THMQ_COMPRESSION_ZSTD);
}

/* What is small when it comes, and large in the app's hands: there is a bound to that too. */
static void packed_held(void)
{
	static uint8_t zeros[500000];
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_message m[64];
	struct thmq_event e;
	uint32_t held = 0, got = 0, i;
	int n;

	CHECK(thmq_topic_create(s, "small", NULL) == 0);
	n = thmq_producer_open(s, "small", THMQ_PRODUCER_OPTS(.compression = THMQ_COMPRESSION_ZSTD), &p);
	if (n == -EOPNOTSUPP) {
		CHECK(thmq_session_close(s, SECOND) == 0);
		return;
	}
	CHECK(n == 0 && thmq_consumer_open(s, "small", NULL, THMQ_CONSUMER_OPTS(.prefetch_bytes = 2 << 20), &c) == 0);
	for (i = 0; i < 40; i++) {
		zeros[0] = (uint8_t)i;
		while (thmq_send(p, zeros, sizeof(zeros), NULL) == -EAGAIN)
			drive(MS);
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	while (got < 40) {
		n = thmq_fetch(c, m + held, 1);
		if (n == 0) {
			drive(MS);
			continue;
		}
		if (n == 1) {
			CHECK(m[held].len == sizeof(zeros) && *(const uint8_t *)m[held].data == got);
			held++;
			got++;
			CHECK(held <= 5);
			continue;
		}
		CHECK(n == -ENOBUFS && held >= 4);
		CHECK(next_event(s, THMQ_EVENT_STALLED, &e, SECOND));
		CHECK(thmq_release(c, m, held) == 0);
		held = 0;
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* With all else that a message may have: a time to come, a filter that looks at its headers, parts, members that share. */
static void packed_among_others(void)
{
	static uint8_t bytes[1900000];
	const struct thmq_header north = text("region", "north"), south = text("region", "south");
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.window_bytes = 8 << 20));
	struct thmq_message_opts o = {.size = sizeof(o), .key = "key", .key_len = 3, .header_count = 1};
	uint64_t x = 88172645463325252ull;
	struct thmq_consumer *c, *worker;
	struct thmq_producer *p;
	struct thmq_message m;
	uint32_t i;
	int rc;

	for (i = 0; i < sizeof(bytes); i++) { /* three quarters of it are left: more than a batch */
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		bytes[i] = (uint8_t)(x % 64);
	}
	CHECK(thmq_topic_create(s, "all", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT)) == 0);
	rc = thmq_producer_open(s, "all", THMQ_PRODUCER_OPTS(.compression = THMQ_COMPRESSION_ZSTD), &p);
	if (rc == -EOPNOTSUPP) {
		CHECK(thmq_session_close(s, SECOND) == 0);
		return;
	}
	CHECK(rc == 0);
	CHECK(thmq_consumer_open(s, "all", NULL, THMQ_CONSUMER_OPTS(.filter = "region = 'north'"), &c) == 0);
	CHECK(thmq_consumer_open(s, "all", "workers", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &worker) == 0);
	for (i = 0; i < 6; i++) {
		o.headers = i % 2 ? &south : &north;
		o.delay_ns = i == 4 ? 20 * MS : 0;
		CHECK(thmq_send(p, bytes, i == 2 ? sizeof(bytes) : 2000, &o) == i + 1);
		CHECK(thmq_flush(p, 10 * SECOND) == 0);
	}
	for (i = 0; i < 3; i++) {
		take(s, c, &m);
		CHECK(has_text(&m, "region", "north") && m.key_len == 3);
		CHECK(m.len == (i == 1 ? sizeof(bytes) : 2000) && memcmp(m.data, bytes, m.len) == 0);
		CHECK(m.span == (i == 1 ? 2u : 1u));
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	for (i = 0; i < 6; i++) {
		take(s, worker, &m);
		CHECK(m.len >= 2000 && memcmp(m.data, bytes, m.len) == 0);
		CHECK(thmq_ack(worker, &m) == 0 && thmq_release(worker, &m, 1) == 0);
	}
	CHECK(thmq_consumer_flush(worker, 30 * SECOND) == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* ------------------------------------------------------------------ compaction */

static void compacted(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_message_opts o = {.size = sizeof(o), .key = "key", .key_len = 3};
	struct thmq_key_info newest = {.size = sizeof(newest)};
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_message m;
	uint32_t i;

	CHECK(thmq_topic_create(s, "latest",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT, .tombstone_ns = 7 * SECOND)) == 0);
	CHECK(thmq_topic_describe(s, "latest", &info) == 0);
	CHECK(info.flags == THMQ_TOPIC_COMPACT && info.tombstone_ns == 7 * SECOND);
	CHECK(thmq_topic_create(s, "latest-day", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT)) == 0);
	CHECK(thmq_topic_describe(s, "latest-day", &info) == 0 && info.tombstone_ns == 86400 * SECOND);
	CHECK(thmq_topic_create(s, "wrong", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT | THMQ_TOPIC_VOLATILE)) == -EINVAL);
	CHECK(thmq_topic_create(s, "wrong", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT | THMQ_TOPIC_RETAIN_CONSUMED)) == -EINVAL);
	CHECK(thmq_topic_create(s, "wrong", THMQ_TOPIC_OPTS(.tombstone_ns = 1)) == -EINVAL);
	CHECK(thmq_topic_create(s, "wrong", THMQ_TOPIC_OPTS(.volatile_bytes = 1 << 20)) == -EINVAL); /* the flag was forgotten */
	CHECK(thmq_producer_open(s, "latest", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "latest", NULL, NULL, &c) == 0);
	for (i = 0; i < 3; i++)
		CHECK(thmq_send(p, "value", i < 2 ? 5 : 0, &o) == i + 1);
	for (i = 0; i < 3; i++) { /* until it is compacted all of it is there, and that the key was deleted */
		take(s, c, &m);
		CHECK(m.offset == i && m.len == (i < 2 ? 5u : 0u) && m.key_len == 3);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_key_find(s, "latest", 0, "key", 3, UINT64_MAX, &newest) == 0 && newest.offset == 2);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, 1) == 0);
	take(s, c, &m);
	CHECK(m.offset == 1);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* Two at once, who each want the same counter to go up by one: no step is lost, and none is made twice. */
static void two_writers(void)
{
	struct thmq_session *s[2] = {session_of(NULL), session_of(NULL)};
	struct thmq_message_opts o = {
		.size = sizeof(o), .flags = THMQ_MESSAGE_EXPECT_KEY, .key = "n", .key_len = 1};
	uint64_t version[2] = {UINT64_MAX, UINT64_MAX};
	uint32_t made[2] = {0}, who;
	struct thmq_producer *p[2];
	struct thmq_event e;
	int64_t seq[2];
	int rc;

	CHECK(thmq_topic_create(s[0], "two", NULL) == 0);
	for (who = 0; who < 2; who++)
		CHECK(thmq_producer_open(s[who], "two",
					 THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT),
					 &p[who]) == 0);
	while (made[0] + made[1] < 60) {
		for (who = 0; who < 2; who++) {
			o.expected = version[who];
			seq[who] = thmq_send(p[who], "x", 1, &o);
			CHECK(seq[who] > 0);
		}
		rc = 0;
		for (who = 0; who < 2; who++) {
			if (thmq_flush(p[who], 30 * SECOND) == 0) {
				CHECK(next_event(s[who], THMQ_EVENT_SETTLED, &e, SECOND) &&
				      e.sequence == (uint64_t)seq[who]);
				made[who]++;
				rc++;
			} else {
				CHECK(next_event(s[who], THMQ_EVENT_FAILED, &e, SECOND) &&
				      e.error == -THMQ_ECONFLICT);
				CHECK(e.sequence == (uint64_t)seq[who]);
			}
			version[who] = e.offset;
		}
		CHECK(rc <= 1 || version[0] != version[1]);
	}
	CHECK(end_of(s[0], "two") == 60);
	/* who does not flush hears by an event that it was refused, and by the close */
	o.expected = 12345;
	CHECK(thmq_send(p[1], "x", 1, &o) > 0 && next_event(s[1], THMQ_EVENT_FAILED, &e, 30 * SECOND));
	CHECK(thmq_session_close(s[1], SECOND) == -EIO && strstr(thmq_errmsg(), "thmq_flush()"));
	CHECK(thmq_session_close(s[0], SECOND) == 0);
}

/* -------------------------------------------------------------------- delayed */

static uint64_t wall(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t waiting(struct thmq_session *s, const char *topic, uint32_t partitions)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t n = 0;
	uint32_t i;

	for (i = 0; i < partitions; i++) {
		CHECK(thmq_partition_describe(s, topic, i, NULL, &info) == 0);
		n += info.delayed;
	}
	return n;
}

/* In the order of their times, none early, as they were sent; one of them is called off. */
static void delayed(void)
{
	static const uint64_t delays[] = {90, 30, 0, 60, 3600000};
	struct thmq_session *s = session_of(NULL);
	struct thmq_header h = {"n", "x", 1, THMQ_HEADER_TEXT};
	uint64_t begin = wall(), due[5];
	struct thmq_producer *p, *ring;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e, far = {0};
	bool came[4] = {false};
	uint32_t i;

	CHECK(thmq_topic_create(s, "later", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_topic_create(s, "ring", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_producer_open(s, "later", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p) == 0);
	CHECK(thmq_producer_open(s, "ring", NULL, &ring) == 0);
	CHECK(thmq_consumer_open(s, "later", NULL, NULL, &c) == 0);
	CHECK(thmq_send(ring, "x", 1, THMQ_MESSAGE_OPTS(.delay_ns = 1)) == -ENOTSUP);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.delay_ns = 1, .deliver_at_ns = 1)) == -EINVAL);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.delay_ns = 1, .flags = THMQ_MESSAGE_EXPECT_END)) == -EINVAL);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.delay_ns = UINT64_MAX)) == -EINVAL);
	for (i = 0; i < 5; i++) {
		due[i] = begin + delays[i] * MS;
		CHECK(thmq_send(p, &due[i], 8,
				THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 1, .key = "key", .key_len = 3,
						  .tag = i % 2 ? "tag" : NULL, .headers = &h, .header_count = i % 2,
						  .deliver_at_ns = i % 2 ? (int64_t)due[i] : 0,
						  .delay_ns = i % 2 ? 0 : delays[i] * MS + 1)) == i + 1);
		CHECK(next_event(s, THMQ_EVENT_SETTLED, &e, 10 * SECOND) && e.partition == 1 && e.offset != UINT64_MAX);
		CHECK(e.sequence == i + 1);
		far = e;
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(waiting(s, "later", 2) >= 1);
	CHECK(thmq_delayed_cancel(s, "later", 0, far.offset) == -ENOENT); /* it is none of that one's */
	CHECK(thmq_delayed_cancel(s, "later", 2, far.offset) == -THMQ_ENOPARTITION);
	CHECK(thmq_delayed_cancel(s, "nowhere", 0, far.offset) == -THMQ_ENOTOPIC);
	CHECK(thmq_delayed_cancel(s, "later", 1, far.offset + 1) == -ENOENT);
	CHECK(thmq_delayed_cancel(s, "ring", 0, 0) == -ENOTSUP);
	CHECK(thmq_delayed_cancel(s, "later", 1, far.offset) == 0);
	CHECK(thmq_delayed_cancel(s, "later", 1, far.offset) == -ENOENT);
	for (i = 0; i < 4; i++) {
		uint32_t k = 0;

		take(s, c, &m);
		while (k < 4 && (m.len != 8 || memcmp(m.data, &due[k], 8) != 0))
			k++;
		CHECK(k < 4 && !came[k] && m.partition == 1 && m.offset == i);
		CHECK(k != 3 || came[1]); /* those with times: in their order, however long it took to send them */
		came[k] = true;
		CHECK(wall() >= due[k] && (uint64_t)m.time_ns >= due[k]);
		CHECK(m.key_len == 3 && memcmp(m.key, "key", 3) == 0 && m.tag_len == (k % 2 ? 3 : 0));
		CHECK(has_text(&m, "n", "x") == (k % 2 == 1));
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(waiting(s, "later", 2) == 0);
	CHECK(fetch(s, c, &m, 1, 50 * MS) == 0);
	/* its own time, and one that is as long as may be, and one that is longer */
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = 5, .delay_ns = MS)) == 6);
	take(s, c, &m);
	CHECK(m.time_ns == 5 && is_payload(&m, "x"));
	CHECK(thmq_release(c, &m, 1) == 0);
	{
		static uint8_t large[2 << 20];
		uint32_t len = 1 << 20;

		while (thmq_send(p, large, len, THMQ_MESSAGE_OPTS(.delay_ns = MS)) == -EMSGSIZE)
			len--;
		CHECK(len > (1 << 20) - 1024);
		take(s, c, &m);
		CHECK(m.len == len);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* What became due while no broker had the directory open: once nothing is due any more all of it is seen. */
static void due_meanwhile(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t begin, end = now() + 60 * SECOND;
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_topic_create(s, "later", NULL) == 0 && thmq_producer_open(s, "later", NULL, &p) == 0);
	CHECK(thmq_partition_describe(s, "later", 0, NULL, &info) == 0 && info.due_ns == UINT64_MAX);
	begin = wall();
	for (i = 0; i < 50; i++)
		CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.deliver_at_ns = (int64_t)(begin + SECOND + i))) == i + 1);
	CHECK(thmq_send(p, "far", 3, THMQ_MESSAGE_OPTS(.deliver_at_ns = (int64_t)(begin + 3600 * SECOND))) == 51);
	CHECK(thmq_flush(p, 30 * SECOND) == 0 && thmq_session_close(s, SECOND) == 0);
	down();
	while (wall() < begin + SECOND + 50)
		usleep(10000);
	up();
	s = session_of(NULL);
	do {
		CHECK(now() < end && thmq_partition_describe(s, "later", 0, NULL, &info) == 0);
		CHECK(info.due_ns <= begin + 3600 * SECOND);
	} while (info.due_ns < begin + 3600 * SECOND && thmq_session_wait(s, MS) >= 0);
	CHECK(info.end_offset - info.begin_offset == 50 && info.delayed == 1 && info.due_ns == begin + 3600 * SECOND);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static const struct test_case cases[] = {
	{"delayed", delayed},
	{"due_meanwhile", due_meanwhile},
	{"expected_ends", expected_ends},
	{"expected_keys", expected_keys},
	{"two_writers", two_writers},
	{"times_to_live_of_a_topic", times_to_live_of_a_topic},
	{"times_to_live_in_a_shared_group", times_to_live_in_a_shared_group},
	{"some_tags", some_tags},
	{"large_messages", large_messages},
	{"large_messages_held", large_messages_held},
	{"the_largest", the_largest},
	{"headers", headers},
	{"packed", packed},
	{"packed_held", packed_held},
	{"packed_among_others", packed_among_others},
	{"compacted", compacted},
	{"times_to_live", times_to_live},
};

int main(int argc, char **argv)
{
	return contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
