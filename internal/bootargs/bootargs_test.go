package bootargs

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestArgumentsOfACommandLine(t *testing.T) {
	for name, tt := range map[string]struct {
		line     string
		want     Arguments
		warnings []string // parts of the warnings, in order
	}{
		"nothing": {line: "quiet ro\n"},
		"all": {
			line: `console=tty0 console=ttyS0,115200n8 phase.mode=local phase.channel=stable phase.cache=ro phase.nowrite phase.retry=5 phase.screen=full phase.mirror=http://10.0.2.2:8080 phase.mirror=https://example.org/m phase.peer=/ip4/1.2.3.4/tcp/1/p2p/x phase.bootstrap=/ip4/1.2.3.4/tcp/2/p2p/y`,
			want: Arguments{
				Mode: "local", Channel: "stable", Cache: "ro", NoWrite: true, Retry: "5", Screen: "full",
				Mirrors: []string{"http://10.0.2.2:8080", "https://example.org/m"}, Peers: []string{"/ip4/1.2.3.4/tcp/1/p2p/x"},
				Bootstrap: []string{"/ip4/1.2.3.4/tcp/2/p2p/y"}, Console: []string{"tty0", "ttyS0,115200n8"},
			},
		},
		"the last mode counts":         {line: "phase.mode=local phase.mode=private", want: Arguments{Mode: "private"}},
		"nowrite=0 allows writing":     {line: "phase.nowrite=0"},
		"an unknown argument":          {line: "phase.mood=happy", warnings: []string{"phase.mood=happy"}},
		"a value is needed":            {line: "phase.mirror= phase.peer phase.mode", warnings: []string{"phase.mirror=", "phase.peer", "phase.mode"}},
		"inside of quotes":             {line: `dyndbg="file x phase.mode=local +p"`},
		"quoted value":                 {line: `phase.channel="beta"`, want: Arguments{Channel: "beta"}},
		"control characters":           {line: "phase.channel=a\x1b[2J", warnings: []string{"printable ASCII"}},
		"not ASCII":                    {line: "phase.channel=стабильный", warnings: []string{"printable ASCII"}},
		"space in quotes":              {line: `phase.channel="a b"`, warnings: []string{"printable ASCII"}},
		"phase.release":                {line: "phase.release=1.2.3"},
		"an address without a netmask": {line: "ip=192.0.2.7 phase.ip=192.0.2.7", warnings: []string{"ip=192.0.2.7", "phase.ip=192.0.2.7"}},
		"an empty ip=":                 {line: "ip= ip"},
		"for another initramfs":        {line: "root=UUID=x rd.break BOOTIF=01-52 vlan=eth0.7:eth0", warnings: []string{"root=UUID=x", "rd.break", "BOOTIF=", "vlan="}},
		"stale policy":                 {line: "phase.stale=last-good", want: Arguments{Stale: "last-good"}},
		"the last stale policy counts": {line: "phase.stale=last-good phase.stale=refuse", want: Arguments{Stale: "refuse"}},
		"not a stale policy":           {line: "phase.stale=yes phase.stale", warnings: []string{"use refuse or last-good", "use refuse or last-good"}},
		"arguments of the kernel":      {line: "ro rdinit=/init rootwait ipv6.disable=0 net.ifnames=0 quiet"},
		"for the target":               {line: "panic=5 nomodeset phase.target=site=berlin phase.target=rack:7", want: Arguments{Panic: "5", NoModeset: true, Target: []string{"site=berlin", "rack:7"}}},
		"not for the target":           {line: `panic=0 panic=3601 nomodeset=1 phase.target=--x phase.target=a;b`, warnings: []string{"phase.target=", "phase.target="}},
		"retry for ever":               {line: "phase.retry=3 phase.retry=0", want: Arguments{Retry: "0"}},
		"groups":                       {line: "phase.group=lab,rack7 phase.group=lab phase.group=canary", want: Arguments{Groups: []string{"lab", "rack7", "canary"}}},
		"not groups":                   {line: "phase.group phase.group= phase.group=lab,, phase.group=Lab phase.group=a/b", warnings: []string{"use a-z", "use a-z", "lab,,", "Lab", "a/b"}},
		"too many groups":              {line: "phase.group=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16 phase.group=16 phase.group=17", want: Arguments{Groups: strings.Split("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", ",")}, warnings: []string{"at most 16"}},
		"not a form of the screen":     {line: "phase.screen=plain phase.screen=tall phase.screen", want: Arguments{Screen: "plain"}, warnings: []string{"tall", "lines, full or plain"}},
		"not a number of attempts":     {line: "phase.retry=2 phase.retry=-1 phase.retry=+1 phase.retry=1001 phase.retry=x phase.retry", want: Arguments{Retry: "2"}, warnings: []string{"from 1 to 1000", "+1", "1001", "x", "phase.retry"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Parse(tt.line)
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Arguments{}, "Warnings"), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			if len(got.Warnings) != len(tt.warnings) {
				t.Fatalf("warnings %q", got.Warnings)
			}
			for i, w := range tt.warnings {
				if !strings.Contains(got.Warnings[i], w) {
					t.Errorf("warning %q does not name %q", got.Warnings[i], w)
				}
			}
		})
	}
}

