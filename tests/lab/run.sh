#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs tests on another kernel than this machine's: Debian's own kernel package, booted in QEMU (all emulated, no KVM),
# with an ext4 on an NVMe drive to work on; and cuts the power of such a machine while it publishes.
#
#   sh tests/lab/run.sh [--kernel PACKAGE] [--build FOLDER] [--full] [test ...]
#   sh tests/lab/run.sh --here [--build FOLDER] [test ...]
#
#   --kernel PACKAGE   linux-image-amd64 (the default: Debian 12's, 6.1), linux-image-6.12-amd64, ...; it is not installed
#   --build FOLDER     test these programs as they are; default build-tests, brought up to date
#   --full             all test programs, more kills and cuts: half an hour
#   --here             the tests over RDMA on this machine's own devices, without QEMU: README.md
#   test               some of: hello, quickstart, verify; recorded_fua, recorded_flush, recorded_planted (the power is cut
#                      at any write of a drive's life that the kernel recorded); powercut (the power of a running machine
#                      is cut, again and again); nvme_512, nvme_4096, nvme_unpolled, nvme_cache, nvme_errors (drives of
#                      all kinds); pair_rdma, pair_tcp (two machines and a network that gets worse); tls_kernel (TLS whose
#                      records are the kernel's); or any program of FOLDER/tests. rdma_..._test has two RDMA ports there
#                      (Soft-RoCE), and so has transport_contract_rdma[-...]; ..._bench, of FOLDER/bench, has them too,
#                      and its lines are shown
#
# A line for each test, with its seconds; the last one is 'N passed, N failed, N skipped'. What is fetched lies in FOLDER/lab.
# Exit 0: all passed or were skipped; 1: not so; 77: this machine cannot run it, and why.
set -eu
lab=$(cd "$(dirname "$0")" && pwd)
cd "$lab/../.."
kernel=linux-image-amd64 build='' full='' tests='' here=''
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=${2:?$1 needs a package}; shift ;;
	--build) build=${2:?$1 needs a folder}; shift ;;
	--full) full=1 ;;
	--here) here=1 ;;
	-*) sed -n '3,26s/^# \{0,1\}//p' "$lab/run.sh" >&2; exit 2 ;;
	*) tests="$tests $1" ;;
	esac
	shift
done

skip() {
	echo "lab: skipped: $*"
	echo "0 passed, 0 failed, 1 skipped"
	exit 77
}

if [ -z "$build" ]; then
	build='build-tests'
	sh tests/install.sh gcc libc6-dev meson ninja-build pkg-config liburing-dev libhwloc-dev libisal-dev libcriterion-dev
	[ -e $build/build.ninja ] || meson setup -Dbuildtype=debugoptimized $build >$build.log || { cat $build.log; exit 1; }
	ninja -C $build --quiet
fi
build=$(cd "$build" && pwd)
[ -x "$build/tests/kill_test" ] || { echo "lab: no test programs in $build" >&2; exit 1; }

# the contract of transports over RDMA, in all ways to drive the two ends
contract=''
for m in rdma rdma-host rdma-same rdma-plain; do
	[ ! -x "$build/tests/rdma_peer_test" ] || contract="$contract transport_contract_$m"
done
if [ "$here" ]; then
	. "$lab/here.sh"
	exit 1 # it does not come back
fi
[ "$(uname -m)" = x86_64 ] || skip "only written for x86_64"
command -v apt-get >/dev/null || skip "needs Debian's packages"
sh tests/install.sh qemu-system-x86 nbdkit busybox-static cpio kmod xz-utils zstd e2fsprogs dmsetup util-linux iproute2 ||
	skip "QEMU and its helpers cannot be installed"
export PATH="$PATH:/usr/sbin:/sbin"
cache=$build/lab/$kernel

