/* SPDX-License-Identifier: Apache-2.0 */
/* replica_world.c - nodes, network and time of a simulated cluster. */
#include "replica_world.h"

#define DIR_NAME "copy"
#define LATENCY_MIN 20000u
#define WINDOW_MAX (1 * MS)
#define LINK_PACKETS_MAX 48u
#define FELT_NS (400 * MS) /* a log without room tries again every so often */

void world_fail(struct world *w, const struct node *n, const char *what, uint64_t number)
{
	fprintf(stderr, "seed %llu (%s): %s: node %u, %llu, at %llu us\n",
		(unsigned long long)w->seed, w->plan->name, what, n ? n->number : 0,
		(unsigned long long)number, (unsigned long long)(w->now / 1000));
	exit(1);
}

struct node *node_of(struct world *w, uint64_t copy_id)
{
	for (uint32_t i = 1; i <= w->places; i++)
		if (w->node[i].id == copy_id)
			return &w->node[i];
	return NULL;
}

/* ------------------------------------------------------------------ network */

static void packet_add(struct world *w, struct packet *p)
{
	struct packet **at = &w->packets;

	p->seq = w->sequence++;
	while (*at && (*at)->due <= p->due)
		at = &(*at)->next;
	p->next = *at;
	*at = p;
	w->link[p->from][p->to].packets++;
}

static struct packet *packet_new(const struct node *from, const struct node *to,
				 const struct thmqi_message *m, const struct thmqi_buf *buf)
{
	struct packet *p = calloc(1, sizeof(*p));

	if (!p)
		abort();
	p->from = from->number;
	p->to = to->number;
	p->message = *m;
	p->len = m->batch_bytes;
	if (buf) {
		p->bytes = malloc(p->len);
		if (!p->bytes)
			abort();
		memcpy(p->bytes, buf->data, p->len);
	}
	return p;
}

static void packet_free(struct packet *p)
{
	free(p->bytes);
	free(p);
}

/* In the order of sending, but for what is late: as over connections that were opened anew. */
static uint64_t due_of(struct world *w, struct link *l)
{
	uint64_t due = w->now + LATENCY_MIN + chance(w, 100000);

	if (!w->healed && chance(w, 50) == 0)
		return due + chance(w, 60 * MS);
	due = THMQI_MAX(due, l->last_due + 1);
	l->last_due = due;
	return due;
}

static int on_send(void *ctx, const struct thmqi_message *m, struct thmqi_buf *buf)
{
	struct node *n = ctx, *to = node_of(n->w, m->to);
	struct world *w = n->w;
	struct packet *p;
	struct link *l;

	if (!to || !to->used)
		return -EHOSTUNREACH;
	l = &w->link[n->number][to->number];
	if (l->packets >= LINK_PACKETS_MAX) {
		l->blocked = true;
		return -EAGAIN;
	}
	trace(w, m->type * 16 + n->number, m->index);
	w->count.packets++;
	if (!w->healed && chance(w, 40) == 0)
		return 0; /* lost */
	p = packet_new(n, to, m, buf);
	if (p->len && !w->healed && chance(w, 60) == 0) {
		p->bytes[chance(w, p->len)] ^= (uint8_t)(1u << chance(w, 8));
		w->count.damaged++;
	}
	p->due = due_of(w, l);
	packet_add(w, p);
	if (!w->healed && chance(w, 60) == 0) {
		p = packet_new(n, to, m, buf);
		p->due = w->now + LATENCY_MIN + chance(w, 30 * MS);
		packet_add(w, p);
	}
	return 0;
}

