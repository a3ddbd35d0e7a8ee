/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replication under everything: clusters of three and five copies, from seeds, with crashes between any two duties and in the middle
 * of any write, cuts of the network, lost, late, doubled and damaged messages, leaders that hand over. After each the faults end,
 * and all must go on. A seed replays exactly. With a defect planted the same checks must find it.
 *
 * usage: replica_sim_test [first seed [count [plant]]]; THMQ_TEST_FULL=1 runs many more: several processes may each do some of them.
 */
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "replica_world.h"

#define LENGTH_NS (1200 * MS)
#define HEAL_NS (4 * SECOND)
#define CHILD_SECONDS 60u

/* --------------------------------------------------------------------- chaos */

static struct node *some_node(struct world *w)
{
	return &w->node[1 + chance(w, w->places)];
}

static void mend(struct world *w)
{
	for (uint32_t i = 1; i <= w->places; i++)
		for (uint32_t k = 1; k <= w->places; k++)
			w->link[i][k].cut = false;
}

static void isolate(struct world *w, uint32_t a)
{
	mend(w);
	for (uint32_t i = 1; i <= w->places; i++)
		w->link[a][i].cut = w->link[i][a].cut = true;
}

/* One node alone, or one way between two, or both. */
static void cut(struct world *w)
{
	uint32_t a = some_node(w)->number, b = some_node(w)->number;

	if (chance(w, 2)) {
		isolate(w, a);
		return;
	}
	mend(w);
	w->link[a][b].cut = true;
	w->link[b][a].cut = chance(w, 2);
}

static void power_cut_of_all(struct world *w)
{
	for (uint32_t i = 1; i <= w->places; i++)
		if (w->node[i].up)
			node_crash(&w->node[i], chance(w, 50) * MS);
}

static void stall(struct world *w, struct node *n, uint64_t times, uint64_t ns)
{
	const struct thmqi_disk_sim_fault f = {.opcode = THMQI_DISK_SIM_ANY_CHANGE,
					       .effect = THMQI_DISK_SIM_STALL,
					       .nth = 1,
					       .repeat = times,
					       .arg = (int64_t)ns};

	(void)w;
	thmqi_disk_sim_fault_add(n->sim, &f);
}

/* Elections while term and vote are slow to be stored, and copies that die meanwhile. */
static void fault_of_votes(struct world *w)
{
	struct node *n = some_node(w), *leader = world_leader(w);

	switch (chance(w, 6)) {
	case 0:
		if (leader)
			node_crash(leader, chance(w, 60) * MS);
		break;
	case 1:
	case 2:
		for (uint32_t i = 1; i <= w->nodes; i++)
			stall(w, &w->node[i], chance(w, 4), chance(w, 20) * MS);
		if (leader)
			isolate(w, leader->number);
		break;
	case 3:
	case 4:
		if (n->up)
			node_crash(n, chance(w, 10) * MS);
		break;
	default:
		mend(w);
	}
}

static void plant(struct node *n, uint8_t opcode, uint64_t nth)
{
	thmqi_disk_sim_fault_add(n->sim, &(struct thmqi_disk_sim_fault){.opcode = opcode,
									.effect = THMQI_DISK_SIM_ERROR,
									.nth = nth});
}

/* One disk at a time does not do what it was told. */
static void lie(struct world *w, struct node *n)
{
	static const uint8_t lies[] = {THMQI_DISK_SIM_LOST, THMQI_DISK_SIM_MISDIRECT, THMQI_DISK_SIM_CORRUPT};

	for (uint32_t i = 1; i <= w->places; i++)
		if (w->node[i].struck || w->node[i].lies_in || w->node[i].dead)
			return;
	if (!n->up)
		return;
	n->lie = lies[chance(w, THMQI_ARRAY_COUNT(lies))];
	n->lies_in = 1 + chance(w, 60);
}

static void fault_of_disks(struct world *w)
{
	struct node *n = some_node(w);
	struct thmqi_disk_sim_stats s;

	switch (chance(w, 6)) {
	case 0:
	case 1: /* an error; whoever has it fails, and is opened anew */
		n->disk_bad = true;
		n->mend_at = w->now + chance(w, 400) * MS;
		plant(n, chance(w, 3) ? THMQI_DISK_WRITE : THMQI_DISK_SIM_ANY_CHANGE, 1 + chance(w, 40));
		break;
	case 2:
		n->disk_bad = true;
		n->mend_at = w->now + chance(w, 200) * MS;
		plant(n, chance(w, 2) ? THMQI_DISK_FLUSH : THMQI_DISK_SIM_ANY_OP, 1 + chance(w, 10));
		break;
	case 3: /* no room */
		n->disk_bad = true;
		n->mend_at = w->now + chance(w, 400) * MS;
		thmqi_disk_sim_stats(n->sim, &s);
		thmqi_disk_sim_set_capacity(n->sim, s.bytes + 1 + chance(w, 1u << 20));
		break;
	case 4: /* it is slow for some time */
		stall(w, n, 20 + chance(w, 200), chance(w, 5) * MS);
		break;
	default:
		lie(w, n);
		break;
	}
}

