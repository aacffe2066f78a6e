package main

import (
	"os"
	"path/filepath"
	"testing"
)

// By hand, the notice is that of the service where it has run: the files of /run are links to it.
func TestTheNoticeIsThatOfTheService(t *testing.T) {
	run := t.TempDir()
	if got := noticeFolder(run); got != run {
		t.Errorf("without the service: %s", got)
	}
	dir := filepath.Join(run, "phase-watch")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := noticeFolder(run); got != dir {
		t.Errorf("with it: %s", got)
	}
}
