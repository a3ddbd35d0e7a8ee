# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154 # what is not set here is guest.sh's
# Jobs that need nothing but a kernel and a drive: example programs, power cuts of a drive whose life was recorded, TLS by the kernel.

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

must_lose() { # a job that must find acknowledged messages lost, by which powercut_pub exits with 3
	"$@"
	[ $? = 3 ]
}

tls_kernel() { # the kernel encrypts
	modprobe tls || return 77
	timeout 400 /run/build/tests/transport_contract_test tls-kernel || return
	for t in trust renewal changes_of_keys random_frames someone_between false_brokers killed stopped; do
		THMQ_TEST_KERNEL_TLS=1 timeout 100 /run/build/tests/tls_peer_test $t || return
	done
	grep -v '^$' /proc/net/tls_stat
}
