/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_sub.c - thmq sub: messages become lines. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include <errno.h>
#include <time.h>

#include "thmq.h"

#define FETCH_MAX 256

static void print_message(const struct thmq_message *m, bool json)
{
	if (!json) {
		fwrite(m->data, 1, m->len, stdout);
		fputc('\n', stdout);
		return;
	}
	printf("{\"partition\":%u,\"offset\":%llu,\"time_ns\":%lld", m->partition, (unsigned long long)m->offset,
	       (long long)m->time_ns);
	if (m->key) {
		fputs(",\"key\":", stdout);
		print_json_string(stdout, m->key, m->key_len);
	}
	if (m->tag) {
		fputs(",\"tag\":", stdout);
		print_json_string(stdout, m->tag, m->tag_len);
	}
	fputs(",\"data\":", stdout);
	print_json_string(stdout, m->data, m->len);
	fputs("}\n", stdout);
}

/* begin, end, an offset, or a time in UTC. */
static bool parse_from(const char *text, uint32_t *ret_start, uint64_t *ret_value)
{
	struct tm t = {0};
	const char *end;

	*ret_value = 0;
	if (strcmp(text, "begin") == 0)
		*ret_start = THMQ_START_BEGIN;
	else if (strcmp(text, "end") == 0)
		*ret_start = THMQ_START_END;
	else if (parse_number(text, UINT64_MAX, ret_value))
		*ret_start = THMQ_START_OFFSET;
	else if ((end = strptime(text, "%Y-%m-%dT%H:%M:%S", &t)) && (!*end || strcmp(end, "Z") == 0)) {
		*ret_start = THMQ_START_TIME;
		*ret_value = (uint64_t)timegm(&t) * SECOND;
	} else {
		return false;
	}
	return true;
}

/* Where the topic ends now: without --follow that is where we stop. */
struct ends {
	uint32_t count;
	uint64_t *end, *next;
};

static int find_ends(struct connection *c, const char *topic, struct ends *e)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_partition_info p = {.size = sizeof(p)};
	int rc = thmq_topic_describe(c->session, topic, &info);
	uint32_t i;

	if (rc)
		return rc;
	e->count = info.partition_count;
	e->end = calloc(e->count, sizeof(*e->end));
	e->next = calloc(e->count, sizeof(*e->next));
	if (!e->end || !e->next)
		return -ENOMEM;
	for (i = 0; i < e->count && !rc; i++) {
		rc = thmq_partition_describe(c->session, topic, i, NULL, &p);
		e->end[i] = p.end_offset;
	}
	return rc;
}

static int consume(struct connection *c, struct thmq_consumer *consumer, uint64_t count, bool follow, bool group,
		   bool json)
{
	struct thmq_message m[FETCH_MAX];
	uint64_t done = 0, idle_since = clock_ns();
	int n, i, rc;

	while (!interrupted && done < count) {
		n = thmq_fetch(consumer, m, count - done < FETCH_MAX ? (uint32_t)(count - done) : FETCH_MAX);
		if (n < 0)
			return fail(n, "fetch: %s", thmq_strerror(n));
		if (n == 0) {
			/* the end of what there is: nothing for a while, though the broker had its time */
			if (!follow && clock_ns() - idle_since > SECOND / 5)
				break;
			fflush(stdout);
			rc = thmq_session_wait(c->session, SECOND / 10);
			if (rc < 0)
				return fail(rc, "wait: %s", thmq_strerror(rc));
			continue;
		}
		for (i = 0; i < n; i++)
			print_message(&m[i], json);
		if (ferror(stdout)) /* nobody reads any more */
			return errno == EPIPE ? EXIT_OK : fail(-errno, "standard output: %s", strerror(errno));
		for (i = 0; i < n && group; i++)
			while ((rc = thmq_ack(consumer, &m[i])) == -EAGAIN)
				thmq_poll(c->env, SECOND);
		thmq_release(consumer, m, (uint32_t)n);
		done += (uint64_t)n;
		idle_since = clock_ns();
	}
	fflush(stdout);
	if (group && (rc = thmq_consumer_flush(consumer, 30 * SECOND)) != 0)
		return fail(rc, "store the group's offset: %s", thmq_strerror(rc));
	return EXIT_OK;
}

/* A group's partitions are assigned as we go: seek when they are. */
static int seek_when_assigned(struct connection *c, struct thmq_consumer *consumer, uint32_t partitions,
			      uint32_t start, uint64_t value)
{
	uint64_t until = clock_ns() + 5 * SECOND;
	struct thmq_event e;
	uint32_t assigned = 0;
	int rc;

	while (assigned < partitions && clock_ns() < until) {
		while (thmq_events(c->session, &e, 1) == 1)
			assigned += e.type == THMQ_EVENT_ASSIGNED;
		if (assigned < partitions && (rc = thmq_session_wait(c->session, SECOND / 10)) < 0)
			return rc;
	}
	return thmq_seek(consumer, UINT32_MAX, start, value);
}

int cmd_sub(int argc, char **argv)
{
	const char *group = NULL, *from = NULL, *count_text = NULL;
	bool follow = false, json = false;
	const struct option_spec specs[] = {{"--group", &group, NULL},	  {"--from", &from, NULL},
					    {"--count", &count_text, NULL}, {"--follow", NULL, &follow},
					    {"--json", NULL, &json},	    {NULL, NULL, NULL}};
	struct thmq_consumer *consumer;
	struct connection c;
	struct ends ends = {0};
	uint64_t count = UINT64_MAX, value = 0;
	uint32_t start = 0;
	int words = parse_options(argc, argv, specs), rc;

	if (words < 0)
		return EXIT_USAGE;
	if (words != 2)
		return usage_error("sub needs a directory and a topic; thmq help sub");
	if (count_text && !parse_number(count_text, UINT64_MAX, &count))
		return usage_error("--count: %s is no number", count_text);
	if (from && !parse_from(from, &start, &value))
		return usage_error("--from is begin, end, an offset, or a time as 2026-01-31T12:00:00Z");
	rc = connect_dir(&c, argv[0], false, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	rc = find_ends(&c, argv[1], &ends);
	if (rc == 0)
		rc = thmq_consumer_open(c.session, argv[1], group, NULL, &consumer);
	if (rc == 0 && from)
		rc = seek_when_assigned(&c, consumer, ends.count, start, value);
	rc = rc ? fail(rc, "%s", thmq_errmsg()) : consume(&c, consumer, count, follow, group != NULL, json);
	free(ends.end);
	free(ends.next);
	return disconnect(&c, rc);
}
