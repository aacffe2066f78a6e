package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A screen is the display and the keyboard of a machine. It uses QEMU's monitor (QMP).
type screen struct {
	*machine
	monitor net.Conn
	answers *bufio.Reader
	font    font
}

// monitorAt returns the arguments of QEMU for a monitor at a path.
func monitorAt(path string) []string {
	return []string{"-monitor", "none", "-qmp", "unix:" + path + ",server=on,wait=off"}
}

// connectMonitor connects to the monitor of a machine.
func (m *machine) connectMonitor(path string, f font) *screen {
	m.t.Helper()
	s := &screen{machine: m, font: f}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // until QEMU listens
		conn, err := net.Dial("unix", path)
		if err == nil {
			s.monitor = conn
			break
		}
		if time.Now().After(end) {
			m.t.Fatal(err)
		}
	}
	m.t.Cleanup(func() { s.monitor.Close() })
	s.answers = bufio.NewReader(s.monitor)
	if _, err := s.answers.ReadBytes('\n'); err != nil { // the greeting
		m.t.Fatal(err)
	}
	s.do("qmp_capabilities", nil)
	return s
}

// do runs one command of the monitor.
func (s *screen) do(command string, arguments map[string]any) {
	s.t.Helper()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(s.monitor).Encode(request); err != nil {
		s.t.Fatal(err)
	}
	for {
		line, err := s.answers.ReadBytes('\n')
		if err != nil {
			s.t.Fatal(err)
		}
		var answer struct {
			Return, Error json.RawMessage
		}
		decode(s.t, line, &answer)
		if answer.Error != nil {
			s.t.Fatalf("%s: %s", command, answer.Error)
		}
		if answer.Return != nil {
			return
		}
	}
}

// setLink plugs a cable in or pulls it. card is the ID of the network card or of its netdev.
func (s *screen) setLink(card string, up bool) {
	s.t.Helper()
	s.do("set_link", map[string]any{"name": card, "up": up})
}

// startUnplugged starts a machine that waits (-S), with the cable of a network card pulled.
func (s *screen) startUnplugged(card string) {
	s.t.Helper()
	s.setLink(card, false)
	s.do("cont", nil)
}

// codes are QEMU's key names that differ from the character.
var codes = map[rune]string{
	' ': "spc", '\n': "ret", '/': "slash", '.': "dot", '-': "minus", '=': "equal", ';': "semicolon", ',': "comma", '\x03': "c",
	'>': "dot", '$': "4", '(': "9", ')': "0", '+': "equal", '*': "8", '_': "minus", '%': "5", '"': "apostrophe", '\'': "apostrophe",
}

// typeKeys presses keys on the keyboard one after the other.
func (s *screen) typeKeys(text string) {
	s.t.Helper()
	for _, r := range text {
		code, ok := codes[r]
		if !ok {
			code = strings.ToLower(string(r))
		}
		keys := []map[string]string{{"type": "qcode", "data": code}}
		switch {
		case r == '\x03':
			keys = append([]map[string]string{{"type": "qcode", "data": "ctrl"}}, keys...)
		case strings.ContainsRune(`>$()+*_%"`, r) || r >= 'A' && r <= 'Z':
			keys = append([]map[string]string{{"type": "qcode", "data": "shift"}}, keys...)
		}
		s.do("send-key", map[string]any{"keys": keys, "hold-time": 20})
		time.Sleep(60 * time.Millisecond) // QEMU drops keys that arrive while another is held
	}
}

// screenshot returns a picture of the screen.
func (s *screen) screenshot() *image.RGBA {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "screen.ppm")
	s.do("screendump", map[string]any{"filename": file})
	picture, err := readPPM(readFile(s.t, file))
	if err != nil {
		s.t.Fatal(err)
	}
	return picture
}

// readPPM reads the pictures of QEMU's screendump.
func readPPM(data []byte) (*image.RGBA, error) {
	var width, height, most int
	if n, err := fmt.Sscanf(string(data[:min(len(data), 40)]), "P6\n%d %d\n%d\n", &width, &height, &most); n != 3 {
		return nil, fmt.Errorf("ppm: %w", err)
	}
	pixels := data[len(data)-min(3*width*height, len(data)):]
	picture := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range len(pixels) / 3 {
		picture.Set(i%width, i/width, color.RGBA{pixels[3*i], pixels[3*i+1], pixels[3*i+2], 255})
	}
	return picture, nil
}

// saveScreenshot writes a screenshot to the folder $PHASE_E2E_SHOTS if that is set.
func (s *screen) saveScreenshot(name string) {
	s.t.Helper()
	var b bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&b, paletted(s.screenshot())); err != nil {
		s.t.Fatal(err)
	}
	s.saveFile(name+".png", b.Bytes())
	s.saveLog(name)
}

