/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group.c - one copy of a group: events go to the engine one at a time, and what each asks for is done before the next. Term and
 * vote are stored before anything else of their event, and while that lasts no event is taken. Knows no sockets and no topics.
 */
#include "commitlog/close.h"
#include "internal.h"

#define STEPS_PER_ROUND 128u
#define NS_PER_MS 1000000ull
#define AGAIN_NS 1000000ull
#define DAMAGED_MS 1000u
#define HEARTBEAT_MS 30u
#define ELECTION_MS 300u

void thmqi_group_fail(struct thmqi_group *g, int error)
{
	if (g->failed)
		return;
	g->failed = error;
	g->tell_failed = true;
	thmqi_peers_drop(g);
	g->outbox_count = 0;
}

/* For tests: may this copy die here? It does what a process that was killed does: nothing. */
static bool dies(struct thmqi_group *g)
{
	if (thmqi_likely(!g->opts.dies))
		return g->failed != 0;
	if (!g->failed && g->opts.dies(g->opts.dies_ctx)) {
		g->failed = -ESHUTDOWN;
		g->outbox_count = 0;
		thmqi_peers_drop(g);
	}
	return g->failed != 0;
}

/* ------------------------------------------------------------------- duties */

static void drop_taking(struct thmqi_group *g)
{
	uint32_t i;

	for (i = 0; i < g->taking_count; i++)
		if (g->taking[i])
			thmqi_buf_unref(g->taking[i]);
	g->taking_count = 0;
}

/* What was received is appended, behind what of it was here already; what contradicts it goes first. */
static int take(struct thmqi_group *g, uint64_t index)
{
	uint32_t i;
	int rc = 0;

	if (index <= thmqi_log_last(g->log))
		rc = thmq_log_truncate(g->log, index);
	if (!rc &&
	    (index != thmqi_log_last(g->log) + 1 || index >= g->taking_index + g->taking_count))
		rc = -THMQ_ECORRUPT;
	for (i = 0; i < g->taking_count && !rc; i++) {
		if (g->taking_index + i < index)
			continue;
		if (dies(g))
			return 0;
		rc = thmqi_log_take(g->log, g->taking[i], true);
		if (!rc)
			g->taking[i] = NULL;
	}
	return rc;
}

static void note_role(struct thmqi_group *g)
{
	uint64_t leader = thmqi_engine_leader(g->engine), term = thmqi_engine_term(g->engine);
	uint32_t role = thmqi_engine_role(g->engine);

	if (role == g->role && leader == g->leader && term == g->term)
		return;
	if (role == THMQI_ROLE_LEADER && g->role != THMQI_ROLE_LEADER)
		thmqi_log_lead(g->log, true);
	if (thmqi_unlikely(g->removed && leader))
		thmqi_removed_over(g);
	g->role = role;
	g->leader = leader;
	g->term = term;
	g->tell_role = true;
}

/* All but term and vote, which are stored. */
static void finish_duties(struct thmqi_group *g)
{
	struct thmqi_duties d = g->duties;
	int rc = 0;

	memset(&g->duties, 0, sizeof(g->duties));
	if (d.take && !dies(g))
		rc = take(g, d.take);
	drop_taking(g);
	if (!rc && d.noop && !dies(g)) {
		rc = thmqi_log_noop(g->log);
		if (!rc && thmqi_log_last(g->log) != d.noop)
			rc = -THMQ_ECORRUPT;
	}
	if (!rc && d.install && !dies(g)) {
		rc = thmqi_retain_install(g, &d);
		if (!rc) /* and what that asks for was done */
			return;
	}
	if (rc)
		thmqi_group_fail(g, rc);
	else if (!dies(g))
		note_role(g);
}

static void on_voted(void *ctx)
{
	((struct thmqi_group *)ctx)->unparked = true;
}

static void store_vote(struct thmqi_group *g)
{
	uint64_t term = thmqi_engine_term(g->engine), voted_for = thmqi_engine_voted_for(g->engine);

	if (thmqi_group_breaks(g, THMQI_GROUP_FORGET_VOTE)) { /* the log's term is the batches' */
		thmqi_log_vote_set(g->log, term, 0, on_voted, g);
		g->unparked = false;
		return;
	}
	g->parked = true;
	thmqi_log_vote_set(g->log, term, voted_for, on_voted, g);
	if (thmqi_group_breaks(g, THMQI_GROUP_EARLY_VOTE))
		g->parked = false;
}

