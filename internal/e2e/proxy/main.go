// Command proxy is a web proxy of the end-to-end tests:
//
//	proxy http HOST:PORT
//	proxy socks5 HOST:PORT
//
// It serves everybody, and prints a line when it serves. The first form is an HTTP proxy (RFC 9110) for
// http URLs and CONNECT, the second SOCKS5 (RFC 1928) without authentication.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strconv"
)

func main() {
	fmt.Fprintln(os.Stderr, "proxy:", run(os.Args[1], os.Args[2]))
	os.Exit(1)
}

func run(kind, at string) error {
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	fmt.Println("{}")
	if kind == "http" {
		return http.Serve(listener, http.HandlerFunc(serveHTTP))
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go serveSOCKS(client)
	}
}

var forward = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host }, FlushInterval: -1}

func serveHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		forward.ServeHTTP(w, r)
		return
	}
	server, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	client, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		server.Close()
		return
	}
	io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	join(client, server)
}

func serveSOCKS(client net.Conn) {
	server, err := accept(client)
	if err != nil {
		client.Close()
		return
	}
	client.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	join(client, server)
}

// accept reads the greeting and the request of a SOCKS5 client, and connects to the server.
func accept(client net.Conn) (net.Conn, error) {
	head := make([]byte, 2) // version, number of methods
	if _, err := io.ReadFull(client, head); err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, client, int64(head[1])); err != nil {
		return nil, err
	}
	client.Write([]byte{5, 0})
	request := make([]byte, 5) // version, command, 0, type of address, first byte of it
	if _, err := io.ReadFull(client, request); err != nil {
		return nil, err
	}
	length, ok := map[byte]int{1: 4, 3: int(request[4]) + 1, 4: 16}[request[3]]
	if !ok || request[1] != 1 {
		return nil, errors.ErrUnsupported
	}
	rest := make([]byte, length-1+2)
	if _, err := io.ReadFull(client, rest); err != nil {
		return nil, err
	}
	name := string(rest[:length-1])
	if request[3] != 3 {
		name = net.IP(append(request[4:5], rest[:length-1]...)).String()
	}
	return net.Dial("tcp", net.JoinHostPort(name, strconv.Itoa(int(binary.BigEndian.Uint16(rest[length-1:])))))
}

// join copies in both directions until one side ends.
func join(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	done := make(chan struct{}, 2)
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			io.Copy(c[0], c[1])
			done <- struct{}{}
		}()
	}
	<-done
}
