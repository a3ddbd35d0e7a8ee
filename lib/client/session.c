/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - a session: its links to a broker's shards, and how it is opened and closed. What arrives: take.c; how it waits: wait.c;
 * requests: calls.c; a link that is lost: resume.c.
 */
#include <stdio.h>

#include "internal.h"
#include "txn.h"

#define DOWN_FRAMES 1024u
#define LOOKED_UP_NS 1000000u   /* while names are being asked for */
#define LOOK_AGAIN_NS 10000000u /* while nobody leads, or the broker is gone */
#define SILENT_NS 1000000000ull /* one of several that says nothing for so long is left for the next one; twice as long each time */

/* -------------------------------------------------------------------- links */

/* How a link of @shard is made: whenever, and always the same. */
int thmqi_session_prepare(struct thmq_session *s, uint32_t shard, struct thmqi_link_opts *ret_opts)
{
	if (shard >= s->shard_count)
		return -THMQ_EVERSION; /* the broker names a shard that it does not have */
	/* a whole window may be sent before the core looks; what comes down is soon taken, and a short ring stays cached */
	*ret_opts = (struct thmqi_link_opts){.area_bytes = shard ? s->opts.window_bytes : THMQI_BLOCK,
					     .up_frames = shard ? s->opts.window_count : 64,
					     .down_frames = DOWN_FRAMES,
					     .silence_ns = s->opts.peer_timeout_ns,
					     .in_turns = !shard && s->node_count,
					     .tls = s->tls};
	/* all of them lead to one broker, whatever else is opened, or opened again, at the session's URL meanwhile */
	if (shard && s->links[THMQI_SHARD_META])
		ret_opts->beside = s->links[THMQI_SHARD_META]->wire;
	return 0;
}

int thmqi_session_link(struct thmq_session *s, uint32_t shard, struct client_link **ret_link)
{
	struct thmqi_link_opts opts;
	struct client_link *l;
	int rc = thmqi_session_prepare(s, shard, &opts);

	if (rc)
		return rc;
	if (s->links[shard]) {
		*ret_link = s->links[shard];
		return 0;
	}
	if (shard && s->links[THMQI_SHARD_META] && s->links[THMQI_SHARD_META]->away)
		return -EAGAIN; /* that one goes first */
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->session = s;
	l->shard = shard;
	l->replied = true;
	l->slot_mask = opts.up_frames - 1;
	l->slots = calloc(opts.up_frames, sizeof(*l->slots));
	l->kept = shard && s->opts.reconnect_ns ? calloc(opts.up_frames, sizeof(*l->kept)) : NULL;
	rc = l->slots && (l->kept || !shard || !s->opts.reconnect_ns) ? 0 : -ENOMEM;
	if (!rc)
		rc = thmqi_transport_connect(s->transport, s->url, shard, &opts, s->waiter, &l->wire);
	if (rc) {
		free(l->slots);
		free(l->kept);
		free(l);
		return rc;
	}
	l->wire->client = l;
	s->links[shard] = l;
	*ret_link = l;
	return 0;
}

static bool is_up(void *arg)
{
	struct client_link *l = arg;

	return l->up || l->dead;
}

int thmqi_session_wait_up(struct thmq_session *s, struct client_link *l, uint64_t deadline)
{
	int rc = l->up ? 0 : thmqi_session_block(s, is_up, l, deadline);

	return rc ? rc : l->dead;
}

/* The broker is gone, and this session has not heard of that: it will, and find another one, or that one again. */
static bool may_come(const struct thmq_session *s, int error)
{
	return s->opts.reconnect_ns && s->connected && !s->dead && (error == -ECONNREFUSED || error == -ECONNRESET || error == -ESHUTDOWN);
}

int thmqi_session_link_wait(struct thmq_session *s, uint32_t shard, uint64_t deadline, struct client_link **ret_link)
{
	int rc, waited = 0;

	while ((rc = thmqi_session_link(s, shard, ret_link)) != 0) {
		if (rc == -EAGAIN)
			waited = thmqi_session_wait_up(s, s->links[THMQI_SHARD_META], deadline);
		else if (may_come(s, rc))
			waited = thmqi_session_rest(s, LOOK_AGAIN_NS, deadline);
		else
			return rc;
		if (waited)
			return waited == -ETIMEDOUT && rc != -EAGAIN ? rc : waited;
	}
	return 0;
}

static bool has_room(void *arg)
{
	struct client_link *l = arg;

	return l->dead || (l->up && thmqi_frame_claim(&l->wire->ctl, 0));
}

int thmqi_session_ctl_claim(struct thmq_session *s, struct client_link *l, uint64_t deadline,
			    struct thmqi_frame **ret_frame)
{
	int rc = has_room(l) ? 0 : thmqi_session_block(s, has_room, l, deadline);

