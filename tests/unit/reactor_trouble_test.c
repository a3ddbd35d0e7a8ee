/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_trouble_test.c - cores in bad hands and in bad times, by their public face: things that never end when the environment does,
 * closings within closings, far deadlines, full mailboxes both ways, descriptors that are others' now, signals, a child process, and
 * several environments on one machine.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <thundermq/reactor.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull
#define SECOND 1000000000ull

TestSuite(reactor_trouble, .timeout = 60);

static struct thmq_env *open_env(uint32_t core_count, uint32_t caller_cores, uint32_t flags)
{
	struct thmq_env *env;

	cr_assert_eq(
		thmq_env_open(&env,
			      THMQ_ENV_OPTS(.core_count = core_count, .caller_cores = caller_cores,
					    .policy = THMQ_POLICY_EVENT, .flags = flags)),
		0, "%s", thmq_errmsg());
	return env;
}

static uint64_t cpu_ns(clockid_t of)
{
	struct timespec t;

	clock_gettime(of, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------------- without end */

struct endless {
	struct thmq_task task; /* first */
	_Atomic uint32_t runs;
};

static void run_again(struct thmq_core *core, struct thmq_task *task)
{
	atomic_fetch_add(&((struct endless *)task)->runs, 1);
	thmq_core_post(core, task);
}

Test(reactor_trouble, a_task_that_posts_itself_for_ever_does_not_hold_up_the_close)
{
	for (uint32_t cores = 0; cores < 3; cores++) {
		struct thmq_env *env = open_env(cores, cores ? 0 : 2, cores ? THMQ_ENV_NO_PIN : 0);
		struct endless e = {.task.run = run_again};

		cr_assert_eq(thmq_core_post(thmq_env_core(env, 0), &e.task), 0);
		cr_assert_eq(thmq_env_close(env, SECOND), 0);
		cr_assert_gt(e.runs, 0);
	}
}

static void fire_again(struct thmq_core *core, struct thmq_timer *timer)
{
	thmq_timer_start(core, timer, 0);
}

Test(reactor_trouble, a_timer_that_is_always_due_does_not_either)
{
	for (uint32_t cores = 0; cores < 2; cores++) {
		struct thmq_env *env = open_env(0, 2, 0);
		struct thmq_timer t = {.fire = fire_again};

		cr_assert_eq(thmq_timer_start(thmq_env_core(env, 0), &t, 0), 0);
		cr_assert_gt(thmq_poll(env, 0), 0);
		cr_assert_eq(thmq_env_close(env, SECOND), 0);
		cr_assert_eq(thmq_timer_stop(&t), 0);
	}
}

/* ------------------------------------------------------------- within a closing */

struct ending {
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmq_poller *poller;
	struct thmq_mailbox *box;
	struct thmq_mail mail;
	int ends, disarms, close_rc, poll_rc, env_rc, call_rc, send_rc, disarm_poll_rc;
};

static int idle(void *ctx, uint32_t budget)
{
	(void)ctx;
	(void)budget;
	return 0;
}

static int nothing(struct thmq_core *core, void *arg)
{
	(void)core;
	(void)arg;
	return 77;
}

static void ignore(struct thmq_core *core, const struct thmq_mail *mail)
{
	(void)core;
	(void)mail;
}

static void at_end(void *ctx)
{
	struct ending *e = ctx;

	e->ends++;
	e->close_rc = thmq_poller_close(e->poller);
	e->poll_rc = thmq_poll(e->env, 0);
	e->env_rc = thmq_env_close(e->env, 0);
	e->call_rc = thmq_core_call(thmq_env_core(e->env, 1), nothing, NULL, SECOND);
	e->send_rc = thmq_mailbox_send(e->box, &e->mail);
}

static void at_disarm(void *ctx)
{
	struct ending *e = ctx;

	e->disarms++;
	e->disarm_poll_rc = thmq_poll(e->env, 0);
}

static const struct thmq_poller_ops ending_ops = {
	.size = sizeof(ending_ops), .poll = idle, .disarm = at_disarm, .end = at_end};

static int open_ending(struct thmq_core *core, void *arg)
{
	struct ending *e = arg;
	int rc;

	e->core = core;
	e->mail.run = ignore;
	rc = thmq_mailbox_open(core, thmq_env_core(e->env, 1), NULL, &e->box);
	return rc ? rc : thmq_poller_open(core, &ending_ops, e, &e->poller);
}

Test(reactor_trouble, what_a_poller_does_at_its_end_cannot_wait_and_closing_it_is_harmless)
{
	for (uint32_t cores = 0; cores < 2; cores++) {
		struct thmq_env *env = cores ? open_env(2, 0, THMQ_ENV_NO_PIN) : open_env(0, 2, 0);
		struct ending e = {.env = env};

		cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), open_ending, &e, SECOND), 0);
		if (!cores)
			thmq_poll(env, 2 * MS); /* sleeps, and is disarmed */
		cr_assert_eq(thmq_env_close(env, SECOND), 0);
		cr_assert_eq(e.ends, 1);
		cr_assert_eq(e.close_rc, 0);
		cr_assert_eq(e.poll_rc, -EDEADLK);
		cr_assert_eq(e.env_rc, -EDEADLK);
		cr_assert_eq(e.call_rc, -EDEADLK);
		cr_assert_eq(e.send_rc, -ESHUTDOWN);
		if (!cores)
			cr_assert_gt(e.disarms, 0);
		if (e.disarms)
			cr_assert_eq(e.disarm_poll_rc, -EDEADLK);
	}
}

