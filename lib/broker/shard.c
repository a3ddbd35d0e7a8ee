/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shard.c - one log and what is served from it, on one core: its poller takes frames from every connection and passes
 * each to the file that knows it. Its state comes from the log's replay, in replay.c.
 */
#include <stdio.h>

#include "commitlog/plant.h"
#include "delay/delay.h"
#include "txn/txn.h"

#define CTL_BUDGET 256u
#define PRODUCE_BUDGET 4096u
#define TELL_ROUNDS 64u
#define TELL_MESSAGES 1024u
#define STUCK_RETRY_NS 500000u

/* -------------------------------------------------------------- partitions */

struct partition *thmqi_shard_partition(struct shard *s, uint32_t id)
{
	return thmqi_map_get(&s->partitions, id);
}

struct partition *thmqi_shard_partition_asked(struct shard *s, uint32_t id)
{
	return thmqi_unlikely(thmqi_is_own_partition(id)) ? NULL : thmqi_map_get(&s->partitions, id);
}

/* So many side by side, each in cache lines of its own. They go with the shard only. */
#define BLOCK_PARTITIONS 255u

struct partition_block {
	struct partition list[BLOCK_PARTITIONS];
	struct partition_block *next; /* that was filled before */
	uint32_t count;
};

/* Room for one more; it counts once it has been added. */
static struct partition *partition_room(struct shard *s)
{
	struct partition_block *b = s->partition_blocks;

	if (!b || b->count == BLOCK_PARTITIONS) {
		b = aligned_alloc(THMQI_CACHELINE,
				  THMQI_ALIGN_UP(sizeof(*b), (size_t)THMQI_CACHELINE));
		if (!b)
			return NULL;
		b->next = s->partition_blocks;
		b->count = 0;
		s->partition_blocks = b;
	}
	return memset(&b->list[b->count], 0, sizeof(b->list[0]));
}

static int ring_open(struct shard *s, struct partition *p, uint64_t bytes)
{
	struct thmq_log_opts opts = {.size = sizeof(opts), .cache_bytes = bytes, .ctx = p};
	int rc;

	p->ring = calloc(1, sizeof(*p->ring));
	if (!p->ring)
		return -ENOMEM;
	/* a quarter stays for the batch that is being formed and for what consumers hold */
	p->ring->bytes = bytes / 4 * 3;
	rc = thmq_log_open(s->core, &opts, &p->log);
	if (rc)
		free(p->ring);
	return rc;
}

static int retention_take(struct partition *p, const struct state_topic *topic)
{
	bool consumed = topic->flags & THMQ_TOPIC_RETAIN_CONSUMED, compacts = topic->flags & THMQ_TOPIC_COMPACT;
	uint64_t ns = topic->retention_ns;

	if (topic->ttl_ns && (!ns || topic->ttl_ns < ns))
		ns = topic->ttl_ns;
	if (!ns && !topic->retention_bytes && !consumed && !compacts) {
		free(p->retention);
		p->retention = NULL;
		return 0;
	}
	if (!p->retention)
		p->retention = calloc(1, sizeof(*p->retention));
	if (!p->retention)
		return -ENOMEM;
	p->retention->ns = ns;
	p->retention->bytes = topic->retention_bytes;
	p->retention->consumed = consumed;
	p->retention->compacts = compacts;
	p->retention->tombstone_ns = topic->tombstone_ns;
	p->retention->ttl_ns = topic->ttl_ns;
	return 0;
}

static void rest_free(struct partition *p)
{
	if (p->is_volatile) {
		if (p->log)
			thmq_log_close(p->log, 0);
		free(p->ring);
	} else {
		free(p->retention);
	}
}

static void name_partition(struct partition *p, const struct state_topic *topic)
{
	p->visible_at = (uint8_t)THMQI_MIN(topic->visible_at, (uint32_t)THMQ_DURABILITY_ALL);
	p->named = topic->topic_id != 0;
}

