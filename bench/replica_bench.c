/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica_bench.c - a log with three copies, each with a carrier of its own, over TCP on loopback.
 *
 * Limit of the first two: three bare writers with flush and two loopback connections in one thread, as all three copies are here, measured in the same run in turns
 * (rig_copies.h).
 *   quorum_ack_p50      one message of 100 B at a time, from append to committed: at most 1.3 x the bare p50 of one block
 *   quorum_1KiB         messages of 1 KiB, 64 a run, as many as there is room for: at least 0.8 x the bare rig with entries as large as batches became. The logs keep the
 *                       newest 128 MiB, so that old segments become new ones: the rig writes over its files, too
 *   quorum_1KiB_growing the same while the logs make segments beside their writes, which is as many bytes of zeros again on each copy: without a bar
 *   consensus_cpu       three engines by hand, no disk and no network: CPU of all three for each entry, at most 2 us
 *   catch_up_p999       three processes, a message of 100 B each 500 us, on time or late; one follower was away while the log grew, and takes what it missed: p99.9 from
 *                       when a message is due to when it is committed, at most 2 x what it is with all three there, in turns. That follower's directory is in memory: else its
 *                       writes, which are another machine's, are on the same device as the leader's
 *   failover            three processes under load, the leader is killed: until the first message that another one acknowledges; p99 at most 1 s. election_ms is the
 *                       default, 300
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thundermq/reactor.h>
#include <thundermq/replica.h>

#include "engine.h"
#include "rig_copies.h"
#include "rig_process.h"

#define SECOND 1000000000ull
#define COPIES 3u
#define MESSAGE_BYTES 100u
#define RUN_MESSAGES 64u
#define RUN_BYTES (RUN_MESSAGES * 1024u)
#define STREAM_BATCH (256u << 10)
#define ENTRIES_OUT 32u
#define SEGMENT (256ull << 20)
#define RECYCLED (64ull << 20)
#define KEPT (128ull << 20)
#define QUIET_NS 60000000u /* no write for so long */

/* ------------------------------------------------------------ three in one thread */

struct copy {
	struct cluster *cluster;
	struct thmq_carrier *carrier;
	struct thmq_replica *replica;
	uint32_t role;
	uint64_t committed;
};

struct cluster {
	struct thmq_env *env;
	struct copy copies[COPIES];
};

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

static void on_failed(void *ctx, int error)
{
	(void)ctx;
	bench_die("a copy has failed", error);
}

static const struct thmq_replica_events events = {
	.size = sizeof(events), .role = on_role, .committed = on_committed, .failed = on_failed};

static void open_copy(struct cluster *c, const struct bench *b, unsigned number,
		      const struct thmq_member *members, const char *name, uint64_t segment_bytes,
		      uint32_t election_ms)
{
	struct copy *copy = &c->copies[number];
	char dir[4096], word[64];
	struct thmq_log_opts log = {.size = sizeof(log),
				    .dir = dir,
				    .segment_bytes_min = segment_bytes,
				    .segment_bytes_max = segment_bytes,
				    .log_id = "replica bench"};
	int rc;

	if (b->smoke)
		log.segment_bytes_min = log.segment_bytes_max = 16u << 20;
	snprintf(word, sizeof(word), "%s-%u", name, number);
	if (snprintf(dir, sizeof(dir), "%s/%s", b->dir, word) >= (int)sizeof(dir))
		bench_die(b->dir, ENAMETOOLONG);
	rc = thmq_replica_open(thmq_env_core(c->env, 0),
			       THMQ_REPLICA_OPTS(.log = &log, .events = &events, .ctx = copy,
						 .id = number + 1, .group = 1, .members = members,
						 .member_count = COPIES, .carrier = copy->carrier,
						 .election_ms = election_ms),
			       &copy->replica);
	if (rc)
		bench_die(thmq_errmsg(), rc);
}

