package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// goodEnv names the environment variable with the good client's task. The good client is a
// process of its own, so that it does not share threads with the bad connections.
const goodEnv = "SIEGE_GOOD"

// A task is the input of the good client. It fetches an artifact block by block in a loop
// for Seconds, and at least once completely. Over streams, each round is a new peer.
type task struct {
	HTTP    string
	Listen  []string // multiaddrs for streams; empty for plain HTTP
	Root    cid.Cid
	Length  int64
	Seconds float64
}

// good is the result of the good client.
type good struct {
	Bytes  int64
	Took   time.Duration
	Waits  []time.Duration // time of each block
	Rounds int             // complete artifacts
	Failed int             // failed requests
	Cause  string          // of the last failure
}

const (
	tries = 1000                  // failures after which the client stops
	pause = 50 * time.Millisecond // before a retry
)

// wait returns a percentile of the times of one block.
func (g good) wait(percent int) time.Duration {
	if len(g.Waits) == 0 {
		return 0
	}
	slices.Sort(g.Waits)
	return g.Waits[(len(g.Waits)-1)*percent/100].Round(10 * time.Microsecond)
}

func (g good) rate() float64 { return float64(g.Bytes) / 1e6 / g.Took.Seconds() }

// goodClient runs a task in a child process.
func goodClient(ctx context.Context, t task) (g good, err error) {
	text, err := json.Marshal(t)
	if err != nil {
		return g, err
	}
	self, err := os.Executable()
	if err != nil {
		return g, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env, cmd.Stderr = append(os.Environ(), goodEnv+"="+string(text)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return g, fmt.Errorf("good client: %w", err)
	}
	return g, json.Unmarshal(out, &g)
}

// runGoodClient is the main function of that process.
func runGoodClient(text string) int {
	var t task
	err := json.Unmarshal([]byte(text), &t)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(t.do(context.Background()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "good client:", err)
		return 1
	}
	return 0
}

func (t task) do(ctx context.Context) (g good) {
	start := time.Now()
	enough := start.Add(time.Duration(t.Seconds * float64(time.Second)))
	for g.Rounds == 0 && g.Failed < tries || time.Now().Before(enough) {
		if err := t.round(ctx, enough, &g); err != nil {
			g.fail(err)
		}
	}
	g.Took = time.Since(start)
	return g
}

func (g *good) fail(err error) {
	g.Failed, g.Cause = g.Failed+1, err.Error()
	time.Sleep(pause)
}

// round fetches the artifact once. Rounds after the first stop at enough.
func (t task) round(ctx context.Context, enough time.Time, g *good) error {
	gw, done, err := t.gateway(ctx)
	if err != nil {
		return err
	}
	defer done()
	leaves, err := cas.Leaves(ctx, gw, t.Root, t.Length)
	if err != nil {
		return err
	}
	for _, l := range leaves {
		if g.Rounds > 0 && time.Now().After(enough) {
			return nil
		}
		for start := time.Now(); ; {
			data, err := cas.ReadLeafInto(ctx, gw, l, new([]byte))
			if err == nil {
				g.Waits, g.Bytes = append(g.Waits, time.Since(start)), g.Bytes+int64(len(data))
				break
			}
			if g.fail(err); g.Failed > tries {
				return err
			}
		}
	}
	g.Rounds++
	return nil
}

// gateway connects over plain HTTP, or over streams with a new peer identity.
func (t task) gateway(ctx context.Context) (*gateway.Client, func(), error) {
	if len(t.Listen) == 0 {
		return &gateway.Client{Base: t.HTTP}, func() {}, nil
	}
	known, err := p2p.ParsePeers(t.Listen)
	if err != nil {
		return nil, nil, err
	}
	node, err := p2p.New(ctx, p2p.Options{})
	if err != nil {
		return nil, nil, err
	}
	gw, err := node.Gateway(ctx, known[0])
	if err != nil {
		node.Close()
		return nil, nil, err
	}
	return gw, func() { node.Close() }, nil
}
