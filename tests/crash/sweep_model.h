/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep_model.h - a log, the model of what was appended to it, and a seeded workload of several lives: appends of all
 * durabilities and sizes, state, truncations, clean ends, cuts and kills. A log that is opened is held against the model.
 * Knows not where it is cut: that is sweep.h's.
 */
#ifndef CRASH_SWEEP_MODEL_H
#define CRASH_SWEEP_MODEL_H

#include "../unit/commitlog_rig.h"

#define NOTES_MAX 4096u
#define PARTITIONS 4u
#define ITEMS 3u /* of state */
#define JUMP                                                                                       \
	4096u /* offsets that an owner goes on by for each term since its last stored run: more than one life gives */
#define SPAN_MAX 3u

/* A run that was appended. Its bytes follow from its serial, which no other has. */
struct note {
	uint64_t serial, index, term, offset; /* state: the item */
	uint32_t partition, size, span;
	bool state;
};

struct model {
	uint64_t serial;
	uint64_t next[PARTITIONS];  /* offset that the owner gives next */
	uint64_t floor[PARTITIONS]; /* none below was never given */
	uint64_t durable;           /* index: all up to it was said to be */
	uint64_t cutting;           /* index that is being truncated; 0: none */
	uint64_t term, incarnation; /* highest that any life had */
	uint64_t begin_must,
		begin_may; /* index of the first batch that is held: the segments before it go */
	uint32_t first;    /* note that may be held; those before it went */
	uint32_t count;
	struct note notes[NOTES_MAX]; /* what may be in the log, in its order */
};

enum life_end { END_CLEAN, END_CUT, END_KILL };

struct world {
	struct rig r;
	struct thmqi_prng p;
	bool lying; /* the disk has not done what it said: what is lost and nobody can know of may be lost */
	bool drops; /* its segments go when they are old; else they stay, and more of it is taken from indexes */
	bool stop;         /* the life is to end */
	const char *wrong; /* what broke; NULL: nothing */
	char detail[160];
	/* replay */
	uint32_t first, seen; /* the log has the notes from first to before seen */
	uint32_t partitions_sealed;
	uint64_t dropped;             /* segments, in this life */
	uint64_t state_serial[ITEMS]; /* newest that was replayed */
	struct model m;               /* last: copied up to its last note */
};

static inline uint64_t below(struct world *w, uint64_t n)
{
	return thmqi_prng_below(&w->p, n);
}

static inline uint64_t mixed(uint64_t a, uint64_t b)
{
	struct thmqi_prng p;

	thmqi_prng_seed(&p, a * 0x9e3779b97f4a7c15ull + b);
	return thmqi_prng_next(&p) | 1;
}

static inline bool broke(struct world *w, const char *what)
{
	if (!w->wrong)
		w->wrong = what;
	return false;
}

static inline void model_copy(struct model *to, const struct model *from)
{
	memcpy(to, from, offsetof(struct model, notes) + from->count * sizeof(struct note));
}

/* ------------------------------------------------------------------- bytes */

static inline uint64_t word_of(uint64_t serial, uint32_t at)
{
	return serial * 0x9e3779b97f4a7c15ull ^ (at / 8 + 1) * 0xc2b2ae3d27d4eb4full;
}

static inline void bytes_put(uint8_t *bytes, uint32_t size, uint64_t serial)
{
	uint64_t word;
	uint32_t at;

	for (at = 0; at < size; at += 8) {
		word = word_of(serial, at);
		memcpy(bytes + at, &word, THMQI_MIN(8u, size - at));
	}
}

/* The log has checked the whole: the ends and a stride are enough to know whose bytes these are. */
static inline bool bytes_ok(const uint8_t *bytes, uint32_t size, uint64_t serial)
{
	uint64_t word;
	uint32_t at;

	for (at = 0; at < size; at += at < 64 || at + 640 > size ? 8 : 584) {
		word = word_of(serial, at);
		if (memcmp(bytes + at, &word, THMQI_MIN(8u, size - at)) != 0)
			return false;
	}
	return true;
}

/* ------------------------------------------------------------------ replay */

static inline int replay_failed(struct world *w, const char *what)
{
	broke(w, what);
	return -EPROTO;
}

