package network

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A wire is a net.PacketConn with other hosts behind it. They answer each message with hosts.
type wire struct {
	net.PacketConn // nil: nothing else is called
	hosts          func(message []byte, send func([]byte))
	answers        chan []byte
	closed         chan struct{}
	once           sync.Once
}

func newWire(hosts func(message []byte, send func([]byte))) *wire {
	return &wire{hosts: hosts, answers: make(chan []byte, 16), closed: make(chan struct{})}
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case m := <-w.answers:
		return copy(b, m), &net.UDPAddr{}, nil
	case <-w.closed:
		return 0, nil, net.ErrClosed
	}
}

func (w *wire) WriteTo(b []byte, _ net.Addr) (int, error) {
	w.hosts(append([]byte{}, b...), func(m []byte) {
		select {
		case w.answers <- m:
		case <-w.closed:
		}
	})
	return len(b), nil
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

var testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// A host on the link answers each request with messages that are of no use, faster than the client's
// timeout.
func TestUselessAnswersDoNotKeepTheClientFromAskingAgain(t *testing.T) {
	ctx := t.Context()
	w := newWire(func(message []byte, send func([]byte)) {
		request, err := dhcpv4.FromBytes(message)
		if err != nil {
			t.Error(err)
			return
		}
		nak, err := dhcpv4.NewReplyFromRequest(request, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak))
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			for ctx.Err() == nil {
				send(nak.ToBytes())
				time.Sleep(5 * time.Millisecond)
			}
		}()
	})
	const timeout, tries = 50 * time.Millisecond, 2
	client, err := nclient4.NewWithConn(w, testMAC, nclient4.WithTimeout(timeout), nclient4.WithRetry(tries))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := request4(ctx, client, timeout, tries)
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the client waits for ever")
	}
	client.Close()
}

func TestAServerWithoutAnAddressIsPassedOver(t *testing.T) {
	id := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: testMAC}
	for name, second := range map[string]bool{"a second server has one": true, "there is no other server": false} {
		t.Run(name, func(t *testing.T) {
			w := newWire(func(message []byte, send func([]byte)) {
				asked, err := dhcpv6.MessageFromBytes(message)
				if err != nil {
					t.Error(err)
					return
				}
				answer := func(kind dhcpv6.MessageType, address bool) {
					m, _ := reply6(func(*dhcpv6.Message, *dhcpv6.OptIAAddress) {})
					if m.MessageType, m.TransactionID = kind, asked.TransactionID; !address {
						m.Options.Del(dhcpv6.OptionIANA)
					}
					send(m.ToBytes())
				}
				switch asked.MessageType {
				case dhcpv6.MessageTypeSolicit:
					if answer(dhcpv6.MessageTypeAdvertise, false); second {
						answer(dhcpv6.MessageTypeAdvertise, true)
					}
				case dhcpv6.MessageTypeRequest:
					answer(dhcpv6.MessageTypeReply, true)
				}
			})
			client, err := nclient6.NewWithConn(w, testMAC, nclient6.WithTimeout(100*time.Millisecond), nclient6.WithRetry(1))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			m, err := request6(t.Context(), client, id)
			if !second {
				if !errors.Is(err, errNoAddress6) {
					t.Errorf("got %v, %v", m, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if l, err := readLease6(m, id, true); err != nil || l.addr.String() != "2001:db8::5" {
				t.Errorf("got %+v, %v", l, err)
			}
		})
	}
}

func TestTheClientGetsNothingButAnswersOfDHCP(t *testing.T) {
	vm, err := bpf.NewVM(answers4)
	if err != nil {
		t.Fatal(err)
	}
	udp := func(change func(b []byte)) []byte {
		b := make([]byte, 300)
		b[0], b[9], b[23] = 0x45, unix.IPPROTO_UDP, nclient4.ClientPort
		change(b)
		return b
	}
	for name, tt := range map[string]struct {
		packet []byte
		want   bool
	}{
		"an answer":            {udp(func([]byte) {}), true},
		"with IP options":      {udp(func(b []byte) { b[0], b[23], b[31] = 0x47, 0, nclient4.ClientPort }), true},
		"not to be fragmented": {udp(func(b []byte) { b[6] = 0x40 }), true},
		"TCP":                  {udp(func(b []byte) { b[9] = unix.IPPROTO_TCP }), false},
		"another port":         {udp(func(b []byte) { b[23] = 53 }), false},
		"a later fragment":     {udp(func(b []byte) { b[7] = 1 }), false},
		"cut short":            {[]byte{0x45}, false},
	} {
		if n, err := vm.Run(tt.packet); err != nil || n > 0 != tt.want {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}
