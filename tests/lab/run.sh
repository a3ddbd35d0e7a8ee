#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs tests on another kernel than this machine's: Debian's own kernel package, booted in QEMU (all emulated, no KVM),
# with an ext4 on an NVMe drive to work on; and cuts the power of such a machine while it publishes.
#
#   sh tests/lab/run.sh [--kernel PACKAGE] [--build FOLDER] [--full] [test ...]
#
#   --kernel PACKAGE   linux-image-amd64 (the default: Debian 12's, 6.1), linux-image-6.12-amd64, ...; it is not installed
#   --build FOLDER     test these programs as they are; default build-tests, brought up to date
#   --full             all test programs, more kills and cuts: an hour or so
#   test               some of: hello, quickstart, verify; recorded_fua, recorded_flush, recorded_planted (the power is cut
#                      at any write of a drive's life that the kernel recorded); powercut (the power of a running machine
#                      is cut, again and again); or any program of FOLDER/tests. rdma_..._test has two RDMA ports there
#                      (Soft-RoCE), and so has transport_contract_rdma[-...]; ..._bench, of FOLDER/bench, has them too, and its lines are shown
#                      tls_kernel: TLS whose records are the kernel's
#
# A line for each test; the last one is 'N passed, N failed, N skipped'. What is fetched lies in FOLDER/lab.
# Exit 0: all passed or were skipped; 1: not so; 77: this machine cannot run it, and why.
set -eu
lab=$(cd "$(dirname "$0")" && pwd)
cd "$lab/../.."
kernel=linux-image-amd64 build='' full='' tests=''
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=${2:?$1 needs a package}; shift ;;
	--build) build=${2:?$1 needs a folder}; shift ;;
	--full) full=1 ;;
	-*) sed -n '3,20s/^# \{0,1\}//p' "$lab/run.sh" >&2; exit 2 ;;
	*) tests="$tests $1" ;;
	esac
	shift
done

skip() {
	echo "lab: skipped: $*"
	echo "0 passed, 0 failed, 1 skipped"
	exit 77
}

[ "$(uname -m)" = x86_64 ] || skip "only written for x86_64"
command -v apt-get >/dev/null || skip "needs Debian's packages"
sh tests/install.sh qemu-system-x86 nbdkit busybox-static cpio kmod xz-utils e2fsprogs dmsetup util-linux iproute2 ||
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
	tests='ring_operations_test disk_engines_test ring_refused_test memlock_test'
	if [ "$full" ]; then
		# but not what sees no kernel: simulated disks, pure functions
		tests=$(cd "$build/tests" && for t in *_test; do
			case $t in
			kill_test | *_sim_* | commitlog_cut_test | base_* | wire_* | *fuzz*) ;;
			*) [ ! -f "$t" ] || [ ! -x "$t" ] || echo "$t" ;;
			esac
		done)
	fi
	[ -z "$full" ] || for m in rdma rdma-host rdma-same rdma-plain; do
		[ ! -x "$build/tests/rdma_peer_test" ] || tests="transport_contract_$m $tests"
	done
	tests="$tests kill_test tls_kernel hello quickstart verify recorded_fua recorded_flush recorded_planted powercut"
fi

# Debian's backports have newer kernels than the machine's sources may have. Their lists are kept apart.
backports='' # options of apt that see only these
add_backports() {
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY)' |
		awk -v r="$codename" '$2 == r && $3 == "main" && $4 == "Packages" { print $1; exit }')
	[ "$codename" ] && [ "$uri" ] || return 1
	mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $codename-backports main" \
		>"$cache/apt/sources.list"
	backports="-o Dir::Etc::SourceList=$cache/apt/sources.list -o Dir::Etc::SourceParts=/dev/null"
	backports="$backports -o Dir::State::lists=$cache/apt/lists -o Dir::Cache=$cache/apt -o APT::Sandbox::User=root"
	# shellcheck disable=SC2086 # a list of words
	apt-get -qq $backports update
}

# The package of the newest build of the series that $kernel names, among what apt sees with $backports.
newest() {
	series=$(echo "$kernel" | sed -n 's/^linux-image-\([0-9]*\)\.\([0-9]*\)-amd64$/\1[.]\2/p')
	# the package that is always named so depends on the newest build of its series
	# shellcheck disable=SC2086 # $backports is a list of words
	{
		apt-cache $backports depends "$kernel" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p'
		[ -z "$series" ] ||
			apt-cache $backports -n search "^linux-image-${series}[.][^-]*-amd64$" | cut -d ' ' -f 1 | sort -rV
		apt-cache $backports -n search "^$kernel$" | cut -d ' ' -f 1
	} | head -n 1
}

