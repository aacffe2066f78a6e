package imagebuild

import (
	"context"
	"errors"
	"testing"
	"time"
)

// firstWrite ends a context when a tool says its first word.
type firstWrite struct{ end context.CancelFunc }

func (w firstWrite) Write(p []byte) (int, error) {
	w.end()
	return len(p), nil
}

func TestAnInterruptReachesTheChildrenOfADeafTool(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	defer end()
	deaf := command("sh", "-c", "trap : TERM; (echo ready; exec sleep 300); exit 1") // as mmdebstrap: it waits for its child first
	deaf.stdout = firstWrite{end}
	start := time.Now()
	if err := deaf.run(ctx); !errors.Is(err, context.Canceled) {
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
