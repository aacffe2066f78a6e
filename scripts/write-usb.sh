#!/bin/sh
# Writes an image to a USB stick and reads it back. Everything on the stick is lost.
set -eu

fail() { # CODE WORDS
	code=$1
	shift
	echo "write-usb.sh: $*" >&2
	exit "$code"
}

usage() {
	echo "usage: scripts/write-usb.sh [--yes] [--allow-fixed] IMAGE DEVICE"
}

yes= fixed=
while [ $# -gt 0 ]; do
	case $1 in
	--yes) yes=1 ;;
	--allow-fixed) fixed=1 ;;
	--) shift && break ;;
	-h | --help) usage && exit 0 ;;
	-*) usage >&2 && exit 2 ;;
	*) break ;;
	esac
	shift
done
[ $# -eq 2 ] || { usage >&2 && exit 2; }
image=$1 device=$2

[ -e "$image" ] || fail 4 "image $image: not found; build it with: phase-image usb --root root.json --out $image"
[ -f "$image" ] || fail 2 "image $image: not a file"
[ -s "$image" ] || fail 5 "image $image: the file is empty"
[ "$(dd if="$image" bs=1 skip=512 count=8 2>/dev/null | tr -d '\0')" = "EFI PART" ] ||
	fail 5 "image $image: no partition table; build one with: phase-image usb --root root.json --out FILE"
[ -e "$device" ] || fail 4 "device $device: not found; lsblk lists the devices"
[ -b "$device" ] || fail 2 "device $device: not a block device; lsblk lists them"
command -v lsblk >/dev/null || fail 1 "lsblk: not found; run: apt-get install util-linux"
# phase-image of make, or of an installed package
PATH=$PATH:$(dirname "$0")/../bin
command -v phase-image >/dev/null || fail 4 "phase-image: not found; run make, or put its folder on PATH"

lsblk() { command lsblk --noheadings --raw "$@"; }

type=$(lsblk --nodeps -o TYPE "$device")
[ "$type" = disk ] || [ "$type" = loop ] || fail 2 "device $device: a $type, not a disk; name the whole disk"
mounts=$(lsblk -o MOUNTPOINTS "$device" | tr -d '\n')
[ -z "$mounts" ] || fail 2 "device $device: in use at $mounts; unmount it first"
removable=$(lsblk --nodeps -o RM "$device" | tr -d ' ')
bus=$(lsblk --nodeps -o TRAN "$device" | tr -d ' ')
if [ "$removable" != 1 ] && [ "$bus" != usb ] && [ -z "$fixed" ]; then
	fail 2 "device $device: not removable; add --allow-fixed to write a fixed disk"
fi
[ -w "$device" ] || fail 1 "device $device: not writable; run it as root"

if [ -z "$yes" ]; then
	echo "$device: $(command lsblk --nodeps --noheadings -o SIZE,VENDOR,MODEL,SERIAL "$device")"
	printf 'Everything on it will be lost. Type yes to write %s: ' "$image"
	read -r answer || answer=
	[ "$answer" = yes ] || fail 1 "nothing written"
fi

# phase-image opens the device exclusively, checks that the file is an image of phase-image,
# and reads everything back
exec phase-image write --yes "$image" "$device"
