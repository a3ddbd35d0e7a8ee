/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hint.h - short ways for an owner of a log: what it may say of the appends that it is about to do, which changes nothing but
 * what the caches hold; and the newest run to whoever has read all before it.
 */
#ifndef THMQI_COMMITLOG_HINT_H
#define THMQI_COMMITLOG_HINT_H

#include <stdbool.h>

#include <thundermq/log.h>

struct run_index;

/*
 * What @log knows of @partition's runs, to be given to the calls below; NULL: none was appended yet. Valid until
 * thmq_log_forget() of it, or until the log is closed.
 */
struct run_index *thmqi_log_index(struct thmq_log *log, uint32_t partition);

/* Each is cheap after the one before it, given a few appends earlier. */
enum thmqi_log_hint { THMQI_LOG_HINT_FAR, THMQI_LOG_HINT_NEAR, THMQI_LOG_HINT_NEXT };

/* A run of @index's partition is soon appended to its log, where none of it was lately: it is in no cache. */
void thmqi_log_hint(const struct run_index *index, enum thmqi_log_hint hint);

/* The run that is appended next is of @index's partition: it need not be looked up. If it is not, it is. */
void thmqi_log_expect(struct thmq_log *log, struct run_index *index);

/*
 * thmq_log_read(), for a reader that has read all but the run that was appended last, while its batch is being
 * formed: no look-up. False: it stands elsewhere, or the batch is on its way; nothing has changed then.
 */
bool thmqi_log_read_newest(struct thmq_log_reader *reader, struct thmq_log_view *ret_view);

/*
 * A reader that has read all that there is: the run that is being appended to its partition, between thmq_log_append() and its end, is the
 * next one that it would return, and once it is filled nothing will refuse it. Its owner may hand it out before that end, and says behind it
 * that the reader need not come to it any more.
 */
bool thmqi_log_reader_awaits(const struct thmq_log_reader *reader, uint64_t base_offset);
void thmqi_log_reader_pass(struct thmq_log_reader *reader, uint64_t end_offset);

/* Another view of what @view shows, which is released by itself: who goes through a run bit by bit need not look it up each time. */
void thmqi_log_view_again(const struct thmq_log_view *view, struct thmq_log_view *ret_view);

/* After a thmq_log_read() that returned 0: does it wait for the device, so that it will be called? Else there was none below its end. */
bool thmqi_log_reader_waits(const struct thmq_log_reader *reader);
/* It has been refused memory for long: who can give some back should. */
bool thmqi_log_reader_starves(const struct thmq_log_reader *reader);
/* thmq_log_read_hit() of the record at @offset, wherever it is: -ENOENT there is none, and none is being read. */
int thmqi_log_read_at(struct thmq_log_reader *reader, uint64_t offset, struct thmq_log_view *ret_view, struct thmq_record_view *ret_record);

/* All below was returned, or passed over for its tags. */
uint64_t thmqi_log_reader_stands(const struct thmq_log_reader *reader);

#endif
