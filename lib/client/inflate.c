/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inflate.c - the only reader of <zlib.h>, <snappy-c.h> and <lz4frame.h>: bytes as clients of Kafka's protocol compress a batch of records, made
 * large again. As pack.c's, the codecs' libraries are no dependency of ours: they are loaded once such a batch comes. What comes out is
 * bounded, whatever the bytes say. Knows nothing of what they are. Source: kafka.apache.org/documentation, "Message Format"
 */
#include <dlfcn.h>
#include <limits.h>

#ifdef THMQI_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef THMQI_HAVE_SNAPPY
#include <snappy-c.h>
#endif
#ifdef THMQI_HAVE_LZ4
#include <lz4frame.h>
#endif
#ifdef THMQI_HAVE_ZSTD
#include <zstd.h>
#endif

#include "client/inflate.h"

#define STEP (64u << 10) /* room for more at a time, and twice as much as there was */

/* What came out so far. */
struct grown {
	uint8_t *bytes;
	uint32_t len, room, max;
};

/* Room for @want more bytes, or some at least if @want is 0. 0; -ENOMEM; -EMSGSIZE */
static __attribute__((unused)) int more_room(struct grown *g, uint32_t want)
{
	uint32_t room = want ? g->len + want : THMQI_MIN(THMQI_MAX(g->room * 2, STEP), g->max);
	uint8_t *grown;

	if (want > g->max - g->len || room == g->len)
		return -EMSGSIZE;
	if (room <= g->room)
		return 0;
	grown = realloc(g->bytes, room);
	if (!grown)
		return -ENOMEM;
	g->bytes = grown;
	g->room = room;
	return 0;
}

/* A call of a library, to @ret, which is a pointer to it. */
static __attribute__((unused)) bool load(void *library, const char *name, void *ret)
{
	void *call = dlsym(library, name);

	memcpy(ret, &call, sizeof(call));
	return call != NULL;
}

#ifdef THMQI_HAVE_ZLIB
static int from_gzip(void *library, const uint8_t *data, uint32_t len, struct grown *g)
{
	__typeof__(&inflateInit2_) begin;
	__typeof__(&inflate) more;
	__typeof__(&inflateEnd) end;
	z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = len};
	int rc = 0, said = Z_OK;

	if (!load(library, "inflateInit2_", &begin) || !load(library, "inflate", &more) || !load(library, "inflateEnd", &end))
		return -EOPNOTSUPP;
	if (begin(&z, 15 + 32, ZLIB_VERSION, (int)sizeof(z)) != Z_OK)
		return -ENOMEM;
	while (!rc && said == Z_OK) {
		rc = g->len < g->room ? 0 : more_room(g, 0);
		if (rc)
			break;
		z.next_out = g->bytes + g->len;
		z.avail_out = g->room - g->len;
		said = more(&z, Z_NO_FLUSH);
		g->len = g->room - z.avail_out;
	}
	end(&z);
	return rc ? rc : said == Z_STREAM_END ? 0 : -THMQ_ECORRUPT;
}
#else
#define from_gzip NULL
#endif

#ifdef THMQI_HAVE_SNAPPY
static int snappy_piece(void *library, const uint8_t *data, uint32_t len, struct grown *g)
{
	__typeof__(&snappy_uncompressed_length) length;
	__typeof__(&snappy_uncompress) unpack;
	size_t room;
	int rc;

	if (!load(library, "snappy_uncompressed_length", &length) || !load(library, "snappy_uncompress", &unpack))
		return -EOPNOTSUPP;
	if (length((const char *)data, len, &room) != SNAPPY_OK)
		return -THMQ_ECORRUPT;
	if (!room || room > g->max)
		return room ? -EMSGSIZE : 0;
	rc = more_room(g, (uint32_t)room);
	if (rc)
		return rc;
	if (unpack((const char *)data, len, (char *)g->bytes + g->len, &room) != SNAPPY_OK)
		return -THMQ_ECORRUPT;
	g->len += (uint32_t)room;
	return 0;
}

