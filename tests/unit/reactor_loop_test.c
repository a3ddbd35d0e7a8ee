/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_loop_test.c - what one poll does: pollers, posts, time-outs, sleep, virtual worlds. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define MS 1000000ull
#define TICK_NS 1024u /* of timers */

/* Without io_uring, and with it where the kernel has it. */
static const uint32_t both[] = {0, THMQ_ENV_NO_URING};

struct source {
	struct thmqi_poller poller; /* first */
	struct thmq_core *core;
	uint32_t ready; /* work there is */
	uint32_t polled, finished, armed, disarmed, budget;
	int arm_says;
	struct source *removes, *adds, *rests, *rouses;
	int nested; /* what a poll within the poll returned */
	uint32_t order;
};

static uint32_t sequence;

static int source_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct source *s = (struct source *)p;
	int done = (int)s->ready;

	s->polled++;
	s->budget = budget;
	s->order = ++sequence;
	s->ready = 0;
	s->nested = thmqi_core_poll(s->core, 0);
	if (s->removes)
		thmqi_core_remove_poller(s->core, &s->removes->poller);
	if (s->adds)
		thmqi_core_add_poller(s->core, &s->adds->poller);
	if (s->rests)
		thmqi_core_rest_poller(s->core, &s->rests->poller);
	if (s->rouses)
		thmqi_core_rouse_poller(s->core, &s->rouses->poller);
	s->removes = s->adds = s->rests = s->rouses = NULL;
	return done;
}

static bool source_arm(struct thmqi_poller *p)
{
	((struct source *)p)->armed++;
	return ((struct source *)p)->arm_says;
}

static void source_disarm(struct thmqi_poller *p)
{
	((struct source *)p)->disarmed++;
}

static void source_finish(struct thmqi_poller *p)
{
	((struct source *)p)->finished++;
}

static void source_end(struct thmqi_poller *p)
{
	struct source *s = (struct source *)p;

	thmqi_core_remove_poller(s->core, p);
	s->order = 0;
}

static void source_init(struct source *s, struct thmq_core *core)
{
	memset(s, 0, sizeof(*s));
	s->poller.poll = source_poll;
	s->poller.arm = source_arm;
	s->poller.disarm = source_disarm;
	s->poller.finish = source_finish;
	s->core = core;
}

static struct thmq_env *open_env(uint32_t flags, uint32_t policy)
{
	struct thmq_env *env;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags, .policy = policy), NULL, &env),
		     0);
	return env;
}

static uint64_t real_ns(void)
{
	return thmqi_clock_real.now_ns(thmqi_clock_real.ctx);
}

struct note {
	struct thmqi_task task; /* first */
	uint32_t id;
	uint32_t *log, *count;
	bool again;
	bool heap;
};

static void run_note(struct thmq_core *core, struct thmqi_task *task)
{
	struct note *n = (struct note *)task;

	n->log[(*n->count)++] = n->id;
	if (n->again) {
		n->again = false;
		thmqi_core_post(core, task);
	} else if (n->heap) {
		free(n);
	}
}

TestSuite(reactor_loop, .timeout = 30);

/* ----------------------------------------------------------------- pollers */

