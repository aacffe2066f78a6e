package manifest

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Limits on a settings document.
const (
	MaxSettings = 64 << 10 // bytes

	maxWords       = 16
	maxWordBytes   = 400 // of all words together: a command line has little room beside that of the release
	maxSSHKeys     = 64
	maxSSHKey      = 4096 // bytes
	maxNetwork     = 8    // files
	maxCredentials = 64
)

const settingsFormat = "phaseboot/settings/v1"

// Settings are what a signer gives to machines beside their release: one document, or several merged.
type Settings struct {
	Hostname string   `json:"hostname,omitempty"`
	Cmdline  []string `json:"cmdline,omitempty"`  // words that are added to the signed command line; CheckWord has the list
	SSHKeys  []string `json:"ssh_keys,omitempty"` // lines of root's authorized_keys, without options
	// Network has files of systemd-networkd by name: NAME.network, NAME.netdev and NAME.link.
	Network map[string]string `json:"network,omitempty"`
	Groups  []string          `json:"groups,omitempty"` // of the machine; not in the document of a group

	Credentials map[string][]byte `json:"credentials,omitempty"` // systemd credentials by name
	Secrets     map[string][]byte `json:"secrets,omitempty"`     // credentials as age files, which only the machine can open

	Preheat string `json:"preheat,omitempty"` // version of a release that a running machine fetches ahead at any time
}

