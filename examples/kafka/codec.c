/* SPDX-License-Identifier: Apache-2.0 */
/* codec.c - the bytes of the Kafka protocol. Knows no request and no socket. */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ reading */

void in_init(struct in *in, const void *data, size_t len, bool flex)
{
	in->at = data;
	in->end = in->at + len;
	in->flex = flex;
	in->bad = false;
	in->elements = ELEMENTS_MAX;
}

size_t in_left(const struct in *in)
{
	return in->bad ? 0 : (size_t)(in->end - in->at);
}

const uint8_t *in_raw(struct in *in, size_t len)
{
	const uint8_t *at = in->at;

	if (in->bad || len > (size_t)(in->end - in->at)) {
		in->bad = true;
		return NULL;
	}
	in->at += len;
	return at;
}

static uint64_t in_big_endian(struct in *in, uint32_t bytes)
{
	const uint8_t *at = in_raw(in, bytes);
	uint64_t v = 0;
	uint32_t i;

	for (i = 0; at && i < bytes; i++)
		v = v << 8 | at[i];
	return v;
}

int8_t in_i8(struct in *in)
{
	return (int8_t)in_big_endian(in, 1);
}

bool in_bool(struct in *in)
{
	return in_i8(in) != 0;
}

int16_t in_i16(struct in *in)
{
	return (int16_t)in_big_endian(in, 2);
}

int32_t in_i32(struct in *in)
{
	return (int32_t)in_big_endian(in, 4);
}

int64_t in_i64(struct in *in)
{
	return (int64_t)in_big_endian(in, 8);
}

/* Seven bits a byte, the lowest first, @max bytes at most. */
static uint64_t in_sevens(struct in *in, uint32_t max)
{
	uint64_t v = 0;
	uint32_t i;

	for (i = 0; i < max && !in->bad; i++) {
		const uint8_t *at = in_raw(in, 1);

		if (!at)
			return 0;
		v |= (uint64_t)(*at & 127) << (7 * i);
		if (*at < 128)
			return v;
	}
	in->bad = true;
	return 0;
}

uint32_t in_uvarint(struct in *in)
{
	uint64_t v = in_sevens(in, 5);

	if (v > UINT32_MAX)
		in->bad = true;
	return in->bad ? 0 : (uint32_t)v;
}

int64_t in_varint(struct in *in)
{
	uint64_t v = in_sevens(in, 10);

	return (int64_t)(v >> 1 ^ (0 - (v & 1)));
}

/* @len: -1 is null */
static struct text in_piece(struct in *in, int64_t len)
{
	struct text t = {NULL, 0};

	if (len < -1)
		in->bad = true;
	if (len < 0 || in->bad)
		return t;
	t.data = (const char *)in_raw(in, (size_t)len);
	t.len = t.data ? (uint32_t)len : 0;
	return t;
}

struct text in_plain_text(struct in *in)
{
	return in_piece(in, in_i16(in));
}

struct text in_text(struct in *in)
{
	return in_piece(in, in->flex ? (int64_t)in_uvarint(in) - 1 : in_i16(in));
}

struct text in_bytes(struct in *in)
{
	return in_piece(in, in->flex ? (int64_t)in_uvarint(in) - 1 : in_i32(in));
}

int32_t in_array(struct in *in, size_t least)
{
	int64_t count = in->flex ? (int64_t)in_uvarint(in) - 1 : in_i32(in);

	if (count < -1 || (count > 0 && ((uint64_t)count > in_left(in) / (least ? least : 1) || count > in->elements)))
		in->bad = true;
	if (in->bad)
		return 0;
	in->elements -= count > 0 ? (uint32_t)count : 0;
	return (int32_t)count;
}

void in_tags(struct in *in)
{
	uint32_t count;

	if (!in->flex)
		return;
	for (count = in_uvarint(in); count > 0 && !in->bad; count--) {
		in_uvarint(in);
		in_raw(in, in_uvarint(in));
	}
}

/* ------------------------------------------------------------------ writing */

void out_free(struct out *out)
{
	free(out->data);
	out->data = NULL;
	out->len = out->room = 0;
	out->failed = false;
}

uint8_t *out_raw(struct out *out, size_t len)
{
	uint8_t *at;

	if (out->failed || len > OUT_MAX - out->len) {
		out->failed = true;
		return NULL;
	}
	if (len > out->room - out->len) {
		size_t room = out->room ? out->room : 256;
		uint8_t *data;

		while (room - out->len < len)
			room *= 2;
		data = realloc(out->data, room);
		if (!data) {
			out->failed = true;
			return NULL;
		}
		out->data = data;
		out->room = room;
	}
	at = out->data + out->len;
	out->len += len;
	return at;
}

