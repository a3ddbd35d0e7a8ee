/* SPDX-License-Identifier: Apache-2.0 */
/* segment.c - segments: where each batch lies, and the next one made ready while the active one fills. */
#include <sys/mman.h>

#include "commitlog/limit.h"
#include "internal.h"
#include "index/keys.h"

#define RETRY_NS 200000000ull
#define TEMPORARY "next.tmp"
#define RESERVE_SHARE 8u /* of a segment: what must outlive one is a small part of it */
#define RESERVE_SHARE_LEAST 64u

/* Called on the message path's core: nothing of stdio. */
static void name_of(uint64_t position, const char suffix[5], char name[40])
{
	uint32_t i;

	for (i = 20; i-- > 0; position /= 10)
		name[i] = (char)('0' + position % 10);
	memcpy(name + 20, suffix, 5);
}

void thmqi_segment_name(uint64_t position, char name[40])
{
	name_of(position, ".log", name);
}

void thmqi_seal_name(uint64_t position, char name[40])
{
	name_of(position, ".idx", name);
}

/* Sizes double from min to max; a segment's position says which one it is. */
uint64_t thmqi_segment_bytes(const struct vote *v, uint64_t position)
{
	uint64_t bytes = v->segment_bytes_min, at = 0;

	while (at < position && bytes < v->segment_bytes_max) {
		at += bytes;
		bytes *= 2;
	}
	return THMQI_MIN(bytes, v->segment_bytes_max);
}

bool thmqi_segment_begins(const struct vote *v, uint64_t position)
{
	uint64_t bytes = v->segment_bytes_min, at = 0;

	for (; at < position && bytes < v->segment_bytes_max; bytes *= 2)
		at += bytes;
	return at == position || (at < position && (position - at) % v->segment_bytes_max == 0);
}

static size_t blocks_bytes(const struct segment *s)
{
	return s->bytes / THMQI_BLOCK * sizeof(*s->blocks);
}

