package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	car "github.com/ipld/go-car/v2"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// A daemon is a phase-publish process.
type daemon struct {
	t     *testing.T
	cmd   *exec.Cmd
	ready publisher.Ready
	log   *pubtest.Log
}

func start(t *testing.T, dir string, args ...string) *daemon {
	t.Helper()
	return startBy(t, dir, exec.Command("phase-publish", args...))
}

// startBy starts a command that executes phase-publish.
func startBy(t *testing.T, dir string, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: cmd, log: pubtest.NewLog()}
	d.cmd.Dir, d.cmd.Stderr = dir, d.log
	out, err := d.cmd.StdoutPipe()
	check(t, err)
	check(t, d.cmd.Start())
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			d.cmd.Process.Kill()
			d.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("%q wrote:\n%s", cmd.Args, d.log.String())
		}
	})
	line := make(chan []byte, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadBytes('\n') // a partial line fails below
		line <- text
	}()
	select {
	case text := <-line:
		if err := json.Unmarshal(text, &d.ready); err != nil {
			t.Fatalf("ready line %q: %v", text, err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("no ready line")
	}
	return d
}

// stop ends the daemon and expects exit code 0.
func (d *daemon) stop(sig syscall.Signal) {
	d.t.Helper()
	check(d.t, d.cmd.Process.Signal(sig))
	d.wait()
}

func (d *daemon) wait() {
	d.t.Helper()
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("%s: %v", d.cmd.Args[1], err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// published makes a folder with a repository, and a store with release v1.
func published(t *testing.T) (dir string, release manifest.Release) {
	t.Helper()
	dir = t.TempDir()
	check(t, prepare(t.Context(), dir))
	if out, err := publish(dir, "v1.json", "artifacts"); err != nil {
		t.Fatalf("add: %v\n%s", err, out)
	}
	return dir, newestRelease(t, dir)
}

// newestRelease is the only release of the repository in a folder.
func newestRelease(t *testing.T, dir string) manifest.Release {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(dir, "repo/root.json"))
	check(t, err)
	releases, err := manifest.Channels(t.Context(), manifest.DirFetcher(filepath.Join(dir, "repo")), root, time.Now())
	check(t, err)
	return releases[0]
}

func publish(dir, file, artifacts string) ([]byte, error) {
	cmd := exec.Command("phase-publish", "add", "--store", "store", "--repo", "repo", "--artifacts", artifacts, "--online-key", "online.key", file)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

var serveArgs = []string{
	"serve", "--store", "store", "--repo", "repo", "--online-key", "online.key", "--ipns-key", "ipns.key", "--mdns=false",
	"--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0",
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	check(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", url, resp.Status, data)
	}
	return data
}

func TestServeIsATrustlessGatewayForAnyHTTPClient(t *testing.T) {
	t.Parallel()
	dir, release := published(t)
	d := start(t, dir, serveArgs...)
	base := d.ready.HTTP[0]

	folder, seq, err := p2p.CheckRecord(d.ready.IPNS, get(t, base+"/ipns/"+d.ready.IPNS+"?format=ipns-record"))
	if err != nil || folder.String() != d.ready.Pointer || seq != 1 {
		t.Errorf("the record says %s, %d, %v; the ready line %s", folder, seq, err, d.ready.Pointer)
	}
	kernel, _ := release.Artifact(manifest.RoleKernel)
	check(t, cas.Check(kernel.CID, get(t, base+"/ipfs/"+kernel.CID.String()+"?format=raw")))

	blocks, err := car.NewBlockReader(bytes.NewReader(get(t, base+"/ipfs/"+kernel.CID.String()+"?format=car")), car.WithTrustedCAR(true))
	check(t, err)
	store := cas.NewMemory()
	for b, err := blocks.Next(); !errors.Is(err, io.EOF); b, err = blocks.Next() {
		check(t, err)
		check(t, cas.Check(b.Cid(), b.RawData()))
		check(t, store.Put(t.Context(), b.Cid(), b.RawData()))
	}
	var got bytes.Buffer
	check(t, cas.Copy(t.Context(), &got, store, kernel.CID, kernel.Length))
	if want, err := os.ReadFile(filepath.Join(dir, "artifacts/kernel")); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the kernel out of the CAR differs (%v)", err)
	}
	d.stop(syscall.SIGTERM)
}

func TestFsckRepairsAStoreFromALivePublisher(t *testing.T) {
	t.Parallel()
	dir, _ := published(t)
	d := start(t, dir, serveArgs...)
	mine := t.TempDir()
	check(t, os.CopyFS(mine, os.DirFS(dir)))
	pack := filepath.Join(mine, "store/pack-00000001.car")
	intact, err := os.ReadFile(pack)
	check(t, err)
	damaged := bytes.Clone(intact)
	for _, at := range []int{len(intact) / 3, len(intact) / 2, len(intact) - 1} {
		damaged[at] ^= 1
	}
	check(t, os.WriteFile(pack, damaged, 0o644))
	fsck := func(args ...string) ([]byte, error) {
		cmd := exec.Command("phase-publish", append([]string{"fsck", "--store", "store", "--repo", "repo"}, args...)...)
		cmd.Dir = mine
		return cmd.CombinedOutput()
	}
	if out, err := fsck(); err == nil {
		t.Fatalf("not found: %s", out)
	}
	if out, err := fsck("--repair", d.ready.HTTP[0]); err != nil || !bytes.Contains(out, []byte("3 faults, 3 repaired")) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := fsck(); err != nil {
		t.Errorf("afterwards: %v: %s", err, out)
	}
	if repaired, err := os.ReadFile(pack); err != nil || !bytes.Equal(repaired, intact) {
		t.Errorf("the pack is not what it was (%v)", err)
	}
	d.stop(syscall.SIGTERM)
}

func TestServeFinishesOpenRequestsWhenItStops(t *testing.T) {
	t.Parallel()
	dir, release := published(t)
	d := start(t, dir, serveArgs...)
	rootfs, _ := release.Artifact(manifest.RoleRootfs)
	resp, err := http.Get(d.ready.HTTP[0] + "/ipfs/" + rootfs.CID.String() + "?format=car")
	check(t, err)
	defer resp.Body.Close()
	begun := rootfs.Length - 12<<20 // the rest is more than sockets buffer
	_, err = io.CopyN(io.Discard, resp.Body, begun)
	check(t, err)
	check(t, d.cmd.Process.Signal(syscall.SIGTERM))
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", strings.TrimPrefix(d.ready.HTTP[0], "http://"))
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(end) {
			t.Fatal("it still accepts connections")
		}
	}
	rest, err := io.Copy(io.Discard, resp.Body)
	if err != nil || begun+rest < rootfs.Length {
		t.Errorf("%d more bytes, %v", rest, err)
	}
	d.wait()
}

func TestServeStopsOnSIGINTTooAndServesTheNextRelease(t *testing.T) {
	t.Parallel()
	dir, _ := published(t)
	d := start(t, dir, serveArgs...)
	if out, err := publish(dir, "v2.json", "artifacts2"); err != nil {
		t.Fatalf("add while serve runs: %v\n%s", err, out)
	}
	d.log.Wait(t, 2, `msg="pointer moved"`)
	folder, seq, err := p2p.CheckRecord(d.ready.IPNS, get(t, d.ready.HTTP[0]+"/ipns/"+d.ready.IPNS+"?format=ipns-record"))
	if err != nil || seq != 2 || folder.String() == d.ready.Pointer {
		t.Errorf("the record names %s, sequence %d, %v", folder, seq, err)
	}
	d.stop(syscall.SIGINT)
}

func TestATakenPortIsNamed(t *testing.T) {
	t.Parallel()
	dir, _ := published(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	addr := l.Addr().String()
	listen := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port)
	for _, tt := range []struct{ name, says string }{
		{"http", "phase-publish: --http " + addr + ": address in use; choose another port or stop the other process\n"},
		{"listen", "phase-publish: listen " + listen + ": address in use; choose another port or stop the other process\n"},
	} {
		args := append([]string{}, serveArgs...)
		for i, a := range args {
			if a == "--"+tt.name {
				args[i+1] = map[string]string{"http": addr, "listen": listen}[tt.name]
			}
		}
		cmd := exec.Command("phase-publish", args...)
		cmd.Dir = dir
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		var ended *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &ended) || ended.ExitCode() != 1 {
			t.Errorf("--%s: %v, want exit code 1", tt.name, err)
		}
		if !strings.HasSuffix(stderr.String(), tt.says) || stdout.Len() > 0 {
			t.Errorf("--%s: stdout %q, stderr %q", tt.name, stdout.String(), stderr.String())
		}
	}
}

