/* SPDX-License-Identifier: Apache-2.0 */
/*
 * features.h - what a broker and a session may have beside a plain topic: each of it is set up on topics of its own, in the same shard and by the same session, is used,
 * and is still there, while the plain path is measured. Who does not use something must not pay for it.
 *
 * Knows the public header only.
 */
#ifndef PERF_FEATURES_H
#define PERF_FEATURES_H

#include "path.h"

#include <errno.h>

#define BESIDE_DAY_NS 86400000000000ull
#define BESIDE_COUNT 16u /* messages of it that lie there */

struct beside {
	struct path *path;
	const char *topic;
	struct thmq_topic_opts topic_opts;
	struct thmq_producer_opts producer_opts;
	struct thmq_message_opts message_opts;
	struct thmq_consumer_opts consumer_opts;
	const char *group;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
};

/* A topic with @b's options, messages in it, and a reader who has got some. */
static inline void beside_use(struct beside *b)
{
	struct path *p = b->path;
	struct thmq_message m[BESIDE_COUNT];
	int n = 0;

	b->topic_opts.size = sizeof(b->topic_opts);
	b->producer_opts.size = sizeof(b->producer_opts);
	b->message_opts.size = sizeof(b->message_opts);
	b->consumer_opts.size = sizeof(b->consumer_opts);
	must("topic", thmq_topic_create(p->session, b->topic, &b->topic_opts));
	must("producer", thmq_producer_open(p->session, b->topic, &b->producer_opts, &b->producer));
	must("consumer", thmq_consumer_open(p->session, b->topic, b->group, &b->consumer_opts, &b->consumer));
	for (uint32_t i = 0; i < BESIDE_COUNT; i++)
		must("send", thmq_send(b->producer, path_payload, PATH_LEN, &b->message_opts));
	must("flush", thmq_flush(b->producer, PATH_CLOSE_NS));
	if (b->message_opts.delay_ns || b->message_opts.txn)
		return; /* nothing comes of it yet */
	while (n < (int)BESIDE_COUNT / 2) {
		must("poll", thmq_poll(p->env, 0));
		n += (int)must("fetch", thmq_fetch(b->consumer, m + n, BESIDE_COUNT - (uint32_t)n));
	}
	must("release", thmq_release(b->consumer, m, (uint32_t)n)); /* of a shared group it stays a member's own */
}

static inline void beside_headers(struct path *p)
{
	static const struct thmq_header header = {.name = "region", .value = "north", .value_len = 5, .type = THMQ_HEADER_TEXT};
	struct beside b = {.path = p, .topic = "headers", .message_opts = {.key = "k", .key_len = 1, .tag = "red", .headers = &header, .header_count = 1}};

	beside_use(&b);
}

static inline void beside_tags(struct path *p)
{
	static const char *const tags[] = {"red"};
	struct beside b = {.path = p, .topic = "tags", .message_opts = {.tag = "red"}, .consumer_opts = {.tags = tags, .tag_count = 1}};

	beside_use(&b);
}

static inline void beside_filter(struct path *p)
{
	struct beside b = {.path = p, .topic = "filter", .message_opts = {.tag = "red"}, .consumer_opts = {.filter = "tag = 'red'"}};

	beside_use(&b);
}

static inline void beside_group(struct path *p)
{
	struct beside b = {.path = p, .topic = "group", .group = "g", .topic_opts = {.partition_count = 4}};

	beside_use(&b);
}

static inline void beside_shared(struct path *p)
{
	struct beside b = {.path = p,
			   .topic = "shared",
			   .group = "s",
			   .consumer_opts = {.flags = THMQ_CONSUMER_SHARED, .invisible_ns = BESIDE_DAY_NS, .deliver_max = 3}};

	beside_use(&b);
}

