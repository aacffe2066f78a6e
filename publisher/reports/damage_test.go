package reports

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
)

// filled makes a database with a few hundred pages.
func filled(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "reports.db")
	s, err := Open(t.Context(), path, Options{})
	check(t, err)
	fill(t, s, 2000)
	check(t, s.Close())
	return path
}

// spoil overwrites pages from one page on, as a bad disk does.
func spoil(t *testing.T, path string, page int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 20*pageSize), page*pageSize)
	check(t, err)
}

func TestADamagedDatabaseIsMovedAside(t *testing.T) {
	at := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	for name, page := range map[string]int64{"in the middle": 40, "the schema": 0} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			spoil(t, path, page)
			if page == 0 { // the begin is as it was
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				check(t, err)
				_, err = f.WriteAt(magic, 0)
				check(t, errors.Join(err, f.Close()))
			}
			if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, cas.ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
			check(t, os.WriteFile(path+"-wal", []byte("log"), 0o600))
			to, err := MoveAside(path, at, false)
			check(t, err)
			if log, err := os.ReadFile(to + "-wal"); err != nil || string(log) != "log" || to != path+".damaged-20261130T100000Z" {
				t.Errorf("%s: %q, %v", to, log, err)
			}
			s, err := Open(t.Context(), path, Options{})
			check(t, err)
			n := newNode(t, "192.0.2.1:1")
			check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
			check(t, s.Close())
			if _, err := MoveAside(path, at, false); !errors.Is(err, fs.ErrExist) {
				t.Errorf("in the same second: %v", err)
			}
		})
	}
}

func TestAFileThatIsNoDatabaseStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	check(t, os.WriteFile(path, []byte("my notes, named by mistake"), 0o600))
	if _, err := MoveAside(path, time.Now(), false); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if to, err := MoveAside(path, time.Now(), true); err != nil || to == "" {
		t.Errorf("%q, %v", to, err)
	}
}

// A damage that comes while a publisher serves is told once, and the store knows it at its end.
func TestADamageThatComesLaterIsTold(t *testing.T) {
	path, told := filled(t), 0
	s, err := Open(t.Context(), path, Options{Damaged: func(err error) {
		told++
		if !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("told %v", err)
		}
	}})
	check(t, err)
	if s.HasDamage() {
		t.Error("damaged from the start")
	}
	spoil(t, path, 2)
	check(t, os.Truncate(path, 60*pageSize))
	for range 3 {
		s.db.SetMaxIdleConns(0) // no pages that a connection has read before
		if _, err := s.List(t.Context(), Query{Limit: 2000}); !errors.Is(err, cas.ErrCorrupt) {
			t.Fatalf("got %v", err)
		}
	}
	check(t, s.Close())
	if told != 1 || !s.HasDamage() {
		t.Errorf("told %d times, %t", told, s.HasDamage())
	}
}

func TestADatabaseOnANetworkFileSystemIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reports.db")
	for kind, want := range map[uint32]string{unix.NFS_SUPER_MAGIC: "(NFS)", unix.SMB2_SUPER_MAGIC: "(SMB)", 0x0bd00bd0: "(Lustre)"} {
		for _, readOnly := range []bool{false, true} {
			_, err := Open(t.Context(), path, Options{ReadOnly: readOnly, fileSystem: func(string) (uint32, error) { return kind, nil }})
			if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file was made: %v", err)
	}
	s, err := Open(t.Context(), path, Options{})
	check(t, err)
	check(t, s.Close())
}

func TestTheRoomOfAcceptedMachinesHasALimit(t *testing.T) {
	s := open(t, Options{Limits: Limits{Accepted: Room{Machines: 2}}})
	var keys []string
	for range 3 {
		n := newNode(t, "192.0.2.1:1")
		keys = append(keys, n.name())
		check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
	}
	if err := s.Accept(t.Context(), keys...); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "machines forget") {
		t.Errorf("got %v", err)
	}
	if n, err := s.AcceptAll(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("%d, %v", n, err)
	}
	st, err := s.Stats(t.Context())
	check(t, err)
	if st.Accepted.Machines != 0 {
		t.Errorf("%d were accepted", st.Accepted.Machines)
	}
	check(t, s.Accept(t.Context(), keys[:2]...))
	check(t, s.Accept(t.Context(), keys[0]))
	if err := s.Accept(t.Context(), keys[2]); !errors.Is(err, ErrFull) {
		t.Errorf("the third: %v", err)
	}
	check(t, s.Forget(t.Context(), keys[0]))
	check(t, s.Accept(t.Context(), keys[2]))
}

// A full disk is a fault of the database, which is told, and not the full room of the unverified machines.
func TestAFullDiskIsAFault(t *testing.T) {
	outcomes, told := map[Outcome]int{}, error(nil)
	s := open(t, Options{Counted: func(o Outcome) { outcomes[o]++ }, NotKept: func(err error) { told = err }})
	s.db.SetMaxOpenConns(1) // the limit is one of a connection
	_, err := s.db.ExecContext(t.Context(), "PRAGMA max_page_count = 1")
	check(t, err)
	for i := 0; told == nil && i < 1000; i++ {
		n := newNode(t, fmt.Sprintf("192.0.2.%d:1", i%200))
		if err = s.Add(t.Context(), n.document(t, 1, "ok"), n.address); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if !errors.Is(told, ErrFull) || !strings.Contains(told.Error(), s.path) || err == nil || outcomes[Fault] != 1 || outcomes[Full] != 0 {
		t.Errorf("told %v, %v, %v", told, err, outcomes)
	}
	_, err = s.db.ExecContext(t.Context(), "PRAGMA max_page_count = 100000")
	check(t, err)
	n := newNode(t, "192.0.2.1:1")
	check(t, s.Add(t.Context(), n.document(t, 1, "ok"), n.address))
}

func TestAnotherUserIsToldWhoseDatabaseItIs(t *testing.T) {
	path := filled(t)
	s, err := Open(t.Context(), path, Options{ReadOnly: true})
	check(t, err)
	defer s.Close()
	if _, err := s.AcceptAll(t.Context()); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "as the user of the publisher") {
		t.Errorf("got %v", err)
	}
}
