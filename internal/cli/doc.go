// Package cli is what the commands share: the run of a cobra command with signals and exit
// codes, errors as one line of text or JSON, results as text or JSON, progress, flag values,
// input files, man pages.
//
// It is the only place that maps errors to exit codes (Code). It has no logic of any command, and
// packages below cmd must not import it: they return errors that Code recognizes.
//
// Every main calls Main with its root command. Commands use Usagef, Print, ReadInput, Progress,
// DurationVar and Size. Start at Main. phase-boot, which has no cobra, uses Report, Code,
// Interruptible and StdFlag.
//
// Limits: the text of library errors is matched by patterns (libtext.go), which a new version
// of Go, pflag or cobra can break; the tests of this package notice.
package cli
