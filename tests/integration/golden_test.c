/* SPDX-License-Identifier: Apache-2.0 */
/*
 * golden_test.c - data directories as earlier libraries wrote them, kept as text in tests/golden: each must be found whole,
 * open, have every topic, group and message of its list, and take new ones. A released one never changes.
 *
 * Usage: golden_test FOLDER          the test; FOLDER is tests/golden
 *        golden_test --make FOLDER [NAME]   writes the directories of this version anew, or that one, as FOLDER/v1-<name>.dir
 *                                           and .list
 * Exit: 0 passed, 1 failed, 77 there are none.
 */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "commitlog/plant.h"

#define SECOND 1000000000ull
#define TIME0 1790000000000000000ll /* of the first message; each next one is a microsecond later */
#define LINE 64u                    /* bytes of a file in one line of text */
#define RETAINED 5u /* messages that a topic with retention keeps at least */
#define TEXT_MAX 100000u            /* bytes of a directory as text */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "golden_test: line %d: %s (%s)\n", __LINE__, #x,           \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static char base[] = "golden-test-XXXXXX";

static void shell(const char *format, ...)
{
	char command[1200];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	CHECK(system(command) == 0);
}

/* --------------------------------------------------------------- one log of it */

/* A shard alone, without its broker. */
struct shard {
	struct thmq_env *env;
	struct thmq_log *log;
	uint32_t partition; /* the last one that has messages */
	uint32_t indexed;   /* partitions that were taken from an index */
	uint64_t durable;
};

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	struct shard *s = ctx;

	if (run->header->encoding != THMQ_RUN_STATE)
		s->partition = run->header->partition;
	s->indexed += run->header->encoding != THMQ_RUN_STATE && !run->payload;
	return 0;
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	if (durability == THMQ_DURABILITY_DURABLE)
		((struct shard *)ctx)->durable = index;
}

static void shard_open(struct shard *s, const char *dir, uint32_t defects)
{
	static const struct thmq_log_events events = {
		.size = sizeof(events), .replay = on_replay, .settled = on_settled};
	char path[300];

	memset(s, 0, sizeof(*s));
	snprintf(path, sizeof(path), "%s/shard-000", dir);
	CHECK(thmq_env_open(&s->env, NULL) == 0);
	CHECK(thmqi_log_open_planted(thmq_env_core(s->env, 0),
				     THMQ_LOG_OPTS(.dir = path, .flags = THMQ_LOG_NO_CREATE,
						   .events = &events, .ctx = s),
				     defects, &s->log) == 0);
}

static void shard_close(struct shard *s)
{
	CHECK(thmq_log_close(s->log, SECOND) == 0);
	CHECK(thmq_env_close(s->env, SECOND) == 0);
}

static bool has_part(const char *dir)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/shard-000/open.idx", dir);
	return access(path, F_OK) == 0;
}

/* The index of a segment that was not full is believed, as one of this version would be. */
static void believes_part(const char *dir)
{
	struct shard s;
	char copy[220];

	snprintf(copy, sizeof(copy), "%s-shard", dir);
	shell("cp -r --sparse=always '%s' '%s'", dir, copy);
	shard_open(&s, copy, 0);
	CHECK(s.indexed > 0);
	shard_close(&s);
	shell("rm -rf '%s'", copy);
}

/* ------------------------------------------------- a directory as text, and back */

