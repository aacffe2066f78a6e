#!/bin/sh
# Boots an image in QEMU under UEFI, with the serial line on this terminal. test-qemu-x86.sh and
# test-qemu-arm64.sh call it with x86 or arm64 as the first argument.
# Ctrl-A X ends QEMU, Ctrl-A C opens its monitor.
set -eu
machine=$1
shift

usage() {
	cat <<END
usage: scripts/test-qemu-$machine.sh [--image] IMAGE [extra QEMU argument ...]
       scripts/test-qemu-$machine.sh --accel   prints the default of ACCEL on this machine
environment:
  MEM=1024            memory in MiB
  CPUS=1              processors
  CPU=                processor model without KVM; default: $default_cpu
  NET=user            user (slirp), none, or tap:IFNAME (the tap must be up)
  FORWARD=            with NET=user, TCP port of 127.0.0.1 and port of the machine that it leads to: 14002:4002
  DISK=virtio         virtio, usb or none (to start -kernel and -initrd)
  VARS=               variable store of the firmware; it is written
  SECUREBOOT=         variable store of a firmware with Secure Boot (x86); it is written
  DEADLINE=0          seconds after which the machine is stopped, 0 for never
  ACCEL=              kvm or tcg; default: kvm if a probe succeeds, else tcg
The console is this terminal; Ctrl-A X ends the machine. NET=user has no multicast, so mDNS
and boot mode local find no peers. Choose internet in the menu, or build the image with
--cmdline "phase.mirror=http://10.0.2.2:8080", which is port 8080 of this host.
END
}

fail() { # CODE WORDS
	code=$1
	shift
	echo "test-qemu-$machine.sh: $*" >&2
	exit "$code"
}

# The values of the architecture: program, package, machine type, processor without KVM, and the
# candidates for the UEFI firmware, each with a variable store.
case $machine in
x86)
	arch=x86_64 qemu=qemu-system-x86_64 qemu_package=qemu-system-x86 type=q35 ovmf_package=ovmf
	# with "max" the guest would use AVX2, whose emulation makes a boot 10 % slower; without
	# SSE 4.1 the job would be interpreted, not compiled
	default_cpu=qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand
	firmware="/usr/share/OVMF/OVMF_CODE_4M.fd /usr/share/OVMF/OVMF_CODE.fd
		/usr/share/edk2/ovmf/OVMF_CODE.fd /usr/share/edk2/x64/OVMF_CODE.4m.fd
		/usr/share/edk2-ovmf/x64/OVMF_CODE.fd /usr/share/edk2/x64/OVMF_CODE.fd
		/usr/share/qemu/ovmf-x86_64-code.bin"
	;;
arm64)
	arch=arm64 qemu=qemu-system-aarch64 qemu_package=qemu-system-arm type=virt ovmf_package=qemu-efi-aarch64
	default_cpu=cortex-a57
	firmware="/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd /usr/share/AAVMF/AAVMF_CODE.fd
		/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw /usr/share/edk2/aarch64/QEMU_CODE.fd
		/usr/share/qemu/edk2-aarch64-code.fd"
	;;
*) echo "test-qemu.sh: run scripts/test-qemu-x86.sh or scripts/test-qemu-arm64.sh" >&2 && exit 2 ;;
esac

# ovmf_vars FILE prints the path of a firmware file's variable store.
ovmf_vars() {
	case $1 in
	*AAVMF_CODE*) echo /usr/share/AAVMF/AAVMF_VARS.fd ;;
	*QEMU_EFI-pflash.raw) echo /usr/share/edk2/aarch64/vars-template-pflash.raw ;;
	*edk2-aarch64-code.fd) echo /usr/share/qemu/edk2-arm-vars.fd ;;
	*) echo "$1" | sed 's/CODE/VARS/; s/-code/-vars/' ;;
	esac
}

# ovmf prints the path of the first UEFI firmware that exists with its variable store.
ovmf() {
	for code in $firmware; do
		if [ -r "$code" ] && [ -r "$(ovmf_vars "$code")" ]; then
			echo "$code"
			return
		fi
	done
	return 1
}

# kvm_works runs a few bytes of guest code under KVM, with the machine and processor of a
# boot. The code ends QEMU with status 33. The probe fails within 5 s if KVM hangs, if it
# cannot provide the processor, or if it must emulate real mode: its emulator has no fwait,
# which UEFI firmware uses.
kvm_works() {
	[ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
	case $(uname -m) in
	x86_64) [ "$machine" = x86 ] || return 1 ;;
	aarch64)
		# QEMU makes the machine with its processor, and is told to quit
		[ "$machine" = arm64 ] && echo quit | timeout -k 1 5 "$qemu" -machine virt -accel kvm -cpu host -m 64 \
			-nodefaults -display none -S -monitor stdio >/dev/null 2>&1
		return
		;;
	*) return 1 ;;
	esac
	sector=$(mktemp)
	# fwait; mov al, 16; out 0xf4, al; hlt; ...; boot signature
	printf '\233\260\020\346\364\364' >"$sector"
	truncate -s 510 "$sector"
	printf '\125\252' >>"$sector"
	truncate -s 1M "$sector" # the BIOS ignores smaller disks
	status=0
	# in a subshell, so that its message about an abort is discarded
	(timeout -k 1 5 qemu-system-x86_64 -machine q35 -accel kvm -cpu host -m 64 -nodefaults -display none -no-reboot \
		-device isa-debug-exit,iobase=0xf4,iosize=1 \
		-drive if=none,id=d,format=raw,readonly=on,file="$sector" -device virtio-blk-pci,drive=d,bootindex=0 </dev/null; exit $?) >/dev/null 2>&1 || status=$?
	rm -f "$sector"
	[ "$status" -eq 33 ]
}

