//go:build !race

package plasm

const raceFactor = 1
