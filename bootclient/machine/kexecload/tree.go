package kexecload

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
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

// nextTree returns a device tree for the next kernel: base, the running kernel's, with another
// /chosen. What UEFI has put there for the running kernel stays.
func nextTree(base []byte, c chosen) ([]byte, error) {
	tree, err := parseFDT(base)
	if err != nil {
		return nil, err
	}
	node := tree.root.child("chosen")
	if node == nil {
		node = &fdtNode{name: "chosen"}
		tree.root.children = append(tree.root.children, node)
	}
	if old, ok := initrdStart(node); ok {
		tree.reserved = slices.DeleteFunc(tree.reserved, func(r reservation) bool { return r.at == old })
	}
	node.properties = slices.DeleteFunc(node.properties, func(p fdtProperty) bool { return slices.Contains(stale, p.name) })
	if err := c.addTo(node); err != nil {
		return nil, err
	}
	return tree.encode()
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
