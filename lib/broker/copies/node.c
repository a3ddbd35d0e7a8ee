/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.c - whose copy a directory is, and which directories the other brokers of the cluster had when they were met: so that one that
 * was emptied, or is an older copy of itself, or two with one number, are not let in by those that know better. They have forgotten what
 * they voted for. Kept in the file `node`: doc/format.md. Knows nothing of shards, and not how brokers meet.
 */
#include <stdio.h>

#include "lead.h"
#include "node.h"

#define NODE_MAGIC 0x31444f4eu /* "NOD1" */
#define NODE_VERSION 3u
#define PEERS_MAX 32u
#define SLOTS 2u /* of one block each, written in turns */

struct node_peer {
	uint64_t id; /* 0: none */
	struct thmqi_node_mark mark;
};

struct node_file {
	uint32_t magic;
	uint16_t version;
	uint16_t made; /* 1: all copies were made, and are there */
	uint64_t id;
	uint8_t cluster[16];
	struct thmqi_node_mark own;
	struct node_peer peers[PEERS_MAX]; /* those that were met last are first */
	uint32_t known; /* 1: all others that vote have met it: it may vote. As of version 2, before it is taken to be so */
	uint32_t crc;   /* CRC32C of all before it. As of version 3 this is 0, and the one below counts */
	uint64_t number; /* how often it was written; as of version 3, and likewise what follows */
	uint32_t reserved;
	uint32_t crc3; /* CRC32C of all before it */
};
_Static_assert(sizeof(struct node_file) == 32 + 24 + PEERS_MAX * 32 + 24 &&
		       sizeof(struct node_file) <= THMQI_BLOCK,
	       "as in doc/format.md");

struct node {
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *dir;
	pthread_mutex_t lock; /* of what follows: brokers are met on any core */
	struct node_file file;
	struct thmqi_members placed; /* in memory only */
	uint32_t placed_next;
	uint32_t list; /* thmqi_node_list() */
};

/* --------------------------------------------------------------------- file */

static bool is_sound(const struct node_file *f)
{
	if (f->magic != NODE_MAGIC)
		return false;
	return f->version < 3 ? f->crc == thmqi_crc32c(0, f, offsetof(struct node_file, crc)) :
				f->crc3 == thmqi_crc32c(0, f, offsetof(struct node_file, crc3));
}

/* The slot that was written last. One that was being written when the power went is not sound, and the one before it is. */
static int choose(struct node *n, const uint8_t *slots)
{
	const struct node_file *f, *is = NULL;
	uint32_t i;

	for (i = 0; i < SLOTS; i++) {
		f = (const void *)(slots + i * THMQI_BLOCK);
		if (is_sound(f) && (!is || f->number > is->number))
			is = f;
	}
	if (!is)
		return -THMQ_ECORRUPT;
	if (!is->version || is->version > NODE_VERSION)
		return -THMQ_EVERSION;
	n->file = *is;
	if (is->version == 1)
		n->file.known = 1;
	if (is->version < 3) /* it has one slot, and is made anew */
		n->file.number = n->file.crc = 0;
	n->file.version = NODE_VERSION;
	return 0;
}

/* 0; -ENOENT; -THMQ_ECORRUPT; -THMQ_EVERSION; an error of the device */
static int load(struct node *n)
{
	struct thmqi_disk_file *file;
	int rc = n->disk->file_open(n->dir, "node", false, &file);
	uint8_t *slots;
	int64_t got;

	if (rc)
		return rc;
	slots = aligned_alloc(THMQI_BLOCK, SLOTS * THMQI_BLOCK);
	if (!slots) {
		n->disk->file_close(file);
		return -ENOMEM;
	}
	memset(slots, 0, SLOTS * THMQI_BLOCK);
	got = n->disk->file_read(file, slots, SLOTS * THMQI_BLOCK, 0);
	n->disk->file_close(file);
	rc = got < 0 ? (int)got : choose(n, slots);
	free(slots);
	return rc;
}

/* All slots are the same, and all of the file is there or nothing. */
static int make(struct node *n, const void *block)
{
	const struct thmqi_disk_table *disk = n->disk;
	struct thmqi_disk_file *file;
	uint32_t i;
	int rc = disk->file_open(n->dir, "node.tmp", true, &file);

	if (rc)
		return rc;
	for (i = 0; i < SLOTS && !rc; i++)
		rc = disk->file_write(file, block, THMQI_BLOCK, i * THMQI_BLOCK, false);
	rc = rc ? rc : disk->file_flush(file);
	disk->file_close(file);
	rc = rc ? rc : disk->rename(n->dir, "node.tmp", "node");
	return rc ? rc : disk->dir_sync(n->dir);
}

