package imagebuild

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

// data is the embedded lists and files that images are made of.
//
//go:embed kernel initramfs esp all:rootfs
var data embed.FS

// dataFile returns an embedded file. The name must exist.
func dataFile(name string) string {
	text, err := data.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("imagebuild: embedded %s: %v", name, err)) // cannot happen: go:embed
	}
	return string(text)
}

// dataWords returns the words of an embedded list without comments.
func dataWords(name string) []string {
	var words []string
	for _, line := range strings.Split(dataFile(name), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words = append(words, strings.Fields(line)...)
	}
	return words
}

// rootfsLayer returns the files that are added to the target's base system.
func rootfsLayer() (fs.FS, error) { return fs.Sub(data, "rootfs/layer") }
