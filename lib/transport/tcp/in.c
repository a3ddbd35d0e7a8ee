/* SPDX-License-Identifier: Apache-2.0 */
/*
 * in.c - what arrives: from the socket to where it belongs: the link's rings, data area and pages, or runs of this core's pool, as
 * the joint says. Who breaks the rules loses the connection. Knows not what frames mean.
 */
#include "tcp.h"

#define RECV_ROUNDS 16u
#define RECV_BYTES (512u << 10) /* in one iteration, about */
#define LARGE_BODY 16384u       /* bodies of so many bytes go to their place at once */
#define LARGE_EXPECTED 8u       /* frames after such a one, in which another is expected */
#define SIGN_OF_LIFE 512u /* so many bytes at a time are one; less only with a frame */

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

/* -------------------------------------------------------------------- stream */

static int frame_done(struct tcp_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	if (c->body_check && c->body_check != thmqi_crc32c(0, c->body, c->body_len))
		return -EPROTO;
	c->body_check = 0;
	if (f->type == THMQI_FRAME_RELEASE && c->ref_count && thmqi_joint_has(&c->joint, f) && is_being_sent(c, f))
		return -EPROTO;
	return thmqi_joint_done(&c->joint, f);
}

/* A frame is there: its body is awaited, or it is done. 1: it has to wait. */
static int frame_arrived(struct tcp_conn *c)
{
	int rc;

	/* who has it says so before the kernel does, now and then */
	c->stalled = thmqi_unlikely(c->zc_count) && c->in.frame.type == THMQI_FRAME_RELEASE && thmqi_tcp_zerocopy_has(c, &c->in.frame);
	if (c->stalled)
		return 1;
	rc = thmqi_joint_begin(&c->joint, &c->in.frame, &c->in.to);

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
		c->joint.heard_ns = c->core->now_ns;
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
			c->joint.heard_ns = c->core->now_ns;
	}
	return rc;
}

int thmqi_tcp_in(struct tcp_conn *c)
{
	uint64_t pushed = c->joint.pushed;
	uint32_t number = c->in.number, at = c->rx_end;
	int rc = run_in(c, number);

	if (c->joint.pushed != pushed)
		thmqi_link_kick_client(c->joint.link);
	if (rc < 0)
		thmqi_tcp_end(c, rc);
	return rc < 0 || c->in.number != number || c->joint.pushed != pushed || at != c->rx_end;
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
