/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm.h - what the files of the shared-memory medium share. A client makes an arena (a memfd) that holds the rings, the pages and the
 * data area of one link, and room for the runs that it is sent, and hands it to the broker over a unix socket. The session's
 * thread works in the arena itself. On the broker's side a connection, a poller on the shard's core, takes each frame out of the
 * arena before it is looked at, and copies what goes down into it. doc/transports.md.
 *
 * Whatever the other process can write is read once, into memory that it cannot write, and checked there.
 */
#ifndef THMQI_TRANSPORT_SHM_H
#define THMQI_TRANSPORT_SHM_H

#include <sys/socket.h>
#include <sys/un.h>

#include "../gate.h"
#include "../joint.h"
#include "wire/stream.h"

#define SHM_VERSION 1u
#define SHM_MAGIC 0x314d4853u /* "SHM1" */
#define SHM_GREETINGS_MAX 256u
#define SHM_GREETING_NS 5000000000ull
#define SHM_LEAVE_NS 2000000000ull
#define SHM_ROOM_BYTES                                                                             \
	(256ull << 20) /* address space for runs of a link; memory is used as they come */
#define SHM_ROOM_MAX (1ull << 30)
#define SHM_PRIVATE_FRAMES 256u /* the broker's own rings are no longer than that, and stay in its nearest cache */
#define SHM_APART 128u           /* two lines: they are fetched in pairs */

/* --------------------------------------------------------------------- url */

/* shm:///path, shm://relative/path, shm://@name (of no file). */
struct shm_place {
	char path[512]; /* NUL-terminated; of a name without its @ */
	bool is_name;
	uint32_t mode; /* of the socket file; who may connect to a name */
};

int thmqi_shm_check(const char *url);
int thmqi_shm_parse(const char *url, struct shm_place *ret);
/*
 * The socket address. A path that is too long for one is reached by its directory's descriptor: *ret_dir_fd, -1 where there is none,
 * is the caller's to close once the address was used. 0; -ENOENT …; -ENAMETOOLONG.
 */
int thmqi_shm_address(const struct shm_place *place, struct sockaddr_un *ret, socklen_t *ret_len,
		      int *ret_dir_fd);

/* ------------------------------------------------------------------- arena */

/* The first page of an arena. Each of its words has one writer. */
struct shm_head {
	uint32_t magic, version; /* for who looks at a dump: nobody reads them */
	/* the client's */
	_Alignas(SHM_APART) _Atomic uint32_t client_beat; /* changes whenever its thread calls in */
	_Alignas(SHM_APART) _Atomic uint32_t
		client_sleeping; /* the broker takes it down before it wakes the client */
	_Alignas(SHM_APART) _Atomic uint64_t down_tail;
	/* the broker's */
	_Alignas(SHM_APART) struct thmqi_bell
		bell; /* the client takes sleeping down before it wakes the broker */
	_Alignas(SHM_APART) _Atomic uint64_t up_tail;
	_Alignas(SHM_APART) _Atomic uint64_t ctl_tail;
	_Alignas(SHM_APART) _Atomic uint32_t broker_beat; /* 0 until the link is accepted */
	_Atomic int32_t broker_closed;                    /* why it ended it; 0 */
	_Atomic uint64_t instance;                        /* which broker it is */
	_Atomic uint32_t takes; /* SHM_TAKES_*: it knows them; of an older one 0 */
};
_Static_assert(sizeof(struct shm_head) <= THMQI_BLOCK, "the head is a page");

#define SHM_TAKES_SERIES 1u   /* THMQI_PRODUCE_SERIES */
#define SHM_TAKES_RELEASES 2u /* THMQI_FRAME_RELEASES */

struct shm_sizes {
	uint32_t area_bytes, up_frames, ctl_frames, down_frames;
	uint64_t room_bytes;
};

struct shm_arena {
	struct shm_sizes sizes;
	uint8_t *map; /* NULL: none */
	uint64_t bytes;
	struct shm_head *head;
	struct thmqi_request *request; /* the client writes it */
	struct thmqi_reply *reply;     /* the broker does */
	struct thmqi_frame *up, *ctl, *down;
	uint8_t *area; /* the client writes it */
	uint8_t *room; /* the broker does; page-aligned */
};

