/* SPDX-License-Identifier: Apache-2.0 */
/*
 * in.c - what a client says: frames out of the arena into the link's own rings. Each is copied first and looked at then, since the
 * client could change it meanwhile; what it says of places and numbers is checked, and who breaks the rules loses the connection. The
 * bytes of a message stay where they are: the shard copies them once, into the batch, and whatever they were then is the message.
 */
#include "shm.h"

/* On its way while the shard comes to it. Nothing behind it: that line would be taken from the client, who is about to write there. */
static void prefetch(const uint8_t *message, uint32_t len)
{
	__builtin_prefetch(message);
	if (len)
		__builtin_prefetch(message + THMQI_MIN(len - 1, THMQI_CACHELINE));
}

/* Its place, in the client's terms, becomes one in ours. */
static int produce(struct shm_conn *c, struct thmqi_frame *f)
{
	uint64_t at = f->data - c->hello.area_at;

	if (!f->len)
		at = 0;
	else if (at >= c->link->area_bytes || f->len > c->link->area_bytes - at)
		return -EPROTO;
	f->data = (uint64_t)(uintptr_t)(c->link->area + at);
	prefetch(c->link->area + at, f->len);
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
static bool release(struct shm_conn *c, uint32_t stream, uint64_t token)
{
	struct shm_stream *s = stream < THMQI_STREAMS ? &c->streams[stream] : NULL;
	uint32_t index = (uint32_t)token, mark = (uint32_t)(token >> 32) + 1;

	if (!s || index >= THMQI_DELIVERIES || !mark || s->out[index].mark != mark)
		return false;
	s->out[index].mark = 0;
	thmqi_shm_room_give(&c->room, s->out[index].place);
	c->stalled = false;
	return true;
}

/* Likewise several: those that it has are left. */
static int releases(struct shm_conn *c, struct thmqi_frame *f)
{
	uint32_t i, n = 0;

	if (!f->len || f->len > THMQI_RELEASES)
		return -EPROTO;
	for (i = 0; i < f->len; i++)
		if (release(c, f->stream, *thmqi_frame_token(f, i)))
			*thmqi_frame_token(f, n++) = *thmqi_frame_token(f, i);
	f->len = n;
	return n > 0;
}

/* 1 it is passed on; 0 it is not; an error */
static int control(struct shm_conn *c, struct thmqi_frame *f)
{
	int rc = 0;

	if (!f->type || f->type == THMQI_FRAME_PRODUCE || f->type >= THMQI_FRAME_WELCOME)
		return -EPROTO;
	if (f->type == THMQI_FRAME_REQUEST)
		rc = request(c);
	else if (f->type == THMQI_FRAME_RELEASE)
		return release(c, f->stream, f->arg[0]);
	else if (f->type == THMQI_FRAME_RELEASES)
		return releases(c, f);
	return rc ? rc : 1;
}

/* As many as there is room for. Return: frames taken; an error. */
static int take_ctl(struct shm_conn *c)
{
	struct thmqi_frame_ring *from = &c->ctl, *to = &c->link->ctl;
	struct thmqi_frame *slot, *ours;
	int done = 0, rc = 0;

	while (rc >= 0 && (slot = thmqi_frame_peek(from, 0)) && (ours = thmqi_frame_claim(to, 0))) {
		thmqi_frame_copy(ours, slot);
		rc = control(c, ours);
		if (rc == 1)
			thmqi_frame_commit(to);
		thmqi_frame_advance(from, 1);
		done++;
	}
	if (done)
		thmqi_frame_publish(from);
	return rc < 0 ? rc : done;
}

/* Only their payloads: as many as there are go to the shard by one frame. All others are told one by one. */
static bool goes_whole(const struct thmqi_frame *first)
{
	return !((first->extra & ~THMQI_PRODUCE_REPORT) | first->key_len);
}

/* The next @count messages of a series, as one frame. */
static int take_next(struct shm_conn *c, struct thmqi_frame *ours, uint32_t count)
{
	const struct thmqi_frame *first = &c->series;
	const uint64_t step = thmqi_series_step(first->len), ahead = c->series_taken * step,
		       at = first->data + ahead - (uint64_t)(uintptr_t)c->link->area, all = (count - 1) * step + first->len;

	if (first->len && (at >= c->link->area_bytes || all > c->link->area_bytes - at))
		return -EPROTO;
	thmqi_frame_copy(ours, first);
	ours->seq += c->series_taken;
	if (first->len) {
		ours->data += ahead;
		prefetch(c->link->area + at, (uint32_t)THMQI_MIN(all, 2ull * THMQI_CACHELINE));
	}
	if (count > 1) {
		ours->extra |= THMQI_PRODUCE_SERIES;
		ours->arg[0] = count - 1;
	}
	c->series_taken += count;
	thmqi_frame_commit(&c->link->up);
	return 0;
}

/* What a series has come to: how many of it were not taken yet, or an error. */
static int64_t series_left(const struct shm_conn *c, uint64_t told)
{
	const uint64_t all = (uint64_t)(uint32_t)told + 1;

	if (all > THMQI_SERIES_MAX)
		return -EPROTO;
	return all > c->series_taken ? (int64_t)(all - c->series_taken) : 0; /* what was said is said */
}

/* The next frame; it stays where it is as long as it is a series. */
static int take_first(struct shm_conn *c, struct thmqi_frame *ours)
{
	int64_t left;
	int rc;

	thmqi_frame_copy(ours, thmqi_frame_at(&c->up, 0));
	rc = ours->type == THMQI_FRAME_PRODUCE ? produce(c, ours) : -EPROTO;
	if (rc)
		return rc;
	if (!(ours->extra & THMQI_PRODUCE_SERIES)) {
		thmqi_frame_advance(&c->up, 1);
		thmqi_frame_commit(&c->link->up);
		return 0;
	}
	if (ours->extra & THMQI_PRODUCE_TIMED || ours->arg[1])
		return -EPROTO;
	ours->extra &= ~THMQI_PRODUCE_SERIES;
	ours->arg[0] = 0;
	thmqi_frame_copy(&c->series, ours);
	c->series_taken = 0;
	left = series_left(c, thmqi_series_told(thmqi_frame_at(&c->up, 0)));
	if (left < 0)
		return (int)left;
	return take_next(c, ours, goes_whole(ours) ? (uint32_t)left : 1);
}

/* Likewise what is produced. */
static int take_up(struct shm_conn *c)
{
	struct thmqi_frame *ours;
	int done = 0, rc = 0;
	uint64_t told;
	int64_t left;

	while (!rc && (ours = thmqi_frame_claim(&c->link->up, 0))) {
		if (!c->series_taken) {
			if (!thmqi_frame_peek(&c->up, 0))
				break;
			rc = take_first(c, ours);
			done++;
			continue;
		}
		told = thmqi_series_told(thmqi_frame_at(&c->up, 0));
		left = series_left(c, told);
		if (left) {
			rc = left < 0 ? (int)left : take_next(c, ours, goes_whole(&c->series) ? (uint32_t)left : 1);
			done++;
		} else if (told & THMQI_SERIES_ENDS) {
			c->series_taken = 0;
			thmqi_frame_advance(&c->up, 1);
		} else {
			break;
		}
	}
	if (done)
		thmqi_frame_publish(&c->up);
	return rc ? rc : done;
}

int thmqi_shm_in(struct shm_conn *c)
{
	int done = take_ctl(c), up = 0;

	if (done >= 0)
		up = take_up(c);
	if (done >= 0 && up >= 0)
		return done + up;
	thmqi_shm_end(c, done < 0 ? done : up);
	return 1;
}