static inline void beside_dead_letters(struct path *p)
{
	struct beside b = {.path = p,
			   .topic = "tries",
			   .group = "s",
			   .consumer_opts = {.flags = THMQ_CONSUMER_SHARED, .invisible_ns = BESIDE_DAY_NS, .deliver_max = 3, .dead_topic = "dead"}};

	must("topic", thmq_topic_create(p->session, "dead", NULL));
	beside_use(&b);
}

static inline void beside_delayed(struct path *p)
{
	struct beside b = {.path = p, .topic = "delayed", .message_opts = {.delay_ns = BESIDE_DAY_NS}};

	beside_use(&b);
}

static inline void beside_priorities(struct path *p)
{
	struct beside b = {.path = p, .topic = "priorities", .topic_opts = {.priorities = 3}, .message_opts = {.priority = 2}};

	beside_use(&b);
}

static inline void beside_ttl(struct path *p)
{
	struct beside b = {.path = p, .topic = "ttl", .topic_opts = {.ttl_ns = BESIDE_DAY_NS}};

	beside_use(&b);
}

static inline void beside_retention(struct path *p)
{
	struct beside b = {.path = p, .topic = "retention", .topic_opts = {.retention_ns = BESIDE_DAY_NS, .retention_bytes = 1u << 30}};

	beside_use(&b);
}

static inline void beside_compaction(struct path *p)
{
	struct beside b = {.path = p, .topic = "table", .topic_opts = {.flags = THMQ_TOPIC_COMPACT}, .message_opts = {.key = "k", .key_len = 1}};

	beside_use(&b);
}

static inline void beside_limits(struct path *p)
{
	static const struct thmq_limits limits = {.size = sizeof(limits), .produce_bytes = 1000000000, .consume_bytes = 1000000000};
	struct beside b = {.path = p, .topic = "limits", .topic_opts = {.limits = &limits}};

	beside_use(&b);
}

static inline void beside_transaction(struct path *p)
{
	struct thmq_txn *txn;
	struct beside b = {.path = p, .topic = "transaction"};

	must("begin", thmq_txn_begin(p->session, NULL, &txn));
	b.message_opts.txn = txn;
	beside_use(&b);
}

static inline void beside_requests(struct path *p)
{
	struct beside b = {.path = p, .topic = "asked"};
	struct thmq_response r;
	struct thmq_message m;
	int64_t rc;

	beside_use(&b);
	must("request", thmq_request(b.producer, path_payload, PATH_LEN, NULL, BESIDE_DAY_NS, NULL));
	for (;;) { /* behind what was sent before, which nobody asks about */
		must("poll", thmq_poll(p->env, 0));
		if (!must("fetch", thmq_fetch(b.consumer, &m, 1)))
			continue;
		rc = thmq_reply(p->session, &m, path_payload, PATH_LEN, NULL);
		must("release", thmq_release(b.consumer, &m, 1));
		if (rc != -ENOENT)
			break;
	}
	must("reply", rc);
	while (!must("responses", thmq_responses(p->session, &r, 1)))
		must("poll", thmq_poll(p->env, 0));
	must("release", thmq_response_release(p->session, &r, 1));
}

static inline void beside_all(struct path *p);

static const struct {
	const char *name;
	void (*use)(struct path *p);
} features[] = {
	{"headers", beside_headers},
	{"tags", beside_tags},
	{"filter", beside_filter},
	{"group", beside_group},
	{"shared", beside_shared},
	{"dead-letters", beside_dead_letters},
	{"delayed", beside_delayed},
	{"priorities", beside_priorities},
	{"ttl", beside_ttl},
	{"retention", beside_retention},
	{"compaction", beside_compaction},
	{"limits", beside_limits},
	{"requests", beside_requests},
	{"transaction", beside_transaction},
	{"all", beside_all}, /* of these; the last one */
};

#define FEATURES (sizeof(features) / sizeof(features[0]))

static inline void beside_all(struct path *p)
{
	for (size_t i = 0; i + 1 < FEATURES; i++)
		features[i].use(p);
}

#endif
