package kexecload

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A span is the physical memory from start up to, not including, end.
type span struct{ start, end uint64 }

func (s span) size() uint64 { return s.end - s.start }

const (
	systemRAM = "System RAM"
	// maxAddress bounds physical addresses; arm64 has up to 52 bits.
	maxAddress = 1 << 52
	maxSpans   = 1 << 16
)

// errHidden is the error for a memory map without addresses, which every process but root's gets.
var errHidden = errors.New("/proc/iomem: no addresses; only root can read them")

// freeMemory returns the memory of /proc/iomem into which kexec may copy, in whole pages and in rising
// order: each line "System RAM" of the first level without the ranges below it, such as the
// running kernel, memory that firmware or kernel has reserved, and a crash kernel.
func freeMemory(iomem string, page uint64) ([]span, error) {
	var ram, used []span
	inRAM := false
	for line := range strings.Lines(iomem) {
		s, name, level, err := parseLine(strings.TrimSuffix(line, "\n"))
		switch {
		case err != nil:
			return nil, err
		case level > 0 && inRAM:
			used = append(used, span{s.start &^ (page - 1), roundUp(s.end, page)})
		case level == 0:
			if inRAM = name == systemRAM; inRAM {
				ram = append(ram, span{roundUp(s.start, page), s.end &^ (page - 1)})
			}
		}
		if len(ram)+len(used) > maxSpans {
			return nil, fmt.Errorf("/proc/iomem: more than %d ranges", maxSpans)
		}
	}
	free := subtract(ram, used)
	if len(free) == 0 {
		return nil, errHidden
	}
	return free, nil
}

// parseLine parses a line of /proc/iomem, "    40210000-41a1ffff : Kernel code". A level has two
// spaces.
func parseLine(line string) (s span, name string, level int, err error) {
	text := strings.TrimLeft(line, " ")
	addresses, name, ok := strings.Cut(text, " : ")
	first, last, dash := strings.Cut(addresses, "-")
	s.start, err = strconv.ParseUint(first, 16, 64)
	if err == nil {
		s.end, err = strconv.ParseUint(last, 16, 64)
	}
	if err != nil || !ok || !dash || s.start > s.end || s.end >= maxAddress {
		return span{}, "", 0, fmt.Errorf("/proc/iomem: line %.80q: not a range of memory", line)
	}
	s.end++
	return s, name, (len(line) - len(text)) / 2, nil
}

// subtract returns the parts of ram that no range of used covers, in rising order.
func subtract(ram, used []span) []span {
	byStart := func(a, b span) int { return compare(a.start, b.start) }
	slices.SortFunc(ram, byStart)
	slices.SortFunc(used, byStart)
	var free []span
	at := uint64(0) // everything below is in free or used
	for _, r := range ram {
		at = max(at, r.start)
		for _, u := range used {
			if u.end <= at || u.start >= r.end {
				continue
			}
			if u.start > at {
				free = append(free, span{at, u.start})
			}
			at = u.end
		}
		if at < r.end {
			free = append(free, span{at, r.end})
			at = r.end
		}
	}
	return free
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }
