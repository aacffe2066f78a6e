package machine

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/outbox"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/modes"
)

const (
	pendingDir = savedDir + "/pending" // of the cache: boot reports that were not delivered
	// pendingHere has them on a machine without a writable cache, until it restarts.
	pendingHere = "/run/phase-boot.reports"
	// reportingName is the file of the hand-over with which the target reports its boot. Without it the target sends
	// nothing.
	reportingName = "reporting.json"
	maxReporting  = 64 << 10 // bytes
)

// A reporting is what the target needs to report the boot, in addition to the report and the machine key.
type reporting struct {
	Recipient string   `json:"age_recipient,omitempty"` // for secrets that only this machine can open
	To        []string `json:"to"`                      // named addresses of peers.Receivers
	Heard     []string `json:"heard,omitempty"`         // the others
	BootID    string   `json:"boot_id"`                 // as the boot has reported it
	Ephemeral bool     `json:"ephemeral,omitempty"`
	MachineID string   `json:"machine_id,omitempty"`
	Arch      string   `json:"arch"`
	Groups    []string `json:"groups,omitempty"`
	Hostname  string   `json:"hostname,omitempty"` // of the signed settings
}

// newBootID returns the ID of an attempt, 32 hex digits.
func newBootID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// reports reports whether the machine reports this boot: the mode says so, it may use a cache, and no proxy hides the
// machine.
func (b *boot) reports() bool {
	mode := b.config.Mode // with phase.cache=
	return mode.Report == modes.ReportPublisher && mode.Cache != "off" && mode.Proxy == "" && b.config.Proxy == nil && !mode.RandomMAC
}

// reporting returns what identifies this boot to a publisher.
func (b *boot) reporting() reporting {
	groups, hostname := b.config.Machine.Groups, ""
	if b.payload != nil && b.payload.settings.Number > 0 { // with those of the command line
		groups, hostname = b.payload.settings.Groups, b.payload.settings.Hostname
	}
	recipient := ""
	if b.age != nil {
		recipient = b.age.Recipient().String()
	}
	return reporting{
		Recipient: recipient,
		To:        b.receivers.Named, Heard: b.receivers.Heard, BootID: b.bootID, Ephemeral: b.newKey, MachineID: b.config.Machine.ID, Arch: b.config.Arch, Groups: groups, Hostname: hostname,
	}
}

// document returns the signed boot report as it is now. console is nil for a boot that did not fail.
func (r reporting) document(ctx context.Context, key []byte, reportJSON []byte, console []string) ([]byte, error) {
	private, err := ed25519pem.Parse(key)
	if err != nil {
		return nil, fmt.Errorf("machine key: %w", err)
	}
	var of struct {
		Tries json.RawMessage `json:"tries"`
	}
	if err := json.Unmarshal(reportJSON, &of); err != nil {
		return nil, fmt.Errorf("%s: %w", reportName, err)
	}
	return bootreport.Sign(ctx, bootreport.Document{
		Ephemeral: r.Ephemeral, MachineID: r.MachineID, Hostname: r.Hostname, Arch: r.Arch, Groups: r.Groups, Recipient: r.Recipient, Tries: of.Tries,
		Report: reportJSON, Console: console, BootID: r.BootID, SentAt: time.Now(),
	}, private)
}

// reportStep is the step that reports a boot before the jump.
func (b *boot) reportStep(ctx context.Context) (string, error) {
	if !b.reports() {
		return "none: the boot mode or a proxy forbids it", nil
	}
	return b.sendReport(ctx, nil, timing.ReportLimit)
}

// reportFailure reports a boot that has failed.
func (b *boot) reportFailure(ctx context.Context) {
	if !b.reports() || b.key == nil {
		return
	}
	words, err := b.sendReport(ctx, b.report.Tail(), timing.FailedReportLimit)
	if err != nil {
		words = err.Error()
	}
	b.report.Say("report: %s", words)
}

