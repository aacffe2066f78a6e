# Functions of demo.sh, dev-repo.sh and test-boot.sh, which source this file: a repository with
# keys, a release of Debian for one architecture, a publisher, and the wait for a machine's
# receipt. The caller has the commands on PATH, $bin is their folder. Processes in $pids end with
# the script. show and say print what a person would type.
started=$SECONDS
bold='' plain=''
if [ -t 2 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s== %3ds  %s%s\n' "$bold" $((SECONDS - started)) "$*" "$plain" >&2; }
show() { printf '   $ %s\n' "$*" >&2; }
run() { show "$@"; "$@"; }
die() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 1; }

pids=()
end_processes() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}

# make_keys DIR makes the four keys of a repository, without passphrases.
make_keys() {
	mkdir -p "$1"
	for key in root release online ipns; do
		run phase-sign key generate --no-passphrase --out "$1/$key" >/dev/null
	done
}

# init_repo DIR MORE... makes the repository DIR/repo with the keys DIR/keys.
init_repo() {
	local dir=$1
	shift
	run phase-sign init --repo "$dir/repo" \
		--root-key "$dir/keys/root" --root-threshold 1 \
		--release-key "$dir/keys/release.pub" --release-threshold 1 \
		--online-key "$dir/keys/online.pub" --ipns-key "$dir/keys/ipns.pub" \
		--channel stable "$@"
}

# serial ARCH prints the console of the first serial line of a virtual machine.
serial() { case $1 in arm64) echo ttyAMA0 ;; *) echo ttyS0 ;; esac; }

# make_artifacts DIR ARCH makes the files of a release, of flavour $FLAVOUR (default vm). A root filesystem
# that is there is kept.
make_artifacts() {
	local dir=$1 arch=$2 flavour=()
	[ "${FLAVOUR:-vm}" = vm ] || flavour=(--flavour "$FLAVOUR")
	mkdir -p "$dir/job"
	run phase-image kernel --arch "$arch" "${flavour[@]}" --out "$dir/kernel"
	run phase-image initramfs --role target --arch "$arch" "${flavour[@]}" --out "$dir/initramfs"
	[ -e "$dir/rootfs" ] || run phase-image rootfs --arch "$arch" "${flavour[@]}" --out "$dir/rootfs"
	cp "$bin/hello.wasm" "$dir/job/hello.wasm"
}

# sign_release DIR ARCH VERSION ARTIFACTS OUT MORE... signs a release for the repository DIR/repo.
sign_release() {
	local dir=$1 arch=$2 version=$3 from=$4 out=$5
	shift 5
	run phase-sign release --repo "$dir/repo" --channel stable --arch "$arch" --release "$version" \
		--kernel "$from/kernel" --initramfs "$from/initramfs" \
		--rootfs "$from/rootfs" --job "$from/job/hello.wasm" "$@" \
		--cmdline "console=$(serial "$arch"),115200" --key "$dir/keys/release" --out "$out"
}

# publish_release DIR ARTIFACTS FILE adds a signed release to the store DIR/store.
publish_release() {
	run phase-publish add --store "$1/store" --repo "$1/repo" --artifacts "$2" \
		--online-key "$1/keys/online" "$3"
}

# serve DIR OUT MORE... starts the publisher of DIR and waits until it is ready. Its ready line is
# in OUT/ready.json, its log in OUT/publisher.log. $lan is a prefix of the command.
serve() {
	local dir=$1 out=$2
	shift 2
	local command=(phase-publish serve --store "$dir/store" --repo "$dir/repo" --online-key "$dir/keys/online"
		--ipns-key "$dir/keys/ipns" "$@")
	show "${command[@]}"
	rm -f "$out/ready.json"
	"${lan[@]}" "${command[@]}" >"$out/ready.json" 2>"$out/publisher.log" &
	local publisher=$!
	pids+=("$publisher")
	for _ in $(seq 600); do
		[ -s "$out/ready.json" ] && break
		kill -0 "$publisher" 2>/dev/null || { cat "$out/publisher.log" >&2; die "phase-publish serve: ended early; its log is above"; }
		sleep 0.1
	done
	[ -s "$out/ready.json" ] || die "phase-publish serve: not ready after 60 s; see $out/publisher.log"
}

# boot_to_receipt ARCH CONSOLE DEADLINE IMAGE MORE... starts a machine with test-qemu-x86.sh or
# test-qemu-arm64.sh, shows its console, and ends it when the job's receipt was printed.
boot_to_receipt() {
	local arch=$1 console=$2 deadline=$3 image=$4 script=scripts/test-qemu-arm64.sh
	shift 4
	[ "$arch" = arm64 ] || script=scripts/test-qemu-x86.sh
	show "$script" --image "$image"
	: >"$console"
	"${lan[@]}" "$script" --image "$image" "$@" </dev/null >"$console" 2>&1 &
	local machine=$! booted=$SECONDS
	pids+=("$machine")
	tail -n +1 -f --pid="$machine" "$console" 2>/dev/null &
	pids+=($!)
	until grep -q 'plasmd: receipt {' "$console"; do
		kill -0 "$machine" 2>/dev/null || die "machine: stopped before the receipt; see its console in $console"
		! grep -q 'phase-boot: boot refused' "$console" || die "machine: boot refused; see its console in $console"
		[ $((SECONDS - booted)) -lt "$deadline" ] || die "machine: no receipt after $deadline s; see its console in $console"
		sleep 0.5
	done
	sleep 1
}

# check_console CONSOLE VERSION checks that the console shows the steps of a boot in this order.
check_console() {
	local expect=('BdsDxe: starting' '] resolve: ' '] source: ' '] kexec: ' "Linux version" "phase.release=$2" 'systemd\[1\]' 'plasmd: receipt {')
	local from=1 mark line
	for mark in "${expect[@]}"; do
		line=$(tail -n "+$from" "$1" | grep -n -m 1 -a -e "$mark" | cut -d: -f1) || true
		[ -n "$line" ] || die "machine: no line '$mark' in the expected order; see its console in $1"
		from=$((from + line))
	done
}
