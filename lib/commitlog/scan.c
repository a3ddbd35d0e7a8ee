/* SPDX-License-Identifier: Apache-2.0 */
/* scan.c - a closed log looked at from outside: every byte checked, nothing changed, every batch and run shown. */
#include <stdio.h>

#include "internal.h"

struct scan {
	const struct thmq_log_visitor *visitor;
	void *ctx;
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *dir;
	struct vote vote;
	struct chain chain;
	uint64_t known_durable;
	uint8_t *buf;
	bool damaged;
};

#define BUF_BYTES (4u << 20)

static int finding(struct scan *s, uint32_t kind, int error, uint64_t position, const char *text)
{
	struct thmq_log_finding f = {.kind = kind, .error = error, .position = position, .text = text};

	if (kind != THMQ_FINDING_TORN_TAIL)
		s->damaged = true;
	return s->visitor && s->visitor->finding ? s->visitor->finding(s->ctx, &f) : 0;
}

static int show(struct scan *s, const struct batch_header *h)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	struct thmq_log_batch b = {.position = h->position,
				   .index = h->index,
				   .term = h->term,
				   .incarnation = h->incarnation,
				   .durable_position = h->durable_position,
				   .len = h->len,
				   .payload_len = h->payload_len,
				   .run_count = h->run_count,
				   .type = h->type,
				   .version = h->version};
	uint32_t i;
	int rc = 0;

	if (s->visitor && s->visitor->batch)
		rc = s->visitor->batch(s->ctx, &b);
	for (i = 0; i < h->run_count && !rc; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;
		struct thmq_log_run view = {.header = run,
					    .payload = run + 1,
					    .position = h->position,
					    .index = h->index,
					    .term = h->term};

		if (s->visitor && s->visitor->run)
			rc = s->visitor->run(s->ctx, &view);
		at += thmqi_run_bytes(run);
	}
	return rc;
}

/* The batch at @at of the file. Return: 1 whole and shown, 0 the log ends here, or a value to stop with. */
static int scan_batch(struct scan *s, struct thmqi_disk_file *file, uint64_t at, uint64_t left)
{
	const struct batch_header *h = (const struct batch_header *)s->buf;
	uint32_t len;
	int64_t n;
	int rc;

	n = s->disk->file_read(file, s->buf, THMQI_BLOCK, at);
	if (n < 0)
		return (int)n;
	if (n < THMQI_BLOCK || !thmqi_batch_header_ok(h, s->chain.position, s->vote.log_id) ||
	    !thmqi_batch_continues(h, &s->chain) || h->len > left)
		return 0;
	if (h->version != FORMAT_VERSION) {
		rc = finding(s, THMQ_FINDING_VERSION, -THMQ_EVERSION, h->position,
			     "a batch of a newer format version");
		return rc ? rc : -THMQ_EVERSION;
	}
	len = h->type == BATCH_PAD ? THMQI_BLOCK : h->len;
	if (len > BUF_BYTES)
		return 0;
	if (len > THMQI_BLOCK) {
		n = s->disk->file_read(file, s->buf, len, at);
		if (n < (int64_t)len)
			return n < 0 ? (int)n : 0;
	}
	if (!thmqi_batch_payload_ok(h, len))
		return 0;
	rc = show(s, h);
	if (rc)
		return rc;
	thmqi_chain_advance(&s->chain, h);
	return 1;
}

/* A later header of the same incarnation may know that more was durable than is whole. */
static void look_beyond(struct scan *s, struct thmqi_disk_file *file, uint64_t position, uint64_t at, uint64_t bytes)
{
	const struct batch_header *h = (const struct batch_header *)s->buf;

	for (; at < bytes; at += THMQI_BLOCK) {
		if (s->disk->file_read(file, s->buf, THMQI_BLOCK, at) < (int64_t)THMQI_BLOCK)
			return;
		if (h->magic == BATCH_MAGIC && thmqi_batch_header_ok(h, position + at, s->vote.log_id) &&
		    thmqi_batch_local_ok(h) && h->incarnation == s->vote.incarnation)
			s->known_durable = THMQI_MAX(s->known_durable, h->durable_position);
	}
}

