/* SPDX-License-Identifier: Apache-2.0 */
/*
 * selecting_contract_test.c - what one asks of a broker beside sending and fetching, over any medium: only messages of which an expression
 * is true, answers to requests, and what becomes of groups.
 *
 * usage: selecting_contract_test MEDIUM [case …]; MEDIUM as of transport_contract_test.c.
 */
#include "contract.h"

static bool is_full_run(void)
{
	const char *full = getenv("THMQ_TEST_FULL");

	return full && strcmp(full, "0") != 0;
}

static void take(struct thmq_session *s, struct thmq_consumer *c, struct thmq_message *m)
{
	CHECK(fetch(s, c, m, 1, 10 * SECOND) == 1);
}

static struct thmq_partition_info stands(struct thmq_session *s, const char *topic, uint32_t partition, const char *group)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(s, topic, partition, group, &info) == 0);
	return info;
}

static void end_session(struct thmq_session *s)
{
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static void comes_to_its_end(struct thmq_session *s, struct thmq_consumer *c, const char *topic, const char *group)
{
	uint64_t end = now() + 10 * SECOND;
	struct thmq_message m;

	while (stands(s, topic, 0, group).lag && now() < end) {
		CHECK(!c || thmq_fetch(c, &m, 1) == 0);
		thmq_session_wait(s, 5 * MS);
	}
	CHECK(stands(s, topic, 0, group).lag == 0);
}

/* ------------------------------------------------------------------- filters */

/* Message number i: its price is i % 20, of every third the region is in the east; every fifth has no headers. */
static void send_numbered(struct thmq_producer *p, uint32_t from, uint32_t to, bool flushes)
{
	uint32_t i;

	for (i = from; i < to; i++) {
		int64_t price = i % 20;
		const struct thmq_header h[] = {{"price", &price, 8, THMQ_HEADER_INT},
						{"region", i % 3 ? "eu-west" : "as-east", 7, THMQ_HEADER_TEXT}};
		const struct thmq_message_opts o = {.size = sizeof(o),
						    .headers = h,
						    .header_count = i % 5 ? 2 : 0,
						    .tag = i % 2 ? "odd" : "even",
						    .key = &i,
						    .key_len = 4};

		while (thmq_send(p, &i, 4, &o) == -EAGAIN)
			drive(MS);
		if (flushes || i % 64 == 63)
			CHECK(thmq_flush(p, 30 * SECOND) == 0);
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
}

static bool is_dear(uint32_t i)
{
	return i % 5 && i % 20 > 10 && i % 3;
}

static bool is_odd_and_cheap(uint32_t i)
{
	return i % 2 && i % 5 && i % 20 < 4;
}

static bool has_no_price(uint32_t i)
{
	return i % 5 == 0;
}

/* All that are wanted come, in their order, and nothing else. */
static void expect_only(struct thmq_session *s, struct thmq_consumer *c, bool (*wanted)(uint32_t i), uint32_t from, uint32_t to, bool acks)
{
	struct thmq_message m[16];
	uint32_t next = from, is;
	int n, k;

	for (;;) {
		while (next < to && !wanted(next))
			next++;
		if (next == to)
			break;
		n = fetch(s, c, m, 16, 10 * SECOND);
		CHECK(n > 0);
		for (k = 0; k < n; k++, next++) {
			while (next < to && !wanted(next))
				next++;
			CHECK(next < to && m[k].len == 4);
			memcpy(&is, m[k].data, 4);
			CHECK(is == next);
			CHECK(!acks || thmq_ack(c, &m[k]) == 0);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	CHECK(fetch(s, c, m, 16, 20 * MS) == 0);
}

static void filters_in(struct thmq_session *s, const char *topic, const struct thmq_topic_opts *opts)
{
	static const char *const odd[] = {"odd", "other"};
	const uint32_t count = is_full_run() ? 20000 : 2000;
	struct thmq_consumer *dear, *cheap, *none, *never;
	struct thmq_producer *p;
	struct thmq_message m;

	CHECK(thmq_topic_create(s, topic, opts) == 0);
	CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
	send_numbered(p, 0, 50, true); /* runs of one each, before anybody reads, then runs of many */
	CHECK(thmq_consumer_open(s, topic, NULL, THMQ_CONSUMER_OPTS(.filter = "price > 10 AND region LIKE 'eu%'"), &dear) == 0);
	CHECK(thmq_consumer_open(s, topic, "cheap", THMQ_CONSUMER_OPTS(.filter = "price BETWEEN 0 AND 3", .tags = odd, .tag_count = 2),
				 &cheap) == 0);
	CHECK(thmq_consumer_open(s, topic, "none", THMQ_CONSUMER_OPTS(.filter = "price IS NULL"), &none) == 0);
	CHECK(thmq_consumer_open(s, topic, "never", THMQ_CONSUMER_OPTS(.filter = "TAG = 'neither' AND price > 3"), &never) == 0);
	send_numbered(p, 50, count, false);
	expect_only(s, dear, is_dear, 0, count, false);
	expect_only(s, cheap, is_odd_and_cheap, 0, count, true);
	expect_only(s, none, has_no_price, 0, count, true);
	/* what was filtered away behind the last that was acknowledged is done, too; and where nothing is wanted, all */
	comes_to_its_end(s, cheap, topic, "cheap");
	comes_to_its_end(s, none, topic, "none");
	comes_to_its_end(s, never, topic, "never");
	/* of what comes one by one, as well */
	send_numbered(p, count, count + 30, true);
	comes_to_its_end(s, never, topic, "never");
	expect_only(s, cheap, is_odd_and_cheap, count, count + 30, false);
	CHECK(stands(s, topic, 0, "cheap").lag > 0); /* these it has, and did not acknowledge */
	CHECK(thmq_seek(dear, 0, THMQ_START_OFFSET, stands(s, topic, 0, NULL).end_offset - 9) == 0);
	expect_only(s, dear, is_dear, count + 21, count + 30, false);
	CHECK(thmq_consumer_close(cheap, 30 * SECOND) == 0);
	CHECK(thmq_consumer_open(s, topic, "cheap", NULL, &cheap) == 0); /* all again that it did not acknowledge */
	take(s, cheap, &m);
	CHECK(m.offset == stands(s, topic, 0, "cheap").group_offset);
	CHECK(thmq_consumer_close(dear, 30 * SECOND) == 0 && thmq_consumer_close(cheap, 30 * SECOND) == 0);
	CHECK(thmq_consumer_close(none, 30 * SECOND) == 0 && thmq_consumer_close(never, 30 * SECOND) == 0);
	CHECK(thmq_producer_close(p, SECOND) == 0);
}

/* It comes to the end, though nothing is handed out. */
static void passes_all(struct thmq_session *s, const char *topic, const struct thmq_consumer_opts *opts)
{
	const uint64_t end = stands(s, topic, 0, NULL).end_offset, until = now() + 10 * SECOND;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t at = 0;

	CHECK(thmq_consumer_open(s, topic, NULL, opts, &c) == 0);
	while (at < end && now() < until) {
		CHECK(thmq_fetch(c, &m, 1) == 0);
		CHECK(thmq_consumer_position(c, 0, &at) == 0 && at <= end);
		thmq_session_wait(s, 5 * MS);
	}
	CHECK(at == end);
	CHECK(thmq_consumer_close(c, 30 * SECOND) == 0);
}

/* How far one is: what it was handed and has not fetched is before it, what is not wanted behind. */
static void positions_in(struct thmq_session *s, const char *topic, const struct thmq_topic_opts *opts)
{
	static const char *const nobodys[] = {"neither"};
	struct thmq_consumer *c, *mine, *shared;
	struct thmq_producer *p;
	struct thmq_message m;
	uint64_t at = 77;

	CHECK(thmq_topic_create(s, topic, opts) == 0);
	CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, topic, NULL, NULL, &c) == 0);
	CHECK(thmq_consumer_position(c, 0, &at) == 0 && at == 0);
	send_numbered(p, 0, 200, false);
	passes_all(s, topic, THMQ_CONSUMER_OPTS(.filter = "price > 100"));
	passes_all(s, topic, THMQ_CONSUMER_OPTS(.tags = nobodys, .tag_count = 1));
	CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1 && m.offset == 0);
	thmq_session_wait(s, 20 * MS); /* more is handed over meanwhile */
	CHECK(thmq_consumer_position(c, 0, &at) == 0 && at == 1);
	CHECK(thmq_release(c, &m, 1) == 0);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, 150) == 0);
	CHECK(thmq_consumer_position(c, 0, &at) == 0 && at == 150);
	CHECK(thmq_consumer_position(c, 1, &at) == -THMQ_ENOPARTITION && thmq_consumer_position(NULL, 0, &at) == -EINVAL);
	CHECK(thmq_consumer_position(c, 0, NULL) == -EINVAL && at == 150);
	CHECK(thmq_consumer_open(s, topic, "one", NULL, &mine) == 0);
	take(s, mine, &m);
	CHECK(thmq_consumer_position(mine, 0, &at) == 0 && at == 1);
	CHECK(thmq_consumer_close(mine, 30 * SECOND) == 0 && thmq_consumer_position(mine, 0, &at) == -EINVAL);
	if (!opts) {
		CHECK(thmq_consumer_open(s, topic, "all", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &shared) == 0);
		CHECK(thmq_consumer_position(shared, 0, &at) == -EOPNOTSUPP);
		CHECK(thmq_consumer_close(shared, 30 * SECOND) == 0);
	}
	CHECK(thmq_consumer_close(c, 30 * SECOND) == 0 && thmq_producer_close(p, SECOND) == 0);
}

