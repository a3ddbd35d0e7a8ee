/* SPDX-License-Identifier: Apache-2.0 */
/*
 * courier.c - a carrier's life: who listens, which nodes there are and when they are called, which groups are here, what its pollers and its timer do. Knows not
 * how a connection works (carry_conn.c), nor what a message says.
 */
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "carry.h"

/* --------------------------------------------------------------------- nodes */

struct carry_peer *thmqi_carry_peer(struct thmqi_courier *c, uint64_t id, bool make)
{
	struct carry_peer *p, *room = NULL;

	for (p = c->peers; p < c->peers + CARRY_PEERS; p++) {
		if (p->id == id)
			return p;
		/* one that has only called, and went away, gives its place to others */
		if (!p->conn && !p->dial && !p->member && !p->placed && (!room || room->id))
			room = p;
	}
	if (!make || !room)
		return NULL;
	memset(room, 0, sizeof(*room));
	room->id = id;
	return room;
}

/* The groups that were refused room may try again. */
void thmqi_carry_writable(struct thmqi_courier *c, struct carry_peer *p)
{
	struct thmqi_carried *g;
	uint32_t i = 0;

	p->blocked = false;
	while ((g = thmqi_map_next(&c->groups, &i)))
		thmqi_group_writable(g->group, p->id);
}

static void unplace(struct carry_peer *p)
{
	p->url[0] = 0;
	p->address_count = 0;
	p->placed = p->member = false;
	thmqi_tls_config_unref(p->tls_config);
	p->tls_config = NULL;
}

static int place(struct thmqi_courier *c, struct carry_peer *p, const char *url)
{
	struct thmqi_address addresses[CARRY_ADDRESSES];
	struct thmqi_tls_config *config = NULL;
	char host[THMQI_ADDRESS_MAX];
	uint32_t count = 0;
	int rc;

	if (strlen(url) >= sizeof(p->url))
		return thmqi_fail(-EINVAL, "%.64s…: the URL is too long", url);
	if (p->address_count && strcmp(p->url, url) == 0)
		return 0;
	rc = thmqi_address_resolve(url, false, addresses, CARRY_ADDRESSES, &count);
	if (rc == -EHOSTUNREACH) { /* perhaps it can be looked up later */
		strcpy(p->url, url);
		p->address_count = 0;
		p->dial_ns = c->core->now_ns + CARRY_LOOK_UP_NS;
		thmqi_carry_tick_at(c, p->dial_ns);
	}
	if (!rc && c->secure) {
		thmqi_address_host(url, host, sizeof(host));
		rc = thmqi_tls_config_open(&c->tls_opts, host, &config);
	}
	if (rc)
		return rc;
	thmqi_tls_config_unref(p->tls_config);
	p->tls_config = config;
	strcpy(p->url, url);
	memcpy(p->addresses, addresses, sizeof(addresses));
	p->address_count = count;
	p->address_next = p->failures = 0;
	p->dial_ns = c->core->now_ns + (p->id < c->id ? CARRY_DEFER_NS : 0);
	thmqi_carry_tick_at(c, p->dial_ns);
	return 0;
}

int thmqi_courier_place(struct thmqi_courier *c, uint64_t id, const char *url)
{
	struct carry_peer *p;
	int rc;

	if (!id || id == c->id)
		return thmqi_fail(-EINVAL, "a carrier: node %llu is none that could be called",
				  (unsigned long long)id);
	p = thmqi_carry_peer(c, id, url != NULL);
	if (!p)
		return url ? thmqi_fail(-EUSERS, "a carrier knows %u other nodes at most",
					CARRY_PEERS)
			   : 0;
	if (!url) {
		p->placed = false;
		thmqi_courier_members(c);
		return 0;
	}
	rc = place(c, p, url);
	if (!rc)
		p->placed = true;
	return rc;
}

