/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wal.c - the commit log alone, as the write-ahead log of a small key-value store. No broker, no topics: one log, opened on
 * a core that this thread drives. doc/log.md explains it step by step.
 *
 *   wal DIR put KEY VALUE [KEY VALUE]...   all or none, durable when it returns
 *   wal DIR get KEY
 *   wal DIR del KEY
 *   wal DIR list
 *   wal DIR crash COUNT [SEGMENT_BYTES]    writes COUNT numbered transactions, tells which are durable, and kills itself
 *                                          with SIGKILL while the last ones are on their way
 *
 * How: the store is a hash table in memory. A transaction is one run of records (key, tag "put" or "del", value), so that it
 * is there as a whole or not at all. Whenever the log has filled a segment, each bucket that has changed is appended too, as a slice of
 * state; records older than the slices of their buckets are needed by nobody, and their segments go. An open takes the newest
 * slices from the log's replay, and reads the records that are held for what came behind them.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define PARTITION 0u /* all records are of one: their order is that of the transactions */
#define SLICE 1u     /* the only kind of state here; 0 is the log's own */
#define BUCKETS 256u /* a store that is to hold more has more of them */
#define SLICE_MAX (256u << 10)
#define OPERATIONS_MAX 64u /* of a transaction */

struct entry {
	struct entry *next;
	uint32_t key_len, len;
	char bytes[]; /* key, value */
};

struct bucket {
	struct entry *first;
	uint32_t bytes;   /* of its slice, if it were written now */
	uint64_t saved;   /* what came before this offset is in its newest slice */
	uint64_t changed; /* first offset that is not; UINT64_MAX: none */
	bool due;         /* to be saved as soon as the log has room */
};

struct store {
	struct thmq_env *env;
	struct thmq_log *log;
	struct bucket buckets[BUCKETS];
	uint64_t next_offset;
	uint64_t durable_index; /* all batches up to this are on the medium */
	bool recovered;
	int failed;
};

struct operation {
	const char *key;
	const char *value; /* NULL: delete */
	uint32_t key_len, len;
};

/* As a slice is stored: this, then for each entry two lengths, key and value. */
struct slice_header {
	uint64_t offset; /* of the next record when it was written */
	uint32_t count;
	uint32_t reserved;
};

/* -------------------------------------------------------------------- table */

static struct bucket *bucket_of(struct store *s, const void *key, uint32_t len)
{
	const unsigned char *byte = key;
	uint32_t h = 2166136261u;

	while (len--)
		h = (h ^ *byte++) * 16777619u;
	return &s->buckets[h % BUCKETS];
}

static struct entry **place_of(struct bucket *b, const void *key, uint32_t len)
{
	struct entry **at = &b->first;

	while (*at && ((*at)->key_len != len || memcmp((*at)->bytes, key, len) != 0))
		at = &(*at)->next;
	return at;
}

static uint32_t stored_bytes(uint32_t key_len, uint32_t len)
{
	return 2 * (uint32_t)sizeof(uint32_t) + key_len + len;
}

static void table_remove(struct bucket *b, const void *key, uint32_t key_len)
{
	struct entry **at = place_of(b, key, key_len), *e = *at;

	if (!e)
		return;
	*at = e->next;
	b->bytes -= stored_bytes(e->key_len, e->len);
	free(e);
}

static int table_put(struct bucket *b, const void *key, uint32_t key_len, const void *value,
		     uint32_t len)
{
	struct entry *e = malloc(sizeof(*e) + key_len + len);

	if (!e)
		return -ENOMEM;
	table_remove(b, key, key_len);
	e->key_len = key_len;
	e->len = len;
	memcpy(e->bytes, key, key_len);
	if (len)
		memcpy(e->bytes + key_len, value, len);
	e->next = b->first;
	b->first = e;
	b->bytes += stored_bytes(key_len, len);
	return 0;
}

static void table_clear(struct bucket *b)
{
	while (b->first)
		table_remove(b, b->first->bytes, b->first->key_len);
}

