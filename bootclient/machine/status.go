package machine

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/file"
)

// lastReport is the part of the last attempt's report that phase-boot status prints.
type lastReport struct {
	Steps []struct {
		Name, Words, Error string
		At                 int64 `json:"at_ms"`
	}
	Sources []report.SourceStats
	Refused []report.Refusal
}

// Status is `phase-boot status` in the shell after a failed boot. It prints clock, memory and
// network interfaces of the machine, the steps and sources of the last attempt, and why it failed.
func Status(w io.Writer) error {
	return status(w, reportFile, reasonFile)
}

func status(w io.Writer, reportPath, reasonPath string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "clock    %s\n", time.Now().UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "memory   %s, %s free\n", report.Bytes(meminfo("MemTotal")), report.Bytes(meminfo("MemAvailable")))
	for _, line := range interfaceLines() {
		fmt.Fprintf(&b, "network  %s\n", line)
	}
	b.WriteString(reportText(reportPath))
	if text, err := os.ReadFile(reasonPath); err == nil {
		b.Write(text)
	} else {
		b.WriteString("no attempt has failed\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Network is `phase-boot network` in the shell and in the menu after a failed boot. It prints the
// interfaces with their addresses, the routes and the name servers.
func Network(w io.Writer) error {
	var b strings.Builder
	for _, line := range interfaceLines() {
		fmt.Fprintf(&b, "network  %s\n", line)
	}
	for _, line := range routeLines() {
		fmt.Fprintf(&b, "route    %s\n", line)
	}
	if data, err := file.Read("/etc/resolv.conf", 0, maxResolv); err == nil {
		for line := range strings.Lines(string(data)) {
			fmt.Fprintf(&b, "dns      %s\n", report.Printable(strings.TrimSpace(line)))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxResolv limits what is read of resolv.conf, in bytes.
const maxResolv = 4 << 10

// routeLines describes the routes of the main table that lead to other networks.
func routeLines() []string {
	list, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return []string{err.Error()}
	}
	var lines []string
	for _, r := range list {
		if r.Gw == nil {
			continue
		}
		name := strconv.Itoa(r.LinkIndex)
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			name = link.Attrs().Name
		}
		to := "default"
		if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" && r.Dst.String() != "::/0" {
			to = r.Dst.String()
		}
		lines = append(lines, fmt.Sprintf("%s via %s on %s, metric %d", to, r.Gw, name, r.Priority))
	}
	if len(lines) == 0 {
		return []string{"none to other networks"}
	}
	return lines
}

// interfaceLines describes each network interface except loopback.
func interfaceLines() []string {
	list, err := net.Interfaces()
	if err != nil {
		return []string{err.Error()}
	}
	var lines []string
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
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return []string{"no network card"}
	}
	return lines
}

// reportText formats the steps, sources and refusals of a report, one a line.
func reportText(file string) string {
	var r lastReport
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &r) != nil {
		return ""
	}
	var b strings.Builder
	for _, s := range r.Steps {
		summary := s.Words
		if s.Error != "" {
			summary = "failed: " + s.Error
		}
		fmt.Fprintf(&b, "[%7.3fs] %s: %s\n", float64(s.At)/1000, report.Printable(s.Name), report.Printable(summary))
	}
	for _, s := range r.Sources {
		fmt.Fprintf(&b, "source   %s\n", report.Printable(s.String()))
		for _, f := range s.Faults {
			fmt.Fprintf(&b, "         fault: %s\n", report.Printable(f))
		}
	}
	for _, f := range r.Refused {
		fmt.Fprintf(&b, "refused  %s from %s: %s\n", report.Printable(f.What), report.Printable(f.Source), report.Printable(f.Why))
	}
	return b.String()
}
