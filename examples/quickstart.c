/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quickstart.c - the program behind quickstart.sh, one step a call:
 *
 *   quickstart publish DIR FILE ACKED   every line of FILE from where DIR stops, durably, many outstanding; keeps the
 *                                       number of lines acknowledged in the file ACKED (a mapped counter)
 *   quickstart crash DIR FILE ACKED     the same in a child process that is killed (SIGKILL) in the middle
 *   quickstart check DIR FILE           a consumer group reads everything back and compares, byte for byte
 *   quickstart latency DIR FILE         lines one at a time, and many outstanding: a latency table
 *
 * A line's number is its message's key, so that whoever opens the directory knows where it stops.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define TOPIC "lines"

static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static struct thmq_producer *producer;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "quickstart: %s: %s\n", what, thmq_errmsg());
	exit(1);
}

static void open_all(const char *dir)
{
	if (thmq_env_open(&env, NULL) || thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir), &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(session, TOPIC, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) ||
	    thmq_producer_open(session, TOPIC, NULL, &producer))
		die("open");
}

/* The whole file, and where its lines begin; the last one may lack its newline. */
struct text {
	char *bytes;
	size_t len;
	size_t *begin; /* count + 1 of them */
	uint64_t count;
};

static struct text load(const char *name)
{
	struct text t = {0};
	FILE *in = fopen(name, "rb");
	size_t room = 0, n, i;

	if (!in) {
		fprintf(stderr, "quickstart: %s: %s\n", name, strerror(errno));
		exit(1);
	}
	do {
		if (t.len == room)
			t.bytes = realloc(t.bytes, room = room ? room * 2 : 1 << 20);
		n = t.bytes ? fread(t.bytes + t.len, 1, room - t.len, in) : 0;
		t.len += n;
	} while (n);
	fclose(in);
	for (i = 0; i < t.len; i++)
		t.count += t.bytes[i] == '\n';
	t.count += t.len && t.bytes[t.len - 1] != '\n';
	t.begin = calloc(t.count + 1, sizeof(*t.begin));
	for (i = 0, n = 0; i < t.len; i++)
		if (t.bytes[i] == '\n' && ++n < t.count)
			t.begin[n] = i + 1;
	t.begin[t.count] = t.len + (t.len && t.bytes[t.len - 1] != '\n');
	return t;
}

static uint32_t line_len(const struct text *t, uint64_t i)
{
	return (uint32_t)(t->begin[i + 1] - t->begin[i] - 1);
}

static int64_t send_line(const struct text *t, uint64_t i)
{
	return thmq_send(producer, t->bytes + t->begin[i], line_len(t, i),
			 THMQ_MESSAGE_OPTS(.key = &i, .key_len = sizeof(i)));
}

/* One past the last message that is there: the topic has one partition. */
static uint64_t end_offset(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	if (thmq_partition_describe(session, TOPIC, 0, NULL, &info))
		die("describe");
	return info.end_offset;
}

/* Reads from @from to the end of what is there now with @group (NULL: none), and hands each message to @each. */
static void read_all(const char *group, uint64_t from, void (*each)(void *ctx, const struct thmq_message *m), void *ctx)
{
	uint64_t end = end_offset(), next = from;
	struct thmq_consumer *consumer;
	struct thmq_message m[256];
	int n, i;

	if (thmq_consumer_open(session, TOPIC, group, NULL, &consumer) ||
	    (from && thmq_seek(consumer, 0, THMQ_START_OFFSET, from)))
		die("consumer");
	while (next < end) {
		n = thmq_fetch(consumer, m, 256);
		if (n < 0)
			die(thmq_strerror(n));
		if (n == 0 && thmq_session_wait(session, 30 * SECOND) <= 0)
			die("nothing comes, though there is more");
		for (i = 0; i < n; i++)
			each(ctx, &m[i]);
		if (n == 0)
			continue;
		next = m[n - 1].offset + 1;
		if (group)
			thmq_ack(consumer, &m[n - 1]);
		thmq_release(consumer, m, (uint32_t)n);
	}
	if (thmq_consumer_close(consumer, 10 * SECOND))
		die("close the consumer");
}

static void note_number(void *ctx, const struct thmq_message *m)
{
	memcpy(ctx, m->key, sizeof(uint64_t));
	++*(uint64_t *)ctx;
}

/* The number of lines that are stored: the last message tells. */
static uint64_t lines_stored(void)
{
	uint64_t end = end_offset(), lines = 0;

	if (end)
		read_all(NULL, end - 1, note_number, &lines);
	return lines;
}

