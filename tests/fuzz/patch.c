/* SPDX-License-Identifier: Apache-2.0 */
/* patch.c - patches on an image of a log directory, and checksums made right behind them. Knows the bytes, not the library. */
#include "fuzz.h"
#include "patch.h"

/* ------------------------------------------------------------------- seals */

void patch_seal_run(struct thmq_run_header *run, uint32_t room)
{
	if (room < sizeof(*run))
		return;
	run->magic = THMQ_RUN_MAGIC;
	if (run->len <= room - sizeof(*run))
		run->payload_crc = thmqi_crc32c(0, run + 1, run->len);
	run->header_crc = thmqi_crc32c(0, run, offsetof(struct thmq_run_header, header_crc));
}

static void seal_runs(struct batch_header *h, uint32_t room)
{
	uint32_t left = THMQI_MIN(h->payload_len, room - (uint32_t)sizeof(*h)), i;
	uint8_t *at = (uint8_t *)(h + 1);

	for (i = 0; i < h->run_count && left >= sizeof(struct thmq_run_header); i++) {
		struct thmq_run_header *run = (struct thmq_run_header *)at;
		uint64_t bytes = sizeof(*run) + THMQI_ALIGN_UP((uint64_t)run->len, 8u);

		patch_seal_run(run, left);
		if (bytes > left)
			break;
		at += bytes;
		left -= (uint32_t)bytes;
	}
}

static void seal_header(struct batch_header *h, uint32_t room)
{
	uint32_t left = THMQI_MIN(h->payload_len, room - (uint32_t)sizeof(*h)), crc = 0, i;
	const uint8_t *at = (const uint8_t *)(h + 1);

	for (i = 0; i < h->run_count && left >= sizeof(struct thmq_run_header); i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;
		uint64_t bytes = sizeof(*run) + THMQI_ALIGN_UP((uint64_t)run->len, 8u);

		crc = thmqi_crc32c(crc, &run->header_crc, sizeof(run->header_crc));
		if (bytes > left)
			break;
		at += bytes;
		left -= (uint32_t)bytes;
	}
	h->payload_crc = crc;
	h->header_crc = thmqi_crc32c(0, h, offsetof(struct batch_header, header_crc));
}

void patch_seal_batch(struct batch_header *h, uint32_t room)
{
	seal_runs(h, room);
	seal_header(h, room);
}

void patch_seal_local(struct batch_header *h)
{
	h->local_crc = thmqi_crc32c(0, &h->incarnation,
				    offsetof(struct batch_header, local_crc) -
					    offsetof(struct batch_header, incarnation));
}

/* ----------------------------------------------------------------- bookkeeping */

static void touched(struct patch_file *f, uint64_t from, uint64_t to)
{
	f->low = THMQI_MIN(f->low, from);
	f->high = THMQI_MAX(f->high, to);
}

static void anchor_add(struct patch_image *im, uint32_t file, uint64_t offset, uint64_t span)
{
	if (im->anchor_count < PATCH_ANCHORS && span)
		im->anchors[im->anchor_count++] = (struct patch_anchor){
			.file = file, .offset = offset, .span = (uint32_t)THMQI_MIN(span, 256u)};
}

/* --------------------------------------------------------------- seal all again */

/* Each page of these sections has its own. */
static void seal_pages_again(struct patch_file *f, uint64_t at, uint64_t bytes)
{
	uint64_t end = at + bytes;
	uint32_t crc;

	for (; at + SEAL_PAGE <= end; at += SEAL_PAGE) {
		crc = seal_page_crc(f->data + at, f->position + at);
		memcpy(f->data + at + SEAL_PAGE - 4, &crc, 4);
		touched(f, at, at + SEAL_PAGE);
	}
}

