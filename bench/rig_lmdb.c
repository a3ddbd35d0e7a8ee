/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_lmdb.c - LMDB as a queue: see rig_lmdb.h.
 */
#include "rig_lmdb.h"
#include "rig_rival.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifdef HAVE_LMDB
#include <lmdb.h>

#define MAP_BYTES (64ull << 30) /* addresses, not memory */
#define LEN_MAX RIG_RIVAL_LEN_MAX

struct rig_lmdb {
	MDB_env *env;
	MDB_dbi dbi;
	size_t next;
	char dir[4096];
	char payload[LEN_MAX];
};

static void check(const char *what, int r)
{
	if (r != 0) {
		fprintf(stderr, "bench: lmdb %s: %s\n", what, mdb_strerror(r));
		exit(2);
	}
}

struct rig_lmdb *rig_lmdb_open(const char *dir)
{
	struct rig_lmdb *l = calloc(1, sizeof(*l));
	MDB_txn *txn;

	if (!l)
		bench_die("lmdb", ENOMEM);
	if ((size_t)snprintf(l->dir, sizeof(l->dir), "%s/lmdb", dir) >= sizeof(l->dir))
		bench_die(dir, ENAMETOOLONG);
	if (mkdir(l->dir, 0777) != 0)
		bench_die(l->dir, errno);
	memset(l->payload, 'x', sizeof(l->payload));
	check("create", mdb_env_create(&l->env));
	check("map size", mdb_env_set_mapsize(l->env, MAP_BYTES));
	check("open", mdb_env_open(l->env, l->dir, 0, 0666));
	check("begin", mdb_txn_begin(l->env, NULL, 0, &txn));
	check("table", mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &l->dbi));
	check("commit", mdb_txn_commit(txn));
	return l;
}

void rig_lmdb_close(struct rig_lmdb *l)
{
	if (!l)
		return;
	mdb_env_close(l->env);
	bench_rmdir(l->dir);
	free(l);
}

double rig_lmdb_append(struct rig_lmdb *l, uint64_t count, uint32_t len, uint32_t batch)
{
	uint64_t t0 = bench_now();

	if (len > LEN_MAX)
		len = LEN_MAX;
	for (uint64_t done = 0; done < count; done += batch) {
		MDB_txn *txn;

		check("begin", mdb_txn_begin(l->env, NULL, 0, &txn));
		for (uint32_t i = 0; i < batch; i++) {
			MDB_val key = {sizeof(l->next), &l->next}, value = {len, l->payload};

			check("put", mdb_put(txn, l->dbi, &key, &value, MDB_APPEND));
			l->next++;
		}
		check("commit", mdb_txn_commit(txn));
	}
	return (double)count / ((double)(bench_now() - t0) / 1e9);
}

#else

struct rig_lmdb *rig_lmdb_open(const char *dir)
{
	(void)dir;
	return NULL;
}

void rig_lmdb_close(struct rig_lmdb *l)
{
	(void)l;
}

double rig_lmdb_append(struct rig_lmdb *l, uint64_t count, uint32_t len, uint32_t batch)
{
	(void)l, (void)count, (void)len, (void)batch;
	return 0;
}
#endif

static void *rival_open(const char *dir, const char **ret_why)
{
	struct rig_lmdb *l = rig_lmdb_open(dir);

	if (!l)
		*ret_why = "built without LMDB";
	return l;
}

static void rival_store(void *rival, uint64_t count, uint32_t len)
{
	rig_lmdb_append(rival, count, len, rig_rival_store_batch(len));
}

static void rival_one(void *rival, uint32_t len)
{
	rig_lmdb_append(rival, 1, len, 1);
}

static void rival_close(void *rival)
{
	rig_lmdb_close(rival);
}

const struct rig_rival rig_rival_lmdb = {
	.name = "LMDB",
	.word = "lmdb",
	.open = rival_open,
	.store = rival_store,
	.one = rival_one,
	.close = rival_close,
	.batch = rig_rival_store_batch,
	.how = "synchronous transactions, integer keys, MDB_APPEND",
};
