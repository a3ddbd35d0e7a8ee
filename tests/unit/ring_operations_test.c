/* SPDX-License-Identifier: Apache-2.0 */
/* The ring alone: operations, registered tables, when it enters the kernel, who may drive it. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "memory/memory.h"
#include "ring/ring.h"

struct job {
	struct thmqi_ring_op op;
	uint32_t done;
	int res;
	bool more;
};

static uint8_t page[8192] __attribute__((aligned(4096)));
static uint8_t back[8192] __attribute__((aligned(4096)));

static void on_done(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	struct job *job = thmqi_container(op, struct job, op);

	job->done++;
	job->res = res;
	job->more = thmqi_ring_has_more(flags);
}

static struct thmqi_ring *ring_open(uint32_t depth)
{
	struct thmqi_ring *ring = NULL;
	int e = thmqi_ring_open(depth, &ring);

	if (e == -EPERM || e == -ENOSYS || e == -EACCES)
		cr_skip_test("io_uring is refused here");
	cr_assert_eq(e, 0);
	return ring;
}

static int run(struct thmqi_ring *ring, struct job *job)
{
	uint32_t before = job->done;

	cr_assert_geq(thmqi_ring_submit(ring), 0);
	while (job->done == before) {
		cr_assert_geq(thmqi_ring_wait(ring, 1000000000), 0);
		thmqi_ring_reap(ring, 64);
	}
	return job->res;
}

static int scratch_file(void)
{
	char name[] = "/tmp/thmq-ring-XXXXXX";
	int fd = mkstemp(name);

	cr_assert_geq(fd, 0);
	unlink(name);
	return fd;
}

static struct thmqi_ring_stats stats_of(struct thmqi_ring *ring)
{
	struct thmqi_ring_stats s;

	thmqi_ring_stats(ring, &s);
	return s;
}

Test(ring_operations, a_file_lives_and_dies_by_the_ring, .timeout = 30)
{
	char path[] = "/tmp/thmq-ring-XXXXXX";
	struct thmqi_ring *ring = ring_open(32);
	struct job job = {.op.done = on_done};
	struct stat st;
	int dir, fd;

	cr_assert_not_null(mkdtemp(path));
	dir = open(path, O_RDONLY | O_DIRECTORY);
	cr_assert_eq(thmqi_ring_openat(ring, dir, "a", O_RDWR | O_CREAT | O_CLOEXEC, 0600, &job.op),
		     0);
	fd = run(ring, &job);
	cr_assert_geq(fd, 0);
	cr_assert_eq(thmqi_ring_fallocate(ring, fd, 0, 0, 65536, &job.op), 0);
	cr_assert_eq(run(ring, &job), 0);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq(st.st_size, 65536);
	memset(page, 7, 4096);
	cr_assert_eq(thmqi_ring_write(ring, fd, -1, NULL, page, 4096, 8192, RWF_DSYNC, &job.op), 0);
	cr_assert_eq(run(ring, &job), 4096);
	cr_assert_eq(thmqi_ring_read(ring, fd, -1, NULL, back, 4096, 8192, &job.op), 0);
	cr_assert_eq(run(ring, &job), 4096);
	cr_assert_arr_eq(page, back, 4096);
	cr_assert_eq(thmqi_ring_fsync(ring, fd, -1, true, &job.op), 0);
	cr_assert_eq(run(ring, &job), 0);
	cr_assert_eq(thmqi_ring_renameat(ring, dir, "a", "b", &job.op), 0);
	cr_assert_eq(run(ring, &job), 0);
	cr_assert_eq(thmqi_ring_fsync(ring, dir, -1, false, &job.op), 0);
	cr_assert_eq(run(ring, &job), 0);
	cr_assert_eq(thmqi_ring_unlinkat(ring, dir, "a", &job.op), 0);
	cr_assert_eq(run(ring, &job), -ENOENT);
	cr_assert_eq(thmqi_ring_unlinkat(ring, dir, "b", &job.op), 0);
	cr_assert_eq(run(ring, &job), 0);
	cr_assert_eq(thmqi_ring_close_fd(ring, fd, &job.op), 0);
	cr_assert_eq(run(ring, &job), 0);
	cr_assert_eq(fcntl(fd, F_GETFD), -1);
	close(dir);
	cr_assert_eq(rmdir(path), 0);
	thmqi_ring_close(ring);
}

Test(ring_operations, nothing_enters_the_kernel_before_submit_nor_when_idle, .timeout = 30)
{
	struct thmqi_ring *ring = ring_open(32);
	struct job job = {.op.done = on_done};
	int fd = scratch_file();
	uint64_t enters;

	cr_assert_eq(thmqi_ring_write(ring, fd, -1, NULL, page, 4096, 0, 0, &job.op), 0);
	cr_assert_eq(stats_of(ring).enters, 0);
	cr_assert_eq(thmqi_ring_inflight(ring), 1);
	cr_assert_eq(thmqi_ring_reap(ring, 64), 0);
	cr_assert_eq(thmqi_ring_submit(ring), 1);
	cr_assert_eq(job.done, 0, "done runs from reap only");
	while (!job.done)
		thmqi_ring_reap(ring, 64);
	cr_assert_eq(job.res, 4096);
	cr_assert_eq(thmqi_ring_inflight(ring), 0);
	enters = stats_of(ring).enters;
	for (int i = 0; i < 1000; i++) {
		cr_assert_eq(thmqi_ring_submit(ring), 0);
		cr_assert_eq(thmqi_ring_reap(ring, 64), 0);
	}
	cr_assert_eq(stats_of(ring).enters, enters);
	close(fd);
	thmqi_ring_close(ring);
}

Test(ring_operations, more_than_the_queue_holds_is_submitted_on_the_way, .timeout = 30)
{
	struct thmqi_ring *ring = ring_open(8);
	static struct job jobs[100];
	int fd = scratch_file();
	uint32_t done = 0;

	for (uint32_t i = 0; i < 100; i++) {
		jobs[i].op.done = on_done;
		cr_assert_eq(
			thmqi_ring_write(ring, fd, -1, NULL, page, 4096, i * 4096, 0, &jobs[i].op),
			0);
	}
	while (done < 100) {
		cr_assert_geq(thmqi_ring_wait(ring, 1000000000), 0);
		done += (uint32_t)thmqi_ring_reap(ring, 7);
	}
	for (uint32_t i = 0; i < 100; i++) {
		cr_assert_eq(jobs[i].done, 1);
		cr_assert_eq(jobs[i].res, 4096);
	}
	close(fd);
	thmqi_ring_close(ring);
}

static uint64_t now(void)
{
	return thmqi_clock_real.now_ns(NULL);
}

Test(ring_operations, a_wait_ends_with_a_completion_or_its_time, .timeout = 30)
{
	struct thmqi_ring *ring = ring_open(8);
	struct job job = {.op.done = on_done};
	int fd = scratch_file();
	uint64_t start = now();

	cr_assert_eq(thmqi_ring_wait(ring, 30000000), 0);
	cr_assert_geq(now() - start, 29000000u);
	cr_assert_eq(thmqi_ring_wait(ring, 0), 0);
	cr_assert_eq(thmqi_ring_write(ring, fd, -1, NULL, page, 4096, 0, 0, &job.op), 0);
	cr_assert_eq(thmqi_ring_wait(ring, UINT64_MAX), 1);
	cr_assert_eq(job.done, 0);
	cr_assert_eq(thmqi_ring_wait(ring, UINT64_MAX), 1, "it stays ready until reaped");
	cr_assert_eq(thmqi_ring_reap(ring, 1), 1);
	cr_assert_eq(job.done, 1);
	close(fd);
	thmqi_ring_close(ring);
}

static void on_signal(int number)
{
	(void)number;
}

Test(ring_operations, a_signal_ends_a_wait_without_an_error, .timeout = 30)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct itimerval soon = {.it_value = {.tv_usec = 20000}};
	struct thmqi_ring *ring = ring_open(8);

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	cr_assert_eq(thmqi_ring_wait(ring, 20000000000), 0);
	thmqi_ring_close(ring);
}

Test(ring_operations, a_multishot_poll_fires_until_it_is_cancelled, .timeout = 30)
{
	struct thmqi_ring *ring = ring_open(8);
	struct job job = {.op.done = on_done};
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	uint64_t value = 1;

	cr_assert_eq(thmqi_ring_poll_multishot(ring, fd, POLLIN, &job.op), 0);
	cr_assert_eq(thmqi_ring_wait(ring, 1000000), 0);
	cr_assert_eq(thmqi_ring_inflight(ring), 0, "a poll is not counted");
	for (uint32_t i = 1; i <= 3; i++) {
		cr_assert_eq(write(fd, &value, 8), 8);
		cr_assert_eq(thmqi_ring_wait(ring, 1000000000), 1);
		cr_assert_eq(thmqi_ring_reap(ring, 8), 1);
		cr_assert_eq(job.done, i);
		cr_assert(job.res & POLLIN);
		cr_assert(job.more);
		cr_assert_eq(read(fd, &value, 8), 8);
		value = 1;
	}
	cr_assert_eq(thmqi_ring_cancel(ring, &job.op), 0);
	cr_assert_eq(run(ring, &job), -ECANCELED);
	cr_assert_not(job.more);
	thmqi_ring_cancel(ring, &job.op);
	thmqi_ring_submit(ring);
	cr_assert_eq(write(fd, &value, 8), 8);
	thmqi_ring_wait(ring, 1000000);
	thmqi_ring_reap(ring, 8);
	cr_assert_eq(job.done, 4);
	close(fd);
	thmqi_ring_close(ring);
}

Test(ring_operations, an_armed_descriptor_tells_of_completions, .timeout = 30)
{
	struct thmqi_ring *ring = ring_open(8);
	struct pollfd p = {.fd = thmqi_ring_fd(ring), .events = POLLIN};
	struct job job = {.op.done = on_done};
	int fd = scratch_file();

	cr_assert_geq(p.fd, 0);
	cr_assert_eq(thmqi_ring_fd(ring), p.fd);
	for (uint32_t i = 1; i <= 100; i++) {
		cr_assert_eq(poll(&p, 1, 0), 0);
		cr_assert_eq(thmqi_ring_write(ring, fd, -1, NULL, page, 4096, 0,
					      i % 2 ? RWF_DSYNC : 0, &job.op),
			     0);
		cr_assert_eq(thmqi_ring_submit(ring), 1);
		/* it may be there before the sleep: then arm says so */
		if (!thmqi_ring_fd_arm(ring))
			cr_assert_eq(poll(&p, 1, 5000), 1);
		thmqi_ring_fd_disarm(ring);
		cr_assert_eq(thmqi_ring_reap(ring, 8), 1);
		cr_assert_eq(job.done, i);
	}
	cr_assert_not(thmqi_ring_fd_arm(ring));
	thmqi_ring_fd_disarm(ring);
	close(fd);
	thmqi_ring_close(ring);
}

