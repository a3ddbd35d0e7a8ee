# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154 # what is not set here is guest.sh's
# Jobs on the second NVMe drive (spares() of machine.sh): logs on namespaces of 512- and 4096-byte blocks, with and without queues
# that are polled, with and without a volatile cache, and on one that fails.

leave_namespace() {
	cd /mnt/room || return 1
	! mountpoint -q /drive || { umount /tmp && umount /drive; }
}

# A file system on that namespace, where cwd and /tmp are for what follows. $space is its name.
on_namespace() { # number, bytes of its blocks, options of mkfs
	leave_namespace || return 1 # of one that failed in the middle
	space=$(nvme_of drives)n$1
	[ "$(cat "/sys/block/$space/queue/logical_block_size")" = "$2" ] || { echo "$space has other blocks"; return 1; }
	mkfs.ext4 -q -F -E nodiscard -b "$3" "/dev/$space" && mount -t ext4 "/dev/$space" /drive || return 1
	mkdir -p /drive/tmp && mount --bind /drive/tmp /tmp && cd /drive
}

polled_queues() { # how many the second drive gets: the parameter is looked at when a drive is found
	device=$(readlink -f "/sys/class/nvme/$(nvme_of drives)/device")
	echo "$1" >/sys/module/nvme/parameters/poll_queues
	echo "${device##*/}" >/sys/bus/pci/drivers/nvme/unbind
	echo "${device##*/}" >/sys/bus/pci/drivers/nvme/bind
	n=0
	until d=$(nvme_of drives) && [ -b "/dev/${d}n1" ] && [ -b "/dev/${d}n2" ] || [ $n -ge 100 ]; do
		n=$((n + 1))
		sleep 0.1
	done
	[ "$(cat "/sys/block/${d}n1/queue/io_poll")" = $(($1 > 0)) ]
}

# What every drive has to carry.
a_log_lives_here() {
	timeout 300 /run/build/tests/disk_engines_test || return
	quickstart && hello && verify || return 1
	[ -z "$full" ] || timeout 300 /run/build/tests/kill_test 3
}

nvme_512() { # blocks of the file system are smaller than the log's
	on_namespace 1 512 1024 || return 1
	a_log_lives_here && timeout 300 /run/build/tests/disk_polled_test
	s=$?
	leave_namespace
	return $s
}

nvme_4096() {
	on_namespace 2 4096 4096 || return 1
	a_log_lives_here && timeout 300 /run/build/tests/disk_polled_test
	s=$?
	leave_namespace
	return $s
}

nvme_unpolled() { # asked for queues that are polled it says that there are none; unasked it does without
	polled_queues 0 || { echo "the queues stay as they are"; return 1; }
	on_namespace 2 4096 4096 || return 1
	a_log_lives_here
	s=$?
	if [ $s = 0 ]; then
		timeout 300 /run/build/tests/disk_polled_test
		[ $? = 77 ] || s=1
	fi
	leave_namespace
	polled_queues 1 || s=1
	return $s
}

flushes() { # that the drive was asked for, so far
	awk '{ print $16 }' "/sys/block/$space/stat"
}

# Whether the drive has a cache that forgets. Where it has none, nothing is to be flushed, and the kernel sees to that.
nvme_cache() {
	for cache_kind in 'write back' 'write through'; do
		on_namespace 1 512 4096 || return 1
		echo "$cache_kind" >"/sys/block/$space/queue/write_cache" || return 1
		before=$(flushes)
		rm -f note
		$publisher publish mixed /drive/data note 1000 && $publisher check mixed /drive/data note || return 1
		between=$(($(flushes) - before))
		echo "$cache_kind: $between flushes"
		[ "$cache_kind" = 'write back' ] || [ $between = 0 ] || return 1
		[ "$cache_kind" = 'write through' ] || [ $between != 0 ] || return 1
		leave_namespace
	done
	echo 'write back' >"/sys/block/$space/queue/write_cache"
}

# Writes fail while it publishes: it says so and ends, and what it had acknowledged is there. Reads fail while it recovers: it does
# not open, changes nothing, and opens when they do not fail any more.
nvme_errors() {
	on_namespace 3 512 4096 || return 1
	rm -f /run/lab/note-errors /run/lab/ready-errors
	timeout 120 $publisher publish durable /drive/data /run/lab/note-errors /run/lab/ready-errors >said 2>&1 &
	p=$!
	n=0
	until [ -e /run/lab/ready-errors ] || [ $n -ge 600 ]; do
		n=$((n + 1))
		sleep 0.1
	done
	: >/run/lab/fail-write
	wait $p
	s=$?
	rm /run/lab/fail-write
	cat said
	[ $s = 1 ] || { echo "it ended with $s"; return 1; }
	cp said /mnt/room/said
	leave_namespace || return 1
	e2fsck -fy "/dev/$space" >/mnt/room/fsck 2>&1 # the file system's own writes have failed too
	mount -t ext4 "/dev/$space" /drive || return 1
	: >/run/lab/fail-read
	timeout 120 $publisher check durable /drive/data /run/lab/note-errors
	s=$?
	rm /run/lab/fail-read
	[ $s = 1 ] || { echo "with reads that fail it ended with $s"; umount /drive; return 1; }
	umount /drive
	mount -t ext4 "/dev/$space" /drive && $publisher check durable /drive/data /run/lab/note-errors
	s=$?
	/run/build/examples/thmq verify /drive/data || s=1
	umount /drive
	return $s
}
