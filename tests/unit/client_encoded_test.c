/* SPDX-License-Identifier: Apache-2.0 */
/* client_encoded_test.c - batches of Kafka's protocol, stored as they are: read as messages and as they are, found, chosen, and refused. */
#include <errno.h>
#include <string.h>

#include "../../examples/kafka/batch.h"
#include "batch_rig.h"

#define TIME_MS 1700000000000ll

static struct out batch;

static void end(void)
{
	out_free(&batch);
	close_all();
}

TestSuite(client_encoded, .init = open_all, .fini = end, .timeout = 60);

static struct text none = {NULL, 0};

/* Three records: with a key; with a tag and headers, an hour before the first; of nothing. */
static void make_batch(void)
{
	struct out headers = {.data = NULL};
	struct batch_making m;

	batch.len = 0;
	batch_begin(&m, &batch, 0, TIME_MS);
	batch_add(&m, 0, TIME_MS, text_of("k1"), text_of("first"), &headers, 0);
	batch_add_header(&headers, text_of("region"), text_of("eu"));
	batch_add_header(&headers, text_of("thmq.tag"), text_of("red"));
	batch_add_header(&headers, text_of("null"), none);
	batch_add(&m, 1, TIME_MS - 3600000 * 3, text_of("k2"), text_of("second"), &headers, 3);
	headers.len = 0;
	batch_add(&m, 2, TIME_MS + 5, none, none, &headers, 0);
	batch_end(&m, 2);
	out_free(&headers);
}

static void reseal(void)
{
	put_i32(batch.data + 17, (int32_t)crc32c(0, batch.data + 21, batch.len - 21));
}

static int64_t send_batch(void)
{
	return thmq_send(producer, batch.data, (uint32_t)batch.len, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA));
}

/* One, five in all: a plain message, a batch of three, another plain one. */
static void send_all(void)
{
	struct thmq_event e;

	make_batch();
	e = settle(thmq_send(producer, "plain", 5, THMQ_MESSAGE_OPTS(.key = "p", .key_len = 1)));
	cr_assert_eq(e.offset, 0);
	e = settle(send_batch());
	cr_assert(e.type == THMQ_EVENT_SETTLED && e.offset == 1 && e.durability == THMQ_DURABILITY_DURABLE, "%s", thmq_strerror(e.error));
	e = settle(thmq_send(producer, "behind", 6, NULL));
	cr_assert_eq(e.offset, 4);
}

