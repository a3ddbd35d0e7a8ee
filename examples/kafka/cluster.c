/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster.c - several of these brokers that keep the same data, which the library sees to: who of them leads, and what becomes here of
 * that. Only the one that leads serves; the others tell clients where it is. Who loses the lead closes all its connections and forgets what
 * it knew: its clients find the new one, and send again what they got no answer for. Knows no request.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

#define RETRY_NS (200 * MILLISECOND)
#define CONTROL_TIMEOUT_NS (2 * SECOND) /* nobody is served meanwhile */

int cluster_read(struct options *o, const char *peers)
{
	const char *at = peers;

	while (*at) {
		struct peer *p = &o->peers[o->peer_count];
		const char *end = at + strcspn(at, ","), *equals, *colon;
		size_t len;

		equals = memchr(at, '=', (size_t)(end - at));
		for (colon = end; colon > at && *colon != ':';)
			colon--;
		if (!equals || colon <= equals + 1 || o->peer_count == PEERS_MAX)
			return -EINVAL;
		p->id = atoi(at);
		p->port = atoi(colon + 1);
		at = equals + 1;
		if (*at == '[' && colon[-1] == ']') {
			at++;
			colon--;
		}
		len = (size_t)(colon - at);
		if (p->id < 1 || p->port < 1 || !len || len >= sizeof(p->host))
			return -EINVAL;
		memcpy(p->host, at, len);
		o->peer_count++;
		at = *end ? end + 1 : end;
	}
	return o->peer_count ? 0 : -EINVAL;
}

bool cluster_serves(const struct server *s)
{
	return !s->o.cluster || s->leading;
}

const struct peer *cluster_leader(const struct server *s)
{
	uint32_t i;

	for (i = 0; i < s->o.peer_count; i++)
		if ((uint64_t)s->o.peers[i].id == s->leader_id)
			return &s->o.peers[i];
	return NULL;
}

/* -------------------------------------------------------------- to and fro */

static void retire(struct server *s)
{
	s->leading = s->retire = false;
	while (s->conns)
		conn_close(s->conns);
	group_close_all(s);
	store_forget(s); /* whoever waits for something in it hears of that */
	transactions_unload(s);
	offsets_unload(s);
}

static void lead(struct server *s)
{
	int rc;

	s->leading = true;
	rc = store_lanes(s);
	rc = rc ? rc : offsets_load(s);
	if (!rc)
		return;
	fprintf(stderr, "kafka: leads, and cannot serve yet: %s\n", thmq_strerror(rc));
	retire(s);
	s->retry_ns = clock_ns() + RETRY_NS;
}

/* A session with the one that leads, for what is asked about topics. */
static void ask_leader(struct server *s, uint64_t id)
{
	if (s->control && (s->control_id != id || s->control_lost)) {
		thmq_session_close(s->control, 0);
		s->control = NULL;
	}
	if (s->control || !id || clock_ns() < s->control_retry_ns)
		return;
	s->control_lost = false;
	if (thmq_connect(s->env, "inproc://kafka", THMQ_SESSION_OPTS(.timeout_ns = CONTROL_TIMEOUT_NS, .reconnect_ns = 1), &s->control)) {
		s->control = NULL;
		s->control_retry_ns = clock_ns() + RETRY_NS;
	}
	s->control_id = id;
}

void cluster_tick(struct server *s)
{
	struct thmq_event e;
	uint64_t id = 0;
	bool is;

	if (!s->o.cluster)
		return;
	is = thmq_broker_leader(s->broker, &id) == 1;
	s->leader_id = id;
	while (s->control && thmq_events(s->control, &e, 1) == 1)
		s->control_lost |= e.type == THMQ_EVENT_CLOSED;
	if (s->leading && (!is || s->retire))
		retire(s);
	ask_leader(s, id);
	if (!s->leading && is && s->control && clock_ns() >= s->retry_ns)
		lead(s);
}
