/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack.c - packed messages of a consumer, made large again where they are handed out, one by one or all of a run at once. Their bytes lie in blocks that a run keeps
 * until it is done with; a few blocks are kept for the next run. What the app holds of them is bounded by its prefetch_bytes, but one comes
 * always. Knows no codec.
 */
#include "client/pack.h"
#include "internal.h"
#include "wire/attributes.h"

#define BLOCK_BYTES (64u << 10)
#define BLOCKS_KEPT 16u

struct unpacked {
	struct unpacked *next;
	uint32_t size, used;
	uint32_t refs; /* of a run's block: the parts of the run, and kept_block */
	_Alignas(8) uint8_t bytes[];
};

static void drop_kept(struct thmq_consumer *c);

static bool is_too_much(const struct thmq_consumer *c, uint64_t more)
{
	return c->whole_bytes && c->whole_bytes + more > c->opts.prefetch_bytes;
}

bool thmqi_whole_is_too_much(struct thmq_consumer *c, uint64_t more)
{
	if (is_too_much(c, more))
		drop_kept(c);
	return is_too_much(c, more);
}

static void block_put(struct thmq_consumer *c, struct unpacked *b)
{
	c->whole_bytes -= b->size;
	if (b->size == BLOCK_BYTES && c->block_count < BLOCKS_KEPT) {
		b->next = c->blocks;
		c->blocks = b;
		c->block_count++;
	} else {
		free(b);
	}
}

void thmqi_unpacked_drop(struct thmq_consumer *c, struct delivered *d)
{
	struct unpacked *b;

	c->stalled = false;
	while ((b = d->unpacked)) {
		d->unpacked = b->next;
		block_put(c, b);
	}
}

static void block_unref(struct thmq_consumer *c, struct unpacked *b)
{
	if (!--b->refs)
		block_put(c, b);
}

static void drop_kept(struct thmq_consumer *c)
{
	if (c->kept_block.at)
		block_unref(c, c->kept_block.at);
	c->kept_block.at = NULL;
}

void thmqi_block_drop(struct thmq_consumer *c, struct delivered *d)
{
	if (d->raw_room) {
		c->stalled = false;
		block_unref(c, d->raw_room);
	}
	d->raw_room = NULL;
	d->raw = NULL;
}

void thmqi_unpacked_fini(struct thmq_consumer *c)
{
	struct unpacked *b;
	uint32_t i;

	drop_kept(c);
	while ((b = c->blocks)) {
		c->blocks = b->next;
		free(b);
	}
	c->block_count = 0;
	for (i = 0; i < THMQI_ARRAY_COUNT(c->unpackers); i++) {
		thmqi_pack_close(c->unpackers[i]);
		c->unpackers[i] = NULL;
	}
}

static struct unpacked *block_get(struct thmq_consumer *c, uint32_t bytes)
{
	struct unpacked *b = c->blocks;

	if (bytes <= BLOCK_BYTES && b) {
		c->blocks = b->next;
		c->block_count--;
	} else {
		bytes = THMQI_MAX(bytes, BLOCK_BYTES);
		b = malloc(sizeof(*b) + bytes);
		if (!b)
			return NULL;
		b->size = bytes;
	}
	b->used = 0;
	return b;
}

/* Room in the memory of @d. 0; -ENOBUFS the app holds too much; -ENOMEM */
static int room(struct thmq_consumer *c, struct delivered *d, uint32_t bytes, uint8_t **ret)
{
	struct unpacked *b = d->unpacked;

	bytes = THMQI_ALIGN_UP(bytes, 8u);
	if (!b || b->size - b->used < bytes) {
		/* what was put together of parts is not put together again; where @d has room already the app is just being given more of it */
		if ((c->app_held || b) && !d->whole && thmqi_whole_is_too_much(c, bytes))
			return -ENOBUFS;
		b = block_get(c, bytes);
		if (!b)
			return -ENOMEM;
		b->next = d->unpacked;
		d->unpacked = b;
		c->whole_bytes += b->size;
	}
	*ret = b->bytes + b->used;
	b->used += bytes;
	return 0;
}

/* What room() gave last is not needed: others of the same run have it. */
static void give_room(struct thmq_consumer *c, struct delivered *d, uint32_t bytes)
{
	struct unpacked *b = d->unpacked;

	b->used -= THMQI_ALIGN_UP(bytes, 8u);
	if (b->used)
		return;
	d->unpacked = b->next;
	block_put(c, b);
}

