package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

// objectStore starts an S3 server for one test.
func objectStore(t *testing.T) *s3test.Server {
	t.Helper()
	check(t, s3test.Setenv())
	s, err := s3test.Start(t.TempDir())
	check(t, err)
	t.Cleanup(func() { s.Stop() })
	return s
}

func TestObjectStoreScripts(t *testing.T) {
	s := objectStore(t)
	testscript.Run(t, scripttest.Params("testdata/s3", func(e *testscript.Env) error {
		prefix := "script" + strings.ToLower(strings.Map(letters, filepath.Base(e.WorkDir)))
		e.Vars = append(e.Vars, s3test.Env()...)
		e.Setenv("ENDPOINT", s.Endpoint)
		e.Setenv("AWS_ENDPOINT_URL", s.Endpoint)
		e.Setenv("S3", "s3://"+s3test.Bucket+"/"+prefix)
		e.Setenv("MIRROR", prefix+"-mirror")
		e.Setenv("S3DIR", s.Path(prefix, ""))
		return nil
	}))
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
		return r
	}
	return -1
}

// publishedInBucket makes a folder with a repository, and a store in the object store with release v1.
func publishedInBucket(t *testing.T) (dir, address string, release manifest.Release) {
	t.Helper()
	s := objectStore(t)
	dir = t.TempDir()
	address = s.Address(t.Name())
	check(t, prepare(t.Context(), dir))
	if out, err := publishIn(dir, address, "v1.json", "artifacts"); err != nil {
		t.Fatalf("add: %v\n%s", err, out)
	}
	return dir, address, newestRelease(t, dir)
}

func publishIn(dir, store, file, artifacts string) ([]byte, error) {
	cmd := exec.Command("phase-publish", "add", "--store", store, "--repo", "repo", "--artifacts", artifacts, "--online-key", "online.key", file)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

func TestServeFromAnObjectStore(t *testing.T) {
	t.Parallel()
	dir, address, release := publishedInBucket(t)
	args := append([]string{}, serveArgs...)
	args[2] = address
	d := start(t, dir, args...)
	for _, a := range release.Artifacts {
		want, err := os.ReadFile(filepath.Join(dir, "artifacts", filepath.FromSlash(a.Role)))
		check(t, err)
		if got := get(t, d.ready.HTTP[0]+"/tuf/targets/"+release.Channel+"/"+release.Arch+"/"+hashed(a)); !bytes.Equal(got, want) {
			t.Errorf("%s: %d other bytes", a.Role, len(got))
		}
	}
	d.stop(syscall.SIGTERM)
}

// Two replicas have neither repository nor key. They follow a new release, and one serves on when the
// other is killed.
func TestReplicasFollowThePublisher(t *testing.T) {
	t.Parallel()
	dir, address, release := publishedInBucket(t)
	args := append([]string{}, serveArgs...)
	args[2] = address
	writer := start(t, dir, args...)
	replica := func() *daemon {
		return start(t, t.TempDir(), "serve", "--replica", "--store", address, "--mdns=false", "--dht", "off",
			"--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--metrics", "127.0.0.1:0")
	}
	a, b := replica(), replica()
	for _, d := range []*daemon{a, b} {
		if d.ready.Pointer != writer.ready.Pointer || d.ready.IPNS != writer.ready.IPNS {
			t.Errorf("the replica has %+v, the publisher %+v", d.ready, writer.ready)
		}
		folder, seq, err := p2p.CheckRecord(d.ready.IPNS, get(t, d.ready.HTTP[0]+"/ipns/"+d.ready.IPNS+"?format=ipns-record"))
		if err != nil || folder.String() != d.ready.Pointer || seq != 1 {
			t.Errorf("record of %s, %d, %v", folder, seq, err)
		}
		kernel, _ := release.Artifact(manifest.RoleKernel)
		check(t, cas.Check(kernel.CID, get(t, d.ready.HTTP[0]+"/ipfs/"+kernel.CID.String()+"?format=raw")))
		get(t, d.ready.Metrics[0]+"/healthz")
	}
	check(t, a.cmd.Process.Kill())
	a.cmd.Wait()
	oldTimestamp, err := os.ReadFile(filepath.Join(dir, "repo", "timestamp.json"))
	check(t, err)
	oldRecord := get(t, b.ready.HTTP[0]+"/ipns/"+b.ready.IPNS+"?format=ipns-record")
	if out, err := publishIn(dir, address, "v2.json", "artifacts2"); err != nil {
		t.Fatalf("add: %v\n%s", err, out)
	}
	until(t, func() bool {
		_, seq, err := p2p.CheckRecord(b.ready.IPNS, get(t, b.ready.HTTP[0]+"/ipns/"+b.ready.IPNS+"?format=ipns-record"))
		return err == nil && seq == 2
	})
	writer.stop(syscall.SIGTERM)
	rootfs, _ := newestRelease(t, dir).Artifact(manifest.RoleRootfs)
	get(t, b.ready.HTTP[0]+"/ipfs/"+rootfs.CID.String()+"?format=car")

	// Older metadata in the object store: the replica says so, and serves what it had.
	at, err := bucket.ParseAddress(address)
	check(t, err)
	objects, err := bucket.Dial(at, nil)
	check(t, err)
	newRecord := get(t, b.ready.HTTP[0]+"/ipns/"+b.ready.IPNS+"?format=ipns-record")
	newTimestamp := get(t, b.ready.HTTP[0]+"/tuf/metadata/timestamp.json")
	check(t, objects.Write(t.Context(), "repo/timestamp.json", oldTimestamp, "application/json"))
	check(t, objects.Write(t.Context(), "repo/ipns/"+b.ready.IPNS, oldRecord, "application/vnd.ipfs.ipns-record"))
	until(t, func() bool {
		resp, err := http.Get(b.ready.Metrics[0] + "/healthz")
		check(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		check(t, err)
		return bytes.Contains(body, []byte("timestamp version 1 is older than version 2"))
	})
	if !bytes.Equal(get(t, b.ready.HTTP[0]+"/ipns/"+b.ready.IPNS+"?format=ipns-record"), newRecord) ||
		!bytes.Equal(get(t, b.ready.HTTP[0]+"/tuf/metadata/timestamp.json"), newTimestamp) {
		t.Error("the replica has gone back")
	}
	b.stop(syscall.SIGTERM)
}

// until waits up to a minute for something to become true.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within a minute")
		}
	}
}

// hashed is the path of an artifact below its channel, with its hash, as TUF clients request it.
func hashed(a manifest.Artifact) string {
	dir, base := filepath.Split(a.Role)
	return dir + a.SHA256 + "." + base
}
