/* SPDX-License-Identifier: Apache-2.0 */
/* patch_image.c - good log directories, made by the library on a simulated disk, as bytes in memory with a list of the places in them. */
#include "../unit/commitlog_rig.h"
#include "fuzz.h"
#include "patch.h"

#define LARGE_RUN (150u << 10)

/* -------------------------------------------------------------------- make */

static void put(struct rig *r, const struct thmq_run_header *header, const void *payload,
		uint64_t *ret_index)
{
	struct thmq_run_header *run;
	int rc;

	while ((rc = thmq_log_append(r->log, (uint32_t)sizeof(*run) + header->len, &run,
				     ret_index)) == -EAGAIN)
		thmqi_core_poll(r->core, 1000000);
	FUZZ_CHECK(rc == 0, "%d", rc);
	*run = *header;
	memcpy(run + 1, payload, header->len);
	thmq_log_append_end(r->log, run, THMQ_DURABILITY_DURABLE);
}

static void put_state(struct rig *r, uint32_t kind, uint64_t item, uint32_t len,
		      uint64_t *ret_index)
{
	const struct thmq_run_header header = {
		.len = len, .partition = kind, .base_offset = item, .encoding = THMQ_RUN_STATE};
	uint8_t payload[512];

	memset(payload, (int)(item * 3 + 1), sizeof(payload));
	put(r, &header, payload, ret_index);
}

/* Two small records and one that fills the run. */
static void put_records(struct rig *r, uint32_t partition, uint64_t offset, uint32_t fill,
			bool sparse, uint64_t *ret_index)
{
	struct thmq_record_view rec = {.key = (const uint8_t *)"key",
					.key_len = 3,
					.tag = (const uint8_t *)"tag",
					.tag_len = 3,
					.tag_hash = 77,
					.time_ns = (int64_t)offset * 1000};
	uint64_t len = thmqi_run_table_bytes(3, sparse) + 2 * thmqi_record_bytes(6 + 20) +
		       thmqi_record_bytes(6 + fill);
	struct thmq_run_header *run = malloc(sizeof(*run) + len);
	uint8_t *bytes = malloc(fill);
	struct thmqi_run_writer w;
	uint32_t i;

	FUZZ_CHECK(run && bytes);
	memset(bytes, 'x', fill);
	rec.data = bytes;
	FUZZ_CHECK(thmqi_run_writer_begin(&w, run, (uint32_t)len, 3, sparse, rec.time_ns) == 0);
	run->partition = partition;
	run->base_offset = offset;
	for (i = 0; i < 3; i++) {
		rec.len = i < 2 ? 20 : fill;
		rec.offset = offset + (sparse ? 2 * i : i);
		FUZZ_CHECK(thmqi_run_writer_add(&w, &rec) == 0);
	}
	put(r, run, run + 1, ret_index);
	free(run);
	free(bytes);
}

static void fill_small(struct rig *r)
{
	uint64_t index = 0;
	uint32_t i;

	for (i = 0; i < 4; i++) {
		put_records(r, 1, i * 10, 40, i % 2, &index);
		put_state(r, 100, i % 2, 24, &index);
		FUZZ_CHECK(rig_append(r, 2, i, THMQ_DURABILITY_DURABLE, &index) == 0);
		FUZZ_CHECK(rig_await(r, index) == 0);
	}
}

static void fill_segments(struct rig *r)
{
	uint64_t index = 0;
	uint32_t i, full = 0;

	for (i = 0; full < 2; i++) {
		put_records(r, 1 + i % 3, i * 10, LARGE_RUN, i % 2, &index);
		put_state(r, 100, i % 4, 8 + i % 3 * 8, &index);
		FUZZ_CHECK(rig_await(r, index) == 0);
		if ((uint32_t)(rig_stats(r).end_position >> 20) != full)
			rig_poll(r, 300); /* the index of the segment before is written */
		full = (uint32_t)(rig_stats(r).end_position >> 20);
	}
	fill_small(r);
	rig_poll(r, 300);
}

static struct thmqi_disk_sim *make(enum patch_image_kind kind)
{
	static const struct thmqi_disk_sim_opts in_order = {.flags = THMQI_DISK_SIM_IN_ORDER};
	bool small = kind == PATCH_SMALL || kind == PATCH_SMALL_CUT;
	bool cut = kind != PATCH_SMALL && kind != PATCH_SEALED;
	struct rig r;

