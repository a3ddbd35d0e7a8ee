/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_copies_world.h - the world of broker_copies_sim_test.c: three brokers, and others that join, each with a disk of its own, and the network between
 * them, in one thread under virtual time; what happens to them, and how they come back.
 */
#ifndef BROKER_COPIES_WORLD_H
#define BROKER_COPIES_WORLD_H

#include "api/api.h"
#include "base/base.h"
#include "broker/carrier.h"
#include "commitlog/plant.h"
#include "disk/sim.h"
#include "copies/lead.h"
#include "seeds.h"

#define FIRST 3u   /* brokers at the beginning */
#define BROKERS 8u /* places for them: of each that joins another one */
#define PARTITIONS 3u
#define MESSAGES 300u
#define TOPICS 6u
#define SHARDS 3u /* meta, and two */
#define TERMS 4096u
#define PACKETS_MAX 400u
/* Where they come and go: a session learns who there is when it connects, and all of these may be gone when it has to again. */
#define ALL "inproc://b1,inproc://b2,inproc://b3,inproc://b4,inproc://b5,inproc://b6,inproc://b7,inproc://b8"
#define SILENCE_NS (5 * SECOND) /* of a member */

struct packet {
	struct packet *next; /* by due */
	uint64_t due;
	uint32_t from, to;
	struct thmqi_message message;
	uint8_t batch[];
};

/* A copy of a shard. */
struct copy_seen {
	uint64_t durable, committed;
	uint64_t kept; /* what must be there when it is opened again; 0: not known */
};

/* What is planted, for a test that must be able to fail. */
struct defect {
	const char *name;
	uint32_t group, log, disk; /* THMQI_GROUP_*, THMQI_LOG_*, THMQI_DISK_SIM_* */
	uint32_t seeds;	      /* to find it with */
	bool clients;	      /* who finds it are clients: copies are not looked at */
};

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *room, *disks[BROKERS]; /* the time of all; each broker's own disk */
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmqi_poller net;
	struct thmqi_timer net_timer;
	struct packet *packets;
	uint32_t packet_count;
	uint64_t last_due[BROKERS][BROKERS];
	bool cut[BROKERS][BROKERS], healed;
	struct thmqi_carrier carriers[BROKERS];
	const struct defect *defect; /* planted; NULL: none */
	struct thmq_broker *brokers[BROKERS];
	bool used[BROKERS], was_used[BROKERS], joins[BROKERS]; /* a broker is there, or should be */
	bool dead[BROKERS];				       /* and its disk is lost for good */
	uint64_t leaves_at[BROKERS];			       /* it was removed; 0: not */
	char lists[BROKERS][BROKERS * 16];		       /* whom it knows at first */
	uint64_t back_at[BROKERS], heal_at;
	uint64_t hurt_until[BROKERS]; /* its disk did something that it may fail by, if not at once */
	uint32_t dying;   /* it is being killed; BROKERS: none */
	uint32_t sick;	  /* whose disk has errors, or no room: one at a time, so that a majority is left */
	uint64_t well_at; /* then it is mended, and its broker opened anew */
	bool fills;	  /* disks get full too, and messages are refused */
	struct copy_seen copies[BROKERS][SHARDS]; /* as they were when they were looked at last */
	uint8_t leader_of[SHARDS][TERMS];	  /* node */
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumers[2];
	uint32_t prefetch; /* of each */
	/* a group of two members, each of a session of its own, one of which comes and goes */
	struct thmq_session *other;
	struct thmq_consumer *members[2];
	uint32_t seen[PARTITIONS], moves; /* by any of them: next one */
	uint64_t stepped_ns, led_ns; /* when that was looked at last; when somebody led then */
	bool was_silent; /* for so long that a member may have been given up */
	/* a shared group: what came; what was acknowledged since the last flush; what of that is stored */
	struct thmq_consumer *sharer;
	bool came[PARTITIONS][MESSAGES], acked[PARTITIONS][MESSAGES], stored[PARTITIONS][MESSAGES];
	struct {
		uint32_t partition, number;
	} sent_as[MESSAGES];
	bool refusals[PARTITIONS][MESSAGES], passed[PARTITIONS][MESSAGES]; /* it was refused, for want of room; somebody got what is behind it and not it */
	uint32_t no_room, filler_refused;
	uint32_t sent, settled, lost, kills, cuts, ills, fulls, topics, refused;
	struct thmq_producer *filler; /* NULL: segments do not fill */
	uint64_t moved; /* runs that were appended again */
	uint64_t read; /* looks at shards that nobody leads, and that are read */
	bool has_topic[TOPICS], unsure[TOPICS]; /* beside "t" */
	uint32_t next_to[PARTITIONS], next_of[2][PARTITIONS];
	uint64_t offsets[2][PARTITIONS];
	struct members_side *admin; /* NULL: the same brokers all the time */
	struct txn_side *txns; /* NULL: none in this world */
	uint32_t txns_committed, txns_aborted, txns_prepared, txns_unknown;
};