static bool cluster_open(struct cluster *c, const struct bench *b, const char *name,
			 uint64_t segment_bytes)
{
	struct thmq_member members[COPIES] = {0};
	int rc;

	memset(c, 0, sizeof(*c));
	rc = thmq_env_open(&c->env, THMQ_ENV_OPTS(.pool_bytes = 512u << 20));
	for (unsigned i = 0; i < COPIES && !rc; i++) {
		rc = thmq_carrier_open(
			thmq_env_core(c->env, 0),
			THMQ_CARRIER_OPTS(.id = i + 1, .listen = "tcp://127.0.0.1:0"),
			&c->copies[i].carrier);
		if (rc)
			break;
		members[i].id = i + 1;
		members[i].role = THMQ_MEMBER_VOTER;
		thmq_carrier_url(c->copies[i].carrier, members[i].address,
				 sizeof(members[i].address));
	}
	if (rc == -EOPNOTSUPP) {
		thmq_env_close(c->env, 0);
		return false;
	}
	if (rc)
		bench_die(thmq_errmsg(), rc);
	for (unsigned i = 0; i < COPIES; i++)
		open_copy(c, b, i, members, name, segment_bytes,
			  3000); /* one thread for all: nobody is to be missed */
	return true;
}

static void cluster_close(struct cluster *c)
{
	for (unsigned i = 0; i < COPIES; i++)
		thmq_replica_close(c->copies[i].replica, 10 * SECOND);
	for (unsigned i = 0; i < COPIES; i++)
		thmq_carrier_close(c->copies[i].carrier);
	thmq_env_close(c->env, SECOND);
}

static struct copy *cluster_leader(struct cluster *c)
{
	uint64_t begin = bench_now();

	for (;; thmq_poll(c->env, 1000000)) {
		for (unsigned i = 0; i < COPIES; i++)
			if (c->copies[i].role == THMQ_REPLICA_LEADER)
				return &c->copies[i];
		if (bench_now() - begin > 30 * SECOND)
			bench_die("nobody leads", ETIMEDOUT);
	}
}

/* Return: its batch; 0: no room now. */
static uint64_t append(struct copy *l, uint32_t count, uint32_t len)
{
	struct thmq_log *log = thmq_replica_log(l->replica);
	struct thmq_run_header *run;
	uint64_t index, begin, next = 0;
	int rc;

	thmq_log_bounds(log, 1, &begin, &next);
	rc = thmq_log_append(log, (uint32_t)sizeof(*run) + len, &run, &index);

	if (rc == -EAGAIN)
		return 0;
	if (rc)
		bench_die("append", rc);
	thmq_run_init(run, THMQ_RUN_OPAQUE, 1, next, count, len);
	memset(run + 1, (int)next, len);
	rc = thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE);
	if (rc)
		bench_die("append", rc);
	return index;
}

static void await(struct cluster *c, const struct copy *l, uint64_t index)
{
	while (l->committed < index) {
		if (l->role != THMQ_REPLICA_LEADER)
			bench_die("the leader was replaced", EIO);
		thmq_poll(c->env, 0);
	}
}

/* --------------------------------------------------------------------- latency */

static void latency(struct bench *b)
{
	struct bench_line line = {.name = "quorum_ack_p50",
				  .unit = "us",
				  .rival = "bare copies",
				  .measure = BENCH_RATIO,
				  .sense = BENCH_AT_MOST,
				  .bar = 1.3},
			  *lines[] = {&line};
	unsigned count = b->smoke ? 20 : 1000;
	struct bench_samples ours, bare;
	struct rig_copies *rig;
	struct cluster c;
	struct copy *l;

	if (!bench_wants(b, line.name))
		return;
	if (!cluster_open(&c, b, "latency", SEGMENT)) {
		bench_skip(b, line.name, "built without replication");
		return;
	}
	rig = rig_copies_open(b->dir, 16u << 20);
	bench_samples_init(&ours, count);
	bench_samples_init(&bare, count);
	bench_pin(b->cpu_core);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		bench_samples_clear(&ours);
		bench_samples_clear(&bare);
		bench_spin_begin();
		rig_copies_run(rig, 4096, 1, count, &bare);
		bench_spin_end();
		l = cluster_leader(&c);
		for (unsigned i = 0; i < count; i++) {
			uint64_t t0 = bench_now(), index;

			while (!(index = append(l, 1, MESSAGE_BYTES)))
				thmq_poll(c.env, 0);
			await(&c, l, index);
			bench_samples_add(&ours, bench_now() - t0);
		}
		bench_pairs_add(&line.pairs, bench_percentile(&ours, 0.5) / 1e3,
				bench_percentile(&bare, 0.5) / 1e3);
	}
	bench_unpin();
	bench_detail(&line, "ours", &ours);
	bench_report(b, &line);
	rig_copies_close(rig);
	cluster_close(&c);
	bench_samples_fini(&ours);
	bench_samples_fini(&bare);
}

