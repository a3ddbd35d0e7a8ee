/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client_rig.h - a client against a broker that does only what the test says: it answers control requests, keeps the
 * frames that came up, and sends the frames down that the test pushes. All in one thread that owns the core.
 */
#ifndef CLIENT_RIG_H
#define CLIENT_RIG_H

#include <criterion/criterion.h>
#include <stdio.h>

#include <thundermq/log.h>

#include "client/client.h"
#include "wire/run.h"

#define SECOND 1000000000ull
#define RIG_SHARDS 3u /* meta and two more */
#define RIG_PARTITIONS 4u
#define RIG_FIRST 100u /* partition i has id RIG_FIRST + i, in shard 1 + i % 2 */
#define RIG_TOPIC 7u
#define RIG_GROUP 9u
#define RIG_KEPT 65536u
#define MAYBE __attribute__((unused)) static

struct rig {
	struct thmq_env *env;
	struct thmqi_transport *transport;
	struct thmqi_graveyard graveyard;
	struct thmqi_listener *listener;
	struct thmqi_poller poller;
	struct thmqi_link *links[RIG_SHARDS];
	struct thmq_session *session;
	/* frames that came up, by kind of ring, since rig_forget() */
	struct thmqi_frame *produced, *control;
	uint32_t produced_shard[RIG_KEPT];
	uint32_t produced_count, control_count;
	/* what it does by itself */
	uint32_t topic_flags;
	uint32_t partition_count;
	bool deaf;          /* takes no PRODUCE */
	bool deaf_to_ctl;   /* takes no control frame */
	bool mute;          /* keeps requests without an answer */
	uint32_t mute_op;   /* the same for one kind of them: enum thmqi_op */
	uint32_t held_up;   /* so many requests that change something are -EAGAIN first */
	bool no_detached, no_attached;
	bool take_acks;     /* answers them, as stored */
	int refuse_acks;    /* answers them with this error */
	uint32_t down_sent;
	uint64_t unanswered;
	int refuse;         /* accept's error */
	int attach_status;
	uint8_t attach_flags;
	uint64_t attach_offset;
	uint64_t group_epoch;
};

static struct rig *rig_self;

static uint32_t rig_shard(uint32_t index)
{
	return 1 + index % (RIG_SHARDS - 1);
}

static struct thmq_core *rig_core(void)
{
	return thmqi_env_core(rig_self->env, 0);
}

/* A frame down; all but turn. */
static void rig_push(uint32_t shard, const struct thmqi_frame *frame)
{
	struct thmqi_link *l = rig_self->links[shard];
	struct thmqi_frame *f = thmqi_frame_claim(&l->down, 0);

	cr_assert_not_null(f, "the rig's ring down is full");
	memcpy((char *)f + 4, (const char *)frame + 4, sizeof(*f) - 4);
	thmqi_frame_commit(&l->down);
	thmqi_link_kick_client(l);
}

#define PUSH(shard, ...) rig_push(shard, &(struct thmqi_frame){__VA_ARGS__})

static void rig_reply(struct thmqi_link *l, uint64_t id, int status)
{
	l->reply->status = status;
	PUSH(l->shard, .type = THMQI_FRAME_REPLY, .seq = id, .status = status);
}

static void rig_answer(struct thmqi_link *l, const struct thmqi_frame *f)
{
	struct thmqi_request q = *l->request;
	struct thmqi_reply *r = l->reply;
	uint32_t i;

	if (rig_self->held_up && (q.op == THMQI_OP_JOIN || q.op == THMQI_OP_TOPIC_CREATE)) {
		rig_self->held_up--;
		rig_reply(l, f->seq, -EAGAIN);
		return;
	}
	if (rig_self->mute || (rig_self->mute_op && q.op == rig_self->mute_op)) {
		rig_self->unanswered = f->seq;
		return;
	}
	memset(r, 0, sizeof(*r));
	switch (q.op) {
	case THMQI_OP_TOPIC_DESCRIBE:
		if (strcmp(q.name, "t") != 0) {
			rig_reply(l, f->seq, -THMQ_ENOTOPIC);
			return;
		}
		r->count = r->total = 1;
		r->topics[0].topic_id = RIG_TOPIC;
		r->topics[0].topic_flags = rig_self->topic_flags;
		r->topics[0].partition_count = rig_self->partition_count;
		snprintf(r->topics[0].name, sizeof(r->topics[0].name), "t");
		break;
	case THMQI_OP_TOPIC_PARTITIONS:
		/* two at a time, so that asking again is needed */
		r->total = rig_self->partition_count;
		for (i = q.index; i < r->total && r->count < 2; i++) {
			r->partitions[r->count].partition = RIG_FIRST + i;
			r->partitions[r->count++].shard = rig_shard(i);
		}
		break;
	case THMQI_OP_JOIN:
		r->value[0] = RIG_GROUP;
		break;
	default:
		break;
	}
	rig_reply(l, f->seq, 0);
}

static void rig_control(struct thmqi_link *l, const struct thmqi_frame *f)
{
	if (f->type == THMQI_FRAME_REQUEST) {
		rig_answer(l, f);
		return;
	}
	cr_assert_lt(rig_self->control_count, RIG_KEPT);
	rig_self->control[rig_self->control_count++] = *f;
	if (f->type == THMQI_FRAME_ATTACH && !rig_self->no_attached)
		PUSH(l->shard, .type = THMQI_FRAME_ATTACHED, .stream = f->stream, .partition = f->partition,
		     .seq = rig_self->attach_offset, .status = rig_self->attach_status,
		     .flags = rig_self->attach_flags);
	if (f->type == THMQI_FRAME_ACK && (rig_self->take_acks || rig_self->refuse_acks))
		PUSH(l->shard, .type = THMQI_FRAME_ACKED, .stream = f->stream, .partition = f->partition, .seq = f->seq,
		     .status = rig_self->refuse_acks);
	if (f->type == THMQI_FRAME_DETACH && !rig_self->no_detached)
		PUSH(l->shard, .type = THMQI_FRAME_DETACHED, .stream = f->stream, .partition = f->partition,
		     .seq = f->seq);
}

