package machine

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// shownMessages is how many messages of the kernel KernelMessages prints: more than a screen of 25 rows,
// and short on a serial line.
const shownMessages = 40

// KernelMessages is `phase-boot dmesg` in the shell and in the menu after a failed boot. It prints the
// last messages of the kernel. The command line of the image has quiet, so that the consoles show only
// the kernel's errors.
func KernelMessages(w io.Writer) error {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return fmt.Errorf("kernel messages: %w", err)
	}
	buffer := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buffer)
	if err != nil {
		return fmt.Errorf("kernel messages: %w", err)
	}
	_, err = io.WriteString(w, lastMessages(string(buffer[:n]), shownMessages))
	return err
}

// lastMessages returns the last most messages of the kernel's log, without their levels.
func lastMessages(log string, most int) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	hidden := max(0, len(lines)-most)
	var b strings.Builder
	for _, line := range lines[hidden:] {
		if level, text, ok := strings.Cut(line, ">"); ok && strings.HasPrefix(level, "<") {
			line = text
		}
		fmt.Fprintf(&b, "kernel   %s\n", report.Printable(line))
	}
	if hidden > 0 {
		fmt.Fprintf(&b, "%s before these: see `dmesg` in the shell\n", report.Count(hidden, "message"))
	}
	return b.String()
}
