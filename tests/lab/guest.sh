#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of the emulated machine (run.sh boots it): mounts the drive, does the jobs of /run/lab/jobs, goes off.
# /run/lab is a folder of the machine outside; everything else of it is here to be read, and changes of it stay in memory.
# shellcheck disable=SC2154 # build, cache and kills are set by /run/lab/settings
exec </dev/null >/dev/hvc0 2>&1
stty raw </dev/hvc0
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C

off() { # the jobs' status
	cd /
	umount /tmp /mnt
	dmesg >/run/lab/dmesg
	echo "$1" >/run/lab/status
	sync
	echo o >/proc/sysrq-trigger
	while :; do sleep 1; done
}
# shellcheck source=/dev/null
. /run/lab/settings
mkdir -p /dev/shm /lib/modules /run/build
mount -t tmpfs shm /dev/shm
ln -sfn "$cache/k/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
ip link set lo up 2>/dev/null
modprobe nvme poll_queues=1
modprobe ext4
# the build may lie below /tmp, where the drive will be
mount --bind "$build" /run/build
mkdir -p /mnt
n=0 drive=''
while [ -z "$drive" ] && [ $n -lt 100 ]; do
	for d in /dev/nvme0n1 /dev/sda /dev/vda; do
		[ ! -b $d ] || drive=$d
	done
	n=$((n + 1))
	[ "$drive" ] || sleep 0.1
done
mount -t ext4 "$drive" /mnt || off 125
mkdir -p /mnt/tmp /mnt/work
mount --bind /mnt/tmp /tmp
cd /mnt/work || off 125
: >/run/lab/begun

hello() {
	(rm -rf hello-data && /run/build/examples/hello && /run/build/examples/hello) >said 2>&1 || return 1
	cat said
	grep -q 'hello at offset 1$' said
}

quickstart() {
	q=/run/build/examples/quickstart
	rm -rf q q.acked
	head -c 2000000 /var/lib/dpkg/status >q.file
	$q crash q q.file q.acked
	s=$?
	[ $s = 0 ] || [ $s = 3 ] || return 1 # 3: done before it could be killed
	$q publish q q.file q.acked && $q check q q.file
}

verify() { # what the others left behind
	for d in hello-data q; do
		[ ! -d $d ] || /run/build/examples/thmq verify $d || return 1
	done
}

publisher=/run/build/tests/powercut_pub
job() {
	case $1 in
	hello | quickstart | verify) "$1" ;;
	kill_test) timeout 600 /run/build/tests/kill_test "$kills" ;;
	powercut_publish) $publisher publish durable /run/lab/note /run/lab/ready ;;
	powercut_publish_written) $publisher publish-written written /run/lab/note-written /run/lab/ready ;;
	powercut_check) [ ! -e /run/lab/note ] || $publisher check durable /run/lab/note ;;
	powercut_check_written) $publisher check-written written /run/lab/note-written ;;
	powercut_verify) /run/build/examples/thmq verify durable && /run/build/examples/thmq verify written ;;
	*) timeout 600 "/run/build/tests/$1" ;;
	esac
}

status=0
: >/run/lab/said
while read -r j; do
	begin=$(date +%s)
	job "$j" </dev/null >out 2>&1
	s=$?
	last=$(grep -v '^$' out | tail -n 1 | sed 's/\x1b\[[0-9;]*m//g')
	case $s in
	0) word=PASS ;;
	77) word=SKIP ;;
	*) word=FAIL; status=1; cat out ;;
	esac
	case $j in
	powercut_*) echo "$last" >>/run/lab/said; [ $s = 0 ] || off 1 ;;
	*) echo "$word $j ($(($(date +%s) - begin)) s) $last" | tee -a /run/lab/results ;;
	esac
done </run/lab/jobs
off $status
