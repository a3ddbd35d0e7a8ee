/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - the ring's own shape, for the files of this room only. */
#ifndef THMQI_RING_INTERNAL_H
#define THMQI_RING_INTERNAL_H

#include <liburing.h>

#include "ring/ring.h"

/* Buffers are registered in pieces as large as a huge page: one pin, one entry of the kernel's page list. */
#define RING_PIECE_BYTES (2u << 20)
#define RING_SLAB_PIECES (THMQI_SLAB_BYTES / RING_PIECE_BYTES)
#define RING_ROWS 256u /* slabs that can be registered: 8 GiB per core */
#define RING_NO_ROW UINT16_MAX

/* user_data of an operation is its address; this bit marks a multishot poll. 0 is nobody's (cancellations). */
#define RING_TAG_POLL 1u

struct ring_poll {
	struct thmqi_ring_op *op; /* NULL: free entry */
	int fd;
	uint32_t events;
};

/* One registered slab: which of its pieces the kernel has. */
struct ring_row {
	uint8_t *base; /* NULL: free */
	uint32_t pieces;
	uint32_t registered; /* bit per piece */
	uint32_t refused;    /* bit per piece: tried once, never again */
};

struct thmqi_ring {
	struct io_uring ring;
	uint32_t depth;
	uint32_t setup_flags;
	bool polled;    /* IORING_SETUP_IOPOLL */
	bool attached;  /* a thread drives it */
	bool enabled;   /* its kernel side has taken that thread as issuer, if it cares */
	bool has_files; /* the sparse tables exist */
	bool has_buffers;
	bool buffers_refused; /* the limit of locked memory is reached */
	int32_t issuer;       /* thread id that enabled it; 0: none */
	int event_fd;         /* told of completions; -1 until asked for */
	uint32_t inflight;
	struct thmqi_registrar registrar;
	struct thmqi_ring_stats stats;

	uint32_t file_count;      /* slots of the table */
	uint32_t free_file_count; /* top of the stack of free slots */
	int files[THMQI_RING_FILES];
	uint16_t free_files[THMQI_RING_FILES];

	uint16_t slab_rows[THMQI_RING_BUFFERS]; /* slab index -> row */
	struct ring_row rows[RING_ROWS];

	struct ring_poll *polls;
	uint32_t poll_count;
};

/* tables.c: the registered tables of a new ring, filled with what the old one had. */
void thmqi_ring_tables_init(struct thmqi_ring *r);
void thmqi_ring_tables_register(struct thmqi_ring *r, struct io_uring *ring);
void thmqi_ring_tables_unregister(struct thmqi_ring *r);
/* Index of the registered piece that holds all of [data, data + len), or -1. Registers it at first use. */
int thmqi_ring_piece(struct thmqi_ring *r, const struct thmqi_buf *buf, const void *data,
		     uint32_t len);

/* prep.c */
int thmqi_ring_polls_rearm(struct thmqi_ring *r, struct io_uring *ring);
void thmqi_ring_poll_ended(struct thmqi_ring *r, struct thmqi_ring_op *op);

#endif