// sendReport sends the report of this boot and those that earlier boots could not deliver. What is not delivered is kept
// for the next boot.
func (b *boot) sendReport(ctx context.Context, console []string, limit time.Duration) (string, error) {
	data, err := json.Marshal(b.report)
	if err != nil {
		return "", err
	}
	document, err := b.reporting().document(ctx, b.key, data, console)
	if err != nil {
		return "", err
	}
	box := outbox.Box{Dir: pendingHere}
	boxes := []outbox.Box{box}
	if b.config.Cache != "" && b.config.Mode.Cache == "rw" {
		box = outbox.Box{Dir: filepath.Join(b.config.Cache, pendingDir)}
		boxes = append(boxes, box)
	}
	send, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	sender := outbox.NewSender(b.receivers.Named, b.receivers.Heard, peers.ReportHTTP(b.report), slog.New(slog.DiscardHandler))
	defer sender.Close()
	to, err := sender.Send(send, document)
	if err != nil && !errors.Is(err, cas.ErrUnreachable) {
		return "", err
	}
	if err != nil {
		if keepErr := box.Put(b.bootID, time.Now(), document); keepErr != nil {
			return "", fmt.Errorf("%w; and it is not kept: %w", err, file.FullDisk(keepErr))
		}
		return fmt.Sprintf("kept for the next boot: %v", err), nil
	}
	sent, err := sender.Deliver(send, func(err error) { b.report.Say("report: of an earlier boot, dropped: %v", err) }, boxes...)
	words := "sent to " + to
	if sent > 0 {
		words += fmt.Sprintf(", with %s of earlier boots", report.Count(sent, "report"))
	}
	if err != nil {
		words += fmt.Sprintf("; those of earlier boots are kept: %v", err)
	}
	return words, nil
}

// reportingFile returns the file with which the target reports the boot, none if the mode forbids it.
func (b *boot) reportingFile() []handedFile {
	if !b.reports() {
		return nil
	}
	return []handedFile{{reportingName, 0o600, append(marshal(b.reporting()), '\n')}}
}

// prepareReport is the step of the target that makes this program available to the unit that sends the report.
func (t *targetBoot) prepareReport(context.Context) (string, error) {
	if _, err := os.Stat(filepath.Join(runDir, reportingName)); err != nil {
		return "off", nil
	}
	return "by phase-boot report", t.bindProgram()
}

// ReportTarget is `phase-boot report` in a target: it sends the report of the boot in dir, the hand-over, and those that
// earlier boots left in a cache, and tries again until ctx ends. say gets a line for each thing that happens.
func ReportTarget(ctx context.Context, dir, cache string, say func(string)) error {
	data, err := file.Read(filepath.Join(dir, reportingName), file.NoFollow, maxReporting)
	if err != nil {
		return fmt.Errorf("the boot allows no report: %w", err)
	}
	var r reporting
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%s: %w", reportingName, err)
	}
	reportJSON, err := file.Read(filepath.Join(dir, reportName), file.NoFollow, maxHanded)
	if err != nil {
		return err
	}
	key, err := file.Read(filepath.Join(dir, keyFile), file.NoFollow, maxKeyFile)
	if err != nil {
		return err
	}
	if name, err := os.Hostname(); err == nil {
		r.Hostname = name
	}
	document, err := r.document(ctx, key, reportJSON, nil)
	if err != nil {
		return err
	}
	sender := outbox.NewSender(r.To, r.Heard, peers.ReportHTTP(report.New(time.Now(), nil)), slog.New(slog.DiscardHandler))
	defer sender.Close()
	var boxes []outbox.Box
	if cache != "" {
		boxes = append(boxes, outbox.Box{Dir: filepath.Join(cache, pendingDir)})
	}
	said := ""
	return outbox.Until(ctx, func() error {
		sender.Retry()
		to, err := sender.Send(ctx, document)
		if err != nil {
			if words := err.Error(); words != said {
				said = words
				say(cmp.Or(words, "not sent"))
			}
			return err
		}
		sent, err := sender.Deliver(ctx, func(error) {}, boxes...)
		say(fmt.Sprintf("sent to %s; %s of earlier boots", to, report.Count(sent, "report")))
		return err
	})
}
