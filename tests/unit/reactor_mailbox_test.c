/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_mailbox_test.c - messages between cores, by the public calls alone: order, room, waking, and the end. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#define SECOND 1000000000ull

TestSuite(reactor_mailbox, .timeout = 30);

static struct thmq_env *open_env(uint32_t core_count, uint32_t caller_cores)
{
	struct thmq_env *env;

	cr_assert_eq(
		thmq_env_open(&env,
			      THMQ_ENV_OPTS(.core_count = core_count, .caller_cores = caller_cores,
					    .policy = THMQ_POLICY_EVENT, .flags = THMQ_ENV_NO_PIN)),
		0, "%s", thmq_errmsg());
	return env;
}

/* What receivers count: theirs, until their thread has ended or told otherwise. */
struct tally {
	_Atomic uint32_t ran;
	uint32_t wrong;
	struct thmq_core *core;
	struct thmq_mailbox *back;
};

static void count(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct tally *t = mail->object;
	uint32_t n = atomic_load(&t->ran);

	if (core != t->core || mail->word[0] != n || mail->word[4] != ~(uint64_t)n)
		t->wrong++;
	atomic_store(&t->ran, n + 1);
}

static int send_number(struct thmq_mailbox *box, struct tally *t, uint32_t n)
{
	struct thmq_mail mail = {.run = count, .object = t, .word = {n, 0, 0, 0, ~(uint64_t)n}};

	return thmq_mailbox_send(box, &mail);
}

struct driver {
	pthread_t thread;
	struct thmq_env *env;
	_Atomic bool stop;
};

static void *drive_core_1(void *arg)
{
	struct driver *d = arg;

	if (thmq_core_attach(d->env, 1) != 0)
		return d;
	while (!atomic_load(&d->stop))
		thmq_poll(d->env, SECOND / 100);
	thmq_core_detach(d->env);
	return NULL;
}

static void drive(struct driver *d, struct thmq_env *env)
{
	d->env = env;
	atomic_store(&d->stop, false);
	cr_assert_eq(pthread_create(&d->thread, NULL, drive_core_1, d), 0);
}

static void stop(struct driver *d)
{
	void *bad;

	atomic_store(&d->stop, true);
	pthread_join(d->thread, &bad);
	cr_assert_null(bad);
}

static bool soon(_Atomic uint32_t *what, uint32_t value)
{
	for (int i = 0; i < 5000 && atomic_load(what) != value; i++)
		usleep(1000);
	return atomic_load(what) == value;
}

/* -------------------------------------------------------------------- order */

Test(reactor_mailbox, messages_run_on_the_other_core_whole_and_in_their_order)
{
	struct thmq_env *env = open_env(0, 2);
	struct tally t = {.core = thmq_env_core(env, 1)};
	struct thmq_mailbox *box;
	struct driver d;
	uint32_t n;

	cr_assert_eq(thmq_mailbox_open(thmq_env_core(env, 0), t.core, NULL, &box), 0);
	/* its core has no owner yet */
	for (n = 0; n < 256; n++)
		cr_assert_eq(send_number(box, &t, n), 0);
	drive(&d, env);
	while (n < 100000)
		n += send_number(box, &t, n) == 0;
	cr_assert(soon(&t.ran, n));
	cr_assert_eq(t.wrong, 0);
	stop(&d);
	cr_assert_eq(thmq_mailbox_close(box), 0);
	thmq_env_close(env, 0);
}

Test(reactor_mailbox, a_mailbox_may_lead_to_its_own_core)
{
	struct thmq_env *env = open_env(0, 1);
	struct tally t = {.core = thmq_env_core(env, 0)};
	struct thmq_mailbox *box;

	cr_assert_eq(thmq_mailbox_open(t.core, t.core, NULL, &box), 0);
	cr_assert_eq(send_number(box, &t, 0), 0);
	cr_assert_eq(t.ran, 0, "not within the call that sends");
	/* once it is there it is no reason to sleep */
	cr_assert_gt(thmq_poll(env, 10 * SECOND), 0);
	cr_assert(soon(&t.ran, 1));
	cr_assert_eq(send_number(box, &t, 1), 0);
	cr_assert_eq(thmq_poll(env, 0), 1);
	cr_assert_eq(t.ran, 2);
	cr_assert_eq(t.wrong, 0);
	cr_assert_eq(thmq_mailbox_close(box), 0);
	thmq_env_close(env, 0);
}