int thmqi_shard_partition_add(struct shard *s, uint32_t id, const struct state_topic *topic)
{
	struct partition *p = thmqi_shard_partition(s, id);
	int rc;

	if (p) { /* a copy's log told of it first, or it is told again, or altered */
		rc = thmqi_topics_enter(s, p, topic);
		if (rc)
			return rc;
		name_partition(p, topic);
		return p->is_volatile ? 0 : retention_take(p, topic);
	}
	p = partition_room(s);
	if (!p)
		return -ENOMEM;
	p->id = id;
	name_partition(p, topic);
	p->is_volatile = (id & VOLATILE_PARTITION) != 0;
	p->log = s->log;
	p->last_term = s->term;
	thmqi_list_init(&p->subs);
	thmqi_list_init(&p->groups);
	rc = p->is_volatile ? ring_open(s, p, topic->volatile_bytes) : retention_take(p, topic);
	if (rc)
		return rc;
	rc = thmqi_topics_enter(s, p, topic);
	if (!rc)
		rc = thmqi_map_put(&s->partitions, id, p);
	if (rc)
		thmqi_topics_leave(s, p);
	if (rc)
		rest_free(p);
	else
		s->partition_blocks->count++;
	return rc;
}

/* What is in flight refers to it until the broker closes; a volatile one's ring goes but for what consumers hold. */
void thmqi_shard_partition_drop(struct shard *s, uint32_t id)
{
	struct partition *p = thmqi_shard_partition(s, id);
	struct thmqi_list *it;

	if (!p || p->dead)
		return;
	p->dead = true;
	while (!thmqi_list_empty(&p->subs))
		thmqi_sub_close(thmqi_list_first(&p->subs, struct sub, partition_link),
				-THMQ_ENOTOPIC, true);
	thmqi_list_each(it, &s->conns)
		thmqi_version_drop(thmqi_container(it, struct conn, link), p);
	if (p->is_volatile)
		thmq_log_close(p->log, 0);
	else if (p->log) /* else its copy is being opened anew, or could not be */
		thmq_log_forget(p->log, p->id);
	p->log = NULL;
	p->index = NULL;
	thmqi_topics_leave(s, p);
	thmqi_writers_drop(s, id);
	thmqi_list_each(it, &p->groups)
		thmqi_shared_free(thmqi_container(it, struct group_offset, link));
}

static void groups_free(struct partition *p)
{
	struct group_offset *g;

	while (!thmqi_list_empty(&p->groups)) {
		g = thmqi_list_first(&p->groups, struct group_offset, link);
		if (g->dirty)
			thmqi_list_del(&g->dirty_link);
		thmqi_list_del(&g->link);
		thmqi_shared_free(g);
		thmqi_map_fini(&g->others);
		free(g);
	}
}

static void partition_free(struct partition *p)
{
	groups_free(p);
	rest_free(p);
}

static void partitions_free(struct shard *s)
{
	struct partition_block *b, *next;
	uint32_t i;

	for (b = s->partition_blocks; b; b = next) {
		next = b->next;
		for (i = 0; i < b->count; i++)
			partition_free(&b->list[i]);
		free(b);
	}
	s->partition_blocks = NULL;
	thmqi_map_fini(&s->partitions);
}

/* ---------------------------------------------------------------- log side */

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	thmqi_settle(ctx, durability, index);
}

static void on_failed(void *ctx, int error)
{
	struct shard *s = ctx;
	struct partition *p;
	struct thmqi_list *it;
	uint32_t i = 0;

	thmqi_settle_failed(s, error);
	while ((p = thmqi_map_next(&s->partitions, &i))) {
		thmqi_list_each(it, &p->subs)
		{
			struct sub *sub = thmqi_container(it, struct sub, partition_link);

			thmqi_sub_failed(sub);
			thmqi_conn_kick(sub->conn);
		}
	}
	thmqi_offsets_failed(s);
}

