package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// console is what a machine shows, a line a second.
const console = `BdsDxe: starting Boot0001
EFI stub: Loaded initrd
[  2.1s] mount: done
[  2.2s] modules: 10 loaded
[  2.3s] random numbers: ready
[  2.4s] cache: /dev/vda2 (rw)
[  2.5s] network: eth0 10.55.0.138/24
[  3.2s] resolve: stable/x86_64 release 1-bench from 1 of 1 source
[  5.0s] fetch: 41%, 23 MiB of 57 MiB, 5.6 MiB/s, 1 source, 6s left
[  9.5s] fetch: 4 artifacts, 57 MiB from 1 source
[ 11.3s] release: 1-bench sealed, 57 MiB in memory
[ 12.9s] kexec: loaded, command line: console=ttyS0
[ 13.0s] kexec: starting the new kernel
[    0.000000] Linux version 6.1.0
phase-boot: target: release 1-bench`

func TestTheStepsOfABootEndAtTheirLines(t *testing.T) {
	var lines []line
	for i, text := range strings.Split(console, "\n") {
		lines = append(lines, line{text, time.Duration(i) * time.Second, 0})
	}
	steps, err := spans(lines, marks, lastMark("demo"))
	if err != nil {
		t.Fatal(err)
	}
	var seconds []int
	for _, s := range steps {
		seconds = append(seconds, int(s.time.Seconds()))
	}
	if want := []int{1, 2, 2, 1, 2, 1, 1, 2, 1}; !slices.Equal(seconds, want) {
		t.Errorf("the steps take %v seconds, want %v", seconds, want)
	}
	if _, err := spans(lines[:9], marks, lastMark("demo")); err == nil || !strings.Contains(err.Error(), " artifacts, ") {
		t.Errorf("a boot that ends in the fetch: %v", err)
	}
}
