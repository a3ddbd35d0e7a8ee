/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kafka_bench.c - what it costs to come by Kafka's protocol: librdkafka, and kcat, with examples/kafka, a process of its own on a directory under
 * test, beside the library's own session to the same broker over tcp://, and beside NATS JetStream with its own protocol. All wait until the
 * message is on the device.
 *
 * kafka_flow_100B: messages of 100 bytes a second, until all are acknowledged (acks=all; durable). Bar: 1 million a second.
 * kafka_flow_100B_own: the same beside the own session. No bar: the cost of the protocol and of its client.
 * kafka_flow_100B_nats: the same beside JetStream, whose store is made to flush before it acknowledges. Bar: as many.
 * kafka_read_100B: the messages of librdkafka read from the beginning. No bar.
 * kafka_read_native: those of the own session, which are made into records for it. No bar.
 * kafka_ack_100B_p50: from the send of one message to its acknowledgement, with nothing else under way. No bar.
 * kafka_fetch_cpu: what the broker's process takes of a processor for a GiB of batches of 0.9 MiB that a client fetches and does nothing with; beside
 *     it what a thread takes that only sends as many bytes, in answers as long, through a TCP connection of its own over loopback. Bar: 3 times that, which
 *     a copy of each batch in the broker would miss.
 * kafka_fetch_cpu_small: the same for batches of 20 KiB. No bar.
 * kafka_tenth_p99: 100,000 messages of 100 bytes a second, a tenth of the bar above, each when it is due: from then to its acknowledgement,
 *     p99, less the device's own p99 under the same messages due at the same times (rig_disk_arrivals()); and what the own session makes of the
 *     same load. Beside it the device's single writes of 4 KiB, which nobody waits for. Bar: 1 ms at most.
 * kafka_kcat_in_100B, kafka_kcat_out_100B: kcat as it is, its start and all, from a file of lines and to nowhere. No bar.
 */
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#include "rig_disk.h"
#include "rig_kafka.h"
#include "rig_rival.h"

#define SECOND 1000000000ull
#define BYTES 100u
#define TENTH_RATE 100000u /* messages a second */
#define TENTH_BURST 20u    /* that are due at once */
#define MEANWHILE_NS 2000000000ull /* a rival's turn */

/* ------------------------------------------------------------------- kafka */

static uint64_t delivered;
static struct bench_samples *latencies; /* NULL: not wanted */

static void on_delivery(rd_kafka_t *k, const rd_kafka_message_t *m, void *ctx)
{
	(void)k, (void)ctx;
	if (latencies && m->_private)
		bench_samples_add(latencies, bench_now() - (uint64_t)(uintptr_t)m->_private);
	if (m->err)
		bench_die(rd_kafka_err2str(m->err), -EIO);
	delivered++;
}

static rd_kafka_t *client(struct rig_kafka *r, rd_kafka_type_t type, const char *linger_ms)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char text[512];
	rd_kafka_t *k;

	rd_kafka_conf_set(conf, "bootstrap.servers", r->url, text, sizeof(text));
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

