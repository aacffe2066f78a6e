// Package outbox sends the boot reports of a machine to a publisher, and keeps those that could not be delivered for the
// next boot.
//
// Start at [Box], a folder of documents, and at [Sender], which knows the addresses of publishers. bootclient/machine
// uses both; which addresses there are comes from the sources of the boot. The documents are signed already: the package
// does not look into them.
//
// It decides nothing: what is reported, and whether, is the boot mode's. A folder on the cache partition may have been
// written by an attacker: only regular files are read, and no more than the limits.
//
// Limits: 16 documents and 4 MiB in a box, 16 named and 16 heard addresses of a Sender.
package outbox
