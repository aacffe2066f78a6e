package bootset

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Names of the files of a set in its folder, and the roles of the artifacts of a release that become them.
const (
	KernelFile    = "vmlinuz"
	InitramfsFile = "initramfs.zst"
	EntriesFolder = "loader/entries"
	MenuFile      = "loader/loader.conf"
)

// Tries is how often systemd-boot starts a new set that was not blessed.
const Tries = 3

// A layout is where an architecture has its sets.
type layout struct{ arch, folder, suffix string }

var layouts = []layout{
	{"x86_64", "phase", ""},
	{"arm64", "phase/arm64", "_arm64"},
}

func layoutOf(arch string) (layout, bool) {
	for _, l := range layouts {
		if l.arch == arch {
			return l, true
		}
	}
	return layout{}, false
}

// An ID names a renewed set.
type ID struct {
	Number int64  `json:"role_version"` // of the release, by which a set is newer than another
	Digest string `json:"digest"`       // of its files
}

var idGrammar = regexp.MustCompile(`^([1-9][0-9]{0,15})-([0-9a-f]{16})$`)

// String is the name of the set's folder.
func (id ID) String() string { return fmt.Sprintf("%d-%s", id.Number, id.Digest) }

// ParseID reads the name of a folder.
func ParseID(s string) (id ID, ok bool) {
	m := idGrammar.FindStringSubmatch(s)
	if m == nil {
		return id, false
	}
	id.Number, _ = strconv.ParseInt(m[1], 10, 64) // the grammar allows 16 digits
	id.Digest = m[2]
	return id, true
}

// Digest returns the digest in the name of a set from the SHA-256 of its files in hex. It names a set; it does not
// protect one.
func Digest(kernel, initramfs string) string {
	sum := sha256.Sum256([]byte(kernel + "\n" + initramfs + "\n"))
	return fmt.Sprintf("%x", sum[:8])
}

// A Name is that of a boot entry.
type Name struct {
	Mode, Arch string
	Number     int64 // of the set; 0 is the one that the stick was built with
	Counted    bool  // systemd-boot counts its starts
	Left, Done int   // starts that are left, and that were made
}

var nameGrammar = regexp.MustCompile(`^([a-z0-9-]{1,32})(_arm64)?(?:_([1-9][0-9]{0,15})(?:\+(0|[1-9][0-9]?)(?:-([1-9][0-9]?))?)?)?\.conf$`)

// ParseName reads the name of a file in EntriesFolder, in lower case.
func ParseName(s string) (n Name, ok bool) {
	m := nameGrammar.FindStringSubmatch(s)
	if m == nil {
		return n, false
	}
	n = Name{Mode: m[1], Arch: "x86_64", Counted: m[4] != ""}
	if m[2] != "" {
		n.Arch = "arm64"
	}
	n.Number, _ = strconv.ParseInt(m[3], 10, 64) // 0 for "", and the grammar bounds all three
	n.Left, _ = strconv.Atoi(m[4])
	n.Done, _ = strconv.Atoi(m[5])
	return n, true
}

// String is the name of the file.
func (n Name) String() string {
	l, _ := layoutOf(n.Arch)
	s := n.Mode + l.suffix
	if n.Number > 0 {
		s += fmt.Sprintf("_%d", n.Number)
	}
	if n.Counted {
		s += fmt.Sprintf("+%d", n.Left)
	}
	if n.Counted && n.Done > 0 {
		s += fmt.Sprintf("-%d", n.Done)
	}
	return s + ".conf"
}

var titleGrammar = regexp.MustCompile(` \(boot set [0-9]+, release ([A-Za-z0-9][A-Za-z0-9._+~-]{0,63})\)$`)

// Text returns the boot entry of a renewed set. built is that of the set that the stick was built with in
// the same mode, of which everything stays but the files, the title and the version.
func Text(built, arch string, id ID, release string) string {
	l, _ := layoutOf(arch)
	var b strings.Builder
	for line := range strings.Lines(built) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		switch key {
		case "title":
			value += fmt.Sprintf(" (boot set %d, release %s)", id.Number, release)
		case "linux":
			value = "/" + l.folder + "/" + id.String() + "/" + KernelFile
		case "initrd":
			value = "/" + l.folder + "/" + id.String() + "/" + InitramfsFile
		}
		fmt.Fprintf(&b, "%-8s %s\n", key, value)
		if key == "sort-key" {
			fmt.Fprintf(&b, "%-8s %d\n", "version", id.Number)
		}
	}
	return b.String()
}

// ReleaseOf returns the release in the entry of a renewed set. ok is false unless Text has written it.
func ReleaseOf(text, built, arch string, id ID) (release string, ok bool) {
	title, _, _ := strings.Cut(text, "\n")
	m := titleGrammar.FindStringSubmatch(title)
	if m == nil || Text(built, arch, id, m[1]) != text {
		return "", false
	}
	return m[1], true
}
