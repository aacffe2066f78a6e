package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
)

// allArtifacts signs a release with an artifact of each kind. The root filesystem is a bundle of RAUC.
const allArtifacts = `
mkdir -p artifacts/job artifacts/dtb content
cp hello.wasm artifacts/job/
echo '/dts-v1/; / { compatible = "example"; };' | dtc -q -O dtb -o artifacts/dtb/board+1.dtb
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=rauc 2> openssl.log
seq 500000 | head -c 3000000 > content/rootfs.img
printf '[update]\ncompatible=example\n[bundle]\nformat=verity\n[image.rootfs]\nfilename=rootfs.img\n' > content/manifest.raucm
rauc bundle --cert cert.pem --key key.pem content artifacts/rootfs
rm release.json
phase-sign release --repo repo --channel stable --arch x86_64 --release 1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
    --rootfs artifacts/rootfs --dtb artifacts/dtb/board+1.dtb --job artifacts/job/hello.wasm --key keys/release --out release.json
`

// everyArtifact downloads all artifacts with both clients, from serve and from nginx. Then the mirror
// has a wrong byte, which both refuse.
const everyArtifact = `
all="kernel initramfs rootfs dtb/board+1.dtb job/hello.wasm"
for port in 8080 8090; do
    rm -rf go-tuf tuf-js
    targets=""
    for role in $all; do targets="$targets stable/x86_64/$role"; done
    ./get http://127.0.0.1:$port $targets > go-tuf.files
    node get.js http://127.0.0.1:$port $targets > tuf-js.files
    for client in go-tuf tuf-js; do
        i=0
        for role in $all; do
            i=$((i + 1))
            cmp "artifacts/$role" "$(sed -n ${i}p $client.files)"
        done
    done
done
rauc --keyring=cert.pem info fetched/rootfs > rauc.log 2>&1
sum=$(sha256sum < artifacts/initramfs | cut -d' ' -f1)
printf X | dd of=mirror/tuf/targets/stable/x86_64/$sum.initramfs bs=1 seek=3 conv=notrunc 2> dd.log
rm -rf go-tuf tuf-js
for client in ./get "node get.js"; do
    if $client http://127.0.0.1:8090 stable/x86_64/initramfs; then echo "$client accepts a wrong byte"; exit 1; fi
done
test ! -e go-tuf/targets/stable%2Fx86_64%2Finitramfs
test ! -e tuf-js/targets/stable%2Fx86_64%2Finitramfs
nginx -p "$PWD" -c nginx/conf -s stop
kill $publisher
`

// TestOtherTUFClientsDownloadEveryArtifact runs the commands of FOREIGN-CLIENTS.md with its two programs.
func TestOtherTUFClientsDownloadEveryArtifact(t *testing.T) {
	if testing.Short() {
		return // make test installs tuf-js and RAUC
	}
	text, err := os.ReadFile("FOREIGN-CLIENTS.md")
	check(t, err)
	program := func(language string) string {
		m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(text)
		if m == nil {
			t.Fatalf("FOREIGN-CLIENTS.md has no program in %s", language)
		}
		return string(m[1])
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"get.go": []byte(program("go")), "get.js": []byte(program("js")),
		"kernel": bootfiletest.Kernel("x86_64", ""), "initramfs": bootfiletest.Initramfs(""),
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "get"), filepath.Join(dir, "get.go")).CombinedOutput(); err != nil {
		t.Fatalf("get.go: %v\n%s", err, out)
	}
	t.Setenv("NODE_PATH", tufJS(t))
	script := beforehand + "cp " + filepath.Join(dir, "get*") + " " + filepath.Join(build(t), "hello.wasm") + " .\n" +
		"cp " + filepath.Join(dir, "kernel") + " " + filepath.Join(dir, "initramfs") + " artifacts/\n" + allArtifacts
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		script += strings.Replace(m[1], "pid nginx/pid;", "user root; pid nginx/pid;", 1) // other users cannot read the folder of a test
	}
	work(t, script+everyArtifact, "serve.log", "nginx/error.log", "rauc.log", "openssl.log")
	for _, word := range []string{"./get http://127.0.0.1:8090", "node get.js http://127.0.0.1:8080", "phase-boot fetch", "write-slot"} {
		if !strings.Contains(script, word) {
			t.Errorf("FOREIGN-CLIENTS.md does not run %q", word)
		}
	}
}

// tufJS is the folder of npm packages that scripts/deps-check.sh installs.
func tufJS(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	check(t, err)
	dir := filepath.Join(cache, "phaseboot/tuf-js/node_modules")
	if _, err := os.Stat(filepath.Join(dir, "tuf-js")); err != nil {
		t.Fatalf("tuf-js: %v; run scripts/deps-check.sh --install test", err)
	}
	return dir
}
