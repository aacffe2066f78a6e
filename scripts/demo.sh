#!/usr/bin/env bash
# Makes keys, signs and publishes a release, boots it in QEMU, and waits for the job's receipt.
# It prints each command as a person would type it. DEMO_DIR (default build/demo) has the files.
# KERNEL names another boot kernel for the stick, such as the one of make kernel-x86_64.
#
#   scripts/demo.sh    as root: a LAN in a network namespace, where mDNS finds the publisher
#                      as an ordinary user: QEMU's user network, and one address as a hint
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${DEMO_DIR:-build/demo}
version=${DEMO_RELEASE:-$(date -u +%Y.%m.%d)-demo}
memory=${MEM:-1536}
deadline=${DEADLINE:-420}
bin=${BIN:-$PWD/bin}
PATH=$bin:$PATH
. scripts/release.sh

netns=
cleanup() {
	end_processes
	[ -z "$netns" ] || ip netns del "$netns" 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 130' INT TERM

rm -rf "$dir"
mkdir -p "$dir"

say "keys: root and release, which stay offline; online, for the daemon; ipns, for the channel pointer"
make_keys "$dir/keys"

say "repository: root.json is the only file that a machine trusts"
init_repo "$dir" --arch x86_64

say "artifacts: Debian's kernel, an initramfs, a Debian root filesystem, a WASM job"
make_artifacts "$dir/artifacts" x86_64

say "sign release $version"
sign_release "$dir" x86_64 "$version" "$dir/artifacts" "$dir/release.json"

say "publish it"
publish_release "$dir" "$dir/artifacts" "$dir/release.json"

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
serve "$dir" "$dir" --http "$http" --listen "$listen"
cat "$dir/ready.json"

hint=()
if [ "$network" = user ]; then
	address=$(grep -o '/ip4/127\.0\.0\.1/tcp/[0-9]*/p2p/[A-Za-z0-9]*' "$dir/ready.json" | head -n 1)
	[ -n "$address" ] || die "$dir/ready.json: no TCP address"
	hint=(--cmdline "phase.bootstrap=${address/127.0.0.1/10.0.2.2}")
fi

say "build the stick"
run phase-image usb --root "$dir/repo/root.json" --arch x86_64 --default-mode "$mode" "${hint[@]}" \
	${KERNEL:+--kernel "$KERNEL"} --size "${IMAGE_SIZE:-1G}" --out "$dir/phase.img"

say "boot it under UEFI"
export MEM=$memory NET=$network
boot_to_receipt x86_64 "$dir/console.log" "$deadline" "$dir/phase.img"
check_console "$dir/console.log" "$version"

say "done: a machine that trusts only root.json booted release $version and ran its job"
