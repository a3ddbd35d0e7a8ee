#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts the figures of the part polling into doc/polling.md and draws latency against processor time into doc/polling.svg.

usage: sh bench/run.sh --json polling | python3 bench/polling.py [--machine TEXT] [--root DIR]

Every figure stands beside those of the other policies in the same rounds. bench/report.py takes the same lines for README.md.
"""
import argparse
import json
import math
import os
import platform
import sys

BEGIN = "<!-- POLLING: written by bench/polling.py from a run of bench/run.sh; no number may stand here that was not\nmeasured in the same rounds as those beside it. -->\n"
END = "<!-- END POLLING -->"
POLICIES = ("poll", "event", "fixed", "ski", "adaptive", "predictive")
COLOURS = {"poll": "#b3261e", "event": "#1f5fa8", "fixed": "#8a6d1a", "ski": "#7a4fa3", "adaptive": "#2a7f4f", "predictive": "#333333"}
PANELS = (("inproc", "poisson", "in process, by chance"), ("inproc", "batches", "in process, 32 at a time"),
          ("inproc", "onoff", "in process, bursts and silences"), ("shm", "poisson", "another process, by chance"),
          ("tcp", "poisson", "over tcp, by chance"))


def number(x):
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"


def load_text(load):
    return "at rest" if load == 0 else "saturation" if load < 0 else f"{load / 1000:g} k/s"


def cells_of(lines):
    """{(medium, pattern): {load: {policy: line}}}"""
    cells = {}
    for line in lines:
        if line["name"].startswith("load_") and "policy" in line:
            patterns = [line["pattern"]] if line["load"] > 0 else [p for m, p, _ in PANELS if m == line["medium"]]
            for pattern in patterns:
                cells.setdefault((line["medium"], pattern), {}).setdefault(line["load"], {})[line["policy"]] = line
    return cells


def in_order(loads):
    return sorted(loads, key=lambda load: math.inf if load < 0 else load)


def load_table(by_load):
    policies = [p for p in POLICIES if any(p in row for row in by_load.values())]
    out = ["| load | " + " | ".join(policies) + " |", "|---|" + "---:|" * len(policies)]
    for load in in_order(by_load):
        row = []
        for policy in policies:
            line = by_load[load].get(policy)
            if not line:
                row.append("–")
            elif load == 0:
                row.append(f"{number(line['cpu_percent'])} %")
            elif load < 0:
                row.append(f"{number(line['per_second'] / 1000)} k/s")
            else:
                row.append(f"{number(line['p50_us'])} / {number(line['p99_us'])} / {number(line['p999_us'])} µs, {number(line['cpu_percent'])} %")
        out.append(f"| {load_text(load)} | " + " | ".join(row) + " |")
    return out


def economy_table(by_load):
    policies = [p for p in POLICIES if any(p in row for row in by_load.values())]
    out = ["| load | " + " | ".join(policies) + " |", "|---|" + "---:|" * len(policies)]
    for load in in_order(by_load):
        if load == 0:
            continue
        cells = (by_load[load].get(policy) for policy in policies)
        out.append(f"| {load_text(load)} | " + " | ".join(
            f"{number(c['per_cpu_second'] / 1000)} k, {number(c['wakeups_per_message'])}" if c else "–" for c in cells) + " |")
    return out


def overall_table(cells):
    """Cost of a message, processor time and what its latency is worth, by the best policy's at the same load: mean and worst over all loads."""
    loads = [row for by_load in cells.values() for load, row in by_load.items() if load > 0]
    loads = [row for row in loads if min(line["per_second"] for line in row.values()) > 0.98 * next(iter(row.values()))["load"]
             or next(iter(row.values()))["pattern"] != "poisson"]  # what no policy can carry says nothing about waiting
    policies = [p for p in POLICIES if all(p in row for row in loads)]
    if not loads or not policies:
        return []
    out = ["| latency is | worth | " + " | ".join(policies) + " |", "|---|---:|" + "---:|" * len(policies)]
    for key, what in (("p50_us", "p50"), ("p99_us", "p99")):
        for worth in (1, 10, 100):
            ratios = {p: [] for p in policies}
            for row in loads:
                cost = {p: row[p]["cpu_percent"] * 1e4 / row[p]["per_second"] + worth * row[p][key] for p in policies}
                for p in policies:
                    ratios[p].append(cost[p] / min(cost.values()))
            out.append(f"| {what} | {worth} | " + " | ".join(
                f"{math.exp(sum(map(math.log, ratios[p])) / len(ratios[p])):.2f}, {number(max(ratios[p]))}" for p in policies) + " |")
    return out


