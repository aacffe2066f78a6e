package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/manifest"
)

// inside names the environment variable with the fixtures' folder. It is set for the second
// process, which runs the tests.
const inside = "PHASE_E2E_DIR"

// fx are the fixtures. Tests only read them.
var fx fixtures

func TestMain(m *testing.M) {
	if dir := os.Getenv(inside); dir != "" {
		fx = fixtures{Dir: dir}
		if err := enter(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := outer()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// outer makes the fixtures, which needs the outside network, and then runs this binary again
// in new namespaces without it.
func outer() (int, error) {
	dir, err := os.MkdirTemp("", "phase-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		return 1, err
	}
	args := []string{"--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user", "--map-auto") // dnsmasq and nginx change their group
	}
	cmd := exec.Command("unshare", append(append(args, os.Args[0]), os.Args[1:]...)...)
	accel, err := exec.Command("../../scripts/test-qemu-x86.sh", "--accel").Output() // once, because it takes 5 s if KVM hangs
	if err != nil {
		return 1, fmt.Errorf("test-qemu-x86.sh --accel: %w", err)
	}
	cmd.Env = append([]string{"ACCEL=" + strings.TrimSpace(string(accel)), inside + "=" + dir}, os.Environ()...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// enter prepares the new namespaces: a folder for named network namespaces, and loopback.
func enter() error {
	return runAll(
		[]string{"mount", "-t", "tmpfs", "tmpfs", "/run"},
		[]string{"mkdir", "-p", "/run/netns"},
		[]string{"ip", "link", "set", "lo", "up"},
	)
}

// fixtures are the files that prepare makes once for all tests.
type fixtures struct{ Dir string }

func (f fixtures) path(elem ...string) string {
	return filepath.Join(append([]string{f.Dir}, elem...)...)
}
func (f fixtures) bin(name string) string { return f.path("bin", name) }

// release is the version of the fixtures' release. Only the signed manifest contains it.
const release = "2026.11-e2e"

// prepare builds the commands, the artifacts and images, and publishes one signed release.
func prepare(dir string) error {
	f := fixtures{Dir: dir}
	for _, d := range []string{"bin", "keys", "artifacts/job"} {
		if err := os.MkdirAll(f.path(d), 0o755); err != nil {
			return err
		}
	}
	if err := build(f); err != nil {
		return err
	}
	image, sign := f.bin("phase-image"), f.bin("phase-sign")
	art := f.path("artifacts")
	err := runAll(
		[]string{image, "kernel", "--out", art + "/kernel"},
		[]string{image, "initramfs", "--role", "target", "--out", art + "/initramfs"},
		[]string{image, "rootfs", "--out", art + "/rootfs"},
		keygen(f, "root"), keygen(f, "release"), keygen(f, "online"), keygen(f, "ipns"), keygen(f, "other"),
		initRepo(f, "repo", "root", "release"),
		signRelease(f, "repo", "release", release, "release.json"),
		addRelease(f, "store", "repo", "release.json"),
		// the image of most tests: no hint on its kernel command line
		[]string{image, "usb", "--root", f.path("repo/root.json"), "--default-mode", "local", "--size", "512M", "--out", f.path("local.img")},
		// the same image with the kernel for real machines
		[]string{image, "usb", "--root", f.path("repo/root.json"), "--flavour", "generic", "--default-mode", "local", "--size", "512M", "--out", f.path("generic.img")},
		[]string{sign, "verify", "--root", f.path("repo/root.json"), f.path("release.json")},
	)
	if err != nil {
		return err
	}
	if err := prepareARM(f); err != nil {
		return fmt.Errorf("arm64: %w", err)
	}
	return prepareMore(f)
}

// prepareMore makes the fixtures of the tests behind the build tag machine.
var prepareMore = func(fixtures) error { return nil }

func build(f fixtures) error {
	cmd := exec.Command("make", "-s", "-C", "../..", "BIN="+f.path("bin"), "ARCH=all", "binaries", "jobs")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make binaries: %w", err)
	}
	if err := runAll([]string{"go", "build", "-o", f.path("bin") + "/", "./flipper", "./proxy"}); err != nil {
		return err
	}
	if err := buildIPFS(f); err != nil {
		return fmt.Errorf("ipfs: %w", err)
	}
	return exec.Command("cp", f.bin("hello.wasm"), f.path("artifacts/job/hello.wasm")).Run()
}

func keygen(f fixtures, name string) []string {
	return []string{f.bin("phase-sign"), "key", "generate", "--no-passphrase", "--out", f.path("keys", name)}
}

func initRepo(f fixtures, repo, root, releaseKey string) []string {
	return []string{
		f.bin("phase-sign"), "init", "--repo", f.path(repo), "--root-key", f.path("keys", root), "--root-threshold", "1",
		"--release-key", f.path("keys", releaseKey+".pub"), "--release-threshold", "1", "--online-key", f.path("keys/online.pub"),
		"--ipns-key", f.path("keys/ipns.pub"), "--channel", "stable", "--arch", "x86_64",
	}
}

func signRelease(f fixtures, repo, key, version, out string, more ...string) []string {
	art := f.path("artifacts")
	args := []string{
		f.bin("phase-sign"), "release", "--repo", f.path(repo), "--channel", "stable", "--arch", "x86_64", "--release", version,
		"--kernel", art + "/kernel", "--initramfs", art + "/initramfs", "--rootfs", art + "/rootfs", "--job", art + "/job/hello.wasm",
		"--cmdline", "console=ttyS0,115200", "--key", f.path("keys", key), "--out", f.path(out),
	}
	return append(args, more...)
}

func addRelease(f fixtures, store, repo, file string) []string {
	return []string{
		f.bin("phase-publish"), "add", "--store", f.path(store), "--repo", f.path(repo), "--artifacts", f.path("artifacts"),
		"--online-key", f.path("keys/online"), f.path(file),
	}
}

// runAll runs commands one after the other. It stops at the first failure; the error has the
// command's output.
func runAll(commands ...[]string) error {
	for _, c := range commands {
		cmd := exec.Command(c[0], c[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return nil
}

// must runs a command and returns its stdout. A failure ends the test.
func must(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, exit.Stderr)
	}
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return out
}

// signedRelease returns the fixtures' release as phase-sign shows it.
func signedRelease(t *testing.T) manifest.Release {
	t.Helper()
	var shown struct {
		Release manifest.Release `json:"release"`
	}
	decode(t, must(t, fx.bin("phase-sign"), "show", "--json", fx.path("release.json")), &shown)
	return shown.Release
}

func decode(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v in %.400q", err, data)
	}
}
