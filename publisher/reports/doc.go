// Package reports keeps the boot reports that machines send to a publisher, in a SQLite database.
//
// Start at [Open]. [Store.Handler] takes documents over HTTP, [Store.Add] takes one; [Store.List], [Store.Get] and
// [Store.Watch] are for pages and commands, [Store.Accept] and [Store.Forget] are the decisions of an operator.
// docs/OPERATING.md says how it is used.
//
// Anybody can make a key and sign a report with it. So a key is unverified until an operator accepts it, and the two
// kinds have rooms of their own in the database: unverified keys can never displace a report of an accepted one. In the
// small room of the unverified ones, the address that has sent most keys loses first, so that a flood from a few
// addresses displaces its own reports.
//
// It trusts nothing that a report says, and decides nothing by it. Every text of a report that it returns in a
// Machine or a Boot is printable; the document itself is returned as it was sent.
//
// Limits: those of [Limits]; a database has at most twice the bytes of both rooms. Several processes may open the
// same database.
package reports
