/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Anything at any time: appends of all shapes, readers that go on while segments are sealed, dropped, truncated and forgotten
 * around them, look-ups by time and key, snapshots that nobody gives back, closes, power cuts, other options at the next open.
 * Whatever a call gives is held against a model: the next run, and none skipped; the run's own bytes; all hits of a key.
 *
 * usage: commitlog_monkey_test [seed [seeds]]: only these, in words. THMQ_TEST_FULL=1: fifty times as many.
 */
#include "../../lib/commitlog/internal.h"
#include "../unit/commitlog_rig.h"
#include "commitlog/offline.h"

#define SLOTS 6u /* partitions at a time; each gets a number of its own, never used again */
#define READERS 8u
#define RUNS_MAX 6000u
#define RECORDS_MAX 5u
#define KEYS 12u
#define PATIENCE 400u /* polls until what was asked for is there */
#define STEPS 1500u

struct shape {
	uint64_t serial, base, index;
	uint32_t partition, span, count;
	int64_t last_time_ns;
	uint64_t tag_filter;
	bool keyed;
};

struct hand { /* a reader */
	struct thmq_log_reader *reader;
	uint32_t partition;
	uint64_t want, filter;
};

struct world {
	struct rig r;
	struct thmqi_prng p;
	uint64_t seed, serial;
	bool loud;
	const char *wrong;
	char detail[200];
	struct shape runs[RUNS_MAX]; /* what is in the log, in its order */
	uint32_t count;
	uint32_t partitions[SLOTS], next_partition;
	uint64_t next[SLOTS];
	int64_t time_ns[SLOTS];
	struct hand hands[READERS];
	struct thmqi_log_snapshot *snap;
	uint64_t durable;
	/* totals */
	uint64_t reads, hits, times, lives, dropped, cut, forgotten;
};

static uint64_t below(struct world *w, uint64_t n)
{
	return thmqi_prng_below(&w->p, n);
}

static bool broke(struct world *w, const char *what)
{
	if (!w->wrong)
		w->wrong = what;
	return false;
}

/* ------------------------------------------------------------------- records */

static uint64_t mixed(uint64_t serial, uint32_t i)
{
	struct thmqi_prng p;

	thmqi_prng_seed(&p, serial * 64 + i);
	return thmqi_prng_next(&p);
}

struct texts {
	char key[16], tag[16];
	uint8_t data[8192];
};

/* Record @i of a run: all of it follows from the run's serial. */
static struct thmq_record_view record_of(const struct shape *s, uint32_t i, struct texts *t)
{
	uint64_t x = mixed(s->serial, i);
	struct thmq_record_view v = {.offset = s->base + i,
				     .time_ns =
					     s->last_time_ns - (int64_t)(s->count - 1 - i) * 1000};

	v.len = x % 16 == 0   ? (uint32_t)(x >> 8) % sizeof(t->data)
		: x % 16 == 1 ? 0
			      : (uint32_t)(x >> 8) % 200;
	for (uint32_t k = 0; k < v.len; k++)
		t->data[k] = (uint8_t)(s->serial * 31 + i * 7 + k);
	v.data = t->data;
	if (s->keyed) {
		v.key_len = (uint32_t)snprintf(t->key, sizeof(t->key), "key-%u",
					       (unsigned)(x >> 32) % KEYS);
		v.key = t->key;
	}
	if (s->tag_filter) {
		v.tag_len = (uint32_t)snprintf(t->tag, sizeof(t->tag), "tag-%u",
					       (unsigned)(s->serial % 3));
		v.tag = t->tag;
	}
	return v;
}

