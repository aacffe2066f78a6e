package pack_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// The test runs itself as a writer process that prints the CID of each block after its Sync,
// reads the store at the same time, and kills the writer.
func TestAKilledWriterLosesNoSyncedBlock(t *testing.T) {
	const env = "CAS_TEST_WRITER"
	opts := pack.Options{MaxPack: 50_000}
	if dir := os.Getenv(env); dir != "" {
		p := open(t, dir, opts)
		first, _ := strconv.Atoi(os.Getenv("CAS_TEST_FIRST")) // unset is 0
		for i := first; ; i++ {
			data := castest.Bytes(byte(i), 5000+i)
			c := cas.Sum(cid.Raw, data)
			if err := p.Put(t.Context(), c, data); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				continue // synced with the next one
			}
			if err := p.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			fmt.Println(c)
		}
	}
	dir := t.TempDir()
	reported := map[cid.Cid]bool{}
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAKilledWriterLosesNoSyncedBlock$")
		cmd.Env = append(os.Environ(), env+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var reader *pack.Store
		for n := 0; n < 10+7*round && lines.Scan(); n++ {
			c, err := cas.ParseCID(lines.Text())
			if err != nil {
				t.Fatalf("the writer prints %q", lines.Text())
			}
			reported[c] = true
			if reader == nil {
				reader = open(t, dir, pack.Options{ReadOnly: true})
			}
			if _, err := cas.Get(t.Context(), reader, c); err != nil {
				t.Error("while the writer works:", err)
			}
		}
		if _, err := pack.Open(dir, opts); err == nil {
			t.Error("a second writer opens the store")
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed: that is its error
		p, err := pack.Open(dir, opts)
		if err != nil {
			t.Fatal(err)
		}
		for c := range reported {
			if _, err := cas.Get(t.Context(), p, c); err != nil {
				t.Error(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(reported) < 30 {
		t.Errorf("%d blocks reported", len(reported))
	}
}

// The writer is killed at random moments, while it opens the store and while it puts blocks.
func TestAWriterKilledAtAnyMomentLosesNoSyncedBlock(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	dir := t.TempDir()
	opts := pack.Options{MaxPack: 50_000}
	all := map[cid.Cid]bool{}
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAKilledWriterLosesNoSyncedBlock$")
		cmd.Env = append(os.Environ(), "CAS_TEST_WRITER="+dir, fmt.Sprintf("CAS_TEST_FIRST=%d", 1000*round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		soon := func() *time.Timer {
			return time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { cmd.Process.Kill() })
		}
		var kill *time.Timer
		if round%2 == 0 {
			kill = soon() // while it may be opening the store
		}
		reported := map[cid.Cid]bool{}
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // an incomplete line reports nothing
			}
			c, err := cas.ParseCID(strings.TrimSpace(line))
			if err != nil {
				t.Fatalf("the writer prints %q", line)
			}
			reported[c], all[c] = true, true
			if kill == nil {
				kill = soon() // while it puts blocks
			}
		}
		_ = cmd.Wait() // killed: that is its error
		if kill != nil {
			kill.Stop()
		}
		check := reported
		if round == rounds-1 {
			check = all
		}
		p, err := pack.Open(dir, opts)
		if err != nil {
			t.Fatal(err)
		}
		for c := range check {
			if _, err := cas.Get(t.Context(), p, c); err != nil {
				t.Error(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, found := fsck(t, dir); len(found) > 0 || len(all) < rounds/2 {
		t.Errorf("%d blocks reported; found %v", len(all), found)
	}
	t.Logf("%d kills, %d blocks reported", rounds, len(all))
}