Test(reactor_trouble, a_mailbox_closed_twice_is_closed)
{
	struct thmq_env *env = open_env(0, 2, 0);
	struct thmq_mailbox *box;

	cr_assert_eq(thmq_mailbox_open(thmq_env_core(env, 0), thmq_env_core(env, 1), NULL, &box),
		     0);
	cr_assert_eq(thmq_mailbox_close(box), 0);
	cr_assert_eq(thmq_mailbox_close(box), 0); /* core 1 has no owner: it is there still */
	for (int i = 0; i < 10; i++)
		thmq_poll(env, 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

/* ------------------------------------------------------------------- far deadlines */

static void never(struct thmq_core *core, struct thmq_timer *timer)
{
	(void)core;
	(void)timer;
	abort();
}

static int start_far(struct thmq_core *core, void *arg)
{
	return thmq_timer_start(core, arg, ((struct thmq_timer *)arg)->deadline_ns);
}

static const uint64_t far_ns[] = {1ull << 62, (1ull << 63) - 1, 1ull << 63,
				  UINT64_MAX, UINT64_MAX - 1,   UINT64_MAX - 1000000};

/* A core that sleeps for a time that the kernel's clock cannot express must not come back at once, again and again. */
Test(reactor_trouble, a_core_sleeps_however_far_its_next_timer_is)
{
	for (size_t i = 0; i < sizeof(far_ns) / sizeof(far_ns[0]); i++)
		for (uint32_t flags = 0; flags <= THMQ_ENV_NO_URING; flags += THMQ_ENV_NO_URING) {
			struct thmq_env *env = open_env(1, 0, flags | THMQ_ENV_NO_PIN);
			struct thmq_core_stats st = {.size = sizeof(st)};
			struct thmq_timer t = {.fire = never, .deadline_ns = far_ns[i]};

			cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), start_far, &t, SECOND),
				     0);
			usleep(30000);
			cr_assert_eq(thmq_core_stats(thmq_env_core(env, 0), &st), 0);
			cr_assert_lt(st.iterations, 1000, "deadline %llx: %llu iterations in 30 ms",
				     (unsigned long long)far_ns[i],
				     (unsigned long long)st.iterations);
			cr_assert_eq(thmq_env_close(env, SECOND), 0);
		}
}

