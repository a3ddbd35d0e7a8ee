/* SPDX-License-Identifier: Apache-2.0 */
/* inflate.h - bytes as Kafka's clients compress them, made large again: gzip, snappy, LZ4, Zstandard, by libraries that are loaded at run time. */
#ifndef THMQI_CLIENT_INFLATE_H
#define THMQI_CLIENT_INFLATE_H

#include <thundermq/thundermq.h>

#include "base/base.h"

/*
 * @codec: as a batch names it: 1 gzip, 2 snappy, 3 LZ4, 4 Zstandard. *ret: the caller's to free(), NULL where nothing comes out
 * 0; -EOPNOTSUPP it is not built in, or its library is not there; -THMQ_ECORRUPT; -EMSGSIZE more than @max; -ENOMEM
 */
int thmqi_inflate(uint32_t codec, const void *data, uint32_t len, uint32_t max, void **ret, uint32_t *ret_len);

#endif