func TestAMachineFindsThePublisherThroughABootstrapNode(t *testing.T) {
	t.Parallel()
	dir, _ := published(t)
	node := start(t, dir, "bootstrap", "--root", "repo/root.json", "--identity", "node.key", "--listen", "/ip4/127.0.0.1/tcp/0")
	d := start(t, dir, append(append([]string{}, serveArgs...), "--bootstrap", node.ready.Listen[0])...)
	enter, err := p2p.ParsePeers(node.ready.Listen)
	check(t, err)
	machine, err := p2p.New(t.Context(), p2p.Options{DHT: p2p.DHTClient, Prefix: "/phaseboot/" + d.ready.IPNS, Bootstrap: enter})
	check(t, err)
	defer machine.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var rec []byte
	for rec == nil { // until the publisher has announced to the node
		if rec, err = machine.GetIPNS(ctx, d.ready.IPNS); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	folder, _, err := p2p.CheckRecord(d.ready.IPNS, rec)
	check(t, err)
	for found := false; !found; {
		check(t, ctx.Err())
		for p := range machine.FindProviders(ctx, folder) {
			gw, err := machine.Gateway(ctx, p)
			check(t, err)
			_, err = cas.Get(ctx, gw, folder)
			check(t, err)
			found = true
		}
	}
	again := node.ready.Peer
	d.stop(syscall.SIGTERM)
	node.stop(syscall.SIGTERM)
	node = start(t, dir, "bootstrap", "--prefix", "/phaseboot/"+d.ready.IPNS, "--identity", "node.key", "--listen", "/ip4/127.0.0.1/tcp/0")
	if node.ready.Peer != again {
		t.Error("the identity did not last")
	}
	node.stop(syscall.SIGTERM)
}
