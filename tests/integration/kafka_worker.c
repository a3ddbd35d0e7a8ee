/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kafka_worker.c - a client of Kafka by librdkafka, which kafka_test.py stops and kills where it wants. It tells each of its steps in a line, and where it is
 * told so it waits there for ever. Whatever goes wrong ends it with 3: the next one goes on where it was.
 *
 *   kafka_worker transform SERVERS FROM TO GROUP ID TIMEOUT_MS COUNT [STEP]   what is in FROM is written to TO, in transactions, until the group has read COUNT
 *                                                                            of its partitions, which are four
 *   kafka_worker produce SERVERS TOPIC                                       numbers, to two partitions, each to be stored once, until the standard input ends
 */
#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT_ONCE 20
#define PARTITIONS 4
#define WAIT_MS 60000

static const char *stop_at = "";

static void step(const char *name)
{
	printf("%s\n", name);
	fflush(stdout);
	while (strcmp(name, stop_at) == 0)
		pause();
}

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "kafka_worker: %s: %s\n", what, why);
	exit(3);
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char why[256];

	if (rd_kafka_conf_set(conf, name, value, why, sizeof(why)) != RD_KAFKA_CONF_OK)
		fail(name, why);
}

static void ok(const char *what, rd_kafka_error_t *e)
{
	if (e)
		fail(what, rd_kafka_error_string(e));
}

static void ok_code(const char *what, rd_kafka_resp_err_t e)
{
	if (e)
		fail(what, rd_kafka_err2str(e));
}

static rd_kafka_t *open_handle(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
	char why[256];
	rd_kafka_t *h;

	set(conf, "reconnect.backoff.ms", "20");
	set(conf, "reconnect.backoff.max.ms", "200");
	set(conf, "topic.metadata.refresh.fast.interval.ms", "20");
	set(conf, "log_level", "0");
	h = rd_kafka_new(type, conf, why, sizeof(why));
	if (!h)
		fail("new", why);
	return h;
}

/* ---------------------------------------------------------------- transform */

struct work {
	rd_kafka_t *consumer, *producer;
	const char *to;
	rd_kafka_message_t *got[AT_ONCE];
};

static int revoked;

/* Called from a poll: the next generation begins when this returns, not before. */
static void on_rebalance(rd_kafka_t *h, rd_kafka_resp_err_t what, rd_kafka_topic_partition_list_t *list, void *ctx)
{
	(void)ctx;
	revoked = what != RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
	ok_code("assign", rd_kafka_assign(h, revoked ? NULL : list));
}

static rd_kafka_t *open_consumer(char **argv)
{
	rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *h;

	set(conf, "bootstrap.servers", argv[2]);
	set(conf, "group.id", argv[5]);
	set(conf, "auto.offset.reset", "earliest");
	set(conf, "enable.auto.commit", "false");
	set(conf, "session.timeout.ms", "1000");
	set(conf, "heartbeat.interval.ms", "200");
	set(conf, "fetch.wait.max.ms", "20");
	rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
	h = open_handle(RD_KAFKA_CONSUMER, conf);
	rd_kafka_poll_set_consumer(h);
	rd_kafka_topic_partition_list_add(topics, argv[3], RD_KAFKA_PARTITION_UA);
	ok_code("subscribe", rd_kafka_subscribe(h, topics));
	rd_kafka_topic_partition_list_destroy(topics);
	return h;
}

static rd_kafka_t *open_producer(char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *h;

	set(conf, "bootstrap.servers", argv[2]);
	set(conf, "transactional.id", argv[6]);
	set(conf, "transaction.timeout.ms", argv[7]);
	set(conf, "linger.ms", "1");
	h = open_handle(RD_KAFKA_PRODUCER, conf);
	ok("init", rd_kafka_init_transactions(h, WAIT_MS));
	return h;
}

/* Return: how many; 0: there is nothing more just now. What was taken before others got its partition is theirs. */
static int take(struct work *w)
{
	int n;

	revoked = 0;
	for (n = 0; n < AT_ONCE; n++) {
		rd_kafka_message_t *m = rd_kafka_consumer_poll(w->consumer, n ? 20 : 200);

		while (revoked && n > 0)
			rd_kafka_message_destroy(w->got[--n]);
		revoked = 0;
		if (m && m->err) {
			rd_kafka_message_destroy(m);
			m = NULL;
		}
		if (!m)
			break;
		w->got[n] = m;
	}
	return n;
}

