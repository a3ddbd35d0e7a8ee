#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The Debian packages: made, installed into a root of their own by dpkg, used from there, and removed without a trace. What the
# completion completes, and the service's unit.
# Usage: packages.sh builddir   Exit: 0, 1 with what is wrong, 77 where a tool is missing or the build has sanitizers.
set -u
build=$1
source=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root

fail()
{
	echo "$*" >&2
	exit 1
}

for tool in dpkg readelf pkg-config bash; do
	command -v "$tool" > /dev/null || { echo "no $tool here"; exit 77; }
done
as_root=''
if [ "$(id -u)" != 0 ]; then
	command -v fakeroot > /dev/null || { echo "neither root nor fakeroot"; exit 77; }
	as_root=fakeroot
fi
if nm -D "$build"/lib/libthundermq.so | grep -qE ' U __(asan|tsan|ubsan)_'; then
	echo "a program of its own would need the sanitizer too"
	exit 77
fi

status=0
sh "$source/pkgconfig/debian.sh" "$tmp/debs" "$build" > "$tmp/log" 2>&1 || status=$?
[ $status != 77 ] || { cat "$tmp/log"; exit 77; }
[ $status = 0 ] || fail "$(cat "$tmp/log")"
for package in libthundermq0 libthundermq-dev thundermq-tools; do
	[ -e "$tmp/debs/$package"_*.deb ] || fail "no $package: $(cat "$tmp/log")"
done
dpkg-deb -f "$tmp"/debs/libthundermq0_*.deb Depends | grep -q 'libc6 (>= ' || fail "libthundermq0 depends on no libc6"
dpkg-deb -f "$tmp"/debs/libthundermq0_*.deb Depends | grep -q 'liburing2' || fail "libthundermq0 depends on no liburing2"
dpkg-deb -f "$tmp"/debs/thundermq-tools_*.deb Depends | grep -q '^libthundermq0 (= ' || fail "thundermq-tools depends on no libthundermq0"

mkdir -p "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/info"
: > "$root/var/lib/dpkg/status"
PATH=$PATH:/sbin:/usr/sbin
dpkg_root() # what these depend on is the machine's, outside of the root
{
	$as_root dpkg --root="$root" --log="$tmp/dpkg.log" --force-depends --force-script-chrootless "$@" > "$tmp/log" 2>&1 || fail "dpkg $*: $(cat "$tmp/log")"
}
dpkg_root --install "$tmp"/debs/*.deb
dpkg --root="$root" --verify > "$tmp/log" 2>&1 && [ ! -s "$tmp/log" ] || fail "not as it was packed: $(cat "$tmp/log")"
[ "$(find "$root" -name '*.so.0' | wc -l)" = 1 ] || fail "not one libthundermq.so.0"

# no file is in two packages, none is forgotten
DESTDIR=$tmp/all meson install -C "$build" --no-rebuild > "$tmp/log" 2>&1 || fail "$(cat "$tmp/log")"
(cd "$tmp/all" && find . ! -type d | sort) > "$tmp/wanted"
(cd "$root" && find . ! -type d ! -path './var/lib/dpkg/*' ! -path './usr/share/doc/*thundermq*/copyright' | sort) > "$tmp/there"
diff "$tmp/wanted" "$tmp/there" || fail "other files than meson install has"

# used: a program by the installed headers and library, the tool, its pages
lib=$(dirname "$(find "$root" -name 'libthundermq.so.0')")
include=$(dirname "$(dirname "$(find "$root" -name thundermq.h)")")
"${CC:-cc}" "$source/examples/hello.c" -o "$tmp/hello" -I"$include" -L"$lib" -lthundermq || fail "hello.c does not build"
LD_LIBRARY_PATH=$lib
export LD_LIBRARY_PATH
(cd "$tmp" && ./hello) | grep -q '^hello at offset' || fail "hello does not run"
thmq=$(find "$root" -path '*/bin/thmq')
"$thmq" version | grep -q '^thmq [0-9]' || fail "thmq does not run"
find "$root" -name 'thmq.1*' | grep -q . || fail "no page of thmq"

# the service's settings are thmq's own: each is an option of it
conf=$(find "$root" -name thmq.conf)
sed -n 's/^#\{0,1\} *\([a-z-]*\) = .*/\1/p' "$conf" | while read -r name; do
	[ "$name" = dir ] || "$thmq" help serve | grep -q -- "^  --$name " || echo "$name"
done > "$tmp/log"
[ ! -s "$tmp/log" ] || fail "thmq.conf has what thmq serve does not know: $(cat "$tmp/log")"
sed "s|^dir = .*|dir = $tmp/data|; s|^listen = .*|listen = shm://$tmp/socket?mode=600|" "$conf" > "$tmp/conf"
"$thmq" serve --config "$tmp/conf" > "$tmp/served" 2>&1 &
server=$!
for _ in $(seq 200); do
	grep -q 'shm://' "$tmp/served" && break
	sleep 0.1
done
"$thmq" topic create "shm://$tmp/socket" orders || { kill "$server"; fail "the service does not serve: $(cat "$tmp/served")"; }
kill "$server"
wait "$server" || fail "the service ends with $?: $(cat "$tmp/served")"
unit=$(find "$root" -name thmq.service)
grep -q "^ExecStart=/[^ ]*/thmq serve --config /" "$unit" || fail "the unit starts no thmq"
if command -v systemd-analyze > /dev/null; then
	sed "s|^ExecStart=[^ ]*|ExecStart=$thmq|" "$unit" > "$tmp/thmq.service"
	SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$tmp/thmq.service" > "$tmp/log" 2>&1 ||
		{ grep -q 'thmq.service' "$tmp/log" && fail "the unit: $(cat "$tmp/log")"; }
	! grep -q 'thmq.service.*Unknown' "$tmp/log" || fail "the unit: $(cat "$tmp/log")"
fi

# the completion
completes() # what stands behind thmq, and a word that must be offered
{
	bash -c 'complete() { :; }; . "$1"; shift; want=$1; shift
		COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _thmq; printf "%s\n" "${COMPREPLY[@]}" | grep -qx -- "$want"' \
		bash "$(find "$root" -path '*/completions/thmq')" "$@" || fail "thmq $*: not completed"
}
completes serve "$thmq" se
completes --partitions "$thmq" pub --part
completes --tls-ca "$thmq" serve --tls-
completes --partitions "$thmq" topic --part
completes undrain "$thmq" cluster un
completes describe "$thmq" topic de
completes drain "$thmq" cluster dr
completes reset "$thmq" group re
completes list "$thmq" txn li
completes verify "$thmq" help ver

dpkg_root --purge thundermq-tools libthundermq-dev libthundermq0 $(ls "$tmp/debs" | grep -q '^python3-' && echo python3-thundermq)
left=$(find "$root" ! -type d ! -path "$root/var/lib/dpkg/*")
[ -z "$left" ] || fail "left behind: $left"
echo "$(ls "$tmp/debs" | wc -l) packages, $(wc -l < "$tmp/wanted") files"
