/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_redis.c - a Redis stream as a queue: redis-server with appendfsync always, reached through a Unix socket. It
 * answers what one turn of its loop took in after one flush of its file, and takes from each client what a read
 * brings: so many outstanding are XADDs pipelined over several connections, the next ones sent before the answers to
 * the last ones are taken in. https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
 * As a message queue: consumer groups (XREADGROUP, XACK), each connection a member.
 */
#include "rig_queue.h"
#include "rig_rival.h"
#include "rig_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A turn of the server's loop reads some 16 KiB of each connection: so many of them make a flush worth its while. */
#define CLIENTS 16u

static uint32_t pipeline(uint32_t len)
{
	return len <= 256 ? 128 : len <= 4096 ? 32 : 4;
}

static uint32_t redis_batch(uint32_t len)
{
	return CLIENTS * pipeline(len);
}

#ifdef HAVE_HIREDIS
#include <hiredis/hiredis.h>

#define START_NS 10000000000u

struct redis {
	pid_t pid;
	int dir_fd;
	redisContext *clients[CLIENTS];
	char *block; /* the commands of a pipeline, encoded */
	size_t block_len, command_len;
	uint32_t len; /* of the messages in it */
	unsigned groups;       /* that were ever made */
	char asked[64], said[64]; /* ids of the newest request and reply; "": none yet */
	char payload[RIG_RIVAL_LEN_MAX];
};

static void fail(const char *what, const char *text)
{
	fprintf(stderr, "bench: redis %s: %s\n", what, text);
	exit(2);
}

static redisContext *connect_to(struct redis *r)
{
	uint64_t begin = bench_now();
	char path[64];

	/* a socket's path has 108 bytes at most, a directory's may have more */
	snprintf(path, sizeof(path), "/proc/self/fd/%d/redis.sock", r->dir_fd);
	while (rig_server_alive(r->pid) && bench_now() - begin < START_NS) {
		redisContext *c = redisConnectUnix(path);

		if (c && !c->err)
			return c;
		if (c)
			redisFree(c);
		bench_sleep_ns(5000000);
	}
	fail("start", "see server.log in its directory");
	return NULL;
}

static redisReply *answer(redisContext *c)
{
	void *reply = NULL;

	if (redisGetReply(c, &reply) != REDIS_OK)
		fail("reply", c->errstr);
	if (((redisReply *)reply)->type == REDIS_REPLY_ERROR)
		fail("reply", ((redisReply *)reply)->str);
	return reply;
}

static void take(redisContext *c, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		freeReplyObject(answer(c));
}

static void must_flush(redisContext *c)
{
	redisReply *reply;

	redisAppendCommand(c, "CONFIG GET appendfsync");
	reply = answer(c);
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
	    strcmp(reply->element[1]->str, "always") != 0)
		fail("appendfsync", "is not always");
	freeReplyObject(reply);
}