/* @due: when it was to be sent; 0: that does not matter */
static void kafka_send(rd_kafka_t *k, const char *topic, const void *data, uint64_t due)
{
	while (rd_kafka_producev(k, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
				 RD_KAFKA_V_VALUE((void *)(uintptr_t)data, BYTES),
				 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
				 RD_KAFKA_V_OPAQUE((void *)(uintptr_t)due), RD_KAFKA_V_END))
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
static double kafka_flow(struct rig_kafka *r, const char *topic, uint64_t count)
{
	rd_kafka_t *k = client(r, RD_KAFKA_PRODUCER, "5");
	char data[BYTES] = "k";
	uint64_t begin, i;

	delivered = 0;
	kafka_send(k, topic, data, 0); /* it finds its way */
	kafka_settle(k, 1);
	begin = bench_now();
	for (i = 0; i < count; i++) {
		kafka_send(k, topic, data, 0);
		if (i % 1000 == 0)
			rd_kafka_poll(k, 0);
	}
	kafka_settle(k, count + 1);
	begin = bench_now() - begin;
	rd_kafka_destroy(k);
	return (double)count * 1e3 / (double)begin;
}

static double kafka_read(struct rig_kafka *r, const char *topic, uint64_t count)
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

static double kafka_ack(struct rig_kafka *r, const char *topic, unsigned count, struct bench_samples *s)
{
	rd_kafka_t *k = client(r, RD_KAFKA_PRODUCER, "0");
	char data[BYTES] = "k";
	uint64_t begin;
	unsigned i;

	delivered = 0;
	kafka_send(k, topic, data, 0);
	kafka_settle(k, 1);
	bench_samples_clear(s);
	for (i = 0; i < count; i++) {
		begin = bench_now();
		kafka_send(k, topic, data, 0);
		kafka_settle(k, i + 2);
		bench_samples_add(s, bench_now() - begin);
	}
	rd_kafka_destroy(k);
	return bench_percentile(s, 0.5);
}

/* ------------------------------------------------------------------- native */

static struct thmq_producer *producer(struct rig_kafka *r, const char *topic)
{
	struct thmq_producer *p;

	rig_kafka_check("producer", thmq_producer_open(r->session, topic, NULL, &p));
	return p;
}

static void native_send(struct rig_kafka *r, struct thmq_producer *p, const void *data)
{
	int64_t rc;

	while ((rc = thmq_send(p, data, BYTES, NULL)) == -EAGAIN)
		thmq_poll(r->env, 1000000);
	rig_kafka_check("send", rc);
}

static double native_flow(struct rig_kafka *r, const char *topic, uint64_t count)
{
	struct thmq_producer *p = producer(r, topic);
	char data[BYTES] = "n";
	uint64_t begin, i;

	native_send(r, p, data);
	rig_kafka_check("flush", thmq_flush(p, 10 * SECOND));
	begin = bench_now();
	for (i = 0; i < count; i++) {
		native_send(r, p, data);
		if (i % 64 == 0)
			thmq_poll(r->env, 0);
	}
	rig_kafka_check("flush", thmq_flush(p, 60 * SECOND));
	begin = bench_now() - begin;
	rig_kafka_check("close", thmq_producer_close(p, SECOND));
	return (double)count * 1e3 / (double)begin;
}

static double native_read(struct rig_kafka *r, const char *topic, uint64_t count)
{
	uint64_t begin = bench_now(), end = begin + 60 * SECOND, got = 0;
	struct thmq_consumer *c;
	struct thmq_message m[256];
	int n;

	rig_kafka_check("consumer", thmq_consumer_open(r->session, topic, NULL, NULL, &c));
	while (got < count && bench_now() < end) {
		n = thmq_fetch(c, m, 256);
		rig_kafka_check("fetch", n);
		if (n)
			thmq_release(c, m, (uint32_t)n);
		else
			thmq_poll(r->env, 1000000);
		got += (uint64_t)n;
	}
	if (got < count)
		bench_die("nothing to read", -ETIMEDOUT);
	begin = bench_now() - begin;
	rig_kafka_check("close", thmq_consumer_close(c, SECOND));
	return (double)count * 1e3 / (double)begin;
}

static double native_ack(struct rig_kafka *r, const char *topic, unsigned count, struct bench_samples *s)
{
	struct thmq_producer *p = producer(r, topic);
	char data[BYTES] = "n";
	uint64_t begin;
	unsigned i;

	bench_samples_clear(s);
	for (i = 0; i < count; i++) {
		begin = bench_now();
		native_send(r, p, data);
		rig_kafka_check("flush", thmq_flush(p, 10 * SECOND));
		bench_samples_add(s, bench_now() - begin);
	}
	rig_kafka_check("close", thmq_producer_close(p, SECOND));
	return bench_percentile(s, 0.5);
}

/* -------------------------------------------------------------------- lines */

static double nats_flow(void *nats, uint64_t *rate)
{
	uint64_t count = *rate * MEANWHILE_NS / SECOND, begin = bench_now();
	double each;

	count = count < 100 ? 100 : count;
	rig_rival_nats.store(nats, count, BYTES);
	each = (double)count * 1e3 / (double)(bench_now() - begin);
	*rate = (uint64_t)(each * 1e6); /* so that its next turn is as long */
	return each;
}

static void flows(struct bench *b, struct rig_kafka *r)
{
	struct bench_line flow = {.name = "kafka_flow_100B", .unit = "M/s", .measure = BENCH_VALUE, .sense = BENCH_AT_LEAST, .bar = 1},
			  own = {.name = "kafka_flow_100B_own", .unit = "M/s", .rival = "own session", .measure = BENCH_RATIO},
			  nats = {.name = "kafka_flow_100B_nats",
				  .unit = "M/s",
				  .rival = rig_rival_nats.name,
				  .measure = BENCH_RATIO,
				  .sense = BENCH_AT_LEAST,
				  .bar = 1},
			  read = {.name = "kafka_read_100B", .unit = "M/s", .rival = "own session", .measure = BENCH_RATIO},
			  read_native = {.name = "kafka_read_native", .unit = "M/s", .rival = "own session", .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&flow, &own, &read, &read_native, &nats};
	uint64_t count = b->smoke ? 1000 : 1000000, nats_rate = 1000;
	char theirs[32], ours[32], dir[3100];
	const char *why = "";
	void *rival;
	unsigned i;
	bool wanted = false;

	for (i = 0; i < 5; i++)
		wanted |= bench_wants(b, lines[i]->name);
	if (!wanted)
		return;
	if (bench_mkdir(b, "nats", dir, sizeof(dir)))
		bench_die("mkdir", -errno);
	rival = bench_wants(b, nats.name) ? rig_rival_nats.open(dir, &why) : NULL;
	for (unsigned round = 0; bench_more(b, round, lines, rival ? 5 : 4); round++) {
		double published, read_back;

		rig_kafka_topic(r, 1, theirs, sizeof(theirs));
		rig_kafka_topic(r, 1, ours, sizeof(ours));
		published = kafka_flow(r, theirs, count);
		bench_pairs_add(&flow.pairs, published, 0);
		bench_pairs_add(&own.pairs, published, native_flow(r, ours, count));
		if (rival)
			bench_pairs_add(&nats.pairs, published, nats_flow(rival, &nats_rate));
		read_back = native_read(r, ours, count);
		bench_pairs_add(&read.pairs, kafka_read(r, theirs, count), read_back);
		bench_pairs_add(&read_native.pairs, kafka_read(r, ours, count), read_back);
	}
	for (i = 0; i < (rival ? 5 : 4); i++)
		bench_report(b, lines[i]);
	if (rival)
		rig_rival_nats.close(rival);
	else if (bench_wants(b, nats.name))
		bench_skip(b, nats.name, why);
	bench_rmdir(dir);
}

static void acks(struct bench *b, struct rig_kafka *r)
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

		rig_kafka_topic(r, 1, topic, sizeof(topic));
		theirs = native_ack(r, topic, count, &s);
		ours = kafka_ack(r, topic, count, &s);
		bench_pairs_add(&l.pairs, ours, theirs);
		l.detail[0] = 0; /* of the last round */
		bench_detail(&l, "ours_us", &s);
	}
	bench_report(b, &l);
	bench_samples_fini(&s);
}

