/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_browse.c - thmq browse: messages looked at without a group: of a key, of a time, from an offset on. Nothing is acknowledged. */
#include <errno.h>

#include "thmq.h"

#define FETCH_MAX 64

struct browse {
	struct connection c;
	struct thmq_consumer *consumer;
	const char *topic;
	uint32_t partition; /* UINT32_MAX: all */
	uint32_t partition_count;
	uint32_t start, end; /* enum thmq_start; 0: none */
	uint64_t from, to;
	uint64_t count;
	struct ends ends;
	bool json;
};

/* ------------------------------------------------------------------- by key */

/* Return: 1; 0 it is too old to be shown, or the filter does not want it; an error. */
static int show(struct browse *b, const struct thmq_key_info *at)
{
	struct thmq_message m;
	uint64_t position = 0;
	int rc = thmq_seek(b->consumer, UINT32_MAX, THMQ_START_END, 0);

	rc = rc ? rc : thmq_seek(b->consumer, at->partition, THMQ_START_OFFSET, at->offset);
	while (!rc && (rc = thmq_fetch(b->consumer, &m, 1)) == 0 && position <= at->offset && !interrupted) {
		rc = thmq_session_wait(b->c.session, SECOND / 100);
		if (rc >= 0)
			rc = thmq_consumer_position(b->consumer, at->partition, &position);
	}
	if (rc <= 0)
		return rc;
	rc = m.offset == at->offset && m.partition == at->partition;
	if (rc)
		print_message(b->consumer, &m, b->json);
	thmq_release(b->consumer, &m, 1);
	return rc;
}

/* Newest first. */
static int by_key(struct browse *b, const char *key)
{
	struct thmq_key_info at = {.size = sizeof(at), .offset = UINT64_MAX};
	uint32_t i = b->partition == UINT32_MAX ? 0 : b->partition, end = b->partition == UINT32_MAX ? b->partition_count : i + 1;
	uint64_t done = 0;
	int rc = 0;

	for (; i < end; i++) { /* its producers may have sent it anywhere */
		at.offset = b->end == THMQ_START_OFFSET ? b->to : UINT64_MAX;
		while (done < b->count && !interrupted && !output_failed()) {
			rc = thmq_key_find(b->c.session, b->topic, i, key, (uint32_t)strlen(key), at.offset, &at);
			if (rc || (b->start == THMQ_START_OFFSET && at.offset < b->from))
				break;
			if (b->start == THMQ_START_TIME && at.time_ns < (int64_t)b->from)
				continue;
			if (b->end == THMQ_START_TIME && at.time_ns >= (int64_t)b->to)
				continue;
			rc = show(b, &at);
			if (rc < 0)
				break;
			done += (uint64_t)rc;
		}
		if (rc < 0 && rc != -ENOENT)
			return fail(rc, "%s", thmq_errmsg());
	}
	return EXIT_OK;
}

/* ----------------------------------------------------------------- in order */

static int seek(struct browse *b)
{
	uint32_t i;
	int rc = 0;

	for (i = 0; i < b->partition_count && !rc; i++) {
		if (b->partition != UINT32_MAX && i != b->partition) {
			b->ends.next[i] = b->ends.end[i]; /* it is not read */
			continue;
		}
		if (b->end == THMQ_START_OFFSET && b->to < b->ends.end[i])
			b->ends.end[i] = b->to;
		if (b->start == THMQ_START_END)
			b->ends.next[i] = b->ends.end[i];
		if (b->start)
			rc = thmq_seek(b->consumer, i, b->start, b->from);
		if (rc == -THMQ_EOFFSETRANGE && b->partition == UINT32_MAX) /* others may have it */
			rc = thmq_seek(b->consumer, i, THMQ_START_BEGIN, 0);
	}
	return rc;
}

