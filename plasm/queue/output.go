package queue

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// The output of a job is a file of frames: a varint that is twice the length, plus one for stderr, and then
// the bytes. A frame has at least as many bytes as its header, so that the file is at most twice as long as
// the output.

// Streams of an output.
const (
	Stdout = 0
	Stderr = 1
)

// maxFrame is the length of the longest frame, in bytes.
const maxFrame = 32 << 10

// outputRoom is what the file of an output of limit bytes may need.
func outputRoom(limit int64) int64 { return 2 * limit }

// An Output receives what a running job writes.
type Output struct {
	q    *Queue
	e    *entry
	mu   sync.Mutex
	f    *os.File
	left int64 // bytes of the room
	err  error

	written, closed bool
	closing         error // of Close
}

func (q *Queue) newOutput(e *entry) (*Output, error) {
	f, err := os.OpenFile(q.path(outputDir, e.job.ID), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return nil, err
	}
	return &Output{q: q, e: e, f: f, left: outputRoom(e.job.OutputLimit)}, nil
}

// Write stores a part of a stream. After an error nothing more is stored.
func (o *Output) Write(stream int, p []byte) error {
	o.mu.Lock()
	for len(p) > 0 && o.err == nil {
		part := p[:min(len(p), maxFrame)]
		p = p[len(part):]
		o.err = o.writeFrame(stream, part)
	}
	err := o.err
	o.mu.Unlock()
	o.q.mu.Lock()
	o.e.signal()
	o.q.mu.Unlock()
	return err
}

func (o *Output) writeFrame(stream int, p []byte) error {
	frame := append(binary.AppendUvarint(nil, uint64(len(p))<<1|uint64(stream)), p...)
	if o.left -= int64(len(frame)); o.left < 0 {
		return fmt.Errorf("output: longer than the limit of the job")
	}
	o.written = true
	if _, err := o.f.Write(frame); err != nil {
		return fmt.Errorf("output: state %s: %w", o.q.dir, file.FullDisk(file.Pathless(err)))
	}
	return nil
}

// Close ends the output, and makes it durable before the receipt that has its digest. It may be called twice, and
// returns the same error.
func (o *Output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return o.closing
	}
	o.closed = true
	if o.written {
		o.closing = o.q.syncOutput(o.f)
	}
	o.closing = errors.Join(o.closing, o.f.Close())
	return o.closing
}

// syncOutput makes the file of an output durable, and its name.
func (q *Queue) syncOutput(f *os.File) error {
	if q.opts.Memory {
		return nil
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("output: state %s: %w", q.dir, file.FullDisk(file.Pathless(err)))
	}
	return atomicfile.SyncDir(q.path(outputDir))
}

// Follow calls show for each part of a job's output. With wait it goes on until the job is done. It ends
// with the first error of show, or when ctx ends.
func (q *Queue) Follow(ctx context.Context, id string, wait bool, show func(stream int, p []byte) error) error {
	var f *os.File
	defer func() { f.Close() }() // harmless for nil
	var at int64
	for {
		q.mu.Lock()
		e := q.jobs[id]
		if e == nil {
			q.mu.Unlock()
			return unknown(id)
		}
		state, changed := e.job.State, e.changed
		q.mu.Unlock()
		if f == nil && (state == Running || state == Done) {
			var err error
			if f, err = file.Open(q.path(outputDir, id), file.NoFollow); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if f != nil {
			n, err := readFrames(io.NewSectionReader(f, at, 1<<62-at), show)
			if at += n; err != nil {
				return err
			}
		}
		if !wait || state == Done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// readFrames reads whole frames, and returns their length in bytes. A frame that is not there yet, or that
// was cut off by a crash, ends it without an error.
func readFrames(r io.Reader, show func(int, []byte) error) (n int64, err error) {
	in := bufio.NewReader(r)
	buf := make([]byte, maxFrame)
	for {
		head, err := binary.ReadUvarint(in)
		if err != nil || head>>1 > maxFrame {
			return n, nil
		}
		p := buf[:head>>1]
		if _, err := io.ReadFull(in, p); err != nil {
			return n, nil
		}
		if err := show(int(head&1), p); err != nil {
			return n, err
		}
		n += int64(len(binary.AppendUvarint(nil, head)) + len(p))
	}
}

// Changed returns a channel that is closed when the state or the output of a job changes, nil for an
// unknown job.
func (q *Queue) Changed(id string) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.jobs[id]; e != nil {
		return e.changed
	}
	return nil
}
