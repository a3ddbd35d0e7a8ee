/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_mapped.c - a log in memory-mapped files: see rig_mapped.h.
 *
 * Kinder than the original: two segments are used in turn, so that none is ever allocated while it measures and all
 * pages are in memory; only what is dirty is msynced, not a whole file; requests are numbers in an array, not objects;
 * the header has 64 bytes, not about 90 and names; nobody else contends for the put lock.
 */
#include "rig_mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEGMENT_BYTES (256ull << 20)
#define SEGMENTS 2u
#define LOG_BYTES (SEGMENTS * SEGMENT_BYTES)
#define PAGE 4096ull
#define REQUESTS_MAX (1u << 19) /* as many as the library's window has */
#define COMMIT_WAIT_NS 10000000u
#define FLUSH_WAIT_NS 500000000u
#define FLUSH_PAGES 4u
#define DISPATCH_WAIT_NS 1000000u
#define QUEUE_WAIT_NS 1000000000u
#define QUEUE_ENTRIES 300000u
#define QUEUE_FILES 8u /* used in turn, too */
#define MAGIC_MESSAGE 0x4d415031u
#define MAGIC_BLANK 0x4d415042u /* the rest of the segment is empty */

struct header {
	uint32_t total, magic;
	uint32_t body_crc, body_len;
	uint32_t queue, flags;
	uint64_t queue_offset, position;
	int64_t born_ns, stored_ns;
	uint64_t tag;
};
_Static_assert(sizeof(struct header) == 64, "no padding");

#define ENTRY_BYTES 20u /* position 8, size 4, tag 8 */

struct requests {
	uint64_t *ends;
	uint32_t count;
};

/* Somebody who sleeps until he is notified or his time is over. */
struct sleeper {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	_Atomic bool notified;
};

struct rig_mapped {
	enum rig_mapped_flush mode;
	char *log, *queue; /* mapped, the segments side by side */
	int log_fd, queue_fd;
	pthread_mutex_t put_lock, list_lock;
	struct requests lists[2], *write, *read; /* swapped by the group-commit thread */
	struct sleeper flusher, dispatcher, queue_flusher;
	pthread_t threads[3];
	_Atomic bool stop;
	_Atomic uint64_t written, flushed, acked, dispatched, entries;
};

/* ---------------------------------------------------------------- checksum */

#if defined(__x86_64__)
#include <nmmintrin.h>

/* CRC-32C of three thirds side by side, since one alone waits for each instruction's result, and then of the three. */
__attribute__((target("sse4.2"))) static uint32_t checksum(const void *data, size_t len)
{
	const unsigned char *p = data;
	size_t third = len / 24 * 8;
	uint64_t a = ~0u, b = ~0u, c = ~0u, x, y, z;

	for (size_t i = 0; i < third; i += 8) {
		memcpy(&x, p + i, 8);
		memcpy(&y, p + third + i, 8);
		memcpy(&z, p + 2 * third + i, 8);
		a = _mm_crc32_u64(a, x);
		b = _mm_crc32_u64(b, y);
		c = _mm_crc32_u64(c, z);
	}
	for (size_t i = 3 * third; i < len; i++)
		c = _mm_crc32_u8((uint32_t)c, p[i]);
	return (uint32_t)_mm_crc32_u64(_mm_crc32_u64(a, b), c);
}
#else
static uint32_t checksum(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64_t h = 0xcbf29ce484222325u, x;

	for (; len >= 8; len -= 8, p += 8) {
		memcpy(&x, p, 8);
		h = (h ^ x) * 0x100000001b3u;
	}
	while (len-- > 0)
		h = (h ^ *p++) * 0x100000001b3u;
	return (uint32_t)(h ^ h >> 32);
}
#endif

/* ------------------------------------------------------------------- sleep */

static void sleeper_init(struct sleeper *s)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&s->lock, NULL);
}

