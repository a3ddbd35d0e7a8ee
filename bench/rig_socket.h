/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_socket.h - what the kernel's loopback gives two bare threads: messages that go through a TCP connection and back, with epoll
 * and with io_uring, and a stream of bytes. The physical limits of tcp://. Both threads look for what comes and never sleep.
 */
#ifndef RIG_SOCKET_H
#define RIG_SOCKET_H

#include "bench.h"

enum rig_socket { RIG_SOCKET_EPOLL, RIG_SOCKET_URING };

/* Round trips of @bytes between the calling thread, on @cpu_app, and one on @cpu_core. -1: io_uring is refused. */
int rig_socket_pingpong(enum rig_socket how, int cpu_app, int cpu_core, unsigned bytes,
			unsigned count, struct bench_samples *ret);
/* GB/s of @total bytes in pieces of @bytes that the other thread sends back as they come. */
double rig_socket_echo(int cpu_app, int cpu_core, unsigned bytes, uint64_t total);

#endif
