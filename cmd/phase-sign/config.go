package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Sign the settings of machines: hostname, SSH keys, network, groups, credentials, secrets",
		Long: `config changes and shows the settings of machines, which the role config of the repository signs. A
machine is named by --machine: mac-525400123456, uuid-UUID or serial-TEXT, as its firmware says them, group-NAME for the
machines of a group, or default for all. A machine merges default, its groups and its own settings; the last one wins.
'phase-sign rotate --config' adds the role to a repository. docs/SETTINGS.md describes every setting.`,
		Example: `  phase-sign config set --repo repo --machine mac-525400123456 --hostname node1 --key keys/release --out CONFIG.json
  phase-sign config show --repo repo --machine mac-525400123456`,
	}
	cmd.AddCommand(newConfigSet(), newConfigRemove(), newConfigRenew(), newConfigShow())
	return cmd
}

// configFlags are the flags of the verbs that sign the settings of machines.
type configFlags struct {
	spec     signer.ConfigSpec
	keys     []string
	passFile string
	machine  string
}

func (c *configFlags) define(cmd *cobra.Command) {
	c.spec.Lifetime = rootLifetime
	f := cmd.Flags()
	f.StringVar(&c.spec.Repo, "repo", "", "repository, as init made it")
	f.StringVar(&c.spec.Out, "out", "", "the file to write; settings that are there and not published are changed further")
	f.BoolVar(&c.spec.Force, "force", false, "change settings at --out that other keys have signed, and replace those that do not follow the published ones")
	f.StringArrayVar(&c.keys, "key", nil, "key of the role config to sign with (repeatable)")
	lifetimeFlag(cmd, &c.spec.Lifetime, "expires", "how long machines accept the settings")
	passphraseFlag(cmd, &c.passFile)
}

// sign loads the keys, signs, and prints the new settings.
func (c *configFlags) sign(cmd *cobra.Command, sign func(context.Context) (signer.Summary, error)) (err error) {
	if c.spec.Keys, err = loadKeys(cmd.Context(), c.keys, passphrases(c.passFile)); err != nil {
		return err
	}
	c.spec.Now = time.Now()
	sum, err := sign(cmd.Context())
	if err != nil {
		return err
	}
	return cli.Print(cmd, sum, sum.Words(c.spec.Now))
}

const machineUsage = "`selector` of the machine: mac-525400123456, uuid-UUID, serial-TEXT, group-NAME or default"

func newConfigSet() *cobra.Command {
	var c configFlags
	var s settingFlags
	cmd := &cobra.Command{
		Use:   "set --repo DIR --machine SELECTOR --out FILE",
		Short: "Set settings of a machine, of a group or of all machines",
		Long: `set changes the settings that are given and keeps the others. An empty value removes one: --hostname "",
--ssh-key "", --credential NAME=. A credential is readable by everyone who can reach the publisher; a secret is sealed to
the machines whose age keys --to names, as their boot reports say them, and only these can open it.`,
		Example: `  phase-sign config set --repo repo --machine mac-525400123456 --hostname node1 --ssh-key admin.pub --key keys/release --out CONFIG.json
  phase-sign config set --repo repo --machine default --group all --cmdline "quiet loglevel=4" --key keys/release --out CONFIG.json
  phase-sign config set --repo repo --machine serial-AB12 --secret token=token.txt --to age1… --key keys/release --out CONFIG.json`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			change, err := s.change(cmd, c.machine)
			if err != nil {
				return err
			}
			return c.sign(cmd, func(ctx context.Context) (signer.Summary, error) {
				return signer.SetConfig(ctx, c.spec, c.machine, change)
			})
		},
	}
	c.define(cmd)
	s.define(cmd)
	cmd.Flags().StringVar(&c.machine, "machine", "", machineUsage)
	require(cmd, "repo", "machine", "key", "out")
	return cmd
}

func newConfigRemove() *cobra.Command {
	var c configFlags
	cmd := &cobra.Command{
		Use:     "remove --repo DIR --machine SELECTOR --out FILE",
		Short:   "Remove all settings of a machine, of a group or of all machines",
		Example: `  phase-sign config remove --repo repo --machine mac-525400123456 --key keys/release --out CONFIG.json`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.sign(cmd, func(ctx context.Context) (signer.Summary, error) {
				return signer.RemoveConfig(ctx, c.spec, c.machine)
			})
		},
	}
	c.define(cmd)
	cmd.Flags().StringVar(&c.machine, "machine", "", machineUsage)
	require(cmd, "repo", "machine", "key", "out")
	return cmd
}

