package imagebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/kmod"
)

// A moduleSet is the kernel modules of an initramfs or of a root filesystem.
type moduleSet struct {
	kernel  *Kernel
	paths   map[string]string // all modules of the kernel: path below Modules by name
	builtin map[string]bool
	files   map[string]*module // chosen modules by name
	start   []string           // names to load at start, in order
	absent  []string           // listed, but neither a module nor built in

	builtinText []byte // modules.builtin
}

// A module is one chosen module. path is its path below lib/modules/VERSION.
type module struct {
	path string
	data []byte
	info modinfo
}

// chooseModules returns the listed modules with all their dependencies.
func chooseModules(k *Kernel, list []listedModule) (*moduleSet, error) {
	s := &moduleSet{kernel: k, files: map[string]*module{}}
	if err := s.index(); err != nil {
		return nil, err
	}
	for _, w := range list {
		if w.leftOut {
			continue
		}
		if err := s.choose(w, list); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// choose adds the modules of one word of the list.
func (s *moduleSet) choose(w listedModule, list []listedModule) error {
	if isFolder(w.name) {
		names := s.inFolder(w.name)
		if len(names) == 0 && !strings.Contains("\n"+string(s.builtinText), "\nkernel/"+w.name) {
			s.absent = append(s.absent, w.name)
		}
		for _, name := range names {
			if s.leavesOut(list, name) {
				continue
			}
			if err := s.add(name); err != nil {
				return err
			}
		}
		return nil
	}
	name := kmod.Name(w.name)
	switch {
	case s.builtin[name]:
	case s.paths[name] != "":
		if w.start && !slices.Contains(s.start, name) {
			s.start = append(s.start, name)
		}
		return s.add(name)
	case w.required:
		return notFoundf("kernel %s: no module %s, which is required; choose another --flavour or --kernel", s.kernel.Version, w.name)
	default:
		s.absent = append(s.absent, w.name)
	}
	return nil
}

// index reads the names of all modules and of the built-in ones.
func (s *moduleSet) index() error {
	s.paths, s.builtin = map[string]string{}, map[string]bool{}
	root, err := os.OpenRoot(filepath.Join(s.kernel.dir, s.kernel.Modules))
	if err != nil {
		return fmt.Errorf("kernel %s: %w", s.kernel.Version, err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), "kernel", func(path string, _ fs.DirEntry, err error) error {
		if path == "kernel" && errors.Is(err, fs.ErrNotExist) { // everything is built in
			return nil
		}
		if err == nil && strings.Contains(filepath.Base(path), ".ko") {
			s.paths[kmod.Name(path)] = path
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("kernel %s: %w", s.kernel.Version, err)
	}
	if s.builtinText, err = s.kernel.read(filepath.Join(s.kernel.Modules, builtinList)); err != nil {
		return err
	}
	for line := range strings.Lines(string(s.builtinText)) {
		s.builtin[kmod.Name(line)] = true
	}
	return nil
}

// add adds a module and all its dependencies.
func (s *moduleSet) add(name string) error {
	if s.files[name] != nil || s.builtin[name] {
		return nil
	}
	path := s.paths[name]
	if path == "" {
		return fmt.Errorf("kernel %s: module %s, a dependency: %w", s.kernel.Version, name, cas.ErrCorrupt)
	}
	data, err := s.kernel.readModule(filepath.Join(s.kernel.Modules, path))
	if err != nil {
		return err
	}
	info, err := parseModinfo(data)
	if err != nil {
		return fmt.Errorf("module %s: %w", path, err)
	}
	if info.kernel != "" && info.kernel != s.kernel.Version {
		return optionsf("kernel %s: module %s was built for kernel %.80q; put kernel and modules of one build together", s.kernel.Version, path, info.kernel)
	}
	path, _, _ = strings.Cut(path, ".ko")
	m := &module{path: path + ".ko", data: data, info: info}
	s.files[name] = m
	for _, dep := range info.softdep {
		if dep = kmod.Name(dep); s.paths[dep] != "" { // a softdep may be an alias, and may be absent
			m.info.depends = append(m.info.depends, dep)
		}
	}
	for i, dep := range m.info.depends {
		m.info.depends[i] = kmod.Name(dep)
		if err := s.add(m.info.depends[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *moduleSet) names() []string { return slices.Sorted(maps.Keys(s.files)) }

// dep returns the text of modules.dep as depmod writes it: the file of each module with the
// files of its dependencies, nearest first.
func (s *moduleSet) dep() string {
	var b strings.Builder
	for _, name := range s.names() {
		b.WriteString(s.files[name].path + ":")
		var order []string
		s.closure(name, &order)
		for _, dep := range order {
			b.WriteString(" " + s.files[dep].path)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// closure appends the dependencies of a module, each before its own dependencies.
func (s *moduleSet) closure(name string, order *[]string) {
	for _, dep := range s.files[name].info.depends {
		if s.files[dep] == nil {
			continue
		}
		// a dependency that is already listed moves after the module that also needs it
		if i := slices.Index(*order, dep); i >= 0 {
			*order = slices.Delete(*order, i, i+1)
		}
		*order = append(*order, dep)
		s.closure(dep, order)
	}
}

func (s *moduleSet) alias() string {
	var b strings.Builder
	for _, name := range s.names() {
		for _, a := range s.files[name].info.aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, name)
		}
	}
	return b.String()
}

// absentWarning names the listed modules that the kernel does not have. It is empty if there are
// none.
func (s *moduleSet) absentWarning() string {
	if len(s.absent) == 0 {
		return ""
	}
	text := fmt.Sprintf("kernel %s: modules not found: %s", s.kernel.Version, strings.Join(s.absent, ", "))
	if strings.Contains(s.kernel.Version, "cloud") {
		text += "; this kernel is for VMs with virtio, use --flavour generic for other machines"
	}
	return text
}