static void positions(void)
{
	struct thmq_session *s = session_of(NULL);

	positions_in(s, "logged", NULL);
	positions_in(s, "volatile", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 8 << 20));
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static void filters(void)
{
	struct thmq_session *s = session_of(NULL);

	filters_in(s, "logged", NULL);
	filters_in(s, "volatile", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 8 << 20));
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static void filters_that_make_no_sense(void)
{
	struct thmq_session *s = session_of(NULL);
	char longest[THMQ_FILTER_MAX + 2];
	struct thmq_consumer *c;
	uint32_t at = 77;

	CHECK(thmq_topic_create(s, "t", NULL) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.filter = "price >> 10"), &c) == -EINVAL);
	CHECK(strstr(thmq_errmsg(), "character 8"));
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.filter = ""), &c) == -EINVAL);
	CHECK(thmq_filter_check("price > 10 AND", &at) == -EINVAL && at == 14);
	CHECK(thmq_filter_check("price > 10", &at) == 0 && at == 14 && thmq_filter_check("price > 10", NULL) == 0);
	CHECK(thmq_filter_check(NULL, &at) == -EINVAL);
	memset(longest, ' ', sizeof(longest));
	memcpy(longest, "price = 'x'", 11);
	longest[THMQ_FILTER_MAX + 1] = 0;
	CHECK(thmq_filter_check(longest, &at) == -EINVAL && at == THMQ_FILTER_MAX);
	longest[THMQ_FILTER_MAX] = 0; /* in a ring that is shorter */
	CHECK(thmq_session_close(s, SECOND) == 0);
	s = session_of(THMQ_SESSION_OPTS(.window_count = 16));
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.filter = longest), &c) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* Each that is wanted goes to one member, and what is not counts as done. */
static void filters_in_a_shared_group(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c[2];
	struct thmq_producer *p;
	struct thmq_message m;
	uint32_t wanted = 0, got = 0, i, is;
	uint64_t end = now() + 20 * SECOND;

	CHECK(thmq_topic_create(s, "t", NULL) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	for (i = 0; i < 2; i++)
		CHECK(thmq_consumer_open(s, "t", "g",
					 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .prefetch_count = 16,
							    .filter = "price > 10 AND region LIKE 'eu%'"),
					 &c[i]) == 0);
	send_numbered(p, 0, 20, true);
	send_numbered(p, 20, 1000, false);
	for (i = 0; i < 1000; i++)
		wanted += is_dear(i);
	while (got < wanted) {
		CHECK(now() < end);
		if (thmq_fetch(c[got % 2], &m, 1) != 1 && thmq_fetch(c[(got + 1) % 2], &m, 1) != 1) {
			thmq_session_wait(s, MS);
			continue;
		}
		memcpy(&is, m.data, 4);
		CHECK(is_dear(is));
		i = m.internal[1] >> 48 == 0x7400 ? 0 : 1; /* whose it is: acks go by the consumer that fetched */
		CHECK(thmq_ack(c[i], &m) == 0 || thmq_ack(c[1 - i], &m) == 0);
		CHECK(thmq_release(c[0], &m, 1) == 0 || thmq_release(c[1], &m, 1) == 0);
		got++;
	}
	CHECK(thmq_consumer_flush(c[0], 30 * SECOND) == 0 && thmq_consumer_flush(c[1], 30 * SECOND) == 0);
	while (stands(s, "t", 0, "g").lag && now() < end) {
		CHECK(thmq_fetch(c[0], &m, 1) == 0 && thmq_fetch(c[1], &m, 1) == 0);
		thmq_session_wait(s, 5 * MS);
	}
	CHECK(stands(s, "t", 0, "g").lag == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* A message in parts is asked as a whole: its headers lie in the first part, and one that is not wanted is no parts either. */
static void filters_of_large_messages(void)
{
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.window_bytes = 8 << 20));
	const uint32_t len = (2u << 20) + 100;
	uint8_t *data = calloc(1, len);
	struct thmq_consumer *c, *g;
	struct thmq_producer *p;
	struct thmq_message m;
	int64_t number;

	CHECK(data && thmq_topic_create(s, "t", NULL) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.filter = "number % 2 = 0"), &c) == 0);
	CHECK(thmq_consumer_open(s, "t", "g", THMQ_CONSUMER_OPTS(.filter = "number % 2 = 0"), &g) == 0);
	for (number = 0; number < 8; number++) {
		const struct thmq_header h = {"number", &number, 8, THMQ_HEADER_INT};

		memcpy(data, &number, 8);
		while (thmq_send(p, data, number % 3 ? len : 8, THMQ_MESSAGE_OPTS(.headers = &h, .header_count = 1)) == -EAGAIN)
			drive(MS);
	}
	for (number = 0; number < 8; number += 2) {
		take(s, c, &m);
		CHECK(memcmp(m.data, &number, 8) == 0 && m.len == (number % 3 ? len : 8));
		CHECK(thmq_release(c, &m, 1) == 0);
		take(s, g, &m);
		CHECK(memcmp(m.data, &number, 8) == 0 && thmq_ack(g, &m) == 0);
		CHECK(thmq_release(g, &m, 1) == 0);
	}
	CHECK(fetch(s, c, &m, 1, 20 * MS) == 0);
	comes_to_its_end(s, g, "t", "g");
	free(data);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* -------------------------------------------------------- requests and replies */

/* Answers what there is; with its own number doubled. Return: how many. */
static uint32_t answer_all(struct thmq_session *s, struct thmq_consumer *c)
{
	struct thmq_message m[8];
	uint32_t i, number;
	int n = thmq_fetch(c, m, 8);
	int64_t rc;

	CHECK(n >= 0);
	for (i = 0; i < (uint32_t)n; i++) {
		memcpy(&number, m[i].data, 4);
		number *= 2;
		while ((rc = thmq_reply(s, &m[i], &number, 4, THMQ_MESSAGE_OPTS(.tag = "answer"))) == -EAGAIN)
			thmq_session_wait(s, MS);
		CHECK(rc > 0);
		CHECK(thmq_ack(c, &m[i]) == 0 && thmq_release(c, &m[i], 1) == 0);
	}
	return (uint32_t)n;
}

static void requests(void)
{
	const uint32_t count = is_full_run() ? 2000 : 200;
	struct thmq_session *s[2] = {session_of(NULL), session_of(NULL)}, *server = session_of(NULL);
	struct thmq_response r[8];
	struct thmq_producer *p[2];
	struct thmq_consumer *c;
	struct thmq_topic_info topics[16] = {{.size = sizeof(topics[0])}};
	uint32_t sent[2] = {0}, got[2] = {0}, who, i, is;
	uint64_t end = now() + 30 * SECOND;
	int64_t id;
	int n;

	CHECK(thmq_topic_create(s[0], "work", NULL) == 0);
	CHECK(thmq_consumer_open(server, "work", "servers", NULL, &c) == 0);
	for (who = 0; who < 2; who++)
		CHECK(thmq_producer_open(s[who], "work", NULL, &p[who]) == 0);
	CHECK(thmq_responses(s[0], r, 8) == 0); /* nothing was asked */
	while (got[0] < count || got[1] < count) {
		CHECK(now() < end);
		for (who = 0; who < 2; who++) {
			if (sent[who] < count) {
				id = thmq_request(p[who], &sent[who], 4, NULL, 20 * SECOND, (void *)(uintptr_t)(sent[who] + 1));
				CHECK(id > 0 || id == -EAGAIN);
				sent[who] += id > 0;
			}
			n = thmq_responses(s[who], r, 8);
			CHECK(n >= 0);
			for (i = 0; i < (uint32_t)n; i++, got[who]++) {
				memcpy(&is, r[i].message.data, 4);
				CHECK(is == 2 * ((uintptr_t)r[i].cookie - 1) && r[i].message.tag_len == 6);
			}
			CHECK(thmq_response_release(s[who], r, (uint32_t)n) == 0);
		}
		if (!answer_all(server, c))
			drive(MS);
		thmq_session_wait(s[0], 0);
	}
	/* each has one topic of its own, which goes with it */
	CHECK(thmq_topic_list(s[0], topics, 16) == 3);
	CHECK(thmq_session_close(s[1], 30 * SECOND) == 0);
	CHECK(thmq_topic_list(s[0], topics, 16) == 2);
	CHECK(thmq_session_close(s[0], 30 * SECOND) == 0);
	CHECK(thmq_topic_list(server, topics, 16) == 1);
	CHECK(thmq_session_close(server, 30 * SECOND) == 0);
}

