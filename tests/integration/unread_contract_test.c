/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unread_contract_test.c - messages that nobody, or not everybody, can read, over any medium: those before and behind them come all the same, and in
 * a shared group they are tried as often as may be, and then are done. The codec may be made to be missing, or to fail.
 *
 * usage: unread_contract_test MEDIUM [case …]; MEDIUM as of transport_contract_test.c.
 */
#include <dlfcn.h>
#include <thundermq/log.h>

#include "../../examples/kafka/batch.h"
#include "contract.h"
#include "wire/packed.h"

#define PATIENCE_NS (60 * SECOND)
#define LARGE 2000u

/* ---------------------------------------------------------------------- codec */

static enum { CODEC_THERE, CODEC_MISSING, CODEC_FAILS, CODEC_COUNTS } codec;
static uint32_t unpacked; /* times, by the one that counts */
static char nothing_packed[LARGE];

/* In place of the system's, for the library's sake. */
void *dlopen(const char *name, int flags)
{
	static void *(*real)(const char *, int);
	void *found;

	if (!real) {
		found = dlsym(RTLD_NEXT, "dlopen");
		memcpy(&real, &found, sizeof(found));
	}
	if (name && strcmp(name, "liblz4.so.1") == 0 && codec == CODEC_MISSING)
		return NULL;
	return real(name && strcmp(name, "liblz4.so.1") == 0 && codec >= CODEC_FAILS ? NULL : name, flags);
}

/* The codec that fails, or counts, is this program. */
int LZ4_sizeofState(void);
int LZ4_compress_fast_extState(void *, const char *, char *, int, int, int);
int LZ4_decompress_safe(const char *, char *, int, int);

int LZ4_sizeofState(void)
{
	return 16;
}

int LZ4_compress_fast_extState(void *state, const char *from, char *to, int len, int room, int fast)
{
	(void)state, (void)from, (void)to, (void)len, (void)room, (void)fast;
	return 0;
}

int LZ4_decompress_safe(const char *from, char *to, int len, int room)
{
	int (*real)(const char *, char *, int, int);
	void *library, *found;
	int rc = -1;

	if (codec != CODEC_COUNTS)
		return -1;
	codec = CODEC_THERE;
	library = dlopen("liblz4.so.1", RTLD_NOW | RTLD_LOCAL);
	codec = CODEC_COUNTS;
	found = library ? dlsym(library, "LZ4_decompress_safe") : NULL;
	if (found) {
		memcpy(&real, &found, sizeof(real));
		rc = real(from, to, len, room);
		unpacked++;
		dlclose(library);
	}
	return rc;
}

/* ------------------------------------------------------------------- messages */

static int64_t sent(int64_t rc)
{
	CHECK(rc > 0);
	return rc;
}

static void good(struct thmq_producer *p, uint32_t number)
{
	sent(thmq_send(p, &number, sizeof(number), NULL));
}

/* Three, whose block is not what it says. */
static void bad_packed(struct thmq_producer *p)
{
	struct {
		struct thmq_record record[3];
		struct thmqi_in_block in[3];
		char payload[16];
		struct thmqi_block block;
	} is = {.payload = "\xff\xff\xff\xff", .block = {.len = 16, .raw_len = 1000, .count = 3, .codec = THMQ_COMPRESSION_LZ4}};
	uint32_t i;

	for (i = 0; i < 3; i++) {
		is.record[i] = (struct thmq_record){.size = 8, .flags = THMQ_RECORD_IN_BLOCK};
		is.in[i] = (struct thmqi_in_block){.at = i, .len = 1};
	}
	sent(thmq_send(p, &is, sizeof(is), THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_PACKED)));
}

