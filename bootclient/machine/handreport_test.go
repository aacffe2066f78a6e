package machine

import (
	"encoding/json"
	"io"
	"testing"
	"time"
)

func TestTheReportOfTheTargetHasTheJump(t *testing.T) {
	rep := newReport(io.Discard)
	rep.Begin("fetch").Done("all of it")
	reportJSON, err := json.Marshal(rep)
	must(t, err)
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	boot, err := handedReport(reportJSON, "quiet phase.release=7", 57<<20, jsonClock{at, "RTC as it is"}, 20*time.Second)
	must(t, err)
	next := newReport(io.Discard)
	next.Begin("rootfs").Done("mounted")
	target, err := json.Marshal(next)
	must(t, err)
	for name, tt := range map[string]struct {
		started time.Time
		took    int64
	}{
		"the clock goes on":       {at.Add(5 * time.Second), 5000},
		"the clock was set back":  {at.Add(-24 * time.Hour), 0},
		"the clock was not saved": {at.Add(24 * time.Hour), 0},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := finishedReport(boot, target, tt.started)
			must(t, err)
			var got struct {
				Steps  []jsonStep
				Clock  jsonClock
				Line   string `json:"command_line"`
				Target struct {
					Start time.Time
					Steps []jsonStep
				}
			}
			must(t, json.Unmarshal(data, &got))
			want := jsonStep{Name: "kexec", At: 20000, Took: tt.took, Words: "57 MiB, command line: quiet phase.release=7"}
			if len(got.Steps) != 2 || got.Steps[0].Name != "fetch" || got.Steps[1] != want {
				t.Errorf("steps %+v", got.Steps)
			}
			if got.Clock.At != at || got.Clock.Words == "" || got.Line != "quiet phase.release=7" || !got.Target.Start.Equal(tt.started) || len(got.Target.Steps) != 1 {
				t.Errorf("got %+v", got)
			}
		})
	}
}
