package machine

import (
	"os"
	"strings"

	"github.com/phaseboot/phaseboot/manifest"
)

// compatibleFile names the machine, the most specific name first (Devicetree Specification, 2.3.1). A machine
// with ACPI does not have it.
const compatibleFile = "/sys/firmware/devicetree/base/compatible"

// maxCompatible bounds the names of a machine that are compared.
const maxCompatible = 16

// compatible returns the names of this machine, none for a machine with ACPI.
func compatible(file string) []string {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	names := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	return names[:min(len(names), maxCompatible)]
}

// deviceTreeOf returns the role of the device tree that a release has for a machine: dtb/NAME.dtb, where
// NAME is the first of the machine's names for which there is one. It is empty for none.
func deviceTreeOf(r manifest.Release, compatible []string) string {
	for _, name := range compatible {
		role := "dtb/" + name + ".dtb"
		if _, ok := r.Artifact(role); ok {
			return role
		}
	}
	return ""
}

func isDeviceTree(role string) bool { return strings.HasPrefix(role, "dtb/") }
