/* SPDX-License-Identifier: Apache-2.0 */
/* disk_job.h - one operation of a disk queue, and what became of it, for tests that drive a core themselves. */
#ifndef DISK_JOB_H
#define DISK_JOB_H

#include "disk/disk.h"

struct disk_job {
	struct thmqi_disk_op op; /* its done is disk_job_done */
	bool done;
	int64_t result;
};

static inline void disk_job_done(struct thmqi_disk_op *op, int64_t result)
{
	struct disk_job *job = thmqi_container(op, struct disk_job, op);

	job->done = true;
	job->result = result;
}

/* Drives @core for ten seconds at most, where it sleeps. Return: whether it is done. */
static inline bool disk_job_wait(struct thmq_core *core, const struct disk_job *job)
{
	uint32_t i;

	for (i = 0; i < 10000 && !job->done; i++)
		thmqi_core_poll(core, 1000000);
	return job->done;
}

#endif
