/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_nats.c - NATS JetStream as a queue: nats-server with a file store, and a small publisher of its text protocol
 * over loopback TCP (https://docs.nats.io/reference/reference-protocols/nats-protocol), which awaits the stream's
 * acknowledgements. As shipped the store leaves its files in the page cache for two minutes. Newer servers take
 * sync_interval: always; for older ones the store's directory is marked so that the file system writes everything in
 * it synchronously (ioctl_iflags(2), FS_SYNC_FL). Where neither is to be had it is no rival: its acks prove nothing.
 * As one server, or as three that keep the same stream (num_replicas 3): then the publisher is connected to the one that leads.
 * As a message queue: durable pull consumers, whose acknowledgements are answered; requests without a stream, from a connection to another.
 */
#include "rig_queue.h"
#include "rig_rival.h"
#include "rig_server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define IN_BYTES 65536u
#define LINE_MAX_BYTES 4096u

#define SERVERS_MAX 3u
#define READY_NS 30000000000ull
#define ANSWER_MS 500

struct place {
	char dir[4200]; /* of a server */
	int port, route;
};

struct nats {
	unsigned servers;
	struct place places[SERVERS_MAX];
	pid_t pids[SERVERS_MAX];
	int fd;
	size_t begin, end; /* of what is in in[] */
	uint32_t len;      /* of the messages in block */
	uint32_t block_count;
	size_t block_len, command_len;
	char *block;
	unsigned groups;   /* that were ever made */
	struct nats *peer; /* another connection; NULL: none yet */
	char head[512];    /* of the newest message: subject, number, where an answer goes if one is wanted, size */
	char in[IN_BYTES];
};

/* Unacknowledged at most: more is not faster, as each message is flushed alone. */
static uint32_t nats_batch(uint32_t len)
{
	return len > 4096 ? 64 : 512;
}

static void fail(const char *what, const char *text)
{
	fprintf(stderr, "bench: nats %s: %s\n", what, text);
	exit(2);
}

/* ------------------------------------------------------------ what comes in */

static void more(struct nats *n)
{
	ssize_t got;

	if (n->begin == n->end)
		n->begin = n->end = 0;
	if (n->begin > 0 && n->end == IN_BYTES) {
		memmove(n->in, n->in + n->begin, n->end - n->begin);
		n->end -= n->begin;
		n->begin = 0;
	}
	do
		got = recv(n->fd, n->in + n->end, IN_BYTES - n->end, 0);
	while (got < 0 && errno == EINTR);
	if (got <= 0)
		bench_die("nats", got < 0 ? errno : EPIPE);
	n->end += (size_t)got;
}

/* A line without its end of line, in the buffer until the next call. */
static char *line(struct nats *n)
{
	size_t looked = 0;

	for (;;) {
		char *at = n->in + n->begin;
		char *end = memchr(at + looked, '\n', n->end - n->begin - looked);

		if (end) {
			n->begin += (size_t)(end - at) + 1;
			*end = 0;
			if (end > at && end[-1] == '\r')
				end[-1] = 0;
			return at;
		}
		looked = n->end - n->begin;
		if (looked >= LINE_MAX_BYTES)
			fail("line", "too long");
		more(n);
	}
}

/* Is there a whole line, or does one come within so long? */
static bool await_line(struct nats *n, int ms)
{
	struct pollfd p = {.fd = n->fd, .events = POLLIN};

	while (!memchr(n->in + n->begin, '\n', n->end - n->begin)) {
		if (poll(&p, 1, ms) == 0)
			return false;
		more(n);
	}
	return true;
}

/* The next message's body, ended with a zero; NULL: "PONG", or none within @ms (-1: it comes). Answers the server's questions meanwhile. */
static char *message(struct nats *n, int ms)
{
	for (;;) {
		char *at, *size;
		size_t len;

		if (ms >= 0 && !await_line(n, ms))
			return NULL;
		at = line(n);
		if (strcmp(at, "PONG") == 0)
			return NULL;
		if (strcmp(at, "PING") == 0)
			rig_server_write(n->fd, "PONG\r\n", 6, "nats");
		if (strncmp(at, "-ERR", 4) == 0)
			fail("answer", at);
		if (strncmp(at, "MSG ", 4) != 0)
			continue;
		size = strrchr(at, ' ');
		len = strtoul(size, NULL, 10);
		snprintf(n->head, sizeof(n->head), "%s", at + strlen("MSG "));
		if (len > IN_BYTES / 2)
			fail("message", "too long");
		while (n->end - n->begin < len + 2)
			more(n);
		at = n->in + n->begin;
		at[len] = 0;
		n->begin += len + 2;
		return at;
	}
}

static void acks(struct nats *n, uint64_t count)
{
	while (count > 0) {
		char *body = message(n, -1);

		if (!body)
			continue;
		/* of what was asked again as no answer had come in time, the other answer */
		if (strstr(body, "\"io.nats.jetstream.api."))
			continue;
		if (!strstr(body, "\"seq\""))
			fail("ack", body);
		count--;
	}
}

/* ------------------------------------------------------------------- server */

/* A file, and whether the server understands it. */
static bool write_config(const struct nats *n, unsigned number, char *program, bool always)
{
	const struct place *p = &n->places[number];
	char *argv[] = {program, "-t", "-c", "nats.conf", NULL};
	char path[4300];
	FILE *f;

	snprintf(path, sizeof(path), "%s/nats.conf", p->dir);
	f = fopen(path, "w");
	if (!f)
		bench_die(path, errno);
	fprintf(f, "listen: \"127.0.0.1:%d\"\njetstream { store_dir: \"store\"%s }\n", p->port,
		always ? ", sync_interval: \"always\"" : "");
	if (n->servers > 1) {
		fprintf(f,
			"server_name: n%u\ncluster { name: bench, listen: \"127.0.0.1:%d\", "
			"routes: [",
			number, p->route);
		for (unsigned i = 0; i < n->servers; i++)
			fprintf(f, "%s\"nats://127.0.0.1:%d\"", i ? ", " : "", n->places[i].route);
		fprintf(f, "] }\n");
	}
	if (fclose(f) != 0)
		bench_die(path, errno);
	return rig_server_run(p->dir, argv) == 0;
}

/* All below @dir is written synchronously from now on. */
static bool mark_synchronous(const char *dir)
{
	int fd, flags = 0;
	char path[4300];
	bool done;

	snprintf(path, sizeof(path), "%s/store", dir);
	mkdir(path, 0777);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		bench_die(path, errno);
	done = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
	flags |= FS_SYNC_FL;
	done = done && ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
	close(fd);
	return done;
}

/* Directories and ports, and what each server is told. False: none could flush before it acknowledges. */
static bool prepare(struct nats *n, const char *dir, char *program)
{
	for (unsigned i = 0; i < n->servers; i++) {
		struct place *p = &n->places[i];

		p->port = rig_server_port();
		p->route = rig_server_port();
		snprintf(p->dir, sizeof(p->dir), "%s", dir);
		if (n->servers == 1)
			break;
		snprintf(p->dir, sizeof(p->dir), "%s/server-%u", dir, i);
		if (mkdir(p->dir, 0777) != 0)
			bench_die(p->dir, errno);
	}
	for (unsigned i = 0; i < n->servers; i++) {
		if (write_config(n, i, program, true))
			continue;
		if (!write_config(n, i, program, false))
			fail("configuration", "not understood");
		if (!mark_synchronous(n->places[i].dir))
			return false;
	}
	return true;
}

static void meet(struct nats *n, unsigned server)
{
	static const char hello[] =
		"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,"
		"\"name\":\"bench\",\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\n"
		"SUB a 1\r\nPING\r\n";
	struct timeval limit = {.tv_sec = 20};

	n->begin = n->end = 0;
	n->fd = rig_server_connect_tcp(n->pids[server], n->places[server].port);
	if (n->fd < 0)
		fail("start", "see server.log in its directory");
	setsockopt(n->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	rig_server_write(n->fd, hello, sizeof(hello) - 1, "nats");
	while (message(n, -1))
		;
}

/* NULL: none for so long, as from servers that have not met. */
static char *ask(struct nats *n, const char *subject, const char *body)
{
	char request[512];

	snprintf(request, sizeof(request), "PUB %s a %zu\r\n%s\r\n", subject, strlen(body), body);
	rig_server_write(n->fd, request, strlen(request), "nats");
	return message(n, ANSWER_MS);
}

static char *make_stream(struct nats *n)
{
	uint64_t begin = bench_now();
	char make[256], *body;

	snprintf(make, sizeof(make),
		 "{\"name\":\"Q\",\"subjects\":[\"q\"],\"storage\":\"file\","
		 "\"retention\":\"limits\",\"num_replicas\":%u}",
		 n->servers);
	do {
		body = ask(n, "$JS.API.STREAM.CREATE.Q", make);
		if (body && !strstr(body, "\"error\""))
			return body;
		if (n->servers > 1)
			bench_sleep_ns(200000000);
	} while (n->servers > 1 && bench_now() - begin < READY_NS);
	fail("stream", body ? body : "no answer");
	return NULL;
}

/* Whoever leads the stream takes its messages without another hop: the publisher's place is there. */
static void go_to_leader(struct nats *n, char *body)
{
	uint64_t begin = bench_now();

	while (bench_now() - begin < READY_NS) {
		const char *leader = body ? strstr(body, "\"leader\":\"n") : NULL;

		if (leader) {
			close(n->fd);
			meet(n, (unsigned)(leader[strlen("\"leader\":\"n")] - '0') % n->servers);
			return;
		}
		bench_sleep_ns(100000000);
		body = ask(n, "$JS.API.STREAM.INFO.Q", "");
	}
	fail("stream", "nobody leads it");
}

static void *open_servers(const char *dir, unsigned servers, const char **ret_why)
{
	char program[4096];
	char *argv[] = {program, "-c", "nats.conf", NULL};
	struct nats *n;
	char *body;

	if (!rig_server_find("nats-server", program, sizeof(program))) {
		*ret_why = "there is no nats-server";
		return NULL;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		bench_die("nats", ENOMEM);
	n->servers = servers;
	if (!prepare(n, dir, program)) {
		*ret_why = "this server cannot flush before it acknowledges, nor this file "
			   "system for it";
		free(n);
		return NULL;
	}
	for (unsigned i = 0; i < servers; i++)
		n->pids[i] = rig_server_start(n->places[i].dir, argv);
	meet(n, 0);
	body = make_stream(n);
	if (servers > 1)
		go_to_leader(n, body);
	return n;
}

static void *nats_open(const char *dir, const char **ret_why)
{
	return open_servers(dir, 1, ret_why);
}

static void *nats_open_copies(const char *dir, const char **ret_why)
{
	return open_servers(dir, SERVERS_MAX, ret_why);
}

/* ---------------------------------------------------------------- messages */

static void encode(struct nats *n, uint32_t len)
{
	char head[64];
	size_t head_len;

	if (n->len == len)
		return;
	head_len = (size_t)snprintf(head, sizeof(head), "PUB q a %u\r\n", len);
	n->command_len = head_len + len + 2;
	n->block_count = nats_batch(len) / 4;
	n->block_len = n->command_len * n->block_count;
	free(n->block);
	n->block = malloc(n->block_len);
	if (!n->block)
		bench_die("nats", ENOMEM);
	for (uint32_t i = 0; i < n->block_count; i++) {
		char *at = n->block + i * n->command_len;

		memcpy(at, head, head_len);
		memset(at + head_len, 'x', len);
		memcpy(at + head_len + len, "\r\n", 2);
	}
	n->len = len;
}

static void nats_store(void *rival, uint64_t count, uint32_t len)
{
	struct nats *n = rival;
	uint64_t sent = 0, done = 0;

	encode(n, len);
	while (done < count) {
		while (sent < count && sent - done + n->block_count <= nats_batch(len)) {
			rig_server_write(n->fd, n->block, n->block_len, "nats");
			sent += n->block_count;
		}
		acks(n, n->block_count);
		done += n->block_count;
	}
}

static void nats_one(void *rival, uint32_t len)
{
	struct nats *n = rival;

	encode(n, len);
	rig_server_write(n->fd, n->block, n->command_len, "nats");
	acks(n, 1);
}

static void nats_close(void *rival)
{
	struct nats *n = rival;

	close(n->fd);
	if (n->peer)
		close(n->peer->fd);
	free(n->peer);
	for (unsigned i = 0; i < n->servers; i++)
		rig_server_stop(n->pids[i]);
	free(n->block);
	free(n);
}

/* ------------------------------------------------------------------- groups */

#define PULL 256u /* messages that are asked for at a time; two of these are out */

struct out {
	struct nats *n;
	size_t len;
	char bytes[65536];
};

static void out_flush(struct out *o)
{
	if (o->len)
		rig_server_write(o->n->fd, o->bytes, o->len, "nats");
	o->len = 0;
}

/* With the answer to this connection. */
static void out_put(struct out *o, const char *subject, const char *body)
{
	if (o->len + 1024 > sizeof(o->bytes))
		out_flush(o);
	o->len += (size_t)snprintf(o->bytes + o->len, 1024, "PUB %s a %zu\r\n%s\r\n", subject, strlen(body), body);
}

static void pull(struct out *o, unsigned group)
{
	char subject[64], body[32];

	snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.MSG.NEXT.Q.g%u", group);
	snprintf(body, sizeof(body), "{\"batch\":%u}", PULL);
	out_put(o, subject, body);
}

static void make_group(struct nats *n, unsigned group, bool each)
{
	char subject[64], body[256];
	const char *rc;

	snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.DURABLE.CREATE.Q.g%u", group);
	snprintf(body, sizeof(body),
		 "{\"stream_name\":\"Q\",\"config\":{\"durable_name\":\"g%u\",\"deliver_policy\":\"all\",\"ack_policy\":\"%s\","
		 "\"max_ack_pending\":65536,\"replay_policy\":\"instant\"}}",
		 group, each ? "explicit" : "all");
	rc = ask(n, subject, body);
	if (!rc || strstr(rc, "\"error\""))
		fail("consumer", rc ? rc : "no answer");
}

/* The group of "$JS.ACK.Q.g7.…", in the head of a message that was stored; NULL: it is an answer. */
static char *ack_subject(struct nats *n, unsigned *ret_group)
{
	char *at = strstr(n->head, " $JS.ACK.Q.g"), *end;

	if (!at)
		return NULL;
	end = strchr(++at, ' ');
	if (end)
		*end = 0;
	*ret_group = (unsigned)strtoul(at + strlen("$JS.ACK.Q.g"), NULL, 10);
	return at;
}

/* One that came. Return: acknowledgements that are to be answered now; -1: it is such an answer. */
static int take_one(struct nats *n, struct out *o, uint64_t *got, unsigned first, uint64_t count, bool each)
{
	unsigned group;
	char *at = ack_subject(n, &group);
	uint64_t *mine;

	if (!at)
		return -1;
	mine = &got[group - first];
	++*mine;
	if (*mine % PULL == 0 && *mine + PULL < count)
		pull(o, group);
	if (!each && *mine % PULL && *mine != count)
		return 0;
	out_put(o, at, "");
	return 1;
}

static void nats_take(void *rival, uint64_t count, unsigned groups, bool each)
{
	static struct out o;
	struct nats *n = rival;
	uint64_t got[RIG_QUEUE_GROUPS_MAX] = {0}, unanswered = 0, left = count * groups;
	unsigned first = n->groups;

	o = (struct out){.n = n};
	n->groups += groups;
	for (unsigned g = first; g < n->groups; g++)
		make_group(n, g, each);
	for (unsigned g = first; g < n->groups; g++) {
		pull(&o, g);
		if (count > PULL)
			pull(&o, g);
	}
	while (left || unanswered) {
		int rc;

		/* what lies here is worked off before more is said */
		if (!memchr(n->in + n->begin, '\n', n->end - n->begin))
			out_flush(&o);
		if (!message(n, -1))
			continue;
		rc = take_one(n, &o, got, first, count, each);
		left -= rc >= 0;
		unanswered += (uint64_t)(int64_t)rc;
	}
	for (unsigned g = first; g < n->groups; g++) {
		char subject[64];

		snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.DELETE.Q.g%u", g);
		ask(n, subject, "");
	}
}

/* ------------------------------------------------------------ requests, replies */

static void meet_peer(struct nats *n)
{
	static const char words[] = "UNSUB 1\r\nSUB asked 2\r\nPING\r\n";

	n->peer = malloc(sizeof(*n));
	if (!n->peer)
		bench_die("nats", ENOMEM);
	*n->peer = *n;
	n->peer->peer = NULL;
	meet(n->peer, 0);
	rig_server_write(n->peer->fd, words, sizeof(words) - 1, "nats");
	while (message(n->peer, -1))
		;
}

static void nats_ask(void *rival)
{
	static const char text[65] = "0123456789012345678901234567890123456789012345678901234567890123";
	char words[128];
	struct nats *n = rival;

	if (!n->peer)
		meet_peer(n);
	rig_server_write(n->fd, words, (size_t)snprintf(words, sizeof(words), "PUB asked a 64\r\n%s\r\n", text), "nats");
	while (!message(n->peer, -1))
		;
	rig_server_write(n->peer->fd, words, (size_t)snprintf(words, sizeof(words), "PUB a 64\r\n%s\r\n", text), "nats");
	while (!message(n, -1))
		;
}

const struct rig_rival rig_rival_nats = {
	.name = "NATS JetStream",
	.word = "nats",
	.open = nats_open,
	.store = nats_store,
	.one = nats_one,
	.close = nats_close,
	.batch = nats_batch,
	.how = "file store made synchronous, loopback TCP, acks pipelined",
	.server = true,
};

const struct rig_rival rig_rival_nats_copies = {
	.name = "NATS JetStream, R3",
	.word = "nats_copies",
	.open = nats_open_copies,
	.store = nats_store,
	.one = nats_one,
	.close = nats_close,
	.batch = nats_batch,
	.how = "three servers, num_replicas 3, file stores made synchronous, loopback TCP to the "
	       "one that leads, acks pipelined",
	.server = true,
};

const struct rig_queue rig_queue_nats = {
	.name = "NATS JetStream",
	.word = "nats",
	.open = nats_open,
	.fill = nats_store,
	.take = nats_take,
	.ask = nats_ask,
	.close = nats_close,
	.how = "file store made synchronous, loopback TCP, a pull consumer of each group, 512 messages asked for ahead, all acks answered; requests without a stream",
};