/* What is not answered in time is told once, and its answer is none any more. */
static void requests_that_expire(void)
{
	struct thmq_session *s = session_of(NULL), *server = session_of(NULL);
	uint32_t number = 21, is;
	struct thmq_response r;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m, plain;
	struct thmq_event e;
	int64_t id;
	int rc;

	CHECK(thmq_topic_create(s, "work", NULL) == 0);
	CHECK(thmq_producer_open(s, "work", NULL, &p) == 0);
	CHECK(thmq_consumer_open(server, "work", NULL, NULL, &c) == 0);
	CHECK(thmq_send(p, "x", 1, NULL) > 0);
	take(server, c, &plain);
	CHECK(thmq_reply(server, &plain, "x", 1, NULL) == -ENOENT); /* it is no request */
	id = thmq_request(p, &number, 4, NULL, 50 * MS, &number);
	CHECK(id > 0);
	CHECK(next_event(s, THMQ_EVENT_REQUEST_EXPIRED, &e, 10 * SECOND));
	CHECK(e.sequence == (uint64_t)id && e.cookie == &number && e.error == -ETIMEDOUT);
	take(server, c, &m);
	CHECK(thmq_reply(server, &m, "late", 4, NULL) > 0);
	CHECK(thmq_reply(server, &m, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION)) == -EINVAL);
	CHECK(thmq_call(p, &number, 4, NULL, 100 * MS, &r) == -ETIMEDOUT);
	CHECK(strcmp(thmq_errmsg(), "call: no answer came in time") == 0);
	CHECK(thmq_responses(s, &r, 1) == 0);
	CHECK(thmq_events(s, &e, 1) == 0); /* the call has told it */
	CHECK(thmq_release(c, &m, 1) == 0);
	/* answered twice: the first counts */
	take(server, c, &m);
	CHECK(thmq_release(c, &m, 1) == 0);
	id = thmq_request(p, &number, 4, NULL, 10 * SECOND, NULL);
	CHECK(id > 0);
	take(server, c, &m);
	CHECK(thmq_reply(server, &m, &number, 4, NULL) > 0 && thmq_reply(server, &m, "again", 5, NULL) > 0);
	while ((rc = thmq_responses(s, &r, 1)) == 0)
		thmq_session_wait(s, SECOND);
	CHECK(rc == 1 && r.request == (uint64_t)id && r.message.len == 4);
	memcpy(&is, r.message.data, 4);
	CHECK(is == 21);
	CHECK(thmq_response_release(s, &r, 1) == 0 && thmq_response_release(s, &r, 1) == -EINVAL);
	drive(10 * MS);
	CHECK(thmq_responses(s, &r, 1) == 0);
	/* who asked is gone */
	CHECK(thmq_request(p, &number, 4, NULL, 10 * SECOND, NULL) > 0);
	take(server, c, &plain);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	do
		rc = (int)thmq_reply(server, &plain, "x", 1, NULL);
	while (rc >= 0 && thmq_session_wait(server, 5 * MS) >= 0);
	CHECK(rc == -THMQ_ENOTOPIC);
	CHECK(thmq_request(NULL, NULL, 0, NULL, 1, NULL) == -EINVAL && thmq_reply(NULL, &plain, NULL, 0, NULL) == -EINVAL);
	CHECK(thmq_session_close(server, 30 * SECOND) == 0);
}

/* One thread asks, another answers: the asker only waits. */
static struct thmq_env *server_env;
static bool serve_until;