Test(reactor_trouble, so_does_a_host_and_a_thread_with_several_cores)
{
	for (size_t i = 0; i < sizeof(far_ns) / sizeof(far_ns[0]); i++) {
		struct thmq_env *env = open_env(0, 3, 0);
		struct thmq_timer t = {.fire = never};
		struct pollfd p = {.events = POLLIN};
		uint64_t cpu;
		int rc;

		cr_assert_eq(thmq_timer_start(thmq_env_core(env, 0), &t, far_ns[i]), 0);
		p.fd = thmq_env_fd(env);
		while (thmq_poll(env, 0) > 0)
			;
		while ((rc = thmq_env_arm(env)) > 0)
			thmq_poll(env, 0);
		cr_assert_eq(rc, 0);
		cr_assert_eq(poll(&p, 1, 10), 0, "deadline %llx is now",
			     (unsigned long long)far_ns[i]);
		cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
		cr_assert_eq(thmq_poll(env, 20 * MS), 0);
		cr_assert_eq(thmq_core_attach(env, 1), 0);
		cr_assert_eq(thmq_core_attach(env, 2), 0);
		cr_assert_eq(thmq_poll(env, 20 * MS), 0);
		cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
		cr_assert_lt(cpu, 20 * MS, "it spun for %llu us", (unsigned long long)cpu / 1000);
		cr_assert_eq(thmq_env_close(env, SECOND), 0);
	}
}

/* --------------------------------------------------------------- full mailboxes */

#define BALLS 4000u
#define DEPTH 4u

/* Each core answers each ball with one of its own: with so small mailboxes both are full most of the time. */
struct side {
	struct thmq_core *core;
	struct side *other;
	struct thmq_mailbox *to_other;
	struct thmq_poller *poller;
	uint32_t to_send, owed, sent, got;
	_Atomic bool over;
};

static void on_ball(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct side *s = mail->object;

	(void)core;
	s->got++;
	if (mail->word[0])
		s->owed++; /* an answer, when there is room */
}

static int serve(void *ctx, uint32_t budget)
{
	struct side *s = ctx;
	struct thmq_mail mail = {.run = on_ball, .object = s->other};
	uint32_t done = 0;

	for (; done < budget && (s->owed || s->to_send); done++) {
		mail.word[0] = !s->owed;
		if (thmq_mailbox_send(s->to_other, &mail) != 0)
			break;
		s->owed -= s->owed > 0;
		s->to_send -= mail.word[0] && s->to_send;
		s->sent++;
	}
	if (!s->to_send && s->sent == 2 * BALLS && s->got == 2 * BALLS)
		atomic_store(&s->over, true);
	return (int)(done + (s->owed || s->to_send));
}

static int open_side(struct thmq_core *core, void *arg)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = serve};
	struct side *s = arg;
	int rc;

	rc = thmq_mailbox_open(core, s->other->core, THMQ_MAILBOX_OPTS(.depth = DEPTH),
			       &s->to_other);
	return rc ? rc : thmq_poller_open(core, &ops, s, &s->poller);
}

