/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three brokers that keep the same data, and a session, in one thread under virtual time (broker_copies_world.h): between the brokers a network that loses,
 * delays, doubles and cuts; brokers that are killed and come back; disks, one of each, that stand still, are slow, or have errors; power that goes for one of
 * them, in the middle of a write too, or for all at once; clocks that somebody sets. From one seed. What was sent arrives once, in order, at a reader of its own and at a group's, and once at least at a shared group's, never
 * again where that was told; what was acknowledged stays; nothing fails for good; and the copies keep what raft promises (broker_copies_checks.h). In some of these worlds much is sent beside that goes soon, so
 * that segments go and what stays of them is appended again; in some there are transactions too (broker_copies_txn.h), in some disks are full for a while, and in some
 * brokers come and go meanwhile (broker_copies_members.h).
 * With a defect planted it must fail.
 *
 * usage: broker_copies_sim_test [first seed [count [plant]]]; THMQ_TEST_FULL=1 runs many more: several processes may each do some of them.
 */
#include <malloc.h>

#include "broker_copies_world.h"
#include "broker_copies_checks.h"
#include "broker_copies_members.h"

#define LED_NS (6 * SECOND)

/* ---------------------------------------------------------------------- flow */

static int send_some(struct world *w)
{
	uint32_t n = (uint32_t)chance(w, 5), partition, body[100] = {0};
	int64_t rc;

	at = "send";
	while (n-- && w->sent < MESSAGES) {
		partition = (uint32_t)chance(w, PARTITIONS);
		body[0] = w->next_to[partition];
		rc = thmq_send(
			w->producer, body, 4 + 4 * (uint32_t)chance(w, 99),
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition,
					  .durability = chance(w, 8) ? 0 : THMQ_DURABILITY_ALL));
		w->refused += rc == -THMQ_ENOQUORUM;
		if (rc == -EAGAIN || rc == -THMQ_ENOQUORUM)
			return 0;
		CHECK(w, rc == w->sent + 1);
		w->sent_as[w->sent].partition = partition;
		w->sent_as[w->sent].number = w->next_to[partition];
		w->sent++;
		w->next_to[partition]++;
	}
	return 0;
}

#define FILL_BYTES 50000u

static int fill_some(struct world *w)
{
	static const uint8_t body[FILL_BYTES];
	int64_t rc;

	at = "fill";
	if (!w->filler || w->healed || chance(w, 3))
		return 0;
	rc = thmq_send(w->filler, body, FILL_BYTES, NULL);
	CHECK(w, rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM);
	return 0;
}

/* A message has come, and so all before it have: what was stepped over was refused for want of room, and this is told in the end. */
static int pass(struct world *w, uint32_t partition, uint32_t *next, uint32_t number)
{
	CHECK(w, number < w->next_to[partition] && !w->refusals[partition][number]);
	for (; *next < number; ++*next) {
		CHECK(w, w->fills);
		w->passed[partition][*next] = true;
	}
	++*next;
	return 0;
}

/* All that is there; the rest was refused. */
static bool is_all(const struct world *w, uint32_t partition, uint32_t next)
{
	while (next < w->next_to[partition] && w->refusals[partition][next])
		next++;
	return next == w->next_to[partition];
}

static int take_some(struct world *w, uint32_t which)
{
	struct thmq_message m[16];
	int n = thmq_fetch(w->consumers[which], m, 16), i;
	uint32_t number;

	at = which ? "group" : "reader";
	CHECK(w, n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(w, m[i].len >= 4 && m[i].partition < PARTITIONS);
		memcpy(&number, m[i].data, 4);
		CHECK(w, number >= w->next_of[which][m[i].partition]); /* in order, each once */
		CHECK(w, !w->next_of[which][m[i].partition] || m[i].offset > w->offsets[which][m[i].partition]);
		if (pass(w, m[i].partition, &w->next_of[which][m[i].partition], number))
			return -1;
		w->offsets[which][m[i].partition] = m[i].offset;
		if (which)
			CHECK(w, thmq_ack(w->consumers[1], &m[i]) == 0);
	}
	CHECK(w, thmq_release(w->consumers[which], m, (uint32_t)n) == 0);
	return 0;
}

