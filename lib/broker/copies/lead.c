/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lead.c - a shard that is one of several copies: it serves clients while it leads, and what it leads with is committed; else it only
 * takes what another one appends, as at an open. Where something that it was told is taken back the log is opened anew, so that
 * the one way in which state comes from a log is enough. All shards of a broker are led by the one that leads meta: a session has
 * one broker. Knows nothing of elections, and not how messages travel.
 */
#include "lead.h"
#include "node.h"

#define BALANCE_NS 50000000u

bool thmqi_lead_serves(const struct shard *s)
{
	return !s->lead || s->lead->serves;
}

uint64_t thmqi_lead_group(const struct thmq_broker *b, uint32_t shard)
{
	return (thmqi_hash64(b->cluster_id, sizeof(b->cluster_id)) & ~(uint64_t)0xffff) | shard;
}

struct shard *thmqi_lead_shard(struct thmq_broker *b, uint64_t group)
{
	uint32_t i = (uint32_t)group & 0xffff;

	return b->cluster && i < b->shard_count && thmqi_lead_group(b, i) == group ? &b->shards[i]
										   : NULL;
}

/* ---------------------------------------------------------------- serving */

static bool is_meta(const struct shard *s)
{
	return s->id == THMQI_SHARD_META;
}

void thmqi_lead_welcome_all(struct shard *s)
{
	struct thmqi_list *waiting = &s->lead->waiting;

	while (!thmqi_list_empty(waiting)) {
		struct conn *c = thmqi_list_first(waiting, struct conn, link);

		thmqi_list_del(&c->link);
		thmqi_shard_welcome(c);
	}
}

static void begin(struct shard *s)
{
	struct lead *l = s->lead;
	struct thmq_broker *b = s->broker;

	thmqi_bereft_begin_serving(s);
	thmqi_settle_deposed(s); /* the mark of a term, which nobody waits for: it was not heard of before this one serves, and what is told again would wait behind it */
	l->serves = true;
	s->term = l->term;
	thmqi_shard_begin_term(s);
	if (is_meta(s)) {
		atomic_store(&b->incarnation, l->term);
		thmqi_meta_lead(b->meta);
		atomic_store(&b->leads, true);
	}
	thmqi_lead_welcome_all(s);
}

static void send_away(struct thmqi_list *conns, int error)
{
	while (!thmqi_list_empty(conns)) {
		struct conn *c = thmqi_list_first(conns, struct conn, link);

		thmqi_conn_flush_progress(c);
		thmqi_conn_leave(c, error);
	}
}

void thmqi_lead_send_away(struct shard *s, int error)
{
	send_away(&s->conns, error);
	send_away(&s->resting, error);
}

/* Sessions look for who leads now. What was appended here and is not committed may come true all the same. */
static void depose(struct shard *s)
{
	s->lead->serves = false;
	thmqi_delay_stop(s, -THMQ_ENOTLEADER);
	thmqi_txn_deposed(s);
	thmqi_lost_tell_producers(s);
	thmqi_lead_send_away(s, -THMQ_ENOTLEADER);
	thmqi_settle_deposed(s);
	thmqi_offsets_deposed(s);
	s->blocked = false;
	if (is_meta(s)) {
		atomic_store(&s->broker->leads, false);
		thmqi_roll_forget(s->broker);
		s->lead->rebuild = true; /* it applies what it changes later than it appends it */
	}
}

/* --------------------------------------------------------------- rebuilding */

static int open_group(struct shard *s, const struct thmq_log_opts *log);

/* A log that is closed: a device that is slow may have writes of it for some time. */
struct leaving {
	struct lead *lead; /* NULL: it did not wait */
	void *hold;
};

static void on_left(void *arg)
{
	struct leaving *x = arg;

	thmqi_broker_dir_let_go(x->hold);
	if (x->lead)
		x->lead->leaving = NULL;
	free(x);
}

static void fail(struct shard *s, int error)
{
	s->failed = error;
	thmqi_trouble_failed(s, error);
	send_away(&s->lead->waiting, -THMQ_EFAILED);
}

static void reopen(struct shard *s)
{
	int rc;

	s->lead->reopens = false;
	if (s->closing || s->failed)
		return;
	rc = thmqi_shard_log_open(s, s->lead->dir, NULL, false);
	if (rc)
		fail(s, rc);
}