# The kernel, its modules, and an initramfs that finds this machine's files.
prepare() {
	package=$(newest)
	if [ -z "$package" ]; then
		add_backports || skip "apt knows no $kernel, and no backports; after apt-get update it may"
		package=$(newest)
		[ "$package" ] || skip "neither apt nor the backports know $kernel"
	fi
	version=${package#linux-image-}
	if [ "$(cat "$cache/version" 2>/dev/null)" != "$version" ]; then
		rm -rf "$cache/k" "$cache/version"
		(
			cd "$cache"
			rm -f linux-image-*.deb
			# shellcheck disable=SC2086 # a list of words
			apt-get -qq $backports -o APT::Sandbox::User=root download "$package" || exit 77
			mkdir k
			dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x -C k --exclude='*/sound/*' --exclude='*/drivers/gpu/*' \
				--exclude='*/drivers/media/*' --exclude='*/net/wireless/*' --exclude='*/net/ethernet/*'
			rm linux-image-*.deb
			[ -e k/lib ] || ln -s usr/lib k/lib
			depmod -b k "$version" 2>/dev/null
		) || skip "$package cannot be fetched"
		echo "$version" >"$cache/version"
	fi
	rm -rf "$cache/ir"
	mkdir -p "$cache/ir/modules"
	# busybox unpacks no module
	n=10
	for m in virtio_pci virtio_console 9pnet_virtio 9p overlay virtio_blk virtio_scsi sd_mod; do
		modprobe -d "$cache/k" -S "$version" --show-depends $m
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r m; do
		case $m in
		*.xz) xz -dcf "$m" ;;
		*) cat "$m" ;;
		esac >"$cache/ir/modules/$n-$(basename "$m" .xz)"
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
}

# start SECONDS DRIVE IMAGE JOB...: a machine whose drive is IMAGE (a QEMU block device named drive) does the jobs, names
# that guest.sh knows, and goes off. It sees this machine's files as they are, and what it changes of them stays in its
# memory. DRIVE is nvme, which comes with two spare drives, scsi, which can write through its cache (FUA), or virtio, which
# can only flush. QEMU's NVMe promises to write through its cache, and does not: its power is never cut.
# $machine is its process, or rather the one that bounds its time; both go with this one, whatever ends it.
start() {
	limit=$1 drive=$2 image=$3
	shift 3
	: >"$run/jobs"
	for job in "$@"; do
		echo "$job" >>"$run/jobs"
	done
	case $drive in
	nvme)
		device=/dev/nvme0n1
		rm -f "$run/spare0" "$run/spare1"
		truncate -s 2560M "$run/spare0" "$run/spare1"
		set -- -device nvme,serial=lab,id=nvme0 -device nvme-ns,bus=nvme0,drive=drive \
			-blockdev "driver=raw,node-name=spare0,file.driver=file,file.filename=$run/spare0" \
			-device virtio-scsi-pci -device scsi-hd,drive=spare0,dpofua=on,write-cache=on \
			-blockdev "driver=raw,node-name=spare1,file.driver=file,file.filename=$run/spare1" \
			-device virtio-blk-pci,drive=spare1,write-cache=on
		;;
	scsi) device=/dev/sda; set -- -device virtio-scsi-pci -device scsi-hd,drive=drive,dpofua=on,write-cache=on ;;
	virtio) device=/dev/vda; set -- -device virtio-blk-pci,drive=drive,write-cache=on ;;
	esac
	rm -f "$run/status" "$run/begun" "$run/pid"
	cp "$lab/guest.sh" "$lab/cut.sh" "$run"
	cat >"$run/settings" <<-END
		build='$build' cache='$cache' drive=$device seed=$seed kills=$([ "$full" ] && echo 50 || echo 5)
		recorded_cuts=$([ "$full" ] && echo 150 || echo 10) recorded_messages=$([ "$full" ] && echo 10000 || echo 2000)
	END
	setpriv --pdeathsig KILL timeout -k 5 "$limit" setpriv --pdeathsig KILL \
		qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
		-M q35 -accel tcg,thread=multi -cpu max,la57=off -smp 2 -m 2048 -pidfile "$run/pid" \
		-kernel "$cache/k/boot/vmlinuz-$version" -initrd "$cache/initrd" \
		-append "console=ttyS0 panic=-1 quiet mitigations=off nokaslr no_timer_check" -serial "file:$run/console" \
		-device virtio-serial -chardev stdio,id=out -device virtconsole,chardev=out \
		-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
		-virtfs "local,path=$run,mount_tag=lab,security_model=none" \
		-blockdev "$image" "$@" </dev/null &
	machine=$!
}

# start, and wait for its end. A machine that never got as far as its first job says nothing about the library: once more.
boot() {
	start "$@"
	wait $machine || :
	[ -e "$run/begun" ] || { echo "lab: it did not come up, once more" >&2; start "$@"; wait $machine || :; }
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

mkdir -p "$cache"
prepare
seed=$(date +%s)
find "$build/lab" -maxdepth 1 -name 'run-*' -mmin +300 -exec rm -rf {} + # of one that was killed
run=$(mktemp -d "$build/lab/run-XXXXXX")
machine='' nbd=''
end() {
	trap - EXIT
	kill -KILL $nbd $machine 2>/dev/null || : # and the machine dies with the one that bounds its time
	rm -rf "$run"
}
trap end EXIT
trap 'exit 1' INT TERM HUP
: >"$run/results"
jobs='' cut=''
for t in $tests; do
	case $t in
	powercut) cut=1 ;;
	hello | quickstart | verify | tls_kernel | recorded_* | transport_contract_rdma*) jobs="$jobs $t" ;;
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
	format 4G
	# shellcheck disable=SC2086 # a list of words
	boot "$([ "$full" ] && echo 5400 || echo 900)" nvme "driver=raw,node-name=drive,file.driver=file,file.filename=$run/image" \
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
[ "$failed" = 0 ] || exit 1
[ "$passed" != 0 ] || exit 77