/* A call of one session holds up all others; and where nobody leads nobody is heard. */
static void note_silence(struct world *w)
{
	uint32_t i;

	w->was_silent |= w->stepped_ns && now(w) - w->stepped_ns > SILENCE_NS / 2;
	for (i = 0; i < BROKERS; i++)
		if (w->brokers[i] && atomic_load(&w->brokers[i]->leads))
			w->led_ns = now(w);
	w->was_silent |= now(w) - w->led_ns > SILENCE_NS / 2;
	w->stepped_ns = now(w);
}

static int join(struct world *w, struct thmq_session *session, struct thmq_consumer **ret)
{
	int rc = thmq_consumer_open(session, "t", "h", THMQ_CONSUMER_OPTS(.session_timeout_ns = SILENCE_NS, .prefetch_count = w->prefetch), ret);

	if (rc)
		*ret = NULL;
	return rc;
}

/* Some of it twice where a partition changes hands, and never less than all. */
static int take_by_members(struct world *w)
{
	struct thmq_message m[16];
	uint32_t which, number;
	int n, i, rc;

	at = "members";
	note_silence(w);
	for (which = 0; which < 2; which++) {
		if (!w->members[which] && !which && all_there(w)) {
			rc = join(w, w->session, &w->members[0]);
			CHECK(w, rc == 0 || rc == -THMQ_ENOQUORUM || rc == -ETIMEDOUT);
		}
		if (!w->members[which])
			continue;
		n = thmq_fetch(w->members[which], m, 16);
		if (n == -THMQ_EFENCED && w->was_silent) { /* it was put out for that, and joins anew */
			rc = thmq_consumer_close(w->members[which], 0);
			CHECK(w, rc == 0 || rc == -THMQ_EFENCED || rc == -ETIMEDOUT);
			w->members[which] = NULL;
			continue;
		}
		CHECK(w, n >= 0);
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, 4);
			CHECK(w, m[i].partition < PARTITIONS && number < w->next_to[m[i].partition]);
			if (number >= w->seen[m[i].partition] && pass(w, m[i].partition, &w->seen[m[i].partition], number))
				return -1;
			CHECK(w, thmq_ack(w->members[which], &m[i]) == 0);
		}
		CHECK(w, thmq_release(w->members[which], m, (uint32_t)n) == 0);
	}
	return 0;
}

/* Each at least once, and never again once it is stored that it is done. */
static int take_by_sharer(struct world *w)
{
	struct thmq_message m[8];
	int n = thmq_fetch(w->sharer, m, 8), i, rc;
	uint32_t number;

	at = "shared group";
	CHECK(w, n >= 0);
	for (i = 0; i < n; i++) {
		memcpy(&number, m[i].data, 4);
		CHECK(w, number < w->next_to[m[i].partition]);
		CHECK(w, !w->stored[m[i].partition][number]);
		w->came[m[i].partition][number] = true;
		if (!w->healed && chance(w, 5) == 0) {
			rc = thmq_nack(w->sharer, &m[i], chance(w, 50) * MS);
			CHECK(w, rc == 0 || rc == -EAGAIN);
		} else {
			rc = thmq_ack(w->sharer, &m[i]);
			CHECK(w, rc == 0 || rc == -EAGAIN || rc == -THMQ_EFENCED);
			w->acked[m[i].partition][number] |= rc == 0;
		}
	}
	CHECK(w, thmq_release(w->sharer, m, (uint32_t)n) == 0);
	if (chance(w, 12))
		return 0;
	at = "shared group, flush";
	rc = thmq_consumer_flush(w->sharer, chance(w, 2) * 20 * MS);
	CHECK(w, rc == 0 || rc == -ETIMEDOUT || rc == -THMQ_ENOQUORUM || rc == -THMQ_EFENCED || (w->fills && rc == -ENOSPC));
	for (uint32_t p = 0; p < PARTITIONS && rc != -ETIMEDOUT && rc != -THMQ_ENOQUORUM; p++)
		for (uint32_t k = 0; k < MESSAGES; k++) {
			w->stored[p][k] |= w->acked[p][k] && rc == 0;
			w->acked[p][k] = false;
		}
	return 0;
}

