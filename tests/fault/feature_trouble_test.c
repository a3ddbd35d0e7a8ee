/* SPDX-License-Identifier: Apache-2.0 */
/*
 * feature_trouble_test.c - what an application may do to groups, transactions, delayed messages, filters, limits and the rest, by accident or by ill
 * will: options by chance, two of one name, clients that are killed with all of it open, a topic that goes from under all of them. Nothing
 * is lost that was not deleted, each call ends, and the broker serves on. THMQ_TEST_FULL=1: in large numbers.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <thundermq/access.h>

#include "bad_input.h"

#define MS 1000000ull

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static bool is_full(void)
{
	return getenv("THMQ_TEST_FULL") != NULL;
}

static uint64_t seed = 88172645463325252u;

static uint64_t chance(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

/* A core of the library's for the broker; sessions belong to whoever makes them. */
static void up_with(struct world *w, const struct thmq_broker_opts *opts)
{
	memset(w, 0, sizeof(*w));
	MUST(thmq_env_open(&w->env, THMQ_ENV_OPTS(.core_count = 1, .pool_bytes = 256 << 20, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)));
	MUST(thmq_broker_open(w->env, opts, &w->broker));
	MUST(thmq_connect(w->env, "inproc://", NULL, &w->session));
}

static void up(struct world *w)
{
	up_with(w, THMQ_BROKER_OPTS(.data_dir = in_place("data"), .shard_count = 2, .segment_bytes = 4 << 20, .batch_bytes = 64 << 10));
}

static void down(struct world *w)
{
	if (w->session)
		RETURNS(0, thmq_session_close(w->session, 30 * SECOND));
	RETURNS(0, thmq_broker_close(w->broker, 30 * SECOND));
	RETURNS(0, thmq_env_close(w->env, 30 * SECOND));
}

static struct thmq_session *another(struct world *w)
{
	struct thmq_session *s;

	MUST(thmq_connect(w->env, "inproc://", NULL, &s));
	return s;
}

/* The broker is as it was: what is sent now comes. */
static void still_serves(struct world *w, const char *topic)
{
	struct thmq_session *s = another(w);
	uint64_t end = now() + 30 * SECOND;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	int n;

	MUST(thmq_topic_create(s, topic, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)));
	MUST(thmq_consumer_open(s, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END), &c));
	MUST(thmq_producer_open(s, topic, NULL, &p));
	MUST(thmq_send(p, "still", 5, NULL));
	MUST(thmq_flush(p, 30 * SECOND));
	while ((n = thmq_fetch(c, &m, 1)) == 0 && now() < end)
		thmq_session_wait(s, 10 * MS);
	CHECK(n == 1 && m.len == 5 && memcmp(m.data, "still", 5) == 0);
	RETURNS(0, thmq_session_close(s, 30 * SECOND));
}

/* All @count numbers are there, however long a busy machine takes to hand them out. */
static void expect_them(struct thmq_session *s, uint64_t count)
{
	uint64_t end = now() + 40 * SECOND, n;

	do
		n = get_numbers(s);
	while (n != count && now() < end);
	RETURNS(count, n);
}

/* ----------------------------------------------------------- options by chance */

static uint64_t odd64(void)
{
	static const uint64_t values[] = {0, 1, 2, 3, 5, 7, 64, 65, 1000, 4096, 65536, 1 << 20, INT32_MAX, 0x80000000u, UINT32_MAX, SECOND,
					  3600 * SECOND, INT64_MAX, 1ull << 63, UINT64_MAX - 1, UINT64_MAX};

	return values[chance(sizeof(values) / sizeof(values[0]))];
}

static uint32_t odd(void)
{
	return chance(3) ? (uint32_t)chance(9) : (uint32_t)odd64();
}

static const char *odd_text(void)
{
	static char large[5000];
	const char *values[] = {NULL, NULL, "", "t", "g", "none", "a b", "é\xff", large, large + 4700, "price >", "price > 1", "((((", "NOT NOT TRUE", "\n"};

	memset(large, 'x', sizeof(large) - 1);
	return values[chance(sizeof(values) / sizeof(values[0]))];
}

static struct thmq_message_opts odd_message(struct thmq_header *h, struct thmq_txn *txn)
{
	static const char key[5000] = "key"; /* as long as any that is said */

	*h = (struct thmq_header){odd_text(), "value", chance(2) ? 5 : 0, chance(8) ? THMQ_HEADER_TEXT : odd()};
	return (struct thmq_message_opts){.size = sizeof(struct thmq_message_opts),
					  .flags = chance(2) ? 0 : odd(),
					  .key = chance(2) ? NULL : key,
					  .key_len = chance(2) ? 3 : odd() % 5000,
					  .tag = chance(2) ? NULL : odd_text(),
					  .partition = chance(2) ? 0 : odd(),
					  .durability = chance(2) ? 0 : odd(),
					  .time_ns = chance(2) ? 0 : (int64_t)odd64(),
					  .headers = chance(2) ? NULL : h,
					  .header_count = chance(2) ? 0 : 1,
					  .ttl_ns = chance(2) ? 0 : odd64(),
					  .expected = chance(2) ? 0 : odd64(),
					  .deliver_at_ns = chance(4) ? 0 : (int64_t)odd64(),
					  .delay_ns = chance(4) ? 0 : odd64(),
					  .priority = chance(4) ? 0 : odd(),
					  .txn = chance(4) ? NULL : txn};
}