/* Lines of LINE bytes in hexadecimal, without those that are zero and without zeros at their end. */
static void pack_file(FILE *out, const char *path, const char *name)
{
	uint8_t line[LINE];
	uint64_t at = 0;
	size_t n, i;
	struct stat st;
	FILE *in = fopen(path, "r");

	CHECK(in && stat(path, &st) == 0);
	fprintf(out, "file %s %lld\n", name, (long long)st.st_size);
	for (; (n = fread(line, 1, LINE, in)) > 0; at += n) {
		while (n && !line[n - 1])
			n--;
		if (n) {
			fprintf(out, "%llx ", (unsigned long long)at);
			for (i = 0; i < n; i++)
				fprintf(out, "%02x", line[i]);
			fputc('\n', out);
		}
		n = LINE;
	}
	fclose(in);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* Files that belong to no log are left out, and those that were being made. */
static void pack(FILE *out, const char *dir, const char *below)
{
	struct dirent **names;
	char path[600], name[300];
	int n;

	snprintf(path, sizeof(path), "%s/%s", dir, below);
	n = scandir(path, &names, NULL, by_name);
	CHECK(n > 0);
	for (int i = 0; i < n; i++) {
		struct stat st;

		snprintf(name, sizeof(name), "%s%s%s", below, *below ? "/" : "", names[i]->d_name);
		snprintf(path, sizeof(path), "%s/%s", dir, name);
		CHECK(stat(path, &st) == 0);
		if (names[i]->d_name[0] == '.' || strcmp(names[i]->d_name, "lock") == 0 ||
		    strstr(name, ".tmp"))
			;
		else if (S_ISDIR(st.st_mode))
			pack(out, dir, name);
		else
			pack_file(out, path, name);
		free(names[i]);
	}
	free(names);
}

static void unpack(const char *text, const char *dir)
{
	char line[600], name[300], path[600], *hex;
	FILE *in = fopen(text, "r"), *out = NULL;
	long long size;
	unsigned long long at;
	unsigned byte;

	CHECK(in);
	while (fgets(line, sizeof(line), in)) {
		if (line[0] == '#')
			continue;
		if (sscanf(line, "file %299s %lld", name, &size) == 2) {
			if (out)
				fclose(out);
			snprintf(path, sizeof(path), "%s/%s", dir, name);
			*strrchr(path, '/') = 0;
			shell("mkdir -p '%s'", path);
			path[strlen(path)] = '/';
			out = fopen(path, "w");
			CHECK(out && ftruncate(fileno(out), size) == 0);
			continue;
		}
		CHECK(out && sscanf(line, "%llx", &at) == 1 && (hex = strchr(line, ' ')));
		CHECK(fseek(out, (long)at, SEEK_SET) == 0);
		for (hex++; sscanf(hex, "%2x", &byte) == 1; hex += 2)
			fputc((int)byte, out);
	}
	if (out)
		fclose(out);
	fclose(in);
}

/* ---------------------------------------------------------------- what is in it */

struct open {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
};

static void open_dir(struct open *o, const char *dir, bool create, uint32_t shards)
{
	CHECK(thmq_env_open(&o->env, NULL) == 0);
	CHECK(thmq_broker_open(o->env,
			       THMQ_BROKER_OPTS(.data_dir = dir,
						.segment_bytes = create ? 1u << 20 : 0,
						.shard_count = shards,
						.flags = create ? 0 : THMQ_BROKER_NO_CREATE),
			       &o->broker) == 0);
	CHECK(thmq_connect(o->env, "inproc://", NULL, &o->session) == 0);
}

static void close_dir(struct open *o)
{
	CHECK(thmq_env_close(o->env, 10 * SECOND) == 0);
}

static uint64_t hash_of(const void *data, size_t len)
{
	uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */

	for (size_t i = 0; i < len; i++)
		h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001b3ull;
	return h;
}

/* The last @count: others of a topic that retains but some may go at any time. */
static void list_messages(FILE *out, struct open *o, const char *topic, uint32_t partition,
			  uint64_t count)
{
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t next = 0;
	uint32_t idle = 0;
	int n;

	CHECK(thmq_partition_describe(o->session, topic, partition, NULL, &info) == 0);
	CHECK(thmq_consumer_open(o->session, topic, NULL, NULL, &c) == 0);
	for (next = info.begin_offset; next < info.end_offset && idle < 3000;) {
		n = thmq_fetch(c, &m, 1);
		CHECK(n >= 0);
		idle = n ? 0 : idle + 1;
		if (!n) {
			thmq_session_wait(o->session, 1000000);
			continue;
		}
		if (m.partition == partition)
			next = m.offset + 1;
		if (m.partition == partition && m.offset + count >= info.end_offset)
			fprintf(out,
				"message %s %u %llu time %lld key %.*s tag %.*s len %u hash "
				"%016llx\n",
				topic, partition, (unsigned long long)m.offset,
				(long long)m.time_ns, m.key ? (int)m.key_len : 1,
				m.key ? (const char *)m.key : "-", m.tag ? (int)m.tag_len : 1,
				m.tag ? m.tag : "-", m.len,
				(unsigned long long)hash_of(m.data, m.len));
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_consumer_close(c, SECOND) == 0);
}

/* Transactions that are prepared: it is asked what is to become of them. */
static void list_prepared(FILE *out, struct open *o)
{
	struct thmq_event e;
	uint32_t i;

	CHECK(thmq_txn_watch(o->session, "shop") == 0);
	for (i = 0; i < 1000; i++) {
		thmq_session_wait(o->session, SECOND / 100);
		if (thmq_events(o->session, &e, 1) == 1 && e.type == THMQ_EVENT_TXN_CHECK)
			break;
	}
	CHECK(i < 1000);
	fprintf(out, "prepared shop %llx\n", (unsigned long long)e.sequence);
}

/* Of all that the library can tell, what must be the same for ever. */
static void list(FILE *out, const char *dir)
{
	static const char *const groups[] = {"billing", "audit"};
	struct thmq_topic_info topics[16] = {{.size = sizeof(topics[0])}};
	struct open o;
	int n;

	open_dir(&o, dir, false, 0);
	n = thmq_topic_list(o.session, topics, 16);
	CHECK(n >= 0 && n <= 16);
	for (int i = 0; i < n; i++) {
		fprintf(out, "topic %s id %u partitions %u visible_at %u groups %u\n",
			topics[i].name, topics[i].topic_id, topics[i].partition_count,
			topics[i].visible_at, topics[i].group_count);
		if (topics[i].ttl_ns)
			fprintf(out, "ttl %llu priorities %u\n", (unsigned long long)topics[i].ttl_ns, topics[i].priorities);
		if (strcmp(topics[i].name, "shop-halves") == 0)
			list_prepared(out, &o);
		for (uint32_t p = 0; p < topics[i].partition_count; p++) {
			for (uint32_t g = 0; g < 2; g++) {
				struct thmq_partition_info info = {.size = sizeof(info)};
				int rc = thmq_partition_describe(o.session, topics[i].name, p,
								 groups[g], &info);

				CHECK(rc == 0);
				if (info.group_offset != UINT64_MAX)
					fprintf(out, "group %s %s %u shard %u offset %llu\n",
						topics[i].name, groups[g], p, info.shard,
						(unsigned long long)info.group_offset);
			}
			list_messages(out, &o, topics[i].name, p,
				      topics[i].retention_bytes ? RETAINED : UINT32_MAX);
		}
	}
	close_dir(&o);
}

/* -------------------------------------------------------------------- the test */

static void takes_more(const char *dir)
{
	struct thmq_topic_info topics[16] = {{.size = sizeof(topics[0])}};
	struct thmq_partition_info before = {.size = sizeof(before)},
				   after = {.size = sizeof(after)};
	struct thmq_producer *p;
	struct open o;

	open_dir(&o, dir, false, 0);
	CHECK(thmq_topic_list(o.session, topics, 16) > 0);
	CHECK(thmq_producer_open(o.session, topics[0].name, NULL, &p) == 0);
	CHECK(thmq_partition_describe(o.session, topics[0].name, 0, NULL, &before) == 0);
	CHECK(thmq_send(p, "new", 3, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION)) == 1);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_topic_create(o.session, "a-new-one", NULL) == 0);
	CHECK(thmq_partition_describe(o.session, topics[0].name, 0, NULL, &after) == 0);
	CHECK(after.end_offset > before.end_offset);
	CHECK(after.begin_offset == before.begin_offset ||
	      before.begin_offset == before.end_offset);
	close_dir(&o);
	CHECK(thmq_data_scan(dir, NULL, NULL) == 0);
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	(void)ctx;
	fprintf(stderr, "golden_test: kind %u at %llu: %s\n", f->kind,
		(unsigned long long)f->position, f->text);
	return f->kind == THMQ_FINDING_INDEX; /* the damage tells itself */
}