/* ------------------------------------------------------ fetched, thrown away */

#define FETCH_BYTES (20u << 10) /* of a message: one alone is a batch that goes to the socket from where it lies */
#define FETCH_MOST (10u << 20)  /* of a partition at a time */

/* Fetch version 4, of one partition: bytes of the request and of its answer's head, as the protocol has them. */
struct fetch_request {
	uint8_t length[4], api[2], version[2], correlation[4], client_len[2], client[1];
	uint8_t replica[4], wait_ms[4], bytes_min[4], bytes_max[4], isolation, topics[4], topic_len[2];
} __attribute__((packed));
struct fetch_partition {
	uint8_t count[4], index[4], offset[8], bytes_max[4];
} __attribute__((packed));
struct fetch_answer { /* behind the topic's name, which follows its first four fields */
	uint8_t partitions[4], index[4], error[2], high[8], stable[8], aborted[4], bytes[4];
} __attribute__((packed));
struct batch_head {
	uint8_t offset[8], length[4], epoch[4], magic, crc[4], flags[2], last[4];
} __attribute__((packed));

static void put(uint8_t *at, size_t bytes, uint64_t value)
{
	while (bytes--) {
		at[bytes] = (uint8_t)value;
		value >>= 8;
	}
}

static uint64_t get(const uint8_t *at, size_t bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | *at++;
	return value;
}