static void deliver(struct world *w, struct packet *p)
{
	struct node *to = &w->node[p->to];
	struct link *l = &w->link[p->from][p->to];
	struct thmqi_buf *buf = NULL;
	int rc = 0;

	l->packets--;
	if (l->blocked && l->packets < LINK_PACKETS_MAX / 2) {
		l->blocked = false;
		if (w->node[p->from].up)
			thmqi_group_writable(w->node[p->from].group, to->id);
	}
	if (!to->up || l->cut || p->message.to != to->id) {
		packet_free(p);
		return;
	}
	if (to->stands_until > w->now) { /* they wait for it */
		p->due = to->stands_until;
		packet_add(w, p);
		return;
	}
	if (p->len) {
		rc = thmqi_buf_alloc(to->core->pool, p->len, &buf);
		if (!rc)
			memcpy(buf->data, p->bytes, p->len);
	}
	if (!rc) {
		rc = thmqi_group_receive(to->group, &p->message, buf);
		if (rc && buf)
			thmqi_buf_unref(buf);
	}
	if (rc == -EAGAIN || rc == -ENOBUFS) {
		p->due = w->now + 50000;
		packet_add(w, p);
		return;
	}
	packet_free(p);
}

/* -------------------------------------------------------------------- nodes */

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	struct node *n = ctx;

	trace(n->w, 1000 + role, term * 16 + leader);
	if (role == THMQI_ROLE_LEADER) {
		n->w->count.elections++;
		check_leader(n, term);
	}
}

static void on_committed(void *ctx, uint64_t index)
{
	struct node *n = ctx;

	if (index <= n->committed)
		world_fail(n->w, n, "the commit index does not rise", index);
	check_committed(n, index);
	n->committed = index;
}

static void on_failed(void *ctx, int error)
{
	struct node *n = ctx;

	if (!n->died && !n->disk_bad && n->felt_until <= n->w->now && !n->failed && !thmqi_disk_sim_is_down(n->sim))
		world_fail(n->w, n, "a copy failed", (uint64_t)-error);
	n->failed = true;
}

static void acknowledge(struct node *n, uint64_t index)
{
	struct world *w = n->w;
	uint32_t i, left = 0;

	for (i = 0; i < n->pending_count; i++) {
		if (n->pending[i].index > index) {
			n->pending[left++] = n->pending[i];
			continue;
		}
		if (n->pending[i].index > w->committed_count)
			world_fail(w, n, "acknowledged and not committed", n->pending[i].index);
		w->acked[n->pending[i].id] = true;
		w->acked_count++;
	}
	n->pending_count = left;
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct node *n = ctx;

	if (durability != THMQ_DURABILITY_QUORUM || thmqi_disk_sim_is_down(n->sim)) /* nobody hears it any more */
		return;
	check_committed(n, index);
	acknowledge(n, index);
}

/* It lacked what its leader has dropped. */
static void reset(struct node *n)
{
	uint64_t begin, term;

	thmqi_log_begin(thmqi_group_log(n->group), &begin, &term);
	if (begin <= n->committed)
		world_fail(n->w, n, "begun anew, and had all that before", begin);
	memset(n->log, 0, BATCHES_MAX * sizeof(*n->log));
	n->known = begin;
	n->pending_count = 0;
	n->w->count.resets++;
	trace(n->w, 2100 + n->number, begin);
}

static void on_unappended(void *ctx, uint64_t index)
{
	struct node *n = ctx;
	uint32_t i, left = 0;

	if (index == 1) {
		reset(n);
		return;
	}
	if (index <= n->committed)
		world_fail(n->w, n, "what was committed is truncated", index);
	trace(n->w, 2000 + n->number, index);
	n->w->count.truncations += index <= n->known;
	n->known = THMQI_MIN(n->known, index - 1);
	for (i = 0; i < n->pending_count; i++)
		if (n->pending[i].index < index)
			n->pending[left++] = n->pending[i];
	n->pending_count = left;
}

static const struct thmq_log_events log_events = {
	.size = sizeof(log_events), .settled = on_settled, .unappended = on_unappended};

static bool on_boundary(void *ctx)
{
	struct node *n = ctx;

	if (!n->dies_in || --n->dies_in)
		return false;
	n->died = true;
	thmqi_disk_sim_crash(n->sim);
	return true;
}

