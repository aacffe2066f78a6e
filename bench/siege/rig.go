package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
	"github.com/phaseboot/phaseboot/signer"
	"github.com/phaseboot/phaseboot/signer/key"
)

const (
	rootfsSize = 8 << 20
	zerosSize  = 64 << 20 // of the initramfs: a few blocks, many times
)

// A rig is a running publisher with one release.
type rig struct {
	cmd           *exec.Cmd
	ready         publisher.Ready
	peer          peer.AddrInfo
	rootfs, zeros manifest.Artifact
}

// newRig makes a release in dir and serves it with the program at path.
func newRig(ctx context.Context, dir, path string) (*rig, error) {
	release, err := publish(ctx, dir)
	if err != nil {
		return nil, err
	}
	r := &rig{}
	r.rootfs, _ = release.Artifact(manifest.RoleRootfs)
	r.zeros, _ = release.Artifact(manifest.RoleInitramfs)
	r.cmd = exec.Command(path, "serve", "--store", "store", "--repo", "repo", "--online-key", "online.key", "--ipns-key", "ipns.key",
		"--mdns=false", "--dht", "off", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--metrics", "127.0.0.1:0", "--log-level", "error")
	r.cmd.Dir, r.cmd.Stderr = dir, os.Stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r.ready)
	}
	var self []peer.AddrInfo
	if err == nil {
		self, err = p2p.ParsePeers(r.ready.Listen)
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("phase-publish serve: %w", err)
	}
	r.peer = self[0]
	return r, nil
}

func (r *rig) close() error {
	r.cmd.Process.Signal(syscall.SIGTERM)
	return r.cmd.Wait()
}

// addr returns host:port of plain HTTP.
func (r *rig) addr() string { return strings.TrimPrefix(r.ready.HTTP[0], "http://") }

// node returns host:port of libp2p.
func (r *rig) node() string {
	port, _ := r.peer.Addrs[0].ValueForProtocol(multiaddr.P_TCP) // serve listens only on TCP
	return net.JoinHostPort("127.0.0.1", port)
}

// rss returns the publisher's resident memory in bytes.
func (r *rig) rss() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.cmd.Process.Pid))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// metric reads one of the publisher's metrics. The name includes the labels.
func (r *rig) metric(name string) float64 {
	resp, err := http.Get(r.ready.Metrics[0] + "/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			if err == nil {
				return f
			}
		}
	}
	return 0
}

// publish makes keys, a repository and a release in dir.
func publish(ctx context.Context, dir string) (r manifest.Release, err error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	keys := map[string]key.Key{}
	for _, name := range []string{"root", "release", "online", "ipns"} {
		if keys[name], err = key.Generate(ctx, at(name+".key"), nil); err != nil {
			return r, err
		}
	}
	for name, data := range map[string]io.Reader{
		"kernel": noise(1, 4<<20), "initramfs": io.LimitReader(zero{}, zerosSize), "rootfs": noise(2, rootfsSize),
	} {
		if err := write(at("artifacts/"+name), data); err != nil {
			return r, err
		}
	}
	day := 24 * time.Hour
	if _, err := signer.Init(ctx, signer.InitSpec{
		Dir: at("repo"), Root: []key.Key{keys["root"]}, RootThreshold: 1,
		Release: []ed25519.PublicKey{keys["release"].Public()}, ReleaseThreshold: 1,
		Online: keys["online"].Public(), IPNS: keys["ipns"].Public(), Channels: []string{"stable"}, Archs: []string{"x86_64"},
		Now: time.Now(), RootLifetime: day, TargetsLifetime: day,
	}); err != nil {
		return r, err
	}
	if _, err := signer.Release(ctx, signer.ReleaseSpec{
		ManifestSpec: signer.ManifestSpec{
			Repo: at("repo"), Channel: "stable", Arch: "x86_64", Lifetime: day / 2, Keys: []key.Key{keys["release"]}, Out: at("release.json"), Now: time.Now(),
		},
		Version: "siege", Kernel: at("artifacts/kernel"), Initramfs: at("artifacts/initramfs"), Rootfs: at("artifacts/rootfs"),
		Chunker: cas.DefaultChunker, Unchecked: true,
	}); err != nil {
		return r, err
	}
	data, err := os.ReadFile(at("release.json"))
	if err != nil {
		return r, err
	}
	if _, err := ingest.Add(ctx, ingest.Options{
		Store: at("store"), Repo: at("repo"), Artifacts: at("artifacts"), Manifest: data,
		Online: repo.OnlineKey{Signer: keys["online"].Signer(), Public: keys["online"].Public()},
	}); err != nil {
		return r, err
	}
	status, err := store.ReadStatus(ctx, store.StatusOptions{Store: at("store"), Repo: at("repo")})
	if err != nil {
		return r, err
	}
	return status.Releases[0], nil
}

func noise(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func write(path string, data io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
