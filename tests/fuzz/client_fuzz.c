/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client takes from a broker that may be anybody: frames of every type with any field, answers that are late, wrong or
 * missing, runs whose bytes contradict themselves. The application's calls meanwhile return what they may return, hand out
 * only memory that is there, and come to an end; then all closes.
 *
 * The broker of the input stands on the other end of real links. The input: byte 0: its temper, see hostile(); then
 * operations, see step(); whatever the broker has to answer takes its words from the same bytes.
 */
#include "api/api.h"
#include "disk/sim.h"
#include "fuzz.h"
#include "transport/transport.h"
#include "wire/run.h"

#define MS 1000000ull
#define SHARDS 3u
#define LINKS_MAX 16u
#define RUNS_MAX 256u
#define STEPS_MAX 300u
#define PRODUCERS 2u
#define CONSUMERS 2u
#define PARTITIONS 4u /* of topics, where the broker says what is true */
#define HELD_MAX 64u

/* The broker. */
static struct broker {
	struct thmqi_poller poller;
	struct thmqi_listener *listener;
	struct thmqi_link *links[LINKS_MAX];
	uint32_t link_count;
	void *runs[RUNS_MAX]; /* given out: they stay till the end */
	uint32_t run_count;
	uint32_t temper;
	uint64_t epoch, token;
	struct fuzz_input in;
} b;

/* The application. */
static struct thmqi_disk_sim *sim;
static struct thmq_env *env;
static struct thmq_core *core;
static struct thmq_session *session;
static struct thmq_producer *producers[PRODUCERS];
static struct thmq_consumer *consumers[CONSUMERS];
static struct thmq_claim claims[PRODUCERS];
static struct thmq_message held[CONSUMERS][HELD_MAX];
static uint32_t held_count[CONSUMERS];

static uint64_t number(void)
{
	static const uint64_t hurts[] = {
		UINT64_MAX, UINT64_MAX - 1, 1ull << 63, INT64_MAX,     1ull << 62, 1ull << 32,
		UINT32_MAX, UINT32_MAX - 7, 1u << 31,   INT32_MAX,     1u << 20,   65537,
		65536,      65535,          4096,       0xffffff85u,   1025,       1026,
		256,        0xfffffbfdu,    255,        0x100000001ull};
	uint32_t v = (uint32_t)fuzz_take(&b.in, 1);

	if (v < 200)
		return v;
	switch (v) {
	case 200:
		return b.token;
	case 201:
		return b.epoch;
	case 202:
		return fuzz_take(&b.in, 4);
	case 203:
		return fuzz_take(&b.in, 8);
	default:
		return hurts[(v - 204) % THMQI_ARRAY_COUNT(hurts)];
	}
}

/* ------------------------------------------------------------------ the broker */

/* Every so many answers are not as they should be; none where the input has ended, so that everything does. */
static bool hostile(void)
{
	return b.in.left && b.temper && fuzz_take(&b.in, 1) < b.temper;
}

static void send_down(struct thmqi_link *link, const struct thmqi_frame *frame)
{
	struct thmqi_frame *f = thmqi_frame_claim(&link->down, 0);

	if (!f)
		return;
	memcpy((char *)f + sizeof(f->turn), (const char *)frame + sizeof(f->turn),
	       sizeof(*f) - sizeof(f->turn));
	thmqi_frame_commit(&link->down);
	thmqi_waiter_kick(link->waiter);
}

static void spoil(struct thmqi_frame *f)
{
	uint32_t fields = (uint32_t)fuzz_take(&b.in, 1);

	f->seq = fields & 1 ? number() : f->seq;
	f->status = fields & 2 ? (int32_t)number() : f->status;
	f->arg[0] = fields & 4 ? number() : f->arg[0];
	f->arg[1] = fields & 8 ? number() : f->arg[1];
	f->partition = fields & 16 ? (uint32_t)number() : f->partition;
	f->stream = fields & 32 ? (uint32_t)number() : f->stream;
	f->len = fields & 64 ? (uint32_t)number() : f->len;
	f->flags = fields & 128 ? (uint8_t)number() : f->flags;
}

static void answer(struct thmqi_link *link, struct thmqi_frame *f)
{
	if (hostile()) {
		if (fuzz_take(&b.in, 1) < 32)
			return; /* never */
		spoil(f);
	}
	send_down(link, f);
}

static void welcome(struct thmqi_link *link)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_WELCOME,
				.seq = SHARDS,
				.len = THMQI_WIRE_VERSION,
				.arg = {1, 32768}};

	answer(link, &f);
}