static void seal_index(struct patch_file *f, uint32_t before, uint32_t last, uint32_t leave)
{
	struct seal_header *h = (struct seal_header *)f->data;
	uint32_t i;

	if (f->size < sizeof(*h))
		return;
	if (!(leave & PATCH_LEAVE_MATCH)) {
		h->prev_crc = before;
		h->last_crc = last;
	}
	for (i = 0; i < SEAL_SECTIONS && !(leave & PATCH_LEAVE_SECTIONS); i++) {
		struct seal_section_entry *e = &h->sections[i];

		if (e->offset > f->size || e->bytes > f->size - e->offset)
			continue;
		if (seal_has_pages(i + 1))
			seal_pages_again(f, e->offset, e->bytes);
		else
			e->crc = thmqi_crc32c(0, f->data + e->offset, e->bytes);
	}
	if (!(leave & PATCH_LEAVE_INDEX))
		h->header_crc = seal_page_crc(h, f->position);
	touched(f, 0, sizeof(*h));
}

static void seal_indexes(struct patch_image *im, uint64_t position, uint32_t before, uint32_t last,
			 uint32_t leave)
{
	uint32_t i;

	for (i = 0; i < im->file_count; i++)
		if (im->files[i].is_index && im->files[i].position == position &&
		    !im->files[i].gone)
			seal_index(&im->files[i], before, last, leave);
}

static void seal_vote(struct patch_image *im)
{
	struct vote *v;
	uint32_t i, k;

	for (i = 0; i < im->file_count; i++) {
		struct patch_file *f = &im->files[i];

		if (f->position != UINT64_MAX)
			continue;
		for (k = 0; k < 2 && (k + 1) * THMQI_BLOCK <= f->size; k++) {
			v = (struct vote *)(f->data + k * THMQI_BLOCK);
			v->crc = thmqi_crc32c(0, v, offsetof(struct vote, crc));
			touched(f, k * THMQI_BLOCK, k * THMQI_BLOCK + sizeof(*v));
		}
	}
}

/* Batch by batch, where they were in the good image; each continues the one before. */
static void seal_all(struct patch_image *im, uint32_t leave)
{
	uint32_t i, crc = 0, before = 0, room;

	for (i = 0; i < im->batch_count; i++) {
		struct patch_file *f = &im->files[im->batches[i].file];
		struct batch_header *h = (struct batch_header *)(f->data + im->batches[i].offset);
		bool ends =
			i + 1 == im->batch_count || im->batches[i + 1].file != im->batches[i].file;

		if (i == 0 || im->batches[i - 1].file != im->batches[i].file) {
			before = i ? crc : h->prev_crc;
			crc = before;
		}
		if (f->gone || im->batches[i].offset + THMQI_BLOCK > f->size)
			continue;
		room = (uint32_t)THMQI_MIN(f->size - im->batches[i].offset, BATCH_BYTES_MAX);
		if (i && !(leave & PATCH_LEAVE_CHAIN))
			h->prev_crc = crc;
		if (!(leave & PATCH_LEAVE_RUNS))
			seal_runs(h, room);
		if (!(leave & PATCH_LEAVE_BATCHES))
			seal_header(h, room);
		if (!(leave & PATCH_LEAVE_LOCAL))
			patch_seal_local(h);
		crc = h->header_crc;
		touched(f, im->batches[i].offset,
			im->batches[i].offset +
				THMQI_MIN(room, (uint64_t)sizeof(*h) + h->payload_len));
		if (ends)
			seal_indexes(im, f->position, before, crc, leave);
	}
	if (!(leave & PATCH_LEAVE_VOTE))
		seal_vote(im);
}

/* ----------------------------------------------------------------- patches */

static void set_number(struct patch_file *f, uint64_t at, uint32_t width, uint32_t how,
		       uint64_t value)
{
	uint64_t old = 0;

	if (at + width > f->room)
		return;
	memcpy(&old, f->data + at, width);
	value = how == 0 ? value : how == 1 ? old + value : old ^ value;
	memcpy(f->data + at, &value, width);
	touched(f, at, at + width);
}

static void resize(struct patch_file *f, uint64_t value)
{
	f->size = value % (f->room / 512 + 1) * 512;
	if (f->size < f->good_size)
		memset(f->data + f->size, 0, f->good_size - f->size);
	touched(f, 0, f->room);
}