// paletted returns a picture with a palette of its colours. A text console has 16; other colours are
// replaced by the nearest of the first 256.
func paletted(picture *image.RGBA) *image.Paletted {
	small := image.NewPaletted(picture.Bounds(), nil)
	seen := map[color.RGBA]bool{}
	for i := 0; i < len(picture.Pix); i += 4 {
		c := color.RGBA{picture.Pix[i], picture.Pix[i+1], picture.Pix[i+2], 255}
		if !seen[c] && len(small.Palette) < 256 {
			seen[c] = true
			small.Palette = append(small.Palette, c)
		}
	}
	draw.Draw(small, small.Rect, picture, picture.Rect.Min, draw.Src)
	return small
}

// saveLog writes the output of the serial line to that folder.
func (s *screen) saveLog(name string) {
	s.t.Helper()
	text, _ := s.console.since(0)
	s.saveFile(name+".log", text)
}

func (s *screen) saveFile(name string, data []byte) {
	s.t.Helper()
	dir := os.Getenv("PHASE_E2E_SHOTS")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// The kernel's text console has cells of 8 × 16 pixels.
const cellWidth, cellHeight = 8, 16

// A glyph is the bitmap of one character.
type glyph [cellHeight]uint8

// A font maps bitmaps to characters.
type font map[glyph]byte

func glyphAt(picture *image.RGBA, column, row int) glyph {
	var g glyph
	for y := range cellHeight {
		for x := range cellWidth {
			c := picture.RGBAAt(column*cellWidth+x, row*cellHeight+y)
			if int(c.R)+int(c.G)+int(c.B) > 3*64 {
				g[y] |= 1 << x
			}
		}
	}
	return g
}

// alphabet returns the printable ASCII characters in order, without the space.
func alphabet() string {
	var b strings.Builder
	for c := byte('!'); c <= '~'; c++ {
		b.WriteByte(c)
	}
	return b.String()
}

// learnFont makes a font from a screen that shows the alphabet from its first row.
func learnFont(picture *image.RGBA) font {
	f := font{glyph{}: ' '}
	columns := picture.Bounds().Dx() / cellWidth
	for i, c := range []byte(alphabet()) {
		f[glyphAt(picture, i%columns, i/columns)] = c
	}
	return f
}

// learn makes the font from the alphabet, which a shell on the serial line prints on the screen. The
// menu of mode local must be shown, whose entry 8 is the shell.
func (s *screen) learn() {
	s.t.Helper()
	s.typeSerial("8\r")
	s.waitFor([]string{"This is a shell", "built-in shell", "# "})
	s.typeSerial("awk 'BEGIN{for(i=33;i<127;i++)printf \"%c\",i}' | (clear; cat; echo) >/dev/tty1; echo alpha$((40+2))\n")
	s.waitFor([]string{"alpha42"})
	s.font = learnFont(s.screenshot())
}

// text reads the characters of a screenshot. Unknown bitmaps become '?'.
func (f font) text(picture *image.RGBA) string {
	var b strings.Builder
	for row := range picture.Bounds().Dy() / cellHeight {
		var line []byte
		for column := range picture.Bounds().Dx() / cellWidth {
			c, ok := f[glyphAt(picture, column, row)]
			if !ok {
				c = '?'
			}
			line = append(line, c)
		}
		b.Write(line) // no newline, because long lines continue in the next row
	}
	return b.String()
}

// waitForText waits until the screen shows the marks in this order.
func (s *screen) waitForText(marks ...string) {
	s.t.Helper()
	for end := time.Now().Add(bootDeadline); ; time.Sleep(time.Second) { // QEMU has no event for a changed screen
		text := s.font.text(s.screenshot())
		if inOrder(text, marks) {
			return
		}
		select {
		case <-s.ended:
			s.t.Fatalf("the machine ended before the screen showed %q", marks)
		default:
		}
		if time.Now().After(end) {
			s.saveScreenshot("failed")
			s.t.Fatalf("the screen does not show %q; it shows\n%s", marks, text)
		}
	}
}

// inOrder reports whether a text has the marks in this order.
func inOrder(text string, marks []string) bool {
	for _, m := range marks {
		_, after, ok := strings.Cut(text, m)
		if !ok {
			return false
		}
		text = after
	}
	return true
}

func TestAFontReadsItsCharacters(t *testing.T) {
	t.Parallel()
	picture := image.NewRGBA(image.Rect(0, 0, 40*cellWidth, 4*cellHeight))
	put := func(n, column, row int) {
		for y := range cellHeight {
			picture.Set(column*cellWidth+n%cellWidth, row*cellHeight+y, color.White)
			picture.Set(column*cellWidth+y%cellWidth, row*cellHeight+n%cellHeight, color.White)
			picture.Set(column*cellWidth+n/cellWidth%cellWidth, row*cellHeight+(n/3)%cellHeight, color.White)
			picture.Set(column*cellWidth+n/16, row*cellHeight+1, color.White)
		}
	}
	for i := range alphabet() {
		put(i, i%40, i/40)
	}
	f := learnFont(picture)
	put(int('o'-'!'), 0, 3)
	put(int('k'-'!'), 1, 3)
	if got := f.text(picture); !strings.Contains(got, "ok   ") || !strings.HasPrefix(got, "!\"#$%") {
		t.Errorf("read %q", got)
	}
}