static void *serve_calls(void *arg)
{
	struct thmq_session *s;
	struct thmq_consumer *c;

	(void)arg;
	CHECK(thmq_connect(server_env, url, THMQ_SESSION_OPTS(.tls = tls(false)), &s) == 0);
	CHECK(thmq_consumer_open(s, "calls", "servers", NULL, &c) == 0);
	while (!__atomic_load_n(&serve_until, __ATOMIC_RELAXED)) {
		if (!answer_all(s, c))
			thmq_session_wait(s, 10 * MS);
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	return NULL;
}

static void calls(void)
{
	/* more than a session may have out, beside an answer that nobody takes meanwhile */
	const uint32_t count = is("inproc") || is_full_run() ? THMQ_REQUESTS_MAX + 100 : 50;
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_response r;
	pthread_t thread;
	uint32_t i, answer;
	int64_t id;

	if (is_of("-same") || is_of("-host") || is_of("-two") || is("tls-psk")) /* there the one thread drives all */
		return end_session(s);
	CHECK(thmq_topic_create(s, "calls", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_producer_open(s, "calls", NULL, &p) == 0);
	server_env = away;
	__atomic_store_n(&serve_until, false, __ATOMIC_RELAXED);
	CHECK(pthread_create(&thread, NULL, serve_calls, NULL) == 0);
	i = count;
	id = thmq_request(p, &i, 4, NULL, 60 * SECOND, NULL);
	CHECK(id > 0);
	for (i = 0; i < count; i++) {
		CHECK(thmq_call(p, &i, 4, NULL, 20 * SECOND, &r) == 0);
		memcpy(&answer, r.message.data, 4);
		CHECK(answer == 2 * i && thmq_response_release(s, &r, 1) == 0);
	}
	CHECK(thmq_responses(s, &r, 1) == 1 && r.request == (uint64_t)id);
	memcpy(&answer, r.message.data, 4);
	CHECK(answer == 2 * count && thmq_response_release(s, &r, 1) == 0);
	__atomic_store_n(&serve_until, true, __ATOMIC_RELAXED);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* --------------------------------------------------------------------- groups */

static void sends(struct thmq_producer *p, uint32_t count, uint32_t partitions)
{
	uint32_t i, k;

	for (k = 0; k < partitions; k++)
		for (i = 0; i < count; i++)
			while (thmq_send(p, &i, 4, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = k)) == -EAGAIN)
				drive(MS);
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
}

static struct thmq_group_info about(struct thmq_session *s, const char *topic, const char *group)
{
	struct thmq_group_info info = {.size = sizeof(info)};

	CHECK(thmq_group_describe(s, topic, group, &info) == 0);
	CHECK(strcmp(info.name, group) == 0);
	return info;
}

/* The first message of partition 0 that a new member of the group gets. */
static uint64_t goes_on_at(struct thmq_session *s, const char *topic, const char *group, uint32_t flags)
{
	struct thmq_consumer *c;
	struct thmq_message m;

	CHECK(thmq_consumer_open(s, topic, group, THMQ_CONSUMER_OPTS(.flags = flags), &c) == 0);
	do {
		take(s, c, &m);
		CHECK(thmq_release(c, &m, 1) == 0);
	} while (m.partition);
	CHECK(thmq_consumer_close(c, 30 * SECOND) == 0);
	return m.offset;
}

static void reset_to(struct thmq_session *s, const char *group, uint32_t flags)
{
	uint64_t before;

	CHECK(thmq_group_reset(s, "t", group, 0, THMQ_START_OFFSET, 30, 0) == 0);
	CHECK(stands(s, "t", 0, group).group_offset == 30 && goes_on_at(s, "t", group, flags) == 30);
	CHECK(thmq_group_reset(s, "t", group, 0, THMQ_START_OFFSET, 3000, 0) == -THMQ_EOFFSETRANGE);
	CHECK(stands(s, "t", 0, group).group_offset == 30);
	CHECK(thmq_group_reset(s, "t", group, UINT32_MAX, THMQ_START_BEGIN, 0, 0) == 0);
	CHECK(stands(s, "t", 1, group).lag == 100 && goes_on_at(s, "t", group, flags) == 0);
	CHECK(thmq_group_reset(s, "t", group, 0, THMQ_START_TIME, 1, 0) == 0 && goes_on_at(s, "t", group, flags) == 0);
	CHECK(thmq_group_reset(s, "t", group, UINT32_MAX, THMQ_START_TIME, (uint64_t)INT64_MAX, 0) == 0);
	CHECK(about(s, "t", group).lag == 0);
	CHECK(thmq_group_reset(s, "t", group, 1, THMQ_START_OFFSET, 50, 0) == 0);
	before = about(s, "t", group).lag;
	CHECK(before == 50);
	CHECK(thmq_group_reset(s, "t", group, UINT32_MAX, THMQ_START_END, 0, 0) == 0 && about(s, "t", group).lag == 0);
	CHECK(thmq_group_reset(s, "t", group, 2, THMQ_START_END, 0, 0) == -THMQ_ENOPARTITION);
	CHECK(thmq_group_reset(s, "t", "nobody", 0, THMQ_START_END, 0, 0) == -ENOENT);
	CHECK(thmq_group_reset(s, "nowhere", group, 0, THMQ_START_END, 0, 0) == -THMQ_ENOTOPIC);
	CHECK(thmq_group_reset(s, "t", group, 0, 7, 0, 0) == -EINVAL && thmq_group_reset(s, "t", group, 0, 1, 0, 8) == -EINVAL);
}

static void groups_are_reset(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e;
	uint32_t i;
	int n;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	sends(p, 100, 2);
	CHECK(goes_on_at(s, "t", "g", 0) == 0);
	reset_to(s, "g", 0);
	CHECK(goes_on_at(s, "t", "shared", THMQ_CONSUMER_SHARED) == 0);
	reset_to(s, "shared", THMQ_CONSUMER_SHARED);
	CHECK(about(s, "t", "shared").flags == THMQ_GROUP_IS_SHARED && about(s, "t", "g").flags == 0);
	/* one that has members is not, unless by force: then these are told, and what they say of it counts no more */
	CHECK(thmq_group_reset(s, "t", "g", 0, THMQ_START_BEGIN, 0, 0) == 0);
	CHECK(thmq_consumer_open(s, "t", "g", NULL, &c) == 0);
	take(s, c, &m);
	CHECK(thmq_group_reset(s, "t", "g", 0, THMQ_START_OFFSET, 10, 0) == -EBUSY);
	CHECK(thmq_group_delete(s, "t", "g", 0) == -EBUSY);
	CHECK(about(s, "t", "g").member_count == 1 && about(s, "t", "g").reader_count == 2);
	CHECK(thmq_group_reset(s, "t", "g", 0, THMQ_START_OFFSET, 10, THMQ_GROUP_FORCE) == 0);
	CHECK(next_event(s, THMQ_EVENT_REVOKED, &e, 5 * SECOND));
	n = thmq_ack(c, &m);
	CHECK(n == 0 || n == -THMQ_EFENCED);
	for (n = 0, i = 0; n != -THMQ_EFENCED && i < 1000; i++) {
		n = thmq_fetch(c, &m, 1);
		thmq_session_wait(s, n < 0 ? 0 : MS);
	}
	CHECK(n == -THMQ_EFENCED);
	thmq_consumer_close(c, 5 * SECOND);
	CHECK(stands(s, "t", 0, "g").group_offset == 10 && goes_on_at(s, "t", "g", 0) == 10);
	CHECK(about(s, "t", "g").member_count == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static void groups_are_deleted(void)
{
	struct thmq_group_info infos[4] = {{.size = sizeof(infos[0])}};
	struct thmq_session *s = session_of(NULL);
	const char *const topics[] = {"t", "v"};
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint32_t i;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_topic_create(s, "v", THMQ_TOPIC_OPTS(.partition_count = 2, .flags = THMQ_TOPIC_VOLATILE)) == 0);
	for (i = 0; i < 2; i++) {
		CHECK(thmq_producer_open(s, topics[i], NULL, &p) == 0);
		sends(p, 10, 2);
		CHECK(goes_on_at(s, topics[i], "a", 0) == 0 && goes_on_at(s, topics[i], "b", 0) == 0);
		CHECK(thmq_group_reset(s, topics[i], "a", UINT32_MAX, THMQ_START_OFFSET, 5, 0) == 0);
		CHECK(thmq_group_list(s, topics[i], infos, 4) == 2 && strcmp(infos[0].name, "a") == 0 && strcmp(infos[1].name, "b") == 0);
		CHECK(thmq_group_list(s, topics[i], NULL, 0) == 2);
		CHECK(thmq_group_delete(s, topics[i], "a", 0) == 0);
		CHECK(thmq_group_delete(s, topics[i], "a", 0) == -ENOENT);
		CHECK(thmq_group_list(s, topics[i], infos, 4) == 1 && strcmp(infos[0].name, "b") == 0);
		CHECK(thmq_group_describe(s, topics[i], "a", infos) == -ENOENT);
		/* another of its name begins anew; and by force one with a member goes too */
		CHECK(goes_on_at(s, topics[i], "a", 0) == 0);
		CHECK(thmq_consumer_open(s, topics[i], "b", NULL, &c) == 0);
		take(s, c, &m);
		CHECK(thmq_group_delete(s, topics[i], "b", THMQ_GROUP_FORCE) == 0);
		CHECK(thmq_group_list(s, topics[i], infos, 4) == 1 && strcmp(infos[0].name, "a") == 0);
		thmq_consumer_close(c, 5 * SECOND);
	}
	CHECK(thmq_consumer_open(s, "t", "shared", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &c) == 0);
	take(s, c, &m);
	CHECK(thmq_group_delete(s, "t", "shared", 0) == -EBUSY);
	CHECK(thmq_ack(c, &m) == 0 && thmq_consumer_flush(c, 30 * SECOND) == 0);
	CHECK(thmq_group_delete(s, "t", "shared", THMQ_GROUP_FORCE) == 0);
	thmq_consumer_close(c, 5 * SECOND);
	CHECK(goes_on_at(s, "t", "shared", THMQ_CONSUMER_SHARED) == 0);
	CHECK(thmq_group_list(s, "nowhere", NULL, 0) == -THMQ_ENOTOPIC && thmq_group_list(s, "t", infos, 4) == 2);
	CHECK(thmq_group_delete(s, "t", "a", 8) == -EINVAL && thmq_group_delete(s, "t", NULL, 0) == -EINVAL);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

#define PARTS 12u
#define MEMBERS 5u

/* Is each partition where the assignor wants it? Of a sticky one only the numbers are known. */
static bool is_as_meant(uint32_t how, const uint32_t owners[PARTS], uint32_t members)
{
	uint32_t counts[MEMBERS] = {0}, k, most = 0, least = PARTS;

	for (k = 0; k < PARTS; k++) {
		if (owners[k] >= members || (how == THMQ_ASSIGN_ROUND_ROBIN && owners[k] != k % members))
			return false;
		if (how == THMQ_ASSIGN_DEFAULT && k && owners[k] < owners[k - 1])
			return false;
		counts[owners[k]]++;
	}
	for (k = 0; k < members; k++) {
		most = counts[k] > most ? counts[k] : most;
		least = counts[k] < least ? counts[k] : least;
	}
	return most - least <= 1;
}

static void settled(struct thmq_session *s, struct thmq_consumer **c, uint32_t how, uint32_t members, uint32_t owners[PARTS])
{
	uint64_t end = now() + 10 * SECOND;
	struct thmq_message m;
	uint32_t i;

	for (;;) {
		CHECK(now() < end);
		for (i = 0; i < MEMBERS; i++)
			CHECK(!c[i] || thmq_fetch(c[i], &m, 1) == 0);
		CHECK(thmq_group_owners(s, "t", "g", owners, PARTS) == PARTS);
		if (is_as_meant(how, owners, members))
			return;
		thmq_session_wait(s, 2 * MS);
	}
}

static void members_share_out(void)
{
	static const uint32_t how[] = {THMQ_ASSIGN_DEFAULT, THMQ_ASSIGN_ROUND_ROBIN, THMQ_ASSIGN_STICKY};
	struct thmq_group_member all[MEMBERS] = {{.size = sizeof(all[0])}};
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c[MEMBERS] = {NULL};
	uint32_t before[PARTS], after[PARTS], i, k, h, moved;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = PARTS)) == 0);
	for (h = 0; h < 3; h++) {
		for (i = 0; i < MEMBERS; i++) {
			CHECK(thmq_consumer_open(s, "t", "g", THMQ_CONSUMER_OPTS(.assignor = how[h]), &c[i]) == 0);
			settled(s, c, how[h], i + 1, after);
			for (k = 0, moved = 0; i && k < PARTS; k++)
				moved += after[k] != before[k];
			/* a sticky one that comes takes its share, and nothing else moves */
			CHECK(how[h] != THMQ_ASSIGN_STICKY || !i || moved == PARTS / (i + 1));
			memcpy(before, after, sizeof(before));
		}
		CHECK(thmq_group_members(s, "t", "g", all, MEMBERS) == MEMBERS);
		for (i = 0, k = 0; i < MEMBERS; i++) {
			CHECK(!all[i].away && !all[i].instance[0] && all[i].size == sizeof(all[0]));
			k += all[i].partition_count;
		}
		CHECK(k == PARTS && about(s, "t", "g").member_count == MEMBERS);
		CHECK(about(s, "t", "g").assignor == how[h]);
		/* of one that goes only what it had moves, where they are sticky */
		CHECK(thmq_consumer_close(c[1], 30 * SECOND) == 0);
		c[1] = NULL;
		settled(s, c, how[h], MEMBERS - 1, after);
		for (k = 0, moved = 0; k < PARTS; k++)
			moved += before[k] != 1 && after[k] != (before[k] > 1 ? before[k] - 1 : before[k]);
		CHECK(how[h] != THMQ_ASSIGN_STICKY || !moved);
		for (i = 0; i < MEMBERS; i++) {
			CHECK(!c[i] || thmq_consumer_close(c[i], 30 * SECOND) == 0);
			c[i] = NULL;
		}
	}
	CHECK(thmq_consumer_open(s, "t", "g", THMQ_CONSUMER_OPTS(.assignor = 9), &c[0]) == -EINVAL);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* Who has a name, goes, and comes back, has what it had; nobody else got it meanwhile. */
static void members_with_names(void)
{
	struct thmq_group_member all[MEMBERS] = {{.size = sizeof(all[0])}};
	struct thmq_session *s[2] = {session_of(NULL), session_of(NULL)};
	struct thmq_consumer *c[MEMBERS] = {NULL}, *again;
	uint32_t before[PARTS], after[PARTS], i;
	struct thmq_message m;
	struct thmq_event e;
	char name[8];
	int n;

	CHECK(thmq_topic_create(s[0], "t", THMQ_TOPIC_OPTS(.partition_count = PARTS)) == 0);
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "node-%u", i);
		CHECK(thmq_consumer_open(s[0], "t", "g",
					 THMQ_CONSUMER_OPTS(.instance = name, .session_timeout_ns = i == 2 ? 300 * MS : 20 * SECOND),
					 &c[i]) == 0);
	}
	settled(s[0], c, THMQ_ASSIGN_DEFAULT, 3, before);
	CHECK(thmq_consumer_close(c[1], 30 * SECOND) == 0);
	c[1] = NULL;
	CHECK(thmq_group_members(s[0], "t", "g", all, MEMBERS) == 3 && strcmp(all[1].instance, "node-1") == 0);
	CHECK(all[1].away && !all[0].away && all[1].partition_count == PARTS / 3);
	settled(s[0], c, THMQ_ASSIGN_DEFAULT, 3, after);
	CHECK(memcmp(before, after, sizeof(before)) == 0);
	CHECK(thmq_consumer_open(s[1], "t", "g", THMQ_CONSUMER_OPTS(.instance = "node-1", .session_timeout_ns = 20 * SECOND), &c[1]) == 0);
	for (i = 0; i < PARTS / 3; i++)
		CHECK(next_event(s[1], THMQ_EVENT_ASSIGNED, &e, 5 * SECOND) && before[e.partition] == 1);
	/* a second one of a name takes it from the first */
	CHECK(thmq_consumer_open(s[0], "t", "g", THMQ_CONSUMER_OPTS(.instance = "node-1", .session_timeout_ns = 20 * SECOND), &again) == 0);
	for (n = 0, i = 0; n != -THMQ_EFENCED && i < 1000; i++) {
		n = thmq_fetch(c[1], &m, 1);
		thmq_session_wait(s[1], n < 0 ? 0 : MS);
	}
	CHECK(n == -THMQ_EFENCED);
	CHECK(thmq_group_members(s[0], "t", "g", all, MEMBERS) == 3);
	thmq_consumer_close(c[1], 5 * SECOND);
	c[1] = again;
	settled(s[0], c, THMQ_ASSIGN_DEFAULT, 3, after);
	CHECK(memcmp(before, after, sizeof(before)) == 0);
	/* who does not come back in time is out of it */
	CHECK(thmq_consumer_close(c[2], 30 * SECOND) == 0);
	c[2] = NULL;
	settled(s[0], c, THMQ_ASSIGN_DEFAULT, 2, after);
	CHECK(thmq_consumer_open(s[0], "t", NULL, THMQ_CONSUMER_OPTS(.instance = "x"), &again) == -EINVAL);
	CHECK(thmq_session_close(s[1], 30 * SECOND) == 0 && thmq_session_close(s[0], 30 * SECOND) == 0);
}

