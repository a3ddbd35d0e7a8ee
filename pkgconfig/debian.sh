#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes Debian packages of what "meson install" installs: libthundermq0 (the library), libthundermq-dev (headers, static library, pages
# of the calls), thundermq-tools (thmq, its service, its completion) and, where it was built, python3-thundermq.
#
#   sh pkgconfig/debian.sh DIR [BUILD]     the packages go to DIR. BUILD: packs this build, wherever its prefix is; without it
#                                          one is made in build-deb, below /usr
#
# It needs dpkg-dev and binutils. Exit: 0; 1 with what is wrong; 77 where a tool is missing.
set -eu
[ $# -ge 1 ] || { sed -n '3,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
build=${2:-}
[ -z "$build" ] || build=$(cd "$build" && pwd)
cd "$(dirname "$0")/.."

for tool in dpkg-deb dpkg-shlibdeps dpkg-architecture strip meson; do
	command -v $tool >/dev/null || { echo "no $tool here: apt-get install dpkg-dev binutils meson"; exit 77; }
done
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
arch=$(dpkg-architecture -qDEB_HOST_ARCH)
if [ -z "$build" ]; then
	build=$PWD/build-deb
	# Debian's Python, whatever else is there
	[ -e "$build/build.ninja" ] || PATH=/usr/bin:$PATH meson setup --prefix=/usr --sysconfdir=/etc --libdir="lib/$multiarch" --buildtype=release -Dtests=false -Dbench=false "$build"
	ninja -C "$build"
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
all=$tmp/all
DESTDIR=$all meson install -C "$build" --no-rebuild >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
version=$(meson introspect --projectinfo "$build" | sed 's/.*"version": "\([^"]*\)".*/\1/')

# take PACKAGE GLOB…: from what was installed, where it lies
take() {
	package=$1
	shift
	for glob in "$@"; do
		(cd "$all" && find . -path "$glob" ! -type d) >"$tmp/list"
		while read -r file; do
			mkdir -p "$tmp/$package/$(dirname "$file")"
			mv "$all/$file" "$tmp/$package/$file"
		done <"$tmp/list"
	done
}
take libthundermq0 '*/libthundermq.so.*'
take thundermq-tools '*/bin/thmq' '*/man1/*' '*/systemd/*' '*/bash-completion/*' '*/thundermq/thmq.conf'
take python3-thundermq '*/python3*/*'
take libthundermq-dev '*'

# a package: its name, section, what it depends on beside the libraries, and what it is, in one line
pack() {
	package=$1 section=$2 depends=$3 more=$4 text=$5
	root=$tmp/$package
	[ -d "$root" ] || return 0
	find "$root" -type f \( -path '*/bin/*' -o -name '*.so.*' \) >"$tmp/elf"
	xargs -r strip --strip-unneeded <"$tmp/elf"
	find "$root" -name '*.a' -exec strip --strip-debug {} +
	mkdir -p "$tmp/src/debian" "$root/DEBIAN" "$root/usr/share/doc/$package"
	cp LICENSE "$root/usr/share/doc/$package/copyright"
	printf 'Source: thundermq\n\nPackage: %s\nArchitecture: any\n' "$package" >"$tmp/src/debian/control"
	shlibs=''
	if [ -s "$tmp/elf" ]; then
		# ours is in another package, which is named by hand
		# shellcheck disable=SC2046 # names without blanks
		shlibs=$(cd "$tmp/src" && dpkg-shlibdeps -O --ignore-missing-info -l"$libdir" $(cat "$tmp/elf") 2>"$tmp/log" |
			sed -n 's/^shlibs:Depends=//p') || { cat "$tmp/log" >&2; return 1; }
	fi
	all_depends=$(printf '%s\n' "$depends" "$shlibs" | sed '/^$/d' | paste -sd, | sed 's/,\([^ ]\)/, \1/g')
	{
		echo "Package: $package"
		echo "Source: thundermq"
		echo "Version: $version"
		echo "Architecture: $arch"
		echo "Section: $section"
		echo "Priority: optional"
		echo "Maintainer: the authors of libthundermq <nobody@localhost>"
		echo "Installed-Size: $(du -ks --exclude=DEBIAN "$root" | cut -f1)"
		[ -z "$all_depends" ] || echo "Depends: $all_depends"
		[ -z "$more" ] || echo "$more"
		echo "Description: $text"
		echo " libthundermq puts a durable message broker inside the process that links it: producers"
		echo " write messages to topics, the broker stores them, consumers read them in place."
	} >"$root/DEBIAN/control"
	(cd "$root" && find etc -type f 2>/dev/null | sed 's|^|/|') >"$root/DEBIAN/conffiles" || :
	[ -s "$root/DEBIAN/conffiles" ] || rm -f "$root/DEBIAN/conffiles"
	[ "$package" != libthundermq0 ] || echo 'activate-noawait ldconfig' >"$root/DEBIAN/triggers"
	(cd "$root" && find . -path ./DEBIAN -prune -o -type f -print0 | sed -z 's|^\./||' | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
	chmod -R u=rwX,go=rX "$root"
	dpkg-deb --root-owner-group --build "$root" "$out/${package}_${version}_$arch.deb" >"$tmp/log" || { cat "$tmp/log" >&2; return 1; }
	echo "$out/${package}_${version}_$arch.deb"
}
lib=$(find "$tmp/libthundermq0" -name 'libthundermq.so.*' -type f)
libdir=$(dirname "$lib")
pack libthundermq0 libs '' 'Recommends: libssl3, liblz4-1, libzstd1, zlib1g, libsnappy1v5' 'durable message broker as a C library'
# the static library wants what it was built with
raft=''
! grep -q -- -lraft "$tmp/libthundermq-dev/${libdir#"$tmp/libthundermq0/"}/pkgconfig/thundermq.pc" || raft=", libraft-dev (>= 0.22.1)"
pack libthundermq-dev libdevel "libthundermq0 (= $version), libisal-dev, liburing-dev, libhwloc-dev$raft" '' 'durable message broker as a C library - headers'
pack thundermq-tools admin "libthundermq0 (= $version)" 'Suggests: bash-completion' 'durable message broker - thmq, its command line and service'
pack python3-thundermq python "libthundermq0 (= $version), python3, python3-cffi-backend" '' 'durable message broker - from Python'
[ -d "$tmp/python3-thundermq" ] || echo "no python3-thundermq: the build had no Python that has cffi (python3-cffi)" >&2
