/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wait.c - how a session's thread waits: it looks, drives a core of its own if it has one, and sleeps. Knows what can wake it, not
 * what it waits for.
 */
#include <poll.h>
#include <time.h>

#include "internal.h"

#define SPIN_NS 20000u /* before a blocking call sleeps */
#define SPIN_POLLED_NS 2000000u /* the same where the core never sleeps either */
#define NAP_NS 100000000u /* a sleep that nothing ends: look around */
#define CLOCK_ROUNDS 64u /* rounds of waiting between two looks at the clock */

uint64_t thmqi_session_now(struct thmq_session *s)
{
	const struct thmqi_clock *clock = thmqi_env_core(s->env, 0)->clock;

	return clock->now_ns(clock->ctx);
}

int64_t thmqi_session_wall(struct thmq_session *s)
{
	const struct thmqi_clock *clock = thmqi_env_core(s->env, 0)->clock;

	return (int64_t)clock->wall_ns(clock->ctx);
}

uint64_t thmqi_session_deadline(struct thmq_session *s, uint64_t timeout_ns)
{
	uint64_t now = thmqi_session_now(s);

	return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

/* Nobody drives a core that has to answer, and the caller cannot. */
static bool would_wait_for_ever(struct thmq_session *s, const struct thmq_core *mine)
{
	uint32_t i;

	if (mine && mine->in_poll)
		return true;
	for (i = 0; i < s->shard_count; i++)
		if (s->links[i] && !s->links[i]->dead && !s->links[i]->wire->far && !thmqi_core_is_driven(s->links[i]->wire->core))
			return true;
	return false;
}

bool thmqi_session_stuck(struct thmq_session *s)
{
	return would_wait_for_ever(s, thmqi_core_mine(s->env));
}

/* Is the broker another process, whose frames come without a core of ours? */
static bool is_far(const struct thmq_session *s)
{
	return s->links[0] && s->links[0]->wire->far;
}

/* Does the calling thread drive all that this session waits for? */
static bool all_mine(const struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < s->shard_count; i++)
		if (s->links[i] && (s->links[i]->wire->far || !thmqi_core_is_mine(s->links[i]->wire->core)))
			return false;
	return true;
}

/* At most so long at a time: something may be due by then. */
static uint64_t nap_ns(const struct thmq_session *s, uint64_t ns)
{
	ns = THMQI_MIN(ns, (uint64_t)NAP_NS);
	if (thmqi_unlikely(s->asking != NULL))
		ns = THMQI_MIN(ns, thmqi_asking_nap_ns(s));
	return thmqi_likely(!s->away_count) ? ns : THMQI_MIN(ns, thmqi_resume_nap_ns(s));
}

/* Sleep until this session's waiter, or the thread's own core, has something. */
static void sleep_both(struct thmq_session *s, struct thmq_core *mine, uint64_t ns)
{
	struct pollfd p[2] = {{.fd = s->waiter->fd, .events = POLLIN}};
	struct timespec t = {.tv_nsec = (long)nap_ns(s, ns)};

	p[1].fd = thmqi_core_fd(mine);
	p[1].events = POLLIN;
	thmqi_releases_flush(s);
	thmqi_waiter_arm(s->waiter);
	if (thmqi_session_process(s) == 0 && thmqi_core_arm(mine) == 0)
		ppoll(p, 2, &t, NULL);
	thmqi_waiter_disarm(s->waiter);
}

static void sleep_alone(struct thmq_session *s, uint64_t ns)
{
	thmqi_releases_flush(s);
	thmqi_waiter_arm(s->waiter);
	if (thmqi_session_process(s) == 0)
		thmqi_waiter_sleep(s->waiter, nap_ns(s, ns));
	thmqi_waiter_disarm(s->waiter);
}

static uint64_t spin_ns(const struct thmq_session *s)
{
	const struct client_link *l = s->links[0];
	const _Atomic uint32_t *may_sleep;

	if (!l)
		return SPIN_NS;
	may_sleep = is_far(s) ? &l->wire->far->bell->may_sleep : &l->wire->core->may_sleep;
	return atomic_load_explicit(may_sleep, memory_order_relaxed) ? SPIN_NS : SPIN_POLLED_NS;
}

