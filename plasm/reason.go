package plasm

import (
	"errors"
	"slices"
	"strings"
)

// Reasons for the end of a job, as in a receipt. Each limit has its own.
const (
	ReasonExit    = "exit"    // the job exited; see the exit code
	ReasonTimeout = "timeout" // the time limit was reached
	ReasonCPU     = "cpu"     // the limit of processor time was reached
	ReasonCompile = "compile" // its code was not ready within the limit; it did not run
	ReasonMemory  = "memory"  // memory was refused and the job failed, or it needs too much to start, or its process ran out of memory
	ReasonStack   = "stack"   // its calls are nested too deeply
	ReasonTable   = "table"   // it starts with a larger table than a job may have; it did not run
	ReasonModule  = "module"  // the module is larger than its limit; it did not run
	ReasonOutput  = "output"  // the output limit was reached
	ReasonScratch = "scratch" // the scratch folder was full and the job failed
	ReasonImport  = "import"  // the module imports something that is not granted; it did not run
	ReasonTrap    = "trap"    // another WebAssembly trap: unreachable, out of bounds
	ReasonBounds  = "bounds"  // the module declares more than a job may; it did not run
	ReasonKilled  = "killed"  // the process that ran it ended without a result
)

// KnownReason reports whether a reason is one of the Reason constants.
func KnownReason(reason string) bool {
	return slices.Contains([]string{
		ReasonExit, ReasonTimeout, ReasonCPU, ReasonCompile, ReasonMemory, ReasonStack, ReasonTable, ReasonModule,
		ReasonOutput, ReasonScratch, ReasonImport, ReasonTrap, ReasonBounds, ReasonKilled,
	}, reason)
}

var (
	errTimeout  = errors.New("the job reached its time limit")
	errCPU      = errors.New("the job reached its limit of processor time")
	errCompile  = errors.New("the code of the job was not ready within the limit for its preparation; raise the limit, or choose the interpreter")
	errTooLarge = errors.New("the module starts with more than its limit allows")
	errTable    = errors.New("the module starts with too large a table")
	errStack    = errors.New("the calls of the job are nested too deeply: stack overflow")
	errModule   = errors.New("the module is larger than its limit")
	errImport   = errors.New("the module imports something that no job has; build it for WASI preview 1, without other imports")

	errGroupMemory  = errors.New("its process reached the memory limit of its control group, and the kernel killed it; raise the memory limit")
	errEngineMemory = errors.New("the module's code, stack and memory together need more than the memory limit; raise it by about 25 bytes for each byte of the module")
)

// reasonOf returns the reason of an error that ended a job.
func reasonOf(err error) string {
	for _, row := range []struct {
		err    error
		reason string
	}{
		{errTimeout, ReasonTimeout},
		{errCPU, ReasonCPU},
		{errCompile, ReasonCompile},
		{errHostMemory, ReasonMemory},
		{errTooLarge, ReasonMemory},
		{errEngineMemory, ReasonMemory},
		{errTable, ReasonTable},
		{errModule, ReasonModule},
		{errImport, ReasonImport},
		{errBounds, ReasonBounds},
	} {
		if errors.Is(err, row.err) {
			return row.reason
		}
	}
	if isStackOverflow(err) {
		return ReasonStack
	}
	return ReasonTrap
}

// isStackOverflow reports whether an error is the engine's trap for calls that are nested too deeply. Its
// type is internal to the engine.
func isStackOverflow(err error) bool {
	return strings.TrimPrefix(firstLine(err), "wasm error: ") == "stack overflow"
}
