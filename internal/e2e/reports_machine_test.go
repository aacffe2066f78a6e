//go:build machine

package e2e

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/browser"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

const reportKept = "] boot report: kept for the next boot"

// reporterAt returns the machine whose last boot was reported from an address.
func (h host) reporterAt(address string) reporter {
	h.t.Helper()
	list := h.machines()
	for _, r := range list {
		if strings.HasPrefix(r.Last.Address, address+":") {
			return r
		}
	}
	h.t.Fatalf("no report from %s: %+v", address, list)
	panic("unreachable")
}

// Three machines boot. One of them has a clock for which the release is expired, and refuses it. The publisher shows all three. While it is
// off, a machine boots from its cache and keeps the report, which arrives with the next boot.
func TestMachinePublisherShowsThreeMachinesOfWhichOneFails(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	p.signOwn(t, healthArtifacts(t), "2026.12-small")
	publisher := l.host()
	token := strings.Repeat("t", 16)
	if err := os.WriteFile(p.at("token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	serve := func() ready {
		return p.serve(publisher, "--reports", publisher.reports(), "--admin", publisher.addr+":9080", "--admin-token", p.at("token"))
	}
	serving := serve()
	disk := l.copyOf(fx.path("local.img"))
	var addresses []string
	boots := func(m *machine, marks []string, never string) { // one after the other: three at once are slow without KVM
		m.waitFor(marks, never)
		addresses = append(addresses, m.addressOf())
		m.powerOff()
	}
	sent := []string{"] network: eth0 10.55", "] boot report: sent to ", started}
	boots(l.powerOn(disk), sent, refused)
	boots(l.boot(fx.path("local.img")), sent, refused)
	boots(l.boot(fx.path("local.img"), "-rtc", "base="+time.Now().Add(60*24*time.Hour).UTC().Format("2006-01-02T15:04:05")),
		[]string{"] network: eth0 10.55", "report: sent to ", refused}, started)
	list := publisher.machines()
	if len(list) != 3 {
		t.Fatalf("the publisher has %+v", list)
	}
	for i, address := range addresses {
		r, result, step, version := publisher.reporterAt(address), "ok", "", "2026.12-small"
		if i == 2 {
			result, step, version = "failed", "resolve", ""
		}
		if r.Last.Result != result || r.Last.Mode != "local" || r.Last.Release != version || r.Last.Step != step || (r.Last.Error == "") != (i < 2) {
			t.Errorf("machine %d: %+v", i, r)
		}
	}
	said := string(must(t, fx.bin("phase-publish"), "machines", "list", "--reports", publisher.reports()))
	if strings.Count(said, "ok: stable 2026.12-small, mode local") != 2 || strings.Count(said, "failed, mode local") != 1 || !strings.Contains(said, "step resolve") {
		t.Errorf("machines list says\n%s", said)
	}

	l.inside(func() error { return machinesOnPage(t, publisher.addr, token) })

	serving.stop()
	first := l.powerOn(disk)
	first.waitFor([]string{reportKept, started}, refused)
	first.powerOff()
	key := publisher.reporterAt(addresses[0]).Key
	serve()
	first = l.powerOn(disk)
	first.waitFor([]string{"] boot report: sent to ", "with 1 report of earlier boots", started}, refused)
	first.powerOff()
	list = publisher.machines()
	if i := slices.IndexFunc(list, func(r reporter) bool { return r.Key == key }); len(list) != 3 || i < 0 || list[i].Boots != 3 || list[i].Last.Result != "ok" {
		t.Errorf("after the publisher was off: %+v", list)
	}
}

// machinesOnPage opens the admin page of a host in a browser: two machines are ok and one has failed.
func machinesOnPage(t *testing.T, host, token string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := browser.Start(ctx, host)
	if err != nil {
		return err
	}
	defer b.Close()
	p, err := b.Open(ctx, "http://"+host+":9080/machines", browser.Options{Header: map[string]string{"Authorization": "Bearer " + token}})
	if err != nil {
		return err
	}
	var rows []string
	if err := p.Eval(ctx, `[...document.querySelectorAll("tbody tr")].map(r => r.innerText.replace(/\s+/g, " "))`, &rows); err != nil {
		return err
	}
	count := func(text string) (n int) {
		for _, r := range rows {
			if strings.Contains(r, text) {
				n++
			}
		}
		return n
	}
	if len(rows) != 3 || count("2026.12-small") != 2 || count("failed at resolve") != 1 {
		t.Errorf("the page shows %q", rows)
	}
	picture, err := p.Screenshot(ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cmp.Or(os.Getenv("PHASE_E2E_SHOTS"), t.TempDir()), "page-fleet.png"), picture, 0o644)
}

