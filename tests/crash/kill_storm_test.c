/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill_storm_test.c - a broker with publishers of every rung, a group, retention, topics that come and go, and a reader that sees
 * messages before they are durable, is killed at random moments in one directory, its opening included. After each kill the
 * directory verifies, and holds: what was acknowledged written or durable, once and in order, no hole in any producer's messages of a
 * partition, the group's offset between what was confirmed and what was acked, topics as create and delete said, and
 * the reader that remembers a lost message is told.
 *
 * usage: kill_storm_test [kills]; default 8, and 250 with THMQ_TEST_FULL=1. THMQ_TEST_SEED repeats the moments.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thundermq/log.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define PARTITIONS 3
#define PUBLISHERS 3
#define LIVES_MAX 1100
#define PER_LIFE                                                                                   \
	3000 /* messages of a publisher and partition, so that all can be read again after each kill */
#define PARTS_MAX 2 /* of the largest message, but the last */
#define TOPICS 4 /* that come and go */

enum topic_state { TOPIC_GONE, TOPIC_CHANGING, TOPIC_THERE };

/* Written by the process that is killed, read after its death. Counts of messages, numbered from 1. */
struct shared {
	volatile uint64_t sent[PUBLISHERS][PARTITIONS];
	volatile uint64_t kept[PUBLISHERS][PARTITIONS]; /* up to here all is certain to survive */
	volatile uint64_t group_sent[PARTITIONS], group_stored[PARTITIONS]; /* offsets */
	volatile uint64_t weak_offset; /* the last one that the reader of "weak" has seen, and 1 */
	volatile uint64_t weak_number;
	volatile int topics[TOPICS];
	volatile int ready, failed;
	char text[256];
};

struct body {
	uint32_t life, publisher;
	uint64_t number;
	uint64_t check;
};

static struct shared *shared;
static uint32_t found[LIVES_MAX][PUBLISHERS][PARTITIONS]; /* in "keep", once read back */
static uint32_t life;                                     /* of the child; 1 is the first */
static char dir[] = "kill-storm-XXXXXX";

static bool fail(int line, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "kill_storm_test: line %d, life %u: ", line, life);
	vfprintf(stderr, format, args);
	fprintf(stderr, " (%s)\n", thmq_errmsg());
	va_end(args);
	return false;
}

#define FAIL(...) return fail(__LINE__, __VA_ARGS__)
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			return fail(__LINE__, "%s", #x);                                           \
	} while (0)

static uint64_t check_of(const struct body *b)
{
	return (b->number * 0x9e3779b97f4a7c15ull) ^ ((uint64_t)b->life << 32) ^ b->publisher;
}

/* ------------------------------------------------------------ who is killed */

struct world {
	struct thmq_env *env;
	struct thmq_broker *broker;
};

static bool open_broker(struct world *w, uint32_t cores)
{
	CHECK(thmq_env_open(&w->env, THMQ_ENV_OPTS(.core_count = cores, .pool_bytes = 256u << 20,
						   .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(w->env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2,
						.segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
						.cache_bytes = 1u << 20,
						.flush_interval_ns = 20000000),
			       &w->broker) == 0);
	return true;
}

static bool make_topics(struct thmq_session *s)
{
	CHECK(thmq_topic_create(s, "keep",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT,
						.partition_count = PARTITIONS)) == 0);
	CHECK(thmq_topic_create(s, "weak",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT,
						.visible_at = THMQ_DURABILITY_MEMORY)) == 0);
	CHECK(thmq_topic_create(s, "short",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT,
						.retention_bytes = 128 << 10)) == 0);
	CHECK(thmq_topic_create(
		      s, "gone",
		      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT | THMQ_TOPIC_VOLATILE)) == 0);
	return true;
}

/* Of publisher 0 all is durable, of 1 written, of 2 each message has a rung of its own. */
static uint32_t rung(uint32_t publisher, uint64_t number)
{
	return publisher == 0   ? THMQ_DURABILITY_DURABLE
	       : publisher == 1 ? THMQ_DURABILITY_WRITTEN
				: THMQ_DURABILITY_MEMORY + number * 7 % 11 % 3;
}

/* What a watermark proves: of each partition all up to the last message there that asked for more than memory. */
struct outstanding {
	uint8_t partition;
	bool counts;
	uint64_t number;
};

