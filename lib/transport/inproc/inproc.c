/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inproc.c - brokers of the same environment: the two ends of a link share its memory, and nothing moves. They are found by
 * name in the registry; listening is having a name.
 */
#include "../internal.h"

#define URL_NAME_MAX 255u

/* *ret_name: within @url; NULL for the only broker. */
static int parse(const char *url, const char **ret_name)
{
	const char *at = strstr(url, "://") + 3, *p;

	for (p = at; *p; p++)
		if (*p == '/' || *p <= ' ' || *p > '~')
			return thmqi_fail(-EINVAL,
					  "%.64s: a broker's name has no slashes and no spaces",
					  url);
	if ((size_t)(p - at) > URL_NAME_MAX)
		return thmqi_fail(-EINVAL, "%.64s…: the name is too long", url);
	*ret_name = at[0] ? at : NULL;
	return 0;
}

/* Under the lock. Who listens at @name. */
static int look_up_name(struct thmqi_transport *t, const char *url, const char *name,
			struct thmqi_listener **ret_listener)
{
	struct thmqi_listener *l = NULL;

	if (name)
		l = thmqi_listener_find(t, name);
	else if (t->count == 1)
		l = thmqi_list_first(&t->listeners, struct thmqi_listener, link);
	else if (t->count > 1)
		return thmqi_fail(-EINVAL,
				  "%s: there are several brokers in this environment: name one",
				  url);
	if (!l)
		return thmqi_fail(-ECONNREFUSED, "%s: no such broker is open in this environment",
				  url);
	*ret_listener = l;
	return 0;
}

/* Where a link is to lead to. */
struct place {
	const char *url;
	const char *name; /* in it; NULL: the only broker */
	const struct thmqi_link *beside;
	uint32_t shard;
};

/* Under the lock. Who listens at @p, and the core of the shard there. */
static int look_up(struct thmqi_transport *t, const struct place *p,
		   struct thmqi_listener **ret_listener, struct thmq_core **ret_core)
{
	const char *url = p->url;
	uint32_t shard = p->shard;
	struct thmqi_listener *l = NULL;
	struct thmq_core *core;
	int rc;

	if (p->beside) {
		l = p->beside->listener; /* that link keeps it */
		if (atomic_load(&l->gone))
			return thmqi_fail(-ESHUTDOWN, "%s: the broker of this session is closed",
					  url);
	} else {
		rc = look_up_name(t, url, p->name, &l);
		if (rc)
			return rc;
	}
	core = l->acceptor.core_of(l->acceptor.ctx, shard);
	if (!core)
		return thmqi_fail(-ECONNREFUSED, "%s: it has no shard %u", url, shard);
	if (!thmqi_core_is_driven(core))
		return thmqi_fail(-EDEADLK, "%s: no thread drives core %u; attach one", url,
				  core->index);
	*ret_listener = l;
	*ret_core = core;
	return 0;
}

/* The acceptor lives as long as its listener is on the list: it is only looked at under the lock. */
static int hand_over(struct thmqi_transport *t, const struct place *p, struct thmqi_link *link)
{
	struct thmqi_listener *l = NULL;
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = look_up(t, p, &l, &link->core);
	if (rc == 0) {
		atomic_fetch_add(&l->refs, 1);
		link->listener = l;
		thmqi_link_offer(link);
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

static int inproc_check(const char *url)
{
	const char *name;

	return parse(url, &name);
}

static int inproc_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
			  const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
			  struct thmqi_link **ret_link)
{
	struct thmqi_listener *l;
	struct thmqi_link *link = NULL;
	struct place place = {.url = url, .beside = opts->anew ? NULL : opts->beside, .shard = shard};
	size_t end_bytes = 0;
	struct thmq_core *core;
	int rc;

	rc = parse(url, &place.name);
	if (rc)
		return rc;
	/* before the memory is taken: most failures end here */
	pthread_mutex_lock(&t->lock);
	rc = look_up(t, &place, &l, &core);
	if (!rc)
		end_bytes = l->acceptor.end_bytes;
	pthread_mutex_unlock(&t->lock);
	if (rc)
		return rc;
	rc = thmqi_link_make(opts, end_bytes, &link);
	if (rc)
		return thmqi_fail(rc, "%s: no memory for a connection of %llu bytes", url,
				  (unsigned long long)opts->area_bytes);
	link->shard = shard;
	link->medium = "inproc";
	link->takes_releases = true;
	strcpy(link->peer, "local");
	link->is_further = opts->beside != NULL;
	thmqi_waiter_ref(waiter);
	link->waiter = waiter;
	rc = hand_over(t, &place, link);
	if (rc) {
		thmqi_link_free(link);
		return rc;
	}
	*ret_link = link;
	return 0;
}

const struct thmqi_medium thmqi_medium_inproc = {
	.scheme = "inproc",
	.check = inproc_check,
	.connect = inproc_connect,
};
