/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three copies of a log on real files, in one thread, by the public calls alone: they elect a leader, commit, hand over, lose one and get it
 * back, take a fourth, drop what is old; then what each has stored is compared byte for byte.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <thundermq/reactor.h>
#include <thundermq/replica.h>

#define SECOND 1000000000ull
#define COPIES 4u
#define PACKETS 512u
#define BATCHES_MAX 65536u

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

struct packet {
	struct thmq_replica_message message;
	uint8_t *bytes;
};

struct copy {
	char dir[64];
	struct thmq_replica *replica;
	uint32_t role;
	uint64_t committed, quorum, unappended, replayed;
	uint32_t members;
	int failed;
	/* as its files say in the end */
	uint32_t lens[BATCHES_MAX];
	uint64_t sums[BATCHES_MAX];
	uint64_t first, last;
};

static struct {
	struct thmq_env *env;
	struct copy copies[COPIES];
	struct packet packets[PACKETS];
	uint32_t head, tail;
	uint64_t next_offset;
	uint64_t cache_bytes; /* of logs; 0: the default */
} w;

/* --------------------------------------------------------------------- wire */

static int on_send(void *ctx, const struct thmq_replica_message *m, struct thmq_buf *batch)
{
	struct packet *p = &w.packets[w.tail % PACKETS];

	(void)ctx;
	if (w.tail - w.head == PACKETS)
		return -EAGAIN;
	p->message = *m;
	p->bytes = NULL;
	if (batch) {
		p->bytes = malloc(m->batch_bytes);
		CHECK(p->bytes);
		memcpy(p->bytes, batch->data, m->batch_bytes);
	}
	w.tail++;
	return 0;
}

static void carry(void)
{
	uint32_t count = w.tail - w.head, i;

	for (; count--; w.head++) {
		struct packet *p = &w.packets[w.head % PACKETS];
		struct copy *to = &w.copies[p->message.to - 1];
		struct thmq_buf *buf = NULL;

		if (to->replica) {
			if (p->bytes) {
				CHECK(thmq_replica_buf(to->replica, p->message.batch_bytes, &buf) ==
				      0);
				memcpy(buf->data, p->bytes, p->message.batch_bytes);
			}
			if (thmq_replica_receive(to->replica, &p->message, buf) != 0 && buf)
				thmq_buf_unref(buf); /* it comes again */
		}
		free(p->bytes);
	}
	for (i = 0; i < COPIES; i++)
		for (uint64_t id = 1; w.copies[i].replica && id <= COPIES; id++)
			thmq_replica_writable(w.copies[i].replica, id);
}

/* ------------------------------------------------------------------- events */

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	(void)term;
	(void)leader;
	((struct copy *)ctx)->role = role;
}

static void on_committed(void *ctx, uint64_t index)
{
	((struct copy *)ctx)->committed = index;
}

static void on_members(void *ctx, const struct thmq_member *members, uint32_t count, uint64_t index)
{
	(void)members;
	(void)index;
	((struct copy *)ctx)->members = count;
}

static void on_failed(void *ctx, int error)
{
	((struct copy *)ctx)->failed = error;
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	if (durability == THMQ_DURABILITY_QUORUM)
		((struct copy *)ctx)->quorum = index;
}

static void on_unappended(void *ctx, uint64_t index)
{
	((struct copy *)ctx)->unappended = index;
}

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	((struct copy *)ctx)->replayed += run->header->encoding == THMQ_RUN_OPAQUE && run->payload;
	return 0;
}

static const struct thmq_replica_events events = {.size = sizeof(events),
						  .send = on_send,
						  .role = on_role,
						  .committed = on_committed,
						  .members = on_members,
						  .failed = on_failed};
static const struct thmq_log_events log_events = {.size = sizeof(log_events),
						  .replay = on_replay,
						  .settled = on_settled,
						  .unappended = on_unappended};

/* ------------------------------------------------------------------- copies */

static void member(uint32_t number, uint32_t role, struct thmq_member *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->id = number + 1;
	ret->role = role;
	snprintf(ret->address, sizeof(ret->address), "local://%u", number + 1);
}

