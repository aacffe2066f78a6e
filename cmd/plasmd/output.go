package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm/api"
)

// jobOutput returns where the stdout and the stderr of a job are printed.
func jobOutput(cmd *cobra.Command) (stdout, stderr io.Writer) {
	if cli.JSON(cmd) {
		lines := json.NewEncoder(cmd.OutOrStdout())
		return &jsonLines{lines, api.Stdout}, &jsonLines{lines, api.Stderr}
	}
	return forTerminal(cmd.OutOrStdout()), forTerminal(cmd.ErrOrStderr())
}

// jsonLines writes output as lines of JSON.
type jsonLines struct {
	to     *json.Encoder
	stream string
}

func (l *jsonLines) Write(p []byte) (int, error) {
	return len(p), l.to.Encode(api.Line{Stream: l.stream, Data: p})
}

// forTerminal returns a writer to a file that replaces control characters by '?' if the file is a terminal: the
// machine that sends the output is not trusted.
func forTerminal(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &plain{to: w}
	}
	return w
}

// A plain writes text of which all characters print, besides newlines and tabs. It holds back a character that
// is cut off until the rest of it is there.
type plain struct {
	to   io.Writer
	held []byte
}

func (p *plain) Write(data []byte) (int, error) {
	text := append(p.held, data...)
	p.held = nil
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		switch {
		case c == utf8.RuneError && size == 1 && !utf8.FullRune(text):
			p.held = bytes.Clone(text)
			size = len(text)
		case c == utf8.RuneError && size == 1, c != '\n' && c != '\t' && !unicode.IsPrint(c):
			out = append(out, '?')
		default:
			out = append(out, text[:size]...)
		}
		text = text[size:]
	}
	if _, err := p.to.Write(out); err != nil {
		return 0, err
	}
	return len(data), nil
}

// outputs gives each attempt writers for the output of its job: of one machine the output of this command, of
// several a temporary file for each, and with --json memory.
func outputs(cmd *cobra.Command, attempts []*attempt) (closeAll func(), err error) {
	var spools []*os.File
	closeAll = func() {
		for _, f := range spools {
			f.Close()
		}
	}
	for _, a := range attempts {
		switch {
		case cli.JSON(cmd):
			a.stdout, a.stderr = &bytes.Buffer{}, &bytes.Buffer{}
		case len(attempts) == 1:
			a.stdout, a.stderr = forTerminal(cmd.OutOrStdout()), forTerminal(cmd.ErrOrStderr())
		default:
			for _, to := range []*io.Writer{&a.stdout, &a.stderr} {
				f, err := spool()
				if err != nil {
					closeAll()
					return nil, err
				}
				spools = append(spools, f)
				*to = f
			}
		}
	}
	return closeAll, nil
}

// spool returns a temporary file without a name.
func spool() (*os.File, error) {
	f, err := os.CreateTemp("", "plasmd-output-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// printOutputs prints the outputs of all machines, each line after the name of its machine. Output that is not
// what the receipt states is not printed.
func printOutputs(cmd *cobra.Command, attempts []*attempt) error {
	stdout, stderr := forTerminal(cmd.OutOrStdout()), forTerminal(cmd.ErrOrStderr())
	for _, a := range attempts {
		if errors.Is(a.err, manifest.ErrUntrusted) {
			continue
		}
		for _, o := range []struct {
			from io.Writer
			to   io.Writer
		}{{a.stdout, stdout}, {a.stderr, stderr}} {
			if err := printLines(o.to, o.from.(*os.File), a.machine.Name+" | "); err != nil {
				return err
			}
		}
	}
	return nil
}

// printLines copies a file, with a prefix before each line.
func printLines(to io.Writer, from *os.File, prefix string) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	in, out := bufio.NewReader(from), bufio.NewWriter(to)
	for open := false; ; { // a line without its end
		part, err := in.ReadSlice('\n')
		if !open && len(part) > 0 {
			out.WriteString(prefix)
		}
		out.Write(part)
		open = err != nil && (open || len(part) > 0)
		switch {
		case errors.Is(err, io.EOF):
			if open {
				out.WriteByte('\n')
			}
			return out.Flush()
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}