static bool view_ok(struct world *w, const struct thmq_log_view *v, const struct shape *s)
{
	struct thmq_record_cursor cursor = {{0}};
	struct thmq_record_view is, should;
	static struct texts t;
	uint32_t i = 0;

	if (v->run.header->partition != s->partition || v->run.header->base_offset != s->base ||
	    v->run.header->span != s->span || v->run.index != s->index)
		return broke(w, "another run than should come");
	if (v->run.header->encoding == THMQ_RUN_OPAQUE)
		return s->count == 0 || broke(w, "other bytes");
	while (thmq_record_next(&v->run, &cursor, &is) == 1) {
		should = record_of(s, i++, &t);
		if (is.offset != should.offset || is.len != should.len ||
		    is.key_len != should.key_len || is.tag_len != should.tag_len ||
		    memcmp(is.data, should.data, is.len) != 0 ||
		    (is.key_len && memcmp(is.key, should.key, is.key_len) != 0))
			return broke(w, "another record than was appended");
	}
	return i == s->count || broke(w, "a run lacks records");
}

/* -------------------------------------------------------------------- append */

static bool append(struct world *w)
{
	struct thmq_record_view views[RECORDS_MAX];
	static struct texts texts[RECORDS_MAX];
	uint32_t slot = (uint32_t)below(w, SLOTS), len, i;
	struct thmq_run_header *run;
	struct shape s = {.serial = ++w->serial, .partition = w->partitions[slot]};
	int rc;

	if (w->count == RUNS_MAX)
		return true;
	s.count = below(w, 12) == 0
			  ? 0
			  : 1 + (uint32_t)below(w, RECORDS_MAX); /* 0: a run of no message */
	s.keyed = s.count && below(w, 2);
	s.tag_filter = s.count && below(w, 3) == 0 ? 1 : 0;
	w->next[slot] += below(w, 40) == 0 ? below(w, 1u << (4 * below(w, 8)))
					   : 0; /* offsets may have gaps */
	s.base = w->next[slot];
	s.span = s.count;
	w->time_ns[slot] +=
		(int64_t)(below(w, 30) == 0 ? below(w, 3000000000000) : below(w, 1000000)) + 10000;
	s.last_time_ns = w->time_ns[slot] -
			 (slot % 2 && below(w, 4) == 0 ? (int64_t)below(w, 100000000) : 0);
	for (i = 0; i < s.count; i++)
		views[i] = record_of(&s, i, &texts[i]);
	len = s.count ? thmq_run_len(views, s.count) : (uint32_t)(sizeof(*run) + s.serial % 300);
	rc = thmq_log_append(w->r.log, len, &run, &s.index);
	if (rc)
		return rc == -EAGAIN || broke(w, "an append is refused");
	if (s.count && thmq_run_encode(run, len, s.partition, views, s.count) != 0)
		return broke(w, "a run cannot be encoded");
	if (!s.count) {
		thmq_run_init(run, THMQ_RUN_OPAQUE, s.partition, s.base, 0,
			      (uint32_t)(s.serial % 300));
		memset(run + 1, 0, s.serial % 300);
		run->last_time_ns = s.last_time_ns;
	}
	s.tag_filter = run->tag_filter;
	rc = thmq_log_append_end(w->r.log, run, 1 + (uint32_t)below(w, 3));
	if (rc)
		return broke(w, "a run is refused");
	w->next[slot] += s.span;
	w->runs[w->count++] = s;
	return true;
}

/* ---------------------------------------------------------------------- read */

static uint64_t begin_index(struct world *w)
{
	return rig_stats(&w->r).begin_index;
}

/* The first run of @h's partition that it has not passed. From @index on. NULL: none. */
static const struct shape *expected(const struct world *w, const struct hand *h, uint64_t index,
				    uint64_t end)
{
	for (uint32_t i = 0; i < w->count; i++) {
		const struct shape *s = &w->runs[i];

		if (s->partition == h->partition && s->index >= index &&
		    s->base + s->span > h->want && s->base < end &&
		    (!h->filter || (s->tag_filter & h->filter)))
			return s;
	}
	return NULL;
}

static const struct shape *find_run(const struct world *w, const struct thmq_log_run *run)
{
	for (uint32_t i = w->count; i-- > 0;)
		if (w->runs[i].partition == run->header->partition &&
		    w->runs[i].base == run->header->base_offset &&
		    w->runs[i].span == run->header->span && w->runs[i].index == run->index)
			return &w->runs[i];
	return NULL;
}

