// Command granted is a job that uses what it was granted. Its first argument says what. It prints what it
// saw, and exits with 1 after an error.
package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing/fstest"
	"time"
)

var uses = map[string]func() error{
	"arguments": func() error { fmt.Printf("%q\n", os.Args); return nil },
	"environment": func() error {
		env := os.Environ()
		slices.Sort(env)
		fmt.Printf("%q\n", env)
		return nil
	},
	"stdin": func() error {
		data, err := io.ReadAll(os.Stdin)
		slices.Reverse(data)
		fmt.Printf("%s\n", data)
		fmt.Fprintf(os.Stderr, "%d bytes\n", len(data))
		return err
	},
	"first byte": func() error {
		var b [1]byte
		_, err := os.Stdin.Read(b[:])
		fmt.Printf("%q\n", b)
		return err
	},
	"clock": func() error {
		before := time.Now()
		time.Sleep(3 * time.Millisecond)
		fmt.Println(before.UTC().Format(time.RFC3339Nano), time.Since(before))
		return nil
	},
	"random": func() error {
		var b [16]byte
		_, err := rand.Read(b[:])
		fmt.Printf("%x\n", b)
		return err
	},
	"artifacts": artifacts,
	"scratch":   scratch,
	"fill":      fill,
	"flood both": func() error {
		for {
			fmt.Println("out")
			fmt.Fprintln(os.Stderr, "error")
		}
	},
}

func main() {
	if err := uses[os.Args[1]](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// artifacts prints the files in /artifacts, which cannot be changed.
func artifacts() error {
	err := filepath.WalkDir("/artifacts", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		fmt.Printf("%s: %q\n", name, data)
		return err
	})
	for _, refused := range []error{
		os.WriteFile("/artifacts/new", []byte("x"), 0o600),
		os.WriteFile("/artifacts/rootfs", []byte("x"), 0o600),
		os.Mkdir("/artifacts/folder", 0o700),
		os.Remove("/artifacts/rootfs"),
		os.Rename("/artifacts/rootfs", "/artifacts/other"),
		os.Truncate("/artifacts/rootfs", 0),
	} {
		if refused == nil {
			return errors.New("an artifact was changed")
		}
	}
	if _, err := os.ReadFile("/artifacts/../etc/passwd"); err == nil {
		return errors.New("a file of the host was read")
	}
	return err
}

// scratch uses /scratch as a file system.
func scratch() error {
	err := errors.Join(
		os.MkdirAll("/scratch/a/b", 0o755),
		os.WriteFile("/scratch/a/b/x", []byte("hello"), 0o644),
		os.WriteFile("/scratch/a/y", bytes.Repeat([]byte("0123456789"), 5000), 0o644),
		os.Mkdir("/scratch/empty", 0o755),
		os.Rename("/scratch/a/b/x", "/scratch/a/z"),
		os.Truncate("/scratch/a/y", 4097),
		fstest.TestFS(os.DirFS("/scratch"), "a/z", "a/y", "a/b", "empty"),
	)
	f, errOpen := os.OpenFile("/scratch/a/z", os.O_APPEND|os.O_RDWR, 0)
	if err := errors.Join(err, errOpen); err != nil {
		return err
	}
	defer f.Close()
	_, errWrite := f.WriteString(", scratch")
	_, errSparse := f.WriteAt([]byte("!"), 10_000) // refused in append mode
	if errWrite != nil || errSparse == nil {
		return fmt.Errorf("append: %v, %v", errWrite, errSparse)
	}
	if err := os.Remove("/scratch/a/z"); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	rest, err := io.ReadAll(f) // an open file outlives its name
	fmt.Printf("%s\n", rest)
	for _, refused := range []error{
		os.Remove("/scratch/a"),
		os.Mkdir("/scratch/empty", 0o755),
		os.WriteFile("/scratch/empty", nil, 0o644),
		os.WriteFile("/scratch/none/x", nil, 0o644),
		os.WriteFile("/scratch/a/y/x", nil, 0o644),
		os.WriteFile("/scratch/"+strings.Repeat("n", 256), nil, 0o644),
		os.Rename("/scratch/a", "/scratch/a/b/c"),
		os.WriteFile("/scratch/../x", nil, 0o644),
	} {
		if refused == nil {
			return errors.New("a wrong operation is accepted")
		}
	}
	info, errStat := os.Stat("/scratch/a/y")
	if err := errors.Join(err, errStat); err != nil {
		return err
	}
	fmt.Println(info.Name(), info.Size(), info.Mode(), info.ModTime().UTC().Format(time.DateOnly))
	return errors.Join(os.RemoveAll("/scratch/a"), os.RemoveAll("/scratch/empty"))
}

// fill writes until the folder is full, removes everything, and does it again: the space is free then.
func fill() error {
	for range 3 {
		size := int64(0)
		for i := 0; ; i++ {
			err := os.WriteFile(fmt.Sprintf("/scratch/%d", i), make([]byte, 64<<10), 0o600)
			info, errStat := os.Stat(fmt.Sprintf("/scratch/%d", i))
			if errStat == nil {
				size += info.Size()
			}
			if err != nil {
				break
			}
		}
		fmt.Println(size)
		names, err := filepath.Glob("/scratch/*")
		for _, name := range names {
			err = errors.Join(err, os.Remove(name))
		}
		if err != nil {
			return err
		}
	}
	return errors.New("full")
}
