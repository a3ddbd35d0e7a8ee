/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix.c - the calling half on real files: O_DIRECT where the file system has it; errors are negative errno; a
 * partial transfer is continued, and one that cannot be is -EIO.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

static int make_path(const char *path)
{
	char parent[4096];
	size_t len = strlen(path);
	char *slash;
	int rc;

	if (mkdir(path, 0777) == 0 || errno == EEXIST)
		return 0;
	if (errno != ENOENT || len >= sizeof(parent))
		return errno == ENOENT ? -ENAMETOOLONG : -errno;
	memcpy(parent, path, len + 1);
	while (len > 1 && parent[len - 1] == '/')
		parent[--len] = 0;
	slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return -ENOENT;
	*slash = 0;
	rc = make_path(parent);
	if (rc)
		return rc;
	return mkdir(path, 0777) == 0 || errno == EEXIST ? 0 : -errno;
}

/* A new directory survives a crash only when the one it is in was flushed too. */
static void sync_parent(int fd)
{
	int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (parent >= 0) {
		fsync(parent);
		close(parent);
	}
}

int thmqi_posix_dir_open(void *ctx, const char *path, bool create, struct thmqi_disk_dir **ret_dir)
{
	struct thmqi_disk_dir *dir;
	bool made = false;
	int fd, rc;

	(void)ctx;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && create) {
		rc = make_path(path);
		if (rc)
			return rc;
		made = true;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return -errno;
	if (made)
		sync_parent(fd);
	dir = malloc(sizeof(*dir));
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	dir->fd = fd;
	dir->lock_fd = -1;
	*ret_dir = dir;
	return 0;
}

void thmqi_posix_dir_close(struct thmqi_disk_dir *dir)
{
	if (dir->lock_fd >= 0)
		close(dir->lock_fd);
	close(dir->fd);
	free(dir);
}

int thmqi_posix_dir_sync(struct thmqi_disk_dir *dir)
{
	return fsync(dir->fd) == 0 ? 0 : -errno;
}

int thmqi_posix_dir_list(struct thmqi_disk_dir *dir, int (*each)(void *arg, const char *name),
			 void *arg)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	struct dirent *e;
	DIR *d;

	if (fd < 0)
		return -errno;
	d = fdopendir(fd);
	if (!d) {
		rc = -errno;
		close(fd);
		return rc;
	}
	while (!rc && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = each(arg, e->d_name);
	closedir(d);
	return rc;
}

/* flock belongs to the open file, so that a second opener in the same process is refused too. */
int thmqi_posix_dir_lock(struct thmqi_disk_dir *dir, const char *name, uint64_t *ret_pid)
{
	int fd = openat(dir->fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0666), rc;
	char text[32] = {0};

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
		*ret_pid = pread(fd, text, sizeof(text) - 1, 0) > 0 ? strtoull(text, NULL, 10) : 0;
		close(fd);
		return rc;
	}
	rc = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)rc, 0) != rc) {
		rc = -errno;
		close(fd);
		return rc;
	}
	dir->lock_fd = fd;
	return 0;
}

int thmqi_posix_file_open(struct thmqi_disk_dir *dir, const char *name, bool create,
			  struct thmqi_disk_file **ret_file)
{
	struct thmqi_disk_file *file = calloc(1, sizeof(*file));
	int flags = O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0);

	if (!file)
		return -ENOMEM;
	file->slot = -1;
	file->direct = true;
	file->fd = openat(dir->fd, name, flags | O_DIRECT, 0666);
	if (file->fd < 0 && errno == EINVAL) { /* tmpfs before 6.6, some network file systems */
		file->direct = false;
		file->fd = openat(dir->fd, name, flags, 0666);
	}
	if (file->fd < 0 && (errno == EACCES || errno == EROFS) && !create) /* to look at */
		file->fd = openat(dir->fd, name, O_RDONLY | O_CLOEXEC);
	if (file->fd < 0) {
		int rc = -errno;

		free(file);
		return rc;
	}
	*ret_file = file;
	return 0;
}

void thmqi_posix_file_close(struct thmqi_disk_file *file)
{
	if (file->slot >= 0)
		thmqi_ring_file_remove(file->ring, file->slot);
	close(file->fd);
	free(file);
}

int64_t thmqi_posix_file_size(struct thmqi_disk_file *file)
{
	struct stat st;

	return fstat(file->fd, &st) == 0 ? (int64_t)st.st_size : -errno;
}

bool thmqi_posix_file_direct(struct thmqi_disk_file *file)
{
	return file->direct;
}

int64_t thmqi_posix_file_read(struct thmqi_disk_file *file, void *data, uint32_t len,
			      uint64_t offset)
{
	uint32_t done = 0;
	ssize_t n;

	while (done < len) {
		n = pread(file->fd, (uint8_t *)data + done, len - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (uint32_t)n;
	}
	return done;
}

int thmqi_posix_file_write(struct thmqi_disk_file *file, const void *data, uint32_t len,
			   uint64_t offset, bool dsync)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	ssize_t n;

	while (iov.iov_len) {
		n = pwritev2(file->fd, &iov, 1, (off_t)offset, dsync ? RWF_DSYNC : 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		iov.iov_base = (uint8_t *)iov.iov_base + n;
		iov.iov_len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int thmqi_posix_file_allocate(struct thmqi_disk_file *file, uint64_t len)
{
	if (fallocate(file->fd, 0, 0, (off_t)len) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	return ftruncate(file->fd, (off_t)len) == 0 ? 0 : -errno;
}

int thmqi_posix_file_flush(struct thmqi_disk_file *file)
{
	return fdatasync(file->fd) == 0 ? 0 : -errno;
}

int thmqi_posix_rename(struct thmqi_disk_dir *dir, const char *from, const char *to)
{
	return renameat(dir->fd, from, dir->fd, to) == 0 ? 0 : -errno;
}

int thmqi_posix_unlink(struct thmqi_disk_dir *dir, const char *name)
{
	return unlinkat(dir->fd, name, 0) == 0 ? 0 : -errno;
}

int64_t thmqi_posix_run(struct thmqi_disk_op *op)
{
	switch (op->opcode) {
	case THMQI_DISK_READ:
		return thmqi_posix_file_read(op->file, op->data, op->len, op->offset);
	case THMQI_DISK_WRITE:
		return thmqi_posix_file_write(op->file, op->data, op->len, op->offset,
					      op->flags & THMQI_DISK_DSYNC);
	case THMQI_DISK_FLUSH:
		return thmqi_posix_file_flush(op->file);
	case THMQI_DISK_CREATE:
		return thmqi_posix_file_open(op->dir, op->name, true, &op->file);
	case THMQI_DISK_ALLOCATE:
		return thmqi_posix_file_allocate(op->file, op->offset + op->len);
	case THMQI_DISK_RENAME:
		return thmqi_posix_rename(op->dir, op->name, op->name2);
	case THMQI_DISK_UNLINK:
		return thmqi_posix_unlink(op->dir, op->name);
	case THMQI_DISK_SYNC_DIR:
		return thmqi_posix_dir_sync(op->dir);
	case THMQI_DISK_CLOSE:
		thmqi_posix_file_close(op->file);
		return 0;
	default:
		return -EINVAL;
	}
}

const struct thmqi_disk_table thmqi_disk_posix = {THMQI_POSIX_CALLING_HALF};
