/* SPDX-License-Identifier: Apache-2.0 */
/* store.h - what store.c (topics, and what goes into them) and readers.c share. */
#ifndef KAFKA_STORE_H
#define KAFKA_STORE_H

#include "kafka.h"

#define LANE_HANDLES                                                                               \
	200u /* of either kind: some of its 256 numbers may be out of use for a while */

struct lane {
	struct lane *next;
	struct thmq_session *session;
	uint32_t producers, readers;
};

struct lane *lane_for(struct server *s, bool reader); /* one with room for a reader, or a producer; NULL: no memory */

/* readers.c */
void reader_close(struct reader *r);
void readers_sweep(struct server *s, int64_t idle_ns); /* those that nobody has wanted for so long go */

#endif
