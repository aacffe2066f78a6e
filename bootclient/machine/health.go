package machine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// A health is what the cache knows about the releases that were started. Its file is written as a whole.
type health struct {
	Started  string          `json:"started"`  // content whose target removes the record, "" for none
	Releases []contentHealth `json:"releases"` // the last started one is the last
}

// A contentHealth is what is known about one content.
type contentHealth struct {
	Content string    `json:"content"`
	Release string    `json:"release"`
	Channel string    `json:"channel"`
	Arch    string    `json:"arch"`
	First   int64     `json:"number"` // as manifest.Release.ContentNumber
	Starts  int       `json:"starts"` // since the last blessing
	Blessed bool      `json:"blessed"`
	At      time.Time `json:"at"`

	Settings        int64 `json:"settings,omitempty"`         // version of the machines' settings at the last start
	BlessedSettings int64 `json:"blessed_settings,omitempty"` // and at the last blessing
}

// maxHealthFile limits the file of a health, in bytes.
const maxHealthFile = 64 << 10

// readHealth reads the health of a cache. One that is not there is empty.
func readHealth(dir string) (h health, err error) {
	data, err := file.Read(filepath.Join(dir, healthFile), file.NoFollow, maxHealthFile)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	if err == nil && len(h.Releases) > maxHealth {
		err = fmt.Errorf("%d releases; at most %d are kept", len(h.Releases), maxHealth)
	}
	if err != nil {
		return health{}, fmt.Errorf("%s: %w", healthFile, err)
	}
	h.Releases = slices.DeleteFunc(h.Releases, func(c contentHealth) bool {
		_, err := manifest.RoleName(c.Channel, c.Arch) // they become the name of a file, and an attacker may have written them
		return err != nil
	})
	return h, nil
}

func (h health) write(dir string) error {
	return writeFresh(filepath.Join(dir, healthFile), marshal(h))
}

// find returns the index of a content, -1 if it was not started.
func (h health) find(content string) int {
	return slices.IndexFunc(h.Releases, func(c contentHealth) bool { return c.Content == content })
}

// of returns what is known about a content.
func (h health) of(content string) contentHealth {
	if i := h.find(content); i >= 0 {
		return h.Releases[i]
	}
	return contentHealth{}
}

func (h health) anyBlessed() bool {
	return slices.ContainsFunc(h.Releases, func(c contentHealth) bool { return c.Blessed })
}

// bless notes that the last start of the content with an index was blessed.
func (h *health) bless(i int) {
	c := &h.Releases[i]
	c.Blessed, c.Starts, c.BlessedSettings = true, 0, c.Settings
}

// stop removes the blessing of the releases of the channel that are newer than s, if the signers have chosen s for this machine:
// they have stopped the newer ones, or held or rolled this machine back, and no later failure may lead to them again. It reports
// whether there was one.
func (h *health) stop(s startedRelease) (found bool) {
	first := s.First
	if i := h.find(s.Content); i >= 0 { // signed again, as a newer release
		first = min(first, h.Releases[i].First)
	}
	h.Releases = slices.Clone(h.Releases)
	for i := range h.Releases {
		c := &h.Releases[i]
		if s.Chosen && c.Blessed && c.Content != s.Content && c.Channel == s.Channel && c.Arch == s.Arch && c.First >= first {
			c.Blessed, c.Starts, found = false, 0, true
		}
	}
	return found
}

// start adds a start. A blessed content stays blessed: it ran here, so no older one replaces it, and what fails now may be
// the settings or the machine. Of more than limit, the one goes that was not started for the longest time; the newest
// blessed one of a channel stays.
func (h *health) start(s startedRelease, limit int) {
	h.stop(s)
	now := contentHealth{Content: s.Content, Release: s.Release, Channel: s.Channel, Arch: s.Arch, First: s.First, At: s.At, Settings: s.Settings}
	if i := h.find(s.Content); i >= 0 {
		before := h.Releases[i]
		now.Starts, now.Blessed, now.BlessedSettings = before.Starts, before.Blessed, before.BlessedSettings
		h.Releases = slices.Delete(h.Releases, i, i+1)
	}
	now.Starts++
	if len(h.Releases) >= limit {
		last := slices.IndexFunc(h.Releases, func(c contentHealth) bool {
			return !c.Blessed || slices.ContainsFunc(h.Releases, func(o contentHealth) bool {
				return o.Blessed && o.Channel == c.Channel && o.Arch == c.Arch && o.First > c.First
			})
		})
		h.Releases = slices.Delete(h.Releases, max(last, 0), max(last, 0)+1)
	}
	h.Releases, h.Started = append(h.Releases, now), s.Content
}

// blessed returns the blessed releases of a channel, the newest first, with the manifest that the cache has kept. dir is "" without
// a cache.
func (h health) blessed(dir, channel, arch string) (list []bootclient.Blessed) {
	var kept []byte
	if dir != "" {
		kept, _ = file.Read(filepath.Join(dir, goodManifest(channel, arch)), file.NoFollow, manifest.MaxMetadata) // without it, the newest manifest counts alone
	}
	known := slices.Clone(h.Releases)
	slices.SortStableFunc(known, func(a, b contentHealth) int { return cmp.Compare(b.First, a.First) })
	for _, c := range known {
		if c.Blessed && c.Channel == channel && c.Arch == arch {
			list = append(list, bootclient.Blessed{Content: c.Content, Manifest: kept})
		}
	}
	return list
}