// tellSettings is a unit of a target. It prints the settings of the machine on the console.
const tellSettings = `[Unit]
ConditionPathExists=/run/phase

[Service]
Type=oneshot
LoadCredential=token
SetCredential=token:none
ExecStart=/bin/sh -c 'exec >/dev/console 2>&1; echo "host=$(cat /proc/sys/kernel/hostname)=$(cat /etc/hostname)"; echo "keys=$(cat /root/.ssh/authorized_keys)"; echo "token=$(cat $CREDENTIALS_DIRECTORY/token)"; echo "secrets=$(cat /run/credstore/* /run/phase/settings/credentials/* | sort -u | xargs)"; echo shown'
`

// Settings are signed for two machines by their firmware's UUIDs, with a secret for each. Each target has its own host
// name, SSH key and secret. A machine that gets the secret of the other one cannot open it. Settings that another key has
// signed are refused, although a publisher serves them.
func TestMachineGetsItsSettings(t *testing.T) {
	t.Parallel()
	l, p := newLAN(t), publication(t)
	uuids := []string{"4c4c4544-0042-3510-8052-000000000001", "4c4c4544-0042-3510-8052-000000000002"}
	sign := func(p *published, verb string, args ...string) {
		t.Helper()
		must(t, fx.bin("phase-sign"), append([]string{verb}, args...)...)
	}
	sign(p, "rotate", "--repo", p.at("repo"), "--key", fx.path("keys/root"), "--config")
	p.signOwn(t, rootfsWith(t, tellSettings), "2026.12-tell")
	publisher := l.host()
	serve := func(p *published) ready { return p.serve(publisher, "--reports", publisher.reports()) }
	serving := serve(p)

	// Each machine makes its keys and reports the age recipient.
	disks, recipients := []string{l.copyOf(fx.path("local.img")), l.copyOf(fx.path("local.img"))}, make([]string, 2)
	var machines []*machine
	for i := range uuids {
		machines = append(machines, l.powerOn(disks[i], "-uuid", uuids[i]))
	}
	for i, m := range machines {
		m.waitFor([]string{"] network: eth0 10.55", "] boot report: sent to ", started}, refused, "settings: version")
		m.powerOff()
		recipients[i] = publisher.reporterAt(m.addressOf()).Age
	}
	if !strings.HasPrefix(recipients[0], "age1") || recipients[0] == recipients[1] {
		t.Fatalf("recipients %q", recipients)
	}

	keys := []string{
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPnV0gPY1ZPNG3bxjXJJCFZjBaB6LQJ2vLDlxlF6Q3m first",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPnV0gPY1ZPNG3bxjXJJCFZjBaB6LQJ2vLDlxlF6Q3m second",
	}
	secrets := []string{"secret-of-the-first", "secret-of-the-second"}
	set := func(p *published, key, machine, hostname, sshKey, secret, to string) {
		t.Helper()
		p.write(t, "key.pub", sshKey+"\n")
		p.write(t, "token", secret+"\n")
		sign(p, "config", "set", "--repo", p.at("repo"), "--machine", machine, "--hostname", hostname, "--ssh-key", p.at("key.pub"),
			"--secret", "token="+p.at("token"), "--to", to, "--key", fx.path("keys", key), "--out", p.at("CONFIG.json"))
	}
	publish := func(p *published) {
		t.Helper()
		must(t, fx.bin("phase-publish"), "config", "--repo", p.at("repo"), "--online-key", p.online, p.at("CONFIG.json"))
	}
	for i, uuid := range uuids {
		set(p, "release", "uuid-"+uuid, []string{"node-a", "node-b"}[i], keys[i], secrets[i], recipients[i])
	}
	publish(p)
	machines = nil
	for i := range uuids {
		machines = append(machines, l.powerOn(disks[i], "-uuid", uuids[i]))
	}
	for i, m := range machines {
		name := []string{"node-a", "node-b"}[i]
		other := []string{[]string{"node-b", "node-a"}[i], secrets[1-i], keys[1-i]}
		m.waitFor([]string{
			"settings: version 1: uuid-" + uuids[i], started, "host=" + name + "=" + name, "keys=" + keys[i], "token=" + secrets[i],
			"secrets=" + secrets[i], "shown",
		}, append(other, refused)...)
		m.powerOff()
	}

	// The second machine gets what is sealed to the first one.
	set(p, "release", "uuid-"+uuids[1], "node-b", keys[1], secrets[0], recipients[0])
	publish(p)
	m := l.powerOn(disks[1], "-uuid", uuids[1])
	m.waitFor([]string{"refused: secret token from settings: not opened: it is not sealed to this machine, whose key is " + recipients[1], started, "host=node-b=node-b", "token=none", "shown"},
		secrets[0], refused)
	m.powerOff()

	// Settings of another key, with a snapshot and a timestamp of the right one, as a publisher that was broken into makes them.
	image := l.image("--default-mode", "local", "--cmdline", "phase.mirror="+l.serveForged(p, "uuid-"+uuids[0]))
	serving.stop()
	m = l.boot(image, "-uuid", uuids[0])
	m.waitFor([]string{"config.json", "signed by 0 of 1 required keys", refused}, "node-evil", started)
	m.powerOff()
}

