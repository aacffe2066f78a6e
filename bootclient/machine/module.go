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

	"github.com/phaseboot/phaseboot/internal/kmod"
)

// modules loads kernel modules with their dependencies. It is safe for use by
// several goroutines.
type modules struct {
	dir     string              // /lib/modules/VERSION
	file    map[string]string   // module name -> path below dir
	needs   map[string][]string // module name -> names of its dependencies
	builtin map[string]bool
	aliases []alias

	mu     sync.Mutex
	loaded map[string]error
	insert func(path string) error
}

// openModules reads modules.dep of a folder, and modules.builtin and
// modules.alias where they exist (see modules.dep(5)).
func openModules(dir string) (*modules, error) {
	m := &modules{dir: dir, builtin: map[string]bool{}, loaded: map[string]error{}, insert: insertModule}
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("modules: %w; the initramfs must carry the modules of the kernel that it is booted with", err)
	}
	if m.file, m.needs, err = parseDep(dep); err != nil {
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

// parseDep reads `path: dependency dependency …` lines.
func parseDep(data []byte) (file map[string]string, needs map[string][]string, err error) {
	file, needs = map[string]string{}, map[string][]string{}
	for n, line := range bytes.Split(data, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		target, deps, ok := strings.Cut(string(line), ":")
		if !ok || !filepath.IsLocal(target) {
			return nil, nil, fmt.Errorf("modules.dep line %d: not `path: dependencies`; run depmod on the folder", n+1)
		}
		name := kmod.Name(target)
		file[name] = target
		for _, d := range strings.Fields(deps) {
			needs[name] = append(needs[name], kmod.Name(d))
		}
	}
	return file, needs, nil
}

// order returns the files to insert for a module, dependencies first. The order
// inside a modules.dep line is not relied on: each dependency has its own line.
func (m *modules) order(name string) ([]string, error) {
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
		for _, d := range m.needs[name] {
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

// load inserts a module after its dependencies. One that is built in or there
// already is no error. A module is tried once.
func (m *modules) load(name string) error {
	files, err := m.order(name)
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

// loadList loads every module that a file names, one a line, '#' starts a
// comment. It tries all of them and returns their errors together.
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

// insertModule gives a module file to the kernel. A compressed one needs a
// kernel that unpacks it (CONFIG_MODULE_DECOMPRESS).
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
	err = unix.FinitModule(int(f.Fd()), "", flags)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) && flags != 0:
		return fmt.Errorf("%w: this kernel does not unpack modules; build the initramfs with plain .ko files", err)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w: built for another kernel; build the initramfs and the kernel from one package", err)
	}
	return err
}
