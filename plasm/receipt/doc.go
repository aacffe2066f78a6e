// Package receipt makes, reads and checks receipts: which job a machine ran, for whom, from which release, and
// how the run ended. cmd/plasmd and plasm/daemon make them, plasmd verify and plasm/client check them.
//
// A receipt is an in-toto Statement v1 about what the job wrote, in a DSSE envelope with one signature by the
// Ed25519 key of the machine, so that any tool for these formats reads it. Its payload is canonical JSON in plain
// ASCII, see internal/envelope. docs/PLASM.md defines the predicate.
//
// Start at New and Receipt.Sign for a new one, at Parse and Signed.Verify for one that was read. Signed.Line is
// the form for a console, which Parse reads too. Signed.CheckRelease compares a receipt with the release that it
// names, FindRelease finds that release in a repository by a trusted root.json.
//
// A signature says which machine states something, not that it is true: a machine can sign a receipt of a run
// that never was. For a deterministic job the caller can run the module again, see Signed.Differs.
//
// Limits: an envelope has at most MaxEnvelope bytes.
package receipt
