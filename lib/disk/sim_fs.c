/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_fs.c - the file system of the simulated disk: what is volatile, what is durable, what a power cut leaves. Knows
 * no time, no queues and no faults.
 */
#include "sim_internal.h"

/* ------------------------------------------------------------------- medium */

static bool is_zero(const uint8_t *data, size_t len)
{
	return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0);
}

static void chunk_unref(struct sim_chunk *chunk)
{
	if (chunk && --chunk->refs == 0)
		free(chunk);
}

/* Chunk @i is there, and no copy's. */
static int chunk_own(struct sim_inode *inode, uint32_t i)
{
	struct sim_chunk *was, *own, **grown;
	uint32_t count;

	if (i >= inode->chunk_count) {
		count = (uint32_t)thmqi_pow2_up(i + 1);
		grown = realloc(inode->chunks, count * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		memset(grown + inode->chunk_count, 0,
		       (count - inode->chunk_count) * sizeof(*grown));
		inode->chunks = grown;
		inode->chunk_count = count;
	}
	was = inode->chunks[i];
	if (was && was->refs == 1)
		return 0;
	own = malloc(sizeof(*own));
	if (!own)
		return -ENOMEM;
	own->refs = 1;
	if (was)
		memcpy(own->bytes, was->bytes, SIM_CHUNK);
	else
		memset(own->bytes, 0, SIM_CHUNK);
	chunk_unref(was);
	inode->chunks[i] = own;
	return 0;
}

static int medium_write(struct sim_inode *inode, uint64_t offset, const uint8_t *data, size_t len)
{
	size_t at, part;
	uint32_t i;
	int e;

	for (; len; offset += part, len -= part, data = data ? data + part : NULL) {
		i = (uint32_t)(offset / SIM_CHUNK);
		at = offset % SIM_CHUNK;
		part = THMQI_MIN(len, SIM_CHUNK - at);
		if ((i >= inode->chunk_count || !inode->chunks[i]) &&
		    (!data || is_zero(data, part)))
			continue;
		if (!data && part == SIM_CHUNK) {
			chunk_unref(inode->chunks[i]);
			inode->chunks[i] = NULL;
			continue;
		}
		e = chunk_own(inode, i);
		if (e)
			return e;
		if (data)
			memcpy(inode->chunks[i]->bytes + at, data, part);
		else
			memset(inode->chunks[i]->bytes + at, 0, part);
	}
	return 0;
}

static void medium_read(const struct sim_inode *inode, uint64_t offset, uint8_t *data, size_t len)
{
	size_t at, part;
	uint64_t i;

	for (; len; offset += part, len -= part, data += part) {
		i = offset / SIM_CHUNK;
		at = offset % SIM_CHUNK;
		part = THMQI_MIN(len, SIM_CHUNK - at);
		if (i < inode->chunk_count && inode->chunks[i])
			memcpy(data, inode->chunks[i]->bytes + at, part);
		else
			memset(data, 0, part);
	}
}

/* ----------------------------------------------------------- volatile writes */

static bool is_dead(const struct sim_pending *p, uint32_t sector)
{
	return p->dead[sector / 64] >> (sector % 64) & 1;
}

static struct sim_pending *pending_make(uint64_t offset, const void *data, uint32_t len)
{
	uint32_t words = (len / SIM_SECTOR + 63) / 64;
	struct sim_pending *p = calloc(1, sizeof(*p) + words * sizeof(p->dead[0]));

	if (!p)
		return NULL;
	p->offset = offset;
	p->len = len;
	if (is_zero(data, len))
		return p;
	p->data = malloc(sizeof(*p->data) + len);
	if (!p->data) {
		free(p);
		return NULL;
	}
	p->data->refs = 1;
	memcpy(p->data->bytes, data, len);
	return p;
}

static void pending_free(struct sim_pending *p)
{
	if (p->data && --p->data->refs == 0)
		free(p->data);
	free(p);
}

/* Sectors from … to of the write reach the medium, those that are not dead. */
static void pending_apply(struct sim_inode *inode, const struct sim_pending *p, uint32_t from,
			  uint32_t to)
{
	uint32_t end;

	for (; from < to; from = end) {
		end = from + 1;
		if (is_dead(p, from))
			continue;
		while (end < to && !is_dead(p, end))
			end++;
		medium_write(inode, p->offset + (uint64_t)from * SIM_SECTOR,
			     p->data ? p->data->bytes + (size_t)from * SIM_SECTOR : NULL,
			     (size_t)(end - from) * SIM_SECTOR);
	}
}

/* A durable write of [offset, offset + len) replaces what older volatile ones have there. */
static void pendings_trim(struct sim_inode *inode, uint64_t offset, uint32_t len)
{
	uint64_t from, to;

	for (struct sim_pending *p = inode->first; p; p = p->next) {
		from = THMQI_MAX(offset, p->offset);
		to = THMQI_MIN(offset + len, p->offset + p->len);
		for (; from < to; from += SIM_SECTOR) {
			uint32_t sector = (uint32_t)((from - p->offset) / SIM_SECTOR);

			p->dead[sector / 64] |= 1ull << (sector % 64);
		}
	}
}

int thmqi_disk_sim_inode_grow(struct sim_fs *fs, struct sim_inode *inode, uint64_t size)
{
	if (size <= inode->size)
		return 0;
	if (fs->capacity && size - inode->size > fs->capacity - THMQI_MIN(fs->bytes, fs->capacity))
		return fs->capacity_error;
	fs->bytes += size - inode->size;
	inode->size = size;
	return 0;
}

int thmqi_disk_sim_inode_write(struct sim_fs *fs, struct sim_inode *inode, uint64_t offset,
			       const void *data, uint32_t len, bool durable)
{
	struct sim_pending *p;
	int e = thmqi_disk_sim_inode_grow(fs, inode, offset + len);

	if (e || !len)
		return e;
	if (durable && !fs->lying) {
		e = medium_write(inode, offset, data, len);
		if (e)
			return e;
		pendings_trim(inode, offset, len);
		inode->durable_size = THMQI_MAX(inode->durable_size, offset + len);
		return 0;
	}
	p = pending_make(offset, data, len);
	if (!p)
		return -ENOMEM;
	p->seq = fs->seq++;
	*inode->last = p;
	inode->last = &p->next;
	return 0;
}

uint32_t thmqi_disk_sim_inode_read(const struct sim_inode *inode, uint64_t offset, void *data,
				   uint32_t len)
{
	uint64_t from, to;

	if (offset >= inode->size)
		return 0;
	len = (uint32_t)THMQI_MIN(len, inode->size - offset);
	medium_read(inode, offset, data, len);
	for (struct sim_pending *p = inode->first; p; p = p->next) {
		from = THMQI_MAX(offset, p->offset);
		to = THMQI_MIN(offset + len, p->offset + p->len);
		for (; from < to; from += SIM_SECTOR) {
			if (is_dead(p, (uint32_t)((from - p->offset) / SIM_SECTOR)))
				continue;
			if (p->data)
				memcpy((uint8_t *)data + (from - offset),
				       p->data->bytes + (from - p->offset),
				       THMQI_MIN(SIM_SECTOR, to - from));
			else
				memset((uint8_t *)data + (from - offset), 0,
				       THMQI_MIN(SIM_SECTOR, to - from));
		}
	}
	return len;
}

void thmqi_disk_sim_inode_flush(struct sim_fs *fs, struct sim_inode *inode, uint64_t seq,
				uint64_t size)
{
	struct sim_pending **at = &inode->first, *p;

	if (fs->lying)
		return;
	inode->durable_size = THMQI_MAX(inode->durable_size, size);
	while ((p = *at)) {
		if (p->seq >= seq) {
			at = &p->next;
			continue;
		}
		pending_apply(inode, p, 0, p->len / SIM_SECTOR);
		*at = p->next;
		pending_free(p);
	}
	inode->last = at;
}

int thmqi_disk_sim_inode_flip(struct sim_inode *inode, uint64_t offset, uint32_t bit)
{
	struct sim_pending *found = NULL;
	struct sim_data *own;
	uint8_t byte;

	for (struct sim_pending *p = inode->first; p; p = p->next) {
		if (offset >= p->offset && offset - p->offset < p->len &&
		    !is_dead(p, (uint32_t)((offset - p->offset) / SIM_SECTOR)))
			found = p;
	}
	if (!found) {
		medium_read(inode, offset, &byte, 1);
		byte ^= (uint8_t)(1u << bit);
		if (byte)
			return medium_write(inode, offset, &byte, 1);
		return medium_write(inode, offset, NULL, 1);
	}
	own = malloc(sizeof(*own) + found->len);
	if (!own)
		return -ENOMEM;
	own->refs = 1;
	if (found->data)
		memcpy(own->bytes, found->data->bytes, found->len);
	else
		memset(own->bytes, 0, found->len);
	if (found->data && --found->data->refs == 0)
		free(found->data);
	found->data = own;
	own->bytes[offset - found->offset] ^= (uint8_t)(1u << bit);
	return 0;
}

static struct sim_inode *inode_make(struct sim_fs *fs)
{
	struct sim_inode *inode = calloc(1, sizeof(*inode));

	if (!inode)
		return NULL;
	inode->last = &inode->first;
	thmqi_list_add_tail(&fs->inodes, &inode->link);
	return inode;
}

void thmqi_disk_sim_inode_unref(struct sim_fs *fs, struct sim_inode *inode)
{
	struct sim_pending *p;

	if (--inode->refs)
		return;
	while ((p = inode->first)) {
		inode->first = p->next;
		pending_free(p);
	}
	for (uint32_t i = 0; i < inode->chunk_count; i++)
		chunk_unref(inode->chunks[i]);
	free(inode->chunks);
	fs->bytes -= inode->size;
	thmqi_list_del(&inode->link);
	free(inode);
}

/* -------------------------------------------------------------------- names */

static struct sim_name *names_find(const struct sim_names *names, const char *name)
{
	for (uint32_t i = 0; i < names->count; i++) {
		if (strcmp(names->list[i].name, name) == 0)
			return &names->list[i];
	}
	return NULL;
}

static void names_remove(struct sim_fs *fs, struct sim_names *names, const char *name)
{
	struct sim_name *n = names_find(names, name);
	struct sim_inode *inode;

	if (!n)
		return;
	inode = n->inode;
	free(n->name);
	*n = names->list[--names->count];
	thmqi_disk_sim_inode_unref(fs, inode);
}

static int names_set(struct sim_fs *fs, struct sim_names *names, const char *name,
		     struct sim_inode *inode)
{
	struct sim_name *n = names_find(names, name), *grown;
	uint32_t room;

	inode->refs++;
	if (n) {
		thmqi_disk_sim_inode_unref(fs, n->inode);
		n->inode = inode;
		return 0;
	}
	if (names->count == names->room) {
		room = names->room ? names->room * 2 : 8;
		grown = realloc(names->list, room * sizeof(*grown));
		if (!grown)
			goto no_memory;
		names->list = grown;
		names->room = room;
	}
	names->list[names->count].name = strdup(name);
	if (!names->list[names->count].name)
		goto no_memory;
	names->list[names->count++].inode = inode;
	return 0;
no_memory:
	inode->refs--;
	return -ENOMEM;
}

static int names_apply(struct sim_fs *fs, struct sim_names *names, const struct sim_change *c)
{
	struct sim_name *from;
	int e = 0;

	if (c->to)
		e = names_set(fs, names, c->to, c->inode);
	if (e || !c->from)
		return e;
	/* after a cut that kept a change and lost an older one the name may be another file's */
	from = names_find(names, c->from);
	if (from && from->inode == c->inode)
		names_remove(fs, names, c->from);
	return 0;
}

static void change_free(struct sim_fs *fs, struct sim_change *c)
{
	thmqi_disk_sim_inode_unref(fs, c->inode);
	free(c->from);
	free(c->to);
	free(c);
}

/* Make the change visible now, and durable at the next flush of @dir. */
static int change(struct sim_fs *fs, struct sim_dir *dir, const char *from, const char *to,
		  struct sim_inode *inode)
{
	struct sim_change *c = calloc(1, sizeof(*c));
	int e = -ENOMEM;

	if (!c)
		return e;
	inode->refs++;
	c->inode = inode;
	c->from = from ? strdup(from) : NULL;
	c->to = to ? strdup(to) : NULL;
	if ((!from || c->from) && (!to || c->to))
		e = names_apply(fs, &dir->names, c);
	if (e) {
		change_free(fs, c);
		return e;
	}
	c->seq = fs->seq++;
	*dir->last = c;
	dir->last = &c->next;
	return 0;
}

struct sim_inode *thmqi_disk_sim_lookup(const struct sim_dir *dir, const char *name)
{
	struct sim_name *n = names_find(&dir->names, name);

	return n ? n->inode : NULL;
}

int thmqi_disk_sim_link(struct sim_fs *fs, struct sim_dir *dir, const char *name,
			struct sim_inode **ret_inode)
{
	struct sim_inode *inode;
	int e;

	if (strlen(name) > 255 || strchr(name, '/') || !name[0])
		return -EINVAL;
	inode = inode_make(fs);
	if (!inode)
		return -ENOMEM;
	inode->refs = 1;
	e = change(fs, dir, NULL, name, inode);
	if (!e)
		*ret_inode = inode;
	thmqi_disk_sim_inode_unref(fs, inode);
	return e;
}

int thmqi_disk_sim_unlink(struct sim_fs *fs, struct sim_dir *dir, const char *name)
{
	struct sim_inode *inode = thmqi_disk_sim_lookup(dir, name);

	return inode ? change(fs, dir, name, NULL, inode) : -ENOENT;
}

int thmqi_disk_sim_rename(struct sim_fs *fs, struct sim_dir *dir, const char *from, const char *to)
{
	struct sim_inode *inode = thmqi_disk_sim_lookup(dir, from);

	if (!inode)
		return -ENOENT;
	if (strlen(to) > 255 || strchr(to, '/') || !to[0])
		return -EINVAL;
	return strcmp(from, to) == 0 ? 0 : change(fs, dir, from, to, inode);
}

void thmqi_disk_sim_dir_flush(struct sim_fs *fs, struct sim_dir *dir, uint64_t seq)
{
	struct sim_change *c;

	while (!fs->lying && (c = dir->first) && c->seq < seq) {
		names_apply(fs, &dir->durable, c);
		dir->first = c->next;
		if (!dir->first)
			dir->last = &dir->first;
		change_free(fs, c);
	}
}

/* -------------------------------------------------------------- directories */

/* Without doubled and trailing slashes, and without "./" at the begin. */
static char *normal_path(const char *path)
{
	char *out = malloc(strlen(path) + 2), *at = out;

	if (!out)
		return NULL;
	while (path[0] == '.' && path[1] == '/') {
		for (path += 2; *path == '/';)
			path++;
	}
	for (; *path; path++) {
		if (*path != '/' || at == out || at[-1] != '/')
			*at++ = *path;
	}
	if (at - out > 1 && at[-1] == '/')
		at--;
	if (at == out)
		*at++ = '.';
	*at = 0;
	return out;
}

static struct sim_dir *dir_find(struct sim_fs *fs, const char *path)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &fs->dirs)
	{
		struct sim_dir *dir = thmqi_container(it, struct sim_dir, link);

		if (strcmp(dir->path, path) == 0)
			return dir;
	}
	return NULL;
}

