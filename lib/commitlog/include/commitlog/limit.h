/* SPDX-License-Identifier: Apache-2.0 */
/* limit.h - how small the limit of a log's files may be, for an owner who asks before anything is made. */
#ifndef THMQI_COMMITLOG_LIMIT_H
#define THMQI_COMMITLOG_LIMIT_H

#include <thundermq/log.h>

/*
 * @segment_bytes_max: of the log, 0 as of its options
 * Return: 0; -EINVAL @limit_bytes is too little, with a text that names @dir.
 */
int thmqi_log_limit_check(const char *dir, uint64_t limit_bytes, uint64_t segment_bytes_max);

#endif