static bool publish(struct thmq_session *s, uint32_t publisher)
{
	static const char padding[150000];
	struct outstanding *out = calloc(PER_LIFE * PARTITIONS + 1, sizeof(*out));
	struct thmq_producer *p, *other;
	struct body b = {.life = life, .publisher = publisher};
	uint64_t count = 0, settled = 0, i;
	static _Thread_local char large[sizeof(struct body) + sizeof(padding)];
	uint32_t partition, level;
	int64_t rc;

	CHECK(out);
	CHECK(thmq_producer_open(s, "keep",
				 publisher == 1
					 ? THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_WRITTEN)
					 : NULL,
				 &p) == 0);
	CHECK(thmq_producer_open(s,
				 publisher == 0   ? "short"
				 : publisher == 1 ? "weak"
						  : "gone",
				 THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY),
				 &other) == 0);
	for (i = 0;; i++) {
		partition = (uint32_t)(i / 5 % PARTITIONS);
		level = rung(publisher, shared->sent[publisher][partition] + 1);
		if (shared->sent[publisher][partition] < PER_LIFE) {
			b.number = shared->sent[publisher][partition] + 1;
			b.check = check_of(&b);
			memset(large, 0, sizeof(large));
			memcpy(large, &b, sizeof(b));
			/* now and then one that is larger than a batch, and stored in parts */
			rc = thmq_send(p, large, sizeof(b) + (uint32_t)(b.number % 50 ? b.number * 37 % 700 : sizeof(padding)),
				       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
							 .partition = partition,
							 .durability = publisher == 2 ? level : 0,
							 .key = b.number % 3 ? &b.number : NULL,
							 .key_len = b.number % 3 ? 8 : 0));
			CHECK(rc == -EAGAIN || rc == (int64_t)count + 1);
			if (rc > 0) {
				shared->sent[publisher][partition] = b.number;
				out[++count] = (struct outstanding){
					(uint8_t)partition, level >= THMQ_DURABILITY_WRITTEN,
					b.number};
			}
		}
		if (i % 8 ==
		    0) { /* what is acknowledged early, what retention takes, what lives in memory */
			b.number = i / 8 + 1;
			b.check = check_of(&b);
			memcpy(large, &b, sizeof(b));
			rc = thmq_send(other, large, publisher == 0 ? 3000 : sizeof(b),
				       NULL);
			CHECK(rc > 0 || rc == -EAGAIN);
			if (rc == -EAGAIN)
				i--;
		}
		rc = thmq_watermark(p);
		CHECK(rc >= 0 && rc <= (int64_t)count);
		for (; settled < (uint64_t)rc; settled++)
			if (out[settled + 1].counts)
				shared->kept[publisher][out[settled + 1].partition] =
					out[settled + 1].number;
		if (i % 16 == 15)
			thmq_session_wait(s, 200000);
		if (shared->failed)
			return false;
	}
}

static bool consume(struct thmq_session *s)
{
	struct thmq_consumer *group, *weak;
	struct thmq_message m[64];
	uint64_t here[PARTITIONS] = {0}, turn;
	struct body b;
	int n, i;

	CHECK(thmq_consumer_open(s, "keep", "g", NULL, &group) == 0);
	CHECK(thmq_consumer_open(s, "weak", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END),
				 &weak) == 0);
	for (turn = 0;; turn++) {
		n = thmq_fetch(group, m, 64);
		CHECK(n >= 0);
		for (i = 0; i < n; i++) {
			if (shared->group_sent[m[i].partition] < m[i].offset + m[i].span)
				shared->group_sent[m[i].partition] = m[i].offset + m[i].span;
			if (thmq_ack(group, &m[i]) == 0)
				here[m[i].partition] = m[i].offset + m[i].span;
		}
		CHECK(thmq_release(group, m, (uint32_t)n) == 0);
		if (turn % 16 == 15 && thmq_consumer_flush(group, SECOND) == 0)
			for (i = 0; i < PARTITIONS; i++)
				if (shared->group_stored[i] < here[i])
					shared->group_stored[i] = here[i];
		n = thmq_fetch(weak, m, 64);
		CHECK(n >= 0);
		for (i = 0; i < n; i++) {
			memcpy(&b, m[i].data, sizeof(b));
			shared->weak_offset = 0;
			shared->weak_number = ((uint64_t)b.life << 32) | b.number;
			shared->weak_offset = m[i].offset + 1;
		}
		CHECK(thmq_release(weak, m, (uint32_t)n) == 0);
		thmq_session_wait(s, 1000000);
	}
}

