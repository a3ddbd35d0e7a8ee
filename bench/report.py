#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts measured figures into README.md and a drawing of them into doc/measured.svg.

usage: sh bench/run.sh --json commitlog | python3 bench/report.py [--machine TEXT] [--root DIR]

Each figure stands beside its rival or limit of the same run, with the 95 % interval over the pairs of runs.
"""
import argparse
import json
import os
import platform
import sys
from xml.sax.saxutils import escape

BEGIN = "<!-- MEASURED: written by bench/report.py from a run of bench/run.sh; no number may stand here that was not\nmeasured in the same run as its rival or limit. -->\n"
END = "<!-- END MEASURED -->"

WORDS = {
    "durable_100B_poll_caller_p50": "one durable 100 B message at a time, p50, policy poll, caller-driven",
    "durable_100B_poll_caller_p99": "the same, p99 by the paired difference",
    "durable_100B_poll_pinned_p50": "the same, p50, a core of the library's own",
    "durable_100B_poll_pinned_p99": "the same, p99",
    "durable_100B_event_caller_p50": "policy event, p50, caller-driven",
    "durable_100B_event_caller_p99": "the same, p99",
    "durable_100B_event_pinned_p50": "policy event, p50, a core of the library's own",
    "durable_100B_event_pinned_p99": "the same, p99",
    "durable_100B_event_pinned_flush_p50": "policy event, a plain write and a flush, p50",
    "durable_100B_event_pinned_flush_p99": "the same, p99",
    "durable_100B_fixed_pinned_flush_p50": "policy fixed, a plain write and a flush, p50",
    "durable_100B_fixed_pinned_flush_p99": "the same, p99",
    "durable_1KiB_growing": "durable 1 KiB, many outstanding, while the log grows",
    "durable_1KiB_steady": "durable 1 KiB, many outstanding, prepared segments",
    "durable_100B_many": "durable 100 B, many outstanding, one core",
    "durable_100B_many_lmdb": "the same beside LMDB",
    "durable_100B_many_caller": "durable 100 B, many outstanding, caller-driven: one CPU for all",
    "durable_100B_many_caller_lmdb": "the same beside LMDB",
    "roundtrip_100B_volatile_p50": "round trip in memory, volatile topic, p50",
    "roundtrip_100B_volatile_p99": "the same, p99",
    "oneway_100B_volatile": "one way in memory, one by one, volatile topic",
    "oneway_100B_volatile_far": "the same, on two CPUs that share no cache",
    "roundtrip_100B_logged_p50": "round trip in memory, logged topic, p50",
    "roundtrip_100B_logged_p99": "the same, p99",
    "oneway_100B_logged": "one way in memory, one by one, logged topic",
    "oneway_100B_logged_far": "the same, on two CPUs that share no cache",
    "first_open_caller": "first open of a fresh directory, caller-driven",
    "first_open_pinned": "the same, with a core of the library's own",
    "idle_cpu_event": "an open broker at rest, policy event: share of a CPU",
}


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
    height, left, width = 26 * len(rows) + 70, 430, 360
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
    block = (
        BEGIN + "### Measured\n\n"
        f"On {args.machine}; a shared virtual machine, so that ratios say more than figures. Medians over pairs of runs, in brackets the 95 %\n"
        "interval. A bar holds where the whole interval is on its good side. `sh bench/run.sh commitlog` measures on yours.\n\n"
        "![how far each figure is from its bar](doc/measured.svg)\n\n" + table(lines) + "\n" + END
    )
    readme = os.path.join(args.root, "README.md")
    with open(readme, encoding="utf-8") as f:
        text = f.read()
    begin, end = text.index("<!-- MEASURED"), text.index(END) + len(END)
    with open(readme, "w", encoding="utf-8") as f:
        f.write(text[:begin] + block + text[end:])
    with open(os.path.join(args.root, "doc", "measured.svg"), "w", encoding="utf-8") as f:
        f.write(drawing(lines))


main()
