package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
	"github.com/phaseboot/phaseboot/plasm/client"
	"github.com/phaseboot/phaseboot/plasm/order"
)

// A site is three network namespaces: that of the test, with a publisher, which is a router between a LAN with the
// machines and another LAN.
type site struct {
	t              *testing.T
	dir            string // working folder of all commands
	machines, away *netns.LAN
	publisher      string // its address in the LAN of the machines
	stopPublisher  func()
}

// newSite publishes two releases. The files of the first are in phase; the second has reverse.wasm in addition.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	bin := filepath.Join(s.dir, "bin")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin+"/", "../phase-sign", "../phase-publish", "../phase-boot")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, job := range []string{"hello", "reverse"} {
		wasm(t, filepath.Join(s.dir, "artifacts/job", job+".wasm"), "../../plasm/jobs/"+job)
	}
	check(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	s.machines, s.away = s.lan(1), s.lan(2)
	s.run("sh", "-euxc", publish)
	s.publish()
	s.run("phase-boot", "fetch", "--root", "repo/root.json", "--mode", "private", "--mirror", "http://10.77.1.2:8080", "--out", "phase")
	s.run("sh", "-euxc", publishAgain)
	s.run("phase-boot", "fetch", "--root", "repo/root.json", "--mode", "edge", "--mirror", "http://10.77.1.2:8080", "--cache", "cache", "--out", "newer")
	return s
}

const publish = `
for key in root release online ipns ci other machine; do phase-sign key generate --no-passphrase --out $key; done
phase-sign init --repo repo --root-key root --release-key release.pub --online-key online.pub --ipns-key ipns.pub --channel stable --arch x86_64 --arch arm64
echo kernel >artifacts/kernel
echo initramfs >artifacts/initramfs
for arch in x86_64 arm64; do
	phase-sign release --unchecked --repo repo --channel stable --arch $arch --release 1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
		--job artifacts/job/hello.wasm --submitter ci.pub=stdin --key release --force --out release.json
	phase-publish add --store store --repo repo --artifacts artifacts --online-key online release.json
done
`

const publishAgain = `
phase-sign release --unchecked --repo repo --channel stable --arch x86_64 --release 2 --kernel artifacts/kernel --initramfs artifacts/initramfs \
	--job artifacts/job/reverse.wasm --submitter ci.pub --key release --force --out release.json
phase-publish add --store store --repo repo --artifacts artifacts --online-key online release.json
`

// lan makes LAN n, 10.77.n.0/24, in which the test is .2 and the router.
func (s *site) lan(n int) *netns.LAN {
	s.t.Helper()
	l := netns.NewLAN(s.t)
	link, err := netlink.LinkByName(l.Cable(n))
	check(s.t, err)
	router := "10.77." + string(rune('0'+n)) + ".2"
	addr, err := netlink.ParseAddr(router + "/24")
	check(s.t, err)
	check(s.t, errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)))
	l.Plug(n)
	l.Run("ip", "route", "add", "default", "via", router)
	return l
}

// run runs a command in the namespace of the test.
func (s *site) run(name string, args ...string) string {
	s.t.Helper()
	out, code := s.result(exec.Command(name, args...))
	if code != 0 {
		s.t.Fatalf("%s %q: exit code %d\n%s", name, args, code, out)
	}
	return out
}

// result runs a command, and returns what it printed and its exit code.
func (s *site) result(cmd *exec.Cmd) (out string, code int) {
	s.t.Helper()
	cmd.Dir = s.dir
	text, err := cmd.CombinedOutput()
	if err != nil && exitCodeOf(err) == 0 {
		s.t.Fatal(err)
	}
	return string(text), exitCodeOf(err)
}

// daemon starts a command that prints a JSON line when it is ready, and decodes that. stop ends it.
func (s *site) daemon(cmd *exec.Cmd, ready any) (stop func()) {
	s.t.Helper()
	var log bytes.Buffer
	cmd.Dir, cmd.Stderr = s.dir, &log
	out, err := cmd.StdoutPipe()
	check(s.t, err)
	check(s.t, cmd.Start())
	ended := false
	stop = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
		if s.t.Failed() {
			s.t.Logf("%s\n%s", cmd, &log)
		}
	}
	s.t.Cleanup(stop)
	if err := json.NewDecoder(out).Decode(ready); err != nil {
		stop()
		s.t.Fatalf("%s is not ready: %v\n%s", cmd, err, &log)
	}
	return stop
}

// publish starts phase-publish serve, which is also a node of the DHT.
func (s *site) publish() {
	s.t.Helper()
	var ready struct{ Peer string }
	s.stopPublisher = s.daemon(exec.Command("phase-publish", "serve", "--store", "store", "--repo", "repo", "--online-key", "online", "--ipns-key", "ipns"), &ready)
	s.publisher = "/ip4/10.77.1.2/tcp/4001/p2p/" + ready.Peer
}

