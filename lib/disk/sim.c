/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.c - the simulated disk as a table of operations: virtual time, operations in flight, faults, power cuts. What is
 * on the disk is sim_fs.c's.
 */
#include <unistd.h>

#include "count.h"
#include "sim_internal.h"

/* --------------------------------------------------------------- what happens */

static bool is_stale(const struct thmqi_disk_sim *sim, uint64_t generation)
{
	return sim->down || sim->generation != generation;
}

/* Else it is of a directory; the op's other fields may be left from its former use. */
static bool is_of_file(uint8_t opcode)
{
	return opcode == THMQI_DISK_READ || opcode == THMQI_DISK_WRITE ||
	       opcode == THMQI_DISK_FLUSH || opcode == THMQI_DISK_ALLOCATE ||
	       opcode == THMQI_DISK_CLOSE;
}

static int64_t half(int64_t len)
{
	return len / 2 / SIM_SECTOR * SIM_SECTOR;
}

static uint64_t misdirect(struct thmqi_disk_sim *sim, const struct sim_flight *f)
{
	const struct thmqi_disk_op *op = f->op;
	uint64_t blocks = op->file->inode->size / THMQI_BLOCK;

	if (f->arg)
		return op->offset + (uint64_t)f->arg;
	return blocks ? thmqi_prng_below(&sim->prng, blocks) * THMQI_BLOCK : op->offset;
}

static int64_t do_read(struct thmqi_disk_sim *sim, const struct sim_flight *f)
{
	struct thmqi_disk_op *op = f->op;
	uint64_t at = op->offset;
	uint32_t n;

	if (f->effect == THMQI_DISK_SIM_ERROR)
		return f->error;
	if (f->effect == THMQI_DISK_SIM_SHORT)
		return -EIO;
	if (f->effect == THMQI_DISK_SIM_MISDIRECT)
		at = misdirect(sim, f);
	n = thmqi_disk_sim_inode_read(op->file->inode, at, op->data, op->len);
	if (f->effect == THMQI_DISK_SIM_CORRUPT && n)
		((uint8_t *)op->data)[thmqi_prng_below(&sim->prng, n)] ^=
			(uint8_t)(1u << thmqi_prng_below(&sim->prng, 8));
	return n;
}

static int64_t do_write(struct thmqi_disk_sim *sim, const struct sim_flight *f)
{
	struct thmqi_disk_op *op = f->op;
	struct sim_inode *inode = op->file->inode;
	bool durable = op->flags & THMQI_DISK_DSYNC;
	uint64_t at = op->offset;
	uint32_t part = (uint32_t)half(op->len);
	int e;

	sim->stats.unstable += f->crc != thmqi_crc32c(0, op->data, op->len);
	switch (f->effect) {
	case THMQI_DISK_SIM_ERROR: /* nobody knows how much of it happened */
		part = thmqi_prng_below(&sim->prng, 2) ? part : 0;
		thmqi_disk_sim_inode_write(&sim->fs, inode, at, op->data, part, false);
		return f->error;
	case THMQI_DISK_SIM_SHORT:
		thmqi_disk_sim_inode_write(&sim->fs, inode, at, op->data, part, false);
		return -EIO;
	case THMQI_DISK_SIM_LOST:
		return 0;
	case THMQI_DISK_SIM_MISDIRECT:
		at = misdirect(sim, f);
		break;
	default:
		break;
	}
	e = thmqi_disk_sim_inode_write(&sim->fs, inode, at, op->data, op->len, durable);
	if (!e && f->effect == THMQI_DISK_SIM_CORRUPT && op->len)
		thmqi_disk_sim_inode_flip(inode, at + thmqi_prng_below(&sim->prng, op->len),
					  (uint32_t)thmqi_prng_below(&sim->prng, 8));
	return e;
}

static int open_inode(struct thmqi_disk_sim *sim, struct sim_inode *inode, const char *name,
		      struct thmqi_disk_file **ret_file)
{
	struct thmqi_disk_file *file = calloc(1, sizeof(*file));

	if (!file)
		return -ENOMEM;
	file->name = strdup(name);
	if (!file->name) {
		free(file);
		return -ENOMEM;
	}
	file->sim = sim;
	file->generation = sim->generation;
	file->inode = inode;
	inode->refs++;
	*ret_file = file;
	return 0;
}

