/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_mapped.h - the storage mechanism of Apache RocketMQ's broker, as a rival without its network and its Java: a log in
 * memory-mapped files, flushed by a thread. Written from what its documents and papers describe; kinder to it where
 * that is easier (see rig_mapped.c).
 *
 *   append      a header with length and checksum and the body are copied into a mapped segment (MAP_SHARED), which
 *               was allocated and touched page by page before; a message does not cross a segment
 *   synchronous the producer's request goes onto a list; a group-commit thread swaps the list with an empty one,
 *               msyncs what is written by then, and answers every request that it covers
 *   asynchronous  the producer is answered at once; a thread msyncs every 500 ms what is 4 pages or more
 *   consume queue  a dispatch thread follows the log and writes an entry of 20 bytes for each message, position, size
 *               and tag, into a mapped file, flushed every second
 */
#ifndef RIG_MAPPED_H
#define RIG_MAPPED_H

#include "bench.h"

struct rig_mapped;

enum rig_mapped_flush { RIG_MAPPED_SYNCHRONOUS, RIG_MAPPED_ASYNCHRONOUS };

struct rig_mapped *rig_mapped_open(const char *dir, enum rig_mapped_flush flush);
void rig_mapped_close(struct rig_mapped *m);
/* One producer thread. Return: the position behind the message: it is acknowledged when rig_mapped_acked() is there. */
uint64_t rig_mapped_append(struct rig_mapped *m, const void *data, uint32_t len);
/* All below is acknowledged: flushed if synchronous, else in mapped memory. */
uint64_t rig_mapped_acked(struct rig_mapped *m);
/* Everything flushed and dispatched, so that nothing of it burdens what is measured next. */
void rig_mapped_drain(struct rig_mapped *m);
/* Entries of the consume queue. Checks the last of them and the message that it leads to. */
uint64_t rig_mapped_check(struct rig_mapped *m);

#endif
