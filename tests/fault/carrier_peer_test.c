/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node that breaks the rules. Two copies, each with a carrier, commit over TCP; a third member is played here, byte by byte: random bytes, greetings of another
 * version, cluster, node or lane, cut off anywhere, messages that are damaged, oversized, of somebody else, of no group, twice. It is cut off, or what it says is
 * dropped; the two go on committing, and all memory comes home.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thundermq/reactor.h>
#include <thundermq/replica.h>

#include "carry_stream.h"
#include "commitlog/copies.h"

#define SECOND 1000000000ull
#define COPIES 2u
#define FOE 3u
#define GROUP 5u
#define PATIENCE_NS (30 * SECOND)

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static struct {
	struct thmq_env *env;
	struct thmq_carrier *carriers[COPIES];
	struct thmq_replica *replicas[COPIES];
	char dirs[COPIES][64], urls[COPIES][THMQ_ADDRESS_MAX];
	uint32_t roles[COPIES];
	uint64_t committed[COPIES];
	int failed;
	uint64_t next_offset;
} w;

static const char key[] = "0123456789abcdef0123456789abcdef";

static uint64_t now_ns(void)
{
	return thmqi_clock_real.now_ns(thmqi_clock_real.ctx);
}

static void live(void)
{
	thmq_poll(w.env, 1000000);
}

/* -------------------------------------------------------------------- copies */

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	(void)term;
	(void)leader;
	*(uint32_t *)ctx = role;
}

static void on_committed(void *ctx, uint64_t index)
{
	w.committed[(uint32_t *)ctx - w.roles] = index;
}

static void on_failed(void *ctx, int error)
{
	(void)ctx;
	w.failed = error;
}

static const struct thmq_replica_events events = {
	.size = sizeof(events), .role = on_role, .committed = on_committed, .failed = on_failed};

static void open_carrier(uint32_t i, const struct thmq_tls_opts *tls)
{
	CHECK(thmq_carrier_open(thmq_env_core(w.env, 0),
				THMQ_CARRIER_OPTS(.id = i + 1, .cluster = "good",
						  .listen = "tcp://127.0.0.1:0", .tls = tls,
						  .silence_ms = 300),
				&w.carriers[i]) == 0);
	CHECK(thmq_carrier_url(w.carriers[i], w.urls[i], sizeof(w.urls[i])) > 0);
}

static void open_copy(uint32_t i)
{
	struct thmq_log_opts log = {.size = sizeof(log),
				    .dir = w.dirs[i],
				    .segment_bytes_min = 1u << 20,
				    .segment_bytes_max = 1u << 20,
				    .log_id = "carrier peer"};
	struct thmq_member members[COPIES + 1] = {
		{.id = 1, .role = THMQ_MEMBER_VOTER},
		{.id = 2, .role = THMQ_MEMBER_VOTER},
		{.id = FOE, .role = THMQ_MEMBER_VOTER, .address = "tcp://127.0.0.1:1"}};

	strcpy(members[0].address, w.urls[0]);
	strcpy(members[1].address, w.urls[1]);
	CHECK(thmq_replica_open(thmq_env_core(w.env, 0),
				THMQ_REPLICA_OPTS(.log = &log, .events = &events,
						  .ctx = &w.roles[i], .id = i + 1, .group = GROUP,
						  .members = members, .member_count = COPIES + 1,
						  .carrier = w.carriers[i]),
				&w.replicas[i]) == 0);
}

static uint32_t leader(void)
{
	uint64_t begin = now_ns();

	for (;; live()) {
		CHECK(now_ns() - begin < PATIENCE_NS && !w.failed);
		for (uint32_t i = 0; i < COPIES; i++)
			if (w.roles[i] == THMQ_REPLICA_LEADER)
				return i;
	}
}

