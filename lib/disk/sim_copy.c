/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_copy.c - a copy of the simulated disk, as it is or as a power cut would leave it, so that one run can be cut at each
 * of its operations. Knows no queues but what is in flight on them.
 */
#include "sim_internal.h"

/* -------------------------------------------------------------- file system */

static int copy_pendings(struct sim_inode *to, const struct sim_inode *from)
{
	const struct sim_pending *p;
	struct sim_pending *q;
	size_t bytes;

	for (p = from->first; p; p = p->next) {
		bytes = sizeof(*p) + (p->len / SIM_SECTOR + 63) / 64 * sizeof(p->dead[0]);
		q = malloc(bytes);
		if (!q)
			return -ENOMEM;
		memcpy(q, p, bytes);
		q->next = NULL;
		if (q->data)
			q->data->refs++;
		*to->last = q;
		to->last = &q->next;
	}
	return 0;
}

static int copy_inode(struct sim_fs *to, struct sim_inode *from)
{
	struct sim_inode *inode = calloc(1, sizeof(*inode));
	uint32_t i;

	if (!inode)
		return -ENOMEM;
	inode->last = &inode->first;
	inode->refs = 1; /* the copying's: what is in flight may need it when its names are gone */
	inode->size = from->size;
	inode->durable_size = from->durable_size;
	thmqi_list_add_tail(&to->inodes, &inode->link);
	to->bytes += inode->size;
	from->copy = inode;
	if (from->chunk_count) {
		inode->chunks = malloc(from->chunk_count * sizeof(struct sim_chunk *));
		if (!inode->chunks)
			return -ENOMEM;
		inode->chunk_count = from->chunk_count;
		memcpy(inode->chunks, from->chunks, from->chunk_count * sizeof(struct sim_chunk *));
		for (i = 0; i < inode->chunk_count; i++)
			if (inode->chunks[i])
				inode->chunks[i]->refs++;
	}
	return copy_pendings(inode, from);
}

static int copy_names(struct sim_names *to, const struct sim_names *from)
{
	if (!from->count)
		return 0;
	to->list = malloc(from->count * sizeof(*to->list));
	if (!to->list)
		return -ENOMEM;
	to->room = from->count;
	for (; to->count < from->count; to->count++) {
		struct sim_name *n = &to->list[to->count];

		n->name = strdup(from->list[to->count].name);
		if (!n->name)
			return -ENOMEM;
		n->inode = from->list[to->count].inode->copy;
		n->inode->refs++;
	}
	return 0;
}

static int copy_change(struct sim_dir *to, const struct sim_change *from)
{
	struct sim_change *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->seq = from->seq;
	c->inode = from->inode->copy;
	c->inode->refs++;
	*to->last = c;
	to->last = &c->next;
	c->from = from->from ? strdup(from->from) : NULL;
	c->to = from->to ? strdup(from->to) : NULL;
	return (from->from && !c->from) || (from->to && !c->to) ? -ENOMEM : 0;
}

static int copy_dir(struct sim_fs *to, const struct sim_dir *from)
{
	struct sim_dir *dir = calloc(1, sizeof(*dir));
	const struct sim_change *c;
	int e;

	if (!dir)
		return -ENOMEM;
	dir->last = &dir->first;
	thmqi_list_add_tail(&to->dirs, &dir->link);
	dir->path = strdup(from->path);
	e = dir->path ? copy_names(&dir->names, &from->names) : -ENOMEM;
	if (!e)
		e = copy_names(&dir->durable, &from->durable);
	for (c = from->first; c && !e; c = c->next)
		e = copy_change(dir, c);
	return e;
}

int thmqi_disk_sim_fs_copy(struct sim_fs *to, struct sim_fs *from)
{
	struct thmqi_list *it;
	int e = 0;

	to->seq = from->seq;
	thmqi_list_each(it, &from->inodes)
	{
		e = e ? e : copy_inode(to, thmqi_container(it, struct sim_inode, link));
	}
	thmqi_list_each(it, &from->dirs)
	{
		e = e ? e : copy_dir(to, thmqi_container(it, struct sim_dir, link));
	}
	return e;
}

static void let_go(struct sim_fs *to, struct sim_fs *from)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &from->inodes)
	{
		struct sim_inode *inode = thmqi_container(it, struct sim_inode, link);

		if (inode->copy)
			thmqi_disk_sim_inode_unref(to, inode->copy);
		inode->copy = NULL;
	}
}

/* -------------------------------------------------------------------- cuts */

/* What is in flight, with handles of the copy. */
struct twin {
	struct thmqi_disk_op op;
	struct thmqi_disk_dir dir;
	struct thmqi_disk_file file;
	struct sim_flight flight;
};

static bool is_named(uint8_t opcode)
{
	return opcode == THMQI_DISK_CREATE || opcode == THMQI_DISK_RENAME ||
	       opcode == THMQI_DISK_UNLINK || opcode == THMQI_DISK_SYNC_DIR;
}