/* ------------------------------------------------------------------- slices */

static int save(struct store *s, struct bucket *b)
{
	struct slice_header h = {.offset = s->next_offset};
	uint32_t len = (uint32_t)sizeof(h) + b->bytes, lens[2];
	struct thmq_run_header *run;
	const struct entry *e;
	uint64_t index;
	char *at;
	int rc;

	rc = thmq_log_append(s->log, (uint32_t)sizeof(*run) + len, &run, &index);
	if (rc)
		return rc;
	thmq_run_init(run, THMQ_RUN_STATE, SLICE, (uint64_t)(b - s->buckets), 0, len);
	at = (char *)(run + 1) + sizeof(h);
	for (e = b->first; e; e = e->next, h.count++) {
		lens[0] = e->key_len;
		lens[1] = e->len;
		memcpy(at, lens, sizeof(lens));
		memcpy(at + sizeof(lens), e->bytes, e->key_len + e->len);
		at += stored_bytes(e->key_len, e->len);
	}
	memcpy(run + 1, &h, sizeof(h));
	/* nobody waits for it: the log makes it durable before it lets go of what it replaces */
	rc = thmq_log_append_end(s->log, run, THMQ_DURABILITY_MEMORY);
	if (rc)
		return rc;
	b->saved = s->next_offset;
	b->changed = UINT64_MAX;
	b->due = false;
	return 0;
}

static int load(struct store *s, const struct thmq_log_run *run)
{
	const char *at = run->payload, *end = at + run->header->len;
	struct slice_header h;
	struct bucket *b;
	uint32_t lens[2];

	if (run->header->base_offset >= BUCKETS || run->header->len < sizeof(h))
		return -THMQ_ECORRUPT;
	b = &s->buckets[run->header->base_offset];
	table_clear(b); /* an older slice of it */
	memcpy(&h, at, sizeof(h));
	for (at += sizeof(h); h.count--; at += stored_bytes(lens[0], lens[1])) {
		if ((size_t)(end - at) < sizeof(lens))
			return -THMQ_ECORRUPT;
		memcpy(lens, at, sizeof(lens));
		if ((uint64_t)lens[0] + lens[1] > (uint64_t)(end - at) - sizeof(lens))
			return -THMQ_ECORRUPT;
		if (table_put(b, at + sizeof(lens), lens[0], at + sizeof(lens) + lens[0],
			      lens[1]) != 0)
			return -ENOMEM;
	}
	b->saved = h.offset;
	if (s->next_offset < h.offset)
		s->next_offset = h.offset;
	return 0;
}

static void save_due(struct store *s)
{
	for (uint32_t i = 0; i < BUCKETS; i++)
		if (s->buckets[i].due && save(s, &s->buckets[i]) != 0)
			return; /* on_room() goes on */
}

/* ------------------------------------------------------------------- events */

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	if (run->header->encoding == THMQ_RUN_STATE && run->header->partition == SLICE)
		return load(ctx, run);
	return 0; /* records are read when the log is open: those of full segments do not come here */
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	if (durability == THMQ_DURABILITY_DURABLE)
		((struct store *)ctx)->durable_index = index;
}

static void on_failed(void *ctx, int error)
{
	((struct store *)ctx)->failed = error;
}

static void on_checkpoint(void *ctx)
{
	struct store *s = ctx;

	for (uint32_t i = 0; i < BUCKETS; i++)
		s->buckets[i].due |= s->buckets[i].changed != UINT64_MAX;
	save_due(s);
}

static void on_room(void *ctx)
{
	save_due(ctx);
}

/* Records are needed until the buckets of all of them are saved behind them. */
static int on_live(void *ctx, const struct thmq_log_extent *extent)
{
	const struct store *s = ctx;

	if (!s->recovered)
		return THMQ_LOG_LIVE;
	for (uint32_t i = 0; i < BUCKETS; i++)
		if (s->buckets[i].changed < extent->end_offset)
			return THMQ_LOG_LIVE;
	return THMQ_LOG_DEAD;
}

