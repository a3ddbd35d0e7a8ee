#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone, twice over, as C11, C17 and C++17, without a warning, and without a struct that
# the compiler pads by itself; and the macros for options are C that users can compile with all warnings too.
# Usage: headers.sh [source directory]   Exit: 0, 1 with the compiler's words, 77 where there is no compiler.
set -u
cd "${1:-$(dirname "$0")/../..}" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
cc=${CC:-cc}
cxx=${CXX:-c++}
strict='-Wall -Wextra -pedantic -Wconversion -Wsign-conversion -Wundef -Wpadded -Werror'
count=0
bad=0

command -v "$cc" > /dev/null || exit 77

check()
{
	count=$((count + 1))
	"$@" -Iinclude -c -o "$tmp/out.o" || {
		echo "not clean: $*" >&2
		bad=1
	}
}

for header in include/thundermq/*.h; do
	name=thundermq/$(basename "$header")
	printf '#include <%s>\n#include <%s>\nextern int not_empty;\n' "$name" "$name" > "$tmp/alone.c"
	cp "$tmp/alone.c" "$tmp/alone.cc"
	for std in c11 c17; do
		check "$cc" -std=$std $strict -Wshadow -Wstrict-prototypes "$tmp/alone.c"
	done
	if command -v "$cxx" > /dev/null; then
		check "$cxx" -std=c++17 $strict -Wold-style-cast "$tmp/alone.cc"
	fi
done

# those of C++; templates that are not used are not padded
for header in include/thundermq/*.hpp; do
	command -v "$cxx" > /dev/null || break
	name=thundermq/$(basename "$header")
	printf '#include <%s>\n#include <%s>\nextern int not_empty;\n' "$name" "$name" > "$tmp/alone.cc"
	for std in c++17 c++20; do
		check "$cxx" -std=$std $strict -Wold-style-cast "$tmp/alone.cc"
	done
done

# every macro that makes options
{
	echo '#include <thundermq/thundermq.h>'
	echo '#include <thundermq/log.h>'
	echo '#include <thundermq/reactor.h>'
	echo '#include <thundermq/pool.h>'
	echo '#include <thundermq/forecast.h>'
	echo '#include <thundermq/replica.h>'
	echo '#include <thundermq/transport.h>'
	echo 'int all(void (*use)(const void *));'
	echo 'int all(void (*use)(const void *)) {'
	sed -n 's/^#define \(THMQ_[A-Z]*_OPTS\)(.*/	use(\1(.flags = 0));/p' include/thundermq/*.h
	echo '	return 0; }'
} > "$tmp/macros.c"
[ "$(grep -c OPTS "$tmp/macros.c")" -ge 8 ] || { echo "the macros were not found" >&2; bad=1; }
check "$cc" -std=c11 $strict "$tmp/macros.c"

[ $bad = 0 ] && echo "$count compilations without a word"
exit $bad
