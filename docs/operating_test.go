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

// beforehand is what the README's "By hand" leaves.
const beforehand = `
mkdir -p keys artifacts store
for key in root release online ipns; do phase-sign key generate --no-passphrase --out keys/$key; done
phase-sign init --repo repo --root-key keys/root --root-threshold 1 --release-key keys/release.pub --release-threshold 1 \
    --online-key keys/online.pub --ipns-key keys/ipns.pub --channel stable --arch x86_64
echo kernel > artifacts/kernel
echo initramfs > artifacts/initramfs
phase-sign release --unchecked --repo repo --channel stable --arch x86_64 --release 1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
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

// work runs commands in a network of their own, so that the ports that they name are free
// and nobody else hears their mDNS. The logs are shown when they fail.
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
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the daemons that it left
		for _, log := range logs {
			text, _ := os.ReadFile(filepath.Join(dir, log)) // not there when it did not come so far
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
				continue // a word of another command
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
	made, told := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?:Name: |newGauges?\()"([a-z_]+)"`).FindAllSubmatch(source, -1) {
		made["phasepublish_"+string(m[1])] = true
	}
	for _, name := range regexp.MustCompile(`phasepublish_[a-z_]+`).FindAllString(operating(t), -1) {
		told[name] = true
	}
	if len(made) < 10 || !maps.Equal(made, told) {
		t.Errorf("made:\n%v\ntold:\n%v", slices.Sorted(maps.Keys(made)), slices.Sorted(maps.Keys(told)))
	}
}
