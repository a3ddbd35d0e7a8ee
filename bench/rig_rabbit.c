/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_rabbit.c - RabbitMQ as a queue of which three servers keep the same: a quorum queue (https://www.rabbitmq.com/docs/quorum-queues), its publisher confirms
 * (https://www.rabbitmq.com/docs/confirms) awaited by a client over loopback TCP (librabbitmq) that is connected to the server that leads. A quorum queue
 * confirms a message when a majority has it in its write-ahead log, flushed by fdatasync(2): nothing has to be set for that (seen with calls that were made slow).
 * The servers are started as Erlang's programs, not by Debian's wrapper, which changes the user; epmd, by which they find each other, is one of ours on a port of its own.
 * Each of them is this process's child until it becomes the Erlang machine itself, so that the kernel ends it with the bench; what that has for helpers ends with its pipes.
 */
#include "rig_rival.h"
#include "rig_server.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

#define SERVERS 3u
#define START_NS 120000000000ull /* each boots an Erlang machine, here beside whatever else runs */
#define ANSWER_S 20
#define WINDOW 1024u /* more than is ever unconfirmed */
#define PROGRAMS "/usr/lib/rabbitmq/bin"
#define CHANNEL 1
#define QUEUE "bench"
/* servers that wait for work do not spin for it: there are more of them than processors */
#define ASLEEP "+sbwt none +sbwtdcpu none +sbwtdio none"

struct rabbit {
	char dir[PATH_MAX];
	char epmd[4096];
	int epmd_port, ports[SERVERS], links[SERVERS];
	pid_t epmd_pid, pids[SERVERS];
	amqp_connection_state_t connection;
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
	for (unsigned i = 0; i < SERVERS; i++) {
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
	static char flags[] = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=" ASLEEP;
	static struct surroundings s;
	char **rest = surround(&s, r, server), dir[4200];

	rest[0] = stay;
	rest[1] = flags;
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
static void declare(struct rabbit *r)
{
	amqp_table_entry_t e[2] = {
		{.key = amqp_cstring_bytes("x-queue-type"),
		 .value = {.kind = AMQP_FIELD_KIND_UTF8,
			   .value.bytes = amqp_cstring_bytes("quorum")}},
		{.key = amqp_cstring_bytes("x-quorum-initial-group-size"),
		 .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = SERVERS}},
	};
	amqp_table_t arguments = {.num_entries = 2, .entries = e};

	amqp_queue_declare(r->connection, CHANNEL, amqp_cstring_bytes(QUEUE), 0, 1, 0, 0,
			   arguments);
	must_answer("queue", amqp_get_rpc_reply(r->connection));
	amqp_confirm_select(r->connection, CHANNEL);
	must_answer("confirms", amqp_get_rpc_reply(r->connection));
}

static void meet(struct rabbit *r)
{
	amqp_socket_t *socket;

	r->connection = amqp_new_connection();
	socket = r->connection ? amqp_tcp_socket_new(r->connection) : NULL;
	if (!socket)
		bench_die("rabbitmq", ENOMEM);
	must("connection", amqp_socket_open(socket, "127.0.0.1", r->ports[0]));
	/* what every new server has, for this machine only */
	must_answer("login", amqp_login(r->connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
					"guest", "guest"));
	amqp_channel_open(r->connection, CHANNEL);
	must_answer("channel", amqp_get_rpc_reply(r->connection));
}

static void *rabbit_open(const char *dir, const char **ret_why)
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
	prepare(r);
	snprintf(port, sizeof(port), "%d", r->epmd_port);
	r->epmd_pid = rig_server_start(dir, (char *[]){r->epmd, loopback, own, at, port, NULL});
	await(r->epmd_pid, r->epmd_port);
	/* one after the other: the first one makes the cookie, the others find it there */
	for (unsigned i = 0; i < SERVERS; i++) {
		start(r, i);
		await(r->pids[i], r->ports[i]);
	}
	meet(r);
	declare(r);
	check_members(r);
	return r;
}

static void rabbit_close(void *rival)
{
	struct rabbit *r = rival;

	amqp_destroy_connection(r->connection);
	/* what they hold goes with the directory: no need for them to put it in order, one after the other */
	for (unsigned i = 0; i < SERVERS; i++)
		kill(r->pids[i], SIGKILL);
	for (unsigned i = 0; i < SERVERS; i++)
		rig_server_stop(r->pids[i]);
	rig_server_stop(r->epmd_pid);
	free(r);
}

/* ---------------------------------------------------------------- messages */

static void publish(struct rabbit *r, uint32_t len)
{
	amqp_basic_properties_t persistent = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
					      .delivery_mode = AMQP_DELIVERY_PERSISTENT};
	amqp_bytes_t body = {.len = len, .bytes = r->body};

	must("publish", amqp_basic_publish(r->connection, CHANNEL, amqp_cstring_bytes(""),
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

static void rabbit_store(void *rival, uint64_t count, uint32_t len)
{
	struct rabbit *r = rival;
	uint64_t last = r->sent + count;

	while (r->confirmed < last) {
		while (r->sent < last && r->sent - r->confirmed < rabbit_batch(len))
			publish(r, len);
		confirm(r);
	}
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
#else
static void *rabbit_open(const char *dir, const char **ret_why)
{
	(void)dir;
	*ret_why = "built without librabbitmq";
	return NULL;
}
#define rabbit_store NULL
#define rabbit_one NULL
#define rabbit_rest NULL
#define rabbit_close NULL
#endif

const struct rig_rival rig_rival_rabbit_copies = {
	.name = "RabbitMQ quorum queue",
	.word = "rabbit_copies",
	.open = rabbit_open,
	.store = rabbit_store,
	.one = rabbit_one,
	.rest = rabbit_rest,
	.close = rabbit_close,
	.batch = rabbit_batch,
	.how = "three servers, a quorum queue of three members, loopback TCP to the one that leads, "
	       "confirms pipelined",
	.server = true,
};
