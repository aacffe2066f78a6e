package bootclient_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// A mirror without the repository is named, with its answer.
func TestAnEmptyMirrorIsNamedWithItsAnswer(t *testing.T) {
	t.Parallel()
	m := newMachine(t, newRepo(t, "us", manifest.Discovery{}), "private")
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	m.cfg.Timeout, m.cfg.Mirrors = answerTime, []string{empty.URL}
	m.refuses(cli.ExitNotFound, "mirror "+empty.URL+": IPNS record: status 404 Not Found", "check the address of the mirror", "is it the right root.json?")
}

// A file:// mirror without a folder is unreachable, and reported at once.
func TestAMirrorWithoutAFolderIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, name := range []string{"missing", "file", "file/below"} {
		m, console := newMachine(t, newRepo(t, "us", manifest.Discovery{}), "private"), new(bytes.Buffer)
		mirror := "file://" + filepath.Join(dir, name)
		m.cfg.Report = report.New(time.Now(), console)
		m.cfg.Timeout, m.cfg.Mirrors = time.Second, []string{mirror}
		m.refuses(cli.ExitNotFound, "mirror "+mirror+": ", "no such folder; check the path", "name a source with --mirror")
		first, _, _ := strings.Cut(console.String(), "\n")
		if !strings.Contains(first, "mirror "+mirror) || !strings.Contains(first, "no such folder") {
			t.Errorf("%s: the first line is %q", name, first)
		}
		data, err := json.Marshal(m.cfg.Report)
		ok(t, err)
		var report struct {
			Refused []report.Refusal `json:"refused"`
		}
		ok(t, json.Unmarshal(data, &report))
		if len(report.Refused) != 1 || report.Refused[0].Source != "mirror "+mirror {
			t.Errorf("%s: refused %+v, want the mirror once", name, report.Refused)
		}
	}
}

// The folder of a mirror may come with a medium that is mounted during the search.
func TestAMirrorWhoseFolderComesLaterIsUsed(t *testing.T) {
	t.Parallel()
	late := "file://" + filepath.Join(t.TempDir(), "late")
	m := newMachine(t, newRepo(t, "us", manifest.Discovery{}), "private")
	made := make(chan error, 1)
	m.cfg.Report = report.New(time.Now(), writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "no such folder") {
			select {
			case made <- os.MkdirAll(strings.TrimPrefix(late, "file://"), 0o700):
			default:
			}
		}
		return len(p), nil
	}))
	m.cfg.Timeout, m.cfg.Mirrors = 3*time.Second, []string{late}
	m.refuses(cli.ExitNotFound, "mirror "+late+": IPNS record: status 404 Not Found")
	ok(t, <-made)
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
