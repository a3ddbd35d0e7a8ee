#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of an emulated machine (machine.sh boots it): mounts the drive, does the jobs of /run/lab/jobs, goes off.
# /run/lab is a folder of the machine outside; everything else of it is here to be read, and changes of it stay in memory.
# shellcheck disable=SC2154 # what is not set here is set by /run/lab/settings
exec </dev/null >/dev/hvc0 2>&1
stty raw </dev/hvc0
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C THMQ_TEST_SLOW=1
export LSAN_OPTIONS="suppressions=/run/lab/leaks.txt:print_suppressions=0" UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0

off() { # the jobs' status
	cd /
	! mountpoint -q /drive || umount /tmp /drive
	umount /tmp /mnt
	dmesg >/run/lab/dmesg
	echo "$1" >/run/lab/status
	sync
	echo o >/proc/sysrq-trigger
	while :; do sleep 1; done
}
# shellcheck source=/dev/null
. /run/lab/settings
modules=/lib/modules/$(uname -r)
mkdir -p /dev/shm "$modules" /run/build /mnt /cut /drive
mount -t tmpfs shm /dev/shm
# these may lie below /tmp, where the drive will be
mount --bind "$cache/k$modules" "$modules"
mount --bind "$build" /run/build
ip link set lo up 2>/dev/null
modprobe nvme poll_queues=1
modprobe ext4

# An NVMe drive by its serial number, as the kernel has named it: of several, any may be the first.
nvme_of() {
	for c in /sys/class/nvme/nvme*; do
		read -r s 2>/dev/null <"$c/serial" && [ "$s" = "$1" ] && echo "${c##*/}" && return
	done
	return 1
}

case $drive in
nvme) find_drive() { d=$(nvme_of lab) && drive=/dev/${d}n1; } ;;
scsi) find_drive() { drive=/dev/sda; } ;;
virtio) find_drive() { drive=/dev/vda; } ;;
esac
if [ "$drive" = none ]; then
	mount -t tmpfs work /mnt
else
	n=0
	until find_drive && [ -b "$drive" ] || [ $n -ge 100 ]; do
		n=$((n + 1))
		sleep 0.1
	done
	mount -t ext4 "$drive" /mnt || off 125
fi
mkdir -p /mnt/tmp /mnt/room
mount --bind /mnt/tmp /tmp
cd /mnt/room || off 125
cut -d ' ' -f 1 /proc/uptime >/run/lab/begun

publisher=/run/build/tests/powercut_pub
planted=${publisher}_planted
. /run/lab/jobs.sh
. /run/lab/jobs_rdma.sh
. /run/lab/jobs_nvme.sh

job() {
	case $1 in
	hello | quickstart | verify | tls_* | nvme_* | pair_*) "$1" ;;
	kill_test) timeout 600 /run/build/tests/kill_test "$kills" ;;
	recorded_fua) recorded /dev/sda "$recorded_cuts" "$recorded_messages" mixed $publisher ;;
	recorded_flush) recorded /dev/vda "$recorded_cuts" "$recorded_messages" durable $publisher ;;
	recorded_planted) must_lose recorded /dev/sda 40 1000 mixed $planted && echo "found out: $(tail -n 1 /run/lab/cuts)" ;;
	powercut_publish) $publisher publish mixed durable /run/lab/note /run/lab/ready ;;
	powercut_publish_planted) $planted publish durable planted /run/lab/note-planted /run/lab/ready ;;
	powercut_check) $publisher check mixed durable /run/lab/note ;;
	powercut_check_planted) must_lose $publisher check durable planted /run/lab/note-planted ;;
	powercut_verify) /run/build/examples/thmq verify durable ;;
	transport_rdma_bench) rdma_bench ;;
	*_bench) with_rdma "/run/build/bench/$1" --pairs 3 --pairs-max 3 ;;
	transport_contract_rdma)
		set -- messages_as_they_were big_messages back_pressure broker_goes
		[ -z "$full" ] || set --
		with_rdma /run/build/tests/transport_contract_test rdma "$@"
		;;
	transport_contract_rdma*) with_rdma /run/build/tests/transport_contract_test "${1#transport_contract_}" ;;
	rdma_*) with_rdma "/run/build/tests/$1" ;;
	*) timeout 600 "/run/build/tests/$1" ;;
	esac
}

status=0 out=/run/lab/out # seen outside as long as it goes on
while read -r j; do
	begin=$(date +%s)
	job "$j" </dev/null >$out 2>&1
	s=$?
	cd /mnt/room || off 1
	last=$(grep -v '^$' $out | tail -n 1 | sed 's/\x1b\[[0-9;]*m//g')
	case $s in
	0)
		word=PASS
		case $j in
		*_bench) cat $out; cp $out "/run/lab/$j.lines" ;;
		pair_*) cat $out ;;
		esac
		;;
	77) word=SKIP ;;
	*) word=FAIL; status=1; cat $out ;;
	esac
	case $j in
	powercut_*) echo "$last" >>/run/lab/said; [ $s = 0 ] || off 1 ;;
	*) echo "$word $j ($(($(date +%s) - begin)) s) $last" | tee -a /run/lab/results ;;
	esac
done </run/lab/jobs
off $status
