package kexecload

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// A board that another boot has left traces in.
const board = `/dts-v1/;
/memreserve/ 0x47000000 0x100000;
/memreserve/ 0x43000000 0x1000;
/ {
	#address-cells = <2>;
	#size-cells = <2>;
	compatible = "vendor,board-b", "vendor,board";
	memory@40000000 { device_type = "memory"; reg = <0 0x40000000 0 0x20000000>; };
	chosen {
		bootargs = "phase.mode=local";
		linux,initrd-start = <0x47000000>;
		linux,initrd-end = <0x47100000>;
		linux,elfcorehdr = <0 1 0 1>;
		linux,usable-memory-range = <0 1 0 1>;
		kaslr-seed = <0 0>;
		linux,uefi-system-table = <0 0x5c550018>;
		linux,uefi-mmap-start = <0 0x5a000000>;
		stdout-path = "/serial";
	};
	serial { label; odd = [01 02 03]; };
};
`

// compiled returns a device tree as dtc writes it.
func compiled(t testing.TB, source string) []byte {
	t.Helper()
	return tool(t, source, "dtc", "-q", "-I", "dts", "-O", "dtb")
}

// source returns a device tree as dtc reads it.
func source(t testing.TB, tree []byte) string {
	t.Helper()
	return string(tool(t, string(tree), "dtc", "-q", "-s", "-I", "dtb", "-O", "dts"))
}

func tool(t testing.TB, input, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s: not found; run: apt-get install device-tree-compiler", name)
	}
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return out
}

// nextTree reads a device tree and returns that of the next kernel.
func nextTree(base []byte, c chosen) ([]byte, error) {
	tree, err := parseFDT(base)
	if err != nil {
		return nil, err
	}
	return tree.next(c)
}

func zeros() *bytes.Reader { return bytes.NewReader(make([]byte, kaslrSeed+rngSeed)) }

func TestTheDeviceTreeHasTheNextBootAndKeepsTheMachine(t *testing.T) {
	next, err := nextTree(compiled(t, board), chosen{"console=ttyAMA0 panic=30", span{0x142000000, 0x148000001}, zeros()})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		"/memreserve/ 0x47000000 0x100000;\n", "",
		`bootargs = "phase.mode=local"`, `bootargs = "console=ttyAMA0 panic=30"`,
		"linux,initrd-start = <0x47000000>", "linux,initrd-start = <1 0x42000000>",
		"linux,initrd-end = <0x47100000>", "linux,initrd-end = <1 0x48000001>",
		"linux,elfcorehdr = <0 1 0 1>;\n", "rng-seed = ["+strings.Repeat("00 ", rngSeed)+"];\n",
		"linux,usable-memory-range = <0 1 0 1>;\n", "",
	).Replace(board)
	if got, want := source(t, next), source(t, compiled(t, want)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestADeviceTreeWithoutChosenGetsOne(t *testing.T) {
	next, err := nextTree(compiled(t, "/dts-v1/; /memreserve/ 0 0x1000; / { model = \"x\"; };"), chosen{"quiet", span{}, zeros()})
	if err != nil {
		t.Fatal(err)
	}
	got := source(t, next)
	if !strings.Contains(got, `bootargs = "quiet"`) || strings.Contains(got, "initrd") || !strings.Contains(got, "model") || !strings.Contains(got, "/memreserve/") {
		t.Error(got)
	}
}

func TestTheDeviceTreeOfAReleaseGetsTheTablesOfUEFI(t *testing.T) {
	parse := func(text string) *fdt {
		tree, err := parseFDT(compiled(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	released := `/dts-v1/; / { model = "new"; chosen { linux,uefi-mmap-start = <9>; stdout-path = "/uart"; }; };`
	tree := parse(released)
	if err := tree.takeUEFI(parse(board)); err != nil {
		t.Fatal(err)
	}
	want := `/dts-v1/; / { model = "new"; chosen { stdout-path = "/uart"; linux,uefi-system-table = <0 0x5c550018>; linux,uefi-mmap-start = <0 0x5a000000>; }; };`
	if got, want := source(t, tree.must(t)), source(t, compiled(t, want)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := parse(released).takeUEFI(parse("/dts-v1/; / { chosen { bootargs = \"x\"; }; };")); err == nil {
		t.Error("a machine that UEFI did not start")
	}
}

func TestEachBootHasOtherSeeds(t *testing.T) {
	random := bytes.NewReader(append(bytes.Repeat([]byte{1}, kaslrSeed+rngSeed), bytes.Repeat([]byte{2}, kaslrSeed+rngSeed)...))
	base := compiled(t, board)
	for _, want := range []string{"1010101", "2020202"} {
		next, err := nextTree(base, chosen{"", span{}, random})
		if err != nil || !strings.Contains(source(t, next), "kaslr-seed = <0x"+want+" 0x"+want+">") {
			t.Errorf("%s: %v\n%s", want, err, source(t, next))
		}
		base = next
	}
	if _, err := nextTree(base, chosen{"", span{}, random}); err == nil {
		t.Error("a device tree without random numbers")
	}
}

func TestADamagedOrTooLargeDeviceTreeIsRefused(t *testing.T) {
	good := compiled(t, board)
	for name, data := range map[string][]byte{
		"empty":                  nil,
		"truncated":              good[:len(good)/2],
		"no magic":               append([]byte{0}, good[1:]...),
		"a length over the file": append([]byte{0xd0, 0x0d, 0xfe, 0xed, 0xff, 0xff, 0xff, 0xff}, good[8:]...),
		"nodes in nodes":         (&fdt{root: nested(fdtDepth)}).must(t),
		"too large":              append(good, make([]byte, maxTree)...),
	} {
		if _, err := nextTree(data, chosen{"", span{}, zeros()}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := nextTree(good, chosen{strings.Repeat("x", maxTree), span{}, zeros()}); err == nil {
		t.Error("a command line of 2 MiB: accepted")
	}
}

// nested returns a node with n levels of nodes below it.
func nested(n int) *fdtNode {
	node := &fdtNode{}
	for range n {
		node = &fdtNode{children: []*fdtNode{node}}
	}
	return node
}

func (t *fdt) must(tb testing.TB) []byte {
	tb.Helper()
	data, err := t.encode()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// FuzzNextTree checks that what is accepted is a device tree with one more boot in it.
func FuzzNextTree(f *testing.F) {
	f.Add(compiled(f, board))
	f.Fuzz(func(t *testing.T, base []byte) {
		next, err := nextTree(base, chosen{"quiet", span{1, 2}, zeros()})
		if err != nil {
			return
		}
		if _, err := nextTree(next, chosen{"quiet", span{1, 2}, zeros()}); err != nil {
			t.Errorf("%q: %v", next, err)
		}
	})
}
