/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - what client and broker say to each other where only a stream of bytes joins them: a greeting of fixed size each way,
 * then frames (wire/frame.h), each with the bytes that it refers to behind it. Pure functions on bytes: no socket, no
 * link, no memory of their own. doc/transports.md has the tables.
 *
 * In the stream a frame's turn word is its check: CRC32C over the frame's number (from 0, 32 bits) and its other 60 bytes, so
 * that a reader that has lost the place, or skipped one, notices at once. Of a frame with a body the upper half of data is the CRC32C
 * of that, or 0 where something below sees to it (TLS). Little endian, as the machines that this runs on.
 */
#ifndef THMQI_WIRE_STREAM_H
#define THMQI_WIRE_STREAM_H

#include "wire/frame.h"

/* ---------------------------------------------------------------- greeting */

#define THMQI_HELLO_MAGIC 0x514d4854u /* "THMQ" */
#define THMQI_STREAM_VERSION 2u
#define THMQI_HELLO_BYTES 128u

/* What the two sides must be able to hold: more is refused with -E2BIG. */
#define THMQI_STREAM_AREA_MAX (128u << 20)
#define THMQI_STREAM_UP_MAX (1u << 17) /* frames */
#define THMQI_STREAM_CTL_MAX 4096u
#define THMQI_STREAM_DOWN_MAX (1u << 16)
#define THMQI_STREAM_RUN_MAX (4u << 20) /* bytes of a run in a DELIVER: a batch has no more */

#define THMQI_CAN_CHANGE_KEYS 1u /* over TLS: it follows when the other side changes its keys */

enum thmqi_hello_kind {
	THMQI_HELLO_CLIENT = 1, /* the first bytes of a connection */
	THMQI_HELLO_BROKER = 2  /* the answer; with a status below 0 it is the last that comes */
};

struct thmqi_hello {
	uint32_t magic;
	uint16_t kind;  /* enum thmqi_hello_kind */
	uint16_t bytes; /* THMQI_HELLO_BYTES */
	uint16_t version_min,
		version_max;   /* of the stream; the broker's: both the one that is spoken */
	int32_t status;        /* the broker's: 0, or a negative errno or THMQ_E… */
	uint64_t capabilities; /* THMQI_CAN_…; others are ignored */
	uint64_t
		instance; /* the client's: of the broker that it means, 0: any; the broker's: its own, by chance */
	uint8_t client_id[16]; /* by chance, one for all connections of a session's environment */
	uint32_t shard;
	uint32_t
		area_bytes; /* the client's: sizes of the link, powers of two; the broker's are those of the client */
	uint32_t up_frames, ctl_frames, down_frames;
	uint32_t
		silence_ms; /* who says this takes the other for dead that says nothing for so long */
	uint64_t area_at; /* the client's, with THMQI_HELLO_ELSEWHERE: where its data area is, … */
	uint32_t area_key; /* … and by which key it is read */
	uint8_t reserved[40];
	uint32_t crc; /* CRC32C of all before it */
};
_Static_assert(sizeof(struct thmqi_hello) == THMQI_HELLO_BYTES, "a greeting");

/* Fill magic, size, version and CRC. */
void thmqi_hello_seal(struct thmqi_hello *h, uint32_t kind);
/* Can these first @len bytes be the beginning of a greeting? */
bool thmqi_hello_begins(const void *bytes, uint32_t len);
/* 0; -EPROTO these are no such bytes; -THMQ_EVERSION another version; -EINVAL sizes that contradict themselves; -E2BIG */
int thmqi_hello_check(const struct thmqi_hello *h, uint32_t kind);

/* ------------------------------------------------------------------ frames */

/* Frames of the stream itself: they never reach a link's rings. */
enum thmqi_stream_frame {
	THMQI_STREAM_STATE =
		240, /* arg0: frames that the sender's end of the link has taken (the broker: PRODUCE frames; the client:
				     all), arg1 the broker: all others; data the client: its link's beat. None goes back */
	THMQI_STREAM_BYE = 241, /* the last frame; status: why, or 0 */
	/* only where each side can reach into the other's memory, as far as that lets it (RDMA) */
	THMQI_STREAM_OFFER = 248, /* from a broker; stream; arg0: token of a DELIVER to come; len: bytes of its run */
	THMQI_STREAM_GRANT = 249  /* from a client; stream; arg0: that token; len; data: where the run is to be put, arg1: by
				     which key. Its DELIVER comes without the run then. Key 0: it is to come with it */
};
/* THMQI_FRAME_PRODUCE, extra: the message does not follow, it is to be read from its place in the client's data area */
#define THMQI_PRODUCE_ELSEWHERE 0x80000000u
/* Capabilities that a client asks for, and a broker confirms (thmqi_hello) */
#define THMQI_HELLO_ELSEWHERE (1ull << 32) /* PRODUCE frames with THMQI_PRODUCE_ELSEWHERE */
#define THMQI_HELLO_GRANTS (1ull << 33)    /* OFFER and GRANT */

/* The frame as it goes into the stream as number @number. @to may be @from. */
void thmqi_stream_seal(void *to, const struct thmqi_frame *from, uint32_t number);

/* Bytes that follow @f; negative: that frame may not come, or not with so many. @up: from a client. */
int64_t thmqi_stream_body(const struct thmqi_frame *f, bool up);

enum thmqi_stream_news { THMQI_STREAM_MORE = 0, THMQI_STREAM_FRAME = 1, THMQI_STREAM_BODY = 2 };

/* Reads a stream in pieces of any size. */
struct thmqi_stream {
	struct thmqi_frame frame; /* the last one, turn: 0 */
	uint8_t *
		to; /* where what is left of its body goes: set by the caller after FRAME, if left is not 0 */
	uint32_t left;
	uint32_t have;   /* bytes of the frame that is being read */
	uint32_t number; /* of the next frame */
	bool up;         /* it comes from a client */
	bool reaches;    /* OFFER and GRANT may come */
};

void thmqi_stream_init(struct thmqi_stream *s, bool up);
/*
 * Take bytes from *@at on, up to @end, and move *@at.
 * Return: MORE: all are taken; FRAME: s->frame is complete, s->left bytes of body follow; BODY: these are complete (not told
 * where left was 0); -EPROTO.
 */
int thmqi_stream_take(struct thmqi_stream *s, const uint8_t **at, const uint8_t *end);
/* @bytes of the body were put to s->to by somebody else. True: it is complete. */
bool thmqi_stream_placed(struct thmqi_stream *s, uint32_t bytes);

#endif
