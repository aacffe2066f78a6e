package bootclient

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// Hurry makes every pause and limit of the table in docs/PATIENCE.md n times shorter.
func (c *Config) Hurry(n time.Duration) {
	t := usual
	for _, d := range []*time.Duration{
		&t.lookAround, &t.grace, &t.cacheGrace, &t.settle, &t.checkLimit, &t.askFirst, &t.askMax,
		&t.idle, &t.failFirst, &t.failMax, &t.busyMax, &t.lackFirst, &t.lackMax, &t.sayAfter, &t.sayAgain,
	} {
		*d /= n
	}
	c.times = &t
}

// Interfaces makes a machine believe that it has these network interfaces.
func (c *Config) Interfaces(list ...net.Interface) {
	c.interfaces = func() ([]net.Interface, error) { return list, nil }
}

// OpenCacheWithin sets how long a cache may take to open.
func (c *Config) OpenCacheWithin(d time.Duration) {
	t := usual
	t.openCache = d
	c.times = &t
}

// OpenPacksWith has caches opened by another function until the test ends.
func OpenPacksWith(t testing.TB, open func(context.Context, string, cas.PackOptions) (*cas.Packs, error)) {
	was := openPacks
	openPacks = open
	t.Cleanup(func() { openPacks = was })
}
