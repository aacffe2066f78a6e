package machine

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// hashModule is the kernel's interface for hashes (AF_ALG).
const hashModule = "algif_hash"

// slowSHA256 reports whether Go's sha256 has no assembly for this processor. Then the kernel's is
// faster, in QEMU without KVM five times.
func slowSHA256() bool {
	return runtime.GOARCH == "amd64" && !(cpu.X86.HasAVX2 && cpu.X86.HasBMI2)
}

// sumSHA256 returns the sha256 of a byte range of a file. It adds the hashed bytes to done. inKernel
// asks the kernel first.
func sumSHA256(f *os.File, off, size int64, done *atomic.Int64, inKernel bool) ([]byte, error) {
	if inKernel {
		before := done.Load()
		if sum, err := kernelSHA256(f, off, size, done); err == nil {
			return sum, nil
		}
		done.Store(before)
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, byteCounter{done}), io.NewSectionReader(f, off, size)); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// kernelSHA256 is sumSHA256 in the kernel, which reads the pages of the file without a copy. It
// needs hashModule.
func kernelSHA256(f *os.File, off, size int64, done *atomic.Int64) ([]byte, error) {
	h, err := openKernelHash("sha256")
	if err != nil {
		return nil, err
	}
	defer h.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	for end := off + size; off < end; {
		n, err := unix.Splice(int(f.Fd()), &off, int(w.Fd()), nil, int(min(end-off, pipeSize)), 0)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		for left := n; left > 0; {
			m, err := unix.Splice(int(r.Fd()), nil, int(h.Fd()), nil, int(left), unix.SPLICE_F_MORE)
			if err != nil {
				return nil, err
			}
			left -= m
		}
		done.Add(n)
	}
	sum := make([]byte, sha256.Size)
	if n, err := unix.Read(int(h.Fd()), sum); err != nil || n != len(sum) {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return sum, nil
}

// pipeSize is the capacity of a pipe, in bytes (pipe(7)).
const pipeSize = 64 << 10

// openKernelHash returns a socket that hashes what is sent to it; a read returns the digest
// (Linux, Documentation/crypto/userspace-if.rst).
func openKernelHash(name string) (*os.File, error) {
	s, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(s)
	if err := unix.Bind(s, &unix.SockaddrALG{Type: "hash", Name: name}); err != nil {
		return nil, err
	}
	// unix.Accept fails, because the peer has no address
	fd, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(s), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return os.NewFile(fd, name), nil
}
