/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_batch_bench.c - compression of several messages in one piece, beside each by itself, which is what producers do: what is left of their bytes, and what
 * it costs. The codecs alone, with the library's own levels, in one thread; no message goes anywhere. Messages look like JSON records, and no two are alike.
 *
 * Lines, each a ratio to each by itself in the same run, without a bar: bytes; ns a message to pack; ns a message to unpack. The absolute numbers are in the line, too.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "client/pack.h"

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
	}
	return bench_end(&b);
}
