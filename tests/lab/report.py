#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts the figures of transport_rdma_bench, as the emulated machine has shown them, into doc/rdma.md.

usage: sh tests/lab/run.sh --full transport_rdma_bench && python3 tests/lab/report.py build-tests/lab/transport_rdma_bench.lines [ROOT]
"""
import json
import os
import statistics
import sys

PAGE = """# RDMA, measured

Written by tests/lab/report.py from a run of `sh tests/lab/run.sh --full transport_rdma_bench`: {kernel}, emulated without any help of the
processor, two Soft-RoCE ports on the two ends of a virtual cable. What is counted is exact, and has the bars; times there are two- to threefold
apart from run to run, and say only how things stand to each other on the same cable in the same minutes. No figure here is a product's.

## What a message costs

Counted on both sides together, from the sending to the end of the fetch, per message.

| | one of 64 B there and back | 100 B, many at a time | 256 KiB, sixteen at a time |
|---|---:|---:|---:|
{counts}

In brackets the bar. What is copied is what our processor copies: not what the device reads and writes in place, and not the one copy of a message into the
log's batch.

## Times

Medians of pairs that take turns; in brackets the 95 % interval of the ratio.

| | RDMA | our TCP on the same cable | RDMA to TCP |
|---|---:|---:|---:|
{times}
{perftest}"""

NAMES = {
    "rdma_round_trip": "64 B there and back through a volatile topic, p50",
    "rdma_small": "100 B, many at a time, there and back",
    "rdma_large": "256 KiB, there and back",
    "rdma_produce": "64 B to its durable acknowledgement, p50",
}
COUNTS = {
    "requests": "requests to the device (sends, reads, writes)",
    "doorbells": "calls that post them",
    "receive_doorbells": "calls that post receives",
    "completions": "completions",
    "polls": "looks at a completion queue",
    "arms": "completion queues armed before a sleep",
    "wakes": "reads of their channel: system calls",
    "copied": "bytes copied per byte",
}
KINDS = ("rdma_round_trip", "rdma_small", "rdma_large")
PERFTEST = {
    "send_64B_one_way": "`ib_send_lat`: 64 B, one way",
    "read_256KiB": "`ib_read_lat`: one READ of 256 KiB",
    "read_256KiB_bandwidth": "`ib_read_bw`: READs of 256 KiB",
}


def number(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def counts(lines, calls):
    rows = []
    for what, words in COUNTS.items():
        cells = []
        for kind in KINDS:
            line = lines[f"{kind}_{what}"]
            cells.append(number(line["value"]) + (f" (≤ {line['bar']:g})" if line["bar"] > 0 else ""))
        rows.append(f"| {words} | {' | '.join(cells)} |")
    if all(kind in calls for kind in KINDS):
        own = (number(calls[kind][0]) + (f" (≤ {calls[kind][2]:g})" if calls[kind][2] else "") for kind in KINDS)
        rows.append(f"| system calls, but for requests to the device, which are such only with Soft-RoCE | {' | '.join(own)} |")
    return "\n".join(rows)


def times(lines):
    return "\n".join(
        f"| {words} | {number(line['value'])} {line['unit']} | {number(line['rival_value'])} {line['unit']} "
        f"| {line['mid']:.2f} × [{line['low']:.2f} … {line['high']:.2f}] |"
        for name, words in NAMES.items()
        for line in [lines[name]]
    )


def perftest(values):
    if not values:
        return ""
    rows = "\n".join(f"| {PERFTEST[name]} | {number(statistics.median(v))} {unit} | {len(v)} |" for (name, unit), v in values.items())
    return f"\nBare verbs on the same cable, by perftest (Debian's package), before and after those pairs:\n\n| | median | runs |\n|---|---:|---:|\n{rows}\n"


def main():
    lines, values, calls, kernel = {}, {}, {}, "Linux"
    with open(sys.argv[1], encoding="utf-8") as f:
        for text in f:
            if text.startswith("{"):
                line = json.loads(text)
                lines[line["name"]] = line
            elif text.startswith("perftest "):
                _, name, value, unit = text.split()
                values.setdefault((name, unit), []).append(float(value))
            elif text.startswith("calls "):
                _, kind, own, bells, *bar = text.split()
                calls["rdma_" + kind] = (max(float(own), 0), float(bells), float(bar[0]) if bar else 0)
            elif text.startswith("kernel "):
                kernel = "Linux " + text.split()[1]
    root = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(__file__), "..", "..")
    with open(os.path.join(root, "doc", "rdma.md"), "w", encoding="utf-8") as f:
        f.write(PAGE.format(kernel=kernel, counts=counts(lines, calls), times=times(lines), perftest=perftest(values)))


if __name__ == "__main__":
    main()
