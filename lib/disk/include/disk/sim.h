/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - a disk, its file system and the time, simulated from one seed; for tests.
 *
 * A whole file system in memory, in one thread, under virtual time. Operations take seeded times and complete in
 * seeded order. What a write left lies in a volatile cache until the file is flushed (or the write had
 * THMQI_DISK_DSYNC); a directory operation is volatile until its directory is flushed, a file's size until
 * the file is. A power cut keeps, loses or tears each volatile write by itself, in 512-byte sectors, in any
 * subset, and likewise the writes in flight; it keeps or loses each volatile directory operation.
 *
 * It is stricter than most file systems: it refuses what is not aligned to 512 bytes, flushing a file does not flush
 * its name, and a flush covers what had completed when it was submitted, no more.
 */
#ifndef THMQI_DISK_SIM_H
#define THMQI_DISK_SIM_H

#include "disk/disk.h"

struct thmqi_disk_sim;

extern const struct thmqi_disk_table thmqi_disk_sim; /* its context is the struct thmqi_disk_sim */

/* A planted defect: flushes and DSYNC succeed and nothing becomes durable by them. A crash test must then fail. */
#define THMQI_DISK_SIM_LYING 1u
/* Operations complete in the order of their submission. */
#define THMQI_DISK_SIM_IN_ORDER 2u
/* A sector that was being written when the power went may hold bytes that nobody wrote. */
#define THMQI_DISK_SIM_GARBLING 4u

/* Zero means the default. */
struct thmqi_disk_sim_opts {
	uint32_t flags;          /* THMQI_DISK_SIM_* */
	uint32_t clock_tick_ns;  /* each look at the clock takes so long; 0 means 20 */
	uint64_t capacity_bytes; /* sum of the file sizes; 0 means no limit, … */
	/* Shortest time of an operation, the longest being four times as long; 0 means 10, 10 and 30 us. A write with
	 * THMQI_DISK_DSYNC takes the sum of the latter two, a directory operation the last. */
	uint64_t read_ns;
	uint64_t write_ns;
	uint64_t flush_ns;
	int32_t capacity_error; /* … and beyond it comes this; 0 means -ENOSPC */
	uint32_t reserved;
};

/* @opts NULL: all defaults. 0 or -ENOMEM. */
int thmqi_disk_sim_open(uint64_t seed, const struct thmqi_disk_sim_opts *opts,
			struct thmqi_disk_sim **ret_sim);
/*
 * Another disk in the world of @first: what lies in directories whose paths begin with @path is on it. It has the time of
 * @first, and options, faults and power of its own. thmqi_disk_sim_close() of @first closes it too. 0 or -ENOMEM.
 */
int thmqi_disk_sim_open_beside(struct thmqi_disk_sim *first, const char *path, uint64_t seed,
			       const struct thmqi_disk_sim_opts *opts, struct thmqi_disk_sim **ret_sim);
/* All queues, files and directories must be closed. */
void thmqi_disk_sim_close(struct thmqi_disk_sim *sim);

/* World for thmqi_env_open(): this disk, its clock, and an idle hook that lets time pass until something happens. It
 * lives as long as the sim. */
const struct thmqi_world *thmqi_disk_sim_world(struct thmqi_disk_sim *sim);
uint64_t thmqi_disk_sim_now(struct thmqi_disk_sim *sim); /* ns; does not let time pass */
void thmqi_disk_sim_advance(struct thmqi_disk_sim *sim, uint64_t ns);
/* The time of day is @ns ahead of what it would be, or behind: somebody has set the clock. Time itself goes on as before. */
void thmqi_disk_sim_set_clock(struct thmqi_disk_sim *sim, int64_t ns);

/* The sum of the file sizes may become so large, and no larger; what is there stays. 0: no limit. */
void thmqi_disk_sim_set_capacity(struct thmqi_disk_sim *sim, uint64_t bytes);

/* --------------------------------------------------------------- power cuts */

enum thmqi_disk_sim_crash_mode {
	THMQI_DISK_SIM_CRASH_SEEDED = 0, /* one of the others, from the seed */
	THMQI_DISK_SIM_CRASH_LOSE = 1,   /* everything volatile is lost */
	THMQI_DISK_SIM_CRASH_KEEP = 2,   /* everything volatile is kept, also what was in flight */
	THMQI_DISK_SIM_CRASH_PREFIX = 3, /* kept up to a point in time, one write torn there */
	THMQI_DISK_SIM_CRASH_ANY = 4,    /* each by itself: kept, lost or torn */
	THMQI_DISK_SIM_CRASH_KILL =
		5 /* of copies only: no cut; the program was killed, nothing volatile is lost yet */
};

/* Cut the power now (a second time: nothing more happens). From here to thmqi_disk_sim_restart() every
 * operation fails with -EIO, and those in flight complete with it, so that a program can be closed. */
void thmqi_disk_sim_crash(struct thmqi_disk_sim *sim);
void thmqi_disk_sim_crash_as(struct thmqi_disk_sim *sim, enum thmqi_disk_sim_crash_mode mode);
/* Cut by itself when the @nth changing operation (all but reads and closes) from now on is submitted, 1 being the next;
 * it is in flight then. 0: not. */
void thmqi_disk_sim_cut_at(struct thmqi_disk_sim *sim, uint64_t nth,
			   enum thmqi_disk_sim_crash_mode mode);
bool thmqi_disk_sim_is_down(const struct thmqi_disk_sim *sim);
/* Power is back: the disk has what the cut left. Files, directories and locks opened before are dead handles: they can
 * only be closed. Without a crash before, it is a clean restart of the machine: everything is kept. */
