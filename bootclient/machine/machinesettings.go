package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// Files with the signed settings of the machine, in the hand-over archive and in runDir of the target.
const (
	settingsDir         = "settings"
	settingsHostname    = settingsDir + "/hostname"
	settingsSSHKeys     = settingsDir + "/authorized_keys"
	settingsNetwork     = settingsDir + "/network"     // a folder of files of systemd-networkd
	settingsCredentials = settingsDir + "/credentials" // a folder with a file for each credential and opened secret
)

// openSettings returns the settings as files for the target. What is left out is in the report, so that the publisher
// learns of it too.
func (b *boot) openSettings(s manifest.Settings) []handedFile {
	files, out := settingsFiles(s, b.age, b.config.Mode.RandomMAC)
	for _, what := range slices.Sorted(maps.Keys(out)) {
		b.report.Refuse("settings", what, out[what])
	}
	return files
}

// settingsFiles returns the settings as files for the target. A secret that this machine cannot open is left out, with the
// reason. So are the host name and the network in a private mode: others would recognise the machine by them.
func settingsFiles(s manifest.Settings, identity *age.X25519Identity, private bool) (files []handedFile, out map[string]error) {
	out = map[string]error{}
	if private && (s.Hostname != "" || len(s.Network) > 0) {
		s.Hostname, s.Network = "", nil
		out["host name and network"] = errors.New("left out, as the mode is private")
	}
	if s.Hostname != "" {
		files = append(files, handedFile{settingsHostname, 0o644, []byte(s.Hostname + "\n")})
	}
	if len(s.SSHKeys) > 0 {
		files = append(files, handedFile{settingsSSHKeys, 0o600, []byte(strings.Join(s.SSHKeys, "\n") + "\n")})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Network)) {
		files = append(files, handedFile{settingsNetwork + "/" + name, 0o644, []byte(s.Network[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Credentials)) {
		files = append(files, handedFile{settingsCredentials + "/" + name, 0o600, s.Credentials[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		secret, err := openSecret(s.Secrets[name], identity)
		if err != nil {
			out["secret "+name] = err
			continue
		}
		files = append(files, handedFile{settingsCredentials + "/" + name, 0o600, secret})
	}
	return files, out
}

// openSecret decrypts an age file that is sealed to this machine.
func openSecret(sealed []byte, identity *age.X25519Identity) ([]byte, error) {
	if identity == nil {
		return nil, errors.New("not opened: this machine keeps no age key, because it has no cache that it may write")
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), identity)
	if err != nil {
		return nil, fmt.Errorf("not opened: it is not sealed to this machine, whose key is %s; seal it with --to", identity.Recipient())
	}
	data, err := io.ReadAll(io.LimitReader(r, manifest.MaxSettings))
	if err != nil {
		return nil, errors.New("not opened: it is damaged; sign the settings again")
	}
	return data, nil
}

// saySettings tells which settings the machine gets.
func (b *boot) saySettings(s manifest.MachineSettings) {
	if s.Number == 0 {
		return
	}
	words := "none for this machine"
	if len(s.Selectors) > 0 {
		words = strings.Join(s.Selectors, ", ")
	}
	if s.Expired {
		words += "; the settings are expired"
	}
	b.report.Say("settings: version %d: %s", s.Number, words)
}

// withSettings adds words of the settings to the signed command line of a release, except those that it sets itself.
func withSettings(signed string, words []string) string {
	has := bootargs.SplitWords(signed)
	for _, w := range words {
		name, _, _ := strings.Cut(w, "=")
		if !slices.ContainsFunc(has, func(h string) bool { return h == name || strings.HasPrefix(h, name+"=") }) {
			signed += " " + w
		}
	}
	return strings.TrimSpace(signed)
}

// placeSettings is the step that gives the settings to the system of the target.
func placeSettings(context.Context) (string, error) {
	return placeSettingsIn(runDir, "/run", newRoot, unix.Sethostname)
}

// placeSettingsIn puts the settings where the system finds them: hostname and SSH keys in the root filesystem, the
// network where systemd-networkd reads it, and credentials where systemd imports them from an initramfs (since 254) and
// where LoadCredential= looks for them.
func placeSettingsIn(handed, run, root string, setHostname func([]byte) error) (string, error) {
	if _, err := os.Stat(filepath.Join(handed, settingsDir)); errors.Is(err, fs.ErrNotExist) {
		return "none were handed over", nil
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	var words []string
	var failed []error // one part that has no place does not take the others along
	place := func(what string, err error) {
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", what, err))
		}
	}
	if name, err := file.Read(filepath.Join(handed, settingsHostname), file.NoFollow, maxNetworkFile); err == nil {
		words = append(words, "host name "+report.Printable(strings.TrimSpace(string(name))))
		place("host name", errors.Join(r.MkdirAll("etc", 0o755), replaceFile(r, "etc/hostname", name, 0o644), setHostname(bytes.TrimSpace(name))))
	}
	if keys, err := file.Read(filepath.Join(handed, settingsSSHKeys), file.NoFollow, maxNetworkFile); err == nil {
		words = append(words, "SSH keys")
		place("SSH keys", placeSSHKeys(r, keys))
	}
	if files, _ := filepath.Glob(filepath.Join(handed, settingsNetwork, "*")); len(files) > 0 { // the pattern is valid
		words = append(words, "network")
		place("network", copyHanded(files, filepath.Join(run, networkdDir)))
	}
	if files, _ := filepath.Glob(filepath.Join(handed, settingsCredentials, "*")); len(files) > 0 {
		words = append(words, report.Count(len(files), "credential"))
		for _, dir := range []string{"credentials/@initrd", "credstore"} {
			place("credentials", placeCredentials(files, filepath.Join(run, dir)))
		}
	}
	return strings.Join(words, ", "), errors.Join(failed...)
}

// replaceFile writes a file of the root filesystem. A symbolic link at its place is replaced, not followed.
func replaceFile(root *os.Root, name string, data []byte, perm os.FileMode) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return root.WriteFile(name, data, perm)
}

// placeSSHKeys adds keys to those with which root may log in.
func placeSSHKeys(root *os.Root, keys []byte) error {
	const dir, name = "root/.ssh", "root/.ssh/authorized_keys"
	if err := errors.Join(root.MkdirAll("root", 0o700), root.MkdirAll(dir, 0o700), root.Chmod(dir, 0o700)); err != nil {
		return err
	}
	old, err := root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		old = append(old, '\n')
	}
	return replaceFile(root, name, append(old, keys...), 0o600)
}

// placeCredentials copies credentials into a folder that root alone may read.
func placeCredentials(files []string, to string) error {
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.MkdirAll(to, 0o700)); err != nil {
		return err
	}
	for _, name := range files {
		data, err := file.Read(name, file.NoFollow, manifest.MaxSettings)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(name)), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
