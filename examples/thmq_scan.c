/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_scan.c - thmq verify and thmq dump: a closed directory, byte by byte, by the log's own scanner. */
#include <errno.h>
#include <thundermq/log.h>

#include "thmq.h"

struct scan {
	char name[64]; /* of the log; "": the directory */
	struct names names;
	bool json, runs, batches;
	uint64_t batch_count, run_count, message_count, bytes, findings;
};

const char *finding_name(uint32_t kind)
{
	static const char *const names[] = {"?",       "torn tail", "damage",
					    "missing", "foreign",   "newer version",
					    "index",   "leftover",  "identity"};

	return kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "?";
}

static int on_log(void *ctx, const char *name)
{
	struct scan *s = ctx;

	snprintf(s->name, sizeof(s->name), "%s", name);
	return 0;
}

static const char *batch_type(uint16_t type)
{
	static const char *const names[] = {"?", "data", "noop", "change", "barrier", "checkpoint", "pad"};

	return type < sizeof(names) / sizeof(names[0]) ? names[type] : "?";
}

/* The name in front of a line; a log on its own has none. */
static void print_name(const struct scan *s, const char *gap)
{
	printf("%s%s", s->name, *s->name ? gap : "");
}

static void print_batch(const struct scan *s, const struct thmq_log_batch *b)
{
	if (s->json) {
		printf("{\"log\":\"%s\",\"batch\":%llu,\"position\":%llu,\"term\":%llu,\"type\":\"%s\",\"bytes\":%u,"
		       "\"runs\":%u}\n",
		       s->name, (unsigned long long)b->index, (unsigned long long)b->position,
		       (unsigned long long)b->term, batch_type(b->type), b->len, b->run_count);
		return;
	}
	print_name(s, " ");
	printf("batch %llu at %llu: term %llu, %s, %u bytes, %u run%s\n", (unsigned long long)b->index,
	       (unsigned long long)b->position, (unsigned long long)b->term, batch_type(b->type), b->len,
	       b->run_count, plural(b->run_count));
}

static int on_batch(void *ctx, const struct thmq_log_batch *b)
{
	struct scan *s = ctx;

	s->batch_count++;
	s->bytes += b->len;
	if (s->batches)
		print_batch(s, b);
	return interrupted ? -EINTR : output_failed() ? -EPIPE : 0;
}

static void print_run_json(const struct scan *s, const struct thmq_log_run *run)
{
	static const char *const encodings[] = {"?", "records", "state", "opaque", "kafka", "packed"};
	const struct thmq_run_header *h = run->header;

	printf("{\"log\":\"%s\",\"batch\":%llu,\"encoding\":\"%s\"", s->name, (unsigned long long)run->index,
	       encodings[h->encoding <= THMQ_RUN_PACKED ? h->encoding : 0]);
	if (h->encoding == THMQ_RUN_STATE) {
		print_state_json(&s->names, h->partition, h->base_offset);
		printf(",\"bytes\":%u}\n", h->len);
		return;
	}
	print_partition_json(&s->names, h->partition);
	printf(",\"offset\":%llu,\"end\":%llu,\"count\":%u,\"bytes\":%u,\"time_ns\":%lld}\n",
	       (unsigned long long)h->base_offset, (unsigned long long)(h->base_offset + h->span), h->count,
	       h->len, (long long)h->first_time_ns);
}

static void print_run(const struct scan *s, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;
	struct state_words state;
	struct name_text name;

	print_name(s, "   ");
	if (h->encoding == THMQ_RUN_STATE)
		printf("state: %s: %u bytes\n", state_text(&s->names, h->partition, h->base_offset, &state), h->len);
	else
		printf("%s offsets %llu to %llu: %u message%s, %u bytes\n",
		       partition_text(&s->names, h->partition, &name), (unsigned long long)h->base_offset,
		       (unsigned long long)(h->base_offset + h->span - 1), h->count, plural(h->count), h->len);
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	struct scan *s = ctx;

	s->run_count++;
	if (run->header->encoding != THMQ_RUN_STATE)
		s->message_count += run->header->count;
	if (!s->runs)
		return 0;
	if (strcmp(s->name, "meta") == 0)
		names_learn(&s->names, run);
	if (s->json)
		print_run_json(s, run);
	else
		print_run(s, run);
	return output_failed() ? -EPIPE : 0;
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	struct scan *s = ctx;

	s->findings++;
	print_finding(s->name, f, s->json);
	return output_failed() ? -EPIPE : 0;
}