static bool same_text(const char *a, const char *b)
{
	char command[1300];

	snprintf(command, sizeof(command), "diff '%s' '%s' >&2", a, b);
	return system(command) == 0;
}

static void test_one(const char *folder, const char *name)
{
	static const struct thmq_log_visitor visitor = {.size = sizeof(visitor),
							.finding = on_finding};
	char text[600], dir[200], out[200];
	struct stat st;
	FILE *f;

	snprintf(text, sizeof(text), "%s/%s.dir", folder, name);
	snprintf(dir, sizeof(dir), "%s/%s", base, name);
	snprintf(out, sizeof(out), "%s/%s.list", base, name);
	CHECK(stat(text, &st) == 0 && st.st_size <= (off_t)TEXT_MAX);
	unpack(text, dir);
	CHECK(thmq_data_scan(dir, &visitor, NULL) == 0);
	if (has_part(dir))
		believes_part(dir);
	for (int i = 0; i < 2; i++) { /* as it was, and once more after it was opened */
		f = fopen(out, "w");
		CHECK(f);
		list(f, dir);
		fclose(f);
		snprintf(text, sizeof(text), "%s/%s.list", folder, name);
		CHECK(same_text(text, out));
	}
	takes_more(dir);
	shell("rm -rf '%s'", dir);
}

