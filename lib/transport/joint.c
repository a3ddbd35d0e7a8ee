/* SPDX-License-Identifier: Apache-2.0 */
/*
 * joint.c - what the frames of two joined links mean to either side, and the account that is kept of them: how many are on their
 * way, which runs the other has, what it was told. Lengths, places, numbers of frames and tokens are checked before
 * anything is done with them, since what they could do harm to is ours. Knows not how bytes get to the other side.
 */
#include "joint.h"

#define TICK_MAX_NS 1000000000ull
#define TICK_MIN_NS 25000000ull

/* -------------------------------------------------------------- begin and end */

void thmqi_joint_init(struct thmqi_joint *j, bool of_broker)
{
	memset(j, 0, sizeof(*j));
	j->of_broker = of_broker;
}

struct thmqi_joint_stream *thmqi_joint_stream(struct thmqi_joint *j, uint32_t stream)
{
	if (!j->streams[stream])
		j->streams[stream] = calloc(1, sizeof(*j->streams[stream]));
	return j->streams[stream];
}

void thmqi_joint_free_runs(struct thmqi_joint *j)
{
	uint32_t i, k;

	if (j->run)
		thmqi_buf_unref(j->run);
	j->run = NULL;
	for (i = 0; i < THMQI_STREAMS; i++) {
		for (k = 0; j->streams[i] && !j->of_broker && k < THMQI_DELIVERIES; k++)
			if (j->streams[i]->bufs[k])
				thmqi_buf_unref(j->streams[i]->bufs[k]);
		free(j->streams[i]);
		j->streams[i] = NULL;
	}
}

/* The client's end, which was told before, has closed now. */
static void let_go(void *left)
{
	struct thmqi_joint *j = left;

	thmqi_joint_free_runs(j);
	j->link_done = true;
	j->parted(j);
}

void thmqi_joint_end(struct thmqi_joint *j, int error)
{
	struct thmqi_link *link = j->link;

	j->link = NULL;
	if (!link) {
		j->link_done = j->link_done || j->of_broker;
		return;
	}
	if (j->of_broker) {
		thmqi_link_close_here(link);
		j->link_done = true;
	} else if (j->client_gone) {
		thmqi_joint_free_runs(j);
		thmqi_link_unref(link);
		j->link_done = true;
	} else {
		thmqi_link_shut(link, error);
		thmqi_link_leave(link, let_go, j);
	}
}

void thmqi_joint_describe(const struct thmqi_link *link, struct thmqi_hello *ret)
{
	ret->shard = link->shard;
	ret->area_bytes = link->area_bytes;
	ret->up_frames = link->up.mask + 1;
	ret->ctl_frames = link->ctl.mask + 1;
	ret->down_frames = link->down.mask + 1;
}

/* Of the client's environment: the calling thread's own, or else they take turns. */
static struct thmq_core *core_for(struct thmqi_transport *t, uint32_t shard)
{
	struct thmq_core *mine = thmqi_core_mine(t->env);

	return mine ? mine : thmqi_env_core(t->env, shard % thmqi_env_core_count(t->env));
}

int thmqi_joint_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
			const struct thmqi_link_opts *opts, const struct thmqi_acceptor *acceptor,
			struct thmqi_waiter *waiter, struct thmqi_link **ret_link)
{
	struct thmqi_link_opts o = *opts;
	struct thmqi_link *link;
	int rc;

	o.area_bytes = THMQI_MIN(o.area_bytes, (uint64_t)THMQI_STREAM_AREA_MAX);
	o.up_frames = THMQI_MIN(o.up_frames, THMQI_STREAM_UP_MAX);
	o.down_frames = THMQI_MIN(o.down_frames, THMQI_STREAM_DOWN_MAX);
	rc = thmqi_link_make(&o, 0, &link);
	if (rc)
		return thmqi_fail(rc, "%s: no memory for a connection of %llu bytes", url,
				  (unsigned long long)o.area_bytes);
	link->shard = shard;
	link->core = core_for(t, shard);
	link->packs = true;
	if (!thmqi_core_is_driven(link->core))
		rc = thmqi_fail(-EDEADLK, "%s: no thread drives core %u; attach one", url,
				link->core->index);
	else if (thmqi_listener_make(t, NULL, acceptor, &link->listener) != 0)
		rc = thmqi_fail(-ENOMEM, "%s: no memory for a connection", url);
	if (rc) {
		thmqi_link_free(link);
		return rc;
	}
	thmqi_waiter_ref(waiter);
	link->waiter = waiter;
	thmqi_link_offer(link);
	*ret_link = link;
	return 0;
}