if [ -z "$tests" ]; then
	tests='ring_operations_test disk_engines_test ring_refused_test memlock_test'
	if [ "$full" ]; then
		# but not what sees no kernel: simulated disks, pure functions
		tests=$(cd "$build/tests" && for t in *_test; do
			case $t in
			kill_test | *_sim_* | commitlog_cut_test | base_* | wire_* | *fuzz*) ;;
			*) [ ! -f "$t" ] || [ ! -x "$t" ] || echo "$t" ;;
			esac
		done)
		tests="$contract $tests nvme_512 nvme_unpolled nvme_cache nvme_errors"
	fi
	tests="$tests kill_test tls_kernel nvme_4096 hello quickstart verify recorded_fua recorded_flush recorded_planted powercut"
fi
case $tests in
*transport_rdma_bench*) # its rivals
	sh tests/install.sh perftest || echo "lab: perftest cannot be installed, and is left out" >&2 ;;
esac
# shellcheck source=machine.sh
. "$lab/machine.sh"

result() { # PASS, FAIL or SKIP, name, more
	printf '%s %s %s\n' "$1" "$2" "${3:-}" | tee -a "$run/results"
}

# The drive's cache is a process, and what was not flushed is in its memory only: with it go the writes that a drive
# without power forgets. The machine is stopped first, so that it sees no drive that fails.
cut_power() { # drive, when (a number of ten), jobs of which the last one publishes
	drive=$1 moment=$2
	shift 2
	rm -f "$run/ready" "$run/nbd"
	setpriv --pdeathsig KILL nbdkit -f -U "$run/nbd" --filter=cache file "$run/image" cache=writeback 2>"$run/nbd.log" &
	nbd=$!
	while [ ! -S "$run/nbd" ] && kill -0 $nbd; do sleep 0.1; done
	start 120 "$drive" "driver=nbd,node-name=drive,server.type=unix,server.path=$run/nbd" "$@" >"$run/powercut" 2>&1
	while [ ! -e "$run/ready" ] && [ ! -e "$run/status" ] && kill -0 $machine 2>/dev/null; do sleep 0.1; done
	sleep "$(awk -v seed="$moment" 'BEGIN { srand(seed); print rand() * 2 }')"
	[ ! -s "$run/pid" ] || kill -STOP "$(cat "$run/pid")" || :
	kill -KILL $nbd || :
	[ ! -s "$run/pid" ] || kill -KILL "$(cat "$run/pid")" || :
	wait $nbd 2>/dev/null || :
	wait $machine 2>/dev/null || :
	# it publishes until it is cut
	[ -e "$run/ready" ] && [ ! -e "$run/status" ]
}

# What each cut left is checked by the next machine, which then goes on there.
powercut() {
	format 512M
	rm -f "$run/note"* "$run/said"
	cuts=3 i=0 kind=virtio
	[ -z "$full" ] || cuts=30
	while [ $i -lt $cuts ]; do
		i=$((i + 1))
		[ $kind = scsi ] && kind=virtio || kind=scsi
		check=powercut_check
		publish=powercut_publish
		[ $i != 1 ] || check=''
		[ $i != $cuts ] || { publish=powercut_publish_planted kind=scsi; }
		# shellcheck disable=SC2086 # it may be none
		cut_power $kind $((seed + i)) $check $publish || {
			cat "$run/powercut"
			result FAIL powercut "before cut $i of seed $seed: $(tail -n 1 "$run/said" 2>/dev/null)"
			return 0
		}
	done
	boot 120 nvme "driver=raw,node-name=drive,file.driver=file,file.filename=$run/image" \
		powercut_verify powercut_check_planted >"$run/powercut" 2>&1
	cat "$run/said"
	if [ "$(cat "$run/status" 2>/dev/null)" = 0 ]; then
		result PASS powercut "$cuts cuts, seed $seed; what was not flushed before its acknowledgement is found out by the last"
	else
		cat "$run/powercut"
		result FAIL powercut "seed $seed"
	fi
}

