// Command wordcount is a job with a scratch folder: it counts how often each word of its input occurs,
// and holds only a part of the words in memory at a time. It needs the grants of stdin and of a scratch
// folder, at /scratch. `make jobs` builds it with GOOS=wasip1 GOARCH=wasm.
package main

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// parts is the number of files that the words are divided into, by their hash.
const parts = 8

func main() {
	if err := count(os.Stdout, os.Stdin, "/scratch"); err != nil {
		fmt.Fprintln(os.Stderr, "wordcount:", err)
		os.Exit(1)
	}
}

// count writes a line "COUNT WORD" for each word of r. The words are sorted within each part.
func count(w io.Writer, r io.Reader, scratch string) error {
	if err := divide(r, scratch); err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	for i := range parts {
		if err := countPart(out, part(scratch, i)); err != nil {
			return err
		}
	}
	return out.Flush()
}

func part(scratch string, i int) string { return filepath.Join(scratch, fmt.Sprintf("part-%d", i)) }

// divide writes each word of r as a line to the file of its hash.
func divide(r io.Reader, scratch string) error {
	var files [parts]*bufio.Writer
	for i := range files {
		f, err := os.Create(part(scratch, i))
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = bufio.NewWriter(f)
	}
	words := bufio.NewScanner(r)
	words.Split(bufio.ScanWords)
	for words.Scan() {
		hash := fnv.New32a()
		hash.Write(words.Bytes())
		if _, err := fmt.Fprintln(files[hash.Sum32()%parts], words.Text()); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := f.Flush(); err != nil {
			return err
		}
	}
	return words.Err()
}

// countPart counts the lines of one file and removes it.
func countPart(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	counts := map[string]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		counts[lines.Text()]++
	}
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "%7d %s\n", counts[word], word)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return os.Remove(path)
}