void thmqi_group_handle(struct thmqi_group *g, int rc, const struct thmqi_duties *d)
{
	if (rc) {
		drop_taking(g);
		thmqi_group_fail(g, rc);
		return;
	}
	g->duties = *d;
	/* at once, and not once the new term is stored: who leads no more must not form a batch of his old term, nor serve anybody */
	if (d->role && thmqi_engine_role(g->engine) != THMQI_ROLE_LEADER) {
		thmqi_log_lead(g->log, false);
		thmqi_peers_drop(g);
		if (g->role == THMQI_ROLE_LEADER) {
			g->role = THMQI_ROLE_FOLLOWER;
			g->leader = 0;
			g->tell_role = true;
		}
	}
	if (dies(g)) {
		drop_taking(g);
		return;
	}
	if (d->vote)
		store_vote(g);
	if (!g->parked)
		finish_duties(g);
}

/* ------------------------------------------------------------------- events */

static void on_formed(void *ctx, uint64_t index, uint64_t term, uint32_t type)
{
	struct thmqi_group *g = ctx;
	const struct thmqi_membership *changing = type == THMQI_BATCH_CHANGE ? g->changing : NULL;
	struct thmqi_duties d;
	int rc;

	if (g->failed)
		return;
	if (changing) {
		g->membership = *changing;
		g->membership.index = index;
		g->members_committed = false;
		g->tell_members = true;
		thmqi_peers_set(g);
	}
	rc = thmqi_engine_submit(g->engine, thmqi_group_now_ms(g), index, term, changing, &d);
	if (rc)
		thmqi_group_fail(g, rc);
	else if (thmqi_group_breaks(g, THMQI_GROUP_NO_B5))
		thmqi_log_committed(g->log, index);
}

static bool persist(struct thmqi_group *g)
{
	bool early = thmqi_group_breaks(g, THMQI_GROUP_EARLY_ACK);
	uint64_t durable = early ? thmqi_log_last(g->log) : thmqi_log_durable(g->log);
	struct thmqi_duties d;
	int rc;

	if (durable <= thmqi_engine_stored(g->engine))
		return false;
	rc = thmqi_engine_persisted(g->engine, thmqi_group_now_ms(g), durable, &d);
	thmqi_group_handle(g, rc, &d);
	return true;
}

static bool commit(struct thmqi_group *g)
{
	uint64_t committed = thmqi_engine_committed(g->engine);
	struct thmqi_duties d;
	int rc;

	if (thmqi_group_breaks(g, THMQI_GROUP_EARLY_COMMIT) && g->role == THMQI_ROLE_LEADER)
		committed = THMQI_MAX(committed, thmqi_log_durable(g->log));
	if (committed <= g->committed)
		return false;
	g->committed = committed;
	thmqi_log_committed(g->log, committed);
	if (g->owner.settled)
		g->owner.settled(g->owner_ctx, THMQ_DURABILITY_QUORUM, committed);
	if (g->opts.events.committed)
		g->opts.events.committed(g->opts.events.ctx, committed);
	if (g->members_committed || !g->membership.index || g->membership.index > committed)
		return true;
	g->members_committed = true; /* at once: the step may ask for more */
	rc = thmqi_engine_changed(g->engine, thmqi_group_now_ms(g), g->membership.index,
				  &g->membership.members, &d);
	thmqi_group_handle(g, rc, &d);
	return true;
}

static bool time_out(struct thmqi_group *g)
{
	struct thmqi_duties d;
	int rc;

	if (thmqi_unlikely(g->newcomer) && !thmqi_newcomer_is_known(g))
		return false;
	if (thmqi_unlikely(g->removed))
		return false;
	if (thmqi_group_now_ms(g) < thmqi_engine_timeout_ms(g->engine))
		return false;
	rc = thmqi_engine_timeout(g->engine, thmqi_group_now_ms(g), &d);
	thmqi_group_handle(g, rc, &d);
	return true;
}

static void on_timer(struct thmqi_timer *t)
{
	thmqi_container(t, struct thmqi_group, timer)->timer_ms =
		0; /* the iteration that it causes does the rest */
}