Test(reactor_loop, a_poll_without_time_is_exactly_one_iteration)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s;
	uint64_t before = core->loops;

	source_init(&s, core);
	thmqi_core_add_poller(core, &s.poller);
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
	cr_assert_eq(core->loops, before + 1);
	cr_assert_eq(s.polled, 1);
	cr_assert_gt(s.budget, 0);
	s.ready = 5;
	cr_assert_eq(thmqi_core_poll(core, 0), 5);
	cr_assert_eq(core->loops, before + 2);
	thmqi_core_remove_poller(core, &s.poller);
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
	cr_assert_eq(s.polled, 2);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, pollers_run_in_the_order_they_were_added)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s[3];
	uint32_t i;

	for (i = 0; i < 3; i++) {
		source_init(&s[i], core);
		thmqi_core_add_poller(core, &s[i].poller);
	}
	thmqi_core_poll(core, 0);
	cr_assert_lt(s[0].order, s[1].order);
	cr_assert_lt(s[1].order, s[2].order);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, a_poller_may_remove_itself_and_its_neighbours)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s[4];
	uint32_t i, victim;

	for (victim = 0; victim < 4; victim++) { /* the second of four removes each of them */
		for (i = 0; i < 4; i++) {
			source_init(&s[i], core);
			thmqi_core_add_poller(core, &s[i].poller);
		}
		s[1].removes = &s[victim];
		thmqi_core_poll(core, 0);
		thmqi_core_poll(core, 0);
		for (i = 0; i < 4; i++) {
			uint32_t want = i != victim ? 2 : victim <= 1 ? 1 : 0;

			cr_assert_eq(s[i].polled, want, "victim %u, poller %u", victim, i);
			thmqi_core_remove_poller(core, &s[i].poller);
		}
	}
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, a_poller_may_add_another)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source a, b;

	source_init(&a, core);
	source_init(&b, core);
	a.adds = &b;
	thmqi_core_add_poller(core, &a.poller);
	thmqi_core_poll(core, 0);
	thmqi_core_poll(core, 0);
	cr_assert_eq(a.polled, 2);
	cr_assert_geq(b.polled, 1);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, a_poller_that_rests_is_left_alone_until_it_is_roused_and_ends_with_the_core)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_EVENT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source first, second, resting;

	source_init(&first, core);
	source_init(&second, core);
	source_init(&resting, core);
	resting.poller.end = source_end;
	thmqi_core_add_poller(core, &first.poller);
	thmqi_core_add_poller_first(core, &resting.poller);
	thmqi_core_add_poller(core, &second.poller);
	thmqi_core_rest_poller(core, &resting.poller);
	cr_assert(resting.poller.rests);
	thmqi_core_poll(core, 2 * MS); /* and sleeps */
	cr_assert(first.armed && second.armed);
	cr_assert(!resting.polled && !resting.finished && !resting.armed && !resting.disarmed);
	thmqi_core_rouse_poller(core, &resting.poller);
	thmqi_core_rouse_poller(core, &resting.poller);
	thmqi_core_poll(core, 0);
	cr_assert_eq(resting.polled, 1);
	cr_assert_lt(resting.order, first.order, "it is at its place again");
	thmqi_core_rest_poller(core, &resting.poller);
	thmqi_core_remove_poller(core, &first.poller);
	thmqi_core_remove_poller(core, &second.poller);
	cr_assert_eq(thmqi_env_close(env), 0);
	cr_assert_eq(resting.order, 0, "it was told");
}

Test(reactor_loop, a_poller_may_rest_and_rouse_others_while_it_is_polled)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_EVENT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s[3];
	uint32_t i;

	for (i = 0; i < 3; i++) {
		source_init(&s[i], core);
		thmqi_core_add_poller(core, &s[i].poller);
	}
	s[0].rests = &s[1]; /* the next one */
	thmqi_core_poll(core, 0);
	cr_assert_eq(s[1].polled, 0);
	cr_assert_eq(s[2].polled, 1);
	s[2].rests = &s[2]; /* itself */
	s[0].rouses = &s[1];
	thmqi_core_poll(core, 0);
	cr_assert_eq(s[2].polled, 2);
	cr_assert_eq(s[1].polled, 1, "in the same iteration");
	thmqi_core_poll(core, 0);
	cr_assert_eq(s[2].polled, 2);
	for (i = 0; i < 3; i++)
		thmqi_core_remove_poller(core, &s[i].poller);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, finish_runs_after_work_and_at_each_entry_but_not_in_idle_rounds)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_FIXED);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s;

	source_init(&s, core);
	thmqi_core_add_poller(core, &s.poller);
	thmqi_core_poll(core,
			0); /* what the owner gave its objects between two polls must go out */
	cr_assert_eq(s.finished, 1);
	s.ready = 1;
	thmqi_core_poll(core, 0);
	cr_assert_eq(s.finished, 2);
	cr_assert_eq(thmqi_core_poll(core, 5 * MS), 0);
	cr_assert_gt(s.polled, 10);
	cr_assert_eq(s.finished, 3);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, a_poll_within_a_poll_is_refused)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s;

	source_init(&s, core);
	thmqi_core_add_poller(core, &s.poller);
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
	cr_assert_eq(s.nested, -EDEADLK);
	cr_assert_not(core->in_poll);
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* ------------------------------------------------------------------- posts */