static void file_close(struct thmqi_disk_file *file)
{
	thmqi_disk_sim_inode_unref(&file->sim->fs, file->inode);
	free(file->name);
	free(file);
}

static int64_t do_create(struct thmqi_disk_sim *sim, struct thmqi_disk_op *op)
{
	struct sim_inode *inode;
	int e = thmqi_disk_sim_link(&sim->fs, op->dir->dir, op->name, &inode);

	return e ? e : open_inode(sim, inode, op->name, &op->file);
}

static int64_t do_open(struct thmqi_disk_sim *sim, struct thmqi_disk_op *op)
{
	struct sim_inode *inode = thmqi_disk_sim_lookup(op->dir->dir, op->name);

	return inode ? open_inode(sim, inode, op->name, &op->file) : -ENOENT;
}

/* The operation takes effect. Return: its result. */
static int64_t perform(struct thmqi_disk_sim *sim, const struct sim_flight *f)
{
	struct thmqi_disk_op *op = f->op;

	if (op->opcode == THMQI_DISK_CLOSE) { /* also of a file that the cut left dead */
		file_close(op->file);
		return 0;
	}
	if (f->dead ||
	    (op->file && !sim_is_opening(op->opcode) && is_stale(sim, op->file->generation)))
		return -EIO;
	if (op->dir && is_stale(sim, op->dir->generation))
		return -EIO;
	if (op->opcode == THMQI_DISK_READ)
		return do_read(sim, f);
	if (op->opcode == THMQI_DISK_WRITE)
		return do_write(sim, f);
	if (f->effect == THMQI_DISK_SIM_ERROR || f->effect == THMQI_DISK_SIM_SHORT)
		return f->error;
	switch (op->opcode) {
	case THMQI_DISK_FLUSH:
		thmqi_disk_sim_inode_flush(&sim->fs, op->file->inode, f->seq, f->size);
		return 0;
	case THMQI_DISK_CREATE:
		return do_create(sim, op);
	case THMQI_DISK_OPEN:
		return do_open(sim, op);
	case THMQI_DISK_ALLOCATE:
		return thmqi_disk_sim_inode_grow(&sim->fs, op->file->inode, op->offset + op->len);
	case THMQI_DISK_RENAME:
		return thmqi_disk_sim_rename(&sim->fs, op->dir->dir, op->name, op->name2);
	case THMQI_DISK_UNLINK:
		return thmqi_disk_sim_unlink(&sim->fs, op->dir->dir, op->name);
	case THMQI_DISK_SYNC_DIR:
		thmqi_disk_sim_dir_flush(&sim->fs, op->dir->dir, f->seq);
		return 0;
	default:
		return -EINVAL;
	}
}

/* --------------------------------------------------------------------- begin */

static bool is_aligned(const struct thmqi_disk_op *op)
{
	return (op->opcode != THMQI_DISK_READ && op->opcode != THMQI_DISK_WRITE) ||
	       ((uintptr_t)op->data | op->len | op->offset) % SIM_SECTOR == 0;
}

static bool is_meant(const struct thmqi_disk_sim_fault *fault, const struct thmqi_disk_op *op)
{
	switch (fault->opcode) {
	case THMQI_DISK_SIM_ANY_OP:
		return op->opcode != THMQI_DISK_CLOSE;
	case THMQI_DISK_SIM_ANY_CHANGE:
		return sim_is_change(op->opcode);
	default:
		return fault->opcode == op->opcode;
	}
}

static void strike(struct thmqi_disk_sim *sim, struct sim_flight *f)
{
	struct thmqi_disk_sim_fault *fault;

	for (uint32_t i = 0; i < sim->fault_count && !sim->spared; i++) {
		fault = &sim->faults[i];
		if (!is_meant(fault, f->op) || --fault->nth)
			continue;
		f->effect = fault->effect;
		f->error = fault->error ? fault->error : -EIO;
		f->arg = fault->arg;
		sim->stats.faults++;
		if (fault->repeat) {
			fault->nth = 1;
			fault->repeat -= fault->repeat != UINT64_MAX;
		} else {
			*fault = sim->faults[--sim->fault_count];
			i--;
		}
	}
}

