#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs tests on another kernel than this machine's: Debian's own kernel package, booted in QEMU (all emulated, no KVM),
# with an ext4 on an NVMe drive to work on; and cuts the power of such a machine while it publishes.
#
#   sh tests/lab/run.sh [--kernel PACKAGE] [--build FOLDER] [--full] [test ...]
#
#   --kernel PACKAGE   linux-image-amd64 (the default: Debian 12's, 6.1), linux-image-6.12-amd64, ...; it is not installed
#   --build FOLDER     test these programs as they are; default build-tests, brought up to date
#   --full             all test programs, more kills and cuts
#   test               some of: hello, quickstart, verify, powercut, or any program of FOLDER/tests
#
# A line for each test. Exit 0: all passed or were skipped; 1: not so; 77: this machine cannot run it, and why.
set -eu
lab=$(cd "$(dirname "$0")" && pwd)
cd "$lab/../.."
kernel=linux-image-amd64 build='' full='' tests=''
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=${2:?$1 needs a package}; shift ;;
	--build) build=${2:?$1 needs a folder}; shift ;;
	--full) full=1 ;;
	-*) sed -n '3,14s/^# \{0,1\}//p' "$lab/run.sh" >&2; exit 2 ;;
	*) tests="$tests $1" ;;
	esac
	shift
done

skip() {
	echo "lab: skipped: $*"
	exit 77
}

[ "$(uname -m)" = x86_64 ] || skip "only written for x86_64"
command -v apt-get >/dev/null || skip "needs Debian's packages"
sh tests/install.sh qemu-system-x86 nbdkit busybox-static cpio kmod xz-utils e2fsprogs ||
	skip "QEMU and its helpers cannot be installed"
export PATH="$PATH:/usr/sbin:/sbin"

if [ -z "$build" ]; then
	build='build-tests'
	sh tests/install.sh gcc libc6-dev meson ninja-build pkg-config liburing-dev libhwloc-dev libisal-dev libcriterion-dev
	[ -d $build ] || meson setup -Dbuildtype=debugoptimized $build >$build.log || { cat $build.log; exit 1; }
	ninja -C $build --quiet
fi
build=$(cd "$build" && pwd)
[ -x "$build/tests/kill_test" ] || { echo "lab: no test programs in $build" >&2; exit 1; }
cache=$build/lab/$kernel

if [ -z "$tests" ]; then
	tests='ring_operations_test disk_contract_test commitlog_recover_test ring_refused_test bad_input_directory_test'
	if [ "$full" ]; then
		tests=$(cd "$build/tests" && for t in *_test; do [ ! -x "$t" ] || [ "$t" = kill_test ] || echo "$t"; done)
	fi
	tests="$tests kill_test hello quickstart verify powercut"
fi

