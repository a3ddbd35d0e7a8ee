/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_stat.c - thmq stat and thmq explain: what a broker in another process has counted and measured, from the file that it keeps; also
 * after it has died. And what thmq top shows of one.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include <thundermq/stats.h>

#include "thmq.h"

static uint64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* "1.25 ms" */
static const char *time_text(uint64_t ns, struct unit_text *buffer)
{
	if (ns < 1000)
		snprintf(buffer->text, sizeof(buffer->text), "%u ns", (unsigned)ns);
	else if (ns < 1000000)
		snprintf(buffer->text, sizeof(buffer->text), "%.1f us", (double)ns / 1e3);
	else if (ns < SECOND)
		snprintf(buffer->text, sizeof(buffer->text), "%.2f ms", (double)ns / 1e6);
	else
		snprintf(buffer->text, sizeof(buffer->text), "%.2f s", (double)ns / 1e9);
	return buffer->text;
}

static int open_stats(const char *path, struct thmq_stats **ret_stats)
{
	int rc;

	if (is_url(path))
		return usage_error("statistics are read from a directory, or from their file, not by a URL");
	rc = thmq_stats_open(path, ret_stats);
	return rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}

/* ----------------------------------------------------------------------- stat */

static void print_head(const struct thmq_stats *stats)
{
	struct thmq_stats_info info = {.size = sizeof(info)};
	uint64_t now = wall_ns();
	struct unit_text age;

	thmq_stats_info(stats, &info);
	printf("process %llu, %s%s%s, libthundermq %s, written %s ago\n", (unsigned long long)info.pid,
	       info.closed_ns ? "closed in order" : info.alive ? "running" : "gone without closing",
	       info.name[0] ? ", broker " : "", info.name, info.library,
	       time_text(now > info.updated_ns ? now - info.updated_ns : 0, &age));
}

static void print_value(const struct thmq_stats_value *v)
{
	struct unit_text a, b, c, d;

	if (v->kind == THMQ_STATS_HISTOGRAM)
		printf("  %-18s %12llu  p50 %s, p90 %s, p99 %s, max %s\n", v->name, (unsigned long long)v->value,
		       time_text(v->p50, &a), time_text(v->p90, &b), time_text(v->p99, &c), time_text(v->max, &d));
	else if (v->unit == THMQ_STATS_NS)
		printf("  %-18s %12s\n", v->name, time_text(v->value, &a));
	else
		printf("  %-18s %12llu%s\n", v->name, (unsigned long long)v->value, v->unit == THMQ_STATS_BYTES ? " bytes" : "");
}

/* As it is, if it is a word; else so that nothing in it means something to a terminal. */
static void print_key(const char *key)
{
	if (!*key)
		return;
	putchar(' ');
	if (strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(key))
		fputs(key, stdout);
	else
		print_json_string(stdout, key, strlen(key));
}

static bool same_row(const struct thmq_stats_value *a, const struct thmq_stats_value *b)
{
	return a->table && a->table == b->table && a->key == b->key; /* of one handle */
}

static void print_plain(const struct thmq_stats *stats, bool all)
{
	struct thmq_stats_value v = {.size = sizeof(v)}, before = {0}; /* whose row was named */
	uint64_t cursor = 0;

	print_head(stats);
	while (thmq_stats_next(stats, &cursor, &v) == 1 && !output_failed()) {
		if (strcmp(v.table, "trace") == 0 || !(v.value || all)) /* thmq explain has the first */
			continue;
		if (!same_row(&v, &before)) {
			printf("%s", v.table);
			print_key(v.key);
			if (*v.of)
				printf(" of %s", v.of);
			puts(v.torn ? " (being written)" : "");
			before = v;
		}
		print_value(&v);
	}
}

