// Package watch is the daemon of a running target that learns of the release after the running one, and fetches it ahead.
//
// Start at [Watcher.Run]. One round is bootclient.FetchAhead: the same search, rules and checks as in a boot. When the next
// release is whole in the cache and was verified there, the Watcher writes reboot-required and reboot-required.pkgs in a
// folder, as Debian's tools expect them in /run, and its status beside them.
//
// It trusts nothing that a boot does not trust. It starts no release: a person does that with `phase-boot switch`, or by a
// restart. package machine makes the configuration from what the boot handed over; cmd/phase-boot calls it.
//
// Limits: it learns of a release only when it looks, each Every; it serves nothing, as phase-boot seed serves the
// cache; it fetches only all of a release or nothing, if the cache has no room.
package watch
