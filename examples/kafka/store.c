/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - the library, seen from here: topics that are in use, messages on their way into them. Who reads them: readers.c. Knows nothing of the
 * protocol but its error codes.
 *
 * Every topic has one producer. A session has room for 256 of them, so that there are as many sessions ("lanes") as it takes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

#define WINDOW_BYTES (16u << 20)
#define WINDOW_COUNT 65536u
#define IDLE_NS (60 * SECOND) /* readers that nobody has wanted for so long go, and producers of transactions */
#define STUCK_NS (30 * SECOND)       /* no room for a message in all that time */

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

struct lane *lane_for(struct server *s, bool reader)
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
		trouble_note(p->topic->server, g->error);
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
	if (news)
		watches_read(s);
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
	watch_close_all(t);
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
	p->described_ns = clock_ns();
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

/* -------------------------------------------------------------------- close */

void store_tick(struct server *s)
{
	readers_sweep(s, IDLE_NS);
	watches_sweep(s, IDLE_NS);
	others_sweep(s, NULL, IDLE_NS);
	trouble_tick(s);
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
