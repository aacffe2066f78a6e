package machine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

func TestTheErrorOfTheBootProcessReachesPID1(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failed")
	err := writeFailure(file, errors.New("release: block bafk…: corrupt\nand more"), []string{"source: mirror"}, []report.Refusal{
		{Source: "peer X", What: "block", Why: "wrong hash"},
	}, "another publisher")
	if err != nil {
		t.Fatal(err)
	}
	want := "release: block bafk…: corrupt; and more\nsource: mirror\nrefused: block from peer X: wrong hash\nto try: another publisher"
	if got := readFailure(file); got != want {
		t.Errorf("got %q", got)
	}
}

func TestALongErrorIsCut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failed")
	if err := os.WriteFile(file, bytes.Repeat([]byte{'x'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := len(readFailure(file)); got != maxFailure {
		t.Errorf("%d bytes", got)
	}
}