static volatile uint64_t *map_counter(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	void *map;

	if (fd < 0 || ftruncate(fd, 8) != 0 ||
	    (map = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
		perror(name);
		exit(1);
	}
	close(fd);
	return map;
}

static int publish(const char *dir, const char *file, const char *acked_name)
{
	struct text t = load(file);
	volatile uint64_t *acked = map_counter(acked_name);
	uint64_t next, first, begin;
	int64_t seq;

	open_all(dir);
	first = next = lines_stored();
	if (next < *acked || next > t.count) {
		fprintf(stderr, "quickstart: %s: %llu lines were acknowledged, %llu are stored\n",
			next < *acked ? "LOST" : "INVENTED", (unsigned long long)*acked, (unsigned long long)next);
		return 1;
	}
	if (next)
		printf("opened it again: all %llu acknowledged lines are there, and %llu that were in flight\n",
		       (unsigned long long)*acked, (unsigned long long)(next - *acked));
	begin = now_ns();
	while (next < t.count) {
		seq = send_line(&t, next);
		if (seq > 0)
			next++;
		else if (seq != -EAGAIN)
			die(thmq_strerror((int)seq));
		if (seq < 0 || next % 32 == 0)
			thmq_poll(env, seq < 0 ? SECOND : 0);
		*acked = first + (uint64_t)thmq_watermark(producer);
	}
	if (thmq_flush(producer, 60 * SECOND))
		die("flush");
	*acked = next;
	printf("published lines %llu to %llu durably: %.0f a second\n", (unsigned long long)first + 1,
	       (unsigned long long)next, (double)(next - first) * 1e9 / (double)(now_ns() - begin + 1));
	return thmq_env_close(env, 10 * SECOND) != 0;
}

/* Between a tenth and nine tenths of the lines are acknowledged: that is the middle. */
static int crash(const char *dir, const char *file, const char *acked_name)
{
	uint64_t lines = load(file).count, target;
	volatile uint64_t *acked = map_counter(acked_name);
	int status;
	pid_t pid;

	srandom((unsigned int)now_ns());
	target = lines / 10 + (uint64_t)random() % (lines * 8 / 10 + 1);
	pid = fork();
	if (pid == 0)
		_exit(publish(dir, file, acked_name));
	while (*acked < target && waitpid(pid, &status, WNOHANG) == 0)
		;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (*acked >= lines)
		return 3; /* it was done before it could be killed */
	printf("killed the publisher (SIGKILL) when %llu of %llu lines were acknowledged\n",
	       (unsigned long long)*acked, (unsigned long long)lines);
	return 0;
}

struct check {
	struct text t;
	uint64_t next;
	bool bad;
};

static void compare(void *ctx, const struct thmq_message *m)
{
	struct check *c = ctx;
	uint64_t number;

	memcpy(&number, m->key, sizeof(number));
	if (c->next >= c->t.count || number != c->next || m->len != line_len(&c->t, c->next) ||
	    memcmp(m->data, c->t.bytes + c->t.begin[c->next], m->len) != 0) {
		if (!c->bad)
			fprintf(stderr, "quickstart: WRONG: message %llu is line %llu\n",
				(unsigned long long)c->next, (unsigned long long)number);
		c->bad = true;
	}
	c->next++;
}

static int check(const char *dir, const char *file)
{
	struct check c = {.t = load(file)};
	uint64_t begin;

	open_all(dir);
	begin = now_ns();
	read_all("quickstart", 0, compare, &c);
	if (c.bad || c.next != c.t.count) {
		fprintf(stderr, "quickstart: FAILED: %llu lines, %llu messages\n", (unsigned long long)c.t.count,
			(unsigned long long)c.next);
		return 1;
	}
	printf("a consumer group read %llu lines back, byte for byte, in order: %.0f a second\n",
	       (unsigned long long)c.next, (double)c.next * 1e9 / (double)(now_ns() - begin + 1));
	return thmq_env_close(env, 10 * SECOND) != 0;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void table_row(const char *what, uint64_t *ns, uint32_t n)
{
	qsort(ns, n, sizeof(*ns), by_value);
	printf("  %-28s %10.1f %10.1f %10.1f\n", what, (double)ns[n / 2] / 1e3, (double)ns[n * 99ull / 100] / 1e3,
	       (double)ns[n * 999ull / 1000] / 1e3);
}

/* @outstanding messages at a time, each timed from its send to its durable acknowledgement. */
static void measure(const struct text *t, uint32_t outstanding, uint32_t count, const char *what)
{
	uint64_t *ns = calloc(count, sizeof(*ns)), *sent = calloc(count, sizeof(*sent)), last;
	int64_t base = thmq_watermark(producer), done;
	uint32_t out = 0, in = 0;

	while (ns && sent && in < count) {
		while (out < count && out - in < outstanding) {
			sent[out] = now_ns();
			if (send_line(t, out % t->count) < 0)
				break;
			out++;
		}
		thmq_poll(env, SECOND);
		done = thmq_watermark(producer) - base;
		last = now_ns();
		for (; in < (uint64_t)done && in < count; in++)
			ns[in] = last - sent[in];
	}
	table_row(what, ns, count);
	free(ns);
	free(sent);
}

static int latency(const char *dir, const char *file)
{
	struct text t = load(file);

	open_all(dir);
	if (!t.count)
		return 0;
	printf("durable publish, microseconds         p50        p99      p99.9\n");
	measure(&t, 1, 5000, "one at a time");
	measure(&t, 1000, 200000, "1000 outstanding");
	return thmq_env_close(env, 10 * SECOND) != 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 5 && strcmp(argv[1], "publish") == 0)
		return publish(argv[2], argv[3], argv[4]);
	if (argc == 5 && strcmp(argv[1], "crash") == 0)
		return crash(argv[2], argv[3], argv[4]);
	if (argc == 4 && strcmp(argv[1], "check") == 0)
		return check(argv[2], argv[3]);
	if (argc == 4 && strcmp(argv[1], "latency") == 0)
		return latency(argv[2], argv[3]);
	fprintf(stderr, "usage: quickstart publish|crash|check|latency DIR FILE [ACKED]\n");
	return 2;
}
