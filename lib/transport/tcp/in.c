/* SPDX-License-Identifier: Apache-2.0 */
/*
 * in.c - what arrives: from the socket into the link's rings, data area and pages, or into runs of this core's pool. Nothing
 * is believed: lengths, places, numbers of frames and tokens are checked before anything is done with them, since what they
 * could do harm to is ours. Who breaks the rules loses the connection.
 */
#include "tcp.h"

#define RECV_ROUNDS 16u
#define RECV_BYTES (512u << 10) /* in one iteration, about */
#define LARGE_BODY 16384u       /* bodies of so many bytes go to their place at once */
#define LARGE_EXPECTED 8u       /* frames after such a one, in which another is expected */
#define SIGN_OF_LIFE 512u /* so many bytes at a time are one; less only with a frame */

/* -------------------------------------------------------- frames of the stream */

static int take_taken(struct tcp_conn *c, uint32_t ring, uint64_t taken)
{
	if (taken < c->taken[ring] || taken > c->sent[ring])
		return -EPROTO;
	c->taken[ring] = taken;
	return 0;
}

static int take_state(struct tcp_conn *c, const struct thmqi_frame *f)
{
	int rc = take_taken(c, 0, f->arg[0]);

	if (c->of_broker)
		atomic_store_explicit(&c->link->beat, (uint32_t)f->data, memory_order_relaxed);
	else if (!rc)
		rc = take_taken(c, 1, f->arg[1]);
	return rc;
}

/* ------------------------------------------------------- on the broker's side */

static int produce_begin(struct tcp_conn *c, struct thmqi_frame *f)
{
	uint64_t at = f->data;

	if (f->len && (at >= c->link->area_bytes || f->len > c->link->area_bytes - at))
		return -EPROTO;
	at = f->len ? at : 0;
	f->data = (uint64_t)(uintptr_t)(c->link->area + at);
	c->in.to = c->link->area + at;
	return 0;
}

static bool is_being_sent(const struct tcp_conn *c, const struct thmqi_frame *f)
{
	uint32_t i;

	/* a run that went before others of the same call may come back while these are on their way */
	for (i = 0; i < c->ref_count; i++)
		if (c->refs[i].iov >= c->iov_at && c->refs[i].stream == f->stream &&
		    c->refs[i].token == f->arg[0])
			return true;
	return false;
}

/* Only what it has can be given back: the others may still be read from. True: the broker is to be told. */
static int release_begin(struct tcp_conn *c, const struct thmqi_frame *f, bool *ret_pass)
{
	struct tcp_stream *s = f->stream < THMQI_STREAMS ? c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0], mark = (uint32_t)(f->arg[0] >> 32) + 1;

	*ret_pass = s && index < THMQI_DELIVERIES && s->out[index] == mark;
	if (!*ret_pass)
		return 0;
	if (is_being_sent(c, f))
		return -EPROTO;
	s->out[index] = 0;
	return 0;
}

static int up_begin(struct tcp_conn *c, struct thmqi_frame *f)
{
	switch (f->type) {
	case THMQI_FRAME_PRODUCE:
		return produce_begin(c, f);
	case THMQI_FRAME_REQUEST:
		if (c->request_out) /* its page is the broker's until that has answered */
			return -EPROTO;
		c->in.to = (uint8_t *)c->link->request;
		return 0;
	case THMQI_FRAME_ATTACH:
		return f->stream >= THMQI_STREAMS || thmqi_tcp_stream(c, f->stream) ? 0 : -ENOMEM;
	default:
		return 0;
	}
}

static int push(struct thmqi_frame_ring *ring, const struct thmqi_frame *f)
{
	struct thmqi_frame *slot = thmqi_frame_claim(ring, 0);

	if (!slot)
		return -EPROTO; /* it was told how much room there is */
	memcpy((char *)slot + sizeof(slot->turn), (const char *)f + sizeof(f->turn),
	       sizeof(*f) - sizeof(f->turn));
	thmqi_frame_commit(ring);
	return 0;
}

