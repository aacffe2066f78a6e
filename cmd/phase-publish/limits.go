package main

import (
	"math"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/publisher"
)

// A byteRate is a flag in bytes a second: 10MB, 1.5MiB/s, 100Mbit.
type byteRate int64

func (r *byteRate) Set(text string) error {
	number, divide := strings.TrimSuffix(strings.TrimSpace(text), "/s"), uint64(1)
	if bits, ok := strings.CutSuffix(number, "bit"); ok {
		number, divide = bits, 8
	}
	n, err := humanize.ParseBytes(number)
	n /= divide
	if err != nil || n > math.MaxInt64 || n > 0 && n < 1024 {
		return cli.Usagef("not a rate of at least 1 KiB/s; write it as 10MB, 1.5MiB/s or 100Mbit, or 0 for no limit")
	}
	*r = byteRate(n)
	return nil
}

func (r *byteRate) String() string {
	if *r == 0 {
		return "0"
	}
	return humanize.IBytes(uint64(*r)) + "/s"
}

func (r *byteRate) Type() string { return "rate" }

// A byteSize is a flag in bytes: 512MiB, 4GB.
type byteSize int64

func (s *byteSize) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > math.MaxInt64 {
		return cli.Usagef("not a number of bytes; write it as 512MiB or 4GB")
	}
	*s = byteSize(n)
	return nil
}

func (s *byteSize) String() string {
	if *s == 0 {
		return ""
	}
	return humanize.IBytes(uint64(*s))
}

func (s *byteSize) Type() string { return "size" }

// limitFlags are the flags that bound what clients take. Only serve has rates.
type limitFlags struct {
	rate, perPeer    byteRate
	conns, connsOfIP int
	slots            int
}

func (f *limitFlags) register(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.conns, "max-conns", publisher.DefaultConns, "`connections` at once over libp2p, and for serve the same number over plain HTTP")
	cmd.Flags().IntVar(&f.connsOfIP, "max-conns-per-ip", publisher.DefaultConnsPerIP, "of them, `connections` from one IPv4 address or IPv6 /56")
}

func (f *limitFlags) registerRates(cmd *cobra.Command) {
	cmd.Flags().Var(&f.rate, "rate", "bytes a second to send in all, such as 50MB or 100Mbit; 0 is no limit")
	cmd.Flags().Var(&f.perPeer, "rate-per-peer", "bytes a second to send to one address; 0 is no limit")
	cmd.Flags().IntVar(&f.slots, "upload-slots", publisher.DefaultUploadSlots, "`answers` with blocks at once; a further request waits a second and then gets 503 with Retry-After; 0 is no limit")
}

func (f *limitFlags) limits() (publisher.Limits, error) {
	if f.conns < 1 || f.connsOfIP < 1 {
		return publisher.Limits{}, cli.Usagef("--max-conns and --max-conns-per-ip: must be 1 or more")
	}
	if f.slots < 0 {
		return publisher.Limits{}, cli.Usagef("--upload-slots: must be 1 or more, or 0 for no limit")
	}
	return publisher.Limits{Rate: int64(f.rate), RatePerPeer: int64(f.perPeer), UploadSlots: f.slots, Conns: f.conns, ConnsPerIP: f.connsOfIP}, nil
}