/* Bytes of an arena, which both sides reckon by themselves. */
uint64_t thmqi_shm_arena_bytes(const struct shm_sizes *sizes);
/* The client's: new memory, zeroed, that cannot shrink. *ret_fd is the caller's. 0; -errno. */
int thmqi_shm_arena_make(const struct shm_sizes *sizes, struct shm_arena *ret, int *ret_fd);
/* The broker's: what a stranger sent. 0; -EPROTO it is no such memory, or not of that size; -ENOMEM … */
int thmqi_shm_arena_take(const struct shm_sizes *sizes, int fd, struct shm_arena *ret);
void thmqi_shm_arena_drop(struct shm_arena *a);
/* Books of our own, zeroed, of which pages are used as they are touched: from the heap, what was used before would be zeroed whole. */
void *thmqi_shm_books_open(uint64_t bytes); /* NULL: no memory */
void thmqi_shm_books_close(void *books, uint64_t bytes);

/* -------------------------------------------------------------------- room */

/* Who has which part of the room: blocks of a power of two, the broker's books alone. */
#define SHM_GRANULE 256u
#define SHM_CLASSES 15u /* up to 4 MiB */

struct shm_room {
	uint32_t granules;           /* there are */
	uint32_t used;               /* were ever taken: blocks begin below */
	uint32_t first[SHM_CLASSES]; /* free blocks of a class: granule + 1; 0: none */
	uint32_t *next;              /* by granule of a free block */
};

int thmqi_shm_room_init(struct shm_room *r, uint64_t bytes); /* 0; -ENOMEM */
void thmqi_shm_room_fini(struct shm_room *r);
/* Return: a block that holds @len bytes (place = granule | class << 24), or UINT32_MAX: not now. */
uint32_t thmqi_shm_room_take(struct shm_room *r, uint32_t len);
void thmqi_shm_room_give(struct shm_room *r, uint32_t place);

/* Where a run of one message begins in its block: header and record fill two lines that way, and the message begins a third. */
#define SHM_ONE_AT (2u * THMQI_CACHELINE - (uint32_t)(sizeof(struct thmq_run_header) + sizeof(struct thmq_record)))

static inline uint64_t thmqi_shm_room_offset(uint32_t place)
{
	return (uint64_t)(place & 0xffffffu) * SHM_GRANULE;
}

/* ---------------------------------------------------------------- greeting */

/* The client's first packet, with the arena's descriptor. The broker answers only to refuse: a struct thmqi_hello. */
struct shm_hello {
	struct thmqi_hello hello; /* as over TCP */
	uint32_t version;         /* SHM_VERSION */
	uint32_t reserved;
	uint64_t arena_bytes;
	uint64_t room_bytes;
	uint64_t
		area_at; /* where the client sees its data area: its PRODUCE frames speak of such addresses */
};
_Static_assert(sizeof(struct shm_hello) == THMQI_HELLO_BYTES + 32, "a greeting");

/* ------------------------------------------------------------ broker's side */

struct shm_listening {
	int fd;
	bool is_name, bound;
	uint64_t device, inode; /* of the file: it is taken away at the end if it is still ours */
	struct shm_place place;
	char url[600];
};

/* listen.c: a socket that listens, at a path that nobody else listens at. 0, or an error with its text. */
int thmqi_shm_listening_open(struct shm_listening *l, const char *url);
void thmqi_shm_listening_close(struct shm_listening *l);

struct shm_door {
	struct thmqi_gate gate;
	struct shm_listening at;
};

enum shm_state {
	SHM_GREETING,
	SHM_MOVING, /* from the door's core to the shard's */
	SHM_OPEN,
	SHM_CLOSED
};

/* A run that the client has, by the lower half of its token. */
struct shm_out {
	uint32_t mark;  /* the upper half + 1; 0: none */
	uint32_t place; /* in the room */
};

struct shm_stream {
	struct shm_out out[THMQI_DELIVERIES];
};

