/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A group with a filter in one thread under virtual time on a simulated disk, from one seed: members come, go, fall silent and come back
 * by name; whoever administers it resets it, deletes it and puts members out; the power is cut at any moment. The checker reads
 * along without a group, and knows what was acknowledged since the group was reset last: it never stands behind a message that is wanted
 * and was not acknowledged, nor before what it confirmed; what is not wanted never comes, and all that is comes in the end.
 *
 * usage: groups_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "seeds.h"

#define PARTITIONS 3u
#define MESSAGES_MAX 3000u
#define MEMBERS 3u
#define FILTER "number % 3 = 0 AND NOT spoiled"

/* A message that is there. */
struct stored {
	uint64_t offset;
	bool wanted;
};

struct part {
	struct stored all[MESSAGES_MAX]; /* as the reader saw them in this life */
	uint32_t count;
	uint64_t acked;     /* behind the last acknowledged since the reset */
	uint64_t base;      /* where it was reset to */
	uint64_t confirmed; /* the group is never before it */
	uint32_t resets;
};

struct member {
	struct thmq_session *session;
	struct thmq_consumer *consumer; /* NULL: it is not there */
	uint32_t resets[PARTITIONS]; /* when it joined */
	bool owns[PARTITIONS];
};

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *reader;
	struct member members[MEMBERS];
	struct part parts[PARTITIONS];
	uint32_t next_id;
};

#include "lives.h"

static bool is_spoiled(uint32_t id)
{
	return id % 7 == 0;
}

static bool is_wanted(uint32_t id)
{
	return id % 3 == 0 && !is_spoiled(id) && id % 11; /* every eleventh has no headers */
}

static int open_all(struct world *w)
{
	uint32_t i;

	at = "open";
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), thmqi_disk_sim_world(w->sim), &w->env) == 0);
	CHECK(w, thmq_broker_open(w->env,
				  THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 2, .segment_bytes = 1u << 20,
						   .batch_bytes = 64u << 10, .cache_bytes = 1u << 20),
				  &w->broker) == 0);
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &w->session) == 0);
	CHECK(w, thmq_topic_create(w->session, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(w, thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	CHECK(w, thmq_consumer_open(w->session, "t", NULL, NULL, &w->reader) == 0);
	for (i = 0; i < MEMBERS; i++)
		w->members[i].consumer = NULL;
	for (i = 0; i < PARTITIONS; i++)
		w->parts[i].count = 0;
	return 0;
}

static int send_some(struct world *w)
{
	uint32_t n = 1 + (uint32_t)below(w, 30), partition = (uint32_t)below(w, PARTITIONS);

	at = "send";
	for (; n && w->next_id < MESSAGES_MAX; n--, w->next_id++) {
		const int64_t number = w->next_id;
		const uint8_t spoiled = is_spoiled(w->next_id);
		const struct thmq_header h[] = {{"number", &number, 8, THMQ_HEADER_INT}, {"spoiled", &spoiled, 1, THMQ_HEADER_BOOL}};
		int64_t rc = thmq_send(w->producer, &w->next_id, sizeof(w->next_id),
				       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition, .headers = h,
							 .header_count = w->next_id % 11 ? 2 : 0));

		if (rc == -EAGAIN)
			break;
		CHECK(w, rc > 0);
	}
	return 0;
}

/* ------------------------------------------------------------------ what there is */

static int read_along(struct world *w)
{
	struct thmq_message m[32];
	uint32_t id;
	int n, k;

	while ((n = thmq_fetch(w->reader, m, 32)) > 0) {
		for (k = 0; k < n; k++) {
			struct part *p = &w->parts[m[k].partition];

			memcpy(&id, m[k].data, sizeof(id));
			CHECK(w, p->count < MESSAGES_MAX && (!p->count || p->all[p->count - 1].offset < m[k].offset));
			p->all[p->count++] = (struct stored){.offset = m[k].offset, .wanted = is_wanted(id)};
		}
		CHECK(w, thmq_release(w->reader, m, (uint32_t)n) == 0);
	}
	CHECK(w, n == 0);
	return 0;
}

/* It stands where it may. */
static int check_group(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t from;
	uint32_t i, k;
	int turns;

	at = "check";
	for (i = 0; i < PARTITIONS; i++) {
		struct part *p = &w->parts[i];

		CHECK(w, thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
		if (info.group_offset == UINT64_MAX) {
			CHECK(w, !p->confirmed);
			continue;
		}
		CHECK(w, info.group_offset >= THMQI_MIN(p->confirmed, info.end_offset));
		for (turns = 0; turns < 200; turns++) { /* the reader may be behind */
			if (read_along(w))
				return -1;
			if (p->count && p->all[p->count - 1].offset + 1 >= info.group_offset)
				break;
			thmq_poll(w->env, 0);
		}
		from = THMQI_MAX(p->base, p->acked);
		for (k = 0; k < p->count; k++)
			CHECK(w, p->all[k].offset < from || p->all[k].offset >= info.group_offset || !p->all[k].wanted);
	}
	return 0;
}

/* ------------------------------------------------------------------------ members */

static int join(struct world *w, uint32_t i)
{
	static const uint32_t assignors[] = {THMQ_ASSIGN_RANGE, THMQ_ASSIGN_ROUND_ROBIN, THMQ_ASSIGN_STICKY, THMQ_ASSIGN_NEAR};
	struct member *m = &w->members[i];
	uint32_t k, assignor = assignors[below(w, 4)];
	char name[16];

	at = "join";
	snprintf(name, sizeof(name), "m-%llu", (unsigned long long)below(w, MEMBERS));
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &m->session) == 0);
	CHECK(w, thmq_consumer_open(m->session, "t", "g",
				    THMQ_CONSUMER_OPTS(.filter = FILTER, .assignor = assignor, .near_cpu = assignor == THMQ_ASSIGN_NEAR ? 1 + (uint32_t)below(w, 4) : 0,
						       .instance = below(w, 2) ? name : NULL, .session_timeout_ns = 100 * MS,
						       .prefetch_count = 1 + (uint32_t)below(w, 40)),
				    &m->consumer) == 0);
	for (k = 0; k < PARTITIONS; k++)
		m->resets[k] = w->parts[k].resets, m->owns[k] = false;
	return 0;
}

