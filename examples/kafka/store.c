/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - the library, seen from here: topics that are in use, messages on their way into them, readers that clients' fetches take
 * turns at. Knows nothing of the protocol but its error codes.
 *
 * Every topic has one producer, and every place where some client reads has a reader: a consumer of one partition without a group.
 * A session has room for 256 of each, so that there are as many sessions ("lanes") as it takes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

#define LANE_HANDLES                                                                               \
	200u /* of either kind: some of its 256 numbers may be out of use for a while */
#define WINDOW_BYTES (16u << 20)
#define WINDOW_COUNT 65536u
#define READERS_MAX 4096u
#define READER_SPARE_NS (5 * SECOND) /* an idle reader may be sent elsewhere after this … */
#define READER_IDLE_NS (60 * SECOND) /* … and goes after this */
#define STUCK_NS (30 * SECOND)       /* no room for a message in all that time */

struct lane {
	struct lane *next;
	struct thmq_session *session;
	uint32_t producers, readers;
};

/* A topic's producer in a session that is not the topic's own: of a transaction, which is one session's. */
struct other {
	struct other *next; /* of the topic */
	struct lane *lane;
	struct thmq_producer *producer;
	int64_t used_ns;
};

int store_error(int rc)
{
	switch (rc < 0 ? -rc : rc) {
	case 0:
		return K_NONE;
	case THMQ_ENOTOPIC:
	case THMQ_ENOPARTITION:
		return K_UNKNOWN_TOPIC_OR_PARTITION;
	case THMQ_EOFFSETRANGE:
		return K_OFFSET_OUT_OF_RANGE;
	case THMQ_ENOTLEADER:
	case THMQ_ENOQUORUM:
	case THMQ_EFENCED:
	case ESHUTDOWN: /* of several brokers this one led until now: the client asks who does, and sends again */
	case ECONNRESET:
		return K_NOT_LEADER;
	case EMSGSIZE:
		return K_MESSAGE_TOO_LARGE;
	case ETIMEDOUT:
	case EAGAIN:
		return K_REQUEST_TIMED_OUT;
	case EEXIST:
		return K_TOPIC_ALREADY_EXISTS;
	case EINVAL:
	case ENAMETOOLONG:
		return K_INVALID_REQUEST;
	default:
		return K_STORAGE_ERROR;
	}
}

/* -------------------------------------------------------------------- lanes */

static struct lane *lane_open(struct server *s)
{
	struct thmq_broker_stats stats = {.size = sizeof(stats)};
	struct lane *lane = calloc(1, sizeof(*lane));

	/* no event is ever dropped: there is room for one of each message that may be unsettled, and others */
	if (!lane || thmq_broker_stats(s->broker, &stats) ||
	    thmq_connect(s->env, "inproc://kafka",
			 THMQ_SESSION_OPTS(.window_bytes = WINDOW_BYTES,
					   .window_count = WINDOW_COUNT,
					   .reconnect_ns = s->o.cluster ? 1 : 0, /* never to another that leads: clients go there themselves */
					   .event_count = WINDOW_COUNT * (stats.shard_count + 1)),
			 &lane->session)) {
		free(lane);
		return NULL;
	}
	lane->next = s->lanes;
	s->lanes = lane;
	return lane;
}

static struct lane *lane_for(struct server *s, bool reader)
{
	struct lane *lane;

	for (lane = s->lanes; lane; lane = lane->next)
		if ((reader ? lane->readers : lane->producers) < LANE_HANDLES)
			return lane;
	return lane_open(s);
}

int store_lanes(struct server *s)
{
	return lane_open(s) ? 0 : -EIO;
}

int store_open(struct server *s)
{
	int rc = thmq_connect(s->env, "inproc://kafka", NULL, &s->control);

	return rc ? rc : store_lanes(s);
}

/* ------------------------------------------------------------------ settled */

