package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

const day = 24 * time.Hour

// A durationFlag is a duration of a minute or more. It accepts days too: 30d, 12h, 1h30m.
type durationFlag struct {
	d       *time.Duration
	maxDays int
}

// DurationVar adds a flag for a duration of a minute or more, which may be given in days, at
// most maxDays of them. The default is the value of d.
func DurationVar(flags *pflag.FlagSet, d *time.Duration, name string, maxDays int, usage string) {
	flags.Var(durationFlag{d, maxDays}, name, usage)
}

func (f durationFlag) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > f.maxDays {
			n = 0
		}
		d = time.Duration(n) * day
	}
	if err != nil || d < time.Minute {
		if f.maxDays < 30 {
			return Usagef("not a duration of a minute or more; write it as 30m or 12h")
		}
		return Usagef("not a duration of a minute or more; write it as 30d or 12h")
	}
	*f.d = d
	return nil
}

func (f durationFlag) String() string {
	if f.d == nil { // pflag compares defaults with the zero value
		return "0s"
	}
	if *f.d%day == 0 {
		return strconv.Itoa(int(*f.d/day)) + "d"
	}
	return f.d.String()
}

func (durationFlag) Type() string { return "duration" }
