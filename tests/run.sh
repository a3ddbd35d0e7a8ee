#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the library and passes all its tests, on a fresh Debian 12 too (root or sudo, to install what is missing).
#
#   sh tests/run.sh [--full]      --full: the large counts, every test in both, some hours
#
# Two builds: an optimised one, and one with AddressSanitizer and UndefinedBehaviorSanitizer for what takes bytes and calls from
# outside (with --full every test runs in both). The last line is 'N passed, N failed, N skipped'.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
--full)
	THMQ_TEST_FULL=1; export THMQ_TEST_FULL; times=20
	optimised='' sanitized='--suite unit --suite fault --suite sim --suite integration --suite fuzz'
	;;
'')
	times=1
	optimised='--no-suite slow --no-suite unit --no-suite fault --no-suite fuzz'
	sanitized='--no-suite slow --no-suite long --suite unit --suite fault --suite sim --suite fuzz --suite contract'
	;;
*) sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

sh tests/install.sh gcc g++ libc6-dev meson ninja-build pkg-config liburing-dev libhwloc-dev libisal-dev libcriterion-dev \
	libseccomp-dev liblmdb-dev libibverbs-dev librdmacm-dev ibverbs-providers libssl-dev python3 python3-cffi dpkg-dev groff-base util-linux valgrind strace systemtap-sdt-dev
# clients of Kafka and what they compress with: without them their tests are skipped
sh tests/install.sh zlib1g-dev liblz4-dev libzstd-dev libsnappy-dev kcat librdkafka-dev python3-kafka python3-confluent-kafka openssl || :

sh tests/raft.sh || : # without it the library has one copy of everything, and says so

build=build-tests
log=$build/results
[ -e $build/build.ninja ] || meson setup -Dbuildtype=debugoptimized $build >$build.log || { cat $build.log; exit 1; }
[ -e $build-asan/build.ninja ] || meson setup -Dbuildtype=debug -Doptimization=1 -Db_sanitize=address,undefined -Db_lundef=false \
	-Dbench=false -Dexamples=false $build-asan >$build.log || { cat $build.log; exit 1; }
ninja -C $build --quiet
: >$log

# meson's own summary goes to the terminal; its JSON lines are counted at the end
run() { # build, what to say, meson test arguments …
	b=$1
	shift
	echo "== $1"
	shift
	rm -f "$b/meson-logs/testlog.json"
	meson test -C "$b" --print-errorlogs -t $times "$@" || :
	cat "$b/meson-logs/testlog.json" >>$log
}
# shellcheck disable=SC2086 # many words or none
run $build "optimised" --num-processes 3 $optimised
# builds what it runs
# shellcheck disable=SC2086
LSAN_OPTIONS=suppressions=$PWD/tests/leaks.txt:print_suppressions=0 ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 THMQ_TEST_SMALL=1 \
	run $build-asan "under AddressSanitizer and UndefinedBehaviorSanitizer" --num-processes 3 $sanitized

# threads that meet: plain programs, since the test framework does not work under ThreadSanitizer
races() {
	sh tests/install.sh clang libclang-rt-14-dev
	[ -e $build-tsan/build.ninja ] || CC=clang meson setup -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false -Dbench=false \
		$build-tsan >$build.log || { cat $build.log; exit 1; }
	ninja -C $build-tsan --quiet
	THMQ_TEST_SMALL=1 run $build-tsan "races under ThreadSanitizer" --num-processes 1 transport_race_test reactor_post_test \
		reactor_mailbox_race_test reactor_open_close_test reactor_wakeup_test reactor_duty_race_test reactor_policy_race_test memory_remote_test memory_slabs_race_test reactor_mates_race_test \
		broker_closing_test kill_test transport_contract_tcp transport_contract_shm tcp_peer_test shm_peer_test example_worker_queue
}
[ -z "${THMQ_TEST_FULL:-}" ] || races