static int open_copy(uint32_t number, bool joins)
{
	struct copy *c = &w.copies[number];
	const struct thmq_log_opts log = {.size = sizeof(log),
					  .dir = c->dir,
					  .events = &log_events,
					  .ctx = c,
					  .segment_bytes_min = 1u << 20,
					  .segment_bytes_max = 1u << 20,
					  .batch_bytes = 256u << 10,
					  .cache_bytes = w.cache_bytes,
					  .log_id = "three copies"};
	struct thmq_member members[3];

	for (uint32_t i = 0; i < 3; i++)
		member(i, THMQ_MEMBER_VOTER, &members[i]);
	c->role = 0;
	c->committed = c->quorum = c->replayed = 0;
	return thmq_replica_open(thmq_env_core(w.env, 0),
				 THMQ_REPLICA_OPTS(.log = &log, .events = &events, .ctx = c,
						   .id = number + 1, .group = 99,
						   .members = joins ? NULL : members,
						   .member_count = joins ? 0 : 3),
				 &c->replica);
}

static void close_copy(uint32_t number)
{
	CHECK(thmq_replica_close(w.copies[number].replica, SECOND) == 0);
	w.copies[number].replica = NULL;
	w.copies[number].role = 0;
}

static struct copy *leader(void)
{
	for (uint32_t i = 0; i < COPIES; i++)
		if (w.copies[i].replica && w.copies[i].role == THMQ_REPLICA_LEADER)
			return &w.copies[i];
	return NULL;
}

static void live(void)
{
	thmq_poll(w.env, 1000000);
	carry();
}

static struct copy *await_leader(void)
{
	for (uint32_t i = 0; i < 60000 && !leader(); i++)
		live();
	CHECK(leader());
	return leader();
}

/* So many messages, and all of them are committed. Return: the last one's batch. */
static uint64_t write_messages(uint32_t count, uint32_t len)
{
	struct copy *l = await_leader();
	struct thmq_run_header *run;
	uint64_t index = 0;
	uint32_t i;
	int rc;

	while (count) {
		l = await_leader();
		rc = thmq_log_append(thmq_replica_log(l->replica), (uint32_t)sizeof(*run) + len,
				     &run, &index);
		if (rc == -EAGAIN || rc == -THMQ_ENOTLEADER) {
			live();
			continue;
		}
		CHECK(rc == 0);
		thmq_run_init(run, THMQ_RUN_OPAQUE, 1, w.next_offset, 1, len);
		memset(run + 1, (int)(w.next_offset & 255), len);
		CHECK(thmq_log_append_end(thmq_replica_log(l->replica), run,
					  THMQ_DURABILITY_DURABLE) == 0);
		w.next_offset++;
		count--;
	}
	for (i = 0; i < 60000 && l->quorum < index; i++)
		live();
	CHECK(l->quorum >= index && l->committed >= index);
	return index;
}

static void await_all(uint64_t index)
{
	bool all = false;

	for (uint32_t i = 0; i < 60000 && !all; i++) {
		all = true;
		for (uint32_t k = 0; k < COPIES; k++)
			all = all && (!w.copies[k].replica || w.copies[k].committed >= index);
		live();
	}
	CHECK(all);
}

/* --------------------------------------------------------------------- files */

static int on_batch(void *ctx, const struct thmq_log_batch *b)
{
	struct copy *c = ctx;

	CHECK(b->index < BATCHES_MAX);
	c->first = c->first ? c->first : b->index;
	c->last = b->index;
	c->lens[b->index] = b->len;
	c->sums[b->index] = b->term;
	return 0;
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	struct copy *c = ctx;
	uint64_t *sum = &c->sums[run->index];

	*sum = *sum * 31 + run->header->payload_crc + run->header->header_crc;
	return 0;
}

static void compare(void)
{
	const struct thmq_log_visitor visitor = {
		.size = sizeof(visitor), .batch = on_batch, .run = on_run};
	const struct copy *a = NULL;

	for (uint32_t i = 0; i < COPIES; i++) {
		struct copy *c = &w.copies[i];

		if (access(c->dir, F_OK) != 0)
			continue;
		CHECK(thmq_log_scan(c->dir, &visitor, c) == 0);
		CHECK(c->last > 0);
		for (uint64_t k = a ? (a->first > c->first ? a->first : c->first) : UINT64_MAX;
		     a && k <= a->last && k <= c->last; k++)
			CHECK(a->lens[k] == c->lens[k] && a->sums[k] == c->sums[k]);
		a = a ? a : c;
	}
}

/* --------------------------------------------------------------------- story */

