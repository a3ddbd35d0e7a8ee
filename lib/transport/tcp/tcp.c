/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp.c - tcp:// as a medium: what the registry calls. A session's link gets a listener of its own, whose acceptor is the
 * connection; the rest of the library sees a link like any other. Runs on the session's thread.
 */
#include "tcp.h"

static int client_accept(void *ctx, struct thmqi_link *link)
{
	return thmqi_tcp_connect_begin(ctx, link);
}

/* The session has closed its end: what lies in the rings still goes, if that does not take long. */
static void client_closed(void *ctx, struct thmqi_link *link)
{
	struct tcp_conn *c = ctx;

	(void)link;
	c->joint.client_gone = true;
	if (c->state != TCP_OPEN) {
		thmqi_tcp_end(c, -ESHUTDOWN);
		return;
	}
	c->deadline_ns = c->core->now_ns + TCP_LEAVE_NS;
	thmqi_tcp_tick_at(c, c->deadline_ns);
}

/* Where the environment may have threads: in others it stays with the addresses that there were. */
static bool may_look_up(const struct thmqi_transport *t)
{
	return !thmqi_env_is_caller_driven(t->env) || (thmqi_env_flags(t->env) & THMQ_ENV_ALLOW_THREADS);
}

static int look_up(struct tcp_conn *c, const char *url)
{
	const struct thmqi_clock *clock = thmqi_env_core(c->transport->env, 0)->clock;

	return thmqi_tcp_lookup(c->transport, url, clock->now_ns(clock->ctx), c->addresses, &c->address_count);
}

/* Where another link of the session leads to: its connection is there as long as the link is. */
static int addresses_of(struct tcp_conn *c, const char *url, const struct thmqi_link_opts *opts)
{
	struct tcp_conn *other = opts->beside ? opts->beside->listener->acceptor.ctx : NULL;

	if (c->own) {
		c->url = strdup(url);
		c->instance = other ? other->instance : 0;
		return c->url ? 0 : thmqi_fail(-ENOMEM, "%s: no memory for a connection", url);
	}
	if (!other && opts->in_turns && may_look_up(c->transport))
		return look_up(c, url);
	if (!other)
		return thmqi_tcp_resolve(url, false, c->addresses, TCP_ADDRESSES,
					 &c->address_count);
	c->instance = other->instance;
	if (opts->anew && may_look_up(c->transport) && look_up(c, url) == 0)
		return 0;
	memcpy(c->addresses, other->addresses, sizeof(c->addresses));
	c->address_count = other->address_count;
	return 0;
}

static int tcp_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
		       const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
		       struct thmqi_link **ret_link)
{
	struct thmqi_acceptor acceptor = {.accept = client_accept, .closed = client_closed};
	struct tcp_conn *c;
	int rc;

	c = thmqi_tcp_make(false);
	if (!c)
		return thmqi_fail(-ENOMEM, "%s: no memory for a connection", url);
	c->transport = t;
	c->own = thmqi_own_of(t, url);
	c->joint.silence_ns =
		THMQI_MAX(opts->silence_ns ? opts->silence_ns : JOINT_SILENCE_NS, JOINT_SILENCE_MIN_NS);
	memcpy(c->client_id, t->client_id, sizeof(c->client_id));
	c->tls_config = opts->tls;
	if (c->tls_config)
		thmqi_tls_config_ref(c->tls_config);
	c->zerocopy = c->own ? TCP_COPIES : (uint8_t)thmqi_tcp_zerocopy_of(url);
	rc = addresses_of(c, url, opts);
	if (rc)
		goto fail;
	if (opts->anew)
		c->instance = 0;
	acceptor.ctx = c;
	rc = thmqi_joint_connect(t, url, shard, opts, &acceptor, waiter, ret_link);
	if (!rc)
		return 0;
fail:
	thmqi_tls_config_unref(c->tls_config);
	free(c->url);
	free(c);
	return rc;
}

const struct thmqi_medium thmqi_medium_tcp = {
	.scheme = "tcp",
	.check = thmqi_tcp_check,
	.listen = thmqi_tcp_listen,
	.unlisten = thmqi_tcp_unlisten,
	.url_of = thmqi_tcp_url_of,
	.renew = thmqi_tcp_renew,
	.secure = thmqi_tcp_secure,
	.connect = tcp_connect,
	.close = thmqi_tcp_names_close,
};

/* The same, never in clear. */
const struct thmqi_medium thmqi_medium_tls = {
	.scheme = "tls",
	.check = thmqi_tcp_check,
	.listen = thmqi_tcp_listen,
	.unlisten = thmqi_tcp_unlisten,
	.url_of = thmqi_tcp_url_of,
	.renew = thmqi_tcp_renew,
	.secure = thmqi_tcp_secure,
	.connect = tcp_connect,
};
