/* SPDX-License-Identifier: Apache-2.0 */
/* types.h - what the cleaner knows of the oldest segment. A part of internal.h. */
#ifndef THMQI_COMMITLOG_CLEAN_TYPES_H
#define THMQI_COMMITLOG_CLEAN_TYPES_H

/* In which batch the newest slice of a state is. */
struct state_place {
	uint64_t item, batch; /* batch 0: free; UINT64_MAX: nowhere, it has no meaning any more */
	uint32_t kind, len;
};

struct states {
	struct state_place *places; /* by hash */
	uint32_t mask, count;
	uint32_t grown; /* times; a cursor is of no use then */
	bool incomplete;
	uint64_t bytes; /* of the newest slices */
};

/* What a segment has, partition by partition. */
struct extents {
	struct segment *segment;
	bool sealed;     /* they are in its index */
	uint32_t cursor; /* place in the pages of partitions, or in the map */
	uint64_t fresh_bytes; /* of what was told last: of runs that were never appended again */
};

/* The page of partitions that was read last, for extents. */
struct extents_page {
	struct thmqi_buf *buf; /* NULL: none */
	struct segment *segment; /* that is read */
	uint64_t position;     /* of the segment */
	uint32_t number;
	bool reading;
	int error;
	struct thmqi_disk_op op;
};

/* Which records of a run must be kept, where of each key only the newest is: clean/compact.c. */
struct compaction {
	struct thmq_log_reader *keys; /* looks for records with the same key; NULL: nothing was looked at yet */
	struct thmq_log_reader *runs; /* reads those, and parts of messages */
	uint8_t *key;                 /* that is looked for */
	uint64_t *kept;               /* a bit for each record */
	uint32_t kept_room, kept_count;
	uint64_t kept_bytes; /* of bodies */
	uint32_t block_bytes; /* behind these, of a THMQ_RUN_PACKED */
	bool begun, done;    /* with the run that is relocated: done until it is appended */
	bool halved;         /* of one that goes in two pieces the first is appended, or nothing of it is kept */
	/* what is appended of it: its records from @first up to before @end, of which @count are kept */
	struct {
		uint32_t first, end, count;
		uint64_t bytes; /* of their bodies */
	} piece;
	uint32_t record;     /* the next of it */
	uint64_t body_at;    /* where its body is, behind the run's table */
	/* of that record */
	uint32_t step;
	uint32_t hits; /* that were looked at, and are no answer */
	uint32_t key_len;
	uint64_t offset; /* of its message */
	struct thmq_log_hit hit;
	struct thmqi_part part, hit_part;
};

/* What of the oldest segment is being appended again. */
struct relocation {
	struct thmq_log_reader *reader; /* of its batches; NULL: nothing is */
	struct thmq_log_reader *copies; /* looks for runs that were appended again already */
	uint64_t at;     /* batch, in the segment */
	uint32_t run_at; /* run, in the batch */
	uint32_t budget; /* bytes, in this iteration */
	bool lends;      /* there is no next segment, and what is left to be appended has room where the active one's end is kept */
	uint64_t appended; /* bytes, now or before that was begun anew */
	bool refused;    /* the log took no more in this iteration */
	bool goes_on;    /* it stopped for something that is being read, or to let others have their turn */
	struct compaction compaction;
};

/* The cleaner: what it does with the oldest segment. */
/* What is dead of a few segments from everywhere in the log; see clean/sample.c. */
struct sample {
	uint32_t at; /* of the segments that are looked at */
	struct segment *segment; /* which it is now; NULL: the next */
	struct extents extents;
	uint64_t bytes, live_bytes;
	uint64_t taken_ns, taken_position; /* when, and where the log ended; 0: never */
	uint64_t sweep_end;		   /* segments below it go, and what must be kept of them moves */
};

struct clean {
	uint64_t trimmed; /* with copies: position of the segment that was said to go, and 1; 0: none */
	uint32_t step; /* enum clean_step */
	bool look;     /* at the oldest segment, when the poller runs */
	bool forced;   /* it goes whatever is in it */
	bool holds;    /* something of it must be kept where it is */
	bool waits;    /* something of it is kept where it is, unless much behind it is dead */
	bool rolls;    /* it is the active one: is all of it dead? */
	uint64_t seen_index, seen_ns; /* last batch, and since when it is */
	uint64_t position;   /* of the segment that is looked at */
	struct extents extents;
	struct extents_page page;
	struct relocation relocation;
	struct sample sample;
	uint64_t bytes, live_bytes; /* of its runs */
	uint32_t cursor, grown;     /* in the states */
	uint64_t renewed;           /* batch that must be durable before it goes */
	struct thmqi_timer timer;
};

/* The oldest segment goes, one at a time: `vote` first, then its index, then its file, which may serve again. */
struct drop {
	uint32_t step; /* enum drop_step */
	bool busy;     /* op is in flight */
	uint32_t tries;
	struct segment *segment; /* from when the log is without it */
	uint64_t generation;     /* of the vote that must be stored */
	struct extents extents;  /* what is no longer held of each partition */
	char name[40];
	struct thmqi_disk_op op;
};

/* A dropped segment's file, under its old name; at the next open a leftover. */
struct spare {
	struct thmqi_disk_file *file; /* NULL: none */
	uint64_t position, bytes;
};

#endif
