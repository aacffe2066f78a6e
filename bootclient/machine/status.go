package machine

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// lastReport is what phase-boot status shows of the report of the last attempt.
type lastReport struct {
	Steps []struct {
		Name, Words, Error string
		At                 int64 `json:"at_ms"`
	}
	Sources []struct {
		Name, Kind, Address string
		Bytes, Blocks       int64
		Faults              []string
		Banned              bool
	}
	Refused []struct{ Source, What, Why string }
}

// Status is `phase-boot status` of the shell that follows a refused boot: the machine, its
// network, the steps and sources of the last attempt, and why it was refused.
func Status(w io.Writer) error {
	return status(w, reportFile, reasonFile)
}

func status(w io.Writer, report, reason string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "clock    %s\n", time.Now().UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "memory   %s, %s free\n", humanize.IBytes(uint64(meminfo("MemTotal"))), humanize.IBytes(uint64(meminfo("MemAvailable"))))
	for _, words := range interfaceWords() {
		fmt.Fprintf(&b, "network  %s\n", words)
	}
	b.WriteString(reportWords(report))
	if text, err := os.ReadFile(reason); err == nil {
		b.Write(text)
	} else {
		b.WriteString("no attempt was refused\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// interfaceWords says of each interface but loopback what state it is in.
func interfaceWords() []string {
	list, err := net.Interfaces()
	if err != nil {
		return []string{err.Error()}
	}
	var words []string
	for _, i := range list {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		state := "no link"
		if i.Flags&net.FlagRunning != 0 {
			state = "link up"
		}
		line := fmt.Sprintf("%s %s %s", i.Name, i.HardwareAddr, state)
		addrs, err := i.Addrs()
		for _, a := range addrs {
			line += " " + a.String()
		}
		if err != nil {
			line += " " + err.Error()
		}
		words = append(words, line)
	}
	if len(words) == 0 {
		return []string{"no network card"}
	}
	return words
}

// reportWords are the steps and the sources of a report, a line each.
func reportWords(file string) string {
	var r lastReport
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &r) != nil {
		return ""
	}
	var b strings.Builder
	for _, s := range r.Steps {
		words := s.Words
		if s.Error != "" {
			words = "failed: " + s.Error
		}
		fmt.Fprintf(&b, "[%7.3fs] %s: %s\n", float64(s.At)/1000, printable(s.Name), printable(words))
	}
	for _, s := range r.Sources {
		fmt.Fprintf(&b, "source   %s (%s): %s in %d blocks", printable(s.Name), s.Kind, humanize.IBytes(uint64(s.Bytes)), s.Blocks)
		if s.Banned {
			b.WriteString(", banned")
		}
		for _, f := range s.Faults {
			fmt.Fprintf(&b, "\n         fault: %s", printable(f))
		}
		b.WriteByte('\n')
	}
	for _, f := range r.Refused {
		fmt.Fprintf(&b, "refused  %s from %s: %s\n", printable(f.What), printable(f.Source), printable(f.Why))
	}
	return b.String()
}
