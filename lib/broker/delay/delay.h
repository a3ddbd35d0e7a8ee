/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay.h - what a shard knows of messages whose time has not come: doc/delayed.md tells how it works. They lie in a partition of the
 * shard's own, DELAY_PARTITION, one run each. That a message is over, because it goes where it was sent to or was cancelled, is said first, by
 * its number in DELAY_DONES, and then it is appended there, with that number as the sequence of a producer DELAY_PRODUCER. The log keeps how far
 * producers have come: so whatever a crash leaves, it is known what was said and not done yet.
 */
#ifndef THMQI_BROKER_DELAY_H
#define THMQI_BROKER_DELAY_H

#include "commitlog/hint.h"
#include "../internal.h"
#include "waiting.h"

#define DELAY_SLOTS 512u   /* messages on their way from the log to their partitions */
#define DELAY_READERS 16u  /* reads of the device at a time */
#define DELAY_AHEAD_NS 4000000ull /* so long before its time a message is read */
#define DELAY_CANCELLED (1ull << 63) /* in DELAY_DONES: and it goes nowhere */

/* As stored: the payload of a run of DELAY_PARTITION. The body follows: key, tag, attributes, payload, as of a record. */
struct delayed {
	uint64_t due_ns;
	int64_t time_ns; /* with DELAYED_TIMED: its producer's */
	uint32_t partition;
	uint32_t size; /* of the body */
	uint32_t tag_hash;
	uint16_t key_len;
	uint8_t tag_len;
	uint8_t record_flags; /* THMQ_RECORD_* */
	uint32_t flags;
	uint32_t reserved;
};
_Static_assert(sizeof(struct delayed) == 40, "as in doc/format.md");
#define DELAYED_TIMED 1u

enum slot_state {
	SLOT_NEW,
	SLOT_READING,
	SLOT_READY, /* view has it */
	SLOT_GONE,  /* the log has it no more */
	SLOT_BROKEN /* it cannot be read: it is looked for again at the next open */
};

struct slot {
	struct waiting_entry entry;
	uint64_t number; /* in DELAY_DONES, where it is said */
	bool said;
	bool counted;  /* among those that wait for its partition */
	uint8_t state; /* enum slot_state */
	struct thmq_log_view view;
	const struct delayed *is; /* in view */
	const struct slot *behind; /* NEW: what is being read for that one probably has it, too */
};

struct delay_reader {
	struct delay *delay;
	struct thmq_log_reader *reader; /* NULL: not opened yet */
	struct slot *slot;              /* that it reads */
	uint64_t next;                  /* offset that it stands at */
	uint32_t streak;                /* messages that it has read one behind the other */
	bool stir;                      /* it may go on */
};

/* Somebody wants a message not to come. */
struct cancel {
	struct delay *delay; /* NULL: gone */
	struct thmqi_broker_post post;
	struct thmqi_list link;
	uint64_t serial; /* of the connection */
	uint64_t request;
	uint64_t offset;
	uint32_t partition;
	bool sought;
	bool storing; /* it is said, and will be durable */
};

enum delay_phase {
	DELAY_OFF,
	DELAY_READ_DONES, /* what is over */
	DELAY_READ_ALL,   /* all others wait */
	DELAY_LIVE
};

struct delay {
	struct shard *shard;
	uint8_t phase;
	struct waiting waiting;
	struct thmqi_map counts; /* partition to how many wait for it */
	uint64_t quiet_ns;       /* nothing is to be done before the clock says this */
	uint64_t again_ns;       /* by the core's time: nothing is tried before */
	uint64_t refused_ns;     /* the first one was read, and not appended since then; 0: it was */
	uint64_t released;       /* pending_tail of the shard behind what was appended last */
	struct thmqi_timer timer;

	struct slot slots[DELAY_SLOTS];
	struct slot *order[DELAY_SLOTS]; /* the first `count` are in use: said ones, then by time; the others are free */
	uint32_t count, said, fresh;     /* fresh: of count, SLOT_NEW */
	struct delay_reader readers[DELAY_READERS];

	/* at the begin */
	struct thmq_log_reader *scanner;
	uint64_t scan_at;
	uint64_t dones_end, all_end; /* what was appended before */
	struct waiting over; /* bits only: what DELAY_DONES tells */

	struct thmqi_list cancels;
	struct thmq_log_reader *looker; /* for the first of them */
	uint64_t lost; /* that could not be read */
};

/* Nothing is to be done before the clock says so, as in nearly each round of a shard in which some wait: others do not pay for them. */
static inline bool thmqi_delay_is_quiet(const struct delay *d)
{
	return d->quiet_ns > d->shard->core->wall_ns && d->phase == DELAY_LIVE && !d->waiting.left && thmqi_list_empty(&d->cancels) &&
	       (d->quiet_ns == UINT64_MAX || thmqi_timer_is_running(&d->timer));
}

/* delay.c */
struct partition *thmqi_delay_partition(const struct delay *d, uint32_t id);
/* It is said of @count of them that they are over, from *@ret_number on. 0; -ENOBUFS too much is on its way; as thmq_log_append() */
int thmqi_delay_say(struct delay *d, const uint64_t *says, uint32_t count, uint64_t *ret_number);
/* Of what DELAY_PARTITION has at @offset. NULL: it is not what it should be */
const struct delayed *thmqi_delay_is(const struct thmq_log_run *run, uint64_t offset);
void thmqi_delay_count_one(struct delay *d, uint32_t partition, int change);

/* delay_release.c */
uint32_t thmqi_delay_release(struct delay *d);
bool thmqi_delay_redo(struct delay *d, uint64_t number, uint64_t offset); /* it was said, and not done. False: too many */
struct slot *thmqi_delay_slot(struct delay *d, uint64_t offset);           /* NULL: it is in none */
void thmqi_delay_slot_free(struct delay *d, struct slot *slot);
void thmqi_delay_release_stop(struct delay *d);

/* delay_cancel.c */
void thmqi_delay_cancel_step(struct delay *d);
void thmqi_delay_cancel_stop(struct delay *d, int error);
void thmqi_delay_cancel_fini(struct delay *d);

#endif
