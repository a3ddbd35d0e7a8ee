/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.h - payloads made small and large again: LZ4 and Zstandard, whose libraries are loaded at run time by who uses them. What is to be
 * made large may come from anybody: no byte is written beyond the room that is given, and what does not fill it to the byte is refused.
 * Knows no message.
 */
#ifndef THMQI_CLIENT_PACK_H
#define THMQI_CLIENT_PACK_H

#include <thundermq/thundermq.h>

#include "base/base.h"

struct thmqi_pack;

/* One direction of one codec; @level: 0: its own default. 0; -EINVAL; -EOPNOTSUPP it is not built in, or its library is not there; -ENOMEM */
int thmqi_pack_open(uint32_t codec, bool packs, int32_t level, struct thmqi_pack **ret_pack);
void thmqi_pack_close(struct thmqi_pack *pack); /* NULL is allowed */
const char *thmqi_pack_name(uint32_t codec);    /* NULL: there is no such codec */

/* Return: bytes in @to; 0: they would be more than @room. */
uint32_t thmqi_pack(struct thmqi_pack *pack, const void *from, uint32_t len, void *to,
		    uint32_t room);
/* 0: exactly @to_len bytes are at @to; -THMQ_ECORRUPT */
int thmqi_unpack(struct thmqi_pack *pack, const void *from, uint32_t len, void *to,
		 uint32_t to_len);
/* Before there is room for it: may these bytes be as many as they are said to be? */
bool thmqi_pack_may_be(struct thmqi_pack *pack, const void *from, uint32_t len, uint32_t to_len);

#endif