static void print_json(const struct thmq_stats *stats)
{
	struct thmq_stats_info info = {.size = sizeof(info)};
	struct thmq_stats_value v = {.size = sizeof(v)}, before = {0};
	uint64_t cursor = 0;
	bool begun = false;

	thmq_stats_info(stats, &info);
	printf("{\"pid\":%llu,\"alive\":%s,\"opened_ns\":%llu,\"closed_ns\":%llu,\"updated_ns\":%llu,\"library\":",
	       (unsigned long long)info.pid, info.alive ? "true" : "false", (unsigned long long)info.opened_ns,
	       (unsigned long long)info.closed_ns, (unsigned long long)info.updated_ns);
	print_json_string(stdout, info.library, strlen(info.library));
	fputs("}\n", stdout);
	while (thmq_stats_next(stats, &cursor, &v) == 1 && !output_failed()) {
		if (!same_row(&v, &before)) {
			printf("%s{\"table\":\"%s\",\"key\":", begun ? "}\n" : "", v.table);
			print_json_string(stdout, v.key, strlen(v.key));
			fputs(",\"of\":", stdout);
			print_json_string(stdout, v.of, strlen(v.of));
			printf(",\"updated_ns\":%llu,\"torn\":%s", (unsigned long long)v.updated_ns, v.torn ? "true" : "false");
			before = v;
			begun = true;
		}
		if (v.kind == THMQ_STATS_HISTOGRAM)
			printf(",\"%s\":{\"count\":%llu,\"sum_ns\":%llu,\"max_ns\":%llu,\"p50_ns\":%llu,\"p90_ns\":%llu,"
			       "\"p99_ns\":%llu,\"p999_ns\":%llu}",
			       v.name, (unsigned long long)v.value, (unsigned long long)v.sum, (unsigned long long)v.max,
			       (unsigned long long)v.p50, (unsigned long long)v.p90, (unsigned long long)v.p99,
			       (unsigned long long)v.p999);
		else
			printf(",\"%s%s\":%llu", v.name, v.unit == THMQ_STATS_NS ? "_ns" : "", (unsigned long long)v.value);
	}
	if (begun)
		fputs("}\n", stdout);
}

static int print_prometheus(const struct thmq_stats *stats)
{
	int64_t len = thmq_stats_prometheus(stats, NULL, 0);
	char *text = len < 0 ? NULL : malloc((size_t)len + 1);

	if (!text)
		return fail(len < 0 ? (int)len : -ENOMEM, "out of memory");
	thmq_stats_prometheus(stats, text, (uint64_t)len + 1);
	fputs(text, stdout);
	free(text);
	return EXIT_OK;
}

