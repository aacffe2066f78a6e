package bootreport

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestADetailHasStepsSourcesAndRefusals(t *testing.T) {
	d := Document{Report: json.RawMessage(`{"start":"2026-11-30T10:00:00Z","steps":[{"name":"network","at_ms":100,"took_ms":400,"words":"eth0"},{"name":"kexec","at_ms":500,"took_ms":20,"error":"no"}],
		"target":{"start":"2026-11-30T10:00:02Z","steps":[{"name":"rootfs","at_ms":10,"took_ms":5}]},
		"sources":[{"name":"http://a","kind":"mirror","address":"http://a","bytes":7,"blocks":2,"faults":["late"],"banned":true}],
		"refused":[{"source":"mdns x","what":"timestamp","why":"expired"}],"served_bytes":9,"memory_peak_bytes":10,
		"tries":{"starts":1,"limit":3,"failed":{"release":"2.0","why":"3 starts without a blessing"}},"shortened":true}`)}
	got := d.Detail()
	if len(got.Steps) != 2 || got.Steps[0] != (Step{"network", "eth0", "", 100 * time.Millisecond, 400 * time.Millisecond}) || got.Steps[1].Error != "no" {
		t.Errorf("steps %+v", got.Steps)
	}
	if len(got.Target) != 1 || got.Target[0].Name != "rootfs" || got.TargetAt != 2*time.Second {
		t.Errorf("target %+v at %v", got.Target, got.TargetAt)
	}
	if len(got.Sources) != 1 || got.Sources[0].Faults[0] != "late" || !got.Sources[0].Banned || got.Traffic("") != (Traffic{Share{Servers: 7}, 1, 1}) {
		t.Errorf("sources %+v", got.Sources)
	}
	if len(got.Refused) != 1 || got.Refused[0] != (Refusal{"mdns x", "timestamp", "expired"}) || got.Served != 9 || got.Memory != 10 || got.Limit != 3 || got.Failed != "2.0" || got.Why == "" || !got.Shortens {
		t.Errorf("got %+v", got)
	}
}

// A machine may say anything.
func TestTextsOfADetailArePrintableAndItsNumbersAreNotNegative(t *testing.T) {
	evil := `"\u001b[31m\u202e\u009b` + strings.Repeat("x", 1000) + `"`
	d := Document{Report: json.RawMessage(`{"steps":[{"name":` + evil + `,"at_ms":-1,"took_ms":9007199254740992,"words":` + evil + `,"error":` + evil + `}],
		"sources":[{"name":` + evil + `,"kind":` + evil + `,"address":` + evil + `,"bytes":-1,"blocks":-1,"faults":[` + evil + `]}],
		"refused":[{"source":` + evil + `,"what":` + evil + `,"why":` + evil + `}],"served_bytes":-1}`)}
	got := d.Detail()
	for _, s := range []string{
		got.Steps[0].Name, got.Steps[0].Words, got.Steps[0].Error, got.Sources[0].Name, got.Sources[0].Kind, got.Sources[0].Address, got.Sources[0].Faults[0],
		got.Refused[0].Source, got.Refused[0].What, got.Refused[0].Why,
	} {
		if strings.ContainsAny(s, "\x1b\u202e\u009b") || len(s) > maxLine {
			t.Errorf("got %q", s)
		}
	}
	if s := got.Steps[0]; s.At != 0 || s.Took <= 0 || got.Sources[0].Bytes != 0 || got.Served != 0 {
		t.Errorf("got %+v", got)
	}
	if got := (Document{Report: json.RawMessage(`{"steps":1}`)}).Detail(); len(got.Steps) != 0 {
		t.Errorf("got %+v", got)
	}
}
