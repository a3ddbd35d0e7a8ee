/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_rivals_bench.c - the library as a message queue beside NATS JetStream, Redis streams and RabbitMQ, all with stores that answer when a message is on the medium.
 *
 * queue_work_SERVER: messages of 100 bytes that lie there, to one group whose members acknowledge each by itself, until all is answered; a second.
 * queue_fan_SERVER: the same to three groups that get all of them, and acknowledge many with one word; handed out a second.
 * queue_ask_SERVER: a request of 64 bytes and its reply, to one who answers by another connection, p50; of Redis both are stored, and our request, too; of NATS and RabbitMQ nothing is.
 * queue_…_tcp_SERVER: the same over loopback TCP to a broker in a thread of its own: what a server is for those who connect to it. Without it the library is part of the program.
 *
 * In turns, round by round. No bars: it is told who is faster, and by how much.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <thundermq/thundermq.h>

#include "rig_queue.h"

#define LEN 100u
#define FETCH_MAX 64
#define SECOND 1000000000ull
#define WAIT_NS (60 * SECOND)
#define FAN 3u

static const struct rig_queue *const rivals[] = {&rig_queue_redis, &rig_queue_nats, &rig_queue_rabbit};

static void check(const char *what, int64_t rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench: %s: %s\n", what, thmq_errmsg());
	bench_die(what, rc < -1000 ? EIO : (int)-rc);
}

/* ----------------------------------------------------------------------- ours */

struct ours {
	struct thmq_env *home, *env; /* the broker's, and the application's; one and the same where they are one program */
	struct thmq_broker *broker;
	struct thmq_session *session, *other; /* which answers */
	struct thmq_producer *asker;
	struct thmq_consumer *answerer;
	uint32_t groups;
	char dir[4096];
};

static void ours_open(struct ours *o, struct bench *b, const char *name, bool tcp, bool ask_durable)
{
	const struct thmq_topic_opts asked = {.size = sizeof(asked), .flags = ask_durable ? 0 : THMQ_TOPIC_VOLATILE};
	struct thmq_env_opts e;
	char url[64] = "inproc://";

	*o = (struct ours){0};
	if (bench_mkdir(b, name, o->dir, sizeof(o->dir)) != 0)
		bench_die(name, EIO);
	thmq_env_opts_init(&e);
	if (tcp) {
		e.core_count = 1;
		e.flags = THMQ_ENV_FIRST_CPU;
		e.first_cpu = (uint32_t)b->cpu_core;
	}
	check("environment", thmq_env_open(&o->home, &e));
	check("broker", thmq_broker_open(o->home, THMQ_BROKER_OPTS(.data_dir = o->dir, .listen = tcp ? "tcp://127.0.0.1:0" : NULL), &o->broker));
	if (tcp)
		check("listen", thmq_broker_listen_url(o->broker, 0, url, sizeof(url)));
	bench_pin(b->cpu_app);
	o->env = o->home;
	if (tcp)
		check("environment", thmq_env_open(&o->env, NULL));
	check("connect", thmq_connect(o->env, url, NULL, &o->session));
	check("connect", thmq_connect(o->env, url, NULL, &o->other));
	check("topic", thmq_topic_create(o->session, "q", NULL));
	check("topic", thmq_topic_create(o->session, "asked", &asked));
	check("producer", thmq_producer_open(o->session, "asked", NULL, &o->asker));
	check("consumer", thmq_consumer_open(o->other, "asked", NULL, NULL, &o->answerer));
	if (tcp)
		bench_spin_begin();
}

static void ours_close(struct ours *o)
{
	if (o->env != o->home) {
		bench_spin_end();
		check("close", thmq_session_close(o->session, SECOND));
		check("close", thmq_session_close(o->other, SECOND));
		check("close", thmq_env_close(o->env, SECOND));
	}
	check("close", thmq_env_close(o->home, 10 * SECOND));
	bench_unpin();
	bench_rmdir(o->dir);
}

