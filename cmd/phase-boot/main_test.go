package main

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

func TestMain(m *testing.M) {
	scripttest.Main(m, map[string]func() int{"phase-boot": run})
}

// TestScripts gives every script a root.json without sources: only the sources that the script names
// are used.
func TestScripts(t *testing.T) {
	testscript.Run(t, scripttest.Params("testdata/script", func(e *testscript.Env) error { return writeRoot(context.Background(), e.WorkDir) }))
}

// writeRoot makes a repository and its keys in dir.
func writeRoot(ctx context.Context, dir string) error {
	keys := map[string]key.Key{}
	for _, role := range []string{"root", "release", "online", "ipns"} {
		key, err := key.Generate(ctx, filepath.Join(dir, role+".key"), nil)
		if err != nil {
			return err
		}
		keys[role] = key
	}
	_, err := signer.Init(ctx, signer.InitSpec{
		Dir: dir, Root: []key.Key{keys["root"]}, RootThreshold: 1,
		Release: []ed25519.PublicKey{keys["release"].Public()}, ReleaseThreshold: 1,
		Online: keys["online"].Public(), IPNS: keys["ipns"].Public(), Channels: []string{"stable"}, Archs: []string{"x86_64"},
		Now: time.Now(), RootLifetime: 24 * time.Hour, TargetsLifetime: 24 * time.Hour,
	})
	return err
}