static int on_renew(void *ctx, uint32_t kind, uint64_t item)
{
	struct store *s = ctx;

	return kind == SLICE && item < BUCKETS ? save(s, &s->buckets[item]) : 0;
}

static const struct thmq_log_events events = {.size = sizeof(events),
					      .replay = on_replay,
					      .settled = on_settled,
					      .failed = on_failed,
					      .room = on_room,
					      .checkpoint = on_checkpoint,
					      .live = on_live,
					      .renew = on_renew};

/* -------------------------------------------------------------- open, close */

static int replay_run(struct store *s, const struct thmq_log_run *run)
{
	struct thmq_record_cursor cursor = {{0}};
	struct thmq_record_view r;
	struct bucket *b;
	int rc;

	while ((rc = thmq_record_next(run, &cursor, &r)) == 1) {
		b = bucket_of(s, r.key, r.key_len);
		if (s->next_offset <= r.offset)
			s->next_offset = r.offset + 1;
		if (r.offset < b->saved)
			continue;
		if (b->changed == UINT64_MAX)
			b->changed = r.offset;
		if (r.tag_len == 3 && memcmp(r.tag, "del", 3) == 0)
			table_remove(b, r.key, r.key_len);
		else if (table_put(b, r.key, r.key_len, r.data, r.len) != 0)
			return -ENOMEM;
	}
	return rc;
}

static int read_records(struct store *s)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view view;
	uint64_t begin, end;
	int rc = 1;

	if (thmq_log_bounds(s->log, PARTITION, &begin, &end) != 0)
		return 0; /* there are none */
	rc = thmq_log_reader_open(s->log, PARTITION, NULL, NULL, &reader);
	if (rc)
		return rc;
	thmq_log_reader_seek(reader, begin);
	while (rc >= 0 && begin < end) {
		rc = thmq_log_read(reader, end, &view);
		if (rc == 0) /* the device is asked */
			rc = thmq_poll(s->env, SECOND);
		else if (rc == 1) {
			begin = view.run.header->base_offset + view.run.header->span;
			rc = replay_run(s, &view.run);
			thmq_log_view_release(s->log, &view);
		}
	}
	thmq_log_reader_close(reader);
	return rc < 0 ? rc : 0;
}

static int store_close(struct store *s)
{
	int rc = s->log ? thmq_log_close(s->log, 10 * SECOND) : 0;

	thmq_env_close(s->env, SECOND);
	for (uint32_t i = 0; i < BUCKETS; i++)
		table_clear(&s->buckets[i]);
	free(s);
	return rc;
}

static int store_open(const char *dir, uint64_t segment_bytes, struct store **ret)
{
	struct store *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	for (uint32_t i = 0; i < BUCKETS; i++)
		s->buckets[i].changed = UINT64_MAX;
	rc = thmq_env_open(&s->env, NULL); /* one core, and this thread drives it */
	if (rc) {
		free(s);
		return rc;
	}
	rc = thmq_log_open(thmq_env_core(s->env, 0),
			   THMQ_LOG_OPTS(.dir = dir, .events = &events, .ctx = s,
					 .segment_bytes_min = segment_bytes,
					 .segment_bytes_max = segment_bytes),
			   &s->log);
	if (rc)
		s->log = NULL;
	else
		rc = read_records(s);
	if (rc) {
		store_close(s);
		return rc;
	}
	s->recovered = true;
	*ret = s;
	return 0;
}

/* ------------------------------------------------------------- transactions */

/* Would each bucket still fit into a slice? Counts generously: all as one bucket's, and as new. */
static bool has_room(struct store *s, const struct operation *ops, uint32_t count)
{
	uint64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < count; i++)
		bytes += stored_bytes(ops[i].key_len, ops[i].value ? ops[i].len : 0);
	for (i = 0; i < count; i++)
		if (bucket_of(s, ops[i].key, ops[i].key_len)->bytes + bytes > SLICE_MAX)
			return false;
	return true;
}

