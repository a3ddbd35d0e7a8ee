/* SPDX-License-Identifier: Apache-2.0 */
/* index.h - where runs are: entries in memory, index files, and what is held in which segment. A part of internal.h. */
#ifndef THMQI_COMMITLOG_INDEX_H
#define THMQI_COMMITLOG_INDEX_H

/* index.c */
int thmqi_arena_fill(struct arena *a); /* a few chunks can be had then */
void thmqi_arena_fini(struct arena *a);
void *thmqi_arena_get(struct arena *a, enum piece kind); /* NULL: thmqi_arena_fill() first */
uint32_t thmqi_arena_bytes(enum piece kind);
void thmqi_arena_put(struct arena *a, enum piece kind, void *piece);
struct run_index *thmqi_index_of(struct thmq_log *log, uint32_t partition, bool make);
int thmqi_index_put(struct thmq_log *log, struct run_index *x, const struct entry *entry);
int thmqi_index_add(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run,
		    uint64_t batch, uint32_t at);
static inline uintptr_t thmqi_index_chunk(const struct run_index *x, uint64_t number)
{
	return x->directory ? x->list[(number >> LINE_SHIFT) - (x->first >> LINE_SHIFT)] : x->one;
}
static inline struct entry thmqi_index_entry(const struct run_index *x, uint64_t number)
{
	uintptr_t chunk = thmqi_index_chunk(x, number);
	uint32_t place = (uint32_t)number & x->mask;

	return thmqi_likely(chunk & CHUNK_NARROW) ? thmqi_narrow_get(thmqi_chunk_at(chunk), place)
						  : ((const struct entry *)chunk)[place];
}
/* Of a list that is wide. */
static inline struct entry *thmqi_index_wide(const struct run_index *x, uint64_t number)
{
	return (struct entry *)thmqi_index_chunk(x, number) + (number & x->mask);
}
/* Where it is written. */
static inline const void *thmqi_index_place(const struct run_index *x, uint64_t number)
{
	uintptr_t chunk = thmqi_index_chunk(x, number);
	uint32_t place = (uint32_t)number & x->mask;

	return chunk & CHUNK_NARROW
		       ? (const void *)&((const struct narrow *)thmqi_chunk_at(chunk))->rows[place]
		       : (const void *)((const struct entry *)chunk + place);
}
/* Is there no place for entry number `count`? */
static inline bool thmqi_index_full(const struct run_index *x)
{
	return x->directory ? (x->count >> LINE_SHIFT) - (x->first >> LINE_SHIFT) >= x->chunk_count
			    : !x->chunk_count || x->count - x->first > x->mask;
}
uint64_t thmqi_index_find(const struct run_index *x,
			  uint64_t offset); /* first entry whose end is behind offset */
uint64_t thmqi_index_find_batch(const struct run_index *x,
				uint64_t batch); /* first entry in it or behind it */
uint64_t thmqi_index_find_time(const struct thmq_log *log, const struct run_index *x,
			       int64_t time_ns); /* first entry that reaches it */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x,
		      uint64_t batch);                     /* entries of batches before it */
void thmqi_index_cut(struct run_index *x, uint64_t batch); /* truncation: batches from it on */
void thmqi_index_empty(struct thmq_log *log, struct run_index *x); /* no entries; its memory goes back */
void thmqi_index_free(struct thmq_log *log, struct run_index *x);

/* notes.c */
int thmqi_notes_init(struct notes *n); /* 0; -ENOMEM: to be used all the same */
int thmqi_notes_put(struct notes *n, const struct note *note, const void *payload, uint32_t len); /* 0; -ENOMEM */
void thmqi_notes_clear(struct notes *n);
void thmqi_notes_fini(struct notes *n);

