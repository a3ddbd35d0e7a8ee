/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hint.h - short ways for an owner of a log: what it may say of the appends that it is about to do, which changes nothing but
 * what the caches hold; and the newest run to whoever has read all before it.
 */
#ifndef THMQI_COMMITLOG_HINT_H
#define THMQI_COMMITLOG_HINT_H

#include <stdbool.h>

#include <thundermq/log.h>

/* Each is cheap after the one before it, given a few appends earlier. */
enum thmqi_log_hint { THMQI_LOG_HINT_FAR, THMQI_LOG_HINT_NEAR, THMQI_LOG_HINT_NEXT };

/* A run of @partition is soon appended to @log, where none of it was lately: its index is in no cache. */
void thmqi_log_hint(struct thmq_log *log, uint32_t partition, enum thmqi_log_hint hint);

/*
 * thmq_log_read(), for a reader that has read all but the run that was appended last, while its batch is being
 * formed: no look-up. False: it stands elsewhere, or the batch is on its way; nothing has changed then.
 */
bool thmqi_log_read_newest(struct thmq_log_reader *reader, struct thmq_log_view *ret_view);

#endif