static struct sim_dir *dir_make(struct sim_fs *fs, const char *path)
{
	struct sim_dir *dir = calloc(1, sizeof(*dir));

	if (!dir)
		return NULL;
	dir->path = strdup(path);
	if (!dir->path) {
		free(dir);
		return NULL;
	}
	dir->last = &dir->first;
	thmqi_list_add_tail(&fs->dirs, &dir->link);
	return dir;
}

struct sim_dir *thmqi_disk_sim_dir_get(struct sim_fs *fs, const char *path, bool create)
{
	char *normal = normal_path(path), *slash;
	struct sim_dir *dir;

	if (!normal)
		return NULL;
	dir = dir_find(fs, normal);
	if (!dir && create) {
		slash = strchr(normal + 1, '/');
		for (; slash; slash = strchr(slash + 1, '/')) {
			*slash = 0;
			if (!dir_find(fs, normal))
				dir_make(fs, normal);
			*slash = '/';
		}
		dir = dir_make(fs, normal);
	}
	free(normal);
	return dir;
}

const char *thmqi_disk_sim_dir_child(struct sim_fs *fs, const struct sim_dir *dir, uint32_t i)
{
	size_t len = strlen(dir->path);
	struct thmqi_list *it;
	const char *rest;

	thmqi_list_each(it, &fs->dirs)
	{
		rest = thmqi_container(it, struct sim_dir, link)->path;
		if (strcmp(dir->path, ".") == 0) {
			if (rest[0] == '/' || strcmp(rest, ".") == 0 || strchr(rest, '/'))
				continue;
		} else {
			if (strncmp(rest, dir->path, len) != 0 || rest[len] != '/' ||
			    strchr(rest + len + 1, '/'))
				continue;
			rest += len + 1;
		}
		if (i-- == 0)
			return rest;
	}
	return NULL;
}

