package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/plasm"
	"github.com/phaseboot/phaseboot/plasm/api"
)

// specFlags are what a job asks for.
type specFlags struct {
	spec   plasm.Spec
	grants []string
	env    []string
	stdin  bool
	input  string
}

func (f *specFlags) register(cmd *cobra.Command) {
	f.spec = plasm.DefaultSpec()
	flags, lim := cmd.Flags(), &f.spec.Limits
	flags.StringSliceVar(&f.grants, "grant", nil, "what the job may use: stdin, clock, random, scratch=SIZE, artifact=ROLE; may be repeated")
	flags.StringArrayVar(&f.env, "env", nil, "NAME=VALUE in the job's environment, or NAME for the value of this environment; may be repeated")
	flags.BoolVar(&f.stdin, "stdin", false, "give the job this command's stdin (grants stdin)")
	flags.StringVar(&f.input, "input", "", "give the job this file as stdin (grants stdin)")
	flags.Var((*cli.Size)(&lim.Memory), "memory", "memory limit of the job, its code included")
	flags.DurationVar(&lim.Timeout, "timeout", lim.Timeout, "time limit of the job")
	flags.DurationVar(&lim.CPU, "cpu", lim.CPU, "limit of the job's processor time (default: twice --timeout)")
	flags.Var((*cli.Size)(&lim.Output), "output-limit", "limit of the job's output, in bytes")
	flags.StringVar(&f.spec.Engine, "engine", "", "interpreter or compiler (default: the time limit decides)")
	cmd.MarkFlagsMutuallyExclusive("stdin", "input")
}

// read returns the spec and the input, nil without one.
func (f *specFlags) read(args []string) (plasm.Spec, []byte, error) {
	spec, err := f.parse(args)
	if err != nil {
		return spec, nil, err
	}
	input, err := f.readInput()
	if err != nil {
		return spec, nil, err
	}
	return spec, input, spec.Check()
}

// parse returns the spec. args are the arguments of the job.
func (f *specFlags) parse(args []string) (plasm.Spec, error) {
	spec := f.spec
	spec.Args = args
	for _, text := range f.grants {
		if err := grant(&spec.Grants, text); err != nil {
			return spec, err
		}
	}
	for _, text := range f.env {
		name, value, given := strings.Cut(text, "=")
		if !given {
			if value, given = os.LookupEnv(name); !given {
				return spec, cli.Usagef("--env %.80s: not set in this environment; write NAME=VALUE", name)
			}
		}
		if spec.Env == nil {
			spec.Env = map[string]string{}
		}
		spec.Env[name] = value
	}
	spec.Grants.Stdin = spec.Grants.Stdin || f.stdin || f.input != ""
	return spec, nil
}

// grant adds a grant of the command line.
func grant(g *plasm.Grants, text string) error {
	kind, value, given := strings.Cut(text, "=")
	switch {
	case kind == "stdin" && !given:
		g.Stdin = true
	case kind == "clock" && !given:
		g.Clock = true
	case kind == "random" && !given:
		g.Random = true
	case kind == "scratch" && given:
		var size cli.Size
		if err := size.Set(value); err != nil || size == 0 {
			return cli.Usagef("--grant %.80s: not a size; write it as scratch=16M", text)
		}
		g.Scratch = int64(size)
	case kind == "artifact" && value != "":
		g.Artifacts = append(g.Artifacts, value)
	default:
		return cli.Usagef("--grant %.80q: unknown; give stdin, clock, random, scratch=SIZE or artifact=ROLE", text)
	}
	return nil
}

// readInput reads the input of the job, nil without one.
func (f *specFlags) readInput() ([]byte, error) {
	var from io.Reader
	what := "stdin"
	switch {
	case f.input != "":
		file, err := cli.OpenInput(f.input, "input")
		if err != nil {
			return nil, err
		}
		defer file.Close()
		from, what = file, "input "+f.input
	case f.stdin:
		from = os.Stdin
	default:
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(from, api.MaxInput+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(data) > api.MaxInput {
		return nil, cli.Usagef("%s: more than %d bytes; a job gets larger data as an artifact of the release", what, api.MaxInput)
	}
	return data, nil
}