/* The two are well: something more is committed on both. */
static void commit_some(void)
{
	struct thmq_run_header *run;
	uint64_t index = 0, begin = now_ns();
	int rc;

	for (;; live()) {
		uint32_t l = leader();
		struct thmq_log *log = thmq_replica_log(w.replicas[l]);

		CHECK(now_ns() - begin < PATIENCE_NS);
		rc = thmq_log_append(log, (uint32_t)sizeof(*run) + 8, &run, &index);
		if (rc)
			continue;
		thmq_run_init(run, THMQ_RUN_OPAQUE, 1, w.next_offset++, 1, 8);
		memset(run + 1, 7, 8);
		if (thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE) == 0)
			break;
	}
	while (w.committed[0] < index || w.committed[1] < index) {
		live();
		CHECK(now_ns() - begin < PATIENCE_NS && !w.failed);
	}
}

/* As carrier 0 knows node @id. */
static struct thmq_carrier_peer peer(uint64_t id)
{
	struct thmq_carrier_peer p = {.size = sizeof(p)};

	for (uint32_t i = 0; thmq_carrier_peer(w.carriers[0], i, &p) == 0; i++)
		if (p.id == id)
			return p;
	memset(&p, 0, sizeof(p));
	return p;
}

/* ----------------------------------------------------------------------- foe */

