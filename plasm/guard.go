package plasm

import (
	"context"
	"sync/atomic"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"
)

// A guard stops a job at its next function call after its context has ended. wazero checks the context
// only at the start of each loop: without the guard, a job that recurses and never loops would not be
// stopped.
type guard struct{ ended atomic.Bool }

// watch attaches the guard to the functions of modules that are compiled with the returned context.
func (g *guard) watch(ctx context.Context) context.Context {
	context.AfterFunc(ctx, func() { g.ended.Store(true) })
	return experimental.WithFunctionListenerFactory(ctx, g)
}

func (g *guard) NewFunctionListener(api.FunctionDefinition) experimental.FunctionListener { return g }

func (g *guard) Before(context.Context, api.Module, api.FunctionDefinition, []uint64, experimental.StackIterator) {
	if g.ended.Load() {
		// The engine handles this panic: it unwinds the guest's stack, and Call returns this error.
		panic(sys.NewExitError(sys.ExitCodeContextCanceled))
	}
}

func (g *guard) After(context.Context, api.Module, api.FunctionDefinition, []uint64) {}

func (g *guard) Abort(context.Context, api.Module, api.FunctionDefinition, error) {}
