package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// modifiers returns what every DHCP message contains. In every mode it contains no host name and no
// client identifier: a server needs only the hardware address.
func (n *Network) modifiers() []dhcpv4.Modifier {
	codes := []dhcpv4.OptionCode{dhcpv4.OptionClasslessStaticRoute}
	if !n.Private {
		codes = append(codes, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName, dhcpv4.OptionNTPServers)
	}
	if n.AskMirror {
		codes = append(codes, dhcpv4.GenericOptionCode(optionMirror))
	}
	return []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(codes...)}
}

// requestLease requests a lease for a port that is up.
func (n *Network) requestLease(ctx context.Context, p *port, timeout time.Duration, tries int) (*lease, error) {
	client, err := client4(p.name, timeout, tries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	got, err := request4(ctx, client, timeout, tries, n.modifiers()...)
	if err != nil {
		return nil, err
	}
	return n.takeAnswer(got, p.index)
}

// client4 returns a DHCPv4 client for an interface that need not have an address.
func client4(name string, timeout time.Duration, tries int) (*nclient4.Client, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(answers4)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(i, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("DHCP: socket: %w", err)
	}
	answers := nclient4.NewBroadcastUDPConn(conn, &net.UDPAddr{Port: nclient4.ClientPort})
	client, err := nclient4.NewWithConn(answers, i.HardwareAddr, nclient4.WithTimeout(timeout), nclient4.WithRetry(tries))
	if err != nil {
		conn.Close()
	}
	return client, err
}

// answers4 is the filter for IPv4 packets that may be the answer of a DHCP server: UDP to the port of the
// client. Without it the client would get a copy of each packet of a fetch that runs meanwhile.
var answers4 = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2}, // fragment offset
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0}, // length of the IP header
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: nclient4.ClientPort, SkipFalse: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

// request4 requests a lease within exchangeLimit, from the first server whose offer passes the checks of a
// lease: another server may answer sooner with one that does not.
func request4(ctx context.Context, client *nclient4.Client, timeout time.Duration, tries int, m ...dhcpv4.Modifier) (*nclient4.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit(timeout, tries))
	defer cancel()
	size := dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize))
	discover, err := dhcpv4.NewDiscovery(client.InterfaceAddr(), dhcpv4.PrependModifiers(m, size)...)
	if err != nil {
		return nil, err
	}
	var refused error
	offer, err := client.SendAndRead(ctx, client.RemoteAddr(), discover, func(o *dhcpv4.DHCPv4) bool {
		if o.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		_, refused = readLease(o, 0)
		return refused == nil
	})
	if err != nil {
		return nil, cmp.Or(refused, err)
	}
	return client.RequestFromOffer(ctx, offer, m...)
}

// exchangeLimit bounds an exchange of two messages, each with a timeout that doubles with each try. The
// client alone begins to count anew with every message that it passes over, so that a hostile host
// could keep it from asking again for ever.
func exchangeLimit(timeout time.Duration, tries int) time.Duration {
	return 2 * timeout * (1<<tries - 1)
}

func (n *Network) takeAnswer(got *nclient4.Lease, index int) (*lease, error) {
	l, err := readLease(got.ACK, index)
	if err != nil {
		return nil, err
	}
	l.answer = got
	if !n.AskMirror {
		l.mirror = ""
	}
	return l, nil
}

func (n *Network) renewLease(ctx context.Context, p *port, l *lease) (*lease, error) {
	client, err := client4(p.name, dhcpLater, 2)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit(dhcpLater, 2))
	defer cancel()
	got, err := client.Renew(ctx, l.answer, n.modifiers()...)
	if err != nil {
		return nil, err
	}
	next, err := n.takeAnswer(got, p.index)
	if err == nil && next.addr.String() != l.addr.String() {
		err = errors.New("DHCP: the server has changed the address")
	}
	return next, err
}

// releaseV4 sends DHCPRELEASE, which has no answer, from the address that is given back.
func releaseV4(name string, l *lease) error {
	m, err := dhcpv4.NewReleaseFromACK(l.answer.ACK)
	if err != nil {
		return fmt.Errorf("DHCP: %w", err)
	}
	if l.from.To4() == nil {
		return errors.New("DHCP: the server named no address to give the lease back to")
	}
	d := net.Dialer{Control: bindTo(name), LocalAddr: &net.UDPAddr{IP: l.addr.IP, Port: nclient4.ClientPort}}
	conn, err := d.Dial("udp4", net.JoinHostPort(l.from.String(), strconv.Itoa(nclient4.ServerPort)))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write(m.ToBytes())
	return err
}
