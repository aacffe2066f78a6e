package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

func TestWordsHaveNoTails(t *testing.T) {
	tests := []struct {
		err  error
		want string
	}{
		{fmt.Errorf("memory limit: %w: 1 bytes; give 64K", fs.ErrInvalid), "memory limit: 1 byte; give 64K"},
		{fmt.Errorf("key: is listed already: %w", fs.ErrInvalid), "key: is listed already"},
		{fmt.Errorf("store s: is a file (%w); name a folder", fs.ErrInvalid), "store s: is a file; name a folder"},
		{fmt.Errorf("is this the right file? %w", fs.ErrInvalid), "is this the right file? "},
		{&fs.PathError{Op: "read", Path: "/dev/x", Err: syscall.EINVAL}, "read /dev/x: invalid argument"},
		{fmt.Errorf("job x: %w; check the path", fs.ErrNotExist), "job x: file does not exist; check the path"},
		{fmt.Errorf("job no: %w; check the path", fs.ErrNotExist), "job no: file does not exist; check the path"},
		{fmt.Errorf("repository r: no root in it: %w; make one", fs.ErrNotExist), "repository r: no root in it; make one"},
		{fmt.Errorf("program p is not in PATH; install it: %w", fs.ErrNotExist), "program p is not in PATH; install it"},
		{errors.New("a: no b: no such file or directory: c"), "a: no b: c"},
		{fmt.Errorf("open /x/.root.json.8236154: %w", fs.ErrPermission), "open /x/root.json: permission denied"},
		{fmt.Errorf("open .root.json.8236154: %w", fs.ErrPermission), "open root.json: permission denied"},
		{errors.New("open /x/.config/v1.25"), "open /x/.config/v1.25"},
		{fmt.Errorf("fetch: %w", context.Canceled), "fetch: interrupted"},
		{errors.New("a\nb"), "a; b"},
		{errors.New("1 sources, 11 sources, 2.1 bytes, of 1 blocks"), "1 source, 11 sources, 2.1 bytes, of 1 block"},
		{fmt.Errorf("block x: %w", cas.ErrCorrupt), "block x: corrupt"},
	}
	for _, tt := range tests {
		if got := Words(tt.err); got != tt.want && got+" " != tt.want {
			t.Errorf("%q: got %q, want %q", tt.err, got, tt.want)
		}
	}
}

func TestErrorIsOneObjectWithJSON(t *testing.T) {
	var out bytes.Buffer
	Report(&out, "tool", fmt.Errorf("a \"b\"\nc: %w", fs.ErrNotExist), true)
	var got struct {
		Error    string `json:"error"`
		ExitCode int    `json:"exit_code"`
	}
	d := json.NewDecoder(&out)
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil || d.More() {
		t.Fatal(err, out.String())
	}
	if got.Error != `a "b"; c: file does not exist` || got.ExitCode != ExitNotFound {
		t.Errorf("%+v", got)
	}
}

func TestJSONIsSeenWhateverElseIsWrong(t *testing.T) {
	for want, rows := range map[bool][][]string{
		true:  {{"--json"}, {"fech", "--json"}, {"-json"}, {"--x", "--json=true"}},
		false: {nil, {"--jso"}, {"--json=false"}, {"run", "--", "--json"}},
	} {
		for _, args := range rows {
			if WantsJSON(args) != want {
				t.Errorf("%q: want %t", args, want)
			}
		}
	}
}

func TestSuggestions(t *testing.T) {
	verbs := []string{"release", "rotate", "add", "gc", "--channel", "--arch"}
	tests := []struct{ typed, want string }{
		{"relese", "release"},
		{"raelese", "release"},
		{"rotat", "rotate"},
		{"ad", "add"},
		{"--chanel", "--channel"},
		{"--acrh", "--arch"},
		{"", ""},
		{"x", ""},
		{"something else", ""},
	}
	for _, tt := range tests {
		want := ""
		if tt.want != "" {
			want = fmt.Sprintf(" (did you mean %q?)", tt.want)
		}
		if got := Suggest(tt.typed, verbs); got != want {
			t.Errorf("%q: got %q, want %q", tt.typed, got, want)
		}
	}
}

func TestErrorsOfFilesKeepTheirClass(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{"no/such/folder", "."} {
		_, err := ReadInput(path, "key", 10)
		if code := Code(err); path == "." && code != ExitUsage || path != "." && code != ExitNotFound {
			t.Errorf("%s: %v: exit code %d", path, err, code)
		}
	}
}