static int apply(struct store *s, const struct operation *ops, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct bucket *b = bucket_of(s, ops[i].key, ops[i].key_len);

		if (b->changed == UINT64_MAX)
			b->changed = s->next_offset + i;
		if (!ops[i].value)
			table_remove(b, ops[i].key, ops[i].key_len);
		else if (table_put(b, ops[i].key, ops[i].key_len, ops[i].value, ops[i].len) != 0)
			return s->failed =
				       -ENOMEM; /* the table is behind the log: it must be opened anew */
	}
	s->next_offset += count;
	return 0;
}

/*
 * All of it or none. It is in the log's order and in the table when this returns; durable it is once *ret_index is, so
 * that many transactions share a write: store_wait().
 */
static int store_write(struct store *s, const struct operation *ops, uint32_t count,
		       uint64_t *ret_index)
{
	struct thmq_record_view records[OPERATIONS_MAX] = {{0}};
	struct thmq_run_header *run;
	struct timespec now;
	uint64_t index;
	uint32_t len;
	int rc;

	if (s->failed)
		return s->failed;
	if (count > OPERATIONS_MAX)
		return -EINVAL;
	if (!has_room(s, ops, count))
		return -ENOSPC;
	clock_gettime(CLOCK_REALTIME, &now);
	for (uint32_t i = 0; i < count; i++)
		records[i] = (struct thmq_record_view){.offset = s->next_offset + i,
						       .time_ns = now.tv_sec * (int64_t)SECOND +
								  now.tv_nsec,
						       .key = ops[i].key,
						       .key_len = ops[i].key_len,
						       .tag = ops[i].value ? "put" : "del",
						       .tag_len = 3,
						       .data = ops[i].value,
						       .len = ops[i].value ? ops[i].len : 0};
	len = thmq_run_len(records, count);
	if (!len)
		return -EINVAL;
	while ((rc = thmq_log_append(s->log, len, &run, &index)) == -EAGAIN) {
		rc = thmq_poll(s->env, SECOND); /* the device has as much as it may */
		if (rc < 0)
			return rc;
	}
	if (rc)
		return rc;
	rc = thmq_run_encode(run, len, PARTITION, records, count);
	if (rc) {
		thmq_log_append_abort(s->log);
		return rc;
	}
	run->flags &=
		(uint16_t)~THMQ_RUN_KEYED; /* nothing is looked up by key in the log: it need not index them */
	rc = thmq_log_append_end(s->log, run, THMQ_DURABILITY_DURABLE);
	if (rc)
		return rc;
	*ret_index = index;
	return apply(s, ops, count);
}