/* ------------------------------------------------------------------- batches */

#define BATCH 50u

/* Message number i of a batch: every seventh has a key, every third a tag, every fifth a header; some have nothing in them. */
static int64_t send_together(struct thmq_producer *p, uint32_t first)
{
	static uint32_t keys[BATCH];
	static char texts[BATCH][200];
	static const struct thmq_header header = {"kind", "fifth", 5, THMQ_HEADER_TEXT};
	struct thmq_batch_message m[BATCH] = {0};
	int64_t seq;
	uint32_t i;

	for (i = 0; i < BATCH; i++) {
		const uint32_t number = first + i;

		keys[i] = number;
		m[i].data = texts[i];
		m[i].len = number % 11 ? (uint32_t)snprintf(texts[i], sizeof(texts[i]), "{\"id\":%u,\"state\":\"created\",\"region\":\"north\"}", number) : 0;
		m[i].key = number % 7 ? NULL : &keys[i];
		m[i].key_len = number % 7 ? 0 : 4;
		m[i].tag = number % 3 ? NULL : "third";
		m[i].headers = number % 5 ? NULL : &header;
		m[i].header_count = number % 5 == 0;
	}
	while ((seq = thmq_send_batch(p, m, BATCH, NULL)) == -EAGAIN)
		drive(MS);
	return seq;
}

