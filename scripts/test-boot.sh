#!/usr/bin/env bash
# Signs and publishes a release of the development repository, boots an image that trusts it in
# QEMU, and ends when the machine has printed the job's receipt. The publisher is port 8080 of
# 127.0.0.1. make test-qemu-x86 and make test-qemu-arm64 call it.
#
#   scripts/test-boot.sh ARCH IMAGE ROOTFS    ARCH: x86_64 or arm64
#
# DEADLINE (default 900) is the time of the boot in seconds, MEM (default 1536) its memory in MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 3 ] || { echo "usage: scripts/test-boot.sh ARCH IMAGE ROOTFS" >&2; exit 2; }

arch=$1 image=$2 rootfs=$3
dir=${DEV_DIR:-build/dev}
bin=${BIN:-$PWD/bin}
PATH=$bin:$PATH
. scripts/release.sh
[ -e "$dir/keys/release" ] || die "$dir: no development repository; run scripts/dev-repo.sh"
version=$(date -u +%Y.%m.%d-%H%M%S)
boot=$dir/boot-$arch lan=()
trap end_processes EXIT
trap 'exit 130' INT TERM

say "artifacts of release $version for $arch"
rm -rf "$boot"
mkdir -p "$boot/artifacts"
cp "$rootfs" "$boot/artifacts/rootfs"
make_artifacts "$boot/artifacts" "$arch"
sign_release "$dir" "$arch" "$version" "$boot/artifacts" "$boot/release.json"
publish_release "$dir" "$boot/artifacts" "$boot/release.json"

say "serve it and boot $image"
serve "$dir" "$boot" --http 127.0.0.1:8080 --listen /ip4/127.0.0.1/tcp/0 --mdns=false --dht off
export MEM=${MEM:-1536}
boot_to_receipt "$arch" "$boot/console.log" "${DEADLINE:-900}" "$image" -snapshot
check_console "$boot/console.log" "$version"
say "done: $image booted release $version"
