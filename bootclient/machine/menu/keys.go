package menu

// A Key is a printable character or one of the named keys.
type Key rune

// The named keys.
const (
	Up Key = -1 - iota
	Down
	Enter
	Back  // left arrow, Backspace, Escape or Ctrl-C: delete a character, or leave a list
	Other // any other key: it only stops the countdown
)

const escape = 0x1b

// Keys decodes the input of one terminal. A sequence may arrive in parts.
type Keys struct {
	sequence []byte // Escape and what followed it
	returned bool   // the last byte was a carriage return: a newline after it is the same key
}

// maxSequence bounds a sequence: a longer one is not a key.
const maxSequence = 16

// Decode returns the keys of the next bytes of input. A byte that no key of a terminal sends, such as
// the zero bytes of a serial line without a cable, is no key.
func (k *Keys) Decode(input []byte) []Key {
	var keys []Key
	for _, b := range input {
		if len(k.sequence) > 0 {
			if key, ended := k.continued(b); ended {
				keys = append(keys, key)
			}
			continue
		}
		again := b == '\n' && k.returned
		k.returned = b == '\r'
		if key, ok := single(b); ok && !again {
			keys = append(keys, key)
		}
		if b == escape {
			k.sequence = append(k.sequence, b)
		}
	}
	return keys
}

// Flush returns Back if the last byte was an Escape without a sequence. The caller calls it some time
// after the last input.
func (k *Keys) Flush() []Key {
	alone := len(k.sequence) == 1
	k.sequence = nil
	if alone {
		return []Key{Back}
	}
	return nil
}

// continued adds a byte to a sequence that began with Escape. ended reports whether the sequence is
// complete.
func (k *Keys) continued(b byte) (key Key, ended bool) {
	k.sequence = append(k.sequence, b)
	n := len(k.sequence)
	switch {
	case n == 2 && (b == '[' || b == 'O'):
		return 0, false
	case n == 3 && b == '[': // function keys of the Linux console: Escape [ [ A
		return 0, false
	case n > 2 && n < maxSequence && (b < '@' || b > '~'):
		return 0, false
	}
	k.sequence = nil
	if n == 3 || n == 2 {
		switch b {
		case 'A':
			return Up, true
		case 'B':
			return Down, true
		case 'D':
			return Back, true
		}
	}
	return Other, true
}

// single returns the key of one byte.
func single(b byte) (Key, bool) {
	switch {
	case b == '\r', b == '\n':
		return Enter, true
	case b == 0x7f, b == '\b', b == 0x03:
		return Back, true
	case b >= ' ' && b <= '~':
		return Key(b), true
	case b == '\t', b > 0 && b < ' ' && b != escape:
		return Other, true
	}
	return 0, false
}