func TestRepeatedHintsAreBounded(t *testing.T) {
	got := Parse(strings.Repeat("phase.mirror=http://a ", 1000))
	if len(got.Mirrors) != MaxRepeats {
		t.Errorf("%d mirrors used", len(got.Mirrors))
	}
}

const testPeer = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj"

func TestTheCommandLineDecidesBeforeTheModeWhenTheMachineRestarts(t *testing.T) {
	for line, want := range map[string]int{"": 7, "phase.retry=2": 2, "phase.retry=0": 0, "phase.retry=x": 7} {
		if got := Parse(line).RestartAfter(7); got != want {
			t.Errorf("%q: %d, want %d", line, got, want)
		}
	}
}

// The image builder refuses arguments that the machine would ignore or refuse.
func TestCheckRefusesArgumentsThatTheMachineIgnores(t *testing.T) {
	for line, want := range map[string]string{
		"quiet console=ttyS0 init=/bin/sh":                                                           "",
		"phase.mode=local phase.channel=beta phase.cache=ro phase.nowrite":                           "",
		"phase.mirror=http://192.0.2.1:8080 phase.peer=" + testPeer + " phase.bootstrap=" + testPeer: "",
		"phase.mirror=10.0.0.1:8080":                                                                 "not a web address",
		"phase.mirror=https://u:p@192.0.2.1/m phase.mirror=file:///srv/mirror":                       "",
		"phase.mirror=file://host/srv":                                                               "not a web address",
		"phase.mirror=file:srv":                                                                      "not a web address",
		"phase.mirror=http://192.0.2.1/?q":                                                           "not a web address",
		"phase.mirror=ftp://192.0.2.1":                                                               "not a web address",
		"phase.mirror=":                                                                              "needs a value",
		"ip=192.0.2.7::192.0.2.1:255.255.255.0::eth0:none ip=off ip=dhcp":                            "",
		"phase.ip=eth0:dhcp phase.vlan=vlan7:eth0 phase.bond=bond0:eth1,eth2 phase.interface=eth0,virtio_net phase.proxy=http://192.0.2.1:3128": "",
		"phase.ip=192.0.2.7":                           "not a netmask",
		"phase.ip=":                                    "needs a value",
		"phase.vlan=eth0":                              "not the name of a VLAN",
		"phase.bond=bond0":                             "not a bond",
		"phase.interface=eth0,":                        "not the name, MAC address or driver",
		"phase.proxy=192.0.2.1:3128":                   "not the URL of a proxy",
		"vlan=vlan7:eth0":                              "phase.vlan=",
		strings.Repeat("phase.ip=dhcp ", MaxRepeats+1): "at most 16",
		"phase.mirrr=x":                                "not a phase.* argument",
		"phase.Mode=local":                             "not a phase.* argument",
		"phase.mode":                                   "needs a value",
		"phase.mode=":                                  "needs a value",
		"phase.group=lab,rack7":                        "",
		"phase.group=Lab":                              "use a-z",
		"phase.group=":                                 "use a-z",
		"phase.cache=maybe":                            "use rw, ro or off",
		"phase.nowrite=maybe":                          "use 0 or 1",
		"phase.peer=192.0.2.1:4001":                    "not a multiaddr",
		"phase.peer=/ip4/192.0.2.1/tcp/4001":           "no peer ID",
		"phase.bootstrap=/ip4/192.0.2.1/tcp/1":         "no peer ID",
		"phase.release=1":                              "the machine sets it",
		`phase.channel="a b"`:                          "printable ASCII",
		"phase.stale=last-good":                        "",
		"phase.stale=old":                              "use refuse or last-good",
		"phase.retry=10":                               "",
		"phase.retry=0":                                "",
		"phase.retry=often":                            "from 1 to 1000, or 0",
		"phase.retry":                                  "from 1 to 1000, or 0",
		strings.Repeat("phase.mirror=http://a ", MaxRepeats+1): "at most 16",
	} {
		_, err := Check(line)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !errors.Is(err, fs.ErrInvalid)) {
			t.Errorf("%.60q: %v, want %q", line, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "ignored") {
			t.Errorf("%.60q: %v: this is the text of a warning at boot", line, err)
		}
	}
}