static bool out_of_range(struct world *w, struct hand *h, uint64_t begin)
{
	const struct hand all = {.partition = h->partition};
	const struct shape *first = expected(w, &all, begin, UINT64_MAX);

	if (first && first->base <= h->want && begin == begin_index(w))
		return broke(w, "what is held is said to be out of range");
	h->want = first ? first->base : 0;
	thmq_log_reader_seek(h->reader, h->want);
	return true;
}

/* @patient: until it is there. */
static bool read_one(struct world *w, struct hand *h, bool patient)
{
	uint64_t end = below(w, 5) ? UINT64_MAX : h->want + below(w, 50), begin = begin_index(w);
	const struct shape *should, *is;
	struct thmq_log_view v;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < (patient ? PATIENCE : 1) && rc == 0; i++) {
		rc = thmq_log_read(h->reader, end, &v);
		if (rc == 0 && patient)
			thmqi_core_poll(w->r.core, 1000000);
	}
	if (rc == -THMQ_EOFFSETRANGE)
		return out_of_range(w, h, begin);
	if (rc < 0) {
		snprintf(w->detail, sizeof(w->detail), "partition %u from %llu: %s", h->partition,
			 (unsigned long long)h->want, thmq_strerror(rc));
		return broke(w, "a read fails");
	}
	should = expected(w, h, begin_index(w), end);
	if (rc == 0 && patient && should) {
		snprintf(w->detail, sizeof(w->detail),
			 "partition %u from %llu: run at %llu of batch %llu", h->partition,
			 (unsigned long long)h->want, (unsigned long long)should->base,
			 (unsigned long long)should->index);
		return broke(w, "a run that is there does not come");
	}
	if (rc == 0)
		return true;
	w->reads++;
	is = find_run(w, &v.run);
	/* a run of no message comes or not */
	if (!is || is->partition != h->partition || is->base + is->span < h->want ||
	    (is->span && is->base + is->span == h->want) || is->base >= end) {
		snprintf(w->detail, sizeof(w->detail), "partition %u from %llu: %llu of batch %llu",
			 h->partition, (unsigned long long)h->want,
			 (unsigned long long)v.run.header->base_offset,
			 (unsigned long long)v.run.index);
		broke(w, "a run that is not there, or not wanted");
	} else if (should && should->base < is->base) {
		snprintf(w->detail, sizeof(w->detail), "partition %u from %llu: %llu before %llu",
			 h->partition, (unsigned long long)h->want,
			 (unsigned long long)should->base, (unsigned long long)is->base);
		broke(w, "a run is skipped");
	} else if (view_ok(w, &v, is)) {
		h->want = is->base + is->span;
	}
	thmq_log_view_release(w->r.log, &v);
	return !w->wrong;
}

static bool find_time(struct world *w, struct hand *h)
{
	uint64_t offset = 0, begin = begin_index(w);
	const struct shape *first = NULL, *held = NULL;
	const struct shape *some;
	int rc = 0;

	if (!w->count)
		return true;
	some = &w->runs[below(w, w->count)];
	for (uint32_t i = 0; i < PATIENCE && rc == 0; i++) {
		rc = thmq_log_reader_find_time(h->reader, some->last_time_ns, &offset);
		if (rc == 0)
			thmqi_core_poll(w->r.core, 1000000);
	}
	thmq_log_reader_seek(h->reader, h->want);
	for (uint32_t i = 0; i < w->count; i++)
		if (w->runs[i].partition == h->partition && w->runs[i].index >= begin_index(w)) {
			held = held ? held : &w->runs[i];
			first = first || w->runs[i].last_time_ns < some->last_time_ns ? first
										      : &w->runs[i];
		}
	w->times++;
	if (rc == 1 && first && offset > first->base)
		return broke(w, "a run by its time: a later one is given");
	if (rc == 1 && held && first && offset < first->base && begin == 1 &&
	    h->partition % SLOTS % 2 == 0 && offset >= held->base && w->r.opts.dir) {
		/* with times that only rise it is this very run */
		snprintf(w->detail, sizeof(w->detail), "partition %u: %llu, not %llu", h->partition,
			 (unsigned long long)offset, (unsigned long long)first->base);
		return broke(w, "a run by its time: an earlier one is given");
	}
	if (rc < 0 && first)
		return broke(w, "a run is not found by its time");
	return rc != 0 || !first || broke(w, "a run by its time: no answer");
}

