// Command greedy is a job that asks its host for things. Its name, the only thing
// that it is given, says which. It exits 0 when it was refused every one of them.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// wishes maps a job's name to what it tries. Each returns an error when refused.
var wishes = map[string][]func() error{
	"files": {
		func() error { _, err := os.ReadDir("/"); return err },
		func() error { _, err := os.ReadFile("/etc/passwd"); return err },
		func() error { _, err := os.ReadFile("../../etc/passwd"); return err },
		func() error { _, err := os.Open("."); return err },
		func() error { return os.WriteFile("/tmp/greedy", []byte("x"), 0o600) },
		func() error { return os.Remove("/tmp") },
		func() error { _, err := os.NewFile(3, "preopened").Stat(); return err },
	},
	// Go's own net package is a fake on wasip1, and never asks the host. What a host
	// could grant is a socket that it opened before.
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
	for _, wish := range wishes[os.Args[0]] {
		err := wish()
		fmt.Println(err)
		if err == nil {
			os.Exit(9)
		}
	}
}

// refusedIf says no in the words of an error.
func refusedIf(no bool) error {
	if no {
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