/* What a log says of who votes is the number of its only copy, or else much more. */
static bool is_of_several(const struct thmq_run_header *h)
{
	return h->encoding == THMQ_RUN_STATE && h->partition == 0 && h->base_offset == 0 &&
	       h->len > sizeof(uint64_t);
}

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	if (is_of_several(run->header)) /* alone it would go another way than the others */
		return thmqi_fail(-EINVAL, "open %s: it is one of several copies; say by cluster and node_id which one",
				  ((struct shard *)ctx)->broker->data_dir);
	return thmqi_shard_replay(ctx, run);
}

static void on_room(void *ctx)
{
	struct shard *s = ctx;

	s->blocked = false;
	thmqi_txn_room(s);
}

static const struct thmq_log_events log_events = {
	.size = sizeof(log_events),
	.replay = on_replay,
	.settled = on_settled,
	.failed = on_failed,
	.room = on_room,
	.live = thmqi_retain_live,
	.renew = thmqi_retain_renew,
	.leave = thmqi_retain_leave,
	.over = thmqi_retain_over,
};

/* All that is written to meta is durable, and somebody waits for it. */
static void set_flush_opts(struct thmq_log_opts *opts, const struct thmq_broker_opts *o)
{
	opts->group_ns = o->group_ns;
	opts->group_bytes = o->group_bytes;
	opts->flush_interval_ns = o->flush_interval_ns;
	opts->flush_bytes = o->flush_bytes;
	if (o->flags & THMQ_BROKER_NO_BACKGROUND_FLUSH)
		opts->flags |= THMQ_LOG_NO_BACKGROUND_FLUSH;
}

static int open_one(struct shard *s, const struct thmq_log_opts *opts)
{
	const uint32_t defects = s->broker->carrier.log_defects;

	if (s->broker->cluster)
		return thmqi_lead_open(s, opts);
	return defects ? thmqi_log_open_planted(s->core, opts, defects, &s->log) : thmq_log_open(s->core, opts, &s->log);
}

int thmqi_shard_log_open(struct shard *s, const char *dir, const uint8_t log_id[16], bool create)
{
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	const struct thmq_broker_opts *o = &s->broker->opts;
	struct thmq_log_opts opts = {
		.size = sizeof(opts),
		.dir = dir,
		.events = &log_events,
		.ctx = s,
		.segment_bytes_min = s->id == THMQI_SHARD_META ? 1u << 20 : 0,
		.segment_bytes_max = s->id == THMQI_SHARD_META ? 16u << 20 : o->segment_bytes,
		.cache_bytes = s->id == THMQI_SHARD_META ? 4u << 20 : o->cache_bytes,
		.batch_bytes = s->id == THMQI_SHARD_META ? 64u << 10 : o->batch_bytes,
		.write_depth = o->write_depth,
		.flush_method = o->flush_method,
		.polled_io = o->polled_io,
		.flags = create ? 0 : THMQ_LOG_NO_CREATE,
	};
	struct partition *p;
	uint32_t i = 0;
	int rc;

	if (s->id != THMQI_SHARD_META) {
		set_flush_opts(&opts, o);
		opts.limit_bytes = o->limit_bytes;
		opts.full_policy = o->full_policy;
	}
	if (s->id != THMQI_SHARD_META && opts.segment_bytes_max &&
	    opts.segment_bytes_max < (16u << 20))
		opts.segment_bytes_min = opts.segment_bytes_max;
	if (log_id)
		memcpy(opts.log_id, log_id, sizeof(opts.log_id));
	rc = open_one(s, &opts);
	if (rc)
		return rc;
	if (s->writers_missing) /* what is sent again would be stored twice */
		return thmqi_fail(-ENOMEM, "open %s: out of memory", dir);
	thmq_log_stats(s->log, &stats);
	s->term = stats.term;
	s->unclean = stats.unclean != 0;
	for (i = THMQ_DURABILITY_WRITTEN; i <= s->final && !s->lead; i++)
		s->settled_index[i] = stats.last_index;
	i = 0;
	while ((p = thmqi_map_next(&s->partitions, &i))) {
		if (p->is_volatile || p->dead)
			continue;
		p->log = s->log;
		p->index = NULL;
	}
	if (!s->lead) /* else when it leads */
		thmqi_shard_begin_term(s);
	return 0;
}