/* The log tells all again, as at an open: who was here before is forgotten. */
static void rebuild(struct shard *s)
{
	struct lead *l = s->lead;
	struct thmqi_group *g = l->group;
	struct leaving *x;
	int rc;

	if (s->closing || s->failed || !g) {
		l->rebuild = false;
		return;
	}
	x = malloc(sizeof(*x));
	if (!x)
		return; /* once there is memory */
	*x = (struct leaving){.lead = l, .hold = thmqi_broker_dir_keep(s->broker)};
	l->rebuild = false;
	l->leaving = x;
	thmqi_afar_leave(s);
	l->group = NULL;
	s->log = NULL;
	l->role = 0;
	l->term = l->leader = l->committed = 0;
	l->all_head = l->all_tail; /* it is told again, and what of it is committed is known by its index */
	l->told_index = 0;
	l->bereft_ns = l->bereft_ns ? l->bereft_ns : s->core->now_ns;
	l->wire_full = false;
	rc = thmqi_group_close_notify(g, 0, on_left, x);
	thmqi_shard_reset(s);
	if (is_meta(s))
		thmqi_meta_reset(s->broker->meta);
	l->taken_back = UINT64_MAX;
	if (rc && rc != -ETIMEDOUT) /* nobody knows what it has stored */
		fail(s, rc);
	else
		l->reopens = true;
}

/* What it is told of while another one leads, or leads again, has nothing to do with what was appended here. */
static bool leads_still(const struct lead *l)
{
	struct thmqi_group_state state;

	if (!l->serves || l->rebuild || !l->group)
		return false;
	thmqi_group_state(l->group, &state);
	return state.role == THMQI_ROLE_LEADER && state.term == l->term;
}

/* Is there somebody to be connected to for meta, as for all else? */
static bool has_meta(const struct shard *s)
{
	return atomic_load(&s->broker->leads) || atomic_load(&s->broker->reads);
}

void thmqi_lead_poll(struct shard *s)
{
	struct lead *l = s->lead;

	if (thmqi_unlikely(l->serves && (l->role != THMQI_ROLE_LEADER || l->rebuild)))
		depose(s);
	if (thmqi_unlikely(s->reads_only && (l->leader || l->rebuild || s->failed)))
		thmqi_bereft_end(s);
	if (thmqi_unlikely(l->rebuild))
		rebuild(s);
	if (thmqi_unlikely(l->reopens && !l->leaving)) /* two at a time would write over each other */
		reopen(s);
	if (l->taken)
		thmqi_letters_deliver(s);
	if (l->all_head != l->all_tail && leads_still(l)) {
		thmqi_settle_everywhere(s, thmqi_group_everywhere(l->group));
		thmqi_settle_weaker(s);
	}
	if (thmqi_unlikely(l->wire_full) && l->group) {
		const struct thmqi_members *m = thmqi_group_members(l->group);
		uint32_t i;

		l->wire_full = false;
		for (i = 0; i < m->count; i++)
			thmqi_group_writable(l->group, m->list[i].id);
	}
	if (thmqi_unlikely(!l->serves && l->role == THMQI_ROLE_LEADER && !s->failed &&
			   !s->closing && l->committed >= l->begin_index))
		begin(s);
	/* they came beside a connection to meta, which is elsewhere now */
	if (thmqi_unlikely(!thmqi_list_empty(&l->waiting) && !has_meta(s)))
		send_away(&l->waiting, -THMQ_ENOTLEADER);
}

bool thmqi_lead_waits(struct shard *s)
{
	const struct lead *l = s->lead;

	return l->taken || l->wire_full || l->rebuild || l->reopens || (s->reads_only && l->leader) ||
	       (l->serves && l->role != THMQI_ROLE_LEADER) || (!thmqi_list_empty(&l->waiting) && !has_meta(s));
}

/*
 * One that has more than is committed takes no lead over: it must hear first that it is to go. The engine appends nothing of its own where
 * all that it begins with is committed.
 */
static int mark_term(struct shard *s)
{
	struct lead *l = s->lead;
	const uint64_t term = l->term;
	struct pending *e;
	int rc;

	if (l->marked_term == term)
		return 0;
	rc = thmqi_shard_append_state(s, STATE_TERM, 0, &term, sizeof(term), &e);
	if (rc)
		return rc;
	l->marked_term = term;
	l->marked_index = e->index;
	return 0;
}

bool thmqi_lead_mark_term(struct shard *s)
{
	return mark_term(s) == 0;
}

