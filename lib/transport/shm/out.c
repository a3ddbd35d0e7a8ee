/* SPDX-License-Identifier: Apache-2.0 */
/*
 * out.c - what a client is told: frames of the link's own ring into the arena's, each run that they speak of copied into a block
 * of the room, where it stays until the client releases it. The client is woken only if it has said that it sleeps. What is
 * written there is not read again: the client could have changed it.
 */
#include "shm.h"

#define FRAMES_MAX 1024u /* in one go */
#define ONE_HEAD ((uint32_t)(sizeof(struct thmq_run_header) + sizeof(struct thmq_record)))

/* 1: there is room in the arena's ring; 0: not now; -EPROTO: it claims to have taken what it was not given. */
static int has_room(struct shm_conn *c)
{
	if (thmqi_likely(thmqi_frame_claim(&c->down, 0) != NULL))
		return 1;
	return c->down.head - c->down.tail_seen > (uint64_t)c->down.mask + 1 ? -EPROTO : 0;
}

/* The broker has closed, and all that it left was put; what there is no room for is not waited for. */
static bool bye_is_due(struct shm_conn *c)
{
	return atomic_load_explicit(&c->link->broker_closed, memory_order_acquire) != 0 &&
	       (c->stalled || !thmqi_frame_peek(&c->link->down, 0));
}

bool thmqi_shm_out_may_go(struct shm_conn *c)
{
	if (c->stalled || !thmqi_frame_peek(&c->link->down, 0))
		return bye_is_due(c);
	return has_room(c) != 0;
}

/* Of one message the frame says all that its header and its record do: they need not cross. */
static void copy_run(uint8_t *to, const struct thmqi_frame *f)
{
	const uint8_t *from = (const uint8_t *)(uintptr_t)f->data;
	uint32_t head = f->type == THMQI_FRAME_DELIVER_ONE ? ONE_HEAD : 0;

	memcpy(to + head, from + head, f->len - head);
}

/* The run of @f, one of our own ring, goes into the room, and *ret_data says where. False: there is none for it now. */
static bool put_run(struct shm_conn *c, struct thmqi_frame *f, uint64_t *ret_data)
{
	struct shm_stream *s = f->stream < THMQI_STREAMS ? &c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0], place, at = f->type == THMQI_FRAME_DELIVER_ONE ? SHM_ONE_AT : 0;

	if (!s || index >= THMQI_DELIVERIES) { /* the broker has no more of them */
		thmqi_assert(!"a run for nobody");
		f->len = 0;
		return true;
	}
	place = thmqi_shm_room_take(&c->room, at + f->len);
	if (thmqi_unlikely(place == UINT32_MAX)) {
		c->stalled = true;
		return false;
	}
	copy_run(c->arena.room + thmqi_shm_room_offset(place) + at, f);
	s->out[index] = (struct shm_out){.mark = (uint32_t)(f->arg[0] >> 32) + 1, .place = place};
	*ret_data = thmqi_shm_room_offset(place) + at;
	return true;
}

static bool put_body(struct shm_conn *c, struct thmqi_frame *f, uint64_t *ret_data)
{
	*ret_data = 0;
	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE)
		return put_run(c, f, ret_data);
	if (f->type == THMQI_FRAME_REPLY) {
		memcpy(c->arena.reply, c->link->reply, sizeof(*c->arena.reply));
		c->request_out = false;
	}
	return true;
}

/*
 * The client looks at @slot all the time, and has what lay in the block: the lines of both are asked for together, before the first is
 * written, since a processor lets nobody see the second before it has the first.
 */
static bool put_frame(struct shm_conn *c, struct thmqi_frame *f, struct thmqi_frame *slot)
{
	uint64_t data;

	thmqi_prefetch_write(slot);
	if (!put_body(c, f, &data))
		return false;
	thmqi_frame_copy(slot, f);
	slot->data = data;
	thmqi_frame_commit(&c->down);
	return true;
}

void thmqi_shm_wake(int fd)
{
	/* EAGAIN: there is something for it to read already; anything else: it is gone, and the watch tells */
	if (send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static void wake_client(struct shm_conn *c)
{
	_Atomic uint32_t *sleeping = &c->arena.head->client_sleeping;

	atomic_thread_fence(
		memory_order_seq_cst); /* frames before flag: pairs with the fence in its arm */
	if (thmqi_unlikely(atomic_load_explicit(sleeping, memory_order_relaxed))) {
		atomic_store_explicit(sleeping, 0, memory_order_relaxed);
		thmqi_shm_wake(c->fd);
	}
}

/* The block that the next small run gets was read by the client: ask for its first line now. */
static void expect_run(const struct shm_conn *c)
{
	if (c->room.first[0])
		thmqi_prefetch_write(c->arena.room + thmqi_shm_room_offset(c->room.first[0] - 1) + SHM_ONE_AT + ONE_HEAD);
}

/* Return: 1; 0 there is no room for what is left; -EPROTO as has_room(). */
static int carry(struct shm_conn *c)
{
	struct thmqi_frame_ring *from = &c->link->down;
	struct thmqi_frame *ours;
	uint32_t done = 0;
	int rc = 1;

	while (done < FRAMES_MAX && (ours = thmqi_frame_peek(from, 0)) && (rc = has_room(c)) == 1 &&
	       put_frame(c, ours, thmqi_frame_claim(&c->down, 0))) {
		thmqi_frame_advance(from, 1);
		done++;
	}
	thmqi_frame_publish(from);
	if (done || c->handed) {
		c->handed = false;
		c->busy_ns = c->core->now_ns;
		wake_client(c);
		expect_run(c);
	}
	return rc;
}

void thmqi_shm_carry(struct thmqi_link *link)
{
	struct shm_conn *c = thmqi_container(link->reader, struct shm_conn, poller);

	if (c->state == SHM_OPEN && c->link && !c->stalled)
		carry(c); /* what is wrong is seen by the poller */
}

/* Somebody waits for it: what wakes a client that sleeps, and is behind all that was written, comes later. */
bool thmqi_shm_hand(struct thmqi_link *link, struct thmqi_frame *frame)
{
	struct shm_conn *c = thmqi_container(link->reader, struct shm_conn, poller);

	if (c->state != SHM_OPEN || !c->link || c->stalled || c->poller.rests || link->down.head != link->down.next || has_room(c) != 1 ||
	    !put_frame(c, frame, thmqi_frame_claim(&c->down, 0)))
		return false;
	c->handed = true;
	return true;
}

void thmqi_shm_out(struct shm_conn *c)
{
	int rc = carry(c);

	if (rc < 0)
		thmqi_shm_end(c, rc);
	else if (bye_is_due(c))
		thmqi_shm_end(c, atomic_load(&c->link->broker_closed));
}
