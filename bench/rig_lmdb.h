/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_lmdb.h - the rival for durable batches: LMDB as a queue, appending integer keys, each batch one synchronous
 * transaction. Built where the package is there.
 */
#ifndef RIG_LMDB_H
#define RIG_LMDB_H

#include "bench.h"

struct rig_lmdb;

struct rig_lmdb *rig_lmdb_open(const char *dir); /* NULL: built without it */
void rig_lmdb_close(struct rig_lmdb *l);
/* @count messages of @len bytes, @batch of them a transaction. Return: messages a second. */
double rig_lmdb_append(struct rig_lmdb *l, uint64_t count, uint32_t len, uint32_t batch);

#endif