/* seal.c */
static inline struct generation *thmqi_generation(struct thmq_log *log)
{
	return &log->generations[log->generation % 2];
}
static inline struct touched *thmqi_touch(struct thmq_log *log, struct run_index *x)
{
	struct generation *g = thmqi_generation(log);
	struct touched *t = &x->touched[log->generation % 2];
	uint32_t *number = &x->generations[log->generation % 2];

	if (thmqi_unlikely(x->part != log->part)) { /* the part that was begun since is told of what was there before */
		x->part = log->part;
		x->part_bytes = *number == (uint32_t)g->number ? t->bytes : 0;
	}
	if (thmqi_likely(*number == (uint32_t)g->number))
		return t;
	*number = (uint32_t)g->number;
	t->next = g->first;
	t->bytes = 0;
	g->first = x;
	g->partitions++;
	return t;
}
void thmqi_untouch(struct thmq_log *log, struct run_index *x); /* it goes */
void thmqi_seals_init(struct thmq_log *log);
void thmqi_seals_fini(struct thmq_log *log);
void thmqi_seals_stop(struct thmq_log *log); /* no timer of theirs runs any more */
void thmqi_seal_note(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch, uint32_t at, uint64_t term);
/* How far its producer has come with this run: a state whose newest slice this is. */
void thmqi_seal_note_producer(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch, uint32_t at, uint64_t term);
void thmqi_seal_term(struct thmq_log *log, uint64_t batch, uint64_t term); /* of a batch that comes now */
bool thmqi_seal_busy(struct thmq_log *log); /* with the segment before the active one: no other can be sealed now */
void thmqi_seal_begin(struct thmq_log *log, struct segment *s); /* it is full; the active one is another */
/* An index of the active one as far as it is: a part of it was sealed, nothing is being formed. What comes of it is an aid. */
void thmqi_seal_begin_part(struct thmq_log *log);
void thmqi_seal_drop_part(struct thmq_log *log); /* what it is made of goes, or something else is to be sealed */
void thmqi_seal_plan_part(struct thmq_log *log); /* another segment is active, or the log came back */
int thmqi_seal_step(struct thmq_log *log);                      /* work done */
void thmqi_seal_finish(struct thmq_log *log);                   /* at close: all is durable, nothing is in flight */
void thmqi_seal_stop(struct thmq_log *log);                     /* nothing is in flight; what is known is spoiled */
/* Recovery: the segment that was replayed last is full. Its index is kept with it, to be written once the log is judged. */
void thmqi_seal_keep(struct thmq_log *log, struct segment *s);
void thmqi_seals_write(struct thmq_log *log); /* those that were kept; what cannot be written is left out */

/*
 * image.c: the bytes of an index. What is gathered is the generation's; the segment's ends are the chain's. @part: its number, of a
 * segment that fills; 0: of one that is full.
 */
uint64_t thmqi_image_room(const struct segment *s, const struct generation *g); /* bytes that its file has at most */
/* With the memory in log->sealing.kept, if that is large enough. 0; -EFBIG, -ENOMEM. */
int thmqi_image_begin(struct thmq_log *log, struct seal_image *image, const struct segment *s, const struct generation *g,
		      uint32_t part);
uint32_t thmqi_image_step(struct seal_image *image, uint32_t budget); /* until image->done. Return: entries gathered or keys sorted, one at least */
void thmqi_image_forget(struct seal_image *image); /* the partition that is being gathered: it has a place, and is to have none */
void thmqi_image_no_keys(struct seal_image *image);
void thmqi_image_keys_free(struct seal_image *image);
void thmqi_image_end(struct seal_image *image);
void thmqi_image_free(struct seal_image *image);
struct seal_memory thmqi_image_take(struct seal_image *image); /* likewise, but for its memory, which is the caller's */
void thmqi_image_memory_free(struct seal_memory *m);
int thmqi_image_write(struct thmq_log *log, const struct seal_image *image); /* blocking; the directory is not flushed */
struct sealed *thmqi_image_summary(const struct seal_image *image); /* NULL: out of memory */

