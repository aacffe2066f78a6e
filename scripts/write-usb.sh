#!/bin/sh
# Writes an image to a USB stick and reads it back: phase-image write, of make or on PATH.
# scripts/write-usb.sh --image F --device D, or: scripts/write-usb.sh F D
set -eu
PATH=$(dirname "$0")/../bin:$PATH
command -v phase-image >/dev/null || {
	echo "write-usb.sh: phase-image: not found; run make, or put its folder on PATH" >&2
	exit 4
}
exec phase-image write "$@"
