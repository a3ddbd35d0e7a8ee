/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn_list.c - transactions for whoever administers them: which there are, since when, whose, and how many there were. Decides nothing.
 */
#include "txns.h"

static uint32_t state_of(const struct txn *x)
{
	switch (x->state) {
	case OPEN:
		return THMQ_TXN_OPEN;
	case PREPARED:
		return THMQ_TXN_PREPARED;
	case IN_DOUBT:
		return THMQ_TXN_IN_DOUBT;
	default:
		return THMQ_TXN_ENDING;
	}
}

static void describe(const struct txn *x, uint64_t now, struct thmqi_txn_entry *e)
{
	uint64_t next = x->state == OPEN ? x->deadline_ns : x->state == PREPARED ? x->next_check_ns : 0;

	*e = (struct thmqi_txn_entry){.id = x->id,
				      .since_ns = x->since_ns,
				      .left_ns = next > now ? next - now : 0,
				      .state = state_of(x),
				      .checks = x->checks,
				      .check_max = x->check_max};
	memcpy(e->name, x->name, sizeof(e->name));
	if (x->conn)
		memcpy(e->identity, x->conn->wire->peer, sizeof(e->identity));
}

/* The first one above @last. They come in the order of their numbers, so that nobody is passed over where others end meanwhile. */
static const struct thmqi_list *first_above(const struct txns *t, uint64_t last)
{
	const struct txn *x = last ? thmqi_map_get(&t->by_id, last) : NULL;
	const struct thmqi_list *it = x ? x->link.next : t->all.next;

	while (it != &t->all && thmqi_container(it, const struct txn, link)->id <= last)
		it = it->next;
	return it;
}

void thmqi_txns_list(const struct meta *m, struct thmqi_reply *reply, uint64_t last)
{
	const struct txns *t = m->txns;
	const struct thmqi_list *it;
	uint64_t now = m->shard->core->now_ns;

	if (!t)
		return;
	reply->total = (uint32_t)t->by_id.count;
	for (it = first_above(t, last); it != &t->all && reply->count < THMQI_ARRAY_COUNT(reply->txns); it = it->next)
		describe(thmqi_container(it, const struct txn, link), now, &reply->txns[reply->count++]);
}

struct txn_counts thmqi_txns_counts(const struct meta *m)
{
	struct txn_counts counts = {0};

	if (!m->txns)
		return counts;
	counts = m->txns->counts;
	counts.open = m->txns->by_id.count - counts.prepared;
	return counts;
}