static void sleeper_notify(struct sleeper *s)
{
	if (atomic_exchange(&s->notified, true))
		return;
	pthread_mutex_lock(&s->lock);
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

static void sleeper_wait(struct sleeper *s, uint64_t ns)
{
	uint64_t at = bench_now() + ns;
	struct timespec t = {(time_t)(at / 1000000000u), (long)(at % 1000000000u)};

	pthread_mutex_lock(&s->lock);
	while (!atomic_load(&s->notified) && pthread_cond_timedwait(&s->wake, &s->lock, &t) == 0)
		;
	atomic_store(&s->notified, false);
	pthread_mutex_unlock(&s->lock);
}

/* ------------------------------------------------------------------- flush */

static void sync_range(char *base, uint64_t begin, uint64_t end)
{
	begin &= ~(PAGE - 1);
	if (msync(base + begin, end - begin, MS_SYNC) != 0)
		bench_die("msync", errno);
}

/* [@begin, @end) of a file of @size bytes that is used over and over. */
static void sync_ring(char *base, uint64_t size, uint64_t begin, uint64_t end)
{
	uint64_t from = begin % size, len = end - begin;

	if (len == 0)
		return;
	if (from + len <= size) {
		sync_range(base, from, from + len);
	} else {
		sync_range(base, from, size);
		sync_range(base, 0, from + len - size);
	}
}

static void flush_log(struct rig_mapped *m, uint64_t least_pages)
{
	uint64_t flushed = atomic_load(&m->flushed), written = atomic_load(&m->written);

	if (written / PAGE - flushed / PAGE < least_pages)
		return;
	sync_ring(m->log, LOG_BYTES, flushed, written);
	atomic_store(&m->flushed, written);
}

static void commit_group(struct rig_mapped *m)
{
	struct requests *r;

	pthread_mutex_lock(&m->list_lock);
	r = m->write;
	m->write = m->read;
	m->read = r;
	pthread_mutex_unlock(&m->list_lock);
	for (uint32_t i = 0; i < r->count; i++) {
		if (atomic_load(&m->flushed) < r->ends[i])
			flush_log(m, 0);
		atomic_store_explicit(&m->acked, r->ends[i], memory_order_release);
	}
	r->count = 0;
}

static void *commit_main(void *arg)
{
	struct rig_mapped *m = arg;

	while (!atomic_load(&m->stop)) {
		sleeper_wait(&m->flusher, COMMIT_WAIT_NS);
		commit_group(m);
	}
	commit_group(m);
	flush_log(m, 0);
	return NULL;
}

/* Asynchronous: notified only to drain. */
static void *flush_main(void *arg)
{
	struct rig_mapped *m = arg;

	while (!atomic_load(&m->stop)) {
		uint64_t begin = bench_now();

		sleeper_wait(&m->flusher, FLUSH_WAIT_NS);
		flush_log(m, bench_now() - begin < FLUSH_WAIT_NS ? 0 : FLUSH_PAGES);
	}
	flush_log(m, 0);
	return NULL;
}

/* ------------------------------------------------------------ consume queue */

static void dispatch(struct rig_mapped *m)
{
	uint64_t at = atomic_load(&m->dispatched), end;
	uint64_t entry = atomic_load(&m->entries);

	end = atomic_load_explicit(&m->written, memory_order_acquire);
	while (at < end) {
		const struct header *h = (const void *)(m->log + at % LOG_BYTES);
		char *to = m->queue + entry % (QUEUE_FILES * QUEUE_ENTRIES) * ENTRY_BYTES;

		if (h->magic == MAGIC_BLANK) {
			at += h->total;
			continue;
		}
		if (h->magic != MAGIC_MESSAGE || h->position != at)
			bench_die("mapped log: a damaged header", EIO);
		memcpy(to, &h->position, 8);
		memcpy(to + 8, &h->total, 4);
		memcpy(to + 12, &h->tag, 8);
		entry++;
		at += h->total;
	}
	atomic_store(&m->entries, entry);
	atomic_store_explicit(&m->dispatched, at, memory_order_release);
}

static void *dispatch_main(void *arg)
{
	struct rig_mapped *m = arg;

	while (!atomic_load(&m->stop)) {
		dispatch(m);
		sleeper_wait(&m->dispatcher, DISPATCH_WAIT_NS);
	}
	dispatch(m);
	return NULL;
}

static void *queue_main(void *arg)
{
	struct rig_mapped *m = arg;
	uint64_t flushed = 0;

	while (!atomic_load(&m->stop)) {
		uint64_t size = (uint64_t)QUEUE_FILES * QUEUE_ENTRIES * ENTRY_BYTES;
		uint64_t end = atomic_load(&m->entries) * ENTRY_BYTES;

		if (end - flushed > size)
			flushed = end - size; /* it was overwritten before its second was over */
		sync_ring(m->queue, size, flushed, end);
		flushed = end;
		sleeper_wait(&m->queue_flusher, QUEUE_WAIT_NS);
	}
	return NULL;
}

/* ------------------------------------------------------------------ append */

/* No byte may be overwritten that is not flushed and dispatched. */
static void await_room(struct rig_mapped *m, uint64_t end)
{
	uint64_t low;

	for (;;) {
		low = atomic_load(&m->flushed);
		if (atomic_load(&m->dispatched) < low)
			low = atomic_load(&m->dispatched);
		if (end - low <= LOG_BYTES)
			return;
		sleeper_notify(&m->flusher);
		bench_sleep_ns(100000);
	}
}

static uint64_t put(struct rig_mapped *m, const void *data, uint32_t len)
{
	uint32_t total = (uint32_t)(sizeof(struct header) + len + 7) / 8 * 8;
	uint64_t at, left;
	struct header *h;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	pthread_mutex_lock(&m->put_lock);
	at = atomic_load_explicit(&m->written, memory_order_relaxed);
	left = SEGMENT_BYTES - at % SEGMENT_BYTES;
	await_room(m, at + left + total);
	if (left < total + sizeof(*h)) {
		h = (void *)(m->log + at % LOG_BYTES);
		h->total = (uint32_t)left;
		h->magic = MAGIC_BLANK;
		at += left;
	}
	h = (void *)(m->log + at % LOG_BYTES);
	*h = (struct header){.total = total,
			     .magic = MAGIC_MESSAGE,
			     .body_len = len,
			     .position = at,
			     .born_ns = now.tv_sec * 1000000000ll + now.tv_nsec};
	h->stored_ns = h->born_ns;
	h->body_crc = checksum(data, len);
	memcpy(h + 1, data, len);
	atomic_store_explicit(&m->written, at + total, memory_order_release);
	pthread_mutex_unlock(&m->put_lock);
	return at + total;
}

static void request(struct rig_mapped *m, uint64_t end)
{
	bool added = false;

	while (!added) {
		pthread_mutex_lock(&m->list_lock);
		if (m->write->count < REQUESTS_MAX) {
			m->write->ends[m->write->count++] = end;
			added = true;
		}
		pthread_mutex_unlock(&m->list_lock);
		sleeper_notify(&m->flusher);
	}
}

uint64_t rig_mapped_append(struct rig_mapped *m, const void *data, uint32_t len)
{
	uint64_t end = put(m, data, len);

	if (m->mode == RIG_MAPPED_SYNCHRONOUS)
		request(m, end);
	return end;
}

uint64_t rig_mapped_acked(struct rig_mapped *m)
{
	return atomic_load_explicit(m->mode == RIG_MAPPED_SYNCHRONOUS ? &m->acked : &m->written,
				    memory_order_acquire);
}

void rig_mapped_drain(struct rig_mapped *m)
{
	uint64_t end = atomic_load(&m->written);

	while (atomic_load(&m->flushed) < end || atomic_load(&m->dispatched) < end) {
		sleeper_notify(&m->flusher);
		sleeper_notify(&m->dispatcher);
		bench_sleep_ns(200000);
	}
}

uint64_t rig_mapped_check(struct rig_mapped *m)
{
	uint64_t entries = atomic_load(&m->entries), last = entries - 1, position;
	const struct header *h;

	if (entries == 0)
		return 0;
	memcpy(&position, m->queue + last % (QUEUE_FILES * QUEUE_ENTRIES) * ENTRY_BYTES, 8);
	h = (const void *)(m->log + position % LOG_BYTES);
	if (h->position != position || h->body_crc != checksum(h + 1, h->body_len))
		bench_die("mapped log: the last message is damaged", EIO);
	return entries;
}

/* ----------------------------------------------------------- open and close */

/* A file with all its blocks written once, mapped, every page in memory. */
static char *map_file(const char *dir, const char *name, uint64_t size, int *ret_fd)
{
	char path[4200], *base;
	int fd, r;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		bench_die(path, errno);
	r = posix_fallocate(fd, 0, (off_t)size);
	if (r != 0)
		bench_die(path, r);
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		bench_die(path, errno);
	for (uint64_t at = 0; at < size; at += PAGE)
		base[at] = 0;
	sync_range(base, 0, size);
	if (fsync(fd) != 0)
		bench_die(path, errno);
	*ret_fd = fd;
	return base;
}

static void start(struct rig_mapped *m)
{
	void *(*const mains[3])(void *) = {m->mode == RIG_MAPPED_SYNCHRONOUS ? commit_main
									     : flush_main,
					   dispatch_main, queue_main};

	for (int i = 0; i < 3; i++)
		if (pthread_create(&m->threads[i], NULL, mains[i], m) != 0)
			bench_die("mapped log: a thread", EAGAIN);
}

struct rig_mapped *rig_mapped_open(const char *dir, enum rig_mapped_flush flush)
{
	struct rig_mapped *m = calloc(1, sizeof(*m));

	if (!m)
		bench_die("mapped log", ENOMEM);
	if (mkdir(dir, 0777) != 0 && errno != EEXIST)
		bench_die(dir, errno);
	m->mode = flush;
	m->log = map_file(dir, "commitlog", LOG_BYTES, &m->log_fd);
	m->queue = map_file(dir, "consumequeue",
			    (uint64_t)QUEUE_FILES * QUEUE_ENTRIES * ENTRY_BYTES, &m->queue_fd);
	for (int i = 0; i < 2; i++) {
		m->lists[i].ends = calloc(REQUESTS_MAX, sizeof(uint64_t));
		if (!m->lists[i].ends)
			bench_die("mapped log", ENOMEM);
	}
	m->write = &m->lists[0];
	m->read = &m->lists[1];
	pthread_mutex_init(&m->put_lock, NULL);
	pthread_mutex_init(&m->list_lock, NULL);
	sleeper_init(&m->flusher);
	sleeper_init(&m->dispatcher);
	sleeper_init(&m->queue_flusher);
	start(m);
	return m;
}

void rig_mapped_close(struct rig_mapped *m)
{
	atomic_store(&m->stop, true);
	sleeper_notify(&m->flusher);
	sleeper_notify(&m->dispatcher);
	sleeper_notify(&m->queue_flusher);
	for (int i = 0; i < 3; i++)
		pthread_join(m->threads[i], NULL);
	munmap(m->log, LOG_BYTES);
	munmap(m->queue, (uint64_t)QUEUE_FILES * QUEUE_ENTRIES * ENTRY_BYTES);
	close(m->log_fd);
	close(m->queue_fd);
	free(m->lists[0].ends);
	free(m->lists[1].ends);
	free(m);
}
