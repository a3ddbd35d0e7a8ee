/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_mailbox_race_test.c - mailboxes between cores that run at once: streams both ways through tiny rings, with receivers that
 * sleep and that spin; mailboxes closed while they are full; environments closed in the midst of it. Nothing is lost, nothing runs
 * twice or out of order, nobody sleeps for ever. A plain program, so that it also runs under the thread sanitizer. Exit 0: passed.
 */
#include <stdio.h>
#include <time.h>

#include "reactor/reactor.h"
#include <thundermq/reactor.h>

#define CORES_MAX 3u
#define SILENCE_S 10u /* without any message: one was lost, or a wake-up */
#define SECOND 1000000000ull

static uint32_t messages = 8000; /* of a stream; a hundred times as many with THMQ_TEST_FULL */

/* From one core to another. */
struct stream {
	struct peer *from, *to;
	struct thmq_mailbox *box;
	uint32_t sent, refused; /* the sender's */
	bool waits;             /* for room */
	uint32_t next, wrong;   /* the receiver's */
};

struct peer {
	struct thmq_core *core;
	struct thmq_poller *poller;
	struct stream streams[CORES_MAX]; /* by receiver */
	struct thmqi_prng prng;
	bool told; /* streams stand still until there is room, and the core may sleep; otherwise they try for ever */
	uint32_t depth;
};

static struct peer peers[CORES_MAX];
static uint32_t core_count;
static _Atomic uint64_t received;

static void pause_for(uint32_t ms)
{
	struct timespec t = {.tv_nsec = ms * 1000000l};

	nanosleep(&t, NULL);
}

/* Mostly none, so that all are often at the edge of sleep. */
static void dawdle(struct thmqi_prng *prng)
{
	uint32_t i = thmqi_prng_below(prng, 16) ? 0 : (uint32_t)thmqi_prng_below(prng, 400);

	for (; i; i--)
		thmqi_cpu_relax();
}

static void on_message(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct stream *s = mail->object;

	if (core != s->to->core || mail->word[0] != s->next++ || mail->word[4] != ~mail->word[0])
		s->wrong++;
	dawdle(&s->to->prng);
	atomic_fetch_add_explicit(&received, 1, memory_order_relaxed);
}

static int send_one(struct stream *s)
{
	struct thmq_mail mail = {
		.run = on_message, .object = s, .word = {s->sent, 0, 0, 0, ~(uint64_t)s->sent}};
	int rc = thmq_mailbox_send(s->box, &mail);

	if (rc == 0)
		s->sent++;
	else
		s->refused++;
	return rc;
}

/* ------------------------------------------------------------------- streams */

static void on_room(void *ctx)
{
	struct stream *s = ctx;

	s->waits = false;
}

static int peer_poll(void *ctx, uint32_t budget)
{
	struct peer *p = ctx;
	int done = 0;

	(void)budget;
	for (uint32_t i = 0; i < core_count; i++) {
		struct stream *s = &p->streams[i];
		uint32_t burst = (uint32_t)thmqi_prng_below(&p->prng, 6);

		for (; burst && !s->waits && s->sent < messages; burst--) {
			if (send_one(s) == 0)
				done++;
			else
				s->waits = p->told;
			if (s->refused && !p->told)
				break;
		}
		/* there is more to do: it must not sleep on it */
		done += !s->waits && s->sent < messages;
	}
	return done;
}

static int peer_open(struct thmq_core *core, void *arg)
{
	struct peer *p = arg;

	p->core = core;
	for (uint32_t i = 0; i < core_count; i++) {
		struct stream *s = &p->streams[i];

		s->from = p;
		s->to = &peers[i];
		if (thmq_mailbox_open(core, thmq_env_core(core->env, i),
				      THMQ_MAILBOX_OPTS(.depth = p->depth,
							.room = p->told ? on_room : NULL, .ctx = s),
				      &s->box) != 0)
			return -1;
	}
	return 0;
}

static int peer_begin(struct thmq_core *core, void *arg)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = peer_poll};
	struct peer *p = arg;

	return thmq_poller_open(core, &ops, p, &p->poller);
}

static bool wait_for(uint64_t count)
{
	uint64_t seen = 0, now;
	uint32_t silent = 0;

	while ((now = atomic_load(&received)) < count) {
		pause_for(2);
		silent = now == seen ? silent + 1 : 0;
		seen = now;
		if (silent > SILENCE_S * 500)
			return false;
	}
	return true;
}

static int set_up(struct thmq_env **ret_env, uint32_t cores, uint32_t policy, uint32_t depth,
		  bool told)
{
	struct thmq_env *env;

	core_count = cores;
	memset(peers, 0, sizeof(peers));
	atomic_store(&received, 0);
	if (thmqi_env_open(THMQ_ENV_OPTS(.core_count = cores, .policy = policy,
					 .flags = THMQ_ENV_NO_PIN, .spin_ns = 5000),
			   NULL, &env) != 0)
		return 1;
	for (uint32_t i = 0; i < cores; i++) {
		peers[i].depth = depth;
		peers[i].told = told;
		thmqi_prng_seed(&peers[i].prng, i + 1);
		peers[i].core = thmqi_env_core(env, i);
	}
	for (uint32_t i = 0; i < cores; i++)
		if (thmq_core_call(peers[i].core, peer_open, &peers[i], UINT64_MAX) != 0)
			return 1;
	for (uint32_t i = 0; i < cores; i++)
		if (thmq_core_call(peers[i].core, peer_begin, &peers[i], UINT64_MAX) != 0)
			return 1;
	*ret_env = env;
	return 0;
}

