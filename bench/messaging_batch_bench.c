/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_batch_bench.c - compression of several messages in one piece, beside each by itself: what is left of their bytes, and what it costs. Messages look like
 * JSON records, and no two are alike.
 *
 * Lines, each a ratio in the same run, without a bar; the absolute numbers are in the line, too. The codecs alone, with the library's own levels, in one thread, to
 * each by itself: bytes; ns a message to pack; ns a message to unpack. Then the whole way of durable messages, published by thmq_send_batch() and read back, to
 * thmq_send() of each, as it is: bytes stored of a message; messages a second in; out. The application's thread drives the core there, so that all of it is one
 * processor's work.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/pack.h"
#include "target.h"

#define TOTAL (4u << 20)
#define HEAD 8u /* bytes that say how long a piece was */
#define PIECES_MAX (TOTAL / 100)

struct result {
	double bytes, pack_ns, unpack_ns; /* a message */
};

static char texts[TOTAL], packed[2 * TOTAL], back[TOTAL];
static uint32_t lens[PIECES_MAX];

static void write_texts(uint32_t len)
{
	static const char *const words[] = {"created", "paid", "shipped", "returned", "north", "south", "card", "invoice"};
	static uint64_t x = 0x9e3779b97f4a7c15ull;
	char record[256];
	uint32_t i, at, n;

	for (i = 0; i < TOTAL / len; i++)
		for (at = 0; at < len; at += n) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			n = (uint32_t)snprintf(record, sizeof(record),
					       "{\"id\":%llu,\"state\":\"%s\",\"customer\":\"c-%05u\",\"region\":\"%s\",\"amount\":%u.%02u},",
					       (unsigned long long)(x % 100000000), words[x >> 8 & 7], (unsigned)(x >> 16 & 0xffff),
					       words[x >> 11 & 7], (unsigned)(x >> 32 & 0xfff), (unsigned)(x >> 44 & 63));
			n = n < len - at ? n : len - at;
			memcpy(texts + (size_t)i * len + at, record, n);
		}
}

/* @len: of a message; @together: so many in one piece */
static void run(uint32_t codec, uint32_t len, uint32_t together, struct result *ret)
{
	const uint32_t piece = len * together, pieces = TOTAL / piece;
	struct thmqi_pack *packer, *unpacker;
	uint64_t t0, t1, t2, at = 0;
	uint32_t i;

	if (thmqi_pack_open(codec, true, 0, &packer) || thmqi_pack_open(codec, false, 0, &unpacker))
		bench_die("a codec", EIO);
	t0 = bench_now();
	for (i = 0; i < pieces; i++) {
		lens[i] = thmqi_pack(packer, texts + (size_t)i * piece, piece, packed + at, 2 * piece + 1024);
		at += lens[i] + HEAD;
	}
	t1 = bench_now();
	for (i = 0, at = 0; i < pieces; at += lens[i++] + HEAD)
		if (thmqi_unpack(unpacker, packed + at, lens[i], back, piece) != 0)
			bench_die("what was packed", EIO);
	t2 = bench_now();
	*ret = (struct result){.bytes = (double)at / pieces / together,
			       .pack_ns = (double)(t1 - t0) / pieces / together,
			       .unpack_ns = (double)(t2 - t1) / pieces / together};
	thmqi_pack_close(packer);
	thmqi_pack_close(unpacker);
}

static void compare(struct bench *b, uint32_t len, uint32_t codec, uint32_t together)
{
	static const char *const what[] = {"bytes", "pack", "unpack"};
	struct thmqi_pack *there;
	char names[3][96];
	struct bench_line lines[3];
	struct bench_line *judged[] = {&lines[0], &lines[1], &lines[2]};
	struct result ours, each;

	for (unsigned i = 0; i < 3; i++) {
		snprintf(names[i], sizeof(names[i]), "json_%uB_%s_by_%u_%s", len, thmqi_pack_name(codec), together, what[i]);
		lines[i] = (struct bench_line){.name = names[i], .unit = i ? "ns" : "bytes", .rival = "each by itself", .measure = BENCH_RATIO};
	}
	if (!bench_wants(b, names[0]) && !bench_wants(b, names[1]) && !bench_wants(b, names[2]))
		return;
	if (thmqi_pack_open(codec, true, 0, &there) != 0) {
		bench_skip(b, names[0], "its library is not there");
		return;
	}
	thmqi_pack_close(there);
	for (unsigned round = 0; bench_more(b, round, judged, 3); round++) {
		run(codec, len, round % 2 ? together : 1, round % 2 ? &ours : &each);
		run(codec, len, round % 2 ? 1 : together, round % 2 ? &each : &ours);
		bench_pairs_add(&lines[0].pairs, ours.bytes, each.bytes);
		bench_pairs_add(&lines[1].pairs, ours.pack_ns, each.pack_ns);
		bench_pairs_add(&lines[2].pairs, ours.unpack_ns, each.unpack_ns);
	}
	for (unsigned i = 0; i < 3; i++)
		bench_report(b, &lines[i]);
}

