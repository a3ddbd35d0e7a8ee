#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the benchmarks of the parts named (machine, disk, memory, cores, polling, commitlog, commitlog-large, transport, replica, messaging, kafka, rivals; default: commitlog) from a release
# build in build-bench/.
#
#   sh bench/run.sh [--json] [--smoke] [--full] [--verbose] [--only WORD] [--dir DIR] [--pairs N] [--pairs-max N] [part ...]
#
# One line each: what was measured, its rival or physical limit measured beside it, their ratio with its 95 % interval,
# the bar, and ok, MISS or inconclusive (too noisy to tell). Exits 1 when a bar is missed, 2 when something fails.
# "memory" is the pool and the cores, "cores" these alone. "commitlog-large" is what needs large logs or many partitions: some GiB of room, and the log as it grows. --full: what takes long.
# "memory", "commitlog", "transport", "messaging", "kafka" and "rivals" install what is missing of the Debian packages that they measure against, and leave out what is not there.
# DIR (default: build-bench/) has to be on the device under test; /tmp may be memory.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
build=${BENCH_BUILD:-$here/build-bench}
dir='' parts='' args=''

# a part's programs; later parts add theirs
programs() {
	case $1 in
	memory)
		echo memory_pool_bench cores_mailbox_bench cores_model_bench cores_scaling_bench
		# built only with rdma-core's headers; it says by itself where there is no device
		[ ! -f /usr/include/infiniband/verbs.h ] || echo memory_register_bench
		;;
	machine) echo machine_limits_bench ;;
	disk) echo disk_overhead_bench ;;
	cores) echo cores_mailbox_bench cores_model_bench cores_scaling_bench ;;
	polling) echo polling_gates_bench polling_load_bench polling_forecast_bench polling_elsewhere_bench ;;
	commitlog) echo commitlog_latency_bench commitlog_throughput_bench commitlog_memory_bench commitlog_idle_bench ;;
	commitlog-large) echo commitlog_read_bench commitlog_partitions_bench commitlog_reopen_bench ;;
	transport)
		echo transport_shm_bench transport_tcp_bench transport_ack_bench transport_receive_bench
		[ ! -f /usr/include/infiniband/verbs.h ] || echo transport_rdma_bench
		;;
	replica) echo replica_bench ;;
	messaging) echo messaging_groups_bench messaging_work_bench messaging_delay_bench messaging_pack_bench messaging_batch_bench messaging_rivals_bench ;;
	kafka)
		[ ! -f /usr/include/librdkafka/rdkafka.h ] || echo kafka_bench
		echo kafka_memory_bench
		;;
	rivals)
		echo rivals_mechanism_bench rivals_systems_bench
		# built only with libraft
		! pkg-config --exists 'raft = 0.22.1' || echo rivals_copies_bench
		;;
	*) echo "bench/run.sh: no part '$1': machine, disk, memory, cores, polling, commitlog, commitlog-large, transport, replica, messaging, kafka, rivals" >&2; exit 2 ;;
	esac
}

# The rivals' packages. Where systemd runs, a server's package would start a service that stays: those are left to the user.
install_rivals() {
	command -v dpkg-query >/dev/null || return 0
	packages=''
	case " $parts " in *' commitlog '*) packages='fio liblmdb-dev' ;; esac
	case " $parts " in *' memory '*) packages="$packages libibverbs-dev" ;; esac
	case " $parts " in *' transport '*) packages="$packages libzmq3-dev libnng-dev" ;; esac
	case " $parts " in *' kafka '*)
		packages="$packages librdkafka-dev kcat"
		[ -d /run/systemd/system ] || packages="$packages nats-server"
		;;
	esac
	case " $parts " in *' rivals '*)
		packages="$packages liblmdb-dev librocksdb-dev libsqlite3-dev"
		;;
	esac
	case " $parts " in *' rivals '* | *' messaging '*)
		packages="$packages libhiredis-dev librabbitmq-dev"
		[ -d /run/systemd/system ] || packages="$packages redis-server nats-server rabbitmq-server"
		;;
	esac
	[ "$packages" ] || return 0
	# shellcheck disable=SC2086 # a list of words
	said=$(sh "$here/tests/install.sh" $packages 2>&1) ||
		echo "bench/run.sh: not all rivals can be installed, the others are measured: $said" >&2
	# found only by a new look
	if [ "$said" ] && [ -e "$build/build.ninja" ]; then meson setup --reconfigure "$build" "$here" >&2; fi
}

while [ $# -gt 0 ]; do
	case $1 in
	--json | --smoke | --full | --verbose) args="$args $1" ;;
	--only | --pairs | --pairs-max) args="$args $1 $2"; shift ;;
	--dir) dir=$2; shift ;;
	-h | --help) sed -n '3,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
	-*) echo "bench/run.sh: unknown option $1" >&2; exit 2 ;;
	*) parts="$parts $1" ;;
	esac
	shift
done
parts=${parts:-commitlog}
for part in $parts; do programs "$part" >/dev/null; done

install_rivals
wanted='' # what is installed decides
for part in $parts; do wanted="$wanted $(programs "$part")"; done
[ -e "$build/build.ninja" ] || meson setup --buildtype=release -Dtests=false -Dexamples=false "$build" "$here" >&2
case " $parts " in *' memory '*) # loaded while it runs
	sh "$here/tests/install.sh" libjemalloc2 libmimalloc2.0 >/dev/null 2>&1 ||
		echo "bench/run.sh: not all rivals can be installed, the others are measured" >&2 ;;
esac
targets=''
for p in $wanted; do
	targets="$targets bench/$p"
	case $p in kafka_*) targets="$targets examples/kafka/kafka" ;; esac # the broker that it measures
done
# shellcheck disable=SC2086 # lists of words
ninja -C "$build" $targets >&2

data=$(mktemp -d "${dir:-$build}/data-XXXXXX")
trap 'rm -rf "$data"' EXIT
trap 'exit 2' INT TERM HUP
rc=0
for p in $wanted; do
	status=0
	# shellcheck disable=SC2086
	"$build/bench/$p" --dir "$data" $args || status=$?
	if [ "$status" -gt 1 ]; then
		echo "bench/run.sh: $p failed ($status)" >&2
		rc=2
	elif [ "$status" -eq 1 ] && [ "$rc" -eq 0 ]; then
		rc=1
	fi
done
exit "$rc"
