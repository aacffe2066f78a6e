package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer"
)

func newRollout() *cobra.Command {
	var spec signer.RolloutSpec
	m := manifestFlags{spec: &spec.ManifestSpec}
	cmd := &cobra.Command{
		Use:   "rollout --repo DIR --channel CHANNEL --arch ARCH --rollout PERCENT --out FILE",
		Short: "Change which machines take the newest release, without new artifacts",
		Long: `rollout writes and signs a manifest with the newest release of the channel and other conditions;
those that are not given stay. A larger percentage includes all machines of a smaller one. 100% removes
percentage, groups and date, and the earlier releases that no machine takes any more; 0% removes the
groups too, unless --group names some, and stops the roll-out: all machines go back to the earlier
release. No artifact is read.`,
		Example: `  phase-sign rollout --repo repo --channel stable --arch x86_64 --rollout 50% --key keys/release --out RELEASE.json
  phase-sign rollout --repo repo --channel stable --arch x86_64 --rollout 100% --key keys/release --out RELEASE.json
  phase-sign rollout --repo repo --channel stable --arch x86_64 --rollout 0% --key keys/release --out RELEASE.json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return m.sign(cmd, func(ctx context.Context) (signer.Summary, error) { return signer.Rollout(ctx, spec) })
		},
	}
	m.define(cmd, releaseKeyUsage, newSubmitterUsage)
	m.rollout.defineConditions(cmd)
	cmd.Flags().StringVar(&spec.Channel, "channel", "", "channel")
	require(cmd, "repo", "channel", "arch", "key", "out")
	return cmd
}

func newHold() *cobra.Command {
	var spec signer.HoldSpec
	m := manifestFlags{spec: &spec.ManifestSpec}
	cmd := &cobra.Command{
		Use:   "hold --repo DIR --channel CHANNEL --arch ARCH --group GROUP --release VERSION --out FILE",
		Short: "Keep groups of machines on an earlier release, or release them",
		Long: `hold writes and signs a manifest with the newest release of the channel that machines in --group do
not take: they stay on --release, which the manifest then carries, until hold --remove. Later releases
keep that. To hold a group on the newest release, give --hold to the next phase-sign release. No artifact
is read.`,
		Example: `  phase-sign hold --repo repo --channel stable --arch x86_64 --group lab --release 2026.10 --key keys/release --out RELEASE.json
  phase-sign hold --repo repo --channel stable --arch x86_64 --group lab --remove --key keys/release --out RELEASE.json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if spec.Remove == (spec.To != "") {
				return cli.Usagef("give --release to hold the group on a release, or --remove")
			}
			if err := checkGroups("group", spec.Groups); err != nil {
				return err
			}
			return m.sign(cmd, func(ctx context.Context) (signer.Summary, error) { return signer.Hold(ctx, spec) })
		},
	}
	m.define(cmd, releaseKeyUsage, newSubmitterUsage)
	f := cmd.Flags()
	f.StringVar(&spec.Channel, "channel", "", "channel")
	f.StringArrayVar(&spec.Groups, "group", nil, "`group` of machines (repeatable)")
	f.StringVar(&spec.To, "release", "", "version string of the release on which the group stays")
	f.BoolVar(&spec.Remove, "remove", false, "the group takes newer releases again")
	require(cmd, "repo", "channel", "arch", "group", "key", "out")
	return cmd
}

// rolloutFlags say which machines take a release.
type rolloutFlags struct {
	percent, notBefore string
	groups, hold       []string
	earlier            int
	floor              int64
}

// define adds the flags of every verb that signs a manifest.
func (r *rolloutFlags) define(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&r.earlier, "earlier", 0, "how many earlier releases the manifest carries, at most 4 (default: those that some machine takes)")
	f.Int64Var(&r.floor, "fallback-floor", 0, "the oldest release `number` to which machines may fall back, 0 for any (default: as before)")
}

// defineConditions adds the conditions of a roll-out.
func (r *rolloutFlags) defineConditions(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.percent, "rollout", "", "`percent` of the machines that take the release, for example 5%")
	f.StringArrayVar(&r.groups, "group", nil, "`group` of machines that take the release, whatever --rollout says (repeatable)")
	f.StringVar(&r.notBefore, "not-before", "", "`date` before which no machine takes the release, for example 2026-12-01 or 2026-12-01T06:00:00Z")
}

// defineHold adds the conditions of a new release.
func (r *rolloutFlags) defineHold(cmd *cobra.Command) {
	r.defineConditions(cmd)
	cmd.Flags().StringArrayVar(&r.hold, "hold", nil, "`group` of machines that stays on the release that it has (repeatable)")
}

// conditions reads the values of the flags.
func (r *rolloutFlags) conditions(cmd *cobra.Command) (c signer.Conditions, err error) {
	given := cmd.Flags().Changed
	if given("rollout") {
		n, err := strconv.Atoi(strings.TrimSuffix(r.percent, "%"))
		if err != nil || n < 0 || n > 100 {
			return c, cli.Usagef("--rollout %s: not a percentage; give 0%% to 100%%", r.percent)
		}
		c.Percent = &n
	}
	if given("not-before") {
		for _, layout := range []string{time.DateOnly, time.RFC3339} {
			if c.NotBefore, err = time.Parse(layout, r.notBefore); err == nil {
				break
			}
		}
		if err != nil {
			return c, cli.Usagef("--not-before %s: not a date; write it like 2026-12-01 or 2026-12-01T06:00:00Z", r.notBefore)
		}
	}
	if given("earlier") && (r.earlier < 1 || r.earlier > manifest.MaxEarlier) {
		return c, cli.Usagef("--earlier %d: give 1 to %d", r.earlier, manifest.MaxEarlier)
	}
	if given("fallback-floor") {
		if c.Floor = &r.floor; r.floor < 0 {
			return c, cli.Usagef("--fallback-floor %d: must not be negative", r.floor)
		}
	}
	c.Groups, c.Hold, c.Earlier = r.groups, r.hold, r.earlier
	if err := checkGroups("group", r.groups); err != nil {
		return c, err
	}
	return c, checkGroups("hold", r.hold)
}

// checkGroups refuses the value of a flag that is not the name of a group.
func checkGroups(flag string, groups []string) error {
	for _, g := range groups {
		if err := manifest.CheckGroup(g); err != nil {
			return cli.Usagef("--%s: %v", flag, err)
		}
	}
	return nil
}
