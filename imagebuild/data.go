package imagebuild

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

// data holds the lists and files that images are made of.
//
//go:embed kernel initramfs esp all:rootfs
var data embed.FS

// dataFile returns an embedded file, whose name is fixed when the package is built.
func dataFile(name string) string {
	text, err := data.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("imagebuild: embedded %s: %v", name, err)) // cannot happen: go:embed
	}
	return string(text)
}

// dataWords returns the words of an embedded list, without its comments.
func dataWords(name string) []string {
	var words []string
	for _, line := range strings.Split(dataFile(name), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words = append(words, strings.Fields(line)...)
	}
	return words
}

// rootfsLayer is the tree that is laid over the target's base system.
func rootfsLayer() (fs.FS, error) { return fs.Sub(data, "rootfs/layer") }