	rig_init(&r, 1, &in_order);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	memset(r.opts.log_id, 0x5a, sizeof(r.opts.log_id));
	FUZZ_CHECK(rig_open(&r) == 0, "%s", thmq_errmsg());
	if (small)
		fill_small(&r);
	else
		fill_segments(&r);
	if (cut)
		rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	else
		FUZZ_CHECK(rig_close(&r) == 0);
	if (r.env)
		rig_close(&r);
	return r.sim;
}

/* -------------------------------------------------------------------- load */

static int load_file(void *arg, const char *name)
{
	struct patch_image *im = arg;
	struct patch_file *f = &im->files[im->file_count];
	struct thmqi_disk_file *file;
	struct thmqi_disk_dir *dir;
	char *end;

	if (strcmp(name, "vote") != 0 && !strstr(name, ".log") && !strstr(name, ".idx"))
		return 0;
	FUZZ_CHECK(im->file_count < PATCH_FILES && strlen(name) < sizeof(f->name));
	FUZZ_CHECK(thmqi_disk_sim.dir_open(im->sim, PATCH_DIR, false, &dir) == 0);
	FUZZ_CHECK(thmqi_disk_sim.file_open(dir, name, false, &file) == 0);
	memset(f, 0, sizeof(*f));
	strcpy(f->name, name);
	f->size = f->good_size = (uint64_t)thmqi_disk_sim.file_size(file);
	f->room = f->size + 16384;
	f->data = aligned_alloc(4096, THMQI_ALIGN_UP(f->room, (uint64_t)4096));
	FUZZ_CHECK(f->data && f->size % 512 == 0);
	memset(f->data, 0, f->room);
	FUZZ_CHECK(thmqi_disk_sim.file_read(file, f->data, (uint32_t)f->size, 0) ==
		   (int64_t)f->size);
	f->position = strtoull(name, &end, 10);
	f->is_index = strcmp(end, ".idx") == 0;
	if (strcmp(name, "vote") == 0)
		f->position = UINT64_MAX;
	thmqi_disk_sim.file_close(file);
	thmqi_disk_sim.dir_close(dir);
	im->file_count++;
	return 0;
}

/* In the order of their positions, `vote` last: the same whatever order the directory has. */
static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct patch_file *)a)->name, ((const struct patch_file *)b)->name);
}

static void add(struct patch_image *im, uint32_t file, uint64_t offset, uint64_t span)
{
	FUZZ_CHECK(im->anchor_count < PATCH_ANCHORS);
	if (span)
		im->anchors[im->anchor_count++] = (struct patch_anchor){
			.file = file, .offset = offset, .span = (uint32_t)THMQI_MIN(span, 256u)};
}

static void find_batches(struct patch_image *im, uint32_t file)
{
	const struct patch_file *f = &im->files[file];
	uint64_t at = 0, run_at;
	uint32_t i;

	while (at + THMQI_BLOCK <= f->size) {
		const struct batch_header *h = (const struct batch_header *)(f->data + at);

		if (h->magic != BATCH_MAGIC || !h->len)
			break;
		FUZZ_CHECK(im->batch_count < PATCH_BATCHES);
		im->batches[im->batch_count].file = file;
		im->batches[im->batch_count].len = h->len;
		im->batches[im->batch_count++].offset = at;
		add(im, file, at, sizeof(*h));
		run_at = at + sizeof(*h);
		for (i = 0; i < h->run_count; i++) {
			const struct thmq_run_header *run =
				(const struct thmq_run_header *)(f->data + run_at);

			add(im, file, run_at, sizeof(*run));
			add(im, file, run_at + sizeof(*run), run->len);
			run_at += thmqi_run_bytes(run);
		}
		at += h->len;
	}
}

static void find_partitions(struct patch_image *im, uint32_t file, uint64_t offset, uint64_t bytes)
{
	const struct seal_partition *p;
	uint64_t at;

	for (at = offset; at + sizeof(*p) <= offset + bytes; at += sizeof(*p)) {
		p = (const struct seal_partition *)(im->files[file].data + at);
		if (p->count && at % SEAL_PAGE < sizeof(*p) * SEAL_PAGE_PARTITIONS)
			add(im, file, at, sizeof(*p));
	}
}

