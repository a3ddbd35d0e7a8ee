/* SPDX-License-Identifier: Apache-2.0 */
/*
 * views.c - messages that the app has, and gives back: which of them are views of which run, as it is used now, and held. What the app
 * says is checked, so that nothing is given back twice. How they were handed out is in fetch.c, what becomes of the run in runs.c.
 */
#include "internal.h"

static bool in_pool(const struct thmq_consumer *c, const struct delivered *d)
{
	return d >= c->pool && d < c->pool + c->pool_used &&
	       ((const char *)d - (const char *)c->pool) % sizeof(*d) == 0;
}

static bool is_view_of(const struct thmq_consumer *c, const struct delivered *d, uint64_t view)
{
	return thmqi_view_of(c, d, (uint32_t)(view >> 32) % HELD_BITS) == view;
}

/* Is @m a view of @d, one of @c's, as it is used now, and in the app's hands? Then it is no more. */
static bool take_back(const struct thmq_consumer *c, struct delivered *d,
		      const struct thmq_message *m)
{
	uint32_t index = (uint32_t)(m->internal[1] >> 32) % HELD_BITS;
	uint64_t bit = 1ull << (index % 64);

	if (thmqi_unlikely(!is_view_of(c, d, m->internal[1]) || !d->held))
		return false;
	if (thmqi_likely(d->count <= HELD_BITS)) {
		if (thmqi_unlikely(!(d->held_bits[index / 64] & bit)))
			return false;
		d->held_bits[index / 64] &= ~bit;
	}
	return true;
}

bool thmqi_view_is_held(const struct thmq_consumer *c, const struct thmq_message *m)
{
	const struct delivered *d = (const struct delivered *)(uintptr_t)m->internal[0];

	return in_pool(c, d) && d->held && is_view_of(c, d, m->internal[1]);
}

/* Messages from @m on that are one behind the other in @d, at most @max: all held, they are no more. Return: how many, 0: look at the first alone. */
static uint32_t take_back_row(struct delivered *d, struct thmq_message *m, uint32_t max)
{
	const uint32_t from = (uint32_t)(m->internal[1] >> 32) % HELD_BITS;
	uint64_t view = m->internal[1], bits;
	uint32_t n, i;

	/* of one word of bits at a time */
	max = THMQI_MIN(max, 64 - from % 64);
	for (n = 1; n < max; n++)
		if (m[n].internal[0] != m->internal[0] || m[n].internal[1] != view + ((uint64_t)n << 32))
			break;
	bits = (n == 64 ? UINT64_MAX : (1ull << n) - 1) << from % 64;
	if ((d->held_bits[from / 64] & bits) != bits || d->held < n)
		return 0;
	d->held_bits[from / 64] &= ~bits;
	for (i = 0; i < n; i++)
		m[i].internal[0] = 0;
	return n;
}

int thmqi_client_release(struct thmq_consumer *c, struct thmq_message *messages, uint32_t count)
{
	struct delivered *d, *known = NULL;
	uint32_t i, n;

	for (i = 0; i < count; i += n) {
		d = (struct delivered *)(uintptr_t)messages[i].internal[0];
		if (thmqi_unlikely((!d || d != known) && !in_pool(c, d)))
			return -EINVAL;
		n = 0;
		if (i + 1 < count && messages[i + 1].internal[0] == messages[i].internal[0] && d->count <= HELD_BITS &&
		    is_view_of(c, d, messages[i].internal[1]))
			n = take_back_row(d, &messages[i], count - i);
		if (!n) {
			if (thmqi_unlikely(!take_back(c, d, &messages[i])))
				return -EINVAL;
			messages[i].internal[0] = 0;
			n = 1;
		}
		known = d;
		d->held -= n;
		d->reading->held -= n;
		c->app_held -= n;
		if (!d->held && d->at == d->count && !d->queued) {
			if (thmqi_unlikely(d->reading->state == READING_DRAINING))
				thmqi_reading_later(d->reading);
			thmqi_run_put(c, d);
		} else if (thmqi_unlikely(d->unpacked != NULL) && !d->held) { /* another priority's may be next, and need the room */
			thmqi_unpacked_drop(c, d);
		}
	}
	if (thmqi_unlikely(c->session->untended))
		thmqi_consumers_tend(c->session);
	return 0;
}