/* @again: something is to be tried again though no event comes. */
static void set_timer(struct thmqi_group *g, bool again)
{
	uint64_t ms = thmqi_engine_timeout_ms(g->engine), now = thmqi_group_now_ms(g);

	ms = THMQI_MAX(g->newcomer ? g->probe_ms : ms, now + 1);
	if (again)
		ms = now + AGAIN_NS / NS_PER_MS;
	else if (thmqi_unlikely(g->removed)) /* it waits for nothing but for one that leads it */
		return;
	if (thmqi_timer_is_running(&g->timer) && g->timer_ms <= ms) /* it comes in time */
		return;
	g->timer_ms = ms;
	g->timer.fire = on_timer;
	thmqi_timer_start(g->core, &g->timer, ms * NS_PER_MS);
}

static uint32_t tell(struct thmqi_group *g)
{
	const struct thmqi_group_events *e = &g->opts.events;
	uint32_t done = 0;

	if (g->tell_role) {
		g->tell_role = false;
		done++;
		if (e->role)
			e->role(e->ctx, g->role, g->term, g->leader);
	}
	if (thmqi_unlikely(g->tell_removed)) {
		g->tell_removed = false;
		done++;
		if (e->removed)
			e->removed(e->ctx, g->removed != 0);
	}
	if (g->tell_members) {
		g->tell_members = false;
		done++;
		if (e->members)
			e->members(e->ctx, &g->membership.members, g->membership.index);
	}
	return done;
}

/* From time to time: whoever it is handed to may know no better, or hand it back. */
static void hand_over_damaged(struct thmqi_group *g)
{
	if (g->role != THMQI_ROLE_LEADER || g->parked || thmqi_group_now_ms(g) < g->damaged_ms)
		return;
	g->damaged = false;
	g->damaged_ms = thmqi_group_now_ms(g) + DAMAGED_MS;
	thmqi_group_transfer(g, 0);
}

/*
 * Rule B12: it leads and does not vote. Nothing is appended here, and a voter that has all leads in its place: each of them in its turn, since raft's does
 * not stand where it has something behind that which nobody else has.
 */
static void hand_over_outsider(struct thmqi_group *g)
{
	const struct thmqi_members *m = &g->membership.members;
	uint32_t i, at;

	if (g->role != THMQI_ROLE_LEADER || g->parked || thmqi_engine_transferring(g->engine))
		return;
	for (i = 0; i < m->count; i++) {
		at = (g->heir + i) % m->count;
		if (m->list[at].role == THMQI_MEMBER_VOTER &&
		    thmqi_engine_match(g->engine, m->list[at].id) == thmqi_log_last(g->log)) {
			g->heir = at + 1;
			thmqi_group_transfer(g, m->list[at].id);
			return;
		}
	}
}

/* Return: events taken. */
static uint32_t take_events(struct thmqi_group *g)
{
	uint32_t done = 0;

	while (!g->failed && done < STEPS_PER_ROUND) {
		if (g->parked && !g->unparked)
			break;
		if (g->parked) {
			g->parked = g->unparked = false;
			finish_duties(g);
		} else if (!persist(g) && !commit(g) && !thmqi_inbox_step(g)) {
			break;
		}
		done++;
	}
	if (!g->failed && !g->parked)
		done += thmqi_retain_step(g);
	/* behind what has come: a message may be the one that was waited for */
	if (!g->failed && !g->parked)
		done += time_out(g);
	return done;
}

static int group_poll(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_group *g = thmqi_container(poller, struct thmqi_group, poller);
	uint32_t done;

	(void)budget;
	if (g->failed) {
		if (!g->tell_failed)
			return 0;
		g->tell_failed = false;
		thmqi_log_lead(g->log,
			       false); /* not where it was found: that may be inside of an append */
		if (g->opts.events.failed)
			g->opts.events.failed(g->opts.events.ctx, g->failed);
		return 1;
	}
	done = take_events(g);
	if (g->failed)
		return 1;
	if (thmqi_unlikely(g->damaged))
		hand_over_damaged(g);
	if (!g->parked)
		note_role(g);
	if (g->role == THMQI_ROLE_LEADER) {
		bool outsider = thmqi_engine_is_outsider(g->engine);

		thmqi_log_hold(g->log, outsider || thmqi_engine_transferring(g->engine));
		if (thmqi_unlikely(outsider))
			hand_over_outsider(g);
	}
	return (int)(done + tell(g));
}