static uint64_t some_time(struct thmqi_disk_sim *sim, const struct sim_flight *f)
{
	const struct thmqi_disk_sim_opts *o = &sim->opts;
	uint64_t base = o->flush_ns;

	if (sim->down)
		return 1;
	if (f->op->opcode == THMQI_DISK_READ)
		base = o->read_ns;
	else if (f->op->opcode == THMQI_DISK_WRITE)
		base = o->write_ns + (f->op->flags & THMQI_DISK_DSYNC ? o->flush_ns : 0);
	base += thmqi_prng_below(&sim->prng, 3 * base + 1);
	return base + (f->effect == THMQI_DISK_SIM_STALL ? (uint64_t)f->arg : 0);
}

/* Fill @f for @op, which begins now. Return: true if the power goes now, with it in flight. */
static bool begin(struct thmqi_disk_sim *sim, struct sim_flight *f, struct thmqi_disk_op *op)
{
	memset(f, 0, sizeof(*f));
	f->op = op;
	f->dead = sim->down;
	f->seq = sim->fs.seq++;
	if (is_of_file(op->opcode))
		f->size = op->file->inode->size;
	if (op->opcode == THMQI_DISK_WRITE)
		f->crc = thmqi_crc32c(0, op->data, op->len);
	if (sim->seen)
		sim->seen(sim->seen_ctx,
			  is_of_file(op->opcode)              ? op->file->name
			  : op->opcode == THMQI_DISK_SYNC_DIR ? op->dir->dir->path
							      : op->name,
			  op);
	sim->stats.ops[op->opcode]++;
	strike(sim, f);
	f->due = sim->room->now + some_time(sim, f);
	if (sim->opts.flags & THMQI_DISK_SIM_IN_ORDER)
		f->due = sim->last_due = THMQI_MAX(f->due, sim->last_due);
	if (sim->down || !sim_is_change(op->opcode))
		return false;
	sim->stats.changes++;
	return sim->cut_in && --sim->cut_in == 0;
}

/* --------------------------------------------------------------------- queues */

static void finish(struct thmqi_disk_queue *q)
{
	struct sim_flight *f = q->first;
	struct thmqi_disk_op *op = f->op;
	int64_t result = perform(q->sim, f);

	q->first = f->next;
	q->inflight--;
	free(f);
	op->done(op, result);
}

static int queue_poll(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);
	uint32_t done = 0;

	for (; done < budget && q->first && q->first->due <= q->sim->room->now; done++)
		finish(q);
	return (int)done;
}

static bool queue_arm(struct thmqi_poller *poller)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);

	return q->first && q->first->due <= q->sim->room->now;
}

static int queue_open(void *ctx, struct thmq_core *core, uint32_t depth,
		      struct thmqi_disk_queue **ret_queue)
{
	struct thmqi_disk_sim *sim = ctx;
	struct thmqi_disk_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->sim = sim;
	q->core = core;
	q->depth = depth;
	q->poller.poll = queue_poll;
	q->poller.name = "disk, simulated";
	q->poller.arm = queue_arm;
	thmqi_list_add_tail(&sim->room->queues, &q->link);
	thmqi_core_add_poller(core, &q->poller);
	*ret_queue = q;
	return 0;
}

static void queue_close(struct thmqi_disk_queue *q)
{
	while (q->first) {
		q->sim->room->now = THMQI_MAX(q->sim->room->now, q->first->due);
		finish(q);
	}
	thmqi_core_remove_poller(q->core, &q->poller);
	thmqi_list_del(&q->link);
	free(q);
}