static int up_done(struct tcp_conn *c, struct thmqi_frame *f)
{
	bool pass = true;
	int rc = 0;

	if (f->type == THMQI_FRAME_REQUEST) {
		c->link->request->name[sizeof(c->link->request->name) - 1] = 0;
		c->link->request->group[sizeof(c->link->request->group) - 1] = 0;
		c->request_out = true;
	} else if (f->type == THMQI_FRAME_RELEASE) {
		rc = release_begin(c, f, &pass);
	}
	if (rc)
		return rc;
	if (!pass)
		f->type = THMQI_FRAME_RELEASE,
		f->stream = THMQI_STREAMS; /* it counts, and means nothing */
	return push(f->type == THMQI_FRAME_PRODUCE ? &c->link->up : &c->link->ctl, f);
}

/* ------------------------------------------------------- on the client's side */

/* The run gets a block of this core's pool. 1: there is none now. */
static int deliver_begin(struct tcp_conn *c, const struct thmqi_frame *f)
{
	struct tcp_stream *s = f->stream < THMQI_STREAMS ? c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0];

	if (!s || index >= THMQI_DELIVERIES || s->bufs[index] || s->held_bytes >= s->credit_bytes ||
	    f->len < sizeof(struct thmq_run_header))
		return -EPROTO;
	if (thmq_buf_alloc(c->core->pool, f->len, THMQ_PURPOSE_GENERAL, &c->run) != 0)
		return 1;
	c->run->owner = THMQI_OWNER_RUN;
	c->in.to = c->run->data;
	return 0;
}

static int down_begin(struct tcp_conn *c, struct thmqi_frame *f)
{
	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE)
		return deliver_begin(c, f);
	f->data = 0;
	if (f->type == THMQI_FRAME_REPLY) {
		memset((char *)c->link->reply + f->len, 0, sizeof(*c->link->reply) - f->len);
		c->in.to = (uint8_t *)c->link->reply;
	}
	return 0;
}

static int down_done(struct tcp_conn *c, struct thmqi_frame *f)
{
	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE) {
		struct tcp_stream *s = c->streams[f->stream];

		f->data = (uint64_t)(uintptr_t)c->run->data;
		s->bufs[(uint32_t)f->arg[0]] = c->run;
		c->run->user = f->len - (uint32_t)sizeof(struct thmq_run_header); /* credit is counted so by the broker */
		s->held_bytes += c->run->user;
		c->run = NULL;
	}
	c->pushed++;
	return push(&c->link->down, f);
}

/* -------------------------------------------------------------------- stream */

/* 0; 1: not now; an error. */
static int frame_begin(struct tcp_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	if (f->type >= THMQI_STREAM_STATE)
		return 0;
	return c->of_broker ? up_begin(c, f) : down_begin(c, f);
}

static int frame_done(struct tcp_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	if (c->body_check && c->body_check != thmqi_crc32c(0, c->body, c->body_len))
		return -EPROTO;
	c->body_check = 0;
	if (f->type == THMQI_STREAM_STATE)
		return take_state(c, f);
	if (f->type == THMQI_STREAM_BYE) /* to the broker it says nothing; the client is told why */
		return f->status < 0 ? f->status : -ESHUTDOWN;
	return c->of_broker ? up_done(c, f) : down_done(c, f);
}

/* A frame is there: its body is awaited, or it is done. 1: it has to wait. */
static int frame_arrived(struct tcp_conn *c)
{
	int rc = frame_begin(c);

	c->stalled = rc == 1;
	if (c->in.left >= LARGE_BODY)
		c->large = LARGE_EXPECTED;
	else if (c->large)
		c->large--;
	c->body = c->in.to;
	c->body_len = c->in.left;
	if (rc || c->in.left)
		return rc;
	return frame_done(c);
}

static int frame_new(struct tcp_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	c->body_check = 0;
	if (c->in.left) {
		c->body_check = (uint32_t)(f->data >> 32);
		f->data = (uint32_t)f->data;
	}
	return frame_arrived(c);
}

