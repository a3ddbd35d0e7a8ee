/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trouble.c - the device takes no messages, of which clients hear a number only: said in words, once, and when it is over. It is over once the
 * log has another segment: the library tries that again by itself, while small messages may still find room in the one that is there.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "kafka.h"

#define SEGMENT_BYTES_MAX (1ull << 30) /* each is twice as large as the one before, up to this */

/* A shard's newest segment: where it begins, which its name says, and its bytes. */
static void newest_segment(const char *shard, uint64_t *ret_position, uint64_t *ret_bytes)
{
	DIR *dir = opendir(shard);
	struct dirent *e;
	struct stat st;

	*ret_position = *ret_bytes = 0;
	while (dir && (e = readdir(dir))) {
		char *end;
		uint64_t position = strtoull(e->d_name, &end, 10);

		if (end == e->d_name || strcmp(end, ".log") || position < *ret_position || fstatat(dirfd(dir), e->d_name, &st, 0))
			continue;
		*ret_position = position;
		*ret_bytes = (uint64_t)st.st_size;
	}
	if (dir)
		closedir(dir);
}

/* How far the segments of all shards go, and what the largest next one takes. */
static void look_at_segments(const struct server *s, uint64_t *ret_at, uint64_t *ret_next)
{
	DIR *dir = opendir(s->o.data_dir);
	uint64_t position, bytes;
	struct dirent *e;
	char path[4096];

	*ret_at = *ret_next = 0;
	while (dir && (e = readdir(dir))) {
		if (strncmp(e->d_name, "shard-", 6) || snprintf(path, sizeof(path), "%s/%s", s->o.data_dir, e->d_name) >= (int)sizeof(path))
			continue;
		newest_segment(path, &position, &bytes);
		bytes = bytes < SEGMENT_BYTES_MAX ? bytes * 2 : SEGMENT_BYTES_MAX;
		*ret_at += position;
		*ret_next = bytes > *ret_next ? bytes : *ret_next;
	}
	if (dir)
		closedir(dir);
}

void trouble_note(struct server *s, int error)
{
	struct statvfs fs = {.f_bsize = 0};
	uint64_t next;

	if (s->trouble || (error != -ENOSPC && error != -EDQUOT && error != -EFBIG && error != -EIO && error != -THMQ_EFAILED))
		return;
	s->trouble = error;
	look_at_segments(s, &s->trouble_at, &next);
	statvfs(s->o.data_dir, &fs);
	fprintf(stderr, "kafka: %s: messages are refused: %s (%llu MiB are free, the next segment takes %llu)\n", s->o.data_dir, thmq_strerror(error),
		(unsigned long long)(fs.f_bavail * fs.f_frsize) >> 20, (unsigned long long)next >> 20);
}

void trouble_tick(struct server *s)
{
	uint64_t at, next;

	if (!s->trouble)
		return;
	look_at_segments(s, &at, &next);
	if (at <= s->trouble_at)
		return;
	fprintf(stderr, "kafka: %s: messages are stored again\n", s->o.data_dir);
	s->trouble = 0;
}
