#!/bin/sh
# Builds two Debian root filesystems as squashfs, for measuring the bytes of an update. The
# first is minbase with systemd, as of the last point release of the host's suite. The second
# has three more packages and all security updates since.
#
#   scripts/bench-pair.sh DIR      makes DIR/first.squashfs and DIR/second.squashfs
#
# Both have the squashfs options of phase-image. Existing files are kept. Exit codes: 0 both
# exist, 1 failed, 2 usage.
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

# sources PATTERN prints the host's Debian sources whose suite matches the pattern.
sources() {
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' | sort -u |
		while read -r uri release component origin; do
			[ "$origin" = Debian ] && [ "$component" = main ] || continue
			case $release in $1) echo "deb $uri $release $component" ;; esac
		done
}

# build NAME PACKAGES PATTERN makes a root filesystem from the sources of the pattern.
build() {
	[ -s "$dir/$1.squashfs" ] && return
	list=$(sources "$3")
	[ -n "$list" ] || { echo "bench-pair: apt sources of $suite: not found; run: apt-get update" >&2; exit 1; }
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
