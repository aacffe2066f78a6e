#!/usr/bin/env bash
# Makes keys, signs and publishes a release, boots it in QEMU, waits for the receipt of the release's job, and
# submits a second job to the machine over the network.
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
run phase-sign key generate --no-passphrase --out "$dir/keys/operator" >/dev/null # may submit jobs to machines

say "repository: root.json is the only file that a machine trusts"
init_repo "$dir" --arch x86_64

say "artifacts: Debian's kernel, an initramfs, a Debian root filesystem, a WASM job"
make_artifacts "$dir/artifacts" x86_64

say "sign release $version"
sign_release "$dir" x86_64 "$version" "$dir/artifacts" "$dir/release.json" --bless --submitter "$dir/keys/operator.pub=jobs=2"

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
	FORWARD=$((20000 + RANDOM % 20000)):4002 # where plasmd of the machine listens
	export FORWARD
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

say "submit a second job over the network, as an operator whom the release names"
daemon='{"socket":.*"peer":"[A-Za-z0-9]*"'
for _ in $(seq 120); do
	! grep -qa "$daemon" "$dir/console.log" || break
	sleep 0.5
done
peer=$(grep -a -m 1 -o "$daemon" "$dir/console.log" | sed 's/.*"peer":"\([A-Za-z0-9]*\)".*/\1/')
[ -n "$peer" ] || die "machine: its plasmd does not listen; see its console in $dir/console.log"
if [ "$network" = user ]; then
	machine=(--machine "/ip4/127.0.0.1/tcp/${FORWARD%:*}/p2p/$peer")
else
	machine=(--all --root "$dir/repo/root.json")
fi
run "${lan[@]}" plasmd submit "$bin/jobs/primes.wasm" "${machine[@]}" --key "$dir/keys/operator" --receipts "$dir/receipts" -- 10000
grep -a -m 1 -o 'plasmd: receipt {.*' "$dir/console.log" | tr -d '\r' >"$dir/receipts/first.json"

say "verify both receipts"
for receipt in "$dir"/receipts/*.json; do run plasmd verify --root "$dir/repo/root.json" --release "$dir/release.json" "$receipt"; done

say "done: a machine that trusts only root.json booted release $version and ran two jobs"
