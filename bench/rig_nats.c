/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_nats.c - NATS JetStream as a queue: nats-server with a file store, and a small publisher of its text protocol
 * over loopback TCP (https://docs.nats.io/reference/reference-protocols/nats-protocol), which awaits the stream's
 * acknowledgements. As shipped the store leaves its files in the page cache for two minutes. Newer servers take
 * sync_interval: always; for older ones the store's directory is marked so that the file system writes everything in
 * it synchronously (ioctl_iflags(2), FS_SYNC_FL). Where neither is to be had it is no rival: its acks prove nothing.
 */
#include "rig_rival.h"
#include "rig_server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
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

struct nats {
	pid_t pid;
	int fd;
	size_t begin, end; /* of what is in in[] */
	uint32_t len;      /* of the messages in block */
	uint32_t block_count;
	size_t block_len, command_len;
	char *block;
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

/* The next message's body, ended with a zero; NULL: "PONG". Answers the server's questions meanwhile. */
static char *message(struct nats *n)
{
	for (;;) {
		char *at = line(n), *size;
		size_t len;

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
		char *body = message(n);

		if (!body)
			continue;
		if (!strstr(body, "\"seq\""))
			fail("ack", body);
		count--;
	}
}

/* ------------------------------------------------------------------- server */

/* A file, and whether the server understands it. */
static bool write_config(const char *dir, char *program, int port, bool always)
{
	char *argv[] = {program, "-t", "-c", "nats.conf", NULL};
	char path[4200];
	FILE *f;

	snprintf(path, sizeof(path), "%s/nats.conf", dir);
	f = fopen(path, "w");
	if (!f)
		bench_die(path, errno);
	fprintf(f, "listen: \"127.0.0.1:%d\"\njetstream { store_dir: \"store\"%s }\n", port,
		always ? ", sync_interval: \"always\"" : "");
	if (fclose(f) != 0)
		bench_die(path, errno);
	return rig_server_run(dir, argv) == 0;
}

/* All below @dir is written synchronously from now on. */
static bool mark_synchronous(const char *dir)
{
	int fd, flags = 0;
	char path[4200];
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

static void make_stream(struct nats *n)
{
	static const char hello[] =
		"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,"
		"\"name\":\"bench\",\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\n"
		"SUB a 1\r\nPING\r\n";
	static const char make[] = "{\"name\":\"Q\",\"subjects\":[\"q\"],\"storage\":\"file\","
				   "\"retention\":\"limits\",\"num_replicas\":1}";
	char request[512], *body;

	rig_server_write(n->fd, hello, sizeof(hello) - 1, "nats");
	while (message(n))
		;
	snprintf(request, sizeof(request), "PUB $JS.API.STREAM.CREATE.Q a %zu\r\n%s\r\n",
		 sizeof(make) - 1, make);
	rig_server_write(n->fd, request, strlen(request), "nats");
	body = message(n);
	if (!body || strstr(body, "\"error\""))
		fail("stream", body ? body : "no answer");
}

static void *nats_open(const char *dir, const char **ret_why)
{
	struct timeval limit = {.tv_sec = 20};
	char program[4096];
	char *argv[] = {program, "-c", "nats.conf", NULL};
	int port = rig_server_port();
	struct nats *n;

	if (!rig_server_find("nats-server", program, sizeof(program))) {
		*ret_why = "there is no nats-server";
		return NULL;
	}
	if (!write_config(dir, program, port, true)) {
		if (!write_config(dir, program, port, false))
			fail("configuration", "not understood");
		if (!mark_synchronous(dir)) {
			*ret_why = "this server cannot flush before it acknowledges, nor this file "
				   "system for it";
			return NULL;
		}
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		bench_die("nats", ENOMEM);
	n->pid = rig_server_start(dir, argv);
	n->fd = rig_server_connect_tcp(n->pid, port);
	if (n->fd < 0)
		fail("start", "see server.log in its directory");
	setsockopt(n->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	make_stream(n);
	return n;
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
	rig_server_stop(n->pid);
	free(n->block);
	free(n);
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
