// Package e2e holds the tests that run the whole path: real Debian kernels and root
// filesystems, real publishers in network namespaces, real machines in QEMU under UEFI.
//
// Its tests need no rights of their own: the test binary prepares what needs the outside
// network, then runs itself once more inside fresh mount, network and process namespaces
// (a user namespace too, for an ordinary user). Everything that a test starts ends with
// them. Start at main_test.go; a machine is in vm_test.go, its network in lan_test.go.
package e2e
