package docs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
	"github.com/phaseboot/phaseboot/manifest"
)

// people are the machines of KEYS.md.
var people = []string{"ann", "bob", "cho", "dan", "hub"}

// An entry is one section of KEYS.md. Each of its shell blocks has a list of the machines
// that run it.
type entry struct {
	title  string
	blocks []block
}

type block struct {
	at     []string
	script string
}

var (
	fence       = regexp.MustCompile("(?s)```sh\n(.*?)```")
	machineName = regexp.MustCompile(`at (\w+)`)
)

func entries(t *testing.T) []entry {
	t.Helper()
	text, err := os.ReadFile("KEYS.md")
	if err != nil {
		t.Fatal(err)
	}
	var list []entry
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		e := entry{title: title}
		for _, m := range fence.FindAllStringSubmatch(body, -1) {
			head, _, _ := strings.Cut(m[1], "\n")
			b := block{script: m[1]}
			for _, at := range machineName.FindAllStringSubmatch(head, -1) {
				b.at = append(b.at, at[1])
			}
			if len(b.at) == 0 {
				t.Fatalf("%s: a block without a machine ('# at NAME'):\n%s", title, m[1])
			}
			e.blocks = append(e.blocks, b)
		}
		list = append(list, e)
	}
	return list
}

// run runs the blocks of an entry; each machine is a folder below dir.
func (e entry) run(t *testing.T, dir, bin string) {
	t.Helper()
	for _, b := range e.blocks {
		for _, name := range b.at {
			cmd := exec.Command("sh", "-eu", "-c", b.script)
			cmd.Dir = filepath.Join(dir, name)
			cmd.Env = append(os.Environ(), "ME="+name, "STICK="+filepath.Join(dir, "stick"),
				"PHASE_KEY_PASSPHRASE=the phrase of "+name, "PATH="+bin+":"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s, at %s: %v\n%s\n%s", e.title, name, err, b.script, out)
			}
		}
	}
}

// binDir is the folder of the commands, which TestMain removes.
var binDir string

func TestMain(m *testing.M) {
	var err error
	if binDir, err = os.MkdirTemp("", "phase-docs-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(binDir)
	os.Exit(code)
}

// makeBinaries makes the commands, once for all tests.
var makeBinaries = sync.OnceValue(func() error {
	if out, err := exec.Command("make", "-s", "-C", "..", "BIN="+binDir, "binaries").CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
})

// build returns the folder of the commands.
func build(t *testing.T) string {
	t.Helper()
	check(t, makeBinaries())
	return binDir
}

// firstTime runs the first entry in a new folder, after edit has changed each block.
func firstTime(t *testing.T, bin string, e entry, edit func(script string) string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range append(people, "stick") {
		check(t, os.MkdirAll(filepath.Join(dir, name, "build"), 0o755))
		for file, data := range map[string][]byte{"kernel": bootfiletest.Kernel("x86_64", ""), "initramfs": bootfiletest.Initramfs("")} {
			check(t, os.WriteFile(filepath.Join(dir, name, "build", file), data, 0o600))
		}
	}
	edited := entry{title: e.title}
	for _, b := range e.blocks {
		edited.blocks = append(edited.blocks, block{b.at, edit(b.script)})
	}
	edited.run(t, dir, bin)
	return dir
}

// short gives the first signatures a lifetime of 90 s. To the programs this looks like a
// repository that nobody signed for a year.
func short(script string) string {
	script = strings.ReplaceAll(script, "phase-sign init ", "phase-sign init --root-expires 90s --targets-expires 90s ")
	return strings.ReplaceAll(script, "phase-sign release ", "phase-sign release --expires 90s ")
}

// The machine has a root from before the entry, and has booted before it. After the entry it
// accepts the publisher's new metadata and refuses the old ones.
func TestEveryEntryOfTheRunbookWorksAsItStands(t *testing.T) {
	all, bin := entries(t), build(t)
	if len(all) < 7 {
		t.Fatalf("KEYS.md has %d entries", len(all))
	}
	if !testing.Short() {
		at := slices.IndexFunc(all, func(e entry) bool { return e.title == expired })
		defer expire(t, bin, all[0])(all[at]) // while it expires, the others run
		all = slices.Delete(all, at, at+1)
	} else {
		all = all[:2] // a sample: the commands take a second each
	}
	base := firstTime(t, bin, all[0], func(script string) string { return script })
	for _, e := range all[1:] {
		t.Run(strings.ReplaceAll(e.title, " ", "_"), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "w")
			check(t, exec.Command("cp", "-r", base, dir).Run())
			m := newMachine(t, dir)
			before := m.boots("before, with honest metadata")
			old := filepath.Join(t.TempDir(), "repo")
			check(t, exec.Command("cp", "-r", m.repo, old).Run())

			e.run(t, dir, bin)
			after := m.boots("after")
			if after.TimestampVersion() == before.TimestampVersion() {
				if after.RootVersion() <= before.RootVersion() {
					t.Error("nothing has changed")
				}
				return // a daemon would sign the timestamp of a changed root again
			}
			if _, err := m.boot(old); !errors.Is(err, manifest.ErrUntrusted) {
				t.Errorf("the old metadata: %v", err)
			}
		})
	}
}

