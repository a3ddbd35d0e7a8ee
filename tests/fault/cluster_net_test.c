/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network between brokers that keep the same data which does what none should: what one says to another goes through a thread of this test, that flips bits, leaves
 * bytes out, cuts connections off in the middle of a message, says messages twice, later, in another order, or again in a later connection, plays a whole recorded
 * connection again from its greeting on, and stands still in one direction. What is acknowledged is there, once and in order, and once the network is as it should be
 * all goes on.
 *
 * usage: cluster_net_test [rounds] [seed]; THMQ_TEST_FULL=1: 10 rounds
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "../integration/cluster_rig.h"
#include "carry_stream.h"

#define CONNS 64u
#define HOLD_BYTES (8u << 20) /* of one direction: a message with its batch, and more */
#define KEPT 400u             /* messages that are remembered */
#define KEPT_BYTES (64u << 10)
#define NEAR 17471u
#define FAR 18471u

enum fault { NONE, FLIP, FLIP_BODY, LEAVE_OUT, CUT, DROP, TWICE, LATER, OLD, GHOST, ONE_WAY, BOTH_WAYS, FAULTS };

static const char *const names[] = {"nothing", "bits flipped", "bits of batches flipped", "bytes left out", "cut off", "messages lost", "messages twice", "messages later",
				    "old messages", "old connections", "one way stands still", "all stand still"};

/* One direction of a connection: what has come and is no whole message yet, what waits to go. */
struct way {
	int from, to;
	uint8_t *in, *out;
	uint32_t in_bytes, out_bytes;
	bool greeted, calls;
	uint8_t *later; /* a message that is held back */
	uint32_t later_bytes;
};

struct kept {
	uint8_t *bytes;
	uint32_t len;
	uint64_t conn; /* of which connection; 0: this place is free */
	bool calls, greeting;
	uint32_t to; /* the broker that was called */
};

static struct {
	pthread_t thread;
	_Atomic uint32_t fault, stuck; /* stuck: who is not heard any more, ONE_WAY */
	_Atomic bool over;
	_Atomic uint64_t done;
	int listen[BROKERS];
	struct way ways[CONNS][2]; /* of who calls, and of who was called; from < 0: free */
	uint64_t conn[CONNS], conns;
	uint32_t to[CONNS], caller[CONNS];
	struct kept kept[KEPT];
	uint32_t kept_next;
	uint64_t seed;
} net;

static uint64_t dice(uint64_t below)
{
	return rig_chance_of(&net.seed, below);
}

/* ------------------------------------------------------------------ addresses */

static struct sockaddr_in place_of(uint32_t i, uint32_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	char host[64];

	snprintf(host, sizeof(host), "%.*s", (int)strcspn(rig.urls[i] + 6, ":"), rig.urls[i] + 6);
	CHECK(inet_pton(AF_INET, host, &a.sin_addr) == 1);
	return a;
}

/* ---------------------------------------------------------------- connections */

static void hang_up(uint32_t c)
{
	for (uint32_t i = 0; i < 2; i++) {
		struct way *w = &net.ways[c][i];

		if (i == 0 && w->from >= 0) {
			close(w->from);
			close(w->to);
		}
		free(w->in);
		free(w->out);
		free(w->later);
		*w = (struct way){.from = -1, .to = -1};
	}
}

static void begin_conn(int fd, uint32_t to)
{
	struct sockaddr_in a = place_of(to, FAR);
	uint32_t c;
	int other;

	for (c = 0; c < CONNS && net.ways[c][0].from >= 0; c++)
		;
	other = c < CONNS ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
	if (other < 0 || connect(other, (struct sockaddr *)&a, sizeof(a)) != 0) {
		if (other >= 0)
			close(other);
		close(fd);
		return;
	}
	CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && fcntl(other, F_SETFL, O_NONBLOCK) == 0);
	net.conn[c] = ++net.conns;
	net.to[c] = to;
	net.caller[c] = BROKERS;
	for (uint32_t i = 0; i < 2; i++) {
		net.ways[c][i] = (struct way){.from = i ? other : fd, .to = i ? fd : other, .calls = !i, .in = malloc(HOLD_BYTES), .out = malloc(HOLD_BYTES)};
		CHECK(net.ways[c][i].in && net.ways[c][i].out);
	}
}

/* ---------------------------------------------------------------------- faults */

