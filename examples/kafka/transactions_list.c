/* SPDX-License-Identifier: Apache-2.0 */
/* transactions_list.c - which transactions there are: ListTransactions, DescribeTransactions. Of one that is open which partitions are part of it is not kept here. */
#include <time.h>

#include "transactions.h"

/* As the protocol calls it. */
static const char *state_of(const struct transaction *x)
{
	switch (x->phase) {
	case PHASE_OPEN:
		return "Ongoing";
	case PHASE_APPLYING:
	case PHASE_DOUBT:
		return "PrepareCommit";
	case PHASE_COMMITTED:
		return "CompleteCommit";
	case PHASE_ABORTED:
	case PHASE_LOST:
		return "CompleteAbort";
	default:
		return "Empty";
	}
}

static bool is_state(struct text name)
{
	static const char *const all[] = {"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "Dead", "PrepareEpochFence"};
	uint32_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (text_is(name, all[i]))
			return true;
	return false;
}

static struct text name_of(const struct transaction *x)
{
	return (struct text){x->name, x->name_len - 1};
}

#define FILTERS_MAX 1024 /* each is looked for in each transaction */
struct filters {
	struct in states, producers; /* where they stand; of so many: */
	int32_t state_count, producer_count;
};

static bool is_wanted(const struct transaction *x, const struct filters *f)
{
	struct in in = f->states;
	bool wanted = f->state_count <= 0;
	int32_t i;

	for (i = 0; i < f->state_count; i++)
		wanted |= text_is(in_text(&in), state_of(x));
	if (!wanted || f->producer_count <= 0)
		return wanted;
	in = f->producers;
	for (i = 0, wanted = false; i < f->producer_count; i++)
		wanted |= in_i64(&in) == x->producer_id;
	return wanted;
}

/* Those that are wanted, to @out if it is not NULL. Return: how many. */
static int32_t each(struct server *s, const struct filters *f, struct out *out)
{
	const struct transaction *x;
	int32_t count = 0;
	uint32_t b;

	for (b = 0; b < BUCKETS; b++)
		for (x = s->transactions[b]; x; x = x->next) {
			if (!is_wanted(x, f))
				continue;
			count++;
			if (!out)
				continue;
			out_text(out, name_of(x));
			out_i64(out, x->producer_id);
			out_string(out, state_of(x));
			out_tags(out);
		}
	return count;
}

void list_transactions_run(struct request *r)
{
	struct in *in = &r->in, again;
	struct out *out = &r->out;
	struct filters f = {.state_count = in_array(in, 1)};
	int32_t i, unknown = 0;

	in->bad |= f.state_count > FILTERS_MAX;
	f.states = *in;
	for (i = 0; i < f.state_count && !in->bad; i++)
		unknown += !is_state(in_text(in));
	f.producer_count = in_array(in, 8);
	in->bad |= f.producer_count > FILTERS_MAX;
	f.producers = *in;
	for (i = 0; i < f.producer_count && !in->bad; i++)
		in_i64(in);
	in_tags(in);
	if (in->bad) {
		request_fail(r);
		request_done(r);
		return;
	}
	out_i32(out, 0);
	out_i16(out, cluster_serves(r->server) ? 0 : K_COORDINATOR_NOT_AVAILABLE);
	out_array(out, unknown);
	for (i = 0, again = f.states; i < f.state_count; i++) {
		struct text name = in_text(&again);

		if (!is_state(name))
			out_text(out, name);
	}
	out_array(out, each(r->server, &f, NULL));
	each(r->server, &f, out);
	out_tags(out);
	request_done(r);
}

/* Milliseconds since 1970. */
static int64_t begun_ms(const struct transaction *x)
{
	int64_t age = x->phase == PHASE_OPEN ? clock_ns() - (x->deadline_ns - x->timeout_ms * MILLISECOND) : 0;
	struct timespec now;

	if (x->phase != PHASE_OPEN)
		return -1;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + (now.tv_nsec - age) / 1000000;
}

static void describe(struct request *r, struct text name)
{
	const struct transaction *x = name.data ? *transaction_place(r->server, name) : NULL;
	struct out *out = &r->out;

	out_i16(out, (int16_t)(!cluster_serves(r->server) ? K_NOT_COORDINATOR : x ? 0 : K_TRANSACTIONAL_ID_NOT_FOUND));
	out_text(out, name.data ? name : text_of(""));
	out_string(out, x ? state_of(x) : "");
	out_i32(out, x ? x->timeout_ms : 0);
	out_i64(out, x ? begun_ms(x) : -1);
	out_i64(out, x ? x->producer_id : -1);
	out_i16(out, x ? x->epoch : -1);
	out_array(out, 0);
	out_tags(out);
}

void describe_transactions_run(struct request *r)
{
	struct in *in = &r->in, names;
	int32_t i, count = in_array(in, 1);

	names = *in;
	for (i = 0; i < count && !in->bad; i++)
		in_text(in);
	in_tags(in);
	if (in->bad || count < 0) {
		request_fail(r);
		request_done(r);
		return;
	}
	out_i32(&r->out, 0);
	out_array(&r->out, count);
	for (i = 0; i < count; i++)
		describe(r, in_text(&names));
	out_tags(&r->out);
	request_done(r);
}
