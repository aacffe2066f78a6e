package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// siege runs bench/siege, which is a program of its own.
func (t *tool) siege(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "run", "./bench/siege", "-publish", t.bin+"/phase-publish", "-conns", strconv.Itoa(t.clients))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go run ./bench/siege, from the top of the tree: %w", err)
	}
	return nil
}