static int place_member(struct thmqi_courier *c, struct carry_peer *p, const char *address)
{
	char url[THMQI_ADDRESS_MAX];

	if (!c->address_of)
		return place(c, p, address);
	if (c->address_of(address, url, sizeof(url)) != 0)
		return -EINVAL;
	return place(c, p, url);
}

static void learn(struct thmqi_courier *c, const struct thmqi_members *members)
{
	struct carry_peer *p;
	uint32_t i;
	int rc;

	for (i = 0; i < members->count; i++) {
		if (members->list[i].id == c->id)
			continue;
		p = thmqi_carry_peer(c, members->list[i].id, true);
		if (!p)
			continue;
		p->member = true;
		rc = p->placed ? 0 : place_member(c, p, members->list[i].address);
		if (rc) /* it may still call us */
			p->told.error = rc;
	}
}

void thmqi_courier_members(struct thmqi_courier *c)
{
	struct thmqi_carried *g;
	struct carry_peer *p;
	uint32_t i = 0;

	for (p = c->peers; p < c->peers + CARRY_PEERS; p++)
		p->member = false;
	while ((g = thmqi_map_next(&c->groups, &i)))
		learn(c, thmqi_group_members(g->group));
	for (p = c->peers; p < c->peers + CARRY_PEERS; p++) {
		if (!p->id || p->member || p->placed)
			continue;
		/* none of ours any more; what it is still told goes by the connection that there is */
		unplace(p);
		if (p->dial)
			thmqi_carry_end(p->dial, -ESHUTDOWN);
	}
}

void thmqi_courier_say(struct thmqi_courier *c, int trouble)
{
	if (c->trouble != trouble)
		thmqi_carry_tick_at(c, c->core->now_ns);
	c->trouble = trouble;
}

bool thmqi_courier_peer(const struct thmqi_courier *c, uint32_t index,
			struct thmqi_courier_peer *ret)
{
	const struct carry_peer *p;

	for (p = c->peers; p < c->peers + CARRY_PEERS; p++) {
		if (!p->id || index--)
			continue;
		*ret = p->told;
		ret->id = p->id;
		memcpy(ret->url, p->url, sizeof(ret->url));
		return true;
	}
	return false;
}

/* -------------------------------------------------------------------- groups */

int thmqi_carried_send(void *carried, const struct thmqi_message *message, struct thmqi_buf *buf)
{
	struct thmqi_courier *c = ((struct thmqi_carried *)carried)->carrier;
	struct carry_peer *p = c ? thmqi_carry_peer(c, message->to, false) : NULL;
	int rc;

	if (!p || !p->conn)
		return -ENOTCONN; /* lost: consensus finds out */
	rc = thmqi_carry_put(p->conn, message, buf);
	if (rc)
		p->blocked = true;
	return rc;
}

int thmqi_courier_join(struct thmqi_courier *c, struct thmqi_carried *carried,
		       struct thmqi_group *group, uint64_t number)
{
	int rc;

	if (thmqi_map_get(&c->groups, number))
		return thmqi_fail(-EEXIST, "a carrier has a group %llu already",
				  (unsigned long long)number);
	rc = thmqi_map_put(&c->groups, number, carried);
	if (rc)
		return thmqi_fail(rc, "no memory for one more group");
	carried->carrier = c;
	carried->group = group;
	carried->number = number;
	/* behind the group's own, so that what it sends at the end of an iteration goes in the same one */
	thmqi_core_remove_poller(c->core, &c->out);
	thmqi_core_add_poller(c->core, &c->out);
	thmqi_courier_members(c);
	return 0;
}

void thmqi_courier_leave(struct thmqi_carried *carried)
{
	struct thmqi_courier *c = carried->carrier;

	if (!c)
		return;
	carried->carrier = NULL;
	thmqi_map_remove(&c->groups, carried->number);
	thmqi_courier_members(c);
}

/* --------------------------------------------------------------------- time */

static void on_timer(struct thmqi_timer *t)
{
	thmqi_container(t, struct thmqi_courier, timer)->ticked = true;
}

