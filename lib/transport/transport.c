/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.c - who listens where in an environment, and which medium a URL means. Control path only. Knows nothing of how a
 * medium works.
 */
#include <stdio.h>

#include "internal.h"
#include "own.h"

int thmqi_transport_open(struct thmq_env *env, struct thmqi_transport **ret_transport)
{
	struct thmqi_transport *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->env = env;
	pthread_mutex_init(&t->lock, NULL);
	thmqi_list_init(&t->listeners);
	thmqi_list_init(&t->reaches);
	thmqi_random_bytes(t->client_id, sizeof(t->client_id));
	thmqi_transport_add(t, &thmqi_medium_inproc);
	thmqi_transport_add(t, &thmqi_medium_shm);
	thmqi_transport_add(t, &thmqi_medium_tcp);
	thmqi_transport_add(t, &thmqi_medium_tls);
	*ret_transport = t;
	return 0;
}

void thmqi_transport_close(struct thmqi_transport *t)
{
	uint32_t i;

	for (i = 0; i < t->medium_count; i++)
		if (t->state[i])
			t->media[i]->close(t->state[i]);

	thmqi_fault_close_all(t);
	thmqi_own_fini(t);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* ------------------------------------------------------------------- media */

static const struct thmqi_medium *by_scheme(const struct thmqi_transport *t, const char *scheme,
					    size_t len)
{
	uint32_t i;

	for (i = 0; i < t->medium_count; i++)
		if (strlen(t->media[i]->scheme) == len &&
		    strncmp(t->media[i]->scheme, scheme, len) == 0)
			return t->media[i];
	return NULL;
}

int thmqi_transport_add(struct thmqi_transport *t, const struct thmqi_medium *medium)
{
	if (by_scheme(t, medium->scheme, strlen(medium->scheme)))
		return -EEXIST;
	if (t->medium_count == THMQI_MEDIA_MAX)
		return -ENOSPC;
	t->media[t->medium_count++] = medium;
	return 0;
}

void **thmqi_transport_state(struct thmqi_transport *t, const struct thmqi_medium *medium)
{
	uint32_t i;

	for (i = 0; i < t->medium_count; i++)
		if (t->media[i] == medium)
			return &t->state[i];
	return NULL;
}

static int find_medium(const struct thmqi_transport *t, const char *url,
		       const struct thmqi_medium **ret_medium)
{
	const char *at = strstr(url, "://");
	const struct thmqi_medium *m;

	if (!at || at == url)
		return thmqi_fail(
			-EINVAL,
			"\"%.64s\" is no URL: write inproc://, inproc://name, shm:///path, tcp://host:port, "
			"tls://host:port or rdma://host:port",
			url);
	m = by_scheme(t, url, (size_t)(at - url));
	if (!m)
		return thmqi_fail(-EPROTONOSUPPORT,
				  "%.64s: this library speaks inproc://, shm://, tcp://, tls:// and rdma://", url);
	*ret_medium = m;
	return 0;
}

int thmqi_transport_secure(struct thmqi_transport *t, const char *url,
			   const struct thmq_tls_opts *opts, struct thmqi_tls_config **ret_config)
{
	const struct thmqi_medium *m;
	int rc = find_medium(t, url, &m);

	*ret_config = NULL;
	return rc || !m->secure ? rc : m->secure(url, opts, ret_config);
}

void thmqi_transport_unsecure(struct thmqi_tls_config *config)
{
	thmqi_tls_config_unref(config);
}

int thmqi_transport_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
			    const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
			    struct thmqi_link **ret_link)
{
	const struct thmqi_medium *m;
	int rc = find_medium(t, url, &m);

	return rc ? rc : m->connect(t, url, shard, opts, waiter, ret_link);
}

/* ------------------------------------------------------------------ listen */

struct thmqi_listener *thmqi_listener_find(struct thmqi_transport *t, const char *name)
{
	struct thmqi_listener *l;
	struct thmqi_list *it;

	thmqi_list_each(it, &t->listeners)
	{
		l = thmqi_container(it, struct thmqi_listener, link);
		if (l->name && strcmp(l->name, name) == 0)
			return l;
	}
	return NULL;
}

void thmqi_listener_unref(struct thmqi_listener *l)
{
	if (atomic_fetch_sub(&l->refs, 1) == 1) {
		free(l->name);
		free(l);
	}
}

