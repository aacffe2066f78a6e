// Package bootreport defines the document in which a machine tells a publisher how it has booted: a boot report,
// signed by the key of the machine. The boot client makes it and package publisher/reports keeps it.
//
// Start at [Sign] for a new document, at [Open] for one that was received, at [Document.Summary] for the
// few fields that a list shows, and at [Document.Detail] for the others. docs/FORMATS.md has the format.
//
// It refuses a document without a valid signature of the key that it names, and every form of it but the canonical
// one, in which all text is printable ASCII. It does not know which machines are trusted.
//
// Limits: [MaxDocument] bytes as sent, the texts of a Document as the constants say.
package bootreport
