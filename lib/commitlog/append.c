/* SPDX-License-Identifier: Apache-2.0 */
/*
 * append.c - runs into the batch that is being formed. A run is filled in place and indexed, and checksummed with its batch; the
 * batch's buffer is what goes to the device, stays in the cache and is read by consumers.
 */
#include "internal.h"
#include "index/keys.h"
#include "reading.h"

#define FORMING_BYTES (1024u << 10) /* a batch's buffer at most, unless one run needs more */
#define GROWTH 4u
#define PREFETCH_BYTES (5u * THMQI_CACHELINE)
#define PINCH_NS 1000000u

/* ------------------------------------------------------------------ memory */

/* Small blocks of what stands still may lie all over the pool. */
static void on_pinch(struct thmqi_timer *t)
{
	struct thmq_log *log = thmqi_container(t, struct thmq_log, pinch);

	if (thmqi_unlikely(log->core->now_ns - log->spared_ns >= THMQI_STARVED_NS &&
			   (thmqi_readers_starve(log) || (log->refused_ns && log->core->now_ns - log->refused_ns >= THMQI_STARVED_NS)))) {
		log->spared_ns = log->core->now_ns; /* others read again what they lost: not each time */
		thmqi_core_spare(log->core);
	}
	thmqi_readers_wake(log);
	if (log->starved && log->events.room) {
		log->starved = false;
		log->events.room(log->opts.ctx);
	}
}

static bool give(struct thmqi_giver *giver)
{
	struct thmq_log *log = thmqi_container(giver, struct thmq_log, giver);

	return thmqi_cache_drop_one(log); /* it can be read again from the device */
}

static void spare(struct thmqi_giver *giver)
{
	thmqi_windows_spare(thmqi_container(giver, struct thmq_log, giver));
}

void thmqi_log_begin_giving(struct thmq_log *log)
{
	log->giver.give = give;
	log->giver.spare = spare;
	thmqi_list_add_tail(&log->core->givers, &log->giver.link);
}

/* Cached batches make way, of any log of the core. Who is refused all the same is called again. */
int thmqi_log_alloc(struct thmq_log *log, uint32_t size, uint32_t owner, struct thmqi_buf **ret_buf)
{
	int rc = thmqi_core_alloc(log->core, size, ret_buf);

	if (thmqi_likely(!rc))
		(*ret_buf)->owner = owner;
	if (thmqi_likely(rc != -ENOBUFS))
		return rc;
	if (!thmqi_timer_is_running(&log->pinch)) {
		log->pinch.fire = on_pinch;
		thmqi_timer_start(log->core, &log->pinch, log->core->now_ns + PINCH_NS);
	}
	return rc;
}

static uint32_t usual_bytes(const struct thmq_log *log)
{
	uint64_t bytes = THMQI_MIN(FORMING_BYTES, log->opts.batch_bytes);

	/* a ring in memory goes by batches: eight of them at least */
	if (!log->disk)
		bytes = THMQI_MIN(bytes, THMQI_MAX(thmqi_pow2_up(log->opts.cache_bytes / 8), THMQI_BLOCK));
	return (uint32_t)bytes;
}

/* @size bytes, or if they are not to be had @least. */
static int forming_alloc(struct thmq_log *log, uint32_t size, uint32_t least, struct thmqi_buf **ret_buf)
{
	int rc = thmqi_log_alloc(log, THMQI_MAX(size, least), THMQI_OWNER_BATCH, ret_buf);

	if (rc == -ENOBUFS && size > 2 * least)
		rc = thmqi_log_alloc(log, least, THMQI_OWNER_BATCH, ret_buf);
	if (thmqi_likely(!rc))
		log->refused_ns = 0;
	else if (!log->refused_ns)
		log->refused_ns = log->core->now_ns;
	return rc ? -EAGAIN : 0;
}

/*
 * A batch begins with a buffer as large as the one before needed, and grows: small batches that stay in the cache would leave
 * holes in the pool that no large buffer fits into, and each would take memory that was never touched.
 */
static int forming_open(struct thmq_log *log, uint32_t need)
{
	uint32_t least = (uint32_t)sizeof(struct batch_header) + need;
	uint32_t size = log->disk ? THMQI_MIN(log->last_len, usual_bytes(log)) : usual_bytes(log);
	struct thmqi_buf *buf;
	int rc = forming_alloc(log, size, least, &buf);

	if (rc)
		return rc;
	log->forming = (struct forming){.buf = buf,
					.used = sizeof(struct batch_header),
					.limit = THMQI_MIN(buf->size, log->opts.batch_bytes)};
	return 0;
}

/* The batch moves to a larger buffer, if that may hold @need more. Views of its runs keep the old one. */
static void forming_grow(struct thmq_log *log, uint32_t need)
{
	struct forming *f = &log->forming;
	uint32_t least = f->used + need;
	struct thmqi_buf *buf;

	if (least > usual_bytes(log) || forming_alloc(log, THMQI_MIN(f->buf->size * GROWTH, usual_bytes(log)), least, &buf))
		return;
	memcpy(buf->data, f->buf->data, f->used);
	thmqi_buf_unref(f->buf);
	f->buf = buf;
	f->limit = THMQI_MIN(buf->size, log->opts.batch_bytes);
}