/* --------------------------------------------------------------- power cuts */

/* A sector that was being written when the power went may hold anything. */
static void garble(struct sim_fs *fs, struct sim_inode *inode, const struct sim_pending *p,
		   uint32_t sector)
{
	uint64_t noise[SIM_SECTOR / 8];

	if (is_dead(p, sector))
		return;
	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(noise); i++)
		noise[i] = thmqi_prng_next(fs->prng);
	medium_write(inode, p->offset + (uint64_t)sector * SIM_SECTOR, (const uint8_t *)noise,
		     sizeof(noise));
}

/* One volatile write meets the cut. @torn: some of its sectors, else all or none. */
static void crash_write(struct sim_fs *fs, struct sim_inode *inode, struct sim_pending *p,
			bool keep, bool torn)
{
	uint32_t sectors = p->len / SIM_SECTOR, cut;

	if (torn && sectors > 1) {
		fs->torn++;
		cut = 1 + (uint32_t)thmqi_prng_below(fs->prng, sectors - 1);
		switch (thmqi_prng_below(fs->prng, fs->garbling ? 4 : 3)) {
		case 0: /* up to a point */
			pending_apply(inode, p, 0, cut);
			break;
		case 3:
			pending_apply(inode, p, 0, cut);
			garble(fs, inode, p, cut);
			break;
		case 1: /* from a point */
			pending_apply(inode, p, cut, sectors);
			break;
		default: /* a device writes in any order */
			for (uint32_t i = 0; i < sectors; i++) {
				if (thmqi_prng_next(fs->prng) & 1)
					pending_apply(inode, p, i, i + 1);
			}
		}
	} else if (keep) {
		fs->kept++;
		pending_apply(inode, p, 0, sectors);
	} else {
		fs->lost++;
	}
}

