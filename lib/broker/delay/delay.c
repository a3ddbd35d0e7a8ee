/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay.c - messages whose time has not come: stored, found again when a shard begins to serve, and told to the log's cleaner. How
 * they get to where they were sent to is in delay_release.c. See delay.h, and doc/delayed.md for why a crash neither loses nor doubles one.
 */
#include "delay.h"
#include "wire/attributes.h"

#define SCAN_BUDGET 256u /* runs looked at in one iteration */
#define SWEEP_BUDGET 64u
#define AGAIN_NS 1000000000ull
#define WAITING_MAX (16ull << 20) /* 16 bytes of memory each */

static void on_timer(struct thmqi_timer *t)
{
	(void)t; /* the iteration that it causes is all that is wanted */
}

static int make(struct shard *s)
{
	struct delay *d = calloc(1, sizeof(*d));
	uint32_t i;

	if (!d)
		return -ENOMEM;
	d->shard = s;
	d->timer.fire = on_timer;
	for (i = 0; i < DELAY_SLOTS; i++)
		d->order[i] = &d->slots[i];
	for (i = 0; i < DELAY_READERS; i++)
		d->readers[i].delay = d;
	thmqi_waiting_init(&d->waiting, DELAY_SLOTS);
	thmqi_waiting_init(&d->over, 0);
	thmqi_map_init(&d->counts);
	thmqi_list_init(&d->cancels);
	s->delay = d;
	return 0;
}

struct partition *thmqi_delay_partition(const struct delay *d, uint32_t id)
{
	return thmqi_shard_partition(d->shard, id);
}

void thmqi_delay_count_one(struct delay *d, uint32_t partition, int change)
{
	uint64_t n = (uint64_t)(uintptr_t)thmqi_map_get(&d->counts, partition) + (uint64_t)(int64_t)change;

	if (n && n < UINT32_MAX) /* where there is no memory for it the number is too small */
		thmqi_map_put(&d->counts, partition, (void *)(uintptr_t)n);
	else
		thmqi_map_remove(&d->counts, partition);
}

uint32_t thmqi_delay_count(const struct shard *s, uint32_t partition)
{
	return s->delay ? (uint32_t)(uintptr_t)thmqi_map_get(&s->delay->counts, partition) : 0;
}

uint64_t thmqi_delay_due(const struct shard *s)
{
	struct delay *d = s->delay;
	struct waiting_entry e;
	uint64_t due = UINT64_MAX;
	int rc;

	if (!d || (d->phase == DELAY_OFF && !d->waiting.live))
		return UINT64_MAX;
	/* what was appended last is seen by the time that it is settled */
	if (d->phase != DELAY_LIVE || d->released > s->pending_head)
		return 0;
	if (d->count)
		due = d->order[0]->said ? 0 : d->order[0]->entry.due_ns;
	rc = thmqi_waiting_first(&d->waiting, &e);
	if (rc < 0)
		return 0;
	return rc ? THMQI_MIN(due, e.due_ns) : due;
}

/* ------------------------------------------------------------------------ store */

/* Both of its partitions are there: before the first message of all. */
static int partitions_make(struct shard *s)
{
	const struct state_topic none = {.visible_at = THMQ_DURABILITY_QUORUM};
	uint32_t id;
	int rc = 0;

	for (id = DELAY_PARTITION; id <= DELAY_DONES && !rc; id++)
		if (!thmqi_shard_partition(s, id))
			rc = thmqi_shard_partition_add(s, id, &none);
	return rc;
}

int thmqi_delay_place(struct shard *s, struct partition **ret_partition)
{
	uint64_t most = s->broker->opts.delayed_max ? s->broker->opts.delayed_max : WAITING_MAX;
	int rc = s->delay ? 0 : make(s);

	if (!rc && s->delay->phase == DELAY_OFF) {
		rc = partitions_make(s);
		s->delay->phase = rc ? DELAY_OFF : DELAY_LIVE; /* there was none */
	}
	if (!rc && s->delay->waiting.live >= most)
		rc = -ENOBUFS;
	if (!rc)
		*ret_partition = thmqi_shard_partition(s, DELAY_PARTITION);
	return rc;
}

/* When: what its producer's machine, or this one, calls so. What is counted from now on is counted by the clock itself: the core's look at
 * it is older than the message where the process was stopped in between, and then it would come early. */
static uint64_t due_of(const struct shard *s, uint64_t said)
{
	const struct thmqi_clock *clock = s->core->clock;
	uint64_t wall, after = said & ~THMQI_DELAY_AFTER;

	if (!(said & THMQI_DELAY_AFTER))
		return said;
	wall = THMQI_MAX(clock->wall_ns(clock->ctx), s->core->wall_ns);
	return after > INT64_MAX - wall ? INT64_MAX : wall + after;
}

