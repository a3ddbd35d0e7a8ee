#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts the headlines of the measured figures, and all that miss their bar, into README.md, all figures into doc/measured.md, and a drawing into
doc/measured.svg; those of the part rivals into doc/rivals.md, doc/rivals.svg and doc/copies.svg, and of messaging those beside message queues into doc/rivals.md and doc/queues.svg.

usage: sh bench/run.sh --json cores commitlog commitlog-large rivals | python3 bench/report.py [--machine TEXT] [--root DIR]

What is measured anew takes the place of what doc/measured.jsonl keeps under the same name; the rest stays, so that one part can be measured alone. Each figure stands beside its rival or limit of the same run, with the 95 % interval over the pairs of runs.
"""
import argparse
import json
import math
import os
import platform
import sys
from xml.sax.saxutils import escape

BEGIN = "<!-- MEASURED: written by bench/report.py from a run of bench/run.sh; no number may stand here that was not\nmeasured in the same run as its rival or limit. -->\n"
END = "<!-- END MEASURED -->"

ALL = """# All measured figures

Written by bench/report.py from runs of bench/run.sh: no figure here was measured apart from its rival or limit; parts were measured at different
times. On {machine}; a shared virtual machine. The two left columns are medians, each of its own runs; what is compared is the median of the ratios (or differences) of the
pairs of runs, in brackets with its 95 % interval, and need not be the ratio of the two columns.