static uint64_t crash_size(struct sim_fs *fs, const struct sim_inode *inode,
			   enum thmqi_disk_sim_crash_mode mode)
{
	uint64_t sectors;

	if (mode == THMQI_DISK_SIM_CRASH_LOSE || inode->size <= inode->durable_size)
		return inode->durable_size;
	if (mode == THMQI_DISK_SIM_CRASH_KEEP)
		return inode->size;
	switch (thmqi_prng_below(fs->prng, 3)) {
	case 0:
		return inode->durable_size;
	case 1:
		return inode->size;
	default:
		sectors = (inode->size - inode->durable_size) / SIM_SECTOR;
		return inode->durable_size + SIM_SECTOR * thmqi_prng_below(fs->prng, sectors + 1);
	}
}

static void crash_inode(struct sim_fs *fs, struct sim_inode *inode,
			enum thmqi_disk_sim_crash_mode mode, uint64_t until)
{
	uint64_t size = crash_size(fs, inode, mode);
	struct sim_pending *p;

	while ((p = inode->first)) {
		bool keep = false, torn = false;

		switch (mode) {
		case THMQI_DISK_SIM_CRASH_KEEP:
			keep = true;
			break;
		case THMQI_DISK_SIM_CRASH_PREFIX:
			keep = p->seq < until;
			torn = p->seq == until;
			break;
		case THMQI_DISK_SIM_CRASH_ANY:
			torn = thmqi_prng_below(fs->prng, 4) == 0;
			keep = thmqi_prng_next(fs->prng) & 1;
			break;
		default:
			break;
		}
		crash_write(fs, inode, p, keep, torn);
		inode->first = p->next;
		pending_free(p);
	}
	inode->last = &inode->first;
	if (size < inode->size)
		medium_write(inode, size, NULL, inode->size - size);
	fs->bytes -= inode->size - size;
	inode->size = inode->durable_size = size;
}

