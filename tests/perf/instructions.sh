#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Instructions per message, counted by valgrind's callgrind (no clock, no luck: the same program gives the same number),
# against the figures that are kept. More than 5 % above fails; more than 5 % below asks for new figures.
# Usage: instructions.sh message_rounds FIGURES COMPILER-MAJOR CPU-FAMILY compare|report
#   report: other flags than those of the figures, nothing is compared. PERF_KEEP=1 writes this run's figures down.
# Exit: 0; 1 a rise, or something failed; 77 no valgrind.
set -eu
program=$(realpath "$1") figures=$2 compiler=$3 cpu=$4 mode=$5
keep=${PERF_KEEP:-}
command -v valgrind >/dev/null || { echo "skipped: valgrind is not installed"; exit 77; }
if [ "$mode" = report ]; then
	echo "not compared: the figures are of a debugoptimized build with no other flags"
# the C library and ISA-L choose their functions by what the processor has
elif [ "$cpu" = x86_64 ] && ! grep -qw avx2 /proc/cpuinfo; then
	mode=report
	echo "not compared: the figures are of a processor with AVX2"
fi
[ -z "$keep" ] || [ "$mode" = compare ] || { echo "so they cannot be kept either"; exit 1; }

unset MALLOC_PERTURB_ # meson's, another one each time
# one rep stosb would count as an instruction per byte, on processors where the C library uses it
GLIBC_TUNABLES=glibc.cpu.x86_rep_stosb_threshold=0x7fffffff:glibc.cpu.x86_rep_movsb_threshold=0x7fffffff
export GLIBC_TUNABLES
shapes=$("$program")
dir=$(mktemp -d ./perf-XXXXXX)
trap 'rm -rf "$dir"' EXIT

# the three functions with most instructions of their own, with what the compiler made part of them
functions() {
	LC_ALL=C callgrind_annotate --auto=no "$1" 2>/dev/null | awk '
		/ PROGRAM TOTALS/ { gsub(",", "", $1); total = $1; next }
		/^ *[0-9][0-9,]* .*:/ {
			n = $1
			gsub(",", "", n)
			sub(/ \[[^]]*\]$/, "")
			sub(/.*:/, "")
			own[$0] += n
		}
		END { for (f in own) printf "%.0f %s\n", 100 * own[f] / total, f }' |
		sort -k1,1nr -k2 | awk 'NR <= 3 { printf "%s%s %d %%", (NR > 1 ? ", " : ""), $2, $1 }'
}

: >"$dir/new"
for shape in $shapes; do
	mkdir "$dir/$shape"
	valgrind --tool=callgrind --toggle-collect=measured --callgrind-out-file="$dir/out" \
		"$program" "$shape" "$dir/$shape" >"$dir/count" 2>"$dir/err" || { cat "$dir/err"; exit 1; }
	total=$(sed -n 's/^totals: //p' "$dir/out")
	echo "$compiler $cpu $shape $total $(cat "$dir/count")" | awk '{ printf "%s %s %s %.1f\n", $1, $2, $3, $4 / $5 }' >>"$dir/new"
	functions "$dir/out" >"$dir/$shape.functions"
	rm -rf "${dir:?}/$shape"
done

if [ "$keep" ]; then
	grep -v "^$compiler $cpu " "$figures" >"$dir/all" || :
	cat "$dir/new" >>"$dir/all"
	cat "$dir/all" >"$figures"
fi

cat "$figures" "$dir/new" | awk -v first="$(wc -l <"$figures")" -v mode="$mode" -v dir="$dir" -v who="$compiler $cpu" '
	/^#/ || NF != 4 { next }
	NR <= first { kept[$1 " " $2 " " $3] = $4; next }
	{
		was = mode == "compare" ? kept[who " " $3] : ""
		functions = ""
		getline functions < (dir "/" $3 ".functions")
		change = was ? sprintf("%+.1f %%, %s kept", 100 * ($4 / was - 1), was) : "nothing kept"
		printf "%-12s %8.1f instructions a message (%s): %s\n", $3, $4, change, functions
		if (was && $4 > was * 1.05)
			risen = risen " " $3
		else if (was && $4 < was * 0.95)
			fallen = fallen " " $3
		else if (!was)
			unknown = 1
	}
	END {
		how = "PERF_KEEP=1 meson test -C BUILD perf_instructions writes the new figures down"
		if (mode == "compare" && unknown)
			print "no figures of " who " are kept: " how
		if (fallen)
			print "cheaper by more than 5 %:" fallen ": keep that. " how
		if (risen) {
			print "FAILED: dearer by more than 5 %:" risen ". If it is meant and worth it: " how ", for review"
			exit 1
		}
	}'
