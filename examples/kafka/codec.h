/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.h - the bytes of the Kafka protocol: integers, strings, arrays, tagged fields; read with every length checked, written into a
 * block that grows. Knows no request and no socket. Source: kafka.apache.org/protocol, "Protocol Primitive Types".
 *
 * Versions of a request from some on are "flexible": lengths are variable then, one more than they are, and each structure ends
 * with tagged fields. Who reads or writes says so once, in flex, and all the functions here do as it says.
 */
#ifndef KAFKA_CODEC_H
#define KAFKA_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of somebody else's bytes. data NULL: null. */
struct text {
	const char *data;
	uint32_t len;
};

/* ------------------------------------------------------------------ reading */

/* What is left to read. bad: it was shorter than it said, or nonsense; all that is read then is 0, null, or empty. */
#define ELEMENTS_MAX 262144u /* of all arrays of a request: what each of them costs is more than its bytes */
struct in {
	const uint8_t *at, *end;
	bool flex, bad;
	uint32_t elements; /* that may still come */
};

void in_init(struct in *in, const void *data, size_t len, bool flex);
size_t in_left(const struct in *in);
bool in_bool(struct in *in);
int8_t in_i8(struct in *in);
int16_t in_i16(struct in *in);
int32_t in_i32(struct in *in);
int64_t in_i64(struct in *in);
uint32_t in_uvarint(struct in *in);
int64_t in_varint(struct in *in);                 /* zigzag, up to 64 bits: those of records */
const uint8_t *in_raw(struct in *in, size_t len); /* NULL if there are fewer, or none are wanted */
struct text in_text(struct in *in);               /* STRING, NULLABLE_STRING and the compact ones */
struct text in_plain_text(struct in *in);         /* the one of the request header, never compact */
struct text in_bytes(struct in *in); /* BYTES, NULLABLE_BYTES, RECORDS and the compact ones */
/* Elements, each of which takes @least bytes or more: never more than there can be. -1: null */
int32_t in_array(struct in *in, size_t least);
void in_tags(struct in *in); /* steps over tagged fields, where there are any */

/* ------------------------------------------------------------------ writing */

/* failed: there was no memory, or it is too much; what was written since is not there. */
#define OUT_MAX (256u << 20)
struct out {
	uint8_t *data;
	size_t len, room;
	bool flex, failed;
};

void out_free(struct out *out);
uint8_t *out_raw(struct out *out,
		 size_t len); /* room for so many bytes behind what there is; NULL: failed */
void out_copy(struct out *out, const void *data, size_t len);
void out_bool(struct out *out, bool v);
void out_i8(struct out *out, int8_t v);
void out_i16(struct out *out, int16_t v);
void out_i32(struct out *out, int32_t v);
void out_i64(struct out *out, int64_t v);
void out_uvarint(struct out *out, uint32_t v);
void out_varint(struct out *out, int64_t v);
uint32_t varint_size(int64_t v);
void out_text(struct out *out, struct text t); /* null where data is NULL */
void out_string(struct out *out, const char *s);
void out_bytes(struct out *out, struct text t);
void out_array(struct out *out, int32_t count); /* -1: null */
void out_tags(struct out *out);                 /* none */
/*
 * Bytes whose length is known only behind them: what begin returned is given to end. @beside: as many of them are elsewhere. Return: what lies
 * behind @at has moved down by so many
 */
size_t out_bytes_begin(struct out *out);
size_t out_bytes_end(struct out *out, size_t at, size_t beside);
void put_i32(uint8_t *at, int32_t v);
void put_i64(uint8_t *at, int64_t v);

/* ------------------------------------------------------------------- others */

struct text text_of(const char *s); /* NULL: null */
bool text_is(struct text t, const char *s);
bool text_same(struct text a, struct text b);
/* As a string of its own, with a final NUL; false: it is null, does not fit into @size, or has a NUL in it. */
bool text_copy(struct text t, char *ret, size_t size);

#endif
