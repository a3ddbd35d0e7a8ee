/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kafka_memory_bench.c - what examples/kafka holds in memory for each of many that are quiet: its process's memory before and behind, shared out.
 * What was taken once and for all, in large pieces, counts too.
 *
 * kafka_memory_connection: one that has asked once. Bar: 2 KiB at most; the kernel's own of a socket, which is more, is not in it.
 * kafka_memory_member:     a group with one member that has joined by such a connection. Bar: 4 KiB at most.
 * kafka_memory_group:      a group that has committed in one partition and has no members. Bar: 1 KiB at most.
 * kafka_memory_partition:  a partition of a topic that clients were told of. Bar: 2 KiB at most.
 * kafka_memory_used:       a partition that somebody has written to: what that adds. Bar: 2 KiB at most.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig_kafka.h"

#define CONNECTIONS 900u
#define GROUPS 10000u
#define PARTITIONS 10000u
#define AT_ONCE 50u /* requests on their way */

/* ------------------------------------------------------------------ requests */

struct request {
	unsigned char data[512];
	size_t len;
};

static void put(struct request *q, uint64_t value, unsigned bytes)
{
	while (bytes--)
		q->data[q->len++] = (unsigned char)(value >> 8 * bytes);
}

static void put_text(struct request *q, const char *text)
{
	size_t len = strlen(text);

	put(q, len, 2);
	memcpy(q->data + q->len, text, len);
	q->len += len;
}

static void begin(struct request *q, unsigned api, unsigned version)
{
	q->len = 4;
	put(q, api, 2);
	put(q, version, 2);
	put(q, 0, 4);
	put_text(q, "bench");
}

static void send_request(int fd, struct request *q)
{
	size_t len = q->len;

	q->len = 0;
	put(q, len - 4, 4);
	rig_server_write(fd, q->data, len, "request");
}

static void take(int fd, void *data, size_t len)
{
	char *at = data, rest[4096];

	while (len) {
		ssize_t n = read(fd, at ? at : rest, at || len < sizeof(rest) ? len : sizeof(rest));

		if (n <= 0)
			bench_die("no answer", -EIO);
		at = at ? at + n : NULL;
		len -= (size_t)n;
	}
}

/* One that says why not would be shorter. */
static void take_answer(int fd, size_t len_min)
{
	unsigned char head[4];
	size_t len;

	take(fd, head, 4);
	len = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
	if (len < len_min)
		bench_die("a short answer", -EIO);
	take(fd, NULL, len);
}

/* ------------------------------------------------------------- what is asked */

static void ask_versions(struct request *q)
{
	begin(q, 18, 0);
}

static void ask_join(struct request *q, unsigned number)
{
	char name[32];

	snprintf(name, sizeof(name), "member-of-%u", number);
	begin(q, 11, 2);
	put_text(q, name);
	put(q, 600000, 4); /* time-outs, ms */
	put(q, 600000, 4);
	put_text(q, "");
	put_text(q, "consumer");
	put(q, 1, 4);
	put_text(q, "range");
	put(q, 4, 4);
	put(q, 0, 4);
}

static void ask_commit(struct request *q, unsigned number, const char *topic)
{
	char name[32];

	snprintf(name, sizeof(name), "group-%u", number);
	begin(q, 8, 2);
	put_text(q, name);
	put(q, UINT32_MAX, 4); /* of no generation, by no member */
	put_text(q, "");
	put(q, UINT64_MAX, 8);
	put(q, 1, 4);
	put_text(q, topic);
	put(q, 1, 4);
	put(q, 0, 4);
	put(q, 5, 8);
	put_text(q, "");
}

static void ask_topic(struct request *q, const char *topic)
{
	begin(q, 3, 1);
	put(q, 1, 4);
	put_text(q, topic);
}

/* -------------------------------------------------------------------- lines */

static struct bench_line line_of(const char *name, double bar)
{
	return (struct bench_line){.name = name, .unit = "bytes", .measure = BENCH_VALUE, .sense = BENCH_AT_MOST, .bar = bar};
}

static void report(struct bench *b, struct bench_line *l, double before, double after, unsigned count)
{
	bench_pairs_add(&l->pairs, (after - before) / count, 0);
	bench_report(b, l);
}

