/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group.c - membership: which consumer of a group reads which partition. How they are shared out is assign.c's. A partition changes hands in three steps: the old owner is asked, lets go, the new one gets it with a higher
 * epoch; an owner that is dead or silent for too long is not waited for: the higher epoch fences it at the shard.
 */
#include "../meta/meta.h"
#include "../txn/txn.h"

/* Who is away is told when it comes back. */
static void send(struct conn *c, struct thmqi_frame *f)
{
	if (!c)
		return;
	thmqi_conn_send(c, f);
	thmqi_conn_kick(c);
}

static uint32_t partition_id(const struct group *g, uint32_t i)
{
	return thmqi_topic_partition(&g->topic->state, i);
}

static void tell_assigned(struct meta *m, struct group *g, uint32_t i)
{
	struct assignment *a = &g->assignments[i];
	struct thmqi_frame f = {.type = THMQI_FRAME_ASSIGN,
				.stream = a->owner->stream,
				.partition = partition_id(g, i),
				.len = i,
				.extra = g->partitions,
				.seq = a->epoch,
				.arg = {thmqi_meta_shard_of(m, &g->topic->state, i), g->id}};

	send(a->owner->conn, &f);
}

static void give(struct meta *m, struct group *g, uint32_t i)
{
	struct assignment *a = &g->assignments[i];

	a->owner = a->target;
	a->revoke_deadline_ns = 0;
	if (!a->owner)
		return;
	a->epoch = ++m->next_epoch;
	tell_assigned(m, g, i);
}

static void ask_back(struct meta *m, struct group *g, uint32_t i, int status)
{
	struct assignment *a = &g->assignments[i];
	struct thmqi_frame f = {.type = THMQI_FRAME_REVOKE,
				.stream = a->owner->stream,
				.partition = partition_id(g, i),
				.seq = a->epoch,
				.status = status};

	if (a->revoke_deadline_ns && status == 0)
		return; /* asked already */
	a->revoke_deadline_ns = m->shard->core->now_ns + a->owner->timeout_ns;
	send(a->owner->conn, &f);
}

static void rebalance(struct meta *m, struct group *g)
{
	uint32_t count = g->topic->state.partition_count, i;

	if (!g->assignments)
		return;
	if (g->member_count == 0) {
		for (i = 0; i < count; i++)
			g->assignments[i].owner = g->assignments[i].target = NULL;
		return;
	}
	thmqi_assign(m, g);
	for (i = 0; i < count; i++) {
		struct assignment *a = &g->assignments[i];

		if (!a->owner)
			give(m, g, i);
		else if (a->owner != a->target) /* if it keeps it, and was asked before, it gets it again once it has let go */
			ask_back(m, g, i, 0);
	}
}

/* The others keep what they have for now. */
static void forget_member(struct meta *m, struct group *g, struct member *member)
{
	uint32_t i;

	thmqi_list_del(&member->link);
	g->member_count--;
	m->member_count--;
	for (i = 0; i < g->topic->state.partition_count; i++) {
		if (g->assignments[i].owner == member)
			g->assignments[i].owner = NULL;
		if (g->assignments[i].target == member)
			g->assignments[i].target = NULL;
	}
	free(member);
}

static void remove_member(struct meta *m, struct group *g, struct member *member)
{
	forget_member(m, g, member);
	rebalance(m, g);
}

/* ------------------------------------------------------------------- time */

#define LOOK_NS 50000000ull /* how often members are looked at, where time-outs are that short */

/* It is told even where it has no partition: it will get none. */
static void fence(struct meta *m, struct group *g, struct member *member)
{
	struct thmqi_frame f = {
		.type = THMQI_FRAME_EXPELLED, .stream = member->stream, .status = -THMQ_EFENCED};
	uint32_t i;

	for (i = 0; i < g->topic->state.partition_count; i++)
		if (g->assignments[i].owner == member)
			ask_back(m, g, i, -THMQ_EFENCED);
	send(member->conn, &f);
}

