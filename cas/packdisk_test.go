package cas

import (
	"errors"
	"os"
)

// ErrPower is what a DyingDisk says from its last operation on.
var ErrPower = errors.New("the power is gone")

// A DyingDisk does what the writer asks for until its Ops-th operation, of which it does
// half, if it is one that has halves, and nothing after it. It remembers what a power cut
// may take back: bytes of files that were not synced, and names of folders that were not.
type DyingDisk struct {
	Ops   int // operations left
	Syncs int // of files

	durable map[string]int64 // bytes of a file that are safe, by its name now
	undo    []func() error   // takes back what the folder was not synced for, newest last
}

// Options returns opts with this disk under them.
func (d *DyingDisk) Options(opts PackOptions) PackOptions {
	d.durable = make(map[string]int64)
	opts.disk = d
	return opts
}

// Dead reports whether the last operation was reached.
func (d *DyingDisk) Dead() bool { return d.Ops <= 0 }

func (d *DyingDisk) step() (last bool, err error) {
	if d.Dead() {
		return false, ErrPower
	}
	d.Ops--
	return d.Dead(), nil
}

func (d *DyingDisk) create(path string) (*os.File, error) {
	if last, err := d.step(); last || err != nil {
		return nil, ErrPower
	}
	d.durable[path] = 0
	return osDisk{}.create(path)
}

func (d *DyingDisk) writeAt(f *os.File, b []byte, at int64) error {
	last, err := d.step()
	if err != nil {
		return err
	}
	if last {
		b = b[:len(b)/2]
	}
	if err := (osDisk{}).writeAt(f, b, at); err != nil {
		return err
	}
	if last {
		return ErrPower
	}
	return nil
}

func (d *DyingDisk) truncate(f *os.File, size int64) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	return osDisk{}.truncate(f, size)
}

// sync of the last operation may have reached the disk and was not reported, or not.
func (d *DyingDisk) sync(f *os.File) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	d.Syncs++
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	d.durable[d.name(fi)] = fi.Size()
	return nil
}

// name finds the path of an open file, which may have been renamed.
func (d *DyingDisk) name(fi os.FileInfo) string {
	for path := range d.durable {
		if other, err := os.Stat(path); err == nil && os.SameFile(fi, other) {
			return path
		}
	}
	return ""
}

func (d *DyingDisk) rename(from, to string) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	d.forget(to)
	d.durable[to] = d.durable[from]
	delete(d.durable, from)
	return osDisk{}.rename(from, to)
}

func (d *DyingDisk) remove(path string) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	d.forget(path)
	return osDisk{}.remove(path)
}

// forget makes what is under a name come back if the power goes before the folder is synced.
func (d *DyingDisk) forget(path string) {
	old, err := os.ReadFile(path)
	if err != nil {
		d.undo = append(d.undo, func() error { return os.RemoveAll(path) })
		return
	}
	safe, tracked := d.durable[path]
	d.undo = append(d.undo, func() error {
		if tracked {
			d.durable[path] = safe
		}
		return os.WriteFile(path, old, 0o644)
	})
}

func (d *DyingDisk) syncDir(string) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	d.undo = nil
	return nil
}

// The ways in which a power cut leaves the files; a killed process leaves them as they are.
const (
	CutKilled  = "killed"
	CutLost    = "unsynced bytes lost"
	CutZeroed  = "unsynced bytes zero"
	CutRenames = "names of an unsynced folder taken back, unsynced bytes lost"
)

// Cut leaves the files as a power cut may.
func (d *DyingDisk) Cut(how string) error {
	if how == CutRenames {
		for i := len(d.undo) - 1; i >= 0; i-- {
			if err := d.undo[i](); err != nil {
				return err
			}
		}
	}
	if how == CutKilled {
		return nil
	}
	for path, safe := range d.durable {
		fi, err := os.Stat(path)
		if err != nil || fi.Size() <= safe {
			continue
		}
		if err := os.Truncate(path, safe); err != nil {
			return err
		}
		if how == CutZeroed {
			if err := os.Truncate(path, fi.Size()); err != nil {
				return err
			}
		}
	}
	return nil
}
