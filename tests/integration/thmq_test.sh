#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# thmq_test.sh - the command-line program as a person or a script uses it. Usage: thmq_test.sh PROGRAM
set -u
thmq=$1
wal=$(dirname "$thmq")/wal # makes a log on its own
dir=$(mktemp -d ./thmq-test-XXXXXX)
server=''
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$dir"' EXIT
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
die() { echo "thmq_test: $*"; exit 1; }
has() { grep -q -- "$2" "$dir/$1" || { echo "thmq_test: $what: no '$2' in:"; cat "$dir/$1"; exit 1; }; }

printf 'a\n\nb c\nlast without newline' >"$dir/in"
printf 'a\n\nb c\nlast without newline\n' >"$dir/want"
check version 0 "$thmq" --version; has out '^thmq [0-9]'
check "version as a command" 0 "$thmq" version; has out '^thmq [0-9]'
check help 0 "$thmq" help; has out 'thmq pub'
check "help of a command" 0 "$thmq" help sub; has out -- --group; has out time_ns
check "help behind other words" 0 "$thmq" pub "$d" t --help; has out -- --create
check "help of no command" 2 "$thmq" help nonsense; has err nonsense
check "help tells the room" 0 "$thmq" help topic; has out '54 MB'
check "no command" 2 "$thmq"
check "unknown command" 2 "$thmq" nonsense; has err nonsense
check "a command with a letter too few" 2 "$thmq" verfy "$d"; has err 'is it verify?'
check "unknown option" 2 "$thmq" pub --nonsense "$d" t; has err 'no option --nonsense here; thmq help pub'
check "an option with a letter too few" 2 "$thmq" topic create --partitons=2 "$d" t; has err 'no option --partitons here; is it --partitions?'
check "a short option" 2 "$thmq" sub -f "$d" t; has err 'there is no option -f'
check "missing words" 2 "$thmq" pub "$d"; has err 'a directory and a topic'
check "missing words elsewhere" 2 "$thmq" copy "$d"; has err 'a directory and a new one; thmq help copy'
check "one word too many" 2 "$thmq" topic list "$d" more; has err 'what is more'
check "an empty directory name" 2 "$thmq" topic list ""; has err 'is empty'
check "help of help" 0 "$thmq" help help; has out 'thmq pub'
check "a time without a unit" 2 "$thmq" topic create --retention-time 7 "$d" t; has err 'write 7s, 7m, 7h, 7d or 7w'
check "a unit of no time" 2 "$thmq" topic create --retention-time 7y "$d" t; has err 'no unit of time "y"'
check "a time of nothing" 2 "$thmq" topic create --retention-time 0d "$d" t; has err 'more than 0d'
check "too long a time" 2 "$thmq" topic create --retention-time 99999999w "$d" t; has err 'longer than can be counted'
check "a unit of no size" 2 "$thmq" topic create --retention-bytes 7Q "$d" t; has err 'no unit of size "Q"'
check "no size" 2 "$thmq" topic create --retention-bytes K "$d" t; has err 'K is no size'
check "bench of an absent directory" 3 "$thmq" bench "$d"; has err 'no such directory'
check "bench for a time and a number" 2 "$thmq" bench --count 5 --seconds 1 "$d"; has err 'one of the two'
check "bench at no rate" 2 "$thmq" bench --rate 0 "$d"; has err 'messages a second'
check "no way to flush" 2 "$thmq" bench --flush never "$d"; has err 'auto, dsync or fdatasync, not never'
[ ! -e "$d" ] || die "what was refused made $d"
check cores 0 "$thmq" cores; has out 'for this process'; has out '^ *0 '
check "cores near a disk and a card" 0 "$thmq" cores --near "$d" --card lo --count 3; has out '^path: '; has out '^card: lo'; has out '^ *2 '
check "cores as JSON" 0 "$thmq" cores --json; has out '"cores":\[{"processor":'
check "no such card" 1 "$thmq" cores --card no-such-card; has err no-such-card
check "no such processor" 1 "$thmq" cores --cpus 4000; has err 'may not use processor 4000'
check "no number of cores" 2 "$thmq" cores --count 0; has err 'from 1 to 256'
check "words for cores" 2 "$thmq" cores "$d"; has err 'options only'
check "count without a value" 2 "$thmq" sub "$d" t --count; has err '--count needs a value'
check "count before the words" 2 "$thmq" sub --count "$d" t; has err '--count needs a value'
check "count before an option" 2 "$thmq" sub "$d" t --count --json; has err '--count needs a value'
check "a value for none" 2 "$thmq" sub --json=yes "$d" t; has err 'takes no value'
check "partitions without create" 2 "$thmq" pub --partitions 2 "$d" t "$dir/in"; has err -- --create
check "describe visible-at" 2 "$thmq" topic describe --visible-at durable "$d" t; has err -- --visible-at
check "list with a group" 2 "$thmq" topic list --group g "$d"; has err -- --group
check "delete as json" 2 "$thmq" topic delete --json "$d" t; has err -- --json
long=$(printf '%0300d' 0)
check "long tag" 2 "$thmq" pub --tag "$long" "$d" t "$dir/in"; has err 'at most 255 bytes, not 300'
check "empty key" 2 "$thmq" pub --key= "$d" t "$dir/in"; has err '1 to 4096 bytes, not 0'
check "absent directory" 3 "$thmq" topic list "$d"
check "absent directory of pub" 3 "$thmq" pub "$d" t "$dir/in"
check create 0 "$thmq" topic create "$d" t
check "create twice" 1 "$thmq" topic create "$d" t; has err exists
check "if absent" 0 "$thmq" topic create --if-absent "$d" t
check "if absent, as it is" 0 "$thmq" topic create --if-absent --partitions 1 "$d" t
check "if absent, otherwise" 1 "$thmq" topic create --if-absent --partitions 9 "$d" t
has err 'exists with 1 partition, not 9'
check "if absent, another level" 1 "$thmq" topic create --if-absent --visible-at memory "$d" t; has err 'visible at durable'
check "pub that would create otherwise" 1 "$thmq" pub --create --partitions 9 "$d" t "$dir/in"
has err 'exists with 1 partition, not 9'
check "retention" 0 "$thmq" topic create --retention-time 2w --retention-bytes 10g --retain-consumed "$d" kept
check "described" 0 "$thmq" topic describe "$d" kept
has out 'kept for 14d, the newest 10G of each partition, until all groups have it$'
check "listed" 0 "$thmq" topic list "$d"; has out '^kept .*1 partition, 0 groups, kept for 14d, the newest 10G'; has out '^t .* 0 groups$'
check "listed as JSON" 0 "$thmq" topic list --json "$d"
has out '"name":"kept".*"retention_ns":1209600000000000,"retention_bytes":10737418240,"retain_consumed":true,"volatile":false}'
has out '"name":"t".*"retention_ns":0,"retention_bytes":0,"retain_consumed":false'
check "described as JSON" 0 "$thmq" topic describe --json "$d" kept; has out '"retention_ns":1209600000000000.*"shard":0'
check "if absent, in other words" 0 "$thmq" topic create --if-absent --retention-time 336h --retention-bytes 10240M "$d" kept
check "if absent, kept longer" 1 "$thmq" topic create --if-absent --retention-time 15d "$d" kept
has err 'kept for 14d, not 15d'
check "if absent, kept for ever" 1 "$thmq" topic create --if-absent --retention-bytes 1500 "$d" t
has err 'all of each partition kept, not 1500 bytes'
check "delete it" 0 "$thmq" topic delete "$d" kept
check "compacted" 0 "$thmq" topic create --compact --tombstones 2h "$d" latest
check "compacted, described" 0 "$thmq" topic describe "$d" latest; has out 'the newest of each key, deleted ones for 2h$'
check "compacted, as JSON" 0 "$thmq" topic list --json "$d"; has out '"name":"latest".*"compact":true,"tombstone_ns":7200000000000'
check "if absent, compacted" 1 "$thmq" topic create --if-absent --compact "$d" t; has err 'not compacted'
check "tombstones of what is not" 2 "$thmq" topic create --tombstones 2h "$d" other; has err -- --compact
check "by no codec" 2 "$thmq" pub --compress zip "$d" latest "$dir/in"; has err 'none, lz4 or zstd'
printf 'k:%s\nk:\n' "$long$long" >"$dir/packed"
if "$thmq" pub --compress zstd --key-separator : "$d" latest "$dir/packed" >"$dir/out" 2>"$dir/err"; then
	check "unpacked by who reads" 0 "$thmq" sub "$d" latest; has out "$long$long"