/* ------------------------------------------------------------------ throughput */

/* What the logs let go: all but the newest KEPT bytes, a segment at a time. */
struct keep {
	uint64_t since[KEPT / RECYCLED]; /* the batch that began each RECYCLED bytes of late */
	uint64_t bytes;
	uint32_t count;
	uint64_t due; /* 0: nothing is */
};

static void let_go(struct copy *l, struct keep *k, uint64_t index)
{
	const uint32_t places = KEPT / RECYCLED;
	int rc;

	k->bytes += RUN_BYTES;
	if (k->bytes >= RECYCLED) {
		k->bytes -= RECYCLED;
		if (k->count >= places)
			k->due = k->since[k->count % places];
		k->since[k->count++ % places] = index;
	}
	if (!k->due || k->due > l->committed)
		return;
	rc = thmq_replica_trim(l->replica, k->due);
	if (rc && rc != -EAGAIN)
		bench_die("trim", rc);
	k->due = rc ? k->due : 0;
}

/* @k NULL: all is kept. */
static double stream(struct cluster *c, uint64_t bytes, struct keep *k)
{
	struct copy *l = cluster_leader(c);
	uint64_t t0 = bench_now(), sent = 0, index = 0;

	while (sent < bytes) {
		uint64_t at = append(l, RUN_MESSAGES, RUN_BYTES);

		if (!at) {
			thmq_poll(c->env, 0);
			continue;
		}
		index = at;
		sent += RUN_BYTES;
		if (k)
			let_go(l, k, index);
	}
	await(c, l, index);
	return (double)sent / ((double)(bench_now() - t0) / 1e9);
}

/* What segments, and what lags behind, has been written, so that the rig has the device to itself. */
static void settle(struct cluster *c)
{
	struct thmq_env_stats s = {.size = sizeof(s)};
	uint64_t begin = bench_now(), since = begin, seen = 0;

	while (bench_now() - since < QUIET_NS && bench_now() - begin < 20 * SECOND) {
		thmq_poll(c->env, 1000000);
		thmq_env_stats(c->env, &s);
		if (s.write_bytes != seen)
			since = bench_now();
		seen = s.write_bytes;
	}
}

static void throughput(struct bench *b, const char *name, bool recycled)
{
	struct bench_line line = {.name = name,
				  .unit = "MB/s",
				  .rival = "bare copies",
				  .measure = BENCH_RATIO,
				  .sense = recycled ? BENCH_AT_LEAST : BENCH_NO_BAR,
				  .bar = recycled ? 0.8 : 0},
			  *lines[] = {&line};
	/* growing: four segments, of which one may be there before */
	uint64_t volume = b->smoke ? 4u << 20 : recycled ? 128u << 20 : 4 * RECYCLED;
	struct thmq_replica_state s = {.size = sizeof(s)};
	struct thmq_env_stats e = {.size = sizeof(e)};
	uint64_t batches = 0, bytes = 0, written = 0, before, wrote;
	uint32_t len = STREAM_BATCH;
	struct rig_copies *rig;
	struct keep keep = {0};
	struct cluster c;

	if (!bench_wants(b, line.name))
		return;
	if (!cluster_open(&c, b, name, RECYCLED)) {
		bench_skip(b, line.name, "built without replication");
		return;
	}
	rig = rig_copies_open(b->dir, b->smoke ? 16u << 20 : 256u << 20);
	bench_pin(b->cpu_core);
	if (recycled && !b->smoke)
		stream(&c, 4 * KEPT, &keep); /* as in a log that has run for a while */
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double ours, bare;

		settle(&c);
		thmq_replica_state(cluster_leader(&c)->replica, &s);
		thmq_env_stats(c.env, &e);
		before = s.last_index;
		wrote = e.write_bytes;
		ours = stream(&c, volume, recycled ? &keep : NULL);
		thmq_replica_state(cluster_leader(&c)->replica, &s);
		settle(&c);
		thmq_env_stats(c.env, &e);
		batches += s.last_index - before;
		bytes += volume;
		written += e.write_bytes - wrote;
		/* as large as ours became */
		if (batches)
			len = (uint32_t)(bytes / batches + 4095) / 4096 * 4096;
		if (len > 1u << 20)
			len = 1u << 20;
		bench_spin_begin();
		bare = rig_copies_run(rig, len, 8, (unsigned)(volume / len), NULL);
		bench_spin_end();
		bench_pairs_add(&line.pairs, ours / 1e6, bare / 1e6);
	}
	bench_unpin();
	snprintf(line.detail, sizeof(line.detail), "\"entry_bytes\":%u,\"written_to_stored\":%.2f",
		 len, bytes ? (double)written / (double)(COPIES * bytes) : 0);
	bench_report(b, &line);
	rig_copies_close(rig);
	cluster_close(&c);
}