/* -------------------------------------------------------------------- room */

/* From where the batch being formed begins to the end of its segment. */
static uint64_t segment_left(const struct thmq_log *log)
{
	const struct segment *s = log->active;
	uint64_t left;

	if (!log->disk)
		return UINT64_MAX;
	left = s->position + s->bytes - log->chain.position;
	if (thmqi_unlikely(log->copies.on)) /* a new leader's first batch, which cannot wait for a segment, has its block */
		left -= THMQI_MIN(left, THMQI_BLOCK);
	return left - THMQI_MIN(left, log->reserve);
}

/* The forming batch takes @need bytes more, and its segment takes it then. */
static bool fits(const struct thmq_log *log, uint32_t need)
{
	const struct forming *f = &log->forming;

	return f->buf && f->limit - f->used >= need &&
	       segment_left(log) >= THMQI_ALIGN_UP(f->used + need, THMQI_BLOCK);
}

static int make_room(struct thmq_log *log, uint32_t need)
{
	struct forming *f = &log->forming;
	int rc;

	if (thmqi_arena_fill(&log->arena) != 0)
		return -ENOMEM;
	if (!fits(log, need) && f->runs && log->disk && f->limit - f->used < need)
		forming_grow(log, need);
	if (fits(log, need))
		return 0;
	if (f->runs) {
		if (log->disk && thmqi_flights_full(log))
			return -EAGAIN;
		rc = thmqi_log_seal(log);
		if (rc)
			return rc;
		thmqi_log_commit(log);
	}
	if (f->buf && f->limit - f->used < need) { /* left by an append that was aborted */
		thmqi_buf_unref(f->buf);
		*f = (struct forming){0};
	}
	if (segment_left(log) < THMQI_ALIGN_UP((uint32_t)sizeof(struct batch_header) + need, THMQI_BLOCK)) {
		rc = thmqi_segment_switch(log);
		if (!rc && segment_left(log) < THMQI_ALIGN_UP((uint32_t)sizeof(struct batch_header) + need, THMQI_BLOCK))
			rc = -EAGAIN; /* its end is not to be had before there is a next one */
		if (rc)
			return rc;
	}
	return f->buf ? 0 : forming_open(log, need);
}

/* ------------------------------------------------------------------ append */

int thmq_log_append(struct thmq_log *log, uint32_t run_len, struct thmq_run_header **ret_run, uint64_t *ret_index)
{
	struct forming *f;
	int rc;

	if (thmqi_unlikely(!log || !ret_run || !ret_index))
		return -EINVAL;
	f = &log->forming;
	if (thmqi_unlikely(!thmqi_core_is_mine(log->core)))
		return -EPERM;
	if (thmqi_unlikely(log->failed))
		return -THMQ_EFAILED;
	if (thmqi_unlikely(log->copies.on && !log->copies.leads))
		return -THMQ_ENOTLEADER;
	if (thmqi_unlikely(run_len < sizeof(struct thmq_run_header) || f->open || log->draining))
		return -EINVAL;
	if (thmqi_unlikely(run_len > log->opts.batch_bytes - sizeof(struct batch_header)))
		return -EMSGSIZE;
	if (thmqi_unlikely(log->arena.ready < ARENA_READY ||
			   !fits(log, THMQI_ALIGN_UP(run_len, 8u)))) {
		rc = make_room(log, THMQI_ALIGN_UP(run_len, 8u));
		if (rc) {
			log->starved = true;
			return rc;
		}
	}
	f->open = run_len;
	*ret_run = (struct thmq_run_header *)(f->buf->data + f->used);
	*ret_index = log->chain.index + 1;
	return 0;
}

void thmq_log_append_abort(struct thmq_log *log)
{
	if (log && thmqi_core_is_mine(log->core))
		log->forming.open = 0;
}