static void assign(struct thmqi_link *link, uint32_t stream)
{
	uint32_t i;

	for (i = 0; i < PARTITIONS; i++) {
		struct thmqi_frame f = {.type = THMQI_FRAME_ASSIGN,
					.stream = stream,
					.partition = 1 + i,
					.seq = ++b.epoch,
					.arg = {1 + i % (SHARDS - 1), 1},
					.len = i};

		answer(link, &f);
	}
}

static void fill_reply(struct thmqi_reply *r, const struct thmqi_request *q)
{
	uint32_t i;

	memset(r, 0, sizeof(*r));
	if (q->op == THMQI_OP_TOPIC_LIST || q->op == THMQI_OP_TOPIC_DESCRIBE) {
		r->count = r->total = 1;
		r->topics[0] = (struct thmqi_topic_entry){.topic_id = 1,
							  .partition_count = PARTITIONS,
							  .visible_at = THMQ_DURABILITY_DURABLE,
							  .name = "t"};
		r->topics[0].topic_flags = q->name[0] == 'v' ? THMQ_TOPIC_VOLATILE : 0;
	} else if (q->op == THMQI_OP_TOPIC_PARTITIONS) {
		r->count = r->total = PARTITIONS;
		for (i = 0; i < PARTITIONS; i++)
			r->partitions[i] =
				(struct thmqi_partition_entry){1 + i, 1 + i % (SHARDS - 1)};
	} else {
		r->value[0] = r->value[1] = r->value[2] = 1;
	}
}

static void spoil_reply(struct thmqi_reply *r)
{
	uint32_t what = (uint32_t)fuzz_take(&b.in, 1), n;

	r->count = what & 1 ? (uint32_t)number() : r->count;
	r->total = what & 2 ? (uint32_t)number() : r->total;
	if (what & 4)
		memset(r->topics, 'n', sizeof(r->topics)); /* a name that does not end */
	for (n = what >> 3 & 7; n; n--) {
		uint32_t at = (uint32_t)number() * 4 % (sizeof(*r) - 4), value = (uint32_t)number();

		memcpy((char *)r + at, &value, 4);
	}
}

static void on_request(struct thmqi_link *link, const struct thmqi_frame *in)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_REPLY, .seq = in->seq};
	const struct thmqi_request *q = link->request;

	fill_reply(link->reply, q);
	if (hostile())
		spoil_reply(link->reply);
	answer(link, &f);
	if (q->op == THMQI_OP_JOIN)
		assign(link, q->stream);
}

static void on_control(struct thmqi_link *link, const struct thmqi_frame *in)
{
	struct thmqi_frame f = {.stream = in->stream, .partition = in->partition, .seq = in->seq};

	switch (in->type) {
	case THMQI_FRAME_REQUEST:
		on_request(link, in);
		return;
	case THMQI_FRAME_ATTACH:
		f.type = THMQI_FRAME_ATTACHED;
		f.seq = 0;
		f.arg[1] = 10;
		break;
	case THMQI_FRAME_DETACH:
		f.type = THMQI_FRAME_DETACHED;
		break;
	case THMQI_FRAME_SEEK:
		f.type = THMQI_FRAME_SOUGHT;
		f.arg[1] = 10;
		f.seq = 0;
		break;
	case THMQI_FRAME_ACK:
		f.type = THMQI_FRAME_ACKED;
		break;
	default:
		return;
	}
	answer(link, &f);
}

static int broker_poll(struct thmqi_poller *p, uint32_t budget)
{
	const struct thmqi_frame *f;
	int done = 0;
	uint32_t i;

	(void)p, (void)budget;
	for (i = 0; i < b.link_count; i++) {
		struct thmqi_link *link = b.links[i];

		if (!link)
			continue;
		for (; (f = thmqi_frame_peek(&link->ctl, 0)); done++) {
			on_control(link, f);
			thmqi_frame_advance(&link->ctl, 1);
		}
		for (; (f = thmqi_frame_peek(&link->up, 0)); done++) {
			struct thmqi_frame progress = {.type = THMQI_FRAME_PROGRESS,
						       .stream = f->stream,
						       .flags = f->flags,
						       .seq = f->seq};

			answer(link, &progress);
			thmqi_frame_advance(&link->up, 1);
		}
		thmqi_frame_publish(&link->ctl);
		thmqi_frame_publish(&link->up);
	}
	return done;
}

static struct thmq_core *core_of(void *ctx, uint32_t shard)
{
	(void)ctx;
	return shard < SHARDS ? core : NULL;
}

