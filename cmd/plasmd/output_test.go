package main

import (
	"bytes"
	"testing"
)

// What a machine sends as output moves no cursor, also if a character is cut off between two writes.
func TestOutputOnATerminalHasNoControlCharacters(t *testing.T) {
	const from, want = "a\x1b[2J\tb\r\n" + "\u009b2J \x9b2J caf\u00e9 \u202e\u65e5\u672c \xff \U0001f600\n", "a?[2J\tb?\n" + "?2J ?2J caf\u00e9 ?\u65e5\u672c ? \U0001f600\n"
	for size := 1; size <= len(from); size++ {
		var out bytes.Buffer
		p := &plain{to: &out}
		for rest := []byte(from); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			part := rest[:min(size, len(rest))]
			if n, err := p.Write(part); n != len(part) || err != nil {
				t.Fatalf("%d of %d, %v", n, len(part), err)
			}
		}
		if out.String() != want {
			t.Errorf("%d bytes at a time: %q, want %q", size, out.String(), want)
		}
	}
}
