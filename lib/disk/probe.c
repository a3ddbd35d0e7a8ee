/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - what the device below a directory is better at, found by a few milliseconds of writes and reads to a file
 * without a name: is one durable write faster with the flag on the write or with a flush behind it, and are completions
 * better polled for? An answer is kept with the environment, for each device. Knows nothing of logs.
 *
 * The measured file has real blocks (written, flushed), as a log's prepared segment has: an unwritten extent would cost a
 * commit of the file system's journal either way and hide the device. Both ways are measured in turns, through a ring of
 * the same kind as the engine's where there is one, and compared by their medians.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/file_limit.h"
#include "internal.h"

#define BLOCKS 16u /* of the measured file: consecutive writes go to different ones */
#define FILE_BYTES (BLOCKS * THMQI_BLOCK)
#define PAIRS_MAX 9u
#define PAIRS_MIN 3u       /* fewer say nothing */
#define QUICK_NS 5000000u  /* with so many, no other pair is begun after this time */
#define SLOW_NS 60000000u  /* and none at all after this */
#define POLL_NS 100000000u /* what has not completed by then never will */
#define YIELD_NS 20000u
#define RING_DEPTH 8u    /* of the rings to measure with */
#define POLLED_DEPTH 64u /* of a core's polled ring */

struct probe {
	int fd;
	uint8_t *data;           /* FILE_BYTES */
	struct thmqi_ring *ring; /* NULL: by system calls */
	uint32_t next;           /* block */
	bool spins;              /* the core does, and never sleeps */
};

struct probe_op {
	struct thmqi_ring_op op;
	bool done;
	int res;
};

static uint64_t now_ns(void)
{
	return thmqi_clock_real.now_ns(thmqi_clock_real.ctx);
}

static void on_done(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	struct probe_op *p = thmqi_container(op, struct probe_op, op);

	(void)flags;
	p->done = true;
	p->res = res;
}

/* -------------------------------------------------------- the measured file */

/* One that no crash can leave behind. */
static int open_nameless(const struct thmqi_disk_dir *dir)
{
	int flags = O_TMPFILE | O_RDWR | O_CLOEXEC;
	int fd = openat(dir->fd, ".", flags | O_DIRECT, 0600);

	return fd < 0 && errno == EINVAL ? openat(dir->fd, ".", flags, 0600) : fd;
}

static int probe_open(struct probe *p, const struct thmqi_disk_dir *dir, bool uring)
{
	sigset_t old;
	int rc;

	p->ring = NULL;
	p->next = 0;
	p->fd = open_nameless(dir);
	if (p->fd < 0)
		return -errno;
	p->data = aligned_alloc(THMQI_BLOCK, FILE_BYTES);
	if (!p->data) {
		close(p->fd);
		return -ENOMEM;
	}
	memset(p->data, 0, FILE_BYTES);
	thmqi_file_limit_hold(&old);
	errno = 0;
	rc = pwrite(p->fd, p->data, FILE_BYTES, 0) != (ssize_t)FILE_BYTES || fsync(p->fd) != 0 ? (errno ? -errno : -EIO) : 0;
	if (thmqi_file_limit_let_go(&old, rc)) {
		free(p->data);
		close(p->fd);
		return rc;
	}
	if (uring && thmqi_ring_open(RING_DEPTH, &p->ring) != 0)
		p->ring = NULL;
	return 0;
}

static void probe_close(struct probe *p)
{
	thmqi_ring_close(p->ring);
	free(p->data);
	close(p->fd);
}