# Two machines on one network, by what URL scheme. The second one's power is cut in the end, the first one's in the middle, which
# then comes back; both as the client wants it. What that said is shown.
pair() { # name
	begin=$(date +%s)
	rm -rf "$run/pair" "$run/first" "$run/second"
	mkdir "$run/pair" "$run/first" "$run/second"
	echo "${1#pair_}://10.0.0.1:7471" >"$run/pair/url"
	network=$((20000 + $$ % 20000))
	format 1G
	number=0 where=$run/first
	start 600 nvme "driver=raw,node-name=drive,file.driver=file,file.filename=$run/image" pair_broker >"$run/first.said" 2>&1
	first=$machine
	number=1 where=$run/second
	start 600 none none pair_client >"$run/second.said" 2>&1
	second=$machine
	while [ ! -e "$run/pair/off" ] && [ ! -e "$run/first/status" ] && kill -0 $second 2>/dev/null; do
		if [ -e "$run/pair/reboot" ]; then
			number=0 where=$run/first
			power_off "$run/first"
			wait $first || :
			rm "$run/pair/reboot"
			start 600 nvme "driver=raw,node-name=drive,file.driver=file,file.filename=$run/image" pair_broker >>"$run/first.said" 2>&1
			first=$machine
		fi
		sleep 0.1
	done
	power_off "$run/second"
	: >"$run/pair/gone"
	wait $second 2>/dev/null || :
	wait $first || :
	number='' where=$run
	sed 's/^/   /' "$run/second.said"
	if [ -e "$run/pair/off" ] && [ "$(cat "$run/first/status" 2>/dev/null)" = 0 ]; then
		result PASS "$1" "($(($(date +%s) - begin)) s) $(grep ' were acknowledged' "$run/first.said" | tail -n 1)"
	else
		cat "$run/first.said"
		tail -n 5 "$run/first/console" "$run/second/console"
		result FAIL "$1" "($(($(date +%s) - begin)) s) $(grep -v '^$' "$run/second.said" | tail -n 1)"
	fi
}

prepare
seed=$(date +%s)
find "$build/lab" -maxdepth 1 -name 'run-*' -mmin +300 -exec rm -rf {} + # of one that was killed
run=$(mktemp -d "$build/lab/run-XXXXXX")
where=$run number='' network='' machine='' nbd='' failing='' first='' second=''
end() {
	trap - EXIT
	# the machines die with those that bound their time
	# shellcheck disable=SC2086 # those that there are
	kill -KILL $nbd $failing $machine $first $second 2>/dev/null || :
	rm -rf "$run"
}
trap end EXIT
trap 'exit 1' INT TERM HUP
: >"$run/results"
jobs='' cut='' pairs=''
for t in $tests; do
	case $t in
	powercut) cut=1 ;;
	pair_rdma | pair_tcp) pairs="$pairs $t" ;;
	hello | quickstart | verify | tls_kernel | recorded_* | nvme_* | transport_contract_rdma*) jobs="$jobs $t" ;;
	*_bench)
		[ -x "$build/bench/$t" ] || { echo "lab: no benchmark $t in $build/bench" >&2; exit 1; }
		jobs="$jobs $t"
		;;
	*)
		[ -x "$build/tests/$t" ] || { echo "lab: no test $t in $build/tests" >&2; exit 1; }
		jobs="$jobs $t"
		;;
	esac
done
echo "lab: Linux $version, emulated; $(nproc) processors here"
if [ "$jobs" ]; then
	begin=$(date +%s)
	format 4G
	# shellcheck disable=SC2086 # a list of words
	boot "$([ "$full" ] && echo 5400 || echo 900)" nvme "driver=raw,node-name=drive,file.driver=file,file.filename=$run/image" \
		$jobs
	echo "lab: $(($(date +%s) - begin)) s, of which the machine took $(cat "$run/begun" 2>/dev/null || echo '?') to come up"
	cp "$run"/*.lines "$build/lab" 2>/dev/null || :
fi
for t in $jobs; do
	grep -q "^[A-Z]* $t " "$run/results" || {
		tail -n 5 "$run/out" 2>/dev/null || : # of the one that did not end
		result FAIL "$t" "it never ended"
	}
done
for t in $pairs; do
	pair "$t"
done
[ -z "$cut" ] || powercut
passed=$(grep -c '^PASS' "$run/results" || :)
failed=$(grep -c '^FAIL' "$run/results" || :)
skipped=$(grep -c '^SKIP' "$run/results" || :)
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] || exit 1
[ "$passed" != 0 ] || exit 77