/* Likewise of Kafka's protocol: the codec is known, what it left is none of its. */
static void bad_kafka(struct thmq_producer *p)
{
	struct out batch = {.data = NULL}, headers = {.data = NULL};
	struct batch_making m;
	uint32_t i;

	batch_begin(&m, &batch, 0, 1700000000000ll);
	for (i = 0; i < 3; i++)
		batch_add(&m, (int32_t)i, 1700000000000ll, text_of("key"), text_of("payload that is none"), &headers, 0);
	batch_end(&m, 2);
	batch.data[22] = 1; /* gzip */
	put_i32(batch.data + 17, (int32_t)crc32c(0, batch.data + 21, batch.len - 21));
	sent(thmq_send(p, batch.data, (uint32_t)batch.len, THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA)));
	out_free(&batch);
}

/* @goods good ones with what @bad sends, three messages, behind each. */
static void send_all(struct thmq_session *s, const char *topic, uint32_t goods, void (*bad)(struct thmq_producer *))
{
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_topic_create(s, topic, NULL) == 0);
	CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
	for (i = 0; i < goods; i++) {
		good(p, i);
		bad(p);
	}
	CHECK(thmq_flush(p, PATIENCE_NS) == 0 && thmq_producer_close(p, SECOND) == 0);
}

/* What was told since it was asked last. */
struct told {
	uint32_t errors, dead;
	uint64_t deliveries; /* of the dead, all together */
	int error;	     /* the last one */
};

static void listen_to(struct thmq_session *s, struct told *t)
{
	struct thmq_event e;

	while (thmq_events(s, &e, 1) == 1) {
		CHECK(e.type != THMQ_EVENT_DROPPED);
		if (e.type == THMQ_EVENT_ERROR) {
			t->errors++;
			t->error = e.error;
		}
		if (e.type == THMQ_EVENT_DEAD_LETTER) {
			t->dead++;
			t->deliveries += e.count;
		}
	}
}

/* @goods of them, each acknowledged, in whatever order; then until @dead were told of. */
static void take_all(struct thmq_session *s, struct thmq_consumer *c, uint32_t goods, uint32_t dead, struct told *t)
{
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_message m;
	uint32_t number, n = 0;
	uint64_t seen = 0;

	while (n < goods || t->dead < dead) {
		CHECK(now() < end);
		if (thmq_fetch(c, &m, 1) == 1) {
			CHECK(m.len == sizeof(number));
			memcpy(&number, m.data, sizeof(number));
			CHECK(number < goods && !(seen & 1ull << number));
			seen |= 1ull << number;
			n++;
			CHECK(thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
		} else {
			thmq_session_wait(s, 10 * MS);
		}
		listen_to(s, t);
	}
	CHECK(n == goods && t->dead == dead);
}

static void check_done(struct thmq_session *s, struct thmq_consumer *c, const char *topic, const char *group, uint64_t all)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_consumer_flush(c, PATIENCE_NS) == 0);
	CHECK(thmq_partition_describe(s, topic, 0, group, &info) == 0 && info.group_offset == all);
}

/* ---------------------------------------------------------------------- cases */

static const uint64_t soon[] = {MS};

/* A member whose window is smaller than one of them gets all that is behind them. */
static void they_come_to_an_end(const char *topic, void (*bad)(struct thmq_producer *))
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct told t = {0};

	send_all(s, topic, 12, bad);
	CHECK(thmq_consumer_open(s, topic, "unlimited",
				 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .prefetch_count = 2, .backoff_ns = soon, .backoff_count = 1), &c) == 0);
	take_all(s, c, 12, 36, &t);
	CHECK(t.deliveries == 36 * 3 && t.error == -THMQ_ECORRUPT);
	check_done(s, c, topic, "unlimited", 48);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	memset(&t, 0, sizeof(t));
	CHECK(thmq_consumer_open(s, topic, "limited",
				 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .deliver_max = 5, .backoff_ns = soon, .backoff_count = 1), &c) == 0);
	take_all(s, c, 12, 36, &t);
	CHECK(t.deliveries == 36 * 5);
	check_done(s, c, topic, "limited", 48);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	/* nothing of them is anything that a topic of the dead could have */
	memset(&t, 0, sizeof(t));
	CHECK(thmq_consumer_open(s, topic, "buried",
				 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .deliver_max = 1, .backoff_ns = soon, .backoff_count = 1,
						    .dead_topic = "dead"), &c) == 0);
	take_all(s, c, 12, 36, &t);
	CHECK(t.deliveries == 36 && t.errors >= 2 * 12);
	check_done(s, c, topic, "buried", 48);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	{
		struct thmq_partition_info info = {.size = sizeof(info)};

		CHECK(thmq_partition_describe(s, "dead", 0, NULL, &info) == 0 && info.end_offset == info.begin_offset);
	}
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void packed_ones_come_to_an_end(void)
{
	they_come_to_an_end("packed", bad_packed);
}