# The kernel, its modules, and an initramfs that finds this machine's files.
prepare() {
	# the package that is always named so depends on the newest build of its series
	package=$(apt-cache depends "$kernel" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	package=${package:-$kernel}
	version=${package#linux-image-}
	key="$version $(cksum <"$lab/run.sh")"
	[ "$(cat "$cache/key" 2>/dev/null)" != "$key" ] || return 0
	apt-cache show "$package" >/dev/null 2>&1 || skip "apt knows no package $package; after apt-get update it may"
	rm -rf "$cache"
	mkdir -p "$cache/ir/modules"
	(
		cd "$cache"
		apt-get -qq -o APT::Sandbox::User=root download "$package" || exit 77
		dpkg-deb -x linux-image-*.deb k
		rm linux-image-*.deb
		[ -e k/lib ] || ln -s usr/lib k/lib
		depmod -b k "$version"
	) || skip "$package cannot be fetched"
	# busybox unpacks no module
	n=10
	for m in virtio_pci virtio_console 9pnet_virtio 9p overlay virtio_blk virtio_scsi sd_mod; do
		modprobe -d "$cache/k" -S "$version" --show-depends $m
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r m; do
		xz -dcf "$m" >"$cache/ir/modules/$n-$(basename "$m" .xz)"
		n=$((n + 1))
	done
	cp "$(command -v busybox)" "$cache/ir/busybox"
	cat >"$cache/ir/init" <<'END'
#!/busybox sh
b=/busybox
$b mkdir /dev /proc /sys /host /rw /root
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for m in /modules/*; do $b insmod $m; done
$b mount -t tmpfs rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose host /host
$b mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /root
for d in dev proc sys; do $b mount --move /$d /root/$d; done
$b mount -t tmpfs run /root/run
$b mkdir -p /root/run/lab
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 lab /root/run/lab
exec $b switch_root /root /bin/sh /run/lab/guest.sh
END
	chmod +x "$cache/ir/init"
	(cd "$cache/ir" && find . | cpio -o -H newc --quiet) >"$cache/initrd"
	echo "$key" >"$cache/key"
}

# boot SECONDS DRIVE IMAGE JOB...: a machine whose drive is IMAGE (a QEMU block device named drive) does the jobs, names
# that guest.sh knows, and goes off. It sees this machine's files as they are, and what it changes of them stays in its
# memory. DRIVE is nvme, or what honours its promises when the power is cut: scsi, which takes "to the medium" with a write
# (FUA), or virtio, which is only told to flush. QEMU's NVMe takes it with a write, and forgets it.
boot() {
	limit=$1 drive=$2 image=$3
	shift 3
	case $drive in
	nvme) set -- "$@" -- -device nvme,serial=lab,id=nvme0 -device nvme-ns,bus=nvme0,drive=drive ;;
	scsi) set -- "$@" -- -device virtio-scsi-pci -device scsi-hd,drive=drive,dpofua=on,write-cache=on ;;
	virtio) set -- "$@" -- -device virtio-blk-pci,drive=drive,write-cache=on ;;
	esac
	: >"$run/jobs"
	while [ "$1" != -- ]; do
		echo "$1" >>"$run/jobs"
		shift
	done
	shift
	rm -f "$run/status" "$run/begun"
	cp "$lab/guest.sh" "$run/guest.sh"
	timeout --foreground -k 5 "$limit" qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
		-M q35 -accel tcg,thread=multi -cpu max,la57=off -smp 2 -m 2048 -pidfile "$run/pid" \
		-kernel "$cache/k/boot/vmlinuz-$version" -initrd "$cache/initrd" \
		-append "console=ttyS0 panic=-1 quiet mitigations=off nokaslr" -serial "file:$run/console" \
		-device virtio-serial -chardev stdio,id=out -device virtconsole,chardev=out \
		-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
		-virtfs "local,path=$run,mount_tag=lab,security_model=none" \
		-blockdev "$image" "$@" </dev/null || :
}

# An emulated machine that never got as far as its first job says nothing about the library: once more.
boot_again() {
	boot "$@"
	[ -e "$run/begun" ] || { echo "lab: it did not come up, once more" >&2; boot "$@"; }
	[ -e "$run/status" ] || { echo "lab: it went off in the middle; its last words:" >&2; tail -n 20 "$run/console" >&2; }
}

format() { # bytes
	rm -f "$run/image"
	truncate -s "$1" "$run/image"
	mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$run/image"
}

result() { # PASS, FAIL or SKIP, name, more
	printf '%s %s %s\n' "$1" "$2" "${3:-}" | tee -a "$run/results"
}

# The drive's cache is a process, and what was not flushed is in its memory only: with it go the writes that a drive
# without power forgets. The machine is stopped first, so that it sees no drive that fails.
cut_power() { # drive, what to publish, seed
	rm -f "$run/ready" "$run/status" "$run/pid" "$run/nbd"
	nbdkit -f -U "$run/nbd" --filter=cache file "$run/image" cache=writeback 2>"$run/nbd.log" &
	nbd=$!
	while [ ! -S "$run/nbd" ] && kill -0 $nbd; do sleep 0.1; done
	boot 300 "$1" "driver=nbd,node-name=drive,server.type=unix,server.path=$run/nbd" powercut_check "$2" \
		>"$run/powercut" 2>&1 &
	machine=$!
	while [ ! -e "$run/ready" ] && [ ! -e "$run/status" ] && kill -0 $machine 2>/dev/null; do sleep 0.1; done
	sleep "$(awk -v seed="$3" 'BEGIN { srand(seed); print rand() * 3 }')"
	kill -STOP "$(cat "$run/pid")" || :
	kill -KILL $nbd || :
	kill -KILL "$(cat "$run/pid")" || :
	wait $nbd 2>/dev/null || :
	wait $machine 2>/dev/null || :
	# it publishes until it is cut
	[ -e "$run/ready" ] && [ ! -e "$run/status" ]
}

powercut() {
	format 1G
	rm -f "$run/note"*
	cuts=2 i=0 drive=virtio seed=$(date +%s)
	[ -z "$full" ] || cuts=20
	while [ $i -lt $cuts ]; do
		i=$((i + 1))
		[ $drive = scsi ] && drive=virtio || drive=scsi
		cut_power $drive powercut_publish $((seed + i)) || {
			cat "$run/powercut"
			result FAIL powercut "before cut $i of seed $seed"
			return 0
		}
	done
	# what was only written must suffer, else the cuts prove nothing
	cut_power scsi powercut_publish_written "$seed" || {
		cat "$run/powercut"
		result FAIL powercut "before the cut of what was only written"
		return 0
	}
	boot_again 300 nvme "driver=raw,node-name=drive,file.driver=file,file.filename=$run/image" \
		powercut_check powercut_check_written powercut_verify >"$run/powercut" 2>&1
	if [ "$(cat "$run/status" 2>/dev/null)" = 0 ]; then
		result PASS powercut "$cuts cuts; $(tr '\n' ' ' <"$run/said")"
	else
		cat "$run/powercut"
		result FAIL powercut "$(cat "$run/said" 2>/dev/null)"
	fi
}

prepare
run=$(mktemp -d "$build/lab/run-XXXXXX")
trap 'rm -rf "$run"' EXIT
trap 'exit 1' INT TERM HUP
: >"$run/results"
jobs='' cut=''
for t in $tests; do
	case $t in
	powercut) cut=1 ;;
	hello | quickstart | verify) jobs="$jobs $t" ;;
	*)
		[ -x "$build/tests/$t" ] || { echo "lab: no test $t in $build/tests" >&2; exit 1; }
		jobs="$jobs $t"
		;;
	esac
done
cat >"$run/settings" <<END
build='$build'
cache='$cache'
kills=$([ "$full" ] && echo 50 || echo 6)
END
echo "lab: Linux $version, emulated; $(nproc) processors here"
if [ "$jobs" ]; then
	format 4G
	# shellcheck disable=SC2086 # a list of words
	boot_again "$([ "$full" ] && echo 5400 || echo 1200)" nvme "driver=raw,node-name=drive,file.driver=file,file.filename=$run/image" \
		$jobs
fi
for t in $jobs; do
	grep -q "^[A-Z]* $t " "$run/results" || result FAIL "$t" "it never ended"
done
[ -z "$cut" ] || powercut
passed=$(grep -c '^PASS' "$run/results" || :)
failed=$(grep -c '^FAIL' "$run/results" || :)
skipped=$(grep -c '^SKIP' "$run/results" || :)
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