static rd_kafka_topic_partition_list_t *where(struct work *w)
{
	rd_kafka_topic_partition_list_t *list;

	ok_code("assignment", rd_kafka_assignment(w->consumer, &list));
	ok_code("position", rd_kafka_position(w->consumer, list));
	return list;
}

static void one_transaction(struct work *w, int n)
{
	rd_kafka_consumer_group_metadata_t *who;
	rd_kafka_topic_partition_list_t *list;
	int i;

	ok("begin", rd_kafka_begin_transaction(w->producer));
	step("begun");
	for (i = 0; i < n; i++) {
		ok_code("produce", rd_kafka_producev(w->producer, RD_KAFKA_V_TOPIC(w->to), RD_KAFKA_V_VALUE(w->got[i]->payload, w->got[i]->len),
						     RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END));
		rd_kafka_message_destroy(w->got[i]);
	}
	step("produced");
	ok_code("flush", rd_kafka_flush(w->producer, WAIT_MS));
	step("flushed");
	list = where(w);
	who = rd_kafka_consumer_group_metadata(w->consumer);
	ok("offsets", rd_kafka_send_offsets_to_transaction(w->producer, list, who, WAIT_MS));
	rd_kafka_consumer_group_metadata_destroy(who);
	rd_kafka_topic_partition_list_destroy(list);
	step("offsets");
	printf("committing\n"); /* who is to die in its middle is not stopped before */
	fflush(stdout);
	ok("commit", rd_kafka_commit_transaction(w->producer, WAIT_MS));
	step("committed");
}

/* Has the group read all? */
static int is_done(struct work *w, const char *from, int64_t count)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);
	int i;

	for (i = 0; i < PARTITIONS; i++)
		rd_kafka_topic_partition_list_add(list, from, i);
	ok_code("committed", rd_kafka_committed(w->consumer, list, WAIT_MS));
	for (i = 0; i < PARTITIONS; i++)
		count -= list->elems[i].offset > 0 ? list->elems[i].offset : 0;
	rd_kafka_topic_partition_list_destroy(list);
	return count == 0;
}

static int transform(int argc, char **argv)
{
	struct work w = {.to = argv[4]};
	int64_t count = atoll(argv[8]);
	int n;

	if (argc > 9)
		stop_at = argv[9];
	step("started");
	w.producer = open_producer(argv);
	step("init");
	w.consumer = open_consumer(argv);
	step("subscribed");
	for (;;) {
		n = take(&w);
		if (n) {
			step("read");
			one_transaction(&w, n);
		} else if (is_done(&w, argv[3], count)) {
			break;
		}
	}
	ok_code("close", rd_kafka_consumer_close(w.consumer));
	step("left");
	return 0;
}

/* ------------------------------------------------------------------ produce */

static void delivered(rd_kafka_t *h, const rd_kafka_message_t *m, void *ctx)
{
	(void)h;
	(void)ctx;
	if (m->err)
		fail("delivered", rd_kafka_err2str(m->err));
}

static int input_ends(void)
{
	struct pollfd p = {.fd = 0, .events = POLLIN};
	char c;

	return poll(&p, 1, 0) > 0 && read(0, &c, 1) <= 0;
}

static int produce(char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *h;
	char value[32];
	int i, len;

	set(conf, "bootstrap.servers", argv[2]);
	set(conf, "enable.idempotence", "true");
	set(conf, "linger.ms", "5");
	set(conf, "retry.backoff.ms", "50");
	rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	h = open_handle(RD_KAFKA_PRODUCER, conf);
	for (i = 0; i % 20 || !input_ends(); i++) {
		len = snprintf(value, sizeof(value), "%d", i);
		ok_code("produce", rd_kafka_producev(h, RD_KAFKA_V_TOPIC(argv[3]), RD_KAFKA_V_PARTITION(i % 2), RD_KAFKA_V_VALUE(value, (size_t)len),
						     RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY | RD_KAFKA_MSG_F_BLOCK), RD_KAFKA_V_END));
		rd_kafka_poll(h, i % 20 ? 0 : 20);
	}
	ok_code("flush", rd_kafka_flush(h, 2 * WAIT_MS));
	printf("%d\n", i);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 9 && strcmp(argv[1], "transform") == 0)
		return transform(argc, argv);
	if (argc == 4 && strcmp(argv[1], "produce") == 0)
		return produce(argv);
	fputs("see the head of kafka_worker.c\n", stderr);
	return 2;
}