static bool shared_is_done(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint32_t p, k;

	for (p = 0; p < PARTITIONS; p++) {
		for (k = 0; k < w->next_to[p]; k++)
			if (!w->came[p][k] && !w->refusals[p][k])
				return false;
		if (thmq_partition_describe(w->session, "t", p, "s", &info) != 0 ||
		    (w->next_to[p] && info.group_offset != info.end_offset))
			return false;
	}
	return true;
}

static int member_moves(struct world *w)
{
	int rc;

	at = "a member comes or goes";
	if (!all_there(w))
		return 0;
	w->moves++;
	if (w->members[1]) {
		rc = thmq_consumer_close(w->members[1], 10 * SECOND); /* where nobody leads it is not stored */
		CHECK(w, rc == 0 || rc == -THMQ_EFENCED || rc == -ETIMEDOUT || rc == -THMQ_ENOQUORUM || (w->fills && rc == -ENOSPC));
		w->members[1] = NULL;
		return 0;
	}
	rc = join(w, w->other, &w->members[1]);
	CHECK(w, rc == 0 || rc == -THMQ_ENOQUORUM);
	return 0;
}

/* Whose power goes, or fails, could not be read any more; what was to be read comes later. */
static bool is_of_disk(const struct world *w, const struct thmq_event *e)
{
	uint32_t i;

	for (i = 0; i < BROKERS; i++)
		if (w->hurt_until[i])
			return e->type == THMQ_EVENT_ERROR && e->error == -EIO;
	return false;
}

static int take_events(struct world *w)
{
	struct thmq_event e;

	at = "events";
	while (thmq_events(w->other, &e, 1) == 1)
		CHECK(w, e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED ||
				 e.type == THMQ_EVENT_ASSIGNED || e.type == THMQ_EVENT_REVOKED ||
				 e.type == THMQ_EVENT_OFFSETRANGE || is_of_disk(w, &e));
	while (thmq_events(w->session, &e, 1) == 1) {
		if (is_of_disk(w, &e))
			continue;
		if (e.type == THMQ_EVENT_FAILED && e.error == -ENOSPC && w->fills && e.producer == w->filler) {
			w->filler_refused++;
			continue;
		}
		if (e.type == THMQ_EVENT_FAILED && e.error == -ENOSPC && w->fills && e.producer == w->producer) {
			CHECK(w, e.sequence && e.sequence <= w->sent);
			w->refusals[w->sent_as[e.sequence - 1].partition][w->sent_as[e.sequence - 1].number] = true;
			w->no_room++;
			continue;
		}
		if (e.type != THMQ_EVENT_SETTLED && e.type != THMQ_EVENT_DISCONNECTED &&
		    e.type != THMQ_EVENT_RECONNECTED && e.type != THMQ_EVENT_ASSIGNED &&
		    e.type != THMQ_EVENT_OFFSETRANGE && e.type != THMQ_EVENT_REVOKED && !quiet)
			fprintf(stderr, "event %u, error %d\n", e.type, e.error);
		CHECK(w, e.type == THMQ_EVENT_SETTLED || e.type == THMQ_EVENT_DISCONNECTED ||
				 e.type == THMQ_EVENT_RECONNECTED ||
				 e.type == THMQ_EVENT_ASSIGNED ||
				 e.type == THMQ_EVENT_OFFSETRANGE || e.type == THMQ_EVENT_REVOKED);
		w->settled += e.type == THMQ_EVENT_SETTLED;
		w->lost += e.type == THMQ_EVENT_DISCONNECTED;
	}
	CHECK(w, w->settled <= w->sent);
	return 0;
}

