//go:build machine

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
)

var clockRows = []row{
	{
		name: "clock-1970", situation: "the clock is at 1970 (QEMU's is then at 2070)",
		says: []string{"is more than 20 years after the build of this image; clock set to", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.atClock("1970-01-01T00:00:00") },
	},
	{
		name: "clock-2099", situation: "the clock is at 2099",
		says: []string{"is more than 20 years after the build of this image; clock set to", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.atClock("2099-01-01T00:00:00") },
	},
	{
		name: "clock-1970-https", situation: "the clock is at 1970, and the only mirror is at an https address",
		says: []string{"; clock set to", "the dates were ignored, the name and the issuers were checked", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.overTLS("1970-01-01T00:00:00") },
	},
	{
		name: "clock-2099-https", situation: "the clock is at 2099, and the only mirror is at an https address",
		says: []string{"; clock set to", "the dates were ignored, the name and the issuers were checked", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.overTLS("2099-01-01T00:00:00") },
	},
}

// atClock starts a machine with a clock.
func (s *site) atClock(at string) {
	s.t.Helper()
	s.dhcp()
	s.host().publish("--dht", "off")
	s.on(fx.path("local.img"), s.port(), "-rtc", "base="+at)
}

// cacheRows are the states of the cache partition, and of the stick.
var cacheRows = []row{
	{
		name: "cache-full", situation: "the cache partition is full of other files",
		says: []string{"] cache: /dev/vda2 (rw)", "] resolve: stable", "disk full: the blocks that did not fit are fetched again next time"}, ends: "nothing",
		start: func(s *site) {
			s.withCache(func(disk string) {
				dir := s.t.TempDir()
				_, size := cachePartition(s.t, disk)
				must(s.t, "sh", "-c", fmt.Sprintf("yes | head -c %d > %s/other", size-20<<20, dir))
				formatCache(s.t, disk, "-m", "0", "-O", "^has_journal", "-N", "1024", "-d", dir)
			})
		},
	},
	{
		name: "cache-read-only", situation: "the stick is write-protected",
		says: []string{"] cache: /dev/vda2 (ro: the disk is write-protected", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) { s.withCache(func(string) {}, "-set", "drive.disk0.readonly=on") },
	},
	{
		name: "cache-damaged", situation: "the first MiB of the cache partition is overwritten",
		says: []string{"] cache: /dev/vda2 (rw), recreated because it was damaged", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			s.withCache(func(disk string) {
				first, _ := cachePartition(s.t, disk)
				overwrite(s.t, disk, first, bytes.Repeat([]byte("damaged\n"), 1<<17))
			})
		},
	},
	{
		name: "cache-foreign", situation: "the cache partition has foreign files: links and text in place of the cache's folders",
		says: []string{"] cache: /dev/vda2 (rw)", "the key there is damaged", "] cache: recreated: it was damaged", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			s.withCache(func(disk string) {
				dir := s.t.TempDir()
				for _, command := range [][]string{
					{"ln", "-s", "/etc", dir + "/trust"},
					{"mkfifo", dir + "/machine.key"},
					{"sh", "-c", "echo text > " + dir + "/blocks"},
					{"ln", "-s", "/dev/vda", dir + "/report.json"},
				} {
					must(s.t, command[0], command[1:]...)
				}
				formatCache(s.t, disk, "-d", dir)
			})
		},
	},
	{
		name: "cache-two-disks", situation: "two disks have a cache partition, and the machine is booted from the second",
		says: []string{"] cache: /dev/vdb2 (rw); on the boot disk, one of 2 disks with a cache", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			first := s.image("--default-mode", "private") // another image: a copy would have the same GUIDs
			s.env = []string{"DISK=none"}
			s.withCache(func(string) {}, "-drive", "if=none,id=disk1,format=raw,file="+first,
				"-device", "virtio-blk-pci,drive=disk1", "-device", "virtio-blk-pci,drive=disk0,bootindex=0")
		},
	},
	{
		name: "stick-pulled", situation: "the stick is pulled after the start",
		says: []string{"] cache: /dev/sda2 (rw)", "refused: storing blocks from cache: ", "] seed: from memory after the jump"}, ends: "nothing",
		start: func(s *site) {
			s.env = []string{"DISK=usb"}
			s.dhcp()
			s.slow(s.host()).publish("--dht", "off")
			s.on(fx.path("generic.img"), s.port())
			s.fetches()
			s.m.do("device_del", map[string]any{"id": "stick"})
		},
	},
	{
		name: "warm-no-link", situation: "the cache holds the release, and no cable is plugged in",
		says: []string{"] cache: /dev/vda2 (rw)", "network: failed: no address after 4s: eth0: no link", "from the cache, which is still valid"}, ends: "nothing",
		start: func(s *site) {
			s.again(s.warm(), s.port(), "-S")
			s.m.startUnplugged(theCard)
		},
	},
	{
		name: "warm-no-dhcp", situation: "the cache holds the release, and no DHCP server answers",
		says: []string{"] cache: /dev/vda2 (rw)", "network: failed: no address after 6s: eth0: no answer from a DHCP server", "from the cache, which is still valid"}, ends: "nothing",
		start: func(s *site) { s.again(s.warm(), s.port()) },
	},
	{
		name: "warm-no-card", situation: "the cache holds the release, and there is no network card",
		says: []string{"] cache: /dev/vda2 (rw)", "network: failed: no wired network card", "from the cache, which is still valid"}, ends: "nothing",
		start: func(s *site) { s.again(s.warm(), "none") },
	},
	{
		name: "memory-256", situation: "256 MB of memory",
		says: []string{refused, "too little memory: ", menuShown}, ends: "the machine gets 1024 MB",
		start: func(s *site) {
			s.dhcp()
			s.host().publish("--dht", "off")
			s.on(fx.path("local.img"), s.port(), "-m", "256")
		},
		remove: func(s *site) {
			s.m.powerOff()
			s.again(filepath.Join(s.dir, "machine.img"), s.port(), "-m", "1024")
		},
	},
	{
		name: "memory-512", situation: "512 MB of memory",
		says: []string{"] memory: ", "] resolve: stable"}, ends: "nothing",
		start: func(s *site) {
			s.dhcp()
			s.host().publish("--dht", "off")
			s.on(fx.path("local.img"), s.port(), "-m", "512")
		},
	},
	{
		name: "power-cut", situation: "the power is cut while the state is written, again and again",
		says: []string{"] resolve: stable"}, ends: "the power stays",
		start: func(s *site) {
			s.dhcp()
			s.slow(s.host()).publish("--dht", "off")
			disk := filepath.Join(s.dir, "machine.img")
			must(s.t, "cp", "--sparse=always", fx.path("local.img"), disk)
			for _, phase := range []string{"] machine key: ", "] resolve: stable", rate, "] release: ", "] kexec: loaded"} {
				s.again(disk, s.port())
				s.m.waitFrom(0, []string{phase}, refused, "recreated because it was damaged")
				s.m.powerOff()
			}
			s.again(disk, s.port())
		},
	},
}