static void sending_settled(struct sending *g)
{
	struct settled_call *call, *next;
	struct topic *t = g->partition->topic;

	for (call = g->calls; call; call = next) {
		next = call->next;
		call->settled(call, g->error, g->base_offset);
	}
	store_unref(t);
	free(g);
}

/* A producer's newest batches say where they are once that is known. */
static void remember(struct partition *p, struct sending *g)
{
	struct producer_state *w;
	uint32_t i;

	for (w = p->producers; w; w = w->next)
		for (i = 0; i < w->batch_count; i++)
			if (w->batches[i].sending == g) {
				w->batches[i].sending = NULL;
				w->batches[i].base_offset = g->base_offset;
				if (g->error) { /* what was not stored is expected again */
					w->expected = w->batches[i].first + (int32_t)g->failed_at;
					w->batch_count--;
					memmove(&w->batches[i], &w->batches[i + 1],
						(w->batch_count - i) * sizeof(w->batches[0]));
				}
				return;
			}
}

static void sending_unlink(struct sending *g)
{
	struct partition *p = g->partition;
	struct sending **at;

	for (at = &p->first; *at && *at != g;)
		at = &(*at)->next;
	if (*at) {
		*at = g->next;
		if (p->last == &g->next)
			p->last = at;
	}
}

static void sending_check(struct sending *g)
{
	if (g->settled < g->count || !g->last) /* last: it has ended */
		return;
	sending_unlink(g);
	remember(g->partition, g);
	sending_settled(g);
}

static void on_settled(const struct thmq_event *e)
{
	struct topic *t = e->cookie;
	struct partition *p;
	struct sending *g;

	if (!e->producer || !t || t->gone || e->partition >= t->partition_count)
		return;
	p = t->partitions[e->partition];
	/* in their order, but for those that were refused */
	for (g = p->first; g && (g->producer != e->producer || g->first > e->sequence || (g->last && g->last < e->sequence));)
		g = g->next;
	if (!g)
		return;
	if (e->type == THMQ_EVENT_FAILED) {
		if (!g->error || g->settled < g->failed_at)
			g->failed_at = g->settled;
		g->error = e->error ? e->error : -EIO;
	} else {
		if (e->sequence == g->first)
			g->base_offset = (int64_t)e->offset;
		if ((int64_t)e->offset + g->span > p->high)
			p->high = (int64_t)e->offset + g->span;
	}
	g->settled++;
	sending_check(g);
}

bool store_pump(struct server *s, uint64_t timeout_ns)
{
	struct thmq_event events[256];
	struct lane *lane;
	bool news = thmq_poll(s->env, timeout_ns) > 0;
	int i, n;

	for (lane = s->lanes; lane; lane = lane->next)
		do {
			n = thmq_events(lane->session, events, 256);
			for (i = 0; i < n; i++) {
				if (events[i].type == THMQ_EVENT_SETTLED ||
				    events[i].type == THMQ_EVENT_FAILED)
					on_settled(&events[i]);
				else if (events[i].type == THMQ_EVENT_CLOSED)
					*(s->o.cluster ? &s->retire : &s->stopping) = true;
			}
			news |= n > 0;
		} while (n == 256);
	return news;
}

/* ------------------------------------------------------------------- topics */

uint32_t hash_bytes(const void *data, size_t len)
{
	const uint8_t *at = data;
	uint32_t h = 2166136261u; /* FNV-1a */

	while (len-- > 0)
		h = (h ^ *at++) * 16777619u;
	return h;
}

static struct topic **topic_place(struct server *s, struct text name)
{
	struct topic **at = &s->topics[hash_bytes(name.data, name.len) % BUCKETS];

	while (*at && !text_is(name, (*at)->name))
		at = &(*at)->next;
	return at;
}

void store_ref(struct topic *t)
{
	t->refs++;
}

