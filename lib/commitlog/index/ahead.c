/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ahead.c - the first bytes of index files, read side by side while a log comes back: one after the other they would cost it the
 * time of a device's answer each. An aid: whatever cannot be had is read by who needs it. Knows nothing of what is in them.
 */
#include "../internal.h"
#include "seal_format.h"

#define SLOTS 32u
#define SLOT_BYTES (32u << 10) /* the part of a usual index that an open needs */

/* By place in the log's list of segments. */
struct slot {
	struct thmqi_disk_op op;
	struct ahead *ahead;
	struct thmqi_disk_file *file; /* NULL: there is none, or it was taken */
	int64_t size;                 /* of the file */
	uint32_t have;
	bool reading;
};

struct ahead {
	struct thmq_log *log;
	uint32_t first, next; /* segments that have a slot now: first … next - 1 */
	uint32_t reading;
	uint8_t *bytes;
	struct slot slots[SLOTS];
};

static struct slot *slot_of(struct ahead *a, uint32_t number)
{
	return &a->slots[number % SLOTS];
}

static uint8_t *bytes_of(struct ahead *a, uint32_t number)
{
	return a->bytes + (size_t)(number % SLOTS) * SLOT_BYTES;
}

int thmqi_ahead_begin(struct thmq_log *log)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (a)
		a->bytes = aligned_alloc(SEAL_PAGE, (size_t)SLOTS * SLOT_BYTES);
	if (!a || !a->bytes) {
		free(a);
		return -ENOMEM;
	}
	a->log = log;
	log->ahead = a;
	return 0;
}

static void on_read(struct thmqi_disk_op *op, int64_t result)
{
	struct slot *t = thmqi_container(op, struct slot, op);

	t->reading = false;
	t->ahead->reading--;
	t->have = result > 0 ? (uint32_t)result : 0;
}

static void start(struct ahead *a, uint32_t number)
{
	const struct segment *s = a->log->segments[number];
	struct slot *t = slot_of(a, number);
	char name[40];

	t->ahead = a;
	t->have = 0;
	t->file = NULL;
	thmqi_seal_name(s->position, name);
	if (a->log->disk->file_open(a->log->dir, name, false, &t->file) != 0) {
		t->file = NULL;
		return;
	}
	t->size = a->log->disk->file_size(t->file);
	if (t->size < (int64_t)SEAL_PAGE)
		return;
	t->op = (struct thmqi_disk_op){
		.opcode = THMQI_DISK_READ,
		.len = (uint32_t)THMQI_MIN((uint64_t)SLOT_BYTES,
					   (uint64_t)t->size / SEAL_PAGE * SEAL_PAGE),
		.file = t->file,
		.data = bytes_of(a, number),
		.done = on_read};
	t->reading = a->log->disk->queue_submit(a->log->queue, &t->op) == 0;
	a->reading += t->reading;
}

static void let_go(struct ahead *a, struct slot *t)
{
	while (t->reading)
		a->log->disk->queue_wait(a->log->queue, UINT64_MAX);
	if (t->file)
		a->log->disk->file_close(t->file);
	t->file = NULL;
	t->have = 0;
}

/* The slot of a segment, read; those behind it are on their way. NULL: it has none. */
static struct slot *reach(struct ahead *a, uint32_t number)
{
	struct slot *t;

	for (; a->first < number && a->first < a->next; a->first++)
		let_go(a, slot_of(a, a->first));
	if (number < a->first || number >= a->log->segment_count)
		return NULL;
	a->first = number;
	a->next = THMQI_MAX(a->next, number);
	for (; a->next < a->log->segment_count && a->next < a->first + SLOTS; a->next++)
		start(a, a->next);
	a->log->disk->queue_wait(a->log->queue, 0); /* so that they begin */
	t = slot_of(a, number);
	while (t->reading)
		a->log->disk->queue_wait(a->log->queue, UINT64_MAX);
	return t;
}

bool thmqi_ahead_take(struct thmq_log *log, const struct segment *s, struct ahead_head *ret)
{
	uint32_t number = s->ordinal - log->segment_base;
	struct slot *t = log->ahead ? reach(log->ahead, number) : NULL;

	if (!t || !t->file)
		return false;
	*ret = (struct ahead_head){.file = t->file,
				   .size = t->size,
				   .data = bytes_of(log->ahead, number),
				   .have = t->have};
	t->file = NULL;
	return true;
}

const void *thmqi_ahead_next(struct thmq_log *log, const struct segment *s)
{
	struct ahead *a = log->ahead;
	uint32_t number = s->ordinal - log->segment_base + 1;
	struct slot *t;

	if (!a || number < a->first || number >= a->next)
		return NULL;
	t = slot_of(a, number);
	while (t->reading)
		log->disk->queue_wait(log->queue, UINT64_MAX);
	return t->have >= SEAL_PAGE ? bytes_of(a, number) : NULL;
}

void thmqi_ahead_end(struct thmq_log *log)
{
	struct ahead *a = log->ahead;

	if (!a)
		return;
	for (; a->first < a->next; a->first++)
		let_go(a, slot_of(a, a->first));
	log->ahead = NULL;
	free(a->bytes);
	free(a);
}