static int call(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	CHECK(fd >= 0);
	a.sin_port = htons((uint16_t)atoi(strrchr(w.urls[0], ':') + 1));
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

static void say(int fd, const void *data, size_t len)
{
	size_t at = 0;
	ssize_t n;

	while (at < len) {
		n = send(fd, (const uint8_t *)data + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			return; /* it was cut off */
		at += n > 0 ? (size_t)n : 0;
		live();
	}
}

static struct carry_hello hello(void)
{
	struct carry_hello h = {
		.kind = CARRY_CALLS, .from = FOE, .to = 1, .instance = 1, .silence_ms = 60000};

	strcpy(h.cluster, "good");
	thmqi_carry_hello_seal(&h);
	return h;
}

/* Return: the status of the answer, 1: none came and it was cut off. */
static int answer(int fd)
{
	struct carry_hello h;
	uint64_t begin = now_ns();
	size_t have = 0;
	ssize_t n;

	while (have < sizeof(h)) {
		n = recv(fd, (uint8_t *)&h + have, sizeof(h) - have, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return 1;
		have += n > 0 ? (size_t)n : 0;
		live();
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
	CHECK(thmqi_carry_hello_check(&h, CARRY_ANSWERS) == 0 && h.from == 1);
	return h.status;
}

static void await_cut(int fd)
{
	uint64_t begin = now_ns();
	uint8_t waste[4096];
	ssize_t n;

	for (;;) {
		n = recv(fd, waste, sizeof(waste), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			break;
		live();
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
	close(fd);
}

static int befriend(void)
{
	struct carry_hello h = hello();
	int fd = call();

	say(fd, &h, sizeof(h));
	CHECK(answer(fd) == 0);
	return fd;
}

static struct thmqi_message message(uint8_t type, uint32_t batch_bytes)
{
	struct thmqi_message m = {.magic = THMQI_MESSAGE_MAGIC,
				  .version = THMQI_MESSAGE_VERSION,
				  .type = type,
				  .group = GROUP,
				  .from = FOE,
				  .to = 1,
				  .batch_bytes = batch_bytes};

	m.crc = thmqi_crc32c(0, &m, offsetof(struct thmqi_message, crc));
	return m;
}

static void say_message(int fd, struct thmqi_message m)
{
	m.crc = thmqi_crc32c(0, &m, offsetof(struct thmqi_message, crc));
	say(fd, &m, sizeof(m));
}

/* --------------------------------------------------------------------- deeds */

static void noise(struct thmqi_prng *prng)
{
	uint8_t bytes[4096];

	for (uint32_t i = 0; i < 20; i++) {
		int fd = call();

		for (uint32_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = (uint8_t)thmqi_prng_next(prng);
		say(fd, bytes, 1 + thmqi_prng_below(prng, sizeof(bytes)));
		await_cut(fd);
	}
}

static void greet_wrongly(void)
{
	struct carry_hello h;
	int fd;

	for (uint32_t deed = 0; deed < 8; deed++) {
		int want = 1;

		h = hello();
		switch (deed) {
		case 0:
			strcpy(h.cluster, "other");
			want = -ENOTUNIQ;
			break;
		case 1:
			h.to = 2;
			want = -EHOSTUNREACH;
			break;
		case 2:
			h.lane = 9;
			want = -EHOSTUNREACH;
			break;
		case 3: /* itself */
			h.from = 1;
			h.to = 2;
			break;
		case 4:
			h.kind = CARRY_ANSWERS;
			break;
		case 5:
			memset(h.cluster, 'n', sizeof(h.cluster));
			break;
		default:
			break;
		}
		thmqi_carry_hello_seal(&h);
		if (deed == 6) {
			h.version = 77; /* who has another one sees ours by the answer, whatever else that says */
			want = -THMQ_EVERSION;
			h.crc = thmqi_crc32c(0, &h, offsetof(struct carry_hello, crc));
		}
		if (deed == 7)
			h.crc++;
		fd = call();
		say(fd, &h, sizeof(h));
		CHECK(answer(fd) == want);
		await_cut(fd);
	}
}

/* A greeting and a message, up to any byte; then it goes away. */
static void stop_anywhere(void)
{
	struct {
		struct carry_hello hello;
		struct thmqi_message message;
		uint8_t batch[200];
	} all = {.hello = hello(), .message = message(THMQI_MESSAGE_APPEND, 300)};

	for (size_t len = 0; len < sizeof(all); len += 7) {
		int fd = call();

		say(fd, &all, len);
		live();
		close(fd);
		live();
	}
}

static void break_rules(void)
{
	for (uint32_t deed = 0; deed < 9; deed++) {
		struct thmqi_message m = message(THMQI_MESSAGE_APPEND, 0);
		int fd = befriend();

		switch (deed) {
		case 0:
			m.batch_bytes = (4u << 20) + 1;
			break;
		case 1:
			m.batch_bytes = UINT32_MAX;
			break;
		case 2:
			m.from = 2;
			break;
		case 3:
			m.to = 2;
			break;
		case 4:
			m.magic++;
			break;
		case 5:
			m.version++;
			break;
		case 6:
			m.type = THMQI_MESSAGE_VOTE;
			m.batch_bytes = 16;
			break;
		case 7: /* it suffers from what is no error */
			thmqi_carry_beat(&m, FOE, 1, 5);
			break;
		default:
			m.term = UINT64_MAX;
			break;
		}
		say_message(fd, m);
		await_cut(fd);
	}
	for (uint32_t bit = 0; bit < 8 * sizeof(struct thmqi_message); bit += 61) {
		struct thmqi_message m = message(THMQI_MESSAGE_APPENDED, 0);
		int fd = befriend();

		((uint8_t *)&m)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		say(fd, &m, sizeof(m));
		await_cut(fd);
	}
}

static int trouble_of_foe(void)
{
	struct thmqi_courier_peer p;

	for (uint32_t i = 0; thmqi_courier_peer((struct thmqi_courier *)w.carriers[0], i, &p); i++)
		if (p.id == FOE)
			return p.trouble;
	return 0;
}

static void await_trouble(int fd, int trouble)
{
	uint64_t begin = now_ns();
	struct thmqi_message m;

	thmqi_carry_beat(&m, FOE, 1, trouble);
	say(fd, &m, sizeof(m));
	while (trouble_of_foe() != trouble) {
		live();
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
}

/* What the other says that it suffers from, in its beats, which come before it would have to say anything. */
static void await_word(int fd, int trouble)
{
	uint8_t bytes[4096];
	struct carry_stream s = {0};
	uint64_t begin = now_ns();
	bool heard = false;

	while (!heard) {
		ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		const uint8_t *at = bytes;

		CHECK(n > 0 || (n < 0 && errno == EAGAIN));
		while (n > 0 && at < bytes + n) {
			int rc = thmqi_carry_stream_take(&s, &at, bytes + n);

			CHECK(rc >= 0);
			if (rc == CARRY_MESSAGE && s.message.type == CARRY_BEAT)
				heard |= thmqi_carry_beat_trouble(&s.message) == trouble;
		}
		live();
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
}

static void tell_troubles(void)
{
	struct thmqi_courier *c = (struct thmqi_courier *)w.carriers[0];
	int fd = befriend();

	await_trouble(fd, -EIO);
	await_trouble(fd, 0); /* also of one that knows nothing of this */
	await_trouble(fd, -ENOSPC);
	thmqi_courier_say(c, -EROFS);
	await_word(fd, -EROFS);
	thmqi_courier_say(c, 0);
	await_word(fd, 0);
	close(fd);
	fd = befriend(); /* what was said before is over with the connection */
	while (trouble_of_foe())
		live();
	close(fd);
}

static void await_refused(uint64_t count)
{
	uint64_t begin = now_ns();

	while (peer(FOE).refused < count) {
		live();
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
}

/* What is no rule's breach, but is to no avail. */
static void bother(struct thmqi_prng *prng)
{
	static uint8_t batch[100000];
	uint64_t refused = peer(FOE).refused;
	struct thmqi_message m;
	int fd = befriend();

	for (size_t i = 0; i < sizeof(batch); i++)
		batch[i] = (uint8_t)thmqi_prng_next(prng);
	m = message(THMQI_MESSAGE_APPEND, sizeof(batch));
	m.group = 99; /* there is none */
	say_message(fd, m);
	say(fd, batch, sizeof(batch));
	m.batch_bytes = 0;
	say_message(fd, m);
	await_refused(refused + 2);
	/* batches that are none, answers to nothing, twice; all of an old term */
	for (uint32_t i = 0; i < 200; i++) {
		m = message((uint8_t)(1 + i % 6), i % 6 == 0 ? 5000 : 0);
		m.term = i % 3;
		m.index = i;
		m.index_term = i % 2;
		say_message(fd, m);
		if (m.batch_bytes)
			say(fd, batch, m.batch_bytes);
	}
	commit_some();
	CHECK(peer(FOE).connected);
	/* again, a later connection of the same: the earlier one ends */
	{
		int other = befriend();

		await_cut(fd);
		CHECK(peer(FOE).connected);
		close(other);
	}
}

/* Connections that say nothing: they are cut off in a while, and others get in meanwhile. */
static void be_silent(void)
{
	int fds[200];

	for (uint32_t i = 0; i < 200; i++) {
		fds[i] = call();
		live();
	}
	close(befriend());
	commit_some();
	for (uint32_t i = 0; i < 200; i++)
		await_cut(fds[i]);
	{ /* one that was friendly, and says nothing more */
		int fd = befriend();

		await_cut(fd);
	}
}

/* Who has not got the key gets nowhere, nor does who speaks in clear. */
static void without_key(void)
{
	const struct thmq_tls_opts wrong = {.size = sizeof(wrong),
					    .psk_identity = "cluster",
					    .psk_key = "ffff456789abcdef0123456789abcdef"};
	struct carry_hello h = hello();
	struct thmq_carrier *c;
	uint64_t begin = now_ns();
	struct thmq_carrier_peer p = {.size = sizeof(p)};
	int fd = call();

	say(fd, &h, sizeof(h));
	await_cut(fd);
	CHECK(thmq_carrier_open(thmq_env_core(w.env, 0),
				THMQ_CARRIER_OPTS(.id = FOE, .cluster = "good", .tls = &wrong),
				&c) == 0);
	CHECK(thmq_carrier_place(c, 1, w.urls[0]) == 0);
	while (!p.error) {
		live();
		CHECK(thmq_carrier_peer(c, 0, &p) == 0 && now_ns() - begin < PATIENCE_NS);
	}
	CHECK(!p.connected && !peer(FOE).connected);
	CHECK(thmq_carrier_close(c) == 0);
}

/* --------------------------------------------------------------------- story */

static void remove_dirs(void)
{
	char command[128];

	for (uint32_t i = 0; i < COPIES; i++) {
		snprintf(w.dirs[i], sizeof(w.dirs[i]), "carrier_peer.%u.%d", i, (int)getpid());
		snprintf(command, sizeof(command), "rm -rf %s", w.dirs[i]);
		CHECK(system(command) == 0);
	}
}

static void refusals(void)
{
	struct thmq_core *core = thmq_env_core(w.env, 0);
	struct thmq_carrier *c = NULL;
	char url[8];

	CHECK(thmq_carrier_open(core, NULL, &c) == -EINVAL);
	CHECK(thmq_carrier_open(core, THMQ_CARRIER_OPTS(.id = 0), &c) == -EINVAL);
	CHECK(thmq_carrier_open(core, THMQ_CARRIER_OPTS(.id = 1, .flags = 1), &c) == -EINVAL);
	CHECK(thmq_carrier_open(core, THMQ_CARRIER_OPTS(.id = 1, .listen = "shm:///x"), &c) ==
	      -EINVAL);
	CHECK(thmq_carrier_open(core, THMQ_CARRIER_OPTS(.id = 1, .listen = "tls://127.0.0.1:0"),
				&c) == -EINVAL);
	CHECK(thmq_carrier_open(core, THMQ_CARRIER_OPTS(.id = 1, .listen = w.urls[0]), &c) ==
	      -EADDRINUSE);
	CHECK(thmq_carrier_open(
		      core,
		      THMQ_CARRIER_OPTS(.id = 1,
					.cluster = "a name that is longer than thirty-one letters"),
		      &c) == -EINVAL);
	CHECK(!c);
	CHECK(thmq_carrier_close(NULL) == 0);
	CHECK(thmq_carrier_url(w.carriers[0], url, sizeof(url)) == -ENOSPC);
	CHECK(thmq_carrier_place(w.carriers[0], 1, w.urls[1]) == -EINVAL);
	CHECK(thmq_carrier_place(w.carriers[0], FOE, "tcp://") == -EINVAL);
	CHECK(thmq_carrier_place(w.carriers[0], 77, NULL) == 0);
}

static void run(const struct thmq_tls_opts *tls, struct thmqi_prng *prng)
{
	int rc;

	memset(w.roles, 0, sizeof(w.roles));
	remove_dirs();
	CHECK(thmq_env_open(&w.env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20)) == 0);
	for (uint32_t i = 0; i < COPIES; i++)
		open_carrier(i, tls);
	for (uint32_t i = 0; i < COPIES; i++)
		open_copy(i);
	commit_some();
	noise(prng);
	if (tls) {
		without_key();
		CHECK(peer(2).secure);
	} else {
		refusals();
		greet_wrongly();
		stop_anywhere();
		break_rules();
		tell_troubles();
		bother(prng);
		be_silent();
	}
	commit_some();
	CHECK(peer(2).connected && peer(2).connections <= 2);
	for (uint32_t i = 0; i < COPIES; i++) {
		CHECK(thmq_replica_close(w.replicas[i], SECOND) == 0);
		if (!i) /* the other one goes with the environment */
			CHECK(thmq_carrier_close(w.carriers[i]) == 0);
	}
	rc = thmq_env_close(w.env, SECOND);
	CHECK(rc == 0);
	remove_dirs();
}

int main(void)
{
	const struct thmq_tls_opts tls = {
		.size = sizeof(tls), .psk_identity = "cluster", .psk_key = key};
	struct thmq_carrier *c;
	struct thmqi_prng prng;
	int plain, secure;

	thmqi_prng_seed(&prng, (uint64_t)getpid());
	CHECK(thmq_env_open(&w.env, NULL) == 0);
	plain = thmq_carrier_open(thmq_env_core(w.env, 0), THMQ_CARRIER_OPTS(.id = 1), &c);
	if (plain == 0)
		CHECK(thmq_carrier_close(c) == 0);
	secure = thmq_carrier_open(thmq_env_core(w.env, 0), THMQ_CARRIER_OPTS(.id = 1, .tls = &tls),
				   &c);
	if (secure == 0)
		CHECK(thmq_carrier_close(c) == 0);
	CHECK(thmq_env_close(w.env, SECOND) == 0);
	if (plain == -EOPNOTSUPP) {
		printf("built without replication\n");
		return 77;
	}
	run(NULL, &prng);
	if (secure == 0)
		run(&tls, &prng);
	return 0;
}