void producers_free(struct partition *p)
{
	struct producer_state *w, *next;

	for (w = p->producers; w; w = next) {
		next = w->next;
		free(w);
	}
	p->producers = NULL;
}

void store_unref(struct topic *t)
{
	uint32_t i;

	if (--t->refs > 0)
		return;
	for (i = 0; i < t->partition_count; i++) {
		producers_free(t->partitions[i]);
		free(t->partitions[i]);
	}
	free(t->partitions);
	free(t);
}

/* They stay where they are: whoever is at one of them knows it by its place. */
static int partitions_make(struct topic *t, uint32_t count)
{
	struct partition **grown, *p;

	if (count <= t->partition_count)
		return 0;
	grown = realloc(t->partitions, count * sizeof(struct partition *));
	if (!grown)
		return -ENOMEM;
	for (t->partitions = grown; t->partition_count < count; t->partition_count++) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return -ENOMEM;
		p->topic = t;
		p->index = t->partition_count;
		p->last = &p->first;
		p->end = -1;
		grown[t->partition_count] = p;
	}
	return 0;
}

struct topic *store_known(struct server *s, const struct thmq_topic_info *info)
{
	struct topic **at = topic_place(s, text_of(info->name)), *t;

	if (*at && (*at)->id == info->topic_id) {
		partitions_make(*at, info->partition_count); /* some may have been added; without memory they are not known yet */
		return *at;
	}
	if (*at) {
		store_topic_gone(s, *at); /* somebody made another of its name */
		at = topic_place(s, text_of(info->name));
	}
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->server = s;
	t->refs = 1;
	if (partitions_make(t, info->partition_count)) {
		store_unref(t);
		return NULL;
	}
	memcpy(t->name, info->name, sizeof(t->name));
	t->id = info->topic_id;
	t->compacted = info->flags & THMQ_TOPIC_COMPACT;
	t->in_memory = info->flags & THMQ_TOPIC_VOLATILE;
	t->retention_ns = info->retention_ns;
	t->retention_bytes = info->retention_bytes;
	t->tombstone_ns = info->tombstone_ns;
	*at = t;
	return t;
}

static void reader_close(struct reader *r)
{
	struct reader **at = &r->partition->readers;

	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	thmq_consumer_close(r->consumer, 0);
	r->lane->readers--;
	r->partition->topic->server->reader_count--;
	store_unref(r->partition->topic);
	free(r);
}

/* Those that nobody has wanted for so long go. */
static void readers_sweep(struct server *s, int64_t idle_ns)
{
	int64_t now = clock_ns();
	struct reader *r, *next;
	struct topic *t;
	uint32_t b, i;

	for (b = 0; b < BUCKETS; b++)
		for (t = s->topics[b]; t; t = t->next)
			for (i = 0; i < t->partition_count; i++)
				for (r = t->partitions[i]->readers; r; r = next) {
					next = r->next;
					if (!r->busy && now - r->used_ns >= idle_ns)
						reader_close(r);
				}
}

static bool other_is_busy(const struct topic *t, const struct other *o)
{
	const struct sending *g;
	uint32_t i;

	for (i = 0; i < t->partition_count; i++)
		for (g = t->partitions[i]->first; g; g = g->next)
			if (g->producer == o->producer)
				return true;
	return false;
}

static void others_close(struct topic *t, const struct lane *lane, int64_t idle_ns)
{
	int64_t now = clock_ns();
	struct other **at = &t->others, *o;

	while ((o = *at)) {
		if ((lane && o->lane != lane) || now - o->used_ns < idle_ns || other_is_busy(t, o)) {
			at = &o->next;
			continue;
		}
		*at = o->next;
		thmq_producer_close(o->producer, 0);
		o->lane->producers--;
		free(o);
	}
}

/* Those of transactions that nothing was sent by for so long; what is open goes on with a new one. */
static void others_sweep(struct server *s, const struct lane *lane, int64_t idle_ns)
{
	struct topic *t;
	uint32_t b;

	for (b = 0; b < BUCKETS; b++)
		for (t = s->topics[b]; t; t = t->next)
			if (t->others)
				others_close(t, lane, idle_ns);
}

