package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

// reportsFlags name the database of boot reports. The file counts if both are given, as for serve.
type reportsFlags struct{ store, file string }

func (f *reportsFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.store, "store", "", "folder of the store, which has the boot reports in "+publisher.ReportsFile)
	cmd.Flags().StringVar(&f.file, "reports", "", "`file` of the boot reports, if phase-publish serve has --reports")
	cmd.MarkFlagsOneRequired("store", "reports")
}

func (f *reportsFlags) open(cmd *cobra.Command, readOnly bool) (*reports.Store, error) {
	path := f.file
	if path == "" && bucket.Is(f.store) {
		return nil, cli.Usagef("--store %.80q: an object store has no boot reports; name their file with --reports", f.store)
	}
	if path == "" {
		path = filepath.Join(f.store, publisher.ReportsFile)
	}
	return reports.Open(cmd.Context(), path, reports.Options{Existing: true, ReadOnly: readOnly})
}

func newMachines() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "machines",
		Short: "Show the machines that report their boots, and decide which keys to accept",
		Long: `machines shows what machines have reported to phase-publish serve. A machine signs its boot reports
with a key of its own. Anybody can make a key: reports of a key are unverified until you accept
it, and only a small room is kept for them. Accept the keys of your machines.

The commands may run while a publisher serves.`,
		Example: `  phase-publish machines list --store store`,
	}
	return cli.Group(cmd, newMachinesList(), newMachinesShow(), newMachinesAccept(), newMachinesForget())
}

func newMachinesList() *cobra.Command {
	var f reportsFlags
	var q reports.Query
	cmd := &cobra.Command{
		Use:   "list {--store DIR | --reports FILE}",
		Short: "List machines and their last boots, the newest first",
		Long: `list prints a line for each machine: the first digits of its key, whether the key is accepted, when
it was seen last, and how its last boot went. With --json it prints everything that is known of
each machine. It prints at most --limit machines; --before KEY continues after that one.`,
		Example: `  phase-publish machines list --store store
  phase-publish machines list --store store --unverified --json
  phase-publish machines list --store store --accepted --result failed`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Limit < 1 {
				return cli.Usagef("--limit %d: must be 1 or more", q.Limit)
			}
			if !slices.Contains([]string{"", reports.ResultOK, reports.ResultFailed}, q.Result) {
				return cli.Usagef("--result %.80q: not a result of a boot; write %s or %s", q.Result, reports.ResultOK, reports.ResultFailed)
			}
			db, err := f.open(cmd, true)
			if err != nil {
				return err
			}
			defer db.Close()
			if q.Before != "" {
				if q.Before, err = db.Find(cmd.Context(), q.Before); err != nil {
					return err
				}
			}
			list, err := db.List(cmd.Context(), q)
			if err != nil {
				return err
			}
			return cli.Print(cmd, struct {
				Machines []reports.Machine `json:"machines"`
			}{list}, machinesWords(list))
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&q.Accepted, "accepted", false, "only machines whose key is accepted")
	cmd.Flags().BoolVar(&q.Unverified, "unverified", false, "only machines whose key is not accepted")
	cmd.Flags().StringVar(&q.Result, "result", "", "only machines whose last boot has this `RESULT`: ok or failed")
	cmd.Flags().IntVar(&q.Limit, "limit", 1000, "`number` of machines at most")
	cmd.Flags().StringVar(&q.Before, "before", "", "`KEY` of the last machine of the list before")
	return cmd
}

const shownKey = reports.MinAccept // digits of a key in a list

func machinesWords(list []reports.Machine) string {
	if len(list) == 0 {
		return "no machine has reported\n"
	}
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%s  %-10s  %s  %s\n", m.Key[:shownKey], stateOf(m), m.LastSeen.Format(time.RFC3339), machineWords(m))
	}
	return b.String()
}

func stateOf(m reports.Machine) string {
	if m.Accepted {
		return "accepted"
	}
	return "unverified"
}

// machineWords says what a machine is and how its last boot went.
func machineWords(m reports.Machine) string {
	var parts []string
	for _, s := range []string{m.Hostname, strings.Join(m.Groups, ",")} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if m.Last != nil {
		parts = append(parts, bootWords(*m.Last))
	}
	return strings.Join(parts, ", ")
}

func bootWords(b reports.Boot) string {
	words := b.Result
	if b.Release != "" {
		words += ": " + b.Channel + " " + b.Release
	}
	if b.Mode != "" {
		words += ", mode " + b.Mode
	}
	words += fmt.Sprintf(", %.1f s", float64(b.Duration)/1000)
	if b.Starts > 1 {
		words += fmt.Sprintf(", start %d without a blessing", b.Starts)
	}
	if b.Avoided != "" {
		words += ", in place of " + b.Avoided
	}
	if b.Step != "" {
		words += ", step " + b.Step
	}
	if b.Error != "" {
		words += ": " + b.Error
	}
	return words
}

