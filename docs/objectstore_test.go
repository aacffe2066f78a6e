package docs

import (
	"cmp"
	"os"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/s3test"
)

// objectStore starts a real S3 server on loopback.
func objectStore(t *testing.T) string {
	t.Helper()
	server, err := s3test.Binary()
	check(t, err)
	return beforehand + `
mkdir -p objects/` + s3test.Bucket + `
export ENDPOINT=http://127.0.0.1:7070 ` + strings.Join(s3test.Env(), " ") + `
"` + server + `" --port 127.0.0.1:7070 --access "$AWS_ACCESS_KEY_ID" --secret "$AWS_SECRET_ACCESS_KEY" --quiet --keep-alive posix objects > server.log &
daemons=$!
trap 'kill $daemons || true' EXIT
until curl -s -o server.answer http://127.0.0.1:7070; do sleep 0.1; done
`
}

// The commands run in one shell, against a real S3 server.
func TestTheCommandsOfObjectStoreWorkAsTheyStand(t *testing.T) {
	text, err := os.ReadFile("OBJECT-STORE.md")
	check(t, err)
	script := objectStore(t)
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		script += m[1]
	}
	work(t, script, "serve.log", "replica.log", "server.log")
}

// fleet adds a release, fetches it from two replicas at once while one is killed, replaces it, collects
// and checks. The rates make a fetch last long enough to kill one in it.
const fleet = `
export AWS_ENDPOINT_URL="$ENDPOINT"
s3=s3://phase/fleet
head -c ${MIB}M /dev/urandom > artifacts/rootfs
sign() {
    phase-sign release --unchecked --repo repo --channel stable --arch x86_64 --release $1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
        --rootfs artifacts/rootfs --key keys/release --out $1.json
}
fetch() {
    phase-boot fetch --root repo/root.json --channel stable --mode local --share=false "$@"
    cmp out/rootfs artifacts/rootfs
    rm -r out
}
replica() {
    phase-publish serve --replica --store $s3 --mdns=false --dht off --http 127.0.0.1:$1 --listen /ip4/127.0.0.1/tcp/1$1 --rate ${MIB}MB > $1.log &
    daemons="$daemons $!"
    until grep -q http $1.log; do sleep 0.1; done
}
rm release.json
sign 1
phase-publish add --store $s3 --repo repo --artifacts artifacts --online-key keys/online 1.json
phase-publish serve --store $s3 --repo repo --online-key keys/online --ipns-key keys/ipns --mdns=false --dht off \
    --http 127.0.0.1:8081 --listen /ip4/127.0.0.1/tcp/4011 > serve.log &
daemons="$daemons $!"
until grep -q http serve.log; do sleep 0.1; done
replica 8082
first=${daemons##* }
replica 8083
second=${daemons##* }
fetch --mirror http://127.0.0.1:8082 --out out
fetch --mirror http://127.0.0.1:8083 --out out
(sleep 0.4; kill -9 $first) &
fetch --mirror http://127.0.0.1:8082 --mirror http://127.0.0.1:8083 --out out
head -c 1M /dev/urandom >> artifacts/rootfs
head -c 1M /dev/urandom | dd of=artifacts/rootfs conv=notrunc
sign 2
phase-publish add --store $s3 --repo repo --artifacts artifacts --online-key keys/online 2.json
phase-publish gc --store $s3 --repo repo --keep 1
touch -d '2 days ago' objects/phase/fleet/packs/*.gone || true # there are none when little is replaced
phase-publish gc --store $s3 --repo repo --keep 1
phase-publish fsck --store $s3 --repo repo --keep 1
until curl -s "http://127.0.0.1:8083/tuf/metadata/timestamp.json" | cmp -s - repo/timestamp.json; do sleep 0.2; done
fetch --mirror http://127.0.0.1:8083 --out out
kill $second
phase-publish export --store $s3 --repo repo --ipns-key keys/ipns --out s3://phase/cdn
fetch --mirror file://$PWD/objects/phase/cdn --out out
`

// PHASE_OBJECTS_MIB=1024 does it with 1 GiB.
func TestTwoReplicasServeFromAnObjectStore(t *testing.T) {
	mib := cmp.Or(os.Getenv("PHASE_OBJECTS_MIB"), "48")
	work(t, objectStore(t)+"MIB="+mib+fleet, "serve.log", "8082.log", "8083.log", "server.log")
}