static int queue_submit(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	struct sim_flight *f, **at = &q->first;
	struct thmqi_disk_sim *sim;
	bool cut;

	if (q->inflight >= q->depth)
		return -EAGAIN;
	if (op->opcode > THMQI_DISK_OPEN)
		return -EINVAL;
	/* whose it is says but what it is used for: one log's directory, on one of the disks */
	q->sim = is_of_file(op->opcode) ? op->file->sim : op->dir->sim;
	sim = q->sim;
	if (!is_aligned(op)) {
		sim->stats.misaligned++;
		return -EINVAL;
	}
	f = malloc(sizeof(*f));
	if (!f)
		return -EAGAIN;
	op->queue = q;
	cut = begin(sim, f, op);
	while (*at && (*at)->due <= f->due)
		at = &(*at)->next;
	f->next = *at;
	*at = f;
	q->inflight++;
	disk_count(q->core, op);
	if (sim->step && !sim->down && sim_is_change(op->opcode))
		sim->step(sim->step_ctx);
	if (cut)
		thmqi_disk_sim_crash_as(sim, sim->cut_mode);
	return 0;
}

static bool queue_wait(struct thmqi_disk_queue *q, uint64_t timeout_ns)
{
	struct thmqi_disk_sim *sim = q->sim;
	uint64_t end = sim->room->now + THMQI_MIN(timeout_ns, UINT64_MAX - sim->room->now);

	if (!q->first || q->first->due > end) {
		if (q->first)
			sim->room->now = end;
		return false;
	}
	sim->room->now = THMQI_MAX(sim->room->now, q->first->due);
	finish(q);
	return true;
}

static uint32_t queue_inflight(const struct thmqi_disk_queue *q)
{
	return q->inflight;
}

/* --------------------------------------------------------------- calling half */

/* Begin @op, let its time pass, end it. */
static int64_t call(struct thmqi_disk_sim *sim, struct thmqi_disk_op *op)
{
	struct sim_flight f;
	bool cut;

	if (!is_aligned(op)) {
		sim->stats.misaligned++;
		return -EINVAL;
	}
	cut = begin(sim, &f, op);
	sim->calling = &f;
	if (sim->step && !sim->down && sim_is_change(op->opcode))
		sim->step(sim->step_ctx);
	if (cut)
		thmqi_disk_sim_crash_as(sim, sim->cut_mode);
	sim->calling = NULL;
	sim->room->now = THMQI_MAX(sim->room->now, f.due);
	return perform(sim, &f);
}

/* The one of @first's room that @path is on. */
static struct thmqi_disk_sim *disk_of(struct thmqi_disk_sim *first, const char *path)
{
	struct thmqi_disk_sim *sim;
	size_t len;

	for (sim = first->beside; sim; sim = sim->beside) {
		len = strlen(sim->path);
		if (strncmp(path, sim->path, len) == 0 && (!path[len] || path[len] == '/'))
			return sim;
	}
	return first;
}

static int dir_open(void *ctx, const char *path, bool create, struct thmqi_disk_dir **ret_dir)
{
	struct thmqi_disk_sim *sim = disk_of(ctx, path);
	struct thmqi_disk_dir *handle;
	struct sim_dir *dir;

	if (sim->down)
		return -EIO;
	dir = thmqi_disk_sim_dir_get(&sim->fs, path, create);
	if (!dir)
		return create ? -ENOMEM : -ENOENT;
	handle = calloc(1, sizeof(*handle));
	if (!handle)
		return -ENOMEM;
	handle->sim = sim;
	handle->dir = dir;
	handle->generation = sim->generation;
	*ret_dir = handle;
	return 0;
}

void thmqi_disk_sim_locks_drop(struct thmqi_disk_sim *sim, const struct thmqi_disk_dir *holder)
{
	struct sim_lock **at = &sim->locks, *lock;

	while ((lock = *at)) {
		if (holder && lock->holder != holder) {
			at = &lock->next;
			continue;
		}
		*at = lock->next;
		free(lock->name);
		free(lock);
	}
}

static void dir_close(struct thmqi_disk_dir *dir)
{
	thmqi_disk_sim_locks_drop(dir->sim, dir);
	free(dir);
}

static int dir_sync(struct thmqi_disk_dir *dir)
{
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_SYNC_DIR, .dir = dir};

	return (int)call(dir->sim, &op);
}

