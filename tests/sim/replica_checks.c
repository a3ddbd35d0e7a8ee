/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica_checks.c - what must be true of a simulated cluster. One leader in a term; logs that agree on a batch agree on all before it;
 * a leader has all that was ever committed; what is committed is durable on a majority; what is acknowledged is committed, and read
 * back once and in order; copies are equal byte for byte.
 */
#include "log_batches.h"
#include "replica_world.h"

/* What its log has gained. */
void check_new_batches(struct node *n)
{
	struct thmq_log *log = thmqi_group_log(n->group);
	uint64_t last = thmqi_log_last(log), begin, term;
	struct header h;

	thmqi_log_begin(log, &begin, &term);
	n->known = THMQI_MAX(n->known, begin);
	while (n->known < last) {
		if (n->known + 1 >= BATCHES_MAX)
			world_fail(n->w, n, "too many batches for the model", last);
		if (thmqi_log_header(log, n->known + 1, &h) != 0 && n->struck)
			return;
		if (thmqi_log_header(log, n->known + 1, &h) != 0)
			world_fail(n->w, n, "a batch cannot be read", n->known + 1);
		if (thmqi_log_term_of(log, n->known + 1) != h.term)
			world_fail(n->w, n, "the log errs about a batch's term", n->known + 1);
		n->log[++n->known] = (struct seen){.term = h.term, .crc = h.header_crc};
	}
}

/* A power cut may take what was not durable. An empty log was being begun anew. */
void check_opened(struct node *n)
{
	struct thmq_log *log = thmqi_group_log(n->group);
	uint64_t begin, term;

	thmqi_log_begin(log, &begin, &term);
	if (!n->struck && thmqi_log_last(log) < n->kept && thmqi_log_last(log) > begin)
		world_fail(n->w, n, "what was durable is not there any more", n->kept);
}

static bool has_durable(struct node *n, uint64_t index, const struct seen *batch)
{
	uint64_t durable = n->up ? thmqi_log_durable(thmqi_group_log(n->group)) : n->durable;

	if (n->up)
		check_new_batches(n);
	return index <= durable && index <= n->known && n->log[index].crc == batch->crc;
}

static void check_majority(struct node *n, uint64_t index, const struct seen *batch)
{
	const struct thmqi_members *m = thmqi_group_members(n->group);
	struct world *w = n->w;
	uint32_t voters = 0, have = 0;

	for (uint32_t i = 0; i < m->count; i++) {
		struct node *other = node_of(w, m->list[i].id);

		if (m->list[i].role != THMQI_MEMBER_VOTER)
			continue;
		voters++;
		have += other && has_durable(other, index, batch);
	}
	if (have <= voters / 2)
		world_fail(w, n, "committed and not durable on a majority", index);
}

static void check_run(struct world *w, struct node *n, const struct thmq_run_header *run)
{
	const uint8_t *at = (const uint8_t *)(run + 1);
	uint64_t id = run->base_offset;

	if (run->encoding != THMQ_RUN_OPAQUE)
		return;
	if (id >= w->next_id || run->partition != id % PARTITIONS || w->seen[id] ||
	    (id < w->last_id[run->partition]))
		world_fail(w, n, "a message is out of order, doubled, or nobody's", id);
	w->seen[id] = true;
	w->last_id[run->partition] = id;
	for (uint32_t i = 0; i < run->len; i++)
		if (at[i] != (uint8_t)(id * 13 + i))
			world_fail(w, n, "a message's bytes have changed", id);
}

static uint32_t batch_of(struct node *n, uint64_t index, uint8_t *ret, bool from_device)
{
	uint32_t len;

	thmqi_disk_sim_spare(n->sim, true);
	len = batch_bytes(thmqi_group_log(n->group), index, ret, from_device);
	thmqi_disk_sim_spare(n->sim, false);
	if (!len)
		world_fail(n->w, n, "a batch cannot be read", index);
	return len;
}

/* One that has it, and whose disk is to be believed, @n if it may be; NULL: none is up. */
static struct node *reader_of(struct world *w, struct node *n, uint64_t index)
{
	uint64_t begin, term;

	thmqi_log_begin(thmqi_group_log(n->group), &begin, &term);
	if (!n->struck && index > begin && index <= n->known && n->log[index].crc == w->committed[index].crc)
		return n;
	for (uint32_t i = 1; i <= w->places; i++) {
		n = &w->node[i];
		if (!n->up || n->struck || !has_durable(n, index, &w->committed[index]))
			continue;
		thmqi_log_begin(thmqi_group_log(n->group), &begin, &term);
		if (index > begin)
			return n;
	}
	return NULL;
}

/*
 * Each message is committed once, in the order of its partition; @by has heard of it. Where only one is up whose disk did not do as it
 * was told, what that one reads proves nothing: the batch is looked at when another one that has it is back.
 */