static void *redis_open(const char *dir, const char **ret_why)
{
	char program[4096];
	char *argv[] = {program,      "--port",
			"0",          "--unixsocket",
			"redis.sock", "--appendonly",
			"yes",        "--appendfsync",
			"always",     "--save",
			"",           "--auto-aof-rewrite-percentage",
			"0",          "--aof-use-rdb-preamble",
			"no",         "--daemonize",
			"no",         NULL};
	struct redis *r;

	if (!rig_server_find("redis-server", program, sizeof(program))) {
		*ret_why = "there is no redis-server";
		return NULL;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		bench_die("redis", ENOMEM);
	memset(r->payload, 'x', sizeof(r->payload));
	r->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (r->dir_fd < 0)
		bench_die(dir, errno);
	r->pid = rig_server_start(dir, argv);
	for (uint32_t i = 0; i < CLIENTS; i++)
		r->clients[i] = connect_to(r);
	must_flush(r->clients[0]);
	return r;
}

static void encode(struct redis *r, uint32_t len)
{
	const char *argv[] = {"XADD", "q", "*", "m", r->payload};
	size_t lens[] = {4, 1, 1, 1, len};
	char *command;
	long long n;

	if (r->len == len)
		return;
	n = redisFormatCommandArgv(&command, 5, argv, lens);
	if (n < 0)
		bench_die("redis", ENOMEM);
	r->command_len = (size_t)n;
	r->block_len = r->command_len * pipeline(len);
	free(r->block);
	r->block = malloc(r->block_len);
	if (!r->block)
		bench_die("redis", ENOMEM);
	for (uint32_t i = 0; i < pipeline(len); i++)
		memcpy(r->block + i * r->command_len, command, r->command_len);
	redisFreeCommand(command);
	r->len = len;
}

static void redis_store(void *rival, uint64_t count, uint32_t len)
{
	struct redis *r = rival;
	uint32_t each = pipeline(len);
	uint64_t rounds = count / ((uint64_t)each * CLIENTS);

	encode(r, len);
	/* two pipelines of each client are under way: while one is answered the next is in the server's socket */
	for (uint64_t round = 0; round <= rounds; round++) {
		for (uint32_t i = 0; i < CLIENTS; i++) {
			if (round < rounds)
				rig_server_write(r->clients[i]->fd, r->block, r->block_len,
						 "redis");
			if (round > 0)
				take(r->clients[i], each);
		}
	}
}

static void redis_one(void *rival, uint32_t len)
{
	struct redis *r = rival;

	encode(r, len);
	rig_server_write(r->clients[0]->fd, r->block, r->command_len, "redis");
	take(r->clients[0], 1);
}

static void redis_rest(void *rival)
{
	struct redis *r = rival;

	redisAppendCommand(r->clients[0], "DEL q");
	take(r->clients[0], 1);
}

static void redis_close(void *rival)
{
	struct redis *r = rival;

	for (uint32_t i = 0; i < CLIENTS; i++)
		redisFree(r->clients[i]);
	rig_server_stop(r->pid);
	close(r->dir_fd);
	free(r->block);
	free(r);
}

/* ------------------------------------------------------------------- groups */

#define READ_MAX 128u /* messages that a member takes at a time */

struct member {
	redisContext *client;
	char group[16];
	uint32_t acks; /* answers to come, before that to its reading */
	bool reading;
	size_t len;
	char out[READ_MAX * 128 + 256]; /* commands, to be written together */
};

static void put(struct member *m, const char *bytes, size_t len)
{
	if (m->len + len > sizeof(m->out))
		fail("command", "too long");
	memcpy(m->out + m->len, bytes, len);
	m->len += len;
}

static void put_word(struct member *m, const char *word, size_t len)
{
	char head[24];

	put(m, head, (size_t)snprintf(head, sizeof(head), "$%zu\r\n", len));
	put(m, word, len);
	put(m, "\r\n", 2);
}

static void put_count(struct member *m, char kind, size_t count)
{
	char head[24];

	put(m, head, (size_t)snprintf(head, sizeof(head), "%c%zu\r\n", kind, count));
}

static void put_read(struct member *m)
{
	static const char *const words[] = {"COUNT", "128", "STREAMS", "q", ">"};
	const char *who[] = {"XREADGROUP", "GROUP", m->group, "me"};

	put_count(m, '*', 9);
	for (unsigned i = 0; i < 4; i++)
		put_word(m, who[i], strlen(who[i]));
	for (unsigned i = 0; i < 5; i++)
		put_word(m, words[i], strlen(words[i]));
	m->reading = true;
}

/* Of @list one or, @each, every one by itself. */
static void put_acks(struct member *m, const redisReply *list, bool each)
{
	for (size_t i = 0; i < list->elements; i++) {
		const redisReply *id = list->element[i]->element[0];

		if (each || i == 0) {
			put_count(m, '*', 3 + (each ? 1 : list->elements));
			put_word(m, "XACK", 4);
			put_word(m, "q", 1);
			put_word(m, m->group, strlen(m->group));
			m->acks++;
		}
		put_word(m, id->str, id->len);
	}
}

/* What it was sent: acknowledged, and more is asked for. Return: how many. */
static uint64_t turn(struct member *m, bool each)
{
	const redisReply *list;
	redisReply *reply;
	uint64_t n = 0;

	take(m->client, m->acks);
	m->acks = 0;
	if (!m->reading)
		return 0;
	m->reading = false;
	reply = answer(m->client);
	if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 1) {
		list = reply->element[0]->element[1];
		n = list->elements;
		m->len = 0;
		put_acks(m, list, each);
		put_read(m);
		rig_server_write(m->client->fd, m->out, m->len, "redis");
	}
	freeReplyObject(reply);
	return n;
}