// A daemonLine is what plasmd serve prints.
type daemonLine struct {
	Machine, Peer   string
	Listen, Metrics []string
}

// info returns how a machine is reached.
func (d daemonLine) info(t *testing.T) peer.AddrInfo {
	t.Helper()
	for _, text := range d.Listen {
		if strings.HasPrefix(text, "/ip4/10.77.1.1/") {
			infos, err := p2p.ParsePeers([]string{text})
			check(t, err)
			return infos[0]
		}
	}
	t.Fatalf("it listens on %q", d.Listen)
	return peer.AddrInfo{}
}

// machine starts plasmd serve in the LAN of the machines, with release 1.
func (s *site) machine(name string, args ...string) (ready daemonLine, stop func()) {
	s.t.Helper()
	stop = s.daemon(s.machines.Command("plasmd", append([]string{
		"serve", "--release", "phase/release.json", "--key", "machine", "--state", "state-" + name, "--socket", name + ".sock",
	}, args...)...), &ready)
	return ready, stop
}

// key reads a private key.
func (s *site) key(name string) ed25519.PrivateKey {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	check(s.t, err)
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check(s.t, err)
	return key.(ed25519.PrivateKey)
}

// TestJobsOverARealNetwork runs the commands as processes, in namespaces with cables between them.
func TestJobsOverARealNetwork(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	s := newSite(t)
	away := strings.Replace(s.publisher, "10.77.1.2", "10.77.2.2", 1)
	m, stop := s.machine("one", "--mode", "internet", "--root", "repo/root.json", "--bootstrap", s.publisher, "--metrics", "10.77.1.1:9091")
	at := "/ip4/10.77.1.1/tcp/4002/p2p/" + m.Peer
	hello := func(t *testing.T, l *netns.LAN, args ...string) {
		t.Helper()
		args = append([]string{"submit", "--key", "ci", "--role", "job/hello.wasm"}, args...)
		cmd := exec.Command("plasmd", args...)
		if l != nil {
			cmd = l.Command("plasmd", args...)
		}
		if out, code := s.result(cmd); code != 0 || !strings.Contains(out, "hello from a signed WASM job") {
			t.Errorf("exit code %d: %s", code, out)
		}
	}
	t.Run("an order by address", func(t *testing.T) { hello(t, s.away, "--machine", at) })
	t.Run("an order to a machine that mDNS finds", func(t *testing.T) { hello(t, nil, "--count", "1", "--search", "30s") })
	t.Run("an order to a machine that the DHT finds", func(t *testing.T) {
		hello(t, s.away, "--count", "1", "--search", "60s", "--root", "repo/root.json", "--bootstrap", away)
	})
	t.Run("refusals", func(t *testing.T) { s.refusals(t, m) })
	t.Run("figures", func(t *testing.T) { s.figures(t, m) })
	stop()
	t.Run("modules by CID", s.modules)
}

// refusals sends what no machine may accept, as a program of somebody else would.
func (s *site) refusals(t *testing.T, ready daemonLine) {
	n, err := client.Join(t.Context(), client.Options{Identity: s.key("other")})
	check(t, err)
	defer n.Close()
	found, err := n.Machines(t.Context(), client.Choice{Named: []peer.AddrInfo{ready.info(t)}})
	check(t, err)
	m := found[0]
	check(t, m.Err)
	ordered := func(by string, change func(*order.Order)) client.Submission {
		o := order.New("job", plasm.DefaultSpec(), time.Now(), time.Hour)
		o.Role, o.Machine = "job/hello.wasm", ready.Machine
		change(&o)
		signer, err := signature.LoadSigner(s.key(by), crypto.Hash(0))
		check(t, err)
		envelope, err := order.Sign(t.Context(), signer, o)
		check(t, err)
		return client.Submission{Order: envelope}
	}
	good := ordered("ci", func(*order.Order) {})
	job, err := m.Client.Submit(t.Context(), good)
	check(t, err)
	for name, c := range map[string]struct {
		sent  client.Submission
		words string
	}{
		"unsigned":       {client.Submission{Request: &api.Request{Name: "job", Role: "job/hello.wasm", Spec: plasm.DefaultSpec()}}, "order: not signed: "},
		"of another key": {ordered("other", func(*order.Order) {}), "none of the submitters of the release"},
		"replayed":       {good, "accepted before; sign a new order"},
		"expired": {ordered("ci", func(o *order.Order) {
			o.NotBefore, o.Expires = o.NotBefore.Add(-time.Hour), o.Expires.Add(-2*time.Hour)
		}), "order: expired at "},
		"for another machine": {ordered("ci", func(o *order.Order) { o.Machine = strings.Repeat("ab", 32) }), "order: for machine "},
		"with a grant":        {ordered("ci", func(o *order.Order) { o.Spec.Grants.Clock = true }), "asks for clock"},
	} {
		_, err := m.Client.Submit(t.Context(), c.sent)
		if !errors.Is(err, manifest.ErrUntrusted) || cli.Code(err) != cli.ExitUntrusted || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c.words)
		}
	}
	if _, err := m.Client.List(t.Context()); !errors.Is(err, manifest.ErrUntrusted) {
		t.Errorf("a list for somebody else: %v", err)
	}
	_, err = m.Client.Cancel(t.Context(), job.ID)
	check(t, err)
}