/* Batch @index is the first that is there, if none was seen: the segments before it may be gone. */
static inline void saw_begin(struct world *w, uint64_t index)
{
	if (w->seen != w->first)
		return;
	while (w->first < w->m.count && w->m.notes[w->first].index < index &&
	       w->m.notes[w->first].index < w->m.begin_may)
		w->first++;
	w->seen = w->first;
}

/* All up to batch @index is in the log. */
static inline void saw(struct world *w, uint64_t index)
{
	while (w->seen < w->m.count && w->m.notes[w->seen].index <= index)
		w->seen++;
}

/* Where a partition ends in a segment that was taken from its index. */
static inline int on_sealed(struct world *w, const struct thmq_log_run *run)
{
	const struct note *last = NULL, *n;
	uint32_t i;

	for (i = w->first; i < w->m.count && w->m.notes[i].index <= run->index; i++)
		if (!w->m.notes[i].state && w->m.notes[i].partition == run->header->partition)
			last = &w->m.notes[i];
	n = last;
	if (!n || run->header->base_offset + run->header->span != n->offset + n->span ||
	    n->term != run->term) {
		snprintf(w->detail, sizeof(w->detail),
			 "partition %u ends at offset %llu in term %llu, not %llu in %llu",
			 run->header->partition,
			 (unsigned long long)(run->header->base_offset + run->header->span),
			 (unsigned long long)run->term,
			 (unsigned long long)(n ? n->offset + n->span : 0),
			 (unsigned long long)(n ? n->term : 0));
		return replay_failed(w, "an index speaks of another run than was appended");
	}
	w->partitions_sealed++;
	saw(w, run->index);
	return 0;
}

static inline bool is_note(const struct note *n, const struct thmq_log_run *run)
{
	return n->partition == run->header->partition && n->offset == run->header->base_offset &&
	       n->size == run->header->len && n->index == run->index && n->term == run->term &&
	       bytes_ok(run->payload, n->size, n->serial);
}

static inline int on_state(struct world *w, const struct thmq_log_run *run)
{
	uint32_t i;

	if (run->index == 1)
		return 0; /* the log's own */
	saw_begin(w, run->index);
	for (i = w->first; i < w->m.count; i++)
		if (w->m.notes[i].state && is_note(&w->m.notes[i], run))
			break;
	if (i == w->m.count)
		return replay_failed(w, "a state that was never appended, or was cut before");
	if (w->m.notes[i].serial > w->state_serial[w->m.notes[i].offset])
		w->state_serial[w->m.notes[i].offset] = w->m.notes[i].serial;
	if (i > w->seen)
		saw(w, run->index); /* from an index: the batch is there */
	else
		w->seen = THMQI_MAX(w->seen, i + 1);
	return 0;
}

static inline int on_replay(void *ctx, const struct thmq_log_run *run)
{
	struct rig *r = ctx;
	struct world *w = thmqi_container(r, struct world, r);

	if (run->header->encoding == THMQ_RUN_STATE)
		return on_state(w, run);
	if (!run->payload)
		return on_sealed(w, run);
	saw_begin(w, run->index);
	if (w->seen == w->m.count)
		return replay_failed(w, "a run that was never appended, or was cut before");
	if (w->m.notes[w->seen].state || !is_note(&w->m.notes[w->seen], run) ||
	    run->header->span != w->m.notes[w->seen].span)
		return replay_failed(w, "another run than was appended here");
	w->seen++;
	return 0;
}

/* -------------------------------------------------------------------- open */

static inline const struct note *last_of(const struct world *w, uint32_t partition)
{
	uint32_t i;

	for (i = w->seen; i-- > w->first;)
		if (!w->m.notes[i].state && w->m.notes[i].partition == partition)
			return &w->m.notes[i];
	return NULL;
}

static inline const struct note *first_of(const struct world *w, uint32_t partition)
{
	uint32_t i;

	for (i = w->first; i < w->seen; i++)
		if (!w->m.notes[i].state && w->m.notes[i].partition == partition)
			return &w->m.notes[i];
	return NULL;
}