static uint64_t next_offset(struct probe *p)
{
	return (uint64_t)(p->next++ % BLOCKS) * THMQI_BLOCK;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Orders the values. */
static uint64_t median(uint64_t *values, uint32_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

/* ------------------------------------------------------------ durable writes */

/* It is waited for as the core will: a worker of the kernel may need the very processor that a core spins on, which
 * the log gives way to now and then. */
static int run(const struct probe *p, const struct probe_op *op)
{
	uint64_t yielded = now_ns();
	int e = 0;

	while (!op->done && e >= 0) {
		e = p->spins ? thmqi_ring_submit(p->ring) : thmqi_ring_wait(p->ring, UINT64_MAX);
		thmqi_ring_reap(p->ring, RING_DEPTH);
		if (p->spins && now_ns() - yielded > YIELD_NS) {
			sched_yield();
			yielded = now_ns();
		}
	}
	return e < 0 ? e : op->res;
}

static int write_by_ring(struct probe *p, uint64_t offset, bool flag)
{
	struct probe_op op = {.op.done = on_done};
	int rc = thmqi_ring_write(p->ring, p->fd, -1, NULL, p->data, THMQI_BLOCK, offset,
				  flag ? RWF_DSYNC : 0, &op.op);

	if (!rc)
		rc = run(p, &op);
	if (rc < 0 || flag)
		return rc;
	if (rc != (int)THMQI_BLOCK)
		return -EIO;
	op.done = false;
	rc = thmqi_ring_fsync(p->ring, p->fd, -1, true, &op.op);
	if (!rc)
		rc = run(p, &op);
	return rc < 0 ? rc : (int)THMQI_BLOCK;
}

static int write_by_calls(struct probe *p, uint64_t offset, bool flag)
{
	struct iovec iov = {.iov_base = p->data, .iov_len = THMQI_BLOCK};
	ssize_t n = pwritev2(p->fd, &iov, 1, (off_t)offset, flag ? RWF_DSYNC : 0);

	if (n < 0 || (!flag && fdatasync(p->fd) != 0))
		return -errno;
	return (int)n;
}

/* Time of one, or a negative error. */
static int64_t durable_write(struct probe *p, bool flag)
{
	uint64_t offset = next_offset(p), begin = now_ns();
	int rc = p->ring ? write_by_ring(p, offset, flag) : write_by_calls(p, offset, flag);

	if (rc != (int)THMQI_BLOCK)
		return rc < 0 ? rc : -EIO;
	return (int64_t)(now_ns() - begin);
}

/*
 * A flush is asked for only where it is faster by a tenth, for it covers more than the write. Where processors are busy the
 * kernel's workers wait for them, milliseconds in some of the writes: so the best of each must say the same.
 */
static bool is_faster(uint64_t flush_ns, uint64_t dsync_ns)
{
	return flush_ns * 10 < dsync_ns * 9;
}

/* 0 and the medians, or zeros if there was time for too few. -EOPNOTSUPP: there is no such flag. Or an error. */
static int measure_flush(struct probe *p, struct thmqi_device_note *note)
{
	uint64_t ns[2][PAIRS_MAX], begin = now_ns(), passed;
	uint32_t count;
	int64_t took;

	/* The first of each is not like the others: the kernel makes its workers for it. */
	took = durable_write(p, true);
	if (took >= 0)
		took = durable_write(p, false);
	if (took < 0)
		return (int)took;
	for (count = 0; count < PAIRS_MAX; count++) {
		passed = now_ns() - begin;
		if (passed > (count < PAIRS_MIN ? SLOW_NS : QUICK_NS))
			break;
		for (uint32_t i = 0; i < 2; i++) {
			uint32_t way = (count + i) % 2; /* who is first changes */

			took = durable_write(p, way == 0);
			if (took < 0)
				return (int)took;
			ns[way][count] = (uint64_t)took;
		}
	}
	if (count >= PAIRS_MIN) {
		note->dsync_ns = median(ns[0], count);
		note->flush_ns = median(ns[1], count);
		note->split =
			is_faster(note->flush_ns, note->dsync_ns) && is_faster(ns[1][0], ns[0][0]);
	}
	return 0;
}

/* --------------------------------------------------------- polled completions */

static bool file_says_one(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char c = 0;
	bool one;

	if (fd < 0)
		return false;
	one = read(fd, &c, 1) == 1 && c == '1';
	close(fd);
	return one;
}

/* A partition's queue is its disk's. Source: Documentation/ABI/stable/sysfs-block, queue/io_poll. */
static bool has_polled_queues(uint64_t device)
{
	static const char *const patterns[] = {"/sys/dev/block/%u:%u/queue/io_poll",
					       "/sys/dev/block/%u:%u/../queue/io_poll"};
	char path[64];

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(patterns); i++) {
		snprintf(path, sizeof(path), patterns[i], major(device), minor(device));
		if (file_says_one(path))
			return true;
	}
	return false;
}

/* 0 and the time; an error; -ETIME: it is still in flight. */
static int trial(struct probe *p, struct thmqi_ring *ring, bool is_write, uint64_t *ret_ns)
{
	struct probe_op op = {.op.done = on_done};
	uint64_t offset = next_offset(p), begin = now_ns();
	int rc = is_write ? thmqi_ring_write(ring, p->fd, -1, NULL, p->data, THMQI_BLOCK, offset,
					     RWF_DSYNC, &op.op)
			  : thmqi_ring_read(ring, p->fd, -1, NULL, p->data, THMQI_BLOCK, offset,
					    &op.op);

	if (rc < 0)
		return rc;
	while (!op.done && now_ns() - begin < POLL_NS) {
		rc = thmqi_ring_submit(ring);
		if (rc < 0)
			return rc;
		if (thmqi_ring_reap(ring, 1) == 0)
			thmqi_cpu_relax();
	}
	*ret_ns = now_ns() - begin;
	if (!op.done)
		return -ETIME;
	return op.res == (int)THMQI_BLOCK ? 0 : op.res < 0 ? op.res : -EIO;
}

static int measure_both(struct probe *p, struct thmqi_ring *polled, struct thmqi_device_note *note)
{
	uint64_t ns[2][PAIRS_MAX];
	int rc = trial(p, polled, true, &ns[1][0]); /* a flushed write has to work, too */

	for (uint32_t i = 0; i < PAIRS_MAX && !rc; i++) {
		rc = trial(p, p->ring, false, &ns[0][i]);
		if (!rc)
			rc = trial(p, polled, false, &ns[1][i]);
	}
	if (rc)
		return rc;
	note->event_read_ns = median(ns[0], PAIRS_MAX);
	note->polled_read_ns = median(ns[1], PAIRS_MAX);
	return 0;
}

/* Whatever goes wrong here means: not polled. */
static void measure_polled(struct probe *p, struct thmqi_device_note *note)
{
	struct thmqi_ring *polled;
	int rc;

	note->has_polled = true;
	if (!p->ring || !has_polled_queues(note->device) ||
	    thmqi_ring_open_polled(RING_DEPTH, &polled) != 0)
		return;
	rc = measure_both(p, polled, note);
	thmqi_ring_close(polled);
	if (rc == -ETIME) { /* the device may still write there */
		p->data = NULL;
		return;
	}
	note->polled = !rc && note->polled_read_ns <= note->event_read_ns;
}

/* ------------------------------------------------------------------- answers */

static bool find_note(const struct thmqi_device_notes *notes, uint64_t device, uint32_t *ret_index)
{
	for (uint32_t i = 0; i < notes->count; i++) {
		if (notes->notes[i].device == device) {
			*ret_index = i;
			return true;
		}
	}
	return false;
}

static void keep_note(struct thmqi_device_notes *notes, const struct thmqi_device_note *note)
{
	uint32_t i;

	if (find_note(notes, note->device, &i))
		notes->notes[i] = *note;
	else if (notes->count < THMQI_DEVICE_NOTES)
		notes->notes[notes->count++] = *note;
}

/* What is not known yet and wanted; a directory that nothing can be made in gives no answer, and is asked again. */
static void look(const struct thmqi_disk_dir *dir, struct thmq_core *core, bool flush, bool polled,
		 struct thmqi_device_note *note)
{
	struct probe p;
	int rc = 0;

	flush = flush && !note->has_flush;
	polled = polled && !note->has_polled;
	if (polled && !has_polled_queues(note->device)) {
		note->has_polled = true;
		polled = false;
	}
	if ((!flush && !polled) || probe_open(&p, dir, core->disk_engine == ENGINE_URING) != 0)
		return;
	p.spins = thmqi_env_policy(core->env) == THMQ_POLICY_POLL;
	if (flush) {
		rc = measure_flush(&p, note);
		if (rc == -EOPNOTSUPP) { /* the flag is unknown there */
			note->split = true;
			rc = 0;
		}
		note->has_flush = rc == 0;
	}
	if (polled)
		measure_polled(&p, note);
	probe_close(&p);
}

static struct thmqi_device_note ask(const struct thmqi_disk_dir *dir, struct thmq_core *core,
				    bool flush, bool polled)
{
	struct thmqi_device_notes *notes = thmqi_env_device_notes(core->env);
	struct thmqi_device_note note = {0};
	struct stat st;
	uint32_t i;

	if (fstat(dir->fd, &st) != 0)
		return note;
	note.device = st.st_dev;
	pthread_mutex_lock(&notes->lock);
	if (find_note(notes, note.device, &i))
		note = notes->notes[i];
	look(dir, core, flush, polled, &note);
	keep_note(notes, &note);
	pthread_mutex_unlock(&notes->lock);
	return note;
}

/* The core's own, made when its first directory wants it. */
static bool has_polled_ring(struct thmq_core *core)
{
	struct thmqi_ring *ring;

	if (core->polled)
		return true;
	if (thmqi_ring_open_polled(POLLED_DEPTH, &ring) != 0)
		return false;
	thmqi_pool_subscribe(core->pool, thmqi_ring_registrar(ring));
	__atomic_store_n(&core->polled, ring, __ATOMIC_RELAXED);
	return true;
}

int thmqi_disk_probe(struct thmqi_disk_dir *dir, struct thmq_core *core,
		     struct thmqi_disk_ways *ways)
{
	bool must = ways->polled_io == THMQ_POLLED_ON;
	bool may = ways->polled_io == THMQ_POLLED_PROBE &&
		   thmqi_env_policy(core->env) != THMQ_POLICY_EVENT;
	bool uring = core->disk_engine == ENGINE_URING, polled = false;
	struct thmqi_device_note note;

	note = ask(dir, core, ways->flush_method == THMQ_FLUSH_PROBE, uring && (may || must));
	if (uring && (may || must)) {
		polled = must ? note.polled_read_ns != 0 : note.polled;
		polled = polled && has_polled_ring(core);
	}
	if (must && !polled)
		return -EOPNOTSUPP;
	if (ways->flush_method == THMQ_FLUSH_PROBE)
		ways->flush_method = note.split ? THMQ_FLUSH_FDATASYNC : THMQ_FLUSH_DSYNC;
	ways->polled_io = polled ? THMQ_POLLED_ON : THMQ_POLLED_OFF;
	ways->dsync_ns = note.dsync_ns;
	ways->flush_ns = note.flush_ns;
	dir->split = ways->flush_method == THMQ_FLUSH_FDATASYNC;
	dir->polled = polled;
	return 0;
}
