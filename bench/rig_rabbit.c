/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_rabbit.c - RabbitMQ, as a queue of which three servers keep the same and as a message queue by one: a quorum queue (https://www.rabbitmq.com/docs/quorum-queues), its publisher confirms
 * (https://www.rabbitmq.com/docs/confirms) awaited by a client over loopback TCP (librabbitmq) that is connected to the server that leads. A quorum queue
 * confirms a message when a majority has it in its write-ahead log, flushed by fdatasync(2): nothing has to be set for that (seen with calls that were made slow).
 * The servers are started as Erlang's programs, not by Debian's wrapper, which changes the user; epmd, by which they find each other, is one of ours on a port of its own.
 * Each of them is this process's child until it becomes the Erlang machine itself, so that the kernel ends it with the bench; what that has for helpers ends with its pipes.
 * As a message queue: a queue of one member for each group, all bound to one exchange. A consumer's acknowledgement has no answer; the answer to basic.cancel comes when
 * the queue's log has that word, behind all that was said before it, and what is not acknowledged by then is counted again. Requests by way of a queue in memory and direct reply-to.
 */
#include "rig_queue.h"
#include "rig_rival.h"
#include "rig_server.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Unconfirmed at most. */
static uint32_t rabbit_batch(uint32_t len)
{
	return len > 4096 ? 64 : 512;
}

#ifdef HAVE_RABBITMQ
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

#define SERVERS_MAX 3u
#define START_NS 120000000000ull /* each boots an Erlang machine, here beside whatever else runs */
#define ANSWER_S 20
#define WINDOW 1024u /* more than is ever unconfirmed */
#define PROGRAMS "/usr/lib/rabbitmq/bin"
#define CHANNEL 1
#define QUEUE "bench"
/* servers that wait for work do not spin for it: there are more of them than processors */
#define ASLEEP "+sbwt none +sbwtdcpu none +sbwtdio none"

struct rabbit {
	unsigned servers;
	char dir[PATH_MAX];
	char epmd[4096];
	int epmd_port, ports[SERVERS_MAX], links[SERVERS_MAX];
	pid_t epmd_pid, pids[SERVERS_MAX];
	amqp_connection_state_t connection;
	amqp_connection_state_t peer; /* who answers; NULL: none yet */
	uint64_t sent, confirmed; /* of all up to there */
	bool got[WINDOW];         /* confirmed out of turn */
	char body[RIG_RIVAL_LEN_MAX];
};

static void fail(const char *what, const char *text) __attribute__((noreturn));
static void fail(const char *what, const char *text)
{
	fprintf(stderr, "bench: rabbitmq %s: %s\n", what, text);
	exit(2);
}

static void must(const char *what, int status)
{
	if (status != AMQP_STATUS_OK)
		fail(what, amqp_error_string2(status));
}

static void must_answer(const char *what, amqp_rpc_reply_t r)
{
	if (r.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION)
		fail(what, amqp_error_string2(r.library_error));
	if (r.reply_type != AMQP_RESPONSE_NORMAL)
		fail(what, "refused");
}

/* ------------------------------------------------------------------ servers */

static void write_file(const char *dir, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static void write_file(const char *dir, const char *name, const char *format, ...)
{
	char path[4300];
	va_list args;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	if (!f)
		bench_die(path, errno);
	va_start(args, format);
	vfprintf(f, format, args);
	va_end(args);
	if (fclose(f) != 0)
		bench_die(path, errno);
}

static void place(const struct rabbit *r, unsigned server, char *ret_dir, size_t size)
{
	snprintf(ret_dir, size, "%s/server-%u", r->dir, server);
}

/* Directories, ports, and what each server is told: all that it writes is below its directory, all that it listens to is this machine's own. */
static void prepare(struct rabbit *r)
{
	char dir[4200];

	r->epmd_port = rig_server_port();
	for (unsigned i = 0; i < r->servers; i++) {
		r->ports[i] = rig_server_port();
		r->links[i] = rig_server_port();
		place(r, i, dir, sizeof(dir));
		if (mkdir(dir, 0777) != 0)
			bench_die(dir, errno);
		write_file(dir, "plugins", "[].\n");
		write_file(dir, "advanced.config", "[].\n");
		/* the first one looks for nobody, the others join it */
		write_file(dir, "rabbitmq.conf", "listeners.tcp.default = 127.0.0.1:%d\n%s",
			   r->ports[i],
			   i ? "cluster_formation.peer_discovery_backend = classic_config\n"
			       "cluster_formation.classic_config.nodes.1 = r0@localhost\n"
			     : "");
	}
}

/* What both a server and the program that asks it live in. The user's own settings are not to be seen: env -i. */
struct surroundings {
	char text[15][4400];
	char *argv[24];
	unsigned count;
};

static void add(struct surroundings *s, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void add(struct surroundings *s, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(s->text[s->count], sizeof(s->text[0]), format, args);
	va_end(args);
	s->argv[2 + s->count] = s->text[s->count];
	s->count++;
}

/* Return: where the program and its arguments go. */
static char **surround(struct surroundings *s, const struct rabbit *r, unsigned server)
{
	static char env[] = "/usr/bin/env", empty[] = "-i";
	char dir[4200];

	memset(s, 0, sizeof(*s));
	place(r, server, dir, sizeof(dir));
	s->argv[0] = env;
	s->argv[1] = empty;
	add(s, "PATH=/usr/sbin:/usr/bin:/sbin:/bin");
	add(s, "LANG=C.UTF-8");
	add(s, "HOME=%s", r->dir); /* the cookie that the three share is made there */
	/* all Erlang machines, those too that one starts for a moment; an epmd that one of them started would stay */
	add(s, "ERL_FLAGS=-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false");
	add(s, "ERL_EPMD_ADDRESS=127.0.0.1");
	add(s, "ERL_EPMD_PORT=%d", r->epmd_port);
	add(s, "RABBITMQ_NODENAME=r%u@localhost", server);
	add(s, "RABBITMQ_DIST_PORT=%d", r->links[server]);
	add(s, "RABBITMQ_MNESIA_BASE=%s/data", dir);
	add(s, "RABBITMQ_LOG_BASE=%s/log", dir);
	add(s, "RABBITMQ_CONFIG_FILE=%s/rabbitmq.conf", dir);
	add(s, "RABBITMQ_ADVANCED_CONFIG_FILE=%s/advanced.config", dir);
	add(s, "RABBITMQ_ENABLED_PLUGINS_FILE=%s/plugins", dir);
	add(s, "RABBITMQ_CONF_ENV_FILE=/dev/null");
	add(s, "RABBITMQ_PID_FILE=%s/pid", dir);
	return s->argv + 2 + s->count;
}

static void start(struct rabbit *r, unsigned server)
{
	/* as under systemd, the script becomes the server instead of waiting for it */
	static char stay[] = "RUNNING_UNDER_SYSTEMD=1", program[] = PROGRAMS "/rabbitmq-server";
	static char asleep[] = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=" ASLEEP, alone[] = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=";
	static struct surroundings s;
	char **rest = surround(&s, r, server), dir[4200];

	rest[0] = stay;
	rest[1] = r->servers > 1 ? asleep : alone;
	rest[2] = program;
	place(r, server, dir, sizeof(dir));
	r->pids[server] = rig_server_start(dir, s.argv);
}

/* Until it listens: a server does when it has joined the others. */
static void await(pid_t pid, int port)
{
	uint64_t begin = bench_now();
	int fd = -1;

	while (fd < 0 && rig_server_alive(pid) && bench_now() - begin < START_NS)
		fd = rig_server_connect_tcp(pid, port);
	if (fd < 0)
		fail("start", "see server.log and log in its directory");
	close(fd);
}

/* A queue whose copies are fewer than three would be an easier rival than is said. */
static void check_members(const struct rabbit *r)
{
	static char program[] = PROGRAMS "/rabbitmqctl", quiet[] = "-q", bare[] = "--no-table-headers",
		    list[] = "list_queues", online[] = "online";
	static struct surroundings s;
	char **rest = surround(&s, r, 0), dir[4200], path[4300], said[1024] = "";
	size_t len;
	FILE *f;

	rest[0] = program;
	rest[1] = quiet;
	rest[2] = bare;
	rest[3] = list;
	rest[4] = online;
	snprintf(dir, sizeof(dir), "%s/ask", r->dir);
	if (mkdir(dir, 0777) != 0)
		bench_die(dir, errno);
	if (rig_server_run(dir, s.argv) != 0)
		fail("members", "rabbitmqctl cannot tell");
	snprintf(path, sizeof(path), "%s/server.log", dir);
	f = fopen(path, "r");
	if (!f)
		bench_die(path, errno);
	len = fread(said, 1, sizeof(said) - 1, f);
	said[len] = 0;
	fclose(f);
	if (!strstr(said, "r0@localhost") || !strstr(said, "r1@localhost") ||
	    !strstr(said, "r2@localhost"))
		fail("members", said);
}

/* --------------------------------------------------------------- connection */

/* The server that a quorum queue is declared at leads it. */
static void declare_queue(struct rabbit *r, const char *name)
{
	amqp_table_entry_t e[2] = {
		{.key = amqp_cstring_bytes("x-queue-type"),
		 .value = {.kind = AMQP_FIELD_KIND_UTF8,
			   .value.bytes = amqp_cstring_bytes("quorum")}},
		{.key = amqp_cstring_bytes("x-quorum-initial-group-size"),
		 .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = (int32_t)r->servers}},
	};
	amqp_table_t arguments = {.num_entries = 2, .entries = e};

	amqp_queue_declare(r->connection, CHANNEL, amqp_cstring_bytes(name), 0, 1, 0, 0,
			   arguments);
	must_answer("queue", amqp_get_rpc_reply(r->connection));
}

static void open_channel(amqp_connection_state_t c, amqp_channel_t channel)
{
	amqp_channel_open(c, channel);
	must_answer("channel", amqp_get_rpc_reply(c));
}

static amqp_connection_state_t meet(const struct rabbit *r)
{
	amqp_connection_state_t c = amqp_new_connection();
	amqp_socket_t *socket = c ? amqp_tcp_socket_new(c) : NULL;

	if (!socket)
		bench_die("rabbitmq", ENOMEM);
	must("connection", amqp_socket_open(socket, "127.0.0.1", r->ports[0]));
	/* what every new server has, for this machine only */
	must_answer("login", amqp_login(c, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"));
	open_channel(c, CHANNEL);
	return c;
}

static void *open_some(const char *dir, const char **ret_why, unsigned servers)
{
	char port[16], loopback[] = "-address", own[] = "127.0.0.1", at[] = "-port";
	struct rabbit *r;

	if (access(PROGRAMS "/rabbitmq-server", X_OK) != 0 ||
	    access(PROGRAMS "/rabbitmqctl", X_OK) != 0) {
		*ret_why = "there is no rabbitmq-server in " PROGRAMS;
		return NULL;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		bench_die("rabbitmq", ENOMEM);
	if (!rig_server_find("epmd", r->epmd, sizeof(r->epmd))) {
		*ret_why = "there is no epmd";
		free(r);
		return NULL;
	}
	if (!realpath(dir, r->dir)) /* the servers are elsewhere */
		bench_die(dir, errno);
	memset(r->body, 'x', sizeof(r->body));
	r->servers = servers;
	prepare(r);
	snprintf(port, sizeof(port), "%d", r->epmd_port);
	r->epmd_pid = rig_server_start(dir, (char *[]){r->epmd, loopback, own, at, port, NULL});
	await(r->epmd_pid, r->epmd_port);
	/* one after the other: the first one makes the cookie, the others find it there */
	for (unsigned i = 0; i < r->servers; i++) {
		start(r, i);
		await(r->pids[i], r->ports[i]);
	}
	r->connection = meet(r);
	amqp_confirm_select(r->connection, CHANNEL);
	must_answer("confirms", amqp_get_rpc_reply(r->connection));
	return r;
}

static void *open_copies(const char *dir, const char **ret_why)
{
	struct rabbit *r = open_some(dir, ret_why, 3);

	if (!r)
		return NULL;
	declare_queue(r, QUEUE);
	check_members(r);
	return r;
}

static void rabbit_close(void *rival)
{
	struct rabbit *r = rival;

	amqp_destroy_connection(r->connection);
	if (r->peer)
		amqp_destroy_connection(r->peer);
	/* what they hold goes with the directory: no need for them to put it in order, one after the other */
	for (unsigned i = 0; i < r->servers; i++)
		kill(r->pids[i], SIGKILL);
	for (unsigned i = 0; i < r->servers; i++)
		rig_server_stop(r->pids[i]);
	rig_server_stop(r->epmd_pid);
	free(r);
}

/* ---------------------------------------------------------------- messages */

static void publish(struct rabbit *r, const char *exchange, uint32_t len)
{
	amqp_basic_properties_t persistent = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
					      .delivery_mode = AMQP_DELIVERY_PERSISTENT};
	amqp_bytes_t body = {.len = len, .bytes = r->body};

	must("publish", amqp_basic_publish(r->connection, CHANNEL, amqp_cstring_bytes(exchange),
					   amqp_cstring_bytes(QUEUE), 0, 0, &persistent, body));
	r->sent++;
}

/* One answer; it may stand for all before it, and need not come in turn. */
static void confirm(struct rabbit *r)
{
	struct timeval limit = {.tv_sec = ANSWER_S};
	const amqp_basic_ack_t *ack;
	amqp_frame_t frame;

	amqp_maybe_release_buffers(r->connection);
	must("confirm", amqp_simple_wait_frame_noblock(r->connection, &frame, &limit));
	if (frame.frame_type != AMQP_FRAME_METHOD)
		return;
	if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
		fail("confirm", amqp_method_name(frame.payload.method.id));
	ack = frame.payload.method.decoded;
	if (ack->delivery_tag == 0 || ack->delivery_tag > r->sent)
		fail("confirm", "of what was not sent");
	if (!ack->multiple)
		r->got[ack->delivery_tag % WINDOW] = true;
	for (uint64_t next = r->confirmed + 1; next <= r->sent; next++) {
		bool *got = &r->got[next % WINDOW];

		if (!*got && !(ack->multiple && next <= ack->delivery_tag))
			break;
		*got = false;
		r->confirmed = next;
	}
}

static void store_to(struct rabbit *r, const char *exchange, uint64_t count, uint32_t len)
{
	uint64_t last = r->sent + count;

	while (r->confirmed < last) {
		while (r->sent < last && r->sent - r->confirmed < rabbit_batch(len))
			publish(r, exchange, len);
		confirm(r);
	}
}

/* By the exchange that knows every queue by its name. */
static void rabbit_store(void *rival, uint64_t count, uint32_t len)
{
	store_to(rival, "", count, len);
}

static void rabbit_one(void *rival, uint32_t len)
{
	rabbit_store(rival, 1, len);
}

static void rabbit_rest(void *rival)
{
	struct rabbit *r = rival;

	amqp_queue_purge(r->connection, CHANNEL, amqp_cstring_bytes(QUEUE));
	must_answer("purge", amqp_get_rpc_reply(r->connection));
}

/* ------------------------------------------------------------------- groups */

#define EXCHANGE "all"
#define AHEAD 1024u /* messages that each queue sends ahead of acknowledgements */
#define AT_ONCE 256u /* that are acknowledged with one word */

/* Each group has a queue, a channel, and a consumer on it; the names of all three are its number. */
static amqp_bytes_t group_name(unsigned group)
{
	static const char *const names[RIG_QUEUE_GROUPS_MAX] = {"g0", "g1", "g2"};

	return amqp_cstring_bytes(names[group]);
}

static amqp_channel_t group_channel(unsigned group)
{
	return (amqp_channel_t)(CHANNEL + 1 + group);
}

static void *queue_open(const char *dir, const char **ret_why)
{
	struct rabbit *r = open_some(dir, ret_why, 1);

	if (!r)
		return NULL;
	amqp_exchange_declare(r->connection, CHANNEL, amqp_cstring_bytes(EXCHANGE), amqp_cstring_bytes("fanout"), 0, 1, 0, 0,
			      amqp_empty_table);
	must_answer("exchange", amqp_get_rpc_reply(r->connection));
	for (unsigned g = 0; g < RIG_QUEUE_GROUPS_MAX; g++) {
		open_channel(r->connection, group_channel(g));
		amqp_basic_qos(r->connection, group_channel(g), 0, AHEAD, 0);
		must_answer("ahead", amqp_get_rpc_reply(r->connection));
	}
	return r;
}

/* What a queue has handed out is not there any more: new queues, and all is published again. */
static void queue_fill(void *queue, uint64_t count, uint32_t len, unsigned groups)
{
	struct rabbit *r = queue;

	for (unsigned g = 0; g < RIG_QUEUE_GROUPS_MAX; g++) {
		amqp_queue_delete(r->connection, CHANNEL, group_name(g), 0, 0);
		must_answer("delete", amqp_get_rpc_reply(r->connection));
	}
	for (unsigned g = 0; g < groups; g++) {
		declare_queue(r, group_name(g).bytes);
		amqp_queue_bind(r->connection, CHANNEL, group_name(g), amqp_cstring_bytes(EXCHANGE), amqp_cstring_bytes(""), amqp_empty_table);
		must_answer("bind", amqp_get_rpc_reply(r->connection));
	}
	store_to(r, EXCHANGE, count, len);
}

/* Small words leave together, when there is nothing to read any more. */
static void cork(struct rabbit *r, int on)
{
	if (setsockopt(amqp_get_sockfd(r->connection), IPPROTO_TCP, TCP_CORK, &on, sizeof(on)) != 0)
		bench_die("rabbitmq", errno);
}

static void next_message(amqp_connection_state_t c, amqp_envelope_t *ret)
{
	struct timeval limit = {.tv_sec = ANSWER_S};

	amqp_maybe_release_buffers(c);
	must_answer("message", amqp_consume_message(c, ret, &limit, 0));
}

/* One message of a group. */
static void take_one(struct rabbit *r, uint64_t *got, uint64_t count, bool each)
{
	amqp_envelope_t m;
	unsigned group;

	if (!amqp_data_in_buffer(r->connection) && !amqp_frames_enqueued(r->connection)) {
		cork(r, 0);
		cork(r, 1);
	}
	next_message(r->connection, &m);
	group = (unsigned)m.channel - CHANNEL - 1;
	got[group]++;
	if (each || got[group] % AT_ONCE == 0 || got[group] == count)
		must("ack", amqp_basic_ack(r->connection, m.channel, m.delivery_tag, !each));
	amqp_destroy_envelope(&m);
}

/* All acknowledgements are in the queue's log, and were of all that it had. */
static void leave(struct rabbit *r, unsigned group)
{
	const amqp_queue_declare_ok_t *left;

	amqp_basic_cancel(r->connection, group_channel(group), group_name(group));
	must_answer("cancel", amqp_get_rpc_reply(r->connection));
	left = amqp_queue_declare(r->connection, CHANNEL, group_name(group), 1, 1, 0, 0, amqp_empty_table);
	must_answer("queue", amqp_get_rpc_reply(r->connection));
	if (left->message_count)
		fail("acks", "some are missing");
}

static void queue_take(void *queue, uint64_t count, unsigned groups, bool each)
{
	uint64_t got[RIG_QUEUE_GROUPS_MAX] = {0};
	struct rabbit *r = queue;

	for (unsigned g = 0; g < groups; g++) {
		amqp_basic_consume(r->connection, group_channel(g), group_name(g), group_name(g), 0, 0, 0, amqp_empty_table);
		must_answer("consume", amqp_get_rpc_reply(r->connection));
	}
	cork(r, 1);
	for (uint64_t left = count * groups; left > 0; left--)
		take_one(r, got, count, each);
	cork(r, 0);
	for (unsigned g = 0; g < groups; g++)
		leave(r, g);
}

/* ------------------------------------------------------------ requests, replies */

#define ASKER (CHANNEL + 1 + RIG_QUEUE_GROUPS_MAX) /* its channel: not one that waits for confirms */
#define REPLY_TO "amq.rabbitmq.reply-to"

static void await_on(amqp_connection_state_t c, amqp_channel_t channel, const char *queue)
{
	amqp_basic_consume(c, channel, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 1, 0, amqp_empty_table);
	must_answer("consume", amqp_get_rpc_reply(c));
}

static void meet_peer(struct rabbit *r)
{
	r->peer = meet(r);
	amqp_queue_declare(r->peer, CHANNEL, amqp_cstring_bytes("asked"), 0, 0, 1, 0, amqp_empty_table);
	must_answer("queue", amqp_get_rpc_reply(r->peer));
	await_on(r->peer, CHANNEL, "asked");
	open_channel(r->connection, ASKER);
	await_on(r->connection, ASKER, REPLY_TO);
}

static void queue_ask(void *queue)
{
	amqp_basic_properties_t asking = {._flags = AMQP_BASIC_REPLY_TO_FLAG, .reply_to = amqp_cstring_bytes(REPLY_TO)}, none = {0};
	struct rabbit *r = queue;
	amqp_bytes_t body = {.len = 64, .bytes = r->body};
	amqp_envelope_t m;

	if (!r->peer)
		meet_peer(r);
	must("request", amqp_basic_publish(r->connection, ASKER, amqp_cstring_bytes(""), amqp_cstring_bytes("asked"), 0, 0, &asking, body));
	next_message(r->peer, &m);
	must("reply", amqp_basic_publish(r->peer, CHANNEL, amqp_cstring_bytes(""), m.message.properties.reply_to, 0, 0, &none, body));
	amqp_destroy_envelope(&m);
	next_message(r->connection, &m);
	if (m.message.body.len != body.len)
		fail("reply", "is another");
	amqp_destroy_envelope(&m);
}
#else
static void *open_copies(const char *dir, const char **ret_why)
{
	(void)dir;
	*ret_why = "built without librabbitmq";
	return NULL;
}

static void *queue_open(const char *dir, const char **ret_why)
{
	return open_copies(dir, ret_why);
}
#define rabbit_store NULL
#define rabbit_one NULL
#define rabbit_rest NULL
#define rabbit_close NULL
#define queue_fill NULL
#define queue_take NULL
#define queue_ask NULL
#endif

const struct rig_rival rig_rival_rabbit_copies = {
	.name = "RabbitMQ quorum queue",
	.word = "rabbit_copies",
	.open = open_copies,
	.store = rabbit_store,
	.one = rabbit_one,
	.rest = rabbit_rest,
	.close = rabbit_close,
	.batch = rabbit_batch,
	.how = "three servers, a quorum queue of three members, loopback TCP to the one that leads, "
	       "confirms pipelined",
	.server = true,
};

const struct rig_queue rig_queue_rabbit = {
	.name = "RabbitMQ",
	.word = "rabbit",
	.open = queue_open,
	.again = queue_fill,
	.take = queue_take,
	.ask = queue_ask,
	.close = rabbit_close,
	.how = "a quorum queue of one member for each group, 1024 messages sent ahead to a consumer on a channel of its own, all acks in the queue's log; requests by a queue in memory, "
	       "direct reply-to",
};
