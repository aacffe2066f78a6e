package machine

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSavedReportsAreBounded(t *testing.T) {
	cache := t.TempDir()
	if err := os.Symlink("/etc", filepath.Join(cache, savedDir)); err != nil { // by an attacker
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for i := range maxReports + 5 {
		name, err := saveReports(cache, at.Add(time.Duration(i)*time.Second), []byte("{}"), []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(cache, name)); err != nil || string(data) != "text" {
			t.Fatalf("%s: %q, %v", name, data, err)
		}
	}
	names, err := filepath.Glob(filepath.Join(cache, savedDir, "*"))
	if err != nil || len(names) != 2*maxReports || filepath.Base(names[0]) != "report-20261129-120005.json" {
		t.Errorf("%d files, the first is %s, %v", len(names), names[0], err)
	}
}
