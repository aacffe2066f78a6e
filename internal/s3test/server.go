package s3test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The keys of the server, and the name of its bucket.
const (
	AccessKey = "phase-test"
	SecretKey = "phase-test-secret"
	Bucket    = "phase"
)

// A Server is a running S3 server.
type Server struct {
	Endpoint string // http://127.0.0.1:PORT
	Dir      string // folder with a folder for each bucket

	cmd *exec.Cmd
}

// Binary builds the server if necessary, and returns the path of its program.
func Binary() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/phaseboot/phaseboot").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	cmd := exec.Command("go", "tool", "-C", filepath.Join(strings.TrimSpace(string(root)), "internal/s3test/versitygw"), "-n", "versitygw")
	cmd.Env = append(os.Environ(), "GOFLAGS=-trimpath", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("versitygw: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Start starts a server with an empty bucket in a folder, which must be empty. The server ends with
// this process.
func Start(dir string) (*Server, error) {
	program, err := Binary()
	if err != nil {
		return nil, err
	}
	return StartBinary(program, dir, "127.0.0.1")
}

// StartBinary is Start with a program that Binary has returned, on an address.
func StartBinary(program, dir, host string) (*Server, error) {
	s := &Server{Dir: filepath.Join(dir, "objects")}
	if err := os.MkdirAll(filepath.Join(s.Dir, Bucket), 0o755); err != nil {
		return nil, err
	}
	free, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	free.Close()
	s.Endpoint = "http://" + addr
	s.cmd = exec.Command(program, "--port", addr, "--access", AccessKey, "--secret", SecretKey, "--quiet", "--keep-alive",
		"posix", s.Dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(s.Endpoint + "/")
		if err == nil {
			resp.Body.Close()
			return s, nil
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name()) // only for the error text
			return nil, errors.Join(fmt.Errorf("versitygw: not ready after a minute: %s", text), s.Stop())
		}
	}
}

// Stop ends the server.
func (s *Server) Stop() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = s.cmd.Wait() // killed: that is its error
	return nil
}

// Address returns the address of a store in the bucket.
func (s *Server) Address(prefix string) string { return Address(s.Endpoint, prefix) }

// Address returns the address of a store in the bucket of the server behind an endpoint.
func Address(endpoint, prefix string) string {
	return "s3://" + Bucket + "/" + prefix + "?endpoint=" + endpoint
}

// Path returns the file of an object.
func (s *Server) Path(prefix, name string) string {
	return filepath.Join(s.Dir, Bucket, prefix, filepath.FromSlash(name))
}

// Env is the environment with the keys of the server.
func Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey}
}

// Setenv sets the environment of this process to Env.
func Setenv() error {
	return errors.Join(os.Setenv("AWS_ACCESS_KEY_ID", AccessKey), os.Setenv("AWS_SECRET_ACCESS_KEY", SecretKey))
}
