/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - cuts the power of a drive at moments of its life that the kernel's device-mapper target log-writes recorded.
 *
 *   lab_replay LOG DRIVE CUTS SEED COMMAND
 *
 * LOG is what the target wrote, DRIVE an all-zero device as large as the one recorded. For each cut DRIVE gets what that
 * one must hold when its power fails there: what was flushed or written through the cache before, and of the writes whose
 * flush had not ended a random part, some of them torn between sectors. Then `COMMAND note` runs, where note is the last
 * mark before the cut ("none" if there is none); it must leave DRIVE as it was. Exits with the command's first status that
 * is not 0, 1 for its own trouble, else 0; the last line says how many cuts there were.
 *
 * The log's order (the kernel's Documentation/admin-guide/device-mapper/log-writes.rst): a write to the cache is recorded
 * when a flush that began after it had ended ends, just before that flush; a write through the cache (FUA) when it ends.
 * So whatever stands between two such ends was in the cache together, and any part of it may have reached the medium.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAGIC 0x6a736677736872ull
#define FLUSH 1u
#define FUA 2u
#define DISCARD 4u
#define MARK 8u
#define SECTOR 512u
#define TEAR_ODDS 4u /* one in so many of the writes in the cache is torn */

struct super {
	uint64_t magic, version, count;
	uint32_t sector_bytes;
};

struct head { /* of an entry, in a sector of its own */
	uint64_t sector, sectors, flags, data_len;
};

struct entry {
	struct head h;
	uint64_t data_at; /* byte in the log; of a mark: its text */
};

struct replay {
	int log, drive;
	struct entry *entries;
	uint64_t count, done; /* entries on the drive */
	char note[SECTOR];
	uint64_t chance;
};

