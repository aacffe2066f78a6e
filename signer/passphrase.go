package signer

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/phaseboot/phaseboot/cas"
)

// PassphraseEnv names the environment variable that may hold the passphrase.
const PassphraseEnv = "PHASE_KEY_PASSPHRASE"

// An Ask says what a passphrase is wanted for.
type Ask int

// Unlock opens a key, Retry does after a wrong passphrase, Create is for a key that is being
// made: a person types it twice.
const (
	Unlock Ask = iota
	Retry
	Create
)

// tries is how often a person may type the passphrase of a key.
const tries = 3

// errSame is the answer to Retry where nobody can be asked: it would be the same again.
var errSame = errors.New("the passphrase is the same as before")

// A PassFunc returns the passphrase of the named key.
type PassFunc func(ctx context.Context, name string, ask Ask) ([]byte, error)

// Passphrases returns the passphrase in the first line of file when one is named, else
// the one in PHASE_KEY_PASSPHRASE, else asks on the controlling terminal, once for
// every key, and up to three times for one where it is wrong. Without a terminal the error wraps ErrNoPassphrase.
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
	if err != nil && !errors.Is(err, cas.ErrCorrupt) { // which is empty
		return nil, fmt.Errorf("passphrase file %s: %w", path, err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("%w: passphrase file %s: its first line is empty; write the passphrase there", ErrNoPassphrase, path)
	}
	return line, nil
}

// askPass calls pass and refuses an empty answer, which the encryption below it
// would take for "do not encrypt".
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

// readHidden reads one line without echo, and leaves the terminal as it was even
// when the context ends first.
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
		return nil, fmt.Errorf("passphrase: %w", firstErr(ctx.Err(), term.Restore(fd, before)))
	}
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
