package docs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// large is an artifact of several leaves, which what OPERATING.md begins with has not.
const large = `
head -c 3000000 /dev/urandom > artifacts/rootfs
rm release.json
phase-sign release --repo repo --channel stable --arch x86_64 --release 1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
    --rootfs artifacts/rootfs --key keys/release --out release.json
`

func TestTheCommandsOfProtocolWorkAsTheyStand(t *testing.T) {
	text, err := os.ReadFile("PROTOCOL.md")
	check(t, err)
	script := beforehand + large
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		script += m[1]
	}
	if strings.Count(script, "curl ") < 8 {
		t.Fatal("it has no commands")
	}
	bin, dir := build(t), t.TempDir()
	cmd := exec.Command("sh", "-eux", "-c", freePorts(t, script))
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	defer time.AfterFunc(2*time.Minute, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }).Stop()
	if err := cmd.Wait(); err != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)        // the daemon that it left
		log, _ := os.ReadFile(filepath.Join(dir, "serve.log")) // not there when it did not come so far
		t.Fatalf("%v\n%s\n%s", err, out.String(), log)
	}
}
