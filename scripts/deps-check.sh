#!/bin/sh
# What building, testing and the demo need beyond Go, as Debian packages.
#
#   scripts/deps-check.sh [TARGET ...]            the list, what is missing, and the line that installs it
#   scripts/deps-check.sh --install [TARGET ...]  install what is missing; says nothing when nothing is
#
# TARGET: build (make, make install), image (make image, esp, initramfs, kernel-*), rootfs,
# demo, deb, bench, bench-net, test (the default).
#
# Exit code 0: all there. 1: something is missing. 2: usage.
set -eu
PATH=$PATH:/usr/sbin:/sbin

install=
targets=
for word in "$@"; do
	case $word in
	--install) install=yes ;;
	build | image | rootfs | demo | deb | test | bench | bench-net) targets="$targets $word" ;;
	*)
		echo "usage: scripts/deps-check.sh [--install] [build|image|rootfs|demo|deb|test|bench|bench-net ...]" >&2
		exit 2
		;;
	esac
done
[ -n "$targets" ] || targets=test

# tool or file, package, the targets that need it, what for. A target with "+root" needs it as
# root, with "+user" as an ordinary user.
all() {
	cat <<-'LIST'
		make                             make             build,image,rootfs,demo,deb,test,bench,bench-net everything
		git                              git              build,image,rootfs,demo,deb,test,bench,bench-net the commit's name
		/etc/ssl/certs/ca-certificates.crt ca-certificates build,image,rootfs,demo,deb,test,bench,bench-net fetching Go modules
		apt-get                          apt              image,rootfs,demo,test        Debian's kernel, modules and bootloader
		dpkg-deb                         dpkg             image,rootfs,demo,deb,test    unpacking them; the package of make deb
		mmdebstrap                       mmdebstrap       rootfs,demo,test              the root filesystem
		sqfstar                          squashfs-tools   rootfs,demo,test              the root filesystem
		newuidmap                        uidmap           rootfs+user,demo+user,test+user the root filesystem, without root rights
		mke2fs                           e2fsprogs        image,demo,test               the cache partition
		mkfs.vfat                        dosfstools       image,demo,test               the EFI system partition
		mcopy                            mtools           image,demo,test               the EFI system partition
		sgdisk                           gdisk            image,demo,test               partition tables
		qemu-system-x86_64               qemu-system-x86  demo,test                     the machine
		/usr/share/OVMF/OVMF_CODE_4M.fd  ovmf             demo,test                     its firmware
		ip                               iproute2         demo+root,test,bench-net      its network
		dnsmasq                          dnsmasq-base     demo+root,test                its DHCP server
		gcc                              gcc              test                          go test -race
		/usr/include/stdlib.h            libc6-dev        test                          go test -race
		zstd                             zstd             test                          the judge of initramfs archives
		cpio                             cpio             test                          the judge of initramfs archives
		busybox                          busybox-static   test                          what docs/SHIP-YOUR-OWN-OS.md says, run
		systemd-analyze                  systemd          test                          the judge of the units
		ssh-agent                        openssh-client   test                          the judge of keys in an agent
		curl                             curl             test,bench-net                what docs/OPERATING.md says, run
		nft                              nftables         test                          its routers
		nginx                            nginx-light      test,bench,bench-net          the web server of a mirror
		b3sum                            b3sum            bench                         a peer of make bench
		casync                           casync           bench                         a peer of make bench
		xdelta3                          xdelta3          bench                         a peer of make bench
		zsync                            zsync            bench                         a peer of make bench
		aria2c                           aria2            bench-net                     a peer of make bench-net
		ethtool                          ethtool          bench-net                     counting what make bench-net sends
	LIST
}

# as prints the name of who is asking, as the list has it.
as() { if [ "$(id -u)" = 0 ]; then echo root; else echo user; fi; }

# wanted tells whether a list of targets has one that was asked for.
wanted() {
	for target in $targets; do
		case ,$1, in
		*,"$target",* | *,"$target+$who",*) return 0 ;;
		esac
	done
	return 1
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
	while read -r what package in why; do
		wanted "$in" || continue
		state=ok
		if ! there "$what"; then
			state=MISSING
			case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
		fi
		[ -n "$install" ] || printf '%-8s %-33s %-16s %s\n' "$state" "$what" "$package" "$why"
	done <<-LIST
		$(all)
	LIST
	missing=${missing# }
}

# go_version fails unless Go is new enough for go.mod.
go_version() {
	if ! there "${GO:-go}"; then
		echo "deps-check: go: not found; install Go 1.26 or newer and put its bin folder on PATH" >&2
		return 1
	fi
	version=$("${GO:-go}" env GOVERSION)
	minor=${version#go1.}
	minor=${minor%%[!0-9]*}
	if [ "$version" = "${version#go1.}" ] || [ "${minor:-0}" -lt 26 ]; then
		echo "deps-check: go: this is $version; Go 1.26 or newer is needed" >&2
		return 1
	fi
	[ -n "$install" ] || printf '%-8s %-33s %-16s %s\n' ok go "($version)" "everything"
}

# setting prints a number of the kernel, or nothing.
setting() { cat "/proc/sys/$1" 2>/dev/null || true; }

# namespaces fails with advice unless an ordinary user can make the namespaces in which the
# root filesystem is built.
namespaces() {
	[ "$who" = user ] && wanted rootfs,demo,test || return 0
	advice=
	if [ "$(setting kernel/unprivileged_userns_clone)" = 0 ]; then
		advice="as root run: sysctl -w kernel.unprivileged_userns_clone=1"
	elif [ "$(setting user/max_user_namespaces)" = 0 ]; then
		advice="as root run: sysctl -w user.max_user_namespaces=15000"
	elif ! unshare --user --map-root-user true 2>/dev/null; then
		advice="this container or security module forbids them to you; run it as root, or outside of the container"
		if [ "$(setting kernel/apparmor_restrict_unprivileged_userns)" = 1 ]; then
			advice="as root run: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
		fi
	elif ! grep -q "^$(id -un):\|^$(id -u):" /etc/subuid || ! grep -q "^$(id -un):\|^$(id -u):" /etc/subgid; then
		advice="there are no further user IDs for $(id -un); as root run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
	fi 2>/dev/null
	[ -z "$advice" ] && return 0
	echo "deps-check: user namespaces: $advice" >&2
	return 1
}

# lists_there tells whether apt knows any package; phase-image fetches Debian's through it.
lists_there() {
	[ -n "$(find /var/lib/apt/lists -name '*_Packages*' 2>/dev/null | head -n 1)" ]
}

# lists_fresh tells whether apt knows packages, and learnt of them within a day.
lists_fresh() {
	[ -n "$(find /var/lib/apt/lists -name '*_Packages*' -mtime -1 2>/dev/null | head -n 1)" ]
}

# as_root runs a command as root, or says that it cannot.
as_root() {
	if [ "$who" = root ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		return 1
	fi
}

who=$(as)
complete=0
check
go_version || complete=1
if [ -n "$missing" ]; then
	line="apt-get install -y --no-install-recommends $missing"
	if [ -z "$install" ]; then
		echo "deps-check: missing packages; as root run: apt-get update && $line" >&2
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
namespaces || complete=1
if wanted image,rootfs,demo,test && ! lists_there; then
	if [ -z "$install" ] || ! as_root apt-get update >&2; then
		echo "deps-check: apt has no package lists; as root run: apt-get update" >&2
		exit 1
	fi
fi
exit $complete