func newConfigRenew() *cobra.Command {
	var c configFlags
	cmd := &cobra.Command{
		Use:     "renew --repo DIR --out FILE",
		Short:   "Sign the settings of machines again, with later dates",
		Example: `  phase-sign config renew --repo repo --key keys/release --out CONFIG.json`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.sign(cmd, func(ctx context.Context) (signer.Summary, error) { return signer.RenewConfig(ctx, c.spec) })
		},
	}
	c.define(cmd)
	require(cmd, "repo", "key", "out")
	return cmd
}

func newConfigShow() *cobra.Command {
	var repo, machine string
	cmd := &cobra.Command{
		Use:     "show --repo DIR",
		Short:   "Show the published settings of machines",
		Example: `  phase-sign config show --repo repo --machine mac-525400123456`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := signer.ShowConfig(repo)
			if err != nil {
				return err
			}
			if machine != "" {
				selector, err := manifest.ParseSelector(machine)
				if err != nil {
					return cli.Usagef("--machine: %v", err)
				}
				s, ok := config.Settings[selector]
				if !ok {
					return fmt.Errorf("%s: no settings: %w; leave out --machine to list all", selector, fs.ErrNotExist)
				}
				config.Settings = map[string]manifest.Settings{selector: s}
			}
			return cli.Print(cmd, config, signer.ConfigWords(config, time.Now()))
		},
	}
	cmd.Flags().StringVar(&repo, "repo", "", "repository, as init made it")
	cmd.Flags().StringVar(&machine, "machine", "", machineUsage)
	require(cmd, "repo")
	return cmd
}

// settingFlags are the settings of config set.
type settingFlags struct {
	hostname, cmdline, preheat   string
	sshKeys, network, groups, to []string
	credentials, secrets         []string
}

func (s *settingFlags) define(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.hostname, "hostname", "", "hostname")
	f.StringVar(&s.cmdline, "cmdline", "", "`words` to add to the kernel command line of the release; docs/SETTINGS.md has the list")
	f.StringVar(&s.preheat, "preheat", "", "`version` of a release that running machines fetch ahead now, also outside their maintenance window, if it is for them")
	f.StringArrayVar(&s.sshKeys, "ssh-key", nil, "public key `file` of a person who may log in as root, in place of those that are set (repeatable)")
	f.StringArrayVar(&s.network, "network", nil, "`file` of systemd-networkd, such as 50-lan.network, or static,ADDRESS/BITS[,GATEWAY[,DNS]]; in place of those that are set (repeatable)")
	f.StringArrayVar(&s.groups, "group", nil, "`group` of the machine, in place of those that are set (repeatable)")
	f.StringArrayVar(&s.credentials, "credential", nil, "`NAME=FILE`: a systemd credential that everyone may read (repeatable)")
	f.StringArrayVar(&s.secrets, "secret", nil, "`NAME=FILE`: a systemd credential that only the machines of --to can open (repeatable)")
	f.StringArrayVar(&s.to, "to", nil, "age `key` of a machine, age1… or a file with one, for --secret (repeatable)")
}

// change reads the values of the flags, and returns what makes the next settings of the present ones.
func (s *settingFlags) change(cmd *cobra.Command, machine string) (func(manifest.Settings) manifest.Settings, error) {
	given := cmd.Flags().Changed
	if !slices.ContainsFunc([]string{"hostname", "preheat", "cmdline", "ssh-key", "network", "group", "credential", "secret", "to"}, given) {
		return nil, cli.Usagef("config set: no setting is given; 'phase-sign config renew' signs the present ones with later dates")
	}
	var next manifest.Settings
	var err error
	if next.SSHKeys, err = readKeys(s.sshKeys); err != nil {
		return nil, err
	}
	if next.Network, err = readNetwork(s.network, machine); err != nil {
		return nil, err
	}
	if err := checkGroups("group", withoutEmpty(s.groups)); err != nil {
		return nil, err
	}
	credentials, err := readNamed("credential", s.credentials)
	if err != nil {
		return nil, err
	}
	secrets, err := s.seal()
	if err != nil {
		return nil, err
	}
	return func(old manifest.Settings) manifest.Settings {
		if given("hostname") {
			old.Hostname = s.hostname
		}
		if given("preheat") {
			old.Preheat = s.preheat
		}
		if given("cmdline") {
			old.Cmdline = strings.Fields(s.cmdline)
		}
		if given("ssh-key") {
			old.SSHKeys = next.SSHKeys
		}
		if given("network") {
			old.Network = next.Network
		}
		if given("group") {
			old.Groups = withoutEmpty(s.groups)
		}
		old = old.Over(manifest.Settings{Credentials: credentials, Secrets: secrets})
		dropEmpty(old.Credentials)
		dropEmpty(old.Secrets)
		return old
	}, nil
}

