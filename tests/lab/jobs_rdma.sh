# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154 # what is not set here is guest.sh's
# Jobs over RDMA: in one machine with two ports, and in two machines on one network.

# Two RDMA ports (Soft-RoCE), 10.0.0.1 and 10.0.0.2, on the two ends of a cable. The rules send what is between them over
# the cable; by itself the kernel would hand it over within. 10.0.0.11 and 10.0.0.12 are the same two ends for those who do
# not say where they connect from. Made for the first job that needs them.
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
		ip addr add 10.0.0.1$((i + 1))/32 dev cable$i
	done
	for i in 0 1; do
		ip rule add pref 1$i iif lo from 10.0.0.$((i + 1)) to 10.0.0.$((2 - i)) lookup 10$i
		ip route add 10.0.0.$((2 - i)) dev cable$i table 10$i
		ip rule add pref 2$i iif lo to 10.0.0.1$((2 - i)) lookup 11$i
		ip route add 10.0.0.1$((2 - i)) dev cable$i src 10.0.0.1$((i + 1)) table 11$i
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

# perftest's programs, where they are installed, as rivals of transport_rdma_bench: a line "NAME VALUE UNIT" for each.
perftest() { # program, of which line the value is, which field, name, unit, its arguments
	p=$1 field=$3 name=$4 unit=$5
	pattern=$2
	shift 5
	command -v "$p" >/dev/null || return 0
	timeout 60 "$p" -d port0 "$@" >/dev/null 2>&1 &
	sleep 1
	value=$(timeout 60 "$p" -d port1 "$@" 10.0.0.1 2>/dev/null | awk -v p="$pattern" -v f="$field" '$1 == p { print $f }')
	wait
	[ -z "$value" ] || echo "perftest $name $value $unit"
}

perftests() { # so often
	rounds=$1
	while [ "$rounds" -gt 0 ]; do
		perftest ib_send_lat 64 5 send_64B_one_way us -F -s 64 -n 1000
		perftest ib_read_lat 262144 5 read_256KiB us -F -s 262144 -n 50 -m 4096
		perftest ib_read_bw 262144 4 read_256KiB_bandwidth MB/s -F -s 262144 -n 100 -m 4096
		rounds=$((rounds - 1))
	done
}

# System calls of both sides together, per message, by the difference of two runs. What Soft-RoCE makes of a request to the device
# is a system call of its own, which a real device does without: those are counted apart.
system_calls() { # kind, messages, so many more, bar
	command -v strace >/dev/null || return 0
	for n in $2 $(($2 + $3)); do
		THMQ_BENCH_ONLY="$1 $n" strace -f -c -o calls /run/build/bench/transport_rdma_bench >doorbells 2>&1 || return
		awk -v d="$(awk '$1 == "doorbells" { print $2 }' doorbells)" '$NF == "total" { print $4, d }' calls
	done | awk -v kind="$1" -v n="$3" -v bar="$4" '
		NR == 1 { c = $1; b = $2 }
		NR == 2 { calls = $1 - c; bells = $2 - b }
		END {
			own = (calls - bells) / n
			printf "calls %s %.4f %.4f %s\n", kind, own, bells / n, bar
			exit NR != 2 || (bar && own > bar)
		}'
}

# Lines of JSON, which report.py reads too.
rdma_bench() {
	rdma_ports || return 1
	export THMQ_BENCH_RDMA_FROM=10.0.0.2 THMQ_BENCH_TCP=10.0.0.11
	echo "kernel $(uname -r)"
	perftests "$([ "$full" ] && echo 4 || echo 1)"
	if [ "$full" ]; then n=11 m=21; else n=3 m=3; fi
	with_rdma /run/build/bench/transport_rdma_bench --json --pairs $n --pairs-max $m
	s=$?
	[ -z "$full" ] || perftests 4
	system_calls round_trip 100 400 '' || s=1
	system_calls small 4000 16000 0.2 || s=1
	system_calls large 32 64 '' || s=1
	return $s
}

# One of two machines: 10.0.0.1 is the broker's, 10.0.0.2 the client's.
network() {
	[ ! -e /sys/class/infiniband/port0 ] || return 0
	modprobe -a virtio_net rdma_rxe rdma_ucm sch_netem || return 1
	ip link set eth0 mtu 4200 up && ip addr add 10.0.0.$((number + 1))/24 dev eth0 || return 1
	rdma link add port0 type rxe netdev eth0 || return 1
	mkdir -p /run/pair && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 pair /run/pair
}

pair_broker() {
	network || return 1
	/run/build/tests/lab_pair broker "$(cat /run/pair/url)" broker-data /run/pair &
	p=$!
	while kill -0 $p 2>/dev/null; do
		if [ -e /run/pair/stop ]; then
			kill -STOP $p
			sleep "$(cat /run/pair/stop)"
			kill -CONT $p
			rm /run/pair/stop
		fi
		sleep 0.2
	done
	wait $p
}

pair_client() { # what it says is shown at once: its machine does not go off by itself
	network || return 1
	/run/build/tests/lab_pair client "$(cat /run/pair/url)" /run/pair >/dev/hvc0 2>&1
}
