package kexecload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// chosen is what the next kernel gets in the node /chosen of its device tree.
type chosen struct {
	cmdline string
	initrd  span      // empty for none
	random  io.Reader // of the seeds
}

// Lengths of the seeds in bytes: of kernel address space layout randomization, and of the random number
// generator (as Linux gives at kexec_file_load).
const (
	kaslrSeed = 8
	rngSeed   = 128
)

// stale are the properties of /chosen that describe another boot: of the running kernel, or of a
// kernel for crash dumps.
var stale = []string{
	"bootargs", "linux,initrd-start", "linux,initrd-end", "kaslr-seed", "rng-seed", "linux,elfcorehdr",
	"linux,usable-memory-range", "linux,booted-from-kexec", "linux,ima-kexec-buffer",
}

// next returns a device tree for the next kernel: this one, with another /chosen. What UEFI has put
// there for the running kernel stays.
func (t *fdt) next(c chosen) ([]byte, error) {
	node := t.chosen()
	if old, ok := initrdStart(node); ok {
		t.reserved = slices.DeleteFunc(t.reserved, func(r reservation) bool { return r.at == old })
	}
	node.properties = slices.DeleteFunc(node.properties, func(p fdtProperty) bool { return slices.Contains(stale, p.name) })
	if err := c.addTo(node); err != nil {
		return nil, err
	}
	return t.encode()
}

// chosen returns the node /chosen. It adds one to a tree without.
func (t *fdt) chosen() *fdtNode {
	node := t.root.child("chosen")
	if node == nil {
		node = &fdtNode{name: "chosen"}
		t.root.children = append(t.root.children, node)
	}
	return node
}

// uefi begins the names of the properties of /chosen that say where UEFI's tables and memory map are.
const uefi = "linux,uefi-"

// takeUEFI copies what UEFI has told the running kernel to the device tree of a release. The next kernel has its
// memory from there: the tree of a release cannot know how much the machine has.
func (t *fdt) takeUEFI(running *fdt) error {
	from, to := running.chosen(), t.chosen()
	if _, ok := from.value(uefi + "mmap-start"); !ok {
		return errors.New("device tree of the release: the machine was not started by UEFI, so its memory is not known; boot it through UEFI, or publish a release without a device tree for it")
	}
	isUEFI := func(p fdtProperty) bool { return strings.HasPrefix(p.name, uefi) }
	to.properties = slices.DeleteFunc(to.properties, isUEFI)
	for _, p := range from.properties {
		if isUEFI(p) {
			to.properties = append(to.properties, p)
		}
	}
	return nil
}

// addTo adds the properties of the next kernel.
func (c chosen) addTo(node *fdtNode) error {
	seeds := make([]byte, kaslrSeed+rngSeed)
	if _, err := io.ReadFull(c.random, seeds); err != nil {
		return fmt.Errorf("random numbers: %w", err)
	}
	add := func(name string, value []byte) {
		node.properties = append(node.properties, fdtProperty{name, value})
	}
	add("bootargs", append([]byte(c.cmdline), 0))
	if c.initrd.size() > 0 {
		add("linux,initrd-start", binary.BigEndian.AppendUint64(nil, c.initrd.start))
		add("linux,initrd-end", binary.BigEndian.AppendUint64(nil, c.initrd.end))
	}
	add("kaslr-seed", seeds[:kaslrSeed])
	add("rng-seed", seeds[kaslrSeed:])
	return nil
}

// initrdStart returns the address of the running kernel's initramfs, if the device tree has it.
func initrdStart(node *fdtNode) (uint64, bool) {
	value, _ := node.value("linux,initrd-start")
	switch len(value) {
	case 8:
		return binary.BigEndian.Uint64(value), true
	case 4:
		return uint64(binary.BigEndian.Uint32(value)), true
	}
	return 0, false
}