static int test_all(const char *folder)
{
	struct dirent **names;
	int n = scandir(folder, &names, NULL, by_name), count = 0;

	CHECK(n >= 0);
	for (int i = 0; i < n; i++) {
		char *end = strstr(names[i]->d_name, ".dir");

		if (end && !end[4]) {
			*end = 0;
			test_one(folder, names[i]->d_name);
			count++;
		}
		free(names[i]);
	}
	free(names);
	printf("%d golden directories\n", count);
	return count ? 0 : 77;
}

/* ------------------------------------------------------------------- the making */

static int64_t now = TIME0;

static void send(struct thmq_producer *p, const void *data, uint32_t len, const char *key,
		 const char *tag, uint32_t partition)
{
	struct thmq_message_opts opts = {.size = sizeof(opts),
					 .flags = THMQ_MESSAGE_TIME,
					 .key = key,
					 .key_len = key ? (uint32_t)strlen(key) : 0,
					 .tag = tag,
					 .time_ns = now += 1000};
	int64_t rc;

	if (partition != UINT32_MAX) {
		opts.flags |= THMQ_MESSAGE_PARTITION;
		opts.partition = partition;
	}
	while ((rc = thmq_send(p, data, len, &opts)) == -EAGAIN)
		thmq_flush(p, SECOND);
	CHECK(rc > 0);
}

/* A group gets @count messages and acks them. */
static void ack(struct open *o, const char *topic, const char *group, uint32_t count)
{
	struct thmq_consumer *c;
	struct thmq_message m;
	int n;

	CHECK(thmq_consumer_open(o->session, topic, group, NULL, &c) == 0);
	while (count) {
		n = thmq_fetch(c, &m, 1);
		CHECK(n >= 0);
		if (n == 1) {
			CHECK(thmq_ack(c, &m) == 0);
			CHECK(thmq_release(c, &m, 1) == 0);
			count--;
		} else {
			thmq_session_wait(o->session, 10000000);
		}
	}
	CHECK(thmq_consumer_flush(c, 10 * SECOND) == 0);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
}

static void some_messages(struct open *o, uint32_t life, uint32_t count)
{
	static const char *const tags[] = {NULL, "paid", "cancelled"};
	struct thmq_producer *p;
	char text[200], key[20];

	CHECK(thmq_producer_open(
		      o->session, "orders",
		      THMQ_PRODUCER_OPTS(.durability = life == 1 ? THMQ_DURABILITY_MEMORY
								 : THMQ_DURABILITY_DURABLE),
		      &p) == 0);
	for (uint32_t i = 0; i < count; i++) {
		int len = snprintf(text, sizeof(text), "life %u message %u %.*s", life, i,
				   (int)(i % 50),
				   "..................................................");

		snprintf(key, sizeof(key), "key-%u", i % 7);
		send(p, text, (uint32_t)len, i % 3 ? key : NULL, tags[i % 3], UINT32_MAX);
		if (i % 10 == 0)
			CHECK(thmq_flush(p, 10 * SECOND) == 0);
	}
	send(p, NULL, 0, "an empty one", NULL, UINT32_MAX);
	CHECK(thmq_producer_close(p, 10 * SECOND) == 0);
}

