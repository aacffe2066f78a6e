package plasm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The protocol between plasmd and the process that runs the job. The request is one line of JSON,
// followed by the module and perhaps its compiled code. The answer is a sequence of frames: a kind, a
// length of four bytes, and the payload. The last frame is a result or a refusal.
const (
	frameStdout  = 'o' // output of the job
	frameStderr  = 'e' // output of the job on stderr
	framePeak    = 'm' // eight bytes: a new peak of the linear memory
	frameBegin   = 'b' // a beginning as JSON: the job is about to start
	frameResult  = 'r' // a result as JSON
	frameRefusal = 'c' // text: why the module is corrupt
	frameCode    = 'k' // compiled code of the module, if the request asks to keep it
	frameKept    = 'K' // the end of that code, and the last frame

	maxFrame   = 64 << 10
	maxRequest = 512 << 10 // bytes of the line of JSON; escapes of an argument make it up to 6 times longer
)

// A request asks the process to run a module.
type request struct {
	Name   string
	SHA256 string // of the module
	Length int64  // bytes of the module
	Spec   Spec   // with the engine that was chosen
	Mounts string // mount namespace of the parent
	Code   int64  // bytes of compiled code after the module, 0 for none
	Keep   bool   // send the compiled code, and do not run the job
}

// room returns the space that the compiled code needs in the file system of the process, in bytes. It is 0
// if the request has nothing to do with stored code.
func (r request) room() int64 {
	switch {
	case r.Keep:
		return codeRoom(r.Length) + codeSlack
	case r.Code > 0:
		return r.Code + codeSlack
	}
	return 0
}

// A beginning is what is known when the job starts.
type beginning struct {
	Isolation []string // Isolation constants
}

// A result is the part of an Outcome that is known in the process.
type result struct {
	Reason    string
	Detail    string
	ExitCode  int64
	StdoutCut bool // the output limit cut stdout
	StderrCut bool
	Input     Output // what the job read on stdin
}

// send sends the request. code may be nil.
func (r request) send(w io.Writer, module []byte, code *cachedCode) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return err
	}
	if _, err = w.Write(module); err != nil || code == nil {
		return err
	}
	_, err = io.Copy(w, code)
	return err
}

// receive reads a request and its module. The reader that it returns has the compiled code.
func receive(r io.Reader) (request, []byte, io.Reader, error) {
	var q request
	in := bufio.NewReaderSize(r, maxRequest)
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		err = fmt.Errorf("a request of more than %d bytes", maxRequest)
	}
	if err != nil {
		return q, nil, nil, err
	}
	if err := json.Unmarshal(line, &q); err != nil {
		return q, nil, nil, err
	}
	if q.Length < 0 || q.Length > maxModule {
		return q, nil, nil, fmt.Errorf("a module of %d bytes; the limit is %d", q.Length, maxModule)
	}
	if q.Code < 0 || q.Code > maxCode {
		return q, nil, nil, fmt.Errorf("compiled code of %d bytes; the limit is %d", q.Code, maxCode)
	}
	module := make([]byte, q.Length)
	_, err = io.ReadFull(in, module)
	return q, module, in, err
}

// frames writes the frames of an answer.
type frames struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frames) send(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	_, err := f.w.Write(append(head, payload...))
	return err
}

// sendJSON sends a frame with a value as JSON.
func (f *frames) sendJSON(kind byte, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return f.send(kind, data)
}

// stdout and stderr return writers that send output of the job, and code one that sends compiled code.
func (f *frames) stdout() io.Writer { return stream{f, frameStdout} }
func (f *frames) stderr() io.Writer { return stream{f, frameStderr} }
func (f *frames) code() io.Writer   { return stream{f, frameCode} }

// A stream sends what is written to it in frames of one kind.
type stream struct {
	*frames
	kind byte
}

func (f stream) Write(p []byte) (int, error) {
	size := len(p)
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		if err := f.send(f.kind, p[:n]); err != nil {
			return size - len(p), err
		}
		p = p[n:]
	}
	return size, nil
}

// peak reports a new peak of the linear memory, in bytes.
func (f *frames) peak(size uint64) {
	_ = f.send(framePeak, binary.BigEndian.AppendUint64(nil, size)) // fails only if the parent is dead, and this process dies with it
}

// readFrame reads the next frame. The payload is valid until the next call.
func readFrame(r io.Reader, buf *bytes.Buffer) (byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, fmt.Errorf("a frame of %d bytes", size)
	}
	buf.Reset()
	if _, err := io.CopyN(buf, r, int64(size)); err != nil {
		return 0, fmt.Errorf("a frame is cut off: %w", io.ErrUnexpectedEOF)
	}
	return head[0], nil
}