/* Behind the log's own, in which batches are formed. */
static void group_finish(struct thmqi_poller *poller)
{
	struct thmqi_group *g = thmqi_container(poller, struct thmqi_group, poller);

	if (g->failed || dies(g))
		return;
	if (!g->parked)
		thmqi_peers_pump(g);
	set_timer(g, thmqi_peers_wait(g) || (!g->parked && g->inbox_head != g->inbox_tail));
}

static bool group_arm(struct thmqi_poller *poller)
{
	struct thmqi_group *g = thmqi_container(poller, struct thmqi_group, poller);

	return g->tell_failed || (!g->failed && (g->unparked || g->tell_role || g->tell_members || g->tell_removed));
}

static void group_end(struct thmqi_poller *poller)
{
	thmqi_group_close(thmqi_container(poller, struct thmqi_group, poller), 0);
}

/* ---------------------------------------------------------------- log's side */

/* What batches say of the membership is kept here, all else is the owner's. */
static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	struct thmqi_group *g = ctx;
	struct thmqi_membership m;
	int rc;

	if (run->header->encoding == THMQ_RUN_STATE && run->header->partition == 0) {
		if (run->header->base_offset == STATE_TRIM) {
			thmqi_retain_note(g, run);
			return 0;
		}
		rc = run->payload ? thmqi_membership_decode(run->payload, run->header->len, &m)
				  : -THMQ_ECORRUPT;
		if (rc)
			return rc;
		if (run->index >= g->membership.index) {
			m.index = run->index;
			g->membership = m;
			g->members_committed = false;
			g->tell_members = true;
			thmqi_peers_set(g);
		}
	}
	return g->owner.replay ? g->owner.replay(g->owner_ctx, run) : 0;
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct thmqi_group *g = ctx;

	if (g->owner.settled)
		g->owner.settled(g->owner_ctx, durability, index);
}

static void on_unappended(void *ctx, uint64_t index)
{
	struct thmqi_group *g = ctx;

	if (g->trim_batch >= index)
		g->trim_batch = 0;
	if (g->membership.index >= index) { /* not committed, so that the one before it is */
		g->membership.index = g->membership.previous_index;
		g->membership.members = g->membership.previous;
		g->membership.previous_index = 0;
		g->members_committed = true;
		g->tell_members = true;
		thmqi_peers_set(g);
	}
	if (g->owner.unappended)
		g->owner.unappended(g->owner_ctx, index);
}

static void on_log_failed(void *ctx, int error)
{
	struct thmqi_group *g = ctx;

	thmqi_group_fail(g, error);
	if (g->owner.failed)
		g->owner.failed(g->owner_ctx, error);
}

static void on_room(void *ctx)
{
	struct thmqi_group *g = ctx;

	if (g->owner.room)
		g->owner.room(g->owner_ctx);
}

static void on_checkpoint(void *ctx)
{
	struct thmqi_group *g = ctx;

	if (g->owner.checkpoint && g->role == THMQI_ROLE_LEADER)
		g->owner.checkpoint(g->owner_ctx);
}

static int on_live(void *ctx, const struct thmq_log_extent *extent)
{
	struct thmqi_group *g = ctx;

	return g->owner.live(g->owner_ctx, extent);
}

static int on_renew(void *ctx, uint32_t kind, uint64_t item)
{
	struct thmqi_group *g = ctx;

	return g->owner.renew ? g->owner.renew(g->owner_ctx, kind, item) : 0;
}

static int on_leave(void *ctx, uint32_t partition)
{
	struct thmqi_group *g = ctx;

	return g->owner.leave ? g->owner.leave(g->owner_ctx, partition) : 0;
}

static int on_over(void *ctx, const struct thmq_log_run *run, const struct thmq_record_view *record)
{
	struct thmqi_group *g = ctx;

	return g->owner.over(g->owner_ctx, run, record);
}

static int on_trim(void *ctx, uint64_t index)
{
	return thmqi_group_trim(ctx, index);
}

static const struct thmq_log_events log_events = {
	.size = sizeof(log_events),
	.replay = on_replay,
	.settled = on_settled,
	.unappended = on_unappended,
	.failed = on_log_failed,
	.room = on_room,
	.checkpoint = on_checkpoint,
};

/* --------------------------------------------------------------------- open */