static void copy_block(struct patch_image *im, const struct patch_anchor *to,
		       const struct patch_anchor *from)
{
	struct patch_file *a = &im->files[to->file], *b = &im->files[from->file];
	uint64_t at = to->offset / THMQI_BLOCK * THMQI_BLOCK,
		 of = from->offset / THMQI_BLOCK * THMQI_BLOCK;

	if (at + THMQI_BLOCK > a->room || of + THMQI_BLOCK > b->room)
		return;
	memmove(a->data + at, b->data + of, THMQI_BLOCK);
	touched(a, at, at + THMQI_BLOCK);
}

static void raise_marks(struct patch_image *im, uint64_t mark)
{
	uint32_t i, k;

	for (i = 0; i < im->file_count; i++)
		for (k = 0; im->files[i].position == UINT64_MAX && k < 2; k++)
			((struct vote *)(im->files[i].data + k * THMQI_BLOCK))->mark = mark;
}

/*
 * One more batch of one run behind the last: value: bytes of the run (2), records (1), encoding and flags (1), partition (1), type (1),
 * what fills the payload (2).
 */
static void append_batch(struct patch_image *im, uint64_t value, bool known)
{
	uint32_t file, len, run_len = (uint32_t)(value & 0xffff), i;
	const struct batch_header *last;
	struct thmq_run_header *run;
	struct batch_header *h;
	struct patch_file *f;
	uint64_t at;

	if (!im->batch_count || im->batch_count == PATCH_BATCHES)
		return;
	file = im->batches[im->batch_count - 1].file;
	f = &im->files[file];
	at = im->batches[im->batch_count - 1].offset + im->batches[im->batch_count - 1].len;
	len = THMQI_ALIGN_UP((uint32_t)(sizeof(*h) + sizeof(*run)) + run_len, THMQI_BLOCK);
	if (f->gone || at + len > f->size)
		return;
	last = (const struct batch_header *)(f->data + im->batches[im->batch_count - 1].offset);
	h = (struct batch_header *)(f->data + at);
	memcpy(h, last, sizeof(*h));
	h->type = (uint16_t)(value >> 40 & 7);
	h->len = len;
	h->position = f->position + at;
	h->index = last->index + 1;
	h->run_count = 1;
	h->payload_len = (uint32_t)sizeof(*run) + THMQI_ALIGN_UP(run_len, 8u);
	run = (struct thmq_run_header *)(h + 1);
	memset(run, 0, sizeof(*run));
	run->len = run_len;
	run->count = run->span = (uint32_t)(value >> 16 & 0xff);
	run->encoding = (uint16_t)(value >> 24 & 3);
	run->flags = (uint16_t)(value >> 26 & 3);
	run->partition = (uint32_t)(value >> 32 & 0xff);
	run->base_offset = 1000;
	for (i = 0; i < run_len; i++)
		((uint8_t *)(run + 1))[i] = (uint8_t)(value >> (48 + i % 2 * 8));
	im->batches[im->batch_count].file = file;
	im->batches[im->batch_count].len = len;
	im->batches[im->batch_count++].offset = at;
	touched(f, at, at + len);
	anchor_add(im, file, at, sizeof(*h));
	anchor_add(im, file, at + sizeof(*h), sizeof(*run));
	anchor_add(im, file, at + sizeof(*h) + sizeof(*run), run_len);
	if (known)
		raise_marks(im, f->position + at + len);
}

static void patch(struct patch_image *im, const struct patch_anchor *list, uint32_t count,
		  struct fuzz_input *in)
{
	uint32_t op = (uint32_t)fuzz_take(in, 1), delta = (uint32_t)fuzz_take(in, 1);
	uint32_t n = (uint32_t)fuzz_take(in, 2);
	uint64_t value = fuzz_take(in, 8);
	/* those of batches that were appended come behind the others */
	uint32_t added = im->anchor_count - im->good_anchors;
	const struct patch_anchor *a;

