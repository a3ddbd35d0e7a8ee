/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_rdma_bench.c - RDMA beside our own TCP, between the same two environments on the same machine in the same run: round
 * trips, small and large messages; and what a message costs in requests to the device, counted. It needs an RDMA device;
 * the laboratory has an emulated one (tests/lab/run.sh transport_rdma_bench), whose times show relations only: there the
 * counts are what is judged.
 *
 * Both are reached at the address THMQ_BENCH_RDMA (10.0.0.1), where Soft-RoCE and TCP hand over within the kernel. If THMQ_BENCH_RDMA_FROM
 * is the address of another port, RDMA goes from there, over the cable between them; THMQ_BENCH_TCP is an address which TCP reaches
 * over the same cable, then.
 *
 * rdma_round_trip: one message of 64 B to a volatile topic and back by fetch; p50. Rival: tcp. No bar.
 * rdma_small: messages of 100 B, as many as the window takes; a second. Rival: tcp. No bar.
 * rdma_large: messages of 256 KiB; MB a second. Rival: tcp. No bar.
 * rdma_produce: one durable message of 64 B to its acknowledgement; p50. Rival: tcp. No bar.
 * ..._requests, ..._doorbells, ..._completions: work requests, calls that post them, completions, of both sides together, per message
 *   that goes and comes; ..._polls: looks at a completion queue, ..._arms and ..._wakes: queues that were armed, reads of their channel.
 *   Bars: a large message at most 12 requests; small ones, many at a time, at most 0.5 doorbells, 1 poll, 0.1 wakes.
 * rdma_large_copied: bytes that our processor copied per byte delivered, both sides. Bar: at most 0.01 (the run in the broker's log not counted).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>

#include "api/api.h"
#include "bench.h"
#include "rdma/rdma.h"

#define SECOND 1000000000ull
#define LARGE (256u << 10)
#define SMALL 100u

struct side {
	struct thmq_session *session;
	struct thmq_producer *producer, *durable;
	struct thmq_consumer *consumer;
};

struct rig {
	struct thmq_env *home, *away;
	struct thmq_broker *broker;
	struct side rdma, tcp;
	char data_dir[4096];
};

static uint8_t data[LARGE];

/* Why did it end? */
static void die(struct side *s)
{
	struct thmq_event e;

	while (thmq_events(s->session, &e, 1) == 1)
		if (e.type == THMQ_EVENT_CLOSED)
			bench_die("the session was closed", -e.error);
	bench_die(thmq_errmsg(), EIO);
}

static void open_side(struct rig *r, struct side *s, uint32_t index)
{
	const char *from = getenv("THMQ_BENCH_RDMA_FROM");
	char url[256], topic[16];
	int rc = thmq_broker_listen_url(r->broker, index, url, 128);

	if (rc > 0 && index == 0 && from)
		snprintf(url + rc, sizeof(url) - (size_t)rc, "?from=%.40s", from);
	if (rc > 0)
		rc = thmq_connect(r->away, url, THMQ_SESSION_OPTS(.window_bytes = 16 << 20),
				  &s->session);
	if (rc < 0)
		bench_die(thmq_errmsg(), -rc);
	snprintf(topic, sizeof(topic), "t%u", index);
	if (thmq_topic_create(
		    s->session, topic,
		    THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 32 << 20)) ||
	    thmq_producer_open(s->session, topic, NULL, &s->producer) ||
	    thmq_consumer_open(s->session, topic, NULL, NULL, &s->consumer))
		bench_die(thmq_errmsg(), EIO);
	snprintf(topic, sizeof(topic), "d%u", index);
	if (thmq_topic_create(s->session, topic, NULL) ||
	    thmq_producer_open(s->session, topic, NULL, &s->durable))
		bench_die(thmq_errmsg(), EIO);
}