else
	has err 'zstd' # this machine has it not
fi
check "delete that too" 0 "$thmq" topic delete "$d" latest
# lines that go together: fewer runs, what is read is the same
check "no batch" 2 "$thmq" pub --batch 0 "$d" t "$dir/in"; has err 'from 1 to 4096'
check "a batch for later" 2 "$thmq" pub --batch 9 --delay 1s "$d" t "$dir/in"; has err 'of no use with --batch'
{ seq 1 300; head -c 70000 /dev/zero | tr '\0' y; echo; seq 301 1000; printf last; } >"$dir/lines"; { cat "$dir/lines"; echo; } >"$dir/same"
check "together" 0 "$thmq" pub --json --create --batch 100 --header n:int=7 --tag red "$d" together "$dir/lines"; has out '"messages":1002,"bytes":72897,'
check "each by itself" 0 "$thmq" sub --filter 'n = 7' --tag red "$d" together; cmp -s "$dir/out" "$dir/same" || die "what went together came otherwise"
check "in a dozen runs" 0 "$thmq" dump --json --batches "$d"
[ "$(grep -o '"topic":"together","partition":0,[^}]*"count":[0-9]*' "$dir/out" | wc -l)" -le 13 ] || die "not together"
printf 'k:1\nk:2\n:3\nk:4\n' >"$dir/wrong"; seq 1 100 >"$dir/hundred"; seq 1 100 | awk '{ print "k" int($1 / 10) ":" $1 }' >"$dir/keyed"
check "together by key" 0 "$thmq" pub --quiet --create --partitions 4 --batch 64 --key-separator : "$d" scattered "$dir/keyed"
check "all of them" 0 "$thmq" sub "$d" scattered; sort -n "$dir/out" | cmp -s - "$dir/hundred" || die "not all that went together by key came"
check "a line that is wrong" 1 "$thmq" pub --json --batch 9 --key-separator : "$d" scattered "$dir/wrong"; has err 'line 3: a key of 0 bytes'; has out '"messages":2,'
check "all together or nothing" 0 "$thmq" pub --quiet --atomic --batch 9 "$d" together "$dir/in"
check "nor are they needed" 0 "$thmq" topic delete "$d" together; check "nor by key" 0 "$thmq" topic delete "$d" scattered
check "a topic for later" 0 "$thmq" topic create "$d" later
check "tomorrow" 0 "$thmq" pub --delay 1d "$d" later "$dir/in"
check "in a hundred years" 0 "$thmq" pub --at 2126-01-31T12:00:00Z "$d" later "$dir/in"
check "they wait, as JSON" 0 "$thmq" topic describe --json "$d" later; has out '"delayed":8,'
check "they wait" 0 "$thmq" topic describe "$d" later; has out 'empty, next offset 0 or more, 8 delayed$'
check "in a moment" 0 "$thmq" pub --delay 1ms "$d" later "$dir/in"
sleep 0.1 # nobody has the directory open meanwhile: who opens it next finds them first
check "they have come" 0 "$thmq" sub "$d" later; cmp -s "$dir/out" "$dir/want" || die "what was due is not there at once"
check "the others still wait" 0 "$thmq" topic describe --json "$d" later; has out '"delayed":8,.*"begin":0,"end":4'
check "at no time" 2 "$thmq" pub --at soon "$d" later "$dir/in"; has err -- --at
check "at two times" 2 "$thmq" pub --at 2126-01-31 --delay 1d "$d" later "$dir/in"; has err -- --at
check "nor do they come" 0 "$thmq" topic delete "$d" later
check "an empty topic" 0 "$thmq" topic describe "$d" t; has out 'empty, next offset 0 or more'
check "a file that is not there" 1 "$thmq" pub "$d" t "$dir/in" "$dir/none"; has err 'none: No such file'
check "a folder as a file" 1 "$thmq" pub "$d" t "$dir/in" "$dir"; has err 'directory'
check "nothing was published" 0 "$thmq" topic describe "$d" t; has out 'empty, next offset 0 or more'
check "publish a file" 0 "$thmq" pub "$d" t "$dir/in"
check "read it back" 0 "$thmq" sub "$d" t
cmp -s "$dir/out" "$dir/want" || { echo "thmq_test: what was read differs"; exit 1; }
check "offsets in text" 0 "$thmq" topic describe "$d" t; has out 'offsets 0 to 3$'
check "offsets of dump" 0 "$thmq" dump "$d"; has out '^shard-000   t/0 offsets 0 to 3: 4 messages'; has out '^meta   state: topic t: '
has out '^meta   state: topic kept (deleted): '
check "dump as JSON" 0 "$thmq" dump --json --batches "$d"
has out '"encoding":"records","topic":"t","partition":0,"partition_id":[0-9]*,"offset":0,"end":4,"count":4,'
has out '"kind":17,"item":[0-9]*,"state":"topic","topic":"t","topic_id":'; has out '"type":"data"'
check "a group that has not begun" 0 "$thmq" topic describe --json --group g "$d" t
has out '"visible_at":"durable".*"begin":0,"end":4,"group":"g","begun":false,"group_offset":null,"lag":4}'
check "to an absent topic" 3 "$thmq" pub "$d" other "$dir/in"; has err -- --create
check "bad topic name" 1 "$thmq" topic create "$d" 'a/b'
check "two of them in a group" 0 "$thmq" sub --group g --count 2 "$d" t
[ "$(wc -l <"$dir/out")" = 2 ] || { echo "thmq_test: --count 2 gave $(wc -l <"$dir/out")"; exit 1; }
check "the group goes on" 0 "$thmq" sub --group g "$d" t; has out 'b c'
[ "$(wc -l <"$dir/out")" = 2 ] || { echo "thmq_test: the group did not go on where it stopped"; exit 1; }
check "the group is at the end" 0 "$thmq" topic describe --group g "$d" t; has out 'group at 4, 0 behind'
check "and in JSON" 0 "$thmq" topic describe --json --group g "$d" t; has out '"begun":true,"group_offset":4,"lag":0'
check "from a date" 0 "$thmq" sub --from 2020-01-01 --count 1 "$d" t; has out '^a$'
check "from a time" 0 "$thmq" sub --from 2020-01-01T12:00:00Z --count 1 "$d" t; has out '^a$'
check "from a date to come" 0 "$thmq" sub --from 2199-12-31 "$d" t
[ ! -s "$dir/out" ] || die "--from 2199-12-31 gave something"
check "from no date" 2 "$thmq" sub --from 2020-02-31 "$d" t; has err '2020-02-31'
check "from an offset" 0 "$thmq" sub --from 3 "$d" t; has out 'last without'
[ "$(wc -l <"$dir/out")" = 1 ] || { echo "thmq_test: --from 3"; exit 1; }
check "out of range" 1 "$thmq" sub --from 99 "$d" t; has err 'offsets 0 to 3$'
check "from the end" 0 "$thmq" sub --from end "$d" t
[ ! -s "$dir/out" ] || { echo "thmq_test: --from end gave something"; exit 1; }
check json 0 "$thmq" sub --json --count 1 "$d" t; has out '"data":"a"'
printf 'k1:v1\nk2:v2\n' | "$thmq" pub --create --partitions 4 --key-separator : --tag x "$d" keyed || exit 1
check "keys and tags" 0 "$thmq" sub --json "$d" keyed; has out '"key":"k1","tag":"x","data":"v1"'
printf 'h\n' | "$thmq" pub --create --header from=north --header 'n:int=-5' --header=ok:bool=true --header 'r:real=0.5' --header 'x:y:text=a=b' "$d" headers || exit 1
check "headers" 0 "$thmq" sub --json "$d" headers; has out '"headers":{"from":"north","n":-5,"ok":true,"r":0.5,"x:y":"a=b"},"data":"h"'
check "a header that is none" 2 "$thmq" pub --header north "$d" t; has err 'NAME=VALUE'
check "a header of no type" 2 "$thmq" pub --header n:long=5 "$d" t; has err 'text, int, real or bool'
check "a header of no number" 2 "$thmq" pub --header n:int=5x "$d" t; has err '5x is no such number'
printf 'r\n' | "$thmq" pub --create --tag red "$d" tags && printf 'b\n' | "$thmq" pub --tag blue "$d" tags &&
	printf 'g\n' | "$thmq" pub --tag green "$d" tags || exit 1
