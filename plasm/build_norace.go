//go:build !race

package plasm

const (
	raceFactor  = 1
	stackFactor = 1
)