static int rig_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct rig *r = rig_self;
	struct thmqi_frame *f;
	int done = 0;
	uint32_t i;

	for (i = 0; i < RIG_SHARDS; i++) {
		struct thmqi_link *l = r->links[i];

		while (l && !r->deaf_to_ctl && (f = thmqi_frame_peek(&l->ctl, 0))) {
			struct thmqi_frame copy = *f;

			thmqi_frame_advance(&l->ctl, 1);
			rig_control(l, &copy);
			done++;
		}
		while (l && !r->deaf && (f = thmqi_frame_peek(&l->up, 0))) {
			cr_assert_lt(r->produced_count, RIG_KEPT);
			r->produced_shard[r->produced_count] = i;
			r->produced[r->produced_count++] = *f;
			thmqi_frame_advance(&l->up, 1);
			done++;
		}
		if (l) {
			thmqi_frame_publish(&l->ctl);
			thmqi_frame_publish(&l->up);
		}
	}
	return done;
}

static struct thmq_core *rig_core_of(void *ctx, uint32_t shard)
{
	return shard < RIG_SHARDS ? rig_core() : NULL;
}

static int rig_accept(void *ctx, struct thmqi_link *link)
{
	if (rig_self->refuse)
		return rig_self->refuse;
	cr_assert_null(rig_self->links[link->shard], "one link a shard");
	link->broker = rig_self;
	rig_self->links[link->shard] = link;
	PUSH(link->shard, .type = THMQI_FRAME_WELCOME, .seq = RIG_SHARDS, .len = THMQI_WIRE_VERSION,
	     .arg = {1, 1u << 20});
	return 0;
}

static void rig_closed(void *ctx, struct thmqi_link *link)
{
	rig_self->links[link->shard] = NULL;
	thmqi_link_unref(link);
}

/* Runs the core until it has nothing to do. */
MAYBE void rig_drive(void)
{
	while (thmqi_core_poll(rig_core(), 0) > 0)
		;
}

MAYBE void rig_forget(void)
{
	rig_self->produced_count = rig_self->control_count = 0;
}

/* How many control frames of @type came up; *ret_last: the last of them. */
MAYBE uint32_t rig_control_of(uint32_t type, struct thmqi_frame *ret_last)
{
	uint32_t i, n = 0;

	for (i = 0; i < rig_self->control_count; i++)
		if (rig_self->control[i].type == type) {
			n++;
			if (ret_last)
				*ret_last = rig_self->control[i];
		}
	return n;
}

static void rig_listen(void)
{
	struct thmqi_acceptor a = {.core_of = rig_core_of, .accept = rig_accept, .closed = rig_closed};
	struct rig *r = rig_self;

	cr_assert_eq(thmqi_env_open(NULL, NULL, &r->env), 0);
	cr_assert_eq(thmqi_transport_open(r->env, &r->transport), 0);
	thmqi_graveyard_init(&r->graveyard);
	r->poller.poll = rig_poll;
	thmqi_core_add_poller(rig_core(), &r->poller);
	cr_assert_eq(thmqi_transport_listen(r->transport, NULL, &a, &r->listener), 0);
}

MAYBE int rig_connect(const struct thmq_session_opts *opts)
{
	static const struct thmq_session_opts none = {.size = sizeof(none)};

	return thmqi_client_connect(rig_self->env, rig_self->transport, &rig_self->graveyard, "inproc://",
				    opts ? opts : &none, &rig_self->session);
}

MAYBE void rig_open(void)
{
	rig_self = calloc(1, sizeof(*rig_self));
	rig_self->produced = calloc(RIG_KEPT, sizeof(struct thmqi_frame));
	rig_self->control = calloc(RIG_KEPT, sizeof(struct thmqi_frame));
	rig_self->partition_count = RIG_PARTITIONS;
	rig_listen();
}

/* What the broker's end does when it closes. */
MAYBE void rig_shut(int error)
{
	uint32_t i;

	for (i = 0; i < RIG_SHARDS; i++) {
		struct thmqi_link *l = rig_self->links[i];

		rig_self->links[i] = NULL;
		if (!l)
			continue;
		thmqi_link_shut(l, error);
		thmqi_link_unref(l);
	}
}

MAYBE void rig_close(void)
{
	struct rig *r = rig_self;

	if (r->session)
		thmqi_client_session_close(r->session, 0);
	rig_drive();
	rig_shut(-ESHUTDOWN);
	thmqi_transport_unlisten(r->listener);
	rig_drive();
	thmqi_core_remove_poller(rig_core(), &r->poller);
	cr_assert_eq(thmqi_env_close(r->env), 0);
	thmqi_transport_close(r->transport);
	thmqi_graveyard_fini(&r->graveyard);
	free(r->produced);
	free(r->control);
	free(r);
}

/* -------------------------------------------------------------------- events */

/* The next event of @type, others are thrown away. Return: whether there was one. */
MAYBE bool rig_event(uint32_t type, struct thmq_event *ret_event)
{
	struct thmq_event e;

	while (thmqi_client_events(rig_self->session, &e, 1) == 1)
		if (e.type == type) {
			if (ret_event)
				*ret_event = e;
			return true;
		}
	return false;
}

#endif