/* The log begins where it may, and has what is there from there on. */
static inline bool check_begin(struct world *w)
{
	uint64_t begin = rig_stats(&w->r).begin_index;
	uint32_t i = w->m.first;

	if (begin > w->m.begin_may || (begin < w->m.begin_must && !w->lying)) {
		snprintf(w->detail, sizeof(w->detail), "at batch %llu, not from %llu to %llu",
			 (unsigned long long)begin, (unsigned long long)w->m.begin_must,
			 (unsigned long long)w->m.begin_may);
		return broke(w, "it begins where it may not");
	}
	while (i < w->m.count && w->m.notes[i].index < begin)
		i++;
	if (w->first > i)
		return broke(w, "its first runs are gone");
	w->first = i;
	w->seen = THMQI_MAX(w->seen, i);
	return true;
}

static inline bool check_bounds(struct world *w)
{
	const struct note *last;
	uint64_t begin, end;
	uint32_t p;
	int rc;

	for (p = 0; p < PARTITIONS; p++) {
		last = last_of(w, p);
		rc = thmq_log_bounds(w->r.log, p, &begin, &end);
		if (rc != (last ? 0 : -ENOENT) ||
		    (last && (end != last->offset + last->span || begin != first_of(w, p)->offset)))
			return broke(w, "a partition's bounds are not those of its runs");
	}
	return true;
}

static inline bool check_state(struct world *w)
{
	uint64_t newest[ITEMS] = {0};
	uint32_t i;

	for (i = w->first; i < w->seen; i++)
		if (w->m.notes[i].state)
			newest[w->m.notes[i].offset] = w->m.notes[i].serial;
	for (i = 0; i < ITEMS; i++)
		if (newest[i] != w->state_serial[i])
			return broke(w, "not the newest state was replayed");
	return true;
}

/* What was found becomes the model; the owner goes on behind what any life before can have given. */
static inline bool adopt(struct world *w)
{
	struct thmq_log_stats s = rig_stats(&w->r);
	const struct note *last;
	uint32_t p;

	if (!w->lying && (s.term <= w->m.term || s.incarnation <= w->m.incarnation))
		return broke(w, "a term or an incarnation comes twice");
	for (p = 0; p < PARTITIONS; p++) {
		last = last_of(w, p);
		w->m.next[p] = last ? last->offset + last->span + JUMP * (s.term - last->term)
				    : JUMP * s.term;
		/* an owner stores what comes next before a partition's last run goes; this one knows it */
		if (!w->lying && w->m.next[p] < w->m.floor[p] && (last || !w->first))
			return broke(w, "an offset would be given twice");
		w->m.next[p] = THMQI_MAX(w->m.next[p], w->m.floor[p]);
	}
	w->m.term = THMQI_MAX(w->m.term, s.term);
	w->m.incarnation = THMQI_MAX(w->m.incarnation, s.incarnation);
	w->m.count = w->seen;
	w->m.first = w->first;
	w->m.begin_must = w->m.begin_may = s.begin_index;
	w->m.durable = w->seen ? w->m.notes[w->seen - 1].index : 0;
	w->m.cutting = 0;
	return true;
}

static inline void replay_begin(struct world *w)
{
	w->first = w->seen = w->m.first;
	w->partitions_sealed = 0;
	w->m.begin_must = THMQI_MAX(w->m.begin_must, 1ull);
	w->m.begin_may = THMQI_MAX(w->m.begin_may, 1ull);
	memset(w->state_serial, 0, sizeof(w->state_serial));
	w->r.events.replay = on_replay;
}

/* Is what was found all that was said to be durable? */
static inline bool is_whole(const struct world *w)
{
	return w->seen == w->m.count || w->m.notes[w->seen].index > w->m.durable;
}

/* The log that has just been opened holds a prefix of the model that has all that is durable, and is that prefix then. */
static inline bool check_opened(struct world *w)
{
	if (w->wrong || !check_begin(w))
		return false;
	if (!w->lying && !is_whole(w)) {
		snprintf(w->detail, sizeof(w->detail),
			 "durable up to batch %llu, batch %llu is missing",
			 (unsigned long long)w->m.durable,
			 (unsigned long long)w->m.notes[w->seen].index);
		return broke(w, "a run that was durable is gone");
	}
	return check_bounds(w) && check_state(w) && adopt(w);
}