/* ----------------------------------------------------------------------- time */

void thmqi_joint_opened(struct thmqi_joint *j, uint32_t peer_ms)
{
	uint64_t peer = THMQI_MAX(peer_ms * 1000000ull, JOINT_SILENCE_MIN_NS);

	j->heard_ns = j->said_ns = j->moved_ns = j->core->now_ns;
	j->say_ns = peer / 4;
	j->tick_ns = THMQI_MIN(THMQI_MIN(j->say_ns, j->silence_ns / 4), TICK_MAX_NS);
	if (!j->of_broker && j->link->shard == THMQI_SHARD_META)
		j->tick_ns = THMQI_MIN(j->tick_ns, JOINT_BEAT_NS);
	j->tick_ns = THMQI_MAX(j->tick_ns, TICK_MIN_NS);
	if (!j->of_broker)
		atomic_store_explicit(&j->link->let_in, 1, memory_order_relaxed);
}

void thmqi_joint_tick(struct thmqi_joint *j)
{
	if (j->core->now_ns - j->said_ns >= j->say_ns ||
	    (!j->of_broker &&
	     j->beat_told != atomic_load_explicit(&j->link->beat, memory_order_relaxed)))
		j->say = true;
}

/* ---------------------------------------------------- frames of the stream itself */

void thmqi_joint_state(struct thmqi_joint *j, struct thmqi_frame *ret)
{
	uint32_t i;

	*ret = (struct thmqi_frame){.type = THMQI_STREAM_STATE};
	for (i = 0; i < (j->of_broker ? 2u : 1u); i++) {
		j->told[i] += thmqi_joint_untold(j, i);
		ret->arg[i] = j->told[i];
	}
	if (!j->of_broker)
		ret->data = j->beat_told =
			atomic_load_explicit(&j->link->beat, memory_order_relaxed);
	j->say = false;
}

void thmqi_joint_bye(struct thmqi_joint *j, struct thmqi_frame *ret)
{
	*ret = (struct thmqi_frame){.type = THMQI_STREAM_BYE};
	if (j->of_broker)
		ret->status = atomic_load(&j->link->broker_closed);
	j->bye_put = true;
}

static int take_taken(struct thmqi_joint *j, uint32_t ring, uint64_t taken)
{
	if (taken < j->taken[ring] || taken > j->sent[ring])
		return -EPROTO;
	j->taken[ring] = taken;
	return 0;
}

static int take_state(struct thmqi_joint *j, const struct thmqi_frame *f)
{
	int rc = take_taken(j, 0, f->arg[0]);

	if (j->of_broker)
		atomic_store_explicit(&j->link->beat, (uint32_t)f->data, memory_order_relaxed);
	else if (!rc)
		rc = take_taken(j, 1, f->arg[1]);
	return rc;
}

/* -------------------------------------------------------- what the broker says */

/* What a reply uses of its page. */
static uint32_t reply_bytes(const struct thmqi_link *link)
{
	const struct thmqi_reply *r = link->reply;
	size_t each = 0, count = r->count, bytes;

	switch (link->request->op) {
	case THMQI_OP_TOPIC_DESCRIBE:
		count = 1;
		each = sizeof(r->topics[0]);
		break;
	case THMQI_OP_PARTITION_INFO:
		count = 1;
		each = sizeof(r->due_ns);
		break;
	case THMQI_OP_TOPIC_LIST:
		each = sizeof(r->topics[0]);
		break;
	case THMQI_OP_TOPIC_PARTITIONS:
		each = sizeof(r->partitions[0]);
		break;
	case THMQI_OP_NODES:
		each = sizeof(r->states[0]);
		break;
	case THMQI_OP_GROUP_LIST:
		each = sizeof(r->groups[0]);
		break;
	case THMQI_OP_GROUP_MEMBERS:
		each = sizeof(r->members[0]);
		break;
	case THMQI_OP_GROUP_OWNERS:
		each = sizeof(r->owners[0]);
		break;
	case THMQI_OP_TXN_LIST:
		each = sizeof(r->txns[0]);
		break;
	case 0: /* no request yet: who else there is */
		each = sizeof(r->nodes[0]);
		break;
	default:
		break;
	}
	bytes = offsetof(struct thmqi_reply, topics) + each * count;
	return (uint32_t)THMQI_MIN(bytes, sizeof(*r));
}

