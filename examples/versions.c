/* SPDX-License-Identifier: Apache-2.0 */
/*
 * versions.c - a value that two writers change, and neither overwrites what it has not seen: each change names the version that it
 * replaces, and who comes too late reads again. Nothing is locked, and nobody waits for another.
 */
#include <stdio.h>
#include <string.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull

static struct thmq_session *session;
static struct thmq_producer *producer;

/* Sets "alice" to @value if its version is still @version. 1: it is set; 0: another was faster, *@version is the present one. */
static int change(int64_t value, uint64_t *version)
{
	struct thmq_event e;
	int64_t rc = thmq_send(producer, &value, sizeof(value),
			       THMQ_MESSAGE_OPTS(.key = "alice", .key_len = 5,
						 .flags = THMQ_MESSAGE_EXPECT_KEY,
						 .expected = *version));

	if (rc < 0 || (rc = thmq_flush(producer, SECOND)) == 0)
		return rc < 0 ? (int)rc : 1;
	while (thmq_events(session, &e, 1) == 1) {
		if (e.type != THMQ_EVENT_FAILED || e.error != -THMQ_ECONFLICT)
			continue;
		*version = e.offset;
		return 0;
	}
	return (int)rc;
}

int main(void)
{
	struct thmq_key_info at = {.size = sizeof(at)};
	uint64_t mine = UINT64_MAX, theirs = UINT64_MAX; /* there is none yet */
	struct thmq_env *env;
	struct thmq_broker *broker;
	int rc;

	if (thmq_env_open(&env, NULL) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "versions-data"), &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(session, "accounts",
			      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) ||
	    thmq_producer_open(session, "accounts", NULL, &producer))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	if (thmq_key_find(session, "accounts", UINT32_MAX, "alice", 5, UINT64_MAX, &at) == 0)
		mine = theirs = at.offset; /* an earlier run's */
	if ((rc = change(100, &mine)) != 1)
		return fprintf(stderr, "the first change: %s\n", thmq_strerror(rc)), 1;
	if (change(200, &theirs) != 0)
		return fprintf(stderr, "who did not know of it came through\n"), 1;
	printf("too late: alice is at version %llu by now\n", (unsigned long long)theirs);
	if (change(200, &theirs) != 1) /* it would read the value at that offset first */
		return fprintf(stderr, "the second change\n"), 1;
	if (thmq_key_find(session, "accounts", UINT32_MAX, "alice", 5, UINT64_MAX, &at) != 0)
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	printf("alice is at version %llu\n", (unsigned long long)at.offset);
	return thmq_env_close(env, SECOND) != 0;
}