static void pending_begin(struct shard *s, uint64_t at)
{
	uint32_t i;

	s->pending_head = s->pending_tail = at;
	for (i = 0; i < THMQI_ARRAY_COUNT(s->pending_at); i++)
		s->pending_at[i] = at;
}

struct pending *thmqi_shard_pending_room(struct shard *s)
{
	if (s->pending_tail - s->pending_head == PENDING_COUNT)
		return NULL;
	/* nothing is on its way: begin where the ring does, so that who never has much on its way touches no more */
	if (s->pending_head == s->pending_tail)
		pending_begin(s, THMQI_ALIGN_UP(s->pending_tail, (uint64_t)PENDING_COUNT));
	return &s->pending[s->pending_tail & (PENDING_COUNT - 1)];
}

void thmqi_shard_flush(struct shard *s, struct partition *p)
{
	uint64_t index;

	p->flush_asked = p->next_offset;
	s->flush_asked = s->pending_tail;
	thmq_log_flush(p->log, &index);
}

int thmqi_shard_append_state(struct shard *s, uint32_t kind, uint64_t item, const void *payload,
			     uint32_t len, struct pending **ret_pending)
{
	struct thmq_run_header *run;
	struct pending *e = thmqi_shard_pending_room(s);
	uint64_t index;
	int rc;

	if (!e)
		return -EAGAIN;
	if (s->failed)
		return -THMQ_EFAILED;
	rc = thmqi_shard_refusal(s, thmq_log_append(s->log, (uint32_t)sizeof(*run) + len, &run, &index));
	if (rc)
		return rc;
	memset(run, 0, sizeof(*run));
	run->len = len;
	run->partition = kind;
	run->base_offset = item;
	run->encoding = THMQ_RUN_STATE;
	run->first_time_ns = run->last_time_ns = (int64_t)s->core->wall_ns;
	memcpy(run + 1, payload, len);
	thmq_log_append_end(s->log, run, THMQ_DURABILITY_DURABLE);
	memset(e, 0, sizeof(*e));
	e->index = index;
	s->pending_tail++;
	*ret_pending = e;
	return 0;
}

/* ------------------------------------------------------------- connections */

void thmqi_shard_welcome(struct conn *c)
{
	struct shard *s = c->shard;
	struct thmq_broker *b = s->broker;
	const uint32_t one_max = (uint32_t)(s->run_max - sizeof(struct thmq_run_header) - sizeof(struct thmq_record));
	const struct thmqi_frame f = {
		.type = THMQI_FRAME_WELCOME,
		.tag_hash = one_max,
		.flags = s->lead ? (uint8_t)s->final : 0,
		.status = s->reads_only ? -THMQ_ENOQUORUM : 0,
		.seq = b->shard_count,
		.len = THMQI_WIRE_VERSION,
		.partition = (uint32_t)b->identity,
		.extra = (uint32_t)(b->identity >> 32),
		.arg = {atomic_load(&b->incarnation),
			s->log ? THMQI_MESSAGE_MAX : one_max}};

	c->waits = false;
	thmqi_list_add_tail(&s->conns, &c->link);
	thmqi_conn_send(c, &f);
	thmqi_conn_kick(c);
}