static void sendings_fail(struct partition *p, int error)
{
	struct sending *g, *next = p->first;

	p->first = NULL;
	p->last = &p->first;
	while ((g = next)) {
		next = g->next;
		g->next = NULL;
		g->error = error;
		if (g->last) /* else whoever is at it finds out */
			sending_settled(g);
	}
}

static void others_drop(struct topic *t)
{
	struct other *o;

	while ((o = t->others)) {
		t->others = o->next;
		thmq_producer_close(o->producer, 0);
		o->lane->producers--;
		free(o);
	}
}

/* It was deleted: who waits for it hears of it, who has it in hand lets go in his own time. */
void store_topic_gone(struct server *s, struct topic *t)
{
	struct topic **at = topic_place(s, text_of(t->name));
	struct reader *r, *next;
	uint32_t i;

	if (t->gone)
		return;
	t->gone = true;
	if (*at == t)
		*at = t->next;
	if (t->producer) {
		thmq_producer_close(t->producer, 0);
		t->lane->producers--;
		t->producer = NULL;
	}
	others_drop(t);
	for (i = 0; i < t->partition_count; i++) {
		sendings_fail(t->partitions[i], -THMQ_ENOTOPIC);
		for (r = t->partitions[i]->readers; r; r = next) {
			next = r->next;
			if (!r->busy)
				reader_close(r);
		}
	}
	store_unref(t);
}

int store_topic(struct server *s, struct text name, struct topic **ret)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	char copy[THMQ_TOPIC_NAME_MAX + 1];
	int rc;

	if (!cluster_serves(s))
		return K_NOT_LEADER;
	if (!text_copy(name, copy, sizeof(copy)) || !*copy)
		return K_UNKNOWN_TOPIC_OR_PARTITION;
	*ret = *topic_place(s, name);
	if (*ret)
		return 0;
	rc = thmq_topic_describe(s->control, copy, &info);
	if (rc)
		return rc == -EINVAL ? K_INVALID_TOPIC : store_error(rc);
	*ret = store_known(s, &info);
	return *ret ? 0 : K_UNKNOWN_SERVER_ERROR;
}

void store_topic_again(struct server *s, struct topic *t)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	if (!thmq_topic_describe(s->control, t->name, &info) && info.topic_id == t->id)
		store_known(s, &info);
}

int store_partition(struct server *s, struct text name, int32_t index, struct partition **ret)
{
	struct topic *t;
	int rc = store_topic(s, name, &t);

	if (rc)
		return rc;
	if (index >= 0 && (uint32_t)index >= t->partition_count && index < (int32_t)THMQ_PARTITION_COUNT_MAX)
		store_topic_again(s, t); /* clients of the library may have added some */
	if (index < 0 || (uint32_t)index >= t->partition_count)
		return K_UNKNOWN_TOPIC_OR_PARTITION;
	*ret = t->partitions[index];
	return 0;
}

int store_describe(struct partition *p)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct server *s = p->topic->server;
	int rc = thmq_partition_describe(s->control, p->topic->name, p->index, NULL, &info);

	if (rc == -THMQ_ENOTOPIC)
		store_topic_gone(s, p->topic);
	if (rc)
		return store_error(rc);
	p->begin = (int64_t)info.begin_offset;
	p->end = (int64_t)info.end_offset;
	return 0;
}

/* ------------------------------------------------------------------ sending */

