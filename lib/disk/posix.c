/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix.c - the calling half on real files, and an operation done at once by system calls. O_DIRECT where the file
 * system has it; errors are negative errno; a partial transfer is continued, and one that cannot be is -EIO.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/file_limit.h"
#include "disk/busy.h"
#include "internal.h"

#define PROCESS_ENDING                                                                             \
	0x404u /* PF_SIGNALED | PF_EXITING of the kernel's include/linux/sched.h, the same since 2.6 */
#define LOCK_NAP_NS 2000000 /* a lock whose holder is dying is tried again so often … */
#define LOCK_TRIES 500u     /* … and for a second in all */

/* -------------------------------------------------------------- directories */

/* A new directory survives a crash only when the one it is in was flushed too. */
static int sync_parent_of(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), parent, rc = 0;

	if (fd < 0)
		return -errno;
	parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0)
		rc = -errno;
	/* some file systems cannot flush a directory, and need not */
	else if (fsync(parent) != 0 && errno != EINVAL && errno != EROFS)
		rc = -errno;
	if (parent >= 0)
		close(parent);
	close(fd);
	return rc;
}

/* Makes each directory of the path that is not there. */
static int make_path(const char *path)
{
	size_t len = strlen(path);
	char *part = strdup(path);
	int rc = 0;

	if (!part)
		return -ENOMEM;
	for (size_t i = 1; i <= len && !rc; i++) {
		if (path[i] != '/' && path[i] != 0)
			continue;
		part[i] = 0;
		if (mkdir(part, 0777) == 0)
			rc = sync_parent_of(part);
		else if (errno != EEXIST && errno != EISDIR)
			rc = -errno;
		part[i] = path[i];
	}
	free(part);
	return rc;
}

int thmqi_disk_posix_dir_open(void *ctx, const char *path, bool create,
			      struct thmqi_disk_dir **ret_dir)
{
	struct thmqi_disk_dir *dir;
	int fd, rc;

	(void)ctx;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && create && path[0]) {
		rc = make_path(path);
		if (rc)
			return rc;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return -errno;
	dir = malloc(sizeof(*dir));
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	dir->fd = fd;
	dir->lock_fd = -1;
	dir->split = dir->polled = false;
	*ret_dir = dir;
	return 0;
}

void thmqi_disk_posix_dir_close(struct thmqi_disk_dir *dir)
{
	if (dir->lock_fd >= 0) {
		/* closing does not unlock while a forked child has the descriptor as well */
		if (dir->lock_pid == getpid())
			flock(dir->lock_fd, LOCK_UN);
		close(dir->lock_fd);
	}
	close(dir->fd);
	free(dir);
}

int thmqi_disk_posix_dir_sync(struct thmqi_disk_dir *dir)
{
	while (fsync(dir->fd) != 0)
		if (errno != EINTR) /* which some file systems say, of a host's signals */
			return -errno;
	return 0;
}

int thmqi_disk_posix_dir_list(struct thmqi_disk_dir *dir, int (*each)(void *arg, const char *name),
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
	for (;;) {
		errno = 0;
		e = readdir(d);
		if (!e) {
			rc = -errno;
			break;
		}
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		rc = each(arg, e->d_name);
		if (rc)
			break;
	}
	closedir(d);
	return rc;
}

/* Whoever holds the lock wrote its number right after it took it: 0 if not yet. */
static uint64_t holder_of(int fd)
{
	char text[32] = {0};

	return pread(fd, text, sizeof(text) - 1, 0) > 0 ? strtoull(text, NULL, 10) : 0;
}

/* The number is a help for people: a full disk does not void the lock. */
static int write_holder(int fd)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());

	if (ftruncate(fd, 0) != 0)
		return -errno;
	return pwrite(fd, text, (size_t)len, 0) == len ? 0 : errno == EFBIG ? -EFBIG : -EIO;
}

/*
 * Is the process gone, or going? One that was killed in the middle of its writes lives on until the device has done them,
 * and the kernel's own workers have its files open for a moment longer; one that nobody has waited for keeps its number.
 * Source: proc_pid_stat(5): state, flags and pending signals are fields 3, 9 and 31, counted from 1.
 */
static bool is_dying(uint64_t pid)
{
	char name[32], text[1024], *field;
	ssize_t n = -1;
	int fd;

	if (pid == 0 || pid > INT32_MAX)
		return false;
	if (kill((pid_t)pid, 0) != 0)
		return errno == ESRCH;
	snprintf(name, sizeof(name), "/proc/%d/stat", (int)pid);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT && access("/proc/self", F_OK) == 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[THMQI_MAX(n, 0)] = 0;
	field = strrchr(text, ')'); /* the end of the second, which may hold anything */
	for (uint32_t i = 3; field && i <= 31; i++) {
		field = strchr(field + 1, ' ');
		if (!field)
			break;
		if (i == 3 && (field[1] == 'Z' || field[1] == 'X'))
			return true;
		if (i == 9 && (strtoul(field, NULL, 10) & PROCESS_ENDING))
			return true;
		if (i == 31 && (strtoul(field, NULL, 10) & 1u << (SIGKILL - 1)))
			return true;
	}
	return n < 0;
}