var (
	hostGrammar       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	wordGrammar       = regexp.MustCompile(`^[a-z0-9_.]{1,64}(=[A-Za-z0-9_.,:/+-]{1,128})?$`)
	sshKeyGrammar     = regexp.MustCompile(`^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]+={0,2}( [ -~]*)?$`)
	networkGrammar    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.(network|netdev|link)$`)
	panicGrammar      = regexp.MustCompile(`^([1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2}|3600)$`)
	credentialGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// words are the kernel arguments that settings may add. None of them names a program, a device to boot from, a memory
// address or a check to leave out.
var words = []string{
	"console", "loglevel", "nomodeset", "panic", "phase.target", "phase.watch", "quiet",
	"default_hugepagesz", "hugepages", "hugepagesz", "isolcpus", "nohz_full", "rcu_nocbs", "transparent_hugepage",
	"fbcon", "net.ifnames", "pcie_aspm", "systemd.log_level", "systemd.show_status", "video",
}

// CheckWord refuses a kernel argument that settings may not add. The error wraps ErrMalformed.
func CheckWord(word string) error {
	name, value, _ := strings.Cut(word, "=")
	if name == "panic" && !panicGrammar.MatchString(value) { // a machine that stops at a panic is lost to who cannot visit it
		return malformed("command line word %.80q: give 1 to 3600 seconds until the restart", word)
	}
	if !wordGrammar.MatchString(word) || !slices.Contains(words, name) {
		return malformed("command line word %.80q: settings may add %s", word, strings.Join(words, ", "))
	}
	return nil
}

// ParseSettings reads a settings document. Fields that it does not know are ignored. The error wraps ErrMalformed.
func ParseSettings(data []byte) (Settings, error) {
	if len(data) > MaxSettings {
		return Settings{}, malformed("%d bytes; a settings document has at most %d", len(data), MaxSettings)
	}
	if strings.ContainsFunc(string(data), unicode.IsControl) {
		return Settings{}, malformed("settings: a control character; write the document on one line")
	}
	value, err := parseTree(data)
	if err != nil {
		return Settings{}, err
	}
	l := &linter{}
	doc := l.object("", value)
	if got := l.text("format", l.get("", doc, "format")); l.err == nil && got != settingsFormat {
		l.fail("format", "is %.40q where %q is expected; update this program", got, settingsFormat)
	}
	l.known("", doc, "format", "hostname", "cmdline", "ssh_keys", "network", "groups", "credentials", "secrets", "preheat")
	for _, name := range []string{"cmdline", "ssh_keys", "groups"} {
		l.texts(name, doc[name])
	}
	for _, name := range []string{"network", "credentials", "secrets"} {
		l.textMap(name, doc[name])
	}
	for _, name := range []string{"hostname", "preheat"} {
		if v, ok := doc[name]; ok {
			l.text(name, v)
		}
	}
	if l.err != nil {
		return Settings{}, l.err
	}
	var s Settings
	if err := json.Unmarshal(data, &s); err != nil { // base64
		return Settings{}, malformed("settings: %v", err)
	}
	return s, s.check()
}

// texts checks a list of texts, which may be missing.
func (l *linter) texts(path string, v any) {
	if v == nil {
		return
	}
	for i, text := range l.list(path, v) {
		l.text(index(path, i), text)
	}
}

// textMap checks an object of texts, which may be missing.
func (l *linter) textMap(path string, v any) {
	if v == nil {
		return
	}
	obj := l.object(path, v)
	for _, name := range sorted(obj) {
		l.text(join(path, name), obj[name])
	}
}

// EncodeSettings returns the document of settings, on one line. Settings that ParseSettings refuses wrap ErrMalformed.
func EncodeSettings(s Settings) ([]byte, error) {
	data, err := json.Marshal(struct {
		Format string `json:"format"`
		Settings
	}{settingsFormat, s})
	if err != nil {
		return nil, err
	}
	_, err = ParseSettings(data)
	return data, err
}

// check checks the values.
func (s Settings) check() error {
	if s.Hostname != "" && (len(s.Hostname) > 64 || !hostGrammar.MatchString(s.Hostname)) {
		return malformed("hostname %.80q: use a-z, 0-9, - and dots, at most 64", s.Hostname)
	}
	if s.Preheat != "" && !versionGrammar.MatchString(s.Preheat) {
		return malformed("preheat %.80q: not the version of a release; use letters, digits and . _ + ~ -, at most 64", s.Preheat)
	}
	for what, n := range map[string][2]int{
		"command line words": {len(s.Cmdline), maxWords}, "SSH keys": {len(s.SSHKeys), maxSSHKeys}, "network files": {len(s.Network), maxNetwork},
		"groups": {len(s.Groups), maxGroups}, "credentials": {len(s.Credentials) + len(s.Secrets), maxCredentials},
	} {
		if n[0] > n[1] {
			return malformed("settings: %d %s; at most %d", n[0], what, n[1])
		}
	}
	if n := len(strings.Join(s.Cmdline, " ")); n > maxWordBytes {
		return malformed("settings: %d bytes of command line words; at most %d", n, maxWordBytes)
	}
	for _, w := range s.Cmdline {
		if err := CheckWord(w); err != nil {
			return err
		}
	}
	for _, k := range s.SSHKeys {
		if len(k) > maxSSHKey || !sshKeyGrammar.MatchString(k) {
			return malformed("SSH key %.80q: not a line of a .pub file, such as ssh-ed25519 AAAA… name", k)
		}
	}
	for _, g := range s.Groups {
		if err := CheckGroup(g); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Network)) {
		if !networkGrammar.MatchString(name) {
			return malformed("network file %.80q: name it NAME.network, NAME.netdev or NAME.link", name)
		}
		if strings.ContainsFunc(s.Network[name], func(r rune) bool { return (r < ' ' || r > '~') && r != '\n' && r != '\t' }) {
			return malformed("network file %s: a character outside printable ASCII", name)
		}
	}
	return s.checkCredentials()
}

func (s Settings) checkCredentials() error {
	for _, list := range []map[string][]byte{s.Credentials, s.Secrets} {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			if !credentialGrammar.MatchString(name) {
				return malformed("credential %.80q: use letters, digits, dots, _ and -, at most 128", name)
			}
			_, open := s.Credentials[name]
			if _, sealed := s.Secrets[name]; open && sealed {
				return malformed("credential %s: is a credential and a secret", name)
			}
		}
	}
	return nil
}

// IsZero reports that nothing is set.
func (s Settings) IsZero() bool {
	return s.Hostname == "" && s.Preheat == "" && len(s.Cmdline)+len(s.SSHKeys)+len(s.Network)+len(s.Groups)+len(s.Credentials)+len(s.Secrets) == 0
}

// Over returns s with the fields of a more specific document in place of its own. Credentials and secrets are fields
// of their own, by name.
func (s Settings) Over(next Settings) Settings {
	if next.Hostname != "" {
		s.Hostname = next.Hostname
	}
	if next.Preheat != "" {
		s.Preheat = next.Preheat
	}
	if len(next.Cmdline) > 0 {
		s.Cmdline = next.Cmdline
	}
	if len(next.SSHKeys) > 0 {
		s.SSHKeys = next.SSHKeys
	}
	if len(next.Network) > 0 {
		s.Network = next.Network
	}
	if len(next.Groups) > 0 {
		s.Groups = next.Groups
	}
	s.Credentials, s.Secrets = mergeNamed(s.Credentials, next.Credentials, next.Secrets), mergeNamed(s.Secrets, next.Secrets, next.Credentials)
	return s
}

// mergeNamed returns old without the names of hides, and with those of next.
func mergeNamed(old, next, hides map[string][]byte) map[string][]byte {
	if len(next)+len(hides) == 0 {
		return old
	}
	merged := maps.Clone(old)
	if merged == nil {
		merged = map[string][]byte{}
	}
	for name := range hides {
		delete(merged, name)
	}
	maps.Copy(merged, next)
	if len(merged) == 0 {
		return nil
	}
	return merged
}
