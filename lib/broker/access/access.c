/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.c - what a connection may do: asked of the rules and of the host when it comes and when it opens something, and remembered for the
 * frames that name only a partition. Control path, but for one look at what is remembered. Knows not how rules are written.
 */
#include <stdio.h>

#include "../internal.h"

/* ------------------------------------------------------------------ lifetime */

int thmqi_guard_open(struct thmq_broker *b)
{
	struct guard *g = &b->guard;
	struct rules *rules = NULL;
	int rc = 0;

	g->ask = b->opts.access;
	g->audit = b->opts.audit;
	g->ctx = b->opts.access_ctx;
	if (b->opts.access_file) {
		g->file = strdup(b->opts.access_file);
		rc = g->file ? thmqi_rules_read(g->file, &rules) : thmqi_fail(-ENOMEM, "no memory for a broker");
	}
	b->opts.access_file = NULL; /* the caller's */
	if (b->opts.client_limits)
		g->limits = *b->opts.client_limits;
	g->limits.size = sizeof(g->limits);
	b->opts.client_limits = NULL;
	atomic_store(&g->rules, rules);
	g->on = rules || g->ask || g->limits.outstanding || thmqi_limits_any(&g->limits);
	return rc;
}

static void retired_free(struct guard *g)
{
	struct thmqi_list *it, *tmp;

	thmqi_list_each_safe(it, tmp, &g->retired)
		thmqi_rules_free(thmqi_rules_of(it));
}

/* Those that have gone, and were kept for what they owe. */
static void clients_free(struct guard *g)
{
	struct thmqi_list *it, *tmp;

	thmqi_list_each_safe(it, tmp, &g->clients)
		free(thmqi_container(it, struct client, link));
}

void thmqi_guard_close(struct thmq_broker *b)
{
	struct guard *g = &b->guard;

	retired_free(g);
	clients_free(g);
	thmqi_rules_free(atomic_load(&g->rules));
	free(g->file);
	pthread_mutex_destroy(&g->lock);
}

int thmqi_guard_renew(struct thmq_broker *b)
{
	struct guard *g = &b->guard;
	struct rules *rules, *before;
	int rc;

	if (!g->file)
		return thmqi_fail(-ENOENT, "this broker was opened without a file of rules");
	rc = thmqi_rules_read(g->file, &rules);
	if (rc)
		return rc;
	before = atomic_exchange(&g->rules, rules);
	pthread_mutex_lock(&g->lock); /* they go with the broker: a core may be looking at them */
	thmqi_list_add_tail(&g->retired, thmqi_rules_link(before));
	pthread_mutex_unlock(&g->lock);
	return 0;
}

/* -------------------------------------------------------------------- asking */

static int decide(struct guard *g, struct thmq_access *what)
{
	const struct rules *rules = atomic_load_explicit(&g->rules, memory_order_acquire);

	if (rules && !thmqi_rules_allow(rules, what->identity, what->operation, what->topic))
		return -EACCES;
	if (rules && what->limits)
		thmqi_rules_limits(rules, what->identity, what->limits);
	return g->ask && g->ask(g->ctx, what) < 0 ? -EACCES : 0;
}

static void tell(struct guard *g, struct thmq_access *what, int error)
{
	atomic_fetch_add_explicit(&g->denied, 1, memory_order_relaxed);
	what->error = error;
	if (g->audit)
		g->audit(g->ctx, what);
}

static int ask(struct conn *c, uint32_t operation, const char *topic, bool quiet)
{
	struct thmq_access what = {.size = sizeof(what),
				   .operation = operation,
				   .identity = c->client ? c->client->identity : "",
				   .topic = topic};
	struct guard *g = &c->shard->broker->guard;
	int rc;

	if (!g->on)
		return 0;
	rc = c->client ? decide(g, &what) : -EACCES;
	if (rc && !quiet)
		tell(g, &what, rc);
	return rc;
}

int thmqi_guard_ask(struct conn *c, uint32_t operation, const char *topic)
{
	return ask(c, operation, topic, false);
}

bool thmqi_guard_allows(struct conn *c, uint32_t operation, const char *topic)
{
	return ask(c, operation, topic, true) == 0;
}

int thmqi_guard_ask_partition(struct conn *c, uint32_t operation, const struct partition *p)
{
	const struct topic_here *t = c->shard->topics.at[p->topic];
	struct grant *grant = &c->grants[t->id % GRANTS];
	uint8_t bit = (uint8_t)(1u << operation);

	if (!t->id) /* nobody knows what it is */
		return -EACCES;
	if (grant->topic_id != t->id)
		*grant = (struct grant){.topic_id = t->id};
	if (!(grant->asked & bit)) {
		grant->asked |= bit;
		if (thmqi_guard_ask(c, operation, t->name) == 0)
			grant->allowed |= bit;
	}
	return grant->allowed & bit ? 0 : -EACCES;
}

