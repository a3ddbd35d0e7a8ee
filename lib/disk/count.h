/* SPDX-License-Identifier: Apache-2.0 */
/* count.h - what every engine adds to its core's counters when it takes an operation. */
#ifndef THMQI_DISK_COUNT_H
#define THMQI_DISK_COUNT_H

#include "disk/disk.h"

/* Owner only; others read it as it is: see thmqi_env_stats(). */
static inline void disk_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline void disk_count(struct thmq_core *core, const struct thmqi_disk_op *op)
{
	switch (op->opcode) {
	case THMQI_DISK_READ:
		disk_add(&core->reads, 1);
		disk_add(&core->read_bytes, op->len);
		break;
	case THMQI_DISK_WRITE:
		disk_add(&core->writes, 1);
		disk_add(&core->write_bytes, op->len);
		break;
	case THMQI_DISK_FLUSH:
		disk_add(&core->flushes, 1);
		break;
	default:
		break;
	}
}

#endif
