// Command hello is the job of the demo: it prints a greeting and a small computed result. `make` builds
// it with GOOS=wasip1 GOARCH=wasm.
package main

import (
	"os"
	"strconv"
)

// limit is so small that the computation takes milliseconds, even interpreted on an emulated CPU.
const limit = 10_000

func main() {
	greeting := "hello from a signed WASM job: " + strconv.Itoa(primes(limit)) +
		" primes below " + strconv.Itoa(limit) + "\n"
	if _, err := os.Stdout.WriteString(greeting); err != nil {
		os.Exit(1)
	}
}

// primes counts the primes below n with the sieve of Eratosthenes.
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