/* ------------------------------------------------------------------- consensus */

struct node {
	struct thmqi_engine *e;
	struct trio *trio;
	uint64_t last;
	struct thmqi_message out[256];
	uint32_t batches[256], out_count;
};

struct trio {
	struct node nodes[COPIES];
	struct thmqi_membership m;
	uint64_t now_ms;
};

static void on_send(void *ctx, const struct thmqi_message *message, uint32_t batches)
{
	struct node *n = ctx;

	if (n->out_count == 256)
		return;
	n->out[n->out_count] = *message;
	n->batches[n->out_count++] = batches;
}

static bool first_term(void *ctx, uint32_t at, uint64_t *ret_index, uint64_t *ret_term)
{
	(void)ctx;
	*ret_index = *ret_term = 1;
	return at == 0;
}

static void must(int rc)
{
	if (rc)
		bench_die("engine", rc);
}

/* What an event asked for: batches are there at once, and durable. */
static void do_duties(struct trio *t, struct node *n, struct thmqi_duties d, uint64_t last)
{
	while (d.noop || d.take) {
		uint64_t term = thmqi_engine_term(n->e);

		if (d.noop) {
			n->last = d.noop;
			must(thmqi_engine_submit(n->e, t->now_ms, n->last, term, NULL, &d));
			continue;
		}
		n->last = last;
		break;
	}
	if (n->last > thmqi_engine_stored(n->e))
		must(thmqi_engine_persisted(n->e, t->now_ms, n->last, &d));
}

static void deliver(struct trio *t, const struct thmqi_message *m, uint32_t batches)
{
	struct thmqi_engine_entry entries[THMQI_ENGINE_ENTRIES];
	struct node *to = &t->nodes[m->to - 1];
	struct thmqi_message part = *m;
	struct thmqi_duties d;
	uint32_t n;

	if (m->type != THMQI_MESSAGE_APPEND) {
		must(thmqi_engine_receive(to->e, t->now_ms, m, NULL, &d));
		do_duties(t, to, d, to->last);
		return;
	}
	do {
		n = batches < THMQI_ENGINE_ENTRIES ? batches : THMQI_ENGINE_ENTRIES;
		for (uint32_t i = 0; i < n; i++) {
			entries[i].term = m->term;
			entries[i].change = false;
		}
		must(thmqi_engine_append(to->e, t->now_ms, &part, entries, n, &d));
		do_duties(t, to, d, part.index + n);
		part.index += n;
		part.index_term = m->term;
		batches -= n;
	} while (batches);
}

static void carry_all(struct trio *t)
{
	struct thmqi_message out[256];
	uint32_t batches[256], count, i, k, moved;

	do {
		moved = 0;
		for (i = 0; i < COPIES; i++) {
			struct node *n = &t->nodes[i];

			count = n->out_count;
			memcpy(out, n->out, count * sizeof(out[0]));
			memcpy(batches, n->batches, count * sizeof(batches[0]));
			n->out_count = 0;
			for (k = 0; k < count; k++)
				deliver(t, &out[k], batches[k]);
			moved += count;
		}
	} while (moved);
}

static void trio_open(struct trio *t)
{
	memset(t, 0, sizeof(*t));
	t->now_ms = 1000;
	t->m.index = 1;
	t->m.members.count = COPIES;
	for (unsigned i = 0; i < COPIES; i++) {
		struct thmqi_member *m = &t->m.members.list[i];

		m->id = i + 1;
		m->role = THMQI_MEMBER_VOTER;
		snprintf(m->address, sizeof(m->address), "%u", i + 1);
	}
	for (unsigned i = 0; i < COPIES; i++) {
		const struct thmqi_engine_opts o = {.id = i + 1,
						    .group = 1,
						    .heartbeat_ms = 30,
						    .election_ms = 300 + 300 * i,
						    .seed = i + 1,
						    .send = on_send,
						    .ctx = &t->nodes[i]};
		const struct thmqi_engine_start s = {.now_ms = t->now_ms,
						     .term = 1,
						     .last = 1,
						     .membership = &t->m,
						     .terms = first_term};
		struct thmqi_duties d;

		t->nodes[i].trio = t;
		t->nodes[i].last = 1;
		must(thmqi_engine_open(&o, &t->nodes[i].e));
		must(thmqi_engine_start(t->nodes[i].e, &s, &d));
	}
}

