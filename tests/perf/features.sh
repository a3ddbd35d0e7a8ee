#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a message of a plain topic costs where something else is there and in use beside it, in instructions that valgrind's callgrind counts, against the same without it.
# A feature that is not used must cost less than 1 %. All of them (features.h) are there together; THMQ_TEST_FULL=1 looks at each by itself, too.
# Usage: features.sh message_rounds      Exit: 0; 1 one costs more, or something failed; 77 no valgrind.
set -eu
program=$(realpath "$1")
command -v valgrind >/dev/null || { echo "skipped: valgrind is not installed"; exit 77; }
unset MALLOC_PERTURB_ # meson's, another one each time
# one rep stosb would count as an instruction per byte, on processors where the C library uses it
GLIBC_TUNABLES=glibc.cpu.x86_rep_stosb_threshold=0x7fffffff:glibc.cpu.x86_rep_movsb_threshold=0x7fffffff
export GLIBC_TUNABLES
dir=$(mktemp -d ./perf-XXXXXX)
trap 'rm -rf "$dir"' EXIT

# instructions a message
count() {
	mkdir "$dir/data"
	valgrind --tool=callgrind --toggle-collect=measured --callgrind-out-file="$dir/out" \
		"$program" "$1" "$dir/data" "$2" >"$dir/count" 2>"$dir/err" || { cat "$dir/err" >&2; exit 1; }
	rm -rf "${dir:?}/data"
	echo "$(sed -n 's/^totals: //p' "$dir/out") $(cat "$dir/count")" | awk '{ printf "%.2f\n", $1 / $2 }'
}

features=all
[ -z "${THMQ_TEST_FULL:-}" ] || features=$("$program" features)
rc=0
for shape in volatile-1 memory-64; do
	plain=$(count "$shape" plain)
	echo "$shape: $plain instructions a message"
	for what in $features; do
		with=$(count "$shape" "$what")
		echo "$what $with $plain" | awk '{ d = 100 * ($2 / $3 - 1); printf "  beside %-14s %8.2f %+6.2f %%%s\n", $1, $2, d, d < 1 ? "" : "  MISS"; exit d >= 1 }' || rc=1
	done
done
[ $rc = 0 ] || echo "FAILED: something that is not used costs 1 % and more"
exit $rc