# each decoder of bytes from outside, for a minute; what does harm is left in the build's found/
fuzz() {
	sh tests/install.sh clang libclang-rt-14-dev
	[ -e $build-fuzz/build.ninja ] || CC=clang meson setup -Dfuzz=true -Dbuildtype=debugoptimized -Doptimization=1 -Db_sanitize=address,undefined \
		-Db_lundef=false -Dbench=false -Dexamples=false $build-fuzz >$build.log || { cat $build.log; exit 1; }
	ninja -C $build-fuzz --quiet
	for corpus in tests/fuzz/corpus/*; do
		t=${corpus##*/}
		echo "== fuzzing $t for a minute"
		mkdir -p $build-fuzz/found/$t
		result=OK
		LSAN_OPTIONS=suppressions=$PWD/tests/leaks.txt:print_suppressions=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
			$build-fuzz/tests/fuzz_${t}_live -max_total_time=60 -timeout=60 -len_control=0 -max_len=4096 \
			-artifact_prefix=$build-fuzz/found/$t- $build-fuzz/found/$t "$corpus" >$build-fuzz/found/$t.log 2>&1 ||
			{ result=FAIL; tail -n 40 $build-fuzz/found/$t.log; }
		echo "{\"name\": \"fuzz_$t\", \"result\": \"$result\"}" >>$log
	done
}
[ -z "${THMQ_TEST_FULL:-}" ] || fuzz

unprivileged() {
	[ "$(id -u)" = 0 ] || { echo "== unprivileged: skipped, not root"; return 0; }
	dir=$(mktemp -d ./$build/nobody-XXXXXX)
	chown nobody "$dir"
	echo "== as nobody, with 64 KiB of lockable memory"
	for t in examples/hello; do
		status=0
		(cd "$dir" && ulimit -l 64 && setpriv --reuid=nobody --clear-groups "../$t" >out 2>&1) || status=$?
		if [ $status = 0 ]; then result=OK; else result=FAIL; cat "$dir/out"; fi
		echo "{\"name\": \"nobody_$t\", \"result\": \"$result\"}" >>$log
	done
	rm -rf "$dir"
}
unprivileged

# in an emulated machine: RDMA, which this one seldom has; with --full two kernels, all tests, and its power cut
laboratory() { # kernel, seconds at most (0: no limit), arguments of lab/run.sh
	kernel=$1 limit=$2 status=0
	shift 2
	echo "== $kernel, emulated"
	timeout -k 10 "$limit" sh tests/lab/run.sh --build $build --kernel $kernel "$@" >$build.lab || status=$?
	cat $build.lab
	sed -n "s/^\(PASS\|FAIL\|SKIP\) \([a-z0-9_-]*\) .*/{\"name\": \"$kernel \2\", \"result\": \"\1\"}/p" $build.lab |
		sed 's/"PASS"/"OK"/' >>$log
	[ $status != 77 ] || echo "{\"name\": \"$kernel\", \"result\": \"SKIP\"}" >>$log
	[ $status = 0 ] || [ $status = 77 ] || grep -q '^FAIL' $build.lab ||
		echo "{\"name\": \"$kernel\", \"result\": \"FAIL\"}" >>$log
}
if [ "${THMQ_TEST_FULL:-}" ]; then
	laboratory linux-image-amd64 0 --full
	laboratory linux-image-6.12-amd64 0 --full
else
	# a minute or two; rdma_peer_test, which takes ports and packets away, and two machines on a network are of --full
	laboratory linux-image-amd64 400 rdma_registrar_test transport_contract_rdma nvme_4096 reactor_far_timer_test
fi

python3 - $log <<'PY'
import json, sys
count = {}
for line in open(sys.argv[1]):
    t = json.loads(line)
    count[t["result"]] = count.get(t["result"], 0) + 1
    if t["result"] not in ("OK", "SKIP", "EXPECTEDFAIL"):
        print("failed:", t["name"], t["result"])
        for line in (t.get("stdout", "") + t.get("stderr", "")).splitlines()[-20:]:
            print("   ", line[:300])
passed, skipped = count.get("OK", 0), count.get("SKIP", 0)
failed = sum(count.values()) - passed - skipped
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(failed != 0 or passed == 0)
PY