bool thmqi_lead_is_certain(struct shard *s)
{
	return mark_term(s) == 0 && s->lead->committed >= s->lead->marked_index;
}

/* One that is not to lead is better than none. */
static uint64_t heir_of_ill(struct shard *s)
{
	uint64_t id;

	return s->lead->group && thmqi_drain_spared(s->broker->meta, &id) == 0 && id ? id : UINT64_MAX;
}

/* A log that is full gets no mark; by then the others have heard of all that is committed. */
static bool may_go(struct shard *s)
{
	int rc = mark_term(s);

	return !rc || thmqi_lacks_space(rc);
}

/*
 * Who leads meta is to lead all, and one that cannot, or is drained, is not to lead it. One that was removed from meta before it was from this shard never hears who leads
 * that, nor does one whose copy of meta has failed: another one does.
 */
static void on_timer(struct thmqi_timer *t)
{
	struct lead *l = thmqi_container(t, struct lead, timer);
	struct shard *s = l->shard;
	uint64_t leader = atomic_load(&s->broker->leader);

	if (is_meta(s))
		leader = thmqi_trouble_is_to_go(s) ? heir_of_ill(s) : l->serves ? thmqi_drain_heir(s->broker->meta) : s->broker->opts.node_id;
	else if (!leader && (atomic_load(&s->broker->ill) || thmqi_bereft_of_meta(s)))
		leader = UINT64_MAX;
	if (l->serves && l->role == THMQI_ROLE_LEADER && leader &&
	    leader != s->broker->opts.node_id && may_go(s))
		thmqi_group_transfer(l->group, leader == UINT64_MAX ? 0 : leader);
	/* it will never serve: another one may */
	if (s->failed && l->group && l->role == THMQI_ROLE_LEADER)
		thmqi_group_transfer(l->group, 0);
	thmqi_bereft_step(s);
	thmqi_txn_again(s);
	thmqi_trouble_step(s);
	thmqi_roll_step(s);
	thmqi_timer_start(s->core, t, s->core->now_ns + BALANCE_NS);
}

/* -------------------------------------------------------------- connections */

static void tell_nodes(struct conn *c)
{
	const struct lead *l = c->shard->lead;
	const struct thmqi_members *m = l->group ? thmqi_group_members(l->group) : NULL;
	struct thmqi_reply *reply = c->wire->reply;
	uint32_t i;

	if (!m || !m->count)
		m = c->shard->broker->cluster;
	memset(reply->value, 0, sizeof(reply->value));
	reply->value[0] = l->leader;
	reply->count = reply->total = THMQI_MIN(m->count, THMQI_NODES_MAX);
	for (i = 0; i < reply->count; i++) {
		reply->nodes[i].id = m->list[i].id;
		thmqi_afar_client_url(m->list[i].address, reply->nodes[i].url,
				      sizeof(reply->nodes[i].url));
	}
	thmqi_reply(c, 0, 0);
}

bool thmqi_lead_keep(struct conn *c)
{
	struct shard *s = c->shard;
	struct lead *l = s->lead;

	if (is_meta(s))
		tell_nodes(c);
	if ((l->serves && l->role == THMQI_ROLE_LEADER) || s->reads_only)
		return false;
	if (is_meta(s) || s->failed || !has_meta(s)) {
		thmqi_conn_leave(c, -THMQ_ENOTLEADER);
	} else {
		c->waits = true;
		thmqi_list_add_tail(&l->waiting, &c->link);
	}
	return true;
}

/* ----------------------------------------------------------------- the group */

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct shard *s = ctx;

	if (leads_still(s->lead)) {
		if (durability == THMQ_DURABILITY_QUORUM && s->log)
			thmqi_log_times_agreed(s->log, index);
		thmqi_settle(s, durability, index);
	}
}

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	struct shard *s = ctx;

	/* another one leads, and its first batches are here before it was said: what they end must not be under way here any more */
	if (thmqi_unlikely(s->lead->serves))
		depose(s);
	return s->lead->rebuild ? 0 : thmqi_shard_replay(s, run);
}

static void on_unappended(void *ctx, uint64_t index)
{
	struct lead *l = ((struct shard *)ctx)->lead;

	l->taken_back = THMQI_MIN(l->taken_back, THMQI_MAX(index, l->known + 1)); /* a log that begins anew is of what is committed */
	l->rebuild = true;
}