static void batches_of_kafka_come_to_an_end(void)
{
#ifdef HAVE_ZLIB
	they_come_to_an_end("kafka", bad_kafka);
#else
	(void)bad_kafka;
#endif
}

/* Sixteen small ones, each with a large one that is packed before it; together, so that they are of few runs. False: there is no codec. */
static bool send_mixed(struct thmq_session *s, const char *topic)
{
	struct thmq_producer *p;
	struct thmq_txn *t;
	uint32_t i;
	int rc;

	codec = CODEC_THERE;
	CHECK(thmq_topic_create(s, topic, NULL) == 0);
	rc = thmq_producer_open(s, topic, THMQ_PRODUCER_OPTS(.compression = THMQ_COMPRESSION_LZ4), &p);
	if (rc == -EOPNOTSUPP)
		return false;
	CHECK(rc == 0 && thmq_txn_begin(s, NULL, &t) == 0);
	for (i = 0; i < 16; i++) {
		sent(thmq_send(p, nothing_packed, LARGE, THMQ_MESSAGE_OPTS(.txn = t)));
		sent(thmq_send(p, &i, sizeof(i), THMQ_MESSAGE_OPTS(.txn = t)));
	}
	CHECK(thmq_txn_commit(t, PATIENCE_NS) == 0 && thmq_producer_close(p, SECOND) == 0);
	return true;
}