void out_copy(struct out *out, const void *data, size_t len)
{
	uint8_t *at = len ? out_raw(out, len) : NULL;

	if (at)
		memcpy(at, data, len);
}

static void put_big_endian(uint8_t *at, uint64_t v, uint32_t bytes)
{
	while (bytes-- > 0) {
		at[bytes] = (uint8_t)v;
		v >>= 8;
	}
}

static void out_big_endian(struct out *out, uint64_t v, uint32_t bytes)
{
	uint8_t *at = out_raw(out, bytes);

	if (at)
		put_big_endian(at, v, bytes);
}

void put_i32(uint8_t *at, int32_t v)
{
	put_big_endian(at, (uint64_t)(int64_t)v, 4);
}

void put_i64(uint8_t *at, int64_t v)
{
	put_big_endian(at, (uint64_t)v, 8);
}

void out_i8(struct out *out, int8_t v)
{
	out_big_endian(out, (uint8_t)v, 1);
}

void out_bool(struct out *out, bool v)
{
	out_i8(out, v);
}

void out_i16(struct out *out, int16_t v)
{
	out_big_endian(out, (uint16_t)v, 2);
}

void out_i32(struct out *out, int32_t v)
{
	out_big_endian(out, (uint32_t)v, 4);
}

void out_i64(struct out *out, int64_t v)
{
	out_big_endian(out, (uint64_t)v, 8);
}

static uint32_t put_sevens(uint8_t *at, uint64_t v)
{
	uint32_t n = 0;

	for (; v >= 128; v >>= 7)
		at[n++] = (uint8_t)(v | 128);
	at[n++] = (uint8_t)v;
	return n;
}

void out_uvarint(struct out *out, uint32_t v)
{
	uint8_t bytes[10];

	out_copy(out, bytes, put_sevens(bytes, v));
}

static uint64_t zigzag(int64_t v)
{
	return (uint64_t)v << 1 ^ (uint64_t)(v >> 63);
}

void out_varint(struct out *out, int64_t v)
{
	uint8_t bytes[10];

	out_copy(out, bytes, put_sevens(bytes, zigzag(v)));
}

uint32_t varint_size(int64_t v)
{
	uint8_t bytes[10];

	return put_sevens(bytes, zigzag(v));
}

void out_text(struct out *out, struct text t)
{
	if (out->flex)
		out_uvarint(out, t.data ? t.len + 1 : 0);
	else
		out_i16(out, t.data ? (int16_t)t.len : -1);
	if (t.data)
		out_copy(out, t.data, t.len);
}

void out_string(struct out *out, const char *s)
{
	out_text(out, text_of(s));
}

void out_bytes(struct out *out, struct text t)
{
	if (out->flex)
		out_uvarint(out, t.data ? t.len + 1 : 0);
	else
		out_i32(out, t.data ? (int32_t)t.len : -1);
	if (t.data)
		out_copy(out, t.data, t.len);
}

void out_array(struct out *out, int32_t count)
{
	if (out->flex)
		out_uvarint(out, (uint32_t)(count + 1));
	else
		out_i32(out, count);
}

void out_tags(struct out *out)
{
	if (out->flex)
		out_uvarint(out, 0);
}

/* What the longest length takes. */
static size_t length_room(const struct out *out)
{
	return out->flex ? 5 : 4;
}

size_t out_bytes_begin(struct out *out)
{
	size_t at = out->len;

	out_raw(out, length_room(out));
	return at;
}

size_t out_bytes_end(struct out *out, size_t at, size_t beside)
{
	size_t len = out->len - at - length_room(out);
	uint8_t bytes[10];
	uint32_t n = 4;

	if (out->failed)
		return 0;
	if (out->flex)
		n = put_sevens(bytes, len + beside + 1);
	else
		put_i32(bytes, (int32_t)(len + beside));
	if (n < length_room(out))
		memmove(out->data + at + n, out->data + at + length_room(out), len);
	memcpy(out->data + at, bytes, n);
	out->len = at + n + len;
	return length_room(out) - n;
}

/* ------------------------------------------------------------------- others */

struct text text_of(const char *s)
{
	return (struct text){s, s ? (uint32_t)strlen(s) : 0};
}

bool text_is(struct text t, const char *s)
{
	return t.data && strlen(s) == t.len && memcmp(t.data, s, t.len) == 0;
}

bool text_same(struct text a, struct text b)
{
	return !a.data == !b.data && a.len == b.len &&
	       (!a.len || memcmp(a.data, b.data, a.len) == 0);
}

bool text_copy(struct text t, char *ret, size_t size)
{
	if (!t.data || t.len >= size || memchr(t.data, 0, t.len))
		return false;
	memcpy(ret, t.data, t.len);
	ret[t.len] = '\0';
	return true;
}
