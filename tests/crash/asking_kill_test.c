/* SPDX-License-Identifier: Apache-2.0 */
/*
 * asking_kill_test.c - the broker is another process, and is killed with SIGKILL at each step of a request: before the asker's topic is there, once the question is sent, once it is
 * stored, while who answers has it, once the answer is on its way, once that has come. Sessions come back. A question that was stored is asked of somebody; an answer comes
 * once at most, to its own question; what is not answered expires in its time; and the next request is answered. Beside that limits: no more comes through than the topic's limit gives,
 * and in each life of the broker a tenth of a second's worth and one run beyond it.
 *
 * usage: asking_kill_test tcp|shm [rounds]; default 1, and 20 with THMQ_TEST_FULL=1.
 */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"

#define PER_S 200u /* messages that the limited topic lets out */
#define RUN 8u

enum step { BEGIN, SENT, STORED, ASKED, REPLIED, ANSWERED, STEPS };
static const char *const names[STEPS] = {"at the begin", "the question is sent", "it is stored", "it is asked", "it is replied", "it is answered"};

static char dir[] = "asking-kill-XXXXXX", data[64], url[128];
static struct thmq_env *env;
static pid_t pid;

/* ------------------------------------------------------------------- broker */

/* In a process of its own, until it is killed: where it listens goes to standard output. */
static void serve(const char *listen)
{
	struct thmq_env *home;
	struct thmq_broker *b;
	char at[128] = "";

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (thmq_env_open(&home, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) != 0)
		_exit(2);
	while (thmq_broker_open(home, THMQ_BROKER_OPTS(.data_dir = data, .listen = listen, .shard_count = 1, .segment_bytes = 1u << 20), &b) != 0)
		usleep(1000); /* the device has writes of the life before, or the port is not free yet */
	if (thmq_broker_listen_url(b, 0, at, sizeof(at)) < 0 || write(STDOUT_FILENO, at, sizeof(at)) != sizeof(at))
		_exit(3);
	for (;;)
		pause();
}

static void broker_up(void)
{
	int out[2];

	CHECK(pipe(out) == 0);
	pid = fork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execl("/proc/self/exe", "asking_kill_test", "serve", data, url[0] ? url : "tcp://127.0.0.1:0", (char *)NULL); /* where it listened before */
		_exit(1);
	}
	close(out[1]);
	CHECK(pid > 0 && read(out[0], url, sizeof(url)) == sizeof(url));
	close(out[0]);
}

static void broker_dies(void)
{
	int status;

	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	broker_up();
}

static struct thmq_session *session(void)
{
	struct thmq_session *s;

	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.reconnect_ns = 300 * SECOND, .timeout_ns = 60 * SECOND), &s) == 0);
	return s;
}

/* ------------------------------------------------------------------- requests */

static struct thmq_session *asker, *answerer;
static struct thmq_producer *p;
static struct thmq_consumer *c;
static struct thmq_message held;
static uint32_t number; /* of the question that is out */

static void wait_a_little(void)
{
	thmq_session_wait(asker, MS);
	thmq_session_wait(answerer, MS);
}

/* What who answers gets: this question, or one before it that nobody has acknowledged. */
static void get_question(void)
{
	uint64_t end = now() + 60 * SECOND;
	uint32_t is;
	int n;

	for (;;) {
		n = thmq_fetch(c, &held, 1);
		CHECK(n >= 0 && now() < end);
		if (!n) {
			wait_a_little();
			continue;
		}
		memcpy(&is, held.data, sizeof(is));
		CHECK(is <= number);
		if (is == number)
			return;
		CHECK(thmq_ack(c, &held) == 0 && thmq_release(c, &held, 1) == 0);
	}
}

static void answer(void)
{
	uint32_t twice = 2 * number;
	uint64_t end = now() + 60 * SECOND;
	int64_t rc;

	while ((rc = thmq_reply(answerer, &held, &twice, sizeof(twice), NULL)) == -EAGAIN || rc == -ECONNRESET) {
		CHECK(now() < end);
		wait_a_little();
	}
	/* the topic may have gone with the broker that had it in memory */
	CHECK(rc > 0 || rc == -THMQ_ENOTOPIC);
}

static void done_with_it(void)
{
	CHECK(thmq_ack(c, &held) == 0 && thmq_release(c, &held, 1) == 0);
}

/* The end of request @id. 1: answered; 0: expired. */
static int ends(int64_t id)
{
	uint64_t end = now() + 60 * SECOND;
	struct thmq_response r;
	struct thmq_event e;
	uint32_t is;

	for (;;) {
		int n = thmq_responses(asker, &r, 1);

		CHECK((n >= 0 || n == -EAGAIN) && now() < end);
		if (n == 1) {
			CHECK(r.request == (uint64_t)id && r.cookie == &number && r.message.len == sizeof(is));
			memcpy(&is, r.message.data, sizeof(is));
			CHECK(is == 2 * number && thmq_response_release(asker, &r, 1) == 0);
			return 1;
		}
		while (thmq_events(asker, &e, 1) == 1)
			if (e.type == THMQ_EVENT_REQUEST_EXPIRED) {
				CHECK(e.sequence == (uint64_t)id && e.cookie == &number);
				return 0;
			}
		wait_a_little();
	}
}