check "some tags" 0 "$thmq" sub --tag red,green "$d" tags; has out '^r$'; has out '^g$'
[ "$(wc -l <"$dir/out")" = 2 ] || die "others than the tags that were asked for"
check "a dead letter" 0 sh -c "echo lazarus | '$thmq' pub --create --quiet --key k --header thmq-dead-topic=back --header from=north '$d' dead"
check "what is none" 0 sh -c "echo alive | '$thmq' pub --quiet '$d' dead"
check "a topic to come back to" 0 "$thmq" topic create "$d" back
check redrive 0 "$thmq" redrive "$d" dead; has out '^1 sent again; some do not say'
check "it came back" 0 "$thmq" sub --json "$d" back; has out '"key":"k","headers":{"from":"north"},"data":"lazarus"'
check "redrive goes on" 0 "$thmq" redrive --json "$d" dead; has out '{"sent":0,"unknown":0}'
check "redrive elsewhere" 0 "$thmq" redrive --to back --group other --json "$d" dead; has out '{"sent":2,"unknown":0}'
check "redrive in a circle" 2 "$thmq" redrive --to dead "$d" dead; has err 'dead letters are in'
check "redrive of nothing" 3 "$thmq" redrive "$d" absent; [ ! -s "$dir/out" ] || die "redrive told of what it did not do"

