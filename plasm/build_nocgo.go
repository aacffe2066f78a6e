//go:build !cgo

package plasm

const threadStacks = 0