/* Once all threads have ended. */
static int tear_down(const char *name, struct thmq_env *env, bool whole)
{
	struct thmq_env_stats stats = {0};
	uint64_t sent = 0, ran = 0, wrong = 0, refused = 0;
	int leaked;

	thmqi_env_stats(env, &stats);
	leaked = thmqi_env_close(env);
	for (uint32_t i = 0; i < core_count; i++)
		for (uint32_t k = 0; k < core_count; k++) {
			struct stream *s = &peers[i].streams[k];

			sent += s->sent;
			ran += s->next;
			refused += s->refused;
			wrong += s->wrong + (s->next != s->sent) + (whole && s->sent != messages);
		}
	printf("%s: %llu of %llu sent have run, %llu wrong; %llu refused; %llu sleeps, %llu "
	       "wake-ups\n",
	       name, (unsigned long long)ran, (unsigned long long)sent, (unsigned long long)wrong,
	       (unsigned long long)refused, (unsigned long long)stats.sleeps,
	       (unsigned long long)stats.wakeups);
	return leaked || wrong || ran != sent;
}

static int streams(const char *name, uint32_t cores, uint32_t policy, uint32_t depth, bool told)
{
	struct thmq_env *env;

	if (set_up(&env, cores, policy, depth, told) != 0)
		return 1;
	if (!wait_for((uint64_t)cores * cores * messages)) {
		printf("%s: silence after %llu\n", name,
		       (unsigned long long)atomic_load(&received));
		for (uint32_t i = 0; i < cores; i++)
			for (uint32_t k = 0; k < cores; k++)
				printf("  %u to %u: waits %d, sent %u, ran %u, receiver sleeps "
				       "%u\n",
				       i, k, peers[i].streams[k].waits, peers[i].streams[k].sent,
				       peers[i].streams[k].next,
				       atomic_load(&peers[k].core->sleeping));
		_Exit(1);
	}
	return tear_down(name, env, true);
}

/* The end comes while they talk. */
static int cut_short(const char *name, uint32_t cores, uint32_t policy, uint32_t times)
{
	int failed = 0;

	for (uint32_t i = 0; i < times && !failed; i++) {
		struct thmq_env *env;

		if (set_up(&env, cores, policy, 4, i % 2) != 0)
			return 1;
		pause_for(i % 4);
		failed = tear_down(name, env, false);
	}
	return failed;
}

/* ------------------------------------------------------- opened and closed */

struct churn {
	struct thmq_core *other;
	struct thmqi_prng prng;
	_Atomic uint32_t ran; /* the receiver's */
	uint32_t sent, rounds_left, wrong;
	_Atomic uint32_t over;
};

static void on_churn(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct churn *c = mail->object;

	(void)core;
	atomic_fetch_add_explicit(&c->ran, 1, memory_order_relaxed);
}

static void churn_room(void *ctx)
{
	struct churn *c = ctx;

	c->wrong += 1000000u * !c->rounds_left; /* none after its mailbox was closed */
}

static int churn_poll(void *ctx, uint32_t budget)
{
	struct churn *c = ctx;
	struct thmq_core *mine = thmqi_env_core(c->other->env, 0);
	struct thmq_mail mail = {.run = on_churn, .object = c};
	struct thmq_mailbox *box;
	uint32_t n = (uint32_t)thmqi_prng_below(&c->prng, 12);

	(void)budget;
	if (!c->rounds_left)
		return 0;
	if (thmq_mailbox_open(mine, c->other,
			      THMQ_MAILBOX_OPTS(.depth = 4, .room = churn_room, .ctx = c),
			      &box) != 0)
		return 0;
	while (n--)
		c->sent +=
			thmq_mailbox_send(box, &mail) == 0; /* refused from the fifth on, mostly */
	thmq_mailbox_close(box);
	if (--c->rounds_left == 0)
		atomic_store(&c->over, 1);
	return 1;
}

static int churn_open(struct thmq_core *core, void *arg)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = churn_poll};
	struct thmq_poller *poller;

	return thmq_poller_open(core, &ops, arg, &poller);
}

