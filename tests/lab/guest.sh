#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of the emulated machine (run.sh boots it): mounts the drive, does the jobs of /run/lab/jobs, goes off.
# /run/lab is a folder of the machine outside; everything else of it is here to be read, and changes of it stay in memory.
# shellcheck disable=SC2154 # what is not set here is set by /run/lab/settings
exec </dev/null >/dev/hvc0 2>&1
stty raw </dev/hvc0
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C THMQ_TEST_SLOW=1

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
modules=/lib/modules/$(uname -r)
mkdir -p /dev/shm "$modules" /run/build /mnt /cut
mount -t tmpfs shm /dev/shm
# these may lie below /tmp, where the drive will be
mount --bind "$cache/k$modules" "$modules"
mount --bind "$build" /run/build
ip link set lo up 2>/dev/null
modprobe nvme poll_queues=1
modprobe ext4
n=0
while [ ! -b "$drive" ] && [ $n -lt 100 ]; do
	n=$((n + 1))
	sleep 0.1
done
mount -t ext4 "$drive" /mnt || off 125
mkdir -p /mnt/tmp /mnt/work
mount --bind /mnt/tmp /tmp
cd /mnt/work || off 125
: >/run/lab/begun

hello() {
	(rm -rf hello-data && /run/build/examples/hello && /run/build/examples/hello) >said 2>&1 || { cat said; return 1; }
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

mib() { # mebibytes, in sectors
	echo $(($1 * 2048))
}

slice() { # name, first MiB, MiB of the spare drive
	dmsetup --noudevsync create "$1" --table "0 $(mib "$3") linear $spare $(mib "$2")" && dmsetup mknodes
}

# A drive's life, recorded by the kernel: publishes on it, then cuts its power at so many moments of that life.
recorded() { # spare drive, cuts, messages, mode, publisher
	spare=$1 cuts=$2 messages=$3 mode=$4 recorder=$5
	modprobe -a dm-log-writes dm-snapshot || return 77
	umount /cut 2>/dev/null
	dmsetup --noudevsync remove_all -f >/dev/null 2>&1
	slice data 0 256 && slice log 256 1536 && slice copy 1792 256 && slice changes 2048 256 || return 1
	blkdiscard -fz /dev/mapper/copy 2>/dev/null && dd if=/dev/zero of=/dev/mapper/log bs=1M count=1 2>/dev/null || return 1
	dmsetup --noudevsync create recorded --table "0 $(mib 256) log-writes /dev/mapper/data /dev/mapper/log" &&
		dmsetup mknodes || return 1
	# the copy begins as zeros: so does the recorded drive, since all that is read of it was written through the log
	mkfs.ext4 -q -F -b 4096 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/recorded &&
		mount -t ext4 /dev/mapper/recorded /cut && sync || return 1
	# from the first mark on: the directory's creation is cut too, where that is of interest
	[ "$recorder" = "$planted" ] || dmsetup message recorded 0 mark begin || return 1
	timeout 100 "$recorder" publish "$mode" /cut/data dm:recorded "$messages" || return 1
	umount /cut && dmsetup --noudevsync --retry remove recorded || return 1
	/run/build/tests/lab_replay /dev/mapper/log /dev/mapper/copy "$cuts" "$seed" \
		"sh /run/lab/cut.sh /dev/mapper/copy $(mib 256) /dev/mapper/changes $publisher $mode" >/run/lab/cuts 2>&1
	s=$?
	if [ $s = 0 ]; then tail -n 1 /run/lab/cuts; else tail -n 20 /run/lab/cuts; fi
	dmsetup --noudevsync remove_all -f
	return $s
}

# Two RDMA ports (Soft-RoCE), 10.0.0.1 and 10.0.0.2, on the two ends of a cable. The rules send what is between them over
# the cable; by itself the kernel would hand it over within. Made for the first job that needs them.
rdma_ports() {
	[ ! -e /sys/class/infiniband/port0 ] || return 0
	modprobe -a veth dummy rdma_rxe rdma_ucm || return 1
	ip link add cable0 type veth peer name cable1 || return 1
	echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
	for i in 0 1; do
		ip addr add 10.0.0.$((i + 1))/24 dev cable$i
		for f in accept_local=1 rp_filter=0 arp_ignore=1; do
			echo ${f#*=} >/proc/sys/net/ipv4/conf/cable$i/${f%=*}
		done
		ip link set cable$i mtu 4200 up # the largest packets of RDMA
		ip rule add pref 1$i iif lo from 10.0.0.$((i + 1)) to 10.0.0.$((2 - i)) lookup 10$i
		ip route add 10.0.0.$((2 - i)) dev cable$i table 10$i
		rdma link add port$i type rxe netdev cable$i || return 1
	done
	ip rule add pref 500 lookup local
	ip rule del pref 0
}

with_rdma() { # a test program; without a port it fails here
	rdma_ports || { echo "no RDMA port could be made"; return 1; }
	THMQ_TEST_LAB=1 timeout 600 "$@"
	s=$?
	[ $s != 77 ] || s=1
	return $s
}

must_lose() { # a job that must find acknowledged messages lost, by which powercut_pub exits with 3
	"$@"
	[ $? = 3 ]
}

tls_kernel() { # the kernel encrypts
	modprobe tls || return 77
	timeout 300 /run/build/tests/transport_contract_test tls-kernel messages_as_they_were big_messages back_pressure \
		broker_goes || return
	for t in trust changes_of_keys random_frames someone_between false_brokers; do
		THMQ_TEST_KERNEL_TLS=1 timeout 100 /run/build/tests/tls_peer_test $t || return
	done
}

publisher=/run/build/tests/powercut_pub
planted=${publisher}_planted
job() {
	case $1 in
	hello | quickstart | verify) "$1" ;;
	kill_test) timeout 600 /run/build/tests/kill_test "$kills" ;;
	recorded_fua) recorded /dev/sda "$recorded_cuts" "$recorded_messages" mixed $publisher ;;
	recorded_flush) recorded /dev/vda "$recorded_cuts" "$recorded_messages" durable $publisher ;;
	recorded_planted) must_lose recorded /dev/sda 40 1000 mixed $planted && echo "found out: $(tail -n 1 /run/lab/cuts)" ;;
	powercut_publish) $publisher publish mixed durable /run/lab/note /run/lab/ready ;;
	powercut_publish_planted) $planted publish durable planted /run/lab/note-planted /run/lab/ready ;;
	powercut_check) $publisher check mixed durable /run/lab/note ;;
	powercut_check_planted) must_lose $publisher check durable planted /run/lab/note-planted ;;
	powercut_verify) /run/build/examples/thmq verify durable ;;
	tls_kernel) tls_kernel ;;
	*_bench) with_rdma "/run/build/bench/$1" --pairs 3 --pairs-max 3 ;;
	transport_contract_rdma*) with_rdma /run/build/tests/transport_contract_test "${1#transport_contract_}" ;;
	rdma_*) with_rdma "/run/build/tests/$1" ;;
	*) timeout 600 "/run/build/tests/$1" ;;
	esac
}

status=0
while read -r j; do
	begin=$(date +%s)
	job "$j" </dev/null >out 2>&1
	s=$?
	last=$(grep -v '^$' out | tail -n 1 | sed 's/\x1b\[[0-9;]*m//g')
	case $s in
	0) word=PASS; case $j in *_bench) cat out ;; esac ;;
	77) word=SKIP ;;
	*) word=FAIL; status=1; cat out ;;
	esac
	case $j in
	powercut_*) echo "$last" >>/run/lab/said; [ $s = 0 ] || off 1 ;;
	*) echo "$word $j ($(($(date +%s) - begin)) s) $last" | tee -a /run/lab/results ;;
	esac
done </run/lab/jobs
off $status