/* Waits only for those who will let go by themselves. */
static int lock_file(int fd, uint64_t *ret_pid)
{
	const struct timespec nap = {.tv_nsec = LOCK_NAP_NS};
	uint32_t i, seen_alive = 0;
	uint64_t pid;

	for (i = 0;; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK)
			return -errno;
		pid = holder_of(fd);
		/* twice: between the signal and the flags there is a moment without either */
		seen_alive = is_dying(pid) ? 0 : seen_alive + 1;
		if (i == LOCK_TRIES || seen_alive == 2) {
			*ret_pid = pid;
			return -EBUSY;
		}
		nanosleep(&nap, NULL);
	}
}

/* flock(2) belongs to the open file: a second opener in the same process is refused too, and the kernel drops it with
 * the last descriptor. */
int thmqi_disk_posix_dir_lock(struct thmqi_disk_dir *dir, const char *name, uint64_t *ret_pid)
{
	sigset_t old;
	int fd, rc;

	if (dir->lock_fd >= 0) {
		*ret_pid = (uint64_t)getpid();
		return -EBUSY;
	}
	fd = openat(dir->fd, name, O_RDWR | O_CREAT | O_CLOEXEC, DISK_MODE);
	if (fd < 0)
		return -errno;
	rc = lock_file(fd, ret_pid);
	if (rc) {
		close(fd);
		return rc;
	}
	thmqi_file_limit_hold(&old);
	thmqi_file_limit_let_go(&old, write_holder(fd));
	dir->lock_fd = fd;
	dir->lock_pid = getpid();
	return 0;
}

/* A lock goes to the children that its holder has forked, and whoever only looks does not leave a number. */
int thmqi_disk_busy(const char *path, uint64_t pid)
{
	if (pid && !is_dying(pid))
		return thmqi_fail(-EBUSY, "open %s: process %llu%s has it open; close it there first", path, (unsigned long long)pid,
				  pid == (uint64_t)getpid() ? " (this one)" : "");
	return thmqi_fail(-EBUSY, "open %s: it is in use, but process %llu, which opened it last, is not to be found: a child that it forked still "
				  "has it, it lives in another container, or somebody looks at it (verify, copy); end that first",
			  path, (unsigned long long)pid);
}

int thmqi_disk_posix_rename(struct thmqi_disk_dir *dir, const char *from, const char *to)
{
	return renameat(dir->fd, from, dir->fd, to) == 0 ? 0 : -errno;
}

int thmqi_disk_posix_unlink(struct thmqi_disk_dir *dir, const char *name)
{
	return unlinkat(dir->fd, name, 0) == 0 ? 0 : -errno;
}

/* -------------------------------------------------------------------- files */

struct thmqi_disk_file *thmqi_disk_posix_file_make(int fd, bool direct)
{
	struct thmqi_disk_file *file =
		mmap(NULL, sizeof(*file), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (file == MAP_FAILED)
		return NULL;
	file->fd = fd;
	file->slot = -1;
	file->direct = direct;
	thmqi_list_init(&file->link);
	return file;
}

void thmqi_disk_posix_file_free(struct thmqi_disk_file *file)
{
	munmap(file, sizeof(*file));
}

static int open_file(struct thmqi_disk_dir *dir, const char *name, int flags,
		     struct thmqi_disk_file **ret_file)
{
	struct thmqi_disk_file *file;
	bool direct = true;
	struct stat st;
	int fd, rc;

	flags |= O_CLOEXEC;
	fd = openat(dir->fd, name, O_RDWR | O_DIRECT | flags, DISK_MODE);
	if (fd < 0 && errno == EINVAL) { /* tmpfs before 6.6, some network file systems */
		direct = false;
		fd = openat(dir->fd, name, O_RDWR | flags, DISK_MODE);
	}
	if (fd < 0 && (errno == EACCES || errno == EROFS) && !(flags & O_CREAT)) { /* to look at */
		direct = false;
		fd = openat(dir->fd, name, O_RDONLY | flags | O_NONBLOCK); /* a pipe would wait for a writer */
		if (fd >= 0) /* io_uring would not wait for the device either */
			fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	}
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return -EINVAL;
	}
	file = thmqi_disk_posix_file_make(fd, direct);
	if (!file) {
		rc = -ENOMEM;
		close(fd);
		return rc;
	}
	disk_file_of_dir(file, dir);
	*ret_file = file;
	return 0;
}

int thmqi_disk_posix_file_open(struct thmqi_disk_dir *dir, const char *name, bool create,
			       struct thmqi_disk_file **ret_file)
{
	return open_file(dir, name, create ? O_CREAT : 0, ret_file);
}

