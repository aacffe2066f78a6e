package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

func main() {
	var b bench
	dir := flag.String("dir", "", "working folder; a folder made in it is removed")
	packs := flag.String("packs", "16,32,64", "sizes of packs in MiB")
	flag.Int64Var(&b.size, "size", 1<<30, "bytes of the file")
	flag.IntVar(&b.runs, "runs", 3, "runs of each; medians are printed")
	flag.Parse()
	if *dir == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: objects -dir DIR [-size BYTES] [-runs N] [-packs MIB,…]")
		os.Exit(2)
	}
	for _, text := range strings.Split(*packs, ",") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench/objects: -packs:", err)
			os.Exit(2)
		}
		b.packs = append(b.packs, n<<20)
	}
	if err := b.run(context.Background(), *dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench/objects:", err)
		os.Exit(1)
	}
}

type bench struct {
	size  int64
	packs []int64
	runs  int

	dir, file string
	server    *s3test.Server
	client    *minio.Client
	root      cas.File
	times     map[string][]time.Duration
}

func (b *bench) run(ctx context.Context, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(dir, "objects-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.file, b.times = filepath.Join(b.dir, "file"), map[string][]time.Duration{}
	if err := writeRandom(b.file, b.size); err != nil {
		return err
	}
	if err := b.connect(); err != nil {
		return err
	}
	defer b.server.Stop()
	for run := range b.runs {
		if err := b.plain(ctx); err != nil {
			return err
		}
		for _, pack := range b.packs {
			if err := b.ours(ctx, fmt.Sprintf("run%d-%d", run, pack), pack); err != nil {
				return err
			}
		}
	}
	b.print()
	return nil
}

func writeRandom(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size)
	return err
}

func (b *bench) connect() (err error) {
	if err := s3test.Setenv(); err != nil {
		return err
	}
	if b.server, err = s3test.Start(b.dir); err != nil {
		return err
	}
	u, err := url.Parse(b.server.Endpoint)
	if err != nil {
		return err
	}
	b.client, err = minio.New(u.Host, &minio.Options{Creds: credentials.NewEnvAWS(), Region: "us-east-1"})
	return err
}

// measure adds the time of a step.
func (b *bench) measure(name string, step func() error) error {
	began := time.Now()
	err := step()
	b.times[name] = append(b.times[name], time.Since(began))
	return err
}

// plain copies the file as other programs do: in parts of 32 MiB, four at once.
func (b *bench) plain(ctx context.Context) error {
	err := b.measure("put", func() error {
		_, err := b.client.FPutObject(ctx, s3test.Bucket, "plain", b.file, minio.PutObjectOptions{PartSize: 32 << 20, NumThreads: 4})
		return err
	})
	if err != nil {
		return err
	}
	out := filepath.Join(b.dir, "out")
	defer os.Remove(out)
	if err := b.measure("get", func() error {
		return b.client.FGetObject(ctx, s3test.Bucket, "plain", out, minio.GetObjectOptions{})
	}); err != nil {
		return err
	}
	return b.client.RemoveObject(ctx, s3test.Bucket, "plain", minio.RemoveObjectOptions{})
}

// ours stores the file and fetches it with a new reader, which has an empty cache.
func (b *bench) ours(ctx context.Context, prefix string, pack int64) error {
	address := b.server.Address(prefix)
	defer os.RemoveAll(b.server.Path(prefix, ""))
	name := fmt.Sprintf("%d MiB", pack>>20)
	if err := b.measure("ingest "+name, func() error { return b.ingest(ctx, address, pack) }); err != nil {
		return err
	}
	return b.measure("fetch "+name, func() error { return b.fetch(ctx, address) })
}

func (b *bench) ingest(ctx context.Context, address string, pack int64) error {
	s, err := bucket.Open(ctx, address, bucket.Options{MaxPack: pack})
	if err != nil {
		return err
	}
	defer s.Close()
	f, err := os.Open(b.file)
	if err != nil {
		return err
	}
	defer f.Close()
	if b.root, err = cas.AddFile(ctx, s.Put, f, cas.DefaultChunker); err != nil {
		return err
	}
	return s.Close()
}

func (b *bench) fetch(ctx context.Context, address string) error {
	s, err := bucket.Open(ctx, address, bucket.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer s.Close()
	out, err := os.Create(filepath.Join(b.dir, "out"))
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	return cas.Copy(ctx, out, s, b.root.CID, b.root.Size)
}

func (b *bench) print() {
	mb := float64(b.size) / 1e6
	row := func(name, beside string) {
		t := median(b.times[name])
		fmt.Printf("  %-32s %7.2f s %8.0f MB/s   %5.2f\n", name, t.Seconds(), mb/t.Seconds(), median(b.times[beside]).Seconds()/t.Seconds())
	}
	fmt.Printf("\nan object store on loopback, %.0f MB of random bytes, medians of %d; the last column is the rate beside the plain copy\n", mb, b.runs)
	row("put", "put")
	for _, p := range b.packs {
		row(fmt.Sprintf("ingest %d MiB", p>>20), "put")
	}
	row("get", "get")
	for _, p := range b.packs {
		row(fmt.Sprintf("fetch %d MiB", p>>20), "get")
	}
}

func median(times []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}
