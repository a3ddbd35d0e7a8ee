/* SPDX-License-Identifier: Apache-2.0 */
/* close.h - thmq_log_close() for an owner that has to know when the device has nothing of the log any more. */
#ifndef THMQI_COMMITLOG_CLOSE_H
#define THMQI_COMMITLOG_CLOSE_H

#include <thundermq/log.h>

/*
 * @gone (may be NULL) is called once, by the log's core, when no operation of the log is on its way: before the return, or after a
 * return of -ETIMEDOUT or of a device's error, at the latest when the core closes. Until then nobody else may open the directory.
 */
int thmqi_log_close_notify(struct thmq_log *log, uint64_t timeout_ns, void (*gone)(void *arg),
			   void *arg);

#endif
