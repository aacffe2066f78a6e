package plasm

import (
	"runtime/debug"
	"sync"
)

const enginePath = "github.com/tetratelabs/wazero"

// EngineVersion returns the name and version of the engine of this program, for example "wazero v1.12.0".
var EngineVersion = sync.OnceValue(func() string {
	info, _ := debug.ReadBuildInfo()
	for _, dep := range info.Deps {
		if dep.Path == enginePath {
			return "wazero " + dep.Version
		}
	}
	return "wazero"
})
