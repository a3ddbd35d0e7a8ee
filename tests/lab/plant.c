/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plant.c - linked into powercut_pub_planted with --wrap for both functions: its logs write into the drive's cache only, and
 * say of what is there that it was flushed. A power cut that does not notice proves nothing.
 */
#include <commitlog/plant.h>

int __wrap_thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts, struct thmq_log **ret_log);
void __wrap_thmq_log_append_end(struct thmq_log *log, struct thmq_run_header *run, uint32_t durability);
void __real_thmq_log_append_end(struct thmq_log *log, struct thmq_run_header *run, uint32_t durability);

int __wrap_thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts, struct thmq_log **ret_log)
{
	return thmqi_log_open_planted(core, opts, THMQI_LOG_NO_FLUSH, ret_log);
}

/* No write through the cache: the acknowledgement comes with the flush that does not happen. */
void __wrap_thmq_log_append_end(struct thmq_log *log, struct thmq_run_header *run, uint32_t durability)
{
	__real_thmq_log_append_end(log, run, durability < THMQ_DURABILITY_WRITTEN ? durability : THMQ_DURABILITY_WRITTEN);
}
