package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
)

// drivers are the modules and the firmware in a root filesystem.
type drivers struct {
	files   map[string][]byte // by path
	version string            // of the kernel
	modules int
	date    time.Time
}

// drivers returns the modules of flavour generic with the indexes of depmod, which udev reads, and their
// firmware. For flavour vm there are none.
func (b *Builder) drivers(ctx context.Context, r Rootfs) (*drivers, error) {
	list := r.Platform.modules(partRootfs)
	if len(list) == 0 {
		return &drivers{}, nil
	}
	kernel, err := b.Kernel(ctx, r.Platform, r.KernelFrom)
	if err != nil {
		return nil, err
	}
	defer b.progress.step("modules of kernel " + kernel.Version)()
	set, err := chooseModules(kernel, list)
	if err != nil {
		return nil, err
	}
	firmware, err := b.firmware(ctx, r.Platform, set)
	if err != nil {
		return nil, err
	}
	for _, text := range []string{set.absentWarning(), firmware.warning()} {
		if text != "" {
			b.progress.printf("rootfs: %s", text)
		}
	}
	d := &drivers{files: map[string][]byte{}, version: kernel.Version, modules: len(set.files), date: kernel.Time}
	for name, data := range firmware.files {
		d.files["usr/lib/firmware/"+name] = data
	}
	return d, b.addTree(ctx, d, set)
}

// addTree adds usr/lib/modules/VERSION.
func (b *Builder) addTree(ctx context.Context, d *drivers, set *moduleSet) error {
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	dir := filepath.Join(tmp, "lib/modules", d.version)
	for _, m := range set.files {
		name := filepath.Join(dir, m.path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, m.data, 0o644)); err != nil {
			return file.FullDisk(err)
		}
	}
	// depmod writes its indexes in the order of modules.order
	for _, name := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		text, err := set.kernel.read(filepath.Join(set.kernel.Modules, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return file.FullDisk(err)
		}
	}
	if err := command("depmod", "-b", tmp, d.version).run(ctx); err != nil {
		return fmt.Errorf("modules of kernel %s: %w", d.version, err)
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		d.files["usr/lib/modules/"+d.version+"/"+name], err = os.ReadFile(path)
		return err
	})
}
