package main

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// Greatest values of the options of --submitter: more than any machine gives to one job.
const (
	maxJobs    = 1024
	maxTime    = 24 * time.Hour
	maxMemory  = 4 << 30 // address space of a 32-bit linear memory
	maxScratch = 4 << 30
	maxOutput  = 64 << 20
	wasmPage   = 64 << 10
)

// noSubmitters is the value of --submitter for a release without submitters.
const noSubmitters = "none"

const submitterUsage = "public `key` that may submit jobs over the network, with what it may do: KEY.pub[=OPTION,…] (repeatable)"

const submitterHelp = `--submitter names a key that may submit jobs over the network to the machines that run the release.
Without it, machines accept no job from the network. KEY.pub is a file that phase-sign key generate or
ssh-keygen made; OPTIONs follow it after "=", with "," between them:

  name=NAME        name of the submitter (default: the file's name without .pub and .key)
  jobs=N           jobs queued and running at a time (default 1)
  memory=SIZE      highest memory limit of a job (256M)
  timeout=TIME     highest time limit of a job (30s)
  cpu=TIME         highest CPU time of a job (as timeout)
  output=SIZE      highest output limit of a job (64K)
  stdin            jobs may have an input
  scratch=SIZE     jobs may have a scratch folder in memory, of at most SIZE
  artifacts=ROLE   jobs may read this artifact of the release (repeatable)
  clock            jobs may read the machine's clock
  random           jobs may read the machine's random numbers`

// submitterOptions sets one option each. The value is "" for an option without one.
var submitterOptions = map[string]func(s *manifest.Submitter, value string) error{
	"name":    func(s *manifest.Submitter, v string) error { s.Name = v; return nil },
	"jobs":    func(s *manifest.Submitter, v string) error { return setJobs(&s.Jobs, v) },
	"memory":  func(s *manifest.Submitter, v string) error { return setSize(&s.Limits.Memory, v, wasmPage, maxMemory) },
	"timeout": func(s *manifest.Submitter, v string) error { return setTime(&s.Limits.Timeout, v) },
	"cpu":     func(s *manifest.Submitter, v string) error { return setTime(&s.Limits.CPU, v) },
	"output":  func(s *manifest.Submitter, v string) error { return setSize(&s.Limits.Output, v, 1, maxOutput) },
	"scratch": func(s *manifest.Submitter, v string) error { return setSize(&s.Grants.Scratch, v, 1, maxScratch) },
	"artifacts": func(s *manifest.Submitter, v string) error {
		s.Grants.Artifacts = append(s.Grants.Artifacts, v)
		return nil
	},
	"stdin":  func(s *manifest.Submitter, _ string) error { s.Grants.Stdin = true; return nil },
	"clock":  func(s *manifest.Submitter, _ string) error { s.Grants.Clock = true; return nil },
	"random": func(s *manifest.Submitter, _ string) error { s.Grants.Random = true; return nil },
}

// plainOptions have no value.
var plainOptions = []string{"stdin", "clock", "random"}

// loadSubmitters reads the values of --submitter. The result is nil without a value, and empty for "none".
func loadSubmitters(ctx context.Context, texts []string, pass key.PassFunc) ([]manifest.Submitter, error) {
	if len(texts) == 1 && texts[0] == noSubmitters {
		return []manifest.Submitter{}, nil
	}
	if len(texts) > manifest.MaxSubmitters {
		return nil, cli.Usagef("--submitter: %d submitters; a release names at most %d", len(texts), manifest.MaxSubmitters)
	}
	var list []manifest.Submitter
	for _, text := range texts {
		if text == noSubmitters {
			return nil, cli.Usagef("--submitter %s: cannot be combined with others; leave it out or leave the others out", text)
		}
		s, err := loadSubmitter(ctx, text, pass)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(list, func(o manifest.Submitter) bool { return o.Key.Equal(s.Key) }); i >= 0 {
			return nil, cli.Usagef("--submitter %s: the same key as that of submitter %q; name it once", text, list[i].Name)
		}
		if slices.ContainsFunc(list, func(o manifest.Submitter) bool { return o.Name == s.Name }) {
			return nil, cli.Usagef("--submitter %s: a second submitter %q; add name=OTHER to one of them", text, s.Name)
		}
		list = append(list, s)
	}
	// the order of the flags makes no other release
	slices.SortFunc(list, func(a, b manifest.Submitter) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// loadSubmitter reads KEY.pub[=OPTION,…].
func loadSubmitter(ctx context.Context, text string, pass key.PassFunc) (manifest.Submitter, error) {
	path, options, given := strings.Cut(text, "=")
	if path == "" || given && options == "" {
		return manifest.Submitter{}, cli.Usagef("--submitter %s: write it as KEY.pub or KEY.pub=jobs=4,memory=256M", text)
	}
	s := manifest.Submitter{
		Name: submitterName(path), Jobs: 1,
		Limits: manifest.SubmitterLimits{Memory: 256 << 20, Timeout: 30_000, Output: 64 << 10},
	}
	if given {
		if err := setOptions(&s, options); err != nil {
			return manifest.Submitter{}, cli.Usagef("--submitter %s: %v", path, err)
		}
	}
	slices.Sort(s.Grants.Artifacts)
	if s.Limits.CPU == 0 {
		s.Limits.CPU = s.Limits.Timeout
	}
	var err error
	s.Key, err = key.LoadPublic(ctx, path, pass)
	return s, err
}

// submitterName is the name of a key file without its endings.
func submitterName(path string) string {
	return strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".pub"), ".key")
}

func setOptions(s *manifest.Submitter, options string) error {
	seen := map[string]bool{}
	for option := range strings.SplitSeq(options, ",") {
		name, value, given := strings.Cut(option, "=")
		set, ok := submitterOptions[name]
		plain := slices.Contains(plainOptions, name)
		switch {
		case !ok:
			return cli.Usagef("unknown option %q%s; see 'phase-sign release --help'", name, cli.Suggest(name, optionNames()))
		case plain && given:
			return cli.Usagef("option %s has no value; write %s", name, name)
		case !plain && value == "":
			return cli.Usagef("option %s needs a value; see 'phase-sign release --help'", name)
		case seen[name] && name != "artifacts":
			return cli.Usagef("option %s is given twice; give it once", name)
		}
		seen[name] = true
		if err := set(s, value); err != nil {
			return cli.Usagef("%s=%s: %v", name, value, err)
		}
	}
	return nil
}

func optionNames() (list []string) {
	for name := range submitterOptions {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func setJobs(n *int, value string) (err error) {
	if *n, err = strconv.Atoi(value); err != nil || *n < 1 || *n > maxJobs {
		return cli.Usagef("not a number of jobs; give 1 to %d", maxJobs)
	}
	return nil
}

func setSize(n *int64, value string, least, most cli.Size) error {
	var size cli.Size
	if err := size.Set(value); err != nil {
		return err
	}
	if size < least || size > most {
		return cli.Usagef("give %s to %s", least.String(), most.String())
	}
	*n = int64(size)
	return nil
}

func setTime(ms *int64, value string) error {
	d, err := time.ParseDuration(value)
	if err != nil || d < time.Millisecond || d > maxTime || d%time.Millisecond != 0 {
		return cli.Usagef("not a time in whole milliseconds; give 1ms to 24h, for example 60s")
	}
	*ms = d.Milliseconds()
	return nil
}
