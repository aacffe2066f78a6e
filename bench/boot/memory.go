package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
)

// The search for the smallest memory is in steps of memoryStep MiB. It ends at mostMemory.
const (
	memoryStep = 16
	mostMemory = 2560
)

// smallestMemory prints the smallest memory with which each client boots a release to its first line, and what a
// machine with one step less shows.
func (t *tool) smallestMemory(ctx context.Context, name string) error {
	size, err := t.releaseSize(name)
	if err != nil {
		return err
	}
	for i, client := range t.clients {
		words := map[int]string{} // by steps of memory
		var failed error
		smallest := 1 + sort.Search(mostMemory/memoryStep, func(less int) bool {
			if failed != nil {
				return true
			}
			words[less+1], failed = t.lastWords(ctx, t.image(name, i), (less+1)*memoryStep, lastMark(name))
			return strings.Contains(words[less+1], lastMark(name))
		})
		if failed != nil {
			return failed
		}
		if smallest*memoryStep > mostMemory {
			return fmt.Errorf("%s does not boot with %d MiB of memory: %s", client, mostMemory, words[smallest-1])
		}
		fmt.Printf("release %s, %.1f MB: %s boots with %d MiB of memory; with %d MiB: %s\n",
			name, float64(size)/1e6, client, smallest*memoryStep, (smallest-1)*memoryStep, words[smallest-1])
	}
	return nil
}

// lastWords boots a copy of an image, whose cache partition is empty, and returns the line of the console with which
// the boot ended.
func (t *tool) lastWords(ctx context.Context, image string, memory int, mark string) (string, error) {
	disk := t.path("disk.img")
	defer os.Remove(disk)
	if err := run(ctx, "cp", "--sparse=always", image, disk); err != nil {
		return "", err
	}
	lines, err := t.boot(ctx, disk, memory, []string{mark, "too little memory", "press Enter", "Kernel panic", "Out of memory"})
	if ctx.Err() != nil || len(lines) == 0 {
		return "", cmp.Or(ctx.Err(), err, errors.New("the machine shows nothing"))
	}
	last := lines[len(lines)-1].text
	if err != nil {
		last = fmt.Sprintf("the machine ended, or took %v, after %.120q", bootLimit, last)
	}
	return last, nil
}
