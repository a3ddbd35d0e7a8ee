/* SPDX-License-Identifier: Apache-2.0 */
/* Members of a group get the partitions that are served on their own processors, in equal shares. Needs two processors. */
#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "../check.h"

#define PARTS 8u

static int two_processors(int cpus[2])
{
	cpu_set_t set;
	int n = 0, i;

	CPU_ZERO(&set);
	CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
	for (i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET(i, &set))
			cpus[n++] = i;
	return n;
}

static struct thmq_consumer *member(struct thmq_session *s, const char *group, uint32_t near_cpu)
{
	struct thmq_consumer *c;

	CHECK(thmq_consumer_open(s, "t", group, THMQ_CONSUMER_OPTS(.assignor = THMQ_ASSIGN_NEAR, .near_cpu = near_cpu), &c) == 0);
	return c;
}

/* Whose each partition is, in the order in which they joined, once all are somebody's. */
static void owners_of(struct thmq_session *s, const char *group, struct thmq_consumer **members, uint32_t count, uint32_t owners[PARTS])
{
	struct thmq_message m;
	uint32_t i, had, turns;

	for (turns = 0;; turns++) {
		CHECK(turns < 20000);
		for (i = 0; i < count; i++)
			CHECK(thmq_fetch(members[i], &m, 1) == 0);
		CHECK(thmq_group_owners(s, "t", group, owners, PARTS) == (int)PARTS);
		for (i = had = 0; i < PARTS; i++)
			had += owners[i] < count;
		for (i = 0; had == PARTS && i < count; i++) {
			uint32_t k, its = 0;

			for (k = 0; k < PARTS; k++)
				its += owners[k] == i;
			if (its < PARTS / count || its > PARTS / count + 1)
				had = 0;
		}
		if (had == PARTS)
			return;
		thmq_session_wait(s, 1000000);
	}
}

int main(void)
{
	char dir[] = "near.XXXXXX", list[32], command[64];
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint32_t owners[PARTS], shards[PARTS], i, way;
	struct thmq_consumer *c[3], *elsewhere;
	struct thmq_place place = {.size = sizeof(place)};
	struct thmq_broker *broker;
	struct thmq_session *s;
	struct thmq_env *env;
	int cpus[2];

	if (two_processors(cpus) < 2)
		return 77;
	snprintf(list, sizeof(list), "%d,%d", cpus[0], cpus[1]);
	CHECK(mkdtemp(dir));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2, .cpus = list, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_env_place(env, 1, &place) == 0);
	if (!(place.flags & THMQ_PLACE_PINNED))
		return 77;
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2, .segment_bytes = 16u << 20), &broker) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = PARTS)) == 0);
	for (i = 0; i < PARTS; i++) {
		CHECK(thmq_partition_describe(s, "t", i, NULL, &info) == 0);
		shards[i] = info.shard;
	}
	/* data shard k is on core k, and that on the k-th processor of the list */
	for (way = 0; way < 2; way++) {
		const char *group = way ? "there" : "here";

		for (i = 0; i < 2; i++)
			c[i] = member(s, group, (uint32_t)cpus[way ? 1 - i : i] + 1);
		owners_of(s, group, c, 2, owners);
		for (i = 0; i < PARTS; i++)
			CHECK(owners[i] == (way ? 1 - shards[i] : shards[i]));
		/* one that is as near to nothing takes its share of both; what stays is near */
		c[2] = member(s, group, 4096);
		owners_of(s, group, c, 3, owners);
		for (i = 0; i < PARTS; i++)
			CHECK(owners[i] == 2 || owners[i] == (way ? 1 - shards[i] : shards[i]));
		for (i = 0; i < 3; i++)
			CHECK(thmq_consumer_close(c[i], 30 * SECOND) == 0);
	}
	CHECK(thmq_consumer_open(s, "t", "x", THMQ_CONSUMER_OPTS(.near_cpu = 1), &elsewhere) == -EINVAL);
	c[0] = member(s, "x", 0); /* where this is called */
	owners_of(s, "x", c, 1, owners);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	CHECK(thmq_env_close(env, 30 * SECOND) == 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
