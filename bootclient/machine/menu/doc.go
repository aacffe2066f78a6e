// Package menu is the menu of a machine whose boot failed: its entries, its keys, its countdown and
// its drawing.
//
// It is pure: it opens no terminal and reads no clock. bootclient/machine passes in the keys and the
// time, prints what View.Draw returns, and does what is chosen. One Menu is shown on all consoles; each
// console has a Keys and a View of its own.
//
// Start at Menu. A screen gets the whole menu again for each change (VT100 sequences). A serial line
// may end at a terminal or at a log file that understands no sequences, so it gets the list once and
// then one line that is overwritten with a carriage return; arrow keys work there too.
//
// Limits: ten entries can be chosen by number (0 is the tenth); texts are ASCII, except those of the caller.
package menu