int thmqi_session_block(struct thmq_session *s, bool (*done)(void *arg), void *arg, uint64_t deadline)
{
	struct thmq_core *mine = thmqi_core_mine(s->env);
	uint64_t now = 0, spin_end = 0;
	uint32_t round;
	bool look;

	for (round = 0;; round++) {
		uint32_t taken = thmqi_session_process(s);

		if (done(arg))
			return 0;
		if (s->dead && taken) /* some links may still have what was said before the end */
			continue;
		if (s->dead)
			return s->dead;
		if (would_wait_for_ever(s, mine))
			return -EDEADLK;
		/* the clock is not read in every round, and is read though there is always something to do */
		look = round % CLOCK_ROUNDS == CLOCK_ROUNDS - 1;
		if (mine) {
			bool busy = thmqi_core_poll(mine, 0) > 0 || taken;

			if (busy && !look)
				continue;
			now = thmqi_session_now(s);
			if (now >= deadline)
				return -ETIMEDOUT;
			if (busy) {
				spin_end = 0;
				continue;
			}
			if (is_far(s) && (!spin_end || now < spin_end)) {
				spin_end = spin_end ? spin_end : now + spin_ns(s);
				thmqi_cpu_relax();
				continue;
			}
			spin_end = 0;
			thmqi_releases_flush(s);
			if (mine->world->idle || all_mine(s))
				thmqi_core_poll(mine, nap_ns(s, deadline - now));
			else
				sleep_both(s, mine, deadline - now);
			continue;
		}
		if (taken)
			spin_end = 0;
		if (taken && !look)
			continue;
		if (look || spin_end == 0) {
			now = thmqi_session_now(s);
			if (now >= deadline)
				return -ETIMEDOUT;
			if (!spin_end)
				spin_end = now + spin_ns(s);
		}
		if (now < spin_end) {
			thmqi_cpu_relax();
			continue;
		}
		sleep_alone(s, deadline - now);
		spin_end = 0;
	}
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

int thmqi_session_rest(struct thmq_session *s, uint64_t ns, uint64_t deadline)
{
	uint64_t until = THMQI_MIN(deadline, thmqi_session_deadline(s, ns));
	int rc = thmqi_session_block(s, never, NULL, until);

	return rc != -ETIMEDOUT ? rc : until == deadline ? rc : 0;
}

static bool has_news(void *arg)
{
	struct thmq_session *s = arg;
	uint32_t i;

	/* events that the app leaves lying are news once, or its loop would never sleep */
	if ((s->event_head != s->event_tail && s->event_head != s->event_told) || s->closed_due)
		return true;
	for (i = 0; i < THMQI_STREAMS; i++)
		if (s->consumers[i] && thmqi_consumer_has_news(s->consumers[i]))
			return true;
	return false;
}

struct wait_arg {
	struct thmq_session *session;
	uint64_t news;
};

static bool has_news_since(void *arg)
{
	struct wait_arg *w = arg;

	return w->session->news != w->news || has_news(w->session);
}

int thmqi_client_session_wait(struct thmq_session *s, uint64_t timeout_ns)
{
	struct wait_arg w = {.session = s, .news = s->news};
	struct thmq_core *mine = thmqi_core_mine(s->env);
	int rc;

	/* whatever lies there untaken, the core goes on */
	if (mine && !mine->in_poll)
		thmqi_core_poll(mine, 0);
	rc = thmqi_session_block(s, has_news_since, &w, thmqi_session_deadline(s, timeout_ns));
	s->event_told = s->event_head;
	return rc == 0 ? 1 : rc == -ETIMEDOUT ? 0 : rc;
}

int thmqi_client_session_fd(struct thmq_session *s)
{
	return s->waiter->fd;
}

int thmqi_client_session_arm(struct thmq_session *s)
{
	if (s->dead && s->event_head == s->event_tail && !s->closed_due)
		return s->dead;
	thmqi_releases_flush(s);
	if (s->asking)
		thmqi_asking_arm(s);
	thmqi_waiter_disarm(s->waiter);
	thmqi_waiter_arm(s->waiter);
	if (thmqi_session_process(s) == 0 && !has_news(s))
		return 0;
	thmqi_waiter_disarm(s->waiter);
	s->event_told = s->event_head;
	return 1;
}
