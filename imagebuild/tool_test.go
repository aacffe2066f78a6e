package imagebuild

import (
	"context"
	"errors"
	"testing"
	"time"
)

// firstWrite cancels a context at the first output of a tool.
type firstWrite struct{ end context.CancelFunc }

func (w firstWrite) Write(p []byte) (int, error) {
	w.end()
	return len(p), nil
}

func TestAnInterruptEndsTheChildrenOfAToolThatIgnoresSignals(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	defer end()
	shell := command("sh", "-c", "trap : TERM; (echo ready; exec sleep 300); exit 1") // like mmdebstrap, it first waits for its child
	shell.stdout = firstWrite{end}
	start := time.Now()
	if err := shell.run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAToolIsNotStartedAfterAnInterrupt(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := command("sh", "-c", "exit 0").run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