static bool come_and_go(struct thmq_session *s)
{
	struct thmq_producer *p;
	char name[16];
	uint32_t i;

	for (i = life;; i++) {
		volatile int *state = &shared->topics[i % TOPICS];
		bool there = *state == TOPIC_THERE;
		int rc;

		snprintf(name, sizeof(name), "come-%u", i % TOPICS);
		*state = TOPIC_CHANGING;
		rc = there ? thmq_topic_delete(s, name)
			   : thmq_topic_create(s, name, THMQ_TOPIC_OPTS(.partition_count = 5));
		if (rc)
			FAIL("%s of %s: %s", there ? "delete" : "create", name, thmq_errname(rc));
		*state = there ? TOPIC_GONE : TOPIC_THERE;
		if (!there && thmq_producer_open(s, name, NULL, &p) == 0) {
			thmq_send(p, name, sizeof(name), NULL);
			if (i & 1)
				thmq_flush(p, SECOND);
			thmq_producer_close(p, SECOND);
		}
	}
}

static struct world world;

static void *run(void *arg)
{
	uint32_t role = (uint32_t)(uintptr_t)arg;
	struct thmq_session *s;
	bool ok = false;

	if (thmq_connect(world.env, "inproc://",
			 THMQ_SESSION_OPTS(.window_count = 1024, .window_bytes = 1u << 20),
			 &s) == 0)
		ok = role < PUBLISHERS    ? publish(s, role)
		     : role == PUBLISHERS ? consume(s)
					  : come_and_go(s);
	else
		fail(__LINE__, "connect");
	if (!ok)
		shared->failed = 1;
	return NULL;
}

/* Until it is killed. */
static void live(void)
{
	struct thmq_session *s;
	pthread_t threads[PUBLISHERS + 2];
	uintptr_t i;

	if (!open_broker(&world, 1 + life % 2) ||
	    thmq_connect(world.env, "inproc://", NULL, &s) != 0 || !make_topics(s)) {
		shared->failed = 1;
		return;
	}
	for (i = 0; i < PUBLISHERS + 2; i++)
		pthread_create(&threads[i], NULL, run, (void *)i);
	shared->ready = 1;
	while (!shared->failed)
		usleep(10000);
}

/* ------------------------------------------------------------- who looks after */

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	(void)ctx;
	if (f->kind == THMQ_FINDING_DAMAGE || f->kind == THMQ_FINDING_MISSING ||
	    f->kind == THMQ_FINDING_VERSION || f->kind == THMQ_FINDING_IDENTITY ||
	    f->kind == THMQ_FINDING_FOREIGN || f->kind == THMQ_FINDING_INDEX)
		fail(__LINE__, "verify: kind %u: %s", f->kind, f->text);
	return 0;
}

static bool verify(void)
{
	const struct thmq_log_visitor v = {.size = sizeof(v), .finding = on_finding};
	int rc = thmq_data_scan(dir, &v, NULL);

	if (rc && !(rc == -ENOENT && life == 1))
		FAIL("verify: %s", thmq_errname(rc));
	return true;
}

/* All of a topic from its beginning, up to where it ended at the call. */
static bool read_all(struct thmq_session *s, const char *topic, uint32_t partitions,
		     bool (*each)(const struct thmq_message *m))
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t end[PARTITIONS] = {0}, next[PARTITIONS] = {0};
	struct thmq_consumer *c;
	struct thmq_message m[256];
	bool more = true;
	uint32_t i;
	int n, idle;

	CHECK(thmq_consumer_open(s, topic, NULL, NULL, &c) == 0);
	for (i = 0; i < partitions; i++) {
		CHECK(thmq_partition_describe(s, topic, i, NULL, &info) == 0);
		end[i] = info.end_offset;
		next[i] = info.begin_offset;
	}
	for (idle = 0; more && idle < 200;) {
		n = thmq_fetch(c, m, 256);
		CHECK(n >= 0);
		idle = n ? 0 : idle + 1;
		for (i = 0; i < (uint32_t)n; i++) {
			if (m[i].offset < next[m[i].partition])
				FAIL("%s: offset %llu where %llu comes", topic,
				     (unsigned long long)m[i].offset,
				     (unsigned long long)next[m[i].partition]);
			next[m[i].partition] = m[i].offset + m[i].span;
			if (!each(&m[i]))
				return false;
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		for (i = 0, more = false; i < partitions; i++)
			more = more || next[i] < end[i];
		if (more && !n)
			thmq_session_wait(s, SECOND / 20);
	}
	/* what was stored of a message that was cut short may lie at the end, where a segment ended there: nobody sees it */
	for (i = 0; i < partitions; i++)
		CHECK(next[i] >= end[i] || end[i] - next[i] <= PARTS_MAX);
	return thmq_consumer_close(c, SECOND) == 0;
}