	if (rc || l->dead)
		return rc ? rc : l->dead;
	*ret_frame = thmqi_frame_claim(&l->wire->ctl, 0);
	return 0;
}

/* -------------------------------------------------------------- open, close */

static void link_free(struct client_link *l)
{
	thmqi_resume_fini(l);
	free(l->slots);
	free(l);
}

static void session_free(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; s->links && i <= THMQ_SHARD_COUNT_MAX; i++)
		if (s->links[i])
			link_free(s->links[i]);
	free(s->links);
	free(s->events);
	free(s->url);
	free(s->nodes);
	free(s->given);
	s->given = NULL;
	s->nodes = NULL;
	s->node_count = 0;
	thmqi_transport_unsecure(s->tls);
	if (s->waiter)
		thmqi_waiter_unref(s->waiter);
	s->links = NULL;
	s->events = NULL;
	s->url = NULL;
	s->tls = NULL;
	s->waiter = NULL;
	s->shard_count = 0;
	thmqi_handle_bury(s->graveyard, &s->handle);
}

static uint64_t seed_of(const struct thmq_session *s)
{
	uint64_t seed = thmqi_env_world(s->env)->seed;

	if (seed) /* simulated, in one thread: sessions must differ all the same */
		return thmqi_prng_next(&thmqi_env_core(s->env, 0)->prng);
	thmqi_random_bytes(&seed, sizeof(seed));
	return seed;
}

#define LEADERLESS "it answers, but leads nothing, and knows nobody who does: are most of the cluster's brokers there?"

/* Who was let in and hears no more waits for a leader. By shared memory that is not known. */
static bool is_leaderless(const struct thmq_session *s, int rc)
{
	const struct client_link *l = s->links[THMQI_SHARD_META];

	if (rc == -THMQ_ENOTLEADER)
		return !s->leader;
	return rc == -ETIMEDOUT && l && atomic_load_explicit(&l->wire->let_in, memory_order_relaxed);
}

static const char *why_not(const struct thmq_session *s, int rc)
{
	if (is_leaderless(s, rc))
		return LEADERLESS;
	return rc == -ETIMEDOUT ? "no answer within the time; is the broker's core driven, and can it be reached?" : thmq_strerror(rc);
}

static int connect_once(struct thmq_session *s, uint64_t deadline)
{
	struct client_link *meta;
	int rc = thmqi_session_link(s, THMQI_SHARD_META, &meta);

	if (rc)
		return rc;
	rc = thmqi_session_wait_up(s, meta, deadline);
	if (rc == -EDEADLK)
		thmqi_fail(rc, "%s: no thread drives the broker's core, or this is called from within one", s->url);
	else if (rc)
		thmqi_fail(rc, "%s: %s", s->url, meta->wire->why[0] ? meta->wire->why : why_not(s, rc));
	return rc;
}

/* Waiting makes it no better. */
static bool is_refusal(int error)
{
	return error == -EKEYREJECTED || error == -EKEYEXPIRED || error == -EKEYREVOKED || error == -ENOKEY || error == -EACCES || error == -EPROTO ||
	       error == -THMQ_EVERSION;
}

/* To whom does not wait any longer, a name that nobody has answered yet is one that cannot be reached. */
static int ended_by(int error)
{
	return error == -EINPROGRESS ? -EHOSTUNREACH : error;
}

/* The one of them that leads; while none does, until there is one. All that are known refuse, each twice if they come in turns: that is the end. */
static int find_broker(struct thmq_session *s, uint64_t deadline)
{
	uint64_t now, silent_ns = SILENT_NS;
	uint32_t refusals = 0;
	int rc, rested, cause = 0;
	char why[256] = "";

	for (;;) {
		rc = connect_once(s, s->node_count > 1 ? THMQI_MIN(deadline, thmqi_session_deadline(s, silent_ns)) : deadline);
		now = thmqi_session_now(s);
		silent_ns = THMQI_MIN(rc == -ETIMEDOUT ? 2 * silent_ns : silent_ns, s->opts.timeout_ns);
		refusals = is_refusal(rc) ? refusals + 1 : rc == -EINPROGRESS ? refusals : 0;
		if (is_refusal(rc)) {
			cause = rc;
			snprintf(why, sizeof(why), "%s", thmq_errmsg());
		} else if ((!cause || cause == -ETIMEDOUT) && is_leaderless(s, rc)) {
			cause = -ETIMEDOUT;
			snprintf(why, sizeof(why), "%s: %s", s->url, LEADERLESS);
		}
		if (!rc || rc == -EDEADLK || !thmqi_nodes_may_go(s, rc))
			return ended_by(rc);
		/* that the last one had no time left says nothing, nor, where one answered, that another one is not there */
		if (now >= deadline && (rc == -ETIMEDOUT || rc == -EINPROGRESS || cause == -ETIMEDOUT) && cause)
			return thmqi_fail(cause, "%s", why);
		if (now >= deadline || refusals >= 2 * s->node_count)
			return ended_by(rc);
		s->asked += rc != -EINPROGRESS; /* nobody knows yet where that one is */
		if (s->links[THMQI_SHARD_META])
			link_free(s->links[THMQI_SHARD_META]);
		s->links[THMQI_SHARD_META] = NULL;
		if (thmqi_nodes_go(s, rc))
			continue;
		rested = thmqi_session_rest(s, rc == -EINPROGRESS ? LOOKED_UP_NS : LOOK_AGAIN_NS, deadline);
		if (rested && rested != -ETIMEDOUT)
			return ended_by(rc);
	}
}

