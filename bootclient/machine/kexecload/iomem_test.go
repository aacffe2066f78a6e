package kexecload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A machine of QEMU, shortened.
const iomem = `09000000-09000fff : ARMH0011:00
40000000-5c45ffff : System RAM
  40210000-41a1ffff : Kernel code
  41a20000-4201ffff : reserved
  42020000-4238ffff : Kernel data
  59c00000-5befffff : reserved
5c460000-5c54ffff : reserved
5c550000-5c5a0fff : System RAM
  5c550000-5c550801 : reserved
5fe00000-7fffffff : System RAM
4010000000-401fffffff : PCI ECAM
`

func TestFreeMemoryIsRAMWithoutWhatIsUsed(t *testing.T) {
	for name, row := range map[string]struct {
		iomem string
		want  []span
	}{
		"QEMU": {iomem, []span{
			{0x40000000, 0x40210000}, {0x42390000, 0x59c00000}, {0x5bf00000, 0x5c460000}, {0x5c551000, 0x5c5a1000}, {0x5fe00000, 0x80000000},
		}},
		"partial pages":        {"1800-5fff : System RAM\n  3100-31ff : reserved\n", []span{{0x2000, 0x3000}, {0x4000, 0x6000}}},
		"ranges in a range":    {"0-ffff : System RAM\n  1000-8fff : Kernel code\n    2000-2fff : reserved\n  8000-9fff : reserved\n", []span{{0, 0x1000}, {0xa000, 0x10000}}},
		"below another device": {"0-ffff : Memory of a card\n  0-ffff : System RAM\n10000-1ffff : System RAM\n", []span{{0x10000, 0x20000}}},
		"another order":        {"20000-2ffff : System RAM\n0-ffff : System RAM\n", []span{{0, 0x10000}, {0x20000, 0x30000}}},
		"overlapping":          {"0-ffff : System RAM\n8000-17fff : System RAM\n  c000-cfff : reserved\n", []span{{0, 0xc000}, {0xd000, 0x10000}, {0x10000, 0x18000}}},
		"all of it used":       {"0-ffff : System RAM\n  0-1ffff : reserved\n20000-2ffff : System RAM\n", []span{{0x20000, 0x30000}}},
	} {
		got, err := freeMemory(row.iomem, 4096)
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s: %#x, %v, want %#x", name, got, err, row.want)
		}
	}
}

func TestAMemoryMapThatCannotBeReadIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"an end before its start":  "2000-1fff : System RAM\n",
		"an address of 64 bits":    "0-ffffffffffffffff : System RAM\n",
		"an address of 65 bits":    "0-1ffffffffffffffff : System RAM\n",
		"a negative address":       "-1-1000 : System RAM\n",
		"no name":                  "0-ffff\n",
		"no end":                   "0 : System RAM\n",
		"an empty line":            "0-ffff : System RAM\n\n",
		"words":                    strings.Repeat("x", 1000) + "\n",
		"more ranges than machine": strings.Repeat("0-fff : System RAM\n", maxSpans+1),
	} {
		if free, err := freeMemory(text, 4096); err == nil || len(err.Error()) > 200 {
			t.Errorf("%s: %d ranges, %v", name, len(free), err)
		}
	}
	for _, text := range []string{"", "00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n"} {
		if _, err := freeMemory(text, 4096); !errors.Is(err, errHidden) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzFreeMemory checks that memory is free only inside System RAM and outside every range below it.
func FuzzFreeMemory(f *testing.F) {
	f.Add(iomem)
	f.Add("0-ffff : System RAM\n8000-17fff : System RAM\n  c000-cfff : reserved\n")
	f.Fuzz(func(t *testing.T, text string) {
		free, err := freeMemory(text, 4096)
		if err != nil {
			return
		}
		last := uint64(0)
		for _, s := range free {
			if s.start < last || s.start >= s.end || s.start%4096 != 0 || s.end%4096 != 0 {
				t.Fatalf("%#x in %#x", s, free)
			}
			last = s.end
		}
		inRAM := false
		for line := range strings.Lines(text) {
			var used span
			level := len(line) - len(strings.TrimLeft(line, " "))
			_, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " : ")
			inRAM = level < 2 && name == "System RAM" || level >= 2 && inRAM
			if _, err := fmt.Sscanf(line, "%x-%x", &used.start, &used.end); err != nil || level < 2 || !inRAM {
				continue
			}
			for _, s := range free {
				if s.start <= used.end && used.start < s.end {
					t.Fatalf("%#x is free, %q is used", s, line)
				}
			}
		}
	})
}
