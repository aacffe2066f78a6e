package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// NewestInputs lists the packages of which this machine's apt would make every image and root
// filesystem of the architectures today: both flavours, every boot loader, with and without Tor.
func (b *Builder) NewestInputs(ctx context.Context, archs ...string) (Inputs, error) {
	var all Inputs
	for _, arch := range archs {
		for _, list := range []func(context.Context, string) (Inputs, error){b.kernelInputs, b.imageInputs, b.firmwareInputs, b.rootfsInputs} {
			in, err := list(ctx, arch)
			if err != nil {
				return nil, err
			}
			for _, p := range in {
				all = all.with(p)
			}
		}
	}
	return all, all.check()
}

// kernelInputs lists the kernels of the flavours.
func (b *Builder) kernelInputs(ctx context.Context, arch string) (Inputs, error) {
	b, used := b.recording()
	for _, flavour := range []string{"vm", "generic"} {
		p, err := ParsePlatform(arch, flavour)
		if err != nil {
			return nil, err
		}
		if _, err := b.resolveKernel(ctx, p); err != nil {
			return nil, err
		}
	}
	if _, err := b.resolve(ctx, kernelSource, hostArch); err != nil && !errors.Is(err, fs.ErrNotExist) { // Debian 12 has it
		return nil, err
	}
	return used.debs, nil
}

// imageInputs lists the packages of the images of an architecture, without the kernel. It asks apt once
// for each level of the libraries of Tor: a question takes a second.
func (b *Builder) imageInputs(ctx context.Context, arch string) (in Inputs, err error) {
	p, l, err := b.listsOf(ctx, arch)
	if err != nil {
		return nil, err
	}
	names := []string{"busybox-static", "ca-certificates", loaderPackage, grubPackage(p), "tor"}
	for seen := slices.Clone(names); len(names) > 0; {
		known, err := l.show(ctx, "--no-all-versions", names)
		if err != nil {
			return nil, err
		}
		var next []string
		for exact, d := range known {
			if name, _, _ := strings.Cut(exact, "="); !slices.Contains(names, name) || len(d.SHA256) != 64 {
				continue
			}
			in = in.with(packageOf(d))
			if d.Name != "tor" && !libraryName.MatchString(d.Name) {
				continue
			}
			for _, name := range d.libraries() {
				if !slices.Contains(seen, name) {
					seen, next = append(seen, name), append(next, name)
				}
			}
		}
		for _, name := range names {
			if _, ok := in.find(name, p.debian); !ok {
				return nil, notFoundf("package %s (%s): not in apt's lists; run: apt-get update", name, p.debian)
			}
		}
		names = next
	}
	return in, nil
}

// firmwareInputs lists the packages of firmware that this machine's apt knows.
func (b *Builder) firmwareInputs(ctx context.Context, _ string) (Inputs, error) {
	b, used := b.recording()
	_, err := b.resolveKnown(ctx, firmwarePackages())
	return used.debs, err
}

// listsOf returns the lists of an architecture.
func (b *Builder) listsOf(ctx context.Context, arch string) (Platform, lists, error) {
	p, err := ParsePlatform(arch, "vm")
	if err != nil {
		return p, lists{}, err
	}
	l, err := b.lists(ctx, p.debian)
	return p, l, err
}

// rootfsInputs lists the packages of the root filesystem of an architecture.
func (b *Builder) rootfsInputs(ctx context.Context, arch string) (Inputs, error) {
	_, l, err := b.listsOf(ctx, arch)
	if err != nil {
		return nil, err
	}
	var plan []string
	for _, more := range [][]string{nil, dataWords("rootfs/packages-generic")} { // by flavour
		one, err := l.plan(ctx, append(dataWords("rootfs/packages"), more...))
		if err != nil {
			return nil, err
		}
		plan = append(plan, one...)
	}
	slices.Sort(plan)
	plan = slices.Compact(plan)
	known, err := l.show(ctx, "--all-versions", plan)
	if err != nil {
		return nil, err
	}
	var in Inputs
	for _, exact := range plan {
		d, ok := known[exact]
		if !ok {
			return nil, notFoundf("package %s: not in apt's lists; run: apt-get update", exact)
		}
		in = in.with(packageOf(d))
	}
	return in, nil
}

// check refuses a list that ParseInputs would refuse.
func (in Inputs) check() error {
	if _, err := ParseInputs([]byte(in.Text())); err != nil {
		return fmt.Errorf("apt's lists: %w", err)
	}
	return nil
}