static int on_accept(void *ctx, struct thmqi_link *link)
{
	(void)ctx;
	if (b.link_count == LINKS_MAX)
		return -EMFILE;
	link->broker = &b;
	b.links[b.link_count++] = link;
	welcome(link);
	return 0;
}

static void on_closed(void *ctx, struct thmqi_link *link)
{
	uint32_t i;

	(void)ctx;
	for (i = 0; i < b.link_count; i++)
		if (b.links[i] == link)
			b.links[i] = NULL;
	thmqi_link_unref(link);
}

/* A run of just @len bytes, whatever it says of itself. */
static void *make_run(uint32_t len)
{
	struct thmq_run_header h = {.magic = THMQ_RUN_MAGIC, .encoding = THMQ_RUN_RECORDS}, *run;
	uint32_t i, room = len > sizeof(h) ? len - (uint32_t)sizeof(h) : 0;
	struct thmq_record *records;

	h.count = h.span = (uint32_t)number() % 8;
	h.base_offset = number();
	h.len = fuzz_take(&b.in, 1) < 192 ? room : (uint32_t)number();
	h.flags = fuzz_take(&b.in, 1) < 64 ? THMQ_RUN_SPARSE : 0;
	h.first_time_ns = (int64_t)number();
	if (fuzz_take(&b.in, 1) < 32) {
		h.count = (uint32_t)number();
		h.encoding = (uint16_t)number();
		h.flags = (uint16_t)number();
	}
	run = calloc(1, len ? len : 1); /* of its exact size: what lies behind is nobody's */
	if (!run)
		return NULL;
	memcpy(run, &h, THMQI_MIN(len, (uint32_t)sizeof(h)));
	records = (struct thmq_record *)(run + 1);
	for (i = 0; i < 8 && room >= (i + 1) * sizeof(*records); i++)
		records[i] = (struct thmq_record){.size = (uint32_t)number(),
						  .key_len = (uint16_t)number(),
						  .tag_len = (uint8_t)number(),
						  .time_delta_us = (uint32_t)number(),
						  .flags = fuzz_take(&b.in, 1) < 64 ? fuzz_take(&b.in, 1) : 0};
	/* a part, a header, a time to live, whatever flags may tell */
	for (; room >= (i + 1) * sizeof(*records) && fuzz_take(&b.in, 1) < 128; i++)
		records[i] = (struct thmq_record){.size = (uint32_t)number(), .tag_hash = (uint32_t)number(), .time_delta_us = (uint32_t)number()};
	return run;
}

static void deliver(struct thmqi_link *link)
{
	static const uint32_t lens[] = {0, 8, 95, 96, 104, 112, 120, 128, 160, 256, 512, 4096};
	struct thmqi_frame f = {.type = fuzz_take(&b.in, 1) & 1 ? THMQI_FRAME_DELIVER
								: THMQI_FRAME_DELIVER_ONE};

	if (b.run_count == RUNS_MAX)
		return;
	f.len = lens[fuzz_take(&b.in, 1) % THMQI_ARRAY_COUNT(lens)];
	f.stream = (uint32_t)number() % 4;
	f.partition = 1 + (uint32_t)number() % PARTITIONS;
	f.generation = (uint32_t)number() % 8;
	f.arg[0] = ++b.token;
	f.arg[1] = number();
	f.seq = number();
	f.extra = (uint32_t)number();
	f.key_len = (uint16_t)number();
	f.flags = (uint8_t)number();
	b.runs[b.run_count] = make_run(f.len);
	f.data = (uint64_t)(uintptr_t)b.runs[b.run_count];
	b.run_count += f.data != 0;
	if (f.data)
		send_down(link, &f);
}

static void any_frame(struct thmqi_link *link)
{
	struct thmqi_frame f = {.type = (uint8_t)(fuzz_take(&b.in, 1) % 64)};

	if (f.type == THMQI_FRAME_DELIVER || f.type == THMQI_FRAME_DELIVER_ONE) {
		deliver(link);
		return;
	}
	f.flags = (uint8_t)number();
	f.stream = (uint32_t)number() % (THMQI_STREAMS + 2);
	f.partition = (uint32_t)number();
	f.len = (uint32_t)number();
	f.extra = (uint32_t)number();
	f.seq = number();
	f.arg[0] = number();
	f.arg[1] = number();
	f.status = (int32_t)number();
	send_down(link, &f);
}

/* ------------------------------------------------------------- the application */