int thmqi_listener_make(struct thmqi_transport *t, const char *name,
			const struct thmqi_acceptor *acceptor, struct thmqi_listener **ret_listener)
{
	struct thmqi_listener *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	thmqi_list_init(&l->link);
	thmqi_list_init(&l->doors);
	l->transport = t;
	l->acceptor = *acceptor;
	atomic_init(&l->refs, 1);
	if (thmqi_random_bytes(&l->instance, sizeof(l->instance)) != 0 || !l->instance)
		l->instance = 1;
	l->name = name ? strdup(name) : NULL;
	if (name && !l->name) {
		thmqi_listener_unref(l);
		return -ENOMEM;
	}
	*ret_listener = l;
	return 0;
}

int thmqi_transport_listen(struct thmqi_transport *t, const char *name,
			   const struct thmqi_acceptor *acceptor,
			   struct thmqi_listener **ret_listener)
{
	struct thmqi_listener *l;
	int rc = thmqi_listener_make(t, name, acceptor, &l);

	if (rc)
		return rc;
	pthread_mutex_lock(&t->lock);
	if (name && thmqi_listener_find(t, name)) {
		rc = -EEXIST;
	} else {
		thmqi_list_add_tail(&t->listeners, &l->link);
		t->count++;
	}
	pthread_mutex_unlock(&t->lock);
	if (rc)
		thmqi_listener_unref(l);
	else
		*ret_listener = l;
	return rc;
}

static void close_doors(struct thmqi_listener *l)
{
	struct thmqi_transport *t = l->transport;
	struct thmqi_door *d;

	for (;;) {
		pthread_mutex_lock(&t->lock);
		d = thmqi_list_empty(&l->doors)
			    ? NULL
			    : thmqi_list_first(&l->doors, struct thmqi_door, link);
		if (d)
			thmqi_list_del(&d->link);
		pthread_mutex_unlock(&t->lock);
		if (!d)
			return;
		d->medium->unlisten(d->door);
		free(d);
	}
}

/*
 * A barrier on every core: links that were asked for before have been accepted when it has passed. None is posted
 * after it, since connect posts under the lock that took the listener away, and doors look whether it is gone.
 */
void thmqi_transport_unlisten(struct thmqi_listener *l)
{
	struct thmqi_transport *t = l->transport;
	uint32_t i;

	pthread_mutex_lock(&t->lock);
	thmqi_list_del(&l->link);
	atomic_store(&l->gone, true);
	t->count--;
	pthread_mutex_unlock(&t->lock);
	close_doors(l);
	for (i = 0; i < thmqi_env_core_count(t->env); i++)
		thmqi_core_barrier(thmqi_env_core(t->env, i), UINT64_MAX);
	thmqi_listener_unref(l);
}

/* ------------------------------------------------------------------- reach */

struct thmqi_reach {
	struct thmqi_list link;
	void *ctx;
	char name[];
};

/* Under the lock. */
static struct thmqi_reach *find_reach(struct thmqi_transport *t, const char *name)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &t->reaches)
	{
		struct thmqi_reach *r = thmqi_container(it, struct thmqi_reach, link);

		if (strcmp(r->name, name) == 0)
			return r;
	}
	return NULL;
}