static void first_members(struct world *w, struct thmqi_members *m)
{
	memset(m, 0, sizeof(*m));
	m->count = w->nodes;
	for (uint32_t i = 0; i < w->nodes; i++) {
		m->list[i].id = i + 1;
		m->list[i].role = THMQI_MEMBER_VOTER;
		snprintf(m->list[i].address, sizeof(m->list[i].address), "sim://%u", i + 1);
	}
}

static void catch_up_with_time(struct node *n)
{
	uint64_t local = n->w->now + n->offset, now = thmqi_disk_sim_now(n->sim);

	if (now < local)
		thmqi_disk_sim_advance(n->sim, local - now);
}

static void node_close(struct node *n)
{
	int leaked;

	n->up = false;
	thmqi_group_close(n->group, 0);
	n->group = NULL;
	leaked = thmqi_env_close(n->env);
	n->env = NULL;
	if (leaked)
		world_fail(n->w, n, "buffers are missing", (uint64_t)leaked);
}

static int open_group(struct node *n)
{
	struct world *w = n->w;
	struct thmqi_members members;
	const struct thmq_log_opts log = {.size = sizeof(log),
					  .dir = DIR_NAME,
					  .segment_bytes_min = 1u << 20,
					  .segment_bytes_max = 1u << 20,
					  .cache_bytes = 256u << 10,
					  .batch_bytes = 64u << 10,
					  .events = &log_events,
					  .ctx = n,
					  .log_id = "simulated group"};
	const struct thmqi_group_opts opts = {
		.log = &log,
		.events = {.role = on_role,
			   .committed = on_committed,
			   .failed = on_failed,
			   .ctx = n},
		.wire = {.send = on_send, .ctx = n},
		.id = n->id,
		.group = 7,
		.members = n->joins ? NULL : &members,
		.heartbeat_ms = 10,
		.election_ms = 50,
		.defects = w->plan->defects,
		.log_defects = w->plan->log_defects,
		.dies = on_boundary,
		.dies_ctx = n,
	};

	first_members(w, &members);
	if (thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 32u << 20, .policy = THMQ_POLICY_EVENT), thmqi_disk_sim_world(n->sim),
			   &n->env) != 0)
		world_fail(w, n, "no environment", 0);
	n->core = thmqi_env_core(n->env, 0);
	return thmqi_group_open(n->core, &opts, &n->group);
}

void node_start(struct node *n)
{
	struct world *w = n->w;
	int rc;

	catch_up_with_time(n);
	n->died = n->failed = false;
	n->dies_in = 0;
	n->committed = 0;
	n->stands_until = 0;
	n->pending_count = 0;
	rc = open_group(n);
	if (rc && !n->disk_bad) {
		fprintf(stderr, "%s\n", thmq_errmsg());
		world_fail(w, n, "it does not open", 0);
	}
	trace(w, 3000 + n->number, (uint64_t)-rc);
	if (rc) {
		n->group = NULL;
		thmqi_env_close(n->env);
		n->env = NULL;
	}
	if (n->struck) { /* somebody has seen what its disk does */
		if (!rc) {
			check_opened(n);
			node_close(n);
		}
		n->dead = true;
		w->count.replaced++;
		return;
	}
	if (rc) {
		n->restart_at = w->now + 20 * MS;
		return;
	}
	/* not before: one that cannot be opened has what it had, and who does not come back has said what it has said */
	n->known = 0;
	memset(n->log, 0, BATCHES_MAX * sizeof(*n->log));
	n->up = true;
	check_new_batches(n);
	check_opened(n);
	trace(w, 3000 + n->number, n->known);
}

void node_crash(struct node *n, uint64_t down_ns)
{
	struct world *w = n->w;
	struct thmqi_disk_sim_stats s;

	check_new_batches(n);
	n->durable = thmqi_log_durable(thmqi_group_log(n->group));
	n->kept = THMQI_MIN(n->durable, n->committed);
	thmqi_disk_sim_crash(n->sim); /* unless it was cut already */
	node_close(n);
	thmqi_disk_sim_restart(n->sim);
	thmqi_disk_sim_stats(n->sim, &s);
	if (s.unstable)
		world_fail(w, n, "bytes changed while they were written", s.unstable);
	n->restart_at = w->now + down_ns;
	w->count.crashes++;
	trace(w, 4000 + n->number, n->durable);
}

