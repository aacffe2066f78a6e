#!/bin/sh
# Checks the Debian packages that building, testing and the demo need in addition to Go.
#
#   scripts/deps-check.sh [TARGET ...]            lists the packages, and the command that installs missing ones
#   scripts/deps-check.sh --install [TARGET ...]  installs missing packages; prints nothing if there are none
#
# TARGET: build (make, make install), image (make image, esp, initramfs), rootfs, kernel-x86_64,
# kernel-arm64, demo, deb, bench, bench-net, bench-image, qemu-x86, qemu-arm64 (make test-qemu-*), test (the default).
#
# Exit codes: 0 nothing is missing, 1 something is missing, 2 usage.
set -eu
PATH=$PATH:/usr/sbin:/sbin

install=
targets=
for word in "$@"; do
	case $word in
	--install) install=yes ;;
	build | image | rootfs | kernel-x86_64 | kernel-arm64 | demo | deb | test | bench | bench-net | bench-image | qemu-x86 | qemu-arm64) targets="$targets $word" ;;
	*)
		echo "usage: scripts/deps-check.sh [--install] [build|image|rootfs|kernel-x86_64|kernel-arm64|demo|deb|test|bench|bench-net|bench-image|qemu-x86|qemu-arm64 ...]" >&2
		exit 2
		;;
	esac
done
[ -n "$targets" ] || targets=test

