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

// MaxMessage is the greatest size of a message, in bytes; the one that boxo reads.
const MaxMessage = 4 << 20

// maxName bounds what is read as a CID; longer ones are passed over.
const maxName = 64

// Field numbers of the protocol's messages.
const (
	fieldWantlist, fieldPayload, fieldPresence = 1, 3, 4

	fieldEntries                                                    = 1
	fieldBlock, fieldPriority, fieldCancel, fieldType, fieldDontAsk = 1, 2, 3, 4, 5

	fieldPrefix, fieldData      = 1, 2
	fieldName, fieldPresentType = 1, 2

	typeHave = 1 // of a want: tell whether you have it, do not send it
	dontHave = 1 // of a presence
)

// A want is one entry of a wantlist.
type want struct {
	name     cid.Cid // Undef: not one that we read
	cancel   bool
	have     bool // only whether it is there
	dontHave bool // say so when it is not
}

// parts are called as the pieces of a message are read; a nil one passes over them.
type parts struct {
	want     func(want)
	block    func(prefix, data []byte) error
	dontHave func(cid.Cid)
}

var errMessage = errors.New("not a Bitswap message")

// readMessage reads one message. The error is io.EOF at the end of a stream, and wraps
// errMessage for what is none.
func readMessage(r *bufio.Reader, p parts) error {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return err
	}
	if size > MaxMessage {
		return fmt.Errorf("%w: %d bytes, the limit is %d", errMessage, size, MaxMessage)
	}
	m := &piece{r, int(size)}
	return m.each(map[protowire.Number]func(*piece) error{
		fieldWantlist: p.wantlist,
		fieldPayload:  p.payload,
		fieldPresence: p.presence,
	}, nil)
}

func (p parts) wantlist(m *piece) error {
	if p.want == nil {
		return m.skip()
	}
	return m.each(map[protowire.Number]func(*piece) error{fieldEntries: p.entry}, nil)
}

func (p parts) entry(m *piece) error {
	var w want
	err := m.each(
		map[protowire.Number]func(*piece) error{fieldBlock: func(m *piece) (err error) {
			w.name, err = m.name()
			return err
		}},
		map[protowire.Number]func(uint64){
			fieldCancel:  func(v uint64) { w.cancel = v != 0 },
			fieldType:    func(v uint64) { w.have = v == typeHave },
			fieldDontAsk: func(v uint64) { w.dontHave = v != 0 },
		})
	if err == nil && w.name.Defined() {
		p.want(w)
	}
	return err
}

func (p parts) payload(m *piece) error {
	if p.block == nil {
		return m.skip()
	}
	var prefix, data []byte
	err := m.each(map[protowire.Number]func(*piece) error{
		fieldPrefix: func(m *piece) (err error) { prefix, err = m.bytes(maxName); return err },
		fieldData:   func(m *piece) (err error) { data, err = m.bytes(cas.MaxBlock); return err },
	}, nil)
	if err != nil {
		return err
	}
	return p.block(prefix, data)
}

func (p parts) presence(m *piece) error {
	if p.dontHave == nil {
		return m.skip()
	}
	var name cid.Cid
	var kind uint64
	err := m.each(
		map[protowire.Number]func(*piece) error{fieldName: func(m *piece) (err error) { name, err = m.name(); return err }},
		map[protowire.Number]func(uint64){fieldPresentType: func(v uint64) { kind = v }})
	if err == nil && kind == dontHave && name.Defined() {
		p.dontHave(name)
	}
	return err
}

// A piece is what is left of a length-delimited part of a message.
type piece struct {
	r    *bufio.Reader
	left int
}

// each reads the fields of a piece. Those that nobody named are passed over.
func (m *piece) each(nested map[protowire.Number]func(*piece) error, numbers map[protowire.Number]func(uint64)) error {
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
			return fmt.Errorf("%w: wire type %d", errMessage, kind)
		}
	}
	return nil
}

func (m *piece) nested(read func(*piece) error) error {
	size, err := m.uvarint()
	if err != nil {
		return err
	}
	if size > uint64(m.left) {
		return fmt.Errorf("%w: %d bytes in the %d that are left", errMessage, size, m.left)
	}
	m.left -= int(size)
	sub := &piece{m.r, int(size)}
	if read == nil {
		return sub.skip()
	}
	return read(sub)
}

func (m *piece) uvarint() (uint64, error) {
	v, err := binary.ReadUvarint(m)
	var lost lostStream
	switch {
	case errors.As(err, &lost):
		err = lost.error
	case err != nil:
		err = fmt.Errorf("%w: %w", errMessage, err)
	}
	return v, err
}

// lostStream is an error of the stream, which is no fault of the message.
type lostStream struct{ error }

// ReadByte is for binary.ReadUvarint.
func (m *piece) ReadByte() (byte, error) {
	if m.left == 0 {
		return 0, fmt.Errorf("%w: a number that is cut off", errMessage)
	}
	m.left--
	b, err := m.r.ReadByte()
	if err != nil {
		err = lostStream{cutOff(err)}
	}
	return b, err
}

// bytes reads all of the piece. The buffer grows with what has come.
func (m *piece) bytes(limit int) ([]byte, error) {
	if m.left > limit {
		return nil, fmt.Errorf("%w: %d bytes where at most %d may be", errMessage, m.left, limit)
	}
	var buf bytes.Buffer
	n, err := io.CopyN(&buf, m.r, int64(m.left))
	m.left -= int(n)
	return buf.Bytes(), cutOff(err)
}

// name reads a CID, which stays undefined when it is not one that we read.
func (m *piece) name() (cid.Cid, error) {
	if m.left > maxName {
		return cid.Undef, m.skip()
	}
	data, err := m.bytes(maxName)
	if err != nil {
		return cid.Undef, err
	}
	c, err := cid.Cast(data)
	if err != nil || cas.CheckCID(c) != nil {
		return cid.Undef, nil
	}
	return c, nil
}

func (m *piece) skip() error {
	n, err := m.r.Discard(m.left)
	m.left -= n
	return cutOff(err)
}

func cutOff(err error) error {
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
	e = appendBool(e, fieldDontAsk, w.dontHave)
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

// appendPresence appends whether a block is there.
func appendPresence(b []byte, c cid.Cid, have bool) []byte {
	return appendBytes(b, fieldPresence, appendBool(appendBytes(nil, fieldName, c.Bytes()), fieldPresentType, !have))
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