void thmqi_carry_tick_at(struct thmqi_courier *c, uint64_t ns)
{
	if (c->closing)
		return;
	if (!thmqi_timer_is_running(&c->timer) || c->timer.deadline_ns > ns)
		thmqi_timer_start(c->core, &c->timer, ns);
}

/* One that was not reached for long may have got another address. */
static void call(struct thmqi_courier *c, struct carry_peer *p)
{
	char url[THMQI_ADDRESS_MAX];

	if (p->failures && p->failures % CARRY_LOOK_UP_CALLS == 0) {
		p->failures++;
		p->address_count = 0;
	}
	memcpy(url, p->url, sizeof(url));
	if (!p->address_count && place(c, p, url) != 0)
		p->dial_ns = c->core->now_ns + CARRY_LOOK_UP_NS;
	else
		thmqi_carry_call(c, p);
}

static uint64_t look_at_peers(struct thmqi_courier *c)
{
	uint64_t next = UINT64_MAX;
	struct carry_peer *p;

	for (p = c->peers; p < c->peers + CARRY_PEERS; p++) {
		if (!p->id || !p->url[0] || p->conn || p->dial)
			continue;
		if (p->dial_ns <= c->core->now_ns)
			call(c, p);
		if (!p->dial)
			next = THMQI_MIN(next, p->dial_ns);
	}
	return next;
}

/* Whoever was not looked at for long because this thread was elsewhere is not taken for dead. */
static void excuse(struct thmqi_courier *c)
{
	uint64_t now = c->core->now_ns, away = now - c->ticked_ns;
	struct thmqi_list *it;

	c->ticked_ns = now;
	if (away <= c->silence_ns / 2)
		return;
	thmqi_list_each(it, &c->conns)
	{
		struct carry_conn *n = thmqi_container(it, struct carry_conn, link);

		n->heard_ns = n->moved_ns = now;
	}
}

static void tick(struct thmqi_courier *c)
{
	struct thmqi_list *it;
	uint64_t next;

	excuse(c);
	c->ticked = false;
	c->knocked = c->fd >= 0;
	thmqi_list_each(it, &c->conns)
		thmqi_carry_look(thmqi_container(it, struct carry_conn, link));
	next = look_at_peers(c);
	thmqi_list_each(it, &c->conns) next =
		THMQI_MIN(next, thmqi_carry_next(thmqi_container(it, struct carry_conn, link)));
	if (next != UINT64_MAX)
		thmqi_carry_tick_at(c, THMQI_MAX(next, c->core->now_ns + 100000u));
}

/* ------------------------------------------------------------------- pollers */

static int in_poll(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_courier *c = thmqi_container(poller, struct thmqi_courier, in);
	struct thmqi_list *it, *next;
	int done = 0;

	(void)budget;
	if (thmqi_unlikely(c->knocked))
		thmqi_carry_accept(c);
	thmqi_list_each_safe(it, next, &c->conns) done +=
		thmqi_carry_poll(thmqi_container(it, struct carry_conn, link));
	/* behind what has come: it may be the sign of life that was waited for */
	if (thmqi_unlikely(c->ticked))
		tick(c);
	return done;
}

static bool in_arm(struct thmqi_poller *poller)
{
	struct thmqi_courier *c = thmqi_container(poller, struct thmqi_courier, in);
	struct thmqi_list *it;

	if (c->ticked || c->knocked)
		return true;
	thmqi_list_each(it, &c->conns)
	{
		const struct carry_conn *n = thmqi_container(it, struct carry_conn, link);

		if (thmqi_carry_is_ready(n))
			return true;
		if (n->stall_ns)
			thmqi_carry_tick_at(c, c->core->now_ns + 1000000u);
	}
	return false;
}

static int out_poll(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_courier *c = thmqi_container(poller, struct thmqi_courier, out);
	struct thmqi_list *it;
	int done = 0;

	(void)budget;
	thmqi_list_each(it, &c->conns) done +=
		thmqi_carry_out_wanted(thmqi_container(it, struct carry_conn, link));
	return done;
}

