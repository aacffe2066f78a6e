package machine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

const (
	// failureFile is where the boot process writes its error for PID 1: the error on the first
	// line, then what was tried and the refused metadata and blocks, one a line.
	failureFile = "/run/phase-boot.failed"
	maxFailure  = 8 << 10 // bytes
)

// recordFailure writes the error for PID 1, what phase-boot search waits for, and the report for
// phase-boot status.
func (b *boot) recordFailure(err error) error {
	data, jsonErr := json.Marshal(b.report)
	if jsonErr == nil {
		_ = os.WriteFile(reportFile, data, 0o644)
	}
	writeWatchState(watchFile, watchState{Missing: missingHardware(b.networkErr), Failed: cmp.Or(b.failed, failedRelease(b.report.Release(), err))})
	return writeFailure(failureFile, err, b.tried(), b.report.Refused(), bootAdvice(err))
}

// maxTried is how many sources the consoles show after a failed attempt.
const maxTried = 8

// tried says how the attempt looked for a release, and what each source said.
func (b *boot) tried() []string {
	var list []string
	if b.config.Mode.Name != "" {
		list = append(list, fmt.Sprintf("tried: mode %s, channel %s, %s; network: %s", b.config.Mode.Name, b.config.Channel, b.config.Arch, cmp.Or(b.networkWords, "not yet")))
	}
	sources := b.report.Sources()
	for i, s := range sources {
		if i == maxTried {
			return append(list, fmt.Sprintf("source: %d more, see the report", len(sources)-maxTried))
		}
		list = append(list, "source: "+strings.Join(append([]string{s.String()}, s.Faults[:min(len(s.Faults), 2)]...), "; "))
	}
	return list
}

// writeFailure writes the error for PID 1, with what was tried, what was refused, and the advice.
func writeFailure(file string, reason error, tried []string, refused []report.Refusal, advice string) error {
	text := strings.ReplaceAll(reason.Error(), "\n", "; ")
	for _, line := range tried {
		if len(text)+len(line) < maxFailure/2 {
			text += "\n" + line
		}
	}
	text += refusedLines(refused, maxFailure/4)
	if advice != "" {
		text += "\nto try: " + advice
	}
	return os.WriteFile(file, []byte(text), 0o600)
}

// readFailure returns the first maxFailure bytes of the file, "" if it does not exist.
func readFailure(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFailure))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(data)), "?")
}

// refusedLines formats the metadata and blocks that were refused, one a line, as many as fit
// into limit bytes.
func refusedLines(refused []report.Refusal, limit int) string {
	lines := ""
	for _, r := range refused {
		line := fmt.Sprintf("\nrefused: %s from %s: %s", r.What, r.Source, r.Why)
		if len(lines)+len(line) > limit {
			return lines + "\nrefused: more, see `phase-boot status`"
		}
		lines += line
	}
	return lines
}

// refusedPrefix begins the summary of a failed boot.
const refusedPrefix = "phase-boot: boot refused"

// refusalText is the text that the consoles show for a failed boot: the reason, what was tried, the
// refused metadata and blocks, the advice.
func refusalText(reason error) string {
	var b strings.Builder
	first, rest, _ := strings.Cut(reason.Error(), "\n")
	fmt.Fprintf(&b, "\n%s: %s\n", refusedPrefix, report.Printable(first))
	for line := range strings.Lines(rest) {
		fmt.Fprintf(&b, "  %s\n", report.Printable(strings.TrimSpace(line)))
	}
	return b.String()
}