static int dir_list(struct thmqi_disk_dir *dir, int (*each)(void *arg, const char *name), void *arg)
{
	const struct sim_names *names = &dir->dir->names;
	const char *name;
	char **copy;
	uint32_t count = 0, i;
	int rc = 0;

	if (is_stale(dir->sim, dir->generation))
		return -EIO;
	/* what @each does to the directory does not disturb the walk */
	while (thmqi_disk_sim_dir_child(&dir->sim->fs, dir->dir, count))
		count++;
	copy = calloc(count + names->count + 1, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	for (i = 0; i < count + names->count && !rc; i++) {
		name = i < count ? thmqi_disk_sim_dir_child(&dir->sim->fs, dir->dir, i)
				 : names->list[i - count].name;
		copy[i] = strdup(name);
		rc = copy[i] ? 0 : -ENOMEM;
	}
	for (i = 0; copy[i] && !rc; i++)
		rc = each(arg, copy[i]);
	for (i = 0; copy[i]; i++)
		free(copy[i]);
	free(copy);
	return rc;
}

static int dir_lock(struct thmqi_disk_dir *dir, const char *name, uint64_t *ret_pid)
{
	struct thmqi_disk_sim *sim = dir->sim;
	struct sim_inode *inode;
	struct sim_lock *lock;
	int e;

	if (is_stale(sim, dir->generation))
		return -EIO;
	for (lock = sim->locks; lock; lock = lock->next) {
		if (lock->dir == dir->dir && strcmp(lock->name, name) == 0) {
			*ret_pid = (uint64_t)getpid();
			return -EBUSY;
		}
	}
	e = thmqi_disk_sim_lookup(dir->dir, name)
		    ? 0
		    : thmqi_disk_sim_link(&sim->fs, dir->dir, name, &inode);
	lock = e ? NULL : calloc(1, sizeof(*lock));
	if (!lock)
		return e ? e : -ENOMEM;
	lock->name = strdup(name);
	if (!lock->name) {
		free(lock);
		return -ENOMEM;
	}
	lock->dir = dir->dir;
	lock->holder = dir;
	lock->next = sim->locks;
	sim->locks = lock;
	return 0;
}

static int file_open(struct thmqi_disk_dir *dir, const char *name, bool create,
		     struct thmqi_disk_file **ret_file)
{
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_CREATE, .dir = dir, .name = name};
	struct sim_inode *inode;
	int e;

	if (is_stale(dir->sim, dir->generation))
		return -EIO;
	inode = thmqi_disk_sim_lookup(dir->dir, name);
	if (inode)
		return open_inode(dir->sim, inode, name, ret_file);
	if (!create)
		return -ENOENT;
	e = (int)call(dir->sim, &op);
	if (!e)
		*ret_file = op.file;
	return e;
}

static int64_t file_size(struct thmqi_disk_file *file)
{
	return is_stale(file->sim, file->generation) ? -EIO : (int64_t)file->inode->size;
}

static bool file_direct(struct thmqi_disk_file *file)
{
	(void)file;
	return true;
}

static int64_t file_read(struct thmqi_disk_file *file, void *data, uint32_t len, uint64_t offset)
{
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_READ,
				   .file = file,
				   .data = data,
				   .len = len,
				   .offset = offset};

	return call(file->sim, &op);
}

static int file_write(struct thmqi_disk_file *file, const void *data, uint32_t len, uint64_t offset,
		      bool dsync)
{
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_WRITE,
				   .flags = dsync ? THMQI_DISK_DSYNC : 0,
				   .file = file,
				   .data = (void *)(uintptr_t)data,
				   .len = len,
				   .offset = offset};

	return (int)call(file->sim, &op);
}

static int file_allocate(struct thmqi_disk_file *file, uint64_t len)
{
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_ALLOCATE, .file = file, .offset = len};

	return (int)call(file->sim, &op);
}

static int file_flush(struct thmqi_disk_file *file)
{
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_FLUSH, .file = file};

	return (int)call(file->sim, &op);
}

static int rename_file(struct thmqi_disk_dir *dir, const char *from, const char *to)
{
	struct thmqi_disk_op op = {
		.opcode = THMQI_DISK_RENAME, .dir = dir, .name = from, .name2 = to};

	return (int)call(dir->sim, &op);
}

static int unlink_file(struct thmqi_disk_dir *dir, const char *name)
{
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_UNLINK, .dir = dir, .name = name};

	return (int)call(dir->sim, &op);
}

