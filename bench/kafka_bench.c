/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kafka_bench.c - what it costs to come by Kafka's protocol: librdkafka with examples/kafka, a process of its own on a directory under test,
 * beside the library's own session to the same broker over tcp://. Both wait until the message is on the device.
 *
 * kafka_flow_100B: messages of 100 bytes a second, until all are acknowledged (acks=all; durable). No bar yet.
 * kafka_read_100B: the same messages read from the beginning. No bar yet.
 * kafka_ack_100B_p50: from the send of one message to its acknowledgement, with nothing else under way. No bar yet.
 * kafka_connection (--full): memory of the broker for each of 500 connections that have asked once and are quiet. No bar yet.
 */
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#include "rig_server.h"

#define SECOND 1000000000ull
#define BYTES 100u
#define CONNECTIONS 500

struct rig {
	char dir[3200], kafka[64], native[64];
	pid_t server;
	int port;
	struct thmq_env *env;
	struct thmq_session *session;
	unsigned serial; /* of topics */
};

static void check(const char *what, int64_t rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg());
	bench_die(what, rc < -1000 ? EIO : (int)rc);
}

static void rig_open(struct bench *b, struct rig *r)
{
	int native = rig_server_port(), fd;
	char data[3300];
	char *argv[] = {(char *)(uintptr_t)KAFKA,
			"--data",
			data,
			"--listen",
			r->kafka,
			"--thmq",
			r->native,
			NULL};

	*r = (struct rig){.port = rig_server_port()};
	if (bench_mkdir(b, "kafka", r->dir, sizeof(r->dir)))
		bench_die("mkdir", -errno);
	snprintf(data, sizeof(data), "%s/data", r->dir);
	snprintf(r->kafka, sizeof(r->kafka), "127.0.0.1:%d", r->port);
	snprintf(r->native, sizeof(r->native), "tcp://127.0.0.1:%d", native);
	r->server = rig_server_start(r->dir, argv);
	fd = rig_server_connect_tcp(r->server, r->port);
	if (fd < 0)
		bench_die("the broker", -ECONNREFUSED);
	close(fd);
	check("open environment", thmq_env_open(&r->env, NULL));
	check("connect",
	      thmq_connect(r->env, r->native,
			   THMQ_SESSION_OPTS(.window_bytes = 16 << 20, .window_count = 65536),
			   &r->session));
}

static void rig_close(struct rig *r)
{
	thmq_env_close(r->env, SECOND);
	rig_server_stop(r->server);
	bench_rmdir(r->dir);
}

static const char *new_topic(struct rig *r, char *name, size_t size)
{
	snprintf(name, size, "t%u", ++r->serial);
	check("topic", thmq_topic_create(r->session, name, NULL));
	return name;
}

/* ------------------------------------------------------------------- kafka */

static uint64_t delivered;

static void on_delivery(rd_kafka_t *k, const rd_kafka_message_t *m, void *ctx)
{
	(void)k, (void)ctx;
	if (m->err)
		bench_die(rd_kafka_err2str(m->err), -EIO);
	delivered++;
}

static rd_kafka_t *client(struct rig *r, rd_kafka_type_t type, const char *linger_ms)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char text[512];
	rd_kafka_t *k;

	rd_kafka_conf_set(conf, "bootstrap.servers", r->kafka, text, sizeof(text));
	if (type == RD_KAFKA_PRODUCER) {
		rd_kafka_conf_set(conf, "acks", "all", text, sizeof(text));
		rd_kafka_conf_set(conf, "linger.ms", linger_ms, text, sizeof(text));
		rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	} else {
		rd_kafka_conf_set(conf, "group.id", "bench", text, sizeof(text));
	}
	k = rd_kafka_new(type, conf, text, sizeof(text));
	if (!k)
		bench_die(text, -EINVAL);
	return k;
}

static void kafka_send(rd_kafka_t *k, const char *topic, const void *data)
{
	while (rd_kafka_producev(k, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
				 RD_KAFKA_V_VALUE((void *)(uintptr_t)data, BYTES),
				 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END))
		rd_kafka_poll(k, 10); /* its queue is full */
}

static void kafka_settle(rd_kafka_t *k, uint64_t count)
{
	uint64_t end = bench_now() + 60 * SECOND;

	while (delivered < count && bench_now() < end)
		rd_kafka_poll(k, 10);
	if (delivered < count)
		bench_die("not delivered", -ETIMEDOUT);
}

