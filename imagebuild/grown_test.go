package imagebuild

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/internal/gpt"
)

// A machine enlarges the cache of a stick to the size of the device. The stick is still the image that it
// was, for --rebuild too; anything else that changed in the table is found.
func TestAGrownStickIsTheImageThatItWas(t *testing.T) {
	b := testBuilder(t)
	image, file := validDisk(t, b), filepath.Join(t.TempDir(), "stick")
	const size = 300 * mib
	if out, err := exec.Command("cp", "--sparse=always", image, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const device = 700*mib + 5*sector
	if err := f.Truncate(device); err != nil {
		t.Fatal(err)
	}
	verify := func(name string, built int64, grown bool) *Contents {
		t.Helper()
		c, err := b.Verify(t.Context(), file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Built != built || c.CacheGrown != grown {
			t.Errorf("%s: built with %d bytes, grown: %v", name, c.Built, c.CacheGrown)
		}
		return c
	}
	verify("as written", 0, false)
	if _, err := gpt.Grow(f, device, 2); err != nil {
		t.Fatal(err)
	}
	c := verify("grown", size, true)
	if c.Size != device || c.TrailingBytes != 0 || c.SHA256 != "" {
		t.Errorf("%d bytes and %d after, sha256 %s", c.Size, c.TrailingBytes, c.SHA256)
	}
	if diff, _, err := b.difference(t.Context(), c, image); diff != nil || err != nil {
		t.Error(diff, err)
	}
	if out, err := exec.Command("sgdisk", "--partition-guid=2:11111111-2222-8333-8444-555555555555", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if diff, _, err := b.difference(t.Context(), verify("another GUID", size, true), image); err != nil || diff == nil || diff.Part[0] != "partition table" {
		t.Errorf("another GUID of the cache partition: got %v, %v", diff, err)
	}
}