static void some_topics(struct open *o)
{
	CHECK(thmq_topic_create(o->session, "orders", THMQ_TOPIC_OPTS(.partition_count = 3)) == 0);
	CHECK(thmq_topic_create(o->session, "gone", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_topic_create(o->session, "early",
				THMQ_TOPIC_OPTS(.visible_at = THMQ_DURABILITY_MEMORY)) == 0);
}

/* Three lives, each closed well: topics, keys, tags, times, groups, one topic deleted. */
static void make_closed(const char *dir)
{
	struct thmq_producer *p;
	struct open o;

	for (uint32_t life = 0; life < 3; life++) {
		open_dir(&o, dir, true, 2);
		if (life == 0)
			some_topics(&o);
		some_messages(&o, life, 40);
		CHECK(thmq_producer_open(o.session, life == 1 ? "gone" : "early", NULL, &p) == 0);
		send(p, "x", 1, NULL, NULL, 0);
		CHECK(thmq_flush(p, 10 * SECOND) == 0);
		CHECK(thmq_producer_close(p, SECOND) == 0);
		if (life == 1)
			CHECK(thmq_topic_delete(o.session, "gone") == 0);
		ack(&o, "orders", "billing", 20);
		if (life == 2)
			ack(&o, "early", "audit", 1);
		close_dir(&o);
	}
}

/* Several segments with their indexes. Messages are mostly zeros, so that they take little room as text. */
static void make_sealed(const char *dir)
{
	static uint8_t data[60000];
	struct thmq_producer *p;
	struct open o;

	for (uint32_t life = 0; life < 2; life++) {
		open_dir(&o, dir, true, 1);
		if (life == 0)
			some_topics(&o);
		CHECK(thmq_producer_open(o.session, "orders", NULL, &p) == 0);
		for (uint32_t i = 0; i < 30; i++) {
			memcpy(data, &i, sizeof(i));
			data[sizeof(data) - 1] = (uint8_t)i;
			send(p, data, sizeof(data), i % 2 ? "a" : "b", NULL, UINT32_MAX);
			CHECK(thmq_flush(p, 10 * SECOND) == 0);
		}
		CHECK(thmq_producer_close(p, SECOND) == 0);
		ack(&o, "orders", "billing", 10);
		close_dir(&o);
	}
}

/* The oldest segments are gone: the log begins later. */
static void make_retained(const char *dir)
{
	static uint8_t data[60000];
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_producer *p;
	struct open o;

	open_dir(&o, dir, true, 1);
	CHECK(thmq_topic_create(o.session, "orders",
				THMQ_TOPIC_OPTS(.retention_bytes = RETAINED * 60000)) == 0);
	CHECK(thmq_producer_open(o.session, "orders", NULL, &p) == 0);
	for (uint32_t i = 0; i < 90; i++) {
		memcpy(data, &i, sizeof(i));
		send(p, data, sizeof(data), NULL, NULL, 0);
		CHECK(thmq_flush(p, 10 * SECOND) == 0);
	}
	for (uint32_t i = 0; i < 5000 && info.begin_offset < 30; i++) {
		thmq_session_wait(o.session, 2000000);
		CHECK(thmq_partition_describe(o.session, "orders", 0, NULL, &info) == 0);
	}
	CHECK(info.begin_offset >= 30);
	CHECK(thmq_producer_close(p, SECOND) == 0);
	close_dir(&o);
}

/*
 * A segment that was being filled has an index of its first part. That comes each 256 MiB; here the log is told to make it much
 * sooner, which changes nothing but how large it is.
 */
static void make_partial(const char *dir)
{
	static uint8_t data[20000];
	struct thmq_record_view v = {.data = data, .len = sizeof(data)};
	struct thmq_run_header *run;
	struct thmq_producer *p;
	struct shard s;
	struct open o;
	uint64_t index = 0, begin;
	uint32_t len = thmq_run_len(&v, 1);
	int rc;

	open_dir(&o, dir, true, 1);
	some_topics(&o);
	some_messages(&o, 0, 20);
	CHECK(thmq_producer_open(o.session, "early", NULL, &p) == 0);
	send(p, "first", 5, NULL, NULL, 0);
	CHECK(thmq_producer_close(p, SECOND) == 0);
	ack(&o, "orders", "billing", 10);
	close_dir(&o);

	shard_open(&s, dir, THMQI_LOG_EARLY_PARTS);
	for (uint32_t i = 0; i < 26; i++) {
		CHECK(thmq_log_bounds(s.log, s.partition, &begin, &v.offset) == 0);
		memcpy(data, &i, sizeof(i));
		v.time_ns = now += 1000;
		v.key = i % 2 ? "odd" : "even";
		v.key_len = i % 2 ? 3 : 4;
		len = thmq_run_len(&v, 1);
		while ((rc = thmq_log_append(s.log, len, &run, &index)) == -EAGAIN)
			thmq_poll(s.env, SECOND / 10);
		CHECK(rc == 0);
		CHECK(thmq_run_encode(run, len, s.partition, &v, 1) == 0);
		CHECK(thmq_log_append_end(s.log, run, THMQ_DURABILITY_DURABLE) == 0);
		while (s.durable < index)
			thmq_poll(s.env, SECOND / 10);
	}
	for (int i = 0; i < 200 && !has_part(dir); i++)
		thmq_poll(s.env, SECOND / 100);
	CHECK(has_part(dir));
	shard_close(&s);
	believes_part(dir);
}

/* The files of a broker that is open: as if it were killed now, with half of a batch behind the end of a shard. */
static void make_killed(const char *dir)
{
	char other[220];
	struct open o;

	snprintf(other, sizeof(other), "%s-living", dir);
	open_dir(&o, other, true, 1);
	some_topics(&o);
	some_messages(&o, 0, 40);
	ack(&o, "orders", "audit", 10);
	shell("cp -r --sparse=always '%s' '%s'", other, dir);
	some_messages(&o, 2, 12);
	/* what came after that: of its first block the first 2000 bytes, where the copy has zeros */
	shell("cd '%s/shard-000' && f=$(ls *.log | head -1) && at=$(cmp \"$f\" ../../$(basename "
	      "'%s')/shard-000/\"$f\" | "
	      "sed 's/.*byte \\([0-9]*\\),.*/\\1/') && at=$(((at - 1) / 4096)) && "
	      "dd if=\"$f\" of=../../$(basename '%s')/shard-000/\"$f\" bs=4096 skip=$at seek=$at "
	      "count=1 conv=notrunc status=none && "
	      "dd if=/dev/zero of=../../$(basename '%s')/shard-000/\"$f\" bs=1 seek=$((at * 4096 + "
	      "2000)) count=2096 "
	      "conv=notrunc status=none",
	      other, dir, dir, dir);
	close_dir(&o);
}

/* Behind what it has acknowledged in the group. */
static void acks_in(struct thmq_txn *t, struct open *o, struct thmq_consumer *c, uint32_t count)
{
	struct thmq_message m;

	while (count) {
		if (thmq_fetch(c, &m, 1) == 1) {
			CHECK(thmq_txn_ack(t, c, &m) == 0);
			CHECK(thmq_release(c, &m, 1) == 0);
			count--;
		} else {
			thmq_session_wait(o->session, 10000000);
		}
	}
}

static void sends_in(struct thmq_txn *t, struct thmq_producer *p, const char *text, uint32_t partition)
{
	CHECK(thmq_send(p, text, (uint32_t)strlen(text),
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME | THMQ_MESSAGE_PARTITION, .time_ns = now += 1000, .partition = partition, .txn = t)) > 0);
}