int store_ready(struct topic *t)
{
	struct server *s = t->server;
	int rc;

	if (t->gone)
		return -THMQ_ENOTOPIC;
	if (t->producer)
		return 0;
	t->lane = lane_for(s, false);
	if (!t->lane)
		return -ENOMEM;
	rc = thmq_producer_open(t->lane->session, t->name,
				THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT, .cookie = t),
				&t->producer);
	if (rc == -THMQ_ENOTOPIC)
		store_topic_gone(s, t);
	if (rc)
		return rc;
	t->lane->producers++;
	t->len_max = thmq_producer_len_max(t->producer);
	return 0;
}

/* The topic's producer in the session of a transaction. */
static int other_ready(struct topic *t, struct lane *lane, struct thmq_producer **ret)
{
	struct other *o = t->others;
	int rc;

	while (o && o->lane != lane)
		o = o->next;
	if (!o) {
		if (lane->producers >= LANE_HANDLES)
			others_sweep(t->server, lane, 0);
		o = calloc(1, sizeof(*o));
		if (!o)
			return -ENOMEM;
		rc = thmq_producer_open(lane->session, t->name, THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT, .cookie = t), &o->producer);
		if (rc) {
			free(o);
			return rc;
		}
		o->lane = lane;
		lane->producers++;
		o->next = t->others;
		t->others = o;
	}
	o->used_ns = clock_ns();
	*ret = o->producer;
	return 0;
}

int sending_begin(struct partition *p, const struct store_txn *in, struct sending **ret)
{
	struct thmq_producer *producer;
	struct sending *g;
	int rc = store_ready(p->topic);

	producer = p->topic->producer;
	if (!rc && in && in->lane != p->topic->lane)
		rc = other_ready(p->topic, in->lane, &producer);
	if (rc)
		return rc;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->partition = p;
	g->producer = producer;
	g->txn = in ? in->txn : NULL;
	g->base_offset = -1;
	g->span = 1;
	store_ref(p->topic);
	*p->last = g;
	p->last = &g->next;
	*ret = g;
	return 0;
}

/*
 * Where there is no room the library is driven until there is: nobody else is served meanwhile, for as long as the device takes for a
 * part of what it has. They share it anyway.
 */
static int64_t send_patiently(struct sending *g, struct text value, const struct thmq_message_opts *opts)
{
	struct topic *t = g->partition->topic;
	int64_t begun = 0, rc = g->error;

	while (!rc) {
		rc = t->gone ? -THMQ_ENOTOPIC : thmq_send(g->producer, value.data, value.len, opts);
		if (rc != -EAGAIN && rc != -THMQ_ENOPARTITION) /* it was added, and this producer has not heard of it yet */
			break;
		begun = begun ? begun : clock_ns();
		if (clock_ns() - begun > STUCK_NS)
			break;
		store_pump(t->server, 1000000);
		rc = g->error;
	}
	if (rc > 0 && !g->count++)
		g->first = (uint64_t)rc;
	return rc;
}

static int sending_fail(struct sending *g, int error)
{
	struct topic *t = g->partition->topic;

	if (!g->error) {
		g->error = error;
		g->failed_at = g->count;
	}
	if (error == -THMQ_ENOTOPIC)
		store_topic_gone(t->server, t);
	return g->error;
}

int sending_add(struct sending *g, struct text value, struct thmq_message_opts *opts)
{
	int64_t rc;

	opts->txn = g->txn;
	rc = send_patiently(g, value, opts);
	return rc < 0 ? sending_fail(g, (int)rc) : 0;
}

int sending_add_batch(struct sending *g, struct text batch, int32_t count, uint32_t durability)
{
	int64_t rc = send_patiently(g, batch,
				    THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
						      .partition = g->partition->index,
						      .durability = durability,
						      .encoding = THMQ_ENCODING_KAFKA,
						      .txn = g->txn));

	g->span = (uint32_t)count;
	if (rc == -EMSGSIZE)
		return -EMSGSIZE;
	return rc < 0 ? sending_fail(g, (int)rc) : 0;
}

void sending_drop(struct sending *g)
{
	struct topic *t = g->partition->topic;

	sending_unlink(g);
	free(g);
	store_unref(t);
}

