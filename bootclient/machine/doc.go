// Package machine is phase-boot as the first process of a machine.
//
// It owns what surrounds a boot: mounts, kernel modules, the clock, the wired
// network, the cache partition, the memory that kexec loads, and the jump. What
// to boot, and whether it may be booted, is decided by bootclient and manifest.
//
// Two roles share one binary; /etc/phase/role names the one:
//
//   - boot: PID 1 is a small supervisor. It mounts, starts itself again as
//     `phase-boot boot` and waits. Everything that reads the network's bytes
//     happens in that child, so a crash of a parser costs an attempt and never
//     PID 1. When the child has loaded a kernel, PID 1 jumps into it; otherwise
//     it prints why, opens a shell on every console (shells.go) and tries again
//     afterwards. What is missing and can come (a network card, a link) is watched for by
//     another child, `phase-boot watch`.
//   - target: the /init of a release's initramfs. It mounts the squashfs that the
//     boot role appended in memory, under an overlay, and switches root.
//
// Start at Init (PID 1, both roles) and Child (the steps of a boot). A boot is a
// table of named steps; each line on the console carries the time since the
// kernel started.
//
// The initramfs carries /init (phase-boot), /bin/busybox with its link /bin/sh,
// /etc/phase/role, and /lib/modules/VERSION with modules.dep (modules.alias and
// modules.builtin are used when there); /etc/phase/modules lists what to load at
// start. The boot role also needs /etc/phase/root.json, channel and build-time.
// Device nodes are not needed: the kernel's own initramfs has /dev/console. A link
// /bin/phase-boot gives the shell `phase-boot status` and `phase-boot retry`.
//
// Consoles are all terminals on which the kernel prints and that are in the machine
// (consoles.go, terminal.go); PID 1 prints on each what the roles say.
//
// A release may be served on by its target: where the mode announces, the boot hands over
// /run/phase/seed.env (the arguments of phase-boot seed) and root.json, and the target's
// initramfs leaves this program at /run/phase/phase-boot and mounts the cache partition
// read-only at /run/phase/cache. Where the boot has no partition that it may write and that
// stays in the machine, it hands over in memory what the target lacks (kernel, initramfs,
// and a cache of metadata and inner nodes; stock.go), if there is room to spare; the
// target's initramfs puts its squashfs beside that.
//
// It refuses to load bytes that were not hashed again after their memory was
// sealed, a kernel that is shorter than its header says or for another architecture, and
// kernel arguments that no signature covers, except console= and panic=60. It opens no
// block device for writing unless the mode grants it a cache.
//
// Limits: x86-64 and arm64 EFI kernels as kexec_file_load takes them; DHCPv4 and
// the kernel's IPv6 autoconfiguration on wired interfaces, without its name servers;
// leases are not renewed (a boot is shorter than a lease); artifacts under 4 GiB; three
// times the payload must fit in memory, because kexec_file_load copies it twice, and the
// room that a kernel unpacks itself in; the target's first root is a tmpfs of half the
// memory, and the squashfs lies in it.
package machine
