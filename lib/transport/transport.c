/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.c - who listens where in an environment, and the inproc medium: a link is memory that both ends see. The
 * two ends close in any order; the link's memory goes with the second. Control path only: nothing here is called per
 * message.
 */
#include <pthread.h>
#include <sched.h>

#include "transport/transport.h"

#define CTL_FRAMES_MAX 4096u
#define URL_NAME_MAX 255u

struct thmqi_listener {
	struct thmqi_list link;
	struct thmqi_transport *transport;
	struct thmqi_acceptor acceptor;
	char *name; /* NULL: unnamed */
	_Atomic uint32_t refs; /* links that may still call the acceptor, and the transport */
	_Atomic bool gone;     /* set under the lock; read on the cores too */
};

struct thmqi_transport {
	struct thmq_env *env;
	pthread_mutex_t lock;
	struct thmqi_list listeners;
	uint32_t count;
};

int thmqi_transport_open(struct thmq_env *env, struct thmqi_transport **ret_transport)
{
	struct thmqi_transport *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->env = env;
	pthread_mutex_init(&t->lock, NULL);
	thmqi_list_init(&t->listeners);
	*ret_transport = t;
	return 0;
}

void thmqi_transport_close(struct thmqi_transport *t)
{
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* ------------------------------------------------------------------ listen */

static struct thmqi_listener *find(struct thmqi_transport *t, const char *name)
{
	struct thmqi_listener *l;
	struct thmqi_list *it;

	thmqi_list_each(it, &t->listeners)
	{
		l = thmqi_container(it, struct thmqi_listener, link);
		if (l->name ? name && strcmp(l->name, name) == 0 : !name)
			return l;
	}
	return NULL;
}

static void listener_unref(struct thmqi_listener *l)
{
	if (atomic_fetch_sub(&l->refs, 1) == 1) {
		free(l->name);
		free(l);
	}
}

int thmqi_transport_listen(struct thmqi_transport *t, const char *name, const struct thmqi_acceptor *acceptor,
			   struct thmqi_listener **ret_listener)
{
	struct thmqi_listener *l = calloc(1, sizeof(*l));
	int rc = 0;

	if (!l)
		return -ENOMEM;
	l->transport = t;
	l->acceptor = *acceptor;
	l->name = name ? strdup(name) : NULL;
	atomic_init(&l->refs, 1);
	pthread_mutex_lock(&t->lock);
	if (name && !l->name)
		rc = -ENOMEM;
	else if (name && find(t, name))
		rc = -EEXIST;
	else {
		thmqi_list_add_tail(&t->listeners, &l->link);
		t->count++;
	}
	pthread_mutex_unlock(&t->lock);
	if (rc)
		listener_unref(l);
	else
		*ret_listener = l;
	return rc;
}

/*
 * A barrier on every core: links that were asked for before have been accepted when it has passed. None is posted
 * after it, since connect posts under the lock that took the listener away.
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
	for (i = 0; i < thmqi_env_core_count(t->env); i++)
		thmqi_core_barrier(thmqi_env_core(t->env, i), UINT64_MAX);
	listener_unref(l);
}

/* ------------------------------------------------------------------- links */

static void link_free(struct thmqi_link *link)
{
	if (link->listener)
		listener_unref(link->listener);
	if (link->waiter)
		thmqi_waiter_unref(link->waiter);
	free(link->up.slots);
	free(link->ctl.slots);
	free(link->down.slots);
	free(link->area);
	free(link->request);
	free(link->reply);
	free(link->room);
	free(link);
}

void thmqi_link_unref(struct thmqi_link *link)
{
	if (atomic_fetch_sub(&link->refs, 1) == 1)
		link_free(link);
}

void thmqi_link_shut(struct thmqi_link *link, int error)
{
	int32_t open = 0;

	atomic_compare_exchange_strong(&link->broker_closed, &open, error);
	link->broker = NULL;
	thmqi_link_kick_client(link);
}

void thmqi_link_leave(struct thmqi_link *link, void (*let_go)(void *left), void *left)
{
	link->let_go = let_go;
	link->left = left;
	thmqi_link_unref(link); /* the client end's reference ends on this core, and let_go goes before it */
}

static void run_accept(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmqi_link *link = thmqi_container(task, struct thmqi_link, task);
	struct thmqi_acceptor *a = &link->listener->acceptor;
	int rc;

	(void)core;
	/* a session that has links already was there before: its broker has closed */
	if (atomic_load(&link->listener->gone))
		rc = link->is_further ? -ESHUTDOWN : -ECONNREFUSED;
	else
		rc = a->accept(a->ctx, link);
	if (rc) {
		thmqi_link_shut(link, rc);
		thmqi_link_unref(link);
	}
}

static void run_closed(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmqi_link *link = thmqi_container(task, struct thmqi_link, goodbye);
	struct thmqi_acceptor *a = &link->listener->acceptor;

	(void)core;
	/* a link that the broker's end has shut, or refused, is the client's alone, and the acceptor may be gone */
	if (link->broker)
		a->closed(a->ctx, link);
	else if (link->let_go)
		link->let_go(link->left);
	thmqi_link_unref(link);
}

/*
 * The client's end goes. Its reference is dropped on the core, behind everything that was posted there before, so that the
 * broker's end is never told while it is being accepted.
 */
void thmqi_link_close(struct thmqi_link *link)
{
	struct thmq_core *core = link->core;

	atomic_store(&link->client_closed, 1);
	link->goodbye.run = run_closed;
	thmqi_core_post(core, &link->goodbye);
}

static void *zeroed(size_t bytes)
{
	void *p = aligned_alloc(THMQI_BLOCK, THMQI_ALIGN_UP(bytes, (size_t)THMQI_BLOCK));

	if (p)
		memset(p, 0, bytes);
	return p;
}

static int link_make(const struct thmqi_link_opts *opts, size_t end_bytes, struct thmqi_link **ret_link)
{
	struct thmqi_link *link = aligned_alloc(THMQI_CACHELINE,
						THMQI_ALIGN_UP(sizeof(*link), (size_t)THMQI_CACHELINE));
	uint32_t ctl = THMQI_MIN(opts->up_frames, CTL_FRAMES_MAX);
	struct thmqi_frame *up, *control, *down;

	if (!link)
		return -ENOMEM;
	memset(link, 0, sizeof(*link));
	atomic_init(&link->refs, 2);
	link->area_bytes = (uint32_t)opts->area_bytes;
	link->area = aligned_alloc(THMQI_BLOCK, THMQI_ALIGN_UP(opts->area_bytes, (uint64_t)THMQI_BLOCK));
	link->request = calloc(1, sizeof(*link->request));
	link->reply = calloc(1, sizeof(*link->reply));
	link->room = calloc(1, end_bytes + 1);
	up = zeroed(opts->up_frames * sizeof(*up));
	control = zeroed(ctl * sizeof(*control));
	down = zeroed(opts->down_frames * sizeof(*down));
	link->up.slots = up;
	link->ctl.slots = control;
	link->down.slots = down;
	if (!link->area || !link->request || !link->reply || !link->room || !up || !control || !down) {
		link_free(link);
		return -ENOMEM;
	}
	thmqi_frame_ring_init(&link->up, up, opts->up_frames);
	thmqi_frame_ring_init(&link->ctl, control, ctl);
	thmqi_frame_ring_init(&link->down, down, opts->down_frames);
	*ret_link = link;
	return 0;
}

/* ----------------------------------------------------------------- connect */

/* *ret_name: within @url; NULL for the only broker. */
static int parse(const char *url, const char **ret_name)
{
	const char *at = strstr(url, "://"), *p;

	if (!at || at == url)
		return thmqi_fail(-EINVAL, "%.64s is no URL: write inproc:// or inproc://name", url);
	if ((size_t)(at - url) != 6 || strncmp(url, "inproc", 6) != 0)
		return thmqi_fail(-EPROTONOSUPPORT, "%.64s: this library speaks inproc:// only", url);
	for (p = at + 3; *p; p++)
		if (*p == '/' || *p <= ' ' || *p > '~')
			return thmqi_fail(-EINVAL, "%.64s: a broker's name has no slashes and no spaces", url);
	if ((size_t)(p - at - 3) > URL_NAME_MAX)
		return thmqi_fail(-EINVAL, "%.64s…: the name is too long", url);
	*ret_name = at[3] ? at + 3 : NULL;
	return 0;
}

/* Under the lock. Who listens at @name. */
static int look_up_name(struct thmqi_transport *t, const char *url, const char *name,
			struct thmqi_listener **ret_listener)
{
	struct thmqi_listener *l = NULL;

	if (name)
		l = find(t, name);
	else if (t->count == 1)
		l = thmqi_list_first(&t->listeners, struct thmqi_listener, link);
	else if (t->count > 1)
		return thmqi_fail(-EINVAL, "%s: there are several brokers in this environment: name one", url);
	if (!l)
		return thmqi_fail(-ECONNREFUSED, "%s: no such broker is open in this environment", url);
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
static int look_up(struct thmqi_transport *t, const struct place *p, struct thmqi_listener **ret_listener,
		   struct thmq_core **ret_core)
{
	const char *url = p->url;
	uint32_t shard = p->shard;
	struct thmqi_listener *l = NULL;
	struct thmq_core *core;
	int rc;

	if (p->beside) {
		l = p->beside->listener; /* that link keeps it */
		if (atomic_load(&l->gone))
			return thmqi_fail(-ESHUTDOWN, "%s: the broker of this session is closed", url);
	} else {
		rc = look_up_name(t, url, p->name, &l);
		if (rc)
			return rc;
	}
	core = l->acceptor.core_of(l->acceptor.ctx, shard);
	if (!core)
		return thmqi_fail(-ECONNREFUSED, "%s: it has no shard %u", url, shard);
	if (atomic_load(&core->owner) == 0)
		return thmqi_fail(-EDEADLK, "%s: no thread drives core %u; attach one", url, core->index);
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
		link->task.run = run_accept;
		thmqi_core_post(link->core, &link->task);
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

int thmqi_transport_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
			    const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
			    struct thmqi_link **ret_link)
{
	struct thmqi_listener *l;
	struct thmqi_link *link = NULL;
	struct place place = {.url = url, .beside = opts->beside, .shard = shard};
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
	rc = link_make(opts, end_bytes, &link);
	if (rc)
		return thmqi_fail(rc, "%s: no memory for a connection of %llu bytes", url,
				  (unsigned long long)opts->area_bytes);
	link->shard = shard;
	link->is_further = opts->beside != NULL;
	thmqi_waiter_ref(waiter);
	link->waiter = waiter;
	rc = hand_over(t, &place, link);
	if (rc) {
		link_free(link);
		return rc;
	}
	*ret_link = link;
	return 0;
}