static void check_contents(struct node *by)
{
	static uint8_t bytes[BATCH_BYTES_MAX];
	const struct header *h = (const struct header *)bytes;
	struct world *w = by->w;

	for (; w->read_count < w->committed_count; w->read_count++) {
		struct node *n = reader_of(w, by, w->read_count + 1);
		const uint8_t *at = bytes + sizeof(*h);

		if (!n)
			return;
		batch_of(n, w->read_count + 1, bytes, false);
		for (uint32_t i = 0; i < h->run_count; i++) {
			const struct thmq_run_header *run = (const struct thmq_run_header *)at;

			check_run(w, n, run);
			at += sizeof(*run) + THMQI_ALIGN_UP(run->len, 8u);
		}
	}
}

void check_committed(struct node *n, uint64_t index)
{
	struct world *w = n->w;
	struct thmqi_group_state state;
	uint64_t i;

	if (thmqi_disk_sim_is_down(n->sim))
		return; /* it is dying within this call, and what it says is heard by nobody */
	check_new_batches(n);
	if (index > n->known && n->struck)
		return;
	if (index > n->known)
		world_fail(w, n, "committed and not there", index);
	for (i = n->committed + 1; i <= index; i++) {
		if (!n->log[i].term)
			continue; /* before its begin */
		if (i <= w->committed_count) {
			if (w->committed[i].crc != n->log[i].crc)
				world_fail(w, n, "two batches are committed at one index", i);
			continue;
		}
		check_majority(n, i, &n->log[i]);
		thmqi_group_state(n->group, &state);
		w->committed[i] = n->log[i];
		w->committed_in[i] = state.term;
		w->committed_count = i;
		check_contents(n);
		trace(w, 5000, i);
	}
	if (thmqi_unlikely(w->read_count < w->committed_count))
		check_contents(n);
}

/* It has what was committed in the terms before its own. Others may have gone on to a later term before it heard that it was elected. */
void check_leader(struct node *n, uint64_t term)
{
	struct world *w = n->w;
	uint64_t i;

	if (term >= TERMS_MAX)
		world_fail(w, n, "too many terms for the model", term);
	if (w->leader_of[term] && w->leader_of[term] != n->id)
		world_fail(w, n, "two leaders in a term", term);
	w->leader_of[term] = n->id;
	w->last_term = THMQI_MAX(w->last_term, term);
	check_new_batches(n);
	for (i = 1; i <= w->committed_count; i++)
		if (w->committed_in[i] < term && (i > n->known || (n->log[i].term && n->log[i].crc != w->committed[i].crc)))
			world_fail(w, n, "a leader lacks what was committed", i);
	check_matching(w);
}

static void check_pair(struct world *w, const struct node *a, const struct node *b)
{
	uint64_t i = THMQI_MIN(a->known, b->known);
	bool equal = false;

	for (; i; i--) {
		if (!a->log[i].term || !b->log[i].term)
			return; /* one begins behind it */
		equal = equal || a->log[i].term == b->log[i].term;
		if (equal && (a->log[i].term != b->log[i].term || a->log[i].crc != b->log[i].crc))
			world_fail(w, a, "two logs agree on a batch and not on one before it", i);
	}
}

void check_matching(struct world *w)
{
	for (uint32_t i = 1; i <= w->places; i++)
		for (uint32_t k = i + 1; k <= w->places; k++)
			if (w->node[i].used && w->node[k].used)
				check_pair(w, &w->node[i], &w->node[k]);
}

/* -------------------------------------------------------------- at the end */

void check_bytes(struct world *w)
{
	static uint8_t a[BATCH_BYTES_MAX], b[BATCH_BYTES_MAX];
	const struct node *first = NULL;
	uint32_t len, i;
	uint64_t index;

	check_matching(w);
	for (index = 1; index <= w->committed_count; index++) {
		first = NULL;
		for (i = 1; i <= w->places; i++) {
			struct node *n = &w->node[i];
			uint64_t begin, term;

			if (!n->up || n->struck || n->committed < index)
				continue;
			thmqi_log_begin(thmqi_group_log(n->group), &begin, &term);
			if (index <= begin)
				continue;
			len = batch_of(n, index, first ? b : a, true);
			if (first && !batches_equal(a, b, len))
				world_fail(w, n, "copies differ in bytes", index);
			first = first ? first : n;
		}
	}
}

void check_messages(struct world *w)
{
	struct node *leader = world_leader(w);

	if (leader)
		check_contents(leader);
	if (w->read_count < w->committed_count)
		world_fail(w, leader, "nobody has what was committed", w->read_count + 1);
	for (uint64_t id = 0; id < w->next_id; id++)
		if (w->acked[id] && !w->seen[id])
			world_fail(w, leader, "what was acknowledged is gone", id);
}