/* --------------------------------------------------------------------- full */

static void count_call(void *ctx)
{
	++*(uint32_t *)ctx;
}

Test(reactor_mailbox, a_full_one_says_so_and_loses_nothing)
{
	static const uint32_t depths[][2] = {{2, 2}, {3, 4}, {4, 4}, {5, 8}, {0, 256}};
	struct thmq_env *env = open_env(0, 2);
	struct driver d;

	for (size_t i = 0; i < 5; i++) {
		struct tally t = {.core = thmq_env_core(env, 1)};
		struct thmq_mailbox *box;
		uint32_t n = 0;

		cr_assert_eq(thmq_mailbox_open(thmq_env_core(env, 0), t.core,
					       THMQ_MAILBOX_OPTS(.depth = depths[i][0]), &box),
			     0);
		while (send_number(box, &t, n) == 0)
			n++;
		cr_assert_eq(n, depths[i][1], "%u held %u", depths[i][0], n);
		cr_assert_eq(send_number(box, &t, n), -EAGAIN);
		drive(&d, env);
		cr_assert(soon(&t.ran, n));
		while (n < 3 * depths[i][1])
			n += send_number(box, &t, n) == 0;
		cr_assert(soon(&t.ran, n));
		stop(&d);
		cr_assert_eq(t.wrong, 0);
		cr_assert_eq(thmq_mailbox_close(box), 0);
	}
	thmq_env_close(env, 0);
}

Test(reactor_mailbox, who_found_it_full_is_told_of_room_once)
{
	struct thmq_env *env = open_env(0, 1);
	struct tally t = {.core = thmq_env_core(env, 0)};
	struct thmq_mailbox *box;
	uint32_t told = 0, n, round;

	cr_assert_eq(thmq_mailbox_open(
			     t.core, t.core,
			     THMQ_MAILBOX_OPTS(.depth = 8, .room = count_call, .ctx = &told), &box),
		     0);
	for (n = 0, round = 1; round <= 10; round++) {
		while (send_number(box, &t, n) == 0)
			n++;
		cr_assert_eq(send_number(box, &t, n), -EAGAIN);
		cr_assert_eq(told, round - 1);
		while (thmq_poll(env, 0))
			;
		cr_assert_eq(t.ran, n);
		cr_assert_eq(told, round);
		cr_assert_eq(send_number(box, &t, n++), 0);
		while (thmq_poll(env, 0))
			;
		cr_assert_eq(told, round, "nobody was refused since");
	}
	cr_assert_eq(t.wrong, 0);
	/* asked for, and closed before it is told */
	while (send_number(box, &t, n) == 0)
		n++;
	cr_assert_eq(thmq_mailbox_close(box), 0);
	while (thmq_poll(env, 0))
		;
	cr_assert_eq(t.ran, n);
	cr_assert_eq(told, 10);
	thmq_env_close(env, 0);
}

/* ------------------------------------------------------------------- waking */

struct burst {
	struct thmq_mailbox *box;
	struct tally *tally;
	uint32_t first, count;
};

static int send_burst(struct thmq_core *core, void *arg)
{
	struct burst *b = arg;
	uint32_t i;

	(void)core;
	for (i = 0; i < b->count; i++)
		if (send_number(b->box, b->tally, b->first + i) != 0)
			return -1;
	return 0;
}

static int open_box(struct thmq_core *core, void *arg)
{
	struct burst *b = arg;

	return thmq_mailbox_open(core, b->tally->core, NULL, &b->box);
}

static uint64_t wakeups(struct thmq_env *env)
{
	struct thmq_env_stats stats = {.size = sizeof(stats)};

	thmq_env_stats(env, &stats);
	return stats.wakeups;
}

Test(reactor_mailbox, a_sleeping_core_is_woken_once_for_all_of_an_iteration)
{
	struct thmq_env *env = open_env(2, 0);
	struct tally t = {.core = thmq_env_core(env, 1)};
	struct burst b = {.tally = &t, .count = 100};
	uint64_t before;

	cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), open_box, &b, SECOND), 0);
	for (int i = 0; i < 10; i++, b.first += b.count) {
		usleep(20000); /* both are asleep */
		before = wakeups(env);
		cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), send_burst, &b, SECOND), 0);
		cr_assert(soon(&t.ran, b.first + b.count));
		cr_assert_leq(wakeups(env) - before, 2, "one for the call, one for the messages");
	}
	cr_assert_eq(t.wrong, 0);
	thmq_env_close(env, 0);
}

