/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_sub.c - thmq sub: messages become lines. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include <errno.h>
#include <math.h>
#include <time.h>

#include "thmq.h"

#define FETCH_MAX 256
#define STALL_NS (60 * SECOND)
#define DUE_NS (5 * SECOND) /* what is due and does not come is waited for so long */

/* The values of numbers and truths as such, all others as strings. */
static void print_header_value(const struct thmq_header *h)
{
	int64_t whole;
	double real;

	if (h->type == THMQ_HEADER_INT && h->value_len == sizeof(whole)) {
		memcpy(&whole, h->value, sizeof(whole));
		printf("%lld", (long long)whole);
	} else if (h->type == THMQ_HEADER_REAL && h->value_len == sizeof(real)) {
		memcpy(&real, h->value, sizeof(real));
		printf(isfinite(real) ? "%.17g" : "null", real);
	} else if (h->type == THMQ_HEADER_BOOL && h->value_len == 1) {
		fputs(*(const char *)h->value ? "true" : "false", stdout);
	} else {
		print_json_string(stdout, h->value, h->value_len);
	}
}

static void print_headers(const struct thmq_message *m)
{
	const char *before = ",\"headers\":{";
	struct thmq_header h;
	uint32_t cursor = 0;

	while (thmq_header_next(m, &cursor, &h) == 1) {
		fputs(before, stdout);
		print_json_string(stdout, h.name, strlen(h.name));
		fputc(':', stdout);
		print_header_value(&h);
		before = ",";
	}
	if (*before == ',' && !before[1])
		fputc('}', stdout);
}

void print_message(const struct thmq_consumer *c, const struct thmq_message *m, bool json)
{
	if (!json) {
		fwrite(m->data, 1, m->len, stdout);
		fputc('\n', stdout);
		return;
	}
	printf("{\"partition\":%u,\"offset\":%llu,\"time_ns\":%lld", m->partition,
	       (unsigned long long)m->offset, (long long)m->time_ns);
	if (thmq_message_priority(c, m) > 0)
		printf(",\"priority\":%d", thmq_message_priority(c, m));
	if (m->key) {
		fputs(",\"key\":", stdout);
		print_json_string(stdout, m->key, m->key_len);
	}
	if (m->tag) {
		fputs(",\"tag\":", stdout);
		print_json_string(stdout, m->tag, m->tag_len);
	}
	print_headers(m);
	fputs(",\"data\":", stdout);
	print_json_string(stdout, m->data, m->len);
	fputs("}\n", stdout);
}

/* begin, end, an offset, or a time. */
bool parse_from(const char *text, uint32_t *ret_start, uint64_t *ret_value)
{
	*ret_value = 0;
	if (strcmp(text, "begin") == 0)
		*ret_start = THMQ_START_BEGIN;
	else if (strcmp(text, "end") == 0)
		*ret_start = THMQ_START_END;
	else if (parse_number(text, UINT64_MAX, ret_value))
		*ret_start = THMQ_START_OFFSET;
	else if (parse_time(text, ret_value))
		*ret_start = THMQ_START_TIME;
	else
		return false;
	return true;
}

int partition_when_due(struct connection *c, const char *topic, uint32_t partition, const char *group, uint64_t wall_ns,
		       struct thmq_partition_info *ret)
{
	uint64_t until = clock_ns() + DUE_NS;
	int rc;

	while ((rc = thmq_partition_describe(c->session, topic, partition, group, ret)) == 0 && ret->due_ns <= wall_ns &&
	       clock_ns() < until && !interrupted)
		wait_a_little(c);
	return rc;
}

int ends_find(struct connection *c, const char *topic, const char *group, struct ends *e)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_partition_info p = {.size = sizeof(p)};
	int rc = thmq_topic_describe(c->session, topic, &info);
	struct timespec now;
	uint32_t i;

	if (rc)
		return rc;
	clock_gettime(CLOCK_REALTIME, &now);
	e->count = info.partition_count;
	e->begin = calloc(e->count, sizeof(*e->begin));
	e->end = calloc(e->count, sizeof(*e->end));
	e->next = calloc(e->count, sizeof(*e->next));
	if (!e->begin || !e->end || !e->next)
		return -ENOMEM;
	for (i = 0; i < e->count && !rc; i++) {
		rc = partition_when_due(c, topic, i, group, (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec, &p);
		e->end[i] = p.end_offset;
		e->begin[i] = e->next[i] = p.begin_offset;
		if (group && p.group_offset != UINT64_MAX)
			e->next[i] = p.group_offset;
	}
	return rc;
}

bool ends_reached(const struct ends *e)
{
	uint32_t i;

	for (i = 0; i < e->count; i++)
		if (e->next[i] < e->end[i])
			return false;
	return true;
}