static void look_at_group(struct meta *m, struct group *g, uint64_t now, uint64_t *shortest)
{
	struct thmqi_list *it, *tmp;
	struct member *member;
	uint32_t beat, i;

	thmqi_list_each_safe(it, tmp, &g->members)
	{
		member = thmqi_container(it, struct member, link);
		*shortest = THMQI_MIN(*shortest, member->timeout_ns);
		beat = member->conn ? atomic_load_explicit(&member->conn->wire->beat, memory_order_relaxed) : member->beat;
		if (beat != member->beat) {
			member->beat = beat;
			member->beat_ns = now;
		} else if (now - member->beat_ns > member->timeout_ns) {
			fence(m, g, member);
			remove_member(m, g, member);
		}
	}
	for (i = 0; g->member_count && i < g->topic->state.partition_count; i++) {
		struct assignment *a = &g->assignments[i];

		/* alive, but does not let go: the app sits on its messages */
		if (a->owner && a->revoke_deadline_ns && now > a->revoke_deadline_ns) {
			ask_back(m, g, i, -THMQ_EFENCED);
			give(m, g, i);
		}
	}
}

#define TIMEOUT_MAX_NS 31536000000000000ull /* added to the time it must not overflow, whoever asks */
#define LONELY_NS 30000000000ull /* so long a temporary topic is kept that nobody reads */

static bool has_members(const struct topic *t)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &t->groups)
		if (thmqi_container(it, struct group, link)->member_count)
			return true;
	return false;
}

/* True: it is to go, and will: the topics are not as they were then. */
static bool look_at_temporary(struct meta *m, struct topic *t, uint64_t now)
{
	if (has_members(t) || (m->shard->lead && !thmqi_lead_serves(m->shard))) {
		t->lonely_ns = 0;
		return false;
	}
	t->lonely_ns = t->lonely_ns ? t->lonely_ns : now;
	if (now - t->lonely_ns < LONELY_NS)
		return false;
	t->lonely_ns = now; /* where it cannot be deleted now it is tried again, as late */
	thmqi_change_topic_delete(m, t);
	return true;
}

static void on_timer(struct thmqi_timer *t)
{
	struct meta *m = thmqi_container(t, struct meta, timer);
	uint64_t now = m->shard->core->now_ns, shortest = UINT64_MAX;
	bool temporary = false, gone = false;
	struct thmqi_list *it;
	uint32_t i;

	for (i = 0; i < m->topic_count && !gone; i++) {
		thmqi_list_each(it, &m->topics[i]->groups)
			look_at_group(m, thmqi_container(it, struct group, link), now, &shortest);
		if (!(m->topics[i]->state.flags & THMQ_TOPIC_TEMPORARY))
			continue;
		temporary = true;
		shortest = THMQI_MIN(shortest, LONELY_NS / 3);
		gone = look_at_temporary(m, m->topics[i], now);
	}
	m->timer_on = m->member_count > 0 || temporary;
	if (m->timer_on)
		thmqi_timer_start(m->shard->core, t, now + (gone ? LOOK_NS : THMQI_MAX(shortest / 4, LOOK_NS)));
}

void thmqi_group_timer_start(struct meta *m)
{
	if (m->timer_on)
		return;
	m->timer_on = true;
	thmqi_timer_start(m->shard->core, &m->timer, m->shard->core->now_ns + LOOK_NS);
}

/* A short time-out must not wait for a long one's turn, and who is silent not until nobody joins any more. */
static void look_by(struct meta *m, uint64_t ns)
{
	if (!m->timer_on || m->timer.deadline_ns > ns)
		thmqi_timer_start(m->shard->core, &m->timer, ns);
	m->timer_on = true;
}

void thmqi_group_timer_init(struct meta *m)
{
	m->timer.fire = on_timer;
}

/* ------------------------------------------------------------ join, leave */

static struct member *member_by_id(struct group *g, uint64_t id)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &g->members)
	{
		struct member *member = thmqi_container(it, struct member, link);

		if (id && member->id == id)
			return member;
	}
	return NULL;
}