/* What is said of one is true for ever, also where the connection was lost before it was said. */
static int change_topic(struct world *w)
{
	uint32_t i = (uint32_t)chance(w, TOPICS);
	const bool create = !w->has_topic[i];
	char name[16];
	int rc;

	at = create ? "create a topic" : "delete a topic";
	if (!all_there(w) || w->unsure[i])
		return 0; /* a majority may be missing until this test brings one back */
	snprintf(name, sizeof(name), "topic%u", i);
	rc = create ? thmq_topic_create(
			      w->session, name,
			      THMQ_TOPIC_OPTS(.partition_count = 1 + (uint32_t)chance(w, 4)))
		    : thmq_topic_delete(w->session, name);
	if (rc == -THMQ_ENOQUORUM || (w->fills && rc == -ENOSPC)) /* it was not done */
		return 0;
	if (rc == -ETIMEDOUT) { /* it may be done yet */
		w->unsure[i] = true;
		return 0;
	}
	CHECK(w, rc == 0);
	w->has_topic[i] = create;
	w->topics++;
	return 0;
}

static int check_topics(struct world *w)
{
	struct thmq_topic_info infos[TOPICS + 3] = {{.size = sizeof(infos[0])}};
	bool found[TOPICS] = {false};
	int n, i;

	at = "topics";
	for (i = 0; i < (int)TOPICS + 3; i++)
		infos[i].size = sizeof(infos[i]);
	n = thmq_topic_list(w->session, infos, TOPICS + 3);
	CHECK(w, n >= 1 && n <= (int)TOPICS + 3);
	for (i = 0; i < n; i++)
		if (strncmp(infos[i].name, "topic", 5) == 0)
			found[infos[i].name[5] - '0'] = true;
	for (i = 0; i < (int)TOPICS; i++)
		CHECK(w, w->unsure[i] || found[i] == w->has_topic[i]);
	return 0;
}

#include "broker_copies_txn.h"

static int step(struct world *w)
{
	const uint64_t begun = now(w);

	note_silence(w);
	if (w->txns && txn_step(w, w->txns))
		return -1;
	if (w->admin && members_step(w, w->admin))
		return -1;
	if (tend(w) || check_copies(w) || check_reads(w) || (chance(w, 40) == 0 && change_topic(w)) ||
	    (chance(w, 60) == 0 && member_moves(w)) || take_by_members(w) || take_by_sharer(w) ||
	    send_some(w) || fill_some(w) ||
	    take_some(w, 0) || take_some(w, 1) || take_events(w))
		return -1;
	at = "a call waits for ever"; /* nobody is brought back while it does; but more than one at a time is not missing then */
	CHECK(w, now(w) - begun < 60 * SECOND);
	thmq_poll(w->env, chance(w, 2) ? 0 : chance(w, 4 * MS));
	return 0;
}

static bool is_done(const struct world *w)
{
	uint32_t i;

	for (i = 0; i < PARTITIONS; i++)
		if (!is_all(w, i, w->next_of[0][i]) || !is_all(w, i, w->next_of[1][i]) || !is_all(w, i, w->seen[i]))
			return false;
	return w->sent == MESSAGES && w->settled + w->no_room == MESSAGES;
}