Test(reactor_trouble, mailboxes_that_are_full_both_ways_do_not_deadlock_and_are_counted)
{
	struct thmq_env *env = open_env(2, 0, THMQ_ENV_NO_PIN);
	struct thmq_core_stats st[2] = {{.size = sizeof(st[0])}, {.size = sizeof(st[0])}};
	struct side s[2] = {{.to_send = BALLS, .other = &s[1]}, {.to_send = BALLS, .other = &s[0]}};

	for (uint32_t i = 0; i < 2; i++)
		s[i].core = thmq_env_core(env, i);
	for (uint32_t i = 0; i < 2; i++)
		cr_assert_eq(thmq_core_call(s[i].core, open_side, &s[i], SECOND), 0);
	while (!atomic_load(&s[0].over) || !atomic_load(&s[1].over))
		usleep(1000);
	for (uint32_t i = 0; i < 2; i++) {
		cr_assert_eq(thmq_core_stats(s[i].core, &st[i]), 0);
		cr_assert_eq(st[i].mail_sent, 2 * BALLS);
		cr_assert_eq(st[i].mail_run, 2 * BALLS);
		cr_assert_geq(st[i].posts_run, 2, "the call, and the other one's mailbox");
	}
	cr_assert_eq(thmq_core_stats_reset(s[0].core, SECOND), 0);
	cr_assert_eq(thmq_core_stats(s[0].core, &st[0]), 0);
	cr_assert_eq(st[0].mail_sent + st[0].mail_run + st[0].mail_refused, 0);
	cr_assert_leq(st[0].posts_run, 1);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

Test(reactor_trouble, a_refused_message_is_counted)
{
	struct thmq_env *env = open_env(0, 2, 0);
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_mail mail = {.run = ignore};
	struct thmq_mailbox *box;

	cr_assert_eq(thmq_mailbox_open(thmq_env_core(env, 0), thmq_env_core(env, 1),
				       THMQ_MAILBOX_OPTS(.depth = 2), &box),
		     0);
	for (int i = 0; i < 5; i++)
		cr_assert_eq(thmq_mailbox_send(box, &mail), i < 2 ? 0 : -EAGAIN);
	cr_assert_eq(thmq_core_stats(thmq_env_core(env, 0), &st), 0);
	cr_assert_eq(st.mail_sent, 2);
	cr_assert_eq(st.mail_refused, 3);
	cr_assert_eq(thmq_core_attach(env, 1), 0);
	thmq_poll(env, 0);
	cr_assert_eq(thmq_core_stats(thmq_env_core(env, 1), &st), 0);
	cr_assert_eq(st.mail_run, 2);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

/* --------------------------------------------------- descriptors that are others' now */

struct watcher {
	struct thmq_watch *watch;
	int fd, told;
};

static void on_ready(void *ctx, uint32_t events)
{
	struct watcher *w = ctx;
	eventfd_t value;

	(void)events;
	w->told++;
	while (eventfd_read(w->fd, &value) == 0)
		;
}

/* Against the rules: closed before its watch, and its number is another one's. */
Test(reactor_trouble, a_descriptor_closed_before_its_watch_harms_no_other_core)
{
	for (uint32_t flags = 0; flags <= THMQ_ENV_NO_URING; flags += THMQ_ENV_NO_URING) {
		struct thmq_env *env = open_env(0, 1, flags);
		struct thmq_core *core = thmq_env_core(env, 0);
		struct watcher old = {.fd = eventfd(0, EFD_NONBLOCK)}, now = {0};

		cr_assert_eq(thmq_watch_open(core, old.fd, POLLIN, on_ready, &old, &old.watch), 0);
		thmq_poll(env, 0);
		close(old.fd);
		now.fd = eventfd(0, EFD_NONBLOCK);
		cr_assert_eq(now.fd, old.fd);
		cr_assert_eq(thmq_watch_close(old.watch), 0);
		cr_assert_eq(thmq_watch_open(core, now.fd, POLLIN, on_ready, &now, &now.watch), 0);
		cr_assert_eq(eventfd_write(now.fd, 1), 0);
		while (!now.told) /* the end of the old one may be work too */
			cr_assert_gt(thmq_poll(env, 5 * SECOND), 0);
		cr_assert_eq(now.told, 1);
		cr_assert_eq(old.told, 0);
		cr_assert_eq(thmq_env_close(env, SECOND), 0); /* with the watch open */
		close(now.fd);
	}
}

/* ------------------------------------------------------------------------ signals */

struct signalled {
	struct thmq_task task; /* first */
	_Atomic int runs;
};

static struct signalled signalled;
static struct thmq_core *signalled_core;

static void run_signalled(struct thmq_core *core, struct thmq_task *task)
{
	(void)core;
	atomic_fetch_add(&((struct signalled *)task)->runs, 1);
}

static void post_from_handler(int number)
{
	(void)number;
	thmq_core_post(signalled_core, &signalled.task);
}

static void only_return(int number)
{
	(void)number;
}

static void signal_in(uint32_t us, int number)
{
	struct itimerspec in = {.it_value = {.tv_nsec = us * 1000}};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = number};
	timer_t timer;

	cr_assert_eq(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	cr_assert_eq(timer_settime(timer, 0, &in, NULL), 0);
}

Test(reactor_trouble, a_signal_ends_no_poll_and_its_handler_may_post)
{
	for (uint32_t flags = 0; flags <= THMQ_ENV_NO_URING; flags += THMQ_ENV_NO_URING) {
		struct sigaction quiet = {.sa_handler = only_return},
				 post = {.sa_handler = post_from_handler};
		struct thmq_env *env = open_env(0, 1, flags);
		int64_t begin;

		signalled = (struct signalled){.task.run = run_signalled};
		signalled_core = thmq_env_core(env, 0);
		sigaction(SIGUSR1, &quiet, NULL);
		sigaction(SIGUSR2, &post, NULL);
		begin = thmq_core_now_ns(signalled_core);
		signal_in(5000, SIGUSR1);
		cr_assert_eq(thmq_poll(env, 30 * MS), 0);
		cr_assert_geq(thmq_core_now_ns(signalled_core) - begin, (int64_t)(30 * MS));
		signal_in(5000, SIGUSR2);
		cr_assert_gt(thmq_poll(env, 20 * SECOND), 0);
		cr_assert_eq(signalled.runs, 1);
		cr_assert_eq(thmq_env_close(env, SECOND), 0);
	}
}

/* --------------------------------------------------------- a thread that just ends */

static void *attach_and_end(void *arg)
{
	cr_assert_eq(thmq_core_attach(arg, 1), 0);
	thmq_poll(arg, MS);
	return NULL; /* without a detach */
}

/* Its core is lost for others, and nothing more. */
Test(reactor_trouble, a_thread_that_ends_with_its_core_does_not_hold_up_the_close)
{
	struct thmq_env *env = open_env(0, 3, 0);
	struct signalled posted = {.task.run = run_signalled};
	struct thmq_mailbox *box;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, attach_and_end, env), 0);
	pthread_join(thread, NULL);
	cr_assert_eq(thmq_core_attach(env, 1), -EBUSY);
	cr_assert_eq(thmq_core_call(thmq_env_core(env, 1), nothing, NULL, 20 * MS), -ETIMEDOUT);
	cr_assert_eq(thmq_core_post(thmq_env_core(env, 1), &posted.task), 0);
	cr_assert_eq(thmq_mailbox_open(thmq_env_core(env, 0), thmq_env_core(env, 1), NULL, &box),
		     0);
	cr_assert_eq(thmq_core_attach(env, 2), 0);
	thmq_poll(env, MS);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(posted.runs, 1, "what was posted runs at the close");
}