static void ours_fill(struct ours *o, uint64_t count)
{
	static const char data[LEN];
	struct thmq_producer *p;
	int64_t rc;

	check("producer", thmq_producer_open(o->session, "q", NULL, &p));
	for (uint64_t i = 0; i < count; i++) {
		while ((rc = thmq_send(p, data, LEN, NULL)) == -EAGAIN)
			thmq_poll(o->env, 0);
		check("send", rc);
	}
	check("flush", thmq_flush(p, WAIT_NS));
	check("close", thmq_producer_close(p, WAIT_NS));
}

/* What one group's reader gets now. */
static uint64_t turn(struct ours *o, struct thmq_consumer *c, bool each)
{
	struct thmq_message m[FETCH_MAX];
	int n = thmq_fetch(c, m, FETCH_MAX), rc;

	check("fetch", n);
	for (int i = each ? 0 : n - 1; i >= 0 && i < n; i++) {
		while ((rc = thmq_ack(c, &m[i])) == -EAGAIN)
			thmq_poll(o->env, 0);
		check("ack", rc);
	}
	check("release", thmq_release(c, m, (uint32_t)n));
	return (uint64_t)n;
}

static void ours_take(struct ours *o, uint64_t count, unsigned groups, bool each)
{
	const struct thmq_consumer_opts how = {.size = sizeof(how), .flags = each ? THMQ_CONSUMER_SHARED : 0, .start = THMQ_START_BEGIN};
	struct thmq_consumer *c[RIG_QUEUE_GROUPS_MAX];
	uint64_t got = 0, now;
	char group[32];

	for (unsigned g = 0; g < groups; g++) {
		snprintf(group, sizeof(group), "g%u", o->groups + g);
		check("consumer", thmq_consumer_open(o->session, "q", group, &how, &c[g]));
	}
	while (got < count * groups) {
		now = 0;
		for (unsigned g = 0; g < groups; g++)
			now += turn(o, c[g], each);
		if (!now)
			thmq_poll(o->env, 0);
		got += now;
	}
	for (unsigned g = 0; g < groups; g++) {
		check("flush", thmq_consumer_flush(c[g], WAIT_NS));
		check("close", thmq_consumer_close(c[g], WAIT_NS));
		snprintf(group, sizeof(group), "g%u", o->groups + g);
		check("forget the group", thmq_group_delete(o->session, "q", group, 0));
	}
	o->groups += groups;
}

static void ours_ask(struct ours *o)
{
	static const char text[64];
	struct thmq_message m;
	struct thmq_response r;
	int n;

	check("request", thmq_request(o->asker, text, sizeof(text), NULL, 10 * SECOND, NULL));
	while ((n = thmq_fetch(o->answerer, &m, 1)) == 0)
		thmq_poll(o->env, 0);
	check("fetch", n);
	check("reply", thmq_reply(o->other, &m, text, sizeof(text), NULL));
	check("release", thmq_release(o->answerer, &m, 1));
	while ((n = thmq_responses(o->session, &r, 1)) == 0)
		thmq_poll(o->env, 0);
	check("responses", n);
	check("release", thmq_response_release(o->session, &r, 1));
}

/* ---------------------------------------------------------------------- turns */

/* One who takes part: the library, or @rival. */
struct side {
	const struct rig_queue *rival; /* NULL: the library */
	void *queue;
	struct ours ours;
	uint64_t count; /* messages that lie there */
};

static double handed_out(struct side *s, unsigned groups, bool each)
{
	uint64_t t0;

	if (s->rival && s->rival->again)
		s->rival->again(s->queue, s->count, LEN, groups);
	t0 = bench_now();
	if (s->rival)
		s->rival->take(s->queue, s->count, groups, each);
	else
		ours_take(&s->ours, s->count, groups, each);
	return (double)(s->count * groups) * 1e9 / (double)(bench_now() - t0);
}