static uint32_t now_found[LIVES_MAX][PUBLISHERS][PARTITIONS];
static uint64_t short_next[LIVES_MAX], weak_last;

static bool body_of(const struct thmq_message *m, struct body *b)
{
	CHECK(m->len >= sizeof(*b));
	memcpy(b, m->data, sizeof(*b));
	CHECK(b->life >= 1 && b->life <= life && b->publisher < PUBLISHERS &&
	      b->check == check_of(b));
	return true;
}

static bool on_kept(const struct thmq_message *m)
{
	struct body b;

	if (!body_of(m, &b))
		return false;
	if (b.number != ++now_found[b.life][b.publisher][m->partition])
		FAIL("keep, partition %u: message %llu of publisher %u, life %u, where %u comes",
		     m->partition, (unsigned long long)b.number, b.publisher, b.life,
		     now_found[b.life][b.publisher][m->partition]);
	return true;
}

static bool on_short(const struct thmq_message *m)
{
	struct body b;

	if (!body_of(m, &b))
		return false;
	CHECK(!short_next[b.life] ||
	      b.number == short_next[b.life]); /* its beginning may be gone */
	short_next[b.life] = b.number + 1;
	return true;
}

/* A loss takes the end of what was there, and nothing else. */
static bool on_weak(const struct thmq_message *m)
{
	struct body b;
	uint64_t number;

	if (!body_of(m, &b))
		return false;
	number = ((uint64_t)b.life << 32) | b.number;
	CHECK(number > weak_last);
	CHECK(number == weak_last + 1 || b.number == 1);
	weak_last = number;
	if (shared->weak_offset && m->offset == shared->weak_offset - 1)
		CHECK(number == shared->weak_number);
	return true;
}

static bool check_kept(void)
{
	uint32_t l, p, i;

	for (l = 1; l <= life; l++)
		for (p = 0; p < PUBLISHERS; p++)
			for (i = 0; i < PARTITIONS; i++) {
				uint64_t n = now_found[l][p][i];

				if (l < life && n != found[l][p][i])
					FAIL("publisher %u, partition %u of life %u: %llu "
					     "messages, once %u",
					     p, i, l, (unsigned long long)n, found[l][p][i]);
				if (l == life &&
				    (n < shared->kept[p][i] || n > shared->sent[p][i] + 1))
					FAIL("publisher %u, partition %u: %llu messages, %llu "
					     "acknowledged, %llu sent",
					     p, i, (unsigned long long)n,
					     (unsigned long long)shared->kept[p][i],
					     (unsigned long long)shared->sent[p][i]);
			}
	return true;
}

static bool check_group(struct thmq_session *s)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint32_t i;

	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(s, "keep", i, "g", &info) == 0);
		if (shared->group_stored[i] && (info.group_offset == UINT64_MAX ||
						info.group_offset < shared->group_stored[i]))
			FAIL("group at %llu, stored %llu", (unsigned long long)info.group_offset,
			     (unsigned long long)shared->group_stored[i]);
		if (info.group_offset != UINT64_MAX && info.group_offset > shared->group_sent[i])
			FAIL("group at %llu, acked %llu", (unsigned long long)info.group_offset,
			     (unsigned long long)shared->group_sent[i]);
		if (info.group_offset != UINT64_MAX)
			CHECK(info.group_offset <= info.end_offset);
	}
	return true;
}

static bool check_topics(struct thmq_session *s)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	char name[16];
	uint32_t i;
	int rc;

	for (i = 0; i < TOPICS; i++) {
		snprintf(name, sizeof(name), "come-%u", i);
		rc = thmq_topic_describe(s, name, &info);
		CHECK(rc == 0 || rc == -THMQ_ENOTOPIC);
		if (shared->topics[i] != TOPIC_CHANGING &&
		    (rc == 0) != (shared->topics[i] == TOPIC_THERE))
			FAIL("%s is %sthere", name, rc ? "not " : "");
		shared->topics[i] = rc ? TOPIC_GONE : TOPIC_THERE;
	}
	return true;
}

