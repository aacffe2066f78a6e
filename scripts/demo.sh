#!/usr/bin/env bash
# One release, from fresh keys to a receipt on a machine's console.
# Every command below is one that a person would type; DEMO_DIR holds what they make.
#
#   scripts/demo.sh            as root: a LAN in a network namespace, found by mDNS
#                              as a user: QEMU's own network and one address as a hint
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${DEMO_DIR:-build/demo}
version=${DEMO_RELEASE:-$(date -u +%Y.%m.%d)-demo}
memory=${MEM:-1536}
deadline=${DEADLINE:-420}
started=$SECONDS
bin=${BIN:-$PWD/bin}
PATH=$bin:$PATH

bold= plain=
if [ -t 2 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s== %3ds  %s%s\n' "$bold" $((SECONDS - started)) "$*" "$plain" >&2; }
show() { printf '   $ %s\n' "$*" >&2; }
run() { show "$@"; "$@"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

pids=() netns=
cleanup() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	[ -z "$netns" ] || ip netns del "$netns" 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 130' INT TERM

rm -rf "$dir"
mkdir -p "$dir/keys" "$dir/artifacts/job"

say "keys: two that stay offline, one for the daemon, one for the channel's name"
for key in root release online ipns; do
	run phase-sign key generate --no-passphrase --out "$dir/keys/$key" >/dev/null
done

say "repository: root.json is all that a machine will ever trust"
run phase-sign init --repo "$dir/repo" \
	--root-key "$dir/keys/root" --root-threshold 1 \
	--release-key "$dir/keys/release.pub" --release-threshold 1 \
	--online-key "$dir/keys/online.pub" --ipns-key "$dir/keys/ipns.pub" \
	--channel stable --arch x86_64

say "artifacts: Debian's kernel, an initramfs, a Debian root filesystem, a WASM job"
run phase-image kernel --arch x86_64 --out "$dir/artifacts/kernel"
run phase-image initramfs --role target --arch x86_64 --out "$dir/artifacts/initramfs"
run phase-image rootfs --arch x86_64 --out "$dir/artifacts/rootfs"
cp "$bin/hello.wasm" "$dir/artifacts/job/hello.wasm"

say "sign release $version"
run phase-sign release --repo "$dir/repo" --channel stable --arch x86_64 --release "$version" \
	--kernel "$dir/artifacts/kernel" --initramfs "$dir/artifacts/initramfs" \
	--rootfs "$dir/artifacts/rootfs" --job "$dir/artifacts/job/hello.wasm" \
	--cmdline "console=ttyS0,115200" --key "$dir/keys/release" --out "$dir/release.json"

say "publish it"
run phase-publish add --store "$dir/store" --repo "$dir/repo" --artifacts "$dir/artifacts" \
	--online-key "$dir/keys/online" "$dir/release.json"

# as root: a LAN of its own; on it nobody types an address
lan=()
if [ "$(id -u)" = 0 ]; then
	netns=phase-demo-$$
	lan=(ip netns exec "$netns")
	ip netns add "$netns"
	"${lan[@]}" ip link set lo up
	"${lan[@]}" ip link add br0 type bridge mcast_snooping 0
	"${lan[@]}" ip tuntap add tap0 mode tap
	"${lan[@]}" ip link set tap0 master br0
	"${lan[@]}" ip addr add 10.55.0.1/24 dev br0
	"${lan[@]}" ip link set tap0 up
	"${lan[@]}" ip link set br0 up
	"${lan[@]}" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=br0 --bind-interfaces \
		--user=root --pid-file= --dhcp-leasefile="$(realpath "$dir")/leases" --no-ping --dhcp-range=10.55.0.100,10.55.0.200,1h \
		>"$dir/dnsmasq.log" 2>&1 &
	pids+=($!)
	network=tap:tap0 listen=/ip4/10.55.0.1/tcp/4001 http=10.55.0.1:8080 mode=local
else
	# any free ports: other programs of this user may hold the usual ones
	network=user listen=/ip4/127.0.0.1/tcp/0 http=127.0.0.1:0 mode=internet
fi

say "serve it"
serve=(phase-publish serve --store "$dir/store" --repo "$dir/repo" --online-key "$dir/keys/online"
	--ipns-key "$dir/keys/ipns" --http "$http" --listen "$listen")
show "${serve[@]}"
"${lan[@]}" "${serve[@]}" >"$dir/ready.json" 2>"$dir/publisher.log" &
publisher=$!
pids+=("$publisher")
for _ in $(seq 600); do
	[ -s "$dir/ready.json" ] && break
	kill -0 "$publisher" 2>/dev/null || { cat "$dir/publisher.log" >&2; die "the publisher ended"; }
	sleep 0.1
done
[ -s "$dir/ready.json" ] || die "the publisher is not ready after a minute; see $dir/publisher.log"
cat "$dir/ready.json"

hint=()
if [ "$network" = user ]; then
	address=$(grep -o '/ip4/127\.0\.0\.1/tcp/[0-9]*/p2p/[A-Za-z0-9]*' "$dir/ready.json" | head -n 1)
	[ -n "$address" ] || die "no TCP address in $dir/ready.json"
	hint=(--cmdline "phase.bootstrap=${address/127.0.0.1/10.0.2.2}")
fi

say "build the stick"
run phase-image usb --root "$dir/repo/root.json" --arch x86_64 --default-mode "$mode" "${hint[@]}" \
	--size "${IMAGE_SIZE:-1G}" --out "$dir/phase.img"

say "boot it under UEFI"
show scripts/test-qemu-x86.sh "$dir/phase.img"
MEM=$memory NET=$network "${lan[@]}" scripts/test-qemu-x86.sh "$dir/phase.img" \
	</dev/null >"$dir/console.log" 2>&1 &
machine=$! booted=$SECONDS
pids+=("$machine")
tail -n +1 -f --pid="$machine" "$dir/console.log" 2>/dev/null &
pids+=($!)
until grep -q 'plasmd: receipt {' "$dir/console.log"; do
	kill -0 "$machine" 2>/dev/null || die "the machine stopped before the receipt; its console is in $dir/console.log"
	! grep -q 'phase-boot: boot refused' "$dir/console.log" || die "the boot was refused; its console is in $dir/console.log"
	[ $((SECONDS - booted)) -lt "$deadline" ] || die "no receipt after $deadline s; the console is in $dir/console.log"
	sleep 0.5
done
sleep 1

# the console must tell the story in this order
expect=('BdsDxe: starting' '] resolve: ' '] source: ' '] kexec: ' "Linux version" "phase.release=$version" 'systemd\[1\]' 'plasmd: receipt {')
from=1
for mark in "${expect[@]}"; do
	line=$(tail -n "+$from" "$dir/console.log" | grep -n -m 1 -a -e "$mark" | cut -d: -f1) || true
	[ -n "$line" ] || die "the console does not show '$mark' in its place; see $dir/console.log"
	from=$((from + line))
done

say "done: release $version ran on a machine that knew only root.json"
