package main

import (
	"testing"

	"github.com/phaseboot/phaseboot/internal/scripttest"
)

func TestMain(m *testing.M) {
	scripttest.Main(m, map[string]func() int{"phase-boot": run})
}

func TestScripts(t *testing.T) { scripttest.Run(t, "testdata/script") }
