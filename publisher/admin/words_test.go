package admin

import (
	"testing"

	"github.com/phaseboot/phaseboot/manifest"
)

// The machines of an earlier release are among those that do not take the newest one.
func TestWordsForTheOtherMachines(t *testing.T) {
	t.Parallel()
	half := 50
	for _, tt := range []struct {
		rollout *manifest.Rollout
		want    string
	}{
		{nil, "every other machine"},
		{&manifest.Rollout{Hold: []string{"lab"}}, "every other machine, without group lab"},
		{&manifest.Rollout{Percent: &half}, "of the other machines: 50 % of the machines"},
	} {
		if got := othersWords(tt.rollout); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
