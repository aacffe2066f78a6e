#!/bin/sh
# Takes the screenshots of the documents: boots machines in QEMU and writes docs/images/*.png.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
'') ;;
-h | --help)
	echo "usage: scripts/screenshots.sh   (GO=go) boots machines in QEMU and writes docs/images/*.png; takes minutes without KVM"
	exit 0
	;;
*)
	echo "screenshots.sh: unexpected argument $1; see scripts/screenshots.sh --help" >&2
	exit 2
	;;
esac
shots=$(mktemp -d)
trap 'rm -rf "$shots"' EXIT
PHASE_E2E_SHOTS=$shots "${GO:-go}" test -tags machine -count=1 -timeout 60m -run '^TestMachineScreenShowsABoot$' ./internal/e2e
mkdir -p docs/images
for name in lines full-screen menu; do
	cp "$shots/$name.png" docs/images/
done
ls -l docs/images/*.png
