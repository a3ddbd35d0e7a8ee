/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of a hostile client over inproc: every type, any field, in any order, on links to meta and to both shards, with requests of any
 * kind. The broker goes on, closes, and opens again; what it hands out can be read.
 *
 * The input: byte 0: 1: it is opened again at the end; then operations, see step().
 */
#include "broker.h"
#include "transport/transport.h"
#include "wire/run.h"

#define CLIENTS 2u
#define SHARDS 3u
#define LINKS (CLIENTS * SHARDS)
#define STEPS_MAX 300u
#define AREA_BYTES 65536u

struct end {
	struct thmqi_link *link;
	uint64_t token, epoch,
		offset; /* of the last frames down, so that answers to them can be made */
	uint64_t group;
};

static struct broker_rig r;
static struct end ends[LINKS];
static struct thmqi_waiter *waiter;

static void poll_core(uint32_t rounds)
{
	while (rounds--)
		thmqi_core_poll(r.core, 100000);
}

static void end_open(struct end *e, uint32_t shard)
{
	const struct thmqi_link_opts opts = {
		.area_bytes = AREA_BYTES, .up_frames = 64, .down_frames = 64};

	memset(e, 0, sizeof(*e));
	FUZZ_CHECK(thmqi_transport_connect(thmqi_api_of(r.env)->transport, "inproc://", shard,
					   &opts, waiter, &e->link) == 0,
		   "%s", thmq_errmsg());
	memset(e->link->area, 'a', AREA_BYTES);
}

static void see_run(const struct thmqi_frame *f)
{
	const struct thmq_run_header *run = (const struct thmq_run_header *)(uintptr_t)f->data;

	FUZZ_CHECK(f->len == sizeof(*run) + run->len && run->magic == THMQ_RUN_MAGIC);
	fuzz_touch(run, f->len);
	FUZZ_CHECK(!thmqi_run_has_table(run) || thmqi_run_records_ok(run),
		   "a run that no client can read");
	if (f->type == THMQI_FRAME_DELIVER_ONE)
		FUZZ_CHECK(f->extra <= run->len && f->key_len + (uint32_t)f->flags <= f->extra);
}

static void take_down(struct end *e)
{
	struct thmqi_frame *f;

	while ((f = thmqi_frame_peek(&e->link->down, 0))) {
		if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE) {
			see_run(f);
			e->token = f->arg[0];
			e->offset = f->arg[1];
		} else if (f->type == THMQI_FRAME_ASSIGN) {
			e->epoch = f->seq;
			e->group = f->arg[1];
		}
		thmqi_frame_advance(&e->link->down, 1);
	}
	thmqi_frame_publish(&e->link->down);
}

/* A byte stands for a small number, or for one that may hurt. */
static uint64_t number(struct fuzz_input *in, const struct end *e)
{
	static const uint64_t hurts[] = {UINT64_MAX,    UINT64_MAX - 1, 1ull << 63,  INT64_MAX,
					 1ull << 62,    1ull << 32,     UINT32_MAX,  UINT32_MAX - 7,
					 1u << 31,      INT32_MAX,      1u << 20,    65536,
					 65535,         4096,           4095,        256,
					 255,           0x80000001u,    0x80000002u, 250,
					 0x100000001ull};
	uint32_t b = (uint32_t)fuzz_take(in, 1);

	if (b < 200)
		return b;
	switch (b) {
	case 200:
		return e->token;
	case 201:
		return e->epoch;
	case 202:
		return e->offset;
	case 203:
		return e->group;
	case 204:
		return e->token + (1ull << 32);
	case 205:
		return (uint64_t)(uintptr_t)e->link->area + AREA_BYTES;
	case 206:
		return fuzz_take(in, 4);
	case 207:
		return fuzz_take(in, 8);
	default:
		return hurts[(b - 208) % THMQI_ARRAY_COUNT(hurts)];
	}
}

static void send_frame(struct end *e, struct thmqi_frame_ring *ring,
		       const struct thmqi_frame *frame)
{
	struct thmqi_frame *f = thmqi_frame_claim(ring, 0);

	if (!f)
		return;
	memcpy((char *)f + sizeof(f->turn), (const char *)frame + sizeof(f->turn),
	       sizeof(*f) - sizeof(f->turn));
	thmqi_frame_commit(ring);
	(void)e;
}

