package limit

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnErrorIsLoggedAgainAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(bytes.Buffer)
		log := OnceAnHour(slog.New(slog.NewTextHandler(out, nil))).With("part", "store")
		for range 2 {
			log.Error("block", "path", "/a", "err", "first")
			log.Error("block", "path", "/b", "err", "first")
			log.Error("block", "path", "/b", "err", "second")
			log.Info("block")
			log.Info("block")
			time.Sleep(repeatAfter)
		}
		if n, m := strings.Count(out.String(), "ERROR"), strings.Count(out.String(), "INFO"); n != 4 || m != 4 {
			t.Errorf("%d errors, %d others:\n%s", n, m, out)
		}
	})
}

func TestRememberedErrorsAreBounded(t *testing.T) {
	log := OnceAnHour(slog.New(slog.NewTextHandler(io.Discard, nil)))
	for i := range 3 * maxLogged {
		log.Error(strings.Repeat("x", i))
	}
	if n := log.Handler().(hourly).logged.Len(); n > maxLogged {
		t.Errorf("%d are remembered", n)
	}
}
