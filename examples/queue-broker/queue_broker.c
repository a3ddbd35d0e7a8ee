/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue_broker.c - a broker with a protocol of its own: a work queue over TCP. The library stores, counts tries, waits between them and
 * keeps what fails for good; here is what the network sees. doc/custom-brokers.md builds it step by step.
 *
 *   queue_broker DIR [PORT]      serves on 127.0.0.1 until SIGTERM or SIGINT; PORT 0, the default: any, which it prints
 *
 *   PUT 5        then 5 bytes    ->  OK 17         they are on the medium, as job 17
 *   TAKE                         ->  JOB 17 5 1    then 5 bytes and a newline: the first try. Waits until there is a job
 *   DONE                         ->  OK 17         the job that this connection has is done
 *   FAIL                         ->  OK 17         it comes again later; after three tries it goes to the topic jobs.dead, a second later, with a TAKE
 *
 * A request is a line, and answered before the next one is looked at; ERR and words: it was not done. A connection that goes gives its job
 * back; one that only says that it asks no more (shutdown(2)) has its answers first, but a TAKE waits for no job then. At least once: after a crash a job may come again whose DONE was answered just before.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <thundermq/reactor.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define JOB_MAX 65536u /* bytes of a job */
#define LINE_MAX_LEN 64u
#define TURNS 16     /* what one connection does before the others have their turn */
#define WINDOW 4096u /* puts on their way to the medium */

struct connection {
	struct queue *queue;
	struct connection *next, *next_ready, *next_taker;
	struct thmq_watch *watch;
	struct thmq_message job; /* that it has */
	uint64_t put;            /* sequence of what it has put and not heard of; 0: nothing */
	int fd;
	bool ready, takes, has_job; /* ready: in that list; takes: waits for a job */
	bool ended, looked;         /* ended: it asks no more; looked: whether there is a job, since then */
	size_t in_len, out_from, out_len;
	char in[JOB_MAX + LINE_MAX_LEN], out[JOB_MAX + LINE_MAX_LEN];
};

struct queue {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_watch *watch;
	struct connection *connections, *ready, *takers, **last_taker;
	struct connection *putters[WINDOW]; /* by sequence: who waits for it */
	bool knocking; /* somebody waits at the door who could not be let in */
	int fd;
};

/* ------------------------------------------------------------------ storage */

static int open_storage(struct queue *q, const char *dir)
{
	static const uint64_t backoff[] = {SECOND / 10, SECOND};
	char door[4096];

	snprintf(door, sizeof(door), "shm://%s/socket",
		 dir);                      /* for thmq sub DIR jobs.dead and the like */
	if (thmq_env_open(&q->env, NULL) || /* one core, and this thread drives it */
	    thmq_broker_open(q->env, THMQ_BROKER_OPTS(.data_dir = dir, .listen = door),
			     &q->broker) ||
	    thmq_connect(q->env, "inproc://", THMQ_SESSION_OPTS(.window_count = WINDOW),
			 &q->session) ||
	    thmq_topic_create(
		    q->session, "jobs",
		    THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT | THMQ_TOPIC_RETAIN_CONSUMED)) ||
	    thmq_producer_open(q->session, "jobs",
			       THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &q->producer))
		return -1;
	return thmq_consumer_open(q->session, "jobs", "workers",
				  THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
						     .invisible_ns = 60 * SECOND, .deliver_max = 3,
						     .dead_topic = "jobs.dead",
						     .backoff_ns = backoff, .backoff_count = 2),
				  &q->consumer);
}

/* -------------------------------------------------------------- connections */

/* It is looked at once the core has had its round. */
static void make_ready(struct connection *c)
{
	if (!c->ready) {
		c->ready = true;
		c->next_ready = c->queue->ready;
		c->queue->ready = c;
	}
}

/* An answer; there is one at a time, so that out is empty. */
__attribute__((format(printf, 2, 3))) static int say(struct connection *c, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	c->out_from = 0;
	c->out_len = (size_t)vsnprintf(c->out, LINE_MAX_LEN, format, args);
	va_end(args);
	make_ready(c);
	return 0;
}

static void end(struct connection *c)
{
	struct queue *q = c->queue;
	struct connection **at;

	for (at = &q->connections; *at != c;)
		at = &(*at)->next;
	*at = c->next;
	for (at = &q->takers; *at && *at != c;)
		at = &(*at)->next_taker;
	if (*at && !(*at = c->next_taker))
		q->last_taker = at;
	for (at = &q->ready; *at && *at != c;)
		at = &(*at)->next_ready;
	if (*at)
		*at = c->next_ready;
	if (c->put) /* it is stored all the same */
		q->putters[c->put % WINDOW] = NULL;
	if (c->has_job) { /* if this is refused it comes back by itself, after a minute */
		thmq_nack(q->consumer, &c->job, 0);
		thmq_release(q->consumer, &c->job, 1);
	}
	thmq_watch_close(c->watch); /* before its descriptor */
	close(c->fd);
	free(c);
}