/* What lies in rx. 0; an error. */
static int parse(struct tcp_conn *c)
{
	const uint8_t *at = c->rx + c->rx_at, *end = c->rx + c->rx_end;
	int news, rc = 0;

	while (at < end && rc == 0) {
		news = thmqi_stream_take(&c->in, &at, end);
		if (news < 0)
			rc = news;
		else if (news == THMQI_STREAM_FRAME)
			rc = frame_new(c);
		else if (news == THMQI_STREAM_BODY)
			rc = frame_done(c);
	}
	c->rx_at = (uint32_t)(at - c->rx);
	if (c->rx_at == c->rx_end)
		c->rx_at = c->rx_end = 0;
	return rc < 0 ? rc : 0;
}

/*
 * How much may come behind what has its place already. Bytes in rx are copied once more: behind a large body only the frame that
 * says where the next one goes, where a large one is expected little more than that, and else as much as there is.
 */
static uint32_t room_behind(const struct tcp_conn *c)
{
	if (c->in.left >= LARGE_BODY)
		return sizeof(struct thmqi_frame);
	return c->large ? 4096 : TCP_RX_BYTES;
}

/* One call: the rest of a body to where it belongs, what is behind it to rx. Bytes, 0: none now; an error. */
static int64_t receive(struct tcp_conn *c)
{
	uint32_t direct = c->in.left, count = 0;
	struct iovec iov[2];
	int64_t n;
	int rc = 0;

	if (direct)
		iov[count++] = (struct iovec){.iov_base = c->in.to, .iov_len = direct};
	iov[count++] = (struct iovec){.iov_base = c->rx, .iov_len = room_behind(c)};
	n = thmqi_tcp_recv(c, iov, count);
	if (n <= 0)
		return n;
	direct = (uint32_t)THMQI_MIN((size_t)n, (size_t)direct);
	c->rx_at = 0;
	c->rx_end = (uint32_t)n - direct;
	if (direct && thmqi_stream_placed(&c->in, direct))
		rc = frame_done(c);
	if (rc)
		return rc;
	return n;
}

static int run_in(struct tcp_conn *c, uint32_t number)
{
	uint32_t round;
	int64_t n, bytes = 0;
	int rc = 0;

	if (c->stalled) {
		rc = frame_arrived(c);
		if (rc)
			return rc < 0 ? rc : 0;
		c->heard_ns = c->core->now_ns;
	}
	if (c->rx_end)
		rc = parse(c);
	for (round = 0; rc == 0 && round < RECV_ROUNDS && bytes < RECV_BYTES && c->readable && !c->stalled;
	     round++) {
		n = receive(c);
		if (n <= 0)
			return (int)n;
		bytes += n;
		rc = parse(c);
		if (n >= SIGN_OF_LIFE || c->in.number != number)
			c->heard_ns = c->core->now_ns;
	}
	return rc;
}

int thmqi_tcp_in(struct tcp_conn *c)
{
	uint64_t pushed = c->pushed;
	uint32_t number = c->in.number, at = c->rx_end;
	int rc = run_in(c, number);

	if (c->pushed != pushed)
		thmqi_link_kick_client(c->link);
	if (rc < 0)
		thmqi_tcp_end(c, rc);
	return rc < 0 || c->in.number != number || c->pushed != pushed || at != c->rx_end;
}

void thmqi_tcp_discard(struct tcp_conn *c)
{
	char waste[4096];
	uint32_t round;
	ssize_t n;

	for (round = 0; round < RECV_ROUNDS; round++) {
		n = recv(c->fd, c->rx ? (char *)c->rx : waste, c->rx ? TCP_RX_BYTES : sizeof(waste),
			 MSG_DONTWAIT);
		if (n > 0)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			c->readable = errno == EINTR;
			return;
		}
		thmqi_tcp_end(c, c->error ? c->error : -ECONNRESET);
		return;
	}
}
