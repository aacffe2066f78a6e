package key

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/phaseboot/phaseboot/cas"
)

// PassphraseEnv names the environment variable that may contain the passphrase.
const PassphraseEnv = "PHASE_KEY_PASSPHRASE"

// An Ask is the purpose of a passphrase.
type Ask int

// Unlock decrypts a key, Retry follows a wrong passphrase, and Create is for a new key: a
// terminal asks twice.
const (
	Unlock Ask = iota
	Retry
	Create
)

// maxTries is how often the terminal asks for the passphrase of one key.
const maxTries = 3

// errSame answers Retry for a passphrase from a file or the environment, which cannot change.
var errSame = errors.New("the passphrase is the same as before")

// A PassFunc returns the passphrase of the named key.
type PassFunc func(ctx context.Context, name string, ask Ask) ([]byte, error)

// Passphrases returns the first line of file when a file is named, otherwise the value of
// PHASE_KEY_PASSPHRASE, otherwise what is typed on the controlling terminal. The terminal asks
// for each key, again after a wrong passphrase. Without a terminal the error wraps
// ErrNoPassphrase.
func Passphrases(file string) PassFunc {
	return func(ctx context.Context, name string, ask Ask) ([]byte, error) {
		phrase, given := os.LookupEnv(PassphraseEnv)
		switch {
		case (file != "" || given) && ask == Retry:
			return nil, errSame
		case file != "":
			return passphraseFile(file)
		case given:
			return []byte(phrase), nil
		}
		return prompt(ctx, name, ask)
	}
}

func passphraseFile(path string) ([]byte, error) {
	data, err := readKeyFile(path)
	if err != nil && !errors.Is(err, cas.ErrCorrupt) { // an empty file is reported below
		return nil, fmt.Errorf("passphrase file %s: %w", path, err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("%w: passphrase file %s: its first line is empty; write the passphrase there", ErrNoPassphrase, path)
	}
	return line, nil
}

// askPass calls pass and refuses an empty answer: sigstore's encryption would write the key
// in plain text for it.
func askPass(ctx context.Context, pass PassFunc, name string, ask Ask) ([]byte, error) {
	if pass == nil {
		return nil, ErrNoPassphrase
	}
	phrase, err := pass(ctx, name, ask)
	if err != nil {
		return nil, err
	}
	if len(phrase) == 0 {
		return nil, fmt.Errorf("%w: it is empty; a throw-away key is made with --no-passphrase", ErrNoPassphrase)
	}
	return phrase, nil
}

// prompt asks for a passphrase on the controlling terminal.
func prompt(ctx context.Context, name string, ask Ask) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w, and no terminal to ask on; use --passphrase-file or %s", ErrNoPassphrase, PassphraseEnv)
	}
	defer tty.Close()
	question := fmt.Sprintf("Passphrase of %s: ", name)
	if ask == Retry {
		question = "Wrong passphrase. " + question
	}
	phrase, err := readHidden(ctx, tty, question)
	if err != nil || ask != Create {
		return phrase, err
	}
	again, err := readHidden(ctx, tty, "Once more: ")
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(phrase, again) != 1 {
		return nil, fmt.Errorf("%w: the two do not match; run it again", ErrPassphrase)
	}
	return phrase, nil
}

// readHidden reads one line without echo. It restores the terminal, also when ctx ends first.
func readHidden(ctx context.Context, tty *os.File, question string) ([]byte, error) {
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("%w: terminal: %w", ErrNoPassphrase, err)
	}
	fmt.Fprint(tty, question)
	type answer struct {
		line []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		fmt.Fprintln(tty)
		if a.err != nil {
			return nil, fmt.Errorf("%w: terminal: %w", ErrNoPassphrase, a.err)
		}
		return a.line, nil
	case <-ctx.Done():
		fmt.Fprintln(tty)
		return nil, fmt.Errorf("passphrase: %w", cmp.Or(ctx.Err(), term.Restore(fd, before)))
	}
}
