/* SPDX-License-Identifier: Apache-2.0 */
/* shared.h - what a shared group knows of a partition: shared.c keeps it, shared_deliver.c hands messages out by it. */
#ifndef THMQI_BROKER_SHARED_H
#define THMQI_BROKER_SHARED_H

#include "../internal.h"

struct shared {
	struct group_offset *group;
	struct shard *shard;
	struct thmq_log_reader *reader; /* NULL: nobody is attached */
	uint64_t stands;                /* where it stands; UINT64_MAX: somewhere else */
	struct thmq_log_view view;      /* the newest run that was handed out in part: sought again for each part, its index would be read again, too */
	uint64_t view_from, view_to;    /* its offsets; none: there is no such */
	struct thmqi_timer timer;
	struct spans spans;
	struct state_shared *slice; /* room for the largest */
	uint32_t slice_max;         /* spans in it */
	uint32_t open_max;
	uint32_t sub_count;
	uint64_t out_ns,
		back_ns; /* nothing that is out is due before; nothing that is back likewise */
	bool finding;    /* the time that it begins at, by the reader */
	int64_t time_ns;
	bool dirty;   /* it is to be stored */
	bool storing; /* it is on its way: the next one waits for that */
};

static inline struct partition *partition_of(const struct shared *sh)
{
	return sh->group->partition;
}

static inline uint64_t now_of(const struct shared *sh)
{
	return sh->shard->core->now_ns;
}

void thmqi_shared_soil(struct shared *sh); /* it is to be stored */
void thmqi_shared_arm(struct shared *sh);  /* for what is due next */
void thmqi_shared_drop_view(struct shared *sh);
void thmqi_shared_feed(struct consumer *k); /* one that had no room has some */
void thmqi_shared_feed_all(struct shared *sh);

#endif
