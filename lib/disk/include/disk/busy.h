/* SPDX-License-Identifier: Apache-2.0 */
/* busy.h - what is said of a directory that somebody else has locked. */
#ifndef THMQI_DISK_BUSY_H
#define THMQI_DISK_BUSY_H

#include <stdint.h>

/* -EBUSY with a text. @pid: as dir_lock says it. */
int thmqi_disk_busy(const char *path, uint64_t pid);

#endif
