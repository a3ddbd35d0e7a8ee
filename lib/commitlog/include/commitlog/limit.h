/* SPDX-License-Identifier: Apache-2.0 */
/* limit.h - the limit of a log's files, for an owner who asks before anything is made, or appended. */
#ifndef THMQI_COMMITLOG_LIMIT_H
#define THMQI_COMMITLOG_LIMIT_H

#include <stdbool.h>

#include <thundermq/log.h>

/*
 * @segment_bytes_max: of the log, 0 as of its options
 * Return: 0; -EINVAL @limit_bytes is too little, with a text that names @dir.
 */
int thmqi_log_limit_check(const char *dir, uint64_t limit_bytes, uint64_t segment_bytes_max);

/*
 * May @count batches of full size be appended one behind the other, as far as limit_bytes says? What is refused half way would stay.
 * 0; -EMSGSIZE never: their first ones might go before the last ones came; -ENOSPC not as things are.
 */
int thmqi_log_room_for(const struct thmq_log *log, uint32_t count);
/* Is there no place for a whole batch, since the device has none for the next segment, and none is about to go? */
bool thmqi_log_lacks_room(const struct thmq_log *log);

/*
 * What is appended between these two makes room sooner or later, such as the word that messages were read: where the log takes nothing
 * else it has a part of what is kept for the cleaner. Lend's value goes to the other.
 */
uint64_t thmqi_log_lend(struct thmq_log *log);
void thmqi_log_lend_end(struct thmq_log *log, uint64_t lent);

#endif
