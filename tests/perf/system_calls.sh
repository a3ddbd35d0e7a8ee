#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# System calls per durable message at full load, of the application's thread and the core's together: at most 0.1.
# Usage: system_calls.sh message_load      Exit: 0; 1 more, or something failed; 77 no strace, or it is not allowed.
#
# strace makes calls slow, and while the core is in one more messages gather. So the load runs without it too: what was
# counted per batch, times the batches that a message takes there, is looked at as well, and the worse of the two counts.
set -eu
program=$(realpath "$1")
count=500000
command -v strace >/dev/null || { echo "skipped: strace is not installed"; exit 77; }
strace -o /dev/null true 2>/dev/null || { echo "skipped: strace is not allowed here"; exit 77; }

dir=$(mktemp -d ./perf-XXXXXX)
trap 'rm -rf "$dir"' EXIT
free=$("$program" "$dir/free" $count)
rm -rf "$dir/free"
traced=$(strace -f -c -o "$dir/calls" "$program" "$dir/traced" $count)
awk -v free="$free" -v traced="$traced" -v count=$count '
	$NF == "total" { total = $4 }
	$1 + 0 > 0 && $NF != "total" && n < 5 { most = most (n++ ? ", " : "") $NF " " $4 }
	END {
		if (!total || !free || !traced) {
			print "FAILED: nothing was counted"
			exit 1
		}
		calls = total / count
		other = total / traced * free / count
		printf "%.4f system calls a message (%d of %d messages, with opening and closing)\n", calls, total, count
		printf "%.4f by the batches of a run that nobody traced (%d, not %d)\n", other, free, traced
		print "the longest: " most
		if (calls > 0.1 || other > 0.1) {
			print "FAILED: at most 0.1"
			exit 1
		}
	}' "$dir/calls"
