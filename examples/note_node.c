/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One node of a notebook that several processes keep together, on one machine or many: each line of standard input becomes a note as soon as this node leads, and
 * all nodes print the notes that are committed, in the same order. Kill any of three: the other two go on. examples/note_node.sh tries it.
 *
 * usage: note_node [--key HEX] ID DIRECTORY 1=tcp://host:port 2=tcp://host:port 3=tcp://host:port
 * The key is the same on all nodes, 32 to 128 hexadecimal digits by chance: who has not got it is not let in, and nobody else can read.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <thundermq/reactor.h>
#include <thundermq/replica.h>

#define SECOND 1000000000ull
#define LINE 4096u
#define NOTES 1u /* the partition */

static struct {
	struct thmq_env *env;
	struct thmq_carrier *carrier;
	struct thmq_replica *replica;
	struct thmq_log_reader *reader;
	struct thmq_member members[THMQ_MEMBERS_MAX];
	uint32_t member_count;
	uint32_t role;
	uint64_t committed;
	char line[LINE]; /* being read */
	uint32_t have;
	int ended; /* standard input has */
} node;

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg());
	exit(1);
}

/* ------------------------------------------------------------------- events */

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	(void)ctx;
	node.role = role;
	fprintf(stderr, "term %llu: %s\n", (unsigned long long)term,
		role == THMQ_REPLICA_LEADER ? "this node leads"
		: leader                    ? "another node leads"
					    : "nobody leads");
}

static void on_committed(void *ctx, uint64_t index)
{
	(void)ctx;
	node.committed = index;
}

static void on_failed(void *ctx, int error)
{
	(void)ctx;
	fprintf(stderr, "this copy has failed: %s\n", thmq_strerror(error));
	interrupted = 1;
}

static const struct thmq_replica_events events = {
	.size = sizeof(events), .role = on_role, .committed = on_committed, .failed = on_failed};

/* -------------------------------------------------------------------- notes */

/* True: it will be committed, if this node goes on leading. */
static int append(const char *text, uint32_t len)
{
	struct thmq_log *log = thmq_replica_log(node.replica);
	uint64_t begin, next = 0, index;
	struct thmq_run_header *run;

	thmq_log_bounds(log, NOTES, &begin, &next);
	if (thmq_log_append(log, (uint32_t)sizeof(*run) + len, &run, &index) != 0)
		return 0; /* it does not lead, or there is no room: later */
	thmq_run_init(run, THMQ_RUN_OPAQUE, NOTES, next, 1, len);
	memcpy(run + 1, text, len);
	return thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE) == 0;
}

static void take_lines(void)
{
	ssize_t n;
	char *end;

	while (node.role == THMQ_REPLICA_LEADER) {
		end = memchr(node.line, '\n', node.have);
		if (end) {
			uint32_t len = (uint32_t)(end - node.line);

			if (len && !append(node.line, len))
				return;
			node.have -= len + 1;
			memmove(node.line, end + 1, node.have);
			continue;
		}
		if (node.have == LINE)
			node.have = 0; /* too long for a note */
		n = node.ended ? 0 : read(0, node.line + node.have, LINE - node.have);
		if (n <= 0) {
			node.ended = node.ended || n == 0;
			return;
		}
		node.have += (uint32_t)n;
	}
}

/* Only what is committed: the rest may be taken back. */
static void print_notes(void)
{
	struct thmq_log_view view;

	while (thmq_log_read(node.reader, UINT64_MAX, &view) == 1) {
		const struct thmq_run_header *run = view.run.header;
		int wait = view.run.index > node.committed;

		if (wait) /* this one again, later */
			thmq_log_reader_seek(node.reader, run->base_offset);
		else
			printf("%llu %.*s\n", (unsigned long long)run->base_offset, (int)run->len,
			       (const char *)view.run.payload);
		thmq_log_view_release(thmq_replica_log(node.replica), &view);
		if (wait)
			break;
	}
	fflush(stdout);
}

/* --------------------------------------------------------------------- open */

static void read_members(int argc, char **argv)
{
	for (int i = 0; i < argc && node.member_count < THMQ_MEMBERS_MAX; i++) {
		struct thmq_member *m = &node.members[node.member_count++];
		char *url;

		m->id = strtoull(argv[i], &url, 10);
		m->role = THMQ_MEMBER_VOTER;
		if (!m->id || *url != '=') {
			fprintf(stderr, "%s: write 1=tcp://host:port\n", argv[i]);
			exit(2);
		}
		snprintf(m->address, sizeof(m->address), "%s", url + 1);
	}
}

static void open_node(uint64_t id, const char *dir, const char *key)
{
	const struct thmq_tls_opts tls = {
		.size = sizeof(tls), .psk_identity = "notes", .psk_key = key};
	const struct thmq_log_opts log = {.size = sizeof(log),
					  .dir = dir,
					  .segment_bytes_max = 64u << 20,
					  .log_id = "note node"};
	const char *listen = NULL;
	struct thmq_core *core;

	for (uint32_t i = 0; i < node.member_count; i++)
		if (node.members[i].id == id)
			listen = node.members[i].address;
	if (thmq_env_open(&node.env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20)) != 0)
		fail("environment");
	core = thmq_env_core(node.env, 0);
	if (thmq_carrier_open(core,
			      THMQ_CARRIER_OPTS(.id = id, .cluster = "notes", .listen = listen,
						.tls = key ? &tls : NULL),
			      &node.carrier) != 0)
		fail("carrier");
	if (thmq_replica_open(core,
			      THMQ_REPLICA_OPTS(.log = &log, .events = &events, .id = id,
						.group = 1, .members = node.members,
						.member_count = node.member_count,
						.carrier = node.carrier),
			      &node.replica) != 0)
		fail("replica");
	if (thmq_log_reader_open(thmq_replica_log(node.replica), NOTES, NULL, NULL, &node.reader) !=
	    0)
		fail("reader");
}

int main(int argc, char **argv)
{
	const char *key = NULL;

	if (argc > 2 && strcmp(argv[1], "--key") == 0) {
		key = argv[2];
		argc -= 2;
		argv += 2;
	}
	if (argc < 4) {
		fprintf(stderr,
			"usage: note_node [--key HEX] ID DIRECTORY 1=tcp://host:port 2=...\n");
		return 2;
	}
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
	read_members(argc - 3, argv + 3);
	open_node(strtoull(argv[1], NULL, 10), argv[2], key);
	while (!interrupted) {
		thmq_poll(node.env, SECOND / 100);
		take_lines();
		print_notes();
	}
	if (node.role == THMQ_REPLICA_LEADER) /* so that the others need not find out */
		thmq_replica_transfer(node.replica, 0);
	for (int i = 0; i < 50 && node.role == THMQ_REPLICA_LEADER; i++)
		thmq_poll(node.env, SECOND / 100);
	thmq_log_reader_close(node.reader);
	thmq_replica_close(node.replica, SECOND);
	thmq_carrier_close(node.carrier);
	thmq_env_close(node.env, SECOND);
	return 0;
}