static struct thmq_consumer_opts odd_consumer(const uint64_t *backoff)
{
	static const char *const tags[] = {"red", "blue", "", NULL};

	return (struct thmq_consumer_opts){.size = sizeof(struct thmq_consumer_opts),
					   .flags = chance(2) ? 0 : odd(),
					   .start = chance(2) ? 0 : odd(),
					   .prefetch_count = chance(2) ? 0 : odd(),
					   .prefetch_bytes = chance(2) ? 0 : odd64(),
					   .start_time_ns = chance(2) ? 0 : odd64(),
					   .session_timeout_ns = chance(2) ? 0 : odd64(),
					   .invisible_ns = chance(2) ? 0 : odd64(),
					   .tags = chance(4) ? NULL : tags,
					   .tag_count = chance(4) ? 0 : odd() % 5,
					   .deliver_max = chance(4) ? 0 : odd(),
					   .backoff_ns = chance(4) ? NULL : backoff,
					   .backoff_count = chance(4) ? 0 : odd() % 4,
					   .dead_topic = chance(4) ? NULL : odd_text(),
					   .partition = chance(4) ? 0 : odd(),
					   .filter = chance(4) ? NULL : odd_text(),
					   .instance = chance(4) ? NULL : odd_text(),
					   .assignor = chance(4) ? 0 : odd()};
}

static void use_oddly(struct thmq_session *s, struct thmq_consumer *c, struct thmq_txn *txn)
{
	struct thmq_message m[8];
	struct thmq_event e[8];
	uint64_t offset;
	int i, n = thmq_fetch(c, m, (uint32_t)chance(9));

	for (i = 0; i < n; i++) {
		struct thmq_message copy = m[i];

		switch (chance(9)) {
		case 0: thmq_ack(c, &m[i]); break;
		case 1: thmq_nack(c, &m[i], odd64()); break;
		case 2: thmq_extend(c, &m[i], odd64()); break;
		case 3: thmq_reject(c, &m[i], odd_text()); break;
		case 4: thmq_txn_ack(txn, c, &m[i]); break;
		case 5: thmq_reply(s, &m[i], "x", 1, NULL); break;
		case 6: /* not as it was fetched */
			copy.internal[chance(2)] = odd64();
			copy.offset = odd64();
			copy.partition = odd();
			thmq_ack(c, &copy);
			thmq_nack(c, &copy, 0);
			thmq_release(c, &copy, 1);
			break;
		default: thmq_message_deliveries(c, &m[i]); break;
		}
	}
	if (n > 0 && chance(4))
		RETURNS(0, thmq_release(c, m, (uint32_t)n));
	if (!chance(8))
		thmq_seek(c, odd(), odd(), odd64());
	if (!chance(8))
		thmq_consumer_position(c, odd(), &offset);
	thmq_events(s, e, (uint32_t)chance(9));
}

static void options_by_chance(void)
{
	const uint64_t backoff[4] = {odd64(), odd64(), odd64(), odd64()};
	uint64_t rounds = is_full() ? 20000 : 600, i, numbers = 10;
	struct thmq_consumer *cs[4] = {NULL};
	struct thmq_producer *p = NULL;
	struct thmq_txn *txn = NULL;
	struct thmq_header h;
	struct world w;

	place_make(NULL);
	up(&w);
	put_numbers(w.session, 0, numbers);
	MUST(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 3, .priorities = 2)));
	for (i = 0; i < rounds; i++) {
		struct thmq_consumer **c = &cs[chance(4)];
		struct thmq_consumer_opts co = odd_consumer(backoff);
		struct thmq_message_opts mo;
		struct thmq_group_info info = {.size = sizeof(info)};
		struct thmq_topic_opts to = {.size = sizeof(to), .flags = odd(), .partition_count = chance(2) ? odd() % 4 : 0, .visible_at = odd(),
					     .volatile_bytes = chance(2) ? odd64() : 0, .retention_ns = odd64(), .retention_bytes = odd64(),
					     .ttl_ns = odd64(), .tombstone_ns = odd64(), .priorities = odd()};

		switch (chance(12)) {
		case 0:
			if (!*c && thmq_consumer_open(w.session, "t", odd_text(), &co, c) != 0)
				CHECK(!*c);
			break;
		case 1:
			if (*c)
				thmq_consumer_close(*c, 5 * SECOND);
			*c = NULL;
			break;
		case 2:
			if (!p && thmq_producer_open(w.session, "t", THMQ_PRODUCER_OPTS(.flags = odd(), .durability = odd(), .compression = odd(),
											.name = odd_text(), .compress_min = odd(), .compress_level = (int32_t)odd()), &p) != 0)
				CHECK(!p);
			break;
		case 3:
			if (p && !chance(4)) {
				thmq_producer_close(p, 5 * SECOND);
				p = NULL;
			}
			break;
		case 4:
			if (!txn && thmq_txn_begin(w.session, THMQ_TXN_OPTS(.flags = odd() & chance(2), .name = odd_text(), .timeout_ns = odd64(), .check_ns = odd64(),
									    .check_max = odd()), &txn) != 0)
				CHECK(!txn);
			break;
		case 5:
			if (txn) {
				thmq_txn_abort(txn, 5 * SECOND);
				txn = NULL;
			}
			thmq_txn_decide(w.session, odd64(), odd(), SECOND);
			thmq_txn_force(w.session, odd64(), odd(), SECOND);
			break;
		case 6:
			thmq_topic_create(w.session, "made", &to);
			thmq_topic_alter(w.session, "made", &to, odd() & 0xff);
			if (thmq_topic_create(w.session, "made", NULL) == -EEXIST)
				RETURNS(0, thmq_topic_delete(w.session, "made"));
			break;
		case 7:
			thmq_group_reset(w.session, "t", odd_text(), odd(), odd(), odd64(), odd());
			thmq_group_delete(w.session, "t", odd_text(), odd());
			thmq_group_describe(w.session, "t", odd_text(), &info);
			thmq_delayed_cancel(w.session, "t", odd(), odd64());
			break;
		default:
			if (p) {
				mo = odd_message(&h, txn);
				thmq_send(p, "payload", chance(8), &mo);
				if (!chance(8))
					thmq_request(p, "ask", 3, chance(2) ? NULL : &mo, odd64(), NULL);
			}
			if (*c)
				use_oddly(w.session, *c, txn);
			break;
		}
	}
	CHECK(thmq_session_close(w.session, 30 * SECOND) != -EINVAL); /* what it could not settle it says */
	w.session = another(&w);
	expect_them(w.session, numbers);
	still_serves(&w, "after");
	down(&w);
}