# mac prints a MAC address derived from the network and the image, so that two machines on
# one bridge have different ones.
mac() {
	echo "${NET:-user} $image" | sha256sum | sed 's/^\(..\)\(..\)\(..\).*/52:54:00:\1:\2:\3/'
}

case ${1:-} in
--image) shift ;;
esac
case ${1:-} in
-h | --help) usage && exit 0 ;;
--accel)
	if kvm_works; then echo kvm; else echo tcg; fi
	exit 0
	;;
'') usage >&2 && exit 2 ;;
esac
image=$1
shift
[ -e "$image" ] || fail 4 "image $image: not found; build it with: phase-image usb --root root.json --arch $arch --out $image"
[ -f "$image" ] || [ -b "$image" ] || fail 2 "image $image: not a file"
[ -s "$image" ] || [ -b "$image" ] || fail 5 "image $image: the file is empty"
command -v "$qemu" >/dev/null || fail 1 "$qemu: not found; run: apt-get install $qemu_package"
code=$(ovmf) || fail 1 "UEFI firmware: not found; run: apt-get install $ovmf_package"
vars=$(ovmf_vars "$code"),snapshot=on # writes go to a temporary snapshot
if [ -n "${VARS:-}" ]; then
	[ -f "$VARS" ] || fail 4 "VARS=$VARS: not found; copy $(ovmf_vars "$code") there"
	vars=$VARS
fi
if [ -n "${SECUREBOOT:-}" ]; then
	[ "$machine" = x86 ] || fail 2 "SECUREBOOT: for x86 only"
	code=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd
	[ -r "$code" ] || fail 1 "firmware $code: not found; run: apt-get install ovmf"
	[ -f "$SECUREBOOT" ] || fail 4 "SECUREBOOT=$SECUREBOOT: not found; copy /usr/share/OVMF/OVMF_VARS_4M.fd there"
	vars=$SECUREBOOT
	# system management mode protects the variable store from the machine's system
	type=q35,smm=on
	set -- -global driver=cfi.pflash01,property=secure,value=on -global ICH9-LPC.disable_s3=1 "$@"
fi

accel=${ACCEL:-}
if [ -z "$accel" ]; then
	accel=tcg
	if kvm_works; then accel=kvm; fi
fi
case $accel in
kvm) set -- -accel kvm -cpu host "$@" ;;
tcg) set -- -accel tcg -cpu "${CPU:-$default_cpu}" "$@" ;;
*) fail 2 "ACCEL=$accel: must be kvm or tcg" ;;
esac

case ${NET:-user} in
user) set -- -netdev "user,id=net0${FORWARD:+,hostfwd=tcp:127.0.0.1:${FORWARD%:*}-:${FORWARD#*:}}" "$@" ;;
tap:?*) set -- -netdev "tap,id=net0,ifname=${NET#tap:},script=no,downscript=no" "$@" ;;
none) ;;
*) fail 2 "NET=$NET: must be user, none or tap:IFNAME" ;;
esac
if [ "${NET:-user}" = none ]; then
	set -- -nic none "$@"
else
	set -- -device "virtio-net-pci,netdev=net0,mac=$(mac),romfile=" "$@"
fi

case ${DISK:-virtio} in
virtio) set -- -device virtio-blk-pci,drive=disk0,bootindex=0 "$@" ;;
usb) set -- -device qemu-xhci -device usb-storage,id=stick,drive=disk0,bootindex=0,removable=on "$@" ;;
none) ;;
*) fail 2 "DISK=$DISK: must be virtio, usb or none" ;;
esac

# -no-reboot ends QEMU at a reset, but not at a kexec
set -- "$qemu" -name "phase-$$" -machine "$type" -m "${MEM:-1024}" -smp "${CPUS:-1}" -nographic -no-reboot \
	-drive "if=pflash,format=raw,unit=0,readonly=on,file=$code" \
	-drive "if=pflash,format=raw,unit=1,file=$vars" \
	-drive "if=none,id=disk0,format=raw,file=$image" \
	-device virtio-rng-pci "$@"
if [ "${DEADLINE:-0}" -gt 0 ]; then
	set -- timeout --foreground -k 5 "$DEADLINE" "$@"
fi
exec "$@"