// seal reads the secrets and encrypts them to the machines of --to.
func (s *settingFlags) seal() (map[string][]byte, error) {
	secrets, err := readNamed("secret", s.secrets)
	if err != nil {
		return nil, err
	}
	if len(s.to) > 0 && len(secrets) == 0 {
		return nil, cli.Usagef("--to: no --secret is given")
	}
	recipients, err := readRecipients(s.to)
	if err != nil {
		return nil, err
	}
	for name, secret := range secrets {
		if len(secret) == 0 {
			continue
		}
		if len(recipients) == 0 {
			return nil, cli.Usagef("--secret %s: name the machines that may open it with --to", name)
		}
		if secrets[name], err = signer.Seal(secret, recipients); err != nil {
			return nil, err
		}
	}
	return secrets, nil
}

// withoutEmpty removes empty values, which stand for none.
func withoutEmpty(list []string) (out []string) {
	for _, v := range list {
		if v != "" {
			out = append(out, v)
		}
	}
	return out
}

func dropEmpty(list map[string][]byte) {
	for name, value := range list {
		if len(value) == 0 {
			delete(list, name)
		}
	}
}

// readNamed reads the files of flags NAME=FILE. NAME= is an empty value.
func readNamed(flag string, values []string) (map[string][]byte, error) {
	list := map[string][]byte{}
	for _, v := range values {
		name, path, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, cli.Usagef("--%s %.80s: give NAME=FILE", flag, v)
		}
		if path == "" {
			list[name] = nil
			continue
		}
		data, err := readSmall(path)
		if err != nil {
			return nil, fmt.Errorf("--%s %s: %w", flag, name, err)
		}
		if len(data) == 0 {
			return nil, cli.Usagef("--%s %s: the file is empty; give %s= to remove it", flag, name, name)
		}
		list[name] = data
	}
	return list, nil
}

// readSmall reads a file that a settings document may hold.
func readSmall(path string) ([]byte, error) {
	data, err := file.Read(path, 0, manifest.MaxSettings)
	if errors.Is(err, file.ErrTooLarge) {
		return nil, cli.Usagef("%s: more than %d bytes, the most that settings may have", path, manifest.MaxSettings)
	}
	if err != nil {
		return nil, file.Advise(err)
	}
	return data, nil
}

// readKeys reads the lines of public key files.
func readKeys(paths []string) (list []string, err error) {
	for _, path := range withoutEmpty(paths) {
		data, err := readSmall(path)
		if err != nil {
			return nil, fmt.Errorf("--ssh-key %s: %w", path, err)
		}
		n := len(list)
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				list = append(list, line)
			}
		}
		if len(list) == n {
			return nil, cli.Usagef("--ssh-key %s: no key in it", path)
		}
	}
	return list, nil
}

// readNetwork reads files of systemd-networkd for a machine, and makes one of static,ADDRESS/BITS[,GATEWAY[,DNS]].
func readNetwork(values []string, machine string) (map[string]string, error) {
	list := map[string]string{}
	for _, v := range withoutEmpty(values) {
		if text, ok := strings.CutPrefix(v, "static,"); ok {
			selector, err := manifest.ParseSelector(machine)
			if err != nil {
				return nil, fmt.Errorf("--machine: %w", err)
			}
			unit, err := signer.StaticNetwork(selector, text)
			if err != nil {
				return nil, cli.Usagef("--network %s: %v", v, err)
			}
			list[signer.StaticNetworkName] = unit
			continue
		}
		data, err := readSmall(v)
		if err != nil {
			return nil, fmt.Errorf("--network %s: %w", v, err)
		}
		list[filepath.Base(v)] = string(data)
	}
	return list, nil
}

// readRecipients returns the age keys of machines, each given as such or in a file.
func readRecipients(values []string) (list []string, err error) {
	for _, v := range values {
		if strings.HasPrefix(v, "age1") {
			list = append(list, v)
			continue
		}
		data, err := readSmall(v)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("--to %.80s: neither a key age1… nor a file with one: %w", v, fs.ErrNotExist)
		}
		if err != nil {
			return nil, fmt.Errorf("--to %s: %w", v, err)
		}
		list = append(list, strings.TrimSpace(string(data)))
	}
	return list, nil
}
