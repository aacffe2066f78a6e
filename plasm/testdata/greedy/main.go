// Command greedy is a job that tries to use resources of its host. Its name, its only argument, says
// which. It exits with 0 if each of them was refused.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// attempts maps a job's name to its attempts. Each returns an error if it was refused.
var attempts = map[string][]func() error{
	"files": {
		func() error { _, err := os.ReadDir("/"); return err },
		func() error { _, err := os.ReadFile("/etc/passwd"); return err },
		func() error { _, err := os.ReadFile("../../etc/passwd"); return err },
		func() error { _, err := os.Open("."); return err },
		func() error { return os.WriteFile("/tmp/greedy", []byte("x"), 0o600) },
		func() error { return os.Remove("/tmp") },
		func() error { _, err := os.NewFile(3, "preopened").Stat(); return err },
	},
	// On wasip1, Go's net package never calls the host. A host could only grant a socket that it
	// has opened before.
	"network": {
		func() error { _, err := net.Dial("tcp", "127.0.0.1:80"); return err },
		func() error { _, err := net.FileListener(os.NewFile(3, "socket")); return err },
	},
	"environment": {
		func() error { return refusedIf(len(os.Environ()) == 0) },
		func() error { return refusedIf(len(os.Args) == 1) },
		func() error { n, err := os.Stdin.Read(make([]byte, 1)); return refusedIf(n == 0 && err == io.EOF) },
	},
	"clock": {
		func() error { return refusedIf(time.Now().Year() == 2022) },
	},
	"exit-3":   {func() error { os.Exit(3); return nil }},
	"panic":    {func() error { panic("\x1b[31mred") }},
	"allocate": {func() error { grow(); return nil }},
	"sleep":    {func() error { time.Sleep(24 * time.Hour); return errors.New("the clock is not real") }},
	"loop":     {func() error { return spin() }},
}

func main() {
	for _, attempt := range attempts[os.Args[0]] {
		err := attempt()
		fmt.Println(err)
		if err == nil {
			os.Exit(9)
		}
	}
}

// refusedIf returns an error if refused is set.
func refusedIf(refused bool) error {
	if refused {
		return errors.New("refused: nothing there")
	}
	return nil
}

func grow() {
	var kept [][]byte
	for {
		kept = append(kept, make([]byte, 1<<20))
	}
}

func spin() error {
	for i := 0; ; i++ {
		if i < 0 {
			i = 0
		}
	}
}