static void leave(struct world *w, uint32_t i)
{
	thmq_session_close(w->members[i].session, below(w, 2) * SECOND);
	w->members[i].consumer = NULL;
}

static void hear(struct member *m)
{
	struct thmq_event e;

	while (thmq_events(m->session, &e, 1) == 1)
		if (e.type == THMQ_EVENT_ASSIGNED || e.type == THMQ_EVENT_REVOKED)
			m->owns[e.partition] = e.type == THMQ_EVENT_ASSIGNED;
}

/* Its flush says that all its acks are stored: of the partitions that are its own, before and after. */
static int flush(struct world *w, struct member *m, const uint64_t acked[PARTITIONS])
{
	bool owned[PARTITIONS];
	uint32_t i;
	int rc;

	at = "flush";
	hear(m);
	memcpy(owned, m->owns, sizeof(owned));
	rc = thmq_consumer_flush(m->consumer, 10 * SECOND);
	CHECK(w, rc == 0 || rc == -THMQ_EFENCED);
	hear(m);
	for (i = 0; i < PARTITIONS && !rc; i++)
		if (owned[i] && m->owns[i] && m->resets[i] == w->parts[i].resets)
			w->parts[i].confirmed = THMQI_MAX(w->parts[i].confirmed, acked[i]);
	return 0;
}

static int work(struct world *w, uint32_t i)
{
	struct member *m = &w->members[i];
	struct thmq_message views[16];
	uint64_t acked[PARTITIONS] = {0};
	uint32_t id, stop = (uint32_t)below(w, 20);
	int n = thmq_fetch(m->consumer, views, 1 + (uint32_t)below(w, 16)), k, rc;

	at = "work";
	CHECK(w, n >= 0 || n == -THMQ_EFENCED);
	if (n < 0) {
		leave(w, i);
		return 0;
	}
	for (k = 0; k < n; k++) {
		struct part *p = &w->parts[views[k].partition];

		memcpy(&id, views[k].data, sizeof(id));
		CHECK(w, is_wanted(id));
		if ((uint32_t)k >= stop)
			continue;
		rc = thmq_ack(m->consumer, &views[k]);
		CHECK(w, rc == 0 || rc == -EAGAIN || rc == -THMQ_EFENCED);
		if (rc == 0 && m->resets[views[k].partition] == p->resets) {
			p->acked = THMQI_MAX(p->acked, views[k].offset + 1);
			acked[views[k].partition] = views[k].offset + 1;
		}
	}
	if (n)
		CHECK(w, thmq_release(m->consumer, views, (uint32_t)n) == 0);
	if (below(w, 6) == 0 && flush(w, m, acked))
		return -1;
	if (below(w, 30) == 0)
		leave(w, i);
	return 0;
}