Test(reactor_loop, posts_run_in_order_and_count_as_work)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct note notes[100];
	uint32_t log[100], count = 0, i;

	for (i = 0; i < 100; i++) {
		notes[i] =
			(struct note){.task.run = run_note, .id = i, .log = log, .count = &count};
		thmqi_core_post(core, &notes[i].task);
	}
	cr_assert_eq(count, 0, "never inside the call that posts");
	cr_assert_eq(thmqi_core_poll(core, 0), 100);
	cr_assert_eq(count, 100);
	for (i = 0; i < 100; i++)
		cr_assert_eq(log[i], i);
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, a_task_may_post_itself_again_and_free_itself)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct note *n = calloc(1, sizeof(*n));
	uint32_t log[2], count = 0;

	*n = (struct note){
		.task.run = run_note, .log = log, .count = &count, .again = true, .heap = true};
	thmqi_core_post(core, &n->task);
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	cr_assert_eq(count, 1, "its second run waits for the next iteration");
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	cr_assert_eq(count, 2);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, tasks_that_nobody_ran_are_run_at_close)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct note *n = calloc(1, sizeof(*n));
	uint32_t log[2], count = 0;

	*n = (struct note){
		.task.run = run_note, .log = log, .count = &count, .again = true, .heap = true};
	thmqi_core_post(core, &n->task);
	cr_assert_eq(thmqi_env_close(env), 0);
	cr_assert_eq(count, 2);
}

/* ------------------------------------------------------------------- sleep */

Test(reactor_loop, a_time_out_passes_and_is_not_much_longer)
{
	static const uint32_t policies[] = {THMQ_POLICY_POLL, THMQ_POLICY_EVENT, THMQ_POLICY_FIXED};
	uint32_t i, f;

	for (f = 0; f < 2; f++)
		for (i = 0; i < 3; i++) {
			struct thmq_env *env = open_env(both[f], policies[i]);
			uint64_t start = real_ns(), took;

			cr_assert_eq(thmqi_core_poll(thmqi_env_core(env, 0), 20 * MS), 0);
			took = real_ns() - start;
			cr_assert_geq(took, 20 * MS);
			cr_assert_lt(took, 2000 * MS);
			cr_assert_eq(thmqi_env_close(env), 0);
		}
}

Test(reactor_loop, under_event_an_idle_core_sleeps_once_and_makes_no_rounds)
{
	uint32_t f;

	for (f = 0; f < 2; f++) {
		struct thmq_env *env = open_env(both[f], THMQ_POLICY_EVENT);
		struct thmq_core *core = thmqi_env_core(env, 0);

		cr_assert_eq(thmqi_core_poll(core, 100 * MS), 0);
		cr_assert_eq(core->sleeps, 1);
		cr_assert_leq(core->loops, 4);
		cr_assert_eq(thmqi_env_close(env), 0);
	}
}

Test(reactor_loop, under_poll_a_core_never_sleeps)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_POLL);
	struct thmq_core *core = thmqi_env_core(env, 0);

	cr_assert_eq(atomic_load(&core->may_sleep), 0);
	cr_assert_eq(thmqi_core_poll(core, 20 * MS), 0);
	cr_assert_eq(core->sleeps, 0);
	cr_assert_gt(core->loops, 1000);
	cr_assert_eq(thmqi_env_close(env), 0);
}

static bool fired;