/* ------------------------------------------------------------------ of one name */

/* Each takes it from the other, again and again; who has it last has all partitions, and nobody else is left. */
static void two_of_one_instance(void)
{
	struct thmq_group_member members[8] = {{.size = sizeof(members[0])}};
	struct thmq_session *s[2];
	struct thmq_consumer *c[2] = {NULL, NULL};
	uint64_t end = now() + 50 * SECOND;
	struct thmq_message m;
	struct world w;
	int i, rc;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 4)));
	s[0] = another(&w);
	s[1] = another(&w);
	for (i = 0; i < 60; i++) {
		int k = i & 1;

		if (c[k])
			RETURNS(0, thmq_consumer_close(c[k], 5 * SECOND));
		MUST(thmq_consumer_open(s[k], "t", "g", THMQ_CONSUMER_OPTS(.instance = "one"), &c[k]));
		while (i && (rc = thmq_fetch(c[!k], &m, 1)) != -THMQ_EFENCED && now() < end)
			wait_messages(s[!k], 10 * MS);
		CHECK(!i || rc == -THMQ_EFENCED);
	}
	while ((rc = thmq_group_members(w.session, "t", "g", members, 8)) >= 0 && (rc != 1 || members[0].partition_count != 4) && now() < end)
		wait_messages(s[1], 10 * MS);
	RETURNS(1, rc);
	CHECK(members[0].partition_count == 4 && strcmp(members[0].instance, "one") == 0);
	RETURNS(0, thmq_session_close(s[0], 5 * SECOND));
	RETURNS(0, thmq_session_close(s[1], 5 * SECOND));
	still_serves(&w, "t");
	down(&w);
}

/* Two programs that both think that they are the producer: each number is there once, in order, whoever has sent it. */
static void two_of_one_producer(void)
{
	struct thmq_producer *p[2] = {NULL, NULL};
	struct thmq_session *s[2];
	uint64_t number = 0;
	struct world w;
	int64_t rc;
	int i, k;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "numbers", NULL));
	s[0] = another(&w);
	s[1] = another(&w);
	for (i = 0; i < 40; i++) {
		k = i & 1;
		if (p[k])
			thmq_producer_close(p[k], 5 * SECOND);
		MUST(thmq_producer_open(s[k], "numbers", THMQ_PRODUCER_OPTS(.name = "me"), &p[k]));
		RETURNS(number, thmq_watermark(p[k]));
		for (rc = 1; rc > 0 && number % 5 != 4; number++)
			MUST(rc = thmq_send(p[k], &number, sizeof(number), NULL));
		MUST(thmq_send(p[k], &number, sizeof(number), NULL));
		number++;
		MUST(thmq_flush(p[k], 30 * SECOND));
		if (!p[!k])
			continue;
		rc = thmq_send(p[!k], "stale", 5, NULL); /* refused at once, or when it gets there */
		CHECK(rc > 0 ? thmq_flush(p[!k], 30 * SECOND) == -EIO : rc == -THMQ_EFENCED);
	}
	RETURNS(0, thmq_session_close(s[0], 5 * SECOND));
	RETURNS(0, thmq_session_close(s[1], 5 * SECOND));
	expect_them(w.session, number);
	down(&w);
}

