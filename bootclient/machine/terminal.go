package machine

import (
	"os"
	"path/filepath"
	"strings"
)

// consoleWorks reports whether the device of a console= value is in this machine.
// sys is where sysfs is mounted. A kind of device that sysfs does not describe
// counts as there.
func consoleWorks(sys, device string) bool {
	if strings.HasPrefix(device, "tty") && strings.Trim(device[len("tty"):], "0123456789") == "" {
		return hasScreen(sys)
	}
	dir := filepath.Join(sys, "class/tty", device)
	if kind, err := os.ReadFile(filepath.Join(dir, "type")); err == nil {
		return strings.TrimSpace(string(kind)) != "0" // PORT_UNKNOWN: an address without a UART
	}
	if !strings.HasPrefix(device, "tty") && !strings.HasPrefix(device, "hvc") {
		return true
	}
	_, err := os.Stat(dir)
	return err == nil
}

// hasScreen reports whether the virtual terminals are shown anywhere: the kernel
// binds them to a dummy where it found no screen.
func hasScreen(sys string) bool {
	drivers, err := filepath.Glob(filepath.Join(sys, "class/vtconsole/vtcon*"))
	if err != nil {
		return false
	}
	for _, dir := range drivers {
		name, err := os.ReadFile(filepath.Join(dir, "name"))
		bound, boundErr := os.ReadFile(filepath.Join(dir, "bind"))
		if err == nil && boundErr == nil && strings.TrimSpace(string(bound)) == "1" && !strings.Contains(string(name), "dummy") {
			return true
		}
	}
	return false
}
