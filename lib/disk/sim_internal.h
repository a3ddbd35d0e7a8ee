/* SPDX-License-Identifier: Apache-2.0 */
/* sim_internal.h - the parts of the simulated disk: its file system (sim_fs.c), its operations and power cuts (sim.c),
 * its time and knobs (sim_world.c), its copies (sim_copy.c). */
#ifndef THMQI_DISK_SIM_INTERNAL_H
#define THMQI_DISK_SIM_INTERNAL_H

#include "disk/sim.h"

#define SIM_SECTOR 512u
#define SIM_CHUNK (16u << 10)

/* A piece of the medium, shared by copies of a disk until one of them writes it. */
struct sim_chunk {
	uint32_t refs;
	uint8_t bytes[SIM_CHUNK];
};

/* The bytes of a write, shared likewise. */
struct sim_data {
	uint32_t refs;
	uint8_t bytes[];
};

/* A completed write that nothing has flushed. Its sectors that a later DSYNC write replaced are dead. */
struct sim_pending {
	struct sim_pending *next;
	uint64_t seq; /* when it completed */
	uint64_t offset;
	uint32_t len;
	struct sim_data *data; /* NULL: zeros */
	uint64_t dead[];       /* bit per sector */
};

struct sim_inode {
	struct thmqi_list link;
	uint32_t refs; /* names, volatile and durable, and handles */
	uint32_t chunk_count;
	struct sim_chunk **chunks; /* the medium; NULL: zeros */
	uint64_t size, durable_size;
	struct sim_pending *first, **last;
	struct sim_inode *copy; /* while its file system is copied */
};

struct sim_name {
	char *name;
	struct sim_inode *inode;
};

struct sim_names {
	struct sim_name *list;
	uint32_t count, room;
};

/* A directory operation that nothing has flushed: link (to), unlink (from) or rename (both). */
struct sim_change {
	struct sim_change *next;
	uint64_t seq;
	char *from, *to;
	struct sim_inode *inode;
};

struct sim_dir {
	struct thmqi_list link;
	char *path;
	struct sim_names names, durable;
	struct sim_change *first, **last;
};

struct sim_fs {
	struct thmqi_list dirs, inodes;
	struct thmqi_prng *prng;
	uint64_t seq; /* rises at every completion and every submission */
	uint64_t bytes, capacity;
	int capacity_error;
	uint64_t kept, lost, torn;
	bool lying, garbling;
};

void thmqi_disk_sim_fs_init(struct sim_fs *fs, struct thmqi_prng *prng);
void thmqi_disk_sim_fs_fini(struct sim_fs *fs);
/* @to, which has nothing yet, becomes what @from is. 0; -ENOMEM: @to is to be thrown away. */
int thmqi_disk_sim_fs_copy(struct sim_fs *to, struct sim_fs *from);
/* What a power cut leaves becomes the present; what it does not, is gone. */
void thmqi_disk_sim_fs_crash(struct sim_fs *fs, enum thmqi_disk_sim_crash_mode mode);

struct sim_dir *thmqi_disk_sim_dir_get(struct sim_fs *fs, const char *path, bool create);
/* Name of a directory in @dir, one after the other; NULL at the end. */
const char *thmqi_disk_sim_dir_child(struct sim_fs *fs, const struct sim_dir *dir, uint32_t i);
struct sim_inode *thmqi_disk_sim_lookup(const struct sim_dir *dir, const char *name);
int thmqi_disk_sim_link(struct sim_fs *fs, struct sim_dir *dir, const char *name,
			struct sim_inode **ret_inode);
int thmqi_disk_sim_unlink(struct sim_fs *fs, struct sim_dir *dir, const char *name);
int thmqi_disk_sim_rename(struct sim_fs *fs, struct sim_dir *dir, const char *from, const char *to);
/* What had completed at @seq becomes durable. */
void thmqi_disk_sim_dir_flush(struct sim_fs *fs, struct sim_dir *dir, uint64_t seq);

