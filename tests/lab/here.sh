# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154 # what is not set here is run.sh's
# The tests over RDMA on this machine's own devices: read by run.sh --here. Nothing is pulled and nothing is taken away.

if [ -z "${THMQ_TEST_RDMA:-}" ]; then # the first port that is up and has an address
	THMQ_TEST_RDMA=$(rdma link 2>/dev/null | sed -n 's/.*state ACTIVE.* netdev \([^ ]*\).*/\1/p' | while read -r d; do
		ip -4 -o addr show dev "$d" | awk '{ sub("/.*", "", $4); print $4; exit }'
	done | head -n 1)
fi
[ "$THMQ_TEST_RDMA" ] || skip "no RDMA port is up that has an IPv4 address; THMQ_TEST_RDMA may name one"
export THMQ_TEST_RDMA THMQ_BENCH_RDMA="$THMQ_TEST_RDMA"
[ -z "${THMQ_TEST_RDMA_FROM:-}" ] || export THMQ_TEST_RDMA_FROM THMQ_BENCH_RDMA_FROM="$THMQ_TEST_RDMA_FROM"
echo "lab: here, at $THMQ_TEST_RDMA${THMQ_TEST_RDMA_FROM:+ from $THMQ_TEST_RDMA_FROM}"
work=$(mktemp -d "$build/here-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
passed=0 failed=0 skipped=0
for t in ${tests:-rdma_registrar_test $contract rdma_peer_test}; do
	begin=$(date +%s) s=0
	case $t in
	transport_contract_*) timeout 600 "$build/tests/transport_contract_test" "${t#transport_contract_}" >out 2>&1 || s=$? ;;
	*_bench) timeout 600 "$build/bench/$t" >out 2>&1 || s=$? ;;
	*) timeout 600 "$build/tests/$t" >out 2>&1 || s=$? ;;
	esac
	case $s in
	0) word=PASS passed=$((passed + 1)) ;;
	77) word=SKIP skipped=$((skipped + 1)) ;;
	*) word=FAIL failed=$((failed + 1)); cat out ;;
	esac
	case $t in *_bench) cat out ;; esac
	echo "$word $t ($(($(date +%s) - begin)) s) $(grep -v '^$' out | tail -n 1)"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] || exit 1
[ $passed != 0 ] || exit 77
exit 0
