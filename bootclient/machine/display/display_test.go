package display

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

const s = time.Second

// line returns the event of a line at a time.
func line(at time.Duration, step string, level report.Level, text string) Event {
	return LineOf(report.Line{At: at, Step: step, Level: level, Text: text})
}

// A play is a boot that a test shows on one terminal.
type play struct {
	boot Boot
	view View
	out  strings.Builder
}

func (p *play) take(at time.Duration, e Event) {
	e = e.NotAfter(at)
	p.boot.Take(e, at)
	p.out.WriteString(p.view.Line(e))
}

func (p *play) tick(at time.Duration) string {
	text := p.view.Tick(&p.boot, at)
	p.out.WriteString(text)
	return text
}

// fetch plays a fetch of 100 MiB with 10 MiB a second, until some seconds have passed.
func (p *play) fetch(seconds int) {
	p.take(0, Began(0, "fetch"))
	for i := range seconds {
		at := time.Duration(i+1) * s
		p.take(at, ProgressOf(at, int64(i+1)*10<<20, 100<<20, []report.SourceStats{
			{Name: "http://192.0.2.1:8080", Kind: "mirror", Bytes: int64(i+1) * 8 << 20},
			{Name: "12D3KooWliar", Kind: "mdns", Bytes: 2 << 20, Banned: true},
			{Name: "12D3KooWpeer", Kind: "mdns", Bytes: int64(i+1) * 2 << 20},
			{Name: "12D3KooWidle", Kind: "mdns"},
		}))
		p.tick(at)
	}
}

func TestProgressHasBytesRateSourcesAndTheTimeLeft(t *testing.T) {
	var p play
	p.fetch(4)
	if got, want := p.boot.now(4*s), "fetch: 40%, 40 MiB of 100 MiB, 10 MiB/s, 2 sources, 6s left"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got, want := p.boot.now(20*s), "fetch: 40%, 40 MiB of 100 MiB, 2 sources, no data for 16s"; got != want {
		t.Errorf("after a stall: %q", got)
	}
	for i := range 3 {
		at := time.Duration(60+i) * s
		p.take(at, ProgressOf(at, int64(50+10*i)<<20, 100<<20, nil))
	}
	if got, want := p.boot.now(62*s), "fetch: 70%, 70 MiB of 100 MiB, 10 MiB/s, 0 sources, 3s left"; got != want {
		t.Errorf("after the silence: %q, want %q", got, want)
	}
	p.take(63*s, ProgressOf(63*s, 100<<20, 100<<20, nil))
	if got := p.boot.now(63 * s); got != "fetch: 100%, 100 MiB of 100 MiB" {
		t.Errorf("at the end: %q", got)
	}
}

// A boot that falls back to another release fetches again. The boot process may send any numbers.
func TestAnotherFetchBeginsAtZero(t *testing.T) {
	var p play
	p.fetch(4)
	p.take(5*s, line(5*s, "fetch", report.OK, "fetch: 4 artifacts"))
	p.take(6*s, Began(6*s, "fetch"))
	if got := p.boot.now(9 * s); got != "fetch: 3s so far" {
		t.Errorf("before the first block: %q", got)
	}
	for i := range 2 {
		p.take(time.Duration(10+i)*s, ProgressOf(0, int64(1+i), maxBytes, nil))
	}
	if got := p.boot.now(11 * s); !strings.HasSuffix(got, ", 1 B/s, 0 sources, 100h0m0s left") {
		t.Errorf("a slow fetch: %q", got)
	}
}

func TestAStepWithoutAWordIsShownWithItsTime(t *testing.T) {
	var p play
	p.take(s, Began(s, "network"))
	for at, want := range map[time.Duration]string{2 * s: "", 3 * s: "network: 2s so far", 61 * s: "network: 1m0s so far"} {
		if got := p.boot.now(at); got != want {
			t.Errorf("at %s: %q, want %q", at, got, want)
		}
	}
	p.take(62*s, line(62*s, "network", report.OK, "network: eth0"))
	if got := p.boot.now(90 * s); got != "" {
		t.Errorf("after its end: %q", got)
	}
	p.take(90*s, line(90*s, "", report.Busy, "kexec: loading, 2s so far"))
	if got := p.boot.now(91 * s); got != "kexec: loading, 2s so far" {
		t.Errorf("long work: %q", got)
	}
}

