package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/cas"
)

func TestMessagesHaveNoLibraryText(t *testing.T) {
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
		{errOf(strconv.Atoi("x")), `"x" is not a number`},
		{errOf(strconv.ParseInt("99999999999999999999", 10, 64)), `"99999999999999999999" is too large or too small a number`},
		{errOf(strconv.ParseBool(`a"b`)), `"a\"b" is not true or false`},
		{errOf(time.ParseDuration("30")), `"30" is not a duration; write it with a unit, such as 5s or 12h`},
		{errOf(time.ParseDuration("soon")), `"soon" is not a duration; write it with a unit, such as 5s or 12h`},
		{errOf(time.ParseDuration("3w")), `"3w" is not a duration; write it with a unit, such as 5s or 12h`},
		{errOf(time.Parse(time.RFC3339, "today")), `"today" is not a date; write it as 2026-11-01T12:00:00Z`},
		{errOf(time.Parse(time.RFC3339, "2026-13-01T00:00:00Z")), `"2026-13-01T00:00:00Z" is not a date; write it as 2026-11-01T12:00:00Z`},
		{errOf(hex.DecodeString("zz")), "not hexadecimal"},
		{errOf(hex.DecodeString("abc")), "not hexadecimal"},
		{errOf(base64.StdEncoding.DecodeString("?")), "not base64"},
		{asJSON("# words"), "not JSON"},
		{asJSON("-----"), "not JSON"},
		{asJSON("'"), "not JSON"},
		{asJSON(`{"a" 1}`), "not JSON"},
		{asJSON(`{"a":1 2}`), "not JSON"},
		{asJSON(`[1 2]`), "not JSON"},
		{asJSON(`{} {}`), "not JSON"},
		{asJSON(`{a}`), "not JSON"},
		{asJSON("\"\x01\""), "not JSON"},
		{asJSON(`"\q"`), "not JSON"},
		{asJSON(`"\uzzzz"`), "not JSON"},
		{asJSON(`tru!`), "not JSON"},
		{asJSON(`nul'`), "not JSON"},
		{asJSON(`{"Signed":`), "cut short"},
		{asJSON(`[1]`), "JSON with array where something else belongs"},
		{asJSON(`{"Signed":{"Type":7}}`), "JSON with number where something else belongs"},
		{asJSON(`{"Extra":1}`), `unknown field "Extra"`},
		{fmt.Errorf("manifest m: not JSON at byte 1 of 9: %w", asJSON("#")), "manifest m: not JSON at byte 1 of 9"},
		{fmt.Errorf("manifest m: not JSON (%w); was it copied whole?", asJSON("#")), "manifest m: not JSON; was it copied whole?"},
		{fmt.Errorf("manifest m: not JSON (%w); was it copied whole?", asJSON("[]")), "manifest m: JSON with array where something else belongs; was it copied whole?"},
	}
	for _, tt := range tests {
		if got := Message(tt.err); got != tt.want && got+" " != tt.want {
			t.Errorf("%q: got %q, want %q", tt.err, got, tt.want)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

// asJSON returns the error of encoding/json for a text.
func asJSON(text string) error {
	var v struct{ Signed struct{ Type string } }
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(&v)
}

// Errors of flags have our text, not those of Go, pflag and cobra.
func TestFlagErrors(t *testing.T) {
	for line, want := range map[string]string{
		"--num x":                    "--num x: not a whole number; see 'tool do --help'",
		"--num 99999999999999999999": "--num 99999999999999999999: too large or too small a number; see",
		"--num=":                     `--num "": not a whole number; see`,
		"--yes=perhaps":              "--yes perhaps: not true or false; write --yes alone, or --yes=false; see",
		"--wait 30":                  "--wait 30: not a duration; write it with a unit, such as 5s or 12h; see",
		"-x":                         "unknown flag: -x; see",
		"-xyz":                       "unknown flag: -xyz; see",
		"-num 1":                     "unknown flag: -num; write --num, with two dashes; see",
		"-nmu=1":                     `unknown flag: -nmu (did you mean "--num"?); see`,
		"--nmu":                      `unknown flag: --nmu (did you mean "--num"?); see`,
		"--user":                     "unknown flag: --user; see",
		"--wait":                     "flag needs an argument: --wait; see",
		"--one a --two b --num 1":    "--one and --two exclude each other; give only one; see",
		"--left a --one a":           "--left and --right belong together; give --right too; see",
		"--num 1":                    "a flag is missing; give --one or --two; see",
	} {
		cmd := &cobra.Command{Use: "do", Run: func(*cobra.Command, []string) {}}
		f := cmd.Flags()
		f.Int64("num", 0, "")
		f.Bool("yes", false, "")
		f.Bool("json", false, "")
		f.Duration("wait", 0, "")
		for _, name := range []string{"one", "two", "left", "right"} {
			f.String(name, "", "")
		}
		cmd.MarkFlagsOneRequired("one", "two")
		cmd.MarkFlagsMutuallyExclusive("one", "two")
		cmd.MarkFlagsRequiredTogether("left", "right")
		root := &cobra.Command{Use: "tool", SilenceErrors: true, SilenceUsage: true}
		root.SetFlagErrorFunc(flagError)
		root.AddCommand(cmd)
		root.SetArgs(append([]string{"do"}, strings.Fields(line)...))
		ran, err := root.ExecuteC()
		if err == nil {
			t.Errorf("%s: no error", line)
			continue
		}
		if !errors.Is(err, ErrUsage) {
			err = fromCobra(ran, err)
		}
		if got := Message(err); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

func TestStandardLibraryFlagErrors(t *testing.T) {
	for line, want := range map[string]string{
		"-num x":    "--num x: not a whole number",
		"-yes=x":    "--yes x: not true or false; write --yes alone, or --yes=false",
		"--wait 30": "--wait 30: not a duration; write it with a unit, such as 5s or 12h",
		"--wait":    "flag needs an argument: --wait",
		"--wiat 1s": `unknown flag: --wiat (did you mean "--wait"?)`,
		"--user":    "unknown flag: --user",
	} {
		set := flag.NewFlagSet("tool", flag.ContinueOnError)
		set.SetOutput(io.Discard)
		set.Int("num", 0, "")
		set.Bool("yes", false, "")
		set.Bool("json", false, "")
		set.Duration("wait", 0, "")
		if got := StdFlag(set, set.Parse(strings.Fields(line))).Error(); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
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

func TestJSONFlagIsFoundBesideWrongArguments(t *testing.T) {
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
	verbs := []string{"release", "rotate", "add", "gc", "--channel", "--arch", "--json"}
	tests := []struct{ typed, want string }{
		{"relese", "release"},
		{"raelese", "release"},
		{"rotat", "rotate"},
		{"ad", "add"},
		{"--chanel", "--channel"},
		{"--acrh", "--arch"},
		{"", ""},
		{"x", ""},
		{"-x", ""},
		{"--x", ""},
		{"--on", ""},
		{"--user", ""},
		{"--long", ""},
		{"--jobs", ""},
		{"--size", ""},
		{"--port", ""},
		{"--jsn", "--json"},
		{"--jsno", "--json"},
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

func TestInputFileErrorsKeepTheirExitCode(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{"no/such/folder", "."} {
		_, err := ReadInput(path, "key", 10)
		if code := Code(err); path == "." && code != ExitUsage || path != "." && code != ExitNotFound {
			t.Errorf("%s: %v: exit code %d", path, err, code)
		}
	}
}
