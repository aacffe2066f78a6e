package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"time"

	"github.com/phaseboot/phaseboot/plasm/api"
)

// A Submission is a job for one machine: an order, or a request, which only a daemon's unix socket
// accepts.
type Submission struct {
	Order   []byte       // DSSE envelope; nil with Request
	Request *api.Request // nil with Order
	Module  []byte       // nil for a module that the machine has or fetches
	Input   []byte       // nil without stdin
}

// Submit sends a job and returns it as the daemon accepted it.
func (c *Client) Submit(ctx context.Context, s Submission) (api.Job, error) {
	body, err := s.body()
	if err != nil {
		return api.Job{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout+time.Duration(body.length())*time.Second/leastRate)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+api.Jobs, body.reader())
	if err != nil {
		return api.Job{}, err
	}
	req.Header.Set("Content-Type", body.kind)
	req.ContentLength = body.length()
	req.GetBody = func() (io.ReadCloser, error) { return body.reader(), nil }
	var j api.Job
	if err := c.do(req, maxAnswer, &j); err != nil {
		return api.Job{}, err
	}
	return j, c.checkJob(&j, j.ID)
}

// A multipartBody is the body of a submission. Its pieces are not copied: the bytes of a module are in
// memory once, however many machines it is sent to.
type multipartBody struct {
	kind   string // Content-Type
	pieces [][]byte
}

func (s Submission) body() (multipartBody, error) {
	var head bytes.Buffer
	w := multipart.NewWriter(&head)
	b := multipartBody{kind: w.FormDataContentType()}
	cut := func() {
		b.pieces = append(b.pieces, bytes.Clone(head.Bytes()))
		head.Reset()
	}
	part := func(name, kind string, data []byte) error {
		_, err := w.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="` + name + `"; filename="` + name + `"`},
			"Content-Type":        {kind},
		})
		cut()
		b.pieces = append(b.pieces, data)
		return err
	}
	var err error
	if s.Order != nil {
		err = part(api.PartOrder, "application/json", s.Order)
	} else {
		var request []byte
		if request, err = json.Marshal(s.Request); err == nil {
			err = part(api.PartJob, "application/json", request)
		}
	}
	if err == nil && s.Module != nil {
		err = part(api.PartModule, "application/wasm", s.Module)
	}
	if err == nil && s.Input != nil {
		err = part(api.PartInput, "application/octet-stream", s.Input)
	}
	if err == nil {
		err = w.Close()
	}
	cut()
	return b, err
}

func (b multipartBody) length() (n int64) {
	for _, p := range b.pieces {
		n += int64(len(p))
	}
	return n
}

func (b multipartBody) reader() io.ReadCloser {
	readers := make([]io.Reader, len(b.pieces))
	for i, p := range b.pieces {
		readers[i] = bytes.NewReader(p)
	}
	return io.NopCloser(io.MultiReader(readers...))
}