static void put(struct way *w, const uint8_t *bytes, uint32_t len)
{
	if (w->out_bytes + len > HOLD_BYTES)
		return; /* nobody reads there: so it is lost, as all that is behind it will be */
	memcpy(w->out + w->out_bytes, bytes, len);
	w->out_bytes += len;
}

static void keep(uint32_t c, const struct way *w, const uint8_t *bytes, uint32_t len)
{
	struct kept *k = &net.kept[net.kept_next++ % KEPT];

	if (len > KEPT_BYTES)
		return;
	free(k->bytes);
	*k = (struct kept){.bytes = malloc(len), .len = len, .conn = net.conn[c], .calls = w->calls, .greeting = !w->greeted, .to = net.to[c]};
	CHECK(k->bytes);
	memcpy(k->bytes, bytes, len);
}

static const struct kept *old_one(uint32_t c, const struct way *w)
{
	for (uint32_t tries = 0; tries < 16; tries++) {
		const struct kept *k = &net.kept[dice(KEPT)];

		if (k->conn && !k->greeting && k->calls == w->calls && k->to == net.to[c])
			return k;
	}
	return NULL;
}

/* A whole message or greeting. False: the connection ends here. */
static bool pass_on(uint32_t c, struct way *w, uint8_t *bytes, uint32_t len)
{
	uint32_t fault = atomic_load(&net.fault), at = (uint32_t)dice(len);
	const struct kept *k;

	keep(c, w, bytes, len);
	if (!w->greeted && w->calls)
		net.caller[c] = (uint32_t)((const struct carry_hello *)(const void *)bytes)->from - 1;
	if (dice(10) == 0 && fault != NONE && fault < GHOST) {
		atomic_fetch_add(&net.done, 1);
		switch (fault) {
		case FLIP:
			bytes[at] ^= (uint8_t)(1u << dice(8));
			break;
		case FLIP_BODY:
			if (len > sizeof(struct thmqi_message) && w->greeted)
				bytes[sizeof(struct thmqi_message) + dice(len - sizeof(struct thmqi_message))] ^= (uint8_t)(1u << dice(8));
			break;
		case LEAVE_OUT:
			put(w, bytes, at);
			bytes += at + 1;
			len -= at + 1;
			break;
		case CUT:
			put(w, bytes, at);
			return false;
		case DROP:
			return true;
		case TWICE:
			put(w, bytes, len);
			break;
		case LATER:
			if (w->later || !w->greeted)
				break;
			w->later = malloc(len);
			CHECK(w->later);
			memcpy(w->later, bytes, len);
			w->later_bytes = len;
			return true;
		default:
			k = w->greeted ? old_one(c, w) : NULL;
			if (k)
				put(w, k->bytes, k->len);
			break;
		}
	}
	put(w, bytes, len);
	if (w->later && dice(4) == 0) {
		put(w, w->later, w->later_bytes);
		free(w->later);
		w->later = NULL;
	}
	return true;
}

/* How long what begins here is; 0: that is not all here yet. */
static uint32_t whole(const struct way *w, const uint8_t *at, uint32_t have)
{
	struct thmqi_message m;
	uint32_t len = (uint32_t)sizeof(struct carry_hello);

	if (w->greeted) {
		if (have < sizeof(m))
			return 0;
		memcpy(&m, at, sizeof(m));
		len = (uint32_t)sizeof(m) + m.batch_bytes;
	}
	return have >= len ? len : 0;
}

static bool stands_still(uint32_t c, const struct way *w)
{
	uint32_t fault = atomic_load(&net.fault), who = w->calls ? net.caller[c] : net.to[c];

	return fault == BOTH_WAYS || (fault == ONE_WAY && who == atomic_load(&net.stuck));
}

