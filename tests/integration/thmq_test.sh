#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# thmq_test.sh - the command-line program as a person or a script uses it. Usage: thmq_test.sh PROGRAM
set -u
thmq=$1
dir=$(mktemp -d ./thmq-test-XXXXXX)
trap 'rm -rf "$dir"' EXIT
d=$dir/data
passed=0

# check WHAT STATUS COMMAND…: runs it, its output goes to $dir/out and $dir/err
check() {
	what=$1 want=$2
	shift 2
	status=0
	"$@" >"$dir/out" 2>"$dir/err" || status=$?
	if [ $status != "$want" ]; then
		echo "thmq_test: $what: exit $status, not $want: $*"
		cat "$dir/err"
		exit 1
	fi
	passed=$((passed + 1))
}
has() { grep -q -- "$2" "$dir/$1" || { echo "thmq_test: $what: no '$2' in:"; cat "$dir/$1"; exit 1; }; }

printf 'a\n\nb c\nlast without newline' >"$dir/in"
printf 'a\n\nb c\nlast without newline\n' >"$dir/want"
check version 0 "$thmq" --version; has out '^thmq [0-9]'
check help 0 "$thmq" help; has out 'thmq pub'
check "help of a command" 0 "$thmq" help sub; has out -- --group
check "no command" 2 "$thmq"
check "unknown command" 2 "$thmq" nonsense; has err nonsense
check "unknown option" 2 "$thmq" pub --nonsense "$d" t
check "missing words" 2 "$thmq" pub "$d"
check "absent directory" 3 "$thmq" topic list "$d"
check "absent directory of pub" 3 "$thmq" pub "$d" t "$dir/in"
check create 0 "$thmq" topic create "$d" t
check "create twice" 1 "$thmq" topic create "$d" t; has err exists
check "if absent" 0 "$thmq" topic create --if-absent "$d" t
check "publish a file" 0 "$thmq" pub "$d" t "$dir/in"
check "read it back" 0 "$thmq" sub "$d" t
cmp -s "$dir/out" "$dir/want" || { echo "thmq_test: what was read differs"; exit 1; }
check "to an absent topic" 3 "$thmq" pub "$d" other "$dir/in"; has err -- --create
check "bad topic name" 1 "$thmq" topic create "$d" 'a/b'
check "two of them in a group" 0 "$thmq" sub --group g --count 2 "$d" t
[ "$(wc -l <"$dir/out")" = 2 ] || { echo "thmq_test: --count 2 gave $(wc -l <"$dir/out")"; exit 1; }
check "the group goes on" 0 "$thmq" sub --group g "$d" t; has out 'b c'
[ "$(wc -l <"$dir/out")" = 2 ] || { echo "thmq_test: the group did not go on where it stopped"; exit 1; }
check "the group is at the end" 0 "$thmq" topic describe --group g "$d" t; has out 'group at 4, 0 behind'
check "from an offset" 0 "$thmq" sub --from 3 "$d" t; has out 'last without'
[ "$(wc -l <"$dir/out")" = 1 ] || { echo "thmq_test: --from 3"; exit 1; }
check "out of range" 1 "$thmq" sub --from 99 "$d" t; has err 'offsets 0 to 4'
check "from the end" 0 "$thmq" sub --from end "$d" t
[ ! -s "$dir/out" ] || { echo "thmq_test: --from end gave something"; exit 1; }
check json 0 "$thmq" sub --json --count 1 "$d" t; has out '"data":"a"'
printf 'k1:v1\nk2:v2\n' | "$thmq" pub --create --partitions 4 --key-separator : --tag x "$d" keyed || exit 1
check "keys and tags" 0 "$thmq" sub --json "$d" keyed; has out '"key":"k1","tag":"x","data":"v1"'
printf '\377' | "$thmq" pub "$d" t || exit 1
check "bytes that are no text" 0 "$thmq" sub --json --from 4 "$d" t; has out base64
check list 0 "$thmq" topic list --json "$d"; has out '"name":"keyed"'
check verify 0 "$thmq" verify "$d"; has out whole
check dump 0 "$thmq" dump --batches "$d"; has out 'partition'
check delete 0 "$thmq" topic delete "$d" keyed
check "delete it again" 3 "$thmq" topic delete "$d" keyed
check bench 0 "$thmq" bench --seconds 1 --size 50 "$dir/bench"; has out 'durable, one at a time'

# another process has it open
"$thmq" sub --follow "$d" t >"$dir/follow" & follower=$!
i=0
while [ ! -s "$dir/follow" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
check "in use" 5 "$thmq" topic list "$d"; has err "process $follower has it open"
check "verify in use" 5 "$thmq" verify "$d"
kill -INT $follower
wait $follower || { echo "thmq_test: SIGINT did not end it well"; exit 1; }

# to look at it takes no right to write, neither in the place nor to the files, and others may look too
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
	check "verify a read-only place" 0 unshare -m sh -c \
		'mount --bind "$2" "$2" && mount -o remount,ro,bind "$2" && ! touch "$2/x" && "$1" verify "$2"' sh "$thmq" "$d"
	has out whole
fi
check "two look at it" 0 flock -s "$d/lock" "$thmq" verify "$d"; has out whole

# a directory without meta is not whole
mv "$d/meta" "$dir/aside"
check "verify without meta" 4 "$thmq" verify "$d"; has out 'meta: missing'
check "open without meta" 4 "$thmq" topic list "$d"; has err 'meta'
mv "$dir/aside" "$d/meta"
check "verify with meta again" 0 "$thmq" verify "$d"; has out whole

# damage is found, and nothing is changed
last=$(find "$d"/shard-000 -name '*.log' | sort | head -1)
printf 'X' | dd of="$last" bs=1 seek=4300 conv=notrunc status=none
sum=$(cksum "$last")
check "damage is found" 4 "$thmq" verify "$d"; has out damage
check "and refused" 4 "$thmq" topic list "$d"; has err 'damaged or missing'
[ "$sum" = "$(cksum "$last")" ] || { echo "thmq_test: the damaged file was changed"; exit 1; }
echo "$passed checks"