/* -------------------------------------------------------------------- by key */

static bool keyed_record(const struct shape *s, uint32_t i, const char *key)
{
	static struct texts t;

	if (!s->keyed)
		return false;
	record_of(s, i, &t);
	return strcmp(t.key, key) == 0;
}

/* All records with a key, newest first; of segments that go meanwhile some may be missing. */
static bool find_key(struct world *w, struct hand *h)
{
	struct thmq_log_hit hits[7];
	char key[16];
	uint64_t limit = UINT64_MAX;
	uint32_t at = w->count, rec = 0, idle = 0;
	int rc;

	snprintf(key, sizeof(key), "key-%u", (unsigned)below(w, KEYS));
	if (thmq_log_reader_seek_key(h->reader, key, (uint32_t)strlen(key), INT64_MIN, INT64_MAX,
				     UINT64_MAX) != 0)
		return broke(w, "a search by key is refused");
	while ((rc = thmq_log_reader_find_key(h->reader, 1 + (uint32_t)below(w, 7), hits)) >= 0 &&
	       idle < PATIENCE) {
		if (rc == 0)
			thmqi_core_poll(w->r.core, 1000000);
		idle = rc ? 0 : idle + 1;
		for (int i = 0; i < rc; i++) {
			w->hits++;
			if (hits[i].offset >= limit)
				return broke(w, "hits do not fall");
			limit = hits[i].offset;
			for (;; rec--) { /* back to that record */
				while (!rec && at)
					rec = w->runs[--at].partition == h->partition
						      ? w->runs[at].count
						      : 0;
				if (!rec || w->runs[at].base + rec - 1 < hits[i].offset)
					return broke(w, "a hit of a record that is not there");
				if (!keyed_record(&w->runs[at], rec - 1, key))
					continue;
				if (w->runs[at].base + rec - 1 == hits[i].offset)
					break;
				snprintf(w->detail, sizeof(w->detail),
					 "partition %u offset %llu of batch %llu", h->partition,
					 (unsigned long long)(w->runs[at].base + rec - 1),
					 (unsigned long long)w->runs[at].index);
				return broke(w, "a record is not found by its key");
			}
			rec--;
		}
	}
	thmq_log_reader_seek(h->reader, h->want);
	if (rc != -ENOENT)
		return broke(w, "a search by key ends badly");
	for (;; rec--) {
		while (!rec && at)
			rec = w->runs[--at].partition == h->partition ? w->runs[at].count : 0;
		if (!rec || w->runs[at].index < begin_index(w))
			return true;
		if (keyed_record(&w->runs[at], rec - 1, key)) {
			snprintf(w->detail, sizeof(w->detail),
				 "partition %u offset %llu of batch %llu is the next of %s",
				 h->partition, (unsigned long long)(w->runs[at].base + rec - 1),
				 (unsigned long long)w->runs[at].index, key);
			return broke(w, "a search by key ends too early");
		}
	}
}

/* ------------------------------------------------------------------- readers */

static void hand_close(struct hand *h)
{
	if (h->reader)
		thmq_log_reader_close(h->reader);
	h->reader = NULL;
}