// A release's command line may have any argument for the target.
func TestUnreadNamesPhaseArgumentsWithoutEffect(t *testing.T) {
	for line, want := range map[string]string{
		"": "",
		"quiet console=ttyS0 root=/dev/sda1 ip=dhcp rd.break": "",
		SignedConsole: "",
		"phase.mode=local phase.channel=beta phase.mirror=http://192.0.2.1 phase.nowrite phase.cache=ro": "",
		"phaser.x=1 my.phase.x=1 phase=1":             "",
		"-- phase.mirrr=x":                            "",
		"phase.mirrr=http://192.0.2.1":                "not a phase.* argument",
		"phase.mirrr":                                 "not a phase.* argument",
		"Phase.mode=local":                            "not a phase.* argument",
		"phase.console=singed":                        "write phase.console=signed",
		"phase.console":                               "write phase.console=signed",
		"phase.mirror=10.0.0.1:8080":                  "not a web address",
		"phase.cache=maybe":                           "use rw, ro or off",
		"phase.mode=":                                 "needs a value",
		`"phase.mirrr=a b"`:                           "printable ASCII",
		"phase.mirrr=http://user:s3cret@h":            "…@h",
		"quiet phase.mod=x phase.console=signed -- y": "not a phase.* argument",
	} {
		got := Unread(line)
		if (len(got) == 0) != (want == "") || len(got) > 1 || len(got) == 1 && (!strings.Contains(got[0], want) || strings.Contains(got[0], "s3cret")) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if got := Unread("phase.a phase.b=1"); len(got) != 2 {
		t.Errorf("two arguments: %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`console=ttyS0 phase.mode=local "phase.mirror=http://x y" phase.nowrite`)
	f.Fuzz(func(t *testing.T, line string) {
		a := Parse(line)
		for _, list := range [][]string{a.Mirrors, a.Peers, a.Bootstrap, {a.Mode, a.Channel, a.Cache, a.Retry}} {
			if len(list) > MaxRepeats {
				t.Errorf("%d values", len(list))
			}
			for _, v := range list {
				if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
					t.Errorf("%q was accepted", v)
				}
			}
		}
	})
}

func TestMessagesShowNoCredentials(t *testing.T) {
	for line, want := range map[string]string{
		"phase.mirror=ftp://user:s3cret@192.0.2.1":                                                 " ",
		"phase.mirror=http://user:s3/cret@192.0.2.1:":                                              "",
		"phase.mirrr=https://user:s3cret@192.0.2.1/" + strings.Repeat("x", 80):                     "",
		"phase.mirrr=https://" + strings.Repeat("user", 30) + ":s3cret@192.0.2.1":                  "",
		strings.Repeat("phase.mirror=http://a ", MaxRepeats) + "phase.mirror=http://user:s3cret@b": "",
		"phase.mirror=http://user:s3cret@b/\u00e9":                                                 "",
	} {
		_, err := Check(line)
		text := strings.Join(append(Parse(line).Warnings, err.Error()), want)
		if strings.Contains(text, "user") || strings.Contains(text, "s3") {
			t.Errorf("%s", text)
		}
	}
	for text, want := range map[string]string{
		"get https://a:b@host/x?y=z: no": "get https://…@host/x?y=z: no",
		"https://host/@scope/x":          "https://host/@scope/x",
		"a@b, http://h":                  "a@b, http://h",
	} {
		if got := Redact(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
