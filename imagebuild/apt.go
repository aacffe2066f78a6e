package imagebuild

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// debianKeyrings are the paths where Debian's package installs the archive's keys.
var debianKeyrings = []string{"/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"}

// A source is one Debian index of the host's apt configuration.
type source struct{ uri, release, component, signedBy, list string }

// sources returns apt's Debian sources of one suite with its updates and security: the suite
// that the host runs, or else the first one configured.
func (l lists) sources(ctx context.Context) (string, []source, error) {
	format := "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SIGNED_BY)|$(ARCHITECTURE)|$(FILENAME)"
	out, err := l.command("apt-get", "indextargets", "--format", format, "Created-By: Packages").output(ctx)
	if err != nil {
		return "", nil, err
	}
	all := parseSources(string(out), l.arch)
	suite := chooseSuite(all, hostCodename())
	if suite == "" {
		return "", nil, notFoundf("apt sources of Debian for %s: none; add them to /etc/apt and run: apt-get update", l.arch)
	}
	return suite, slices.DeleteFunc(all, func(s source) bool {
		return s.release != suite && !strings.HasPrefix(s.release, suite+"-") && !strings.HasPrefix(s.release, suite+"/")
	}), nil
}

func parseSources(text, arch string) []source {
	var all []source
	for _, line := range strings.Split(text, "\n") {
		f := strings.Split(line, "|")
		if len(f) != 7 || f[3] != "Debian" || f[5] != arch || f[2] != "main" {
			continue
		}
		s := source{uri: f[0], release: f[1], component: f[2], signedBy: f[4], list: f[6]}
		if !strings.HasPrefix(s.signedBy, "/") { // an apt that does not know the field prints its name
			s.signedBy = ""
		}
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

var baseSuite = regexp.MustCompile(`^[a-z]+$`)

func chooseSuite(all []source, codename string) string {
	first := ""
	for _, s := range all {
		switch {
		case !baseSuite.MatchString(s.release):
		case s.release == codename:
			return codename
		case first == "":
			first = s.release
		}
	}
	return first
}

var codenameLine = regexp.MustCompile(`(?m)^VERSION_CODENAME="?([^"\n]*)"?$`)

func hostCodename() string {
	text, _ := os.ReadFile("/etc/os-release") // not every host has it
	if m := codenameLine.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return ""
}

// deb822 formats sources as described in sources.list(5), each with its keyring. apt fetches
// nothing from them but lists of packages.
func deb822(sources []source) (string, error) {
	keyring := ""
	if i := slices.IndexFunc(debianKeyrings, isFile); i >= 0 {
		keyring = debianKeyrings[i]
	}
	var b strings.Builder
	for _, s := range sources {
		keys := cmp.Or(s.signedBy, keyring)
		if keys == "" {
			return "", notFoundf("keys of the Debian archive: not found; run: apt-get install debian-archive-keyring")
		}
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nTargets: Packages\nSigned-By: %s\n\n", s.uri, s.release, s.component, keys)
	}
	return b.String(), nil
}

// releaseDate returns the date of the suite's release file. In a stable suite it is the date of
// the last point release. A base system gets it unless Epoch is set.
func releaseDate(sources []source, suite string) (time.Time, error) {
	for _, s := range sources {
		if s.release != suite {
			continue
		}
		text, err := s.releaseFile()
		if err != nil {
			return time.Time{}, err
		}
		if m := releaseLine.FindSubmatch(text); m != nil {
			return time.Parse(time.RFC1123, strings.TrimSpace(string(m[1])))
		}
	}
	return time.Time{}, notFoundf("date of the release file of %s: not in apt's lists; run: apt-get update", suite)
}

var releaseLine = regexp.MustCompile(`(?m)^Date: (.+)$`)

var acquireOption = regexp.MustCompile(`(?m)^Acquire::(Check-[A-Za-z-]+|Retries|https?::[A-Za-z:.-]+) "[^"\n]*";$`)

// acquireOptions returns the host's apt settings for downloads: proxies, date checks,
// retries. They are used while building and do not get into the image.
func acquireOptions(ctx context.Context) ([]string, error) {
	out, err := command("apt-config", "dump").output(ctx)
	if err != nil {
		return nil, err
	}
	var options []string
	for _, line := range acquireOption.FindAllString(string(out), -1) {
		options = append(options, "--aptopt="+line)
	}
	return options, nil
}

var installLine = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) `)

// plan asks apt which packages a new system gets when the essential packages and the wanted
// ones are installed. It returns them sorted, as NAME=VERSION.
func (l lists) plan(ctx context.Context, wanted []string) ([]string, error) {
	args := []string{
		"-q", "-s", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false",
		"-o", "APT::Architecture=" + l.arch, "-o", "APT::Architectures=" + l.arch, "install", "?essential",
	}
	out, err := l.command("apt-get", append(args, wanted...)...).output(ctx)
	if err != nil && strings.Contains(err.Error(), "Unable to locate package") {
		return nil, notFoundf("packages of the root filesystem: %v; if the name is right, run: apt-get update", err)
	}
	if err != nil {
		return nil, fmt.Errorf("packages of the root filesystem: %w; if a name is right, run: apt-get update", err)
	}
	var plan []string
	for _, m := range installLine.FindAllStringSubmatch(string(out), -1) {
		plan = append(plan, m[1]+"="+m[2])
	}
	if len(plan) == 0 {
		return nil, notFoundf("packages of the root filesystem: none in apt's lists; run: apt-get update")
	}
	slices.Sort(plan)
	return slices.Compact(plan), nil
}
