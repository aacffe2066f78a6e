package bucket_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/publisher/bucket"
)

// A key in an address must not get into a log with the error.
func TestAnErrorOfAnAddressTellsNoKey(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"s3://phase/fleet?secret_key=hunter2",
		"s3://key:hunter2@phase/fleet",
		"s3://key:a/b+hunter2@phase/fleet",
		"s3://phase/fleet?endpoint=https://user:hunter2@s3.example",
		"s3://phase/fleet?endpoint=https://s3.example?token=hunter2",
		"s3://phase/fleet?endpoint=https://user:hunter2@s3.example:port",
	} {
		_, err := bucket.ParseAddress(address)
		if !errors.Is(err, fs.ErrInvalid) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "phase/fleet") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestAMistypedAddressIsNoFolder(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"s3:/phase/fleet", "S3://phase/fleet", "s3:phase", "https://s3.example/phase", "s3a://phase/fleet"} {
		if _, err := bucket.ParseAddress(name); !bucket.Is(name) || !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "s3://BUCKET/PREFIX") {
			t.Errorf("%s: taken for a folder: %v, %v", name, !bucket.Is(name), err)
		}
	}
	for _, name := range []string{"store", "/srv/store", "./s3:/phase", "s3", "s3/phase", "a:b"} {
		if bucket.Is(name) {
			t.Errorf("%s: no folder", name)
		}
	}
}