static void it_costs_none_behind_it(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct told t = {0};

	if (send_mixed(s, "mixed")) {
		codec = CODEC_FAILS;
		CHECK(thmq_consumer_open(s, "mixed", "exclusive", NULL, &c) == 0);
		take_all(s, c, 16, 0, &t);
		CHECK(t.errors == 16 && t.error == -THMQ_ECORRUPT);
		CHECK(thmq_consumer_close(c, SECOND) == 0);
		memset(&t, 0, sizeof(t));
		CHECK(thmq_consumer_open(s, "mixed", "shared",
					 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .deliver_max = 2, .backoff_ns = soon, .backoff_count = 1),
					 &c) == 0);
		take_all(s, c, 16, 16, &t);
		CHECK(t.deliveries == 2 * 16);
		CHECK(thmq_consumer_flush(c, PATIENCE_NS) == 0 && thmq_consumer_close(c, SECOND) == 0);
	}
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* Nor does it leave room taken: they are much more together than a member may hold. */
static void many_leave_no_room_taken(void)
{
	static char large[200000];
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct told t = {0};
	uint32_t i;
	int rc;

	codec = CODEC_THERE;
	CHECK(thmq_topic_create(s, "many", NULL) == 0);
	rc = thmq_producer_open(s, "many", THMQ_PRODUCER_OPTS(.compression = THMQ_COMPRESSION_LZ4), &p);
	CHECK(rc == 0 || rc == -EOPNOTSUPP);
	for (i = 0; i < 40 && rc == 0; i++)
		sent(thmq_send(p, large, sizeof(large), NULL));
	if (rc == 0) {
		good(p, 0);
		CHECK(thmq_flush(p, PATIENCE_NS) == 0 && thmq_producer_close(p, SECOND) == 0);
		codec = CODEC_FAILS;
		CHECK(thmq_consumer_open(s, "many", "g", THMQ_CONSUMER_OPTS(.prefetch_bytes = 64 << 10), &c) == 0);
		take_all(s, c, 1, 0, &t);
		CHECK(t.errors == 40 && thmq_consumer_close(c, SECOND) == 0);
	}
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* Who has no codec says so, and tries again, and again; one that has it gets them as if they had never been out. */
static void who_has_the_codec_gets_them(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c, *other;
	uint64_t end = now() + PATIENCE_NS;
	struct told t = {0};
	struct thmq_message m;
	uint32_t n = 0;

	if (!send_mixed(s, "mixed")) {
		CHECK(thmq_session_close(s, SECOND) == 0);
		return;
	}
	codec = CODEC_MISSING;
	CHECK(thmq_consumer_open(s, "mixed", "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .deliver_max = 1), &c) == 0);
	take_all(s, c, 16, 0, &t);
	while (t.errors < 3 * 16) {
		CHECK(now() < end && thmq_fetch(c, &m, 1) == 0);
		thmq_session_wait(s, 10 * MS);
		listen_to(s, &t);
	}
	CHECK(t.dead == 0 && t.error == -EOPNOTSUPP);
	codec = CODEC_THERE;
	CHECK(thmq_consumer_open(s, "mixed", "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .deliver_max = 1), &other) == 0);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	while (n < 16) {
		CHECK(now() < end);
		if (thmq_fetch(other, &m, 1) == 1) {
			CHECK(m.len == LARGE && memcmp(m.data, nothing_packed, LARGE) == 0 && thmq_message_deliveries(other, &m) == 1);
			CHECK(thmq_ack(other, &m) == 0 && thmq_release(other, &m, 1) == 0);
			n++;
		} else {
			thmq_session_wait(s, 10 * MS);
		}
	}
	CHECK(thmq_consumer_flush(other, PATIENCE_NS) == 0 && thmq_consumer_close(other, SECOND) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* Two batches of 64, which a member with a small window gets bit by bit. */
static void a_block_is_unpacked_once(void)
{
	static const char zeros[500];
	struct thmq_batch_message batch[64];
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_message m;
	uint32_t number[64][125] = {{0}}, i, k, n = 0;
	int rc;

	codec = CODEC_THERE;
	unpacked = 0;
	CHECK(thmq_topic_create(s, "bits", NULL) == 0);
	rc = thmq_producer_open(s, "bits", THMQ_PRODUCER_OPTS(.compression = THMQ_COMPRESSION_LZ4), &p);
	CHECK(rc == 0 || rc == -EOPNOTSUPP);
	for (k = 0; k < 2 && rc == 0; k++) {
		for (i = 0; i < 64; i++) {
			number[i][0] = k * 64 + i;
			batch[i] = (struct thmq_batch_message){.data = number[i], .len = sizeof(number[i])};
		}
		sent(thmq_send_batch(p, batch, 64, NULL));
	}
	if (rc == 0) {
		CHECK(thmq_flush(p, PATIENCE_NS) == 0 && thmq_producer_close(p, SECOND) == 0);
		codec = CODEC_COUNTS;
		CHECK(thmq_consumer_open(s, "bits", "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .prefetch_count = 5), &c) == 0);
		while (n < 128) {
			CHECK(now() < end);
			if (thmq_fetch(c, &m, 1) == 1) {
				CHECK(m.len == 500 && memcmp(m.data, &n, sizeof(n)) == 0 && memcmp((const char *)m.data + 4, zeros, 496) == 0);
				CHECK(thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
				n++;
			} else {
				thmq_session_wait(s, 10 * MS);
			}
		}
		CHECK(unpacked == 2);
		CHECK(thmq_consumer_flush(c, PATIENCE_NS) == 0 && thmq_consumer_close(c, SECOND) == 0);
	}
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static const struct test_case cases[] = {
	{"packed ones come to an end", packed_ones_come_to_an_end},
	{"batches of kafka come to an end", batches_of_kafka_come_to_an_end},
	{"it costs none behind it", it_costs_none_behind_it},
	{"a block is unpacked once", a_block_is_unpacked_once},
	{"many leave no room taken", many_leave_no_room_taken},
	{"who has the codec gets them", who_has_the_codec_gets_them},
};

int main(int argc, char **argv)
{
	return contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
