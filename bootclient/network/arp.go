package network

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	arpRequest = 1
	arpReply   = 2
	arpLength  = 28

	gatewayTries   = 3
	gatewayTimeout = 700 * time.Millisecond // for each
)

var broadcastMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// An arpMessage is an ARP message for IPv4 over Ethernet (RFC 826).
type arpMessage struct {
	op        uint16
	senderMAC net.HardwareAddr
	sender    netip.Addr
	target    netip.Addr
}

func (m arpMessage) bytes() []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, m.op)
	b = append(b, m.senderMAC...)
	b = append(b, m.sender.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, m.target.AsSlice()...)
}

// parseARP reads a message, which may be followed by padding.
func parseARP(b []byte) (m arpMessage, ok bool) {
	if len(b) < arpLength || string(b[:6]) != "\x00\x01\x08\x00\x06\x04" {
		return m, false
	}
	m.op = binary.BigEndian.Uint16(b[6:])
	m.senderMAC = append(net.HardwareAddr{}, b[8:14]...)
	m.sender, m.target = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	return m, m.op == arpRequest || m.op == arpReply
}

// An arpConn sends and receives ARP messages on one interface.
type arpConn struct {
	*packet.Conn
	mac      net.HardwareAddr
	messages chan arpMessage
}

// openARP opens a connection. The receiver ends with ctx, which closes it.
func openARP(ctx context.Context, link netlink.Link) (*arpConn, error) {
	now, err := netlink.LinkByIndex(link.Attrs().Index) // its MAC address may have changed
	if err != nil {
		return nil, err
	}
	a := now.Attrs()
	conn, err := packet.Listen(&net.Interface{Index: a.Index, Name: a.Name, HardwareAddr: a.HardwareAddr}, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, err
	}
	c := &arpConn{conn, a.HardwareAddr, make(chan arpMessage, 16)}
	context.AfterFunc(ctx, func() { conn.Close() })
	go c.receive(ctx)
	return c, nil
}

func (c *arpConn) receive(ctx context.Context) {
	defer close(c.messages)
	b := make([]byte, 128)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		m, ok := parseARP(b[:n])
		if !ok || m.senderMAC.String() == c.mac.String() {
			continue
		}
		select {
		case c.messages <- m:
		case <-ctx.Done():
			return
		}
	}
}

// request broadcasts a request; an invalid sender is a probe (RFC 5227).
func (c *arpConn) request(sender, target netip.Addr) error {
	if !sender.IsValid() {
		sender = netip.IPv4Unspecified()
	}
	m := arpMessage{op: arpRequest, senderMAC: c.mac, sender: sender, target: target}
	_, err := c.WriteTo(m.bytes(), &packet.Addr{HardwareAddr: broadcastMAC})
	return err
}

// await waits until end for a message that match accepts, and reports whether one came. The error says
// that the connection is closed or ctx has ended.
func (c *arpConn) await(ctx context.Context, end <-chan time.Time, match func(arpMessage) bool) (bool, error) {
	for {
		select {
		case m, ok := <-c.messages:
			if !ok {
				return false, net.ErrClosed
			}
			if match(m) {
				return true, nil
			}
		case <-end:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// answersARP reports whether a machine on the link has an address. If that cannot be found out it
// returns true.
func answersARP(ctx context.Context, link netlink.Link, at netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, gatewayTries*gatewayTimeout)
	defer cancel()
	c, err := openARP(ctx, link)
	if err != nil {
		return true
	}
	sender := netip.Addr{}
	if addrs, err := netlink.AddrList(link, netlink.FAMILY_V4); err == nil && len(addrs) > 0 {
		sender, _ = netip.AddrFromSlice(addrs[0].IP.To4())
	}
	again := time.NewTicker(gatewayTimeout)
	defer again.Stop()
	for {
		if ctx.Err() == nil && c.request(sender, at) != nil && ctx.Err() == nil {
			return true
		}
		if found, err := c.await(ctx, again.C, func(m arpMessage) bool { return m.sender == at }); found || err != nil {
			return found
		}
	}
}