/* One transaction of each kind, in two shards, as if the broker were killed now: committed, aborted, prepared, and open. */
static void make_transactions(const char *dir)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_producer *orders, *halves;
	struct thmq_consumer *c;
	struct thmq_txn *t;
	char other[220];
	struct open o;

	snprintf(other, sizeof(other), "%s-living", dir);
	open_dir(&o, other, true, 2);
	CHECK(thmq_topic_create(o.session, "orders", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_topic_create(o.session, "shop-halves", NULL) == 0);
	CHECK(thmq_producer_open(o.session, "orders", NULL, &orders) == 0);
	CHECK(thmq_producer_open(o.session, "shop-halves", NULL, &halves) == 0);
	for (uint32_t i = 0; i < 4; i++)
		send(orders, "plain", 5, "key", i % 2 ? "paid" : NULL, i / 2);
	CHECK(thmq_flush(orders, 10 * SECOND) == 0);
	CHECK(thmq_consumer_open(o.session, "orders", "billing", NULL, &c) == 0);
	CHECK(thmq_txn_begin(o.session, NULL, &t) == 0);
	sends_in(t, orders, "committed", 0);
	sends_in(t, orders, "committed too", 1);
	sends_in(t, halves, "committed there", 0);
	acks_in(t, &o, c, 3);
	CHECK(thmq_txn_commit(t, 10 * SECOND) == 0);
	CHECK(thmq_txn_begin(o.session, NULL, &t) == 0);
	sends_in(t, orders, "aborted", 0);
	sends_in(t, halves, "aborted", 0);
	CHECK(thmq_txn_abort(t, 10 * SECOND) == 0);
	send(halves, "behind what was aborted", 23, NULL, NULL, 0);
	CHECK(thmq_txn_begin(o.session, THMQ_TXN_OPTS(.name = "shop", .check_ns = SECOND / 50, .check_max = 1000), &t) == 0);
	sends_in(t, halves, "prepared", 0);
	CHECK(thmq_txn_prepare(t, 10 * SECOND) == 0);
	send(halves, "behind what is prepared", 23, NULL, NULL, 0);
	CHECK(thmq_txn_begin(o.session, NULL, &t) == 0);
	sends_in(t, orders, "open", 1);
	send(orders, "behind what was open", 20, NULL, NULL, 1);
	CHECK(thmq_flush(halves, 10 * SECOND) == 0 && thmq_flush(orders, 10 * SECOND) == 0);
	for (uint32_t i = 0; i < 1000 && info.end_offset < 4; i++) {
		thmq_session_wait(o.session, 10000000);
		CHECK(thmq_partition_describe(o.session, "orders", 0, NULL, &info) == 0);
	}
	shell("cp -r --sparse=always '%s' '%s'", other, dir);
	close_dir(&o);
}