// readKey reads a private key of the fixtures.
func readKey(t *testing.T, name string) ed25519.PrivateKey {
	t.Helper()
	key, err := ed25519pem.Parse(readFile(t, fx.path("keys", name)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serveForged serves a repository over HTTP from the segment's own address, with settings of a machine that the key other
// has signed, and returns the address. phase-publish would refuse it.
func (l *lan) serveForged(p *published, selector string) string {
	l.t.Helper()
	check := func(err error) {
		l.t.Helper()
		if err != nil {
			l.t.Fatal(err)
		}
	}
	now, online := time.Now().Add(-time.Minute), readKey(l.t, "online")
	repository, err := repo.Open(l.t.Context(), p.at("repo"))
	check(err)
	pointer, err := repository.ReadPointer(l.t.Context())
	check(err)
	config, err := manifest.EncodeConfig(manifest.Config{
		Repository: repository.Root.Repository(), Number: 9, SignedAt: now, Expires: now.Add(24 * time.Hour), Settings: map[string]manifest.Settings{selector: {Hostname: "node-evil"}},
	})
	check(err)
	forged := pubtest.Seal(l.t, manifest.KindConfig, config, readKey(l.t, "other"))
	p.write(l.t, "repo/9.config.json", string(forged))
	files := []manifest.File{{Role: manifest.ConfigRole, Version: 9, Data: forged}}
	for role, version := range map[string]int64{"targets": 2, "stable-x86_64": 2} {
		files = append(files, manifest.File{Role: role, Version: version, Data: readFile(l.t, p.at(fmt.Sprintf("repo/%d.%s.json", version, role)))})
	}
	snapshot, err := manifest.NewSnapshot(nil, now.Add(24*time.Hour), files...)
	check(err)
	snapshot.Signed.Version = pointer.Snapshot + 1
	manifest.SetRepository(snapshot, repository.Root.Repository())
	data := pubtest.Seal(l.t, manifest.KindSnapshot, snapshot, online)
	p.write(l.t, fmt.Sprintf("repo/%d.snapshot.json", pointer.Snapshot+1), string(data))
	timestamp, err := manifest.NewTimestamp(nil, manifest.File{Role: "snapshot", Version: pointer.Snapshot + 1, Data: data}, now, now.Add(24*time.Hour))
	check(err)
	timestamp.Signed.Version = pointer.Timestamp + 1
	manifest.SetRepository(timestamp, repository.Root.Repository())
	p.write(l.t, "repo/timestamp.json", string(pubtest.Seal(l.t, manifest.KindTimestamp, timestamp, online)))

	repository, err = repo.Open(l.t.Context(), p.at("repo"))
	check(err)
	pointer, err = repository.ReadPointer(l.t.Context())
	check(err)
	record, err := repository.NewRecord(readKey(l.t, "ipns"))
	check(err)
	_, err = record.Point(pointer, time.Now())
	check(err)
	var listener net.Listener
	l.inside(func() (err error) {
		listener, err = net.Listen("tcp", l.net+".1:8081")
		return err
	})
	server := &http.Server{Handler: gateway.Handler(gateway.Options{Source: pointer.Blocks, IPNS: record.Get})}
	go server.Serve(listener)
	l.t.Cleanup(func() { server.Close() })
	return "http://" + listener.Addr().String()
}

// copyOf copies an image for a machine that starts more than once.
func (l *lan) copyOf(image string) string {
	l.t.Helper()
	disk := filepath.Join(l.dir, fmt.Sprintf("kept%d.img", l.next))
	l.next++
	must(l.t, "cp", "--sparse=always", image, disk)
	return disk
}

// write writes a file of the publication's folder.
func (p *published) write(t *testing.T, name, text string) {
	t.Helper()
	must(t, "sh", "-ec", `printf %s "$2" > "$1"`, "sh", p.at(name), text)
}
