/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calibrate.c - what it costs to sleep: short sleeps on a timer's descriptor, as a core sleeps on its eventfd. How late the thread runs is
 * the latency of a wake-up; what the system says that it used meanwhile is the processor time. No second thread is needed, so that
 * none is made where none was asked for. Knows nothing of cores.
 */
#include <poll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define ROUNDS 15u
#define SLEEP_NS 30000u   /* each */
#define LIMIT_NS 1200000u /* all: another is begun only before this */
/* What a machine that is busy meanwhile may make of it is no cost of sleeping. */
#define CPU_MIN_NS 500u
#define CPU_MAX_NS 20000u
#define LATENCY_MIN_NS 1000u
#define LATENCY_MAX_NS 30000u
/* As measured on a virtual machine: where nothing can be measured. */
#define CPU_USUAL_NS 2500u
#define LATENCY_USUAL_NS 4500u

static uint64_t read_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t thmqi_thread_cpu_ns(void)
{
	return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

static void insert(uint64_t *sorted, uint32_t count, uint64_t value)
{
	for (; count && sorted[count - 1] > value; count--)
		sorted[count] = sorted[count - 1];
	sorted[count] = value;
}

/* One sleep. Return: it was one. */
static bool sleep_once(int fd, uint64_t *ret_cpu_ns, uint64_t *ret_latency_ns)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t cpu = thmqi_thread_cpu_ns(), at = read_ns(CLOCK_MONOTONIC) + SLEEP_NS,
		 now, count;
	struct itimerspec t = {.it_value = {.tv_sec = (time_t)(at / 1000000000u),
					    .tv_nsec = (long)(at % 1000000000u)}};

	if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL) != 0 || poll(&p, 1, 100) != 1)
		return false;
	now = read_ns(CLOCK_MONOTONIC);
	if (read(fd, &count, sizeof(count)) < 0)
		return false;
	*ret_latency_ns = now > at ? now - at : 0;
	*ret_cpu_ns = thmqi_thread_cpu_ns() - cpu;
	return true;
}

void thmqi_calibrate(uint64_t *ret_cpu_ns, uint64_t *ret_latency_ns)
{
	uint64_t cpu[ROUNDS], latency[ROUNDS], begin = read_ns(CLOCK_MONOTONIC), c, w;
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	uint32_t count = 0;

	*ret_cpu_ns = CPU_USUAL_NS;
	*ret_latency_ns = LATENCY_USUAL_NS;
	if (fd < 0)
		return;
	while (count < ROUNDS && read_ns(CLOCK_MONOTONIC) - begin < LIMIT_NS &&
	       sleep_once(fd, &c, &w)) {
		insert(cpu, count, c);
		insert(latency, count++, w);
	}
	close(fd);
	if (!count)
		return;
	/* the lower quarter: what came between the others is no cost of theirs */
	*ret_cpu_ns = THMQI_MIN(THMQI_MAX(cpu[count / 4], CPU_MIN_NS), CPU_MAX_NS);
	*ret_latency_ns = THMQI_MIN(THMQI_MAX(latency[count / 4], LATENCY_MIN_NS), LATENCY_MAX_NS);
}