	n %= count + added;
	a = n < count ? &list[n] : &im->anchors[im->good_anchors + n - count];
	switch (op >> 2 & 7) {
	case 0:
	case 1:
	case 2:
		set_number(&im->files[a->file], a->offset + delta % a->span, 1u << (op & 3),
			   op >> 2 & 7, value);
		break;
	case 3:
		resize(&im->files[a->file], value);
		break;
	case 4:
		copy_block(im, a, &list[value % count]);
		break;
	case 5:
		append_batch(im, value, delta & 1);
		break;
	case 6:
		im->files[a->file].gone = delta & 1;
		break;
	default: /* aligned, so that a whole field is hit */
		set_number(&im->files[a->file],
			   a->offset + (delta & ~((1u << (op & 3)) - 1)) % a->span, 1u << (op & 3),
			   0, value);
		break;
	}
}

static uint32_t choose(const struct patch_image *im, uint32_t where, struct patch_anchor *list)
{
	uint32_t i, count = 0;

	for (i = 0; i < im->good_anchors; i++) {
		const struct patch_file *f = &im->files[im->anchors[i].file];
		uint32_t kind = f->position == UINT64_MAX ? PATCH_IN_VOTE
				: f->is_index             ? PATCH_IN_INDEX
							  : PATCH_IN_LOG;

		if (where & kind)
			list[count++] = im->anchors[i];
	}
	return count;
}

struct patch_image *patch_apply(const uint8_t *data, size_t size, uint32_t where)
{
	static struct patch_anchor list[PATCH_ANCHORS];
	struct fuzz_input in = {data, size};
	uint32_t kind = (uint32_t)fuzz_take(&in, 1) % PATCH_IMAGES,
		 leave = (uint32_t)fuzz_take(&in, 1), count, n;
	struct patch_image *im = patch_image(kind);

	count = choose(im, where, list);
	for (n = 0; count && in.left >= 12 && n < 64; n++)
		patch(im, list, count, &in);
	seal_all(im, leave);
	return im;
}

void patch_undo(struct patch_image *im)
{
	uint32_t i;

	for (i = 0; i < im->file_count; i++) {
		struct patch_file *f = &im->files[i];

		if (f->low < f->high) {
			f->high = THMQI_MIN(f->high, f->room);
			memcpy(f->data + f->low, f->good + f->low, f->high - f->low);
		}
		f->low = UINT64_MAX;
		f->high = 0;
		f->size = f->good_size;
		f->gone = false;
	}
	im->batch_count = im->good_batches;
	im->anchor_count = im->good_anchors;
}

/* ------------------------------------------------------------------- write */

static void write_file(struct thmqi_disk_dir *dir, struct patch_file *f)
{
	const struct thmqi_disk_table *disk = &thmqi_disk_sim;
	uint64_t at, end = THMQI_ALIGN_UP(f->size, (uint64_t)512), piece;
	struct thmqi_disk_file *file;
	bool whole = f->size < f->good_size;

	if (f->gone || whole)
		FUZZ_CHECK(disk->unlink(dir, f->name) == 0);
	if (!f->gone) {
		FUZZ_CHECK(disk->file_open(dir, f->name, whole, &file) == 0);
		for (at = whole ? 0 : f->low / 4096 * 4096; at < end && (whole || at < f->high);
		     at += piece) {
			piece = THMQI_MIN(end - at, (uint64_t)4096);
			if (whole || at >= f->good_size ||
			    memcmp(f->data + at, f->good + at, piece) != 0)
				FUZZ_CHECK(disk->file_write(file, f->data + at, (uint32_t)piece, at,
							    true) == 0);
		}
		FUZZ_CHECK(disk->file_flush(file) == 0);
		disk->file_close(file);
	}
	if (f->gone || whole)
		FUZZ_CHECK(disk->dir_sync(dir) == 0);
}

void patch_write(struct patch_image *im, struct thmqi_disk_sim *to)
{
	struct thmqi_disk_dir *dir;
	uint32_t i;

	FUZZ_CHECK(thmqi_disk_sim_copy(to, im->sim, 1, NULL) == 0);
	FUZZ_CHECK(thmqi_disk_sim.dir_open(to, PATCH_DIR, false, &dir) == 0);
	for (i = 0; i < im->file_count; i++)
		if (im->files[i].gone || im->files[i].low < im->files[i].high)
			write_file(dir, &im->files[i]);
	thmqi_disk_sim.dir_close(dir);
}
