package cli

import (
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

func TestMakeStampsTheCommit(t *testing.T) {
	t.Chdir("../..")
	want := ""
	if _, err := os.Stat(".git"); err == nil {
		commit, err := exec.Command("git", "-c", "safe.directory=*", "rev-parse", "HEAD").Output()
		if err != nil {
			t.Fatal(err)
		}
		want = string(commit[:12])
	}
	out, err := exec.Command("make", "-n", "binaries").Output()
	if err != nil {
		t.Fatal(err)
	}
	name := reflect.TypeFor[usageError]().PkgPath() + ".version"
	if !strings.Contains(string(out), "-X "+name+"="+want) {
		t.Errorf("make does not set %s to %q:\n%s", name, want, out)
	}
	version = want
	defer func() { version = "" }()
	if want != "" && Version() != want {
		t.Errorf("the version is %q", Version())
	}
}