static bool is_zero(const uint8_t *data, uint32_t len)
{
	uint32_t i;

	for (i = 0; i < len; i++)
		if (data[i])
			return false;
	return true;
}

static int judge(struct scan *s, struct thmqi_disk_file *file, uint64_t at)
{
	if (s->chain.position < s->known_durable)
		return finding(s, THMQ_FINDING_DAMAGE, -THMQ_ECORRUPT, s->chain.position,
			       "a batch below what is known durable is damaged or missing");
	if (file && s->disk->file_read(file, s->buf, THMQI_BLOCK, at) == (int64_t)THMQI_BLOCK &&
	    !is_zero(s->buf, THMQI_BLOCK) && !s->vote.clean)
		return finding(s, THMQ_FINDING_TORN_TAIL, 0, s->chain.position,
			       "writes in flight at a crash, or older bytes: the next open begins here");
	return 0;
}

static int scan_segments(struct scan *s)
{
	struct thmqi_disk_file *file = NULL;
	uint64_t bytes, at;
	char name[40];
	int rc;

	for (;;) {
		thmqi_segment_name(s->chain.position, name);
		bytes = thmqi_segment_bytes(&s->vote, s->chain.position);
		rc = s->disk->file_open(s->dir, name, false, &file);
		if (rc == -ENOENT) {
			rc = judge(s, NULL, 0);
			return rc;
		}
		if (rc)
			return rc;
		for (at = 0, rc = 1; rc == 1 && at < bytes;) {
			uint64_t before = s->chain.position;

			rc = scan_batch(s, file, at, bytes - at);
			at += s->chain.position - before;
		}
		if (rc == 0) {
			look_beyond(s, file, s->chain.position - at, at, bytes);
			rc = judge(s, file, at);
			s->disk->file_close(file);
			return rc;
		}
		s->disk->file_close(file);
		if (rc != 1)
			return rc;
	}
}

int thmq_log_scan(const char *dir, const struct thmq_log_visitor *visitor, void *ctx)
{
	struct scan s = {.visitor = visitor, .ctx = ctx, .disk = &thmqi_disk_posix};
	int rc;

	if (!dir)
		return thmqi_fail(-EINVAL, "scan: no directory was named");
	rc = s.disk->dir_open(NULL, dir, false, &s.dir);
	if (rc)
		return thmqi_fail(rc, "open %s: %s", dir, thmq_strerror(rc));
	rc = thmqi_vote_read(s.disk, s.dir, &s.vote);
	if (rc == -ENOENT || rc == -THMQ_ECORRUPT) {
		int stop = finding(&s, rc == -ENOENT ? THMQ_FINDING_MISSING : THMQ_FINDING_DAMAGE, rc, 0,
				   "the vote file is missing or damaged");

		rc = thmqi_fail(stop ? stop : rc == -ENOENT ? -ENOENT : rc, "scan %s: its vote file is %s", dir,
				rc == -ENOENT ? "missing" : "damaged");
		goto out;
	}
	if (rc) {
		thmqi_fail(rc, "scan %s: %s", dir, thmq_strerror(rc));
		goto out;
	}
	s.buf = aligned_alloc(THMQI_BLOCK, BUF_BYTES);
	if (!s.buf) {
		rc = -ENOMEM;
		goto out;
	}
	s.known_durable = s.vote.mark;
	memcpy(s.chain.log_id, s.vote.log_id, 16);
	rc = scan_segments(&s);
	if (!rc && s.damaged)
		rc = thmqi_fail(-THMQ_ECORRUPT, "scan %s: there is damage", dir);
out:
	free(s.buf);
	s.disk->dir_close(s.dir);
	return rc;
}