static void elect(struct trio *t)
{
	struct thmqi_duties d;

	for (unsigned i = 0; i < 1000 && thmqi_engine_role(t->nodes[0].e) != THMQI_ROLE_LEADER;
	     i++) {
		t->now_ms += 10;
		if (t->now_ms >= thmqi_engine_timeout_ms(t->nodes[0].e)) {
			must(thmqi_engine_timeout(t->nodes[0].e, t->now_ms, &d));
			do_duties(t, &t->nodes[0], d, 0);
		}
		carry_all(t);
	}
	if (thmqi_engine_role(t->nodes[0].e) != THMQI_ROLE_LEADER)
		bench_die("no engine leads", EIO);
}

static double entries_us(struct trio *t, uint64_t count)
{
	struct node *l = &t->nodes[0];
	uint64_t begin = bench_cpu_ns(), end = l->last + count;
	struct thmqi_duties d;

	while (l->last < end) {
		for (unsigned i = 0; i < ENTRIES_OUT && l->last < end; i++) {
			l->last++;
			must(thmqi_engine_submit(l->e, t->now_ms, l->last, thmqi_engine_term(l->e),
						 NULL, &d));
			do_duties(t, l, d, l->last);
		}
		carry_all(t);
	}
	if (thmqi_engine_committed(l->e) != l->last)
		bench_die("engines did not agree", EIO);
	return (double)(bench_cpu_ns() - begin) / (double)count / 1e3;
}

static void consensus(struct bench *b)
{
	struct bench_line line = {.name = "consensus_cpu",
				  .unit = "us",
				  .measure = BENCH_VALUE,
				  .sense = BENCH_AT_MOST,
				  .bar = 2.0},
			  *lines[] = {&line};
	struct trio *t;

	if (!bench_wants(b, line.name))
		return;
	t = malloc(sizeof(*t));
	if (!t)
		bench_die("engines", ENOMEM);
	trio_open(t);
	elect(t);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++)
		bench_pairs_add(&line.pairs, entries_us(t, b->smoke ? 1000 : 200000), 0);
	snprintf(line.detail, sizeof(line.detail), "\"outstanding\":%u", ENTRIES_OUT);
	bench_report(b, &line);
	for (unsigned i = 0; i < COPIES; i++)
		thmqi_engine_close(t->nodes[i].e);
	free(t);
}

/* -------------------------------------------------------------------- failover */

static struct shared {
	_Atomic uint32_t leader;       /* + 1, of the last ack */
	_Atomic uint64_t last[COPIES]; /* batch that each has */
	char urls[COPIES][THMQ_ADDRESS_MAX];
} * shared;

static void node_main(const struct bench *b, unsigned number)
{
	struct thmq_member members[COPIES] = {0};
	struct thmq_replica_state s = {.size = sizeof(s)};
	struct cluster c = {0};
	struct copy *me = &c.copies[number];
	uint64_t index = 0;
	int rc = thmq_env_open(&c.env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20));

	for (unsigned i = 0; i < COPIES; i++) {
		members[i].id = i + 1;
		members[i].role = THMQ_MEMBER_VOTER;
		strcpy(members[i].address, shared->urls[i]);
	}
	if (!rc)
		rc = thmq_carrier_open(
			thmq_env_core(c.env, 0),
			THMQ_CARRIER_OPTS(.id = number + 1, .listen = shared->urls[number]),
			&me->carrier);
	if (rc) {
		fprintf(stderr, "%s\n", thmq_errmsg());
		_exit(2);
	}
	open_copy(&c, b, number, members, "failover", SEGMENT, 0);
	while (getppid() != 1) {
		thmq_poll(c.env, 1000000);
		thmq_replica_state(me->replica, &s);
		atomic_store(&shared->last[number], s.last_index);
		if (me->role != THMQ_REPLICA_LEADER) {
			index = 0;
			continue;
		}
		if (index && me->committed >= index) {
			atomic_store(&shared->leader, number + 1);
			index = 0;
		}
		if (!index)
			index = append(me, 1, MESSAGE_BYTES);
	}
	_exit(0);
}

