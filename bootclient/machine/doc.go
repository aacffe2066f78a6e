// Package machine is phase-boot as the first process of a machine.
//
// It owns everything around the fetch of a boot: mounts, kernel modules, the clock, the
// cache partition, the memory that kexec loads, and the jump into the new kernel.
// bootclient and manifest decide what is booted and whether it is trusted. Only cmd/phase-boot
// calls it.
//
// One binary has two roles; /etc/phase/role names the role:
//
//   - boot: PID 1 is a small supervisor (supervisor.go). It mounts, starts itself again as
//     `phase-boot boot` and waits. All data from the network is parsed in that child process,
//     so a crash of a parser ends one attempt and never PID 1. When the child has loaded a
//     kernel, PID 1 jumps into it. Otherwise PID 1 prints the reason, shows a menu on every
//     console (rescue.go, package menu) and tries again later (waits.go). A second child process,
//     `phase-boot search`, searches behind the menu and ends when another attempt can succeed.
//   - target: the /init of a release's initramfs (target.go). It mounts the squashfs that the
//     boot role appended to the initramfs, puts an overlay over it, and switches root.
//
// Start at Init (PID 1, both roles) and Boot (the steps of one attempt). A boot is a table of
// named steps; each line on the console has the time since the start of the kernel.
//
// In mode tor the boot process starts Tor as a user of its own before the search, and ends it before the
// jump (tor.go). A target gets the boot mode, and in a private mode what keeps it private (private.go).
//
// The initramfs contains /init (phase-boot), /bin/busybox with its link /bin/sh,
// /etc/phase/role, and /lib/modules/VERSION with modules.dep; modules.alias and modules.builtin
// are optional. /etc/phase/modules lists modules to load at start. The boot role also needs
// /etc/phase/root.json, channel and build-time. Device nodes are not needed: the kernel's own
// initramfs has /dev/console. A link /bin/phase-boot lets the shell run `phase-boot status`,
// network, save and retry.
//
// The consoles are the terminals that the kernel prints on and that exist in the machine
// (consoles.go, terminal.go). PID 1 shows both roles on all of them (package display). The boot process
// sends records of what it does; its other output is made printable. cachedisk.go
// finds, checks and formats the cache partition.
//
// The target may serve its release to other machines, where the boot mode announces. The boot
// hands over /run/phase/seed.env (the arguments of phase-boot seed); root.json is there in each mode, as
// plasmd reads it too. The target's
// initramfs puts this program at /run/phase/phase-boot and mounts the cache partition read-only
// at /run/phase/cache (handover.go). Without a writable cache partition on a fixed disk, the
// boot hands over the files that the target lacks in memory, if enough memory is free: kernel,
// initramfs, and a cache of metadata and inner nodes (seedmemory.go).
//
// The target has the network of the boot without DHCP (networkd.go, targetnet.go), the report
// (handreport.go), and confirms that it has started (start.go, bless.go). Starts without a blessing are counted in the cache
// (health.go), or in a variable of the firmware (efitries.go).
//
// It refuses to load bytes that were not hashed again after their memory was sealed, a kernel
// that is shorter than its header says or is for another architecture, and unsigned kernel
// arguments, except those of one list (cmdline.go). It writes to a block device
// only if the mode allows a writable cache (useCache in cachedisk.go).
//
// Limits: x86-64 and arm64 EFI kernels that kexec_file_load accepts, on arm64 also through kexec_load
// (package kexecload); artifacts under 4 GiB; memory for three times the payload, because
// kexec_file_load copies it twice, plus the room in which the kernel unpacks itself; the target's first
// root is a tmpfs of half the memory, which contains the squashfs.
package machine
