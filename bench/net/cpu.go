package main

import (
	"strconv"
	"strings"
)

// cpuTimes are the machine's processor times since it started, in ticks.
type cpuTimes struct{ busy, all float64 }

func readCPUTimes() cpuTimes {
	line, _, _ := strings.Cut(read("/proc/stat"), "\n")
	var t cpuTimes
	for i, field := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseFloat(field, 64)
		if i < 8 { // the later fields, guest times, are included in user
			t.all += n
		}
		if i < 8 && i != 3 && i != 4 { // idle and iowait
			t.busy += n
		}
	}
	return t
}

// busyShare returns the busy share of all cores since before.
func (t cpuTimes) busyShare(before cpuTimes) float64 {
	return (t.busy - before.busy) / max(t.all-before.all, 1)
}