/* A record batch of Kafka's: two records, of which one has headers and a tag, and one of nothing. */
static const uint8_t kafka_batch[] = {
		0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x6c, 0xff, 0xff, 0xff, 0xff, 0x02, 0x7d, 0x2b, 0x3f,
		0x53, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x01, 0xa0, 0xc4, 0x50, 0x6c, 0x00, 0x00, 0x00, 0x01, 0xa0, 0xc4,
		0x50, 0x6c, 0x07, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00,
		0x03, 0x1a, 0x00, 0x00, 0x00, 0x04, 0x6b, 0x31, 0x0a, 0x66, 0x69, 0x72, 0x73, 0x74, 0x00, 0x4a, 0x00, 0x0a, 0x02, 0x04,
		0x6b, 0x32, 0x0c, 0x73, 0x65, 0x63, 0x6f, 0x6e, 0x64, 0x04, 0x0c, 0x72, 0x65, 0x67, 0x69, 0x6f, 0x6e, 0x04, 0x65, 0x75,
		0x10, 0x74, 0x68, 0x6d, 0x71, 0x2e, 0x74, 0x61, 0x67, 0x06, 0x72, 0x65, 0x64, 0x0c, 0x00, 0x0e, 0x04, 0x01, 0x01, 0x00};

/* A topic that was altered, and what is stored of messages besides their payload; batches of another protocol among them. */
static void make_altered(const char *dir)
{
	const struct thmq_header headers[] = {{"kind", "first", 5, THMQ_HEADER_TEXT}};
	struct thmq_producer *p;
	struct open o;

	open_dir(&o, dir, true, 1);
	CHECK(thmq_topic_create(o.session, "orders", THMQ_TOPIC_OPTS(.priorities = 2, .ttl_ns = 4000000000 * SECOND)) == 0);
	CHECK(thmq_topic_create(o.session, "kafka", NULL) == 0);
	CHECK(thmq_producer_open(o.session, "orders", NULL, &p) == 0);
	for (uint32_t i = 0; i < 6; i++)
		CHECK(thmq_send(p, "with headers", 12,
				THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = now += 1000, .priority = i % 2, .key = "key", .key_len = 3, .headers = headers,
						  .header_count = 1)) > 0);
	CHECK(thmq_producer_close(p, 10 * SECOND) == 0);
	CHECK(thmq_topic_alter(o.session, "orders", THMQ_TOPIC_OPTS(.ttl_ns = 5000000000 * SECOND), THMQ_ALTER_TTL) == 0);
	CHECK(thmq_producer_open(o.session, "kafka", NULL, &p) == 0);
	send(p, "before", 6, NULL, NULL, 0);
	CHECK(thmq_send(p, kafka_batch, sizeof(kafka_batch), THMQ_MESSAGE_OPTS(.encoding = THMQ_ENCODING_KAFKA)) > 0);
	send(p, "behind", 6, "key", "paid", 0);
	CHECK(thmq_flush(p, 10 * SECOND) == 0 && thmq_producer_close(p, 10 * SECOND) == 0);
	ack(&o, "kafka", "billing", 3);
	close_dir(&o);
}