/* ---------------------------------------------------------------------- tables */

Test(ring_operations, registered_files_come_and_go, .timeout = 30)
{
	struct rlimit limit = {.rlim_cur = 64, .rlim_max = 64};
	struct thmqi_ring *ring;
	struct job job = {.op.done = on_done};
	int fd = scratch_file(), slots[128], count;

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ring = ring_open(8);
	for (count = 0; count < 128; count++) {
		slots[count] = thmqi_ring_file_add(ring, fd);
		if (slots[count] < 0)
			break;
	}
	cr_assert_eq(count, 64, "as many as descriptors may be");
	cr_assert_eq(slots[count], -ENFILE);
	cr_assert_eq(stats_of(ring).registered_files, 64);
	/* by the slot alone: the descriptor is not looked at */
	cr_assert_eq(thmqi_ring_write(ring, -1, slots[5], NULL, page, 4096, 0, 0, &job.op), 0);
	cr_assert_eq(run(ring, &job), 4096);
	thmqi_ring_file_remove(ring, slots[5]);
	thmqi_ring_file_remove(ring, slots[5]);
	thmqi_ring_file_remove(ring, -1);
	thmqi_ring_file_remove(ring, 100000);
	cr_assert_eq(stats_of(ring).registered_files, 63);
	cr_assert_eq(thmqi_ring_write(ring, -1, slots[5], NULL, page, 4096, 0, 0, &job.op), 0);
	cr_assert_eq(run(ring, &job), -EBADF);
	cr_assert_eq(thmqi_ring_file_add(ring, fd), slots[5]);
	close(fd);
	thmqi_ring_close(ring);
}