{table}
"""

WORDS = {
    "idle_cpu_inproc_adaptive": "at rest, policy adaptive: processor time above that of policy event",
    "idle_cpu_inproc_predictive": "the same, policy predictive",
    "idle_cpu_tcp_adaptive": "the same with a connection over tcp, adaptive",
    "idle_cpu_tcp_predictive": "the same, predictive",
    "ping_p50_inproc_adaptive": "one message in memory at a time, adaptive: p50 above that of policy poll",
    "ping_p50_inproc_predictive": "the same, predictive",
    "ping_p50_tcp_adaptive": "the same over tcp, adaptive",
    "ping_p50_tcp_predictive": "the same over tcp, predictive",
    "ping_12us_p50_inproc_adaptive": "the same with 12 us between an answer and the next one, adaptive",
    "saturation_inproc_adaptive": "as many as it takes, in memory, adaptive beside poll",
    "saturation_inproc_predictive": "the same, predictive",
    "saturation_tcp_adaptive": "the same over tcp, adaptive",
    "saturation_tcp_predictive": "the same over tcp, predictive",
    "cap_50_adaptive": "share of a processor under a cap of 50 %, adaptive",
    "cap_25_adaptive": "share of a processor under a cap of 25 %, adaptive",
    "durable_100B_poll_caller_p50": "one durable 100 B message at a time, p50, policy poll, caller-driven",
    "durable_100B_poll_caller_p99": "the same, p99 by the paired difference",
    "durable_100B_poll_pinned_p50": "the same, p50, a core of the library's own",
    "durable_100B_poll_pinned_p99": "the same, p99",
    "durable_100B_event_caller_p50": "policy event, p50, caller-driven",
    "durable_100B_event_caller_p99": "the same, p99",
    "durable_100B_event_pinned_p50": "one durable 100 B message at a time, p50, policy event, a core of the library's own",
    "durable_100B_event_pinned_p99": "the same, p99",
    "durable_100B_event_pinned_flush_p50": "policy event, a plain write and a flush, p50",
    "durable_100B_event_pinned_flush_p99": "the same, p99",
    "durable_100B_fixed_pinned_flush_p50": "policy fixed, a plain write and a flush, p50",
    "durable_100B_fixed_pinned_flush_p99": "the same, p99",
    "quorum_ack_p50": "three brokers, one message of 1 KiB at a time, on a majority's devices: p50",
    "quorum_1KiB": "three brokers, 1 KiB, many outstanding, on a majority's devices, segments recycled",
    "quorum_1KiB_growing": "the same while the logs grow",
    "catch_up_p999": "three brokers, a 100 B message each 500 us while one gets what it missed: p99.9",
    "acks_shared_100B": "a shared group, each message acknowledged by itself, 100 B",
    "acks_shared_1KiB": "the same, 1 KiB",
    "delay_late_p50": "delayed messages, 100,000 due each second: how late, p50",
    "delay_late_p99": "the same, p99",
    "delay_late_own_p99": "the same, less the device's own p99 under as many messages due at the same times",
    "delay_released_p50": "the same on a topic that shows what is in memory, p50: what of it is not the device's",
    "delay_released_p99": "the same, p99",
    "queue_work_redis": "as a message queue beside Redis streams: each message acknowledged by itself",
    "queue_fan_redis": "the same to three groups, many acknowledged with one word",
    "queue_ask_redis": "a stored request and its reply, p50",
    "queue_work_tcp_redis": "the same as a server over TCP: each message acknowledged by itself",
    "queue_fan_tcp_redis": "the same to three groups",
    "queue_ask_tcp_redis": "a stored request and its reply, p50",
    "queue_work_nats": "as a message queue beside NATS JetStream: each message acknowledged by itself",
    "queue_fan_nats": "the same to three groups, many acknowledged with one word",
    "queue_ask_nats": "a request in memory and its reply, p50",
    "queue_work_tcp_nats": "the same as a server over TCP: each message acknowledged by itself",
    "queue_fan_tcp_nats": "the same to three groups",
    "queue_ask_tcp_nats": "a request in memory and its reply, p50",
    "queue_work_rabbit": "as a message queue beside RabbitMQ: each message acknowledged by itself",
    "queue_fan_rabbit": "the same to three groups, many acknowledged with one word",
    "queue_ask_rabbit": "a request in memory and its reply, p50",
    "queue_work_tcp_rabbit": "the same as a server over TCP: each message acknowledged by itself",
    "queue_fan_tcp_rabbit": "the same to three groups",
    "queue_ask_tcp_rabbit": "a request in memory and its reply, p50",
    "rival_nats_copies": "three servers of NATS JetStream",
    "rival_rabbit_copies": "three servers of RabbitMQ",
    "delay_memory": "memory of a delayed message that waits",
    "groups_10000": "10,000 groups of one broker: handed out",
    "kafka_read_native": "native messages read by Kafka's protocol",
    "consensus_cpu": "three brokers: processor time of the consensus, each entry",
    "shm_roundtrip_64": "round trip of 64 B to a broker in another process, over shared memory, p50",
    "shm_roundtrip_64_nng": "the same, beside nng's ipc",
    "shm_roundtrip_64_zmq": "the same, beside ZeroMQ's ipc",
    "shm_one_by_one_100": "100 B to a broker in another process and back, volatile topic, one by one",
    "shm_batches_100": "the same, by 64 claims at a time",
    "shm_rows_100": "the same, by rows of 64",
    "shm_logged_16k": "durable 16 KiB to a broker in another process, stored bytes",
    "shm_logged_64k": "the same with 64 KiB",
    "shm_logged_1m": "the same with 1 MiB",
    "tcp_roundtrip_64B_p50": "round trip of 64 B over tcp, p50",
    "tls_roundtrip_64B_p50": "the same over TLS",
    "tcp_flow_64K": "64 KiB messages over tcp, one way",
    "tls_flow_64K": "the same over TLS",
    "tcp_flow_100B_zeromq": "100 B messages over tcp, one way",
    "shm_durable_ack_p50": "a durable ack over shared memory, p50",
    "tcp_durable_ack_p50": "the same over tcp",
    "rebalance_leave_sticky": "a member of 100 leaves 1,000 partitions: until all are taken over, sticky",
    "rebalance_join_sticky": "a member comes to 99: until it has its share, sticky",
    "rebalance_leave_range": "a member leaves, by ranges",
    "rebalance_join_range": "a member comes, by ranges",
    "json_1KiB_lz4_stored": "JSON of 1 KiB, lz4: stored bytes a byte",
    "json_1KiB_lz4_in": "the same, published",
    "json_1KiB_lz4_out": "the same, consumed",
    "json_1KiB_zstd_stored": "JSON of 1 KiB, zstd: stored bytes a byte",
    "json_1KiB_zstd_in": "the same, published",
    "json_1KiB_zstd_out": "the same, consumed",
    "json_16KiB_lz4_stored": "JSON of 16 KiB, lz4: stored bytes a byte",
    "json_16KiB_lz4_in": "the same, published",
    "json_16KiB_lz4_out": "the same, consumed",
    "json_16KiB_zstd_stored": "JSON of 16 KiB, zstd: stored bytes a byte",
    "json_16KiB_zstd_in": "the same, published",
    "json_16KiB_zstd_out": "the same, consumed",
    "kafka_flow_100B": "100 B by Kafka's protocol (librdkafka, acks of all), published",
    "kafka_flow_100B_own": "the same beside the library's own session",
    "kafka_flow_100B_nats": "the same beside JetStream with its own protocol, each message flushed",
    "kafka_read_100B": "the same messages, consumed",
    "kafka_ack_100B_p50": "the same, one at a time, p50",
    "kafka_fetch_cpu": "processor of the broker for a GiB fetched by Kafka's protocol, batches of 0.9 MiB",
    "kafka_fetch_cpu_small": "the same, batches of 20 KiB",
    "kafka_tenth_p99": "100,000 of 100 B a second by Kafka's protocol: publish p99 over the device's own p99",
    "kafka_kcat_in_100B": "100 B by kcat, published",
    "kafka_kcat_out_100B": "100 B by kcat, consumed",
    "kafka_memory_connection": "Kafka's protocol: memory of a quiet connection",
    "kafka_memory_member": "Kafka's protocol: memory of a group with one member",
    "kafka_memory_group": "Kafka's protocol: memory of a group's offset",
    "kafka_memory_partition": "Kafka's protocol: memory of a partition, known to clients",
    "kafka_memory_used": "Kafka's protocol: memory of a partition that was written to, on top",
    "failover_p99": "the leader is killed: until the next one acknowledges, p99",
    "durable_1KiB_growing": "durable 1 KiB, many outstanding, while the log grows",
    "durable_1KiB_steady": "durable 1 KiB, many outstanding, prepared segments",
    "durable_1KiB_steady_fio": "durable 1 KiB, many outstanding, beside fio",
    "durable_1KiB_recycled": "durable 1 KiB, many outstanding, segments recycled",
    "durable_16KiB_steady": "durable 16 KiB, many outstanding, prepared segments",
    "durable_16KiB_steady_fio": "durable 16 KiB, many outstanding, beside fio",
    "durable_64KiB_steady": "durable 64 KiB, many outstanding, prepared segments",
    "durable_64KiB_steady_fio": "durable 64 KiB, many outstanding, beside fio",
    "durable_100B_many": "durable 100 B, many outstanding, one core",
    "durable_100B_many_lmdb": "durable 100 B, many outstanding, one core, beside LMDB",
    "durable_1KiB_many_lmdb": "durable 1 KiB, many outstanding, one core, beside LMDB",
    "durable_16KiB_many_lmdb": "durable 16 KiB, many outstanding, one core, beside LMDB",
    "durable_100B_many_caller": "durable 100 B, many outstanding, caller-driven: one CPU for all",
    "durable_100B_many_caller_lmdb": "the same beside LMDB",
    "roundtrip_100B_volatile_p50": "round trip in memory, volatile topic, p50",
    "roundtrip_100B_volatile_p99": "the same, p99",
    "mailbox_roundtrip_p50": "a message from core to core and its answer, by mailbox, p50",
    "mailbox_roundtrip_p99": "the same, p99",
    "post_roundtrip_p50": "the same by posts, p50",
    "post_roundtrip_p99": "the same, p99",
    "call_roundtrip_p50": "a call of a core from a thread of the host, p50",
    "call_roundtrip_p99": "the same, p99",
    "mailbox_flow": "messages from core to core, one by one",
    "idle_iteration_0_mailboxes": "one round of a core with nothing to do",
    "idle_iteration_1_mailboxes": "the same, one empty mailbox",
    "idle_iteration_16_mailboxes": "the same, 16",
    "idle_iteration_64_mailboxes": "the same, 64",
    "model_memory_1_poll_p50": "network and storage on one core, in memory, one at a time, policy poll: p50",
    "model_memory_1_poll_cpu": "network and storage on one core, in memory, one at a time, policy poll: CPU a message",
    "model_memory_1_poll_rate": "network and storage on one core, in memory, one at a time, policy poll: rate",
    "model_memory_1_poll_p99": "network and storage on one core, in memory, one at a time, policy poll: p99",
    "model_memory_1_event_p50": "network and storage on one core, in memory, one at a time, policy event: p50",
    "model_memory_1_event_cpu": "network and storage on one core, in memory, one at a time, policy event: CPU a message",
    "model_memory_1_event_rate": "network and storage on one core, in memory, one at a time, policy event: rate",
    "model_memory_1_event_p99": "network and storage on one core, in memory, one at a time, policy event: p99",
    "model_memory_64_poll_p50": "network and storage on one core, in memory, 64 under way, policy poll: p50",
    "model_memory_64_poll_cpu": "network and storage on one core, in memory, 64 under way, policy poll: CPU a message",
    "model_memory_64_poll_rate": "network and storage on one core, in memory, 64 under way, policy poll: rate",
    "model_memory_64_poll_p99": "network and storage on one core, in memory, 64 under way, policy poll: p99",
    "model_memory_64_event_p50": "network and storage on one core, in memory, 64 under way, policy event: p50",
    "model_memory_64_event_cpu": "network and storage on one core, in memory, 64 under way, policy event: CPU a message",
    "model_memory_64_event_rate": "network and storage on one core, in memory, 64 under way, policy event: rate",
    "model_memory_64_event_p99": "network and storage on one core, in memory, 64 under way, policy event: p99",
    "model_durable_1_poll_p50": "network and storage on one core, durable, one at a time, policy poll: p50",
    "model_durable_1_poll_cpu": "network and storage on one core, durable, one at a time, policy poll: CPU a message",
    "model_durable_1_poll_rate": "network and storage on one core, durable, one at a time, policy poll: rate",
    "model_durable_1_poll_p99": "network and storage on one core, durable, one at a time, policy poll: p99",
    "model_durable_1_event_p50": "network and storage on one core, durable, one at a time, policy event: p50",
    "model_durable_1_event_cpu": "network and storage on one core, durable, one at a time, policy event: CPU a message",
    "model_durable_1_event_rate": "network and storage on one core, durable, one at a time, policy event: rate",
    "model_durable_1_event_p99": "network and storage on one core, durable, one at a time, policy event: p99",
    "model_durable_64_poll_p50": "network and storage on one core, durable, 64 under way, policy poll: p50",
    "model_durable_64_poll_cpu": "network and storage on one core, durable, 64 under way, policy poll: CPU a message",
    "model_durable_64_poll_rate": "network and storage on one core, durable, 64 under way, policy poll: rate",
    "model_durable_64_poll_p99": "network and storage on one core, durable, 64 under way, policy poll: p99",
    "model_durable_64_event_p50": "network and storage on one core, durable, 64 under way, policy event: p50",
    "model_durable_64_event_cpu": "network and storage on one core, durable, 64 under way, policy event: CPU a message",
    "model_durable_64_event_rate": "network and storage on one core, durable, 64 under way, policy event: rate",
    "model_durable_64_event_p99": "network and storage on one core, durable, 64 under way, policy event: p99",
    "alloc_free_64": "a block of 64 B from a core's own pool and back",
    "alloc_free_1k": "a block of 1 KiB from a core's own pool and back",
    "alloc_free_64k": "a block of 64 KiB from a core's own pool and back",
    "flat_95_64": "the same for 64 B in a pool that is 95 % full",
    "flat_95_4k": "the same for 4 KiB",
    "registration_4k": "the registration of a buffer of 4 KiB, found by its address",
    "registration_64k": "the registration of a buffer of 64 KiB, found by its address",
    "registration_1m": "the registration of a buffer of 1 MiB, found by its address",
    "registration_8m": "the registration of a buffer of 8 MiB, found by its address",
    "fragmentation_waste": "memory lost to rounding after a long random life",
    "fragmentation_largest_free": "largest free block after a long random life, all freed",
    "scaling_memory": "two cores against one, logs in memory",
    "memory_one_core": "messages in memory, appended and read, one core",
    "memory_two_cores": "the same, two cores",
    "scaling_durable": "two cores against one, durable logs",
    "durable_one_core": "durable 1 KiB, one core with a log",
    "durable_two_cores": "the same, two cores, a log each",
    "oneway_100B_volatile": "one way in memory, one by one, volatile topic",
    "oneway_100B_volatile_far": "the same, on two CPUs that share no cache",
    "roundtrip_100B_logged_p50": "round trip in memory, logged topic, p50",
    "roundtrip_100B_logged_p99": "the same, p99",
    "oneway_100B_logged": "one way in memory, one by one, logged topic",
    "oneway_100B_logged_far": "the same, on two CPUs that share no cache",
    "first_open_caller": "first open of a fresh directory, caller-driven",
    "first_open_pinned": "the same, with a core of the library's own",
    "idle_cpu_event": "an open broker at rest, policy event: share of a CPU",
    "backlog_1KiB": "a backlog of one partition, 1 KiB messages, from the device",
    "backlog_1KiB_best": "the same beside the best that the device gives",
    "lookup_offset_reads": "look-up of an offset in a cold log of 1,000 partitions: device reads",
    "lookup_offset_p50": "the same, time, p50",
    "lookup_offset_p99": "the same, p99",
    "writers_beside_reader_p99": "one durable 100 B message at a time, p99, beside a reader of a cold backlog",
    "reader_beside_writers": "what that reader gets, payload",
    "writers_beside_reader_limit_p99": "the writer's p99, beside a bare writer's with bare reads of the same size and rate",
    "device_beside_same_reads_p99": "what these reads do to the bare writer's p99",
    "device_beside_reads_p99": "what bare reads at full speed do to the bare writer's p99",
    "partitions_100k_memory_created": "100,000 partitions: memory of each, created",
    "partitions_100k_memory_few": "100,000 partitions: memory of each, in use, few segments",
    "partitions_100k_memory_many": "100,000 partitions: memory of each, in use, many segments",
    "partitions_100k_memory_large": "100,000 partitions: memory of each, segments of the default size",
    "partitions_100k_files": "100,000 partitions: files",
    "partitions_1M_created": "a million partitions are created in",
    "partitions_1M_memory": "a million partitions: memory of each",
    "partitions_100k_1KiB": "durable 1 KiB to 100,000 partitions in turns",
    "partitions_100k_100B": "durable 100 B to 100,000 partitions in turns",
    "partitions_100k_1KiB_stored": "the same in stored bytes, run headers included",
    "partitions_100k_100B_stored": "the same in stored bytes, run headers included",
    "partitions_100k_spread_100B": "durable 100 B, spread over 100,000 partitions by the library",
    "reopen_killed_100GiB": "first durable message after SIGKILL, 100 GiB retained (segments with holes for bodies)",
    "reopen_killed_100GiB_full_tail": "first durable message after SIGKILL, 100 GiB retained, the last segment nearly full",
}

# what stands in README.md beside every figure that misses its bar
HEADLINES = ("durable_100B_poll_caller_p50", "durable_100B_event_pinned_p50", "durable_1KiB_steady_fio", "durable_64KiB_steady_fio",
             "durable_100B_many", "durable_100B_many_lmdb", "roundtrip_100B_volatile_p50", "oneway_100B_volatile", "mailbox_roundtrip_p50",
             "quorum_ack_p50", "failover_p99", "alloc_free_1k", "model_durable_64_event_cpu", "backlog_1KiB", "lookup_offset_reads", "reopen_killed_100GiB_full_tail", "idle_cpu_event")


def number(x):
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"


def compared(line):
    """What is held against the bar, in words."""
    if line["measure"] == "ratio":
        return f"{line['mid']:.2f} × [{line['low']:.2f} … {line['high']:.2f}]"
    if line["measure"] == "difference":
        return f"{line['mid'] * 100:+.0f} % [{line['low'] * 100:+.0f} … {line['high'] * 100:+.0f}]"
    return f"[{number(line['low'])} … {number(line['high'])}]"


def bar_of(line):
    if line.get("bar") is None or line["sense"] == "none":
        return "–"
    sign = "≤" if line["sense"] == "at most" else "≥"
    if line["measure"] == "ratio":
        return f"{sign} {line['bar']:g} ×"
    if line["measure"] == "difference":
        return f"{sign} {line['bar'] * 100:+.0f} %"
    return f"{sign} {line['bar']:g} {line['unit']}"


def rival_of(line):
    if not line.get("rival_value"):
        return line.get("rival") or "–"
    return f"{number(line['rival_value'])} {line['unit']} ({line['rival']})"


def table(lines):
    out = ["| | measured | beside it, in the same run | compared | bar | |", "|---|---:|---:|---:|---:|---|"]
    for line in lines:
        out.append(
            f"| {WORDS.get(line['name'], line['name'])} | {number(line['value'])} {line['unit']} | {rival_of(line)} "
            f"| {compared(line)} | {bar_of(line)} | {line['verdict'] if line['verdict'] != '-' else ''} |"
        )
    return "\n".join(out)


def drawing(lines):
    """One row for each figure with a bar: where it and its interval stand, the bar being 1."""
    rows = []
    for line in lines:
        if line.get("bar") in (None, 0) or line["sense"] == "none" or line["measure"] == "difference":
            continue
        scale = [line["low"] / line["bar"], line["mid"] / line["bar"], line["high"] / line["bar"]]
        if line["sense"] == "at least":
            scale = sorted(1 / max(x, 1e-9) for x in scale)
        rows.append((WORDS.get(line["name"], line["name"]), scale, line["verdict"]))
    height, left, width = 26 * len(rows) + 70, 600, 340
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="14" font-weight="bold">How far each figure is from its bar (left of the line is better)</text>',
    ]
    x_of = lambda v: left + min(v, 2.0) / 2.0 * width
    for i, (name, (low, mid, high), verdict) in enumerate(rows):
        y = 50 + 26 * i
        colour = {"ok": "#2a7f4f", "MISS": "#b3261e"}.get(verdict, "#8a6d1a")
        svg.append(f'<text x="12" y="{y + 4}">{escape(name)}</text>')
        svg.append(f'<line x1="{x_of(low):.1f}" y1="{y}" x2="{x_of(high):.1f}" y2="{y}" stroke="{colour}" stroke-width="6" opacity="0.35"/>')
        svg.append(f'<circle cx="{x_of(mid):.1f}" cy="{y}" r="4.5" fill="{colour}"/>')
    svg.append(f'<line x1="{x_of(1):.1f}" y1="36" x2="{x_of(1):.1f}" y2="{height - 24}" stroke="#333" stroke-dasharray="4 3"/>')
    svg.append(f'<text x="{x_of(1):.1f}" y="{height - 8}" text-anchor="middle">the bar</text>')
    svg.append(f'<text x="{left}" y="{height - 8}" text-anchor="middle">0</text>')
    svg.append(f'<text x="{x_of(2):.1f}" y="{height - 8}" text-anchor="middle">twice as bad</text>')
    svg.append("</svg>\n")
    return "\n".join(svg)


def fragmentation_drawing(ages):
    """Over the pool's life, in operations on a logarithmic axis: what rounding wastes, and the largest free block."""
    left, width, high, top = 70, 560, 180, 50
    first, last = math.log10(ages[0][0]), math.log10(ages[-1][0])
    x_of = lambda n: left + (math.log10(n) - first) / (last - first) * width
    most = max(a[2] for a in ages)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 80} {top + high + 60}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="12" y="22" font-size="14" font-weight="bold">A core\'s pool in a long life: waste by rounding, and the largest free block</text>',
    ]
    for e in range(math.ceil(first), math.floor(last) + 1):
        x = x_of(10.0**e)
        svg.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + high}" stroke="#ddd"/>')
        svg.append(f'<text x="{x:.1f}" y="{top + high + 18}" text-anchor="middle">10^{e}</text>')
    svg.append(f'<text x="{left + width / 2}" y="{top + high + 40}" text-anchor="middle">operations</text>')
    for share in (0, 0.25, 0.5):
        y = top + high - share / 0.5 * high
        svg.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#ddd"/>')
        svg.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#1f5fa8">{share * 100:.0f} %</text>')
        svg.append(f'<text x="{left + width + 8}" y="{y + 4:.1f}" fill="#b5651d">{share / 0.5 * most / 1024:.0f} MiB</text>')
    for colour, value in (("#1f5fa8", lambda a: a[1] / 0.5), ("#b5651d", lambda a: a[2] / most)):
        points = " ".join(f"{x_of(a[0]):.1f},{top + high - value(a) * high:.1f}" for a in ages)
        svg.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    svg.append(f'<text x="{left}" y="{top - 8}" fill="#1f5fa8">wasted share of what is used</text>')
    svg.append(f'<text x="{left + width}" y="{top - 8}" text-anchor="end" fill="#b5651d">largest free block</text>')
    svg.append("</svg>\n")
    return "\n".join(svg)