static bool use_reader(struct world *w)
{
	struct hand *h = &w->hands[below(w, READERS)];
	uint32_t i;

	if (!h->reader) {
		*h = (struct hand){.partition = w->partitions[below(w, SLOTS)]};
		if (thmq_log_reader_open(w->r.log, h->partition, rig_ready, &w->r, &h->reader) != 0)
			return broke(w, "no reader can be opened");
		return true;
	}
	switch (below(w, 16)) {
	case 0:
		hand_close(h);
		return true;
	case 1:
		h->want = w->count ? w->runs[below(w, w->count)].base : 0;
		thmq_log_reader_seek(h->reader, h->want);
		return true;
	case 2:
		h->filter =
			below(w, 2) ? 0 : thmq_tag_filter("tag-1", 5) | thmq_tag_filter("tag-2", 5);
		thmq_log_reader_filter(h->reader, h->filter);
		thmq_log_reader_seek(h->reader,
				     h->want); /* what the last filter passed over counts as read */
		return true;
	case 3:
		return find_time(w, h);
	case 4:
		return find_key(w, h);
	case 5:
		return read_one(w, h, true);
	default:
		for (i = (uint32_t)below(w, 20); i && !w->wrong; i--)
			read_one(w, h, false);
		return !w->wrong;
	}
}

/* ---------------------------------------------------------------- the log goes */

static void slot_renew(struct world *w, uint32_t slot)
{
	w->partitions[slot] = w->next_partition * SLOTS + slot;
	w->next_partition++;
	w->next[slot] = below(w, 3) ? 0 : UINT32_MAX - 100ull;
	if (below(w, 10) == 0)
		w->next[slot] = UINT64_MAX / 2 - 50;
}

static void forget(struct world *w)
{
	uint32_t slot = (uint32_t)below(w, SLOTS), i, kept = 0, partition = w->partitions[slot];

	for (i = 0; i < READERS; i++)
		if (w->hands[i].partition == partition && below(w, 2))
			hand_close(&w->hands[i]);
	thmq_log_forget(w->r.log, partition);
	for (i = 0; i < READERS; i++) { /* those that are left find nothing, and do no harm */
		struct thmq_log_view v;

		if (!w->hands[i].reader || w->hands[i].partition != partition)
			continue;
		if (thmq_log_read(w->hands[i].reader, UINT64_MAX, &v) == 1) {
			thmq_log_view_release(w->r.log, &v);
			broke(w, "a partition that was forgotten is read");
		}
		hand_close(&w->hands[i]);
	}
	for (i = 0; i < w->count; i++)
		if (w->runs[i].partition != partition)
			w->runs[kept++] = w->runs[i];
	w->count = kept;
	slot_renew(w, slot);
	w->forgotten++;
}

static void drop(struct world *w)
{
	int rc = thmqi_log_drop_oldest(w->r.log);

	w->dropped += rc == 0;
	if (rc && rc != -EAGAIN && rc != -ENOENT)
		broke(w, "a drop fails");
}

static void snapshot(struct world *w)
{
	if (w->snap) {
		if (below(w, 2)) {
			thmqi_log_snapshot_let_go(w->r.log, w->snap);
			free(w->snap);
		} else {
			thmqi_log_snapshot_abandon(w->snap);
		}
		w->snap = NULL;
	} else {
		w->snap = malloc(sizeof(*w->snap));
		if (!w->snap || thmqi_log_snapshot_take(w->r.log, w->snap) != 0)
			broke(w, "no snapshot can be taken");
	}
}

static void after_cut(struct world *w)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		w->next[slot] = 0;
		for (uint32_t i = w->count; i-- > 0;)
			if (w->runs[i].partition == w->partitions[slot]) {
				w->next[slot] = w->runs[i].base + w->runs[i].span;
				break;
			}
		/* those of segments that went count too */
		w->next[slot] = THMQI_MAX(w->next[slot], 1ull);
	}
}