static uint64_t chance(struct world *w, uint64_t below)
{
	return thmqi_prng_below(&w->prng, below);
}

static uint64_t now(struct world *w)
{
	return thmqi_disk_sim_now(w->room);
}

/* One of its shards has failed: only opening it anew helps. */
static bool is_ill(const struct world *w, uint32_t i)
{
	return w->brokers[i] && atomic_load(&w->brokers[i]->ill);
}

static bool is_sick(const struct world *w, uint32_t i)
{
	return !w->healed && i == w->sick && thmqi_disk_sim_now(w->room) < w->well_at;
}

/* It is one of those that keep the data, or is to be. */
static bool is_counted(const struct world *w, uint32_t i)
{
	return w->used[i] && !w->leaves_at[i];
}

/* A call that waits for a majority has one: at most one of them fails before the test looks after it. */
static bool all_there(const struct world *w)
{
	uint32_t i;

	for (i = 0; i < BROKERS; i++)
		if (is_counted(w, i) && (!w->brokers[i] || is_ill(w, i) || thmqi_disk_sim_is_down(w->disks[i])))
			return false;
	return true;
}

static uint32_t some_broker(struct world *w)
{
	uint32_t i;

	do
		i = (uint32_t)chance(w, BROKERS);
	while (!w->used[i]);
	return i;
}

/* broker_copies_checks.h */
static void note_copies(struct world *w, uint32_t i, bool ends);
static int check_kept(struct world *w, uint32_t i);

/* ------------------------------------------------------------------ network */

static void add(struct world *w, uint32_t from, uint32_t to, const struct thmqi_message *m,
		const struct thmqi_buf *buf, uint64_t due)
{
	uint32_t bytes = buf ? m->batch_bytes : 0;
	struct packet *p = malloc(sizeof(*p) + bytes), **place = &w->packets;

	if (!p)
		abort();
	p->due = due;
	p->from = from;
	p->to = to;
	p->message = *m;
	if (bytes)
		memcpy(p->batch, buf->data, bytes);
	while (*place && (*place)->due <= due)
		place = &(*place)->next;
	p->next = *place;
	*place = p;
	w->packet_count++;
}

static int on_send(void *ctx, struct thmq_broker *from, const char *address,
		   const struct thmqi_message *message, struct thmqi_buf *buf)
{
	struct world *w = ctx;
	uint32_t a = (uint32_t)message->from - 1, b = (uint32_t)message->to - 1;
	uint64_t due = now(w) + 20000 + chance(w, 100000);

	(void)from, (void)address;
	if (w->packet_count >= PACKETS_MAX)
		return -EAGAIN;
	if (a == w->dying) /* what its close does was not, for all others */
		return 0;
	if (!w->healed && chance(w, 40) == 0)
		return 0; /* lost */
	if (!w->healed && chance(w, 50) == 0)
		due += chance(w, 60 * MS);
	else
		due = w->last_due[a][b] = THMQI_MAX(due, w->last_due[a][b] + 1);
	add(w, a, b, message, buf, due);
	if (!w->healed && chance(w, 60) == 0)
		add(w, a, b, message, buf, due + chance(w, 30 * MS));
	return 0;
}