static bool die(const char *what)
{
	fprintf(stderr, "lab_replay: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* splitmix64 */
static uint64_t chance(struct replay *r)
{
	uint64_t z = r->chance += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void *alloc(uint64_t bytes)
{
	void *p = malloc(bytes ? bytes : 1);

	return p ? p : (die("memory"), NULL);
}

static void load(struct replay *r)
{
	uint64_t i, at = SECTOR;
	struct super s;

	if (pread(r->log, &s, sizeof(s), 0) != sizeof(s))
		die("the log");
	errno = EINVAL;
	if (s.magic != MAGIC || s.version != 1 || s.sector_bytes != SECTOR)
		die("it is no log of 512-byte sectors");
	r->count = s.count;
	r->entries = alloc(s.count * sizeof(*r->entries));
	for (i = 0; i < s.count; i++) {
		struct entry *e = &r->entries[i];

		if (pread(r->log, &e->h, sizeof(e->h), (off_t)at) != sizeof(e->h))
			die("the log's end");
		e->data_at = e->h.flags & MARK ? at + sizeof(e->h) : at + SECTOR;
		at += SECTOR + (e->h.flags & DISCARD ? 0 : e->h.sectors * SECTOR);
	}
}

static bool in_cache(const struct entry *e)
{
	return !(e->h.flags & (FLUSH | FUA | MARK));
}

/* The entry's sectors [first, first + count) go to the drive. */
static void apply(struct replay *r, const struct entry *e, uint64_t first, uint64_t count)
{
	uint64_t bytes = count * SECTOR;
	char *data;

	if (!bytes || e->h.flags & MARK)
		return;
	data = alloc(bytes);
	if (e->h.flags & DISCARD)
		memset(data, 0, bytes);
	else if (pread(r->log, data, bytes, (off_t)(e->data_at + first * SECTOR)) != (ssize_t)bytes)
		die("the log's data");
	if (pwrite(r->drive, data, bytes, (off_t)((e->h.sector + first) * SECTOR)) !=
	    (ssize_t)bytes)
		die("the drive");
	free(data);
}

static void go_to(struct replay *r, uint64_t end)
{
	for (; r->done < end; r->done++) {
		const struct entry *e = &r->entries[r->done];

		apply(r, e, 0, e->h.sectors);
		if (!(e->h.flags & MARK))
			continue;
		memset(r->note, 0, sizeof(r->note));
		if (e->h.data_len >= sizeof(r->note) ||
		    pread(r->log, r->note, e->h.data_len, (off_t)e->data_at) !=
			    (ssize_t)e->h.data_len)
			die("a mark");
	}
}

struct saved {
	struct saved *next;
	uint64_t at, bytes;
	char data[];
};

/* What the cache held may be there or not. Returns what lay there before. */
static struct saved *lose_some(struct replay *r, uint64_t *ret_kept)
{
	struct saved *saved = NULL;
	uint64_t i;

	for (i = r->done; i < r->count; i++) {
		const struct entry *e = &r->entries[i];
		uint64_t first = 0, count = e->h.sectors, bytes;

		if (count && !(e->h.flags & (MARK | DISCARD)) && chance(r) % 2) {
			struct saved *s;

			if (chance(r) % TEAR_ODDS == 0) {
				first = chance(r) % count;
				count = 1 + chance(r) % (count - first);
			}
			bytes = count * SECTOR;
			s = alloc(sizeof(*s) + bytes);
			*s = (struct saved){.next = saved,
					    .at = (e->h.sector + first) * SECTOR,
					    .bytes = bytes};
			if (pread(r->drive, s->data, bytes, (off_t)s->at) != (ssize_t)bytes)
				die("the drive");
			saved = s;
			apply(r, e, first, count);
			++*ret_kept;
		}
		if (!in_cache(e))
			break;
	}
	return saved;
}

static void restore(struct replay *r, struct saved *s)
{
	struct saved *next;

	for (; s; s = next) {
		next = s->next;
		if (pwrite(r->drive, s->data, s->bytes, (off_t)s->at) != (ssize_t)s->bytes)
			die("the drive");
		free(s);
	}
}

static int cut(struct replay *r, uint64_t at, const char *command, uint64_t *ret_kept)
{
	struct saved *saved;
	char line[2 * SECTOR];
	int status;

	while (at > r->done && in_cache(&r->entries[at - 1]))
		at--;
	go_to(r, at);
	saved = lose_some(r, ret_kept);
	if (fsync(r->drive) != 0)
		die("the drive");
	snprintf(line, sizeof(line), "%s %s", command, r->note[0] ? r->note : "none");
	fflush(NULL);
	status = system(line);
	restore(r, saved);
	if (status)
		fprintf(stderr, "lab_replay: the cut before entry %" PRIu64 " of %" PRIu64 "\n", at,
			r->count);
	return status == -1 ? 1 : WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
	struct replay r = {0};
	uint64_t i, first, cuts, seed, kept = 0;
	int status = 0;

	if (argc != 6) {
		fprintf(stderr, "usage: lab_replay LOG DRIVE CUTS SEED COMMAND\n");
		return 2;
	}
	r.log = open(argv[1], O_RDONLY | O_CLOEXEC);
	r.drive = open(argv[2], O_RDWR | O_CLOEXEC);
	if (r.log < 0 || r.drive < 0)
		die("open");
	cuts = strtoull(argv[3], NULL, 10);
	r.chance = seed = strtoull(argv[4], NULL, 10);
	load(&r);
	/* the first mark says that there is something to check */
	while (r.done < r.count && !r.note[0])
		go_to(&r, r.done + 1);
	first = r.done;
	for (i = 0; i < cuts && !status;
	     i++) { /* one in each of so many stretches, so that none goes back */
		uint64_t begin = first + (r.count - first) * i / cuts,
			 end = first + (r.count - first) * (i + 1) / cuts;

		status = cut(&r, begin + (end > begin ? chance(&r) % (end - begin) : 0), argv[5],
			     &kept);
	}
	printf("%" PRIu64 " cuts of %" PRIu64 " writes and flushes, seed %" PRIu64 ", %" PRIu64
	       " unflushed writes kept or torn%s\n",
	       i, r.count, seed, kept, status ? ": WRONG" : "");
	return status;
}