# ---------------------------------------------------------------------- rivals

RIVALS_BEGIN = "<!-- RIVALS: written by bench/report.py from a run of bench/run.sh; no number may stand here that was not\nmeasured in the same run as what it is compared with. -->\n"
RIVALS_END = "<!-- END RIVALS -->"
COPIES_BEGIN = "<!-- COPIES: written by bench/report.py from a run of bench/run.sh --only copies rivals -->\n"
COPIES_END = "<!-- END COPIES -->"
SIZES = {100: "100 B", 1024: "1 KiB", 16384: "16 KiB"}
KINDS = {
    "durable": ("durable", "group commit"),
    "written": ("written", "asynchronous flush"),
    "memory": ("memory", "asynchronous flush"),
}


def faster(line):
    """How many times faster than the rival we are, with the interval: latencies the other way round than rates."""
    low, mid, high = line["low"], line["mid"], line["high"]
    if line["unit"] == "us":
        low, mid, high = (1 / max(x, 1e-9) for x in (high, mid, low))
    return low, mid, high


def times(x):
    return f"{x:.3f}" if x < 0.1 else f"{x:.2f}" if x < 10 else f"{x:,.0f}"


def factor(line):
    low, mid, high = faster(line)
    return f"**{times(mid)}** [{times(low)} … {times(high)}]"


