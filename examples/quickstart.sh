#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The main job on a fresh Debian 12 (root or sudo, to install what is missing): build, then publish every line of a real
# file durably, kill the publisher with SIGKILL in the middle, go on, read everything back, compare.
#
#   sh examples/quickstart.sh [FILE]      FILE: default the machine's package database (status and file lists)
set -eu
file=${1:-}
if [ "$file" ]; then
	[ -r "$file" ] || { echo "quickstart: cannot read $file" >&2; exit 1; }
	file=$(realpath "$file")
fi
cd "$(dirname "$0")/.."
sh tests/install.sh gcc libc6-dev meson ninja-build pkg-config liburing-dev libhwloc-dev libisal-dev

build=build
[ -e $build/build.ninja ] || meson setup --buildtype=release -Dtests=false -Dbench=false $build >$build.log || { cat $build.log; exit 1; }
ninja -C $build --quiet
run=$build/examples/quickstart

data=$(mktemp -d "$PWD/$build/quickstart-XXXXXX")
trap 'rm -rf "$data"' EXIT
trap 'exit 1' INT TERM HUP
if [ -z "$file" ]; then
	file=$data/package-database
	cat /var/lib/dpkg/status /var/lib/dpkg/info/*.list >"$file"
fi
echo "publishing the lines of $file"

# a fast device may be done before the signal comes: then once more
tries=0
while :; do
	status=0
	rm -rf "$data/q" "$data/acked"
	$run crash "$data/q" "$file" "$data/acked" || status=$?
	[ $status = 3 ] && [ $tries -lt 20 ] || break
	tries=$((tries + 1))
done
[ $status = 0 ] || [ $status = 3 ] || exit 1
[ $status = 0 ] || echo "the publisher was always done before it could be killed: name a larger file"
$run publish "$data/q" "$file" "$data/acked"
$run check "$data/q" "$file"
$build/examples/thmq verify "$data/q"
$run latency "$data/latency" "$file"

cat <<'END'

Nothing acknowledged was lost, nothing was invented, the order was kept.
Where to go next:
  build/examples/thmq help        the command line: pub, sub, topic, verify, dump, repair, copy, bench
  examples/hello.c                the smallest whole program: publish, read back
  doc/architecture.md             how it works
  man -l doc/man/man7/thundermq.7 the overview of the calls
END
