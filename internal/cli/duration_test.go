package cli

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestDurationFlagsAcceptDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "36500d": 876000 * time.Hour,
		"": 0, "30": 0, "0d": 0, "-1d": 0, "30s": 0, "1.5d": 0, "36501d": 0, "99999999999d": 0, "soon": 0,
	} {
		var d time.Duration
		err := durationFlag{&d, 36500}.Set(text)
		if (err == nil) != (want > 0) || d != want {
			t.Errorf("%q: got %v, %v; want %v", text, d, err, want)
		}
	}
}

func TestADurationFlagShowsItsDefaultInDays(t *testing.T) {
	for d, want := range map[time.Duration]string{24 * time.Hour: "1d", 365 * 24 * time.Hour: "365d", 36 * time.Hour: "36h0m0s", time.Minute: "1m0s"} {
		flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
		DurationVar(flags, &d, "expires", 3650, "lifetime")
		if got := flags.Lookup("expires").DefValue; got != want {
			t.Errorf("%v: default %s, want %s", d, got, want)
		}
	}
}