# Columns: program or file, package, targets that need it, use. "TARGET+root" needs it only for
# root, "TARGET+user" only for an ordinary user.
all() {
	cat <<-'LIST'
		make                             make             build,image,rootfs,kernel-x86_64,kernel-arm64,demo,deb,test,bench,bench-net everything
		git                              git              build,image,rootfs,kernel-x86_64,kernel-arm64,demo,deb,test,bench,bench-net the version stamp
		/etc/ssl/certs/ca-certificates.crt ca-certificates build,image,rootfs,kernel-x86_64,kernel-arm64,demo,deb,test,bench,bench-net fetching Go modules
		apt-get                          apt              image,rootfs,kernel-x86_64,kernel-arm64,demo,test Debian's kernel, modules and bootloader
		dpkg-deb                         dpkg             image,rootfs,demo,deb,test    unpacking packages; make deb
		mmdebstrap                       mmdebstrap       rootfs,demo,test              the root filesystem
		sqfstar                          squashfs-tools   rootfs,demo,test              the root filesystem
		depmod                           kmod             rootfs,test                   modules in the root filesystem, flavour generic
		newuidmap                        uidmap           rootfs+user,demo+user,test+user the root filesystem, without root rights
		mke2fs                           e2fsprogs        image,demo,test               the cache partition
		mkfs.vfat                        dosfstools       image,demo,test               the EFI system partition
		mcopy                            mtools           image,demo,test               the EFI system partition
		sgdisk                           gdisk            image,demo,test               partition tables
		grub-mkimage                     grub-common      test                          images with --bootloader grub or both
		qemu-img                         qemu-utils       test                          checking disk images for virtual machines
		xorriso                          xorriso          test                          checking ISO images
		faketime                         faketime         test                          building an image at another date
		qemu-system-x86_64               qemu-system-x86  demo,test,qemu-x86            the virtual machine
		/usr/share/OVMF/OVMF_CODE_4M.fd  ovmf             demo,test,qemu-x86            UEFI firmware of the virtual machine
		qemu-system-aarch64              qemu-system-arm  test,qemu-arm64               the virtual machine of arm64
		/usr/share/AAVMF/AAVMF_CODE.fd   qemu-efi-aarch64 test,qemu-arm64               UEFI firmware of the virtual machine of arm64
		dtc                              device-tree-compiler test                      checking device trees
		ip                               iproute2         demo+root,test,bench-net      network namespaces
		dnsmasq                          dnsmasq-base     demo+root,test                DHCP server of the virtual machine
		gcc                              gcc              test                          go test -race
		/usr/include/stdlib.h            libc6-dev        test                          go test -race
		gcc                              gcc              kernel-x86_64,kernel-arm64    programs of the kernel's build
		/usr/include/stdlib.h            libc6-dev        kernel-x86_64,kernel-arm64    programs of the kernel's build
		/usr/include/openssl/opensslv.h  libssl-dev       kernel-x86_64,kernel-arm64    programs of the kernel's build
		/usr/include/libelf.h            libelf-dev       kernel-x86_64                 programs of the kernel's build
		flex                             flex             kernel-x86_64,kernel-arm64    the kernel's options
		bison                            bison            kernel-x86_64,kernel-arm64    the kernel's options
		bc                               bc               kernel-x86_64,kernel-arm64    the kernel's build
		perl                             perl             kernel-x86_64,kernel-arm64    the kernel's build
		xz                               xz-utils         kernel-x86_64,kernel-arm64    unpacking the kernel's sources
		dpkg-deb                         dpkg             kernel-x86_64,kernel-arm64    packing the kernel
		x86_64-linux-gnu-gcc             gcc-x86-64-linux-gnu kernel-x86_64             compiler of the kernel
		aarch64-linux-gnu-gcc            gcc-aarch64-linux-gnu kernel-arm64             compiler of the kernel
		zstd                             zstd             image,demo,test,kernel-x86_64,kernel-arm64 initramfs archives, the kernel image
		cpio                             cpio             test                          checking initramfs archives
		/usr/lib/ipxe/snponly.efi        ipxe             test                          boots by PXE
		sbverify                         sbsigntool       test                          checking signatures for Secure Boot
		sig-list-to-certs                efitools         test                          checking keys for Secure Boot
		openssl                          openssl          test                          checking certificates, statements of rebuilders, receipts
		python3                          python3          test                          checking statements of rebuilders, receipts
		x86_64-linux-gnu-objdump         binutils-x86-64-linux-gnu test                 checking UKIs
		aarch64-linux-gnu-objdump        binutils-aarch64-linux-gnu test                checking UKIs of arm64
		busybox                          busybox-static   test                          commands of docs/SHIP-YOUR-OWN-OS.md
		systemd-analyze                  systemd          test                          checking the systemd units
		ssh-agent                        openssh-client   test                          keys in an agent
		curl                             curl             test,bench-net                commands of docs/OPERATING.md
		nft                              nftables         test                          NAT routers
		tor                              tor              test                          boots through Tor
		chromium                         chromium         test                          the admin page in a browser
		node                             nodejs           test                          tuf-js, a TUF client that checks docs/FOREIGN-CLIENTS.md
		npm                              npm              test                          installing tuf-js and axe-core
		promtool                         prometheus       test                          alert rules of docs/monitoring
		rauc                             rauc             test                          commands of docs/FOREIGN-CLIENTS.md
		nginx                            nginx-light      test,bench,bench-net          web server of a mirror
		b3sum                            b3sum            bench                         compared in make bench
		casync                           casync           bench                         compared in make bench
		xdelta3                          xdelta3          bench                         compared in make bench
		zsync                            zsync            bench                         compared in make bench
		dracut                           dracut-core      bench-image                   compared in make bench-image
		/usr/lib/systemd/boot/efi/linuxx64.efi.stub systemd-boot-efi bench-image        compared in make bench-image
		aria2c                           aria2            bench-net                     compared in make bench-net
		ethtool                          ethtool          bench-net                     exact byte counters
	LIST
}

# role_name prints root or user, as in the list.
role_name() { if [ "$(id -u)" = 0 ]; then echo root; else echo user; fi; }

# wanted TARGETS succeeds if the list has a target of the command line.
wanted() {
	for target in $targets; do
		case ,$1, in
		*,"$target",* | *,"$target+$role",*) return 0 ;;
		esac
	done
	return 1
}