static void set_flag(struct thmqi_timer *t)
{
	(void)t;
	fired = true;
}

Test(reactor_loop, a_sleep_ends_with_the_next_timer)
{
	uint32_t f;

	for (f = 0; f < 2; f++) {
		struct thmq_env *env = open_env(both[f], THMQ_POLICY_EVENT);
		struct thmq_core *core = thmqi_env_core(env, 0);
		struct thmqi_timer t = {.fire = set_flag};
		uint64_t start = real_ns();

		fired = false;
		thmqi_timer_start(core, &t, start + 20 * MS);
		cr_assert_eq(thmqi_core_poll(core, UINT64_MAX), 1);
		cr_assert(fired);
		cr_assert_geq(real_ns() - start, 20 * MS);
		cr_assert_leq(core->loops, 6);
		cr_assert_eq(thmqi_env_close(env), 0);
	}
}

Test(reactor_loop, every_source_is_armed_before_a_sleep_and_disarmed_after)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_EVENT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s;

	source_init(&s, core);
	thmqi_core_add_poller(core, &s.poller);
	cr_assert_eq(thmqi_core_poll(core, 5 * MS), 0);
	cr_assert_eq(s.armed, 1);
	cr_assert_eq(s.disarmed, 1);
	cr_assert_eq(atomic_load(&core->sleeping), 0);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, a_source_that_finds_work_when_armed_prevents_the_sleep)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_EVENT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct source s;

	source_init(&s, core);
	s.arm_says = true;
	thmqi_core_add_poller(core, &s.poller);
	cr_assert_eq(thmqi_core_poll(core, 5 * MS), 0);
	cr_assert_gt(s.armed, 1);
	cr_assert_eq(s.armed, s.disarmed);
	cr_assert_eq(core->sleeps, 0);
	cr_assert_eq(thmqi_env_close(env), 0);
}

static void *post_later(void *arg)
{
	struct note *n = arg;
	static struct thmq_core *core;

	core = (struct thmq_core *)n->task.next;
	usleep(30000);
	thmqi_core_post(core, &n->task);
	return NULL;
}

Test(reactor_loop, a_post_from_another_thread_ends_the_sleep)
{
	uint32_t f;

	for (f = 0; f < 2; f++) {
		struct thmq_env *env = open_env(both[f], THMQ_POLICY_EVENT);
		struct thmq_core *core = thmqi_env_core(env, 0);
		uint32_t log[1], count = 0;
		struct note n = {.task.run = run_note, .log = log, .count = &count};
		pthread_t thread;

		n.task.next = (struct thmqi_task *)core;
		pthread_create(&thread, NULL, post_later, &n);
		cr_assert_eq(thmqi_core_poll(core, UINT64_MAX), 1, "the wake-up itself is no work");
		cr_assert_eq(count, 1);
		pthread_join(thread, NULL);
		cr_assert_eq(thmqi_env_close(env), 0);
	}
}

Test(reactor_loop, a_wake_up_without_work_does_not_end_the_poll_early)
{
	uint32_t f;

	for (f = 0; f < 2; f++) {
		struct thmq_env *env = open_env(both[f], THMQ_POLICY_EVENT);
		struct thmq_core *core = thmqi_env_core(env, 0);
		uint64_t start = real_ns();

		thmqi_core_wake(core);
		thmqi_core_wake(core);
		cr_assert_eq(thmqi_core_poll(core, 20 * MS), 0);
		cr_assert_geq(real_ns() - start, 20 * MS);
		cr_assert_leq(core->sleeps, 3);
		cr_assert_eq(thmqi_env_close(env), 0);
	}
}

struct read_op {
	struct thmqi_ring_op op; /* first */
	int res;
};

static void on_read(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	(void)flags;
	((struct read_op *)op)->res = res;
}