const struct thmqi_disk_table thmqi_disk_sim = {
	.dir_open = dir_open,
	.dir_close = dir_close,
	.dir_sync = dir_sync,
	.dir_list = dir_list,
	.dir_lock = dir_lock,
	.file_open = file_open,
	.file_close = file_close,
	.file_size = file_size,
	.file_direct = file_direct,
	.file_read = file_read,
	.file_write = file_write,
	.file_allocate = file_allocate,
	.file_flush = file_flush,
	.rename = rename_file,
	.unlink = unlink_file,
	.queue_open = queue_open,
	.queue_close = queue_close,
	.queue_submit = queue_submit,
	.queue_inflight = queue_inflight,
	.queue_wait = queue_wait,
};

/* ----------------------------------------------------------------- power cuts */

void thmqi_disk_sim_happen(struct thmqi_disk_sim *sim, const struct sim_flight *f)
{
	struct thmqi_disk_op volatile_op = *f->op;
	struct sim_flight as_volatile = *f;

	volatile_op.flags &= (uint8_t)~THMQI_DISK_DSYNC;
	as_volatile.op = &volatile_op;
	as_volatile.effect = 0;
	if (perform(sim, &as_volatile) == 0 && volatile_op.opcode == THMQI_DISK_CREATE)
		file_close(volatile_op.file);
}

/* An operation in flight may have happened, as a volatile one, to be kept, lost or torn like the others. */
static void crash_flight(struct thmqi_disk_sim *sim, struct sim_flight *f,
			 enum thmqi_disk_sim_crash_mode mode)
{
	bool happens = mode == THMQI_DISK_SIM_CRASH_KEEP ||
		       (mode != THMQI_DISK_SIM_CRASH_LOSE && (thmqi_prng_next(&sim->prng) & 1));

	if (happens && sim_is_change(f->op->opcode) && !f->dead)
		thmqi_disk_sim_happen(sim, f);
	f->dead = true;
	f->due = sim->room->now;
}

void thmqi_disk_sim_crash_as(struct thmqi_disk_sim *sim, enum thmqi_disk_sim_crash_mode mode)
{
	static const uint8_t modes[] = {THMQI_DISK_SIM_CRASH_LOSE,   THMQI_DISK_SIM_CRASH_KEEP,
					THMQI_DISK_SIM_CRASH_PREFIX, THMQI_DISK_SIM_CRASH_ANY,
					THMQI_DISK_SIM_CRASH_PREFIX, THMQI_DISK_SIM_CRASH_ANY};
	struct thmqi_list *it;
	struct sim_flight *f;

	if (sim->down)
		return;
	if (mode == THMQI_DISK_SIM_CRASH_SEEDED)
		mode = modes[thmqi_prng_below(&sim->prng, THMQI_ARRAY_COUNT(modes))];
	thmqi_list_each(it, &sim->room->queues)
	{
		struct thmqi_disk_queue *q = thmqi_container(it, struct thmqi_disk_queue, link);

		for (f = q->sim == sim ? q->first : NULL; f; f = f->next)
			crash_flight(sim, f, mode);
	}
	if (sim->calling)
		crash_flight(sim, sim->calling, mode);
	thmqi_disk_sim_fs_crash(&sim->fs, mode);
	sim->down = true;
	sim->cut_in = 0;
	sim->stats.crashes++;
}

void thmqi_disk_sim_crash(struct thmqi_disk_sim *sim)
{
	thmqi_disk_sim_crash_as(sim, THMQI_DISK_SIM_CRASH_SEEDED);
}

void thmqi_disk_sim_cut_at(struct thmqi_disk_sim *sim, uint64_t nth,
			   enum thmqi_disk_sim_crash_mode mode)
{
	sim->cut_in = nth;
	sim->cut_mode = mode;
}

bool thmqi_disk_sim_is_down(const struct thmqi_disk_sim *sim)
{
	return sim->down;
}

void thmqi_disk_sim_restart(struct thmqi_disk_sim *sim)
{
	if (!sim->down) {
		thmqi_disk_sim_crash_as(sim, THMQI_DISK_SIM_CRASH_KEEP);
		sim->stats.crashes--;
	}
	thmqi_disk_sim_locks_drop(sim, NULL);
	sim->generation++;
	sim->down = false;
	sim->cut_in = 0;
}
