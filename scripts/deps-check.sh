#!/bin/sh
# What building, testing and the demo need beyond Go, as Debian packages.
#
#   scripts/deps-check.sh             the list, what is missing, and the line that installs it
#   scripts/deps-check.sh --install   install what is missing; says nothing when nothing is
#   ... bench                         the same, with the tools that make bench compares with
#   ... bench-net                     the same, with those of make bench-net
#
# Exit code 0: all there. 1: something is missing. 2: usage.
set -eu
PATH=$PATH:/usr/sbin:/sbin

install=
bench=
benchnet=
for word in "$@"; do
	case $word in
	--install) install=yes ;;
	bench) bench=yes ;;
	bench-net) benchnet=yes ;;
	*)
		echo "usage: scripts/deps-check.sh [--install] [bench] [bench-net]" >&2
		exit 2
		;;
	esac
done

# tool or file, package, what for
needs() {
	cat <<-'LIST'
		gcc                                  gcc              go test -race
		/usr/include/stdlib.h                libc6-dev        go test -race
		apt-get                              apt              Debian's kernel, modules and bootloader
		dpkg-deb                             dpkg             unpacking them
		mmdebstrap                           mmdebstrap       the root filesystem
		sqfstar                              squashfs-tools   the root filesystem
		mke2fs                               e2fsprogs        the cache partition
		mkfs.vfat                            dosfstools       the EFI system partition
		mcopy                                mtools           the EFI system partition
		sgdisk                               gdisk            the judge of partition tables
		qemu-system-x86_64                   qemu-system-x86  the machine
		/usr/share/OVMF/OVMF_CODE_4M.fd      ovmf             its firmware
		zstd                                 zstd             the judge of initramfs archives
		cpio                                 cpio             the judge of initramfs archives
		systemd-analyze                      systemd          the judge of the units
		ssh-agent                            openssh-client   the judge of keys in an agent
		curl                                 curl             what docs/OPERATING.md says, run
		ip                                   iproute2         its network, as root
		dnsmasq                              dnsmasq-base     its DHCP server, as root
		nft                                  nftables         its routers, as root
		nginx                                nginx-light      the web server of a mirror
	LIST
	if [ "$(id -u)" != 0 ]; then
		echo "newuidmap uidmap the root filesystem, without root rights"
	fi
	if [ -n "$bench" ]; then
		echo "b3sum b3sum a peer of make bench"
		echo "casync casync a peer of make bench"
		echo "xdelta3 xdelta3 a peer of make bench"
		echo "zsync zsync a peer of make bench"
		echo "/usr/sbin/nginx nginx-light what zsync fetches from"
	fi
	if [ -n "$benchnet" ]; then
		echo "nginx nginx-light a peer of make bench-net"
		echo "curl curl a peer of make bench-net"
		echo "aria2c aria2 a peer of make bench-net"
		echo "ethtool ethtool counting what make bench-net sends"
		echo "tc iproute2 its thin lines"
	fi
}

there() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# check prints the list when nobody wants to install, and leaves the names of the
# missing packages in $missing.
check() {
	missing=
	while read -r what package why; do
		state=ok
		if ! there "$what"; then
			state=MISSING
			case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
		fi
		[ -n "$install" ] || printf '%-8s %-33s %-16s %s\n' "$state" "$what" "$package" "$why"
	done <<-LIST
		$(needs)
	LIST
	missing=${missing# }
}

# go_version fails unless Go is new enough for go.mod.
go_version() {
	if ! there go; then
		echo "deps-check: go: not found; install Go 1.26 or newer and put its bin folder on PATH" >&2
		return 1
	fi
	version=$(go env GOVERSION)
	minor=${version#go1.}
	minor=${minor%%[!0-9]*}
	if [ "$version" = "${version#go1.}" ] || [ "${minor:-0}" -lt 26 ]; then
		echo "deps-check: go: this is $version; Go 1.26 or newer is needed" >&2
		return 1
	fi
	[ -n "$install" ] || printf '%-8s %-33s %-16s %s\n' ok go "($version)" "everything"
}

# lists_there tells whether apt knows any package; phase-image fetches Debian's through it.
lists_there() {
	[ -n "$(find /var/lib/apt/lists -name '*_Packages*' 2>/dev/null | head -n 1)" ]
}

# lists_fresh tells whether apt knows packages, and learnt of them within a day.
lists_fresh() {
	[ -n "$(find /var/lib/apt/lists -name '*_Packages*' -mtime -1 2>/dev/null | head -n 1)" ]
}

# as_root runs a command as root, or says what to run.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		return 1
	fi
}

complete=0
check
go_version || complete=1
if [ -n "$missing" ]; then
	line="apt-get install -y --no-install-recommends $missing"
	if [ -z "$install" ]; then
		echo "deps-check: missing packages; as root run: $line" >&2
		exit 1
	fi
	echo "deps-check: installing $missing" >&2
	if ! { lists_fresh || as_root apt-get update; } ||
		! as_root env DEBIAN_FRONTEND=noninteractive $line; then
		echo "deps-check: not installed; as root run: apt-get update && $line" >&2
		exit 1
	fi
	check
	if [ -n "$missing" ]; then
		echo "deps-check: $missing: installed, and its tools are still not there; is this Debian 12?" >&2
		exit 1
	fi
fi
if ! lists_there; then
	if [ -z "$install" ] || ! as_root apt-get update >&2; then
		echo "deps-check: apt has no package lists; as root run: apt-get update" >&2
		exit 1
	fi
fi
exit $complete