static void find_sections(struct patch_image *im, uint32_t file)
{
	const struct seal_header *h = (const struct seal_header *)im->files[file].data;
	uint32_t i;

	add(im, file, 0, offsetof(struct seal_header, sections));
	for (i = 0; i < SEAL_SECTIONS; i++) {
		add(im, file, offsetof(struct seal_header, sections) + i * sizeof(h->sections[0]),
		    sizeof(h->sections[0]));
		add(im, file, h->sections[i].offset, h->sections[i].bytes);
		if (i + 1 == SEAL_PARTITIONS) /* those that are used lie anywhere in it */
			find_partitions(im, file, h->sections[i].offset, h->sections[i].bytes);
		else if (h->sections[i].bytes > 256)
			add(im, file, h->sections[i].offset + h->sections[i].bytes - 256, 256);
	}
}

/* The log begins with its second segment, as after the first one was dropped. */
static void begin_later(struct patch_image *im)
{
	const struct batch_header *last = NULL;
	struct thmqi_disk_dir *dir;
	uint32_t i, k;

	for (i = 0; i < im->batch_count && im->batches[i].file == im->batches[0].file; i++)
		last = (const struct batch_header *)(im->files[im->batches[i].file].data +
						     im->batches[i].offset);
	FUZZ_CHECK(i < im->batch_count);
	for (i = 0; i < im->file_count; i++) {
		uint8_t *v = im->files[i].data;
		struct thmqi_disk_file *file;
		uint64_t begin[3] = {1u << 20, last->index, last->term};

		if (im->files[i].position != UINT64_MAX)
			continue;
		FUZZ_CHECK(thmqi_disk_sim.dir_open(im->sim, PATCH_DIR, false, &dir) == 0);
		for (k = 0; k < 2; k++) { /* as in doc/format.md */
			memcpy(v + k * THMQI_BLOCK + 80, begin, sizeof(begin));
			memcpy(v + k * THMQI_BLOCK + 104, &last->header_crc, 4);
			((struct vote *)(v + k * THMQI_BLOCK))->crc =
				thmqi_crc32c(0, v + k * THMQI_BLOCK, offsetof(struct vote, crc));
		}
		FUZZ_CHECK(thmqi_disk_sim.file_open(dir, "vote", false, &file) == 0);
		FUZZ_CHECK(thmqi_disk_sim.file_write(file, v, 2 * THMQI_BLOCK, 0, true) == 0);
		thmqi_disk_sim.file_close(file);
		FUZZ_CHECK(thmqi_disk_sim.unlink(dir, RIG_SEGMENT) == 0);
		FUZZ_CHECK(thmqi_disk_sim.unlink(dir, "00000000000000000000.idx") == 0);
		FUZZ_CHECK(thmqi_disk_sim.dir_sync(dir) == 0);
		thmqi_disk_sim.dir_close(dir);
	}
}

static void load(struct patch_image *im)
{
	struct thmqi_disk_dir *dir;
	uint8_t *good;
	uint32_t i;

	for (i = 0; i < im->file_count; i++)
		free(im->files[i].data), free((void *)(uintptr_t)im->files[i].good);
	im->file_count = im->batch_count = im->anchor_count = 0;
	FUZZ_CHECK(thmqi_disk_sim.dir_open(im->sim, PATCH_DIR, false, &dir) == 0);
	FUZZ_CHECK(thmqi_disk_sim.dir_list(dir, load_file, im) == 0);
	thmqi_disk_sim.dir_close(dir);
	qsort(im->files, im->file_count, sizeof(im->files[0]), by_name);
	for (i = 0; i < im->file_count; i++) {
		struct patch_file *f = &im->files[i];

		good = aligned_alloc(4096, THMQI_ALIGN_UP(f->room, (uint64_t)4096));
		FUZZ_CHECK(good);
		memcpy(good, f->data, f->room);
		f->good = good;
		if (f->position == UINT64_MAX) {
			add(im, i, 0, sizeof(struct vote));
			add(im, i, THMQI_BLOCK, sizeof(struct vote));
		} else if (f->is_index) {
			find_sections(im, i);
		} else {
			find_batches(im, i);
		}
	}
	im->good_batches = im->batch_count;
	im->good_anchors = im->anchor_count;
	patch_undo(im);
}

struct patch_image *patch_image(enum patch_image_kind kind)
{
	static struct patch_image *images[PATCH_IMAGES];
	struct patch_image *im = images[kind];

	if (im)
		return im;
	im = images[kind] = calloc(1, sizeof(*im));
	FUZZ_CHECK(im);
	im->sim = make(kind);
	load(im);
	if (kind == PATCH_BEGUN) {
		begin_later(im);
		load(im);
	}
	return im;
}
