package machine

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestTheAdviceFitsTheCause(t *testing.T) {
	cut := bootfile.CheckDTB(bytes.NewReader(nil), 10)
	for name, tt := range map[string]struct {
		err         error
		want, never string
	}{
		"no source is reachable":     {fmt.Errorf("resolve: %w", cas.ErrUnreachable), "network cable", "memory"},
		"not signed":                 {fmt.Errorf("resolve: %w", manifest.ErrUntrusted), "root.json", "cable"},
		"expired":                    {fmt.Errorf("resolve: %w", manifest.ErrExpired), "clock", "cable"},
		"wrong bytes":                {fmt.Errorf("fetch: %w", cas.ErrCorrupt), "another publisher", "cable"},
		"a kernel that cannot start": {fmt.Errorf("kexec: %w", cut), "its publisher", "cable"},
		"a missing file":             {fs.ErrNotExist, "in the menu", "cable"},
		"too little memory":          {errMemory, "", "cable"},
		"no network card":            {network.ErrNoNIC, "", "cable"},
		"stopped at the console":     {context.Canceled, "", "cable"},
		"a broken root filesystem":   {squashError(unix.EINVAL), "not a squashfs", "cable"},
		"a release that fails":       {withAdvice(squashError(unix.EINVAL), targetAdvice), "inform its publisher", "cable"},
	} {
		t.Run(name, func(t *testing.T) {
			text := refusalText(withAdvice(tt.err, bootAdvice(tt.err)))
			if !strings.Contains(text, tt.want) || strings.Contains(text, tt.never) || strings.Contains(text, "to try") == (tt.want == "") {
				t.Errorf("got %q", text)
			}
		})
	}
}