static void crash_dir(struct sim_fs *fs, struct sim_dir *dir, enum thmqi_disk_sim_crash_mode mode,
		      uint64_t until)
{
	struct sim_change *c;
	bool keep;

	while ((c = dir->first)) {
		keep = mode == THMQI_DISK_SIM_CRASH_KEEP ||
		       (mode == THMQI_DISK_SIM_CRASH_PREFIX && c->seq <= until) ||
		       (mode == THMQI_DISK_SIM_CRASH_ANY && (thmqi_prng_next(fs->prng) & 1));
		if (keep)
			names_apply(fs, &dir->durable, c);
		dir->first = c->next;
		change_free(fs, c);
	}
	dir->last = &dir->first;
	while (dir->names.count)
		names_remove(fs, &dir->names, dir->names.list[0].name);
	for (uint32_t i = 0; i < dir->durable.count; i++)
		names_set(fs, &dir->names, dir->durable.list[i].name, dir->durable.list[i].inode);
}

/* Oldest thing that is volatile; fs->seq if nothing is. */
static uint64_t oldest_volatile(const struct sim_fs *fs)
{
	uint64_t oldest = fs->seq;
	struct thmqi_list *it;

	thmqi_list_each(it, &fs->inodes)
	{
		struct sim_pending *p = thmqi_container(it, struct sim_inode, link)->first;

		for (; p; p = p->next)
			oldest = THMQI_MIN(oldest, p->seq);
	}
	thmqi_list_each(it, &fs->dirs)
	{
		struct sim_change *c = thmqi_container(it, struct sim_dir, link)->first;

		if (c)
			oldest = THMQI_MIN(oldest, c->seq);
	}
	return oldest;
}

