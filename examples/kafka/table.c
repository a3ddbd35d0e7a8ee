/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - see table.h. */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_MIN 16u
#define ROOM_MAX (1u << 28)

bool table_ready(struct table *t)
{
	uint32_t room = t->room ? t->room * 2 : ROOM_MIN, i;
	struct node **places, *n;

	if (t->count < t->room || t->room >= ROOM_MAX)
		return true;
	places = calloc(room, sizeof(struct node *));
	if (!places)
		return t->room > 0; /* as it is, and slower */
	for (i = 0; i < t->room; i++)
		while ((n = t->places[i])) {
			t->places[i] = n->next;
			n->next = places[n->hash & (room - 1)];
			places[n->hash & (room - 1)] = n;
		}
	free(t->places);
	t->places = places;
	t->room = room;
	return true;
}

void table_add(struct table *t, struct node *n, uint32_t hash)
{
	struct node **at = &t->places[hash & (t->room - 1)];

	n->hash = hash;
	n->next = *at;
	*at = n;
	t->count++;
}

void table_remove(struct table *t, struct node *n)
{
	struct node **at = &t->places[n->hash & (t->room - 1)];

	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	t->count--;
}

struct node *table_chain(const struct table *t, uint32_t hash)
{
	return t->room ? t->places[hash & (t->room - 1)] : NULL;
}

struct node *table_next(const struct table *t, const struct node *n)
{
	uint32_t i = n ? (n->hash & (t->room - 1)) + 1 : 0;

	if (n && n->next)
		return n->next;
	while (i < t->room && !t->places[i])
		i++;
	return i < t->room ? t->places[i] : NULL;
}

void table_free(struct table *t)
{
	free(t->places);
	*t = (struct table){.places = NULL};
}