void thmqi_disk_sim_restart(struct thmqi_disk_sim *sim);

/* ------------------------------------------------------------------- copies */

/* Called whenever a changing operation has begun and is in flight: the places where thmqi_disk_sim_cut_at() can cut.
 * What it does must leave @sim alone. NULL: nobody. */
void thmqi_disk_sim_watch(struct thmqi_disk_sim *sim, void (*step)(void *ctx), void *ctx);

enum thmqi_disk_sim_tear {
	THMQI_DISK_SIM_TEAR_NONE = 0,
	THMQI_DISK_SIM_TEAR_HEAD = 1,   /* its first @sector sectors were written */
	THMQI_DISK_SIM_TEAR_TAIL = 2,   /* all but these */
	THMQI_DISK_SIM_TEAR_GARBLE = 3, /* these, and the next one holds anything */
	THMQI_DISK_SIM_TEAR_ONE = 4     /* the next one alone */
};

struct thmqi_disk_sim_cut {
	uint32_t mode; /* enum thmqi_disk_sim_crash_mode, of all but what @tear says */
	uint32_t
		tear; /* enum thmqi_disk_sim_tear: the write that began last is in flight, and torn so */
	uint32_t sector; /* its place in that write */
};

/*
 * @to becomes what @from is now (@cut NULL), or what a power cut of @from would leave now, up again; @from and what is in
 * flight on it go on as they are. All queues, files and directories of @to must be closed; its options and its watchers
 * stay, its faults go. Its time does not go back with a @cut. The bytes are shared until one of both writes them: it costs little. Without @cut nothing
 * may be in flight on @from. 0; -ENOMEM: @to is empty.
 */
int thmqi_disk_sim_copy(struct thmqi_disk_sim *to, struct thmqi_disk_sim *from, uint64_t seed,
			const struct thmqi_disk_sim_cut *cut);
/* Sectors of the write that began last on @sim, while a watcher is called; 0: what began last is no write. */
uint32_t thmqi_disk_sim_last_sectors(const struct thmqi_disk_sim *sim);

/* ------------------------------------------------------------------- faults */

/* In place of an opcode, for a fault: any operation but a close, or any that changes something. */
#define THMQI_DISK_SIM_ANY_CHANGE 254u
#define THMQI_DISK_SIM_ANY_OP 255u

enum thmqi_disk_sim_effect {
	THMQI_DISK_SIM_ERROR = 1,     /* fails with @error; a write may have happened in part */
	THMQI_DISK_SIM_SHORT = 2,     /* half of it happens, then -EIO */
	THMQI_DISK_SIM_LOST = 3,      /* write: reported as done, never happened */
	THMQI_DISK_SIM_MISDIRECT = 4, /* read or write: at offset + arg (0: seeded) */
	THMQI_DISK_SIM_CORRUPT = 5,   /* read or write: one bit flipped */
	THMQI_DISK_SIM_STALL = 6      /* takes @arg ns longer */
};

struct thmqi_disk_sim_fault {
	uint8_t opcode; /* enum thmqi_disk_opcode or THMQI_DISK_SIM_ANY_* */
	uint8_t effect; /* enum thmqi_disk_sim_effect */
	uint16_t reserved;
	int32_t error;   /* negative errno; 0 means -EIO */
	uint64_t nth;    /* operation with that opcode from now on, 1 being the next */
	uint64_t repeat; /* so many more of them after it; UINT64_MAX: for ever */
	int64_t arg;
};

#define THMQI_DISK_SIM_FAULTS_MAX 16u

/* 0; -ENOBUFS: there are THMQI_DISK_SIM_FAULTS_MAX already. */
int thmqi_disk_sim_fault_add(struct thmqi_disk_sim *sim, const struct thmqi_disk_sim_fault *fault);
void thmqi_disk_sim_faults_clear(struct thmqi_disk_sim *sim);
/* True: who looks now is not of that world, and meets none of its faults, nor uses them up. */
void thmqi_disk_sim_spare(struct thmqi_disk_sim *sim, bool spared);
/* Flip one seeded bit of the @len bytes at @offset of a file, at rest. 0; -ENOENT; -EINVAL beyond its end. */
int thmqi_disk_sim_damage(struct thmqi_disk_sim *sim, const char *dir, const char *name,
			  uint64_t offset, uint64_t len);

/* ------------------------------------------------------------------ looking */

struct thmqi_disk_sim_stats {
	uint64_t ops[THMQI_DISK_OPEN + 1]; /* begun, by opcode, both halves */
	uint64_t changes;                   /* what thmqi_disk_sim_cut_at() counts */
	uint64_t faults;                    /* that struck */
	uint64_t crashes;
	uint64_t kept, lost, torn; /* volatile writes at crashes */
	uint64_t
		unstable; /* writes whose bytes changed while they were in flight: a bug of the writer */
	uint64_t misaligned; /* refused with -EINVAL */
	uint64_t inflight;
	uint64_t bytes; /* sum of file sizes */
};
void thmqi_disk_sim_stats(const struct thmqi_disk_sim *sim, struct thmqi_disk_sim_stats *ret);

/* Called when an operation begins, for traces. @name: the file's last name, or the directory's path. NULL: nobody. */
void thmqi_disk_sim_observe(struct thmqi_disk_sim *sim,
			    void (*seen)(void *ctx, const char *name,
					 const struct thmqi_disk_op *op),
			    void *ctx);

#endif
