/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file_limit.c - what grows a file beyond RLIMIT_FSIZE, or writes behind that, is answered by -EFBIG, and by SIGXFSZ to the calling thread,
 * which would end a host that does not handle it. The error is enough. Source: setrlimit(2), pthread_sigmask(3).
 */
#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <time.h>

#include "base/file_limit.h"

uint64_t thmqi_file_limit(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
}

void thmqi_file_limit_hold(sigset_t *ret_old)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGXFSZ);
	pthread_sigmask(SIG_BLOCK, &set, ret_old);
}

int thmqi_file_limit_let_go(const sigset_t *old, int rc)
{
	const struct timespec now = {0};
	sigset_t set;

	if (rc == -EFBIG) { /* it is pending, unless the host ignores it */
		sigemptyset(&set);
		sigaddset(&set, SIGXFSZ);
		sigtimedwait(&set, NULL, &now);
	}
	pthread_sigmask(SIG_SETMASK, old, NULL);
	return rc;
}
