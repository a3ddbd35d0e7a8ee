/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared groups in one thread under virtual time on a simulated disk, from one seed: members come and go, ack, give back, forget
 * and sit on messages; the power is cut at any moment. The checker knows of each message who has it until when, and whether its ack
 * was confirmed: what is done never comes again, nothing goes to two at a time or before its delay, and all that is not done comes in
 * the end. In each third world messages have priorities: then what is higher comes first, too, of what a member has at hand.
 *
 * usage: delivery_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "seeds.h"

#define PARTITIONS 2u
#define MESSAGES_MAX 4000u
#define MEMBERS 3u
#define HELD_MAX 64u
#define INVISIBLE (20 * MS)

struct known {
	bool sent;         /* and stored durably */
	bool acked;        /* somebody has said so */
	bool stored;       /* and that is stored */
	int acked_by;      /* member + 1, while it is there */
	int holder;        /* member + 1 */
	uint64_t until_ns; /* it certainly is the holder's */
	uint64_t not_before_ns;
	int times; /* that it was handed out */
	uint64_t
		late_until_ns; /* it was acked late: until then another may have it in its prefetch */
};

struct member {
	struct thmq_session *session;
	struct thmq_consumer *consumer;
	struct thmq_message held[HELD_MAX];
	uint32_t held_count;
};

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct member members[MEMBERS];
	struct known known[MESSAGES_MAX];
	uint32_t next_id, confirmed;
	uint32_t priorities; /* 0: there are none; else each partition has its own */
	uint32_t first_of_life;
};

#include "lives.h"

static uint32_t priority_of(const struct world *w, uint32_t id)
{
	return w->priorities ? id * 7 % 11 % w->priorities : 0;
}

static int join(struct world *w, uint32_t i)
{
	struct member *m = &w->members[i];

	at = "join";
	m->held_count = 0;
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &m->session) == 0);
	CHECK(w,
	      thmq_consumer_open(m->session, "t", "g",
				 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
						    .invisible_ns = INVISIBLE,
						    .prefetch_count = 1 + (uint32_t)below(w, 40)),
				 &m->consumer) == 0);
	return 0;
}

