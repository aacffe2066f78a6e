package systemd

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// notifyTimeout is how long a write to systemd's socket may take.
const notifyTimeout = 5 * time.Second

// A Notifier sends systemd the state of a service of Type=notify. Without NOTIFY_SOCKET it does nothing.
type Notifier struct {
	socket   string
	watchdog time.Duration // 0: no watchdog
	log      *slog.Logger

	cancel   context.CancelFunc
	watching sync.WaitGroup
}

// NewNotifier reads the environment that systemd gives a service.
func NewNotifier(log *slog.Logger) *Notifier {
	n := &Notifier{socket: os.Getenv("NOTIFY_SOCKET"), log: log}
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
		if err == nil && usec > 0 {
			n.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return n
}

func (n *Notifier) send(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		conn.SetWriteDeadline(time.Now().Add(notifyTimeout))
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		n.log.Warn("systemd notification failed", "state", state, "cause", err)
	}
}

// Ready reports that the service is ready, and then, until ctx ends or Stop is called, that
// it is alive. At the end it reports that the service stops.
func (n *Notifier) Ready(ctx context.Context) {
	ctx, n.cancel = context.WithCancel(ctx)
	n.send("READY=1")
	n.watching.Go(func() {
		n.watch(ctx)
		n.send("STOPPING=1")
	})
}

// Stop returns when the end has been reported, if Ready was called.
func (n *Notifier) Stop() {
	if n.cancel != nil {
		n.cancel()
	}
	n.watching.Wait()
}

func (n *Notifier) watch(ctx context.Context) {
	if n.socket == "" || n.watchdog == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for ctx.Err() == nil {
		n.send("WATCHDOG=1")
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
