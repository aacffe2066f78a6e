package diskformat

import (
	"encoding/binary"
	"io"
)

// QCOW2 is QEMU's format, version 3, with clusters of 64 KiB.
var QCOW2 = &Format{Name: "qcow2", block: qcowCluster, magic: []byte("QFI\xfb"), tables: qcowTables, find: qcowFind}

const (
	qcowBits    = 16
	qcowCluster = 1 << qcowBits
	qcowHeader  = 104             // bytes of a header of version 3
	qcowL2      = qcowCluster / 8 // entries of an L2 table
	qcowRefs    = qcowCluster / 2 // reference counts of 16 bits in one cluster
	qcowCopied  = 1 << 63         // the cluster has one reference
	qcowOffset  = 1<<50 - 1       // limits an offset
)

// qcowTables returns the header, the table of reference counts, the L1 table and the L2 tables. The
// table of reference counts has one cluster, which is enough for 16 TiB.
func qcowTables(d *disk) []byte {
	l1 := roundUp(d.blocks(), qcowL2) / qcowL2
	var l2 []int64 // numbers of the L1 entries that have an L2 table
	for _, n := range d.used {
		if i := n / qcowL2; len(l2) == 0 || l2[len(l2)-1] != i {
			l2 = append(l2, i)
		}
	}
	refs := int64(1)
	first := func() int64 { return 1 + 1 + refs + 1 + int64(len(l2)) } // first cluster of the data
	for refs*qcowRefs < first()+int64(len(d.used)) {
		refs++
	}
	b := make([]byte, first()*qcowCluster)
	u16, u32, u64 := binary.BigEndian.PutUint16, binary.BigEndian.PutUint32, binary.BigEndian.PutUint64
	copy(b, "QFI\xfb")
	u32(b[4:], 3)
	u32(b[20:], qcowBits)
	u64(b[24:], uint64(d.size))
	u32(b[36:], uint32(l1))
	l1At := (2 + refs) * qcowCluster
	u64(b[40:], uint64(l1At))
	u64(b[48:], qcowCluster) // table of reference counts
	u32(b[56:], 1)
	u32(b[96:], 4) // 1 << 4 bits for each reference count
	u32(b[100:], qcowHeader)
	for i := range refs {
		u64(b[qcowCluster+8*i:], uint64((2+i)*qcowCluster))
	}
	for i := range first() + int64(len(d.used)) {
		u16(b[2*qcowCluster+2*i:], 1)
	}
	l2At := l1At + qcowCluster
	for k, i := range l2 {
		u64(b[l1At+8*i:], qcowCopied|uint64(l2At+int64(k)*qcowCluster))
	}
	table := int64(-1)
	for k, n := range d.used {
		if table < 0 || l2[table] != n/qcowL2 {
			table++
		}
		u64(b[l2At+table*qcowCluster+8*(n%qcowL2):], qcowCopied|uint64((first()+int64(k))*qcowCluster))
	}
	return b
}

func qcowFind(r io.ReaderAt) (size int64, used []int64, err error) {
	head := make([]byte, qcowHeader)
	if err := readAll(r, head, 0); err != nil {
		return 0, nil, err
	}
	u64 := binary.BigEndian.Uint64
	l1 := int64(binary.BigEndian.Uint32(head[36:]))
	if l1 > MaxSize/qcowCluster/qcowL2 {
		return 0, nil, corrupt("a disk of more than %d GiB", int64(MaxSize>>30))
	}
	first, second := make([]byte, 8*l1), make([]byte, qcowCluster)
	if err := readAll(r, first, int64(u64(head[40:])&qcowOffset)); err != nil {
		return 0, nil, err
	}
	for i := range l1 {
		at := int64(u64(first[8*i:]) & qcowOffset)
		if at == 0 {
			continue
		}
		if err := readAll(r, second, at); err != nil {
			return 0, nil, err
		}
		for k := range int64(qcowL2) {
			if u64(second[8*k:]) != 0 {
				used = append(used, i*qcowL2+k)
			}
		}
	}
	return int64(u64(head[24:])), used, nil
}
