package bootreport

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/manifest"
)

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func example() Document {
	return Document{
		MachineID: strings.Repeat("ab", 32), Arch: "x86_64", Groups: []string{"lab"}, BootID: strings.Repeat("01", 16),
		Report:  json.RawMessage(`{"result":"failed","error":"no source","mode":"local","start":"2026-11-30T10:00:00.5Z","duration_ms":1500,"steps":[{"name":"cache","error":"no disk"},{"name":"fetch","error":"no source"},{"name":"report"}],"release":{"channel":"stable","arch":"x86_64","release":"1.0","role_version":3,"timestamp_version":4},"tries":{"starts":2,"limit":3,"failed":{"release":"2.0","role_version":4,"starts":3,"why":"no blessing"}},"sources":[],"refused":[]}`),
		Console: []string{"[  1.000s] network: no link \u00e9"}, SentAt: time.Date(2026, 11, 30, 10, 0, 5, 9, time.UTC),
	}
}

func TestASignedDocumentIsRead(t *testing.T) {
	key := newKey(t)
	data, err := Sign(t.Context(), example(), key)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(data)
	if err != nil {
		t.Fatal(err)
	}
	if d.Machine != hex.EncodeToString(key.Public().(ed25519.PublicKey)) || d.Console[0] != example().Console[0] || !d.SentAt.Equal(example().SentAt.Truncate(time.Second)) {
		t.Errorf("got %+v", d)
	}
	want := Summary{"failed", "no source", "fetch", "local", "stable", "1.0", 3, time.Date(2026, 11, 30, 10, 0, 0, 5e8, time.UTC), 1500 * time.Millisecond, 2, "2.0"}
	if got := d.Summary(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// signed signs a payload as it is.
func signed(t testing.TB, key ed25519.PrivateKey, payload []byte) []byte {
	t.Helper()
	signer, err := signature.LoadED25519Signer(key)
	if err != nil {
		t.Fatal(err)
	}
	e, err := envelope.Sign(t.Context(), Type, payload, signer, key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return e.Bytes()
}

func TestBadDocumentsAreRefused(t *testing.T) {
	key := newKey(t)
	good, err := Sign(t.Context(), example(), key)
	if err != nil {
		t.Fatal(err)
	}
	e, err := envelope.Parse(good, Type, MaxDocument)
	if err != nil {
		t.Fatal(err)
	}
	change := func(from, to string) []byte {
		t.Helper()
		text := strings.Replace(string(e.Payload), from, to, 1)
		if text == string(e.Payload) {
			t.Fatalf("no %q in %s", from, e.Payload)
		}
		return signed(t, key, []byte(text))
	}
	for name, tt := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":               {nil, manifest.ErrMalformed},
		"cut off":               {good[:len(good)-10], manifest.ErrMalformed},
		"too large":             {append(good, make([]byte, MaxDocument)...), manifest.ErrMalformed},
		"another key":           {signed(t, newKey(t), e.Payload), manifest.ErrSignature},
		"another format":        {change(Format, "phaseboot/boot-report/v2"), manifest.ErrMalformed},
		"boot ID of 31 digits":  {change(`"0101`, `"101`), manifest.ErrMalformed},
		"machine ID is a word":  {change(`"abab`, `"word`), manifest.ErrMalformed},
		"report is a list":      {change(`"report":{`, `"report":[],"x":{`), manifest.ErrMalformed},
		"no report":             {change(`"report":`, `"x":`), manifest.ErrMalformed},
		"no date":               {change(`"sent_at":`, `"x":`), manifest.ErrMalformed},
		"date is a word":        {change(`"2026-11-30T10:00:05Z"`, `"now"`), manifest.ErrMalformed},
		"blanks":                {signed(t, key, append([]byte(" "), e.Payload...)), manifest.ErrMalformed},
		"a field twice":         {change(`"arch":`, `"arch":"arm64","arch":`), manifest.ErrMalformed},
		"an escape as it is":    {change(`\u00e9`, "\u00e9"), manifest.ErrMalformed},
		"a console without end": {change(`"console":[`, `"console":[`+strings.Repeat(`"",`, 200)), manifest.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(tt.data); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := Open(change(`"boot_id"`, `"b_later_field":{"x":[1]},"boot_id"`)); err != nil {
		t.Errorf("a field of a later version: %v", err)
	}
}

// Peers on the network can make a report long. It is sent all the same, without a part of its lists.
func TestALongReportIsShortened(t *testing.T) {
	d := example()
	var refused []string
	for i := range 4000 {
		refused = append(refused, fmt.Sprintf(`{"source":"peer %d","what":"block","why":%q}`, i, strings.Repeat("x", 400)))
	}
	d.Report = json.RawMessage(`{"result":"failed","refused":[` + strings.Join(refused, ",") + `]}`)
	data, err := Sign(t.Context(), d, newKey(t))
	if err != nil || len(data) > MaxDocument || len(data) < MaxDocument/4 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if d, err = Open(data); err != nil || !strings.Contains(string(d.Report), `"shortened":true`) {
		t.Errorf("got %v", err)
	}
	// The steps are shortened last; those of the end stay, with the one that has failed.
	var steps []string
	for i := range 4000 {
		steps = append(steps, fmt.Sprintf(`{"name":"step %d","words":%q}`, i, strings.Repeat("x", 400)))
	}
	d.Report = json.RawMessage(`{"result":"failed","steps":[` + strings.Join(append(steps, `{"name":"fetch","error":"no source"}`), ",") + `]}`)
	data, err = Sign(t.Context(), d, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if d, err = Open(data); err != nil || d.Summary().Step != "fetch" || strings.Contains(string(d.Report), `"step 0"`) || !strings.Contains(string(d.Report), `"step 3999"`) {
		t.Errorf("the last steps are not there: %v, %.200s", err, d.Report)
	}
	d.Report = json.RawMessage(`{"error":"` + strings.Repeat("x", MaxDocument) + `"}`)
	if _, err := Sign(t.Context(), d, newKey(t)); err == nil {
		t.Error("no error for a report that cannot be shortened")
	}
}

// What a machine sends can be printed on a terminal.
func TestADocumentIsPrintedInASCII(t *testing.T) {
	d := example()
	d.Console = []string{"\u009b31m \u202e \x1b[31m \x7f"}
	d.Report = json.RawMessage(`{"error":"\u009b \u202e"}`)
	text, err := d.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			t.Fatalf("byte %#x in %q", c, text)
		}
	}
	if !strings.Contains(string(text), `\u202e`) {
		t.Errorf("got %s", text)
	}
}

func TestTextsOfASummaryArePrintableAndShort(t *testing.T) {
	d := Document{Report: json.RawMessage(`{"result":"failed","error":"\u001b[31m` + strings.Repeat(`\u00e9`, 1000) + `","duration_ms":9223372036854775807}`)}
	s := d.Summary()
	if strings.Contains(s.Error, "\x1b") || len(s.Error) > maxLine || s.Duration < 0 {
		t.Errorf("got %+v", s)
	}
}

func FuzzOpen(f *testing.F) {
	data, err := Sign(f.Context(), example(), newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := Open(data); err == nil {
			d.Summary()
			d.Detail().Traffic("")
		}
	})
}

// FuzzPayload is FuzzOpen for payloads whose signature is valid: anybody can make a key. What is read from one can be printed,
// and is read again from what JSON returns.
func FuzzPayload(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	data, err := Sign(f.Context(), example(), key)
	if err != nil {
		f.Fatal(err)
	}
	e, err := envelope.Parse(data, Type, MaxDocument)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(e.Payload))
	f.Add([]byte(strings.Replace(string(e.Payload), `"result":"failed"`, `"result":"\u202efailed"`, 1)))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if canonical, err := envelope.Canonical(json.RawMessage(payload)); err == nil {
			payload = canonical
		}
		d, err := Open(signed(t, key, payload))
		if err != nil {
			return
		}
		sum := d.Summary()
		for _, text := range []string{sum.Result, sum.Error, sum.Step, sum.Mode, sum.Channel, sum.Release, sum.Failed} {
			if len(text) > 4*maxLine || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e }) {
				t.Errorf("%q in a summary", text)
			}
		}
		if sum.Duration < 0 || sum.Starts < 0 {
			t.Errorf("%+v", sum)
		}
		d.Detail().Traffic("")
		text, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var again Document
		if err := json.Unmarshal(text, &again); err != nil || again.BootID != d.BootID || again.Summary() != sum {
			t.Errorf("%s, read again as %+v, %v", text, again, err)
		}
	})
}
