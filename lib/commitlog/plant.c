/* SPDX-License-Identifier: Apache-2.0 */
/* plant.c - the planted defects of plant.h that need more than a condition in their place. Not for use. */
#include "internal.h"

bool thmqi_plant_header_ok(const struct thmq_log *log, const struct batch_header *h,
			   uint64_t position)
{
	if (thmqi_likely(!(log->defects & (THMQI_LOG_TRUST_HEADER | THMQI_LOG_TRUST_STALE))))
		return thmqi_batch_header_ok(h, position, log->vote.log_id);
	if (log->defects & THMQI_LOG_TRUST_STALE)
		return thmqi_batch_header_ok(h, h->position, log->vote.log_id);
	return h->magic == BATCH_MAGIC && h->position == position &&
	       memcmp(h->log_id, log->vote.log_id, 16) == 0 && h->len >= THMQI_BLOCK &&
	       h->len % THMQI_BLOCK == 0;
}

struct rewrite {
	struct thmqi_disk_op op;
	struct thmqi_buf *buf;
};

static void on_rewritten(struct thmqi_disk_op *op, int64_t result)
{
	struct rewrite *w = thmqi_container(op, struct rewrite, op);

	(void)result;
	thmqi_buf_unref(w->buf);
	free(w);
}

/* As a log does that fills its last block up: it writes the bytes again that lie in it already. */
void thmqi_plant_rewrite(struct thmq_log *log)
{
	struct thmqi_buf *buf = thmqi_cache_get(log, log->chain.index);
	const struct batch_header *h = buf ? (const struct batch_header *)buf->data : NULL;
	struct rewrite *w;

	if (!h || h->position < log->active->position || h->type == BATCH_PAD ||
	    log->flight_head != log->flight_tail)
		return;
	w = calloc(1, sizeof(*w));
	if (!w)
		return;
	w->buf = buf;
	thmqi_buf_ref(buf);
	w->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
				       .len = THMQI_BLOCK,
				       .file = log->active->file,
				       .buf = buf,
				       .data = buf->data + h->len - THMQI_BLOCK,
				       .offset = h->position + h->len - THMQI_BLOCK -
						 log->active->position,
				       .done = on_rewritten};
	if (log->disk->queue_submit(log->queue, &w->op) != 0)
		on_rewritten(&w->op, 0);
}
