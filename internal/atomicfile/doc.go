// Package atomicfile writes a file so that its final name shows either the old content or the
// whole new content, also after a power cut. Every command uses it for files that others read:
// metadata, keys, receipts, state.
//
// It refuses to replace devices, pipes and folders. It does not lock: of two writers the last
// rename wins. Start at Write; Create is for a file that must not exist yet.
//
// Limits: it syncs the file and the folder, two waits for the disk; the directory needs room for
// both versions.
package atomicfile