Test(ring_operations, pool_memory_is_registered_piece_by_piece, .timeout = 30)
{
	struct thmqi_ring *ring = ring_open(8);
	struct thmqi_slabs *slabs;
	struct thmqi_pool *pool;
	struct thmqi_buf *small, *large[6];
	struct job job = {.op.done = on_done};
	int fd = scratch_file();

	cr_assert_eq(thmqi_slabs_open(256u << 20, &slabs), 0);
	cr_assert_eq(thmqi_pool_open(slabs, &pool), 0);
	thmqi_pool_subscribe(pool, thmqi_ring_registrar(ring));
	cr_assert_eq(thmqi_buf_alloc(pool, 4096, &small), 0);
	memset(small->data, 9, 4096);
	cr_assert_eq(thmqi_ring_write(ring, fd, -1, small, small->data, 4096, 0, 0, &job.op), 0);
	cr_assert_eq(run(ring, &job), 4096);
	if (stats_of(ring).unregistered_slabs == 0)
		cr_assert_geq(stats_of(ring).registered_buffers, 1);
	/* blocks of two slabs and more than one piece, one of them wider than a piece */
	for (uint32_t i = 0; i < 6; i++) {
		uint32_t len = i == 5 ? 4u << 20 : 8192;

		cr_assert_eq(thmqi_buf_alloc(pool, 8u << 20, &large[i]), 0);
		memset(large[i]->data, (int)i, len);
		cr_assert_eq(thmqi_ring_write(ring, fd, -1, large[i], large[i]->data, len, 0, 0,
					      &job.op),
			     0);
		cr_assert_eq(run(ring, &job), (int)len);
		cr_assert_eq(pread(fd, back, 4096, len - 4096), 4096);
		cr_assert_eq(back[17], i);
	}
	if (stats_of(ring).unregistered_slabs == 0)
		cr_assert_geq(stats_of(ring).registered_buffers, 6);
	cr_assert_eq(thmqi_ring_read(ring, fd, -1, small, small->data, 4096, 4096, &job.op), 0);
	cr_assert_eq(run(ring, &job), 4096);
	thmqi_buf_unref(small);
	for (uint32_t i = 0; i < 6; i++)
		thmqi_buf_unref(large[i]);
	thmqi_pool_unsubscribe(pool, thmqi_ring_registrar(ring));
	cr_assert_eq(stats_of(ring).registered_buffers, 0);
	cr_assert_eq(stats_of(ring).unregistered_slabs, 0);
	cr_assert_eq(thmqi_pool_close(pool), 0);
	thmqi_slabs_close(slabs);
	close(fd);
	thmqi_ring_close(ring);
}