def gates_table(lines):
    out = ["| | measured | limit beside it | bar | |", "|---|---:|---:|---:|---|"]
    for line in lines:
        if line.get("verdict") == "skipped" or line["name"].startswith(("load_", "forecast_", "elsewhere_")):
            continue
        bar = "–" if line["sense"] == "none" else f"{'≤' if line['sense'] == 'at most' else '≥'} {line['bar']:g}"
        value = f"{number(line['mid'])}{' ×' if line['measure'] == 'ratio' else ' ' + line['unit']} [{number(line['low'])} … {number(line['high'])}]"
        out.append(f"| {line['name'].replace('_', ' ')} | {value} | {number(line.get('rival_value', 0))} ({line.get('rival', '')}) "
                   f"| {bar} | {line['verdict'] if line['verdict'] != '-' else ''} |")
    return out


def forecast_table(lines):
    out = ["| load | cost, predictive by adaptive | in charge | predictive: CPU, mean | adaptive: CPU, mean |", "|---|---:|---:|---:|---:|"]
    found = False
    for line in lines:
        if not line["name"].startswith("forecast_") or "pattern" not in line:
            continue
        found = True
        out.append(f"| {line['pattern']}, {load_text(line['load'])} | {line['mid']:.2f} [{line['low']:.2f} … {line['high']:.2f}] "
                   f"| {line['in_charge'] * 100:.0f} % of rounds | {number(line['cpu_percent'])} %, {number(line['mean_us'])} µs "
                   f"| {number(line['adaptive_cpu_percent'])} %, {number(line['adaptive_mean_us'])} µs |")
    return out if found else []


def elsewhere_table(lines):
    rows = {}
    for line in lines:
        if line["name"].startswith("elsewhere_") and "series" in line:
            rows.setdefault(line["series"], {})[f"{line['what']}, {line['model']}"] = line
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    if not rows:
        return []
    out = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for series, row in rows.items():
        cells = (row.get(head) for head in heads)
        out.append(f"| {series.replace('_', ' ')} | " + " | ".join(f"{c['mid']:.2f} [{c['low']:.2f} … {c['high']:.2f}]" if c else "–" for c in cells) + " |")
    return out


def drawing(cells):
    """A panel for each way; a line for each policy through its loads: to the left is cheaper, below is faster."""
    panels = [(title, cells[medium, pattern]) for medium, pattern, title in PANELS if (medium, pattern) in cells]
    values = [line["p99_us"] for _, by_load in panels for load, row in by_load.items() if load > 0 for line in row.values() if line["p99_us"] > 0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    width, height, left, top, gap = 320, 240, 60, 74, 70
    columns = 2
    rows = (len(panels) + columns - 1) // columns
    total_w, total_h = left + columns * (width + gap), top + rows * (height + gap)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_w} {total_h}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="12" y="22" font-size="14" font-weight="bold">Latency (p99) against processor time, each point a load: left is cheaper, below is faster</text>',
    ]
    shown = [p for p in POLICIES if any(p in row for _, by_load in panels for row in by_load.values())]
    for i, policy in enumerate(shown):
        svg.append(f'<circle cx="{18 + 100 * i}" cy="40" r="4.5" fill="{COLOURS[policy]}"/><text x="{28 + 100 * i}" y="44">{policy}</text>')
    for n, (title, by_load) in enumerate(panels):
        x0, y0 = left + (n % columns) * (width + gap), top + (n // columns) * (height + gap)
        x_of = lambda v, x0=x0: x0 + min(max(v, 0), 100) / 100 * width
        y_of = lambda v, y0=y0: y0 + height - (math.log10(max(v, 10.0**low)) - low) / (high - low) * height
        svg.append(f'<text x="{x0 + width / 2:.0f}" y="{y0 - 8}" text-anchor="middle" font-weight="bold">{title}</text>')
        for e in range(low, high + 1):
            svg.append(f'<line x1="{x0}" y1="{y_of(10.0**e):.1f}" x2="{x0 + width}" y2="{y_of(10.0**e):.1f}" stroke="#ddd"/>')
            svg.append(f'<text x="{x0 - 6}" y="{y_of(10.0**e) + 4:.1f}" text-anchor="end">{10.0**e:g} µs</text>')
        for share in (0, 25, 50, 75, 100):
            svg.append(f'<line x1="{x_of(share):.1f}" y1="{y0}" x2="{x_of(share):.1f}" y2="{y0 + height}" stroke="#eee"/>')
            svg.append(f'<text x="{x_of(share):.1f}" y="{y0 + height + 16}" text-anchor="middle">{share} %</text>')
        for policy in shown:
            points = [(by_load[load][policy], load) for load in in_order(by_load) if load > 0 and policy in by_load[load]]
            path = " ".join(f"{x_of(c['cpu_percent']):.1f},{y_of(c['p99_us']):.1f}" for c, _ in points)
            svg.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[policy]}" stroke-width="1.5" opacity="0.6"/>')
            for c, load in points:
                svg.append(f'<circle cx="{x_of(c["cpu_percent"]):.1f}" cy="{y_of(c["p99_us"]):.1f}" r="3.5" fill="{COLOURS[policy]}">'
                           f"<title>{policy}, {load_text(load)}: {number(c['p99_us'])} µs, {number(c['cpu_percent'])} %</title></circle>")
    svg.append("</svg>\n")
    return "\n".join(svg)


