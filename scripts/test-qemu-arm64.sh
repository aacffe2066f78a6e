#!/bin/sh
# Boots an image for arm64 in QEMU under UEFI; --help says more.
exec "$(dirname "$0")/test-qemu.sh" arm64 "$@"
