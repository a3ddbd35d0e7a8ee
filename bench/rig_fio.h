/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_fio.h - fio as a second witness of what the device and the file system take: sequential O_DIRECT writes by its
 * io_uring engine over a file of real zeros. Runs the program where it is installed. Knows no log.
 */
#ifndef RIG_FIO_H
#define RIG_FIO_H

#include "bench.h"

struct rig_fio;

/* A zero-filled file of @bytes in @dir. NULL: there is no fio that works here. */
struct rig_fio *rig_fio_open(const struct bench *b, const char *dir, uint64_t bytes);
void rig_fio_close(struct rig_fio *f);
/* The file's bytes once, in writes of @write_bytes with @depth of them in flight, flushed each. Return: bytes a second. */
double rig_fio_stream(struct rig_fio *f, uint32_t write_bytes, unsigned depth);

#endif