/* Until all up to @index is on the medium: a write of the transactions that have gathered, and no more than that. */
static int store_wait(struct store *s, uint64_t index)
{
	int rc;

	while (s->durable_index < index) {
		if (s->failed)
			return s->failed;
		rc = thmq_poll(s->env, SECOND);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static const struct entry *store_get(struct store *s, const char *key)
{
	return *place_of(bucket_of(s, key, (uint32_t)strlen(key)), key, (uint32_t)strlen(key));
}

/* -------------------------------------------------------------- command line */

#define OUTSTANDING 32u

static int complain(const char *what, int rc)
{
	fprintf(stderr, "wal: %s: %s%s%s\n", what, thmq_strerror(rc), *thmq_errmsg() ? ": " : "",
		thmq_errmsg());
	return 1;
}

/* Transaction @i of a crash: a key is set or, every seventh time, deleted, and "last" is set to @i. */
static uint32_t crash_value(uint32_t i, char *value)
{
	uint32_t at, len = 500 + i * 7919u % 2500;

	for (at = 0; at < len; at++)
		value[at] = (char)('a' + (i + at) % 26);
	return len;
}

static int crash_write(struct store *s, uint32_t i, uint64_t *ret_index)
{
	static char value[4096];
	char key[32], number[32];
	struct operation ops[2] = {{.key = key, .value = i % 7 ? value : NULL},
				   {.key = "last", .value = number, .key_len = 4}};

	ops[0].key_len =
		(uint32_t)snprintf(key, sizeof(key), "key-%" PRIu32, i * 2654435761u % 300u);
	ops[0].len = crash_value(i, value);
	ops[1].len = (uint32_t)snprintf(number, sizeof(number), "%" PRIu32, i);
	return store_write(s, ops, 2, ret_index);
}

static uint32_t crash_last(struct store *s)
{
	const struct entry *e = store_get(s, "last");
	char number[32] = {0};

	if (e)
		memcpy(number, e->bytes + e->key_len,
		       e->len < sizeof(number) ? e->len : sizeof(number) - 1);
	return (uint32_t)strtoul(number, NULL, 10);
}

/* Does not come back, but with an error. */
static int crash(struct store *s, uint32_t count)
{
	uint32_t last = crash_last(s), i;
	uint64_t index[OUTSTANDING];
	int rc;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 1; i <= count; i++) {
		rc = crash_write(s, last + i, &index[i % OUTSTANDING]);
		if (!rc && i >= OUTSTANDING) /* the one that is as many before */
			rc = store_wait(s, index[(i + 1) % OUTSTANDING]);
		if (rc)
			return complain("write", rc);
		if (i >= OUTSTANDING)
			printf("%" PRIu32 "\n", last + i + 1 - OUTSTANDING);
	}
	return kill(getpid(), SIGKILL);
}

static int usage(void)
{
	fprintf(stderr, "usage: wal DIR put KEY VALUE [KEY VALUE]... | get KEY | del KEY | list | "
			"crash COUNT [SEGMENT_BYTES]\n");
	return 2;
}

static int change(struct store *s, bool put, int argc, char **argv)
{
	struct operation ops[OPERATIONS_MAX];
	int step = put ? 2 : 1, i, rc;
	uint32_t count = 0;
	uint64_t index;

	if (argc < step || argc % step || argc / step > (int)OPERATIONS_MAX)
		return usage();
	for (i = 0; i < argc; i += step)
		ops[count++] = (struct operation){.key = argv[i],
						  .key_len = (uint32_t)strlen(argv[i]),
						  .value = put ? argv[i + 1] : NULL,
						  .len = put ? (uint32_t)strlen(argv[i + 1]) : 0};
	rc = store_write(s, ops, count, &index);
	if (!rc)
		rc = store_wait(s, index);
	return rc ? complain("write", rc) : 0;
}

static int command(struct store *s, int argc, char **argv)
{
	const struct entry *e;
	uint32_t i;

	if (strcmp(argv[0], "list") == 0) {
		for (i = 0; i < BUCKETS; i++)
			for (e = s->buckets[i].first; e; e = e->next)
				printf("%.*s\t%.*s\n", (int)e->key_len, e->bytes, (int)e->len,
				       e->bytes + e->key_len);
		return 0;
	}
	if (strcmp(argv[0], "get") == 0 && argc == 2) {
		e = store_get(s, argv[1]);
		if (e)
			printf("%.*s\n", (int)e->len, e->bytes + e->key_len);
		return !e;
	}
	if (strcmp(argv[0], "crash") == 0 && argc >= 2)
		return crash(s, (uint32_t)strtoul(argv[1], NULL, 10));
	if (strcmp(argv[0], "put") != 0 && strcmp(argv[0], "del") != 0)
		return usage();
	return change(s, argv[0][0] == 'p', argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	struct store *s;
	int rc, closed;

	if (argc < 3)
		return usage();
	rc = store_open(argv[1],
			argc > 4 && strcmp(argv[2], "crash") == 0 ? strtoull(argv[4], NULL, 10) : 0,
			&s);
	if (rc)
		return complain("open", rc);
	rc = command(s, argc - 2, argv + 2);
	closed = store_close(s);
	return closed ? complain("close", closed) : rc;
}