/* False: it is over. */
static bool carry(uint32_t c, struct way *w)
{
	uint32_t at = 0, len;
	ssize_t n;

	if (!stands_still(c, w) && w->in_bytes < HOLD_BYTES) {
		n = recv(w->from, w->in + w->in_bytes, HOLD_BYTES - w->in_bytes, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return false;
		w->in_bytes += n > 0 ? (uint32_t)n : 0;
	}
	while ((len = whole(w, w->in + at, w->in_bytes - at))) {
		bool goes_on = pass_on(c, w, w->in + at, len);

		w->greeted = true;
		at += len;
		if (!goes_on) {
			send(w->to, w->out, w->out_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
			return false;
		}
	}
	memmove(w->in, w->in + at, w->in_bytes - at);
	w->in_bytes -= at;
	if (!w->out_bytes || stands_still(c, w))
		return true;
	n = send(w->to, w->out, w->out_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN)
		return false;
	n = n > 0 ? n : 0;
	memmove(w->out, w->out + n, w->out_bytes - (uint32_t)n);
	w->out_bytes -= (uint32_t)n;
	return true;
}

/* What one has said in a connection that is over, as far as it is remembered, by one that nobody made; forwards or backwards. */
static void ghost(void)
{
	const struct kept *first = NULL;
	struct sockaddr_in a;
	uint32_t i, back = (uint32_t)dice(2);
	int fd;

	for (i = 0; i < 4 * KEPT && !first; i++) {
		const struct kept *k = &net.kept[dice(KEPT)];

		first = k->conn && k->calls && k->greeting ? k : NULL;
	}
	if (!first)
		return;
	a = place_of(first->to, FAR);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
		send(fd, first->bytes, first->len, MSG_NOSIGNAL);
		for (i = 0; i < KEPT; i++) {
			const struct kept *k = &net.kept[back ? KEPT - 1 - i : i];

			if (k->conn == first->conn && k->calls && !k->greeting)
				send(fd, k->bytes, k->len, MSG_NOSIGNAL | MSG_DONTWAIT);
		}
		atomic_fetch_add(&net.done, 1);
	}
	if (fd >= 0)
		close(fd);
}

/* ---------------------------------------------------------------------- thread */

static void *run(void *arg)
{
	struct pollfd fds[BROKERS + 2 * CONNS];
	uint32_t i, count;

	(void)arg;
	while (!atomic_load(&net.over)) {
		for (i = 0; i < BROKERS; i++) {
			int fd;

			while ((fd = accept4(net.listen[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
				begin_conn(fd, i);
			fds[i] = (struct pollfd){.fd = net.listen[i], .events = POLLIN};
		}
		count = BROKERS;
		for (i = 0; i < CONNS; i++) {
			if (net.ways[i][0].from < 0)
				continue;
			if (!carry(i, &net.ways[i][0]) || !carry(i, &net.ways[i][1]) || (atomic_load(&net.fault) == GHOST && dice(2000) == 0)) {
				hang_up(i);
				continue;
			}
			for (uint32_t k = 0; k < 2; k++) {
				const struct way *w = &net.ways[i][k];

				if (!stands_still(i, w))
					fds[count++] = (struct pollfd){.fd = w->from, .events = POLLIN};
			}
		}
		if (atomic_load(&net.fault) == GHOST && dice(50) == 0)
			ghost();
		poll(fds, count, 5); /* what could not go is tried again then */
	}
	return NULL;
}

static void net_begin(void)
{
	for (uint32_t i = 0; i < CONNS; i++)
		for (uint32_t k = 0; k < 2; k++)
			net.ways[i][k].from = net.ways[i][k].to = -1;
	for (uint32_t i = 0; i < BROKERS; i++) {
		struct sockaddr_in a = place_of(i, NEAR);
		int on = 1;

		net.listen[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		CHECK(net.listen[i] >= 0 && setsockopt(net.listen[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
		CHECK(bind(net.listen[i], (struct sockaddr *)&a, sizeof(a)) == 0 && listen(net.listen[i], 64) == 0);
	}
	CHECK(pthread_create(&net.thread, NULL, run, NULL) == 0);
}

static void net_end(void)
{
	atomic_store(&net.over, true);
	CHECK(pthread_join(net.thread, NULL) == 0);
	for (uint32_t i = 0; i < CONNS; i++)
		if (net.ways[i][0].from >= 0)
			hang_up(i);
	for (uint32_t i = 0; i < BROKERS; i++)
		close(net.listen[i]);
	for (uint32_t i = 0; i < KEPT; i++)
		free(net.kept[i].bytes);
}

/* --------------------------------------------------------------------- clients */

static struct {
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	uint32_t sent, came;
} w;

#define WORDS 200u

/* Whole, and the next one. */
static void take(struct thmq_consumer *consumer, uint32_t *came)
{
	struct thmq_message m[64];
	uint32_t body[WORDS], k;
	int n = thmq_fetch(consumer, m, 64), i;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(m[i].len == sizeof(body));
		memcpy(body, m[i].data, sizeof(body));
		if (body[0] != *came)
			fprintf(stderr, "%u where %u was to come\n", body[0], *came);
		for (k = 0; k < WORDS; k++)
			CHECK(body[k] == *came + k);
		++*came;
	}
	CHECK(thmq_release(consumer, m, (uint32_t)n) == 0);
}

static void step(uint32_t until)
{
	uint32_t body[WORDS], k;
	struct thmq_event e;
	int i;

	for (i = 0; i < 8 && w.sent < until; i++) {
		for (k = 0; k < WORDS; k++)
			body[k] = w.sent + k;
		if (thmq_send(w.producer, body, (uint32_t)sizeof(body), NULL) < 0)
			break;
		w.sent++;
	}
	take(w.consumer, &w.came);
	while (thmq_events(w.session, &e, 1) == 1) {
		if (e.type == THMQ_EVENT_FAILED)
			fprintf(stderr, "message %llu failed: %s\n", (unsigned long long)e.sequence, thmq_strerror(e.error));
		CHECK(e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_ASSIGNED);
	}
	CHECK(thmq_session_wait(w.session, MS) >= 0);
}

/* So many more, and all has come. */
static void catch_up(uint32_t messages)
{
	uint64_t end = now() + PATIENCE_NS;

	for (messages += w.sent; w.came < messages;) {
		CHECK(now() < end);
		step(messages);
	}
}

/* Each of them has all, as it was sent: it leads, and hands it out. */
static void read_each(void)
{
	for (uint32_t i = 0; i < BROKERS; i++) {
		struct thmq_consumer *consumer;
		uint64_t end = now() + PATIENCE_NS;
		uint32_t came = 0;

		CHECK(thmq_cluster_lead(w.session, i + 1, 30 * SECOND) == 0);
		rig_wait_for(i);
		CHECK(thmq_consumer_open(w.session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &consumer) == 0);
		while (came < w.sent) {
			CHECK(now() < end);
			take(consumer, &came);
			CHECK(thmq_session_wait(w.session, MS) >= 0);
		}
		CHECK(thmq_consumer_close(consumer, SECOND) == 0);
	}
}

int main(int argc, char **argv)
{
	bool full = getenv("THMQ_TEST_FULL") != NULL;
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : full ? 10 : 1, r, i, fault;
	char listen[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	rig_seed(argc > 2 ? argv[2] : NULL);
	net.seed = rig.seed ^ 0x5555;
	rig_begin("net", true, 2,
		  THMQ_BROKER_OPTS(.shard_count = 1, .segment_bytes = 1u << 20, .heartbeat_ms = 30, .election_ms = 150, .cluster_key = NULL));
	net_begin();
	for (i = 0; i < BROKERS; i++) {
		snprintf(listen, sizeof(listen), "tcp://%.*s:%u", (int)strcspn(rig.urls[i] + 6, ":"), rig.urls[i] + 6, FAR);
		rig.opts.cluster_listen = listen;
		rig_open(i);
	}
	rig_some_leader();
	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.timeout_ns = 30 * SECOND, .reconnect_ns = 120 * SECOND), &w.session) == 0);
	CHECK(thmq_topic_create(w.session, "t", NULL) == 0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &w.producer) == 0);
	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &w.consumer) == 0);
	for (r = 0; r < rounds; r++)
		for (fault = NONE; fault < FAULTS; fault++) {
			uint64_t done = atomic_load(&net.done), end = now() + PATIENCE_NS, until;

			atomic_store(&net.stuck, rig_chance(2) ? rig_some_leader() : (uint32_t)rig_chance(BROKERS));
			atomic_store(&net.fault, fault);
			until = now() + (50 + rig_chance(full ? 1500 : 100)) * MS;
			while (now() < until || (fault != NONE && fault < ONE_WAY && atomic_load(&net.done) == done)) {
				CHECK(now() < end);
				step(w.sent + 8);
			}
			atomic_store(&net.fault, NONE);
			end = now();
			catch_up(20);
			printf("%s: %llu times; %u messages; then all goes on after %llu ms\n", names[fault], (unsigned long long)(atomic_load(&net.done) - done), w.sent,
			       (unsigned long long)((now() - end) / MS));
		}
	CHECK(thmq_flush(w.producer, 30 * SECOND) == 0);
	read_each();
	CHECK(thmq_session_close(w.session, 10 * SECOND) == 0);
	rig_end();
	net_end();
	return 0;
}
