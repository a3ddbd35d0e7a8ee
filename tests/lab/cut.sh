#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Within the emulated machine: whether the data directory on a drive whose power was cut is as it must be. replay.c calls
# it with the note of that moment. It works on a snapshot: the drive stays as it is.
#
#   cut.sh DRIVE SECTORS CHANGES PUBLISHER MODE NOTE     CHANGES: a device for what the snapshot changes
set -eu
drive=$1 sectors=$2 changes=$3 publisher=$4 mode=$5 note=$6
rm -f /run/note
case $note in
none | begin) ;;
*) echo "$note" >/run/note ;;
esac
dmsetup --noudevsync create cut --table "0 $sectors snapshot $drive $changes N 16"
dmsetup mknodes # there is no udev
s=0
mount -t ext4 /dev/mapper/cut /cut || s=1
if [ $s = 0 ]; then
	"$publisher" check "$mode" /cut/data /run/note >/run/check 2>&1 || s=$?
	cat /run/check
	umount /cut
fi
dmsetup --noudevsync --retry remove cut
exit $s