static void take(int fd, void *data, size_t bytes)
{
	char *at = data;

	while (bytes > 0) {
		ssize_t n = recv(fd, at, bytes, MSG_WAITALL);

		if (n <= 0)
			bench_die("the connection", n ? -errno : -ECONNRESET);
		at += n;
		bytes -= (size_t)n;
	}
}

static void give(int fd, const void *data, size_t bytes)
{
	const char *at = data;

	while (bytes > 0) {
		ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);

		if (n <= 0)
			bench_die("the connection", -errno);
		at += n;
		bytes -= (size_t)n;
	}
}

struct fetching {
	int fd;
	const char *topic;
	uint8_t *data;        /* an answer */
	uint64_t bytes;       /* that came */
	uint32_t sizes[4096]; /* of the answers */
	unsigned count;
};

/* One answer. Return: the offset that follows, @offset at the end */
static uint64_t fetch_one(struct fetching *f, uint64_t offset)
{
	struct fetch_request head = {.client = "b"};
	struct fetch_partition part = {.count = {0}};
	const size_t name = strlen(f->topic);
	struct fetch_answer *a;
	uint8_t request[256], *at = request;
	uint64_t len, left;

	put(head.length, 4, sizeof(head) - 4 + name + sizeof(part));
	put(head.api, 2, 1);
	put(head.version, 2, 4);
	put(head.client_len, 2, 1);
	put(head.replica, 4, UINT32_MAX);
	put(head.wait_ms, 4, 100); /* the reader may have to be made */
	put(head.bytes_min, 4, 1);
	put(head.bytes_max, 4, 5 * FETCH_MOST);
	put(head.topics, 4, 1);
	put(head.topic_len, 2, name);
	put(part.count, 4, 1);
	put(part.offset, 8, offset);
	put(part.bytes_max, 4, FETCH_MOST);
	at = (uint8_t *)memcpy(at, &head, sizeof(head)) + sizeof(head);
	at = (uint8_t *)memcpy(at, f->topic, name) + name;
	memcpy(at, &part, sizeof(part));
	give(f->fd, request, sizeof(head) + name + sizeof(part));
	take(f->fd, request, 4);
	len = get(request, 4);
	if (len > 2 * FETCH_MOST || len < 14 + name + sizeof(*a) || f->count == 4096)
		bench_die("an answer's length", -EPROTO);
	take(f->fd, f->data, len);
	a = (struct fetch_answer *)(f->data + 14 + name); /* correlation, throttle, topics, length of the name */
	left = get(a->bytes, 4);
	if (get(a->error, 2) || left != len - 14 - name - sizeof(*a))
		bench_die("an answer", -EPROTO);
	for (at = (uint8_t *)(a + 1); left >= sizeof(struct batch_head);) {
		struct batch_head *b = (struct batch_head *)at;
		uint64_t whole = 12 + get(b->length, 4);

		if (whole > left)
			break;
		offset = get(b->offset, 8) + get(b->last, 4) + 1;
		at += whole;
		left -= whole;
	}
	f->bytes += len;
	f->sizes[f->count++] = (uint32_t)len;
	return offset;
}

