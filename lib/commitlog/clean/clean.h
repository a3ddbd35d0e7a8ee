/* SPDX-License-Identifier: Apache-2.0 */
/* clean.h - segments that go, and what of them stays. A part of internal.h. */
#ifndef THMQI_COMMITLOG_CLEAN_H
#define THMQI_COMMITLOG_CLEAN_H

/* states.c */
void thmqi_states_note(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch); /* the newest of its state */
/* From *@cursor on the next state whose newest slice is in batch @last or before, *@budget places at most; or NULL. */
const struct state_place *thmqi_states_next(const struct states *t, uint32_t *cursor, uint32_t *budget, uint64_t last);
void thmqi_states_meaningless(struct thmq_log *log, const struct state_place *p);
void thmqi_states_cut(struct thmq_log *log, uint64_t batch); /* truncation */
void thmqi_states_fini(struct thmq_log *log);

/* extents.c */
void thmqi_extents_begin(struct extents *x, struct segment *s);
int thmqi_extents_next(struct thmq_log *log, struct extents *x, struct thmq_log_extent *ret); /* 1; 0 the end; -EAGAIN; why not */
void thmqi_extents_fini(struct thmq_log *log); /* nothing is in flight */
/* Is it time to find out whether much behind the oldest segment is dead? begin, then step: 1 go on; 0 done; -EAGAIN an index is being read. */
bool thmqi_sample_due(const struct thmq_log *log);
void thmqi_sample_begin(struct thmq_log *log);
int thmqi_sample_step(struct thmq_log *log);
bool thmqi_sample_waits(const struct thmq_log *log);  /* for an index that is being opened */
bool thmqi_sample_sweeps(const struct thmq_log *log); /* it was found so, and the oldest segment is to make way */
bool thmqi_extent_in_memory(const struct segment *s, const struct run_index *run,
			    struct thmq_log_extent *ret);                /* false: none */
void thmqi_index_dropped(struct thmq_log *log, const struct segment *s); /* it was the first, and is gone: so are its entries */

/* compact.c: which records of a run must be kept. Return: 0 it is known; -EAGAIN something is being read, or others have their turn; or an error. */
int thmqi_compact_judge(struct thmq_log *log, struct run_index *x, const struct thmq_log_run *run);
/* Of all that, its records from @first up to before @end are the piece that the next two are of. Return: how many of these must be kept */
uint32_t thmqi_compact_choose(struct thmq_log *log, const struct thmq_run_header *run, uint32_t first, uint32_t end);
uint32_t thmqi_compact_bytes(const struct thmq_log *log); /* behind the header, of a run with those alone */
/* @to: that run, of which all but what the log sets is set. */
void thmqi_compact_fill(const struct thmq_log *log, const struct thmq_run_header *from, struct thmq_run_header *to);
bool thmqi_compact_waits(const struct thmq_log *log); /* for something that is being read */
void thmqi_compact_end(struct thmq_log *log);

/* relocate.c: of the oldest segment. The step: 0 all is done; -EAGAIN not yet, *@ret_pause_ns from now; -ENOSPC it had been lent room, and that
 * is used up; or an error. */
int thmqi_relocate_begin(struct thmq_log *log);
int thmqi_relocate_step(struct thmq_log *log, uint64_t *ret_pause_ns);
void thmqi_relocate_end(struct thmq_log *log);

/* clean.c */
uint64_t thmqi_log_file_bytes(const struct thmq_log *log);
void thmqi_clean_look(struct thmq_log *log); /* soon */
int thmqi_clean_poll(struct thmq_log *log); /* work done */
bool thmqi_clean_wants(const struct thmq_log *log); /* to be polled */
bool thmqi_clean_makes_room(const struct thmq_log *log); /* a segment is about to go */
void thmqi_clean_stop(struct thmq_log *log); /* what it was doing is void, but for a drop that is under way */

/* drop.c */
int thmqi_drop_step(struct thmq_log *log); /* work done */
void thmqi_drop_settle(struct thmq_log *log, struct run_index *x);
/* Before @x is looked at: of the segment that is gone nothing is left in it. */
static inline void thmqi_index_settle(struct thmq_log *log, struct run_index *x)
{
	if (thmqi_unlikely(log->drop.segment != NULL))
		thmqi_drop_settle(log, x);
	thmqi_held_trim(log, x);
	thmqi_moved_trim(log, x);
}
bool thmqi_drop_wants(const struct thmq_log *log); /* a step that could not be submitted */
void thmqi_drop_fini(struct thmq_log *log); /* nothing is in flight */

#endif
