// Package kmod spells the names of Linux kernel modules. imagebuild uses it when it
// writes modules.dep and modules.alias, bootclient/machine when it reads them and loads
// the modules: both must call a module by the same name. It is a leaf, opens no file and
// loads nothing.
package kmod

import (
	"path"
	"strings"
)

// Name returns the kernel's name of a module file: nls_iso8859_1 for
// kernel/fs/nls/nls_iso8859-1.ko.xz. A name without a folder or ".ko" is allowed.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
