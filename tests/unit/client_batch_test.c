/* SPDX-License-Identifier: Apache-2.0 */
/* client_batch_test.c - messages that are sent together, their payloads in one block: read as all others, found, chosen, compressed, refused. */
#include <errno.h>
#include <string.h>
#include <thundermq/log.h>

#include "batch_rig.h"
#include "wire/packed.h"

#define MANY 64u

TestSuite(client_batch, .init = open_all, .fini = close_all, .timeout = 60);

static uint32_t take(struct thmq_consumer *c, struct thmq_message *m, uint32_t want)
{
	uint32_t n = 0;
	int rounds, rc;

	for (rounds = 0; rounds < 30000 && n < want; rounds++) {
		rc = thmq_fetch(c, m + n, want - n);
		cr_assert_geq(rc, 0, "%s", thmq_strerror(rc));
		n += (uint32_t)rc;
		thmq_poll(env, SECOND / 1000);
	}
	cr_assert_eq(n, want);
	return n;
}

static bool has(const struct thmq_message *m, const char *key, const char *data)
{
	return m->key_len == strlen(key) && memcmp(m->key ? m->key : "", key, m->key_len) == 0 && m->len == strlen(data) &&
	       memcmp(m->data, data, m->len) == 0;
}

/* Three: with a key; with key, tag and headers; with nothing at all. */
static int64_t send_three(const struct thmq_message_opts *opts)
{
	const struct thmq_header headers[] = {{"region", "eu", 2, THMQ_HEADER_TEXT}};
	const struct thmq_batch_message messages[] = {
		{.data = "first", .len = 5, .key = "k1", .key_len = 2},
		{.data = "second", .len = 6, .key = "k2", .key_len = 2, .tag = "red", .headers = headers, .header_count = 1, .ttl_ns = 3600 * SECOND},
		{.len = 0}};

	return thmq_send_batch(producer, messages, 3, opts);
}

static void send_all(void)
{
	struct thmq_event e;

	cr_assert_eq(settle(thmq_send(producer, "plain", 5, THMQ_MESSAGE_OPTS(.key = "p", .key_len = 1))).offset, 0);
	e = settle(send_three(NULL));
	cr_assert(e.type == THMQ_EVENT_SETTLED && e.offset == 1 && e.durability == THMQ_DURABILITY_DURABLE, "%s", thmq_strerror(e.error));
	cr_assert_eq(settle(thmq_send(producer, "behind", 6, NULL)).offset, 4);
}

static void check_all(void)
{
	struct thmq_consumer *c = open_consumer(NULL, NULL);
	struct thmq_message m[16];
	struct thmq_header h;
	uint32_t i;

	take(c, m, 5);
	for (i = 0; i < 5; i++)
		cr_assert(m[i].offset == i && m[i].span == 1 && m[i].time_ns > 0);
	cr_assert(has(&m[0], "p", "plain") && has(&m[1], "k1", "first") && has(&m[2], "k2", "second") && has(&m[3], "", "") && has(&m[4], "", "behind"));
	cr_assert(!m[1].tag && !m[1].headers && m[2].tag_len == 3 && memcmp(m[2].tag, "red", 3) == 0);
	cr_assert_eq(thmq_header_find(&m[2], "region", &h), 0);
	cr_assert(h.type == THMQ_HEADER_TEXT && h.value_len == 2 && memcmp(h.value, "eu", 2) == 0);
	cr_assert_eq(thmq_message_encoding(c, &m[1]), THMQ_ENCODING_NONE);
	cr_assert_eq(thmq_release(c, m, 5), 0);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, 2), 0);
	take(c, m, 3);
	cr_assert(has(&m[0], "k2", "second") && m[0].offset == 2);
	cr_assert_eq(thmq_release(c, m, 3), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_batch, they_are_read_as_all_others_and_after_a_restart)
{
	send_all();
	check_all();
	cr_assert_eq(thmq_env_close(env, 5 * SECOND), 0);
	open_broker();
	check_all();
}

