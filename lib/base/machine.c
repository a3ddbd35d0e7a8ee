/* SPDX-License-Identifier: Apache-2.0 */
/* machine.c - a number that two processes of one machine have in common, and those of two machines do not. */
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/base.h"

/* The system makes a name by chance when it boots, which containers see too. */
static uint64_t find_out(void)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	struct utsname host;
	char id[64];
	ssize_t n = 0;

	if (fd >= 0) {
		n = read(fd, id, sizeof(id));
		close(fd);
	}
	if (n > 0)
		return thmqi_hash64(id, (size_t)n) | 1;
	return uname(&host) == 0 ? thmqi_hash64(host.nodename, strlen(host.nodename)) | 1 : 0;
}

uint64_t thmqi_machine_id(void)
{
	static _Atomic uint64_t known;
	uint64_t id = atomic_load_explicit(&known, memory_order_relaxed);

	if (!id) {
		id = find_out();
		atomic_store_explicit(&known, id, memory_order_relaxed);
	}
	return id;
}