struct shm_conn {
	struct thmqi_poller poller;
	struct thmq_watch *watch, *pid_watch; /* NULL: none */
	struct thmqi_timer timer;
	struct thmqi_task task;
	struct thmq_core *core;
	struct thmqi_link *link; /* NULL before there is one, and after its end */
	struct thmqi_guest guest;
	int fd, pid_fd, memory_fd;   /* the last one until the arena is mapped */
	int32_t pid;                 /* 0: of another namespace */
	uint8_t state;               /* enum shm_state */
	bool readable, hung_up, on_core, ticked;
	bool rested; /* since it was last polled */
	bool dozes;  /* it was idle for so long that it is looked at less often */
	uint32_t idle_rounds;
	uint64_t busy_ns;
	bool denied;      /* it may not come in */
	bool request_out; /* REQUEST came, and REPLY was not sent */
	bool stalled;     /* no room for a run that waits in the private ring */
	uint8_t lone;     /* messages that came one by one, up to LONE_BEFORE */
	bool handed;      /* a frame went past the private ring: the client was not woken yet */
	uint64_t deadline_ns, silence_ns, tick_ns, heard_ns;
	uint32_t beat_seen;
	struct shm_hello hello;
	struct shm_arena arena;
	struct thmqi_frame_ring up, ctl, down; /* of the arena, with our own positions in it */
	struct thmqi_frame series; /* that the next frame of up is the first of, as it was taken */
	uint32_t series_taken;     /* of it; 0: it is none, or was not looked at yet */
	struct shm_room room;
	struct shm_stream *streams; /* THMQI_STREAMS of them; NULL: there is no arena */
};

/* door.c */
int thmqi_shm_listen(struct thmqi_listener *l, const char *url,
		     const struct thmqi_listen_opts *opts, void **ret_door);
void thmqi_shm_unlisten(void *door);
const char *thmqi_shm_url_of(const void *door);
int thmqi_shm_greet(struct shm_conn *c); /* in its state GREETING; work done */
void thmqi_shm_move(struct shm_conn *c); /* in its state MOVING */

/* conn.c */
struct shm_conn *thmqi_shm_make(void);
void thmqi_shm_free(struct shm_conn *c);
int thmqi_shm_start(struct shm_conn *c, struct thmq_core *core); /* poller, timer and watches */
void thmqi_shm_off_core(struct shm_conn *c);                     /* the same backwards */
void thmqi_shm_opened(struct shm_conn *c);
void thmqi_shm_tick_at(struct shm_conn *c, uint64_t ns);
/* It is over. Frees nothing that the caller uses: the poller does. */
void thmqi_shm_end(struct shm_conn *c, int error);
/* A process that neither stopped nor died; false too where that cannot be known. */
bool thmqi_shm_is_running(int32_t pid);
/* A process that has died; false too where that cannot be known. */
bool thmqi_shm_is_dead(int32_t pid);

/* in.c */
/* Is there a message, or the end of a series, that was not taken yet? */
static inline bool thmqi_shm_up_waits(struct shm_conn *c)
{
	uint64_t told;

	if (!c->series_taken)
		return thmqi_frame_peek(&c->up, 0) != NULL;
	told = thmqi_series_told(thmqi_frame_at(&c->up, 0));
	return (uint32_t)told >= c->series_taken || told & THMQI_SERIES_ENDS;
}
static inline bool thmqi_shm_in_wanted(struct shm_conn *c)
{
	return (thmqi_shm_up_waits(c) && thmqi_frame_claim(&c->link->up, 0)) ||
	       (thmqi_frame_peek(&c->ctl, 0) && thmqi_frame_claim(&c->link->ctl, 0));
}
int thmqi_shm_in(struct shm_conn *c); /* frames taken; the connection may be over then */

/* out.c */
bool thmqi_shm_out_may_go(struct shm_conn *c);
static inline bool thmqi_shm_out_wanted(struct shm_conn *c)
{
	struct thmqi_link *link = c->link;

	/* the shard writes its ring on this very thread */
	return (link->down.head != link->down.next || atomic_load_explicit(&link->broker_closed, memory_order_relaxed)) &&
	       thmqi_shm_out_may_go(c);
}
void thmqi_shm_out(struct shm_conn *c);
void thmqi_shm_carry(struct thmqi_link *link); /* what it does with frames, and no more: by whoever has written them */
bool thmqi_shm_hand(struct thmqi_link *link, struct thmqi_frame *frame);
/* A byte for the other process: it sleeps. Never blocks; a socket that is full has woken it already. */
void thmqi_shm_wake(int fd);

/* client.c */
int thmqi_shm_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
		      const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
		      struct thmqi_link **ret_link);

#endif
