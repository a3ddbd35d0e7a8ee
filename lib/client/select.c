/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select.c - a consumer that wants some messages only, as an expression says (lib/filter): its text goes to each shard before the
 * consumer attaches there, and again on a connection that was made anew; what comes is looked at once more, since runs come whole.
 */
#include "filter/filter.h"

#include "internal.h"

/* How much of the text a shard has. */
struct select_said {
	uint32_t life; /* of the link */
	uint32_t bytes;
};

struct selection {
	struct thmqi_filter *filter;
	uint32_t len;
	struct select_said said[THMQ_SHARD_COUNT_MAX + 1];
	char text[];
};

int thmqi_select_open(struct thmq_consumer *c, const char *text)
{
	uint32_t len = (uint32_t)strnlen(text, THMQ_FILTER_MAX + 1);
	struct thmqi_filter_error error;
	struct thmqi_filter *f;
	uint64_t tags;
	int rc = thmqi_filter_make(text, len, &f, &error);

	if (rc == -EINVAL)
		return thmqi_fail(rc, "filter: at character %u: %s", error.at + 1, error.what);
	if (rc)
		return rc;
	c->selection = calloc(1, sizeof(*c->selection) + len);
	if (!c->selection) {
		thmqi_filter_free(f);
		return -ENOMEM;
	}
	c->selection->filter = f;
	c->selection->len = len;
	memcpy(c->selection->text, text, len);
	tags = thmqi_filter_tags(f);
	if (tags && c->tag_filter) /* where both say something each alone is true too */
		c->tag_filter = tags & c->tag_filter ? tags & c->tag_filter : tags;
	else
		c->tag_filter |= tags;
	return 0;
}

void thmqi_select_close(struct thmq_consumer *c)
{
	if (!c->selection)
		return;
	thmqi_filter_free(c->selection->filter);
	free(c->selection);
	c->selection = NULL;
}

bool thmqi_select_say(struct thmq_consumer *c, struct client_link *l)
{
	struct selection *s = c->selection;
	struct select_said *said = &s->said[l->shard];
	struct thmqi_frame *f;
	char piece[THMQI_FILTER_PIECE];

	if (said->bytes && said->life != l->life)
		said->bytes = 0;
	said->life = l->life;
	while (said->bytes < s->len) {
		f = thmqi_ctl_claim(l);
		if (!f)
			return false;
		memset(piece, 0, sizeof(piece));
		memcpy(piece, s->text + said->bytes, THMQI_MIN(s->len - said->bytes, THMQI_FILTER_PIECE));
		f->type = THMQI_FRAME_FILTER;
		f->flags = 0;
		f->stream = c->stream;
		f->partition = 0;
		f->len = s->len;
		f->extra = said->bytes;
		memcpy(&f->seq, piece, sizeof(f->seq));
		memcpy(f->arg, piece + sizeof(f->seq), sizeof(f->arg));
		said->bytes += THMQI_MIN(s->len - said->bytes, THMQI_FILTER_PIECE);
		thmqi_ctl_commit(l);
	}
	return true;
}

bool thmqi_select_wants(const struct thmq_consumer *c, const struct thmq_message *m)
{
	const struct thmqi_filter_message is = {.key = m->key,
						.tag = m->tag,
						.headers = m->headers,
						.key_len = m->key_len,
						.tag_len = m->tag_len,
						.headers_len = m->headers_len,
						.time_ns = m->time_ns};

	return thmqi_filter_match(c->selection->filter, &is);
}
