package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// A mark ends a step of a boot: the first line after the mark before that contains its text.
type mark struct{ step, text string }

// begin is the mark at which a boot begins: a line of the kernel's EFI stub. On a command line with
// quiet, efi=debug shows it.
const begin = "EFI stub:"

// direct are the marks of a direct boot of a release.
var direct = []mark{{"direct boot of the release", ""}}

// marks are those of a whole boot.
var marks = []mark{
	{"boot kernel, to its init's first line", "] mount:"},
	{"start, modules, random numbers", "] random numbers:"},
	{"cache, key, network", "] network:"},
	{"resolve", "] resolve:"},
	{"fetch", " artifacts, "}, // lines of progress begin with "fetch: " too
	{"sync, seal, sha256", "] release:"},
	{"kexec load", "] kexec: loaded"},
	{"jump: sha256, copy, decompression", "Linux version"},
	{"target kernel, to its first line", ""},
}

// lastMark returns the text of the first line of a release.
func lastMark(name string) string {
	if name != "demo" {
		return firstMark
	}
	return "phase-boot: target: "
}

const refused = "boot refused"

// A span is the time and the CPU time of a step.
type span struct{ time, cpu time.Duration }

func (s span) add(o span) span { return span{s.time + o.time, s.cpu + o.cpu} }

// spans returns the steps of a boot. last is the text of the last mark.
func spans(lines []line, list []mark, last string) ([]span, error) {
	at := slices.IndexFunc(lines, func(l line) bool { return strings.Contains(l.text, begin) })
	if at < 0 {
		return nil, fmt.Errorf("no line with %q", begin)
	}
	var out []span
	for i, m := range list {
		text := m.text
		if i == len(list)-1 {
			text = last
		}
		next := slices.IndexFunc(lines[at+1:], func(l line) bool { return strings.Contains(l.text, text) }) + at + 1
		if next <= at {
			return nil, fmt.Errorf("no line with %q", text)
		}
		out = append(out, span{lines[next].at - lines[at].at, lines[next].cpu - lines[at].cpu})
		at = next
	}
	return out, nil
}

// times boots a release directly, and with each client with an empty and with a full cache. The
// rows alternate, so that other load falls on all of them.
func (t *tool) times(ctx context.Context, name string) error {
	disk := t.path("disk.img")
	defer os.Remove(disk)
	var alone [][]span
	cold, warm := make([][][]span, len(t.clients)), make([][][]span, len(t.clients))
	for range t.runs {
		s, err := t.bootDirect(ctx, name)
		if err != nil {
			return err
		}
		alone = append(alone, s)
		for i := range t.clients {
			if err := run(ctx, "cp", "--sparse=always", t.image(name, i), disk); err != nil { // its cache partition is empty
				return err
			}
			for _, runs := range []*[][]span{&cold[i], &warm[i]} {
				lines, err := t.boot(ctx, disk, t.memory, []string{lastMark(name), refused})
				if err != nil {
					return err
				}
				s, err := spans(lines, marks, lastMark(name))
				if err != nil {
					return fmt.Errorf("%w; the last lines:\n%s", err, tail(lines, 15))
				}
				*runs = append(*runs, s)
			}
		}
	}
	size, err := t.releaseSize(name)
	if err != nil {
		return err
	}
	fmt.Printf("\nrelease %s, %.1f MB; medians of %d, seconds (CPU seconds of QEMU)\n", name, float64(size)/1e6, t.runs)
	for i, client := range t.clients {
		if len(t.clients) > 1 {
			fmt.Printf("\nphase-boot: %s\n", client)
		}
		printTimes(medians(alone), medians(cold[i]), medians(warm[i]))
	}
	return nil
}

func printTimes(alone, cold, warm []span) {
	fmt.Printf("| %-36s | %15s | %15s |\n|---|---|---|\n", "step", "cold cache", "warm cache")
	row := func(name string, c, w span) { fmt.Printf("| %-36s | %15s | %15s |\n", name, c, w) }
	for i, m := range marks {
		row(m.step, cold[i], warm[i])
	}
	row("sum", sum(cold), sum(warm))
	direct := func(s []span) span { return s[0].add(alone[0]) }
	fmt.Printf("| %-36s | %15s | %15s |\n", "direct boot of the release", alone[0], alone[0])
	row("direct boots of both kernels", direct(cold), direct(warm))
	row("difference", sum(cold).sub(direct(cold)), sum(warm).sub(direct(warm)))
}

func (s span) sub(o span) span { return span{s.time - o.time, s.cpu - o.cpu} }

func (s span) String() string { return fmt.Sprintf("%.1f (%.1f)", s.time.Seconds(), s.cpu.Seconds()) }

func sum(list []span) (s span) {
	for _, o := range list {
		s = s.add(o)
	}
	return s
}

// medians returns the median of each step over the runs. Their sum is not the median of the sums.
func medians(runs [][]span) []span {
	out := make([]span, len(runs[0]))
	for i := range out {
		var times, cpus []time.Duration
		for _, r := range runs {
			times, cpus = append(times, r[i].time), append(cpus, r[i].cpu)
		}
		slices.Sort(times)
		slices.Sort(cpus)
		out[i] = span{times[len(times)/2], cpus[len(cpus)/2]}
	}
	return out
}

// bootDirect starts the kernel and the initrd of a release from the firmware, with the command line
// that phase-boot gives them.
func (t *tool) bootDirect(ctx context.Context, name string) ([]span, error) {
	initrd := t.path(name, "initrd")
	lines, err := t.boot(ctx, initrd, t.memory, []string{lastMark(name)}, "-kernel", t.path(name, "artifacts/kernel"), "-initrd", initrd,
		"-append", "console=tty0 console=ttyS0,115200 panic=30 phase.release="+version)
	if err != nil {
		return nil, err
	}
	return spans(lines, direct, lastMark(name))
}

// releaseSize returns the bytes of the files of a release.
func (t *tool) releaseSize(name string) (size int64, err error) {
	entries, err := os.ReadDir(t.path(name, "artifacts"))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, err
}
