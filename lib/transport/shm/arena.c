/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.c - the memory of a link that two processes share: where what lies in it, how it is made, and what is asked of one that
 * came from a stranger. It must be a memfd whose file cannot shrink any more: reading beyond the end of a file would be a signal. Knows no socket.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/file_limit.h"
#include "shm.h"

/* Offsets, in the order in which the parts lie. */
struct layout {
	uint64_t request, reply, ctl, up, down, area, room, end;
};

static uint64_t place(uint64_t *at, uint64_t bytes)
{
	uint64_t begin = *at;

	*at += THMQI_ALIGN_UP(bytes, (uint64_t)THMQI_BLOCK);
	return begin;
}

static void lay_out(const struct shm_sizes *s, struct layout *l)
{
	uint64_t at = THMQI_BLOCK;

	l->request = place(&at, sizeof(struct thmqi_request));
	l->reply = place(&at, sizeof(struct thmqi_reply));
	l->ctl = place(&at, s->ctl_frames * sizeof(struct thmqi_frame));
	l->up = place(&at, s->up_frames * sizeof(struct thmqi_frame));
	l->down = place(&at, s->down_frames * sizeof(struct thmqi_frame));
	l->area = place(&at, s->area_bytes);
	l->room = place(&at, s->room_bytes);
	l->end = at;
}

uint64_t thmqi_shm_arena_bytes(const struct shm_sizes *sizes)
{
	struct layout l;

	lay_out(sizes, &l);
	return l.end;
}

static int map(const struct shm_sizes *sizes, int fd, struct shm_arena *ret)
{
	struct shm_arena a = {.sizes = *sizes};
	struct layout l;

	lay_out(sizes, &l);
	a.bytes = l.end;
	a.map = mmap(NULL, a.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (a.map == MAP_FAILED)
		return errno == EPERM ? -EPROTO : -errno; /* sealed against writing */
	/* a child of fork has no business here, and a core file would be mostly of what others have as well */
	madvise(a.map, a.bytes, MADV_DONTFORK);
	madvise(a.map, a.bytes, MADV_DONTDUMP);
	a.head = (struct shm_head *)a.map;
	a.request = (struct thmqi_request *)(a.map + l.request);
	a.reply = (struct thmqi_reply *)(a.map + l.reply);
	a.ctl = (struct thmqi_frame *)(a.map + l.ctl);
	a.up = (struct thmqi_frame *)(a.map + l.up);
	a.down = (struct thmqi_frame *)(a.map + l.down);
	a.area = a.map + l.area;
	a.room = a.map + l.room;
	*ret = a;
	return 0;
}

int thmqi_shm_arena_make(const struct shm_sizes *sizes, struct shm_arena *ret, int *ret_fd)
{
	int fd = memfd_create("thundermq", MFD_CLOEXEC | MFD_ALLOW_SEALING), rc = 0;
	sigset_t old;

	if (fd < 0)
		return -errno;
	thmqi_file_limit_hold(&old);
	if (ftruncate(fd, (off_t)thmqi_shm_arena_bytes(sizes)) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
		rc = -errno;
	thmqi_file_limit_let_go(&old, rc);
	if (!rc)
		rc = map(sizes, fd, ret);
	if (rc) {
		close(fd);
		return rc;
	}
	ret->head->magic = SHM_MAGIC;
	ret->head->version = SHM_VERSION;
	/* until the broker says otherwise it has to be woken: it has no flag yet that could tell */
	atomic_store(&ret->head->bell.may_sleep, 1);
	*ret_fd = fd;
	return 0;
}

/*
 * Memory of tmpfs's own kind: huge pages of hugetlbfs can run out under a mapping, a file of somebody's file system may be slow or
 * shorter than it seems. Only memfds have these seals.
 */
static int check(int fd, uint64_t bytes)
{
	struct statfs fs;
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstatfs(fd, &fs) != 0 ||
	    fs.f_type != TMPFS_MAGIC)
		return -EPROTO;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
		return -EPROTO;
	return 0;
}

int thmqi_shm_arena_take(const struct shm_sizes *sizes, int fd, struct shm_arena *ret)
{
	int rc = check(fd, thmqi_shm_arena_bytes(sizes));

	return rc ? rc : map(sizes, fd, ret);
}

void thmqi_shm_arena_drop(struct shm_arena *a)
{
	if (a->map)
		munmap(a->map, a->bytes);
	a->map = NULL;
}

void *thmqi_shm_books_open(uint64_t bytes)
{
	void *books = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return books == MAP_FAILED ? NULL : books;
}

void thmqi_shm_books_close(void *books, uint64_t bytes)
{
	if (books)
		munmap(books, bytes);
}
