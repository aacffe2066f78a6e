//go:build machine

package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// onVLAN7 connects a switch port with the LAN as VLAN 7, and returns QEMU's arguments for its cable.
func (l *lan) onVLAN7() []string {
	l.t.Helper()
	socket := filepath.Join(l.dir, "switch")
	l.trunk(socket, 7)
	return []string{
		"-device", "virtio-net-pci,netdev=trunk,romfile=,mac=52:54:00:00:00:07",
		"-netdev", "stream,id=trunk,server=off,addr.type=unix,addr.path=" + socket,
	}
}

// twoPorts returns QEMU's arguments for two network cards, named first and second.
func twoPorts(first, second string) (args []string) {
	for i, port := range []string{first, second} {
		name := []string{"first", "second"}[i]
		args = append(args, "-netdev", "tap,id=to-"+name+",script=no,downscript=no,ifname="+port,
			"-device", fmt.Sprintf("virtio-net-pci,netdev=to-%s,id=%s,romfile=,mac=52:54:00:00:00:1%d", name, name, i+1))
	}
	return args
}

// trunk connects a machine, which connects to the socket, with the LAN: packets of the machine must
// have the tag of the VLAN, and get it on the way back.
func (l *lan) trunk(socket string, vlan uint16) {
	l.t.Helper()
	name := l.tap()
	tap := l.openTap(name)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		listener.Close()
		tap.Close()
	})
	go func() {
		machine, err := listener.Accept()
		if err != nil {
			return
		}
		defer machine.Close()
		go untag(tap, machine, vlan)
		tag(machine, tap, vlan)
	}()
}

// untag copies the packets of a VLAN to the LAN.
func untag(tap io.Writer, machine io.Reader, vlan uint16) {
	for {
		var length [4]byte // QEMU writes it before each packet
		if _, err := io.ReadFull(machine, length[:]); err != nil {
			return
		}
		p := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(machine, p); err != nil {
			return
		}
		if len(p) > 18 && binary.BigEndian.Uint16(p[12:]) == unix.ETH_P_8021Q && binary.BigEndian.Uint16(p[14:])&0xfff == vlan {
			_, _ = tap.Write(append(p[:12], p[16:]...))
		}
	}
}

// tag copies the packets of the LAN to the machine.
func tag(machine io.Writer, tap io.Reader, vlan uint16) {
	packet := make([]byte, 65536)
	for {
		n, err := tap.Read(packet)
		if err != nil || n < 14 {
			return
		}
		out := binary.BigEndian.AppendUint32(nil, uint32(n+4))
		out = append(out, packet[:12]...)
		out = binary.BigEndian.AppendUint16(out, unix.ETH_P_8021Q)
		out = binary.BigEndian.AppendUint16(out, vlan)
		if _, err := machine.Write(append(out, packet[12:n]...)); err != nil {
			return
		}
	}
}

// openTap opens a port of the LAN.
func (l *lan) openTap(name string) (tap *os.File) {
	l.t.Helper()
	l.inside(func() error {
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			unix.Close(fd)
			return err
		}
		tap = os.NewFile(uintptr(fd), name) // after the ioctl: before it, the file cannot be polled
		return nil
	})
	return tap
}