static int begin(struct world *w)
{
	uint32_t i;

	at = "begin";
	CHECK(w, thmqi_disk_sim_open(w->seed, NULL, &w->room) == 0);
	for (i = 0; i < FIRST; i++)
		if (broker_new(w, i, false))
			return -1;
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20, .policy = THMQ_POLICY_EVENT),
				    thmqi_disk_sim_world(w->room), &w->env) == 0);
	w->core = thmqi_env_core(w->env, 0);
	w->net = (struct thmqi_poller){.poll = net_poll, .arm = net_arm, .name = "net"};
	w->net_timer.fire = on_net_timer;
	thmqi_core_add_poller(w->core, &w->net);
	for (i = 0; i < FIRST; i++)
		if (broker_up(w, i))
			return -1;
	at = "connect";
	CHECK(w, thmq_connect(w->env, w->admin ? ALL : "inproc://b1,inproc://b2,inproc://b3",
			      THMQ_SESSION_OPTS(.reconnect_ns = 1000 * SECOND, .window_count = 64,
						.timeout_ns = 1000 * SECOND),
			      &w->session) == 0);
	CHECK(w, thmq_topic_create(w->session, "t",
				   THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) == 0);
	CHECK(w,
	      thmq_producer_open(w->session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT),
				 &w->producer) == 0);
	if (w->seed % 8 == 0 || w->fills) {
		CHECK(w, thmq_topic_create(w->session, "fill", THMQ_TOPIC_OPTS(.retention_bytes = 2 * FILL_BYTES, .partition_count = 2)) == 0);
		CHECK(w, thmq_producer_open(w->session, "fill", NULL, &w->filler) == 0);
	}
	CHECK(w, thmq_consumer_open(w->session, "t", NULL, THMQ_CONSUMER_OPTS(.prefetch_count = w->prefetch), &w->consumers[0]) == 0);
	CHECK(w, thmq_consumer_open(w->session, "t", "g",
				    THMQ_CONSUMER_OPTS(.session_timeout_ns = 1000 * SECOND, .prefetch_count = w->prefetch),
				    &w->consumers[1]) == 0);
	CHECK(w, thmq_connect(w->env, w->admin ? ALL : "inproc://b3,inproc://b2",
			      THMQ_SESSION_OPTS(.reconnect_ns = 1000 * SECOND,
						.timeout_ns = 1000 * SECOND),
			      &w->other) == 0);
	CHECK(w, join(w, w->session, &w->members[0]) == 0);
	CHECK(w, thmq_consumer_open(w->other, "t", "s",
				    THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
						       .invisible_ns = 1000 * SECOND,
						       .prefetch_count = 16),
				    &w->sharer) == 0);
	if (w->admin && members_begin(w, w->admin))
		return -1;
	return w->txns ? txn_begin_side(w, w->txns) : 0;
}

static void count_moved(struct world *w)
{
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	uint32_t i, k;

	for (i = 0; i < BROKERS; i++)
		for (k = 1; w->brokers[i] && k < w->brokers[i]->shard_count; k++)
			if (w->brokers[i]->shards[k].log && thmq_log_stats(w->brokers[i]->shards[k].log, &stats) == 0)
				w->moved += stats.relocated_runs;
}

/* All of it is still there, in order, wherever it lies by now. */
static int read_again(struct world *w)
{
	uint32_t next[PARTITIONS] = {0}, got = w->no_room, number, tries = 0;
	struct thmq_consumer *reader;
	struct thmq_message m[16];
	int n, i;

	at = "read again";
	CHECK(w, thmq_consumer_open(w->session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .prefetch_count = w->prefetch), &reader) == 0);
	for (; got < MESSAGES && tries < 100000; tries++) {
		n = thmq_fetch(reader, m, 16);
		CHECK(w, n >= 0);
		for (i = 0; i < n; i++, got++) {
			memcpy(&number, m[i].data, 4);
			while (number > next[m[i].partition] && w->refusals[m[i].partition][next[m[i].partition]])
				next[m[i].partition]++;
			CHECK(w, number == next[m[i].partition]);
			next[m[i].partition]++;
		}
		CHECK(w, thmq_release(reader, m, (uint32_t)n) == 0);
		if (take_events(w))
			return -1;
		if (!n)
			thmq_poll(w->env, MS);
	}
	at = "read again";
	CHECK(w, got == MESSAGES);
	CHECK(w, thmq_consumer_close(reader, 100 * SECOND) == 0);
	return take_events(w);
}