static bool truncate_some(struct world *w)
{
	uint64_t index, end, back = 1 + below(w, below(w, 3) ? 20 : 600);

	if (w->count < back + 10)
		return true;
	index = w->runs[w->count - back].index;
	if (index <= begin_index(w))
		return true;
	if (thmq_log_truncate(w->r.log, index) != 0) {
		snprintf(w->detail, sizeof(w->detail), "%s", thmq_errmsg());
		return broke(w, "a truncation fails");
	}
	while (w->count && w->runs[w->count - 1].index >= index)
		w->count--;
	after_cut(w);
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		if (thmq_log_bounds(w->r.log, w->partitions[slot], &index, &end) == 0)
			w->next[slot] = THMQI_MAX(w->next[slot], end);
		for (uint32_t i = 0; i < READERS; i++)
			if (w->hands[i].reader && w->hands[i].partition == w->partitions[slot] &&
			    w->hands[i].want > end) {
				w->hands[i].want = end;
				thmq_log_reader_seek(w->hands[i].reader, end);
			}
	}
	w->durable = THMQI_MIN(w->durable, w->r.durable);
	w->cut++;
	return true;
}

/* ---------------------------------------------------------------------- lives */

static bool check_bounds(struct world *w)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		const struct hand all = {.partition = w->partitions[slot]};
		uint64_t begin, end, is = 0;
		int rc = thmq_log_bounds(w->r.log, w->partitions[slot], &begin, &end);

		for (uint32_t i = 0; i < w->count; i++)
			if (w->runs[i].partition == all.partition &&
			    w->runs[i].index >= begin_index(w))
				is = w->runs[i].base + w->runs[i].span;
		if (is && (rc != 0 || end != is)) {
			snprintf(w->detail, sizeof(w->detail),
				 "partition %u ends at %llu, not %llu", all.partition,
				 (unsigned long long)end, (unsigned long long)is);
			return broke(w, "a partition does not end where its last run does");
		}
	}
	return true;
}

static bool open_again(struct world *w)
{
	uint64_t last;

	w->r.opts.cache_bytes = 1u << (12 + below(w, 11));
	w->r.opts.write_depth = 1 + (uint32_t)below(w, 10);
	w->r.opts.batch_bytes = 64u << (10 + 2 * below(w, 3));
	w->r.opts.group_ns = below(w, 3) ? 0 : below(w, 300000);
	w->r.opts.segment_bytes_min =
		1u << (20 + below(w, 3)); /* of one that is there already it changes nothing */
	w->r.opts.segment_bytes_max = 4u << 20;
	w->r.opts.limit_bytes = 0;
	w->r.defects = below(w, 2) ? THMQI_LOG_EARLY_PARTS : 0;
	if (below(w, 6) == 0)
		w->r.defects |= THMQI_LOG_NO_KEYS;
	if (!w->lives)
		w->r.opts.segment_bytes_min = 1u << 20;
	if (rig_open(&w->r) != 0) {
		snprintf(w->detail, sizeof(w->detail), "%s", thmq_errmsg());
		return broke(w, "it does not open");
	}
	w->lives++;
	last = rig_stats(&w->r).last_index;
	if (last < w->durable)
		return broke(w, "what was durable is gone");
	while (w->count && w->runs[w->count - 1].index > last)
		w->count--;
	after_cut(w);
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		uint64_t begin, end;

		if (thmq_log_bounds(w->r.log, w->partitions[slot], &begin, &end) == 0)
			w->next[slot] = THMQI_MAX(w->next[slot], end);
	}
	w->durable = last;
	return check_bounds(w);
}

static bool end_life(struct world *w)
{
	uint32_t i;
	int rc;

	for (i = 0; i < READERS; i++)
		if (below(w, 4))
			hand_close(&w->hands[i]);
	w->durable = THMQI_MAX(w->durable, w->r.durable);
	if (below(w, 3) == 0) {
		rc = rig_close(&w->r);
		if (rc < 0)
			return broke(w, "it does not close well");
		w->durable = w->count ? w->runs[w->count - 1].index : w->durable;
	} else {
		rig_crash(&w->r, THMQI_DISK_SIM_CRASH_SEEDED);
	}
	for (i = 0; i < READERS; i++)
		hand_close(&w->hands[i]); /* behind their log */
	if (w->snap)
		thmqi_log_snapshot_abandon(w->snap);
	w->snap = NULL;
	return true;
}

