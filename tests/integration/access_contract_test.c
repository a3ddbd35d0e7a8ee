/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access_contract_test.c - who may do what, and how much of it, over any medium: clients are known by what their medium proves, what the rules
 * do not allow is refused with -EACCES and told to whoever audits, and what is too much comes later and is not lost.
 *
 * usage: access_contract_test MEDIUM [case …]; MEDIUM as of transport_contract_test.c.
 */
#include <sys/stat.h>
#include <thundermq/access.h>

#include "contract.h"

static char rules_path[] = "access-rules-XXXXXX";

static struct {
	pthread_mutex_t lock;
	uint32_t count, waits; /* of those who may, and have to wait: the operation of the last */
	uint32_t operation, wait_operation;
	int32_t error;
	char identity[THMQ_IDENTITY_MAX + 1], topic[256];
} denied = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void note_denied(void *ctx, const struct thmq_access *what)
{
	(void)ctx;
	pthread_mutex_lock(&denied.lock);
	if (what->error == -EAGAIN) {
		CHECK(what->identity[0] && what->topic[0]);
		denied.waits++;
		denied.wait_operation = what->operation;
		pthread_mutex_unlock(&denied.lock);
		return;
	}
	denied.count++;
	denied.operation = what->operation;
	denied.error = what->error;
	snprintf(denied.identity, sizeof(denied.identity), "%s", what->identity);
	snprintf(denied.topic, sizeof(denied.topic), "%s", what->topic ? what->topic : "");
	pthread_mutex_unlock(&denied.lock);
}

/* Who we are, as the broker sees it: a pattern of the rules. */
static const char *me(void)
{
	static char uid[32];

	if (is("inproc"))
		return "local";
	if (is("tls"))
		return "\"cert:*CN=client*\"";
	if (is("tls-psk"))
		return "psk:client";
	snprintf(uid, sizeof(uid), "uid:%u", (unsigned)getuid());
	return is("shm") ? uid : "anonymous";
}

/* "ME" stands for us. */
static void put_rules(const char *text)
{
	FILE *f = fopen(rules_path, "w");
	const char *at;

	CHECK(f);
	for (; (at = strstr(text, "ME")); text = at + 2)
		fprintf(f, "%.*s%s", (int)(at - text), text, me());
	fprintf(f, "%s", text);
	CHECK(fclose(f) == 0);
}

static void rules(const char *text)
{
	put_rules(text);
	CHECK(thmq_broker_access_renew(broker) == 0);
}

static bool was_denied(uint32_t before, uint32_t operation, const char *topic)
{
	bool is_so;

	pthread_mutex_lock(&denied.lock);
	is_so = denied.count == before + 1 && denied.operation == operation && denied.error == -EACCES &&
		strcmp(denied.topic, topic) == 0 && denied.identity[0];
	pthread_mutex_unlock(&denied.lock);
	return is_so;
}

/* --------------------------------------------------------------------- access */

#define DENIED(call, operation, topic)                                                             \
	do {                                                                                       \
		uint32_t before_ = denied.count;                                                   \
		CHECK((call) == -EACCES && strstr(thmq_errmsg(), "rules"));                        \
		CHECK(was_denied(before_, operation, topic));                                      \
	} while (0)