/* Freed ones wait for in_poll(): none goes away in here. */
static void out_finish(struct thmqi_poller *poller)
{
	struct thmqi_courier *c = thmqi_container(poller, struct thmqi_courier, out);
	struct thmqi_list *it;

	thmqi_list_each(it, &c->conns)
		thmqi_carry_out(thmqi_container(it, struct carry_conn, link));
}

static void on_end(struct thmqi_poller *poller)
{
	thmqi_courier_close(thmqi_container(poller, struct thmqi_courier, in));
}

static void on_end_out(struct thmqi_poller *poller)
{
	thmqi_courier_close(thmqi_container(poller, struct thmqi_courier, out));
}

static void on_knock(void *ctx, uint32_t events)
{
	(void)events;
	((struct thmqi_courier *)ctx)->knocked = true;
}

/* ---------------------------------------------------------------------- open */

/* They are read again for each node that becomes known. */
static int keep_tls(struct thmqi_courier *c, const struct thmq_tls_opts *opts)
{
	const char **strings[] = {&c->tls_opts.ca_file,      &c->tls_opts.cert_file,
				  &c->tls_opts.key_file,     &c->tls_opts.key_password,
				  &c->tls_opts.crl_file,     &c->tls_opts.peer_name,
				  &c->tls_opts.psk_identity, &c->tls_opts.psk_key,
				  &c->tls_opts.psk_file,     &c->tls_opts.cipher_suites};
	struct thmqi_tls_config *config;
	uint32_t i;
	int rc;

	rc = thmqi_opts_copy(&c->tls_opts, sizeof(c->tls_opts), opts);
	if (rc)
		return thmqi_fail(rc, "tls: options: %s", thmqi_opts_why(rc));
	c->tls_opts.size = sizeof(c->tls_opts);
	for (i = 0; i < THMQI_ARRAY_COUNT(strings); i++) {
		if (!*strings[i])
			continue;
		c->tls_strings[i] = strdup(*strings[i]);
		*strings[i] = c->tls_strings[i];
		if (!c->tls_strings[i])
			return thmqi_fail(-ENOMEM, "no memory for a carrier");
	}
	if (c->tls_opts.flags & THMQ_TLS_ANY_CLIENT)
		return thmqi_fail(-EINVAL,
				  "a carrier asks everybody who he is: no THMQ_TLS_ANY_CLIENT");
	c->secure = true;
	/* both sides, so that what is wrong is told now */
	rc = thmqi_tls_config_open(&c->tls_opts, "localhost", &config);
	if (rc)
		return rc;
	thmqi_tls_config_unref(config);
	return thmqi_tls_config_open(&c->tls_opts, NULL, &c->tls_config);
}

static int start_listening(struct thmqi_courier *c, const char *listen)
{
	int rc;

	c->fd = thmqi_address_listen(listen, c->url, sizeof(c->url));
	if (c->fd < 0)
		return c->fd;
	rc = thmqi_watch_open(c->core, c->fd, EPOLLIN, on_knock, c, &c->watch);
	return rc ? thmqi_fail(rc, "listen on %s: %s", listen, thmq_strerror(rc)) : 0;
}

