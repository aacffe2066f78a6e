package main

import (
	"strconv"
	"strings"
)

// ticks are the machine's processor times since it started.
type ticks struct{ busy, all float64 }

func processors() ticks {
	line, _, _ := strings.Cut(read("/proc/stat"), "\n")
	var t ticks
	for i, field := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseFloat(field, 64)
		if i < 8 { // guests are counted in user
			t.all += n
		}
		if i < 8 && i != 3 && i != 4 { // idle, and waiting for a disk
			t.busy += n
		}
	}
	return t
}

// since is the part of all cores that was busy.
func (t ticks) since(before ticks) float64 {
	return (t.busy - before.busy) / max(t.all-before.all, 1)
}
