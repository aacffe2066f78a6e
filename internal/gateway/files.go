package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/phaseboot/phaseboot/internal/file"
)

// fileTransport answers requests for file:///PATH with regular files, as a static web server
// does, so that a mirror can be a folder. It ignores the query.
type fileTransport struct{}

// RoundTrip answers 404 for a path that does not exist or is not a regular file.
func (fileTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != "" {
		return nil, fmt.Errorf("file URL with the host %.80q: write three slashes, as in file:///srv/mirror", req.URL.Host)
	}
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: req, Body: http.NoBody}
	f, err := file.Open(req.URL.Path, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, file.ErrKind):
		resp.StatusCode = http.StatusNotFound
		return resp, nil
	case err != nil:
		return nil, errors.New(strings.TrimPrefix(err.Error(), "open "))
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	resp.Body, resp.ContentLength = f, info.Size()
	return resp, nil
}