Test(reactor_loop, a_completion_ends_the_sleep)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_EVENT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct read_op r = {.op.done = on_read};
	char byte = 0;
	int fd;

	if (!core->ring)
		cr_skip("no io_uring here");
	fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	cr_assert_eq(thmqi_ring_read(core->ring, fd, -1, NULL, &byte, 1, 1, &r.op), 0);
	cr_assert_eq(thmqi_core_poll(core, UINT64_MAX), 1);
	cr_assert_eq(r.res, 1);
	cr_assert_eq(byte, 'E');
	close(fd);
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* ------------------------------------------------------------------- worlds */

struct universe {
	uint64_t ns;
	uint32_t idles;
	uint64_t longest;
};

static uint64_t universe_now(void *ctx)
{
	return ((struct universe *)ctx)->ns;
}

static uint64_t universe_wall(void *ctx)
{
	return ((struct universe *)ctx)->ns + 1000000000000000000ull;
}

static int universe_idle(void *ctx, uint64_t timeout_ns)
{
	struct universe *u = ctx;

	u->idles++;
	u->longest = THMQI_MAX(u->longest, timeout_ns);
	u->ns += timeout_ns;
	return 0;
}

Test(reactor_loop, a_world_with_idle_advances_time_instead_of_sleeping)
{
	struct universe u = {.ns = 1};
	struct thmqi_clock clock = {.now_ns = universe_now, .wall_ns = universe_wall, .ctx = &u};
	struct thmqi_world world = {.clock = &clock, .idle = universe_idle, .ctx = &u, .seed = 42};
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmqi_timer t = {.fire = set_flag};
	uint64_t start = real_ns();

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(0), &world, &env), 0);
	core = thmqi_env_core(env, 0);
	cr_assert_eq(thmqi_core_poll(core, 3600 * 1000 * MS), 0);
	cr_assert_eq(u.ns, 1 + 3600 * 1000 * MS);
	cr_assert_eq(u.idles, 1);
	cr_assert_eq(core->sleeps, 0);
	thmqi_timer_start(core, &t, u.ns + 500 * MS);
	u.longest = 0;
	cr_assert_eq(thmqi_core_poll(core, UINT64_MAX), 1);
	cr_assert_geq(u.longest, 500 * MS, "no further than the next timer");
	cr_assert_lt(u.longest, 500 * MS + TICK_NS);
	cr_assert(fired);
	cr_assert_eq(core->now_ns, u.ns);
	cr_assert_eq(core->wall_ns, universe_wall(&u));
	cr_assert_lt(real_ns() - start, 5000 * MS);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_loop, chance_in_a_seeded_world_repeats_and_differs_between_cores)
{
	struct thmqi_world world = {.seed = 99};
	uint64_t first[2], second[2];
	struct thmq_env *env;
	uint32_t i;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = 2), &world, &env), 0);
	for (i = 0; i < 2; i++)
		first[i] = thmqi_prng_next(&thmqi_env_core(env, i)->prng);
	cr_assert_eq(thmqi_env_close(env), 0);
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = 2), &world, &env), 0);
	for (i = 0; i < 2; i++)
		second[i] = thmqi_prng_next(&thmqi_env_core(env, i)->prng);
	cr_assert_eq(thmqi_env_close(env), 0);
	cr_assert_eq(first[0], second[0]);
	cr_assert_eq(first[1], second[1]);
	cr_assert_neq(first[0], first[1]);
}

Test(reactor_loop, the_clock_of_a_core_follows_the_real_one)
{
	struct thmq_env *env = open_env(0, THMQ_POLICY_DEFAULT);
	struct thmq_core *core = thmqi_env_core(env, 0);
	uint32_t i;

	for (i = 0; i < 1000; i++)
		thmqi_core_poll(core, 0);
	usleep(20000); /* the host was busy elsewhere */
	thmqi_core_poll(core, 0);
	cr_assert_lt(real_ns() - core->now_ns, 10 * MS);
	cr_assert_lt(thmqi_clock_real.wall_ns(NULL) - core->wall_ns, 10 * MS);
	cr_assert_eq(thmqi_env_close(env), 0);
}
