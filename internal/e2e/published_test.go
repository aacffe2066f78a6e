package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A published is a writable copy of the fixtures' repository and store.
type published struct{ dir, online string }

func publication(t *testing.T) *published {
	t.Helper()
	p := &published{t.TempDir(), fx.path("keys/online")}
	must(t, "cp", "-a", fx.path("store"), fx.path("repo"), p.dir)
	return p
}

func (p *published) at(name string) string { return filepath.Join(p.dir, name) }

// add signs and publishes a release with a new version and the artifacts of the fixtures.
func (p *published) add(t *testing.T, version string) {
	t.Helper()
	p.signOwn(t, fx.path("artifacts"), version)
}

// signOwn signs and publishes a release of another folder of artifacts. more are arguments of phase-sign release.
func (p *published) signOwn(t *testing.T, artifacts, version string, more ...string) {
	t.Helper()
	args := signRelease(fx, "", "release", version, "", more...)
	for i := range args {
		args[i] = strings.Replace(args[i], fx.path("artifacts"), artifacts, 1)
	}
	p.sign(t, artifacts, args)
}

// sign signs a release with the arguments of signRelease and publishes its artifacts.
func (p *published) sign(t *testing.T, artifacts string, args []string) {
	t.Helper()
	for name, value := range map[string]string{"--repo": p.at("repo"), "--out": p.at("own.json")} {
		args[slices.Index(args, name)+1] = value
	}
	must(t, args[0], args[1:]...)
	p.publish(t, artifacts, p.at("own.json"))
}

// publish publishes a signed release.
func (p *published) publish(t *testing.T, artifacts, release string) {
	t.Helper()
	must(t, fx.bin("phase-publish"), "add", "--store", p.at("store"), "--repo", p.at("repo"), "--artifacts", artifacts, "--online-key", p.online, release)
}

// serve serves the publication from a host. more are arguments of phase-publish serve.
func (p *published) serve(h host, more ...string) ready {
	h.t.Helper()
	return h.serve(fx.bin("phase-publish"), append([]string{
		"serve", "--store", p.at("store"), "--repo", p.at("repo"), "--online-key", p.online, "--ipns-key", fx.path("keys/ipns"),
		"--identity", p.at("peer.key"), "--http", h.addr + ":8080", "--listen", "/ip4/" + h.addr + "/tcp/4001", "--dht", "off",
	}, more...)...)
}
