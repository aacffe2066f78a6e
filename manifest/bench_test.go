package manifest

import (
	"context"
	"fmt"
	"testing"
)

// A large repository: 20 roots of 3 keys each, all of which sign, and 40 channels with
// 2 of 3 release keys. Budget, on one core: 20 ms and 16 MiB.
const (
	benchRoots    = 20
	benchChannels = 40
	budgetBytes   = 16 << 20
)

func largeRepo(t testing.TB) *repo {
	r := newRepo(t)
	r.roots, r.owners = []string{"root-a", "root-b", "root-c"}, []string{"release-a", "release-b"}
	for i := len(r.more) + 3; i < benchChannels; i++ {
		r.more = append(r.more, Delegation{fmt.Sprintf("channel-%d", i), "x86_64", public(fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i)), 2})
	}
	for r.rootNo < benchRoots {
		r.newRoot(r.roots...)
	}
	list := []File{r.newTargets(), r.release("stable", "x86_64", "2026.11"), r.release("stable", "arm64", "2026.11"), r.release("edge", "x86_64", "2026.11")}
	for i, d := range r.more {
		role := r.manifest(d.Channel, d.Arch, "2026.11")
		list = append(list, r.signed(d.Channel, d.Arch, role, fmt.Sprint("a", i+3), fmt.Sprint("b", i+3)))
	}
	r.publish(list...)
	return r
}

// BenchmarkVerify checks one channel, with the files in memory.
func BenchmarkVerify(b *testing.B) {
	r := largeRepo(b)
	p := r.policy("")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(context.Background(), r.files, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChannels checks all 40 channels.
func BenchmarkChannels(b *testing.B) {
	r := largeRepo(b)
	b.ReportAllocs()
	for b.Loop() {
		list, err := Channels(context.Background(), r.files, r.root, today)
		if err != nil || len(list) != benchChannels {
			b.Fatalf("%d channels, %v", len(list), err)
		}
	}
}
