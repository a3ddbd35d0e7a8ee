/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_log.c - a directory that is a log on its own (thundermq/log.h), without topics: how it is told from a data directory,
 * its lock, and a copy of its files. Nothing here opens the log, since that would change it.
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "thmq.h"

#define PIECE (1u << 20) /* bytes of one read */

static bool ends_with(const char *name, const char *end)
{
	size_t len = strlen(name), end_len = strlen(end);

	return len == 20 + end_len && strcmp(name + 20, end) == 0 && strspn(name, "0123456789") == 20;
}

/* Of a damaged one `vote` may be lost, or all segments. */
bool is_log(const char *dir)
{
	bool has_data = false, has_log = false;
	struct dirent *entry;
	DIR *d = opendir(dir);

	if (!d)
		return false;
	while ((entry = readdir(d)) != NULL) {
		has_data |= strcmp(entry->d_name, "meta") == 0 || strncmp(entry->d_name, "shard-", 6) == 0;
		has_log |= strcmp(entry->d_name, "vote") == 0 || ends_with(entry->d_name, ".log");
	}
	closedir(d);
	return has_log && !has_data;
}

int lock_log(const char *dir, int *ret_fd)
{
	char path[4400], pid[32] = {0};
	int fd;

	*ret_fd = -1;
	if ((size_t)snprintf(path, sizeof(path), "%s/lock", dir) >= sizeof(path))
		return fail(-ENAMETOOLONG, "%s: %s", dir, strerror(ENAMETOOLONG));
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for a writer */
	if (fd < 0)
		return errno == ENOENT ? EXIT_OK : fail(-EIO, "%s: %s", path, strerror(errno));
	if (flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
		if (pread(fd, pid, sizeof(pid) - 1, 0) < 0)
			pid[0] = 0;
		close(fd);
		return fail(-EBUSY, "%s: process %llu has it open; close it there first", dir,
			    (unsigned long long)strtoull(pid, NULL, 10));
	}
	*ret_fd = fd;
	return EXIT_OK;
}

void unlock_log(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* --------------------------------------------------------------------- copy */

static int copy_bytes(int from, int to, char *piece)
{
	ssize_t n, done, m;

	while ((n = read(from, piece, PIECE)) > 0)
		for (done = 0; done < n; done += m) {
			m = write(to, piece + done, (size_t)(n - done));
			if (m <= 0)
				return m < 0 ? -errno : -ENOSPC;
		}
	return n < 0 ? -errno : fsync(to) ? -errno : 0;
}

static int copy_file(const char *dir, const char *dest, const char *name, char *piece)
{
	char from_path[4400], to_path[4400];
	int from, to, rc;

	if ((size_t)snprintf(from_path, sizeof(from_path), "%s/%s", dir, name) >= sizeof(from_path) ||
	    (size_t)snprintf(to_path, sizeof(to_path), "%s/%s", dest, name) >= sizeof(to_path))
		return -ENAMETOOLONG;
	from = open(from_path, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return -errno;
	to = open(to_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	rc = to < 0 ? -errno : copy_bytes(from, to, piece);
	if (to >= 0)
		close(to);
	close(from);
	return rc;
}

/* `vote` comes last, behind a flush of the directory: without it nothing there opens. */
static int copy_files(const char *dir, const char *dest, char *piece)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	int rc = 0, fd;

	if (!d)
		return -errno;
	while (!rc && (entry = readdir(d)) != NULL)
		if (ends_with(entry->d_name, ".log") || ends_with(entry->d_name, ".idx"))
			rc = copy_file(dir, dest, entry->d_name, piece);
	closedir(d);
	fd = rc ? -1 : open(dest, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!rc && (fd < 0 || fsync(fd)))
		rc = -errno;
	rc = rc ? rc : copy_file(dir, dest, "vote", piece);
	if (!rc && fsync(fd))
		rc = -errno;
	if (fd >= 0)
		close(fd);
	return rc;
}

static int make_empty(const char *dest)
{
	struct dirent *entry;
	bool empty = true;
	DIR *d;

	if (mkdir(dest, 0777) == 0)
		return EXIT_OK;
	d = errno == EEXIST ? opendir(dest) : NULL;
	if (!d)
		return fail(-EIO, "%s: %s", dest, strerror(errno));
	while ((entry = readdir(d)) != NULL)
		empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
	closedir(d);
	return empty ? EXIT_OK : fail(-ENOTEMPTY, "copy to %s: it holds other things", dest);
}

/* Is @dest to lie in @dir itself? */
static bool lies_in(const char *dir, const char *dest)
{
	char *outer = realpath(dir, NULL), *inner, *parent = strdup(dest), *slash;
	size_t len = outer ? strlen(outer) : 0;
	bool in;

	while (parent && *parent && parent[1] && parent[strlen(parent) - 1] == '/')
		parent[strlen(parent) - 1] = 0;
	slash = parent ? strrchr(parent, '/') : NULL;
	if (slash)
		slash[slash == parent] = 0;
	inner = slash ? realpath(parent, NULL) : realpath(".", NULL);
	in = outer && inner && strncmp(outer, inner, len) == 0 && (inner[len] == 0 || inner[len] == '/');
	free(outer);
	free(inner);
	free(parent);
	return in;
}

int copy_log(const char *dir, const char *dest)
{
	char *piece;
	int fd, rc = lock_log(dir, &fd);

	if (rc)
		return rc;
	rc = thmq_log_scan(dir, NULL, NULL);
	rc = rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
	if (!rc && lies_in(dir, dest))
		rc = fail(-EINVAL, "copy %s: the copy cannot lie in it", dir);
	rc = rc ? rc : make_empty(dest);
	piece = rc ? NULL : malloc(PIECE);
	if (!rc) {
		rc = piece ? copy_files(dir, dest, piece) : -ENOMEM;
		rc = rc ? fail(rc == -ENOENT ? -EIO : rc, "copy %s to %s: %s", dir, dest, strerror(-rc)) : EXIT_OK;
	}
	free(piece);
	unlock_log(fd);
	return rc;
}
