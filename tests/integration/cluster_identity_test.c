/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a broker of a cluster is: its directory is opened under no other number; one that was emptied, or put back as it was some time ago, is not let in by the
 * others, since it has forgotten what it voted for, and what it had said to have; and where no majority is left without it nobody leads. And how much each lacks is told.
 *
 * usage: cluster_identity_test [tcp|inproc]; THMQ_TEST_FULL=1: both, else by TCP only
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "carry_stream.h"
#include "cluster_rig.h"

static struct {
	struct thmq_session *session;
	struct thmq_producer *producer;
	uint32_t sent;
} w;

static void send_some(void)
{
	uint64_t end = now() + 30 * SECOND;
	uint32_t n = 10;

	while (n) {
		int64_t rc = thmq_send(w.producer, &w.sent, sizeof(w.sent), NULL);

		CHECK((rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM) && now() < end);
		if (rc > 0)
			w.sent++, n--;
		else
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
	CHECK(thmq_flush(w.producer, 30 * SECOND) == 0);
}

/* Broker 3 is not what it was: the other two go on, and one of them alone does not with it. */
static void is_kept_out(void)
{
	struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};
	uint64_t end = now() + 10 * SECOND, still;
	uint32_t alone;
	int n, i;

	rig_open(2);
	rig_some_leader();
	send_some();
	while (rig.far) { /* and it is told why */
		n = thmq_cluster_nodes(w.session, nodes, BROKERS);
		CHECK(n == BROKERS);
		for (i = 0; i < n && nodes[i].id != 3; i++)
			;
		CHECK(i < n && !nodes[i].connected);
		if (nodes[i].error == -ENOTUNIQ)
			break;
		CHECK(now() < end);
		usleep(5000);
	}
	alone = rig_some_leader();
	CHECK(alone < 2);
	rig_close(alone, 5 * SECOND);
	end = now() + 10 * SECOND;
	for (still = now(); now() < still + 600 * MS; usleep(5000)) { /* the other one was handed the lead, sooner or later: until it finds out that it is alone */
		CHECK(now() < end);
		if (rig_leader() >= 0)
			still = now();
	}
	rig_open(alone);
	rig_some_leader();
	send_some();
	rig_close(2, 5 * SECOND);
}

/* Another one greets it, as one that joins would, and goes away. Return: the status of the answer. */
static int greet(uint32_t i, uint64_t from, char *cluster)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(17471)};
	const struct thmqi_node_mark mark = {.directory = from, .life = 1, .opening = from};
	struct carry_hello h = {.kind = CARRY_CALLS, .from = from, .to = i + 1, .instance = from, .silence_ms = 1000};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char host[64];

	snprintf(host, sizeof(host), "%.*s", (int)strcspn(rig.urls[i] + 6, ":"), rig.urls[i] + 6);
	CHECK(inet_pton(AF_INET, host, &to.sin_addr) == 1);
	memcpy(h.cluster, cluster, sizeof(h.cluster));
	memcpy(h.mark, &mark, sizeof(h.mark));
	thmqi_carry_hello_seal(&h);
	CHECK(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
	CHECK(send(fd, &h, sizeof(h), MSG_NOSIGNAL) == (ssize_t)sizeof(h));
	CHECK(recv(fd, &h, sizeof(h), MSG_WAITALL) == (ssize_t)sizeof(h));
	close(fd);
	memcpy(cluster, h.cluster, sizeof(h.cluster));
	return h.status;
}

/* Numbers come and go, more than are kept in mind: those that stay are. */
static void many_come(void)
{
	char cluster[THMQI_CLUSTER_NAME_MAX + 1] = "";
	uint64_t end = now() + PATIENCE_NS;
	uint32_t i, k;
	int rc;

	CHECK(greet(0, 99, cluster) == -ENOTUNIQ); /* and its answer says which cluster it is */
	for (i = 0; i < 2; i++)
		for (k = 0; k < 40; k++) {
			while ((rc = greet(i, 100 + k, cluster)) == -EAGAIN) { /* it has just begun, and does not know yet who is to be kept in mind */
				CHECK(now() < end);
				usleep(1000);
			}
			CHECK(rc == 0);
		}
}

