// Package car writes and reads the framing of a CARv1
// (https://ipld.io/specs/transport/car/carv1/): a header that names the roots, then
// sections, each of them a varint length, a CID and a block.
//
// It owns these bytes and nothing else: it does not hash a block, and it does not decide
// which CIDs are read. It refuses a length that is longer than three bytes or not in its
// shortest form, and a section that is too short for a CID.
//
// The packs of cas/pack are CARs without roots; internal/gateway sends and receives CARs of
// one root. Start at AppendHead, which writes the head of a section, and ParseHead, which
// reads it. ParseLength is for a stream, where the length has to be read first.
//
// Limits: every CID has CIDLen bytes; a section has less than 2 MiB.
package car
