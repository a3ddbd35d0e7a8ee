/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.c - the only reader of <lz4.h> and <zstd.h>. Their libraries are no dependency of ours: they are loaded where a producer packs, or
 * a packed message comes, and stay loaded. A context belongs to one producer or consumer, and so to one thread. Knows no message.
 */
#include <dlfcn.h>

#ifdef THMQI_HAVE_LZ4
#include <lz4.h>
#endif
#ifdef THMQI_HAVE_ZSTD
#include <zstd.h>
#endif

#include "client/pack.h"

/* What a codec can do. Called with what open() made. */
struct codec {
	const char *name, *library;
	int (*open)(struct thmqi_pack *pack, void *library);
	void (*close)(struct thmqi_pack *pack);
	uint32_t (*pack)(struct thmqi_pack *pack, const void *from, uint32_t len, void *to,
			 uint32_t room);
	int64_t (*unpack)(struct thmqi_pack *pack, const void *from, uint32_t len, void *to,
			  uint32_t room);
};

struct thmqi_pack {
	const struct codec *codec;
	bool packs;
	int32_t level;
	void *context; /* of the codec; lz4: its state */
#ifdef THMQI_HAVE_LZ4
	struct {
		__typeof__(&LZ4_sizeofState) size;
		__typeof__(&LZ4_compress_fast_extState) pack;
		__typeof__(&LZ4_decompress_safe) unpack;
	} lz4;
#endif
#ifdef THMQI_HAVE_ZSTD
	struct {
		__typeof__(&ZSTD_createCCtx) make_packer;
		__typeof__(&ZSTD_freeCCtx) free_packer;
		__typeof__(&ZSTD_CCtx_setParameter) set;
		__typeof__(&ZSTD_compress2) pack;
		__typeof__(&ZSTD_createDCtx) make_unpacker;
		__typeof__(&ZSTD_freeDCtx) free_unpacker;
		__typeof__(&ZSTD_decompressDCtx) unpack;
		__typeof__(&ZSTD_isError) is_error;
		__typeof__(&ZSTD_getFrameContentSize) content_size;
	} zstd;
#endif
};

/* A call of a library. */
struct symbol {
	const char *name;
	size_t place; /* in struct thmqi_pack */
};

static __attribute__((unused)) int load(struct thmqi_pack *p, void *library,
					const struct symbol *symbols, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		void *call = dlsym(library, symbols[i].name);

		if (!call)
			return -EOPNOTSUPP;
		memcpy((char *)p + symbols[i].place, &call, sizeof(call));
	}
	return 0;
}

#define SYMBOL(call, member)                                                                       \
	{                                                                                          \
#call, offsetof(struct thmqi_pack, member)                                         \
	}

/* --------------------------------------------------------------------- LZ4 */

#ifdef THMQI_HAVE_LZ4
static int lz4_open(struct thmqi_pack *p, void *library)
{
	static const struct symbol symbols[] = {SYMBOL(LZ4_sizeofState, lz4.size),
						SYMBOL(LZ4_compress_fast_extState, lz4.pack),
						SYMBOL(LZ4_decompress_safe, lz4.unpack)};
	int rc = load(p, library, symbols, THMQI_ARRAY_COUNT(symbols));

	if (rc || !p->packs)
		return rc;
	p->context = malloc((size_t)p->lz4.size());
	return p->context ? 0 : -ENOMEM;
}

static void lz4_close(struct thmqi_pack *p)
{
	free(p->context);
}

static uint32_t lz4_pack(struct thmqi_pack *p, const void *from, uint32_t len, void *to,
			 uint32_t room)
{
	/* its level is an acceleration: the higher the faster, and the larger */
	int n = p->lz4.pack(p->context, from, to, (int)len, (int)room, THMQI_MAX(p->level, 1));

	return n > 0 ? (uint32_t)n : 0;
}

static int64_t lz4_unpack(struct thmqi_pack *p, const void *from, uint32_t len, void *to,
			  uint32_t room)
{
	return p->lz4.unpack(from, to, (int)len, (int)room);
}
#define LZ4                                                                                        \
	{                                                                                          \
		"lz4", "liblz4.so.1", lz4_open, lz4_close, lz4_pack, lz4_unpack                    \
	}
#else
#define LZ4                                                                                        \
	{                                                                                          \
		.name = "lz4"                                                                      \
	}
#endif

/* -------------------------------------------------------------------- Zstd */

#ifdef THMQI_HAVE_ZSTD
#define WINDOW_LOG_MAX 20 /* so that a context takes a few MiB at most */