/* ---------------------------------------------------------------- the whole way */

#define TOGETHER 64u
#define FETCH_MAX 64

struct way {
	double stored, in, out; /* bytes of a message in the log; messages a second */
};

static void send_batch(struct target *t, uint32_t len, uint64_t first)
{
	struct thmq_batch_message m[TOGETHER] = {0};
	int64_t rc;

	for (uint32_t i = 0; i < TOGETHER; i++) {
		m[i].data = texts + (first + i) % (TOTAL / len) * len;
		m[i].len = len;
	}
	while ((rc = thmq_send_batch(t->producer, m, TOGETHER, NULL)) == -EAGAIN)
		target_pump(t);
	if (rc < 0)
		bench_die("a batch", (int)rc);
}

static void go(struct bench *b, bool together, uint32_t codec, uint32_t len, uint64_t count, struct way *ret)
{
	struct target_opts o = {.layout = TARGET_CALLER, .durability = THMQ_DURABILITY_DURABLE, .compression = codec, .consumer = true};
	struct thmq_message m[FETCH_MAX];
	uint64_t got = 0, stored, t0;
	struct target t;
	char dir[4096];

	if (bench_mkdir(b, "batches", dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(&t, b, &o);
	stored = target_counts(&t).stored_bytes;
	t0 = bench_now();
	for (uint64_t i = 0; i < count; i += together ? TOGETHER : 1)
		if (together)
			send_batch(&t, len, i);
		else
			target_send(&t, texts + i % (TOTAL / len) * len, len);
	if (thmq_flush(t.producer, 60000000000u) != 0)
		bench_die("flush", EIO);
	ret->in = (double)count * 1e9 / (double)(bench_now() - t0);
	ret->stored = (double)(target_counts(&t).stored_bytes - stored) / (double)count;
	t0 = bench_now();
	while (got < count) {
		int n = thmq_fetch(t.consumer, m, FETCH_MAX);

		if (n < 0)
			bench_die("fetch", n);
		if (n == 0)
			target_pump(&t);
		for (int i = 0; i < n; i++)
			if (m[i].len != len || memcmp(m[i].data, texts + (got + (uint64_t)i) % (TOTAL / len) * len, 16) != 0)
				bench_die("another message", EIO);
		thmq_release(t.consumer, m, (uint32_t)n);
		got += (uint64_t)n;
	}
	ret->out = (double)count * 1e9 / (double)(bench_now() - t0);
	target_close(&t);
	bench_rmdir(dir);
}

static void compare_ways(struct bench *b, uint32_t len, uint32_t codec)
{
	static const char *const what[] = {"stored", "in", "out"};
	const uint64_t count = (b->smoke ? 1u << 20 : 64u << 20) / len / TOGETHER * TOGETHER;
	struct thmqi_pack *there = NULL;
	char names[3][96];
	struct bench_line lines[3];
	struct bench_line *judged[] = {&lines[1]};
	struct way ours, each;

	for (unsigned i = 0; i < 3; i++) {
		snprintf(names[i], sizeof(names[i]), "send_batch_%uB_%s_by_%u_%s", len, codec ? thmqi_pack_name(codec) : "none", TOGETHER, what[i]);
		lines[i] = (struct bench_line){.name = names[i], .unit = i ? "messages/s" : "bytes", .rival = "each by itself, as it is", .measure = BENCH_RATIO};
	}
	if (!bench_wants(b, names[0]) && !bench_wants(b, names[1]) && !bench_wants(b, names[2]))
		return;
	if (codec && thmqi_pack_open(codec, true, 0, &there) != 0) {
		bench_skip(b, names[0], "its library is not there");
		return;
	}
	thmqi_pack_close(there);
	for (unsigned round = 0; bench_more(b, round, judged, 1); round++) {
		go(b, round % 2, round % 2 ? codec : 0, len, count, round % 2 ? &ours : &each);
		go(b, !(round % 2), round % 2 ? 0 : codec, len, count, round % 2 ? &each : &ours);
		bench_pairs_add(&lines[0].pairs, ours.stored, each.stored);
		bench_pairs_add(&lines[1].pairs, ours.in, each.in);
		bench_pairs_add(&lines[2].pairs, ours.out, each.out);
	}
	for (unsigned i = 0; i < 3; i++)
		bench_report(b, &lines[i]);
}

int main(int argc, char **argv)
{
	static const uint32_t sizes[] = {100, 1024}, together[] = {4, 16, 64};
	struct bench b;

	bench_init(&b, argc, argv, "messaging");
	for (unsigned i = 0; i < 2; i++) {
		write_texts(sizes[i]);
		for (unsigned k = 0; k < 3; k++) {
			compare(&b, sizes[i], THMQ_COMPRESSION_LZ4, together[k]);
			compare(&b, sizes[i], THMQ_COMPRESSION_ZSTD, together[k]);
		}
		for (uint32_t codec = THMQ_COMPRESSION_NONE; codec <= THMQ_COMPRESSION_ZSTD; codec++)
			compare_ways(&b, sizes[i], codec);
	}
	return bench_end(&b);
}