/* ------------------------------------------------------------------------- a child */

Test(reactor_trouble, a_child_that_only_calls_exec_or_exit_disturbs_nothing)
{
	struct thmq_env *env = open_env(2, 0, THMQ_ENV_NO_PIN);
	struct thmq_env *mine = open_env(0, 1, 0);
	int status;
	pid_t pid;

	for (int i = 0; i < 20; i++) {
		cr_assert_eq(
			thmq_core_call(thmq_env_core(env, (uint32_t)i % 2), nothing, NULL, SECOND),
			77);
		pid = fork();
		if (pid == 0) {
			if (i % 2)
				_exit(0);
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		cr_assert_eq(
			thmq_core_call(thmq_env_core(env, (uint32_t)i % 2), nothing, NULL, SECOND),
			77);
		thmq_poll(mine, MS);
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0);
	}
	cr_assert_eq(thmq_env_close(mine, SECOND), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

/* ------------------------------------------------------------- several environments */

static int cpu_of(struct thmq_env *env, uint32_t core)
{
	struct thmq_place p = {.size = sizeof(p)};

	cr_assert_eq(thmq_env_place(env, core, &p), 0);
	return p.flags & THMQ_PLACE_PINNED ? p.cpu : -1;
}

Test(reactor_trouble, environments_of_one_process_take_different_processors_while_there_are_some)
{
	struct thmq_machine machine = {.size = sizeof(machine)};
	struct thmq_place first = {.size = sizeof(first)}, again = {.size = sizeof(again)};
	struct thmq_env *one, *two, *three;

	cr_assert_eq(thmq_env_plan(NULL, &first, 1, &machine), 0);
	if (machine.cpu_count != 2)
		return; /* made for two; the order on larger machines is topology_place_test's */
	one = open_env(1, 0, 0);
	two = open_env(1, 0, 0);
	cr_assert_eq(cpu_of(one, 0), first.cpu);
	cr_assert_neq(cpu_of(two, 0), cpu_of(one, 0));
	three = open_env(1, 0, 0);
	cr_assert_geq(cpu_of(three, 0), 0, "it shares one");
	cr_assert_eq(thmq_env_close(three, SECOND), 0);
	cr_assert_eq(thmq_env_close(one, SECOND), 0);
	one = open_env(1, 0, 0);
	cr_assert_eq(cpu_of(one, 0), first.cpu, "it is free again");
	cr_assert_eq(thmq_env_close(two, SECOND), 0);
	cr_assert_eq(thmq_env_close(one, SECOND), 0);
	cr_assert_eq(thmq_env_plan(NULL, &again, 1, NULL), 0);
	cr_assert_eq(again.cpu, first.cpu);
}