# filters, browsing, groups
seq 1 20 | sed 's/.*/k&:v&/' > "$dir/numbered"
check "publish with headers" 0 "$thmq" pub --quiet --create --key-separator : --header n:int=7 "$d" chosen "$dir/numbered"
check "and others" 0 "$thmq" pub --quiet --header n:int=9 --tag red "$d" chosen "$dir/numbered"
check "a filter" 0 "$thmq" sub --filter "n = 9 AND TAG = 'red' AND KEY IS NULL" "$d" chosen; cmp -s "$dir/out" "$dir/numbered" || die "other messages came"
check "a filter that makes no sense" 2 "$thmq" sub --filter "n == 9" "$d" chosen; has err 'at character 4'
check "browse a range" 0 "$thmq" browse --from 5 --to 8 "$d" chosen; [ "$(tr '\n' ' ' < "$dir/out")" = "v6 v7 v8 " ] || die "browse: other messages"
check "browse a key" 0 "$thmq" browse --key k3 --json "$d" chosen; has out '"offset":2,.*"key":"k3"'
check "browse a key in a range" 0 "$thmq" browse --key k3 --from 3 "$d" chosen; [ ! -s "$dir/out" ] || die "browse: the range was not heard of"
check "browse a key before an offset" 0 "$thmq" browse --key k3 --to 3 "$d" chosen; has out '^v3$'
check "browse a key by a filter" 0 "$thmq" browse --key k3 --filter 'n > 7' "$d" chosen; [ ! -s "$dir/out" ] || die "browse: what the filter does not want"
check "browse by a filter" 0 "$thmq" browse --filter "KEY LIKE '_2_' OR n > 9" --count 3 "$d" chosen; [ "$(cat "$dir/out")" = v20 ] || die "browse: other messages"
check "browse a partition that is not there" 3 "$thmq" browse --partition 7 "$d" chosen; has err '1 partition'
check "no groups" 0 "$thmq" group list "$d" chosen; [ ! -s "$dir/out" ] || die "there are groups"
check "read in a group" 0 "$thmq" sub --group g --count 7 "$d" chosen
check "list groups" 0 "$thmq" group list "$d" chosen; has out '^g  *0 members$'
check "describe a group" 0 "$thmq" group describe "$d" chosen g; has out 'at 7 of 40, 33 behind'; has out '^g: 0 members, 33 behind$'
check "describe it as JSON" 0 "$thmq" group describe --json "$d" chosen g; has out '"lag":33,"members":\[\],"partitions":\[{"partition":0,.*"group_offset":7'
check "reset a group" 0 "$thmq" group reset --to 3 "$d" chosen g
check "it goes on there" 0 "$thmq" sub --group g --count 1 "$d" chosen; has out '^v4$'
check "reset it to nowhere" 1 "$thmq" group reset --to 300 "$d" chosen g; has err 'partition 0 does not hold offset 300'
check "reset without a place" 2 "$thmq" group reset "$d" chosen g; has err -- --to
check "delete a group" 0 "$thmq" group delete "$d" chosen g
check "describe one that is not there" 3 "$thmq" group describe "$d" chosen g; has err 'no such group'
check "no tags" 2 "$thmq" sub --tag red,,green "$d" tags; has err 'separated by commas'
check "ttl of a topic" 0 "$thmq" topic create --ttl 90m "$d" short
check "ttl of a topic is told" 0 "$thmq" topic list "$d"; has out 'of use for 90m'
check "alter a topic" 0 "$thmq" topic alter --ttl none --retention-time 7d --limits produce-bytes=10M,consume-messages=5K "$d" short
check "it is told" 0 "$thmq" topic describe "$d" short; has out 'kept for 7d, produce-bytes at most 10000000 a second, consume-messages at most 5000 a second'
check "as JSON" 0 "$thmq" topic list --json "$d"; has out '"name":"short".*"limits":{"produce_bytes":10000000,"produce_messages":0,"consume_bytes":0,"consume_messages":5000}.*"ttl_ns":0,'
check "limits go" 0 "$thmq" topic alter --limits none "$d" short
check "they are gone" 0 "$thmq" topic describe "$d" short; grep -q 'at most' "$dir/out" && die "limits that went are told"
check "alter nothing" 2 "$thmq" topic alter "$d" short; has err 'say what'
check "alter what stays" 2 "$thmq" topic alter --compact "$d" short; has err 'only with topic create'
check "more partitions" 0 "$thmq" topic alter --partitions 3 "$d" short
check "as many as there are" 0 "$thmq" topic alter --partitions 3 "$d" short
check "fewer partitions" 1 "$thmq" topic alter --partitions 2 "$d" short; has err 'has 3 partitions' 'not 2'
check "alter what is not there" 3 "$thmq" topic alter --ttl 1s "$d" nonesuch; has err 'nonesuch'
check "no such limit" 2 "$thmq" topic create --limits speed=1 "$d" t2; has err 'or none, not speed'
check "no number" 2 "$thmq" topic create --limits produce-bytes=1T "$d" t2; has err 'produce-bytes is so many a second'
check "a topic with priorities" 0 "$thmq" topic create --priorities 3 --partitions 2 "$d" urgent
check "it is there as it was asked for" 0 "$thmq" topic create --if-absent --priorities 3 --partitions 2 "$d" urgent
check "with others" 1 "$thmq" topic create --if-absent --priorities 2 "$d" urgent; has err 'exists with 3 priorities, not 2'
check "too many priorities" 2 "$thmq" topic create --priorities 11 "$d" t2; has err 'from 1 to 10'
printf 'low\n' | "$thmq" pub "$d" urgent && printf 'high\n' | "$thmq" pub --priority 2 --partition 1 "$d" urgent || exit 1
check "a priority too high" 1 "$thmq" pub --priority 3 "$d" urgent "$dir/in"; has err 'priorities from 0 to 2'
check "a priority of a topic that has none" 1 "$thmq" pub --priority 1 "$d" t "$dir/in"; has err 'has no priorities'
check "priorities are told" 0 "$thmq" topic describe "$d" urgent; has out '6 partitions.*3 priorities'; has out 'partition 5 in shard [0-9]*, priority 2: offsets 0 to 0'
check "both are read" 0 "$thmq" sub --json --group g "$d" urgent; has out '"partition":5,.*"priority":2,.*"high"'; has out '"low"'
check "a group of it" 0 "$thmq" group describe "$d" urgent g; has out 'partition 5, priority 2: at 1 of 1, 0 behind'
# transactions
check "no transactions" 0 "$thmq" txn list "$d"; [ ! -s "$dir/out" ] || die "there are transactions"
check "all or nothing" 0 "$thmq" pub --create --quiet --atomic "$d" txn "$dir/numbered"
check "all" 0 "$thmq" sub "$d" txn; cmp -s "$dir/out" "$dir/numbered" || die "not all of it came"
{ echo first; head -c 5000000 /dev/zero | tr '\0' x; } > "$dir/too-long"
check "nothing" 1 "$thmq" pub --json --atomic "$d" txn "$dir/too-long"; has out '"messages":0,.*"not_stored":1,"unknown":0,'; has err '^thmq: 0 messages were stored'
check "nothing of it" 0 "$thmq" sub "$d" txn; cmp -s "$dir/out" "$dir/numbered" || die "other messages came"
check "no transaction for later" 2 "$thmq" pub --atomic --delay 1s "$d" txn "$dir/in"; has err 'of no use with --atomic'
check "prepare some" 0 "$thmq" pub --quiet --prepare shop "$d" txn "$dir/in"; id=$(cat "$dir/out")
check "prepare others" 0 "$thmq" pub --json --prepare shop "$d" txn "$dir/in"; has out '"complete":true,.*"transaction":[1-9]'
other=$(sed 's/.*"transaction":\([0-9]*\).*/\1/' "$dir/out")
check "list them" 0 "$thmq" txn list "$d"; has out "^$id shop: prepared for .*asked about 0 of 15 times, again in "; has out "^$other shop: "
check "as JSON" 0 "$thmq" txn list --json "$d"; has out "^{\"id\":$id,\"state\":\"prepared\",\"name\":\"shop\",\"identity\":\"\",\"since_ns\":[1-9]"
check "nobody sees them" 0 "$thmq" sub "$d" txn; cmp -s "$dir/out" "$dir/numbered" || die "what is prepared came"
check "commit one" 0 "$thmq" txn commit "$d" "$id"
check "it is committed" 1 "$thmq" txn abort "$d" "$id"; has err 'it is committed'
check "abort the other" 0 "$thmq" txn abort "$d" "$other"
check "it is gone" 3 "$thmq" txn commit "$d" "$other"; has err 'none of this number'
check "none is left" 0 "$thmq" txn list "$d"; [ ! -s "$dir/out" ] || die "there are transactions"
check "one of them is there" 0 "$thmq" sub "$d" txn; cat "$dir/numbered" "$dir/want" | cmp -s - "$dir/out" || die "other messages came"
check "statistics of them" 0 "$thmq" stat --all "$d"; has out txn_committed
check "no number" 2 "$thmq" txn abort "$d" shop; has err 'shop is no number'
check "end what" 2 "$thmq" txn abort "$d"; has err 'the number of a transaction'
check "no such thing to do" 2 "$thmq" txn forget "$d"; has err 'not forget'

