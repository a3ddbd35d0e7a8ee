/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cores_mailbox_bench.c - one core of the library's to another, both under the poll policy, each pinned to a processor of its own.
 *
 * mailbox_roundtrip: a message there, its answer back, from handler to handler. Limit: a bare cache line that two threads on the
 *   same processors hand to each other. Bar: at most 1.5 x at the median.
 * post_roundtrip, call_roundtrip: the same by thmq_core_post(); thmq_core_call() of a core from a thread that drives none, which
 *   sleeps meanwhile. No bars: they are measured to be known.
 * mailbox_flow: messages a second, one by one, one way, as fast as the receiver takes them, beside bare lines one by one. No bar.
 * idle_iteration_*: what one turn of a core with nothing to do takes, with so many mailboxes that are empty. No bar.
 *
 * A virtual machine's processors move about: a line may take three times as long a moment later. The limit is taken before and
 * after each of our runs; a pair in which the two differ by more than a quarter is repeated.
 */
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <thundermq/reactor.h>

#include "rig_line.h"

#define SECOND 1000000000ull
#define SHIFT_MAX 1.25 /* between the limit before and after */
#define RETRIES 40u    /* pairs that are repeated */
#define MAILBOXES_MAX 64u

#define APART _Alignas(128) /* lines are fetched in pairs */

/* What is one core's. */
struct side {
	APART struct thmq_task task; /* that it gets; first */
	struct pair *pair;
	struct side *other;
	struct thmq_core *core;
	struct thmq_mailbox *box; /* to the other */
};

struct pair {
	struct thmq_env *env;
	struct side side[2];
	APART struct thmq_poller *poller;
	struct bench_samples *samples;
	uint64_t then;
	uint64_t left, sent;
	APART uint64_t got; /* the receiver's */
	sem_t over;
};

static void check(const char *what, int rc)
{
	if (rc < 0)
		bench_die(what, rc < -1000 ? EIO : rc);
}

/* ------------------------------------------------------------------- cores */

static int open_box(struct thmq_core *core, void *arg)
{
	struct side *s = arg;

	return thmq_mailbox_open(core, s->other->core, NULL, &s->box);
}

static void open_pair(struct pair *p)
{
	struct thmq_env_opts o;

	*p = (struct pair){0};
	thmq_env_opts_init(&o);
	o.core_count = 2;
	o.policy = THMQ_POLICY_POLL;
	o.flags = THMQ_ENV_FIRST_CPU;
	check("open environment", thmq_env_open(&p->env, &o));
	sem_init(&p->over, 0, 0);
	for (uint32_t i = 0; i < 2; i++)
		p->side[i] = (struct side){
			.pair = p, .other = &p->side[1 - i], .core = thmq_env_core(p->env, i)};
	for (uint32_t i = 0; i < 2; i++)
		check("open mailbox",
		      thmq_core_call(p->side[i].core, open_box, &p->side[i], SECOND));
}

static void close_pair(struct pair *p)
{
	check("close environment", thmq_env_close(p->env, SECOND));
	sem_destroy(&p->over);
}

static void wait_over(struct pair *p)
{
	while (sem_wait(&p->over) != 0)
		;
}

/* Side 0 has the ball. True: another round. */
static bool one_more(struct pair *p)
{
	uint64_t now = bench_now();

	if (p->then)
		bench_samples_add(p->samples, now - p->then);
	p->then = now;
	if (p->left-- > 0)
		return true;
	sem_post(&p->over);
	return false;
}

/* ------------------------------------------------------------- round trips */

static void on_mail(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct side *s = mail->object;
	struct thmq_mail next = {.run = on_mail, .object = s->other, .word = {mail->word[0] + 1}};

	if (s != &s->pair->side[0] || one_more(s->pair))
		check("send", thmq_mailbox_send(s->box, &next));
}

static int begin_mail(struct thmq_core *core, void *arg)
{
	on_mail(core, &(struct thmq_mail){.object = arg});
	return 0;
}

static void by_mailbox(struct pair *p)
{
	check("begin", thmq_core_call(p->side[0].core, begin_mail, &p->side[0], SECOND));
	wait_over(p);
}