int thmqi_shard_accept(void *ctx, struct thmqi_link *link)
{
	struct thmq_broker *b = ctx;
	struct shard *s = &b->shards[link->shard];
	struct conn *c = link->room;
	int rc;

	if (s->closing || !s->open)
		return -ESHUTDOWN;
	c->wire = link;
	c->shard = s;
	rc = thmqi_guard_enter(c);
	if (rc) {
		snprintf(link->why, sizeof(link->why), "the broker does not let %.100s in", link->peer);
		return rc;
	}
	link->room = NULL;
	atomic_store_explicit(&link->let_in, 1, memory_order_relaxed);
	c->medium = (uint8_t)thmqi_medium_number(link->medium);
	atomic_fetch_add_explicit(&b->media[c->medium].open, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&b->media[c->medium].accepted, 1, memory_order_relaxed);
	c->serial = ++s->last_serial;
	link->broker = c;
	thmqi_list_init(&c->link);
	s->conn_count++;
	if (!s->lead || !thmqi_lead_keep(c))
		thmqi_shard_welcome(c);
	return 0;
}

/* Nobody sees it any more but by what its consumers hold. */
static void conn_forget(struct conn *c)
{
	struct shard *s = c->shard;

	if (s->id == THMQI_SHARD_META)
		thmqi_meta_conn_closed(s->broker->meta, c);
	thmqi_settle_forget(s, c);
	if (c->parts.partition)
		thmqi_parts_end(c);
	thmqi_version_drop(c, NULL);
	if (c->dirty)
		thmqi_list_del(&c->dirty_link);
	thmqi_list_del(&c->link);
	c->rests = false;
	s->conn_count--;
	atomic_fetch_sub_explicit(&s->broker->media[c->medium].open, 1, memory_order_relaxed);
	thmqi_guard_leave(c);
	free(c->backlog);
	c->backlog = NULL;
	thmqi_sift_forget(c);
}

static void conn_free(struct conn *c)
{
	conn_forget(c);
	thmqi_consumers_close(c);
	thmqi_link_unref(c->wire);
	free(c);
}

/* Runs once the client end has closed, perhaps long after shard and broker: only what is held is left. */
static void conn_let_go(void *arg)
{
	struct conn *c = arg;

	thmqi_consumers_close(c);
	free(c);
}

/*
 * The broker goes while a client's thread may be reading the runs that it holds, and so may the app: they stay in the pool
 * until the client end closes. The log that they came from need not be there for that.
 */
void thmqi_conn_leave(struct conn *c, int error)
{
	thmqi_link_shut(c->wire, error);
	conn_forget(c);
	thmqi_subs_close(c);
	c->shard = NULL;
	thmqi_link_leave(c->wire, conn_let_go, c);
}

void thmqi_shard_closed(void *ctx, struct thmqi_link *link)
{
	struct conn *c = link->broker;

	/* what it committed before it left is taken; what cannot be taken now is dropped with the client */
	c->leaving = true;
	if (!c->waits && !c->shard->reads_only)
		thmqi_produce(c, UINT32_MAX);
	conn_free(c);
}

bool thmqi_shard_rest(void *ctx, struct thmqi_link *link)
{
	(void)ctx;
	return thmqi_conn_rest(link->broker);
}

void thmqi_shard_rouse(void *ctx, struct thmqi_link *link)
{
	(void)ctx;
	thmqi_conn_rouse(link->broker);
}

