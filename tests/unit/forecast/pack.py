#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs reference vectors into one file for forecast_reference_test.c: pack.py FOLDER > reference.f64

FOLDER has x_*, emd_*, iceemdan_*_snr[12], noise_* and y_* as CSV files of numbers. README.md beside this tells where they are
from. A record: name (32 bytes, zeros behind), rows and columns (two little-endian 32-bit numbers), rows x columns doubles."""
import glob
import os
import struct
import sys

folder = sys.argv[1]
for pattern in ("noise_*", "x_*", "emd_*", "iceemdan_*", "y_*"):
    for path in sorted(glob.glob(os.path.join(folder, pattern + ".csv"))):
        with open(path) as f:
            rows = [[float(v) for v in line.split(",")] for line in f if line.strip()]
        if pattern == "y_*":
            rows = [[v for row in rows for v in row]]
        name = os.path.splitext(os.path.basename(path))[0].encode()
        sys.stdout.buffer.write(struct.pack("<32sII", name, len(rows), len(rows[0])))
        for row in rows:
            sys.stdout.buffer.write(struct.pack("<%dd" % len(row), *row))
