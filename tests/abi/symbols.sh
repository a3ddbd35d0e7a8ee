#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Global symbols. The shared library exports what the headers declare, no more and no less; in the static library all
# that other objects can see begins with thmq_ or thmqi_, so that it never collides with the host's own names.
# Usage: symbols.sh libthundermq.so libthundermq.a headers …   Exit: 0, or 1 with what is wrong.
set -u
LC_ALL=C
export LC_ALL
shared=$1
static=$2
shift 2
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
bad=0

wrong()
{
	echo "$*" >&2
	bad=1
}

# the name before the first bracket of each declaration that THMQ_API begins
sed '/^[[:space:]]*#/d' "$@" | tr '\n\t' '  ' | sed 's|/\*[^*]*\*\**\([^/*][^*]*\*\**\)*/| |g' | tr ';' '\n' |
	sed -n 's/.*THMQ_API \([^(]*\)(.*/\1/p' | sed 's/.*[ *]\(thmq_[a-z0-9_]*\) *$/\1/' | sort > "$tmp/declared"
[ "$(wc -l < "$tmp/declared")" -gt 40 ] || wrong "the headers were not understood"

# the version node itself is an absolute symbol
nm -D --defined-only --format=posix "$shared" > "$tmp/nm" || wrong "nm cannot read $shared"
sed 's/@.*\( [A-Za-z] \)/\1/; s/@[^ ]*//' "$tmp/nm" | awk '$2 != "A" { print $1 }' | sort -u > "$tmp/exported"
comm -13 "$tmp/declared" "$tmp/exported" > "$tmp/extra"
comm -23 "$tmp/declared" "$tmp/exported" > "$tmp/missing"
while read -r name; do wrong "$shared exports $name, which no header declares"; done < "$tmp/extra"
while read -r name; do wrong "$shared does not export $name, which a header declares"; done < "$tmp/missing"

# every export has a version, so that a later release can tell old callers from new ones
sed -n '/ A /d; /^[^ ]*@/d; p' "$tmp/nm" > "$tmp/unversioned"
[ ! -s "$tmp/unversioned" ] || wrong "without a version: $(cat "$tmp/unversioned")"

# the sanitizers' own are theirs, and so is the base that all probes share
nm -g --defined-only --format=posix "$static" > "$tmp/nm" 2> /dev/null || wrong "nm cannot read $static"
awk 'NF >= 2 && $2 ~ /^[A-Z]$/ { print $1 }' "$tmp/nm" | grep -v '^__odr_asan\|^_\.stapsdt\.base$' | sort > "$tmp/global"
[ "$(wc -l < "$tmp/global")" -gt 100 ] || wrong "$static was not understood"
grep -vE '^thmqi?_[a-z0-9_]+$' "$tmp/global" > "$tmp/foreign"
while read -r name; do wrong "$static has the global symbol $name"; done < "$tmp/foreign"
uniq -d "$tmp/global" > "$tmp/twice"
while read -r name; do wrong "$static has $name twice"; done < "$tmp/twice"

[ $bad = 0 ] && echo "$(wc -l < "$tmp/exported") functions exported, $(wc -l < "$tmp/global") global in the static library"
exit $bad
