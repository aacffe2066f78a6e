// Boot measures the time of a boot in QEMU, from the start of the kernel to the first line of the
// release, beside direct boots of both kernels in the same run.
//
// The model: one network namespace with a bridge, a DHCP server, a publisher and one machine on a
// tap. There is no delay and no loss, and mode local finds the publisher by mDNS. The machine is
// that of scripts/test-qemu-x86.sh. A time is that of the host when a line arrives on the serial
// line. CPU time is that of the QEMU process: without KVM, it changes less than the time when
// other programs run.
//
// A boot starts at the line of the kernel's EFI stub, so that firmware and boot loader are not part
// of it. The direct boot of the boot kernel is the first step of each boot. The direct boot of
// the release starts its kernel with the same files and command line from the firmware.
//
// `make bench-boot` runs it; with BOOTFLAGS=-smallest it searches the smallest memory that boots each
// release. Start at main.go. Releases are in fixtures.go, machines in machine.go, the table in times.go, the
// search in memory.go.
package main