/* Each partition from its begin, to its end. */
static bool read_all(struct world *w)
{
	for (uint32_t slot = 0; slot < SLOTS && !w->wrong; slot++) {
		struct hand h = {.partition = w->partitions[slot]};
		uint64_t was = 1;

		if (thmq_log_reader_open(w->r.log, h.partition, rig_ready, &w->r, &h.reader) != 0)
			return broke(w, "no reader can be opened");
		while (!w->wrong &&
		       (was != h.want || expected(w, &h, begin_index(w), UINT64_MAX))) {
			was = h.want;
			read_one(w, &h, true);
		}
		hand_close(&h);
	}
	return !w->wrong;
}

static bool one_step(struct world *w)
{
	switch (below(w, 64)) {
	case 0:
		if (below(w, 4) == 0)
			forget(w);
		return !w->wrong;
	case 1:
		drop(w);
		return !w->wrong;
	case 2:
		return below(w, 3) ? true : truncate_some(w);
	case 3:
		snapshot(w);
		return !w->wrong;
	case 4:
		rig_poll(&w->r, 20);
		return true;
	case 5:
		return below(w, 4) ? true
				   : end_life(w) && open_again(w) && (below(w, 2) || read_all(w));
	case 6 ... 25:
		return use_reader(w);
	case 26 ... 35:
		thmqi_core_poll(w->r.core, below(w, 2) ? 0 : below(w, 200000));
		return true;
	default:
		for (uint64_t i = below(w, 12); i && !w->wrong; i--)
			append(w);
		return !w->wrong;
	}
}

static bool one_world(uint64_t seed, bool loud, struct world *total)
{
	struct world *w = calloc(1, sizeof(*w));
	uint32_t i;

	if (!w)
		exit(1);
	w->seed = seed;
	thmqi_prng_seed(&w->p, seed);
	rig_init(&w->r, seed, NULL);
	for (i = 0; i < SLOTS; i++)
		slot_renew(w, i);
	if (open_again(w))
		for (i = 0; i < STEPS && one_step(w); i++)
			;
	if (!w->wrong && end_life(w) && open_again(w))
		read_all(w);
	if (w->wrong && loud)
		fprintf(stderr, "seed %llu step %u life %llu: %s (%s)\n", (unsigned long long)seed,
			i, (unsigned long long)w->lives, w->wrong, w->detail);
	for (uint32_t k = 0; k < READERS; k++)
		hand_close(&w->hands[k]);
	if (w->snap)
		thmqi_log_snapshot_abandon(w->snap);
	i = w->wrong != NULL;
	rig_fini(&w->r);
	total->reads += w->reads;
	total->hits += w->hits;
	total->times += w->times;
	total->lives += w->lives;
	total->dropped += w->dropped;
	total->cut += w->cut;
	total->forgotten += w->forgotten;
	free(w);
	return !i;
}

int main(int argc, char **argv)
{
	static struct world total;
	uint64_t seeds = getenv("THMQ_TEST_FULL")    ? 2000
			 : getenv("THMQ_TEST_SMALL") ? 12
						     : 40,
		 first = 1, seed;
	int bad = 0;

	if (argc > 1) {
		first = strtoull(argv[1], NULL, 0);
		seeds = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	}
	for (seed = first; seed < first + seeds; seed++)
		bad += !one_world(seed, true, &total);
	printf("%llu worlds of %llu lives: %llu runs read, %llu hits of keys, %llu times; %llu "
	       "drops, %llu truncations, %llu partitions "
	       "forgotten; %d failed\n",
	       (unsigned long long)seeds, (unsigned long long)total.lives,
	       (unsigned long long)total.reads, (unsigned long long)total.hits,
	       (unsigned long long)total.times, (unsigned long long)total.dropped,
	       (unsigned long long)total.cut, (unsigned long long)total.forgotten, bad);
	return bad ? 1 : 0;
}
