/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack.c - what clients have compressed: gzip by zlib, snappy, lz4, zstd, each where it was there when this was built. What comes
 * out is bounded (BATCH_BYTES_MAX), whatever the bytes say. Knows nothing of what the bytes are.
 */
#include <limits.h>
#include <string.h>

#include "batch.h"
#include "errors.h"

#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_SNAPPY
#include <snappy-c.h>
#endif
#ifdef HAVE_LZ4
#include <lz4frame.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

/* Room for more of what comes out; at least so much at a time. NULL: there may be no more. */
#define STEP (64u << 10)

#if defined(HAVE_ZLIB) || defined(HAVE_LZ4) || defined(HAVE_ZSTD)
static uint8_t *more_room(struct out *ret, size_t *ret_len)
{
	uint8_t *at = ret->len < BATCH_BYTES_MAX ? out_raw(ret, STEP) : NULL;

	*ret_len = STEP;
	return at;
}
#endif

#ifdef HAVE_ZLIB
static int from_gzip(const uint8_t *data, size_t len, struct out *ret)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)len};
	int rc = inflateInit2(&z, 15 + 32), result = -K_CORRUPT_MESSAGE;
	size_t room;

	if (rc != Z_OK || len > UINT_MAX)
		return -K_UNKNOWN_SERVER_ERROR;
	while (rc == Z_OK) {
		z.next_out = more_room(ret, &room);
		if (!z.next_out) {
			result = -K_MESSAGE_TOO_LARGE;
			break;
		}
		z.avail_out = (uInt)room;
		rc = inflate(&z, Z_NO_FLUSH);
		ret->len -= z.avail_out;
	}
	inflateEnd(&z);
	return rc == Z_STREAM_END ? 0 : result;
}
#endif

#ifdef HAVE_SNAPPY
static int snappy_piece(const uint8_t *data, size_t len, struct out *ret)
{
	size_t room;
	uint8_t *at;

	if (snappy_uncompressed_length((const char *)data, len, &room) != SNAPPY_OK)
		return -K_CORRUPT_MESSAGE;
	if (room > BATCH_BYTES_MAX - ret->len)
		return -K_MESSAGE_TOO_LARGE;
	at = out_raw(ret, room);
	if (!at)
		return -K_UNKNOWN_SERVER_ERROR;
	return snappy_uncompress((const char *)data, len, (char *)at, &room) == SNAPPY_OK
		       ? 0
		       : -K_CORRUPT_MESSAGE;
}

/* As it is, or as Java's library frames it: a head of 16 bytes, then pieces with their lengths before them. */
static int from_snappy(const uint8_t *data, size_t len, struct out *ret)
{
	static const uint8_t magic[8] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0};
	struct in in;
	int rc = 0;

	if (len < 16 || memcmp(data, magic, sizeof(magic)) != 0)
		return snappy_piece(data, len, ret);
	in_init(&in, data + 16, len - 16, false);
	while (in_left(&in) > 0 && !rc) {
		struct text piece = in_bytes(&in);

		rc = in.bad || !piece.data
			     ? -K_CORRUPT_MESSAGE
			     : snappy_piece((const uint8_t *)piece.data, piece.len, ret);
	}
	return in.bad ? -K_CORRUPT_MESSAGE : rc;
}
#endif

#ifdef HAVE_LZ4
static int from_lz4(const uint8_t *data, size_t len, struct out *ret)
{
	LZ4F_dctx *ctx;
	size_t hint = 1, taken, room, given;
	int rc = 0;

	if (LZ4F_isError(LZ4F_createDecompressionContext(&ctx, LZ4F_VERSION)))
		return -K_UNKNOWN_SERVER_ERROR;
	while (hint > 0 && !rc) {
		uint8_t *at = more_room(ret, &room);

		if (!at) {
			rc = -K_MESSAGE_TOO_LARGE;
			break;
		}
		given = room;
		taken = len;
		hint = LZ4F_decompress(ctx, at, &given, data, &taken, NULL);
		if (LZ4F_isError(hint) || (hint > 0 && !taken && !given))
			rc = -K_CORRUPT_MESSAGE;
		else
			ret->len -= room - given;
		data += taken;
		len -= taken;
	}
	LZ4F_freeDecompressionContext(ctx);
	return rc;
}
#endif

#ifdef HAVE_ZSTD
static int from_zstd(const uint8_t *data, size_t len, struct out *ret)
{
	ZSTD_DStream *z = ZSTD_createDStream();
	ZSTD_inBuffer in = {data, len, 0};
	size_t hint = 1;
	int rc = 0;

	if (!z)
		return -K_UNKNOWN_SERVER_ERROR;
	while (hint > 0 && !rc) {
		ZSTD_outBuffer out = {.pos = 0};
		size_t before = in.pos;

		out.dst = more_room(ret, &out.size);
		if (!out.dst) {
			rc = -K_MESSAGE_TOO_LARGE;
			break;
		}
		hint = ZSTD_decompressStream(z, &out, &in);
		if (ZSTD_isError(hint) || (hint > 0 && in.pos == before && !out.pos))
			rc = -K_CORRUPT_MESSAGE;
		else
			ret->len -= out.size - out.pos;
	}
	ZSTD_freeDStream(z);
	return rc;
}
#endif

int unpack(int type, const uint8_t *data, size_t len, struct out *ret)
{
	(void)data, (void)len, (void)ret;
	switch (type) {
#ifdef HAVE_ZLIB
	case 1:
		return from_gzip(data, len, ret);
#endif
#ifdef HAVE_SNAPPY
	case 2:
		return from_snappy(data, len, ret);
#endif
#ifdef HAVE_LZ4
	case 3:
		return from_lz4(data, len, ret);
#endif
#ifdef HAVE_ZSTD
	case 4:
		return from_zstd(data, len, ret);
#endif
	default:
		return -K_UNSUPPORTED_COMPRESSION;
	}
}