/* A machine that was asleep, a process that was stopped, somebody who sets the time. */
static void fault_of_clocks(struct world *w)
{
	struct node *n = some_node(w);

	switch (chance(w, 3)) {
	case 0:
		if (n->up) {
			n->stands_until = w->now + chance(w, 400) * MS;
			w->count.stops++;
		}
		break;
	case 1:
		n->offset += chance(w, 3 * SECOND);
		if (n->up)
			thmqi_disk_sim_advance(n->sim, w->now + n->offset - THMQI_MIN(w->now + n->offset, thmqi_disk_sim_now(n->sim)));
		break;
	default:
		thmqi_disk_sim_set_clock(n->sim, (int64_t)chance(w, 7200 * SECOND) - 3600 * (int64_t)SECOND);
		break;
	}
}

static void fault(struct world *w)
{
	struct node *n = some_node(w), *leader = world_leader(w);

	if (w->plan->disks && chance(w, 2)) {
		fault_of_disks(w);
		return;
	}
	switch (chance(w, 14)) {
	case 13:
		fault_of_disks(w);
		break;
	case 12:
		fault_of_clocks(w);
		break;
	case 0:
		cut(w);
		break;
	case 1:
		if (leader)
			isolate(w, leader->number);
		break;
	case 2:
	case 3:
		mend(w);
		break;
	case 4:
		if (n->up)
			node_crash(n, chance(w, 200) * MS);
		break;
	case 5:
		if (leader)
			node_crash(leader, chance(w, 200) * MS);
		break;
	case 6: /* in the middle of a write to come */
		if (n->up)
			thmqi_disk_sim_cut_at(n->sim, 1 + chance(w, 40),
					      THMQI_DISK_SIM_CRASH_SEEDED);
		break;
	case 7:
	case 8: /* between two duties to come */
		if (n->up)
			n->dies_in = 1 + chance(w, 200);
		break;
	case 9:
		if (chance(w, 3) == 0)
			power_cut_of_all(w);
		break;
	case 10:
		stall(w, n, chance(w, 5), chance(w, 100) * MS);
		break;
	default:
		if (leader && thmqi_group_transfer(leader->group, 0) == 0)
			w->count.transfers++;
		break;
	}
}

static void write_some(struct world *w)
{
	uint32_t burst = chance(w, 20) == 0 ? 40 : (uint32_t)(1 + chance(w, 4)), i, k;

	if (!w->healed && w->next_id > IDS_MAX / 4 * 3)
		return; /* the model needs some for the end */
	/* whoever thinks that he leads gets some: one that was deposed must not keep them */
	for (i = 1; i <= w->places; i++)
		for (k = 0; k < burst && w->node[i].up && w->node[i].stands_until <= w->now; k++)
			if (node_append(&w->node[i]) != 0)
				break;
}

/* ---------------------------------------------------------------------- heal */

static void heal(struct world *w)
{
	w->healed = true;
	mend(w);
	for (uint32_t i = 1; i <= w->places; i++) {
		struct node *n = &w->node[i];

		if (!n->used)
			continue;
		n->dies_in = 0;
		node_mend(n);
		n->stands_until = THMQI_MIN(n->stands_until, w->now);
		if (!n->up && !n->dead)
			n->restart_at = w->now;
	}
}

static bool all_have(struct world *w, uint64_t index)
{
	for (uint32_t i = 1; i <= w->places; i++)
		if (!w->node[i].dead && is_served(w, &w->node[i]) && (!w->node[i].up || w->node[i].committed < index))
			return false;
	return true;
}

static void tell_nodes(struct world *w)
{
	struct thmqi_group_state s;

	for (uint32_t i = 1; i <= w->places; i++) {
		const struct node *n = &w->node[i];

		fprintf(stderr, "node %u (%llu): used %d, up %d, member %d, served %d, struck %d, dead %d, disk bad %d, known %llu",
			i, (unsigned long long)n->id, n->used, n->up, is_member(w, n), is_served(w, n), n->struck, n->dead,
			n->disk_bad, (unsigned long long)n->known);
		if (n->up) {
			thmqi_group_state(n->group, &s);
			fprintf(stderr, ": role %u, term %llu, leader %llu, failed %d, last %llu, durable %llu, committed %llu", s.role,
				(unsigned long long)s.term, (unsigned long long)s.leader, s.failed, (unsigned long long)s.last,
				(unsigned long long)s.durable, (unsigned long long)s.committed);
			fprintf(stderr, ", members at %llu (%d):", (unsigned long long)s.members_index, s.members_committed);
			for (uint32_t k = 0; k < thmqi_group_members(n->group)->count; k++)
				fprintf(stderr, " %llu/%u", (unsigned long long)thmqi_group_members(n->group)->list[k].id,
					thmqi_group_members(n->group)->list[k].role);
		}
		fputc('\n', stderr);
	}
}

