/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_line.c - two bare threads: see rig_line.h.
 */
#include "rig_line.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct line {
	_Alignas(128) _Atomic uint64_t turn; /* odd: the other's move */
	_Alignas(128) int cpu;
	int fd;
	uint64_t moves;
	_Atomic bool ready;
};

static void *pong_main(void *arg)
{
	struct line *l = arg;

	bench_pin(l->cpu);
	atomic_store(&l->ready, true);
	for (uint64_t i = 1; i <= l->moves; i++) {
		while (atomic_load_explicit(&l->turn, memory_order_acquire) != 2 * i - 1)
			bench_relax();
		atomic_store_explicit(&l->turn, 2 * i, memory_order_release);
	}
	return NULL;
}

static void *sleeper_main(void *arg)
{
	struct line *l = arg;
	uint64_t value;

	bench_pin(l->cpu);
	atomic_store(&l->ready, true);
	for (uint64_t i = 1; i <= l->moves; i++) {
		while (read(l->fd, &value, sizeof(value)) != sizeof(value))
			;
		atomic_store_explicit(&l->turn, 2 * i, memory_order_release);
	}
	return NULL;
}

static void begin(struct line *l, pthread_t *thread, void *(*body)(void *), int cpu_app)
{
	if (pthread_create(thread, NULL, body, l) != 0)
		bench_die("second thread", EAGAIN);
	bench_pin(cpu_app);
	while (!atomic_load(&l->ready))
		bench_sleep_ns(10000);
}

void rig_line_pingpong(int cpu_app, int cpu_core, unsigned count, struct bench_samples *ret)
{
	struct line l = {.cpu = cpu_core, .moves = count};
	pthread_t thread;
	uint64_t then;

	begin(&l, &thread, pong_main, cpu_app);
	then = bench_now();
	for (uint64_t i = 1; i <= count; i++) {
		uint64_t now;

		atomic_store_explicit(&l.turn, 2 * i - 1, memory_order_release);
		while (atomic_load_explicit(&l.turn, memory_order_acquire) != 2 * i)
			bench_relax();
		now = bench_now();
		bench_samples_add(ret, now - then);
		then = now;
	}
	pthread_join(thread, NULL);
	bench_unpin();
}

void rig_line_wakeup(int cpu_app, int cpu_core, unsigned count, uint64_t gap_ns,
		     struct bench_samples *ret)
{
	struct line l = {.cpu = cpu_core, .moves = count, .fd = eventfd(0, EFD_CLOEXEC)};
	const uint64_t one = 1;
	pthread_t thread;

	if (l.fd < 0)
		bench_die("eventfd", errno);
	begin(&l, &thread, sleeper_main, cpu_app);
	for (uint64_t i = 1; i <= count; i++) {
		uint64_t t0 = bench_now();

		while (bench_now() - t0 < gap_ns)
			bench_relax();
		t0 = bench_now();
		if (write(l.fd, &one, sizeof(one)) != sizeof(one))
			bench_die("eventfd", errno);
		while (atomic_load_explicit(&l.turn, memory_order_acquire) != 2 * i)
			bench_relax();
		bench_samples_add(ret, bench_now() - t0);
	}
	pthread_join(thread, NULL);
	close(l.fd);
	bench_unpin();
}
