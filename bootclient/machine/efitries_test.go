package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/file/filetest"
	"github.com/phaseboot/phaseboot/modes"
)

// writesOf returns how often do changes the variable in a folder.
func writesOf(t *testing.T, dir string, do func()) int {
	t.Helper()
	value := func() []byte {
		data, err := os.ReadFile(filepath.Join(dir, triesVariable))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return data
	}
	before := value()
	do()
	if bytes.Equal(before, value()) {
		return 0
	}
	return 1
}

// unprotect lets the test remove its folder.
func unprotect(t *testing.T, dir string) string {
	t.Cleanup(func() { protect(filepath.Join(dir, triesVariable), false) })
	return dir
}

// The flash memory of a firmware wears out. A content costs a write for each start without a blessing, up to a number, and
// one for the blessing. A blessed one costs none.
func TestTheVariableIsSeldomWritten(t *testing.T) {
	dir := unprotect(t, t.TempDir())
	start := func(r string, number int64) int {
		return writesOf(t, dir, func() { must(t, countStart(dir, startOf(blessingRelease(r, number), 0))) })
	}
	content := blessingRelease("7", 3).Content()
	bless := func() { must(t, blessTries(dir, content)) }
	if n := start("7", 3) + writesOf(t, dir, bless); n != 2 {
		t.Errorf("a start and its blessing: %d writes", n)
	}
	if n := start("7", 3) + writesOf(t, dir, bless); n != 0 {
		t.Errorf("a blessed release: %d writes", n)
	}
	total := 0
	for range 1000 {
		total += start("8", 4)
	}
	if total != maxCounted {
		t.Errorf("1000 starts without a blessing: %d writes", total)
	}
	h, err := readTries(dir)
	must(t, err)
	if n := h.of(blessingRelease("8", 4).Content()).Starts; n != maxCounted || !h.of(content).Blessed {
		t.Errorf("%d starts, %+v", n, h)
	}
	data, err := os.ReadFile(filepath.Join(dir, triesVariable))
	must(t, err)
	if !bytes.HasPrefix(data, []byte{7, 0, 0, 0, '['}) {
		t.Errorf("attributes and value: %q", data)
	}
}

// The variable stays small, and the newest blessed release of a channel stays in it.
func TestTheVariableIsBounded(t *testing.T) {
	dir := unprotect(t, t.TempDir())
	first := blessingRelease("7", 3)
	must(t, countStart(dir, startOf(first, 0)))
	must(t, blessTries(dir, first.Content()))
	for i := range int64(3 * maxTriesReleases) {
		r := blessingRelease(fmt.Sprint("9.", i), 1<<52+i)
		r.Channel = strings.Repeat("c", 32)
		must(t, countStart(dir, startOf(r, 0)))
	}
	h, err := readTries(dir)
	must(t, err)
	if len(h.Releases) != maxTriesReleases || !h.of(first.Content()).Blessed {
		t.Errorf("%+v", h)
	}
	if info, err := os.Stat(filepath.Join(dir, triesVariable)); err != nil || info.Size() > maxTriesVariable {
		t.Errorf("%v, %v", info, err)
	}
}

// The running system may have written the variable. One that is none begins again, and blesses nothing.
func TestAVariableThatIsNoneBeginsAgain(t *testing.T) {
	outside := filetest.Outside(t)
	for name, make := range map[string]func(path string) error{
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"no JSON": func(path string) error { return os.WriteFile(path, []byte("\a\x00\x00\x00{"), 0o600) },
		"too large": func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte{' '}, maxTriesVariable+1), 0o600)
		},
		"too many": func(path string) error {
			return os.WriteFile(path, append([]byte{7, 0, 0, 0}, marshal(make([]triedRelease, maxTriesReleases+1))...), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := unprotect(t, t.TempDir())
			must(t, make(filepath.Join(dir, triesVariable)))
			if _, err := readTries(dir); err == nil || !strings.Contains(err.Error(), "EFI variable PhaseBootTries") {
				t.Errorf("read: %v", err)
			}
			if err := blessTries(dir, "c"); err == nil {
				t.Error("it was blessed")
			}
			must(t, countStart(dir, startOf(blessingRelease("7", 3), 0)))
			if h, err := readTries(dir); err != nil || h.of(blessingRelease("7", 3).Content()).Starts != 1 {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
	dir := unprotect(t, t.TempDir())
	must(t, os.Symlink(outside, filepath.Join(dir, triesVariable)))
	must(t, countStart(dir, startOf(blessingRelease("7", 3), 0)))
	if data, err := os.ReadFile(outside); err != nil || string(data) != filetest.Content {
		t.Errorf("the file outside: %q, %v", data, err)
	}
}

// A machine without a cache says where its starts are counted, or why they are not. A mode that writes nothing does not look
// at the firmware.
func TestWhatAMachineWithoutACacheSaysAboutItsTries(t *testing.T) {
	r := blessingRelease("8", 4)
	for name, tt := range map[string]struct {
		write, firmware bool
		known           contentHealth
		says            string
	}{
		"no firmware":     {true, false, contentHealth{}, "are not counted: this boot writes to no cache partition, and the firmware has no EFI variables"},
		"nothing written": {false, false, contentHealth{}, "are not counted: this boot writes to no cache partition\n"},
		"the first start": {true, true, contentHealth{}, "the starts of release 8 are counted in the firmware, EFI variable PhaseBootTries"},
		"the third start": {true, true, contentHealth{Starts: 2}, "start 3 of release 8 without a blessing; after 3, an older one is booted, if the newest manifest carries one"},
		"blessed":         {true, true, contentHealth{Blessed: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			b := &boot{report: newReport(&said), mayWrite: tt.write, inFirmware: tt.firmware}
			b.config = bootclient.Config{Mode: modes.Mode{Cache: map[bool]string{true: "rw", false: "off"}[tt.write]}}
			tt.known.Content = r.Content()
			b.health = health{Releases: []contentHealth{tt.known}}
			b.sayTries(r)
			if got := said.String(); !strings.Contains(got, tt.says) || tt.says == "" && got != "" {
				t.Errorf("says %q", got)
			}
			if got := b.handedStart(r).Variable; got != tt.firmware {
				t.Errorf("handed over: %v", got)
			}
		})
	}
	b := &boot{report: newReport(&bytes.Buffer{}), config: bootclient.Config{Mode: modes.Mode{Cache: "off"}}}
	if b.readStarts(); b.inFirmware || b.config.Starts != nil {
		t.Error("a mode that writes nothing counts in the firmware")
	}
}
