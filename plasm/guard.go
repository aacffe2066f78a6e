package plasm

import (
	"context"
	"sync/atomic"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"
)

// A guard stops a job at its next call once its context has ended. wazero looks at
// the context at the head of every loop only: a job that recurses, and never loops,
// would outrun each of its limits.
type guard struct{ ended atomic.Bool }

// watch attaches the guard to the functions of modules compiled under the returned
// context.
func (g *guard) watch(ctx context.Context) context.Context {
	context.AfterFunc(ctx, func() { g.ended.Store(true) })
	return experimental.WithFunctionListenerFactory(ctx, g)
}

// NewFunctionListener implements experimental.FunctionListenerFactory.
func (g *guard) NewFunctionListener(api.FunctionDefinition) experimental.FunctionListener { return g }

// Before implements experimental.FunctionListener.
func (g *guard) Before(context.Context, api.Module, api.FunctionDefinition, []uint64, experimental.StackIterator) {
	if g.ended.Load() {
		// The engine's own way to end a module: it unwinds the guest's stack and
		// comes out of Call as this error.
		panic(sys.NewExitError(sys.ExitCodeContextCanceled))
	}
}

// After implements experimental.FunctionListener.
func (g *guard) After(context.Context, api.Module, api.FunctionDefinition, []uint64) {}

// Abort implements experimental.FunctionListener.
func (g *guard) Abort(context.Context, api.Module, api.FunctionDefinition, error) {}
