/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plant.c - linked into powercut_pub_planted with --wrap=thmq_log_open: every log of it says of what was only written that
 * it was flushed. A power cut that does not notice proves nothing.
 */
#include <commitlog/plant.h>

int __wrap_thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts,
			 struct thmq_log **ret_log);

int __wrap_thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts,
			 struct thmq_log **ret_log)
{
	return thmqi_log_open_planted(core, opts, THMQI_LOG_NO_FLUSH, ret_log);
}