check "ttl elsewhere" 2 "$thmq" topic list --ttl 1s "$d"; has err -- --ttl
printf '\377' | "$thmq" pub "$d" t || exit 1
check "bytes that are no text" 0 "$thmq" sub --json --from 4 "$d" t; has out base64
check list 0 "$thmq" topic list --json "$d"; has out '"name":"keyed"'
check verify 0 "$thmq" verify "$d"; has out whole
check dump 0 "$thmq" dump --batches "$d"; has out 'state: offset of group g in t/0: '; has out 'keyed/[0-3] offsets 0 to 0: 1 message,'; has out 'state: group g of topic t:'
check "dump of what was deleted" 0 "$thmq" dump --json "$d"
has out '"state":"group_offset","group":"g","group_id":[0-9]*,"topic":"t","partition":0,"partition_id":'
check copy 0 "$thmq" copy "$d" "$dir/copy"
check "verify the copy" 0 "$thmq" verify "$dir/copy"; has out whole
check "what the original has" 0 "$thmq" sub --json "$d" t
mv "$dir/out" "$dir/original"
check "the copy has too" 0 "$thmq" sub --json "$dir/copy" t
cmp -s "$dir/out" "$dir/original" || die "the copy differs"
check "copy again" 1 "$thmq" copy "$d" "$dir/copy"; has err 'holds other things'
rm -rf "$dir/copy"
check delete 0 "$thmq" topic delete "$d" keyed
check "delete it again" 3 "$thmq" topic delete "$d" keyed

# bench leaves a directory as it was, whatever ends it
ls -R "$d" >"$dir/before"
check bench 0 "$thmq" bench --count 300 --size 1K --plot --flush fdatasync --polled off "$d"
has out 'durable, one at a time'; has out 'durable, received'; has out 'flush by fdatasync, polled no'; has out ' us |##'
ls -R "$d" | cmp -s - "$dir/before" || die "bench changed the directory"
mkdir "$dir/bench"
"$thmq" bench --seconds 60 "$dir/bench" >"$dir/out" 2>"$dir/err" & bench=$!
i=0
while ! ls "$dir"/bench/thmq-bench-*/lock >/dev/null 2>&1 && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
kill -INT $bench
wait $bench && die "an interrupted bench is no success"
rmdir "$dir/bench" || die "an interrupted bench left $(find "$dir/bench")"

# output that cannot be written is a failure that says so, but not a reader that has gone
if [ -w /dev/full ]; then
	for command in "topic list $d" "topic describe --json $d t" "verify --json $d" "dump $d" "sub $d t" \
		"pub --json $d t $dir/in" "help" "version"; do
		status=0
		# shellcheck disable=SC2086
		"$thmq" $command >/dev/full 2>"$dir/err" || status=$?
		what="full: $command"
		[ $status = 1 ] || die "$what: exit $status"
		has err 'standard output: No space left'
		passed=$((passed + 1))
	done
fi
: >"$dir/err"
seq 1 20000 | "$thmq" pub --quiet --create "$dir/pipe" t || exit 1
(status=0; "$thmq" sub "$dir/pipe" t 2>>"$dir/err" || status=$?; echo $status >"$dir/status") | head -1 >"$dir/out"
[ "$(cat "$dir/status")" = 0 ] && [ ! -s "$dir/err" ] || die "a reader that went: $(cat "$dir/status" "$dir/err")"
check "follow without a reader" 0 timeout 20 sh -c '"$1" sub --follow "$2" t | head -1' sh "$thmq" "$d"
status=0
"$thmq" topic list "$d" >&- 2>"$dir/err" || status=$?
[ $status = 1 ] || die "standard output closed: exit $status"

# what came is stored before the next line comes
(seq 1 10; printf unfinished; while [ ! -e "$dir/killed" ]; do sleep 0.1; done) | "$thmq" pub --create "$dir/slow" t & i=0
while ! "$thmq" stat --json "$dir/slow" 2>/dev/null | grep -q '"shard-000".*"messages_in":10,.*"unsettled_runs":0,' && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done
kill -KILL "$(cat "$dir/slow/lock")"
: >"$dir/killed"
# the kernel lets go of a killed process's files a moment later when it had writes in flight
i=0
while ! flock -n "$dir/slow/lock" true && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
check "stored while it waited" 0 "$thmq" sub "$dir/slow" t
[ "$(wc -l <"$dir/out")" = 10 ] || die "pub that waited stored $(wc -l <"$dir/out") of 10"

# a failure half way says what is stored
(printf 'k:1\nk:2\n'; head -c 9000000 /dev/zero; printf '\nk:3\n') >"$dir/large"
check "a message too large" 1 "$thmq" pub --json --key-separator : "$dir/slow" t "$dir/large"
has err 'line 3: too long for a message'; has err 'at most [0-9]* bytes'; has err '2 messages were stored'
has out '"messages":2,.*"complete":false'
printf ':1\n' >"$dir/large"
check "a key too short" 1 "$thmq" pub --key-separator : "$dir/slow" t "$dir/large"; has err 'line 1: a key of 0 bytes'
check "what is stored" 0 "$thmq" sub "$dir/slow" t
[ "$(wc -l <"$dir/out")" = 12 ] || die "$(wc -l <"$dir/out") messages, not 12"
check "no such partition" 3 "$thmq" pub --partition 7 "$d" t "$dir/in"; has err '0 messages were stored'

