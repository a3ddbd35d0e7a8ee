/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pieces.c - what is sent from where it lies in the library's memory: batches of a reader, each lent until its last byte has gone to the socket. They are
 * part of an answer, between its own bytes. Knows no socket.
 */
#include <stdlib.h>

#include "kafka.h"

bool pieces_add(struct pieces *p, size_t at, struct text bytes, struct reader *reader, const struct thmq_message *lent)
{
	struct piece *one = malloc(sizeof(*one));

	if (!one)
		return false;
	*one = (struct piece){.at = at, .bytes = bytes, .reader = reader, .lent = *lent};
	if (!p->first)
		p->last = &p->first;
	*p->last = one;
	p->last = &one->next;
	p->len += bytes.len;
	return true;
}

void pieces_shift(struct pieces *p, size_t from, size_t less)
{
	struct piece *one;

	for (one = less ? p->first : NULL; one; one = one->next)
		if (one->at >= from)
			one->at -= less;
}

void pieces_move(struct pieces *to, struct pieces *from, size_t to_at, size_t from_at)
{
	struct piece *one;

	if (!from->first)
		return;
	for (one = from->first; one; one = one->next)
		one->at = one->at - from_at + to_at;
	if (!to->first)
		to->last = &to->first;
	*to->last = from->first;
	to->last = from->last;
	to->len += from->len;
	*from = (struct pieces){.first = NULL};
}

static void drop_first(struct pieces *p)
{
	struct piece *one = p->first;

	p->first = one->next;
	p->len -= one->bytes.len;
	reader_take_back(one->reader, &one->lent);
	free(one);
}

void pieces_free(struct pieces *p)
{
	while (p->first)
		drop_first(p);
}

uint32_t pieces_lay_out(const struct pieces *p, const struct out *out, size_t at, struct iovec *iov, uint32_t max)
{
	const struct piece *one;
	uint32_t n = 0;

	for (one = p->first; one && n + 2 < max; one = one->next) {
		if (one->at > at)
			iov[n++] = (struct iovec){out->data + at, one->at - at};
		at = one->at;
		iov[n++] = (struct iovec){(void *)(uintptr_t)one->bytes.data, one->bytes.len};
	}
	if (!one && at < out->len)
		iov[n++] = (struct iovec){out->data + at, out->len - at};
	return n;
}

void pieces_sent(struct pieces *p, size_t *at, size_t len)
{
	struct piece *one;
	size_t n;

	while (len && (one = p->first)) {
		n = len < one->at - *at ? len : one->at - *at;
		*at += n;
		len -= n;
		if (!len)
			return;
		n = len < one->bytes.len ? len : one->bytes.len;
		one->bytes.data += n;
		one->bytes.len -= (uint32_t)n;
		p->len -= n;
		len -= n;
		if (!one->bytes.len)
			drop_first(p);
	}
	*at += len;
}
