#!/bin/sh
# Installs the commands that make built, man pages, completions, units and documents. make
# install and make deb call it with PREFIX, DESTDIR and BIN.
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
bin=${BIN:-bin}

put() { install -D -m "$1" "$2" "$root/$3"; } # MODE FILE PLACE

for command in phase-sign phase-publish phase-boot phase-image plasmd sigstore-kms-hashivault; do
	[ -x "$bin/$command" ] || { echo "install: $bin/$command: not found; run make binaries" >&2; exit 4; }
	put 755 "$bin/$command" "bin/$command"
done
put 644 "$bin/hello.wasm" share/phaseboot/hello.wasm
put 755 scripts/write-usb.sh share/phaseboot/write-usb.sh
for script in test-qemu.sh test-qemu-x86.sh test-qemu-arm64.sh; do
	put 755 "scripts/$script" "share/phaseboot/$script"
done

man=$root/share/man/man1
mkdir -p "$man"
for command in phase-sign phase-publish phase-image plasmd; do
	"$bin/$command" man "$man"
	for shell in bash zsh fish; do
		case $shell in
		bash) place=share/bash-completion/completions/$command ;;
		zsh) place=share/zsh/site-functions/_$command ;;
		fish) place=share/fish/vendor_completions.d/$command.fish ;;
		esac
		mkdir -p "$root/$(dirname "$place")"
		"$bin/$command" completion "$shell" >"$root/$place"
	done
done

# phase-boot cannot print a man page, so its help texts become one
{
	printf '.TH PHASE-BOOT 1\n.SH NAME\nphase-boot \\- find, verify and fetch a release\n'
	for verb in '' fetch seed; do
		printf '.SH %s\n.nf\n' "$(echo "${verb:-synopsis}" | tr a-z A-Z)"
		"$bin/phase-boot" $verb --help 2>&1 | sed 's/\\/\\e/g; s/^\([.'"'"']\)/\\\&\1/; s/-/\\-/g' || true
		printf '.fi\n'
	done
} >"$man/phase-boot.1"
chmod 644 "$man"/*

for unit in scripts/*.service; do
	place=$root/lib/systemd/system/$(basename "$unit")
	mkdir -p "$(dirname "$place")"
	sed "s|/usr/local/bin/|$prefix/bin/|" "$unit" >"$place"
	chmod 644 "$place"
done

put 644 README.md share/doc/phaseboot/README.md
put 644 LICENSE share/doc/phaseboot/copyright
for document in docs/*.md; do
	put 644 "$document" "share/doc/phaseboot/$(basename "$document")"
done