/* Somebody else has its name now. */
static void replace(struct member *member)
{
	struct thmqi_frame f = {
		.type = THMQI_FRAME_EXPELLED, .stream = member->stream, .status = -THMQ_EFENCED};

	send(member->conn, &f);
}

/* It hears again what it has, and what it was asked for meanwhile. */
static void come_back(struct meta *m, struct group *g, struct member *member, struct conn *c, uint32_t stream)
{
	uint32_t i;

	if (member->instance[0] && (member->conn != c || member->stream != stream))
		replace(member);
	member->conn = c;
	member->stream = stream;
	member->beat = atomic_load_explicit(&c->wire->beat, memory_order_relaxed);
	member->beat_ns = m->shard->core->now_ns;
	for (i = 0; i < g->topic->state.partition_count; i++) {
		struct assignment *a = &g->assignments[i];

		if (a->owner != member)
			continue;
		tell_assigned(m, g, i);
		if (a->revoke_deadline_ns) {
			a->revoke_deadline_ns = 0;
			ask_back(m, g, i, 0);
		}
	}
}

static int reserve(struct group *g, uint32_t partitions)
{
	struct assignment *grown;

	if (partitions <= g->assignment_room)
		return 0;
	grown = realloc(g->assignments, partitions * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	memset(grown + g->assignment_room, 0, (partitions - g->assignment_room) * sizeof(*grown));
	g->assignments = grown;
	g->assignment_room = partitions;
	return 0;
}

/* Those that never had members get it with the first one. */
int thmqi_group_reserve(struct topic *t, uint32_t partitions)
{
	struct thmqi_list *it;
	int rc = 0;

	thmqi_list_each(it, &t->groups)
	{
		struct group *g = thmqi_container(it, struct group, link);

		if (!rc && g->assignments)
			rc = reserve(g, partitions);
	}
	return rc;
}

void thmqi_group_grown(struct meta *m, struct topic *t)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &t->groups) rebalance(m, thmqi_container(it, struct group, link));
}

int thmqi_group_join(struct meta *m, struct group *g, const struct meta_change *wish)
{
	struct member *member = member_by_id(g, wish->member);
	struct conn *c = wish->conn;

	if (member) {
		come_back(m, g, member, c, wish->stream);
		return 0;
	}
	member = calloc(1, sizeof(*member));
	if (!member)
		return -ENOMEM;
	if (!g->assignments && reserve(g, THMQI_MAX(g->topic->state.partition_count, g->topic->partitions_coming)) != 0) {
		free(member);
		return -ENOMEM;
	}
	member->conn = c;
	member->stream = wish->stream;
	member->id = wish->member;
	memcpy(member->instance, wish->instance, sizeof(member->instance));
	if (!g->member_count)
		g->assignor = wish->assignor;
	member->machine = wish->machine;
	member->cpu = wish->machine == thmqi_machine_id() && wish->cpu - 1 < INT32_MAX ? (int)(wish->cpu - 1) : -1;
	member->node = thmqi_env_node_of(m->broker->env, member->cpu);
	member->timeout_ns = THMQI_MIN(THMQI_MAX(wish->timeout_ns, 1000000ull), TIMEOUT_MAX_NS);
	member->beat = atomic_load_explicit(&c->wire->beat, memory_order_relaxed);
	member->beat_ns = m->shard->core->now_ns;
	thmqi_list_add_tail(&g->members, &member->link);
	g->member_count++;
	m->member_count++;
	rebalance(m, g);
	look_by(m, m->shard->core->now_ns + THMQI_MAX(member->timeout_ns / 4, LOOK_NS));
	return 0;
}

static struct member *find_member(struct group *g, const struct conn *c, uint32_t stream)
{
	struct thmqi_list *it;
	struct member *member;

	thmqi_list_each(it, &g->members)
	{
		member = thmqi_container(it, struct member, link);
		if (member->conn == c && (stream == UINT32_MAX || member->stream == stream))
			return member;
	}
	return NULL;
}

