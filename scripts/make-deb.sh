#!/bin/sh
# Packs the files of make install as a Debian package. make deb calls it. The commands are
# static, so the package depends on nothing. It recommends the tools that phase-image runs.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
stamp=$(GIT_OPTIONAL_LOCKS=0 git -c safe.directory='*' log -1 --format=%ct%n%h --abbrev=12 2>/dev/null || printf '0\nunknown\n')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(echo "$stamp" | head -n 1)}
export SOURCE_DATE_EPOCH
version=0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S)+$(echo "$stamp" | tail -n 1)
arch=$(dpkg --print-architecture)

umask 022
mkdir -p "$build"
tree=$(mktemp -d "$build/deb.XXXXXX")
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
DESTDIR=$(realpath "$tree") PREFIX=/usr BIN=${BIN:-bin} scripts/install.sh
mkdir -p "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: phaseboot
Version: $version
Architecture: $arch
Maintainer: Phase Boot maintainers <phaseboot@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f 1)
Recommends: apt, dosfstools, mtools, gdisk, e2fsprogs, zstd, mmdebstrap, squashfs-tools, uidmap
Suggests: qemu-system-x86, ovmf, qemu-system-arm, qemu-efi-aarch64
Section: admin
Priority: optional
Homepage: https://github.com/phaseboot/phaseboot
Description: signed operating system releases from untrusted peers
 Phase Boot signs an operating system release, lets any number of untrusted
 peers deliver it by content hash, and boots machines that trust one small
 file, root.json, and nothing else.
CONTROL
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
out=$build/phaseboot_${version}_$arch.deb
dpkg-deb --root-owner-group -Zgzip --build "$tree" "$out" >/dev/null
echo "$out"