/* ---------------------------------------------------------- clients that are killed */

#define TXNS (is_full() ? 1000 : 200)

static void leave_transactions(const char *url, int ready)
{
	struct thmq_producer *p;
	struct thmq_session *s;
	struct thmq_env *env;
	struct thmq_txn *t;
	int i;

	MUST(thmq_env_open(&env, THMQ_ENV_OPTS(.pool_bytes = 64 << 20)));
	MUST(thmq_connect(env, url, NULL, &s));
	MUST(thmq_producer_open(s, "t", NULL, &p));
	for (i = 0; i < TXNS; i++) {
		MUST(thmq_txn_begin(s, THMQ_TXN_OPTS(.timeout_ns = 3600 * SECOND), &t));
		while (thmq_send(p, "never", 5, THMQ_MESSAGE_OPTS(.txn = t, .flags = THMQ_MESSAGE_PARTITION, .partition = (uint32_t)i % 8)) == -EAGAIN)
			thmq_session_wait(s, MS);
	}
	MUST(thmq_flush(p, 30 * SECOND));
	CHECK(write(ready, "x", 1) == 1);
	for (;;)
		thmq_session_wait(s, SECOND);
}

static void transactions_of_the_dead(void)
{
	struct thmq_txn_info info = {.size = sizeof(info)};
	uint64_t end = now() + 50 * SECOND, got;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	char url[300], x;
	int ready[2], status, i, n, round;
	struct world w;
	pid_t child;

	place_make(NULL);
	snprintf(url, sizeof(url), "shm://%s", in_place("socket"));
	up_with(&w, THMQ_BROKER_OPTS(.data_dir = in_place("data"), .shard_count = 2, .segment_bytes = 4 << 20, .batch_bytes = 64 << 10, .listen = url));
	MUST(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 8)));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &c));
	for (round = 0; round < 3; round++) {
		CHECK(pipe(ready) == 0);
		fflush(NULL);
		child = fork();
		if (child == 0) {
			place_owner = 0;
			leave_transactions(url, ready[1]);
		}
		close(ready[1]);
		CHECK(child > 0 && read(ready[0], &x, 1) == 1);
		close(ready[0]);
		CHECK(thmq_txn_list(w.session, &info, 1) == TXNS);
		for (i = 0; i < 8; i++)
			MUST(thmq_send(p, "behind", 6, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = (uint32_t)i)));
		MUST(thmq_flush(p, 30 * SECOND));
		CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
		for (got = 0; got < 8 && now() < end;) {
			n = thmq_fetch(c, &m, 1);
			MUST(n);
			if (!n) {
				wait_messages(w.session, 10 * MS);
				continue;
			}
			CHECK(m.len == 6 && memcmp(m.data, "behind", 6) == 0);
			MUST(thmq_release(c, &m, 1));
			got++;
		}
		RETURNS(8, got);
		while ((n = thmq_txn_list(w.session, &info, 1)) > 0 && now() < end)
			wait_messages(w.session, 10 * MS);
		RETURNS(0, n);
	}
	down(&w);
}

/* --------------------------------------------------------------- delayed messages */

/* Called off in no order, over several lives of the broker; some come meanwhile. Each that was not called off comes once. */
static void delays_called_off(void)
{
	const uint32_t count = is_full() ? 100000 : 600, lives = 4;
	uint64_t *numbers = calloc(count, sizeof(*numbers)), end, tail, number;
	uint8_t *came = calloc(count, 1), *off = calloc(count, 1);
	uint32_t *order = calloc(count, sizeof(*order));
	uint32_t i, k, life, sent = 0, settled = 0, left = 0, got = 0;
	struct timespec t;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e;
	struct world w;
	int64_t due;
	int rc;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 2)));
	MUST(thmq_producer_open(w.session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p));
	clock_gettime(CLOCK_REALTIME, &t);
	due = (int64_t)((uint64_t)t.tv_sec * SECOND) + (int64_t)((is_full() ? 40 : 1) * SECOND);
	end = now() + 1000 * SECOND;
	while (settled < count && now() < end) {
		while (sent < count && thmq_send(p, &sent, sizeof(sent), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = sent % 2,
											   .deliver_at_ns = due + (int64_t)chance(SECOND))) > 0)
			sent++;
		while (thmq_events(w.session, &e, 1) == 1)
			if (e.type == THMQ_EVENT_SETTLED) {
				numbers[e.sequence - 1] = e.offset;
				settled++;
			}
		thmq_session_wait(w.session, MS);
	}
	RETURNS(count, settled);
	for (i = 0; i < count; i++)
		order[i] = i;
	for (i = count - 1; i; i--) {
		k = (uint32_t)chance(i + 1);
		tail = order[i], order[i] = order[k], order[k] = (uint32_t)tail;
	}
	for (i = 0, life = 0; life < lives; life++) {
		for (; i < count * (life + 1) / (lives + 1); i++) {
			rc = thmq_delayed_cancel(w.session, "t", order[i] % 2, numbers[order[i]]);
			CHECK(rc == 0 || rc == -ENOENT);
			off[order[i]] = rc == 0;
			if (!chance(64))
				RETURNS(-ENOENT, thmq_delayed_cancel(w.session, "t", order[i] % 2, numbers[order[i]]));
		}
		down(&w);
		up(&w);
	}
	for (i = 0; i < count; i++)
		left += !off[i];
	MUST(thmq_consumer_open(w.session, "t", NULL, NULL, &c));
	while (got < left && now() < end) {
		rc = thmq_fetch(c, &m, 1);
		MUST(rc);
		if (!rc) {
			wait_messages(w.session, 20 * MS);
			continue;
		}
		CHECK(m.len == sizeof(i));
		memcpy(&number, m.data, sizeof(i));
		i = (uint32_t)number;
		CHECK(i < count && !off[i] && !came[i]);
		came[i] = 1;
		got++;
		MUST(thmq_release(c, &m, 1));
	}
	RETURNS(left, got);
	RETURNS(0, thmq_fetch(c, &m, 1));
	down(&w);
	free(numbers), free(came), free(off), free(order);
}