// seeded fetches a module from another machine that has the release in its cache.
func (s *site) seeded(t *testing.T, submit []string) {
	var ready struct{ Peer string }
	stopSeed := s.daemon(exec.Command("phase-boot", "seed", "--root", "repo/root.json", "--cache", "cache", "--mode", "local", "--json"), &ready)
	defer stopSeed()
	_, stop := s.machine("seeded", "--mode", "local")
	defer stop()
	if out, code := s.result(s.machines.Command("plasmd", submit...)); code != 0 || out != "cba\n" {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// modules fetches a module of release 2 for machines with release 1, in each way that a boot finds sources.
func (s *site) modules(t *testing.T) {
	ram := filepath.Join(s.dir, "ram")
	check(t, os.Mkdir(ram, 0o700))
	check(t, unix.Mount("ram", ram, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { _ = unix.Unmount(ram, unix.MNT_DETACH) })
	const only = `{"name":"only","title":"T","discovery":["%s"],"cache":"rw","identity":"ephemeral","announce":false,"proxy":"","stale":"refuse","random_mac":false,"dhcp_mirror":false}`
	check(t, os.WriteFile(filepath.Join(s.dir, "only.json"), fmt.Appendf(nil, only, "dht"), 0o600))
	check(t, os.WriteFile(filepath.Join(s.dir, "input"), []byte("abc\n"), 0o600))
	id, _, _ := strings.Cut(s.run("phase-sign", "cid", "artifacts/job/reverse.wasm"), " ")
	submit := []string{"submit", "--cid", id, "--input", "input"}
	for name, c := range map[string][]string{
		"mdns":   {"--mode", "local"},
		"mirror": {"--mode", "private", "--state", "ram/mirror", "--boot-report", "phase/report.json"},
		"dht":    {"--mode", "only.json", "--root", "repo/root.json", "--bootstrap", s.publisher},
		"peer":   {"--peer", s.publisher, "--private", "--state", "ram/peer"},
	} {
		t.Run(name, func(t *testing.T) {
			m, stop := s.machine(name, c...)
			defer stop()
			args := append(submit, "--socket", name+".sock")
			if m.Peer != "" {
				args = append(submit, "--key", "ci", "--machine", "/ip4/10.77.1.1/tcp/4002/p2p/"+m.Peer)
			}
			if out, code := s.result(s.machines.Command("plasmd", args...)); code != 0 || out != "cba\n" {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
	s.stopPublisher()
	t.Run("seed", func(t *testing.T) { s.seeded(t, append(submit, "--socket", "seeded.sock")) })
	_, stop := s.machine("late", "--mirror", "http://10.77.1.2:8080", "--fetch-timeout", "2s")
	defer stop()
	out, code := s.result(exec.Command("plasmd", "submit", "--socket", "late.sock", "--cid", id))
	for _, words := range []string{"failed (unreachable): module " + id + ": no source sent it within 2s (", "mDNS: no peers yet", "mirror http://10.77.1.2:8080", "connection refused"} {
		if code != cli.ExitNotFound || !strings.Contains(out, words) || strings.Count(out, "\n") != 1 {
			t.Errorf("exit code %d, want %d and %q: %s", code, cli.ExitNotFound, words, out)
		}
	}
	// a mode with a proxy asks nothing directly
	check(t, os.WriteFile(filepath.Join(s.dir, "proxied.json"), []byte(strings.Replace(fmt.Sprintf(strings.Replace(only, `"only"`, `"proxied"`, 1), "mirror"), `"proxy":""`, `"proxy":"http://127.0.0.1:1"`, 1)), 0o600))
	_, stopProxied := s.machine("proxied", "--mode", "proxied.json", "--mirror", "http://10.77.1.2:8080", "--fetch-timeout", "1s")
	defer stopProxied()
	if out, code := s.result(exec.Command("plasmd", "submit", "--socket", "proxied.sock", "--cid", id)); code != cli.ExitNotFound || !strings.Contains(out, "proxyconnect tcp: dial tcp 127.0.0.1:1") {
		t.Errorf("through a proxy that is off: exit code %d: %s", code, out)
	}
	// the release needs no source
	hello, _, _ := strings.Cut(s.run("phase-sign", "cid", "artifacts/job/hello.wasm"), " ")
	if out, code := s.result(exec.Command("plasmd", "submit", "--socket", "late.sock", "--cid", hello)); code != 0 || !strings.HasPrefix(out, "hello from") {
		t.Errorf("a module of the release: exit code %d: %s", code, out)
	}
}

// figure matches the metrics of plasmd in the table of PLASM.md, and in an answer.
var (
	tableRow = regexp.MustCompile("(?m)^\\| `(plasmd_[a-z_]+)` ")
	exported = regexp.MustCompile(`(?m)^# TYPE (plasmd_[a-z_]+) `)
)

// figures compares /metrics with the table in docs/PLASM.md, and looks how each value moves with jobs.
func (s *site) figures(t *testing.T, ready daemonLine) {
	if len(ready.Metrics) != 1 {
		t.Fatalf("the metrics are at %q", ready.Metrics)
	}
	scrape := func() string {
		t.Helper()
		resp, err := http.Get(ready.Metrics[0] + api.MetricsPath)
		check(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		check(t, err)
		return string(text)
	}
	doc, err := os.ReadFile("../../docs/PLASM.md")
	check(t, err)
	names := func(re *regexp.Regexp, text string) (out []string) {
		for _, m := range re.FindAllStringSubmatch(text, -1) {
			out = append(out, m[1])
		}
		slices.Sort(out)
		return out
	}
	if diff := cmp.Diff(names(tableRow, string(doc)), names(exported, scrape())); diff != "" {
		t.Errorf("PLASM.md and /metrics:\n%s", diff)
	}
	value := func(text, name string) float64 {
		t.Helper()
		for line := range strings.Lines(text) {
			if v, ok := strings.CutPrefix(line, name+" "); ok {
				f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				check(t, err)
				return f
			}
		}
		return 0
	}
	const cancelled = `plasmd_jobs_total{reason="cancelled"}`
	before := scrape()
	local := client.Unix(filepath.Join(s.dir, "one.sock"))
	defer local.Close()
	submit := func(module []byte) string {
		t.Helper()
		j, err := local.Submit(t.Context(), client.Submission{Request: &api.Request{Name: "job", Spec: plasm.DefaultSpec()}, Module: module})
		check(t, err)
		return j.ID
	}
	hello, err := os.ReadFile(filepath.Join(s.dir, "artifacts/job/hello.wasm"))
	check(t, err)
	_, err = local.Follow(t.Context(), submit(hello), 1<<20, time.Minute, io.Discard, io.Discard)
	check(t, err)
	ids := []string{submit(endless), submit(endless), submit(endless)} // for two workers
	for end := time.Now().Add(30 * time.Second); value(scrape(), "plasmd_jobs_running") != 2 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	busy := scrape()
	for _, id := range ids {
		_, err := local.Cancel(t.Context(), id)
		check(t, err)
	}
	_, err = local.Job(t.Context(), strings.Repeat("0", 64))
	if err == nil {
		t.Error("an unknown job is shown")
	}
	after := scrape()
	for end := time.Now().Add(30 * time.Second); value(after, cancelled)-value(before, cancelled) < 3 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // an outcome is counted when it is stored
		after = scrape()
	}
	for _, c := range []struct {
		text, name string
		least      float64 // more than before
	}{
		{busy, "plasmd_jobs_waiting", 1},
		{busy, "plasmd_jobs_running", 2},
		{busy, "plasmd_store_bytes", 1},
		{after, `plasmd_jobs_accepted_total{via="socket"}`, 4},
		{after, `plasmd_jobs_total{reason="exit"}`, 1},
		{after, cancelled, 3},
		{after, `plasmd_requests_refused_total{status="404",via="socket"}`, 1},
		{after, "plasmd_job_memory_peak_bytes_sum", 1 << 20},
		{after, `plasmd_job_seconds_count{phase="fetch"}`, 4},
		{after, `plasmd_job_seconds_count{phase="wait"}`, 4},
		{after, `plasmd_job_seconds_sum{phase="compile"}`, 0.0001},
		{after, `plasmd_job_seconds_sum{phase="run"}`, 0.0001},
	} {
		if was, is := value(before, c.name), value(c.text, c.name); is-was < c.least {
			t.Errorf("%s was %v and is %v, want %v more", c.name, was, is, c.least)
		}
	}
	if value(after, `plasmd_jobs_accepted_total{via="network"}`) < 4 || value(after, `plasmd_requests_refused_total{status="403",via="network"}`) < 4 {
		t.Errorf("the jobs and refusals of the network are not counted:\n%s", after)
	}
}

// endless is a module that loops until it is ended.
var endless = []byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x05\x03\x01\x00\x01\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00\x0a\x09\x01\x07\x00\x03\x40\x0c\x00\x0b\x0b")
