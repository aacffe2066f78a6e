package bucket_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/phaseboot/phaseboot/internal/s3test"
)

// server is the S3 server of all tests. Each test has a prefix of its own.
var server *s3test.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(childAddress) != "" { // a child of a test, which is killed
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "phase-s3-")
	if err == nil {
		defer os.RemoveAll(dir)
		if err = s3test.Setenv(); err == nil {
			server, err = s3test.Start(dir)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "s3test:", err)
		return 1
	}
	defer server.Stop()
	return m.Run()
}
