package cas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"sync"

	"github.com/ipfs/go-cid"
)

// Memory is a Store in memory, for metadata folders and tests. It has no limit of its own
// and never drops a block.
type Memory struct {
	mu     sync.RWMutex
	blocks map[cid.Cid][]byte
	bytes  int // of the blocks
	closed bool
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{blocks: make(map[cid.Cid][]byte)} }

// Block returns the bytes that were put under c, or an error that wraps fs.ErrNotExist.
func (m *Memory) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := CheckCID(c); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	data, ok := m.blocks[c]
	if !ok {
		return nil, NotFound(c)
	}
	return data, nil
}

// Has reports whether c was put.
func (m *Memory) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := m.Block(ctx, c)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Put keeps a copy of data.
func (m *Memory) Put(ctx context.Context, c cid.Cid, data []byte) error {
	if err := CheckPut(c, data); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ready(ctx); err != nil {
		return err
	}
	if _, ok := m.blocks[c]; !ok {
		m.blocks[c] = bytes.Clone(data)
		m.bytes += len(data)
	}
	return nil
}

// Bytes returns the number of bytes of all blocks.
func (m *Memory) Bytes() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.bytes
}

// All yields every block, in no order.
func (m *Memory) All() iter.Seq2[cid.Cid, []byte] {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.All(maps.Clone(m.blocks))
}

// Sync does nothing: the blocks last as long as the process.
func (m *Memory) Sync(ctx context.Context) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.ready(ctx)
}

// Close drops all blocks. Later calls return an error that wraps fs.ErrClosed.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed, m.blocks = true, nil
	return nil
}

func (m *Memory) ready(ctx context.Context) error {
	if m.closed {
		return fmt.Errorf("store: %w", fs.ErrClosed)
	}
	return ctx.Err()
}
