// Package display shows a boot on the consoles of a machine: one line a step with its time, a line of
// progress that is rewritten in place, and, where the command line asks for it, a full-screen view with
// the steps, a bar and the sources.
//
// It is pure: it opens no terminal and reads no clock. bootclient/machine passes in what the boot process
// prints and the time, and prints what View returns.
//
// Start at Boot, which is what all consoles show, and View, which draws it on one terminal. The boot
// process sends each Event as one record of a JSON text sequence (RFC 7464); a Reader finds the records
// in its output. Everything else there, such as a stack trace, is a plain line.
//
// A boot process that a hostile peer has taken over can send any bytes. It cannot send a sequence to a
// terminal: each text is made printable and cut here, and numbers are bounded. It can only show wrong
// words.
//
// Three forms (phase.screen=): Lines is the usual one. A virtual terminal of Linux gets colours and VT100
// sequences. A serial line may end in a log file, so it gets neither: the line of progress is rewritten
// with a carriage return and spaces, and kept every 30 s, so that a log has a record. Full draws the view
// on virtual terminals that are large enough; messages and the kernel's own lines scroll below it. Plain
// rewrites nothing and has no colour.
//
// Limits: records of 4 KiB, 64 steps, 8 sources, 200 lines for the end of the view; no more than one row
// for a line that is rewritten.
package display