/* sealed.c */
void thmqi_seal_name(uint64_t position, char name[40]);
/* 1 all of @s was taken from its index; 0 it has none that can be believed; or an error. */
int thmqi_sealed_load(struct thmq_log *log, struct segment *s);
/* Blocking: the entries of @s, whose index was taken over, into memory again. Return: 0, or an error. */
int thmqi_sealed_restore(struct thmq_log *log, struct segment *s);
/* Blocking: would thmqi_sealed_restore() find all good? What is not is made again by the next open. Return: 0, or an error. */
int thmqi_sealed_check(struct thmq_log *log, struct segment *s);
/* Blocking: what @s has of @partition. Return: 1; 0 nothing; or an error. */
int thmqi_sealed_partition(struct thmq_log *log, struct segment *s, uint32_t partition, struct seal_partition *ret);
/* Blocking: its keys, if its index has them. After thmqi_sealed_restore(). */
void thmqi_sealed_restore_keys(struct thmq_log *log, struct segment *s);
struct sealed *thmqi_sealed_new(uint32_t run_pages, uint32_t key_pages); /* NULL: out of memory */
void thmqi_sealed_note_keys(struct sealed *x, const struct seal_header *h, const void *fences);
void thmqi_sealed_free(struct thmq_log *log, struct sealed *x);

/* ahead.c: while a log comes back. All may be had otherwise. */
struct ahead_head {
	struct thmqi_disk_file *file; /* of the index, the caller's from now on */
	int64_t size;                 /* of it, or an error */
	const uint8_t *data;          /* its first bytes, until the next call */
	uint32_t have;
};
int thmqi_ahead_begin(struct thmq_log *log); /* all segments are listed. 0; -ENOMEM */
bool thmqi_ahead_take(struct thmq_log *log, const struct segment *s, struct ahead_head *ret); /* segments in order */
const void *thmqi_ahead_next(struct thmq_log *log, const struct segment *s); /* the first page of the index behind that of @s; NULL */
void thmqi_ahead_end(struct thmq_log *log);

/* held.c: which sealed segments have runs of a partition */
int thmqi_held_add(struct thmq_log *log, struct run_index *x, uint32_t segment, uint64_t first_offset, uint64_t end_offset);
void thmqi_held_trim(const struct thmq_log *log, struct run_index *x); /* those that were dropped */
/* Of the segment that was dropped it was known that its runs ended at @end_offset. */
void thmqi_held_dropped(const struct thmq_log *log, struct run_index *x, uint64_t end_offset);
void thmqi_held_cut(struct run_index *x, uint32_t segment); /* truncation: this and later ones; sealed_end is the caller's */
static inline uint64_t thmqi_held_offset(const struct held *h)
{
	return (uint64_t)h->offset[1] << 32 | h->offset[0];
}
/* The first segment from @from on that may have a run of @x that ends behind @offset. False: none. */
bool thmqi_held_find(const struct thmq_log *log, const struct run_index *x, uint64_t offset, uint32_t from, uint32_t *ret_segment);
/* The last segment up to @from that may have a run of @x that begins before @limit. False: none. */
bool thmqi_held_back(const struct run_index *x, uint32_t from, uint64_t limit, uint32_t *ret_segment);
void thmqi_held_free(struct thmq_log *log, struct run_index *x);

/* moved.c: runs that were appended again */
int thmqi_moved_add(struct thmq_log *log, struct run_index *x, const struct entry *e, int64_t time_ns);
int thmqi_moved_range_add(struct run_index *x, uint32_t segment, uint64_t begin, uint64_t end, int64_t time_ns);
void thmqi_moved_keep(struct run_index *x, uint64_t from, uint64_t to); /* entries of batches from … to - 1 */
void thmqi_moved_trim(const struct thmq_log *log, struct run_index *x); /* ranges in segments that were dropped */
void thmqi_moved_cut(struct run_index *x, uint32_t segment); /* truncation: ranges in it and later ones */
uint64_t thmqi_moved_begin(const struct run_index *x); /* UINT64_MAX: there is none */
void thmqi_moved_free(struct thmq_log *log, struct run_index *x);
uint64_t thmqi_moved_end(const struct run_index *x);   /* 0: there is none */
/* Of all but those that were moved. Without any: UINT64_MAX if some were moved, else its end. */
uint64_t thmqi_index_begin(const struct run_index *x);

/* held.c: the segment has its index: the entries of @x's runs in it leave memory. It is the first that has not. Return: 0; -ENOMEM. */
int thmqi_index_take_over(struct thmq_log *log, struct run_index *x, const struct segment *s);
int thmqi_index_take_over_all(struct thmq_log *log); /* every segment that can be: with an index, and all before it too */

#endif
