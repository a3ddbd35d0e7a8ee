/* SPDX-License-Identifier: Apache-2.0 */
/*
 * come_and_go_test.c - clients that come and go, in all ways: politely, with work undone, without a word, in the middle of a greeting, by
 * SIGKILL. What they cost is given back to the last descriptor, arena and connection, and the memory in use does not grow.
 *
 * usage: come_and_go_test MEDIUM, as of transport_contract_test. THMQ_TEST_FULL: for a minute.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/un.h>

#include "../integration/contract.h"
#include "wire/stream.h"

#define ROUNDS 400
#define GROWTH (10u << 10) /* of the heap a round: handles that are closed keep a little, the last 4096 of them */
/* In full: these are all there, and nothing else grows. */
#define ROUNDS_FIRST 6000
#define GROWTH_FULL (512u << 10)

static struct thmqi_prng prng;

/* -------------------------------------------------------------------- what is there */

struct held {
	uint32_t descriptors, arenas, sessions;
	uint64_t heap;
};

static uint32_t count_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	uint32_t n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static uint32_t count_arenas(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	uint32_t n = 0;

	while (fgets(line, sizeof(line), f))
		n += strstr(line, "/memfd:thundermq") != NULL;
	fclose(f);
	return n;
}

/* Bytes that malloc() has given away, as it says itself; 0 where another one is in its place. */
static uint64_t heap_in_use(void)
{
	unsigned long long system = 0, rest = 0, fast = 0, mapped = 0;
	const char *at, *end;
	size_t size = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &size);

	if (malloc_info(0, f) != 0 || fclose(f) != 0 || !(end = strstr(text, "<heap nr")))
		return 0;
	for (at = end; (at = strstr(at + 1, "</heap>"));)
		end = at; /* behind the last one they are added up */
	if ((at = strstr(end, "<total type=\"fast\"")) && (at = strstr(at, "size=")))
		sscanf(at, "size=\"%llu\"", &fast);
	if ((at = strstr(end, "<total type=\"rest\"")) && (at = strstr(at, "size=")))
		sscanf(at, "size=\"%llu\"", &rest);
	if ((at = strstr(end, "<total type=\"mmap\"")) && (at = strstr(at, "size=")))
		sscanf(at, "size=\"%llu\"", &mapped);
	if ((at = strstr(end, "<system type=\"current\"")) && (at = strstr(at, "size=")))
		sscanf(at, "size=\"%llu\"", &system);
	free(text);
	return system + mapped - rest - fast;
}

static struct held held_now(void)
{
	return (struct held){count_descriptors(), count_arenas(), sessions(), heap_in_use()};
}

/* ---------------------------------------------------------------------- who comes */

static int knock(void)
{
	struct sockaddr_un u = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd;

	if (is_shm()) {
		snprintf(u.sun_path, sizeof(u.sun_path), "%.80s", url + strlen("shm://"));
		fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&u, sizeof(u)) == 0);
		return fd;
	}
	in.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0);
	return fd;
}

static void says_nothing(void)
{
	close(knock());
}

static void greets_in_part(void)
{
	struct thmqi_hello h = {
		.shard = 1, .area_bytes = 65536, .up_frames = 64, .ctl_frames = 64, .down_frames = 64, .silence_ms = 60000};
	struct linger abort = {.l_onoff = 1};
	int fd = knock();

	thmqi_hello_seal(&h, THMQI_HELLO_CLIENT);
	CHECK(send(fd, &h, (size_t)thmqi_prng_below(&prng, sizeof(h) + 1), MSG_NOSIGNAL) >= 0);
	if (thmqi_prng_below(&prng, 2))
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort, sizeof(abort));
	close(fd);
}

static void comes_and_goes(void)
{
	CHECK(thmq_session_close(session_of(NULL), 10 * SECOND) == 0);
}

/* With claims, messages, views and acks that are left as they are. */
static void leaves_work(struct thmq_session *s)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[4];
	struct thmq_claim claim;
	uint64_t number = 7;
	int i, n;

	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "t", thmqi_prng_below(&prng, 2) ? "g" : NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END), &c) == 0);
	for (i = 0; i < 3; i++)
		CHECK(thmq_send(p, &number, sizeof(number), NULL) > 0);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	thmq_session_wait(s, MS);
	n = thmq_fetch(c, m, 4);
	CHECK(n >= 0);
	if (n > 1)
		thmq_release(c, m, 1);
	CHECK(thmq_send(p, &number, sizeof(number), NULL) > 0);
	CHECK(thmq_claim(p, NULL, 100, &claim) == 0);
}