/* Whoever remembers a message that is lost is told so when it goes on behind it; else it is not troubled. */
static bool check_lost(struct thmq_session *s)
{
	uint64_t remembered = shared->weak_offset;
	struct thmq_consumer *c;
	struct thmq_event e[16];
	bool told = false;
	int n, rc, turn;

	if (!remembered)
		return true;
	CHECK(thmq_consumer_open(s, "weak", NULL, NULL, &c) == 0);
	rc = thmq_seek(c, 0, THMQ_START_OFFSET, remembered);
	for (turn = 0; turn < 3; turn++) {
		while ((n = thmq_events(s, e, 16)) > 0)
			while (n--)
				told = told || e[n].type == THMQ_EVENT_LOST;
		thmq_session_wait(s, SECOND / 1000);
	}
	if ((weak_last < shared->weak_number) != told)
		FAIL("seek to %llu: %s; last is %llx, remembered %llx: %s",
		     (unsigned long long)remembered, thmq_errname(rc),
		     (unsigned long long)weak_last, (unsigned long long)shared->weak_number,
		     told ? "told" : "not told");
	return thmq_consumer_close(c, SECOND) == 0;
}

static uint64_t losses;

static bool look(void)
{
	struct thmq_session *s;
	struct world w;

	if (!verify() || !open_broker(&w, 0))
		return false;
	CHECK(thmq_connect(w.env, "inproc://", NULL, &s) == 0);
	if (!make_topics(s) || !check_topics(s) || !read_all(s, "keep", PARTITIONS, on_kept) ||
	    !check_kept() || !check_group(s) || !read_all(s, "short", 1, on_short) ||
	    !read_all(s, "weak", 1, on_weak) || !check_lost(s))
		return false;
	losses += shared->weak_offset && weak_last < shared->weak_number;
	CHECK(thmq_env_close(w.env, 10 * SECOND) == 0);
	return true;
}

/* --------------------------------------------------------------------- kills */

struct result {
	bool good;
	uint64_t losses;
	uint32_t found[PUBLISHERS][PARTITIONS];
};

/* In a process of its own: what it leaves behind goes with it. */
static bool look_apart(struct result *r)
{
	int status = 0;
	pid_t pid;

	r->good = false;
	pid = fork();
	if (pid == 0) {
		r->good = look();
		r->losses = losses;
		memcpy(r->found, now_found[life], sizeof(r->found));
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return fail(__LINE__, "the process that looks ended by signal %d",
			    WTERMSIG(status));
	memcpy(found[life], r->found, sizeof(r->found));
	losses = r->losses;
	return r->good;
}

static bool one_kill(struct result *r)
{
	bool early = random() % 5 == 0; /* while it opens */
	uint32_t pause_us = (uint32_t)(random() % (early ? 15000 : 90000));
	int status, i;
	pid_t pid;

	shared->ready = 0;
	memset((void *)shared->sent, 0, sizeof(shared->sent));
	memset((void *)shared->kept, 0, sizeof(shared->kept));
	shared->weak_offset = shared->weak_number = 0;
	pid = fork();
	if (pid == 0) {
		live();
		_exit(1);
	}
	for (i = 0; !early && !shared->ready && !shared->failed && i < 600000; i++)
		usleep(100);
	usleep(pause_us);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (shared->failed)
		return fail(__LINE__, "what was to be killed failed before");
	return look_apart(r);
}

int main(int argc, char **argv)
{
	uint32_t kills = argc > 1 ? (uint32_t)atoi(argv[1]) : getenv("THMQ_TEST_FULL") ? 250 : 8;
	uint64_t seed = getenv("THMQ_TEST_SEED") ? strtoull(getenv("THMQ_TEST_SEED"), NULL, 0)
						 : (uint64_t)time(NULL);
	struct result *r;
	char command[64];
	bool good = true;

	srandom((unsigned)seed);
	if (kills >= LIVES_MAX)
		kills = LIVES_MAX - 1;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || r == MAP_FAILED || !mkdtemp(dir))
		return 1;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	for (life = 1; good && life <= kills; life++)
		good = one_kill(r);
	if (!good) {
		fprintf(stderr, "kill_storm_test: kill %u of seed %llu failed; see %s\n", life - 1,
			(unsigned long long)seed, dir);
		return 1;
	}
	printf("%u kills, %llu of them lost messages that a reader had seen\n", life - 1,
	       (unsigned long long)losses);
	return system(command) != 0;
}