static int zstd_open(struct thmqi_pack *p, void *library)
{
	static const struct symbol symbols[] = {
		SYMBOL(ZSTD_createCCtx, zstd.make_packer),
		SYMBOL(ZSTD_freeCCtx, zstd.free_packer),
		SYMBOL(ZSTD_CCtx_setParameter, zstd.set),
		SYMBOL(ZSTD_compress2, zstd.pack),
		SYMBOL(ZSTD_createDCtx, zstd.make_unpacker),
		SYMBOL(ZSTD_freeDCtx, zstd.free_unpacker),
		SYMBOL(ZSTD_decompressDCtx, zstd.unpack),
		SYMBOL(ZSTD_isError, zstd.is_error),
		SYMBOL(ZSTD_getFrameContentSize, zstd.content_size)};
	int rc = load(p, library, symbols, THMQI_ARRAY_COUNT(symbols));

	if (rc)
		return rc;
	p->context = p->packs ? (void *)p->zstd.make_packer() : (void *)p->zstd.make_unpacker();
	if (!p->context)
		return -ENOMEM;
	if (p->packs &&
	    (p->zstd.is_error(
		     p->zstd.set(p->context, ZSTD_c_compressionLevel, p->level ? p->level : 1)) ||
	     p->zstd.is_error(p->zstd.set(p->context, ZSTD_c_windowLog, WINDOW_LOG_MAX))))
		return -EINVAL;
	return 0;
}

static void zstd_close(struct thmqi_pack *p)
{
	if (p->context && p->packs)
		p->zstd.free_packer(p->context);
	else if (p->context)
		p->zstd.free_unpacker(p->context);
}

static uint32_t zstd_pack(struct thmqi_pack *p, const void *from, uint32_t len, void *to,
			  uint32_t room)
{
	size_t n = p->zstd.pack(p->context, to, room, from, len);

	return p->zstd.is_error(n) ? 0 : (uint32_t)n;
}

static int64_t zstd_unpack(struct thmqi_pack *p, const void *from, uint32_t len, void *to,
			   uint32_t room)
{
	size_t n = p->zstd.unpack(p->context, to, room, from, len);

	return p->zstd.is_error(n) ? -1 : (int64_t)n;
}
#define ZSTD                                                                                       \
	{                                                                                          \
		"zstd", "libzstd.so.1", zstd_open, zstd_close, zstd_pack, zstd_unpack              \
	}
#else
#define ZSTD                                                                                       \
	{                                                                                          \
		.name = "zstd"                                                                     \
	}
#endif

/* --------------------------------------------------------------------- both */

static const struct codec codecs[] = {[THMQ_COMPRESSION_LZ4] = LZ4, [THMQ_COMPRESSION_ZSTD] = ZSTD};

const char *thmqi_pack_name(uint32_t codec)
{
	return codec < THMQI_ARRAY_COUNT(codecs) ? codecs[codec].name : NULL;
}

int thmqi_pack_open(uint32_t codec, bool packs, int32_t level, struct thmqi_pack **ret_pack)
{
	struct thmqi_pack *p;
	void *library;
	int rc;

	if (!thmqi_pack_name(codec))
		return -EINVAL;
	if (!codecs[codec].library)
		return -EOPNOTSUPP;
	library = dlopen(codecs[codec].library, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!library)
		return -EOPNOTSUPP;
	p = calloc(1, sizeof(*p));
	if (p) {
		p->codec = &codecs[codec];
		p->packs = packs;
		p->level = level;
	}
	rc = p ? p->codec->open(p, library) : -ENOMEM;
	dlclose(library);
	if (rc) {
		thmqi_pack_close(p);
		return rc;
	}
	*ret_pack = p;
	return 0;
}

void thmqi_pack_close(struct thmqi_pack *pack)
{
	if (!pack)
		return;
	pack->codec->close(pack);
	free(pack);
}

uint32_t thmqi_pack(struct thmqi_pack *pack, const void *from, uint32_t len, void *to,
		    uint32_t room)
{
	return room ? pack->codec->pack(pack, from, len, to, room) : 0;
}

int thmqi_unpack(struct thmqi_pack *pack, const void *from, uint32_t len, void *to, uint32_t to_len)
{
	return pack->codec->unpack(pack, from, len, to, to_len) == (int64_t)to_len ? 0
										   : -THMQ_ECORRUPT;
}

bool thmqi_pack_may_be(struct thmqi_pack *pack, const void *from, uint32_t len, uint32_t to_len)
{
#ifdef THMQI_HAVE_ZSTD
	if (pack->codec == &codecs[THMQ_COMPRESSION_ZSTD])
		return pack->zstd.content_size(from, len) == to_len;
#endif
	/* a byte of LZ4 stands for 255 at most */
	return to_len / 255 <= len;
}