/* False: it has to wait. */
static bool deliver(struct world *w, const struct packet *p)
{
	struct thmq_broker *to = w->brokers[p->to];
	struct thmqi_buf *buf = NULL;
	int rc;

	if (!to || w->cut[p->from][p->to] || p->from == w->dying || p->to == w->dying)
		return true;
	if (p->message.batch_bytes) {
		if (thmqi_buf_alloc(w->core->pool, p->message.batch_bytes, &buf) != 0)
			return false;
		memcpy(buf->data, p->batch, p->message.batch_bytes);
	}
	rc = thmqi_broker_receive(to, &p->message, buf);
	if (rc && buf)
		thmqi_buf_unref(buf);
	return rc != -EAGAIN;
}

static void on_net_timer(struct thmqi_timer *t)
{
	(void)t;
}

/* Also while the session waits in a call. */
static void heal(struct world *w)
{
	if (w->heal_at && (w->healed || now(w) >= w->heal_at)) {
		memset(w->cut, 0, sizeof(w->cut));
		w->heal_at = 0;
	}
}

static int net_poll(struct thmqi_poller *poller, uint32_t budget)
{
	struct world *w = thmqi_container(poller, struct world, net);
	struct packet *p;
	int done = 0;

	(void)budget;
	heal(w);
	while ((p = w->packets) && p->due <= w->core->now_ns) {
		w->packets = p->next;
		if (!deliver(w, p)) {
			p->due = w->core->now_ns + 50000;
			p->next = w->packets;
			w->packets = p;
			break;
		}
		w->packet_count--;
		free(p);
		done++;
	}
	if (w->packets)
		thmqi_timer_start(w->core, &w->net_timer, w->packets->due);
	return done;
}

static bool net_arm(struct thmqi_poller *poller)
{
	struct world *w = thmqi_container(poller, struct world, net);

	if (w->packets)
		thmqi_timer_start(w->core, &w->net_timer, w->packets->due);
	return false;
}

/* ------------------------------------------------------------------- brokers */

static int broker_up(struct world *w, uint32_t i)
{
	bool sick = is_sick(w, i); /* when it begins */
	char dir[32], name[16];
	int rc;

	at = "open";
	snprintf(dir, sizeof(dir), "data%u", i + 1);
	snprintf(name, sizeof(name), "b%u", i + 1);
	w->carriers[i] = (struct thmqi_carrier){.send = on_send, .ctx = w};
	if (w->defect) {
		w->carriers[i].defects = w->defect->group;
		w->carriers[i].log_defects = w->defect->log;
	}
	w->back_at[i] = 0;
	rc = thmqi_api_broker_open(w->env,
				   THMQ_BROKER_OPTS(.data_dir = dir, .name = name, .shard_count = 2,
						    .flags = w->joins[i] ? THMQ_BROKER_JOIN : 0,
						    .segment_bytes = 1u << 20,
						    .batch_bytes = 64u << 10,
						    .cache_bytes = 1u << 20,
						    .cluster = w->lists[i],
						    .cluster_name = "sim", .node_id = i + 1,
						    .heartbeat_ms = 10, .election_ms = 50),
				   &w->carriers[i], &w->brokers[i]);
	if (rc == -EBUSY || (sick && (rc == -EIO || rc == -ENOSPC))) { /* or the disk stands still, and has writes of the life before */
		w->brokers[i] = NULL;
		w->back_at[i] = now(w) + 20 * MS;
		return 0;
	}
	CHECK(w, rc == 0);
	return check_kept(w, i);
}

