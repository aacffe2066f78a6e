package machine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/phaseboot/phaseboot/bootclient/machine/menu"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/modes"
)

// settings decide which entries the menu has.
type settings struct {
	target        bool
	mode, channel string // of the last attempt; "" if they are not known
	restartAfter  int
	noShell       bool
	cache         string // rights to the cache partition
}

// settings reads the kernel command line and the files of the image. Whatever the menu offers, the mode
// of the command line decides about the shell.
func (p *pid1) settings() settings {
	line, _ := os.ReadFile("/proc/cmdline") // an empty one has the defaults
	args := bootargs.Parse(string(line))
	if p.role == "target" {
		return settings{target: true, noShell: handedMode(runDir, archiveDir).NoShell, cache: "off"}
	}
	s := settings{cache: "off", channel: args.Channel}
	if p.choice.Channel != "" {
		s.channel = p.choice.Channel
	} else if data, err := os.ReadFile(channelFile); err == nil && s.channel == "" {
		s.channel = strings.TrimSpace(string(data))
	}
	mode, err := bootMode(args)
	s.restartAfter, s.noShell = args.RestartAfter(mode.Retry), mode.NoShell
	if p.choice.Mode != "" {
		args.Mode = p.choice.Mode
		mode, err = bootMode(args)
	}
	if err == nil {
		s.mode, s.cache = mode.Name, mode.Cache
	}
	return s
}

// maxHanded limits a file that the boot handed over, in bytes.
const maxHanded = 1 << 20

// handedMode returns the mode of the boot that started this target, from one of the folders. The mode counts as
// the boot knew it: this program may have no mode of this name. An older boot has only its name in the report.
func handedMode(dirs ...string) modes.Mode {
	for _, dir := range dirs {
		var m modes.Mode
		if readHanded(filepath.Join(dir, modeName), &m) {
			return m
		}
		var r struct{ Mode string }
		if readHanded(filepath.Join(dir, reportName), &r) {
			m, _ = modes.Load(r.Mode) // without it nothing is forbidden
			return m
		}
	}
	return modes.Mode{}
}

// readHanded reads a JSON file that the boot handed over. It reports whether there is one.
func readHanded(path string, v any) bool {
	data, err := file.Read(path, file.NoFollow, maxHanded)
	return err == nil && json.Unmarshal(data, v) == nil
}

// title returns the first line of the menu.
func (s settings) title(attempt int) string {
	if s.target {
		return "The release was started and has failed."
	}
	words := "Attempt " + strconv.Itoa(attempt) + " has failed"
	if s.mode != "" {
		words += ": mode " + s.mode
	}
	if s.channel != "" {
		words += ", channel " + s.channel
	}
	return words + "."
}

// entries returns the entries of the menu.
func (s settings) entries() []menu.Entry {
	list := []menu.Entry{{Text: "try again now", Action: menu.Retry}}
	if !s.target {
		set, _ := imageModes() // otherwise the shipped ones
		others := slices.DeleteFunc(set.Available(hasTor()), func(name string) bool { return name == s.mode })
		list = append(
			list,
			menu.Entry{Text: "another boot mode", Action: menu.Mode, Values: others},
			menu.Entry{Text: "another channel", Action: menu.Channel, Ask: "Name of the channel:"},
		)
		if s.cache != "off" {
			list = append(list, menu.Entry{Text: "the last good release", Action: menu.LastGood})
		}
	}
	list = append(list, menu.Entry{Text: "network", Action: menu.Network}, menu.Entry{Text: "report of this boot", Action: menu.Report})
	if s.cache == "rw" {
		list = append(list, menu.Entry{Text: "save the report on the stick", Action: menu.Save})
	}
	if !s.noShell {
		list = append(list, menu.Entry{Text: "shell", Action: menu.Shell})
	}
	return append(list, menu.Entry{Text: "restart the machine", Action: menu.Reboot}, menu.Entry{Text: "kernel messages", Action: menu.Messages})
}