func newMachinesShow() *cobra.Command {
	var f reportsFlags
	var boot string
	cmd := &cobra.Command{
		Use:   "show {--store DIR | --reports FILE} KEY",
		Short: "Show a machine and its boots, or one boot report",
		Long: `show prints what is known of a machine and a line for each boot that is kept, the newest first. KEY
is the first 8 digits of the key, or more. With --boot it prints the report of this boot as
JSON, as the machine sent it.`,
		Example: `  phase-publish machines show --store store 3b6a27bc
  phase-publish machines show --store store 3b6a27bc --boot 0123456789abcdef0123456789abcdef`,
		Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := f.open(cmd, true)
			if err != nil {
				return err
			}
			defer db.Close()
			key, err := db.Find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if boot != "" {
				_, d, err := db.Document(cmd.Context(), key, boot)
				if err != nil {
					return err
				}
				text, err := d.JSON()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
				return err
			}
			m, boots, err := db.Get(cmd.Context(), key)
			if err != nil {
				return err
			}
			return cli.Print(cmd, struct {
				reports.Machine
				Boots []reports.Boot `json:"boots"`
			}{m, boots}, machineText(m, boots))
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&boot, "boot", "", "`ID` of the boot whose report is printed")
	return cmd
}

func machineText(m reports.Machine, boots []reports.Boot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "machine    %s\nstate      %s\n", m.Key, stateOf(m))
	key := ""
	if m.Ephemeral {
		key = "of one boot: the machine has no cache to keep it"
	}
	for _, line := range []struct{ name, text string }{
		{"key", key},
		{"ID", m.MachineID},
		{"hostname", m.Hostname},
		{"arch", m.Arch},
		{"groups", strings.Join(m.Groups, ",")},
		{"age", m.Recipient},
		{"first seen", m.FirstSeen.Format(time.RFC3339)},
		{"last seen", m.LastSeen.Format(time.RFC3339)},
	} {
		if line.text != "" {
			fmt.Fprintf(&b, "%-10s %s\n", line.name, line.text)
		}
	}
	for _, one := range boots {
		fmt.Fprintf(&b, "boot       %s  %s  from %s  %s\n", one.ID, one.Received.Format(time.RFC3339), one.Address, bootWords(one))
	}
	return b.String()
}

func newMachinesAccept() *cobra.Command {
	var f reportsFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "accept {--store DIR | --reports FILE} [KEY ...]",
		Short: "Accept the keys of machines",
		Long: `accept marks keys as those of your machines. Their reports get a room of their own, from which no
report of another key can displace them. KEY is the first 32 digits of a key, or more: somebody
can make another key that begins with fewer. Compare them with what the machine shows. --all
accepts every key that is unverified now.`,
		Example: `  phase-publish machines accept --store store 3b6a27bcceb6a42d62a3a8d02a6f0d73
  phase-publish machines accept --store store --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return cli.Usagef("accept: name keys, or --all without a key")
			}
			for _, key := range args {
				if len(key) < reports.MinAccept {
					return cli.Usagef("accept %.40q: name %d digits of the key or more, as list shows them: somebody can make another key that begins with fewer", key, reports.MinAccept)
				}
			}
			return decide(cmd, f, args, "accepted", func(db *reports.Store, keys []string) (int, error) {
				if all {
					n, err := db.AcceptAll(cmd.Context())
					return int(n), err
				}
				return len(keys), db.Accept(cmd.Context(), keys...)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "accept every key that is unverified now")
	return cmd
}

func newMachinesForget() *cobra.Command {
	var f reportsFlags
	cmd := &cobra.Command{
		Use:   "forget {--store DIR | --reports FILE} KEY ...",
		Short: "Remove the keys of machines, with their reports",
		Long: `forget removes keys and the reports that are kept of them. KEY is the first 8 digits of a key, or
more. If such a machine reports again, its key is unverified.`,
		Example: `  phase-publish machines forget --store store 3b6a27bc`,
		Args:    cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return decide(cmd, f, args, "forgotten", func(db *reports.Store, keys []string) (int, error) {
				return len(keys), db.Forget(cmd.Context(), keys...)
			})
		},
	}
	f.register(cmd)
	return cmd
}

// decide completes the keys, calls change, and prints how many machines were changed.
func decide(cmd *cobra.Command, f reportsFlags, prefixes []string, did string, change func(*reports.Store, []string) (int, error)) error {
	db, err := f.open(cmd, false)
	if err != nil {
		return err
	}
	defer db.Close()
	var keys []string
	for _, p := range prefixes {
		key, err := db.Find(cmd.Context(), p)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	n, err := change(db, keys)
	if err != nil {
		return err
	}
	return cli.Print(cmd, map[string]int{did: n}, fmt.Sprintf("%s: %s\n", did, count(int64(n), "machine")))
}