/* Until broker @i, or with BROKERS each of them, lacks nothing; @away lacks something, unless another one leads by now, to which it has said nothing yet. */
static void wait_for_copies(uint32_t i, uint32_t away)
{
	uint64_t end = now() + PATIENCE_NS;
	bool so = false;

	for (; !so; usleep(5000)) {
		struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};
		uint32_t k;

		CHECK(thmq_cluster_nodes(w.session, nodes, BROKERS) == (int)BROKERS);
		CHECK(now() < end);
		for (so = true, k = 0; k < BROKERS; k++) {
			CHECK(nodes[k].term && nodes[k].term == nodes[0].term);
			if (nodes[k].id == away + 1)
				so = so && nodes[k].behind;
			else if (i == BROKERS || nodes[k].id == i + 1)
				so = so && !nodes[k].behind;
		}
	}
}

/* Who was away lacks what was stored meanwhile, and gets it. */
static void who_lacks_what(void)
{
	uint32_t away = (rig_some_leader() + 1) % BROKERS;

	wait_for_copies(BROKERS, BROKERS);
	rig_close(away, 5 * SECOND);
	send_some();
	wait_for_copies((away + 1) % BROKERS, away);
	rig_open(away);
	wait_for_copies(BROKERS, BROKERS);
}

/* No other directory than its own. */
static void another_number(void)
{
	struct thmq_broker *b;

	rig_close(2, 5 * SECOND);
	CHECK(rig_try(2, 2, &b) == -EINVAL);
	CHECK(strstr(thmq_errmsg(), "directory of node 3"));
	CHECK(rig_try(2, 4, &b) == -EINVAL); /* none of the cluster's */
	rig_open(2);
	rig_some_leader();
	send_some();
	rig_close(2, 5 * SECOND);
}

static void damaged(void)
{
	struct thmq_broker *b;

	rig_run("cp %s/3/node %s/kept && for at in 40 4136; do printf xxxx | dd of=%s/3/node bs=1 seek=$at conv=notrunc 2>/dev/null; done", rig.dir, rig.dir, rig.dir);
	CHECK(rig_try(2, 3, &b) == -THMQ_ECORRUPT);
	rig_run("mv %s/kept %s/3/node", rig.dir, rig.dir);
	rig_run("mkdir %s/away && mv %s/3/meta %s/3/shard-000 %s/away", rig.dir, rig.dir, rig.dir, rig.dir);
	CHECK(rig_try(2, 3, &b) == -THMQ_ECORRUPT);
	CHECK(strstr(thmq_errmsg(), "may no longer vote"));
	rig_run("mv %s/away/* %s/3", rig.dir, rig.dir);
}

static void read_all(void)
{
	uint64_t end = now() + 10 * SECOND;
	struct thmq_consumer *reader;
	struct thmq_message m[16];
	uint32_t next = 0, number;
	int n, i;

	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &reader) == 0);
	while (next < w.sent) {
		n = thmq_fetch(reader, m, 16);
		if (n < 0 || now() >= end)
			fprintf(stderr, "%u of %u messages, fetch: %d\n", next, w.sent, n);
		CHECK(n >= 0 && now() < end);
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, sizeof(number));
			CHECK(number == next++);
		}
		CHECK(thmq_release(reader, m, (uint32_t)n) == 0);
		if (!n)
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
}

/* ----------------------------------------------------------------- two at a time */

static void *add_one(void *arg)
{
	uint32_t id = *(uint32_t *)arg;
	struct thmq_session *s;
	char address[64];

	rig_address(id, address, sizeof(address));
	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.timeout_ns = 30 * SECOND), &s) == 0);
	CHECK(thmq_cluster_add(s, id, address, 30 * SECOND) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	return NULL;
}

