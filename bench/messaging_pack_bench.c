/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_pack_bench.c - what compression saves, and what it costs: durable messages that look like JSON records, published and
 * then read back, by LZ4 and by Zstandard, beside the same messages as they are, in turns. The application's thread drives the core, so
 * that all of it is one processor's work; where the device is slow, or a network lies between, what is saved is worth more than here.
 *
 * Lines, each a ratio to none in the same run, without a bar: what is best depends on device, network and messages.
 *   stored bytes; payload bytes a second in; payload bytes a second out.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "target.h"

#define FETCH_MAX 64
#define MESSAGES 64u /* that are different */

struct shape {
	const char *name;
	uint32_t bytes;
};

struct result {
	double in, out, stored; /* MB/s of payload, and bytes in the log for each of these */
};

static char texts[MESSAGES][16384];

/* Records as services write them: the same names again and again, numbers and words that differ. */
static void write_texts(void)
{
	static const char *const words[] = {"created", "paid", "shipped", "returned", "north", "south", "card", "invoice"};
	uint64_t x = 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < MESSAGES; i++)
		for (size_t at = 0; at < sizeof(texts[i]);) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			at += (size_t)snprintf(texts[i] + at, sizeof(texts[i]) - at,
					       "{\"id\":%llu,\"state\":\"%s\",\"customer\":\"c-%05u\",\"region\":\"%s\",\"amount\":%u.%02u},",
					       (unsigned long long)(x % 100000000), words[x >> 8 & 7], (unsigned)(x >> 16 & 0xffff),
					       words[x >> 11 & 7], (unsigned)(x >> 32 & 0xfff), (unsigned)(x >> 44 & 63));
		}
}

static int look_codec(uint32_t codec)
{
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	int rc;

	if (thmq_env_open(&env, NULL) || thmq_broker_open(env, NULL, &broker) || thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)))
		bench_die("a broker", EIO);
	rc = thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.compression = codec), &producer);
	thmq_env_close(env, 1000000000u);
	return rc;
}

static void run(struct bench *b, const struct shape *s, uint32_t codec, uint64_t bytes, struct result *ret)
{
	struct target_opts o = {.layout = TARGET_CALLER,
				.durability = THMQ_DURABILITY_DURABLE,
				.compression = codec,
				.consumer = true};
	uint64_t count = bytes / s->bytes, got = 0, stored, t0;
	struct thmq_message m[FETCH_MAX];
	struct target t;
	char dir[4096];
	int n;

	if (bench_mkdir(b, "packed", dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(&t, b, &o);
	stored = target_counts(&t).stored_bytes;
	t0 = bench_now();
	for (uint64_t i = 0; i < count; i++)
		target_send(&t, texts[i % MESSAGES], s->bytes);
	if (thmq_flush(t.producer, 60000000000u) != 0)
		bench_die("flush", EIO);
	ret->in = (double)(count * s->bytes) * 1e3 / (double)(bench_now() - t0);
	ret->stored = (double)(target_counts(&t).stored_bytes - stored) / (double)(count * s->bytes);
	t0 = bench_now();
	while (got < count) {
		n = thmq_fetch(t.consumer, m, FETCH_MAX);
		if (n < 0)
			bench_die("fetch", n);
		if (n == 0)
			target_pump(&t);
		for (int i = 0; i < n; i++)
			if (m[i].len != s->bytes)
				bench_die("a message of another length", EIO);
		thmq_release(t.consumer, m, (uint32_t)n);
		got += (uint64_t)n;
	}
	ret->out = (double)(count * s->bytes) * 1e3 / (double)(bench_now() - t0);
	target_close(&t);
	bench_rmdir(dir);
}

static void compare(struct bench *b, const struct shape *s, uint32_t codec, const char *codec_name)
{
	uint64_t bytes = b->smoke ? 1u << 20 : 64u << 20;
	char names[3][96];
	struct bench_line lines[3];
	struct bench_line *judged[] = {&lines[1]};
	struct result packed, plain;

	for (unsigned i = 0; i < 3; i++) {
		static const char *const what[] = {"stored", "in", "out"};

		snprintf(names[i], sizeof(names[i]), "%s_%s_%s", s->name, codec_name, what[i]);
		lines[i] = (struct bench_line){
			.name = names[i], .unit = i ? "MB/s" : "bytes a byte", .rival = "none", .measure = BENCH_RATIO};
	}
	if (!bench_wants(b, names[0]) && !bench_wants(b, names[1]) && !bench_wants(b, names[2]))
		return;
	if (look_codec(codec) != 0) {
		bench_skip(b, names[0], "its library is not there");
		return;
	}
	for (unsigned round = 0; bench_more(b, round, judged, 1); round++) {
		run(b, s, round % 2 ? codec : THMQ_COMPRESSION_NONE, bytes, round % 2 ? &packed : &plain);
		run(b, s, round % 2 ? THMQ_COMPRESSION_NONE : codec, bytes, round % 2 ? &plain : &packed);
		bench_pairs_add(&lines[0].pairs, packed.stored, plain.stored);
		bench_pairs_add(&lines[1].pairs, packed.in, plain.in);
		bench_pairs_add(&lines[2].pairs, packed.out, plain.out);
	}
	for (unsigned i = 0; i < 3; i++)
		bench_report(b, &lines[i]);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {{"json_1KiB", 1024}, {"json_16KiB", 16384}};
	struct bench b;

	bench_init(&b, argc, argv, "messaging");
	write_texts();
	for (unsigned i = 0; i < 2; i++) {
		compare(&b, &shapes[i], THMQ_COMPRESSION_LZ4, "lz4");
		compare(&b, &shapes[i], THMQ_COMPRESSION_ZSTD, "zstd");
	}
	return bench_end(&b);
}