static int open_log(struct thmqi_group *g)
{
	struct thmqi_membership m = {.index = 1};
	uint8_t *first = malloc(THMQI_MEMBERSHIP_BYTES_MAX);
	struct thmqi_log_copies copies = {
		.formed = on_formed, .trim = g->events.live ? on_trim : NULL, .ctx = g, .first = NULL};
	int rc;

	if (!first)
		return thmqi_fail(-ENOMEM, "no memory for a group of copies");
	if (g->opts.members) {
		m.members = *g->opts.members;
		copies.first = first;
		copies.first_len = thmqi_membership_encode(&m, first);
	}
	rc = thmqi_log_open_copy(g->core, &g->log_opts, &copies, g->opts.log_defects, &g->log);
	free(first);
	return rc;
}

static bool next_terms(void *ctx, uint32_t at, uint64_t *ret_index, uint64_t *ret_term)
{
	return thmqi_log_terms(((struct thmqi_group *)ctx)->log, at, ret_index, ret_term);
}

/*
 * A voter that is alone leads without an election, and raft has it lead in the term in which it did before. What it lost in a crash may
 * be with others who get copies, and would have the same index and term as what it writes now: so its term rises first.
 */
static int raise_lone_term(struct thmqi_group *g, struct thmqi_engine_start *s)
{
	const struct thmqi_members *m = &g->membership.members;
	const struct thmqi_member *me = thmqi_members_find(m, g->opts.id);

	if (!me || me->role != THMQI_MEMBER_VOTER || thmqi_members_voters(m) > 1)
		return 0;
	s->term++;
	s->voted_for = g->opts.id;
	return thmqi_log_vote_set_now(g->log, s->term, s->voted_for);
}

static int start(struct thmqi_group *g)
{
	struct thmqi_engine_start s = {.now_ms = thmqi_group_now_ms(g),
				       .membership = &g->membership,
				       .terms = next_terms,
				       .ctx = g};
	const struct thmqi_engine_opts opts = {.id = g->opts.id,
					       .group = g->opts.group,
					       .heartbeat_ms = g->opts.heartbeat_ms,
					       .election_ms = g->opts.election_ms,
					       .seed = (uint32_t)thmqi_prng_next(&g->core->prng),
					       .defects = g->opts.defects,
					       .send = thmqi_peers_send,
					       .ctx = g};
	int rc = thmqi_engine_open(&opts, &g->engine);

	if (rc)
		return rc;
	thmqi_log_vote(g->log, &s.term, &s.voted_for);
	thmqi_log_begin(g->log, &s.begin_index, &s.begin_term);
	s.last = thmqi_log_last(g->log);
	if (!g->membership.index && s.last &&
	    g->opts.members) { /* it was made just now: nothing was replayed */
		g->membership.index = 1;
		g->membership.members = *g->opts.members;
		thmqi_peers_set(g);
	}
	rc = raise_lone_term(g, &s);
	if (!rc)
		rc = thmqi_engine_start(g->engine, &s, &g->duties);
	g->members_committed = g->membership.index <= THMQI_MAX(s.begin_index, 1u);
	g->dropped = s.begin_index;
	g->parked = g->unparked = true; /* what the start asks for is done by the poller */
	return rc;
}

static int check_opts(struct thmqi_group *g, const struct thmqi_group_opts *opts)
{
	static const uint8_t any[16];

	g->opts = *opts;
	g->opts.heartbeat_ms = opts->heartbeat_ms ? opts->heartbeat_ms : HEARTBEAT_MS;
	g->opts.election_ms = opts->election_ms ? opts->election_ms : ELECTION_MS;
	if (!opts->id || !opts->wire.send || !opts->log || !opts->log->dir)
		return thmqi_fail(-EINVAL, "a group of copies needs a number for this one, a way "
					   "to the others, and a directory");
	if (opts->members && thmqi_members_check(opts->members))
		return thmqi_fail(-EINVAL,
				  "the members of a group are 1 to %u, with different numbers and "
				  "addresses, and one of them votes",
				  THMQI_MEMBERS_MAX);
	if (memcmp(opts->log->log_id, any, sizeof(any)) == 0)
		return thmqi_fail(-EINVAL,
				  "the log of a group of copies has an identity, the same on all");
	if (g->opts.election_ms < 2 * g->opts.heartbeat_ms)
		return thmqi_fail(-EINVAL, "election_ms is twice heartbeat_ms at least");
	if (thmqi_opts_copy(&g->log_opts, sizeof(g->log_opts), opts->log) ||
	    thmqi_opts_copy(&g->owner, sizeof(g->owner), g->log_opts.events))
		return thmqi_fail(-EINVAL,
				  "options of a log of a size that this library cannot take");
	g->newcomer = opts->newcomer;
	g->joins = !opts->members;
	g->owner_ctx = g->log_opts.ctx;
	g->events = log_events;
	if (opts->cleans && g->owner.live) {
		g->events.live = on_live;
		g->events.renew = on_renew;
		g->events.leave = on_leave;
		if (g->owner.over)
			g->events.over = on_over;
	}
	g->log_opts.events = &g->events;
	g->log_opts.ctx = g;
	return 0;
}

