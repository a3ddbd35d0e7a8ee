/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parts.c - messages that the broker stored in parts, put together. One at a time of each partition: its parts have consecutive
 * offsets, and nothing lies between them. What is begun and not ended when another message begins is of a producer or a broker that
 * died, and is dropped. The memory of such a message is taken when its first part comes; an app that keeps more of it than its
 * prefetch_bytes gets the next when it has given some back.
 */
#include "wire/attributes.h"

#include "internal.h"

struct assembly {
	uint64_t have, total; /* bytes behind key and tag */
	uint64_t next_offset; /* of the part that comes next */
	uint32_t part, parts; /* of which this is the number */
	uint32_t flags;       /* THMQ_RECORD_*, of the message */
	uint32_t key_len, tag_len;
	uint8_t bytes[]; /* key, tag, and the rest */
};

void thmqi_parts_drop(struct reading *r)
{
	free(r->parts);
	r->parts = NULL;
}

void thmqi_whole_drop(struct thmq_consumer *c, struct delivered *d)
{
	c->whole_bytes -= d->whole->total;
	free(d->whole);
	d->whole = NULL;
}

static int begin(struct thmq_consumer *c, struct reading *r, const struct thmq_message *m,
		 const struct thmqi_part *part, uint32_t flags)
{
	struct assembly *a;

	if (part->total > THMQI_MESSAGE_MAX || part->parts < 2 || part->total < part->parts)
		return -THMQ_ECORRUPT;
	if (c->app_held && thmqi_whole_is_too_much(c, part->total))
		return -ENOBUFS;
	thmqi_parts_drop(r);
	a = malloc(sizeof(*a) + m->key_len + m->tag_len + part->total);
	if (!a)
		return -ENOMEM;
	*a = (struct assembly){.total = part->total,
			       .next_offset = m->offset,
			       .parts = part->parts,
			       .flags = flags & ~THMQ_RECORD_PART,
			       .key_len = m->key_len,
			       .tag_len = m->tag_len};
	if (m->key_len)
		memcpy(a->bytes, m->key, m->key_len);
	if (m->tag_len)
		memcpy(a->bytes + m->key_len, m->tag, m->tag_len);
	r->parts = a;
	return 0;
}

static void give(struct thmq_consumer *c, struct delivered *d, struct assembly *a,
		 struct thmq_message *m)
{
	m->key = a->key_len ? a->bytes : NULL;
	m->tag = a->tag_len ? (const char *)a->bytes + a->key_len : NULL;
	m->data = a->bytes + a->key_len + a->tag_len;
	m->len = (uint32_t)a->total;
	m->offset -= a->parts - 1;
	m->span = a->parts;
	m->key_len = a->key_len;
	m->tag_len = a->tag_len;
	d->reading->parts = NULL;
	d->whole = a;
	c->whole_bytes += a->total;
}

int thmqi_part_take(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m,
		    uint32_t *ret_flags)
{
	struct reading *r = d->reading;
	const uint8_t *from = (const uint8_t *)m->data + sizeof(struct thmqi_part);
	struct thmqi_part part;
	struct assembly *a;
	uint32_t len;
	int rc;

	/* each is alone in its run, which a whole message keeps */
	if (m->len <= sizeof(part) || d->count != 1)
		return -THMQ_ECORRUPT;
	memcpy(&part, m->data, sizeof(part));
	len = m->len - (uint32_t)sizeof(part);
	if (!part.part && (rc = begin(c, r, m, &part, *ret_flags)) != 0)
		return rc;
	a = r->parts;
	if (!a || m->offset != a->next_offset || part.part != a->part || part.parts != a->parts ||
	    part.total != a->total || len > a->total - a->have) {
		thmqi_parts_drop(r); /* the rest of one whose first part was not wanted */
		return 0;
	}
	memcpy(a->bytes + a->key_len + a->tag_len + a->have, from, len);
	a->have += len;
	a->next_offset++;
	if (++a->part < a->parts)
		return 0;
	if (a->have != a->total) {
		thmqi_parts_drop(r);
		return -THMQ_ECORRUPT;
	}
	*ret_flags = a->flags;
	give(c, d, a, m);
	return 1;
}
