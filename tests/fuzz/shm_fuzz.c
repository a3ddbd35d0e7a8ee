/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The broker's side of an arena whose other side is hostile: frames of any content, words and slots that change, runs that are given
 * back or not. What comes through lies within the data area; what goes down lies within the room, no two runs in one place, and stays as it
 * was until it is given back; nothing else of the broker's is touched.
 *
 * The input is operations: a byte that says which, see step(), and what that takes.
 */
#include "../../lib/transport/shm/shm.h"
#include <unistd.h>

#include "fuzz.h"

#define STEPS_MAX 2000u
#define AREA 4096u
#define AREA_AT 0x7000000000ull
#define ROOM (256u << 10)
#define HELD 64u
#define RUN_MAX 9000u

struct input {
	const uint8_t *at, *end;
};

/* A run that went down and was not given back. */
struct held {
	uint64_t token, offset;
	uint32_t stream, len;
	uint8_t fill;
	bool out;
};

static struct shm_conn *c;
static struct thmqi_link *wire;
static struct thmqi_frame_ring theirs; /* the down ring as the client reads it */
static struct held held[HELD];
static uint32_t generation;
static uint8_t *run;

static uint64_t take(struct input *in, uint32_t bytes)
{
	uint64_t value = 0;
	size_t n = THMQI_MIN((size_t)bytes, (size_t)(in->end - in->at));

	memcpy(&value, in->at, n);
	in->at += n;
	return value;
}

static void open_conn(void)
{
	static struct thmq_core core; /* its clock stands */
	const struct shm_sizes sizes = {.area_bytes = AREA,
					.up_frames = 16,
					.ctl_frames = 16,
					.down_frames = 16,
					.room_bytes = ROOM};
	struct thmqi_link_opts opts = {.area_bytes = AREA, .up_frames = 8, .down_frames = 8};
	int fd;

	c = thmqi_shm_make();
	FUZZ_CHECK(c && thmqi_shm_arena_make(&sizes, &c->arena, &fd) == 0);
	close(fd);
	FUZZ_CHECK(thmqi_shm_room_init(&c->room, ROOM) == 0);
	c->streams = thmqi_shm_books_open(THMQI_STREAMS * sizeof(*c->streams));
	FUZZ_CHECK(c->streams);
	opts.area = c->arena.area;
	FUZZ_CHECK(thmqi_link_make(&opts, 64, &wire) == 0);
	FUZZ_CHECK(thmqi_listener_make(NULL, NULL, &(struct thmqi_acceptor){0}, &wire->listener) ==
		   0);
	FUZZ_CHECK(thmqi_waiter_open(&wire->waiter) == 0);
	c->link = wire;
	c->core = &core;
	c->state = SHM_OPEN;
	c->hello.area_at = AREA_AT;
	thmqi_frame_ring_init(&c->up, c->arena.up, 16);
	thmqi_frame_ring_init(&c->ctl, c->arena.ctl, 16);
	thmqi_frame_ring_init(&c->down, c->arena.down, 16);
	thmqi_frame_ring_init(&theirs, c->arena.down, 16);
	c->up.tail_at = &c->arena.head->up_tail;
	c->ctl.tail_at = &c->arena.head->ctl_tail;
	c->down.tail_at = theirs.tail_at = &c->arena.head->down_tail;
	memset(held, 0, sizeof(held));
	generation = 0;
}

static void close_conn(void)
{
	thmqi_shm_end(c, -ECONNRESET);
	thmqi_link_unref(wire); /* the shard's end */
	thmqi_shm_free(c);
}

/* A frame that is there, as far as its turn says. */
static void say(struct input *in, bool up)
{
	struct thmqi_frame_ring *ring = up ? &c->up : &c->ctl;
	uint32_t ahead = (uint32_t)take(in, 1) % 16;
	uint64_t number = ring->next + ahead;
	struct thmqi_frame f, *slot = &ring->slots[number & ring->mask];
	uint8_t form = (uint8_t)take(in, 1);
	size_t n = THMQI_MIN(sizeof(f) - 4, (size_t)(in->end - in->at));

	memset(&f, 0, sizeof(f));
	if (form % 4 == 0) { /* any bytes */
		memcpy((char *)&f + 4, in->at, n);
		in->at += n;
	} else {
		f.type = up ? (uint8_t)THMQI_FRAME_PRODUCE : (uint8_t)(1 + take(in, 1) % 11);
		f.stream = (uint32_t)take(in, 1);
		f.len = (uint32_t)take(in, 2);
		f.data = AREA_AT + take(in, 2);
		f.arg[0] = take(in, 1) | take(in, 1) << 32;
		if (up && form % 4 == 2) { /* a series of so many, or of far too many */
			f.extra = THMQI_PRODUCE_SERIES;
			f.arg[0] |= (uint64_t)(f.stream & 1) << 63;
		}
		if (form % 4 == 1 && held[f.arg[0] % HELD].out) {
			f.stream = held[f.arg[0] % HELD].stream;
			f.arg[0] = held[f.arg[0] % HELD].token;
			if (f.type == THMQI_FRAME_RELEASES) { /* the same twice, and others */
				f.arg[1] = held[f.len % HELD].token;
				f.seq = f.arg[0];
				f.len %= 6;
			}
		}
	}
	memcpy((char *)slot + 4, (char *)&f + 4, sizeof(f) - 4);
	atomic_store(&slot->turn, (uint32_t)(number >> ring->shift) + 1);
}

/* Bytes of the head and the rings, which are before the data area. */
static void scribble(struct input *in)
{
	uint64_t at = take(in, 3) % (uint64_t)(c->arena.area - c->arena.map);

	c->arena.map[at] = (uint8_t)take(in, 1);
}