static void redis_take(void *rival, uint64_t count, unsigned groups, bool each)
{
	static struct member members[CLIENTS];
	struct redis *r = rival;
	unsigned used = CLIENTS / groups * groups;
	uint64_t got = 0, now;

	for (unsigned g = 0; g < groups; g++) {
		redisAppendCommand(r->clients[0], "XGROUP CREATE q g%u 0", r->groups + g);
		take(r->clients[0], 1);
	}
	for (unsigned i = 0; i < used; i++) {
		struct member *m = &members[i];

		*m = (struct member){.client = r->clients[i]};
		snprintf(m->group, sizeof(m->group), "g%u", r->groups + i % groups);
		put_read(m);
		rig_server_write(m->client->fd, m->out, m->len, "redis");
	}
	do {
		for (now = 0, used = CLIENTS / groups * groups; used-- > 0;)
			now += turn(&members[used], each);
		got += now;
	} while (now);
	for (unsigned i = 0; i < CLIENTS / groups * groups; i++)
		turn(&members[i], each);
	if (got != count * groups)
		fail("groups", "have not got all");
	for (unsigned g = 0; g < groups; g++) {
		redisAppendCommand(r->clients[0], "XGROUP DESTROY q g%u", r->groups + g);
		take(r->clients[0], 1);
	}
	r->groups += groups;
}

/* ------------------------------------------------------------ requests, replies */

static void await(redisContext *c, const char *stream, const char *after)
{
	redisAppendCommand(c, "XREAD BLOCK 0 STREAMS %s %s", stream, *after ? after : "0");
}

/* Everything that is queued goes. */
static void go(redisContext *c)
{
	int done = 0;

	while (!done)
		if (redisBufferWrite(c, &done) != REDIS_OK)
			fail("write", c->errstr);
}

static void came(redisContext *c, char *ret_id, size_t size)
{
	redisReply *reply = answer(c);

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1)
		fail("stream", "nothing came");
	snprintf(ret_id, size, "%s", reply->element[0]->element[1]->element[0]->element[0]->str);
	freeReplyObject(reply);
}

/* Asker: 0 sends, 1 awaits the reply. Who answers: 2. */
static void redis_ask(void *rival)
{
	struct redis *r = rival;

	await(r->clients[2], "asked", r->asked);
	go(r->clients[2]);
	await(r->clients[1], "said", r->said);
	go(r->clients[1]);
	redisAppendCommand(r->clients[0], "XADD asked MAXLEN ~ 1000 * m %b", r->payload, (size_t)64);
	go(r->clients[0]);
	came(r->clients[2], r->asked, sizeof(r->asked));
	redisAppendCommand(r->clients[2], "XADD said MAXLEN ~ 1000 * m %b", r->payload, (size_t)64);
	go(r->clients[2]);
	came(r->clients[1], r->said, sizeof(r->said));
	take(r->clients[0], 1);
	take(r->clients[2], 1);
}
#else

static void redis_take(void *rival, uint64_t count, unsigned groups, bool each)
{
	(void)rival, (void)count, (void)groups, (void)each;
}

static void redis_ask(void *rival)
{
	(void)rival;
}

static void *redis_open(const char *dir, const char **ret_why)
{
	(void)dir;
	*ret_why = "built without hiredis";
	return NULL;
}

static void redis_store(void *rival, uint64_t count, uint32_t len)
{
	(void)rival, (void)count, (void)len;
}

static void redis_one(void *rival, uint32_t len)
{
	(void)rival, (void)len;
}

static void redis_rest(void *rival)
{
	(void)rival;
}

static void redis_close(void *rival)
{
	(void)rival;
}
#endif

const struct rig_rival rig_rival_redis = {
	.name = "Redis streams",
	.word = "redis",
	.open = redis_open,
	.store = redis_store,
	.one = redis_one,
	.rest = redis_rest,
	.close = redis_close,
	.batch = redis_batch,
	.how = "appendfsync always, Unix socket, 16 clients pipelining",
	.server = true,
};

const struct rig_queue rig_queue_redis = {
	.name = "Redis streams",
	.word = "redis",
	.open = redis_open,
	.fill = redis_store,
	.take = redis_take,
	.ask = redis_ask,
	.ask_durable = true,
	.close = redis_close,
	.how = "appendfsync always, Unix socket, consumer groups of 16 members in all, XREADGROUP and XACKs pipelined",
};
