/* SPDX-License-Identifier: Apache-2.0 */
/*
 * message_rounds.c - messages sent and taken in one thread that drives the core, for a program that counts instructions:
 * all between the first send and the last release, and nothing else, is in measured(). A shape is how messages are kept
 * and how many are sent at once.
 *
 *   message_rounds                   the shapes' names
 *   message_rounds SHAPE DIR [WHAT]  does one, on an empty directory, and says how many messages were measured; beside WHAT: features.h, or "plain"
 *   message_rounds features          what there is of that
 *
 * What happens must be the same every time: there is no io_uring (instruments do not know it), and the clock is the
 * program's own. It moves on by a step whenever it is read, so that what the library puts off by time comes after as many
 * rounds on a slow machine as on a fast one.
 *
 * Knows the public header only. Exit 0; 1 a call failed.
 */
#include "features.h"

#include <string.h>
#include <time.h>

#define WARM_ROUNDS 64u
#define BURST_MAX 64u

struct shape {
	const char *name;
	uint32_t durability; /* 0: a volatile topic */
	uint32_t burst, rounds;
	uint32_t way; /* enum way */
};

enum way {
	SENT = 0,
	CLAIMED = 1, /* all of a burst first, then committed */
	ROWS = 2,    /* a burst is a row */
	SHM = 4,     /* over shared memory */
};

/* All fits the first segment, 16 MiB; what comes once in some rounds comes often enough to have its share. */
static const struct shape shapes[] = {
	{"volatile-1", 0, 1, 4000, SENT},
	{"volatile-64", 0, 64, 200, SENT},
	{"memory-1", THMQ_DURABILITY_MEMORY, 1, 4000, SENT},
	{"memory-64", THMQ_DURABILITY_MEMORY, 64, 200, SENT},
	{"durable-1", THMQ_DURABILITY_DURABLE, 1, 400, SENT},
	{"durable-64", THMQ_DURABILITY_DURABLE, 64, 100, SENT},
	{"shm-1", 0, 1, 4000, SHM},
	{"shm-64", 0, 64, 200, SHM},
	{"shm-claims-64", 0, 64, 200, SHM | CLAIMED},
	{"shm-rows-64", 0, 64, 200, SHM | ROWS},
};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

#define STEP_NS 1000 /* about what a round takes */
#define BEGIN_NS 1700000000000000000

/* Stands before the C library's. */
int clock_gettime(clockid_t id, struct timespec *ret_time)
{
	static int64_t now_ns = BEGIN_NS;

	(void)id;
	now_ns += STEP_NS;
	*ret_time =
		(struct timespec){.tv_sec = now_ns / 1000000000, .tv_nsec = now_ns % 1000000000};
	return 0;
}

static inline int64_t send_claims(struct path *p, uint32_t burst)
{
	struct thmq_claim c[BURST_MAX];
	int64_t last = 0;

	for (uint32_t i = 0; i < burst; i++) {
		must("claim", thmq_claim(p->producer, NULL, PATH_LEN, &c[i]));
		memcpy(c[i].data, path_payload, PATH_LEN);
	}
	for (uint32_t i = 0; i < burst; i++)
		last = must("commit", thmq_commit(p->producer, &c[i]));
	return last;
}

static inline int64_t send_row(struct path *p, uint32_t burst)
{
	struct thmq_row row;

	must("claim", thmq_claim_row(p->producer, NULL, PATH_LEN, burst, &row));
	for (uint32_t i = 0; i < burst; i++)
		memcpy((char *)row.data + (size_t)i * row.step, path_payload, PATH_LEN);
	return must("commit", thmq_commit_row(p->producer, &row, burst));
}

/* Sends a burst, and polls until it is settled and all of it was taken. */
static inline void one_round(struct path *p, struct thmq_consumer *consumer, uint32_t burst, uint32_t way)
{
	struct thmq_message m[BURST_MAX];
	int64_t last = 0;
	uint32_t got = 0;

	if (way & CLAIMED)
		last = send_claims(p, burst);
	if (way & ROWS)
		last = send_row(p, burst);
	for (uint32_t i = 0; i < burst && !(way & (CLAIMED | ROWS)); i++)
		last = must("send", thmq_send(p->producer, path_payload, PATH_LEN, NULL));
	while (got < burst || thmq_watermark(p->producer) < last) {
		uint32_t n;

		must("poll", thmq_poll(p->env, 0));
		n = (uint32_t)must("fetch", thmq_fetch(consumer, m, BURST_MAX));
		if (n)
			must("release", thmq_release(consumer, m, n));
		got += n;
	}
}

void measured(struct path *p, struct thmq_consumer *consumer, uint32_t burst, uint32_t rounds, uint32_t way);

/* Its name is what the instrument is told; the compiler must not make it part of another function. */
__attribute__((noinline)) void measured(struct path *p, struct thmq_consumer *consumer,
					uint32_t burst, uint32_t rounds, uint32_t way)
{
	for (uint32_t i = 0; i < rounds; i++)
		one_round(p, consumer, burst, way);
}

static void be_beside(struct path *p, const char *what)
{
	for (size_t i = 0; i < FEATURES; i++)
		if (!strcmp(features[i].name, what)) {
			features[i].use(p);
			return;
		}
	if (strcmp(what, "plain")) {
		fprintf(stderr, "message_rounds: nothing is called %s\n", what);
		exit(1);
	}
}

/* @what NULL: a broker without a directory where the shape needs none. */
static void run(const struct shape *s, const char *dir, const char *what)
{
	struct thmq_consumer *consumer;
	struct path p;

	path_open(&p, THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL, .flags = THMQ_ENV_NO_URING),
		  s->durability || what ? dir : NULL, s->durability, s->way & SHM ? dir : NULL);
	if (what)
		be_beside(&p, what);
	must("consumer", thmq_consumer_open(p.session, PATH_TOPIC, NULL, NULL, &consumer));
	for (uint32_t i = 0; i < WARM_ROUNDS; i++)
		one_round(&p, consumer, s->burst, s->way);
	measured(&p, consumer, s->burst, s->rounds, s->way);
	must("close", thmq_env_close(p.env, PATH_CLOSE_NS));
	printf("%u\n", s->burst * s->rounds);
}

int main(int argc, char **argv)
{
	for (size_t i = 0; i < SHAPES; i++) {
		if (argc == 1) {
			puts(shapes[i].name);
		} else if (argc > 2 && argc < 5 && !strcmp(argv[1], shapes[i].name)) {
			run(&shapes[i], argv[2], argv[3]);
			return 0;
		}
	}
	for (size_t i = 0; argc == 2 && !strcmp(argv[1], "features") && i < FEATURES; i++)
		puts(features[i].name);
	if (argc < 3)
		return 0;
	fprintf(stderr, "usage: message_rounds [features | SHAPE DIR [WHAT]]\n");
	return 1;
}
