package bitswap

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/phaseboot/phaseboot/cas"
)

// Protocol is the ID of the streams.
const Protocol = "/ipfs/bitswap/1.2.0"

// MaxMessage is the maximum size of a message in bytes, the same as in boxo.
const MaxMessage = 4 << 20

// maxCID bounds the bytes of a CID; longer ones are skipped.
const maxCID = 64

// Field numbers of the protocol's messages.
const (
	fieldWantlist, fieldPayload, fieldPresence = 1, 3, 4

	fieldEntries                                                         = 1
	fieldBlock, fieldPriority, fieldCancel, fieldType, fieldSendDontHave = 1, 2, 3, 4, 5

	fieldPrefix, fieldData     = 1, 2
	fieldCID, fieldPresentType = 1, 2

	typeHave = 1 // type of a want: answer with a presence, not with the block
	dontHave = 1 // type of a presence
)

// A want is one entry of a wantlist.
type want struct {
	name     cid.Cid // Undef if cas.CheckCID refuses it
	cancel   bool
	have     bool // answer only whether the block is there
	dontHave bool // answer also if the block is not there
}

// handlers are called as the parts of a message are read. Parts with a nil function are skipped.
type handlers struct {
	want     func(want)
	block    func(prefix, data []byte) error
	dontHave func(cid.Cid)
}

var errMalformed = errors.New("not a Bitswap message")

// readMessage reads one message. The error is io.EOF at the end of the stream, and wraps
// errMalformed for a message that breaks the rules of the protocol.
func readMessage(r *bufio.Reader, h handlers) error {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return err
	}
	if size > MaxMessage {
		return fmt.Errorf("%w: %d bytes, the limit is %d", errMalformed, size, MaxMessage)
	}
	m := &field{r, int(size)}
	return m.fields(map[protowire.Number]func(*field) error{
		fieldWantlist: h.wantlist,
		fieldPayload:  h.payload,
		fieldPresence: h.presence,
	}, nil)
}

func (h handlers) wantlist(m *field) error {
	if h.want == nil {
		return m.skip()
	}
	return m.fields(map[protowire.Number]func(*field) error{fieldEntries: h.entry}, nil)
}

func (h handlers) entry(m *field) error {
	var w want
	err := m.fields(
		map[protowire.Number]func(*field) error{fieldBlock: func(m *field) (err error) {
			w.name, err = m.cid()
			return err
		}},
		map[protowire.Number]func(uint64){
			fieldCancel:       func(v uint64) { w.cancel = v != 0 },
			fieldType:         func(v uint64) { w.have = v == typeHave },
			fieldSendDontHave: func(v uint64) { w.dontHave = v != 0 },
		})
	if err == nil && w.name.Defined() {
		h.want(w)
	}
	return err
}

func (h handlers) payload(m *field) error {
	if h.block == nil {
		return m.skip()
	}
	var prefix, data []byte
	err := m.fields(map[protowire.Number]func(*field) error{
		fieldPrefix: func(m *field) (err error) { prefix, err = m.bytes(maxCID); return err },
		fieldData:   func(m *field) (err error) { data, err = m.bytes(cas.MaxBlock); return err },
	}, nil)
	if err != nil {
		return err
	}
	return h.block(prefix, data)
}

func (h handlers) presence(m *field) error {
	if h.dontHave == nil {
		return m.skip()
	}
	var name cid.Cid
	var kind uint64
	err := m.fields(
		map[protowire.Number]func(*field) error{fieldCID: func(m *field) (err error) { name, err = m.cid(); return err }},
		map[protowire.Number]func(uint64){fieldPresentType: func(v uint64) { kind = v }})
	if err == nil && kind == dontHave && name.Defined() {
		h.dontHave(name)
	}
	return err
}

// A field is the unread rest of a length-delimited field.
type field struct {
	r    *bufio.Reader
	left int
}

