#!/usr/bin/env bash
# Makes keys, signs and publishes a release, boots it in QEMU, and waits for the job's receipt.
# It prints each command as a person would type it. DEMO_DIR (default build/demo) has the files.
#
#   scripts/demo.sh    as root: a LAN in a network namespace, where mDNS finds the publisher
#                      as an ordinary user: QEMU's user network, and one address as a hint
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

say "keys: root and release, which stay offline; online, for the daemon; ipns, for the channel pointer"
for key in root release online ipns; do
	run phase-sign key generate --no-passphrase --out "$dir/keys/$key" >/dev/null
done

say "repository: root.json is the only file that a machine trusts"
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

# as root: a LAN of its own; mDNS finds the publisher without an address
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
	# any free ports: other programs may use the default ports
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
	kill -0 "$publisher" 2>/dev/null || { cat "$dir/publisher.log" >&2; die "phase-publish serve: ended early; its log is above"; }
	sleep 0.1
done
[ -s "$dir/ready.json" ] || die "phase-publish serve: not ready after 60 s; see $dir/publisher.log"
cat "$dir/ready.json"

hint=()
if [ "$network" = user ]; then
	address=$(grep -o '/ip4/127\.0\.0\.1/tcp/[0-9]*/p2p/[A-Za-z0-9]*' "$dir/ready.json" | head -n 1)
	[ -n "$address" ] || die "$dir/ready.json: no TCP address"
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
	kill -0 "$machine" 2>/dev/null || die "machine: stopped before the receipt; see its console in $dir/console.log"
	! grep -q 'phase-boot: boot refused' "$dir/console.log" || die "machine: boot refused; see its console in $dir/console.log"
	[ $((SECONDS - booted)) -lt "$deadline" ] || die "machine: no receipt after $deadline s; see its console in $dir/console.log"
	sleep 0.5
done
sleep 1

# the console must show these lines in this order
expect=('BdsDxe: starting' '] resolve: ' '] source: ' '] kexec: ' "Linux version" "phase.release=$version" 'systemd\[1\]' 'plasmd: receipt {')
from=1
for mark in "${expect[@]}"; do
	line=$(tail -n "+$from" "$dir/console.log" | grep -n -m 1 -a -e "$mark" | cut -d: -f1) || true
	[ -n "$line" ] || die "machine: no line '$mark' in the expected order; see its console in $dir/console.log"
	from=$((from + line))
done

say "done: a machine that trusts only root.json booted release $version and ran its job"
