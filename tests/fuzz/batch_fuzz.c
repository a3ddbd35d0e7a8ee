/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch as bytes: checked as recovery, scan and readers do, and walked then. The first byte of the input: bit 0: its checksums are left
 * as they are, bit 1: it is the pad whose first block alone is there.
 */
#include "fuzz.h"
#include "patch.h"

static void walk(const struct batch_header *h, const uint8_t *end)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	uint32_t i;

	for (i = 0; i < h->run_count; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;

		FUZZ_CHECK(at + sizeof(*run) <= end &&
			   thmqi_run_bytes(run) <= (uint64_t)(end - at));
		fuzz_touch(run, sizeof(*run) + run->len);
		if (thmqi_record_begin(&it, run) == 0)
			while (thmqi_record_next(&it, &v) == 1)
				fuzz_touch(v.key, (size_t)v.key_len + v.tag_len + v.len);
		thmqi_run_records_ok(run);
		at += thmqi_run_bytes(run);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct batch_header *h;
	struct chain c = {0};
	uint32_t room, len;

	if (size < 2 || size > 1u << 20)
		return 0;
	room = (uint32_t)THMQI_ALIGN_UP(size - 1, (size_t)THMQI_BLOCK);
	h = aligned_alloc(THMQI_BLOCK, room);
	if (!h)
		return 0;
	memset(h, 0, room);
	memcpy(h, data + 1, size - 1);
	if (!(data[0] & 1)) {
		h->magic = BATCH_MAGIC;
		if (!(data[0] & 2))
			h->len = room;
		patch_seal_batch(h, room);
		patch_seal_local(h);
	}
	c.position = h->position;
	c.index = h->index - 1;
	c.crc = h->prev_crc;
	thmqi_batch_local_ok(h);
	if (thmqi_batch_header_ok(h, h->position, h->log_id) && thmqi_batch_continues(h, &c)) {
		len = h->type == BATCH_PAD ? THMQI_BLOCK : h->len;
		if (len <= room && thmqi_batch_payload_ok(h, len))
			walk(h, (const uint8_t *)h + len);
		thmqi_chain_advance(&c, h);
	}
	free(h);
	return 0;
}