static void leave_all(struct meta *m, struct conn *c, uint32_t stream, uint64_t id)
{
	struct thmqi_list *it;
	struct member *member;
	struct group *g;
	uint32_t i;

	for (i = 0; i < m->topic_count; i++) {
		thmqi_list_each(it, &m->topics[i]->groups)
		{
			g = thmqi_container(it, struct group, link);
			while ((member = find_member(g, c, stream)) || (member = member_by_id(g, id)))
				remove_member(m, g, member);
		}
	}
}

void thmqi_group_leave(struct meta *m, struct conn *c, uint32_t stream, uint64_t id)
{
	leave_all(m, c, stream, id);
}

/* Its JOIN may not be stored yet: a member that nobody is there for any more would keep its partitions unread. */
void thmqi_meta_left(struct meta *m, struct conn *c, uint32_t stream, uint64_t id)
{
	struct meta_change *change;

	for (change = m->changes; change; change = change->next)
		if (change->conn == c && change->op == THMQI_OP_JOIN && change->stream == stream)
			change->left = true;
	leave_all(m, c, stream, id);
}

void thmqi_meta_revoked(struct meta *m, struct conn *c, const struct thmqi_frame *f)
{
	struct thmqi_list *it;
	struct assignment *a;
	struct group *g;
	uint32_t i, at;

	for (i = 0; i < m->topic_count; i++) {
		const struct state_topic *t = &m->topics[i]->state;

		at = thmqi_grow_index(t, f->partition);
		if (at == UINT32_MAX)
			continue;
		thmqi_list_each(it, &m->topics[i]->groups)
		{
			g = thmqi_container(it, struct group, link);
			a = g->assignments ? &g->assignments[at] : NULL;
			if (a && a->owner && a->owner->conn == c && a->owner->stream == f->stream &&
			    a->epoch == f->seq) {
				a->owner = NULL;
				give(m, g, at);
				return;
			}
		}
	}
}

/* Those that may come back keep what they have for as long as they may be silent. */
static void go_away(struct meta *m, struct conn *c)
{
	struct thmqi_list *git, *it;
	uint32_t i;

	for (i = 0; i < m->topic_count; i++)
		thmqi_list_each(git, &m->topics[i]->groups)
			thmqi_list_each(it, &thmqi_container(git, struct group, link)->members)
			{
				struct member *member = thmqi_container(it, struct member, link);

				if (member->conn != c || !member->id)
					continue;
				member->conn = NULL;
				member->beat_ns = m->shard->core->now_ns;
			}
}

void thmqi_group_away(struct meta *m, struct conn *c, uint32_t stream)
{
	struct thmqi_list *it;
	struct member *member;
	uint32_t i;

	for (i = 0; i < m->topic_count; i++)
		thmqi_list_each(it, &m->topics[i]->groups)
		{
			member = find_member(thmqi_container(it, struct group, link), c, stream);
			if (!member)
				continue;
			member->conn = NULL;
			member->beat_ns = m->shard->core->now_ns;
		}
}

void thmqi_group_expel(struct meta *m, struct group *g)
{
	struct member *member;

	while (!thmqi_list_empty(&g->members)) {
		member = thmqi_list_first(&g->members, struct member, link);
		fence(m, g, member);
		forget_member(m, g, member);
	}
}

void thmqi_meta_conn_closed(struct meta *m, struct conn *c)
{
	struct meta_change *change;

	go_away(m, c);
	leave_all(m, c, UINT32_MAX, 0);
	thmqi_txns_conn_closed(m, c);
	for (change = m->changes; change; change = change->next)
		if (change->conn == c)
			change->conn = NULL;
}

void thmqi_group_drop(struct meta *m, struct group *g)
{
	struct member *member;

	while (!thmqi_list_empty(&g->members)) {
		member = thmqi_list_first(&g->members, struct member, link);
		thmqi_list_del(&member->link);
		m->member_count--;
		free(member);
	}
	thmqi_list_del(&g->link);
	thmqi_meta_group_removed(g);
	free(g->assignments);
	free(g);
}
