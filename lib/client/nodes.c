/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nodes.c - where a session's broker may be: one of several that have copies of the same data. The URLs of the application are the first
 * that are known; each of the brokers tells all of them, and which one leads. Not on any message's path.
 */
#include "internal.h"

static int put(struct thmq_session *s, const char *url, size_t len)
{
	if (!len || len >= sizeof(s->nodes->url) || s->node_count == THMQI_NODES_MAX)
		return thmqi_fail(
			-EINVAL,
			"connect to %.64s: a URL is empty, or too long, or there are more than %u",
			url, THMQI_NODES_MAX);
	memcpy(s->nodes[s->node_count].url, url, len);
	s->nodes[s->node_count++].url[len] = 0;
	return 0;
}

static int use(struct thmq_session *s, uint32_t at)
{
	char *url = strdup(s->nodes[at].url);

	if (!url)
		return -ENOMEM;
	free(s->url);
	s->url = url;
	s->node_at = at;
	return 0;
}

int thmqi_nodes_init(struct thmq_session *s, const char *urls)
{
	const char *end = strchrnul(urls, ',');
	int rc = 0;

	s->nodes = calloc(THMQI_NODES_MAX, sizeof(*s->nodes));
	s->given = strdup(urls);
	if (!s->nodes || !s->given)
		return thmqi_fail(-ENOMEM, "no memory for a session");
	if (!*end) { /* whatever it is, its medium says what is wrong with it */
		s->url = strdup(urls);
		return s->url ? 0 : thmqi_fail(-ENOMEM, "no memory for a session");
	}
	for (; !rc; urls = end + 1) {
		end = strchrnul(urls, ',');
		rc = put(s, urls, (size_t)(end - urls));
		if (!*end)
			break;
	}
	return rc ? rc : use(s, 0);
}

/* Those that the application began with, where they are not among the others: these may all be gone when they are needed. */
static void put_given(struct thmq_session *s)
{
	const char *url, *end;
	size_t len;
	uint32_t i;

	for (url = s->given; s->node_count < THMQI_NODES_MAX; url = end + 1) {
		end = strchrnul(url, ',');
		len = (size_t)(end - url);
		for (i = 0; i < s->node_count && (strncmp(s->nodes[i].url, url, len) != 0 || s->nodes[i].url[len]); i++)
			;
		if (i == s->node_count && len && len < sizeof(s->nodes->url)) {
			s->nodes[i].id = 0;
			put(s, url, len);
		}
		if (!*end)
			break;
	}
}

/* What one of them says counts, and then what the application began with. */
void thmqi_nodes_learn(struct thmq_session *s, const struct thmqi_reply *reply)
{
	uint32_t i, count = THMQI_MIN(reply->count, THMQI_NODES_MAX);

	if (!count)
		return;
	memcpy(s->nodes, reply->nodes, count * sizeof(s->nodes[0]));
	for (i = 0; i < count; i++)
		s->nodes[i].url[sizeof(s->nodes[i].url) - 1] = 0;
	s->node_count = count;
	s->learned = true;
	put_given(s);
	count = s->node_count;
	s->node_at = THMQI_MIN(s->node_at, count - 1);
	for (i = 0; i < count; i++)
		if (strcmp(s->nodes[i].url, s->url) == 0)
			s->node_at = i;
	s->leader = reply->value[0];
}

bool thmqi_nodes_may_go(const struct thmq_session *s, int error)
{
	return s->node_count > 1 || (s->node_count && (error == -THMQ_ENOTLEADER || error == -THMQ_ENOQUORUM));
}

bool thmqi_nodes_go(struct thmq_session *s, int error)
{
	uint64_t leader = s->leader;
	uint32_t i, step = 1;

	s->leader = 0; /* it is believed once */
	for (i = 0; i < s->node_count && leader && error == -THMQ_ENOTLEADER; i++)
		if (s->nodes[i].id == leader && strcmp(s->nodes[i].url, s->url) != 0)
			return use(s, i) == 0;
	/* each tells them in an order of its own: the next one in turns could be the same few for ever */
	if (s->learned && s->node_count > 1)
		step += (uint32_t)(thmqi_prng_next(&s->prng) % (s->node_count - 1));
	if (s->node_count)
		use(s, (s->node_at + step) % s->node_count);
	return false;
}