// warm returns a disk whose cache holds the release. It was filled on another network.
func (s *site) warm() string {
	s.t.Helper()
	l := newLAN(s.t)
	l.host().publish("--dht", "off")
	return l.warmStick()
}

// withCache starts a machine from a disk whose cache partition was changed.
func (s *site) withCache(change func(disk string), more ...string) {
	s.t.Helper()
	s.dhcp()
	s.host().publish("--dht", "off")
	disk := filepath.Join(s.dir, "changed.img")
	must(s.t, "cp", "--sparse=always", fx.path("local.img"), disk)
	change(disk)
	s.again(disk, s.port(), more...)
}

func overwrite(t *testing.T, path string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(data, at)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// releaseRows are releases that cannot be booted.
var releaseRows = []row{
	{
		name: "kernel-arm64", situation: "the kernel of the release is for another architecture",
		says: []string{refused, "kernel of the release: ", "the release is faulty", menuShown}, ends: "a release with another kernel is published",
		start: func(s *site) {
			s.withKernel(func(kernel string) {
				must(s.t, "rm", kernel)
				if err := os.WriteFile(kernel, bootfiletest.Kernel("arm64", "arm"), 0o644); err != nil {
					s.t.Fatal(err)
				}
			})
		},
		remove: (*site).repair, lasts: 5 * time.Second, menu: true,
	},
	{
		name: "kernel-truncated", situation: "the kernel of the release is cut short",
		says: []string{refused, "kernel of the release: ", "cut short", "the release is faulty", menuShown}, ends: "a release with another kernel is published",
		start: func(s *site) {
			s.withKernel(func(kernel string) {
				if err := os.Truncate(kernel, int64(len(readFile(s.t, kernel))/2)); err != nil {
					s.t.Fatal(err)
				}
			})
		},
		remove: (*site).repair, lasts: 5 * time.Second, menu: true,
	},
	{
		name: "kernel-refused", situation: "the running kernel refuses the kernel of the release",
		says: []string{refused, "kexec: invalid argument: refused by the kernel", menuShown}, ends: "a release with another kernel is published",
		start: func(s *site) {
			s.withKernel(func(kernel string) { overwrite(s.t, kernel, 0x238, make([]byte, 4)) }) // cmdline_size: it accepts no command line
		},
		remove: (*site).repair, lasts: 5 * time.Second, menu: true,
	},
	{
		name: "target-panics", situation: "the target panics at once; the machine restarts and says so",
		says: []string{"] kexec: starting", "Kernel panic", "Rebooting in 30 seconds"}, ends: "a release that works is published",
		start: func(s *site) {
			s.dhcp()
			p := publication(s.t)
			p.signOwn(s.t, fx.path("artifacts"), "2026.12-panic", "--cmdline", "console=ttyS0,115200 rdinit=/missing")
			p.serve(s.host())
			s.values["publication"] = p
			s.on(fx.path("local.img"), s.port())
		},
		remove: func(s *site) {
			s.m.waitForEnd() // at the restart
			s.values["publication"].(*published).add(s.t, "2026.13")
			s.again(filepath.Join(s.dir, "machine.img"), s.port())
		},
		starts: true, sign: "] last start: stable/x86_64 2026.12-panic, version 2 was started on ",
	},
}

// withKernel starts a machine whose release has a changed kernel.
func (s *site) withKernel(change func(kernel string)) {
	s.t.Helper()
	s.dhcp()
	p := publication(s.t)
	must(s.t, "cp", "-a", fx.path("artifacts"), p.at("artifacts"))
	kernel := p.at("artifacts/kernel")
	change(kernel)
	p.signOwn(s.t, p.at("artifacts"), "2026.12-faulty", "--unchecked")
	p.serve(s.host())
	s.values["publication"] = p
	s.on(fx.path("local.img"), s.port())
}

// repair publishes the next release, with the kernel of the fixtures.
func (s *site) repair() {
	s.t.Helper()
	s.values["publication"].(*published).add(s.t, "2026.13")
}

// overTLS starts a machine with a clock, whose mirror is at an https address. The certificate is valid
// from tomorrow, as for a machine whose clock was set to the date of its image. The image knows the issuer.
func (s *site) overTLS(at string) {
	s.t.Helper()
	s.dhcp()
	h := s.host()
	h.publish("--dht", "off", "--mdns=false", "--http", "127.0.0.1:8080")
	dir := s.t.TempDir()
	writeCertificate(s.t, dir, h.addr)
	h.nginxWith(dir, fmt.Sprintf("server { listen %s:443 ssl; ssl_certificate %[2]s/cert.pem; ssl_certificate_key %[2]s/key.pem; location / { proxy_pass http://127.0.0.1:8080; } }\n", h.addr, dir))
	image := s.image("--default-mode", "internet", "--ca", dir+"/cert.pem", "--cmdline", "phase.mirror=https://"+h.addr)
	s.on(image, s.port(), "-rtc", "base="+at)
}

// writeCertificate writes a certificate for an address, which is its own issuer, and its key.
func writeCertificate(t *testing.T, dir, addr string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now().Add(24 * time.Hour)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mirror"}, NotBefore: from, NotAfter: from.AddDate(0, 3, 0), IPAddresses: []net.IP{net.ParseIP(addr)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: certificate}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