/* NULL: good; else why not. */
static const char *open_rig(struct bench *b, struct rig *r)
{
	const char *at = getenv("THMQ_BENCH_RDMA"), *tcp = getenv("THMQ_BENCH_TCP");
	static char listen[128];
	int rc;

	at = at ? at : "10.0.0.1";
	snprintf(listen, sizeof(listen), "rdma://%.40s:0,tcp://%.40s:0", at, tcp ? tcp : at);
	if (bench_mkdir(b, "broker", r->data_dir, sizeof(r->data_dir)))
		bench_die("directory", EIO);
	if (thmq_env_open(&r->home,
			  THMQ_ENV_OPTS(.core_count = 1, .policy = THMQ_POLICY_EVENT,
					.flags = THMQ_ENV_NO_PIN, .pool_bytes = 256 << 20)) ||
	    thmq_env_open(&r->away,
			  THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT,
					.pool_bytes = 256 << 20)))
		bench_die("environment", ENOMEM);
	rc = thmq_broker_open(r->home, THMQ_BROKER_OPTS(.listen = listen, .data_dir = r->data_dir),
			      &r->broker);
	if (rc == -ENODEV)
		return thmq_errmsg();
	if (rc)
		bench_die(thmq_errmsg(), -rc);
	open_side(r, &r->rdma, 0);
	open_side(r, &r->tcp, 1);
	return NULL;
}

static void close_rig(struct rig *r)
{
	thmq_env_close(r->away, SECOND);
	thmq_env_close(r->home, 5 * SECOND);
}

/* So many messages go and come. */
static void run(struct side *s, uint32_t len, uint32_t count, uint32_t ahead)
{
	struct thmq_message m[64];
	uint32_t sent = 0, got = 0;
	int64_t rc;
	int n;

	while (got < count) {
		while (sent < count && sent - got < ahead) {
			rc = thmq_send(s->producer, data, len, NULL);
			if (rc == -EAGAIN)
				break;
			if (rc < 0)
				die(s);
			sent++;
		}
		n = thmq_fetch(s->consumer, m, 64);
		if (n < 0)
			die(s);
		if (n == 0)
			thmq_session_wait(s->session, SECOND / 100);
		got += (uint32_t)n;
		thmq_release(s->consumer, m, (uint32_t)n);
	}
}

static double p50_us(struct side *s, uint32_t rounds)
{
	struct bench_samples samples;
	uint64_t begin;
	double result;
	uint32_t i;

	bench_samples_init(&samples, rounds);
	for (i = 0; i < rounds; i++) {
		begin = bench_now();
		run(s, 64, 1, 1);
		bench_samples_add(&samples, bench_now() - begin);
	}
	result = bench_percentile(&samples, 0.5) / 1000;
	bench_samples_fini(&samples);
	return result;
}

/* Of a durable message, to its acknowledgement. */
static double produce_us(struct side *s, uint32_t rounds)
{
	struct bench_samples samples;
	uint64_t begin;
	double result;
	uint32_t i;

	bench_samples_init(&samples, rounds);
	for (i = 0; i < rounds; i++) {
		begin = bench_now();
		if (thmq_send(s->durable, data, 64, NULL) < 0 ||
		    thmq_flush(s->durable, 10 * SECOND))
			die(s);
		bench_samples_add(&samples, bench_now() - begin);
	}
	result = bench_percentile(&samples, 0.5) / 1000;
	bench_samples_fini(&samples);
	return result;
}

static double per_second(struct side *s, uint32_t len, uint32_t count, double unit)
{
	uint64_t begin = bench_now();

	run(s, len, count, len == LARGE ? 16 : 4096);
	return count / ((double)(bench_now() - begin) / 1e9) * unit;
}

static void times(struct bench *b, struct rig *r)
{
	struct bench_line l[4] = {{.name = "rdma_round_trip", .unit = "us"},
				  {.name = "rdma_small", .unit = "1/s"},
				  {.name = "rdma_large", .unit = "MB/s"},
				  {.name = "rdma_produce", .unit = "us"}};
	uint32_t scale = b->smoke ? 1 : 10, i;
	struct bench_line *lines[] = {&l[0], &l[1], &l[2], &l[3]};
	double x;

	for (i = 0; i < 4; i++) {
		l[i].rival = "our tcp";
		l[i].measure = BENCH_RATIO;
		l[i].sense = BENCH_NO_BAR;
	}
	for (unsigned round = 0; bench_more(b, round, lines, 4); round++) {
		x = p50_us(&r->rdma, 20 * scale);
		bench_pairs_add(&l[0].pairs, x, p50_us(&r->tcp, 20 * scale));
		x = per_second(&r->rdma, SMALL, 1000 * scale, 1);
		bench_pairs_add(&l[1].pairs, x, per_second(&r->tcp, SMALL, 1000 * scale, 1));
		x = per_second(&r->rdma, LARGE, 10 * scale, LARGE / 1e6);
		bench_pairs_add(&l[2].pairs, x,
				per_second(&r->tcp, LARGE, 10 * scale, LARGE / 1e6));
		x = produce_us(&r->rdma, 20 * scale);
		bench_pairs_add(&l[3].pairs, x, produce_us(&r->tcp, 20 * scale));
	}
	for (i = 0; i < 4; i++)
		bench_report(b, &l[i]);
}