static void refusals(void)
{
	const struct thmq_log_opts log = {.size = sizeof(log), .dir = "nowhere"};
	struct thmq_replica_message nonsense = {.batch_bytes = 0};
	struct thmq_replica_state state = {.size = sizeof(state)};
	struct thmq_run_header *run;
	struct thmq_replica *r;
	struct thmq_core *core = thmq_env_core(w.env, 0);
	struct copy *l = await_leader(), *other = l == &w.copies[0] ? &w.copies[1] : &w.copies[0];
	struct thmq_member m;
	uint64_t index;

	CHECK(thmq_replica_open(core, NULL, &r) == -EINVAL);
	CHECK(thmq_replica_open(core, THMQ_REPLICA_OPTS(.id = 1), &r) == -EINVAL);
	CHECK(thmq_replica_open(core, THMQ_REPLICA_OPTS(.id = 1, .events = &events, .log = &log),
				&r) == -EINVAL);
	CHECK(thmq_replica_open(core, THMQ_REPLICA_OPTS(.events = &events, .log = &log, .flags = 1),
				&r) == -EINVAL);
	CHECK(access("nowhere", F_OK) != 0);
	CHECK(thmq_replica_receive(l->replica, &nonsense, NULL) == -EINVAL);
	CHECK(thmq_replica_close(NULL, 0) == 0);
	CHECK(thmq_replica_state(l->replica, &state) == 0 && state.role == THMQ_REPLICA_LEADER &&
	      state.member_count == 3 && !state.failed);
	CHECK(state.committed_index <= state.last_index &&
	      state.leader == (uint64_t)(l - w.copies) + 1);
	CHECK(thmq_replica_members(l->replica, &m, 1) == 3 && m.id == 1 &&
	      strcmp(m.address, "local://1") == 0);
	/* who does not lead takes nothing */
	CHECK(thmq_log_append(thmq_replica_log(other->replica), sizeof(*run) + 8, &run, &index) ==
	      -THMQ_ENOTLEADER);
	CHECK(thmq_replica_transfer(other->replica, 0) == -THMQ_ENOTLEADER);
	CHECK(thmq_replica_trim(other->replica, 1) == -THMQ_ENOTLEADER);
	CHECK(thmq_replica_catch_up(other->replica, 1) == -THMQ_ENOTLEADER);
	member(3, THMQ_MEMBER_SPARE, &m);
	CHECK(thmq_replica_change(other->replica, &m) == -THMQ_ENOTLEADER);
	m.role = THMQ_MEMBER_VOTER; /* a copy that has nothing does not vote */
	CHECK(thmq_replica_change(l->replica, &m) == -EINVAL);
	CHECK(thmq_replica_transfer(l->replica, 77) == -EINVAL);
	CHECK(thmq_replica_trim(l->replica, 1000000) == -EINVAL);
}

static void hand_over(void)
{
	struct copy *was = await_leader();
	uint32_t i;

	CHECK(thmq_replica_transfer(was->replica, 0) == 0);
	for (i = 0; i < 60000 && (leader() == was || !leader()); i++)
		live();
	CHECK(leader() && leader() != was);
	await_all(write_messages(50, 100));
}

static void lose_the_leader(void)
{
	uint32_t number = (uint32_t)(await_leader() - w.copies);
	uint64_t index;

	close_copy(number);
	index = write_messages(200, 300);
	CHECK(open_copy(number, false) == 0);
	await_all(index);
	CHECK(w.copies[number].replayed > 200); /* what it had, and what it missed */
}

static void change(struct thmq_member *m, uint32_t role)
{
	struct thmq_replica_state s = {.size = sizeof(s)};
	int rc = -EAGAIN;
	uint32_t i;

	m->role = role;
	for (i = 0; i < 60000 && rc == -EAGAIN; i++) {
		rc = thmq_replica_change(await_leader()->replica, m);
		live();
	}
	CHECK(rc == 0);
	for (i = 0; i < 60000 && !s.members_committed; i++) {
		live();
		CHECK(thmq_replica_state(await_leader()->replica, &s) == 0);
	}
	CHECK(s.members_committed);
}

