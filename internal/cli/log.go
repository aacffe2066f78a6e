package cli

import (
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// LogFlags are the flags of a daemon's log, --log and --log-level.
type LogFlags struct{ format, level string }

// Register adds the flags.
func (f *LogFlags) Register(flags *pflag.FlagSet) {
	flags.StringVar(&f.format, "log", "text", "`format` of the log on stderr: text or json")
	flags.StringVar(&f.level, "log-level", "info", "least `level` that is logged: debug, info, warn or error")
}

// Logger returns the log that the flags ask for, on w. An unknown format or level is a usage error.
func (f *LogFlags) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, Usagef("--log-level %q: unknown; use debug, info, warn or error", f.level)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch f.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, Usagef("--log %q: unknown; use text or json", f.format)
}
