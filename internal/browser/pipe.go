package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A message is a command, its answer, or an event.
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

var errEnded = errors.New("chromium has ended")

// A pipe sends commands to a browser, each followed by a NUL, and hands out answers and events.
type pipe struct {
	out io.Writer

	mu      sync.Mutex
	next    int
	waiting map[int]chan message
	pages   map[string]func(message) // by session
	ended   chan struct{}
}

func newPipe(in io.Reader, out io.Writer) *pipe {
	p := &pipe{out: out, waiting: map[int]chan message{}, pages: map[string]func(message){}, ended: make(chan struct{})}
	go p.read(bufio.NewReaderSize(in, 1<<20))
	return p
}

// read hands out messages in their order until the browser ends.
func (p *pipe) read(in *bufio.Reader) {
	defer close(p.ended)
	for {
		text, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			return
		}
		p.mu.Lock()
		answer, event := p.waiting[m.ID], p.pages[m.Session]
		delete(p.waiting, m.ID)
		p.mu.Unlock()
		switch {
		case m.ID != 0 && answer != nil:
			answer <- m
		case m.ID == 0 && event != nil:
			event(m)
		}
	}
}

// listen sets the function that gets the events of a session. It must not wait.
func (p *pipe) listen(session string, event func(message)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pages[session] = event
}

// call sends a command and reads its result. A nil result is not read.
func (p *pipe) call(ctx context.Context, session, method string, params, result any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	answer := make(chan message, 1)
	if err := p.send(session, method, raw, answer); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-p.ended:
		return fmt.Errorf("%s: %w", method, errEnded)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
}

func (p *pipe) send(session, method string, params json.RawMessage, answer chan message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	p.waiting[p.next] = answer
	text, err := json.Marshal(message{ID: p.next, Session: session, Method: method, Params: params})
	if err == nil {
		_, err = p.out.Write(append(text, 0))
	}
	return err
}
