package imagebuild

import (
	"embed"
	"fmt"
	"strings"
)

// data is the embedded lists and files that images are made of.
//
//go:embed kernel initramfs esp iso parallels all:rootfs
var data embed.FS

// dataFile returns an embedded file. The name must exist.
func dataFile(name string) string {
	text, err := data.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("imagebuild: embedded %s: %v", name, err)) // cannot happen: go:embed
	}
	return string(text)
}

// dataWords returns the words of an embedded list.
func dataWords(name string) []string { return listWords(dataFile(name)) }

// listWords returns the words of a list. "#" begins a comment.
func listWords(text string) []string {
	var words []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words = append(words, strings.Fields(line)...)
	}
	return words
}