/* What no call may say but those that count. */
static void no_count(int64_t rc)
{
	FUZZ_CHECK(rc <= 0, "%lld", (long long)rc);
}

static void see_info(const struct thmq_topic_info *info)
{
	FUZZ_CHECK(memchr(info->name, 0, sizeof(info->name)), "a name that does not end");
	FUZZ_CHECK(info->partition_count >= 1 && info->partition_count <= THMQ_PARTITION_COUNT_MAX);
}

static void admin(uint32_t what)
{
	struct thmq_topic_info info[3] = {{.size = sizeof(info[0])}};
	struct thmq_partition_info part = {.size = sizeof(part)};
	int rc, i;

	switch (what % 5) {
	case 0:
		no_count(thmq_topic_create(session, "t", NULL));
		break;
	case 1:
		no_count(thmq_topic_delete(session, "t"));
		break;
	case 2:
		rc = thmq_topic_list(session, info, 3);
		for (i = 0; i < rc && i < 3 && info[i].partition_count; i++)
			see_info(&info[i]);
		break;
	case 3:
		rc = thmq_topic_describe(session, "t", info);
		no_count(rc);
		if (rc == 0)
			see_info(info);
		break;
	default:
		no_count(thmq_partition_describe(session, "t", what / 5 % 6, what & 1 ? "g" : NULL,
						 &part));
	}
}

static void take_events(void)
{
	struct thmq_event e[8];
	int n = thmq_events(session, e, 8), i;

	FUZZ_CHECK(n >= 0 && n <= 8);
	for (i = 0; i < n; i++)
		FUZZ_CHECK(e[i].type >= THMQ_EVENT_SETTLED && e[i].type <= THMQ_EVENT_DROPPED &&
			   e[i].error <= 0);
}

static void produce(uint32_t what)
{
	uint32_t i = what % PRODUCERS, len = (uint32_t)number() % 40000;
	struct thmq_producer **p = &producers[i];
	int rc;

	if (!*p) {
		no_count(thmq_producer_open(
			session, what & 2 ? "v" : "t",
			THMQ_PRODUCER_OPTS(.flags = what & 4 ? THMQ_PRODUCER_REPORT : 0), p));
		claims[i].data = NULL;
		return;
	}
	switch (what / 2 % 8) {
	case 0:
		no_count(thmq_producer_close(*p, 10 * MS));
		*p = NULL;
		break;
	case 1:
		no_count(thmq_flush(*p, 10 * MS));
		break;
	case 2:
		FUZZ_CHECK(thmq_watermark(*p) >= 0);
		break;
	case 3:
		if (claims[i].data && thmq_commit(*p, &claims[i]) != -EAGAIN)
			claims[i].data = NULL;
		break;
	case 4: /* as long as it may be: all of it can be written to */
		rc = claims[i].data
			     ? -EBUSY
			     : thmq_claim(*p, NULL, what & 1 ? thmq_producer_len_max(*p) : len,
					  &claims[i]);
		no_count(rc);
		if (rc == 0)
			memset(claims[i].data, 'c', claims[i].len);
		break;
	case 5:
		no_count(claims[i].data ? thmq_abort(*p, &claims[i]) : 0);
		claims[i].data = NULL;
		break;
	default:
		FUZZ_CHECK(thmq_send(*p, "message", 7,
				     what & 1 ? THMQ_MESSAGE_OPTS(.key = "key", .key_len = 3,
								  .tag = "tag")
					      : NULL) != 0);
	}
}

static void touch_headers(const struct thmq_message *m)
{
	struct thmq_header h;
	uint32_t cursor = 0;
	int rc;

	while ((rc = thmq_header_next(m, &cursor, &h)) == 1) {
		FUZZ_CHECK(strlen(h.name) <= THMQ_HEADER_NAME_MAX);
		fuzz_touch(h.value, h.value_len);
	}
	FUZZ_CHECK(rc == 0 || rc == -THMQ_ECORRUPT);
}

static void fetch(uint32_t i)
{
	uint32_t room = HELD_MAX - held_count[i];
	struct thmq_message *m = &held[i][held_count[i]];
	int n = thmq_fetch(consumers[i], m, room), k;

	FUZZ_CHECK(n <= (int)room);
	for (k = 0; k < n; k++) {
		FUZZ_CHECK(m[k].partition < THMQ_PARTITION_COUNT_MAX);
		fuzz_touch(m[k].data, m[k].len);
		if (m[k].key)
			fuzz_touch(m[k].key, m[k].key_len);
		if (m[k].tag)
			fuzz_touch(m[k].tag, m[k].tag_len);
		touch_headers(&m[k]);
	}
	held_count[i] += n > 0 ? (uint32_t)n : 0;
}

