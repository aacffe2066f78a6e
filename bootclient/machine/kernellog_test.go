package machine

import "testing"

func TestTheLastMessagesOfTheKernel(t *testing.T) {
	for name, tt := range map[string]struct{ log, want string }{
		"all of them":              {"<6>[    0.000000] Linux version\n<3>[    1.500000] usb 1-1: <bad>\n", "kernel   [    0.000000] Linux version\nkernel   [    1.500000] usb 1-1: <bad>\n"},
		"the last two of three":    {"<6>one\n<6>two\n<6>three\n", "kernel   two\nkernel   three\n1 message before these: see `dmesg` in the shell\n"},
		"a device with a sequence": {"<6>[    2.000000] usb 1-1: Product: \x1b[2Jstick\n", "kernel   [    2.000000] usb 1-1: Product: ?[2Jstick\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lastMessages(tt.log, 2); got != tt.want {
				t.Errorf("got %q", got)
			}
		})
	}
}