void sending_end(struct sending *g, struct settled_call *call)
{
	struct topic *t = g->partition->topic;

	if (call) {
		call->next = g->calls;
		g->calls = call;
	}
	if (t->gone) {
		sending_settled(g);
		return;
	}
	g->last = g->count ? g->first + g->count - 1 : UINT64_MAX;
	sending_check(g);
}

/* ------------------------------------------------------------- transactions */

int store_txn_begin(struct server *s, int64_t timeout_ns, struct store_txn *ret)
{
	ret->lane = lane_for(s, false);
	if (!ret->lane)
		return -ENOMEM;
	return thmq_txn_begin(ret->lane->session, THMQ_TXN_OPTS(.timeout_ns = (uint64_t)timeout_ns), &ret->txn);
}

/* ------------------------------------------------------------------ readers */

static int reader_seek(struct reader *r, uint32_t start, uint64_t value)
{
	struct partition *p = r->partition;
	int rc;

	if (r->given)
		thmq_release(r->consumer, r->messages, r->given);
	r->at = r->count = r->given = 0;
	r->full = false;
	rc = thmq_seek(r->consumer, p->index, start, value);
	r->next_offset = start == THMQ_START_OFFSET ? (int64_t)value : -1;
	if (rc == -THMQ_ENOTOPIC)
		store_topic_gone(p->topic->server, p->topic);
	return rc;
}

/* What all readers hold together stays well below the memory that the library may take. */
static uint64_t prefetch_bytes(const struct server *s)
{
	return s->reader_count < 64 ? 2u << 20 : s->reader_count < 256 ? 512u << 10 : 64u << 10;
}

static int reader_open(struct partition *p, bool uncommitted, struct reader **ret)
{
	struct topic *t = p->topic;
	struct reader *r;
	int rc = -ENOMEM;

	if (t->server->reader_count >= READERS_MAX)
		readers_sweep(t->server, 0);
	if (t->server->reader_count >= READERS_MAX)
		return -EAGAIN; /* the client comes again */
	r = calloc(1, sizeof(*r));
	if (!r)
		return rc;
	r->partition = p;
	r->uncommitted = uncommitted;
	r->next_offset = -1; /* nowhere yet */
	r->lane = lane_for(t->server, true);
	if (r->lane)
		rc = thmq_consumer_open(
			r->lane->session, t->name, NULL,
			THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_PARTITION | THMQ_CONSUMER_ENCODED |
						    (uncommitted ? THMQ_CONSUMER_READ_UNCOMMITTED : 0),
					   .partition = p->index,
					   .start = THMQ_START_END,
					   .prefetch_bytes = prefetch_bytes(t->server),
					   .prefetch_count = 32768),
			&r->consumer);
	if (rc) {
		if (rc == -THMQ_ENOTOPIC)
			store_topic_gone(t->server, t);
		free(r);
		return rc;
	}
	r->lane->readers++;
	t->server->reader_count++;
	store_ref(t);
	r->next = p->readers;
	p->readers = r;
	*ret = r;
	return 0;
}

/* One that is there already, else one that nobody has wanted for long, else a new one. */
static int reader_take(struct partition *p, int64_t offset, bool uncommitted, struct reader **ret)
{
	struct reader *r, *spare = NULL;
	int64_t now = clock_ns();
	int rc = 0;

	if (p->topic->gone)
		return -THMQ_ENOTOPIC;
	for (r = p->readers; r; r = r->next) {
		if (r->busy || r->uncommitted != uncommitted)
			continue;
		if (offset >= 0 && r->next_offset == offset)
			break;
		if (now - r->used_ns > READER_SPARE_NS)
			spare = r;
	}
	r = r ? r : spare;
	if (!r)
		rc = reader_open(p, uncommitted, &r);
	if (rc)
		return rc;
	r->busy = true;
	*ret = r;
	return 0;
}

