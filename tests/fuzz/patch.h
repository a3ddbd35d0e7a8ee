/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patch.h - bytes that a hostile or defective writer could have left, with right checksums: log directories made good at the
 * start, changed by a list of patches, and sealed again, so that what was changed is believed.
 */
#ifndef FUZZ_PATCH_H
#define FUZZ_PATCH_H

#include "../../lib/commitlog/internal.h"
#include "../../lib/commitlog/index/seal_format.h"
#include "disk/sim.h"

/* ------------------------------------------------------------------- seals */

/* Checksums of a run of which @room bytes are there; nothing where its length is impossible. */
void patch_seal_run(struct thmq_run_header *run, uint32_t room);
/* Of a batch and its runs, as far as they can be walked; not its local word. */
void patch_seal_batch(struct batch_header *h, uint32_t room);
void patch_seal_local(struct batch_header *h);

/* ------------------------------------------------------------------ images */

#define PATCH_DIR "log"
#define PATCH_FILES 12u
#define PATCH_BATCHES 512u
#define PATCH_ANCHORS 4096u

struct patch_file {
	char name[40];
	uint8_t *data; /* room bytes, of which size belong to it; zeros behind */
	const uint8_t *good;
	uint64_t size, good_size, room;
	uint64_t low, high; /* bytes that may differ from the good ones */
	uint64_t position;  /* of a segment or its index; UINT64_MAX: vote */
	bool is_index, gone;
};

/* A place worth changing. */
struct patch_anchor {
	uint32_t file, span;
	uint64_t offset;
};

struct patch_image {
	struct thmqi_disk_sim *sim; /* the good directory */
	struct patch_file files[PATCH_FILES];
	uint32_t file_count;
	struct {
		uint32_t file, len;
		uint64_t offset;
	} batches[PATCH_BATCHES];
	uint32_t batch_count, good_batches;
	struct patch_anchor anchors[PATCH_ANCHORS];
	uint32_t anchor_count, good_anchors;
};

enum patch_image_kind {
	PATCH_SMALL,      /* one segment, closed */
	PATCH_SMALL_CUT,  /* one segment, not closed: a batch behind the durable ones */
	PATCH_SEALED,     /* three segments, two of them with indexes, closed */
	PATCH_SEALED_CUT, /* likewise, not closed */
	PATCH_BEGUN,      /* likewise, its first segment gone */
	PATCH_IMAGES
};

/* Made once. */
struct patch_image *patch_image(enum patch_image_kind kind);

/* Where anchors may lie. */
#define PATCH_IN_VOTE 1u
#define PATCH_IN_LOG 2u
#define PATCH_IN_INDEX 4u

/*
 * The input: byte 0: kind of image, modulo their number; byte 1: what is not sealed again, enum below, by bit; then patches of 12 bytes:
 * op, delta, anchor (2), value (8). @where: PATCH_IN_*.
 */
enum patch_left {
	PATCH_LEAVE_RUNS = 1,
	PATCH_LEAVE_BATCHES = 2,
	PATCH_LEAVE_CHAIN = 4,
	PATCH_LEAVE_LOCAL = 8,
	PATCH_LEAVE_VOTE = 16,
	PATCH_LEAVE_SECTIONS = 32,
	PATCH_LEAVE_INDEX = 64,
	PATCH_LEAVE_MATCH = 128 /* between an index and its segment */
};
struct patch_image *patch_apply(const uint8_t *data, size_t size, uint32_t where);
/* Good again. */
void patch_undo(struct patch_image *image);
/* The changed directory, on another simulated disk. */
void patch_write(struct patch_image *image, struct thmqi_disk_sim *to);

#endif