static pid_t start(const struct bench *b, unsigned number)
{
	pid_t pid = fork();

	if (pid < 0)
		bench_die("fork", errno);
	if (!pid)
		node_main(b, number);
	return pid;
}

static uint32_t await_other(uint32_t not_this)
{
	uint64_t begin = bench_now();

	while (atomic_load(&shared->leader) == not_this) {
		if (bench_now() - begin > 60 * SECOND)
			bench_die("nobody took over", ETIMEDOUT);
		bench_sleep_ns(200000);
	}
	return atomic_load(&shared->leader);
}

static void failover(struct bench *b)
{
	struct bench_line line = {.name = "failover_p99",
				  .unit = "ms",
				  .measure = BENCH_VALUE,
				  .sense = BENCH_AT_MOST,
				  .bar = 1000};
	unsigned count = b->smoke ? 2 : b->full ? 200 : 40;
	struct bench_samples s;
	pid_t pids[COPIES];
	uint32_t leader;

	if (!bench_wants(b, line.name))
		return;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		bench_die("shared memory", errno);
	bench_samples_init(&s, count);
	fflush(NULL);
	for (unsigned i = 0; i < COPIES; i++)
		snprintf(shared->urls[i], sizeof(shared->urls[i]), "tcp://127.%d.%d.%u:7481",
			 1 + getpid() / 250 % 250, getpid() % 250, i + 1);
	for (unsigned i = 0; i < COPIES; i++)
		pids[i] = start(b, i);
	leader = await_other(0);
	for (unsigned i = 0; i < count; i++) {
		uint64_t t0;

		bench_sleep_ns(300000000);
		leader = atomic_load(&shared->leader);
		kill(pids[leader - 1], SIGKILL);
		t0 = bench_now();
		waitpid(pids[leader - 1], NULL, 0);
		atomic_store(&shared->leader, 0);
		await_other(0);
		bench_samples_add(&s, bench_now() - t0);
		atomic_store(&shared->last[leader - 1], 0);
		pids[leader - 1] = start(b, leader - 1);
		/* until it is there again, and has what it missed: else two are away when the next leader is killed */
		while (atomic_load(&shared->last[leader - 1]) + 20 <
		       atomic_load(&shared->last[atomic_load(&shared->leader) - 1]))
			bench_sleep_ns(1000000);
	}
	for (unsigned i = 0; i < COPIES; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
	}
	bench_pairs_add(&line.pairs, bench_percentile(&s, 0.99) / 1e6, 0);
	bench_detail(&line, "ours", &s);
	bench_report(b, &line);
	bench_samples_fini(&s);
	munmap(shared, sizeof(*shared));
}

/* -------------------------------------------------------------------- catch-up */

#define LATE 3u /* the member that was away; it hands over whenever it leads */
#define EACH_NS 500000ull
#define PULSE_SAMPLES 65536u
#define PULSE_OUT 256u

enum task { TASK_NONE, TASK_FILL, TASK_PULSE, TASK_TRIM };

/* What the parent and the three nodes know of each other. */
static struct yard {
	_Atomic uint32_t task; /* of who leads */
	_Atomic uint32_t done; /* FILL, TRIM: it is */
	_Atomic uint32_t leader;
	_Atomic uint64_t last[COPIES];
	uint64_t fill_bytes;
	_Atomic uint32_t samples;
	uint32_t ns[PULSE_SAMPLES];
	char urls[COPIES][THMQ_ADDRESS_MAX];
	char dirs[COPIES][3200];
} * yard;

struct pulse {
	uint64_t due; /* of the next one */
	uint64_t index[PULSE_OUT], since[PULSE_OUT];
	uint32_t head, tail;
};

