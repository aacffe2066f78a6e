package network

import (
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// events are the subscriptions to what the kernel says about links, addresses and IPv6 routers.
type events struct {
	links   chan netlink.LinkUpdate
	addrs   chan netlink.AddrUpdate
	routers chan routerMessage
	done    chan struct{}
	socket  *nl.NetlinkSocket
}

// subscribe subscribes to links and addresses, beginning with those that exist, and to messages of
// IPv6 routers.
func subscribe() (*events, error) {
	e := &events{
		links: make(chan netlink.LinkUpdate, 64), addrs: make(chan netlink.AddrUpdate, 64),
		routers: make(chan routerMessage, 64), done: make(chan struct{}),
	}
	// The reader of a closed subscription ends with an error, which is expected.
	ignore := func(error) {}
	err := netlink.LinkSubscribeWithOptions(e.links, e.done, netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: ignore})
	if err == nil {
		err = netlink.AddrSubscribeWithOptions(e.addrs, e.done, netlink.AddrSubscribeOptions{ListExisting: true, ErrorCallback: ignore})
	}
	if err == nil {
		e.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_ND_USEROPT, unix.RTNLGRP_IPV6_IFINFO)
	}
	if err != nil {
		close(e.done)
		return nil, fmt.Errorf("netlink: %w", err)
	}
	go e.readRouters()
	return e, nil
}

func (e *events) close() {
	if e == nil {
		return
	}
	close(e.done)
	e.socket.Close()
	for range e.links { // until the reader ends, which may wait for room
	}
	for range e.addrs {
	}
}

// readRouters sends the messages about IPv6 routers until the socket is closed.
func (e *events) readRouters() {
	for _, m := range interfaceFlags() {
		e.send(m)
	}
	for {
		messages, from, err := e.socket.Receive()
		if err == unix.ENOBUFS {
			continue // some are lost; a router repeats itself
		}
		if err != nil {
			return
		}
		if from.Pid != 0 { // not from the kernel
			continue
		}
		for _, m := range messages {
			if r, ok := parseRouterMessage(m); ok {
				e.send(r)
			}
		}
	}
}

func (e *events) send(m routerMessage) {
	select {
	case e.routers <- m:
	case <-e.done:
	}
}

// interfaceFlags lists what the kernel knows of router advertisements that came before.
func interfaceFlags() (out []routerMessage) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_INET6))
	list, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil
	}
	for _, data := range list {
		m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}, Data: data}
		if r, ok := parseRouterMessage(m); ok {
			out = append(out, r)
		}
	}
	return out
}
