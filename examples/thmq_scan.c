/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_scan.c - thmq verify and thmq dump: a closed directory, byte by byte, by the log's own scanner. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <thundermq/log.h>
#include <unistd.h>

#include "thmq.h"

struct scan {
	const char *name; /* of the log */
	bool json, runs, batches;
	uint64_t batch_count, run_count, message_count, bytes, findings;
};

static const char *finding_name(uint32_t kind)
{
	static const char *const names[] = {"?", "torn tail", "damage", "missing", "foreign", "newer version"};

	return kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "?";
}

static int on_batch(void *ctx, const struct thmq_log_batch *b)
{
	struct scan *s = ctx;

	s->batch_count++;
	s->bytes += b->len;
	if (s->batches && s->json)
		printf("{\"log\":\"%s\",\"batch\":%llu,\"position\":%llu,\"term\":%llu,\"type\":%u,\"bytes\":%u,"
		       "\"runs\":%u}\n",
		       s->name, (unsigned long long)b->index, (unsigned long long)b->position,
		       (unsigned long long)b->term, b->type, b->len, b->run_count);
	else if (s->batches)
		printf("%s batch %llu at %llu: term %llu, type %u, %u bytes, %u runs\n", s->name,
		       (unsigned long long)b->index, (unsigned long long)b->position, (unsigned long long)b->term,
		       b->type, b->len, b->run_count);
	return interrupted ? -EINTR : output_failed() ? -EPIPE : 0;
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;
	struct scan *s = ctx;

	s->run_count++;
	if (h->encoding != THMQ_RUN_STATE)
		s->message_count += h->count;
	if (!s->runs)
		return 0;
	if (s->json)
		printf("{\"log\":\"%s\",\"batch\":%llu,\"partition\":%u,\"encoding\":%u,\"offset\":%llu,\"count\":%u,"
		       "\"bytes\":%u,\"time_ns\":%lld}\n",
		       s->name, (unsigned long long)run->index, h->partition, h->encoding,
		       (unsigned long long)h->base_offset, h->count, h->len, (long long)h->first_time_ns);
	else if (h->encoding == THMQ_RUN_STATE)
		printf("%s   state kind %u item %llu: %u bytes\n", s->name, h->partition,
		       (unsigned long long)h->base_offset, h->len);
	else
		printf("%s   partition %u offsets %llu to %llu: %u messages, %u bytes\n", s->name, h->partition,
		       (unsigned long long)h->base_offset, (unsigned long long)(h->base_offset + h->span - 1), h->count,
		       h->len);
	return output_failed() ? -EPIPE : 0;
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	struct scan *s = ctx;

	s->findings++;
	if (s->json)
		printf("{\"log\":\"%s\",\"finding\":\"%s\",\"position\":%llu,\"text\":\"%s\"}\n", s->name,
		       finding_name(f->kind), (unsigned long long)f->position, f->text);
	else
		printf("%s: %s at %llu: %s\n", s->name, finding_name(f->kind), (unsigned long long)f->position, f->text);
	return output_failed() ? -EPIPE : 0;
}

static int scan_log(const char *dir, const char *name, struct scan *s)
{
	static const struct thmq_log_visitor visitor = {
		.size = sizeof(visitor), .batch = on_batch, .run = on_run, .finding = on_finding};
	char path[4400];
	int rc;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	s->name = name;
	rc = thmq_log_scan(path, &visitor, s);
	if (rc && rc != -EPIPE && rc != -EINTR)
		return fail(rc, "%s", thmq_errmsg());
	return EXIT_OK;
}

/* A broker that has the directory open holds this lock: what it writes meanwhile would look like damage. Shared, since
 * nothing is written here: a read-only file system will do, and one that knows no locks. */
static int lock_dir(const char *dir, int *ret_fd)
{
	char path[4400], pid[32] = {0};

	snprintf(path, sizeof(path), "%s/lock", dir);
	*ret_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*ret_fd < 0 && errno == ENOTDIR)
		return fail(-ENOTDIR, "%s is no directory", dir);
	if (*ret_fd < 0)
		return errno == ENOENT ? fail(-ENOENT, "%s: there is no data in it", dir) :
					 fail(-errno, "%s: %s", path, strerror(errno));
	if (flock(*ret_fd, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK)
		return EXIT_OK;
	if (pread(*ret_fd, pid, sizeof(pid) - 1, 0) < 0)
		pid[0] = 0;
	close(*ret_fd);
	pid[strcspn(pid, "\n")] = 0;
	return fail(-EBUSY, "%s: process %s has it open; close it there first", dir, pid);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_log(const struct dirent *e)
{
	return strcmp(e->d_name, "meta") == 0 || strncmp(e->d_name, "shard-", 6) == 0;
}

static int scan_dir(const char *dir, struct scan *s)
{
	struct dirent **names;
	const struct thmq_log_finding no_meta = {.kind = THMQ_FINDING_MISSING,
						 .text = "the log that tells topics and shards is not there"};
	int n, i, rc, worst = EXIT_OK, fd;

	rc = lock_dir(dir, &fd);
	if (rc)
		return rc;
	n = scandir(dir, &names, is_log, by_name);
	if (n < 0) {
		close(fd);
		return fail(-errno, "%s: %s", dir, strerror(errno));
	}
	if (n && strcmp(names[0]->d_name, "meta") != 0) { /* it sorts before the shards */
		s->name = "meta";
		on_finding(s, &no_meta);
		worst = EXIT_DAMAGE;
	}
	for (i = 0; i < n; i++) {
		rc = interrupted || output_failed() ? EXIT_OK : scan_log(dir, names[i]->d_name, s);
		if (rc > worst)
			worst = rc;
		free(names[i]);
	}
	free(names);
	close(fd);
	if (interrupted) /* nothing can be said of the rest */
		return fail(-EINTR, "interrupted");
	return n ? worst : fail(-ENOENT, "%s: there is no log in it", dir);
}

int cmd_verify(int argc, char **argv)
{
	struct scan s = {0};
	const struct option_spec specs[] = {{"--json", NULL, &s.json}, {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;

	if (words < 0)
		return EXIT_USAGE;
	if (words != 1)
		return usage_error("verify needs a directory");
	rc = scan_dir(argv[0], &s);
	if (rc == EXIT_OK || rc == EXIT_DAMAGE) {
		if (s.json)
			printf("{\"batches\":%llu,\"runs\":%llu,\"messages\":%llu,\"bytes\":%llu,\"findings\":%llu,"
			       "\"damaged\":%s}\n",
			       (unsigned long long)s.batch_count, (unsigned long long)s.run_count,
			       (unsigned long long)s.message_count, (unsigned long long)s.bytes,
			       (unsigned long long)s.findings, rc == EXIT_DAMAGE ? "true" : "false");
		else
			printf("%llu batches, %llu runs, %llu messages, %.1f MB: %s\n",
			       (unsigned long long)s.batch_count, (unsigned long long)s.run_count,
			       (unsigned long long)s.message_count, (double)s.bytes / 1e6,
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
	if (words != 1)
		return usage_error("dump needs a directory");
	return scan_dir(argv[0], &s);
}