/* Messages a µs. */
static double kafka_flow(struct rig *r, const char *topic, uint64_t count)
{
	rd_kafka_t *k = client(r, RD_KAFKA_PRODUCER, "5");
	char data[BYTES] = "k";
	uint64_t begin, i;

	delivered = 0;
	kafka_send(k, topic, data); /* it finds its way */
	kafka_settle(k, 1);
	begin = bench_now();
	for (i = 0; i < count; i++) {
		kafka_send(k, topic, data);
		if (i % 1000 == 0)
			rd_kafka_poll(k, 0);
	}
	kafka_settle(k, count + 1);
	begin = bench_now() - begin;
	rd_kafka_destroy(k);
	return (double)count * 1e3 / (double)begin;
}

static double kafka_read(struct rig *r, const char *topic, uint64_t count)
{
	rd_kafka_t *k = client(r, RD_KAFKA_CONSUMER, NULL);
	rd_kafka_topic_partition_list_t *where = rd_kafka_topic_partition_list_new(1);
	uint64_t begin = bench_now(), got = 0;
	rd_kafka_message_t *m;

	rd_kafka_topic_partition_list_add(where, topic, 0)->offset = RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_assign(k, where);
	while (got < count) {
		m = rd_kafka_consumer_poll(k, 10000);
		if (!m)
			bench_die("nothing to read", -ETIMEDOUT);
		got += !m->err;
		rd_kafka_message_destroy(m);
	}
	begin = bench_now() - begin;
	rd_kafka_topic_partition_list_destroy(where);
	rd_kafka_destroy(k);
	return (double)count * 1e3 / (double)begin;
}

static double kafka_ack(struct rig *r, const char *topic, unsigned count, struct bench_samples *s)
{
	rd_kafka_t *k = client(r, RD_KAFKA_PRODUCER, "0");
	char data[BYTES] = "k";
	uint64_t begin;
	unsigned i;

	delivered = 0;
	kafka_send(k, topic, data);
	kafka_settle(k, 1);
	bench_samples_clear(s);
	for (i = 0; i < count; i++) {
		begin = bench_now();
		kafka_send(k, topic, data);
		kafka_settle(k, i + 2);
		bench_samples_add(s, bench_now() - begin);
	}
	rd_kafka_destroy(k);
	return bench_percentile(s, 0.5);
}

/* ------------------------------------------------------------------- native */

static struct thmq_producer *producer(struct rig *r, const char *topic)
{
	struct thmq_producer *p;

	check("producer", thmq_producer_open(r->session, topic, NULL, &p));
	return p;
}

static void native_send(struct rig *r, struct thmq_producer *p, const void *data)
{
	int64_t rc;

	while ((rc = thmq_send(p, data, BYTES, NULL)) == -EAGAIN)
		thmq_poll(r->env, 1000000);
	check("send", rc);
}

static double native_flow(struct rig *r, const char *topic, uint64_t count)
{
	struct thmq_producer *p = producer(r, topic);
	char data[BYTES] = "n";
	uint64_t begin, i;

	native_send(r, p, data);
	check("flush", thmq_flush(p, 10 * SECOND));
	begin = bench_now();
	for (i = 0; i < count; i++) {
		native_send(r, p, data);
		if (i % 64 == 0)
			thmq_poll(r->env, 0);
	}
	check("flush", thmq_flush(p, 60 * SECOND));
	begin = bench_now() - begin;
	check("close", thmq_producer_close(p, SECOND));
	return (double)count * 1e3 / (double)begin;
}

static double native_read(struct rig *r, const char *topic, uint64_t count)
{
	uint64_t begin = bench_now(), end = begin + 60 * SECOND, got = 0;
	struct thmq_consumer *c;
	struct thmq_message m[256];
	int n;

	check("consumer", thmq_consumer_open(r->session, topic, NULL, NULL, &c));
	while (got < count && bench_now() < end) {
		n = thmq_fetch(c, m, 256);
		check("fetch", n);
		if (n)
			thmq_release(c, m, (uint32_t)n);
		else
			thmq_poll(r->env, 1000000);
		got += (uint64_t)n;
	}
	if (got < count)
		bench_die("nothing to read", -ETIMEDOUT);
	begin = bench_now() - begin;
	check("close", thmq_consumer_close(c, SECOND));
	return (double)count * 1e3 / (double)begin;
}