const expired = "Everything has expired"

// expire creates a repository that expires soon. The function that it returns waits for
// that and then runs an entry.
func expire(t *testing.T, bin string, first entry) func(entry) {
	dir := firstTime(t, bin, first, short)
	m := newMachine(t, dir)
	end := m.boots("before, with honest metadata").Release().Expires // the last of all dates
	return func(e entry) {
		t.Run(strings.ReplaceAll(e.title, " ", "_"), func(t *testing.T) {
			m.t = t
			time.Sleep(time.Until(end.Add(time.Second)))
			m.renews(e, dir, bin)
		})
	}
}

// renews checks that the machine refuses the expired metadata, runs the entry, and checks
// that the machine boots again.
func (m machine) renews(e entry, dir, bin string) {
	if _, err := m.boot(m.repo); !errors.Is(err, manifest.ErrExpired) {
		m.t.Fatalf("before: %v", err)
	}
	if _, err := manifest.LastGood(m.t.Context(), m.policy); err != nil {
		m.t.Errorf("a machine that may stay behind: %v", err)
	}
	e.run(m.t, dir, bin)
	if v := m.boots("after"); v.RootVersion() != 2 || v.Release().Version != "2" {
		m.t.Errorf("root version %d, release %s", v.RootVersion(), v.Release().Version)
	}
}

// A machine verifies the metadata of the publisher and keeps its state between boots.
type machine struct {
	t      *testing.T
	repo   string // the publisher's repository
	policy manifest.Policy
}

func newMachine(t *testing.T, dir string) machine {
	t.Helper()
	m := machine{t: t, repo: filepath.Join(dir, "hub", "repo")}
	root, err := os.ReadFile(filepath.Join(m.repo, "1.root.json"))
	check(t, err)
	state, err := manifest.OpenState(t.TempDir())
	check(t, err)
	m.policy = manifest.Policy{Root: root, Channel: "stable", Arch: "x86_64", State: state, Now: time.Now()}
	return m
}

func (m machine) boot(repo string) (*manifest.Verified, error) {
	m.policy.Now = time.Now()
	return manifest.Verify(m.t.Context(), manifest.DirFetcher(repo), m.policy)
}

func (m machine) boots(when string) *manifest.Verified {
	m.t.Helper()
	v, err := m.boot(m.repo)
	if err != nil {
		m.t.Fatal(fmt.Errorf("%s: %w", when, err))
	}
	return v
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every test that THREAT-MODEL.md names exists, and it names every TestAttack function.
func TestTheThreatModelNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("THREAT-MODEL.md")
	check(t, err)
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	check(t, filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(data, -1) {
			declared[string(m[1])] = true
		}
		return err
	}))
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllSubmatch(text, -1)
	if len(names) < 30 {
		t.Fatalf("THREAT-MODEL.md names only %d tests", len(names))
	}
	linked := map[string]bool{}
	for _, m := range names {
		linked[string(m[1])] = true
		if !declared[string(m[1])] {
			t.Errorf("%s: in the table, and in no _test.go file", m[1])
		}
	}
	for name := range declared {
		if strings.HasPrefix(name, "TestAttack") && !linked[name] {
			t.Errorf("%s: not in the table of THREAT-MODEL.md", name)
		}
	}
	_, table, _ := strings.Cut(string(text), "| attack | defence | test |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, row := range strings.Split(table, "\n") {
		if !strings.Contains(row, "`Test") {
			t.Errorf("row without a test: %s", row)
		}
	}
}