/* Something new is committed, and then everything is everywhere. */
static void check_liveness(struct world *w)
{
	uint64_t end = w->now + HEAL_NS, acked = w->acked_count;

	while (w->acked_count < acked + 20 && w->now < end) {
		write_some(w);
		members_step(w);
		world_run(w, w->now + 2 * MS);
	}
	if (w->acked_count < acked + 20)
		tell_nodes(w);
	if (w->acked_count < acked + 20)
		world_fail(w, world_leader(w), "nothing is committed once the faults have ended",
			   w->acked_count - acked);
	while ((!world_leader(w) || !all_have(w, w->committed_count)) && w->now < end)
		world_run(w, w->now + 5 * MS);
	if (!all_have(w, w->committed_count))
		tell_nodes(w);
	if (!all_have(w, w->committed_count))
		world_fail(w, world_leader(w), "a copy does not catch up", w->committed_count);
}

/* All that was written is on the devices, however slow these were. */
static void rest(struct world *w)
{
	uint64_t end = w->now + HEAL_NS;
	struct node *slow;

	do {
		world_run(w, w->now + 20 * MS);
		slow = NULL;
		for (uint32_t i = 1; i <= w->places; i++)
			if (w->node[i].up &&
			    thmqi_log_durable(thmqi_group_log(w->node[i].group)) <
				    thmqi_log_last(thmqi_group_log(w->node[i].group)))
				slow = &w->node[i];
	} while ((slow || !world_leader(w)) && w->now < end);
	if (slow)
		world_fail(w, slow, "its writes do not end", 0);
}

/* Return: what happened, as one number. */
static uint64_t live(const struct plan *plan, uint64_t seed, bool tell)
{
	static struct world w;
	uint64_t end, next_fault;

	world_open(&w, plan, seed);
	end = w.now + LENGTH_NS;
	next_fault = w.now + 150 * MS;
	while (w.now < end) {
		write_some(&w);
		if (chance(&w, 4) == 0)
			members_step(&w);
		if (chance(&w, 40) == 0)
			trim_step(&w);
		world_run(&w, w.now + 100000 + (plan->busy ? 0 : chance(&w, 6 * MS)));
		if (w.now >= next_fault) {
			(plan->votes ? fault_of_votes : fault)(&w);
			next_fault = w.now + chance(&w, (plan->votes ? 40 : 100) * MS);
		}
	}
	heal(&w);
	check_liveness(&w);
	rest(&w);
	check_bytes(&w);
	check_messages(&w);
	world_close(&w);
	if (tell)
		printf("seed %llu: %u nodes, %llu elections, %llu crashes, %llu messages (%llu "
		       "damaged), %llu truncations, %llu transfers, "
		       "%llu joined, %llu left, %llu trims, %llu resets, %llu failures, %llu lies, "
		       "%llu replaced, %llu stops, %llu batches, %u "
		       "acknowledged, %llu windows, trace %016llx\n",
		       (unsigned long long)seed, w.nodes, (unsigned long long)w.count.elections,
		       (unsigned long long)w.count.crashes, (unsigned long long)w.count.packets,
		       (unsigned long long)w.count.damaged, (unsigned long long)w.count.truncations,
		       (unsigned long long)w.count.transfers, (unsigned long long)w.count.joins,
		       (unsigned long long)w.count.leaves, (unsigned long long)w.count.trims,
		       (unsigned long long)w.count.resets, (unsigned long long)w.count.failures,
		       (unsigned long long)w.count.lies, (unsigned long long)w.count.replaced,
		       (unsigned long long)w.count.stops, (unsigned long long)w.committed_count,
		       w.acked_count, (unsigned long long)w.count.windows,
		       (unsigned long long)w.trace);
	return w.trace;
}

/* ------------------------------------------------------------------ children */

/* Most seeds have some of everything. */
static const struct plan sound = {.name = "sound"},
			 sound_votes = {.name = "sound, elections", .votes = true},
			 sound_busy = {.name = "sound, busy", .busy = true},
			 sound_disks = {.name = "sound, disks", .disks = true};

static const struct plan *sound_of(uint64_t seed)
{
	return seed % 8 == 5 ? &sound_votes : seed % 16 == 6 ? &sound_busy : seed % 4 == 0 ? &sound_disks : &sound;
}

static volatile uint64_t *current; /* seed, in memory that is shared */

