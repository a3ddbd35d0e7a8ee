/* SPDX-License-Identifier: Apache-2.0 */
/*
 * publish.c - what a broker counts, for other processes: DIR/stats, a file of tables (base/statfile.h) of which each shard writes its own
 * rows, ten times a second while something happens, and every ten seconds else. On the message path nothing is done for it: it copies the
 * counters that are there. Decides what is published; doc/observing.md has the tables.
 */
#include <stdio.h>
#include <unistd.h>

#include <thundermq/reactor.h>

#include "internal.h"
#include "copies/lead.h"
#include "txn/txn.h"

#define INTERVAL_NS 100000000ull
#define IDLE_NS 10000000000ull
#define TOPIC_ROWS 256u       /* of a shard at most, … */
#define TOPIC_ROWS_ALL 16384u /* … and of all */
#define TOPICS_AT_ONCE 256u   /* looked at in one go */

enum table { TABLE_BROKER, TABLE_CORE, TABLE_SHARD, TABLE_TOPIC, TABLE_TRANSPORT, TABLE_TRACE, TABLES };

struct publication {
	struct thmqi_statfile file;
	uint32_t topic_rows; /* of each shard */
};

/* -------------------------------------------------------------------- columns */

#define COLUMN(type, field, is, of, text) \
	{.name = #field, .help = text, .kind = is, .unit = of, .at = (uint32_t)offsetof(type, field)}
#define COUNT(type, field, text) COLUMN(type, field, THMQI_STAT_COUNTER, THMQI_STAT_NUMBER, text)
#define COUNT_BYTES(type, field, text) COLUMN(type, field, THMQI_STAT_COUNTER, THMQI_STAT_BYTES, text)
#define COUNT_NS(type, field, text) COLUMN(type, field, THMQI_STAT_COUNTER, THMQI_STAT_NS, text)
#define GAUGE(type, field, text) COLUMN(type, field, THMQI_STAT_GAUGE, THMQI_STAT_NUMBER, text)
#define GAUGE_BYTES(type, field, text) COLUMN(type, field, THMQI_STAT_GAUGE, THMQI_STAT_BYTES, text)
#define GAUGE_NS(type, field, text) COLUMN(type, field, THMQI_STAT_GAUGE, THMQI_STAT_NS, text)
#define HISTOGRAM(type, field, text)                                                               \
	{.name = #field,                                                                           \
	 .help = text,                                                                             \
	 .kind = THMQI_STAT_HISTOGRAM,                                                             \
	 .unit = THMQI_STAT_NS,                                                                    \
	 .at = (uint32_t)offsetof(type, field),                                                    \
	 .count = THMQI_HIST_BUCKETS,                                                              \
	 .bits = THMQI_HIST_BITS}

struct broker_values {
	uint64_t shards, topics, sessions, connections, tls_connections;
	uint64_t refused, denied, leads;
	uint64_t pool, pool_in_use;
	uint64_t txn_open, txn_prepared, txn_begun, txn_committed, txn_aborted, txn_checks;
};

static const struct thmqi_stat_column broker_columns[] = {
	GAUGE(struct broker_values, shards, "Shards with messages"),
	GAUGE(struct broker_values, topics, "Topics"),
	GAUGE(struct broker_values, sessions, "Sessions that are connected"),
	GAUGE(struct broker_values, connections, "Remote connections"),
	GAUGE(struct broker_values, tls_connections, "Of these, the encrypted ones"),
	COUNT(struct broker_values, refused, "Remote connections that were refused"),
	COUNT(struct broker_values, denied, "Operations that the rules did not allow"),
	GAUGE(struct broker_values, leads, "1: this broker serves; 0: another one of its cluster does"),
	GAUGE_BYTES(struct broker_values, pool, "Memory of the pool"),
	GAUGE_BYTES(struct broker_values, pool_in_use, "Memory of the pool that is in use"),
	GAUGE(struct broker_values, txn_open, "Transactions that are open, or just being ended"),
	GAUGE(struct broker_values, txn_prepared, "Transactions that are prepared, and wait for a decision"),
	COUNT(struct broker_values, txn_begun, "Transactions that were begun"),
	COUNT(struct broker_values, txn_committed, "Transactions that were committed"),
	COUNT(struct broker_values, txn_aborted, "Transactions that were aborted"),
	COUNT(struct broker_values, txn_checks, "Times that somebody was asked about a prepared one"),
};

#define LENGTHS (THMQ_CORE_LENGTHS + 1u)

struct core_values {
	uint64_t busy, idle, slept, away;
	uint64_t iterations, busy_iterations, sleeps, wakeups;
	uint64_t writes, written, flushes, reads, read;
	uint64_t policy, spin_hits, spin_misses, budget;
	uint64_t forecast_model, forecast_ratio, forecast_cpu;
	struct {
		uint64_t sum, max, counts[LENGTHS];
	} iteration;
};

static const struct thmqi_stat_column core_columns[] = {
	COUNT_NS(struct core_values, busy, "Time in rounds of the loop that did something"),
	COUNT_NS(struct core_values, idle, "Time spent looking for work that was not there"),
	COUNT_NS(struct core_values, slept, "Time asleep"),
	COUNT_NS(struct core_values, away, "Time in which its thread did something else"),
	COUNT(struct core_values, iterations, "Rounds of the loop"),
	COUNT(struct core_values, busy_iterations, "Rounds that did something"),
	COUNT(struct core_values, sleeps, "Times that it fell asleep"),
	COUNT(struct core_values, wakeups, "Times that it was woken by another thread"),
	COUNT(struct core_values, writes, "Writes given to the device"),
	COUNT_BYTES(struct core_values, written, "Bytes of these"),
	COUNT(struct core_values, flushes, "Flushes given to the device"),
	COUNT(struct core_values, reads, "Reads given to the device"),
	COUNT_BYTES(struct core_values, read, "Bytes of these"),
	GAUGE(struct core_values, policy, "How it waits: 1 poll, 2 event, 3 fixed, 4 ski, 5 adaptive, 6 predictive"),
	COUNT(struct core_values, spin_hits, "Waits that ended while it looked for work"),
	COUNT(struct core_values, spin_misses, "Waits that it slept in"),
	GAUGE_NS(struct core_values, budget, "How long it looks for work before it sleeps; 2^64 - 1 ns: for ever"),
	GAUGE(struct core_values, forecast_model, "Predictive: in charge, 1 naive, 2 ses, 3 ar, 5 modes; 0: there is no forecast"),
	GAUGE(struct core_values, forecast_ratio, "Its error to naive's, in thousandths; 0: not measured"),
	COUNT_NS(struct core_values, forecast_cpu, "Processor time of forecasts"),
	{.name = "iteration",
	 .help = "How long rounds of the loop take",
	 .kind = THMQI_STAT_HISTOGRAM,
	 .unit = THMQI_STAT_NS,
	 .at = (uint32_t)offsetof(struct core_values, iteration),
	 .count = LENGTHS,
	 .bits = 0},
};

struct shard_values {
	uint64_t messages_in, bytes_in, messages_out, bytes_out, throttled;
	uint64_t connections, unsettled_runs, failed;
	uint64_t batches, stored, runs, files, cache;
	uint64_t durable_index, written_index, end_position;
	uint64_t dropped_segments, relocated_runs;
	struct thmqi_hist wait, write, flush, durable, delivered;
};

static const struct thmqi_stat_column shard_columns[] = {
	COUNT(struct shard_values, messages_in, "Messages taken from producers"),
	COUNT_BYTES(struct shard_values, bytes_in, "Bytes of these"),
	COUNT(struct shard_values, messages_out, "Messages handed to consumers"),
	COUNT_BYTES(struct shard_values, bytes_out, "Bytes of these"),
	COUNT(struct shard_values, throttled, "Times that a limit held up a producer or consumer"),
	GAUGE(struct shard_values, connections, "Connections"),
	GAUGE(struct shard_values, unsettled_runs, "Runs that were appended and have not settled"),
	GAUGE(struct shard_values, failed, "1: its log failed, and it serves reads only"),
	COUNT(struct shard_values, batches, "Group commits"),
	COUNT_BYTES(struct shard_values, stored, "Bytes of these, padding included"),
	COUNT(struct shard_values, runs, "Runs of messages in these"),
	GAUGE_BYTES(struct shard_values, files, "Bytes of its segments' files"),
	GAUGE_BYTES(struct shard_values, cache, "Bytes in its tail cache"),
	GAUGE(struct shard_values, durable_index, "Batches up to this one last"),
	GAUGE(struct shard_values, written_index, "Batches up to this one are written"),
	GAUGE_BYTES(struct shard_values, end_position, "Where its log ends"),
	COUNT(struct shard_values, dropped_segments, "Segments that were dropped"),
	COUNT(struct shard_values, relocated_runs, "Runs that the cleaner appended again"),
	HISTOGRAM(struct shard_values, wait, "From a batch's first message to the begin of its write"),
	HISTOGRAM(struct shard_values, write, "A batch's write at the device"),
	HISTOGRAM(struct shard_values, flush, "A flush at the device"),
	HISTOGRAM(struct shard_values, durable, "From a batch's first message until it lasts"),
	HISTOGRAM(struct shard_values, delivered, "How old a message is when it is handed to a consumer"),
};

struct topic_values {
	uint64_t messages_in, bytes_in, messages_out, bytes_out, throttled, partitions;
};

static const struct thmqi_stat_column topic_columns[] = {
	COUNT(struct topic_values, messages_in, "Messages taken from producers"),
	COUNT_BYTES(struct topic_values, bytes_in, "Bytes of these"),
	COUNT(struct topic_values, messages_out, "Messages handed to consumers"),
	COUNT_BYTES(struct topic_values, bytes_out, "Bytes of these"),
	COUNT(struct topic_values, throttled, "Times that a limit held up a producer or consumer"),
	GAUGE(struct topic_values, partitions, "Its partitions in this shard"),
};

struct transport_values {
	uint64_t connections, accepted;
};

static const struct thmqi_stat_column transport_columns[] = {
	GAUGE(struct transport_values, connections, "Connections that are open, one for each shard that a session uses"),
	COUNT(struct transport_values, accepted, "Connections that were opened"),
};

/* Times behind begun are counted from there; 0: it did not come to that. */
struct trace_values {
	uint64_t number, index, position, bytes, begun, given, written, durable, agreed;
};

static const struct thmqi_stat_column trace_columns[] = {
	GAUGE(struct trace_values, number, "Which batch that was looked at"),
	GAUGE(struct trace_values, index, "Its index in the log"),
	GAUGE_BYTES(struct trace_values, position, "Its place in the log"),
	GAUGE_BYTES(struct trace_values, bytes, "Its size"),
	GAUGE_NS(struct trace_values, begun, "When its first message was appended (monotonic)"),
	GAUGE_NS(struct trace_values, given, "From then until the device got it"),
	GAUGE_NS(struct trace_values, written, "From then until it was written"),
	GAUGE_NS(struct trace_values, durable, "From then until it lasted"),
	GAUGE_NS(struct trace_values, agreed, "From then until a majority of the copies had it"),
};

#define SPEC(is, text, kind, rows)                                                                  \
	(struct thmqi_stat_spec)                                                                    \
	{                                                                                           \
		.name = is, .help = text, .columns = kind##_columns,                                \
		.column_count = THMQI_ARRAY_COUNT(kind##_columns),                                  \
		.values_bytes = sizeof(struct kind##_values), .row_count = rows                     \
	}

static const char *const media[MEDIA] = {"inproc", "shm", "tcp", "tls", "rdma", "other"};

uint32_t thmqi_medium_number(const char *medium)
{
	uint32_t i;

	for (i = 0; i < MEDIA - 1 && strcmp(medium, media[i]) != 0; i++)
		;
	return i;
}

/* ----------------------------------------------------------------------- rows */

static void *values_of(const struct publication *to, uint32_t table, uint32_t row, const char *key, const char *of)
{
	struct thmqi_stat_row *r = thmqi_statfile_row(&to->file, table, row);

	if (!r->used) {
		r->used = 1;
		snprintf(r->key, sizeof(r->key), "%s", key);
		snprintf(r->of, sizeof(r->of), "%s", of);
	}
	return r + 1;
}

static void put(const struct shard *s, uint32_t table, uint32_t first, uint32_t count)
{
	thmqi_statfile_put(&s->publisher.to->file, table, first, count, s->core->wall_ns);
}

static void publish_broker(struct shard *s)
{
	struct thmq_broker_stats stats = {.size = sizeof(stats)};
	struct thmq_broker *b = s->broker;
	struct broker_values *v = values_of(s->publisher.to, TABLE_BROKER, 0, b->name ? b->name : "", "");
	struct transport_values *t;
	struct txn_counts txns = {0};
	uint32_t i;

	if (b->meta)
		txns = thmqi_txns_counts(b->meta);
	if (b->counted)
		thmqi_listener_stats(b->counted, &stats);
	*v = (struct broker_values){.shards = b->shard_count - 1,
				    .topics = b->meta ? thmqi_meta_topic_count(b->meta) : 0,
				    .sessions = s->conn_count,
				    .connections = stats.connection_count,
				    .tls_connections = stats.tls_count,
				    .refused = stats.refused_count,
				    .denied = atomic_load_explicit(&b->guard.denied, memory_order_relaxed),
				    .leads = !b->cluster || atomic_load(&b->leads),
				    .txn_open = txns.open,
				    .txn_prepared = txns.prepared,
				    .txn_begun = txns.begun,
				    .txn_committed = txns.committed,
				    .txn_aborted = txns.aborted,
				    .txn_checks = txns.checks};
	thmqi_env_memory(b->env, &v->pool, &v->pool_in_use);
	put(s, TABLE_BROKER, 0, 1);
	for (i = 0; i < MEDIA; i++) {
		t = values_of(s->publisher.to, TABLE_TRANSPORT, i, media[i], "");
		t->connections = atomic_load_explicit(&b->media[i].open, memory_order_relaxed);
		t->accepted = atomic_load_explicit(&b->media[i].accepted, memory_order_relaxed);
	}
	put(s, TABLE_TRANSPORT, 0, MEDIA);
}

/* Its name is made once. */
static struct core_values *core_values_of(const struct publication *to, uint32_t index)
{
	struct thmqi_stat_row *r = thmqi_statfile_row(&to->file, TABLE_CORE, index);
	char key[16];

	if (r->used)
		return (struct core_values *)(r + 1);
	snprintf(key, sizeof(key), "%u", index);
	return values_of(to, TABLE_CORE, index, key, "");
}

static void publish_core(struct shard *s)
{
	struct thmq_core_stats c = {.size = sizeof(c)};
	struct thmq_core *core = s->core;
	struct core_values *v = core_values_of(s->publisher.to, core->index);

	thmqi_core_stats(core, &c);
	v->busy = c.busy_ns;
	v->idle = c.idle_ns;
	v->slept = c.slept_ns;
	v->away = c.away_ns;
	v->iterations = c.iterations;
	v->busy_iterations = c.busy_iterations;
	v->sleeps = c.sleeps;
	v->wakeups = core->wakeups;
	v->writes = core->writes;
	v->written = core->write_bytes;
	v->flushes = core->flushes;
	v->reads = core->reads;
	v->read = core->read_bytes;
	v->policy = c.policy;
	v->spin_hits = c.spin_hits;
	v->spin_misses = c.spin_misses;
	v->budget = c.budget_ns;
	v->forecast_model = c.forecast_model;
	v->forecast_ratio = c.forecast_ratio;
	v->forecast_cpu = c.forecast_cpu_ns;
	v->iteration.sum = c.busy_ns + c.idle_ns;
	v->iteration.max = c.longest_ns;
	memcpy(v->iteration.counts + 1, c.lengths, sizeof(c.lengths));
	put(s, TABLE_CORE, core->index, 1);
}

static void publish_shard(struct shard *s)
{
	struct thmq_log_stats log = {.size = sizeof(log)};
	struct publisher *p = &s->publisher;
	struct shard_values *v = values_of(p->to, TABLE_SHARD, s->id, s->name, "");

	if (s->log)
		thmq_log_stats(s->log, &log);
	v->messages_in = s->messages_in;
	v->bytes_in = s->bytes_in;
	v->messages_out = s->messages_out;
	v->bytes_out = s->bytes_out;
	v->throttled = s->throttled;
	v->connections = s->conn_count;
	v->unsettled_runs = s->pending_tail - s->pending_head;
	v->failed = s->failed != 0;
	v->batches = log.batches;
	v->stored = log.stored_bytes;
	v->runs = log.runs;
	v->files = log.file_bytes;
	v->cache = log.cache_bytes;
	v->durable_index = log.durable_index;
	v->written_index = log.written_index;
	v->end_position = log.end_position;
	v->dropped_segments = log.dropped_segments;
	v->relocated_runs = log.relocated_runs;
	if (p->times) {
		v->wait = p->times->wait;
		v->write = p->times->write;
		v->flush = p->times->flush;
		v->durable = p->times->durable;
	}
	v->delivered = p->delivered;
	put(s, TABLE_SHARD, s->id, 1);
}

static uint64_t span(uint64_t from, uint64_t to)
{
	return to > from ? to - from : 0;
}

static void publish_traces(struct shard *s)
{
	struct publisher *p = &s->publisher;
	uint32_t first = s->id * THMQI_LOG_TRACES, i;
	const struct thmqi_log_trace *t;
	struct trace_values *v;
	char key[16];

	for (i = 0; i < THMQI_LOG_TRACES; i++) {
		t = &p->times->traces[i];
		if (!t->number)
			continue;
		snprintf(key, sizeof(key), "%u", i);
		v = values_of(p->to, TABLE_TRACE, first + i, key, s->name);
		*v = (struct trace_values){.number = t->number,
					   .index = t->index,
					   .position = t->position,
					   .bytes = t->bytes,
					   .begun = t->begun_ns,
					   .given = span(t->begun_ns, t->given_ns),
					   .written = span(t->begun_ns, t->written_ns),
					   .durable = span(t->begun_ns, t->durable_ns),
					   .agreed = span(t->begun_ns, t->agreed_ns)};
	}
	put(s, TABLE_TRACE, first, THMQI_LOG_TRACES);
}

/* --------------------------------------------------------------------- topics */

static uint32_t take_row(struct publisher *p)
{
	uint32_t i, word;

	for (i = 0; i < p->to->topic_rows; i++) {
		word = i / 64;
		if (p->rows[word] == UINT64_MAX) {
			i |= 63;
			continue;
		}
		if (!(p->rows[word] & 1ull << (i % 64))) {
			p->rows[word] |= 1ull << (i % 64);
			return i;
		}
	}
	return NO_ROW;
}

static void publish_topic(struct shard *s, struct topic_here *t)
{
	struct publisher *p = &s->publisher;
	uint32_t row = (s->id - 1) * p->to->topic_rows + t->row;
	struct topic_values *v = values_of(p->to, TABLE_TOPIC, row, t->name, s->name);

	*v = (struct topic_values){.messages_in = t->messages_in,
				   .bytes_in = t->bytes_in,
				   .messages_out = t->messages_out,
				   .bytes_out = t->bytes_out,
				   .throttled = t->throttled,
				   .partitions = t->partitions};
}

/* Some at a time; those whose numbers have changed go into the file. */
static void publish_topics(struct shard *s)
{
	struct publisher *p = &s->publisher;
	uint32_t low = NO_ROW, high = 0, i, rows = p->to->topic_rows;
	struct topic_here *t;
	uint64_t sum;

	for (i = 0; i < THMQI_MIN(TOPICS_AT_ONCE, s->topics.room); i++) {
		p->topic_cursor = (p->topic_cursor + 1) % s->topics.room;
		t = s->topics.at[p->topic_cursor];
		if (!t || !t->id)
			continue;
		sum = 1 + t->messages_in + t->messages_out + t->throttled + t->partitions;
		if (sum == t->told)
			continue;
		if (t->row == NO_ROW)
			t->row = take_row(p);
		if (t->row == NO_ROW) /* there are more than are published */
			continue;
		t->told = sum;
		publish_topic(s, t);
		low = THMQI_MIN(low, t->row);
		high = THMQI_MAX(high, t->row);
	}
	if (low != NO_ROW)
		put(s, TABLE_TOPIC, (s->id - 1) * rows + low, high - low + 1);
}

void thmqi_publish_topic_gone(struct shard *s, struct topic_here *t)
{
	struct publisher *p = &s->publisher;
	struct thmqi_stat_row *r;
	uint32_t row;

	if (!p->to || t->row == NO_ROW)
		return;
	row = (s->id - 1) * p->to->topic_rows + t->row;
	r = thmqi_statfile_row(&p->to->file, TABLE_TOPIC, row);
	r->used = 0;
	put(s, TABLE_TOPIC, row, 1);
	memset(r + 1, 0, sizeof(struct topic_values));
	p->rows[t->row / 64] &= ~(1ull << (t->row % 64));
	t->row = NO_ROW;
}

/* ----------------------------------------------------------------------- time */

/* What moves while something happens. */
static uint64_t activity(const struct shard *s)
{
	return s->messages_in + s->messages_out + s->throttled + s->conn_count + s->last_serial + s->pending_tail;
}

static void publish(struct shard *s)
{
	struct publisher *p = &s->publisher;

	p->times = s->log ? thmqi_log_times(s->log, s->broker->opts.trace_every) : NULL;
	if (s->id == THMQI_SHARD_META)
		publish_broker(s);
	if (p->first)
		publish_core(s);
	publish_shard(s);
	if (p->rows)
		publish_topics(s);
	if (p->times && s->broker->opts.trace_every)
		publish_traces(s);
}

static void on_timer(struct thmqi_timer *t)
{
	struct shard *s = thmqi_container(t, struct shard, publisher.timer);
	struct publisher *p = &s->publisher;
	uint64_t seen = activity(s);

	publish(s);
	p->idle = seen == p->seen;
	p->seen = seen;
	thmqi_timer_start(s->core, t, s->core->now_ns + (p->idle ? IDLE_NS : INTERVAL_NS));
}

void thmqi_publish_stir(struct shard *s)
{
	struct publisher *p = &s->publisher;

	p->idle = false;
	thmqi_timer_start(s->core, &p->timer, s->core->now_ns + INTERVAL_NS);
}

/* ------------------------------------------------------------------- lifetime */

static bool is_first(const struct shard *s)
{
	uint32_t i;

	for (i = 0; i < s->id; i++)
		if (s->broker->shards[i].core == s->core)
			return false;
	return true;
}

int thmqi_publish_begin(struct shard *s)
{
	struct publisher *p = &s->publisher;

	if (s->id != THMQI_SHARD_META) {
		p->rows = calloc((s->broker->publication->topic_rows + 63) / 64, sizeof(*p->rows));
		if (!p->rows)
			return 0;
	}
	p->to = s->broker->publication;
	p->first = is_first(s);
	p->timer.fire = on_timer;
	publish(s);
	p->seen = activity(s);
	thmqi_publish_stir(s);
	return 0;
}

void thmqi_publish_end(struct shard *s)
{
	struct publisher *p = &s->publisher;

	if (p->to) {
		thmqi_timer_stop(s->core, &p->timer);
		publish(s);
	}
	p->to = NULL;
	free(p->rows);
	p->rows = NULL;
	p->times = NULL;
}

static void name_of(const struct thmq_broker *b, char *name, size_t size)
{
	const char *from = b->name ? b->name : "";
	size_t i;

	for (i = 0; i + 1 < size && from[i]; i++)
		name[i] = from[i] < ' ' || from[i] > '~' ? '?' : from[i];
}

void thmqi_publish_open(struct thmq_broker *b)
{
	const struct thmqi_clock *clock = b->shards[0].core->clock;
	struct thmqi_stat_header header = {.pid = (uint64_t)getpid(),
					   .opened_ns = clock->wall_ns(clock->ctx),
					   .interval_ns = INTERVAL_NS};
	uint32_t data = b->shard_count - 1;
	struct publication *to;
	char path[4200];

	/* a world that is made up has no files of ours */
	if ((b->opts.flags & THMQ_BROKER_NO_STATS) || (!b->data_dir && !b->stats_path) || thmqi_env_world(b->env)->disk)
		return;
	to = calloc(1, sizeof(*to));
	if (!to)
		return;
	to->topic_rows = THMQI_MAX(THMQI_MIN(TOPIC_ROWS, TOPIC_ROWS_ALL / THMQI_MAX(data, 1u)), 8u);
	name_of(b, header.name, sizeof(header.name));
	snprintf(path, sizeof(path), b->stats_path ? "%s" : "%s/stats", b->stats_path ? b->stats_path : b->data_dir);
	const struct thmqi_stat_spec specs[TABLES] = {
		[TABLE_BROKER] = SPEC("broker", "The broker as a whole", broker, 1),
		[TABLE_CORE] = SPEC("core", "What each core of the environment does", core, thmqi_env_core_count(b->env)),
		[TABLE_SHARD] = SPEC("shard", "Each log, meta included", shard, b->shard_count),
		[TABLE_TOPIC] = SPEC("topic", "Topics, each in each of its shards", topic, data * to->topic_rows),
		[TABLE_TRANSPORT] = SPEC("transport", "Ways to reach the broker", transport, MEDIA),
		[TABLE_TRACE] = SPEC("trace", "Batches that were looked at, step by step", trace,
				     b->opts.trace_every ? b->shard_count * THMQI_LOG_TRACES : 0),
	};
	if (thmqi_statfile_open(&to->file, path, &header, specs, TABLES) != 0) {
		free(to);
		return;
	}
	b->publication = to;
}

void thmqi_publish_close(struct thmq_broker *b)
{
	struct publication *to = b->publication;

	if (!to)
		return;
	thmqi_statfile_close(&to->file, thmqi_clock_real.wall_ns(thmqi_clock_real.ctx));
	free(to);
	b->publication = NULL;
}