static void works_and_goes(void)
{
	struct thmq_session *s = session_of(NULL);

	leaves_work(s);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

static void is_killed(void)
{
	int out[2];
	char ready;
	pid_t pid;

	CHECK(pipe(out) == 0);
	pid = fork();
	if (pid == 0) {
		dup2(out[1], 1);
		execl("/proc/self/exe", "come_and_go_test", medium, "--client", url, (char *)NULL);
		_exit(1);
	}
	close(out[1]);
	CHECK(read(out[0], &ready, 1) == 1);
	close(out[0]);
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

/* Another process: told to be killed when it is in the middle of everything. */
static int client(const char *at)
{
	struct thmq_session *s;

	snprintf(url, sizeof(url), "%s", at);
#if defined(HAVE_OPENSSL)
	if (getenv("COME_AND_GO_CERTS"))
		snprintf(certs, sizeof(certs), "%s", getenv("COME_AND_GO_CERTS"));
#endif
	thmqi_prng_seed(&prng, (uint64_t)getpid());
	CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	s = session_of(NULL);
	leaves_work(s);
	CHECK(write(1, "r", 1) == 1);
	for (;;)
		thmq_session_wait(s, SECOND);
}

/* ------------------------------------------------------------------------- all of it */

static void one(uint32_t i)
{
	if (i % 100 == 50) {
		is_killed();
		return;
	}
	switch (thmqi_prng_below(&prng, 4)) {
	case 0:
		says_nothing();
		break;
	case 1:
		greets_in_part();
		break;
	case 2:
		comes_and_goes();
		break;
	default:
		works_and_goes();
	}
}

/* Those that went have been noticed. */
static struct held settled(const struct held *wanted)
{
	uint64_t until = now() + 30 * SECOND;
	struct held h;

	do {
		nap(10 * MS);
		h = held_now();
	} while (now() < until && (h.sessions != 1 || (wanted && (h.descriptors > wanted->descriptors || h.arenas > wanted->arenas))));
	return h;
}

static void come_and_go(void)
{
	struct thmq_session *stays = session_of(NULL);
	const bool full = getenv("THMQ_TEST_FULL") != NULL;
	struct held before, after;
	uint64_t until;
	uint32_t i;

#if defined(HAVE_OPENSSL)
	setenv("COME_AND_GO_CERTS", certs, 1);
#endif
	CHECK(thmq_topic_create(stays, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .partition_count = 4)) == 0);
	for (i = 0; i < (full ? ROUNDS_FIRST : ROUNDS / 2); i++)
		one(i);
	before = settled(NULL);
	until = full ? now() + 60 * SECOND : 0;
	for (i = 0; i < ROUNDS || now() < until; i++)
		one(i);
	after = settled(&before);
	printf("%u came and went: descriptors %u, %u; arenas %u, %u; heap %llu, %llu\n", i, before.descriptors, after.descriptors, before.arenas,
	       after.arenas, (unsigned long long)before.heap, (unsigned long long)after.heap);
	CHECK(after.sessions == 1);
	CHECK(after.descriptors == before.descriptors);
	CHECK(after.arenas == before.arenas);
	CHECK(after.heap <= before.heap + (full ? GROWTH_FULL : (uint64_t)ROUNDS * GROWTH));
	CHECK(thmq_session_close(stays, 10 * SECOND) == 0);
}

static const struct test_case cases[] = {{"come_and_go", come_and_go}};

int main(int argc, char **argv)
{
	medium = argc > 1 ? argv[1] : "tcp";
	if (argc > 3 && strcmp(argv[2], "--client") == 0)
		return client(argv[3]);
	thmqi_prng_seed(&prng, getenv("THMQ_TEST_SEED") ? strtoull(getenv("THMQ_TEST_SEED"), NULL, 0) : 4711);
	return contract_run(argc, argv, cases, 1);
}