/* -------------------------------------------------------------------- counts */

static struct thmqi_rdma_counters counted(const struct rig *r)
{
	struct thmqi_rdma_counters c[2];
	uint32_t i;

	if (thmqi_rdma_counters(thmqi_api_of(r->home)->transport, &c[0]) ||
	    thmqi_rdma_counters(thmqi_api_of(r->away)->transport, &c[1]))
		bench_die("counters", ENODEV);
	for (i = 0; i < sizeof(c[0]) / sizeof(uint64_t); i++)
		((uint64_t *)&c[0])[i] += ((uint64_t *)&c[1])[i];
	return c[0];
}

static void report(struct bench *b, const char *name, const char *what, double value, double bar)
{
	char full[64];
	struct bench_line l = {.name = full,
			       .unit = what,
			       .measure = BENCH_VALUE,
			       .sense = bar > 0 ? BENCH_AT_MOST : BENCH_NO_BAR,
			       .bar = bar};

	snprintf(full, sizeof(full), "%s_%s", name, what);
	bench_pairs_add(&l.pairs, value, 0);
	bench_report(b, &l);
}

static void counts(struct bench *b, struct rig *r, const char *name, uint32_t len, uint32_t count,
		   uint32_t ahead)
{
	struct thmqi_rdma_counters from = counted(r), to;
	bool large = len == LARGE, many = ahead > 1 && !large;

	run(&r->rdma, len, count, ahead);
	bench_sleep_ns(SECOND / 5); /* what is still on its way is of these */
	to = counted(r);
	report(b, name, "requests", (double)(to.requests - from.requests) / count, large ? 12 : 0);
	report(b, name, "doorbells", (double)(to.doorbells - from.doorbells) / count,
	       many ? 0.5 : 0);
	report(b, name, "completions", (double)(to.completions - from.completions) / count, 0);
	report(b, name, "receive_doorbells",
	       (double)(to.receive_doorbells - from.receive_doorbells) / count, 0);
	report(b, name, "polls", (double)(to.polls - from.polls) / count, many ? 1 : 0);
	report(b, name, "arms", (double)(to.arms - from.arms) / count, 0);
	report(b, name, "wakes", (double)(to.wakes - from.wakes) / count, many ? 0.1 : 0);
	report(b, name, "copied",
	       (double)(to.copied_bytes - from.copied_bytes) / (double)len / count,
	       large ? 0.01 : 0);
}

/* For a program that counts from outside, by the difference of two counts: nothing but so many messages of a kind, "small 1000". */
static void only(struct rig *r, const char *what)
{
	uint32_t count = (uint32_t)strtoul(strchr(what, ' ') ? strchr(what, ' ') : "", NULL, 10);
	struct thmqi_rdma_counters c;

	run(&r->rdma,
	    what[0] == 'l'   ? LARGE
	    : what[0] == 's' ? SMALL
			     : 64,
	    count,
	    what[0] == 'l'   ? 16
	    : what[0] == 's' ? 4096
			     : 1);
	c = counted(r);
	printf("doorbells %llu\n",
	       (unsigned long long)(c.doorbells + c.receive_doorbells + c.arms));
}

int main(int argc, char **argv)
{
	static struct rig r;
	struct bench b;
	const char *why;

	bench_init(&b, argc, argv, "transport");
	why = open_rig(&b, &r);
	if (why) {
		bench_skip(&b, "rdma", why);
	} else if (getenv("THMQ_BENCH_ONLY")) {
		only(&r, getenv("THMQ_BENCH_ONLY"));
	} else {
		times(&b, &r);
		counts(&b, &r, "rdma_round_trip", 64, b.smoke ? 20 : 200, 1);
		counts(&b, &r, "rdma_small", SMALL, b.smoke ? 1000 : 20000, 4096);
		counts(&b, &r, "rdma_large", LARGE, b.smoke ? 16 : 100, 16);
	}
	close_rig(&r);
	return bench_end(&b);
}