/* Each by a session of its own: they do not keep each other from it. */
static void two_join(void)
{
	struct thmq_node nodes[8] = {{.size = sizeof(nodes[0])}};
	struct thmq_broker *more[2];
	uint32_t ids[2] = {4, 5}, i;
	pthread_t threads[2];

	for (i = 0; i < 2; i++)
		rig_join(ids[i], &more[i]);
	for (i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, add_one, &ids[i]) == 0);
	for (i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(thmq_cluster_nodes(w.session, nodes, 8) == 5);
	for (i = 0; i < 2; i++)
		CHECK(thmq_broker_close(more[i], 5 * SECOND) != -EDEADLK);
}

/* Broker @i reaches the others, or they reach it. */
static void wait_for_others(uint32_t i)
{
	uint64_t end = now() + PATIENCE_NS;
	uint32_t k, there;

	do {
		struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};

		rig_some_leader();
		usleep(5000);
		CHECK(thmq_broker_nodes(rig.brokers[i], nodes, BROKERS) == (int)BROKERS);
		for (there = 0, k = 0; k < BROKERS; k++)
			there += nodes[k].connected != 0;
		CHECK(now() < end);
	} while (there < BROKERS);
}

/* Two of three new ones do not begin: the third, if it was emptied later, would be unknown to somebody who has a vote. Once all have met any two do. */
static void begin(void)
{
	uint64_t end;
	uint32_t i;

	rig_open(0);
	rig_open(1);
	for (end = now() + 700 * MS; now() < end; usleep(5000))
		CHECK(rig_leader() < 0);
	rig_close(0, 5 * SECOND);
	rig_open(0); /* nor in its next life */
	for (end = now() + 700 * MS; now() < end; usleep(5000))
		CHECK(rig_leader() < 0);
	rig_open(2);
	for (i = 0; i < BROKERS; i++) /* each knows it by itself */
		wait_for_others(i);
	usleep(600 * 1000);
	rig_close(2, 5 * SECOND);
	rig_close(0, 5 * SECOND);
	rig_open(0);
	rig_some_leader();
	rig_open(2);
}

/* Who leads, or, if that is the third, another one. */
static uint32_t leader_of_two(void)
{
	uint32_t who = rig_some_leader();

	return who == 2 ? 0 : who;
}

static void story(bool far)
{
	memset(&w, 0, sizeof(w));
	rig_begin("who", far, 2, THMQ_BROKER_OPTS(.shard_count = 1, .segment_bytes = 1u << 20, .heartbeat_ms = 30, .election_ms = 150));
	begin();
	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.timeout_ns = 30 * SECOND), &w.session) == 0);
	CHECK(thmq_topic_create(w.session, "t", NULL) == 0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &w.producer) == 0);
	send_some();
	who_lacks_what();
	another_number();
	damaged();
	rig_run("cp -r %s/3 %s/before", rig.dir, rig.dir);
	rig_open(2);
	rig_some_leader();
	send_some();
	/* the others have seen this life of it */
	rig_close(leader_of_two(), 5 * SECOND);
	rig_some_leader();
	send_some();
	rig_open_all();
	rig_close(2, 5 * SECOND);
	rig_some_leader();
	rig_run("mv %s/3 %s/3.good && mv %s/before %s/3", rig.dir, rig.dir, rig.dir, rig.dir);
	if (getenv("THMQ_TEST_FULL"))
		is_kept_out(); /* as it was some time ago */
	rig_run("rm -rf %s/3", rig.dir);
	if (far)
		many_come();
	is_kept_out(); /* emptied */
	rig_run("rm -rf %s/3 && mv %s/3.good %s/3", rig.dir, rig.dir, rig.dir);
	rig_open(2); /* it itself */
	rig_some_leader();
	rig_close(leader_of_two(), 5 * SECOND);
	rig_some_leader();
	send_some();
	read_all();
	two_join();
	CHECK(thmq_session_close(w.session, 10 * SECOND) == 0);
	rig_end();
	printf("%s: %u messages\n", far ? "tcp" : "inproc", w.sent);
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : "";
	bool full = getenv("THMQ_TEST_FULL") != NULL;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (full || strcmp(only, "inproc") == 0)
		story(false);
	if (strcmp(only, "inproc") != 0)
		story(true);
	return 0;
}