static bool is_wanted(const struct browse *b, const struct thmq_message *m)
{
	if (b->partition != UINT32_MAX && m->partition != b->partition)
		return false;
	if (b->start == THMQ_START_OFFSET && m->offset < b->from)
		return false;
	if (b->end == THMQ_START_OFFSET)
		return m->offset < b->to;
	return b->end != THMQ_START_TIME || m->time_ns < (int64_t)b->to;
}

static int in_order(struct browse *b)
{
	struct thmq_message m[FETCH_MAX];
	uint64_t done = 0;
	int n, i, rc = ends_find(&b->c, b->topic, NULL, &b->ends);

	rc = rc ? rc : seek(b);
	while (!rc && done < b->count && !ends_reached(&b->ends) && !interrupted && !output_failed()) {
		n = thmq_fetch(b->consumer, m, FETCH_MAX);
		if (n < 0)
			return fail(n, "fetch: %s", thmq_strerror(n));
		for (i = 0; i < n && done < b->count; i++) {
			if (m[i].partition < b->ends.count)
				b->ends.next[m[i].partition] = m[i].offset + m[i].span;
			if (!is_wanted(b, &m[i]))
				continue;
			print_message(b->consumer, &m[i], b->json);
			done++;
		}
		thmq_release(b->consumer, m, (uint32_t)n);
		if (!n && (rc = thmq_session_wait(b->c.session, SECOND / 50)) >= 0)
			rc = ends_ask(b->consumer, &b->ends, 0);
	}
	return rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}

/* ------------------------------------------------------------------ command */

int cmd_browse(int argc, char **argv)
{
	const char *from = NULL, *to = NULL, *key = NULL, *filter = NULL, *count = NULL, *partition_text = NULL;
	struct browse b = {.partition = UINT32_MAX, .count = UINT64_MAX};
	const struct option_spec specs[] = {{"--from", &from, NULL},
					    {"--to", &to, NULL},
					    {"--key", &key, NULL},
					    {"--filter", &filter, NULL},
					    {"--partition", &partition_text, NULL},
					    {"--count", &count, NULL},
					    {"--json", NULL, &b.json},
					    {NULL, NULL, NULL}};
	struct thmq_topic_info info = {.size = sizeof(info)};
	int words = parse_options(argc, argv, specs), rc;
	uint64_t partition = 0;

	if (words < 0)
		return EXIT_USAGE;
	if (count && !parse_number(count, UINT64_MAX, &b.count))
		return usage_error("--count needs a value that is a number, not %s", count);
	if (partition_text && !parse_number(partition_text, THMQ_PARTITION_COUNT_MAX, &partition))
		return usage_error("--partition needs a number, not %s", partition_text);
	if ((from && !parse_from(from, &b.start, &b.from)) || (to && !parse_from(to, &b.end, &b.to)))
		return usage_error("--from and --to are begin, end, an offset, a date as 2026-01-31 or a time as 2026-01-31T12:00:00Z");
	if (filter && thmq_filter_check(filter, NULL))
		return usage_error("--%s", thmq_errmsg());
	if (!count_words(argv, words, 2, "browse needs a directory and a topic"))
		return EXIT_USAGE;
	rc = connect_dir(&b.c, argv[0], false, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	b.topic = argv[1];
	if (partition_text)
		b.partition = (uint32_t)partition;
	rc = thmq_topic_describe(b.c.session, b.topic, &info);
	b.partition_count = info.partition_count;
	if (!rc && partition_text && partition >= info.partition_count)
		rc = fail(-THMQ_ENOPARTITION, "topic %s has %u partition%s", b.topic, info.partition_count, plural(info.partition_count));
	else if (rc || (rc = thmq_consumer_open(b.c.session, b.topic, NULL,
						THMQ_CONSUMER_OPTS(.flags = partition_text ? THMQ_CONSUMER_PARTITION : 0,
								   .partition = (uint32_t)partition, .filter = filter),
						&b.consumer)) != 0)
		rc = fail(rc, "%s", thmq_errmsg());
	else
		rc = key ? by_key(&b, key) : in_order(&b);
	ends_free(&b.ends);
	return disconnect(&b.c, rc);
}
