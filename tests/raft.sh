#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs libraft-dev 0.22.1, which replication is built with, from wherever this machine's packages come from: from the release
# itself where that has it, else from its backports, whose source is derived from those of /etc/apt. Needs root, or sudo, only if
# it is missing. Exit: 0 it is there; 1 it cannot be had, and the library is built without replication.
set -eu
wanted=0.22.1
has() { dpkg-query -W -f '${Status} ${Version}' libraft-dev 2>/dev/null | grep -q "ok installed $wanted"; }
! has || exit 0
sudo=''
[ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"

version() { apt-cache "$@" madison libraft-dev 2>/dev/null | awk -F'|' -v w="$wanted" '{ gsub(/ /, "", $2) } index($2, w "-") == 1 { print $2; exit }'; }
install() { # options of apt …; the version is in $found
	$sudo apt-get "$@" install -y -qq --no-install-recommends "libraft-dev=$found" "libraft0=$found" >/dev/null
}

$sudo apt-get update -qq
found=$(version)
if [ -n "$found" ]; then
	install
else
	# shellcheck disable=SC1091
	. /etc/os-release
	mkdir -p "$tmp/sources" "$tmp/lists/partial"
	# the entries that name the release itself, naming its backports instead
	for file in /etc/apt/sources.list.d/*.sources; do
		[ -f "$file" ] || continue
		awk -v c="$VERSION_CODENAME" 'BEGIN { RS = ""; ORS = "\n\n" }
			$0 ~ ("(^|\n)Suites:[^\n]* " c "( |\n|$)") { sub(/(^|\n)Suites:[^\n]*/, "\nSuites: " c "-backports"); sub(/^\n/, ""); print }' \
			"$file" >"$tmp/sources/$(basename "$file")"
		[ -s "$tmp/sources/$(basename "$file")" ] || rm "$tmp/sources/$(basename "$file")"
	done
	awk -v c="$VERSION_CODENAME" '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i == c) { $i = c "-backports"; print; next } }' \
		/etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null >"$tmp/sources/rest.list" || :
	set -- -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$tmp/sources" -o "Dir::State::lists=$tmp/lists"
	$sudo apt-get "$@" update -qq
	found=$(version "$@")
	if [ -n "$found" ]; then
		# what it needs besides comes from the release: both are looked into
		cp /etc/apt/sources.list "$tmp/sources/own.list" 2>/dev/null || :
		for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
			[ ! -f "$file" ] || cp "$file" "$tmp/sources/own-$(basename "$file")"
		done
		$sudo apt-get "$@" update -qq
		install "$@"
	fi
fi
has || { echo "libraft-dev $wanted is not to be had from this machine's sources of packages" >&2; exit 1; }