static int check_refused(struct world *w)
{
	uint32_t p, k;

	at = "refused";
	for (p = 0; p < PARTITIONS; p++)
		for (k = 0; k < w->next_to[p]; k++) {
			CHECK(w, !w->passed[p][k] || w->refusals[p][k]);
			CHECK(w, !w->came[p][k] || !w->refusals[p][k]);
		}
	return 0;
}

static uint64_t led_ns_max; /* of all worlds */

static bool all_led(const struct world *w)
{
	uint32_t i, k;

	for (k = 0; k < SHARDS; k++) {
		for (i = 0; i < BROKERS && !(w->brokers[i] && w->brokers[i]->shards[k].lead && w->brokers[i]->shards[k].lead->serves); i++)
			;
		if (i == BROKERS)
			return false;
	}
	return true;
}

/* Nothing goes wrong any more: each group is led, by one that serves, whatever happened before; and that lasts no longer than disks may stand still, and some elections. */
static int check_led(struct world *w)
{
	const uint64_t begin = now(w);
	uint32_t i;

	at = "every group is led once the faults have ended";
	for (i = 0; (i < 200 || now(w) - begin < LED_NS) && !all_led(w); i++)
		if (step(w))
			return -1;
	at = "every group is led once the faults have ended";
	if (!all_led(w) && !quiet)
		for (i = 0; i < BROKERS * SHARDS; i++)
			if (group_of(w, i / SHARDS, i % SHARDS)) {
				struct thmqi_group_state s;

				thmqi_group_state(group_of(w, i / SHARDS, i % SHARDS), &s);
				fprintf(stderr, "broker %u, shard %u: role %u, term %llu, leader %llu, failed %d, last %llu, committed %llu\n", i / SHARDS + 1, i % SHARDS, s.role,
					(unsigned long long)s.term, (unsigned long long)s.leader, s.failed, (unsigned long long)s.last, (unsigned long long)s.committed);
			}
	CHECK(w, all_led(w));
	led_ns_max = THMQI_MAX(led_ns_max, now(w) - begin);
	return 0;
}

