/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_sqlite.c - SQLite as a queue: one table with a rowid, write-ahead log, synchronous=FULL (each commit flushes the
 * log: https://www.sqlite.org/pragma.html#pragma_synchronous), one prepared statement, one connection that holds the
 * file, so that the log's index is in its own memory.
 */
#include "rig_rival.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_SQLITE
#include <sqlite3.h>

struct sqlite {
	sqlite3 *db;
	sqlite3_stmt *begin, *insert, *commit;
	char payload[RIG_RIVAL_LEN_MAX];
};

static void check(struct sqlite *s, const char *what, int r)
{
	if (r == SQLITE_OK || r == SQLITE_DONE || r == SQLITE_ROW)
		return;
	fprintf(stderr, "bench: sqlite %s: %s\n", what, s->db ? sqlite3_errmsg(s->db) : "?");
	exit(2);
}

static sqlite3_stmt *prepare(struct sqlite *s, const char *sql)
{
	sqlite3_stmt *statement = NULL;

	check(s, sql, sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL));
	return statement;
}

/* A pragma that is not taken is no error: it answers with what holds. */
static void must_be(struct sqlite *s, const char *sql, const char *wanted)
{
	sqlite3_stmt *statement = prepare(s, sql);
	const char *is;

	check(s, sql, sqlite3_step(statement));
	is = (const char *)sqlite3_column_text(statement, 0);
	if (!is || strcmp(is, wanted) != 0) {
		fprintf(stderr, "bench: sqlite %s: it is %s\n", sql, is ? is : "nothing");
		exit(2);
	}
	sqlite3_finalize(statement);
}

static void *sqlite_open(const char *dir, const char **ret_why)
{
	struct sqlite *s = calloc(1, sizeof(*s));
	char path[4200];

	(void)ret_why;
	if (!s)
		bench_die("sqlite", ENOMEM);
	memset(s->payload, 'x', sizeof(s->payload));
	snprintf(path, sizeof(path), "%s/queue.db", dir);
	check(s, path, sqlite3_open(path, &s->db));
	must_be(s, "PRAGMA locking_mode=EXCLUSIVE", "exclusive");
	must_be(s, "PRAGMA journal_mode=WAL", "wal");
	check(s, "synchronous", sqlite3_exec(s->db, "PRAGMA synchronous=FULL", NULL, NULL, NULL));
	must_be(s, "PRAGMA synchronous", "2");
	check(s, "table",
	      sqlite3_exec(s->db, "CREATE TABLE queue(id INTEGER PRIMARY KEY, body BLOB)", NULL,
			   NULL, NULL));
	s->begin = prepare(s, "BEGIN");
	s->insert = prepare(s, "INSERT INTO queue(body) VALUES(?1)");
	s->commit = prepare(s, "COMMIT");
	return s;
}

static void run(struct sqlite *s, sqlite3_stmt *statement)
{
	check(s, "step", sqlite3_step(statement));
	check(s, "reset", sqlite3_reset(statement));
}

static void insert(struct sqlite *s, uint32_t len)
{
	check(s, "bind", sqlite3_bind_blob(s->insert, 1, s->payload, (int)len, SQLITE_STATIC));
	run(s, s->insert);
}

static void sqlite_store(void *rival, uint64_t count, uint32_t len)
{
	struct sqlite *s = rival;
	uint32_t batch = rig_rival_store_batch(len);

	for (uint64_t done = 0; done < count; done += batch) {
		run(s, s->begin);
		for (uint32_t i = 0; i < batch; i++)
			insert(s, len);
		run(s, s->commit);
	}
}

static void sqlite_one(void *rival, uint32_t len)
{
	insert(rival, len); /* a statement alone is a transaction */
}

static void sqlite_end(void *rival)
{
	struct sqlite *s = rival;

	sqlite3_finalize(s->begin);
	sqlite3_finalize(s->insert);
	sqlite3_finalize(s->commit);
	check(s, "close", sqlite3_close(s->db));
	free(s);
}
#else

static void *sqlite_open(const char *dir, const char **ret_why)
{
	(void)dir;
	*ret_why = "built without SQLite";
	return NULL;
}

static void sqlite_store(void *rival, uint64_t count, uint32_t len)
{
	(void)rival, (void)count, (void)len;
}

static void sqlite_one(void *rival, uint32_t len)
{
	(void)rival, (void)len;
}

static void sqlite_end(void *rival)
{
	(void)rival;
}
#endif

const struct rig_rival rig_rival_sqlite = {
	.name = "SQLite",
	.word = "sqlite",
	.open = sqlite_open,
	.store = sqlite_store,
	.one = sqlite_one,
	.close = sqlite_end,
	.batch = rig_rival_store_batch,
	.how = "write-ahead log, synchronous=FULL, prepared statement",
};
