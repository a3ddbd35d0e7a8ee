/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.c - the keys of a segment while it fills: by hash, newest first. Runs that do not say that they have keys cost
 * nothing; chunks go from a segment that got its index to the next one.
 */
#include <sys/mman.h>

#include "keys.h"

static uint64_t hash_of(uint64_t partition_hash, const void *key, uint32_t len)
{
	return thmqi_hash64(key, len) ^ partition_hash;
}

uint64_t thmqi_key_hash(uint32_t partition, const void *key, uint32_t len)
{
	return hash_of(thmqi_hash64(&partition, sizeof(partition)), key, len);
}

static struct key_chunk *chunk_get(struct thmq_log *log)
{
	struct key_chunk *c = log->key_chunks;

	if (c) {
		log->key_chunks = c->older;
		memset(c, 0, offsetof(struct key_chunk, before));
		return c;
	}
	c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return c == MAP_FAILED ? NULL : c;
}

static void chunk_put(struct thmq_log *log, struct key_chunk *c)
{
	c->older = log->key_chunks;
	log->key_chunks = c;
}

static bool grow(struct thmq_log *log, struct keys *k)
{
	struct key_chunk *c = chunk_get(log);

	if (!c)
		return false;
	c->older = k->newest;
	if (k->newest)
		k->newest->newer = c;
	else
		k->oldest = c;
	k->newest = c;
	return true;
}

void thmqi_keys_put(struct thmq_log *log, struct segment *s, const struct key *key)
{
	struct keys *k = &s->keys;
	struct key_chunk *c;
	uint16_t *head;

	if (k->missing)
		return;
	if (k->count == KEYS_MAX || (log->defects & THMQI_LOG_NO_KEYS) ||
	    ((!k->newest || k->newest->count == KEY_CHUNK) && !grow(log, k))) {
		thmqi_seal_drop_part(log);
		thmqi_keys_drop(log, s);
		k->missing = true;
		return;
	}
	c = k->newest;
	head = thmqi_key_head(c, key->hash);
	c->keys[c->count] = *key;
	c->before[c->count] = *head;
	*head = (uint16_t)++c->count;
	k->count++;
}

void thmqi_keys_note(struct thmq_log *log, struct segment *s, const struct thmq_run_header *run,
		     uint32_t at)
{
	uint64_t partition = thmqi_hash64(&run->partition, sizeof(run->partition));
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	struct key key = {.batch = s->batch_count,
			  .at = at | ((run->flags & THMQ_RUN_RELOCATED) != 0)};

	if (thmqi_record_begin(&it, run) != 0)
		return;
	while (thmqi_record_next(&it, &v) == 1) {
		if (!v.key_len)
			continue;
		key.hash = hash_of(partition, v.key, v.key_len);
		key.offset = v.offset;
		key.time_ns = v.time_ns;
		thmqi_keys_put(log, s, &key);
	}
}

void thmqi_keys_drop(struct thmq_log *log, struct segment *s)
{
	struct keys *k = &s->keys;

	if (k->oldest) { /* all at once: the oldest is the last of the list */
		k->oldest->older = log->key_chunks;
		log->key_chunks = k->newest;
	}
	*k = (struct keys){0};
}

void thmqi_keys_cut(struct thmq_log *log, struct segment *s)
{
	struct keys was = s->keys;
	struct key_chunk *c, *next;
	uint32_t i;

	s->keys = (struct keys){.missing = was.missing};
	for (c = was.oldest; c; c = next) {
		for (i = 0; i < c->count; i++)
			if (c->keys[i].batch < s->batch_count)
				thmqi_keys_put(log, s, &c->keys[i]);
		next = c->newer;
		chunk_put(log, c);
	}
}

void thmqi_keys_fini(struct thmq_log *log)
{
	struct key_chunk *c, *next;

	for (c = log->key_chunks; c; c = next) {
		next = c->older;
		munmap(c, sizeof(*c));
	}
	log->key_chunks = NULL;
}
