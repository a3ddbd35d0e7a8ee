/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter.h - which messages a consumer wants, as an expression over their headers, key, tag and time: parsed once, then asked of each
 * message. The language is in doc/filters.md. Pure functions: a text may come from a peer, headers from a disk or a peer. Bounded: a
 * filter has so many steps, each message costs so many and the bytes that are compared. Knows no log, no broker and no client.
 */
#ifndef THMQI_FILTER_H
#define THMQI_FILTER_H

#include "base/base.h"

struct thmqi_filter;

/* What is wrong with a text, and which of its bytes is the first that is. */
struct thmqi_filter_error {
	uint32_t at; /* from 0 */
	char what[88];
};

/* 0; -EINVAL, and why; -ENOMEM. @text need not end with a NUL. */
int thmqi_filter_make(const char *text, uint32_t len, struct thmqi_filter **ret_filter, struct thmqi_filter_error *ret_error);
void thmqi_filter_free(struct thmqi_filter *f); /* NULL is allowed */

/* What it is asked of. */
struct thmqi_filter_message {
	const void *key, *tag;
	const uint8_t *headers; /* as in a record's body; NULL: none */
	uint32_t key_len, tag_len, headers_len;
	uint32_t reserved;
	int64_t time_ns;
};

/* Is it true of @m? Where it is neither true nor false, since something is not there, it is not wanted. */
bool thmqi_filter_match(const struct thmqi_filter *f, const struct thmqi_filter_message *m);

/* A bit for each tag, as thmq_tag_filter() has them, one of which a message has of which it is true; 0: it may have any, or none. */
uint64_t thmqi_filter_tags(const struct thmqi_filter *f);

#endif
