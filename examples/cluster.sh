#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Three brokers on this machine that keep the same data, by the thmq program: messages are published, the broker that leads is killed, another one takes over, a fourth
# joins, the dead one is removed, leading is handed over, a broker is drained, and all messages are read back.
# usage: cluster.sh PROGRAM
set -eu
thmq=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
# addresses of this run's own, so that several may run at a time
net=127.$((($$ / 250) % 250 + 1)).$(($$ % 250))
dir=$(mktemp -d "$PWD/cluster-XXXXXX")
pids=
stop() {
	for pid in $pids; do kill "$pid" 2>/dev/null || true; done
	for pid in $pids; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 1' INT TERM
url() { echo "tcp://$net.$1:7471"; }
all=$(url 1),$(url 2),$(url 3)

start() {
	"$thmq" serve --config "$dir/node-$1.conf" > "$dir/out-$1" 2>&1 &
	eval "pid$1=$!"
	pids="$pids $!"
}

# await COMMAND...: until it is true
await() {
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		if [ "$tries" -gt 300 ]; then
			echo "waited for $* in vain" >&2
			cat "$dir"/out-* >&2
			exit 1
		fi
		sleep 0.1
	done
}

status() { "$thmq" cluster status "$1" 2> /dev/null; }
leader() { status "$all" | awk '$4 == "leads" { print $1 }'; }
somebody_leads() { [ "$(leader)" ]; }
another_leads() { [ "$(leader)" ] && [ "$(leader)" != "$1" ]; }

is_missed() {
	status "$all" > "$dir/killed" && grep -q "^$1 .* is not reached" "$dir/killed" &&
		grep -q '2 of 3 votes are there: no more may be lost$' "$dir/killed"
}

"$thmq" cluster create "$dir" 1="$(url 1)" 2="$(url 2)" 3="$(url 3)" --name example
for n in 1 2 3; do start $n; done
sleep 0.3
if grep -q 'built without' "$dir"/out-*; then
	cat "$dir/out-1"
	exit 77
fi
await somebody_leads
"$thmq" cluster status --wait "$all"
"$thmq" topic create "$all" orders
seq 1 500 | "$thmq" pub --quiet "$all" orders

first=$(leader)
eval "kill -9 \$pid$first"
await another_leads "$first"
echo "broker $first led and was killed; broker $(leader) leads"
seq 501 1000 | "$thmq" pub --quiet --durability quorum "$all" orders
await is_missed "$first"
tail -n 1 "$dir/killed"
is_told() { grep -qs "node $first at .* is not reached: nobody listens there" "$dir"/out-*; }
await is_told # by those that live, too
if "$thmq" cluster status --wait --timeout 300ms "$all" > /dev/null 2>&1; then exit 1; fi # one is away

# a fourth comes in place of the one that was killed
"$thmq" cluster join "$dir" 4="$(url 4)"
start 4
"$thmq" cluster add "$all" 4 "$(url 4)"
"$thmq" cluster remove "$all" "$first"
"$thmq" cluster transfer "$all" 4
status "$(url 4)"
"$thmq" cluster drain "$(url 4)" 4
[ "$(leader)" != 4 ]
if "$thmq" cluster transfer "$all" 4 2> /dev/null; then exit 1; fi # not before it is undrained
"$thmq" cluster undrain "$all" 4

# one by one they are started anew
for n in $(status "$all" | awk '$3 == "voter" { print $1 }'); do
	eval "pid=\$pid$n"
	kill "$pid"
	wait "$pid" || true
	start "$n"
	await somebody_leads
	"$thmq" cluster status --wait "$all" > "$dir/back"
	tail -n 1 "$dir/back"
done

# the device of the one that leads fails (here: its files may not be as long as they are): another one leads, all are told why, and it is counted no more
is_failed() {
	status "$all" > "$dir/failed" && grep -q "^$1 .* voter *has failed: " "$dir/failed" &&
		grep -q '2 of 3 votes are there: no more may be lost$' "$dir/failed"
}
first=$(leader)
eval "pid=\$pid$first"
if prlimit --pid "$pid" --fsize=4096 2> /dev/null; then
	seq 1001 1100 | "$thmq" pub --quiet --durability quorum "$all" orders
	await another_leads "$first"
	await is_failed "$first"
	await grep -q "node $first: .* has failed: .*; it takes part no more" "$dir/out-$first"
	if "$thmq" cluster status --wait --timeout 300ms "$all" > /dev/null 2>&1; then exit 1; fi
	cat "$dir/failed"
	kill "$pid"
	wait "$pid" || true
	start "$first"
	"$thmq" cluster status --wait "$all"
fi
"$thmq" sub --count 1000 "$(url 4)" orders > "$dir/got"
seq 1 1000 | cmp - "$dir/got"
echo "1000 messages, in order"
