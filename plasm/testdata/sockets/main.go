// Command sockets is a job that tries to reach the network: with Go's net package, and with each socket call
// of WASI preview 1 on each file number that a host could have opened. It exits with 0 if all was refused.
package main

import (
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"
)

//go:wasmimport wasi_snapshot_preview1 sock_accept
func sockAccept(fd, flags int32, accepted unsafe.Pointer) (errno uint32)

//go:wasmimport wasi_snapshot_preview1 sock_send
func sockSend(fd int32, data unsafe.Pointer, n, flags int32, sent unsafe.Pointer) (errno uint32)

//go:wasmimport wasi_snapshot_preview1 sock_recv
func sockRecv(fd int32, data unsafe.Pointer, n, flags int32, got, outFlags unsafe.Pointer) (errno uint32)

//go:wasmimport wasi_snapshot_preview1 sock_shutdown
func sockShutdown(fd, how int32) (errno uint32)

// An iovec is a buffer of the host call.
type iovec struct{ at, length uint32 }

func main() {
	tried, granted := 0, 0
	count := func(what string, refused bool) {
		tried++
		if !refused {
			granted++
			fmt.Println("granted:", what)
		}
	}
	// Not sock_shutdown of 0, 1 and 2: the output is needed.
	buf := []byte("packet")
	vec := []iovec{{uint32(uintptr(unsafe.Pointer(&buf[0]))), uint32(len(buf))}}
	var number, flags int32
	for fd := int32(0); fd < 64; fd++ {
		at, out, outFlags := unsafe.Pointer(&vec[0]), unsafe.Pointer(&number), unsafe.Pointer(&flags)
		count("sock_accept", sockAccept(fd, 0, out) != 0)
		count("sock_send", sockSend(fd, at, 1, 0, out) != 0)
		count("sock_recv", sockRecv(fd, at, 1, 0, out, outFlags) != 0)
		if fd > 2 {
			count("sock_shutdown", sockShutdown(fd, 2) != 0)
			_, err := net.FileConn(os.NewFile(uintptr(fd), "socket"))
			count("socket of the host", err != nil)
		}
	}
	for _, address := range os.Args[1:] { // of a server that answers
		for _, network := range []string{"tcp", "udp"} {
			conn, err := net.DialTimeout(network, address, time.Second)
			if err == nil { // Go's net package imitates a network within the job
				_, err = conn.Write(buf)
			}
			fmt.Println(network, err)
		}
	}
	fmt.Printf("%d attempts, %d granted\n", tried, granted)
	if granted > 0 {
		os.Exit(9)
	}
}
