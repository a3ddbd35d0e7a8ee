/* SPDX-License-Identifier: Apache-2.0 */
/*
 * versions.c - the newest message with a key, looked up in the log's index: for a request, and for a message that is to be stored only if
 * that is the one which its producer expects. The partition is kept for such a message while it is looked up: nobody else appends, so that
 * what was found is still so when it is stored.
 */
#include "commitlog/hint.h"
#include "internal.h"
#include "wire/attributes.h"

/* The iteration that this is called in looks at the rings again. */
static void on_ready(void *ctx)
{
	(void)ctx;
}

static void end(struct conn *c, struct key_search *k)
{
	if (k == &c->expected && k->partition)
		k->partition->parting = c->parts.partition == k->partition;
	thmq_log_reader_close(k->reader);
	free(k->key);
	*k = (struct key_search){0};
}

static int begin(const struct shard *s, struct key_search *k, struct partition *p, const void *key, uint32_t key_len,
		 uint64_t before)
{
	int rc = thmq_log_reader_open(p->log, p->id, on_ready, NULL, &k->reader);

	if (rc)
		return rc;
	k->partition = p;
	k->shard = s;
	return thmq_log_reader_seek_key(k->reader, key, key_len, INT64_MIN, INT64_MAX, before);
}

/* A message in parts is one if its last part is there: whoever stored the others may have died. Return: as read_hit() */
static int read_last_part(struct key_search *k)
{
	uint32_t last = k->part.parts - 1;
	struct thmq_record_view record;
	struct thmq_log_view view;
	int rc = thmqi_log_read_at(k->reader, k->hit.offset + last, &view, &record);

	if (rc != 1)
		return rc;
	rc = thmqi_part_is(&record, &k->part, last);
	thmq_log_view_release(k->partition->log, &view);
	return rc ? 1 : -ENOENT;
}

/* The index knows hashes. Return: 1 it is the one; 0 being read; -ENOENT another's, or it is gone: on to the one before; an error */
static int read_hit(struct key_search *k, const void *key, uint32_t key_len)
{
	struct thmq_record_view record;
	struct thmq_log_view view;
	int rc;

	if (k->in_parts)
		return read_last_part(k);
	rc = thmq_log_read_hit(k->reader, &k->hit, &view, &record);
	if (rc != 1)
		return rc;
	rc = record.key_len == key_len && memcmp(record.key, key, key_len) == 0 &&
	     !(view.run.header->transaction && thmqi_txn_hides(k->shard, view.run.header));
	k->in_parts = rc && thmqi_part_of(&record, &k->part) && !k->part.part;
	thmq_log_view_release(k->partition->log, &view);
	return k->in_parts ? read_last_part(k) : rc ? 1 : -ENOENT;
}

/* 1: *@k->hit is it; 0 later; -ENOENT there is none; an error */
static int go(struct key_search *k, const void *key, uint32_t key_len)
{
	int rc;

	for (;;) {
		if (!k->has_hit) {
			rc = thmq_log_reader_find_key(k->reader, 1, &k->hit);
			if (rc <= 0)
				return rc;
			k->has_hit = true;
			k->in_parts = false;
		}
		rc = read_hit(k, key, key_len);
		if (rc != -ENOENT)
			return rc;
		k->has_hit = false;
		rc = thmq_log_reader_seek_key(k->reader, key, key_len, INT64_MIN, INT64_MAX,
					      k->hit.offset);
		if (rc)
			return rc;
	}
}

/* ------------------------------------------------------------------- expected */

/* One past the last message. Behind it may lie parts of one that was cut short, which nobody is told of. */
static uint64_t message_end(const struct shard *s, const struct partition *p)
{
	uint64_t logged = thmqi_logged_offset(p);

	return p->durable >= logged ? thmqi_visible_all(s, p) : logged; /* all that is durable is visible, if it is to be */
}

static int expect_key(struct conn *c, const struct thmqi_frame *f, struct partition *p,
		      uint64_t *ret_is)
{
	const void *key = (const void *)(uintptr_t)f->data;
	struct key_search *k = &c->expected;
	int rc = 0;

	if (!f->key_len)
		return -EINVAL;
	if (p->is_volatile)
		return -ENOTSUP;
	if (!k->partition) {
		rc = begin(c->shard, k, p, key, f->key_len, UINT64_MAX);
		p->parting = k->partition == p;
	}
	rc = rc ? rc : go(k, key, f->key_len);
	if (rc == 0)
		return -EAGAIN;
	*ret_is = rc == 1 ? k->hit.offset : UINT64_MAX;
	end(c, k);
	return rc < 0 && rc != -ENOENT ? rc : 0;
}

int thmqi_version_expect(struct conn *c, const struct thmqi_frame *f, struct partition *p,
			 uint64_t *ret_is)
{
	const uint8_t *at =
		(const uint8_t *)(uintptr_t)f->data + f->key_len + THMQI_PRODUCE_TAG_LEN(f->extra);
	uint64_t expected;
	int rc = 0;

	if (c->parts.partition) /* it was so when its first part was stored, and nobody else has stored anything since */
		return 0;
	if (f->len - f->key_len - THMQI_PRODUCE_TAG_LEN(f->extra) < sizeof(expected))
		return -EINVAL;
	memcpy(&expected, at, sizeof(expected));
	*ret_is = message_end(c->shard, p);
	if (THMQI_PRODUCE_HAS(f->extra) & THMQ_RECORD_EXPECT_KEY)
		rc = expect_key(c, f, p, ret_is);
	return rc ? rc : expected == *ret_is ? 0 : -THMQ_ECONFLICT;
}

void thmqi_version_forget(struct conn *c)
{
	end(c, &c->expected);
}

/* -------------------------------------------------------------------- requests */

static void answer(struct conn *c, int rc)
{
	uint64_t id = c->asked.request;

	c->wire->reply->value[0] = c->asked.hit.offset;
	c->wire->reply->value[1] = (uint64_t)c->asked.hit.time_ns;
	end(c, &c->asked);
	thmqi_reply(c, id, rc);
}

void thmqi_version_go(struct conn *c)
{
	int rc = go(&c->asked, c->asked.key, c->asked.key_len);

	if (rc)
		answer(c, rc == 1 ? 0 : rc);
}

void thmqi_version_request(struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct partition *p = thmqi_shard_partition_asked(c->shard, r->partition);
	struct key_search *k = &c->asked;
	int rc = !p ? -THMQ_ENOPARTITION : p->dead ? -THMQ_ENOTOPIC : p->is_volatile ? -ENOTSUP : 0;

	if (!rc && (!r->key_len || r->key_len > sizeof(r->key)))
		rc = -EINVAL;
	if (rc) {
		thmqi_reply(c, id, rc);
		return;
	}
	end(c, k); /* nobody waits for the one before any more */
	k->request = id;
	k->key_len = r->key_len;
	k->key = malloc(r->key_len);
	rc = k->key ? 0 : -ENOMEM;
	if (!rc) {
		memcpy(k->key, r->key, r->key_len);
		rc = begin(c->shard, k, p, k->key, k->key_len, THMQI_MIN(r->before_offset, p->visible));
	}
	if (rc)
		answer(c, rc);
	else
		thmqi_version_go(c);
}

void thmqi_version_drop(struct conn *c, const struct partition *p)
{
	if (c->expected.partition && (!p || c->expected.partition == p))
		thmqi_version_forget(c);
	if (!c->asked.partition || (p && c->asked.partition != p))
		return;
	if (p)
		answer(c, -THMQ_ENOTOPIC);
	else
		end(c, &c->asked);
}
