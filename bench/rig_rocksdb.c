/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_rocksdb.c - RocksDB as a queue: ascending keys, a WriteBatch with sync = 1, so that each is flushed with the
 * write-ahead log. Log files are used again (recycle_log_file_num), which spares the file system's journal; nothing is
 * compressed or compacted, and write buffers are large: a queue would drop whole files.
 */
#include "rig_rival.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_ROCKSDB
#include <rocksdb/c.h>

#define BUFFER_BYTES (256u << 20)

struct rocks {
	rocksdb_t *db;
	rocksdb_options_t *options;
	rocksdb_writeoptions_t *write;
	rocksdb_writebatch_t *batch;
	uint64_t next;
	char payload[RIG_RIVAL_LEN_MAX];
};

static void check(const char *what, char *error)
{
	if (!error)
		return;
	fprintf(stderr, "bench: rocksdb %s: %s\n", what, error);
	exit(2);
}

static rocksdb_options_t *options(void)
{
	rocksdb_options_t *o = rocksdb_options_create();

	rocksdb_options_set_create_if_missing(o, 1);
	rocksdb_options_set_compression(o, rocksdb_no_compression);
	rocksdb_options_set_disable_auto_compactions(o, 1);
	rocksdb_options_set_write_buffer_size(o, BUFFER_BYTES);
	rocksdb_options_set_max_write_buffer_number(o, 4);
	rocksdb_options_set_recycle_log_file_num(o, 4);
	rocksdb_options_set_level0_slowdown_writes_trigger(o, 1000);
	rocksdb_options_set_level0_stop_writes_trigger(o, 1000);
	return o;
}

static void *rocks_open(const char *dir, const char **ret_why)
{
	struct rocks *r = calloc(1, sizeof(*r));
	char *error = NULL, path[4200];

	(void)ret_why;
	if (!r)
		bench_die("rocksdb", ENOMEM);
	memset(r->payload, 'x', sizeof(r->payload));
	snprintf(path, sizeof(path), "%s/db", dir);
	r->options = options();
	r->db = rocksdb_open(r->options, path, &error);
	check(path, error);
	r->write = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(r->write, 1);
	r->batch = rocksdb_writebatch_create();
	return r;
}

static void put(struct rocks *r, uint32_t count, uint32_t len)
{
	char *error = NULL;

	rocksdb_writebatch_clear(r->batch);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t key = htobe64(r->next++);

		rocksdb_writebatch_put(r->batch, (const char *)&key, sizeof(key), r->payload, len);
	}
	rocksdb_write(r->db, r->write, r->batch, &error);
	check("write", error);
}

static void rocks_store(void *rival, uint64_t count, uint32_t len)
{
	uint32_t batch = rig_rival_store_batch(len);

	for (uint64_t done = 0; done < count; done += batch)
		put(rival, batch, len);
}

static void rocks_one(void *rival, uint32_t len)
{
	put(rival, 1, len);
}

static void rocks_close(void *rival)
{
	struct rocks *r = rival;

	rocksdb_writebatch_destroy(r->batch);
	rocksdb_writeoptions_destroy(r->write);
	rocksdb_close(r->db);
	rocksdb_options_destroy(r->options);
	free(r);
}
#else

static void *rocks_open(const char *dir, const char **ret_why)
{
	(void)dir;
	*ret_why = "built without RocksDB";
	return NULL;
}

static void rocks_store(void *rival, uint64_t count, uint32_t len)
{
	(void)rival, (void)count, (void)len;
}

static void rocks_one(void *rival, uint32_t len)
{
	(void)rival, (void)len;
}

static void rocks_close(void *rival)
{
	(void)rival;
}
#endif

const struct rig_rival rig_rival_rocksdb = {
	.name = "RocksDB",
	.word = "rocksdb",
	.open = rocks_open,
	.store = rocks_store,
	.one = rocks_one,
	.close = rocks_close,
	.batch = rig_rival_store_batch,
	.how = "WriteBatch with sync, log files recycled, no compression, no compaction",
};