/* Those that there are now, or begin together. */
static void list_of(const struct world *w, char *ret, size_t size)
{
	size_t len = 0;
	uint32_t i;

	for (i = 0; i < BROKERS; i++)
		if (w->env ? is_counted(w, i) : i < FIRST)
			len += (size_t)snprintf(ret + len, size - len, "%s%u=inproc://b%u", len ? "," : "", i + 1, i + 1);
}

/* With a disk of its own. */
static int broker_new(struct world *w, uint32_t i, bool joins)
{
	const struct thmqi_disk_sim_opts disk = {.flags = w->defect ? w->defect->disk : 0};
	char dir[16];

	snprintf(dir, sizeof(dir), "data%u", i + 1);
	CHECK(w, thmqi_disk_sim_open_beside(w->room, dir, w->seed * 16 + i + 1, &disk, &w->disks[i]) == 0);
	w->used[i] = w->was_used[i] = true;
	w->joins[i] = joins;
	list_of(w, w->lists[i], sizeof(w->lists[i]));
	return w->env ? broker_up(w, i) : 0;
}

/* It is not heard of any more; what it has written stays. */
static void kill_broker(struct world *w, uint32_t i)
{
	struct thmq_broker *b = w->brokers[i];

	if (!b)
		return;
	note_copies(w, i, true);
	w->dying = i; /* nothing goes to it or comes from it */
	thmq_broker_close(b, 0);
	w->dying = BROKERS;
	w->brokers[i] = NULL;
	w->back_at[i] = w->healed ? 0 : now(w) + chance(w, 300) * MS;
	w->kills++;
}

/* The power of one goes, or of all at the same time. */
static void power_cut(struct world *w, uint32_t from, uint32_t to)
{
	uint32_t i;

	for (i = from; i < to; i++)
		if (w->used[i])
			thmqi_disk_sim_crash(w->disks[i]); /* unless it went in the middle of a write */
	for (i = from; i < to; i++) {
		if (!w->used[i])
			continue;
		kill_broker(w, i);
		w->back_at[i] = now(w) + chance(w, 100) * MS;
		thmqi_disk_sim_restart(w->disks[i]);
	}
	w->cuts++;
}

static void fault(struct world *w, uint32_t i, uint8_t opcode, uint8_t effect, uint64_t nth, uint64_t repeat, int64_t arg)
{
	thmqi_disk_sim_fault_add(w->disks[i], &(struct thmqi_disk_sim_fault){.opcode = opcode, .effect = effect, .nth = nth, .repeat = repeat, .arg = arg});
}

static void mend_disk(struct world *w, uint32_t i)
{
	thmqi_disk_sim_faults_clear(w->disks[i]);
	thmqi_disk_sim_cut_at(w->disks[i], 0, 0);
	thmqi_disk_sim_set_capacity(w->disks[i], 0);
}