static void see_release(uint32_t stream, uint64_t token)
{
	uint32_t i;

	for (i = 0; i < HELD; i++)
		if (held[i].out && held[i].stream == stream && held[i].token == token) {
			held[i].out = false;
			return;
		}
	FUZZ_CHECK(!"the broker is told of a run that is not out");
}

/* The shard takes what came through. */
static void shard_takes(void)
{
	struct thmqi_frame *f;

	while ((f = thmqi_frame_peek(&wire->up, 0))) {
		const uint8_t *data = (const uint8_t *)(uintptr_t)f->data;

		FUZZ_CHECK(f->type == THMQI_FRAME_PRODUCE);
		FUZZ_CHECK(data >= wire->area && data <= wire->area + AREA);
		FUZZ_CHECK(f->len <= (size_t)(wire->area + AREA - data));
		if (f->len && f->extra & THMQI_PRODUCE_SERIES) /* and all that follow it */
			FUZZ_CHECK(f->arg[0] < THMQI_SERIES_MAX &&
				   f->arg[0] * thmqi_series_step(f->len) <= (size_t)(wire->area + AREA - data) - f->len);
		thmqi_frame_advance(&wire->up, 1);
	}
	thmqi_frame_publish(&wire->up);
	while ((f = thmqi_frame_peek(&wire->ctl, 0))) {
		FUZZ_CHECK(f->type && f->type < THMQI_FRAME_WELCOME &&
			   f->type != THMQI_FRAME_PRODUCE);
		if (f->type == THMQI_FRAME_RELEASE)
			see_release(f->stream, f->arg[0]);
		if (f->type == THMQI_FRAME_RELEASES) {
			FUZZ_CHECK(f->len && f->len <= THMQI_RELEASES);
			for (uint32_t i = 0; i < f->len; i++)
				see_release(f->stream, *thmqi_frame_token(f, i));
		}
		if (f->type == THMQI_FRAME_REQUEST)
			FUZZ_CHECK(memchr(wire->request->name, 0, 256) &&
				   memchr(wire->request->group, 0, 256));
		thmqi_frame_advance(&wire->ctl, 1);
	}
	thmqi_frame_publish(&wire->ctl);
}

/* The shard delivers, by a token that is free. */
static void shard_delivers(struct input *in)
{
	uint32_t stream = (uint32_t)take(in, 1), index = (uint32_t)take(in, 1) % HELD;
	uint32_t len = 112 + (uint32_t)take(in, 2) % RUN_MAX;
	struct held *h = &held[index];
	struct thmqi_frame *f;

	if (h->out || !(f = thmqi_frame_claim(&wire->down, 0)))
		return;
	*h = (struct held){.token = index | (uint64_t)generation++ << 32,
			   .offset = UINT64_MAX, /* not known before it is put */
			   .stream = stream,
			   .len = len,
			   .fill = (uint8_t)generation,
			   .out = true};
	memset(run + (size_t)index * (RUN_MAX + 112), h->fill, len);
	f->type = THMQI_FRAME_DELIVER;
	f->stream = stream;
	f->len = len;
	f->data = (uint64_t)(uintptr_t)(run + (size_t)index * (RUN_MAX + 112));
	f->arg[0] = h->token;
	thmqi_frame_commit(&wire->down);
}

static void shard_answers(void)
{
	struct thmqi_frame *f = thmqi_frame_claim(&wire->down, 0);

	if (!f)
		return;
	f->type = THMQI_FRAME_REPLY;
	thmqi_frame_commit(&wire->down);
}

/* What the books say is out does not overlap, and is as it was. */
static void check_room(void)
{
	uint8_t used[ROOM / SHM_GRANULE] = {0};
	uint32_t i, k;

	for (i = 0; i < HELD; i++) {
		const struct shm_out *o = held[i].out ? &c->streams[held[i].stream].out[i] : NULL;
		uint64_t at = o && o->mark ? thmqi_shm_room_offset(o->place) : 0;

		if (!o || o->mark != (uint32_t)(held[i].token >> 32) + 1)
			continue; /* it waits in the ring, or its release does */
		FUZZ_CHECK(at + held[i].len <= ROOM);
		for (k = 0; k < (held[i].len + SHM_GRANULE - 1) / SHM_GRANULE; k++)
			FUZZ_CHECK(used[at / SHM_GRANULE + k]++ == 0);
		FUZZ_CHECK(c->arena.room[at] == held[i].fill &&
			   c->arena.room[at + held[i].len - 1] == held[i].fill);
	}
}

static void step(struct input *in)
{
	switch (take(in, 1) % 8) {
	case 0:
	case 1:
		say(in, true);
		break;
	case 2:
		say(in, false);
		break;
	case 3:
		scribble(in);
		break;
	case 4:
		shard_delivers(in);
		break;
	case 5:
		shard_answers();
		break;
	case 6:
		thmqi_frame_advance(&theirs, thmqi_frame_peek(&theirs, 0) != NULL);
		thmqi_frame_publish(&theirs);
		break;
	default:
		shard_takes();
	}
	if (thmqi_shm_in_wanted(c))
		thmqi_shm_in(c);
	if (c->state == SHM_OPEN && thmqi_shm_out_wanted(c))
		thmqi_shm_out(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {.at = data, .end = data + size};
	uint32_t steps;

	run = malloc((size_t)HELD * (RUN_MAX + 112));
	FUZZ_CHECK(run);
	open_conn();
	for (steps = 0; steps < STEPS_MAX && in.at < in.end && c->state == SHM_OPEN; steps++) {
		step(&in);
		if (c->state == SHM_OPEN)
			check_room();
	}
	close_conn();
	free(run);
	return 0;
}