static int connect_to(struct rig_kafka *r)
{
	int fd = rig_server_connect_tcp(r->server, r->port);

	if (fd < 0)
		bench_die("connect", -ECONNREFUSED);
	return fd;
}

static void connections_and_members(struct bench *b, struct rig_kafka *r)
{
	struct bench_line connection = line_of("kafka_memory_connection", 2048), member = line_of("kafka_memory_member", 4096);
	unsigned count = b->smoke ? 10 : CONNECTIONS, i;
	double before, between;
	struct request q;
	int fds[CONNECTIONS];

	if (!bench_wants(b, connection.name) && !bench_wants(b, member.name))
		return;
	before = bench_memory_of(r->server);
	for (i = 0; i < count; i++) {
		fds[i] = connect_to(r);
		ask_versions(&q);
		send_request(fds[i], &q);
		take_answer(fds[i], 10);
	}
	between = bench_memory_of(r->server);
	for (i = 0; i < count; i++) { /* each is answered when it has waited for others */
		ask_join(&q, i);
		send_request(fds[i], &q);
	}
	for (i = 0; i < count; i++)
		take_answer(fds[i], 40);
	report(b, &connection, before, between, count);
	report(b, &member, between, bench_memory_of(r->server), count);
	for (i = 0; i < count; i++)
		close(fds[i]);
}

static void commit(struct rig_kafka *r, int fd, unsigned first, unsigned count, const char *topic)
{
	struct request q;
	unsigned i, k;

	for (i = 0; i < count; i += AT_ONCE) {
		for (k = 0; k < AT_ONCE; k++) {
			ask_commit(&q, first + i + k, topic);
			send_request(fd, &q);
		}
		for (k = 0; k < AT_ONCE; k++)
			take_answer(fd, 10);
		thmq_poll(r->env, 0);
	}
}

static void groups(struct bench *b, struct rig_kafka *r)
{
	struct bench_line l = line_of("kafka_memory_group", 1024);
	unsigned count = b->smoke ? 100 : GROUPS;
	int fd = connect_to(r);
	char topic[32];
	double before;

	if (!bench_wants(b, l.name))
		return;
	rig_kafka_topic(r, 1, topic, sizeof(topic));
	commit(r, fd, 0, count, topic); /* what is taken once: the topic of offsets, buffers of the log */
	before = bench_memory_of(r->server);
	commit(r, fd, count, count, topic);
	report(b, &l, before, bench_memory_of(r->server), count);
	close(fd);
}

static void write_to_each(struct rig_kafka *r, const char *topic, unsigned count)
{
	struct thmq_producer *p;
	int64_t rc;
	unsigned i;

	rig_kafka_check("producer", thmq_producer_open(r->session, topic, NULL, &p));
	for (i = 0; i < count; i++) {
		while ((rc = thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i))) == -EAGAIN)
			thmq_poll(r->env, 1000000);
		rig_kafka_check("send", rc);
	}
	rig_kafka_check("flush", thmq_flush(p, 60000000000ull));
	rig_kafka_check("close", thmq_producer_close(p, 1000000000ull));
}

static void partitions(struct bench *b, struct rig_kafka *r)
{
	struct bench_line known = line_of("kafka_memory_partition", 2048), used = line_of("kafka_memory_used", 2048);
	unsigned count = b->smoke ? 50 : PARTITIONS;
	double before, between;
	int fd = connect_to(r);
	struct request q;
	char topic[32];

	if (!bench_wants(b, known.name) && !bench_wants(b, used.name))
		return;
	write_to_each(r, rig_kafka_topic(r, 1, topic, sizeof(topic)), 1);
	before = bench_memory_of(r->server);
	rig_kafka_topic(r, count, topic, sizeof(topic));
	ask_topic(&q, topic);
	send_request(fd, &q);
	take_answer(fd, count * 20);
	between = bench_memory_of(r->server);
	report(b, &known, before, between, count);
	write_to_each(r, topic, count);
	report(b, &used, between, bench_memory_of(r->server), count);
	close(fd);
}

int main(int argc, char **argv)
{
	struct rig_kafka r;
	struct bench b;

	bench_init(&b, argc, argv, "kafka");
	rig_kafka_open(&b, &r, CONNECTIONS + 100);
	partitions(&b, &r);
	groups(&b, &r);
	connections_and_members(&b, &r);
	rig_kafka_close(&r);
	return bench_end(&b);
}