static void on_room(void *ctx)
{
	struct shard *s = ctx;

	s->blocked = false;
	thmqi_txn_room(s);
}

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	struct shard *s = ctx;
	struct lead *l = s->lead;
	struct thmqi_group_state state;

	if (role == THMQI_ROLE_LEADER && (l->role != role || l->term != term)) {
		thmqi_group_state(l->group, &state);
		l->begin_index = state.last;
		if (l->serves) /* it did before, in another term */
			depose(s);
	}
	l->role = role;
	l->term = term;
	l->leader = leader;
	thmqi_bereft_note_role(s);
	if (is_meta(s))
		atomic_store(&s->broker->leader, leader);
}

static void on_committed(void *ctx, uint64_t index)
{
	struct shard *s = ctx;

	s->lead->committed = index;
	thmqi_bereft_committed(s, index);
	if (is_meta(s) && !s->lead->rebuild)
		thmqi_follow_committed(s->broker->meta, index);
}

/* Another copy takes over; what is here can be mended only by opening the broker again. */
static void on_failed(void *ctx, int error)
{
	struct shard *s = ctx;

	if (s->failed)
		return;
	s->lead->role = 0;
	s->failed = error;
	if (is_meta(s)) /* it hears no more of who leads, and the other shards follow that one */
		atomic_store(&s->broker->leader, 0);
	thmqi_trouble_failed(s, error);
}

static void on_known(void *ctx)
{
	thmqi_node_known(((struct shard *)ctx)->broker);
}

/* Whoever comes is sent to the others, and reads nothing here, which may be old. */
static void on_removed(void *ctx, bool is)
{
	struct shard *s = ctx;

	if (is_meta(s))
		atomic_store(&s->broker->removed, is);
}

static const char *address_in(const struct thmqi_members *m, uint64_t id)
{
	const struct thmqi_member *found = thmqi_members_find(m, id);

	return found ? found->address : NULL;
}

static int on_send(void *ctx, const struct thmqi_message *message, struct thmqi_buf *buf)
{
	struct shard *s = ctx;
	struct lead *l = s->lead;
	const struct thmqi_carrier *carrier = &s->broker->carrier;
	const char *address = address_in(thmqi_group_members(l->group), message->to);
	struct thmqi_member other;
	int rc;

	if (!address) /* one that joins knows from its options whom it may answer, until its log says who there is */
		address = address_in(s->broker->cluster, message->to);
	if (!address && thmqi_node_placed(s->broker, message->to, &other)) /* it came while this one was away: another shard may have heard of it */
		address = other.address;
	rc = carrier->send(carrier->ctx, s->broker, address, message, buf);
	if (rc == -EAGAIN)
		l->wire_full = true;
	return rc;
}

/* --------------------------------------------------------------------- open */

static void on_members(void *ctx, const struct thmqi_members *members, uint64_t index)
{
	const struct shard *s = ctx;
	struct thmqi_courier *c = s->lead->carried.carrier;
	uint32_t i;

	(void)index;
	if (!c) {
		thmqi_node_place(s->broker, members);
		return;
	}
	/* now the log says where they are, and not what this one began with */
	for (i = 0; i < s->broker->cluster->count && members->count; i++)
		if (s->broker->cluster->list[i].id != s->broker->opts.node_id)
			thmqi_courier_place(c, s->broker->cluster->list[i].id, NULL);
	thmqi_courier_members(c);
}

static const struct thmq_log_events log_events = {
	.size = sizeof(log_events),
	.replay = on_replay,
	.settled = on_settled,
	.unappended = on_unappended,
	.room = on_room,
	.live = thmqi_retain_live,
	.renew = thmqi_retain_renew,
	.leave = thmqi_retain_leave,
	.over = thmqi_retain_over,
};

/* Nobody has told it more than what it was made with: is that what it is given now? All others say the same as they were given. */
static int check_list(const struct shard *s)
{
	const struct thmqi_members *given = s->broker->cluster, *made = thmqi_group_members(s->lead->group);
	struct thmqi_group_state state;
	bool same = made->count == given->count;
	uint32_t i;

	thmqi_group_state(s->lead->group, &state);
	if ((s->broker->opts.flags & THMQ_BROKER_JOIN) || !thmqi_node_is_new(s->broker) || state.members_index > 1)
		return 0;
	for (i = 0; i < made->count && same; i++) {
		const struct thmqi_member *m = thmqi_members_find(given, made->list[i].id);

		same = m && strcmp(m->address, made->list[i].address) == 0;
	}
	return same ? 0
		    : thmqi_fail(-EREMCHG,
				 "open %s: it was made with another list of brokers, and has not met all of them: nothing is stored there yet; empty it, and "
				 "those of the others that were given that list",
				 s->broker->data_dir);
}

