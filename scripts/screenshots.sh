#!/bin/sh
# Takes the screenshots of the documents: boots machines in QEMU, opens the admin page in Chromium, and writes
# docs/images/*.png. With PAGE=only it boots no machine.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
'') ;;
-h | --help)
	echo "usage: scripts/screenshots.sh   (GO=go PAGE=only) boots machines in QEMU, opens the admin page in Chromium and writes docs/images/*.png; takes minutes without KVM; with PAGE=only it takes those of the page alone"
	exit 0
	;;
*)
	echo "screenshots.sh: unexpected argument $1; see scripts/screenshots.sh --help" >&2
	exit 2
	;;
esac
shots=$(mktemp -d)
trap 'rm -rf "$shots"' EXIT
PHASE_PAGE_SHOTS=$shots "${GO:-go}" test -count=1 -run '^TestScreenshotsOfThePage$' ./publisher/admin
[ "${PAGE:-}" = only ] || PHASE_E2E_SHOTS=$shots "${GO:-go}" test -tags machine -count=1 -timeout 60m -run '^TestMachine(ScreenShowsABoot|PublisherShowsThreeMachinesOfWhichOneFails)$' ./internal/e2e
mkdir -p docs/images
for name in lines full-screen menu page-overview page-machines page-boot page-fleet; do
	[ ! -e "$shots/$name.png" ] || cp "$shots/$name.png" docs/images/
done
ls -l docs/images/*.png
