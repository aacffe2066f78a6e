package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

// refusal returns the error of an object store that answers each request with an error.
func refusal(t *testing.T, status int, code string, ahead time.Duration) error {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>made by the test</Message></Error>", code)
	}))
	defer s.Close()
	_, err := dial(t, s3test.Address(s.URL, "fleet")).List(t.Context(), "packs/", 0)
	if err == nil {
		t.Fatal("no error")
	}
	return err
}

func wantRemedy(t *testing.T, err, class error, parts ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%v, want %v", err, class)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q", err, part)
		}
	}
}

func TestARefusalNamesItsRemedy(t *testing.T) {
	t.Parallel()
	wantRemedy(t, refusal(t, http.StatusForbidden, "RequestTimeTooSkewed", time.Hour), fs.ErrPermission, "s behind that of the object store; set the clock")
	wantRemedy(t, refusal(t, http.StatusForbidden, "RequestTimeTooSkewed", -time.Hour), fs.ErrPermission, "s ahead of that of the object store")
	wantRemedy(t, refusal(t, http.StatusMovedPermanently, "PermanentRedirect", 0), fs.ErrInvalid, "region=REGION or endpoint=URL")
	wantRemedy(t, refusal(t, http.StatusBadRequest, "AuthorizationHeaderMalformed", 0), fs.ErrInvalid, "region=REGION or endpoint=URL")
}

func TestARefusalNamesTheKeysOrThatThereAreNone(t *testing.T) {
	credentials := t.TempDir() + "/credentials"
	check(t, os.WriteFile(credentials, []byte("[other]\naws_access_key_id = a\naws_secret_access_key = b\n"), 0o600))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", credentials)
	t.Setenv("AWS_CONFIG_FILE", credentials+".none")
	for name, c := range map[string]struct{ id, secret, profile, want string }{
		"none":            {"", "", "", `no keys in profile "default" of ` + credentials},
		"another profile": {"", "", "nope", `no keys in profile "nope" of ` + credentials},
		"only the id":     {"id", "", "", "AWS_SECRET_ACCESS_KEY is not"},
		"only the secret": {"", "secret", "", "AWS_ACCESS_KEY_ID is not"},
		"of the profile":  {"", "", "other", `check the keys in profile "other" of ` + credentials},
		"the environment": {"id", "secret", "other", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", c.id)
			t.Setenv("AWS_SECRET_ACCESS_KEY", c.secret)
			t.Setenv("AWS_PROFILE", c.profile)
			wantRemedy(t, refusal(t, http.StatusForbidden, "AccessDenied", 0), fs.ErrPermission, c.want)
		})
	}
}

// An operator sees after two seconds that a command waits for the object store, and for which one.
func TestRequestsThatAreRepeatedAreToldOnce(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	p.Set(func(*http.Request) s3test.Fault { return s3test.Status503 })
	a, err := bucket.ParseAddress(address)
	check(t, err)
	var log bytes.Buffer
	b, err := bucket.Dial(a, slog.New(slog.NewTextHandler(&log, nil)))
	check(t, err)
	short, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	_, err = b.List(short, "packs/", 0)
	if err == nil || log.Len() > 0 {
		t.Errorf("%v after less than a second: %s", err, &log)
	}
	long, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = b.List(long, "packs/", 0)
	if err == nil || strings.Count(log.String(), "is repeated") != 1 || !strings.Contains(log.String(), "endpoint="+p.URL) {
		t.Errorf("%v: %s", err, &log)
	}
}

// A body without a length that breaks off would look complete.
func TestAnAnswerWithoutALengthIsRefused(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	b := dial(t, address)
	check(t, b.Write(t.Context(), "object", []byte("content"), "text/plain"))
	p.Set(func(*http.Request) s3test.Fault { return s3test.NoLength })
	if data, _, err := b.Read(t.Context(), "object", 100); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("%q, %v", data, err)
	}
}
