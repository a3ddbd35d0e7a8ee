/* SPDX-License-Identifier: Apache-2.0 */
/* table.h - what is looked for by a name: chains that stay short, as the table grows with what is in it. Knows nothing of what that is. */
#ifndef KAFKA_TABLE_H
#define KAFKA_TABLE_H

#include <stdbool.h>
#include <stdint.h>

/* First member of what is in a table. */
struct node {
	struct node *next; /* with the same place */
	uint32_t hash;
};

struct table {
	struct node **places;
	uint32_t room, count; /* room: a power of two, or 0 */
};

bool table_ready(struct table *t); /* for one more. false: no memory */
void table_add(struct table *t, struct node *n, uint32_t hash); /* after table_ready() */
void table_remove(struct table *t, struct node *n);
struct node *table_chain(const struct table *t, uint32_t hash); /* all of that hash, and others */
struct node *table_next(const struct table *t, const struct node *n); /* all, in no order, from NULL to NULL */
void table_free(struct table *t); /* it is empty */

#endif
