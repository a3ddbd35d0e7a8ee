/* SPDX-License-Identifier: Apache-2.0 */
/*
 * retain.c - what the log's cleaner asks: which messages must be kept, by what their topics say; and what must outlive a
 * segment: offsets of groups, next offsets of partitions, metadata. Decides; the log does the rest.
 */
#include "internal.h"
#include "wire/attributes.h"

#define IDLE_NS 60000000000ull

/* A log that takes nothing more takes these: they make room. */
static void press(struct shard *s, const struct partition *p, uint64_t end)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &p->groups)
	{
		struct group_offset *g = thmqi_container(it, struct group_offset, link);

		if (g->group && g->dirty && g->durable_offset + 1 <= end) { /* UINT64_MAX: none is */
			g->frees = s->offsets_free = true;
			s->stuck = true;
		}
	}
}

/* Has every group done with all below @end, and is that stored? Where there is none yet, nobody has. */
static bool consumed(struct shard *s, const struct partition *p, uint64_t end)
{
	struct thmqi_list *it;
	bool some = false, stored = true;

	thmqi_list_each(it, &p->groups)
	{
		const struct group_offset *g = thmqi_container(it, struct group_offset, link);

		if (!g->group) /* deleted */
			continue;
		some = true;
		if (g->offset == UINT64_MAX || g->offset < end)
			return false;
		stored = stored && g->durable_offset != UINT64_MAX && g->durable_offset >= end;
	}
	if (some && !stored)
		press(s, p, end);
	return some && stored;
}

/* Has nothing been appended to it for some time? */
static bool is_idle(struct retention *r, uint64_t end, uint64_t now)
{
	if (!r->idle_ns || r->idle_offset != end) {
		r->idle_offset = end;
		r->idle_ns = now;
	}
	return now - r->idle_ns >= IDLE_NS;
}

/* A copy's log tells of partitions whose topics are gone. Of those that are not meta has told, once it is led here. */
static bool was_deleted(const struct shard *s, const struct partition *p)
{
	return s->lead && !p->named && atomic_load(&s->broker->leads) && !atomic_load(&s->broker->carrying);
}

int thmqi_retain_live(void *ctx, const struct thmq_log_extent *e)
{
	struct shard *s = ctx;
	struct partition *p = thmqi_shard_partition(s, e->partition);
	struct retention *r = p ? p->retention : NULL;
	int64_t now = (int64_t)s->core->wall_ns;
	uint64_t end;

	if (thmqi_is_own_partition(e->partition))
		return thmqi_delay_live(s, e);
	if (!p || p->dead || was_deleted(s, p))
		return THMQ_LOG_DEAD;
	if (!r)
		return THMQ_LOG_LASTS;
	if (r->ns && now > e->last_time_ns && (uint64_t)now - (uint64_t)e->last_time_ns > r->ns)
		return THMQ_LOG_DEAD;
	if (r->bytes && e->held_bytes >= e->bytes && e->held_bytes - e->bytes >= r->bytes)
		return THMQ_LOG_DEAD;
	if (r->consumed && consumed(s, p, e->end_offset))
		return THMQ_LOG_DEAD;
	if (r->compacts)
		return THMQ_LOG_COMPACTS;
	/*
	 * Copies would outlive newer messages that expire in their place; where there are none nobody has written for long. What no
	 * clock takes, but only its own partition's next messages, would hold its segment up for ever if these do not come: its
	 * newer messages follow it in their turn.
	 */
	end = thmqi_logged_offset(p);
	if (e->end_offset >= end || (!r->ns && is_idle(r, end, s->core->now_ns)))
		return THMQ_LOG_LASTS;
	/*
	 * In its order, if it comes to that, so that no other topic is held up for ever. Where a limit of bytes is near, what was moved would outlive
	 * newer ones that it takes.
	 */
	if (!r->bytes || e->held_bytes <= r->bytes / 2)
		return THMQ_LOG_MOVES;
	return THMQ_LOG_LIVE;
}

/* The newest message of its key: does it say that the key is deleted, for long enough, or is it of no use any more? */
int thmqi_retain_over(void *ctx, const struct thmq_log_run *run, const struct thmq_record_view *record)
{
	struct shard *s = ctx;
	struct partition *p = thmqi_shard_partition(s, run->header->partition);
	const struct retention *r = p ? p->retention : NULL;
	int64_t now = (int64_t)s->core->wall_ns;
	uint64_t age = now > record->time_ns ? (uint64_t)now - (uint64_t)record->time_ns : 0, ttl_ns;
	struct thmqi_attributes a;

	/* of one in parts the attributes may be in parts too, and it has a payload */
	if (!r || !r->compacts || record->flags & THMQ_RECORD_PART ||
	    thmqi_attributes_read(record->flags, record->data, record->len, &a) != 0)
		return 0;
	ttl_ns = a.ttl_ns ? a.ttl_ns : r->ttl_ns;
	if (ttl_ns && age > ttl_ns)
		return 1;
	return record->key_len && a.len == record->len && !a.in_block.len && age > r->tombstone_ns;
}

bool thmqi_retain_only_compacts(const struct partition *p)
{
	const struct retention *r = p->is_volatile ? NULL : p->retention;

	return r && r->compacts && !r->ns && !r->bytes;
}

int thmqi_retain_partition(struct shard *s, struct partition *p)
{
	struct state_partition state = {.next_offset = p->next_offset,
					.end_offset = thmqi_logged_offset(p)};
	struct pending *e;

	return thmqi_shard_append_state(s, STATE_PARTITION, p->id, &state, sizeof(state), &e);
}

int thmqi_retain_leave(void *ctx, uint32_t partition)
{
	struct partition *p = thmqi_shard_partition(ctx, partition);

	return p && !p->dead && p->log ? thmqi_retain_partition(ctx, p) : 0;
}

/* Its newest offset, also one that is on its way: an older one behind that would take it back. */
static int renew_offset(struct shard *s, uint64_t item)
{
	struct partition *p = thmqi_shard_partition(s, (uint32_t)(item >> 32));
	struct group_offset *g = p && !p->dead ? thmqi_offsets_get(p, (uint32_t)item, false) : NULL;

	return g && g->offset != UINT64_MAX ? thmqi_offsets_store(s, g) : 0;
}

static int renew_shared(struct shard *s, uint64_t item)
{
	struct partition *p = thmqi_shard_partition(s, (uint32_t)(item >> 32));
	struct group_offset *g = p && !p->dead ? thmqi_offsets_get(p, (uint32_t)item, false) : NULL;

	return g ? thmqi_shared_renew(g) : 0;
}

int thmqi_retain_renew(void *ctx, uint32_t kind, uint64_t item)
{
	struct shard *s = ctx;

	if (s->id == THMQI_SHARD_META)
		return thmqi_meta_renew(s->broker->meta, kind, item);
	switch (kind) {
	case STATE_GROUP_OFFSET:
		return renew_offset(s, item);
	case STATE_GROUP_SHARED:
		return renew_shared(s, item);
	case STATE_PARTITION:
		return thmqi_retain_leave(s, (uint32_t)item);
	case STATE_TXN:
		return thmqi_txn_renew(s, item);
	case THMQ_LOG_PRODUCER:
		return thmqi_writer_renew(s, item);
	default:
		return 0;
	}
}
