/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_redrive.c - thmq redrive: dead letters are sent again, to the topic that they come from or to another, without what was added
 * when they died. Each is done, for the group that does this, once it is stored where it went.
 */
#include <errno.h>

#include "thmq.h"

#define BATCH 128u
#define HEADERS_MAX 128u
#define TOPICS_MAX 64u
#define PREFIX "thmq-dead-"
#define QUIET_NS SECOND /* nothing has come for so long: these were all */

/* Where they go: a producer for each topic. */
struct target {
	char topic[THMQ_TOPIC_NAME_MAX + 1];
	struct thmq_producer *producer;
};

struct redrive {
	struct connection c;
	struct thmq_consumer *consumer;
	const char *to; /* NULL: where they come from */
	struct target targets[TOPICS_MAX];
	uint32_t count;
	uint64_t sent, unknown;
};

static int target_of(struct redrive *r, const struct thmq_message *m, struct thmq_producer **ret)
{
	struct thmq_header h = {.value = r->to, .value_len = r->to ? (uint32_t)strlen(r->to) : 0};
	struct target *t;
	uint32_t i;
	int rc;

	if (!r->to && (thmq_header_find(m, PREFIX "topic", &h) || h.type != THMQ_HEADER_TEXT))
		return -ENOENT;
	if (!h.value_len || h.value_len > THMQ_TOPIC_NAME_MAX)
		return -ENOENT;
	for (i = 0; i < r->count; i++) {
		t = &r->targets[i];
		if (strlen(t->topic) == h.value_len && memcmp(t->topic, h.value, h.value_len) == 0)
			break;
	}
	if (i == TOPICS_MAX)
		return -ENOSPC;
	t = &r->targets[i];
	if (i == r->count) {
		memcpy(t->topic, h.value, h.value_len);
		t->topic[h.value_len] = 0;
		rc = thmq_producer_open(r->c.session, t->topic, NULL, &t->producer);
		if (rc)
			return rc;
		r->count++;
	}
	*ret = t->producer;
	return 0;
}

static int send_again(struct redrive *r, const struct thmq_message *m)
{
	struct thmq_header h[HEADERS_MAX];
	struct thmq_message_opts o = {.size = sizeof(o),
				      .key = m->key,
				      .key_len = m->key_len,
				      .headers = h,
				      .time_ns = m->time_ns};
	struct thmq_producer *producer;
	uint32_t cursor = 0;
	char tag[THMQ_TAG_MAX + 1];
	int64_t seq;
	int rc = target_of(r, m, &producer);

	if (rc)
		return rc;
	o.time_ns = 0;
	if (m->tag_len) {
		memcpy(tag, m->tag, m->tag_len);
		tag[m->tag_len] = 0;
		o.tag = tag;
	}
	while (o.header_count < HEADERS_MAX &&
	       thmq_header_next(m, &cursor, &h[o.header_count]) == 1)
		o.header_count += strncmp(h[o.header_count].name, PREFIX, sizeof(PREFIX) - 1) != 0;
	while ((seq = thmq_send(producer, m->data, m->len, &o)) == -EAGAIN)
		wait_a_little(&r->c);
	return seq < 0 ? (int)seq : 0;
}

/* All of these are stored where they went, or none is done. */
static int send_batch(struct redrive *r, const struct thmq_message *m, uint32_t n)
{
	uint32_t i, sent = 0;
	int rc;

	for (i = 0; i < n; i++) {
		rc = send_again(r, &m[i]);
		if (rc == -ENOENT) { /* it is no dead letter: it stays where it is */
			r->unknown++;
			continue;
		}
		if (rc)
			return fail(rc, "offset %llu: %s", (unsigned long long)m[i].offset,
				    thmq_strerror(rc));
		sent++;
	}
	for (i = 0; i < r->count; i++) {
		rc = thmq_flush(r->targets[i].producer, 30 * SECOND);
		if (rc)
			return fail(rc, "%s: %s", r->targets[i].topic, thmq_errmsg());
	}
	for (i = 0; i < n; i++)
		while ((rc = thmq_ack(r->consumer, &m[i])) == -EAGAIN)
			wait_a_little(&r->c);
	r->sent += sent;
	return EXIT_OK;
}

static int drive(struct redrive *r, uint64_t count)
{
	uint64_t since = clock_ns(), done = 0;
	struct thmq_message m[BATCH];
	int n, rc;

	while (!interrupted && done < count) {
		n = thmq_fetch(r->consumer, m,
			       count - done < BATCH ? (uint32_t)(count - done) : BATCH);
		if (n < 0)
			return fail(n, "fetch: %s", thmq_strerror(n));
		if (n == 0) {
			if (clock_ns() - since > QUIET_NS)
				break;
			if (thmq_session_wait(r->c.session, SECOND / 10) < 0)
				return fail(-ESHUTDOWN, "%s", thmq_errmsg());
			continue;
		}
		rc = send_batch(r, m, (uint32_t)n);
		if (rc)
			return rc;
		thmq_release(r->consumer, m, (uint32_t)n);
		done += (uint64_t)n;
		since = clock_ns();
	}
	rc = thmq_consumer_flush(r->consumer, 30 * SECOND);
	return rc ? fail(rc, "store what is done: %s", thmq_strerror(rc)) : EXIT_OK;
}

int cmd_redrive(int argc, char **argv)
{
	const char *group = "redrive", *count_text = NULL;
	struct redrive r = {0};
	bool json = false;
	const struct option_spec specs[] = {{"--to", &r.to, NULL},
					    {"--group", &group, NULL},
					    {"--count", &count_text, NULL},
					    {"--json", NULL, &json},
					    {NULL, NULL, NULL}};
	uint64_t count = UINT64_MAX;
	int words = parse_options(argc, argv, specs), rc;

	if (words < 0)
		return EXIT_USAGE;
	if (count_text && !parse_number(count_text, UINT64_MAX, &count))
		return usage_error("--count needs a value that is a number, not %s",
				   count_text);
	if (!count_words(argv, words, 2, "redrive needs a directory and a topic of dead letters"))
		return EXIT_USAGE;
	if (r.to && strcmp(r.to, argv[1]) == 0)
		return usage_error("--to names the topic that the dead letters are in");
	rc = connect_dir(&r.c, argv[0], false, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	rc = thmq_consumer_open(r.c.session, argv[1], group, NULL, &r.consumer);
	if (rc)
		return disconnect(&r.c, fail(rc, "%s", thmq_errmsg()));
	rc = drive(&r, count);
	if (json)
		printf("{\"sent\":%llu,\"unknown\":%llu}\n", (unsigned long long)r.sent,
		       (unsigned long long)r.unknown);
	else
		printf("%llu sent again%s\n", (unsigned long long)r.sent,
		       r.unknown ? "; some do not say where they come from, and were passed over: "
				   "--to TOPIC sends them"
				 : "");
	return disconnect(&r.c, rc);
}