static uint32_t take(struct thmq_consumer *c, struct thmq_message *m, uint32_t want)
{
	uint32_t n = 0;
	int rounds, rc;

	for (rounds = 0; rounds < (n < want ? 2000 : 20); rounds++) {
		rc = thmq_fetch(c, m + n, 16 - n);
		if (rc == -ENOBUFS && n == want) /* all that it may hold */
			break;
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

static void check_messages(void)
{
	struct thmq_consumer *c = open_consumer(NULL, NULL);
	struct thmq_message m[16];
	struct thmq_header h;
	uint32_t i;

	take(c, m, 5);
	for (i = 0; i < 5; i++)
		cr_assert(m[i].offset == i && m[i].span == 1);
	cr_assert(has(&m[0], "p", "plain") && has(&m[1], "k1", "first") && has(&m[2], "k2", "second") && has(&m[3], "", "") &&
		  has(&m[4], "", "behind"));
	cr_assert(!m[1].tag && !m[1].headers && m[1].time_ns == TIME_MS * 1000000);
	cr_assert(m[2].tag_len == 3 && memcmp(m[2].tag, "red", 3) == 0);
	cr_assert_eq(m[2].time_ns, (TIME_MS - 3600000 * 3) * 1000000, "further away than a run's table reaches");
	cr_assert_eq(thmq_header_find(&m[2], "region", &h), 0);
	cr_assert(h.type == THMQ_HEADER_BYTES && h.value_len == 2 && memcmp(h.value, "eu", 2) == 0);
	cr_assert_eq(thmq_header_find(&m[2], "null", &h), 0);
	cr_assert(h.type == THMQ_HEADER_TEXT && h.value_len == 0);
	cr_assert_lt(thmq_header_find(&m[2], "thmq.tag", &h), 0);
	cr_assert_eq(m[3].time_ns, (TIME_MS + 5) * 1000000);
	cr_assert_eq(thmq_message_encoding(c, &m[1]), THMQ_ENCODING_NONE);
	cr_assert_eq(thmq_release(c, m, 5), 0);
	cr_assert_eq(thmq_message_encoding(c, &m[1]), -EINVAL);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, 2), 0);
	take(c, m, 3);
	cr_assert(has(&m[0], "k2", "second") && m[0].offset == 2);
	cr_assert_eq(thmq_release(c, m, 3), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_encoded, they_are_read_as_messages_of_the_library)
{
	send_all();
	check_messages();
	cr_assert_eq(thmq_env_close(env, 5 * SECOND), 0);
	open_broker();
	check_messages();
}

Test(client_encoded, who_asks_for_it_gets_them_as_they_are)
{
	struct thmq_consumer *c;
	struct thmq_message m[16];

	send_all();
	c = open_consumer(NULL, THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_ENCODED));
	take(c, m, 3);
	cr_assert(has(&m[0], "p", "plain") && has(&m[2], "", "behind") && m[2].offset == 4);
	cr_assert_eq(thmq_message_encoding(c, &m[0]), THMQ_ENCODING_NONE);
	cr_assert_eq(thmq_message_encoding(c, &m[1]), THMQ_ENCODING_KAFKA);
	cr_assert(m[1].offset == 1 && m[1].span == 3 && !m[1].key && !m[1].tag && !m[1].headers);
	cr_assert(m[1].len == batch.len && memcmp(m[1].data, batch.data, batch.len) == 0);
	cr_assert_eq(thmq_release(c, m, 3), 0);
	cr_assert_eq(thmq_release(c, m, 1), -EINVAL);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, 3), 0);
	take(c, m, 2); /* from the middle of it: all of it */
	cr_assert(m[0].offset == 1 && m[0].span == 3 && m[1].offset == 4);
	cr_assert_eq(thmq_release(c, m, 2), 0);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_TIME, (uint64_t)(TIME_MS + 5) * 1000000), 0);
	take(c, m, 3);
	cr_assert_eq(thmq_release(c, m, 3), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_encoded, keys_tags_and_filters_find_what_is_in_them)
{
	struct thmq_key_info info = {.size = sizeof(info)};
	const char *tags[] = {"red"};
	struct thmq_consumer *c;
	struct thmq_message m[16];

	send_all();
	cr_assert_eq(thmq_key_find(session, "t", 0, "k2", 2, UINT64_MAX, &info), 0, "%s", thmq_errmsg());
	cr_assert_eq(info.offset, 2);
	cr_assert_neq(thmq_key_find(session, "t", 0, "first", 5, UINT64_MAX, &info), 0);
	c = open_consumer(NULL, THMQ_CONSUMER_OPTS(.tags = tags, .tag_count = 1));
	take(c, m, 1);
	cr_assert(has(&m[0], "k2", "second"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	c = open_consumer(NULL, THMQ_CONSUMER_OPTS(.filter = "KEY = 'k1' OR region = 'eu'"));
	take(c, m, 2);
	cr_assert(has(&m[0], "k1", "first") && has(&m[1], "k2", "second"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_encoded, members_that_share_get_each_of_them)
{
	struct thmq_consumer *c, *d;
	struct thmq_message m[16];
	uint32_t i;

	send_all();
	c = open_consumer("g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .prefetch_count = 2));
	take(c, m, 2);
	cr_assert(has(&m[1], "k1", "first"));
	for (i = 0; i < 2; i++)
		cr_assert_eq(thmq_ack(c, &m[i]), 0);
	cr_assert_eq(thmq_release(c, m, 2), 0);
	cr_assert_eq(thmq_consumer_flush(c, SECOND), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	d = open_consumer("g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED));
	take(d, m, 3);
	cr_assert(has(&m[0], "k2", "second") && m[0].tag_len == 3 && has(&m[2], "", "behind"));
	cr_assert_eq(thmq_consumer_close(d, SECOND), 0);
}

Test(client_encoded, a_group_goes_on_behind_what_it_has_acknowledged)
{
	struct thmq_consumer *c;
	struct thmq_message m[16];

	send_all();
	c = open_consumer("g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_ENCODED));
	take(c, m, 3);
	cr_assert_eq(thmq_ack(c, &m[1]), 0);
	cr_assert_eq(thmq_release(c, m, 3), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	c = open_consumer("g", NULL);
	take(c, m, 1);
	cr_assert(has(&m[0], "", "behind"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

/* What the clients of each codec put where the records are. */
static bool pack_batch(int codec, const char *command)
{
	char text[600], name[64], packed[64];
	uint8_t *bytes;
	size_t n;
	FILE *f;

	snprintf(name, sizeof(name), "%s/records", dir);
	snprintf(packed, sizeof(packed), "%s/packed", dir);
	f = fopen(name, "w");
	cr_assert(f && fwrite(batch.data + 61, 1, batch.len - 61, f) == batch.len - 61 && fclose(f) == 0);
	snprintf(text, sizeof(text), command, name, packed);
	if (system(text) != 0)
		return false;
	bytes = malloc(1 << 20);
	f = fopen(packed, "r");
	n = fread(bytes, 1, 1 << 20, f);
	cr_assert(n > 0 && fclose(f) == 0);
	batch.len = 61;
	out_copy(&batch, bytes, n);
	free(bytes);
	batch.data[22] = (uint8_t)codec;
	put_i32(batch.data + 8, (int32_t)batch.len - 12);
	reseal();
	return true;
}

static void check_packed(const char *what)
{
	struct thmq_event e;
	struct thmq_message m[16];
	struct thmq_consumer *c;

	cr_assert_eq(settle(thmq_send(producer, "plain", 5, NULL)).error, 0);
	e = settle(send_batch());
	cr_assert_eq(e.error, 0, "%s: %s", what, thmq_strerror(e.error));
	cr_assert_eq(settle(thmq_send(producer, "behind", 6, NULL)).error, 0);
	c = open_consumer(NULL, NULL);
	cr_assert_eq(thmq_seek(c, 0, THMQ_START_OFFSET, e.offset - 1), 0);
	take(c, m, 5);
	cr_assert(has(&m[0], "", "plain") && has(&m[1], "k1", "first") && has(&m[2], "k2", "second") && has(&m[3], "", "") && has(&m[4], "", "behind"),
		  "%s", what);
	cr_assert(m[2].tag_len == 3 && memcmp(m[2].tag, "red", 3) == 0 && m[2].headers_len && m[2].offset == e.offset + 1);
	cr_assert_eq(thmq_release(c, m, 5), 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_encoded, those_that_are_compressed_are_unpacked)
{
	static const struct {
		int codec;
		const char *command; /* from a file to a file */
	} all[] = {
#ifdef HAVE_ZLIB
		{1, "gzip -c %s > %s 2> /dev/null"},
#endif
#ifdef HAVE_LZ4
		{3, "lz4 -q -f %s %s 2> /dev/null"},
#endif
#ifdef HAVE_ZSTD
		{4, "zstd -q -f %s -o %s 2> /dev/null"},
#endif
		{0, "cp %s %s"}};
	uint32_t i, tried = 0;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		make_batch();
		if (!pack_batch(all[i].codec, all[i].command))
			continue;
		check_packed(all[i].command);
		tried++;
	}
	cr_assert_geq(tried, 1);
}

#ifdef HAVE_SNAPPY
/* Snappy by hand, as it is and as Java frames it: one literal, which is what a compressor that finds nothing writes. */
Test(client_encoded, snappy_with_and_without_its_frame)
{
	uint8_t records[1024], head[16] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}, piece[8];
	uint32_t len, half, at, framed;

	for (framed = 0; framed < 2; framed++) {
		make_batch();
		len = (uint32_t)batch.len - 61;
		cr_assert(len > 61 && len < sizeof(records));
		memcpy(records, batch.data + 61, len);
		batch.len = 61;
		if (framed)
			out_copy(&batch, head, sizeof(head));
		for (at = 0; at < len; at += half) {
			uint32_t n = 0;

			half = framed ? len / 2 : len;
			half = half < len - at ? half : len - at;
			piece[n++] = (uint8_t)(half & 0x7f) | (half > 127 ? 0x80 : 0);
			if (half > 127)
				piece[n++] = (uint8_t)(half >> 7);
			piece[n++] = half > 60 ? 60 << 2 : (uint8_t)((half - 1) << 2);
			if (half > 60)
				piece[n++] = (uint8_t)(half - 1);
			cr_assert_leq(half, 256);
			if (framed) {
				uint8_t length[4] = {0, 0, 0, (uint8_t)(n + half)};

				cr_assert_lt(n + half, 256);
				out_copy(&batch, length, 4);
			}
			out_copy(&batch, piece, n);
			out_copy(&batch, records + at, half);
		}
		batch.data[22] = 2;
		put_i32(batch.data + 8, (int32_t)batch.len - 12);
		reseal();
		check_packed(framed ? "framed" : "as it is");
	}
}
#endif

/* Bytes that are none, in each of the codecs: told once, and what is behind them comes. */
Test(client_encoded, what_cannot_be_unpacked_is_told_and_passed_over)
{
	struct thmq_message m[16];
	struct thmq_consumer *c;
	struct thmq_event e;
	uint32_t codec, i, told = 0;

	for (codec = 1; codec <= 4; codec++) {
		make_batch();
		batch.data[22] = (uint8_t)codec;
		for (i = 61; i < batch.len; i++)
			batch.data[i] = (uint8_t)(i * 37 + codec);
		reseal();
		cr_assert_eq(settle(send_batch()).error, 0);
	}
	cr_assert_eq(settle(thmq_send(producer, "behind", 6, NULL)).error, 0);
	c = open_consumer(NULL, NULL);
	take(c, m, 1);
	cr_assert(has(&m[0], "", "behind") && m[0].offset == 12);
	while (thmq_events(session, &e, 1) == 1)
		if (e.type == THMQ_EVENT_ERROR) {
			cr_assert(e.error == -THMQ_ECORRUPT || e.error == -EOPNOTSUPP, "%s", thmq_strerror(e.error));
			cr_assert_eq(e.offset, 3 * told++);
		}
	cr_assert_eq(told, 4);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

static void is_refused(int error, const char *what)
{
	struct thmq_event e = settle(send_batch());

	cr_assert(e.type == THMQ_EVENT_FAILED && e.error == error, "%s: %s", what, thmq_strerror(e.error));
}

Test(client_encoded, what_is_no_batch_is_refused_and_nothing_of_it_is_stored)
{
	struct out headers = {.data = NULL};
	struct batch_making m;
	struct thmq_event e;
	char key[5000];
	uint32_t i;

	memset(key, 'k', sizeof(key));
	make_batch();
	for (i = 8; i < batch.len; i++) {
		if (i >= 12 && i < 16)
			continue; /* not in its checksum */
		batch.data[i] ^= 0x11;
		e = settle(send_batch());
		cr_assert(e.type == THMQ_EVENT_FAILED && (e.error == -THMQ_ECORRUPT || (i == 16 && e.error == -THMQ_EVERSION) || (i == 22 && e.error == -EOPNOTSUPP)),
			  "byte %u: %s", i, thmq_strerror(e.error));
		batch.data[i] ^= 0x11;
	}
	for (i = 0; i < batch.len; i += 7)
		cr_assert_eq(settle(thmq_send(producer, batch.data, i, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA))).error,
			     -THMQ_ECORRUPT);
	batch.data[22] |= BATCH_TRANSACTIONAL;
	reseal();
	is_refused(-EOPNOTSUPP, "of a transaction");
	make_batch();
	batch.data[60]++; /* a record more than there is */
	batch.data[26]++;
	reseal();
	is_refused(-THMQ_ECORRUPT, "one too few");
	make_batch();
	batch.data[60]--;
	batch.data[26]--;
	reseal();
	is_refused(-THMQ_ECORRUPT, "one too many");
	batch.len = 0;
	batch_begin(&m, &batch, 0, TIME_MS);
	batch_add(&m, 1, TIME_MS, none, none, &headers, 0);
	batch_end(&m, 0);
	is_refused(-THMQ_ECORRUPT, "an offset that is another's");
	batch.len = 0;
	batch_begin(&m, &batch, 0, TIME_MS);
	batch_add(&m, 0, TIME_MS, (struct text){key, sizeof(key)}, none, &headers, 0);
	batch_end(&m, 0);
	is_refused(-EINVAL, "a key that no message has");
	send_all(); /* the first offsets are still free */
	out_free(&headers);
}

Test(client_encoded, what_does_not_go_together_is_an_error_at_once)
{
	struct thmq_consumer_opts bad[] = {{.flags = THMQ_CONSUMER_ENCODED | THMQ_CONSUMER_SHARED},
					   {.flags = THMQ_CONSUMER_ENCODED, .filter = "KEY = 'k'"},
					   {.flags = THMQ_CONSUMER_ENCODED, .tag_count = 1}};
	const char *tag = "red";
	struct thmq_consumer *c;
	char *large = calloc(1, 5 << 20);
	uint32_t i;

	make_batch();
	cr_assert_eq(thmq_send(producer, batch.data, 10, THMQ_MESSAGE_OPTS(.encoding = 3)), -EINVAL);
	cr_assert_eq(thmq_send(producer, batch.data, 10, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA, .key = "k", .key_len = 1)), -EINVAL);
	cr_assert_eq(thmq_send(producer, batch.data, 10, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA, .tag = "t")), -EINVAL);
	cr_assert_eq(thmq_send(producer, batch.data, 10, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA, .ttl_ns = 1)), -EINVAL);
	cr_assert_eq(thmq_send(producer, batch.data, 10,
			       THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA, .flags = THMQ_MESSAGE_TIME, .time_ns = 1)),
		     -EINVAL);
	cr_assert_eq(thmq_send(producer, large, 5 << 20, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA)), -EMSGSIZE);
	for (i = 0; i < 3; i++) {
		bad[i].size = sizeof(bad[i]);
		bad[i].tags = &tag;
		cr_assert_eq(thmq_consumer_open(session, "t", "g", &bad[i], &c), -EINVAL, "%u", i);
	}
	free(large);
}

Test(client_encoded, a_claim_may_be_one_too)
{
	struct thmq_claim claim;
	struct thmq_consumer *c;
	struct thmq_message m[16];

	make_batch();
	cr_assert_eq(thmq_claim(producer, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA), (uint32_t)batch.len, &claim), 0);
	memcpy(claim.data, batch.data, batch.len);
	cr_assert_eq(settle(thmq_commit(producer, &claim)).error, 0);
	c = open_consumer(NULL, NULL);
	take(c, m, 3);
	cr_assert(has(&m[1], "k2", "second"));
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

static void in_transaction(bool commit)
{
	struct thmq_txn *t;
	struct thmq_event e;

	cr_assert_eq(thmq_txn_begin(session, NULL, &t), 0, "%s", thmq_errmsg());
	e = settle(thmq_send(producer, commit ? "yes" : "no", commit ? 3 : 2, THMQ_MESSAGE_OPTS(.txn = t)));
	cr_assert_eq(e.error, 0);
	e = settle(thmq_send(producer, batch.data, (uint32_t)batch.len, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA, .txn = t)));
	cr_assert_eq(e.error, 0, "%s", thmq_strerror(e.error));
	cr_assert_eq(commit ? thmq_txn_commit(t, 5 * SECOND) : thmq_txn_abort(t, 5 * SECOND), 0, "%s", thmq_errmsg());
}

static void check_in_transaction(void)
{
	struct thmq_consumer *c = open_consumer(NULL, NULL);
	struct thmq_message m[16];

	take(c, m, 4);
	cr_assert(has(&m[0], "", "yes") && m[0].offset == 4 && has(&m[1], "k1", "first") && has(&m[2], "k2", "second") && m[3].offset == 7);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
	c = open_consumer(NULL, THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_ENCODED | THMQ_CONSUMER_READ_UNCOMMITTED));
	take(c, m, 4);
	cr_assert(has(&m[0], "", "no") && m[1].offset == 1 && m[1].span == 3 && has(&m[2], "", "yes") && m[3].offset == 5);
	cr_assert(m[3].len == batch.len && memcmp(m[3].data, batch.data, batch.len) == 0);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_encoded, one_of_a_transaction_is_seen_once_that_is_committed)
{
	struct thmq_txn *t;

	make_batch();
	batch.data[22] |= 16; /* it says that it is of one */
	reseal();
	cr_assert_eq(settle(send_batch()).error, -EOPNOTSUPP);
	in_transaction(false);
	in_transaction(true);
	check_in_transaction();
	cr_assert_eq(thmq_txn_begin(session, NULL, &t), 0);
	batch.data[50]++; /* what is refused aborts it */
	cr_assert_eq(settle(thmq_send(producer, batch.data, (uint32_t)batch.len, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA, .txn = t))).error,
		     -THMQ_ECORRUPT);
	cr_assert_eq(thmq_txn_commit(t, 5 * SECOND), -EIO);
	batch.data[50]--;
	thmq_env_close(env, 5 * SECOND);
	open_broker();
	check_in_transaction();
}