/* One message each EACH_NS: what is late is sent later, and its time counts from when it was due. */
static void pulse(struct copy *me, struct pulse *p)
{
	uint64_t now = bench_now(), index;
	uint32_t n;

	if (!p->due)
		p->due = now;
	while (p->due <= now && p->tail - p->head < PULSE_OUT) {
		index = append(me, 1, MESSAGE_BYTES);
		if (!index)
			break;
		p->index[p->tail % PULSE_OUT] = index;
		p->since[p->tail++ % PULSE_OUT] = p->due;
		p->due += EACH_NS;
	}
	for (now = bench_now();
	     p->head != p->tail && p->index[p->head % PULSE_OUT] <= me->committed; p->head++) {
		n = atomic_load(&yard->samples);
		if (n == PULSE_SAMPLES)
			continue;
		yard->ns[n] = (uint32_t)(now - p->since[p->head % PULSE_OUT]);
		atomic_store(&yard->samples, n + 1);
	}
}

/* Return: more of it is to be appended at once. */
static bool fill(struct copy *me, uint64_t *sent, uint64_t *index)
{
	uint64_t at;

	if (*sent >= yard->fill_bytes) {
		if (me->committed >= *index)
			atomic_store(&yard->done, 1);
		return false;
	}
	at = append(me, RUN_MESSAGES, RUN_BYTES);
	if (!at)
		return false;
	*index = at;
	*sent += RUN_BYTES;
	return true;
}

static void trim(struct copy *me)
{
	if (!atomic_load(&yard->done) && thmq_replica_trim(me->replica, me->committed) == 0)
		atomic_store(&yard->done, 1);
}

static void lead(struct copy *me, struct pulse *p, uint64_t *sent, uint64_t *index)
{
	uint32_t task = atomic_load(&yard->task);

	if (task != TASK_FILL)
		*sent = 0;
	if (task != TASK_PULSE)
		p->due = 0;
	if (task == TASK_FILL)
		while (fill(me, sent, index))
			;
	if (task == TASK_TRIM)
		trim(me);
	if (task == TASK_PULSE || p->head != p->tail)
		pulse(me, p);
}

static void yard_node(void *arg)
{
	struct bench b = {.smoke = yard->fill_bytes <= 32u << 20};
	const unsigned number = (unsigned)(uintptr_t)arg;
	struct thmq_replica_state s = {.size = sizeof(s)};
	struct thmq_member members[COPIES] = {0};
	struct pulse p = {0};
	struct cluster c = {0};
	struct copy *me = &c.copies[number];
	uint64_t sent = 0, index = 0, now;
	int rc = thmq_env_open(&c.env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20));

	for (unsigned i = 0; i < COPIES; i++) {
		members[i].id = i + 1;
		members[i].role = THMQ_MEMBER_VOTER;
		strcpy(members[i].address, yard->urls[i]);
	}
	if (!rc)
		rc = thmq_carrier_open(
			thmq_env_core(c.env, 0),
			THMQ_CARRIER_OPTS(.id = number + 1, .listen = yard->urls[number]),
			&me->carrier);
	if (rc) {
		fprintf(stderr, "%s\n", thmq_errmsg());
		_exit(2);
	}
	strcpy(b.dir, yard->dirs[number]);
	open_copy(&c, &b, number, members, "catch-up", RECYCLED, 2000);
	for (;;) {
		now = bench_now();
		thmq_poll(c.env, !p.due ? 1000000 : p.due > now ? p.due - now : 0);
		thmq_replica_state(me->replica, &s);
		atomic_store(&yard->last[number], s.last_index);
		if (me->role != THMQ_REPLICA_LEADER)
			continue;
		if (number + 1 == LATE) {
			thmq_replica_transfer(me->replica, 0);
			continue;
		}
		atomic_store(&yard->leader, number + 1);
		lead(me, &p, &sent, &index);
	}
}

static void await_task(enum task task)
{
	uint64_t begin = bench_now();

	atomic_store(&yard->done, 0);
	atomic_store(&yard->task, task);
	while (!atomic_load(&yard->done)) {
		if (bench_now() - begin > 120 * SECOND)
			bench_die("the leader does not end its task", ETIMEDOUT);
		bench_sleep_ns(1000000);
	}
	atomic_store(&yard->task, TASK_NONE);
}

/* Has the late one nearly all? */
static bool is_late(uint64_t by)
{
	uint32_t leader = atomic_load(&yard->leader);

	return !leader ||
	       atomic_load(&yard->last[LATE - 1]) + by < atomic_load(&yard->last[leader - 1]);
}

