/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits.c - so many messages and bytes a second: token buckets that shards share without a lock. Knows neither topics nor clients, only
 * what was taken and when that is paid.
 */
#include "guard.h"

#define BURST_NS 100000000u
#define SECOND_NS 1e9

/* 0: nothing yet; UINT64_MAX: as much as there is */
static uint64_t allowed(struct rate *r, uint64_t now)
{
	uint64_t at, per_s = atomic_load_explicit(&r->per_s, memory_order_relaxed);

	if (!per_s)
		return UINT64_MAX;
	at = atomic_load_explicit(&r->at_ns, memory_order_relaxed);
	if (at > now) /* so thmqi_rates_wait() is not 0 */
		return 0;
	at = now - THMQI_MIN(now - at, (uint64_t)BURST_NS);
	return THMQI_MAX((uint64_t)((double)(now - at) * (double)per_s / SECOND_NS), 1u);
}

static void take(struct rate *r, uint64_t now, uint64_t n)
{
	uint64_t at, from, cost, per_s = atomic_load_explicit(&r->per_s, memory_order_relaxed);

	if (!per_s)
		return;
	cost = (uint64_t)((double)n * SECOND_NS / (double)per_s);
	at = atomic_load_explicit(&r->at_ns, memory_order_relaxed);
	do
		from = THMQI_MAX(at, now > BURST_NS ? now - BURST_NS : 0);
	while (!atomic_compare_exchange_weak_explicit(&r->at_ns, &at, from + cost, memory_order_acq_rel, memory_order_acquire));
	/* another core has set another rate meanwhile, see set(): what was added behind that, by the old one, may be hours */
	if (thmqi_unlikely(atomic_load_explicit(&r->per_s, memory_order_relaxed) != per_s))
		atomic_store_explicit(&r->at_ns, 0, memory_order_relaxed);
}

bool thmqi_rates_allow(struct rates *topic, struct rates *client, bool out, uint64_t now_ns, struct allowance *ret)
{
	struct rates *both[2] = {topic, client};
	uint32_t i, first = out ? RATE_OUT_BYTES : RATE_IN_BYTES;
	uint64_t bytes, messages;

	ret->bytes = ret->messages = UINT64_MAX;
	for (i = 0; i < 2; i++) {
		if (!both[i])
			continue;
		bytes = allowed(&both[i]->rate[first], now_ns);
		messages = allowed(&both[i]->rate[first + 1], now_ns);
		ret->bytes = THMQI_MIN(ret->bytes, bytes);
		ret->messages = THMQI_MIN(ret->messages, messages);
	}
	return ret->bytes && ret->messages;
}

uint64_t thmqi_rates_wait(const struct rates *topic, const struct rates *client, bool out, uint64_t now_ns)
{
	const struct rates *both[2] = {topic, client};
	uint32_t i, k, first = out ? RATE_OUT_BYTES : RATE_IN_BYTES;
	uint64_t at, last = now_ns;

	for (i = 0; i < 2; i++)
		for (k = first; both[i] && k < first + 2; k++) {
			at = atomic_load_explicit(&both[i]->rate[k].at_ns, memory_order_relaxed);
			if (atomic_load_explicit(&both[i]->rate[k].per_s, memory_order_relaxed))
				last = THMQI_MAX(last, at);
		}
	return last - now_ns;
}

void thmqi_rates_take(struct rates *topic, struct rates *client, bool out, uint64_t now_ns, uint64_t bytes,
		      uint64_t messages)
{
	struct rates *both[2] = {topic, client};
	uint32_t i, first = out ? RATE_OUT_BYTES : RATE_IN_BYTES;

	for (i = 0; i < 2; i++) {
		if (!both[i])
			continue;
		take(&both[i]->rate[first], now_ns, bytes);
		take(&both[i]->rate[first + 1], now_ns, messages);
	}
}

/* What was taken at another rate would be paid for at that: a little too much, long ago, would count for days. */
static void set(struct rate *r, uint64_t per_s)
{
	if (atomic_exchange_explicit(&r->per_s, per_s, memory_order_relaxed) != per_s)
		atomic_store_explicit(&r->at_ns, 0, memory_order_release);
}

void thmqi_rates_set(struct rates *r, const struct thmq_limits *limits)
{
	set(&r->rate[RATE_IN_BYTES], limits->produce_bytes);
	set(&r->rate[RATE_IN_MESSAGES], limits->produce_messages);
	set(&r->rate[RATE_OUT_BYTES], limits->consume_bytes);
	set(&r->rate[RATE_OUT_MESSAGES], limits->consume_messages);
}

bool thmqi_limits_any(const struct thmq_limits *l)
{
	return l->produce_bytes || l->produce_messages || l->consume_bytes || l->consume_messages;
}