/* ------------------------------------------------------------------------ filters */

static void fill_text(char *to, size_t size, const char *with)
{
	size_t n = 0, len = strlen(with);

	for (*to = 0; n + len < size; n += len)
		memcpy(to + n, with, len + 1);
}

/* However deep, long and slow: refused, or done in bounded time while others go on. */
static void filters_without_end(void)
{
	static const char *const pieces[] = {"(", "NOT ", "NOT (", "-", "a AND ", "((a) ", "'", "\"", "a LIKE '%", "a + ", "a IN (1,", "CASE ", "a.", "1e", "--"};
	char text[1100], value[4096];
	const uint32_t count = is_full() ? 400 : 50;
	uint64_t begin, end = now() + 50 * SECOND;
	struct thmq_header h = {"a", value, sizeof(value), THMQ_HEADER_TEXT};
	struct thmq_consumer *slow, *c;
	struct thmq_producer *p;
	struct thmq_session *other;
	struct thmq_message m;
	struct world w;
	uint32_t i, at, got = 0;
	int n;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "t", NULL));
	for (i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		fill_text(text, sizeof(text), pieces[i]);
		SAYS(-EINVAL, NULL, thmq_consumer_open(w.session, "t", NULL, THMQ_CONSUMER_OPTS(.filter = text), &c));
		text[THMQ_FILTER_MAX] = 0;
		at = UINT32_MAX;
		RETURNS(-EINVAL, thmq_filter_check(text, &at));
		CHECK(at <= THMQ_FILTER_MAX);
	}
	/* the dearest pattern that there is room for, on the longest text that it is asked of */
	strcpy(text, "a LIKE '%");
	for (i = 0; strlen(text) < THMQ_FILTER_MAX - 510; i++)
		strcat(text, "x");
	strcat(text, "y%'");
	memset(value, 'x', sizeof(value));
	other = another(&w);
	MUST(thmq_consumer_open(w.session, "t", NULL, THMQ_CONSUMER_OPTS(.filter = text), &slow));
	MUST(thmq_consumer_open(other, "t", NULL, NULL, &c));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	begin = now();
	for (i = 0; i < count; i++)
		while (thmq_send(p, &i, sizeof(i), THMQ_MESSAGE_OPTS(.headers = &h, .header_count = 1)) == -EAGAIN)
			thmq_session_wait(w.session, MS);
	MUST(thmq_flush(p, 30 * SECOND));
	while (got < count && now() < end) {
		n = thmq_fetch(c, &m, 1);
		MUST(n);
		if (n)
			MUST(thmq_release(c, &m, 1));
		else
			wait_messages(other, 10 * MS);
		got += (uint32_t)n;
	}
	RETURNS(count, got);
	if (is_full())
		printf("filters: %u messages beside it in %.1f ms\n", count, (double)(now() - begin) / 1e6);
	RETURNS(0, thmq_fetch(slow, &m, 1));
	RETURNS(0, thmq_session_close(other, 30 * SECOND));
	down(&w);
}

/* ------------------------------------------------------------------- shared groups */

/* One is there, takes what it is given, and never fetches: what it let expire goes to the others. */
static void a_member_that_sleeps(void)
{
	const struct thmq_consumer_opts opts = {.size = sizeof(opts), .flags = THMQ_CONSUMER_SHARED, .invisible_ns = 100 * MS};
	uint64_t end = now() + 50 * SECOND, i;
	struct thmq_session *asleep, *awake;
	struct thmq_consumer *a, *c;
	struct thmq_producer *p;
	struct thmq_message m;
	uint32_t got = 0;
	struct world w;
	int n;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "t", NULL));
	asleep = another(&w);
	awake = another(&w);
	MUST(thmq_consumer_open(asleep, "t", "g", &opts, &a));
	MUST(thmq_consumer_open(awake, "t", "g", &opts, &c));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	for (i = 0; i < 100; i++)
		MUST(thmq_send(p, &i, sizeof(i), NULL));
	MUST(thmq_flush(p, 30 * SECOND));
	while (got < 100 && now() < end) {
		wait_messages(asleep, 0);
		n = thmq_fetch(c, &m, 1);
		MUST(n);
		if (!n) {
			wait_messages(awake, 10 * MS);
			continue;
		}
		RETURNS(0, thmq_ack(c, &m));
		MUST(thmq_release(c, &m, 1));
		got++;
	}
	CHECK(got >= 100);
	down(&w);
}

