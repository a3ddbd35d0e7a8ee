/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_log_scan() of a patched log directory, then a repair of it, behind which nothing may be wrong, and a copy of what is whole.
 * They work on real files: a directory is made for each image in $TMPDIR, patched in place, and put right behind each input; it is
 * removed at the end.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commitlog/offline.h"
#include "fuzz.h"
#include "patch.h"

struct scan_dir {
	const struct patch_image *image;
	char dir[64];
};

static struct scan_dir dirs[PATCH_IMAGES];

static void path_of(const struct scan_dir *p, const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", p->dir, name);
}

/* All files of a directory. */
static void empty(const char *dir)
{
	const struct dirent *e;
	char path[400];
	DIR *d = opendir(dir);

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (e->d_name[0] != '.')
			unlink(path);
	}
	if (d)
		closedir(d);
}

static void remove_all(void)
{
	uint32_t i;

	for (i = 0; i < PATCH_IMAGES; i++) {
		if (!dirs[i].image)
			continue;
		empty(dirs[i].dir);
		rmdir(dirs[i].dir);
	}
}

static void write_bytes(int fd, const uint8_t *data, uint64_t from, uint64_t to)
{
	FUZZ_CHECK(pwrite(fd, data + from, to - from, (off_t)from) == (ssize_t)(to - from));
}

/* The file's bytes from where they differ from what is there; @good: as they were made. */
static void put_file(const struct scan_dir *p, const struct patch_file *f, bool good, bool whole)
{
	uint64_t size = good ? f->good_size : f->size;
	uint64_t from = whole ? 0 : f->low, to = THMQI_MIN(size, whole ? size : f->high);
	char path[128];
	int fd;

	path_of(p, f->name, path);
	if (!good && f->gone) {
		unlink(path);
		return;
	}
	fd = open(path, O_RDWR | O_CREAT, 0600);
	FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	if (from < to)
		write_bytes(fd, good ? f->good : f->data, from, to);
	close(fd);
}

static struct scan_dir *dir_of(struct patch_image *im)
{
	const char *tmp = getenv("TMPDIR");
	struct scan_dir *p = dirs;
	uint32_t k;

	while (p->image && p->image != im)
		p++;
	if (p->image)
		return p;
	if (p == dirs)
		atexit(remove_all);
	snprintf(p->dir, sizeof(p->dir), "%s/scan-fuzz-XXXXXX",
		 tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	FUZZ_CHECK(mkdtemp(p->dir));
	p->image = im;
	for (k = 0; k < im->file_count; k++)
		put_file(p, &im->files[k], true, true);
	return p;
}

static int on_batch(void *ctx, const struct thmq_log_batch *batch)
{
	(void)ctx;
	(void)batch;
	return 0;
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	struct thmqi_record_iter it;
	struct thmq_record_view rec;

	(void)ctx;
	fuzz_touch(run->header, sizeof(*run->header));
	fuzz_touch(run->payload, run->header->len);
	if (thmqi_record_begin(&it, run->header) == 0)
		while (thmqi_record_next(&it, &rec) == 1)
			fuzz_touch(rec.key, (size_t)rec.key_len + rec.tag_len + rec.len);
	return 0;
}

static int on_finding(void *ctx, const struct thmq_log_finding *finding)
{
	(void)ctx;
	FUZZ_CHECK(finding->text && *finding->text);
	return 0;
}

/* What a repair would do it then does, and no more is to be done. Return: false it cannot be repaired. */
static bool repair(const struct scan_dir *p)
{
	const struct thmq_log_visitor v = {.size = sizeof(v), .finding = on_finding};
	int would = thmq_log_repair(p->dir, NULL, &v, NULL);
	int rc = thmq_log_repair(p->dir, THMQ_LOG_REPAIR_OPTS(.flags = THMQ_REPAIR_WRITE), &v, NULL);

	FUZZ_CHECK(rc == would, "%d, told before: %d; %s", rc, would, thmq_errmsg());
	FUZZ_CHECK(rc >= 0 || rc == -THMQ_ECORRUPT || rc == -THMQ_EVERSION || rc == -ENOENT, "%d %s", rc, thmq_errmsg());
	if (rc < 0)
		return false;
	rc = thmq_log_scan(p->dir, NULL, NULL);
	FUZZ_CHECK(rc == 0 || rc == -ENOENT, "%d %s", rc, thmq_errmsg()); /* or the next open makes it */
	FUZZ_CHECK(thmq_log_repair(p->dir, NULL, NULL, NULL) == 0);
	return rc == 0;
}

static void copy(const struct scan_dir *p)
{
	struct thmqi_log_snapshot snap;
	char to[80];

	snprintf(to, sizeof(to), "%s-copy", p->dir);
	FUZZ_CHECK(thmqi_log_snapshot_closed(p->dir, NULL, &snap) == 0, "%s", thmq_errmsg());
	FUZZ_CHECK(thmqi_copy_dest(snap.disk, NULL, p->dir, to) == 0, "%s", thmq_errmsg());
	FUZZ_CHECK(thmqi_log_copy_data(&snap, to) == 0 && thmqi_log_copy_vote(&snap, to) == 0, "%s", thmq_errmsg());
	FUZZ_CHECK(thmq_log_scan(to, NULL, NULL) == 0, "%s", thmq_errmsg());
	empty(to);
	rmdir(to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct thmq_log_visitor visitor = {
		.size = sizeof(visitor), .batch = on_batch, .run = on_run, .finding = on_finding};
	struct patch_image *im = patch_image(size ? data[0] % PATCH_IMAGES : 0);
	struct scan_dir *p = dir_of(im);
	uint32_t i;
	int rc;

	patch_apply(data, size, PATCH_IN_VOTE | PATCH_IN_LOG | PATCH_IN_INDEX);
	for (i = 0; i < im->file_count; i++)
		if (im->files[i].gone || im->files[i].low < im->files[i].high)
			put_file(p, &im->files[i], false,
				 im->files[i].size != im->files[i].good_size);
	rc = thmq_log_scan(p->dir, &visitor, NULL);
	FUZZ_CHECK(rc == 0 || rc == -THMQ_ECORRUPT || rc == -THMQ_EVERSION || rc == -ENOENT,
		   "%d %s", rc, thmq_errmsg());
	if (rc == 0)
		copy(p);
	if (repair(p) && rc)
		copy(p);
	empty(p->dir);
	for (i = 0; i < im->file_count; i++)
		put_file(p, &im->files[i], true, true);
	patch_undo(im);
	return 0;
}