Test(reactor_mailbox, what_is_sent_between_two_polls_wakes_at_once)
{
	struct thmq_env *env = open_env(0, 2);
	struct tally t = {.core = thmq_env_core(env, 1)};
	struct thmq_mailbox *box;
	struct driver d;
	uint32_t n;

	cr_assert_eq(thmq_mailbox_open(thmq_env_core(env, 0), t.core, NULL, &box), 0);
	drive(&d, env);
	for (n = 0; n < 20; n++) {
		usleep(1000);
		cr_assert_eq(send_number(box, &t, n), 0);
		cr_assert(soon(&t.ran, n + 1), "and this thread does not poll");
	}
	stop(&d);
	cr_assert_eq(t.wrong, 0);
	thmq_env_close(env, 0);
}

/* A poller that sends and says that it did nothing. */
struct shy {
	struct thmq_mailbox *box;
	struct tally *tally;
	_Atomic uint32_t asked;
	uint32_t sent;
};

static int shy_poll(void *ctx, uint32_t budget)
{
	struct shy *s = ctx;

	(void)budget;
	if (atomic_load(&s->asked) > s->sent && send_number(s->box, s->tally, s->sent) == 0)
		s->sent++;
	return 0;
}

static int shy_open(struct thmq_core *core, void *arg)
{
	struct shy *s = arg;
	struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = shy_poll};
	struct thmq_poller *poller;

	if (thmq_mailbox_open(core, s->tally->core, NULL, &s->box) != 0)
		return -1;
	return thmq_poller_open(core, &ops, s, &poller);
}

Test(reactor_mailbox, also_what_a_poller_sent_that_claims_to_be_idle)
{
	struct thmq_env *env = open_env(2, 0);
	struct tally t = {.core = thmq_env_core(env, 1)};
	struct shy s = {.tally = &t};
	uint32_t n;

	cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), shy_open, &s, SECOND), 0);
	for (n = 1; n <= 50; n++) {
		usleep(500);
		atomic_store(&s.asked, n);
		thmq_core_kick(thmq_env_core(env, 0));
		cr_assert(soon(&t.ran, n), "message %u", n);
	}
	thmq_env_close(env, 0);
}

/* --------------------------------------------------------- request and reply */

#define WINDOW 6u /* three quarters */
#define WINDOW_DEPTH 8u
#define REQUESTS 5000u

struct asker {
	struct thmq_mailbox *there, *back;
	struct thmq_core *core, *other;
	uint32_t sent, answered, wrong;
	uint64_t sum;
	_Atomic uint32_t done;
};

static void ask(struct asker *a);

static void on_answer(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct asker *a = mail->object;

	a->wrong += core != a->core || mail->word[1] != mail->word[0] * mail->word[0];
	a->answered++;
	ask(a);
	if (a->answered == REQUESTS)
		atomic_store(&a->done, 1);
}

static void on_request(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct asker *a = mail->object;
	struct thmq_mail answer = {.run = on_answer, .object = a, .word = {mail->word[0]}};

	answer.word[1] = mail->word[0] * mail->word[0];
	a->wrong += core != a->other || thmq_mailbox_send(a->back, &answer) != 0;
}

static void ask(struct asker *a)
{
	struct thmq_mail mail = {.run = on_request, .object = a};

	while (a->sent < REQUESTS && a->sent - a->answered < WINDOW) {
		mail.word[0] = a->sent++;
		a->wrong += thmq_mailbox_send(a->there, &mail) != 0;
	}
}

static int open_back(struct thmq_core *core, void *arg)
{
	struct asker *a = arg;

	return thmq_mailbox_open(core, a->core, THMQ_MAILBOX_OPTS(.depth = WINDOW_DEPTH), &a->back);
}

static int begin_asking(struct thmq_core *core, void *arg)
{
	struct asker *a = arg;

	if (thmq_mailbox_open(core, a->other, THMQ_MAILBOX_OPTS(.depth = WINDOW_DEPTH), &a->there) != 0)
		return -1;
	ask(a);
	return 0;
}