static uint64_t cpu_of(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		bench_die("its clock", -errno);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* The bare pair: who sends says what it took. */
struct bare {
	const struct fetching *f;
	const uint8_t *data; /* as many bytes as came, so that they are no more in the processor's caches than ours are */
	int fd;
	uint64_t cpu_ns;
};

static void *bare_send(void *arg)
{
	struct bare *b = arg;
	const uint8_t *at = b->data;
	uint64_t begin = cpu_of(CLOCK_THREAD_CPUTIME_ID);
	uint8_t request[64];
	unsigned i;

	for (i = 0; i < b->f->count; i++) {
		take(b->fd, request, sizeof(request));
		give(b->fd, at, b->f->sizes[i]);
		at += b->f->sizes[i];
	}
	b->cpu_ns = cpu_of(CLOCK_THREAD_CPUTIME_ID) - begin;
	return NULL;
}

static int loopback(struct sockaddr_in *a, bool listens)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
	socklen_t len = sizeof(*a);

	if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) ||
	    (listens ? bind(fd, (struct sockaddr *)a, len) || listen(fd, 1) || getsockname(fd, (struct sockaddr *)a, &len) :
		       connect(fd, (struct sockaddr *)a, len)))
		bench_die("a socket", -errno);
	return fd;
}

static uint64_t bare_cpu(const struct fetching *f, const uint8_t *data)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listening = loopback(&a, true), fd = loopback(&a, false), yes = 1;
	struct bare b = {.f = f, .data = data, .fd = accept(listening, NULL, NULL)};
	uint8_t request[64] = {0};
	pthread_t thread;
	unsigned i;

	if (b.fd < 0 || setsockopt(b.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) || pthread_create(&thread, NULL, bare_send, &b))
		bench_die("a pair", -errno);
	for (i = 0; i < f->count; i++) {
		give(fd, request, sizeof(request));
		take(fd, f->data, f->sizes[i]);
	}
	pthread_join(thread, NULL);
	close(b.fd);
	close(fd);
	close(listening);
	return b.cpu_ns;
}

/* @messages of FETCH_BYTES, @each in a batch */
static void fetch_fill(struct rig_kafka *r, const char *topic, uint64_t messages, const char *each)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	static char data[FETCH_BYTES];
	char text[512];
	rd_kafka_t *k;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 2654435761u >> 13);
	rd_kafka_conf_set(conf, "bootstrap.servers", r->url, text, sizeof(text));
	rd_kafka_conf_set(conf, "linger.ms", "50", text, sizeof(text));
	rd_kafka_conf_set(conf, "batch.num.messages", each, text, sizeof(text));
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	k = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
	if (!k)
		bench_die(text, -EINVAL);
	delivered = 0;
	for (uint64_t i = 0; i < messages; i++)
		while (rd_kafka_producev(k, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_VALUE(data, sizeof(data)),
					 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END))
			rd_kafka_poll(k, 10);
	kafka_settle(k, messages);
	rd_kafka_destroy(k);
}

static void fetch_cost(struct bench *b, struct rig_kafka *r, const char *name, const char *each, double bar)
{
	struct bench_line l = {.name = name,
			       .unit = "s/GiB",
			       .rival = "a bare TCP pair",
			       .measure = BENCH_RATIO,
			       .sense = bar > 0 ? BENCH_AT_MOST : BENCH_NO_BAR,
			       .bar = bar};
	struct bench_line *lines[] = {&l};
	const uint64_t messages = b->smoke ? 450 : 6400; /* 125 MiB */
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)r->port)};
	static struct fetching f;
	uint8_t *data;
	clockid_t clock;
	char topic[32];

	if (!bench_wants(b, l.name))
		return;
	f.topic = rig_kafka_topic(r, 1, topic, sizeof(topic));
	fetch_fill(r, topic, messages, each);
	f.fd = loopback(&a, false);
	f.data = malloc(2 * FETCH_MOST);
	data = malloc(messages * FETCH_BYTES * 2);
	if (!f.data || !data || clock_getcpuclockid(r->server, &clock))
		bench_die("memory", -ENOMEM);
	memset(data, 1, messages * FETCH_BYTES * 2);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		uint64_t begin = cpu_of(clock), offset = 0, next;
		double gib;

		f.bytes = f.count = 0;
		while ((next = fetch_one(&f, offset)) > offset)
			offset = next;
		begin = cpu_of(clock) - begin;
		gib = (double)f.bytes / (1u << 30);
		if (f.bytes < messages * FETCH_BYTES || f.bytes > messages * FETCH_BYTES * 2)
			bench_die("bytes fetched", -EPROTO);
		bench_pairs_add(&l.pairs, (double)begin / 1e9 / gib, (double)bare_cpu(&f, data) / 1e9 / gib);
	}
	snprintf(l.detail, sizeof(l.detail), "\"answer_KiB\": %.0f", (double)f.bytes / f.count / 1024);
	bench_report(b, &l);
	close(f.fd);
	free(f.data);
	free(data);
}