# another process has it open
"$thmq" sub --follow "$d" t >"$dir/follow" & follower=$!
i=0
while [ ! -s "$dir/follow" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
check "in use" 5 "$thmq" topic list "$d"; has err "process $follower has it open"
check "verify in use" 5 "$thmq" verify "$d"
check "repair in use" 5 "$thmq" repair --write "$d"; has err "process $follower"
check "copy in use" 5 "$thmq" copy "$d" "$dir/copy"
kill -INT $follower
wait $follower || { echo "thmq_test: SIGINT did not end it well"; exit 1; }
# without --follow an interruption is a failure: not all was read. A pipe that nobody reads holds it up
(status=0; "$thmq" sub "$dir/pipe" t 2>"$dir/err" & echo $! >"$dir/pid"; wait $! || status=$?; echo $status >"$dir/status") | {
	sleep 1
	kill -INT "$(cat "$dir/pid")"
	cat >/dev/null
}
what="an interrupted sub"
[ "$(cat "$dir/status")" = 1 ] || die "$what: exit $(cat "$dir/status")"
has err 'interrupted'

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

# nor is one that holds other things a data directory: that is all that is said of it
mkdir "$dir/other" && touch "$dir/other/a" "$dir/other/b"
check "verify another directory" 3 "$thmq" verify "$dir/other"; has err 'other is no data directory'
[ ! -s "$dir/out" ] || die "verify told the files of a directory that is none of ours"
touch "$d/stray"
check "verify tells what does not belong there" 0 "$thmq" verify "$d"; has out 'foreign: stray'
rm "$d/stray"

check "verify a file" 1 "$thmq" verify "$dir/in"; has err 'in is no directory'
check "dump what is not there" 3 "$thmq" dump "$dir/none"

# damage is found, and nothing is changed
last=$(find "$d"/shard-000 -name '*.log' | sort | head -1)
printf 'X' | dd of="$last" bs=1 seek=4300 conv=notrunc status=none
sum=$(cksum "$last")
check "damage is found" 4 "$thmq" verify "$d"; has out damage
check "and not copied" 4 "$thmq" copy "$d" "$dir/no-copy"; has err 'damaged'
check "what a repair would do" 4 "$thmq" repair "$d"; has out 'would repair: the log ends at'; has out 'lost: bytes'
has out 'shard-000: lost: newest of offset of group g in t/0$'; has out 'lost: t/0, offsets [0-9]* to [0-9]*; '
[ "$(grep -c 'newest of offset of group g in t/0' "$dir/out")" = 1 ] || die "a lost state is told more than once"
check "and in JSON" 4 "$thmq" repair --json "$d"; has out '"step":"quarantine"'; has out '"lost":"damaged"'; has out '"written":false'
has out '"lost":"state","kind":1,"item":[0-9]*,"state":"group_offset","group":"g",.*"slices":[0-9]'
has out '"lost":"messages","topic":"t","partition":0,'
check "and refused" 4 "$thmq" topic list "$d"; has err 'damaged or missing'
[ "$sum" = "$(cksum "$last")" ] || { echo "thmq_test: the damaged file was changed"; exit 1; }
check repair 0 "$thmq" repair --write --quarantine "$dir/aside" "$d"; has out '^repaired in'
check "nothing more to repair" 0 "$thmq" repair "$d"; has out 'nothing is to be repaired'
check "verify what was repaired" 0 "$thmq" verify "$d"; has out whole
check "open what was repaired" 0 "$thmq" topic list "$d"; has out '^t'
ls "$dir"/aside/shard-000/quarantine-*.bin >/dev/null || die "the quarantine is empty"
aside=$(find "$dir/aside/shard-000" -name 'quarantine-*.bin' | sort | head -1)
check "dump what was taken out" 4 "$thmq" dump --batches "$aside"; has out 'hold no whole batch$'; has out '^batch [0-9]* at [0-9]*: .* data, '; has out 'offsets [0-9]* to [0-9]*: '
check "and no file" 3 "$thmq" dump "$dir/aside/quarantine-00000000000000000007.bin"
check "the shard is gone" 0 mv "$d/shard-000" "$dir/shard"
check "no repair without it" 4 "$thmq" repair "$d"; has out 'put it back from a copy'
check "no repair of what is not there" 3 "$thmq" repair "$dir/none"
# a log on its own, without topics
l=$dir/log
check "make a log" 0 "$wal" "$l" put color blue shape round
check "verify a log" 0 "$thmq" verify "$l"; has out 'log on its own'; has out ': whole$'
check "dump a log" 0 "$thmq" dump --json "$l"; has out '"log":"","batch":'
check "repair a log" 0 "$thmq" repair "$l"; has out 'nothing is to be repaired'
check "copy a log" 0 "$thmq" copy "$l" "$dir/log-copy"
check "copy it into itself" 1 "$thmq" copy "$l" "$l/copy"; has err 'cannot lie in it'
check "copy it once more" 1 "$thmq" copy "$l" "$dir/log-copy"; has err 'holds other things'
check "open the copy" 0 "$wal" "$dir/log-copy" get shape; has out '^round$'
check "verify an open log" 5 flock "$l/lock" "$thmq" verify "$l"; has err 'has it open'
check "repair an open log" 5 flock "$l/lock" "$thmq" repair --write "$l"
check "copy an open log" 5 flock "$l/lock" "$thmq" copy "$l" "$dir/log-copy2"
first=$(find "$l" -name '*.log' | sort | head -1)
printf 'X' | dd of="$first" bs=1 seek=4300 conv=notrunc status=none
check "verify a damaged log" 4 "$thmq" verify "$l"; has out '^damage at'
check "copy a damaged log" 4 "$thmq" copy "$l" "$dir/log-copy2"
[ ! -e "$dir/log-copy2" ] || die "a damaged log was copied"
check "what a repair of a log would do" 4 "$thmq" repair "$l"; has out 'would repair'
check "repair a damaged log" 0 "$thmq" repair --write "$l"; has out '^repaired in'
check "verify the repaired log" 0 "$thmq" verify "$l"
check "open the repaired log" 0 "$wal" "$l" list

# a broker in another process
"$thmq" serve --listen tcp://127.0.0.1:0 "$dir/served" > "$dir/url" &
server=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
	for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s "$dir/url" ] || sleep 0.1; done