int thmq_log_append_end(struct thmq_log *log, struct thmq_run_header *run, uint32_t durability)
{
	struct forming *f;
	uint32_t room, tail;
	struct run_index *x;

	if (thmqi_unlikely(!log))
		return -EINVAL;
	f = &log->forming;
	if (thmqi_unlikely(!thmqi_core_is_mine(log->core)))
		return -EPERM;
	if (thmqi_unlikely(!f->open || !run))
		return -EINVAL;
	/* a run may be shorter than its room was, and never longer: what is behind it must be found */
	room = f->open - (uint32_t)sizeof(*run);
	if (thmqi_unlikely(run->len > room))
		run->len = room;
	f->open = 0; /* a run that is refused is as one that was aborted */
	if (thmqi_unlikely(durability > THMQ_DURABILITY_DURABLE))
		return -EINVAL;
	tail = run->len & 7;
	if (tail)
		memset((uint8_t *)(run + 1) + run->len, 0, 8 - tail);
	run->magic = THMQ_RUN_MAGIC; /* its checksums come with its batch's: who waits for the run does not wait for them */
	if (run->encoding != THMQ_RUN_STATE) {
		x = thmqi_index_of(log, run->partition, true);
		/* look-ups go by rising offsets */
		if (thmqi_unlikely(x && run->base_offset < x->end && !(run->flags & THMQ_RUN_RELOCATED)))
			return -EINVAL;
		if (thmqi_unlikely(run->base_offset > UINT64_MAX - run->span))
			return -EINVAL;
		/* a run that no reader could find must not be acknowledged */
		if (thmqi_unlikely(!x || thmqi_index_add(log, x, run, log->chain.index + 1, f->used) != 0))
			return -ENOMEM;
		f->pressing |= durability > THMQ_DURABILITY_MEMORY;
		if (thmqi_unlikely(run->flags & THMQ_RUN_KEYED) && log->disk)
			thmqi_keys_note(log, log->active, run, f->used);
		if (thmqi_unlikely(thmqi_run_has_producer(run)) && log->disk)
			thmqi_seal_note_producer(log, run, log->chain.index + 1, f->used, log->term);
	} else if (log->disk) {
		thmqi_seal_note(log, run, log->chain.index + 1, f->used, log->term);
		thmqi_states_note(log, run, log->chain.index + 1);
	}
	f->used += thmqi_run_bytes(run);
	if (!f->runs++)
		f->begun_ns = log->core->now_ns;
	/* a consumer elsewhere has read these lines when they held something else */
	for (tail = 0; tail < PREFETCH_BYTES; tail += THMQI_CACHELINE)
		thmqi_prefetch_write(f->buf->data + f->used + tail);
	if (durability > THMQ_DURABILITY_MEMORY)
		f->awaited = true;
	if (durability >= THMQ_DURABILITY_DURABLE)
		f->needs_durable = true;
	else
		log->weak = true;
	log->dirty = true;
	log->stats.runs++;
	if (thmqi_unlikely(f->used >= log->eager_bytes))
		thmqi_log_commit(log);
	return 0;
}

/* ------------------------------------------------------------------- seal */

static void seal_in_memory(struct thmq_log *log)
{
	struct forming *f = &log->forming;

	thmqi_buf_trim(f->buf, f->used);
	log->chain.index++;
	log->chain.position += f->used;
	thmqi_cache_put(log, log->chain.index, f->buf);
	log->stats.batches++;
	*f = (struct forming){0};
}

void thmqi_log_launch(struct thmq_log *log, struct thmqi_buf *buf, bool needs_durable)
{
	const struct batch_header *h = (const struct batch_header *)buf->data;
	struct flight *flight = &log->flights[log->flight_tail++ % FLIGHTS_MAX];

	flight->log = log;
	flight->buf = buf;
	flight->index = h->index;
	flight->position = h->position;
	flight->segment = log->active;
	flight->len = h->len;
	flight->state = BATCH_WAITING;
	flight->dsync = false;
	flight->begun_ns = log->core->now_ns;
	flight->needs_durable = flight->pressing = needs_durable;
	thmqi_segment_note(log->active, h->index, h->position, h->run_count);
	thmqi_seal_term(log, h->index, h->term);
	thmqi_chain_advance(&log->chain, h);
	thmqi_buf_ref(buf); /* one for the write, one for the cache */
	thmqi_cache_put(log, h->index, buf);
	log->stats.batches++;
	log->stats.stored_bytes += h->type == BATCH_PAD ? THMQI_BLOCK : h->len;
	if (thmqi_unlikely(log->copies.leads && !log->copies.quiet))
		log->copies.owner.formed(log->copies.owner.ctx, h->index, h->term, h->type);
}

int thmqi_log_seal(struct thmq_log *log)
{
	struct forming *f = &log->forming;
	struct batch_header *h;
	struct thmqi_buf *buf = f->buf;
	uint32_t len;
	uint64_t begun_ns = f->begun_ns;
	bool needs_durable = f->needs_durable || log->copies.on, pressing = f->pressing;

	if (!f->runs || f->open)
		return 0;
	if (!log->disk) {
		seal_in_memory(log);
		return 0;
	}
	if (thmqi_flights_full(log))
		return -EAGAIN;
	if (thmqi_unlikely(log->defects & THMQI_LOG_REWRITE))
		thmqi_plant_rewrite(log);
	len = THMQI_ALIGN_UP(f->used, THMQI_BLOCK);
	memset(buf->data + f->used, 0, len - f->used);
	h = (struct batch_header *)buf->data;
	thmqi_batch_seal_whole(h, &log->chain, log->term, f->runs, f->used - (uint32_t)sizeof(*h), len);
	thmqi_batch_stamp(h, log->incarnation, log->durable_position);
	thmqi_buf_trim(buf, len); /* views lie below it */
	log->last_len = len;
	*f = (struct forming){0};
	thmqi_log_launch(log, buf, needs_durable);
	log->flights[(log->flight_tail - 1) % FLIGHTS_MAX].pressing = pressing;
	log->flights[(log->flight_tail - 1) % FLIGHTS_MAX].begun_ns = begun_ns;
	if (thmqi_unlikely(log->chain.position >= log->part_due))
		thmqi_seal_begin_part(log);
	return 0;
}
