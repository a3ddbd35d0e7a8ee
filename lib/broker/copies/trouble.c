/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trouble.c - what keeps a broker of several from its part: a shard of it has failed, or has no room. Another one is to lead then; and the others are told: by their
 * carriers, or they look for themselves where all are in one environment. Knows nothing of elections.
 */
#include "commitlog/limit.h"

#include "lead.h"

#define FULL_NS 1000000000ull /* so long one whose device has no room tries to hand the lead over … */
#define FULL_AGAIN_NS 30000000000ull /* … and then not for so long: those that do not say what they suffer from may have none either */

/* The first one says why; what it takes with it is no news. */
void thmqi_trouble_failed(struct shard *s, int error)
{
	uint64_t none = 0;

	atomic_compare_exchange_strong(&s->broker->ill, &none, (uint64_t)(s->id + 1) << 32 | (uint32_t)error);
}

int thmqi_trouble_own(const struct thmq_broker *b, const struct shard **ret_failed)
{
	uint64_t ill = atomic_load(&b->ill);

	*ret_failed = ill ? &b->shards[(ill >> 32) - 1] : NULL;
	if (ill)
		return (int32_t)(uint32_t)ill;
	return atomic_load(&b->full_shards) ? -ENOSPC : 0;
}

static int ask(void *broker, void *arg)
{
	const struct shard *failed;

	*(int *)arg = thmqi_trouble_own(broker, &failed);
	return 0;
}

int thmqi_trouble_of(const struct shard *meta, const struct thmqi_member *other)
{
	const struct thmqi_courier *c = meta->lead->courier;
	struct thmqi_courier_peer p;
	int error = 0;
	uint32_t i;

	if (!c && strncmp(other->address, "inproc://", 9) == 0)
		thmqi_transport_reach(meta->broker->transport, other->address + 9, ask, &error);
	for (i = 0; c && thmqi_courier_peer(c, i, &p); i++)
		if (p.id == other->id && p.connected)
			return p.trouble;
	return error;
}

void thmqi_trouble_step(struct shard *s)
{
	struct thmq_broker *b = s->broker;
	struct lead *l = s->lead;
	bool full = s->log && thmqi_log_lacks_room(s->log);
	const struct shard *failed;

	if (full && !l->full)
		atomic_fetch_add(&b->full_shards, 1);
	else if (!full && l->full)
		atomic_fetch_sub(&b->full_shards, 1);
	l->full = full;
	if (s->id == THMQI_SHARD_META && l->courier)
		thmqi_courier_say(l->courier, thmqi_trouble_own(b, &failed));
}

void thmqi_trouble_refused(struct shard *s, int error)
{
	if (thmqi_is_full(error))
		atomic_store(&s->broker->full_ns, s->core->now_ns);
}

/*
 * Another one's device may have room. It is tried in one term only: who comes back to it finds that nobody has more. Where none has they do not
 * take turns.
 */
static bool goes_for_room(struct shard *meta)
{
	uint64_t full = atomic_load(&meta->broker->full_ns), now = meta->core->now_ns;
	struct lead *l = meta->lead;

	if (!full || now - full > FULL_NS || !l->serves || !l->group)
		return false;
	if (l->went_ns && now - l->went_ns < FULL_AGAIN_NS)
		return now - l->went_ns < FULL_NS && l->went_term == l->term && thmqi_drain_has_heir(meta->broker->meta);
	if (!thmqi_drain_has_heir(meta->broker->meta))
		return false;
	l->went_ns = now;
	l->went_term = l->term;
	return true;
}

bool thmqi_trouble_is_to_go(struct shard *meta)
{
	return atomic_load(&meta->broker->ill) || goes_for_room(meta);
}