static int down_out(struct thmqi_joint *j, struct thmqi_frame *f, const void **ret_body,
		    uint32_t *ret_len)
{
	*ret_body = NULL;
	*ret_len = 0;
	if (thmqi_is_run(f)) {
		*ret_body = (const void *)(uintptr_t)f->data;
		*ret_len = f->len;
		/* there is one since ATTACH */
		if (j->streams[f->stream] && (uint32_t)f->arg[0] < THMQI_DELIVERIES)
			j->streams[f->stream]->out[(uint32_t)f->arg[0]] =
				(uint32_t)(f->arg[0] >> 32) + 1;
	} else if (f->type == THMQI_FRAME_REPLY) {
		*ret_body = j->link->reply;
		f->len = *ret_len = reply_bytes(j->link);
		j->request_out = false;
	}
	f->data = 0; /* an address says nothing to others, and is none of their business */
	return 0;
}

/* The client's side takes it: the run gets a block of this core's pool. 1: there is none now. */
static int run_begin(struct thmqi_joint *j, const struct thmqi_frame *f, uint8_t **ret_to)
{
	int rc = thmqi_joint_run_check(j, f);

	if (rc)
		return rc;
	if (thmq_buf_alloc(j->core->pool, f->len, THMQ_PURPOSE_GENERAL, &j->run) != 0)
		return 1;
	j->run->owner = THMQI_OWNER_RUN;
	*ret_to = j->run->data;
	return 0;
}

int thmqi_joint_run_check(const struct thmqi_joint *j, const struct thmqi_frame *f)
{
	const struct thmqi_joint_stream *s =
		f->stream < THMQI_STREAMS ? j->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0];

	return !s || index >= THMQI_DELIVERIES || s->bufs[index] ||
			       s->held_bytes >= s->credit_bytes ||
			       f->len < sizeof(struct thmq_run_header)
		       ? -EPROTO
		       : 0;
}

static int down_begin(struct thmqi_joint *j, struct thmqi_frame *f, uint8_t **ret_to)
{
	if (thmqi_is_run(f))
		return run_begin(j, f, ret_to);
	f->data = 0;
	if (f->type == THMQI_FRAME_REPLY) {
		memset((char *)j->link->reply + f->len, 0, sizeof(*j->link->reply) - f->len);
		*ret_to = (uint8_t *)j->link->reply;
	}
	return 0;
}

static int down_done(struct thmqi_joint *j, struct thmqi_frame *f)
{
	if (thmqi_is_run(f)) {
		struct thmqi_joint_stream *s = j->streams[f->stream];

		f->data = (uint64_t)(uintptr_t)j->run->data;
		s->bufs[(uint32_t)f->arg[0]] = j->run;
		j->run->user =
			f->len -
			(uint32_t)sizeof(
				struct thmq_run_header); /* credit is counted so by the broker */
		s->held_bytes += j->run->user;
		j->run = NULL;
	}
	j->pushed++;
	return thmqi_joint_push(&j->link->down, f);
}

/* -------------------------------------------------------- what the client says */

/* A run that the session gives back: its memory goes at once. */
static void release_out(struct thmqi_joint *j, const struct thmqi_frame *f)
{
	struct thmqi_joint_stream *s = f->stream < THMQI_STREAMS ? j->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0];

	if (!s || index >= THMQI_DELIVERIES || !s->bufs[index])
		return;
	s->held_bytes -= s->bufs[index]->user;
	thmqi_buf_unref(s->bufs[index]);
	s->bufs[index] = NULL;
}

/* What its consumer may hold before the next run comes. Of several priorities each may have gone beyond its own by one run. */
static uint64_t credit_of(const struct thmqi_frame *attach)
{
	uint32_t priorities = attach->key_len & 0xff;

	return priorities ? ((uint64_t)attach->len + THMQI_STREAM_RUN_MAX) * priorities : attach->len;
}

static int up_out(struct thmqi_joint *j, struct thmqi_frame *f, const void **ret_body,
		  uint32_t *ret_len)
{
	struct thmqi_joint_stream *s;

	*ret_body = NULL;
	*ret_len = 0;
	switch (f->type) {
	case THMQI_FRAME_PRODUCE:
		*ret_body = (const void *)(uintptr_t)f->data;
		*ret_len = f->len;
		f->data -= (uint64_t)(uintptr_t)j->link->area;
		break;
	case THMQI_FRAME_REQUEST:
		*ret_body = j->link->request;
		f->len = *ret_len = THMQI_REQUEST_LEAST + THMQI_MIN(j->link->request->key_len, THMQ_KEY_MAX);
		f->data = 0;
		break;
	case THMQI_FRAME_ATTACH:
		s = f->stream < THMQI_STREAMS ? thmqi_joint_stream(j, f->stream) : NULL;
		if (!s)
			return -ENOMEM;
		s->credit_bytes = THMQI_MAX(s->credit_bytes, credit_of(f));
		break;
	case THMQI_FRAME_RELEASE:
		release_out(j, f);
		break;
	default:
		break;
	}
	return 0;
}