static int64_t ask(uint64_t timeout_ns)
{
	uint64_t end = now() + 60 * SECOND;
	int64_t id;

	number++;
	while ((id = thmq_request(p, &number, sizeof(number), NULL, timeout_ns, &number)) < 0) {
		CHECK((id == -EAGAIN || id == -ECONNRESET) && now() < end);
		wait_a_little();
	}
	return id;
}

/* Killed at @at; then what was asked comes to an end, and the next one is answered: its topic is made anew. */
static void killed(enum step at)
{
	uint64_t patience = SECOND / 4;
	int64_t id;
	int rc;

	if (at == BEGIN)
		broker_dies();
	id = ask(at == BEGIN ? 60 * SECOND : SECOND / 4);
	if (at == SENT)
		broker_dies();
	CHECK(thmq_flush(p, 60 * SECOND) == 0);
	if (at == STORED)
		broker_dies();
	get_question();
	if (at == ASKED)
		broker_dies();
	answer();
	if (at == REPLIED)
		broker_dies();
	rc = ends(id);
	CHECK(rc == 1 || at != BEGIN);
	if (at == ANSWERED)
		broker_dies();
	done_with_it();
	/* a session that hears of the new life only now may have this one's question lost with its topic: it expires, and is asked again */
	for (rc = 0; !rc; patience *= 2) {
		id = ask(patience);
		get_question();
		answer();
		rc = ends(id);
		done_with_it();
	}
}

/* ------------------------------------------------------------------- limits */

static void limits(void)
{
	const struct thmq_limits most = {.size = sizeof(most), .consume_messages = PER_S};
	struct thmq_session *s = session();
	struct thmq_producer *out;
	struct thmq_consumer *in;
	uint64_t got = 0, lives, end, begin;
	struct thmq_message m[64];
	int n, i;

	CHECK(thmq_topic_create(s, "limited", THMQ_TOPIC_OPTS(.limits = &most)) == 0);
	CHECK(thmq_producer_open(s, "limited", NULL, &out) == 0);
	for (i = 0; i < 1000; i++) {
		while (thmq_send(out, "x", 1, NULL) < 0)
			thmq_session_wait(s, MS);
		if (i % RUN == RUN - 1)
			CHECK(thmq_flush(out, 60 * SECOND) == 0);
	}
	begin = now();
	CHECK(thmq_consumer_open(s, "limited", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &in) == 0);
	for (lives = 1; lives <= 3; lives++) {
		for (end = now() + SECOND / 4, n = 0; now() < end || !n;) {
			n = thmq_fetch(in, m, 64);
			CHECK(n >= 0 && now() < end + 60 * SECOND);
			got += (uint64_t)n;
			/* each life may begin with a burst; whoever slept meanwhile has not got more */
			CHECK((double)got <= (double)(now() - begin) * 1e-9 * PER_S + (double)lives * (PER_S * 0.1 + RUN));
			CHECK(thmq_release(in, m, (uint32_t)n) == 0);
			if (!n)
				thmq_session_wait(s, MS);
		}
		broker_dies();
	}
	CHECK(thmq_session_close(s, 60 * SECOND) == 0);
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 2 ? (uint32_t)atoi(argv[2]) : getenv("THMQ_TEST_FULL") ? 20 : 1, i, at;
	char command[64];
	int status;

	if (argc == 4 && strcmp(argv[1], "serve") == 0) {
		snprintf(data, sizeof(data), "%s", argv[2]);
		serve(argv[3]);
	}
	CHECK(mkdtemp(dir));
	snprintf(data, sizeof(data), "%s/data", dir);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	if (argc > 1 && strcmp(argv[1], "shm") == 0)
		snprintf(url, sizeof(url), "shm://%s/at", dir);
	broker_up();
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 0)) == 0);
	asker = session();
	answerer = session();
	CHECK(thmq_topic_create(asker, "work", NULL) == 0);
	CHECK(thmq_producer_open(asker, "work", NULL, &p) == 0);
	CHECK(thmq_consumer_open(answerer, "work", "servers", THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .session_timeout_ns = 300 * SECOND), &c) == 0);
	for (i = 0; i < rounds; i++)
		for (at = 0; at < STEPS; at++) {
			uint64_t begin = now();

			killed((enum step)at);
			printf("ok %s (%llu ms)\n", names[at], (unsigned long long)((now() - begin) / MS));
			fflush(stdout);
		}
	limits();
	CHECK(thmq_session_close(asker, 60 * SECOND) == 0 && thmq_session_close(answerer, 60 * SECOND) == 0);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid);
	return system(command) != 0;
}
