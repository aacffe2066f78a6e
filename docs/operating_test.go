package docs

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/netns"
)

// beforehand creates the files that "By hand" of the README leaves.
const beforehand = `
mkdir -p keys artifacts store
for key in root release online ipns; do phase-sign key generate --no-passphrase --out keys/$key; done
phase-sign init --repo repo --root-key keys/root --root-threshold 1 --release-key keys/release.pub --release-threshold 1 \
    --online-key keys/online.pub --ipns-key keys/ipns.pub --channel stable --arch x86_64
echo kernel > artifacts/kernel
echo initramfs > artifacts/initramfs
phase-sign release --unchecked --repo repo --channel stable --arch x86_64 --release 2026.11.1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
    --key keys/release --out release.json
`

func operating(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("OPERATING.md")
	check(t, err)
	return string(text)
}

func TestTheCommandsOfOperatingWorkAsTheyStand(t *testing.T) {
	script := beforehand
	for _, m := range fence.FindAllStringSubmatch(operating(t), -1) {
		script += m[1]
	}
	work(t, script, "serve.log", "second.log", "bootstrap.log")
}

// work runs commands in a network namespace, so that their ports are free and their mDNS
// packets reach no other program. If a command fails, the logs are printed.
func work(t *testing.T, script string, logs ...string) {
	t.Helper()
	bin, dir := build(t), t.TempDir()
	cmd := exec.Command("sh", "-eux", "-c", "ip link set lo up\n"+script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = netns.Attributes()
	cmd.SysProcAttr.Setpgid = true
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	defer time.AfterFunc(10*time.Minute, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }).Stop()
	if err := cmd.Wait(); err != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its daemons
		for _, log := range logs {
			text, _ := os.ReadFile(filepath.Join(dir, log)) // absent if the daemon was not started
			t.Logf("%s:\n%s", log, text)
		}
		t.Fatalf("%v\n%s", err, out.String())
	}
}

var (
	console = regexp.MustCompile("(?s)```console\n(.*?)```")
	flagged = regexp.MustCompile(`phase-publish (\w+)((?:[^\n]|\\\n)*)`)
	flag    = regexp.MustCompile(`--[a-z-]+`)
	shipped = regexp.MustCompile(`scripts/[a-z-]+\.\w+`)
)

func TestWhatOperatingNamesForRootExists(t *testing.T) {
	bin := build(t)
	for _, m := range console.FindAllStringSubmatch(operating(t), -1) {
		for _, file := range shipped.FindAllString(m[1], -1) {
			if _, err := os.Stat(filepath.Join("..", file)); err != nil {
				t.Error(err)
			}
		}
		for _, call := range flagged.FindAllStringSubmatch(m[1], -1) {
			help, err := exec.Command(filepath.Join(bin, "phase-publish"), call[1], "--help").CombinedOutput()
			if err != nil {
				continue // not a verb of phase-publish
			}
			for _, f := range flag.FindAllString(call[2], -1) {
				if !strings.Contains(string(help), f+" ") {
					t.Errorf("phase-publish %s has no %s", call[1], f)
				}
			}
		}
	}
}

func TestOperatingListsEveryMetricAndNoOther(t *testing.T) {
	source, err := os.ReadFile("../publisher/metrics.go")
	check(t, err)
	metrics, documented := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?:Name: |newGauges?(?:By)?\()"([a-z_]+)"`).FindAllSubmatch(source, -1) {
		metrics["phasepublish_"+string(m[1])] = true
	}
	for _, name := range regexp.MustCompile(`phasepublish_[a-z_]+`).FindAllString(operating(t), -1) {
		documented[name] = true
	}
	if len(metrics) < 10 || !maps.Equal(metrics, documented) {
		t.Errorf("metrics in the code:\n%v\nin OPERATING.md:\n%v", slices.Sorted(maps.Keys(metrics)), slices.Sorted(maps.Keys(documented)))
	}
}
