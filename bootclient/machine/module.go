package machine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/kmod"
)

// modules loads kernel modules with their dependencies. It is safe for concurrent use.
type modules struct {
	dir     string              // /lib/modules/VERSION
	file    map[string]string   // module name -> path below dir
	deps    map[string][]string // module name -> names of its dependencies
	builtin map[string]bool
	aliases []alias

	mu     sync.Mutex
	loaded map[string]error // file -> result of its only insertion
	insert func(path string) error
}

// openModules reads modules.dep of a folder, and modules.builtin and modules.alias if they exist
// (modules.dep(5)).
func openModules(dir string) (*modules, error) {
	m := &modules{dir: dir, builtin: map[string]bool{}, loaded: map[string]error{}, insert: insertModule}
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("modules: %w; the initramfs must contain the modules of its own kernel", err)
	}
	if m.file, m.deps, err = parseDep(dep); err != nil {
		return nil, err
	}
	if builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin")); err == nil {
		for line := range strings.Lines(string(builtin)) {
			m.builtin[kmod.Name(strings.TrimSpace(line))] = true
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "modules.alias")); err == nil {
		m.aliases = parseAliases(data)
	}
	return m, nil
}

// openKernelModules opens the modules of the running kernel.
func openKernelModules() (*modules, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	return openModules(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])))
}

// loadModule loads a module of the running kernel.
func loadModule(name string) error {
	m, err := openKernelModules()
	if err != nil {
		return err
	}
	return m.load(name)
}

// parseDep reads `path: dependency dependency …` lines.
func parseDep(data []byte) (file map[string]string, deps map[string][]string, err error) {
	file, deps = map[string]string{}, map[string][]string{}
	for n, line := range bytes.Split(data, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		target, list, ok := strings.Cut(string(line), ":")
		if !ok || !filepath.IsLocal(target) {
			return nil, nil, fmt.Errorf("modules.dep line %d: not `path: dependencies`; run depmod on the folder", n+1)
		}
		name := kmod.Name(target)
		file[name] = target
		for _, d := range strings.Fields(list) {
			deps[name] = append(deps[name], kmod.Name(d))
		}
	}
	return file, deps, nil
}

// loadOrder returns the files to insert for a module, dependencies first. It does not depend on the
// order inside a line of modules.dep: each dependency has its own line.
func (m *modules) loadOrder(name string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	var visit func(string) error
	visit = func(name string) error {
		if seen[name] || m.builtin[name] && m.file[name] == "" {
			return nil
		}
		seen[name] = true
		file, ok := m.file[name]
		if !ok {
			return fmt.Errorf("module %q: %w in modules.dep", name, fs.ErrNotExist)
		}
		for _, d := range m.deps[name] {
			if err := visit(d); err != nil {
				return err
			}
		}
		files = append(files, file)
		return nil
	}
	if err := visit(kmod.Name(name)); err != nil {
		return nil, err
	}
	return files, nil
}

// load inserts a module after its dependencies. A module that is built in or loaded already is no
// error. Each module is tried only once.
func (m *modules) load(name string) error {
	files, err := m.loadOrder(name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, file := range files {
		err, tried := m.loaded[file]
		if !tried {
			err = m.insert(filepath.Join(m.dir, file))
			m.loaded[file] = err
		}
		if err != nil {
			return fmt.Errorf("module %q: %w", kmod.Name(file), err)
		}
	}
	return nil
}

// count returns how many modules were inserted.
func (m *modules) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, err := range m.loaded {
		if err == nil {
			n++
		}
	}
	return n
}

// loadList loads the modules that a file names, one a line; '#' starts a comment. It tries all of
// them and returns their errors together.
func (m *modules) loadList(file string) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), "#")
		if name = strings.TrimSpace(name); name != "" {
			errs = append(errs, m.load(name))
		}
	}
	return errors.Join(append(errs, lines.Err())...)
}

// insertModule gives a module file to the kernel, which must have CONFIG_MODULE_DECOMPRESS for a
// compressed file.
func insertModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	line, _ := os.ReadFile("/proc/cmdline") // without it, a module has its defaults
	err = unix.FinitModule(int(f.Fd()), moduleParameters(string(line), kmod.Name(file)), flags)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) && flags != 0:
		return fmt.Errorf("%w: this kernel cannot decompress modules; build the initramfs with uncompressed .ko files", err)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w: built for another kernel; build the initramfs and the kernel from the same package", err)
	}
	return err
}

// moduleParameters returns the parameters of a module on a kernel command line, such as
// watchdog.stop_on_reboot=0. The kernel itself reads only those of built-in modules.
func moduleParameters(cmdline, module string) string {
	var list []string
	for _, word := range bootargs.SplitWords(cmdline) {
		name, parameter, found := strings.Cut(word, ".")
		if !found || kmod.Name(name) != module {
			continue
		}
		if key, value, _ := strings.Cut(parameter, "="); strings.Contains(value, " ") {
			parameter = key + `="` + value + `"`
		}
		list = append(list, parameter)
	}
	return strings.Join(list, " ")
}