static void on_task(struct thmq_core *core, struct thmq_task *task)
{
	struct side *s = (struct side *)task;

	if (s != &s->pair->side[0] || one_more(s->pair))
		thmq_core_post(s->other->core, &s->other->task);
}

static void by_post(struct pair *p)
{
	p->side[0].task.run = p->side[1].task.run = on_task;
	thmq_core_post(p->side[0].core, &p->side[0].task);
	wait_over(p);
}

static int nothing(struct thmq_core *core, void *arg)
{
	return 0;
}

/* From this thread, which sleeps in each; two processors and three threads, of which two spin: it shares one of theirs. */
static void by_call(struct pair *p)
{
	while (one_more(p))
		check("call", thmq_core_call(p->side[1].core, nothing, NULL, SECOND));
	wait_over(p);
}

/* ------------------------------------------------------------- pairs of runs */

/* Where the two cores are pinned: the first two processors of those that we may use. */
static int second_cpu(int first)
{
	cpu_set_t set;
	int i = first + 1;

	sched_getaffinity(0, sizeof(set), &set);
	while (i < CPU_SETSIZE && !CPU_ISSET(i, &set))
		i++;
	return i < CPU_SETSIZE ? i : -1;
}

static double bare_trip(struct bench *b, int second, struct bench_samples *s)
{
	bench_samples_clear(s);
	rig_line_pingpong(b->cpu_core, second, b->smoke ? 200 : 20000, s);
	return bench_percentile(s, 0.5);
}

static double larger_by(double a, double b)
{
	return a > b ? a / b : b / a;
}

struct shape {
	const char *name;
	void (*run)(struct pair *p);
	unsigned count;
	double bar; /* 0: none */
};

static void round_trip(struct bench *b, int second, const struct shape *shape)
{
	unsigned count = b->smoke ? 200 : shape->count, retries = 0;
	char name[2][96];
	struct bench_line p50 = {
		.name = name[0], .unit = "ns", .rival = "cache line", .measure = BENCH_RATIO};
	struct bench_line p99 = p50;
	struct bench_line *lines[] = {&p50};
	struct bench_samples mine, bare;
	struct pair p;

	snprintf(name[0], sizeof(name[0]), "%s_p50", shape->name);
	snprintf(name[1], sizeof(name[1]), "%s_p99", shape->name);
	p99.name = name[1];
	if (shape->bar > 0) {
		p50.sense = BENCH_AT_MOST;
		p50.bar = shape->bar;
	}
	if (!bench_wants(b, shape->name))
		return;
	bench_samples_init(&mine, count);
	bench_samples_init(&bare, 20000);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double before = bare_trip(b, second, &bare), after;

		open_pair(&p);
		bench_samples_clear(&mine);
		p.samples = &mine;
		p.left = count / 10; /* what is touched or done for the first time is behind us */
		shape->run(&p);
		bench_samples_clear(&mine);
		p.then = 0;
		p.left = count;
		shape->run(&p);
		close_pair(&p);
		after = bare_trip(b, second, &bare);
		if (!b->smoke && larger_by(before, after) > SHIFT_MAX && retries++ < RETRIES) {
			round--; /* unsigned, and comes back by the loop's own step */
			continue;
		}
		bench_pairs_add(&p50.pairs, bench_percentile(&mine, 0.5), (before + after) / 2);
		bench_pairs_add(&p99.pairs, bench_percentile(&mine, 0.99),
				bench_percentile(&bare, 0.99));
	}
	bench_detail(&p50, "ours_us", &mine);
	bench_detail(&p50, "bare_us", &bare);
	bench_report(b, &p50);
	bench_report(b, &p99);
	bench_samples_fini(&mine);
	bench_samples_fini(&bare);
}

/* ------------------------------------------------------------------- one way */

static void on_flow(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct pair *p = mail->object;

	if (mail->word[0] != p->got)
		bench_die("order", EIO);
	if (++p->got == p->left)
		sem_post(&p->over);
}

static int send_flow(void *ctx, uint32_t budget)
{
	struct pair *p = ctx;
	struct thmq_mail mail = {.run = on_flow, .object = p};
	int done = 0;

	while ((uint32_t)done < budget && p->sent < p->left) {
		mail.word[0] = p->sent;
		if (thmq_mailbox_send(p->side[0].box, &mail) != 0)
			break;
		p->sent++;
		done++;
	}
	return done;
}