int ends_ask(struct thmq_consumer *consumer, struct ends *e, uint64_t idle_ns)
{
	uint64_t at;
	uint32_t i;
	int rc;

	for (i = 0; i < e->count; i++) {
		if (e->next[i] >= e->end[i])
			continue;
		rc = thmq_consumer_position(consumer, i, &at);
		if (rc == 0 && at > e->next[i])
			e->next[i] = at;
		else if (rc == -EPERM && e->some_only && idle_ns > SECOND) /* another member's, or it would have come by now */
			e->next[i] = e->end[i];
		if (rc && rc != -EPERM)
			return rc;
	}
	return 0;
}

void ends_free(struct ends *e)
{
	free(e->begin);
	free(e->end);
	free(e->next);
}

/* Nothing is there now. Return: whether to go on; else *@ret_code says why not. */
static bool await(struct connection *c, struct thmq_consumer *consumer, struct ends *e, bool follow, uint64_t idle_since,
		  int *ret_code)
{
	uint64_t idle = clock_ns() - idle_since;
	int rc;

	*ret_code = EXIT_OK;
	rc = follow || idle < SECOND / 20 ? 0 : ends_ask(consumer, e, idle);
	if (rc)
		*ret_code = fail(rc, "%s", thmq_errmsg());
	if (rc || (!follow && ends_reached(e)))
		return false;
	if (!follow && idle > STALL_NS) {
		*ret_code =
			fail(-ETIMEDOUT, "nothing has come for a minute, and this is not the end");
		return false;
	}
	fflush(stdout);
	if (output_failed() || output_gone()) /* nobody would see what is to come */
		return false;
	rc = thmq_session_wait(c->session, SECOND / 10);
	if (rc < 0)
		*ret_code = fail(rc, "wait: %s", thmq_strerror(rc));
	return rc >= 0;
}

static int ack(struct connection *c, struct thmq_consumer *consumer, const struct thmq_message *m)
{
	int rc;

	while ((rc = thmq_ack(consumer, m)) == -EAGAIN)
		wait_a_little(c);
	return rc;
}

/* What could not be read was passed over. Return: an exit code. */
static int tell_errors(struct connection *c, int code)
{
	struct thmq_event e;
	int rc;

	while (thmq_events(c->session, &e, 1) == 1) {
		if (e.type != THMQ_EVENT_ERROR)
			continue;
		rc = fail(e.error, "partition %u, offset %llu: passed over: %s", e.partition, (unsigned long long)e.offset,
			  e.error == -EOPNOTSUPP ? "compressed, and the library for that (lz4, zstd, zlib or snappy) is not here" : thmq_strerror(e.error));
		code = code ? code : rc;
	}
	return code;
}

static int consume(struct connection *c, struct thmq_consumer *consumer, struct ends *e,
		   uint64_t count, bool follow, bool group, bool json)
{
	struct thmq_message m[FETCH_MAX];
	uint64_t done = 0, idle_since = clock_ns();
	int n, i, code, told = 0, rc = 0;

	while (!interrupted && done < count && (follow || !ends_reached(e))) {
		n = thmq_fetch(consumer, m,
			       count - done < FETCH_MAX ? (uint32_t)(count - done) : FETCH_MAX);
		if (n == -THMQ_EFENCED)
			return fail(n, "the group has put this member out: thmq group --force did, or it was silent for too long");
		if (n < 0)
			return fail(n, "fetch: %s", thmq_strerror(n));
		told = tell_errors(c, told);
		if (n == 0) {
			if (await(c, consumer, e, follow, idle_since, &rc))
				continue;
			break;
		}
		for (i = 0; i < n; i++) {
			print_message(consumer, &m[i], json);
			if (output_failed())
				break;
			if (m[i].partition < e->count)
				e->next[m[i].partition] = m[i].offset + m[i].span;
		}
		/* acked only once they are out of our hands */
		if (group)
			fflush(stdout);
		if (output_failed()) /* main() says it */
			return EXIT_OK;
		for (i = 0; i < n && group && !rc; i++)
			rc = ack(c, consumer, &m[i]);
		if (rc)
			return fail(rc, "ack: %s", thmq_strerror(rc));
		thmq_release(consumer, m, (uint32_t)n);
		done += (uint64_t)n;
		idle_since = clock_ns();
	}
	fflush(stdout);
	output_failed();
	if (group && (code = thmq_consumer_flush(consumer, 30 * SECOND)) != 0)
		return fail(code, "store the group's offset: %s", thmq_strerror(code));
	if (!rc && interrupted && !follow) /* there is no other end to follow for ever */
		return fail(-EINTR, "interrupted after %llu message%s", (unsigned long long)done, plural(done));
	return rc ? rc : told;
}

