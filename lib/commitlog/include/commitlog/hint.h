/* SPDX-License-Identifier: Apache-2.0 */
/* hint.h - what an owner of a log may say of the appends that it is about to do. Changes nothing but what the caches hold. */
#ifndef THMQI_COMMITLOG_HINT_H
#define THMQI_COMMITLOG_HINT_H

#include <thundermq/log.h>

/* Each is cheap after the one before it, given a few appends earlier. */
enum thmqi_log_hint { THMQI_LOG_HINT_FAR, THMQI_LOG_HINT_NEAR, THMQI_LOG_HINT_NEXT };

/* A run of @partition is soon appended to @log, where none of it was lately: its index is in no cache. */
void thmqi_log_hint(struct thmq_log *log, uint32_t partition, enum thmqi_log_hint hint);

#endif
