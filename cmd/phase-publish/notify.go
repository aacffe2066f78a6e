package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// tellLimit is how long systemd may take to hear a word.
const tellLimit = 5 * time.Second

// A notifier tells systemd how a service of Type=notify is doing, as sd_notify(3)
// writes it. Without NOTIFY_SOCKET it does nothing.
type notifier struct {
	socket   string
	watchdog time.Duration // 0: nobody watches
	log      *slog.Logger

	cancel   context.CancelFunc
	watching sync.WaitGroup
}

func newNotifier(log *slog.Logger) *notifier {
	n := &notifier{socket: os.Getenv("NOTIFY_SOCKET"), log: log}
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
		if err == nil && usec > 0 {
			n.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return n
}

func (n *notifier) tell(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		conn.SetWriteDeadline(time.Now().Add(tellLimit))
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		n.log.Warn("systemd not told", "state", state, "cause", err)
	}
}

// ready says that the service can be used, and from then on, until ctx ends or stop is
// called, that it is alive. The last word is that it stops.
func (n *notifier) ready(ctx context.Context) {
	ctx, n.cancel = context.WithCancel(ctx)
	n.tell("READY=1")
	n.watching.Go(func() {
		n.watch(ctx)
		n.tell("STOPPING=1")
	})
}

// stop returns when the last word was said, if there was a first.
func (n *notifier) stop() {
	if n.cancel != nil {
		n.cancel()
	}
	n.watching.Wait()
}

func (n *notifier) watch(ctx context.Context) {
	if n.socket == "" || n.watchdog == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for ctx.Err() == nil {
		n.tell("WATCHDOG=1")
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
