/* SPDX-License-Identifier: Apache-2.0 */
/*
 * two_processes.c - a broker in one process, a producer in another: the first listens, starts the second with the URL, and
 * reads what it sends. They could be on two machines as well.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define JOBS 1000

static int failed(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg());
	return 1;
}

/* The second process. Its environment has one core, which its only thread drives in blocking calls. */
static int produce(const char *url)
{
	struct thmq_producer *producer;
	struct thmq_session *session;
	struct thmq_env *env;
	char job[32];
	int64_t rc;
	int i, len;

	if (thmq_env_open(&env, NULL) || thmq_connect(env, url, NULL, &session) ||
	    thmq_producer_open(session, "jobs", NULL, &producer))
		return failed("producer");
	for (i = 0; i < JOBS; i++) {
		len = snprintf(job, sizeof(job), "job %d", i);
		while ((rc = thmq_send(producer, job, (uint32_t)len, NULL)) == -EAGAIN)
			if (thmq_session_wait(session, SECOND) < 0) /* the window is full */
				return failed("wait");
		if (rc < 0) /* a call on a message's way: it leaves no text */
			return fprintf(stderr, "send: %s\n", thmq_strerror((int)rc)), 1;
	}
	if (thmq_flush(producer, 10 * SECOND)) /* all are on the broker's medium */
		return failed("flush");
	return thmq_env_close(env, SECOND) != 0;
}

static int consume(struct thmq_session *session, struct thmq_consumer *consumer)
{
	struct thmq_message m[16];
	int n, i, got = 0;

	while (got < JOBS) {
		n = thmq_fetch(consumer, m, 16);
		if (n < 0 || (n == 0 && thmq_session_wait(session, 10 * SECOND) <= 0))
			return -1;
		for (i = 0; i < n; i++)
			thmq_ack(consumer, &m[i]);
		thmq_release(consumer, m, (uint32_t)n);
		got += n;
	}
	return got;
}

int main(int argc, char **argv)
{
	struct thmq_consumer *consumer;
	struct thmq_session *session;
	struct thmq_broker *broker;
	struct thmq_env *env;
	char dir[] = "two-processes-XXXXXX", url[64], command[64];
	int got, status = 1;
	pid_t pid;

	if (argc > 1)
		return produce(argv[1]);
	if (!mkdtemp(dir))
		return 1;
	/* a thread of the library serves, whatever this one does */
	if (thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1)) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .listen = "tcp://127.0.0.1:0"),
			     &broker) ||
	    thmq_broker_listen_url(broker, 0, url, sizeof(url)) < 0 ||
	    thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(session, "jobs", NULL) ||
	    thmq_consumer_open(session, "jobs", "workers", NULL, &consumer))
		return failed("broker");
	printf("listening at %s\n", url);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "two_processes", url, (char *)NULL);
		_exit(127);
	}
	got = consume(session, consumer);
	waitpid(pid, &status, 0);
	printf("%d jobs came, the producer ended with %d\n", got, status);
	if (thmq_env_close(env, SECOND) || got != JOBS || status != 0)
		return 1;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
