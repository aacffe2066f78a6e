package bootclient

import (
	"context"
	"net"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// Hurry makes every pause and limit of the table in docs/PATIENCE.md n times shorter.
func (c *Config) Hurry(n time.Duration) {
	t := timing.Usual
	for _, d := range []*time.Duration{
		&t.LookAround, &t.Grace, &t.CacheGrace, &t.Settle, &t.CheckLimit, &t.AskFirst, &t.AskMax,
		&t.Idle, &t.FailFirst, &t.FailMax, &t.BusyMax, &t.LackFirst, &t.LackMax, &t.SayAfter, &t.SayAgain,
	} {
		*d /= n
	}
	c.times = &t
}

// Interfaces sets the network interfaces of the machine.
func (c *Config) Interfaces(list ...net.Interface) {
	c.interfaces = func() ([]net.Interface, error) { return list, nil }
}

// OpenCacheWithin sets the deadline for opening a cache.
func (c *Config) OpenCacheWithin(d time.Duration) {
	t := timing.Usual
	t.OpenCache = d
	c.times = &t
}

// OpenPacksWith replaces the function that opens the store of a cache.
func (c *Config) OpenPacksWith(open func(context.Context, string, pack.Options) (*pack.Store, error)) {
	c.openPacks = open
}

// WaitForNewer sets how long a search waits for a newer pointer.
func (c *Config) WaitForNewer(d time.Duration) {
	t := timing.Usual
	t.Grace, t.CacheGrace = d, d
	c.times = &t
}