static int open_group(struct shard *s, const struct thmq_log_opts *log)
{
	struct lead *l = s->lead;
	struct thmq_broker *b = s->broker;
	struct thmq_log_opts opts = *log;
	const struct thmqi_group_opts g = {
		.log = &opts,
		.events = {.role = on_role,
			   .committed = on_committed,
			   .members = on_members,
			   .failed = on_failed,
			   .known = on_known,
			   .removed = on_removed,
			   .ctx = s},
		.wire = {.send = l->courier ? thmqi_carried_send : on_send,
			 .ctx = l->courier ? (void *)&l->carried : s},
		.id = b->opts.node_id,
		.group = thmqi_lead_group(b, s->id),
		.members = b->opts.flags & THMQ_BROKER_JOIN ? NULL : b->cluster,
		.heartbeat_ms = b->opts.heartbeat_ms,
		.election_ms = b->opts.election_ms,
		.cleans = true,
		.newcomer = b->carrier.send == thmqi_carrier_inproc.send && thmqi_node_is_new(b),
		.defects = b->carrier.defects,
		.log_defects = b->carrier.log_defects,
	};
	int rc;

	opts.events = &log_events;
	opts.ctx = s;
	thmqi_cluster_log_id(b, s->id, opts.log_id);
	rc = thmqi_group_open(s->core, &g, &l->group);
	if (!rc)
		rc = check_list(s);
	if (!rc)
		rc = thmqi_afar_join(s);
	if (!rc)
		s->log = thmqi_group_log(l->group);
	return rc;
}

static int make(struct shard *s, const char *dir)
{
	struct lead *l = calloc(1, sizeof(*l));

	if (!l)
		return thmqi_fail(-ENOMEM, "no memory for a shard with copies");
	l->dir = strdup(dir);
	s->lead = l;
	l->all = calloc(PENDING_COUNT, sizeof(*l->all)); /* mostly never touched */
	if (!l->dir || !l->all || thmqi_letters_init(s) != 0) {
		s->lead = NULL;
		free(l->all);
		free(l->dir);
		free(l);
		return thmqi_fail(-ENOMEM, "no memory for a shard with copies");
	}
	l->shard = s;
	thmqi_list_init(&l->waiting);
	l->bereft_ns = s->core->now_ns;
	l->taken_back = UINT64_MAX;
	l->timer.fire = on_timer;
	thmqi_timer_start(s->core, &l->timer, s->core->now_ns + BALANCE_NS);
	return thmqi_afar_open(s);
}

int thmqi_lead_open(struct shard *s, const struct thmq_log_opts *opts)
{
	bool anew = !s->lead;
	int rc = anew ? make(s, opts->dir) : 0;

	rc = rc ? rc : open_group(s, opts);
	if (rc && anew && s->lead) {
		thmqi_group_close(s->lead->group, 0);
		s->lead->group = NULL;
		thmqi_lead_fini(s);
	}
	return rc;
}

void thmqi_lead_shut(struct shard *s)
{
	send_away(&s->lead->waiting, -ESHUTDOWN);
}

int thmqi_lead_hand_over(struct shard *s)
{
	struct thmqi_group *g = s->lead->group;

	if (!g || s->lead->role != THMQI_ROLE_LEADER)
		return 1;
	/* nobody else could: it is over with it */
	return thmqi_group_transfer(g, 0) == -EINVAL;
}

int thmqi_lead_close(struct shard *s, uint64_t timeout_ns, void (*gone)(void *arg), void *arg)
{
	struct thmqi_group *g = s->lead->group;

	thmqi_afar_leave(s);
	s->lead->group = NULL;
	s->log = NULL;
	if (g)
		return thmqi_group_close_notify(g, timeout_ns, gone, arg);
	gone(arg);
	return 0;
}

void thmqi_lead_fini(struct shard *s)
{
	struct lead *l = s->lead;

	if (!l)
		return;
	if (l->leaving)
		l->leaving->lead = NULL;
	thmqi_timer_stop(s->core, &l->timer);
	thmqi_afar_close(s);
	thmqi_letters_fini(s);
	free(l->all);
	free(l->dir);
	free(l);
	s->lead = NULL;
}