/* ------------------------------------------------------------- who drives it */

struct relay {
	struct thmqi_ring *ring;
	int fd, slot, event;
	struct job poll;
	int attached;
	bool leave;
};

static void *drive(void *arg)
{
	struct relay *relay = arg;
	struct job job = {.op.done = on_done};
	uint64_t value = 1;

	relay->attached = thmqi_ring_attach(relay->ring);
	if (relay->attached)
		return NULL;
	thmqi_ring_write(relay->ring, -1, relay->slot, NULL, page, 4096, 0, 0, &job.op);
	if (run(relay->ring, &job) != 4096)
		return NULL;
	/* the poll came along */
	if (write(relay->event, &value, 8) != 8 || run(relay->ring, &relay->poll) < 0 ||
	    read(relay->event, &value, 8) != 8)
		return NULL;
	if (relay->leave)
		thmqi_ring_detach(relay->ring);
	return relay;
}

static void *in_thread(void *(*fn)(void *arg), void *arg)
{
	pthread_t thread;
	void *result = NULL;

	cr_assert_eq(pthread_create(&thread, NULL, fn, arg), 0);
	pthread_join(thread, &result);
	return result;
}

Test(ring_operations, another_thread_takes_it_over_with_all_it_has, .timeout = 30)
{
	struct relay relay = {.ring = ring_open(8), .fd = scratch_file(), .leave = true};

	relay.event = eventfd(0, EFD_NONBLOCK);
	relay.poll.op.done = on_done;
	relay.slot = thmqi_ring_file_add(relay.ring, relay.fd);
	cr_assert_geq(relay.slot, 0);
	cr_assert_eq(thmqi_ring_poll_multishot(relay.ring, relay.event, POLLIN, &relay.poll.op), 0);
	for (uint32_t i = 1; i <= 5; i++) {
		cr_assert_eq(in_thread(drive, &relay), &relay, "round %u: %d", i, relay.attached);
		cr_assert_eq(relay.poll.done, 2 * i - 1);
		cr_assert_eq(drive(&relay), &relay);
		cr_assert_eq(relay.poll.done, 2 * i);
	}
	close(relay.fd);
	close(relay.event);
	thmqi_ring_close(relay.ring);
}