/* What the frame says of its message; its body but for the time follows in two pieces. 0; -EINVAL; -EMSGSIZE */
static int head_of(const struct conn *c, const struct thmqi_frame *f, const struct partition *to, struct delayed *ret)
{
	uint32_t head = f->key_len + THMQI_PRODUCE_TAG_LEN(f->extra), flags = THMQI_PRODUCE_HAS(f->extra);
	const struct shard *s = c->shard;
	uint64_t said;

	if (f->len - head < sizeof(said) || (flags & THMQI_RECORD_EXPECT))
		return -EINVAL;
	/* as long as of any one message in a run: what is added here fits into what a batch has beyond run_max */
	if (f->len > s->run_max - sizeof(struct thmq_run_header) - sizeof(struct thmq_record))
		return -EMSGSIZE;
	memcpy(&said, (const uint8_t *)(uintptr_t)f->data + head, sizeof(said));
	*ret = (struct delayed){.due_ns = due_of(s, said),
				.time_ns = f->extra & THMQI_PRODUCE_TIMED ? (int64_t)f->arg[0] : 0,
				.partition = to->id,
				.size = f->len - (uint32_t)sizeof(said),
				.tag_hash = f->tag_hash,
				.key_len = f->key_len,
				.tag_len = (uint8_t)THMQI_PRODUCE_TAG_LEN(f->extra),
				.record_flags = (uint8_t)(flags & ~THMQ_RECORD_DELAY),
				.flags = f->extra & THMQI_PRODUCE_TIMED ? DELAYED_TIMED : 0};
	return 0;
}

static void fill(const struct conn *c, const struct thmqi_frame *f, struct thmq_run_header *run, const struct partition *p,
		 const struct delayed *is)
{
	const uint8_t *from = (const uint8_t *)(uintptr_t)f->data;
	uint8_t *body = (uint8_t *)(run + 1) + sizeof(*is);
	uint32_t head = (uint32_t)is->key_len + is->tag_len;

	*run = (struct thmq_run_header){.len = (uint32_t)sizeof(*is) + is->size,
					.base_offset = p->next_offset,
					.partition = p->id,
					.count = 1,
					.span = 1,
					.encoding = THMQ_RUN_OPAQUE,
					.producer_id = f->arg[1],
					.first_time_ns = (int64_t)c->shard->core->wall_ns,
					.last_time_ns = (int64_t)c->shard->core->wall_ns};
	if (f->arg[1]) {
		run->first_sequence = f->seq;
		run->producer_epoch = f->generation;
	}
	memcpy(run + 1, is, sizeof(*is));
	memcpy(body, from, head);
	memcpy(body + head, from + head + sizeof(uint64_t), is->size - head);
}

int thmqi_delay_append(struct conn *c, const struct thmqi_frame *f, struct partition *p, const struct partition *to,
		       uint32_t level, struct thmq_run_header **ret_run, uint64_t *ret_index)
{
	struct delay *d = c->shard->delay;
	struct delayed is;
	uint64_t offset = p->next_offset;
	int rc = head_of(c, f, to, &is);

	rc = rc ? rc : thmqi_waiting_hold(&d->waiting, offset);
	if (rc)
		return rc;
	rc = thmq_log_append(p->log, (uint32_t)(sizeof(**ret_run) + sizeof(is)) + is.size, ret_run, ret_index);
	if (!rc) {
		fill(c, f, *ret_run, p, &is);
		rc = thmq_log_append_end(p->log, *ret_run, level);
	}
	if (rc) {
		thmqi_waiting_drop(&d->waiting, offset, false);
		return rc;
	}
	thmqi_waiting_put(&d->waiting, is.due_ns, offset);
	thmqi_delay_count_one(d, to->id, 1);
	p->next_offset++;
	p->jumped = false;
	d->quiet_ns = 0;
	return 0;
}