// rendered returns the rows of a terminal that understands carriage returns.
func rendered(text string) (rows []string) {
	for row := range strings.SplitSeq(text, "\n") {
		var cells []rune
		for part := range strings.SplitSeq(row, "\r") {
			over := []rune(part)
			cells = append(over, cells[min(len(cells), len(over)):]...)
		}
		rows = append(rows, strings.TrimRight(string(cells), " "))
	}
	return rows
}

// A serial line gets no sequence. Its log has each line, and the progress every 30 s.
func TestASerialLineHasARecord(t *testing.T) {
	var p play
	p.take(0, line(0, "network", report.OK, "network: eth0 192.0.2.7/24"))
	p.take(0, Began(0, "resolve"))
	for at := s; at <= 64*s; at += s {
		p.tick(at)
	}
	p.take(65*s, line(65*s, "", report.Warning, "refused: a block"))
	p.tick(66 * s)
	p.take(67*s, line(67*s, "resolve", report.OK, "resolve: stable"))
	got := strings.Join(rendered(p.out.String()), "\n")
	want := `[  0.000s] network: eth0 192.0.2.7/24
[ 30.000s] resolve: 30s so far
[ 60.000s] resolve: 1m0s so far
[ 65.000s] refused: a block
[ 67.000s] resolve: stable
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if strings.Contains(p.out.String(), "\x1b") {
		t.Error("a sequence")
	}
}

func TestPlainLinesAreNotRewritten(t *testing.T) {
	p := play{view: View{Form: PlainLines, Screen: true, Width: 80, Height: 25}}
	p.out.WriteString(p.view.Enter(&p.boot, 0))
	p.take(0, Began(0, "resolve"))
	for at := s; at <= 25*s; at += s {
		p.tick(at)
	}
	p.take(26*s, line(26*s, "resolve", report.Failed, "resolve: failed: unreachable"))
	p.out.WriteString(p.view.Leave(&p.boot))
	want := "[ 10.000s] resolve: 10s so far\n[ 20.000s] resolve: 20s so far\n[ 26.000s] resolve: failed: unreachable\n"
	if got := p.out.String(); got != want {
		t.Errorf("got %q", got)
	}
}

func TestTimesOfTheFutureDoNotStopTheRecord(t *testing.T) {
	p := play{view: View{Form: PlainLines}}
	p.take(0, Began(1000*time.Hour, "resolve"))
	p.take(s, line(1000*time.Hour, "", report.Info, "from a broken clock"))
	for at := 2 * s; at <= 32*s; at += s {
		p.tick(at)
	}
	want := "[  1.000s] from a broken clock\n[ 11.000s] resolve: 11s so far\n[ 21.000s] resolve: 21s so far\n[ 31.000s] resolve: 31s so far\n"
	if got := p.out.String(); got != want {
		t.Errorf("got %q", got)
	}
}

func TestAScreenHasColours(t *testing.T) {
	v := View{Screen: true}
	for want, e := range map[string]Event{
		"[  1.000s] \x1b[1;32mnetwork\x1b[0m: eth0\n":    line(s, "network", report.OK, "network: eth0"),
		"\x1b[1;31m[  1.000s] kexec: failed: x\x1b[0m\n": line(s, "kexec", report.Failed, "kexec: failed: x"),
		"\x1b[1;33m[  1.000s] refused: x\x1b[0m\n":       line(s, "", report.Warning, "refused: x"),
		"[  1.000s] source: x\n":                         line(s, "", report.Info, "source: x"),
		"\x1b[1;31mphase-boot: boot refused: x\x1b[0m\n": Plain(report.Failed, "phase-boot: boot refused: x"),
		"goroutine 1 [running]: main()\n":                Plain(report.Info, "goroutine 1 [running]:\tmain()"),
		"":                                               line(s, "", report.Busy, "cache: writing, 2s so far"),
	} {
		if got := v.Line(e); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

var sequence = regexp.MustCompile(`\x1b(\[[0-9;?]*[A-Za-z]|[78])`)

// A vt is a small terminal with the sequences of this package, to see what a person sees.
type vt struct {
	cells                   [][]rune
	row, column, top, saved int
}

func newVT(width, height int) *vt {
	v := &vt{cells: make([][]rune, height)}
	for i := range v.cells {
		v.cells[i] = []rune(strings.Repeat(" ", width))
	}
	return v
}

func (v *vt) print(text string) {
	for text != "" {
		if at := sequence.FindStringIndex(text); at != nil && at[0] == 0 {
			v.do(text[1:at[1]])
			text = text[at[1]:]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch {
		case r == '\r':
			v.column = 0
		case r == '\n':
			v.column = 0
			v.down()
		default:
			if v.column == len(v.cells[0]) {
				v.column = 0
				v.down()
			}
			v.cells[v.row][v.column] = r
			v.column++
		}
	}
}

func (v *vt) down() {
	if v.row < len(v.cells)-1 {
		v.row++
		return
	}
	copy(v.cells[v.top:], v.cells[v.top+1:])
	v.cells[v.row] = []rune(strings.Repeat(" ", len(v.cells[0])))
}

func (v *vt) do(code string) {
	var a, b int
	n, _ := fmt.Sscanf(code, "[%d;%d", &a, &b)
	switch code[len(code)-1] {
	case 'H':
		v.row, v.column = max(a-1, 0), max(b-1, 0)
	case 'r':
		v.row, v.column, v.top = 0, 0, 0
		if n == 2 {
			v.top = a - 1
		}
	case 'J', 'K':
		for i := v.row; i < len(v.cells); i++ {
			from := 0
			if code == "[K" {
				from = v.column
			}
			copy(v.cells[i][from:], []rune(strings.Repeat(" ", len(v.cells[i])-from)))
			if code == "[K" {
				break
			}
		}
	case '7':
		v.saved = v.row
	case '8':
		v.row, v.column = v.saved, 0
	}
}

func (v *vt) String() string {
	var rows []string
	for _, row := range v.cells {
		rows = append(rows, strings.TrimRight(string(row), " "))
	}
	return strings.TrimRight(strings.Join(rows, "\n"), "\n")
}

// The view has the steps, the bar and the sources. Messages and the kernel's lines scroll below it, and
// at its end all lines are there.
func TestTheFullScreenView(t *testing.T) {
	p := play{view: View{Form: Full, Screen: true, Width: 80, Height: 25}}
	screen := newVT(80, 25)
	show := func(text string) {
		screen.print(text)
		p.out.Reset()
	}
	p.take(0, Began(0, "network"))
	p.take(s, line(s, "network", report.OK, "network: eth0 192.0.2.7/24"))
	show(p.out.String() + p.view.Enter(&p.boot, s))
	p.take(s, Began(s, "cache"))
	p.take(2*s, line(2*s, "cache", report.Warning, "cache: failed: no such disk"))
	p.fetch(4)
	for i := range 12 {
		p.take(5*s, line(5*s, "", report.Info, "message "+strings.Repeat("x", i)))
	}
	p.out.WriteString("[    5.000000] usb 1-1: a line of the kernel\n")
	p.tick(6 * s)
	show(p.out.String())
	want := ` Phase Boot                                                                6 s

 [  0.000s] [  ok  ] network         eth0 192.0.2.7/24
 [  1.000s] [ skip ] cache           failed: no such disk
 [  0.000s] [  ..  ] fetch           6s





 [########............] 40%, 40 MiB of 100 MiB, 6.0 MiB/s, 2 sources, 10s left
   http://192.0.2.1:8080               mirror         32 MiB  4.8 MiB/s
   12D3KooWliar                        mdns          2.0 MiB  banned
   12D3KooWpeer                        mdns          8.0 MiB  1.2 MiB/s
 -----------------------------------------------------------------------------
[  5.000s] message xxxx
[  5.000s] message xxxxx
[  5.000s] message xxxxxx
[  5.000s] message xxxxxxx
[  5.000s] message xxxxxxxx
[  5.000s] message xxxxxxxxx
[  5.000s] message xxxxxxxxxx
[  5.000s] message xxxxxxxxxxx
[    5.000000] usb 1-1: a line of the kernel`
	if got := screen.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	p.take(7*s, line(7*s, "fetch", report.Failed, "fetch: failed"))
	p.out.WriteString(p.view.Leave(&p.boot))
	p.take(7*s, Plain(report.Failed, "phase-boot: boot refused: fetch"))
	show(p.out.String())
	rows := strings.Split(screen.String(), "\n")
	if rows[0] != "[  1.000s] network: eth0 192.0.2.7/24" || rows[1] != "[  2.000s] cache: failed: no such disk" || rows[len(rows)-1] != "phase-boot: boot refused: fetch" {
		t.Errorf("after the view:\n%s", screen)
	}
}

// A screen whose driver is loaded during the boot changes its size.
func TestTheViewFollowsTheSizeOfTheScreen(t *testing.T) {
	p := play{view: View{Form: Full, Screen: true, Width: 80, Height: 25}}
	p.view.Enter(&p.boot, 0)
	if text := p.view.Resize(80, 25, &p.boot, s); text != "" {
		t.Errorf("the same size: %q", text)
	}
	screen := newVT(160, 50)
	screen.print(p.view.Resize(160, 50, &p.boot, s))
	if rows := strings.Split(screen.String(), "\n"); len(rows) != maxTop || !strings.HasSuffix(rows[0], " 1 s") || len(rows[0]) != 158 {
		t.Errorf("larger:\n%s", screen)
	}
	p.view.Resize(40, 12, &p.boot, s)
	if p.take(2*s, line(2*s, "", report.Info, "here")); p.out.String() != "[  2.000s] here\n" {
		t.Errorf("too small: %q", p.out.String())
	}
}

// Whatever the boot process sends, a terminal gets only sequences of this package.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x1b[2J\x1b]0;title\a\n"), uint8(0))
	f.Add(line(s, "network", report.OK, "network: eth0").Encode(), uint8(1))
	f.Add(append(Began(0, "fetch").Encode(), ProgressOf(s, 5, 3, []report.SourceStats{{Name: "\x1b[31m", Kind: "x"}}).Encode()...), uint8(2))
	f.Add([]byte("\x1e{\"at\":-5,\"begin\":\"\\u001b[2J\",\"level\":77,\"text\":\"\\u202e\"}\n\x1e{\"progress\":{\"total\":-1}}\n"), uint8(3))
	f.Fuzz(func(t *testing.T, output []byte, form uint8) {
		p := play{view: View{Form: Form(form % 3), Screen: form&4 == 0, Width: 100, Height: 30}}
		p.out.WriteString(p.view.Enter(&p.boot, 0))
		r := Reader{Take: func(e Event) { p.take(s, e) }}
		if n, err := r.Write(output); n != len(output) || err != nil {
			t.Fatal(n, err)
		}
		r.Close()
		p.tick(5 * s)
		p.tick(50 * s)
		p.out.WriteString(p.view.Leave(&p.boot))
		text := p.out.String()
		if p.view.Screen {
			text = sequence.ReplaceAllString(text, "")
		}
		for _, c := range text {
			if c < ' ' && c != '\r' && c != '\n' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == 0x202e {
				t.Fatalf("%q in %q", c, text)
			}
		}
	})
}

// A record is never longer than a pipe takes as a whole, and comes back as it was.
func TestRecordsAreBounded(t *testing.T) {
	var many []report.SourceStats
	for range 50 {
		many = append(many, report.SourceStats{Name: strings.Repeat("<", 200), Kind: strings.Repeat("&", 200), Bytes: 7})
	}
	for name, e := range map[string]Event{
		"a line":       line(s, "network", report.OK, "network: eth0"),
		"a long line":  line(s, "network", report.OK, strings.Repeat("<>&\x01", 1000)),
		"a step":       Began(s, strings.Repeat("<", 5000)),
		"many sources": ProgressOf(s, 1, 2, many),
	} {
		t.Run(name, func(t *testing.T) {
			record := e.Encode()
			if len(record) > maxRecord || bytes.Count(record, []byte{'\n'}) != 1 {
				t.Errorf("%d bytes", len(record))
			}
			var got []Event
			r := Reader{Take: func(e Event) { got = append(got, e) }}
			for _, b := range record { // in the smallest parts
				_, _ = r.Write([]byte{b})
			}
			if len(got) != 1 || got[0].plain || got[0].At != 1000 {
				t.Fatalf("got %+v", got)
			}
			if p := got[0].Progress; name == "many sources" && (p == nil || p.Total != 2 || len(p.Sources) == 0) {
				t.Errorf("got %+v", got[0])
			}
		})
	}
}

func TestTheBootIsBounded(t *testing.T) {
	var b Boot
	for i := range 10_000 {
		at := time.Duration(i) * time.Millisecond
		b.Take(Began(at, "step"), at)
		b.Take(line(at, "", report.Info, "line"), at)
		b.Take(ProgressOf(at, int64(i), 1<<30, nil), at)
	}
	if len(b.steps) > maxSteps || len(b.history) > maxHistory || len(b.samples) > int(rateOver/sampleEvery)+3 {
		t.Errorf("%d steps, %d lines, %d samples", len(b.steps), len(b.history), len(b.samples))
	}
}