static int churn(const char *name, uint32_t policy)
{
	struct churn c = {.rounds_left = messages};
	struct thmq_env *env;

	if (thmqi_env_open(
		    THMQ_ENV_OPTS(.core_count = 2, .policy = policy, .flags = THMQ_ENV_NO_PIN),
		    NULL, &env) != 0)
		return 1;
	c.other = thmqi_env_core(env, 1);
	thmqi_prng_seed(&c.prng, 7);
	if (thmq_core_call(thmqi_env_core(env, 0), churn_open, &c, UINT64_MAX) != 0)
		return 1;
	for (uint32_t i = 0; i < 30000 && !atomic_load(&c.over); i++)
		pause_for(1);
	c.wrong += !atomic_load(&c.over);
	c.wrong += thmqi_env_close(env) != 0;
	printf("%s: %u mailboxes, %u of %u messages ran, %u wrong\n", name, messages,
	       atomic_load(&c.ran), c.sent, c.wrong);
	return c.wrong || atomic_load(&c.ran) != c.sent;
}

/* ------------------------------------------------------ the lost wake-up */

/* One message goes to and fro between cores that sleep as soon as they find nothing. */
struct match {
	struct thmq_mailbox *box[2];
	struct thmqi_prng prng[2];
	uint64_t left;
};

static void on_ball(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct match *m = mail->object;
	uint32_t i = core->index;
	struct thmq_mail back = {.run = on_ball, .object = m};

	atomic_fetch_add_explicit(&received, 1, memory_order_relaxed);
	dawdle(&m->prng[i]);
	if (--m->left)
		thmq_mailbox_send(m->box[i], &back);
}

static int match_open(struct thmq_core *core, void *arg)
{
	struct match *m = arg;

	thmqi_prng_seed(&m->prng[core->index], core->index + 1);
	return thmq_mailbox_open(core, thmqi_env_core(core->env, 1 - core->index),
				 THMQ_MAILBOX_OPTS(.depth = 2), &m->box[core->index]);
}

static int match_serve(struct thmq_core *core, void *arg)
{
	struct match *m = arg;
	struct thmq_mail mail = {.run = on_ball, .object = m};

	return thmq_mailbox_send(m->box[core->index], &mail);
}

static int match(const char *name, uint32_t policy, uint32_t flags, uint64_t balls)
{
	struct match m = {.left = balls};
	struct thmq_env_stats stats = {0};
	struct thmq_env *env;

	atomic_store(&received, 0);
	if (thmqi_env_open(THMQ_ENV_OPTS(.core_count = 2, .policy = policy,
					 .flags = flags | THMQ_ENV_NO_PIN, .spin_ns = 3000),
			   NULL, &env) != 0 ||
	    thmq_core_call(thmqi_env_core(env, 0), match_open, &m, UINT64_MAX) != 0 ||
	    thmq_core_call(thmqi_env_core(env, 1), match_open, &m, UINT64_MAX) != 0 ||
	    thmq_core_call(thmqi_env_core(env, 0), match_serve, &m, UINT64_MAX) != 0)
		return 1;
	if (!wait_for(balls)) {
		printf("%s: silence with %llu left: sleeping %u and %u\n", name,
		       (unsigned long long)m.left, atomic_load(&thmqi_env_core(env, 0)->sleeping),
		       atomic_load(&thmqi_env_core(env, 1)->sleeping));
		_Exit(1);
	}
	thmqi_env_stats(env, &stats);
	printf("%s: %llu messages, %llu sleeps, %llu wake-ups\n", name, (unsigned long long)balls,
	       (unsigned long long)stats.sleeps, (unsigned long long)stats.wakeups);
	/* a run in which nobody slept would have tested nothing */
	return thmqi_env_close(env) != 0 ||
	       (policy == THMQ_POLICY_EVENT && stats.sleeps < balls / 100);
}

int main(void)
{
	uint64_t balls = getenv("THMQ_TEST_FULL") ? 2000000 : 20000; /* a round trip is two */
	int failed = 0;

	if (getenv("THMQ_TEST_FULL"))
		messages *= 100;
	else if (getenv("THMQ_TEST_SMALL"))
		messages /= 2;
	failed |= streams("two cores, event, depth 2, told of room", 2, THMQ_POLICY_EVENT, 2, true);
	failed |= streams("two cores, event, depth 4, told of room", 2, THMQ_POLICY_EVENT, 4, true);
	failed |= streams("two cores, fixed, depth 8, told of room", 2, THMQ_POLICY_FIXED, 8, true);
	failed |= streams("two cores, poll, depth 2", 2, THMQ_POLICY_POLL, 2, false);
	failed |=
		streams("three cores, event, depth 2, told of room", 3, THMQ_POLICY_EVENT, 2, true);
	failed |= streams("three cores, fixed, depth 64", 3, THMQ_POLICY_FIXED, 64, false);
	failed |= cut_short("three cores, event, cut short", 3, THMQ_POLICY_EVENT, 10);
	failed |= cut_short("two cores, fixed, cut short", 2, THMQ_POLICY_FIXED, 10);
	failed |= churn("mailboxes opened and closed, event", THMQ_POLICY_EVENT);
	failed |= churn("mailboxes opened and closed, fixed", THMQ_POLICY_FIXED);
	failed |= match("to and fro, event", THMQ_POLICY_EVENT, 0, balls);
	failed |= match("to and fro, event, no ring", THMQ_POLICY_EVENT, THMQ_ENV_NO_URING, balls);
	failed |= match("to and fro, fixed", THMQ_POLICY_FIXED, 0, balls);
	return failed;
}
