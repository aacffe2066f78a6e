// Package window reads maintenance windows: the times of the week at which a machine may fetch the next release.
//
// Start at Parse. bootclient/machine and cmd/phase-boot use it for `phase-boot watch --window`, and bootargs checks
// phase.watch= with it. A window is made of days and times of the wall clock, in the machine's own time zone unless it ends with
// UTC. It has no dates and no seconds; an OnCalendar= of systemd names moments, not spans of time.
package window