static void any_frame(struct end *e, struct fuzz_input *in, bool up)
{
	struct thmqi_frame f = {.type = (uint8_t)fuzz_take(in, 1)};

	if (up && f.type < 250)
		f.type = THMQI_FRAME_PRODUCE;
	f.flags = (uint8_t)number(in, e);
	f.stream = (uint32_t)number(in, e);
	f.partition = (uint32_t)number(in, e);
	f.len = (uint32_t)number(in, e);
	f.extra = (uint32_t)number(in, e);
	f.seq = number(in, e);
	f.arg[0] = number(in, e);
	f.arg[1] = number(in, e);
	f.generation = (uint32_t)number(in, e);
	f.key_len = (uint16_t)number(in, e);
	f.tag_hash = f.key_len * 7u;
	f.data = (uint64_t)(uintptr_t)e->link->area + number(in, e);
	if (f.key_len == 249) /* not a place in the area at all */
		f.data -= (uint64_t)(uintptr_t)e->link->area;
	send_frame(e, up ? &e->link->up : &e->link->ctl, &f);
}

static const char *name(struct fuzz_input *in)
{
	static const char *const names[] = {"t", "v", "w", "g", "", "x.y-z", "t2"};
	uint32_t b = (uint32_t)fuzz_take(in, 1);

	return names[b % THMQI_ARRAY_COUNT(names)];
}

static void request(struct end *e, struct fuzz_input *in)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_REQUEST};
	struct thmqi_request *q = e->link->request;

	memset(q, 0, sizeof(*q));
	q->op = (uint32_t)fuzz_take(in, 1) % 12;
	q->topic_flags = (uint32_t)number(in, e);
	q->topic_id = (uint32_t)number(in, e);
	q->partition = (uint32_t)number(in, e);
	q->partition_count = (uint32_t)number(in, e);
	if (q->partition_count <=
	    THMQ_PARTITION_COUNT_MAX) /* more are taken too, but that takes long */
		q->partition_count %= 33;
	q->visible_at = (uint32_t)number(in, e);
	q->index = (uint32_t)number(in, e);
	q->stream = (uint32_t)number(in, e);
	q->group_id = (uint32_t)number(in, e);
	q->volatile_bytes = number(in, e);
	q->session_timeout_ns = number(in, e);
	strcpy(q->name, name(in));
	strcpy(q->group, name(in));
	if (fuzz_take(in, 1) == 255) { /* names that do not end */
		memset(q->name, 'n', sizeof(q->name));
		memset(q->group, 'n', sizeof(q->group));
	}
	f.seq = number(in, e);
	send_frame(e, &e->link->ctl, &f);
}

/* One operation: link (low bits) and kind of the first byte, then what the kind wants. */
static void step(struct fuzz_input *in)
{
	uint32_t b = (uint32_t)fuzz_take(in, 1), i = b % 8 % LINKS;
	struct end *e = &ends[i];

	switch (b >> 3 & 7) {
	case 0:
	case 1:
		any_frame(e, in, false);
		break;
	case 2:
	case 3:
		any_frame(e, in, true);
		break;
	case 4:
		request(e, in);
		break;
	case 5:
		poll_core(1 + (uint32_t)fuzz_take(in, 1) % 16);
		break;
	case 6:
		if (fuzz_take(in, 1) < 32) { /* it goes, and comes again */
			thmqi_link_close(e->link);
			end_open(e, i % SHARDS);
		} else {
			take_down(e);
		}
		break;
	default:
		if (fuzz_take(in, 1) % 2)
			atomic_fetch_add(&e->link->beat, 1);
		else /* silence: time-outs come */
			thmqi_disk_sim_advance(r.sim, number(in, e) % (100 * BROKER_SECOND));
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	bool again = fuzz_take(&in, 1) & 1;
	uint64_t before;
	uint32_t i, n;

	broker_begin(&r);
	if (!waiter)
		FUZZ_CHECK(thmqi_waiter_open(&waiter) == 0);
	before = broker_pool_used(&r);
	FUZZ_CHECK(broker_open(&r) == 0, "%s", thmq_errmsg());
	for (i = 0; i < LINKS; i++)
		end_open(&ends[i], i % SHARDS);
	poll_core(2);
	for (n = 0; in.left && n < STEPS_MAX; n++)
		step(&in);
	poll_core(50);
	for (i = 0; i < LINKS; i++) {
		FUZZ_CHECK(atomic_load(&ends[i].link->broker_closed) == 0);
		take_down(&ends[i]);
		if (i % 2) /* half of them go before the broker, half behind it */
			thmqi_link_close(ends[i].link);
	}
	poll_core(10);
	FUZZ_CHECK(broker_close(&r) == 0, "%s", thmq_errmsg());
	for (i = 0; i < LINKS; i += 2)
		thmqi_link_close(ends[i].link);
	poll_core(10);
	if (again) {
		FUZZ_CHECK(broker_open(&r) == 0, "%s", thmq_errmsg());
		FUZZ_CHECK(broker_close(&r) == 0, "%s", thmq_errmsg());
	}
	FUZZ_CHECK(broker_pool_used(&r) == before, "the pool has %llu bytes less",
		   (unsigned long long)(broker_pool_used(&r) - before));
	return 0;
}