/* Takes no room: a file system without any is no reason not to open. The other slot stays what it is. */
static int overwrite(struct node *n, const void *block)
{
	const struct thmqi_disk_table *disk = n->disk;
	struct thmqi_disk_file *file;
	int rc = disk->file_open(n->dir, "node", false, &file);

	if (rc)
		return rc;
	rc = disk->file_write(file, block, THMQI_BLOCK, n->file.number % SLOTS * THMQI_BLOCK, false);
	rc = rc ? rc : disk->file_flush(file);
	disk->file_close(file);
	return rc;
}

/* In place of the one before last, or not at all. */
static int store(struct node *n)
{
	bool is_first = !n->file.number;
	void *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	int rc;

	if (!block)
		return -ENOMEM;
	n->file.number++;
	n->file.crc3 = thmqi_crc32c(0, &n->file, offsetof(struct node_file, crc3));
	memset(block, 0, THMQI_BLOCK);
	memcpy(block, &n->file, sizeof(n->file));
	rc = is_first ? make(n, block) : overwrite(n, block);
	if (rc) /* the next one writes the same slot: the other one is sound */
		n->file.number--;
	free(block);
	return rc;
}

/* --------------------------------------------------------------------- open */

static int check(const struct thmq_broker *b, const struct node_file *f)
{
	if (f->id != b->opts.node_id)
		return thmqi_fail(-EINVAL, "open %s: it is the directory of node %llu, and not of node %llu", b->data_dir,
				  (unsigned long long)f->id, (unsigned long long)b->opts.node_id);
	if (memcmp(f->cluster, b->cluster_id, sizeof(f->cluster)) != 0)
		return thmqi_fail(-THMQ_ECORRUPT, "open %s: it is of another cluster, or one with another number of shards", b->data_dir);
	if (f->made && !b->has_meta)
		return thmqi_fail(-THMQ_ECORRUPT,
				  "open %s: its copies are missing, so that this broker may no longer vote: remove it from its cluster, "
				  "and let it join anew with an empty directory and another node_id",
				  b->data_dir);
	return 0;
}

static uint32_t list_of(const struct thmq_broker *b)
{
	const struct thmqi_members *m = b->cluster;
	uint64_t hash = 0;
	uint32_t i;

	for (i = 0; i < m->count; i++) {
		const struct thmqi_member *one = &m->list[i];
		const uint64_t words[3] = {hash, one->id, thmqi_hash64(one->address, strlen(one->address))};

		hash = thmqi_hash64(words, sizeof(words));
	}
	return (uint32_t)hash | 1;
}

/* It was never opened, or by nobody who kept this, or it is a copy that was made while it was open. */
static int begin(struct thmq_broker *b, struct node_file *f)
{
	*f = (struct node_file){.magic = NODE_MAGIC, .version = NODE_VERSION, .id = b->opts.node_id, .known = b->has_meta};
	memcpy(f->cluster, b->cluster_id, sizeof(f->cluster));
	return thmqi_random_bytes(&f->own.directory, sizeof(f->own.directory));
}

int thmqi_node_open(struct thmq_broker *b)
{
	struct node *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return thmqi_fail(-ENOMEM, "no memory for a broker");
	pthread_mutex_init(&n->lock, NULL);
	n->disk = b->disk;
	n->dir = b->dir;
	b->node = n;
	rc = load(n);
	if (rc == -ENOENT)
		rc = begin(b, &n->file);
	else if (rc == -THMQ_ECORRUPT)
		return thmqi_fail(rc,
				  "open %s: the file node is damaged, so that nobody knows whose copy this is: remove this broker from its "
				  "cluster, and let it join anew with an empty directory and another node_id",
				  b->data_dir);
	else if (!rc && (rc = check(b, &n->file)) != 0)
		return rc;
	rc = rc ? rc : thmqi_random_bytes(&n->file.own.opening, sizeof(n->file.own.opening));
	n->file.own.directory |= 1; /* 0 says that nobody knows */
	n->file.own.life++;
	if (!n->file.known && !(b->opts.flags & THMQ_BROKER_JOIN))
		n->list = list_of(b);
	rc = rc ? rc : store(n);
	return rc ? thmqi_fail(rc, "open %s/node: %s", b->data_dir, thmq_strerror(rc)) : 0;
}

int thmqi_node_made(struct thmq_broker *b)
{
	struct node *n = b->node;
	int rc;

	if (n->file.made)
		return 0;
	pthread_mutex_lock(&n->lock);
	n->file.made = 1;
	rc = store(n);
	pthread_mutex_unlock(&n->lock);
	return rc ? thmqi_fail(rc, "write %s/node: %s", b->data_dir, thmq_strerror(rc)) : 0;
}

void thmqi_node_close(struct thmq_broker *b)
{
	if (!b->node)
		return;
	pthread_mutex_destroy(&b->node->lock);
	free(b->node);
	b->node = NULL;
}

/* -------------------------------------------------------------------- place */