static inline bool reopen(struct world *w)
{
	int rc;

	replay_begin(w);
	rc = rig_open(&w->r);
	if (rc && !w->wrong) {
		snprintf(w->detail, sizeof(w->detail), "%s", thmq_errmsg());
		return broke(w, "it does not open");
	}
	return !rc && check_opened(w);
}

/* -------------------------------------------------------------------- read */

/* A disk that lied may have damaged what is not read at open: that is told, and no other bytes are. */
static inline bool read_partition(struct world *w, uint32_t partition)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	const struct note *n;
	bool good = true, told = false;
	uint32_t i;
	int rc;

	if (thmq_log_reader_open(w->r.log, partition, NULL, NULL, &reader) != 0)
		return broke(w, "no reader can be opened");
	n = first_of(w, partition);
	thmq_log_reader_seek(reader, n ? n->offset : 0);
	for (i = w->m.first; i < w->m.count && good && !told; i++) {
		n = &w->m.notes[i];
		if (n->state || n->partition != partition)
			continue;
		rc = rig_read(&w->r, reader, UINT64_MAX, &v);
		told = rc < 0 && w->lying;
		if (rc != 1 && !told) {
			snprintf(w->detail, sizeof(w->detail), "partition %u offset %llu: %s",
				 partition, (unsigned long long)n->offset, thmq_strerror(rc));
			good = broke(w, "a reader does not find everything");
		}
		if (rc != 1)
			continue;
		if (v.run.header->partition != partition ||
		    v.run.header->base_offset != n->offset || v.run.header->len != n->size ||
		    v.run.index != n->index || v.run.term != n->term ||
		    !bytes_ok(v.run.payload, n->size, n->serial))
			good = broke(w, "a reader gives another run than was appended");
		thmq_log_view_release(w->r.log, &v);
	}
	thmq_log_reader_close(reader);
	return good;
}

static inline bool find_some_time(struct world *w)
{
	const struct note *n;
	uint64_t offset;

	if (w->m.count == w->m.first)
		return true;
	n = &w->m.notes[w->m.first + below(w, w->m.count - w->m.first)];
	if (n->state)
		return true;
	if (rig_find_time(&w->r, n->partition, (int64_t)n->serial * 1000, &offset) != 0 ||
	    offset != n->offset)
		return broke(w, "a run is not found by its time");
	return true;
}

static inline bool read_all(struct world *w)
{
	uint32_t p;

	for (p = 0; p < PARTITIONS; p++)
		if (!read_partition(w, p) || !find_some_time(w))
			return false;
	return true;
}

/* -------------------------------------------------------------------- live */

static inline bool append(struct world *w, uint32_t durability)
{
	struct thmq_run_header *run;
	struct note n = {.serial = w->m.serial + 1,
			 .partition = (uint32_t)below(w, PARTITIONS),
			 .size = rig_some_size(&w->p)};
	int rc;

	n.state = below(w, 12) == 0;
	n.span = n.state ? 0 : 1 + (uint32_t)below(w, SPAN_MAX);
	n.size = n.state ? n.size % 500 : n.size;
	n.offset = n.state ? below(w, ITEMS) : w->m.next[n.partition];
	n.term = rig_stats(&w->r).term;
	rc = thmq_log_append(w->r.log, (uint32_t)sizeof(*run) + n.size, &run, &n.index);
	if (rc) /* full, or failed: it says so where it may */
		return rc == -EAGAIN || rc == -THMQ_EFAILED || rc == -ENOSPC || rc == -EIO ||
		       broke(w, "an append is refused");
	memset(run, 0, sizeof(*run));
	run->len = n.size;
	run->base_offset = n.offset;
	run->partition = n.partition;
	run->count = run->span = n.span;
	run->encoding = n.state ? THMQ_RUN_STATE : THMQ_RUN_OPAQUE;
	run->first_time_ns = run->last_time_ns = (int64_t)n.serial * 1000;
	bytes_put((uint8_t *)(run + 1), n.size, n.serial);
	/* noted before the log may write it: it can be cut in there */
	w->m.notes[w->m.count++] = n;
	w->m.serial++;
	if (!n.state) {
		w->m.next[n.partition] += n.span;
		w->m.floor[n.partition] =
			THMQI_MAX(w->m.floor[n.partition], w->m.next[n.partition]);
	}
	thmq_log_append_end(w->r.log, run, durability);
	return true;
}

