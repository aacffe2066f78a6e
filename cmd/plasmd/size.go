package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// size is a flag in bytes: digits, optionally followed by K, M or G for powers of 1024.
type size int64

const units = "KMG"

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	digits, factor := text, int64(1)
	if n := len(text); n > 0 {
		if i := strings.IndexByte(units, text[n-1]); i >= 0 {
			digits, factor = text[:n-1], 1<<(10*(i+1))
		}
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || v < 0 || v > math.MaxInt64/factor {
		return errors.New("not a size; write digits, optionally followed by K, M or G, such as 64M")
	}
	*s = size(v * factor)
	return nil
}

// String implements pflag.Value.
func (s *size) String() string {
	for i := len(units) - 1; i >= 0; i-- {
		if f := int64(1) << (10 * (i + 1)); *s != 0 && int64(*s)%f == 0 {
			return strconv.FormatInt(int64(*s)/f, 10) + units[i:i+1]
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type implements pflag.Value.
func (s *size) Type() string { return "SIZE" }