/* Topics that got partitions in turns, so that none has its numbers side by side. */
static void make_grown(const char *dir)
{
	static const char *const names[] = {"orders", "returns"};
	struct thmq_producer *p;
	struct open o;

	open_dir(&o, dir, true, 2);
	for (uint32_t k = 0; k < 2; k++)
		CHECK(thmq_topic_create(o.session, names[k], NULL) == 0);
	for (uint32_t round = 0; round < 3; round++)
		for (uint32_t k = 0; k < 2; k++) {
			uint32_t count = 1 + (round ? 1 + k + round * 2 : 0);

			CHECK(thmq_topic_alter(o.session, names[k], THMQ_TOPIC_OPTS(.partition_count = count), THMQ_ALTER_PARTITIONS) == 0);
			CHECK(thmq_producer_open(o.session, names[k], NULL, &p) == 0);
			for (uint32_t i = 0; i < count; i++)
				send(p, names[k], 6, NULL, NULL, i);
			CHECK(thmq_producer_close(p, 10 * SECOND) == 0);
		}
	ack(&o, "orders", "billing", 4);
	close_dir(&o);
}

/* Messages that were sent together, between others. */
static void make_batches(const char *dir)
{
	const struct thmq_header headers[] = {{"kind", "first", 5, THMQ_HEADER_TEXT}};
	const struct thmq_batch_message messages[] = {
		{.data = "first of three", .len = 14, .key = "key", .key_len = 3, .tag = "paid"},
		{.data = "second of three", .len = 15, .headers = headers, .header_count = 1, .ttl_ns = 5000000000 * SECOND},
		{.len = 0}};
	struct thmq_producer *p;
	struct open o;

	open_dir(&o, dir, true, 1);
	CHECK(thmq_topic_create(o.session, "batches", NULL) == 0);
	CHECK(thmq_producer_open(o.session, "batches", NULL, &p) == 0);
	send(p, "before", 6, NULL, NULL, 0);
	CHECK(thmq_send_batch(p, messages, 3, NULL) > 0);
	send(p, "behind", 6, "key", "paid", 0);
	CHECK(thmq_flush(p, 10 * SECOND) == 0 && thmq_producer_close(p, 10 * SECOND) == 0);
	ack(&o, "batches", "billing", 3);
	close_dir(&o);
}

static void make_one(const char *folder, const char *name, void (*make)(const char *dir))
{
	char dir[200], path[600];
	FILE *f;

	snprintf(dir, sizeof(dir), "%s/%s", base, name);
	make(dir);
	snprintf(path, sizeof(path), "%s/v1-%s.dir", folder, name);
	f = fopen(path, "w");
	CHECK(f);
	fprintf(f, "# a data directory of format version 1: golden_test --make; \"offset bytes\" "
		   "in hexadecimal, all else is zero\n");
	pack(f, dir, "");
	fclose(f);
	snprintf(path, sizeof(path), "%s/v1-%s.list", folder, name);
	f = fopen(path, "w");
	CHECK(f);
	list(f, dir);
	fclose(f);
	shell("ls -l '%s'/v1-%s.* >&2", folder, name);
}

static const struct {
	const char *name;
	void (*make)(const char *dir);
} made[] = {
	{"closed", make_closed},     {"sealed", make_sealed},   {"killed", make_killed},
	{"retained", make_retained}, {"partial", make_partial},
	{"transactions", make_transactions}, {"altered", make_altered},
	{"grown", make_grown}, {"batches", make_batches},
};

int main(int argc, char **argv)
{
	int rc = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: golden_test [--make] FOLDER\n");
		return 1;
	}
	CHECK(mkdtemp(base));
	if (strcmp(argv[1], "--make") == 0 && argc >= 3) {
		for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++)
			if (argc == 3 || strcmp(argv[3], made[i].name) == 0)
				make_one(argv[2], made[i].name, made[i].make);
	} else {
		rc = test_all(argv[1]);
	}
	shell("rm -rf '%s'", base);
	return rc;
}