static void consume(uint32_t what)
{
	uint32_t i = what % CONSUMERS;
	struct thmq_consumer **c = &consumers[i];

	if (!*c) {
		no_count(thmq_consumer_open(
			session, "t", what & 2 ? "g" : NULL,
			THMQ_CONSUMER_OPTS(.prefetch_count = 8, .prefetch_bytes = 4096), c));
		held_count[i] = 0;
		return;
	}
	switch (what / 2 % 8) {
	case 0:
		no_count(thmq_consumer_close(*c, 10 * MS));
		*c = NULL;
		held_count[i] = 0;
		break;
	case 1:
		no_count(thmq_consumer_flush(*c, 10 * MS));
		break;
	case 2:
		no_count(thmq_seek(*c, what & 1 ? UINT32_MAX : 0, 1 + (uint32_t)number() % 4,
				   number()));
		break;
	case 3:
		no_count(held_count[i] ? thmq_ack(*c, &held[i][held_count[i] - 1]) : 0);
		break;
	case 4:
		if (held_count[i])
			no_count(thmq_release(*c, &held[i][--held_count[i]], 1));
		break;
	default:
		fetch(i);
	}
}

static void step(void)
{
	uint32_t what = (uint32_t)fuzz_take(&b.in, 1), link = what >> 4 & 7;
	struct thmqi_link *l = link < b.link_count ? b.links[link] : NULL;

	switch (what & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
		if (l)
			any_frame(l);
		break;
	case 4:
	case 5:
		if (l)
			deliver(l);
		break;
	case 6:
		admin((uint32_t)fuzz_take(&b.in, 1));
		break;
	case 7:
	case 8:
		produce((uint32_t)fuzz_take(&b.in, 1));
		break;
	case 9:
	case 10:
	case 11:
		consume((uint32_t)fuzz_take(&b.in, 1));
		break;
	case 12:
		take_events();
		break;
	case 13:
		FUZZ_CHECK(thmq_session_wait(session, MS) <= 1);
		break;
	case 14:
		thmqi_disk_sim_advance(sim, number() % (20000 * MS));
		break;
	default:
		if (l && fuzz_take(&b.in, 1) < 16) /* the broker's end goes */
			thmqi_link_shut(l, -ESHUTDOWN);
		thmq_poll(env, MS);
	}
}

/* ------------------------------------------------------------------------ run */

static void open_env(void)
{
	FUZZ_CHECK(thmqi_disk_sim_open(1, NULL, &sim) == 0);
	FUZZ_CHECK(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20),
				      thmqi_disk_sim_world(sim), &env) == 0);
	core = thmqi_env_core(env, 0);
}

/* A link whose broker's end is shut is the client's alone: see thmqi_link_leave(). */
static void drop_links(void)
{
	uint32_t i;

	for (i = 0; i < b.link_count; i++)
		if (b.links[i])
			thmqi_link_unref(b.links[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct thmqi_acceptor acceptor = {
		.core_of = core_of, .accept = on_accept, .closed = on_closed};
	uint32_t n;
	int rc;

	if (!env)
		open_env();
	memset(&b, 0, sizeof(b));
	b.in = (struct fuzz_input){data, size};
	b.temper = (uint32_t)fuzz_take(&b.in, 1);
	b.poller.poll = broker_poll;
	thmqi_core_add_poller(core, &b.poller);
	FUZZ_CHECK(thmqi_transport_listen(thmqi_api_of(env)->transport, NULL, &acceptor,
					  &b.listener) == 0);
	rc = thmq_connect(env, "inproc://",
			  THMQ_SESSION_OPTS(.window_bytes = 65536, .window_count = 64,
					    .event_count = 16, .timeout_ns = 20 * MS),
			  &session);
	no_count(rc);
	for (n = 0; rc == 0 && b.in.left && n < STEPS_MAX; n++)
		step();
	if (rc == 0)
		no_count(thmq_session_close(session, 10 * MS));
	memset(producers, 0, sizeof(producers));
	memset(consumers, 0, sizeof(consumers));
	memset(claims, 0, sizeof(claims));
	for (n = 0; n < 4; n++)
		thmq_poll(env, 0);
	thmqi_transport_unlisten(b.listener);
	drop_links();
	thmqi_core_remove_poller(core, &b.poller);
	for (n = 0; n < b.run_count; n++)
		free(b.runs[n]);
	return 0;
}
