// Package network configures the wired network of a machine that boots.
//
// It owns addresses, routes and name servers, from the first link to the hand-over: DHCPv4,
// DHCPv6, IPv6 router advertisements with their name servers (RDNSS), static addresses, IPv4
// link-local addresses, VLANs and bonds. docs/NETWORK.md says what is tried, in which order and
// when. Only bootclient/machine calls it, in the child process of PID 1: it parses what any host on
// the link may send.
//
// Start at Start: it begins everything and returns. Wait returns at the first address, or says what
// was tried on each port; everything goes on until the context ends. State has the addresses,
// routes, name servers and leases for the target. Leave gives the leases back.
//
// One goroutine (Network.loop) owns all state. It follows the kernel's links (link.go) and addresses
// (address.go). The tasks of a port run while the port has a link and send their results to it:
// DHCPv4 (dhcp4.go; its messages in exchange4.go, the check of an answer in lease4.go), DHCPv6
// (dhcp6.go) and link-local addresses (linklocal.go). plan.go decides what a port tries; paths.go
// chooses the port of the default route.
//
// It refuses addresses that no host may have, and whatever a lease says about anything but the
// network: the mirror that DHCP option 224 may name is a hint like any other.
//
// Limits: Ethernet, VLANs and bonds, no wireless; 32 routes of a lease; 3 name servers in
// resolv.conf; no check whether another machine has the address of a lease.
package network
