package imagebuild

import (
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/kmod"
)

// A listedModule is one word of a list in kernel/: the name of a module or, if it ends in "/", a
// folder of the kernel package below kernel/, which means every module in it. Without a required
// module no image is built. A start module is loaded at start, the others when a device or a mount
// needs them. A left-out module or folder is not taken by a folder's word.
type listedModule struct {
	name                     string
	required, start, leftOut bool
}

// parseModuleList reads a list with one name or folder a line. "!" marks a required module, "+" a module
// to load at start, "-" what to leave out, "@ARCH" a word for one architecture; "#" begins a comment.
func parseModuleList(text, arch string) []listedModule {
	var list []listedModule
	for _, word := range listWords(text) {
		word, only, found := strings.Cut(word, "@")
		if found && only != arch {
			continue
		}
		name := strings.TrimLeft(word, "!+-")
		marks, _ := strings.CutSuffix(word, name)
		list = append(list, listedModule{name, strings.Contains(marks, "!"), strings.Contains(marks, "+"), strings.Contains(marks, "-")})
	}
	return list
}

// Parts of an image that contain modules.
const (
	partBoot   = "boot"   // initramfs of the boot role
	partTarget = "target" // initramfs of the target role
	partRootfs = "rootfs"
)

// moduleLists are the files of kernel/ by flavour and part. A root filesystem for virtual machines has
// no modules.
var moduleLists = map[string]map[string][]string{
	"vm": {
		partBoot:   {"boot-vm"},
		partTarget: {"target"},
	},
	"generic": {
		partBoot:   {"boot-generic", "hardware"},
		partTarget: {"target", "target-generic", "hardware"},
		partRootfs: {"rootfs-generic", "hardware"},
	},
}

// modules returns the list of the modules in a part of an image.
func (p Platform) modules(part string) []listedModule {
	var list []listedModule
	for _, name := range moduleLists[p.Flavour][part] {
		list = append(list, parseModuleList(dataFile("kernel/"+name+".modules"), p.Arch)...)
	}
	return list
}

// inFolder returns the names of the kernel's modules in a folder, sorted.
func (s *moduleSet) inFolder(folder string) (names []string) {
	for name, path := range s.paths {
		if strings.HasPrefix(strings.TrimPrefix(path, "kernel/"), folder) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// leavesOut reports whether a list leaves out a module of the kernel.
func (s *moduleSet) leavesOut(list []listedModule, name string) bool {
	path := strings.TrimPrefix(s.paths[name], "kernel/")
	return slices.ContainsFunc(list, func(w listedModule) bool {
		return w.leftOut && (kmod.Name(w.name) == name || isFolder(w.name) && strings.HasPrefix(path, w.name))
	})
}

func isFolder(name string) bool { return strings.HasSuffix(name, "/") }
