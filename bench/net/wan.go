package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses of the two ends of a wan.
const (
	wanServer  = "10.67.0.1"
	wanMachine = "10.67.0.2"
)

const (
	wanMTU   = 1500
	wanQueue = 1 << 16 // packets on the way in one direction; more are dropped
)

// A wan joins two network namespaces by TUN devices. Each packet arrives half a round trip after it
// was sent, because not every kernel has netem.
type wan struct {
	server, machine string // namespaces
	ends            []*os.File
	closing         atomic.Bool
	lost            atomic.Int64 // packets
	broken          atomic.Value // error
}

// wans counts the wans, for their names.
var wans int

// newWAN makes a line with a round trip. A rate in units of tc limits both directions, "" does not.
func newWAN(ctx context.Context, trip time.Duration, rate string) (_ *wan, err error) {
	wans++
	w := &wan{server: fmt.Sprintf("far%d-server", wans), machine: fmt.Sprintf("far%d-machine", wans)}
	defer func() {
		if err != nil {
			w.remove()
		}
	}()
	for _, end := range [][3]string{{w.server, wanServer, wanMachine}, {w.machine, wanMachine, wanServer}} {
		if err := w.addEnd(ctx, end[0], end[1], end[2], rate); err != nil {
			return nil, err
		}
	}
	go w.carry(w.ends[0], w.ends[1], trip/2)
	go w.carry(w.ends[1], w.ends[0], trip/2)
	return w, nil
}

// addEnd makes a namespace with its TUN device.
func (w *wan) addEnd(ctx context.Context, ns, addr, other, rate string) error {
	if err := ipCommands(ctx, "netns add "+ns); err != nil {
		return err
	}
	var end *os.File
	if err := inNamespace(ns, func() (err error) { end, err = openTUN("tun0"); return err }); err != nil {
		return err
	}
	w.ends = append(w.ends, end)
	err := ipCommands(ctx,
		"-n "+ns+" link set lo up",
		fmt.Sprintf("-n %s link set tun0 mtu %d txqueuelen %d", ns, wanMTU, wanQueue),
		"-n "+ns+" addr add "+addr+" peer "+other+" dev tun0",
		"-n "+ns+" link set tun0 up",
		"-n "+ns+" route add default dev tun0")
	if err == nil && rate != "" {
		_, err = output(ctx, "tc", strings.Fields("-n "+ns+" qdisc replace dev tun0 root tbf rate "+rate+" burst 64kb latency 100ms")...)
	}
	return err
}

// openTUN makes a TUN device in the namespace of the calling thread.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w; load the module tun", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("/dev/net/tun: %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// A packet is on its way until it is due.
type packet struct {
	data []byte
	due  time.Time
}

// carry moves packets from one end to the other, each after delay.
func (w *wan) carry(from, to *os.File, delay time.Duration) {
	way := make(chan packet, wanQueue)
	go func() {
		defer close(way)
		for buf := make([]byte, 0, 1<<20); ; {
			if cap(buf)-len(buf) < wanMTU {
				buf = make([]byte, 0, 1<<20)
			}
			n, err := from.Read(buf[len(buf) : len(buf)+wanMTU])
			if err != nil {
				w.fail(err)
				return
			}
			select {
			case way <- packet{buf[len(buf) : len(buf)+n], time.Now().Add(delay)}:
				buf = buf[:len(buf)+n]
			default:
				w.lost.Add(1)
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			w.fail(err)
		}
	}
}

// fail keeps an error that did not come from remove.
func (w *wan) fail(err error) {
	if !w.closing.Load() {
		w.broken.Store(err)
	}
}

// failed returns an error if the line lost packets itself.
func (w *wan) failed() error {
	if n := w.lost.Swap(0); n > 0 {
		return fmt.Errorf("line: %d packets lost in a full queue; set a lower -far-rate", n)
	}
	err, _ := w.broken.Load().(error)
	return err
}

// remove removes the line. Its processes must have ended.
func (w *wan) remove() {
	w.closing.Store(true)
	for _, end := range w.ends {
		end.Close()
	}
	ctx := context.Background()
	errors.Join(ipCommands(ctx, "netns del "+w.server), ipCommands(ctx, "netns del "+w.machine))
}