/* Some are fetched, and one of @of acknowledged. */
static void take_some(struct thmq_session *s, struct thmq_consumer *c, uint32_t of, uint8_t *done, uint32_t *finished)
{
	struct thmq_message m[64];
	uint64_t number;
	int i, n = thmq_fetch(c, m, 64);

	MUST(n);
	if (!n)
		wait_messages(s, MS);
	for (i = 0; i < n; i++) {
		memcpy(&number, m[i].data, sizeof(number));
		if (chance(of) || thmq_ack(c, &m[i]) != 0)
			continue;
		*finished += !done[number];
		done[number] = 1;
	}
	if (n)
		MUST(thmq_release(c, m, (uint32_t)n));
}

/*
 * As many out as there may be, each for a millisecond only, members that are slower than that: most of it goes to and fro. Nothing is lost by it,
 * and one that takes his time does all of it, also beside the others.
 */
static void a_millisecond_each(void)
{
	const uint32_t count = is_full() ? 10000 : 1500;
	const struct thmq_consumer_opts hasty = {.size = sizeof(hasty), .flags = THMQ_CONSUMER_SHARED, .invisible_ns = MS, .prefetch_count = 5000};
	uint64_t begin, end = now() + 50 * SECOND, i;
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint8_t *done = calloc(count, 1);
	struct thmq_session *s[3];
	struct thmq_consumer *c[3];
	struct thmq_producer *p;
	uint32_t k, finished = 0;
	struct world w;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	for (i = 0; i < count; i++)
		while (thmq_send(p, &i, sizeof(i), NULL) == -EAGAIN)
			thmq_session_wait(w.session, MS);
	MUST(thmq_flush(p, 30 * SECOND));
	for (k = 0; k < 2; k++) {
		s[k] = another(&w);
		MUST(thmq_consumer_open(s[k], "t", "g", &hasty, &c[k]));
	}
	for (begin = now(); finished < count && now() < begin + SECOND / 4; k++)
		take_some(s[k % 2], c[k % 2], 4, done, &finished);
	s[2] = another(&w);
	MUST(thmq_consumer_open(s[2], "t", "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &c[2]));
	for (k = 0; finished < count && now() < end; k++)
		take_some(s[k % 3], c[k % 3], k % 3 == 2 ? 1 : 4, done, &finished);
	RETURNS(count, finished);
	for (k = 0; k < 3; k++)
		RETURNS(0, thmq_session_close(s[k], 30 * SECOND));
	MUST(thmq_partition_describe(w.session, "t", 0, "g", &info));
	CHECK(info.lag == 0 && info.group_offset == count);
	down(&w);
	free(done);
}

/* ----------------------------------------------------- a topic goes from under all of it */

static atomic_bool over;
static atomic_uint rounds;

struct user {
	struct world *w;
	unsigned kind;
	pthread_t thread;
};

static void use_topic(struct user *u, struct thmq_session *s)
{
	static const struct thmq_consumer_opts kinds[] = {
		{.size = sizeof(kinds[0])},
		{.size = sizeof(kinds[0]), .flags = THMQ_CONSUMER_SHARED, .invisible_ns = MS, .deliver_max = 2, .dead_topic = "dead"},
		{.size = sizeof(kinds[0]), .filter = "a = 'b' OR a IS NULL", .instance = "one"},
	};
	struct thmq_consumer *c = NULL;
	struct thmq_producer *p = NULL;
	struct thmq_txn *t = NULL;
	struct thmq_response r;
	struct thmq_message m;
	struct thmq_event e;
	char group[16];
	int i, n;

	snprintf(group, sizeof(group), "g%u", u->kind % 3);
	if (thmq_producer_open(s, "t", THMQ_PRODUCER_OPTS(.name = u->kind % 4 ? NULL : "me"), &p) != 0)
		return;
	if (thmq_consumer_open(s, "t", group, &kinds[u->kind % 3], &c) == 0 && u->kind % 2)
		thmq_txn_begin(s, NULL, &t);
	for (i = 0; i < 20 && !atomic_load(&over); i++) {
		thmq_send(p, "x", 1, NULL);
		thmq_send(p, "later", 5, THMQ_MESSAGE_OPTS(.delay_ns = chance(3) * MS + 1));
		if (t)
			thmq_send(p, "txn", 3, THMQ_MESSAGE_OPTS(.txn = t));
		n = c ? thmq_fetch(c, &m, 1) : 0;
		if (n == 1) {
			if (t && u->kind % 3 != 1)
				thmq_txn_ack(t, c, &m);
			else if (i % 3)
				thmq_ack(c, &m);
			else
				thmq_reject(c, &m, "no");
			RETURNS(0, thmq_release(c, &m, 1));
		}
		if (i == 10)
			CHECK(thmq_call(p, "?", 1, NULL, 2 * MS, &r) < 0);
		thmq_session_wait(s, MS);
		while (thmq_events(s, &e, 1) == 1)
			;
	}
	if (t && thmq_txn_commit(t, 10 * SECOND) != 0 && thmq_txn_id(t))
		thmq_txn_abort(t, 10 * SECOND);
	thmq_flush(p, 10 * SECOND);
	if (c)
		thmq_consumer_close(c, 10 * SECOND);
	thmq_producer_close(p, 10 * SECOND);
	atomic_fetch_add(&rounds, 1);
}

static void *use(void *arg)
{
	struct user *u = arg;
	struct thmq_session *s = another(u->w);

	while (!atomic_load(&over))
		use_topic(u, s);
	RETURNS(0, thmq_session_close(s, 30 * SECOND));
	return NULL;
}

static void the_topic_goes(void)
{
	uint64_t end = now() + (is_full() ? 20 : 1) * SECOND, i;
	struct thmq_txn_info info = {.size = sizeof(info)};
	struct user users[6];
	struct world w;
	int rc;

	place_make(NULL);
	up(&w);
	put_numbers(w.session, 0, 10);
	atomic_store(&over, false);
	for (i = 0; i < 6; i++) {
		users[i] = (struct user){.w = &w, .kind = (unsigned)i};
		CHECK(pthread_create(&users[i].thread, NULL, use, &users[i]) == 0);
	}
	while (now() < end || (atomic_load(&rounds) < 10 && now() < end + 30 * SECOND)) {
		rc = thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 1 + (uint32_t)chance(4), .priorities = chance(2) ? 2 : 0));
		CHECK(rc == 0);
		wait_messages(w.session, chance(60) * MS + 1);
		RETURNS(0, thmq_topic_delete(w.session, "t"));
	}
	atomic_store(&over, true);
	for (i = 0; i < 6; i++)
		CHECK(pthread_join(users[i].thread, NULL) == 0);
	CHECK(atomic_load(&rounds) >= 10);
	end = now() + 30 * SECOND;
	while ((rc = thmq_txn_list(w.session, &info, 1)) > 0 && now() < end)
		wait_messages(w.session, 10 * MS);
	RETURNS(0, rc);
	expect_them(w.session, 10);
	still_serves(&w, "t");
	down(&w);
	up(&w);
	expect_them(w.session, 10);
	down(&w);
}