static void trouble_of_disks(struct world *w)
{
	uint32_t i = some_broker(w), k;
	struct thmqi_disk_sim_stats stats;

	switch (chance(w, w->fills ? 12 : 6)) {
	case 0: /* longer than a close waits: one, or all */
	case 1:
		for (k = 0; k < BROKERS; k++)
			if (w->used[k] && (k == i || chance(w, 4) == 0))
				fault(w, k, THMQI_DISK_WRITE, THMQI_DISK_SIM_STALL, 1 + chance(w, 8), chance(w, 3), (int64_t)(chance(w, 2500) * MS));
		return;
	case 2: /* each change takes so much longer, for some time */
		fault(w, i, THMQI_DISK_SIM_ANY_CHANGE, THMQI_DISK_SIM_STALL, 1, 20 + chance(w, 200), (int64_t)(chance(w, 10) * MS));
		return;
	default:
		break;
	}
	if (!all_there(w) || now(w) < w->well_at)
		return;
	mend_disk(w, w->sick); /* nobody may have looked after it since it was to be well */
	w->sick = i;
	w->hurt_until[i] = UINT64_MAX;
	w->well_at = now(w) + chance(w, 600) * MS;
	switch (chance(w, w->fills ? 6 : 3)) {
	case 0: /* the power goes in the middle of a write */
		thmqi_disk_sim_cut_at(w->disks[i], 1 + chance(w, 60), THMQI_DISK_SIM_CRASH_SEEDED);
		break;
	case 1:
		fault(w, i, THMQI_DISK_WRITE, THMQI_DISK_SIM_ERROR, 1 + chance(w, 30), chance(w, 3), 0);
		break;
	case 2:
		fault(w, i, chance(w, 2) ? THMQI_DISK_FLUSH : THMQI_DISK_SIM_ANY_CHANGE, THMQI_DISK_SIM_ERROR, 1 + chance(w, 10), 0, 0);
		break;
	default:
		thmqi_disk_sim_stats(w->disks[i], &stats);
		thmqi_disk_sim_set_capacity(w->disks[i], stats.bytes + chance(w, chance(w, 2) ? 1u << 20 : 4096));
		w->well_at += chance(w, 2000) * MS;
		w->fulls++;
		break;
	}
}

static void trouble(struct world *w)
{
	uint32_t i, k;

	switch (chance(w, 14)) {
	case 11: /* somebody sets the clock */
		thmqi_disk_sim_set_clock(w->room, (int64_t)(chance(w, 7200) * SECOND) - 3600 * (int64_t)SECOND);
		break;
	case 10:
		i = some_broker(w);
		power_cut(w, i, i + 1);
		break;
	case 9: /* each for itself, for so long that what is committed is read all the same */
		memset(w->cut, true, sizeof(w->cut));
		w->heal_at = now(w) + (600 + chance(w, 600)) * MS;
		break;
	case 13:
	case 12:
	case 8:
	case 7:
		trouble_of_disks(w);
		break;
	case 0:
		power_cut(w, 0, BROKERS);
		break;
	case 1:
	case 2:
	case 3:
		kill_broker(w, some_broker(w));
		break;
	case 4:
		w->cut[some_broker(w)][some_broker(w)] = true;
		w->heal_at = now(w) + chance(w, 500) * MS;
		break;
	default: /* mostly the leader */
		for (i = 0; i + 1 < BROKERS &&
			    (!w->brokers[i] || thmq_broker_leader(w->brokers[i], NULL) != 1);
		     i++)
			;
		for (k = 0; k < BROKERS; k++)
			w->cut[i][k] = w->cut[k][i] = true;
		w->heal_at = now(w) + chance(w, 500) * MS;
		break;
	}
}

/* Who lost power comes back, who failed is opened anew, and what was planted goes once all is to go well. */
static int tend(struct world *w)
{
	uint32_t i;

	heal(w);
	at = "a shard failed";
	for (i = 0; i < BROKERS; i++) {
		if (!w->used[i])
			continue;
		if (thmqi_disk_sim_is_down(w->disks[i]))
			power_cut(w, i, i + 1);
		CHECK(w, !is_ill(w, i) || now(w) < w->hurt_until[i]);
		if (w->healed || (i == w->sick && now(w) >= w->well_at)) {
			mend_disk(w, i);
			/* what it had begun may have stood still, and is heard of later */
			w->hurt_until[i] = THMQI_MIN(w->hurt_until[i], now(w) + 5 * SECOND);
		}
		if (is_ill(w, i) && !is_sick(w, i)) {
			kill_broker(w, i);
			w->ills++;
		}
		if (!w->brokers[i] && !w->dead[i] && now(w) >= w->back_at[i] && broker_up(w, i))
			return -1;
	}
	if (w->healed)
		thmqi_disk_sim_set_clock(w->room, 0);
	return 0;
}

#endif