int thmqi_delay_say(struct delay *d, const uint64_t *says, uint32_t count, uint64_t *ret_number)
{
	struct partition *p = thmqi_delay_partition(d, DELAY_DONES);
	struct shard *s = d->shard;
	struct pending *e = thmqi_shard_pending_room(s);
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	if (!e || p->next_offset - p->durable > OFFSET_JUMP - RUN_RECORDS_MAX) {
		thmq_log_flush(s->log, &index);
		return -ENOBUFS;
	}
	rc = thmq_log_append(s->log, (uint32_t)(sizeof(*run) + count * sizeof(*says)), &run, &index);
	s->blocked |= rc == -EAGAIN;
	if (rc)
		return rc;
	*run = (struct thmq_run_header){.len = (uint32_t)(count * sizeof(*says)),
					.base_offset = p->next_offset,
					.partition = p->id,
					.count = count,
					.span = count,
					.encoding = THMQ_RUN_OPAQUE,
					.first_time_ns = (int64_t)s->core->wall_ns,
					.last_time_ns = (int64_t)s->core->wall_ns};
	memcpy(run + 1, says, count * sizeof(*says));
	rc = thmq_log_append_end(s->log, run, THMQ_DURABILITY_MEMORY);
	if (rc)
		return rc;
	*ret_number = p->next_offset;
	*e = (struct pending){.index = index,
			      .partition = p,
			      .base_offset = p->next_offset,
			      .end_offset = p->next_offset + count,
			      .count = count};
	s->pending_tail++;
	p->next_offset += count;
	p->jumped = false;
	return 0;
}

/* Bytes from the log have passed their checksum, but lengths must be sane all the same. */
const struct delayed *thmqi_delay_is(const struct thmq_log_run *run, uint64_t offset)
{
	const struct thmq_run_header *h = run->header;
	const struct delayed *is = run->payload;

	if (h->encoding != THMQ_RUN_OPAQUE || h->base_offset != offset || h->len < sizeof(*is) ||
	    is->size > h->len - sizeof(*is) || (uint32_t)is->key_len + is->tag_len > is->size)
		return NULL;
	return is;
}

/* ------------------------------------------------------------------------ begin */

static void on_ready(void *ctx)
{
	(void)ctx; /* the iteration that this is part of polls */
}

static void scan_stop(struct delay *d)
{
	thmq_log_reader_close(d->scanner);
	d->scanner = NULL;
}

/* To the first that is held. False: nothing is. */
static bool scan_begin(struct delay *d, uint32_t id)
{
	struct partition *p = thmqi_delay_partition(d, id);
	uint64_t end;

	scan_stop(d);
	if (!p || thmq_log_bounds(p->log, id, &d->scan_at, &end) != 0)
		return false;
	if (thmq_log_reader_open(p->log, id, on_ready, d, &d->scanner) != 0) {
		d->again_ns = d->shard->core->now_ns + AGAIN_NS;
		return true;
	}
	thmq_log_reader_seek(d->scanner, d->scan_at);
	return true;
}

/* Return: 1 a run; 0 later; -ENOENT those were all */
static int scan_next(struct delay *d, uint32_t id, struct thmq_log_view *ret)
{
	struct partition *p = thmqi_delay_partition(d, id);
	uint64_t begin, end;
	int rc;

	if (!d->scanner && !scan_begin(d, id))
		return -ENOENT;
	if (!d->scanner)
		return 0;
	rc = thmq_log_read(d->scanner, id == DELAY_DONES ? d->dones_end : d->all_end, ret);
	if (rc == 1) {
		d->scan_at = ret->run.header->base_offset + ret->run.header->span;
		return 1;
	}
	if (rc == 0)
		return thmqi_log_reader_waits(d->scanner) ? 0 : -ENOENT;
	if (rc == -THMQ_EOFFSETRANGE) { /* it was dropped meanwhile: on behind it */
		if (thmq_log_bounds(p->log, id, &begin, &end) != 0 || begin <= d->scan_at)
			return -ENOENT;
		d->scan_at = begin;
		thmq_log_reader_seek(d->scanner, begin);
		return 0;
	}
	/* who cannot read what is over would release it once more: rather late than twice */
	d->again_ns = d->shard->core->now_ns + AGAIN_NS;
	thmq_log_reader_seek(d->scanner, d->scan_at);
	return 0;
}

/* Return: 0; -ENOMEM */
static int take_dones(struct delay *d, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;
	uint32_t i, count = THMQI_MIN(h->count, h->len / (uint32_t)sizeof(uint64_t));
	uint64_t said;
	int rc = 0;

	if (h->encoding != THMQ_RUN_OPAQUE)
		return 0;
	for (i = 0; i < count && !rc; i++) {
		memcpy(&said, (const uint8_t *)run->payload + i * sizeof(said), sizeof(said));
		rc = thmqi_waiting_hold(&d->over, said & ~DELAY_CANCELLED);
		if (!rc && !(said & DELAY_CANCELLED) && h->base_offset + i >= d->shard->delay_mark &&
		    !thmqi_delay_slot(d, said))
			thmqi_delay_redo(d, h->base_offset + i, said);
	}
	return rc;
}