static int open_all(struct world *w)
{
	uint32_t i;

	at = "open";
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20),
				    thmqi_disk_sim_world(w->sim), &w->env) == 0);
	CHECK(w,
	      thmq_broker_open(w->env,
			       THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1,
						.segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
						.cache_bytes = 1u << 20),
			       &w->broker) == 0);
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &w->session) == 0);
	CHECK(w, thmq_topic_create(w->session, "t",
				   THMQ_TOPIC_OPTS(.partition_count = w->priorities ? 1 : PARTITIONS,
						   .priorities = w->priorities,
						   .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(w, thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	for (i = 0; i < w->next_id; i++) {
		w->known[i].holder = w->known[i].acked_by = 0;
		w->known[i].not_before_ns = 0;
	}
	w->first_of_life = w->confirmed = w->next_id;
	for (i = 0; i < MEMBERS; i++)
		w->members[i].consumer = NULL;
	return 0;
}

static int send_some(struct world *w)
{
	uint32_t n = 1 + (uint32_t)below(w, 30);
	int64_t mark;

	at = "send";
	while (n-- && w->next_id < MESSAGES_MAX) {
		int64_t seq = thmq_send(w->producer, &w->next_id, sizeof(w->next_id),
					THMQ_MESSAGE_OPTS(.priority = priority_of(w, w->next_id)));

		if (seq == -EAGAIN)
			break;
		CHECK(w, seq == w->next_id - w->first_of_life + 1);
		w->next_id++;
	}
	mark = thmq_watermark(w->producer);
	CHECK(w, mark >= 0);
	for (; w->confirmed < w->first_of_life + mark; w->confirmed++)
		w->known[w->confirmed].sent = true;
	return 0;
}

static int take(struct world *w, uint32_t i)
{
	struct member *m = &w->members[i];
	uint64_t now = thmqi_disk_sim_now(w->sim);
	uint32_t id, rises = 0;
	int n, k, times;

	at = "fetch";
	n = thmq_fetch(m->consumer, m->held + m->held_count,
		       THMQI_MIN(HELD_MAX - m->held_count, 1 + (uint32_t)below(w, 12)));
	CHECK(w, n >= 0 || n == -ENOBUFS);
	for (k = 0; k < n; k++) {
		struct thmq_message *view = &m->held[m->held_count++];
		struct known *kn;

		CHECK(w, view->len == sizeof(id));
		memcpy(&id, view->data, sizeof(id));
		CHECK(w, id < w->next_id);
		CHECK(w, thmq_message_priority(m->consumer, view) == (int)priority_of(w, id));
		/* the highest first, but for the one of the others that comes after each 64 */
		rises += k && view->partition > view[-1].partition;
		CHECK(w, !w->priorities || rises <= 1);
		kn = &w->known[id];
		CHECK(w,
		      !kn->stored || now < kn->late_until_ns); /* what is done never comes again */
		CHECK(w, !kn->holder || kn->until_ns <= now);  /* nobody else has it */
		CHECK(w, now >= kn->not_before_ns);
		times = thmq_message_deliveries(m->consumer, view);
		CHECK(w, times >= 1);
		kn->times = times;
		kn->holder = (int)i + 1;
		/* it was handed out some time ago; its time is invisible_ns from then on, and the client shows it for 7/8 of that */
		kn->until_ns = now + INVISIBLE / 8 - MS;
		kn->not_before_ns = 0;
	}
	return 0;
}

static int settle(struct world *w, uint32_t i)
{
	struct member *m = &w->members[i];
	uint32_t k, id;
	int rc;

	at = "settle";
	while (m->held_count && below(w, 4)) {
		struct thmq_message *view = &m->held[k = (uint32_t)below(w, m->held_count)];
		struct known *kn;

		memcpy(&id, view->data, sizeof(id));
		kn = &w->known[id];
		switch (below(w, 8)) {
		case 0: { /* give it back */
			uint64_t delay = below(w, 2) * below(w, 30 * MS),
				 now = thmqi_disk_sim_now(w->sim);
			bool certain = kn->holder == (int)i + 1 && now < kn->until_ns &&
				       thmq_message_deliveries(m->consumer, view) == kn->times;

			rc = thmq_nack(m->consumer, view, delay);
			CHECK(w, rc == 0 || rc == -EAGAIN);
			if (rc == 0 && certain && !kn->acked)
				kn->not_before_ns = now + delay;
			if (kn->holder == (int)i + 1)
				kn->holder = 0;
			break;
		}
		case 1:
			rc = thmq_extend(m->consumer, view, INVISIBLE);
			CHECK(w, rc == 0 || rc == -EAGAIN);
			continue;
		case 2: /* forget it */
			if (kn->holder == (int)i + 1)
				kn->holder =
					kn->until_ns > thmqi_disk_sim_now(w->sim) ? kn->holder : 0;
			break;
		default:
			rc = thmq_ack(m->consumer, view);
			CHECK(w, rc == 0 || rc == -EAGAIN);
			if (rc == -EAGAIN)
				return 0;
			if (kn->holder != (int)i + 1 || thmqi_disk_sim_now(w->sim) >= kn->until_ns)
				kn->late_until_ns = thmqi_disk_sim_now(w->sim) + INVISIBLE;
			kn->acked = true;
			kn->acked_by = (int)i + 1;
			kn->not_before_ns = 0;
		}
		CHECK(w, thmq_release(m->consumer, view, 1) == 0);
		m->held[k] = m->held[--m->held_count];
	}
	return 0;
}

/* All that @i has acknowledged is stored if its flush says so. */
static int flush(struct world *w, uint32_t i)
{
	uint32_t id;

	at = "flush";
	CHECK(w, thmq_consumer_flush(w->members[i].consumer, 10 * SECOND) == 0);
	for (id = 0; id < w->next_id; id++)
		if (w->known[id].acked_by == (int)i + 1)
			w->known[id].stored = true;
	return 0;
}

static void leave(struct world *w, uint32_t i)
{
	bool stored = thmq_session_close(w->members[i].session, below(w, 2) * SECOND) == 0;
	uint32_t id;

	w->members[i].consumer = NULL;
	for (id = 0; id < w->next_id; id++) {
		struct known *kn = &w->known[id];

		if (kn->holder == (int)i + 1)
			kn->holder = 0;
		if (kn->acked_by == (int)i + 1) {
			kn->stored = kn->stored || stored;
			kn->acked_by = 0;
		}
	}
}

static int step(struct world *w)
{
	uint32_t i = (uint32_t)below(w, MEMBERS);

	if (!w->members[i].consumer)
		return below(w, 4) ? 0 : join(w, i);
	if (take(w, i) || settle(w, i))
		return -1;
	if (below(w, 10) == 0 && flush(w, i))
		return -1;
	if (below(w, 40) == 0)
		leave(w, i);
	return 0;
}

/* What is not done comes, each once to a member that acks it; then there is no lag. */
static int drain(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_message m[64];
	uint32_t idle = 0, id, p;
	int n, k;

	for (id = 0; id < MEMBERS; id++)
		if (w->members[id].consumer)
			leave(w, id);
	if (join(w, 0))
		return -1;
	at = "drain";
	while (idle < 40) {
		n = thmq_fetch(w->members[0].consumer, m, 64);
		CHECK(w, n >= 0);
		for (k = 0; k < n; k++) {
			memcpy(&id, m[k].data, sizeof(id));
			CHECK(w, id < w->next_id);
			CHECK(w, !w->known[id].stored ||
					 thmqi_disk_sim_now(w->sim) < w->known[id].late_until_ns);
			CHECK(w, thmq_ack(w->members[0].consumer, &m[k]) == 0);
			w->known[id].acked = w->known[id].stored = true;
		}
		CHECK(w, thmq_release(w->members[0].consumer, m, (uint32_t)n) == 0);
		idle = n ? 0 : idle + 1;
		thmq_poll(w->env, MS);
	}
	CHECK(w, thmq_consumer_flush(w->members[0].consumer, 10 * SECOND) == 0);
	for (id = 0; id < w->next_id; id++)
		CHECK(w, !w->known[id].sent || w->known[id].acked); /* nothing was lost */
	for (p = 0; p < PARTITIONS; p++) {
		CHECK(w, thmq_partition_describe(w->session, "t", p, "g", &info) == 0);
		CHECK(w, info.lag == 0);
	}
	return 0;
}

static int life(struct world *w, bool last)
{
	uint32_t steps = 20 + (uint32_t)below(w, 400), i;

	if (open_all(w))
		return -1;
	for (i = 0; i < steps; i++) {
		if ((below(w, 3) == 0 && send_some(w)) || step(w))
			return -1;
		thmq_poll(w->env, below(w, 3) ? 0 : below(w, 8) ? below(w, MS) : below(w, 30 * MS));
	}
	if (last) {
		at = "last";
		CHECK(w, thmq_flush(w->producer, 60 * SECOND) == 0);
		for (i = w->first_of_life; i < w->next_id; i++)
			w->known[i].sent = true;
		if (drain(w))
			return -1;
		at = "close";
		CHECK(w, thmq_env_close(w->env, 60 * SECOND) == 0);
		return 0;
	}
	power_cut(w);
	return 0;
}

static void begin(struct world *w)
{
	w->priorities = w->seed % 3 ? 0 : PARTITIONS;
}

static int run(uint64_t seed)
{
	return live(seed, 1, 4, begin, life, NULL);
}

int main(int argc, char **argv)
{
	uint64_t failed;

	each_seed(argc, argv, 100, 10000, run, &failed);
	return failed != 0;
}
