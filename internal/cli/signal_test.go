package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestMain lets the tests run a program that ignores the end of its context.
func TestMain(m *testing.M) {
	if os.Getenv("PHASE_TEST_DEAF") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := Interruptible()
	defer stop()
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println("first")
	select {}
}

func TestTheSecondSignalEndsTheProgram(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			// a shell that starts it in the background has it ignore SIGINT
			cmd := exec.Command("sh", "-c", `trap "" INT; exec "$0"`, os.Args[0])
			cmd.Env = append(os.Environ(), "PHASE_TEST_DEAF=1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, want := range []string{"ready", "first"} {
				if !lines.Scan() || lines.Text() != want {
					t.Errorf("it says %q, not %q", lines.Text(), want)
				}
				if err := cmd.Process.Signal(signal); err != nil {
					t.Error(err)
				}
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != ExitInterrupted {
				t.Errorf("it ends with %v, want exit code %d", err, ExitInterrupted)
			}
		})
	}
}
