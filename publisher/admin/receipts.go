package admin

import (
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	maxReceipts    = 500      // that are shown, the newest files
	maxReceiptDir  = 20_000   // names in the folder
	maxReceiptSize = 1 << 20  // bytes of a file
	maxReceiptsAll = 64 << 20 // bytes of those that are shown
)

// A receiptFile is a file in the folder of receipts.
type receiptFile struct {
	Name  string
	Fault string // why it is no receipt, "" for one whose signature is valid
	Receipt

	changed time.Time
	size    int64
}

// A receiptCache keeps what was read, so that a file is verified once.
type receiptCache struct {
	mu    sync.Mutex
	files map[string]receiptFile
}

// list reads the newest files of a folder. more says that there are others.
func (c *receiptCache) list(dir string, read func([]byte) (Receipt, error)) (all []receiptFile, more bool, err error) {
	entries, err := file.ReadDir(dir, maxReceiptDir)
	if err != nil && !errors.Is(err, file.ErrTooLarge) {
		return nil, false, err
	}
	more = err != nil
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		all = append(all, receiptFile{Name: e.Name(), changed: info.ModTime(), size: info.Size()})
	}
	slices.SortFunc(all, func(a, b receiptFile) int {
		if c := b.changed.Compare(a.changed); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	if len(all) > maxReceipts {
		all, more = all[:maxReceipts], true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := make(map[string]receiptFile, len(all))
	room := int64(maxReceiptsAll)
	for i, f := range all {
		if known, ok := c.files[f.Name]; ok && known.changed.Equal(f.changed) && known.size == f.size {
			all[i] = known
		} else if room -= f.size; room < 0 {
			all[i].Fault = "not read: the files are too large together"
			continue
		} else {
			all[i].read(filepath.Join(dir, f.Name), read)
		}
		kept[f.Name] = all[i]
	}
	c.files = kept
	return all, more, nil
}

func (f *receiptFile) read(path string, read func([]byte) (Receipt, error)) {
	data, err := file.Read(path, file.NoFollow, maxReceiptSize)
	if err == nil {
		f.Receipt, err = read(data)
	}
	if err != nil {
		f.Fault = file.Pathless(err).Error()
		if errors.Is(err, fs.ErrPermission) {
			f.Fault = "not readable for the user of the publisher"
		}
	}
}

type receiptRow struct {
	receiptFile
	Known    bool // the machine has reported
	Accepted bool
	Hostname string
}

type receipts struct {
	Dir  string
	List []receiptRow
	More bool
}

func (p *Page) receiptsView(r *http.Request) (content, error) {
	out := receipts{Dir: p.Receipts}
	if p.Receipts != "" && p.ReadReceipt != nil {
		files, more, err := p.receipts.list(p.Receipts, p.ReadReceipt)
		if err != nil {
			return content{}, err
		}
		out.More = more
		for _, f := range files {
			row := receiptRow{receiptFile: f}
			if p.Reports != nil && f.Fault == "" {
				if m, _, err := p.Reports.Get(r.Context(), f.Machine); err == nil {
					row.Known, row.Accepted, row.Hostname = true, m.Accepted, m.Hostname
				}
			}
			out.List = append(out.List, row)
		}
	}
	return content{name: "receipts", title: "Receipts", live: true, data: out}, nil
}