void thmqi_disk_sim_fs_crash(struct sim_fs *fs, enum thmqi_disk_sim_crash_mode mode)
{
	uint64_t oldest = oldest_volatile(fs);
	uint64_t until = oldest + thmqi_prng_below(fs->prng, fs->seq - oldest + 1);
	struct thmqi_list *it, *next;

	thmqi_list_each(it, &fs->inodes)
	{
		crash_inode(fs, thmqi_container(it, struct sim_inode, link), mode, until);
	}
	thmqi_list_each_safe(it, next, &fs->dirs)
	{
		crash_dir(fs, thmqi_container(it, struct sim_dir, link), mode, until);
	}
}

/* --------------------------------------------------------------- begin, end */

void thmqi_disk_sim_fs_init(struct sim_fs *fs, struct thmqi_prng *prng)
{
	thmqi_list_init(&fs->dirs);
	thmqi_list_init(&fs->inodes);
	fs->prng = prng;
}

static void names_fini(struct sim_fs *fs, struct sim_names *names)
{
	while (names->count)
		names_remove(fs, names, names->list[0].name);
	free(names->list);
}

void thmqi_disk_sim_fs_fini(struct sim_fs *fs)
{
	struct sim_dir *dir;
	struct sim_change *c;

	while (!thmqi_list_empty(&fs->dirs)) {
		dir = thmqi_list_first(&fs->dirs, struct sim_dir, link);
		while ((c = dir->first)) {
			dir->first = c->next;
			change_free(fs, c);
		}
		names_fini(fs, &dir->names);
		names_fini(fs, &dir->durable);
		thmqi_list_del(&dir->link);
		free(dir->path);
		free(dir);
	}
}