static int begin_flow(struct thmq_core *core, void *arg)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = send_flow};
	struct pair *p = arg;

	return thmq_poller_open(core, &ops, p, &p->poller);
}

static void flow(struct bench *b, int second)
{
	struct bench_line l = {.name = "mailbox_flow",
			       .unit = "M/s",
			       .rival = "cache lines one by one",
			       .measure = BENCH_RATIO};
	uint64_t count = b->smoke ? 2000 : 10000000, t0;
	struct bench_line *lines[] = {&l};
	struct bench_samples bare;
	unsigned retries = 0;
	struct pair p;
	double mine;

	if (!bench_wants(b, l.name))
		return;
	bench_samples_init(&bare, 20000);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double before = bare_trip(b, second, &bare), after;

		open_pair(&p);
		p.left = count;
		t0 = bench_now();
		check("begin", thmq_core_call(p.side[0].core, begin_flow, &p, SECOND));
		wait_over(&p);
		mine = (double)count * 1e3 / (double)(bench_now() - t0);
		close_pair(&p);
		after = bare_trip(b, second, &bare);
		if (!b->smoke && larger_by(before, after) > SHIFT_MAX && retries++ < RETRIES) {
			round--;
			continue;
		}
		bench_pairs_add(&l.pairs, mine, 2e3 / ((before + after) / 2));
	}
	bench_report(b, &l);
	bench_samples_fini(&bare);
}

/* ---------------------------------------------------------------- nothing to do */

struct empty {
	struct thmq_mailbox *boxes[MAILBOXES_MAX];
	struct thmq_core *to;
	unsigned count;
};

static int open_empty(struct thmq_core *core, void *arg)
{
	struct empty *e = arg;

	for (unsigned i = 0; i < e->count; i++)
		check("open mailbox", thmq_mailbox_open(core, e->to, NULL, &e->boxes[i]));
	return 0;
}

static uint64_t turns(struct thmq_env *env)
{
	struct thmq_env_stats s = {.size = sizeof(s)};

	check("counters", thmq_env_stats(env, &s));
	return s.loops;
}

static void idle(struct bench *b, unsigned count)
{
	char name[96];
	struct bench_line l = {.name = name, .unit = "ns", .measure = BENCH_VALUE};
	struct bench_line *lines[] = {&l};
	struct thmq_env_opts o;

	snprintf(name, sizeof(name), "idle_iteration_%u_mailboxes", count);
	if (!bench_wants(b, name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		struct empty e = {.count = count};
		struct thmq_env *env;
		uint64_t t0, n;

		thmq_env_opts_init(&o);
		o.core_count = 1;
		o.policy = THMQ_POLICY_POLL;
		o.flags = THMQ_ENV_FIRST_CPU;
		check("open environment", thmq_env_open(&env, &o));
		e.to = thmq_env_core(env, 0);
		check("open mailboxes", thmq_core_call(e.to, open_empty, &e, SECOND));
		bench_sleep_ns(1000000);
		n = turns(env);
		t0 = bench_now();
		bench_sleep_ns(b->smoke ? 1000000 : 50000000);
		n = turns(env) - n;
		bench_pairs_add(&l.pairs, (double)(bench_now() - t0) / (double)(n ? n : 1), 0);
		check("close environment", thmq_env_close(env, SECOND));
	}
	bench_report(b, &l);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {{"mailbox_roundtrip", by_mailbox, 200000, 1.5},
					      {"post_roundtrip", by_post, 100000, 0},
					      {"call_roundtrip", by_call, 2000, 0}};
	static const unsigned mailboxes[] = {0, 1, 16, MAILBOXES_MAX};
	struct bench b;
	int second;

	bench_init(&b, argc, argv, "cores");
	second = second_cpu(b.cpu_core);
	if (second < 0) {
		bench_skip(&b, "mailbox", "one CPU only");
		return bench_end(&b);
	}
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		round_trip(&b, second, &shapes[i]);
	flow(&b, second);
	for (size_t i = 0; i < sizeof(mailboxes) / sizeof(mailboxes[0]); i++)
		idle(&b, mailboxes[i]);
	return bench_end(&b);
}