int cmd_stat(int argc, char **argv)
{
	bool json = false, prometheus = false, all = false;
	const struct option_spec specs[] = {{"--json", NULL, &json},
					    {"--prometheus", NULL, &prometheus},
					    {"--all", NULL, &all},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	struct thmq_stats *stats;

	if (words < 0 || !count_words(argv, words, 1, "stat needs a directory, or a file of statistics"))
		return EXIT_USAGE;
	if (json && prometheus)
		return usage_error("--json and --prometheus exclude each other");
	rc = open_stats(argv[0], &stats);
	if (rc)
		return rc;
	if (prometheus)
		rc = print_prometheus(stats);
	else if (json)
		print_json(stats);
	else
		print_plain(stats, all);
	thmq_stats_close(stats);
	return rc;
}

/* -------------------------------------------------------------------- explain */

struct traced {
	char shard[32];
	uint64_t number, index, bytes, begun, given, written, durable, agreed;
};

static void note(struct traced *t, const struct thmq_stats_value *v)
{
	snprintf(t->shard, sizeof(t->shard), "%s", v->of);
	if (strcmp(v->name, "number") == 0)
		t->number = v->value;
	else if (strcmp(v->name, "index") == 0)
		t->index = v->value;
	else if (strcmp(v->name, "bytes") == 0)
		t->bytes = v->value;
	else if (strcmp(v->name, "begun") == 0)
		t->begun = v->value;
	else if (strcmp(v->name, "given") == 0)
		t->given = v->value;
	else if (strcmp(v->name, "written") == 0)
		t->written = v->value;
	else if (strcmp(v->name, "durable") == 0)
		t->durable = v->value;
	else if (strcmp(v->name, "agreed") == 0)
		t->agreed = v->value;
}

static int by_time(const void *a, const void *b)
{
	const struct traced *x = a, *y = b;

	return x->begun < y->begun ? -1 : x->begun > y->begun;
}

/* Of a row that was being written some fields are of one batch, and some of another. */
static size_t collect(const struct thmq_stats *stats, struct traced *list, size_t room)
{
	struct thmq_stats_value v = {.size = sizeof(v)}, before = {0};
	uint64_t cursor = 0;
	size_t n = 0;

	while (thmq_stats_next(stats, &cursor, &v) == 1) {
		if (strcmp(v.table, "trace") != 0 || v.torn)
			continue;
		if (!same_row(&v, &before)) {
			if (n == room)
				break;
			memset(&list[n++], 0, sizeof(*list));
			before = v;
		}
		note(&list[n - 1], &v);
	}
	qsort(list, n, sizeof(*list), by_time);
	return n;
}

/* The first of those that nothing was longer than. */
static const char *longest_of(const uint64_t *ns)
{
	static const char *const names[] = {"queue", "device", "flush", "copies"};
	size_t i, longest = 0;

	for (i = 1; i < sizeof(names) / sizeof(names[0]); i++)
		if (ns[i] > ns[longest])
			longest = i;
	return names[longest];
}

/* What the other copies took is counted from when it lasted here: they begin when this one's device does. */
static void print_traced(const struct traced *t, bool json)
{
	uint64_t device = t->written > t->given ? t->written - t->given : 0;
	uint64_t flush = t->durable > t->written ? t->durable - t->written : 0;
	uint64_t here = t->durable ? t->durable : t->written;
	uint64_t copies = t->agreed > here ? t->agreed - here : 0, all = here + copies;
	struct unit_text a, b, c, d, e;

	if (json)
		printf("{\"shard\":\"%s\",\"batch\":%llu,\"bytes\":%llu,\"queue_ns\":%llu,\"device_ns\":%llu,\"flush_ns\":%llu,"
		       "\"durable\":%s,\"copies_ns\":%llu,\"agreed\":%s}\n",
		       t->shard, (unsigned long long)t->index, (unsigned long long)t->bytes, (unsigned long long)t->given,
		       (unsigned long long)device, (unsigned long long)flush, t->durable ? "true" : "false", (unsigned long long)copies,
		       t->agreed ? "true" : "false");
	else
		printf("%-10s %10llu %9llu %10s %10s %10s %10s %10s  %s\n", t->shard, (unsigned long long)t->index,
		       (unsigned long long)t->bytes, time_text(t->given, &a), time_text(device, &b),
		       t->durable ? time_text(flush, &c) : "not yet", t->agreed ? time_text(copies, &e) : "-", time_text(all, &d),
		       longest_of((const uint64_t[]){t->given, device, flush, copies}));
}

#define TRACED_MAX 65536u

int cmd_explain(int argc, char **argv)
{
	bool json = false;
	const struct option_spec specs[] = {{"--json", NULL, &json}, {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	struct thmq_stats *stats;
	struct traced *list;
	size_t n, i;

	if (words < 0 || !count_words(argv, words, 1, "explain needs a directory, or a file of statistics"))
		return EXIT_USAGE;
	rc = open_stats(argv[0], &stats);
	if (rc)
		return rc;
	list = malloc(TRACED_MAX * sizeof(*list));
	n = list ? collect(stats, list, TRACED_MAX) : 0;
	if (!n)
		rc = fail(-ENOENT, "%s: no group commit was looked at; thmq serve --trace N looks at each N-th", argv[0]);
	else if (!json)
		printf("%-10s %10s %9s %10s %10s %10s %10s %10s  %s\n", "shard", "batch", "bytes", "queue", "device", "flush", "copies", "all",
		       "most in");
	for (i = 0; i < n && !output_failed(); i++)
		print_traced(&list[i], json);
	free(list);
	thmq_stats_close(stats);
	return rc;
}

/* ------------------------------------------------------------------------ top */

#define ROWS_MAX 4096u
#define NAP_NS 50000000

/* What is shown of a row of any table. */
struct shown {
	char table[32], key[256], of[32];
	uint64_t in, in_bytes, out, out_bytes, commits, throttled;
	uint64_t busy, idle, slept, sleeps, hits, misses, at_ns;
	uint64_t policy, budget, model, ratio, forecast;
	uint64_t p50, p99;
};

static void show(struct shown *r, const struct thmq_stats_value *v)
{
	static const struct {
		const char *name;
		size_t at;
	} fields[] = {{"messages_in", offsetof(struct shown, in)},   {"bytes_in", offsetof(struct shown, in_bytes)},
		      {"messages_out", offsetof(struct shown, out)}, {"bytes_out", offsetof(struct shown, out_bytes)},
		      {"batches", offsetof(struct shown, commits)},  {"throttled", offsetof(struct shown, throttled)},
		      {"busy", offsetof(struct shown, busy)},	     {"idle", offsetof(struct shown, idle)},
		      {"slept", offsetof(struct shown, slept)},	     {"sleeps", offsetof(struct shown, sleeps)},
		      {"spin_hits", offsetof(struct shown, hits)},   {"spin_misses", offsetof(struct shown, misses)},
		      {"policy", offsetof(struct shown, policy)},    {"budget", offsetof(struct shown, budget)},
		      {"forecast_model", offsetof(struct shown, model)},
		      {"forecast_ratio", offsetof(struct shown, ratio)},
		      {"forecast_cpu", offsetof(struct shown, forecast)}};
	size_t i;

	r->at_ns = v->updated_ns;
	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (strcmp(v->name, fields[i].name) == 0)
			memcpy((char *)r + fields[i].at, &v->value, sizeof(v->value));
	if (strcmp(v->name, "durable") == 0) {
		r->p50 = v->p50;
		r->p99 = v->p99;
	}
}

static size_t look(const struct thmq_stats *stats, struct shown *rows)
{
	struct thmq_stats_value v = {.size = sizeof(v)}, before = {0};
	uint64_t cursor = 0;
	size_t n = 0;

	while (thmq_stats_next(stats, &cursor, &v) == 1) {
		if (strcmp(v.table, "trace") == 0 || strcmp(v.table, "broker") == 0 || strcmp(v.table, "transport") == 0)
			continue;
		if (!same_row(&v, &before)) {
			if (n == ROWS_MAX)
				break;
			memset(&rows[n], 0, sizeof(rows[n]));
			snprintf(rows[n].table, sizeof(rows[n].table), "%s", v.table);
			snprintf(rows[n].key, sizeof(rows[n].key), "%s", v.key);
			snprintf(rows[n].of, sizeof(rows[n].of), "%s", v.of);
			before = v;
			n++;
		}
		show(&rows[n - 1], &v);
	}
	return n;
}

static const struct shown *before_of(const struct shown *rows, size_t count, const struct shown *r)
{
	static const struct shown none;
	size_t i;

	for (i = 0; i < count; i++)
		if (strcmp(rows[i].key, r->key) == 0 && strcmp(rows[i].table, r->table) == 0 && strcmp(rows[i].of, r->of) == 0)
			return &rows[i];
	return &none;
}

static double each(uint64_t now, uint64_t before, double seconds)
{
	return seconds > 0 && now > before ? (double)(now - before) / seconds : 0;
}

/* What it spends its time on, and how it waits: what thmq top shows of the process's own cores. A broker of an older library tells of its
 * time only. */
static void print_core(const struct shown *a, const struct shown *b, double seconds, bool json)
{
	double busy = each(b->busy, a->busy, seconds) / 1e9, spun = each(b->idle, a->idle, seconds) / 1e9;
	double forecast = each(b->forecast, a->forecast, seconds) / 1e9;
	struct unit_text budget;

	if (json) {
		printf("{\"core\":%s,\"busy\":%.4f,\"spun\":%.4f,\"slept\":%.4f,\"policy\":\"%s\",\"spin_hits_per_s\":%.1f,"
		       "\"spin_misses_per_s\":%.1f,\"sleeps_per_s\":%.1f,\"budget_ns\":",
		       b->key, busy, spun, each(b->slept, a->slept, seconds) / 1e9, b->policy ? policy_name((uint32_t)b->policy) : "-",
		       each(b->hits, a->hits, seconds), each(b->misses, a->misses, seconds), each(b->sleeps, a->sleeps, seconds));
		if (b->budget == UINT64_MAX)
			printf("null");
		else
			printf("%llu", (unsigned long long)b->budget);
		printf(",\"forecast_model\":\"%s\",\"forecast_ratio\":%.3f,\"forecast_cpu\":%.6f}\n", model_name((uint32_t)b->model),
		       (double)b->ratio / 1e3, forecast);
		return;
	}
	printf("core %-27s %5.1f %% busy, %5.1f %% looking", b->key, 100 * busy, 100 * spun);
	if (b->policy)
		printf("; %s: %.0f hits/s, %.0f misses/s, spins %s", policy_name((uint32_t)b->policy), each(b->hits, a->hits, seconds),
		       each(b->misses, a->misses, seconds), budget_text(b->budget, &budget));
	if (b->ratio)
		printf("; forecast: %s, %.2f of naive's error, %.2f %%", model_name((uint32_t)b->model), (double)b->ratio / 1e3,
		       100 * forecast);
	putchar('\n');
}

static void print_shown(const struct shown *a, const struct shown *b, double seconds, bool json)
{
	struct unit_text p50, p99;
	char name[300];

	/* what has little to say is written seldom: its counts are of the time between two writes */
	if (a->at_ns && b->at_ns > a->at_ns)
		seconds = (double)(b->at_ns - a->at_ns) / 1e9;
	if (strcmp(b->table, "core") == 0) {
		print_core(a, b, seconds, json);
		return;
	}
	if (json) {
		printf("{\"%s\":", b->table);
		print_json_string(stdout, b->key, strlen(b->key));
		printf(",\"of\":\"%s\",\"in_per_s\":%.1f,\"in_bytes_per_s\":%.1f,\"out_per_s\":%.1f,\"out_bytes_per_s\":%.1f,"
		       "\"throttled_per_s\":%.1f}\n",
		       b->of, each(b->in, a->in, seconds), each(b->in_bytes, a->in_bytes, seconds), each(b->out, a->out, seconds),
		       each(b->out_bytes, a->out_bytes, seconds), each(b->throttled, a->throttled, seconds));
		return;
	}
	snprintf(name, sizeof(name), "%s %s%s%s", b->table, b->key, *b->of ? " of " : "", b->of);
	printf("%-32s %11.0f %9.2f %11.0f %9.2f", name, each(b->in, a->in, seconds), each(b->in_bytes, a->in_bytes, seconds) / 1e6,
	       each(b->out, a->out, seconds), each(b->out_bytes, a->out_bytes, seconds) / 1e6);
	if (strcmp(b->table, "shard") == 0)
		printf(" %10.0f %10s %10s", each(b->commits, a->commits, seconds), time_text(b->p50, &p50),
		       time_text(b->p99, &p99));
	putchar('\n');
}

static void print_rows(const struct shown *a, size_t a_count, const struct shown *b, size_t b_count, double seconds, bool json)
{
	size_t i;

	if (!json)
		printf("%-32s %11s %9s %11s %9s %10s %10s %10s\n", "", "in/s", "MB/s", "out/s", "MB/s", "commits/s", "p50", "p99");
	for (i = 0; i < b_count && !output_failed(); i++)
		print_shown(before_of(a, a_count, &b[i]), &b[i], seconds, json);
	fflush(stdout);
}

static void rest(uint64_t ns)
{
	struct timespec nap = {.tv_nsec = NAP_NS};
	uint64_t until = clock_ns() + ns;

	while (!interrupted && clock_ns() < until)
		nanosleep(&nap, NULL);
}

/* What another process does that has @dir open. -1: none has, or it keeps no statistics; else an exit code. */
int top_of_other(const char *dir, bool once, bool json)
{
	struct thmq_stats_info info = {.size = sizeof(info)};
	bool live = !once && !json && isatty(STDOUT_FILENO);
	struct shown *rows;
	struct thmq_stats *stats;
	size_t counts[2] = {0, 0};
	uint64_t from, to;

	if (thmq_stats_open(dir, &stats) != 0)
		return -1;
	thmq_stats_info(stats, &info);
	rows = info.alive ? calloc(2 * (size_t)ROWS_MAX, sizeof(*rows)) : NULL;
	if (!rows) {
		thmq_stats_close(stats);
		return -1;
	}
	counts[0] = look(stats, rows);
	from = clock_ns();
	do {
		rest(SECOND);
		if (thmq_stats_refresh(stats) != 0)
			break;
		counts[1] = look(stats, rows + ROWS_MAX);
		to = clock_ns();
		if (live)
			printf("\033[H\033[J");
		if (!json)
			print_head(stats);
		print_rows(rows, counts[0], rows + ROWS_MAX, counts[1], (double)(to - from) / 1e9, json);
		memcpy(rows, rows + ROWS_MAX, ROWS_MAX * sizeof(*rows));
		counts[0] = counts[1];
		from = to;
	} while (live && !interrupted && !output_failed());
	free(rows);
	thmq_stats_close(stats);
	return EXIT_OK;
}