/* ----------------------------------------------------------------- requests */

static int put(struct connection *c, const char *data, uint32_t len)
{
	int64_t sequence = thmq_send(c->queue->producer, data, len, NULL);

	if (sequence < 0)
		return (int)sequence;
	c->put = (uint64_t)sequence; /* take_events() answers */
	c->queue->putters[c->put % WINDOW] = c;
	return 0;
}

static int take(struct connection *c)
{
	if (c->has_job)
		return say(c, "ERR you have one\n");
	c->takes = true; /* hand_out() answers */
	c->looked = false;
	c->next_taker = NULL;
	*c->queue->last_taker = c;
	c->queue->last_taker = &c->next_taker;
	return 0;
}

static int done(struct connection *c, bool well)
{
	struct queue *q = c->queue;
	int rc;

	if (!c->has_job)
		return say(c, "ERR you have none\n");
	rc = well ? thmq_ack(q->consumer, &c->job)
		  : thmq_nack(q->consumer, &c->job, THMQ_NACK_BACKOFF);
	if (rc)
		return rc;
	c->has_job = false;
	say(c, "OK %llu\n", (unsigned long long)c->job.offset);
	return thmq_release(q->consumer, &c->job, 1);
}

/* The request that in begins with. 1: done, or begun; 0: not now, or not whole; negative: nothing to be understood any more. */
static int request(struct connection *c)
{
	size_t looked = c->in_len < LINE_MAX_LEN ? c->in_len : LINE_MAX_LEN, used;
	const char *newline = memchr(c->in, '\n', looked);
	char line[LINE_MAX_LEN + 1] = {0};
	unsigned long long n = 0;
	int rc = 0;

	if (!newline)
		return looked < LINE_MAX_LEN ? 0 : -EPROTO;
	used = (size_t)(newline + 1 - c->in);
	memcpy(line, c->in, used);
	line[strcspn(line, "\r\n")] = 0;
	if (sscanf(line, "PUT %llu", &n) == 1) {
		if (n > JOB_MAX)
			return -EPROTO; /* where the next request begins is not known */
		if (c->in_len < used + n)
			return 0;
		rc = put(c, c->in + used, (uint32_t)n);
		used += n;
	} else if (strcmp(line, "TAKE") == 0) {
		rc = take(c);
	} else if (strcmp(line, "DONE") == 0 || strcmp(line, "FAIL") == 0) {
		rc = done(c, line[0] == 'D');
	} else if (line[0]) { /* an empty line says nothing */
		say(c, "ERR no such request\n");
	}
	if (rc == -EAGAIN) { /* full: in stays as it is, and is looked at again */
		make_ready(c);
		return 0;
	}
	if (rc)
		say(c, "ERR %s\n", thmq_strerror(rc));
	memmove(c->in, c->in + used, c->in_len - used);
	c->in_len -= used;
	return 1;
}

/* It asks no more, and has had its answers but for what is under way: a put, what is full now, hand_out()'s look. 0, or negative: its end */
static int last_turn(struct connection *c)
{
	if (c->put || c->ready)
		return 0;
	if (!c->takes || c->looked)
		return -1;
	c->looked = true;
	make_ready(c);
	return 0;
}

/* One step. 1: go on; 0: nothing more now; negative: its end. */
static int step(struct connection *c)
{
	bool answers = c->out_from < c->out_len;
	ssize_t n;
	int rc;

	if (!answers && !c->put && !c->takes && (rc = request(c)) != 0)
		return rc;
	if (!answers && c->ended)
		return last_turn(c);
	if (!answers && c->in_len == sizeof(c->in))
		return 0;
	if (answers)
		n = send(c->fd, c->out + c->out_from, c->out_len - c->out_from, MSG_NOSIGNAL);
	else
		n = read(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len);
	if (n == 0 && !answers)
		return c->ended = true;
	if (n > 0)
		*(answers ? &c->out_from : &c->in_len) += (size_t)n;
	return n > 0 ? 1 : n < 0 && errno == EAGAIN ? 0 : -1;
}

