/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three copies of a log in one program: one of them leads, notes are committed on a majority; then the leader is closed, another one takes over,
 * and nothing that was committed is missing. The way between them is a queue here; between machines it would be a connection.
 *
 * usage: three_copies [directory]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thundermq/reactor.h>
#include <thundermq/replica.h>

#define COPIES 3
#define SECOND 1000000000ull
#define QUEUE 256

struct copy {
	char dir[256];
	struct thmq_replica *replica;
	uint32_t role;
	uint64_t committed;
};

static struct thmq_env *env;
static struct copy copies[COPIES];
static struct {
	struct thmq_replica_message message;
	void *batch;
} queue[QUEUE];
static unsigned head, tail;

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg());
	exit(1);
}

/* ------------------------------------------------------------------ the way */

static int on_send(void *ctx, const struct thmq_replica_message *message, struct thmq_buf *batch)
{
	(void)ctx;
	if (tail - head == QUEUE)
		return -ENOBUFS; /* lost: it is sent again */
	queue[tail % QUEUE].message = *message;
	queue[tail % QUEUE].batch = batch ? malloc(message->batch_bytes) : NULL;
	if (batch && !queue[tail % QUEUE].batch)
		return -ENOMEM;
	if (batch)
		memcpy(queue[tail % QUEUE].batch, batch->data, message->batch_bytes);
	tail++;
	return 0;
}

static void deliver(const struct thmq_replica_message *message, const void *batch)
{
	struct copy *to = &copies[message->to - 1];
	struct thmq_buf *buf = NULL;

	if (!to->replica)
		return;
	if (batch) {
		if (thmq_replica_buf(to->replica, message->batch_bytes, &buf) != 0)
			return;
		memcpy(buf->data, batch, message->batch_bytes);
	}
	if (thmq_replica_receive(to->replica, message, buf) != 0 && buf)
		thmq_buf_unref(buf);
}

static void live(void)
{
	unsigned end;

	thmq_poll(env, 1000000);
	for (end = tail; head != end; head++) {
		deliver(&queue[head % QUEUE].message, queue[head % QUEUE].batch);
		free(queue[head % QUEUE].batch);
	}
}

/* --------------------------------------------------------------- the copies */

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	struct copy *c = ctx;

	c->role = role;
	if (role == THMQ_REPLICA_LEADER)
		printf("copy %d leads, term %llu\n", (int)(c - copies) + 1,
		       (unsigned long long)term);
	(void)leader;
}

static void on_committed(void *ctx, uint64_t index)
{
	((struct copy *)ctx)->committed = index;
}

static const struct thmq_replica_events events = {
	.size = sizeof(events), .send = on_send, .role = on_role, .committed = on_committed};

static void open_copy(int number)
{
	struct copy *c = &copies[number];
	struct thmq_member members[COPIES] = {0};
	const struct thmq_log_opts log = {.size = sizeof(log),
					  .dir = c->dir,
					  .segment_bytes_max = 16u << 20,
					  .log_id = "three copies"};

	for (int i = 0; i < COPIES; i++) {
		members[i].id = (uint64_t)i + 1;
		members[i].role = THMQ_MEMBER_VOTER;
		snprintf(members[i].address, sizeof(members[i].address), "copy %d", i + 1);
	}
	if (thmq_replica_open(thmq_env_core(env, 0),
			      THMQ_REPLICA_OPTS(.log = &log, .events = &events, .ctx = c,
						.id = (uint64_t)number + 1, .group = 1,
						.members = members, .member_count = COPIES),
			      &c->replica) != 0)
		fail("open");
}

static struct copy *leader(void)
{
	for (int rounds = 0; rounds < 30000; rounds++, live())
		for (int i = 0; i < COPIES; i++)
			if (copies[i].replica && copies[i].role == THMQ_REPLICA_LEADER)
				return &copies[i];
	fprintf(stderr, "nobody leads\n");
	exit(1);
}

/* Appends one note and waits until a majority has it. Whoever leads no more meanwhile cannot say what became of it. */
static void note(uint64_t number, const char *text)
{
	struct copy *l = leader();
	struct thmq_log *log = thmq_replica_log(l->replica);
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	while ((rc = thmq_log_append(log, (uint32_t)(sizeof(*run) + strlen(text)), &run, &index)) ==
	       -EAGAIN)
		live();
	if (rc)
		fail("append");
	thmq_run_init(run, THMQ_RUN_OPAQUE, 1, number, 1, (uint32_t)strlen(text));
	memcpy(run + 1, text, strlen(text));
	if (thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE) != 0)
		fail("append");
	while (l->committed < index && l->role == THMQ_REPLICA_LEADER)
		live();
	printf("note %llu is %s\n", (unsigned long long)number,
	       l->committed >= index ? "committed" : "in doubt");
}

static uint64_t count_notes(struct copy *c)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view view;
	uint64_t count = 0;

	if (thmq_log_reader_open(thmq_replica_log(c->replica), 1, NULL, NULL, &reader) != 0)
		fail("read");
	for (int idle = 0; idle < 50; idle++, live())
		while (thmq_log_read(reader, UINT64_MAX, &view) == 1) {
			count++;
			thmq_log_view_release(thmq_replica_log(c->replica), &view);
		}
	thmq_log_reader_close(reader);
	return count;
}

int main(int argc, char **argv)
{
	uint64_t before, after;
	struct copy *l;
	int i;

	if (thmq_env_open(&env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20)) != 0)
		fail("environment");
	for (i = 0; i < COPIES; i++) {
		snprintf(copies[i].dir, sizeof(copies[i].dir), "%s-%d",
			 argc > 1 ? argv[1] : "three-copies", i + 1);
		open_copy(i);
	}
	before = count_notes(leader());
	note(before, "the first of this run");
	note(before + 1, "the second");
	l = leader();
	printf("copy %d is closed\n", (int)(l - copies) + 1);
	if (thmq_replica_close(l->replica, SECOND) != 0)
		fail("close");
	l->replica = NULL;
	l->role = 0;
	note(before + 2, "the third, without it");
	after = count_notes(leader());
	printf("%llu notes\n", (unsigned long long)after);
	for (i = 0; i < COPIES; i++)
		thmq_replica_close(copies[i].replica, SECOND);
	for (; head != tail; head++)
		free(queue[head % QUEUE].batch);
	thmq_env_close(env, SECOND);
	return after == before + 3 ? 0 : 1;
}
