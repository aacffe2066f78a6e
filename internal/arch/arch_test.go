package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const top = "../.." // folder of the module

// listed has the fields that are read from the output of go list.
type listed struct {
	ImportPath string
	Doc        string
	Imports    []string
	Deps       []string // imported, directly or not
	GoFiles    []string
}

// packages lists the packages of the module, once for all tests.
var packages = sync.OnceValues(func() ([]listed, error) {
	out, err := output("go", "list", "-e", "-deps", "-json=ImportPath,Doc,Imports,Deps,GoFiles", "./...")
	if err != nil {
		return nil, err
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		if strings.HasPrefix(p.ImportPath, module+"/") {
			all = append(all, p)
		}
	}
})

func list(t *testing.T) []listed {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// output runs a command at the top of the module.
func output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = top
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	return out, nil
}

func TestImportsPointOneWay(t *testing.T) {
	all := list(t)
	if len(all) < 5 {
		t.Fatalf("go list names %d of our packages: the test looks in the wrong place", len(all))
	}
	for _, p := range all {
		for _, b := range violations(p.ImportPath, p.Imports) {
			t.Error(b)
		}
	}
}

// Rules look at one package; this looks at all that a program links.
func TestProgramsDoNotLinkWhatTheyMustNotContain(t *testing.T) {
	const sqlite = "modernc.org/sqlite" // 6 MB; only a publisher has a database
	for program, never := range map[string][]string{
		"cmd/phase-publish": {module + "/signer"}, // signs releases; signer/key is allowed
		"cmd/phase-boot":    {module + "/signer", sqlite},
		"cmd/plasmd":        {module + "/signer", sqlite},
		"cmd/phase-sign":    {sqlite},
		"cmd/phase-image":   {sqlite},
	} {
		all := list(t)
		i := slices.IndexFunc(all, func(p listed) bool { return p.ImportPath == module+"/"+program })
		if i < 0 || len(all[i].Deps) == 0 {
			t.Fatalf("go list names no %s, or nothing that it links", program)
		}
		for _, pkg := range never {
			if slices.Contains(all[i].Deps, pkg) {
				t.Errorf("%s links %s", program, pkg)
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment; write a doc.go", p.ImportPath)
		}
	}
}

func TestNoFileHasAForbiddenText(t *testing.T) {
	names, err := output("git", "-c", "safe.directory=*", "ls-files", "-z")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(top, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range append(forbidden(name, string(data)), verifies(name, string(data))...) {
			t.Error(f)
		}
	}
}

// The rules of imports find a forbidden import.
func TestImportRulesFindABreach(t *testing.T) {
	tests := []struct {
		name, pkg, imp string
		want           string // part of the finding, "" for none
	}{
		{"boot client signs", "bootclient", module + "/signer", "no code that signs"},
		{"publisher imports boot client", "publisher", module + "/bootclient", "publisher imports bootclient"},
		{"boot client imports publisher", "bootclient", module + "/publisher", "bootclient imports publisher"},
		{"cas imports manifest", "cas", module + "/manifest", "cas imports manifest"},
		{"subpackage of cas imports manifest", "cas/castest", module + "/manifest", "cas/castest imports manifest"},
		{"manifest uses the network", "manifest", "net/http", "must not use the network"},
		{"plasm imports the commands' framework", "plasm", module + "/internal/cli", "plasm imports internal/cli"},
		{"boot client imports the image builder", "bootclient", module + "/imagebuild", "bootclient imports imagebuild"},
		{"fetch knows the search", "bootclient/fetch", module + "/bootclient/resolve", "searches none"},
		{"cache finds sources", "bootclient/cache", module + "/bootclient/peers", "finds no source"},
		{"command imports command", "cmd/plasmd", module + "/cmd/phase-sign", "cmd/plasmd imports cmd/phase-sign"},
		{"publisher's keys come with a release", "signer/key", module + "/signer", "nothing that makes or signs a release"},
		{"a second judge in the signer", "signer", goTUF + "/metadata", "only manifest decides"},
		{"a second judge in the boot client", "bootclient/resolve", goTUF + "/metadata/trustedmetadata", "only manifest decides"},
		{"a second judge in the publisher", "publisher", goTUF + "/metadata/updater", "verifies with manifest"},
		{"package without a row", "newthing", "fmt", "no row"},
		{"package whose name starts like another", "castle", "fmt", "no row"},

		{"boot client imports the modes", "bootclient", module + "/modes", ""},
		{"manifest reads TUF", "manifest", goTUF + "/metadata", ""},
		{"publisher builds a timestamp", "publisher/repo", goTUF + "/metadata", ""},
		{"manifest imports cas", "manifest", module + "/cas", ""},
		{"command imports signer", "cmd/phase-sign", module + "/signer", ""},
		{"standard library", "publisher", "net/http", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wants(t, violations(module+"/"+tt.pkg, []string{tt.imp}), tt.want)
		})
	}
}

func TestForbiddenTextsAreFound(t *testing.T) {
	host := texts[0].String()
	tests := []struct{ name, path, content, want string }{
		{"host name in a script", "scripts/x.sh", "fetch https://" + host + "/x", "apt"},
		{"host name in a document", "docs/X.md", host, "apt"},
		{"skipped test", "cas/x_test.go", "t." + "Skip(1)", "proves nothing"},
		{"skip in a test of machines", "internal/e2e/x_test.go", "t." + "Skip(1)", "proves nothing"},
		{"clean", "cas/cas.go", "package cas", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wants(t, forbidden(tt.path, tt.content), tt.want) })
	}
}

func TestASignatureIsVerifiedWhereTheTableAllowsIt(t *testing.T) {
	const call = "if !ed25519.Verify(key, payload, sig) {"
	tests := []struct{ name, path, content, want string }{
		{"a planted check in the signer", "signer/show.go", call, "only manifest verifies metadata"},
		{"a planted check in the publisher", "publisher/add.go", "root.VerifyDelegate(role, m)", "only manifest verifies metadata"},
		{"go-tuf's check in manifest", "manifest/root.go", "root.VerifyDelegate(role, m)", "only manifest verifies metadata"},
		{"manifest", "manifest/authority.go", call, ""},
		{"a receipt", "internal/envelope/envelope.go", call, ""},
		{"a test", "signer/show_test.go", call, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wants(t, verifies(tt.path, tt.content), tt.want) })
	}
}

// wants checks that the findings contain want, or that there are none if want is empty.
func wants(t *testing.T, found []string, want string) {
	t.Helper()
	all := strings.Join(found, "\n")
	if want == "" && all != "" || !strings.Contains(all, want) {
		t.Errorf("found %q, want %q", all, want)
	}
}