/* ------------------------------------------------------------------------- limits */

/* Whoever waits for a limit that is changed waits by the new one: never for what the old one would have cost. */
static void limits_change_while_they_wait(void)
{
	struct thmq_limits slow = {.size = sizeof(slow), .produce_bytes = 1, .produce_messages = 1, .consume_bytes = 1},
			   fast = {.size = sizeof(fast), .produce_bytes = 1000000000, .consume_messages = 1000000};
	uint64_t end, i, sent = 0, got = 0;
	static char bytes[4000];
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct world w;
	int n;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.visible_at = THMQ_DURABILITY_MEMORY)));
	MUST(thmq_producer_open(w.session, "t", THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY), &p));
	MUST(thmq_consumer_open(w.session, "t", NULL, NULL, &c));
	for (i = 0; i < (is_full() ? 1000u : 60u); i++) {
		MUST(thmq_topic_alter(w.session, "t", THMQ_TOPIC_OPTS(.limits = i % 2 ? &slow : i % 4 ? &fast : NULL), THMQ_ALTER_LIMITS));
		sent += thmq_send(p, bytes, sizeof(bytes), NULL) > 0; /* the first is had on credit: an hour's worth at the slow one */
		sent += thmq_send(p, bytes, sizeof(bytes), NULL) > 0;
		n = thmq_fetch(c, &m, 1);
		got += n == 1;
		if (n == 1)
			MUST(thmq_release(c, &m, 1));
		wait_messages(w.session, MS);
	}
	MUST(thmq_topic_alter(w.session, "t", THMQ_TOPIC_OPTS(.limits = &fast), THMQ_ALTER_LIMITS));
	RETURNS(0, thmq_flush(p, 30 * SECOND));
	for (end = now() + 30 * SECOND; got < sent && now() < end; got += n == 1) {
		n = thmq_fetch(c, &m, 1);
		if (n == 1)
			MUST(thmq_release(c, &m, 1));
		else
			wait_messages(w.session, 10 * MS);
	}
	RETURNS(sent, got);
	down(&w);
}

/* ------------------------------------------------------------------ out of place */

static struct thmq_session *within;
static struct thmq_broker *broker_within;
static struct thmq_env *env_within;
static atomic_uint asked;