static int take_message(struct delay *d, const struct thmq_log_run *run)
{
	uint64_t offset = run->header->base_offset;
	const struct delayed *is = thmqi_delay_is(run, offset);
	int rc;

	if (thmqi_waiting_has(&d->over, offset) || thmqi_waiting_has(&d->waiting, offset))
		return 0;
	rc = thmqi_waiting_hold(&d->waiting, offset);
	if (rc)
		return rc;
	if (!is) { /* it is kept, whatever it is */
		d->lost++;
		return 0;
	}
	thmqi_waiting_put(&d->waiting, is->due_ns, offset);
	thmqi_delay_count_one(d, is->partition, 1);
	return 0;
}

/* A piece of what is to be read before all is known. Return: runs */
static uint32_t scan(struct delay *d)
{
	bool dones = d->phase == DELAY_READ_DONES;
	struct thmq_log_view view;
	uint32_t n;
	int rc = 1;

	if (d->again_ns > d->shard->core->now_ns)
		return 0;
	for (n = 0; n < SCAN_BUDGET; n++) {
		rc = scan_next(d, dones ? DELAY_DONES : DELAY_PARTITION, &view);
		if (rc != 1)
			break;
		rc = dones ? take_dones(d, &view.run) : take_message(d, &view.run);
		if (rc) { /* it is taken once more */
			d->scan_at = view.run.header->base_offset;
			thmq_log_reader_seek(d->scanner, d->scan_at);
			d->again_ns = d->shard->core->now_ns + AGAIN_NS;
		}
		thmq_log_view_release(d->shard->log, &view);
		if (rc)
			break;
	}
	d->quiet_ns = 0;
	if (rc != -ENOENT)
		return n;
	scan_stop(d);
	d->phase++;
	if (d->phase == DELAY_LIVE)
		thmqi_waiting_fini(&d->over);
	return n + 1;
}

void thmqi_delay_begin(struct shard *s)
{
	struct partition *p = thmqi_shard_partition(s, DELAY_PARTITION);

	if (!p || !p->next_offset || (!s->delay && make(s) != 0) || partitions_make(s) != 0)
		return;
	s->delay->phase = DELAY_READ_DONES;
	s->delay->all_end = p->next_offset;
	s->delay->dones_end = thmqi_delay_partition(s->delay, DELAY_DONES)->next_offset;
	s->delay->quiet_ns = s->delay->again_ns = 0;
}

void thmqi_delay_stop(struct shard *s, int error)
{
	struct delay *d = s->delay;

	if (!d)
		return;
	d->phase = DELAY_OFF;
	scan_stop(d);
	thmqi_delay_release_stop(d);
	thmqi_delay_cancel_stop(d, error);
	thmqi_waiting_fini(&d->waiting);
	thmqi_waiting_fini(&d->over);
	thmqi_map_fini(&d->counts);
	if (thmqi_timer_is_running(&d->timer))
		thmqi_timer_stop(s->core, &d->timer);
}

void thmqi_delay_fini(struct shard *s)
{
	if (!s->delay)
		return;
	thmqi_delay_stop(s, -ESHUTDOWN);
	thmqi_delay_cancel_fini(s->delay);
	free(s->delay);
	s->delay = NULL;
}

/* ------------------------------------------------------------------------- poll */

uint32_t thmqi_delay_poll(struct shard *s)
{
	struct delay *d = s->delay;
	uint32_t done = 0;

	if (d->phase == DELAY_OFF || s->failed || s->closing)
		return 0;
	if (thmqi_unlikely(d->phase < DELAY_LIVE))
		done += scan(d);
	if (thmqi_unlikely(!thmqi_list_empty(&d->cancels)))
		thmqi_delay_cancel_step(d);
	if (d->phase > DELAY_READ_DONES)
		done += thmqi_delay_release(d);
	return done + thmqi_waiting_sweep(&d->waiting, SWEEP_BUDGET);
}

int thmqi_delay_live(struct shard *s, const struct thmq_log_extent *e)
{
	const struct delay *d = s->delay;

	if (!d || d->phase != DELAY_LIVE) /* it is not known yet */
		return THMQ_LOG_LIVE;
	/* what is said lies behind all copies of what it is said of, which go before it */
	if (e->partition == DELAY_DONES)
		return THMQ_LOG_DEAD;
	return thmqi_waiting_any(&d->waiting, e->begin_offset, e->end_offset) ? THMQ_LOG_LASTS : THMQ_LOG_DEAD;
}
