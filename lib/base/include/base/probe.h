/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h - places where a tracer may look in (USDT: bpftrace, systemtap, perf), of the provider thundermq; doc/observing.md lists them. Each is
 * one instruction that does nothing while nobody looks. Built with the meson option usdt, which needs <sys/sdt.h>; else they are not there.
 */
#ifndef THMQI_BASE_PROBE_H
#define THMQI_BASE_PROBE_H

#if defined(THMQI_USDT)
#include <sys/sdt.h>
#define THMQI_PROBE1(name, a) DTRACE_PROBE1(thundermq, name, a)
#define THMQI_PROBE3(name, a, b, c) DTRACE_PROBE3(thundermq, name, a, b, c)
#else
#define THMQI_PROBE1(name, a) ((void)0)
#define THMQI_PROBE3(name, a, b, c) ((void)0)
#endif

#endif