void thmqi_disk_sim_inode_unref(struct sim_fs *fs, struct sim_inode *inode);
int thmqi_disk_sim_inode_grow(struct sim_fs *fs, struct sim_inode *inode, uint64_t size);
int thmqi_disk_sim_inode_write(struct sim_fs *fs, struct sim_inode *inode, uint64_t offset,
			       const void *data, uint32_t len, bool durable);
uint32_t thmqi_disk_sim_inode_read(const struct sim_inode *inode, uint64_t offset, void *data,
				   uint32_t len);
/* What had completed at @seq becomes durable, and @size. */
void thmqi_disk_sim_inode_flush(struct sim_fs *fs, struct sim_inode *inode, uint64_t seq,
				uint64_t size);
/* Flip one bit of what a read at @offset returns, wherever it is kept. */
int thmqi_disk_sim_inode_flip(struct sim_inode *inode, uint64_t offset, uint32_t bit);

/* An operation between its begin and its end. */
struct sim_flight {
	struct sim_flight *next;
	struct thmqi_disk_op *op;
	uint64_t due;
	uint64_t seq;  /* of its begin: a flush covers what completed before */
	uint64_t size; /* of its file at its begin */
	uint32_t crc;  /* of the bytes to be written, at its begin */
	uint8_t effect;
	bool dead; /* the power was cut meanwhile */
	int32_t error;
	int64_t arg;
};

struct thmqi_disk_queue {
	struct thmqi_list link;
	struct thmqi_disk_sim *sim;
	struct thmq_core *core;
	struct thmqi_poller poller;
	struct sim_flight *first; /* by due */
	uint32_t inflight, depth;
};

struct thmqi_disk_dir {
	struct thmqi_disk_sim *sim;
	struct sim_dir *dir;
	uint64_t generation;
};

struct thmqi_disk_file {
	struct thmqi_disk_sim *sim;
	struct sim_inode *inode;
	uint64_t generation;
	char *name;
};

struct sim_lock {
	struct sim_lock *next;
	const struct thmqi_disk_dir *holder;
	struct sim_dir *dir;
	char *name;
};

struct thmqi_disk_sim {
	struct sim_fs fs;
	struct thmqi_prng prng;
	struct thmqi_disk_sim_opts opts;
	struct thmqi_clock clock;
	struct thmqi_world world;
	struct thmqi_disk_sim *room; /* whose time it has, and whose directories lead to it: itself, if it is the first */
	struct thmqi_disk_sim *beside; /* the next one of its room */
	char *path;		       /* of what lies on it; NULL: on the first: all that is on no other */
	struct thmqi_list queues;      /* the first: of all of the room, each with the disk that it was used for last */
	struct sim_flight *calling; /* of the calling half, which blocks: at most one */
	struct sim_lock *locks;
	uint64_t now; /* the first's */
	uint64_t last_due, generation;
	int64_t clock_set_ns; /* the time of day is ahead by this */
	bool down;
	uint64_t cut_in; /* changes until the cut; 0: none */
	enum thmqi_disk_sim_crash_mode cut_mode;
	struct thmqi_disk_sim_fault faults[THMQI_DISK_SIM_FAULTS_MAX];
	uint32_t fault_count;
	bool spared; /* who looks meets none of them */
	struct thmqi_disk_sim_stats stats;
	void (*seen)(void *ctx, const char *name, const struct thmqi_disk_op *op);
	void *seen_ctx;
	void (*step)(void *ctx);
	void *step_ctx;
};

/* Is it one of what power cuts are counted by? */
static inline bool sim_is_change(uint8_t opcode)
{
	return opcode != THMQI_DISK_READ && opcode != THMQI_DISK_CLOSE && opcode != THMQI_DISK_OPEN;
}

/* Its file is what comes of it, and says nothing before. */
static inline bool sim_is_opening(uint8_t opcode)
{
	return opcode == THMQI_DISK_CREATE || opcode == THMQI_DISK_OPEN;
}

/* @op, a change in flight, happens on @sim and is volatile; its handles are of @sim and live. */
void thmqi_disk_sim_happen(struct thmqi_disk_sim *sim, const struct sim_flight *f);

/* Of one handle, or all (NULL). */
void thmqi_disk_sim_locks_drop(struct thmqi_disk_sim *sim, const struct thmqi_disk_dir *holder);

#endif
