/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aside.c - what a repair took out of a log and laid beside it, looked at as the log is: the batches in it that are whole are shown.
 * Knows not how it came there, or what it belongs to.
 */
#include <stdio.h>

#include "scan.h"

/* Bytes @begin to @end of the log, as they were, among which no whole batch begins. */
static void tell_aside(struct scan *s, uint64_t begin, uint64_t end, bool written)
{
	if (written && !s->stop)
		thmqi_finding(s, THMQ_FINDING_DAMAGE, -THMQ_ECORRUPT, begin, "bytes %llu to %llu hold no whole batch",
			      (unsigned long long)begin, (unsigned long long)end);
}

/* What a repair took out of a log, from @position on: the batches that are whole are shown. Nothing tells how they continue. */
static int scan_aside(struct scan *s, struct thmqi_disk_file *file, uint64_t position)
{
	static const uint8_t zeros[THMQI_BLOCK];
	const struct batch_header *h = NULL;
	uint64_t at = 0, begin = 0, len;
	int64_t size = s->disk->file_size(file);
	bool written = false; /* not all of what lies behind @begin is as it was made */
	int rc = size < 0 ? (int)size : thmqi_scan_find_header(s, file, position, &h);

	if (rc < 0)
		return rc;
	if (rc == 1)
		memcpy(s->vote.log_id, h->log_id, 16);
	h = (const struct batch_header *)s->piece;
	while (at < (uint64_t)size && !s->stop) {
		rc = thmqi_scan_load_batch(s, file, at, position + at, UINT64_MAX);
		if (rc < 0 && rc != SCAN_ONLY_HEADER && rc != -THMQ_EVERSION)
			return rc;
		len = rc == 1 || rc == SCAN_ONLY_HEADER ? h->len : THMQI_BLOCK;
		if (rc == 1) {
			tell_aside(s, position + begin, position + at, written);
			if (!s->stop)
				thmqi_scan_show(s, h);
			begin = at + len;
			written = false;
		} else {
			written |= memcmp(s->piece, zeros, THMQI_BLOCK) != 0;
		}
		at += len;
	}
	tell_aside(s, position + begin, position + (uint64_t)size, written);
	return 0;
}

bool thmqi_scan_is_aside(const char *path, uint64_t *ret_position)
{
	const char *name = strrchr(path, '/');
	unsigned long long position;
	size_t len = strlen(path);

	name = name ? name + 1 : path;
	if (len < 4 || strcmp(path + len - 4, ".bin") != 0 || sscanf(name, SCAN_ASIDE "%20llu", &position) != 1)
		return false;
	*ret_position = position;
	return true;
}

int thmqi_log_scan_aside(const char *path, uint64_t position, const struct thmq_log_visitor *visitor, void *ctx)
{
	const char *slash = strrchr(path, '/');
	struct thmqi_disk_file *file;
	char dir[4096];
	struct scan s;
	int rc, stop;

	if (slash && (size_t)(slash - path) >= sizeof(dir))
		return thmqi_fail(-ENAMETOOLONG, "scan %.100s…: its path is too long", path);
	snprintf(dir, sizeof(dir), "%.*s", slash ? THMQI_MAX((int)(slash - path), 1) : 1, slash ? path : ".");
	rc = thmqi_scan_begin(&s, dir, NULL, visitor, ctx);
	if (!rc) {
		rc = s.disk->file_open(s.dir, slash ? slash + 1 : path, false, &file);
		if (!rc) {
			rc = scan_aside(&s, file, position);
			s.disk->file_close(file);
		}
		rc = rc ? thmqi_fail(rc, "scan %s: %s", path, thmq_strerror(rc)) :
		     s.damaged ? thmqi_fail(-THMQ_ECORRUPT, "scan %s: there is damage", path) : 0;
	}
	stop = s.stop;
	thmqi_scan_end(&s);
	return stop ? stop : rc;
}