static _Noreturn void live_all(const struct plan *plan, uint64_t first, uint64_t end, bool silent)
{
	if (silent && !freopen("/dev/null", "w", stderr))
		_exit(1);
	for (*current = first; *current < end; ++*current) {
		setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = CHILD_SECONDS}, NULL); /* of processor time: others may have the machine */
		live(plan ? plan : sound_of(*current), *current, false);
	}
	_exit(0);
}

/* In a process of their own, so that one that fails harms no other. Return: the first that was a violation, or crashed; @end none. */
static uint64_t live_apart(const struct plan *plan, uint64_t first, uint64_t end, bool silent)
{
	int status;
	pid_t pid;

	fflush(NULL);
	*current = first;
	pid = fork();
	if (pid < 0)
		return first;
	if (pid == 0)
		live_all(plan, first, end, silent);
	if (waitpid(pid, &status, 0) != pid)
		return first;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return end;
	if (!silent && WIFSIGNALED(status))
		fprintf(stderr, "seed %llu (%s): signal %d\n", (unsigned long long)*current, (plan ? plan : sound_of(*current))->name,
			WTERMSIG(status));
	return *current;
}

/* B2, B8, B9 and B11 to B16 are seen in tests/unit/replica_engine_test.c, B12 in replica_outsider_test.c too: here they would need too many seeds. B4 has nothing to be seen by. */
static const struct plan plants[] = {
	{.name = "ack before it is durable", .defects = THMQI_GROUP_EARLY_ACK},
	{.name = "a leader's own write commits", .defects = THMQI_GROUP_EARLY_COMMIT},
	{.name = "forgotten vote", .defects = THMQI_GROUP_FORGET_VOTE, .votes = true},
	{.name = "nobody waits for the vote", .defects = THMQI_GROUP_EARLY_VOTE, .votes = true},
	{.name = "vote that is not flushed", .log_defects = THMQI_LOG_PLAIN_VOTE, .votes = true},
	{.name = "lying flush", .disk_flags = THMQI_DISK_SIM_LYING},
	{.name = "received batches are not checked", .defects = THMQI_GROUP_TRUST_BATCH},
	{.name = "without rule B1", .defects = THMQI_GROUP_NO_B1},
	{.name = "without rule B3", .defects = THMQI_GROUP_NO_B3},
	{.name = "without rule B5", .defects = THMQI_GROUP_NO_B5, .busy = true},
	{.name = "without rule B6", .defects = THMQI_GROUP_NO_B6},
};

#define PLANT_SEEDS 60u

/* Return: the seed that finds it; 0: none does. */
static uint64_t find_plant(const struct plan *plan)
{
	uint64_t end = (plan->seeds ? plan->seeds : PLANT_SEEDS) + 1, seed = live_apart(plan, 1, end, true);

	return seed < end ? seed : 0;
}

static int run_plants(void)
{
	int missed = 0;

	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(plants); i++) {
		uint64_t seed = find_plant(&plants[i]);

		if (seed)
			printf("%s: found by seed %llu\n", plants[i].name,
			       (unsigned long long)seed);
		else
			fprintf(stderr, "%s: not found by %u seeds\n", plants[i].name, PLANT_SEEDS);
		missed += !seed;
	}
	return missed;
}

int main(int argc, char **argv)
{
	bool small = getenv("THMQ_TEST_SMALL") != NULL;
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1, seed, end;
	uint64_t count = argc > 2                   ? strtoull(argv[2], NULL, 0)
			 : getenv("THMQ_TEST_FULL") ? (small ? 5000 : 50000)
			 : small                    ? 20
						    : 1000;
	const struct plan *plan =
		argc > 3 ? &plants[strtoul(argv[3], NULL, 0) % THMQI_ARRAY_COUNT(plants)] : NULL;
	uint32_t bad = 0;

	mallopt(M_MMAP_THRESHOLD, 1 << 17); /* what is mostly never touched stays so, and is not zeroed seed after seed */
	mallopt(M_TRIM_THRESHOLD, 1 << 28);
	current = mmap(NULL, sizeof(*current), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (current == MAP_FAILED)
		return 1;
	if (argc > 1 && count == 1) {
		live(plan ? plan : sound_of(first), first, true);
		return 0;
	}
	for (seed = first, end = first + count; seed < end; seed++) {
		seed = live_apart(plan, seed, end, false);
		bad += seed < end;
	}
	printf("%llu seeds, %u bad\n", (unsigned long long)count, bad);
	if (argc > 1)
		return bad != 0;
	if (live(&sound, 5, true) != live(&sound, 5, true)) {
		fprintf(stderr, "a seed does not replay exactly\n");
		bad++;
	}
	if (!small)
		bad += (uint32_t)run_plants();
	return bad != 0;
}