void node_mend(struct node *n)
{
	struct thmqi_group_state s;

	/* it may have failed by its disk, in a call that took long, and not have said so yet */
	if (n->up && n->disk_bad) {
		thmqi_group_state(n->group, &s);
		n->failed = n->failed || s.failed;
	}
	thmqi_disk_sim_cut_at(n->sim, 0, 0);
	thmqi_disk_sim_faults_clear(n->sim);
	thmqi_disk_sim_set_capacity(n->sim, 0);
	if (n->disk_bad)
		n->felt_until = n->w->now + FELT_NS;
	n->disk_bad = n->struck;
	n->lies_in = n->mend_at = 0;
}

void node_stop(struct node *n)
{
	check_new_batches(n);
	n->durable = n->kept = thmqi_log_last(thmqi_group_log(n->group));
	node_close(n);
}

/* Events of a core that is not polled: it may have been cut, or died. */
static void node_live(struct node *n, uint64_t until)
{
	struct world *w = n->w;
	uint64_t now;

	if (n->stands_until > w->now)
		return;
	if (n->stands_until) { /* it goes on, and time has passed at once */
		n->stands_until = 0;
		catch_up_with_time(n);
	}
	for (now = thmqi_disk_sim_now(n->sim); n->up && now < until + n->offset;
	     now = thmqi_disk_sim_now(n->sim)) {
		thmqi_core_poll(n->core, until + n->offset - now);
		w->count.failures += n->failed;
		if (n->died || n->failed || thmqi_disk_sim_is_down(n->sim))
			node_crash(n, chance(w, 200) * MS);
		else
			check_new_batches(n);
	}
}

struct node *world_leader(struct world *w)
{
	struct thmqi_group_state s;
	struct node *best = NULL;
	uint64_t term = 0;

	for (uint32_t i = 1; i <= w->places; i++) {
		if (!w->node[i].up || w->node[i].stands_until > w->now)
			continue;
		thmqi_group_state(w->node[i].group, &s);
		if (s.role == THMQI_ROLE_LEADER && s.term > term) {
			best = &w->node[i];
			term = s.term;
		}
	}
	return best;
}

/* ---------------------------------------------------------------------- time */

void world_run(struct world *w, uint64_t until)
{
	uint64_t horizon;
	uint32_t i;

	while (w->now < until) {
		while (w->packets && w->packets->due <= w->now) {
			struct packet *p = w->packets;

			w->packets = p->next;
			deliver(w, p);
		}
		horizon = THMQI_MIN(until, w->now + WINDOW_MAX);
		if (w->packets)
			horizon = THMQI_MIN(horizon,
					    THMQI_MAX(w->packets->due, w->now + LATENCY_MIN));
		for (i = 1; i <= w->places; i++) {
			struct node *n = &w->node[i];

			if (n->mend_at && n->mend_at <= w->now)
				node_mend(n);
			if (n->used && !n->up && n->restart_at && n->restart_at <= w->now) {
				n->restart_at = 0;
				node_start(n);
			}
			if (n->up)
				node_live(n, horizon);
		}
		w->now = horizon;
		w->count.windows++;
	}
}

static uint32_t size_of(uint64_t id)
{
	return id % 11 == 0 ? (uint32_t)(id * 97 % 40000) : (uint32_t)(8 + id * 37 % 500);
}