int thmqi_transport_reach(struct thmqi_transport *t, const char *name,
			  int (*with)(void *ctx, void *arg), void *arg)
{
	struct thmqi_reach *r;
	int rc = -ECONNREFUSED;

	pthread_mutex_lock(&t->lock);
	r = find_reach(t, name);
	if (r)
		rc = with(r->ctx, arg);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

int thmqi_transport_reach_add(struct thmqi_transport *t, const char *name, void *ctx,
			      struct thmqi_reach **ret_reach)
{
	size_t len = strlen(name) + 1;
	struct thmqi_reach *r = calloc(1, sizeof(*r) + len);
	int rc = 0;

	if (!r)
		return -ENOMEM;
	r->ctx = ctx;
	memcpy(r->name, name, len);
	pthread_mutex_lock(&t->lock);
	if (find_reach(t, name))
		rc = -EEXIST;
	else
		thmqi_list_add_tail(&t->reaches, &r->link);
	pthread_mutex_unlock(&t->lock);
	if (rc)
		free(r);
	else
		*ret_reach = r;
	return rc;
}

void thmqi_transport_reach_remove(struct thmqi_transport *t, struct thmqi_reach *reach)
{
	uint32_t i;

	pthread_mutex_lock(&t->lock);
	thmqi_list_del(&reach->link);
	pthread_mutex_unlock(&t->lock);
	for (i = 0; i < thmqi_env_core_count(t->env); i++)
		thmqi_core_barrier(thmqi_env_core(t->env, i), UINT64_MAX);
	free(reach);
}

/* ------------------------------------------------------------------- doors */

#define URL_MAX 511u

/* The next of @*urls, without spaces around it. Return: false: there is none. */
static bool next_url(const char **urls, char url[URL_MAX + 1], int *ret_error)
{
	const char *begin = *urls, *end;
	size_t len;

	*ret_error = 0;
	if (!begin)
		return false;
	end = strchrnul(begin, ',');
	*urls = *end ? end + 1 : NULL;
	len = (size_t)(end - begin);
	if (len == 0 || len > URL_MAX) {
		*ret_error = thmqi_fail(-EINVAL, "listen on %.64s: %s", begin,
					len ? "a URL is too long" : "a URL is empty");
		return true;
	}
	memcpy(url, begin, len);
	url[len] = 0;
	return true;
}

int thmqi_transport_check_urls(struct thmqi_transport *t, const char *urls)
{
	const struct thmqi_medium *m;
	char url[URL_MAX + 1];
	int rc;

	while (next_url(&urls, url, &rc)) {
		if (!rc)
			rc = find_medium(t, url, &m);
		if (!rc)
			rc = m->check ? m->check(url) : m->check_of(t, url);
		if (rc)
			return rc;
	}
	return 0;
}

static int open_door(struct thmqi_listener *l, const char *url,
		     const struct thmqi_listen_opts *opts)
{
	struct thmqi_transport *t = l->transport;
	const struct thmqi_medium *m;
	struct thmqi_door *d;
	int rc = find_medium(t, url, &m);

	if (rc || !m->listen)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return thmqi_fail(-ENOMEM, "listen on %s: no memory", url);
	d->medium = m;
	rc = m->listen(l, url, opts, &d->door);
	if (rc) {
		free(d);
		return rc;
	}
	pthread_mutex_lock(&t->lock);
	thmqi_list_add_tail(&l->doors, &d->link);
	pthread_mutex_unlock(&t->lock);
	return 0;
}

int thmqi_transport_listen_at(struct thmqi_listener *l, const char *urls,
			      const struct thmqi_listen_opts *opts)
{
	char url[URL_MAX + 1];
	int rc = thmqi_transport_check_urls(l->transport, urls), bad;

	while (!rc && next_url(&urls, url, &bad))
		rc = open_door(l, url, opts);
	if (rc)
		close_doors(l);
	return rc;
}

int thmqi_listener_renew(struct thmqi_listener *l, const struct thmq_tls_opts *opts)
{
	struct thmqi_transport *t = l->transport;
	struct thmqi_tls_config *config;
	struct thmqi_list *it;
	int rc = thmqi_tls_config_open(opts, NULL, &config);
	bool any = false;

	if (rc)
		return rc;
	pthread_mutex_lock(&t->lock);
	thmqi_list_each(it, &l->doors)
	{
		struct thmqi_door *d = thmqi_container(it, struct thmqi_door, link);

		if (d->medium->renew && d->medium->renew(d->door, config))
			any = true;
	}
	pthread_mutex_unlock(&t->lock);
	thmqi_tls_config_unref(config);
	return any ? 0 : thmqi_fail(-EINVAL, "tls: this broker does not listen by TLS");
}

void thmqi_listener_stats(const struct thmqi_listener *l, struct thmq_broker_stats *ret)
{
	ret->connection_count = atomic_load_explicit(&l->connections, memory_order_relaxed);
	ret->tls_count = atomic_load_explicit(&l->tls_connections, memory_order_relaxed);
	ret->kernel_tls_count =
		atomic_load_explicit(&l->kernel_tls_connections, memory_order_relaxed);
	ret->refused_count = atomic_load_explicit(&l->refused, memory_order_relaxed);
	ret->refused_error = atomic_load_explicit(&l->refused_error, memory_order_relaxed);
}

int thmqi_listener_url(struct thmqi_listener *l, uint32_t index, char *ret_url, uint32_t size)
{
	struct thmqi_transport *t = l->transport;
	struct thmqi_list *it;
	int rc = -ENOENT;

	pthread_mutex_lock(&t->lock);
	thmqi_list_each(it, &l->doors)
	{
		struct thmqi_door *d = thmqi_container(it, struct thmqi_door, link);
		const char *url = d->medium->url_of(d->door);

		if (index--)
			continue;
		rc = (int)strlen(url);
		if ((uint32_t)rc >= size)
			rc = -ENOSPC;
		else
			memcpy(ret_url, url, (size_t)rc + 1);
		break;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}