/* The broker's side takes it: a message has the same place in its area. */
static int produce_begin(struct thmqi_joint *j, struct thmqi_frame *f, uint8_t **ret_to)
{
	uint64_t at = f->data;

	if (f->len && (at >= j->link->area_bytes || f->len > j->link->area_bytes - at))
		return -EPROTO;
	at = f->len ? at : 0;
	f->data = (uint64_t)(uintptr_t)(j->link->area + at);
	*ret_to = j->link->area + at;
	return 0;
}

static int up_begin(struct thmqi_joint *j, struct thmqi_frame *f, uint8_t **ret_to)
{
	switch (f->type) {
	case THMQI_FRAME_PRODUCE:
		return produce_begin(j, f, ret_to);
	case THMQI_FRAME_REQUEST:
		if (j->request_out) /* its page is the broker's until that has answered */
			return -EPROTO;
		*ret_to = (uint8_t *)j->link->request;
		return 0;
	case THMQI_FRAME_ATTACH:
		return f->stream >= THMQI_STREAMS || thmqi_joint_stream(j, f->stream) ? 0 : -ENOMEM;
	default:
		return 0;
	}
}

bool thmqi_joint_has(const struct thmqi_joint *j, const struct thmqi_frame *f)
{
	const struct thmqi_joint_stream *s =
		f->stream < THMQI_STREAMS ? j->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0], mark = (uint32_t)(f->arg[0] >> 32) + 1;

	return s && index < THMQI_DELIVERIES && mark && s->out[index] == mark;
}

/* Only what it has can be given back: the others may still be read from. */
static void release_done(struct thmqi_joint *j, struct thmqi_frame *f)
{
	if (thmqi_joint_has(j, f))
		j->streams[f->stream]->out[(uint32_t)f->arg[0]] = 0;
	else
		f->stream = THMQI_STREAMS; /* it counts, and means nothing */
}

static int up_done(struct thmqi_joint *j, struct thmqi_frame *f)
{
	struct thmqi_link *link = j->link;

	if (f->type == THMQI_FRAME_REQUEST) {
		link->request->name[sizeof(link->request->name) - 1] = 0;
		link->request->group[sizeof(link->request->group) - 1] = 0;
		link->request->key_len = THMQI_MIN(link->request->key_len, f->len - THMQI_REQUEST_LEAST);
		j->request_out = true;
	} else if (f->type == THMQI_FRAME_RELEASE) {
		release_done(j, f);
	}
	return thmqi_joint_push(f->type == THMQI_FRAME_PRODUCE ? &link->up : &link->ctl, f);
}

/* --------------------------------------------------------------------- both ways */

int thmqi_joint_push(struct thmqi_frame_ring *ring, const struct thmqi_frame *f)
{
	struct thmqi_frame *slot = thmqi_frame_claim(ring, 0);

	if (!slot)
		return -EPROTO;
	thmqi_frame_copy(slot, f);
	thmqi_frame_commit(ring);
	return 0;
}

int thmqi_joint_out(struct thmqi_joint *j, struct thmqi_frame *f, const void **ret_body,
		    uint32_t *ret_len)
{
	return j->of_broker ? down_out(j, f, ret_body, ret_len) : up_out(j, f, ret_body, ret_len);
}

int thmqi_joint_begin(struct thmqi_joint *j, struct thmqi_frame *f, uint8_t **ret_to)
{
	if (f->type >= THMQI_STREAM_STATE)
		return 0;
	return j->of_broker ? up_begin(j, f, ret_to) : down_begin(j, f, ret_to);
}

int thmqi_joint_done(struct thmqi_joint *j, struct thmqi_frame *f)
{
	if (f->type == THMQI_STREAM_STATE)
		return take_state(j, f);
	if (f->type == THMQI_STREAM_BYE) /* to the broker it says nothing; the client is told why */
		return f->status < 0 ? f->status : -ESHUTDOWN;
	return j->of_broker ? up_done(j, f) : down_done(j, f);
}
