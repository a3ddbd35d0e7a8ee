/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica_outsider_test.c - the one way to rule B12 (lib/replica/engine.c) that chance does not find: a copy that is no voter for all that it knows has what nobody else
 * has, and none of those who vote is elected without its vote. Three copies vote, a fourth one gets all. Who leads is cut off, and appends that the fourth one votes, which nobody
 * hears of. Another one leads, in a later term; what it appends reaches the fourth one, but not the third; then it is lost for good. Of the two
 * voters that are left the first has more than the second, and by its membership needs the fourth one, which has more than both: so that one must stand. With the
 * rule left out nobody leads for ever.
 *
 * usage: replica_outsider_test [first seed [count]]
 */
#include "replica_world.h"

#define PATIENCE_NS (20 * SECOND)
#define FOR_GOOD_NS (100000 * SECOND)

static void cut_between(struct world *w, uint32_t a, uint32_t b, bool cut)
{
	w->link[a][b].cut = w->link[b][a].cut = cut;
}

static void must(struct world *w, bool is, const char *what)
{
	if (!is)
		world_fail(w, world_leader(w), what, 0);
}

static struct thmqi_group_state state_of(const struct node *n)
{
	struct thmqi_group_state s;

	thmqi_group_state(n->group, &s);
	return s;
}

/* Something is committed, and all of them have it. */
static bool write_one(struct world *w, struct node *const *nodes, uint32_t count)
{
	uint64_t end = w->now + PATIENCE_NS, index = 0;
	struct node *leader;
	uint32_t i = 0;

	while (i < count && w->now < end) {
		leader = world_leader(w);
		if (leader && (!index || index > state_of(leader).last) && node_append(leader) == 0)
			index = state_of(leader).last + 1; /* at the latest: the batch that is being formed */
		world_run(w, w->now + 2 * MS);
		for (i = 0; index && i < count && nodes[i]->up && nodes[i]->committed >= index; i++)
			;
	}
	return i == count;
}

static void become(struct world *w, struct node *n, uint32_t role)
{
	struct thmqi_member m = {.id = n->id, .role = role};
	uint64_t end = w->now + PATIENCE_NS;
	struct node *leader;
	int rc = -1;

	snprintf(m.address, sizeof(m.address), "sim://%llu", (unsigned long long)n->id);
	while (rc && w->now < end) {
		leader = world_leader(w);
		rc = leader ? thmqi_group_change(leader->group, &m) : -1;
		world_run(w, w->now + 2 * MS);
	}
	must(w, rc == 0, "the fourth one does not become what it is to be");
}

/* Of those two, who leads in a later term. In small steps: nothing is to be sent that must not arrive. */
static struct node *next_leader(struct world *w, const struct node *before, uint64_t term)
{
	uint64_t end = w->now + PATIENCE_NS;
	struct node *leader;

	while (w->now < end) {
		world_run(w, w->now + MS / 20);
		leader = world_leader(w);
		if (leader && leader != before && state_of(leader).term > term)
			return leader;
	}
	must(w, false, "nobody leads in place of the one that is cut off");
	return NULL;
}

/* Return: does one of the voters that are left lead in the end, and get something committed? */
static bool live(uint64_t seed, uint32_t defects)
{
	const struct plan plan = {.name = defects ? "without rule B12" : "an outsider stands", .defects = defects};
	struct node *first, *second, *third = NULL, *fourth, *all[4];
	struct thmqi_member vote = {.role = THMQI_MEMBER_VOTER};
	static struct world w;
	uint64_t end;
	uint32_t i;
	bool led;

	world_open(&w, &plan, seed * 4);
	w.healed = true; /* nothing happens by chance */
	fourth = &w.node[4];
	for (i = 0; i < 4; i++)
		all[i] = &w.node[i + 1];
	must(&w, write_one(&w, all, 3), "nothing is committed");
	fourth->used = true;
	node_start(fourth);
	become(&w, fourth, THMQI_MEMBER_SPARE);
	become(&w, fourth, THMQI_MEMBER_STANDBY);
	must(&w, write_one(&w, all, 4), "the fourth one does not get all");
	first = world_leader(&w);
	must(&w, first && first != fourth, "nobody leads");
	for (i = 1; i <= 4; i++)
		cut_between(&w, first->number, i, true);
	vote.id = fourth->id;
	snprintf(vote.address, sizeof(vote.address), "sim://%llu", (unsigned long long)vote.id);
	must(&w, thmqi_group_change(first->group, &vote) == 0, "the change of the membership is not taken");
	second = next_leader(&w, first, state_of(first).term);
	for (i = 1; i <= 3; i++)
		if (&w.node[i] != first && &w.node[i] != second)
			third = &w.node[i];
	cut_between(&w, second->number, third->number, true);
	must(&w, node_append(second) == 0, "who leads appends nothing");
	for (end = w.now + PATIENCE_NS; state_of(fourth).last == state_of(third).last && w.now < end;)
		world_run(&w, w.now + MS);
	must(&w, state_of(fourth).last > state_of(third).last && state_of(first).last > state_of(third).last, "the third one has as much as others");
	node_crash(second, FOR_GOOD_NS);
	second->dead = true;
	cut_between(&w, first->number, third->number, false);
	cut_between(&w, first->number, fourth->number, false);
	all[0] = first;
	all[1] = third;
	all[2] = fourth;
	led = write_one(&w, all, 3);
	must(&w, !led || (world_leader(&w) != fourth), "an outsider goes on leading");
	if (led)
		check_matching(&w);
	world_close(&w);
	return led;
}

int main(int argc, char **argv)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : getenv("THMQ_TEST_FULL") ? 1000 : 20, seed;
	uint32_t bad = 0;

	for (seed = first; seed < first + count; seed++) {
		if (!live(seed, 0)) {
			fprintf(stderr, "seed %llu: nobody leads\n", (unsigned long long)seed);
			bad++;
		}
		if (live(seed, THMQI_GROUP_NO_B12)) {
			fprintf(stderr, "seed %llu: somebody leads without the rule, too\n", (unsigned long long)seed);
			bad++;
		}
	}
	printf("%llu seeds, %u bad\n", (unsigned long long)count, bad);
	return bad != 0;
}
