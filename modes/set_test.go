package modes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lab is the file of a mode that is not shipped.
func lab(name string) []byte {
	return fmt.Appendf(nil, `{"name":%q,"title":"Lab","discovery":["mdns"],"cache":"ro","identity":"ephemeral","announce":true,"proxy":"","stale":"refuse","random_mac":false}`, name)
}

func TestAFileAddsAMode(t *testing.T) {
	set, err := Set{}.Add("some/where/lab.json", lab("lab"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := set.Load("lab"); err != nil || m.Cache != "ro" {
		t.Errorf("%+v, %v", m, err)
	}
	if want := []string{"internet", "edge", "lab", "local", "private", "tor"}; !slices.Equal(set.Names(), want) {
		t.Errorf("names %v, want %v", set.Names(), want)
	}
	if own := set.Own(); !slices.Equal(own, []string{"lab"}) {
		t.Errorf("own %v", own)
	}
	if _, err := Load("lab"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the shipped modes have changed: %v", err)
	}
	if again, err := set.Add("lab.json", lab("lab")); err != nil || len(again.Own()) != 1 {
		t.Errorf("the same file again: %v, %v", again.Own(), err)
	}
}

func TestAModeIsNotAddedOverAnother(t *testing.T) {
	private, _ := Shipped("private")
	if set, err := (Set{}).Add("private.json", private); err != nil || len(set.Own()) > 0 {
		t.Errorf("the shipped file: %v, %v", set.Own(), err)
	}
	set, err := Set{}.Add("lab.json", lab("lab"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"private.json": bytes.Replace(private, []byte(`"announce": false`), []byte(`"announce": true`), 1),
		"lab.json":     append(lab("lab"), '\n'),
		"other.json":   lab("lab"),
		"lab":          lab("lab"),
		"lab.JSON":     lab("lab"),
		"../lab?.json": lab("lab?"),
		"empty.json":   nil,
		"long.json":    append(lab("long"), bytes.Repeat([]byte{' '}, MaxFile)...),
	} {
		taken := name == "private.json" || name == "lab.json"
		if _, err := set.Add(name, data); err == nil || errors.Is(err, ErrMalformed) == taken {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range MaxModes {
		if set, err = set.Add(fmt.Sprintf("m%d.json", i), lab(fmt.Sprintf("m%d", i))); err != nil {
			break
		}
	}
	if len(set.Names()) != MaxModes || !errors.Is(err, ErrMalformed) {
		t.Errorf("%d modes, %v", len(set.Names()), err)
	}
}

func TestTheFilesOfAFolderCountBeforeTheShippedModes(t *testing.T) {
	dir := t.TempDir()
	if set, err := ReadDir(filepath.Join(dir, "missing")); err != nil || !slices.Equal(set.Names(), Names()) {
		t.Errorf("no folder: %v, %v", set.Names(), err)
	}
	for name, data := range map[string][]byte{"lab.json": lab("lab"), "private.json": lab("private"), "bad.json": []byte("{}")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := set.Load("private"); err != nil || m.Title != "Lab" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := set.Load("bad"); !errors.Is(err, ErrMalformed) {
		t.Errorf("malformed file: %v", err)
	}
	if list := set.Available(false); slices.Contains(list, "bad") || !slices.Contains(list, "lab") || !slices.Contains(list, "local") {
		t.Errorf("available: %v", list)
	}
}

func TestAFolderWithOtherFilesIsRefused(t *testing.T) {
	for name, make := range map[string]func(dir string) error{
		"a folder":        func(dir string) error { return os.Mkdir(filepath.Join(dir, "x.json"), 0o700) },
		"a symbolic link": func(dir string) error { return os.Symlink("/dev/null", filepath.Join(dir, "x.json")) },
		"a large file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "x.json"), bytes.Repeat([]byte{' '}, MaxFile+1), 0o600)
		},
		"many files": func(dir string) (err error) {
			for i := range MaxModes + 1 {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprintf("m%d.json", i)), nil, 0o600))
			}
			return err
		},
	} {
		dir := t.TempDir()
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		if set, err := ReadDir(dir); err == nil || !slices.Equal(set.Names(), Names()) {
			t.Errorf("%s: %v, %v", name, set.Names(), err)
		}
	}
}

func TestKeysAreWrittenOnceAndExactly(t *testing.T) {
	good := string(lab("lab"))
	for name, change := range map[string][2]string{
		"repeated":   {`"cache":"ro"`, `"cache":"ro","cache":"off"`},
		"upper case": {`"cache"`, `"Cache"`},
		"null":       {`"random_mac":false`, `"random_mac":null`},
		"a list":     {good, `["lab"]`},
		"new line":   {`"Lab"`, `"Lab\noptions init=/bin/sh"`},
		"quotes":     {`"Lab"`, `"\"Lab\""`},
		"long title": {`"Lab"`, `"` + strings.Repeat("x", maxTitle+1) + `"`},
		"a space":    {`"Lab"`, `"Lab "`},
		"proxy":      {`"proxy":""`, `"proxy":"proxy.example"`},
	} {
		if _, err := ParseFile("lab.json", []byte(strings.Replace(good, change[0], change[1], 1))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
