#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Three nodes of a notebook on this machine: notes are written, the node that leads is killed, the others go on, it comes back, and all have all notes.
# usage: note_node.sh PROGRAM
set -eu
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
# addresses of this run's own, so that several may run at a time
net=127.$((($$ / 250) % 250 + 1)).$(($$ % 250))
dir=$(mktemp -d "$PWD/note-node-XXXXXX")
pids=
stop() {
	for pid in $pids; do kill -9 "$pid" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 1' INT TERM

start() {
	[ -p "$dir/in$1" ] || mkfifo "$dir/in$1"
	# opened for both, so that neither side waits for the other
	"$program" --key 00112233445566778899aabbccddeeff "$1" "$dir/node$1" 1="tcp://$net.1:7490" 2="tcp://$net.2:7490" \
		3="tcp://$net.3:7490" <> "$dir/in$1" > "$dir/out$1" 2> "$dir/say$1" &
	eval "pid$1=$!"
	pids="$pids $!"
}

# leads: prints who does
leads() {
	for n in 1 2 3; do
		# the last word counts
		if [ "$(tail -n 1 "$dir/say$n" 2>/dev/null | sed 's/.*: //')" = 'this node leads' ] && [ "$n" != "${gone:-}" ]; then echo "$n"; fi
	done
}

# await COMMAND...: until it is true
await() {
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		if [ "$tries" -gt 600 ]; then
			echo "waited for $* in vain" >&2
			cat "$dir"/say* >&2
			exit 1
		fi
		sleep 0.1
	done
}

somebody_leads() { [ "$(leads | wc -l)" = 1 ]; }
has() { [ "$(wc -l < "$dir/out$1")" -ge "$2" ]; }

for n in 1 2 3; do start $n; done
sleep 0.2
if grep -q 'built without' "$dir"/say*; then
	cat "$dir/say1"
	exit 77
fi
await somebody_leads
first=$(leads)
printf 'one\ntwo\nthree\n' > "$dir/in$first"
for n in 1 2 3; do await has $n 3; done
eval "kill -9 \$pid$first"
gone=$first
await somebody_leads
second=$(leads)
echo "node $first led and was killed; node $second leads"
printf 'four\n' > "$dir/in$second"
await has "$second" 4
gone=
start "$first"
await has "$first" 4
for n in 1 2 3; do
	await has $n 4
	cmp "$dir/out$n" "$dir/out$second"
done
cat "$dir/out$first"