/* µs, p50 */
static double asked(struct side *s, unsigned count)
{
	struct bench_samples samples;
	double p50;

	bench_samples_init(&samples, count);
	for (unsigned i = 0; i < count; i++) {
		uint64_t t0 = bench_now();

		if (s->rival)
			s->rival->ask(s->queue);
		else
			ours_ask(&s->ours);
		bench_samples_add(&samples, bench_now() - t0);
	}
	p50 = bench_percentile(&samples, 0.5) / 1e3;
	bench_samples_fini(&samples);
	return p50;
}

enum { WORK, FANNED, ASK, SUBJECTS };

static double measure(struct side *s, unsigned subject, bool smoke)
{
	if (subject == ASK)
		return asked(s, smoke ? 5 : 300);
	return handed_out(s, subject == WORK ? 1 : FAN, subject == WORK);
}

/* Both sides in turn, each round beginning with the other one. */
static void compare(struct bench *b, struct side *ours, struct side *rival, const char *by)
{
	static const char *const words[SUBJECTS] = {"work", "fan", "ask"};
	char names[SUBJECTS][96];
	struct bench_line lines[SUBJECTS];

	for (unsigned i = 0; i < SUBJECTS; i++) {
		struct bench_line *l = &lines[i], *some[] = {l};

		snprintf(names[i], sizeof(names[i]), "queue_%s%s_%s", words[i], by, rival->rival->word);
		*l = (struct bench_line){.name = names[i],
					 .unit = i == ASK ? "us" : "messages/s",
					 .rival = rival->rival->name,
						 .measure = BENCH_RATIO};
		if (!bench_wants(b, names[i]))
			continue;
		for (unsigned round = 0; bench_more(b, round, some, 1); round++) {
			double values[2];

			values[round % 2] = measure(round % 2 ? rival : ours, i, b->smoke);
			values[!(round % 2)] = measure(round % 2 ? ours : rival, i, b->smoke);
			bench_pairs_add(&l->pairs, values[0], values[1]);
		}
		snprintf(l->detail, sizeof(l->detail), "\"messages\":%llu,\"rival_messages\":%llu,\"how\":\"%s\"", (unsigned long long)ours->count,
			 (unsigned long long)rival->count, rival->rival->how);
		bench_report(b, l);
	}
}

static bool wanted(const struct bench *b, const struct rig_queue *q)
{
	static const char *const words[] = {"work", "fan", "ask", "work_tcp", "fan_tcp", "ask_tcp"};
	char name[96];

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		snprintf(name, sizeof(name), "queue_%s_%s", words[i], q->word);
		if (bench_wants(b, name))
			return true;
	}
	return false;
}

static void beside(struct bench *b, const struct rig_queue *q)
{
	static struct side rival, ours;
	const char *why = "";
	char dir[4096];

	if (!wanted(b, q))
		return;
	if (bench_mkdir(b, q->word, dir, sizeof(dir)) != 0)
		bench_die(q->word, EIO);
	rival = (struct side){.rival = q, .queue = q->open(dir, &why), .count = b->smoke ? 2048 : 20480};
	if (!rival.queue) {
		bench_rmdir(dir);
		bench_skip(b, q->word, why);
		return;
	}
	if (q->fill)
		q->fill(rival.queue, rival.count, LEN);
	for (unsigned tcp = 0; tcp < 2; tcp++) {
		if (tcp && b->cpu_app < 0)
			break;
		ours = (struct side){.count = b->smoke ? 2048 : 204800};
		ours_open(&ours.ours, b, "ours", tcp, q->ask_durable);
		ours_fill(&ours.ours, ours.count);
		compare(b, &ours, &rival, tcp ? "_tcp" : "");
		ours_close(&ours.ours);
	}
	q->close(rival.queue);
	bench_rmdir(dir);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "messaging");
	for (unsigned i = 0; i < sizeof(rivals) / sizeof(rivals[0]); i++)
		beside(&b, rivals[i]);
	return bench_end(&b);
}