static void take_ctl(struct conn *c, struct thmqi_frame *f)
{
	switch (f->type) {
	case THMQI_FRAME_REQUEST:
		thmqi_meta_request(c, f->seq, c->wire->request);
		break;
	case THMQI_FRAME_ATTACH:
		thmqi_sub_attach(c, f);
		break;
	case THMQI_FRAME_DETACH:
		thmqi_sub_detach(c, f);
		break;
	case THMQI_FRAME_SEEK:
		thmqi_sub_seek(c, f);
		break;
	case THMQI_FRAME_ACK: /* who reads where nobody leads is of no group */
		if (!c->shard->reads_only)
			thmqi_offsets_ack(c, f);
		break;
	case THMQI_FRAME_FILTER:
		thmqi_sift_text(c, f);
		break;
	case THMQI_FRAME_SETTLE:
		if (!c->shard->reads_only)
			thmqi_shared_settle(c, f);
		break;
	case THMQI_FRAME_RELEASE:
		thmqi_sub_release(c, f->stream, f->arg[0]);
		break;
	case THMQI_FRAME_RELEASES: /* where the medium has no accounts of its own of them, or has settled those */
		for (uint32_t i = 0; c->wire->takes_releases && i < THMQI_MIN(f->len, THMQI_RELEASES); i++)
			thmqi_sub_release(c, f->stream, *thmqi_frame_token(f, i));
		break;
	case THMQI_FRAME_REVOKED:
		if (c->shard->id == THMQI_SHARD_META)
			thmqi_meta_revoked(c->shard->broker->meta, c, f);
		break;
	case THMQI_FRAME_SEEN:
		c->refused_seen = f->arg[0];
		break;
	case THMQI_FRAME_LEAVE:
		if (c->shard->id == THMQI_SHARD_META)
			thmqi_meta_left(c->shard->broker->meta, c, f->stream, f->arg[0]);
		break;
	default: /* a newer client's: it knows that we did not answer */
		break;
	}
}

/* Where its group stands is being decided: who began there now would do again what is done. */
static bool waits(struct shard *s, const struct thmqi_frame *f)
{
	if (f->type != THMQI_FRAME_ATTACH || !thmqi_txn_keeps(s, f->partition, (uint32_t)f->arg[1]))
		return false;
	s->stuck = true;
	return true;
}

static inline __attribute__((always_inline)) uint32_t take_frames(struct conn *c)
{
	struct thmqi_frame_ring *ctl = &c->wire->ctl;
	struct thmqi_frame *f;
	uint32_t done = 0;

	if (thmqi_unlikely(c->backlog_count != 0) && !thmqi_conn_flush_backlog(c))
		return 0;
	if (thmqi_unlikely(c->asked.partition != NULL))
		thmqi_version_go(c);
	/* each is answered by at most one frame */
	while (done < CTL_BUDGET && (f = thmqi_frame_peek(ctl, 0)) && thmqi_conn_room(c, 4)) {
		if (thmqi_unlikely(c->shard->txns && waits(c->shard, f)))
			break;
		take_ctl(c, f);
		thmqi_frame_advance(ctl, 1);
		done++;
	}
	if (done)
		thmqi_frame_publish(ctl);
	if (thmqi_frame_peek(&c->wire->up, 0)) { /* most looks find nothing */
		if (thmqi_unlikely(c->shard->reads_only))
			c->held_up = true; /* its session sends it to who leads */
		else
			done += thmqi_produce(c, PRODUCE_BUDGET);
	}
	return done;
}

/* ------------------------------------------------------------------ poller */

/* What one shard alone decides, and no other connection's turn comes before. */
void thmqi_shard_came(void *ctx, struct thmqi_link *link)
{
	struct conn *c = link->broker;
	struct shard *s = c->shard;

	(void)ctx;
	if (thmqi_likely(!(s->lead || s->blocked || s->closing || c->waits || c->rests)))
		s->taken += take_frames(c);
}

/* Whoever was left without room has the first turn at the next: there may be less of it at a time than one of them can fill. */
static void begin_with(struct shard *s, struct thmqi_list *conn)
{
	thmqi_list_del(&s->conns);
	thmqi_list_add_tail(conn, &s->conns);
}

static void on_stuck(struct thmqi_timer *t)
{
	(void)t; /* the iteration that it causes is all that is wanted */
}

/*
 * What is acknowledged from memory is told every so many rounds, or messages: a producer goes on without it, and each word of
 * it is a cache line that crosses.
 */