static void everybody_by_his_rules(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info infos[8] = {{.size = sizeof(infos[0])}};
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_key_info key = {.size = sizeof(key)};
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;

	rules("allow * all *\n");
	CHECK(thmq_topic_create(s, "in", NULL) == 0 && thmq_topic_create(s, "out", NULL) == 0);
	CHECK(thmq_topic_create(s, "see", NULL) == 0 && thmq_topic_create(s, "none", NULL) == 0);
	rules("# what we may\n"
	      "deny nobody all *\n"
	      "allow ME produce in\n"
	      "allow ME consume ou?\n"
	      "allow ME describe s*e\n"
	      "allow ME create,delete mine-*\n"
	      "allow somebody-else all *\n");
	CHECK(thmq_producer_open(s, "in", NULL, &p) == 0);
	CHECK(thmq_send(p, "x", 1, NULL) == 1 && thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_producer_close(p, SECOND) == 0);
	DENIED(thmq_consumer_open(s, "in", NULL, NULL, &c), THMQ_OPERATION_CONSUME, "in");
	DENIED(thmq_consumer_open(s, "in", "group", NULL, &c), THMQ_OPERATION_CONSUME, "in");
	DENIED(thmq_producer_open(s, "out", NULL, &p), THMQ_OPERATION_PRODUCE, "out");
	CHECK(thmq_consumer_open(s, "out", NULL, NULL, &c) == 0 && thmq_consumer_close(c, SECOND) == 0);
	CHECK(thmq_consumer_open(s, "out", "group", NULL, &c) == 0 && thmq_consumer_close(c, SECOND) == 0);
	DENIED(thmq_topic_describe(s, "out", &infos[0]), THMQ_OPERATION_DESCRIBE, "out");
	DENIED(thmq_key_find(s, "in", 0, "k", 1, UINT64_MAX, &key), THMQ_OPERATION_CONSUME, "in");
	CHECK(thmq_key_find(s, "out", 0, "k", 1, UINT64_MAX, &key) == -ENOENT);
	infos[0].size = sizeof(infos[0]);
	CHECK(thmq_topic_describe(s, "see", &infos[0]) == 0);
	CHECK(thmq_partition_describe(s, "see", 0, NULL, &part) == 0);
	DENIED(thmq_partition_describe(s, "none", 0, NULL, &part), THMQ_OPERATION_DESCRIBE, "none");
	CHECK(thmq_topic_list(s, infos, 8) == 1 && strcmp(infos[0].name, "see") == 0);
	DENIED(thmq_topic_create(s, "other", NULL), THMQ_OPERATION_CREATE, "other");
	CHECK(thmq_topic_create(s, "mine-1", NULL) == 0 && thmq_topic_delete(s, "mine-1") == 0);
	DENIED(thmq_topic_delete(s, "in"), THMQ_OPERATION_DELETE, "in");
	DENIED(thmq_topic_delete(s, "not-there"), THMQ_OPERATION_DELETE, "not-there");
	(void)m;
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* A client that opens nothing anew, or lies about what it has opened: the shard asks, too. */
static void the_shard_asks_too(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_event e;
	uint32_t before;
	int i, n;

	rules("allow * all *\n");
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	rules("allow ME consume t\n");
	before = denied.count;
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 1)) == 1);
	CHECK(thmq_flush(p, 10 * SECOND) == -EIO);
	for (i = 0, n = 0; i < 100 && !n; i++)
		n = thmq_events(s, &e, 1);
	CHECK(n == 1 && e.type == THMQ_EVENT_FAILED && e.error == -EACCES && e.sequence == 1);
	CHECK(was_denied(before, THMQ_OPERATION_PRODUCE, "t"));
	/* it is remembered, and not told for each message */
	for (i = 0; i < 10; i++)
		CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 1)) > 0);
	CHECK(thmq_flush(p, 10 * SECOND) == -EIO && denied.count == before + 1);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void rules_that_say_nothing_sensible(void)
{
	static const char *const wrong[] = {"permit * all *\n",
					    "allow *\n",
					    "allow * everything *\n",
					    "allow * produce,, * *\n",
					    "allow * produce a b\n",
					    "allow \"half all *\n",
					    "limit *\n",
					    "limit * produce-bytes\n",
					    "limit * produce-bytes=0\n",
					    "limit * produce-bytes=99999999999999999999\n",
					    "limit * produce-bytes=10T\n",
					    "limit * outstanding=4G9\n",
					    "limit * speed=1\n"};
	struct thmq_session *s = session_of(NULL);
	size_t i;

	rules("allow * all *\n");
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		FILE *f = fopen(rules_path, "w");

		CHECK(f && fprintf(f, "# one\n%s", wrong[i]) > 0 && fclose(f) == 0);
		CHECK(thmq_broker_access_renew(broker) == -EINVAL && strstr(thmq_errmsg(), "line 2"));
	}
	/* what a crash left of an editor's file: behind the zeros stands what was never a line of its own */
	{
		static const char torn[3000] = "# one\n# two";
		FILE *f = fopen(rules_path, "w");

		CHECK(f && fwrite(torn, sizeof(torn), 1, f) == 1 && fputs("allow * all *\n", f) >= 0 && fclose(f) == 0);
		CHECK(thmq_broker_access_renew(broker) == -EINVAL && strstr(thmq_errmsg(), "line 2"));
	}
	CHECK(unlink(rules_path) == 0 && mkfifo(rules_path, 0600) == 0);
	CHECK(thmq_broker_access_renew(broker) == -EINVAL); /* and waits for nobody */
	CHECK(unlink(rules_path) == 0);
	CHECK(thmq_broker_access_renew(broker) == -ENOENT);
	CHECK(thmq_topic_create(s, "still", NULL) == 0); /* the rules that there were */
	put_rules("allow * all *\n");
	CHECK(thmq_broker_access_renew(broker) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* --------------------------------------------------------------------- limits */

/*
 * What is limited is counted when it comes in and goes out: none of this waits for the device, which a busy machine's takes a second for now and
 * then. Only topics that show what is in memory, and producers that are content with it.
 */
#define SEEN_IN_MEMORY(...) THMQ_TOPIC_OPTS(.visible_at = THMQ_DURABILITY_MEMORY, __VA_ARGS__)
#define NOT_STORED(...) THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY, __VA_ARGS__)

static double send_all(struct thmq_session *s, const char *topic, uint32_t count, uint32_t len)
{
	static char bytes[8192];
	uint64_t begin;
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_producer_open(s, topic, NOT_STORED(), &p) == 0);
	begin = now();
	for (i = 0; i < count; i++) {
		while (thmq_send(p, bytes, len, NULL) < 0)
			thmq_session_wait(s, MS);
		if (i % 4 == 3)
			CHECK(thmq_flush(p, 30 * SECOND) == 0);
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_producer_close(p, SECOND) == 0);
	return (double)(now() - begin) / 1e9;
}