/* ---------------------------------------------------------- a tenth of the load */

struct tenth {
	rd_kafka_t *k;
	const char *topic;
	uint64_t begin, count;
};

static void *tenth_send(void *arg)
{
	struct tenth *t = arg;
	char data[BYTES] = "k";
	uint64_t i, due, now;

	for (i = 0; i < t->count; i++) {
		due = t->begin + i / TENTH_BURST * TENTH_BURST * SECOND / TENTH_RATE;
		now = bench_now();
		if (now < due)
			bench_sleep_ns(due - now);
		kafka_send(t->k, t->topic, data, due);
	}
	return NULL;
}

static double tenth_p99(struct rig_kafka *r, const char *topic, uint64_t count, struct bench_samples *s)
{
	struct tenth t = {.k = client(r, RD_KAFKA_PRODUCER, "0"), .topic = topic, .count = count};
	pthread_t thread;

	delivered = 0;
	kafka_send(t.k, topic, "k", 0);
	kafka_settle(t.k, 1);
	bench_samples_clear(s);
	latencies = s;
	t.begin = bench_now();
	if (pthread_create(&thread, NULL, tenth_send, &t))
		bench_die("thread", -EAGAIN);
	kafka_settle(t.k, count + 1);
	pthread_join(thread, NULL);
	latencies = NULL;
	rd_kafka_destroy(t.k);
	return bench_percentile(s, 0.99);
}

/* The same by the own session. */
static double own_tenth_p99(struct rig_kafka *r, const char *topic, uint64_t count, struct bench_samples *s)
{
	uint64_t begin, first = 0, i = 0, settled = 0, due, now;
	struct thmq_event e[256];
	struct thmq_producer *p;
	char data[BYTES] = "n";
	int64_t rc;
	int n, k;

	rig_kafka_check("producer", thmq_producer_open(r->session, topic, THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p));
	bench_samples_clear(s);
	begin = bench_now();
	while (settled < count) {
		due = begin + i / TENTH_BURST * TENTH_BURST * SECOND / TENTH_RATE;
		now = bench_now();
		if (i == count || now < due)
			thmq_poll(r->env, i == count ? SECOND / 100 : due - now);
		for (k = 0; i < count && bench_now() >= due && k < (int)TENTH_BURST; k++, i++) {
			while ((rc = thmq_send(p, data, BYTES, NULL)) == -EAGAIN)
				thmq_poll(r->env, 1000000);
			rig_kafka_check("send", rc);
			first = first ? first : (uint64_t)rc;
		}
		while ((n = thmq_events(r->session, e, 256)) > 0)
			for (k = 0, now = bench_now(); k < n; k++) {
				uint64_t of = e[k].sequence - first;

				if (e[k].type == THMQ_EVENT_FAILED)
					bench_die("not stored", e[k].error);
				if (e[k].type != THMQ_EVENT_SETTLED)
					continue;
				bench_samples_add(s, now - (begin + of / TENTH_BURST * TENTH_BURST * SECOND / TENTH_RATE));
				settled++;
			}
	}
	rig_kafka_check("close", thmq_producer_close(p, SECOND));
	return bench_percentile(s, 0.99);
}