def cells_of(lines, table):
    """{(row key, size): {metric: line}} in the order of the lines."""
    cells = {}
    for line in lines:
        if line.get("table") == table:
            key = line["kind"] if table == "mechanism" else line["system"]
            cells.setdefault((key, line["size"]), {})[line["metric"]] = line
    return cells


def rivals_rows(cells):
    rows = []
    for key, _ in cells:
        if key not in rows:
            rows.append(key)
    return rows


def systems_table(cells, proves="durable"):
    out = []
    for size in SIZES:
        rows = [key for key in rivals_rows(cells) if (key, size) in cells]
        if not rows:
            continue
        out += [
            f"#### {SIZES[size]}, {proves}",
            "",
            "| | one at a time: p50 µs | p99 µs | faster, p50 | faster, p99 | many: thousand/s | faster | its batch |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        ours = cells[rows[0], size]
        out.append(
            f"| libthundermq | {number(ours['one_p50']['value'])} | {number(ours['one_p99']['value'])} | | "
            f"| {number(ours['many']['value'])} | | |"
        )
        for key in rows:
            c = cells[key, size]
            out.append(
                f"| {key}{' (server)' if c['many']['server'] else ''} | {number(c['one_p50']['rival_value'])} "
                f"| {number(c['one_p99']['rival_value'])} | {factor(c['one_p50'])} | {factor(c['one_p99'])} "
                f"| {number(c['many']['rival_value'])} | {factor(c['many'])} | {c['many']['batch']:,} |"
            )
        out.append("")
    return out


def mechanism_table(cells):
    heads = {"one_p50": "one at a time, p50 µs", "one_p99": "p99 µs", "out64_p50": "64 outstanding, p50 µs", "out64_p99": "p99 µs",
             "many": "many outstanding, thousand/s"}
    out = []
    for key in rivals_rows(cells):
        proves = next(c["many"]["proves"] for (k, _), c in cells.items() if k == key)
        out += [
            f"#### {KINDS[key][0]}, beside mapped files with {KINDS[key][1]} (its answer: {proves})",
            "",
            "| | | libthundermq | mapped files | faster |",
            "|---|---|---:|---:|---:|",
        ]
        for size in SIZES:
            for metric, head in heads.items():
                line = cells.get((key, size), {}).get(metric)
                if line:
                    stored = f" ({number(line['stored'])} until flushed)" if metric == "many" and key != "durable" else ""
                    out.append(f"| {SIZES[size] if metric == 'one_p50' else ''} | {head} | {number(line['value'])} "
                               f"| {number(line['rival_value'])}{stored} | {factor(line)} |")
        out.append("")
    return out


def rivals_drawing(systems, copies, mechanism):
    """Two panels, one at a time and many: how many times faster we are than each rival, on a logarithmic axis."""
    rows = [(key, cells) for cells in (systems, copies, mechanism) for key in rivals_rows(cells)]
    panels = (("one_p50", "one at a time, p50"), ("many", "many outstanding"))
    points = [faster(cells[key, size][metric]) for key, cells in rows for size in SIZES for metric, _ in panels
              if metric in cells.get((key, size), {})]
    low = math.floor(math.log10(max(min((p[0] for p in points), default=1), 1e-4)) - 0.05)
    high = max(math.ceil(math.log10(max((p[2] for p in points), default=1)) + 0.05), low + 1)
    left, width, gap, step = 240, 460, 60, 44
    height = 96 + step * len(rows)
    colours = {100: "#1f5fa8", 1024: "#b5651d", 16384: "#2a7f4f"}
    total = left + 2 * width + gap + 30
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="12" y="22" font-size="14" font-weight="bold">How many times faster than each rival (right of 1: libthundermq is faster)</text>',
    ]
    for i, (size, name) in enumerate(SIZES.items()):
        svg.append(f'<circle cx="{18 + 80 * i}" cy="40" r="4.5" fill="{colours[size]}"/><text x="{28 + 80 * i}" y="44">{name}</text>')
    for p, (metric, title) in enumerate(panels):
        x0 = left + p * (width + gap)
        x_of = lambda v, x0=x0: x0 + (min(max(math.log10(max(v, 1e-9)), low), high) - low) / (high - low) * width
        svg.append(f'<text x="{x0 + width / 2:.0f}" y="60" text-anchor="middle" font-weight="bold">{title}</text>')
        for e in range(low, high + 1):
            x = x_of(10.0**e)
            style = 'stroke="#333"' if e == 0 else 'stroke="#ddd"'
            svg.append(f'<line x1="{x:.1f}" y1="68" x2="{x:.1f}" y2="{height - 24}" {style}/>')
            power = str(10**e) if 0 <= e < 3 else f"10^{e}"
            svg.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{power}</text>')
        for i, (key, cells) in enumerate(rows):
            y = 90 + step * i
            if p == 0:
                name = f"mapped files, {KINDS[key][1]}" if cells is mechanism else key
                svg.append(f'<text x="12" y="{y + 4}">{escape(name)}</text>')
                ours = KINDS[key][0] if cells is mechanism else "three brokers" if cells is copies else None
                if ours:
                    svg.append(f'<text x="12" y="{y + 18}" fill="#666">(ours: {ours})</text>')
            for k, size in enumerate(SIZES):
                line = cells.get((key, size), {}).get(metric)
                if not line:
                    continue
                a, m, b = faster(line)
                at = y - 10 + 10 * k
                svg.append(f'<line x1="{x_of(a):.1f}" y1="{at}" x2="{x_of(b):.1f}" y2="{at}" stroke="{colours[size]}" stroke-width="5" opacity="0.35"/>')
                svg.append(f'<circle cx="{x_of(m):.1f}" cy="{at}" r="4" fill="{colours[size]}"/>')
    svg.append("</svg>\n")
    return "\n".join(svg)