/* --------------------------------------------------------------- who administers it */

static void begin_anew(struct world *w, uint32_t i, uint64_t offset)
{
	w->parts[i].base = w->parts[i].confirmed = offset;
	w->parts[i].acked = 0;
	w->parts[i].resets++;
}

static int reset(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint32_t i = (uint32_t)below(w, PARTITIONS), start = THMQ_START_BEGIN + (uint32_t)below(w, 3);
	uint64_t offset;
	bool empty;
	int rc;

	at = "reset";
	CHECK(w, thmq_partition_describe(w->session, "t", i, NULL, &info) == 0);
	empty = info.begin_offset == info.end_offset;
	offset = info.begin_offset + below(w, info.end_offset - info.begin_offset + 1);
	rc = thmq_group_reset(w->session, "t", "g", i, start, start == THMQ_START_OFFSET ? offset : 0, THMQ_GROUP_FORCE);
	/* after a crash an empty partition begins elsewhere with its first message */
	CHECK(w, rc == 0 || rc == -ENOENT || (rc == -THMQ_EOFFSETRANGE && start == THMQ_START_OFFSET));
	if (rc)
		return 0;
	CHECK(w, thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
	CHECK(w, start != THMQ_START_OFFSET || info.group_offset == offset);
	CHECK(w, start != THMQ_START_BEGIN || info.group_offset == info.begin_offset || (empty && info.group_offset < info.begin_offset));
	CHECK(w, info.group_offset != UINT64_MAX);
	begin_anew(w, i, info.group_offset);
	return 0;
}

static int delete(struct world *w)
{
	uint32_t i;
	int rc;

	at = "delete";
	rc = thmq_group_delete(w->session, "t", "g", THMQ_GROUP_FORCE);
	CHECK(w, rc == 0 || rc == -ENOENT);
	CHECK(w, rc || thmq_group_list(w->session, "t", NULL, 0) == 0);
	for (i = 0; i < PARTITIONS; i++)
		begin_anew(w, i, 0);
	return 0;
}

static int step(struct world *w)
{
	uint32_t i = (uint32_t)below(w, MEMBERS), what = (uint32_t)below(w, 60);

	if (what == 0)
		return reset(w);
	if (what == 1 && below(w, 3) == 0)
		return delete(w);
	if (what < 5)
		return check_group(w);
	if (!w->members[i].consumer)
		return below(w, 4) ? 0 : join(w, i);
	return work(w, i);
}

/* All that is wanted, from where it stands, comes to the one that is left; then there is no lag. */
static int drain(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_message m[64];
	uint64_t got[PARTITIONS], begin[PARTITIONS];
	uint32_t idle = 0, i, k, wanted;
	int n;

	for (i = 0; i < MEMBERS; i++)
		if (w->members[i].consumer)
			leave(w, i);
	if (check_group(w))
		return -1;
	at = "drain";
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(w, thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
		begin[i] = info.group_offset == UINT64_MAX ? 0 : info.group_offset;
		got[i] = 0;
	}
	if (join(w, 0))
		return -1;
	at = "drain";
	while (idle < 400) {
		n = thmq_fetch(w->members[0].consumer, m, 64);
		CHECK(w, n >= 0);
		for (i = 0; i < (uint32_t)n; i++) {
			got[m[i].partition]++;
			CHECK(w, thmq_ack(w->members[0].consumer, &m[i]) == 0);
		}
		CHECK(w, thmq_release(w->members[0].consumer, m, (uint32_t)n) == 0);
		idle = n ? 0 : idle + 1;
		thmq_poll(w->env, MS);
	}
	CHECK(w, thmq_consumer_flush(w->members[0].consumer, 10 * SECOND) == 0);
	if (read_along(w))
		return -1;
	for (i = 0; i < PARTITIONS; i++) {
		for (k = 0, wanted = 0; k < w->parts[i].count; k++)
			wanted += w->parts[i].all[k].wanted && w->parts[i].all[k].offset >= begin[i];
		CHECK(w, got[i] == wanted);
		CHECK(w, thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
		CHECK(w, info.lag == 0);
	}
	return 0;
}

static int life(struct world *w, bool last)
{
	uint32_t steps = 20 + (uint32_t)below(w, 400), i;

	if (open_all(w) || check_group(w))
		return -1;
	for (i = 0; i < steps; i++) {
		if ((below(w, 3) == 0 && send_some(w)) || step(w))
			return -1;
		thmq_poll(w->env, below(w, 3) ? 0 : below(w, 8) ? below(w, MS) : below(w, 30 * MS));
	}
	if (last) {
		at = "last";
		CHECK(w, thmq_flush(w->producer, 60 * SECOND) == 0);
		if (drain(w))
			return -1;
		at = "close";
		CHECK(w, thmq_env_close(w->env, 60 * SECOND) == 0);
		return 0;
	}
	power_cut(w);
	return 0;
}

static int run(uint64_t seed)
{
	return live(seed, 1, 4, NULL, life, NULL);
}

#define MANY 600u
#define OF_A_SESSION 200u

/* So many groups of one topic that meta's log goes through several segments, whose making is waited for; each is found by its name, and stands where it is. */
static int many(struct world *w)
{
	struct thmq_session *s = NULL;
	struct thmq_group_info info = {.size = sizeof(info)};
	struct thmq_consumer *c;
	struct thmq_message m;
	char name[32];
	uint32_t i, tries;

	if (open_all(w))
		return -1;
	at = "many groups";
	CHECK(w, thmq_send(w->producer, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION)) > 0);
	CHECK(w, thmq_flush(w->producer, 60 * SECOND) == 0);
	for (i = 0; i < MANY; i++) {
		if (i % OF_A_SESSION == 0)
			CHECK(w, thmq_connect(w->env, "inproc://", THMQ_SESSION_OPTS(.window_bytes = 65536, .window_count = 16), &s) == 0);
		snprintf(name, sizeof(name), "g%u", i);
		CHECK(w, thmq_consumer_open(s, "t", name, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .prefetch_count = 4), &c) == 0);
		if (i % 3)
			continue;
		for (tries = 0; thmq_fetch(c, &m, 1) != 1; tries++)
			CHECK(w, tries < 10000 && thmq_session_wait(s, SECOND) >= 0);
		CHECK(w, thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0 && thmq_consumer_flush(c, 60 * SECOND) == 0);
	}
	for (i = 0; i < MANY; i += 7) {
		snprintf(name, sizeof(name), "g%u", i);
		CHECK(w, thmq_group_describe(w->session, "t", name, &info) == 0 && info.member_count == 1 && info.lag == (i % 3 ? 1 : 0));
	}
	for (i = 0; i < MANY; i += 2) {
		snprintf(name, sizeof(name), "g%u", i);
		CHECK(w, thmq_group_delete(w->session, "t", name, THMQ_GROUP_FORCE) == 0);
		CHECK(w, thmq_group_describe(w->session, "t", name, &info) == -ENOENT);
	}
	CHECK(w, thmq_group_list(w->session, "t", NULL, 0) == MANY / 2);
	CHECK(w, thmq_env_close(w->env, 60 * SECOND) == 0);
	thmqi_disk_sim_restart(w->sim);
	if (open_all(w))
		return -1;
	at = "many groups, again";
	CHECK(w, thmq_group_list(w->session, "t", NULL, 0) == MANY / 2);
	for (i = 1; i < MANY; i += 2) {
		snprintf(name, sizeof(name), "g%u", i);
		CHECK(w, thmq_group_describe(w->session, "t", name, &info) == 0 && info.lag == (i % 3 ? 1 : 0));
	}
	CHECK(w, thmq_env_close(w->env, 60 * SECOND) == 0);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t failed;

	each_seed(argc, argv, 40, 5000, run, &failed);
	failed += live_once(many) != 0;
	return failed != 0;
}
