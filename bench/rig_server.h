/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_server.h - another program as a rival: started in a directory of its own, ended with the bench whatever becomes
 * of it, and sockets to it on this machine. Knows no protocol.
 */
#ifndef RIG_SERVER_H
#define RIG_SERVER_H

#include "bench.h"

#include <sys/types.h>

/* Is there such a program in PATH, or where Debian has servers? Return: its path, in @ret_path; else false. */
bool rig_server_find(const char *program, char *ret_path, size_t size);
/*
 * Start argv[0] in the directory @dir, on all CPUs, silent (server.log there). The kernel kills it when the bench ends.
 * Return: its process; never fails (bench_die()).
 */
pid_t rig_server_start(const char *dir, char *const argv[]);
/* The same, but wait for its end. Return: its exit status; -1. */
int rig_server_run(const char *dir, char *const argv[]);
/* End it, and wait until it has. */
void rig_server_stop(pid_t pid);
/* Is it still there? */
bool rig_server_alive(pid_t pid);

/* A TCP port of the loopback address that is free now. */
int rig_server_port(void);
/* Connect, trying for up to 10 s while the server comes up. Return: a blocking socket; -1. */
int rig_server_connect_tcp(pid_t pid, int port);

/* All of it, or bench_die(@who). */
void rig_server_write(int fd, const void *data, size_t len, const char *who);

#endif