done
url=$(sed -n '1s/.* at //p' "$dir/url")
check "a topic at a URL" 0 "$thmq" topic create --partitions 2 "$url" far
seq 1000 > "$dir/numbers"
check "publish to a URL" 0 "$thmq" pub --quiet "$url" far "$dir/numbers"
check "read from a URL" 0 "$thmq" sub --group g "$url" far; sort -n "$dir/out" | cmp -s - "$dir/numbers" || die "other messages came"
check "nothing is left" 0 "$thmq" sub --group g "$url" far; [ ! -s "$dir/out" ] || die "messages came twice"
check "topics at a URL" 0 "$thmq" topic describe --group g "$url" far; has out far
# by the directory too: its socket is in it, for its owner only
check "join by the directory" 0 "$thmq" topic list "$dir/served"; has out far
[ "$(stat -c %a "$dir/served/socket")" = 600 ] || die "others may join"
check "a topic by the directory" 0 "$thmq" topic create "$dir/served" near
check "publish by the directory" 0 "$thmq" pub --quiet --create "$dir/served" near "$dir/numbers"
check "read by the directory" 0 "$thmq" sub "$dir/served" near; cmp -s "$dir/out" "$dir/numbers" || die "other messages came"
check "read over shared memory" 0 "$thmq" sub "shm://$dir/served/socket" near; cmp -s "$dir/out" "$dir/numbers" || die "other messages came"
check "top of another process" 0 "$thmq" top --once "$dir/served"
has out '^core 0 .* looking; [a-z]*: [0-9]* hits/s, [0-9]* misses/s, spins '; has out '^shard meta '
check "top of another process, as JSON" 0 "$thmq" top --json "$dir/served"
has out '"core":0,.*"policy":"[a-z]*","spin_hits_per_s":.*"budget_ns":[0-9n]*.*"forecast_ratio":'
check "serve it twice" 5 "$thmq" serve --listen tcp://127.0.0.1:0 "$dir/served"
kill "$server"; wait "$server" || die "serve did not end well"
[ ! -e "$dir/served/socket" ] || die "the socket was left behind"
check "wait for nobody" 1 "$thmq" ping --wait 50ms --count 1 "$url"; has err 'nobody listens there'
check "wait for how long?" 2 "$thmq" ping --wait soon "$url"
"$thmq" serve --listen "shm://$dir/served-too" "$dir/served" > /dev/null &
server=$!
check "wait until it listens" 0 "$thmq" ping --wait 60s --count 1 "shm://$dir/served-too"; has out '^1 round trip'
check "listen at a path" 0 "$thmq" topic list "shm://$dir/served-too"; has out far
kill -9 "$server"; wait "$server" 2>/dev/null || true
server=''
printf 'allow cert:CN=shop all *\n' > "$dir/rules"
"$thmq" serve --access "$dir/rules" --listen "shm://$dir/served-by-rules" "$dir/served" > /dev/null 2>&1 &
server=$!
check "wait until it listens by rules" 0 "$thmq" ping --wait 60s --count 1 "shm://$dir/served-by-rules"
check "topics that rules do not show" 0 "$thmq" topic list "shm://$dir/served-by-rules"; has err 'rules let this client know of'; [ ! -s "$dir/out" ] || die "they were shown"
kill -9 "$server"; wait "$server" 2>/dev/null || true
server=''
check "a socket that was left behind" 0 "$thmq" topic list "$dir/served"; has out far
check "verify it with a socket" 0 "$thmq" verify "$dir/served"
check "nobody listens there" 1 "$thmq" topic list "$url"; has err 'refused\|nobody'
check "all is there" 0 "$thmq" sub --json "$dir/served" far; [ "$(wc -l < "$dir/out")" = 1000 ] || die "some are missing"
check "top, once" 0 "$thmq" top --once --listen tcp://127.0.0.1:0 --cores 2 --policy adaptive "$dir/served"
has out 'served at tcp://'; has out '^ *0 .* adaptive '; has out '^ *1 '
check "top without a terminal ends" 0 "$thmq" top --json --listen tcp://127.0.0.1:0 --policy event --cpu-cap 50 "$dir/served"
has out '"core":0,.*"policy":"event".*"budget_ns":0,'
# config WHAT STATUS LINES: serve with a file of these
config() { printf "$3" >"$dir/conf"; check "config: $1" "$2" timeout 60 "$thmq" top --once --config "$dir/conf"; }
config "it serves" 0 "dir = $dir/served\n# where\nlisten = tcp://127.0.0.1:0\n\nno-stats=no\n"; has out 'served at tcp://'
check "the directory of the command line counts more" 0 "$thmq" top --once --config "$dir/conf" "$dir/served-else"; has out 'served-else at tcp://'
config "a wrong name" 2 "dir = $dir/x\nlistn = tcp://127.0.0.1:0\n"; has err 'conf, line 2: there is no option listn; is it listen?'
config "a name like nothing" 2 "dir = $dir/x\ncolour = red\n"; has err 'conf, line 2: there is no option colour'
config "twice" 2 "dir = $dir/x\ncores = 1\ncores = 2\n"; has err 'conf, line 3: cores stands there twice'
config "two directories" 2 "dir = $dir/x\ndir = $dir/y\n"; has err 'line 2: dir stands there twice'
config "a comment behind a value" 2 "dir = $dir/x # here\n"; has err 'line 1: dir: a comment has a line of its own'
config "quotes" 2 "dir = \"$dir/x\"\n"; has err 'line 1: dir: a value stands without quotes'
config "no value" 2 "dir =\n"; has err 'line 1: dir has no value'
config "half a flag" 2 "dir = $dir/x\nno-stats = maybe\n"; has err 'no-stats is yes or no, not maybe'
config "no line" 2 "[broker]\n"; has err 'line 1: write name = value'
config "a wrong value" 2 "dir = $dir/x\ncores = many\n"; has err 'conf, line 2: --cores: a number from 1 to 256, not many'
check "config: a wrong value of the command line" 2 "$thmq" top --once --config "$dir/conf" --cores none; has err 'thmq: --cores: a number from 1 to 256, not none'
config "a wrong word" 2 "# which\ndir = $dir/x\npolicy = eager\n"; has err 'conf, line 3: --policy'
config "a file in a file" 2 "dir = $dir/x\nconfig = y\n"; has err 'no option config'
check "config: none" 2 "$thmq" serve --config; has err '--config needs a value'
check "config: no such file" 3 "$thmq" serve --config "$dir/nothing"
check "a cluster in one word" 0 "$thmq" cluster create "$dir/conf3" 1=tcp://h:1,2=tcp://h:2 3=tcp://h:3; has out 'node-3.conf'
grep -q '^cluster = 1=tcp://h:1,2=tcp://h:2,3=tcp://h:3$' "$dir/conf3/node-2.conf" || die "another cluster"
grep -q "^dir = /.*/conf3/node-2$" "$dir/conf3/node-2.conf" || die "no whole path"
check "one more of a cluster" 0 "$thmq" cluster join "$dir/conf3" 4=tcp://h:4 --data /var/lib/four; has out 'thmq cluster add URL 4 tcp://h:4'
grep -q '^cluster = 1=tcp://h:1,2=tcp://h:2,3=tcp://h:3,4=tcp://h:4$' "$dir/conf3/node-4.conf" || die "it does not know the others"
grep -q '^join = yes$' "$dir/conf3/node-4.conf" || die "it does not join"
grep -q '^dir = /var/lib/four$' "$dir/conf3/node-4.conf" || die "it is elsewhere"
grep -q "^cluster-key = /.*/conf3/cluster.key$" "$dir/conf3/node-4.conf" || die "no key"
check "a number that is taken" 2 "$thmq" cluster join "$dir/conf3" 2=tcp://h:9; has err 'number 2 is that of another one'
check "one of no cluster" 3 "$thmq" cluster join "$dir" 2=tcp://h:9; has err 'has no node-N.conf'
check "a port too high" 2 "$thmq" cluster try "$dir/x" --port 60000; has err 'from 1 to 55533'
check "a cluster with a number twice" 2 "$thmq" cluster create "$dir/x" 1=tcp://h:1 1=tcp://h:2; has err 'that of another one'
check "a broker without a way to it" 2 "$thmq" cluster create "$dir/x" 1=h; has err 'write 1=tcp://host:port'
[ ! -e "$dir/x" ] || die "what was refused made a directory"
check "no such policy" 2 "$thmq" serve --policy eager "$dir/served"; has err 'not eager'
check "no such cap" 2 "$thmq" top --cpu-cap 101 "$dir/served"; has err 'from 1 to 100'
check "once is for top" 2 "$thmq" serve --once "$dir/served"; has err 'no option --once'
check "a cap on what never sleeps" 1 "$thmq" top --once --policy poll --cpu-cap 50 "$dir/served"; has err 'never sleeps'
check "top of a URL" 2 "$thmq" top "$url"
check "serve a URL" 2 "$thmq" serve "$url"

