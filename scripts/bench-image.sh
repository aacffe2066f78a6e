#!/bin/bash
# Measures how long phase-image takes for each format and how large it is, beside Debian's tools for the same
# parts, and prints a Markdown table.
#
#   scripts/bench-image.sh DIR     works in DIR, which is made
#
# environment: BIN=bin, RUNS=3 (warm runs, of which the median counts), MKOSI=yes (also build an image with
# mkosi, as root), COLD= (skip the builds with an empty cache)
#
# "cold" is one build with an empty cache: it downloads packages. "warm" repeats it with the filled cache. The time
# beside it is the median of as many runs of Debian's tools for the same parts. The kernel and the loader are there.
# Exit codes: 0 done, 1 failed, 2 usage.
set -eu
[ $# = 1 ] && [ -n "$1" ] || { echo "usage: scripts/bench-image.sh DIR" >&2; exit 2; }
bin=$(cd "${BIN:-bin}" && pwd)
runs=${RUNS:-3}
mkdir -p "$1"
cd "$1"
for tool in phase-image phase-sign; do
	[ -x "$bin/$tool" ] || { echo "bench-image: $bin/$tool: not found; run: make binaries" >&2; exit 1; }
done

[ -z "${MKOSI:-}" ] || command -v mkosi >/dev/null || { echo "bench-image: mkosi: not found; run: apt-get install mkosi" >&2; exit 1; }

if ! [ -f repo/root.json ]; then
	mkdir -p keys
	for key in root release online ipns; do
		[ -f keys/$key ] || "$bin/phase-sign" key generate --no-passphrase --out keys/$key >/dev/null
	done
	"$bin/phase-sign" init --repo repo --root-key keys/root --release-key keys/release.pub --online-key keys/online.pub \
		--ipns-key keys/ipns.pub --channel stable --arch x86_64 --arch arm64 >/dev/null
fi

# took COMMAND prints the wall time and the processor time of a command in milliseconds. Its output goes to log.
took() {
	{ time "$@" >>log 2>&1 </dev/null; } 2>times || { echo "bench-image: $*: failed; see $PWD/log" >&2; exit 1; }
	tail -n 1 times
}
TIMEFORMAT='%3R %3U %3S'

# median COMMAND prints the medians of $runs runs: wall time and processor time in seconds.
median() {
	for _ in $(seq "$runs"); do
		rm -rf made.* peer.*
		took "$@"
	done >runs
	for field in '$1' '$2 + $3'; do
		awk "{print $field}" runs | sort -n | sed -n "$(((runs + 1) / 2))p"
	done | xargs
}

# size FILE prints the bytes that a file or folder takes on the disk, in MB.
size() { du -sk --block-size=1 "$1" | awk '{printf "%.1f", $1 / 1e6}'; }

# row NAME OUT PEEROUT PEER ARGS... measures phase-image with the arguments, and the function PEER.
row() {
	name=$1 out=$2 peerout=$3 peer=$4
	shift 4
	cold=-
	if [ -z "${COLD+set}" ]; then
		rm -rf cold "$out"
		cold=$(PHASE_BUILD_CACHE=$PWD/cold took "$bin/phase-image" "$@" --out "$out")
		cold=${cold%% *}
		rm -rf cold
	fi
	rm -rf "$out"
	took "$bin/phase-image" "$@" --out "$out" >/dev/null # fills the cache
	read -r wall cpu <<<"$(median "$bin/phase-image" "$@" --out "$out")"
	mb=$(size "$out")
	rm -rf "keep.$name"
	cp -a --sparse=always "$out" "keep.$name"
	read -r peerwall peercpu <<<"$(median "$peer")"
	[ -e "$peerout" ]
	case $name in
	initramfs) initramfswall=$peerwall initramfscpu=$peercpu ;;
	esp | usb | iso | uki) # phase-image has made the initramfs too
		peerwall=$(sum "$peerwall" "$initramfswall") peercpu=$(sum "$peercpu" "$initramfscpu") peer=dracut_${peer#peer_}
		;;
	esac
	echo "| $name | $cold | $wall | $cpu | $mb | $(words "$peer") | $peerwall | $peercpu | $(size "$peerout") | $(ratio "$wall" "$peerwall") | $(ratio "$cpu" "$peercpu") |"
}

sum() { awk "BEGIN {printf \"%.3f\", $1 + $2}"; }
ratio() { awk "BEGIN {printf \"%.2f\", $1 / ($2 > 0 ? $2 : 0.01)}"; }
words() { echo "${1#peer_}" | sed 's/qemu_img_.*/qemu-img convert/; s/_/, /g'; }

root="--root repo/root.json"

# parts takes the files out of the system partition of phase-image, for the peers.
parts() {
	mkdir -p parts
	mcopy -s -n -o -i keep.esp ::/EFI ::/loader ::/phase parts/
	sed -n 's/^options //p' parts/loader/entries/local.conf >parts/cmdline
	printf 'ID=phase-boot\n' >parts/osrel
}

