package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
)

const (
	shortID    = 12 // digits of an ID in a table
	atOnce     = 64 // machines that are asked at the same time
	watchEvery = time.Second
)

// inParallel calls do for 0 to n-1, some at the same time.
func inParallel(n int, do func(i int)) {
	var tasks sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		tasks.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	tasks.Wait()
}

// note prints a message that is no result.
func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "plasmd: "+format+"\n", args...)
}

// A table is rows of text under a head, in columns.
type table struct {
	text strings.Builder
	rows *tabwriter.Writer
}

func newTable(head ...string) *table {
	t := &table{}
	t.rows = tabwriter.NewWriter(&t.text, 0, 0, 2, ' ', 0)
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) {
	fmt.Fprintln(t.rows, strings.Join(cells, "\t"))
}

func (t *table) String() string {
	t.rows.Flush() // to a Builder, which takes everything
	lines := strings.Split(t.text.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// ending describes how a job ended: "exit 0", or the reason. It is "-" before the end.
func ending(j api.Job) string {
	switch {
	case j.State != api.StateDone:
		return "-"
	case j.Reason == plasm.ReasonExit:
		return fmt.Sprintf("exit %d", j.ExitCode)
	}
	return j.Reason
}

// age formats the time since a date, coarsely.
func age(since, now time.Time) string {
	d := max(0, now.Sub(since))
	switch {
	case since.IsZero():
		return "-"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// took formats how long a job has run.
func took(j api.Job, now time.Time) string {
	end := j.Ended
	if end.IsZero() {
		end = now
	}
	if j.Started.IsZero() {
		return "-"
	}
	return max(0, end.Sub(j.Started)).Round(time.Millisecond).String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// failures prints an error for each machine that failed, and returns one that counts them and has the greatest exit
// code of them. The error of a single machine is returned as it is.
func failures(errs []error) error {
	failed, worst := 0, 0
	for _, err := range errs {
		if err != nil {
			failed++
			worst = max(worst, cli.Code(err))
		}
	}
	if failed == 0 || len(errs) == 1 {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		if err != nil {
			note("%s", cli.Message(err))
		}
	}
	return cli.Exitf(int64(worst), "%d of %d machines failed; the lines above name them", failed, len(errs))
}

// terminalSize returns the size of stdout, and false if it is no terminal.
func terminalSize() (width, height int, ok bool) {
	fd := int(os.Stdout.Fd())
	if !term.IsTerminal(fd) {
		return 0, 0, false
	}
	width, height, err := term.GetSize(fd)
	return width, height, err == nil && width > 0 && height > 0
}

// draw replaces what a terminal shows.
func draw(w io.Writer, text string, width, height int) error {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = lines[:min(len(lines), height-1)]
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width {
			lines[i] = string(runes[:width])
		}
	}
	_, err := io.WriteString(w, "\x1b[H\x1b[2J"+strings.Join(lines, "\r\n")+"\r\n")
	return err
}
