# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154 # what is not set here is run.sh's
# Emulated machines: Debian's kernel out of its package, an initramfs that finds this machine's files, and QEMU. Read by
# run.sh. Knows not what the machines are for: jobs are names that guest.sh knows.

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

fetch() { # into $cache/k: $version, of $package
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
}

# The kernel without its wrapping, which QEMU starts by itself: an emulated machine would take seconds to unwrap it, each time.
unwrap() {
	image=$cache/k/boot/vmlinuz-$version
	for how in 'zstd -dcq:\x28\xb5\x2f\xfd' 'xz -dcq --single-stream:\xfd7zXZ'; do
		for at in $(LC_ALL=C grep -aboP "${how#*:}" "$image" | LC_ALL=C cut -d : -f 1); do
			# shellcheck disable=SC2086 # a command and its options
			tail -c "+$((at + 1))" "$image" | ${how%%:*} >"$cache/kernel.new" 2>/dev/null || :
			if [ "$(head -c 4 "$cache/kernel.new" | tail -c 3)" = ELF ]; then
				mv "$cache/kernel.new" "$cache/kernel"
				return
			fi
		done
	done
	cp "$image" "$cache/kernel"
}

initramfs() {
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

# All that a machine needs, unless it is there already: apt is asked once a day, the rest is made anew when this file changes.
prepare() {
	mkdir -p "$cache"
	if [ -z "$(find "$cache/version" -mmin -1440 2>/dev/null)" ]; then
		package=$(newest)
		if [ -z "$package" ]; then
			add_backports || skip "apt knows no $kernel, and no backports; after apt-get update it may"
			package=$(newest)
			[ "$package" ] || skip "neither apt nor the backports know $kernel"
		fi
		version=${package#linux-image-}
		[ "$(cat "$cache/version" 2>/dev/null)" = "$version" ] || fetch
		touch "$cache/version"
	fi
	version=$(cat "$cache/version")
	key="$version $(cksum <"$lab/machine.sh")"
	[ "$(cat "$cache/key" 2>/dev/null)" != "$key" ] || return 0
	unwrap
	initramfs
	echo "$key" >"$cache/key"
}

spare() { # name, bytes: a drive of no contents, with the options of QEMU for it in $spare
	rm -f "$run/$1"
	truncate -s "$2" "$run/$1"
	spare="-blockdev driver=raw,node-name=$1,file.driver=file,file.filename=$run/$1"
}

# Spare drives, beside an NVMe drive to work on: a SCSI drive, which can write through its cache (FUA), a virtio drive, which
# can only flush, and a second NVMe drive with three namespaces: of 512-byte blocks, of 4096-byte blocks, and one that
# fails to write or to read while the file fail-write or fail-read is in $run, which only the job nvme_errors needs.
spares() {
	spare spare0 2560M
	spares="$spare -device virtio-scsi-pci -device scsi-hd,drive=spare0,dpofua=on,write-cache=on"
	spare spare1 2560M
	spares="$spares $spare -device virtio-blk-pci,drive=spare1,write-cache=on"
	spare space0 768M
	spares="$spares -device nvme,serial=drives,id=nvme1 $spare -device nvme-ns,bus=nvme1,drive=space0,nsid=1"
	spare space1 768M
	spares="$spares $spare -device nvme-ns,bus=nvme1,drive=space1,nsid=2,logical_block_size=4096,physical_block_size=4096"
	case " $* " in
	*' nvme_errors '*)
		spare space2 768M
		rm -f "$run/fail-write" "$run/fail-read" "$run/failing"
		setpriv --pdeathsig KILL nbdkit -f -U "$run/failing" --filter=error file "$run/space2" error=EIO \
			error-pread-rate=100% error-pread-file="$run/fail-read" \
			error-pwrite-rate=100% error-pwrite-file="$run/fail-write" 2>"$run/nbd.log" &
		failing=$!
		while [ ! -S "$run/failing" ] && kill -0 $failing; do sleep 0.1; done
		spares="$spares -blockdev driver=nbd,node-name=space2,server.type=unix,server.path=$run/failing"
		spares="$spares -device nvme-ns,bus=nvme1,drive=space2,nsid=3"
		;;
	esac
}

# start SECONDS DRIVE IMAGE JOB...: a machine whose drive is IMAGE (a QEMU block device named drive) does the jobs, names
# that guest.sh knows, and goes off. It sees this machine's files as they are, and what it changes of them stays in its
# memory; /run/lab is $where. DRIVE is nvme, which comes with spare drives, scsi, virtio, or none. QEMU's NVMe promises to write
# through its cache, and does not: its power is never cut. With a $number, 0 or 1, it is one of two on a network of their own.
# $machine is its process, or rather the one that bounds its time; both go with this one, whatever ends it.
start() {
	limit=$1 drive=$2 image=$3
	shift 3
	: >"$where/jobs"
	for job in "$@"; do
		echo "$job" >>"$where/jobs"
	done
	spares=''
	case $drive in
	nvme) [ "$number" ] || spares "$@" ;;
	esac
	# shellcheck disable=SC2086 # a list of words
	case $drive in
	nvme) set -- -blockdev "$image" -device nvme,serial=lab,id=nvme0 -device nvme-ns,bus=nvme0,drive=drive $spares ;;
	scsi) set -- -blockdev "$image" -device virtio-scsi-pci -device scsi-hd,drive=drive,dpofua=on,write-cache=on ;;
	virtio) set -- -blockdev "$image" -device virtio-blk-pci,drive=drive,write-cache=on ;;
	none) set -- ;;
	esac
	if [ "$number" ]; then
		set -- "$@" -netdev "socket,id=net,mcast=239.77.0.1:$network,localaddr=127.0.0.1" \
			-device "virtio-net-pci,netdev=net,mac=52:54:00:77:00:0$number,host_mtu=4200,romfile=" \
			-virtfs "local,path=$run/pair,mount_tag=pair,security_model=none"
	fi
	rm -f "$where/status" "$where/begun" "$where/pid"
	cp "$lab/guest.sh" "$lab/cut.sh" "$lab"/jobs*.sh "$lab/../leaks.txt" "$where"
	cat >"$where/settings" <<-END
		build='$build' cache='$cache' drive=$drive number='$number' seed=$seed full='$full'
		kills=$([ "$full" ] && echo 50 || echo 5)
		recorded_cuts=$([ "$full" ] && echo 150 || echo 10) recorded_messages=$([ "$full" ] && echo 10000 || echo 2000)
	END
	setpriv --pdeathsig KILL timeout -k 5 "$limit" setpriv --pdeathsig KILL \
		qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
		-M q35 -accel tcg,thread=multi -cpu max,la57=off -smp 2 -m 2048 -pidfile "$where/pid" \
		-kernel "$cache/kernel" -initrd "$cache/initrd" \
		-append "console=ttyS0 panic=-1 quiet mitigations=off nokaslr no_timer_check" -serial "file:$where/console" \
		-device virtio-serial -chardev stdio,id=out -device virtconsole,chardev=out \
		-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
		-virtfs "local,path=$where,mount_tag=lab,security_model=none" \
		"$@" </dev/null 2>"$where/emulator" &
	machine=$!
}

# start, and wait for its end. A machine that never got as far as its first job says nothing about the library: once more.
boot() {
	start "$@"
	wait $machine || :
	[ -e "$where/begun" ] || { echo "lab: it did not come up, once more" >&2; start "$@"; wait $machine || :; }
	[ -e "$where/status" ] || { echo "lab: it went off in the middle; its last words:" >&2; tail -n 20 "$where/console" "$where/emulator" >&2; }
}

format() { # bytes
	rm -f "$run/image"
	truncate -s "$1" "$run/image"
	mkfs.ext4 -q -F -N 65536 -E lazy_itable_init=0,lazy_journal_init=0 "$run/image"
}

power_off() { # the machine of that folder
	[ ! -s "$1/pid" ] || kill -KILL "$(cat "$1/pid")" 2>/dev/null || :
}
