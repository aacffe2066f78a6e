package browser

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Options of a Page. The zero value is a light page of 1280 by 800 pixels.
type Options struct {
	Width, Height int
	Dark          bool
	NoScript      bool
	Header        map[string]string // of each request
}

// A Page is a tab with cookies of its own.
type Page struct {
	pipe    *pipe
	session string
	context string

	mu       sync.Mutex
	loaded   chan struct{} // closed by the next load
	requests []string
	problems []string
}

const loadTimeout = 30 * time.Second

// Open opens a page and waits until it has loaded, with all that it names.
func (b *Browser) Open(ctx context.Context, url string, o Options) (*Page, error) {
	p, err := b.newPage(ctx, o)
	if err != nil {
		return nil, err
	}
	return p, p.Go(ctx, url)
}

func (b *Browser) newPage(ctx context.Context, o Options) (*Page, error) {
	p := &Page{pipe: b.pipe, loaded: make(chan struct{})}
	var made struct {
		Context string `json:"browserContextId"`
		Target  string `json:"targetId"`
		Session string `json:"sessionId"`
	}
	if err := p.pipe.call(ctx, "", "Target.createBrowserContext", struct{}{}, &made); err != nil {
		return nil, err
	}
	p.context = made.Context
	if err := p.pipe.call(ctx, "", "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": made.Context}, &made); err != nil {
		return nil, err
	}
	if err := p.pipe.call(ctx, "", "Target.attachToTarget", map[string]any{"targetId": made.Target, "flatten": true}, &made); err != nil {
		return nil, err
	}
	p.session = made.Session
	p.pipe.listen(p.session, p.event)
	for _, c := range []struct {
		method string
		params any
	}{
		{"Page.enable", struct{}{}},
		{"Runtime.enable", struct{}{}},
		{"Log.enable", struct{}{}},
		{"Network.enable", struct{}{}},
		{"Network.setExtraHTTPHeaders", map[string]any{"headers": o.Header}},
		{"Emulation.setScriptExecutionDisabled", map[string]any{"value": o.NoScript}},
		{"Emulation.setFocusEmulationEnabled", map[string]any{"enabled": true}},
	} {
		if c.method == "Network.setExtraHTTPHeaders" && o.Header == nil {
			continue
		}
		if err := p.Call(ctx, c.method, c.params, nil); err != nil {
			return nil, err
		}
	}
	return p, p.Look(ctx, o)
}

// Look sets the size and the colours of the page, as in Open, without loading it again.
func (p *Page) Look(ctx context.Context, o Options) error {
	scheme := "light"
	if o.Dark {
		scheme = "dark"
	}
	colours := map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}
	size := map[string]any{"width": cmp.Or(o.Width, 1280), "height": cmp.Or(o.Height, 800), "deviceScaleFactor": 1, "mobile": false}
	return errors.Join(p.Call(ctx, "Emulation.setEmulatedMedia", colours, nil), p.Call(ctx, "Emulation.setDeviceMetricsOverride", size, nil))
}

// event keeps requests, faults and loads.
func (p *Page) event(m message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e struct {
		Request   struct{ URL string }
		Type      string
		Args      []struct{ Value, Description any }
		Exception struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
		Entry struct{ Source, Level, Text, URL string }
	}
	if json.Unmarshal(m.Params, &e) != nil {
		return
	}
	switch m.Method {
	case "Network.requestWillBeSent":
		p.requests = append(p.requests, e.Request.URL)
	case "Page.loadEventFired":
		close(p.loaded)
		p.loaded = make(chan struct{})
	case "Runtime.consoleAPICalled":
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			p.problems = append(p.problems, fmt.Sprintf("console %s: %v", e.Type, e.Args))
		}
	case "Runtime.exceptionThrown":
		p.problems = append(p.problems, "exception: "+e.Exception.Text+" "+e.Exception.Exception.Description)
	case "Log.entryAdded":
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			p.problems = append(p.problems, fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	}
}

// Requests lists the URLs that the page has asked for.
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Problems lists errors and warnings of the console, among them violations of a content security policy.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.problems)
}

// Loaded returns a channel that is closed by the next load. Get it before what makes the page load.
func (p *Page) Loaded() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loaded
}

// Call sends a command of the DevTools protocol. A nil result is not read.
func (p *Page) Call(ctx context.Context, method string, params, result any) error {
	return p.pipe.call(ctx, p.session, method, params, result)
}

// Go loads a URL in the page.
func (p *Page) Go(ctx context.Context, url string) error {
	loaded := p.Loaded()
	var answer struct{ ErrorText string }
	if err := p.Call(ctx, "Page.navigate", map[string]string{"url": url}, &answer); err != nil {
		return err
	}
	if answer.ErrorText != "" {
		return fmt.Errorf("%s: %s", url, answer.ErrorText)
	}
	return p.Wait(ctx, loaded)
}

// Wait waits for a load.
func (p *Page) Wait(ctx context.Context, loaded <-chan struct{}) error {
	select {
	case <-loaded:
		return nil
	case <-time.After(loadTimeout):
		return fmt.Errorf("page: not loaded within %v", loadTimeout)
	case <-p.pipe.ended:
		return errEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Eval evaluates an expression, waits for its promise if it is one, and reads the value. A nil value is not read.
func (p *Page) Eval(ctx context.Context, expression string, value any) error {
	var answer struct {
		Result struct{ Value json.RawMessage }
		Thrown *struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	err := p.Call(ctx, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	switch {
	case err != nil:
		return err
	case answer.Thrown != nil:
		return errors.New(answer.Thrown.Text + " " + answer.Thrown.Exception.Description)
	case value == nil:
		return nil
	}
	return json.Unmarshal(answer.Result.Value, value)
}

// keys are those that Press knows, with their codes and texts.
var keys = map[string]struct {
	code int
	text string
}{"Tab": {9, ""}, "Enter": {13, "\r"}, "Space": {32, " "}}

// Press presses and releases a key: Tab, Enter or Space.
func (p *Page) Press(ctx context.Context, key string) error {
	k, ok := keys[key]
	if !ok {
		return fmt.Errorf("key %q: not known", key)
	}
	name := key
	if key == "Space" {
		name = " "
	}
	down := map[string]any{"type": "rawKeyDown", "key": name, "code": key, "windowsVirtualKeyCode": k.code}
	if k.text != "" {
		down["type"], down["text"] = "keyDown", k.text
	}
	if err := p.Call(ctx, "Input.dispatchKeyEvent", down, nil); err != nil {
		return err
	}
	return p.Call(ctx, "Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": name, "code": key, "windowsVirtualKeyCode": k.code}, nil)
}

// Screenshot returns a PNG of what the page shows.
func (p *Page) Screenshot(ctx context.Context) ([]byte, error) {
	var answer struct{ Data string }
	if err := p.Call(ctx, "Page.captureScreenshot", map[string]any{"format": "png", "optimizeForSpeed": false}, &answer); err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(answer.Data)
}

// Close closes the page and forgets its cookies.
func (p *Page) Close(ctx context.Context) error {
	return p.pipe.call(ctx, "", "Target.disposeBrowserContext", map[string]string{"browserContextId": p.context}, nil)
}

// Shot starts a browser, opens a page and writes a screenshot of it to a PNG file.
func Shot(ctx context.Context, url, file string, o Options) error {
	b, err := Start(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	p, err := b.Open(ctx, url, o)
	if err != nil {
		return err
	}
	data, err := p.Screenshot(ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}
