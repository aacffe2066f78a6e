package cli

import (
	"math"
	"strconv"
	"strings"
)

// Size is a flag value in bytes: digits with an optional suffix K, M, G or T, powers of 1024.
type Size int64

const sizeUnits = "KMGT"

func (s *Size) Set(text string) error {
	digits, shift := text, 0
	if last := len(text) - 1; last >= 0 {
		if i := strings.Index(sizeUnits, strings.ToUpper(text[last:])); i >= 0 {
			digits, shift = text[:last], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return Usagef("not a size; write it as 512M or 4G")
	}
	*s = Size(n << shift)
	return nil
}

// String implements pflag.Value. It writes the largest unit that divides the size.
func (s *Size) String() string {
	for i := len(sizeUnits); i > 0 && *s != 0; i-- {
		if unit := Size(1) << (10 * i); *s%unit == 0 {
			return strconv.FormatInt(int64(*s/unit), 10) + sizeUnits[i-1:i]
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

func (s *Size) Type() string { return "SIZE" }
