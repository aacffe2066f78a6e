package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// The search for the smallest memory is in steps of memoryStep MiB. It ends at mostMemory.
const (
	memoryStep = 16
	mostMemory = 2560
)

// memoryLimit bounds a boot with little memory: a machine may hang without a word.
const memoryLimit = 3 * time.Minute

// smallestMemory prints the smallest memory with which each client boots a release to its first line, and what a
// machine with one step less shows.
func (t *tool) smallestMemory(ctx context.Context, name string) error {
	disk := t.path("disk.img")
	defer os.Remove(disk)
	size, err := t.releaseSize(name)
	if err != nil {
		return err
	}
	for i, client := range t.clients {
		low, high, said := 0, mostMemory/memoryStep, "" // low fails
		next := int(3*size>>20+112) / memoryStep        // near the budget of 3 × the release + 48 MiB
		for high-low > 1 {
			if err := run(ctx, "cp", "--sparse=always", t.image(name, i), disk); err != nil { // its cache partition is empty
				return err
			}
			shown, err := t.lastWords(ctx, disk, next*memoryStep, lastMark(name))
			switch {
			case err != nil:
				return err
			case strings.Contains(shown, lastMark(name)):
				high = next
				next = max(low+1, high-4)
			default:
				low, said = next, shown
				next = min(high-1, low+4)
			}
			if high < mostMemory/memoryStep && low > 0 {
				next = (low + high) / 2
			}
		}
		fmt.Printf("release %s, %.1f MB: %s boots with %d MiB of memory; with %d MiB: %s\n", name, float64(size)/1e6, client, high*memoryStep, low*memoryStep, said)
	}
	return nil
}

// lastWords boots a disk and returns the line of the console with which the boot ended.
func (t *tool) lastWords(ctx context.Context, disk string, memory int, mark string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	lines, err := t.boot(limited, disk, memory, []string{mark, "too little memory", "press Enter", "Kernel panic", "Out of memory"})
	if ctx.Err() != nil || len(lines) == 0 {
		return "", cmp.Or(ctx.Err(), err)
	}
	last := lines[len(lines)-1].text
	if limited.Err() != nil {
		return fmt.Sprintf("nothing more for %v after %.120q", memoryLimit, last), nil
	}
	return last, nil
}
