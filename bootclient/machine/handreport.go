package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// reportName is the report for the target, in archiveDir and runDir.
	reportName = "report.json"
	// clockFile is where PID 1 writes the result of the step "clock", for the report.
	clockFile = "/run/phase-boot.clock"
	// longestJump is the longest believable time between the hand-over and the start of the next kernel.
	longestJump = time.Hour
)

// A jsonStep is a step in the JSON form of a report.
type jsonStep struct {
	Name  string `json:"name"`
	At    int64  `json:"at_ms"`
	Took  int64  `json:"took_ms"`
	Words string `json:"words,omitempty"`
}

// A jsonClock is the clock of the machine at the hand-over.
type jsonClock struct {
	At    time.Time `json:"at"`
	Words string    `json:"words,omitempty"` // result of the step "clock"
}

// handOver returns the files for the target that are made at Commit: the report, the mode, settings and,
// unless the mode is private, the network, the signed host name and where to report the boot.
func (b *boot) handOver(r manifest.Release, reportJSON []byte) []handedFile {
	b.payload.handed = "nothing of the network"
	var files []handedFile
	private := b.config.Mode.RandomMAC
	switch {
	case len(b.payload.settings.Network) > 0 && !private:
		b.payload.handed = "the signed network"
	case (b.net != nil || b.state != nil) && !private:
		state, err := b.networkState()
		if err != nil {
			b.report.Say("network: not handed over: %v; the target configures its own", err)
		} else if files = networkFiles(state, time.Now()); files != nil {
			b.payload.handed = "the addresses, routes and name servers"
		}
	}
	files = append(files, b.payload.opened...)
	if b.recordsStart(r) || b.inFirmware && r.Bless > 0 {
		files = append(files, text(startName, string(marshal(b.handedStart(r)))+"\n"))
	}
	line, err := b.cmdline(r)
	if err != nil {
		line = "" // the step kexec fails with it
	}
	words, _ := os.ReadFile(clockFile) // without it the report has the time alone
	data, err := handedReport(reportJSON, line, b.payload.Size(), jsonClock{time.Now().UTC(), strings.TrimSpace(string(words))}, b.elapsed())
	if err != nil {
		data = reportJSON
	}
	files = slices.Concat(files, modeFiles(b.config.Mode), b.reportingFile(), b.nextFile())
	return append(files, handedFile{reportName, 0o644, data})
}

// networkState returns the network for the target.
func (b *boot) networkState() (network.State, error) {
	if b.state != nil {
		return *b.state, nil
	}
	return b.net.State()
}

// elapsed returns the time since the start of this boot, or of the switch.
func (b *boot) elapsed() time.Duration {
	if b.began.IsZero() {
		return uptime()
	}
	return time.Since(b.began)
}

// handedReport adds to a report what comes after it is sealed: the step kexec with the command line, and
// the clock. The step's duration is known to the target only.
func handedReport(reportJSON []byte, cmdline string, size int64, clock jsonClock, at time.Duration) ([]byte, error) {
	var all map[string]json.RawMessage
	var steps []json.RawMessage
	if err := json.Unmarshal(reportJSON, &all); err != nil {
		return nil, err
	}
	if raw, ok := all["steps"]; ok {
		if err := json.Unmarshal(raw, &steps); err != nil {
			return nil, err
		}
	}
	kexec := jsonStep{Name: "kexec", At: at.Milliseconds(), Words: fmt.Sprintf("%s, command line: %s", report.Bytes(size), cmdline)}
	for name, value := range map[string]any{"steps": append(steps, marshal(kexec)), "clock": clock, "command_line": cmdline} {
		all[name] = marshal(value)
	}
	return json.Marshal(all)
}

// marshal returns the JSON form of plain data.
func marshal(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null") // cannot happen
	}
	return data
}

// finishReport adds to the report of the boot how long the step kexec took, and the steps of the target.
func finishReport(path string, target *report.Report, now time.Time, up time.Duration) error {
	data, err := file.Read(path, file.NoFollow, maxHanded)
	if err != nil {
		return err
	}
	targetJSON, err := json.Marshal(target)
	if err == nil {
		data, err = finishedReport(data, targetJSON, now.Add(-up))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return os.WriteFile(path, data, 0o644)
}

// finishedReport combines the reports of the boot and of the target. started is when the target's kernel
// started; the clocks of the two kernels may differ, and then the duration of the jump is left out.
func finishedReport(boot, target []byte, started time.Time) ([]byte, error) {
	var all, next map[string]json.RawMessage
	if err := json.Unmarshal(boot, &all); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(target, &next); err != nil {
		return nil, err
	}
	var clock jsonClock
	var steps []map[string]json.RawMessage
	if json.Unmarshal(all["clock"], &clock) == nil && json.Unmarshal(all["steps"], &steps) == nil && len(steps) > 0 {
		if took := started.Sub(clock.At); took > 0 && took < longestJump {
			steps[len(steps)-1]["took_ms"] = marshal(took.Milliseconds())
			all["steps"] = marshal(steps)
		}
	}
	all["target"] = marshal(map[string]any{"start": started.UTC(), "steps": next["steps"]})
	return json.Marshal(all)
}