static double native_ack(struct rig *r, const char *topic, unsigned count, struct bench_samples *s)
{
	struct thmq_producer *p = producer(r, topic);
	char data[BYTES] = "n";
	uint64_t begin;
	unsigned i;

	bench_samples_clear(s);
	for (i = 0; i < count; i++) {
		begin = bench_now();
		native_send(r, p, data);
		check("flush", thmq_flush(p, 10 * SECOND));
		bench_samples_add(s, bench_now() - begin);
	}
	check("close", thmq_producer_close(p, SECOND));
	return bench_percentile(s, 0.5);
}

/* -------------------------------------------------------------------- lines */

static void flows(struct bench *b, struct rig *r)
{
	struct bench_line flow = {.name = "kafka_flow_100B",
				  .unit = "M/s",
				  .rival = "own session",
				  .measure = BENCH_RATIO},
			  read = {.name = "kafka_read_100B",
				  .unit = "M/s",
				  .rival = "own session",
				  .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&flow, &read};
	uint64_t count = b->smoke ? 1000 : 1000000;
	char theirs[32], ours[32];

	if (!bench_wants(b, flow.name) && !bench_wants(b, read.name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 2); round++) {
		new_topic(r, theirs, sizeof(theirs));
		new_topic(r, ours, sizeof(ours));
		bench_pairs_add(&flow.pairs, kafka_flow(r, theirs, count),
				native_flow(r, ours, count));
		bench_pairs_add(&read.pairs, kafka_read(r, ours, count),
				native_read(r, ours, count)); /* the same messages */
	}
	bench_report(b, &flow);
	bench_report(b, &read);
}

static void acks(struct bench *b, struct rig *r)
{
	struct bench_line l = {.name = "kafka_ack_100B_p50",
			       .unit = "ns",
			       .rival = "own session",
			       .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&l};
	unsigned count = b->smoke ? 20 : 2000;
	struct bench_samples s;
	char topic[32];

	if (!bench_wants(b, l.name))
		return;
	bench_samples_init(&s, count);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double theirs, ours;

		new_topic(r, topic, sizeof(topic));
		theirs = native_ack(r, topic, count, &s);
		ours = kafka_ack(r, topic, count, &s);
		bench_pairs_add(&l.pairs, ours, theirs);
		l.detail[0] = 0; /* of the last round */
		bench_detail(&l, "ours_us", &s);
	}
	bench_report(b, &l);
	bench_samples_fini(&s);
}

/* Bytes of a process that are in memory. */
static double resident(pid_t pid)
{
	char path[64];
	unsigned long pages = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%*u %lu", &pages) != 1)
		bench_die(path, -EIO);
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void connections(struct bench *b, struct rig *r)
{
	/* ApiVersions, version 0, with no name: the answer is longer than what is read of it, which is the kernel's to keep */
	static const char ask[] = "\0\0\0\012\0\022\0\0\0\0\0\1\377\377";
	struct bench_line l = {.name = "kafka_connection", .unit = "bytes", .measure = BENCH_VALUE};
	int fds[CONNECTIONS], i;
	double before;
	char byte;

	if (!b->full || !bench_wants(b, l.name))
		return;
	before = resident(r->server);
	for (i = 0; i < CONNECTIONS; i++) {
		fds[i] = rig_server_connect_tcp(r->server, r->port);
		if (fds[i] < 0)
			bench_die("connect", -ECONNREFUSED);
		rig_server_write(fds[i], ask, sizeof(ask) - 1, "ApiVersions");
		if (read(fds[i], &byte, 1) != 1)
			bench_die("no answer", -EIO);
	}
	bench_pairs_add(&l.pairs, (resident(r->server) - before) / CONNECTIONS, 0);
	for (i = 0; i < CONNECTIONS; i++)
		close(fds[i]);
	bench_report(b, &l);
}

int main(int argc, char **argv)
{
	struct bench b;
	struct rig r;

	bench_init(&b, argc, argv, "kafka");
	rig_open(&b, &r);
	flows(&b, &r);
	acks(&b, &r);
	connections(&b, &r);
	rig_close(&r);
	return bench_end(&b);
}