/* What has been said to be durable, while what is being cut off is neither here nor there. */
static inline void note_durable(struct world *w)
{
	uint64_t durable = w->m.cutting ? THMQI_MIN(w->r.durable, w->m.cutting - 1) : w->r.durable;

	w->m.durable = THMQI_MAX(w->m.durable, durable);
}

static inline bool truncate_some(struct world *w)
{
	uint64_t cut;

	if (w->m.count == w->m.first)
		return true;
	cut = w->m.notes[w->m.count - 1 - below(w, THMQI_MIN(w->m.count - w->m.first, 20u))].index;
	note_durable(w);
	w->m.cutting = cut;
	w->m.durable = THMQI_MIN(w->m.durable, cut - 1);
	if (thmq_log_truncate(w->r.log, cut) != 0) {
		/* it may have happened or not */
		w->r.durable = THMQI_MIN(w->r.durable, cut - 1);
		w->m.cutting = 0;
		return true;
	}
	/* the owner has given these offsets to nobody, and goes on behind them all the same */
	while (w->m.count && w->m.notes[w->m.count - 1].index >= cut)
		w->m.count--;
	w->m.cutting = 0;
	return true;
}

/* The oldest segment goes, in the background: from here on it may be gone, and from the drop's end on it must. */
static inline void drop_some(struct world *w)
{
	struct thmq_log_stats s = rig_stats(&w->r);

	if (s.dropped_segments > w->dropped) {
		w->dropped = s.dropped_segments;
		w->m.begin_must = w->m.begin_may;
	}
	if (!w->drops || below(w, 25))
		return;
	w->m.begin_may = UINT64_MAX; /* it can be cut in there */
	thmqi_log_drop_oldest(w->r.log);
	s = rig_stats(&w->r);
	w->m.begin_may = s.begin_index;
}

static inline void poll_some(struct world *w)
{
	uint32_t i;

	if (below(w, 3))
		thmqi_core_poll(w->r.core, below(w, 2) ? 0 : below(w, 200000));
	if (below(w, 50) == 0)
		for (i = 0; i < 8; i++)
			thmqi_core_poll(w->r.core, 200000000); /* an idle second moves the mark */
	if (below(w, 20) == 0)
		rig_poll(&w->r, 20); /* so that files that are being made come to their end */
}

/* What a life does. Return: false something is wrong. */
static inline bool live(struct world *w)
{
	uint32_t mood = (uint32_t)below(w, 4); /* 0: all durable … 3: hardly anything */
	uint32_t steps = 25 + (uint32_t)below(w, 30), level;

	w->dropped = 0;

	while (steps-- && !w->stop && w->m.count < NOTES_MAX - 8) {
		level = below(w, 4) >= mood ? THMQ_DURABILITY_DURABLE
					    : (uint32_t)(THMQ_DURABILITY_MEMORY + below(w, 2));
		if (!append(w, level))
			return false;
		poll_some(w);
		drop_some(w);
		if (below(w, 40) == 0 && !truncate_some(w))
			return false;
		note_durable(w);
	}
	return w->r.unordered ? broke(w, "what settled went back") : true;
}

/* The process dies and the machine does not: the disk's cache stays, what was being done is done in part. */
static inline void kill_it(struct world *w)
{
	struct thmqi_disk_sim_fault f = {.opcode = THMQI_DISK_SIM_ANY_CHANGE,
					 .effect = THMQI_DISK_SIM_ERROR,
					 .nth = 1,
					 .repeat = UINT64_MAX};

	thmqi_disk_sim_faults_clear(w->r.sim);
	thmqi_disk_sim_fault_add(w->r.sim, &f);
	rig_close(&w->r);
	thmqi_disk_sim_faults_clear(w->r.sim);
}

static inline bool end_life(struct world *w, enum life_end how)
{
	int rc;

	if (how == END_CUT) {
		rig_crash(&w->r, THMQI_DISK_SIM_CRASH_SEEDED);
	} else if (how == END_KILL) {
		kill_it(w);
	} else {
		rc = rig_close(&w->r);
		if (rc < -900)
			return broke(w, "memory was not given back");
		if (rc == 0 && w->m.count)
			w->m.durable = w->m.notes[w->m.count - 1].index;
	}
	return !w->wrong;
}

#endif