/* The one that unpacks @codec. 0; -THMQ_EVERSION; -EOPNOTSUPP; -ENOMEM */
static int codec_of(struct thmq_consumer *c, uint32_t codec, struct thmqi_pack **ret)
{
	struct thmqi_pack **pack = codec < THMQI_ARRAY_COUNT(c->unpackers) ? &c->unpackers[codec] : NULL;
	int rc;

	if (!pack || !thmqi_pack_name(codec))
		return -THMQ_EVERSION;
	rc = *pack ? 0 : thmqi_pack_open(codec, false, 0, pack);
	if (!rc)
		*ret = *pack;
	return rc;
}

int thmqi_message_unpack(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m,
			 const struct thmqi_attributes *a)
{
	struct thmqi_pack *pack;
	uint8_t *to;
	int rc = codec_of(c, a->codec, &pack);

	if (rc)
		return rc;
	/* before there is any room for it */
	if (a->unpacked_len > THMQI_MESSAGE_MAX ||
	    !thmqi_pack_may_be(pack, m->data, m->len, a->unpacked_len))
		return -THMQ_ECORRUPT;
	rc = room(c, d, a->unpacked_len, &to);
	if (rc)
		return rc;
	rc = thmqi_unpack(pack, m->data, m->len, to, a->unpacked_len);
	if (rc) {
		give_room(c, d, a->unpacked_len);
		return rc;
	}
	m->data = to;
	m->len = a->unpacked_len;
	return 0;
}

/* Another part of its run may come. */
static bool is_followed(const struct delivered *d)
{
	return d->to < d->base_offset + thmqi_read_once(d->run->span);
}

/*
 * A member of a shared group may get a run bit by bit: the block that is unpacked for one part is kept for the next. By its checksum it is the same run,
 * whatever was there before; one that has none yet is unpacked each time.
 */
static bool take_kept(struct thmq_consumer *c, struct delivered *d)
{
	struct unpacked *b = c->kept_block.at;

	if (!b || c->kept_block.reading != d->reading || c->kept_block.base_offset != d->base_offset || c->kept_block.len != d->bytes ||
	    c->kept_block.crc != thmqi_read_once(d->run->payload_crc) || b->used != d->block.raw_len)
		return false;
	b->refs++;
	d->raw_room = b;
	d->raw = b->bytes;
	if (!is_followed(d))
		drop_kept(c);
	return true;
}

static void keep(struct thmq_consumer *c, const struct delivered *d)
{
	const uint32_t crc = thmqi_read_once(d->run->payload_crc);

	drop_kept(c);
	if (!crc || !is_followed(d))
		return;
	c->kept_block.at = d->raw_room;
	c->kept_block.at->refs++;
	c->kept_block.reading = d->reading;
	c->kept_block.base_offset = d->base_offset;
	c->kept_block.len = d->bytes;
	c->kept_block.crc = crc;
}

/* Its head was checked when the run came: it is no larger than THMQI_PACKED_RAW_MAX. */
static int block_unpack(struct thmq_consumer *c, struct delivered *d)
{
	const struct thmqi_block *is = &d->block;
	struct thmqi_pack *pack;
	struct unpacked *b;
	int rc;

	if (is->codec == THMQ_COMPRESSION_NONE) {
		d->raw = d->end;
		return 0;
	}
	if (c->shared && take_kept(c, d))
		return 0;
	rc = codec_of(c, is->codec, &pack);
	if (rc)
		return rc;
	if (!thmqi_pack_may_be(pack, d->end, is->len, is->raw_len))
		return -THMQ_ECORRUPT;
	if (c->app_held && thmqi_whole_is_too_much(c, is->raw_len))
		return -ENOBUFS;
	b = block_get(c, is->raw_len);
	if (!b)
		return -ENOMEM;
	c->whole_bytes += b->size;
	rc = thmqi_unpack(pack, d->end, is->len, b->bytes, is->raw_len);
	if (rc) {
		block_put(c, b);
		return rc;
	}
	b->used = is->raw_len;
	b->refs = 1;
	d->raw_room = b;
	d->raw = b->bytes;
	if (c->shared)
		keep(c, d);
	return 0;
}

int thmqi_message_of_block(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m, const struct thmqi_attributes *a)
{
	int rc;

	if (d->encoding != THMQ_RUN_PACKED)
		return -THMQ_ECORRUPT;
	rc = d->raw ? 0 : block_unpack(c, d);
	if (rc)
		return rc;
	if ((uint64_t)a->in_block.at + a->in_block.len > d->block.raw_len)
		return -THMQ_ECORRUPT;
	m->data = d->raw + a->in_block.at;
	m->len = a->in_block.len;
	return 0;
}