int node_append(struct node *n)
{
	struct world *w = n->w;
	struct thmq_log *log = thmqi_group_log(n->group);
	struct thmq_run_header *run;
	uint64_t id = w->next_id, index;
	uint32_t len = size_of(id), i;
	int rc;

	if (id == IDS_MAX || n->pending_count == PENDING_MAX ||
	    thmqi_log_last(log) + 128 > BATCHES_MAX)
		return -EAGAIN;
	rc = thmq_log_append(log, (uint32_t)sizeof(*run) + len, &run, &index);
	if (rc)
		return rc;
	w->next_id++;
	thmq_run_init(run, THMQ_RUN_OPAQUE, (uint32_t)(id % PARTITIONS), id, 1, len);
	for (i = 0; i < len; i++)
		((uint8_t *)(run + 1))[i] = (uint8_t)(id * 13 + i);
	rc = thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE);
	if (rc)
		return rc;
	n->pending[n->pending_count].index = index;
	n->pending[n->pending_count++].id = id;
	return 0;
}

/* --------------------------------------------------------------------- world */

/* Where batches are written, and nothing else: who forgets a vote is none that raft knows. */
static void on_disk_op(void *ctx, const char *name, const struct thmqi_disk_op *op)
{
	struct node *n = ctx;
	const char *dot = strrchr(name, '.');

	if (!n->lies_in || op->opcode != THMQI_DISK_WRITE || !dot || strcmp(dot, ".log") != 0 || --n->lies_in)
		return;
	thmqi_disk_sim_fault_add(n->sim, &(struct thmqi_disk_sim_fault){
						 .opcode = THMQI_DISK_WRITE, .effect = n->lie, .nth = 1});
	n->struck = n->disk_bad = true;
	n->w->count.lies++;
	trace(n->w, 7000 + n->number, op->offset);
}

static void disk_open(struct node *n, uint64_t seed)
{
	const struct thmqi_disk_sim_opts disk = {.flags = n->w->plan->disk_flags};

	if (thmqi_disk_sim_open(seed, &disk, &n->sim) != 0)
		abort();
	thmqi_disk_sim_observe(n->sim, on_disk_op, n);
}

static void node_init(struct world *w, uint32_t number)
{
	struct node *n = &w->node[number];

	n->w = w;
	n->number = number;
	n->id = number;
	n->used = true;
	n->offset = chance(w, 1000) * MS;
	n->log = calloc(BATCHES_MAX, sizeof(*n->log));
	if (!n->log)
		abort();
	disk_open(n, w->seed * 16 + number);
}

void node_wipe(struct node *n)
{
	thmqi_disk_sim_close(n->sim);
	disk_open(n, n->w->seed * 16 + n->w->next_copy_id * 1024);
	n->id = n->w->next_copy_id++;
	n->joins = true;
	n->disk_bad = n->struck = n->dead = false;
	n->mend_at = n->lies_in = n->felt_until = 0;
	n->known = n->durable = n->kept = 0;
}

void world_open(struct world *w, const struct plan *plan, uint64_t seed)
{
	memset(w, 0, sizeof(*w));
	w->plan = plan;
	w->seed = seed;
	w->now = 2 * SECOND;
	thmqi_prng_seed(&w->prng, seed);
	w->nodes = seed % 4 == 3 ? 5 : 3;
	w->places = w->nodes + 1;
	w->next_copy_id = 100;
	w->committed = calloc(BATCHES_MAX, sizeof(*w->committed));
	w->committed_in = calloc(BATCHES_MAX, sizeof(*w->committed_in));
	if (!w->committed || !w->committed_in)
		abort();
	for (uint32_t i = 1; i <= w->nodes; i++) {
		node_init(w, i);
		node_start(&w->node[i]);
	}
	node_init(w, w->places); /* it joins later, if at all */
	w->node[w->places].joins = true;
	w->node[w->places].used = false;
}

void world_close(struct world *w)
{
	struct packet *p;

	for (uint32_t i = 1; i <= w->places; i++) {
		if (w->node[i].up)
			node_close(&w->node[i]);
		thmqi_disk_sim_close(w->node[i].sim);
		free(w->node[i].log);
	}
	while ((p = w->packets)) {
		w->packets = p->next;
		packet_free(p);
	}
	free(w->committed);
	free(w->committed_in);
}