/* An offset is sought in every partition: one that does not hold it begins at its nearest end, but one must hold it. */
static int seek_offset(struct thmq_consumer *consumer, struct ends *e, uint64_t offset)
{
	uint32_t i, held = 0;
	int rc = 0;

	for (i = 0; i < e->count; i++) {
		rc = thmq_seek(consumer, i, THMQ_START_OFFSET, offset);
		if (rc == 0)
			e->next[i] = offset, held++;
		else if (rc != -THMQ_EOFFSETRANGE)
			return rc;
	}
	if (!held)
		return rc;
	for (i = 0; i < e->count; i++) {
		if (offset > e->end[i])
			e->next[i] = e->end[i];
		if (offset > e->end[i] && (rc = thmq_seek(consumer, i, THMQ_START_END, 0)) != 0)
			return rc;
	}
	return 0;
}

static int seek(struct thmq_consumer *consumer, struct ends *e, uint32_t start, uint64_t value)
{
	uint32_t i;

	if (start == THMQ_START_OFFSET)
		return seek_offset(consumer, e, value);
	for (i = 0; i < e->count; i++) {
		if (start == THMQ_START_BEGIN) /* whatever the group has acked */
			e->next[i] = e->begin[i];
		else if (start == THMQ_START_END)
			e->next[i] = e->end[i];
	}
	e->some_only |= start == THMQ_START_TIME;
	return thmq_seek(consumer, UINT32_MAX, start, value);
}

/* A group's partitions are assigned as we go: seek when they are. */
static int seek_when_assigned(struct connection *c, struct thmq_consumer *consumer, struct ends *e,
			      uint32_t start, uint64_t value)
{
	uint64_t until = clock_ns() + 5 * SECOND;
	struct thmq_event event;
	uint32_t assigned = 0;
	int rc;

	while (assigned < e->count && clock_ns() < until) {
		while (thmq_events(c->session, &event, 1) == 1)
			assigned += event.type == THMQ_EVENT_ASSIGNED;
		if (assigned < e->count && (rc = thmq_session_wait(c->session, SECOND / 10)) < 0)
			return rc;
	}
	return seek(consumer, e, start, value);
}

struct tags {
	char text[4096];
	const char *tags[THMQ_CONSUMER_TAGS_MAX];
	uint32_t count;
};

static bool split_tags(const char *list, struct tags *ret)
{
	char *at = ret->text, *comma;

	if (strlen(list) >= sizeof(ret->text))
		return false;
	strcpy(at, list);
	for (; at; at = comma) {
		comma = strchr(at, ',');
		if (comma)
			*comma++ = 0;
		if (!*at || strlen(at) > THMQ_TAG_MAX || ret->count == THMQ_CONSUMER_TAGS_MAX)
			return false;
		ret->tags[ret->count++] = at;
	}
	return true;
}

int cmd_sub(int argc, char **argv)
{
	const char *group = NULL, *from = NULL, *count_text = NULL, *tags = NULL, *filter = NULL;
	struct tags wanted = {0};
	bool follow = false, json = false;
	const struct option_spec specs[] = {
		{"--group", &group, NULL},      {"--from", &from, NULL},
		{"--count", &count_text, NULL}, {"--follow", NULL, &follow},
		{"--json", NULL, &json},        {"--tag", &tags, NULL},
		{"--filter", &filter, NULL},
		{NULL, NULL, NULL}};
	struct thmq_consumer *consumer;
	struct connection c;
	struct ends ends = {0};
	uint64_t count = UINT64_MAX, value = 0;
	uint32_t start = 0;
	int words = parse_options(argc, argv, specs), rc;

	if (words < 0)
		return EXIT_USAGE;
	if (count_text && !parse_number(count_text, UINT64_MAX, &count))
		return usage_error("--count needs a value that is a number, not %s",
				   count_text);
	if (from && !parse_from(from, &start, &value))
		return usage_error(
			"--from is begin, end, an offset, a date as 2026-01-31 or a time as "
			"2026-01-31T12:00:00Z, not \"%s\"",
			from);
	if (tags && !split_tags(tags, &wanted))
		return usage_error("--tag: up to %u tags of 1 to %u bytes, separated by commas, not \"%s\"",
				   THMQ_CONSUMER_TAGS_MAX, THMQ_TAG_MAX, tags);
	if (filter && thmq_filter_check(filter, NULL))
		return usage_error("--%s", thmq_errmsg());
	if (!count_words(argv, words, 2, "sub needs a directory and a topic"))
		return EXIT_USAGE;
	rc = connect_dir(&c, argv[0], false, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	rc = ends_find(&c, argv[1], group, &ends);
	if (rc == 0)
		rc = thmq_consumer_open(c.session, argv[1], group,
					THMQ_CONSUMER_OPTS(.tags = wanted.tags, .tag_count = wanted.count, .filter = filter), &consumer);
	ends.some_only = wanted.count || filter;
	if (rc == 0 && from)
		rc = seek_when_assigned(&c, consumer, &ends, start, value);
	rc = rc ? fail(rc, "%s", thmq_errmsg())
		: consume(&c, consumer, &ends, count, follow, group != NULL, json);
	ends_free(&ends);
	return disconnect(&c, rc);
}