def replace_block(path, begin, end, block):
    """What stands from the line that begins with @begin to @end."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    first, last = text.index(begin), text.index(end) + len(end)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text[:first] + block + text[last:])


def not_measured(lines):
    """What was left out and what a short run is worth, in words."""
    out = []
    skipped = [f"{WORDS.get(line['name'], line['name'].removeprefix('rival_'))} ({line['why']})" for line in lines if line.get("verdict") == "skipped"]
    if skipped:
        out += [f"Not measured: {', '.join(skipped)}.", ""]
    if any(line["verdict"] == "smoke" for line in lines):
        out += ["**From a short run that only shows that it works: no figure of it means anything.**", ""]
    return out


def write_rivals(lines, machine, root):
    systems, mechanism = (cells_of(lines, name) for name in ("systems", "mechanism"))
    out = [
        "### Measured",
        "",
        f"On {machine}; a shared virtual machine with a virtual disk: only what stands side by side may be compared. Medians over",
        "rounds in which all take turns; \"faster\" says how many times faster libthundermq was in the same round, below 1 that the",
        "other was; in brackets the 95 % interval of that ratio's median.",
        "",
        "![how many times faster than each rival](rivals.svg)",
        "",
    ]
    if systems:
        out += ["### What one would take instead", ""] + systems_table(systems)
    if mechanism:
        out += ["### RocketMQ's storage mechanism", ""] + mechanism_table(mechanism)
    out += not_measured(lines)
    replace_block(os.path.join(root, "doc", "rivals.md"), "<!-- RIVALS", RIVALS_END, RIVALS_BEGIN + "\n".join(out) + RIVALS_END)
    with open(os.path.join(root, "doc", "rivals.svg"), "w", encoding="utf-8") as f:
        f.write(rivals_drawing(systems, {}, mechanism))


def write_copies(lines, machine, root):
    """Three beside three: what has a table of its own, so that it can be measured alone."""
    copies = cells_of(lines, "copies")
    out = [
        "### Measured",
        "",
        f"On {machine}; a shared virtual machine with a virtual disk. Medians over rounds in which all take turns; in brackets the 95 % interval of the",
        "median of the rounds' ratios.",
        "",
        "![how many times faster than three of each](copies.svg)",
        "",
    ]
    out += systems_table(copies, "on the media of a majority") + not_measured(lines)
    replace_block(os.path.join(root, "doc", "rivals.md"), "<!-- COPIES", COPIES_END, COPIES_BEGIN + "\n".join(out) + COPIES_END)
    with open(os.path.join(root, "doc", "copies.svg"), "w", encoding="utf-8") as f:
        f.write(rivals_drawing({}, copies, {}))


QUEUES_BEGIN = "<!-- QUEUES: written by bench/report.py from a run of bench/run.sh messaging -->\n"
QUEUES_END = "<!-- END QUEUES -->"
QUEUE_ROWS = (("work", "each message acknowledged by itself, thousand/s", 1e3), ("fan", "handed out to three groups, thousand/s", 1e3),
              ("ask", "request and reply, p50 µs", 1))


def queues_of(lines):
    """((rival's word, its name), how, row, its line), in the order of the table."""
    have = {line["name"]: line for line in lines if line["name"].startswith("queue_")}
    for word in ("redis", "nats", "rabbit"):
        for how in ("", "tcp_"):
            for row in QUEUE_ROWS:
                line = have.get(f"queue_{row[0]}_{how}{word}")
                if line:
                    yield word, how, row, line


def queues_table(lines):
    out = ["| | | libthundermq | the other | faster |", "|---|---|---:|---:|---:|"]
    for _, how, (word, text, unit), line in queues_of(lines):
        who = f"{line['rival']}; ours {'over loopback TCP' if how else 'in the program'}" if word == "work" else ""
        out.append(f"| {who} | {text} | {number(line['value'] / unit)} | {number(line['rival_value'] / unit)} | {factor(line)} |")
    return out


def queues_drawing(lines):
    rows = list(queues_of(lines))
    step, left, width = 26, 330, 520
    height = 76 + step * len(rows)
    high = max(1, math.ceil(math.log10(max((faster(r[3])[2] for r in rows), default=1))))
    low = min(0, math.floor(math.log10(min((faster(r[3])[0] for r in rows), default=1))))
    x_of = lambda v: left + (math.log10(v) - low) / (high - low) * width
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="12" y="22" font-size="14" font-weight="bold">As a message queue: how many times faster (right of 1: libthundermq is faster)</text>',
    ]
    for e in range(low, high + 1):
        x = x_of(10.0**e)
        svg.append(f'<line x1="{x:.1f}" y1="36" x2="{x:.1f}" y2="{height - 24}" stroke="{"#333" if e == 0 else "#ddd"}"/>')
        svg.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{10**e if e >= 0 else 10.0**e}</text>')
    for i, (_, how, (word, _, _), line) in enumerate(rows):
        a, m, b = faster(line)
        y = 52 + step * i
        what = {"work": "work, each acknowledged", "fan": "three groups", "ask": "request and reply"}[word]
        svg.append(f'<text x="12" y="{y + 4}">{escape(line["rival"])}, {"TCP" if how else "embedded"}: {what}</text>')
        svg.append(f'<line x1="{x_of(a):.1f}" y1="{y}" x2="{x_of(b):.1f}" y2="{y}" stroke="#1f5fa8" stroke-width="6" opacity="0.35"/>')
        svg.append(f'<circle cx="{x_of(m):.1f}" cy="{y}" r="4.5" fill="{"#b5651d" if how else "#1f5fa8"}"/>')
    svg.append("</svg>\n")
    return "\n".join(svg)


def write_queues(lines, machine, root):
    out = [
        "### Measured", "",
        f"On {machine}; a shared virtual machine. Medians over rounds in which both take turns; in brackets the 95 % interval of the median of",
        "the rounds' ratios.", "", "![how many times faster than each](queues.svg)", "",
    ] + queues_table(lines) + [""]
    replace_block(os.path.join(root, "doc", "rivals.md"), "<!-- QUEUES", QUEUES_END, QUEUES_BEGIN + "\n".join(out) + QUEUES_END)
    with open(os.path.join(root, "doc", "queues.svg"), "w", encoding="utf-8") as f:
        f.write(queues_drawing(lines))


KEPT = ("part", "name", "unit", "value", "rival", "rival_value", "measure", "mid", "low", "high", "sense", "bar", "verdict", "ages")


def with_kept(lines, path):
    """@lines and what was measured before under other names, parts together; the file gets all of it."""
    kept = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            kept = [json.loads(row) for row in f]
    fresh = {line["name"]: {k: line[k] for k in KEPT if k in line} for line in lines}
    out = [fresh.pop(line["name"], line) for line in kept]
    for line in fresh.values():
        at = [i for i, other in enumerate(out) if other["part"] == line["part"]]
        out.insert(at[-1] + 1 if at else len(out), line)
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(line) + "\n" for line in out)
    return out


def cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            for row in f:
                if row.startswith("model name"):
                    return row.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--machine", default=f"{os.cpu_count()} CPUs ({cpu_model()}), Linux {'.'.join(platform.release().split('.')[:2])}")
    p.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    args = p.parse_args()
    lines = [json.loads(row) for row in sys.stdin if row.startswith("{")]
    if not lines:
        sys.exit("report: no figures on standard input")
    rivals = [line for line in lines if line["part"] == "rivals"]
    copies = [line for line in rivals if line.get("table") == "copies" or line["name"].endswith("_copies")]
    rivals = [line for line in rivals if line not in copies]
    if any(line.get("table") for line in copies):
        write_copies(copies, args.machine, args.root)
    if any(line.get("table") for line in rivals):
        write_rivals(rivals, args.machine, args.root)
    # the sweep of the loads is bench/polling.py's
    lines = [line for line in lines if line["part"] != "rivals" and line["verdict"] != "skipped" and not line["name"].startswith(("load_", "elsewhere_"))]
    if not lines:
        return
    if any(line["verdict"] == "smoke" for line in lines):
        sys.exit("report: a short run, which only shows that it works, is not written down")
    lines = with_kept(lines, os.path.join(args.root, "doc", "measured.jsonl"))
    for line in lines:
        if line.get("ages"):
            with open(os.path.join(args.root, "doc", "fragmentation.svg"), "w", encoding="utf-8") as f:
                f.write(fragmentation_drawing(line["ages"]))
    if any(queues_of(lines)):
        write_queues(lines, args.machine, args.root)
    barred = [line for line in lines if bar_of(line) != "–"]
    headlines = [line for line in barred if line["name"] in HEADLINES or line["verdict"] == "MISS"]
    block = (
        BEGIN + "### Measured\n\n"
        f"On {args.machine}; a shared virtual machine, so that ratios say more than figures. The two left columns are medians,\n"
        "each of its own runs; *compared* is the median of the ratios (or differences) of the pairs of runs, in brackets with its 95 % interval, and need not\n"
        "be the ratio of the two columns. A bar holds where the whole interval is on its good side. `sh bench/run.sh commitlog commitlog-large` measures on yours.\n"
        "Here stand the headlines and all that misses its bar; every figure is in [doc/measured.md](doc/measured.md).\n\n"
        "![how far each figure is from its bar](doc/measured.svg)\n\n" + table(headlines) + "\n" + END
    )
    replace_block(os.path.join(args.root, "README.md"), "<!-- MEASURED", END, block)
    with open(os.path.join(args.root, "doc", "measured.md"), "w", encoding="utf-8") as f:
        f.write(ALL.format(machine=args.machine, table=table(lines)))
    with open(os.path.join(args.root, "doc", "measured.svg"), "w", encoding="utf-8") as f:
        f.write(drawing(lines))


main()
