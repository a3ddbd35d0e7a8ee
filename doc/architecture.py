#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws doc/architecture.svg: the rooms with what they may call, and a message's way. Run it in doc/ after a change."""

out = []


def box(x, y, w, h, text, note="", cls="room"):
    out.append(f'<rect class="{cls}" x="{x}" y="{y}" width="{w}" height="{h}" rx="6"/>')
    ty = y + h / 2 + (5 if not note else -3)
    out.append(f'<text class="name" x="{x + w / 2}" y="{ty}">{text}</text>')
    if note:
        out.append(f'<text class="note" x="{x + w / 2}" y="{ty + 17}">{note}</text>')


def arrow(x1, y1, x2, y2, cls="call"):
    out.append(f'<line class="{cls}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" marker-end="url(#{cls})"/>')


def label(x, y, text, cls="note", anchor="middle"):
    out.append(f'<text class="{cls}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>')


# ---------------------------------------------------------------- the rooms
def rooms():
    label(270, 30, "Rooms: calls go down, news goes up", "title")
    rows = [
        (50, [("api", "thmq_… calls: check, call down", 500, "room")]),
        (130, [("broker", "topics, groups, delivery", 245, "room"), ("client", "session, producer, consumer", 245, "room")]),
        (210, [("replica", "planned: copies by raft_step", 205, "planned")]),
        (290, [("commitlog", "batches, segments, recovery", 245, "room"),
               ("transport", "inproc; shm, tcp, rdma planned", 245, "room")]),
        (370, [("disk", "io_uring, threads, inline, simulated", 245, "room")]),
        (450, [("reactor", "cores: the loop, timers, mailboxes, waiting", 500, "room")]),
        (530, [("ring", "io_uring", 118, "room"), ("memory", "the pool", 118, "room"), ("wire", "frames, runs", 118, "room"),
               ("forecast", "of traffic", 116, "room")]),
        (610, [("topology", "which processor", 245, "room"), ("base", "errors, clock, checksums", 245, "room")]),
    ]
    for y, row in rows:
        x = 60 if row[0][0] == "replica" else 20
        for name, note, w, cls in row:
            box(x, y, w, 50, name, note, cls)
            x += w + 10
    for x1, y1, x2, y2 in [
        (142, 100, 142, 130), (397, 100, 397, 130),      # api
        (40, 180, 40, 290), (160, 180, 160, 210),        # broker
        (250, 180, 320, 290),                            # broker to transport
        (397, 180, 397, 290),                            # client
        (160, 260, 160, 290), (235, 260, 300, 290),      # replica
        (142, 340, 142, 370),                            # commitlog
        (397, 340, 397, 450),                            # transport
        (142, 420, 142, 450),                            # disk
        (79, 500, 79, 530), (207, 500, 207, 530),        # reactor
        (142, 580, 142, 610), (397, 580, 397, 610),
    ]:
        arrow(x1, y1, x2, y2)
    label(270, 690, "A room may call any row below its own. broker and client meet only in transport;")
    label(270, 708, "commitlog and transport never see each other. meson.build enforces it.")


# ------------------------------------------------------------ a message's way
def way():
    x0 = 570
    label(x0 + 260, 30, "A message's way", "title")
    lanes = [(x0, 160, "the app's thread", "client"), (x0 + 180, 180, "the shard's core", "broker, commitlog"),
             (x0 + 380, 140, "the device", "disk, ring")]
    for x, w, name, rooms_ in lanes:
        out.append(f'<rect class="lane" x="{x}" y="50" width="{w}" height="610" rx="6"/>')
        label(x + w / 2, 70, name, "name")
        label(x + w / 2, 87, rooms_)
    a, c, d = lanes[0][0] + 10, lanes[1][0] + 10, lanes[2][0] + 10
    box(a, 105, 140, 44, "1 claim", "room in the data area", "step")
    box(a, 170, 140, 44, "2 commit", "a frame of 64 bytes", "step")
    box(c, 170, 160, 44, "3 gather", "frames become a run", "step")
    box(c, 240, 160, 44, "4 append", "the run joins the batch", "step")
    box(c, 310, 160, 44, "5 seal", "header, checksums, chain", "step")
    box(d, 310, 120, 44, "6 write", "O_DIRECT, DSYNC", "step")
    box(d, 385, 120, 44, "on the medium", "", "step")
    box(c, 385, 160, 44, "7 settled, in order", "the batch is durable", "step")
    box(a, 385, 140, 44, "8 watermark", "flush, events", "step")
    box(c, 460, 160, 44, "9 visible", "readers are woken", "step")
    box(c, 530, 160, 44, "10 deliver", "a frame with the run", "step")
    box(a, 530, 140, 44, "11 fetch", "a view, no copy", "step")
    box(a, 600, 140, 44, "12 ack, release", "", "step")
    box(c, 600, 160, 44, "13 group offset", "a run of its own: 4 …", "step")
    for x1, y1, x2, y2 in [
        (a + 70, 149, a + 70, 170), (a + 140, 192, c, 192), (c + 80, 214, c + 80, 240), (c + 80, 284, c + 80, 310),
        (c + 160, 332, d, 332), (d + 60, 354, d + 60, 385), (d, 407, c + 160, 407), (c, 407, a + 140, 407),
        (c + 80, 429, c + 80, 460), (c + 80, 504, c + 80, 530), (c, 552, a + 140, 552), (a + 70, 574, a + 70, 600),
        (a + 140, 622, c, 622),
    ]:
        arrow(x1, y1, x2, y2, "way")
    label(x0 + 260, 690, "One core does 3 to 13 for its shard, without a lock. Payload bytes are copied once, in 3.")
    label(x0 + 260, 708, "While a write is in flight, what arrives becomes the next batch.")


out.append("""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1110 725" font-family="sans-serif">
<title>The rooms of libthundermq and a message's way through them</title>
<style>
.bg { fill: #ffffff } .room { fill: #e8f0fa; stroke: #35608f } .planned { fill: #f6f6f6; stroke: #999; stroke-dasharray: 5 4 }
.lane { fill: #fafaf5; stroke: #c9c9b8 } .step { fill: #fdf1dc; stroke: #b07a1c }
.title { font-size: 18px; font-weight: bold; text-anchor: middle; fill: #222 }
.name { font-size: 15px; text-anchor: middle; fill: #222 } .note { font-size: 11.5px; text-anchor: middle; fill: #555 }
.call { stroke: #35608f; stroke-width: 1.3 } .way { stroke: #b07a1c; stroke-width: 1.8 }
</style>
<defs>
<marker id="call" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#35608f"/></marker>
<marker id="way" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#b07a1c"/></marker>
</defs>
<rect class="bg" x="0" y="0" width="1110" height="725"/>""")
rooms()
way()
out.append("</svg>")
with open("architecture.svg", "w", encoding="utf-8") as f:
    f.write("\n".join(out) + "\n")
