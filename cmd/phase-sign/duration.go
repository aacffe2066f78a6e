package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/cli"
)

// A span is a duration flag that also accepts days: 30d, 12h, 1h30m. At most 36500d.
type span time.Duration

// Set implements pflag.Value.
func (s *span) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(n) * 24 * time.Hour
		if n > 36500 {
			d = 0
		}
	}
	if err != nil || d < time.Minute {
		return cli.Usagef("not a duration of a minute or more; write it as 30d or 12h")
	}
	*s = span(d)
	return nil
}

// String implements pflag.Value.
func (s *span) String() string {
	d := time.Duration(*s)
	if d%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return d.String()
}

// Type implements pflag.Value.
func (s *span) Type() string { return "duration" }