static uint32_t big_endian(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* As it is, or as Java's library frames it: a head of 16 bytes, then pieces with their lengths before them. */
static int from_snappy(void *library, const uint8_t *data, uint32_t len, struct grown *g)
{
	static const uint8_t magic[8] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0};
	uint32_t at = 16, piece;
	int rc = 0;

	if (len < 16 || memcmp(data, magic, sizeof(magic)) != 0)
		return snappy_piece(library, data, len, g);
	for (; at < len && !rc; at += piece) {
		piece = len - at < 4 ? UINT32_MAX : big_endian(data + at);
		at += 4;
		if (at > len || piece > len - at)
			return -THMQ_ECORRUPT;
		rc = snappy_piece(library, data + at, piece, g);
	}
	return rc;
}
#else
#define from_snappy NULL
#endif

#ifdef THMQI_HAVE_LZ4
static int from_lz4(void *library, const uint8_t *data, uint32_t len, struct grown *g)
{
	__typeof__(&LZ4F_createDecompressionContext) begin;
	__typeof__(&LZ4F_decompress) more;
	__typeof__(&LZ4F_freeDecompressionContext) end;
	__typeof__(&LZ4F_isError) is_error;
	size_t hint = 1, taken, given;
	LZ4F_dctx *ctx;
	int rc = 0;

	if (!load(library, "LZ4F_createDecompressionContext", &begin) || !load(library, "LZ4F_decompress", &more) ||
	    !load(library, "LZ4F_freeDecompressionContext", &end) || !load(library, "LZ4F_isError", &is_error))
		return -EOPNOTSUPP;
	if (is_error(begin(&ctx, LZ4F_VERSION)))
		return -ENOMEM;
	while (hint && !rc) {
		rc = g->len < g->room ? 0 : more_room(g, 0);
		if (rc)
			break;
		given = g->room - g->len;
		taken = len;
		hint = more(ctx, g->bytes + g->len, &given, data, &taken, NULL);
		if (is_error(hint) || (hint && !taken && !given)) {
			rc = -THMQ_ECORRUPT;
			break;
		}
		g->len += (uint32_t)given;
		data += taken;
		len -= (uint32_t)taken;
	}
	end(ctx);
	return rc;
}
#else
#define from_lz4 NULL
#endif

#ifdef THMQI_HAVE_ZSTD
static int from_zstd(void *library, const uint8_t *data, uint32_t len, struct grown *g)
{
	__typeof__(&ZSTD_createDStream) begin;
	__typeof__(&ZSTD_decompressStream) more;
	__typeof__(&ZSTD_freeDStream) end;
	__typeof__(&ZSTD_isError) is_error;
	ZSTD_inBuffer in = {data, len, 0};
	ZSTD_DStream *z;
	size_t hint = 1;
	int rc = 0;

	if (!load(library, "ZSTD_createDStream", &begin) || !load(library, "ZSTD_decompressStream", &more) ||
	    !load(library, "ZSTD_freeDStream", &end) || !load(library, "ZSTD_isError", &is_error))
		return -EOPNOTSUPP;
	z = begin();
	if (!z)
		return -ENOMEM;
	while (hint && !rc) {
		ZSTD_outBuffer out = {.pos = 0};
		size_t before = in.pos;

		rc = g->len < g->room ? 0 : more_room(g, 0);
		if (rc)
			break;
		out.dst = g->bytes + g->len;
		out.size = g->room - g->len;
		hint = more(z, &out, &in);
		if (is_error(hint) || (hint && in.pos == before && !out.pos)) {
			rc = -THMQ_ECORRUPT;
			break;
		}
		g->len += (uint32_t)out.pos;
	}
	end(z);
	return rc;
}
#else
#define from_zstd NULL
#endif

/* As they are numbered in a batch. */
static const struct {
	const char *library;
	int (*unpack)(void *library, const uint8_t *data, uint32_t len, struct grown *g);
} codecs[] = {[1] = {"libz.so.1", from_gzip}, [2] = {"libsnappy.so.1", from_snappy}, [3] = {"liblz4.so.1", from_lz4}, [4] = {"libzstd.so.1", from_zstd}};

int thmqi_inflate(uint32_t codec, const void *data, uint32_t len, uint32_t max, void **ret, uint32_t *ret_len)
{
	struct grown g = {.max = max};
	void *library;
	int rc;

	if (codec >= THMQI_ARRAY_COUNT(codecs) || !codecs[codec].unpack)
		return -EOPNOTSUPP;
	library = dlopen(codecs[codec].library, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!library)
		return -EOPNOTSUPP;
	rc = codecs[codec].unpack(library, data, len, &g);
	dlclose(library);
	if (rc) {
		free(g.bytes);
		return rc;
	}
	*ret = g.bytes;
	*ret_len = g.len;
	return 0;
}
