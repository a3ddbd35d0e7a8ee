/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notes.c - the newest slice of each state that a segment has, for its index. Memory is kept from one segment to the
 * next, so that what comes again and again costs no allocation, and a few cost none at all.
 */
#include "../internal.h"

#define NOTES_MIN 64u
#define BYTES_MIN 4096u
#define BYTES_MAX (256u << 20)

static uint32_t place(const struct notes *n, uint32_t kind, uint64_t item)
{
	const uint64_t key[2] = {kind, item};
	uint32_t at = (uint32_t)thmqi_hash64(key, sizeof(key)) & n->table_mask, i;

	while ((i = n->table[at]) && (n->list[i - 1].kind != kind || n->list[i - 1].item != item))
		at = (at + 1) & n->table_mask;
	return at;
}

/* The table has twice as many places as there may be notes. */
static int grow(struct notes *n)
{
	uint32_t room = n->room ? n->room * 2 : NOTES_MIN, i;
	struct note *list = realloc(n->list, room * sizeof(*list));
	uint32_t *table;

	if (!list)
		return -ENOMEM;
	n->list = list;
	table = calloc(2 * (size_t)room, sizeof(*table));
	if (!table)
		return -ENOMEM;
	free(n->table);
	n->table = table;
	n->table_mask = 2 * room - 1;
	n->room = room;
	for (i = 0; i < n->count; i++)
		n->table[place(n, n->list[i].kind, n->list[i].item)] = i + 1;
	return 0;
}

static int keep_bytes(struct notes *n, struct note *note, const void *payload, uint32_t len)
{
	uint32_t room = n->bytes_room ? n->bytes_room : BYTES_MIN, padded = THMQI_ALIGN_UP(len, 8u);
	uint8_t *bytes;

	if (len > note->len) { /* else it goes where the one before was */
		if (len > BYTES_MAX - n->bytes_used)
			return -ENOMEM;
		while (room - n->bytes_used < padded)
			room *= 2;
		bytes = room > n->bytes_room ? realloc(n->bytes, room) : n->bytes;
		if (!bytes)
			return -ENOMEM;
		n->bytes = bytes;
		n->bytes_room = room;
		note->offset = n->bytes_used;
		n->bytes_used += padded;
	}
	note->len = len;
	if (len) {
		memcpy(n->bytes + note->offset, payload, len);
		memset(n->bytes + note->offset + len, 0, padded - len);
	}
	return 0;
}

int thmqi_notes_put(struct notes *n, const struct note *note, const void *payload, uint32_t len)
{
	struct note *mine;
	uint32_t at;

	if (n->count == n->room && grow(n) != 0)
		return -ENOMEM;
	at = place(n, note->kind, note->item);
	if (!n->table[at]) {
		n->list[n->count] = *note;
		n->list[n->count].offset = n->list[n->count].len = 0;
		n->table[at] = ++n->count;
	}
	mine = &n->list[n->table[at] - 1];
	mine->batch = note->batch;
	mine->term = note->term;
	mine->at = note->at;
	return keep_bytes(n, mine, payload, len);
}

int thmqi_notes_init(struct notes *n)
{
	n->bytes = malloc(BYTES_MIN);
	n->bytes_room = n->bytes ? BYTES_MIN : 0;
	return n->bytes ? grow(n) : -ENOMEM;
}

void thmqi_notes_clear(struct notes *n)
{
	if (n->count)
		memset(n->table, 0, (n->table_mask + 1) * sizeof(*n->table));
	n->count = 0;
	n->bytes_used = 0;
}

void thmqi_notes_fini(struct notes *n)
{
	free(n->list);
	free(n->bytes);
	free(n->table);
	memset(n, 0, sizeof(*n));
}
