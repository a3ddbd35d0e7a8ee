/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sift.c - consumers that want some messages only, as an expression says (lib/filter). Its text comes in pieces before the consumer
 * attaches, once a connection. Each run is looked at before it is handed over: one without a message that is wanted is passed over; of
 * others the consumer picks what it wants by the same expression, so that a run goes as it lies. What is passed over counts as
 * done: the group's offset moves over it where all before it is acknowledged. Knows nothing of how runs are read.
 */
#include "filter/filter.h"
#include "internal.h"
#include "wire/attributes.h"
#include "wire/run.h"

struct sift {
	struct sift *next; /* of the connection's */
	uint32_t stream;
	uint32_t uses; /* by its connection and by subscriptions */
	uint32_t len, have;
	struct thmqi_filter *filter; /* once all of the text is there, and sensible */
	char text[];
};

/* ------------------------------------------------------------------- whose it is */

static void put(struct sift *s)
{
	if (!s || --s->uses)
		return;
	thmqi_filter_free(s->filter);
	free(s);
}

static struct sift **find(struct conn *c, uint32_t stream)
{
	struct sift **at = &c->sifts;

	while (*at && (*at)->stream != stream)
		at = &(*at)->next;
	return at;
}

static void drop(struct sift **at)
{
	struct sift *s = *at;

	*at = s->next;
	put(s);
}

void thmqi_sift_forget(struct conn *c)
{
	while (c->sifts)
		drop(&c->sifts);
}

static struct sift *begin(struct conn *c, const struct thmqi_frame *f)
{
	struct sift **at = find(c, f->stream), *s;

	if (*at) /* an earlier consumer's of this stream */
		drop(at);
	if (f->stream >= THMQI_STREAMS || !f->len || f->len > THMQ_FILTER_MAX)
		return NULL;
	s = calloc(1, sizeof(*s) + f->len);
	if (!s)
		return NULL;
	s->stream = f->stream;
	s->len = f->len;
	s->uses = 1;
	s->next = c->sifts;
	c->sifts = s;
	return s;
}

/* What makes no sense is told when the consumer attaches. */
void thmqi_sift_text(struct conn *c, const struct thmqi_frame *f)
{
	struct sift *s = f->extra ? *find(c, f->stream) : begin(c, f);
	char bytes[THMQI_FILTER_PIECE];
	struct thmqi_filter_error error;
	uint32_t n;

	if (!s || s->filter || f->extra != s->have || f->len != s->len)
		return;
	n = THMQI_MIN(s->len - s->have, THMQI_FILTER_PIECE);
	memcpy(bytes, &f->seq, sizeof(f->seq));
	memcpy(bytes + sizeof(f->seq), f->arg, sizeof(f->arg));
	memcpy(s->text + s->have, bytes, n);
	s->have += n;
	if (s->have == s->len)
		thmqi_filter_make(s->text, s->len, &s->filter, &error);
}

int thmqi_sift_attach(struct sub *sub, const struct thmqi_frame *f)
{
	struct sift *s;

	if (!(f->flags & THMQI_ATTACH_FILTERED))
		return 0;
	s = *find(sub->conn, f->stream);
	if (!s || !s->filter)
		return -EINVAL;
	s->uses++;
	sub->sift = s;
	return 0;
}

void thmqi_sift_detach(struct sub *sub)
{
	put(sub->sift);
	sub->sift = NULL;
}

/* ---------------------------------------------------------------- what is wanted */

static bool wants(const struct thmqi_filter *filter, const struct thmq_record_view *v)
{
	struct thmqi_filter_message m = {.key = v->key,
					 .tag = v->tag,
					 .key_len = v->key_len,
					 .tag_len = v->tag_len,
					 .time_ns = v->time_ns};
	const uint32_t skip = v->flags & THMQ_RECORD_PART ? (uint32_t)sizeof(struct thmqi_part) : 0;
	struct thmqi_attributes a;

	/* what cannot be read here, since it is cut, or damaged, or of a newer kind, is the consumer's to judge */
	if (skip > v->len || thmqi_attributes_read(v->flags & (uint32_t)~THMQ_RECORD_PART, (const uint8_t *)v->data + skip, v->len - skip, &a))
		return true;
	m.headers = a.headers;
	m.headers_len = a.headers_len;
	return thmqi_filter_match(filter, &m);
}

/* All parts of a message go the way of its first, which has what is asked about. */
static bool wants_part(struct sub *sub, const struct thmq_record_view *v)
{
	struct thmqi_part part;

	if (v->len < sizeof(part))
		return true;
	memcpy(&part, v->data, sizeof(part));
	if (!part.part)
		sub->sift_drops_parts = !wants(sub->sift->filter, v);
	return !sub->sift_drops_parts;
}

bool thmqi_sift_run(struct sub *sub, const struct thmq_run_header *run, uint64_t from, struct sifted *ret)
{
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	/* of others than records it would see no headers */
	int rc = thmqi_run_has_table(run) ? thmqi_record_begin(&it, run) : -EINVAL;

	ret->looked = ret->wanted = 0;
	if (rc) { /* the consumer can read it, or tells that it cannot */
		ret->wanted = 1;
		ret->first = THMQI_MAX(from, run->base_offset);
		ret->end = run->base_offset + run->span;
		return true;
	}
	while ((rc = thmqi_record_next(&it, &v)) == 1) {
		if (v.offset < from)
			continue;
		ret->looked++;
		if (v.flags & THMQ_RECORD_PART ? !wants_part(sub, &v) : !wants(sub->sift->filter, &v))
			continue;
		if (!ret->wanted++)
			ret->first = v.offset;
		ret->end = v.offset + 1;
	}
	if (rc < 0 && !ret->wanted) {
		ret->wanted = 1;
		ret->first = THMQI_MAX(from, run->base_offset);
	}
	if (rc < 0)
		ret->end = run->base_offset + run->span;
	return ret->wanted != 0;
}

/* ------------------------------------------------------------------- and the rest */

void thmqi_sift_place(struct sub *sub, uint64_t offset)
{
	sub->sift_from = sub->sift_begin = offset;
	sub->sift_drops_parts = false;
}

bool thmqi_sift_acked(const struct sub *sub, uint64_t offset)
{
	return offset >= sub->sift_from && offset < sub->next;
}

void thmqi_sift_settle(struct sub *sub)
{
	struct group_offset *g = sub->group;
	struct shard *s = sub->conn->shard;

	if (!g || g->owner != sub || sub->sift_from >= sub->next)
		return;
	/* a group that has not begun does so where its first member does, unless that has got something */
	if (g->offset == UINT64_MAX ? sub->sift_from != sub->sift_begin : !thmqi_sift_acked(sub, g->offset))
		return;
	g->offset = sub->next;
	if (g->shared)
		thmqi_shared_advance(g);
	if (sub->partition->is_volatile)
		g->durable_offset = g->offset;
	else if (!g->dirty) {
		g->dirty = true;
		thmqi_list_add_tail(&s->dirty_offsets, &g->dirty_link);
	}
}
