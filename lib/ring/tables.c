/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tables.c - registered files and buffers. A table that the kernel refuses, a full one, a limit of locked memory:
 * none is an error, the operations then name the descriptor or the address as any other.
 */
#include <sys/resource.h>

#include "internal.h"

static void slots_init(struct thmqi_ring *r)
{
	struct rlimit limit;

	r->file_count = THMQI_RING_FILES;
	/* the kernel refuses a file table larger than the limit of descriptors */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < r->file_count)
		r->file_count = (uint32_t)limit.rlim_cur;
	r->free_file_count = r->file_count;
	for (uint32_t i = 0; i < r->file_count; i++) {
		r->files[i] = -1;
		r->free_files[i] = (uint16_t)(r->file_count - 1 - i);
	}
}

static int register_piece(struct io_uring *ring, uint32_t row, uint32_t piece, void *base)
{
	struct iovec iov = {.iov_base = base, .iov_len = base ? RING_PIECE_BYTES : 0};
	__u64 tag = 0;
	int n;

	n = io_uring_register_buffers_update_tag(ring, row * RING_SLAB_PIECES + piece, &iov, &tag,
						 1);
	return n == 1 ? 0 : n < 0 ? n : -EINVAL;
}

static int try_piece(struct thmqi_ring *r, uint32_t row, uint32_t piece)
{
	struct ring_row *slab = &r->rows[row];
	int e;

	if (!r->has_buffers || r->buffers_refused)
		return -ENOBUFS;
	e = register_piece(&r->ring, row, piece, slab->base + (size_t)piece * RING_PIECE_BYTES);
	if (e) {
		if (!slab->refused)
			r->stats.unregistered_slabs++;
		slab->refused |= 1u << piece;
		/* asking again at every write would cost more than it could give back */
		r->buffers_refused = e == -ENOMEM;
		return e;
	}
	slab->registered |= 1u << piece;
	r->stats.registered_buffers++;
	return 0;
}

static int slab_add(struct thmq_registrar *registrar, const struct thmq_slab *added, uint64_t *ret_key)
{
	struct thmqi_ring *r = thmqi_container(registrar, struct thmqi_ring, registrar);
	uint32_t row = 0;
	int e;

	if (added->index >= THMQI_RING_BUFFERS || r->slab_rows[added->index] != RING_NO_ROW)
		return -EINVAL;
	while (row < RING_ROWS && r->rows[row].base)
		row++;
	if (row == RING_ROWS) {
		r->stats.unregistered_slabs++;
		return -ENOBUFS;
	}
	r->rows[row] = (struct ring_row){.base = added->base, .pieces = RING_SLAB_PIECES};
	r->slab_rows[added->index] = (uint16_t)row;
	*ret_key = row * RING_SLAB_PIECES; /* of its first piece */
	/* the first piece now, so that a refusal is known and counted where the slab is taken */
	e = try_piece(r, row, 0);
	if (e) { /* it will not be removed: nothing of it stays */
		r->rows[row].base = NULL;
		r->slab_rows[added->index] = RING_NO_ROW;
	}
	return e;
}

static void slab_remove(struct thmq_registrar *registrar, const struct thmq_slab *slab, uint64_t key)
{
	struct thmqi_ring *r = thmqi_container(registrar, struct thmqi_ring, registrar);
	uint32_t row = slab->index < THMQI_RING_BUFFERS ? r->slab_rows[slab->index] : RING_NO_ROW;

	if (row == RING_NO_ROW)
		return;
	for (uint32_t i = 0; i < r->rows[row].pieces; i++) {
		if (!(r->rows[row].registered & 1u << i))
			continue;
		register_piece(&r->ring, row, i, NULL);
		r->stats.registered_buffers--;
	}
	if (r->rows[row].refused)
		r->stats.unregistered_slabs--;
	r->rows[row].base = NULL;
	r->slab_rows[slab->index] = RING_NO_ROW;
}

int thmqi_ring_piece(struct thmqi_ring *r, const struct thmqi_buf *buf, const void *data,
		     uint32_t len)
{
	struct ring_row *slab;
	uint32_t row, piece, bit;
	size_t at;

	if (!buf || buf->slab_index < 0 || (uint32_t)buf->slab_index >= THMQI_RING_BUFFERS)
		return -1;
	row = r->slab_rows[buf->slab_index];
	if (row == RING_NO_ROW)
		return -1;
	slab = &r->rows[row];
	at = (size_t)((const uint8_t *)data - slab->base);
	piece = (uint32_t)(at / RING_PIECE_BYTES);
	/* wider than a piece, or not in that slab at all */
	if (at >= THMQI_SLAB_BYTES || piece >= slab->pieces ||
	    (at + len - 1) / RING_PIECE_BYTES != piece)
		return -1;
	bit = 1u << piece;
	if (thmqi_unlikely(!(slab->registered & bit))) {
		if ((slab->refused & bit) || try_piece(r, row, piece))
			return -1;
	}
	return (int)(row * RING_SLAB_PIECES + piece);
}

struct thmqi_registrar *thmqi_ring_registrar(struct thmqi_ring *r)
{
	return &r->registrar;
}

int thmqi_ring_file_add(struct thmqi_ring *r, int fd)
{
	uint32_t slot;
	int n;

	if (!r->has_files || !r->free_file_count)
		return -ENFILE;
	slot = r->free_files[r->free_file_count - 1];
	n = io_uring_register_files_update(&r->ring, slot, &fd, 1);
	if (n != 1)
		return n < 0 ? n : -ENFILE;
	r->free_file_count--;
	r->files[slot] = fd;
	r->stats.registered_files++;
	return (int)slot;
}

void thmqi_ring_file_remove(struct thmqi_ring *r, int slot)
{
	int none = -1;

	if (slot < 0 || (uint32_t)slot >= r->file_count || r->files[slot] < 0)
		return;
	r->files[slot] = -1;
	r->stats.registered_files--;
	/* a slot that the kernel would not empty is not given out again */
	if (io_uring_register_files_update(&r->ring, (unsigned)slot, &none, 1) == 1)
		r->free_files[r->free_file_count++] = (uint16_t)slot;
}

void thmqi_ring_tables_init(struct thmqi_ring *r)
{
	slots_init(r);
	for (uint32_t i = 0; i < THMQI_RING_BUFFERS; i++)
		r->slab_rows[i] = RING_NO_ROW;
	r->registrar.add = slab_add;
	r->registrar.remove = slab_remove;
}

void thmqi_ring_tables_register(struct thmqi_ring *r, struct io_uring *ring)
{
	r->has_files = io_uring_register_files_sparse(ring, r->file_count) == 0;
	r->has_buffers = io_uring_register_buffers_sparse(ring, RING_ROWS * RING_SLAB_PIECES) == 0;
	for (uint32_t i = 0; i < r->file_count && r->stats.registered_files; i++) {
		if (r->files[i] >= 0)
			io_uring_register_files_update(ring, i, &r->files[i], 1);
	}
	/* buffers come back by themselves, piece by piece, as they are used */
	for (uint32_t i = 0; i < RING_ROWS; i++)
		r->rows[i].registered = 0;
	r->stats.registered_buffers = 0;
}

void thmqi_ring_tables_unregister(struct thmqi_ring *r)
{
	/* now, so that pins and files do not outlive the ring until the kernel's own clean-up gets to it */
	if (r->has_buffers)
		io_uring_unregister_buffers(&r->ring);
	if (r->has_files)
		io_uring_unregister_files(&r->ring);
}