peer_mtools() {
	truncate -s 264M peer.esp
	mkfs.vfat -F 32 -s 8 peer.esp
	mcopy -s -i peer.esp parts/EFI parts/loader parts/phase ::
}

# peer_mtools_mke2fs_sgdisk makes the same disk: partition table, system partition, cache.
peer_mtools_mke2fs_sgdisk() {
	peer_mtools
	truncate -s 1G peer.img
	sgdisk --clear --new=1:2048:+264M --typecode=1:EF00 --new=2:0:-1M --change-name=2:PHASE-CACHE peer.img
	dd if=peer.esp of=peer.img bs=1M seek=1 conv=notrunc,sparse
	mke2fs -q -F -t ext4 -m 0 -L PHASE-CACHE -E offset=277872640,lazy_itable_init=0 peer.img 774144k
}

convert() { qemu-img convert -f raw -O "$1" keep.usb "peer.$1"; }
peer_qemu_img_qcow2() { convert qcow2; }
peer_qemu_img_vmdk() { convert vmdk; }
peer_qemu_img_vhdx() { convert vhdx; }
peer_qemu_img_parallels() { convert parallels; }

peer_xorriso() {
	mkdir -p peer.tree
	xorriso -as mkisofs -V PHASE_BOOT -o peer.iso -append_partition 2 0xef keep.esp -appended_part_as_gpt \
		-e --interval:appended_partition_2:all:: -no-emul-boot peer.tree
}

# peer_objcopy adds the sections of a UKI as ukify does, at addresses after the stub.
peer_objcopy() {
	at=$((0x2000000))
	set --
	for section in osrel:parts/osrel cmdline:parts/cmdline initrd:parts/phase/initramfs.zst linux:parts/phase/vmlinuz; do
		set -- "$@" --add-section ".${section%%:*}=${section#*:}" --change-section-vma ".${section%%:*}=$(printf %#x $at)"
		at=$((at + 0x4000000))
	done
	x86_64-linux-gnu-objcopy "$@" /usr/lib/systemd/boot/efi/linuxx64.efi.stub peer.efi
}

# peer_dracut makes an initramfs of the same kernel's modules, with the programs of this machine.
peer_dracut() {
	dracut --force --no-hostonly --kver "$version" --kmoddir "$PWD/kernel/lib/modules/$version" --zstd peer.initramfs
}

# kernel unpacks the package of the boot kernel, for dracut.
kernel() {
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
	apt-get download "$package"
	rm -rf kernel
	dpkg-deb -x "$package"_*.deb kernel
	version=${package#linux-image-}
	depmod -b "$PWD/kernel" "$version"
}

# peer_mmdebstrap_sqfstar makes the packages of phase-image's root filesystem into a squashfs.
peer_mmdebstrap_sqfstar() {
	mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,udev,ca-certificates --format=tar bookworm peer.tar
	sqfstar -comp zstd -quiet -no-progress peer.squashfs <peer.tar
}

# peer_mkosi builds a disk with a root filesystem, a kernel and systemd-boot. It needs root rights.
peer_mkosi() {
	mkosi --distribution debian --release bookworm --format gpt_squashfs --bootable --checksum no --force --output-dir peer.mkosi \
		--package linux-image-cloud-amd64 --package systemd-sysv build
}

: >log
echo "| format | cold, s | warm, s | CPU, s | MB | beside | s | CPU, s | MB | ratio, s | ratio, CPU |"
echo "|---|---|---|---|---|---|---|---|---|---|---|"
kernel >>log 2>&1
row initramfs made.initramfs peer.initramfs peer_dracut initramfs --role boot $root
"$bin/phase-image" esp $root --default-mode local --out keep.esp >>log 2>&1
parts
row esp made.esp peer.esp peer_mtools esp $root --default-mode local
row usb made.img peer.img peer_mtools_mke2fs_sgdisk usb $root --default-mode local --size 1G
for format in qcow2 vmdk vhdx; do
	row $format made.$format peer.$format peer_qemu_img_$format $format --from keep.usb
done
row parallels made.hdd peer.parallels peer_qemu_img_parallels parallels --from keep.usb
row iso made.iso peer.iso peer_xorriso iso $root --default-mode local
row uki made.efi peer.efi peer_objcopy uki $root --default-mode local
row rootfs made.squashfs peer.squashfs peer_mmdebstrap_sqfstar rootfs
if [ -n "${MKOSI:-}" ]; then
	read -r wall cpu <<<"$(runs=1 median peer_mkosi)"
	echo "| | | | | | $(mkosi --version) | $wall | $cpu | $(size peer.mkosi) | | |"
fi
echo
echo "load: $(cat /proc/loadavg), $(nproc) processors"