Test(ring_operations, it_is_not_taken_from_a_thread_with_operations_in_flight, .timeout = 30)
{
	struct relay relay = {.ring = ring_open(8), .fd = scratch_file()};
	struct job job = {.op.done = on_done};
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	relay.slot = thmqi_ring_file_add(relay.ring, relay.fd);
	/* waits in the kernel until something is in the pipe */
	cr_assert_eq(thmqi_ring_read(relay.ring, ends[0], -1, NULL, back, 1, UINT64_MAX, &job.op),
		     0);
	cr_assert_eq(thmqi_ring_submit(relay.ring), 1);
	cr_assert_null(in_thread(drive, &relay));
	cr_assert_eq(relay.attached, -EBUSY);
	cr_assert_eq(write(ends[1], "x", 1), 1);
	cr_assert_eq(run(relay.ring, &job), 1);
	thmqi_ring_close(relay.ring);
}

static void *open_use_leave(void *arg)
{
	struct thmqi_ring **ring = arg;
	struct job job = {.op.done = on_done};

	if (thmqi_ring_open(8, ring) != 0 ||
	    thmqi_ring_fsync(*ring, scratch_file(), -1, true, &job.op) != 0)
		return NULL;
	run(*ring, &job);
	return ring;
}

/* Registered descriptors are numbers of a thread: closing another thread's ring must not undo one's own. */
Test(ring_operations, closing_the_ring_of_a_thread_that_is_gone_harms_nobody, .timeout = 30)
{
	struct thmqi_ring *mine = ring_open(8), *other = NULL;
	struct job job = {.op.done = on_done};
	int fd = scratch_file();

	cr_assert_eq(thmqi_ring_write(mine, fd, -1, NULL, page, 4096, 0, 0, &job.op), 0);
	cr_assert_eq(run(mine, &job), 4096);
	cr_assert_eq(in_thread(open_use_leave, &other), &other);
	thmqi_ring_close(other);
	cr_assert_eq(thmqi_ring_write(mine, fd, -1, NULL, page, 4096, 0, 0, &job.op), 0);
	cr_assert_eq(run(mine, &job), 4096);
	close(fd);
	thmqi_ring_close(mine);
}

Test(ring_operations, a_foolish_depth_is_refused)
{
	struct thmqi_ring *ring = NULL;

	cr_assert_eq(thmqi_ring_open(0, &ring), -EINVAL);
	cr_assert_eq(thmqi_ring_open(1u << 20, &ring), -EINVAL);
	cr_assert_null(ring);
}