/* Nobody tells again that a socket is ready: go on until it is not, and behind the others if that takes long. */
static void serve(struct connection *c)
{
	int rc = 1, turn;

	for (turn = 0; turn < TURNS && rc > 0; turn++)
		rc = step(c);
	if (rc < 0)
		end(c);
	else if (rc > 0)
		make_ready(c);
}

/* ------------------------------------------------------------------ answers */

/* What was put is on the medium, or was refused. */
static void take_events(struct queue *q)
{
	struct connection **at;
	struct thmq_event e;

	while (thmq_events(q->session, &e, 1) == 1) {
		if (e.type != THMQ_EVENT_SETTLED && e.type != THMQ_EVENT_FAILED)
			continue;
		at = &q->putters[e.sequence % WINDOW];
		if (!*at || (*at)->put != e.sequence)
			continue;
		(*at)->put = 0;
		if (e.error)
			say(*at, "ERR %s\n", thmq_strerror(e.error));
		else
			say(*at, "OK %llu\n", (unsigned long long)e.offset);
		*at = NULL;
	}
}

/* Jobs go to those who wait, in their order. */
static void hand_out(struct queue *q)
{
	struct connection *c;

	while ((c = q->takers) && thmq_fetch(q->consumer, &c->job, 1) == 1) {
		if (!(q->takers = c->next_taker))
			q->last_taker = &q->takers;
		c->takes = false;
		c->has_job = true;
		say(c, "JOB %llu %u %d\n", (unsigned long long)c->job.offset, c->job.len,
		    thmq_message_deliveries(q->consumer, &c->job));
		memcpy(c->out + c->out_len, c->job.data, c->job.len);
		c->out_len += c->job.len;
		c->out[c->out_len++] = '\n';
	}
}

/* ------------------------------------------------------------------- sockets */

/* Called on the core: it only says who is to be served. */
static void on_ready(void *ctx, uint32_t events)
{
	(void)events;
	make_ready(ctx);
}

static void on_knock(void *ctx, uint32_t events)
{
	struct queue *q = ctx;
	struct connection *c;
	int fd;

	(void)events;
	while ((fd = accept4(q->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		c = calloc(1, sizeof(*c));
		if (!c || thmq_watch_open(thmq_env_core(q->env, 0), fd, POLLIN | POLLOUT, on_ready,
					  c, &c->watch) != 0) {
			close(fd);
			free(c);
			continue;
		}
		c->queue = q;
		c->fd = fd;
		c->next = q->connections;
		q->connections = c;
	}
	q->knocking = errno != EAGAIN; /* no descriptor, or no memory: nobody tells again */
}

static int listen_on(struct queue *q, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons((uint16_t)port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int one = 1;

	q->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (q->fd < 0 || setsockopt(q->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(q->fd, (struct sockaddr *)&a, sizeof(a)) || listen(q->fd, 128) ||
	    getsockname(q->fd, (struct sockaddr *)&a, &len))
		return perror("queue_broker"), -1;
	printf("127.0.0.1:%d\n", ntohs(a.sin_port));
	fflush(stdout);
	return thmq_watch_open(thmq_env_core(q->env, 0), q->fd, POLLIN, on_knock, q, &q->watch);
}

/* --------------------------------------------------------------------- main */

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	stopped = number;
}

static void run(struct queue *q)
{
	struct connection *c, *next;

	while (!stopped && thmq_poll(q->env, q->ready ? 0 : SECOND / 10) >= 0) {
		if (q->knocking)
			on_knock(q, 0);
		take_events(q);
		hand_out(q);
		c = q->ready;
		for (q->ready = NULL; c; c = next) {
			next = c->next_ready;
			c->ready = false;
			serve(c);
		}
	}
}

int main(int argc, char **argv)
{
	static const char usage[] = "usage: queue_broker DIR [PORT]\n";
	struct queue *q;
	int rc;

	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
		return fputs(usage, stdout), 0;
	if (argc < 2 || argc > 3 || argv[1][0] == '-' || !(q = calloc(1, sizeof(*q)))) /* a directory of such a name is ./-x */
		return fputs(usage, stderr), 2;
	q->last_taker = &q->takers;
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	rc = open_storage(q, argv[1]);
	if (rc)
		fprintf(stderr, "queue_broker: %s\n", thmq_errmsg());
	else
		rc = listen_on(q, argc > 2 ? atoi(argv[2]) : 0);
	if (!rc)
		run(q);
	while (q->connections)
		end(q->connections);
	thmq_watch_close(q->watch);
	if (thmq_env_close(q->env, 10 * SECOND) != 0) /* what was put and done is stored */
		rc = -1;
	free(q);
	return rc != 0;
}