int thmqi_group_open(struct thmq_core *core, const struct thmqi_group_opts *opts,
		     struct thmqi_group **ret_group)
{
	struct thmqi_group *g = calloc(1, sizeof(*g));
	int rc;

	if (!g)
		return thmqi_fail(-ENOMEM, "no memory for a group of copies");
	g->core = core;
	rc = check_opts(g, opts);
	if (!rc)
		rc = open_log(g);
	if (!rc)
		rc = start(g);
	g->opts.members = NULL;
	g->opts.log = NULL;
	if (rc) {
		thmqi_engine_close(g->engine);
		if (g->log)
			thmq_log_close(g->log, 0);
		free(g);
		return rc;
	}
	g->poller = (struct thmqi_poller){.poll = group_poll,
					  .arm = group_arm,
					  .finish = group_finish,
					  .end = group_end,
					  .name = "group"};
	thmqi_core_add_poller(core, &g->poller);
	*ret_group = g;
	return 0;
}

/* The device has nothing of the log any more. */
static void on_gone(void *arg)
{
	struct thmqi_group *g = arg;
	void (*gone)(void *arg) = g->gone;
	void *gone_arg = g->gone_arg;

	thmqi_engine_close(g->engine);
	free(g);
	if (gone)
		gone(gone_arg);
}

int thmqi_group_close(struct thmqi_group *g, uint64_t timeout_ns)
{
	return g ? thmqi_group_close_notify(g, timeout_ns, NULL, NULL) : 0;
}

int thmqi_group_close_notify(struct thmqi_group *g, uint64_t timeout_ns, void (*gone)(void *arg),
			     void *arg)
{
	g->gone = gone;
	g->gone_arg = arg;
	g->closing = true;
	g->failed = g->failed ? g->failed : -ESHUTDOWN;
	thmqi_timer_stop(g->core, &g->timer);
	thmqi_core_remove_poller(g->core, &g->poller);
	thmqi_inbox_clear(g);
	drop_taking(g);
	thmqi_peers_drop(g);
	return thmqi_log_close_notify(g->log, timeout_ns, on_gone, g);
}

struct thmq_log *thmqi_group_log(struct thmqi_group *g)
{
	return g->log;
}

void thmqi_group_state(const struct thmqi_group *g, struct thmqi_group_state *ret)
{
	*ret = (struct thmqi_group_state){.role = g->role,
					  .failed = g->failed,
					  .term = g->term,
					  .leader = g->leader,
					  .last = thmqi_log_last(g->log),
					  .durable = thmqi_log_durable(g->log),
					  .committed = g->committed,
					  .members_index = g->membership.index,
					  .members_committed = g->members_committed,
					  .transferring = thmqi_engine_transferring(g->engine)};
}

uint64_t thmqi_group_everywhere(const struct thmqi_group *g)
{
	uint64_t index = thmqi_engine_everywhere(g->engine, &g->membership.members);

	return g->failed ? 0 : THMQI_MIN(index, g->committed);
}

uint64_t thmqi_group_behind(const struct thmqi_group *g, uint64_t id)
{
	uint64_t last = thmqi_log_last(g->log), has;

	if (g->failed || g->role != THMQI_ROLE_LEADER)
		return UINT64_MAX;
	has = id == g->opts.id ? thmqi_engine_stored(g->engine) : thmqi_engine_match(g->engine, id);
	return has ? last - THMQI_MIN(has, last) : UINT64_MAX;
}

const struct thmqi_members *thmqi_group_members(const struct thmqi_group *g)
{
	return &g->membership.members;
}