static void take_a_fourth(void)
{
	struct thmq_member m;
	uint32_t i, leaver;
	int rc = 0;

	member(3, THMQ_MEMBER_SPARE, &m);
	CHECK(open_copy(3, true) == 0);
	change(&m, THMQ_MEMBER_SPARE);
	change(&m, THMQ_MEMBER_STANDBY);
	for (i = 0; i < 60000 && rc != 1; i++) {
		rc = thmq_replica_catch_up(await_leader()->replica, m.id);
		CHECK(rc == 0 || rc == 1);
		live();
	}
	CHECK(rc == 1);
	change(&m, THMQ_MEMBER_VOTER);
	await_all(write_messages(20, 100));
	CHECK(w.copies[3].members == 4);
	leaver = leader() == &w.copies[0] ? 1 : 0;
	member(leaver, THMQ_MEMBER_REMOVED, &m);
	change(&m, THMQ_MEMBER_REMOVED);
	CHECK(leader()->members == 3);
	close_copy(leaver);
	await_all(write_messages(20, 100));
}

static void drop_what_is_old(void)
{
	struct thmq_log_stats s = {.size = sizeof(s)};
	uint32_t late = leader() == &w.copies[3] ? 2 : 3, i;
	uint64_t index;
	int rc = -EAGAIN;

	close_copy(late);
	index = write_messages(40, 200000);
	for (i = 0; i < 60000 && rc == -EAGAIN; i++) {
		rc = thmq_replica_trim(await_leader()->replica, index);
		live();
	}
	CHECK(rc == 0);
	for (i = 0; i < 60000 && s.begin_index <= 1; i++) {
		live();
		CHECK(thmq_log_stats(thmq_replica_log(await_leader()->replica), &s) == 0);
	}
	CHECK(s.begin_index > 1);
	/* the one that was away begins anew behind it */
	CHECK(open_copy(late, false) == 0);
	await_all(write_messages(10, 100));
	CHECK(w.copies[late].unappended == 1);
	CHECK(thmq_log_stats(thmq_replica_log(w.copies[late].replica), &s) == 0 &&
	      s.begin_index > 1);
}

/* Small batches that are not in memory any more: one read gets many of them. */
static void miss_many(void)
{
	struct thmq_env_stats before = {.size = sizeof(before)}, after = before;
	uint32_t number = 0, messages = 600, i;
	uint64_t first, index;

	w.cache_bytes = 256u << 10;
	for (i = 0; i < COPIES; i++)
		if (w.copies[i].replica) {
			close_copy(i);
			CHECK(open_copy(i, false) == 0);
		}
	first = write_messages(1, 100);
	await_all(first);
	while (!w.copies[number].replica || leader() == &w.copies[number])
		number++;
	close_copy(number);
	while (messages--)
		index = write_messages(1, 100); /* a batch each */
	CHECK(index - first >= 600);
	CHECK(open_copy(number, false) == 0);
	thmq_env_stats(w.env, &before);
	await_all(write_messages(1, 100));
	thmq_env_stats(w.env, &after);
	CHECK(after.reads > before.reads);
	CHECK(after.reads - before.reads < (index - first) / 4);
}

static void remove_dirs(void)
{
	char command[128];

	for (uint32_t i = 0; i < COPIES; i++) {
		snprintf(w.copies[i].dir, sizeof(w.copies[i].dir), "replica_local.%u.%d", i,
			 (int)getpid());
		snprintf(command, sizeof(command), "rm -rf %s", w.copies[i].dir);
		CHECK(system(command) == 0);
	}
}

int main(void)
{
	uint32_t i;

	remove_dirs();
	CHECK(thmq_env_open(&w.env, THMQ_ENV_OPTS(.pool_bytes = 256u << 20)) == 0);
	if (open_copy(0, false) == -EOPNOTSUPP) {
		printf("built without replication\n");
		return 77;
	}
	for (i = 1; i < 3; i++)
		CHECK(open_copy(i, false) == 0);
	await_all(write_messages(300, 100));
	refusals();
	hand_over();
	lose_the_leader();
	take_a_fourth();
	drop_what_is_old();
	miss_many();
	for (i = 0; i < COPIES; i++) {
		CHECK(!w.copies[i].failed);
		if (w.copies[i].replica)
			close_copy(i);
	}
	for (; w.head != w.tail; w.head++)
		free(w.packets[w.head % PACKETS].bytes);
	compare();
	CHECK(thmq_env_close(w.env, SECOND) == 0);
	remove_dirs();
	printf("%llu messages\n", (unsigned long long)w.next_offset);
	return 0;
}