// fields reads the fields inside a message or a field, and calls the function for each field number. Fields without
// a function are skipped.
func (m *field) fields(nested map[protowire.Number]func(*field) error, numbers map[protowire.Number]func(uint64)) error {
	for m.left > 0 {
		tag, err := m.uvarint()
		if err != nil {
			return err
		}
		num, kind := protowire.DecodeTag(tag)
		switch kind {
		case protowire.VarintType:
			v, err := m.uvarint()
			if err != nil {
				return err
			}
			if f := numbers[num]; f != nil {
				f(v)
			}
		case protowire.BytesType:
			if err := m.nested(nested[num]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: wire type %d", errMalformed, kind)
		}
	}
	return nil
}

func (m *field) nested(read func(*field) error) error {
	size, err := m.uvarint()
	if err != nil {
		return err
	}
	if size > uint64(m.left) {
		return fmt.Errorf("%w: a field of %d bytes in a part of %d", errMalformed, size, m.left)
	}
	m.left -= int(size)
	sub := &field{m.r, int(size)}
	if read == nil {
		return sub.skip()
	}
	return read(sub)
}

func (m *field) uvarint() (uint64, error) {
	v, err := binary.ReadUvarint(m)
	var lost streamError
	switch {
	case errors.As(err, &lost):
		err = lost.error
	case err != nil:
		err = fmt.Errorf("%w: %w", errMalformed, err)
	}
	return v, err
}

// streamError is an error of the stream. It does not make the message malformed.
type streamError struct{ error }

// ReadByte implements io.ByteReader for binary.ReadUvarint.
func (m *field) ReadByte() (byte, error) {
	if m.left == 0 {
		return 0, fmt.Errorf("%w: incomplete number", errMalformed)
	}
	m.left--
	b, err := m.r.ReadByte()
	if err != nil {
		err = streamError{unexpectedEOF(err)}
	}
	return b, err
}

// bytes reads the rest of the field. The buffer grows with the bytes received.
func (m *field) bytes(limit int) ([]byte, error) {
	if m.left > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", errMalformed, m.left, limit)
	}
	var buf bytes.Buffer
	n, err := io.CopyN(&buf, m.r, int64(m.left))
	m.left -= int(n)
	return buf.Bytes(), unexpectedEOF(err)
}

// cid reads a CID, and returns Undef for one that cas.CheckCID refuses.
func (m *field) cid() (cid.Cid, error) {
	if m.left > maxCID {
		return cid.Undef, m.skip()
	}
	data, err := m.bytes(maxCID)
	if err != nil {
		return cid.Undef, err
	}
	c, err := cid.Cast(data)
	if err != nil || cas.CheckCID(c) != nil {
		return cid.Undef, nil
	}
	return c, nil
}

func (m *field) skip() error {
	n, err := m.r.Discard(m.left)
	m.left -= n
	return unexpectedEOF(err)
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendWant appends a wantlist of one entry to a message.
func appendWant(b []byte, w want) []byte {
	e := appendBytes(nil, fieldBlock, w.name.Bytes())
	e = appendNumber(e, fieldPriority, 1)
	e = appendBool(e, fieldCancel, w.cancel)
	e = appendBool(e, fieldType, w.have)
	e = appendBool(e, fieldSendDontHave, w.dontHave)
	return appendBytes(b, fieldWantlist, appendBytes(nil, fieldEntries, e))
}

// appendBlock appends a block.
func appendBlock(b []byte, c cid.Cid, data []byte) []byte {
	prefix := c.Prefix().Bytes()
	n := protowire.SizeTag(fieldPrefix) + protowire.SizeBytes(len(prefix)) + protowire.SizeTag(fieldData) + protowire.SizeBytes(len(data))
	b = protowire.AppendTag(b, fieldPayload, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	return appendBytes(appendBytes(b, fieldPrefix, prefix), fieldData, data)
}

// appendPresence appends the presence of a block: HAVE or DONT_HAVE.
func appendPresence(b []byte, c cid.Cid, have bool) []byte {
	return appendBytes(b, fieldPresence, appendBool(appendBytes(nil, fieldCID, c.Bytes()), fieldPresentType, !have))
}

func appendBytes(b []byte, num protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), data)
}

func appendNumber(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendNumber(b, num, 1)
}
