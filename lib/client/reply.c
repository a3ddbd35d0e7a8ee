/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reply.c - who answers: a producer to the topic of each asker that was answered lately. Whether an answer arrives the asker alone
 * learns, so that these producers tell the app nothing.
 */
#include <stdio.h>

#include "wire/attributes.h"

#include "asking.h"
#include "internal.h"

#define ASKERS_MAX 64u
#define CLOSE_NS 100000000u /* an asker that was not heard of for long: what it was told last had time to go */

struct asker {
	struct thmq_producer *producer; /* NULL: free */
	uint64_t used;
	char topic[THMQ_TOPIC_NAME_MAX + 1];
};

struct answering {
	uint64_t uses;
	struct asker askers[ASKERS_MAX];
};

struct address {
	int64_t id;
	char topic[THMQ_TOPIC_NAME_MAX + 1];
};

/* It comes from a peer: a name as good as none is none. */
static bool is_name(const char *name)
{
	const char *p;

	for (p = name; *p; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || *p == '.' || *p == '_' || *p == '-'))
			return false;
	return p != name;
}

static bool address_of(const struct thmq_message *m, struct address *ret)
{
	struct thmq_header h;
	uint32_t cursor = 0;

	*ret = (struct address){0};
	while (m->headers && thmqi_header_next(m->headers, m->headers_len, &cursor, &h) == 1) {
		if (strcmp(h.name, THMQ_REPLY_TOPIC) == 0 && h.type == THMQ_HEADER_TEXT && h.value_len <= THMQ_TOPIC_NAME_MAX && !ret->topic[0])
			memcpy(ret->topic, h.value, h.value_len);
		else if (strcmp(h.name, THMQ_REPLY_ID) == 0 && h.type == THMQ_HEADER_INT && h.value_len == sizeof(ret->id) && !ret->id)
			memcpy(&ret->id, h.value, sizeof(ret->id));
	}
	return ret->id > 0 && is_name(ret->topic);
}

static void drop(struct asker *a, uint64_t timeout_ns)
{
	if (a->producer)
		thmqi_client_producer_close(a->producer, timeout_ns);
	a->producer = NULL;
	a->topic[0] = 0;
	a->used = 0;
}

static int find(struct thmq_session *s, const char *topic, struct asker **ret)
{
	const struct thmq_producer_opts o = {.size = sizeof(o), .durability = THMQ_DURABILITY_MEMORY};
	struct answering *all = s->answering;
	struct asker *oldest;
	uint32_t i;
	int rc;

	for (i = 0, oldest = all->askers; i < ASKERS_MAX; i++) {
		if (all->askers[i].producer && strcmp(all->askers[i].topic, topic) == 0) {
			*ret = &all->askers[i];
			return 0;
		}
		if (all->askers[i].used < oldest->used)
			oldest = &all->askers[i];
	}
	drop(oldest, CLOSE_NS);
	rc = thmqi_client_producer_open(s, topic, &o, &oldest->producer);
	if (rc)
		return rc;
	oldest->producer->hidden = true;
	snprintf(oldest->topic, sizeof(oldest->topic), "%s", topic);
	*ret = oldest;
	return 0;
}

int64_t thmqi_client_reply(struct thmq_session *s, const struct thmq_message *request, const void *data, uint32_t len,
			   const struct thmq_message_opts *opts)
{
	struct thmq_header h[ASKING_HEADERS_MAX + 1];
	struct thmq_message_opts o = {.size = sizeof(o)};
	struct address to;
	struct asker *a;
	int64_t rc;

	if (!address_of(request, &to))
		return -ENOENT;
	if (opts)
		o = *opts;
	if (o.flags & (THMQ_MESSAGE_PARTITION | THMQ_MESSAGE_EXPECT_END | THMQ_MESSAGE_EXPECT_KEY))
		return -EINVAL;
	if (o.header_count > ASKING_HEADERS_MAX)
		return -E2BIG;
	if (!s->answering)
		s->answering = calloc(1, sizeof(*s->answering));
	if (!s->answering)
		return -ENOMEM;
	rc = find(s, to.topic, &a);
	if (rc)
		return rc;
	h[0] = (struct thmq_header){.name = THMQ_REPLY_ID, .value = &to.id, .value_len = sizeof(to.id), .type = THMQ_HEADER_INT};
	if (o.header_count)
		memcpy(h + 1, o.headers, o.header_count * sizeof(*h));
	o.headers = h;
	o.header_count++;
	a->used = ++s->answering->uses;
	rc = thmqi_client_send(a->producer, data, len, &o);
	if (rc == -THMQ_ENOTOPIC)
		drop(a, 0);
	return rc;
}

void thmqi_answering_close(struct thmq_session *s, uint64_t deadline)
{
	uint64_t now = thmqi_session_now(s);
	uint32_t i;

	if (!s->answering)
		return;
	for (i = 0; i < ASKERS_MAX; i++, now = thmqi_session_now(s))
		drop(&s->answering->askers[i], deadline > now ? deadline - now : 0);
	free(s->answering);
	s->answering = NULL;
}
