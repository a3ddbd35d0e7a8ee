/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timeouts.c - requests on a core, each with a time-out of its own: a hundred thousand timers, most of which are stopped by an answer before
 * they fire. They lie in the requests; starting and stopping them takes no memory. What the core did meanwhile is told at the end.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/reactor.h>

#define MS 1000000ull
#define REQUESTS 100000u
#define TIMEOUT_NS (500 * MS)

struct request {
	struct thmq_timer timeout; /* first: a timer is its request */
	uint32_t number;
};

static struct request requests[REQUESTS];
static uint32_t sent, answered, timed_out, wrong;

static void on_timeout(struct thmq_core *core, struct thmq_timer *timer)
{
	const struct request *r = (struct request *)timer;

	timed_out++;
	wrong += r->number % 10 != 0 || (uint64_t)thmq_core_now_ns(core) < timer->deadline_ns;
}

/* Sends a thousand each millisecond, and starts itself again. */
static void on_tick(struct thmq_core *core, struct thmq_timer *tick)
{
	uint64_t deadline = (uint64_t)thmq_core_now_ns(core) + TIMEOUT_NS;
	uint32_t i;

	for (i = 0; i < 1000 && sent < REQUESTS; i++, sent++) {
		requests[sent].timeout.fire = on_timeout;
		requests[sent].number = sent;
		thmq_timer_start(core, &requests[sent].timeout, deadline);
	}
	if (sent < REQUESTS)
		thmq_timer_start(core, tick, tick->deadline_ns + MS);
}

/* A source of work: answers, to all requests but every tenth. */
static int take_answers(void *ctx, uint32_t budget)
{
	static uint32_t next;
	uint32_t done = 0;

	(void)ctx;
	for (; done < budget && next < sent; next++)
		if (next % 10 && thmq_timer_stop(&requests[next].timeout) == 1)
			done++;
	answered += done;
	return (int)done;
}

int main(void)
{
	const struct thmq_poller_ops ops = {
		.size = sizeof(ops), .poll = take_answers, .name = "answers"};
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_timer tick = {.fire = on_tick};
	struct thmq_poller *poller;
	struct thmq_core *core;
	struct thmq_env *env;

	if (thmq_env_open(&env, NULL) || !(core = thmq_env_core(env, 0)) ||
	    thmq_poller_open(core, &ops, NULL, &poller) || thmq_core_stats_detail(core, 1) ||
	    thmq_timer_start(core, &tick, (uint64_t)thmq_core_now_ns(core))) {
		fprintf(stderr, "%s\n", thmq_errmsg());
		return 1;
	}
	while (answered + timed_out < REQUESTS)
		if (thmq_poll(env, 1000 * MS) <= 0)
			break;
	thmq_core_stats(core, &st);
	printf("%u answered, %u timed out\n", answered, timed_out);
	printf("busy %.1f ms, idle %.1f ms, asleep %.1f ms; the longest iteration took %.0f us",
	       (double)st.busy_ns / 1e6, (double)st.idle_ns / 1e6, (double)st.slept_ns / 1e6,
	       (double)st.longest_ns / 1e3);
	printf(", %.0f us of it in timers and %.0f us in %s\n",
	       (double)st.longest_phase_ns[THMQ_PHASE_TIMERS] / 1e3,
	       (double)st.longest_poller_ns / 1e3,
	       st.longest_poller[0] ? st.longest_poller : "no poller");
	thmq_env_close(env, 1000 * MS);
	return answered != REQUESTS / 10 * 9 || timed_out != REQUESTS / 10 || wrong;
}
