// Package timing is the table of all pauses and time limits of a boot, each with its reason.
// It owns the numbers and has no code that waits.
//
// Start at [Usual]: the values of the rule in docs/PATIENCE.md, which is the contract and has
// their reasons. A boot has them in Config, and tests make all of them shorter. The constants
// are the other pauses and limits, ordered by the package that uses them.
//
// Every package below bootclient uses it; it imports none of them. A pause or a limit of time
// elsewhere in bootclient is a mistake, except in package machine, which has its own.
package timing