/* Samples of @count messages, or as long as the late one is. */
static void pulses(uint32_t count, struct bench_samples *s, struct bench_samples *all)
{
	uint64_t begin = bench_now();

	atomic_store(&yard->samples, 0);
	atomic_store(&yard->task, TASK_PULSE);
	while (count ? atomic_load(&yard->samples) < count : is_late(64)) {
		if (bench_now() - begin > 120 * SECOND)
			bench_die("pulses", ETIMEDOUT);
		bench_sleep_ns(500000);
	}
	atomic_store(&yard->task, TASK_NONE);
	bench_samples_clear(s);
	for (uint32_t i = 0; i < atomic_load(&yard->samples); i++) {
		bench_samples_add(s, yard->ns[i]);
		bench_samples_add(all, yard->ns[i]);
	}
}

static void yard_open(struct bench *b)
{
	const char *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : b->dir;

	yard = mmap(NULL, sizeof(*yard), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (yard == MAP_FAILED)
		bench_die("shared memory", errno);
	yard->fill_bytes = b->smoke ? 32u << 20 : 512u << 20;
	for (unsigned i = 0; i < COPIES; i++) {
		snprintf(yard->urls[i], sizeof(yard->urls[i]), "tcp://127.%d.%d.%u:7482",
			 1 + getpid() / 250 % 250, getpid() % 250, i + 1);
		if (i + 1 == LATE)
			snprintf(yard->dirs[i], sizeof(yard->dirs[i]), "%s/thundermq-bench-XXXXXX",
				 memory);
		else
			snprintf(yard->dirs[i], sizeof(yard->dirs[i]), "%s", b->dir);
	}
	if (!mkdtemp(yard->dirs[LATE - 1]))
		bench_die(yard->dirs[LATE - 1], errno);
}

static void catch_up(struct bench *b)
{
	struct bench_line line = {.name = "catch_up_p999",
				  .unit = "us",
				  .rival = "all three there",
				  .measure = BENCH_RATIO,
				  .sense = BENCH_AT_MOST,
				  .bar = 2},
			  *lines[] = {&line};
	struct bench_samples s, quiet, late;
	pid_t pids[COPIES];
	double p[2], took = 0;

	if (!bench_wants(b, line.name))
		return;
	yard_open(b);
	bench_samples_init(&s, PULSE_SAMPLES);
	bench_samples_init(&quiet, BENCH_PAIRS_MAX * PULSE_SAMPLES / 4);
	bench_samples_init(&late, BENCH_PAIRS_MAX * PULSE_SAMPLES / 4);
	for (unsigned i = 0; i < COPIES; i++)
		pids[i] = rig_process_start(yard_node, (void *)(uintptr_t)i);
	while (!atomic_load(&yard->leader) || is_late(1))
		bench_sleep_ns(1000000);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		uint64_t t0;

		pulses(b->smoke ? 50 : 4000, &s, &quiet);
		p[1] = bench_percentile(&s, 0.999) / 1e3;
		rig_process_stop(pids[LATE - 1]);
		await_task(TASK_FILL);
		pids[LATE - 1] = rig_process_start(yard_node, (void *)(uintptr_t)(LATE - 1));
		t0 = bench_now();
		pulses(0, &s, &late);
		took += (double)(bench_now() - t0) / 1e9;
		p[0] = bench_percentile(&s, 0.999) / 1e3;
		bench_pairs_add(&line.pairs, p[0], p[1]);
		await_task(TASK_TRIM);
	}
	for (unsigned i = 0; i < COPIES; i++)
		rig_process_stop(pids[i]);
	snprintf(line.detail, sizeof(line.detail), "\"missed_MB\":%.0f,\"caught_up_MB_s\":%.0f",
		 (double)yard->fill_bytes / 1e6,
		 (double)yard->fill_bytes / 1e6 * line.pairs.count / took);
	bench_detail(&line, "late", &late);
	bench_detail(&line, "quiet", &quiet);
	bench_report(b, &line);
	bench_samples_fini(&s);
	bench_samples_fini(&quiet);
	bench_samples_fini(&late);
	bench_rmdir(yard->dirs[LATE - 1]);
	munmap(yard, sizeof(*yard));
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "replica");
	consensus(&b);
	failover(&b); /* before any environment: it forks */
	catch_up(&b); /* likewise */
	latency(&b);
	throughput(&b, "quorum_1KiB", true);
	throughput(&b, "quorum_1KiB_growing", false);
	return bench_end(&b);
}