Test(reactor_mailbox, answers_cannot_fail_where_their_mailbox_holds_all_requests)
{
	struct thmq_env *env = open_env(2, 0);
	struct asker a = {.core = thmq_env_core(env, 0), .other = thmq_env_core(env, 1)};

	cr_assert_eq(thmq_core_call(a.other, open_back, &a, SECOND), 0);
	cr_assert_eq(thmq_core_call(a.core, begin_asking, &a, SECOND), 0);
	cr_assert(soon(&a.done, 1));
	thmq_env_close(env, 0);
	cr_assert_eq(a.answered, REQUESTS);
	cr_assert_eq(a.wrong, 0);
}

/* ------------------------------------------------------------------ the end */

Test(reactor_mailbox, a_closed_one_runs_what_was_sent_before_what_is_posted_behind)
{
	struct thmq_env *env = open_env(0, 2);
	struct tally t = {.core = thmq_env_core(env, 1)};
	struct thmq_mailbox *box;
	struct driver d;
	uint32_t n;

	cr_assert_eq(thmq_mailbox_open(thmq_env_core(env, 0), t.core, NULL, &box), 0);
	for (n = 0; n < 200; n++)
		cr_assert_eq(send_number(box, &t, n), 0);
	cr_assert_eq(thmq_mailbox_close(box), 0);
	drive(&d, env);
	cr_assert(soon(&t.ran, 200));
	stop(&d);
	while (thmq_poll(env, 0)) /* it is freed here */
		;
	cr_assert_eq(t.wrong, 0);
	thmq_env_close(env, 0);
	cr_assert_eq(t.ran, 200);
}

Test(reactor_mailbox, what_is_under_way_when_the_environment_closes_runs)
{
	struct thmq_env *env = open_env(0, 2);
	struct tally t = {.core = thmq_env_core(env, 1)}, u = t,
		     v = {.core = thmq_env_core(env, 0)};
	struct thmq_mailbox *box;
	uint32_t n;

	/* to a core that never had an owner: one mailbox left open, one closed; and to itself */
	cr_assert_eq(thmq_mailbox_open(v.core, t.core, NULL, &box), 0);
	for (n = 0; n < 100; n++)
		cr_assert_eq(send_number(box, &t, n), 0);
	cr_assert_eq(thmq_mailbox_open(v.core, u.core, NULL, &box), 0);
	for (n = 0; n < 100; n++)
		cr_assert_eq(send_number(box, &u, n), 0);
	cr_assert_eq(thmq_mailbox_close(box), 0);
	cr_assert_eq(thmq_mailbox_open(v.core, v.core, NULL, &box), 0);
	for (n = 0; n < 100; n++)
		cr_assert_eq(send_number(box, &v, n), 0);
	thmq_env_close(env, 0);
	cr_assert_eq(t.ran, 100);
	cr_assert_eq(u.ran, 100);
	cr_assert_eq(v.ran, 100);
	cr_assert_eq(t.wrong + u.wrong + v.wrong, 0);
}

/* Two cores that answer each other for ever. */
struct rally {
	struct thmq_mailbox *box[2];
	uint32_t sent[2], ran[2], refused[2]; /* by core */
};

static void hit(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct rally *r = mail->object;
	uint32_t i = (uint32_t)mail->word[0];
	struct thmq_mail back = {.run = hit, .object = r, .word = {1 - i}};

	r->ran[i]++;
	if (!thmq_core_is_mine(core))
		r->refused[i] += 1000; /* it is, until all is over */
	if (thmq_mailbox_send(r->box[i], &back) == 0)
		r->sent[i]++;
	else
		r->refused[i]++;
}

static int open_rally(struct thmq_core *core, void *arg)
{
	struct rally *r = arg;
	struct thmq_env *env = *(struct thmq_env **)(r + 1);
	uint32_t mine = core == thmq_env_core(env, 1);

	return thmq_mailbox_open(core, thmq_env_core(env, 1 - mine), NULL, &r->box[mine]);
}

static int serve(struct thmq_core *core, void *arg)
{
	struct rally *r = arg;
	struct thmq_mail mail = {.run = hit, .object = r, .word = {1}};

	(void)core;
	for (; r->sent[0] < 10; r->sent[0]++)
		if (thmq_mailbox_send(r->box[0], &mail) != 0)
			return -1;
	return 0;
}