static void check_together(const struct thmq_message *m, uint32_t number)
{
	struct thmq_header h;
	char text[200];
	uint32_t len = number % 11 ? (uint32_t)snprintf(text, sizeof(text), "{\"id\":%u,\"state\":\"created\",\"region\":\"north\"}", number) : 0;

	CHECK(m->offset == number && m->len == len && memcmp(m->data, text, len) == 0);
	CHECK(m->key_len == (number % 7 ? 0u : 4u) && m->tag_len == (number % 3 ? 0u : 5u) && (thmq_header_find(m, "kind", &h) == 0) == (number % 5 == 0));
}

/* Of @step numbers one, from @from up to before @to. */
static void take_together(struct thmq_session *s, const struct thmq_consumer_opts *o, uint32_t from, uint32_t to, uint32_t step)
{
	struct thmq_consumer *c;
	struct thmq_message m;

	CHECK(thmq_consumer_open(s, "batches", NULL, o, &c) == 0);
	if (from)
		CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, from) == 0);
	for (; from < to; from += step) {
		take(s, c, &m);
		check_together(&m, from);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_consumer_close(c, 10 * SECOND) == 0);
}

static void batches_by(uint32_t codec, uint64_t reconnect_ns)
{
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.reconnect_ns = reconnect_ns));
	struct thmq_key_info info = {.size = sizeof(info)};
	static const char *const tags[] = {"third"};
	struct thmq_producer *p;
	uint32_t i, key = 7 * 9;
	int64_t last = 0, seq;
	int rc;

	CHECK(thmq_topic_create(s, "batches", NULL) == 0);
	rc = thmq_producer_open(s, "batches", THMQ_PRODUCER_OPTS(.compression = codec), &p);
	if (rc != -EOPNOTSUPP) { /* else this machine has it not */
		CHECK(rc == 0);
		for (i = 0; i < 10; i++) {
			CHECK((seq = send_together(p, i * BATCH)) == last + 1);
			last = seq;
		}
		CHECK(thmq_flush(p, 30 * SECOND) == 0 && thmq_watermark(p) == last);
		take_together(s, NULL, 0, 10 * BATCH, 1);
		take_together(s, NULL, 4 * BATCH + BATCH / 2, 6 * BATCH, 1);
		take_together(s, THMQ_CONSUMER_OPTS(.tags = tags, .tag_count = 1), 0, 10 * BATCH, 3);
		take_together(s, THMQ_CONSUMER_OPTS(.filter = "kind = 'fifth'"), 0, 10 * BATCH, 5);
		CHECK(thmq_key_find(s, "batches", 0, &key, 4, UINT64_MAX, &info) == 0 && info.offset == key);
	}
	CHECK(thmq_topic_delete(s, "batches") == 0);
	end_session(s);
}

static void batches(void)
{
	batches_by(THMQ_COMPRESSION_NONE, 0);
	batches_by(THMQ_COMPRESSION_LZ4, 10 * SECOND);
	batches_by(THMQ_COMPRESSION_ZSTD, 0);
}

static const struct test_case cases[] = {
	{"batches", batches},
	{"filters", filters},
	{"positions", positions},
	{"filters_that_make_no_sense", filters_that_make_no_sense},
	{"filters_in_a_shared_group", filters_in_a_shared_group},
	{"filters_of_large_messages", filters_of_large_messages},
	{"requests", requests},
	{"requests_that_expire", requests_that_expire},
	{"calls", calls},
	{"groups_are_reset", groups_are_reset},
	{"groups_are_deleted", groups_are_deleted},
	{"members_share_out", members_share_out},
	{"members_with_names", members_with_names},
};

int main(int argc, char **argv)
{
	return contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