/* Return: false if the copy has nothing that it could happen to: the file has lost its last name. */
static bool twin_make(struct thmqi_disk_sim *to, const struct sim_flight *f, struct twin *t)
{
	t->op = *f->op;
	t->flight = *f;
	t->flight.op = &t->op;
	t->flight.next = NULL;
	if (is_named(f->op->opcode)) {
		t->dir = (struct thmqi_disk_dir){.sim = to, .generation = to->generation};
		t->dir.dir = thmqi_disk_sim_dir_get(&to->fs, f->op->dir->dir->path, false);
		t->op.dir = &t->dir;
		t->op.file = NULL;
		return t->dir.dir != NULL;
	}
	t->file = (struct thmqi_disk_file){.sim = to, .generation = to->generation};
	t->file.inode = f->op->file->inode->copy;
	t->op.file = &t->file;
	t->op.dir = NULL;
	return t->file.inode != NULL;
}

static bool happens(struct thmqi_disk_sim *to, uint32_t mode)
{
	return mode == THMQI_DISK_SIM_CRASH_KEEP ||
	       (mode != THMQI_DISK_SIM_CRASH_LOSE && (thmqi_prng_next(&to->prng) & 1));
}

/* What began last. */
static const struct sim_flight *newest(const struct thmqi_disk_sim *sim)
{
	const struct sim_flight *best = sim->calling, *f;
	struct thmqi_list *it;

	thmqi_list_each(it, &sim->room->queues)
	{
		const struct thmqi_disk_queue *q = thmqi_container(it, struct thmqi_disk_queue, link);

		for (f = q->sim == sim ? q->first : NULL; f; f = f->next)
			if (!best || f->seq > best->seq)
				best = f;
	}
	return best;
}

uint32_t thmqi_disk_sim_last_sectors(const struct thmqi_disk_sim *sim)
{
	const struct sim_flight *f = newest(sim);

	return f && f->op->opcode == THMQI_DISK_WRITE ? f->op->len / SIM_SECTOR : 0;
}

/* The sectors of @t that the cut let through are on the medium. */
static void tear(struct thmqi_disk_sim *to, const struct twin *t,
		 const struct thmqi_disk_sim_cut *cut)
{
	uint64_t noise[SIM_SECTOR / 8];
	uint32_t from = 0, end = THMQI_MIN(cut->sector, t->op.len / SIM_SECTOR), i;
	const uint8_t *data = t->op.data;

	if (cut->tear == THMQI_DISK_SIM_TEAR_TAIL) {
		from = end;
		end = t->op.len / SIM_SECTOR;
	} else if (cut->tear == THMQI_DISK_SIM_TEAR_ONE) {
		from = end;
		end = THMQI_MIN(from + 1, t->op.len / SIM_SECTOR);
	}
	if (end > from)
		thmqi_disk_sim_inode_write(
			&to->fs, t->file.inode, t->op.offset + (uint64_t)from * SIM_SECTOR,
			data + (size_t)from * SIM_SECTOR, (end - from) * SIM_SECTOR, true);
	if (cut->tear != THMQI_DISK_SIM_TEAR_GARBLE || end == t->op.len / SIM_SECTOR)
		return;
	for (i = 0; i < THMQI_ARRAY_COUNT(noise); i++)
		noise[i] = thmqi_prng_next(&to->prng);
	thmqi_disk_sim_inode_write(&to->fs, t->file.inode,
				   t->op.offset + (uint64_t)end * SIM_SECTOR, noise, sizeof(noise),
				   true);
}

static void cut_flights(struct thmqi_disk_sim *to, struct thmqi_disk_sim *from,
			const struct thmqi_disk_sim_cut *cut)
{
	const struct sim_flight *last = newest(from), *f;
	bool torn = cut->tear && last && last->op->opcode == THMQI_DISK_WRITE;
	struct thmqi_list *it;
	struct twin t;

	thmqi_list_each(it, &from->room->queues)
	{
		const struct thmqi_disk_queue *q = thmqi_container(it, struct thmqi_disk_queue, link);

		for (f = q->sim == from ? q->first : NULL; f; f = f->next)
			if (!(torn && f == last) && !f->dead && sim_is_change(f->op->opcode) &&
			    happens(to, cut->mode) && twin_make(to, f, &t))
				thmqi_disk_sim_happen(to, &t.flight);
	}
	f = from->calling;
	if (f && !(torn && f == last) && !f->dead && sim_is_change(f->op->opcode) &&
	    happens(to, cut->mode) && twin_make(to, f, &t))
		thmqi_disk_sim_happen(to, &t.flight);
	if (cut->mode != THMQI_DISK_SIM_CRASH_KILL)
		thmqi_disk_sim_fs_crash(&to->fs, cut->mode);
	if (torn && twin_make(to, last, &t))
		tear(to, &t, cut);
}

int thmqi_disk_sim_copy(struct thmqi_disk_sim *to, struct thmqi_disk_sim *from, uint64_t seed,
			const struct thmqi_disk_sim_cut *cut)
{
	int e;

	thmqi_disk_sim_locks_drop(to, NULL);
	thmqi_disk_sim_fs_fini(&to->fs);
	thmqi_disk_sim_faults_clear(to);
	to->generation++;
	to->down = false;
	to->cut_in = 0;
	to->room->now = cut ? THMQI_MAX(to->room->now, from->room->now) : from->room->now;
	thmqi_prng_seed(&to->prng, seed);
	e = thmqi_disk_sim_fs_copy(&to->fs, &from->fs);
	if (e)
		thmqi_disk_sim_fs_fini(&to->fs);
	else if (cut)
		cut_flights(to, from, cut);
	let_go(&to->fs, &from->fs);
	return e;
}
