/* SPDX-License-Identifier: Apache-2.0 */
/*
 * retain.c - what is old goes on all copies alike: a batch says so, and once that is committed each drops its segments before. For the engine
 * the begin of the log is a snapshot that says nothing but who belonged to the group. A copy that lacks what its leader has dropped begins
 * anew where the leader's log does, and gets all behind that as any other batches.
 */
#include "internal.h"

struct trim {
	uint64_t index; /* batches before it */
};

int thmqi_group_trim(struct thmqi_group *g, uint64_t index)
{
	struct trim t = {.index = index};
	int rc;

	if (g->failed)
		return -THMQ_EFAILED;
	if (g->role != THMQI_ROLE_LEADER || g->parked)
		return -THMQ_ENOTLEADER;
	if (index > g->committed)
		return -EINVAL;
	if (!g->members_committed)
		return -EAGAIN;
	if (g->membership.index < index) { /* it must not go: the same again, behind */
		rc = thmqi_group_renew(g);
		return rc ? rc : -EAGAIN;
	}
	rc = thmqi_log_own_state(g->log, STATE_TRIM, &t, sizeof(t));
	if (rc)
		return rc;
	g->trim_batch = thmqi_log_last(g->log);
	g->trim_index = index;
	return 0;
}

void thmqi_retain_note(struct thmqi_group *g, const struct thmq_log_run *run)
{
	struct trim t;

	if (!run->payload || run->header->len != sizeof(t) || run->index < g->trim_batch)
		return;
	memcpy(&t, run->payload, sizeof(t));
	g->trim_batch = run->index;
	g->trim_index = t.index;
}

/* The engine hears of it before anything is gone: it asks for nothing that is not there. */
static uint32_t tell_engine(struct thmqi_group *g)
{
	struct thmqi_duties d;
	uint64_t begin, term;
	int rc;

	thmqi_log_begin(g->log, &begin, &term);
	if (begin <= g->dropped)
		return 0;
	g->dropped = begin;
	rc = thmqi_engine_dropped(g->engine, thmqi_group_now_ms(g), begin, term, &g->membership,
				  &d);
	thmqi_group_handle(g, rc, &d);
	return 1;
}

uint32_t thmqi_retain_step(struct thmqi_group *g)
{
	uint32_t done = tell_engine(g);
	uint64_t index = g->trim_index;

	/* the membership that is in force must be told by what stays */
	if (g->failed || !g->trim_batch || g->trim_batch > g->committed || !g->members_committed ||
	    g->membership.index < index)
		return done;
	if (thmqi_log_durable(g->log) < g->trim_batch)
		return done;
	return done + (thmqi_log_drop_before(g->log, index) == 0);
}

/* ------------------------------------------------------------------ install */

/* As it is sent: nothing else proves that it came as it was. */
struct origin {
	uint64_t position, index, term;
	uint32_t crc;
	uint32_t sum; /* CRC32C of all, with this as 0 */
};
_Static_assert(sizeof(struct origin) == 32, "as in doc/format.md");

uint32_t thmqi_retain_encode(const struct thmqi_group *g, const struct thmqi_message *snapshot,
			     void *ret)
{
	struct thmqi_membership m = g->membership;
	struct thmqi_log_origin o;
	struct origin *out = ret;
	uint32_t len;

	thmqi_log_origin(g->log, &o);
	*out = (struct origin){
		.position = o.position, .index = o.index, .term = o.term, .crc = o.crc};
	/* what was in force there: a change that came later is in a batch behind it */
	if (m.index > snapshot->index && m.previous_index)
		m.members = m.previous;
	m.previous_index = 0;
	len = (uint32_t)sizeof(*out) + thmqi_membership_encode(&m, out + 1);
	out->sum = thmqi_crc32c(0, ret, len);
	return len;
}

int thmqi_retain_decode(const void *data, uint32_t len, struct thmqi_log_origin *ret_origin,
			struct thmqi_membership *ret)
{
	struct origin o;
	uint32_t sum;

	if (len < sizeof(o))
		return -EINVAL;
	memcpy(&o, data, sizeof(o));
	sum = o.sum;
	o.sum = 0;
	if (thmqi_crc32c(thmqi_crc32c(0, &o, sizeof(o)), (const uint8_t *)data + sizeof(o),
			 len - sizeof(o)) != sum)
		return -EINVAL;
	*ret_origin = (struct thmqi_log_origin){
		.position = o.position, .index = o.index, .term = o.term, .crc = o.crc};
	return thmqi_membership_decode((const uint8_t *)data + sizeof(o), len - (uint32_t)sizeof(o),
				       ret);
}

int thmqi_retain_install(struct thmqi_group *g, const struct thmqi_duties *d)
{
	struct thmqi_duties next;
	int rc;

	if (g->install.index != d->install_index || g->install.term != d->install_term)
		return -THMQ_ECORRUPT;
	rc = thmqi_log_reset(g->log, &g->install);
	if (rc)
		return rc;
	g->membership =
		(struct thmqi_membership){.index = d->install_members_index,
					  .members = *thmqi_engine_install_members(g->engine)};
	g->members_committed = true;
	g->tell_members = true;
	g->trim_batch = 0;
	g->dropped = d->install_index;
	thmqi_peers_set(g);
	rc = thmqi_engine_installed(g->engine, thmqi_group_now_ms(g), d, &next);
	if (rc)
		return rc;
	thmqi_group_handle(g, 0, &next);
	return 0;
}
