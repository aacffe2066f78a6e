// Package bootargs reads the phase.* arguments of a kernel command line: the boot mode, the
// channel, the rights to the cache partition, and the hints that name sources.
//
// The booting machine (bootclient/machine) reads its command line with Parse, which never fails: a
// mistake in it must not stop a boot. The image builder checks the arguments that it adds with
// Check, which refuses every argument that the machine would ignore. phase-sign warns about
// arguments of a release with Unread. bootclient uses CheckMirror and ParsePeer for its flags.
//
// Start at Parse. Limits: printable ASCII only, at most MaxRepeats values of one argument. A hint
// never extends trust: root.json alone decides what a machine runs.
package bootargs