def replace_block(path, begin, end, block):
    """What stands from the line that begins with @begin to @end."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    first, last = text.index(begin), text.index(end) + len(end)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text[:first] + block + text[last:])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--machine", default=f"{os.cpu_count()} CPUs, Linux {'.'.join(platform.release().split('.')[:2])}")
    p.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    args = p.parse_args()
    lines = [json.loads(row) for row in sys.stdin if row.startswith("{")]
    lines = [line for line in lines if line["part"] == "polling"]
    cells = cells_of(lines)
    if not lines:
        sys.exit("polling: no figures of the part polling on standard input")
    out = [f"On {args.machine}; a shared virtual machine, so that only what stands side by side may be compared. Medians over rounds in which the",
           "policies take turns.", ""]
    if any(line.get("verdict") == "smoke" for line in lines):
        out += ["**From a short run that only shows that it works: no figure of it means anything.**", ""]
    gates = gates_table(lines)
    if len(gates) > 2:
        out += ["### What has to be kept", "", "Idle and ping are differences to the limit; saturation is a share of it.", ""] + gates + [""]
    if cells:
        out += ["### Latency and processor time", "", "![latency against processor time](polling.svg)", "",
                "p50 / p99 / p99.9 of a message from when it should have been sent to when the application saw it settled; the core's share of a processor.", ""]
        for medium, pattern, title in PANELS:
            if (medium, pattern) in cells:
                out += [f"#### {title}", ""] + load_table(cells[medium, pattern]) + [""]
                if pattern == "poisson":
                    out += ["Messages for a second of the core's processor time (thousands), and wake-ups for a message:", ""]
                    out += economy_table(cells[medium, pattern]) + [""]
        overall = overall_table(cells)
        if overall:
            out += ["#### Over all loads", "", "Cost of a message (processor time, and its latency times what that is worth) by that of the best policy at the same load: mean, worst.",
                    "`poll` never rests.", ""] + overall + [""]
        with open(os.path.join(args.root, "doc", "polling.svg"), "w", encoding="utf-8") as f:
            f.write(drawing(cells))
    forecast = forecast_table(lines)
    if forecast:
        out += ["### Predictive beside adaptive", "",
                "Cost of a message: processor time of core and forecaster, and ten times its latency. Below 1 predictive wins; where it was in charge in no round",
                "the two are one policy, and what differs is noise and the forecaster's own time.", ""] + forecast + [""]
    elsewhere = elsewhere_table(lines)
    if elsewhere:
        out += ["### Elsewhere", "",
                "What else might be decided by a forecast of the next tenth of a second, in models and in virtual time, relative to \"as in the last tick\" (below 1 the forecast",
                "wins): *ready*, what lies idle of receive buffers that are posted so that one tick in twenty needs more; *slabs*, how many are fetched too late, beside fetching",
                "none before they are needed, and *slabsidle*, those that are held for nothing then; *cap*, the share of a processor above a cap that is",
                "told of rises before, and *capwait* what messages then wait for, which is its price; *group*, the cost of writing and waiting where a log waits for company if enough is expected.", ""] + elsewhere + [""]
    replace_block(os.path.join(args.root, "doc", "polling.md"), "<!-- POLLING", END, BEGIN + "\n".join(out) + END)


main()