static bool progress_is_due(struct shard *s)
{
	return ++s->untold >= TELL_ROUNDS || s->messages_in - s->told_messages >= TELL_MESSAGES || s->tells_at_once;
}

static void tell_progress(struct shard *s)
{
	struct thmqi_list *it, *tmp;

	s->untold = 0;
	s->told_messages = s->messages_in;
	thmqi_list_each_safe(it, tmp, &s->dirty_conns)
	{
		struct conn *c = thmqi_container(it, struct conn, dirty_link);

		thmqi_conn_flush_progress(c);
		thmqi_conn_kick(c);
	}
	if (!thmqi_list_empty(&s->dirty_conns))
		s->stuck = true;
}

/* What goes to this client anyway takes it along. */
static void tell_along(struct shard *s)
{
	struct thmqi_list *it, *tmp;

	thmqi_list_each_safe(it, tmp, &s->dirty_conns)
	{
		struct conn *c = thmqi_container(it, struct conn, dirty_link);

		if (c->wrote && c->wire->packs)
			thmqi_conn_flush_progress(c);
	}
}

static int shard_poll(struct thmqi_poller *poller, uint32_t budget)
{
	struct shard *s = thmqi_container(poller, struct shard, poller);
	struct thmqi_list *it, *tmp, *turn = NULL;
	struct conn *c;
	uint32_t done = s->taken, taken;

	(void)budget;
	s->taken = 0;
	s->stuck = false;
	if (thmqi_unlikely(s->lead != NULL))
		thmqi_lead_poll(s);
	thmqi_list_each_safe(it, tmp, &s->conns)
	{
		c = thmqi_container(it, struct conn, link);
		taken = take_frames(c);
		done += taken;
		if (thmqi_unlikely(s->blocked) && !taken && c->held_up && !turn)
			turn = it;
	}
	if (thmqi_unlikely(turn != NULL) && turn != s->conns.next)
		begin_with(s, turn);
	if (thmqi_unlikely(s->delay != NULL) && !thmqi_delay_is_quiet(s->delay))
		done += thmqi_delay_poll(s);
	if (thmqi_unlikely(s->txns != NULL) && (!thmqi_list_empty(&s->txns->jobs) || s->closing))
		done += thmqi_txn_poll(s);
	if (!thmqi_list_empty(&s->ready))
		done += thmqi_sub_pump_all(s);
	if (thmqi_unlikely(!thmqi_list_empty(&s->dirty_offsets)))
		done += thmqi_offsets_flush(s);
	if (!thmqi_list_empty(&s->dirty_conns)) {
		if (progress_is_due(s))
			tell_progress(s);
		else if (done)
			tell_along(s);
	}
	if (done) {
		if (thmqi_unlikely(s->publisher.idle) && s->publisher.to)
			thmqi_publish_stir(s);
		thmqi_list_each(it, &s->conns)
			thmqi_conn_kick(thmqi_container(it, struct conn, link));
	}
	return (int)done;
}

/* Before sleeping: is there anything that no wake-up will tell of? */
static bool shard_arm(struct thmqi_poller *poller)
{
	struct shard *s = thmqi_container(poller, struct shard, poller);
	struct thmqi_list *it;
	struct conn *c;

	tell_progress(s);
	if (thmqi_unlikely(s->lead != NULL) && thmqi_lead_waits(s))
		s->stuck = true;
	thmqi_list_each(it, &s->conns)
	{
		c = thmqi_container(it, struct conn, link);
		if (thmqi_frame_peek(&c->wire->ctl, 0)) {
			if (thmqi_conn_room(c, 4))
				return true;
			s->stuck = true;
		}
		if (thmqi_frame_peek(&c->wire->up, 0)) {
			if (!c->held_up)
				return true;
			s->stuck = s->stuck || !s->reads_only;
		}
		if (c->backlog_count)
			s->stuck = true;
	}
	if (s->stuck)
		thmqi_timer_start(s->core, &s->stuck_timer,
				  s->core->clock->now_ns(s->core->clock->ctx) + STUCK_RETRY_NS);
	return false;
}

