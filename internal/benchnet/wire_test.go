package main

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestAWireIsAConnection(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		a, b = newWire(&net.UDPAddr{Port: 1}, &net.UDPAddr{Port: 2})
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}
