#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a user has after "meson install": a program built against the installed headers by pkg-config alone, with the
# shared library and with the static one, runs and is told the version that pkg-config tells.
# Usage: install.sh builddir   Exit: 0, 1 with what is wrong, 77 for a build with sanitizers or where a tool is missing.
set -u
build=$1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
cc=${CC:-cc}

fail()
{
	echo "$*" >&2
	exit 1
}

for tool in "$cc" pkg-config meson nm; do
	command -v "$tool" > /dev/null || { echo "no $tool here"; exit 77; }
done
if nm -D "$build"/lib/libthundermq.so | grep -qE ' U __(asan|tsan|ubsan)_'; then
	echo "a program of its own would need the sanitizer too"
	exit 77
fi

meson install -C "$build" --no-rebuild --destdir "$tmp/root" > "$tmp/log" 2>&1 || fail "$(cat "$tmp/log")"
pc=$(find "$tmp/root" -name thundermq.pc)
[ "$pc" ] || fail "no thundermq.pc was installed"
lib=$(dirname "$(dirname "$pc")")
for header in thundermq.h log.h reactor.h; do
	[ "$(find "$tmp/root" -path "*/include/thundermq/$header")" ] || fail "$header was not installed"
done
[ "$(find "$tmp/root" -path "*/include/thundermq/pool.h")" ] || fail "pool.h was not installed"
[ "$(find "$tmp/root" -path "*/include/thundermq/forecast.h")" ] || fail "forecast.h was not installed"
[ "$(find "$tmp/root" -path "*/include/thundermq/replica.h")" ] || fail "replica.h was not installed"
# only what is public
[ -z "$(find "$tmp/root" -name '*.h' | grep -v '/include/thundermq/')" ] || fail "a header too many"
for file in libthundermq.a libthundermq.so libthundermq.so.0; do
	[ -e "$lib/$file" ] || fail "$file was not installed"
done
head -c 8 "$lib/libthundermq.a" | grep -q '!<arch>' || fail "libthundermq.a refers to files of the build"

PKG_CONFIG_PATH=$(dirname "$pc")
PKG_CONFIG_SYSROOT_DIR=$tmp/root
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
pkg() # the packages that we need are the system's, not below our root
{
	pkg-config "$@" thundermq | sed "s|$tmp/root/usr/lib|/usr/lib|g; s|$tmp/root/usr/include|/usr/include|g"
}

cat > "$tmp/x.c" <<'END'
#include <stdio.h>
#include <string.h>
#include <thundermq/thundermq.h>

int main(void)
{
	struct thmq_env *env;

	/* all of the library is there, not only what is linked at the first call */
	if (thmq_env_open(&env, NULL) || thmq_env_close(env, 1000000000u))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	printf("%s\n", thmq_version());
	return 0;
}
END
version=$(pkg-config --modversion thundermq) || fail "pkg-config does not know thundermq"

# words of pkg-config are several arguments
# shellcheck disable=SC2046
"$cc" -Wall -Werror "$tmp/x.c" -o "$tmp/shared" $(pkg --cflags --libs) || fail "does not link"
[ "$(LD_LIBRARY_PATH=$lib "$tmp/shared")" = "$version" ] || fail "the shared library is not version $version"
needed=$(readelf -d "$tmp/shared" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
echo "$needed" | grep -qx libthundermq.so.0 || fail "linked to no libthundermq.so.0: $needed"
# what it needs is its own matter: a user names one library
[ -z "$(echo "$needed" | grep -E 'uring|hwloc|isal')" ] || fail "the user's program names our libraries: $needed"

# the memory pool on its own
# shellcheck disable=SC2046
"$cc" -Wall -Wextra -Werror "$(cd "$(dirname "$0")/../.." && pwd)/examples/packet_pool.c" -o "$tmp/packets" \
	$(pkg --cflags --libs) -pthread || fail "packet_pool.c does not link"
LD_LIBRARY_PATH=$lib "$tmp/packets" || fail "packet_pool does not run"

# our library static, those below it as the system has them
# shellcheck disable=SC2046
"$cc" -Wall -Werror "$tmp/x.c" -o "$tmp/static" \
	$(pkg --static --cflags --libs | sed 's/-lthundermq/-l:libthundermq.a/') || fail "does not link statically"
readelf -d "$tmp/static" | grep -q libthundermq && fail "not linked statically"
[ "$("$tmp/static")" = "$version" ] || fail "the static library is not version $version"
# the same as README says it: no pkg-config, all that is below named by hand
include=$(dirname "$(find "$tmp/root" -path "*/include/thundermq" -type d)")
line=$(sed -n 's/^ *cc hello.c libthundermq.a \(-l.*\)$/\1/p' "$(dirname "$0")/../../README.md")
[ "$line" ] || fail "README.md does not tell how to link statically"
case "$(pkg --static --libs)" in *-lraft*) line="$line -lraft" ;; esac # as it says below
# shellcheck disable=SC2086
"$cc" -Wall -Werror "$tmp/x.c" -o "$tmp/named" -I"$include" "$lib/libthundermq.a" $line || fail "README's static line does not link"
[ "$("$tmp/named")" = "$version" ] || fail "the library linked by README's line is not version $version"
# the log on its own, by what is installed and nothing else
source=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck disable=SC2046
"$cc" -Wall -Wextra -Werror "$source/examples/wal.c" -o "$tmp/wal" $(pkg --cflags --libs) || fail "wal.c does not link"
LD_LIBRARY_PATH=$lib
export LD_LIBRARY_PATH
# every example is plain C11 against what is installed
for example in "$source"/examples/*.c; do
	"$cc" -std=c11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I"$include" "$example" || fail "$example is not plain C11"
done
# and the C++ one C++17
if command -v "${CXX:-c++}" > /dev/null; then
	# shellcheck disable=SC2046
	"${CXX:-c++}" -std=c++17 -Wall -Wextra -Wpedantic -Werror "$source/examples/hello.cpp" -o "$tmp/hello-cpp" $(pkg --cflags --libs) ||
		fail "hello.cpp does not build"
	(cd "$tmp" && ./hello-cpp) | grep -q '^hello at offset' || fail "hello.cpp does not run"
fi
"$tmp/wal" "$tmp/store" put color blue shape round || fail "wal does not write"
[ "$("$tmp/wal" "$tmp/store" get shape)" = round ] || fail "wal does not read what it wrote"
echo "version $version, shared and static"