static int set_up(struct thmqi_courier *c, const struct thmqi_courier_opts *opts)
{
	uint32_t silence = opts->silence_ms ? opts->silence_ms : CARRY_SILENCE_MS;
	int rc = 0;

	if (!opts->id)
		return thmqi_fail(-EINVAL, "a carrier needs the number of its node");
	if (opts->cluster && strlen(opts->cluster) > THMQI_CLUSTER_NAME_MAX)
		return thmqi_fail(-EINVAL, "a cluster's name has up to %u characters",
				  THMQI_CLUSTER_NAME_MAX);
	c->id = opts->id;
	c->lane = opts->lane;
	c->address_of = opts->address_of;
	c->mark = opts->mark;
	c->list = opts->list;
	c->meet = opts->meet;
	c->meet_ctx = opts->meet_ctx;
	c->silence_ns = THMQI_MAX(silence, CARRY_SILENCE_MIN_MS) * 1000000ull;
	if (opts->cluster)
		strcpy(c->cluster, opts->cluster);
	c->instance = thmqi_prng_next(&c->core->prng) | 1;
	rc = thmqi_carry_door_open(c, opts->beside);
	if (!rc && opts->tls)
		rc = keep_tls(c, opts->tls);
	if (!rc && opts->listen && strncmp(opts->listen, "tls:", 4) == 0 && !opts->tls)
		rc = thmqi_fail(-EINVAL, "listen on %s: that needs options for TLS", opts->listen);
	if (!rc && opts->listen)
		rc = start_listening(c, opts->listen);
	return rc;
}

static void give_back(struct thmqi_courier *c)
{
	uint32_t i;

	thmqi_carry_door_close(c);
	if (c->watch)
		thmqi_watch_close(c->watch);
	if (c->fd >= 0)
		close(c->fd);
	thmqi_tls_config_unref(c->tls_config);
	for (i = 0; i < CARRY_PEERS; i++)
		thmqi_tls_config_unref(c->peers[i].tls_config);
	for (i = 0; i < THMQI_ARRAY_COUNT(c->tls_strings); i++) {
		if (c->tls_strings[i])
			explicit_bzero(c->tls_strings[i], strlen(c->tls_strings[i]));
		free(c->tls_strings[i]);
	}
	thmqi_map_fini(&c->groups);
	free(c);
}

int thmqi_courier_open(struct thmq_core *core, const struct thmqi_courier_opts *opts,
		       struct thmqi_courier **ret_carrier)
{
	struct thmqi_courier *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return thmqi_fail(-ENOMEM, "no memory for a carrier");
	c->core = core;
	c->fd = -1;
	c->timer.fire = on_timer;
	thmqi_list_init(&c->conns);
	thmqi_map_init(&c->groups);
	rc = set_up(c, opts);
	if (rc) {
		give_back(c);
		return rc;
	}
	c->in = (struct thmqi_poller){
		.poll = in_poll, .arm = in_arm, .end = on_end, .name = "carrier in"};
	c->out = (struct thmqi_poller){
		.poll = out_poll, .finish = out_finish, .end = on_end_out, .name = "carrier out"};
	thmqi_core_add_poller_first(core, &c->in);
	thmqi_core_add_poller(core, &c->out);
	*ret_carrier = c;
	return 0;
}

int thmqi_courier_fits(const struct thmqi_courier *c, const struct thmq_core *core, uint64_t id)
{
	if (c->core != core)
		return thmqi_fail(-EINVAL, "a replica and its carrier are on the same core");
	if (c->id != id)
		return thmqi_fail(-EINVAL, "a replica has the number of its carrier's node, %llu",
				  (unsigned long long)c->id);
	return 0;
}

void thmqi_courier_close(struct thmqi_courier *c)
{
	struct thmqi_carried *g;
	uint32_t i = 0;

	if (!c)
		return;
	c->closing = true;
	thmqi_carry_door_close(c); /* nobody is sent here any more */
	while ((g = thmqi_map_next(&c->groups, &i)))
		g->carrier = NULL;
	thmqi_map_fini(&c->groups);
	thmqi_map_init(&c->groups);
	while (!thmqi_list_empty(&c->conns)) {
		struct carry_conn *n = thmqi_list_first(&c->conns, struct carry_conn, link);

		thmqi_carry_end(n, -ESHUTDOWN);
		thmqi_carry_free(n);
	}
	thmqi_timer_stop(c->core, &c->timer);
	thmqi_core_remove_poller(c->core, &c->in);
	thmqi_core_remove_poller(c->core, &c->out);
	give_back(c);
}

const char *thmqi_courier_url(const struct thmqi_courier *c)
{
	return c->url;
}