static void tenth(struct bench *b, struct rig_kafka *r)
{
	struct bench_line l = {.name = "kafka_tenth_p99", .unit = "ns", .rival = "own session", .measure = BENCH_VALUE, .sense = BENCH_AT_MOST, .bar = 1e6};
	uint64_t count = b->smoke ? 1000 : TENTH_RATE;
	struct bench_line *lines[] = {&l};
	const struct rig_arrivals same = {.per_s = TENTH_RATE, .burst = TENTH_BURST, .bytes = 132};
	unsigned writes = b->smoke ? 20 : 1000;
	struct bench_samples ours, device, single;
	struct rig_disk *d;
	char topic[32];

	if (!bench_wants(b, l.name))
		return;
	bench_samples_init(&ours, count);
	bench_samples_init(&device, count);
	bench_samples_init(&single, writes);
	d = rig_disk_open(b->dir, 16 << 20);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double own = own_tenth_p99(r, rig_kafka_topic(r, 1, topic, sizeof(topic)), count, &ours), p99;

		p99 = tenth_p99(r, rig_kafka_topic(r, 1, topic, sizeof(topic)), count, &ours);
		bench_samples_clear(&device);
		rig_disk_arrivals(d, &same, count, &device);
		bench_samples_clear(&single);
		rig_disk_latency(d, RIG_WAIT, writes, &single);
		bench_pairs_add(&l.pairs, p99 - bench_percentile(&device, 0.99), own - bench_percentile(&device, 0.99));
		l.detail[0] = 0; /* of the last round */
		bench_detail(&l, "ours_us", &ours);
		bench_detail(&l, "device_us", &device);
		bench_detail(&l, "single_writes_us", &single);
	}
	bench_report(b, &l);
	rig_disk_close(d);
	bench_samples_fini(&ours);
	bench_samples_fini(&device);
	bench_samples_fini(&single);
}

/* --------------------------------------------------------------------- kcat */

static double kcat(struct rig_kafka *r, char *const argv[], uint64_t count)
{
	uint64_t begin = bench_now();

	if (rig_server_run(r->dir, argv))
		bench_die("kcat", -EIO);
	return (double)count * 1e3 / (double)(bench_now() - begin);
}

static void write_lines(const char *path, uint64_t count)
{
	FILE *f = fopen(path, "w");

	if (!f)
		bench_die(path, -errno);
	for (uint64_t i = 0; i < count; i++)
		fprintf(f, "%0*llu\n", (int)BYTES, (unsigned long long)i);
	if (fclose(f))
		bench_die(path, -errno);
}

static void kcats(struct bench *b, struct rig_kafka *r)
{
	struct bench_line in = {.name = "kafka_kcat_in_100B", .unit = "M/s", .rival = "own session", .measure = BENCH_RATIO},
			  out = {.name = "kafka_kcat_out_100B", .unit = "M/s", .rival = "own session", .measure = BENCH_RATIO};
	char topic[32], own[32], program[4096], file[3300];
	char *produce[] = {program, "-P", "-b", r->url, "-t", topic, "-p", "0", "-X", "acks=all", "-l", "lines" /* of its directory */, NULL},
	     *consume[] = {program, "-C", "-b", r->url, "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q", "-f", "", NULL};
	struct bench_line *lines[] = {&in, &out};
	uint64_t count = b->smoke ? 1000 : 1000000;

	if (!bench_wants(b, in.name) && !bench_wants(b, out.name))
		return;
	if (!rig_server_find("kcat", program, sizeof(program))) {
		bench_skip(b, in.name, "there is no kcat");
		return;
	}
	snprintf(file, sizeof(file), "%s/lines", r->dir);
	write_lines(file, count);
	for (unsigned round = 0; bench_more(b, round, lines, 2); round++) {
		rig_kafka_topic(r, 1, topic, sizeof(topic));
		rig_kafka_topic(r, 1, own, sizeof(own));
		bench_pairs_add(&in.pairs, kcat(r, produce, count), native_flow(r, own, count));
		bench_pairs_add(&out.pairs, kcat(r, consume, count), native_read(r, own, count));
	}
	bench_report(b, &in);
	bench_report(b, &out);
}

int main(int argc, char **argv)
{
	struct bench b;
	struct rig_kafka r;

	bench_init(&b, argc, argv, "kafka");
	rig_kafka_open(&b, &r, 100);
	flows(&b, &r);
	acks(&b, &r);
	fetch_cost(&b, &r, "kafka_fetch_cpu", "45", 3);
	fetch_cost(&b, &r, "kafka_fetch_cpu_small", "1", 0);
	tenth(&b, &r);
	kcats(&b, &r);
	rig_kafka_close(&r);
	return bench_end(&b);
}
