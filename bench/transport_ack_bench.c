/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_ack_bench.c - what a distance adds to a durable acknowledgement: one message of 100 B at a time from send to settled,
 * through inproc://, and through shm:// and tcp:// to the same broker, whose core spins on one processor; the application's thread
 * spins on the other. All three in turns, message by message, so that the device's moods meet all of them.
 *
 * <medium>_durable_ack_p50: bar: at most the local one's p50, one round trip of the medium (a message of 100 B through a volatile topic and
 * back to its own consumer, measured beside it), and 3 us.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/thundermq.h>

#include "bench.h"

#define SECOND 1000000000ull
#define MEDIA 3u /* the local one first */

static const char message[100];

static void check(const char *what, int64_t rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror((int)rc), thmq_errmsg());
	exit(2);
}

/* A session, and the two topics that it speaks to. */
struct way {
	const char *name;
	struct thmq_session *session;
	struct thmq_producer *durable, *passing;
	struct thmq_consumer *consumer;
	struct bench_samples acks, trips;
};

struct rig {
	struct thmq_env *home, *away;
	struct thmq_broker *broker;
	struct way ways[MEDIA];
};

static void way_open(struct way *w, struct thmq_env *env, const char *name, const char *url)
{
	char topic[32];

	w->name = name;
	snprintf(topic, sizeof(topic), "trip-%s", name);
	check("connect", thmq_connect(env, url, NULL, &w->session));
	check("topic", thmq_topic_create(w->session, "acks",
					 THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)));
	check("topic",
	      thmq_topic_create(w->session, topic, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)));
	check("producer", thmq_producer_open(w->session, "acks", NULL, &w->durable));
	check("producer", thmq_producer_open(w->session, topic, NULL, &w->passing));
	check("consumer", thmq_consumer_open(w->session, topic, NULL, NULL, &w->consumer));
	bench_samples_clear(&w->acks);
	bench_samples_clear(&w->trips);
}

static void rig_open(struct rig *r, struct bench *b, const char *dir)
{
	char listen[4200], url[4200];
	struct thmq_env_opts o;
	uint32_t i;

	thmq_env_opts_init(&o);
	o.core_count = 1;
	o.policy = THMQ_POLICY_POLL;
	o.flags = THMQ_ENV_FIRST_CPU;
	o.first_cpu = (uint32_t)(b->cpu_core > b->cpu_app);
	snprintf(listen, sizeof(listen), "tcp://127.0.0.1:0,shm://%s/s", dir);
	check("open environment", thmq_env_open(&r->home, &o));
	check("open broker", thmq_broker_open(r->home,
					      THMQ_BROKER_OPTS(.data_dir = dir, .listen = listen,
							       .shard_count = 1),
					      &r->broker));
	bench_pin(b->cpu_app);
	check("open environment",
	      thmq_env_open(&r->away, THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL)));
	way_open(&r->ways[0], r->home, "inproc", "inproc://");
	for (i = 0; i < 2; i++) {
		check("listen", thmq_broker_listen_url(r->broker, i, url, sizeof(url)));
		way_open(&r->ways[i + 1], r->away, url[0] == 't' ? "tcp" : "shm", url);
	}
	bench_spin_begin();
}

static void rig_close(struct rig *r)
{
	uint32_t i;

	bench_spin_end();
	for (i = 0; i < MEDIA; i++)
		check("close session", thmq_session_close(r->ways[i].session, SECOND));
	check("close environment", thmq_env_close(r->away, SECOND));
	check("close broker", thmq_broker_close(r->broker, 10 * SECOND));
	check("close environment", thmq_env_close(r->home, SECOND));
	bench_unpin();
}

/* The client's core is this thread's, as are its links' ends. */
static void drive(struct rig *r)
{
	thmq_poll(r->away, 0);
	bench_relax();
}

static int64_t send(struct rig *r, struct thmq_producer *p)
{
	int64_t seq;

	while ((seq = thmq_send(p, message, sizeof(message), NULL)) == -EAGAIN)
		drive(r);
	check("send", seq);
	return seq;
}

static uint64_t ack(struct rig *r, struct way *w)
{
	uint64_t begin = bench_now();
	int64_t seq = send(r, w->durable);

	while (thmq_watermark(w->durable) < seq)
		drive(r);
	return bench_now() - begin;
}

static uint64_t trip(struct rig *r, struct way *w)
{
	uint64_t begin = bench_now();
	struct thmq_message m;
	int n;

	send(r, w->passing);
	while ((n = thmq_fetch(w->consumer, &m, 1)) == 0)
		drive(r);
	check("fetch", n);
	check("release", thmq_release(w->consumer, &m, 1));
	return bench_now() - begin;
}

static void measure(struct bench *b, struct rig *r, unsigned count, unsigned round)
{
	char dir[3200], name[32];
	unsigned i, k;

	snprintf(name, sizeof(name), "acks-%u", round);
	if (bench_mkdir(b, name, dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	rig_open(r, b, dir);
	for (i = 0; i < count + count / 10; i++)
		for (k = 0; k < MEDIA; k++) {
			uint64_t a = ack(r, &r->ways[k]), t = trip(r, &r->ways[k]);

			if (i < count / 10)
				continue;
			bench_samples_add(&r->ways[k].acks, a);
			bench_samples_add(&r->ways[k].trips, t);
		}
	rig_close(r);
	bench_rmdir(dir);
}

int main(int argc, char **argv)
{
	struct bench_line l[] = {{.name = "shm_durable_ack_p50"}, {.name = "tcp_durable_ack_p50"}};
	struct bench_line *lines[] = {&l[0], &l[1]};
	unsigned count, round, i, k;
	static struct rig r;
	struct bench b;

	bench_init(&b, argc, argv, "transport");
	if (b.cpu_app < 0) {
		bench_skip(&b, "durable_ack", "there is one processor only");
		return bench_end(&b);
	}
	if (!bench_wants(&b, l[0].name) && !bench_wants(&b, l[1].name))
		return bench_end(&b);
	count = b.smoke ? 20 : 2000;
	for (i = 0; i < MEDIA; i++) {
		bench_samples_init(&r.ways[i].acks, count);
		bench_samples_init(&r.ways[i].trips, count);
	}
	for (i = 0; i < 2; i++) {
		l[i].unit = "ns";
		l[i].rival = "local ack, a round trip and 3 us";
		l[i].measure = BENCH_RATIO;
		l[i].sense = BENCH_AT_MOST;
		l[i].bar = 1;
	}
	for (round = 0; bench_more(&b, round, lines, 2); round++) {
		measure(&b, &r, count, round);
		for (k = 1; k < MEDIA; k++)
			for (i = 0; i < 2; i++)
				if (l[i].name[0] == r.ways[k].name[0])
					bench_pairs_add(
						&l[i].pairs, bench_percentile(&r.ways[k].acks, 0.5),
						bench_percentile(&r.ways[0].acks, 0.5) +
							bench_percentile(&r.ways[k].trips, 0.5) +
							3000);
	}
	for (i = 0; i < 2; i++)
		bench_report(&b, &l[i]);
	for (i = 0; i < MEDIA; i++) {
		bench_samples_fini(&r.ways[i].acks);
		bench_samples_fini(&r.ways[i].trips);
	}
	return bench_end(&b);
}
