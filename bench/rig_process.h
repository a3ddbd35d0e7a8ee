/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_process.h - what the processors, and other libraries, give two processes: a cache line that goes there and back, and messages over
 * nng's and ZeroMQ's ipc. Each of them runs in processes of its own, so that no thread of a rival's stays in ours. Knows nothing of the
 * library under test.
 */
#ifndef RIG_PROCESS_H
#define RIG_PROCESS_H

#include <sys/types.h>

#include "bench.h"

/* A child that runs @run, and ends with it, or when the caller does. Return: its pid; exits on failure. */
pid_t rig_process_start(void (*run)(void *arg), void *arg);
void rig_process_stop(pid_t pid); /* kills it */

/* Median round trip, ns, of a cache line between this process, on cpu_app, and another, on cpu_core. */
double rig_process_line(const struct bench *b, unsigned count);
/* Of a message of @len bytes over ipc, likewise, both sides by one thread that blocks or spins as the library does. 0: not built in. */
double rig_process_nng(const struct bench *b, unsigned len, unsigned count);
double rig_process_zmq(const struct bench *b, unsigned len, unsigned count);

#endif
