// Package file opens files safely in places that an attacker or an operator's mistake may have
// filled: the cache partition, a mirror, a path on the command line. Every reader of such a place
// uses it.
//
// It opens regular files only. It never waits for a pipe, never opens a device, and reads no more
// bytes or names than its caller allows; only OpenInput also accepts pipes. It does not know what
// the files contain. Start at Open and ReadInput; filetest has the hostile kinds of files for the
// tests of callers.
//
// Limits: reading a regular file can still block if the disk does.
package file