int thmqi_client_connect(struct thmq_env *env, struct thmqi_transport *transport, struct thmqi_graveyard *graveyard,
			 const char *url, const struct thmq_session_opts *opts, struct thmq_session **ret_session)
{
	struct thmq_session *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		return thmqi_fail(-ENOMEM, "no memory for a session");
	s->handle.kind = THMQI_HANDLE_SESSION;
	s->env = env;
	s->transport = transport;
	s->graveyard = graveyard;
	s->opts = *opts;
	s->opts.window_bytes = thmqi_pow2_up(opts->window_bytes ? opts->window_bytes : 4u << 20);
	s->opts.window_count = (uint32_t)thmqi_pow2_up(opts->window_count ? opts->window_count : 32768);
	s->opts.event_count = (uint32_t)thmqi_pow2_up(opts->event_count ? opts->event_count : 4096);
	s->opts.timeout_ns = opts->timeout_ns ? opts->timeout_ns : 30000000000ull;
	s->event_mask = s->opts.event_count - 1;
	thmqi_prng_seed(&s->prng, seed_of(s));
	s->events = calloc(s->opts.event_count, sizeof(*s->events));
	s->links = calloc(THMQ_SHARD_COUNT_MAX + 1, sizeof(*s->links));
	s->shard_count = 1;
	if (!s->events || !s->links)
		thmqi_fail(rc, "no memory for a session");
	else if ((rc = thmqi_nodes_init(s, url)) != 0)
		;
	else if ((rc = thmqi_waiter_open(&s->waiter)) != 0)
		thmqi_fail(rc, "no file descriptor for a session: %s", thmq_strerror(rc));
	else
		rc = thmqi_transport_secure(transport, s->url, opts->tls, &s->tls);
	s->opts.tls = NULL; /* the caller's, during this call only */
	if (!rc)
		rc = find_broker(s, thmqi_session_deadline(s, s->opts.timeout_ns));
	if (rc) {
		session_free(s);
		return rc;
	}
	s->connected = true;
	*ret_session = s;
	return 0;
}

int thmqi_client_session_close(struct thmq_session *s, uint64_t timeout_ns)
{
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns), now;
	int rc = 0, one;
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS && !s->dead; i++)
		if ((s->producers[i] || s->consumers[i]) && thmqi_session_stuck(s))
			return -EDEADLK;
	thmqi_answering_close(s, deadline);
	thmqi_asking_close(s, deadline);
	thmqi_session_txns_close(s, deadline);
	for (i = 0; i < THMQI_STREAMS; i++) {
		if (!s->producers[i] || s->producers[i]->is_consumers) /* its consumer closes it */
			continue;
		now = thmqi_session_now(s);
		one = thmqi_client_producer_close(s->producers[i], deadline > now ? deadline - now : 0);
		if (one == -EDEADLK && !s->dead)
			return one;
		rc = rc || s->dead ? rc : one;
	}
	for (i = 0; i < THMQI_STREAMS; i++) {
		if (!s->consumers[i])
			continue;
		now = thmqi_session_now(s);
		one = thmqi_client_consumer_close(s->consumers[i], deadline > now ? deadline - now : 0);
		if (one == -EDEADLK && !s->dead)
			return one;
		rc = rc || s->dead ? rc : one;
	}
	session_free(s);
	return rc;
}

struct thmq_env *thmqi_client_env(const struct thmq_session *session)
{
	return session->env;
}

struct thmq_env *thmqi_client_producer_env(const struct thmq_producer *producer)
{
	return producer->session->env;
}

struct thmq_env *thmqi_client_consumer_env(const struct thmq_consumer *consumer)
{
	return consumer->session->env;
}
