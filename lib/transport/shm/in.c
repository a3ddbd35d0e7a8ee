/* SPDX-License-Identifier: Apache-2.0 */
/*
 * in.c - what a client says: frames out of the arena into the link's own rings. Each is copied first and looked at then, since the
 * client could change it meanwhile; what it says of places and numbers is checked, and who breaks the rules loses the connection. The
 * bytes of a message stay where they are: the shard copies them once, into the batch, and whatever they were then is the message.
 */
#include "shm.h"

/* Its place, in the client's terms, becomes one in ours. */
static int produce(struct shm_conn *c, struct thmqi_frame *f)
{
	uint64_t at = f->data - c->hello.area_at;

	if (!f->len)
		at = 0;
	else if (at >= c->link->area_bytes || f->len > c->link->area_bytes - at)
		return -EPROTO;
	f->data = (uint64_t)(uintptr_t)(c->link->area + at);
	/* on its way while the shard comes to it */
	__builtin_prefetch(c->link->area + at);
	__builtin_prefetch(c->link->area + at + THMQI_CACHELINE);
	return 0;
}

static int request(struct shm_conn *c)
{
	struct thmqi_request *page = c->link->request;

	if (c->request_out) /* its page is the broker's until that has answered */
		return -EPROTO;
	memcpy(page, c->arena.request, sizeof(*page));
	page->name[sizeof(page->name) - 1] = 0;
	page->group[sizeof(page->group) - 1] = 0;
	c->request_out = true;
	return 0;
}

/* Only what it has can be given back. Return: whether the broker is to be told. */
static bool release(struct shm_conn *c, const struct thmqi_frame *f)
{
	struct shm_stream *s = f->stream < THMQI_STREAMS ? &c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0], mark = (uint32_t)(f->arg[0] >> 32) + 1;

	if (!s || index >= THMQI_DELIVERIES || !mark || s->out[index].mark != mark)
		return false;
	s->out[index].mark = 0;
	thmqi_shm_room_give(&c->room, s->out[index].place);
	c->stalled = false;
	return true;
}

/* 1 it is passed on; 0 it is not; an error */
static int control(struct shm_conn *c, const struct thmqi_frame *f)
{
	int rc = 0;

	if (!f->type || f->type == THMQI_FRAME_PRODUCE || f->type >= THMQI_FRAME_WELCOME)
		return -EPROTO;
	if (f->type == THMQI_FRAME_REQUEST)
		rc = request(c);
	else if (f->type == THMQI_FRAME_RELEASE)
		return release(c, f);
	return rc ? rc : 1;
}

static int accept_frame(struct shm_conn *c, struct thmqi_frame *f, bool up)
{
	int rc;

	if (!up)
		return control(c, f);
	rc = f->type == THMQI_FRAME_PRODUCE ? produce(c, f) : -EPROTO;
	return rc ? rc : 1;
}

static void copy_frame(struct thmqi_frame *to, const struct thmqi_frame *from)
{
	memcpy((char *)to + sizeof(to->turn), (const char *)from + sizeof(from->turn),
	       sizeof(*to) - sizeof(to->turn));
}

/* As many as there is room for. Return: frames taken; an error. */
static int take_ring(struct shm_conn *c, struct thmqi_frame_ring *from, struct thmqi_frame_ring *to,
		     bool up)
{
	struct thmqi_frame *slot, *ours;
	int done = 0, rc = 0;

	while (rc >= 0 && (slot = thmqi_frame_peek(from, 0)) && (ours = thmqi_frame_claim(to, 0))) {
		copy_frame(ours, slot);
		rc = accept_frame(c, ours, up);
		if (rc == 1)
			thmqi_frame_commit(to);
		thmqi_frame_advance(from, 1);
		done++;
	}
	if (done)
		thmqi_frame_publish(from);
	return rc < 0 ? rc : done;
}

static bool waits(struct thmqi_frame_ring *from, struct thmqi_frame_ring *to)
{
	return thmqi_frame_peek(from, 0) && thmqi_frame_claim(to, 0);
}

bool thmqi_shm_in_wanted(struct shm_conn *c)
{
	return waits(&c->up, &c->link->up) || waits(&c->ctl, &c->link->ctl);
}

int thmqi_shm_in(struct shm_conn *c)
{
	int done = take_ring(c, &c->ctl, &c->link->ctl, false), up = 0;

	if (done >= 0)
		up = take_ring(c, &c->up, &c->link->up, true);
	if (done >= 0 && up >= 0)
		return done + up;
	thmqi_shm_end(c, done < 0 ? done : up);
	return 1;
}