/* ------------------------------------------------------------------- waiting */

#define TELL_NS 100000000u   /* a client is told so often at most, … */
#define AUDIT_NS 1000000000u /* … and whoever audits, of each connection */

static bool is_due(uint64_t *last_ns, uint64_t now, uint64_t every)
{
	if (*last_ns && now - *last_ns < every)
		return false;
	*last_ns = now;
	return true;
}

void thmqi_guard_waits(struct conn *c, const struct partition *p, uint32_t stream, bool out)
{
	const struct topic_here *t = c->shard->topics.at[p->topic];
	struct guard *g = &c->shard->broker->guard;
	uint64_t now = c->shard->core->now_ns, wait = thmqi_rates_wait(t->rates, c->limited ? &c->client->rates : NULL, out, now);
	struct thmqi_frame f = {.type = THMQI_FRAME_LIMITED,
				.stream = stream,
				.partition = p->id,
				.extra = out ? 0 : THMQI_OF_PRODUCER,
				.arg = {THMQI_MAX(wait, 1u), 0}}; /* another core may have altered the limit just now */
	struct thmq_access what = {.size = sizeof(what),
				   .operation = out ? THMQ_OPERATION_CONSUME : THMQ_OPERATION_PRODUCE,
				   .identity = c->wire->peer,
				   .topic = t->name,
				   .error = -EAGAIN};

	if (g->audit && is_due(&c->audited_ns[out], now, AUDIT_NS))
		g->audit(g->ctx, &what);
	if (is_due(&c->told_ns[out], now, TELL_NS)) {
		thmqi_conn_send(c, &f);
		thmqi_conn_kick(c);
	}
}

/* --------------------------------------------------------------- coming, going */

/* It is gone, and what it took beyond its limits is paid for: one that comes again pays for the rest. */
static bool is_settled(const struct client *k, uint64_t now)
{
	return !k->refs && !thmqi_rates_wait(NULL, &k->rates, false, now) && !thmqi_rates_wait(NULL, &k->rates, true, now);
}

/* Under the lock. */
static void drop_settled(struct guard *g, uint64_t now)
{
	struct thmqi_list *it, *tmp;

	thmqi_list_each_safe(it, tmp, &g->clients)
	{
		struct client *k = thmqi_container(it, struct client, link);

		if (!is_settled(k, now))
			continue;
		thmqi_list_del(&k->link);
		free(k);
	}
}

/* Under the lock. */
static struct client *client_of(struct guard *g, const char *identity)
{
	struct thmqi_list *it;
	struct client *k;

	thmqi_list_each(it, &g->clients)
	{
		k = thmqi_container(it, struct client, link);
		if (strcmp(k->identity, identity) == 0)
			return k;
	}
	k = calloc(1, sizeof(*k));
	if (!k)
		return NULL;
	snprintf(k->identity, sizeof(k->identity), "%s", identity);
	thmqi_list_add_tail(&g->clients, &k->link);
	return k;
}

int thmqi_guard_enter(struct conn *c)
{
	struct guard *g = &c->shard->broker->guard;
	struct thmq_limits limits = g->limits;
	struct thmq_access what = {.size = sizeof(what),
				   .operation = THMQ_OPERATION_CONNECT,
				   .identity = c->wire->peer,
				   .limits = &limits};
	struct client *k;
	int rc;

	if (!g->on)
		return 0;
	rc = decide(g, &what);
	if (rc) {
		tell(g, &what, rc);
		return rc;
	}
	pthread_mutex_lock(&g->lock);
	drop_settled(g, c->shard->core->now_ns);
	k = client_of(g, c->wire->peer);
	if (k) {
		k->refs++;
		thmqi_rates_set(&k->rates, &limits);
	}
	pthread_mutex_unlock(&g->lock);
	if (!k)
		return -ENOMEM;
	c->client = k;
	c->guarded = true;
	c->limited = thmqi_limits_any(&limits);
	c->outstanding = limits.outstanding;
	return 0;
}

void thmqi_guard_leave(struct conn *c)
{
	struct client *k = c->client;
	struct guard *g;

	if (!k)
		return;
	g = &c->shard->broker->guard;
	pthread_mutex_lock(&g->lock);
	k->refs--;
	drop_settled(g, c->shard->core->now_ns);
	pthread_mutex_unlock(&g->lock);
	c->client = NULL;
	c->limited = false;
}