/* Whatever a callback calls that would wait for the core that it is on says so, and nothing hangs. */
static int ask_from_within(void *ctx, const struct thmq_access *what)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_broker_stats st = {.size = sizeof(st)};
	struct thmq_session *s;
	struct thmq_txn *t;
	int rc;

	(void)ctx;
	if (what->operation != THMQ_OPERATION_CREATE || !within)
		return 0;
	atomic_fetch_add(&asked, 1);
	CHECK((rc = thmq_topic_create(within, "inner", NULL)) == -EDEADLK || rc == -EPERM || rc == -EINVAL);
	CHECK(thmq_topic_describe(within, "inner", &info) < 0);
	CHECK(thmq_txn_begin(within, NULL, &t) < 0);
	CHECK(thmq_connect(env_within, "inproc://", NULL, &s) < 0);
	CHECK(thmq_broker_close(broker_within, SECOND) == -EDEADLK);
	CHECK(thmq_env_close(env_within, SECOND) == -EDEADLK);
	CHECK(thmq_session_close(within, SECOND) < 0);
	CHECK(thmq_session_wait(within, SECOND) < 0);
	CHECK(thmq_broker_access_renew(broker_within) <= 0);
	thmq_broker_stats(broker_within, &st);
	return 0;
}

static void calls_from_a_callback(void)
{
	struct world w;

	place_make(NULL);
	up_with(&w, THMQ_BROKER_OPTS(.data_dir = in_place("data"), .segment_bytes = 1 << 20, .batch_bytes = 64 << 10, .access = ask_from_within));
	broker_within = w.broker;
	env_within = w.env;
	within = w.session;
	MUST(thmq_topic_create(w.session, "outer", NULL));
	CHECK(atomic_load(&asked) == 1);
	within = NULL;
	still_serves(&w, "outer");
	down(&w);
}

/* Threads that wait for all kinds of things, when the broker is closed by another one: each hears of it. */
static void *wait_for_it(void *arg)
{
	struct user *u = arg;
	struct thmq_session *s = another(u->w);
	struct thmq_producer *p = NULL;
	struct thmq_consumer *c = NULL;
	struct thmq_response r;
	struct thmq_message m;
	struct thmq_txn *t;
	uint64_t end = now() + 50 * SECOND;
	int rc = 0;

	MUST(thmq_producer_open(s, u->kind == 1 ? "slow" : "t", NULL, &p));
	MUST(thmq_consumer_open(s, "t", u->kind % 2 ? "g" : NULL, NULL, &c));
	while (rc >= 0 && now() < end) {
		switch (u->kind) {
		case 0:
			rc = wait_messages(s, 100 * SECOND);
			if (rc == 1 && thmq_fetch(c, &m, 1) == 1)
				thmq_release(c, &m, 1);
			break;
		case 1:
			rc = (int)thmq_send(p, "xx", 2, NULL);
			rc = rc < 0 ? rc : thmq_flush(p, 100 * SECOND);
			break;
		case 2: rc = thmq_call(p, "?", 1, NULL, 100 * SECOND, &r); break;
		case 3:
			rc = thmq_txn_begin(s, NULL, &t);
			if (!rc)
				rc = thmq_txn_commit(t, 100 * SECOND);
			break;
		case 4: rc = thmq_consumer_close(c, SECOND) ? -1 : thmq_consumer_open(s, "t", "g", NULL, &c); break;
		default: {
			struct thmq_topic_info info = {.size = sizeof(info)};

			rc = thmq_topic_describe(s, "t", &info);
			break;
		}
		}
	}
	CHECK(rc < 0 && rc != -ETIMEDOUT);
	CHECK(thmq_session_close(s, SECOND) != -EDEADLK);
	return NULL;
}

static void closed_while_they_wait(void)
{
	struct thmq_limits slow = {.size = sizeof(slow), .produce_bytes = 1};
	struct user users[6];
	uint64_t begin;
	struct world w;
	unsigned i;

	place_make(NULL);
	up(&w);
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_topic_create(w.session, "slow", THMQ_TOPIC_OPTS(.limits = &slow)));
	for (i = 0; i < 6; i++) {
		users[i] = (struct user){.w = &w, .kind = i};
		CHECK(pthread_create(&users[i].thread, NULL, wait_for_it, &users[i]) == 0);
	}
	usleep(300000); /* most of them wait by then; it is right as well if not */
	begin = now();
	RETURNS(0, thmq_broker_close(w.broker, 30 * SECOND));
	for (i = 0; i < 6; i++)
		CHECK(pthread_join(users[i].thread, NULL) == 0);
	CHECK(now() - begin < 40 * SECOND);
	RETURNS(0, thmq_session_close(w.session, SECOND));
	RETURNS(0, thmq_env_close(w.env, 30 * SECOND));
}

static const struct bad_case cases[] = {
	{"options_by_chance", options_by_chance},
	{"two_of_one_instance", two_of_one_instance},
	{"two_of_one_producer", two_of_one_producer},
	{"transactions_of_the_dead", transactions_of_the_dead},
	{"delays_called_off", delays_called_off},
	{"filters_without_end", filters_without_end},
	{"a_member_that_sleeps", a_member_that_sleeps},
	{"a_millisecond_each", a_millisecond_each},
	{"the_topic_goes", the_topic_goes},
	{"limits_change_while_they_wait", limits_change_while_they_wait},
	{"calls_from_a_callback", calls_from_a_callback},
	{"closed_while_they_wait", closed_while_they_wait},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
