/* SPDX-License-Identifier: Apache-2.0 */
/* process.h - whose process an environment is. */
#ifndef THMQI_REACTOR_PROCESS_H
#define THMQI_REACTOR_PROCESS_H

#include <stdbool.h>

struct thmq_env;

/* False in a child of fork(2): it has none of the threads and none of the pool, but shares files, sockets and rings with its parent,
 * who would miss what the child took from them, or find what it wrote. */
bool thmqi_env_is_here(const struct thmq_env *env);

#endif
