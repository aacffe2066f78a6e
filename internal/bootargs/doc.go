// Package bootargs reads the phase.* words of a kernel command line: the boot mode, the
// channel, the rights to the cache partition, and the hints that name sources. The machine
// reads its own command line with Parse, which never fails: a mistake there must not stop a
// boot. The image builder judges the words that it is told to add with Check, which refuses
// every word that the machine would pass over. Start at Parse.
//
// A hint never widens trust: root.json alone decides what a machine runs.
package bootargs