void thmqi_node_place(struct thmq_broker *b, const struct thmqi_members *members)
{
	struct node *n = b->node;
	struct thmqi_members *to = &n->placed;
	const struct thmqi_member *found;
	uint32_t i, k;

	pthread_mutex_lock(&n->lock);
	for (i = 0; i < members->count; i++) {
		found = thmqi_members_find(to, members->list[i].id);
		k = found ? (uint32_t)(found - to->list) : to->count;
		if (k == THMQI_MEMBERS_MAX)
			k = n->placed_next++ % THMQI_MEMBERS_MAX;
		to->list[k] = members->list[i];
		to->count = THMQI_MAX(to->count, k + 1);
	}
	pthread_mutex_unlock(&n->lock);
}

bool thmqi_node_placed(struct thmq_broker *b, uint64_t id, struct thmqi_member *ret)
{
	const struct thmqi_member *found;
	struct node *n = b->node;

	pthread_mutex_lock(&n->lock);
	found = thmqi_members_find(&n->placed, id);
	if (found)
		*ret = *found;
	pthread_mutex_unlock(&n->lock);
	return found != NULL;
}

void thmqi_node_hear(struct thmq_broker *b, struct thmq_broker *from)
{
	struct thmqi_members one = {.count = 1};

	if (!thmqi_node_placed(b, from->opts.node_id, &one.list[0]) && thmqi_node_placed(from, from->opts.node_id, &one.list[0]))
		thmqi_node_place(b, &one);
}

/* --------------------------------------------------------------------- meet */

const struct thmqi_node_mark *thmqi_node_mark(const struct thmq_broker *b)
{
	return &b->node->file.own; /* as it was since the open */
}

uint32_t thmqi_node_list(const struct thmq_broker *b)
{
	return b->node->list; /* so, too */
}

/* Return: 1 it is news; 0; -ENOTUNIQ */
static int compare(const struct thmqi_node_mark *known, const struct thmqi_node_mark *now)
{
	if (known->directory != now->directory || now->life < known->life)
		return -ENOTUNIQ;
	if (now->life > known->life)
		return 1;
	return now->opening == known->opening ? 0 : -ENOTUNIQ;
}

/*
 * Whose place another one gets: who was met longest ago, and is none of the cluster. Numbers come and go, and those that stay are seldom met anew.
 * PEERS_MAX: nobody's, since it is not known yet who is of the cluster: one of it that is forgotten would be let in with an empty directory, and vote again.
 */
static uint32_t place_of_stranger(const struct thmq_broker *b, const struct node_file *f)
{
	uint32_t i;

	for (i = PEERS_MAX; i; i--)
		if (!thmqi_roll_has(b, f->peers[i - 1].id))
			return i - 1;
	return PEERS_MAX;
}

static void remember(struct node_file *f, uint32_t at, uint64_t id, const struct thmqi_node_mark *mark)
{
	memmove(&f->peers[1], &f->peers[0], at * sizeof(f->peers[0]));
	f->peers[0] = (struct node_peer){.id = id, .mark = *mark};
}

int thmqi_node_meet(void *broker, uint64_t id, const struct thmqi_node_mark *mark, uint32_t list)
{
	struct node *n = ((struct thmq_broker *)broker)->node;
	uint32_t i, place;
	int rc;

	if (list && n->list && list != n->list)
		return -EREMCHG; /* and it was not met: once it is mended it may come with a directory that is new */
	pthread_mutex_lock(&n->lock);
	for (i = 0; i < PEERS_MAX && n->file.peers[i].id && n->file.peers[i].id != id; i++)
		;
	if (i < PEERS_MAX && n->file.peers[i].id)
		rc = compare(&n->file.peers[i].mark, mark);
	else
		rc = mark->directory != 0;
	place = rc == 1 && i == PEERS_MAX ? place_of_stranger(broker, &n->file) : i;
	if (rc == 1 && place == PEERS_MAX) {
		rc = -EAGAIN;
	} else if (rc == 1) {
		remember(&n->file, place, id, mark);
		/* where it cannot be stored now it is known as long as this broker is open: to be cut off from the others is worse */
		store(n);
		rc = 0;
	}
	pthread_mutex_unlock(&n->lock);
	return rc;
}

bool thmqi_node_is_new(struct thmq_broker *b)
{
	bool is_new;

	pthread_mutex_lock(&b->node->lock);
	is_new = !b->node->file.known;
	pthread_mutex_unlock(&b->node->lock);
	return is_new;
}

/* Where it cannot be stored now each of its groups hears of all others again, in its next life. */
void thmqi_node_known(struct thmq_broker *b)
{
	struct node *n = b->node;

	pthread_mutex_lock(&n->lock);
	if (!n->file.known) {
		n->file.known = 1;
		store(n);
	}
	pthread_mutex_unlock(&n->lock);
}
