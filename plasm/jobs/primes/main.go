// Command primes is a job that computes: it counts the primes below N, its argument (default 1,000,000),
// with the sieve of Eratosthenes. `make jobs` builds it with GOOS=wasip1 GOARCH=wasm; bench/plasm also
// builds it for the host, to compare.
package main

import (
	"fmt"
	"os"
	"strconv"
)

// Bounds of N. The sieve has N bytes.
const (
	standard = 1_000_000
	most     = 1 << 30
)

func main() {
	n := standard
	if len(os.Args) > 1 {
		var err error
		if n, err = strconv.Atoi(os.Args[1]); err != nil || n < 0 || n > most || len(os.Args) > 2 {
			fmt.Fprintf(os.Stderr, "primes: %q: give one number from 0 to %d\n", os.Args[1:], most)
			os.Exit(2)
		}
	}
	if _, err := fmt.Printf("%d primes below %d\n", primes(n), n); err != nil {
		os.Exit(1)
	}
}

// primes counts the primes below n.
func primes(n int) int {
	composite := make([]bool, n)
	count := 0
	for i := 2; i < n; i++ {
		if composite[i] {
			continue
		}
		count++
		for j := i * i; j < n; j += i {
			composite[j] = true
		}
	}
	return count
}
