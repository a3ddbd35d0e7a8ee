/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lost_told_test.c - a broker in another process dies, or is closed, while messages are acknowledged that are not durable yet: their
 * producers are told which ones are in doubt, and of no others.
 *
 * usage: lost_told_test [case]
 */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"

static char dir[] = "lost-told-XXXXXX", url[64], *self;
static struct thmq_env *env;
static struct thmq_session *session;
static struct thmq_producer *weak, *strong;
static pid_t server;

/* ------------------------------------------------------------------ the broker */

static int serve(const char *where, const char *listen)
{
	struct thmq_broker *broker;
	struct thmq_env *mine;
	char order;

	running = "broker";
	CHECK(thmq_env_open(&mine, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(mine,
			       THMQ_BROKER_OPTS(.data_dir = where, .listen = listen, .shard_count = 1,
						.flags = THMQ_BROKER_NO_BACKGROUND_FLUSH),
			       &broker) == 0);
	CHECK(write(STDOUT_FILENO, "u", 1) == 1);
	CHECK(read(STDIN_FILENO, &order, 1) == 1); /* then it ends in order */
	CHECK(thmq_broker_close(broker, 10 * SECOND) == 0);
	CHECK(thmq_env_close(mine, SECOND) == 0);
	return 0;
}

static int orders; /* a byte there: end in order */

static void server_start(void)
{
	int in[2], out[2];
	char data[64], up;

	CHECK(pipe(in) == 0 && pipe(out) == 0);
	snprintf(data, sizeof(data), "%s/data", dir);
	server = fork();
	if (server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		close(in[1]);
		execl(self, self, "--serve", data, url, (char *)NULL);
		_exit(1);
	}
	close(in[0]);
	close(out[1]);
	CHECK(read(out[0], &up, 1) == 1);
	close(out[0]);
	orders = in[1];
}

static void server_dies(void)
{
	CHECK(kill(server, SIGKILL) == 0 && waitpid(server, NULL, 0) == server);
	close(orders);
}

static void server_ends(void)
{
	int status;

	CHECK(write(orders, "e", 1) == 1);
	CHECK(waitpid(server, &status, 0) == server && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(orders);
}

/* ---------------------------------------------------------------------- before */

static void connect_to(uint64_t reconnect_ns)
{
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.reconnect_ns = reconnect_ns), &session) == 0);
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .visible_at = THMQ_DURABILITY_MEMORY)) == 0);
	CHECK(thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY), &weak) == 0);
	CHECK(thmq_producer_open(session, "t", NULL, &strong) == 0);
}

static void up(void)
{
	CHECK(mkdtemp(dir));
	snprintf(url, sizeof(url), "shm://%s/socket", dir);
	server_start();
	CHECK(thmq_env_open(&env, NULL) == 0);
}

static void down(void)
{
	char command[64];

	thmq_session_close(session, SECOND);
	CHECK(thmq_env_close(env, SECOND) == 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	CHECK(system(command) == 0);
	memcpy(strrchr(dir, '-') + 1, "XXXXXX", 6);
}

static void send(struct thmq_producer *p, int count)
{
	while (count--)
		CHECK(thmq_send(p, "x", 1, NULL) > 0);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
}

/* Up to and with one of @last; of THMQ_EVENT_LOST the first, and how many. */
static uint32_t events_until(uint32_t last, struct thmq_event *ret_lost)
{
	uint64_t end = now() + 20 * SECOND;
	uint32_t lost = 0;
	struct thmq_event e;

	while (now() < end) {
		if (thmq_events(session, &e, 1) == 0) {
			thmq_session_wait(session, 10 * MS);
			continue;
		}
		if (e.type == THMQ_EVENT_LOST && !lost++)
			*ret_lost = e;
		if (e.type == last)
			return lost;
	}
	CHECK(!"it was told");
	return 0;
}

/* ----------------------------------------------------------------------- cases */

static void those_that_were_acknowledged_from_memory(void)
{
	struct thmq_event e;

	connect_to(0);
	send(weak, 10);
	server_dies();
	CHECK(events_until(THMQ_EVENT_CLOSED, &e) == 1);
	CHECK(e.producer == weak && e.sequence == 1 && e.count == 10 && e.error < 0 && e.error != -ESHUTDOWN);
	CHECK(e.durability == THMQ_DURABILITY_MEMORY && e.offset == UINT64_MAX && e.partition == 0);
}

/* What is durable makes all before it so, whoever sent it. */
static void none_that_has_become_durable(void)
{
	struct thmq_event e;

	connect_to(0);
	send(weak, 10);
	send(strong, 1);
	nap(50 * MS);
	thmq_session_wait(session, MS);
	send(weak, 3);
	server_dies();
	CHECK(events_until(THMQ_EVENT_CLOSED, &e) == 1);
	CHECK(e.producer == weak && e.sequence == 11 && e.count == 3);
}

static void none_where_all_is_durable(void)
{
	struct thmq_event e;

	connect_to(0);
	send(strong, 10);
	send(weak, 2);
	send(strong, 1);
	nap(50 * MS);
	thmq_session_wait(session, MS);
	server_dies();
	CHECK(events_until(THMQ_EVENT_CLOSED, &e) == 0);
}

static void none_after_an_end_in_order(void)
{
	struct thmq_event e;

	connect_to(0);
	send(weak, 10);
	server_ends();
	CHECK(events_until(THMQ_EVENT_CLOSED, &e) == 0);
}

/* The stream of a producer is used again: what is told of the first says nothing of the second. */
static void of_a_producer_behind_another(void)
{
	struct thmq_event e;

	connect_to(0);
	send(weak, 100);
	CHECK(thmq_producer_close(weak, SECOND) == 0);
	CHECK(thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY), &weak) == 0);
	send(weak, 5);
	server_dies();
	CHECK(events_until(THMQ_EVENT_CLOSED, &e) == 1);
	CHECK(e.producer == weak && e.sequence == 1 && e.count == 5);
}

static void once_the_session_has_found_it_again(void)
{
	struct thmq_event e;

	connect_to(60 * SECOND);
	send(weak, 7);
	server_dies();
	server_start();
	CHECK(events_until(THMQ_EVENT_RECONNECTED, &e) == 1);
	CHECK(e.producer == weak && e.sequence == 1 && e.count == 7);
	send(weak, 1);
	server_ends();
	server_start();
	CHECK(events_until(THMQ_EVENT_RECONNECTED, &e) == 0); /* in order, this time */
	server_dies();
}

static const struct test_case cases[] = {
	{"those_that_were_acknowledged_from_memory", those_that_were_acknowledged_from_memory},
	{"none_that_has_become_durable", none_that_has_become_durable},
	{"none_where_all_is_durable", none_where_all_is_durable},
	{"none_after_an_end_in_order", none_after_an_end_in_order},
	{"of_a_producer_behind_another", of_a_producer_behind_another},
	{"once_the_session_has_found_it_again", once_the_session_has_found_it_again},
};

int main(int argc, char **argv)
{
	static char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (argc == 4 && strcmp(argv[1], "--serve") == 0)
		return serve(argv[2], argv[3]);
	CHECK(n > 0);
	self = path;
	run_cases(cases, sizeof(cases) / sizeof(cases[0]), argc - 1, argv + 1, up, down);
	return 0;
}