void thmqi_disk_posix_file_close(struct thmqi_disk_file *file)
{
	if (file->ring && file->slot >= 0)
		thmqi_ring_file_remove(file->ring, file->slot);
	thmqi_list_del(&file->link);
	close(file->fd);
	thmqi_disk_posix_file_free(file);
}

int64_t thmqi_disk_posix_file_size(struct thmqi_disk_file *file)
{
	struct stat st;

	return fstat(file->fd, &st) == 0 ? (int64_t)st.st_size : -errno;
}

bool thmqi_disk_posix_file_direct(struct thmqi_disk_file *file)
{
	return file->direct;
}

int64_t thmqi_disk_posix_file_read(struct thmqi_disk_file *file, void *data, uint32_t len,
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
		done += (uint32_t)n;
		if (n % DISK_SECTOR || n == 0) /* the end of the file */
			break;
	}
	return done;
}

static ssize_t write_some(const struct thmqi_disk_file *file, const struct iovec *iov,
			  uint64_t offset, bool dsync)
{
	bool flag = dsync && !file->split;
	ssize_t n = pwritev2(file->fd, iov, 1, (off_t)offset, flag ? RWF_DSYNC : 0);

	if (n < 0 && flag && (errno == EOPNOTSUPP || errno == ENOSYS)) {
		/* a kernel or file system without the flag */
		n = pwrite(file->fd, iov->iov_base, iov->iov_len, (off_t)offset);
		flag = false;
	}
	return n > 0 && dsync && !flag && thmqi_disk_posix_file_flush((struct thmqi_disk_file *)file) != 0 ? -1 : n;
}

static int write_all(struct thmqi_disk_file *file, const void *data, uint32_t len, uint64_t offset,
		     bool dsync)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	ssize_t n;

	while (iov.iov_len) {
		n = write_some(file, &iov, offset, dsync);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n % DISK_SECTOR || n == 0)
			return -EIO;
		iov.iov_base = (uint8_t *)iov.iov_base + n;
		iov.iov_len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int thmqi_disk_posix_file_write(struct thmqi_disk_file *file, const void *data, uint32_t len,
				uint64_t offset, bool dsync)
{
	sigset_t old;

	thmqi_file_limit_hold(&old);
	return thmqi_file_limit_let_go(&old, write_all(file, data, len, offset, dsync));
}

static int allocate(struct thmqi_disk_file *file, uint64_t len)
{
	int64_t size;

	if (fallocate(file->fd, 0, 0, (off_t)len) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	size = thmqi_disk_posix_file_size(file);
	if (size < 0 || (uint64_t)size >= len)
		return (int)THMQI_MIN(size, 0);
	return ftruncate(file->fd, (off_t)len) == 0 ? 0 : -errno;
}

int thmqi_disk_posix_file_allocate(struct thmqi_disk_file *file, uint64_t len)
{
	sigset_t old, all;

	/* fallocate(2) begins anew after each signal: with a profiler's it would never end */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	return thmqi_file_limit_let_go(&old, allocate(file, len));
}

int thmqi_disk_posix_file_flush(struct thmqi_disk_file *file)
{
	while (fdatasync(file->fd) != 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* ---------------------------------------------------------------- operations */

int64_t thmqi_disk_posix_run(struct thmqi_disk_op *op)
{
	switch (op->opcode) {
	case THMQI_DISK_READ:
		return thmqi_disk_posix_file_read(op->file, op->data, op->len, op->offset);
	case THMQI_DISK_WRITE:
		return thmqi_disk_posix_file_write(op->file, op->data, op->len, op->offset,
						   op->flags & THMQI_DISK_DSYNC);
	case THMQI_DISK_FLUSH:
		return thmqi_disk_posix_file_flush(op->file);
	case THMQI_DISK_CREATE:
		return open_file(op->dir, op->name, O_CREAT | O_TRUNC, &op->file);
	case THMQI_DISK_ALLOCATE:
		return thmqi_disk_posix_file_allocate(op->file, op->offset + op->len);
	case THMQI_DISK_RENAME:
		return thmqi_disk_posix_rename(op->dir, op->name, op->name2);
	case THMQI_DISK_UNLINK:
		return thmqi_disk_posix_unlink(op->dir, op->name);
	case THMQI_DISK_SYNC_DIR:
		return thmqi_disk_posix_dir_sync(op->dir);
	case THMQI_DISK_OPEN:
		return open_file(op->dir, op->name, 0, &op->file);
	case THMQI_DISK_CLOSE:
		thmqi_disk_posix_file_close(op->file);
		return 0;
	default:
		return -EINVAL;
	}
}

/* ------------------------------------------- the table of tools without a core */

static int no_queue(void *ctx, struct thmq_core *core, uint32_t depth,
		    struct thmqi_disk_queue **ret_queue)
{
	(void)ctx;
	(void)core;
	(void)depth;
	(void)ret_queue;
	return -EOPNOTSUPP;
}

const struct thmqi_disk_table thmqi_disk_posix = {THMQI_DISK_POSIX_CALLING_HALF,
						  .queue_open = no_queue};
