#!/bin/sh
# Boots an image for x86_64 in QEMU under UEFI; --help says more.
exec "$(dirname "$0")/test-qemu.sh" x86 "$@"