static double fetch_all(struct thmq_session *s, const char *topic, uint32_t count, const struct thmq_consumer_opts *opts)
{
	uint64_t begin, end = now() + 60 * SECOND;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint32_t got = 0;

	begin = now();
	CHECK(thmq_consumer_open(s, topic, NULL, opts, &c) == 0);
	while (got < count) {
		CHECK(now() < end);
		if (thmq_fetch(c, &m, 1) != 1) {
			thmq_session_wait(s, MS);
			continue;
		}
		CHECK(m.offset == got++);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	return (double)(now() - begin) / 1e9;
}

/* A tenth of a second's worth comes at once, and one message may be had on credit. */
static void limits_of_a_topic(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_limits l = {.size = sizeof(l), .produce_messages = 200};
	double t;

	rules("allow * all *\n");
	CHECK(thmq_topic_create(s, "messages", SEEN_IN_MEMORY(.limits = &l)) == 0);
	CHECK(thmq_topic_describe(s, "messages", &info) == 0 && info.produce_messages == 200 && !info.consume_bytes);
	t = send_all(s, "messages", 80, 10);
	CHECK(t >= (80 - 20 - 4) / 200.0 * 0.95);
	CHECK(fetch_all(s, "messages", 80, NULL) < 30);
	l = (struct thmq_limits){.size = sizeof(l), .produce_bytes = 100000, .consume_bytes = 100000};
	CHECK(thmq_topic_create(s, "bytes", SEEN_IN_MEMORY(.limits = &l)) == 0);
	t = send_all(s, "bytes", 16, 4000);
	CHECK(t >= (64000 - 10000 - 4 * 4000) / 1e5 * 0.95);
	t = fetch_all(s, "bytes", 16, NULL);
	CHECK(t >= (64000 - 10000 - 4 * 4200) / 1e5 * 0.95);
	l.outstanding = 5;
	CHECK(thmq_topic_create(s, "wrong", THMQ_TOPIC_OPTS(.limits = &l)) == -EINVAL);
	l = (struct thmq_limits){.size = sizeof(l), .consume_messages = UINT64_MAX};
	CHECK(thmq_topic_create(s, "wrong", THMQ_TOPIC_OPTS(.limits = &l)) == -EINVAL);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void limits_of_a_client(void)
{
	struct thmq_session *s, *other;
	struct thmq_consumer *c;
	struct thmq_message m[16];
	double t;
	int n = 0, i;

	rules("limit ME produce-messages=200 consume-bytes=100K outstanding=6\nallow * all *\n");
	s = session_of(NULL); /* limits come with the connection */
	CHECK(thmq_topic_create(s, "c", SEEN_IN_MEMORY()) == 0);
	t = send_all(s, "c", 60, 1000);
	CHECK(t >= (60 - 20 - 4) / 200.0 * 0.95);
	CHECK(thmq_consumer_open(s, "c", NULL, NULL, &c) == 0);
	for (i = 0; i < 50; i++) {
		n += thmq_fetch(c, m + n, (uint32_t)(16 - n));
		CHECK(n < 16);
		thmq_session_wait(s, 2 * MS);
	}
	/* runs come whole: what is beyond the limit came with the last one */
	CHECK(n > 0 && n <= 6 + 4);
	CHECK(thmq_release(c, m, (uint32_t)n) == 0 && thmq_consumer_close(c, SECOND) == 0);
	t = fetch_all(s, "c", 60, NULL);
	CHECK(t >= (60000 - 10000 - 2 * 4200) / 1e5 * 0.9 - 0.1);
	CHECK(thmq_session_close(s, SECOND) == 0);
	/* and where there is no such rule any more there is no limit */
	rules("allow * all *\n");
	other = session_of(NULL);
	send_all(other, "c", 10, 10);
	CHECK(thmq_session_close(other, SECOND) == 0);
}

static bool has_waited(uint32_t before, uint32_t operation)
{
	bool is_so;

	pthread_mutex_lock(&denied.lock);
	is_so = denied.waits > before && denied.wait_operation == operation;
	pthread_mutex_unlock(&denied.lock);
	return is_so;
}

/* Who waits is told how long, and so is whoever audits; who comes back with another connection owes what he owed. */
static void limits_are_told(void)
{
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e;
	uint32_t before = denied.waits;
	uint64_t begin;

	rules("limit ME produce-messages=1 consume-messages=1\nallow * all *\n");
	s = session_of(NULL);
	CHECK(thmq_topic_create(s, "t", SEEN_IN_MEMORY()) == 0 && thmq_producer_open(s, "t", NOT_STORED(.cookie = &e), &p) == 0);
	CHECK(thmq_producer_retry_ns(p) == 0 && thmq_producer_retry_ns(NULL) == -EINVAL);
	CHECK(thmq_send(p, "1", 1, NULL) == 1 && thmq_flush(p, 10 * SECOND) == 0);
	begin = now();
	CHECK(thmq_send(p, "2", 1, NULL) == 2);
	CHECK(next_event(s, THMQ_EVENT_LIMITED, &e, 10 * SECOND) && e.producer == p && !e.consumer && e.cookie == &e && e.error == -EAGAIN);
	CHECK(e.count > 0 && e.count <= 11 * SECOND / 10);
	CHECK(thmq_producer_retry_ns(p) <= (int64_t)(11 * SECOND / 10));
	CHECK(now() - begin > 5 * SECOND / 10 || thmq_producer_retry_ns(p) > 0);
	CHECK(has_waited(before, THMQ_OPERATION_PRODUCE));
	CHECK(thmq_flush(p, 10 * SECOND) == 0 && now() - begin >= 8 * SECOND / 10);
	before = denied.waits;
	CHECK(thmq_consumer_open(s, "t", NULL, NULL, &c) == 0);
	CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1 && thmq_release(c, &m, 1) == 0);
	CHECK(next_event(s, THMQ_EVENT_LIMITED, &e, 10 * SECOND) && e.consumer == c && e.partition == 0 && e.count > 0);
	CHECK(has_waited(before, THMQ_OPERATION_CONSUME));
	CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1 && m.offset == 1 && thmq_release(c, &m, 1) == 0);
	CHECK(thmq_send(p, "3", 1, NULL) == 3 && thmq_flush(p, 10 * SECOND) == 0);
	begin = now();
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	s = session_of(NULL);
	CHECK(thmq_producer_open(s, "t", NOT_STORED(), &p) == 0);
	CHECK(thmq_send(p, "4", 1, NULL) == 1 && thmq_flush(p, 10 * SECOND) == 0);
	CHECK(now() - begin >= 8 * SECOND / 10);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* Without rules: a broker's option. */
static void limits_of_everybody(void)
{
	struct thmq_limits l = {.size = sizeof(l), .produce_messages = 100};
	struct thmq_broker *other;
	struct thmq_session *s;
	double t;

	if (!is("inproc"))
		return;
	l.produce_bytes = UINT64_MAX;
	CHECK(thmq_broker_open(home, THMQ_BROKER_OPTS(.name = "other", .client_limits = &l), &other) == -EINVAL);
	l.produce_bytes = 0;
	CHECK(thmq_broker_open(home, THMQ_BROKER_OPTS(.name = "other", .client_limits = &l), &other) == 0);
	CHECK(thmq_connect(away, "inproc://other", NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	t = send_all(s, "t", 40, 10);
	CHECK(t >= (40 - 10 - 4) / 100.0 * 0.95);
	CHECK(thmq_session_close(s, SECOND) == 0 && thmq_broker_close(other, 30 * SECOND) == 0);
}

/* ------------------------------------------------------------------- altering */

static void send_some(struct thmq_session *s, struct thmq_producer *p, uint32_t count, uint32_t len)
{
	static char bytes[4096];
	uint32_t i;

	for (i = 0; i < count; i++) {
		while (thmq_send(p, bytes, len, NULL) < 0)
			thmq_session_wait(s, MS);
		if (i % 4 == 3)
			CHECK(thmq_flush(p, 30 * SECOND) == 0);
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
}

static void take_some(struct thmq_session *s, struct thmq_consumer *c, uint32_t count)
{
	struct thmq_message m;

	for (; count; count--)
		CHECK(fetch(s, c, &m, 1, 30 * SECOND) == 1 && thmq_release(c, &m, 1) == 0);
}

static void alter_limits(struct thmq_session *s, const char *topic, const struct thmq_limits *l)
{
	CHECK(thmq_topic_alter(s, topic, THMQ_TOPIC_OPTS(.limits = l), THMQ_ALTER_LIMITS) == 0);
}

/* Producers and consumers that are there have other limits at once, and what was taken by the old ones is not paid for by them. */
static void limits_are_altered(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_limits l = {.size = sizeof(l)};
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint64_t begin;

	rules("allow * all *\n");
	CHECK(thmq_topic_create(s, "t", SEEN_IN_MEMORY()) == 0);
	CHECK(thmq_producer_open(s, "t", NOT_STORED(), &p) == 0 && thmq_consumer_open(s, "t", NULL, NULL, &c) == 0);
	send_some(s, p, 8, 10);
	take_some(s, c, 8);
	l.produce_messages = 100;
	alter_limits(s, "t", &l);
	CHECK(thmq_topic_describe(s, "t", &info) == 0 && info.produce_messages == 100 && !info.consume_messages);
	begin = now();
	send_some(s, p, 60, 10);
	CHECK((double)(now() - begin) / 1e9 >= (60 - 10 - 4) / 100.0 * 0.95);
	take_some(s, c, 60);
	l = (struct thmq_limits){.size = sizeof(l), .consume_messages = 50};
	alter_limits(s, "t", &l);
	begin = now();
	send_some(s, p, 32, 10);
	take_some(s, c, 32);
	CHECK((double)(now() - begin) / 1e9 >= (32 - 5 - 8) / 50.0 * 0.95);
	l = (struct thmq_limits){.size = sizeof(l), .produce_bytes = 1};
	alter_limits(s, "t", &l);
	CHECK(thmq_send(p, "one", 3, NULL) > 0); /* the first is had on credit, for minutes */
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	send_some(s, p, 0, 0);
	CHECK(thmq_send(p, "two", 3, NULL) > 0);
	CHECK(thmq_flush(p, 100 * MS) == -ETIMEDOUT);
	alter_limits(s, "t", NULL);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	send_some(s, p, 100, 1000);
	take_some(s, c, 102);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void topics_are_altered(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info info = {.size = sizeof(info)};
	const struct thmq_topic_opts o = {.size = sizeof(o), .retention_ns = 5 * SECOND, .retention_bytes = 7777, .ttl_ns = MS, .partition_count = 9};
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_message m;

	rules("allow * all *\n");
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.retention_bytes = 1 << 20)) == 0);
	CHECK(thmq_topic_create(s, "v", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_topic_create(s, "c", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT, .tombstone_ns = SECOND)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	send_some(s, p, 3, 10);
	drive(5 * MS);
	/* only what is named */
	CHECK(thmq_topic_alter(s, "t", &o, THMQ_ALTER_TTL) == 0);
	CHECK(thmq_topic_describe(s, "t", &info) == 0 && info.ttl_ns == MS && info.retention_bytes == 1 << 20 && !info.retention_ns);
	CHECK(info.partition_count == 1);
	CHECK(thmq_consumer_open(s, "t", NULL, NULL, &c) == 0);
	CHECK(fetch(s, c, &m, 1, 50 * MS) == 0);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	CHECK(thmq_topic_alter(s, "t", NULL, THMQ_ALTER_TTL) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, NULL, &c) == 0);
	take_some(s, c, 3);
	CHECK(thmq_topic_alter(s, "t", &o, THMQ_ALTER_RETENTION_TIME | THMQ_ALTER_RETENTION_BYTES) == 0);
	CHECK(thmq_topic_alter(s, "c", &o, THMQ_ALTER_TOMBSTONE) == 0);
	CHECK(thmq_topic_alter(s, "v", &o, THMQ_ALTER_TTL) == 0);
	CHECK(thmq_topic_describe(s, "v", &info) == 0 && info.ttl_ns == MS);
	/* what makes no sense */
	CHECK(thmq_topic_alter(s, "none", &o, THMQ_ALTER_TTL) == -THMQ_ENOTOPIC);
	CHECK(thmq_topic_alter(s, "t", &o, 0) == -EINVAL && thmq_topic_alter(s, "t", &o, 0x80000000u) == -EINVAL);
	CHECK(thmq_topic_alter(s, "t", &o, THMQ_ALTER_TOMBSTONE) == -EINVAL && thmq_topic_alter(s, "", &o, THMQ_ALTER_TTL) == -EINVAL);
	CHECK(thmq_topic_alter(s, "v", &o, THMQ_ALTER_RETENTION_TIME) == -EINVAL);
	CHECK(thmq_topic_alter(NULL, "t", &o, THMQ_ALTER_TTL) == -EINVAL);
	/* and who may not */
	rules("allow ME create,delete,describe,produce,consume,admin *\n");
	DENIED(thmq_topic_alter(s, "t", &o, THMQ_ALTER_TTL), THMQ_OPERATION_ALTER, "t");
	rules("allow ME alter,describe t\nallow ME describe *\n");
	CHECK(thmq_topic_alter(s, "t", &o, THMQ_ALTER_TTL) == 0);
	rules("allow * all *\n");
	CHECK(thmq_topic_delete(s, "v") == 0 && thmq_topic_alter(s, "v", &o, THMQ_ALTER_TTL) == -THMQ_ENOTOPIC);
	CHECK(thmq_session_close(s, SECOND) == 0);
	down();
	up();
	s = session_of(NULL);
	CHECK(thmq_topic_describe(s, "t", &info) == 0 && info.ttl_ns == MS && info.retention_bytes == 7777 && info.retention_ns == 5 * SECOND);
	CHECK(thmq_topic_describe(s, "c", &info) == 0 && info.tombstone_ns == 86400 * SECOND && info.flags == THMQ_TOPIC_COMPACT);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* Transactions are of nobody's topic: their own session's, and who administers the broker may see and end those of all. */
static void transactions(void)
{
	struct thmq_txn_info infos[4] = {{.size = sizeof(infos[0])}};
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_txn *t;

	rules("allow * all *\n");
	CHECK(thmq_topic_create(s, "tx", NULL) == 0);
	rules("allow ME produce,consume,describe *\n");
	CHECK(thmq_producer_open(s, "tx", NULL, &p) == 0 && thmq_txn_begin(s, NULL, &t) == 0);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.txn = t)) == 1);
	DENIED(thmq_txn_list(s, infos, 4), THMQ_OPERATION_ADMIN, "");
	DENIED(thmq_txn_force(s, thmq_txn_id(t), THMQ_TXN_ABORT, SECOND), THMQ_OPERATION_ADMIN, "");
	DENIED(thmq_txn_watch(s, "shop"), THMQ_OPERATION_ADMIN, "");
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	rules("allow ME admin *\n");
	CHECK(thmq_txn_list(s, infos, 4) >= 1); /* the end of the first one may be on its way still */
	CHECK(thmq_txn_force(s, thmq_txn_id(t), THMQ_TXN_ABORT, 5 * SECOND) == 0);
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -ECANCELED);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static const struct test_case cases[] = {
	{"everybody_by_his_rules", everybody_by_his_rules},
	{"the_shard_asks_too", the_shard_asks_too},
	{"rules_that_say_nothing_sensible", rules_that_say_nothing_sensible},
	{"limits_of_a_topic", limits_of_a_topic},
	{"limits_of_a_client", limits_of_a_client},
	{"limits_are_told", limits_are_told},
	{"limits_of_everybody", limits_of_everybody},
	{"limits_are_altered", limits_are_altered},
	{"topics_are_altered", topics_are_altered},
	{"transactions", transactions},
};

int main(int argc, char **argv)
{
	int fd = mkstemp(rules_path), rc;

	CHECK(fd >= 0 && close(fd) == 0);
	medium = argc > 1 ? argv[1] : "";
	put_rules("allow * all *\n");
	access_rules = rules_path;
	on_denied = note_denied;
	rc = contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
	unlink(rules_path);
	return rc;
}
