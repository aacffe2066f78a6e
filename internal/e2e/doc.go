// Package e2e has the end-to-end tests: Debian kernels and root filesystems, the commands in
// network namespaces, and machines in QEMU under UEFI. It has no code of its own.
//
// The model: a LAN is a bridge in a network namespace with a DHCP server, a host is a
// namespace on it, a machine is QEMU on a tap. There is no delay and no loss. A test waits for
// texts on a machine's console. bootDeadline (12 minutes) is the time of a boot without KVM
// (TCG) on a busy 2-core machine with much reserve; it is not a budget.
//
// The tests need no root rights. The test binary first makes the fixtures, which needs the
// outside network, and then runs itself again in new mount, network and process namespaces
// (and a user namespace for an ordinary user). All processes of a test end with them.
//
// The build tag machine adds the rows of docs/MATRIX.md, which `make test-machine` runs (matrix_test.go),
// and the comparison of all that machines send with docs/NETWORK.md, which `make test-wire` runs (wire_machine_test.go).
//
// Start at main_test.go. A machine is in vm_test.go, its screen in screen_test.go, the
// network in lan_test.go, flipper is a hostile peer.
package e2e