int reader_get(struct partition *p, int64_t offset, bool uncommitted, struct reader **ret)
{
	struct reader *r;
	int rc = offset < 0 ? -THMQ_EOFFSETRANGE : reader_take(p, offset, uncommitted, &r);

	if (!rc && r->next_offset != offset) {
		rc = reader_seek(r, THMQ_START_OFFSET, (uint64_t)offset);
		if (rc)
			reader_put(r);
	}
	if (rc)
		return store_error(rc);
	*ret = r;
	return 0;
}

int reader_get_time(struct partition *p, int64_t time_ns, struct reader **ret)
{
	struct reader *r;
	int rc = reader_take(p, -1, false, &r);

	if (!rc) {
		rc = reader_seek(r, THMQ_START_TIME, (uint64_t)(time_ns < 0 ? 0 : time_ns));
		if (rc)
			reader_put(r);
	}
	if (rc)
		return store_error(rc);
	*ret = r;
	return 0;
}

void reader_put(struct reader *r)
{
	r->busy = false;
	r->used_ns = clock_ns();
	if (r->partition->topic->gone)
		reader_close(r);
}

/* Those that were read go back, the others move to the front. */
static void reader_give_back(struct reader *r)
{
	if (!r->at)
		return;
	thmq_release(r->consumer, r->messages, r->at);
	r->count -= r->at;
	memmove(r->messages, r->messages + r->at, r->count * sizeof(r->messages[0]));
	r->given = r->count;
	r->at = 0;
}

int64_t reader_fill(struct reader *r)
{
	int64_t bytes = 0;
	uint32_t i;
	int n;

	if (r->partition->topic->gone)
		return -THMQ_ENOTOPIC;
	reader_give_back(r);
	r->full = false;
	n = thmq_fetch(r->consumer, r->messages + r->count, 512 - r->count);
	if (n == -ENOBUFS)
		r->full = r->count > 0;
	else if (n < 0)
		return n;
	else
		r->count += (uint32_t)n;
	r->given = r->count;
	r->full |= r->count == 512;
	if (r->full)
		return INT64_MAX;
	for (i = 0; i < r->count; i++)
		bytes += r->messages[i].len + r->messages[i].key_len + r->messages[i].headers_len +
			 8;
	return bytes;
}

const struct thmq_message *reader_peek(struct reader *r)
{
	if (r->at == r->count)
		reader_fill(r);
	return r->at < r->count ? &r->messages[r->at] : NULL;
}

bool reader_is_batch(struct reader *r)
{
	return thmq_message_encoding(r->consumer, &r->messages[r->at]) == THMQ_ENCODING_KAFKA;
}

void reader_step(struct reader *r)
{
	const struct thmq_message *m = &r->messages[r->at++];
	int64_t next = (int64_t)m->offset + (m->span ? m->span : 1), *end = r->uncommitted ? &r->partition->high : &r->partition->end;

	r->next_offset = next;
	if (next > *end)
		*end = next;
}

/* -------------------------------------------------------------------- close */

void store_tick(struct server *s)
{
	readers_sweep(s, READER_IDLE_NS);
	others_sweep(s, NULL, READER_IDLE_NS);
}

static void topics_forget(struct server *s)
{
	uint32_t b;

	for (b = 0; b < BUCKETS; b++)
		while (s->topics[b])
			store_topic_gone(s, s->topics[b]);
}

void store_forget(struct server *s)
{
	struct lane *lane;

	topics_forget(s);
	while ((lane = s->lanes)) {
		s->lanes = lane->next;
		thmq_session_close(lane->session, 0);
		free(lane);
	}
}

/* The library's handles go with the environment. */
void store_close(struct server *s)
{
	struct lane *lane, *next;

	topics_forget(s);
	for (lane = s->lanes; lane; lane = next) {
		next = lane->next;
		free(lane);
	}
	s->lanes = NULL;
}
