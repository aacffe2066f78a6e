#!/bin/sh
# Two Debian root filesystems, one release apart, as squashfs: what the next release costs
# is measured on them. The first is minbase with systemd as the host's suite was at its
# point release; the second adds three packages and every security update since.
#
#   scripts/bench-pair.sh DIR      DIR/first.squashfs, DIR/second.squashfs
#
# Both are packed as phase-image packs a rootfs. What is there already is kept. Exit code
# 0: both there. 1: failed. 2: usage.
set -eu
[ $# = 1 ] && [ -n "$1" ] || { echo "usage: scripts/bench-pair.sh DIR" >&2; exit 2; }
dir=$1
SOURCE_DATE_EPOCH=1700000000
export SOURCE_DATE_EPOCH
more=curl,openssh-server,python3-minimal

for tool in mmdebstrap mksquashfs; do
	command -v "$tool" >/dev/null || { echo "bench-pair: $tool: not found; run: scripts/deps-check.sh --install" >&2; exit 1; }
done
mkdir -p "$dir"
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)

# sources prints the host's own sources of Debian whose suite matches a pattern.
sources() {
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' | sort -u |
		while read -r uri release component origin; do
			[ "$origin" = Debian ] && [ "$component" = main ] || continue
			case $release in $1) echo "deb $uri $release $component" ;; esac
		done
}

# build NAME PACKAGES PATTERN
build() {
	[ -s "$dir/$1.squashfs" ] && return
	list=$(sources "$3")
	[ -n "$list" ] || { echo "bench-pair: apt has no sources of $suite; run: apt-get update" >&2; exit 1; }
	apt-config dump | sed -n 's/^Acquire::/&/p' >"$dir/apt.conf"
	printf '%s\n' "$list" | mmdebstrap --quiet --variant=minbase --aptopt="$dir/apt.conf" --include="$2" \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--format=tar "$suite" "$dir/$1.tar" -
	rm -f "$dir/$1.tmp"
	mksquashfs - "$dir/$1.tmp" -tar -noappend -quiet -no-progress -comp zstd -Xcompression-level 15 -reproducible <"$dir/$1.tar"
	mv "$dir/$1.tmp" "$dir/$1.squashfs"
}

build first systemd-sysv "$suite"
build second "systemd-sysv,$more" "$suite*"