static void *map_bytes(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

int thmqi_segment_bare(struct thmq_log *log, uint64_t position, struct segment **ret_segment)
{
	struct segment *s = map_bytes(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->position = position;
	s->bytes = thmqi_segment_bytes(&log->vote, position);
	thmqi_file_init(log, s);
	*ret_segment = s;
	return 0;
}

int thmqi_segment_map_blocks(struct segment *s)
{
	if (!s->blocks)
		s->blocks = map_bytes(blocks_bytes(s));
	return s->blocks ? 0 : -ENOMEM;
}

int thmqi_segment_new(struct thmq_log *log, uint64_t position, struct segment **ret_segment)
{
	struct segment *s;
	int rc = thmqi_segment_bare(log, position, &s);

	if (rc)
		return rc;
	rc = thmqi_segment_map_blocks(s);
	if (rc)
		thmqi_segment_free(log, s);
	else
		*ret_segment = s;
	return rc;
}

void thmqi_segment_forget_blocks(struct segment *s)
{
	if (s->blocks)
		munmap(s->blocks, blocks_bytes(s));
	s->blocks = NULL;
}

void thmqi_segment_free(struct thmq_log *log, struct segment *s)
{
	thmqi_file_close(log, s, SEGMENT_LOG);
	thmqi_file_close(log, s, SEGMENT_INDEX);
	thmqi_sealed_free(log, s->sealed);
	thmqi_keys_drop(log, s);
	thmqi_segment_forget_blocks(s);
	munmap(s, sizeof(*s));
}

int thmqi_segment_add(struct thmq_log *log, struct segment *s)
{
	struct segment **grown;
	uint32_t room;

	if (log->segment_count == log->segment_room) { /* once in 256 segments */
		room = log->segment_room ? log->segment_room * 2 : 256;
		grown = realloc(log->segments, room * sizeof(struct segment *));
		if (!grown)
			return -ENOMEM;
		log->segments = grown;
		log->segment_room = room;
	}
	s->ordinal = log->segment_base + log->segment_count;
	log->segments[log->segment_count++] = s;
	return 0;
}

void thmqi_segment_note(struct segment *s, uint64_t index, uint64_t position, uint32_t run_count)
{
	s->run_count += run_count;
	if (!s->batch_count)
		s->first_index = index;
	s->blocks[s->batch_count++] = (uint32_t)((position - s->position) / THMQI_BLOCK);
}

struct segment *thmqi_segment_of_index(const struct thmq_log *log, uint64_t index)
{
	uint32_t lo = 0, hi = log->segment_count, mid;
	struct segment *s;

	/* only the last one may be without batches */
	while (lo + 1 < hi) {
		mid = lo + (hi - lo) / 2;
		s = log->segments[mid];
		if (s->batch_count && s->first_index <= index)
			lo = mid;
		else
			hi = mid;
	}
	s = lo < hi ? log->segments[lo] : NULL;
	return s && index >= s->first_index && index - s->first_index < s->batch_count ? s : NULL;
}

int thmqi_segment_place(struct thmq_log *log, struct segment *s, uint64_t index, uint64_t *ret_at)
{
	uint64_t number = index - s->first_index, at;
	struct thmqi_disk_file *file;
	uint32_t *page;
	int64_t n;
	int rc;

	if (s->blocks) {
		*ret_at = (uint64_t)s->blocks[number] * THMQI_BLOCK;
		return 0;
	}
	rc = thmqi_file_need(log, s, SEGMENT_INDEX, &file);
	if (rc)
		return rc;
	page = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	if (!page)
		return -ENOMEM;
	at = s->sealed->batches_at + number * 4;
	n = log->disk->file_read(file, page, THMQI_BLOCK, at & ~(uint64_t)(THMQI_BLOCK - 1));
	at = n == (int64_t)THMQI_BLOCK ? (uint64_t)page[at % THMQI_BLOCK / 4] * THMQI_BLOCK : s->bytes;
	free(page);
	if (n < 0)
		return (int)n;
	if (at >= s->bytes)
		return -THMQ_ECORRUPT;
	*ret_at = at;
	return 0;
}

/* Blocking, for a new log. */
int thmqi_segment_create(struct thmq_log *log, uint64_t position, struct segment **ret_segment)
{
	uint32_t piece = 1u << 20;
	struct segment *s;
	char name[40];
	uint64_t at;
	uint8_t *zeros = aligned_alloc(THMQI_BLOCK, piece);
	int rc = zeros ? thmqi_segment_new(log, position, &s) : -ENOMEM;

	if (rc) {
		free(zeros);
		return rc;
	}
	memset(zeros, 0, piece);
	rc = log->disk->file_open(log->dir, TEMPORARY, true, &s->file);
	if (rc)
		s->file = NULL;
	else
		rc = log->disk->file_allocate(s->file, s->bytes);
	for (at = 0; !rc && at < s->bytes; at += piece)
		rc = log->disk->file_write(s->file, zeros, piece, at, false);
	if (!rc)
		rc = log->disk->file_flush(s->file);
	thmqi_segment_name(position, name);
	if (!rc)
		rc = log->disk->rename(log->dir, TEMPORARY, name);
	if (!rc)
		rc = log->disk->dir_sync(log->dir);
	free(zeros);
	if (rc) {
		thmqi_segment_free(log, s);
		log->disk->unlink(log->dir, TEMPORARY);
		return rc;
	}
	*ret_segment = s;
	return 0;
}

/* -------------------------------------------------------- the next segment */

static void on_retry(struct thmqi_timer *t)
{
	thmqi_segment_prepare(thmqi_container(t, struct thmq_log, retry));
}

/*
 * From its first batch on: whether there will be a next segment may depend on what the cleaner can write into this one. Where
 * files have no limit of their own it is little, so that writers in a hurry are not kept waiting for the next one too early.
 */
void thmqi_segment_reserve(struct thmq_log *log)
{
	bool bounded = log->opts.limit_bytes || log->opts.full_policy == THMQ_FULL_DROP_OLDEST;
	bool lacks = log->prepare == PREPARE_FAILED && thmqi_is_full(log->prepare_error);

	if (log->prepare != PREPARE_READY && (bounded || log->events.live))
		log->reserve = log->active->bytes / (bounded || lacks ? RESERVE_SHARE : RESERVE_SHARE_LEAST);
}

uint64_t thmqi_reserve_lend(struct thmq_log *log, uint32_t quarters)
{
	uint64_t reserve = log->reserve;

	log->reserve -= reserve / 4 * quarters;
	return reserve;
}

void thmqi_reserve_give_back(struct thmq_log *log, uint64_t reserve)
{
	if (log->prepare != PREPARE_READY)
		log->reserve = THMQI_MAX(log->reserve, reserve);
}

uint64_t thmqi_log_lend(struct thmq_log *log)
{
	return thmqi_reserve_lend(log, RESERVE_OWNER);
}

void thmqi_log_lend_end(struct thmq_log *log, uint64_t lent)
{
	thmqi_reserve_give_back(log, lent);
}

static void prepare_failed(struct thmq_log *log, int error)
{
	thmqi_files_spare(log, error);
	log->prepare = PREPARE_FAILED;
	log->prepare_error = error;
	thmqi_segment_reserve(log);
	log->file_bytes = thmqi_log_file_bytes(log);
	log->tell_room = true; /* to learn that there is no space */
	thmqi_clean_look(log);
	if (!log->draining) {
		log->retry.fire = on_retry;
		thmqi_timer_start(log->core, &log->retry, log->core->now_ns + RETRY_NS);
	}
}

static void on_made(struct making *m, int error)
{
	struct thmq_log *log = m->log;

	if (error) {
		prepare_failed(log, error);
		return;
	}
	log->next->file = m->op.file;
	m->op.file = NULL;
	log->prepare = PREPARE_READY;
	log->prepare_error = 0;
	log->reserve = 0;
	m->hurried = false;
	log->tell_room = true;
}

void thmqi_segment_prepare_stop(struct thmq_log *log)
{
	if (log->prepare == PREPARE_READY)
		return;
	thmqi_making_stop(&log->making);
	if (log->next)
		thmqi_segment_free(log, log->next);
	log->next = NULL;
	log->prepare = PREPARE_IDLE;
	thmqi_timer_stop(log->core, &log->retry);
}

/* Would the next one's file, if one must be made, be too much? */
static bool beyond_limit(const struct thmq_log *log)
{
	if (!log->opts.limit_bytes || (log->spare.file && log->spare.bytes == log->next->bytes))
		return false;
	return thmqi_log_file_bytes(log) + log->next->bytes > log->opts.limit_bytes;
}

/* The cleaner may be about to give a file: worth waiting for, while there is time. It costs no writing of zeros. */
static bool may_wait(const struct thmq_log *log)
{
	const struct segment *s = log->active;

	return !log->spare.file && !log->making.hurried && (log->clean.look || log->clean.step || log->drop.step) &&
	       log->chain.position - s->position < s->bytes / 2;
}

void thmqi_segment_prepare(struct thmq_log *log)
{
	uint64_t position = log->active->position + log->active->bytes;
	struct making *m = &log->making;
	int rc;

	if (log->failed || log->draining || (log->prepare != PREPARE_IDLE && log->prepare != PREPARE_FAILED))
		return;
	if (log->prepare == PREPARE_IDLE && may_wait(log))
		return; /* log_finish() comes here again */
	rc = log->next ? 0 : thmqi_segment_new(log, position, &log->next);
	if (rc) {
		prepare_failed(log, rc);
		return;
	}
	if (beyond_limit(log)) {
		prepare_failed(log, -ENOSPC);
		return;
	}
	log->prepare = PREPARE_MAKING;
	m->log = log;
	m->done = on_made;
	m->temporary = TEMPORARY;
	m->bytes = log->next->bytes;
	thmqi_segment_name(position, m->name);
	m->recycled = NULL;
	if (log->spare.file && log->spare.bytes == m->bytes) {
		m->recycled = log->spare.file;
		thmqi_segment_name(log->spare.position, m->from);
		log->spare.file = NULL;
		log->stats.recycled_segments++;
	}
	log->file_bytes = thmqi_log_file_bytes(log);
	thmqi_making_start(m);
}

/* The rest of the active segment becomes a pad; batches go on in the next. */
static int pad(struct thmq_log *log)
{
	struct segment *s = log->active;
	uint64_t left = s->position + s->bytes - log->chain.position, index;
	struct batch_header *h;
	struct thmqi_buf *buf;

	if (!left) /* there is no pad whose flush would make the segment durable */
		return thmqi_log_flush(log, &index);
	if (thmqi_flights_full(log) || thmqi_log_alloc(log, THMQI_BLOCK, THMQI_OWNER_LOG, &buf) != 0)
		return -EAGAIN;
	memset(buf->data, 0, THMQI_BLOCK);
	h = (struct batch_header *)buf->data;
	thmqi_batch_seal(h, &log->chain, log->term, BATCH_PAD, 0, 0, (uint32_t)left);
	thmqi_batch_stamp(h, log->incarnation, log->durable_position);
	thmqi_log_launch(log, buf, true); /* so that two segments at most have plain writes */
	return 0;
}

/* Batches of full size that @bytes of a segment have room for. */
static uint64_t batches_in(const struct thmq_log *log, uint64_t bytes)
{
	return bytes / log->opts.batch_bytes;
}

int thmqi_log_room_for(const struct thmq_log *log, uint32_t count)
{
	const uint64_t largest = log->vote.segment_bytes_max, limit = log->opts.limit_bytes;
	uint64_t at, left, files, room, bytes;

	if (!log->disk || !limit)
		return 0;
	/* one is being written, one is made ready, one may be going */
	if (count > (limit - THMQI_MIN(limit, 3 * largest)) / largest * batches_in(log, largest))
		return -EMSGSIZE;
	if (log->opts.full_policy == THMQ_FULL_DROP_OLDEST)
		return 0;
	at = log->active->position + log->active->bytes;
	left = at - log->chain.position;
	left -= THMQI_MIN(left, log->forming.used + log->active->bytes / RESERVE_SHARE);
	room = batches_in(log, left);
	files = thmqi_log_file_bytes(log);
	if (log->prepare == PREPARE_MAKING || log->prepare == PREPARE_READY) {
		room += batches_in(log, log->next->bytes);
		at += log->next->bytes;
	}
	if (log->spare.file)
		files -= log->spare.bytes;
	for (; room < count; room += batches_in(log, bytes), files += bytes, at += bytes) {
		bytes = thmqi_segment_bytes(&log->vote, at);
		if (files + bytes > limit)
			return -ENOSPC;
	}
	return 0;
}

bool thmqi_log_lacks_room(const struct thmq_log *log)
{
	uint64_t left;

	if (!log->disk || log->prepare == PREPARE_READY || !thmqi_is_full(log->prepare_error) || thmqi_clean_makes_room(log))
		return false;
	left = log->active->position + log->active->bytes - log->chain.position;
	return left < log->forming.used + log->reserve + log->opts.batch_bytes;
}

int thmqi_segment_switch(struct thmq_log *log)
{
	int rc;

	if (log->prepare != PREPARE_READY) {
		log->making.hurried = true;
		if (log->prepare == PREPARE_IDLE)
			thmqi_segment_prepare(log);
		/* until one attempt succeeds the last one's failure is the answer, unless the oldest makes way */
		if (thmqi_is_full(log->prepare_error) && log->segment_count > 1 &&
		    (log->opts.full_policy == THMQ_FULL_DROP_OLDEST || thmqi_clean_makes_room(log)))
			return -EAGAIN;
		return log->prepare_error ? log->prepare_error : -EAGAIN;
	}
	if (thmqi_seal_busy(log)) /* it ends long before a segment is full, but for a device that writes nothing else */
		return -EAGAIN;
	rc = pad(log);
	if (!rc)
		rc = thmqi_segment_add(log, log->next);
	if (rc)
		return rc == -ENOMEM ? -EAGAIN : rc;
	log->active->last_term = log->chain.term;
	thmqi_seal_begin(log, log->active);
	log->active = log->next;
	log->active->prev_crc = log->chain.crc;
	log->carry_from = log->chain.index + 1;
	thmqi_seal_plan_part(log);
	log->next = NULL;
	log->prepare = PREPARE_IDLE;
	thmqi_files_cool(log);
	thmqi_segment_reserve(log);
	thmqi_clean_look(log);
	thmqi_segment_prepare(log);
	thmqi_vote_mark(log); /* so that a segment that goes missing is missed */
	log->tell_checkpoint = log->events.checkpoint != NULL;
	return 0;
}
