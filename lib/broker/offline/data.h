/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data.h - a whole data directory looked at from outside (data.c): what its meta log says, which shards there are, and that all
 * belongs together; repaired (data_repair.c), copied (copy.c).
 */
#ifndef THMQI_BROKER_DATA_H
#define THMQI_BROKER_DATA_H

#include "commitlog/offline.h"
#include "../internal.h"

/* Partitions of a topic that is not deleted. */
struct data_topic {
	uint32_t topic_id, first_partition, partition_count;
};

struct data {
	const char *path;
	const struct thmq_log_visitor *visitor; /* the caller's */
	void *ctx;
	struct thmq_log_visitor wrapped; /* ours, which knows when it was stopped */
	int stop;                        /* the caller's value */
	int lock_fd;                     /* shared lock; -1: none */
	struct thmqi_disk_dir *dir;      /* NULL but while it is locked for writing */
	struct state_cluster *cluster;   /* NULL: not known */
	struct data_topic *topics;       /* by first_partition */
	uint32_t topic_count, topic_room;
	bool has_meta, has_data;
	uint8_t *shards; /* by number: 1 its directory is there */
	int worst;       /* of what was found */
	bool out_of_memory;
};

/* Return: 0; -EBUSY; -ENOENT; -ENOTDIR; … */
int thmqi_data_begin(struct data *d, const char *path, bool write,
		     const struct thmq_log_visitor *visitor, void *ctx);
void thmqi_data_end(struct data *d);
/* Files of the directory itself; findings. Return: 0 or an error. */
int thmqi_data_list(struct data *d);
int thmqi_data_log(struct data *d,
		   const char *name); /* what comes next is of it. Return: d->stop */
int thmqi_data_finding(struct data *d, uint32_t kind, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* What the meta log says, of a run of it. */
void thmqi_data_learn(struct data *d, const struct thmq_log_run *run);
bool thmqi_data_is_live(void *ctx, uint32_t partition); /* for thmqi_scan_opts */
uint32_t thmqi_data_shard_count(
	const struct data *d); /* by meta, else one more than the highest that is there */
const uint8_t *thmqi_data_log_id(const struct data *d, uint32_t shard); /* NULL: not known */
/* Which shard's log is in the directory of @shard? Return: its number; UINT32_MAX: of none, or nothing tells. */
uint32_t thmqi_data_shard_in(const struct data *d, uint32_t shard, bool *ret_known);
void thmqi_data_shard_name(uint32_t shard, char name[24]);
void thmqi_data_path(const struct data *d, const char *name, char path[4400]);
void thmqi_data_worse(struct data *d, int rc);

#endif