# there NAME succeeds if the program or file exists.
there() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# check sets $missing to the names of the missing packages. Without --install, it prints the
# list.
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
		echo "deps-check: go: too old: $version; install Go 1.26 or newer" >&2
		return 1
	fi
	[ -n "$install" ] || printf '%-8s %-33s %-16s %s\n' ok go "($version)" "everything"
}

# setting NAME prints a kernel setting, or nothing.
setting() { cat "/proc/sys/$1" 2>/dev/null || true; }

# namespaces fails with advice if an ordinary user cannot make the user namespaces that
# building the root filesystem needs.
namespaces() {
	[ "$role" = user ] && wanted rootfs,demo,test || return 0
	advice=
	if [ "$(setting kernel/unprivileged_userns_clone)" = 0 ]; then
		advice="as root run: sysctl -w kernel.unprivileged_userns_clone=1"
	elif [ "$(setting user/max_user_namespaces)" = 0 ]; then
		advice="as root run: sysctl -w user.max_user_namespaces=15000"
	elif ! unshare --user --map-root-user true 2>/dev/null; then
		advice="forbidden by this container or a security module; run it as root, or outside of the container"
		if [ "$(setting kernel/apparmor_restrict_unprivileged_userns)" = 1 ]; then
			advice="as root run: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
		fi
	elif ! grep -q "^$(id -un):\|^$(id -u):" /etc/subuid || ! grep -q "^$(id -un):\|^$(id -u):" /etc/subgid; then
		advice="no subordinate user IDs for $(id -un); as root run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
	fi 2>/dev/null
	[ -z "$advice" ] && return 0
	echo "deps-check: user namespaces: $advice" >&2
	return 1
}

# lists_there succeeds if apt has package lists, which phase-image needs.
lists_there() {
	[ -n "$(find /var/lib/apt/lists -name '*_Packages*' 2>/dev/null | head -n 1)" ]
}

# lists_fresh succeeds if apt has package lists that are less than a day old.
lists_fresh() {
	[ -n "$(find /var/lib/apt/lists -name '*_Packages*' -mtime -1 2>/dev/null | head -n 1)" ]
}

# as_root runs a command as root, with sudo if necessary. It fails without sudo.
as_root() {
	if [ "$role" = root ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		return 1
	fi
}

# npm_packages NAME FROM USE fails unless the packages of a folder FROM are in the cache. npm compares them with the hashes
# of its lock file.
npm_packages() {
	wanted test || return 0
	from=$(dirname "$0")/../$2
	to=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/phaseboot/$1
	state=ok
	cmp -s "$from/package-lock.json" "$to/package-lock.json" || state=MISSING
	if [ "$state" = MISSING ] && [ -n "$install" ]; then
		echo "deps-check: installing $1 in $to" >&2
		rm -rf "$to" "$to.new"
		mkdir -p "$to.new"
		cp "$from/package.json" "$from/package-lock.json" "$to.new/"
		if (cd "$to.new" && npm ci --ignore-scripts --no-audit --no-fund >&2) && mv "$to.new" "$to"; then state=ok; fi
	fi
	[ -n "$install" ] || printf '%-8s %-33s %-16s %s\n' "$state" "$1" "(npm)" "$3"
	[ "$state" = ok ] && return 0
	echo "deps-check: $1: not installed in $to; run: scripts/deps-check.sh --install test" >&2
	return 1
}

role=$(role_name)
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
		echo "deps-check: $missing: installed, but the programs are not found; use Debian 12 or newer" >&2
		exit 1
	fi
fi
namespaces || complete=1
npm_packages tuf-js docs/testdata/tuf-js "checking docs/FOREIGN-CLIENTS.md" || complete=1
npm_packages axe publisher/admin/testdata/axe "checking the admin page" || complete=1
if wanted image,rootfs,kernel-x86_64,kernel-arm64,demo,test && ! lists_there; then
	if [ -z "$install" ] || ! as_root apt-get update >&2; then
		echo "deps-check: apt's package lists: not found; as root run: apt-get update" >&2
		exit 1
	fi
fi
exit $complete