static int end(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t until;
	bool done;
	uint32_t i;
	int rc;

	w->healed = true;
	w->heal_at = 1;
	memset(w->back_at, 0, sizeof(w->back_at));
	if (tend(w)) /* the power may have gone just now, and what is asked waits for somebody who leads */
		return -1;
	if (check_led(w))
		return -1;
	until = now(w) + 20 * SECOND; /* a disk may stand still for some of it */
	for (i = 0; (i < 50000 || now(w) < until) && !is_done(w); i++)
		if (step(w))
			return -1;
	at = "end";
	if (!is_done(w) && !quiet) {
		fprintf(stderr, "sent %u, settled %u, %llu ms\n", w->sent, w->settled, (unsigned long long)(now(w) / MS));
		for (i = 0; i < PARTITIONS; i++)
			fprintf(stderr, "partition %u: %u sent, %u read, %u by the group\n", i,
				w->next_to[i], w->next_of[0][i], w->next_of[1][i]);
		tell_members(w, w->admin);
	}
	CHECK(w, is_done(w));
	until = now(w) + 20 * SECOND;
	/* looked at once: asked again it may be another leader's, who has to hear again what was acknowledged and not stored */
	for (i = 0; !(done = shared_is_done(w)) && (i < 20000 || now(w) < until); i++)
		if (step(w))
			return -1;
	at = "shared group, end";
	CHECK(w, done);
	until = now(w) + 30 * SECOND;
	for (i = 0; w->admin && (i < 20000 || now(w) < until) && !members_are_done(w, w->admin); i++)
		if (step(w))
			return -1;
	at = "what was asked of the brokers";
	if (w->admin && !members_are_done(w, w->admin) && !quiet)
		tell_members(w, w->admin);
	CHECK(w, !w->admin || members_are_done(w, w->admin));
	at = "end";
	rc = thmq_flush(w->producer, 100 * SECOND);
	CHECK(w, rc == 0 || (rc == -EIO && w->no_room));
	if (check_refused(w))
		return -1;
	until = now(w) + 20 * SECOND; /* a broker finds out in its own time that there is room again */
	while ((rc = thmq_consumer_flush(w->consumers[1], 100 * SECOND)) == -ENOSPC && w->fills && now(w) < until)
		if (step(w))
			return -1;
	CHECK(w, rc == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(w, thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
		CHECK(w, !w->next_of[1][i] || info.group_offset == w->offsets[1][i] + 1);
	}
	if ((w->txns && txn_end(w, w->txns)) || check_topics(w) || read_again(w) || check_all_equal(w))
		return -1;
	count_moved(w);
	at = "end";
	CHECK(w, !w->admin || thmq_session_close(w->admin->session, 100 * SECOND) == 0);
	rc = thmq_session_close(w->other, 100 * SECOND);
	CHECK(w, rc == 0 || (w->fills && rc == -ENOSPC)); /* of acknowledgements, then */
	rc = w->filler ? thmq_flush(w->filler, 100 * SECOND) : 0;
	CHECK(w, rc == 0 || rc == -EIO);
	if (take_events(w))
		return -1;
	at = "end";
	rc = thmq_session_close(w->session, 100 * SECOND);
	CHECK(w, rc == 0 || (rc == -EIO && (w->filler_refused || w->no_room)));
	return 0;
}

static void finish(struct world *w)
{
	struct packet *p;
	uint32_t i;

	/* what is under way comes to none of them any more: while one closes the others may be gone */
	for (i = 0; i < BROKERS; i++) {
		struct thmq_broker *b = w->brokers[i];

		w->brokers[i] = NULL;
		if (b)
			thmq_broker_close(b, 0);
	}
	if (w->core) {
		thmqi_timer_stop(w->core, &w->net_timer);
		thmqi_core_remove_poller(w->core, &w->net);
	}
	if (w->env)
		thmq_env_close(w->env, 0);
	while ((p = w->packets)) {
		w->packets = p->next;
		free(p);
	}
	thmqi_disk_sim_close(w->room);
}

static struct world sum; /* of what was counted in all of them */
static struct members_side members_sum;

static int live(uint64_t seed, const struct defect *defect)
{
	struct world *w = calloc(1, sizeof(*w));
	uint32_t i;
	int rc;

	if (!w)
		return -1;
	w->seed = seed;
	w->defect = defect;
	w->prefetch = 16u << seed % 3 * 2;
	w->fills = seed % 4 == 3;
	w->dying = BROKERS;
	w->txns = seed % 2 ? calloc(1, sizeof(*w->txns)) : NULL;
	w->admin = seed % 3 == 1 ? calloc(1, sizeof(*w->admin)) : NULL;
	thmqi_prng_seed(&w->prng, seed);
	rc = begin(w);
	for (i = 0; i < 600 && !rc && !is_done(w); i++) {
		rc = step(w);
		if (!rc && chance(w, 60) == 0)
			trouble(w);
	}
	if (!rc)
		rc = end(w);
	sum.lost += w->lost;
	sum.kills += w->kills;
	sum.cuts += w->cuts;
	sum.ills += w->ills;
	sum.fulls += w->fulls;
	sum.no_room += w->no_room + w->filler_refused;
	sum.topics += w->topics;
	sum.refused += w->refused;
	sum.moved += w->moved;
	sum.read += w->read;
	if (w->txns) {
		sum.txns_committed += w->txns->committed;
		sum.txns_aborted += w->txns->aborted;
		sum.txns_unknown += w->txns->unknown;
		sum.txns_prepared += w->txns->prepared;
	}
	if (w->admin) {
		members_sum.added += w->admin->added;
		members_sum.removed += w->admin->removed;
		members_sum.replaced += w->admin->replaced;
		members_sum.led += w->admin->led;
		members_sum.drained += w->admin->drained;
		members_sum.busy += w->admin->busy;
	}
	finish(w);
	free(w->admin);
	free(w->txns);
	free(w);
	return rc;
}

static const struct defect defects[] = {
	{.name = "a leader's own write commits", .group = THMQI_GROUP_EARLY_COMMIT, .seeds = 60},
	{.name = "a leader's own write commits, as clients see it", .group = THMQI_GROUP_EARLY_COMMIT, .seeds = 60, .clients = true},
	{.name = "ack before it is durable", .group = THMQI_GROUP_EARLY_ACK, .seeds = 60},
	{.name = "ack before it is durable, as clients see it", .group = THMQI_GROUP_EARLY_ACK, .seeds = 200, .clients = true},
	{.name = "forgotten vote", .group = THMQI_GROUP_FORGET_VOTE, .seeds = 200},
	{.name = "vote that is not flushed", .log = THMQI_LOG_PLAIN_VOTE, .seeds = 60},
	{.name = "lying flush", .disk = THMQI_DISK_SIM_LYING, .seeds = 60},
	{.name = "lying flush, as clients see it", .disk = THMQI_DISK_SIM_LYING, .seeds = 100, .clients = true},
};

/* Somebody must miss something, or a copy say what cannot be. */
static bool is_caught(const struct defect *defect)
{
	uint64_t seed;
	int rc = 0;

	quiet = true;
	for (seed = 1; seed <= defect->seeds && !rc; seed++)
		rc = live(seed, defect);
	quiet = false;
	if (rc)
		printf("%s: found by seed %llu, %s\n", defect->name, (unsigned long long)seed - 1, at);
	else
		fprintf(stderr, "%s: not found by %u seeds\n", defect->name, defect->seeds);
	return rc != 0;
}

static const struct defect *planted;

static int run(uint64_t seed)
{
	return live(seed, planted);
}

int main(int argc, char **argv)
{
	const bool small = getenv("THMQ_TEST_SMALL") != NULL;
	uint64_t done, failed;
	uint32_t i;

	mallopt(M_MMAP_THRESHOLD, 1 << 17); /* what is mostly never touched stays so, and is not zeroed seed after seed */
	mallopt(M_TRIM_THRESHOLD, 1 << 28);
	planted = argc > 3 ? &defects[strtoul(argv[3], NULL, 0) % THMQI_ARRAY_COUNT(defects)] : NULL;
	done = each_seed(argc, argv, small ? 10 : 1000, small ? 5000 : 50000, run, &failed);
	printf("%u times disconnected, %u kills, %u power cuts, %u disks failed and %u had no room, %u messages refused for that, %u topics made and deleted, %u messages refused, %llu runs "
	       "appended again, %llu looks at what is read without a majority; %u transactions committed, %u aborted, %u prepared, %u times not known at first; "
	       "%u brokers added, %u removed, %u of them lost, %u while they led; %u times another one was made to lead, %u drained; led again %llu ms after the last fault at most\n",
	       sum.lost, sum.kills, sum.cuts, sum.ills, sum.fulls, sum.no_room, sum.topics, sum.refused, (unsigned long long)sum.moved, (unsigned long long)sum.read,
	       sum.txns_committed, sum.txns_aborted, sum.txns_prepared, sum.txns_unknown,
	       members_sum.added, members_sum.removed, members_sum.replaced, members_sum.busy, members_sum.led, members_sum.drained,
	       (unsigned long long)(led_ns_max / MS));
	if (argc > 1)
		return failed != 0;
	for (i = 0; i < THMQI_ARRAY_COUNT(defects); i++)
		failed += !is_caught(&defects[i]);
	return failed || !done || !sum.lost || !sum.ills;
}