# bench ends with its broker
"$thmq" serve --listen "shm://$dir/measured-at" "$dir/measured" > "$dir/url" &
server=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
	for _ in 1 2 3 4 5 6 7 8 9 10; do [ -S "$dir/measured-at" ] || sleep 0.1; done
done
"$thmq" bench --count 10000000 "shm://$dir/measured-at" > "$dir/out" 2> "$dir/err" & bench=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
	for _ in 1 2 3 4 5 6 7 8 9 10; do "$thmq" topic list "$dir/measured" 2>&1 | grep -q thmq-bench || sleep 0.1; done
done
kill -9 "$server"; wait "$server" 2>/dev/null || true
server=''
wait "$bench" && die "a bench whose broker was killed is no success"
grep -q 'closed\|lost\|refused' "$dir/err" || die "bench does not say that its broker is gone: $(cat "$dir/err")"

# TLS by pre-shared keys, which need no certificates to be made; 1 and words where the library is built without
printf '# keys\nclient:00112233445566778899aabbccddeeff\n' > "$dir/keys"
printf 'client:ffeeddccbbaa99887766554433221100\n' > "$dir/wrong-keys"
check "serve by TLS without a key" 1 "$thmq" serve --listen tls://127.0.0.1:0 "$dir/served"
if ! grep -q 'without TLS\|not installed' "$dir/err"; then
	has err 'needs --tls-cert FILE, or --tls-psk FILE'
	check "serve by TLS without anybody to let in" 1 "$thmq" serve --tls-cert "$dir/keys" --listen tls://127.0.0.1:0 "$dir/served"
	has err '--tls-ca FILE names'
	: > "$dir/url"
	"$thmq" serve --tls-psk "$dir/keys" --listen tls://127.0.0.1:0 "$dir/served" > "$dir/url" &
	server=$!
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s "$dir/url" ] || sleep 0.1; done
	done
	url=$(sed -n '1s/.* at //p' "$dir/url")
	check "publish by TLS" 0 "$thmq" pub --quiet --tls-psk "$dir/keys" "$url" far "$dir/numbers"
	check "read by TLS" 0 "$thmq" sub --group h --tls-psk="$dir/keys" "$url" far; [ "$(wc -l < "$dir/out")" = 2000 ] || die "some are missing"
	check "a wrong key" 1 "$thmq" topic list --tls-psk "$dir/wrong-keys" "$url"; has err 'another pre-shared key'
	check "a wrong key, of several brokers" 1 "$thmq" topic list --tls-psk "$dir/wrong-keys" "$url,$url"; has err 'another pre-shared key'
	check "no key" 1 "$thmq" topic list "$url"; has err 'no key that both have\|certificate'
	check "in clear" 1 "$thmq" topic list "tcp${url#tls}"; has err 'tls://'
	check "bench by TLS" 0 "$thmq" bench --count 100 --json --tls-psk "$dir/keys" "$url"; has out messages_per_s
	check "bench at a rate" 0 "$thmq" bench --count 100 --rate 1000 --json --tls-psk "$dir/keys" "$url"
	has out '"what":"durable, 1000 a second","count":100,'; has out messages_per_s
	check "bench leaves nothing" 0 "$thmq" topic list --tls-psk "$dir/keys" "$url"
	if grep -q thmq-bench "$dir/out"; then die "bench left a topic"; fi
	check "bench of a broker's device" 2 "$thmq" bench --flush dsync "$url"; has err 'for a directory'
	check "no file of keys" 3 "$thmq" topic list --tls-psk "$dir/no-file" "$url"; has err no-file
	kill "$server"; wait "$server" || die "serve did not end well"
fi
check "help tells of TLS" 0 "$thmq" help serve; has out -- --tls-cert
check "verify has no TLS" 2 "$thmq" verify --tls-ca x "$d"; has err 'no option --tls-ca'

check "quarantine of a dry run" 2 "$thmq" repair --quarantine x "$d"; has err -- --write
echo "$passed checks"
