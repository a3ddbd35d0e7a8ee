/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack.c - packed messages of a consumer, made large again where they are handed out. Their bytes lie in blocks that a run keeps
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
	_Alignas(8) uint8_t bytes[];
};

void thmqi_unpacked_drop(struct thmq_consumer *c, struct delivered *d)
{
	struct unpacked *b;

	c->stalled = false;
	while ((b = d->unpacked)) {
		d->unpacked = b->next;
		c->whole_bytes -= b->size;
		if (b->size == BLOCK_BYTES && c->block_count < BLOCKS_KEPT) {
			b->next = c->blocks;
			c->blocks = b;
			c->block_count++;
		} else {
			free(b);
		}
	}
}

void thmqi_unpacked_fini(struct thmq_consumer *c)
{
	struct unpacked *b;
	uint32_t i;

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
		/* what was put together of parts is not put together again */
		if (c->whole_bytes && !d->whole && c->whole_bytes + bytes > c->opts.prefetch_bytes)
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

int thmqi_message_unpack(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m,
			 const struct thmqi_attributes *a)
{
	struct thmqi_pack **pack =
		a->codec < THMQI_ARRAY_COUNT(c->unpackers) ? &c->unpackers[a->codec] : NULL;
	uint8_t *to;
	int rc;

	if (!pack || !thmqi_pack_name(a->codec))
		return -THMQ_EVERSION;
	rc = *pack ? 0 : thmqi_pack_open(a->codec, false, 0, pack);
	if (rc)
		return rc;
	/* before there is any room for it */
	if (a->unpacked_len > THMQI_MESSAGE_MAX ||
	    !thmqi_pack_may_be(*pack, m->data, m->len, a->unpacked_len))
		return -THMQ_ECORRUPT;
	rc = room(c, d, a->unpacked_len, &to);
	rc = rc ? rc : thmqi_unpack(*pack, m->data, m->len, to, a->unpacked_len);
	if (rc)
		return rc;
	m->data = to;
	m->len = a->unpacked_len;
	return 0;
}