/* ---------------------------------------------------------------- lifetime */

int thmqi_shard_init(struct shard *s, struct thmq_broker *b, uint32_t id, struct thmq_core *core)
{
	memset(s, 0, sizeof(*s));
	s->broker = b;
	s->id = id;
	s->core = core;
	s->term = 1;
	/* a host that polls once looks at once */
	s->tells_at_once = thmqi_env_is_caller_driven(b->env);
	s->poller.poll = shard_poll;
	s->poller.arm = shard_arm;
	if (id == THMQI_SHARD_META)
		strcpy(s->name, "meta");
	else
		snprintf(s->name, sizeof(s->name), "shard-%03u", id - 1);
	s->poller.name = s->name;
	s->stuck_timer.fire = on_stuck;
	s->run_max = (b->opts.batch_bytes ? b->opts.batch_bytes : 1u << 20) - 256;
	if (b->cluster && s->run_max > (1u << 19)) /* a batch of copies leaves a block of its segment, which may be as small as itself: 1 MiB and more */
		s->run_max -= THMQI_BLOCK;
	thmqi_list_init(&s->conns);
	thmqi_list_init(&s->resting);
	thmqi_list_init(&s->ready);
	thmqi_list_init(&s->dirty_offsets);
	thmqi_list_init(&s->dirty_conns);
	thmqi_map_init(&s->partitions);
	thmqi_writers_init(s);
	s->final = b->cluster ? THMQ_DURABILITY_QUORUM : THMQ_DURABILITY_DURABLE;
	s->level_max = b->cluster ? THMQ_DURABILITY_ALL : THMQ_DURABILITY_DURABLE;
	s->pending = calloc(PENDING_COUNT, sizeof(*s->pending));
	if (s->pending && thmqi_topics_init(s) == 0)
		return 0;
	free(s->pending); /* nobody knows of it yet */
	s->pending = NULL;
	return -ENOMEM;
}

void thmqi_shard_start(struct shard *s)
{
	thmqi_core_add_poller(s->core, &s->poller);
	s->open = true;
}

/* What is in the rings is taken, then the links go down; the last acks and next offsets are appended. */
void thmqi_shard_shut(struct shard *s)
{
	struct partition *p;
	struct conn *c;
	uint32_t i = 0;
	uint64_t index;

	s->closing = true;
	if (s->open)
		shard_poll(&s->poller, 0);
	thmqi_delay_stop(s, -ESHUTDOWN);
	if (s->lead)
		thmqi_lead_shut(s);
	while (!thmqi_list_empty(&s->conns) || !thmqi_list_empty(&s->resting)) {
		c = thmqi_list_first(thmqi_list_empty(&s->conns) ? &s->resting : &s->conns, struct conn, link);
		thmqi_conn_flush_progress(c);
		thmqi_conn_leave(c, -ESHUTDOWN);
	}
	if (!s->log || s->failed || !thmqi_lead_serves(s))
		return;
	thmqi_offsets_flush(s);
	while ((p = thmqi_map_next(&s->partitions, &i))) {
		if (p->is_volatile || p->dead || thmqi_logged_offset(p) == p->next_offset)
			continue;
		thmqi_retain_partition(s, p);
	}
	thmq_log_flush(s->log, &index);
}

void thmqi_shard_fini(struct shard *s)
{
	if (s->open) {
		thmqi_timer_stop(s->core, &s->stuck_timer);
		thmqi_core_remove_poller(s->core, &s->poller);
		s->open = false;
	}
	thmqi_publish_end(s);
	thmqi_delay_fini(s);
	thmqi_txn_fini(s);
	partitions_free(s);
	thmqi_topics_fini(s);
	thmqi_writers_fini(s);
	thmqi_lead_fini(s);
	free(s->pending);
	s->pending = NULL;
}
