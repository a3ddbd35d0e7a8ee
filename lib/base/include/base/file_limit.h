/* SPDX-License-Identifier: Apache-2.0 */
/* file_limit.h - around calls that write or grow a file, also one in memory: beyond RLIMIT_FSIZE comes -EFBIG, and no SIGXFSZ. */
#ifndef THMQI_FILE_LIMIT_H
#define THMQI_FILE_LIMIT_H

#include <signal.h>
#include <stdint.h>

void thmqi_file_limit_hold(sigset_t *ret_old);
/* @rc: what the calls said; returned. */
int thmqi_file_limit_let_go(const sigset_t *old, int rc);
/* Bytes that a file of this process may have, as things are. UINT64_MAX: as many as it likes. */
uint64_t thmqi_file_limit(void);

#endif
