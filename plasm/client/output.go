package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/plasm/api"
)

const (
	maxLine     = 1 << 20 // bytes of a Line in JSON
	lostPause   = 200 * time.Millisecond
	lostLongest = 5 * time.Second // between two attempts after a lost connection
)

// Output copies the output that a job has made so far. With follow it goes on until the job is done.
func (c *Client) Output(ctx context.Context, id string, follow bool, to func(api.Line) error) error {
	path := jobPath(id) + api.Output
	if follow {
		path += "?follow=1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var line api.Line
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Stream != api.Stdout && line.Stream != api.Stderr {
			return c.broken("a line of output: %.80q", lines.Bytes())
		}
		if err := to(line); err != nil {
			return &writeError{err}
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return c.broken("a line of output with more than %d bytes", maxLine)
	} else if err != nil {
		return c.lost(ctx, err)
	}
	return nil
}

// A writeError is an error of the caller's function, and no reason to ask again.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// Follow copies the output of a job to stdout and stderr until the job is done, and returns the job. If
// the connection is lost, or the daemon is busy, it asks again and goes on where it was; it gives up after
// patience without an answer. The daemon may not send more than limit bytes.
func (c *Client) Follow(ctx context.Context, id string, limit int64, patience time.Duration, stdout, stderr io.Writer) (api.Job, error) {
	f := follower{limit: limit, to: map[string]io.Writer{api.Stdout: stdout, api.Stderr: stderr}, done: map[string]int64{}}
	pause, heard := lostPause, time.Now()
	for {
		before := f.total()
		err := c.Output(ctx, id, true, f.resume())
		var job api.Job
		if err == nil {
			job, err = c.Job(ctx, id)
		}
		switch {
		case err == nil && job.State == api.StateDone:
			return job, nil
		case err != nil && !errors.Is(err, cas.ErrUnreachable) && !errors.Is(err, ErrBusy):
			return job, err
		case err == nil, f.total() > before:
			pause, heard = lostPause, time.Now()
		case time.Since(heard) > patience:
			return job, err
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, lostLongest)
		case <-ctx.Done():
			return job, ctx.Err()
		}
	}
}

// A follower copies each byte of the output once, although a new connection begins at the first.
type follower struct {
	limit int64
	to    map[string]io.Writer
	done  map[string]int64 // bytes copied of each stream
}

func (f *follower) total() int64 { return f.done[api.Stdout] + f.done[api.Stderr] }

// resume returns a function for the lines of one connection.
func (f *follower) resume() func(api.Line) error {
	skip := map[string]int64{api.Stdout: f.done[api.Stdout], api.Stderr: f.done[api.Stderr]}
	return func(line api.Line) error {
		n := min(skip[line.Stream], int64(len(line.Data)))
		skip[line.Stream] -= n
		fresh := line.Data[n:]
		if f.total()+int64(len(fresh)) > f.limit {
			return refusal.New(cas.ErrCorrupt, "more output than the %d bytes that the job may write", f.limit)
		}
		f.done[line.Stream] += int64(len(fresh))
		_, err := f.to[line.Stream].Write(fresh)
		return err
	}
}