Test(reactor_mailbox, an_end_in_the_midst_of_talk_refuses_and_runs_but_never_drops)
{
	for (int i = 0; i < 20; i++) {
		struct {
			struct rally r;
			struct thmq_env *env;
		} s = {.env = open_env(2, 0)};

		cr_assert_eq(thmq_core_call(thmq_env_core(s.env, 0), open_rally, &s, SECOND), 0);
		cr_assert_eq(thmq_core_call(thmq_env_core(s.env, 1), open_rally, &s, SECOND), 0);
		cr_assert_eq(thmq_core_call(thmq_env_core(s.env, 0), serve, &s, SECOND), 0);
		usleep(300u * (unsigned)i);
		thmq_env_close(s.env, 0);
		cr_assert_eq(s.r.ran[1], s.r.sent[0]);
		cr_assert_eq(s.r.ran[0], s.r.sent[1]);
		cr_assert_eq(s.r.refused[0] + s.r.refused[1], 10,
			     "each of the ten ends with one refusal");
	}
}

/* -------------------------------------------------------------- wrong calls */

static void *send_elsewhere(void *arg)
{
	struct thmq_mail mail = {.run = count};
	intptr_t wrong = thmq_mailbox_send(arg, &mail) != -EPERM;

	return (void *)(wrong + (thmq_mailbox_close(arg) != -EPERM));
}

Test(reactor_mailbox, wrong_calls_are_told)
{
	struct thmq_env *env = open_env(0, 2), *other = open_env(0, 1);
	struct thmq_core *mine = thmq_env_core(env, 0), *theirs = thmq_env_core(env, 1);
	struct {
		struct thmq_mailbox_opts opts;
		uint64_t more;
	} large = {.opts.size = sizeof(large), .more = 1};
	struct thmq_mailbox *box = NULL;
	struct thmq_mailbox_opts o;
	struct thmq_mail mail = {0};
	pthread_t thread;
	void *wrong;

	cr_assert_eq(thmq_mailbox_open(NULL, mine, NULL, &box), -EINVAL);
	cr_assert_eq(thmq_mailbox_open(mine, NULL, NULL, &box), -EINVAL);
	cr_assert_eq(thmq_mailbox_open(mine, theirs, NULL, NULL), -EINVAL);
	cr_assert_eq(thmq_mailbox_open(mine, thmq_env_core(other, 0), NULL, &box), -EINVAL);
	cr_assert_eq(thmq_mailbox_open(theirs, mine, NULL, &box), -EPERM);
	cr_assert_eq(thmq_mailbox_open(mine, theirs, &large.opts, &box), -E2BIG);
	cr_assert_eq(thmq_mailbox_open(mine, theirs, THMQ_MAILBOX_OPTS(.flags = 1), &box), -EINVAL);
	cr_assert_eq(thmq_mailbox_open(mine, theirs, THMQ_MAILBOX_OPTS(.depth = 1), &box), -EINVAL);
	cr_assert_eq(thmq_mailbox_open(mine, theirs,
				       THMQ_MAILBOX_OPTS(.depth = THMQ_MAILBOX_DEPTH_MAX + 1),
				       &box),
		     -EINVAL);
	cr_assert(strstr(thmq_errmsg(), "65536"));
	cr_assert_null(box);
	thmq_mailbox_opts_init(NULL);
	thmq_mailbox_opts_init(&o);
	cr_assert_eq(o.size, sizeof(o));
	o.depth = THMQ_MAILBOX_DEPTH_MAX;
	cr_assert_eq(thmq_mailbox_open(mine, theirs, &o, &box), 0);
	cr_assert_eq(thmq_mailbox_send(box, &mail), -EINVAL, "none to run");
	cr_assert_eq(thmq_mailbox_send(box, NULL), -EINVAL);
	cr_assert_eq(thmq_mailbox_send(NULL, &mail), -EINVAL);
	cr_assert_eq(pthread_create(&thread, NULL, send_elsewhere, box), 0);
	pthread_join(thread, &wrong);
	cr_assert_null(wrong);
	cr_assert_eq(thmq_mailbox_close(box), 0);
	cr_assert_eq(thmq_mailbox_close(NULL), 0);
	thmq_env_close(other, 0);
	thmq_env_close(env, 0);
}