Test(client_batch, keys_tags_and_filters_find_what_is_in_them)
{
	struct thmq_key_info info = {.size = sizeof(info)};
	const char *tags[] = {"red"};
	struct thmq_consumer *c;
	struct thmq_message m[16];

	send_all();
	cr_assert_eq(thmq_key_find(session, "t", 0, "k2", 2, UINT64_MAX, &info), 0, "%s", thmq_errmsg());
	cr_assert_eq(info.offset, 2);
	c = open_consumer(NULL, THMQ_CONSUMER_OPTS(.tags = tags, .tag_count = 1));
	take(c, m, 1);
	cr_assert(has(&m[0], "k2", "second"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	c = open_consumer(NULL, THMQ_CONSUMER_OPTS(.filter = "KEY = 'k1' OR region = 'eu'"));
	take(c, m, 2);
	cr_assert(has(&m[0], "k1", "first") && has(&m[1], "k2", "second"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_batch, members_that_share_get_each_of_them)
{
	struct thmq_consumer *c;
	struct thmq_message m[16];
	uint32_t i;

	send_all();
	c = open_consumer("g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .prefetch_count = 2));
	take(c, m, 2);
	cr_assert(has(&m[1], "k1", "first"));
	for (i = 0; i < 2; i++)
		cr_assert_eq(thmq_ack(c, &m[i]), 0);
	cr_assert_eq(thmq_release(c, m, 2), 0);
	cr_assert_eq(thmq_consumer_flush(c, 10 * SECOND), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	c = open_consumer("g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED));
	take(c, m, 3);
	cr_assert(has(&m[0], "k2", "second") && m[0].tag_len == 3 && has(&m[2], "", "behind"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

/* ------------------------------------------------------------------ compressed */

static char texts[MANY][120];

static int64_t send_many(uint32_t count)
{
	struct thmq_batch_message messages[MANY] = {0};
	uint32_t i;

	for (i = 0; i < count; i++) {
		messages[i].len = (uint32_t)snprintf(texts[i], sizeof(texts[i]), "{\"id\":%u,\"state\":\"created\",\"customer\":\"c-%05u\",\"region\":\"north\"}", i * 7919,
						     i * 104729 % 65536);
		messages[i].data = texts[i];
	}
	return thmq_send_batch(producer, messages, count, NULL);
}

static uint64_t bytes_in(void)
{
	struct thmq_broker_stats stats = {.size = sizeof(stats)};

	cr_assert_eq(thmq_broker_stats(broker, &stats), 0, "%s", thmq_errmsg());
	return stats.bytes_in;
}

static bool open_packing(uint32_t compression)
{
	cr_assert_eq(thmq_producer_close(producer, 5 * SECOND), 0);
	return thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT, .compression = compression), &producer) == 0;
}

static void check_compressed(uint32_t compression)
{
	struct thmq_consumer *c;
	struct thmq_message m[MANY];
	uint64_t before, plain;
	struct thmq_event e;
	uint32_t i;

	cr_assert(open_packing(THMQ_COMPRESSION_NONE));
	before = bytes_in();
	e = settle(send_many(MANY));
	cr_assert_eq(e.error, 0);
	plain = bytes_in() - before;
	if (!open_packing(compression)) /* its library is not there */
		return;
	before = bytes_in();
	e = settle(send_many(MANY));
	cr_assert_eq(e.error, 0, "%s", thmq_strerror(e.error));
	cr_assert_lt(bytes_in() - before, plain * 3 / 4, "%u", compression);
	c = open_consumer(NULL, NULL);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, e.offset), 0);
	take(c, m, MANY);
	for (i = 0; i < MANY; i++)
		cr_assert(has(&m[i], "", texts[i]) && m[i].offset == e.offset + i);
	cr_assert_eq(thmq_release(c, m, MANY), 0);
	/* from the middle, and each given back before the next */
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, e.offset + MANY / 2), 0);
	for (i = MANY / 2; i < MANY; i++) {
		take(c, m, 1);
		cr_assert(has(&m[0], "", texts[i]));
		cr_assert_eq(thmq_release(c, m, 1), 0);
	}
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_batch, many_that_are_alike_become_small_together)
{
	check_compressed(THMQ_COMPRESSION_LZ4);
	check_compressed(THMQ_COMPRESSION_ZSTD);
}

Test(client_batch, who_holds_too_much_gets_the_next_when_it_gives_back)
{
	struct thmq_consumer *c;
	struct thmq_message m[MANY], n[MANY];
	uint32_t i, k;

	if (!open_packing(THMQ_COMPRESSION_LZ4))
		return;
	for (i = 0; i < 3; i++)
		cr_assert_eq(settle(send_many(MANY)).error, 0);
	c = open_consumer(NULL, THMQ_CONSUMER_OPTS(.prefetch_bytes = 64 << 10));
	take(c, m, 1); /* its block lies in 64 KiB, and so would the next one's */
	for (i = 1; i < MANY; i++) {
		take(c, n, 1);
		cr_assert_eq(thmq_release(c, n, 1), 0);
	}
	for (k = 0; k < 5000; k++)
		if (thmq_fetch(c, n, 1) == -ENOBUFS)
			break;
	cr_assert_lt(k, 5000);
	cr_assert_eq(thmq_release(c, m, 1), 0);
	for (k = 0; k < 2 * MANY; k += i) {
		i = take(c, n, 1);
		cr_assert(has(&n[0], "", texts[k % MANY]));
		cr_assert_eq(thmq_release(c, n, 1), 0);
	}
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

/* What does not become smaller goes as it is, and is tried ever less often; what does is tried at once again when its turn comes. */
Test(client_batch, noise_goes_as_it_is)
{
	static uint32_t noise[4096];
	const struct thmq_batch_message messages[] = {{.data = noise, .len = 8000}, {.data = noise + 2000, .len = 8000}};
	struct thmq_consumer *c;
	struct thmq_message m[2];
	uint32_t i, x = 1;

	for (i = 0; i < 4096; i++)
		noise[i] = (x ^= x << 13, x ^= x >> 17, x ^= x << 5);
	if (!open_packing(THMQ_COMPRESSION_LZ4))
		return;
	for (i = 0; i < 20; i++)
		cr_assert_eq(settle(thmq_send_batch(producer, messages, 2, NULL)).error, 0);
	c = open_consumer(NULL, NULL);
	for (i = 0; i < 20; i++) {
		take(c, m, 2);
		cr_assert(m[0].len == 8000 && memcmp(m[0].data, noise, 8000) == 0 && m[1].len == 8000 && memcmp(m[1].data, noise + 2000, 8000) == 0);
		cr_assert_eq(thmq_release(c, m, 2), 0);
	}
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

/* Of all lengths around the half of what goes together, and around the whole: what a producer that does not compress may send another may, too. */
static void is_as_long(struct thmq_producer *plain, const struct thmq_batch_message *message, struct thmq_txn *txn)
{
	const struct thmq_message_opts o = {.size = sizeof(o), .txn = txn};
	const int64_t first = thmq_send_batch(plain, message, 1, &o), second = thmq_send_batch(producer, message, 1, &o);

	cr_assert_eq(first < 0 ? first : 0, second < 0 ? second : 0, "%u bytes: %s, and %s", message->len, first < 0 ? thmq_errname((int)first) : "taken",
		     second < 0 ? thmq_errname((int)second) : "taken");
	cr_assert(first > 0 || first == -EMSGSIZE, "%s", thmq_errname((int)first));
	if (first > 0)
		cr_assert(settle(second).error == 0 && thmq_flush(plain, 10 * SECOND) == 0);
}

Test(client_batch, as_many_go_together_as_without_compression)
{
	static char text[(1 << 20) + 4096];
	const uint32_t around[] = {(1 << 19) - 4096, (1 << 20) - 4096, 600000};
	struct thmq_batch_message message = {.data = text};
	struct thmq_producer *plain;
	struct thmq_txn *t;
	uint32_t i, k;

	if (!open_packing(THMQ_COMPRESSION_LZ4))
		return;
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &plain), 0);
	for (i = 0; i < 3; i++)
		for (k = 0; k < 4200; k += k % 512 < 64 ? 8 : 448) {
			message.len = around[i] + k;
			is_as_long(plain, &message, NULL);
		}
	cr_assert_eq(thmq_txn_begin(session, NULL, &t), 0, "%s", thmq_errmsg());
	for (i = 0; i < 2; i++)
		for (k = 0; k < 4200; k += k % 512 < 64 ? 8 : 448) {
			message.len = around[i] + k;
			is_as_long(plain, &message, t);
		}
	cr_assert_eq(thmq_txn_commit(t, 10 * SECOND), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_producer_close(plain, SECOND), 0);
}

/* --------------------------------------------------------------------- refused */

Test(client_batch, what_it_cannot_be_is_refused)
{
	const struct thmq_header headers[] = {{"", "eu", 2, THMQ_HEADER_TEXT}};
	static char large[2 << 20], tag[THMQ_TAG_MAX + 2];
	const struct thmq_batch_message good = {.data = "x", .len = 1};
	const struct thmq_batch_message bad[] = {{.len = 1},
						 {.key_len = 1},
						 {.key = "k"},
						 {.key = large, .key_len = THMQ_KEY_MAX + 1},
						 {.tag = tag},
						 {.header_count = 1},
						 {.headers = headers, .header_count = 1},
						 {.reserved = 1},
						 {.reserved2 = 1}};
	const struct thmq_message_opts wrong[] = {
		{.size = sizeof(wrong[0]), .key = "k", .key_len = 1}, {.size = sizeof(wrong[0]), .tag = "t"},
		{.size = sizeof(wrong[0]), .ttl_ns = 1},	      {.size = sizeof(wrong[0]), .delay_ns = 1},
		{.size = sizeof(wrong[0]), .encoding = 4},	      {.size = sizeof(wrong[0]), .flags = THMQ_MESSAGE_TIME, .time_ns = 1}};
	struct thmq_batch_message two[2];
	static struct thmq_batch_message many[THMQ_BATCH_MAX + 1];
	uint32_t i;

	memset(tag, 't', sizeof(tag) - 1);
	cr_assert_eq(thmq_send_batch(NULL, &good, 1, NULL), -EINVAL);
	cr_assert_eq(thmq_send_batch(producer, NULL, 1, NULL), -EINVAL);
	cr_assert_eq(thmq_send_batch(producer, &good, 0, NULL), -EINVAL);
	cr_assert_eq(thmq_send_batch(producer, many, THMQ_BATCH_MAX + 1, NULL), -EINVAL);
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		two[0] = good;
		two[1] = bad[i];
		cr_assert_eq(thmq_send_batch(producer, two, 2, NULL), -EINVAL, "%u", i);
	}
	for (i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		cr_assert_eq(thmq_send_batch(producer, &good, 1, &wrong[i]), -EINVAL, "%u", i);
	two[1] = (struct thmq_batch_message){.data = large, .len = sizeof(large)};
	cr_assert_eq(thmq_send_batch(producer, two, 2, NULL), -EMSGSIZE);
	cr_assert_eq(settle(thmq_send_batch(producer, many, THMQ_BATCH_MAX, NULL)).error, 0);
	cr_assert_eq(thmq_send_batch(producer, &good, 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 1)), -THMQ_ENOPARTITION);
}

Test(client_batch, all_keys_are_of_one_partition)
{
	struct thmq_batch_message two[2] = {{.data = "a", .len = 1, .key = "k1", .key_len = 2}, {.data = "b", .len = 1, .key = "k1", .key_len = 2}};
	struct thmq_producer *p;
	char key[8];
	uint32_t i;
	int64_t rc = 0;

	cr_assert_eq(thmq_topic_create(session, "wide", THMQ_TOPIC_OPTS(.partition_count = 4)), 0);
	cr_assert_eq(thmq_producer_open(session, "wide", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p), 0);
	cr_assert_eq(settle(thmq_send_batch(p, two, 2, NULL)).error, 0);
	for (i = 0; i < 64 && rc >= 0; i++) {
		snprintf(key, sizeof(key), "%u", i);
		two[1].key = key;
		two[1].key_len = (uint32_t)strlen(key);
		rc = thmq_send_batch(p, two, 2, NULL);
	}
	cr_assert_eq(rc, -EINVAL);
	cr_assert_eq(settle(thmq_send_batch(p, two, 2, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 3))).error, 0);
	cr_assert_eq(thmq_producer_close(p, 5 * SECOND), 0);
}

/* Table, bodies, block and head of two messages, as a client makes them. */
struct made {
	struct thmq_record record[2];
	struct {
		char head[8];
		struct thmqi_in_block in;
	} body[2];
	char payload[16];
	struct thmqi_block block;
};

static const struct made made = {
	.record = {{.size = 16, .key_len = 4, .tag_len = 4, .flags = THMQ_RECORD_IN_BLOCK}, {.size = 16, .key_len = 8, .flags = THMQ_RECORD_IN_BLOCK}},
	.body = {{"key1tag1", {0, 6}}, {"key2key2", {6, 10}}},
	.payload = "firstysecondarys",
	.block = {.len = 16, .raw_len = 16, .count = 2}};

static int send_made(const struct made *m, uint32_t len)
{
	return settle(thmq_send(producer, m, len, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_PACKED))).error;
}

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		struct made is = made;                                                             \
		change;                                                                            \
		cr_assert_eq(send_made(&is, sizeof(is)), -THMQ_ECORRUPT, #change);                   \
	} while (0)

Test(client_batch, what_a_client_made_wrong_the_broker_refuses)
{
	struct thmq_consumer *c;
	struct thmq_message m[3];
	uint32_t i;

	cr_assert_eq(send_made(&made, sizeof(made)), 0);
	for (i = 0; i < sizeof(made); i++)
		cr_assert_lt(send_made(&made, i), 0, "%u bytes", i);
	REFUSED(is.block.len = 17);
	REFUSED(is.block.len = 8);
	REFUSED(is.block.len = UINT32_MAX);
	REFUSED(is.block.raw_len = 17);
	REFUSED(is.block.count = 0);
	REFUSED(is.block.count = 1);
	REFUSED(is.block.count = 3);
	REFUSED((is.block.codec = 1, is.block.raw_len = THMQI_PACKED_RAW_MAX + 1));
	REFUSED(is.record[0].size = 24);
	REFUSED(is.record[1].size = 17);
	REFUSED(is.record[1].size = UINT32_MAX);
	REFUSED(is.record[1].key_len = 9);
	REFUSED(is.record[0].flags = 0);
	REFUSED(is.record[0].flags |= THMQ_RECORD_PACKED);
	REFUSED(is.record[0].flags |= THMQ_RECORD_PART);
	REFUSED(is.record[0].flags |= THMQ_RECORD_TTL);
	REFUSED(is.body[0].in.len = 17);
	REFUSED(is.body[1].in.at = UINT32_MAX);
	c = open_consumer(NULL, NULL);
	take(c, m, 2);
	cr_assert(has(&m[0], "key1", "firsty") && m[0].tag_len == 4 && has(&m[1], "key2key2", "secondarys"));
	cr_assert_eq(thmq_fetch(c, m, 1), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

/* The broker does not look into what is compressed: the consumer says so, and goes on with what comes behind it. */
Test(client_batch, what_is_not_what_it_says_is_passed_over_with_an_error)
{
	static const uint32_t raw[] = {17, 1000, THMQI_PACKED_RAW_MAX};
	struct thmq_event e[16];
	struct thmq_consumer *c;
	struct thmq_message m[1];
	uint32_t i, codec, errors = 0;
	int n, k, rounds;

	for (codec = 1; codec <= 3; codec++)
		for (i = 0; i < 3; i++) {
			struct made is = made;

			is.block.codec = (uint8_t)codec;
			is.block.raw_len = raw[i];
			cr_assert_eq(send_made(&is, sizeof(is)), 0);
		}
	cr_assert_eq(settle(thmq_send(producer, "behind", 6, NULL)).error, 0);
	c = open_consumer(NULL, NULL);
	take(c, m, 1);
	cr_assert(has(&m[0], "", "behind"));
	for (rounds = 0; rounds < 100; rounds++)
		for (n = thmq_events(session, e, 16), k = 0; k < n; k++)
			errors += e[k].type == THMQ_EVENT_ERROR && e[k].error < 0;
	cr_assert_eq(errors, 9);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

/* Whose ring is full has no word for what cannot be read: it is come to again, long before the group would take it back. */
Test(client_batch, a_full_ring_puts_off_what_cannot_be_read)
{
	const uint64_t soon[] = {1000000};
	struct made is = made;
	struct thmq_consumer *c;
	struct thmq_message m[1], n[1];
	struct thmq_event e;
	uint32_t dead = 0, behind = 0, i;
	int rc, rounds;

	is.block.codec = THMQ_COMPRESSION_LZ4;
	is.block.raw_len = 1000;
	cr_assert_eq(settle(thmq_send(producer, "before", 6, NULL)).error, 0);
	cr_assert_eq(send_made(&is, sizeof(is)), 0);
	cr_assert_eq(settle(thmq_send(producer, "behind", 6, NULL)).error, 0);
	c = open_consumer("g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .invisible_ns = 3600 * SECOND, .backoff_ns = soon, .backoff_count = 1));
	take(c, m, 1);
	for (i = 0; i < 100; i++)
		thmq_poll(env, SECOND / 1000);
	while (thmq_extend(c, m, 3600 * SECOND) == 0)
		;
	for (i = 0; i < 10; i++)
		cr_assert_eq(thmq_fetch(c, n, 1), 0);
	for (rounds = 0; rounds < 30000 && (dead < 2 || !behind); rounds++) {
		rc = thmq_fetch(c, n, 1);
		cr_assert_geq(rc, 0, "%s", thmq_strerror(rc));
		if (rc) {
			cr_assert(has(&n[0], "", "behind"));
			behind++;
			cr_assert_eq(thmq_release(c, n, 1), 0);
		}
		while (thmq_events(session, &e, 1) == 1)
			dead += e.type == THMQ_EVENT_DEAD_LETTER;
		thmq_poll(env, SECOND / 1000);
	}
	cr_assert(dead == 2 && behind == 1, "%u, %u", dead, behind);
	cr_assert_eq(thmq_release(c, m, 1), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

/* Of three, one has gone by compaction: the two that are left come to an end, and its offset is nobody's. */
Test(client_batch, what_is_left_of_a_batch_that_cannot_be_read_comes_to_an_end)
{
	static const char *const keys[] = {"key1", "key2", "key3"};
	static char filler[64 << 10];
	const uint64_t soon[] = {1000000};
	struct {
		struct thmq_record record[3];
		struct {
			char key[8];
			struct thmqi_in_block in;
		} body[3];
		char payload[16];
		struct thmqi_block block;
	} is = {.payload = "\xff\xff\xff\xff", .block = {.len = 16, .raw_len = 1000, .count = 3, .codec = THMQ_COMPRESSION_LZ4}};
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[1];
	struct thmq_event e;
	uint32_t dead = 0, good = 0, i;
	uint64_t offsets = 0;
	int rounds, rc;

	for (i = 0; i < 3; i++) {
		is.record[i] = (struct thmq_record){.size = 16, .key_len = 8, .flags = THMQ_RECORD_IN_BLOCK};
		memcpy(is.body[i].key, keys[i], 4);
		is.body[i].in.len = 1;
	}
	cr_assert_eq(thmq_topic_create(session, "c", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT)), 0);
	cr_assert_eq(thmq_topic_create(session, "filler", THMQ_TOPIC_OPTS(.retention_bytes = 1)), 0);
	cr_assert_eq(thmq_producer_open(session, "c", NULL, &p), 0);
	cr_assert_gt(thmq_send(p, &is, sizeof(is), THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_PACKED)), 0);
	cr_assert_gt(thmq_send(p, "newer", 5, THMQ_MESSAGE_OPTS(.key = is.body[1].key, .key_len = 8)), 0);
	cr_assert_eq(thmq_flush(p, 10 * SECOND), 0);
	cr_assert_eq(thmq_producer_close(p, SECOND), 0);
	cr_assert_eq(thmq_producer_open(session, "filler", NULL, &p), 0);
	for (i = 0; i < 1200; i++) {
		while ((rc = (int)thmq_send(p, filler, sizeof(filler), NULL)) == -EAGAIN)
			thmq_poll(env, SECOND / 1000);
		cr_assert_gt(rc, 0, "%s", thmq_strerror(rc));
	}
	cr_assert_eq(thmq_flush(p, 20 * SECOND), 0);
	for (i = 0; i < 30000 && !info.begin_offset; i++) { /* the first segment goes with what nobody needs */
		thmq_poll(env, SECOND / 1000);
		cr_assert_eq(thmq_partition_describe(session, "filler", 0, NULL, &info), 0);
	}
	cr_assert(info.begin_offset);
	cr_assert_eq(thmq_consumer_open(session, "c", "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .backoff_ns = soon, .backoff_count = 1), &c), 0);
	for (rounds = 0; rounds < 10000 && (dead < 2 || !good); rounds++) {
		rc = thmq_fetch(c, m, 1);
		cr_assert_geq(rc, 0, "%s", thmq_strerror(rc));
		if (rc) {
			cr_assert(m[0].len == 5 && m[0].offset == 3);
			good++;
			cr_assert_eq(thmq_ack(c, &m[0]), 0);
			cr_assert_eq(thmq_release(c, m, 1), 0);
		}
		while (thmq_events(session, &e, 1) == 1)
			if (e.type == THMQ_EVENT_DEAD_LETTER) {
				dead++;
				offsets = offsets * 10 + e.offset;
			}
		thmq_poll(env, SECOND / 1000);
	}
	cr_assert(dead == 2 && good == 1 && offsets == 2, "%u, %u, %llu", dead, good, (unsigned long long)offsets);
	cr_assert_eq(thmq_consumer_flush(c, 10 * SECOND), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	cr_assert_eq(thmq_producer_close(p, SECOND), 0);
}

/* ---------------------------------------------------------------- transactions */

static void in_transaction(bool commit)
{
	struct thmq_claim claim;
	struct thmq_txn *t;

	cr_assert_eq(thmq_txn_begin(session, NULL, &t), 0, "%s", thmq_errmsg());
	cr_assert_eq(settle(thmq_send(producer, commit ? "yes" : "no", commit ? 3 : 2, THMQ_MESSAGE_OPTS(.txn = t))).error, 0);
	cr_assert_eq(settle(send_three(THMQ_MESSAGE_OPTS(.txn = t))).error, 0);
	cr_assert_eq(thmq_claim(producer, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_PACKED, .txn = t), sizeof(made), &claim), 0);
	memcpy(claim.data, &made, sizeof(made));
	cr_assert_eq(settle(thmq_commit(producer, &claim)).error, 0);
	cr_assert_eq(commit ? thmq_txn_commit(t, 5 * SECOND) : thmq_txn_abort(t, 5 * SECOND), 0, "%s", thmq_errmsg());
}

static void check_in_transaction(void)
{
	struct thmq_consumer *c = open_consumer(NULL, NULL);
	struct thmq_message m[6];

	take(c, m, 6);
	cr_assert(has(&m[0], "", "yes") && m[0].offset == 6 && has(&m[1], "k1", "first") && has(&m[2], "k2", "second") && m[3].offset == 9 &&
		  has(&m[4], "key1", "firsty") && has(&m[5], "key2key2", "secondarys"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_batch, one_of_a_transaction_is_seen_once_that_is_committed)
{
	in_transaction(false);
	in_transaction(true);
	check_in_transaction();
	thmq_env_close(env, 5 * SECOND);
	open_broker();
	check_in_transaction();
}

Test(client_batch, a_volatile_topic_takes_them_too)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[2];

	cr_assert_eq(thmq_topic_create(session, "v", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)), 0);
	cr_assert_eq(thmq_producer_open(session, "v", NULL, &p), 0);
	cr_assert_eq(thmq_consumer_open(session, "v", NULL, NULL, &c), 0);
	cr_assert_gt(thmq_send(p, &made, sizeof(made), THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_PACKED)), 0);
	take(c, m, 2);
	cr_assert(has(&m[0], "key1", "firsty") && has(&m[1], "key2key2", "secondarys"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	cr_assert_eq(thmq_producer_close(p, 5 * SECOND), 0);
}
