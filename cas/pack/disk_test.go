package pack

import (
	"errors"
	"os"
)

// ErrPower is the error of every operation of a FailingDisk after the power cut.
var ErrPower = errors.New("power cut")

// A FailingDisk is a disk with a power cut at its Ops-th operation: a write is done by half, any
// other operation not at all. It records what a power cut can undo: bytes of files that were
// not synced, and changes of names in a folder that was not synced.
type FailingDisk struct {
	Ops   int // operations until the power cut
	Syncs int // number of syncs of files

	durable map[string]int64 // synced bytes of each file, by its current name
	undo    []func() error   // each undoes one change of the unsynced folder; newest last
}

// Options returns opts with this disk.
func (d *FailingDisk) Options(opts Options) Options {
	d.durable = make(map[string]int64)
	opts.disk = d
	return opts
}

// Failed reports whether the power was cut.
func (d *FailingDisk) Failed() bool { return d.Ops <= 0 }

func (d *FailingDisk) step() (last bool, err error) {
	if d.Failed() {
		return false, ErrPower
	}
	d.Ops--
	return d.Failed(), nil
}

func (d *FailingDisk) create(path string) (*os.File, error) {
	if last, err := d.step(); last || err != nil {
		return nil, ErrPower
	}
	d.durable[path] = 0
	return osDisk{}.create(path)
}

func (d *FailingDisk) writeAt(f *os.File, b []byte, at int64) error {
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

func (d *FailingDisk) truncate(f *os.File, size int64) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	return osDisk{}.truncate(f, size)
}

// sync marks the bytes of the file as durable, except at the power cut.
func (d *FailingDisk) sync(f *os.File) error {
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

// name returns the current path of an open file.
func (d *FailingDisk) name(fi os.FileInfo) string {
	for path := range d.durable {
		if other, err := os.Stat(path); err == nil && os.SameFile(fi, other) {
			return path
		}
	}
	return ""
}

func (d *FailingDisk) rename(from, to string) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	d.recordUndo(to)
	d.durable[to] = d.durable[from]
	delete(d.durable, from)
	return osDisk{}.rename(from, to)
}

func (d *FailingDisk) remove(path string) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	d.recordUndo(path)
	return osDisk{}.remove(path)
}

// recordUndo records how to restore the file of a name if the power is cut before the folder is synced.
func (d *FailingDisk) recordUndo(path string) {
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

func (d *FailingDisk) syncDir(string) error {
	if last, err := d.step(); last || err != nil {
		return ErrPower
	}
	d.undo = nil
	return nil
}

// The states in which a power cut leaves the files. A killed process leaves them unchanged.
const (
	CutKilled  = "killed"
	CutLost    = "unsynced bytes lost"
	CutZeroed  = "unsynced bytes zero"
	CutRenames = "names of an unsynced folder restored, unsynced bytes lost"
)

// Cut changes the files as a power cut of that kind does.
func (d *FailingDisk) Cut(how string) error {
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