static int scan_log(const char *dir, const struct thmq_log_visitor *visitor, struct scan *s, int *ret_rc)
{
	int fd, code = lock_log(dir, &fd);

	if (code)
		return code;
	s->names.of_log = true;
	if (!s->json)
		printf("%s: a log on its own, without topics\n", dir);
	*ret_rc = thmq_log_scan(dir, visitor, s);
	unlock_log(fd);
	return EXIT_OK;
}

/* What a repair took out of a log: a file, which nobody has open. */
static bool is_quarantine(const char *path)
{
	const char *name = strrchr(path, '/');
	size_t len = strlen(path);

	name = name ? name + 1 : path;
	return strncmp(name, "quarantine-", 11) == 0 && len > 4 && strcmp(path + len - 4, ".bin") == 0;
}

static int scan_dir(const char *dir, struct scan *s)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor),
						 .batch = on_batch,
						 .run = on_run,
						 .finding = on_finding,
						 .log = on_log};
	int rc = 0, code = EXIT_OK;

	if (is_quarantine(dir)) {
		s->names.of_log = true;
		rc = thmq_log_scan(dir, &visitor, s);
	} else if (is_log(dir)) {
		code = scan_log(dir, &visitor, s, &rc);
	} else {
		rc = thmq_data_scan(dir, &visitor, s);
	}
	names_free(&s->names);
	if (code)
		return code;
	if (rc == -EINTR && interrupted) /* nothing can be said of the rest */
		return fail(rc, "interrupted");
	if (rc == -EPIPE && output_failed())
		return EXIT_OK;
	return rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}

void print_finding(const char *log, const struct thmq_log_finding *f, bool json)
{
	if (json) {
		printf("{\"log\":\"%s\",\"finding\":\"%s\",\"position\":%llu,\"text\":", log,
		       finding_name(f->kind), (unsigned long long)f->position);
		print_json_string(stdout, f->text, strlen(f->text));
		printf("}\n");
	} else if (f->kind == THMQ_FINDING_FOREIGN || !f->position) {
		printf("%s%s%s: %s\n", log, *log ? ": " : "", finding_name(f->kind), f->text);
	} else {
		printf("%s%s%s at %llu: %s\n", log, *log ? ": " : "", finding_name(f->kind),
		       (unsigned long long)f->position, f->text);
	}
}

int cmd_verify(int argc, char **argv)
{
	struct scan s = {0};
	const struct option_spec specs[] = {{"--json", NULL, &s.json}, {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;

	if (words < 0)
		return EXIT_USAGE;
	if (!count_words(argv, words, 1, "verify needs a directory"))
		return EXIT_USAGE;
	rc = scan_dir(argv[0], &s);
	if (rc == EXIT_OK || rc == EXIT_DAMAGE) {
		if (s.json)
			printf("{\"batches\":%llu,\"runs\":%llu,\"messages\":%llu,\"bytes\":%llu,"
			       "\"findings\":%llu,"
			       "\"damaged\":%s}\n",
			       (unsigned long long)s.batch_count, (unsigned long long)s.run_count,
			       (unsigned long long)s.message_count, (unsigned long long)s.bytes,
			       (unsigned long long)s.findings,
			       rc == EXIT_DAMAGE ? "true" : "false");
		else
			printf("%llu batch%s, %llu run%s, %llu message%s, %.1f MB: %s\n",
			       (unsigned long long)s.batch_count, s.batch_count == 1 ? "" : "es",
			       (unsigned long long)s.run_count, plural(s.run_count),
			       (unsigned long long)s.message_count, plural(s.message_count),
			       (double)s.bytes / 1e6,
			       rc == EXIT_DAMAGE ? "DAMAGED" : "whole");
	}
	return rc;
}

int cmd_dump(int argc, char **argv)
{
	struct scan s = {.runs = true};
	const struct option_spec specs[] = {
		{"--json", NULL, &s.json}, {"--batches", NULL, &s.batches}, {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs);

	if (words < 0)
		return EXIT_USAGE;
	if (!count_words(argv, words, 1, "dump needs a directory"))
		return EXIT_USAGE;
	return scan_dir(argv[0], &s);
}
